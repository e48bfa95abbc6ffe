package bridge

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/mcp-clerk/mcp-clerk/internal/era"
	"github.com/mcp-clerk/mcp-clerk/internal/jsonrpc"
	"github.com/mcp-clerk/mcp-clerk/internal/transport"
)

// refusal is a JSON-RPC error that came with an HTTP status other than success,
// or, with status 200, a response that says that the server is of another era.
type refusal struct {
	status  int
	message *jsonrpc.Message
}

func (r *refusal) Error() string {
	if r.message.Error == nil {
		return "a result of another revision"
	}
	text, _ := jsonrpc.LookupString(r.message.Error, "message")
	return fmt.Sprintf("HTTP status %d, error %d: %q", r.status, era.ErrorCode(r.message.Error), text)
}

// statusOf returns the HTTP status that err came with, 0 if it came with none.
func statusOf(err error) int {
	if r, ok := errors.AsType[*refusal](err); ok {
		return r.status
	}
	if s, ok := errors.AsType[*transport.StatusError](err); ok {
		return s.Status
	}
	return 0
}

// ofAnotherVersion reports whether a server refuses a request for the version of
// its session. There are some of revision 2026-07-28 alone that answer initialize
// all the same, for the host to see a version and leave.
func ofAnotherVersion(err error) bool {
	if statusOf(err) != http.StatusBadRequest {
		return false
	}
	text := ""
	if r, ok := errors.AsType[*refusal](err); ok {
		text, _ = jsonrpc.LookupString(r.message.Error, "message")
	} else if s, ok := errors.AsType[*transport.StatusError](err); ok {
		text = s.Detail
	}
	return strings.Contains(strings.ToLower(text), "protocol version")
}

// elsewhere reports whether an answer leaves it open that the server speaks
// another revision or transport (2026-07-28, basic/transports/streamable-http,
// "HTTP+SSE Transport").
func elsewhere(err error) bool {
	return slices.Contains([]int{http.StatusBadRequest, http.StatusNotFound, http.StatusMethodNotAllowed}, statusOf(err))
}

// probing sends call to r, but for a response that wrong takes as a refusal for
// the server's era: then the error is that *refusal, or a *transport.StatusError.
func probing(ctx context.Context, r remote, call transport.Call, wrong func(status int, m *jsonrpc.Message) bool) error {
	var refused *refusal
	given := call
	given.Deliver = func(m *jsonrpc.Message) error {
		if m.IsResponse() && wrong(http.StatusOK, m) {
			refused = &refusal{http.StatusOK, m}
			return nil
		}
		return call.Deliver(m)
	}
	given.Refused = func(status int, m *jsonrpc.Message) error {
		if wrong(status, m) {
			return &refusal{status, m}
		}
		return call.Deliver(m)
	}
	if err := r.Do(ctx, given); err != nil || refused == nil {
		return err
	}
	return refused
}

// settle gives the host the refusal err as the response that it is.
func settle(call transport.Call, err error) error {
	r, ok := errors.AsType[*refusal](err)
	if !ok {
		return err
	}
	m := r.message
	if call.Message.Method == methodInitialize && era.ErrorCode(m.Error) == jsonrpc.CodeUnsupportedVersion {
		// A host that knows only initialize has another code for that
		// (2025-11-25, basic/lifecycle, "Error Handling").
		text, _ := jsonrpc.LookupString(m.Error, "message")
		data, _ := jsonrpc.Lookup(m.Error, "data")
		m = parsed(jsonrpc.NewError(call.Message.ID, jsonrpc.CodeInvalidParams, text, raw(data)))
	}
	return call.Deliver(m)
}

func raw(data json.RawMessage) any {
	if data == nil {
		return nil
	}
	return data
}

// unreadable are the errors to initialize of a server that does not know it: as a
// method, or as a request without what a modern one has.
var unreadable = []int{jsonrpc.CodeMethodNotFound, jsonrpc.CodeInvalidParams, jsonrpc.CodeInvalidRequest}

// changed reports whether err says that a server is not, or no longer, of the
// era that was found. Nothing was executed then.
func changed(err error) bool {
	if _, gone := errors.AsType[*transport.RenewalError](err); gone {
		return true
	}
	open, unopened := errors.AsType[*era.OpenError](err)
	return unopened && (open.Code != 0 || elsewhere(err))
}

// away reports whether err comes of a gateway whose server is not there: that
// says nothing of its era.
func away(err error) bool {
	return slices.Contains([]int{http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout}, statusOf(err))
}

// silent reports whether err comes of a server that took a request for a stream
// and does not begin one.
func silent(err error) bool {
	_, unreachable := errors.AsType[*transport.UnreachableError](err)
	return unreachable && errors.Is(err, transport.ErrSlow)
}

// answered reports whether err comes of an answer of the server, rather than of
// the way there.
func answered(err error) bool {
	_, ok := errors.AsType[*transport.StatusError](err)
	return ok || changed(err)
}

// namesLegacyOnly reports whether the error -32022 comes of a server that has it
// from the modern revision and none of its versions.
func namesLegacyOnly(m *jsonrpc.Message) bool {
	list, _ := jsonrpc.Lookup(m.Error, "data", "supported")
	var supported []string
	return json.Unmarshal(list, &supported) == nil && // another list says nothing
		slices.ContainsFunc(supported, func(v string) bool { return slices.Contains(era.LegacyVersions, v) }) &&
		!slices.ContainsFunc(supported, func(v string) bool { return v > era.LegacyVersions[0] }) // they are dates
}
