package authserver_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
)

// RFC 7591 section 3.2.1; strict clients refuse null and empty strings.
func TestRegistrationAnswersWithWhatWasGranted(t *testing.T) {
	e := newEnv(t)
	for name, tc := range map[string]struct {
		body   string
		method string
		grants []string
		secret bool
	}{
		"minimal web client": {`{"redirect_uris":["https://app.example/cb"]}`, "client_secret_basic", []string{"authorization_code", "refresh_token"}, true},
		"minimal native app": {`{"redirect_uris":["http://127.0.0.1:3000/cb"]}`, "none", []string{"authorization_code", "refresh_token"}, false},
		"public web client":  {`{"redirect_uris":["https://app.example/cb"],"token_endpoint_auth_method":"none"}`, "none", []string{"authorization_code", "refresh_token"}, false},
		"confidential":       {`{"redirect_uris":["https://app.example/cb"],"token_endpoint_auth_method":"client_secret_post","client_name":""}`, "client_secret_post", []string{"authorization_code", "refresh_token"}, true},
		"code only":          {`{"redirect_uris":["https://app.example/cb"],"token_endpoint_auth_method":"none","grant_types":["authorization_code"]}`, "none", []string{"authorization_code"}, false},
		"VS Code": {`{"client_name":"Visual Studio Code","client_uri":"https://code.visualstudio.com","grant_types":["authorization_code","refresh_token","urn:ietf:params:oauth:grant-type:device_code"],
			"response_types":["code"],"redirect_uris":["https://insiders.vscode.dev/redirect","https://vscode.dev/redirect","http://127.0.0.1/","http://127.0.0.1:33418/"],
			"token_endpoint_auth_method":"none","application_type":"native","scope":"openid whatever"}`, "none", []string{"authorization_code", "refresh_token", deviceGrant}, false},
		"Cursor": {`{"client_name":"Cursor","redirect_uris":["cursor://anysphere.cursor-mcp/oauth/callback","https://www.cursor.com/agents/mcp/oauth/callback","http://localhost:8787/callback"],
			"application_type":"web","grant_types":["authorization_code","refresh_token"],"response_types":["code"]}`, "none", []string{"authorization_code", "refresh_token"}, false},
		"unknown members": {`{"redirect_uris":["http://localhost/cb"],"x_own":{"a":[null]},"client_name#de":"Ding","contacts":["a@b"]}`, "none", []string{"authorization_code", "refresh_token"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			a := e.registerRaw(tc.body)
			if a.status != http.StatusCreated || a.header.Get("Content-Type") != "application/json" {
				t.Fatalf("%d %s", a.status, a.body)
			}
			if strings.Contains(string(a.body), "null") || strings.Contains(string(a.body), `""`) {
				t.Errorf("null or empty in %s", a.body)
			}
			m := a.json(t)
			if m["token_endpoint_auth_method"] != tc.method || !slices.Equal(stringList(m["grant_types"]), tc.grants) || !slices.Equal(stringList(m["response_types"]), []string{"code"}) {
				t.Errorf("granted %s", a.body)
			}
			var sent struct {
				RedirectURIs []string `json:"redirect_uris"`
			}
			if err := json.Unmarshal([]byte(tc.body), &sent); err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(stringList(m["redirect_uris"]), sent.RedirectURIs) {
				t.Errorf("redirects %v, want %v", m["redirect_uris"], sent.RedirectURIs)
			}
			secret, has := m["client_secret"].(string)
			expires, hasExpires := m["client_secret_expires_at"].(float64)
			if has != tc.secret || hasExpires != tc.secret || expires != 0 {
				t.Errorf("secret %v in %s", has, a.body)
			}
			if has && !strings.HasPrefix(secret, "mcpc_cs_") {
				t.Errorf("secret without its prefix")
			}
			if _, has := m["scope"]; has { // never bound at registration
				t.Error("the registration binds scopes")
			}
			if m["client_id_issued_at"] != float64(e.clock.Now().Unix()) {
				t.Errorf("issued at %v", m["client_id_issued_at"])
			}
		})
	}
}

// RFC 7591 section 3.2.2.
func TestMalformedRegistrationsAreRefused(t *testing.T) {
	e := newEnv(t)
	var many []string
	for i := range 11 {
		many = append(many, fmt.Sprintf(`"https://app.example/cb%d"`, i))
	}
	const ok = `"redirect_uris":["https://app.example/cb"]`
	for name, tc := range map[string]struct{ body, code string }{
		"no body":                  {``, "invalid_client_metadata"},
		"null":                     {`null`, "invalid_client_metadata"},
		"array":                    {`[{` + ok + `}]`, "invalid_client_metadata"},
		"two values":               {`{` + ok + `}{}`, "invalid_client_metadata"},
		"broken":                   {`{` + ok, "invalid_client_metadata"},
		"not UTF-8":                {"{" + ok + ",\"client_name\":\"\xff\"}", "invalid_client_metadata"},
		"redirects are a string":   {`{"redirect_uris":"https://app.example/cb"}`, "invalid_client_metadata"},
		"a redirect is a number":   {`{"redirect_uris":[1]}`, "invalid_client_metadata"},
		"a redirect is null":       {`{"redirect_uris":[null]}`, "invalid_client_metadata"},
		"name is a number":         {`{` + ok + `,"client_name":7}`, "invalid_client_metadata"},
		"name is null":             {`{` + ok + `,"client_name":null}`, "invalid_client_metadata"},
		"redirects are null":       {`{"redirect_uris":null}`, "invalid_client_metadata"},
		"key twice":                {`{` + ok + `,` + ok + `}`, "invalid_client_metadata"},
		"key twice, escaped":       {`{` + ok + `,"redirect\u005furis":["https://evil.example/"]}`, "invalid_client_metadata"},
		"key in another case":      {`{"Redirect_URIs":["https://app.example/cb"]}`, "invalid_client_metadata"},
		"key with a long s":        {`{"redirect_uriſ":["https://app.example/cb"]}`, "invalid_client_metadata"},
		"nested key twice":         {`{` + ok + `,"jwks":{"keys":[],"KEYS":[]}}`, "invalid_client_metadata"},
		"deep":                     {`{` + ok + `,"x":` + strings.Repeat("[", 40) + strings.Repeat("]", 40) + `}`, "invalid_client_metadata"},
		"unknown auth method":      {`{` + ok + `,"token_endpoint_auth_method":"tls_client_auth"}`, "invalid_client_metadata"},
		"no supported grant type":  {`{` + ok + `,"grant_types":["client_credentials"]}`, "invalid_client_metadata"},
		"no supported response":    {`{` + ok + `,"response_types":["token"]}`, "invalid_client_metadata"},
		"more than 10 redirects":   {`{"redirect_uris":[` + strings.Join(many, ",") + `]}`, "invalid_client_metadata"},
		"more than 64 KiB":         {`{` + ok + `,"x":"` + strings.Repeat("a", 64<<10) + `"}`, "invalid_client_metadata"},
		"no redirect":              {`{"client_name":"x"}`, "invalid_redirect_uri"},
		"empty redirects":          {`{"redirect_uris":[]}`, "invalid_redirect_uri"},
		"private-use with secrets": {`{"redirect_uris":["cursor://anysphere.cursor-mcp/oauth/callback"],"token_endpoint_auth_method":"client_secret_basic"}`, "invalid_redirect_uri"},
	} {
		t.Run(name, func(t *testing.T) {
			expectError(t, e.registerRaw(tc.body), http.StatusBadRequest, tc.code)
		})
	}
	r := request(t, "POST", e.issuer+"/register", strings.NewReader(`{`+ok+`}`))
	r.Header.Set("Content-Type", "text/plain")
	expectError(t, e.send(r), http.StatusBadRequest, "invalid_client_metadata")
	if list, err := e.store.List(context.Background(), "client/", "", 10); err != nil || len(list) != 0 {
		t.Errorf("%d records were left by refused registrations, %v", len(list), err)
	}
}

// An allow-list after parsing: https, loopback http, exact private-use URIs
// (RFC 9700 section 2.1, RFC 8252 sections 7 and 8.4).
func TestOnlySafeRedirectsCanBeRegistered(t *testing.T) {
	e := newEnv(t)
	good := []string{
		"https://app.example/cb", "https://app.example", "https://app.example:8443/cb?x=1", "https://192.0.2.7/cb", "https://[2001:db8::1]/cb", "https://localhost:3000/cb",
		"http://localhost/cb", "http://localhost:1/cb", "http://127.0.0.1:65535", "http://[::1]:3000/oauth/callback",
		"cursor://anysphere.cursor-mcp/oauth/callback",
		"https://claude.ai/api/mcp/auth_callback", "https://vscode.dev/redirect", "http://127.0.0.1:33418/",
	}
	bad := []string{
		"javascript:alert(1)", "JaVaScript:alert(1)", "java\tscript:alert(1)", "data:text/html,x", "vbscript:x", "blob:https://app.example/x", "file:///etc/passwd", "about:blank",
		"http://app.example/cb", "http://0.0.0.0/cb", "http://127.0.0.1.evil.com/cb", "http://localhost.evil.com/cb", "http://127.1/cb", "http://2130706433/cb", "http://127.0.0.2/cb",
		"http://LOCALHOST/cb", "http://[::ffff:127.0.0.1]/cb", "http://localhost@evil.example/cb", "http://localhost:80@evil.example/cb", "http://localhost:/cb", "http://localhost:0/cb", "http://localhost:65536/cb", "http://localhost:+80/cb",
		"https://good.example@evil.example/cb", "https://a@b@evil.example/cb", `https://good.example\@evil.example/cb`, `https:\\evil.example/cb`, "https:evil.example/cb", "https:///cb", "https://", "//evil.example/cb", "/cb", "cb", "",
		"https://app.example/cb#f", "https://app.example/cb#", "https://app.example/c b", "https://app.example/c\nb", "https://app.example/c\rb", "https://app.example/c\x00b", "https://app.example/c\tb",
		"https://аpp.example/cb", "https://xn--pp-6kc.example/cb", "https://app。example/cb", "https://app.example./cb", "https://-app.example/cb", "https://app..example/cb", "https://%61pp.example/cb", "https://app.example%00/cb",
		"https://app.example/a/../cb", "https://app.example/a/..;/cb", "https://app.example/%2e%2e/cb", "https://app.example/%2E/cb", "https://app.example/a%2fb", "https://app.example/a%5cb", "https://app.example/%zz",
		`https://app.example/a\b`, `https://app.example/a"b`, "https://app.example/a<b", "https://app.example/a|b", "https://app.example/cb?x={y}", `https://app.example/cb?x=\y`,
		"cursor://anysphere.cursor-mcp/oauth/callback/", "cursor://anysphere.cursor-mcp/oauth/callback?x=1", "cursor://evil/oauth/callback", "Cursor://anysphere.cursor-mcp/oauth/callback", "cursor:anysphere.cursor-mcp/oauth/callback", "myapp://callback", "com.example.app:/cb", "ftp://app.example/cb", "ws://localhost/cb",
		"https://app.example/" + strings.Repeat("a", 2100),
	}
	for _, uri := range good {
		body, err := json.Marshal(map[string]any{"redirect_uris": []string{uri}, "token_endpoint_auth_method": "none"})
		if err != nil {
			t.Fatal(err)
		}
		if a := e.registerRaw(string(body)); a.status != http.StatusCreated {
			t.Errorf("%q refused: %s", uri, a.body)
		}
	}
	for _, uri := range bad {
		for _, list := range [][]string{{uri}, {"https://app.example/ok", uri}} { // one bad URI refuses all
			body, err := json.Marshal(map[string]any{"redirect_uris": list, "token_endpoint_auth_method": "none"})
			if err != nil {
				t.Fatal(err)
			}
			if a := e.registerRaw(string(body)); a.status != http.StatusBadRequest || a.oauthError(t) != "invalid_redirect_uri" {
				t.Errorf("%q: %d %s", uri, a.status, a.body)
			}
		}
	}
}

func TestIdenticalPublicRegistrationsShareOneClient(t *testing.T) {
	e := newEnv(t)
	body := func(port int, name string) string {
		return fmt.Sprintf(`{"client_name":%q,"redirect_uris":["http://localhost:%d/cb"],"token_endpoint_auth_method":"none"}`, name, port)
	}
	first := e.registerRaw(body(3000, "A")).json(t)
	e.clock.advance(time.Hour)
	again := e.registerRaw(body(3000, "A")).json(t)
	if first["client_id"] != again["client_id"] || first["client_id_issued_at"] != again["client_id_issued_at"] {
		t.Errorf("identical registrations differ: %v and %v", first, again)
	}
	// The port of a loopback redirect is not part of it (RFC 8252 section 7.3).
	if other := e.registerRaw(body(4000, "A")).json(t); other["client_id"] != first["client_id"] || stringList(other["redirect_uris"])[0] != "http://localhost:4000/cb" {
		t.Errorf("another port: %v", other)
	}
	if other := e.registerRaw(body(3000, "B")).json(t); other["client_id"] == first["client_id"] {
		t.Error("another name has the same id")
	}
	one, two := e.registerAs("client_secret_basic", "C", webRedirect), e.registerAs("client_secret_basic", "C", webRedirect)
	if one.id == two.id || one.secret == two.secret {
		t.Error("two confidential clients share an identity")
	}
	list, err := e.store.List(context.Background(), "client/", "", 100)
	if err != nil || len(list) != 4 {
		t.Errorf("%d client records, want 4 (%v)", len(list), err)
	}
}

func TestUnusedRegistrationsExpireAndApprovedOnesStay(t *testing.T) {
	e := newEnv(t)
	unused, renewed, used := e.register("Unused", webRedirect), e.register("Renewed", webRedirect), e.register("Used", webRedirect)
	e.signIn(used)
	e.clock.advance(60 * 24 * time.Hour)
	e.register("Renewed", webRedirect)
	e.clock.advance(31 * 24 * time.Hour)
	b := e.browser()
	if v := b.authorize(unused); v.has("Approve") {
		t.Error("an unused registration lives longer than 90 days")
	}
	for _, c := range []testClient{renewed, used} {
		if v := b.authorize(c); !v.has("Approve") {
			t.Errorf("client is gone: %d", v.status)
		}
	}
	e.clock.advance(150 * 24 * time.Hour)
	if v := b.authorize(used); !v.has("Approve") {
		t.Error("a client whose grant could still live is gone")
	}
}

// The store holds hashes of client secrets only.
func TestStoreDumpIsUseless(t *testing.T) {
	e := newEnv(t)
	c := e.registerAs("client_secret_basic", "C", webRedirect)
	v := e.browser().authorize(c).press("Approve")
	code := v.press("Continue as").answer(c).Get("code")
	dump := func() string {
		var b strings.Builder
		list, err := e.store.List(context.Background(), "", "", 1000)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range list {
			b.WriteString(r.Key + "\n" + string(r.Value) + "\n")
		}
		return b.String()
	}
	text := dump()
	tk := e.tokens(e.redeem(c, code))
	next := e.tokens(e.refresh(c, tk.refresh))
	e.browser().authorize(c).press("Approve") // leaves a page with a record
	text += dump()
	for name, secret := range map[string]string{"secret": c.secret, "code": code, "access": tk.access, "refresh": tk.refresh, "next": next.refresh, "verifier": verifier} {
		if strings.Contains(text, secret) || strings.Contains(text, secret[10:len(secret)-7]) {
			t.Errorf("the store holds the %s", name)
		}
	}
	if strings.Contains(text, "ada@example.com") {
		t.Error("the store holds the account of a sign-in under way")
	}
}
