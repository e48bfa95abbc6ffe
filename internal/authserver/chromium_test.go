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
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"github.com/mcp-clerk/mcp-clerk/internal/authserver"
	"github.com/mcp-clerk/mcp-clerk/internal/identity"
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
	mux.Handle("/signins", srv.SignIns())
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

// tab is one tab of a fresh Chromium.
type tab struct {
	t   *testing.T
	ctx context.Context // chromedp keeps the tab in its context
	e   *env
	dir string // for pictures, "" to keep none
	axe string // the source of axe-core, "" where it is not there

	mu         sync.Mutex
	complaints []string // of the browser
	requests   []string // URLs that it was sent to
}

func openTab(t *testing.T, e *env) *tab {
	t.Helper()
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
	b := &tab{t: t, e: e}
	switch path := os.Getenv("AXE_CORE"); {
	case path != "":
		source, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		b.axe = string(source)
	case os.Getenv("CI") == "true":
		t.Fatal("no axe-core: set AXE_CORE to the path of its axe.min.js")
	default:
		t.Log("AXE_CORE is not set: accessibility is not checked")
	}
	if dir := os.Getenv("TEST_ARTIFACTS"); dir != "" {
		b.dir = filepath.Join(dir, t.Name())
		if err := os.MkdirAll(b.dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := chromedp.NewExecAllocator(t.Context(), append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(exe), chromedp.NoSandbox)...)
	t.Cleanup(cancel)
	ctx, cancel = chromedp.NewContext(ctx)
	t.Cleanup(cancel)
	b.ctx, cancel = context.WithTimeout(ctx, 2*time.Minute)
	t.Cleanup(cancel)
	b.do() // opens the tab
	if err := chromedp.Listen(b.ctx, func(ev any) {
		b.mu.Lock()
		defer b.mu.Unlock()
		switch ev := ev.(type) {
		case *log.EventEntryAdded:
			b.complaints = append(b.complaints, ev.Entry.Text)
		case *network.EventRequestWillBeSent:
			b.requests = append(b.requests, ev.Request.URL)
		}
	}); err != nil {
		t.Fatal(err)
	}
	call(b, log.Enable, cdp.Empty{})
	call(b, network.Enable, network.EnableParams{})
	t.Cleanup(func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		for _, text := range b.complaints {
			if strings.Contains(text, "Content Security Policy") || strings.Contains(text, "Refused") {
				t.Errorf("the browser complains: %s", text)
			}
		}
	})
	return b
}

func call[P, R any](b *tab, command cdp.Command[P, R], params P) {
	b.t.Helper()
	if _, err := chromedp.Call(b.ctx, command, params); err != nil {
		b.t.Fatal(err)
	}
}

func (b *tab) do(actions ...chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	if err := chromedp.Do(b.ctx, actions...); err != nil {
		b.t.Fatal(err)
	}
}

func eval[T any](b *tab, expression string, opts ...chromedp.EvaluateOption) T {
	b.t.Helper()
	v, err := chromedp.Run(b.ctx, chromedp.Evaluate[T](expression, opts...))
	if err != nil {
		b.t.Fatal(err)
	}
	return v
}

func (b *tab) open(target string) {
	b.t.Helper()
	b.do(chromedp.Navigate(target))
}

func (b *tab) authorize(c testClient, pairs ...string) {
	b.t.Helper()
	b.open(b.e.issuer + "/authorize?" + c.query(pairs...).Encode())
}

// views are what people look at a page on.
var views = []struct {
	name          string
	width, height int64
	mobile        bool
	scheme        string
}{
	{"desktop", 1000, 800, false, "light"},
	{"phone", 390, 844, true, "light"},
	{"phone-dark", 390, 844, true, "dark"},
	{"narrow-dark", 320, 640, true, "dark"}, // WCAG 2.2, 1.4.10 Reflow
}

// look takes pictures of the page in every view, and checks what a machine can
// see: that nothing runs out of the window, and that axe-core finds no serious
// or critical fault.
func (b *tab) look(name string) {
	b.t.Helper()
	const await = `new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done(true))))`
	for _, v := range views {
		call(b, emulation.SetDeviceMetricsOverride, emulation.SetDeviceMetricsOverrideParams{Width: v.width, Height: v.height, DeviceScaleFactor: 1, Mobile: v.mobile})
		call(b, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: v.scheme}}})
		eval[bool](b, await, chromedp.EvalAwaitPromise)
		if wide := eval[int64](b, `document.documentElement.scrollWidth`); wide > v.width {
			b.t.Errorf("%s, %s: the page is %d pixels wide", name, v.name, wide)
		}
		if b.dir != "" {
			png, err := chromedp.Run(b.ctx, chromedp.FullScreenshot(100))
			if err != nil {
				b.t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(b.dir, name+"-"+v.name+".png"), png, 0o644); err != nil {
				b.t.Fatal(err)
			}
		}
		if b.axe == "" {
			continue
		}
		faults := eval[[]string](b, b.axe+`
			;axe.run(document).then(r => r.violations
				.filter(v => v.impact === "serious" || v.impact === "critical")
				.map(v => v.id + ": " + v.help + ": " + v.nodes.map(n => n.html).join(" ")))`, chromedp.EvalAwaitPromise)
		for _, fault := range faults {
			b.t.Errorf("%s, %s: axe-core: %s", name, v.name, fault)
		}
	}
	call(b, emulation.SetDeviceMetricsOverride, emulation.SetDeviceMetricsOverrideParams{Width: 1000, Height: 800, DeviceScaleFactor: 1})
}

func button(label string) chromedp.Search {
	return chromedp.Search(`//button[starts-with(normalize-space(.), "` + label + `")]`)
}

// press looks at the page and clicks a button of it.
func (b *tab) press(name, label string) {
	b.t.Helper()
	b.do(chromedp.WaitVisible(button(label)))
	if name != "" {
		b.look(name)
	}
	b.do(chromedp.Click(button(label)))
}

// errorPage waits for a page that holds text, and looks at it.
func (b *tab) errorPage(name, text string) {
	b.t.Helper()
	b.do(chromedp.WaitVisible(chromedp.Search(`//main[contains(., "` + text + `")]`)))
	if id := eval[string](b, `document.querySelector("code").innerText`); len(id) < 8 {
		b.t.Errorf("%s: request id %q", name, id)
	}
	b.look(name)
}

// sentTo waits until the browser was sent to a URL that begins so: one that it
// cannot open, such as that of an app.
func (b *tab) sentTo(prefix string) string {
	b.t.Helper()
	for {
		b.mu.Lock()
		for _, u := range b.requests {
			if strings.HasPrefix(u, prefix) {
				b.mu.Unlock()
				return u
			}
		}
		b.mu.Unlock()
		select {
		case <-b.ctx.Done():
			b.t.Fatalf("the browser was not sent to %s…", prefix)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// In a real browser: form-action and the like would stop redirects that no
// HTTP client checks, and a referrer policy can turn Origin into null (W3C CSP
// 3, section 6.4.2; cases/server 8, 27, 30 and 32).
func TestChromiumGoesThroughTheSignIn(t *testing.T) {
	e, redirect, codes := realSite(t)
	if err := e.srv.AddScope(authserver.Scope{Name: "mcp:images", Description: "Have pictures made in your name, if your role allows it"}); err != nil {
		t.Fatal(err)
	}
	b := openTab(t, e)
	answer := func() url.Values {
		t.Helper()
		select {
		case q := <-codes:
			b.do(chromedp.WaitVisible(chromedp.Search(`//body[contains(., "close this window")]`)))
			return q
		case <-b.ctx.Done():
			t.Fatal("the client got no answer")
			return nil
		}
	}

	native := e.register("Claude Code", redirect)
	native.redirect = redirect
	b.authorize(native, "scope", "")
	b.press("consent", "Approve")
	b.do(chromedp.WaitVisible(button("Continue as")))
	if at := eval[string](b, `location.href`); strings.Contains(at, "code=") || strings.Contains(at, "state=") {
		t.Errorf("the page that names the account stands at %s", at)
	}
	b.do(chromedp.Reload())
	b.press("account", "Continue as")
	e.tokens(e.redeem(native, answer().Get("code")))

	second := e.register("Another Client", "https://app.example/cb", redirect)
	second.redirect = redirect
	b.authorize(second, "scope", "mcp:tools offline_access")
	b.press("consent-signed-in", "Approve") // provider and client redirect at once
	e.tokens(e.redeem(second, answer().Get("code")))

	b.authorize(second)
	b.press("", "Cancel")
	if q := answer(); q.Get("error") != "access_denied" {
		t.Errorf("cancelled with %v", q)
	}

	// Another account: by the link of the one page, and by the button of the other.
	e.provider.set(func() { e.provider.next = &bob; e.provider.directory[bob.ID] = bob })
	b.authorize(second)
	b.do(chromedp.Click(chromedp.Search(`//a[contains(., "Not you?")]`)))
	b.do(chromedp.WaitVisible(chromedp.Search(`//p[contains(., "After you approve")]`)))
	b.press("", "Approve")
	b.press("account-changed", "Continue as Bob")
	code := answer().Get("code")
	if p, err := e.srv.Verify(t.Context(), e.tokens(e.redeem(second, code)).access); err != nil || p.Subject != bob.ID {
		t.Errorf("principal %+v, %v", p, err)
	}
	e.provider.set(func() { ada := e.provider.directory["user_ada"]; e.provider.user = ada })
	b.authorize(second)
	b.press("", "Approve") // Bob was shown, Ada is signed in at the provider
	e.provider.set(func() { e.provider.next = &bob })
	b.press("", "Not you?")
	b.press("", "Continue as Bob")
	if answer().Get("code") == "" {
		t.Error("no code after \"not you?\"")
	}
	b.authorize(second)
	e.provider.set(func() { e.provider.deny = "access_denied" })
	b.press("", "Approve")
	if q := answer(); q.Get("error") != "access_denied" {
		t.Errorf("denied at the provider, the client got %v", q)
	}
	e.provider.set(func() { e.provider.deny = "" })
}

// A custom scheme leaves the browser, for an answer of either kind (cases/server 30):
// what counts is that it is asked to.
func TestChromiumLeavesForAnApp(t *testing.T) {
	const app = "cursor://anysphere.cursor-mcp/oauth/callback"
	for label, want := range map[string]string{"Approve": "?code=", "Cancel": "?error=access_denied"} {
		t.Run(label, func(t *testing.T) {
			e, _, _ := realSite(t)
			b := openTab(t, e)
			cursor := e.register("Cursor", app)
			b.authorize(cursor)
			if label == "Approve" {
				b.press("consent", label)
				label = "Continue as"
			}
			b.press("last", label)
			b.sentTo(app + want)
		})
	}
}

// Everything can be done with the keyboard alone, in the order of the page
// (WCAG 2.2, 2.1.1 and 2.4.3).
func TestChromiumSignsInByKeyboard(t *testing.T) {
	e, redirect, codes := realSite(t)
	b := openTab(t, e)
	c := e.register("Claude Code", redirect)
	c.redirect = redirect
	b.authorize(c)
	for _, labels := range [][]string{{"Approve"}, {"Continue as"}} {
		b.do(chromedp.WaitVisible(button(labels[0])))
		for range labels {
			b.do(chromedp.KeyEvent(kb.Tab))
		}
		if at := eval[string](b, `document.activeElement.innerText`); !strings.HasPrefix(at, labels[0]) {
			t.Fatalf("the focus is on %q, want %q", at, labels[0])
		}
		b.look("focus-" + strings.Fields(labels[0])[0])
		b.do(chromedp.KeyEvent(kb.Enter))
	}
	select {
	case q := <-codes:
		if q.Get("code") == "" {
			t.Errorf("the client got %v", q)
		}
	case <-b.ctx.Done():
		t.Fatal("the client got no answer")
	}
}

// Every page that says what is wrong says it readably, with what to do and a
// request id; names that clients choose for themselves do not break a page
// (cases/server 33).
func TestChromiumShowsPagesThatPeopleUnderstand(t *testing.T) {
	e, redirect, _ := realSite(t)
	b := openTab(t, e)
	c := e.register("Claude Code", redirect)
	c.redirect = redirect
	web := e.register("Web", webRedirect)

	loud := e.register("Claude (verified)\u202e\u200b "+strings.Repeat("W", 200), "https://"+strings.Repeat("sub-domain.", 12)+"example/cb")
	b.authorize(loud, "scope", "")
	b.do(chromedp.WaitVisible(button("Approve")))
	b.look("consent-loud")

	b.authorize(testClient{id: "mcpc_client_AAAAAAAAAAAAAAAAAAAAAA", redirect: webRedirect})
	b.errorPage("error-unknown-client", "not registered")
	b.authorize(testClient{id: c.id, redirect: "https://evil.example/cb"})
	b.errorPage("error-redirect", "made a mistake")
	b.authorize(web, "code_challenge", "")
	b.errorPage("error-unapproved-client", "cannot be answered")
	b.open(e.issuer + "/consent")
	b.errorPage("error-method", "does not answer")
	b.open(e.issuer + "/callback?state=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA&code=x")
	b.errorPage("error-over", "has been used")

	e.provider.set(func() { e.provider.down = true })
	b.authorize(c)
	b.press("", "Approve")
	b.errorPage("error-unavailable", "cannot go on")
	e.provider.set(func() { e.provider.down = false })

	b.authorize(c)
	b.do(chromedp.WaitVisible(button("Approve")))
	eval[bool](b, `document.querySelector("input[name=ticket]").value = "forged", true`)
	b.press("", "Approve")
	b.errorPage("error-forged", "did not come from the page")

	banned := e.provider.user
	banned.Banned = true
	e.provider.signInAs(banned)
	b.authorize(c)
	b.press("", "Approve")
	b.errorPage("error-refused-user", "banned")

	b.open(e.issuer + "/signins")
	b.do(chromedp.WaitVisible(chromedp.Search(`//h1[contains(., "Sign-ins")]`)))
	b.look("signins")
}

// Somebody on a machine without a browser is let in from another one, by the
// code and by the link, with a keyboard's form and a comparison; one who may not
// use the server reads why.
func TestChromiumConnectsADevice(t *testing.T) {
	e, _, _ := realSite(t)
	b := openTab(t, e)
	if err := e.srv.AddScope(authserver.Scope{Name: "mcp:images", Description: "Have pictures made in your name, if your role allows it"}); err != nil {
		t.Fatal(err)
	}
	e.provider.change("user_ada", func(u *identity.User) { u.Memberships = []identity.Membership{acme, globex} })
	c := e.registerDevice("Claude Code")
	e.addr = "203.0.113.9:1"
	d := e.device(c, "scope", "")
	b.open(e.issuer + "/device")
	b.do(chromedp.WaitVisible(button("Continue")))
	b.look("device")
	b.do(chromedp.SendKeys(chromedp.CSS("#code"), "BCDFGHJK"+kb.Enter))
	b.do(chromedp.WaitVisible(chromedp.Search(`//p[@role="alert"]`)))
	b.look("device-unknown")
	b.do(chromedp.Clear(chromedp.CSS("#code")), chromedp.SendKeys(chromedp.CSS("#code"), strings.ToLower(d.UserCode)+kb.Enter))
	b.press("device-consent", "Approve")
	b.do(chromedp.WaitVisible(button("Continue as")))
	b.do(chromedp.SetValue(chromedp.CSS("select"), "org_acme"))
	b.press("device-account", "Continue as")
	b.do(chromedp.WaitVisible(chromedp.Search(`//h1[contains(., "is connected")]`)))
	b.look("device-done")
	if p := e.principal(e.tokens(e.poll(c, d)).access); p.Subject != "user_ada" || p.Organization != "org_acme" {
		t.Errorf("principal %+v", p)
	}

	d = e.device(c)
	b.open(d.Complete)
	b.press("device-link", "Yes, it shows this code")
	b.do(chromedp.WaitVisible(button("Approve")))
	b.look("device-consent-signed-in")
	b.press("", "Cancel") // though no organisation is chosen
	b.do(chromedp.WaitVisible(chromedp.Search(`//h1[contains(., "Nothing was connected")]`)))
	b.look("device-refused")
	expectError(t, e.poll(c, d), 400, "access_denied")

	b.open(e.device(c).Complete)
	b.do(chromedp.Click(button("Yes, it shows this code")))
	e.provider.change("user_ada", func(u *identity.User) { u.Banned = true })
	b.do(chromedp.SetValue(chromedp.CSS("select"), "org_acme"))
	b.press("", "Approve")
	b.errorPage("device-refused-user", "banned")
}

// A person looks at their connected apps, changes an organisation, takes access
// away, signs out; an administrator searches everybody's.
func TestChromiumShowsConnectedApps(t *testing.T) {
	e, redirect, codes := realSite(t)
	b := openTab(t, e)
	b.open(e.issuer + "/account")
	b.do(chromedp.WaitVisible(chromedp.Search(`//p[contains(., "No application has access")]`)))
	b.look("apps-none")

	e.provider.change("user_ada", func(u *identity.User) {
		u.Memberships, u.Roles = []identity.Membership{acme, globex}, []string{"admin"}
	})
	native := e.register("Claude Code", redirect)
	native.redirect = redirect
	b.authorize(native, "scope", "")
	b.do(chromedp.WaitVisible(button("Approve")))
	b.do(chromedp.SetValue(chromedp.CSS("select"), "org_globex"))
	b.press("consent-organisation", "Approve")
	tk := e.tokens(e.redeem(native, (<-codes).Get("code")))
	c := e.registerDevice("Some Rather Long Name Of A Remote Builder In A Container")
	d := e.device(c, "scope", "mcp:tools offline_access")
	b.open(d.Complete)
	b.do(chromedp.Click(button("Yes, it shows this code")))
	b.do(chromedp.WaitVisible(button("Approve")))
	b.do(chromedp.SetValue(chromedp.CSS("select"), "none"))
	b.press("", "Approve")
	b.do(chromedp.WaitVisible(chromedp.Search(`//h1[contains(., "is connected")]`)))
	e.tokens(e.poll(c, d))

	b.open(e.issuer + "/account")
	b.do(chromedp.WaitVisible(button("Take the access away")))
	b.look("apps")
	b.do(chromedp.SetValue(chromedp.Search(`//section[contains(., "Claude Code")]//select`), "org_acme"))
	b.do(chromedp.Click(chromedp.Search(`//section[contains(., "Claude Code")]//button[contains(., "Change")]`)))
	b.do(chromedp.WaitVisible(chromedp.Search(`//p[@role="status"]`)))
	b.look("apps-changed")
	if p := e.principal(tk.access); p.Organization != "org_acme" {
		t.Errorf("principal %+v", p)
	}
	b.do(chromedp.Click(chromedp.Search(`//a[contains(., "Everybody")]`)))
	b.do(chromedp.WaitVisible(chromedp.CSS("#q")))
	b.look("apps-everybody")
	b.do(chromedp.SendKeys(chromedp.CSS("#q"), "claude"+kb.Enter))
	b.do(chromedp.WaitVisible(chromedp.Search(`//input[@id="q" and @value="claude"]`)))
	b.look("apps-found")
	b.do(chromedp.Click(button("Take the access away")))
	b.do(chromedp.WaitVisible(chromedp.Search(`//p[contains(., "Nothing was found")]`)))
	b.look("apps-taken")
	if e.valid(tk.access) {
		t.Error("the access is still there")
	}
	b.do(chromedp.Click(chromedp.Search(`//a[contains(., "My own apps")]`)))
	b.do(chromedp.WaitVisible(button("Sign out")))
	b.press("", "Sign out")
	b.do(chromedp.WaitVisible(chromedp.Search(`//h1[contains(., "signed out")]`)))
	b.look("apps-signed-out")
}
