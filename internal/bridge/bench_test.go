package bridge_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/mcp-clerk/mcp-clerk/internal/bridge"
	"github.com/mcp-clerk/mcp-clerk/internal/jsonrpc"
)

func BenchmarkRelayedCall(b *testing.B) {
	for _, inFlight := range []int{1, 32} {
		b.Run(fmt.Sprint("in flight ", inFlight), func(b *testing.B) {
			h := start(b, bridge.Options{URL: serve(b, &counting{})})
			h.handshake()
			raw := request(1, "tools/call", `{"name":"add","arguments":{"a":19,"b":23}}`)
			b.ReportAllocs()
			sent := 0
			for b.Loop() {
				for sent < inFlight {
					sent++
					h.send(strings.Replace(raw, `"id":1`, fmt.Sprintf(`"id":%d`, sent), 1))
				}
				line := h.next()
				m, err := jsonrpc.Parse([]byte(line), jsonrpc.Limits{})
				if err != nil {
					b.Fatal(err)
				}
				h.send(strings.Replace(raw, `"id":1`, `"id":`+string(m.ID), 1))
			}
		})
	}
}

// counting is a server that records nothing.
type counting struct{ remote }

func (c *counting) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodPost && r.Header.Get("Mcp-Session-Id") != "" {
		if m := peek(r); m.IsRequest() {
			answerJSON(w, 200, string(jsonrpc.NewResult(m.ID, nil)))
			return
		}
		w.WriteHeader(http.StatusAccepted)
		return
	}
	c.remote.ServeHTTP(w, r)
}
