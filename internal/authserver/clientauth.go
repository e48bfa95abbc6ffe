package authserver

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"net/http"
	"net/url"
	"strings"
)

// Client authentication methods (RFC 7591 section 2, OpenID Connect Core
// section 9).
const (
	methodNone  = "none"
	methodBasic = "client_secret_basic"
	methodPost  = "client_secret_post"
	methodKey   = "private_key_jwt"
)

var authMethods = []string{methodNone, methodBasic, methodPost, methodKey}

// usesSecret reports a method that needs a shared secret.
func usesSecret(method string) bool { return method == methodBasic || method == methodPost }

// refusedClient is one answer for every way in which a client fails to
// authenticate, so that none of them tells which part was wrong.
func refusedClient(basic bool) *oauthError {
	return &oauthError{Status: http.StatusUnauthorized, Code: codeInvalidClient, Description: "client authentication failed", Basic: basic}
}

var errTwoWays = invalidRequest("more than one way of client authentication")

// authenticateClient identifies the client of a token, revocation or
// introspection request (RFC 6749 section 2.3) by exactly one of: HTTP Basic,
// a secret in the body, a signed assertion, or, for a public client, its id
// alone.
func (s *Server) authenticateClient(r *http.Request, p params) (*client, error) {
	id, secret := p.get("client_id"), p.get("client_secret")
	assertion, assertionType := p.get("client_assertion"), p.get("client_assertion_type")
	headers := r.Header.Values("Authorization")
	basic := len(headers) > 0
	if len(headers) > 1 {
		return nil, invalidRequest("more than one Authorization header")
	}
	if (assertion != "" || assertionType != "") && (basic || secret != "") {
		return nil, errTwoWays
	}
	switch {
	case basic:
		user, pass, ok := parseBasic(headers[0])
		if !ok {
			return nil, refusedClient(true)
		}
		if secret != "" {
			return nil, errTwoWays
		}
		if id != "" && id != user {
			return nil, invalidRequest("client_id is not the client that authenticates")
		}
		id, secret = user, pass
	case assertion != "" || assertionType != "":
		if assertionType != assertionJWT {
			return nil, refusedClient(false)
		}
		if id == "" { // RFC 7521 section 4.2: the assertion names the client
			id = assertionSubject(assertion)
		}
	}
	if id == "" {
		return nil, refusedClient(basic)
	}
	c, err := s.findClient(r, id)
	if errors.Is(err, errUnknownClient) || errors.Is(err, errNotAdmitted) {
		return nil, refusedClient(basic)
	}
	if err != nil {
		return nil, err
	}
	switch {
	case assertion != "":
		if err := s.checkAssertion(r.Context(), c, assertion, s.site.issuer+strings.TrimPrefix(r.URL.Path, s.site.prefix)); err != nil {
			return nil, err
		}
	case c.AuthMethod == methodNone || c.Public && secret == "":
		if secret != "" {
			return nil, refusedClient(basic)
		}
	case !usesSecret(c.AuthMethod) || subtle.ConstantTimeCompare(hash([]byte(secret)), c.SecretHash) != 1:
		return nil, refusedClient(basic)
	}
	return c, nil
}

// parseBasic reads HTTP Basic credentials, whose parts OAuth form-encodes (RFC
// 6749 section 2.3.1).
func parseBasic(header string) (user, pass string, ok bool) {
	scheme, text, found := strings.Cut(header, " ")
	if !found || !strings.EqualFold(scheme, "Basic") || len(text) > 4096 {
		return "", "", false
	}
	raw, err := base64.StdEncoding.DecodeString(strings.TrimSpace(text))
	if err != nil {
		return "", "", false
	}
	user, pass, found = strings.Cut(string(raw), ":")
	if !found {
		return "", "", false
	}
	if user, err = url.QueryUnescape(user); err != nil {
		return "", "", false
	}
	if pass, err = url.QueryUnescape(pass); err != nil {
		return "", "", false
	}
	return user, pass, true
}

func decodeHash(text string) ([]byte, error) {
	raw, err := hex.DecodeString(text)
	if err != nil || len(raw) != sha256.Size {
		return nil, errors.New("the hash of the secret is not the 64 hex digits of a SHA-256")
	}
	return raw, nil
}
