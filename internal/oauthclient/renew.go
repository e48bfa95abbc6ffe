package oauthclient

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/mcp-clerk/mcp-clerk/internal/secret"
)

// retryPause keeps a failing authorization server from being asked with every
// request while the token still is valid.
const retryPause = 5 * time.Second

// renew replaces the token old by a newer one from the store or by a refresh.
// wasRefused says that the server refused it; otherwise it is about to expire.
// All that ask at the same time share one attempt. It returns errSignInNeeded
// when no refresh can help.
func (c *Client) renew(ctx context.Context, old secret.String, wasRefused bool) error {
	for range 3 {
		if cred := c.current(); cred != nil && cred.AccessToken != "" && cred.AccessToken != old && !cred.expired(c.opts.Now()) {
			return nil
		}
		shared := true
		err := c.join(ctx, renewFlight, func(ctx context.Context) error {
			shared = false
			return c.renewOnce(ctx, old, wasRefused)
		})
		// A flight that somebody else began may have been about another token.
		if err != nil || !shared {
			return err
		}
	}
	return nil
}

// renewOnce is lock, read again, decide, refresh, persist, unlock.
func (c *Client) renewOnce(ctx context.Context, old secret.String, wasRefused bool) error {
	unlock, err := c.opts.Store.Lock(ctx)
	if err != nil {
		return fmt.Errorf("wait for other processes: %w", err)
	}
	defer unlock()
	defer c.http.close() // the next refresh is an hour away; a slept-through socket is dead

	cred, generation, err := c.reload(ctx)
	if err != nil {
		return err
	}
	now := c.opts.Now()
	if cred == nil || cred.AccessToken == "" && cred.RefreshToken == "" {
		return errSignInNeeded
	}
	if cred.AccessToken != "" && cred.AccessToken != old && !cred.expired(now) {
		return nil // another process was first
	}
	if !c.renewable(cred) {
		return errSignInNeeded
	}
	if wasRefused && cred.AccessToken == old && age(now, cred.Obtained) < freshToken {
		return errSignInNeeded
	}

	answer, err := c.refresh(ctx, cred)
	switch code := oauthCode(err); {
	case err == nil:
		return c.store(ctx, cred.renewed(answer, now), generation)

	case code == "invalid_grant" || code == "invalid_client" || code == "unauthorized_client":
		// Who was taken for dead may have rotated the token meanwhile: only a
		// fresh look shows whether the refusal was about what is current.
		latest, latestGeneration, loadErr := c.reload(ctx)
		if loadErr != nil {
			return loadErr
		}
		if latestGeneration != generation {
			if latest != nil && latest.AccessToken != "" && latest.AccessToken != old && !latest.expired(now) {
				return nil
			}
			return errSignInNeeded
		}
		c.log.Info("the sign-in is no longer valid", "server", c.display(), "err", err)
		return errors.Join(errSignInNeeded, c.store(ctx, cred.withoutTokens(), generation))

	case transient(err):
		c.mu.Lock()
		c.backOff = now.Add(retryPause)
		c.mu.Unlock()
		return fmt.Errorf("refresh the sign-in at %q: %w", printable(cred.Issuer), err)

	default:
		// The server refuses this refresh for a reason of its own (a scope, a
		// resource). The grant may live, so that nothing is deleted.
		c.log.Warn("refresh refused", "server", c.display(), "err", err)
		return errSignInNeeded
	}
}

// refresh asks for new tokens at the endpoint of the issuer that gave the old
// ones. An endpoint that moved is looked up again, at the same issuer only.
func (c *Client) refresh(ctx context.Context, cred *credential) (*tokenAnswer, error) {
	if cred.RefreshToken == "" { // renewable all the same
		return c.machineToken(ctx, cred.TokenEndpoint, cred.Registration, cred.Requested, cred.Resource)
	}
	form := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {cred.RefreshToken.Reveal()}}
	if cred.Resource != "" {
		form.Set("resource", cred.Resource)
	}
	answer, err := c.tokenRequest(ctx, cred.TokenEndpoint, cred.Registration, form)
	var status *statusError
	if !errors.As(err, &status) || (status.Status != http.StatusNotFound && status.Status != http.StatusGone && status.Status != http.StatusMethodNotAllowed) {
		return answer, err
	}
	d, discoverErr := c.discover(ctx, nil)
	if discoverErr != nil || d.server.Issuer != cred.Issuer || d.server.TokenEndpoint == cred.TokenEndpoint {
		return nil, err
	}
	cred.TokenEndpoint, cred.RevocationEndpoint = d.server.TokenEndpoint, d.server.RevocationEndpoint
	return c.tokenRequest(ctx, cred.TokenEndpoint, cred.Registration, form)
}

// renewed returns cred with the tokens of a refresh. A server that does not
// rotate sends no new refresh token (RFC 6749 section 6).
func (c *credential) renewed(answer *tokenAnswer, now time.Time) *credential {
	next := *c
	next.AccessToken = answer.accessToken
	if answer.refreshToken != "" {
		next.RefreshToken = answer.refreshToken
	}
	if answer.scopes != nil {
		next.Granted = answer.scopes
	}
	if answer.account != "" {
		next.Account = answer.account
	}
	next.Obtained, next.Expires = now.Round(0), time.Time{}
	if answer.expiresIn > 0 {
		next.Expires = next.Obtained.Add(answer.expiresIn)
	}
	return &next
}

// store persists cred over the given generation and makes it current. If the
// generation moved, another process went on in this one's place: its result
// holds and this one is dropped.
func (c *Client) store(ctx context.Context, cred *credential, generation uint64) error {
	data, err := cred.encode()
	if err != nil {
		return err
	}
	// What the server has just rotated must not be lost to a caller that
	// leaves.
	_, ok, err := c.opts.Store.Save(context.WithoutCancel(ctx), data, generation)
	if err != nil {
		// The tokens are good for this process all the same.
		c.holdUnsaved(cred, generation)
		c.log.Error("the sign-in could not be stored and will not survive this process", "server", c.display(), "err", err)
		return nil
	}
	if ok {
		c.setCurrent(cred)
		return nil
	}
	latest, _, err := c.reload(context.WithoutCancel(ctx))
	if err != nil {
		return err
	}
	if latest == nil || latest.AccessToken == "" {
		return errSignInNeeded
	}
	return nil
}

// unsaved is a credential that this process holds in place of the stored one,
// which is older: its refresh token may be spent, and showing that again would
// look like a theft (RFC 9700 section 4.14.2).
type unsaved struct {
	cred *credential
	over uint64 // generation of what is stored
}

func (c *Client) holdUnsaved(cred *credential, over uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cred, c.unsaved = cred, &unsaved{cred, over}
}

// notSaved returns the credential that takes the place of what the store holds
// in the given generation, and nil where that holds: another process may have
// written meanwhile.
func (c *Client) notSaved(generation uint64, loadErr error) *credential {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.unsaved != nil && loadErr == nil && generation != c.unsaved.over {
		c.unsaved = nil
	}
	if c.unsaved == nil {
		return nil
	}
	c.cred = c.unsaved.cred
	return c.cred
}

// age is the time since t; a clock that was set back makes nothing young.
func age(now, t time.Time) time.Duration {
	d := now.Round(0).Sub(t)
	if t.IsZero() || d < 0 {
		return time.Duration(1<<63 - 1)
	}
	return d
}
