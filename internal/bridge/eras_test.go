package bridge_test

import (
	"encoding/json"
	"fmt"
	"io"
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
	body, _ := io.ReadAll(r.Body)
	m, err := jsonrpc.Parse(body, jsonrpc.Limits{})
	if err != nil {
		m = &jsonrpc.Message{}
	}
	s.mu.Lock()
	s.reqs = append(s.reqs, seen{r.Method, m.Method, string(body), r.Header.Clone()})
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

// legacyOnly refuses what carries its version itself, as servers do that know
// only sessions.
func legacyOnly(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		r.Body = io.NopCloser(strings.NewReader(string(body)))
		if strings.Contains(string(body), "io.modelcontextprotocol/protocolVersion") {
			answerJSON(w, 400, `{"jsonrpc":"2.0","id":null,"error":{"code":-32000,"message":"Bad Request: No valid session ID provided"}}`)
			return
		}
		h.ServeHTTP(w, r)
	})
}

const asking = `"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{"elicitation":{},"roots":{}}}`

func modernCall(id any, method, params string) string {
	if params != "" {
		params += ","
	}
	return request(id, method, `{`+params+asking+`}`)
}

func want(t testing.TB, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("got %s\nwant %s", got, want)
	}
}

func TestALegacyHostIsTranslatedForAModernServer(t *testing.T) {
	s := &modernServer{listen: make(chan string)}
	h := start(t, bridge.Options{URL: serve(t, s)})
	want(t, h.call(initialize), `{"jsonrpc":"2.0","id":"i","result":{"protocolVersion":"2025-11-25","capabilities":{"tools":{"listChanged":true},"resources":{"subscribe":true},"logging":{}},"serverInfo":{"name":"modern","version":"1"}}}`)
	// Its own initialize went first, and nothing but what that called for.
	if got := s.methods(); !slices.Equal(got, []string{"POST initialize", "POST server/discover"}) {
		t.Errorf("the server got %q", got)
	}
	h.send(initialized)
	s.listen <- `{"jsonrpc":"2.0","method":"notifications/tools/list_changed","params":{"_meta":{"io.modelcontextprotocol/subscriptionId":"x"}}}`
	want(t, h.next(), `{"jsonrpc":"2.0","method":"notifications/tools/list_changed","params":{}}`)
	want(t, h.call(request(1, "ping", "")), `{"jsonrpc":"2.0","id":1,"result":{}}`)
	want(t, h.call(request(2, "tools/call", `{"name":"echo"}`)), `{"jsonrpc":"2.0","id":2,"result":{"content":[],"x":1.50}}`)
	want(t, h.call(request(3, "resources/subscribe", `{"uri":"x:a"}`)), `{"jsonrpc":"2.0","id":3,"result":{}}`)
	want(t, h.call(request(4, "x/y", "")), `{"jsonrpc":"2.0","id":4,"error":{"code":-32601,"message":"refused"}}`)
	if err := h.end(); err != nil {
		t.Error(err)
	}
}

// However a modern server refuses initialize, it is found out.
func TestAModernServerIsKnownByHowItRefusesInitialize(t *testing.T) {
	for name, refuse := range map[string]func(http.ResponseWriter, *jsonrpc.Message){
		"-32022": nil,
		"unknown method": func(w http.ResponseWriter, m *jsonrpc.Message) {
			answerJSON(w, 404, `{"jsonrpc":"2.0","id":`+string(m.ID)+`,"error":{"code":-32601,"message":"Method not found"}}`)
		},
		"unknown method with status 200": func(w http.ResponseWriter, m *jsonrpc.Message) {
			answerJSON(w, 200, `{"jsonrpc":"2.0","id":`+string(m.ID)+`,"error":{"code":-32601,"message":"Method not found"}}`)
		},
		"missing headers": func(w http.ResponseWriter, m *jsonrpc.Message) {
			answerJSON(w, 400, `{"jsonrpc":"2.0","id":`+string(m.ID)+`,"error":{"code":-32600,"message":"the header Mcp-Method is required"}}`)
		},
		"plain text": func(w http.ResponseWriter, _ *jsonrpc.Message) { http.Error(w, "missing MCP-Protocol-Version", 400) },
	} {
		t.Run(name, func(t *testing.T) {
			s := &modernServer{refuse: refuse}
			h := start(t, bridge.Options{URL: serve(t, s)})
			h.handshake()
			want(t, h.call(request(2, "tools/call", `{"name":"echo"}`)), `{"jsonrpc":"2.0","id":2,"result":{"content":[],"x":1.50}}`)
		})
	}
}

func TestAModernServersQuestionsReachALegacyHost(t *testing.T) {
	s := &modernServer{}
	h := start(t, bridge.Options{URL: serve(t, s)})
	h.call(`{"jsonrpc":"2.0","id":"i","method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{"elicitation":{}},"clientInfo":{"name":"h","version":"1"}}}`)
	h.send(initialized, request(7, "tools/call", `{"name":"ask"}`))
	question := h.next()
	m, err := jsonrpc.Parse([]byte(question), jsonrpc.Limits{})
	if err != nil || m.Method != "elicitation/create" {
		t.Fatalf("the host got %s", question)
	}
	h.send(`{"jsonrpc":"2.0","id":` + string(m.ID) + `,"result":{"action":"accept","content":{"name":"Ada","n":1e2}}}`)
	want(t, h.next(), `{"jsonrpc":"2.0","id":7,"result":{"content":[],"who":{"action":"accept","content":{"name":"Ada","n":1e2}},"state":"s-1"}}`)
	// A call that is cancelled takes its question along.
	h.send(request(8, "tools/call", `{"name":"ask"}`))
	if m, err = jsonrpc.Parse([]byte(h.next()), jsonrpc.Limits{}); err != nil {
		t.Fatal(err)
	}
	h.send(`{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":8}}`)
	want(t, h.next(), `{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":`+string(m.ID)+`}}`)
}

func TestAModernHostIsTranslatedForALegacyServer(t *testing.T) {
	asked := make(chan string, 1)
	s := &remote{capabilities: `{"tools":{},"logging":{}}`}
	s.handle = func(w http.ResponseWriter, r *http.Request, m *jsonrpc.Message) {
		if name, _ := jsonrpc.LookupString(m.Params, "name"); name != "ask" {
			answerJSON(w, 200, string(jsonrpc.NewResult(m.ID, json.RawMessage(`{"content":[],"x":1.50}`))))
			return
		}
		send := events(w)
		send(`{"jsonrpc":"2.0","id":71,"method":"elicitation/create","params":{"message":"who?"}}`)
		select {
		case got := <-asked:
			send(string(jsonrpc.NewResult(m.ID, json.RawMessage(`{"content":[],"who":`+got+`}`))))
		case <-r.Context().Done():
		}
	}
	front := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		r.Body = io.NopCloser(strings.NewReader(string(body)))
		if m, err := jsonrpc.Parse(body, jsonrpc.Limits{}); err == nil && m.IsResponse() {
			asked <- string(m.Result)
			w.WriteHeader(http.StatusAccepted)
			return
		}
		s.ServeHTTP(w, r)
	})
	h := start(t, bridge.Options{URL: serve(t, legacyOnly(front))})
	want(t, h.call(modernCall("d", "server/discover", "")), `{"jsonrpc":"2.0","id":"d","result":{"resultType":"complete","supportedVersions":["2026-07-28","2025-11-25"],"capabilities":{"tools":{},"logging":{}},"_meta":{"io.modelcontextprotocol/serverInfo":{"name":"s","version":"1"}},"ttlMs":0,"cacheScope":"private"}}`)
	want(t, h.call(modernCall(1, "tools/call", `"name":"echo"`)), `{"jsonrpc":"2.0","id":1,"result":{"resultType":"complete","content":[],"x":1.50}}`)

	var parked struct {
		Result struct{ ResultType, RequestState string }
	}
	if line := h.call(modernCall(2, "tools/call", `"name":"ask"`)); json.Unmarshal([]byte(line), &parked) != nil || parked.Result.ResultType != "input_required" {
		t.Fatalf("the host got %s", line)
	}
	back := `"name":"ask","requestState":"` + parked.Result.RequestState + `","inputResponses":{"input-1":{"action":"accept","content":{"n":1e2}}}`
	want(t, h.call(modernCall(3, "tools/call", back)), `{"jsonrpc":"2.0","id":3,"result":{"resultType":"complete","content":[],"who":{"action":"accept","content":{"n":1e2}}}}`)
	if code, _ := errorOf(t, h.call(modernCall(4, "tools/call", back)), 4); code != jsonrpc.CodeInvalidParams {
		t.Errorf("the state was good twice: %d", code)
	}
	if err := h.end(); err != nil {
		t.Error(err)
	}
	if n := len(s.bodies("initialize")); n != 1 || s.count(http.MethodDelete) != 1 {
		t.Errorf("%d sessions were opened and %d ended, want one each", n, s.count(http.MethodDelete))
	}
}

// A host that knows both eras may discover first and then initialize.
func TestDiscoveryPinsNothing(t *testing.T) {
	s := &remote{}
	h := start(t, bridge.Options{URL: serve(t, legacyOnly(s))})
	h.call(modernCall("d", "server/discover", ""))
	h.handshake()
	want(t, h.call(request(1, "x/y", `{"n":1.0}`)), answer(1))
	if err := h.end(); err != nil {
		t.Error(err)
	}
	if got := s.bodies("x/y"); len(got) != 1 || got[0] != request(1, "x/y", `{"n":1.0}`) {
		t.Errorf("the server got %q", got)
	}
	if opened, ended := len(s.bodies("initialize")), s.count(http.MethodDelete); opened != ended {
		t.Errorf("%d sessions were opened and %d ended", opened, ended)
	}
}

func TestARefusalThatNoEraExplainsIsTheHosts(t *testing.T) {
	refuse := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		m, _ := jsonrpc.Parse(body, jsonrpc.Limits{})
		if r.Method != http.MethodPost {
			http.NotFound(w, r)
			return
		}
		answerJSON(w, 400, `{"jsonrpc":"2.0","id":`+string(m.ID)+`,"error":{"code":-32602,"message":"not `+m.Method+`"}}`)
	})
	t.Run("legacy host", func(t *testing.T) {
		h := start(t, bridge.Options{URL: serve(t, refuse)})
		want(t, h.call(initialize), `{"jsonrpc":"2.0","id":"i","error":{"code":-32602,"message":"not initialize"}}`)
	})
	t.Run("modern host", func(t *testing.T) {
		h := start(t, bridge.Options{URL: serve(t, refuse)})
		want(t, h.call(modernCall(1, "tools/call", `"name":"t"`)), `{"jsonrpc":"2.0","id":1,"error":{"code":-32602,"message":"not tools/call"}}`)
	})
	// A host that knows only initialize gets no code of the other era.
	t.Run("other versions", func(t *testing.T) {
		s := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			m, _ := jsonrpc.Parse(body, jsonrpc.Limits{})
			answerJSON(w, 400, `{"jsonrpc":"2.0","id":`+string(m.ID)+`,"error":{"code":-32022,"message":"no","data":{"supported":["2099-01-01"]}}}`)
		})
		h := start(t, bridge.Options{URL: serve(t, s)})
		want(t, h.call(initialize), `{"jsonrpc":"2.0","id":"i","error":{"code":-32602,"message":"no","data":{"supported":["2099-01-01"]}}}`)
	})
}

func TestHeadersOfTools(t *testing.T) {
	s := &modernServer{}
	h := start(t, bridge.Options{URL: serve(t, s)})
	if line := h.call(modernCall(1, "tools/list", "")); strings.Contains(line, `"bad"`) || !strings.Contains(line, `"tools":[{"name":"echo","inputSchema":{"type":"object"}},{"name":"header"`) {
		t.Errorf("a tool with a bad header was not left out: %s", line)
	}
	want(t, h.call(modernCall(2, "tools/call", `"name":"header","arguments":{"region":"Zürich"}`)), `{"jsonrpc":"2.0","id":2,"result":{"resultType":"complete","content":[],"got":"=?base64?WsO8cmljaA==?="}}`)
	// The server changes its mind: the tools are looked up, and the call made once more.
	s.wants("Zone")
	want(t, h.call(modernCall(3, "tools/call", `"name":"header","arguments":{"region":"eu"}`)), `{"jsonrpc":"2.0","id":3,"result":{"resultType":"complete","content":[],"got":"eu"}}`)
	// It helps only once.
	want(t, h.call(modernCall(4, "tools/call", `"name":"header","arguments":{}`)), `{"jsonrpc":"2.0","id":4,"error":{"code":-32020,"message":"refused"}}`)
	if n := len(s.bodies("tools/call")); n != 5 {
		t.Errorf("the tools were called %d times", n)
	}
}

// A server that has lost its sessions and speaks another era since.
func TestAServerThatChangesItsEra(t *testing.T) {
	old, young := &remote{}, &modernServer{}
	var mu sync.Mutex
	upgraded := false
	s := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		now := upgraded
		mu.Unlock()
		if now {
			young.ServeHTTP(w, r)
		} else {
			legacyOnly(old).ServeHTTP(w, r)
		}
	})
	young.refuse = func(w http.ResponseWriter, m *jsonrpc.Message) {
		if m.Method == "initialize" {
			answerJSON(w, 404, `{"jsonrpc":"2.0","id":`+string(m.ID)+`,"error":{"code":-32601,"message":"Method not found"}}`)
			return
		}
		http.Error(w, "no such session", 404)
	}
	upgrade := func(v bool) {
		mu.Lock()
		defer mu.Unlock()
		upgraded = v
	}
	url := serve(t, s)
	t.Run("legacy host", func(t *testing.T) {
		upgrade(false)
		h := start(t, bridge.Options{URL: url})
		h.handshake()
		want(t, h.call(request(1, "x/y", "")), answer(1))
		upgrade(true)
		want(t, h.call(request(2, "tools/call", `{"name":"echo"}`)), `{"jsonrpc":"2.0","id":2,"result":{"content":[],"x":1.50}}`)
	})
	t.Run("modern host", func(t *testing.T) {
		upgrade(false)
		h := start(t, bridge.Options{URL: url})
		want(t, h.call(modernCall(1, "x/y", "")), `{"jsonrpc":"2.0","id":1,"result":{"resultType":"complete"}}`)
		upgrade(true)
		want(t, h.call(modernCall(2, "tools/call", `"name":"echo"`)), `{"jsonrpc":"2.0","id":2,"result":{"resultType":"complete","content":[],"x":1.50}}`)
		upgrade(false)
		want(t, h.call(modernCall(3, "x/y", "")), `{"jsonrpc":"2.0","id":3,"result":{"resultType":"complete"}}`)
	})
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
		body, _ := io.ReadAll(r.Body)
		m, _ := jsonrpc.Parse(body, jsonrpc.Limits{})
		s.mu.Lock()
		s.posts = append(s.posts, seen{r.Method, m.Method, string(body), r.Header.Clone()})
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
		reached := make(chan struct{}, 1)
		other := serve(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { reached <- struct{}{} }))
		s := &sseServer{endpoint: other + "/messages"}
		h := start(t, bridge.Options{URL: serve(t, s) + "/sse", Authorizer: &person{token: "secret"}})
		errorOf(t, h.call(initialize), "i")
		select {
		case <-reached:
			t.Error("another origin was sent something")
		case <-time.After(50 * time.Millisecond):
		}
	})
}

// However many requests find out at once, one session is opened.
func TestManyRequestsFindTheEraOnce(t *testing.T) {
	s := &remote{}
	h := start(t, bridge.Options{URL: serve(t, legacyOnly(s))})
	const n = 50
	wanted := make([]string, n)
	for i := range n {
		h.send(modernCall(i, "x/y", ""))
		wanted[i] = fmt.Sprintf(`{"jsonrpc":"2.0","id":%d,"result":{"resultType":"complete"}}`, i)
	}
	slices.Sort(wanted)
	if got := h.collect(n); !slices.Equal(got, wanted) {
		t.Errorf("got %q", got)
	}
	if opened := len(s.bodies("initialize")); opened != 1 {
		t.Errorf("%d sessions were opened", opened)
	}
}

// A host that goes while a call is parked: the server is told, and its session
// ended.
func TestParkedCallsEndWithTheHost(t *testing.T) {
	s := &remote{}
	s.handle = func(w http.ResponseWriter, r *http.Request, _ *jsonrpc.Message) {
		send := events(w)
		send(`{"jsonrpc":"2.0","id":71,"method":"elicitation/create","params":{"message":"who?"}}`)
		<-r.Context().Done()
	}
	h := start(t, bridge.Options{URL: serve(t, legacyOnly(s))})
	if line := h.call(modernCall(1, "tools/call", `"name":"ask"`)); !strings.Contains(line, "input_required") {
		t.Fatalf("the host got %s", line)
	}
	if err := h.end(); err != nil {
		t.Error(err)
	}
	if got := s.bodies("notifications/cancelled"); len(got) != 1 || !strings.Contains(got[0], `"requestId":1,`) {
		t.Errorf("the server was told %q", got)
	}
	if s.count(http.MethodDelete) != 1 {
		t.Error("the session was not ended")
	}
}

// Messages that are kept in a file pass a translation as well, and what is asked
// A response that comes while its call is parked is kept in memory, so a large one
// is not.
func TestALargeResponseIsNotKeptForAHostThatIsAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		size := 0
		s := &remote{capabilities: `{"tools":{}}`}
		s.handle = func(w http.ResponseWriter, _ *http.Request, m *jsonrpc.Message) {
			send := events(w)
			send(`{"jsonrpc":"2.0","id":71,"method":"elicitation/create","params":{"message":"who?"}}`)
			time.Sleep(time.Second)
			send(string(jsonrpc.NewResult(m.ID, json.RawMessage(`{"text":"`+strings.Repeat("x", size)+`"}`))))
		}
		o, _ := inMemory(t, legacyOnly(s))
		h := start(t, o)
		for id, tt := range []struct {
			size int
			want string
		}{{1 << 20, `"result":{"resultType":"complete"`}, {5 << 20, "is too large to be kept"}} {
			size = tt.size
			var parked struct {
				Result struct{ RequestState string }
			}
			if line := h.call(modernCall(fmt.Sprint("ask", id), "tools/call", `"name":"ask"`)); json.Unmarshal([]byte(line), &parked) != nil || parked.Result.RequestState == "" {
				t.Fatalf("the host got %s", line)
			}
			time.Sleep(time.Minute)
			back := `"name":"ask","requestState":"` + parked.Result.RequestState + `","inputResponses":{"input-1":{"action":"accept"}}`
			if line := h.call(modernCall(fmt.Sprint("back", id), "tools/call", back)); !strings.Contains(line, tt.want) {
				t.Errorf("%d bytes: the host got %.300s", tt.size, line)
			}
		}
	})
}

// about them.
func TestLargeMessagesAreTranslated(t *testing.T) {
	large := strings.Repeat("x", 6<<20)
	t.Run("legacy host", func(t *testing.T) {
		s := &modernServer{}
		h := start(t, bridge.Options{URL: serve(t, s)})
		h.call(`{"jsonrpc":"2.0","id":"i","method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{"elicitation":{}},"clientInfo":{"name":"h","version":"1"}}}`)
		h.send(initialized, request(7, "tools/call", `{"name":"ask","arguments":{"a":"`+large+`"}}`))
		m, err := jsonrpc.Parse([]byte(h.next()), jsonrpc.Limits{})
		if err != nil || m.Method != "elicitation/create" {
			t.Fatal("the host was not asked")
		}
		h.send(`{"jsonrpc":"2.0","id":` + string(m.ID) + `,"result":{"action":"accept","content":{"a":"` + large + `"}}}`)
		want(t, shorter(h.next(), large), `{"jsonrpc":"2.0","id":7,"result":{"content":[],"who":{"action":"accept","content":{"a":"LARGE"}},"state":"s-1"}}`)
		for _, body := range s.bodies("tools/call") {
			if !strings.Contains(body, `"arguments":{"a":"`+large+`"}`) {
				t.Error("the server did not get the arguments")
			}
		}
	})
	t.Run("modern host", func(t *testing.T) {
		asked := make(chan string, 1)
		s := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			m, _ := jsonrpc.Parse(body, jsonrpc.Limits{})
			switch {
			case m == nil:
				w.WriteHeader(http.StatusMethodNotAllowed)
			case m.Method == "initialize":
				answerJSON(w, 200, `{"jsonrpc":"2.0","id":`+string(m.ID)+`,"result":{"protocolVersion":"2025-11-25","capabilities":{},"serverInfo":{"name":"s","version":"1"}}}`)
			case m.IsResponse():
				asked <- string(m.Result)
				w.WriteHeader(http.StatusAccepted)
			case !m.IsRequest():
				w.WriteHeader(http.StatusAccepted)
			default:
				arguments, _ := jsonrpc.Lookup(m.Params, "arguments")
				send := events(w)
				send(`{"jsonrpc":"2.0","id":71,"method":"elicitation/create","params":{"message":"` + large + `"}}`)
				given := <-asked
				send(string(jsonrpc.NewResult(m.ID, json.RawMessage(`{"arguments":`+string(arguments)+`,"given":`+given+`}`))))
			}
		})
		h := start(t, bridge.Options{URL: serve(t, legacyOnly(s))})
		call := `"name":"ask","arguments":{"a":"` + large + `"}`
		line := h.call(modernCall(2, "tools/call", call))
		state, _ := jsonrpc.LookupString([]byte(line), "result", "requestState")
		if message, _ := jsonrpc.LookupString([]byte(line), "result", "inputRequests", "input-1", "params", "message"); message != large || state == "" {
			t.Fatalf("the host got %s", shorter(line, large))
		}
		back := modernCall(3, "tools/call", call+`,"requestState":"`+state+`","inputResponses":{"input-1":{"action":"accept","content":{"b":"`+large+`"}}}`)
		want(t, shorter(h.call(back), large), `{"jsonrpc":"2.0","id":3,"result":{"resultType":"complete","arguments":{"a":"LARGE"},"given":{"action":"accept","content":{"b":"LARGE"}}}}`)
	})
}

func shorter(line, large string) string { return strings.ReplaceAll(line, large, "LARGE") }

// A stream of changes that a modern server drops is opened again for a legacy
// host, who does not notice.
func TestChangesGoOnForALegacyHost(t *testing.T) {
	s := &modernServer{listen: make(chan string)}
	var mu sync.Mutex
	drops := 1
	front := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Mcp-Method") == "subscriptions/listen" {
			mu.Lock()
			drops--
			drop := drops >= 0
			mu.Unlock()
			if drop {
				events(w)
				return
			}
		}
		s.ServeHTTP(w, r)
	})
	h := start(t, bridge.Options{URL: serve(t, front)})
	h.handshake()
	s.listen <- `{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}`
	want(t, h.next(), `{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}`)
}

// A server that restarts forgets what its sessions were subscribed to.
func TestSubscriptionsOutliveARestart(t *testing.T) {
	s := &remote{}
	h := start(t, bridge.Options{URL: serve(t, legacyOnly(s))})
	want(t, h.call(modernCall(1, "subscriptions/listen", `"notifications":{"resourceSubscriptions":["x:a"]}`)),
		`{"jsonrpc":"2.0","method":"notifications/subscriptions/acknowledged","params":{"_meta":{"io.modelcontextprotocol/subscriptionId":1},"notifications":{"resourceSubscriptions":["x:a"]}}}`)
	s.restart()
	want(t, h.call(modernCall(2, "x/y", "")), `{"jsonrpc":"2.0","id":2,"result":{"resultType":"complete"}}`)
	for deadline := time.Now().Add(40 * time.Second); len(s.bodies("resources/subscribe")) < 2; {
		if time.Now().After(deadline) {
			t.Fatal("the new session is not subscribed")
		}
		time.Sleep(time.Millisecond) // until the server has it
	}
}

// What the bridge asks a server on its own account does not hold up the host for
// ever.
func TestAServerThatDoesNotSetItsLogLevel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &remote{}
		s.handle = func(w http.ResponseWriter, r *http.Request, m *jsonrpc.Message) {
			if m.Method == "logging/setLevel" {
				<-r.Context().Done()
				return
			}
			answerJSON(w, 200, string(jsonrpc.NewResult(m.ID, nil)))
		}
		o, _ := inMemory(t, legacyOnly(s))
		h := start(t, o)
		began := time.Now()
		want(t, h.call(request(1, "x/y", `{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{},"io.modelcontextprotocol/logLevel":"debug"}}`)),
			`{"jsonrpc":"2.0","id":1,"result":{"resultType":"complete"}}`)
		if waited := time.Since(began); waited < time.Minute || waited > 2*time.Minute {
			t.Errorf("the host waited for %v", waited)
		}
		if err := h.end(); err != nil {
			t.Error(err)
		}
	})
}

// Many calls at once, half of which ask the host first, some of which are
// cancelled: one response each, and none to those.
func TestManyTranslatedCallsAtOnce(t *testing.T) {
	const n = 200
	cancelled := func(i int) bool { return i%7 == 3 }
	check := func(t *testing.T, h *host, answers map[int]int) {
		t.Helper()
		for i := range n {
			switch got := answers[i]; {
			case cancelled(i) && got > 1, !cancelled(i) && got != 1:
				t.Errorf("request %d got %d responses", i, got)
			}
		}
		if err := h.end(); err != nil {
			t.Error(err)
		}
	}
	number := func(raw json.RawMessage) int {
		var i int
		_ = json.Unmarshal(raw, &i) // 0 for what is no number
		return i
	}
	left := 0
	for i := range n {
		if !cancelled(i) {
			left++
		}
	}
	t.Run("legacy host", func(t *testing.T) {
		h := start(t, bridge.Options{URL: serve(t, &modernServer{})})
		h.call(`{"jsonrpc":"2.0","id":"i","method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{"elicitation":{}},"clientInfo":{"name":"h","version":"1"}}}`)
		h.send(initialized)
		go func() {
			for i := range n {
				_, _ = io.WriteString(h.in, request(i, "tools/call", fmt.Sprintf(`{"name":%q}`, []string{"ask", "echo"}[i%2]))+"\n")
				if cancelled(i) {
					_, _ = io.WriteString(h.in, fmt.Sprintf(`{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":%d}}`, i)+"\n")
				}
			}
		}()
		answers := map[int]int{}
		for done := 0; done < left; {
			m, err := jsonrpc.Parse([]byte(h.next()), jsonrpc.Limits{})
			if err != nil {
				t.Fatal(err)
			}
			switch {
			case m.IsRequest():
				h.send(`{"jsonrpc":"2.0","id":` + string(m.ID) + `,"result":{"action":"accept"}}`)
			case m.IsResponse():
				i := number(m.ID)
				if answers[i]++; !cancelled(i) {
					done++
				}
				if m.Error != nil {
					t.Errorf("request %d got %s", i, m.Error)
				}
			}
		}
		check(t, h, answers)
	})
	t.Run("modern host", func(t *testing.T) {
		var mu sync.Mutex
		waiting := map[string]chan struct{}{}
		s := &remote{}
		s.handle = func(w http.ResponseWriter, r *http.Request, m *jsonrpc.Message) {
			if name, _ := jsonrpc.LookupString(m.Params, "name"); name != "ask" {
				answerJSON(w, 200, string(jsonrpc.NewResult(m.ID, nil)))
				return
			}
			answered := make(chan struct{})
			mu.Lock()
			waiting[string(m.ID)] = answered
			mu.Unlock()
			send := events(w)
			send(`{"jsonrpc":"2.0","id":` + string(m.ID) + `,"method":"elicitation/create","params":{"message":"who?"}}`)
			select {
			case <-answered:
				send(string(jsonrpc.NewResult(m.ID, nil)))
			case <-r.Context().Done():
			}
		}
		front := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			r.Body = io.NopCloser(strings.NewReader(string(body)))
			if m, err := jsonrpc.Parse(body, jsonrpc.Limits{}); err == nil && m.IsResponse() {
				mu.Lock()
				answered := waiting[string(m.ID)]
				delete(waiting, string(m.ID))
				mu.Unlock()
				if answered != nil {
					close(answered)
				}
				w.WriteHeader(http.StatusAccepted)
				return
			}
			s.ServeHTTP(w, r)
		})
		h := start(t, bridge.Options{URL: serve(t, legacyOnly(front))})
		go func() {
			for i := range n {
				_, _ = io.WriteString(h.in, modernCall(i, "tools/call", fmt.Sprintf(`"name":%q,"arguments":{"i":%d}`, []string{"ask", "echo"}[i%2], i))+"\n")
				if cancelled(i) {
					_, _ = io.WriteString(h.in, fmt.Sprintf(`{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":%d}}`, i)+"\n")
				}
			}
		}()
		answers := map[int]int{}
		for done := 0; done < left; {
			m, err := jsonrpc.Parse([]byte(h.next()), jsonrpc.Limits{})
			if err != nil {
				t.Fatal(err)
			}
			if !m.IsResponse() {
				continue
			}
			i := number(m.ID)
			if state, ok := jsonrpc.LookupString(m.Result, "requestState"); ok { // back under another id
				if !cancelled(i) {
					h.send(modernCall(n+i, "tools/call", fmt.Sprintf(`"name":"ask","arguments":{"i":%d},"requestState":%q,"inputResponses":{"input-1":{"action":"accept"}}`, i, state)))
				}
				continue
			}
			if i >= n {
				i -= n
			}
			if answers[i]++; !cancelled(i) {
				done++
			}
			if m.Error != nil {
				t.Errorf("request %d got %s", i, m.Error)
			}
		}
		check(t, h, answers)
	})
}

// A subscription that a modern server ends is over: it is not opened again behind
// the host's back, and its id is free.
func TestASubscriptionThatTheServerEnds(t *testing.T) {
	s := &modernServer{listen: make(chan string)}
	h := start(t, bridge.Options{URL: serve(t, s)})
	for range 2 {
		h.send(modernCall(1, "subscriptions/listen", `"notifications":{"toolsListChanged":true}`))
		if line := h.next(); !strings.Contains(line, "acknowledged") {
			t.Fatalf("the host got %s", line)
		}
		over := `{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1}}`
		s.listen <- over
		want(t, h.next(), over)
	}
	if n := len(s.bodies("subscriptions/listen")); n != 2 {
		t.Errorf("the server got %d subscriptions", n)
	}
}

// A server that is restarted behind a gateway: its session is gone, and at first
// so is whoever opens another. Requests of a host that is translated for find
// out at different times, and none of them ends what another has found.
func TestATranslatedServerIsRestartedUnderLoad(t *testing.T) {
	for status, says := range map[int]string{502: "HTTP status 502", 404: "No valid session ID"} {
		t.Run(fmt.Sprint(status), func(t *testing.T) { restartTranslated(t, status, says) })
	}
}

func restartTranslated(t *testing.T, status int, says string) {
	s := &remote{}
	var mu sync.Mutex
	down := 1 // how often initialize is refused from now on
	front := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		r.Body = io.NopCloser(strings.NewReader(string(body)))
		if strings.Contains(string(body), `"initialize"`) {
			mu.Lock()
			refuse := down > 0
			down = max(0, down-1)
			mu.Unlock()
			if refuse {
				http.Error(w, "not now", status)
				return
			}
		}
		s.ServeHTTP(w, r)
	})
	h := start(t, bridge.Options{URL: serve(t, legacyOnly(front))})
	if _, text := errorOf(t, h.call(modernCall("early", "x/y", "")), "early"); !strings.Contains(text, says) {
		t.Errorf("the host was told %q", text)
	}
	want(t, h.call(modernCall("first", "x/y", "")), `{"jsonrpc":"2.0","id":"first","result":{"resultType":"complete"}}`)
	const restarts, each = 6, 50
	go func() {
		for i := range restarts * each {
			if i%each == each/2 {
				mu.Lock()
				down = 1
				mu.Unlock()
				s.restart()
			}
			_, _ = io.WriteString(h.in, modernCall(i, "x/y", "")+"\n")
		}
	}()
	got := map[string]bool{}
	failed := map[string]int{}
	for range restarts * each {
		line := h.next()
		m, err := jsonrpc.Parse([]byte(line), jsonrpc.Limits{})
		if err != nil || got[string(m.ID)] {
			t.Fatalf("got %s", line)
		}
		got[string(m.ID)] = true
		if m.Error != nil {
			text, _ := jsonrpc.LookupString(m.Error, "message")
			failed[text]++
		}
	}
	for text, n := range failed {
		if !strings.Contains(text, says) && !strings.Contains(text, "not now") {
			t.Errorf("%d requests failed: %s", n, text)
		}
	}
	want(t, h.call(modernCall("last", "x/y", "")), `{"jsonrpc":"2.0","id":"last","result":{"resultType":"complete"}}`)
	if err := h.end(); err != nil {
		t.Error(err)
	}
}

// A request that finds late that its session is gone goes on in the one that
// another has opened, and does not end it.
func TestWhoComesLateToAnEndedSessionEndsNoOther(t *testing.T) {
	s := &remote{}
	at, open := map[string]chan bool{"x/b": make(chan bool), "x/c": make(chan bool)}, map[string]chan bool{"x/b": make(chan bool), "x/c": make(chan bool)}
	hold := func(method string) {
		at[method] <- true
		<-open[method]
	}
	s.handle = func(w http.ResponseWriter, _ *http.Request, m *jsonrpc.Message) {
		if m.Method == "x/c" {
			hold("x/c")
		}
		answerJSON(w, 200, string(jsonrpc.NewResult(m.ID, nil)))
	}
	var down atomic.Int32 // how often initialize is refused from now on
	var late sync.Once
	front := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		r.Body = io.NopCloser(strings.NewReader(string(body)))
		m, _ := jsonrpc.Parse(body, jsonrpc.Limits{})
		switch {
		case m != nil && m.Method == "x/b":
			late.Do(func() { hold("x/b") })
		case m != nil && m.Method == "initialize" && down.Add(-1) >= 0:
			http.Error(w, "not now", http.StatusBadGateway)
			return
		}
		s.ServeHTTP(w, r)
	})
	h := start(t, bridge.Options{URL: serve(t, legacyOnly(front))})
	done := func(id string) string {
		return `{"jsonrpc":"2.0","id":"` + id + `","result":{"resultType":"complete"}}`
	}
	want(t, h.call(modernCall("first", "x/y", "")), done("first"))
	h.send(modernCall("b", "x/b", ""))
	<-at["x/b"]
	s.restart()
	down.Store(1)
	want(t, h.call(modernCall("a", "x/y", "")), done("a"))
	h.send(modernCall("c", "x/c", ""))
	<-at["x/c"]
	down.Store(1)
	open["x/b"] <- true
	want(t, h.next(), done("b"))
	open["x/c"] <- true
	want(t, h.next(), done("c"))
	if err := h.end(); err != nil {
		t.Error(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.live) != 0 {
		t.Errorf("%d sessions were left open", len(s.live))
	}
}

// A large notification leaves its file only when the server has it.
func TestLargeNotificationsAreTranslated(t *testing.T) {
	large := strings.Repeat("x", 9<<19)
	s := &modernServer{}
	arrived := make(chan string, 5)
	h := start(t, bridge.Options{URL: serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if strings.Contains(string(body), `"notifications/x"`) {
			arrived <- string(body)
		}
		r.Body = io.NopCloser(strings.NewReader(string(body)))
		s.ServeHTTP(w, r)
	}))})
	h.handshake()
	for range cap(arrived) {
		h.send(`{"jsonrpc":"2.0","method":"notifications/x","params":{"a":"` + large + `"}}`)
	}
	for n := range cap(arrived) {
		select {
		case body := <-arrived:
			if !strings.Contains(body, `"a":"`+large+`"`) {
				t.Errorf("the server got %s", shorter(body, large))
			}
		case <-time.After(2 * time.Minute):
			t.Fatalf("%d of %d notifications arrived", n, cap(arrived))
		}
	}
}

// Ids that are used again at once behind a cancellation: the new request is
// answered, and never by what was for the old one.
func TestIDsAreUsedAgainBehindACancellation(t *testing.T) {
	echo := func(w http.ResponseWriter, m *jsonrpc.Message) {
		n, _ := jsonrpc.Lookup(m.Params, "n")
		answerJSON(w, 200, `{"jsonrpc":"2.0","id":`+string(m.ID)+`,"result":{"resultType":"complete","n":`+string(n)+`}}`)
	}
	s := &remote{handle: func(w http.ResponseWriter, _ *http.Request, m *jsonrpc.Message) { echo(w, m) }}
	young := &modernServer{}
	front := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if m, err := jsonrpc.Parse(body, jsonrpc.Limits{}); err == nil && m.Method == "x/y" {
			echo(w, m)
			return
		}
		r.Body = io.NopCloser(strings.NewReader(string(body)))
		young.ServeHTTP(w, r)
	})
	for name, c := range map[string]struct {
		server http.Handler
		call   func(id, n int) string
	}{
		"modern host": {legacyOnly(s), func(id, n int) string { return modernCall(id, "x/y", fmt.Sprintf(`"n":%d`, n)) }},
		"legacy host": {front, func(id, n int) string { return request(id, "x/y", fmt.Sprintf(`{"n":%d}`, n)) }},
	} {
		t.Run(name, func(t *testing.T) {
			h := start(t, bridge.Options{URL: serve(t, c.server)})
			if name == "legacy host" {
				h.handshake()
			} else {
				h.call(modernCall("first", "tools/list", ""))
			}
			const ids, rounds = 20, 40
			for round := range rounds {
				go func() {
					for id := range ids {
						cancel := fmt.Sprintf(`{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":%d}}`, id)
						_, _ = io.WriteString(h.in, c.call(id, 2*round)+"\n"+cancel+"\n"+c.call(id, 2*round+1)+"\n")
					}
				}()
				answered := map[string]bool{}
				for len(answered) < ids {
					line := h.next()
					m, err := jsonrpc.Parse([]byte(line), jsonrpc.Limits{})
					if err != nil || m.Result == nil {
						t.Fatalf("got %s", line)
					}
					switch n, _ := jsonrpc.Lookup(m.Result, "n"); {
					case string(n) == fmt.Sprint(2*round): // it was faster than its cancellation
					case string(n) == fmt.Sprint(2*round+1) && !answered[string(m.ID)]:
						answered[string(m.ID)] = true
					default:
						t.Fatalf("in round %d came %s", round, line)
					}
				}
			}
		})
	}
}

// A host that begins anew at a server of another era than before is told of what
// was under way in the translation, which ends.
func TestWhatIsUnderWayInATranslationThatIsLeft(t *testing.T) {
	held := make(chan struct{})
	legacy, young := &remote{}, &modernServer{}
	var downgraded atomic.Bool
	h := start(t, bridge.Options{URL: serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		r.Body = io.NopCloser(strings.NewReader(string(body)))
		switch {
		case strings.Contains(string(body), `"x/held"`):
			close(held)
			<-r.Context().Done()
		case downgraded.Load():
			legacyOnly(legacy).ServeHTTP(w, r)
		default:
			young.ServeHTTP(w, r)
		}
	}))})
	h.call(initialize)
	h.send(initialized)
	h.send(request(1, "x/held", ""))
	<-held
	downgraded.Store(true)
	h.send(strings.Replace(initialize, `"i"`, `"again"`, 1))
	failed := false
	for range 2 {
		line := h.next()
		failed = failed || strings.Contains(line, `"id":1,"error"`)
	}
	if !failed {
		t.Error("the host was not told of the call that was under way")
	}
}
