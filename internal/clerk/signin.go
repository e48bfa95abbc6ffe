package clerk

import (
	"context"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"

	"github.com/mcp-clerk/mcp-clerk/internal/identity"
)

const (
	skew       = 60 * time.Second // between Clerk's clock and ours
	maxIDToken = 64 << 10         // Clerk's metadata is at most 8 kB a kind
)

// scopes asked for at a sign-in. public_metadata is for the application's own
// pages at Clerk; roles are never taken from a token.
var scopes = []string{oidc.ScopeOpenID, "profile", "email", "public_metadata"}

var (
	pkceVerifier = form{chars: idChars + ".~", least: 43, most: 128} // RFC 7636 section 4.1
	subjectForm  = form{prefixes: []string{"user_"}, chars: idChars, least: 1, most: 120}
)

var errNoSignIn = errors.New("nobody signs in here: there is no client id")

// Begin returns the URL at Clerk that starts a sign-in. state and nonce are
// the caller's, bound to the browser; verifier is the PKCE verifier, whose S256
// challenge goes out. prompt may be empty, or as in OpenID Connect "none",
// "login", "consent".
func (c *Clerk) Begin(ctx context.Context, state, nonce, verifier, prompt string) (string, error) {
	switch {
	case c.clientID == "":
		return "", errNoSignIn
	case len(state) < 8:
		return "", errors.New("begin a sign-in: Clerk wants a state of 8 characters or more")
	case nonce == "":
		return "", errors.New("begin a sign-in: the nonce is missing")
	case !pkceVerifier.MatchString(verifier):
		return "", errors.New("begin a sign-in: the PKCE verifier is malformed")
	}
	doc, err := c.discover(ctx)
	if err != nil {
		return "", fmt.Errorf("begin a sign-in: %w", err)
	}
	opts := []oauth2.AuthCodeOption{oidc.Nonce(nonce), oauth2.S256ChallengeOption(verifier)}
	if prompt != "" {
		opts = append(opts, oauth2.SetAuthURLParam("prompt", prompt))
	}
	return c.oauth(doc).AuthCodeURL(state, opts...), nil
}

func (c *Clerk) oauth(doc *endpoints) *oauth2.Config {
	e := doc.oidc.Endpoint()
	// Set, not probed: a second try would present the code again.
	e.AuthStyle = oauth2.AuthStyleInHeader
	return &oauth2.Config{ClientID: c.clientID, ClientSecret: c.clientSecret.Reveal(), Endpoint: e, RedirectURL: c.redirectURL, Scopes: scopes}
}

// Complete exchanges the code that Clerk sent back and checks the id_token.
// The user it returns is as the id_token says: ID, Email (if verified), names
// and ImageURL. Roles and organisations are not in it: ask User.
func (c *Clerk) Complete(ctx context.Context, code, verifier, nonce string) (identity.User, error) {
	if c.clientID == "" {
		return identity.User{}, errNoSignIn
	}
	if code == "" || verifier == "" || nonce == "" {
		return identity.User{}, errors.New("complete a sign-in: code, verifier or nonce is missing")
	}
	ctx, cancel := context.WithTimeout(ctx, oidcTimeout)
	defer cancel()
	doc, err := c.discover(ctx)
	if err != nil {
		return identity.User{}, fmt.Errorf("complete a sign-in: %w", err)
	}
	raw, err := c.exchange(ctx, doc, code, verifier)
	if err != nil {
		return identity.User{}, fmt.Errorf("complete a sign-in: %w", err)
	}
	u, err := c.verifyIDToken(ctx, doc, raw, nonce)
	if err != nil {
		return identity.User{}, fmt.Errorf("complete a sign-in: id_token refused: %w", err)
	}
	return u, nil
}

// exchange makes the token request and returns the id_token. The access and
// refresh tokens of Clerk are dropped: nothing here needs them.
func (c *Clerk) exchange(ctx context.Context, doc *endpoints, code, verifier string) (string, error) {
	const what = "exchange the code at Clerk"
	ctx, note := noteAnswer(context.WithValue(ctx, oauth2.HTTPClient, c.oidcClient))
	token, err := c.oauth(doc).Exchange(ctx, code, oauth2.VerifierOption(verifier))
	if err != nil {
		// Its text may hold the whole answer.
		var refused *oauth2.RetrieveError
		if !errors.As(err, &refused) {
			return "", unavailable(what, reason(err))
		}
		switch {
		case note.status >= 500 || note.status == http.StatusTooManyRequests:
			return "", unavailable(what, fmt.Errorf("status %d", note.status))
		case refused.ErrorCode == "invalid_client":
			c.log.Error("Clerk refuses the client id or client secret of the OAuth application")
			return "", fmt.Errorf("%s: Clerk refuses the client id or client secret", what)
		case oauthErrorCode.MatchString(refused.ErrorCode):
			return "", fmt.Errorf("%s: %s", what, refused.ErrorCode)
		}
		return "", fmt.Errorf("%s: refused with status %d", what, note.status)
	}
	raw, ok := token.Extra("id_token").(string)
	if !ok || raw == "" {
		return "", fmt.Errorf("%s: the answer has no id_token", what)
	}
	return raw, nil
}

var oauthErrorCode = form{chars: lower + "_", least: 1, most: 40}

// verifyIDToken checks an id_token (OpenID Connect Core section 3.1.3.7, RFC
// 8725) and returns the user it speaks of.
func (c *Clerk) verifyIDToken(ctx context.Context, doc *endpoints, raw, nonce string) (identity.User, error) {
	if err := checkHeader(raw); err != nil {
		return identity.User{}, err
	}
	keys := &verifier{clerk: c, jwks: doc.jwks}
	token, err := oidc.NewVerifier(c.issuer, keys, &oidc.Config{
		ClientID:             c.clientID,
		SupportedSigningAlgs: []string{oidc.RS256},
		Now:                  func() time.Time { return c.now().Add(-skew) },
	}).Verify(ctx, raw)
	if keys.err != nil {
		return identity.User{}, keys.err
	}
	if err != nil {
		return identity.User{}, verifyError(err)
	}
	var claims struct {
		AuthorizedParty string       `json:"azp"`
		NotBefore       *json.Number `json:"nbf"`
		Email           string       `json:"email"`
		EmailVerified   *bool        `json:"email_verified"`
		GivenName       string       `json:"given_name"`
		FamilyName      string       `json:"family_name"`
		Picture         string       `json:"picture"`
	}
	if err := token.Claims(&claims); err != nil {
		return identity.User{}, errors.New("its claims can't be read")
	}
	latest := c.now().Add(skew)
	switch {
	case claims.AuthorizedParty != "" && claims.AuthorizedParty != c.clientID,
		claims.AuthorizedParty == "" && len(token.Audience) > 1:
		return identity.User{}, errors.New("it was issued to another client (azp)")
	case subtle.ConstantTimeCompare([]byte(token.Nonce), []byte(nonce)) != 1:
		return identity.User{}, errors.New("its nonce is not the one of this sign-in")
	case token.IssuedAt.Unix() <= 0 || token.IssuedAt.After(latest):
		return identity.User{}, errors.New("its time of issue is missing or in the future (iat)")
	case !subjectForm.MatchString(token.Subject):
		return identity.User{}, errors.New("its subject is not a user id of Clerk")
	}
	if claims.NotBefore != nil {
		// go-oidc allows five minutes.
		if nbf, err := claims.NotBefore.Float64(); err != nil || nbf > float64(latest.Unix()) {
			return identity.User{}, errors.New("it is not valid yet (nbf)")
		}
	}
	u := identity.User{ID: token.Subject, FirstName: claims.GivenName, LastName: claims.FamilyName, ImageURL: claims.Picture}
	if claims.EmailVerified == nil || *claims.EmailVerified {
		u.Email = claims.Email
	}
	return u, nil
}

// checkHeader refuses what must not even be tried as an id_token: what readHeader
// refuses, and tokens of another kind.
func checkHeader(raw string) error {
	typ, err := readHeader(raw, maxIDToken)
	if err != nil {
		return err
	}
	if strings.HasSuffix(strings.ToLower(typ), "+jwt") {
		return errAnotherType
	}
	return nil
}

var errAnotherType = errors.New("it is a token of another type (typ)")

// readHeader returns the typ of a JWT, "" where there is none. It refuses tokens
// of another size or algorithm, and headers that say where a key is to be found
// or that something must be understood (RFC 8725 sections 3.1 and 3.10).
func readHeader(raw string, limit int) (typ string, err error) {
	if len(raw) > limit {
		return "", fmt.Errorf("it is larger than %d bytes", limit)
	}
	head, _, ok := strings.Cut(raw, ".")
	b, err := base64.RawURLEncoding.DecodeString(head)
	var fields map[string]json.RawMessage
	if !ok || strings.Count(raw, ".") != 2 || err != nil || json.Unmarshal(b, &fields) != nil {
		return "", errors.New("it is not a signed JWT")
	}
	for _, name := range []string{"jku", "x5u", "jwk", "x5c", "crit", "b64", "zip", "enc"} {
		if _, ok := fields[name]; ok {
			return "", fmt.Errorf("its header has %q", name)
		}
	}
	var alg string
	if json.Unmarshal(fields["alg"], &alg) != nil || alg != oidc.RS256 {
		return "", errors.New("it is not signed with RS256")
	}
	if t, ok := fields["typ"]; ok && (json.Unmarshal(t, &typ) != nil || string(t) == "null") {
		return "", errAnotherType
	}
	return typ, nil
}

// verifyError names what go-oidc found, without what it read.
func verifyError(err error) error {
	var expired *oidc.TokenExpiredError
	switch text := err.Error(); {
	case errors.As(err, &expired):
		return errors.New("it has expired (exp)")
	case strings.Contains(text, "different provider"):
		return errors.New("it is by another issuer (iss)")
	case strings.Contains(text, "expected audience"):
		return errors.New("it is for another client (aud)")
	case strings.Contains(text, "nbf"):
		return errors.New("it is not valid yet (nbf)")
	}
	return errors.New("it is malformed")
}
