package mcphttp_test

import (
	"context"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/mcp-clerk/mcp-clerk/internal/jsonrpc"
	"github.com/mcp-clerk/mcp-clerk/internal/mcphttp"
)

// discard is a ResponseWriter that costs nothing, so that a benchmark shows
// what this layer does and not what net/http does.
type discard struct{ h http.Header }

func (d *discard) Header() http.Header         { return d.h }
func (d *discard) Write(p []byte) (int, error) { return len(p), nil }
func (d *discard) WriteHeader(int)             {}

func BenchmarkCall(b *testing.B) {
	o := options(mcphttp.HandlerFunc(func(_ context.Context, call *mcphttp.Call) ([]byte, error) {
		if call.Message.Method == "initialize" {
			return basics(b.Context(), call)
		}
		return jsonrpc.NewResult(call.Message.ID, nil), nil
	}), io.Discard)
	o.UserRate = mcphttp.Rate{PerSecond: 1e9, Burst: 1e9} // counted, and never reached
	m, err := mcphttp.New(o)
	if err != nil {
		b.Fatal(err)
	}
	s := start(b, o.Handler)
	legacy := s.session("2025-11-25", "{}")
	body, hm := modern("1", "tools/call", `"name":"add","arguments":{"a":19,"b":23}`)
	for name, tt := range map[string]struct {
		body string
		h    header
	}{
		"legacy": {`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"add","arguments":{"a":19,"b":23}}}`, legacy},
		"modern": {body, hm},
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			proto := s.request(tt.body, tt.h)
			for b.Loop() {
				w := &discard{h: http.Header{}}
				r := *proto
				r.Body = io.NopCloser(strings.NewReader(tt.body))
				m.ServeHTTP(w, &r)
				if w.h.Get("Content-Type") != "application/json" {
					b.Fatal(w.h)
				}
			}
		})
	}
}
