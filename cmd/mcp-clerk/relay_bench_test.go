package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mark3labs/mcp-go/mcp"
	mcpserver "github.com/mark3labs/mcp-go/server"
)

// The benchmarks of connect run the program that a release would contain,
// against a server of another process, and compare with the same requests sent
// to that server directly, in turn. MCP_REMOTE, when it names the main script of an
// installed mcp-remote, has it measured in the same run.

const benchInitialize = `{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"bench","version":"1"}}}`

// benchProgram builds the program once.
var benchProgram = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "mcp-clerk-bench-")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "mcp-clerk")
	build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", path, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0") // as released
	out, err := build.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return path, nil
})

// bridges are the commands to measure, by name.
func bridges(b *testing.B, url, state string) map[string][]string {
	b.Helper()
	program, err := benchProgram()
	if err != nil {
		b.Fatal(err)
	}
	all := map[string][]string{"": {program, "connect", url, "--credential-store", "file", "--state-dir", state}}
	if script := os.Getenv("MCP_REMOTE"); script != "" {
		all["mcp-remote-"] = []string{"node", script, url, "--allow-http", "--silent"}
	}
	return all
}

// serveBench is the command bench-server: a server as there are many, without a
// sign-in. It prints its URL and ends with its input.
func serveBench() {
	srv := mcpserver.NewMCPServer("bench", "1")
	srv.AddTool(mcp.NewTool("add", mcp.WithNumber("a", mcp.Required()), mcp.WithNumber("b", mcp.Required())),
		func(_ context.Context, r mcp.CallToolRequest) (*mcp.CallToolResult, error) {
			return mcp.NewToolResultText(strconv.FormatFloat(r.GetFloat("a", 0)+r.GetFloat("b", 0), 'f', -1, 64)), nil
		})
	srv.AddTool(mcp.NewTool("large"), func(context.Context, mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		return mcp.NewToolResultText(strings.Repeat("x", 100_000_000)), nil
	})
	served := httptest.NewServer(mcpserver.NewStreamableHTTPServer(srv, mcpserver.WithStateLess(true), mcpserver.WithDisableStreaming(true)))
	fmt.Println(served.URL + "/mcp")
	_, _ = io.Copy(io.Discard, os.Stdin)
}

// benchServer starts that server as a process of its own, as it would be.
func benchServer(b *testing.B) string {
	b.Helper()
	cmd := exec.CommandContext(b.Context(), "bench-server")
	in, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		_ = in.Close()
		_ = cmd.Wait() // its end is what was asked for
	})
	url, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		b.Fatal(err)
	}
	return strings.TrimSpace(url)
}

func benchCall(id int, tool string) string {
	return fmt.Sprintf(`{"jsonrpc":"2.0","id":%d,"method":"tools/call","params":{"name":"%s","arguments":{"a":19,"b":23}}}`, id, tool)
}

// benchHost runs a stdio command.
type benchHost struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

func startBenchHost(b *testing.B, command []string) *benchHost {
	b.Helper()
	h := &benchHost{cmd: exec.CommandContext(b.Context(), command[0], command[1:]...)}
	var err error
	if h.in, err = h.cmd.StdinPipe(); err != nil {
		b.Fatal(err)
	}
	out, err := h.cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	h.out = bufio.NewReaderSize(out, 64<<10)
	if err := h.cmd.Start(); err != nil {
		b.Fatal(err)
	}
	return h
}

func (h *benchHost) send(b *testing.B, line string) {
	b.Helper()
	if _, err := io.WriteString(h.in, line+"\n"); err != nil {
		b.Fatal(err)
	}
}

// next returns the id of the next response and how long its line is.
func (h *benchHost) next(b *testing.B) (id, size int) {
	b.Helper()
	var head []byte
	for {
		chunk, err := h.out.ReadSlice('\n')
		head = append(head, chunk[:min(len(chunk), 200-min(len(head), 200))]...)
		size += len(chunk)
		if err == nil {
			break
		}
		if err != bufio.ErrBufferFull { //nolint:errorlint // as its documentation says
			b.Fatal(err)
		}
	}
	_, rest, _ := strings.Cut(string(head), `"id":`)
	digits := strings.IndexFunc(rest, func(r rune) bool { return r < '0' || r > '9' })
	id, err := strconv.Atoi(rest[:max(digits, 0)])
	if err != nil || !bytes.Contains(head, []byte(`"result"`)) {
		b.Fatalf("no result: %.200s", head)
	}
	return id, size
}

func (h *benchHost) open(b *testing.B) {
	b.Helper()
	h.send(b, benchInitialize)
	h.next(b)
	h.send(b, `{"jsonrpc":"2.0","method":"notifications/initialized"}`)
}

// peak is the most memory that the process has had resident so far, in MiB.
func (h *benchHost) peak(b *testing.B) float64 {
	b.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", h.cmd.Process.Pid))
	if err != nil {
		b.Skip("the system does not tell what memory a process uses")
	}
	for line := range strings.Lines(string(status)) {
		if fields := strings.Fields(line); len(fields) == 3 && fields[0] == "VmHWM:" {
			kib, err := strconv.ParseFloat(fields[1], 64)
			if err != nil {
				b.Fatal(err)
			}
			return kib / 1024
		}
	}
	b.Fatalf("no VmHWM in %s", status)
	return 0
}

// end closes the command's input and returns how long it took to exit.
func (h *benchHost) end(b *testing.B) time.Duration {
	b.Helper()
	start := time.Now()
	if err := h.in.Close(); err != nil {
		b.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, h.out)
	if err := h.cmd.Wait(); err != nil {
		b.Fatal(err)
	}
	return time.Since(start)
}

// direct sends one message over HTTP and reads the answer.
func direct(b *testing.B, client *http.Client, url, token, body string) {
	b.Helper()
	req, err := http.NewRequestWithContext(b.Context(), http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		b.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept", "application/json, text/event-stream")
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := client.Do(req)
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil || resp.StatusCode != http.StatusOK {
		b.Fatal(resp.Status, err)
	}
}

func median(values []float64) float64 {
	slices.Sort(values)
	return values[len(values)/2]
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// From the start of the process to the answer to initialize, over what the
// server itself takes for it on a new connection. The tokens lie in the file
// store, beside their key.
func BenchmarkConnectStart(b *testing.B) {
	ctx, cancel := context.WithCancel(b.Context())
	defer cancel()
	dev, err := startDevServer(ctx, devOptions{Addr: "127.0.0.1:0", DataDir: b.TempDir()})
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = dev.stop() }()
	state := b.TempDir()
	all := bridges(b, dev.mcpURL, state)
	ours := all[""]
	login := exec.CommandContext(ctx, ours[0], append([]string{"login"}, ours[2:]...)...)
	login.Env = append(os.Environ(), "BROWSER=walking-browser", "BROWSER_USER="+demoAdmin)
	if out, err := login.CombinedOutput(); err != nil {
		b.Fatalf("login: %v\n%s", err, out)
	}
	plain := benchServer(b)
	var over, alone, bare []float64
	for b.Loop() {
		for range 7 {
			// The server's own answer: a refusal costs it as much as a result.
			client := &http.Client{Transport: &http.Transport{}}
			start := time.Now()
			resp, err := client.Post(dev.mcpURL, "application/json", strings.NewReader(benchInitialize))
			if err != nil {
				b.Fatal(err)
			}
			_, _ = io.Copy(io.Discard, resp.Body)
			_ = resp.Body.Close()
			took := time.Since(start)
			client.CloseIdleConnections()

			start = time.Now()
			h := startBenchHost(b, ours)
			h.send(b, benchInitialize)
			h.next(b)
			whole := time.Since(start)
			h.end(b)
			over, alone = append(over, ms(whole-took)), append(alone, ms(whole))

			// What the process costs of that.
			start = time.Now()
			if err := exec.CommandContext(ctx, ours[0], "version").Run(); err != nil {
				b.Fatal(err)
			}
			bare = append(bare, ms(time.Since(start)))
		}
	}
	b.ReportMetric(median(over), "over-ms")
	b.ReportMetric(median(alone), "start-ms")
	b.ReportMetric(median(bare), "version-ms")
	if remote := bridges(b, plain, state)["mcp-remote-"]; remote != nil {
		var theirs []float64
		for range 7 {
			start := time.Now()
			h := startBenchHost(b, remote)
			h.send(b, benchInitialize)
			h.next(b)
			theirs = append(theirs, ms(time.Since(start)))
			h.end(b)
		}
		b.ReportMetric(median(theirs), "mcp-remote-start-ms")
	}
}

// once is the loop of a benchmark whose figures are its metrics: they are
// reported behind it.
func once(b *testing.B) {
	b.Helper()
	for b.Loop() {
		continue
	}
}

// One call after the other: what the way through the bridge adds to each.
func BenchmarkConnectCall(b *testing.B) {
	once(b)
	url := benchServer(b)
	client := &http.Client{Transport: &http.Transport{}}
	const calls = 500
	for name, command := range bridges(b, url, b.TempDir()) {
		h := startBenchHost(b, command)
		h.open(b)
		var added []float64
		for range 7 {
			straight, through := make([]float64, calls), make([]float64, calls)
			for i := range calls { // in turn, so that both see the same machine
				start := time.Now()
				direct(b, client, url, "", benchCall(i, "add"))
				straight[i] = ms(time.Since(start))
				start = time.Now()
				h.send(b, benchCall(i, "add"))
				h.next(b)
				through[i] = ms(time.Since(start))
			}
			added = append(added, median(through)-median(straight))
		}
		b.ReportMetric(median(added), name+"added-ms")
		h.end(b)
	}
}

const benchInFlight = 32

// throughput returns calls a second through the bridge.
func (h *benchHost) throughput(b *testing.B, calls int) float64 {
	b.Helper()
	start := time.Now()
	for i := range benchInFlight {
		h.send(b, benchCall(i, "add"))
	}
	for i := benchInFlight; i < calls+benchInFlight; i++ {
		h.next(b)
		if i < calls {
			h.send(b, benchCall(i, "add"))
		}
	}
	return float64(calls) / time.Since(start).Seconds()
}

func directThroughput(b *testing.B, url string, calls int) float64 {
	b.Helper()
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: benchInFlight}}
	defer client.CloseIdleConnections()
	var wg sync.WaitGroup
	start := time.Now()
	for worker := range benchInFlight {
		wg.Go(func() {
			for i := worker; i < calls; i += benchInFlight {
				direct(b, client, url, "", benchCall(i, "add"))
			}
		})
	}
	wg.Wait()
	return float64(calls) / time.Since(start).Seconds()
}

// Many calls at a time, as a share of what the server does for the same number
// of clients without the bridge.
func BenchmarkConnectThroughput(b *testing.B) {
	once(b)
	url := benchServer(b)
	const calls = 3_000
	for name, command := range bridges(b, url, b.TempDir()) {
		n := calls
		if name != "" {
			n /= 5
		}
		h := startBenchHost(b, command)
		h.open(b)
		var share, rate []float64
		for range 7 {
			straight := directThroughput(b, url, n)
			through := h.throughput(b, n)
			share, rate = append(share, through/straight), append(rate, through)
		}
		b.ReportMetric(median(share), name+"of-direct")
		b.ReportMetric(median(rate), name+"calls/s")
		b.ReportMetric(h.peak(b), name+"loaded-MiB")
		h.end(b)
	}
}

// Memory: after the handshake, and with a result of 100 MB.
func BenchmarkConnectMemory(b *testing.B) {
	once(b)
	url := benchServer(b)
	var idle, large, exit []float64
	command := bridges(b, url, b.TempDir())[""]
	for range 7 {
		h := startBenchHost(b, command)
		h.open(b)
		h.send(b, benchCall(1, "add"))
		h.next(b)
		idle = append(idle, h.peak(b))
		exit = append(exit, ms(h.end(b)))
	}
	for range 3 {
		h := startBenchHost(b, command)
		h.open(b)
		h.send(b, benchCall(1, "large"))
		if _, size := h.next(b); size < 100_000_000 {
			b.Fatalf("the result has %d bytes", size)
		}
		large = append(large, h.peak(b))
		h.end(b)
	}
	b.ReportMetric(median(idle), "idle-MiB")
	b.ReportMetric(median(large), "large-MiB")
	b.ReportMetric(median(exit), "exit-ms")
}

// Some hundred thousand messages: what the second half adds to the memory of the
// first.
func BenchmarkConnectMillion(b *testing.B) {
	once(b)
	url := benchServer(b)
	h := startBenchHost(b, bridges(b, url, b.TempDir())[""])
	h.open(b)
	h.throughput(b, 100_000)
	half := h.peak(b)
	h.throughput(b, 100_000)
	b.ReportMetric(h.peak(b)-half, "grown-MiB")
	h.end(b)
}

// What connect's start-up does before main: packages that only serve needs.
func BenchmarkConnectInit(b *testing.B) {
	program, err := benchProgram()
	if err != nil {
		b.Fatal(err)
	}
	var total []float64
	for b.Loop() {
		cmd := exec.CommandContext(b.Context(), program, "version")
		cmd.Env = append(os.Environ(), "GODEBUG=inittrace=1")
		var trace bytes.Buffer
		cmd.Stderr = &trace
		if err := cmd.Run(); err != nil {
			b.Fatal(err)
		}
		sum := 0.0
		for line := range strings.Lines(trace.String()) {
			if f := strings.Fields(line); len(f) > 4 && f[0] == "init" {
				t, err := strconv.ParseFloat(f[4], 64)
				if err != nil {
					b.Fatal(err)
				}
				sum += t
			}
		}
		total = append(total, sum)
	}
	b.ReportMetric(median(total), "init-ms")
}
