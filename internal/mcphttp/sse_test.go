package mcphttp_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mcp-clerk/mcp-clerk/internal/jsonrpc"
	"github.com/mcp-clerk/mcp-clerk/internal/mcphttp"
)

// sseClient is a client of the transport of 2024-11-05.
type sseClient struct {
	*events
	s        *server
	endpoint string
	h        header
}

// startSSE starts a server whose URL is that of the SSE endpoint.
func startSSE(t testing.TB, handler mcphttp.Handler, change ...func(*mcphttp.Options)) *server {
	s := start(t, handler, change...)
	stream, message := s.SSE("/base/sse/message")
	mux := http.NewServeMux()
	mux.Handle("/base/sse", stream)
	mux.Handle("/base/sse/message", message)
	ts := httptest.NewServer(mux)
	t.Cleanup(ts.Close)
	s.url = ts.URL + "/base/sse"
	return s
}

// connect opens the stream and reads where to post.
func (s *server) connect(headers ...header) *sseClient {
	s.t.Helper()
	e := s.events(s.method(http.MethodGet, headers...))
	if !e.in.Scan() || e.in.Text() != "event: endpoint" {
		s.t.Fatalf("the first line is %q", e.in.Text())
	}
	e.in.Scan()
	path, ok := strings.CutPrefix(e.in.Text(), "data: /base/sse/message?sessionId=")
	if !ok || len(path) != 32 {
		s.t.Fatalf("endpoint %q", e.in.Text())
	}
	h := header{}
	for _, more := range headers {
		for k, v := range more {
			h[k] = v
		}
	}
	return &sseClient{events: e, s: s, endpoint: strings.TrimSuffix(s.url, "/base/sse") + strings.TrimPrefix(e.in.Text(), "data: "), h: h}
}

// post sends a message as such clients do and returns the status.
func (c *sseClient) post(body string, headers ...header) int {
	c.s.t.Helper()
	req := c.s.request(body, append([]header{{"Accept": ""}, c.h}, headers...)...)
	u, err := req.URL.Parse(c.endpoint)
	if err != nil {
		c.s.t.Fatal(err)
	}
	req.URL = u
	res := c.s.do(req)
	_ = c.s.text(res)
	return res.StatusCode
}

// 2024-11-05, basic/transports, HTTP with SSE.
func TestSSETransport(t *testing.T) {
	s := startSSE(t, with("ask", func(ctx context.Context, call *mcphttp.Call) ([]byte, error) {
		_ = call.Notify(ctx, []byte(`{"jsonrpc":"2.0","method":"notifications/progress"}`))
		answer, err := call.Request(ctx, "sampling/createMessage", map[string]any{"n": 1})
		if err != nil {
			return nil, err
		}
		return jsonrpc.NewResult(call.Message.ID, answer), nil
	}))
	c := s.connect()
	if status := c.post(fmt.Sprintf(initialize, "2024-11-05", `{"sampling":{}}`)); status != http.StatusAccepted {
		t.Fatalf("initialize: %d", status)
	}
	c.want(`{"jsonrpc":"2.0","id":0,"result":{"capabilities":{},"protocolVersion":"2024-11-05","serverInfo":{"name":"t","version":"1"}}}`)
	if status := c.post(`{"jsonrpc":"2.0","method":"notifications/initialized"}`); status != http.StatusAccepted {
		t.Errorf("a notification: %d", status)
	}
	c.post(`{"jsonrpc":"2.0","id":9007199254740993,"method":"tools/call","params":{"name":"add"}}`)
	c.want(`{"jsonrpc":"2.0","id":9007199254740993,"result":{"version":"2024-11-05"}}`)
	c.post(`{"jsonrpc":"2.0","id":"x","method":"tools/call","params":{"name":"ask"}}`)
	c.want(`{"jsonrpc":"2.0","method":"notifications/progress"}`)
	asked, _ := c.next()
	m, err := jsonrpc.Parse([]byte(asked), jsonrpc.Limits{})
	if err != nil || m.Method != "sampling/createMessage" {
		t.Fatalf("%s: %v", asked, err)
	}
	c.post(`{"jsonrpc":"2.0","id":` + string(m.ID) + `,"result":{"text":"hi"}}`)
	c.want(`{"jsonrpc":"2.0","id":"x","result":{"text":"hi"}}`)
	changed := `{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}`
	if err := s.Notify(nil, []byte(changed)); err != nil {
		t.Fatal(err)
	}
	c.want(changed)
	if status := c.post(`{"jsonrpc":"2.0","id":1,"method":"nothing"}`); status != http.StatusAccepted {
		t.Errorf("an unknown method: %d", status)
	}
	if got, _ := c.next(); code(t, got) != jsonrpc.CodeMethodNotFound {
		t.Error(got)
	}
}

// Cases 46, 49, 57 of the MCP endpoint hold here as well.
func TestSSEConnectionsAreTheirOwners(t *testing.T) {
	w := newWaiter()
	s := startSSE(t, with("wait", w.handle))
	c := s.connect()
	bob := s.connect(header{"Authorization": "Bearer bob"})
	ping := `{"jsonrpc":"2.0","id":1,"method":"ping"}`
	for name, tt := range map[string]struct {
		body   string
		h      header
		status int
	}{
		"another user":  {ping, header{"Authorization": "Bearer bob"}, 404},
		"another grant": {ping, header{"Authorization": "Bearer alice-other-grant"}, 404},
		"no token":      {ping, header{"Authorization": ""}, 401},
		"a bad token":   {ping, header{"Authorization": "Bearer mallory"}, 401},
		"a bad origin":  {ping, header{"Origin": "https://evil.example"}, 403},
		"text":          {ping, header{"Content-Type": "text/plain"}, 415},
		"gzip":          {ping, header{"Content-Encoding": "gzip"}, 415},
		"too much":      {`"` + strings.Repeat("x", 5<<20) + `"`, nil, 413},
		"a batch":       {"[" + ping + "]", nil, 400},
		"two names":     {`{"jsonrpc":"2.0","id":1,"method":"ping","method":"tools/call"}`, nil, 400},
	} {
		if got := c.post(tt.body, tt.h); got != tt.status {
			t.Errorf("%s: %d, want %d", name, got, tt.status)
		}
	}
	for _, id := range []string{"", "x", strings.Repeat("0", 32)} {
		stray := *c
		stray.endpoint = strings.TrimSuffix(s.url, "/base/sse") + "/base/sse/message?sessionId=" + id
		if got := stray.post(ping); got != http.StatusNotFound {
			t.Errorf("%q: %d", id, got)
		}
	}
	if res := s.method(http.MethodGet, header{"Authorization": ""}); res.StatusCode != 401 || res.Header.Get("WWW-Authenticate") == "" {
		t.Errorf("the stream without a token: %s", res.Status)
	}
	if res := s.method(http.MethodGet, header{"Accept": "application/json"}); res.StatusCode != 406 {
		t.Errorf("the stream for a client that takes JSON: %s", res.Status)
	}
	for _, method := range []string{http.MethodPost, http.MethodDelete, http.MethodPut} {
		if res := s.method(method); res.StatusCode != 405 || res.Header.Get("Allow") != "GET, OPTIONS" {
			t.Errorf("%s: %s, %q", method, res.Status, res.Header.Get("Allow"))
		}
	}
	// A stranger's cancellation of the same id has no effect; the owner's has.
	c.post(wait)
	<-w.started
	bob.post(cancelled("1"))
	w.release <- ""
	c.want(`{"jsonrpc":"2.0","id":1,"result":{}}`)
	c.post(wait)
	<-w.started
	c.post(cancelled("1"))
	<-w.cancelled
	c.post(ping)
	c.want(`{"jsonrpc":"2.0","id":1,"result":{}}`) // and no answer to what was cancelled
	// A client that goes takes its calls and its session along.
	c.post(wait)
	<-w.started
	c.close()
	<-w.cancelled
	eventually(t, "the session ends", func() bool { return c.post(ping) == http.StatusNotFound })
}

func TestSSECallsInFlightAreBounded(t *testing.T) {
	w := newWaiter()
	s := startSSE(t, with("wait", w.handle))
	c := s.connect()
	for i := range 64 {
		if got := c.post(strings.Replace(wait, `"id":1`, fmt.Sprintf(`"id":%d`, i), 1)); got != http.StatusAccepted {
			t.Fatalf("call %d: %d", i, got)
		}
	}
	if got := c.post(wait); got != http.StatusTooManyRequests {
		t.Errorf("one more: %d", got)
	}
	w.release <- ""
	c.next()
	eventually(t, "there is room again", func() bool { return c.post(wait) == http.StatusAccepted })
	for range 64 {
		w.release <- ""
	}
}

func TestSSECallsAreAnsweredAtShutdown(t *testing.T) {
	w := newWaiter()
	s := startSSE(t, with("wait", w.handle))
	c, quiet := s.connect(), s.connect()
	c.post(wait)
	<-w.started
	done := make(chan error, 1)
	go func() { done <- s.Shutdown(context.Background()) }()
	quiet.end()
	w.release <- ""
	c.want(`{"jsonrpc":"2.0","id":1,"result":{}}`)
	c.end()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// The stream does not end with the token it began with, if its client has a
// newer one of the same grant.
func TestSSEStreamGoesOnUnderARefreshedToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := &expiring{expires: time.Now().Add(time.Hour)}
		s := startBubble(t, nil, func(o *mcphttp.Options) { o.Verifier = v })
		stream, message := s.SSE("/message")
		answer := func(h http.Handler, r *http.Request) *httptest.ResponseRecorder {
			r.Header.Set("Authorization", "Bearer alice")
			rec := httptest.NewRecorder()
			h.ServeHTTP(rec, r)
			return rec
		}
		ctx, hangUp := context.WithCancel(t.Context())
		ended := make(chan struct{})
		pr := newLineWriter()
		go func() {
			defer close(ended)
			r := httptest.NewRequestWithContext(ctx, http.MethodGet, "http://localhost/sse", nil)
			r.Header.Set("Authorization", "Bearer alice")
			stream.ServeHTTP(pr, r)
		}()
		uri := strings.TrimPrefix(<-pr.line, "data: ")
		ping := func() int {
			r := httptest.NewRequestWithContext(ctx, http.MethodPost, "http://localhost"+uri, strings.NewReader(`{"jsonrpc":"2.0","id":1,"method":"ping"}`))
			r.Header.Set("Content-Type", "application/json")
			return answer(message, r).Code
		}
		time.Sleep(59 * time.Minute)
		v.mu.Lock()
		v.expires = v.expires.Add(time.Hour)
		v.mu.Unlock()
		if got := ping(); got != http.StatusAccepted {
			t.Errorf("with a newer token: %d", got)
		}
		time.Sleep(30 * time.Minute)
		if got := ping(); got != http.StatusAccepted {
			t.Errorf("after the first token expired: %d", got)
		}
		time.Sleep(31 * time.Minute)
		select {
		case <-ended:
		case <-time.After(time.Minute):
			t.Error("the stream outlives its last token")
		}
		hangUp()
		<-ended
	})
}

// lineWriter is a ResponseWriter whose data lines can be awaited.
type lineWriter struct {
	*httptest.ResponseRecorder
	line chan string
}

func newLineWriter() *lineWriter {
	return &lineWriter{httptest.NewRecorder(), make(chan string, 100)}
}

func (l *lineWriter) Write(b []byte) (int, error) {
	for line := range strings.SplitSeq(string(b), "\n") {
		if strings.HasPrefix(line, "data: ") {
			l.line <- line
		}
	}
	return len(b), nil
}
