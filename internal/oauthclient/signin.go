package oauthclient

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/mcp-clerk/mcp-clerk/internal/secret"
)

// signInRequest says why a sign-in is wanted.
type signInRequest struct {
	explicit  bool          // the user asked for it
	resume    bool          // only one that is under way is wanted
	refused   secret.String // the token that the server would not take
	challenge *Challenge    // of the refusal
	isStepUp  bool
	stepUp    []string // scopes that are missing
}

// errAgain reports a client that the authorization server does not know (any
// more): it is registered anew, once.
var errAgain = errors.New("the authorization server does not know this client any more")

// signIn obtains a credential with the user's help. One process at a time does
// so; the others wait for its outcome, whatever it is.
func (c *Client) signIn(ctx context.Context, req signInRequest) error {
	if c.needsPerson() && !req.explicit && !req.resume && c.opts.OpenURL == nil {
		return c.notSignedIn("no browser may be opened", nil)
	}
	began := c.opts.Now()
	before := c.current()
	unlock, waited, err := c.lockPending(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	defer c.http.close()

	cred, _, err := c.reload(ctx)
	if err != nil && !req.explicit {
		return err // a new sign-in would not be kept either
	}
	pending := c.loadPending(ctx)
	if req.resume && !pending.underWay(c.opts.Now()) || c.satisfied(req, cred, before, waited) {
		return nil
	}
	if pending != nil && !pending.Ended.IsZero() {
		ended := age(c.opts.Now(), pending.Ended)
		if !req.explicit && ended < quietTime || waited && !pending.Ended.Before(began.Add(-time.Second)) {
			return pending.failure(c)
		}
	}
	if pending.underWay(c.opts.Now()) && containsAll(pending.Scopes, req.stepUp) && (pending.DeviceCode != "") == (c.opts.Flow == FlowDevice) {
		if pending.DeviceCode != "" {
			c.log.Info("going on with a sign-in that another process began", "server", c.display())
			return c.finishDevice(ctx, req, pending)
		}
		if cb, err := c.opts.Callback.listen(pending.port()); err == nil {
			c.log.Info("going on with a sign-in that another process began", "server", c.display())
			if err := c.finishSignIn(ctx, req, pending, cb, req.explicit); !errors.Is(err, errAgain) {
				return err
			}
			cred = nil
		} else if req.resume {
			return err
		}
	}
	err = c.startSignIn(ctx, req, cred)
	if errors.Is(err, errAgain) {
		err = c.startSignIn(ctx, req, nil)
	}
	return err
}

// lockPending takes the lock of the one window. While another process has it,
// the user is shown where that one waits.
func (c *Client) lockPending(ctx context.Context) (unlock func(), waited bool, err error) {
	short, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
	unlock, err = c.opts.Pending.Lock(short)
	cancel()
	if err == nil || ctx.Err() != nil || short.Err() == nil {
		return unlock, false, err
	}
	if p := c.loadPending(ctx); p.underWay(c.opts.Now()) {
		c.log.Info("waiting for a sign-in that another process has under way", "server", c.display())
		c.prompt(p.AuthURL, p.UserCode)
		if c.opts.Pasted != nil && p.State != "" {
			waiting, stop := context.WithCancel(ctx)
			var bringing sync.WaitGroup
			bringing.Go(func() { c.bringPasted(waiting, p) })
			defer bringing.Wait()
			defer stop()
		}
	}
	unlock, err = c.opts.Pending.Lock(ctx)
	return unlock, true, err
}

// bringPasted takes what a person pastes here to the process that listens for
// it, until ctx ends.
func (c *Client) bringPasted(ctx context.Context, p *pendingSignIn) {
	redirect, err := url.Parse(p.RedirectURI)
	if err != nil {
		return
	}
	host := "127.0.0.1"
	if redirect.Hostname() == "::1" {
		host = "::1"
	}
	target := url.URL{Scheme: "http", Host: net.JoinHostPort(host, strconv.Itoa(p.port())), Path: redirect.Path}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 2 * requestTimeout}
	expect := p.expectation()
	for {
		select {
		case line, ok := <-c.opts.Pasted:
			if !ok {
				return
			}
			query, err := expect.pasted(line)
			if err != nil {
				c.notice("%v", err)
				continue
			}
			if query == nil {
				continue
			}
			target.RawQuery = query.Encode()
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, target.String(), nil)
			if err != nil {
				return
			}
			resp, err := client.Do(req)
			if err != nil {
				if ctx.Err() == nil {
					c.notice("the process that waits for the sign-in does not answer")
				}
				continue
			}
			_ = resp.Body.Close() // the page is for browsers
		case <-ctx.Done():
			return
		}
	}
}

// satisfied reports whether another process or request has brought meanwhile
// what this one came for.
func (c *Client) satisfied(req signInRequest, cred, before *credential, waited bool) bool {
	if cred == nil || cred.AccessToken == "" || cred.expired(c.opts.Now()) {
		return false
	}
	if req.resume {
		return false // its pending sign-in would be gone
	}
	if req.explicit {
		return waited && (before == nil || before.AccessToken != cred.AccessToken)
	}
	return cred.AccessToken != req.refused && containsAll(cred.Granted, req.stepUp)
}

// startSignIn begins a sign-in with a window of its own.
func (c *Client) startSignIn(ctx context.Context, req signInRequest, cred *credential) error {
	if req.explicit && req.challenge == nil && c.opts.TokenEndpoint == "" {
		challenge, err := c.probe(ctx)
		if err != nil {
			return err
		}
		req.challenge = challenge
	}
	d, err := c.discoverFor(ctx, req.challenge)
	if err != nil {
		return fmt.Errorf("find out how to sign in to %q: %w", c.display(), err)
	}
	now := c.opts.Now()
	if cred != nil && cred.Issuer != d.server.Issuer {
		cred = nil // what one issuer gave is nothing to another
	}
	if !req.explicit && !req.isStepUp && cred != nil && cred.AccessToken == req.refused && age(now, cred.SignedIn) < quietTime {
		return fmt.Errorf("%q refuses the token that %q has just issued for it", c.display(), printable(d.server.Issuer))
	}

	p := &pendingSignIn{
		Started: now, Expires: now.Add(c.opts.SignInTimeout),
		Issuer: d.server.Issuer, IssSupported: bool(d.server.IssParameterSupported),
		TokenEndpoint: d.server.TokenEndpoint, RevocationEndpoint: d.server.RevocationEndpoint,
		Resource: d.resource, Scopes: c.scopes(d, req, cred),
	}
	switch c.opts.Flow {
	case FlowClientCredentials:
		return c.signInAsClient(ctx, d, p)
	case FlowDevice:
		return c.startDevice(ctx, req, d, p, cred)
	}
	cb, reg, reused, err := c.prepare(ctx, d, cred)
	if err != nil {
		return err
	}
	p.State, p.Verifier, p.RedirectURI = randomText(), secret.String(randomText()), cb.redirectURI()
	p.Port = cb.port()
	p.Registration, p.Reused = reg, reused
	p.AuthURL, err = c.authorizationURL(d.server.AuthorizationEndpoint, p)
	if err != nil {
		cb.finish(page{}, &c.work)
		return fmt.Errorf("authorization_endpoint of %q: %w", printable(p.Issuer), err)
	}
	return c.finishSignIn(ctx, req, p, cb, true)
}

// prepare binds the redirect's port and obtains the client that may use it. A
// registration is used again only with the very redirect it was made for, as
// not every server lets the port vary (RFC 8252 section 7.3).
func (c *Client) prepare(ctx context.Context, d *discovery, cred *credential) (*callback, registration, bool, error) {
	if cred != nil && cred.Registration.usable(c.opts.Now()) && c.opts.ClientID == "" {
		p := pendingSignIn{RedirectURI: cred.Registration.RedirectURI}
		if port := p.port(); port != 0 || c.opts.Callback.URL != "" {
			if cb, err := c.opts.Callback.listen(port); err == nil {
				if cb.redirectURI() == cred.Registration.RedirectURI {
					return cb, cred.Registration, true, nil
				}
				cb.finish(page{}, &c.work)
			}
		}
	}
	cb, err := c.listenNew(c.usesDocument(&d.server))
	if err != nil {
		return nil, registration{}, false, err
	}
	reg, err := c.register(ctx, &d.server, cb.redirectURI())
	if err != nil {
		cb.finish(page{}, &c.work)
		return nil, registration{}, false, err
	}
	return cb, reg, false, nil
}

// listenNew binds the port of a new sign-in: the one that was asked for, else
// for a client that its document describes one of those that stand in it, else
// any. A client that others registered insists on its port.
func (c *Client) listenNew(documented bool) (*callback, error) {
	port := c.opts.Callback.Port
	if documented && port == 0 {
		for _, p := range documentPorts {
			if cb, err := c.opts.Callback.listen(p); err == nil {
				return cb, nil
			}
		}
		return nil, fmt.Errorf("listen for the sign-in's answer: all ports of the client's document are taken, %v", documentPorts)
	}
	cb, err := c.opts.Callback.listen(port)
	if err != nil && port != 0 && !documented && c.opts.ClientID == "" && c.opts.Callback.URL == "" {
		return c.opts.Callback.listen(0)
	}
	return cb, err
}

// scopes selects what to ask for (revision 2026-07-28, Scope Selection
// Strategy): the configuration's, else the challenge's, else the resource's,
// else none; with what was asked for before, so that nothing is lost.
func (c *Client) scopes(d *discovery, req signInRequest, cred *credential) []string {
	var scopes []string
	switch {
	case c.opts.Scope != "":
		scopes = validScopes(c.opts.Scope)
	case req.challenge != nil && len(validScopes(req.challenge.Scope)) > 0:
		scopes = validScopes(req.challenge.Scope)
	default:
		scopes = validScopes(strings.Join(d.scopesSupported, " "))
	}
	if cred != nil && !req.explicit {
		scopes = union(cred.Requested, scopes)
	}
	scopes = union(scopes, req.stepUp)
	// Alone it would stand in place of the server's default scopes.
	if c.opts.Scope == "" && len(scopes) > 0 && slices.Contains(d.server.ScopesSupported, offlineAccess) {
		scopes = union(scopes, []string{offlineAccess})
	}
	return scopes
}

const offlineAccess = "offline_access"

// authorizationURL builds the URL for the browser (RFC 6749 section 4.1.1, RFC
// 7636 section 4.3, RFC 8707 section 2.1), checked and written anew.
func (c *Client) authorizationURL(endpoint string, p *pendingSignIn) (string, error) {
	u, err := url.Parse(endpoint)
	if err != nil {
		return "", fmt.Errorf("%q is not a URL", printable(endpoint))
	}
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return "", fmt.Errorf("%q has a query that cannot be read", printable(endpoint))
	}
	challenge := sha256.Sum256([]byte(p.Verifier.Reveal()))
	query.Set("response_type", "code")
	query.Set("client_id", p.Registration.ClientID)
	query.Set("redirect_uri", p.RedirectURI)
	query.Set("state", p.State)
	query.Set("code_challenge", base64.RawURLEncoding.EncodeToString(challenge[:]))
	query.Set("code_challenge_method", "S256")
	if p.Resource != "" {
		query.Set("resource", p.Resource)
	}
	if len(p.Scopes) > 0 {
		query.Set("scope", strings.Join(p.Scopes, " "))
	}
	if slices.Contains(p.Scopes, offlineAccess) {
		query.Set("prompt", "consent") // OpenID Connect Core section 11
	}
	for name, values := range c.opts.AuthorizeParams {
		query[name] = values
	}
	u.RawQuery = query.Encode()
	return BrowserURL(u.String())
}

// ownParams are the parameters of the request that nobody else may set.
var ownParams = []string{
	"response_type", "client_id", "redirect_uri", "state", "code_challenge", "code_challenge_method", "resource", "scope",
}

// finishSignIn waits on cb for the answer to p, exchanges the code and stores
// the outcome. It closes cb.
func (c *Client) finishSignIn(ctx context.Context, req signInRequest, p *pendingSignIn, cb *callback, open bool) error {
	cb.serve(p.expectation())
	c.savePending(ctx, p)
	c.prompt(p.AuthURL, "")
	opened := make(chan error, 1)
	if open && c.opts.OpenURL != nil {
		// An opener may stay as long as its browser does; the sign-in neither
		// waits for it nor ends it.
		go func() { opened <- c.opts.OpenURL(p.AuthURL) }()
	}
	c.setWaiting(true)
	code, err := c.await(ctx, p, cb, opened)
	c.setWaiting(false)
	var cred *credential
	if err == nil {
		// A code is good for one attempt: whoever leaves now still gets it done.
		graced, stop := withGrace(ctx)
		cred, err = c.exchange(graced, p, code)
		stop()
	}
	if err == nil {
		err = c.adopt(ctx, req, cred)
	}
	switch {
	case err == nil:
		_ = c.opts.Pending.Delete(context.WithoutCancel(ctx))
		cb.finish(page{OK: true, Next: c.opts.Callback.SuccessURL, Title: "You are signed in", Text: "You may close this window and go back to the application."}, &c.work)
		return nil

	case errors.Is(err, errAgain):
		cb.finish(page{Title: "Once more, please", Text: "The authorization server had forgotten this application. Another page opens to sign in."}, &c.work)
		return err

	case ctx.Err() != nil && errors.Is(err, ctx.Err()):
		// The process ends, not the sign-in: the next process goes on with it,
		// unless the user has just broken it off.
		if req.explicit {
			_ = c.opts.Pending.Delete(context.WithoutCancel(ctx))
		}
		cb.finish(page{Title: "The application has stopped waiting", Text: "Reload this page once it runs again."}, &c.work)
		return err
	}
	return c.failed(ctx, p, cb, err)
}

// withGrace returns a context that ends closeGrace after ctx does.
func withGrace(ctx context.Context) (context.Context, func()) {
	graced, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() { time.AfterFunc(closeGrace, cancel) })
	return graced, func() { stop(); cancel() }
}

func (c *Client) setWaiting(waiting bool) {
	c.mu.Lock()
	c.waiting = waiting
	c.mu.Unlock()
}

// adopt makes a new credential current and stores it.
func (c *Client) adopt(ctx context.Context, req signInRequest, cred *credential) error {
	c.setCurrent(cred)
	err := c.keep(ctx, cred)
	if err != nil && !req.explicit {
		_, generation, _ := c.opts.Store.Load(context.WithoutCancel(ctx)) // 0 where nothing can be read
		c.holdUnsaved(cred, generation)
		c.log.Error("the sign-in could not be stored and will not survive this process", "server", c.display(), "err", err)
		return nil
	}
	return err
}

// failed records how the sign-in ended, for this process's next requests and
// for the other processes. cb is nil for one without a callback.
func (c *Client) failed(ctx context.Context, p *pendingSignIn, cb *callback, err error) error {
	p.Ended, p.Outcome, p.Reason = c.opts.Now(), outcomeFailed, printable(err.Error())
	shown := page{Status: http.StatusBadRequest, Title: "The sign-in did not work", Text: p.Reason}
	switch {
	case errors.Is(err, errNobody):
		p.Outcome, p.Reason = outcomeTimeout, fmt.Sprintf("nobody signed in within %v", c.opts.SignInTimeout)
	case oauthCode(err) == "access_denied":
		p.Outcome, p.Reason = outcomeDenied, "access was denied"
		var e *Error
		if errors.As(err, &e) && e.Description != "" {
			p.Reason += ": " + e.Description
		}
		shown = page{Title: "Access was denied", Text: "You may close this window. Nothing was changed."}
	}
	if p.Reused && p.Outcome == outcomeTimeout {
		c.suspect(ctx, p.Registration)
	}
	p.Verifier, p.State, p.DeviceCode = "", "", "" // of no more use to anyone
	c.savePending(context.WithoutCancel(ctx), p)
	if cb != nil {
		cb.finish(shown, &c.work)
	}
	if p.Outcome == outcomeFailed {
		return fmt.Errorf("sign in to %q: %w", c.display(), err)
	}
	return c.notSignedIn(p.Reason, err)
}

var errNobody = errors.New("nobody signed in")

// await returns the code that comes back through the browser.
func (c *Client) await(ctx context.Context, p *pendingSignIn, cb *callback, opened <-chan error) (string, error) {
	limit := time.NewTimer(p.Expires.Sub(c.opts.Now()))
	defer limit.Stop()
	pasted := c.opts.Pasted
	for {
		select {
		case line, ok := <-pasted:
			if !ok {
				pasted = nil
				continue
			}
			if err := cb.paste(line); err != nil {
				c.notice("%v", err)
			}
		case answer := <-cb.answers:
			switch code := oauthCode(answer.err); {
			case p.Reused && (code == "invalid_client" || code == "unauthorized_client"):
				return "", errAgain
			case answer.err != nil:
				return "", answer.err
			}
			return answer.code, nil
		case err := <-opened:
			opened = nil
			if err != nil {
				c.log.Warn("the browser could not be opened", "err", err)
				if c.opts.Prompt == nil {
					return "", c.notSignedIn("the browser could not be opened", err)
				}
			}
		case <-limit.C:
			return "", errNobody
		case <-ctx.Done():
			return "", ctx.Err()
		}
	}
}

// exchange redeems the code (RFC 6749 section 4.1.3, RFC 7636 section 4.5).
func (c *Client) exchange(ctx context.Context, p *pendingSignIn, code string) (*credential, error) {
	form := url.Values{
		"grant_type":    {"authorization_code"},
		"code":          {code},
		"redirect_uri":  {p.RedirectURI},
		"code_verifier": {p.Verifier.Reveal()},
	}
	if p.Resource != "" {
		form.Set("resource", p.Resource)
	}
	now := c.opts.Now()
	answer, err := c.tokenRequest(ctx, p.TokenEndpoint, p.Registration, form)
	if p.Reused && (oauthCode(err) == "invalid_client" || oauthCode(err) == "unauthorized_client") {
		return nil, errAgain
	}
	if err != nil {
		return nil, fmt.Errorf("redeem the code: %w", err)
	}
	return c.obtained(p, answer, now), nil
}

// obtained is the credential that came out of the sign-in p.
func (c *Client) obtained(p *pendingSignIn, answer *tokenAnswer, now time.Time) *credential {
	cred := &credential{
		Server: c.server.String(), Resource: p.Resource, Issuer: p.Issuer,
		TokenEndpoint: p.TokenEndpoint, RevocationEndpoint: p.RevocationEndpoint,
		Registration: p.Registration, Requested: p.Scopes, Granted: p.Scopes,
	}
	cred = cred.renewed(answer, now)
	cred.SignedIn = now.Round(0)
	return cred
}

// keep stores a new sign-in, which holds whatever was there.
func (c *Client) keep(ctx context.Context, cred *credential) error {
	data, err := cred.encode()
	if err != nil {
		return err
	}
	unlock, err := c.opts.Store.Lock(ctx)
	if err != nil {
		return fmt.Errorf("wait for other processes: %w", err)
	}
	defer unlock()
	if err := overwrite(context.WithoutCancel(ctx), c.opts.Store, data); err != nil {
		return fmt.Errorf("store the sign-in: %w", err)
	}
	return nil
}

// suspect marks the stored registration, so that the next sign-in registers
// anew: the user may have been left with an error page.
func (c *Client) suspect(ctx context.Context, reg registration) {
	ctx = context.WithoutCancel(ctx)
	cred, generation, err := c.reload(ctx)
	if err != nil || cred == nil || cred.Registration.ClientID != reg.ClientID {
		return
	}
	marked := *cred
	marked.Registration.Suspect = true
	if err := c.store(ctx, &marked, generation); err != nil {
		c.log.Debug("registration not marked", "err", err)
	}
}

// probe asks the server how it refuses a request without a token, which names
// its metadata and scopes. The request does nothing where none is refused.
func (c *Client) probe(ctx context.Context) (*Challenge, error) {
	a, err := c.askServer(ctx, "")
	if err != nil {
		return nil, err
	}
	challenge := bearerChallenge(a.header)
	if a.status == http.StatusUnauthorized || challenge.Scheme != "" {
		return &challenge, nil
	}
	m, err := c.resourceMetadata(ctx, nil)
	if err != nil {
		return nil, err
	}
	if m == nil {
		return nil, fmt.Errorf("%q asks for no sign-in (status %d)", c.display(), a.status)
	}
	return nil, nil
}

// askServer sends the server a request that does nothing, with token if it is
// not empty.
func (c *Client) askServer(ctx context.Context, token string) (*answer, error) {
	header := http.Header{"Accept": {"application/json, text/event-stream"}}
	if token != "" {
		header.Set("Authorization", "Bearer "+token)
	}
	a, err := c.http.post(ctx, c.server.String(), "application/json", []byte(`{"jsonrpc":"2.0","id":"sign-in","method":"ping"}`), header)
	if err == nil && (a.status == http.StatusNotFound || a.status == http.StatusMethodNotAllowed) {
		// An endpoint of revision 2024-11-05 opens its stream by GET.
		header.Set("Accept", "text/event-stream")
		a, err = c.http.do(ctx, http.MethodGet, c.server.String(), nil, "", header)
	}
	if err != nil {
		return nil, fmt.Errorf("ask %q: %w", c.display(), err)
	}
	return a, nil
}

func (c *Client) prompt(authURL, code string) {
	if c.opts.Prompt != nil {
		c.opts.Prompt(authURL, code)
	}
}

// randomText is 256 random bits, for a state and a code verifier alike (RFC
// 7636 section 4.1 wants 43 characters or more).
func randomText() string {
	b := make([]byte, 32)
	rand.Read(b) // never fails (crypto/rand)
	return base64.RawURLEncoding.EncodeToString(b)
}
