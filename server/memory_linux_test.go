package server_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// A test binary that finds this in its environment is the client of
// BenchmarkOpenStreams: it opens that many streams at the URL that it reads.
const streamsEnv = "MCP_CLERK_TEST_STREAMS"

func TestMain(m *testing.M) {
	if n, err := strconv.Atoi(os.Getenv(streamsEnv)); err == nil {
		if err := holdStreams(n, os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// BenchmarkOpenStreams measures the resident memory of the whole process, in
// MB, with 10,000 sessions that have each a stream open. The clients are in
// another process.
func BenchmarkOpenStreams(b *testing.B) {
	for b.Loop() {
		r := start(b, quietly(b), nil)
		token := r.signIn(adminMail).Access
		cmd := exec.CommandContext(b.Context(), os.Args[0]) //nolint:gosec // this program
		cmd.Env = append(os.Environ(), streamsEnv+"=10000")
		cmd.Stderr = os.Stderr
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
		fmt.Fprintln(in, r.srv.URL(), token)
		line, err := bufio.NewReader(out).ReadString('\n')
		if err != nil || line != "open\n" {
			b.Fatalf("the client said %q, %v", line, err)
		}
		b.ReportMetric(float64(resident(b))/1e6, "MB")
		in.Close()
		if err := cmd.Wait(); err != nil {
			b.Error(err)
		}
		r.stop()
	}
}

// resident is the memory of this process that is not swapped out or given back,
// in bytes.
func resident(tb testing.TB) int64 {
	tb.Helper()
	data, err := os.ReadFile("/proc/self/status")
	if err != nil {
		tb.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == "VmRSS:" {
			kb, err := strconv.ParseInt(f[1], 10, 64)
			if err != nil {
				tb.Fatal(err)
			}
			return kb << 10
		}
	}
	tb.Fatal("no VmRSS")
	return 0
}

// holdStreams opens n streams, says so, and holds them until in ends.
func holdStreams(n int, in io.Reader, out io.Writer) error {
	lines := bufio.NewReader(in)
	line, err := lines.ReadString('\n')
	if err != nil {
		return err
	}
	at, token, _ := strings.Cut(strings.TrimSpace(line), " ")
	u, err := url.Parse(at)
	if err != nil {
		return err
	}
	conns := make([]net.Conn, n)
	faults := make([]error, 16)
	var wg sync.WaitGroup
	for worker := range faults {
		wg.Go(func() {
			for i := worker; i < n && faults[worker] == nil; i += len(faults) {
				conns[i], faults[worker] = holdStream(u, token)
			}
		})
	}
	wg.Wait()
	if err := errors.Join(faults...); err != nil {
		return err
	}
	fmt.Fprintln(out, "open")
	_, err = io.Copy(io.Discard, lines)
	runtime.KeepAlive(conns)
	return err
}

// holdStream opens a session, and its stream.
func holdStream(u *url.URL, token string) (net.Conn, error) {
	conn, err := net.Dial("tcp", u.Host)
	if err != nil {
		return nil, err
	}
	const hello = `{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"bench","version":"1"}}}`
	const common = "Host: %s\r\nAuthorization: Bearer %s\r\nAccept: application/json, text/event-stream\r\n"
	in := bufio.NewReaderSize(conn, 2048)
	fmt.Fprintf(conn, "POST %s HTTP/1.1\r\n"+common+"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", u.Path, u.Host, token, len(hello), hello)
	head, err := readHead(in)
	if err != nil {
		return nil, err
	}
	length, err := strconv.Atoi(head["Content-Length"])
	if err != nil {
		return nil, err
	}
	if _, err := in.Discard(length); err != nil {
		return nil, err
	}
	fmt.Fprintf(conn, "GET %s HTTP/1.1\r\n"+common+"Mcp-Session-Id: %s\r\nMcp-Protocol-Version: 2025-11-25\r\n\r\n", u.Path, u.Host, token, head["Mcp-Session-Id"])
	if head, err = readHead(in); err == nil && head["Content-Type"] != "text/event-stream" {
		err = fmt.Errorf("no stream: %v", head)
	}
	return conn, err
}

// readHead reads the head of a response that is a success.
func readHead(in *bufio.Reader) (map[string]string, error) {
	head := map[string]string{}
	for first := true; ; first = false {
		line, err := in.ReadString('\n')
		if err != nil {
			return nil, err
		}
		if first && !strings.HasPrefix(line, "HTTP/1.1 200 ") {
			return nil, fmt.Errorf("answered with %q", line)
		}
		if line = strings.TrimSpace(line); line == "" {
			return head, nil
		}
		if name, value, ok := strings.Cut(line, ": "); ok {
			head[name] = value
		}
	}
}
