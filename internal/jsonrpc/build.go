package jsonrpc

import (
	"bytes"
	"encoding/json"
)

// encode marshals v without HTML escaping; raw messages pass unchanged.
func encode(v any) json.RawMessage {
	switch v := v.(type) {
	case nil:
		return nil
	case json.RawMessage:
		return v
	case []byte:
		return v
	}
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		// Only values this project builds itself come here; one that cannot be
		// encoded is a programming error, which must not become silent data loss.
		panic("jsonrpc: encode: " + err.Error())
	}
	return bytes.TrimRight(buf.Bytes(), "\n")
}

// NewRequest builds a request. params may be nil, a json.RawMessage or any
// value that encodes to a JSON object.
func NewRequest(id json.RawMessage, method string, params any) []byte {
	return build(id, method, encode(params))
}

// NewNotification builds a notification; params as in NewRequest.
func NewNotification(method string, params any) []byte {
	return build(nil, method, encode(params))
}

func build(id json.RawMessage, method string, params json.RawMessage) []byte {
	name := encode(method)
	out := make([]byte, 0, 48+len(id)+len(name)+len(params))
	out = append(out, `{"jsonrpc":"2.0"`...)
	if id != nil {
		out = append(out, `,"id":`...)
		out = append(out, id...)
	}
	out = append(out, `,"method":`...)
	out = append(out, name...)
	if params != nil {
		out = append(out, `,"params":`...)
		out = append(out, params...)
	}
	return append(out, '}')
}

// NewResult builds the response that answers id with result.
func NewResult(id json.RawMessage, result any) []byte {
	r := encode(result)
	if r == nil {
		r = json.RawMessage("{}")
	}
	out := make([]byte, 0, 40+len(id)+len(r))
	out = append(out, `{"jsonrpc":"2.0","id":`...)
	out = append(out, orNull(id)...)
	out = append(out, `,"result":`...)
	out = append(out, r...)
	return append(out, '}')
}

// NewError builds an error response. A nil id becomes null, for messages whose
// id could not be read (JSON-RPC 2.0 section 5); data is left out when nil.
func NewError(id json.RawMessage, code int, message string, data any) []byte {
	body := encode(struct {
		Code    int             `json:"code"`
		Message string          `json:"message"`
		Data    json.RawMessage `json:"data,omitempty"`
	}{code, message, encode(data)})
	out := make([]byte, 0, 40+len(id)+len(body))
	out = append(out, `{"jsonrpc":"2.0","id":`...)
	out = append(out, orNull(id)...)
	out = append(out, `,"error":`...)
	out = append(out, body...)
	return append(out, '}')
}

func orNull(id json.RawMessage) json.RawMessage {
	if id == nil {
		return json.RawMessage("null")
	}
	return id
}
