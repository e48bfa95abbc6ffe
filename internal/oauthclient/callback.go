package oauthclient

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// callbackPath is the path of the redirect URI where no other is asked for.
const callbackPath = "/oauth/callback"

// documentPorts are the ports of the redirect URIs in the client metadata
// document of this program, docs/client-metadata.json: a document cannot name
// any port, and not every authorization server lets it vary (RFC 8252 section
// 7.3). They lie below what systems give to outgoing connections.
var documentPorts = []int{18418, 18419, 18420, 18421, 18422, 18423, 18424, 18425}

// Callback says where the browser brings the answer of a sign-in. The zero
// value is a free port of this machine, reached from this machine only.
type Callback struct {
	Port int    // to listen on; 0 is any. It gives way when it is taken, unless the client is registered for it
	Host string // in the redirect URI; default "127.0.0.1"
	Path string // in the redirect URI; default "/oauth/callback"
	// Bind is the address to listen on; default the loopback one that Host means.
	Bind string
	// URL is the redirect URI where the browser does not reach this machine as
	// itself (a container, a forwarded port). Port, else its own, is listened on.
	URL string
	// SuccessURL is where the browser goes after a sign-in that worked, in place
	// of our page. Nothing is added to it.
	SuccessURL string
}

func (o *Callback) check() error {
	if o.Port < 0 || o.Port > 65535 {
		return fmt.Errorf("callback port %d is not one", o.Port)
	}
	if o.Path != "" && (o.Path[0] != '/' || strings.ContainsAny(o.Path, "?#%\\ ")) {
		return fmt.Errorf("callback path %q: want one such as %q", o.Path, callbackPath)
	}
	if o.Host != "" && checkHost(&url.URL{Host: o.redirectHost()}) != nil {
		return fmt.Errorf("callback host %q is not one", o.Host)
	}
	if o.Bind != "" {
		if _, err := netip.ParseAddr(o.Bind); err != nil {
			return fmt.Errorf("callback address %q: want an IP address", o.Bind)
		}
	}
	if o.URL != "" {
		u, err := url.Parse(o.URL)
		if err != nil || u.Hostname() == "" || u.Scheme != "http" && u.Scheme != "https" || u.User != nil || u.RawQuery != "" || strings.Contains(o.URL, "#") {
			return fmt.Errorf("callback URL %q: want one such as %q", printable(o.URL), "http://localhost:3334"+callbackPath)
		}
		if o.listenPort(0) == 0 {
			return fmt.Errorf("callback URL %q names no port: the port to listen on is needed", printable(o.URL))
		}
	}
	if o.SuccessURL != "" {
		u, err := url.Parse(o.SuccessURL)
		if err != nil || u.RawQuery != "" || u.ForceQuery {
			return fmt.Errorf("success URL %q has a query in it or is none", printable(o.SuccessURL))
		}
		if _, err := BrowserURL(o.SuccessURL); err != nil {
			return fmt.Errorf("success URL: %w", err)
		}
	}
	return nil
}

// OffLoopback reports whether an answer may come from, or go through, another
// machine.
func (o *Callback) OffLoopback() bool {
	if o.Bind != "" {
		if ip, err := netip.ParseAddr(o.Bind); err != nil || !ip.IsLoopback() {
			return true
		}
	}
	if u, err := url.Parse(o.URL); o.URL != "" && (err != nil || !isLoopback(u.Hostname())) {
		return true
	}
	return o.Host != "" && !isLoopback(strings.Trim(o.Host, "[]"))
}

// redirectHost is Host as it stands in a URL.
func (o *Callback) redirectHost() string {
	switch {
	case o.Host == "":
		return "127.0.0.1"
	case strings.Contains(o.Host, ":") && o.Host[0] != '[':
		return "[" + o.Host + "]"
	}
	return strings.ToLower(o.Host)
}

// listenPort is the port to listen on where wanted is that of the redirect URI.
func (o *Callback) listenPort(wanted int) int {
	if o.URL == "" {
		return wanted
	}
	if o.Port != 0 {
		return o.Port
	}
	p := pendingSignIn{RedirectURI: o.URL}
	return p.port()
}

// listen binds the port of a redirect; 0 is any. The listener accepts
// connections from now on and answers them from serve on, so that no redirect
// can come too early.
func (o *Callback) listen(port int) (*callback, error) {
	port = o.listenPort(port)
	bind, also := o.Bind, ""
	switch {
	case bind != "":
	case o.redirectHost() == "[::1]":
		bind = "::1"
	default:
		bind = "127.0.0.1"
		if o.redirectHost() == "localhost" {
			also = "::1" // which some systems try first for this name
		}
	}
	var lc net.ListenConfig
	l, err := lc.Listen(context.Background(), "tcp", net.JoinHostPort(bind, strconv.Itoa(port)))
	if err != nil {
		return nil, fmt.Errorf("listen for the sign-in's answer: %w", err)
	}
	cb := &callback{listeners: []net.Listener{l}, answers: make(chan callbackAnswer, 1), verdict: make(chan struct{})}
	bound := strconv.Itoa(cb.port())
	if also != "" {
		// Where it is taken or there is no such address, browsers go on to the other.
		if l, err := lc.Listen(context.Background(), "tcp", net.JoinHostPort(also, bound)); err == nil {
			cb.listeners = append(cb.listeners, l)
		}
	}
	cb.redirect, cb.path = o.URL, o.Path
	if cb.path == "" {
		cb.path = callbackPath
	}
	cb.hosts = []string{"127.0.0.1:" + bound, "localhost:" + bound, "[::1]:" + bound, o.redirectHost() + ":" + bound}
	if u, err := url.Parse(o.URL); err == nil && o.URL != "" {
		cb.hosts, cb.path = append(cb.hosts, strings.ToLower(u.Host)), u.Path
	} else {
		cb.redirect = "http://" + o.redirectHost() + ":" + bound + cb.path
	}
	return cb, nil
}

// callback is the loopback end of a sign-in (RFC 8252 section 7.3). It takes
// one answer with the right state and shows a page to whatever else comes:
// other tabs, prefetches, favicons and strangers on this machine can neither
// use it up nor end it.
type callback struct {
	listeners []net.Listener
	redirect  string   // the redirect URI
	path      string   // its path
	hosts     []string // names that the browser may call this listener by
	server    *http.Server
	expect    expectation

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

func (cb *callback) port() int { return cb.listeners[0].Addr().(*net.TCPAddr).Port }

func (cb *callback) redirectURI() string { return cb.redirect }

func (cb *callback) serve(expect expectation) {
	cb.expect = expect
	cb.server = &http.Server{
		Handler:           http.HandlerFunc(cb.handle),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		IdleTimeout:       10 * time.Second,
		MaxHeaderBytes:    64 << 10,
	}
	for _, l := range cb.listeners {
		cb.serving.Go(func() {
			_ = cb.server.Serve(l) // ends with finish
		})
	}
}

// finish stops listening and shows p to the browsers that wait for it. It does
// not wait for them: others, the goroutines of the Client, has that done.
func (cb *callback) finish(p page, others *sync.WaitGroup) {
	cb.page = p
	close(cb.verdict)
	for _, l := range cb.listeners {
		_ = l.Close() // only here; nobody else needs to know
	}
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
	if !slices.Contains(cb.hosts, strings.ToLower(r.Host)) {
		// A name that somebody made point here (DNS rebinding).
		cb.show(w, http.StatusMisdirectedRequest, page{Title: "Not here", Text: "This address belongs to a sign-in on this computer."})
		return
	}
	if r.URL.Path != cb.path {
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
	if err != nil || len(query["state"]) != 1 || !cb.expect.isState(query.Get("state")) {
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

// paste takes the answer that a person brings from a browser on another
// machine.
func (cb *callback) paste(line string) error {
	query, err := cb.expect.pasted(line)
	if err != nil || query == nil {
		return err
	}
	answer, ok := cb.expect.read(query)
	if !ok {
		return errors.New("that address has neither a code nor an error in it")
	}
	cb.claim.Do(func() { cb.answers <- answer })
	return nil
}

// pasted reads the address that a browser ended at, or the code alone where the
// authorization server never names itself beside it, into the parameters of the
// answer. It returns nil for an empty line.
func (e *expectation) pasted(line string) (url.Values, error) {
	line = strings.Trim(strings.TrimSpace(line), `"'<>`)
	switch {
	case line == "":
		return nil, nil
	case len(line) > 16<<10:
		return nil, errors.New("that is too long to be the address of a sign-in's end")
	case strings.Contains(line, "://") || strings.ContainsAny(line, "?&="):
		_, raw, _ := strings.Cut(line, "?")
		raw, _, _ = strings.Cut(raw, "#")
		query, err := url.ParseQuery(raw)
		if err != nil || len(query["state"]) != 1 || !e.isState(query.Get("state")) {
			return nil, errors.New("that is not the address that the sign-in under way ends at")
		}
		return query, nil
	case !sendable(line):
		return nil, errors.New("that is neither an address nor a code")
	case e.issSupported:
		// The issuer beside the code tells whose it is (RFC 9207).
		return nil, errors.New("paste the whole address that the browser ended at: the code alone does not say who issued it")
	}
	return url.Values{"code": {line}, "state": {e.state}}, nil
}

func (e *expectation) isState(state string) bool {
	return subtle.ConstantTimeCompare([]byte(state), []byte(e.state)) == 1
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
