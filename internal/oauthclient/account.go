package oauthclient

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"time"
)

// Status is what is known of a sign-in, for a person. It holds no secret.
type Status struct {
	Server     string
	Profile    string
	SignedIn   bool   // a token is held, or can be renewed
	Account    string // who signed in; "" where the server does not say
	Issuer     string
	Resource   string
	ClientID   string
	Scopes     []string
	Obtained   time.Time
	Expires    time.Time // of the access token; zero: not known
	Renewable  bool      // a refresh token is held
	Since      time.Time // when the user last signed in
	SecretIn   string    // where the secret lies: the store's backend
	StaticOnly bool      // a ready token is used; nothing is stored
}

// Status reads the store and asks nobody. A store that can't be read is an
// error; one that is empty is a Status with SignedIn false.
func (c *Client) Status(ctx context.Context) (Status, error) {
	s := Status{Server: c.display(), Profile: c.opts.Profile}
	if c.opts.StaticToken != "" {
		s.SignedIn, s.StaticOnly, s.SecretIn = true, true, "given token"
		return s, nil
	}
	cred, _, err := c.reload(ctx)
	if err != nil {
		return s, err
	}
	s.SecretIn = c.opts.Store.Backend()
	if cred == nil {
		return s, nil
	}
	now := c.opts.Now()
	s.Renewable = cred.RefreshToken != ""
	s.SignedIn = s.Renewable || cred.AccessToken != "" && !cred.expired(now)
	s.Account, s.Issuer, s.Resource, s.ClientID = cred.Account, cred.Issuer, cred.Resource, cred.Registration.ClientID
	s.Scopes, s.Obtained, s.Expires, s.Since = cred.Granted, cred.Obtained, cred.Expires, cred.SignedIn
	return s, nil
}

// SignOut revokes the tokens at the authorization server (RFC 7009) and
// forgets them here, in this order, and forgets them also if the server can't
// be told: then the error is a *RevocationError. Signing out without having
// signed in is no error.
func (c *Client) SignOut(ctx context.Context) error {
	if c.opts.StaticToken != "" {
		return errors.New("a ready token is set: there is nothing to sign out of")
	}
	unlock, err := c.opts.Store.Lock(ctx)
	if err != nil {
		return fmt.Errorf("wait for other processes: %w", err)
	}
	defer unlock()
	defer c.http.close()
	cred, _, err := c.reload(ctx)
	if err != nil {
		return err
	}
	var revokeErr error
	if cred != nil {
		revokeErr = c.revoke(ctx, cred)
	}
	keep := context.WithoutCancel(ctx)
	if err := errors.Join(c.opts.Store.Delete(keep), c.opts.Pending.Delete(keep)); err != nil {
		return fmt.Errorf("forget the sign-in at %q: %w", c.display(), err)
	}
	c.mu.Lock()
	c.cred, c.unsaved = nil, nil
	c.mu.Unlock()
	if revokeErr != nil {
		return &RevocationError{Err: revokeErr}
	}
	return nil
}

// revoke tells the server. The refresh token goes first: with it most servers
// end the whole grant.
func (c *Client) revoke(ctx context.Context, cred *credential) error {
	if cred.RevocationEndpoint == "" {
		return nil // the server offers none; the tokens run out by themselves
	}
	var errs []error
	for _, t := range []struct{ token, hint string }{
		{cred.RefreshToken.Reveal(), "refresh_token"},
		{cred.AccessToken.Reveal(), "access_token"},
	} {
		if t.token == "" {
			continue
		}
		a, err := c.postForm(ctx, cred.RevocationEndpoint, cred.Registration, url.Values{"token": {t.token}, "token_type_hint": {t.hint}})
		if err == nil && !a.ok() {
			err = answerError(a)
		}
		// A server without this kind of token, or that has forgotten the
		// client, holds nothing that could be revoked.
		switch oauthCode(err) {
		case "unsupported_token_type", "invalid_client", "invalid_token":
			err = nil
		}
		if err != nil {
			errs = append(errs, err)
			if oauthCode(err) == "" {
				break // it can't be reached; asking again costs another time-out
			}
		}
	}
	return errors.Join(errs...)
}
