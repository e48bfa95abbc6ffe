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
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// A test binary that finds this in its environment is a crowd of clients, of
// the kind that the variable names.
const crowdEnv = "MCP_CLERK_TEST_CROWD"

// crowd is how many clients there are.
const crowd = 10_000

func TestMain(m *testing.M) {
	client := map[string]func(u *url.URL, token string, i int) error{"streams": holdStream, "slow": holdSlowly}[os.Getenv(crowdEnv)]
	if client == nil {
		os.Exit(m.Run())
	}
	if err := gather(client, os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// startCrowd starts a crowd in another process, and returns when all of it is
// there. disperse ends it.
func startCrowd(b *testing.B, kind, at, token string) (disperse func()) {
	b.Helper()
	cmd := exec.CommandContext(b.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), crowdEnv+"="+kind)
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
	fmt.Fprintln(in, at, token)
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || line != "there\n" {
		b.Fatalf("the crowd said %q, %v", line, err)
	}
	return func() {
		_ = in.Close()
		if err := cmd.Wait(); err != nil {
			b.Error(err)
		}
	}
}

// BenchmarkOpenStreams measures the resident memory of the whole process, in
// MB, with 10,000 sessions that have each a stream open. The clients are in
// another process.
func BenchmarkOpenStreams(b *testing.B) {
	for b.Loop() {
		debug.FreeOSMemory() // of what ran before
		r := start(b, quietly(b), nil)
		token := r.signIn(adminMail).Access
		disperse := startCrowd(b, "streams", r.srv.URL(), token)
		b.ReportMetric(float64(resident(b))/1e6, "MB")
		disperse()
		r.stop()
	}
}

// BenchmarkSlowClients measures the 99th percentile of calls while 10,000
// connections hold on to the server, with nothing, with heads, bodies and
// trailers that do not end, in that of the same calls before (case 50).
func BenchmarkSlowClients(b *testing.B) {
	const rounds = 20
	for b.Loop() {
		ours := &rival{dial: dialOurs(b, eras[0])}
		for range 8 {
			ours.wires = append(ours.wires, ours.dial())
		}
		ours.round(b)
		measure := func() float64 {
			var late []float64
			for range rounds {
				_, p99 := ours.round(b)
				late = append(late, p99)
			}
			return median(late)
		}
		before := measure()
		disperse := startCrowd(b, "slow", "http://"+ours.wires[0].conn.RemoteAddr().String()+"/mcp", "none")
		b.ReportMetric(measure()/before, "times-before")
		disperse()
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

// gather starts the clients, says when all are there, and holds them until in
// ends.
func gather(client func(u *url.URL, token string, i int) error, in io.Reader, out io.Writer) error {
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
	faults := make([]error, 16)
	var wg sync.WaitGroup
	for worker := range faults {
		wg.Go(func() {
			for i := worker; i < crowd && faults[worker] == nil; i += len(faults) {
				faults[worker] = client(u, token, i)
			}
		})
	}
	wg.Wait()
	if err := errors.Join(faults...); err != nil {
		return err
	}
	fmt.Fprintln(out, "there")
	_, err = io.Copy(io.Discard, lines)
	return err
}

// held are the connections of the clients, which go with the process.
var held sync.Map

// holdStream opens a session, and its stream.
func holdStream(u *url.URL, token string, i int) error {
	conn, err := net.Dial("tcp", u.Host)
	if err != nil {
		return err
	}
	held.Store(i, conn)
	const hello = `{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"bench","version":"1"}}}`
	const common = "Host: %s\r\nAuthorization: Bearer %s\r\nAccept: application/json, text/event-stream\r\n"
	in := bufio.NewReaderSize(conn, 2048)
	fmt.Fprintf(conn, "POST %s HTTP/1.1\r\n"+common+"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", u.Path, u.Host, token, len(hello), hello)
	head, err := readHead(in)
	if err != nil {
		return err
	}
	length, err := strconv.Atoi(head["Content-Length"])
	if err != nil {
		return err
	}
	if _, err := in.Discard(length); err != nil {
		return err
	}
	fmt.Fprintf(conn, "GET %s HTTP/1.1\r\n"+common+"Mcp-Session-Id: %s\r\nMcp-Protocol-Version: 2025-11-25\r\n\r\n", u.Path, u.Host, token, head["Mcp-Session-Id"])
	if head, err = readHead(in); err == nil && head["Content-Type"] != "text/event-stream" {
		err = fmt.Errorf("no stream: %v", head)
	}
	return err
}

// holdSlowly opens a connection that never finishes what it began, and opens it
// again when the server has given it up.
func holdSlowly(u *url.URL, _ string, i int) error {
	const post = "POST /mcp HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer none\r\nContent-Type: application/json\r\n"
	kind := []struct{ begin, more string }{
		{"", ""},
		{"GET /mcp HTTP/1.1\r\nHost: localhost\r\n", "X-More: and\r\n"},
		{post + "Content-Length: 100000\r\n\r\n{", " "},
		{post + "Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n", "X-More: and\r\n"},
	}[i%4]
	dial := func() (net.Conn, error) {
		conn, err := net.Dial("tcp", u.Host)
		if err == nil {
			_, err = io.WriteString(conn, kind.begin)
		}
		return conn, err
	}
	conn, err := dial()
	if err != nil {
		return err
	}
	go func() {
		for tick := time.Tick(5 * time.Second); ; <-tick {
			if _, err := io.WriteString(conn, kind.more); err == nil {
				continue
			}
			_ = conn.Close()
			if conn, err = dial(); err != nil {
				return // the server is gone
			}
		}
	}()
	return nil
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
