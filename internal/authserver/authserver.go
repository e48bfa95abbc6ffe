// Package authserver is the OAuth 2.1 authorization server of the MCP clients:
// metadata, client registration, authorization with consent, codes, grants,
// tokens and revocation. Users sign in at an upstream provider behind SignIn;
// what they approve there and here becomes a grant, and everything a client
// holds afterwards is derived from that one record.
//
// It imports the rooms store, identity and secret.
//
// Its one invariant: a code, a refresh token or an access token leaves this
// package only after the grant that it belongs to has been committed in a
// state that accepts it, and each change of a grant is one atomic operation on
// one record. Nothing that is stored can be presented: of codes, tokens and
// client secrets only hashes are kept, or values sealed under keys that the
// store does not hold.
package authserver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/mcp-clerk/mcp-clerk/internal/identity"
	"github.com/mcp-clerk/mcp-clerk/internal/secret"
	"github.com/mcp-clerk/mcp-clerk/internal/store"
)

// Lifetimes that are not configured.
const (
	codeTTL         = time.Minute         // RFC 6749 section 4.1.2 allows 10 minutes; clients need seconds
	signinTTL       = 10 * time.Minute    // from the approval to the callback, and for a page to be answered
	accountTTL      = 30 * 24 * time.Hour // sign-in cookie
	registrationTTL = 90 * 24 * time.Hour // a registration nobody has approved
	lostGrace       = 24 * time.Hour      // an ancestor whose successor was never used
	tombstoneTTL    = 24 * time.Hour      // a revoked grant stays readable, so that its end can be explained
	maxAccessTTL    = 24 * time.Hour
)

// The scopes every server has.
const (
	ScopeTools   = "mcp:tools"      // call the tools that the user's role allows
	ScopeOffline = "offline_access" // refresh tokens (OpenID Connect Core section 11)
)

// SignIn is the upstream provider at which users prove who they are. verifier
// is a PKCE code verifier (RFC 7636); Begin sends its S256 challenge. prompt is
// "", "login" or "none".
//
// Complete returns the user that the id_token names. It reports
// identity.ErrUnavailable (wrapped) when the provider could not be asked.
type SignIn interface {
	Begin(ctx context.Context, state, nonce, verifier, prompt string) (authURL string, err error)
	Complete(ctx context.Context, code, verifier, nonce string) (identity.User, error)
}

// Directory knows the users as they are now. It reports identity.ErrNoUser for
// one that is gone and identity.ErrUnavailable when it could not be asked.
type Directory interface {
	User(ctx context.Context, subject string) (identity.User, error)
	// Find returns the users with these ids, at most 100, and those with that
	// e-mail address if it is not "", without their organisations. Who is not
	// known is missing.
	Find(ctx context.Context, ids []string, email string) ([]identity.User, error)
}

// External is an authorization server other than this one.
type External struct {
	Issuer string   // its issuer identifier (RFC 8414 section 2)
	Scopes []string // what clients are told to ask it for
}

// Event is something that happened to a client or grant and that an operator
// wants to find again: it is logged, and handed to Options.Observe.
type Event struct {
	Name     string // for example "grant.revoked"
	ClientID string
	Subject  string
	Grant    string
	Reason   string
}

// Options configure a Server. PublicURL, Keys, Store and SignIn are required;
// every other zero value is the strict default.
type Options struct {
	// PublicURL is the issuer: https, or http on a loopback name; it may have a
	// path prefix, and has no trailing slash.
	PublicURL string
	// ResourcePath is the path of the MCP endpoint below PublicURL. Default "/mcp".
	ResourcePath string
	// MorePaths are further paths of the same resource, for clients of another
	// transport: each has metadata of its own, a token is good for all.
	MorePaths []string
	// Keys are hex keys as ParseKeys returns them; the first one seals, all open.
	Keys      []secret.String
	Store     store.Store
	SignIn    SignIn
	Directory Directory // nil: nobody is asked
	// Admit judges whether a user as the Directory describes them may use the
	// server at all; nil: everyone may. No code is issued before it was asked.
	Admit  func(*identity.User) bool
	Scopes []Scope // beside ScopeTools and ScopeOffline; AddScope adds more
	// External names another authorization server in the place of this one.
	// What is left here is the resource's side: its metadata and Challenge.
	// SignIn is then not required.
	External *External
	// PrivateRedirects are redirect URIs with a private-use scheme (RFC 8252
	// section 7.1) that clients may register, beside the built-in list.
	PrivateRedirects []string

	// Admission says which clients may use the server; default AdmitOpen.
	Admission Admission
	// AdmittedHosts are the hosts of AdmitListed: names in lower case, names
	// with "*." in front for all below, and HostLoopback.
	AdmittedHosts []string
	// Clients are known without registering; ConnectClient is one of them always.
	Clients []Client
	// RegistrationToken is the initial access token that registrations must
	// carry (RFC 7591 section 3); "": none.
	RegistrationToken secret.String
	// NoDevice switches the device authorization grant (RFC 8628) off.
	NoDevice bool
	// LoopbackDocuments allows documents and keys of clients to be fetched from
	// this machine, also by http: for development.
	LoopbackDocuments bool

	AccessTokenTTL  time.Duration // default 1 h, at most 24 h
	RefreshGrace    time.Duration // how long a superseded refresh token still works; default 30 min, negative: not at all
	RefreshIdle     time.Duration // life of a refresh token that is not used; default 30 d
	RefreshAbsolute time.Duration // life of a grant; default 180 d

	// ServerName is shown to users and clients. Default "mcp-clerk".
	ServerName string
	Logger     *slog.Logger // nil: nothing is logged
	// Observe is told of every Event; it must not block.
	Observe func(context.Context, Event)
	// Changed is told when a user has changed what their grants are for; it may
	// take its time.
	Changed func(ctx context.Context, subject string)
	// ClientAddr says whom to count a request against; nil: the peer of the connection.
	ClientAddr func(*http.Request) netip.Addr
	// RequestID names a request on error pages and in the log; nil: a random one.
	RequestID func(*http.Request) string
	Now       func() time.Time // nil: time.Now
}

// Server is the authorization server. It is safe for concurrent use.
type Server struct {
	opts   Options
	site   site
	keys   *keyring
	store  store.Store
	signin SignIn
	log    *slog.Logger
	now    func() time.Time

	redirects redirectPolicy
	admission admission
	fixed     map[string]*client // by id, of the configuration

	fetch      *fetcher
	clientDocs *fetchCache[*client]
	keySets    *fetchCache[[]jose.JSONWebKey]

	limits  limits
	flights *flights // the flight recorder
	grants  *grantCache
	cancel  func() // ends the subscription to revocations

	offering sync.Mutex            // one AddScope at a time
	offer    atomic.Pointer[offer] // what clients can ask for
}

// New returns a Server. It reports every fault of the options at once and does
// not touch the network.
func New(o Options) (*Server, error) {
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }

	if o.ResourcePath == "" {
		o.ResourcePath = "/mcp"
	}
	site, err := newSite(o.PublicURL, o.ResourcePath, o.MorePaths...)
	if err != nil {
		faults = append(faults, err)
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	list := make([]string, len(o.Keys))
	for i, k := range o.Keys {
		list[i] = k.Reveal()
	}
	keys, warnings, err := ParseKeys(secret.String(strings.Join(list, ",")), site.loopback)
	if err != nil {
		faults = append(faults, err)
	}
	for _, w := range warnings {
		o.Logger.Warn(w)
	}
	if o.Store == nil {
		fault("no store given")
	}
	if o.Admit != nil && o.Directory == nil {
		fault("nobody can be admitted without a directory")
	}
	if o.SignIn == nil && o.External == nil {
		fault("no sign-in provider given")
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.ServerName == "" {
		o.ServerName = "mcp-clerk"
	}
	defaultDuration(&o.AccessTokenTTL, time.Hour)
	defaultDuration(&o.RefreshGrace, 30*time.Minute)
	defaultDuration(&o.RefreshIdle, 30*24*time.Hour)
	defaultDuration(&o.RefreshAbsolute, 180*24*time.Hour)
	if o.AccessTokenTTL < 0 || o.AccessTokenTTL > maxAccessTTL {
		fault("life of an access token %v is not between 0 and %v", o.AccessTokenTTL, maxAccessTTL)
	}
	if o.RefreshIdle < 0 || o.RefreshAbsolute < 0 {
		fault("lives of a refresh token %v and %v may not be negative", o.RefreshIdle, o.RefreshAbsolute)
	}
	scopes := []Scope{{ScopeTools, "See and use the tools that your account may use, in your name"}}
	if o.External != nil {
		scopes = nil
		for _, name := range o.External.Scopes {
			if !validScope(name) {
				fault("scope %q is no scope-token", name)
			}
			scopes = append(scopes, Scope{Name: name})
		}
	}
	for _, sc := range o.Scopes {
		if err := sc.check(); err != nil {
			faults = append(faults, err)
			continue
		}
		scopes = append(scopes, sc)
	}
	s := &Server{
		opts: o, site: site, store: o.Store, signin: o.SignIn, log: o.Logger, now: o.Now,
		limits: newLimits(), flights: &flights{now: o.Now}, cancel: func() {},
	}
	if err := s.setClients(o); err != nil {
		faults = append(faults, err)
	}
	if len(faults) > 0 {
		return nil, errors.Join(faults...)
	}

	ring, err := newKeyring(keys)
	if err != nil {
		return nil, err
	}
	s.keys = ring
	s.clientDocs, s.keySets = newFetchCache[*client](o.Now), newFetchCache[[]jose.JSONWebKey](o.Now)
	s.offer.Store(s.newOffer(scopes))
	s.grants = newGrantCache(s.loadGrantState, o.Now)
	cancel, err := o.Store.Subscribe(topicGrant, func(key []byte) { s.grants.forget(string(key)) })
	if err != nil {
		return nil, fmt.Errorf("subscribe to revocations: %w", err)
	}
	s.cancel = cancel
	return s, nil
}

// setClients takes over what the options say about clients.
func (s *Server) setClients(o Options) error {
	s.fetch = newFetcher(o.LoopbackDocuments)
	var redirectErr, admissionErr, fixedErr, tokenErr error
	s.redirects, redirectErr = newRedirectPolicy(o.PrivateRedirects)
	s.admission, admissionErr = newAdmission(o.Admission, o.AdmittedHosts)
	s.fixed, fixedErr = s.fixedClients(o.Clients)
	if n := len(o.RegistrationToken); n > 0 && n < 32 {
		tokenErr = errors.New("the registration token has fewer than 32 characters")
	}
	return errors.Join(redirectErr, admissionErr, fixedErr, tokenErr)
}

// ValidateClients reports every fault of what o says about clients, as New
// would, and looks at nothing else.
func ValidateClients(o Options) error {
	s := &Server{}
	if site, err := newSite(o.PublicURL, "/mcp"); err == nil {
		s.site = site
	}
	return s.setClients(o)
}

func defaultDuration(d *time.Duration, value time.Duration) {
	if *d == 0 {
		*d = value
	}
}

// Close ends the subscription to the store, which stays open.
func (s *Server) Close() error {
	s.cancel()
	return nil
}

// Register adds the routes of the server to mux. With a path prefix in the
// public URL the endpoints answer below it and at the root: some clients and
// some proxies leave the prefix out.
func (s *Server) Register(mux *http.ServeMux) {
	for path := range s.offer.Load().documents {
		mux.Handle(path, s.public("GET, HEAD", s.recordDocument(s.document(path))))
	}
	if s.opts.External != nil {
		return
	}
	prefixes := []string{s.site.prefix}
	if s.site.prefix != "" {
		prefixes = append(prefixes, "")
	}
	for _, p := range prefixes {
		mux.Handle(p+"/jwks.json", s.public("GET, HEAD", s.jwks))
		if s.admission.policy != AdmitConfigured {
			mux.Handle(p+"/register", s.public("POST", s.recordRegistration(s.register)))
		}
		if !s.opts.NoDevice {
			mux.Handle(p+"/device_authorization", s.public("POST", s.deviceAuthorization))
			mux.Handle(p+"/device", s.page("GET, POST", s.devicePage))
		}
		mux.Handle(p+"/token", s.public("POST", s.token))
		mux.Handle(p+"/revoke", s.public("POST", s.revoke))
		mux.Handle(p+"/introspect", s.public("POST", s.introspect))
		mux.Handle(p+"/authorize", s.page("GET, POST", s.authorize))
		mux.Handle(p+"/consent", s.page("GET, POST", s.consent))
		mux.Handle(p+appsPath, s.page("GET, POST", s.apps(appsPath)))
		mux.Handle(p+allAppsPath, s.page("GET, POST", s.apps(allAppsPath)))
		mux.Handle(p+"/callback", s.page("GET", s.callback))
	}
}

// audit records e. No field of an Event may hold a secret.
func (s *Server) audit(ctx context.Context, e Event) {
	s.log.LogAttrs(ctx, slog.LevelInfo, "audit",
		slog.String("event", e.Name), slog.String("client", e.ClientID),
		slog.String("subject", e.Subject), slog.String("grant", e.Grant), slog.String("reason", e.Reason))
	if s.opts.Observe != nil {
		s.opts.Observe(ctx, e)
	}
}
