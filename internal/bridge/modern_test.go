package bridge_test

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mcp-clerk/mcp-clerk/internal/bridge"
	"github.com/mcp-clerk/mcp-clerk/internal/jsonrpc"
)

// notes is what a person was told.
type notes struct {
	mu  sync.Mutex
	got []string
}

func (n *notes) add(text string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.got = append(n.got, text)
}

func (n *notes) all() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.got)
}

// A tool that is left out is missed by the person, who is told why: once for
// each tool, and not of more than twenty.
func TestThePersonIsToldOfToolsThatAreLeftOut(t *testing.T) {
	tool := func(name string) string {
		return fmt.Sprintf(`{"name":%q,"inputSchema":{"type":"object","properties":{"a\u001b[31m%s":{"type":"number","x-mcp-header":"A"}}}}`, name, strings.Repeat("x", 1000))
	}
	var many []string
	for i := range 30 {
		many = append(many, tool(fmt.Sprint("tool-", i)))
	}
	for name, test := range map[string]struct {
		tools []string
		want  int
	}{
		"one":  {[]string{tool("bad"), `{"name":"good","inputSchema":{"type":"object"}}`}, 1},
		"many": {many, 20},
		"long": {[]string{tool(strings.Repeat("y", 1000))}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			url := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				answerJSON(w, 200, `{"jsonrpc":"2.0","id":1,"result":{"resultType":"complete","tools":[`+strings.Join(test.tools, ",")+`]}}`)
			}))
			var told notes
			h := start(t, bridge.Options{URL: url, Note: told.add})
			for range 2 {
				if line := h.call(modern(1, "tools/list")); strings.Contains(line, "x-mcp-header") {
					t.Errorf("the host got %s", line)
				}
			}
			got := told.all()
			if len(got) != test.want {
				t.Fatalf("the person was told %q", got)
			}
			for _, text := range got {
				if !strings.Contains(text, "is left out") || !strings.Contains(text, "x-mcp-header of") || len(text) > 600 || strings.ContainsAny(text, "\x1b\n") {
					t.Errorf("the person was told %q", text)
				}
			}
		})
	}
}

// The params of a notification need not name a version; its headers do.
func TestNotificationsOfAModernHostHaveTheHeadersOfItsRequests(t *testing.T) {
	got := make(chan http.Header, 1)
	url := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Mcp-Method") == "x/y" {
			answerJSON(w, 200, `{"jsonrpc":"2.0","id":1,"result":{"resultType":"complete"}}`)
			return
		}
		got <- r.Header.Clone()
		w.WriteHeader(http.StatusAccepted)
	}))
	h := start(t, bridge.Options{URL: url})
	h.call(modern(1, "x/y"))
	for _, raw := range []string{
		`{"jsonrpc":"2.0","method":"notifications/x"}`,
		`{"jsonrpc":"2.0","method":"notifications/é","params":{"_meta":{}}}`,
		`{"jsonrpc":"2.0","method":"notifications/z","params":{` + meta + `}}`,
	} {
		h.send(raw)
		m, err := jsonrpc.Parse([]byte(raw), jsonrpc.Limits{})
		if err != nil {
			t.Fatal(err)
		}
		method := m.Method
		if strings.HasSuffix(method, "é") {
			method = "=?base64?bm90aWZpY2F0aW9ucy/DqQ==?="
		}
		header := <-got
		if header.Get("Mcp-Protocol-Version") != "2026-07-28" || header.Get("Mcp-Method") != method {
			t.Errorf("%s was sent with %v", raw, header)
		}
	}
}

// A proxy that cuts a quiet stream is no reason to listen ever more rarely.
func TestASubscriptionThatIsCutWhenQuietIsOpenedAgainAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var opens atomic.Int32
		o, _ := inMemory(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			opens.Add(1)
			events(w)(`{"jsonrpc":"2.0","method":"notifications/subscriptions/acknowledged"}`)
			select {
			case <-time.After(30 * time.Second):
				panic(http.ErrAbortHandler)
			case <-r.Context().Done():
			}
		}))
		h := start(t, o)
		h.call(modern(1, "subscriptions/listen"))
		time.Sleep(10 * time.Minute)
		if n := opens.Load(); n < 19 {
			t.Errorf("opened %d times in 10 minutes", n)
		}
		_ = h.end()
	})
}
