package bridge_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/mcp-clerk/mcp-clerk/internal/bridge"
)

// Which transports are tried, and in which order, is the user's to say.
func TestStrategies(t *testing.T) {
	tests := []struct {
		strategy bridge.Strategy
		server   string // sse, http, modern
		works    bool
		first    string // method of the first request, with --transport
	}{
		{"", "sse", true, http.MethodPost},
		{bridge.HTTPFirst, "sse", true, http.MethodPost},
		{bridge.HTTPOnly, "sse", false, http.MethodPost},
		{bridge.SSEFirst, "sse", true, http.MethodGet},
		{bridge.SSEOnly, "sse", true, http.MethodGet},
		{bridge.HTTPOnly, "http", true, http.MethodPost},
		{bridge.SSEFirst, "http", true, http.MethodGet},
		{bridge.SSEOnly, "http", false, http.MethodGet},
		{bridge.HTTPOnly, "modern", true, http.MethodPost},
		{bridge.SSEFirst, "modern", true, http.MethodGet},
		{bridge.SSEOnly, "modern", false, http.MethodGet},
	}
	for _, tt := range tests {
		for _, hostModern := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s %s modern=%v", tt.strategy, tt.server, hostModern), func(t *testing.T) {
				var server http.Handler = &remote{}
				switch tt.server {
				case "sse":
					server = &sseServer{}
				case "modern":
					server = &modernServer{}
				}
				methods := make(chan string, 100)
				url := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					methods <- r.Method
					server.ServeHTTP(w, r)
				}))
				h := start(t, bridge.Options{URL: url + "/sse", Strategy: tt.strategy})
				line := initialize
				if hostModern {
					line = modernCall(1, "tools/list", "")
				}
				if got := h.call(line); strings.Contains(got, `"result"`) != tt.works {
					t.Errorf("got %s", got)
				}
				if got := <-methods; got != tt.first {
					t.Errorf("the first request is a %s, want %s", got, tt.first)
				}
				if !tt.works {
					for len(methods) > 0 {
						if got := <-methods; got != tt.first {
							t.Errorf("a %s was made, too", got)
						}
					}
				}
			})
		}
	}
}
