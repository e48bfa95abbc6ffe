package authserver_test

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/html"

	"github.com/mcp-clerk/mcp-clerk/internal/identity"
)

var bob = identity.User{ID: "user_bob", Email: "bob@example.com", FirstName: "Bob"}

// MCP 2026-07-28, confused deputy: our page comes before the provider is
// asked, which may answer at once (cases/server 27).
func TestConsentComesBeforeTheProvider(t *testing.T) {
	e := newEnv(t)
	c := e.register("Claude", webRedirect)
	v := e.browser().authorize(c)
	if v.status != http.StatusOK || !v.has("Approve") || !v.has("Cancel") || e.provider.begun != 0 {
		t.Fatalf("%d, provider begun %d times:\n%s", v.status, e.provider.begun, v.body)
	}
	if strings.Contains(v.body, "ada@example.com") {
		t.Error("an account is named before anybody signed in")
	}
	v = v.press("Approve")
	if v.left || !v.has("Continue as Ada Lovelace (ada@example.com)") || !v.has("Not you?") || !v.has("Cancel") {
		t.Fatalf("no account page: %v\n%s", v.url, v.body)
	}
	if v.press("Continue as").answer(c).Get("code") == "" {
		t.Error("no code")
	}
}

// Somebody who is signed in sees client and account on one page, for every
// client: the provider skips its own consent (cases/server 27).
func TestSignedInUsersApproveOnOnePage(t *testing.T) {
	e := newEnv(t)
	first, second := e.register("First", webRedirect), e.register("Second", "https://second.example/cb")
	b := e.browser()
	b.authorize(first).press("Approve").press("Continue as")
	for _, c := range []testClient{second, first, first} { // no memory for an unverified client
		v := b.authorize(c)
		if !v.has("Approve") || !strings.Contains(v.body, "Ada Lovelace (ada@example.com)") {
			t.Fatalf("consent page of %v:\n%s", c.redirect, v.body)
		}
		if v = v.press("Approve"); v.answer(c).Get("code") == "" {
			t.Errorf("no code: %v", v.url)
		}
	}
}

func TestAnotherAccountThanShownIsNamedFirst(t *testing.T) {
	e := newEnv(t)
	c := e.register("Web", webRedirect)
	b := e.browser()
	b.authorize(c).press("Approve").press("Continue as")
	e.provider.signInAs(bob) // signed in as somebody else at the provider meanwhile
	v := b.authorize(c)
	if !strings.Contains(v.body, "ada@example.com") {
		t.Fatal("the page does not show the last account")
	}
	v = v.press("Approve")
	if v.left || !v.has("Continue as Bob (bob@example.com)") {
		t.Fatalf("a code for an account that was not shown: %v", v.url)
	}
	tk := e.tokens(e.redeem(c, v.press("Continue as").answer(c).Get("code")))
	p, err := e.srv.Verify(t.Context(), tk.access)
	if err != nil || p.Subject != bob.ID {
		t.Errorf("principal %+v, %v", p, err)
	}
}

func TestNotYouStartsAgainWithAnotherAccount(t *testing.T) {
	e := newEnv(t)
	c := e.register("Web", webRedirect)
	b := e.browser()
	e.provider.next = &bob
	e.provider.directory[bob.ID] = bob
	v := b.authorize(c).press("Approve").press("Not you?")
	if !v.has("Continue as Bob") || !strings.Contains(e.provider.lastURL, "prompt=login") {
		t.Fatalf("after \"not you?\": %s", v.body)
	}
	v.press("Continue as").answer(c)
	ada := identity.User{ID: "user_ada", Email: "ada@example.com"}
	e.provider.next = &ada
	v = b.authorize(c)
	if !strings.Contains(v.body, "bob@example.com") {
		t.Fatal("the page does not show the last account")
	}
	v = v.follow("Not you?")
	if strings.Contains(v.body, "bob@example.com") {
		t.Error("the account is still shown")
	}
	if v = v.press("Approve"); !v.has("Continue as ada@example.com") {
		t.Errorf("page %s", v.body)
	}
}

func TestSignInIsRememberedForThirtyDays(t *testing.T) {
	e := newEnv(t)
	c := e.register("Web", webRedirect)
	b := e.browser()
	b.authorize(c).press("Approve").press("Continue as")
	e.clock.advance(30*24*time.Hour - time.Minute)
	if v := b.authorize(c); !strings.Contains(v.body, "ada@example.com") {
		t.Error("forgotten too early")
	}
	e.clock.advance(2 * time.Minute)
	if v := b.authorize(c); strings.Contains(v.body, "ada@example.com") {
		t.Error("remembered too long")
	}
}

// RFC 6749 section 4.1.2.1 and RFC 9207: the client learns of every way to say
// no (cases/server 8).
func TestDenialReachesTheClient(t *testing.T) {
	e := newEnv(t)
	for _, c := range []testClient{e.register("Web", webRedirect), e.register("Native", loopRedirect), e.register("Cursor", "cursor://anysphere.cursor-mcp/oauth/callback")} {
		e.provider.deny = ""
		ends := map[string]*visit{
			"cancel":               e.browser().authorize(c).press("Cancel"),
			"cancel after sign-in": e.browser().authorize(c).press("Approve").press("Cancel"),
		}
		e.provider.deny = "access_denied"
		ends["denied at the provider"] = e.browser().authorize(c).press("Approve")
		for name, v := range ends {
			q := v.answer(c)
			if q.Get("error") != "access_denied" || q.Get("state") != "st 1&\r\nX: y" || q.Get("iss") != e.issuer || q.Has("code") {
				t.Errorf("%s: %v", name, q)
			}
		}
		e.provider.deny = "weird_error"
		if q := e.browser().authorize(c).press("Approve").answer(c); q.Get("error") != "server_error" {
			t.Errorf("unknown error of the provider: %v", q)
		}
	}
}

// The approval counts in one browser, once, for ten minutes (RFC 9700 section
// 4.7, cases/server 28).
func TestCallbackBelongsToTheApprovingBrowser(t *testing.T) {
	e := newEnv(t)
	c := e.register("Web", webRedirect)
	capture := func(b *browser) string { // approves and stops before the provider
		r := b.authorize(c).form("Approve")
		for _, ck := range b.jar.Cookies(r.URL) {
			r.AddCookie(ck)
		}
		res, err := e.RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		b.jar.SetCookies(r.URL, res.Cookies())
		return res.Header.Get("Location")
	}
	refused := func(name string, v *visit) {
		t.Helper()
		if v.left || v.status != http.StatusBadRequest || v.has("Continue as") {
			t.Errorf("%s: %d %v", name, v.status, v.url)
		}
	}
	owner, other := e.browser(), e.browser()
	upstream := capture(owner)
	refused("another browser", other.open(upstream))
	capture(other) // has a sign-in of its own now
	refused("another browser with a sign-in", other.open(upstream))
	v := owner.open(upstream) // and neither has used it up
	if !v.has("Continue as") {
		t.Fatalf("the owner is refused: %s", v.body)
	}
	q := v.before.Query() // the callback
	refused("replayed", owner.open(v.before.String()))
	refused("no state", owner.open(e.issuer+"/callback?code=x"))
	refused("unknown state", owner.open(e.issuer+"/callback?code=x&state=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"))
	refused("state twice", owner.open(e.issuer+"/callback?code=x&state="+q.Get("state")+"&state=x"))

	late := capture(owner)
	e.clock.advance(10*time.Minute + time.Second)
	refused("after ten minutes", owner.open(late))
}

// The page that names the account stands at an address without the provider's
// code or state, can be reloaded, and shows nothing in another browser.
func TestTheAccountPageHasAnAddressOfItsOwn(t *testing.T) {
	e := newEnv(t)
	c := e.register("Web", webRedirect)
	b := e.browser()
	v := b.authorize(c).press("Approve")
	if q := v.url.Query(); v.url.Path != "/consent" || q.Has("code") || q.Has("state") || !v.has("Continue as") {
		t.Fatalf("the page stands at %v", v.url)
	}
	for _, other := range []*browser{e.browser(), func() *browser { o := e.browser(); o.authorize(c); return o }()} {
		if o := other.open(v.url.String()); o.status != http.StatusBadRequest || strings.Contains(o.body, "ada@example.com") {
			t.Errorf("in another browser: %d\n%s", o.status, o.body)
		}
	}
	for _, bad := range []string{"?signin=AAAA", "?signin=" + v.before.Query().Get("state"), v.url.RawQuery + "&signin=x"} {
		if o := b.open(e.issuer + "/consent?" + strings.TrimPrefix(bad, "?")); o.status != http.StatusBadRequest || o.has("Continue as") {
			t.Errorf("%s: %d", bad, o.status)
		}
	}
	again := b.open(v.url.String())
	if !again.has("Continue as") {
		t.Fatalf("reloaded: %s", again.body)
	}
	// A GET never approves (cases/server 29).
	fields := again.form("Continue as")
	if err := fields.ParseForm(); err != nil {
		t.Fatal(err)
	}
	if o := b.open(v.url.String() + "&" + fields.PostForm.Encode()); o.left {
		t.Fatalf("a GET gave a code: %v", o.url)
	}
	if again.press("Continue as").answer(c).Get("code") == "" {
		t.Error("no code")
	}
	if o := b.open(v.url.String()); o.status != http.StatusBadRequest {
		t.Errorf("after the answer: %d", o.status)
	}
}

// Several tabs do not end each other's sign-in.
func TestSignInsInSeveralTabsAllWork(t *testing.T) {
	e := newEnv(t)
	b := e.browser()
	one, two := e.register("One", webRedirect), e.register("Two", "https://two.example/cb")
	v1, v2 := b.authorize(one), b.authorize(two)
	v1, v2 = v1.press("Approve"), v2.press("Approve")
	if v1.press("Continue as").answer(one).Get("code") == "" || v2.press("Continue as").answer(two).Get("code") == "" {
		t.Error("a sign-in got lost")
	}
}

// RFC 9700 section 4.7 and 2.1: the form is tied to the page, the page to the
// browser (cases/server 29).
func TestForgedConsentIsRefused(t *testing.T) {
	e := newEnv(t)
	c := e.register("Web", webRedirect)
	for _, step := range []string{"consent", "account"} {
		fresh := func() (*browser, *http.Request) {
			b := e.browser()
			v := b.authorize(c)
			if step == "consent" {
				return b, v.form("Approve")
			}
			return b, v.press("Approve").form("Continue as")
		}
		begun := func() int { return e.provider.begun }
		for name, change := range map[string]func(b *browser, r *http.Request) (*browser, *http.Request){
			"no cookie": func(b *browser, r *http.Request) (*browser, *http.Request) { return e.browser(), r },
			"cookie of another": func(b *browser, r *http.Request) (*browser, *http.Request) {
				o := e.browser()
				o.authorize(c)
				return o, r
			},
			"origin": func(b *browser, r *http.Request) (*browser, *http.Request) {
				r.Header.Set("Origin", "https://evil.example")
				return b, r
			},
			"two cookies of one name": func(b *browser, r *http.Request) (*browser, *http.Request) {
				for _, ck := range b.jar.Cookies(r.URL) {
					r.AddCookie(ck)
				}
				r.AddCookie(&http.Cookie{Name: "__Host-csrf", Value: "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"})
				return e.browser(), r
			},
			"origin null": func(b *browser, r *http.Request) (*browser, *http.Request) {
				r.Header.Set("Origin", "null")
				return b, r
			},
			"cross-site": func(b *browser, r *http.Request) (*browser, *http.Request) {
				r.Header.Del("Origin")
				r.Header.Set("Sec-Fetch-Site", "cross-site")
				return b, r
			},
			"same-site": func(b *browser, r *http.Request) (*browser, *http.Request) {
				r.Header.Set("Sec-Fetch-Site", "same-site")
				return b, r
			},
			"no ticket":      func(b *browser, r *http.Request) (*browser, *http.Request) { return b, body(t, r, "ticket", "") },
			"forged ticket":  func(b *browser, r *http.Request) (*browser, *http.Request) { return b, body(t, r, "ticket", "AAAA") },
			"changed ticket": func(b *browser, r *http.Request) (*browser, *http.Request) { return b, body(t, r, "ticket", flip) },
			"no decision":    func(b *browser, r *http.Request) (*browser, *http.Request) { return b, body(t, r, "decision", "") },
			"query": func(b *browser, r *http.Request) (*browser, *http.Request) {
				r.URL.RawQuery = "decision=approve"
				return b, r
			},
			"text/plain body": func(b *browser, r *http.Request) (*browser, *http.Request) {
				r.Header.Set("Content-Type", "text/plain")
				return b, r
			},
		} {
			b, r := fresh()
			before := begun()
			b, r = change(b, r)
			if v := b.do(r); v.left || v.status != http.StatusForbidden || begun() != before {
				t.Errorf("%s, %s: %d %v", step, name, v.status, v.url)
			}
		}
	}
}

const flip = "flip"

// body changes a field of a form request; flip changes one letter of it.
func body(t *testing.T, r *http.Request, name, value string) *http.Request {
	t.Helper()
	if err := r.ParseForm(); err != nil {
		t.Fatal(err)
	}
	form := r.PostForm
	if value == flip {
		old := form.Get(name)
		c := byte('A')
		if old[40] == c {
			c = 'B'
		}
		value = old[:40] + string(c) + old[41:]
	}
	form.Set(name, value)
	again := request(t, "POST", r.URL.String(), strings.NewReader(form.Encode()))
	again.Header = r.Header
	return again
}

func TestPagesAreAnsweredOnceAndInTime(t *testing.T) {
	e := newEnv(t)
	c := e.register("Web", webRedirect)
	b := e.browser()
	v := b.authorize(c).press("Approve")
	again := v.form("Continue as")
	if v.press("Continue as").answer(c).Get("code") == "" {
		t.Fatal("no code")
	}
	if v := b.do(again); v.left || v.status != http.StatusBadRequest {
		t.Errorf("the account page counted twice: %v", v.url)
	}
	// A page left lying about leads back to the start.
	for _, v := range []*visit{b.authorize(c), e.browser().authorize(c).press("Approve")} {
		label := "Approve"
		if v.has("Continue as") {
			label = "Continue as"
		}
		r := v.form(label)
		e.clock.advance(11 * time.Minute)
		over := v.b.do(r)
		if over.left || over.status == http.StatusOK {
			t.Fatalf("answered after 11 minutes: %d %v", over.status, over.url)
		}
	}
	// A revoked registration or another redirect is noticed at the answer.
	v = b.authorize(c)
	if err := e.store.Delete(t.Context(), "client/"+c.id); err != nil {
		t.Fatal(err)
	}
	if v = v.press("Approve"); v.left || v.status != http.StatusBadRequest {
		t.Errorf("a client that is gone was approved: %v", v.url)
	}
}

// Codes injected from another sign-in fail at nonce and verifier (RFC 9700
// section 4.5, cases/server 32).
func TestInjectedProviderCodeIsRefused(t *testing.T) {
	e := newEnv(t)
	c := e.register("Web", webRedirect)
	b := e.browser()
	r := b.authorize(c).form("Approve")
	for _, ck := range b.jar.Cookies(r.URL) {
		r.AddCookie(ck)
	}
	res, err := e.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	b.jar.SetCookies(r.URL, res.Cookies())
	u, err := url.Parse(res.Header.Get("Location"))
	if err != nil {
		t.Fatal(err)
	}
	e.provider.codes["stolen"] = providerCode{"another nonce", challenge("another verifier"), bob}
	v := b.open(e.issuer + "/callback?code=stolen&state=" + u.Query().Get("state"))
	if v.left || v.status != http.StatusBadRequest || v.has("Continue as") {
		t.Errorf("%d %v", v.status, v.url)
	}
}

func TestUnusableAccountsGetAPageAndNoCode(t *testing.T) {
	e := newEnv(t)
	c := e.register("Web", webRedirect)
	ada := e.provider.user
	for name, change := range map[string]func(){
		"banned":                   func() { u := ada; u.Banned = true; e.provider.directory[u.ID] = u },
		"locked":                   func() { u := ada; u.Locked = true; e.provider.directory[u.ID] = u },
		"deleted":                  func() { delete(e.provider.directory, ada.ID) },
		"banned, says the sign-in": func() { e.provider.dirDown = true; e.provider.user.Banned = true },
	} {
		e.provider.user, e.provider.dirDown = ada, false
		e.provider.directory[ada.ID] = ada
		b := e.browser()
		change()
		v := b.authorize(c).press("Approve")
		if v.has("Continue as") {
			v = v.press("Continue as")
		}
		if v.left || v.status != http.StatusForbidden || v.link("Sign in with another account") == "" {
			t.Errorf("%s: %d %v\n%s", name, v.status, v.url, v.body)
		}
	}
	e.provider.user, e.provider.dirDown = ada, true // nobody to ask: the sign-in itself counts
	if e.code(c) == "" {
		t.Error("no code while the directory is down")
	}
}

func TestProviderThatIsDownGivesAPageThatTriesAgain(t *testing.T) {
	e := newEnv(t)
	c := e.register("Web", webRedirect)
	e.provider.down = true
	v := e.browser().authorize(c).press("Approve")
	if v.left || v.status != http.StatusServiceUnavailable || v.header.Get("Retry-After") == "" {
		t.Fatalf("%d %v", v.status, v.url)
	}
	e.provider.down = false
	if v = v.follow("Try again"); !v.has("Approve") {
		t.Errorf("trying again: %s", v.body)
	}
	if v.press("Approve").press("Continue as").answer(c).Get("state") != "st 1&\r\nX: y" {
		t.Error("the client's state got lost")
	}
}

// W3C CSP, RFC 9700 section 4.16; no form-action, which browsers apply to the
// redirects behind a form as well (cases/server 30).
func TestPagesCannotBeFramedScriptedOrStored(t *testing.T) {
	e := newEnv(t)
	c := e.register("Web", webRedirect)
	consent := e.browser().authorize(c)
	for name, v := range map[string]*visit{"consent": consent, "account": e.browser().authorize(c).press("Approve"), "error": e.browser().open(e.issuer + "/authorize")} {
		csp := v.header.Get("Content-Security-Policy")
		if !strings.Contains(csp, "default-src 'none'") || !strings.Contains(csp, "frame-ancestors 'none'") || !strings.Contains(csp, "base-uri 'none'") ||
			strings.Contains(csp, "form-action") || strings.Contains(csp, "unsafe") || strings.Contains(csp, "script-src") {
			t.Errorf("%s: policy %s", name, csp)
		}
		if v.header.Get("X-Frame-Options") != "DENY" || v.header.Get("X-Content-Type-Options") != "nosniff" || v.header.Get("Cache-Control") != "no-store" ||
			v.header.Get("Referrer-Policy") != "same-origin" || v.header.Get("Content-Type") != "text/html; charset=utf-8" {
			t.Errorf("%s: headers %v", name, v.header)
		}
		if strings.Contains(v.body, "<script") || !strings.Contains(v.body, `<html lang="en">`) || !strings.Contains(v.body, `name="viewport"`) || !strings.Contains(v.body, "prefers-color-scheme:dark") {
			t.Errorf("%s:\n%s", name, v.body)
		}
	}
}

// draft-ietf-httpbis-rfc6265bis: prefixes, attributes (cases/server 31).
func TestCookiesHaveTheirGuards(t *testing.T) {
	for name, tc := range map[string]struct {
		e             *env
		prefix, after string
		secure        bool
	}{
		"https":    {newEnv(t), "__Host-", "", true},
		"loopback": {newEnv(t, loopback), "", "-8788", false},
	} {
		t.Run(name, func(t *testing.T) {
			e := tc.e
			c := e.register("Native", loopRedirect)
			var list []*http.Cookie
			collect := func(r *http.Request, b *browser) *visit {
				for _, ck := range b.jar.Cookies(r.URL) {
					r.AddCookie(ck)
				}
				res, err := e.RoundTrip(r)
				if err != nil {
					t.Fatal(err)
				}
				list = append(list, res.Cookies()...)
				b.jar.SetCookies(r.URL, res.Cookies())
				if location := res.Header.Get("Location"); location != "" {
					return &visit{b: b, url: r.URL, body: location}
				}
				return nil
			}
			b := e.browser()
			collect(request(t, "GET", e.issuer+"/authorize?"+c.query().Encode(), nil), b)
			if len(list) != 1 || list[0].Name != tc.prefix+"csrf"+tc.after { // signin is not set before approval
				t.Fatalf("cookies of the page: %v", list)
			}
			up := collect(b.authorize(c).form("Approve"), b)
			back := e.get(up.body).header.Get("Location")
			collect(request(t, "GET", back, nil), b)
			seen := map[string]bool{}
			for _, ck := range list {
				seen[ck.Name] = true
				if ck.Secure != tc.secure || !ck.HttpOnly || ck.SameSite != http.SameSiteLaxMode || ck.Path != "/" || ck.Domain != "" {
					t.Errorf("cookie %v", ck)
				}
			}
			for _, want := range []string{"csrf", "signin", "account"} {
				if !seen[tc.prefix+want+tc.after] {
					t.Errorf("no cookie %s among %v", want, list)
				}
			}
		})
	}
}

// A name is what a client calls itself; the host is where the access goes
// (cases/server 33).
func TestConsentShowsWhoReallyAsks(t *testing.T) {
	e := newEnv(t)
	for name, want := range map[string]string{
		`<script>alert(1)</script>`:         `<script>alert(1)</script>`,
		`"><img src=x>`:                     `"><img src=x>`,
		"abc\u202eevil\u2066x\u200b\u200dy": "abcevilxy",
		"a\n\t  b\u00a0c":                   "a b c",
		"Claude (verified)":                 "Claude (verified)",
		strings.Repeat("long ", 2000):       strings.TrimSpace(strings.Repeat("long ", 12)) + "…",
		"":                                  "An application",
		"\u200b\u3164":                      "An application",
		"Z\u0301\u0302\u0303\u0304\u0305":   "Z\u0301\u0302",
	} {
		c := e.register(name, webRedirect)
		v := e.browser().authorize(c)
		if !strings.Contains(v.body, "unverified") || !strings.Contains(v.body, "app.example") || !strings.Contains(v.body, "mcp:tools") {
			t.Errorf("%q: mark, host or scope missing", name)
		}
		if shown := names(v.doc); len(shown) < 2 || shown[0] != want || shown[1] != want {
			t.Errorf("%q shown as %q, want %q", name, shown, want)
		}
		if strings.Contains(v.body, "<script") || strings.Contains(v.body, "<img") {
			t.Errorf("%q is not escaped", name)
		}
	}
	for redirect, host := range map[string]string{loopRedirect: "127.0.0.1", "http://localhost:3000/cb": "localhost:3000"} {
		v := e.browser().authorize(e.register("Native", redirect))
		if !strings.Contains(v.body, host) || !strings.Contains(v.body, "runs on your own computer") {
			t.Errorf("no warning about %s:\n%s", redirect, v.body)
		}
	}
}

// names are the texts of the bdi elements: foreign text, kept from its surroundings.
func names(n *html.Node) []string {
	var list []string
	if n.Type == html.ElementNode && n.Data == "bdi" {
		list = append(list, text(n))
	}
	for c := n.FirstChild; c != nil; c = c.NextSibling {
		list = append(list, names(c)...)
	}
	return list
}

// Cases/server 34: what is not rendered can neither run nor track.
func TestForeignLinksAreNotShown(t *testing.T) {
	e := newEnv(t)
	a := e.registerRaw(`{"redirect_uris":["https://app.example/cb"],"token_endpoint_auth_method":"none","client_name":"x",
		"logo_uri":"data:image/svg+xml,<svg onload=alert(1)>","client_uri":"javascript:alert(1)","tos_uri":"https://tracker.example/pixel"}`)
	if a.status != http.StatusCreated {
		t.Fatalf("%s", a.body)
	}
	m := a.json(t)
	if m["logo_uri"] != nil || m["client_uri"] != nil {
		t.Errorf("kept %s", a.body)
	}
	c := testClient{id: m["client_id"].(string), redirect: webRedirect}
	v := e.browser().authorize(c)
	for _, bad := range []string{"svg", "javascript:", "tracker"} {
		if strings.Contains(v.body, bad) {
			t.Errorf("page holds %q", bad)
		}
	}
}
