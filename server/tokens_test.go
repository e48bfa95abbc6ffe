package server_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mark3labs/mcp-go/mcp"

	"github.com/mcp-clerk/mcp-clerk/internal/devclerk"
	"github.com/mcp-clerk/mcp-clerk/server"
)

// byClerk makes Clerk the authorization server, without a client of its own there.
func byClerk(o *server.Options) {
	o.AuthorizationServer = server.AuthorizationServerClerk
	o.Clerk.ClientID, o.Clerk.ClientSecret = "", ""
}

// accessToken is one of Clerk's for this server, in the format that is chosen.
func (r *rig) accessToken(user string) string {
	r.t.Helper()
	if err := r.clerk.AddResource(r.url + "/mcp"); err != nil {
		r.t.Fatal(err)
	}
	token, err := r.clerk.AccessToken(user, "profile email", r.url+"/mcp")
	if err != nil {
		r.t.Fatal(err)
	}
	return token
}

func (r *rig) apiKey(k devclerk.APIKey) string {
	r.t.Helper()
	key, err := r.clerk.AddAPIKey(k)
	if err != nil {
		r.t.Fatal(err)
	}
	return key
}

// get reads a document of the server.
func (r *rig) get(path string) (int, map[string]any) {
	r.t.Helper()
	resp, err := http.Get(r.url + path)
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	var doc map[string]any
	_ = json.Unmarshal(body, &doc) // nil for what is none
	return resp.StatusCode, doc
}

// refusedWith is the status and the challenge of a call.
func (r *rig) refusedWith(token string) (int, string) {
	r.t.Helper()
	c := r.stateless(token)
	resp := c.post(`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":`+c.withMeta(`{"name":"add","arguments":{"a":1,"b":2}}`)+`}`, "add")
	defer resp.Body.Close()
	return resp.StatusCode, resp.Header.Get("WWW-Authenticate")
}

// RFC 9728: who asks for a token is sent to Clerk, and nothing of an
// authorization server is left here.
func TestClerkIsTheAuthorizationServer(t *testing.T) {
	r := start(t, byClerk, nil)
	_, doc := r.get("/.well-known/oauth-protected-resource/mcp")
	if doc["resource"] != r.url+"/mcp" || len(doc["authorization_servers"].([]any)) != 1 || doc["authorization_servers"].([]any)[0] != r.clerk.Issuer() {
		t.Errorf("resource metadata %v", doc)
	}
	if scopes, _ := json.Marshal(doc["scopes_supported"]); string(scopes) != `["profile","email"]` {
		t.Errorf("scopes %s", scopes)
	}
	status, challenge := r.refusedWith("")
	if status != 401 || challenge != `Bearer resource_metadata="`+r.url+`/.well-known/oauth-protected-resource/mcp", scope="profile email"` {
		t.Errorf("%d %s", status, challenge)
	}
	for _, path := range []string{"/authorize", "/consent", "/callback", "/token", "/register", "/revoke", "/introspect", "/jwks.json", "/.well-known/openid-configuration", "/device", "/device_authorization", "/account", "/account/all"} {
		if status, _ := r.get(path); status != http.StatusNotFound {
			t.Errorf("%s: %d", path, status)
		}
		resp, err := http.Post(r.url+path, "application/x-www-form-urlencoded", strings.NewReader("grant_type=refresh_token"))
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusNotFound {
			t.Errorf("POST %s: %d", path, resp.StatusCode)
		}
	}

	resp, err := http.Get(r.url + "/")
	if err != nil {
		t.Fatal(err)
	}
	front, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	if err != nil || resp.StatusCode != http.StatusOK || strings.Contains(string(front), "/account") {
		t.Errorf("front page %d, %v: %s", resp.StatusCode, err, front)
	}

	// Clients of revision 2025-03-26 look at the root of this server.
	if status, doc := r.get("/.well-known/oauth-authorization-server"); status != 200 || doc["issuer"] != r.clerk.Issuer() || doc["token_endpoint"] != r.clerk.Issuer()+"/oauth/token" {
		t.Errorf("%d %v", status, doc)
	}
	r.clerk.SetDown("/.well-known/", true)
	r.advance(2 * time.Hour)
	if status, _ := r.get("/.well-known/oauth-authorization-server"); status != 200 {
		t.Errorf("while Clerk is down: %d", status)
	}
	resp, err = http.Post(r.url+"/.well-known/oauth-authorization-server", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("POST: %d", resp.StatusCode)
	}
}

func TestClerksMetadataWhileClerkCannotBeAsked(t *testing.T) {
	r := start(t, byClerk, nil)
	r.clerk.SetDown("/.well-known/", true)
	resp, err := http.Get(r.url + "/.well-known/oauth-authorization-server")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusServiceUnavailable || resp.Header.Get("Retry-After") == "" || resp.Header.Get("Access-Control-Allow-Origin") != "*" {
		t.Errorf("%d %v", resp.StatusCode, resp.Header)
	}
}

// Whose tokens count is what the options say and nothing else (case 24). Clerk
// isn't asked about others.
func TestTokensOfOtherKindsAreRefused(t *testing.T) {
	for name, tt := range map[string]struct {
		options func(*server.Options)
		opaque  bool
		token   func(*rig) string
	}{
		"Clerk's JWT at our own authorization server":          {func(*server.Options) {}, false, func(r *rig) string { return r.accessToken(devclerk.AdminID) }},
		"Clerk's opaque token at our own authorization server": {func(*server.Options) {}, true, func(r *rig) string { return r.accessToken(devclerk.AdminID) }},
		"a user's API key":                                    {func(*server.Options) {}, false, func(r *rig) string { return r.apiKey(devclerk.APIKey{Subject: devclerk.AdminID}) }},
		"a user's API key at Clerk":                           {byClerk, false, func(r *rig) string { return r.apiKey(devclerk.APIKey{Subject: devclerk.AdminID}) }},
		"an organisation's API key where users' are accepted": {func(o *server.Options) { o.APIKeys = true }, false, func(r *rig) string { return r.apiKey(devclerk.APIKey{Subject: "org_1"}) }},
		"a machine's token":                                   {func(o *server.Options) { o.APIKeys = true }, false, func(r *rig) string { m := r.clerk.AddMachine(); return r.clerk.MachineToken(m, time.Hour, m) }},
		"an opaque token that was revoked": {byClerk, true, func(r *rig) string {
			token := r.accessToken(devclerk.AdminID)
			r.clerk.RevokeAccessToken(token)
			return token
		}},
		"a JWT for another resource": {byClerk, false, func(r *rig) string {
			if err := r.clerk.AddResource("https://other.example/mcp"); err != nil {
				r.t.Fatal(err)
			}
			token, err := r.clerk.AccessToken(devclerk.AdminID, "profile", "https://other.example/mcp")
			if err != nil {
				r.t.Fatal(err)
			}
			return token
		}},
		"a JWT without audience": {byClerk, false, func(r *rig) string {
			token := r.accessToken(devclerk.AdminID)
			r.clerk.SetAudience(false)
			_ = token
			return r.bare()
		}},
		"one of our own at Clerk": {byClerk, false, func(*rig) string { return "mcpc_at_6f1c9c2b7a55e0d3481f9e27ab30c4d8" }},
		"a JWT that nobody has signed": {byClerk, false, func(r *rig) string {
			parts := strings.Split(r.accessToken(devclerk.AdminID), ".")
			return "eyJhbGciOiJub25lIiwidHlwIjoiYXQrand0In0." + parts[1] + "."
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := start(t, tt.options, nil)
			r.clerk.SetOpaqueTokens(tt.opaque)
			status, challenge := r.refusedWith(tt.token(r))
			if status != http.StatusUnauthorized || !strings.Contains(challenge, `error="invalid_token"`) || !strings.Contains(challenge, "resource_metadata=") {
				t.Errorf("%d %s", status, challenge)
			}
			// The operator is told what is a matter of settings.
			if told := strings.Contains(r.log.String(), "audience of a token of Clerk's is not this server"); told != strings.Contains(name, "audience") && !strings.Contains(name, "another resource") {
				t.Errorf("told %v", told)
			}
		})
	}
}

// bare is an access token that was made for no resource.
func (r *rig) bare() string {
	token, err := r.clerk.AccessToken(devclerk.AdminID, "profile", "")
	if err != nil {
		r.t.Fatal(err)
	}
	return token
}

// Of an opaque token Clerk never says for what it was made.
func TestAnOpaqueTokenIsAccepted(t *testing.T) {
	r := start(t, byClerk, nil)
	r.clerk.SetOpaqueTokens(true)
	if status, challenge := r.refusedWith(r.accessToken(devclerk.AdminID)); status != 200 {
		t.Errorf("%d %s", status, challenge)
	}
}

func TestATokenWithoutAudienceIsAcceptedIfTheOptionsSaySo(t *testing.T) {
	r := start(t, func(o *server.Options) { byClerk(o); o.Clerk.AcceptNoAudience = true }, nil)
	if status, challenge := r.refusedWith(r.bare()); status != 200 {
		t.Errorf("%d %s", status, challenge)
	}
}

// Case 43 where Clerk's tokens are used, which can't be taken back: within a
// minute, and at once by webhook.
func TestWhatClerkSaysOfAUserCountsWithTheirToken(t *testing.T) {
	for name, change := range map[string]func(*devclerk.Server) error{
		"ban":      func(d *devclerk.Server) error { return d.Ban(devclerk.AdminID) },
		"lock":     func(d *devclerk.Server) error { return d.Lock(devclerk.AdminID) },
		"deletion": func(d *devclerk.Server) error { return d.Delete(devclerk.AdminID) },
	} {
		for kind, tt := range map[string]struct {
			options func(*server.Options)
			token   func(*rig) string
		}{
			"JWT":     {byClerk, func(r *rig) string { return r.accessToken(devclerk.AdminID) }},
			"API key": {func(o *server.Options) { o.APIKeys = true }, func(r *rig) string { return r.apiKey(devclerk.APIKey{Subject: devclerk.AdminID}) }},
			"our own": {func(*server.Options) {}, func(r *rig) string { return r.signIn(adminMail).Access }},
		} {
			t.Run(name+", "+kind, func(t *testing.T) {
				t.Parallel()
				for _, told := range []bool{false, true} {
					r := start(t, func(o *server.Options) { withWebhooks(o); tt.options(o) }, nil)
					token := tt.token(r)
					if code := r.statusOfCall(r.srv.Handler(), token); code != http.StatusOK {
						t.Fatalf("a call: %d", code)
					}
					if told {
						r.deliver()
					}
					if err := change(r.clerk); err != nil {
						t.Fatal(err)
					}
					if !told {
						r.advance(time.Minute)
					}
					if code := r.statusOfCall(r.srv.Handler(), token); code != http.StatusUnauthorized {
						t.Errorf("told %v: a call: %d", told, code)
					}
				}
			})
		}
	}
}

// A session belongs to a user and a client: another user's token does not open
// it, and the same client's next token does (case 57).
func TestSessionsUnderClerksTokens(t *testing.T) {
	r := start(t, byClerk, nil)
	c := r.legacy(r.accessToken(devclerk.AdminID))
	r.advance(time.Hour)
	c.token = r.accessToken(devclerk.AdminID) // refreshed
	if names, _ := c.list(); names != "add generateImage userInfo" {
		t.Errorf("tools %q", names)
	}
	c.token = r.accessToken(devclerk.MemberID)
	resp := c.post(`{"jsonrpc":"2.0","id":7,"method":"tools/list"}`, "")
	resp.Body.Close()
	if resp.StatusCode != http.StatusNotFound {
		t.Errorf("another user's session: %d", resp.StatusCode)
	}
}

// Clerk knows the scopes of this server only where they were added there; where
// they are demanded, who lacks one is sent for it (MCP authorization, "Step-Up
// Authorization Flow").
func TestScopesAreDemandedOfClerksTokensIfTheOptionsSaySo(t *testing.T) {
	call := func(r *rig, scope, tool string) (int, string) {
		_ = r.accessToken(devclerk.AdminID) // registers the resource
		token, err := r.clerk.AccessToken(devclerk.AdminID, scope, r.url+"/mcp")
		if err != nil {
			t.Fatal(err)
		}
		c := r.stateless(token)
		resp := c.post(`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":`+c.withMeta(`{"name":"`+tool+`","arguments":{"prompt":"x","a":1,"b":2}}`)+`}`, tool)
		defer resp.Body.Close()
		return resp.StatusCode, resp.Header.Get("WWW-Authenticate")
	}
	lax := start(t, byClerk, nil)
	if status, challenge := call(lax, "profile", "generateImage"); status != 200 {
		t.Errorf("not demanded: %d %s", status, challenge)
	}
	r := start(t, func(o *server.Options) { byClerk(o); o.Clerk.RequireScopes = true }, nil)
	_, doc := r.get("/.well-known/oauth-protected-resource/mcp")
	if scopes, _ := json.Marshal(doc["scopes_supported"]); string(scopes) != `["profile","email","mcp:tools","mcp:images"]` {
		t.Errorf("scopes %s", scopes)
	}
	if status, challenge := call(r, "profile", "add"); status != 403 || !strings.Contains(challenge, `scope="mcp:tools"`) || !strings.Contains(challenge, "insufficient_scope") {
		t.Errorf("without: %d %s", status, challenge)
	}
	if status, challenge := call(r, "mcp:tools", "generateImage"); status != 403 || !strings.Contains(challenge, `scope="mcp:tools mcp:images"`) {
		t.Errorf("without that of the tool: %d %s", status, challenge)
	}
	if status, challenge := call(r, "profile mcp:tools mcp:images", "generateImage"); status != 200 {
		t.Errorf("with both: %d %s", status, challenge)
	}
}

// Nobody is told to ask Clerk for a scope that it does not know: the answer would
// be an error (RFC 6749 section 4.1.2.1, invalid_scope).
func TestScopesThatClerkDoesNotKnowAreNotNamed(t *testing.T) {
	r := start(t, func(o *server.Options) { byClerk(o); o.APIKeys = true; o.Public = true }, nil)
	c := r.stateless(r.accessToken(devclerk.AdminID))
	_, result := c.list()
	text, err := json.Marshal(result)
	if err != nil || strings.Contains(string(text), "mcp:tools") || !strings.Contains(string(text), `"oauth2"`) {
		t.Errorf("tools %s, %v", text, err)
	}
	key := r.apiKey(devclerk.APIKey{Subject: devclerk.AdminID, Scopes: []string{"chat:read"}})
	if status, challenge := r.refusedWith(key); status != 403 || strings.Contains(challenge, "mcp:tools") {
		t.Errorf("a key for something else: %d %s", status, challenge)
	}
}

// A key's scopes limit it: with mcp:tools alone no pictures are made.
func TestAPIKeysWithScopes(t *testing.T) {
	r := start(t, func(o *server.Options) { o.APIKeys = true }, nil)
	for scopes, want := range map[string]int{"": 200, "mcp:tools": 403, "mcp:tools mcp:images": 200, "mcp:images": 403} {
		c := r.stateless(r.apiKey(devclerk.APIKey{Subject: devclerk.AdminID, Scopes: strings.Fields(scopes)}))
		resp := c.post(`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":`+c.withMeta(`{"name":"generateImage","arguments":{"prompt":"x"}}`)+`}`, "generateImage")
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("scopes %q: %d, want %d", scopes, resp.StatusCode, want)
		}
	}
}

// Callers that are no persons have the roles that the operator gives them, and
// what needs none; whom the restrictions of users are about is another question.
func TestMachines(t *testing.T) {
	var us, robot, silent devclerk.Machine
	for _, mode := range []func(*server.Options){func(*server.Options) {}, byClerk} {
		r := start(t, func(o *server.Options) {
			mode(o)
			o.Clerk.MachineSecretKey = "ak_placeholder_of_the_first_start"
			o.Machines = []server.Machine{{ID: "mch_nobody"}}
		}, nil)
		us, robot, silent = r.clerk.AddMachine(), r.clerk.AddMachine(), r.clerk.AddMachine()
		var seen *server.User
		r.change = func(o *server.Options) {
			mode(o)
			o.Clerk.MachineSecretKey = us.Secret
			o.Machines = []server.Machine{{ID: robot.ID, Roles: []string{"premium"}}, {ID: silent.ID}, {ID: "org_1", Roles: []string{"admin"}}}
			o.Allowed.Domains = []string{"example.com"}
		}
		r.tools = func(s *server.Server) {
			s.AddTool(mcp.NewTool("forAdmin"), func(ctx context.Context, _ mcp.CallToolRequest) (*mcp.CallToolResult, error) {
				var err error
				seen, err = server.CurrentUser(ctx)
				return mcp.NewToolResultText("ran"), err
			}, server.RequireRole("admin"))
		}
		r.restart()
		for token, want := range map[string]string{
			r.clerk.MachineToken(robot, time.Hour, us):  "add generateImage userInfo",
			r.clerk.MachineToken(silent, time.Hour, us): "add userInfo",
			r.apiKey(devclerk.APIKey{Subject: "org_1"}): "add forAdmin generateImage userInfo",
		} {
			for era, c := range r.both(token) {
				if names, _ := c.list(); names != want {
					t.Errorf("%s: tools %q, want %q", era, names, want)
				}
				if got := c.tool("add", `{"a":1,"b":2}`).text(); got != "3" {
					t.Errorf("%s: add: %q", era, got)
				}
				if ran := c.tool("forAdmin", `{}`).text() == "ran"; ran != strings.Contains(want, "forAdmin") {
					t.Errorf("%s: forAdmin ran: %v", era, ran)
				}
			}
		}
		if seen == nil || seen.ID != "org_1" || !slices.Equal(seen.Roles, []string{"admin"}) {
			t.Errorf("the organisation's program is %+v", seen)
		}
		info := r.stateless(r.clerk.MachineToken(robot, time.Hour, us)).tool("userInfo", `{}`).text()
		if !strings.Contains(info, robot.ID) {
			t.Errorf("userInfo: %s", info)
		}
		for name, token := range map[string]string{
			"for another machine": r.clerk.MachineToken(robot, time.Hour, silent),
			"of another machine":  r.clerk.MachineToken(us, time.Hour, us),
			"of another org":      r.apiKey(devclerk.APIKey{Subject: "org_2"}),
			"of a user":           r.apiKey(devclerk.APIKey{Subject: devclerk.AdminID}),
		} {
			if status, _ := r.refusedWith(token); status != http.StatusUnauthorized {
				t.Errorf("%s: %d", name, status)
			}
		}
	}
}

// Streams of callers that are no persons stay open: Clerk knows them not as users.
func TestAMachinesStreamStaysOpen(t *testing.T) {
	r := start(t, func(o *server.Options) {
		o.Machines = []server.Machine{{ID: "org_1", Roles: []string{"admin"}}}
	}, func(s *server.Server) { s.SetWatchInterval(20 * time.Millisecond) })
	next := r.stateless(r.apiKey(devclerk.APIKey{Subject: "org_1"})).listen()
	next() // the acknowledgement
	person := r.stateless(r.signIn(adminMail).Access).listen()
	person()
	// One look at all who listen, whose end somebody is told of.
	seen := r.clerk.Requests("GET /v1/users")
	for deadline := time.Now().Add(20 * time.Second); r.clerk.Requests("GET /v1/users") == seen; {
		if time.Now().After(deadline) {
			t.Fatal("nobody is looked at")
		}
		time.Sleep(5 * time.Millisecond)
	}
	if err := r.clerk.SetRole(devclerk.AdminID, ""); err != nil {
		t.Fatal(err)
	}
	person()
	r.srv.AddTool(mcp.NewTool("late"), func(context.Context, mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		return mcp.NewToolResultText("ran"), nil
	})
	if got := next(); !strings.Contains(got.Method, "list_changed") {
		t.Errorf("%+v", got)
	}
}

func TestTokenOptionsAreChecked(t *testing.T) {
	for setting, bad := range map[string]server.Options{
		"--authorization-server":   {AuthorizationServer: "keycloak"},
		"--accept-no-audience":     {Clerk: server.ClerkOptions{AcceptNoAudience: true}},
		"--require-scopes":         {Clerk: server.ClerkOptions{RequireScopes: true}},
		"CLERK_MACHINE_SECRET_KEY": {Machines: []server.Machine{{ID: "mch_1"}}},
		"--allow-machine":          {Machines: []server.Machine{{ID: "user_1"}}},
		"--allow-machine ":         {Machines: []server.Machine{{ID: "org_1", Roles: []string{""}}}},
		"clients":                  {AuthorizationServer: "clerk", Clients: server.ClientOptions{Admission: server.AdmitListed}},
		"clients ":                 {AuthorizationServer: "clerk", Clients: server.ClientOptions{RegistrationToken: "0123456789012345678901234567890123"}},
		"lives of tokens":          {AuthorizationServer: "clerk", AccessTokenTTL: time.Minute},
	} {
		found := false
		for _, e := range unjoin(bad.Validate()) {
			var fault *server.OptionError
			found = found || errors.As(e, &fault) && fault.Setting == strings.TrimSpace(setting)
		}
		if !found {
			t.Errorf("%s: %v", setting, bad.Validate())
		}
	}
	// What only a client of Clerk's needs is not missed.
	for _, e := range unjoin(server.Options{AuthorizationServer: "clerk"}.Validate()) {
		var fault *server.OptionError
		if errors.As(e, &fault) && strings.HasPrefix(fault.Setting, "CLERK_CLIENT") {
			t.Errorf("missed: %v", e)
		}
	}
}

// Case 44: an address that two accounts have makes neither the other: what
// counts is the subject.
func TestSameAddressAnotherSubjectIsAnotherAccount(t *testing.T) {
	const double = "user_2dEvCLerkD0uble000000000003"
	r := start(t, byClerk, nil)
	if err := r.clerk.AddUser(devclerk.User{ID: double, Email: adminMail}); err != nil {
		t.Fatal(err)
	}
	for user, want := range map[string]string{devclerk.AdminID: "add generateImage userInfo", double: "add userInfo"} {
		for era, c := range r.both(r.accessToken(user)) {
			if names, _ := c.list(); names != want {
				t.Errorf("%s: tools of %s: %q", era, user, names)
			}
			if info := c.tool("userInfo", `{}`).text(); !strings.Contains(info, user) {
				t.Errorf("%s: userInfo of %s: %s", era, user, info)
			}
		}
	}
}

// Case 41 as clients see it: while Clerk's keys or its word can't be had, a token
// that may be good is put off and not refused.
func TestATokenIsPutOffWhileClerkCannotBeAsked(t *testing.T) {
	for name, tt := range map[string]struct {
		opaque bool
		down   string
	}{
		"keys": {false, "/.well-known/jwks.json"}, "discovery": {false, "/.well-known/openid-configuration"}, "word": {true, "/v1/oauth_applications"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := start(t, func(o *server.Options) { byClerk(o); o.Clerk.AcceptNoAudience = true }, nil)
			r.clerk.SetOpaqueTokens(tt.opaque)
			token := r.accessToken(devclerk.AdminID)
			r.clerk.SetDown(tt.down, true)
			c := r.stateless(token)
			resp := c.post(`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":`+c.withMeta(`{"name":"add","arguments":{"a":1,"b":2}}`)+`}`, "add")
			resp.Body.Close()
			if resp.StatusCode != http.StatusServiceUnavailable || resp.Header.Get("Retry-After") == "" || resp.Header.Get("WWW-Authenticate") != "" {
				t.Errorf("%d %v", resp.StatusCode, resp.Header)
			}
			r.clerk.SetDown(tt.down, false)
			r.advance(5 * time.Second)
			if status, challenge := r.refusedWith(token); status != http.StatusOK {
				t.Errorf("afterwards: %d %s", status, challenge)
			}
		})
	}
}

// Clerk gives its tokens to everyone who can sign in there. Where only some may
// use the server, nobody does of whom Clerk does not say that they are one of
// them, also not for what needs no role, nor to see what there is.
func TestWhoMayUseTheServerWithClerksTokens(t *testing.T) {
	for kind, tt := range map[string]struct {
		options func(*server.Options)
		token   func(r *rig, user string) string
	}{
		"JWT":     {byClerk, (*rig).accessToken},
		"API key": {func(o *server.Options) { o.APIKeys = true }, func(r *rig, user string) string { return r.apiKey(devclerk.APIKey{Subject: user}) }},
	} {
		t.Run(kind, func(t *testing.T) {
			r := start(t, func(o *server.Options) { tt.options(o); o.Allowed.Users = []string{devclerk.AdminID} }, nil)
			admin, member := tt.token(r, devclerk.AdminID), tt.token(r, devclerk.MemberID)
			list := func(token string) int {
				c := r.stateless(token)
				resp := c.post(`{"jsonrpc":"2.0","id":1,"method":"tools/list","params":`+c.withMeta(`{}`)+`}`, "")
				resp.Body.Close()
				return resp.StatusCode
			}
			for name, status := range map[string]func(string) int{"call": func(token string) int { return r.statusOfCall(r.srv.Handler(), token) }, "list": list} {
				if got := status(admin); got != http.StatusOK {
					t.Errorf("a %s of who may: %d", name, got)
				}
				if got := status(member); got != http.StatusForbidden {
					t.Errorf("a %s of who may not: %d", name, got)
				}
			}
			r.advance(61 * time.Second)
			r.clerk.SetDown("/v1/users", true)
			for name, status := range map[string]func(string) int{"call": func(token string) int { return r.statusOfCall(r.srv.Handler(), token) }, "list": list} {
				if got := status(member); got != http.StatusServiceUnavailable {
					t.Errorf("while Clerk cannot be asked, a %s: %d", name, got)
				}
			}
		})
	}
}
