package transport_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/net/http/httpguts"

	"github.com/mcp-clerk/mcp-clerk/internal/transport"
)

// 2026-07-28, basic/transports/streamable-http, "Schema Extension" and "Value
// Encoding".
func TestParametersThatGoAlongAsHeaders(t *testing.T) {
	const schema = `{"type":"object","properties":{
		"region":{"type":"string","x-mcp-header":"Region"},
		"n":{"type":"integer","x-mcp-header":"N"},
		"dry":{"type":["boolean","null"],"x-mcp-header":"dry-run"},
		"deep":{"type":"object","properties":{"er":{"type":"string","x-mcp-header":"Deep"}}},
		"x-mcp-header":{"type":"string"},
		"free":{"default":{"x-mcp-header":1},"enum":[{"x-mcp-header":2}]}}}`
	params, err := transport.HeaderParams(json.RawMessage(schema))
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		arguments string
		want      http.Header
	}{
		{`{"region":"us-west1","n":42,"dry":false,"deep":{"er":"a"}}`, http.Header{"Mcp-Param-Region": {"us-west1"}, "Mcp-Param-N": {"42"}, "Mcp-Param-Dry-Run": {"false"}, "Mcp-Param-Deep": {"a"}}},
		{`{"region":"Hello, 世界","n":-7,"dry":null}`, http.Header{"Mcp-Param-Region": {"=?base64?SGVsbG8sIOS4lueVjA==?="}, "Mcp-Param-N": {"-7"}}},
		{`{"region":"a\nb","n":4.20e1}`, http.Header{"Mcp-Param-Region": {"=?base64?YQpi?="}, "Mcp-Param-N": {"42"}}},
		{`{"region":"","n":9007199254740993}`, http.Header{"Mcp-Param-Region": {""}, "Mcp-Param-N": {"9007199254740993"}}},
		{`{"region":{"a":1},"n":[1],"deep":"x"}`, http.Header{}},
		{`{}`, http.Header{}},
		{``, http.Header{}},
	}
	for _, tt := range tests {
		if diff := cmp.Diff(tt.want, transport.ParamHeader(params, json.RawMessage(tt.arguments))); diff != "" {
			t.Errorf("%s: (-want +got)\n%s", tt.arguments, diff)
		}
	}
}

// The same section: what makes a tool's definition invalid.
func TestToolsWithInvalidHeaders(t *testing.T) {
	property := func(p string) string { return `{"type":"object","properties":{"a":` + p + `}}` }
	for name, schema := range map[string]string{
		"empty":             property(`{"type":"string","x-mcp-header":""}`),
		"not a string":      property(`{"type":"string","x-mcp-header":1}`),
		"a space":           property(`{"type":"string","x-mcp-header":"a b"}`),
		"a colon":           property(`{"type":"string","x-mcp-header":"a:b"}`),
		"a line break":      property(`{"type":"string","x-mcp-header":"a\r\nb"}`),
		"not ASCII":         property(`{"type":"string","x-mcp-header":"é"}`),
		"number":            property(`{"type":"number","x-mcp-header":"A"}`),
		"object":            property(`{"type":"object","x-mcp-header":"A"}`),
		"null":              property(`{"type":"null","x-mcp-header":"A"}`),
		"two types":         property(`{"type":["string","integer"],"x-mcp-header":"A"}`),
		"no type":           property(`{"x-mcp-header":"A"}`),
		"twice":             `{"properties":{"a":{"type":"string","x-mcp-header":"A"},"b":{"type":"string","x-mcp-header":"a"}}}`,
		"the root":          `{"type":"string","x-mcp-header":"A"}`,
		"items":             property(`{"type":"array","items":{"type":"string","x-mcp-header":"A"}}`),
		"below items":       property(`{"type":"array","items":{"properties":{"b":{"type":"string","x-mcp-header":"A"}}}}`),
		"oneOf":             property(`{"oneOf":[{"type":"string","x-mcp-header":"A"}]}`),
		"then":              `{"if":{},"then":{"properties":{"a":{"type":"string","x-mcp-header":"A"}}}}`,
		"$defs":             `{"$defs":{"a":{"type":"string","x-mcp-header":"A"}}}`,
		"patternProperties": `{"patternProperties":{"a":{"type":"string","x-mcp-header":"A"}}}`,
	} {
		if params, err := transport.HeaderParams(json.RawMessage(schema)); err == nil {
			t.Errorf("%s: accepted as %v", name, params)
		}
	}
}

// Whatever a server's schema and a host's arguments say, the headers are some
// that net/http sends, and say what the arguments do.
func FuzzParamHeader(f *testing.F) {
	f.Add(`{"properties":{"a":{"type":"string","x-mcp-header":"A"}}}`, `{"a":"x\ny"}`)
	f.Add(`{"properties":{"a":{"type":"integer","x-mcp-header":"A"}}}`, `{"a":1e3}`)
	f.Fuzz(func(t *testing.T, schema, arguments string) {
		if !json.Valid([]byte(schema)) || !json.Valid([]byte(arguments)) {
			return
		}
		params, err := transport.HeaderParams(json.RawMessage(schema))
		if err != nil {
			return
		}
		for name, values := range transport.ParamHeader(params, json.RawMessage(arguments)) {
			if !strings.HasPrefix(name, "Mcp-Param-") || !httpguts.ValidHeaderFieldName(name) || len(values) != 1 || !httpguts.ValidHeaderFieldValue(values[0]) {
				t.Errorf("%q: %q is no header", name, values)
			}
		}
	})
}
