package jsonrpc_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/mcp-clerk/mcp-clerk/internal/jsonrpc"
)

func TestParseReadsTheEnvelopeAndKeepsTheBytes(t *testing.T) {
	tests := []struct {
		name, in                  string
		method, id, params, res   string
		request, notification, re bool
	}{
		{"request", `{"jsonrpc":"2.0","id":9007199254740993,"method":"tools/call","params":{"z":1.0,"a":"<&>"}}`,
			"tools/call", "9007199254740993", `{"z":1.0,"a":"<&>"}`, "", true, false, false},
		{"string id with escapes", `{"id":"\u0041","method":"ping","jsonrpc":"2.0"}`, "ping", `"\u0041"`, "", "", true, false, false},
		{"notification", ` {"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1}} ` + "\n",
			"notifications/cancelled", "", `{"requestId":1}`, "", false, true, false},
		{"response", `{"jsonrpc":"2.0","id":1,"result":{"big":1e400}}`, "", "1", "", `{"big":1e400}`, false, false, true},
		{"error without id", `{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"x"}}`, "", "null", "", "", false, false, true},
		{"escaped method", `{"jsonrpc":"2.0","id":1,"method":"tools\/list"}`, "tools/list", "1", "", "", true, false, false},
		{"null params count as absent", `{"jsonrpc":"2.0","id":1,"method":"ping","params":null}`, "ping", "1", "", "", true, false, false},
		{"unknown members pass", `{"jsonrpc":"2.0","x":[{}],"id":1,"method":"ping"}`, "ping", "1", "", "", true, false, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m, err := jsonrpc.Parse([]byte(tt.in), jsonrpc.Limits{})
			if err != nil {
				t.Fatal(err)
			}
			got := []any{m.Method, string(m.ID), string(m.Params), string(m.Result), m.IsRequest(), m.IsNotification(), m.IsResponse()}
			want := []any{tt.method, tt.id, tt.params, tt.res, tt.request, tt.notification, tt.re}
			if d := cmp.Diff(want, got); d != "" {
				t.Error(d)
			}
			if string(m.Raw) != strings.TrimSpace(tt.in) {
				t.Errorf("raw changed: %s", m.Raw)
			}
		})
	}
}

func TestParseRefusesWhatIsNoMessage(t *testing.T) {
	deep := `{"jsonrpc":"2.0","id":1,"method":"x","params":` + strings.Repeat(`{"a":`, 10000) + "1" + strings.Repeat("}", 10001)
	tests := []struct {
		name, in string
		strict   bool
		code     int
		id       string
	}{
		{"empty", ``, false, jsonrpc.CodeParse, ""},
		{"truncated", `{"jsonrpc":"2.0","id":1`, false, jsonrpc.CodeParse, ""},
		{"trailing garbage", `{"jsonrpc":"2.0","id":1,"method":"x"} x`, false, jsonrpc.CodeParse, ""},
		{"two values", `{"jsonrpc":"2.0","method":"x"}{}`, false, jsonrpc.CodeParse, ""},
		{"NUL", "{\"jsonrpc\":\"2.0\",\"method\":\"x\x00\"}", false, jsonrpc.CodeParse, ""},
		{"invalid UTF-8", "{\"jsonrpc\":\"2.0\",\"method\":\"\xff\"}", false, jsonrpc.CodeParse, ""},
		{"leading zero", `{"jsonrpc":"2.0","id":01,"method":"x"}`, false, jsonrpc.CodeParse, ""},
		{"trailing comma", `{"jsonrpc":"2.0","id":1,}`, false, jsonrpc.CodeParse, ""},
		{"array", `[1]`, false, jsonrpc.CodeInvalidRequest, ""},
		{"string", `"x"`, false, jsonrpc.CodeInvalidRequest, ""},
		{"wrong version", `{"jsonrpc":"1.0","id":7,"method":"x"}`, false, jsonrpc.CodeInvalidRequest, "7"},
		{"method no string", `{"jsonrpc":"2.0","id":7,"method":1}`, false, jsonrpc.CodeInvalidRequest, "7"},
		{"null id", `{"jsonrpc":"2.0","id":null,"method":"x"}`, false, jsonrpc.CodeInvalidRequest, ""},
		{"object id", `{"jsonrpc":"2.0","id":{},"method":"x"}`, false, jsonrpc.CodeInvalidRequest, ""},
		{"result and error", `{"jsonrpc":"2.0","id":7,"result":{},"error":{}}`, false, jsonrpc.CodeInvalidRequest, "7"},
		{"nothing in it", `{"jsonrpc":"2.0","id":7}`, false, jsonrpc.CodeInvalidRequest, "7"},
		{"depth 10,000", deep, false, jsonrpc.CodeInvalidRequest, "1"},
		{"duplicate envelope key", `{"jsonrpc":"2.0","id":7,"method":"a","method":"b"}`, true, jsonrpc.CodeInvalidRequest, "7"},
		{"duplicate by escape", `{"jsonrpc":"2.0","id":7,"method":"a","params":{"name":"x","n\u0061me":"y"}}`, true, jsonrpc.CodeInvalidRequest, "7"},
		{"duplicate far down", `{"jsonrpc":"2.0","id":7,"method":"a","params":{"arguments":[{"x":1,"x":2}]}}`, true, jsonrpc.CodeInvalidRequest, "7"},
		{"case variant", `{"jsonrpc":"2.0","id":7,"method":"a","Method":"b"}`, true, jsonrpc.CodeInvalidRequest, "7"},
		{"case variant in params", `{"jsonrpc":"2.0","id":7,"method":"a","params":{"name":"x","Name":"y"}}`, true, jsonrpc.CodeInvalidRequest, "7"},
		{"number out of range", `{"jsonrpc":"2.0","id":7,"method":"a","params":{"n":1e999}}`, true, jsonrpc.CodeInvalidRequest, "7"},
		{"lone surrogate", `{"jsonrpc":"2.0","id":7,"method":"a","params":{"n":"\ud800"}}`, true, jsonrpc.CodeInvalidRequest, "7"},
		{"params array", `{"jsonrpc":"2.0","id":7,"method":"a","params":[1]}`, true, jsonrpc.CodeInvalidRequest, "7"},
		{"no version", `{"id":7,"method":"a"}`, true, jsonrpc.CodeInvalidRequest, "7"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := jsonrpc.Parse([]byte(tt.in), jsonrpc.Limits{Strict: tt.strict})
			e, ok := errors.AsType[*jsonrpc.Error](err)
			if !ok || e.Code != tt.code || string(e.ID) != tt.id {
				t.Fatalf("got %v (id %s), want code %d id %s", err, e.ID, tt.code, tt.id)
			}
		})
	}
}

func TestStrictFindsTheDuplicateInALargeObject(t *testing.T) {
	var b strings.Builder
	b.WriteString(`{"jsonrpc":"2.0","id":1,"method":"x","params":{"arguments":{`)
	for i := range 5000 {
		b.WriteString(`"k` + strings.Repeat("x", i%7) + string(rune('a'+i%26)) + strings.Repeat("y", i/26) + `":1,`)
	}
	head := b.String()
	if _, err := jsonrpc.Parse([]byte(head+`"last":1}}}`), jsonrpc.Limits{Strict: true}); err != nil {
		t.Fatal(err)
	}
	if _, err := jsonrpc.Parse([]byte(head+`"last":1,"last":1}}}`), jsonrpc.Limits{Strict: true}); err == nil {
		t.Fatal("duplicate accepted")
	}
}

func TestLookupFindsMembersWithoutDecoding(t *testing.T) {
	obj := json.RawMessage(`{"a":{"b":[1,{"c":2}],"d":"x\u0041"},"_meta":{"progressToken":1.50}}`)
	if v, ok := jsonrpc.Lookup(obj, "_meta", "progressToken"); !ok || string(v) != "1.50" {
		t.Errorf("got %s %v", v, ok)
	}
	if v, ok := jsonrpc.LookupString(obj, "a", "d"); !ok || v != "xA" {
		t.Errorf("got %q %v", v, ok)
	}
	for _, path := range [][]string{{"x"}, {"a", "b", "c"}, {"a", "d", "e"}, {}} {
		if v, ok := jsonrpc.Lookup(obj, path...); ok {
			t.Errorf("%q: found %s", path, v)
		}
	}
}

func TestSplitBatch(t *testing.T) {
	parts, err := jsonrpc.SplitBatch([]byte(` [ {"a":1} , 2,"x" ] `), jsonrpc.Limits{})
	if err != nil || len(parts) != 3 || string(parts[0]) != `{"a":1}` || string(parts[2]) != `"x"` {
		t.Fatalf("%s %v", parts, err)
	}
	for _, in := range []string{`[]`, `[1`, `[1]x`, `{}`, ``} {
		if _, err := jsonrpc.SplitBatch([]byte(in), jsonrpc.Limits{}); err == nil {
			t.Errorf("%q accepted", in)
		}
	}
}

func TestReplaceIDTouchesNothingElse(t *testing.T) {
	m, err := jsonrpc.Parse([]byte(`{"params":{"id":1}, "id" : 1 ,"jsonrpc":"2.0","method":"x"}`), jsonrpc.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	if got := string(jsonrpc.ReplaceID(m, json.RawMessage(`"abc"`))); got != `{"params":{"id":1}, "id" : "abc" ,"jsonrpc":"2.0","method":"x"}` {
		t.Error(got)
	}
}

func TestBuildersMakeMessagesThatParse(t *testing.T) {
	id := json.RawMessage(`"i"`)
	for _, raw := range [][]byte{
		jsonrpc.NewRequest(id, "tools/call", map[string]any{"name": "<add>"}),
		jsonrpc.NewRequest(id, "ping", nil),
		jsonrpc.NewNotification("notifications/progress", json.RawMessage(`{"progress":1.50}`)),
		jsonrpc.NewResult(id, nil),
		jsonrpc.NewResult(id, json.RawMessage(`{"x":1.0}`)),
		jsonrpc.NewError(nil, jsonrpc.CodeParse, "bad", nil),
		jsonrpc.NewError(id, jsonrpc.CodeInternal, "bad", map[string]string{"a": "b"}),
	} {
		if _, err := jsonrpc.Parse(raw, jsonrpc.Limits{Strict: true}); err != nil || !json.Valid(raw) {
			t.Errorf("%s: %v", raw, err)
		}
		if bytes.Contains(raw, []byte(`\u003c`)) {
			t.Errorf("%s: HTML-escaped", raw)
		}
	}
}

// FuzzParse holds the scanner against encoding/json: what one accepts as JSON
// the other does too, and the members found are the same.
func FuzzParse(f *testing.F) {
	for _, s := range []string{
		`{"jsonrpc":"2.0","id":1,"method":"x","params":{"a":[1,2,{"b":null}]}}`,
		`{"jsonrpc":"2.0","id":"\ud83d\ude00","result":{}}`, `{"a":1e5,"b":-0.1E+2}`, `[{}]`, `{"id":1,"error":{"code":1}}`, "\"\\u00e9\"",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		m, err := jsonrpc.Parse(in, jsonrpc.Limits{MaxDepth: 9000})
		if err == nil {
			var members map[string]json.RawMessage
			if uerr := json.Unmarshal(m.Raw, &members); uerr != nil {
				t.Fatalf("accepted what encoding/json refuses: %v", uerr)
			}
			var method string
			if tok, ok := members["method"]; ok && json.Unmarshal(tok, &method) == nil && method != m.Method {
				t.Fatalf("method %q, encoding/json says %q", m.Method, method)
			}
			return
		}
		e, _ := errors.AsType[*jsonrpc.Error](err)
		if e.Code == jsonrpc.CodeParse && json.Valid(in) && utf8.Valid(in) {
			t.Fatalf("refused valid JSON as a parse error: %v", err)
		}
		if e.Code == jsonrpc.CodeInvalidRequest && !strings.Contains(e.Message, "nested") && !json.Valid(in) {
			t.Fatalf("called invalid JSON an invalid request: %v", err)
		}
	})
}

func BenchmarkParse(b *testing.B) {
	raw := []byte(`{"jsonrpc":"2.0","id":12,"method":"tools/call","params":{"name":"add","arguments":{"a":19,"b":23},"_meta":{"progressToken":12}}}`)
	for _, strict := range []bool{false, true} {
		b.Run(map[bool]string{false: "relay", true: "strict"}[strict], func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := jsonrpc.Parse(raw, jsonrpc.Limits{Strict: strict}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
