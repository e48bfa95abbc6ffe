package oauthclient

import (
	"context"
	"fmt"
	"net/url"
	"strings"
)

// signInAsClient obtains a token for the client itself (RFC 6749 section 4.4).
func (c *Client) signInAsClient(ctx context.Context, d *discovery, p *pendingSignIn) error {
	reg, err := c.register(ctx, &d.server, "")
	if err != nil {
		return err
	}
	p.Registration = reg
	if c.opts.TokenEndpoint != "" {
		p.Registration.Audience = p.TokenEndpoint // nobody has named the issuer
	}
	now := c.opts.Now()
	answer, err := c.machineToken(ctx, p.TokenEndpoint, p.Registration, p.Scopes, p.Resource)
	if err != nil {
		return fmt.Errorf("sign in to %q as client %q: %w", c.display(), printable(reg.ClientID), err)
	}
	return c.adopt(ctx, signInRequest{}, c.obtained(p, answer, now))
}

func (c *Client) machineToken(ctx context.Context, endpoint string, r registration, scopes []string, resource string) (*tokenAnswer, error) {
	form := url.Values{"grant_type": {"client_credentials"}}
	if len(scopes) > 0 {
		form.Set("scope", strings.Join(scopes, " "))
	}
	if resource != "" {
		form.Set("resource", resource)
	}
	return c.tokenRequest(ctx, endpoint, r, form)
}

// renewable reports whether a token like cred's can be had without anybody's
// help.
func (c *Client) renewable(cred *credential) bool {
	return cred.RefreshToken != "" || c.opts.Flow == FlowClientCredentials && cred.Registration.ClientID == c.opts.ClientID
}
