package mcphttp

import (
	"context"
	"fmt"
	"net/http"
	"slices"

	"github.com/mcp-clerk/mcp-clerk/internal/identity"
	"github.com/mcp-clerk/mcp-clerk/internal/jsonrpc"
)

// postModern serves one message of the stateless era.
func (s *Server) postModern(w http.ResponseWriter, r *http.Request, p *identity.Principal, m *jsonrpc.Message, meta *meta, quick bool) {
	if m.IsResponse() {
		// 2026-07-28, basic/transports/streamable-http, Sending Messages, 4.
		refuse(w, http.StatusBadRequest, nil, jsonrpc.CodeInvalidRequest, "clients do not send responses in revision "+modernVersion)
		return
	}
	call := Call{
		Message: m, Version: tokenString(meta.version), Modern: true,
		ClientInfo: meta.info, ClientCapabilities: meta.capabilities, LogLevel: tokenString(meta.logLevel),
		request: r,
	}
	if m.IsNotification() {
		// The revision sends none over HTTP and defines no headers for them.
		// A cancellation by message has no stream it could mean: ignored.
		if m.Method == "notifications/cancelled" {
			w.WriteHeader(http.StatusAccepted)
			return
		}
		s.notification(contextOf(r.Context(), p), w, r, &call)
		return
	}
	if e := checkModern(r.Header, m, meta); e != nil {
		writeJSON(w, http.StatusBadRequest, jsonrpc.NewError(m.ID, e.code, e.message, e.data))
		return
	}
	json, events := accepts(r.Header["Accept"])
	if m.Method == "initialize" {
		// Gone in this revision; only a request without modern _meta is the
		// handshake of the others.
		writeJSON(w, http.StatusNotFound, jsonrpc.NewError(m.ID, jsonrpc.CodeMethodNotFound,
			"initialize does not exist in revision "+modernVersion, nil))
		return
	}
	if m.Method == "subscriptions/listen" {
		s.subscription(w, of(r, p), &call, events)
		return
	}
	if !json && !events {
		json = true // there is no other way to answer at all
	}
	// A closed stream is the cancellation of its request (Cancellation).
	x := &exchange{call: call, stream: newStream(s, w, json, events), server: s}
	if quick {
		x.ctx = contextOf(r.Context(), p)
		s.serveQuick(x)
		return
	}
	x.ctx, x.stop = context.WithCancelCause(contextOf(r.Context(), p))
	defer x.stop(nil)
	x.call.out = x
	x.stream.keepAwake()
	s.serve(x, nil)
}

// headerFault is a refusal of a modern request by its headers or _meta.
type headerFault struct {
	code    int
	message string
	data    any
}

func mismatch(format string, args ...any) *headerFault {
	return &headerFault{code: jsonrpc.CodeHeaderMismatch, message: "header mismatch: " + fmt.Sprintf(format, args...)}
}

// checkModern holds the headers of a request against its body (2026-07-28,
// basic/transports/streamable-http, Server Validation) and its _meta against
// basic/index. Headers come first: whoever routed by them must not have been
// lied to, whatever else is wrong.
func checkModern(h http.Header, m *jsonrpc.Message, meta *meta) *headerFault {
	version, fault := oneHeader(h, hdrVersion, "MCP-Protocol-Version")
	if fault != nil {
		return fault
	}
	badVersion := &headerFault{code: jsonrpc.CodeInvalidParams, message: "missing or invalid _meta field " + metaPrefix + "protocolVersion"}
	if meta.version != nil {
		if meta.version[0] != '"' {
			return badVersion
		}
		if declared := tokenString(meta.version); declared != version {
			return mismatch("MCP-Protocol-Version is %q, the message says %q", version, declared)
		}
	}
	if version != modernVersion {
		supported := SupportedVersions
		if isLegacy(version) {
			// It is served, but not like this: offer what is.
			supported = []string{modernVersion}
		}
		return &headerFault{
			code: jsonrpc.CodeUnsupportedVersion, message: "unsupported protocol version",
			data: map[string]any{"supported": supported, "requested": version},
		}
	}
	method, fault := oneHeader(h, hdrMethod, hdrMethod)
	if fault != nil {
		return fault
	}
	if method != m.Method {
		return mismatch("%s is %q, the message says %q", hdrMethod, method, m.Method)
	}
	if fault := checkName(h, m); fault != nil {
		return fault
	}
	if meta.version == nil {
		return badVersion
	}
	if meta.capabilities == nil || meta.capabilities[0] != '{' {
		return &headerFault{code: jsonrpc.CodeInvalidParams, message: "missing or invalid _meta field " + metaPrefix + "clientCapabilities"}
	}
	if meta.info != nil && meta.info[0] != '{' {
		return &headerFault{code: jsonrpc.CodeInvalidParams, message: "invalid _meta field " + metaPrefix + "clientInfo"}
	}
	if meta.logLevel != nil && !slices.Contains(logLevels, tokenString(meta.logLevel)) {
		return &headerFault{code: jsonrpc.CodeInvalidParams, message: "invalid _meta field " + metaPrefix + "logLevel"}
	}
	return nil
}

// oneHeader returns the only value of a required header.
func oneHeader(h http.Header, key, name string) (string, *headerFault) {
	values := h[key]
	if len(values) != 1 || values[0] == "" {
		return "", mismatch("exactly one %s header is required", name)
	}
	return values[0], nil
}

// namedBy says which member of the params Mcp-Name mirrors, and whether the
// header is required.
var namedBy = map[string]struct {
	member   string
	required bool
}{
	"tools/call":     {"name", true},
	"prompts/get":    {"name", true},
	"resources/read": {"uri", true},
	"tasks/get":      {"taskId", false},
	"tasks/update":   {"taskId", false},
	"tasks/cancel":   {"taskId", false},
}

func checkName(h http.Header, m *jsonrpc.Message) *headerFault {
	by, ok := namedBy[m.Method]
	if !ok || !by.required && h[hdrName] == nil {
		return nil
	}
	value, fault := oneHeader(h, hdrName, hdrName)
	if fault != nil {
		return fault
	}
	name, ok := decodeHeader(value)
	if !ok {
		return mismatch("%s has invalid characters or encoding", hdrName)
	}
	if said, ok := jsonrpc.LookupString(m.Params, by.member); !ok || said != name {
		return mismatch("%s is %q, the message says %q", hdrName, name, said)
	}
	return nil
}
