// Package tools holds the tools every server offers: add, userInfo and
// generateImage, one file each. A tool is a function that returns its
// definition (name, schemas, annotations) and its handler; who may call it is
// decided by the room that registers it.
//
// It imports identity, secret and jsonrpc, with which it reads arguments, and of
// mcp-go only the message types.
//
// Its one invariant: what a caller got wrong, or what could not be done, is a
// tool result with isError set and a text that says what to change, never a
// protocol error; and a result that carries structured content carries the
// same content as text (MCP 2026-07-28, server/tools, "Structured Content").
package tools

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/mark3labs/mcp-go/mcp"

	"github.com/mcp-clerk/mcp-clerk/internal/jsonrpc"
)

// Handler answers one tools/call. An error means the server failed; what the
// caller can act on is a result with IsError set.
type Handler = func(context.Context, mcp.CallToolRequest) (*mcp.CallToolResult, error)

// refuse is a result that tells the model what to change.
func refuse(format string, args ...any) *mcp.CallToolResult {
	return mcp.NewToolResultError(fmt.Sprintf(format, args...))
}

// arguments are a call's arguments, each as it was sent: numbers keep their
// digits, and names are compared exactly (encoding/json would fold their case).
type arguments []argument

type argument struct {
	name  string
	value json.RawMessage
}

// get returns an argument as it was sent, nil for one that was not.
func (a arguments) get(name string) json.RawMessage {
	for i := range a {
		if a[i].name == name {
			return a[i].value
		}
	}
	return nil
}

// parseArguments reads the arguments of a call that takes no others than known.
func parseArguments(req mcp.CallToolRequest, known ...string) (arguments, error) {
	raw, ok := req.GetRawArguments().(json.RawMessage)
	if !ok {
		if req.Params.Arguments == nil {
			return arguments{}, nil
		}
		var err error
		if raw, err = json.Marshal(req.Params.Arguments); err != nil {
			return nil, fmt.Errorf("arguments are not JSON: %w", err)
		}
	}
	if string(raw) == "null" {
		return nil, nil
	}
	args := make(arguments, 0, len(known))
	var unknown []string
	if err := jsonrpc.Members(raw, func(name string, value json.RawMessage) bool {
		args = append(args, argument{name, value})
		if !slices.Contains(known, name) {
			unknown = append(unknown, name)
		}
		return true
	}); err != nil {
		return nil, errors.New("arguments must be a JSON object")
	}
	switch {
	case len(unknown) == 0:
		return args, nil
	case len(known) == 0:
		return nil, fmt.Errorf("unknown argument %q: this tool takes none", slices.Min(unknown))
	}
	return nil, fmt.Errorf("unknown argument %q: this tool takes %s", slices.Min(unknown), strings.Join(known, ", "))
}

// given reports whether the argument was sent; null counts as not sent.
func (a arguments) given(name string) bool {
	raw := bytes.TrimSpace(a.get(name))
	return len(raw) > 0 && string(raw) != "null"
}

// hints builds the annotations of a tool that changes nothing.
func hints(title string, idempotent, openWorld bool) mcp.ToolAnnotation {
	no, yes := false, true
	return mcp.ToolAnnotation{
		Title:           title,
		ReadOnlyHint:    &yes,
		DestructiveHint: &no,
		IdempotentHint:  &idempotent,
		OpenWorldHint:   &openWorld,
	}
}
