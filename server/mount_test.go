package server_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/mcp-clerk/mcp-clerk/internal/devclerk"
	"github.com/mcp-clerk/mcp-clerk/server"
)

// A public URL with a path, over TLS, in every way in which it is mounted: a
// client finds everything from the URL of the endpoint alone, by path insertion
// (RFC 9728 section 3.1, RFC 8414 section 3.1), signs in and calls a tool. What
// else the site serves stays as it is, also where it has the same paths.
func TestSignsInBelowAPathInSomebodyElsesMux(t *testing.T) {
	const prefix = "/tools/mcp-clerk"
	for name, tc := range map[string]struct {
		mount func(own *http.ServeMux, h http.Handler) http.Handler
		own   []string // paths that stay the site's
	}{
		"as the rest of a mux": {func(own *http.ServeMux, h http.Handler) http.Handler {
			own.Handle("/", h)
			return own
		}, []string{"/pricing", "/token"}},
		"below its path only": {func(own *http.ServeMux, h http.Handler) http.Handler {
			own.Handle(prefix+"/", h)
			own.Handle("/.well-known/", h)
			return own
		}, []string{"/pricing", "/token"}},
		"behind a proxy that takes the path off": {func(own *http.ServeMux, h http.Handler) http.Handler {
			own.Handle(prefix+"/", http.StripPrefix(prefix, h))
			own.Handle("/.well-known/", h)
			return own
		}, []string{"/pricing", "/token"}},
	} {
		t.Run(name, func(t *testing.T) {
			clerk, err := devclerk.New(devclerk.Options{})
			if err != nil {
				t.Fatal(err)
			}
			clerkSite := httptest.NewServer(clerk)
			defer clerkSite.Close()
			if err := clerk.SetIssuer(clerkSite.URL); err != nil {
				t.Fatal(err)
			}
			own := http.NewServeMux()
			for _, path := range tc.own {
				own.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "own") })
			}
			var root http.Handler
			site := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { root.ServeHTTP(w, r) }))
			defer site.Close()
			if err := clerk.AllowRedirect(site.URL + prefix + "/callback"); err != nil {
				t.Fatal(err)
			}
			srv, err := server.New(t.Context(), server.Options{
				Name: "mounted", PublicURL: site.URL + prefix, Store: "memory:", Keys: testKey,
				Clerk: server.ClerkOptions{ClientID: clerk.ClientID(), ClientSecret: clerk.ClientSecret(), SecretKey: clerk.SecretKey(), FrontendAPI: clerk.Issuer(), APIURL: clerk.Issuer()},
			})
			if err != nil {
				t.Fatal(err)
			}
			defer srv.Close()
			srv.AddBuiltinTools(server.BuiltinTools{Image: server.Sketch()})
			root = tc.mount(own, srv.Handler())

			s := &stranger{t: t, http: site.Client()}
			if got := s.signInAndCall(srv.URL(), adminMail); !strings.Contains(got, adminMail) {
				t.Errorf("userInfo: %s", got)
			}
			for _, path := range tc.own {
				if _, body := s.do(http.MethodGet, site.URL+path, "", nil); string(body) != "own" {
					t.Errorf("%s answers %s", path, body)
				}
			}
			for _, path := range []string{prefix + "/", prefix + "/healthz", "/.well-known/openid-configuration" + prefix} {
				if resp, body := s.do(http.MethodGet, site.URL+path, "", nil); resp.StatusCode != http.StatusOK {
					t.Errorf("%s: %s: %s", path, resp.Status, body)
				}
			}
		})
	}
}

// stranger is a client that knows nothing but the URL of an endpoint.
type stranger struct {
	t    *testing.T
	http *http.Client
}

func (s *stranger) do(method, target, contentType string, body []byte, headers ...string) (*http.Response, []byte) {
	s.t.Helper()
	req, err := http.NewRequestWithContext(s.t.Context(), method, target, bytes.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := s.http.Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	out, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return resp, out
}

func (s *stranger) json(method, target, contentType string, body []byte, status int) map[string]any {
	s.t.Helper()
	resp, out := s.do(method, target, contentType, body)
	var m map[string]any
	if err := json.Unmarshal(out, &m); err != nil || resp.StatusCode != status {
		s.t.Fatalf("%s %s: %s: %s", method, target, resp.Status, out)
	}
	return m
}

var resourceMetadata = regexp.MustCompile(`resource_metadata="([^"]+)"`)

// signInAndCall follows the challenge of the endpoint through all documents,
// signs in as the user and returns what userInfo says.
func (s *stranger) signInAndCall(endpoint, email string) string {
	s.t.Helper()
	const (
		callback = "http://127.0.0.1:3456/callback"
		call     = `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"userInfo","arguments":{},"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientInfo":{"name":"s","version":"1"},"io.modelcontextprotocol/clientCapabilities":{}}}}`
	)
	headers := []string{"Accept", "application/json, text/event-stream", "Mcp-Protocol-Version", "2026-07-28", "Mcp-Method", "tools/call", "Mcp-Name", "userInfo"}
	resp, out := s.do(http.MethodPost, endpoint, "application/json", []byte(call), headers...)
	at := resourceMetadata.FindStringSubmatch(resp.Header.Get("WWW-Authenticate"))
	if resp.StatusCode != http.StatusUnauthorized || at == nil {
		s.t.Fatalf("no challenge: %s %q: %s", resp.Status, resp.Header.Get("WWW-Authenticate"), out)
	}
	u, err := url.Parse(endpoint)
	if err != nil {
		s.t.Fatal(err)
	}
	origin := u.Scheme + "://" + u.Host
	if want := origin + "/.well-known/oauth-protected-resource" + u.Path; at[1] != want {
		s.t.Errorf("resource metadata at %s, want %s", at[1], want)
	}
	prm := s.json(http.MethodGet, at[1], "", nil, http.StatusOK)
	issuer, _ := prm["authorization_servers"].([]any)[0].(string)
	if prm["resource"] != endpoint {
		s.t.Errorf("resource %v, want %s", prm["resource"], endpoint)
	}
	iu, err := url.Parse(issuer)
	if err != nil {
		s.t.Fatal(err)
	}
	md := s.json(http.MethodGet, origin+"/.well-known/oauth-authorization-server"+iu.Path, "", nil, http.StatusOK)
	if md["issuer"] != issuer {
		s.t.Errorf("issuer %v, want %s", md["issuer"], issuer)
	}
	registration := fmt.Sprintf(`{"client_name":"Stranger","redirect_uris":[%q],"token_endpoint_auth_method":"none"}`, callback)
	client := s.json(http.MethodPost, md["registration_endpoint"].(string), "application/json", []byte(registration), http.StatusCreated)["client_id"].(string)

	verifier := strings.Repeat("verifier-", 6)
	challenge := sha256.Sum256([]byte(verifier))
	b := newBrowser(s.t, callback)
	b.client.Transport = s.http.Transport
	b.open(md["authorization_endpoint"].(string) + "?" + url.Values{
		"response_type": {"code"}, "client_id": {client}, "redirect_uri": {callback}, "state": {"the-state"}, "resource": {endpoint},
		"code_challenge": {base64.RawURLEncoding.EncodeToString(challenge[:])}, "code_challenge_method": {"S256"},
	}.Encode())
	b.press("Approve")
	b.press(email)
	if !strings.HasPrefix(b.at.String(), issuer+"/consent?signin=") {
		s.t.Errorf("the page that names the account stands at %s", b.at)
	}
	for _, c := range b.client.Jar.Cookies(b.at) { // RFC 6265bis: only "__Host-" keeps the site's other paths from setting them
		if !strings.HasPrefix(c.Name, "__Host-") && !strings.HasPrefix(c.Name, "__devclerk_") {
			s.t.Errorf("cookie %s", c.Name)
		}
	}
	b.press("Continue as")
	if b.landed == nil || b.landed.Query().Get("iss") != issuer {
		s.t.Fatalf("came back with %v", b.landed)
	}
	tokens := s.json(http.MethodPost, md["token_endpoint"].(string), "application/x-www-form-urlencoded", []byte(url.Values{
		"grant_type": {"authorization_code"}, "code": {b.landed.Query().Get("code")}, "client_id": {client}, "redirect_uri": {callback}, "code_verifier": {verifier}, "resource": {endpoint},
	}.Encode()), http.StatusOK)
	resp, out = s.do(http.MethodPost, endpoint, "application/json", []byte(call), append(headers, "Authorization", "Bearer "+tokens["access_token"].(string))...)
	if resp.StatusCode != http.StatusOK {
		s.t.Fatalf("call: %s: %s", resp.Status, out)
	}
	resp, _ = s.do(http.MethodPost, md["revocation_endpoint"].(string), "application/x-www-form-urlencoded", []byte(url.Values{"client_id": {client}, "token": {tokens["refresh_token"].(string)}}.Encode()))
	if resp.StatusCode != http.StatusOK {
		s.t.Errorf("revoke: %s", resp.Status)
	}
	return string(out)
}

// Whoever mounts the handler has what Serve has: changed roles reach open
// streams, these end with the account, and they hold up no shutdown.
func TestAMountedServerKeepsItsStreamsTrue(t *testing.T) {
	r := start(t, nil, func(s *server.Server) { s.SetWatchInterval(20 * time.Millisecond) })
	token := r.signIn(adminMail).Access
	banned := r.signIn(plainMail).Access
	r.mounted = true
	r.restart()
	modern, legacy, other := r.stateless(token).listen(), r.legacy(token).listen(), r.stateless(banned).listen()
	for _, next := range []func() message{modern, other} {
		if m := next(); m.Method != "notifications/subscriptions/acknowledged" {
			t.Fatalf("first message %+v", m)
		}
	}
	r.surveyed()
	if err := r.clerk.SetRole(devclerk.AdminID, "nobody"); err != nil {
		t.Fatal(err)
	}
	if err := r.clerk.Ban(devclerk.MemberID); err != nil {
		t.Fatal(err)
	}
	for _, next := range []func() message{modern, legacy, other} {
		if m := next(); m.Method != "notifications/tools/list_changed" {
			t.Errorf("after a changed role: %+v", m)
		}
	}
	if m := other(); string(m.ID) != `"sub"` {
		t.Errorf("after the ban: %+v", m)
	}
	r.stop()
	if m := modern(); string(m.ID) != `"sub"` || m.Error != nil {
		t.Errorf("at the end: %+v", m)
	}
	if m := legacy(); m.Method != "" {
		t.Errorf("at the end: %+v", m)
	}
}
