package oauthclient_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mcp-clerk/mcp-clerk/internal/oauthclient"
)

// waiting is a sign-in whose browser was opened and has not come back.
type waiting struct {
	site     *site
	client   *oauthclient.Client
	auth     url.Values // of the authorization URL
	redirect *url.URL
	done     chan error
}

// wait begins a sign-in and returns once the browser is asked to open.
func wait(t *testing.T, s *site, change func(*oauthclient.Options)) *waiting {
	t.Helper()
	opened := make(chan string, 10)
	o := options(t, s.URL+"/mcp", t.TempDir())
	o.OpenURL = func(target string) error { opened <- target; return nil }
	if change != nil {
		change(&o)
	}
	w := &waiting{site: s, client: newClient(t, o), done: make(chan error, 1)}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	var signingIn sync.WaitGroup
	signingIn.Go(func() { w.done <- w.client.SignIn(ctx) })
	t.Cleanup(func() { cancel(); signingIn.Wait() })
	select {
	case target := <-opened:
		u, err := url.Parse(target)
		if err != nil {
			t.Fatal(err)
		}
		w.auth = u.Query()
		if w.redirect, err = url.Parse(w.auth.Get("redirect_uri")); err != nil {
			t.Fatal(err)
		}
	case err := <-w.done:
		t.Fatalf("the sign-in ended before the browser opened: %v", err)
	}
	return w
}

// send makes a request to the listener. The query's state is the right one
// unless it is given.
func (w *waiting) send(t *testing.T, method, path string, query url.Values, change func(*http.Request)) (int, string, http.Header) {
	t.Helper()
	u := *w.redirect
	u.Path = path
	u.RawQuery = query.Encode()
	req, err := http.NewRequestWithContext(t.Context(), method, u.String(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if change != nil {
		change(req)
	}
	resp, err := (&http.Client{Timeout: 20 * time.Second}).Do(req)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body), resp.Header
}

// code has the site issue a code for the waiting sign-in.
func (w *waiting) code() string {
	w.site.mu.Lock()
	defer w.site.mu.Unlock()
	w.site.n++
	code := fmt.Sprintf("code-%d", w.site.n)
	w.site.codes[code] = w.auth
	return code
}

func (w *waiting) right(values ...string) url.Values {
	q := url.Values{"state": {w.auth.Get("state")}, "iss": {w.site.URL}}
	for i := 0; i < len(values); i += 2 {
		q.Set(values[i], values[i+1])
	}
	return q
}

func (w *waiting) stillWaits(t *testing.T) {
	t.Helper()
	select {
	case err := <-w.done:
		t.Fatalf("the sign-in has ended: %v", err)
	default:
	}
}

// Cases 13 to 16: what comes before the answer changes nothing, and the answer
// then counts.
func TestCallbackTakesOnlyTheAnswer(t *testing.T) {
	s := newSite(t)
	w := wait(t, s, nil)
	const path = "/oauth/callback"
	steps := []struct {
		name, method, path string
		query              url.Values
		change             func(*http.Request)
		status             int
	}{
		{"favicon", "GET", "/favicon.ico", nil, nil, 404},
		{"root", "GET", "/", nil, nil, 404},
		{"path with a slash", "GET", path + "/", w.right("code", "x"), nil, 404},
		{"no parameters", "GET", path, nil, nil, 400},
		{"no state", "GET", path, url.Values{"code": {"x"}}, nil, 400},
		{"wrong state", "GET", path, w.right("code", "x", "state", "guessed"), nil, 400},
		{"empty state", "GET", path, w.right("code", "x", "state", ""), nil, 400},
		{"wrong state with an error", "GET", path, url.Values{"state": {"guessed"}, "error": {"access_denied"}}, nil, 400},
		{"error without state", "GET", path, url.Values{"error": {"access_denied"}}, nil, 400},
		{"two states", "GET", path, url.Values{"state": {w.auth.Get("state"), "x"}, "code": {"x"}, "iss": {s.URL}}, nil, 400},
		{"two codes", "GET", path, url.Values{"state": {w.auth.Get("state")}, "code": {"x", "y"}, "iss": {s.URL}}, nil, 400},
		{"neither code nor error", "GET", path, w.right(), nil, 400},
		{"HEAD", "HEAD", path, w.right("code", "x"), nil, 405},
		{"POST", "POST", path, w.right("code", "x"), nil, 405},
		{"OPTIONS", "OPTIONS", path, w.right("code", "x"), nil, 405},
		{"prefetch", "GET", path, w.right("code", "x"), func(r *http.Request) { r.Header.Set("Sec-Purpose", "prefetch;prerender") }, 503},
		{"older prefetch", "GET", path, w.right("code", "x"), func(r *http.Request) { r.Header.Set("Purpose", "prefetch") }, 503},
		{"rebound name", "GET", path, w.right("code", "x"), func(r *http.Request) { r.Host = "evil.example:" + w.redirect.Port() }, 421},
		{"name without port", "GET", path, w.right("code", "x"), func(r *http.Request) { r.Host = "127.0.0.1" }, 421},
		{"another port", "GET", path, w.right("code", "x"), func(r *http.Request) { r.Host = "127.0.0.1:1" }, 421},
	}
	for _, step := range steps {
		status, body, header := w.send(t, step.method, step.path, step.query, step.change)
		if status != step.status {
			t.Errorf("%s: status %d, want %d", step.name, status, step.status)
		}
		if header.Get("Cache-Control") != "no-store" || header.Get("Referrer-Policy") != "no-referrer" ||
			!strings.HasPrefix(header.Get("Content-Security-Policy"), "default-src 'none'") || header.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s: headers %v", step.name, header)
		}
		if strings.Contains(body, "<script") || strings.Contains(body, w.auth.Get("state")) {
			t.Errorf("%s: page %q", step.name, body)
		}
		w.stillWaits(t)
	}
	status, body, _ := w.send(t, "GET", path, w.right("code", w.code()), func(r *http.Request) { r.Host = "localhost:" + w.redirect.Port() })
	if status != 200 || !strings.Contains(body, "signed in") {
		t.Errorf("the answer: status %d, %q", status, body)
	}
	if err := <-w.done; err != nil {
		t.Error(err)
	}
	if n := s.count("POST /token"); n != 1 {
		t.Errorf("%d token requests", n)
	}
	if conn, err := net.Dial("tcp", w.redirect.Host); err == nil {
		conn.Close()
		t.Error("it still listens after the sign-in")
	}
}

func TestCallbackIsBoundToLoopbackOnly(t *testing.T) {
	w := wait(t, newSite(t), nil)
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range addrs {
		ip := a.(*net.IPNet).IP
		if ip.IsLoopback() || ip.To4() == nil {
			continue
		}
		conn, err := net.DialTimeout("tcp", net.JoinHostPort(ip.String(), w.redirect.Port()), time.Second)
		if err == nil {
			conn.Close()
			t.Errorf("it answers at %s", ip)
		}
	}
	w.send(t, "GET", "/oauth/callback", w.right("code", w.code()), nil)
	if err := <-w.done; err != nil {
		t.Error(err)
	}
}

// Parallel tabs: the first answer counts, all get a page, and none waits long.
func TestParallelAnswersRedeemOneCode(t *testing.T) {
	s := newSite(t)
	w := wait(t, s, nil)
	query := w.right("code", w.code())
	const parallel = 8
	var arrived, tabs sync.WaitGroup
	arrived.Add(parallel)
	s.on("/token", func(rw http.ResponseWriter, r *http.Request) {
		// The code is redeemed once all tabs are there; a connection that is
		// accepted after theirs shows it.
		arrived.Wait()
		w.send(t, "GET", "/favicon.ico", nil, nil)
		s.serve(rw, r)
	})
	for range parallel {
		tabs.Add(1)
		go func() {
			defer tabs.Done()
			u := *w.redirect
			u.RawQuery = query.Encode()
			req, err := http.NewRequestWithContext(httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
				WroteRequest: func(httptrace.WroteRequestInfo) { arrived.Done() },
			}), http.MethodGet, u.String(), nil)
			if err != nil {
				t.Error(err)
				return
			}
			resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 10 * time.Second}).Do(req)
			if err != nil {
				t.Errorf("a tab got no page: %v", err)
				return
			}
			resp.Body.Close()
			if resp.StatusCode != 200 {
				t.Errorf("a tab got %d", resp.StatusCode)
			}
		}()
	}
	tabs.Wait()
	if err := <-w.done; err != nil {
		t.Error(err)
	}
	if n := s.count("POST /token"); n != 1 {
		t.Errorf("%d token requests", n)
	}
}

// The four rows of RFC 9207 section 2.4 in revision 2026-07-28, and variants
// that only a normalising comparison would take for equal.
func TestIssuerOfTheAnswer(t *testing.T) {
	tests := map[string]struct {
		advertised any
		iss        func(issuer string) []string
		ok         bool
	}{
		"advertised, present":     {true, func(i string) []string { return []string{i} }, true},
		"advertised, absent":      {true, func(i string) []string { return nil }, false},
		"not advertised, present": {nil, func(i string) []string { return []string{i} }, true},
		"not advertised, absent":  {false, func(i string) []string { return nil }, true},
		"another, advertised":     {true, func(string) []string { return []string{"https://evil.example"} }, false},
		"another, not advertised": {false, func(string) []string { return []string{"https://evil.example"} }, false},
		"slash more":              {true, func(i string) []string { return []string{i + "/"} }, false},
		"upper case":              {true, func(i string) []string { return []string{strings.ToUpper(i)} }, false},
		"percent-encoded":         {true, func(i string) []string { return []string{strings.Replace(i, "127", "%3127", 1)} }, false},
		"empty":                   {true, func(i string) []string { return []string{""} }, false},
		"empty, not advertised":   {false, func(i string) []string { return []string{""} }, false},
	}
	for name, test := range tests {
		for _, answer := range []string{"code", "error"} {
			t.Run(name+", "+answer, func(t *testing.T) {
				s := newSite(t)
				s.meta["authorization_response_iss_parameter_supported"] = test.advertised
				w := wait(t, s, nil)
				q := url.Values{"state": {w.auth.Get("state")}, "iss": test.iss(s.URL)}
				if answer == "code" {
					q.Set("code", w.code())
				} else {
					q.Set("error", "access_denied")
					q.Set("error_description", "call 0900-canary")
				}
				_, body, _ := w.send(t, "GET", "/oauth/callback", q, nil)
				err := <-w.done
				if !test.ok {
					if err == nil || !strings.Contains(err.Error(), "9207") || s.count("POST /token") != 0 {
						t.Errorf("got %v and %d token requests", err, s.count("POST /token"))
					}
					if strings.Contains(err.Error()+body, "canary") || strings.Contains(err.Error(), "access_denied") {
						t.Errorf("a stranger's error is shown: %v %q", err, body)
					}
					return
				}
				if (err == nil) != (answer == "code") {
					t.Errorf("got %v", err)
				}
			})
		}
	}
}

func TestDeniedIsACleanEnd(t *testing.T) {
	s := newSite(t)
	w := wait(t, s, nil)
	status, body, _ := w.send(t, "GET", "/oauth/callback", w.right("error", "access_denied", "error_description", "<script>\x1b[31mno\x1b[0m\u202e\nreally"), nil)
	if status != 200 || strings.Contains(body, "<script") || !strings.Contains(body, "denied") {
		t.Errorf("status %d, page %q", status, body)
	}
	err := <-w.done
	var notSignedIn *oauthclient.NotSignedInError
	var oauthErr *oauthclient.Error
	if !errors.As(err, &notSignedIn) || !errors.As(err, &oauthErr) || oauthErr.Code != "access_denied" {
		t.Fatalf("got %v", err)
	}
	if strings.ContainsAny(err.Error(), "\x1b\n\u202e") {
		t.Errorf("control characters in %q", err)
	}
}

func TestOtherErrorsAreShownEscaped(t *testing.T) {
	s := newSite(t)
	w := wait(t, s, nil)
	_, body, _ := w.send(t, "GET", "/oauth/callback", w.right("error", "invalid_scope", "error_description", `<img src=x onerror="alert(1)">`), nil)
	if strings.Contains(body, "<img") {
		t.Errorf("page %q", body)
	}
	var oauthErr *oauthclient.Error
	if err := <-w.done; !errors.As(err, &oauthErr) || oauthErr.Code != "invalid_scope" {
		t.Errorf("got %v", err)
	}
}

func TestNobodyComes(t *testing.T) {
	s := newSite(t)
	w := wait(t, s, func(o *oauthclient.Options) { o.SignInTimeout = 300 * time.Millisecond })
	err := <-w.done
	var notSignedIn *oauthclient.NotSignedInError
	if !errors.As(err, &notSignedIn) || !strings.Contains(err.Error(), "300ms") {
		t.Errorf("got %v", err)
	}
	if conn, err := net.Dial("tcp", w.redirect.Host); err == nil {
		conn.Close()
		t.Error("it still listens")
	}
}

func TestATakenPortIsReplaced(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	taken := l.Addr().(*net.TCPAddr).Port
	s := newSite(t)
	signedIn(t, s, func(o *oauthclient.Options) { o.Callback.Port = taken })
	if got := s.asked[0].Get("redirect_uri"); strings.Contains(got, fmt.Sprint(":", taken, "/")) || !contains(s.clients["client-1"], got) {
		t.Errorf("redirect_uri %q, registered %q", got, s.clients)
	}
}

func TestAPreferredPortIsUsed(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	l.Close()
	s := newSite(t)
	signedIn(t, s, func(o *oauthclient.Options) { o.Callback.Port = port })
	if got := s.asked[0].Get("redirect_uri"); got != fmt.Sprintf("http://127.0.0.1:%d/oauth/callback", port) {
		t.Errorf("redirect_uri %q", got)
	}
}

// A client registered beforehand has the one redirect that it has.
func TestAPreregisteredClientInsistsOnItsPort(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	s := newSite(t)
	s.clients["mine"] = []string{fmt.Sprintf("http://127.0.0.1:%d/oauth/callback", port)}
	o := options(t, s.URL+"/mcp", t.TempDir())
	b := &browser{}
	o.OpenURL, o.ClientID, o.Callback.Port = b.open, "mine", port
	c := newClient(t, o)
	if _, err := request(t.Context(), c, s.URL+"/mcp"); err == nil || b.windows() != 0 {
		t.Errorf("port taken: %v, %d windows", err, b.windows())
	}
	l.Close()
	if status, err := request(t.Context(), c, s.URL+"/mcp"); status != 200 || err != nil {
		t.Errorf("port free: %d, %v", status, err)
	}
	if s.count("POST /register") != 0 || s.asked[0].Get("client_id") != "mine" {
		t.Errorf("registered although a client is given: %v", s.asked)
	}
}

func TestCallbackAddress(t *testing.T) {
	port := freePort(t)
	for name, tc := range map[string]struct {
		callback oauthclient.Callback
		redirect string // with PORT for the port listened on
		reach    string // where the browser's request ends up, with its Host
		off      bool
	}{
		"as it is":        {redirect: "http://127.0.0.1:PORT/oauth/callback"},
		"localhost":       {callback: oauthclient.Callback{Host: "localhost"}, redirect: "http://localhost:PORT/oauth/callback"},
		"IPv6":            {callback: oauthclient.Callback{Host: "::1"}, redirect: "http://[::1]:PORT/oauth/callback"},
		"a path":          {callback: oauthclient.Callback{Path: "/cb"}, redirect: "http://127.0.0.1:PORT/cb"},
		"at an address":   {callback: oauthclient.Callback{Bind: "::1", Port: port}, redirect: "http://127.0.0.1:PORT/oauth/callback", reach: "[::1]:" + fmt.Sprint(port)},
		"forwarded":       {callback: oauthclient.Callback{URL: "http://localhost:1/forwarded", Port: port}, redirect: "http://localhost:1/forwarded", reach: "127.0.0.1:" + fmt.Sprint(port)},
		"behind a proxy":  {callback: oauthclient.Callback{URL: "https://dev.example.com/cb", Port: port}, redirect: "https://dev.example.com/cb", reach: "127.0.0.1:" + fmt.Sprint(port), off: true},
		"under some name": {callback: oauthclient.Callback{Host: "box.example", Port: port}, redirect: "http://box.example:PORT/oauth/callback", reach: "127.0.0.1:" + fmt.Sprint(port), off: true},
	} {
		t.Run(name, func(t *testing.T) {
			if tc.callback.Host == "::1" || tc.callback.Bind == "::1" {
				needsIPv6(t)
			}
			if tc.callback.OffLoopback() != tc.off {
				t.Errorf("off loopback: %v", !tc.off)
			}
			s := newSite(t)
			w := wait(t, s, func(o *oauthclient.Options) { o.Callback = tc.callback })
			if want := strings.ReplaceAll(tc.redirect, "PORT", w.redirect.Port()); w.redirect.String() != want {
				t.Fatalf("redirect %q, want %q", w.redirect, want)
			}
			back := *w.redirect
			back.RawQuery = url.Values{"code": {w.code()}, "state": w.auth["state"], "iss": {s.URL}}.Encode()
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, back.String(), nil)
			if err != nil {
				t.Fatal(err)
			}
			if tc.reach != "" {
				req.Host = back.Host
				req.URL.Scheme, req.URL.Host = "http", tc.reach
			}
			resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if resp.StatusCode != http.StatusOK {
				t.Errorf("the browser sees status %d", resp.StatusCode)
			}
			if err := <-w.done; err != nil {
				t.Error(err)
			}
			if got := s.tokens[0].Get("redirect_uri"); got != w.redirect.String() {
				t.Errorf("redeemed with redirect %q", got)
			}
		})
	}
}

func needsIPv6(t *testing.T) {
	t.Helper()
	l, err := net.Listen("tcp", "[::1]:0")
	if err == nil {
		l.Close()
		return
	}
	if os.Getenv("CI") == "true" {
		t.Fatalf("no IPv6 on loopback: %v", err)
	}
	t.Skipf("no IPv6 on loopback: %v", err)
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// What an answer may pass on its way is known before anything listens there.
func TestCallbackOffLoopback(t *testing.T) {
	for callback, want := range map[oauthclient.Callback]bool{
		{}: false, {Bind: "127.0.0.1"}: false, {Bind: "::1"}: false, {Host: "localhost"}: false, {URL: "http://localhost:1/cb"}: false,
		{Bind: "0.0.0.0"}: true, {Bind: "::"}: true, {Bind: "192.0.2.1"}: true, {Host: "box.example"}: true, {URL: "https://box.example:1/cb"}: true,
	} {
		if callback.OffLoopback() != want {
			t.Errorf("%+v: %v", callback, !want)
		}
	}
}

func TestCallbackOptionsAreChecked(t *testing.T) {
	for _, cb := range []oauthclient.Callback{
		{Port: -1}, {Port: 70000}, {Path: "no-slash"}, {Path: "/a?b"}, {Host: "a b"}, {Host: "a/b"}, {Host: "-x"}, {Bind: "localhost"},
		{URL: "ftp://localhost:1/"}, {URL: "https://dev.example.com/cb"}, {URL: "http://u@localhost:1/"}, {URL: "http://localhost:1/?q"}, {URL: "http://localhost:1/#f"},
		{SuccessURL: "http://evil.example/"}, {SuccessURL: "javascript:alert(1)"}, {SuccessURL: "https://a/?q=1"}, {SuccessURL: "https://a/#f"},
	} {
		o := options(t, "https://mcp.example.com/mcp", t.TempDir())
		o.Callback = cb
		if _, err := oauthclient.New(o); err == nil {
			t.Errorf("%+v was accepted", cb)
		}
	}
}

// The browser goes on to the page that was asked for after a success, with
// nothing of the sign-in in its address, and stays here after a failure.
func TestSuccessPage(t *testing.T) {
	for name, fail := range map[string]bool{"success": false, "failure": true} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			w := wait(t, s, func(o *oauthclient.Options) { o.Callback.SuccessURL = "https://app.example.com/connected" })
			query := url.Values{"code": {w.code()}, "state": w.auth["state"], "iss": {s.URL}}
			if fail {
				query = url.Values{"error": {"access_denied"}, "state": w.auth["state"], "iss": {s.URL}}
			}
			client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
			resp, err := client.Get(w.redirect.String() + "?" + query.Encode())
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			err = <-w.done
			if fail {
				if err == nil || resp.Header.Get("Location") != "" {
					t.Errorf("%v, sent to %q", err, resp.Header.Get("Location"))
				}
				return
			}
			if err != nil || resp.StatusCode != http.StatusSeeOther || resp.Header.Get("Location") != "https://app.example.com/connected" {
				t.Errorf("%v, status %d to %q", err, resp.StatusCode, resp.Header.Get("Location"))
			}
		})
	}
}
