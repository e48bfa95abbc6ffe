package server

import (
	"bytes"
	"encoding/json"
	"fmt"

	"github.com/mark3labs/mcp-go/mcp"
)

// The messages that this package builds itself. The MCP endpoint has read and
// checked what came in; ids and tokens are the client's own bytes.

// encode is JSON on one line, without HTML escapes.
func encode(v any) (json.RawMessage, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimRight(b.Bytes(), "\n"), nil
}

// newResult is the response that answers id with result.
func newResult(id, result json.RawMessage) []byte {
	out := make([]byte, 0, 40+len(id)+len(result))
	out = append(out, `{"jsonrpc":"2.0","id":`...)
	out = append(out, id...)
	out = append(out, `,"result":`...)
	out = append(out, result...)
	return append(out, '}')
}

// newError is the response that answers id with an error; data may be nil.
func newError(id json.RawMessage, code int, message string, data any) ([]byte, error) {
	raw, err := encode(struct {
		JSONRPC string                  `json:"jsonrpc"`
		ID      json.RawMessage         `json:"id"`
		Error   mcp.JSONRPCErrorDetails `json:"error"`
	}{mcp.JSONRPC_VERSION, id, mcp.JSONRPCErrorDetails{Code: code, Message: message, Data: data}})
	if err != nil {
		return nil, fmt.Errorf("encode error %d: %w", code, err)
	}
	return raw, nil
}

// newNotification is a notification; params may be nil.
func newNotification(method string, params any) ([]byte, error) {
	raw, err := encode(struct {
		JSONRPC string `json:"jsonrpc"`
		Method  string `json:"method"`
		Params  any    `json:"params,omitempty"`
	}{mcp.JSONRPC_VERSION, method, params})
	if err != nil {
		return nil, fmt.Errorf("encode %q: %w", method, err)
	}
	return raw, nil
}

// completionRef is what a completion is for. It is read by the decoder that
// the engine uses as well, which takes members in any letter case, so that what
// a decision rests on is what is completed.
type completionRef struct {
	Type string `json:"type"`
	Name string `json:"name"`
	URI  string `json:"uri"`
}

func readCompletionRef(params json.RawMessage) (completionRef, error) {
	var p struct {
		Ref completionRef `json:"ref"`
	}
	if len(params) == 0 {
		return p.Ref, nil
	}
	err := json.Unmarshal(params, &p)
	return p.Ref, err
}
