package mcphttp_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/mcp-clerk/mcp-clerk/internal/jsonrpc"
	"github.com/mcp-clerk/mcp-clerk/internal/mcphttp"
)

// Requests of the server to its client: each goes out on its call, to a client
// that has said it can take it.

// ask asks the client and answers with what it said.
func ask(method, params string) mcphttp.HandlerFunc {
	return func(ctx context.Context, call *mcphttp.Call) ([]byte, error) {
		answer, err := call.Request(ctx, method, json.RawMessage(params))
		var refused *mcphttp.ClientError
		switch {
		case errors.As(err, &refused):
			return jsonrpc.NewResult(call.Message.ID, map[string]any{"refused": refused.Code}), nil
		case err != nil:
			return jsonrpc.NewResult(call.Message.ID, map[string]any{"err": err.Error()}), nil
		}
		return jsonrpc.NewResult(call.Message.ID, map[string]any{"answer": answer}), nil
	}
}

const callAsk = `{"jsonrpc":"2.0","id":5,"method":"tools/call","params":{"name":"ask"}}`

func TestServerRequestGoesOutOnItsCallAndTheAnswerComesBack(t *testing.T) {
	s := start(t, with("ask", ask("elicitation/create", `{"message":"<who>?"}`)))
	h := s.session("2025-11-25", `{"elicitation":{}}`)
	bob := s.session("2025-11-25", `{"elicitation":{}}`, header{"Authorization": "Bearer bob"})
	open := func() (*events, string) {
		e := s.events(s.post(callAsk, h))
		got, _ := e.next()
		m, err := jsonrpc.Parse([]byte(got), jsonrpc.Limits{Strict: true})
		if err != nil || m.Method != "elicitation/create" || string(m.Params) != `{"message":"<who>?"}` {
			t.Fatalf("%v %s", err, got)
		}
		return e, string(m.ID)
	}
	t.Run("result", func(t *testing.T) {
		e, id := open()
		// A stranger knows the id and answers first.
		if res := s.post(`{"jsonrpc":"2.0","id":`+id+`,"result":{"action":"decline"}}`, bob); res.StatusCode != http.StatusAccepted {
			t.Error(res.Status)
		}
		if res := s.post(`{"jsonrpc":"2.0","id":`+id+`,"result":{"n":1.50}}`, h); res.StatusCode != http.StatusAccepted || s.text(res) != "" {
			t.Error(res.Status)
		}
		e.want(`{"jsonrpc":"2.0","id":5,"result":{"answer":{"n":1.50}}}`)
		e.end()
		// Once more, and an answer nobody waits for: no harm.
		for _, body := range []string{`{"jsonrpc":"2.0","id":` + id + `,"result":{}}`, `{"jsonrpc":"2.0","id":77,"result":{}}`, `{"jsonrpc":"2.0","id":null,"error":{"code":1,"message":"x"}}`} {
			if res := s.post(body, h); res.StatusCode != http.StatusAccepted {
				t.Errorf("%s: %s", body, res.Status)
			}
		}
	})
	t.Run("error", func(t *testing.T) {
		e, id := open()
		s.post(`{"jsonrpc":"2.0","id":`+id+`,"error":{"code":-32042,"message":"no"}}`, h)
		e.want(`{"jsonrpc":"2.0","id":5,"result":{"refused":-32042}}`)
	})
	t.Run("cancelled call", func(t *testing.T) {
		e, id := open()
		s.post(cancelled("5"), h)
		e.want(`{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"reason":"the server no longer waits","requestId":` + id + `}}`)
		e.end()
	})
}

func TestServerRequestNeedsTheCapability(t *testing.T) {
	tests := []struct {
		name, declared, method, params string
		asked                          bool
	}{
		{"none declared", `{}`, "elicitation/create", `{}`, false},
		{"form by default", `{"elicitation":{}}`, "elicitation/create", `{"mode":"form"}`, true},
		{"form declared", `{"elicitation":{"form":{}}}`, "elicitation/create", `{}`, true},
		{"url not declared", `{"elicitation":{}}`, "elicitation/create", `{"mode":"url"}`, false},
		{"url declared", `{"elicitation":{"url":{}}}`, "elicitation/create", `{"mode":"url"}`, true},
		{"url only", `{"elicitation":{"url":{}}}`, "elicitation/create", `{}`, false},
		{"sampling", `{"sampling":{}}`, "sampling/createMessage", `{}`, true},
		{"sampling with tools not declared", `{"sampling":{}}`, "sampling/createMessage", `{"tools":[]}`, false},
		{"sampling with tools", `{"sampling":{"tools":{}}}`, "sampling/createMessage", `{"tools":[]}`, true},
		{"roots", `{"roots":{"listChanged":true}}`, "roots/list", `{}`, true},
		{"ping needs none", `{}`, "ping", `{}`, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := start(t, with("ask", ask(tt.method, tt.params)))
			h := s.session("2025-11-25", tt.declared)
			res := s.post(callAsk, h)
			if !tt.asked {
				if got := s.text(res); !strings.Contains(got, "did not declare") {
					t.Error(got)
				}
				return
			}
			e := s.events(res)
			got, _ := e.next()
			id, _ := jsonrpc.Lookup(json.RawMessage(got), "id")
			s.post(`{"jsonrpc":"2.0","id":`+string(id)+`,"result":{}}`, h)
			e.want(`{"jsonrpc":"2.0","id":5,"result":{"answer":{}}}`)
		})
	}
}

// What a call sends is its own: no listening stream hears of it, its session's
// no more than a stranger's, and the next call is answered as if there had been
// none before.
func TestNobodyElseHearsOfACall(t *testing.T) {
	s := start(t, with("work", progress(10)))
	h := s.session("2025-11-25", `{}`)
	own := s.events(s.method(http.MethodGet, h))
	stranger := s.events(s.method(http.MethodGet, s.session("2025-11-25", `{}`, header{"Authorization": "Bearer bob"}), header{"Authorization": "Bearer bob"}))
	e := s.events(s.post(`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"work","_meta":{"progressToken":1}}}`, h))
	for range 11 {
		if _, ok := e.next(); !ok {
			t.Fatal("the call's own stream is short")
		}
	}
	e.end()
	changed := `{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}`
	if err := s.Notify(nil, []byte(changed)); err != nil {
		t.Fatal(err)
	}
	own.want(changed) // and nothing before it
	stranger.want(changed)
	if ct := s.post(`{"jsonrpc":"2.0","id":2,"method":"ping"}`, h).Header.Get("Content-Type"); ct != "application/json" {
		t.Errorf("the next call of the session is answered as %q", ct)
	}
}
