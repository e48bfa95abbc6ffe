package authserver_test

import (
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/mcp-clerk/mcp-clerk/internal/authserver"
)

// RFC 6749 section 4.1.2.1: without a client and a redirect URI that belongs
// to it nobody is redirected anywhere.
func TestRequestsWithoutACertainRedirectEndOnAPage(t *testing.T) {
	e := newEnv(t)
	c := e.register("Web", "https://app.example/cb", "https://app.example/other?x=1", "http://localhost:3000/callback", "http://127.0.0.1/only")
	for name, q := range map[string]url.Values{
		"unknown client":        c.query("client_id", "mcpc_client_AAAAAAAAAAAAAAAAAAAAAA"),
		"foreign client id":     c.query("client_id", "../client/x"),
		"long client id":        c.query("client_id", "mcpc_client_"+strings.Repeat("A", 9000)),
		"no client":             c.query("client_id", ""),
		"no redirect of many":   c.query("redirect_uri", ""),
		"suffix":                c.query("redirect_uri", "https://app.example/cb2"),
		"prefix":                c.query("redirect_uri", "https://app.example/c"),
		"trailing slash":        c.query("redirect_uri", "https://app.example/cb/"),
		"extra query":           c.query("redirect_uri", "https://app.example/cb?x=1"),
		"missing query":         c.query("redirect_uri", "https://app.example/other"),
		"path case":             c.query("redirect_uri", "https://app.example/CB"),
		"host case":             c.query("redirect_uri", "https://APP.example/cb"),
		"scheme":                c.query("redirect_uri", "http://app.example/cb"),
		"port":                  c.query("redirect_uri", "https://app.example:8443/cb"),
		"default port":          c.query("redirect_uri", "https://app.example:443/cb"),
		"subdomain":             c.query("redirect_uri", "https://x.app.example/cb"),
		"host suffix":           c.query("redirect_uri", "https://app.example.evil.example/cb"),
		"encoded dot":           c.query("redirect_uri", "https://app.example/%2e/cb"),
		"encoded letter":        c.query("redirect_uri", "https://app.example/%63b"),
		"dot segments":          c.query("redirect_uri", "https://app.example/x/../cb"),
		"path parameters":       c.query("redirect_uri", "https://app.example/x/..;/cb"),
		"fragment":              c.query("redirect_uri", "https://app.example/cb#x"),
		"user":                  c.query("redirect_uri", "https://app.example@evil.example/cb"),
		"backslash":             c.query("redirect_uri", `https://app.example\@evil.example/cb`),
		"control":               c.query("redirect_uri", "https://app.example/cb\r\nX: y"),
		"homograph":             c.query("redirect_uri", "https://аpp.example/cb"),
		"loopback path":         c.query("redirect_uri", "http://localhost:9/callback/x"),
		"loopback path case":    c.query("redirect_uri", "http://localhost:9/Callback"),
		"loopback query":        c.query("redirect_uri", "http://localhost:9/callback?x"),
		"localhost for address": c.query("redirect_uri", "http://localhost/only"),
		"address for localhost": c.query("redirect_uri", "http://127.0.0.1:3000/callback"),
		"all interfaces":        c.query("redirect_uri", "http://0.0.0.0:3000/callback"),
		"loopback look-alike":   c.query("redirect_uri", "http://127.0.0.1.evil.com/only"),
		"https loopback":        c.query("redirect_uri", "https://localhost:3000/callback"),
	} {
		v := e.browser().open(e.issuer + "/authorize?" + q.Encode())
		if v.left || v.status != http.StatusBadRequest || v.has("Approve") || !strings.Contains(v.body, "Request <code>") {
			t.Errorf("%s: %d %v", name, v.status, v.url)
		}
	}
	for name, raw := range map[string]string{
		"client twice":   c.query().Encode() + "&client_id=" + c.id,
		"redirect twice": c.query().Encode() + "&redirect_uri=" + url.QueryEscape("https://evil.example/"),
		// To loopback an error would be redirected at once.
		"loopback client twice":   c.query("redirect_uri", "http://localhost:9/callback").Encode() + "&client_id=" + c.id,
		"loopback redirect twice": c.query("redirect_uri", "http://localhost:9/callback").Encode() + "&redirect_uri=" + url.QueryEscape("http://localhost:10/callback"),
		"semicolons":              c.query().Encode() + ";x=1",
		"bad escape":              c.query().Encode() + "&x=%zz",
		"not UTF-8":               c.query().Encode() + "&x=%ff",
		"20 KB":                   c.query().Encode() + "&x=" + strings.Repeat("a", 20_000),
	} {
		if v := e.browser().open(e.issuer + "/authorize?" + raw); v.left || v.status != http.StatusBadRequest {
			t.Errorf("%s: %d %v", name, v.status, v.url)
		}
	}
}

// RFC 8252 section 7.3: any port, for the name and the addresses alike.
func TestLoopbackRedirectsWorkOnAnyPort(t *testing.T) {
	e := newEnv(t)
	c := e.register("Native", "http://localhost:3000/callback", "http://127.0.0.1/callback", "http://[::1]:1/callback", "http://127.0.0.1/")
	for _, redirect := range []string{
		"http://localhost:3000/callback", "http://localhost:54321/callback", "http://localhost/callback",
		"http://127.0.0.1:54321/callback", "http://[::1]:54321/callback", "http://127.0.0.1:33418/",
	} {
		c := testClient{id: c.id, redirect: redirect}
		v := e.browser().authorize(c).press("Approve").press("Continue as")
		a := e.redeem(c, v.answer(c).Get("code"), "redirect_uri", redirect)
		if a.status != http.StatusOK {
			t.Errorf("%s: %d %s", redirect, a.status, a.body)
		}
	}
}

// RFC 6749 section 3.1.2.3: the only registered one may be left out.
func TestOnlyRedirectMayBeLeftOut(t *testing.T) {
	e := newEnv(t)
	c := e.register("Web", webRedirect)
	if code := e.browser().authorize(c, "redirect_uri", "").press("Approve").press("Continue as").answer(c).Get("code"); code == "" {
		t.Error("no code")
	}
}

// RFC 6749 section 4.1.2.1, RFC 7636 section 4.4.1, RFC 8707 section 2, RFC 9207.
func TestClientsAreToldWhatIsWrongWithTheirRequest(t *testing.T) {
	e := newEnv(t)
	for _, c := range []testClient{e.register("Native", loopRedirect), e.registerAs("client_secret_basic", "Confidential", loopRedirect)} {
		for name, tc := range map[string]struct {
			query string
			code  string
		}{
			"no challenge":        {c.query("code_challenge", "").Encode(), "invalid_request"},
			"no method":           {c.query("code_challenge_method", "").Encode(), "invalid_request"},
			"plain":               {c.query("code_challenge_method", "plain").Encode(), "invalid_request"},
			"s256":                {c.query("code_challenge_method", "s256").Encode(), "invalid_request"},
			"short challenge":     {c.query("code_challenge", strings.Repeat("A", 42)).Encode(), "invalid_request"},
			"long challenge":      {c.query("code_challenge", strings.Repeat("A", 44)).Encode(), "invalid_request"},
			"challenge alphabet":  {c.query("code_challenge", strings.Repeat("+", 43)).Encode(), "invalid_request"},
			"no response type":    {c.query("response_type", "").Encode(), "invalid_request"},
			"implicit":            {c.query("response_type", "token").Encode(), "unsupported_response_type"},
			"fragment":            {c.query("response_mode", "fragment").Encode(), "invalid_request"},
			"request object":      {c.query("request", "x").Encode(), "request_not_supported"},
			"request URI":         {c.query("request_uri", "https://x").Encode(), "request_uri_not_supported"},
			"scope twice":         {c.query().Encode() + "&scope=x", "invalid_request"},
			"challenge twice":     {c.query().Encode() + "&code_challenge=x", "invalid_request"},
			"unknown twice":       {c.query().Encode() + "&x=1&x=2", "invalid_request"},
			"two resources":       {c.query("resource", e.issuer+"/mcp").Encode() + "&resource=" + url.QueryEscape(e.issuer+"/mcp"), "invalid_target"},
			"other host":          {c.query("resource", "https://other.example/mcp").Encode(), "invalid_target"},
			"other path":          {c.query("resource", e.issuer+"/other").Encode(), "invalid_target"},
			"resource fragment":   {c.query("resource", e.issuer+"/mcp#x").Encode(), "invalid_target"},
			"relative resource":   {c.query("resource", "/mcp").Encode(), "invalid_target"},
			"resource with user":  {c.query("resource", "https://x@mcp.example/mcp").Encode(), "invalid_target"},
			"prompt none and any": {c.query("prompt", "none login").Encode(), "invalid_request"},
			"prompt none":         {c.query("prompt", "none").Encode(), "login_required"},
		} {
			v := e.browser().open(e.issuer + "/authorize?" + tc.query)
			if !v.left {
				t.Errorf("%s: %d %s", name, v.status, v.body)
				continue
			}
			q := v.answer(c)
			if q.Get("error") != tc.code || q.Get("state") != "st 1&\r\nX: y" || q.Get("iss") != e.issuer || q.Has("code") {
				t.Errorf("%s: %v", name, q)
			}
		}
		v := e.browser().open(e.issuer + "/authorize?" + c.query().Encode() + "&state=other")
		if q := v.answer(c); q.Get("error") != "invalid_request" || q.Has("state") {
			t.Errorf("state twice: %v", q)
		}
	}
}

// RFC 9700 section 4.11.2: whoever registers a client must not get a redirector
// (cases/server 9).
func TestErrorsOfAnUnapprovedWebClientStopAtAPage(t *testing.T) {
	e := newEnv(t)
	c := e.register("Web", webRedirect)
	b := e.browser()
	v := b.authorize(c, "response_type", "token")
	if v.left || v.status != http.StatusBadRequest || !strings.Contains(v.body, "app.example") {
		t.Fatalf("no page in between: %d %v", v.status, v.url)
	}
	v = v.follow("Return to app.example")
	if q := v.answer(c); q.Get("error") != "unsupported_response_type" || q.Get("iss") != e.issuer {
		t.Errorf("link leads to %v", v.url)
	}
	b.authorize(c).press("Approve").press("Continue as")
	if v := b.authorize(c, "response_type", "token"); !v.left || v.answer(c).Get("error") != "unsupported_response_type" {
		t.Error("a client that this user has approved is not told")
	}
	if v := e.browser().authorize(c, "response_type", "token"); v.left {
		t.Error("one user's approval counts in another browser")
	}
	// An approval ends with what was approved (RFC 7009).
	tk := e.tokens(e.redeem(c, b.authorize(c).press("Approve").answer(c).Get("code")))
	if a := e.post("/revoke", c.form("token", tk.refresh)); a.status != http.StatusOK {
		t.Fatalf("revoke: %d %s", a.status, a.body)
	}
	if v := b.authorize(c, "response_type", "token"); v.left {
		t.Error("the approval outlives the grant that its client has given back")
	}
}

// Clients ask every server for the same scopes (RFC 6749 section 3.3).
func TestUnknownScopesAreDropped(t *testing.T) {
	e := newEnv(t)
	c := e.register("Claude", webRedirect)
	for asked, want := range map[string]string{
		"":                              "mcp:tools",
		"  mcp:tools offline_access":    "mcp:tools offline_access",
		"openid profile claudeai":       "mcp:tools",
		"offline_access":                "mcp:tools offline_access",
		"offline_access x mcp:tools":    "mcp:tools offline_access",
		"mcp:tools mcp:tools MCP:TOOLS": "mcp:tools",
	} {
		if tk := e.signIn(c, "scope", asked, "prompt", "consent"); tk.scope != want {
			t.Errorf("scope %q granted as %q, want %q", asked, tk.scope, want)
		}
	}
}

// A client that does not know of scopes would not come back for more, and gets
// all of the resource's; one that asks gets what it asked for, and what every
// call needs.
func TestScopesOfToolGroupsAreGivenWhenAskedForOrWhenNothingIs(t *testing.T) {
	e := newEnv(t, func(o *authserver.Options) {
		o.Scopes = []authserver.Scope{{Name: "mcp:images", Description: "Have pictures made"}}
	})
	for range 2 { // the second one changes nothing
		if err := e.srv.AddScope(authserver.Scope{Name: "mcp:mail", Description: "Send mail"}); err != nil {
			t.Fatal(err)
		}
	}
	for _, bad := range []string{"", "a b", `a"b`, "ü"} {
		if err := e.srv.AddScope(authserver.Scope{Name: bad, Description: "x"}); err == nil {
			t.Errorf("scope %q was added", bad)
		}
	}
	c := e.register("Claude", webRedirect)
	for asked, want := range map[string]string{
		"":                          "mcp:tools mcp:images mcp:mail",
		"openid":                    "mcp:tools mcp:images mcp:mail",
		"offline_access":            "mcp:tools mcp:images mcp:mail offline_access",
		"mcp:tools":                 "mcp:tools",
		"mcp:mail":                  "mcp:tools mcp:mail",
		"mcp:images offline_access": "mcp:tools mcp:images offline_access",
	} {
		if tk := e.signIn(c, "scope", asked); tk.scope != want {
			t.Errorf("scope %q granted as %q, want %q", asked, tk.scope, want)
		}
	}
	v := e.browser().authorize(c, "scope", "mcp:mail")
	if !strings.Contains(v.body, "Send mail") || !strings.Contains(v.body, "your account may use") || strings.Contains(v.body, "pictures") {
		t.Errorf("the page does not say in words what is asked for:\n%s", v.body)
	}
	// RFC 8414, RFC 9728 and RFC 6750 section 3: all of it is announced, but
	// offline_access is not a matter of the resource.
	const tools = "mcp:tools mcp:images mcp:mail"
	if got := strings.Join(stringList(e.get("/.well-known/oauth-authorization-server").json(t)["scopes_supported"]), " "); got != tools+" offline_access" {
		t.Errorf("scopes of the server: %s", got)
	}
	if got := strings.Join(stringList(e.get("/.well-known/oauth-protected-resource/mcp").json(t)["scopes_supported"]), " "); got != tools {
		t.Errorf("scopes of the resource: %s", got)
	}
	if got := e.srv.Challenge(request(t, "POST", "https://mcp.example/mcp", nil), ""); !strings.Contains(got, `scope="`+tools+`"`) {
		t.Errorf("challenge %s", got)
	}
}

// RFC 8707 section 2; MCP 2026-07-28 "Canonical Server URI" on case.
func TestResourceMayBeWrittenInOtherWays(t *testing.T) {
	e := newEnv(t)
	c := e.register("Web", webRedirect)
	for _, resource := range []string{"https://mcp.example/mcp", "HTTPS://MCP.Example/mcp", "https://mcp.example:443/mcp", ""} {
		tk := e.tokens(e.redeem(c, e.code(c, "resource", resource), "resource", resource))
		if !e.valid(tk.access) {
			t.Errorf("resource %q", resource)
		}
	}
	l := newEnv(t, loopback)
	c = l.register("Native", loopRedirect)
	for _, resource := range []string{"http://localhost:8788/mcp", "http://127.0.0.1:8788/mcp", "http://[::1]:8788/mcp"} {
		tk := l.tokens(l.redeem(c, l.code(c, "resource", resource), "resource", "http://127.0.0.1:8788/mcp"))
		if !l.valid(tk.access) {
			t.Errorf("resource %q", resource)
		}
	}
	for _, resource := range []string{"http://127.0.0.1:8789/mcp", "https://127.0.0.1:8788/mcp", "http://127.0.0.2:8788/mcp", "http://127.0.0.1:8788/"} {
		if q := l.browser().authorize(c, "resource", resource).answer(c); q.Get("error") != "invalid_target" {
			t.Errorf("resource %q: %v", resource, q)
		}
	}
}

// A cookie set under one loopback name would be missing under the other.
func TestPagesMoveToTheCanonicalLoopbackNameBeforeAnyCookie(t *testing.T) {
	e := newEnv(t, loopback)
	c := e.register("Native", loopRedirect)
	a := e.get("http://127.0.0.1:8788/authorize?" + c.query().Encode())
	if a.status != http.StatusFound || len(a.header.Values("Set-Cookie")) > 0 {
		t.Fatalf("%d %v", a.status, a.header)
	}
	if got, want := a.header.Get("Location"), "http://localhost:8788/authorize?"+c.query().Encode(); got != want {
		t.Errorf("redirected to %s, want %s", got, want)
	}
	v := e.browser().open("http://127.0.0.1:8788/authorize?" + c.query().Encode())
	if code := v.press("Approve").press("Continue as").answer(c).Get("code"); code == "" {
		t.Error("no code")
	}
}
