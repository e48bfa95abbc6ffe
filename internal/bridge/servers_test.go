package bridge_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"

	"github.com/mcp-clerk/mcp-clerk/internal/jsonrpc"
)

// Servers of other kinds than remote: modern ones, those that know nothing but
// sessions, and those of HTTP+SSE.

// modernServer speaks revision 2026-07-28 and nothing else. Its tools: "echo",
// "ask" asks for a name first, "header" wants one of its arguments as a header.
type modernServer struct {
	refuse func(w http.ResponseWriter, m *jsonrpc.Message) // what is not modern; nil: 400 with -32022
	listen chan string                                     // notifications for the open subscription

	mu     sync.Mutex
	reqs   []seen
	wanted string // the header that the tool wants now
}

func (s *modernServer) methods() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []string
	for _, r := range s.reqs {
		out = append(out, strings.TrimSpace(r.HTTP+" "+r.Method))
	}
	return out
}

func (s *modernServer) bodies(method string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []string
	for _, r := range s.reqs {
		if r.Method == method {
			out = append(out, r.Body)
		}
	}
	return out
}

func (s *modernServer) wants(header string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wanted = header
}

func (s *modernServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	got, m := take(r)
	s.mu.Lock()
	s.reqs = append(s.reqs, got)
	wanted := s.wanted
	s.mu.Unlock()
	if r.Method != http.MethodPost {
		w.WriteHeader(http.StatusMethodNotAllowed)
		return
	}
	version, _ := jsonrpc.LookupString(m.Params, "_meta", "io.modelcontextprotocol/protocolVersion")
	_, capable := jsonrpc.Lookup(m.Params, "_meta", "io.modelcontextprotocol/clientCapabilities")
	name, _ := jsonrpc.LookupString(m.Params, "name")
	answer := func(result string) { answerJSON(w, 200, `{"jsonrpc":"2.0","id":`+string(m.ID)+`,"result":`+result+`}`) }
	fail := func(status, code int, more string) {
		answerJSON(w, status, fmt.Sprintf(`{"jsonrpc":"2.0","id":%s,"error":{"code":%d,"message":"refused"%s}}`, m.ID, code, more))
	}
	switch {
	case version != "2026-07-28" && s.refuse != nil:
		s.refuse(w, m)
	case version != "2026-07-28":
		fail(400, -32022, `,"data":{"supported":["2026-07-28"],"requested":""}`)
	case !capable || r.Header.Get("Mcp-Protocol-Version") != version || r.Header.Get("Mcp-Method") != m.Method || name != "" && r.Header.Get("Mcp-Name") != name:
		fail(400, -32020, "")
	case m.Method == "server/discover":
		answer(`{"resultType":"complete","supportedVersions":["2026-07-28"],"capabilities":{"tools":{"listChanged":true},"resources":{"subscribe":true},"logging":{}},"_meta":{"io.modelcontextprotocol/serverInfo":{"name":"modern","version":"1"}},"ttlMs":0,"cacheScope":"private"}`)
	case m.Method == "tools/list":
		answer(`{"resultType":"complete","ttlMs":0,"cacheScope":"private","tools":[{"name":"echo","inputSchema":{"type":"object"}},` +
			`{"name":"bad","inputSchema":{"type":"object","properties":{"a":{"type":"object","x-mcp-header":"A"}}}},` +
			`{"name":"header","inputSchema":{"type":"object","properties":{"region":{"type":"string","x-mcp-header":"` + max(wanted, "Region") + `"}}}}]}`)
	case m.Method == "tools/call" && name == "header" && wanted != "" && r.Header.Get("Mcp-Param-"+wanted) == "":
		fail(400, -32020, "")
	case m.Method == "tools/call" && name == "header":
		answer(`{"resultType":"complete","content":[],"got":"` + r.Header.Get("Mcp-Param-"+max(wanted, "Region")) + `"}`)
	case m.Method == "tools/call" && name == "ask":
		if given, ok := jsonrpc.Lookup(m.Params, "inputResponses", "who"); ok {
			state, _ := jsonrpc.LookupString(m.Params, "requestState")
			answer(`{"resultType":"complete","content":[],"who":` + string(given) + `,"state":"` + state + `"}`)
			return
		}
		answer(`{"resultType":"input_required","inputRequests":{"who":{"method":"elicitation/create","params":{"message":"who?","requestedSchema":{"type":"object","properties":{}}}}},"requestState":"s-1"}`)
	case m.Method == "tools/call":
		answer(`{"resultType":"complete","content":[],"x":1.50}`)
	case m.Method == "subscriptions/listen" && s.listen != nil:
		send := events(w)
		filter, _ := jsonrpc.Lookup(m.Params, "notifications")
		send(`{"jsonrpc":"2.0","method":"notifications/subscriptions/acknowledged","params":{"_meta":{"io.modelcontextprotocol/subscriptionId":` + string(m.ID) + `},"notifications":` + string(filter) + `}}`)
		for {
			select {
			case n := <-s.listen:
				send(n)
				if strings.Contains(n, "notifications/cancelled") {
					return
				}
			case <-r.Context().Done():
				return
			}
		}
	default:
		fail(404, -32601, "")
	}
}

// both takes hosts of either era as they are.
func both(legacy, modern http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, ok := jsonrpc.Lookup(peek(r).Params, "_meta", "io.modelcontextprotocol/protocolVersion"); ok {
			modern.ServeHTTP(w, r)
			return
		}
		legacy.ServeHTTP(w, r)
	})
}

// legacyOnly refuses what carries its version itself, as servers do that know
// only sessions.
func legacyOnly(h http.Handler) http.Handler {
	return both(h, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		answerJSON(w, 400, `{"jsonrpc":"2.0","id":null,"error":{"code":-32000,"message":"Bad Request: No valid session ID provided"}}`)
	}))
}

// sseServer speaks HTTP+SSE and nothing else.
type sseServer struct {
	endpoint string // named in place of its own

	mu      sync.Mutex
	streams map[string]chan string
	n       int
	posts   []seen
}

func (s *sseServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case r.URL.Path == "/sse" && r.Method == http.MethodGet:
		w.Header().Set("Content-Type", "text/event-stream")
		s.mu.Lock()
		s.n++
		id := fmt.Sprint(s.n)
		out := make(chan string, 16)
		if s.streams == nil {
			s.streams = map[string]chan string{}
		}
		s.streams[id] = out
		s.mu.Unlock()
		endpoint := s.endpoint
		if endpoint == "" {
			endpoint = "/messages?session=" + id
		}
		_, _ = fmt.Fprintf(w, "event: endpoint\ndata: %s\n\n", endpoint)
		_ = http.NewResponseController(w).Flush()
		for {
			select {
			case m := <-out:
				if m == "" {
					return
				}
				_, _ = fmt.Fprintf(w, "event: message\ndata: %s\n\n", m)
				_ = http.NewResponseController(w).Flush()
			case <-r.Context().Done():
				return
			}
		}
	case r.URL.Path == "/messages" && r.Method == http.MethodPost:
		got, m := take(r)
		s.mu.Lock()
		s.posts = append(s.posts, got)
		out := s.streams[r.URL.Query().Get("session")]
		s.mu.Unlock()
		w.WriteHeader(http.StatusAccepted)
		if !m.IsRequest() {
			return
		}
		switch m.Method {
		case "initialize":
			out <- `{"jsonrpc":"2.0","id":` + string(m.ID) + `,"result":{"protocolVersion":"2024-11-05","capabilities":{"tools":{"listChanged":true}},"serverInfo":{"name":"sse","version":"1"}}}`
		case "drop":
			out <- ""
		case "notify":
			out <- `{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}`
			out <- string(jsonrpc.NewResult(m.ID, nil))
		default:
			out <- string(jsonrpc.NewResult(m.ID, json.RawMessage(`{"x":1.50}`)))
		}
	default:
		w.WriteHeader(http.StatusMethodNotAllowed)
	}
}

func (s *sseServer) count(method string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, p := range s.posts {
		if p.Method == method {
			n++
		}
	}
	return n
}
