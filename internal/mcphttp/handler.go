package mcphttp

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"strings"
	"time"

	"github.com/mcp-clerk/mcp-clerk/internal/identity"
	"github.com/mcp-clerk/mcp-clerk/internal/jsonrpc"
)

// Verifier checks bearer tokens.
type Verifier interface {
	// Verify returns the principal of token. Errors wrap
	// identity.ErrInvalidToken (answered with 401), identity.ErrForbidden (403)
	// or identity.ErrUnavailable (503).
	Verify(ctx context.Context, token string) (*identity.Principal, error)
}

// Handler answers one message: a request, or a notification whose response is
// ignored. It is called concurrently. The principal is in ctx
// (identity.FromContext); ctx ends when the client cancels the request, and a
// Handler that goes on for longer than a second after that is left to itself.
//
// The response is a JSON-RPC response, result or error. Its id may have any
// bytes that denote the request's id to the handler: the bytes of the request
// are put back. A nil response with a nil error to a request is an internal
// error.
//
// An error instead of a response is answered so:
//   - *jsonrpc.Error: that code and message
//   - *ScopeError: 403 with a bearer challenge (RFC 6750 section 3.1)
//   - wrapping identity.ErrInvalidToken: 401 with a bearer challenge
//   - wrapping identity.ErrUnavailable: 503 with Retry-After
//   - any other: an internal error (-32603), the cause only in the log
//
// Where the stream has begun, the HTTP status can't say it any more; the
// JSON-RPC error then comes as the last event.
type Handler interface {
	Handle(ctx context.Context, call *Call) (response []byte, err error)
}

// HandlerFunc makes a Handler of a function.
type HandlerFunc func(ctx context.Context, call *Call) ([]byte, error)

// Handle calls f.
func (f HandlerFunc) Handle(ctx context.Context, call *Call) ([]byte, error) { return f(ctx, call) }

// ScopeError is returned by a Handler when the token lacks scopes that the
// message needs.
type ScopeError struct {
	Scopes []string // what the token must carry, all of it
}

func (e *ScopeError) Error() string {
	return fmt.Sprintf("insufficient scope, %q needed", strings.Join(e.Scopes, " "))
}

var (
	// ErrStreamClosed is returned by Call.Notify when the client has gone:
	// nobody will read what was to be sent.
	ErrStreamClosed = errors.New("stream closed by the client")
	// ErrLate is the cause of a context that has ended because the time of
	// Call.Within was over.
	ErrLate = errors.New("out of time")
	// ErrNoRequests is returned by Call.Request when the client cannot be
	// asked: in the modern era (the result type input_required takes its
	// place) and in notifications.
	ErrNoRequests = errors.New("the client takes no requests from the server here")
	// ErrNoCapability is returned by Call.Request for a method the client did
	// not declare at initialize.
	ErrNoCapability = errors.New("the client did not declare the capability")
)

// Call is one message on its way through a Handler, with the means to talk to
// the client while it is worked on. It is valid until Handle returns.
type Call struct {
	// Message is the request or notification. Read only.
	Message *jsonrpc.Message
	// Version is the protocol revision that applies: the modern one from
	// _meta, or the one the session agreed on. For initialize it is the
	// version the client asks for.
	Version string
	// Modern is true for revision 2026-07-28 and later.
	Modern bool
	// Session is the legacy session; nil in the modern era. In initialize it
	// is the session that a successful answer will create.
	Session *Session
	// ClientInfo and ClientCapabilities are the client's own words: from
	// _meta in the modern era, from the params of initialize; nil elsewhere
	// (see Session for what is known then). Read only.
	ClientInfo, ClientCapabilities json.RawMessage
	// LogLevel is the least severe level of notifications/message that the
	// client wants for this call: from _meta (modern) or from the last
	// logging/setLevel (legacy). Empty means never asked: then a modern
	// client gets none, and for a legacy one the server chooses. Notify
	// drops what is below it.
	LogLevel string

	request *http.Request
	out     outlet
	sse     bool // over the deprecated transport
}

// Versions are the protocol revisions that this client may agree on, newest
// first.
func (c *Call) Versions() []string {
	if c.sse {
		return sseVersions
	}
	return SupportedVersions
}

// outlet is the call's way to its client. A nil outlet has none (the message
// is a notification).
type outlet interface {
	within(d time.Duration, late func(cause error) ([]byte, error)) (stop func())
	notify(ctx context.Context, c *Call, raw []byte) error
	request(ctx context.Context, c *Call, method string, params json.RawMessage) (json.RawMessage, error)
	disconnect(retry time.Duration)
}

// Within gives what follows the time d, until stop is called; then the call's
// context ends with ErrLate as its cause. late answers for a Handler that has
// not returned a second after its context ended, for that cause or another; it
// answers as the Handler would, while that may still be running. One bound at a
// time is kept: the last.
func (c *Call) Within(d time.Duration, late func(cause error) ([]byte, error)) (stop func()) {
	if c.out == nil {
		return func() {}
	}
	return c.out.within(d, late)
}

// Notify sends a notification (one JSON-RPC message, without id) to the client
// on the stream of this call. It returns when the message is written: a client
// that reads slowly slows the handler down. Messages of one goroutine arrive
// in their order, and none after the response. A notifications/message below
// LogLevel is dropped without an error.
//
// The error is ErrStreamClosed when the client has gone; a handler may ignore
// it and finish its work.
func (c *Call) Notify(ctx context.Context, raw []byte) error {
	if c.out == nil {
		return ErrStreamClosed
	}
	return c.out.notify(ctx, c, raw)
}

// Request asks the client (elicitation/create, sampling/createMessage,
// roots/list, ping) on the stream of this legacy call and waits for the
// answer, which the client POSTs to any instance. params is marshalled, nil
// leaves it out. The result comes as the client's bytes; a JSON-RPC error of
// the client comes as *ClientError. When ctx ends first the client is told
// (notifications/cancelled) and the error is ctx's.
func (c *Call) Request(ctx context.Context, method string, params any) (json.RawMessage, error) {
	if c.out == nil || c.Modern || c.Session == nil {
		return nil, ErrNoRequests
	}
	raw, err := encodeParams(params)
	if err != nil {
		return nil, fmt.Errorf("encode the params of %q: %w", method, err)
	}
	if !c.Session.Can(capabilityFor(method, raw)) {
		return nil, fmt.Errorf("send %q: %w", method, ErrNoCapability)
	}
	return c.out.request(ctx, c, method, raw)
}

// Disconnect ends the client's connection but not the call, and asks the client
// to come back for the rest after retry, so that a long call holds no
// connection (2025-11-25, basic/transports, Sending Messages, 6). Where the
// client could not come back (another revision, a stream shared with other
// calls) it does nothing.
func (c *Call) Disconnect(retry time.Duration) {
	if c.out != nil {
		c.out.disconnect(retry)
	}
}

// encodeParams marshals params; raw JSON passes as it is, also inside of them.
func encodeParams(params any) (json.RawMessage, error) {
	switch p := params.(type) {
	case nil:
		return nil, nil
	case json.RawMessage:
		return p, nil
	}
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(params); err != nil {
		return nil, err
	}
	return bytes.TrimSpace(buf.Bytes()), nil
}

// Param returns the member of the params that path names, level by level. What
// stands beside it has no say, so a decision can rest on it: the message was
// read strictly, and there is no second member that another reader would take.
func (c *Call) Param(path ...string) (json.RawMessage, bool) {
	return jsonrpc.Lookup(c.Message.Params, path...)
}

// ParamString is Param for a string; others count as absent.
func (c *Call) ParamString(path ...string) string {
	v, _ := jsonrpc.LookupString(c.Message.Params, path...)
	return v
}

// Params are the members of the params, in their order.
func (c *Call) Params() iter.Seq2[string, json.RawMessage] {
	return func(yield func(string, json.RawMessage) bool) {
		if c.Message.Params != nil {
			_ = jsonrpc.Members(c.Message.Params, yield) // they were read before
		}
	}
}

// Header returns those headers of the HTTP request that mean something to MCP:
// Mcp-*, the trace context and User-Agent. Credentials, cookies and whatever
// else a client may have put into its configuration do not get this far.
func (c *Call) Header() http.Header { return mcpHeaders(c.request) }

// ClientError is the error object by which a client answered a request of the
// server.
type ClientError struct {
	Code    int             `json:"code"`
	Message string          `json:"message"`
	Data    json.RawMessage `json:"data,omitempty"`
}

func (e *ClientError) Error() string {
	return fmt.Sprintf("client answered with error %d: %q", e.Code, e.Message)
}

// Capability is a set of client capabilities that a legacy session knows of.
type Capability uint16

// The client capabilities of the legacy revisions.
const (
	CapRoots Capability = 1 << iota
	CapRootsListChanged
	CapSampling
	CapSamplingTools
	CapElicitation     // form mode, which an empty elicitation object means too
	CapElicitationURL  // url mode (2025-11-25)
	CapTasks           // any
	CapSamplingContext // sampling.context
)

// Session is a legacy session. All of it is in the session id itself, sealed;
// the server holds nothing for a session that changes nothing.
type Session struct {
	ID            string // identifies the session in stores and logs; not the value of the header
	Subject       string // the user who opened it, and only its user
	Grant         string // the grant under which it was opened, and only that
	Version       string // the agreed revision
	Capabilities  Capability
	ClientName    string // clientInfo.name, cut at 64 bytes
	ClientVersion string // clientInfo.version, cut at 32 bytes
	Expires       time.Time
}

// Can reports whether the client declared all of capabilities.
func (s *Session) Can(capabilities Capability) bool {
	return s != nil && s.Capabilities&capabilities == capabilities
}

// SessionStore keeps the few bytes of a legacy session that changed anything
// (closed, log level, subscriptions). All instances share it.
type SessionStore interface {
	// Load returns the record of a session, nil when there is none.
	Load(ctx context.Context, id string) ([]byte, error)
	// Update creates or replaces the record atomically with what f makes of
	// the present one (nil when there is none). f may run more than once; its
	// error leaves the record as it was and is returned. The record may be
	// forgotten after expires.
	Update(ctx context.Context, id string, expires time.Time, f func(old []byte) ([]byte, error)) error
}

// Mailbox carries short messages to all instances of the server, best effort;
// an instance may or may not hear its own. store.Store is one. With it, the
// answer to a Call.Request and a cancellation work whichever instance they
// arrive at.
type Mailbox interface {
	Publish(ctx context.Context, topic string, message []byte) error
	Subscribe(topic string, f func(message []byte)) (cancel func(), err error)
}

// Filter says which changes a listening client wants to hear of.
type Filter struct {
	ToolsListChanged      bool     `json:"toolsListChanged,omitempty"`
	PromptsListChanged    bool     `json:"promptsListChanged,omitempty"`
	ResourcesListChanged  bool     `json:"resourcesListChanged,omitempty"`
	ResourceSubscriptions []string `json:"resourceSubscriptions,omitempty"` // URIs
}
