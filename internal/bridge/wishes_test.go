package bridge_test

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mcp-clerk/mcp-clerk/internal/bridge"
	"github.com/mcp-clerk/mcp-clerk/internal/jsonrpc"
)

// A host goes on in a session that was renewed, and believes to be subscribed to
// what it was, and to hear of the log what it asked for (case 33).
func TestARenewedSessionDoesWhatTheOldOneDid(t *testing.T) {
	s := &remote{}
	s.handle = func(w http.ResponseWriter, _ *http.Request, m *jsonrpc.Message) {
		uri, _ := jsonrpc.LookupString(m.Params, "uri")
		if uri == "x:refused" {
			answerJSON(w, 200, string(jsonrpc.NewError(m.ID, jsonrpc.CodeInvalidParams, "there is none", nil)))
			return
		}
		answerJSON(w, 200, string(jsonrpc.NewResult(m.ID, nil)))
	}
	h := start(t, bridge.Options{URL: serve(t, s)})
	h.handshake()
	subscribe := func(id int, what, uri string) string {
		return request(id, "resources/"+what, fmt.Sprintf(`{ "uri":%q }`, uri))
	}
	for _, line := range []string{
		request(1, "logging/setLevel", `{"level":"error"}`), subscribe(2, "subscribe", "x:a"), subscribe(3, "subscribe", "x:b"),
		subscribe(4, "subscribe", "x:refused"), subscribe(5, "subscribe", "x:c"), subscribe(6, "unsubscribe", "x:b"),
		request(7, "logging/setLevel", `{"level":"debug"}`), subscribe(8, "subscribe", "x:a"),
	} {
		h.call(line)
	}
	replayed := []string{ // as the host had written them
		initialize, initialized, request(7, "logging/setLevel", `{"level":"debug"}`), subscribe(2, "subscribe", "x:a"), subscribe(5, "subscribe", "x:c"),
	}
	again := func(refused string) {
		t.Helper()
		before := len(s.seen())
		s.restart()
		h.call(refused)
		var got []string
		for _, r := range s.seen()[before:] {
			if r.HTTP == http.MethodPost {
				got = append(got, r.Body)
			}
		}
		if len(got) < 4 || got[0] != refused || got[len(got)-1] != refused {
			t.Fatalf("the server got %q", got)
		}
		slices.Sort(got[3 : len(got)-1]) // they go at once
		want := append([]string{refused}, replayed...)
		slices.Sort(want[3:])
		if diff := cmp.Diff(append(want, refused), got); diff != "" {
			t.Errorf("(-want +got)\n%s", diff)
		}
		h.quiet(50 * time.Millisecond) // what answers the bridge is not the host's
	}
	again(request(9, "tools/call", `{"name":"x"}`))
	again(request(10, "tools/call", `{"name":"x"}`))

	// A host that begins anew has asked for nothing.
	h.call(strings.Replace(initialize, `"i"`, `"i2"`, 1))
	h.send(initialized)
	h.call(request(11, "ping", ""))
	s.restart()
	before := len(s.bodies("resources/subscribe", "logging/setLevel"))
	h.call(request(12, "tools/call", ""))
	if got := s.bodies("resources/subscribe", "logging/setLevel")[before:]; len(got) > 0 {
		t.Errorf("asked again for %q", got)
	}
}

// What is remembered for a renewal has bounds.
func TestWhatARenewedSessionIsAskedForIsBounded(t *testing.T) {
	s := &remote{}
	h := start(t, bridge.Options{URL: serve(t, s)})
	h.handshake()
	h.call(request("long", "resources/subscribe", `{"uri":"x:`+strings.Repeat("u", 16<<10)+`"}`))
	const most = 1000
	for i := range most + 5 {
		h.call(request(i, "resources/subscribe", fmt.Sprintf(`{"uri":"x:%d"}`, i)))
	}
	before := len(s.bodies("resources/subscribe"))
	s.restart()
	h.call(request("end", "tools/call", ""))
	again := s.bodies("resources/subscribe")[before:]
	if long := func(body string) bool { return len(body) > 1000 }; len(again) != most || slices.ContainsFunc(again, long) {
		t.Errorf("%d subscriptions are asked for again, want %d, and none that is long", len(again), most)
	}
}

// A server that keeps silent to what it is asked for again does not keep the
// host's request for long.
func TestSubscriptionsThatAreNotAnsweredDoNotKeepARequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &remote{}
		silent := false
		s.handle = func(w http.ResponseWriter, r *http.Request, m *jsonrpc.Message) {
			if m.Method == "resources/subscribe" && silent {
				<-r.Context().Done()
				return
			}
			answerJSON(w, 200, string(jsonrpc.NewResult(m.ID, nil)))
		}
		o, _ := inMemory(t, s)
		h := start(t, o)
		h.handshake()
		for i := range 20 {
			h.call(request(i, "resources/subscribe", fmt.Sprintf(`{"uri":"x:%d"}`, i)))
		}
		silent = true
		s.restart()
		began := time.Now()
		want(t, h.call(request("end", "tools/call", "")), answer("end"))
		if took := time.Since(began); took > 15*time.Second {
			t.Errorf("answered after %v", took)
		}
	})
}

// A legacy host's subscriptions outlive the server's upgrade to another era, and
// the end of an HTTP+SSE stream.
func TestSubscriptionsOutliveOtherEnds(t *testing.T) {
	t.Run("another era", func(t *testing.T) {
		old, now := &remote{}, &modernServer{listen: make(chan string)}
		upgraded := make(chan struct{})
		h := start(t, bridge.Options{URL: serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			select {
			case <-upgraded:
				now.ServeHTTP(w, r)
			default:
				old.ServeHTTP(w, r)
			}
		}))})
		h.handshake()
		want(t, h.call(request(1, "resources/subscribe", `{"uri":"x:a"}`)), answer(1))
		close(upgraded)
		want(t, h.call(request(2, "tools/call", `{"name":"echo"}`)), `{"jsonrpc":"2.0","id":2,"result":{"content":[],"x":1.50}}`)
		select {
		case now.listen <- `{"jsonrpc":"2.0","method":"notifications/resources/updated","params":{"uri":"x:a","_meta":{"io.modelcontextprotocol/subscriptionId":"x"}}}`:
		case <-time.After(time.Minute):
			t.Fatal("the server is not listened to")
		}
		want(t, h.next(), `{"jsonrpc":"2.0","method":"notifications/resources/updated","params":{"uri":"x:a"}}`)
		if got := now.bodies("subscriptions/listen"); len(got) == 0 || !strings.Contains(got[len(got)-1], `"resourceSubscriptions":["x:a"]`) {
			t.Errorf("the server was asked to listen by %q", got)
		}
	})
	t.Run("HTTP+SSE", func(t *testing.T) {
		s := &sseServer{}
		h := start(t, bridge.Options{URL: serve(t, s) + "/sse"})
		h.handshake()
		h.call(request(1, "resources/subscribe", `{"uri":"x:a"}`))
		h.call(request(2, "drop", ""))
		h.call(request(3, "x/y", ""))
		s.mu.Lock()
		defer s.mu.Unlock()
		var got []string
		for _, p := range s.posts[len(s.posts)-4:] {
			got = append(got, p.Method)
		}
		if diff := cmp.Diff([]string{"initialize", "notifications/initialized", "resources/subscribe", "x/y"}, got); diff != "" {
			t.Errorf("(-want +got)\n%s", diff)
		}
	})
}
