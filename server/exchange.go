package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"sync"
	"sync/atomic"

	"github.com/mark3labs/mcp-go/mcp"
	mcpserver "github.com/mark3labs/mcp-go/server"

	"github.com/mcp-clerk/mcp-clerk/internal/identity"
	"github.com/mcp-clerk/mcp-clerk/internal/mcphttp"
)

// exchange is one message on its way through the engine. To the engine it is
// a client session of its own, so that nothing of one request can reach
// another; what it sends goes to the stream of its request.
type exchange struct {
	ctx    context.Context // of the request
	call   *mcphttp.Call
	server *Server
	id     uint64
	tool   *registered // that a tools/call names; nil for an unknown one
	called *outcome    // of that tool, for the engine, which takes it once

	rolesUnknown atomic.Bool // a list was made without them

	tokenOnce sync.Once
	token     json.RawMessage

	mu       sync.Mutex
	caller   caller         // what the first lookup of them gave
	outbox   *outbox        // of the engine's notifications; nil until there is one
	over     bool           // the answer is on its way: nothing may follow
	refused  error          // why the caller may not have what the handler would give
	notFound bool           // the handler says that there is no such resource
	missing  map[string]any // client capabilities that the tool would need; nil: none
}

var exchanges atomic.Uint64

func (s *Server) newExchange(ctx context.Context, call *mcphttp.Call) *exchange {
	return &exchange{ctx: ctx, call: call, server: s, id: exchanges.Add(1)}
}

type caller struct {
	asked bool
	user  *identity.User
	err   error
}

type exchangeKey struct{}

// exchangeContext is the context of an exchange. Behind what the request brings
// are the values that the engine has for every handler.
type exchangeContext struct {
	context.Context
	x *exchange
}

func (c exchangeContext) Value(key any) any {
	if key == (exchangeKey{}) {
		return c.x
	}
	if v := c.Context.Value(key); v != nil {
		return v
	}
	return c.x.server.engineContext.Value(key)
}

func exchangeFrom(ctx context.Context) *exchange {
	x, _ := ctx.Value(exchangeKey{}).(*exchange)
	return x
}

// user is the caller. They are asked for once in an exchange, so that all of
// it rests on one answer.
func (x *exchange) user(ctx context.Context) (*identity.User, error) {
	x.mu.Lock()
	found := x.caller
	x.mu.Unlock()
	if found.asked {
		return found.user, found.err
	}
	user, err := x.server.current(ctx)
	if ctx.Err() == nil { // else the answer is only this caller's impatience
		x.remember(user, err)
	}
	return user, err
}

// refuse makes err the answer, whatever the engine makes of it.
func (x *exchange) refuse(err error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.refused = err
}

func (x *exchange) remember(user *identity.User, err error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.caller = caller{true, user, err}
}

// The engine's view: mcpserver.ClientSession and its extensions.
var (
	_ mcpserver.ClientSession              = (*exchange)(nil)
	_ mcpserver.SessionWithLogging         = (*exchange)(nil)
	_ mcpserver.SessionWithProtocolVersion = (*exchange)(nil)
	_ mcpserver.SessionWithElicitation     = (*exchange)(nil)
	_ mcpserver.SessionWithSampling        = (*exchange)(nil)
	_ mcpserver.SessionWithRoots           = (*exchange)(nil)
)

// SessionID is unique to the request: the engine keys cancellations by it, and
// the ids of requests repeat from client to client.
func (x *exchange) SessionID() string { return strconv.FormatUint(x.id, 36) }

func (x *exchange) Initialize()             {}
func (x *exchange) Initialized() bool       { return true }
func (x *exchange) ProtocolVersion() string { return x.call.Version }

// SetLogLevel does nothing: the HTTP layer keeps the level of a session.
func (x *exchange) SetLogLevel(mcp.LoggingLevel) {}

func (x *exchange) GetLogLevel() mcp.LoggingLevel {
	if x.call.LogLevel == "" {
		return mcp.LoggingLevelInfo
	}
	return mcp.LoggingLevel(x.call.LogLevel)
}

func (x *exchange) RequestElicitation(ctx context.Context, req mcp.ElicitationRequest) (*mcp.ElicitationResult, error) {
	return ask[mcp.ElicitationResult](ctx, x, mcp.MethodElicitationCreate, req.Params)
}

func (x *exchange) RequestSampling(ctx context.Context, req mcp.CreateMessageRequest) (*mcp.CreateMessageResult, error) {
	return ask[mcp.CreateMessageResult](ctx, x, mcp.MethodSamplingCreateMessage, req.CreateMessageParams)
}

func (x *exchange) ListRoots(ctx context.Context, _ mcp.ListRootsRequest) (*mcp.ListRootsResult, error) {
	return ask[mcp.ListRootsResult](ctx, x, mcp.MethodListRoots, nil)
}

// ask sends a request to the client and decodes its answer.
func ask[T any](ctx context.Context, x *exchange, method mcp.MCPMethod, params any) (*T, error) {
	raw, err := x.call.Request(ctx, string(method), params)
	if err != nil {
		return nil, err
	}
	result := new(T)
	if err := json.Unmarshal(raw, result); err != nil {
		return nil, fmt.Errorf("read the client's answer to %q: %w", method, err)
	}
	return result, nil
}

// outbox takes the engine's notifications to the client in their order.
type outbox struct {
	ch    chan mcp.JSONRPCNotification
	room  chan struct{}      // one element for each place taken in ch
	flush chan chan struct{} // asks for everything sent so far to be written
	stop  chan struct{}
	done  chan struct{}
}

const outboxSize = 64

// NotificationChannel is where the engine puts a notification, dropping it
// when the channel is full. So it is handed out only when there is a place in
// it, and a handler that is faster than its client waits here.
func (x *exchange) NotificationChannel() chan<- mcp.JSONRPCNotification {
	x.mu.Lock()
	o := x.outbox
	if o == nil && x.over {
		x.mu.Unlock()
		return make(chan mcp.JSONRPCNotification, 1) // a handler that was left to itself
	}
	if o == nil {
		o = &outbox{
			ch:    make(chan mcp.JSONRPCNotification, outboxSize),
			room:  make(chan struct{}, outboxSize),
			flush: make(chan chan struct{}),
			stop:  make(chan struct{}),
			done:  make(chan struct{}),
		}
		x.outbox = o
		go o.run(x)
	}
	x.mu.Unlock()
	select {
	case o.room <- struct{}{}:
	case <-x.ctx.Done():
	case <-o.stop:
	}
	return o.ch
}

func (o *outbox) run(x *exchange) {
	defer close(o.done)
	for {
		select {
		case n := <-o.ch:
			o.deliver(x, n)
		case flushed := <-o.flush:
			o.drain(x)
			close(flushed)
		case <-o.stop:
			o.drain(x)
			return
		}
	}
}

func (o *outbox) drain(x *exchange) {
	for {
		select {
		case n := <-o.ch:
			o.deliver(x, n)
		default:
			return
		}
	}
}

func (o *outbox) deliver(x *exchange, n mcp.JSONRPCNotification) {
	select {
	case <-o.room:
	default: // the place was taken after the request had ended
	}
	raw, err := encode(n)
	if err == nil {
		err = x.call.Notify(x.ctx, raw)
	}
	if err != nil && !errors.Is(err, mcphttp.ErrStreamClosed) && x.ctx.Err() == nil {
		x.server.log.WarnContext(x.ctx, "notification not sent", "method", n.Method, "error", err)
	}
}

// finish writes what the engine has sent so far and ends the outbox. The
// handler has returned, so nothing that belongs to the request comes later.
func (x *exchange) finish() {
	x.mu.Lock()
	o, again := x.outbox, x.over
	x.over = true
	x.mu.Unlock()
	if o != nil && !again {
		close(o.stop)
		<-o.done
	}
}

// notify sends a notification behind all that the engine sent before.
func (x *exchange) notify(ctx context.Context, method string, params any) error {
	x.mu.Lock()
	o := x.outbox
	x.mu.Unlock()
	if o != nil {
		flushed := make(chan struct{})
		select {
		case o.flush <- flushed:
			<-flushed
		case <-o.done:
			return mcphttp.ErrStreamClosed
		}
	}
	raw, err := newNotification(method, params)
	if err != nil {
		return err
	}
	return x.call.Notify(ctx, raw)
}

// progressToken is the token of the request, nil when it asks for no progress.
func (x *exchange) progressToken() json.RawMessage {
	x.tokenOnce.Do(func() {
		if token, ok := x.call.Param("_meta", "progressToken"); ok && string(token) != "null" {
			x.token = token
		}
	})
	return x.token
}

// progress sends one progress notification, if the request asked for them.
func (x *exchange) progress(ctx context.Context, done, total float64, message string) error {
	// The token goes back byte by byte: it may be a number that no float64
	// holds (MCP basic/patterns/progress).
	token := x.progressToken()
	if token == nil {
		return nil
	}
	if math.IsNaN(done) || math.IsInf(done, 0) || math.IsNaN(total) || math.IsInf(total, 0) {
		return fmt.Errorf("progress %v of %v is not finite", done, total)
	}
	params := struct {
		Token    json.RawMessage `json:"progressToken"`
		Progress float64         `json:"progress"`
		Total    float64         `json:"total,omitempty"`
		Message  string          `json:"message,omitempty"`
	}{token, done, total, message}
	return x.notify(ctx, "notifications/progress", params)
}
