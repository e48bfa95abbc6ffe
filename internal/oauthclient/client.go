// Package oauthclient is the OAuth 2.1 client of an MCP connection: it finds
// the authorization server of an MCP server, registers, signs the user in
// through the browser (authorization code with PKCE on a loopback redirect),
// refreshes, steps up and revokes, as the authorization text of the Model
// Context Protocol revision 2026-07-28 asks, and earlier revisions for servers
// that still follow them. It owns the Client and declares TokenStore.
//
// Of the project's packages it imports secret (and may import identity) only.
//
// The one invariant: a credential is deleted only after the authorization
// server has confirmed, on a freshly read copy, that it is void; and no bearer,
// code or refresh token leaves for an origin other than the one it was made
// for.
package oauthclient

import (
	"context"
	"crypto"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/mcp-clerk/mcp-clerk/internal/secret"
)

// TokenStore keeps one record, across processes. Implementations lock between
// processes and write atomically; they need not understand the bytes.
type TokenStore interface {
	// Load returns the record and its generation; nil data says that there is
	// none (or none that can still be opened).
	Load(ctx context.Context) (data []byte, generation uint64, err error)
	// Save replaces the record if it still has the given generation (0: there
	// is none) and returns its new one; ok is false if it moved meanwhile.
	Save(ctx context.Context, data []byte, generation uint64) (next uint64, ok bool, err error)
	// Delete removes the record; one that does not exist is no error.
	Delete(ctx context.Context) error
	// Lock excludes other processes until unlock is called.
	Lock(ctx context.Context) (unlock func(), err error)
	// Backend names the place of the secret for people, such as "keyring".
	Backend() string
}

const (
	requestTimeout = 10 * time.Second // each request to an authorization server
	signInTimeout  = 5 * time.Minute
	// refreshMargin is how long before its expiry a token is renewed.
	refreshMargin = time.Minute
	// freshToken is the age below which a refused token is not worth a refresh:
	// the server refuses what it was just given.
	freshToken = 10 * time.Second
	// quietTime follows a sign-in, successful or not, during which no window
	// opens unless the user asks for one.
	quietTime = time.Minute
	// closeGrace is what Close leaves an exchange of single-use secrets to be
	// finished and stored: less than the two seconds a host gives its command.
	closeGrace = time.Second
	// maxStepUps bounds the sign-ins for one set of scopes.
	maxStepUps = 3
)

// Options configure a Client. The zero value of each but ServerURL, Store and
// Pending is usable, and strict.
type Options struct {
	ServerURL string // the MCP endpoint
	Profile   string // names a further account at the same server

	// Store holds the credential; Pending holds the sign-in under way, and its
	// lock lets one process at a time open a window. Both may be nil only with
	// StaticToken.
	Store   TokenStore
	Pending TokenStore

	// StaticToken is a ready bearer token; nothing else is done then. When the
	// server refuses it, ReadToken, if set, is asked for the one of now.
	StaticToken secret.String
	ReadToken   func() (secret.String, error)

	// OpenURL opens the user's browser. Nil says that no window may be opened:
	// Authorize then answers with *NotSignedInError where it would need one.
	OpenURL func(url string) error
	// Prompt shows the sign-in URL to the user, always and before the browser
	// opens. code is what the user has to enter there (RFC 8628 section 3.3), ""
	// where there is nothing to enter.
	Prompt func(url, code string)
	// Pasted are lines that a person types while a sign-in waits: the address
	// that a browser elsewhere ended at, or the code it shows. May be nil.
	Pasted <-chan string
	// Notice tells the person something that is no error. May be nil.
	Notice func(text string)

	// Flow is how a credential is obtained.
	Flow Flow

	// Transport is the base of all requests (certificates, proxy); nil is Go's
	// default one. It is cloned.
	Transport *http.Transport
	// AllowPrivate lets a public server send this client to private addresses.
	AllowPrivate bool

	Scope         string        // asked for instead of what the server names
	SignInTimeout time.Duration // default 5 minutes
	ClientName    string        // shown on the consent page; default "mcp-clerk"

	// Callback is where the browser brings the answer.
	Callback Callback

	// Resource is sent in place of what the server publishes (RFC 8707);
	// NoResource leaves the parameter out, for servers that refuse it.
	Resource   string
	NoResource bool
	// AuthorizeParams are added to the authorization request; none of those
	// that the flow itself sets can be among them.
	AuthorizeParams url.Values
	// UseIDToken sends the id_token as bearer token, for servers that check who
	// the user is rather than what the token allows.
	UseIDToken bool
	// TokenEndpoint, with FlowClientCredentials only, takes the place of
	// discovery.
	TokenEndpoint string

	// A client registered beforehand, or described by the document at
	// ClientMetadataURL; without them the client registers itself (RFC 7591)
	// with ClientMetadata over its own members.
	ClientID          string
	ClientSecret      secret.String
	ClientKey         crypto.Signer // for private_key_jwt (RFC 7523 section 2.2)
	AuthMethod        string        // token_endpoint_auth_method; "" is what the server offers
	ClientMetadataURL string
	ClientMetadata    map[string]json.RawMessage

	Logger *slog.Logger
	// Seams.
	Now      func() time.Time
	LookupIP func(ctx context.Context, host string) ([]netip.Addr, error)
}

// Flow is how a credential is obtained.
type Flow string

// The flows. Whatever the flow, a credential lasts and is renewed alike.
const (
	FlowBrowser           Flow = ""                   // authorization code with PKCE (RFC 7636)
	FlowDevice            Flow = "device"             // a code entered on any machine (RFC 8628)
	FlowClientCredentials Flow = "client_credentials" // the client itself, no user (RFC 6749 section 4.4)
)

// Variant distinguishes configurations of one server and profile that must not
// share a credential; it is "" for the plain one. It goes into the store's key.
func (o Options) Variant() string {
	parts := []string{strings.Join(strings.Fields(o.Scope), " "), o.ClientID, o.ClientMetadataURL}
	// What came later adds parts only where it is used: the others' keys stay.
	for _, more := range []struct{ name, value string }{
		{"client credentials", map[bool]string{true: "yes"}[o.Flow == FlowClientCredentials]},
		{"resource", o.Resource},
		{"no resource", map[bool]string{true: "yes"}[o.NoResource]},
		{"authorize", o.AuthorizeParams.Encode()},
		{"id token", map[bool]string{true: "yes"}[o.UseIDToken]},
		{"token endpoint", o.TokenEndpoint},
	} {
		if more.value != "" {
			parts = append(parts, more.name+"="+more.value)
		}
	}
	if strings.Join(parts, "") == "" {
		return ""
	}
	sum := sha256.Sum256([]byte(strings.Join(parts, "\x00")))
	return hex.EncodeToString(sum[:8])
}

// Client supplies bearer tokens for one server and account. It is safe for
// concurrent use. Close it.
type Client struct {
	opts   Options
	server *url.URL
	http   *fetcher
	log    *slog.Logger

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	work   sync.WaitGroup // flights

	mu      sync.Mutex
	static  secret.String // the ready token of now
	cred    *credential   // as last seen in the store; nil: none known
	none    time.Time     // when the store was last seen to have none
	unsaved *unsaved      // what the store could not take
	flights map[string]*flight
	stepUps map[string]int // sign-ins for a set of scopes
	backOff time.Time      // no refresh before its time until then
	waiting bool           // a sign-in of this process waits for the browser
	closed  bool
}

// New checks the options. It touches neither disk nor network.
func New(o Options) (*Client, error) {
	server, err := parseServerURL(o.ServerURL)
	if err != nil {
		return nil, err
	}
	if o.StaticToken == "" && (o.Store == nil || o.Pending == nil) {
		return nil, errors.New("oauthclient: Store and Pending are needed unless StaticToken is set")
	}
	if o.TokenEndpoint != "" && o.Flow != FlowClientCredentials {
		return nil, errors.New("a token endpoint is given for client credentials only")
	}
	if o.Flow == FlowClientCredentials && (o.ClientID == "" || o.ClientSecret == "" && o.ClientKey == nil) {
		return nil, errors.New("client credentials need a client id, and a secret or a key")
	}
	for name := range o.AuthorizeParams {
		if slices.Contains(ownParams, name) {
			return nil, fmt.Errorf("the authorization parameter %q is set by the sign-in itself", name)
		}
	}
	if err := o.Callback.check(); err != nil {
		return nil, err
	}
	if o.SignInTimeout <= 0 {
		o.SignInTimeout = signInTimeout
	}
	if o.ClientName == "" {
		o.ClientName = "mcp-clerk"
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	c := &Client{
		opts:    o,
		server:  server,
		http:    newFetcher(o, server),
		log:     o.Logger,
		static:  o.StaticToken,
		flights: map[string]*flight{},
		stepUps: map[string]int{},
	}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	return c, nil
}

// Close ends a sign-in under way, leaving it to the next process, gives a
// exchange or refresh under way a second to be stored, and waits for all.
func (c *Client) Close() error {
	c.mu.Lock()
	c.closed = true
	refreshing := c.flights[renewFlight]
	c.mu.Unlock()
	if refreshing != nil {
		grace := time.NewTimer(closeGrace)
		defer grace.Stop()
		select {
		case <-refreshing.done:
		case <-grace.C:
		}
	}
	c.cancel()
	c.work.Wait()
	c.http.close()
	return nil
}

// Token returns the bearer token for the next request, renewing it when it
// expires within a minute. It is "" when none is known; the request then goes
// out without one and its refusal says what to do.
func (c *Client) Token(ctx context.Context) (string, error) {
	if c.opts.StaticToken != "" {
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.static.Reveal(), nil
	}
	cred, err := c.known(ctx)
	if err != nil || cred == nil || cred.AccessToken == "" {
		return "", err
	}
	now := c.opts.Now()
	if !cred.due(now) {
		return cred.AccessToken.Reveal(), nil
	}
	if !c.renewable(cred) {
		if cred.expired(now) {
			return "", nil
		}
		return cred.AccessToken.Reveal(), nil
	}
	if !cred.expired(now) && c.backingOff(now) {
		return cred.AccessToken.Reveal(), nil
	}
	err = c.renew(ctx, cred.AccessToken, false)
	if latest := c.current(); latest != nil && !latest.expired(now) {
		if err != nil {
			c.log.Warn("refresh failed; the token is still valid", "server", c.display(), "err", err)
		}
		return latest.AccessToken.Reveal(), nil
	}
	if errors.Is(err, errSignInNeeded) {
		return "", nil
	}
	return "", err
}

// Authorize answers the refusal of a request that was made with the token
// refused ("" for none): with 401, or with 403 and a Bearer challenge of
// insufficient scope. It returns nil when Token may now give another answer.
// It reads the store again, refreshes, and signs in through the browser, in
// this order, and at most one of each for all requests and processes that ask
// at the same time. A sign-in goes on when ctx ends. Errors are
// *NotSignedInError where a person is needed or declined, *Error from the
// authorization server, and those of discovery and network.
func (c *Client) Authorize(ctx context.Context, refused string, status int, header http.Header) error {
	challenge := bearerChallenge(header)
	if c.opts.StaticToken != "" {
		return c.readToken(secret.String(refused))
	}
	if status == http.StatusForbidden {
		if challenge.Error != "insufficient_scope" && (challenge.Error != "" || challenge.Scope == "") {
			return fmt.Errorf("%q refuses access, and not for want of a scope", c.display())
		}
		return c.stepUp(ctx, secret.String(refused), challenge)
	}
	if status != http.StatusUnauthorized {
		return fmt.Errorf("status %d from %q is nothing that signing in could mend", status, c.display())
	}
	err := c.renew(ctx, secret.String(refused), true)
	if !errors.Is(err, errSignInNeeded) {
		return err
	}
	if cred := c.current(); cred != nil && cred.AccessToken != "" && !containsAll(cred.Requested, validScopes(challenge.Scope)) {
		return c.stepUp(ctx, secret.String(refused), challenge) // some servers ask for more with 401
	}
	return c.join(ctx, signInFlight, func(ctx context.Context) error {
		return c.signIn(ctx, signInRequest{refused: secret.String(refused), challenge: &challenge})
	})
}

// readToken reads the ready token anew: whoever gives it out may have replaced
// it.
func (c *Client) readToken(refused secret.String) error {
	if c.opts.ReadToken == nil {
		return c.notSignedIn("the server refuses the given token", nil)
	}
	token, err := c.opts.ReadToken()
	if err != nil {
		return c.notSignedIn("the server refuses the given token", err)
	}
	if token == "" || token == refused {
		return c.notSignedIn("the server refuses the given token", nil)
	}
	c.mu.Lock()
	c.static = token
	c.mu.Unlock()
	return nil
}

// stepUp signs in for more scopes (revision 2026-07-28, Step-Up Authorization
// Flow): the union of what was asked for before and what the challenge names.
func (c *Client) stepUp(ctx context.Context, refused secret.String, challenge Challenge) error {
	wanted := validScopes(challenge.Scope)
	key := strings.Join(wanted, " ")
	return c.join(ctx, signInFlight+" "+key, func(ctx context.Context) error {
		// Another request or process may have stepped up meanwhile.
		cred, _, err := c.reload(ctx)
		if err != nil {
			return err
		}
		if cred != nil && cred.AccessToken != "" && cred.AccessToken != refused && containsAll(cred.Granted, wanted) {
			return nil
		}
		c.mu.Lock()
		c.stepUps[key]++
		tries, sets := c.stepUps[key], len(c.stepUps)
		c.mu.Unlock()
		if tries > maxStepUps || sets > 16 {
			return fmt.Errorf("%q asks for the scope %q again and again: given up after %d sign-ins", c.display(), key, min(tries-1, maxStepUps))
		}
		return c.signIn(ctx, signInRequest{refused: refused, challenge: &challenge, stepUp: wanted, isStepUp: true})
	})
}

// SignIn signs the user in now, in a window of the browser where OpenURL is
// set, else by the URL that Prompt shows. It joins a sign-in that another
// process has under way. When ctx ends the sign-in ends.
func (c *Client) SignIn(ctx context.Context) error {
	if c.opts.StaticToken != "" {
		return errors.New("a ready token is set: there is nothing to sign in to")
	}
	if c.needsPerson() && c.opts.OpenURL == nil && c.opts.Prompt == nil {
		return c.notSignedIn("no browser may be opened", nil)
	}
	return c.signIn(ctx, signInRequest{explicit: true})
}

// Resume goes on with a sign-in that another process began and left, without a
// window, until its outcome; it waits for whoever else is at it. It returns at
// once where none is under way.
func (c *Client) Resume(ctx context.Context) error {
	if c.opts.StaticToken != "" {
		return nil
	}
	return c.signIn(ctx, signInRequest{resume: true})
}

// SigningIn reports whether a sign-in of this process waits for the browser:
// closing the Client leaves it to whoever calls Resume next.
func (c *Client) SigningIn() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.waiting
}

const (
	renewFlight  = "renew"
	signInFlight = "sign in"
)

// flight is work that several callers wait for.
type flight struct {
	done chan struct{}
	err  error
}

// join runs work once however many ask for it under the same name, in the life
// of the Client rather than of any one caller: who asked first may leave.
func (c *Client) join(ctx context.Context, name string, work func(context.Context) error) error {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return errors.New("the client is closed")
	}
	f := c.flights[name]
	if f == nil {
		f = &flight{done: make(chan struct{})}
		c.flights[name] = f
		c.work.Add(1)
		go func() {
			defer c.work.Done()
			f.err = work(c.ctx)
			c.mu.Lock()
			delete(c.flights, name)
			c.mu.Unlock()
			close(f.done)
		}()
	}
	c.mu.Unlock()
	select {
	case <-f.done:
		return f.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// known returns the credential in memory, else the store's. It is asked before every request: that there is no credential is looked up
// once a second. Whoever is refused without one reads the store again anyway.
func (c *Client) known(ctx context.Context) (*credential, error) {
	c.mu.Lock()
	cred, fresh := c.cred, time.Since(c.none) < noneAge
	c.mu.Unlock()
	if cred != nil && cred.AccessToken != "" || fresh {
		return cred, nil
	}
	cred, _, err := c.reload(ctx)
	if err == nil && (cred == nil || cred.AccessToken == "") {
		c.mu.Lock()
		c.none = time.Now()
		c.mu.Unlock()
	}
	return cred, err
}

// noneAge is how long it is believed that there is no credential.
const noneAge = time.Second

func (c *Client) current() *credential {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.cred
}

// reload reads the store and makes what it holds current.
func (c *Client) reload(ctx context.Context) (*credential, uint64, error) {
	data, generation, err := c.opts.Store.Load(ctx)
	if cred := c.notSaved(generation, err); cred != nil {
		return cred, generation, nil
	}
	if err != nil {
		return nil, 0, fmt.Errorf("read credential for %q: %w", c.display(), err)
	}
	cred, err := decodeCredential(data)
	if err != nil {
		return nil, 0, fmt.Errorf("read credential for %q: %w", c.display(), err)
	}
	if cred != nil && cred.Server != c.server.String() {
		cred = nil // never a token of another server, whatever the store's key
	}
	c.setCurrent(cred)
	return cred, generation, nil
}

func (c *Client) setCurrent(cred *credential) {
	c.mu.Lock()
	c.cred = cred
	c.mu.Unlock()
}

func (c *Client) backingOff(now time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return now.Before(c.backOff)
}

// needsPerson reports whether a sign-in takes somebody's help.
func (c *Client) needsPerson() bool { return c.opts.Flow != FlowClientCredentials }

func (c *Client) notice(format string, args ...any) {
	if c.opts.Notice != nil {
		c.opts.Notice(fmt.Sprintf(format, args...))
	}
}

// display is the server's URL as error texts may show it: its query may be
// confidential.
func (c *Client) display() string { return displayURL(c.server) }

func (c *Client) notSignedIn(reason string, cause error) error {
	return &NotSignedInError{Server: c.display(), Reason: reason, Err: cause}
}
