package bridge_test

import (
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mcp-clerk/mcp-clerk/internal/bridge"
	"github.com/mcp-clerk/mcp-clerk/internal/jsonrpc"
)

func TestMessagesPassByteForByte(t *testing.T) {
	requests := []string{
		`{"id":9007199254740993,"jsonrpc":"2.0","method":"tools/call","params":{"z":1.0,"a":1e400,"n":123456789012345678901234567890,"s":"‹<\u003c\ud800","":[]},"x-unknown":null}`,
		`{ "jsonrpc" : "2.0", "method":"no/such", "id":"é\"" , "params":[ ] }`,
	}
	state := &remote{handle: func(w http.ResponseWriter, _ *http.Request, m *jsonrpc.Message) {
		events(w)(`{"params":{"progress":0.10},"method":"notifications/progress","jsonrpc":"2.0","x":1}`,
			`{"result":{"n":9007199254740993,"f":1.50,"big":-0.0e-0},"id":`+string(m.ID)+`, "extra":"‹"}`)
	}}
	h := start(t, bridge.Options{URL: serve(t, state)})
	h.handshake()
	for _, raw := range requests {
		m, err := jsonrpc.Parse([]byte(raw), jsonrpc.Limits{})
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(`{"params":{"progress":0.10},"method":"notifications/progress","jsonrpc":"2.0","x":1}`, h.call(raw)); diff != "" {
			t.Error(diff)
		}
		if diff := cmp.Diff(`{"result":{"n":9007199254740993,"f":1.50,"big":-0.0e-0},"id":`+string(m.ID)+`, "extra":"‹"}`, h.next()); diff != "" {
			t.Error(diff)
		}
	}
	if err := h.end(); err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff(requests, state.bodies("tools/call", "no/such")); diff != "" {
		t.Errorf("the server got: (-want +got)\n%s", diff)
	}
}

// Nothing is sent that the host did not ask for, and the session is ended.
func TestNothingIsProbed(t *testing.T) {
	state := &remote{}
	h := start(t, bridge.Options{URL: serve(t, state), Authorizer: &person{token: "tok"}, Version: "1.2"})
	h.quiet(100 * time.Millisecond)
	if n := len(state.seen()); n != 0 {
		t.Fatalf("%d requests before the host has said anything", n)
	}
	h.handshake()
	h.call(request(1, "tools/list", ""))
	if err := h.end(); err != nil {
		t.Error(err)
	}
	var got []string
	for _, r := range state.seen() {
		if r.HTTP != http.MethodGet { // the stream may open at any time behind initialized
			got = append(got, strings.Join([]string{r.HTTP, r.Method, r.Header.Get("Authorization"), r.Header.Get("User-Agent")}, " "))
		}
	}
	want := []string{
		"POST initialize Bearer tok mcp-clerk/1.2", "POST notifications/initialized Bearer tok mcp-clerk/1.2",
		"POST tools/list Bearer tok mcp-clerk/1.2", "DELETE  Bearer tok mcp-clerk/1.2",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestBadInputIsAnsweredAndTheSessionSurvives(t *testing.T) {
	state := &remote{}
	h := start(t, bridge.Options{URL: serve(t, state), MaxMessage: 1000})
	h.handshake()
	tests := []struct {
		name, in string
		id       any
		code     int
	}{
		{"no JSON", "hello", nil, -32700},
		{"truncated", `{"jsonrpc":"2.0","id":1,"method":"p`, nil, -32700},
		{"NUL", "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"a\x00\"}", nil, -32700},
		{"invalid UTF-8", "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"\xff\"}", nil, -32700},
		{"trailing garbage", `{"jsonrpc":"2.0","id":1,"method":"ping"} x`, nil, -32700},
		{"no message", `{"jsonrpc":"2.0","id":7}`, 7, -32600},
		{"a number", `1`, nil, -32600},
		{"a batch in a revision without", `[{"jsonrpc":"2.0","id":1,"method":"ping"}]`, nil, -32600},
		{"an empty batch", `[]`, nil, -32600},
		{"too large", request("big", "tools/call", `{"a":"`+strings.Repeat("x", 1000)+`"}`), "big", -32600},
		{"too large without an id", `{"jsonrpc":"2.0","method":"x","params":"` + strings.Repeat("x", 1000) + `"}`, nil, -32600},
	}
	for _, tt := range tests {
		if code, text := errorOf(t, h.call(tt.in), tt.id); code != tt.code {
			t.Errorf("%s: got %d %s", tt.name, code, text)
		}
		if got := h.call(request(1, "ping", "")); got != answer(1) {
			t.Errorf("%s: then %s", tt.name, got)
		}
	}
	h.send("", "\xef\xbb\xbf", `{"jsonrpc":"2.0","id":"nobody asked","result":{}}`)
	if code, _ := errorOf(t, h.next(), nil); code != -32700 {
		t.Error("a byte order mark in the middle")
	}
	if n := len(state.bodies("ping")); n != len(tests) {
		t.Errorf("%d pings and %d POSTs", n, state.count("POST"))
	}
	if got := h.end(); got != nil {
		t.Error(got)
	}
	for _, body := range state.bodies("") {
		t.Errorf("the server got %s", body)
	}
}

// JSON-RPC 2.0 section 6, in the one revision that has batches.
func TestBatchOfItsRevision(t *testing.T) {
	state := &remote{version: "2025-03-26"}
	h := start(t, bridge.Options{URL: serve(t, state)})
	h.handshake()
	line := h.call(`[` + request(1, "a", "") + `,{"jsonrpc":"2.0","method":"notifications/x"},` + request("2", "b", "") + `,7,` + initialize + `]`)
	parts, err := jsonrpc.SplitBatch([]byte(line), jsonrpc.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, p := range parts {
		got = append(got, string(p))
	}
	if len(got) != 4 || !slices.Contains(got, answer("2")) || !slices.Contains(got, answer(1)) {
		t.Errorf("got %q", got)
	}
	h.send(`[{"jsonrpc":"2.0","method":"notifications/x"},{"jsonrpc":"2.0","id":"s","result":{}}]`) // no responses: no array
	if got := h.call(request(3, "ping", "")); got != answer(3) {
		t.Errorf("got %s", got)
	}
	if diff := cmp.Diff(2, len(state.bodies("notifications/x"))); diff != "" {
		t.Error(diff)
	}
}

func TestServerAsksTheHost(t *testing.T) {
	ask := func(id string) string {
		return `{"jsonrpc":"2.0","id":` + id + `,"method":"elicitation/create","params":{"x":1.0}}`
	}
	reply := make(chan string, 10)
	state := &remote{handle: func(w http.ResponseWriter, _ *http.Request, m *jsonrpc.Message) {
		send := events(w)
		send(ask(`1`), ask(`1`), ask(`"1"`)) // the second is a repetition
		<-reply
		<-reply
		send(ask(`2`), `{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":2}}`)
		send(string(jsonrpc.NewResult(m.ID, nil)))
	}}
	srv := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		before := len(state.bodies(""))
		state.ServeHTTP(w, r)
		if len(state.bodies("")) > before {
			reply <- ""
		}
	}))
	h := start(t, bridge.Options{URL: srv})
	h.handshake()
	h.send(request(1, "tools/call", ""))
	if diff := cmp.Diff([]string{ask(`"1"`), ask(`1`)}, h.collect(2)); diff != "" {
		t.Fatal(diff)
	}
	answers := []string{
		`{"id":1 ,"jsonrpc":"2.0","result":{"action":"accept","content":{"n":1.0}}}`,
		`{"jsonrpc":"2.0","id":"1","error":{"code":-1,"message":"no"}}`,
	}
	h.send(answers[0], answers[0], answers[1], `{"jsonrpc":"2.0","id":99,"result":{}}`)
	h.collect(3)                                   // the third question, its cancellation, the response
	h.send(`{"jsonrpc":"2.0","id":2,"result":{}}`) // too late
	if err := h.end(); err != nil {
		t.Error(err)
	}
	got := state.bodies("")
	slices.Sort(got)
	slices.Sort(answers)
	if diff := cmp.Diff(answers, got); diff != "" {
		t.Errorf("the server got: (-want +got)\n%s", diff)
	}
}

func TestServerIsHeardOnItsOwnStream(t *testing.T) {
	state := &remote{get: func(w http.ResponseWriter, r *http.Request) {
		events(w)(`{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}`, `{"jsonrpc":"2.0","id":5,"method":"ping"}`)
		<-r.Context().Done()
	}}
	h := start(t, bridge.Options{URL: serve(t, state)})
	h.handshake()
	if got := h.next(); !strings.Contains(got, "list_changed") {
		t.Errorf("got %s", got)
	}
	if got := h.next(); got != request(5, "ping", "") {
		t.Errorf("got %s", got)
	}
	h.send(answer(5))
	if err := h.end(); err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff([]string{answer(5)}, state.bodies("")); diff != "" {
		t.Error(diff)
	}
}

func TestModernHostIsRelayedWithoutASession(t *testing.T) {
	state := &remote{handle: func(w http.ResponseWriter, _ *http.Request, m *jsonrpc.Message) {
		if m.Method == "server/discover" {
			answerJSON(w, 400, `{"jsonrpc":"2.0","id":1,"error":{"code":-32022,"message":"no","data":{"supported":["2026-07-28"]}}}`)
			return
		}
		// The revision has no requests from the server.
		events(w)(`{"jsonrpc":"2.0","id":9,"method":"roots/list"}`, `{"jsonrpc":"2.0","method":"notifications/progress"}`, string(jsonrpc.NewResult(m.ID, nil)))
	}}
	h := start(t, bridge.Options{URL: serve(t, state)})
	if code, _ := errorOf(t, h.call(modern(1, "server/discover")), 1); code != -32022 {
		t.Errorf("got %d", code)
	}
	h.send(modern(2, "tools/call"))
	if got := h.next(); !strings.Contains(got, "progress") {
		t.Errorf("got %s", got)
	}
	if got := h.next(); got != answer(2) {
		t.Errorf("got %s", got)
	}
	// A host may discover and then initialize (and the other way round).
	h.handshake()
	if err := h.end(); err != nil {
		t.Error(err)
	}
	first := state.seen()[0].Header
	if first.Get("Mcp-Method") != "server/discover" || first.Get("Mcp-Protocol-Version") != "2026-07-28" || first.Get("Mcp-Session-Id") != "" {
		t.Errorf("header %v", first)
	}
}

// 2026-07-28, basic/patterns/subscriptions.
func TestSubscriptionIsOpenedAgainUnderTheSameID(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ack := `{"jsonrpc":"2.0","method":"notifications/subscriptions/acknowledged","params":{"_meta":{"io.modelcontextprotocol/subscriptionId":1}}}`
		changed := func(n int) string {
			return fmt.Sprintf(`{"jsonrpc":"2.0","method":"notifications/tools/list_changed","params":{"n":%d}}`, n)
		}
		var n atomic.Int32
		state := &remote{handle: func(w http.ResponseWriter, _ *http.Request, m *jsonrpc.Message) {
			i := int(n.Add(1))
			switch i {
			case 3:
				w.WriteHeader(502)
			case 5:
				events(w)(ack, changed(i), string(jsonrpc.NewResult(m.ID, nil)))
			default:
				send := events(w)
				send(ack, changed(i))
				time.Sleep(time.Hour) // no time-out
				panic(http.ErrAbortHandler)
			}
		}}
		o, _ := inMemory(t, state)
		h := start(t, o)
		h.send(modern(1, "subscriptions/listen"))
		for _, want := range []string{ack, changed(1)} {
			if got := h.next(); got != want {
				t.Errorf("got %s", got)
			}
		}
		time.Sleep(time.Hour + time.Second)
		if got := h.next(); got != changed(2) {
			t.Errorf("got %s", got)
		}
		time.Sleep(time.Hour + time.Minute)
		if got := h.next(); got != changed(4) {
			t.Errorf("got %s", got)
		}
		time.Sleep(time.Hour + time.Minute)
		if got := h.next(); got != changed(5) {
			t.Errorf("got %s", got)
		}
		if got := h.next(); got != answer(1) {
			t.Errorf("got %s", got)
		}
		bodies := state.bodies()
		if len(bodies) != 5 || slices.ContainsFunc(bodies, func(b string) bool { return b != bodies[0] }) {
			t.Errorf("the server got %q", bodies)
		}
	})
}

// At most one error for each request, naming what happened and what to do.
func TestFaultsOfTheServerAreErrorsOfTheRequest(t *testing.T) {
	tests := map[string]struct {
		h    http.HandlerFunc
		want string
	}{
		"dies":             {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, "may have been executed"},
		"drops the stream": {func(w http.ResponseWriter, _ *http.Request) { events(w)() }, "may have been executed"},
		"captive portal": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/html")
			_, _ = io.WriteString(w, "<html>")
		}, `status 200 (OK): the content type is "text/html"`},
		"no content":    {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(204) }, "status 204"},
		"truncated":     {func(w http.ResponseWriter, _ *http.Request) { answerJSON(w, 200, `{"jsonrpc":`) }, "no JSON-RPC message"},
		"forbidden":     {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(403) }, "status 403"},
		"unauthorized":  {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(401) }, "run `mcp-clerk login http://"},
		"gateway error": {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(502) }, "status 502"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			var calls atomic.Int32
			state := &remote{handle: func(w http.ResponseWriter, r *http.Request, m *jsonrpc.Message) {
				if m.Method == "tools/call" {
					calls.Add(1)
					tt.h(w, r)
					return
				}
				answerJSON(w, 200, string(jsonrpc.NewResult(m.ID, nil)))
			}}
			url := serve(t, state)
			h := start(t, bridge.Options{URL: url})
			h.handshake()
			code, text := errorOf(t, h.call(request(1, "tools/call", "")), 1)
			if code != -32603 || !strings.Contains(text, tt.want) || !strings.Contains(text, strings.TrimPrefix(url, "http://")) {
				t.Errorf("got %d %s", code, text)
			}
			if got := h.call(request(2, "ping", "")); got != answer(2) {
				t.Errorf("then %s", got)
			}
			if calls.Load() != 1 {
				t.Errorf("called %d times", calls.Load())
			}
		})
	}
}

func TestServerThatIsAwayIsAnErrorAndReachedLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		state := &remote{}
		o, net := inMemory(t, state)
		h := start(t, o)
		net.Refuse.Store(true)
		code, text := errorOf(t, h.call(initialize), "i")
		if code != -32603 || !strings.Contains(text, "cannot reach server.test") || !strings.Contains(text, "nothing was sent") {
			t.Errorf("got %d %s", code, text)
		}
		net.Refuse.Store(false)
		h.handshake() // the host tries again
		if got := h.call(request(1, "ping", "")); got != answer(1) {
			t.Errorf("got %s", got)
		}
	})
}

func TestHostThatDoesNotReadHoldsTheServerUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var sent atomic.Int64
		state := &remote{handle: func(w http.ResponseWriter, r *http.Request, m *jsonrpc.Message) {
			send := events(w)
			for range 10_000 {
				send(`{"jsonrpc":"2.0","method":"notifications/progress","params":{"p":"` + strings.Repeat("x", 1000) + `"}}`)
				sent.Add(1000)
			}
			send(string(jsonrpc.NewResult(m.ID, nil)))
		}}
		o, _ := inMemory(t, state)
		h := start(t, o)
		h.handshake()
		h.send(request(1, "tools/call", ""))
		synctest.Wait()
		if n := sent.Load(); n > 100_000 {
			t.Errorf("%d bytes have been taken from the server while nobody reads", n)
		}
		for range 10_000 {
			h.next()
		}
		if got := h.next(); got != answer(1) {
			t.Errorf("got %s", got)
		}
	})
}

func TestNotificationsKeepTheirOrder(t *testing.T) {
	state := &remote{}
	srv := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ContentLength%3 == 0 {
			time.Sleep(time.Millisecond)
		}
		state.ServeHTTP(w, r)
	}))
	h := start(t, bridge.Options{URL: srv})
	h.handshake()
	var want []string
	for i := range 30 {
		n := fmt.Sprintf(`{"jsonrpc":"2.0","method":"notifications/progress","params":{"progress":%d,"p":%q}}`, i, strings.Repeat("x", i))
		want = append(want, n)
		h.send(n)
	}
	h.call(request(1, "ping", "")) // answered behind all of them
	if diff := cmp.Diff(want, state.bodies("notifications/progress")); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestPrettyPrintedAnswerIsOneLine(t *testing.T) {
	state := &remote{handle: func(w http.ResponseWriter, _ *http.Request, m *jsonrpc.Message) {
		answerJSON(w, 200, "{\r\n  \"jsonrpc\": \"2.0\",\n  \"id\": "+string(m.ID)+",\r  \"result\": {}\n}\n")
	}}
	h := start(t, bridge.Options{URL: serve(t, state)})
	h.handshake()
	if got := h.call(request(1, "ping", "")); got != answer(1) {
		t.Errorf("got %s", got)
	}
}

func TestLargeMessagesPass(t *testing.T) {
	state := &remote{handle: func(w http.ResponseWriter, _ *http.Request, m *jsonrpc.Message) {
		answerJSON(w, 200, string(jsonrpc.NewResult(m.ID, m.Params)))
	}}
	h := start(t, bridge.Options{URL: serve(t, state)})
	h.handshake()
	for _, size := range []int{64 << 10, 1 << 20, 16 << 20} {
		params := `{"a":"` + strings.Repeat("x", size) + `"}`
		if got := h.call(request(1, "tools/call", params)); got != `{"jsonrpc":"2.0","id":1,"result":`+params+`}` {
			t.Errorf("%d bytes: got %.100s", size, got)
		}
	}
}

func TestRunRefusesABadURL(t *testing.T) {
	if err := bridge.Run(t.Context(), bridge.Options{Stdin: strings.NewReader(""), Stdout: io.Discard, URL: "ftp://x"}); err == nil {
		t.Error("no error")
	}
}
