package devclerk

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// token is an access or a refresh token that was given out.
type token struct {
	id       string // of an access token
	refresh  bool
	jwt      bool
	family   string // shared by all tokens of one sign-in
	client   string
	resource string // "": none
	user     string
	scope    string
	nonce    string
	issued   time.Time
	expires  time.Time // zero: without end
}

// authenticate returns the client: its id and secret come by Basic or in the
// body, which Clerk treats alike; a public client has an id alone.
func (s *Server) authenticate(r *http.Request, form url.Values) (client, *oauthError) {
	refused := &oauthError{http.StatusUnauthorized, "invalid_client", descInvalidClient}
	id, secretText, basic := r.BasicAuth()
	if basic {
		// RFC 6749 section 2.3.1: both halves are form-encoded first.
		var err1, err2 error
		id, err1 = url.QueryUnescape(id)
		secretText, err2 = url.QueryUnescape(secretText)
		if err1 != nil || err2 != nil || form.Has("client_secret") {
			return client{}, refused
		}
	} else {
		id, secretText = form.Get("client_id"), form.Get("client_secret")
	}
	c, ok := s.client(id)
	if !ok || !c.proves(secretText) {
		return client{}, refused
	}
	return c, nil
}

// tokenForm reads the form of a request to the token endpoints.
func (s *Server) tokenForm(w http.ResponseWriter, r *http.Request) (url.Values, client, bool) {
	form, err := postForm(r)
	if err == nil {
		for _, values := range form {
			if len(values) > 1 {
				err = errForm
			}
		}
	}
	if err != nil {
		writeOAuthError(w, &oauthError{http.StatusBadRequest, "invalid_request", descInvalidRequest})
		return nil, client{}, false
	}
	c, oerr := s.authenticate(r, form)
	if oerr != nil {
		writeOAuthError(w, oerr)
		return nil, client{}, false
	}
	return form, c, true
}

// serveToken is POST /oauth/token.
func (s *Server) serveToken(w http.ResponseWriter, r *http.Request) {
	form, c, ok := s.tokenForm(w, r)
	if !ok {
		return
	}
	var granted token
	var oerr *oauthError
	switch form.Get("grant_type") {
	case "authorization_code":
		granted, oerr = s.redeem(c, form)
	case "refresh_token":
		granted, oerr = s.refresh(c, form)
	default:
		oerr = &oauthError{http.StatusBadRequest, "unsupported_grant_type", "The authorization grant type is not supported by the authorization server."}
	}
	if oerr != nil {
		writeOAuthError(w, oerr)
		return
	}
	s.issue(w, granted)
}

var errGrant = &oauthError{http.StatusBadRequest, "invalid_grant", descInvalidGrant}

// redeem exchanges a code. A code is consumed by a success only; presenting it
// again ends the tokens it brought (RFC 6749 section 4.1.2).
func (s *Server) redeem(client client, form url.Values) (token, *oauthError) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.codes[form.Get("code")]
	if c == nil || c.client != client.id {
		return token{}, errGrant
	}
	if c.used {
		s.endFamily(c.family)
		return token{}, errGrant
	}
	if !s.now().Before(c.expires) || form.Get("redirect_uri") != c.redirect || !verifies(form.Get("code_verifier"), c.challenge) {
		return token{}, errGrant
	}
	if a := s.find(c.user); a == nil || a.Banned {
		return token{}, errGrant
	}
	c.used = true
	return token{family: c.family, client: c.client, resource: c.resource, user: c.user, scope: c.scope, nonce: c.nonce}, nil
}

// verifies reports whether verifier fits an S256 challenge (RFC 7636 section
// 4.6). A verifier for a code without challenge does not.
func verifies(verifier, challenge string) bool {
	if challenge == "" || verifier == "" {
		return challenge == verifier
	}
	sum := sha256.Sum256([]byte(verifier))
	got := base64.RawURLEncoding.EncodeToString(sum[:])
	return subtle.ConstantTimeCompare([]byte(got), []byte(challenge)) == 1
}

// refresh exchanges a refresh token. Whether Clerk gives out a new one each
// time is not documented; here it does and ends the old one, the stricter way.
func (s *Server) refresh(client client, form url.Values) (token, *oauthError) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.tokens[form.Get("refresh_token")]
	if t == nil || !t.refresh || t.client != client.id {
		return token{}, errGrant
	}
	if a := s.find(t.user); a == nil || a.Banned {
		return token{}, errGrant
	}
	granted := token{family: t.family, client: t.client, resource: t.resource, user: t.user, scope: t.scope}
	if want := form.Get("scope"); want != "" {
		have := strings.Fields(t.scope)
		for _, scope := range strings.Fields(want) {
			if !slices.Contains(have, scope) {
				return token{}, &oauthError{http.StatusBadRequest, "invalid_scope", descInvalidScope}
			}
		}
		granted.scope = want
	}
	delete(s.tokens, form.Get("refresh_token"))
	return granted, nil
}

// issue answers with tokens (schema OAuth.Token).
func (s *Server) issue(w http.ResponseWriter, granted token) {
	user, ok := s.account(granted.user)
	if !ok {
		writeOAuthError(w, errGrant)
		return
	}
	access, now, err := s.makeAccessToken(granted)
	answer := map[string]any{
		"token_type": "Bearer", "expires_in": int(tokenLifetime.Seconds()), "scope": granted.scope,
	}
	if err == nil && slices.Contains(strings.Fields(granted.scope), "openid") {
		answer["id_token"], err = s.idToken(user, granted.client, granted.scope, granted.nonce, now)
	}
	if err != nil {
		s.log.Error("tokens can't be made", "error", err)
		writeErrors(w, http.StatusInternalServerError, errInternal("The tokens can't be made"))
		return
	}
	refresh := "clk_refresh_" + rand.Text()
	answer["access_token"], answer["refresh_token"] = access, refresh

	granted.issued, granted.refresh = now, true
	s.mu.Lock()
	makeRoom(s.tokens)
	s.tokens[refresh] = &granted
	s.mu.Unlock()
	writeJSON(w, http.StatusOK, answer)
}

// makeAccessToken makes an access token: an opaque one, or a JWT whose claims
// are those of RFC 9068 but for the audience, which a token has if the instance
// includes it and a resource was asked for.
func (s *Server) makeAccessToken(granted token) (text string, now time.Time, err error) {
	now = s.now()
	s.mu.Lock()
	opaque, audience := s.opaque, s.audience
	s.mu.Unlock()
	granted.id, granted.jwt, granted.issued, granted.expires = hexID("oat_"), !opaque, now, now.Add(tokenLifetime)
	if opaque {
		text = "oat_" + rand.Text()
	} else {
		claims := map[string]any{
			"iss": s.Issuer(), "sub": granted.user, "client_id": granted.client, "scope": granted.scope,
			"jti": granted.id, "iat": now.Unix(), "exp": granted.expires.Unix(),
		}
		if audience && granted.resource != "" {
			claims["aud"] = []string{granted.resource}
		}
		if text, err = s.sign("at+jwt", claims); err != nil {
			return "", now, err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	makeRoom(s.tokens)
	s.tokens[text] = &granted
	return text, now, nil
}

// endFamily ends all tokens of one sign-in. s.mu is held.
func (s *Server) endFamily(family string) {
	for k, t := range s.tokens {
		if t.family == family {
			delete(s.tokens, k)
		}
	}
}

// lookup returns a token that is valid now.
func (s *Server) lookup(text string) (token, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.tokens[text]
	if t == nil || !t.expires.IsZero() && !s.now().Before(t.expires) {
		return token{}, false
	}
	return *t, true
}

// serveUserInfo is /oauth/userinfo (schema OAuth.UserInfo); its errors have
// Clerk's form, not OAuth's.
func (s *Server) serveUserInfo(w http.ResponseWriter, r *http.Request) {
	scheme, bearer, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	t, ok := s.lookup(strings.TrimSpace(bearer))
	var user account
	if ok && strings.EqualFold(scheme, "Bearer") && !t.refresh {
		user, ok = s.account(t.user)
	} else {
		ok = false
	}
	if !ok {
		writeErrors(w, http.StatusUnauthorized, clerkError{
			Message: "Invalid authentication", LongMessage: "The access token is missing, expired or revoked", Code: "authentication_invalid",
		})
		return
	}
	claims := map[string]any{"object": "oauth_user_info", "instance_id": s.instanceID, "user_id": user.ID, "sub": user.ID}
	user.addClaims(claims, t.scope)
	writeJSON(w, http.StatusOK, claims)
}

// serveTokenInfo is POST /oauth/token_info (schema OAuth.TokenInfo).
func (s *Server) serveTokenInfo(w http.ResponseWriter, r *http.Request) {
	form, _, ok := s.tokenForm(w, r)
	if !ok {
		return
	}
	t, ok := s.lookup(form.Get("token"))
	if !ok {
		writeJSON(w, http.StatusOK, map[string]any{"active": false})
		return
	}
	writeJSON(w, http.StatusOK, map[string]any{
		"active": true, "client_id": t.client, "iat": t.issued.Unix(), "scope": t.scope, "sub": t.user,
	})
}

// serveRevoke is POST /oauth/token/revoke. JWT access tokens can't be revoked.
func (s *Server) serveRevoke(w http.ResponseWriter, r *http.Request) {
	form, c, ok := s.tokenForm(w, r)
	if !ok {
		return
	}
	t, ok := s.lookup(form.Get("token"))
	if ok && t.client != c.id {
		w.WriteHeader(http.StatusOK) // RFC 7009 section 2.1
		return
	}
	if ok && t.jwt && !t.refresh {
		writeOAuthError(w, &oauthError{http.StatusBadRequest, "unsupported_token_type", "The authorization server does not support the revocation of the presented token type."})
		return
	}
	s.mu.Lock()
	delete(s.tokens, form.Get("token"))
	if ok && t.refresh {
		s.endFamily(t.family)
	}
	s.mu.Unlock()
	w.WriteHeader(http.StatusOK)
}

// addClaims adds what scope says about a user, as userinfo and the id_token
// both have it. Clerk delivers unsafe_metadata together with public_metadata.
func (a *account) addClaims(claims map[string]any, scope string) {
	for _, s := range strings.Fields(scope) {
		switch s {
		case "profile":
			claims["given_name"] = a.FirstName
			claims["family_name"] = a.LastName
			claims["name"] = strings.TrimSpace(a.FirstName + " " + a.LastName)
			claims["picture"] = a.ImageURL
			if a.Username != "" {
				claims["preferred_username"] = a.Username
			}
		case "email":
			claims["email"] = a.Email
			claims["email_verified"] = !a.Unverified
		case "public_metadata":
			claims["public_metadata"] = a.PublicMetadata
			claims["unsafe_metadata"] = a.UnsafeMetadata
		case "private_metadata":
			claims["private_metadata"] = a.PrivateMetadata
		case "user:org:read":
			if len(a.Memberships) > 0 {
				claims["org_id"] = a.Memberships[0].OrgID
			}
		}
	}
}
