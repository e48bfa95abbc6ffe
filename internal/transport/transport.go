// Package transport owns raw MCP connections: the newline-delimited framing of
// stdio, the client leg of Streamable HTTP, for the revisions with sessions (up
// to 2025-11-25) and for the stateless one (2026-07-28), and that of HTTP+SSE
// (2024-11-05). It reads envelopes and leaves bodies alone.
//
// It may import jsonrpc and nothing else of ours. Its one invariant: a message
// that may have reached the server is not sent a second time, unless the
// server's refusal shows that it was not executed (401, 403 with a bearer
// challenge, 404 for the session, 429, and 503 for everything but a tool call).
package transport

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/mcp-clerk/mcp-clerk/internal/jsonrpc"
)

// DefaultMaxMessage is the largest message accepted in either direction when
// the options name no other limit, in bytes. With a Spool no more than 4 MiB of
// one is in memory.
const DefaultMaxMessage = 256 << 20

// relayLimits is how deep a message may nest that only passes through.
var relayLimits = jsonrpc.Limits{MaxDepth: 1000}

// Authorizer supplies bearer tokens. The signatures use standard types only, so
// that a client of OAuth satisfies it without knowing this package.
type Authorizer interface {
	// Token returns the access token to send, or "" when none is known: the
	// request then goes out without one.
	Token(ctx context.Context) (string, error)
	// Authorize is asked after a request made with the token refused was
	// answered by 401, or by 403 with a bearer challenge; header is that
	// answer's. It returns nil when Token may now give another answer.
	Authorize(ctx context.Context, refused string, status int, header http.Header) error
}

// Call is one message on its way to the server.
type Call struct {
	// Message is sent as it is, byte for byte.
	Message *jsonrpc.Message
	// Header is added to the HTTP request (Mcp-Param-* of revision 2026-07-28).
	Header http.Header
	// Deliver receives what the server sends back on the call's own stream, in
	// order, the response last. An error from it ends the call. Nil drops all.
	Deliver func(*jsonrpc.Message) error
	// Refused receives, in place of Deliver, the JSON-RPC error that came with a
	// status other than success: what the status says of the server's era is
	// lost behind Deliver. Nil leaves it to Deliver.
	Refused func(status int, m *jsonrpc.Message) error
	// Started is called once the message may have begun to reach the server,
	// possibly more than once. Nil is allowed.
	Started func()
	// Authorizing is called with true when the call begins to wait for the
	// Authorizer, and with false when that wait is over. Nil is allowed.
	Authorizing func(waiting bool)
	// Quiet calls are not worth a sign-in: the Authorizer is not asked about a
	// refusal, which comes back as a *StatusError.
	Quiet bool
}

func (c *Call) deliver(m *jsonrpc.Message) error {
	if c.Deliver == nil {
		return nil
	}
	return c.Deliver(m)
}

// asks is what to tell of the waits for the Authorizer; nil: it is not asked.
func (c *Call) asks() func(waiting bool) {
	switch {
	case c.Quiet:
		return nil
	case c.Authorizing == nil:
		return func(bool) {}
	}
	return c.Authorizing
}

func (c *Call) started() {
	if c.Started != nil {
		c.Started()
	}
}

// IsModern reports whether m carries its protocol version itself, as every
// request of revision 2026-07-28 and later does (basic/index, "_meta").
func IsModern(m *jsonrpc.Message) bool {
	_, ok := modernVersion(m)
	return ok
}

func modernVersion(m *jsonrpc.Message) (string, bool) {
	if m.Method == "" || m.Params == nil {
		return "", false
	}
	return jsonrpc.LookupString(m.Params, "_meta", "io.modelcontextprotocol/protocolVersion")
}

// ErrSlow says that a server was given the time that it may take. It is found in
// an *UnreachableError.
var ErrSlow = errors.New("it does not answer")

// patience gives what is done for many calls at once an end of its own: ctx
// ends after limit, to which the waits for the Authorizer do not count, with
// ErrSlow as its cause. settled says that it need not end so any more.
func patience(ctx context.Context, limit time.Duration, asks func(bool)) (_ context.Context, asking func(bool), settled func() bool, cancel context.CancelFunc) {
	ctx, end := context.WithCancelCause(ctx)
	t := time.AfterFunc(limit, func() { end(ErrSlow) })
	if asks != nil {
		asking = func(waiting bool) {
			if waiting {
				t.Stop()
			} else {
				t.Reset(limit)
			}
			asks(waiting)
		}
	}
	return ctx, asking, t.Stop, func() { t.Stop(); end(nil) }
}
