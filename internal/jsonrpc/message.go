// Package jsonrpc reads the envelope of a JSON-RPC 2.0 message and leaves its
// bytes alone: ids, numbers, key order and unknown members of whatever passes
// through survive, because nothing is decoded and encoded again.
//
// It imports no other room. Its one invariant: what Parse accepted is exactly
// one JSON value, and every part of a Message is a slice of the bytes given.
package jsonrpc

import (
	"bytes"
	"encoding/json"
	"fmt"
	"unicode/utf8"
)

// Error codes of JSON-RPC 2.0 and of the MCP revision 2026-07-28
// (basic/index, "Error Codes").
const (
	CodeParse              = -32700
	CodeInvalidRequest     = -32600
	CodeMethodNotFound     = -32601
	CodeInvalidParams      = -32602
	CodeInternal           = -32603
	CodeHeaderMismatch     = -32020
	CodeMissingCapability  = -32021
	CodeUnsupportedVersion = -32022
)

// Message is one JSON-RPC message. The raw parts are slices of Raw and nil
// where the member is absent; an id of null is the token null.
type Message struct {
	Raw    []byte
	Method string // empty for a response
	ID     json.RawMessage
	Params json.RawMessage
	Result json.RawMessage
	Error  json.RawMessage
}

// IsRequest reports whether m asks for a response.
func (m *Message) IsRequest() bool { return m.Method != "" && m.ID != nil }

// IsNotification reports whether m is a method call without an id.
func (m *Message) IsNotification() bool { return m.Method != "" && m.ID == nil }

// IsResponse reports whether m answers a request.
func (m *Message) IsResponse() bool { return m.Method == "" }

// Limits says how much Parse puts up with. The zero value reads what any JSON
// parser would, 128 levels deep.
type Limits struct {
	// MaxDepth is the deepest nesting accepted; 0 means 128.
	MaxDepth int
	// Strict refuses what two parsers may read in two ways: duplicate keys in
	// any object, envelope and name members in another letter case, numbers
	// beyond float64, unpaired surrogates. For messages that a decision rests on.
	Strict bool
}

func (l Limits) depth() int {
	if l.MaxDepth > 0 {
		return l.MaxDepth
	}
	return 128
}

// Error says why a message was refused, in the terms of JSON-RPC: CodeParse
// when it is no JSON, CodeInvalidRequest when it is JSON but no acceptable
// message. ID is the message's id where it could still be read.
type Error struct {
	Code    int
	Message string
	ID      json.RawMessage
}

func (e *Error) Error() string { return fmt.Sprintf("%s (%d)", e.Message, e.Code) }

// Parse reads one message. raw may have white space around it; it is kept by
// reference and must not change while the Message is in use. Errors are *Error.
func Parse(raw []byte, lim Limits) (*Message, error) {
	raw = trim(raw)
	if !utf8.Valid(raw) {
		return nil, &Error{Code: CodeParse, Message: "parse error: invalid UTF-8"}
	}
	m := &Message{Raw: raw}
	var version json.RawMessage
	var methodToken json.RawMessage
	var keys [8][]byte
	s := scanner{b: raw, max: lim.depth(), strict: lim.Strict, keys: keys[:0]}
	var err error
	if len(raw) > 0 && raw[0] == '{' {
		err = s.object(func(key, val []byte) error {
			switch string(key) {
			case "jsonrpc":
				version = val
			case "id":
				m.ID = val
			case "method":
				methodToken = val
			case "params":
				m.Params = val
			case "result":
				m.Result = val
			case "error":
				m.Error = val
			default:
				if lim.Strict && foldsTo(key, envelopeKeys) {
					return invalid("member %q differs from the standard's only in letter case", key)
				}
			}
			return nil
		})
		if err == nil && s.i != len(raw) {
			err = s.syntax("data after the message")
		}
	} else if err = s.value(); err == nil && s.i == len(raw) {
		err = invalid("not a JSON object")
	} else if err == nil {
		err = s.syntax("data after the value")
	}
	if err == nil {
		err = m.check(version, methodToken, lim)
	}
	if err != nil {
		e := asError(err)
		if e.Code == CodeInvalidRequest && e.ID == nil {
			e.ID = salvageID(raw)
		}
		return nil, e
	}
	return m, nil
}

var (
	envelopeKeys = fields("jsonrpc id method params result error")
	paramsKeys   = fields("name uri arguments _meta cursor level requestId progressToken protocolVersion capabilities clientInfo inputResponses requestState")
)

// space is JSON's white space (RFC 8259 section 2); Unicode has more.
const space = " \t\r\n"

func trim(b []byte) []byte { return bytes.Trim(b, space) }

func fields(s string) [][]byte { return bytes.Fields([]byte(s)) }

// check holds the members against JSON-RPC 2.0 sections 4 and 5 and against
// MCP's narrower rules for ids and params.
func (m *Message) check(version, methodToken json.RawMessage, lim Limits) error {
	if (version != nil || lim.Strict) && string(version) != `"2.0"` {
		return invalid(`member "jsonrpc" is not "2.0"`)
	}
	if methodToken != nil {
		if methodToken[0] != '"' {
			return invalid(`member "method" is not a string`)
		}
		m.Method = unquote(methodToken)
		if m.Method == "" {
			return invalid(`member "method" is empty`)
		}
	}
	if m.ID != nil {
		switch c := m.ID[0]; {
		case c == '"' || c == '-' || c >= '0' && c <= '9':
		case c == 'n' && m.Method == "":
		default:
			return invalid(`member "id" is not a string or a number`)
		}
	}
	if m.Params != nil {
		switch m.Params[0] {
		case '{', '[':
		case 'n':
			m.Params = nil
		default:
			return invalid(`member "params" is not an object`)
		}
		if lim.Strict && m.Params != nil {
			if m.Params[0] != '{' {
				return invalid(`member "params" is not an object`)
			}
			s := scanner{b: m.Params, max: lim.depth()}
			err := s.object(func(key, _ []byte) error {
				if foldsTo(key, paramsKeys) {
					return invalid("member %q of the params differs from the standard's only in letter case", key)
				}
				return nil
			})
			if err != nil {
				return err
			}
		}
	}
	switch {
	case m.Method != "" && (m.Result != nil || m.Error != nil):
		return invalid("a message with a method has no result and no error")
	case m.Method == "" && m.Result == nil && m.Error == nil:
		return invalid("neither a method nor a result nor an error")
	case m.Result != nil && m.Error != nil:
		return invalid("both a result and an error")
	case m.Method == "" && m.ID == nil && m.Error == nil:
		return invalid("a result without an id")
	case m.Error != nil && m.Error[0] != '{':
		return invalid(`member "error" is not an object`)
	}
	return nil
}

// salvageID looks for an id in a message that was refused for another reason.
func salvageID(raw []byte) json.RawMessage {
	if len(raw) == 0 || raw[0] != '{' {
		return nil
	}
	var id json.RawMessage
	s := scanner{b: raw, max: 128}
	_ = s.object(func(key, val []byte) error {
		if string(key) == "id" && id == nil && (val[0] == '"' || val[0] == '-' || val[0] >= '0' && val[0] <= '9') {
			id = val
		}
		return nil
	})
	return id
}

// IsBatch reports whether raw is a JSON array, the batch form of JSON-RPC.
func IsBatch(raw []byte) bool {
	raw = bytes.TrimLeft(raw, space)
	return len(raw) > 0 && raw[0] == '['
}

// SplitBatch returns the elements of a batch array, each a slice of raw.
// An empty batch is refused (JSON-RPC 2.0 section 6). Errors are *Error.
func SplitBatch(raw []byte, lim Limits) ([]json.RawMessage, error) {
	raw = trim(raw)
	if !utf8.Valid(raw) {
		return nil, &Error{Code: CodeParse, Message: "parse error: invalid UTF-8"}
	}
	s := scanner{b: raw, max: lim.depth(), strict: lim.Strict}
	if !IsBatch(raw) {
		return nil, asError(invalid("not a JSON array"))
	}
	var parts []json.RawMessage
	err := s.array(func(val []byte) { parts = append(parts, val) })
	if err == nil && s.i != len(raw) {
		err = s.syntax("data after the array")
	}
	if err == nil && len(parts) == 0 {
		err = invalid("empty batch")
	}
	if err != nil {
		return nil, asError(err)
	}
	return parts, nil
}

// Lookup returns the member of obj that path names, level by level, without
// decoding the rest: Lookup(params, "_meta", "progressToken"). Of duplicate
// keys the first counts.
func Lookup(obj json.RawMessage, path ...string) (json.RawMessage, bool) {
	for _, name := range path {
		obj = bytes.TrimLeft(obj, space)
		if len(obj) == 0 || obj[0] != '{' {
			return nil, false
		}
		var found json.RawMessage
		s := scanner{b: obj, max: 1 << 20}
		err := s.object(func(key, val []byte) error {
			if string(key) == name {
				found = val
				return errStop
			}
			return nil
		})
		if found == nil || err != nil && err != errStop { //nolint:errorlint // errStop is this function's own and never wrapped
			return nil, false
		}
		obj = found
	}
	return obj, len(path) > 0
}

// LookupString is Lookup for a member that is a string; others count as absent.
func LookupString(obj json.RawMessage, path ...string) (string, bool) {
	v, ok := Lookup(obj, path...)
	if !ok || v[0] != '"' {
		return "", false
	}
	return unquote(v), true
}

// Members calls f for each member of obj in order, until f returns false.
// It returns an *Error when obj is not a JSON object.
func Members(obj json.RawMessage, f func(key string, val json.RawMessage) bool) error {
	obj = trim(obj)
	if len(obj) == 0 || obj[0] != '{' {
		return asError(invalid("not a JSON object"))
	}
	s := scanner{b: obj, max: 1 << 20}
	err := s.object(func(key, val []byte) error {
		if !f(text(key), val) {
			return errStop
		}
		return nil
	})
	if err != nil && err != errStop { //nolint:errorlint // see Lookup
		return asError(err)
	}
	return nil
}

// Elements returns the elements of a JSON array as slices of it.
func Elements(arr json.RawMessage) ([]json.RawMessage, error) {
	arr = trim(arr)
	if !IsBatch(arr) {
		return nil, asError(invalid("not a JSON array"))
	}
	var parts []json.RawMessage
	s := scanner{b: arr, max: 1 << 20}
	if err := s.array(func(val []byte) { parts = append(parts, val) }); err != nil {
		return nil, asError(err)
	}
	return parts, nil
}

// IDKey returns a comparable key for pairing a response with its request. Ids
// pair by their exact token: 1 and "1" differ, and so do 1 and 1.0.
func IDKey(id json.RawMessage) string { return string(id) }

// Compact returns raw without white space between tokens, so that it fits on
// one line; the tokens themselves are unchanged. Without such white space it
// returns raw itself.
func Compact(raw []byte) ([]byte, error) {
	raw = trim(raw)
	if bytes.IndexByte(raw, '\n') < 0 && bytes.IndexByte(raw, '\r') < 0 {
		return raw, nil
	}
	var buf bytes.Buffer
	buf.Grow(len(raw))
	if err := json.Compact(&buf, raw); err != nil {
		return nil, &Error{Code: CodeParse, Message: "parse error: " + err.Error()}
	}
	return buf.Bytes(), nil
}

// ReplaceID returns m's bytes with its id token replaced.
func ReplaceID(m *Message, id json.RawMessage) []byte {
	if m.ID == nil || bytes.Equal(m.ID, id) {
		return m.Raw
	}
	return Splice(m.Raw, m.ID, id)
}

// Splice returns raw with part, a slice of it, replaced.
func Splice(raw, part, with []byte) []byte {
	at := cap(raw) - cap(part) // part is a slice of raw, so this is its offset
	out := make([]byte, 0, len(raw)-len(part)+len(with))
	out = append(append(out, raw[:at]...), with...)
	return append(out, raw[at+len(part):]...)
}
