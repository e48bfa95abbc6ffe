package oauthclient

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/mcp-clerk/mcp-clerk/internal/secret"
)

// deviceGrant is the grant type of RFC 8628 section 3.4.
const deviceGrant = "urn:ietf:params:oauth:grant-type:device_code"

const (
	deviceInterval    = 5 * time.Second // where the server names none (RFC 8628 section 3.2)
	maxDeviceInterval = time.Minute
	maxDeviceLife     = 30 * time.Minute
)

// startDevice begins a sign-in that is finished in a browser on any machine
// (RFC 8628).
func (c *Client) startDevice(ctx context.Context, req signInRequest, d *discovery, p *pendingSignIn, cred *credential) error {
	if cred != nil && cred.Registration.usable(c.opts.Now()) && c.opts.ClientID == "" {
		p.Registration, p.Reused = cred.Registration, true
	} else {
		// Servers that register this program by itself want a redirect URI,
		// which this flow never uses.
		reg, err := c.register(ctx, &d.server, "http://127.0.0.1"+callbackPath)
		if err != nil {
			return err
		}
		p.Registration = reg
	}
	form := url.Values{}
	if len(p.Scopes) > 0 {
		form.Set("scope", strings.Join(p.Scopes, " "))
	}
	if p.Resource != "" {
		form.Set("resource", p.Resource)
	}
	a, err := c.postForm(ctx, d.server.DeviceEndpoint, p.Registration, form)
	if err == nil && !a.ok() {
		err = answerError(a)
	}
	if p.Reused && (oauthCode(err) == "invalid_client" || oauthCode(err) == "unauthorized_client") {
		return errAgain
	}
	if err != nil {
		return fmt.Errorf("ask %q for a code: %w", printable(p.Issuer), err)
	}
	if err := c.readDevice(a, p); err != nil {
		return fmt.Errorf("ask %q for a code: %w", printable(p.Issuer), err)
	}
	return c.finishDevice(ctx, req, p)
}

// readDevice reads the answer of the device authorization endpoint (RFC 8628
// section 3.2) into p.
func (c *Client) readDevice(a *answer, p *pendingSignIn) error {
	var got struct {
		DeviceCode string          `json:"device_code"`
		UserCode   string          `json:"user_code"`
		URI        string          `json:"verification_uri"`
		OldURI     string          `json:"verification_url"` // of drafts, and of Google
		Complete   string          `json:"verification_uri_complete"`
		Expires    json.RawMessage `json:"expires_in"`
		Interval   json.RawMessage `json:"interval"`
	}
	if err := decodeJSON(a, &got); err != nil {
		return err
	}
	if got.URI == "" {
		got.URI = got.OldURI
	}
	if got.DeviceCode == "" || !sendable(got.DeviceCode) || got.UserCode == "" || got.URI == "" {
		return errors.New("the answer has no code in it")
	}
	target := got.URI
	if got.Complete != "" {
		target = got.Complete
	}
	// A person opens it by hand; what a browser must not be sent to, neither
	// must they be.
	target, err := BrowserURL(target)
	if err != nil {
		return fmt.Errorf("verification_uri: %w", err)
	}
	p.AuthURL, p.UserCode, p.DeviceCode = target, printable(got.UserCode), secret.String(got.DeviceCode)
	p.Interval = deviceInterval
	if seconds, ok := number(got.Interval); ok && seconds >= 1 {
		p.Interval = time.Duration(min(seconds, maxDeviceInterval.Seconds())) * time.Second
	}
	life := lifetime(got.Expires)
	if life == 0 || life > maxDeviceLife {
		life = maxDeviceLife
	}
	p.Expires = p.Started.Add(life)
	return nil
}

// finishDevice asks until somebody has entered the code, and stores the outcome.
func (c *Client) finishDevice(ctx context.Context, req signInRequest, p *pendingSignIn) error {
	c.savePending(ctx, p)
	c.prompt(p.AuthURL, p.UserCode)
	c.setWaiting(true)
	cred, err := c.pollDevice(ctx, p)
	c.setWaiting(false)
	if err == nil {
		err = c.adopt(ctx, req, cred)
	}
	switch {
	case err == nil:
		_ = c.opts.Pending.Delete(context.WithoutCancel(ctx))
		return nil
	case ctx.Err() != nil && errors.Is(err, ctx.Err()):
		if req.explicit {
			_ = c.opts.Pending.Delete(context.WithoutCancel(ctx))
		}
		return err
	}
	return c.failed(ctx, p, nil, err)
}

// pollDevice is RFC 8628 sections 3.4 and 3.5.
func (c *Client) pollDevice(ctx context.Context, p *pendingSignIn) (*credential, error) {
	interval := p.Interval
	for {
		wait := time.NewTimer(interval)
		select {
		case <-wait.C:
		case <-ctx.Done():
			wait.Stop()
			return nil, ctx.Err()
		}
		now := c.opts.Now()
		if !now.Before(p.Expires) {
			return nil, errNobody
		}
		graced, stop := withGrace(ctx)
		answer, err := c.tokenRequest(graced, p.TokenEndpoint, p.Registration, url.Values{
			"grant_type": {deviceGrant}, "device_code": {p.DeviceCode.Reveal()},
		})
		stop()
		switch code := oauthCode(err); {
		case err == nil:
			return c.obtained(p, answer, now), nil
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case code == "authorization_pending":
		case code == "slow_down":
			interval = min(interval+5*time.Second, maxDeviceInterval)
		case code == "expired_token":
			return nil, errNobody
		case transient(err):
			// The network is away, or the server ill: asked less often.
			interval = min(interval*2, maxDeviceInterval)
		default:
			return nil, err
		}
	}
}
