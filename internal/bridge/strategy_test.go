package bridge_test

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mcp-clerk/mcp-clerk/internal/bridge"
)

// The transports: which is tried, in which order, and what becomes of it.

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

// A server that takes the request for a stream and never begins one is no server
// of HTTP+SSE: the host hears of the other refusal, or is served the other way.
func TestAStreamThatNeverBeginsLeavesTheOtherWay(t *testing.T) {
	for _, tt := range []struct {
		strategy bridge.Strategy
		server   http.Handler
		want     string
	}{
		{bridge.HTTPFirst, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotFound) }), "HTTP status 404"},
		{bridge.SSEFirst, &remote{}, `"serverInfo":{"name":"s"`},
		{bridge.SSEOnly, &remote{}, "cannot reach"},
	} {
		t.Run(string(tt.strategy), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o, _ := inMemory(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if r.Method == http.MethodGet {
						<-r.Context().Done()
						return
					}
					tt.server.ServeHTTP(w, r)
				}))
				o.Strategy = tt.strategy
				if got := start(t, o).call(initialize); !strings.Contains(got, tt.want) {
					t.Errorf("got %s", got)
				}
			})
		})
	}
}

// A server of HTTP+SSE that is replaced by one of Streamable HTTP at the same
// URL is found again, and one that its gateway does not know for a while is kept.
func TestAServerOfHTTPAndSSEThatIsReplaced(t *testing.T) {
	for _, hostModern := range []bool{false, true} {
		t.Run(fmt.Sprintf("modern=%v", hostModern), func(t *testing.T) {
			old := &sseServer{}
			var mu sync.Mutex
			var server http.Handler = old
			replace := func(by http.Handler) {
				mu.Lock()
				server = by
				mu.Unlock()
			}
			h := start(t, bridge.Options{URL: serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				mu.Lock()
				now := server
				mu.Unlock()
				now.ServeHTTP(w, r)
			})) + "/sse"})
			call := func(id int, method string) string {
				if hostModern {
					return h.call(modernCall(id, method, ""))
				}
				return h.call(request(id, method, ""))
			}
			if !hostModern {
				h.handshake()
			}
			call(1, "x/y")
			replace(http.NotFoundHandler())
			errorOf(t, call(2, "x/y"), 2)
			errorOf(t, call(3, "x/y"), 3)
			// What was in vain is not tried again at once.
			found := func(what string) {
				t.Helper()
				for id, deadline := 4, time.Now().Add(40*time.Second); ; id++ {
					got := call(id, "x/y")
					if strings.Contains(got, what) {
						return
					}
					if time.Now().After(deadline) {
						t.Fatalf("got %s, want %s", got, what)
					}
					time.Sleep(10 * time.Millisecond)
				}
			}
			replace(old)
			found(`"x":1.50`)
			// The stream of before is still open; its endpoint is there no more.
			replace(legacyOnly(&remote{}))
			found(`"result":{`)
		})
	}
}

func TestServersOfHTTPAndSSE(t *testing.T) {
	t.Run("legacy host", func(t *testing.T) {
		s := &sseServer{}
		h := start(t, bridge.Options{URL: serve(t, s) + "/sse"})
		h.handshake()
		want(t, h.call(request(1, "x/y", "")), `{"jsonrpc":"2.0","id":1,"result":{"x":1.50}}`)
		h.send(request(2, "notify", ""))
		want(t, h.next(), `{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}`)
		want(t, h.next(), answer(2))
		// What waits when the stream drops is answered, and then all goes on.
		if _, text := errorOf(t, h.call(request(3, "drop", "")), 3); !strings.Contains(text, "ended before the response") {
			t.Errorf("the error says %q", text)
		}
		want(t, h.call(request(4, "x/y", "")), `{"jsonrpc":"2.0","id":4,"result":{"x":1.50}}`)
		if err := h.end(); err != nil {
			t.Error(err)
		}
		if n := s.count("initialize"); n != 2 {
			t.Errorf("initialize was sent %d times, want once for each stream", n)
		}
		if n := s.count("drop"); n != 1 {
			t.Errorf("a request that may have run was sent %d times", n)
		}
	})
	t.Run("modern host", func(t *testing.T) {
		s := &sseServer{}
		h := start(t, bridge.Options{URL: serve(t, s) + "/sse"})
		want(t, h.call(modernCall(1, "x/y", "")), `{"jsonrpc":"2.0","id":1,"result":{"resultType":"complete","x":1.50}}`)
		h.send(modernCall(2, "subscriptions/listen", `"notifications":{"toolsListChanged":true}`))
		want(t, h.next(), `{"jsonrpc":"2.0","method":"notifications/subscriptions/acknowledged","params":{"_meta":{"io.modelcontextprotocol/subscriptionId":2},"notifications":{"toolsListChanged":true}}}`)
		h.send(modernCall(3, "notify", ""))
		want(t, h.next(), `{"jsonrpc":"2.0","method":"notifications/tools/list_changed","params":{"_meta":{"io.modelcontextprotocol/subscriptionId":2}}}`)
		want(t, h.next(), `{"jsonrpc":"2.0","id":3,"result":{"resultType":"complete"}}`)
	})
	// The bearer and the messages go to the server's origin only.
	t.Run("endpoint elsewhere", func(t *testing.T) {
		var reached atomic.Bool
		other := serve(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { reached.Store(true) }))
		s := &sseServer{endpoint: other + "/messages"}
		h := start(t, bridge.Options{URL: serve(t, s) + "/sse", Authorizer: &person{token: "secret"}})
		errorOf(t, h.call(initialize), "i")
		if err := h.end(); err != nil {
			t.Error(err)
		}
		if reached.Load() {
			t.Error("another origin was sent something")
		}
	})
}
