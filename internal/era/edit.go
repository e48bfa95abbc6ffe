package era

import (
	"bytes"
	"encoding/json"
	"slices"
	"strconv"

	"github.com/mcp-clerk/mcp-clerk/internal/jsonrpc"
)

// depth is how deep a message may nest: deeper than any that is let in, since
// answers are put inside of requests.
const depth = 4000

// parse reads a message that was made here of parts that had been read before.
func parse(raw []byte) *jsonrpc.Message {
	m, err := jsonrpc.Parse(raw, jsonrpc.Limits{MaxDepth: depth})
	if err != nil {
		panic("era: built a bad message: " + err.Error())
	}
	return m
}

// edit returns obj, a JSON object, with each member's value as change returns
// it; nil takes the member out. All other bytes stay as they are.
func edit(obj json.RawMessage, change func(key string, val json.RawMessage) json.RawMessage) json.RawMessage {
	obj = bytes.Trim(obj, " \t\r\n")
	out := make([]byte, 1, len(obj)+64)
	out[0] = '{'
	end, kept, changed := 1, 0, false
	err := jsonrpc.Members(obj, func(key string, val json.RawMessage) bool {
		at := cap(obj) - cap(val) // val is a slice of obj
		before := obj[end:at]     // the comma, white space, the key and its colon
		end = at + len(val)
		now := change(key, val)
		if now == nil {
			changed = true
			return true
		}
		if kept == 0 && changed {
			before = bytes.TrimLeft(before, ", \t\r\n")
		}
		kept++
		changed = changed || !bytes.Equal(now, val)
		out = append(append(out, before...), now...)
		return true
	})
	if err != nil || !changed {
		return obj
	}
	return append(out, obj[end:]...)
}

// editElements is edit for the elements of arr, a JSON array.
func editElements(arr json.RawMessage, change func(val json.RawMessage) json.RawMessage) json.RawMessage {
	elements, err := jsonrpc.Elements(arr)
	if err != nil {
		return arr
	}
	out, end := make([]byte, 0, len(arr)), 0
	for _, e := range elements {
		at := cap(arr) - cap(e) // e is a slice of arr
		out = append(append(out, arr[end:at]...), change(e)...)
		end = at + len(e)
	}
	return append(out, arr[end:]...)
}

// drop returns obj without the members named.
func drop(obj json.RawMessage, keys ...string) json.RawMessage {
	return edit(obj, func(key string, val json.RawMessage) json.RawMessage {
		if slices.Contains(keys, key) {
			return nil
		}
		return val
	})
}

// set returns obj with the member set to val: in its place, or as the last one.
// A missing obj counts as an empty one.
func set(obj json.RawMessage, name string, val json.RawMessage) json.RawMessage {
	if obj == nil {
		obj = json.RawMessage("{}")
	}
	found := false
	out := edit(obj, func(key string, old json.RawMessage) json.RawMessage {
		if key == name {
			found = true
			return val
		}
		return old
	})
	if found {
		return out
	}
	out = bytes.TrimRight(out, " \t\r\n")
	body := bytes.TrimRight(out[:len(out)-1], " \t\r\n")
	added := make([]byte, 0, len(body)+len(name)+len(val)+8)
	added = append(added, body...)
	if len(body) > 1 {
		added = append(added, ',')
	}
	added = append(append(added, strconv.Quote(name)...), ':')
	return append(append(added, val...), '}')
}

// lead returns obj with more members, written as in an object, in front.
func lead(obj json.RawMessage, members string) json.RawMessage {
	obj = bytes.Trim(obj, " \t\r\n")
	rest := bytes.TrimLeft(obj[1:], " \t\r\n")
	out := make([]byte, 0, len(members)+len(rest)+2)
	out = append(append(out, '{'), members...)
	if rest[0] != '}' {
		out = append(out, ',')
	}
	return append(out, rest...)
}

// withParams returns m, a request or a notification, with other params.
func withParams(m *jsonrpc.Message, params json.RawMessage) *jsonrpc.Message {
	if m.Params == nil {
		return parse(set(m.Raw, "params", params))
	}
	return parse(jsonrpc.Splice(m.Raw, m.Params, params))
}

// withResult returns the response m with another result and id.
func withResult(m *jsonrpc.Message, id, result json.RawMessage) []byte {
	if bytes.Equal(result, m.Result) {
		return jsonrpc.ReplaceID(m, id)
	}
	return jsonrpc.ReplaceID(parse(jsonrpc.Splice(m.Raw, m.Result, result)), id)
}

// withID returns the response m under another id. An error may have had none
// (2026-07-28, basic/index, "Error Responses").
func withID(m *jsonrpc.Message, id json.RawMessage) []byte {
	if m.ID == nil {
		return jsonrpc.ReplaceID(parse(set(m.Raw, "id", json.RawMessage("null"))), id)
	}
	return jsonrpc.ReplaceID(m, id)
}

func isObject(v json.RawMessage) bool { return len(v) > 0 && v[0] == '{' }

func quote(s string) json.RawMessage {
	b, err := json.Marshal(s)
	if err != nil {
		panic("era: " + err.Error()) // a string always encodes
	}
	return b
}
