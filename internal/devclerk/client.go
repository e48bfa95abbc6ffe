package devclerk

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/mcp-clerk/mcp-clerk/internal/secret"
)

// client is an OAuth client: the application of the options, or one that has
// registered itself.
type client struct {
	id         string
	secret     secret.String // "": public
	name       string
	redirects  []string
	registered time.Time // zero for the application
}

// client returns a copy of the client of that id. s.mu is not held.
func (s *Server) client(id string) (client, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if id == s.clientID {
		return client{id: id, secret: s.clientSecret, redirects: slices.Clone(s.redirects)}, true
	}
	c, ok := s.clients[id]
	return c, ok
}

// proves reports whether given is the client's secret. A public client has
// none: what it proves is the code's verifier.
func (c *client) proves(given string) bool {
	return subtle.ConstantTimeCompare([]byte(given), []byte(c.secret.Reveal())) == 1
}

// SetRegistration switches dynamic client registration on or off. It is off
// at first, as in a new Clerk instance (fapi specification, POST /oauth/register).
func (s *Server) SetRegistration(on bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.registration = on
}

// serveRegister is POST /oauth/register (RFC 7591), with the schemas
// OAuth.DynamicClientRegistrationRequest and -Response.
func (s *Server) serveRegister(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	on := s.registration
	s.mu.Unlock()
	if !on {
		writeErrors(w, http.StatusUnprocessableEntity, clerkError{
			Message: "Dynamic client registration is disabled", LongMessage: "Dynamic client registration is not enabled for this instance", Code: "oauth_dynamic_client_registration_disabled",
		})
		return
	}
	refuse := func(code, description string) {
		writeOAuthError(w, &oauthError{http.StatusBadRequest, code, description})
	}
	var asked struct {
		Redirects []string `json:"redirect_uris"`
		Method    string   `json:"token_endpoint_auth_method"`
		Name      string   `json:"client_name"`
		URI       string   `json:"client_uri"`
		Logo      string   `json:"logo_uri"`
		Scope     string   `json:"scope"`
	}
	if json.NewDecoder(r.Body).Decode(&asked) != nil {
		refuse("invalid_client_metadata", "The client metadata is not JSON of the expected form.")
		return
	}
	if asked.Method == "" {
		asked.Method = "client_secret_basic"
	}
	if !slices.Contains(authMethods, asked.Method) {
		refuse("invalid_client_metadata", "The token_endpoint_auth_method is not supported.")
		return
	}
	if len(asked.Redirects) == 0 {
		refuse("invalid_redirect_uri", "The redirect_uris are missing.")
		return
	}
	for _, redirect := range asked.Redirects {
		if u, err := url.Parse(redirect); err != nil || u.Scheme == "" || u.Fragment != "" {
			refuse("invalid_redirect_uri", "A redirect URI is not absolute.")
			return
		}
	}
	for _, scope := range strings.Fields(asked.Scope) {
		if !s.knowsScope(scope) {
			refuse("invalid_client_metadata", descInvalidScope)
			return
		}
	}
	c := client{id: rand.Text()[:16], name: asked.Name, redirects: asked.Redirects, registered: s.now()}
	if asked.Method != "none" {
		c.secret = secret.String(rand.Text() + rand.Text())
	}
	s.mu.Lock()
	makeRoom(s.clients)
	s.clients[c.id] = c
	s.mu.Unlock()
	answer := map[string]any{
		"client_id": c.id, "client_id_issued_at": c.registered.Unix(), "client_name": orDefault(asked.Name, c.id),
		"redirect_uris": asked.Redirects, "token_endpoint_auth_method": asked.Method,
		"grant_types": []string{"authorization_code", "refresh_token"}, "response_types": []string{"code"},
		"scope": orDefault(asked.Scope, defaultScope),
	}
	if c.secret != "" {
		answer["client_secret"], answer["client_secret_expires_at"] = c.secret.Reveal(), 0
	}
	writeJSON(w, http.StatusCreated, answer)
}

func orDefault(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

// authMethods are how clients prove themselves at the token endpoint (fapi
// specification, POST /oauth/register).
var authMethods = []string{"client_secret_basic", "client_secret_post", "none"}

// AddScope adds a custom scope, as one does for an application in Clerk's
// dashboard.
func (s *Server) AddScope(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !slices.Contains(s.scopes, name) {
		s.scopes = append(s.scopes, name)
	}
}

func (s *Server) knowsScope(name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Contains(s.scopes, name)
}

// AddResource registers the URL of an MCP server as a resource: who asks for a
// token for it gets it as the token's audience (Clerk's dashboard, "Agents", "MCP
// servers"; with the first one Clerk switches the audience claim on). What Clerk
// does about a resource that is not registered is not documented; here it is
// ignored.
func (s *Server) AddResource(resourceURL string) error {
	u, err := url.Parse(resourceURL)
	if err != nil || u.Host == "" || u.Fragment != "" {
		return fmt.Errorf("resource %q: must be absolute and without fragment", resourceURL)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.resources = append(s.resources, resourceURL)
	s.audience = true
	return nil
}

// SetAudience switches the audience claim of JWT access tokens on or off, which
// Clerk's dashboard calls "Include audience".
func (s *Server) SetAudience(on bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.audience = on
}
