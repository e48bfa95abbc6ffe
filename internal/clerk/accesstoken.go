package clerk

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/mcp-clerk/mcp-clerk/internal/identity"
)

const maxAccessToken = 16 << 10 // bytes of a JWT

// clientIDForm is what a client of Clerk's is called: an id of Clerk's making,
// or the address of the document that describes the client.
var clientIDForm = form{chars: printable, least: 1, most: 1000}

// AccessTokenRules say which of Clerk's access tokens count as ones for this
// server. Every application of a Clerk instance gets its tokens from the same
// issuer: only the audience tells those for this server from the others.
type AccessTokenRules struct {
	Resource string                     // what a principal's Resource becomes
	Covers   func(audience string) bool // whether an audience means this server
	// NoAudience accepts JWTs that name no audience. They may have been issued
	// for any other resource of the instance. Of opaque tokens Clerk never says
	// for which they were: whoever has Clerk issue those accepts that.
	NoAudience bool
	// AllScopes lets every token have all scopes of this server, where Clerk
	// knows none of them.
	AllScopes bool
}

// ErrAudience reports a token that Clerk did give to a user of this instance,
// but not for this server. It wraps identity.ErrInvalidToken.
var ErrAudience = fmt.Errorf("the audience of a token of Clerk's is not this server: %w", identity.ErrInvalidToken)

// AccessTokens checks access tokens that Clerk gave to OAuth clients, in either
// of its formats: JWTs (RFC 9068) here, opaque ones ("oat_…") by asking Clerk.
type AccessTokens struct {
	clerk *Clerk
	rules AccessTokenRules
}

// AccessTokens returns the verifier of access tokens under rules.
func (c *Clerk) AccessTokens(rules AccessTokenRules) *AccessTokens {
	return &AccessTokens{c, rules}
}

// Verify returns the principal of an access token. The error wraps
// identity.ErrInvalidToken, or identity.ErrUnavailable where Clerk's keys or
// Clerk's word are needed and can't be had. Whether the user still exists is
// not looked at.
func (a *AccessTokens) Verify(ctx context.Context, token string) (*identity.Principal, error) {
	var said statement
	var err error
	opaque := strings.HasPrefix(token, opaquePrefix)
	if opaque {
		said, err = a.clerk.opaque(ctx, token)
	} else {
		said, err = a.clerk.readAccessToken(ctx, token)
	}
	if err != nil {
		return nil, err
	}
	return a.judge(said, a.rules.NoAudience || opaque)
}

// statement is what Clerk says in or about a token.
type statement struct {
	id       string // of the token, at Clerk
	subject  string
	clientID string
	audience []string // nil: none is named
	scopes   []string
	expires  time.Time // zero: never
}

// judge applies the rules to what Clerk says; noAudience tells whether it may
// name no audience.
func (a *AccessTokens) judge(said statement, noAudience bool) (*identity.Principal, error) {
	switch {
	case !subjectForm.MatchString(said.subject):
		return nil, refused("its subject is no user (sub)")
	case !clientIDForm.MatchString(said.clientID):
		return nil, refused("it names no client (client_id)")
	case said.audience == nil && !noAudience:
		return nil, fmt.Errorf("%w: it names none, let Clerk include it in access tokens", ErrAudience)
	case said.audience != nil && !a.covered(said.audience):
		return nil, fmt.Errorf("%w: it is for another resource", ErrAudience)
	}
	return &identity.Principal{
		Subject: said.subject,
		// Clerk's tokens name no grant. One client of a user is one grant here,
		// which outlives a refresh; what is bound to it is bound to the user too.
		Grant:     "clerk-" + shortHash(said.clientID),
		ClientID:  said.clientID,
		Resource:  a.rules.Resource,
		Scopes:    said.scopes,
		AllScopes: a.rules.AllScopes,
		Expires:   said.expires,
	}, nil
}

func (a *AccessTokens) covered(audience []string) bool {
	for _, aud := range audience {
		if a.rules.Covers(aud) {
			return true
		}
	}
	return false
}

func shortHash(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:12])
}

// refused says why a token is none. The reason is for the log.
func refused(why string) error {
	return fmt.Errorf("token of Clerk refused: %s: %w", why, identity.ErrInvalidToken)
}

// readAccessToken checks the signature and the times of a JWT access token (RFC
// 9068 section 4, RFC 8725) and returns what it says.
func (c *Clerk) readAccessToken(ctx context.Context, raw string) (statement, error) {
	if err := checkAccessHeader(raw); err != nil {
		return statement{}, refused(err.Error())
	}
	doc, err := c.discover(ctx)
	if err != nil {
		if !errors.Is(err, identity.ErrUnavailable) {
			// A wrong configuration is not the token's fault.
			err = unavailable("check an access token", err)
		}
		return statement{}, err
	}
	payload, err := (&verifier{clerk: c, jwks: doc.jwks}).verify(ctx, raw)
	if errors.Is(err, identity.ErrUnavailable) {
		return statement{}, err
	}
	if err != nil {
		return statement{}, refused(err.Error())
	}
	said, err := c.readClaims(payload)
	if err != nil {
		return statement{}, refused(err.Error())
	}
	return said, nil
}

// checkAccessHeader refuses what must not even be tried: what readHeader
// refuses, and every JWT but access tokens, of which the same issuer and key
// make others (RFC 9068 section 4; an id_token or a session token is none).
func checkAccessHeader(raw string) error {
	typ, err := readHeader(raw, maxAccessToken)
	if err != nil {
		return err
	}
	if typ != "at+jwt" && typ != "application/at+jwt" {
		return errAnotherType
	}
	return nil
}

// readClaims checks the issuer and the times and reads the rest. Names of
// members are compared exactly, as encoding/json would not.
func (c *Clerk) readClaims(payload []byte) (statement, error) {
	var claims map[string]json.RawMessage
	if json.Unmarshal(payload, &claims) != nil || claims == nil {
		return statement{}, errors.New("its claims can't be read")
	}
	var issuer string
	if json.Unmarshal(claims["iss"], &issuer) != nil || issuer != c.issuer {
		return statement{}, errors.New("it is by another issuer (iss)")
	}
	now := c.now()
	expires, present, err := claimTime(claims["exp"])
	switch {
	case err != nil || !present:
		return statement{}, errors.New("its expiry is missing (exp)")
	case !now.Before(expires.Add(skew)):
		return statement{}, errors.New("it has expired (exp)")
	}
	for _, name := range []string{"iat", "nbf"} {
		at, present, err := claimTime(claims[name])
		if err != nil || !present && name == "iat" || at.After(now.Add(skew)) {
			return statement{}, fmt.Errorf("it is not valid yet, or does not say since when (%s)", name)
		}
	}
	// The skew counts for all that asks the token for its end.
	said := statement{expires: expires.Add(skew)}
	if json.Unmarshal(claims["sub"], &said.subject) != nil || json.Unmarshal(claims["client_id"], &said.clientID) != nil {
		return statement{}, errors.New("its subject or client is missing")
	}
	if raw, ok := claims["aud"]; ok {
		if said.audience, err = textOrList(raw); err != nil {
			return statement{}, errors.New("its audience can't be read (aud)")
		}
	}
	for _, name := range []string{"scp", "scope"} {
		raw, ok := claims[name]
		if !ok {
			continue
		}
		list, err := textOrList(raw)
		if err != nil {
			return statement{}, fmt.Errorf("its scopes can't be read (%s)", name)
		}
		said.scopes = strings.Fields(strings.Join(list, " "))
		break
	}
	return said, nil
}

// claimTime reads a NumericDate (RFC 7519 section 2).
func claimTime(raw json.RawMessage) (at time.Time, present bool, err error) {
	if raw == nil {
		return time.Time{}, false, nil
	}
	seconds, err := strconv.ParseFloat(string(raw), 64)
	if err != nil || !(seconds > 0 && seconds < 1<<40) {
		return time.Time{}, true, errors.New("not a time")
	}
	return time.Unix(int64(seconds), 0), true, nil
}

// textOrList reads a string or a list of strings; the list is never nil.
func textOrList(raw json.RawMessage) ([]string, error) {
	var one *string
	if json.Unmarshal(raw, &one) == nil && one != nil {
		return []string{*one}, nil
	}
	var list []*string
	if err := json.Unmarshal(raw, &list); err != nil || list == nil {
		return nil, errors.New("neither a string nor a list of strings")
	}
	out := make([]string, len(list))
	for i, s := range list {
		if s == nil {
			return nil, errors.New("neither a string nor a list of strings")
		}
		out[i] = *s
	}
	return out, nil
}
