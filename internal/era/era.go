// Package era translates between the two eras of MCP: the revisions up to
// 2025-11-25, which open a session with initialize and let the server ask the
// client (legacy), and the stateless revision 2026-07-28 (modern). ToModern
// stands between a legacy host and a modern server, ToLegacy between a modern
// host and a legacy server.
//
// Both are state machines: they are told what has happened and answer with the
// steps to take. They do no I/O, start no goroutine and ask no clock. They may
// import jsonrpc and nothing else of ours. What a revision does not change keeps
// its bytes. The one invariant: every request of the host ends exactly once, by
// a response or by a Fail step, unless it was cancelled: then never.
package era

import (
	"encoding/json"
	"errors"
	"slices"
	"strconv"
	"time"

	"github.com/mcp-clerk/mcp-clerk/internal/jsonrpc"
)

// A Machine is one of the two translations. It belongs to one host, and so to
// one principal. It is not safe for concurrent use. Every method returns the
// steps to take, in their order; now must not run backwards.
type Machine interface {
	// Host takes a message of the host. The ids of its requests that have not
	// ended differ; whoever runs the machine sees to that.
	Host(now time.Time, m *jsonrpc.Message) []Step
	// Cancel ends the host's request with that id, whose response nobody wants.
	Cancel(now time.Time, id json.RawMessage) []Step
	// Server takes a message of the server that came on connection leg, on the
	// stream of call or, if call is 0, on none of a call.
	Server(now time.Time, leg, call int, m *jsonrpc.Message) []Step
	// Ended says that a Send is over: a request's stream has ended, or another
	// message was accepted. err says why it ended without that.
	Ended(now time.Time, call int, err error) []Step
	// Next says when Tick wants to be called; the zero time means never.
	Next() time.Time
	// Tick does what is due.
	Tick(now time.Time) []Step
	// End gives up everything: the steps tell the server. Nothing may follow.
	End(now time.Time) []Step
}

// A Step is something to be done by whoever runs a machine.
type Step struct {
	Verb Verb
	// For is the id, in jsonrpc.IDKey's form, of the request of the host that
	// the step belongs to; empty if it belongs to none.
	For     string
	Leg     int
	Call    int
	Message *jsonrpc.Message
	Err     error
}

// Verb says what a Step does.
type Verb int

const (
	// Deliver gives Message to the host. A response ends the request For.
	Deliver Verb = iota + 1
	// Fail ends the host's request For with Err, an error given to Ended or
	// one that wraps it.
	Fail
	// Send passes Message to the server on connection Leg, which is made if it
	// does not exist. What comes back, and the end, is reported under Call.
	Send
	// Stop gives up Call: its stream is closed and it is not reported any more.
	Stop
	// Close ends connection Leg.
	Close
)

// OpenError says that the server's session could not be opened.
type OpenError struct {
	// Code is that of the JSON-RPC error which the server answered with, 0 if
	// it was another failure.
	Code int
	Err  error
}

func (e *OpenError) Error() string { return "open a session: " + e.Err.Error() }

func (e *OpenError) Unwrap() error { return e.Err }

// ModernVersions are the modern revisions that the package translates, the
// preferred one first.
var ModernVersions = []string{"2026-07-28"}

// LegacyVersions are the legacy revisions that it translates, the latest first.
var LegacyVersions = []string{"2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05"}

// IsModernCode reports whether an error code is one that only modern servers
// use: it shows the era of a server that refuses a request (2026-07-28,
// basic/versioning, "Backward Compatibility").
func IsModernCode(code int) bool {
	return code == jsonrpc.CodeHeaderMismatch || code == jsonrpc.CodeMissingCapability || code == jsonrpc.CodeUnsupportedVersion
}

// ErrorCode returns the code of a JSON-RPC error object, 0 if it has none.
func ErrorCode(e json.RawMessage) int {
	raw, ok := jsonrpc.Lookup(e, "code")
	if !ok {
		return 0
	}
	code, err := strconv.Atoi(string(raw))
	if err != nil {
		return 0
	}
	return code
}

// Bounds on what a machine keeps.
const (
	maxRounds    = 16               // of input for one request
	maxQuestions = 64               // of the server in one round
	maxWatched   = 256              // resources that are watched
	maxParked    = 64               // calls that wait for the host to come back
	maxHeld      = 64               // notifications of one of them
	maxHeldBytes = 256 << 10        // of all of these
	maxKeptBytes = 8 << 20          // of what a server asks, and of what parked calls have ended with
	maxSessions  = 4                // upstream, one for each set of capabilities
	maxListens   = 64               // subscriptions of the host
	parkTime     = 10 * time.Minute // for the host to come back
	rideTime     = 10 * time.Second // for a call that a question can ride on
	gatherTime   = 20 * time.Millisecond
)

const (
	prefix         = "io.modelcontextprotocol/"
	keyVersion     = prefix + "protocolVersion"
	keyClientInfo  = prefix + "clientInfo"
	keyClientCaps  = prefix + "clientCapabilities"
	keyLogLevel    = prefix + "logLevel"
	keySubscribed  = prefix + "subscriptionId"
	keyServerInfo  = prefix + "serverInfo"
	codeNoResource = -32002 // legacy: resource not found
	codeNeedsURL   = -32042 // legacy: URL elicitation required

	methodInitialize   = "initialize"
	methodInitialized  = "notifications/initialized"
	methodPing         = "ping"
	methodDiscover     = "server/discover"
	methodListen       = "subscriptions/listen"
	methodAcknowledged = "notifications/subscriptions/acknowledged"
	methodCancelled    = "notifications/cancelled"
	methodProgress     = "notifications/progress"
	methodLog          = "notifications/message"
	methodSetLevel     = "logging/setLevel"
	methodSubscribe    = "resources/subscribe"
	methodUnsubscribe  = "resources/unsubscribe"
	methodUpdated      = "notifications/resources/updated"
	methodRootsChanged = "notifications/roots/list_changed"
	methodElicited     = "notifications/elicitation/complete"
	methodElicit       = "elicitation/create"
	methodSample       = "sampling/createMessage"
	methodRoots        = "roots/list"
	methodRead         = "resources/read"
)

// levels are the log levels, the least severe first (RFC 5424 section 6.2.1).
var levels = []string{"debug", "info", "notice", "warning", "error", "critical", "alert", "emergency"}

// mayAsk reports whether a server may ask for input while it serves method
// (2026-07-28, basic/patterns/mrtr, "Supported Requests").
func mayAsk(method string) bool {
	return method == "tools/call" || method == "prompts/get" || method == methodRead
}

// cacheable reports whether the result of method carries caching hints
// (2026-07-28, server/utilities/caching, "Cacheable Results").
func cacheable(method string) bool {
	return slices.Contains([]string{methodDiscover, "tools/list", "prompts/list", "resources/list", "resources/templates/list", methodRead}, method)
}

// offers reports whether capabilities let a server ask with method and params;
// if not, it returns the error to answer with (2025-11-25, client/elicitation,
// "Error Handling"; basic/lifecycle, "Capability Negotiation").
func offers(capabilities json.RawMessage, method string, params json.RawMessage) (code int, text string, ok bool) {
	has := func(path ...string) bool {
		v, ok := jsonrpc.Lookup(capabilities, path...)
		return ok && string(v) != "null" && string(v) != "false"
	}
	switch method {
	case methodRoots:
		if has("roots") {
			return 0, "", true
		}
	case methodSample:
		if !has("sampling") {
			break
		}
		_, tools := jsonrpc.Lookup(params, "tools")
		if _, choice := jsonrpc.Lookup(params, "toolChoice"); (tools || choice) && !has("sampling", "tools") {
			return jsonrpc.CodeInvalidParams, "the client does not offer sampling with tools", false
		}
		return 0, "", true
	case methodElicit:
		if !has("elicitation") {
			break
		}
		mode, _ := jsonrpc.LookupString(params, "mode")
		switch {
		case mode == "url" && has("elicitation", "url"),
			mode != "url" && (has("elicitation", "form") || !has("elicitation", "url")):
			return 0, "", true
		}
		return jsonrpc.CodeInvalidParams, "the client does not offer this mode of elicitation", false
	}
	return jsonrpc.CodeMethodNotFound, "the client does not offer " + method, false
}

// ids hands out ids, and progress tokens, that no message under way uses. Those
// of the host are kept where they are free: other than in a log nobody sees a
// difference, but there it helps.
type ids struct {
	used  map[string]struct{}
	burnt []string // of used, the oldest first
	n     int
}

// maxBurnt bounds the ids of cancelled calls that are not handed out again.
const maxBurnt = 1000

// take reserves want, or a new id if want is nil or not free.
func (i *ids) take(want json.RawMessage) json.RawMessage {
	if i.used == nil {
		i.used = map[string]struct{}{}
	}
	_, taken := i.used[jsonrpc.IDKey(want)]
	for want == nil || taken {
		i.n++
		want = json.RawMessage(strconv.Quote("mcp-clerk-" + strconv.Itoa(i.n)))
		_, taken = i.used[jsonrpc.IDKey(want)]
	}
	i.used[jsonrpc.IDKey(want)] = struct{}{}
	return want
}

func (i *ids) free(id json.RawMessage) { delete(i.used, jsonrpc.IDKey(id)) }

// burn is free for the id of a call that was cancelled: its cancellation, or its
// response, may be on the way for a while and must not meet another call.
func (i *ids) burn(id json.RawMessage) {
	if i.burnt = append(i.burnt, jsonrpc.IDKey(id)); len(i.burnt) > maxBurnt {
		delete(i.used, i.burnt[0])
		i.burnt = i.burnt[1:]
	}
}

// earliest returns the earlier of two times, where zero means never.
func earliest(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

func due(at, now time.Time) bool { return !at.IsZero() && !now.Before(at) }

var errNoResponse = errors.New("the stream has ended without the response")

// steps collects what a machine wants done.
type steps struct{ out []Step }

func (s *steps) add(step Step) { s.out = append(s.out, step) }

func (s *steps) deliver(of string, raw []byte) {
	s.add(Step{Verb: Deliver, For: of, Message: parse(raw)})
}

func (s *steps) refuse(id json.RawMessage, code int, text string, data any) {
	s.deliver(jsonrpc.IDKey(id), jsonrpc.NewError(id, code, text, data))
}

func (s *steps) fail(of string, err error) { s.add(Step{Verb: Fail, For: of, Err: err}) }

func (s *steps) stop(call int) { s.add(Step{Verb: Stop, Call: call}) }

// take returns what has been collected.
func (s *steps) take() []Step {
	out := s.out
	s.out = nil
	return out
}
