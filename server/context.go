package server

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"time"

	"github.com/mark3labs/mcp-go/mcp"

	"github.com/mcp-clerk/mcp-clerk/internal/identity"
	"github.com/mcp-clerk/mcp-clerk/internal/mcphttp"
)

// Caller is what the access token of a request says about its bearer.
type Caller = identity.Principal

// User is a person as Clerk describes them.
type User = identity.User

// Membership is a user's place in an organization.
type Membership = identity.Membership

var (
	// ErrUnavailable reports that Clerk or the store could not be asked.
	ErrUnavailable = identity.ErrUnavailable
	// ErrNoUser reports a user that Clerk does not know any more.
	ErrNoUser = identity.ErrNoUser
)

var errNoRequest = errors.New("not in the context of a request to this server")

// Principal returns who calls, from the context of a ToolHandler, or nil
// elsewhere. It says nothing about roles: those are only true when they are
// read, by CurrentUser.
func Principal(ctx context.Context) *Caller { return identity.FromContext(ctx) }

// CurrentUser returns the caller of a ToolHandler as Clerk knows them, at most
// 60 seconds old. The error wraps ErrUnavailable when Clerk cannot be asked
// and ErrNoUser when the user is gone.
func CurrentUser(ctx context.Context) (*User, error) {
	x := exchangeFrom(ctx)
	if x == nil {
		return nil, errNoRequest
	}
	user, err := x.user(ctx)
	if err != nil {
		return nil, err
	}
	return user.Clone(), nil // the original is everybody's
}

// Progress tells the client how far a call is, if the client asked for that:
// done must grow from call to call, total is 0 when it is not known, message
// may be empty. It returns when the notification is written, so a client that
// reads slowly slows the tool down; an error may be ignored.
func Progress(ctx context.Context, done, total float64, message string) error {
	x := exchangeFrom(ctx)
	if x == nil {
		return errNoRequest
	}
	return x.progress(ctx, done, total, message)
}

// Log sends a log message to the client, if its level is not below what the
// client asked for; logger may be empty, data is anything that is JSON. It is
// for what the user of the client should know, not for the server's own log. An
// error may be ignored.
func Log(ctx context.Context, level mcp.LoggingLevel, logger string, data any) error {
	x := exchangeFrom(ctx)
	if x == nil {
		return errNoRequest
	}
	return x.notify(ctx, "notifications/message", struct {
		Level  mcp.LoggingLevel `json:"level"`
		Logger string           `json:"logger,omitempty"`
		Data   any              `json:"data"`
	}{level, logger, data})
}

// CloseStream ends the connection of a call that will take long, but not the
// call: the client is asked to come back for the rest after retry (MCP
// 2025-11-25, basic/transports). For clients that could not it does nothing.
func CloseStream(ctx context.Context, retry time.Duration) {
	if x := exchangeFrom(ctx); x != nil {
		x.call.Disconnect(retry)
	}
}

// ClientCan reports whether the client declared a capability ("sampling",
// "roots", "elicitation"; with a second name a part of it, as in "elicitation",
// "url"): what a handler asks of a client that did not would fail.
func ClientCan(ctx context.Context, capability ...string) bool {
	x := exchangeFrom(ctx)
	if x == nil || len(capability) == 0 {
		return false
	}
	if x.call.Modern {
		var declared map[string]any
		return json.Unmarshal(x.call.ClientCapabilities, &declared) == nil && declares(declared, capability)
	}
	bit, known := legacyCapabilities[strings.Join(capability, ".")]
	return known && x.call.Session.Can(bit)
}

var legacyCapabilities = map[string]mcphttp.Capability{
	"roots": mcphttp.CapRoots, "sampling": mcphttp.CapSampling, "sampling.tools": mcphttp.CapSamplingTools,
	"elicitation": mcphttp.CapElicitation, "elicitation.form": mcphttp.CapElicitation, "elicitation.url": mcphttp.CapElicitationURL,
}

// ParamsError is returned by a handler that refuses a request for what is in
// it, such as state that is not its own; the client is told the message, with
// the code -32602.
type ParamsError struct{ Message string }

func (e *ParamsError) Error() string { return e.Message }
