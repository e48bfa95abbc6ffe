package server_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mark3labs/mcp-go/mcp"

	"github.com/mcp-clerk/mcp-clerk/internal/transport/memnet"
	"github.com/mcp-clerk/mcp-clerk/server"
)

func TestListenBindsBothLoopbackAddressesOnOnePort(t *testing.T) {
	for _, host := range []string{"localhost", "127.0.0.1", "[::1]"} {
		listeners, err := server.Listen(t.Context(), host+":0")
		if err != nil {
			t.Fatal(err)
		}
		_, first, _ := net.SplitHostPort(listeners[0].Addr().String())
		for _, l := range listeners {
			h, port, _ := net.SplitHostPort(l.Addr().String())
			if port != first || !net.ParseIP(h).IsLoopback() {
				t.Errorf("%s: %s, want port %s on loopback", host, l.Addr(), first)
			}
		}
		if want := "http://localhost:" + first; server.LocalURL(listeners) != want {
			t.Errorf("LocalURL %q, want %q", server.LocalURL(listeners), want)
		}
		// The same port again is taken, and nothing is left open by the attempt.
		if again, err := server.Listen(t.Context(), "localhost:"+first); err == nil {
			t.Errorf("%s: bound twice: %v", host, again)
		}
		for _, l := range listeners {
			l.Close()
		}
	}
}

func TestListenRefusesWhatIsNoAddress(t *testing.T) {
	for _, addr := range []string{"", "8788", "localhost", "localhost:http:1"} {
		if l, err := server.Listen(t.Context(), addr); err == nil {
			l[0].Close()
			t.Errorf("%q: no error", addr)
		}
	}
}

func get(t *testing.T, target string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, target, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(body)
}

func TestPagesAndHealth(t *testing.T) {
	r := start(t, func(o *server.Options) { o.Title = `Tools & <b>"more"</b>` }, nil)
	for path, want := range map[string]struct {
		status int
		text   string
	}{
		"/":           {200, r.srv.URL()},
		"/healthz":    {200, "ok"},
		"/readyz":     {200, "ready"},
		"/nonesuch":   {404, ""},
		"/index.html": {404, ""},
		"/.well-known/oauth-protected-resource/mcp": {200, r.srv.URL()},
		"/.well-known/oauth-authorization-server":   {200, r.url + "/token"},
	} {
		resp, body := get(t, r.url+path)
		if resp.StatusCode != want.status || !strings.Contains(body, want.text) {
			t.Errorf("%s: %s: %.200s", path, resp.Status, body)
		}
		for name, value := range map[string]string{"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "X-Frame-Options": "DENY"} {
			if resp.Header.Get(name) != value {
				t.Errorf("%s: %s is %q, want %q", path, name, resp.Header.Get(name), value)
			}
		}
		if resp.Header.Get("X-Request-Id") == "" {
			t.Errorf("%s: no request id", path)
		}
	}
	resp, body := get(t, r.url+"/")
	if csp := resp.Header.Get("Content-Security-Policy"); !strings.Contains(csp, "default-src 'none'") || !strings.Contains(csp, "frame-ancestors 'none'") || strings.Contains(csp, "unsafe") {
		t.Errorf("policy %q", csp)
	}
	if strings.Contains(body, "<b>") || !strings.Contains(body, "claude mcp add --transport http rig "+r.srv.URL()) || !strings.Contains(body, "mcp-clerk connect "+r.srv.URL()) {
		t.Errorf("front page:\n%s", body)
	}
}

func TestTheLogHasNoQueryAndNoToken(t *testing.T) {
	r := start(t, nil, nil)
	held := r.signIn(adminMail)
	r.stateless(held.Access).tool("userInfo", `{}`)
	r.refresh(held)
	get(t, r.url+"/nonesuch?code=canary-of-a-query")
	log := r.log.String()
	for name, secret := range map[string]string{"access token": held.Access, "refresh token": held.Refresh, "query": "canary-of-a-query", "key": testKey,
		"client secret": r.clerk.ClientSecret().Reveal(), "secret key": r.clerk.SecretKey().Reveal(), "e-mail": adminMail} {
		if strings.Contains(log, secret) {
			t.Errorf("the %s is in the log", name)
		}
	}
	if !strings.Contains(log, "path=/nonesuch") || !strings.Contains(log, "request_id=") {
		t.Errorf("no access log:\n%s", log)
	}
}

// A request to a page leaves no deadline behind on the connection that a
// stream then uses.
func TestAStreamOutlivesTheDeadlineOfAPageOnItsConnection(t *testing.T) {
	if testing.Short() {
		t.Skip("waits for the deadline of a page")
	}
	t.Parallel()
	r := start(t, nil, func(s *server.Server) {
		s.AddTool(mcp.NewTool("slow"), func(ctx context.Context, _ mcp.CallToolRequest) (*mcp.CallToolResult, error) {
			for i := range 2 {
				if err := server.Progress(ctx, float64(i+1), 0, ""); err != nil {
					return nil, err
				}
				select {
				case <-time.After(16 * time.Second):
				case <-ctx.Done():
					return nil, ctx.Err()
				}
			}
			return mcp.NewToolResultText("done"), nil
		})
	})
	c := r.stateless(r.signIn(plainMail).Access)
	get(t, r.url+"/healthz") // the default client keeps this connection
	result, before := c.toolWith("slow", `{}`, `{"progressToken":1}`)
	if result.text() != "done" || len(before) != 2 {
		t.Errorf("%+v after %d notifications", result, len(before))
	}
}

// startWithHold starts a server with the tool "hold", whose one call says when it
// is entered and ends when released.
func startWithHold(t *testing.T) (r *rig, entered, release chan struct{}) {
	t.Helper()
	entered, release = make(chan struct{}), make(chan struct{})
	r = start(t, nil, func(s *server.Server) {
		s.AddTool(mcp.NewTool("hold"), func(ctx context.Context, _ mcp.CallToolRequest) (*mcp.CallToolResult, error) {
			close(entered)
			select {
			case <-release:
				return mcp.NewToolResultText("finished"), nil
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		})
	})
	return r, entered, release
}

func TestShutdownLetsCallsFinishAndRefusesNewOnes(t *testing.T) {
	r, entered, release := startWithHold(t)
	c := r.legacy(r.signIn(plainMail).Access)
	result := make(chan toolResult, 1)
	go func() {
		own := *c
		result <- own.tool("hold", `{}`)
	}()
	<-entered
	stopped := make(chan struct{})
	go func() { r.stop(); close(stopped) }()
	// The listeners close as soon as the shutdown begins.
	u, err := url.Parse(r.url)
	if err != nil {
		t.Fatal(err)
	}
	for {
		conn, err := net.Dial("tcp", u.Host)
		if err != nil {
			break
		}
		conn.Close()
	}
	select {
	case <-stopped:
		t.Fatal("stopped with a call in flight")
	default:
	}
	close(release)
	if got := <-result; got.text() != "finished" {
		t.Errorf("the call in flight answered %+v", got)
	}
	<-stopped
}

// A balancer that asks /readyz has time to send nobody here any more: until the
// delay is over all else goes on, on new connections too.
func TestDrainDelayOnlyTurnsReadinessOff(t *testing.T) {
	r := start(t, func(o *server.Options) { o.DrainDelay = 3 * time.Second }, nil)
	token := r.signIn(plainMail).Access
	stopped := make(chan struct{})
	go func() { r.stop(); close(stopped) }()
	deadline := time.Now().Add(40 * time.Second)
	for {
		resp, body := get(t, r.url+"/readyz")
		if resp.StatusCode == http.StatusServiceUnavailable && strings.Contains(body, "shutting down") {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("/readyz during the shutdown: %s %q", resp.Status, body)
		}
	}
	http.DefaultClient.CloseIdleConnections()
	if got := r.legacy(token).tool("add", `{"a":19,"b":23}`); got.text() != "42" {
		t.Errorf("a call during the delay answered %+v", got)
	}
	select {
	case <-stopped:
		t.Error("the delay was none")
	default:
	}
	<-stopped
}

// With a thousand streams open, in both eras, the end is as orderly: they are
// told, the call in flight is answered, and nothing waits for its time-out.
func TestShutdownWithAThousandStreams(t *testing.T) {
	r, entered, release := startWithHold(t)
	access := r.signIn(plainMail).Access
	modern, legacy := r.stateless(access), r.legacy(access)
	subscribe := `{"jsonrpc":"2.0","id":"sub","method":"subscriptions/listen","params":` + modern.withMeta(`{"notifications":{"toolsListChanged":true}}`) + `}`
	const streams = 1000
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport}
	ends := make(chan error, streams)
	var opened sync.WaitGroup
	opening := make(chan struct{}, 50)
	for i := range streams {
		opened.Add(1)
		go func() {
			opening <- struct{}{}
			failed := func(err error) { <-opening; opened.Done(); ends <- err }
			method, body := http.MethodGet, ""
			header := http.Header{"Accept": {"text/event-stream"}, "Mcp-Session-Id": {legacy.session}, "Mcp-Protocol-Version": {"2025-11-25"}}
			if i%2 == 0 {
				method, body = http.MethodPost, subscribe
				header = http.Header{"Content-Type": {"application/json"}, "Accept": {"application/json, text/event-stream"},
					"Mcp-Protocol-Version": {"2026-07-28"}, "Mcp-Method": {"subscriptions/listen"}}
			}
			header.Set("Authorization", "Bearer "+access)
			req, err := http.NewRequestWithContext(t.Context(), method, r.srv.URL(), strings.NewReader(body))
			if err != nil {
				failed(err)
				return
			}
			req.Header = header
			resp, err := client.Do(req)
			if err != nil {
				failed(err)
				return
			}
			defer resp.Body.Close()
			if resp.StatusCode != http.StatusOK {
				failed(fmt.Errorf("stream %d: %s", i, resp.Status))
				return
			}
			<-opening
			opened.Done()
			// A stream that is cut rather than ended is an error here.
			_, err = io.Copy(io.Discard, resp.Body)
			ends <- err
		}()
	}
	opened.Wait()
	if len(ends) > 0 {
		t.Fatalf("a stream ended early: %v", <-ends)
	}
	result := make(chan toolResult, 1)
	go func() {
		own := *legacy
		result <- own.tool("hold", `{}`)
	}()
	<-entered
	began := time.Now()
	stopped := make(chan struct{})
	go func() { r.stop(); close(stopped) }()
	for range streams {
		if err := <-ends; err != nil {
			t.Fatalf("a stream was cut: %v", err)
		}
	}
	select {
	case <-stopped:
		t.Fatal("stopped with a call in flight")
	default:
	}
	ready := httptest.NewRecorder()
	r.srv.Handler().ServeHTTP(ready, httptest.NewRequest(http.MethodGet, r.url+"/readyz", nil))
	if ready.Code != http.StatusServiceUnavailable {
		t.Errorf("readiness while it ends: %d", ready.Code)
	}
	close(release)
	if got := <-result; got.text() != "finished" {
		t.Errorf("the call in flight answered %+v", got)
	}
	<-stopped
	if d := time.Since(began); d > 30*time.Second {
		t.Errorf("ended after %v", d)
	}
}

func TestAToolThatIgnoresItsContextDoesNotHoldTheShutdown(t *testing.T) {
	entered, release := make(chan struct{}), make(chan struct{})
	defer close(release)
	r := start(t, nil, func(s *server.Server) {
		s.SetShutdownTimeout(200 * time.Millisecond)
		s.AddTool(mcp.NewTool("stubborn"), func(context.Context, mcp.CallToolRequest) (*mcp.CallToolResult, error) {
			close(entered)
			<-release
			return mcp.NewToolResultText("late"), nil
		})
	})
	c := r.stateless(r.signIn(plainMail).Access)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	body := `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":` + c.withMeta(`{"name":"stubborn","arguments":{}}`) + `}`
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, r.srv.URL(), strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header = http.Header{"Content-Type": {"application/json"}, "Accept": {"application/json, text/event-stream"}, "Authorization": {"Bearer " + c.token},
		"Mcp-Protocol-Version": {"2026-07-28"}, "Mcp-Method": {"tools/call"}, "Mcp-Name": {"stubborn"}}
	answered := make(chan struct{})
	go func() {
		defer close(answered)
		if resp, err := http.DefaultClient.Do(req); err == nil {
			resp.Body.Close()
		}
	}()
	<-entered
	r.stop() // returns although the tool does not
	<-answered
}

// Case 50: heads that do not end, however much of them comes, and connections
// on which nothing comes, are given up; others are served meanwhile.
func TestHeadsThatDoNotEndAreGivenUp(t *testing.T) {
	r := start(t, nil, func(s *server.Server) { s.SetHeaderTimeout(500 * time.Millisecond) })
	ended := make(chan error, 200)
	for i := range cap(ended) {
		conn, err := net.Dial("tcp", strings.TrimPrefix(r.url, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if i%2 == 0 {
			fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: localhost\r\n")
			go func() { // until the connection is closed
				for tick := time.Tick(20 * time.Millisecond); ; <-tick {
					if _, err := fmt.Fprint(conn, "X-More: and\r\n"); err != nil {
						return
					}
				}
			}()
		}
		go func() {
			_ = conn.SetReadDeadline(time.Now().Add(30 * time.Second))
			_, err := io.Copy(io.Discard, conn)
			var timeout net.Error
			if !errors.As(err, &timeout) || !timeout.Timeout() {
				err = nil // closed or reset
			}
			ended <- err
		}()
	}
	c := r.stateless(r.signIn(plainMail).Access)
	for range 20 {
		if got := c.tool("add", `{"a":1,"b":2}`).text(); got != "3" {
			t.Errorf("meanwhile: %q", got)
		}
	}
	for range cap(ended) {
		if err := <-ended; err != nil {
			t.Fatalf("a connection was kept: %v", err)
		}
	}
}

func TestServeReportsAListenerThatFails(t *testing.T) {
	srv, err := server.New(t.Context(), valid())
	if err != nil {
		t.Fatal(err)
	}
	defer srv.Close()
	listeners, err := server.Listen(t.Context(), "localhost:0")
	if err != nil {
		t.Fatal(err)
	}
	listeners[0].Close()
	if err := srv.Serve(t.Context(), listeners...); err == nil {
		t.Error("no error")
	}
	if err := srv.Serve(t.Context()); err == nil {
		t.Error("no error without a listener")
	}
}

func TestRunServesUntilItsContextEnds(t *testing.T) {
	listeners, err := server.Listen(t.Context(), "localhost:0")
	if err != nil {
		t.Fatal(err)
	}
	o := valid()
	o.PublicURL = server.LocalURL(listeners)
	for _, l := range listeners {
		l.Close()
	}
	srv, err := server.New(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	defer srv.Close()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- srv.Run(ctx, strings.TrimPrefix(o.PublicURL, "http://")) }()
	for {
		resp, err := http.Get(o.PublicURL + "/readyz")
		if err == nil {
			resp.Body.Close()
			break
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Run: %v", err)
	}
}

// The handler can be part of a bigger server, below a path.
func TestHandlerBelowAPath(t *testing.T) {
	r := start(t, func(o *server.Options) { o.PublicURL += "/tools" }, nil)
	for _, path := range []string{"/tools/", "/tools/healthz", "/healthz", "/.well-known/oauth-protected-resource/tools/mcp", "/.well-known/oauth-authorization-server/tools"} {
		if resp, body := get(t, r.url+path); resp.StatusCode != http.StatusOK {
			t.Errorf("%s: %s: %s", path, resp.Status, body)
		}
	}
	c := &client{r: r, caps: `{}`}
	resp := c.post(`{"jsonrpc":"2.0","id":1,"method":"initialize","params":{}}`, "")
	resp.Body.Close()
	if want := fmt.Sprintf(`resource_metadata="%s/.well-known/oauth-protected-resource/tools/mcp"`, r.url); resp.StatusCode != http.StatusUnauthorized || !strings.Contains(resp.Header.Get("WWW-Authenticate"), want) {
		t.Errorf("%s %q", resp.Status, resp.Header.Get("WWW-Authenticate"))
	}
}

// Case 50: whoever asks for a page and does not read it holds no connection.
func TestAPageThatNobodyReadsIsGivenUp(t *testing.T) {
	for _, path := range []string{"/healthz", "/authorize", "/.well-known/oauth-protected-resource/mcp", "/nowhere"} {
		t.Run(path, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv, err := server.New(t.Context(), valid())
				if err != nil {
					t.Fatal(err)
				}
				defer srv.Close()
				network := memnet.New()
				hs := &http.Server{Handler: srv.Handler(), ReadHeaderTimeout: time.Minute}
				served := make(chan error, 1)
				go func() { served <- hs.Serve(network) }()
				defer func() { hs.Close(); <-served }()
				client, err := network.Dial(t.Context(), "", "")
				if err != nil {
					t.Fatal(err)
				}
				defer client.Close()
				if _, err := io.WriteString(client, "GET "+path+" HTTP/1.1\r\nHost: mcp.example.com\r\n\r\n"); err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Minute)
				_ = client.SetDeadline(time.Now().Add(time.Second))
				if _, err := client.Write([]byte("GET ")); !errors.Is(err, io.ErrClosedPipe) {
					t.Errorf("the connection is still there: %v", err)
				}
			})
		})
	}
}

// Case 55: however few requests a user may send, the first one passes.
func TestARateBelowOneRequestASecond(t *testing.T) {
	r := start(t, func(o *server.Options) { o.UserRate = 0.04 }, nil)
	c := r.stateless(r.signIn(plainMail).Access)
	body := `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":` + c.withMeta(`{"name":"add","arguments":{"a":1,"b":1}}`) + `}`
	for _, want := range []int{http.StatusOK, http.StatusTooManyRequests} {
		resp := c.post(body, "add")
		resp.Body.Close()
		if resp.StatusCode != want || want == http.StatusTooManyRequests && resp.Header.Get("Retry-After") != "25" {
			t.Errorf("%s, Retry-After %q, want %d", resp.Status, resp.Header.Get("Retry-After"), want)
		}
	}
}
