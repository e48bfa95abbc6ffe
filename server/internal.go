package server

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"errors"
	"hash"
	"net/http"
	"net/http/pprof"
	"net/url"
	"strings"
	"time"

	"github.com/mcp-clerk/mcp-clerk/internal/store"
	"github.com/mcp-clerk/mcp-clerk/internal/telemetry"
)

const (
	// internalStall is how long a reader of a backup may take nothing: the
	// store keeps every page of the moment it copies until the copy ends.
	internalStall = 30 * time.Second
	// profileLimit is the longest profile or trace that can be asked for.
	profileLimit = 5 * time.Minute
)

// InternalHandler serves what is for the operator of the server and for nobody
// else:
//
//	POST /backup        the embedded store as it was at one moment. The trailer
//	                    Content-Digest (RFC 9530) comes after a whole copy only
//	POST /compact       rewrites the embedded store without unused space; answers
//	                    {"before":BYTES,"after":BYTES}
//	GET  /debug/pprof/  profiles, as net/http/pprof describes them
//	GET  /signins       the last sign-ins; see SignIns
//
// It belongs on a loopback listener of its own, never on that of Handler. It
// refuses requests under any other name than a loopback one, and those that a
// web page makes; /signins is the one address that a browser may open.
//
// Every user of the machine can reach a loopback port. What copies or changes
// the store therefore asks for key as a bearer token (RFC 6750 section 2.1);
// with an empty key it is refused to everyone.
//
// A refusal is a text: 401 without the key, 403 for a browser, 409 while
// another backup or compaction is under way, 421 under another name, 501 where
// the store is not the embedded one.
func (s *Server) InternalHandler(key Secret) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("POST /backup", withKey(key, s.embedded(s.backup)))
	mux.Handle("POST /compact", withKey(key, s.embedded(s.compact)))
	// Not /debug/pprof/cmdline: a store's URL in a flag may hold a password.
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	mux.Handle("/signins", s.SignIns())
	return telemetry.Access(notForPages(mux), s.log)
}

// notForPages refuses what a web page could bring a browser to send: requests
// under a name that was made to resolve to this machine (DNS rebinding), and
// those that say where they come from. What passes is bounded.
func notForPages(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		secureHeaders(w.Header(), "")
		switch {
		case !isLoopback((&url.URL{Host: r.Host}).Hostname()):
			plain(w, http.StatusMisdirectedRequest, "the internal listener answers under loopback names only")
			return
		case r.Header["Origin"] != nil || r.Header["Sec-Fetch-Site"] != nil && !opened(r):
			plain(w, http.StatusForbidden, "the internal listener does not answer browsers")
			return
		}
		w.Header().Set("Cache-Control", "no-store")
		// Nothing here has a body.
		r.Body = http.MaxBytesReader(w, r.Body, 0)
		if strings.HasPrefix(r.URL.Path, "/debug/pprof/") {
			ctx, cancel := context.WithTimeout(r.Context(), profileLimit)
			defer cancel()
			r = r.WithContext(ctx)
		}
		next.ServeHTTP(w, r)
	})
}

// opened reports whether a person has opened the page of the sign-ins in a
// browser, by its address or from a bookmark: no other page has a part in it
// (W3C Fetch Metadata, section 2.4).
func opened(r *http.Request) bool {
	return r.URL.Path == "/signins" && r.Header.Get("Sec-Fetch-Site") == "none" && r.Header.Get("Sec-Fetch-Mode") == "navigate"
}

// withKey lets those through who present key.
func withKey(key Secret, next http.Handler) http.Handler {
	want := sha256.Sum256([]byte(key.Reveal()))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		got := sha256.Sum256([]byte(token))
		if key == "" || !ok || subtle.ConstantTimeCompare(got[:], want[:]) != 1 {
			w.Header().Set("WWW-Authenticate", "Bearer")
			plain(w, http.StatusUnauthorized, "the key of the internal listener is missing or wrong")
			return
		}
		next.ServeHTTP(w, r)
	})
}

// embedded hands the embedded store to serve, where there is one.
func (s *Server) embedded(serve func(http.ResponseWriter, *http.Request, *store.Bolt)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		bolt, ok := s.store.(*store.Bolt)
		if !ok {
			plain(w, http.StatusNotImplemented, "the store of this server is not the embedded one")
			return
		}
		serve(w, r, bolt)
	})
}

func (s *Server) backup(w http.ResponseWriter, r *http.Request, bolt *store.Bolt) {
	started := time.Now()
	out := &backupWriter{w: w, rc: http.NewResponseController(w), sum: sha256.New()}
	defer func() { _ = out.rc.SetWriteDeadline(time.Time{}) }() // net/http leaves it on the connection
	size, err := bolt.Backup(r.Context(), out)
	switch {
	case err == nil:
		w.Header().Set("Content-Digest", "sha-256=:"+base64.StdEncoding.EncodeToString(out.sum.Sum(nil))+":")
		s.log.InfoContext(r.Context(), "the store was backed up", "bytes", size, "took", time.Since(started))
	case !out.begun:
		s.refuseStoreWork(w, r, "backup", err)
	default:
		s.log.WarnContext(r.Context(), "a backup broke off", "error", err)
		panic(http.ErrAbortHandler) // the connection must not end as if all were there
	}
}

// backupWriter begins the response with the first bytes, so that what fails
// before them is still refused with a status.
type backupWriter struct {
	w     http.ResponseWriter
	rc    *http.ResponseController
	sum   hash.Hash
	begun bool
}

func (b *backupWriter) Write(p []byte) (int, error) {
	if !b.begun {
		b.begun = true
		b.w.Header().Set("Content-Type", "application/octet-stream")
		b.w.Header().Set("Trailer", "Content-Digest")
	}
	_ = b.rc.SetWriteDeadline(time.Now().Add(internalStall)) // best effort: not every connection has deadlines
	_, _ = b.sum.Write(p)                                    // never fails
	return b.w.Write(p)
}

func (s *Server) compact(w http.ResponseWriter, r *http.Request, bolt *store.Bolt) {
	started := time.Now()
	before, after, err := bolt.Compact(r.Context())
	if err != nil {
		s.refuseStoreWork(w, r, "compaction", err)
		return
	}
	s.log.InfoContext(r.Context(), "the store was compacted", "before", before, "after", after, "took", time.Since(started))
	w.Header().Set("Content-Type", "application/json")
	answer, err := json.Marshal(map[string]int64{"before": before, "after": after})
	if err != nil {
		panic(err) // two numbers
	}
	w.Write(answer)
}

func (s *Server) refuseStoreWork(w http.ResponseWriter, r *http.Request, what string, err error) {
	if errors.Is(err, store.ErrBusy) {
		plain(w, http.StatusConflict, err.Error())
		return
	}
	s.log.WarnContext(r.Context(), "a "+what+" failed", "error", err)
	plain(w, http.StatusInternalServerError, err.Error())
}
