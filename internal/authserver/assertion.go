package authserver

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/mcp-clerk/mcp-clerk/internal/store"
)

// Client authentication by a signed JWT (RFC 7523 section 2.2).
const (
	assertionJWT  = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
	maxAssertion  = 8 << 10
	assertionLife = 10 * time.Minute // the longest that is accepted
	assertionSkew = time.Minute      // between our clock and the client's
	maxKeys       = 20               // in a key set
	keysMinAge    = time.Minute      // a key set is not fetched again before, whatever kid is asked for
)

var assertionAlgs = []jose.SignatureAlgorithm{jose.RS256, jose.ES256, jose.EdDSA}

// algNames are the same for the metadata.
var algNames = []string{string(jose.RS256), string(jose.ES256), string(jose.EdDSA)}

// assertionSubject is the sub of an assertion that nobody has checked: which
// client to look for.
func assertionSubject(text string) string {
	if len(text) > maxAssertion {
		return ""
	}
	token, err := jwt.ParseSigned(text, assertionAlgs)
	if err != nil {
		return ""
	}
	var claims jwt.Claims
	if token.UnsafeClaimsWithoutVerification(&claims) != nil {
		return ""
	}
	return claims.Subject
}

// checkAssertion reports whether text proves the presence of c at endpoint, for
// the first time: of all requests on all instances exactly one passes with it.
func (s *Server) checkAssertion(ctx context.Context, c *client, text, endpoint string) error {
	refused := func(why error) error {
		s.log.InfoContext(ctx, "client assertion refused", "client", c.ID, "error", why)
		return refusedClient(false)
	}
	if c.AuthMethod != methodKey {
		return refused(errors.New("the client has no keys"))
	}
	if len(text) > maxAssertion {
		return refused(errors.New("too long"))
	}
	token, err := jwt.ParseSigned(text, assertionAlgs)
	if err != nil || len(token.Headers) != 1 {
		return refused(errors.New("not a JWT with an accepted algorithm"))
	}
	claims, err := s.verifyAssertion(ctx, c, token)
	if err != nil {
		if errors.Is(err, errUnreachable) {
			return unavailable(err)
		}
		return refused(err)
	}
	if err := s.checkClaims(c, claims, endpoint); err != nil {
		return refused(err)
	}
	// Last, so that nobody but the client uses up its identifiers.
	key := "assertion/" + textHash(c.ID+"\n"+claims.ID)
	err = s.store.Create(ctx, store.Record{Key: key, Value: []byte("1"), Expires: claims.Expiry.Time().Add(assertionSkew)})
	if errors.Is(err, store.ErrExists) {
		return refused(errors.New("jti was used before"))
	}
	if err != nil {
		return storeError("note client assertion", err)
	}
	return nil
}

// checkClaims checks what RFC 7523 section 3 asks of the claims.
func (s *Server) checkClaims(c *client, claims *jwt.Claims, endpoint string) error {
	now := s.now()
	switch {
	case claims.Issuer != c.ID || claims.Subject != c.ID:
		return errors.New("iss and sub are not the client")
	case len(claims.Audience) != 1 || !slices.Contains([]string{s.site.issuer, s.site.issuer + "/token", endpoint}, claims.Audience[0]):
		return errors.New("aud is not this server alone")
	case claims.Expiry == nil || !now.Before(claims.Expiry.Time().Add(assertionSkew)):
		return errors.New("exp is missing or past")
	case claims.Expiry.Time().After(now.Add(assertionLife + assertionSkew)):
		return fmt.Errorf("exp is more than %v away", assertionLife)
	case claims.NotBefore != nil && claims.NotBefore.Time().After(now.Add(assertionSkew)):
		return errors.New("nbf is to come")
	case claims.IssuedAt != nil && claims.IssuedAt.Time().After(now.Add(assertionSkew)):
		return errors.New("iat is to come")
	case claims.ID == "" || len(claims.ID) > 512:
		return errors.New("jti is missing or too long")
	}
	return nil
}

// verifyAssertion checks the signature with the client's keys, fetched again
// when none of them fits: the client may have changed them.
func (s *Server) verifyAssertion(ctx context.Context, c *client, token *jwt.JSONWebToken) (*jwt.Claims, error) {
	header := token.Headers[0]
	for _, maxAge := range []time.Duration{0, keysMinAge} {
		keys, err := s.clientKeys(ctx, c, maxAge)
		if err != nil {
			return nil, err
		}
		for i := range keys {
			k := &keys[i]
			if header.KeyID != "" && k.KeyID != header.KeyID || !fitsAlgorithm(k, header.Algorithm) {
				continue
			}
			claims := &jwt.Claims{}
			if token.Claims(k.Key, claims) == nil {
				return claims, nil
			}
		}
		if c.JWKSURI == "" {
			break
		}
	}
	return nil, errors.New("no key of the client verifies the signature")
}

func (s *Server) clientKeys(ctx context.Context, c *client, maxAge time.Duration) ([]jose.JSONWebKey, error) {
	if len(c.JWKS) > 0 {
		return parseKeySet(c.JWKS)
	}
	return s.keySets.get(ctx, c.JWKSURI, maxAge, func(ctx context.Context) ([]jose.JSONWebKey, time.Duration, error) {
		got, err := s.fetch.get(ctx, c.JWKSURI, maxKeySet)
		if err != nil {
			return nil, lifeFailed, err
		}
		keys, err := parseKeySet(got.body)
		if err != nil {
			return nil, lifeFailed, fmt.Errorf("%w: %w", errBadDocument, err)
		}
		return keys, got.life, nil
	})
}

// parseKeySet reads a JWK set (RFC 7517 section 5). Keys of other kinds and
// uses are skipped; a private or symmetric key refuses the whole set, for
// everybody can read it.
func parseKeySet(body []byte) ([]jose.JSONWebKey, error) {
	if err := checkKeys(body); err != nil {
		return nil, err
	}
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(body, &set); err != nil || set.Keys == nil {
		return nil, errors.New("it is not a JWK set")
	}
	if len(set.Keys) > maxKeys {
		return nil, fmt.Errorf("it has more than %d keys", maxKeys)
	}
	var keys []jose.JSONWebKey
	for _, raw := range set.Keys {
		var k jose.JSONWebKey
		if err := json.Unmarshal(raw, &k); err != nil {
			continue
		}
		if !k.IsPublic() {
			return nil, errors.New("it contains a key that is not public")
		}
		if k.Use != "" && k.Use != "sig" || !slices.ContainsFunc(algNames, func(alg string) bool { return fitsAlgorithm(&k, alg) }) {
			continue
		}
		keys = append(keys, k)
	}
	if len(keys) == 0 {
		return nil, errors.New("it has no key for RS256 (of 2048 bits or more), ES256 or EdDSA")
	}
	return keys, nil
}

// fitsAlgorithm reports whether k may verify signatures by alg (RFC 7518
// sections 3.3 and 3.4, RFC 8037 section 3.1).
func fitsAlgorithm(k *jose.JSONWebKey, alg string) bool {
	if k.Algorithm != "" && k.Algorithm != alg {
		return false
	}
	switch key := k.Key.(type) {
	case *rsa.PublicKey:
		return alg == string(jose.RS256) && key.N.BitLen() >= 2048 && key.N.BitLen() <= 8192
	case *ecdsa.PublicKey:
		return alg == string(jose.ES256) && key.Curve == elliptic.P256()
	case ed25519.PublicKey:
		return alg == string(jose.EdDSA)
	}
	return false
}

// takeKeys puts the keys of the metadata into c, if it authenticates with them
// (RFC 7591 section 2).
func (s *Server) takeKeys(c *client, reg *registration) error {
	if c.AuthMethod != methodKey {
		return nil
	}
	if (reg.JWKSURI == "") == (len(reg.JWKS) == 0) {
		return invalidMetadata("private_key_jwt needs jwks or jwks_uri, and not both")
	}
	if reg.JWKSURI != "" {
		if err := s.checkDocumentURL(reg.JWKSURI); err != nil {
			return invalidMetadata("jwks_uri %v", err)
		}
		c.JWKSURI = reg.JWKSURI
		return nil
	}
	if _, err := parseKeySet(reg.JWKS); err != nil {
		return invalidMetadata("jwks: %v", err)
	}
	c.JWKS = reg.JWKS
	return nil
}
