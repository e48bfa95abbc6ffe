package bridge_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mcp-clerk/mcp-clerk/internal/bridge"
	"github.com/mcp-clerk/mcp-clerk/internal/jsonrpc"
)

// A modern host at a legacy server, whose sessions it does not see, and at a
// modern one, whose tools want headers.

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
		if m := peek(r); m.IsResponse() && m.ID != nil {
			asked <- string(m.Result)
			w.WriteHeader(http.StatusAccepted)
			return
		}
		s.ServeHTTP(w, r)
	})
	h := start(t, bridge.Options{URL: serve(t, legacyOnly(front))})
	want(t, h.call(modernCall("d", "server/discover", "")), `{"jsonrpc":"2.0","id":"d","result":{"resultType":"complete","supportedVersions":["2026-07-28","2025-11-25"],"capabilities":{"tools":{},"logging":{}},"_meta":{"io.modelcontextprotocol/serverInfo":{"name":"s","version":"1"}},"ttlMs":0,"cacheScope":"private"}}`)
	want(t, h.call(modernCall(1, "tools/call", `"name":"echo"`)), `{"jsonrpc":"2.0","id":1,"result":{"resultType":"complete","content":[],"x":1.50}}`)
	want(t, h.call(request(9, "ping", "")), `{"jsonrpc":"2.0","id":9,"result":{"resultType":"complete"}}`) // some keep the habit

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
