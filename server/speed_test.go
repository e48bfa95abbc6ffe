package server_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	mcpserver "github.com/mark3labs/mcp-go/server"

	"github.com/mcp-clerk/mcp-clerk/internal/telemetry"
	"github.com/mcp-clerk/mcp-clerk/internal/tools"
	"github.com/mcp-clerk/mcp-clerk/server"
)

// BenchmarkCallRate measures tools/call of add over real connections, in turn
// with a bare handler that decodes and encodes the same JSON and with mcp-go's
// own server without any protection. Ours has everything on: a real access
// token, the caller's standing at Clerk, limits, sessions. It reports medians:
// "of-bare" is our rate in that of the bare handler, "times-mcp-go" in that of
// mcp-go's server, "p99-of-mcp-go" our 99th percentile in that of its own. The
// client costs next to nothing and allocates nothing.
func BenchmarkCallRate(b *testing.B) {
	for _, era := range eras {
		for _, connections := range []int{8, 64} {
			b.Run(fmt.Sprintf("%s/%d", era.name, connections), func(b *testing.B) {
				rivals := []*rival{
					{name: "bare", dial: dialBare(b, era)},
					{name: "mcp-go", dial: dialEngine(b, era)},
					{name: "ours", dial: dialOurs(b, era)},
				}
				for _, r := range rivals {
					for range connections {
						r.wires = append(r.wires, r.dial())
					}
					r.round(b) // warm
				}
				rates, late := map[string][]float64{}, map[string][]float64{}
				for i := 0; b.Loop(); i++ {
					for j := range rivals {
						r := rivals[(i+j)%len(rivals)]
						rate, p99 := r.round(b)
						rates[r.name] = append(rates[r.name], rate)
						late[r.name] = append(late[r.name], p99)
					}
				}
				b.ReportMetric(0, "ns/op") // of a round
				b.ReportMetric(medianRatio(rates["ours"], rates["bare"]), "of-bare")
				b.ReportMetric(medianRatio(rates["ours"], rates["mcp-go"]), "times-mcp-go")
				b.ReportMetric(medianRatio(late["ours"], late["mcp-go"]), "p99-of-mcp-go")
				b.ReportMetric(median(rates["ours"]), "calls/s")
			})
		}
	}
}

// BenchmarkCallCost is one call over one connection: its allocations are those
// of the server alone, net/http's included.
func BenchmarkCallCost(b *testing.B) {
	for _, era := range eras {
		for name, dial := range map[string]func(testing.TB, speedEra) func() *wire{"bare": dialBare, "mcp-go": dialEngine, "ours": dialOurs} {
			b.Run(era.name+"/"+name, func(b *testing.B) {
				w := dial(b, era)()
				w.call(b)
				b.ReportAllocs()
				for b.Loop() {
					w.call(b)
				}
			})
		}
	}
}

func median(values []float64) float64 {
	values = slices.Sorted(slices.Values(values))
	return values[len(values)/2]
}

// medianRatio is the median over the rounds, whose two sides ran one after the
// other.
func medianRatio(a, b []float64) float64 {
	ratios := make([]float64, len(a))
	for i := range a {
		ratios[i] = a[i] / b[i]
	}
	return median(ratios)
}

// speedEra is how a call looks in one of the two eras.
type speedEra struct {
	name    string
	modern  bool
	meta    string
	headers string
}

var eras = []speedEra{
	{name: "legacy", headers: "Mcp-Protocol-Version: 2025-11-25\r\n"},
	{
		name: "modern", modern: true,
		meta: `,"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientInfo":{"name":"bench","version":"1"},` +
			`"io.modelcontextprotocol/clientCapabilities":{}}`,
		headers: "Mcp-Protocol-Version: 2026-07-28\r\nMcp-Method: tools/call\r\nMcp-Name: add\r\n",
	},
}

// roundCalls is how many calls a round has, over all connections.
const roundCalls = 1024

// rival is one of the servers that are compared.
type rival struct {
	name  string
	dial  func() *wire
	wires []*wire
	took  []time.Duration
}

// round makes the calls of one round and returns their rate and the 99th
// percentile of what each took.
func (r *rival) round(tb testing.TB) (rate, p99 float64) {
	each := roundCalls / len(r.wires)
	if r.took == nil {
		r.took = make([]time.Duration, each*len(r.wires))
	}
	began := time.Now()
	var wg sync.WaitGroup
	for i, w := range r.wires {
		took := r.took[i*each : (i+1)*each]
		wg.Go(func() {
			for j := range took {
				at := time.Now()
				w.call(tb)
				took[j] = time.Since(at)
			}
		})
	}
	wg.Wait()
	rate = float64(each*len(r.wires)) / time.Since(began).Seconds()
	slices.Sort(r.took)
	return rate, float64(r.took[len(r.took)*99/100])
}

// wire is one connection on which the same call goes out again and again.
type wire struct {
	conn    net.Conn
	in      *bufio.Reader
	request []byte
}

// newWire is dialWire for a connection that is kept until the end.
func newWire(tb testing.TB, rawURL string, era speedEra, headers string) *wire {
	tb.Helper()
	w := dialWire(tb, rawURL, era, headers)
	tb.Cleanup(func() { _ = w.conn.Close() })
	return w
}

func dialWire(tb testing.TB, rawURL string, era speedEra, headers string) *wire {
	tb.Helper()
	u, err := url.Parse(rawURL)
	if err != nil {
		tb.Fatal(err)
	}
	conn, err := net.Dial("tcp", u.Host)
	if err != nil {
		tb.Fatal(err)
	}
	body := `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"add","arguments":{"a":19,"b":23}` + era.meta + `}}`
	w := &wire{conn: conn, in: bufio.NewReader(conn)}
	w.request = fmt.Appendf(nil, "POST %s HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\nAccept: application/json, text/event-stream\r\n%s%sContent-Length: %d\r\n\r\n%s",
		u.Path, u.Host, era.headers, headers, len(body), body)
	return w
}

var (
	statusOK  = []byte("HTTP/1.1 200 ")
	lengthKey = []byte("Content-Length: ")
	answer    = []byte(`"sum":42`)
)

// call sends the call and reads its answer, which must be the right one.
func (w *wire) call(tb testing.TB) {
	if _, err := w.conn.Write(w.request); err != nil {
		tb.Error(err)
		return
	}
	length := 0
	for first := true; ; first = false {
		line, err := w.in.ReadSlice('\n')
		if err != nil || first && !bytes.HasPrefix(line, statusOK) {
			tb.Errorf("%v: %q", err, line)
			return
		}
		if len(line) == 2 {
			break
		}
		if value, ok := bytes.CutPrefix(line, lengthKey); ok {
			for _, c := range value[:len(value)-2] {
				length = 10*length + int(c-'0')
			}
		}
	}
	body, err := w.in.Peek(length)
	if err != nil || !bytes.Contains(body, answer) {
		tb.Errorf("%v: %q", err, body)
	}
	_, _ = w.in.Discard(length) // Peek has seen that it is there
}

// serveAlone serves h on a loopback port of its own.
func serveAlone(tb testing.TB, h http.Handler) string {
	tb.Helper()
	listeners, err := server.Listen(tb.Context(), "localhost:0")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(serveOn(h, listeners))
	return server.LocalURL(listeners) + "/mcp"
}

// dialBare is for a handler that knows nothing but JSON.
func dialBare(tb testing.TB, era speedEra) func() *wire {
	type meta struct {
		Version      string          `json:"io.modelcontextprotocol/protocolVersion"`
		Client       map[string]any  `json:"io.modelcontextprotocol/clientInfo"`
		Capabilities json.RawMessage `json:"io.modelcontextprotocol/clientCapabilities"`
	}
	type request struct {
		JSONRPC string          `json:"jsonrpc"`
		ID      json.RawMessage `json:"id"`
		Method  string          `json:"method"`
		Params  struct {
			Name      string `json:"name"`
			Arguments struct {
				A float64 `json:"a"`
				B float64 `json:"b"`
			} `json:"arguments"`
			Meta meta `json:"_meta"`
		} `json:"params"`
	}
	type content struct {
		Type string `json:"type"`
		Text string `json:"text"`
	}
	type sum struct {
		Sum float64 `json:"sum"`
	}
	type resultMeta struct {
		Server map[string]string `json:"io.modelcontextprotocol/serverInfo"`
	}
	type result struct {
		Meta       *resultMeta `json:"_meta,omitempty"`
		Type       string      `json:"resultType,omitempty"`
		Content    []content   `json:"content"`
		Structured sum         `json:"structuredContent"`
	}
	type response struct {
		JSONRPC string          `json:"jsonrpc"`
		ID      json.RawMessage `json:"id"`
		Result  result          `json:"result"`
	}
	at := serveAlone(tb, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var req request
		if err := json.NewDecoder(r.Body).Decode(&req); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		total := req.Params.Arguments.A + req.Params.Arguments.B
		resp := response{JSONRPC: "2.0", ID: req.ID, Result: result{
			Content:    []content{{"text", strconv.FormatFloat(total, 'f', -1, 64)}},
			Structured: sum{total},
		}}
		if req.Params.Meta.Version != "" {
			resp.Result.Type, resp.Result.Meta = "complete", &resultMeta{map[string]string{"name": "bare", "version": "1.2.3"}}
		}
		w.Header().Set("Content-Type", "application/json")
		if err := json.NewEncoder(w).Encode(resp); err != nil {
			panic(err)
		}
	}))
	return func() *wire { return newWire(tb, at, era, "") }
}

// dialEngine is for mcp-go's own server, without auth.
func dialEngine(tb testing.TB, era speedEra) func() *wire {
	engine := mcpserver.NewMCPServer("engine", "1.2.3", mcpserver.WithToolCapabilities(true))
	tool, h := tools.Add()
	engine.AddTool(tool, mcpserver.ToolHandlerFunc(h))
	at := serveAlone(tb, mcpserver.NewStreamableHTTPServer(engine, mcpserver.WithStateful(true)))
	return func() *wire { return newWire(tb, at, era, openSession(tb, at, era, "")) }
}

// dialOurs is for our server, with a person signed in.
func dialOurs(tb testing.TB, era speedEra) func() *wire {
	r := start(tb, quietly(tb), nil)
	token := "Authorization: Bearer " + r.signIn(adminMail).Access + "\r\n"
	return func() *wire { return newWire(tb, r.srv.URL(), era, token+openSession(tb, r.srv.URL(), era, token)) }
}

// openSession returns the header of a new session, where the era has them.
func openSession(tb testing.TB, at string, era speedEra, headers string) string {
	tb.Helper()
	if era.modern {
		return ""
	}
	post := func(body, session string) *http.Response {
		req, err := http.NewRequestWithContext(tb.Context(), http.MethodPost, at, strings.NewReader(body))
		if err != nil {
			tb.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("Accept", "application/json, text/event-stream")
		if session != "" {
			req.Header.Set("Mcp-Session-Id", session)
		}
		if name, value, ok := strings.Cut(strings.TrimSpace(headers), ": "); ok {
			req.Header.Set(name, value)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			tb.Fatal(err)
		}
		defer resp.Body.Close()
		if _, err := io.Copy(io.Discard, resp.Body); err != nil {
			tb.Fatal(err)
		}
		return resp
	}
	session := post(`{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"bench","version":"1"}}}`, "").Header.Get("Mcp-Session-Id")
	if session == "" {
		tb.Fatalf("%s gave no session", at)
	}
	post(`{"jsonrpc":"2.0","method":"notifications/initialized"}`, session)
	return "Mcp-Session-Id: " + session + "\r\n"
}

// BenchmarkSession measures what a session costs while it has no stream, in
// bytes of the heap: of many that were opened and used once, each by a
// connection of its own that has gone since.
func BenchmarkSession(b *testing.B) {
	const sessions = 5000
	r := start(b, quietly(b), nil)
	token := "Authorization: Bearer " + r.signIn(adminMail).Access + "\r\n"
	use := func() {
		w := dialWire(b, r.srv.URL(), eras[0], token+openSession(b, r.srv.URL(), eras[0], token))
		w.call(b)
		_ = w.conn.Close()
	}
	use()
	before := heap()
	for b.Loop() {
		for range sessions {
			use()
		}
		b.ReportMetric(0, "ns/op")
		b.ReportMetric(float64(heap()-before)/sessions, "B/session")
	}
}

// heap is what is in use of the heap.
func heap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// quietly has a server log as in operation, to nobody, and counts calls
// without ever refusing one.
func quietly(tb testing.TB) func(*server.Options) {
	return func(o *server.Options) {
		o.UserRate = 1e9
		logger, err := telemetry.NewLogger(io.Discard, "text", slog.LevelInfo)
		if err != nil {
			tb.Fatal(err)
		}
		o.Logger = logger
	}
}
