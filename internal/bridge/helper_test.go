package bridge_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/mcp-clerk/mcp-clerk/internal/bridge"
	"github.com/mcp-clerk/mcp-clerk/internal/jsonrpc"
	"github.com/mcp-clerk/mcp-clerk/internal/transport/memnet"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	initialize  = `{"jsonrpc":"2.0","id":"i","method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"h","version":"1"}}}`
	initialized = `{"jsonrpc":"2.0","method":"notifications/initialized"}`
	meta        = `"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}`
)

// host is the program that started the bridge: it writes lines and reads lines.
type host struct {
	t     testing.TB
	in    io.WriteCloser
	lines chan string
	done  chan error
	stop  context.CancelCauseFunc

	closeStdout func()
}

// start runs a bridge on in-process pipes; they are unbuffered, and nothing of
// stdout is read until the test asks for it.
func start(t testing.TB, o bridge.Options) *host {
	t.Helper()
	inR, inW := io.Pipe()
	outR, outW := io.Pipe()
	h := &host{t: t, in: inW, lines: make(chan string), done: make(chan error, 1)}
	o.Stdin, o.Stdout = inR, outW
	ctx, cancel := context.WithCancelCause(context.Background())
	h.stop = cancel
	h.closeStdout = func() { _ = outR.Close() }
	quit := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		h.done <- bridge.Run(ctx, o)
		_ = outW.Close()
	})
	wg.Go(func() {
		defer close(h.lines)
		sc := bufio.NewScanner(outR)
		sc.Buffer(nil, 256<<20)
		for sc.Scan() {
			select {
			case h.lines <- sc.Text():
			case <-quit:
				return
			}
		}
	})
	t.Cleanup(func() {
		close(quit)
		_ = inW.Close()
		_ = outR.Close()
		wg.Wait()
	})
	return h
}

func (h *host) send(lines ...string) {
	h.t.Helper()
	for _, line := range lines {
		if _, err := io.WriteString(h.in, line+"\n"); err != nil {
			h.t.Fatalf("write to the bridge: %v", err)
		}
	}
}

// next returns the next line, which has to be JSON-RPC and to come within two minutes.
func (h *host) next() string {
	h.t.Helper()
	t := time.NewTimer(2 * time.Minute)
	defer t.Stop()
	select {
	case line, ok := <-h.lines:
		if !ok {
			h.t.Fatal("stdout has ended")
		}
		if _, err := jsonrpc.Parse([]byte(line), jsonrpc.Limits{}); err != nil && !jsonrpc.IsBatch([]byte(line)) {
			h.t.Fatalf("stdout has %q: %v", line, err)
		}
		return line
	case <-t.C:
		h.t.Fatal("no line from the bridge")
		return ""
	}
}

// collect returns n lines, sorted.
func (h *host) collect(n int) []string {
	h.t.Helper()
	var lines []string
	for range n {
		lines = append(lines, h.next())
	}
	slices.Sort(lines)
	return lines
}

// quiet checks that nothing comes for a while.
func (h *host) quiet(d time.Duration) {
	h.t.Helper()
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case line := <-h.lines:
		h.t.Errorf("unexpected line %q", line)
	case <-t.C:
	}
}

// call sends a request and returns the line that answers it.
func (h *host) call(raw string) string {
	h.t.Helper()
	h.send(raw)
	return h.next()
}

func (h *host) handshake() {
	h.t.Helper()
	if line := h.call(initialize); !strings.Contains(line, `"serverInfo"`) {
		h.t.Fatalf("initialize was answered by %s", line)
	}
	h.send(initialized)
}

// end closes stdin and returns what Run returned.
func (h *host) end() error {
	_ = h.in.Close()
	return h.wait()
}

func (h *host) wait() error {
	h.t.Helper()
	for {
		select {
		case err := <-h.done:
			return err
		case <-h.lines:
		case <-time.After(time.Minute):
			h.t.Fatal("the bridge has not ended")
		}
	}
}

func request(id any, method, params string) string {
	raw, _ := json.Marshal(id)
	if params != "" {
		params = `,"params":` + params
	}
	return fmt.Sprintf(`{"jsonrpc":"2.0","id":%s,"method":%q%s}`, raw, method, params)
}

func modern(id any, method string) string { return request(id, method, `{`+meta+`}`) }

// asking is the envelope of a modern host that can be asked.
const asking = `"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{"elicitation":{},"roots":{}}}`

// modernCall is a request of that host; params have no braces.
func modernCall(id any, method, params string) string {
	if params != "" {
		params += ","
	}
	return request(id, method, `{`+params+asking+`}`)
}

func answer(id any) string {
	raw, _ := json.Marshal(id)
	return fmt.Sprintf(`{"jsonrpc":"2.0","id":%s,"result":{}}`, raw)
}

func want(t testing.TB, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("got %s\nwant %s", got, want)
	}
}

// errorOf returns the code and the message of an error response to id.
func errorOf(t testing.TB, line string, id any) (int, string) {
	t.Helper()
	var m struct {
		ID    any
		Error struct {
			Code    int
			Message string
		}
	}
	if err := json.Unmarshal([]byte(line), &m); err != nil || fmt.Sprint(m.ID) != fmt.Sprint(id) || m.Error.Code == 0 {
		t.Errorf("%s is no error response to %v", line, id)
	}
	return m.Error.Code, m.Error.Message
}

// seen is one request as the server got it.
type seen struct {
	HTTP, Method, Body string
	Header             http.Header
}

// remote is a server with sessions (2025-11-25) that records what it gets.
type remote struct {
	handle func(w http.ResponseWriter, r *http.Request, m *jsonrpc.Message) // nil: an empty result
	get    http.HandlerFunc                                                 // nil: 405
	// capabilities and version of its initialize result
	capabilities, version string
	token                 string // what it wants as a bearer; "": nothing

	mu    sync.Mutex
	reqs  []seen
	n     int
	live  map[string]bool // session -> initialized
	early int             // requests before initialized
}

func (s *remote) seen() []seen {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.reqs)
}

// bodies returns the bodies of the POSTs whose method is one of those named.
func (s *remote) bodies(methods ...string) []string {
	var out []string
	for _, r := range s.seen() {
		if r.HTTP == http.MethodPost && (len(methods) == 0 || slices.Contains(methods, r.Method)) {
			out = append(out, r.Body)
		}
	}
	return out
}

func (s *remote) count(http string) int {
	n := 0
	for _, r := range s.seen() {
		if r.HTTP == http {
			n++
		}
	}
	return n
}

// restart forgets every session.
func (s *remote) restart() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.live = nil
}

func (s *remote) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	got, m := take(r)
	s.mu.Lock()
	s.reqs = append(s.reqs, got)
	if s.token != "" && r.Header.Get("Authorization") != "Bearer "+s.token {
		s.mu.Unlock()
		w.Header().Set("Www-Authenticate", "Bearer")
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	id := r.Header.Get("Mcp-Session-Id")
	isModern := strings.Contains(got.Body, "io.modelcontextprotocol/protocolVersion")
	ready, known := s.live[id]
	switch {
	case isModern:
	case m.Method == "initialize" && s.handle == nil || m.Method == "initialize" && s.version != "custom":
		s.n++
		id = fmt.Sprint("session-", s.n)
		if s.live == nil {
			s.live = map[string]bool{}
		}
		s.live[id] = false
		w.Header().Set("Mcp-Session-Id", id)
		version, capabilities := s.version, s.capabilities
		s.mu.Unlock()
		if version == "" {
			version = "2025-11-25"
		}
		if capabilities == "" {
			capabilities = `{"tools":{"listChanged":true},"prompts":{},"resources":{"subscribe":true},"logging":{},"completions":{}}`
		}
		answerJSON(w, 200, fmt.Sprintf(`{"jsonrpc":"2.0","id":%s,"result":{"protocolVersion":%q,"capabilities":%s,"serverInfo":{"name":"s","version":"1"}}}`, m.ID, version, capabilities))
		return
	case known && m.Method == "notifications/initialized":
		s.live[id] = true
	case known && !ready && m.IsRequest():
		s.early++
	case r.Method == http.MethodDelete:
		delete(s.live, id)
	}
	s.mu.Unlock()
	switch {
	case !known && !isModern && s.version != "custom":
		http.Error(w, "session not found", http.StatusNotFound)
	case r.Method == http.MethodGet && s.get == nil:
		w.WriteHeader(http.StatusMethodNotAllowed)
	case r.Method == http.MethodGet:
		s.get(w, r)
	case !m.IsRequest() && !isModern:
		w.WriteHeader(http.StatusAccepted)
	case s.handle != nil:
		s.handle(w, r, m)
	default:
		answerJSON(w, 200, string(jsonrpc.NewResult(m.ID, nil)))
	}
}

// take reads a request, whose body can still be read by others: the request as
// it came, and its message, which has no members if there is none.
func take(r *http.Request) (seen, *jsonrpc.Message) {
	body, _ := io.ReadAll(r.Body)
	r.Body = io.NopCloser(strings.NewReader(string(body)))
	m, err := jsonrpc.Parse(body, jsonrpc.Limits{})
	if err != nil {
		m = &jsonrpc.Message{}
	}
	return seen{r.Method, m.Method, string(body), r.Header.Clone()}, m
}

// peek is take for the message alone.
func peek(r *http.Request) *jsonrpc.Message {
	_, m := take(r)
	return m
}

func answerJSON(w http.ResponseWriter, status int, body string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, body)
}

// events starts an event stream; the func sends one event with each message.
func events(w http.ResponseWriter) func(messages ...string) {
	w.Header().Set("Content-Type", "text/event-stream")
	w.WriteHeader(http.StatusOK)
	_ = http.NewResponseController(w).Flush()
	return func(messages ...string) {
		for _, m := range messages {
			_, _ = fmt.Fprintf(w, "data: %s\n\n", m)
		}
		_ = http.NewResponseController(w).Flush()
	}
}

// serve puts h on a real socket.
func serve(t testing.TB, h http.Handler) string {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(func() {
		s.CloseClientConnections()
		s.Close()
	})
	return s.URL
}

// inMemory serves h in a synctest bubble and returns the options to reach it.
func inMemory(t testing.TB, h http.Handler) (bridge.Options, *memnet.Network) {
	n := memnet.New()
	srv := &http.Server{Handler: h, ReadHeaderTimeout: time.Minute}
	var wg sync.WaitGroup
	wg.Go(func() { _ = srv.Serve(n) })
	rt := &http.Transport{DialContext: n.Dial}
	t.Cleanup(func() {
		rt.CloseIdleConnections()
		_ = srv.Close()
		wg.Wait()
	})
	return bridge.Options{
		URL: "http://server.test/mcp", HTTPClient: &http.Client{Transport: rt},
		LoginCommand: "mcp-clerk login http://server.test/mcp",
	}, n
}

// person signs in when asked, after a time.
type person struct {
	takes  time.Duration
	refuse error
	url    string

	mu    sync.Mutex
	token string
	next  string
	asked int
	open  string
}

func (p *person) Token(context.Context) (string, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.token, nil
}

func (p *person) set(token string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.token = token
}

func (p *person) times() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.asked
}

func (p *person) signInURL() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.open
}

func (p *person) Authorize(ctx context.Context, _ string, _ int, _ http.Header) error {
	p.mu.Lock()
	p.asked++
	p.open = p.url
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		p.open = ""
		p.mu.Unlock()
	}()
	select {
	case <-time.After(p.takes):
	case <-ctx.Done():
		return ctx.Err()
	}
	if p.refuse != nil {
		return p.refuse
	}
	p.set(p.next)
	return nil
}

var errDenied = errors.New("access denied")
