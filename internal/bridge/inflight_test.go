package bridge_test

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mcp-clerk/mcp-clerk/internal/bridge"
	"github.com/mcp-clerk/mcp-clerk/internal/jsonrpc"
)

// Requests under way: each is answered once and under its own id, unless it is
// cancelled, and none stays for ever.

func TestThousandRequestsInFlightArePairedRight(t *testing.T) {
	const n = 1000
	var mu sync.Mutex
	var waiting []func()
	release := make(chan struct{})
	state := &remote{handle: func(w http.ResponseWriter, _ *http.Request, m *jsonrpc.Message) {
		mu.Lock()
		waiting = append(waiting, nil)
		if len(waiting) == n {
			close(release)
		}
		mu.Unlock()
		<-release
		own := string(jsonrpc.NewResult(m.ID, jsonrpc.NewResult(m.ID, nil)))
		if rand.N(2) == 0 {
			answerJSON(w, 200, own)
			return
		}
		// Twice, and with responses nobody asked for.
		events(w)(`{"jsonrpc":"2.0","id":"unknown","result":{}}`, own, own, `{"jsonrpc":"2.0","id":`+string(m.ID)+`,"error":{"code":1,"message":"late"}}`)
	}}
	h := start(t, bridge.Options{URL: serve(t, state)})
	h.handshake()
	go func() {
		for i := range n {
			if i%2 == 0 {
				_, _ = io.WriteString(h.in, request(i, "tools/call", "")+"\n")
			} else {
				_, _ = io.WriteString(h.in, request(fmt.Sprint(i-1), "tools/call", "")+"\n")
			}
		}
	}()
	answered := map[string]int{}
	for range n {
		m, err := jsonrpc.Parse([]byte(h.next()), jsonrpc.Limits{})
		if err != nil {
			t.Fatal(err)
		}
		answered[string(m.ID)]++
		if inner, _ := jsonrpc.Lookup(m.Result, "id"); string(inner) != string(m.ID) {
			t.Errorf("%s was answered by %s", m.ID, m.Raw)
		}
	}
	if len(answered) != n {
		t.Errorf("%d of %d requests were answered", len(answered), n)
	}
	h.quiet(50 * time.Millisecond)
}

func TestIDInFlightIsNotUsedTwice(t *testing.T) {
	release := make(chan struct{})
	state := &remote{handle: func(w http.ResponseWriter, _ *http.Request, m *jsonrpc.Message) {
		<-release
		answerJSON(w, 200, string(jsonrpc.NewResult(m.ID, nil)))
	}}
	h := start(t, bridge.Options{URL: serve(t, state)})
	h.handshake()
	h.send(request(1, "tools/call", ""))
	if code, _ := errorOf(t, h.call(request(1, "tools/call", "")), nil); code != -32600 {
		t.Errorf("got %d", code)
	}
	close(release)
	if got := h.next(); got != answer(1) {
		t.Errorf("got %s", got)
	}
	if got := h.call(request(1, "tools/call", "")); got != answer(1) { // over: the id is free
		t.Errorf("got %s", got)
	}
}

// 2025-11-25, basic/utilities/cancellation.
func TestCancelledRequestHasNoResponse(t *testing.T) {
	arrived, told := make(chan struct{}), make(chan struct{})
	state := &remote{handle: func(w http.ResponseWriter, _ *http.Request, m *jsonrpc.Message) {
		if string(m.ID) != "1" {
			answerJSON(w, 200, string(jsonrpc.NewResult(m.ID, nil)))
			return
		}
		send := events(w)
		close(arrived)
		<-told
		send(`{"jsonrpc":"2.0","method":"notifications/progress"}`, string(jsonrpc.NewResult(m.ID, nil)))
	}}
	srv := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		state.ServeHTTP(w, r)
		if len(state.bodies("notifications/cancelled")) == 1 {
			select {
			case <-told:
			default:
				close(told)
			}
		}
	}))
	h := start(t, bridge.Options{URL: srv})
	h.handshake()
	h.send(request(1, "tools/call", ""))
	<-arrived
	note := `{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"reason":"‹", "requestId":1}}`
	for _, other := range []string{
		`{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"1"}}`,
		`{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":77}}`,
		`{"jsonrpc":"2.0","method":"notifications/cancelled"}`,
		`{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"i"}}`,
	} {
		h.send(other)
	}
	h.send(note)
	<-told
	if got := h.call(request(2, "ping", "")); got != answer(2) {
		t.Errorf("got %s", got)
	}
	h.send(note) // it is over
	h.quiet(50 * time.Millisecond)
	if err := h.end(); err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff([]string{note}, state.bodies("notifications/cancelled")); diff != "" {
		t.Errorf("the server got: (-want +got)\n%s", diff)
	}
}

// 2026-07-28, basic/patterns/cancellation: closing the stream says it.
func TestModernRequestIsCancelledByClosingItsStream(t *testing.T) {
	arrived, closed := make(chan struct{}), make(chan struct{})
	state := &remote{handle: func(w http.ResponseWriter, r *http.Request, _ *jsonrpc.Message) {
		send := events(w)
		close(arrived)
		<-r.Context().Done()
		send(answer(1))
		close(closed)
	}}
	h := start(t, bridge.Options{URL: serve(t, state)})
	h.send(modern(1, "tools/call"))
	<-arrived
	h.send(`{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1}}`)
	<-closed
	h.quiet(50 * time.Millisecond)
	if err := h.end(); err != nil {
		t.Error(err)
	}
	if n := len(state.seen()); n != 1 {
		t.Errorf("%d requests", n)
	}
}

func TestQuietRequestTimesOutAndProgressExtendsIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		state := &remote{handle: func(w http.ResponseWriter, r *http.Request, m *jsonrpc.Message) {
			send := events(w)
			for range 5 {
				time.Sleep(50 * time.Second)
				send(`{"jsonrpc":"2.0","method":"notifications/progress"}`)
			}
			if string(m.ID) == "1" {
				<-r.Context().Done()
				return
			}
			send(string(jsonrpc.NewResult(m.ID, nil)))
		}}
		o, _ := inMemory(t, state)
		o.RequestTimeout = time.Minute
		h := start(t, o)
		h.handshake()
		began := time.Now()
		h.send(request(1, "tools/call", ""))
		for range 5 {
			h.next()
		}
		code, text := errorOf(t, h.next(), 1)
		if code != -32603 || !strings.Contains(text, "server.test did not respond to tools/call within 1m0s") || time.Since(began) != 310*time.Second {
			t.Errorf("%d %s after %v", code, text, time.Since(began))
		}
		synctest.Wait()
		if got := state.bodies("notifications/cancelled"); len(got) != 1 || !strings.Contains(got[0], `"requestId":1`) {
			t.Errorf("the server was told %q", got)
		}
		h.send(request(2, "tools/call", ""))
		for range 5 {
			h.next()
		}
		if got := h.next(); got != answer(2) {
			t.Errorf("got %s", got)
		}
	})
}
