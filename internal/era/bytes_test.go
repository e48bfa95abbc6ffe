package era_test

import (
	"bytes"
	"encoding/json"
	"testing"
	"time"

	"github.com/mcp-clerk/mcp-clerk/internal/era"
	"github.com/mcp-clerk/mcp-clerk/internal/jsonrpc"
)

// members returns those of a JSON object as they stand there; ok is false where
// a name comes twice, which parsers read in different ways.
func members(obj []byte) (map[string]string, bool) {
	out := map[string]string{}
	unique := true
	err := jsonrpc.Members(obj, func(key string, val json.RawMessage) bool {
		_, twice := out[key]
		unique = unique && !twice
		out[key] = string(val)
		return true
	})
	return out, err == nil && unique
}

// same compares what was with what became of it, but for the members named.
func same(t *testing.T, was, is []byte, but ...string) {
	t.Helper()
	if !json.Valid(is) {
		t.Fatalf("%q became %q, which is no JSON", was, is)
	}
	before, ok := members(was)
	after, _ := members(is)
	if !ok {
		return
	}
	for _, name := range but {
		delete(before, name)
		delete(after, name)
	}
	if len(before) != len(after) {
		t.Errorf("%q became %q", was, is)
	}
	for name, val := range before {
		if after[name] != val {
			t.Errorf("%q became %q: member %q is %q", was, is, name, after[name])
		}
	}
}

// FuzzBytes sends an object through every translation, as params and as a
// result: only what a revision says is another afterwards.
func FuzzBytes(f *testing.F) {
	for _, obj := range []string{
		`{}`, `{ }`, `{"a":1.0}`, `{ "_meta" : { "x":1 } , "b":[1e400] }`, `{"_meta":{"progressToken":7,"io.modelcontextprotocol/protocolVersion":"x"},"n":{"_meta":{}}}`,
		`{"resultType":"complete","a":"‹\u2039"}`, `{"a":1,"resultType":"complete"}`, `{"_meta":null}`, "{\"a\"\n:\t1 , \"ttlMs\":5,\"cacheScope\":\"public\" }", `{"requestState":"x","\u0061":1}`,
	} {
		f.Add([]byte(obj))
	}
	f.Fuzz(func(t *testing.T, obj []byte) {
		if m, err := jsonrpc.Parse([]byte(`{"jsonrpc":"2.0","id":1,"method":"x","params":`+string(obj)+`}`), jsonrpc.Limits{}); err != nil || m.Params == nil || m.Params[0] != '{' {
			return
		}
		obj = bytes.Trim(obj, " \t\r\n")
		parse := func(raw string) *jsonrpc.Message {
			m, err := jsonrpc.Parse([]byte(raw), jsonrpc.Limits{MaxDepth: 4000})
			if err != nil {
				t.Fatal(err)
			}
			return m
		}
		now := time.Unix(1_800_000_000, 0)
		meta := func(of []byte) []byte {
			v, ok := jsonrpc.Lookup(of, "_meta")
			if !ok || v[0] != '{' {
				return []byte("{}")
			}
			return v
		}
		added := []string{"io.modelcontextprotocol/protocolVersion", "io.modelcontextprotocol/clientInfo", "io.modelcontextprotocol/clientCapabilities", "io.modelcontextprotocol/logLevel"}

		var m era.Machine = era.NewToModern("server.test")
		steps := m.Host(now, parse(`{"jsonrpc":"2.0","id":1,"method":"prompts/list","params":`+string(obj)+`}`))
		same(t, obj, steps[0].Message.Params, "_meta")
		same(t, meta(obj), meta(steps[0].Message.Params), added...)
		steps = m.Server(now, 0, 1, parse(`{"jsonrpc":"2.0","id":1,"result":`+string(obj)+`}`))
		if kind, _ := jsonrpc.LookupString(obj, "resultType"); kind == "complete" || kind == "" {
			if steps[0].Message.Result != nil {
				same(t, obj, steps[0].Message.Result, "resultType", "ttlMs", "cacheScope")
			}
		}

		m = newToLegacy()
		m.Host(now, parse(`{"jsonrpc":"2.0","id":0,"method":"server/discover","params":{`+elicits+`}}`))
		m.Server(now, 1, 1, parse(`{"jsonrpc":"2.0","id":"mcp-clerk-1","result":{"protocolVersion":"2025-11-25"}}`))
		m.Ended(now, 2, nil)
		request := parse(`{"jsonrpc":"2.0","id":1,"method":"tools/list","params":` + string(obj) + `}`)
		if steps = m.Host(now, request); len(steps) == 1 && steps[0].Verb == era.Send { // it may be no request of the revision
			same(t, obj, steps[0].Message.Params, "_meta")
			same(t, meta(obj), meta(steps[0].Message.Params), added...)
		}
		m.Host(now, parse(`{"jsonrpc":"2.0","id":2,"method":"resources/read","params":{`+elicits+`}}`))
		last := 3
		if len(steps) == 1 && steps[0].Verb == era.Send {
			last = steps[0].Call + 1
		}
		if steps = m.Server(now, 1, last, parse(`{"jsonrpc":"2.0","id":2,"result":`+string(obj)+`}`)); len(steps) == 1 {
			same(t, obj, steps[0].Message.Result, "resultType", "ttlMs", "cacheScope")
		}
	})
}
