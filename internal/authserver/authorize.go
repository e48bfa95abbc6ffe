package authserver

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/mcp-clerk/mcp-clerk/internal/store"
)

// maxQuery bounds an authorization request.
const maxQuery = 16 << 10

// authRequest is a checked authorization request. It travels sealed, through
// the form of the consent page and through the record of the sign-in.
type authRequest struct {
	Client    string   `json:"client"`
	Redirect  string   `json:"redirect"`
	State     string   `json:"state,omitempty"`
	Scopes    []string `json:"scopes"`
	Challenge string   `json:"challenge"`
	// What the client wants the user to be asked (OpenID Connect Core 3.1.2.1).
	Login   bool `json:"login,omitempty"`   // to sign in again or choose an account
	Consent bool `json:"consent,omitempty"` // to approve again
	None    bool `json:"none,omitempty"`    // nothing

	// Organization is what the user has chosen, "" if nothing yet.
	Organization string `json:"org,omitempty"`

	Flight string `json:"flight,omitempty"` // id in the flight recorder

	// Page is that of this server which the person signs in for; there is no
	// client then.
	Page string `json:"page,omitempty"`

	// Of a device (RFC 8628) instead of Redirect, State and Challenge.
	Device string `json:"device,omitempty"` // its user code
	From   string `json:"from,omitempty"`   // address that asked, "" if that says nothing
	Asked  int64  `json:"asked,omitempty"`  // unix milliseconds
}

// url is the request as the client made it, to start over; prompt replaces its own.
func (req *authRequest) url(s *Server, prompt string) string {
	if req.Device != "" {
		return withQuery(s.site.issuer+"/device", "user_code", showUserCode(req.Device), "prompt", prompt)
	}
	if req.Page != "" {
		return withQuery(s.site.issuer+req.Page, "prompt", prompt)
	}
	q := url.Values{
		"response_type": {"code"}, "client_id": {req.Client}, "redirect_uri": {req.Redirect}, "resource": {s.site.resource},
		"scope": {strings.Join(req.Scopes, " ")}, "code_challenge": {req.Challenge}, "code_challenge_method": {"S256"},
	}
	if req.State != "" {
		q.Set("state", req.State)
	}
	if prompt != "" {
		q.Set("prompt", prompt)
	}
	return s.site.issuer + "/authorize?" + q.Encode()
}

// answer is the client's redirect URI with the parameters of an authorization
// response, iss among them (RFC 9207).
func (req *authRequest) answer(s *Server, pairs ...string) string {
	return withQuery(req.Redirect, append(pairs, "state", req.State, "iss", s.site.issuer)...)
}

func (req *authRequest) refusal(s *Server, oe *oauthError) string {
	return req.answer(s, "error", oe.Code, "error_description", oe.Description)
}

var errDenied = &oauthError{Code: codeAccessDenied, Description: "the user did not approve the access"}

// authorize is the authorization endpoint (RFC 6749 section 3.1).
func (s *Server) authorize(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodPost { // OpenID Connect Core section 3.1.2.1
		form, err := readForm(w, r)
		if err != nil || strings.ContainsFunc(form, func(c rune) bool { return c <= ' ' || c >= 0x7f || c == '#' }) {
			s.badRequestPage(w, r, "its request cannot be read")
			return
		}
		redirect(w, http.StatusSeeOther, s.site.issuer+"/authorize?"+strings.Trim(r.URL.RawQuery+"&"+form, "&"))
		return
	}
	if len(r.URL.RawQuery) > maxQuery {
		s.badRequestPage(w, r, "its request is too long")
		return
	}
	p, err := parseParams(r.URL.RawQuery)
	if err != nil {
		s.badRequestPage(w, r, "its request is malformed")
		return
	}
	// Until the client and its redirect URI are certain, nobody but the person
	// in front of the browser is told (RFC 6749 section 4.1.2.1).
	for _, name := range []string{"client_id", "redirect_uri"} {
		if slices.Contains(p.repeated, name) {
			s.badRequestPage(w, r, "its request names "+name+" more than once")
			return
		}
	}
	if retry, ok := s.limits.client.allow(newParty(s.peerAddr(r), p.get("client_id")), s.now()); !ok {
		s.tooManyPage(w, r, retry)
		return
	}
	c, err := s.findClient(r, p.get("client_id"))
	if err != nil {
		s.clientErrorPage(w, s.recordArrival(r, p, nil, ""), err, "")
		return
	}
	redirectURI, err := s.findRedirect(c, p.get("redirect_uri"))
	if err != nil {
		s.badRequestPage(w, s.recordArrival(r, p, c, ""), err.Error())
		return
	}
	r = s.recordArrival(r, p, c, redirectURI)
	req := &authRequest{Client: c.ID, Redirect: redirectURI, Flight: flightOf(r)}
	if !slices.Contains(p.repeated, "state") {
		req.State = p.get("state")
	}
	if err := s.readRequest(req, p); err != nil {
		s.refuseRequest(w, r, c, req, asOAuthError(err))
		return
	}
	s.askUser(w, r, c, req)
}

// readRequest checks the parameters whose faults the client is told.
func (s *Server) readRequest(req *authRequest, p params) error {
	if slices.Contains(p.repeated, "resource") {
		return &oauthError{Code: codeInvalidTarget, Description: "more than one resource"}
	}
	if len(p.repeated) > 0 {
		return invalidRequest("a parameter comes more than once")
	}
	switch p.get("response_type") {
	case "code":
	case "":
		return invalidRequest("response_type is missing")
	default:
		return &oauthError{Code: codeUnsupportedResponse, Description: "use response_type code"}
	}
	if mode := p.get("response_mode"); mode != "" && mode != "query" {
		return invalidRequest("response_mode must be query")
	}
	if p.get("request") != "" {
		return &oauthError{Code: "request_not_supported", Description: "request objects are not supported"}
	}
	if p.get("request_uri") != "" {
		return &oauthError{Code: "request_uri_not_supported", Description: "request objects are not supported"}
	}
	req.Challenge = p.get("code_challenge")
	switch {
	case req.Challenge == "":
		return invalidRequest("code_challenge is missing: PKCE is required")
	case p.get("code_challenge_method") != "S256": // the default would be plain
		return invalidRequest("code_challenge_method must be S256")
	case !validChallenge(req.Challenge):
		return invalidRequest("code_challenge is not 43 base64url characters")
	}
	if resource := p.get("resource"); resource != "" {
		if err := s.site.checkResource(resource); err != nil {
			return &oauthError{Code: codeInvalidTarget, Description: err.Error()}
		}
	}
	req.Scopes = s.grantableScopes(p.get("scope"))
	prompts := strings.Fields(p.get("prompt"))
	req.Login = slices.Contains(prompts, "login") || slices.Contains(prompts, "select_account")
	req.Consent = slices.Contains(prompts, "consent")
	req.None = slices.Contains(prompts, "none")
	if req.None && len(prompts) > 1 {
		return invalidRequest("prompt none excludes every other")
	}
	return nil
}

// refuseRequest tells the client, by its redirect URI, what is wrong. Where
// that leads to a web host which this user has never approved, a page asks
// first: anybody can register a client, and the server must not become its
// open redirector (RFC 9700 section 4.11.2).
func (s *Server) refuseRequest(w http.ResponseWriter, r *http.Request, c *client, req *authRequest, oe *oauthError) {
	s.logFailure(r.Context(), r.URL.Path, http.StatusFound, oe)
	s.flights.step(req.Flight, stepStopped, "was refused at /authorize", oe.Code+": "+oe.Description)
	target := req.refusal(s, oe)
	if s.trustedRedirect(r, c, req) {
		redirect(w, http.StatusFound, target)
		return
	}
	s.errorPage(w, r, errorPage{Status: http.StatusBadRequest,
		Problem: "The application sent a request that cannot be answered: " + oe.Description + ".",
		Advice:  "Nothing was approved. Return to it only if you came from there yourself.",
		Link:    target, LinkText: "Return to " + redirectHost(req.Redirect)})
}

func (s *Server) trustedRedirect(r *http.Request, c *client, req *authRequest) bool {
	if kind, err := s.redirects.check(req.Redirect); err == nil && kind != redirectHTTPS {
		return true // ends on the user's own machine
	}
	a := s.readAccount(r)
	if a == nil {
		return false
	}
	_, ok := s.loadConsent(r.Context(), a.Subject, c)
	return ok
}

// askUser decides which page comes first.
func (s *Server) askUser(w http.ResponseWriter, r *http.Request, c *client, req *authRequest) {
	a := s.readAccount(r)
	if req.Login {
		a = nil
	}
	remembered := a != nil && !req.Consent && s.remembered(r.Context(), a.Subject, c, req)
	switch {
	case req.None && a == nil:
		s.refuseRequest(w, r, c, req, &oauthError{Code: codeLoginRequired, Description: "nobody is signed in"})
	case req.None && !remembered:
		s.refuseRequest(w, r, c, req, &oauthError{Code: codeConsentRequired, Description: "the user has to approve"})
	case remembered:
		s.beginSignIn(w, r, req, a.Subject, http.StatusFound)
	default:
		s.consentPage(w, r, c, req, a)
	}
}

// consent is what a user has approved for a client, the record
// consent/SUBJECT/HASH.
type consentRecord struct {
	Client   string   `json:"client"`
	Redirect string   `json:"redirect"` // loopback ones without their port
	Scopes   []string `json:"scopes"`
	Resource string   `json:"resource"`
	Mark     []byte   `json:"mark"`
	At       int64    `json:"at"` // unix milliseconds
	// Organization is what the grant was for, to be proposed the next time.
	Organization string `json:"org,omitempty"`
}

func consentKey(subject, clientID string) string {
	return "consent/" + url.PathEscape(subject) + "/" + textHash(clientID)
}

func (s *Server) loadConsent(ctx context.Context, subject string, c *client) (consentRecord, bool) {
	var rec consentRecord
	stored, err := s.store.Get(ctx, consentKey(subject, c.ID))
	if err != nil || json.Unmarshal(stored.Value, &rec) != nil {
		return rec, false // asking once more is always right
	}
	// A client that has changed where codes go is another one.
	return rec, rec.Client == c.ID && sameMark(rec.Mark, c.consentMark())
}

// remembered reports whether the consent page may be skipped: for a client
// whose domain is proven, with a redirect to a host that has a certificate, and
// for no more than was approved.
func (s *Server) remembered(ctx context.Context, subject string, c *client, req *authRequest) bool {
	if kind, err := s.redirects.check(req.Redirect); err != nil || kind != redirectHTTPS || !c.verified {
		return false
	}
	rec, ok := s.loadConsent(ctx, subject, c)
	req.Organization = rec.Organization
	return ok && rec.Redirect == req.Redirect && rec.Resource == s.site.resource && subset(req.Scopes, rec.Scopes)
}

// forgetConsent drops what a user has approved for a client: whoever ended a
// grant wants to be asked before there is another.
func (s *Server) forgetConsent(ctx context.Context, subject, clientID string) {
	if err := s.store.Delete(ctx, consentKey(subject, clientID)); err != nil {
		s.log.WarnContext(ctx, "consent not forgotten", "client", clientID, "subject", subject, "error", err)
	}
}

func (s *Server) saveConsent(ctx context.Context, subject string, c *client, req *authRequest) error {
	now := s.now()
	value, err := json.Marshal(consentRecord{
		Client: req.Client, Redirect: withoutPort(req.Redirect), Scopes: req.Scopes, Resource: s.site.resource, Mark: c.consentMark(), At: now.UnixMilli(),
		Organization: req.Organization,
	})
	if err != nil {
		return err
	}
	key, expires := consentKey(subject, req.Client), now.Add(s.opts.RefreshAbsolute)
	if err := s.put(ctx, store.Record{Key: key, Value: value, Expires: expires}); err != nil {
		return storeError("save consent", err)
	}
	return nil
}
