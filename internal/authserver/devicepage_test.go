package authserver_test

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/mcp-clerk/mcp-clerk/internal/authserver"
)

// The pages at which people enter the code of a device.

// The code is short, so that guesses are few (RFC 8628 section 5.1): by
// address, and by a person who comes from many. Right codes cost nothing.
func TestUserCodesCannotBeGuessed(t *testing.T) {
	e := newEnv(t)
	c := e.registerDevice("SSH Tool")
	e.addr = "203.0.113.9:1"
	b := e.browser()
	d := e.device(c)
	for range 15 {
		expectPage(t, b.enter(d.UserCode), 200, "Approve")
	}
	wrong := func(i int) string { return fmt.Sprintf("BCDFGHJ%c", "KLMNPQRSTVWXZ"[i%13]) }
	for i := range 10 {
		expectPage(t, b.enter(wrong(i)), 404, "no such code")
	}
	blocked := b.enter(d.UserCode)
	expectPage(t, blocked, 429, "Too many codes")
	if blocked.header.Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
	if !e.events.has("device.guessed", "") {
		t.Error("guessing is not audited")
	}
	e.addr = "203.0.113.10:1"
	expectPage(t, e.browser().enter(d.UserCode), 200, "Approve")
	e.clock.advance(time.Minute)
	e.addr = "203.0.113.9:1"
	expectPage(t, b.enter(d.UserCode), 200, "Approve")

	known := e.browser()
	known.authorize(e.register("Web", webRedirect)).press("Approve").press("Continue as")
	d = e.device(c)
	for i := range 10 {
		e.addr = fmt.Sprintf("192.0.2.%d:1", i+1)
		expectPage(t, known.enter(wrong(i)), 404, "no such code")
	}
	e.addr = "192.0.2.100:1"
	expectPage(t, known.enter(d.UserCode), 429, "Too many codes")
}

// A link that brings the code along does not spare its reader the comparison
// (RFC 8628 section 5.4), and no page but the person's own gives anything away.
func TestTheDevicePageIsNotALinkThatApproves(t *testing.T) {
	e := newEnv(t)
	c := e.registerDevice("Claude Code")
	e.addr = "203.0.113.9:1"
	d := e.device(c)
	e.addr = "198.51.100.1:1"
	b := e.browser()
	v := b.open(d.Complete)
	expectPage(t, v, 200, d.UserCode, "Does your device or terminal show this code", "Nobody who means well")
	if v.has("Approve") || strings.Contains(v.body, "Claude Code") {
		t.Error("the link leads to an approval at once")
	}
	if csp := v.header.Get("Content-Security-Policy"); !strings.Contains(csp, "default-src 'none'") || !strings.Contains(csp, "frame-ancestors 'none'") || strings.Contains(csp, "unsafe") {
		t.Errorf("policy %q", csp)
	}
	page := v.press("Yes, it shows")
	expectPage(t, page, 200, "from <bdi>203.0.113.9</bdi>", "another network", "just now")
	e.addr = "203.0.113.9:1"
	if near := e.browser().enter(d.UserCode); strings.Contains(near.body, "another network") {
		t.Error("the same network is called another one")
	}
	pending := func(what string) {
		t.Helper()
		e.clock.advance(5 * time.Second)
		if a := e.poll(c, d); a.oauthError(t) != "authorization_pending" {
			t.Fatalf("%s: %s", what, a.body)
		}
	}
	for name, change := range map[string]func(*http.Request){
		"another site":   func(r *http.Request) { r.Header.Set("Origin", "https://evil.example") },
		"a null origin":  func(r *http.Request) { r.Header.Set("Origin", "null") },
		"cross-site":     func(r *http.Request) { r.Header.Set("Sec-Fetch-Site", "cross-site") },
		"no ticket":      func(r *http.Request) { *r = *filled(t, r, "ticket", "") },
		"another ticket": func(r *http.Request) { *r = *filled(t, r, "ticket", page.form("Approve").FormValue("ticket")[:40]) },
		"in the query":   func(r *http.Request) { r.URL.RawQuery = "decision=approve" },
	} {
		for step, form := range map[string]func() *http.Request{"entering": func() *http.Request { return v.form("Yes, it shows") }, "approving": func() *http.Request { return page.form("Approve") }} {
			r := form()
			change(r)
			if got := b.do(r); got.status != http.StatusForbidden {
				t.Errorf("%s from %s: %d", step, name, got.status)
			}
		}
	}
	if got := e.browser().do(page.form("Approve")); got.status != http.StatusForbidden {
		t.Errorf("approving in another browser: %d", got.status)
	}
	b.open(e.issuer + "/device?decision=approve&user_code=" + d.UserCode)
	pending("nobody has approved")

	// Two people with one code: the first one's answer counts.
	first, second := page.press("Approve"), e.browser().enter(d.UserCode).press("Approve")
	expectPage(t, first.press("Continue as"), 200, "Your device is connected")
	expectPage(t, second.press("Continue as"), 400, "has been used")
	expectPage(t, page.press("Cancel"), 400, "has been used")
	e.tokens(e.poll(c, d))
}

// A code that the address brings along is text, whatever it is.
func TestTheDevicePageTakesAnyAddress(t *testing.T) {
	e := newEnv(t)
	for _, q := range []string{"user_code=%3Cscript%3E", "user_code=" + strings.Repeat("B", 20_000), "user_code=a&user_code=b", "%zz", "user_code=%ff", "prompt=none"} {
		v := e.browser().open(e.issuer + "/device?" + q)
		if v.status != 200 && v.status != 400 || !v.has("Continue") || strings.Contains(v.body, "<script") {
			t.Errorf("%.40s: %d\n%s", q, v.status, v.body)
		}
	}
	for _, typed := range []string{"", "WDJB", "WDJB-MJHA", "WDJB-MJH1", "ＷＤＪＢ-ＭＪＨＴ", strings.Repeat("-", 40) + "WDJBMJHT" + strings.Repeat(" ", 40), "<b>"} {
		if v := e.browser().enter(typed); v.status != 400 || !v.has("Continue") || strings.Contains(v.body, "<b>") {
			t.Errorf("%q: %d\n%s", typed, v.status, v.body)
		}
	}
	if a := e.post("/device_authorization", url.Values{"client_id": {authserver.ConnectClient}, "scope": {"mcp:tools", "x"}}); a.status != 400 {
		t.Errorf("a scope twice: %d", a.status)
	}
}

// Below a path prefix, and with a proxy that takes it off, the pages lead to
// each other all the same.
func TestThePagesOfPeopleStandBelowAPrefix(t *testing.T) {
	e := newEnv(t, func(o *authserver.Options) { o.PublicURL = "https://example.org/tools" })
	c := e.registerDevice("SSH Tool")
	d := e.device(c)
	if d.Page != "https://example.org/tools/device" {
		t.Errorf("page %q", d.Page)
	}
	b := e.browser()
	done := b.open(d.Complete).press("Yes, it shows").press("Approve").press("Continue as")
	e.tokens(e.poll(c, d))
	apps := done.follow("Connected apps")
	if apps.url.Path != "/tools/account" {
		t.Errorf("at %v", apps.url)
	}
	gone := apps.press("Take the access away")
	if gone.url.Path != "/tools/account" || !strings.Contains(gone.body, "No application has access") {
		t.Errorf("at %v:\n%s", gone.url, gone.body)
	}
	if bare := b.open("https://example.org/device"); !bare.has("Continue") {
		t.Errorf("without the prefix: %d", bare.status)
	}
}
