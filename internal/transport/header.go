package transport

import (
	"encoding/base64"
	"net/http"
	"strings"

	"github.com/mcp-clerk/mcp-clerk/internal/jsonrpc"
)

// Header names of Streamable HTTP, in net/http's canonical form.
const (
	headerSession = "Mcp-Session-Id"
	headerVersion = "Mcp-Protocol-Version"
	headerMethod  = "Mcp-Method"
	headerName    = "Mcp-Name"
	headerLastID  = "Last-Event-Id"
)

// EncodeHeaderValue returns value as the revision 2026-07-28 carries it in
// Mcp-Name and Mcp-Param-* (basic/transports/streamable-http, "Value
// Encoding"): as it is when it is plain ASCII, otherwise as =?base64?…?=.
func EncodeHeaderValue(value string) string {
	if plainHeaderValue(value) {
		return value
	}
	return "=?base64?" + base64.StdEncoding.EncodeToString([]byte(value)) + "?="
}

func plainHeaderValue(v string) bool {
	if v == "" {
		return true
	}
	if strings.HasPrefix(v, "=?base64?") && strings.HasSuffix(v, "?=") {
		return false
	}
	for i := range len(v) {
		if c := v[i]; c != '\t' && (c < ' ' || c > '~') {
			return false
		}
	}
	return !strings.ContainsRune(" \t", rune(v[0])) && !strings.ContainsRune(" \t", rune(v[len(v)-1]))
}

// modernHeader sets the headers that mirror the body of a modern message
// (basic/transports/streamable-http, "Request Metadata").
func modernHeader(h http.Header, m *jsonrpc.Message, version string) {
	h.Set(headerVersion, EncodeHeaderValue(version))
	h.Set(headerMethod, EncodeHeaderValue(m.Method))
	var source string
	switch m.Method {
	case "tools/call", "prompts/get":
		source = "name"
	case "resources/read":
		source = "uri"
	default:
		return
	}
	if name, ok := jsonrpc.LookupString(m.Params, source); ok {
		h.Set(headerName, EncodeHeaderValue(name))
	}
}

// visibleASCII reports whether v consists of 1 to limit visible ASCII
// characters, as a session id must (2025-11-25, basic/transports, "Session
// Management").
func visibleASCII(v string, limit int) bool {
	for i := range len(v) {
		if v[i] <= ' ' || v[i] > '~' {
			return false
		}
	}
	return v != "" && len(v) <= limit
}
