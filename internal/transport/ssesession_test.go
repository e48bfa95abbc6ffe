package transport_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mcp-clerk/mcp-clerk/internal/jsonrpc"
	"github.com/mcp-clerk/mcp-clerk/internal/transport"
)

// sseSide is a server of HTTP+SSE (2024-11-05, basic/transports). on decides what
// a message leads to on the stream; "" ends it.
type sseSide struct {
	first  func(n int) string // event of the n-th stream
	on     func(m *jsonrpc.Message) []string
	status func(m *jsonrpc.Message, stream string) int // 0: 202

	mu      sync.Mutex
	n       int
	streams map[string]chan string
}

func (s *sseSide) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodGet {
		s.mu.Lock()
		s.n++
		n := s.n
		out := make(chan string, 64)
		if s.streams == nil {
			s.streams = map[string]chan string{}
		}
		s.streams[fmt.Sprint(n)] = out
		s.mu.Unlock()
		send := stream(w)
		send("%s\n\n", s.first(n))
		for {
			select {
			case m := <-out:
				if m == "" {
					return
				}
				send("event: message\ndata: %s\n\n", m)
			case <-r.Context().Done():
				return
			}
		}
	}
	m := envelope(r)
	id := r.URL.Query().Get("s")
	s.mu.Lock()
	out := s.streams[id]
	s.mu.Unlock()
	if out == nil {
		http.NotFound(w, r)
		return
	}
	if s.status != nil {
		if status := s.status(m, id); status != 0 {
			http.Error(w, "no", status)
			return
		}
	}
	w.WriteHeader(http.StatusAccepted)
	for _, line := range s.on(m) {
		out <- line
	}
}

// answering answers every request.
func answering(m *jsonrpc.Message) []string {
	if !m.IsRequest() {
		return nil
	}
	return []string{result(m)}
}

func own(n int) string { return fmt.Sprintf("event: endpoint\ndata: /post?s=%d", n) }

func openSSE(t *testing.T, c *transport.Client, deliver func(*jsonrpc.Message) error) *transport.SSESession {
	t.Helper()
	s := c.NewSSESession(deliver)
	t.Cleanup(func() { s.Close(context.Background()) })
	return s
}

func TestAnSSESessionPostsToItsEndpointAndReadsTheStream(t *testing.T) {
	primed := func(n int) string { return "retry: 3000\n\nid: 0\n\n" + own(n) }
	side := &sseSide{first: primed, on: func(m *jsonrpc.Message) []string {
		switch m.Method {
		case "x/progress":
			return []string{
				`{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":"p","progress":1}}`,
				`{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":"other","progress":1}}`,
				`{"jsonrpc":"2.0","id":"s1","method":"roots/list"}`, `{"jsonrpc":"2.0","id":"nobody","result":{}}`, result(m),
			}
		case "x/float": // a server that reads ids as floating-point numbers
			return []string{`{"jsonrpc":"2.0","id":9007199254740992,"result":{"n":1.0}}`}
		}
		return answering(m)
	}}
	s := serve(t, side.ServeHTTP)
	var unasked received
	sse := openSSE(t, newClient(t, s.URL+"/sse"), unasked.add)
	var got received
	for _, raw := range []string{
		`{"jsonrpc":"2.0","id":0,"method":"initialize"}`, `{"jsonrpc":"2.0","method":"notifications/initialized"}`,
		`{"jsonrpc":"2.0","id":1,"method":"x/progress","params":{"_meta":{"progressToken":"p"}}}`,
		`{"jsonrpc":"2.0","id":9007199254740993,"method":"x/float"}`,
	} {
		if err := sse.Do(context.Background(), transport.Call{Message: message(t, raw), Deliver: got.add}); err != nil {
			t.Fatal(err)
		}
	}
	want := []string{
		`{"jsonrpc":"2.0","id":0,"result":{}}`, `{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":"p","progress":1}}`,
		`{"jsonrpc":"2.0","id":1,"result":{}}`, `{"jsonrpc":"2.0","id":9007199254740993,"result":{"n":1.0}}`,
	}
	if diff := cmp.Diff(want, got.all()); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	want = []string{`{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":"other","progress":1}}`, `{"jsonrpc":"2.0","id":"s1","method":"roots/list"}`}
	if diff := cmp.Diff(want, unasked.all()); diff != "" {
		t.Errorf("unasked (-want +got)\n%s", diff)
	}
}

// Case 4 of the transport's faults: no byte of a bearer goes elsewhere.
func TestAnSSEEndpointElsewhereIsRefused(t *testing.T) {
	other := serve(t, func(http.ResponseWriter, *http.Request) {})
	for name, first := range map[string]string{
		"another port": "event: endpoint\ndata: " + other.URL + "/post", "another scheme": "event: endpoint\ndata: https://127.0.0.1/post",
		"a user": "event: endpoint\ndata: http://user@HOST/post", "no URL": "event: endpoint\ndata: http://[", "another event": "event: message\ndata: {}",
	} {
		t.Run(name, func(t *testing.T) {
			side := sseSide{on: answering}
			s := serve(t, side.ServeHTTP)
			side.first = func(int) string { return strings.ReplaceAll(first, "HOST", strings.TrimPrefix(s.URL, "http://")) }
			c := newClient(t, s.URL+"/sse", func(o *transport.Options) { o.Authorizer = &authorizer{token: "secret"} })
			sse := openSSE(t, c, nil)
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			err := sse.Do(ctx, transport.Call{Message: message(t, `{"jsonrpc":"2.0","id":0,"method":"initialize"}`)})
			if _, ok := errors.AsType[*transport.StatusError](err); !ok {
				t.Errorf("got %v, want a refusal", err)
			}
			if s.count(http.MethodPost) > 0 || other.count(http.MethodPost) > 0 {
				t.Error("something was posted")
			}
		})
	}
}

func TestAnSSEStreamThatEndsIsOpenedAgain(t *testing.T) {
	side := &sseSide{first: own, on: func(m *jsonrpc.Message) []string {
		if m.Method == "x/drop" {
			return []string{""}
		}
		return answering(m)
	}}
	s := serve(t, side.ServeHTTP)
	sse := openSSE(t, newClient(t, s.URL+"/sse"), nil)
	do := func(raw string) error {
		return sse.Do(context.Background(), transport.Call{Message: message(t, raw)})
	}
	if err := errors.Join(do(`{"jsonrpc":"2.0","id":0,"method":"initialize"}`), do(`{"jsonrpc":"2.0","method":"notifications/initialized"}`)); err != nil {
		t.Fatal(err)
	}
	if _, ok := errors.AsType[*transport.LostError](do(`{"jsonrpc":"2.0","id":1,"method":"x/drop"}`)); !ok {
		t.Error("who waits when the stream ends is not told that it may have run")
	}
	if err := do(`{"jsonrpc":"2.0","id":2,"method":"x/y"}`); err != nil {
		t.Error(err)
	}
	var methods []string
	for _, r := range s.seen() {
		if m, err := jsonrpc.Parse([]byte(r.Body), jsonrpc.Limits{}); err == nil {
			methods = append(methods, m.Method)
		} else {
			methods = append(methods, r.Method)
		}
	}
	want := []string{"GET", "initialize", "notifications/initialized", "x/drop", "GET", "initialize", "notifications/initialized", "x/y"}
	if diff := cmp.Diff(want, methods); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

// A server that was restarted behind something that keeps the stream open.
func TestAnSSESessionThatIsNotKnownIsOpenedAgain(t *testing.T) {
	side := &sseSide{first: own, on: answering}
	side.status = func(m *jsonrpc.Message, id string) int {
		if m.Method == "x/y" && id == "1" {
			return http.StatusNotFound
		}
		if m.Method == "x/never" {
			return http.StatusNotFound
		}
		return 0
	}
	s := serve(t, side.ServeHTTP)
	sse := openSSE(t, newClient(t, s.URL+"/sse"), nil)
	do := func(raw string) error {
		return sse.Do(context.Background(), transport.Call{Message: message(t, raw)})
	}
	if err := errors.Join(do(`{"jsonrpc":"2.0","id":0,"method":"initialize"}`), do(`{"jsonrpc":"2.0","id":1,"method":"x/y"}`)); err != nil {
		t.Error(err)
	}
	err := do(`{"jsonrpc":"2.0","id":2,"method":"x/never"}`)
	if status, ok := errors.AsType[*transport.StatusError](err); !ok || status.Status != http.StatusNotFound {
		t.Errorf("got %v, want the refusal", err)
	}
}

func TestAnSSESessionEndsWhatWaits(t *testing.T) {
	side := &sseSide{first: own, on: func(m *jsonrpc.Message) []string {
		if m.Method == "x/wait" {
			return nil
		}
		return answering(m)
	}}
	s := serve(t, side.ServeHTTP)
	sse := openSSE(t, newClient(t, s.URL+"/sse"), nil)
	if err := sse.Do(context.Background(), transport.Call{Message: message(t, `{"jsonrpc":"2.0","id":0,"method":"initialize"}`)}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- sse.Do(ctx, transport.Call{Message: message(t, `{"jsonrpc":"2.0","id":1,"method":"x/wait"}`)})
	}()
	why := errors.New("nobody wants it")
	cancel(why)
	if err := <-done; !errors.Is(err, why) {
		t.Errorf("a cancelled call ended with %v", err)
	}
	go func() {
		done <- sse.Do(context.Background(), transport.Call{Message: message(t, `{"jsonrpc":"2.0","id":2,"method":"x/wait"}`)})
	}()
	for deadline := time.Now().Add(40 * time.Second); s.count(http.MethodPost) < 2 && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond) // until the server has it
	}
	sse.Close(context.Background())
	if err := <-done; err == nil {
		t.Error("a call outlives its session")
	}
}
