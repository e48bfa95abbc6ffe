package authserver_test

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/chromedp"

	"github.com/mcp-clerk/mcp-clerk/internal/authserver"
	"github.com/mcp-clerk/mcp-clerk/internal/secret"
	"github.com/mcp-clerk/mcp-clerk/internal/store"
)

// realSite serves the authorization server, a provider that redirects at once
// and a client's loopback callback on three real listeners.
func realSite(t *testing.T) (e *env, callback string, codes chan url.Values) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	e = &env{t: t, clock: &clock{now: time.Now()}, events: &eventLog{}, addr: "127.0.0.1:1"}
	e.store = store.NewMemory(store.Options{Now: e.clock.Now})
	t.Cleanup(func() { e.store.Close() })
	issuer := "http://localhost:" + port
	e.provider = newProvider(issuer + "/callback")
	up := httptest.NewServer(e.provider)
	t.Cleanup(up.Close)
	srv, err := authserver.New(authserver.Options{PublicURL: issuer, Keys: []secret.String{testKey}, Store: e.store, Now: e.clock.Now,
		SignIn: movedProvider{e.provider, up.URL}, Directory: e.provider, ServerName: "Test Tools"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { srv.Close() })
	mux := http.NewServeMux()
	srv.Register(mux)
	site := &httptest.Server{Listener: l, Config: &http.Server{Handler: mux}}
	site.Start()
	t.Cleanup(site.Close)
	e.srv, e.issuer, e.hosts = srv, issuer, map[string]http.Handler{"localhost:" + port: mux}

	codes = make(chan url.Values, 1)
	client := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/callback" {
			codes <- r.URL.Query()
			w.Write([]byte("You may close this window."))
		}
	}))
	t.Cleanup(client.Close)
	return e, client.URL + "/callback", codes
}

// movedProvider is a provider whose pages are on another host.
type movedProvider struct {
	*provider
	base string
}

func (m movedProvider) Begin(ctx context.Context, state, nonce, verifier, prompt string) (string, error) {
	u, err := m.provider.Begin(ctx, state, nonce, verifier, prompt)
	return strings.Replace(u, "https://"+providerHost, m.base, 1), err
}

// In a real browser: form-action and the like would stop redirects that no
// HTTP client checks, and a referrer policy can turn Origin into null.
func TestChromiumGoesThroughTheSignIn(t *testing.T) {
	var exe string
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome", "chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			exe = path
			break
		}
	}
	switch {
	case testing.Short():
		t.Skip("starts a browser")
	case exe == "" && os.Getenv("CI") == "true":
		t.Fatal("no Chromium in $PATH")
	case exe == "":
		t.Skip("no Chromium in $PATH")
	}
	e, redirect, codes := realSite(t)
	alloc, cancel := chromedp.NewExecAllocator(t.Context(), append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(exe), chromedp.NoSandbox)...)
	defer cancel()
	ctx, cancel := chromedp.NewContext(alloc)
	defer cancel()
	ctx, cancel = context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()

	var mu sync.Mutex
	var complaints, requests []string
	do := func(actions ...chromedp.Action[chromedp.Void]) {
		t.Helper()
		if err := chromedp.Do(ctx, actions...); err != nil {
			t.Fatal(err)
		}
	}
	do() // opens the tab
	if err := chromedp.Listen(ctx, func(ev any) {
		mu.Lock()
		defer mu.Unlock()
		switch ev := ev.(type) {
		case *log.EventEntryAdded:
			complaints = append(complaints, ev.Entry.Text)
		case *network.EventRequestWillBeSent:
			requests = append(requests, ev.Request.URL)
		}
	}); err != nil {
		t.Fatal(err)
	}
	if _, err := chromedp.Call(ctx, log.Enable, cdp.Empty{}); err != nil {
		t.Fatal(err)
	}
	if _, err := chromedp.Call(ctx, network.Enable, network.EnableParams{}); err != nil {
		t.Fatal(err)
	}
	shots := os.Getenv("AUTHSERVER_SCREENSHOTS") // a directory to keep pictures of the pages in
	press := func(name, label string) {
		t.Helper()
		button := chromedp.Search(`//button[starts-with(normalize-space(.), "` + label + `")]`)
		do(chromedp.WaitVisible(button))
		if shots != "" {
			png, err := chromedp.Run(ctx, chromedp.FullScreenshot(100))
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(shots, name+".png"), png, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		do(chromedp.Click(button))
	}
	answer := func() url.Values {
		t.Helper()
		select {
		case q := <-codes:
			do(chromedp.WaitVisible(chromedp.Search(`//body[contains(., "close this window")]`)))
			return q
		case <-ctx.Done():
			t.Fatal("the client got no answer")
			return nil
		}
	}
	open := func(c testClient, pairs ...string) {
		t.Helper()
		do(chromedp.Navigate(e.issuer + "/authorize?" + c.query(pairs...).Encode()))
	}

	native := e.register("Claude Code", redirect)
	native.redirect = redirect
	open(native)
	press("consent", "Approve")
	press("account", "Continue as")
	e.tokens(e.redeem(native, answer().Get("code")))

	second := e.register("Another Client", "https://app.example/cb", redirect)
	second.redirect = redirect
	open(second, "scope", "mcp:tools offline_access")
	press("consent-signed-in", "Approve") // provider and client redirect at once
	e.tokens(e.redeem(second, answer().Get("code")))

	open(second)
	press("cancel", "Cancel")
	if q := answer(); q.Get("error") != "access_denied" {
		t.Errorf("cancelled with %v", q)
	}

	// A custom scheme leaves the browser: what counts is that it is asked to.
	cursor := e.register("Cursor", "cursor://anysphere.cursor-mcp/oauth/callback")
	open(cursor)
	press("consent-cursor", "Approve")
	deadline := time.Now().Add(20 * time.Second)
	for {
		mu.Lock()
		left := false
		for _, u := range requests {
			left = left || strings.HasPrefix(u, "cursor://anysphere.cursor-mcp/oauth/callback?code=")
		}
		mu.Unlock()
		if left {
			break
		}
		if time.Now().After(deadline) {
			t.Error("the browser was not sent to the custom scheme")
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	mu.Lock()
	for _, text := range complaints {
		if strings.Contains(text, "Content Security Policy") || strings.Contains(text, "Refused") {
			t.Errorf("the browser complains: %s", text)
		}
	}
	mu.Unlock()
}
