package authserver_test

import (
	"encoding/json"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/mcp-clerk/mcp-clerk/internal/authserver"
)

func stringList(v any) []string {
	var list []string
	items, _ := v.([]any)
	for _, item := range items {
		s, _ := item.(string)
		list = append(list, s)
	}
	return list
}

// RFC 8414 section 3.1 (insertion), OpenID Connect Discovery section 4 (appending).
func TestServerMetadataIsFoundWhereClientsLook(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*authserver.Options)
		paths  []string
		absent []string
	}{
		"root": {func(*authserver.Options) {}, []string{
			"https://mcp.example/.well-known/oauth-authorization-server",
			"https://mcp.example/.well-known/openid-configuration",
		}, []string{ // a document whose issuer is not the URL asked for would have to be refused
			"https://mcp.example/.well-known/oauth-authorization-server/mcp",
		}},
		"prefix": {prefixed, []string{
			"https://example.org/.well-known/oauth-authorization-server/tools/mcp-server",
			"https://example.org/.well-known/openid-configuration/tools/mcp-server",
			"https://example.org/tools/mcp-server/.well-known/openid-configuration",
		}, []string{"https://example.org/.well-known/oauth-authorization-server"}},
	} {
		t.Run(name, func(t *testing.T) {
			e := newEnv(t, tc.change)
			for _, path := range tc.paths {
				a := e.get(path)
				if a.status != http.StatusOK || a.header.Get("Content-Type") != "application/json" {
					t.Fatalf("%s: %d %s", path, a.status, a.header.Get("Content-Type"))
				}
				md := a.json(t)
				for member, want := range map[string]any{
					"issuer": e.issuer, "authorization_endpoint": e.issuer + "/authorize", "token_endpoint": e.issuer + "/token",
					"registration_endpoint": e.issuer + "/register", "device_authorization_endpoint": e.issuer + "/device_authorization", "revocation_endpoint": e.issuer + "/revoke", "introspection_endpoint": e.issuer + "/introspect", "client_id_metadata_document_supported": true, "jwks_uri": e.issuer + "/jwks.json",
					"authorization_response_iss_parameter_supported": true, "request_uri_parameter_supported": false,
				} {
					if md[member] != want {
						t.Errorf("%s: %s is %v, want %v", path, member, md[member], want)
					}
				}
				for member, want := range map[string][]string{
					"code_challenge_methods_supported": {"S256"}, "response_types_supported": {"code"}, "subject_types_supported": {"public"},
					"grant_types_supported": {"authorization_code", "refresh_token", deviceGrant}, "scopes_supported": {"mcp:tools", "offline_access"},
					"token_endpoint_auth_methods_supported":            {"none", "client_secret_basic", "client_secret_post", "private_key_jwt"},
					"token_endpoint_auth_signing_alg_values_supported": {"RS256", "ES256", "EdDSA"}, "introspection_endpoint_auth_methods_supported": {"client_secret_basic", "client_secret_post", "private_key_jwt"},
					"id_token_signing_alg_values_supported": {"RS256"},
				} {
					if got := stringList(md[member]); !slices.Equal(got, want) {
						t.Errorf("%s: %s is %v, want %v", path, member, got, want)
					}
				}
				if strings.Contains(string(a.body), "null") {
					t.Errorf("%s holds null: %s", path, a.body)
				}
			}
			for _, path := range tc.absent {
				if a := e.get(path); a.status != http.StatusNotFound {
					t.Errorf("%s answers %d", path, a.status)
				}
			}
			if keys, ok := e.get(e.issuer + "/jwks.json").json(t)["keys"].([]any); !ok || len(keys) != 0 { // RFC 7517 section 5
				t.Error("the key set is not a JWK set")
			}
		})
	}
}

// RFC 9728 section 3; MCP 2026-07-28 wants no offline_access in it.
func TestResourceMetadataNamesTheEndpointAsTyped(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*authserver.Options)
		want   map[string]string // document -> resource
		issuer string
	}{
		"root": {func(*authserver.Options) {}, map[string]string{
			"https://mcp.example/.well-known/oauth-protected-resource":     "https://mcp.example/mcp",
			"https://mcp.example/.well-known/oauth-protected-resource/mcp": "https://mcp.example/mcp",
		}, "https://mcp.example"},
		"prefix": {prefixed, map[string]string{
			"https://example.org/.well-known/oauth-protected-resource/tools/mcp-server/mcp": "https://example.org/tools/mcp-server/mcp",
			"https://example.org/.well-known/oauth-protected-resource":                      "https://example.org/tools/mcp-server/mcp",
		}, "https://example.org/tools/mcp-server"},
		"other loopback names": {loopback, map[string]string{
			"http://localhost:8788/.well-known/oauth-protected-resource/mcp": "http://localhost:8788/mcp",
			"http://127.0.0.1:8788/.well-known/oauth-protected-resource/mcp": "http://127.0.0.1:8788/mcp",
			"http://127.0.0.1:8788/.well-known/oauth-protected-resource":     "http://127.0.0.1:8788/mcp",
			"http://[::1]:8788/.well-known/oauth-protected-resource":         "http://[::1]:8788/mcp",
		}, "http://localhost:8788"},
	} {
		t.Run(name, func(t *testing.T) {
			e := newEnv(t, tc.change)
			for path, resource := range tc.want {
				md := e.get(path).json(t)
				if md["resource"] != resource || !slices.Equal(stringList(md["authorization_servers"]), []string{tc.issuer}) ||
					!slices.Equal(stringList(md["scopes_supported"]), []string{"mcp:tools"}) || !slices.Equal(stringList(md["bearer_methods_supported"]), []string{"header"}) {
					t.Errorf("%s: %v", path, md)
				}
			}
		})
	}
}

// RFC 8414 section 3.3: the issuer is the one the metadata was asked for under,
// or clients refuse it; so it stays one, whatever the request says.
func TestRequestHeadersHaveNoSayInTheIssuer(t *testing.T) {
	for _, change := range []func(*authserver.Options){func(*authserver.Options) {}, loopback} {
		e := newEnv(t, change)
		want := e.get("/.well-known/oauth-authorization-server").json(t)
		prm := e.get("/.well-known/oauth-protected-resource").json(t)
		r := request(t, "GET", e.issuer+"/.well-known/oauth-authorization-server", nil)
		p := request(t, "GET", e.issuer+"/.well-known/oauth-protected-resource", nil)
		for _, r := range []*http.Request{r, p} {
			r.Host = "evil.example:8788"
			r.Header.Set("X-Forwarded-Host", "evil.example")
			r.Header.Set("X-Forwarded-Proto", "https")
			r.Header.Set("Forwarded", "host=evil.example;proto=https")
		}
		if got := e.send(r).json(t); !reflect.DeepEqual(got, want) {
			t.Errorf("metadata %v", got)
		}
		if got := e.send(p).json(t); !reflect.DeepEqual(got, prm) {
			t.Errorf("resource metadata %v", got)
		}
	}
}

// WHATWG Fetch: browser-based MCP clients reach what programs need, and only that.
func TestCORSCoversProgramsAndNotPages(t *testing.T) {
	e := newEnv(t)
	for _, path := range []string{"/.well-known/oauth-authorization-server", "/.well-known/openid-configuration", "/.well-known/oauth-protected-resource/mcp", "/token", "/device_authorization", "/register", "/revoke", "/introspect", "/jwks.json"} {
		r := request(t, "OPTIONS", e.issuer+path, nil)
		r.Header.Set("Origin", "https://inspector.example")
		r.Header.Set("Access-Control-Request-Method", "POST")
		r.Header.Set("Access-Control-Request-Headers", "authorization, content-type, mcp-protocol-version")
		a := e.send(r)
		allowed := strings.ToLower(a.header.Get("Access-Control-Allow-Headers"))
		if a.status != http.StatusNoContent || a.header.Get("Access-Control-Allow-Origin") != "*" || !strings.Contains(allowed, "authorization") ||
			!strings.Contains(allowed, "content-type") || !strings.Contains(allowed, "mcp-protocol-version") || a.header.Get("Access-Control-Allow-Methods") == "" {
			t.Errorf("preflight of %s: %d %v", path, a.status, a.header)
		}
		if a.header.Get("Access-Control-Allow-Credentials") != "" {
			t.Errorf("%s allows credentials", path)
		}
	}
	a := e.post("/token", nil)
	if a.header.Get("Access-Control-Allow-Origin") != "*" {
		t.Error("a refusal of /token cannot be read by the client that caused it")
	}
	for _, path := range []string{"/authorize", "/consent", "/callback", "/device", "/account", "/account/all"} {
		r := request(t, "OPTIONS", e.issuer+path, nil)
		r.Header.Set("Origin", "https://inspector.example")
		if a := e.send(r); a.header.Get("Access-Control-Allow-Origin") != "" || a.status < 400 {
			t.Errorf("%s answers a preflight: %d", path, a.status)
		}
	}
}

func TestWrongMethodsAreRefusedInTheShapeOfTheEndpoint(t *testing.T) {
	e := newEnv(t)
	for _, path := range []string{"/token", "/device_authorization", "/register", "/revoke", "/introspect"} {
		a := e.get(path)
		if a.status != http.StatusMethodNotAllowed || a.header.Get("Allow") == "" || !json.Valid(a.body) {
			t.Errorf("GET %s: %d %s", path, a.status, a.body)
		}
	}
	if a := e.get("/consent"); a.status != http.StatusMethodNotAllowed { // GET never approves
		t.Errorf("GET /consent: %d", a.status)
	}
}

// RFC 6750 section 3 and RFC 9728 section 5.1.
func TestChallengeTellsClientsWhereToGo(t *testing.T) {
	e := newEnv(t)
	r := request(t, "POST", "https://mcp.example/mcp", nil)
	const at = `Bearer resource_metadata="https://mcp.example/.well-known/oauth-protected-resource/mcp"`
	if got, want := e.srv.Challenge(r, ""), at+`, scope="mcp:tools"`; got != want {
		t.Errorf("challenge %s, want %s", got, want)
	}
	if got := e.srv.Challenge(r, "invalid_token"); !strings.HasPrefix(got, at+`, scope="mcp:tools", error="invalid_token"`) {
		t.Errorf("challenge %s", got)
	}
	if got := e.srv.Challenge(r, "insufficient_scope", "images:make", "x\"y\r\nz"); !strings.HasPrefix(got, at+`, scope="images:make", error="insufficient_scope"`) {
		t.Errorf("challenge %s", got)
	}
	l := newEnv(t, loopback)
	r = request(t, "POST", "http://127.0.0.1:8788/mcp", nil)
	if got := l.srv.Challenge(r, ""); !strings.HasPrefix(got, `Bearer resource_metadata="http://127.0.0.1:8788/.well-known/oauth-protected-resource/mcp"`) {
		t.Errorf("challenge %s under another loopback name", got)
	}
	r.Host = "evil.example"
	if got := l.srv.Challenge(r, ""); strings.Contains(got, "evil") {
		t.Errorf("challenge %s", got)
	}
}

func TestOptionsReportEveryFaultAtOnce(t *testing.T) {
	_, err := authserver.New(authserver.Options{PublicURL: "http://mcp.example", Keys: nil, AccessTokenTTL: 1 << 60, Scopes: []authserver.Scope{{Name: "a b"}}, PrivateRedirects: []string{"https://x"}})
	if err == nil {
		t.Fatal("no error")
	}
	for _, part := range []string{"public URL", "encryption key", "store", "sign-in", "access token", `"a b"`, "https://x"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%q is not reported in: %v", part, err)
		}
	}
	for _, bad := range []string{"", "mcp.example", "https://u@h", "https://h/?q", "https://h/#f", "https://h/a/../b", "ftp://h", "https://h/%2e"} {
		if _, err := authserver.New(authserver.Options{PublicURL: bad}); err == nil || !strings.Contains(err.Error(), "public URL") {
			t.Errorf("public URL %q is accepted: %v", bad, err)
		}
	}
}
