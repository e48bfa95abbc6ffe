package transport_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/mcp-clerk/mcp-clerk/internal/jsonrpc"
	"github.com/mcp-clerk/mcp-clerk/internal/transport"
	"github.com/mcp-clerk/mcp-clerk/internal/transport/memnet"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// message parses what a test wrote down.
func message(t testing.TB, raw string) *jsonrpc.Message {
	t.Helper()
	m, err := jsonrpc.Parse([]byte(raw), jsonrpc.Limits{})
	if err != nil {
		t.Fatalf("%s: %v", raw, err)
	}
	return m
}

// received collects what was delivered.
type received struct {
	mu   sync.Mutex
	msgs []string
}

func (r *received) add(m *jsonrpc.Message) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.msgs = append(r.msgs, string(m.Raw))
	return nil
}

func (r *received) all() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.msgs)
}

// seen is one request as a server got it.
type seen struct {
	Method string
	Header http.Header
	Body   string
}

// server is an HTTP server that records its requests.
type server struct {
	*httptest.Server
	mu   sync.Mutex
	reqs []seen
}

func serve(t testing.TB, h http.HandlerFunc) *server {
	t.Helper()
	s := &server{}
	s.Server = httptest.NewServer(s.record(h))
	t.Cleanup(func() {
		s.CloseClientConnections()
		s.Close()
	})
	return s
}

func (s *server) record(h http.HandlerFunc) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		s.mu.Lock()
		s.reqs = append(s.reqs, seen{r.Method, r.Header.Clone(), string(body)})
		s.mu.Unlock()
		r.Body = io.NopCloser(newReader(body))
		h(w, r)
	})
}

func newReader(b []byte) io.Reader { return &chunked{b, len(b) + 1} }

func (s *server) seen() []seen {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.reqs)
}

// count returns how many requests of a method have come.
func (s *server) count(method string) int {
	n := 0
	for _, r := range s.seen() {
		if r.Method == method {
			n++
		}
	}
	return n
}

func newClient(t testing.TB, url string, with ...func(*transport.Options)) *transport.Client {
	t.Helper()
	o := transport.Options{URL: url, HTTPClient: &http.Client{Transport: transport.DefaultTransport()}}
	for _, f := range with {
		f(&o)
	}
	c, err := transport.NewClient(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(context.Background()) })
	return c
}

func answerJSON(w http.ResponseWriter, status int, body string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, body)
}

// stream starts an event stream; each call of the func sends text at once.
func stream(w http.ResponseWriter) func(format string, args ...any) {
	w.Header().Set("Content-Type", "text/event-stream")
	w.WriteHeader(http.StatusOK)
	_ = http.NewResponseController(w).Flush()
	return func(format string, args ...any) {
		_, _ = fmt.Fprintf(w, format, args...)
		_ = http.NewResponseController(w).Flush()
	}
}

// envelope reads a request's body.
func envelope(r *http.Request) *jsonrpc.Message {
	body, _ := io.ReadAll(r.Body)
	m, err := jsonrpc.Parse(body, jsonrpc.Limits{})
	if err != nil {
		return &jsonrpc.Message{}
	}
	return m
}

func result(m *jsonrpc.Message) string { return string(jsonrpc.NewResult(m.ID, nil)) }

// serveMemory is serve for a synctest bubble. It also returns a client of it.
func serveMemory(t *testing.T, h http.HandlerFunc, with ...func(*transport.Options)) (*server, *transport.Client, *memnet.Network) {
	t.Helper()
	s := &server{}
	n := memnet.New()
	srv := &http.Server{Handler: s.record(h), ReadHeaderTimeout: time.Minute}
	var wg sync.WaitGroup
	wg.Go(func() { _ = srv.Serve(n) })
	rt := &http.Transport{DialContext: n.Dial}
	c := newClient(t, "http://server.test/mcp", append([]func(*transport.Options){func(o *transport.Options) {
		o.HTTPClient = &http.Client{Transport: rt}
	}}, with...)...)
	t.Cleanup(func() {
		rt.CloseIdleConnections()
		_ = srv.Close()
		wg.Wait()
	})
	return s, c, n
}
