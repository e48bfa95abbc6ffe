package bridge_test

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/mcp-clerk/mcp-clerk/internal/bridge"
	"github.com/mcp-clerk/mcp-clerk/internal/jsonrpc"
)

// Servers of one revision that answer, or refuse, in the words of another.

// Some servers of the stateless revision alone answer initialize with the last
// version that had it, for the host to leave, and refuse all that follows.
func TestAModernServerIsKnownByHowItRefusesWhatFollowsInitialize(t *testing.T) {
	for name, refuse := range map[string]func(http.ResponseWriter, *jsonrpc.Message){
		"text": func(w http.ResponseWriter, _ *jsonrpc.Message) {
			http.Error(w, "Bad Request: Unsupported protocol version (supported versions: 2026-07-28)", 400)
		},
		"JSON-RPC": func(w http.ResponseWriter, m *jsonrpc.Message) {
			answerJSON(w, 400, fmt.Sprintf(`{"jsonrpc":"2.0","id":%s,"error":{"code":-32000,"message":"Unsupported protocol version"}}`, max(string(m.ID), "null")))
		},
		"-32022": func(w http.ResponseWriter, m *jsonrpc.Message) {
			answerJSON(w, 400, fmt.Sprintf(`{"jsonrpc":"2.0","id":%s,"error":{"code":-32022,"message":"v","data":{"supported":["2026-07-28"],"requested":"2025-11-25"}}}`, max(string(m.ID), "null")))
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := &modernServer{refuse: func(w http.ResponseWriter, m *jsonrpc.Message) {
				if m.Method == "initialize" {
					answerJSON(w, 200, `{"jsonrpc":"2.0","id":`+string(m.ID)+`,"result":{"protocolVersion":"2025-11-25","capabilities":{"tools":{}},"serverInfo":{"name":"s","version":"1"}}}`)
					return
				}
				refuse(w, m)
			}}
			h := start(t, bridge.Options{URL: serve(t, s)})
			h.handshake()
			var all []string
			for i := range 10 {
				h.send(request(i, "tools/call", `{"name":"echo"}`))
				all = append(all, fmt.Sprintf(`{"jsonrpc":"2.0","id":%d,"result":{"content":[],"x":1.50}}`, i))
			}
			if got := h.collect(10); !slices.Equal(got, all) {
				t.Errorf("got %q", got)
			}
			discovered := 0
			for _, m := range s.methods() {
				if m == "POST server/discover" {
					discovered++
				}
			}
			if discovered != 1 {
				t.Errorf("the server got %q", s.methods())
			}
		})
	}
}

// A server of sessions that no longer knows the version of one may know another.
// Where it does not, the host gets its words, and it is not asked again and again.
func TestAServerThatHasGivenUpTheVersionOfASession(t *testing.T) {
	for next, answered := range map[string]bool{"2025-11-25": true, "2025-06-18": false} {
		t.Run(next, func(t *testing.T) {
			var gone atomic.Bool
			var discovered atomic.Int32
			s := &remote{version: "2025-06-18"}
			h := start(t, bridge.Options{URL: serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				switch {
				case r.Header.Get("Mcp-Method") == "server/discover":
					discovered.Add(1)
					http.Error(w, "no", http.StatusBadRequest)
				case gone.Load() && r.Header.Get("Mcp-Protocol-Version") == "2025-06-18":
					http.Error(w, "Bad Request: Unsupported protocol version", http.StatusBadRequest)
				default:
					s.ServeHTTP(w, r)
				}
			}))})
			h.handshake()
			if got := h.call(request(1, "x/y", "")); got != answer(1) {
				t.Errorf("got %s", got)
			}
			s.mu.Lock()
			s.version = next
			s.mu.Unlock()
			gone.Store(true)
			for i := range 5 {
				got := h.call(request(i, "x/y", ""))
				if answered && got != answer(i) || !answered && !strings.Contains(got, "Unsupported protocol version") {
					t.Errorf("got %s", got)
				}
			}
			if n, d := len(s.bodies("initialize")), discovered.Load(); n != 2 || d != 1 {
				t.Errorf("initialized %d times, asked to be discovered %d times", n, d)
			}
		})
	}
}

// A server that does not know what a modern request is refuses it with any 4xx,
// but for those that are about who asks, how much and how often.
func TestALegacyServerIsKnownByHowItRefusesAModernRequest(t *testing.T) {
	for status, translated := range map[int]bool{400: true, 404: true, 405: true, 406: true, 409: true, 410: true, 415: true, 422: true, 402: false, 403: false, 413: false, 421: false, 431: false, 500: false, 501: false} {
		for kind, body := range map[string]string{"text": "no", "JSON-RPC": `{"jsonrpc":"2.0","id":1,"error":{"code":-32000,"message":"no"}}`} {
			t.Run(fmt.Sprint(status, " ", kind), func(t *testing.T) {
				s := &remote{}
				h := start(t, bridge.Options{URL: serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					switch {
					case r.Header.Get("Mcp-Protocol-Version") != "2026-07-28":
						s.ServeHTTP(w, r)
					case kind == "text":
						http.Error(w, body, status)
					default:
						answerJSON(w, status, body)
					}
				}))})
				got := h.call(modernCall(1, "tools/call", `"name":"t"`))
				if got == `{"jsonrpc":"2.0","id":1,"result":{"resultType":"complete"}}` != translated || len(s.bodies()) > 0 != translated {
					t.Errorf("got %s, and the server %q", got, s.bodies())
				}
			})
		}
	}
}

// A server that has answered as a modern one is not asked for another era by what
// it refuses for other reasons.
func TestAModernServersOwnRefusals(t *testing.T) {
	for _, status := range []int{409, 410, 422} {
		s := &modernServer{}
		h := start(t, bridge.Options{URL: serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Mcp-Name") == "bad" {
				http.Error(w, "no such thing", status)
				return
			}
			s.ServeHTTP(w, r)
		}))})
		want(t, h.call(modernCall(1, "tools/call", `"name":"echo"`)), `{"jsonrpc":"2.0","id":1,"result":{"resultType":"complete","content":[],"x":1.50}}`)
		if _, text := errorOf(t, h.call(modernCall(2, "tools/call", `"name":"bad"`)), 2); !strings.Contains(text, "no such thing") {
			t.Errorf("got %q", text)
		}
		if got := s.methods(); len(got) != 1 {
			t.Errorf("%d: the server got %q", status, got)
		}
	}
}

// A server may know of the modern revision no more than its error for versions.
func TestAServerThatSpeaksNoModernVersionIsTranslatedFor(t *testing.T) {
	for supported, translated := range map[string]bool{
		`["2025-11-25","2025-06-18"]`: true,
		`["2024-11-05","2024-10-07"]`: true,
		`["2027-01-01","2025-11-25"]`: false,
		`["2026-07-28"]`:              false,
		`["2024-10-07"]`:              false, // it is not known here
		`[]`:                          false,
		`"2025-11-25"`:                false,
	} {
		for _, method := range []string{"server/discover", "tools/call"} {
			t.Run(method+" "+supported, func(t *testing.T) {
				s := &remote{}
				h := start(t, bridge.Options{URL: serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if r.Header.Get("Mcp-Protocol-Version") == "2026-07-28" {
						answerJSON(w, 400, `{"jsonrpc":"2.0","id":1,"error":{"code":-32022,"message":"v","data":{"supported":`+supported+`,"requested":"2026-07-28"}}}`)
						return
					}
					s.ServeHTTP(w, r)
				}))})
				got := h.call(modernCall(1, method, `"name":"t"`))
				if strings.Contains(got, `"resultType":"complete"`) != translated || strings.Contains(got, "-32022") == translated || len(s.bodies()) > 0 != translated {
					t.Errorf("got %s, and the server %q", got, s.bodies())
				}
			})
		}
	}
}
