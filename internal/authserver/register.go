package authserver

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/mcp-clerk/mcp-clerk/internal/store"
)

// registration is the client metadata (RFC 7591 section 2) that has a meaning
// here. Members not named are ignored, as that section asks; scope and
// application_type are read for their type only: scopes are not bound at
// registration, and what a redirect URI is can be seen from it.
type registration struct {
	RedirectURIs    []string `json:"redirect_uris"`
	Name            string   `json:"client_name"`
	ClientURI       string   `json:"client_uri"`
	LogoURI         string   `json:"logo_uri"`
	GrantTypes      []string `json:"grant_types"`
	ResponseTypes   []string `json:"response_types"`
	AuthMethod      string   `json:"token_endpoint_auth_method"`
	Scope           string   `json:"scope"`
	ApplicationType string   `json:"application_type"`
	SoftwareID      string   `json:"software_id"`
	SoftwareVersion string   `json:"software_version"`
	Contacts        []string `json:"contacts"`
	TermsURI        string   `json:"tos_uri"`
	PolicyURI       string   `json:"policy_uri"`
	JWKSURI         string   `json:"jwks_uri"`

	JWKS json.RawMessage `json:"jwks"`
}

// registrationMembers are the names above: no other spelling of them may come.
var registrationMembers = []string{
	"redirect_uris", "client_name", "client_uri", "logo_uri", "grant_types", "response_types", "token_endpoint_auth_method",
	"scope", "application_type", "software_id", "software_version", "contacts", "tos_uri", "policy_uri", "jwks_uri", "jwks",
}

// registered is the answer of RFC 7591 section 3.2.1. Strict clients refuse
// null and empty strings, so what was not given is left out.
type registered struct {
	ClientID        string   `json:"client_id"`
	IssuedAt        int64    `json:"client_id_issued_at"`
	Secret          string   `json:"client_secret,omitempty"`
	SecretExpires   *int64   `json:"client_secret_expires_at,omitempty"`
	Name            string   `json:"client_name,omitempty"`
	ClientURI       string   `json:"client_uri,omitempty"`
	LogoURI         string   `json:"logo_uri,omitempty"`
	RedirectURIs    []string `json:"redirect_uris,omitempty"`
	GrantTypes      []string `json:"grant_types"`
	ResponseTypes   []string `json:"response_types,omitempty"`
	AuthMethod      string   `json:"token_endpoint_auth_method"`
	SoftwareID      string   `json:"software_id,omitempty"`
	SoftwareVersion string   `json:"software_version,omitempty"`
	JWKSURI         string   `json:"jwks_uri,omitempty"`

	JWKS json.RawMessage `json:"jwks,omitempty"`
}

func invalidMetadata(format string, args ...any) *oauthError {
	return &oauthError{Code: codeInvalidMetadata, Description: fmt.Sprintf(format, args...)}
}

// register is dynamic client registration (RFC 7591).
func (s *Server) register(w http.ResponseWriter, r *http.Request) {
	addr := s.peerAddr(r)
	if retry, ok := s.limits.register.allow(newParty(addr, ""), s.now()); !ok {
		s.writeError(w, r, tooManyRequests(retry))
		return
	}
	if err := s.checkInitialToken(r); err != nil {
		s.writeError(w, r, err)
		return
	}
	if ct := r.Header.Values("Content-Type"); len(ct) > 0 && !isMediaType(r, "application/json") {
		s.writeError(w, r, invalidMetadata("the body must be application/json"))
		return
	}
	body, err := readBody(w, r)
	if err != nil {
		s.writeError(w, r, invalidMetadata("%v", err))
		return
	}
	if retry, ok := s.limits.same.allow(newParty(addr, textHash(string(body))), s.now()); !ok {
		s.writeError(w, r, tooManyRequests(retry))
		return
	}
	reg, err := parseRegistration(body)
	if err != nil {
		s.writeError(w, r, err)
		return
	}
	c, err := s.newClient(reg)
	if err != nil {
		s.writeError(w, r, err)
		return
	}
	if err := s.admission.admit(c); err != nil {
		refused := &oauthError{Code: codeInvalidRedirect, Description: err.Error() + ": one of its redirect URIs leads to a host that is not on the list"}
		if c.JWKSURI != "" && !s.admission.lists(c.JWKSURI) {
			refused = invalidMetadata("%v: its jwks_uri is on a host that is not on the list", err)
		}
		s.writeError(w, r, refused)
		return
	}
	answer := registered{
		Name: c.Name, ClientURI: c.ClientURI, LogoURI: c.LogoURI, RedirectURIs: reg.RedirectURIs, GrantTypes: c.GrantTypes,
		AuthMethod: c.AuthMethod, SoftwareID: c.SoftwareID, SoftwareVersion: c.SoftwareVersion,
		JWKSURI: c.JWKSURI, JWKS: c.JWKS,
	}
	if len(c.RedirectURIs) > 0 {
		answer.ResponseTypes = []string{"code"}
	}
	if !usesSecret(c.AuthMethod) {
		c.ID = prefixClient + b64.EncodeToString(hash(fingerprint(c))[:16])
	} else {
		c.ID = prefixClient + b64.EncodeToString(randomBytes(16))
		answer.Secret = encodeToken(prefixSecret, randomBytes(secretSize))
		answer.SecretExpires = new(int64) // 0: never
		c.SecretHash = hash([]byte(answer.Secret))
	}
	c, created, err := s.keepClient(r, c)
	if err != nil {
		s.writeError(w, r, err)
		return
	}
	if created {
		s.audit(r.Context(), Event{Name: "client.registered", ClientID: c.ID})
	}
	answer.ClientID, answer.IssuedAt = c.ID, c.Created
	noStore(w.Header())
	writeJSON(w, http.StatusCreated, answer)
}

// keepClient stores a new client, or finds the one that an identical public
// registration has left.
func (s *Server) keepClient(r *http.Request, c *client) (kept *client, created bool, err error) {
	ctx := r.Context()
	for range 3 { // a record may expire or appear between two looks
		now := s.now()
		old, err := s.loadClient(ctx, c.ID)
		switch {
		case err == nil:
			return old, false, s.prolong(r, old, now)
		case !errors.Is(err, errUnknownClient):
			return nil, false, err
		}
		if retry, ok := s.limits.created.allow(newParty(s.peerAddr(r), ""), now); !ok {
			return nil, false, tooManyRequests(retry)
		}
		c.Created = now.Unix()
		value, err := json.Marshal(c)
		if err != nil {
			return nil, false, fmt.Errorf("encode client: %w", err)
		}
		err = s.store.Create(ctx, store.Record{Key: clientKey(c.ID), Value: value, Expires: now.Add(registrationTTL)})
		if err == nil {
			return c, true, nil
		}
		if !errors.Is(err, store.ErrExists) {
			return nil, false, storeError("create client", err)
		}
	}
	return nil, false, unavailable(errors.New("client record keeps changing"))
}

// prolong keeps an unused registration that somebody still registers.
func (s *Server) prolong(r *http.Request, c *client, now time.Time) error {
	if c.Approved {
		return nil
	}
	errEarly := errors.New("too early")
	_, err := s.store.Update(r.Context(), clientKey(c.ID), func(old store.Record) ([]byte, time.Time, error) {
		if old.Expires.IsZero() || old.Expires.After(now.Add(registrationTTL*9/10)) {
			return nil, time.Time{}, errEarly
		}
		return old.Value, now.Add(registrationTTL), nil
	})
	if err != nil && !errors.Is(err, errEarly) && !errors.Is(err, store.ErrNotFound) {
		return storeError("prolong client", err)
	}
	return nil
}

// fingerprint identifies a public registration by all that it would store.
func fingerprint(c *client) []byte {
	b, err := json.Marshal(c)
	if err != nil {
		panic("authserver: encode client: " + err.Error()) // strings only
	}
	return append([]byte("mcp-clerk public client\n"), b...)
}

// newClient checks the metadata and makes what will be stored of it.
func (s *Server) newClient(reg *registration) (*client, error) {
	c := &client{
		Name: cutName(reg.Name), ClientURI: webLink(reg.ClientURI), LogoURI: webLink(reg.LogoURI),
		SoftwareID: cutName(reg.SoftwareID), SoftwareVersion: cutName(reg.SoftwareVersion), AuthMethod: reg.AuthMethod,
	}
	if err := takeGrantTypes(c, reg); err != nil {
		return nil, err
	}
	if len(reg.RedirectURIs) == 0 && slices.Contains(c.GrantTypes, grantTypeCode) {
		return nil, &oauthError{Code: codeInvalidRedirect, Description: "redirect_uris is missing or empty"}
	}
	if len(reg.RedirectURIs) > maxRedirects {
		return nil, invalidMetadata("more than %d redirect_uris", maxRedirects)
	}
	native, private := false, false
	for i, raw := range reg.RedirectURIs {
		kind, err := s.redirects.check(raw)
		if err != nil {
			return nil, &oauthError{Code: codeInvalidRedirect, Description: fmt.Sprintf("redirect URI %d %v", i+1, err)}
		}
		native = native || kind != redirectHTTPS
		private = private || kind == redirectPrivate
		if kind == redirectLoopback {
			raw = withoutPort(raw)
		}
		c.RedirectURIs = append(c.RedirectURIs, raw)
	}
	if c.AuthMethod == "" {
		// The default is client_secret_basic (RFC 7591 section 2), which an
		// app on the user's machine cannot keep (RFC 8252 section 8.5).
		c.AuthMethod = methodBasic
		if native || len(c.RedirectURIs) == 0 {
			c.AuthMethod = methodNone
		}
	}
	if !slices.Contains(authMethods, c.AuthMethod) {
		return nil, invalidMetadata("token_endpoint_auth_method must be one of %s", strings.Join(authMethods, ", "))
	}
	if err := s.takeKeys(c, reg); err != nil {
		return nil, err
	}
	if private && c.AuthMethod != methodNone {
		return nil, &oauthError{Code: codeInvalidRedirect, Description: "private-use redirect URIs are for public clients: register with token_endpoint_auth_method none"}
	}
	return c, nil
}

// takeGrantTypes reads what the client wants to do. What is not supported is
// dropped and what was granted is returned. The device grant is for those that
// ask for it: the others would only be one more name for a stranger to use.
func takeGrantTypes(c *client, reg *registration) error {
	asked := reg.GrantTypes
	if len(asked) == 0 {
		asked = []string{grantTypeCode, grantTypeRefresh}
	}
	for _, supported := range []string{grantTypeCode, grantTypeRefresh, grantTypeDevice} {
		if slices.Contains(asked, supported) {
			c.GrantTypes = append(c.GrantTypes, supported)
		}
	}
	code := slices.Contains(c.GrantTypes, grantTypeCode)
	if !code && !slices.Contains(c.GrantTypes, grantTypeDevice) {
		return invalidMetadata("grant_types must contain authorization_code or %s", grantTypeDevice)
	}
	if !code {
		reg.RedirectURIs = nil // nothing leads there
	}
	if code && len(reg.ResponseTypes) > 0 && !slices.Contains(reg.ResponseTypes, "code") {
		return invalidMetadata("none of the response_types is supported: use code")
	}
	return nil
}

// webLink is uri if it is a plain https link, else nothing: other schemes are
// not kept, let alone shown.
func webLink(uri string) string {
	u, err := url.Parse(uri)
	if err != nil || u.Scheme != "https" || u.User != nil || checkURIText(uri) != nil || checkHost(u.Hostname()) != nil {
		return ""
	}
	return uri
}

// cutName bounds a display text. What of it is shown is for the page to decide.
func cutName(name string) string {
	const limit = 256
	name = strings.TrimSpace(name)
	for i := range name {
		if i >= limit {
			return name[:i]
		}
	}
	return name
}

// parseRegistration decodes client metadata.
func parseRegistration(body []byte) (*registration, error) {
	reg := &registration{}
	if err := parseMetadata(body, registrationMembers, reg); err != nil {
		return nil, err
	}
	return reg, nil
}
