// Package clerk talks to Clerk: it signs people in by OpenID Connect, reads who
// they are now, with their roles, from the Backend API, and checks the tokens
// that Clerk gives to others. It is the only importer of clerk-sdk-go.
//
// It may import identity and secret. Its one invariant: what it returns was
// said by Clerk within the last minute, or by a token whose signature, issuer,
// audience, nonce and times were checked; where that can't be had it returns an
// error, identity.ErrUnavailable when asking again may help. No error and no
// log line of it carries a secret, a token, a code or the body of an answer.
package clerk

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	clerksdk "github.com/clerk/clerk-sdk-go/v2"
	"github.com/clerk/clerk-sdk-go/v2/user"

	"github.com/mcp-clerk/mcp-clerk/internal/secret"
)

const defaultAPIURL = "https://api.clerk.com"

// Options configure a Clerk. FrontendAPI and SecretKey are required; ClientID,
// ClientSecret and RedirectURL are as well, unless all three are empty: then
// nobody can sign in here.
type Options struct {
	FrontendAPI  string        // Clerk's Frontend API, the issuer: a host (https is meant) or a URL
	APIURL       string        // Backend API without /v1; "": https://api.clerk.com
	ClientID     string        // of the OAuth application
	ClientSecret secret.String // of the OAuth application
	SecretKey    secret.String // Backend API key, "sk_…"
	RedirectURL  string        // where Clerk sends the user back to, registered there exactly so
	MachineKey   secret.String // of the machine that this server is at Clerk, "ak_…"; "": no machine's token can be checked
	RoleKey      string        // where roles lie in public metadata, a name or names with dots between; "": "role"
	RoleRules    []RoleRule    // what else gives a role
	HTTPClient   *http.Client  // its Transport is used; time-outs, size limits and the refusal of redirects are this package's
	Logger       *slog.Logger  // nil: silent
	Now          func() time.Time
}

// Clerk is a client of one Clerk instance. It is safe for concurrent use.
type Clerk struct {
	issuer       string
	clientID     string
	clientSecret secret.String
	redirectURL  string
	oidcClient   *http.Client
	users        *user.Client
	machines     clerksdk.Backend // nil without a MachineKey
	roleKey      string
	roleRules    []RoleRule
	pace         time.Duration // between the requests of a survey
	log          *slog.Logger
	now          func() time.Time
	sleep        func(context.Context, time.Duration) error

	provider kept[endpoints]
	metadata kept[[]byte]
	keys     keySet
	dir      directory
	tokens   tokenMemory

	base context.Context // ends at Close; the parent of requests that several callers share
	stop context.CancelFunc
	wg   sync.WaitGroup

	mu     sync.Mutex
	closed bool
}

// New makes a Clerk. It does not use the network: discovery happens at the
// first sign-in. All faults of the options are reported at once.
func New(o Options) (*Clerk, error) {
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }

	issuer, err := frontendURL(o.FrontendAPI)
	if err != nil {
		fault("frontend API: %w", err)
	}
	api, err := baseURL(cmp.Or(strings.TrimSpace(o.APIURL), defaultAPIURL))
	if err != nil {
		fault("API URL: %w", err)
	}
	signIn := o.ClientID != "" || o.ClientSecret != "" || o.RedirectURL != ""
	if signIn && o.ClientID == "" {
		fault("client id: missing")
	}
	if signIn && o.RedirectURL == "" {
		fault("redirect URL: missing")
	} else if u, err := url.Parse(o.RedirectURL); signIn && (err != nil || u.Host == "" || u.Fragment != "") {
		fault("redirect URL %q: must be absolute and without fragment", o.RedirectURL)
	}
	for _, s := range []struct {
		name     string
		value    secret.String
		required bool
	}{{"client secret", o.ClientSecret, signIn}, {"secret key", o.SecretKey, true}, {"machine key", o.MachineKey, false}} {
		switch {
		case s.value == "" && !s.required:
		case s.value == "":
			fault("%s: missing", s.name)
		case strings.ContainsFunc(s.value.Reveal(), func(r rune) bool { return r <= ' ' || r >= 0x7f }):
			// A line break would otherwise surface as a puzzling header error.
			fault("%s: contains white space or a character that is not ASCII", s.name)
		}
	}
	for _, rule := range o.RoleRules {
		if err := rule.Check(); err != nil {
			faults = append(faults, err)
		}
	}
	if len(faults) > 0 {
		return nil, errors.Join(faults...)
	}

	transport := http.DefaultTransport
	if o.HTTPClient != nil && o.HTTPClient.Transport != nil {
		transport = o.HTTPClient.Transport
	}
	backend := func(key secret.String) clerksdk.BackendConfig {
		return clerksdk.BackendConfig{
			URL:        clerksdk.String(strings.TrimSuffix(api, "/v1") + "/v1"),
			Key:        clerksdk.String(key.Reveal()),
			HTTPClient: newHTTPClient(transport, apiTimeout),
		}
	}

	c := &Clerk{
		issuer:       issuer,
		clientID:     o.ClientID,
		clientSecret: o.ClientSecret,
		redirectURL:  o.RedirectURL,
		oidcClient:   newHTTPClient(transport, oidcTimeout),
		users:        user.NewClient(&clerksdk.ClientConfig{BackendConfig: backend(o.SecretKey)}),
		roleKey:      cmp.Or(o.RoleKey, defaultRoleKey),
		roleRules:    slices.Clone(o.RoleRules),
		pace:         surveyPace(o.SecretKey),
		log:          o.Logger,
		now:          o.Now,
		sleep:        sleep,
	}
	if c.log == nil {
		c.log = slog.New(slog.DiscardHandler)
	}
	if c.now == nil {
		c.now = time.Now
	}
	if o.MachineKey != "" {
		config := backend(o.MachineKey)
		c.machines = clerksdk.NewBackend(&config)
	}
	c.dir.entries = map[string]*entry{}
	c.tokens.entries = map[[sha256.Size]byte]tokenEntry{}
	c.base, c.stop = context.WithCancel(context.Background())
	return c, nil
}

// Close ends the requests that are under way and waits for them. Later calls
// that would need the network return identity.ErrUnavailable.
func (c *Clerk) Close() error {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.stop()
	c.wg.Wait()
	return nil
}

// Issuer returns the issuer, Clerk's Frontend API as a URL.
func (c *Clerk) Issuer() string { return c.issuer }

// frontendURL makes the issuer of what people write for the Frontend API.
func frontendURL(s string) (string, error) {
	s = strings.TrimSpace(s)
	if s == "" {
		return "", errors.New("missing")
	}
	if !strings.Contains(s, "://") {
		s = "https://" + s
	}
	return baseURL(s)
}

// baseURL checks a URL that secrets will be sent to and cuts its trailing
// slashes: https, or http on loopback.
func baseURL(s string) (string, error) {
	u, err := url.Parse(s)
	switch {
	case err != nil || u.Hostname() == "" || u.Opaque != "" || strings.ContainsAny(s, " \\"):
		return "", fmt.Errorf("%q: must be a host or a URL", s)
	case u.User != nil:
		return "", errors.New("must not contain a user name or password") // and is not repeated here
	case u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		return "", fmt.Errorf("%q: must not have a query or fragment", s)
	case !secureURL(u):
		return "", fmt.Errorf("%q: must be https (http is only allowed on loopback)", s)
	}
	return strings.TrimRight(u.Scheme+"://"+u.Host+u.EscapedPath(), "/"), nil
}

// secureURL reports whether secrets may be sent to u.
func secureURL(u *url.URL) bool {
	if u.Scheme == "https" {
		return u.Host != ""
	}
	if u.Scheme != "http" {
		return false
	}
	ip := net.ParseIP(u.Hostname())
	return u.Hostname() == "localhost" || ip != nil && ip.IsLoopback()
}

var (
	publishableKey = lazily(`^pk_(?:test|live)_([A-Za-z0-9+/_-]+)={0,2}$`)
	hostName       = lazily(`^[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?(?:\.[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?)+$`)
)

// FrontendAPIFromPublishableKey derives the URL of the Frontend API from a
// publishable key, "pk_test_" or "pk_live_" and the base64 of the host and "$".
// A publishable key is no secret.
func FrontendAPIFromPublishableKey(pk string) (string, error) {
	m := publishableKey().FindStringSubmatch(strings.TrimSpace(pk))
	if m == nil {
		return "", errors.New("a publishable key starts with pk_test_ or pk_live_ and is copied whole")
	}
	text := strings.NewReplacer("-", "+", "_", "/").Replace(m[1])
	b, err := base64.RawStdEncoding.DecodeString(text)
	host, ok := strings.CutSuffix(string(b), "$")
	if err != nil || !ok || len(host) > 253 || !hostName().MatchString(host) {
		return "", errors.New("the publishable key names no Frontend API: copy it again from Clerk's dashboard")
	}
	return "https://" + host, nil
}
