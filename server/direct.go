package server

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/mark3labs/mcp-go/mcp"
	mcpserver "github.com/mark3labs/mcp-go/server"

	"github.com/mcp-clerk/mcp-clerk/internal/mcphttp"
)

// callDirectly answers a tools/call of a known tool without the engine, which
// would decode the message six times. It does so only where nothing is left to
// the engine but to hand over a result: what it does not know it leaves to the
// engine (done is false), with the outcome of the handler if that has run, so
// that it does not run twice. A response is what the engine's would be, byte by
// byte.
func (s *Server) callDirectly(ctx context.Context, x *exchange) (response []byte, done bool, err error) {
	t := x.tool
	if s.engineOnly.Load() || t.tool.Execution != nil || !s.sees(ctx, x, &t.access) {
		return nil, false, nil
	}
	req, info, ok := readCall(x.call, t)
	if !ok {
		return nil, false, nil
	}
	if !t.builtin { // which looks for neither
		ctx = mcpserver.WithRequestProtocolInfo(s.engine.WithContext(ctx, x), info)
	}
	result, err := t.call(ctx, req)
	if err != nil || result == nil || result.NeedsInput() {
		x.called = &outcome{result, err}
		return nil, false, nil //nolint:nilerr // the engine deals with it
	}
	out := make([]byte, 0, 256)
	out = append(append(append(out, `{"jsonrpc":"2.0","id":`...), x.call.Message.ID...), `,"result":`...)
	if out, err = s.appendResult(out, result, x.call.Modern); err != nil {
		return nil, true, fmt.Errorf("encode the result of %q: %w", x.call.Message.Method, err)
	}
	return append(out, '}'), true, nil
}

// appendResult appends a result as its MarshalJSON would write it, with what
// the stateless era adds to each.
func (s *Server) appendResult(out []byte, r *mcp.CallToolResult, modern bool) ([]byte, error) {
	if modern && r.ResultType == "" {
		r.ResultType = mcp.ResultTypeComplete
	}
	rare := len(r.InputRequests) > 0 || r.RequestState != "" // in no call that is complete
	if modern && (rare || r.Meta != nil) && r.EnsureResultMeta().ServerInfo() == nil {
		r.Meta.SetServerInfo(s.implementation())
	}
	if rare {
		raw, err := encode(r)
		return append(out, raw...), err
	}
	var err error
	member := func(name string, value any) {
		if err == nil {
			var raw []byte
			raw, err = json.Marshal(value)
			out = append(append(append(out, name...), raw...), ',')
		}
	}
	out = append(out, '{')
	switch {
	case r.Meta != nil:
		member(`"_meta":`, r.Meta)
	case modern:
		out = append(append(append(out, `"_meta":`...), s.resultMeta...), ',')
	}
	out = append(out, `"content":[`...)
	for i, c := range r.Content {
		if i > 0 {
			out = append(out, ',')
		}
		if text, ok := c.(mcp.TextContent); ok && text.Type == mcp.ContentTypeText && text.Annotations == nil && text.Meta == nil && plainText(text.Text) {
			out = append(append(append(out, `{"type":"text","text":"`...), text.Text...), `"}`...)
			continue
		}
		raw, fault := json.Marshal(c)
		if fault != nil {
			return nil, fault
		}
		out = append(out, raw...)
	}
	out = append(out, `],`...)
	if r.IsError {
		out = append(out, `"isError":true,`...)
	}
	if r.ResultType != "" {
		member(`"resultType":`, r.ResultType)
	}
	switch {
	case plainJSON(r.RawStructuredContent):
		out = append(append(append(out, `"structuredContent":`...), r.RawStructuredContent...), ',')
	case len(r.RawStructuredContent) > 0:
		member(`"structuredContent":`, r.RawStructuredContent)
	case r.StructuredContent != nil:
		member(`"structuredContent":`, r.StructuredContent)
	}
	out[len(out)-1] = '}' // in the place of the last comma
	return out, err
}

// plainJSON reports whether raw is JSON that json.Marshal would leave as it is.
func plainJSON(raw []byte) bool {
	for _, c := range raw {
		if c <= ' ' || c >= 0x7f || c == '<' || c == '>' || c == '&' {
			return false
		}
	}
	return json.Valid(raw)
}

// plainText reports whether a string stands in JSON as it is.
func plainText(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < 0x20 || c >= 0x7f || c == '"' || c == '\\' || c == '<' || c == '>' || c == '&' {
			return false
		}
	}
	return true
}

// outcome is what a handler gave.
type outcome struct {
	result *mcp.CallToolResult
	err    error
}

// legacyInfo is what the engine makes of a request that says nothing of the
// stateless era.
var legacyInfo = &mcpserver.RequestProtocolInfo{}

// readCall reads a call as the engine does. ok is false for what is not plain:
// an answer to an earlier question, a task, members that the engine may refuse.
func readCall(call *mcphttp.Call, t *registered) (req mcp.CallToolRequest, info *mcpserver.RequestProtocolInfo, ok bool) {
	req.Method = call.Message.Method
	if !t.builtin {
		req.Header = http.Header{}
	}
	req.Params.Name = t.name
	var meta json.RawMessage
	for name, value := range call.Params() {
		switch name {
		case "name":
		case "arguments":
			req.Params.RawArguments = value[:len(value):len(value)]
			if !t.readsRaw && json.Unmarshal(value, &req.Params.Arguments) != nil {
				return req, nil, false
			}
		case "_meta":
			meta = value
		default:
			return req, nil, false
		}
	}
	if meta != nil && meta[0] != '{' || meta != nil && !t.readsRaw && json.Unmarshal(meta, &req.Params.Meta) != nil {
		return req, nil, false
	}
	if call.Modern {
		if t.builtin && string(call.ClientCapabilities) == "{}" {
			return req, nil, true
		}
		info, ok = modernInfo(call)
		return req, info, ok
	}
	// A version that belongs to the other era means nothing to a session, but
	// handlers are told.
	told := false
	if meta != nil {
		_, told = call.Param("_meta", mcp.MetaKeyProtocolVersion)
	}
	return req, legacyInfo, !told
}

// modernInfo is what the engine reads of the _meta of a request.
func modernInfo(call *mcphttp.Call) (*mcpserver.RequestProtocolInfo, bool) {
	info := &mcpserver.RequestProtocolInfo{
		Modern: true, ProtocolVersion: call.Version, LogLevel: mcp.LoggingLevel(call.LogLevel),
		ClientCapabilities: &mcp.ClientCapabilities{},
	}
	if call.ClientInfo != nil {
		info.ClientInfo = &mcp.Implementation{}
		if json.Unmarshal(call.ClientInfo, info.ClientInfo) != nil {
			info.ClientInfo = nil
		}
	}
	if string(call.ClientCapabilities) == "{}" {
		return info, true
	}
	return info, json.Unmarshal(call.ClientCapabilities, info.ClientCapabilities) == nil
}
