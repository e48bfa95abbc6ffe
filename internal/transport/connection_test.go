package transport_test

import (
	"context"
	"errors"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mcp-clerk/mcp-clerk/internal/transport"
)

// Connections that are refused, break or are about to: what is said of them, and
// that nothing is sent twice.

func TestServerThatComesBackIsReached(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv, c, net := serveMemory(t, func(w http.ResponseWriter, r *http.Request) { answerJSON(w, 200, result(envelope(r))) })
		var dials atomic.Int32
		net.Dials = func() error {
			if dials.Add(1) <= 5 {
				return syscall.ECONNREFUSED
			}
			return nil
		}
		var started int
		err := c.Do(t.Context(), transport.Call{Message: message(t, callTool), Started: func() { started++ }})
		if err != nil || srv.count("POST") != 1 || dials.Load() != 6 || started != 1 {
			t.Errorf("%d dials, %d requests, started %d times, %v", dials.Load(), srv.count("POST"), started, err)
		}
	})
}

func TestServerThatStaysAwayIsAnErrorWithinSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, c, net := serveMemory(t, func(http.ResponseWriter, *http.Request) {})
		net.Dials = func() error { return syscall.ECONNREFUSED }
		began := time.Now()
		err := c.Do(t.Context(), transport.Call{Message: message(t, callTool), Started: func() { t.Error("said to have started") }})
		e, ok := errors.AsType[*transport.UnreachableError](err)
		if took := time.Since(began); !ok || e.Host != "server.test" || !errors.Is(err, syscall.ECONNREFUSED) || took > 6*time.Second || took < 2*time.Second {
			t.Errorf("got %v after %v", err, took)
		}
	})
}

func TestUntrustedCertificateIsAnErrorAtOnce(t *testing.T) {
	srv := &server{}
	ts := newTLS(t, srv.record(func(http.ResponseWriter, *http.Request) {}))
	began := time.Now()
	err := newClient(t, ts.URL).Do(t.Context(), transport.Call{Message: message(t, callTool)})
	if _, ok := errors.AsType[*transport.UnreachableError](err); !ok || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("got %v after %v", err, time.Since(began))
	}
	if len(srv.seen()) != 0 {
		t.Error("a request was made")
	}
}

// A request that may have run is never made again.
func TestConnectionThatEndsBeforeTheAnswerIsNotRepeated(t *testing.T) {
	tests := map[string]http.HandlerFunc{
		"reset at once": func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
		"stream without ids": func(w http.ResponseWriter, _ *http.Request) {
			stream(w)("data: %s\n\n", `{"jsonrpc":"2.0","method":"notifications/progress"}`)
			panic(http.ErrAbortHandler)
		},
		"stream that ends in order": func(w http.ResponseWriter, _ *http.Request) { stream(w) },
		"half an event": func(w http.ResponseWriter, _ *http.Request) {
			stream(w)(`data: {"jsonrpc":"2.0","id":1,"result":{}}`)
		},
	}
	for name, h := range tests {
		t.Run(name, func(t *testing.T) {
			srv := serve(t, h)
			c := newClient(t, srv.URL)
			var got received
			err := c.NewSession(got.add).Do(t.Context(), transport.Call{Message: message(t, callTool), Deliver: got.add})
			if _, ok := errors.AsType[*transport.LostError](err); !ok {
				t.Errorf("got %v", err)
			}
			if n := len(srv.seen()); n != 1 {
				t.Errorf("%d requests", n)
			}
		})
	}
	t.Run("broken JSON body", func(t *testing.T) {
		srv := serve(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "100")
			answerJSON(w, 200, `{"jsonrpc"`)
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		})
		err := newClient(t, srv.URL).Do(t.Context(), transport.Call{Message: message(t, callTool)})
		if _, ok := errors.AsType[*transport.StatusError](err); !ok || len(srv.seen()) != 1 {
			t.Errorf("got %v after %d requests", err, len(srv.seen()))
		}
	})
}

// A kept connection of which the server has gone takes not one byte; and then
// the server is not there for a moment. Nothing of the call was sent: it is made
// when the server is back.
func TestCallOfWhichNothingWasSentIsMadeWhenTheServerIsBack(t *testing.T) {
	srv := serve(t, func(w http.ResponseWriter, r *http.Request) {
		answerJSON(w, 200, `{"jsonrpc":"2.0","id":1,"result":{}}`)
	})
	var dials atomic.Int32
	var gone atomic.Bool
	base := transport.DefaultTransport()
	dial := base.DialContext
	base.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		if n := dials.Add(1); n == 2 || n == 3 {
			return nil, &net.OpError{Op: "dial", Net: network, Err: syscall.ECONNREFUSED}
		}
		conn, err := dial(ctx, network, addr)
		return &goneConn{conn, &gone}, err
	}
	c := newClient(t, srv.URL, func(o *transport.Options) { o.HTTPClient = &http.Client{Transport: base} })
	for range 2 {
		var got received
		if err := c.Do(t.Context(), transport.Call{Message: message(t, callTool), Deliver: got.add}); err != nil {
			t.Fatal(err)
		}
		gone.Store(true)
	}
	if n := len(srv.seen()); n != 2 || dials.Load() != 4 {
		t.Errorf("%d requests over %d dials", n, dials.Load())
	}
}

// goneConn fails to write, once, when it is to.
type goneConn struct {
	net.Conn
	gone *atomic.Bool
}

func (c *goneConn) Write(p []byte) (int, error) {
	if c.gone.CompareAndSwap(true, false) {
		return 0, syscall.EPIPE
	}
	return c.Conn.Write(p)
}

// Node's servers drop idle connections after 5 s and say so: a request must not
// meet the closing connection, since it could not be repeated.
func TestConnectionAboutToBeDroppedIsNotUsed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var dials int
		_, c, net := serveMemory(t, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Keep-Alive", "timeout=5")
			answerJSON(w, 200, result(envelope(r)))
		})
		net.Dials = func() error { dials++; return nil }
		do := func() {
			if err := c.Do(t.Context(), transport.Call{Message: message(t, callTool)}); err != nil {
				t.Fatal(err)
			}
		}
		do()
		time.Sleep(3 * time.Second)
		do()
		if dials != 1 {
			t.Errorf("%d connections within the time", dials)
		}
		time.Sleep(4500 * time.Millisecond)
		do()
		if dials != 2 {
			t.Errorf("%d connections after the time", dials)
		}
	})
}
