package mcphttp_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/mcp-clerk/mcp-clerk/internal/mcphttp"
)

// Clients go without a word: 10,000 of them, each with a session and a call
// behind it, and a stream open. Nothing that ran for them is left, while the
// server goes on.
func TestNothingRunsForClientsThatHaveGone(t *testing.T) {
	const clients, at = 10_000, 32
	s := start(t, nil, func(o *mcphttp.Options) { o.UserRate = mcphttp.Rate{PerSecond: -1} })
	u, err := url.Parse(s.url)
	if err != nil {
		t.Fatal(err)
	}
	visit(t, u) // so that what belongs to the server runs
	before := goleak.IgnoreCurrent()
	var wg sync.WaitGroup
	for worker := range at {
		wg.Go(func() {
			for i := worker; i < clients && !t.Failed(); i += at {
				visit(t, u)
			}
		})
	}
	wg.Wait()
	deadline := time.Now().Add(30 * time.Second)
	for {
		err := goleak.Find(before)
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

// visit is one client on one connection, which it drops.
func visit(t *testing.T, u *url.URL) {
	conn, err := net.Dial("tcp", u.Host)
	if err != nil {
		t.Error(err)
		return
	}
	defer conn.Close()
	in := bufio.NewReader(conn)
	send := func(method, session, body string) *http.Response {
		fmt.Fprintf(conn, "%s %s HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer alice\r\nContent-Type: application/json\r\nAccept: application/json, text/event-stream\r\n%sContent-Length: %d\r\n\r\n%s",
			method, u.Path, u.Host, session, len(body), body)
		resp, err := http.ReadResponse(in, &http.Request{Method: method})
		if err != nil {
			t.Error(err)
			return nil
		}
		if resp.StatusCode != http.StatusOK {
			t.Errorf("%s: %s", method, resp.Status)
		}
		if resp.ContentLength >= 0 {
			_, _ = io.Copy(io.Discard, resp.Body) // a fault shows at the next request
		}
		return resp
	}
	resp := send(http.MethodPost, "", `{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"c","version":"1"}}}`)
	if resp == nil {
		return
	}
	session := "Mcp-Session-Id: " + resp.Header.Get("Mcp-Session-Id") + "\r\n"
	if send(http.MethodPost, session, `{"jsonrpc":"2.0","id":1,"method":"ping"}`) != nil {
		send(http.MethodGet, session, "")
	}
}
