// Package devclerk is a stand-in for Clerk that runs on loopback: an
// http.Handler with Clerk's OpenID Connect endpoints, a sign-in page, and the
// part of Clerk's Backend API that reads users and verifies tokens; it delivers
// webhooks. It serves `serve --dev`, where nobody has an account yet, and the
// tests, which steer it while it runs: roles change, users are banned, keys
// rotate, the service is slow or down. Person is the one who signs in where
// there is no browser.
//
// It imports identity and secret at most. Its one invariant: whatever it
// answers has the shape that Clerk's own endpoints have, so that the code which
// talks to it can be pointed at Clerk and nothing but its configuration
// changes. The shapes come from Clerk's published API specification
// (github.com/clerk/openapi-specs, fapi/2026-05-12 and bapi/2025-04-10, the
// version that clerk-sdk-go v2.4.2 asks for, and in which tokens are verified as
// in bapi/2026-05-12); where a comment names another source, it is that. It is not an identity provider: whoever reaches it may
// sign in as anyone.
package devclerk

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/mcp-clerk/mcp-clerk/internal/secret"
)

// Lifetimes as Clerk documents them (fapi specification, POST /oauth/token).
const (
	codeLifetime    = 10 * time.Minute
	tokenLifetime   = 24 * time.Hour
	sessionLifetime = 7 * 24 * time.Hour
)

// Bounds of what is kept in memory; a development server may run for weeks.
const (
	maxPending = 10_000
	maxBody    = 64 << 10
)

// Options configure a Server. The zero value is a working stand-in with the
// two default users and made-up credentials.
type Options struct {
	Issuer       string          // origin under which it is reached, "http://localhost:4411"; see SetIssuer
	Users        []User          // nil: DefaultUsers
	ClientID     string          // the one OAuth application; "": made up
	ClientSecret secret.String   // "": made up
	SecretKey    secret.String   // Backend API key, "sk_test_…"; "": made up
	RedirectURLs []string        // exact redirect URIs of the application; see AllowRedirect
	SigningKey   *rsa.PrivateKey // RS256 key of the tokens; nil: made when it is first needed
	Now          func() time.Time
	Logger       *slog.Logger // nil: silent
}

// Server is the stand-in. Its methods may be called while it serves.
type Server struct {
	clientID     string
	clientSecret secret.String
	secretKey    secret.String
	instanceID   string
	now          func() time.Time
	log          *slog.Logger
	mux          *http.ServeMux
	origin       *http.CrossOriginProtection
	sender       *http.Client // of webhooks

	mu           sync.Mutex
	issuer       string
	redirects    []string
	clients      map[string]client // that registered, by id
	scopes       []string
	resources    []string
	users        []*account // in order of creation
	sessions     map[string]session
	codes        map[string]*code
	tokens       map[string]*token
	machines     []Machine
	machineKeys  map[string]*machineKey
	keys         []signingKey // all are published, the last one signs; see published
	faults       map[string]*Fault
	limit        rateLimit
	requests     map[string]int
	denyNext     bool
	consent      bool
	opaque       bool
	audience     bool
	registration bool
	webhook      webhookEndpoint
}

// New makes a stand-in for Clerk. It does not listen: serve it with
// net/http and tell it by SetIssuer where it is reached.
func New(o Options) (*Server, error) {
	s := &Server{
		clientID:     o.ClientID,
		clientSecret: o.ClientSecret,
		secretKey:    o.SecretKey,
		instanceID:   randomID("ins_"),
		now:          o.Now,
		log:          o.Logger,
		origin:       http.NewCrossOriginProtection(),
		sender:       &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: webhookTimeout},
		sessions:     map[string]session{},
		codes:        map[string]*code{},
		tokens:       map[string]*token{},
		faults:       map[string]*Fault{},
		requests:     map[string]int{},
		clients:      map[string]client{},
		machineKeys:  map[string]*machineKey{},
		scopes:       slices.Clone(supportedScopes),
	}
	if s.clientID == "" {
		s.clientID = rand.Text()[:16]
	}
	if s.clientSecret == "" {
		s.clientSecret = secret.String(rand.Text() + rand.Text())
	}
	if s.secretKey == "" {
		s.secretKey = secret.String("sk_test_" + rand.Text() + rand.Text())
	}
	if s.now == nil {
		s.now = time.Now
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	users := o.Users
	if users == nil {
		users = DefaultUsers()
	}
	for _, u := range users {
		if err := s.AddUser(u); err != nil {
			return nil, err
		}
	}
	if o.Issuer != "" {
		if err := s.SetIssuer(o.Issuer); err != nil {
			return nil, err
		}
	}
	for _, r := range o.RedirectURLs {
		if err := s.AllowRedirect(r); err != nil {
			return nil, err
		}
	}
	if o.SigningKey != nil {
		s.keys = []signingKey{{id: randomID("ins_"), key: o.SigningKey}}
	}
	s.mux = s.routes()
	return s, nil
}

// SetIssuer says under which origin the server is reached, once the listener
// is known. It is the `iss` of every token and the base of every endpoint.
func (s *Server) SetIssuer(issuer string) error {
	u, err := url.Parse(issuer)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" {
		return fmt.Errorf("issuer %q: must be an origin such as http://localhost:4411", issuer)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.issuer = u.Scheme + "://" + u.Host
	return nil
}

// AllowRedirect registers a redirect URI with the OAuth application. It is
// compared as an exact string (RFC 9700 section 4.1.3).
func (s *Server) AllowRedirect(redirectURL string) error {
	u, err := url.Parse(redirectURL)
	if err != nil || u.Scheme == "" || u.Host == "" || u.Fragment != "" {
		return fmt.Errorf("redirect URL %q: must be absolute and without fragment", redirectURL)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !slices.Contains(s.redirects, redirectURL) {
		s.redirects = append(s.redirects, redirectURL)
	}
	return nil
}

// Issuer returns the origin that SetIssuer was given, or "".
func (s *Server) Issuer() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.issuer
}

// ClientID returns the client id of the OAuth application.
func (s *Server) ClientID() string { return s.clientID }

// ClientSecret returns the client secret of the OAuth application.
func (s *Server) ClientSecret() secret.String { return s.clientSecret }

// SecretKey returns the key of the Backend API.
func (s *Server) SecretKey() secret.String { return s.secretKey }

func (s *Server) routes() *http.ServeMux {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /.well-known/openid-configuration", s.serveOpenIDConfiguration)
	mux.HandleFunc("GET /.well-known/oauth-authorization-server", s.serveServerMetadata)
	mux.HandleFunc("GET /.well-known/jwks.json", s.serveJWKS)
	mux.HandleFunc("GET /oauth/authorize", s.serveAuthorize)
	mux.HandleFunc("POST /oauth/authorize", s.serveAuthorize)
	mux.HandleFunc("POST /sign-in", s.serveSignIn)
	mux.HandleFunc("POST /consent", s.serveConsent)
	mux.HandleFunc("POST /oauth/register", s.serveRegister)
	mux.HandleFunc("POST /oauth/token", s.serveToken)
	mux.HandleFunc("GET /oauth/userinfo", s.serveUserInfo)
	mux.HandleFunc("POST /oauth/userinfo", s.serveUserInfo)
	mux.HandleFunc("POST /oauth/token_info", s.serveTokenInfo)
	mux.HandleFunc("POST /oauth/token/revoke", s.serveRevoke)
	mux.HandleFunc("GET /v1/users", s.backend(s.serveUserList))
	mux.HandleFunc("GET /v1/users/count", s.backend(s.serveUserCount))
	mux.HandleFunc("GET /v1/users/{id}", s.backend(s.serveUser))
	mux.HandleFunc("GET /v1/users/{id}/organization_memberships", s.backend(s.serveMemberships))
	mux.HandleFunc("POST /v1/oauth_applications/access_tokens/verify", s.backend(s.serveVerifyAccessToken))
	mux.HandleFunc("POST /v1/api_keys/verify", s.backend(s.serveVerifyAPIKey))
	mux.HandleFunc("POST /v1/m2m_tokens/verify", s.serveVerifyMachineToken)
	mux.HandleFunc("GET /users", s.serveUsersPage)
	mux.HandleFunc("POST /users", s.serveUserAction)
	mux.HandleFunc("GET /switches", s.serveSwitches)
	mux.HandleFunc("POST /switches", s.serveSwitch)
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		writeErrors(w, http.StatusNotFound, errNotFound("The URL was not found"))
	})
	return mux
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	_, pattern := s.mux.Handler(r)
	s.mu.Lock()
	s.requests[pattern]++
	issuer := s.issuer
	s.mu.Unlock()

	h := w.Header()
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	switch {
	case issuer == "":
		writeErrors(w, http.StatusServiceUnavailable, errInternal("The server is starting: its issuer is not set yet"))
		return
	case isLoopback(strings.TrimPrefix(issuer, "http://")) && !isLoopback(r.Host):
		// A name that an attacker lets point here must not make a page of
		// theirs the same origin as this server.
		writeErrors(w, http.StatusMisdirectedRequest, clerkError{Message: "Invalid host", LongMessage: "This server is for loopback names only", Code: "host_invalid"})
		return
	}
	// Read first: net/http notices a client that goes away only after that.
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		writeErrors(w, http.StatusRequestEntityTooLarge, errParameter("body", "The body is too large or incomplete"))
		return
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	if s.misbehave(w, r) {
		return
	}
	s.mux.ServeHTTP(w, r)
}

// isLoopback reports whether a host, with or without port, names this machine.
func isLoopback(hostport string) bool {
	u := url.URL{Host: hostport}
	ip := net.ParseIP(u.Hostname())
	return u.Hostname() == "localhost" || ip != nil && ip.IsLoopback()
}

// Requests returns how many requests reached the route of pattern so far, for
// instance "GET /v1/users/{id}".
func (s *Server) Requests(pattern string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.requests[pattern]
}

// randomID makes an id in Clerk's form: a prefix and 27 letters or digits.
func randomID(prefix string) string {
	return prefix + (rand.Text() + rand.Text())[:27]
}

func traceID() string {
	b := make([]byte, 16)
	_, _ = rand.Read(b) // never fails, see crypto/rand
	return hex.EncodeToString(b)
}

var errUnknownUser = errors.New("unknown user")
