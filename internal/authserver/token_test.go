package authserver_test

import (
	"encoding/base64"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mcp-clerk/mcp-clerk/internal/store"
)

// RFC 7636 sections 4.1 and 4.6.
func TestVerifierMustMatchTheChallenge(t *testing.T) {
	e := newEnv(t)
	c := e.register("Web", webRedirect)
	code := e.code(c)
	for name, tc := range map[string]struct{ verifier, code string }{
		"missing":              {"", "invalid_request"},
		"wrong":                {strings.Repeat("x", 43), "invalid_grant"},
		"short":                {verifier[:42], "invalid_grant"},
		"long":                 {strings.Repeat(verifier, 3)[:129], "invalid_grant"},
		"alphabet":             {verifier[:42] + "+", "invalid_grant"},
		"the challenge itself": {challenge(verifier), "invalid_grant"},
	} {
		expectError(t, e.redeem(c, code, "code_verifier", tc.verifier), http.StatusBadRequest, tc.code)
		if t.Failed() {
			t.Fatal(name)
		}
	}
	e.tokens(e.redeem(c, code)) // none of them has used it up

	// A verifier of the wrong form is refused even if it is the one promised.
	for _, weak := range []string{"", "x", verifier[:42], strings.Repeat(verifier, 3)[:129], verifier[:42] + "+"} {
		code := e.code(c, "code_challenge", challenge(weak))
		if a := e.redeem(c, code, "code_verifier", weak); a.status != http.StatusBadRequest {
			t.Errorf("verifier %q: %d %s", weak, a.status, a.body)
		}
	}
}

// RFC 6749 sections 4.1.2 and 4.1.3, RFC 9700 section 4.5: the right client's
// replay ends the grant; whatever else is presented changes nothing.
func TestOnlyTheClientsOwnReplayEndsTheGrant(t *testing.T) {
	e := newEnv(t)
	c, other := e.register("Web", webRedirect), e.register("Other", "https://other.example/cb")
	confidential := e.registerAs("client_secret_post", "Confidential", webRedirect)
	code := e.code(c)
	tk := e.tokens(e.redeem(c, code))
	expectError(t, e.redeem(other, code), 400, "invalid_grant")
	expectError(t, e.redeem(confidential, code), 400, "invalid_grant")
	expectError(t, e.redeem(c, code, "code_verifier", strings.Repeat("x", 43)), 400, "invalid_grant")
	expectError(t, e.redeem(c, code, "redirect_uri", "https://app.example/other"), 400, "invalid_grant")
	expectError(t, e.redeem(c, "mcpc_code_guess"), 400, "invalid_grant")
	expectError(t, e.redeem(c, flipByte(code, len(code)-2)), 400, "invalid_grant")
	if !e.valid(tk.access) {
		t.Fatal("a stranger ended the grant")
	}
	expectError(t, e.redeem(c, code), 400, "invalid_grant")
	if e.valid(tk.access) {
		t.Error("the access token survived the replay")
	}
	expectError(t, e.refresh(c, tk.refresh), 400, "invalid_grant")
	if !e.events.has("grant.revoked", "code replayed") {
		t.Error("the replay is not audited")
	}
}

// RFC 6749 section 4.1.3: the redirect URI must be the same if it is named;
// OAuth 2.1 clients leave it out. Another one does not use up the code.
func TestRedirectAtTheTokenEndpoint(t *testing.T) {
	e := newEnv(t)
	c := e.register("Web", webRedirect, "https://app.example/other")
	code := e.code(c)
	expectError(t, e.redeem(c, code, "redirect_uri", "https://app.example/other"), 400, "invalid_grant")
	if !e.events.has("code.refused", "") {
		t.Error("not audited")
	}
	e.tokens(e.redeem(c, code, "redirect_uri", webRedirect))
	e.tokens(e.redeem(c, e.code(c), "redirect_uri", ""))
}

func TestOneOfManyParallelRedemptionsSucceeds(t *testing.T) {
	e := newEnv(t)
	c := e.register("Web", webRedirect)
	code := e.code(c)
	var wg sync.WaitGroup
	results := make(chan int, 100)
	for range 100 {
		wg.Go(func() { results <- e.redeem(c, code).status })
	}
	wg.Wait()
	close(results)
	ok := 0
	for status := range results {
		if status == http.StatusOK {
			ok++
		} else if status != http.StatusBadRequest {
			t.Errorf("status %d", status)
		}
	}
	if ok != 1 {
		t.Errorf("%d redemptions succeeded", ok)
	}
}

func TestCodesLiveForAMinute(t *testing.T) {
	e := newEnv(t)
	c := e.register("Web", webRedirect)
	code := e.code(c)
	e.clock.advance(59 * time.Second)
	e.tokens(e.redeem(c, code))
	code = e.code(c)
	e.clock.advance(60 * time.Second)
	expectError(t, e.redeem(c, code), 400, "invalid_grant")
}

// What has expired is refused by the server itself: the store forgets it by
// a clock of its own, which may be behind.
func TestExpiryDoesNotWaitForTheStoresClock(t *testing.T) {
	e := newEnv(t)
	stands := &clock{now: e.clock.Now()}
	e.store = store.NewMemory(store.Options{Now: stands.Now})
	e.start()
	c := e.register("Web", webRedirect)
	code := e.code(c)
	e.clock.advance(time.Minute)
	expectError(t, e.redeem(c, code), 400, "invalid_grant")
	token := e.signIn(c).refresh
	e.clock.advance(30 * 24 * time.Hour)
	expectError(t, e.refresh(c, token), 400, "invalid_grant")
}

// RFC 8707 section 2.2: refused before the code is used up.
func TestCodeForAnotherResourceIsRefusedAndIntact(t *testing.T) {
	e := newEnv(t)
	c := e.register("Web", webRedirect)
	code := e.code(c)
	for _, resource := range []string{"https://other.example/mcp", "/mcp", e.issuer + "/mcp#x"} {
		expectError(t, e.redeem(c, code, "resource", resource), 400, "invalid_target")
	}
	form := c.form("grant_type", "authorization_code", "code", code, "code_verifier", verifier)
	form["resource"] = []string{e.issuer + "/mcp", e.issuer + "/mcp"}
	expectError(t, e.post("/token", form), 400, "invalid_target")
	e.tokens(e.redeem(c, code, "resource", e.issuer+"/mcp"))
}

// RFC 6749 section 3.2.
func TestMalformedTokenRequests(t *testing.T) {
	e := newEnv(t)
	c := e.register("Web", webRedirect)
	code := e.code(c)
	form := c.form("grant_type", "authorization_code", "code", code, "code_verifier", verifier).Encode()
	for name, tc := range map[string]struct{ query, body, code string }{
		"no grant type":      {"", c.form("code", code).Encode(), "invalid_request"},
		"unknown grant type": {"", c.form("grant_type", "password").Encode(), "unsupported_grant_type"},
		"client credentials": {"", c.form("grant_type", "client_credentials").Encode(), "unsupported_grant_type"},
		"no code":            {"", c.form("grant_type", "authorization_code").Encode(), "invalid_request"},
		"no refresh token":   {"", c.form("grant_type", "refresh_token").Encode(), "invalid_request"},
		"code twice":         {"", form + "&code=x", "invalid_request"},
		"verifier twice":     {"", form + "&code_verifier=" + verifier, "invalid_request"},
		"grant type twice":   {"", form + "&grant_type=refresh_token", "invalid_request"},
		"code in the URL":    {"code=" + code, form, "invalid_request"},
		"all in the URL":     {form, "", "invalid_request"},
		"broken":             {"", form + "&x=%zz", "invalid_request"},
		"not UTF-8":          {"", form + "&x=%ff", "invalid_request"},
		"large":              {"", form + "&x=" + strings.Repeat("a", 70_000), "invalid_request"},
	} {
		a := e.postRaw("/token?"+tc.query, tc.body)
		if a.status != http.StatusBadRequest || a.oauthError(t) != tc.code {
			t.Errorf("%s: %d %s", name, a.status, a.body)
		}
	}
	for _, ct := range []string{"application/json", "text/plain", ""} {
		r := request(t, "POST", e.issuer+"/token", strings.NewReader(form))
		r.Header.Set("Content-Type", ct)
		expectError(t, e.send(r), 400, "invalid_request")
	}
	r := request(t, "POST", e.issuer+"/token", strings.NewReader(form))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.Header.Set("Content-Encoding", "gzip")
	expectError(t, e.send(r), 400, "invalid_request")
	e.tokens(e.postRaw("/token", form+"&unknown=1&empty=")) // unknown parameters are ignored (RFC 6749 section 3.2)
}

// RFC 6749 section 2.3 and 5.2.
func TestClientAuthentication(t *testing.T) {
	e := newEnv(t)
	basic, post, public := e.registerAs("client_secret_basic", "B", webRedirect), e.registerAs("client_secret_post", "P", webRedirect), e.register("N", webRedirect)
	send := func(header []string, form url.Values) answer {
		r := request(t, "POST", e.issuer+"/token", strings.NewReader(form.Encode()))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		for _, h := range header {
			r.Header.Add("Authorization", h)
		}
		return e.send(r)
	}
	header := func(user, pass string) []string {
		return []string{"Basic " + base64.StdEncoding.EncodeToString([]byte(url.QueryEscape(user)+":"+url.QueryEscape(pass)))}
	}
	redeem := func(c testClient, pairs ...string) url.Values {
		return c.form(append([]string{"grant_type", "authorization_code", "code", e.code(c), "code_verifier", verifier}, pairs...)...)
	}
	for name, a := range map[string]answer{
		"basic":             send(header(basic.id, basic.secret), redeem(basic, "client_id", "", "client_secret", "")),
		"basic and id":      send(header(basic.id, basic.secret), redeem(basic, "client_secret", "")),
		"lower-case scheme": send([]string{strings.Replace(header(basic.id, basic.secret)[0], "Basic", "basic", 1)}, redeem(basic, "client_id", "", "client_secret", "")),
		"post":              send(nil, redeem(post)),
		"public":            send(nil, redeem(public)),
		"public by basic":   send(header(public.id, ""), redeem(public, "client_id", "")),
	} {
		if a.status != http.StatusOK {
			t.Errorf("%s: %d %s", name, a.status, a.body)
		}
	}
	// One body for all of these: none tells what exists.
	var bodies []string
	for name, a := range map[string]answer{
		"unknown client":     send(nil, redeem(public, "client_id", "mcpc_client_AAAAAAAAAAAAAAAAAAAAAA")),
		"no client":          send(nil, redeem(public, "client_id", "")),
		"wrong secret":       send(nil, redeem(post, "client_secret", basic.secret)),
		"no secret":          send(nil, redeem(post, "client_secret", "")),
		"secret of a public": send(nil, redeem(public, "client_secret", "x")),
		"basic, wrong":       send(header(basic.id, "x"), redeem(basic, "client_id", "", "client_secret", "")),
		"basic, unknown":     send(header("nobody", "x"), redeem(basic, "client_id", "", "client_secret", "")),
		"basic, broken":      send([]string{"Basic !!!"}, redeem(basic, "client_id", "", "client_secret", "")),
		"another scheme":     send([]string{"Bearer x"}, redeem(public)),
	} {
		if a.status != http.StatusUnauthorized || a.oauthError(t) != "invalid_client" {
			t.Errorf("%s: %d %s", name, a.status, a.body)
		}
		if challenge := a.header.Get("WWW-Authenticate"); (challenge != "") != (strings.HasPrefix(name, "basic") || name == "another scheme") {
			t.Errorf("%s: challenge %q", name, challenge)
		}
		bodies = append(bodies, string(a.body))
	}
	for _, b := range bodies {
		if b != bodies[0] {
			t.Errorf("answers differ: %q and %q", b, bodies[0])
		}
	}
	expectError(t, send(header(basic.id, basic.secret), redeem(basic, "client_id", "")), 400, "invalid_request")                                          // two ways at once
	expectError(t, send(header(basic.id, basic.secret), redeem(basic, "client_id", public.id, "client_secret", "")), 400, "invalid_request")              // two identities
	expectError(t, send(append(header(basic.id, basic.secret), "Bearer x"), redeem(basic, "client_id", "", "client_secret", "")), 400, "invalid_request") // two headers
}

// RFC 7591 section 2: the client said which grants it uses.
func TestRefreshTokensAreForClientsThatWantThem(t *testing.T) {
	e := newEnv(t)
	a := e.registerRaw(`{"redirect_uris":["https://app.example/cb"],"token_endpoint_auth_method":"none","grant_types":["authorization_code"]}`)
	c := testClient{id: a.json(t)["client_id"].(string), redirect: webRedirect}
	tk := e.signIn(c)
	if tk.refresh != "" {
		t.Error("a refresh token for a client that did not register for it")
	}
	if !e.valid(tk.access) {
		t.Error("access token refused")
	}
	e.clock.advance(time.Hour)
	if e.valid(tk.access) {
		t.Error("access token lives longer than an hour")
	}
	if tk := e.signIn(c, "scope", "mcp:tools offline_access"); tk.refresh == "" {
		t.Error("offline_access granted without a refresh token")
	}
}
