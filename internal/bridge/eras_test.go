package bridge_test

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/mcp-clerk/mcp-clerk/internal/bridge"
	"github.com/mcp-clerk/mcp-clerk/internal/jsonrpc"
)

// The era of a server: how it is found, and what follows when it changes.

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
		"missing members with status 200": func(w http.ResponseWriter, m *jsonrpc.Message) {
			answerJSON(w, 200, `{"jsonrpc":"2.0","id":`+string(m.ID)+`,"error":{"code":-32602,"message":"_meta is required"}}`)
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
		m := peek(r)
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
			answerJSON(w, 400, `{"jsonrpc":"2.0","id":`+string(peek(r).ID)+`,"error":{"code":-32022,"message":"no","data":{"supported":["2099-01-01"]}}}`)
		})
		h := start(t, bridge.Options{URL: serve(t, s)})
		want(t, h.call(initialize), `{"jsonrpc":"2.0","id":"i","error":{"code":-32602,"message":"no","data":{"supported":["2099-01-01"]}}}`)
	})
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

// A host that begins anew at a server of another era than before is told of what
// was under way in the translation, which ends.
func TestWhatIsUnderWayInATranslationThatIsLeft(t *testing.T) {
	held := make(chan struct{})
	legacy, young := &remote{}, &modernServer{}
	var downgraded atomic.Bool
	h := start(t, bridge.Options{URL: serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case peek(r).Method == "x/held":
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
