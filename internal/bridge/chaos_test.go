package bridge_test

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mcp-clerk/mcp-clerk/internal/jsonrpc"
)

// Against a server that fails in every way at random, and a host that cancels at
// random, each request has exactly one response, a cancelled one at most one,
// and a tool is executed at most once.
func TestEveryRequestIsAnsweredOnceWhateverTheServerDoes(t *testing.T) {
	for seed := range uint64(20) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { chaos(t, rand.New(rand.NewPCG(seed, 1))) })
		})
	}
}

func chaos(t *testing.T, rnd *rand.Rand) {
	var mu sync.Mutex
	roll := func(n int) int {
		mu.Lock()
		defer mu.Unlock()
		return rnd.IntN(n)
	}
	executed := map[string]int{}
	state := &remote{get: func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Last-Event-Id") != "" && roll(2) == 0 {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		events(w)(`{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}`)
		time.Sleep(time.Duration(roll(20)) * time.Second)
	}}
	state.handle = func(w http.ResponseWriter, r *http.Request, m *jsonrpc.Message) {
		own := string(jsonrpc.NewResult(m.ID, nil))
		time.Sleep(time.Duration(roll(3000)) * time.Millisecond)
		kind := roll(14)
		if kind == 0 {
			w.Header().Set("Retry-After", fmt.Sprint(roll(3)-1))
			w.WriteHeader(http.StatusTooManyRequests)
			return
		}
		if kind == 1 {
			state.restart()
			http.Error(w, "session not found", http.StatusNotFound)
			return
		}
		mu.Lock()
		executed[string(m.ID)]++
		mu.Unlock()
		switch kind {
		case 2:
			panic(http.ErrAbortHandler)
		case 3:
			events(w)(`{"jsonrpc":"2.0","method":"notifications/progress"}`)
			panic(http.ErrAbortHandler)
		case 4:
			events(w)(own, own, own)
		case 5:
			w.Header().Set("Content-Type", "text/event-stream")
			_, _ = fmt.Fprintf(w, "id: 1\nretry: 300\n\n")
			panic(http.ErrAbortHandler)
		case 6:
			w.WriteHeader(503)
		case 7:
			answerJSON(w, 500, `{"jsonrpc":"2.0","id":null,"error":{"code":-32603,"message":"m"}}`)
		case 8:
			answerJSON(w, 200, own[:len(own)-1])
		case 9:
			<-r.Context().Done()
		case 10:
			events(w)(`{"jsonrpc":"2.0","id":"q`+string(m.ID)+`","method":"ping"}`, `{"jsonrpc":"2.0","id":1,"result":{"stray":true}}`, own)
			time.Sleep(10 * time.Second)
		default:
			answerJSON(w, 200, own)
		}
	}
	o, _ := inMemory(t, state)
	o.RequestTimeout = 20 * time.Second
	h := start(t, o)
	h.handshake()

	const n = 100
	cancelled := map[string]bool{}
	answered := map[string]int{}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for line := range h.lines {
			m, err := jsonrpc.Parse([]byte(line), jsonrpc.Limits{})
			if err != nil {
				t.Errorf("stdout has %q", line)
				return
			}
			if m.IsResponse() {
				answered[string(m.ID)]++
			}
			if m.IsRequest() {
				h.send(string(jsonrpc.NewResult(m.ID, nil)))
			}
		}
	}()
	for i := range n {
		id := fmt.Sprint(100 + i)
		h.send(`{"jsonrpc":"2.0","id":` + id + `,"method":"tools/call"}`)
		time.Sleep(time.Duration(roll(200)) * time.Millisecond)
		if roll(10) == 0 {
			id = fmt.Sprint(100 + roll(i+1))
			cancelled[id] = true
			h.send(`{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":` + id + `}}`)
		}
	}
	time.Sleep(5 * time.Minute)
	h.send(`{"jsonrpc":"2.0","id":"last","method":"initialize","params":{"protocolVersion":"2025-11-25"}}`) // still alive
	time.Sleep(time.Minute)
	_ = h.in.Close()
	if err := <-h.done; err != nil {
		t.Error(err)
	}
	<-done
	time.Sleep(time.Minute) // for the server's handlers to end
	for i := range n {
		id := fmt.Sprint(100 + i)
		if got := answered[id]; got > 1 || got == 0 && !cancelled[id] {
			t.Errorf("request %s (cancelled: %v) has %d responses", id, cancelled[id], got)
		}
		if executed[id] > 1 {
			t.Errorf("request %s was executed %d times", id, executed[id])
		}
	}
	if answered[`"last"`] != 1 {
		t.Errorf("the last request has %d responses", answered[`"last"`])
	}
}
