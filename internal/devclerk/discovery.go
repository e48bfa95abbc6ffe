package devclerk

import (
	"crypto/rand"
	"crypto/rsa"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

// Scopes as Clerk's authorize endpoint lists them; without one in the request
// it grants "profile email".
var (
	supportedScopes = []string{"openid", "profile", "email", "public_metadata", "private_metadata", "offline_access", "user:org:read"}
	defaultScope    = "profile email"
)

var claimsSupported = []string{
	"sub", "iss", "aud", "exp", "iat", "jti", "nonce", "name", "given_name", "family_name",
	"preferred_username", "picture", "email", "email_verified", "public_metadata", "org_id",
}

// serveOpenIDConfiguration follows the schema WellKnown.OpenIDConfiguration.
func (s *Server) serveOpenIDConfiguration(w http.ResponseWriter, _ *http.Request) {
	base := s.Issuer()
	s.writeDiscovery(w, map[string]any{
		"issuer":                                base,
		"authorization_endpoint":                base + "/oauth/authorize",
		"token_endpoint":                        base + "/oauth/token",
		"revocation_endpoint":                   base + "/oauth/token/revoke",
		"introspection_endpoint":                base + "/oauth/token_info",
		"userinfo_endpoint":                     base + "/oauth/userinfo",
		"jwks_uri":                              base + "/.well-known/jwks.json",
		"response_types_supported":              []string{"code"},
		"response_modes_supported":              []string{"query"},
		"grant_types_supported":                 []string{"authorization_code", "refresh_token"},
		"subject_types_supported":               []string{"public"},
		"id_token_signing_alg_values_supported": []string{"RS256"},
		"token_endpoint_auth_methods_supported": authMethods,
		"claims_supported":                      claimsSupported,
		"code_challenge_methods_supported":      []string{"S256"},
		"backchannel_logout_supported":          false,
		"frontchannel_logout_supported":         false,
	})
}

// serveServerMetadata follows the schema WellKnown.OAuth2AuthorizationServerMetadata.
func (s *Server) serveServerMetadata(w http.ResponseWriter, _ *http.Request) {
	base := s.Issuer()
	s.writeDiscovery(w, map[string]any{
		"issuer":                                base,
		"authorization_endpoint":                base + "/oauth/authorize",
		"token_endpoint":                        base + "/oauth/token",
		"revocation_endpoint":                   base + "/oauth/token/revoke",
		"jwks_uri":                              base + "/.well-known/jwks.json",
		"response_types_supported":              []string{"code"},
		"grant_types_supported":                 []string{"authorization_code", "refresh_token"},
		"token_endpoint_auth_methods_supported": authMethods,
		"subject_types_supported":               []string{"public"},
		"id_token_signing_alg_values_supported": []string{"RS256"},
		"claims_supported":                      claimsSupported,
		"code_challenge_methods_supported":      []string{"S256"},
	})
}

// writeDiscovery adds what depends on the settings of the instance.
func (s *Server) writeDiscovery(w http.ResponseWriter, doc map[string]any) {
	s.mu.Lock()
	doc["scopes_supported"] = slices.Clone(s.scopes)
	if s.registration {
		doc["registration_endpoint"] = s.issuer + "/oauth/register"
	}
	s.mu.Unlock()
	writeJSON(w, http.StatusOK, doc)
}

type signingKey struct {
	id  string
	key *rsa.PrivateKey
}

// RotateKeys makes a new signing key. The old ones stay published if keepOld,
// as in an orderly rotation, or vanish, as after a leak.
func (s *Server) RotateKeys(keepOld bool) error {
	if _, err := s.published(); err != nil {
		return err
	}
	k, err := newSigningKey()
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !keepOld {
		s.keys = nil
	}
	s.keys = append(s.keys, k)
	return nil
}

func newSigningKey() (signingKey, error) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return signingKey{}, fmt.Errorf("make a signing key: %w", err)
	}
	return signingKey{id: randomID("ins_"), key: key}, nil
}

// published returns the keys. The first one is made when it is first needed:
// it takes longer than everything else at the start.
func (s *Server) published() ([]signingKey, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.keys) == 0 {
		k, err := newSigningKey()
		if err != nil {
			return nil, err
		}
		s.keys = []signingKey{k}
	}
	return slices.Clone(s.keys), nil
}

// serveJWKS publishes RSA keys with kid, alg and use (schema JWKS.rsa.PublicKey).
func (s *Server) serveJWKS(w http.ResponseWriter, _ *http.Request) {
	keys, err := s.published()
	if err != nil {
		writeErrors(w, http.StatusInternalServerError, errInternal("There is no signing key"))
		return
	}
	set := jose.JSONWebKeySet{Keys: make([]jose.JSONWebKey, 0, len(keys))}
	for _, k := range keys {
		set.Keys = append(set.Keys, jose.JSONWebKey{Key: k.key.Public(), KeyID: k.id, Algorithm: string(jose.RS256), Use: "sig"})
	}
	writeJSON(w, http.StatusOK, set)
}

// sign makes a JWT of claims, with the given typ in its header.
func (s *Server) sign(typ string, claims map[string]any) (string, error) {
	keys, err := s.published()
	if err != nil {
		return "", err
	}
	k := keys[len(keys)-1]
	signer, err := jose.NewSigner(
		jose.SigningKey{Algorithm: jose.RS256, Key: jose.JSONWebKey{Key: k.key, KeyID: k.id}},
		(&jose.SignerOptions{}).WithType(jose.ContentType(typ)))
	if err != nil {
		return "", fmt.Errorf("sign a %s: %w", typ, err)
	}
	text, err := jwt.Signed(signer).Claims(claims).Serialize()
	if err != nil {
		return "", fmt.Errorf("sign a %s: %w", typ, err)
	}
	return text, nil
}

// idToken makes the id_token for a user. Which claim comes with which scope:
// Clerk's documentation, "How Clerk implements OAuth"; public_metadata brings
// unsafe_metadata with it.
func (s *Server) idToken(a account, audience, scope, nonce string, now time.Time) (string, error) {
	claims := map[string]any{
		"iss": s.Issuer(),
		"sub": a.ID,
		"aud": audience,
		"iat": now.Unix(),
		"exp": now.Add(tokenLifetime).Unix(),
		"jti": traceID(),
	}
	if nonce != "" {
		claims["nonce"] = nonce
	}
	a.addClaims(claims, scope)
	return s.sign("JWT", claims)
}
