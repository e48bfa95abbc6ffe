package server

import (
	"bytes"
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"errors"
	"fmt"
	"html/template"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/mcp-clerk/mcp-clerk/internal/store"
	"github.com/mcp-clerk/mcp-clerk/internal/telemetry"
)

// ssePath is where the deprecated HTTP+SSE transport is served, below the
// public URL.
const ssePath = "/sse"

// How long a request to anything but the MCP endpoint may take to come in and
// to go out. The MCP endpoint has streams, and bounds its own reads and writes.
const (
	pageReadTimeout  = 15 * time.Second
	pageWriteTimeout = 30 * time.Second
)

// Handler serves everything: the MCP endpoint, the authorization server with
// its well-known documents, /healthz, /readyz, and a page at / that says what
// this is. Mount it where PublicURL points to: in a mux of one's own as
// mux.Handle("/", srv.Handler()), next to more specific patterns; or, with a
// prefix in PublicURL, at that prefix and at "/.well-known/" only, where clients
// look for the metadata (RFC 8414 section 3.1, RFC 9728 section 3.1). The prefix
// may be in front of the path or taken off. From then on clients are told of
// changed roles. At the end call Shutdown.
func (s *Server) Handler() http.Handler {
	s.startWatch()
	return s.handler
}

// SignIns serves the last sign-ins of this instance, the newest first: which
// client came how far, when, and why it stopped. It answers "why does my client
// not connect?". It is a page for people, or JSON for Accept: application/json.
// There are no secrets, accounts or addresses in it, but it is for the operator:
// InternalHandler has it at /signins, and it must not be served to everyone.
func (s *Server) SignIns() http.Handler { return s.auth.SignIns() }

func (s *Server) routes() http.Handler {
	mux := http.NewServeMux()
	s.auth.Register(mux)
	if s.opts.byClerk() {
		mux.HandleFunc(serverMetadataPath, s.clerkMetadata)
	}
	prefix := ""
	if u, err := url.Parse(s.opts.PublicURL); err == nil {
		prefix = strings.TrimRight(u.EscapedPath(), "/")
	}
	front := s.frontPage()
	endpoints := map[string]http.Handler{} // by their paths
	stream, message := s.endpoint.SSE(prefix + ssePath + "/message")
	mount := func(prefix string) {
		endpoints[prefix+s.opts.ResourcePath] = s.endpoint
		if !s.opts.NoSSE {
			endpoints[prefix+ssePath], endpoints[prefix+ssePath+"/message"] = stream, message
		}
		mux.Handle("GET "+prefix+"/{$}", front)
		if s.webhooks != nil {
			mux.HandleFunc("POST "+prefix+webhookPath, s.webhook)
		}
		mux.HandleFunc("GET "+prefix+"/healthz", s.healthz)
		mux.HandleFunc("GET "+prefix+"/readyz", s.readyz)
	}
	mount(prefix)
	if prefix != "" {
		// Some proxies take the prefix off.
		mount("")
	}
	bounded := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		secureHeaders(w.Header(), s.opts.PublicURL)
		if endpoint := endpoints[r.URL.Path]; endpoint != nil {
			endpoint.ServeHTTP(w, r)
			return
		}
		pageHeaders(w.Header())
		rc := http.NewResponseController(w)
		// Best effort: not every connection has deadlines.
		_ = rc.SetReadDeadline(time.Now().Add(pageReadTimeout))
		// It stays until the last byte is out, when net/http takes it back.
		_ = rc.SetWriteDeadline(time.Now().Add(pageWriteTimeout))
		r.Body = http.MaxBytesReader(w, r.Body, 1<<20)
		mux.ServeHTTP(w, r)
	})
	return telemetry.Access(bounded, s.log)
}

// secureHeaders sets what holds for every response; a handler may say it
// differently for its own.
func secureHeaders(h http.Header, publicURL string) {
	h["X-Content-Type-Options"] = valueNosniff
	if strings.HasPrefix(publicURL, "https://") {
		h["Strict-Transport-Security"] = valueOneYear
	}
}

// pageHeaders sets what means something to a browser that shows a page; no
// browser shows the answers of the MCP endpoint.
func pageHeaders(h http.Header) {
	h["Referrer-Policy"] = valueNoReferrer
	h["X-Frame-Options"] = valueDeny
	h["Cross-Origin-Opener-Policy"] = valueSameOrigin
}

// Values of response headers, shared by all responses and never changed.
var (
	valueNosniff    = []string{"nosniff"}
	valueNoReferrer = []string{"no-referrer"}
	valueDeny       = []string{"DENY"}
	valueSameOrigin = []string{"same-origin"}
	valueOneYear    = []string{"max-age=31536000"}
)

// healthz says that the process lives.
func (s *Server) healthz(w http.ResponseWriter, _ *http.Request) { plain(w, http.StatusOK, "ok") }

// readyz says whether requests should be sent here: the store answers and no
// shutdown has begun. Clerk is not asked: without it most of the work goes on.
func (s *Server) readyz(w http.ResponseWriter, r *http.Request) {
	switch {
	case s.draining.Load():
		plain(w, http.StatusServiceUnavailable, "shutting down")
	case s.readable.check(r.Context(), s.store) != nil:
		plain(w, http.StatusServiceUnavailable, "the store cannot be read")
	default:
		plain(w, http.StatusOK, "ready")
	}
}

func plain(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	fmt.Fprintln(w, text)
}

// readiness remembers for a second whether the store could be read, so that
// probes cannot load it.
type readiness struct {
	mu    sync.Mutex
	asked time.Time
	err   error
}

func (r *readiness) check(ctx context.Context, st store.Store) error {
	r.mu.Lock()
	asked, err := r.asked, r.err
	r.mu.Unlock()
	if time.Since(asked) < time.Second {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	_, err = st.Get(ctx, "client/readiness-probe")
	if errors.Is(err, store.ErrNotFound) {
		err = nil
	}
	r.mu.Lock()
	r.asked, r.err = time.Now(), err
	r.mu.Unlock()
	return err
}

var (
	//go:embed front.html
	frontHTML string
	//go:embed front.css
	frontCSS string
)

// frontPage is for a person who opens the server's URL in a browser. It is the
// same for everyone, so it is made once.
func (s *Server) frontPage() http.Handler {
	var page bytes.Buffer
	apps := ""
	if !s.opts.byClerk() { // else Clerk keeps the grants
		apps = s.opts.PublicURL + "/account"
	}
	front := template.Must(template.New("front").Parse(frontHTML))
	if err := front.Execute(&page, map[string]any{
		"Title": s.opts.Title, "Name": shellName(s.opts.Name), "URL": s.URL(), "Apps": apps, "About": s.opts.WebsiteURL,
		"CSS": template.CSS(frontCSS), //nolint:gosec // this package's own file
	}); err != nil {
		panic(fmt.Sprintf("server: front page: %v", err)) // strings only
	}
	sum := sha256.Sum256([]byte(frontCSS))
	csp := "default-src 'none'; style-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Type", "text/html; charset=utf-8")
		h.Set("Content-Security-Policy", csp)
		h.Set("Cache-Control", "public, max-age=300")
		w.Write(page.Bytes())
	})
}

// shellName is a name that can be typed as one word in a command.
func shellName(name string) string {
	name = strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9', r == '-', r == '_':
			return r
		case r >= 'A' && r <= 'Z':
			return r + 'a' - 'A'
		case r == ' ', r == '.':
			return '-'
		}
		return -1
	}, name)
	if name = strings.Trim(name, "-_"); name == "" {
		return "mcp"
	}
	return name
}
