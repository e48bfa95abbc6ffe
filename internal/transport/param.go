package transport

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/mcp-clerk/mcp-clerk/internal/jsonrpc"
)

// A HeaderParam is a parameter of a tool that goes along as a header
// (2026-07-28, basic/transports/streamable-http, "Custom Headers from Tool
// Parameters").
type HeaderParam struct {
	Header string   // its whole name
	Path   []string // to its value in the arguments
}

// HeaderParams returns the parameters of a tool with this inputSchema that go
// along as headers. An error says what makes the tool's definition invalid.
func HeaderParams(inputSchema json.RawMessage) ([]HeaderParam, error) {
	var s headerScan
	s.schema(inputSchema, nil, true)
	if s.fault != nil {
		return nil, s.fault
	}
	return s.found, nil
}

const keyHeader = "x-mcp-header"

type headerScan struct {
	found []HeaderParam
	fault error
}

func (s *headerScan) wrong(format string, args ...any) bool {
	s.fault = fmt.Errorf(format, args...)
	return false
}

// schema looks for annotations. Only below properties alone are they allowed;
// elsewhere they make the definition invalid.
func (s *headerScan) schema(schema json.RawMessage, path []string, reachable bool) {
	_ = jsonrpc.Members(schema, func(key string, val json.RawMessage) bool { // true and false are schemas, too
		switch key {
		case keyHeader:
			return s.annotation(schema, val, path, reachable)
		case "properties":
			_ = jsonrpc.Members(val, func(name string, sub json.RawMessage) bool {
				s.schema(sub, append(slices.Clone(path), name), reachable)
				return s.fault == nil
			})
		case "patternProperties", "$defs", "definitions", "dependentSchemas":
			_ = jsonrpc.Members(val, func(_ string, sub json.RawMessage) bool {
				s.schema(sub, nil, false)
				return s.fault == nil
			})
		case "const", "enum", "default", "examples": // data
		default:
			s.schema(val, nil, false)
			elements, _ := jsonrpc.Elements(val) // not an array: none
			for _, e := range elements {
				s.schema(e, nil, false)
			}
		}
		return s.fault == nil
	})
}

func (s *headerScan) annotation(schema, val json.RawMessage, path []string, reachable bool) bool {
	var name string
	switch {
	case !reachable || len(path) == 0:
		return s.wrong("%s where no property is", keyHeader)
	case json.Unmarshal(val, &name) != nil || !token(name):
		return s.wrong("%s of %q is no header name", keyHeader, strings.Join(path, "."))
	case !primitive(schema):
		return s.wrong("%s of %q, which is no string, integer or boolean", keyHeader, strings.Join(path, "."))
	}
	header := http.CanonicalHeaderKey("Mcp-Param-" + name)
	if slices.ContainsFunc(s.found, func(p HeaderParam) bool { return p.Header == header }) {
		return s.wrong("%s %q twice", keyHeader, name)
	}
	s.found = append(s.found, HeaderParam{header, path})
	return true
}

// primitive reports whether a schema describes a string, an integer or a
// boolean, or null beside it.
func primitive(schema json.RawMessage) bool {
	raw, _ := jsonrpc.Lookup(schema, "type")
	var types []string
	if json.Unmarshal(raw, &types) != nil {
		var one string
		if json.Unmarshal(raw, &one) != nil {
			return false
		}
		types = []string{one}
	}
	if len(types) == 2 {
		types = slices.DeleteFunc(types, func(t string) bool { return t == "null" })
	}
	return len(types) == 1 && slices.Contains([]string{"string", "integer", "boolean"}, types[0])
}

// token reports whether v is a token of RFC 9110 section 5.6.2.
func token(v string) bool {
	for i := range len(v) {
		if c := v[i]; c <= ' ' || c >= 0x7f || strings.IndexByte(`"(),/:;<=>?@[\]{}`, c) >= 0 {
			return false
		}
	}
	return v != ""
}

// ParamHeader returns the headers of a call with these arguments. What is
// missing or null is left out.
func ParamHeader(params []HeaderParam, arguments json.RawMessage) http.Header {
	h := http.Header{}
	for _, p := range params {
		val, ok := jsonrpc.Lookup(arguments, p.Path...)
		if !ok {
			continue
		}
		switch c := val[0]; {
		case c == '"':
			var text string
			if json.Unmarshal(val, &text) == nil {
				h[p.Header] = []string{EncodeHeaderValue(text)}
			}
		case c == 't' || c == 'f':
			h[p.Header] = []string{string(val)}
		case c == '-' || c >= '0' && c <= '9':
			h[p.Header] = []string{decimal(string(val))}
		}
	}
	return h
}

// decimal writes an integer without a fraction or an exponent.
func decimal(number string) string {
	const safe = 1 << 53
	if strings.ContainsAny(number, ".eE") {
		if f, err := strconv.ParseFloat(number, 64); err == nil && f > -safe && f < safe && f == float64(int64(f)) {
			return strconv.FormatInt(int64(f), 10)
		}
	}
	return number
}
