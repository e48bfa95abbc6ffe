package bridge_test

import (
	"slices"
	"testing"

	"github.com/mcp-clerk/mcp-clerk/internal/bridge"
	"github.com/mcp-clerk/mcp-clerk/internal/jsonrpc"
)

// A legacy host at a modern server: what it asks is translated, and so is what
// the server asks back.

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
