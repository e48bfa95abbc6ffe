package transport_test

import (
	"encoding/base64"
	"strings"
	"testing"

	"golang.org/x/net/http/httpguts"

	"github.com/mcp-clerk/mcp-clerk/internal/transport"
)

// 2026-07-28, basic/transports/streamable-http, "Value Encoding".
func TestEncodeHeaderValue(t *testing.T) {
	tests := []struct{ in, want string }{
		{"us-west1", "us-west1"},
		{"Hello, 世界", "=?base64?SGVsbG8sIOS4lueVjA==?="},
		{" padded ", "=?base64?IHBhZGRlZCA=?="},
		{"line1\nline2", "=?base64?bGluZTEKbGluZTI=?="},
		{"=?base64?literal?=", "=?base64?PT9iYXNlNjQ/bGl0ZXJhbD89?="},
		{"=?BASE64?literal?=", "=?BASE64?literal?="},
		{"=?base64?open", "=?base64?open"},
		{"a b\tc", "a b\tc"},
		{"tab\t", "=?base64?dGFiCQ==?="},
		{"\x7f", "=?base64?fw==?="},
		{"", ""},
		{"file:///projects/myapp/config.json", "file:///projects/myapp/config.json"},
	}
	for _, tt := range tests {
		if got := transport.EncodeHeaderValue(tt.in); got != tt.want {
			t.Errorf("%q: got %q, want %q", tt.in, got, tt.want)
		}
	}
}

// decode is what the revision asks of a server.
func decode(v string) (string, bool) {
	if !strings.HasPrefix(v, "=?base64?") || !strings.HasSuffix(v, "?=") || len(v) < len("=?base64??=") {
		return v, true
	}
	b, err := base64.StdEncoding.DecodeString(v[len("=?base64?") : len(v)-len("?=")])
	return string(b), err == nil
}

func FuzzEncodeHeaderValue(f *testing.F) {
	for _, s := range []string{"", "a", " ", "é", "=?base64??=", "=?base64?=", "\r\nX: y", "\x00"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		v := transport.EncodeHeaderValue(s)
		if !httpguts.ValidHeaderFieldValue(v) || strings.TrimSpace(v) != v || strings.ContainsFunc(v, func(r rune) bool { return r > '~' }) {
			t.Fatalf("%q: %q is no header value", s, v)
		}
		if got, ok := decode(v); !ok || got != s {
			t.Fatalf("%q: %q decodes to %q", s, v, got)
		}
	})
}
