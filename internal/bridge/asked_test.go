package bridge_test

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/mcp-clerk/mcp-clerk/internal/bridge"
	"github.com/mcp-clerk/mcp-clerk/internal/jsonrpc"
)

// Some hosts read ids as floating-point numbers: a server that counts beyond
// 2^53, or in fractions, gets its answers all the same, under its own ids.
func TestAnswersUnderMangledIDsReachTheServer(t *testing.T) {
	big := strings.Repeat("x", 5<<20)
	for name, test := range map[string]struct {
		asked  []string
		answer string
		want   string // the id of the answer at the server; "": it gets none
		result string
	}{
		"beyond 2^53":      {[]string{"9007199254740993"}, "9007199254740992", "9007199254740993", "{}"},
		"large":            {[]string{"9007199254740993"}, "9007199254740992", "9007199254740993", `{"x":"` + big + `"}`},
		"a fraction":       {[]string{"7.0", "8"}, "7", "7.0", "{}"},
		"a string":         {[]string{"7", "8"}, `"7"`, "", "{}"}, // an answer to another, or twice
		"a number":         {[]string{`"7"`}, `7`, "", "{}"},
		"escapes":          {[]string{`"a\u0041"`, `"b"`}, `"aA"`, `"a\u0041"`, "{}"},
		"its own":          {[]string{"7", `"7"`}, `"7"`, `"7"`, "{}"},
		"either":           {[]string{"9007199254740993", "9007199254740992.0"}, "9007199254740992", "", "{}"},
		"another":          {[]string{"7"}, "8", "", "{}"},
		"nobody's, as yet": {nil, "7", "", "{}"},
	} {
		t.Run(name, func(t *testing.T) {
			answers := make(chan string, 1)
			s := &remote{handle: func(w http.ResponseWriter, _ *http.Request, m *jsonrpc.Message) {
				send := events(w)
				for _, id := range test.asked {
					send(`{"jsonrpc":"2.0","id":` + id + `,"method":"elicitation/create","params":{}}`)
				}
				send(answer(1))
			}}
			h := start(t, bridge.Options{URL: serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				s.ServeHTTP(w, r)
				if all := s.bodies(""); len(all) > 0 && r.Method == http.MethodPost {
					select {
					case answers <- all[0]:
					default:
					}
				}
			}))})
			h.handshake()
			h.send(request(1, "tools/call", `{"name":"t"}`))
			for range len(test.asked) + 1 {
				h.next()
			}
			h.send(`{"jsonrpc":"2.0","id":` + test.answer + `,"result":` + test.result + `}`)
			if test.want != "" {
				if got, want := <-answers, fmt.Sprintf(`{"jsonrpc":"2.0","id":%s,"result":%s}`, test.want, test.result); got != want {
					t.Errorf("the server got %.200s", got)
				}
				return
			}
			_ = h.end() // what was to be sent has been sent then
			if got := s.bodies(""); slices.ContainsFunc(got, func(b string) bool { return strings.Contains(b, `"result"`) }) {
				t.Errorf("the server got %.200q", got)
			}
		})
	}
}
