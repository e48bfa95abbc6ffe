package mcphttp_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/mcp-clerk/mcp-clerk/internal/identity"
	"github.com/mcp-clerk/mcp-clerk/internal/jsonrpc"
	"github.com/mcp-clerk/mcp-clerk/internal/mcphttp"
	"github.com/mcp-clerk/mcp-clerk/internal/transport/memnet"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// tokens is a Verifier of three people; alice has two grants.
type tokens struct{}

func (tokens) Verify(_ context.Context, token string) (*identity.Principal, error) {
	switch token {
	case "alice":
		return &identity.Principal{Subject: "user_alice", Grant: "grant_1"}, nil
	case "alice-other-grant":
		return &identity.Principal{Subject: "user_alice", Grant: "grant_2"}, nil
	case "bob":
		return &identity.Principal{Subject: "user_bob", Grant: "grant_3"}, nil
	case "barred":
		return nil, fmt.Errorf("barred: %w", identity.ErrForbidden)
	case "store-down":
		return nil, fmt.Errorf("read grant: %w", identity.ErrUnavailable)
	}
	return nil, fmt.Errorf("token: %w", identity.ErrInvalidToken)
}

func challenge(_ *http.Request, code string, scopes []string) string {
	c := `Bearer resource_metadata="https://mcp.example.com/.well-known/oauth-protected-resource/mcp"`
	if len(scopes) > 0 {
		c += fmt.Sprintf(`, scope=%q`, strings.Join(scopes, " "))
	}
	if code != "" {
		c += fmt.Sprintf(`, error=%q`, code)
	}
	return c
}

// server is a Server on a loopback socket.
type server struct {
	*mcphttp.Server
	t    testing.TB
	url  string
	http *http.Client
	logs *logBuffer
}

type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// options are what every test server has; handler may be nil.
func options(handler mcphttp.Handler, logs io.Writer) mcphttp.Options {
	if handler == nil {
		handler = mcphttp.HandlerFunc(basics)
	}
	return mcphttp.Options{
		Handler: handler, Verifier: tokens{}, Challenge: challenge,
		Keys:   [][]byte{bytes.Repeat([]byte{7}, 32)},
		Logger: slog.New(slog.NewTextHandler(logs, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
}

func start(t testing.TB, handler mcphttp.Handler, change ...func(*mcphttp.Options)) *server {
	t.Helper()
	logs := &logBuffer{}
	o := options(handler, logs)
	for _, c := range change {
		c(&o)
	}
	m, err := mcphttp.New(o)
	if err != nil {
		t.Fatal(err)
	}
	ts := httptest.NewUnstartedServer(m)
	ts.Config.ConnContext = m.ConnContext
	ts.Start()
	client := &http.Client{Transport: &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: 64}, Timeout: 30 * time.Second}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := m.Shutdown(ctx); err != nil {
			t.Errorf("shutdown: %v", err)
		}
		client.CloseIdleConnections()
		ts.Close()
	})
	return &server{Server: m, t: t, url: ts.URL + "/mcp", http: client, logs: logs}
}

// startBubble starts a server inside a synctest bubble.
func startBubble(t *testing.T, handler mcphttp.Handler, change func(*mcphttp.Options)) *server {
	logs := &logBuffer{}
	o := options(handler, logs)
	if change != nil {
		change(&o)
	}
	m, err := mcphttp.New(o)
	if err != nil {
		t.Fatal(err)
	}
	network := memnet.New()
	both := new(http.Protocols)
	both.SetHTTP1(true)
	both.SetUnencryptedHTTP2(true)
	hs := &http.Server{Handler: m, ConnContext: m.ConnContext, Protocols: both}
	go func() { _ = hs.Serve(network) }()
	transport := &http.Transport{DialContext: network.Dial}
	t.Cleanup(func() {
		if err := m.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
		transport.CloseIdleConnections()
		_ = hs.Close()
	})
	return &server{Server: m, t: t, url: "http://localhost/mcp", http: &http.Client{Transport: transport}, logs: logs}
}

// basics answers initialize as a server of the legacy revisions does, and a
// few methods that need nothing more.
func basics(_ context.Context, call *mcphttp.Call) ([]byte, error) {
	m := call.Message
	switch m.Method {
	case "initialize":
		version := call.Version
		if version == "2026-07-28" || version == "1999-01-01" {
			version = "2025-11-25"
		}
		return jsonrpc.NewResult(m.ID, map[string]any{
			"protocolVersion": version, "capabilities": map[string]any{}, "serverInfo": map[string]any{"name": "t", "version": "1"},
		}), nil
	case "ping", "logging/setLevel", "resources/subscribe", "resources/unsubscribe", "tools/list", "server/discover":
		return jsonrpc.NewResult(m.ID, nil), nil
	case "tools/call", "resources/read", "prompts/get":
		return jsonrpc.NewResult(m.ID, map[string]any{"version": call.Version}), nil
	}
	return jsonrpc.NewError(m.ID, jsonrpc.CodeMethodNotFound, "method not found", nil), nil
}

// with extends basics by one tool.
func with(tool string, f mcphttp.HandlerFunc) mcphttp.Handler {
	return mcphttp.HandlerFunc(func(ctx context.Context, call *mcphttp.Call) ([]byte, error) {
		if name, _ := jsonrpc.LookupString(call.Message.Params, "name"); call.Message.Method == "tools/call" && name == tool {
			return f(ctx, call)
		}
		return basics(ctx, call)
	})
}

type header map[string]string

// request makes a POST as a conforming client of the legacy revisions does;
// headers replace, an empty value removes.
func (s *server) request(body string, headers ...header) *http.Request {
	s.t.Helper()
	req, err := http.NewRequestWithContext(s.t.Context(), http.MethodPost, s.url, strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept", "application/json, text/event-stream")
	req.Header.Set("Authorization", "Bearer alice")
	s.apply(req, headers)
	return req
}

func (s *server) apply(req *http.Request, headers []header) {
	for _, h := range headers {
		for name, value := range h {
			if value == "" {
				req.Header.Del(name)
			} else {
				req.Header.Set(name, value)
			}
		}
	}
}

func (s *server) do(req *http.Request) *http.Response {
	s.t.Helper()
	res, err := s.http.Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = res.Body.Close() })
	return res
}

func (s *server) post(body string, headers ...header) *http.Response {
	s.t.Helper()
	return s.do(s.request(body, headers...))
}

func (s *server) method(method string, headers ...header) *http.Response {
	s.t.Helper()
	req, err := http.NewRequestWithContext(s.t.Context(), method, s.url, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer alice")
	req.Header.Set("Accept", "text/event-stream")
	s.apply(req, headers)
	return s.do(req)
}

const initialize = `{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":%q,"capabilities":%s,"clientInfo":{"name":"test","version":"1.2"}}}`

// session opens a legacy session and returns the headers of its requests.
func (s *server) session(version, capabilities string, headers ...header) header {
	s.t.Helper()
	res := s.post(fmt.Sprintf(initialize, version, capabilities), headers...)
	body := s.text(res)
	id := res.Header.Get("Mcp-Session-Id")
	if res.StatusCode != http.StatusOK || id == "" {
		s.t.Fatalf("initialize: %s %s", res.Status, body)
	}
	h := header{"Mcp-Session-Id": id, "MCP-Protocol-Version": version}
	for _, more := range headers {
		for k, v := range more {
			h[k] = v
		}
	}
	return h
}

func (s *server) text(res *http.Response) string {
	s.t.Helper()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return string(b)
}

// modern makes a request of revision 2026-07-28 and its headers.
func modern(id, method, params string) (string, header) {
	meta := `"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientInfo":{"name":"t","version":"1"},"io.modelcontextprotocol/clientCapabilities":{}}`
	if params != "" {
		meta += ","
	}
	h := header{"MCP-Protocol-Version": "2026-07-28", "Mcp-Method": method}
	var p struct{ Name, URI string }
	if json.Unmarshal([]byte("{"+params+"}"), &p) == nil && p.Name+p.URI != "" {
		h["Mcp-Name"] = p.Name + p.URI
	}
	return fmt.Sprintf(`{"jsonrpc":"2.0","id":%s,"method":%q,"params":{%s%s}}`, id, method, meta, params), h
}

// events reads a stream of server-sent events.
type events struct {
	t         testing.TB
	in        *bufio.Scanner
	res       *http.Response
	id, retry string // the last that came
}

func (s *server) events(res *http.Response) *events {
	s.t.Helper()
	if ct := res.Header.Get("Content-Type"); ct != "text/event-stream" {
		s.t.Fatalf("%s with %q: %s", res.Status, ct, s.text(res))
	}
	if res.Header.Get("X-Accel-Buffering") != "no" || !strings.Contains(res.Header.Get("Cache-Control"), "no-store") {
		s.t.Errorf("headers of a stream: %v", res.Header)
	}
	in := bufio.NewScanner(res.Body)
	in.Buffer(nil, 8<<20)
	return &events{t: s.t, in: in, res: res}
}

// next returns the data of the next event, false at the end of the stream.
func (e *events) next() (string, bool) {
	e.t.Helper()
	var data []string
	for e.in.Scan() {
		line := e.in.Text()
		if line == "" {
			if text := strings.Join(data, "\n"); text != "" {
				return text, true
			}
			data = nil // an event that only has an id
		}
		if d, ok := strings.CutPrefix(line, "data: "); ok {
			data = append(data, d)
		}
		if id, ok := strings.CutPrefix(line, "id: "); ok {
			e.id = id
		}
		if retry, ok := strings.CutPrefix(line, "retry: "); ok {
			e.retry = retry
		}
	}
	return "", false
}

func (e *events) want(want string) {
	e.t.Helper()
	got, ok := e.next()
	if !ok || got != want {
		e.t.Fatalf("event %q (%v), want %q", got, ok, want)
	}
}

func (e *events) end() {
	e.t.Helper()
	if got, ok := e.next(); ok {
		e.t.Fatalf("unexpected event %q", got)
	}
}

func (e *events) close() { _ = e.res.Body.Close() }

// code returns the code of a JSON-RPC error response, 0 for a result.
func code(t testing.TB, body string) int {
	t.Helper()
	var m struct{ Error struct{ Code int } }
	if err := json.Unmarshal([]byte(body), &m); err != nil {
		t.Fatalf("%v: %s", err, body)
	}
	return m.Error.Code
}

// eventually waits for a condition that another goroutine brings about.
func eventually(t testing.TB, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		if f() {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("never happened: %s", what)
		}
	}
}
