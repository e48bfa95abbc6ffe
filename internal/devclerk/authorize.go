package devclerk

import (
	"crypto/rand"
	"encoding/base64"
	"errors"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// Descriptions in Clerk's words: its authorize and token endpoints answer with
// the sentences of the OAuth library behind them, as reports by its users show.
const (
	descInvalidClient  = "Client authentication failed (e.g., unknown client, no client authentication included, or unsupported authentication method)."
	descInvalidRequest = "The request is missing a required parameter, includes an invalid parameter value, includes a parameter more than once, or is otherwise malformed."
	descInvalidGrant   = "The provided authorization grant (e.g., authorization code, resource owner credentials) or refresh token is invalid, expired, revoked, does not match the redirection URI used in the authorization request, or was issued to another client."
	descInvalidState   = "The state is missing or does not have enough characters and is therefore considered too weak. Request parameter 'state' must be at least be 8 characters long to ensure sufficient entropy."
	descInvalidScope   = "The requested scope is invalid, unknown, or malformed."
	descDenied         = "The resource owner or authorization server denied the request."
)

// authRequest is a checked authorization request.
type authRequest struct {
	client      client
	query       url.Values // as it came, to come back to
	redirectURI string
	state       string
	nonce       string
	scope       string
	challenge   string
	resource    string // RFC 8707; "" where none is registered
	prompt      []string
}

// parseAuthRequest checks an authorization request. An error without request
// must be shown to the user, one with request goes back to its redirect URI
// (RFC 6749 section 4.1.2.1).
func (s *Server) parseAuthRequest(q url.Values) (*authRequest, *oauthError) {
	for name, values := range q {
		if len(values) > 1 {
			return nil, &oauthError{http.StatusBadRequest, "invalid_request", descInvalidRequest + " The parameter '" + name + "' is repeated."}
		}
	}
	c, ok := s.client(q.Get("client_id"))
	if !ok {
		return nil, &oauthError{http.StatusUnauthorized, "invalid_client", descInvalidClient + " The requested OAuth 2.0 Client does not exist."}
	}
	redirect := q.Get("redirect_uri")
	if redirect == "" && len(c.redirects) == 1 {
		redirect = c.redirects[0]
	}
	if !slices.Contains(c.redirects, redirect) {
		return nil, &oauthError{http.StatusBadRequest, "invalid_request", descInvalidRequest + " The 'redirect_uri' parameter does not match any of the OAuth 2.0 Client's pre-registered redirect urls."}
	}

	req := &authRequest{
		client:      c,
		query:       q,
		redirectURI: redirect,
		state:       q.Get("state"),
		nonce:       q.Get("nonce"),
		scope:       q.Get("scope"),
		challenge:   q.Get("code_challenge"),
		prompt:      strings.Fields(q.Get("prompt")),
	}
	if req.scope == "" {
		req.scope = defaultScope
	}
	s.mu.Lock()
	if slices.Contains(s.resources, q.Get("resource")) {
		req.resource = q.Get("resource")
	}
	s.mu.Unlock()
	bad := func(code, description string) (*authRequest, *oauthError) {
		return req, &oauthError{http.StatusBadRequest, code, description}
	}
	if q.Get("response_type") != "code" {
		return bad("unsupported_response_type", "The authorization server does not support obtaining a token using this method.")
	}
	if m := q.Get("response_mode"); m != "" && m != "query" {
		return bad("unsupported_response_mode", "The authorization server does not support obtaining a response using this response mode.")
	}
	// "minimum 8 characters. Required … unless PKCE parameters are provided."
	if len(req.state) < 8 && (req.state != "" || req.challenge == "") {
		return bad("invalid_state", descInvalidState)
	}
	method := q.Get("code_challenge_method")
	if req.challenge == "" && method != "" || req.challenge != "" && method != "S256" {
		return bad("invalid_request", descInvalidRequest+" Clients must use code_challenge_method=S256.")
	}
	if b, err := base64.RawURLEncoding.DecodeString(req.challenge); req.challenge != "" && (err != nil || len(b) != 32) {
		return bad("invalid_request", descInvalidRequest+" The code_challenge is not an S256 challenge.")
	}
	// "Required for public clients."
	if c.secret == "" && req.challenge == "" {
		return bad("invalid_request", descInvalidRequest+" Clients must include a code_challenge.")
	}
	for _, scope := range strings.Fields(req.scope) {
		if !s.knowsScope(scope) {
			return bad("invalid_scope", descInvalidScope)
		}
	}
	for _, p := range req.prompt {
		if p != "none" && p != "login" && p != "consent" || p == "none" && len(req.prompt) > 1 {
			return bad("invalid_request", descInvalidRequest+" The parameter 'prompt' is malformed.")
		}
	}
	return req, nil
}

// session is a signed-in browser.
type session struct {
	user    string
	expires time.Time
}

// cookieName names the session cookie. Cookies ignore ports, so several
// development servers on one loopback name would overwrite each other's.
func (s *Server) cookieName() string {
	u, err := url.Parse(s.Issuer())
	if err != nil || u.Port() == "" {
		return "__devclerk"
	}
	return "__devclerk_" + u.Port()
}

// signedIn returns the user of r's session, if it is still one.
func (s *Server) signedIn(r *http.Request) (account, bool) {
	c, err := r.Cookie(s.cookieName())
	if err != nil {
		return account{}, false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	v, ok := s.sessions[c.Value]
	if !ok || !s.now().Before(v.expires) {
		return account{}, false
	}
	a := s.find(v.user)
	if a == nil {
		return account{}, false
	}
	return a.copy(), true
}

func (s *Server) startSession(w http.ResponseWriter, a account) {
	id := rand.Text() + rand.Text()
	s.mu.Lock()
	makeRoom(s.sessions)
	s.sessions[id] = session{user: a.ID, expires: s.now().Add(sessionLifetime)}
	s.mu.Unlock()
	http.SetCookie(w, &http.Cookie{
		Name: s.cookieName(), Value: id, Path: "/", MaxAge: int(sessionLifetime.Seconds()),
		HttpOnly: true, SameSite: http.SameSiteLaxMode, Secure: strings.HasPrefix(s.Issuer(), "https:"),
	})
}

// makeRoom keeps a map below its bound by dropping any entry of it.
func makeRoom[V any](m map[string]V) {
	for k := range m {
		if len(m) < maxPending {
			return
		}
		delete(m, k)
	}
}

// serveAuthorize is GET and POST /oauth/authorize.
func (s *Server) serveAuthorize(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	if r.Method == http.MethodPost {
		var err error
		if q, err = postForm(r); err != nil {
			writeOAuthError(w, &oauthError{http.StatusBadRequest, "invalid_request", descInvalidRequest})
			return
		}
	}
	req, oerr := s.parseAuthRequest(q)
	if oerr != nil {
		s.refuse(w, r, req, oerr)
		return
	}
	s.mu.Lock()
	deny := s.denyNext
	s.denyNext = false
	s.mu.Unlock()
	consent := s.needsConsent(req)
	user, ok := s.signedIn(r)
	switch {
	case deny:
		s.refuse(w, r, req, &oauthError{http.StatusForbidden, "access_denied", descDenied})
	case slices.Contains(req.prompt, "none") && !ok:
		s.refuse(w, r, req, &oauthError{http.StatusBadRequest, "login_required", "The Authorization Server requires End-User authentication."})
	case slices.Contains(req.prompt, "none") && consent:
		s.refuse(w, r, req, &oauthError{http.StatusBadRequest, "consent_required", "The Authorization Server requires End-User consent."})
	case !ok || slices.Contains(req.prompt, "login"):
		s.showSignIn(w, http.StatusOK, req, "")
	case consent:
		s.showConsent(w, req, user)
	default:
		s.grant(w, r, req, user)
	}
}

// needsConsent reports whether the consent screen is shown: "All dynamically
// registered clients must use the consent screen" (fapi specification, POST
// /oauth/register).
func (s *Server) needsConsent(req *authRequest) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.consent || slices.Contains(req.prompt, "consent") || !req.client.registered.IsZero()
}

// serveSignIn is the submit of the sign-in page: it carries the authorization
// request in its query, so that the page needs no state here.
func (s *Server) serveSignIn(w http.ResponseWriter, r *http.Request) {
	form, req, ok := s.pageForm(w, r)
	if !ok {
		return
	}
	user, ok := s.account(form.Get("user"))
	switch {
	case !ok:
		s.showSignIn(w, http.StatusBadRequest, req, "This account does not exist any more. Choose another one.")
		return
	case user.Banned:
		s.showSignIn(w, http.StatusForbidden, req, user.Email+" is banned and can't sign in.")
		return
	case user.Locked:
		s.showSignIn(w, http.StatusForbidden, req, user.Email+" is locked and can't sign in.")
		return
	}
	s.startSession(w, user)
	if s.needsConsent(req) {
		s.showConsent(w, req, user)
		return
	}
	s.grant(w, r, req, user)
}

// serveConsent is the submit of the consent page.
func (s *Server) serveConsent(w http.ResponseWriter, r *http.Request) {
	form, req, ok := s.pageForm(w, r)
	if !ok {
		return
	}
	user, ok := s.signedIn(r)
	if !ok {
		s.showSignIn(w, http.StatusOK, req, "")
		return
	}
	if form.Get("decision") != "allow" {
		s.refuse(w, r, req, &oauthError{http.StatusForbidden, "access_denied", descDenied})
		return
	}
	s.grant(w, r, req, user)
}

// pageForm checks the submit of a page: it comes from this origin, and from a
// valid authorization request.
func (s *Server) pageForm(w http.ResponseWriter, r *http.Request) (url.Values, *authRequest, bool) {
	if s.origin.Check(r) != nil {
		http.Error(w, "this form was sent from another site", http.StatusForbidden)
		return nil, nil, false
	}
	form, err := postForm(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return nil, nil, false
	}
	req, oerr := s.parseAuthRequest(r.URL.Query())
	if oerr != nil {
		s.refuse(w, r, req, oerr)
		return nil, nil, false
	}
	return form, req, true
}

// refuse reports an error, to the client where there is a checked redirect.
func (s *Server) refuse(w http.ResponseWriter, r *http.Request, req *authRequest, e *oauthError) {
	if req == nil {
		writeOAuthError(w, e)
		return
	}
	http.Redirect(w, r, req.errorURL(e), http.StatusSeeOther)
}

func (req *authRequest) errorURL(e *oauthError) string {
	return req.back(url.Values{"error": {e.code}, "error_description": {e.description}})
}

// back is the redirect URI with the answer added to its query.
func (req *authRequest) back(answer url.Values) string {
	u, err := url.Parse(req.redirectURI)
	if err != nil {
		panic(err) // AllowRedirect parsed it
	}
	q := u.Query()
	for k, v := range answer {
		q[k] = v
	}
	if req.state != "" {
		q.Set("state", req.state)
	}
	u.RawQuery = q.Encode()
	return u.String()
}

// code is an authorization code that was given out.
type code struct {
	client    string
	resource  string
	user      string
	redirect  string
	nonce     string
	scope     string
	challenge string
	expires   time.Time
	used      bool
	family    string // of the tokens it was exchanged for
}

// grant sends the user back with a code.
func (s *Server) grant(w http.ResponseWriter, r *http.Request, req *authRequest, user account) {
	id := "clk_code_" + rand.Text()
	s.mu.Lock()
	makeRoom(s.codes)
	s.codes[id] = &code{
		client: req.client.id, resource: req.resource, user: user.ID, redirect: req.redirectURI, nonce: req.nonce, scope: req.scope,
		challenge: req.challenge, expires: s.now().Add(codeLifetime), family: rand.Text(),
	}
	s.mu.Unlock()
	s.log.Debug("signed in at the stand-in for Clerk", "user", user.ID)
	http.Redirect(w, r, req.back(url.Values{"code": {id}}), http.StatusSeeOther)
}

var errForm = errors.New("the body must be application/x-www-form-urlencoded")

// postForm reads a form body without the query that FormValue would mix in.
func postForm(r *http.Request) (url.Values, error) {
	if ct, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || ct != "application/x-www-form-urlencoded" {
		return nil, errForm
	}
	if err := r.ParseForm(); err != nil {
		return nil, errForm
	}
	return r.PostForm, nil
}
