package authserver_test

import (
	"context"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/mcp-clerk/mcp-clerk/internal/authserver"
)

func loopback(o *authserver.Options) { o.PublicURL = "http://localhost:8788" }

func prefixed(o *authserver.Options) { o.PublicURL = "https://example.org/tools/mcp-server" }

// The whole way, as a client and a person go it.
func TestSignInGivesTokensThatVerify(t *testing.T) {
	for name, change := range map[string]func(*authserver.Options){"https": func(*authserver.Options) {}, "loopback": loopback, "prefix": prefixed} {
		t.Run(name, func(t *testing.T) {
			e := newEnv(t, change)
			for _, c := range []testClient{
				e.register("Loop", loopRedirect), e.register("Web", webRedirect),
				e.registerAs("client_secret_post", "Confidential", webRedirect),
				e.register("Cursor", "cursor://anysphere.cursor-mcp/oauth/callback", "https://www.cursor.com/agents/mcp/oauth/callback"),
			} {
				tk := e.signIn(c, "resource", e.issuer+"/mcp")
				p, err := e.srv.Verify(context.Background(), tk.access)
				if err != nil {
					t.Fatal(err)
				}
				if p.Subject != "user_ada" || p.ClientID != c.id || p.Resource != e.issuer+"/mcp" || !slices.Equal(p.Scopes, []string{"mcp:tools"}) || p.Grant == "" {
					t.Errorf("principal %+v", p)
				}
				if !strings.HasPrefix(tk.access, "mcpc_at_") || !strings.HasPrefix(tk.refresh, "mcpc_rt_") {
					t.Errorf("tokens %+v without their prefixes", tk)
				}
				again := e.tokens(e.refresh(c, tk.refresh))
				if again.refresh == tk.refresh || !e.valid(again.access) {
					t.Error("refresh did not rotate")
				}
			}
		})
	}
}

// RFC 6749 section 4.1.2 and RFC 9207 section 2: code, the state as sent, iss.
func TestAuthorizationResponseCarriesStateAndIssuer(t *testing.T) {
	e := newEnv(t)
	c := e.register("Web", webRedirect+"?keep=1")
	v := e.browser().authorize(c).press("Approve").press("Continue as")
	q := v.answer(c)
	if q.Get("state") != "st 1&\r\nX: y" || q.Get("iss") != e.issuer || q.Get("keep") != "1" || !strings.HasPrefix(q.Get("code"), "mcpc_code_") {
		t.Errorf("response %v", v.url)
	}
	for _, status := range v.chain {
		if status != http.StatusFound && status != http.StatusSeeOther { // never 307 or 308: they repeat the POST
			t.Errorf("redirect by %d", status)
		}
	}
}

// RFC 6749 section 5.1: no-store on what carries credentials.
func TestTokenAndRegistrationAnswersAreNotStored(t *testing.T) {
	e := newEnv(t)
	reg := e.registerRaw(`{"redirect_uris":["https://app.example/cb"]}`)
	c := e.register("Web", webRedirect)
	for name, a := range map[string]answer{"register": reg, "token": e.redeem(c, e.code(c)), "refused": e.redeem(c, "nonsense")} {
		if a.header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s: Cache-Control %q", name, a.header.Get("Cache-Control"))
		}
	}
}

// A restart, and a second instance over the same store, lose nobody.
func TestRestartKeepsGrants(t *testing.T) {
	e := newEnv(t)
	c := e.register("Web", webRedirect)
	tk := e.signIn(c)
	e.start()
	if !e.valid(tk.access) {
		t.Error("access token refused after a restart")
	}
	if e.tokens(e.refresh(c, tk.refresh)).refresh == "" {
		t.Error("refresh token lost")
	}
}

// The request lives on in the browser while the server restarts.
func TestRestartKeepsSignInsUnderWay(t *testing.T) {
	e := newEnv(t)
	c := e.register("Web", webRedirect)
	v := e.browser().authorize(c)
	e.start()
	v = v.press("Approve")
	e.start()
	if code := v.press("Continue as").answer(c).Get("code"); code == "" {
		t.Error("no code")
	}
}

func TestOpenIDPostedAuthorizationRequestIsAnswered(t *testing.T) { // OpenID Connect Core section 3.1.2.1
	e := newEnv(t)
	c := e.register("Web", webRedirect)
	r := request(t, "POST", e.issuer+"/authorize", strings.NewReader(c.query().Encode()))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if v := e.browser().do(r); !v.has("Approve") {
		t.Errorf("no consent page: %d %s", v.status, v.body)
	}
	r = request(t, "POST", e.issuer+"/authorize?"+url.Values{"scope": {"x"}}.Encode(), strings.NewReader(c.query().Encode()))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if v := e.browser().do(r); v.has("Approve") { // once in the query and once in the body
		t.Error("a parameter that came twice was accepted")
	}
}

// A cookie set under one loopback name does not come back under another, so
// that pages are moved to the configured one first, wherever they are mounted.
func TestPagesMoveToTheConfiguredLoopbackName(t *testing.T) {
	for name, tc := range map[string]struct{ public, asked, want string }{
		"root":                          {"http://localhost:8788", "/authorize?x=1", "http://localhost:8788/authorize?x=1"},
		"prefix":                        {"http://localhost:8788/tools/mcp", "/tools/mcp/authorize?x=1", "http://localhost:8788/tools/mcp/authorize?x=1"},
		"prefix that a proxy takes off": {"http://localhost:8788/tools/mcp", "/authorize?x=1", "http://localhost:8788/tools/mcp/authorize?x=1"},
	} {
		e := newEnv(t, func(o *authserver.Options) { o.PublicURL = tc.public })
		for _, host := range []string{"127.0.0.1:8788", "[::1]:8788"} {
			a := e.get("http://" + host + tc.asked)
			if got := a.header.Get("Location"); a.status != http.StatusFound || got != tc.want || a.header.Get("Set-Cookie") != "" {
				t.Errorf("%s, %s: %d %s, cookies %q; want %s", name, host, a.status, got, a.header.Values("Set-Cookie"), tc.want)
			}
		}
	}
}
