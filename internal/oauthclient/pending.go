package oauthclient

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"time"

	"github.com/mcp-clerk/mcp-clerk/internal/secret"
)

// pendingSignIn is a sign-in under way, sealed beside the credential before the
// browser opens. Other processes wait for its outcome, and if its process
// dies the next one binds the same port and goes on with it, without another
// window. After a failure it holds the outcome for a while.
type pendingSignIn struct {
	State       string
	Verifier    secret.String
	RedirectURI string
	Port        int // that is listened on; 0: the redirect URI's
	AuthURL     string
	Started     time.Time
	Expires     time.Time

	Issuer             string
	IssSupported       bool
	TokenEndpoint      string
	RevocationEndpoint string
	Resource           string
	Scopes             []string
	Registration       registration
	Reused             bool // the registration is of an earlier sign-in

	// Of the device flow (RFC 8628 section 3.2), in place of State to RedirectURI.
	DeviceCode secret.String
	UserCode   string
	Interval   time.Duration // between two questions

	Ended   time.Time // zero: under way
	Outcome outcome
	Reason  string // for people
}

// outcome is how a sign-in failed.
type outcome string

const (
	outcomeDenied  outcome = "denied"
	outcomeTimeout outcome = "timeout"
	outcomeFailed  outcome = "failed"
)

type storedPending struct {
	Version            int                `json:"version"`
	Server             string             `json:"server"`
	State              string             `json:"state"`
	Verifier           string             `json:"verifier"`
	RedirectURI        string             `json:"redirect_uri"`
	Port               int                `json:"port,omitempty"`
	AuthURL            string             `json:"auth_url"`
	Started            int64              `json:"started"`
	Expires            int64              `json:"expires"`
	Issuer             string             `json:"issuer"`
	IssSupported       bool               `json:"iss_supported,omitempty"`
	TokenEndpoint      string             `json:"token_endpoint"`
	RevocationEndpoint string             `json:"revocation_endpoint,omitempty"`
	Resource           string             `json:"resource,omitempty"`
	Scopes             []string           `json:"scopes,omitempty"`
	Registration       storedRegistration `json:"registration"`
	Reused             bool               `json:"reused,omitempty"`
	DeviceCode         string             `json:"device_code,omitempty"`
	UserCode           string             `json:"user_code,omitempty"`
	Interval           int64              `json:"interval,omitempty"` // seconds
	Ended              int64              `json:"ended,omitempty"`    // Unix milliseconds, to be compared with a start
	Outcome            outcome            `json:"outcome,omitempty"`
	Reason             string             `json:"reason,omitempty"`
}

// loadPending returns nil where there is none that could be used.
func (c *Client) loadPending(ctx context.Context) *pendingSignIn {
	data, _, err := c.opts.Pending.Load(ctx)
	if err != nil || len(data) == 0 {
		return nil
	}
	var s storedPending
	if json.Unmarshal(data, &s) != nil || s.Version != credentialVersion || s.Server != c.server.String() {
		return nil
	}
	p := &pendingSignIn{
		State: s.State, Verifier: secret.String(s.Verifier), RedirectURI: s.RedirectURI, Port: s.Port, AuthURL: s.AuthURL,
		Started: fromUnix(s.Started), Expires: fromUnix(s.Expires),
		Issuer: s.Issuer, IssSupported: s.IssSupported, TokenEndpoint: s.TokenEndpoint, RevocationEndpoint: s.RevocationEndpoint,
		Resource: s.Resource, Scopes: s.Scopes, Registration: s.Registration.registration(), Reused: s.Reused,
		DeviceCode: secret.String(s.DeviceCode), UserCode: s.UserCode, Interval: time.Duration(s.Interval) * time.Second,
		Outcome: s.Outcome, Reason: s.Reason,
	}
	if s.Ended != 0 {
		p.Ended = time.UnixMilli(s.Ended)
	}
	return p
}

// savePending writes p over whatever lies there; its caller holds the lock. A
// store that can't be written costs the hand-over to another process, not the
// sign-in.
func (c *Client) savePending(ctx context.Context, p *pendingSignIn) {
	var ended int64
	if !p.Ended.IsZero() {
		ended = p.Ended.UnixMilli()
	}
	data, err := json.Marshal(storedPending{
		Version: credentialVersion, Server: c.server.String(),
		State: p.State, Verifier: p.Verifier.Reveal(), RedirectURI: p.RedirectURI, Port: p.Port, AuthURL: p.AuthURL,
		Started: unix(p.Started), Expires: unix(p.Expires),
		Issuer: p.Issuer, IssSupported: p.IssSupported, TokenEndpoint: p.TokenEndpoint, RevocationEndpoint: p.RevocationEndpoint,
		Resource: p.Resource, Scopes: p.Scopes, Registration: p.Registration.stored(), Reused: p.Reused,
		DeviceCode: p.DeviceCode.Reveal(), UserCode: p.UserCode, Interval: int64(p.Interval / time.Second),
		Ended: ended, Outcome: p.Outcome, Reason: p.Reason,
	})
	if err == nil {
		err = overwrite(ctx, c.opts.Pending, data)
	}
	if err != nil {
		c.log.Warn("the sign-in under way could not be stored; no other process can take it over", "server", c.display(), "err", err)
	}
}

// overwrite saves data whatever the generation of what it replaces.
func overwrite(ctx context.Context, store TokenStore, data []byte) error {
	for range 5 {
		// A record that can't be read (a key out of reach) is replaced as none.
		_, generation, _ := store.Load(ctx)
		_, ok, err := store.Save(ctx, data, generation)
		if ok || err != nil {
			return err
		}
	}
	return errors.New("another process keeps writing the same record")
}

// underWay reports whether somebody may still be at it. One that seems to start
// later began before the clock was set back, nobody knows when.
func (p *pendingSignIn) underWay(now time.Time) bool {
	return p != nil && p.Ended.IsZero() && now.Before(p.Expires) && !now.Add(time.Minute).Before(p.Started) && (p.DeviceCode != "" || p.State != "" && p.port() != 0)
}

func (p *pendingSignIn) expectation() expectation {
	return expectation{state: p.State, issuer: p.Issuer, issSupported: p.IssSupported}
}

// failure is the error of a sign-in that ended without tokens.
func (p *pendingSignIn) failure(c *Client) error {
	switch p.Outcome {
	case outcomeDenied, outcomeTimeout:
		return c.notSignedIn(p.Reason, nil)
	}
	return fmt.Errorf("sign in to %q: %s", c.display(), p.Reason)
}

func (p *pendingSignIn) port() int {
	if p.Port != 0 {
		return p.Port
	}
	u, err := url.Parse(p.RedirectURI)
	if err != nil {
		return 0
	}
	port, err := strconv.Atoi(u.Port())
	if err != nil {
		return 0
	}
	return port
}
