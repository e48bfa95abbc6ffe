//go:build unix

package main

import (
	"bufio"
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// startConnect runs the command on these files.
func startConnect(t *testing.T, url string, in, out *os.File) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "mcp-clerk", "connect", url, "--credential-store", "file", "--state-dir", t.TempDir())
	var stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = in, out, &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("stderr: %s", &stderr)
		}
	})
	return cmd
}

// Whether reads of a pipe block is a property of the pipe, and others may read
// from it afterwards.
func TestStandardInputIsLeftAsItWas(t *testing.T) {
	in, host, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	fd := in.Fd() // which makes it blocking
	blocks := func() bool {
		flags, err := unix.FcntlInt(fd, unix.F_GETFL, 0)
		if err != nil {
			t.Fatal(err)
		}
		return flags&unix.O_NONBLOCK == 0
	}
	cmd := startConnect(t, "http://127.0.0.1:9/mcp", in, nil)
	for deadline := time.Now().Add(20 * time.Second); blocks(); {
		if time.Now().After(deadline) {
			t.Fatal("the command reads in a thread of its own")
		}
		time.Sleep(5 * time.Millisecond)
	}
	if err := host.Close(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	if !blocks() {
		t.Error("the pipe does not block any more")
	}
}

// A host may give the command one socket for both directions. Writes to it then
// wait for a host that reads slowly, as reads wait for one that says nothing.
func TestOneSocketForBothDirections(t *testing.T) {
	const size = 8 << 20
	done := make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		switch {
		case err != nil:
			t.Error(err)
		case bytes.Contains(body, []byte(`"initialize"`)):
			w.Header().Set("Content-Type", "application/json")
			_, _ = io.WriteString(w, `{"jsonrpc":"2.0","id":0,"result":{"protocolVersion":"2025-11-25","capabilities":{},"serverInfo":{"name":"large","version":"1"}}}`)
		case bytes.Contains(body, []byte(`"tools/call"`)):
			w.Header().Set("Content-Type", "application/json")
			_, _ = io.WriteString(w, `{"jsonrpc":"2.0","id":1,"result":{"content":[{"type":"text","text":"`+strings.Repeat("x", size)+`"}]}}`)
			close(done)
		default:
			w.WriteHeader(http.StatusAccepted)
		}
	}))
	defer srv.Close()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	host, theirs := os.NewFile(uintptr(pair[0]), "host"), os.NewFile(uintptr(pair[1]), "command")
	defer host.Close()
	cmd := startConnect(t, srv.URL, theirs, theirs)
	_ = theirs.Close()
	send := func(line string) {
		if _, err := io.WriteString(host, line+"\n"); err != nil {
			t.Fatal(err)
		}
	}
	lines := bufio.NewReaderSize(host, 4<<10)
	send(benchInitialize)
	if line, err := lines.ReadString('\n'); err != nil || !strings.Contains(line, `"large"`) {
		t.Fatalf("%v: %.200s", err, line)
	}
	send(benchCall(1, "large"))
	select { // nothing is read meanwhile: more than the socket takes is under way
	case <-done:
	case <-time.After(30 * time.Second):
		t.Fatal("the server was not asked")
	}
	if line, err := lines.ReadString('\n'); err != nil || len(line) < size {
		t.Fatalf("%v: %d bytes: %.200s", err, len(line), line)
	}
	if err := unix.Shutdown(pair[0], unix.SHUT_WR); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
}
