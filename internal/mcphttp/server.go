package mcphttp

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/mcp-clerk/mcp-clerk/internal/identity"
	"github.com/mcp-clerk/mcp-clerk/internal/jsonrpc"
)

// Server is the MCP endpoint. It is an http.Handler for exactly one URL; the
// caller mounts it, no path is looked at here. The deprecated transport beside
// it has handlers of its own, see SSE.
type Server struct {
	o         Options
	log       *slog.Logger
	now       func() time.Time
	codec     *sessionCodec
	records   *sessionRecords
	callers   *callers
	secrets   secretWarner
	listeners listeners
	replays   *replays
	sse       sseConns
	users     limiter[string]
	addresses limiter[netip.Prefix]
	workers   workers
	unhook    func()        // ends the mailbox subscription
	quit      chan struct{} // closed when a shutdown begins

	mu        sync.Mutex
	closing   bool
	cut       bool          // a shutdown is out of time
	active    int           // requests inside ServeHTTP
	idle      chan struct{} // closed when closing and none is active
	exchanges map[*exchange]struct{}
	byKey     map[callKey]*exchange
	pending   map[callKey]chan *jsonrpc.Message
}

// retryAfter is what a client is told to wait, in seconds, after a 503.
const retryAfter = "2"

// New returns a Server, or everything that is wrong with o.
func New(o Options) (*Server, error) {
	var faults []error
	if o.Handler == nil {
		faults = append(faults, errors.New("mcphttp: no Handler"))
	}
	if o.Verifier == nil {
		faults = append(faults, errors.New("mcphttp: no Verifier"))
	}
	if o.Challenge == nil {
		faults = append(faults, errors.New("mcphttp: no Challenge"))
	}
	codec, err := newSessionCodec(o.Keys)
	if err != nil {
		faults = append(faults, fmt.Errorf("mcphttp: %w", err))
	}
	callers, err := newCallers(o.PublicURL, o.AllowedOrigins, o.AllowedHosts)
	if err != nil {
		faults = append(faults, fmt.Errorf("mcphttp: %w", err))
	}
	if err := errors.Join(faults...); err != nil {
		return nil, err
	}
	o.setDefaults()
	s := &Server{
		o: o, log: o.Logger, now: o.Now, codec: codec, callers: callers,
		records:   newSessionRecords(o.Sessions, o.Now),
		quit:      make(chan struct{}),
		idle:      make(chan struct{}),
		exchanges: map[*exchange]struct{}{},
		byKey:     map[callKey]*exchange{},
		pending:   map[callKey]chan *jsonrpc.Message{},
		unhook:    func() {},
	}
	s.workers = workers{jobs: make(chan func()), quit: s.quit}
	s.listeners.init()
	s.sse.open = map[string]*sseConn{}
	s.replays = newReplays(o.DetachedTimeout)
	s.secrets.warn = func(name string) {
		s.log.Warn("a client sends a header that looks like a secret of the server; it is ignored, and should be removed from that client's configuration", "header", name)
	}
	if o.Mailbox != nil {
		cancel, err := o.Mailbox.Subscribe(mailTopic, s.mail)
		if err != nil {
			return nil, fmt.Errorf("mcphttp: subscribe to the mailbox: %w", err)
		}
		s.unhook = sync.OnceFunc(cancel)
	}
	return s, nil
}

func (o *Options) setDefaults() {
	setDefault(&o.MaxBody, 4<<20)
	setDefault(&o.MaxResult, 64<<20)
	setDefault(&o.SessionTTL, 7*24*time.Hour)
	setDefault(&o.KeepAlive, 15*time.Second)
	setDefault(&o.ReadTimeout, 30*time.Second)
	setDefault(&o.WriteTimeout, time.Minute)
	setDefault(&o.DetachedTimeout, 2*time.Minute)
	if o.UserRate == (Rate{}) {
		o.UserRate = defaultUserRate
	}
	if o.AddressRate == (Rate{}) {
		o.AddressRate = defaultAddressRate
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Sessions == nil {
		o.Sessions = newLocalSessions(o.Now)
	}
}

func setDefault[T int | int64 | time.Duration](v *T, d T) {
	if *v <= 0 {
		*v = d
	}
}

// ServeHTTP implements http.Handler. The checks go from cheap to costly, and
// nothing of a request is believed before its origin and its token were.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.guard(w, r, corsMethods, func(w http.ResponseWriter, r *http.Request, p *identity.Principal) {
		switch r.Method {
		case http.MethodPost:
			s.post(w, r, p)
		case http.MethodGet:
			s.get(w, of(r, p), p)
		case http.MethodDelete:
			s.delete(w, of(r, p), p)
		}
	})
}

// guard hands a request to serve if its method is one of methods and it passes
// all that is checked for every endpoint.
func (s *Server) guard(w http.ResponseWriter, r *http.Request, methods string, serve func(http.ResponseWriter, *http.Request, *identity.Principal)) {
	s.limitClient(w, r)
	if !s.callers.allowsHost(r) {
		refuse(w, http.StatusForbidden, nil, jsonrpc.CodeInvalidRequest, "this server is not known under the name in the Host header")
		return
	}
	if origins := r.Header["Origin"]; origins != nil {
		// Any answer depends on it, refusals too (Fetch standard, CORS protocol).
		w.Header().Add("Vary", "Origin")
		if len(origins) != 1 || !s.callers.allowsOrigin(origins[0]) {
			refuse(w, http.StatusForbidden, nil, jsonrpc.CodeInvalidRequest, "origin not allowed")
			return
		}
		setCORS(w.Header(), origins[0])
	}
	if !lists(methods, r.Method) {
		w.Header().Set("Allow", methods)
		refuse(w, http.StatusMethodNotAllowed, nil, jsonrpc.CodeInvalidRequest, "method not allowed")
		return
	}
	if r.Method == http.MethodOptions {
		preflight(w, r, methods)
		return
	}
	if !s.enter() {
		w.Header().Set("Retry-After", retryAfter)
		w.Header().Set("Connection", "close")
		refuse(w, http.StatusServiceUnavailable, nil, jsonrpc.CodeInternal, "server is shutting down")
		return
	}
	defer s.leave()
	s.secrets.look(r.Header)
	p, ok := s.authenticate(w, r)
	if !ok {
		return
	}
	serve(w, r, p)
}

// of returns r with its principal, who may be nil, in its context.
func of(r *http.Request, p *identity.Principal) *http.Request {
	if p == nil {
		return r
	}
	return r.WithContext(contextOf(r.Context(), p))
}

// contextOf returns ctx with the principal, who may be nil: a call does without
// a copy of its request.
func contextOf(ctx context.Context, p *identity.Principal) context.Context {
	if p == nil {
		return ctx
	}
	return identity.NewContext(ctx, p)
}

// ConnContext is for http.Server: a client that stays on its connection is
// spared that its session is opened anew with each request.
func (s *Server) ConnContext(ctx context.Context, _ net.Conn) context.Context {
	return context.WithValue(ctx, lastKey{}, &last{})
}

type lastKey struct{}

// last is the session of a connection's last request.
type last struct {
	mu      sync.Mutex
	value   string // of the header
	session *Session
}

// lists reports whether name is in a list as headers have it.
func lists(list, name string) bool {
	for item := range strings.SplitSeq(list, ", ") {
		if item == name {
			return true
		}
	}
	return false
}

// refuse answers a request that gets no further. id is nil where it is not
// known (JSON-RPC 2.0 section 5).
func refuse(w http.ResponseWriter, status int, id []byte, code int, message string) {
	writeJSON(w, status, jsonrpc.NewError(id, code, message, nil))
}

// maxToken bounds what is handed to the Verifier.
const maxToken = 16 << 10

// authenticate returns the principal of the request's bearer token (RFC 6750
// section 2.1, the only one of its three ways that MCP allows), or answers the
// request and returns false. A nil principal with true is an anonymous caller.
func (s *Server) authenticate(w http.ResponseWriter, r *http.Request) (*identity.Principal, bool) {
	challenge := func(status int, code, message string) (*identity.Principal, bool) {
		if !s.allowAddress(w, r, 1) {
			return nil, false
		}
		w.Header().Set("WWW-Authenticate", s.o.Challenge(r, code, nil))
		refuse(w, status, nil, jsonrpc.CodeInvalidRequest, message)
		return nil, false
	}
	if strings.Contains(r.URL.RawQuery, "access_token") && r.URL.Query().Has("access_token") {
		return challenge(http.StatusBadRequest, "invalid_request", "a token in the URL is not accepted")
	}
	values := r.Header["Authorization"]
	switch len(values) {
	case 0:
		if s.o.Anonymous {
			return nil, s.allowAddress(w, r, 1)
		}
		return challenge(http.StatusUnauthorized, "", "sign in first")
	case 1:
	default: // RFC 6750 section 3.1, invalid_request
		return challenge(http.StatusBadRequest, "invalid_request", "more than one Authorization header")
	}
	scheme, token, _ := strings.Cut(values[0], " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return challenge(http.StatusUnauthorized, "", "a bearer token is needed")
	}
	token = strings.Trim(token, " ")
	if !isBearer(token) {
		return challenge(http.StatusUnauthorized, "invalid_token", "malformed token")
	}
	p, err := s.o.Verifier.Verify(r.Context(), token)
	switch {
	case err == nil && p != nil:
		return p, s.allowUser(w, p, 1)
	case errors.Is(err, identity.ErrForbidden):
		// No challenge: a client that followed it would come back with the same.
		if s.allowAddress(w, r, 1) {
			refuse(w, http.StatusForbidden, nil, jsonrpc.CodeInvalidRequest, "this account may not use this server")
		}
		return nil, false
	case err == nil || errors.Is(err, identity.ErrInvalidToken):
		return challenge(http.StatusUnauthorized, "invalid_token", "the token is not valid")
	}
	if r.Context().Err() == nil {
		s.log.Warn("token not checked", "error", err)
	}
	w.Header().Set("Retry-After", retryAfter)
	refuse(w, http.StatusServiceUnavailable, nil, jsonrpc.CodeInternal, "temporarily unavailable")
	return nil, false
}

// isBearer reports whether token is a b64token of RFC 6750 section 2.1.
func isBearer(token string) bool {
	body := strings.TrimRight(token, "=")
	if body == "" || len(token) > maxToken {
		return false
	}
	for i := range len(body) {
		if !tokenByte[body[i]] {
			return false
		}
	}
	return true
}

var tokenByte = func() (is [256]bool) {
	for _, c := range "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~+/" {
		is[c] = true
	}
	return is
}()

func (s *Server) enter() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		return false
	}
	s.active++
	return true
}

// stay counts one more as inside, for work that outlives its request.
func (s *Server) stay() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.active++
}

func (s *Server) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.active--
	if s.closing && s.active == 0 {
		close(s.idle)
	}
}

// Shutdown refuses new requests with 503, ends the listening streams (telling
// modern ones so) and waits until the calls in flight are answered. When ctx
// ends first, the calls left are cancelled and ctx's error is returned.
func (s *Server) Shutdown(ctx context.Context) error {
	s.mu.Lock()
	if !s.closing {
		s.closing = true
		close(s.quit)
		if s.active == 0 {
			close(s.idle)
		}
	}
	s.mu.Unlock()
	defer s.unhook()
	select {
	case <-s.idle:
		return nil
	case <-ctx.Done():
	}
	s.mu.Lock()
	s.cut = true
	for x := range s.exchanges {
		x.end(errShutdown)
	}
	s.mu.Unlock()
	return ctx.Err()
}
