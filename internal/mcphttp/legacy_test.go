package mcphttp_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mcp-clerk/mcp-clerk/internal/identity"
	"github.com/mcp-clerk/mcp-clerk/internal/jsonrpc"
	"github.com/mcp-clerk/mcp-clerk/internal/mcphttp"
)

// 2025-11-25, basic/transports, Session Management and Sending Messages.
func TestLegacySessionLifeCycle(t *testing.T) {
	s := start(t, nil)
	for _, version := range []string{"2025-03-26", "2025-06-18", "2025-11-25"} {
		t.Run(version, func(t *testing.T) {
			h := s.session(version, `{}`)
			if id := h["Mcp-Session-Id"]; len(id) > 512 || strings.Trim(id, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
				t.Errorf("session id %q", id)
			}
			if res := s.post(`{"jsonrpc":"2.0","method":"notifications/initialized"}`, h); res.StatusCode != http.StatusAccepted || s.text(res) != "" {
				t.Errorf("notification: %s", res.Status)
			}
			res := s.post(`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"add"}}`, h)
			if got, want := s.text(res), `{"jsonrpc":"2.0","id":1,"result":{"version":"`+version+`"}}`; got != want {
				t.Errorf("got %s, want %s", got, want)
			}
			if ct := res.Header.Get("Content-Type"); ct != "application/json" {
				t.Errorf("nothing but a result was sent, as %q", ct)
			}
			// The header of the version may be missing: the session says it.
			if got := s.text(s.post(`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"add"}}`, h, header{"MCP-Protocol-Version": ""})); !strings.Contains(got, version) {
				t.Errorf("without version header: %s", got)
			}
			if res := s.method(http.MethodDelete, h); res.StatusCode != http.StatusNoContent {
				t.Errorf("DELETE: %s", res.Status)
			}
			for _, res := range []*http.Response{
				s.post(`{"jsonrpc":"2.0","id":1,"method":"ping"}`, h), s.method(http.MethodGet, h), s.method(http.MethodDelete, h),
			} {
				if body := s.text(res); res.StatusCode != http.StatusNotFound || json.Valid([]byte(body)) {
					t.Errorf("%s after DELETE: %s %s", res.Request.Method, res.Status, body)
				}
			}
		})
	}
}

func TestSessionIDOfAnotherIsNotFound(t *testing.T) {
	s := start(t, nil)
	h := s.session("2025-11-25", `{}`)
	other := start(t, nil, func(o *mcphttp.Options) { o.Keys = [][]byte{make([]byte, 32)} })
	forged := []byte(h["Mcp-Session-Id"])
	forged[len(forged)/2] ^= 1
	tests := []struct {
		name string
		h    header
	}{
		{"another user's", header{"Authorization": "Bearer bob"}},
		{"another grant's of the same user", header{"Authorization": "Bearer alice-other-grant"}},
		{"never issued", header{"Mcp-Session-Id": "0123456789abcdef0123456789abcdef"}},
		{"a UUID", header{"Mcp-Session-Id": "2b1e0d3c-0000-4000-8000-000000000000"}},
		{"forged", header{"Mcp-Session-Id": string(forged)}},
		{"sealed under another key", other.session("2025-11-25", `{}`)},
		{"huge", header{"Mcp-Session-Id": strings.Repeat("A", 10000)}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for _, res := range []*http.Response{
				s.post(`{"jsonrpc":"2.0","id":1,"method":"ping"}`, h, tt.h),
				s.post(`{"jsonrpc":"2.0","method":"notifications/initialized"}`, h, tt.h),
				s.method(http.MethodGet, h, tt.h), s.method(http.MethodDelete, h, tt.h),
			} {
				if res.StatusCode != http.StatusNotFound {
					t.Errorf("%s: %s", res.Request.Method, res.Status)
				}
			}
		})
	}
	if res := s.post(`{"jsonrpc":"2.0","id":1,"method":"ping"}`, h); res.StatusCode != http.StatusOK {
		t.Errorf("the owner's: %s", res.Status)
	}
}

// A connection is no identity: people come through one proxy.
func TestSessionIDOfAnotherOnTheSameConnectionIsNotFound(t *testing.T) {
	s := start(t, nil)
	s.http = &http.Client{Transport: &http.Transport{MaxConnsPerHost: 1}, Timeout: 30 * time.Second}
	h := s.session("2025-11-25", `{}`)
	status := func(with header) int {
		res := s.post(`{"jsonrpc":"2.0","id":1,"method":"ping"}`, h, with)
		s.text(res)
		return res.StatusCode
	}
	for range 2 {
		for _, token := range []string{"bob", "alice-other-grant"} {
			if got := status(nil); got != http.StatusOK {
				t.Fatalf("the owner's: %d", got)
			}
			if got := status(header{"Authorization": "Bearer " + token}); got != http.StatusNotFound {
				t.Errorf("%s: %d", token, got)
			}
		}
	}
	s.text(s.method(http.MethodDelete, h))
	if got := status(nil); got != http.StatusNotFound {
		t.Errorf("after DELETE: %d", got)
	}
}

func TestSessionOpensUnderARotatedKey(t *testing.T) {
	oldKey, newKey := make([]byte, 32), append(make([]byte, 31), 1)
	before := start(t, nil, func(o *mcphttp.Options) { o.Keys = [][]byte{oldKey} })
	after := start(t, nil, func(o *mcphttp.Options) { o.Keys = [][]byte{newKey, oldKey} })
	if res := after.post(`{"jsonrpc":"2.0","id":1,"method":"ping"}`, before.session("2025-11-25", `{}`)); res.StatusCode != http.StatusOK {
		t.Errorf("old id at the new instance: %s", res.Status)
	}
	if res := before.post(`{"jsonrpc":"2.0","id":1,"method":"ping"}`, after.session("2025-11-25", `{}`)); res.StatusCode != http.StatusNotFound {
		t.Errorf("an id sealed under the new key opens under the old: %s", res.Status)
	}
}

func TestLegacyRefusals(t *testing.T) {
	s := start(t, nil)
	h := s.session("2025-11-25", `{}`)
	ping := `{"jsonrpc":"2.0","id":1,"method":"ping"}`
	tests := []struct {
		name, body string
		h          header
		status     int
		code       int
	}{
		{"no session id (Session Management, 2)", ping, header{"Mcp-Session-Id": ""}, 400, jsonrpc.CodeInvalidRequest},
		{"unsupported version header (Protocol Version Header)", ping, header{"MCP-Protocol-Version": "1999-01-01"}, 400, jsonrpc.CodeInvalidRequest},
		{"Accept JSON only (Sending Messages, 2)", ping, header{"Accept": "application/json"}, 406, jsonrpc.CodeInvalidRequest},
		{"Accept events only", ping, header{"Accept": "text/event-stream"}, 406, jsonrpc.CodeInvalidRequest},
		{"Accept HTML", ping, header{"Accept": "text/html"}, 406, jsonrpc.CodeInvalidRequest},
		{"Accept with weight zero", ping, header{"Accept": "*/*, text/event-stream;q=0"}, 406, jsonrpc.CodeInvalidRequest},
		{"Accept */*", ping, header{"Accept": "*/*"}, 200, 0},
		{"Accept wildcards of both", ping, header{"Accept": "application/*;q=0.5, text/*"}, 200, 0},
		{"Accept with parameters and case", ping, header{"Accept": "Application/JSON; charset=utf-8;q=0.9 ,TEXT/event-stream"}, 200, 0},
		{"no Accept", ping, header{"Accept": ""}, 200, 0},
		{"batch in a revision without (2025-06-18 changelog)", "[" + ping + "]", nil, 400, jsonrpc.CodeInvalidRequest},
		{"not JSON", `{`, nil, 400, jsonrpc.CodeParse},
		{"no message", `{"jsonrpc":"2.0"}`, nil, 400, jsonrpc.CodeInvalidRequest},
		{"case variant of a key", `{"jsonrpc":"2.0","id":1,"Method":"ping"}`, nil, 400, jsonrpc.CodeInvalidRequest},
		{"duplicate key", `{"jsonrpc":"2.0","id":1,"method":"ping","method":"tools/call"}`, nil, 400, jsonrpc.CodeInvalidRequest},
		{"duplicate name", `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","name":"b"}}`, nil, 400, jsonrpc.CodeInvalidRequest},
		{"depth 10,000", `{"jsonrpc":"2.0","id":1,"method":"ping","params":{"a":` + strings.Repeat("[", 10000) + strings.Repeat("]", 10000) + `}}`, nil, 400, jsonrpc.CodeInvalidRequest},
		{"1e999", `{"jsonrpc":"2.0","id":1,"method":"ping","params":{"a":1e999}}`, nil, 400, jsonrpc.CodeInvalidRequest},
		{"lone surrogate", `{"jsonrpc":"2.0","id":1,"method":"ping","params":{"a":"\ud800"}}`, nil, 400, jsonrpc.CodeInvalidRequest},
		{"unknown method", `{"jsonrpc":"2.0","id":1,"method":"nothing"}`, nil, 200, jsonrpc.CodeMethodNotFound},
		{"initialize as a notification", `{"jsonrpc":"2.0","method":"initialize"}`, nil, 400, jsonrpc.CodeInvalidRequest},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			res := s.post(tt.body, h, tt.h)
			body := s.text(res)
			if res.StatusCode != tt.status || code(t, body) != tt.code {
				t.Errorf("%s %s", res.Status, body)
			}
		})
	}
}

func TestIDsComeBackByteExact(t *testing.T) {
	// The handler answers with ids as an engine does that reads them as float64.
	s := start(t, with("echo", func(_ context.Context, call *mcphttp.Call) ([]byte, error) {
		return []byte(`{"jsonrpc":"2.0", "id":9007199254740992,"result":{"id":9007199254740992}}`), nil
	}))
	h := s.session("2025-11-25", `{}`)
	for _, id := range []string{`9007199254740993`, `18446744073709551616`, `-1`, `1.0`, `1e2`, `"9007199254740993"`, `"\u0041/\/"`, `"日本"`, `""`} {
		want := `{"jsonrpc":"2.0", "id":` + id + `,"result":{"id":9007199254740992}}`
		if got := s.text(s.post(`{"jsonrpc":"2.0","id":`+id+`,"method":"tools/call","params":{"name":"echo"}}`, h)); got != want {
			t.Errorf("legacy: got %s, want %s", got, want)
		}
		body, hm := modern(id, "tools/call", `"name":"echo"`)
		if got := s.text(s.post(body, hm)); got != want {
			t.Errorf("modern: got %s, want %s", got, want)
		}
	}
}

// progress sends n notifications that name the call they belong to.
func progress(n int) mcphttp.HandlerFunc {
	return func(ctx context.Context, call *mcphttp.Call) ([]byte, error) {
		token, _ := jsonrpc.Lookup(call.Message.Params, "_meta", "progressToken")
		for i := range n {
			raw := jsonrpc.NewNotification("notifications/progress", map[string]any{"progressToken": token, "progress": i})
			if err := call.Notify(ctx, raw); err != nil {
				return nil, err
			}
		}
		return jsonrpc.NewResult(call.Message.ID, map[string]any{"token": token}), nil
	}
}

func TestConcurrentCallsKeepTheirOwnProgressInOrder(t *testing.T) {
	const calls, each = 8, 5000
	s := start(t, with("work", progress(each)))
	legacy := s.session("2025-11-25", `{}`)
	var wg sync.WaitGroup
	for i := range calls {
		wg.Go(func() {
			token := strconv.Itoa(100 + i)
			// Half of the calls are of one session with one id.
			body, h := fmt.Sprintf(`{"jsonrpc":"2.0","id":%d,"method":"tools/call","params":{"name":"work","_meta":{"progressToken":%s}}}`, 1+i/4, token), legacy
			if i%2 == 0 {
				body, h = modern("1", "tools/call", `"name":"work"`)
				body = strings.Replace(body, `"_meta":{`, `"_meta":{"progressToken":`+token+`,`, 1)
			}
			e := s.events(s.post(body, h))
			for n := range each {
				want := fmt.Sprintf(`{"jsonrpc":"2.0","method":"notifications/progress","params":{"progress":%d,"progressToken":%s}}`, n, token)
				if got, ok := e.next(); !ok || got != want {
					t.Errorf("call %s, event %d: %q", token, n, got)
					return
				}
			}
			if got, _ := e.next(); !strings.Contains(got, `"result":{"token":`+token+`}`) {
				t.Errorf("call %s ends with %q", token, got)
			}
			e.end()
		})
	}
	wg.Wait()
}

func TestASlowReaderSlowsItsOwnCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sent := make(chan int, 1)
		s := startBubble(t, with("flood", func(ctx context.Context, call *mcphttp.Call) ([]byte, error) {
			raw := jsonrpc.NewNotification("notifications/progress", map[string]any{"progressToken": 1, "message": strings.Repeat("x", 64<<10)})
			for i := range 2000 {
				if err := call.Notify(ctx, raw); err != nil {
					sent <- i
					return nil, err
				}
			}
			sent <- 2000
			return jsonrpc.NewResult(call.Message.ID, nil), nil
		}), nil)
		body, h := modern("1", "tools/call", `"name":"flood"`)
		res := s.post(body, h)
		synctest.Wait()
		select {
		case n := <-sent:
			t.Fatalf("%d notifications were taken for a client that reads none", n)
		default:
		}
		_ = res.Body.Close()
		if n := <-sent; n == 2000 {
			t.Error("the call went on after its client had gone")
		}
	})
}

func TestSessionTellsWhatTheClientDeclared(t *testing.T) {
	got := make(chan mcphttp.Session, 2)
	s := start(t, mcphttp.HandlerFunc(func(ctx context.Context, call *mcphttp.Call) ([]byte, error) {
		if call.Session != nil {
			got <- *call.Session
		}
		return basics(ctx, call)
	}))
	h := s.session("2025-06-18", `{"roots":{"listChanged":true},"sampling":{"context":{}},"elicitation":{"form":{},"url":{}},"tasks":{}}`)
	atInitialize := <-got
	s.post(`{"jsonrpc":"2.0","id":1,"method":"ping"}`, h)
	later := <-got
	later.Expires, atInitialize.Expires = time.Time{}, time.Time{}
	want := mcphttp.Session{
		ID: later.ID, Subject: "user_alice", Grant: "grant_1", Version: "2025-06-18", ClientName: "test", ClientVersion: "1.2",
		Capabilities: mcphttp.CapRoots | mcphttp.CapRootsListChanged | mcphttp.CapSampling | mcphttp.CapSamplingContext | mcphttp.CapElicitation | mcphttp.CapElicitationURL | mcphttp.CapTasks,
	}
	if d := cmp.Diff(want, later); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff(later, atInitialize); d != "" {
		t.Errorf("at initialize it was another: %s", d)
	}
}

func TestGetStreamCarriesWhatTheSessionAskedFor(t *testing.T) {
	s := start(t, nil)
	alice, bob := s.session("2025-11-25", `{}`), s.session("2025-11-25", `{}`, header{"Authorization": "Bearer bob"})
	first := s.events(s.method(http.MethodGet, alice))
	second := s.events(s.method(http.MethodGet, alice))
	other := s.events(s.method(http.MethodGet, bob))
	eventually(t, "two listeners", func() bool { return len(s.Listening()) == 2 })
	s.post(`{"jsonrpc":"2.0","id":1,"method":"resources/subscribe","params":{"uri":"file:///a"}}`, alice)

	changed := `{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}`
	updated := func(uri string) string {
		return `{"jsonrpc":"2.0","method":"notifications/resources/updated","params":{"uri":"` + uri + `"}}`
	}
	notify := func(match func(*identity.Principal) bool, raw string) {
		t.Helper()
		if err := s.Notify(match, []byte(raw)); err != nil {
			t.Fatal(err)
		}
	}
	notify(nil, changed)
	second.want(changed) // one stream of a session, the newest (Multiple Connections)
	other.want(changed)
	notify(func(p *identity.Principal) bool { return p.Subject == "user_bob" }, changed)
	other.want(changed)
	notify(nil, updated("file:///b"))
	notify(nil, updated("file:///a"))
	second.want(updated("file:///a"))
	notify(nil, updated("file:///a/part"))
	second.want(updated("file:///a/part"))
	s.post(`{"jsonrpc":"2.0","id":1,"method":"resources/unsubscribe","params":{"uri":"file:///a"}}`, alice)
	notify(nil, updated("file:///a"))
	notify(nil, changed)
	second.want(changed)
	second.close()
	took := make(chan bool, 1)
	go func() {
		got, ok := first.next()
		took <- ok && got == changed
	}()
	eventually(t, "the older stream takes over when the newer is gone", func() bool {
		notify(func(p *identity.Principal) bool { return p.Subject == "user_alice" }, changed)
		select {
		case ok := <-took:
			return ok
		default:
			return false
		}
	})
	first.close()
	other.close()
	if err := s.Notify(nil, []byte(`{"jsonrpc":"2.0","id":1,"method":"ping"}`)); err == nil {
		t.Error("a request was broadcast")
	}
}

func TestLegacyLogLevelFiltersTheSessionsCalls(t *testing.T) {
	s := start(t, with("log", func(ctx context.Context, call *mcphttp.Call) ([]byte, error) {
		for _, level := range []string{"debug", "info", "error"} {
			if err := call.Notify(ctx, jsonrpc.NewNotification("notifications/message", map[string]any{"level": level, "data": call.LogLevel})); err != nil {
				return nil, err
			}
		}
		return jsonrpc.NewResult(call.Message.ID, nil), nil
	}))
	h := s.session("2025-11-25", `{}`)
	levels := func() (got []string) {
		e := s.events(s.post(`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"log"}}`, h))
		for raw, ok := e.next(); ok; raw, ok = e.next() {
			if l, ok := jsonrpc.LookupString(json.RawMessage(raw), "params", "level"); ok {
				got = append(got, l)
			}
		}
		return got
	}
	if d := cmp.Diff([]string{"debug", "info", "error"}, levels()); d != "" {
		t.Errorf("before setLevel: %s", d)
	}
	if got := s.text(s.post(`{"jsonrpc":"2.0","id":1,"method":"logging/setLevel","params":{"level":"info"}}`, h)); code(t, got) != 0 {
		t.Fatal(got)
	}
	if d := cmp.Diff([]string{"info", "error"}, levels()); d != "" {
		t.Errorf("after setLevel: %s", d)
	}
	// Another session of the same user is not touched.
	h = s.session("2025-11-25", `{}`)
	if d := cmp.Diff([]string{"debug", "info", "error"}, levels()); d != "" {
		t.Errorf("another session: %s", d)
	}
}
