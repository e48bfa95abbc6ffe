// Package server is the serving half put together: an MCP server over
// Streamable HTTP that is protected by Clerk, with tools of one's own that are
// given out by the roles Clerk holds now.
//
//	srv, err := server.New(ctx, server.Options{…})
//	srv.AddTool(tool, handler, server.RequireRole("admin"))
//	err = srv.Run(ctx, "127.0.0.1:8788")
//
// New wires the rooms: the store, Clerk, the OAuth authorization server of the
// MCP clients, and the MCP endpoint. It imports identity, secret, store,
// clerk, authserver, mcphttp, tools and telemetry. Tools are declared in
// the types of github.com/mark3labs/mcp-go/mcp; the engine behind them,
// mcp-go/server, is not part of the interface.
//
// Its one invariant: a tool that needs a role is neither listed for nor run by
// anyone of whom Clerk does not say, at that time, that they have it.
package server

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	mcpserver "github.com/mark3labs/mcp-go/server"

	"github.com/mcp-clerk/mcp-clerk/internal/authserver"
	"github.com/mcp-clerk/mcp-clerk/internal/clerk"
	"github.com/mcp-clerk/mcp-clerk/internal/mcphttp"
	"github.com/mcp-clerk/mcp-clerk/internal/store"
	"github.com/mcp-clerk/mcp-clerk/internal/telemetry"
)

// Server is an MCP server. Make one with New; its methods may be used
// concurrently.
type Server struct {
	opts        Options
	log         *slog.Logger
	store       store.Store
	clerk       *clerk.Clerk
	auth        *authserver.Server
	checks      map[clerk.TokenKind]mcphttp.Verifier // of the tokens of Clerk's that are accepted
	endpoint    *mcphttp.Server
	endpointURL *url.URL
	engine      *mcpserver.MCPServer

	engineContext context.Context //nolint:containedctx // holds values of the engine, no request's
	engineOnly    atomic.Bool     // nothing is answered without the engine; for a test
	resultMeta    json.RawMessage // of a result in the stateless era that has no other _meta

	handler  http.Handler
	readable readiness
	draining atomic.Bool // a shutdown has begun

	watchEvery, shutdownTimeout, headerTimeout time.Duration // constants, but for tests

	webhooks   *clerk.Webhooks // nil: none are taken
	unhear     func()          // ends the subscription to other instances' news
	instance   string          // names this one to the others
	news       news            // from Clerk, for the watch
	watcher    watcher
	noStanding atomic.Int64 // until then (Unix nanoseconds) no tool without roles waits for Clerk

	closeOnce sync.Once
	closeErr  error

	toolsMu   sync.RWMutex
	tools     map[string]*registered
	prompts   map[string]*access  // by name
	resources map[string]*access  // by URI
	templates []*resourceTemplate // oldest first
	completer atomic.Pointer[Completer]
}

// New puts a server together. It opens the store, and touches no network unless
// that is a database. All
// faults of the options are reported at once, as Options.Validate does. The
// server must be closed.
func New(ctx context.Context, o Options) (_ *Server, err error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	o = o.withDefaults()
	s := &Server{
		opts: o, log: o.Logger, tools: map[string]*registered{}, prompts: map[string]*access{}, resources: map[string]*access{},
		instance:   rand.Text(),
		news:       news{wake: make(chan struct{}, 1)},
		watchEvery: watchEvery, shutdownTimeout: shutdownTimeout, headerTimeout: headerTimeout,
	}
	defer func() {
		if err != nil {
			_ = s.Close()
		}
	}()
	if s.store, err = openStore(ctx, o); err != nil {
		return nil, fmt.Errorf("open the store: %w", err)
	}
	frontend, err := o.Clerk.frontendAPI()
	if err != nil {
		return nil, err
	}
	instance := clerk.Options{
		FrontendAPI: frontend,
		APIURL:      o.Clerk.APIURL,
		SecretKey:   o.Clerk.SecretKey,
		MachineKey:  o.Clerk.MachineSecretKey,
		RoleKey:     o.Clerk.RoleKey,
		RoleRules:   o.Clerk.RoleRules,
		HTTPClient:  o.Clerk.HTTPClient,
		Logger:      o.Logger,
		Now:         o.Now,
	}
	if !o.byClerk() {
		instance.ClientID, instance.ClientSecret, instance.RedirectURL = o.Clerk.ClientID, o.Clerk.ClientSecret, o.PublicURL+"/callback"
	}
	if s.clerk, err = clerk.New(instance); err != nil {
		return nil, fmt.Errorf("set up Clerk: %w", err)
	}
	if o.Clerk.WebhookSecret != "" {
		if s.webhooks, err = clerk.NewWebhooks(o.Clerk.WebhookSecret, o.Now); err != nil {
			return nil, fmt.Errorf("set up Clerk's webhooks: %w", err)
		}
	}
	// Also where no webhooks come in: another instance may take them.
	if s.unhear, err = s.store.Subscribe(topicClerk, s.heard); err != nil {
		return nil, fmt.Errorf("subscribe to news of Clerk: %w", err)
	}
	keys, _, err := authserver.ParseKeys(o.Keys, isLoopback(hostname(o.PublicURL)))
	if err != nil {
		return nil, err
	}
	proxies, err := parseProxies(o.TrustedProxies)
	if err != nil {
		return nil, err
	}
	auth := o.Clients.authserver(o.PublicURL)
	auth.ResourcePath = o.ResourcePath
	if !o.NoSSE {
		auth.MorePaths = []string{ssePath}
	}
	if o.byClerk() {
		auth.External = &authserver.External{Issuer: s.clerk.Issuer(), Scopes: o.clerkScopes()}
	}
	auth.Keys = keys
	auth.Store = s.store
	auth.SignIn = s.clerk
	auth.Directory = s.clerk
	if !o.Allowed.everyone() {
		auth.Admit = o.Allowed.admits
	}
	auth.AccessTokenTTL = o.AccessTokenTTL
	auth.RefreshGrace = o.RefreshGrace
	auth.RefreshIdle = o.RefreshIdle
	auth.RefreshAbsolute = o.RefreshAbsolute
	auth.ServerName = o.Title
	auth.Logger = o.Logger
	auth.Changed = s.chosen
	auth.ClientAddr = proxies.clientAddr
	auth.RequestID = func(r *http.Request) string { return telemetry.RequestID(r.Context()) }
	auth.Now = o.Now
	if s.auth, err = authserver.New(auth); err != nil {
		return nil, fmt.Errorf("set up the authorization server: %w", err)
	}
	if s.endpointURL, err = url.Parse(s.URL()); err != nil {
		return nil, fmt.Errorf("read the public URL: %w", err)
	}
	s.checks = s.tokenChecks()
	if err := s.newEngine(); err != nil {
		return nil, err
	}
	sealing := make([][]byte, len(keys))
	for i, key := range keys {
		if sealing[i], err = hex.DecodeString(key.Reveal()); err != nil {
			return nil, errors.New("decode the encryption key") // its text stays out of the error
		}
	}
	if s.endpoint, err = mcphttp.New(mcphttp.Options{
		Handler:  mcphttp.HandlerFunc(s.handle),
		Verifier: verifier{s},
		Challenge: func(r *http.Request, code string, scopes []string) string {
			return s.challenge(r, code, scopes)
		},
		Anonymous:      o.Public,
		Listen:         s.listen,
		Hears:          s.hears,
		Quick:          s.isQuick,
		Keys:           sealing,
		Sessions:       sessionStore{s.store},
		Mailbox:        s.store,
		PublicURL:      s.URL(),
		AllowedOrigins: o.AllowedOrigins,
		MaxBody:        o.MaxBody,
		ClientAddr:     proxies.clientAddr,
		UserRate:       o.userRate(),
		Logger:         o.Logger,
		Now:            o.Now,
	}); err != nil {
		return nil, fmt.Errorf("set up the MCP endpoint: %w", err)
	}
	s.handler = s.routes()
	return s, nil
}

// URL is the URL of the MCP endpoint, which clients are given.
func (s *Server) URL() string { return s.opts.PublicURL + s.opts.ResourcePath }

// PublicURL is where the server says it is: its OAuth issuer, without a slash
// at the end.
func (s *Server) PublicURL() string { return s.opts.PublicURL }

// Close releases what New opened. Serve must have returned, and nobody may
// still be served by Handler.
func (s *Server) Close() error {
	s.closeOnce.Do(func() {
		var errs []error
		s.stopWatch()
		if s.unhear != nil {
			s.unhear()
		}
		if s.auth != nil {
			errs = append(errs, s.auth.Close())
		}
		if s.clerk != nil {
			errs = append(errs, s.clerk.Close())
		}
		if s.store != nil {
			errs = append(errs, s.store.Close())
		}
		s.closeErr = errors.Join(errs...)
	})
	return s.closeErr
}

// hostname is the host of a URL that Validate has accepted.
func hostname(rawURL string) string {
	_, rest, _ := strings.Cut(rawURL, "://")
	rest, _, _ = strings.Cut(rest, "/")
	if host, ok := strings.CutPrefix(rest, "["); ok {
		host, _, _ = strings.Cut(host, "]")
		return host
	}
	host, _, _ := strings.Cut(rest, ":")
	return host
}
