package oauthclient

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/mcp-clerk/mcp-clerk/internal/secret"
)

// Imported is a sign-in that another program on this machine holds.
type Imported struct {
	Issuer string // as that program noted it; "" where it did not

	ClientID      string
	ClientSecret  secret.String
	AuthMethod    string // token_endpoint_auth_method; "" where it is not known
	RedirectURI   string
	ClientExpires time.Time // of the registration; zero: never

	AccessToken  secret.String
	RefreshToken secret.String
	Requested    []string // scopes
	Granted      []string
	Obtained     time.Time
	Expires      time.Time // zero: not known
}

// Verify asks the server whether it takes the token that is held, renewing it
// first where it is due or refused. It opens no window.
func (c *Client) Verify(ctx context.Context) (valid bool, err error) {
	for range 2 {
		token, err := c.Token(ctx)
		if err != nil {
			return false, err
		}
		if token != "" {
			a, err := c.askServer(ctx, token)
			if err != nil || a.status != http.StatusUnauthorized {
				return err == nil, err
			}
		}
		if err := c.renew(ctx, secret.String(token), true); err != nil {
			if errors.Is(err, errSignInNeeded) {
				return false, nil
			}
			return false, err
		}
	}
	return false, nil
}

// Import takes over the sign-in of another program, which should not use it any
// more: a server may hold the use of one refresh token by two for a theft. The
// authorization server is looked up first, and what it did not issue, as far as
// that is noted, is not taken. A sign-in that is held here already is an error.
func (c *Client) Import(ctx context.Context, from Imported) error {
	if c.opts.StaticToken != "" {
		return errors.New("a ready token is set: there is nothing to import")
	}
	if from.ClientID == "" || from.AccessToken == "" && from.RefreshToken == "" || !sendable(from.AccessToken.Reveal()) || !sendable(from.RefreshToken.Reveal()) {
		return errors.New("there is no complete sign-in to import")
	}
	challenge, err := c.probe(ctx)
	if err != nil {
		return err
	}
	d, err := c.discoverFor(ctx, challenge)
	if err != nil {
		return fmt.Errorf("find out how to sign in to %q: %w", c.display(), err)
	}
	if from.Issuer != "" && from.Issuer != d.server.Issuer {
		return fmt.Errorf("the sign-in is of the authorization server %q, and %q has another one now, %q",
			printable(from.Issuer), c.display(), printable(d.server.Issuer))
	}
	unlock, err := c.opts.Store.Lock(ctx)
	if err != nil {
		return fmt.Errorf("wait for other processes: %w", err)
	}
	defer unlock()
	held, generation, err := c.reload(ctx)
	if err != nil {
		return err
	}
	if held != nil && (held.AccessToken != "" || held.RefreshToken != "") {
		return fmt.Errorf("already signed in to %q here", c.display())
	}
	reg := registration{
		ClientID: from.ClientID, ClientSecret: from.ClientSecret, AuthMethod: from.AuthMethod,
		RedirectURI: from.RedirectURI, Audience: d.server.Issuer, Expires: from.ClientExpires,
	}
	if reg.AuthMethod == "" || reg.ClientSecret == "" {
		reg.AuthMethod = authMethod(&d.server, reg.ClientSecret != "")
	}
	return c.store(ctx, &credential{
		Server: c.server.String(), Resource: d.resource, Issuer: d.server.Issuer,
		TokenEndpoint: d.server.TokenEndpoint, RevocationEndpoint: d.server.RevocationEndpoint,
		Registration: reg, AccessToken: from.AccessToken, RefreshToken: from.RefreshToken,
		Requested: from.Requested, Granted: from.Granted,
		Obtained: from.Obtained, Expires: from.Expires, SignedIn: from.Obtained,
	}, generation)
}
