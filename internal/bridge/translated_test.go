package bridge_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"sync"
	"testing"

	"github.com/mcp-clerk/mcp-clerk/internal/bridge"
	"github.com/mcp-clerk/mcp-clerk/internal/jsonrpc"
)

// Translations under load: every call is answered once, whatever else is under
// way beside it.

// Many calls at once, half of which ask the host first, some of which are
// cancelled: one response each, and none to those.
func TestManyTranslatedCallsAtOnce(t *testing.T) {
	const n = 200
	cancelled := func(i int) bool { return i%7 == 3 }
	sendAll := func(h *host, call func(i int) string) {
		for i := range n {
			_, _ = io.WriteString(h.in, call(i)+"\n")
			if cancelled(i) {
				_, _ = io.WriteString(h.in, fmt.Sprintf(`{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":%d}}`, i)+"\n")
			}
		}
	}
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
		go sendAll(h, func(i int) string {
			return request(i, "tools/call", fmt.Sprintf(`{"name":%q}`, []string{"ask", "echo"}[i%2]))
		})
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
			if m := peek(r); m.IsResponse() && m.ID != nil {
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
		go sendAll(h, func(i int) string {
			return modernCall(i, "tools/call", fmt.Sprintf(`"name":%q,"arguments":{"i":%d}`, []string{"ask", "echo"}[i%2], i))
		})
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
		if m := peek(r); m.Method == "x/y" {
			echo(w, m)
			return
		}
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
