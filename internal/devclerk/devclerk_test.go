package devclerk_test

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"html"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/mcp-clerk/mcp-clerk/internal/devclerk"
	"github.com/mcp-clerk/mcp-clerk/internal/secret"
)

const (
	clientID  = "dev_client"
	redirect  = "http://localhost:8788/callback"
	verifier  = "a-verifier-of-more-than-forty-three-characters-0"
	goodState = "state-of-this-sign-in"
)

// An RSA key is slow to make: the tests share one.
var rsaKey = sync.OnceValue(func() *rsa.PrivateKey {
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return k
})

// clock is a time that only the test moves.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func newClock() *clock { return &clock{t: time.Date(2026, 11, 23, 9, 0, 0, 0, time.UTC)} }

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) Add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

// rig is a stand-in behind a real socket, and a browser.
type rig struct {
	t     *testing.T
	srv   *devclerk.Server
	url   string
	clock *clock
	http  *http.Client
}

func newRig(t *testing.T) *rig {
	t.Helper()
	c := newClock()
	srv, err := devclerk.New(devclerk.Options{
		ClientID: clientID, ClientSecret: "dev_secret", SecretKey: "sk_test_dev", RedirectURLs: []string{redirect}, Now: c.Now, SigningKey: rsaKey(),
	})
	must(t, err)
	ts := httptest.NewServer(srv)
	t.Cleanup(ts.Close)
	must(t, srv.SetIssuer(ts.URL))
	r := &rig{t: t, srv: srv, url: ts.URL, clock: c}
	r.newBrowser()
	return r
}

// newBrowser forgets all cookies. Redirects are not followed.
func (r *rig) newBrowser() {
	jar, err := cookiejar.New(nil)
	must(r.t, err)
	r.http = &http.Client{Jar: jar, Timeout: 10 * time.Second, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func challenge(v string) string {
	sum := sha256.Sum256([]byte(v))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// request is a valid authorization request, changed by pairs of name and value;
// the value "-" removes.
func request(pairs ...string) url.Values {
	q := url.Values{
		"response_type": {"code"}, "client_id": {clientID}, "redirect_uri": {redirect}, "state": {goodState},
		"scope": {"openid profile email public_metadata"}, "nonce": {"n-1"},
		"code_challenge": {challenge(verifier)}, "code_challenge_method": {"S256"},
	}
	for i := 0; i < len(pairs); i += 2 {
		q.Set(pairs[i], pairs[i+1])
		if pairs[i+1] == "-" {
			q.Del(pairs[i])
		}
	}
	return q
}

type reply struct {
	status   int
	header   http.Header
	body     string
	location *url.URL
}

func (r *rig) do(req *http.Request) reply {
	r.t.Helper()
	resp, err := r.http.Do(req)
	must(r.t, err)
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	must(r.t, err)
	loc, _ := resp.Location()
	return reply{resp.StatusCode, resp.Header, string(b), loc}
}

func (r *rig) get(path string, header ...string) reply {
	r.t.Helper()
	req, err := http.NewRequest(http.MethodGet, r.url+path, nil)
	must(r.t, err)
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	return r.do(req)
}

func (r *rig) post(path string, form url.Values, header ...string) reply {
	r.t.Helper()
	req, err := http.NewRequest(http.MethodPost, r.url+path, strings.NewReader(form.Encode()))
	must(r.t, err)
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	return r.do(req)
}

func (r *rig) authorize(pairs ...string) reply {
	r.t.Helper()
	return r.get("/oauth/authorize?" + request(pairs...).Encode())
}

var (
	formAction = regexp.MustCompile(`<form method="post" action="([^"]+)">`)
	buttons    = regexp.MustCompile(`<button type="submit" name="([^"]+)" value="([^"]+)"[^>]*>([^<]*)</button>`)
)

// press submits the form of a page by the button with that label.
func (r *rig) press(page reply, label string, header ...string) reply {
	r.t.Helper()
	action := formAction.FindStringSubmatch(page.body)
	if action == nil {
		r.t.Fatalf("no form in the page (status %d):\n%s", page.status, page.body)
	}
	for _, b := range buttons.FindAllStringSubmatch(page.body, -1) {
		if b[3] == label {
			return r.post(html.UnescapeString(action[1]), url.Values{b[1]: {b[2]}}, header...)
		}
	}
	r.t.Fatalf("no button %q in:\n%s", label, page.body)
	return reply{}
}

func (r *rig) code(pairs ...string) string {
	r.t.Helper()
	back := r.press(r.authorize(pairs...), "admin@example.com")
	code := ""
	if back.location != nil {
		code = back.location.Query().Get("code")
	}
	if code == "" {
		r.t.Fatalf("no code: status %d, location %v", back.status, back.location)
	}
	return code
}

func (r *rig) token(form url.Values, header ...string) (int, map[string]any) {
	r.t.Helper()
	if header == nil {
		header = []string{"Authorization", "Basic " + base64.StdEncoding.EncodeToString([]byte(clientID+":dev_secret"))}
	}
	rep := r.post("/oauth/token", form, header...)
	return rep.status, object(r.t, rep.body)
}

func codeForm(code string, pairs ...string) url.Values {
	f := url.Values{"grant_type": {"authorization_code"}, "code": {code}, "redirect_uri": {redirect}, "code_verifier": {verifier}}
	for i := 0; i < len(pairs); i += 2 {
		f.Set(pairs[i], pairs[i+1])
		if pairs[i+1] == "-" {
			f.Del(pairs[i])
		}
	}
	return f
}

func object(t *testing.T, text string) map[string]any {
	t.Helper()
	var m map[string]any
	if err := json.Unmarshal([]byte(text), &m); err != nil {
		t.Fatalf("not an object: %v\n%s", err, text)
	}
	return m
}

func claims(t *testing.T, jwt any) map[string]any {
	t.Helper()
	text, _ := jwt.(string)
	parts := strings.Split(text, ".")
	if len(parts) != 3 {
		t.Fatalf("not a JWT: %v", jwt)
	}
	b, err := base64.RawURLEncoding.DecodeString(parts[1])
	must(t, err)
	return object(t, string(b))
}

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

func TestTokenByBasicAndPost(t *testing.T) {
	for name, header := range map[string][]string{"basic": nil, "post": {}} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			form := codeForm(r.code())
			if name == "post" {
				form.Set("client_id", clientID)
				form.Set("client_secret", "dev_secret")
			}
			status, got := r.token(form, header...)
			if status != http.StatusOK || got["token_type"] != "Bearer" || got["expires_in"] != 86400.0 || got["refresh_token"] == nil {
				t.Fatalf("status %d, %v", status, got)
			}
		})
	}
}

func TestIDTokenClaimsFollowTheScopes(t *testing.T) {
	r := newRig(t)
	must(t, r.srv.SetUnsafeMetadata(devclerk.AdminID, map[string]any{"role": "superadmin"}))
	_, got := r.token(codeForm(r.code("scope", "openid profile email public_metadata")))
	c := claims(t, got["id_token"])
	for name, want := range map[string]any{
		"iss": r.url, "sub": devclerk.AdminID, "aud": clientID, "nonce": "n-1",
		"given_name": "Ada", "family_name": "Lindqvist", "name": "Ada Lindqvist",
		"email": "admin@example.com", "email_verified": true,
	} {
		if c[name] != want {
			t.Errorf("%s = %v, want %v", name, c[name], want)
		}
	}
	if m, _ := c["public_metadata"].(map[string]any); m["role"] != "admin" {
		t.Errorf("public_metadata = %v", c["public_metadata"])
	}
	// Clerk delivers what users write themselves along with it.
	if m, _ := c["unsafe_metadata"].(map[string]any); m["role"] != "superadmin" {
		t.Errorf("unsafe_metadata = %v", c["unsafe_metadata"])
	}
	if c["exp"].(float64)-c["iat"].(float64) != 86400 || c["jti"] == "" || c["sid"] != nil {
		t.Errorf("times or ids: %v", c)
	}
	r.newBrowser()
	_, got = r.token(codeForm(r.code("scope", "openid")))
	if c := claims(t, got["id_token"]); c["email"] != nil || c["given_name"] != nil || c["public_metadata"] != nil {
		t.Errorf("scope openid alone: %v", c)
	}
	r.newBrowser()
	if _, got = r.token(codeForm(r.code("scope", "email"))); got["id_token"] != nil {
		t.Error("an id_token without the scope openid")
	}
}

func TestTokenErrors(t *testing.T) {
	for _, tt := range []struct {
		name   string
		form   func(code string) url.Values
		header []string
		status int
		code   string
		intact bool // the code still works afterwards
	}{
		{"wrong secret", func(c string) url.Values { return codeForm(c) }, []string{"Authorization", "Basic " + base64.StdEncoding.EncodeToString([]byte(clientID+":no"))}, 401, "invalid_client", true},
		{"no client", func(c string) url.Values { return codeForm(c) }, []string{}, 401, "invalid_client", true},
		{"unknown code", func(string) url.Values { return codeForm("clk_code_x") }, nil, 400, "invalid_grant", true},
		{"wrong verifier", func(c string) url.Values {
			return codeForm(c, "code_verifier", strings.Repeat("x", 43))
		}, nil, 400, "invalid_grant", true},
		{"no verifier", func(c string) url.Values { return codeForm(c, "code_verifier", "-") }, nil, 400, "invalid_grant", true},
		{"other redirect", func(c string) url.Values { return codeForm(c, "redirect_uri", redirect+"2") }, nil, 400, "invalid_grant", true},
		{"no redirect", func(c string) url.Values { return codeForm(c, "redirect_uri", "-") }, nil, 400, "invalid_grant", true},
		{"other grant type", func(c string) url.Values { return codeForm(c, "grant_type", "password") }, nil, 400, "unsupported_grant_type", true},
		{"parameter twice", func(c string) url.Values {
			f := codeForm(c)
			f.Add("code", c)
			return f
		}, nil, 400, "invalid_request", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t)
			code := r.code()
			status, got := r.token(tt.form(code), tt.header...)
			if status != tt.status || got["error"] != tt.code {
				t.Errorf("status %d, %v", status, got)
			}
			if status, got := r.token(codeForm(code)); (status == http.StatusOK) != tt.intact {
				t.Errorf("the code afterwards: status %d, %v", status, got)
			}
		})
	}
}

func TestCodeWorksOnceAndForTenMinutes(t *testing.T) {
	r := newRig(t)
	code := r.code()
	status, first := r.token(codeForm(code))
	if status != http.StatusOK {
		t.Fatalf("status %d", status)
	}
	// RFC 6749 section 4.1.2: a second use ends the tokens of the first.
	if status, got := r.token(codeForm(code)); status != http.StatusBadRequest || got["error"] != "invalid_grant" {
		t.Errorf("second use: status %d, %v", status, got)
	}
	refresh := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {first["refresh_token"].(string)}}
	if status, _ := r.token(refresh); status != http.StatusBadRequest {
		t.Errorf("refresh after a replay: status %d", status)
	}
	r.newBrowser()
	code = r.code()
	r.clock.Add(10 * time.Minute)
	if status, _ := r.token(codeForm(code)); status != http.StatusBadRequest {
		t.Errorf("after ten minutes: status %d", status)
	}
}

func TestCodeOfAUserBannedMeanwhileIsRefused(t *testing.T) {
	r := newRig(t)
	code := r.code()
	must(t, r.srv.Ban(devclerk.AdminID))
	if status, got := r.token(codeForm(code)); status != http.StatusBadRequest || got["error"] != "invalid_grant" {
		t.Errorf("status %d, %v", status, got)
	}
}

func TestRefreshRenewsTheTokens(t *testing.T) {
	r := newRig(t)
	_, first := r.token(codeForm(r.code()))
	form := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {first["refresh_token"].(string)}}
	status, second := r.token(form)
	if status != http.StatusOK || second["access_token"] == first["access_token"] || second["id_token"] == nil {
		t.Fatalf("status %d, %v", status, second)
	}
	form.Set("refresh_token", second["refresh_token"].(string))
	form.Set("scope", "openid private_metadata")
	if status, got := r.token(form); status != http.StatusBadRequest || got["error"] != "invalid_scope" {
		t.Errorf("wider scope: status %d, %v", status, got)
	}
	must(t, r.srv.Ban(devclerk.AdminID))
	form.Del("scope")
	if status, _ := r.token(form); status != http.StatusBadRequest {
		t.Errorf("banned: status %d", status)
	}
}

func TestUserInfoTokenInfoAndRevocation(t *testing.T) {
	for name, opaque := range map[string]bool{"jwt": false, "opaque": true} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.srv.SetOpaqueTokens(opaque)
			_, tokens := r.token(codeForm(r.code()))
			access := tokens["access_token"].(string)
			if strings.HasPrefix(access, "oat_") != opaque {
				t.Fatalf("access token %.10s…", access)
			}
			info := r.get("/oauth/userinfo", "Authorization", "Bearer "+access)
			if got := object(t, info.body); got["user_id"] != devclerk.AdminID || got["sub"] != devclerk.AdminID || got["email"] != "admin@example.com" {
				t.Errorf("userinfo %v", got)
			}
			basic := []string{"Authorization", "Basic " + base64.StdEncoding.EncodeToString([]byte(clientID+":dev_secret"))}
			intro := object(t, r.post("/oauth/token_info", url.Values{"token": {access}}, basic...).body)
			if intro["active"] != true || intro["sub"] != devclerk.AdminID || intro["client_id"] != clientID {
				t.Errorf("token_info %v", intro)
			}
			revoked := r.post("/oauth/token/revoke", url.Values{"token": {access}}, basic...)
			info = r.get("/oauth/userinfo", "Authorization", "Bearer "+access)
			if opaque {
				if revoked.status != http.StatusOK || info.status != http.StatusUnauthorized {
					t.Errorf("revoked with %d, then userinfo %d", revoked.status, info.status)
				}
				if errs, _ := object(t, info.body)["errors"].([]any); len(errs) != 1 {
					t.Errorf("userinfo's error is not in Clerk's form: %s", info.body)
				}
			} else if revoked.status != http.StatusBadRequest || object(t, revoked.body)["error"] != "unsupported_token_type" {
				t.Errorf("revoking a JWT: status %d, %s", revoked.status, revoked.body)
			}
			if got := r.post("/oauth/token_info", url.Values{"token": {"x"}}, basic...); !bytes.Equal([]byte(got.body), []byte(`{"active":false}`)) {
				t.Errorf("token_info of an unknown token: %s", got.body)
			}
		})
	}
}

func TestBackendNeedsTheSecretKey(t *testing.T) {
	r := newRig(t)
	for header, code := range map[string]string{"": "authorization_header_format_invalid", "Bearer sk_test_other": "clerk_key_invalid"} {
		got := r.get("/v1/users/"+devclerk.AdminID, "Authorization", header)
		errs, _ := object(t, got.body)["errors"].([]any)
		if got.status != http.StatusUnauthorized || len(errs) != 1 || errs[0].(map[string]any)["code"] != code {
			t.Errorf("%q: status %d, %s", header, got.status, got.body)
		}
	}
}

func TestUserListFiltersAndPages(t *testing.T) {
	r := newRig(t)
	list := func(query string) []string {
		t.Helper()
		var users []struct{ ID string }
		got := r.get("/v1/users?"+query, "Authorization", "Bearer sk_test_dev")
		if err := json.Unmarshal([]byte(got.body), &users); err != nil {
			t.Fatalf("%s: %v\n%s", query, err, got.body)
		}
		ids := []string{}
		for _, u := range users {
			ids = append(ids, u.ID)
		}
		return ids
	}
	r.clock.Add(time.Second)
	must(t, r.srv.AddUser(devclerk.User{ID: "user_new", Email: "new@example.com", Banned: true}))
	for query, want := range map[string][]string{
		"":                                   {"user_new", devclerk.AdminID, devclerk.MemberID}, // the newest first
		"limit=1":                            {"user_new"},
		"limit=1&offset=2":                   {devclerk.MemberID},
		"offset=9":                           {},
		"user_id=user_new&user_id=user_none": {"user_new"},
		"user_id=%2Buser_new":                {"user_new"},
		"user_id=-user_new":                  {devclerk.AdminID, devclerk.MemberID},
		"email_address=new@example.com":      {"user_new"},
		"banned=false":                       {devclerk.AdminID, devclerk.MemberID},
	} {
		if got := list(query); !slices.Equal(got, want) {
			t.Errorf("%q: %v, want %v", query, got, want)
		}
	}
	if got := r.get("/v1/users/count?banned=true", "Authorization", "Bearer sk_test_dev"); object(t, got.body)["total_count"] != 1.0 {
		t.Errorf("count: %s", got.body)
	}
	for _, query := range []string{"limit=0", "limit=501", "limit=x", "offset=-1", strings.Repeat("user_id=a&", 101)} {
		if got := r.get("/v1/users?"+query, "Authorization", "Bearer sk_test_dev"); got.status != http.StatusUnprocessableEntity {
			t.Errorf("%.20q: status %d", query, got.status)
		}
	}
}

func TestKeysRotate(t *testing.T) {
	r := newRig(t)
	kids := func() []string {
		t.Helper()
		var set jose.JSONWebKeySet
		must(t, json.Unmarshal([]byte(r.get("/.well-known/jwks.json").body), &set))
		var list []string
		for _, k := range set.Keys {
			if !k.IsPublic() || k.Algorithm != "RS256" || k.Use != "sig" {
				t.Errorf("key %q: public %v, alg %q, use %q", k.KeyID, k.IsPublic(), k.Algorithm, k.Use)
			}
			list = append(list, k.KeyID)
		}
		return list
	}
	first := kids()
	must(t, r.srv.RotateKeys(true))
	both := kids()
	if len(first) != 1 || len(both) != 2 || both[0] != first[0] {
		t.Errorf("%v, then %v", first, both)
	}
	must(t, r.srv.RotateKeys(false))
	if last := kids(); len(last) != 1 || slices.Contains(both, last[0]) {
		t.Errorf("then %v", last)
	}
	_, got := r.token(codeForm(r.code()))
	jws, err := jose.ParseSignedCompact(got["id_token"].(string), []jose.SignatureAlgorithm{jose.RS256})
	must(t, err)
	if id := jws.Signatures[0].Header.KeyID; id != kids()[0] {
		t.Errorf("signed with %q", id)
	}
}

func TestKeyIsMadeWhenItIsNeeded(t *testing.T) {
	s, err := devclerk.New(devclerk.Options{Issuer: "http://localhost:1"})
	must(t, err)
	get := func() string {
		w := httptest.NewRecorder()
		s.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "http://localhost:1/.well-known/jwks.json", nil))
		return w.Body.String()
	}
	if a, b := get(), get(); !strings.Contains(a, `"kid":"ins_`) || a != b {
		t.Errorf("key sets %q and %q", a, b)
	}
}

func TestFaultsApplyAndEnd(t *testing.T) {
	r := newRig(t)
	user := func() int {
		return r.get("/v1/users/"+devclerk.AdminID, "Authorization", "Bearer sk_test_dev").status
	}
	r.srv.SetDown("/v1/", true)
	if got := user(); got != http.StatusServiceUnavailable {
		t.Errorf("down: status %d", got)
	}
	if got := r.authorize().status; got != http.StatusOK {
		t.Errorf("another path: status %d", got)
	}
	r.srv.SetDown("/v1/", false)
	r.srv.SetFault("/v1/users/", devclerk.Fault{Status: 429, RetryAfter: 1500 * time.Millisecond, Times: 2})
	got := r.get("/v1/users/"+devclerk.AdminID, "Authorization", "Bearer sk_test_dev")
	if got.status != 429 || got.header.Get("Retry-After") != "2" {
		t.Errorf("status %d, Retry-After %q", got.status, got.header.Get("Retry-After"))
	}
	if a, b := user(), user(); a != 429 || b != 200 {
		t.Errorf("then %d and %d", a, b)
	}
	if n := r.srv.Requests("GET /v1/users/{id}"); n != 4 {
		t.Errorf("%d requests counted", n)
	}
}

func TestRateLimitOpensWithTheNextWindow(t *testing.T) {
	r := newRig(t)
	r.srv.RateLimit(2, 10*time.Second)
	var got []int
	for range 3 {
		got = append(got, r.get("/v1/users", "Authorization", "Bearer sk_test_dev").status)
	}
	r.clock.Add(10 * time.Second)
	got = append(got, r.get("/v1/users", "Authorization", "Bearer sk_test_dev").status)
	if want := []int{200, 200, 429, 200}; !slices.Equal(got, want) {
		t.Errorf("statuses %v, want %v", got, want)
	}
}

func TestOptionsAreChecked(t *testing.T) {
	for name, o := range map[string]devclerk.Options{
		"issuer with a path":  {Issuer: "http://localhost:1/x"},
		"issuer without host": {Issuer: "localhost"},
		"relative redirect":   {RedirectURLs: []string{"/callback"}},
		"user without e-mail": {Users: []devclerk.User{{ID: "user_1"}}},
		"user twice":          {Users: []devclerk.User{{ID: "user_1", Email: "a@b"}, {ID: "user_1", Email: "c@d"}}},
		"foreign user id":     {Users: []devclerk.User{{ID: "1", Email: "a@b"}}},
		"metadata not JSON":   {Users: []devclerk.User{{Email: "a@b", PublicMetadata: map[string]any{"f": func() {}}}}},
	} {
		if _, err := devclerk.New(o); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestMadeUpCredentialsDiffer(t *testing.T) {
	seen := map[secret.String]bool{}
	for range 2 {
		s, err := devclerk.New(devclerk.Options{})
		must(t, err)
		for _, v := range []secret.String{secret.String(s.ClientID()), s.ClientSecret(), s.SecretKey()} {
			if len(v) < 16 || seen[v] {
				t.Errorf("credential of %d characters, seen %v", len(v), seen[v])
			}
			seen[v] = true
		}
	}
}

func TestNothingIsServedWithoutIssuer(t *testing.T) {
	s, err := devclerk.New(devclerk.Options{})
	must(t, err)
	w := httptest.NewRecorder()
	s.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/.well-known/openid-configuration", nil))
	if w.Code != http.StatusServiceUnavailable {
		t.Errorf("status %d", w.Code)
	}
}
