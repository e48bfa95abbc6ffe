package mcphttp_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mcp-clerk/mcp-clerk/internal/jsonrpc"
	"github.com/mcp-clerk/mcp-clerk/internal/mcphttp"
)

// shared is what several instances have in common: session records and a
// mailbox. fail makes every call of it fail.
type shared struct {
	ahead atomic.Int64

	mu      sync.Mutex
	fail    error
	loads   int
	records map[string][]byte
	hear    map[int]func([]byte)
}

func newShared() *shared { return &shared{records: map[string][]byte{}, hear: map[int]func([]byte){}} }

func (s *shared) setFail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fail = err
}

func (s *shared) Load(_ context.Context, id string) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.loads++
	return s.records[id], s.fail
}

func (s *shared) Update(_ context.Context, id string, _ time.Time, f func([]byte) ([]byte, error)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fail != nil {
		return s.fail
	}
	_, _ = f(nil) // as a store does that lost a race: f runs again
	value, err := f(s.records[id])
	if err == nil {
		s.records[id] = value
	}
	return err
}

func (s *shared) Publish(_ context.Context, _ string, message []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range s.hear {
		go f(message)
	}
	return s.fail
}

func (s *shared) Subscribe(_ string, f func([]byte)) (func(), error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := len(s.hear)
	s.hear[n] = f
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.hear, n)
	}, nil
}

func (s *shared) use(o *mcphttp.Options) { o.Sessions, o.Mailbox, o.Now = s, s, s.now }

// now is a clock that stands still but for advance.
func (s *shared) now() time.Time          { return time.Unix(1_800_000_000, s.ahead.Load()) }
func (s *shared) advance(d time.Duration) { s.ahead.Add(int64(d)) }

func TestThreeInstancesServeOneSession(t *testing.T) {
	w := newWaiter()
	asking := ask("elicitation/create", `{}`)
	both := mcphttp.HandlerFunc(func(ctx context.Context, call *mcphttp.Call) ([]byte, error) {
		switch name, _ := jsonrpc.LookupString(call.Message.Params, "name"); name {
		case "wait":
			return w.handle(ctx, call)
		case "ask":
			return asking(ctx, call)
		}
		return basics(ctx, call)
	})
	common := newShared()
	a, b, c := start(t, both, common.use), start(t, both, common.use), start(t, both, common.use)
	h := a.session("2025-11-25", `{"elicitation":{}}`)
	bob := a.session("2025-11-25", `{}`, header{"Authorization": "Bearer bob"})

	t.Run("answers reach the call", func(t *testing.T) {
		e := b.events(b.post(callAsk, h))
		got, _ := e.next()
		id, _ := jsonrpc.Lookup(json.RawMessage(got), "id")
		c.post(`{"jsonrpc":"2.0","id":`+string(id)+`,"result":{"from":"a stranger"}}`, bob)
		c.post(`{"jsonrpc":"2.0","id":`+string(id)+`,"result":{"x":1.0}}`, h)
		e.want(`{"jsonrpc":"2.0","id":5,"result":{"answer":{"x":1.0}}}`)
	})
	t.Run("cancellations reach the call", func(t *testing.T) {
		done := make(chan *http.Response, 1)
		go func() { done <- b.post(wait, h) }()
		<-w.started
		c.post(cancelled("1"), bob)
		c.post(cancelled("1"), h)
		<-w.cancelled
		b.events(<-done).end()
		// Ids pair by their bytes, and arrive as they were sent.
		const id = `"<a&b>\u0041` + "\u2028\"" // the last as it is
		go func() { done <- b.post(strings.Replace(wait, `"id":1`, `"id":`+id, 1), h) }()
		<-w.started
		c.post(cancelled(id), h)
		select {
		case <-w.cancelled:
		case <-time.After(10 * time.Second):
			t.Error("not cancelled")
			w.release <- ""
		}
		b.events(<-done).end()
	})
	t.Run("a log level holds everywhere", func(t *testing.T) {
		a.post(`{"jsonrpc":"2.0","id":1,"method":"logging/setLevel","params":{"level":"error"}}`, h)
		a.post(`{"jsonrpc":"2.0","id":1,"method":"resources/subscribe","params":{"uri":"file:///a"}}`, h)
		common.mu.Lock()
		defer common.mu.Unlock()
		for _, record := range common.records {
			if got, want := string(record), `{"logLevel":"error","resources":["file:///a"]}`; got != want {
				t.Errorf("record %s", got)
			}
		}
		if len(common.records) != 1 {
			t.Errorf("%d records", len(common.records))
		}
	})
	t.Run("DELETE holds everywhere within a second", func(t *testing.T) {
		ping := `{"jsonrpc":"2.0","id":1,"method":"ping"}`
		b.post(ping, h)
		stream := b.method(http.MethodGet, h)
		done := make(chan *http.Response, 1)
		go func() { done <- b.post(wait, h) }()
		<-w.started
		a.method(http.MethodDelete, h)
		<-w.cancelled
		b.events(<-done).end()
		b.events(stream).end()
		if res := a.post(ping, h); res.StatusCode != 404 {
			t.Errorf("at the same instance: %s", res.Status)
		}
		common.advance(time.Second)
		if res := b.post(ping, h); res.StatusCode != 404 {
			t.Errorf("at another: %s", res.Status)
		}
	})
}

// A session of the deprecated transport is its stream, which one instance has:
// it takes the messages, answers to what a call asks among them.
func TestAStreamOfHTTPWithSSEBelongsToOneOfThreeInstances(t *testing.T) {
	common := newShared()
	asking := with("ask", ask("roots/list", `{}`))
	a, b, c := startSSE(t, asking, common.use), startSSE(t, asking, common.use), startSSE(t, asking, common.use)
	client := a.connect()
	at := func(s *server) *sseClient {
		other := *client
		other.endpoint = strings.TrimSuffix(s.url, "/base/sse") + client.endpoint[strings.Index(client.endpoint, "/base/sse"):]
		return &other
	}
	if got := client.post(`{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2024-11-05","capabilities":{"roots":{}},"clientInfo":{"name":"c","version":"1"}}}`); got != http.StatusAccepted {
		t.Fatal(got)
	}
	client.next()
	const call = `{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"ask"}}`
	for name, s := range map[string]*server{"second": b, "third": c} {
		if got := at(s).post(call); got != http.StatusNotFound {
			t.Errorf("the %s instance answers a message with %d", name, got)
		}
	}
	if got := client.post(call); got != http.StatusAccepted {
		t.Fatal(got)
	}
	asked, _ := client.next()
	id, _ := jsonrpc.Lookup(json.RawMessage(asked), "id")
	answer := `{"jsonrpc":"2.0","id":` + string(id) + `,"result":{"roots":[]}}`
	if got := at(b).post(answer); got != http.StatusNotFound {
		t.Errorf("another instance took an answer: %d", got)
	}
	if got := client.post(answer); got != http.StatusAccepted {
		t.Errorf("the answer: %d", got)
	}
	client.want(`{"jsonrpc":"2.0","id":2,"result":{"answer":{"roots":[]}}}`)
}

func TestSessionStoreDown(t *testing.T) {
	common := newShared()
	s := start(t, nil, common.use)
	h := s.session("2025-11-25", `{}`)
	ping := `{"jsonrpc":"2.0","id":1,"method":"ping"}`
	s.post(ping, h)
	common.setFail(errors.New("down"))
	fresh := s.session("2025-11-25", `{}`)
	if res := s.post(ping, fresh); res.StatusCode != 503 || res.Header.Get("Retry-After") == "" {
		t.Errorf("a session never looked up: %s", res.Status)
	}
	// What was known a moment ago holds for a while.
	common.advance(4 * time.Second)
	if res := s.post(ping, h); res.StatusCode != 200 {
		t.Errorf("a session looked up 4 s ago: %s", res.Status)
	}
	// An answer that may be for a call at another instance, which waits for it.
	answer := `{"jsonrpc":"2.0","id":"Q","result":{}}`
	if res := s.post(answer, h); res.StatusCode != 503 || res.Header.Get("Retry-After") == "" {
		t.Errorf("an answer that got lost: %s", res.Status)
	}
	old := s.session("2025-03-26", `{}`)
	common.setFail(nil)
	s.post(ping, old)
	common.setFail(errors.New("down"))
	if res := s.post("["+answer+"]", old); res.StatusCode != 503 {
		t.Errorf("a batch of answers that got lost: %s", res.Status)
	}
	common.advance(2 * time.Second)
	if res := s.post(ping, h); res.StatusCode != 503 {
		t.Errorf("a session looked up 6 s ago: %s", res.Status)
	}
	for _, res := range []*http.Response{
		s.method(http.MethodDelete, h),
		s.post(`{"jsonrpc":"2.0","id":1,"method":"logging/setLevel","params":{"level":"error"}}`, h),
	} {
		if res.StatusCode != 503 {
			t.Errorf("%s claims to have changed the session: %s", res.Request.Method, res.Status)
		}
	}
	common.setFail(nil)
	if res := s.post(ping, fresh); res.StatusCode != 200 {
		t.Errorf("after recovery: %s", res.Status)
	}
}

func TestSessionCostsFewReadsOfTheStore(t *testing.T) {
	common := newShared()
	s := start(t, nil, common.use)
	h := s.session("2025-11-25", `{}`)
	for range 10 {
		for range 20 {
			s.post(`{"jsonrpc":"2.0","id":1,"method":"ping"}`, h)
		}
		common.advance(799 * time.Millisecond)
	}
	common.mu.Lock()
	defer common.mu.Unlock()
	if common.loads != 5 { // the record of one moment also serves the next
		t.Errorf("%d reads", common.loads)
	}
}

func TestSubscriptionsOfASessionAreBounded(t *testing.T) {
	s := start(t, nil)
	h := s.session("2025-11-25", `{}`)
	subscribe := func(uri string) int {
		return code(t, s.text(s.post(`{"jsonrpc":"2.0","id":1,"method":"resources/subscribe","params":{"uri":"`+uri+`"}}`, h)))
	}
	if c := subscribe(strings.Repeat("x", 33<<10)); c != jsonrpc.CodeInvalidParams {
		t.Errorf("a huge URI: %d", c)
	}
	for i := range 256 {
		if c := subscribe(fmt.Sprintf("file:///%d", i)); c != 0 {
			t.Fatalf("subscription %d: %d", i, c)
		}
	}
	if c := subscribe("file:///0"); c != 0 {
		t.Errorf("the same once more: %d", c)
	}
	if c := subscribe("file:///one-more"); c != jsonrpc.CodeInvalidParams {
		t.Errorf("one more: %d", c)
	}
}
