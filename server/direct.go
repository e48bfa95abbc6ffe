package server

import (
	"context"
	"encoding/json"
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
	if t.tool.Execution != nil || !s.sees(ctx, x, &t.access) {
		return nil, false, nil
	}
	req, info, ok := readCall(x.call, t)
	if !ok {
		return nil, false, nil
	}
	result, err := t.call(mcpserver.WithRequestProtocolInfo(ctx, info), req)
	if err != nil || result == nil || result.NeedsInput() {
		x.called = &outcome{result, err}
		return nil, false, nil
	}
	if x.call.Modern {
		if result.ResultType == "" {
			result.ResultType = mcp.ResultTypeComplete
		}
		if meta := result.EnsureResultMeta(); meta.ServerInfo() == nil {
			meta.SetServerInfo(s.implementation())
		}
	}
	response, err = s.encodeResult(x, result)
	return response, true, err
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
	req.Header = http.Header{}
	req.Params.Name = t.name
	info = legacyInfo
	for name, value := range call.Params() {
		switch name {
		case "name":
		case "arguments":
			req.Params.RawArguments = append(json.RawMessage(nil), value...)
			if json.Unmarshal(value, &req.Params.Arguments) != nil {
				return req, nil, false
			}
		case "_meta":
			if json.Unmarshal(value, &req.Params.Meta) != nil {
				return req, nil, false
			}
		default:
			return req, nil, false
		}
	}
	if meta := req.Params.Meta; meta != nil {
		version := meta.ProtocolVersion()
		info = &mcpserver.RequestProtocolInfo{ProtocolVersion: version}
		if modern := mcp.IsModernProtocol(version); modern != call.Modern {
			return req, nil, false
		} else if modern {
			info.Modern, info.ClientInfo, info.LogLevel = true, meta.ClientInfo(), meta.LogLevel()
			if info.ClientCapabilities = meta.ClientCapabilities(); info.ClientCapabilities == nil {
				return req, nil, false
			}
		}
	}
	return req, info, true
}
