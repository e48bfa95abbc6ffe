package devclerk_test

import (
	"crypto/sha256"
	"encoding/base64"
	"html"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mcp-clerk/mcp-clerk/internal/devclerk"
)

// The pages that a person sees: signing in, and allowing a client.

func TestSignInPageIsOneFormWithAButtonForEachUser(t *testing.T) {
	r := newRig(t)
	page := r.authorize()
	if page.status != http.StatusOK || !strings.HasPrefix(page.header.Get("Content-Type"), "text/html") {
		t.Fatalf("status %d, %s", page.status, page.header.Get("Content-Type"))
	}
	if n := strings.Count(page.body, "<form"); n != 1 {
		t.Errorf("%d forms", n)
	}
	var labels []string
	for _, b := range buttons.FindAllStringSubmatch(page.body, -1) {
		labels = append(labels, b[3])
	}
	if want := []string{"admin@example.com", "member@example.com"}; !slices.Equal(labels, want) {
		t.Errorf("buttons %q, want %q", labels, want)
	}
	if strings.Contains(page.body, "<script") {
		t.Error("the page has a script")
	}
	if !strings.Contains(page.body, "It is not Clerk") {
		t.Error("the page does not say what it is")
	}

	csp := page.header.Get("Content-Security-Policy")
	style := regexp.MustCompile(`(?s)<style>(.*)</style>`).FindStringSubmatch(page.body)
	sum := sha256.Sum256([]byte(style[1]))
	if !strings.Contains(csp, "'sha256-"+base64.StdEncoding.EncodeToString(sum[:])+"'") {
		t.Errorf("the policy %q does not admit the page's style", csp)
	}
	// Chromium applies form-action to every redirect that follows the submit.
	if strings.Contains(csp, "form-action") || !strings.Contains(csp, "default-src 'none'") || !strings.Contains(csp, "frame-ancestors 'none'") {
		t.Errorf("policy %q", csp)
	}
}

func TestSignInReturnsWithCodeAndState(t *testing.T) {
	r := newRig(t)
	back := r.press(r.authorize(), "member@example.com")
	// A POST is left by 303, never by 307 (RFC 9700 section 4.12).
	if back.status != http.StatusSeeOther || !strings.HasPrefix(back.location.String(), redirect+"?") {
		t.Fatalf("status %d, location %v", back.status, back.location)
	}
	q := back.location.Query()
	if q.Get("state") != goodState || q.Get("code") == "" || q.Has("error") {
		t.Errorf("came back with %v", q)
	}
}

func TestSessionCookieIsForThisPortAndReturnsAtOnce(t *testing.T) {
	r := newRig(t)
	back := r.press(r.authorize(), "admin@example.com")
	u, err := url.Parse(r.url)
	must(t, err)
	resp := http.Response{Header: back.header}
	cookies := resp.Cookies()
	if len(cookies) != 1 {
		t.Fatalf("%d cookies", len(cookies))
	}
	if c := cookies[0]; !strings.HasSuffix(c.Name, "_"+u.Port()) || !c.HttpOnly || c.SameSite != http.SameSiteLaxMode || c.Path != "/" || c.Secure {
		t.Errorf("cookie %+v", c)
	}
	if again := r.authorize(); again.status != http.StatusSeeOther || again.location.Query().Get("code") == "" {
		t.Errorf("a signed-in user was not sent back: status %d", again.status)
	}
	if login := r.authorize("prompt", "login"); login.status != http.StatusOK || !strings.Contains(login.body, "Sign in as") {
		t.Errorf("prompt=login: status %d", login.status)
	}
	if none := r.authorize("prompt", "none"); none.location.Query().Get("code") == "" {
		t.Errorf("prompt=none with a session: %v", none.location)
	}
	r.newBrowser()
	if none := r.authorize("prompt", "none"); none.location.Query().Get("error") != "login_required" {
		t.Errorf("prompt=none without a session: %v", none.location)
	}
	r.clock.Add(8 * 24 * time.Hour)
	if late := r.authorize(); late.status != http.StatusOK {
		t.Errorf("a session does not end: status %d", late.status)
	}
}

func TestAuthorizeAcceptsPOST(t *testing.T) {
	r := newRig(t)
	page := r.post("/oauth/authorize", request())
	if back := r.press(page, "admin@example.com"); back.location.Query().Get("code") == "" {
		t.Errorf("location %v", back.location)
	}
}

func TestAuthorizeErrors(t *testing.T) {
	r := newRig(t)
	for _, tt := range []struct {
		name   string
		q      url.Values
		status int    // of a body; 0: a redirect
		code   string // error
	}{
		// Without a checked redirect URI the user is told (RFC 6749 section 4.1.2.1).
		{"unknown client", request("client_id", "other"), 401, "invalid_client"},
		{"no client", request("client_id", "-"), 401, "invalid_client"},
		{"redirect with a suffix", request("redirect_uri", redirect+"/x"), 400, "invalid_request"},
		{"redirect with a trailing slash", request("redirect_uri", redirect+"/"), 400, "invalid_request"},
		{"redirect on another port", request("redirect_uri", "http://localhost:1/callback"), 400, "invalid_request"},
		{"repeated state", url.Values{"client_id": {clientID}, "state": {goodState, goodState}}, 400, "invalid_request"},

		{"implicit flow", request("response_type", "token"), 0, "unsupported_response_type"},
		{"form_post", request("response_mode", "form_post"), 0, "unsupported_response_mode"},
		{"state of 7 characters", request("state", "1234567"), 0, "invalid_state"},
		{"neither state nor PKCE", request("state", "-", "code_challenge", "-", "code_challenge_method", "-"), 0, "invalid_state"},
		{"plain", request("code_challenge_method", "plain"), 0, "invalid_request"},
		{"challenge without method", request("code_challenge_method", "-"), 0, "invalid_request"},
		{"method without challenge", request("code_challenge", "-"), 0, "invalid_request"},
		{"short challenge", request("code_challenge", "abc"), 0, "invalid_request"},
		{"unknown scope", request("scope", "openid admin"), 0, "invalid_scope"},
		{"unknown prompt", request("prompt", "select"), 0, "invalid_request"},
		{"none with login", request("prompt", "none login"), 0, "invalid_request"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := r.get("/oauth/authorize?" + tt.q.Encode())
			if tt.status != 0 {
				if got.status != tt.status || got.location != nil || object(t, got.body)["error"] != tt.code {
					t.Errorf("status %d, location %v, body %s", got.status, got.location, got.body)
				}
				return
			}
			if got.status != http.StatusSeeOther || got.location.Query().Get("error") != tt.code || got.location.Query().Get("state") != tt.q.Get("state") {
				t.Errorf("status %d, location %v", got.status, got.location)
			}
		})
	}
}

func TestAuthorizeWithoutStateIsEnoughWithPKCE(t *testing.T) {
	r := newRig(t)
	back := r.press(r.authorize("state", "-", "redirect_uri", "-"), "admin@example.com")
	if q := back.location.Query(); q.Get("code") == "" || q.Has("state") {
		t.Errorf("location %v", back.location)
	}
}

func TestSignInFormOfAnotherSiteIsRefused(t *testing.T) {
	r := newRig(t)
	page := r.authorize()
	for _, header := range [][]string{{"Origin", "https://evil.example"}, {"Sec-Fetch-Site", "cross-site"}, {"Origin", "null"}} {
		if got := r.press(page, "admin@example.com", header...); got.status != http.StatusForbidden {
			t.Errorf("%v: status %d", header, got.status)
		}
	}
	if got := r.press(page, "admin@example.com", "Origin", r.url, "Sec-Fetch-Site", "same-origin"); got.status != http.StatusSeeOther {
		t.Errorf("same origin: status %d", got.status)
	}
}

func TestUserWhoMayNotSignInIsTold(t *testing.T) {
	r := newRig(t)
	page := r.authorize()
	must(t, r.srv.Ban(devclerk.AdminID))
	if got := r.press(page, "admin@example.com"); got.status != http.StatusForbidden || !strings.Contains(got.body, "is banned") {
		t.Errorf("banned: status %d", got.status)
	}
	must(t, r.srv.Unban(devclerk.AdminID))
	must(t, r.srv.Lock(devclerk.AdminID))
	if got := r.press(page, "admin@example.com"); got.status != http.StatusForbidden || !strings.Contains(got.body, "is locked") {
		t.Errorf("locked: status %d", got.status)
	}
	must(t, r.srv.Unlock(devclerk.AdminID))
	must(t, r.srv.Delete(devclerk.AdminID))
	if got := r.press(page, "admin@example.com"); got.status != http.StatusBadRequest || !strings.Contains(got.body, "does not exist") {
		t.Errorf("deleted: status %d", got.status)
	}
	if err := r.srv.Ban("user_nobody"); err == nil {
		t.Error("an unknown user was banned")
	}
}

func TestBanEndsTheSession(t *testing.T) {
	r := newRig(t)
	r.code()
	must(t, r.srv.Ban(devclerk.AdminID))
	must(t, r.srv.Unban(devclerk.AdminID))
	if got := r.authorize(); got.status != http.StatusOK {
		t.Errorf("the session survived a ban: status %d", got.status)
	}
}

func TestConsentScreenAllowsAndDenies(t *testing.T) {
	r := newRig(t)
	r.srv.SetConsentScreen(true)
	page := r.press(r.authorize(), "admin@example.com")
	if !strings.Contains(page.body, "Allow access?") {
		t.Fatalf("no consent page:\n%s", page.body)
	}
	if got := r.press(page, "Deny"); got.location.Query().Get("error") != "access_denied" || got.location.Query().Get("state") != goodState {
		t.Errorf("deny: %v", got.location)
	}
	if got := r.press(page, "Allow"); got.location.Query().Get("code") == "" {
		t.Errorf("allow: %v", got.location)
	}
	if got := r.authorize("prompt", "none"); got.location.Query().Get("error") != "consent_required" {
		t.Errorf("prompt=none: %v", got.location)
	}
	r.srv.SetConsentScreen(false)
	if got := r.authorize("prompt", "consent"); !strings.Contains(got.body, "Allow access?") {
		t.Errorf("prompt=consent: status %d", got.status)
	}
}

func TestDenyNextDeniesOnce(t *testing.T) {
	r := newRig(t)
	r.srv.DenyNext()
	if got := r.authorize(); got.location == nil || got.location.Query().Get("error") != "access_denied" {
		t.Errorf("status %d, location %v", got.status, got.location)
	}
	if got := r.authorize(); got.status != http.StatusOK {
		t.Errorf("second request: status %d", got.status)
	}
}

func TestCancelLinkOfSignInPageDenies(t *testing.T) {
	r := newRig(t)
	m := regexp.MustCompile(`<a href="([^"]+)">Cancel`).FindStringSubmatch(r.authorize().body)
	if m == nil {
		t.Fatal("no link")
	}
	u, err := url.Parse(html.UnescapeString(m[1]))
	must(t, err)
	if q := u.Query(); u.Host != "localhost:8788" || q.Get("error") != "access_denied" || q.Get("state") != goodState {
		t.Errorf("link %v", u)
	}
}
