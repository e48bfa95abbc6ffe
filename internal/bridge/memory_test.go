package bridge_test

import (
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mcp-clerk/mcp-clerk/internal/bridge"
)

// notebook is what one process of a host leaves to the next.
type notebook struct {
	mu   sync.Mutex
	data []byte
}

func (n *notebook) recall() []byte {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.data
}

func (n *notebook) remember(data []byte) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.data = data
}

// A server that was found to speak one way only is spoken to in that way by the
// processes that follow, for a day, and no longer than it takes it.
func TestTheOnlyWayIsRemembered(t *testing.T) {
	const (
		asked      = "POST initialize"
		discovered = "POST server/discover"
		listed     = "POST tools/list"
	)
	type process struct {
		server string
		after  time.Duration
		modern bool // the host
		want   []string
	}
	day := 24*time.Hour + time.Minute
	for name, processes := range map[string][]process{
		"a server of 2026-07-28": {
			{server: "modern", want: []string{asked, discovered, listed}},
			{server: "modern", want: []string{discovered, listed}},
			{server: "modern", modern: true, want: []string{listed}},
			{server: "modern", want: []string{discovered, listed}},
			{server: "modern", after: day, want: []string{asked, discovered, listed}},
			{server: "modern", want: []string{discovered, listed}},
		},
		"that becomes one of sessions": {
			{server: "modern", want: []string{asked, discovered, listed}},
			{server: "sessions", want: []string{discovered, asked, listed}},
			{server: "sessions", want: []string{asked, listed}},
		},
		"that becomes one of both": {
			{server: "modern", want: []string{asked, discovered, listed}},
			{server: "both", want: []string{discovered, listed}},
			{server: "both", after: day, want: []string{asked, listed}},
			{server: "both", want: []string{asked, listed}},
		},
		"that becomes one of HTTP+SSE": {
			{server: "modern", want: []string{asked, discovered, listed}},
			{server: "sse", want: []string{discovered, asked, discovered, "GET", asked, listed}},
			{server: "sse", want: []string{"GET", asked, listed}},
		},
		"a server of sessions": {
			{server: "sessions", modern: true, want: []string{listed, asked, listed}},
			{server: "sessions", modern: true, want: []string{asked, listed}},
			{server: "sessions", want: []string{asked, listed}},
			{server: "sessions", modern: true, want: []string{asked, listed}},
			{server: "sessions", modern: true, after: day, want: []string{listed, asked, listed}},
		},
		"that becomes one of 2026-07-28": {
			{server: "sessions", modern: true, want: []string{listed, asked, listed}},
			{server: "modern", modern: true, want: []string{asked, listed}},
			{server: "modern", modern: true, want: []string{listed}},
			{server: "modern", want: []string{asked, discovered, listed}},
		},
		"a server of HTTP+SSE": {
			{server: "sse", want: []string{asked, discovered, "GET", asked, listed}},
			{server: "sse", want: []string{"GET", asked, listed}},
			{server: "sse", modern: true, want: []string{"GET", asked, listed}},
			{server: "sse", after: day, modern: true, want: []string{listed, asked, "GET", asked, listed}},
			{server: "sse", modern: true, want: []string{"GET", asked, listed}},
		},
		"that leaves it": {
			{server: "sse", want: []string{asked, discovered, "GET", asked, listed}},
			{server: "sessions", want: []string{"GET", asked, listed}},
			{server: "sessions", want: []string{asked, listed}},
		},
		"that leaves it for 2026-07-28": {
			{server: "sse", modern: true, want: []string{listed, asked, "GET", asked, listed}},
			{server: "modern", modern: true, want: []string{"GET", listed}},
			{server: "modern", modern: true, want: []string{listed}},
		},
		"a server of both": {
			{server: "both", want: []string{asked, listed}},
			{server: "both", modern: true, want: []string{listed}},
			{server: "both", want: []string{asked, listed}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var book notebook
				for i, p := range processes {
					time.Sleep(p.after)
					var mu sync.Mutex
					var got []string
					servers := map[string]http.Handler{
						"modern": &modernServer{}, "sessions": legacyOnly(&remote{}), "sse": &sseServer{}, "both": both(&remote{}, &modernServer{}),
					}
					o, _ := inMemory(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
						m := peek(r)
						// What is opened for what the server sends of itself comes in any order.
						opened := r.Method == http.MethodGet && r.Header.Get("Mcp-Session-Id") != "" || m.Method == "subscriptions/listen"
						if !opened && r.Method != http.MethodDelete && !m.IsNotification() {
							mu.Lock()
							got = append(got, strings.TrimSpace(r.Method+" "+m.Method))
							mu.Unlock()
						}
						servers[p.server].ServeHTTP(w, r)
					}))
					o.URL = "http://server.test/sse"
					o.Recall, o.Remember = book.recall, book.remember
					h := start(t, o)
					if p.modern {
						h.send(modernCall(1, "tools/list", ""))
					} else {
						h.handshake()
						h.send(request(1, "tools/list", ""))
					}
					if line := h.next(); !strings.Contains(line, `"id":1,"result"`) {
						t.Errorf("process %d got %s", i+1, line)
					}
					if err := h.end(); err != nil {
						t.Error(err)
					}
					if !slices.Equal(got, p.want) {
						t.Errorf("process %d: the server got %q, want %q", i+1, got, p.want)
					}
				}
			})
		})
	}
}

// A memory that is damaged, of another program or from the future is none.
func TestAMemoryThatIsNoneIsNotFollowed(t *testing.T) {
	for _, text := range []string{
		"", "null", "[]", `"2026-07-28"`, `{"only":7}`, `{"only":"2026-07-28"}`, `{"only":"2026-07-28","found":"soon"}`,
		`{"only":"2026-07-28","found":"2999-01-01T00:00:00Z"}`, `{"only":"else","found":"2000-01-01T00:00:00Z"}`,
	} {
		synctest.Test(t, func(t *testing.T) { // whose clock begins in 2000
			state := &remote{}
			o, _ := inMemory(t, state)
			o.Recall = func() []byte { return []byte(text) }
			h := start(t, o)
			want(t, h.call(initialize)[:len(`{"jsonrpc":"2.0","id":"i","result"`)], `{"jsonrpc":"2.0","id":"i","result"`)
			if got := state.bodies(); !slices.Equal(got, []string{initialize}) {
				t.Errorf("with %q the server got %q", text, got)
			}
		})
	}
}

// Who asks for one transport is not led to another by what was found before.
func TestTheOnlyWayYieldsToTheStrategy(t *testing.T) {
	for _, strategy := range []bridge.Strategy{bridge.HTTPOnly, bridge.SSEOnly} {
		synctest.Test(t, func(t *testing.T) {
			s := &sseServer{}
			var first string
			o, _ := inMemory(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if first == "" {
					first = r.Method
				}
				s.ServeHTTP(w, r)
			}))
			o.URL, o.Strategy = "http://server.test/sse", strategy
			o.Recall = func() []byte {
				only := "http+sse"
				if strategy == bridge.SSEOnly {
					only = "2026-07-28"
				}
				return []byte(`{"only":"` + only + `","found":"2000-01-01T00:00:00Z"}`)
			}
			h := start(t, o)
			h.call(initialize)
			if got := map[bridge.Strategy]string{bridge.HTTPOnly: "POST", bridge.SSEOnly: "GET"}[strategy]; first != got {
				t.Errorf("%s: the first request is a %s", strategy, first)
			}
		})
	}
}
