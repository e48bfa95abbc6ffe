package authserver_test

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/mcp-clerk/mcp-clerk/internal/authserver"
	"github.com/mcp-clerk/mcp-clerk/internal/secret"
)

const longSecret = "a secret of 32 characters or more"

func listed(hosts ...string) func(*authserver.Options) {
	return func(o *authserver.Options) { o.Admission, o.AdmittedHosts = authserver.AdmitListed, hosts }
}

func configured(clients ...authserver.Client) func(*authserver.Options) {
	return func(o *authserver.Options) { o.Admission, o.Clients = authserver.AdmitConfigured, clients }
}

// One policy for clients that register and for those that have a document.
func TestTheListOfHostsHoldsForEveryKindOfClient(t *testing.T) {
	for name, tc := range map[string]struct {
		hosts     []string
		redirects []string
		register  bool
		document  bool // of app.example
	}{
		"host":                     {[]string{"app.example"}, []string{"https://app.example/cb"}, true, true},
		"port":                     {[]string{"app.example"}, []string{"https://app.example:8443/cb"}, true, true},
		"another host":             {[]string{"app.example"}, []string{"https://evil.example/cb"}, false, false},
		"one of two":               {[]string{"app.example"}, []string{"https://app.example/cb", "https://evil.example/cb"}, false, false},
		"subdomain":                {[]string{"app.example"}, []string{"https://sub.app.example/cb"}, false, false},
		"suffix":                   {[]string{"app.example"}, []string{"https://evilapp.example/cb"}, false, false},
		"wildcard":                 {[]string{"*.app.example", "app.example"}, []string{"https://sub.app.example/cb"}, true, true},
		"wildcard, not the parent": {[]string{"*.app.example", "example"}, []string{"https://app.example/cb"}, false, false},
		"loopback, not listed":     {[]string{"app.example"}, []string{"http://127.0.0.1/cb"}, false, true},
		"loopback, listed":         {[]string{"app.example", "loopback"}, []string{"http://127.0.0.1/cb"}, true, true},
		"private-use":              {[]string{"app.example"}, []string{"cursor://anysphere.cursor-mcp/oauth/callback"}, false, true},
		"loopback is no host":      {[]string{"app.example", "loopback"}, []string{"https://loopback/cb"}, false, false},
		"document elsewhere":       {[]string{"other.example"}, []string{"https://other.example/cb"}, true, false},
	} {
		t.Run(name, func(t *testing.T) {
			e, w := documentEnv(t, listed(tc.hosts...))
			body, err := json.Marshal(map[string]any{"redirect_uris": tc.redirects, "token_endpoint_auth_method": "none"})
			if err != nil {
				t.Fatal(err)
			}
			a := e.registerRaw(string(body))
			if (a.status == http.StatusCreated) != tc.register {
				t.Errorf("registration: %d %s", a.status, a.body)
			}
			if !tc.register {
				expectError(t, a, http.StatusBadRequest, "invalid_redirect_uri")
			}
			w.publish(documentURL, document("redirect_uris", tc.redirects))
			c := testClient{id: documentURL, redirect: tc.redirects[0]}
			v := e.browser().authorize(c)
			if v.has("Approve") != tc.document || !tc.document && (v.status != http.StatusForbidden || v.left) {
				t.Errorf("document: %d %v", v.status, v.url)
			}
			if name == "document elsewhere" && w.count(documentURL) != 0 {
				t.Error("a document that is not admitted was fetched")
			}
		})
	}
}

// Whoever can change the keys of a client is that client: their host is listed,
// too.
func TestTheListOfHostsHoldsForKeys(t *testing.T) {
	for keys, want := range map[string]bool{keysURL: true, "https://evil.example/jwks.json": false} {
		e, w := documentEnv(t, listed("app.example"))
		a := e.registerRaw(fmt.Sprintf(`{"redirect_uris":["https://app.example/cb"],"token_endpoint_auth_method":"private_key_jwt","jwks_uri":%q}`, keys))
		if (a.status == http.StatusCreated) != want {
			t.Errorf("registration with keys at %s: %d %s", keys, a.status, a.body)
		}
		if !want {
			expectError(t, a, http.StatusBadRequest, "invalid_client_metadata")
		}
		w.publish(documentURL, document("token_endpoint_auth_method", "private_key_jwt", "jwks_uri", keys))
		if v := e.browser().authorize(documentClient); v.has("Approve") != want || v.left {
			t.Errorf("document with keys at %s: %d %v", keys, v.status, v.url)
		}
	}
}

// What was admitted once has to be admitted now.
func TestAStricterPolicyEndsWhatItDoesNotAdmit(t *testing.T) {
	e := newEnv(t)
	c := e.register("Web", webRedirect)
	tk := e.signIn(c)
	e.start(listed("other.example"))
	if v := e.browser().authorize(c); v.status != http.StatusForbidden || v.left || !strings.Contains(v.body, "not admitted") {
		t.Errorf("%d %v", v.status, v.url)
	}
	expectError(t, e.refresh(c, tk.refresh), http.StatusUnauthorized, "invalid_client")
	e.start(listed("app.example"))
	e.tokens(e.refresh(c, tk.refresh)) // nothing was lost
}

func TestConfiguredClientsAloneAreAdmitted(t *testing.T) {
	sum := sha256.Sum256([]byte(longSecret))
	e, w := documentEnv(t, configured(
		authserver.Client{ID: "web", Name: "Web", RedirectURIs: []string{webRedirect}, Secret: longSecret},
		authserver.Client{ID: "hashed", RedirectURIs: []string{webRedirect}, SecretHash: hex.EncodeToString(sum[:])},
		authserver.Client{ID: "public", RedirectURIs: []string{"http://localhost:3000/cb"}},
	))
	w.publish(documentURL, document())
	md := e.get("/.well-known/oauth-authorization-server").json(t)
	if _, has := md["registration_endpoint"]; has || md["client_id_metadata_document_supported"] != false {
		t.Errorf("the metadata advertises %v", md)
	}
	if a := e.registerRaw(`{"redirect_uris":["https://app.example/cb"]}`); a.status != http.StatusNotFound {
		t.Errorf("registration: %d", a.status)
	}
	if v := e.browser().authorize(documentClient); v.status != http.StatusForbidden || w.count(documentURL) != 0 {
		t.Errorf("document: %d, fetched %d times", v.status, w.count(documentURL))
	}
	for _, c := range []testClient{
		{"web", longSecret, webRedirect}, {"hashed", longSecret, webRedirect}, {"public", "", "http://localhost:4711/cb"},
		{authserver.ConnectClient, "", "http://127.0.0.1:4711/oauth/callback"}, {authserver.ConnectClient, "", "http://localhost:1/oauth/callback"}, {authserver.ConnectClient, "", "http://[::1]:1/oauth/callback"},
	} {
		tk := e.signIn(c)
		e.tokens(e.refresh(c, tk.refresh))
		if c.secret != "" {
			expectError(t, e.refresh(testClient{c.id, "x", c.redirect}, tk.refresh), http.StatusUnauthorized, "invalid_client")
			expectError(t, e.refresh(testClient{c.id, "", c.redirect}, tk.refresh), http.StatusUnauthorized, "invalid_client")
		}
	}
	if v := e.browser().authorize(testClient{id: authserver.ConnectClient, redirect: "http://127.0.0.1:4711/callback"}); v.status != http.StatusBadRequest {
		t.Errorf("another path: %d", v.status)
	}
}

// RFC 7591 section 3: the initial access token, if there is one.
func TestRegistrationNeedsTheInitialAccessToken(t *testing.T) {
	e := newEnv(t, func(o *authserver.Options) { o.RegistrationToken = secret.String(longSecret) })
	const body = `{"redirect_uris":["https://app.example/cb"]}`
	for _, authorization := range [][]string{nil, {"Bearer x"}, {"Bearer"}, {"Basic " + longSecret}, {longSecret}, {"Bearer " + longSecret, "Bearer " + longSecret}, {"Bearer " + longSecret + " "}} {
		r := request(t, "POST", e.abs("/register"), strings.NewReader(body))
		r.Header.Set("Content-Type", "application/json")
		r.Header["Authorization"] = authorization
		a := e.send(r)
		if a.status != http.StatusUnauthorized || !strings.HasPrefix(a.header.Get("WWW-Authenticate"), "Bearer") || strings.Contains(string(a.body), longSecret) {
			t.Errorf("%q: %d %s", authorization, a.status, a.body)
		}
	}
	r := request(t, "POST", e.abs("/register"), strings.NewReader(body))
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Authorization", "bearer "+longSecret)
	if a := e.send(r); a.status != http.StatusCreated {
		t.Errorf("with the token: %d %s", a.status, a.body)
	}
}

func TestFaultsOfConfiguredClientsAreReportedAtOnce(t *testing.T) {
	ok := []string{webRedirect}
	err := authserver.ValidateClients(authserver.Options{
		PublicURL: "https://mcp.example", Admission: "closed", RegistrationToken: "short", PrivateRedirects: []string{"https://x"},
		Clients: []authserver.Client{
			{ID: "", RedirectURIs: ok}, {ID: "a b", RedirectURIs: ok}, {ID: "a/b", RedirectURIs: ok}, {ID: "mcpc_client_x", RedirectURIs: ok},
			{ID: "twice", RedirectURIs: ok}, {ID: "twice", RedirectURIs: ok}, {ID: authserver.ConnectClient, RedirectURIs: ok},
			{ID: "none"}, {ID: "ftp", RedirectURIs: []string{"ftp://x"}}, {ID: "short", RedirectURIs: ok, Secret: "guessable"},
			{ID: "both", RedirectURIs: ok, Secret: longSecret, JWKSURI: "https://app.example/jwks"}, {ID: "hash", RedirectURIs: ok, SecretHash: "abc"},
			{ID: "keys", RedirectURIs: ok, JWKS: json.RawMessage(`{"keys":[]}`)}, {ID: "uri", RedirectURIs: ok, JWKSURI: "http://app.example/jwks"},
		},
	})
	if err == nil {
		t.Fatal("no error")
	}
	lines := strings.Split(err.Error(), "\n")
	for _, part := range []string{`"closed"`, "registration token", `"https://x"`, "client 1:", `client "a b"`, `client "a/b"`, `client "mcpc_client_x"`, `client "twice" comes twice`,
		`client "mcp-clerk-connect"`, `client "none"`, `client "ftp"`, `client "short"`, `client "both"`, `client "hash"`, `client "keys"`, `client "uri"`} {
		if !slices.ContainsFunc(lines, func(l string) bool { return strings.Contains(l, part) }) {
			t.Errorf("%s is not reported", part)
		}
	}
	if strings.Contains(err.Error(), "guessable") || strings.Contains(err.Error(), longSecret) {
		t.Error("a secret is in the error")
	}
	for _, hosts := range [][]string{nil, {"https://app.example"}, {"APP.example"}, {"*"}, {"*.example.com", "a*b"}, {"*.com.", "x"}, {"[::1]"}, {""}} {
		if authserver.ValidateClients(authserver.Options{Admission: authserver.AdmitListed, AdmittedHosts: hosts}) == nil {
			t.Errorf("hosts %q are accepted", hosts)
		}
	}
	if authserver.ValidateClients(authserver.Options{AdmittedHosts: []string{"app.example"}}) == nil {
		t.Error("a list that has no effect is accepted")
	}
}

// Case 35: what anybody can send does not push out what users have approved.
func TestAFloodOfRegistrationsLeavesApprovedClientsAlone(t *testing.T) {
	e, w := documentEnv(t)
	w.publish(documentURL, document(), "Cache-Control", "max-age=86400")
	c := e.register("Web", webRedirect)
	registered, described := e.signIn(c), e.signIn(documentClient)
	w.cut(true)
	for i := range 3000 {
		e.addr = fmt.Sprintf("198.51.%d.%d:1", i/250, i%250)
		e.registerRaw(fmt.Sprintf(`{"client_name":"c%d","redirect_uris":["https://app.example/cb"],"token_endpoint_auth_method":"none"}`, i))
		e.get("/authorize?" + testClient{id: fmt.Sprintf("https://app.example/%d.json", i), redirect: webRedirect}.query().Encode())
	}
	e.addr = "203.0.113.9:1"
	e.tokens(e.refresh(c, registered.refresh))
	e.tokens(e.refresh(documentClient, described.refresh))
}
