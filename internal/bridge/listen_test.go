package bridge_test

import (
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mcp-clerk/mcp-clerk/internal/bridge"
)

// Listening across a translation: what the server tells unasked, and which of it
// the host wants to hear.

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
