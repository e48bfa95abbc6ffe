package bridge_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/mcp-clerk/mcp-clerk/internal/bridge"
	"github.com/mcp-clerk/mcp-clerk/internal/jsonrpc"
)

// Structured content that is no object is nothing to a legacy host. What is too
// large for memory is not taken for that: it is a string only where it stands.
func TestStructuredContentForALegacyHost(t *testing.T) {
	big := strings.Repeat("x", 5<<20)
	for name, test := range map[string]struct{ result, want string }{
		"an object":       {`"structuredContent":{"a":1.0},"content":[]`, `"structuredContent":{"a":1.0},"content":[]`},
		"an array":        {`"structuredContent":[1.0],"content":[]`, `"content":[{"type":"text","text":"[1.0]"}]`},
		"a large object":  {`"structuredContent":{"a":"` + big + `"},"content":[]`, `"structuredContent":{"a":"` + big + `"},"content":[]`},
		"beside a string": {`"structuredContent":7,"content":[{"type":"text","text":"` + big + `"}]`, `"content":[{"type":"text","text":"` + big + `"}]`},
	} {
		t.Run(name, func(t *testing.T) {
			s := &modernServer{}
			h := start(t, bridge.Options{URL: serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Header.Get("Mcp-Method") == "tools/call" {
					answerJSON(w, 200, `{"jsonrpc":"2.0","id":1,"result":{"resultType":"complete",`+test.result+`}}`)
					return
				}
				s.ServeHTTP(w, r)
			}))})
			h.handshake()
			if got := h.call(request(1, "tools/call", `{"name":"t"}`)); got != `{"jsonrpc":"2.0","id":1,"result":{`+test.want+`}}` {
				m, err := jsonrpc.Parse([]byte(got), jsonrpc.Limits{})
				t.Errorf("got %.200s (%d bytes, %v)", got, len(m.Raw), err)
			}
		})
	}
}
