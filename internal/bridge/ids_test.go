package bridge_test

import (
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mcp-clerk/mcp-clerk/internal/jsonrpc"
)

// A request under the id of one that was cancelled, or has timed out, does not
// overtake what the server is told of that: it would end the wrong one.
func TestACancellationDoesNotEndTheNextRequestOfItsID(t *testing.T) {
	for name, give := range map[string]func(h *host){
		"cancelled": func(h *host) {
			h.send(`{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":7}}`)
		},
		"timed out": func(h *host) {
			if _, text := errorOf(h.t, h.next(), 7); !strings.Contains(text, "did not respond") {
				h.t.Errorf("got %q", text)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var mu sync.Mutex
				running := map[string]chan struct{}{} // id -> closed when it is cancelled
				s := &remote{}
				s.handle = func(w http.ResponseWriter, r *http.Request, m *jsonrpc.Message) {
					ended := make(chan struct{})
					mu.Lock()
					running[string(m.ID)] = ended
					mu.Unlock()
					switch n, _ := jsonrpc.Lookup(m.Params, "n"); string(n) {
					case "1":
						<-ended
						w.WriteHeader(http.StatusNoContent)
					default:
						select {
						case <-time.After(5 * time.Second): // at work
							answerJSON(w, 200, answer(7))
						case <-ended:
							<-r.Context().Done() // nobody waits for a response
						}
					}
				}
				front := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					m := peek(r)
					if m.Method == "notifications/cancelled" {
						time.Sleep(2 * time.Second) // on its way
						id, _ := jsonrpc.Lookup(m.Params, "requestId")
						mu.Lock()
						close(running[string(id)])
						mu.Unlock()
					}
					s.ServeHTTP(w, r)
				})
				o, _ := inMemory(t, front)
				o.RequestTimeout = time.Minute
				h := start(t, o)
				h.handshake()
				h.send(request(7, "x/y", `{"n":1}`))
				synctest.Wait() // until it is at the server
				give(h)
				want(t, h.call(request(7, "x/y", `{"n":2}`)), answer(7))
			})
		})
	}
}
