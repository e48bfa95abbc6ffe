package oauthclient

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"
)

// callbackPath is the path of the redirect URI.
const callbackPath = "/oauth/callback"

// callback is the loopback end of a sign-in (RFC 8252 section 7.3). It takes
// one answer with the right state and shows a page to whatever else comes:
// other tabs, prefetches, favicons and strangers on this machine can neither
// use it up nor end it.
type callback struct {
	listener net.Listener
	server   *http.Server
	expect   expectation

	claim   sync.Once
	answers chan callbackAnswer // one
	verdict chan struct{}       // closed by finish
	page    page                // readable once verdict is closed
	serving sync.WaitGroup
}

// expectation is what the answer is compared with.
type expectation struct {
	state        string
	issuer       string
	issSupported bool // authorization_response_iss_parameter_supported
}

// callbackAnswer is what the authorization server said through the browser.
type callbackAnswer struct {
	code string
	err  error
}

// listenCallback binds the redirect's port on 127.0.0.1; 0 is any. It accepts
// connections from now on and answers them from serve on, so that no redirect
// can come too early.
func listenCallback(port int) (*callback, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(context.Background(), "tcp4", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	if err != nil {
		return nil, fmt.Errorf("listen for the sign-in's answer: %w", err)
	}
	return &callback{listener: l, answers: make(chan callbackAnswer, 1), verdict: make(chan struct{})}, nil
}

func (cb *callback) port() int { return cb.listener.Addr().(*net.TCPAddr).Port }

func (cb *callback) redirectURI() string {
	return "http://127.0.0.1:" + strconv.Itoa(cb.port()) + callbackPath
}

func (cb *callback) serve(expect expectation) {
	cb.expect = expect
	cb.server = &http.Server{
		Handler:           http.HandlerFunc(cb.handle),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		IdleTimeout:       10 * time.Second,
		MaxHeaderBytes:    64 << 10,
	}
	cb.serving.Add(1)
	go func() {
		defer cb.serving.Done()
		_ = cb.server.Serve(cb.listener) // ends with finish
	}()
}

// finish stops listening and shows p to the browsers that wait for it. It does
// not wait for them: others, the goroutines of the Client, has that done.
func (cb *callback) finish(p page, others *sync.WaitGroup) {
	cb.page = p
	close(cb.verdict)
	_ = cb.listener.Close() // only here; nobody else needs to know
	if cb.server == nil {
		return
	}
	cb.serving.Wait()
	others.Go(func() {
		// Connections that a browser opened in advance carry no request, and
		// look like ones that are about to.
		ctx, cancel := context.WithTimeout(context.Background(), 1500*time.Millisecond)
		defer cancel()
		if err := cb.server.Shutdown(ctx); err != nil {
			_ = cb.server.Close()
		}
	})
}

func (cb *callback) handle(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Content-Security-Policy", contentSecurityPolicy)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Connection", "close")
	port := strconv.Itoa(cb.port())
	if r.Host != "127.0.0.1:"+port && !strings.EqualFold(r.Host, "localhost:"+port) {
		// A name that somebody made point here (DNS rebinding).
		cb.show(w, http.StatusMisdirectedRequest, page{Title: "Not here", Text: "This address belongs to a sign-in on this computer."})
		return
	}
	if r.URL.Path != callbackPath {
		cb.show(w, http.StatusNotFound, page{Title: "Nothing here", Text: "This address only takes the answer of a sign-in."})
		return
	}
	if r.Method != http.MethodGet {
		h.Set("Allow", http.MethodGet)
		cb.show(w, http.StatusMethodNotAllowed, page{Title: "Not this way", Text: "The answer of a sign-in comes by GET."})
		return
	}
	if purpose := r.Header.Get("Sec-Purpose") + r.Header.Get("Purpose"); strings.Contains(purpose, "prefetch") || strings.Contains(purpose, "preview") {
		// The browser comes again when somebody really looks.
		cb.show(w, http.StatusServiceUnavailable, page{Title: "Not yet", Text: "Open this page to finish signing in."})
		return
	}
	query, err := url.ParseQuery(r.URL.RawQuery)
	// State first, before any other parameter is looked at: whoever does not
	// know it has no say here, not even an error's.
	if err != nil || len(query["state"]) != 1 ||
		subtle.ConstantTimeCompare([]byte(query.Get("state")), []byte(cb.expect.state)) != 1 {
		cb.show(w, http.StatusBadRequest, page{Title: "This is not the sign-in that is waiting", Text: "Go back to the window in which you were signing in, or start again from the application."})
		return
	}
	answer, ok := cb.expect.read(query)
	if !ok {
		cb.show(w, http.StatusBadRequest, page{Title: "Something is missing", Text: "The authorization server sent neither a code nor an error."})
		return
	}
	cb.claim.Do(func() { cb.answers <- answer })
	// The page tells how it ended, so it waits for the exchange of the code;
	// so do the tabs that came second.
	wait := time.NewTimer(requestTimeout + 5*time.Second)
	defer wait.Stop()
	select {
	case <-cb.verdict:
		cb.show(w, max(cb.page.Status, http.StatusOK), cb.page)
	case <-wait.C:
		cb.show(w, http.StatusOK, page{OK: true, Title: "Almost done", Text: "The sign-in is being completed. You may close this window."})
	case <-r.Context().Done():
	}
}

// read takes the answer out of the parameters. ok is false for one that is no
// answer at all.
func (e *expectation) read(query url.Values) (answer callbackAnswer, ok bool) {
	for _, name := range []string{"code", "error", "iss"} {
		if len(query[name]) > 1 {
			return callbackAnswer{}, false // RFC 6749 section 3.1
		}
	}
	// The four rows of RFC 9207 section 2.4 as revision 2026-07-28 has them,
	// by simple string comparison, for errors as for codes: after a mismatch
	// nothing of the answer is used or shown.
	switch iss := query["iss"]; {
	case len(iss) == 1 && iss[0] != e.issuer:
		return callbackAnswer{err: errors.New("the answer came from another authorization server than the one that was asked (RFC 9207)")}, true
	case len(iss) == 0 && e.issSupported:
		return callbackAnswer{err: errors.New("the answer does not name its authorization server, which always does so (RFC 9207)")}, true
	}
	if code := query.Get("error"); code != "" {
		return callbackAnswer{err: &Error{Code: printable(code), Description: printable(query.Get("error_description"))}}, true
	}
	if code := query.Get("code"); code != "" {
		return callbackAnswer{code: code}, true
	}
	return callbackAnswer{}, false
}
