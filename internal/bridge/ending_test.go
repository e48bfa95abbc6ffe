package bridge_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mcp-clerk/mcp-clerk/internal/bridge"
	"github.com/mcp-clerk/mcp-clerk/internal/jsonrpc"
)

// The end of the bridge: what is answered before it, and that nothing keeps it.

// As when somebody types the messages into a file and pipes it in.
func TestRequestsBeforeTheEndOfStdinAreAnswered(t *testing.T) {
	for range 20 {
		state := &remote{}
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		script := initialize + "\n" + initialized + "\r\n\n" + request(1, "tools/list", "") + "\n" + request(2, "tools/call", "{}") // no newline
		if _, err := io.WriteString(w, script); err != nil {
			t.Fatal(err)
		}
		_ = w.Close()
		var out strings.Builder
		err = bridge.Run(t.Context(), bridge.Options{Stdin: r, Stdout: &out, URL: serve(t, state)})
		_ = r.Close()
		lines := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
		if err != nil || len(lines) != 3 || !strings.Contains(lines[0], "serverInfo") {
			t.Fatalf("got %q, %v", lines, err)
		}
		slices.Sort(lines[1:])
		if lines[1] != answer(1) || lines[2] != answer(2) {
			t.Fatalf("got %q", lines)
		}
		if state.early != 0 || state.count(http.MethodDelete) != 1 {
			t.Fatalf("%d requests before initialized, %d DELETEs", state.early, state.count(http.MethodDelete))
		}
	}
}

func TestSubscriptionDoesNotKeepTheBridge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		closed := make(chan struct{})
		state := &remote{handle: func(w http.ResponseWriter, r *http.Request, _ *jsonrpc.Message) {
			events(w)(`{"jsonrpc":"2.0","method":"notifications/subscriptions/acknowledged"}`)
			<-r.Context().Done()
			close(closed)
		}}
		o, _ := inMemory(t, state)
		h := start(t, o)
		h.call(modern(1, "subscriptions/listen"))
		began := time.Now()
		if err := h.end(); err != nil || time.Since(began) != 0 {
			t.Errorf("%v after %v", err, time.Since(began))
		}
		<-closed
	})
}

func TestEndCancelsWhatIsInFlight(t *testing.T) {
	why := errors.New("terminated")
	ends := map[string]struct {
		end  func(h *host)
		want error
		top  time.Duration
	}{
		"end of stdin":   {func(h *host) { _ = h.in.Close() }, nil, 2 * time.Second},
		"signal":         {func(h *host) { h.stop(why) }, why, time.Second},
		"stdout is gone": {nil, nil, time.Second},
	}
	for name, tt := range ends {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var closed atomic.Int32
				push := make(chan string)
				state := &remote{
					handle: func(w http.ResponseWriter, r *http.Request, _ *jsonrpc.Message) {
						events(w)()
						<-r.Context().Done()
						closed.Add(1)
					},
					get: func(w http.ResponseWriter, r *http.Request) {
						send := events(w)
						select {
						case m := <-push:
							send(m)
						case <-r.Context().Done():
						}
					},
				}
				o, _ := inMemory(t, state)
				o.Authorizer = &person{token: "tok"}
				h := start(t, o)
				h.handshake()
				for i := range 3 {
					h.send(request(i, "tools/call", ""))
				}
				h.send(modern("m", "tools/call"))
				synctest.Wait()
				began := time.Now()
				if tt.end != nil {
					tt.end(h)
				} else {
					h.closeStdout()
					push <- `{"jsonrpc":"2.0","method":"notifications/x"}`
				}
				if err := h.wait(); !errors.Is(err, tt.want) || time.Since(began) > tt.top {
					t.Errorf("%v after %v", err, time.Since(began))
				}
				synctest.Wait()
				if n := len(state.bodies("notifications/cancelled")); n != 3 || closed.Load() != 4 {
					t.Errorf("%d requests cancelled, %d closed", n, closed.Load())
				}
				last := state.seen()[len(state.seen())-1]
				if last.HTTP != http.MethodDelete || last.Header.Get("Authorization") != "Bearer tok" || last.Header.Get("Mcp-Session-Id") != "session-1" {
					t.Errorf("the last request was %+v", last)
				}
			})
		})
	}
}

// The process can end although the host reads nothing and the server does not answer.
func TestNothingKeepsTheBridgeFromEnding(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		state := &remote{handle: func(w http.ResponseWriter, r *http.Request, m *jsonrpc.Message) {
			send := events(w)
			for r.Context().Err() == nil {
				send(`{"jsonrpc":"2.0","method":"notifications/progress","params":{"p":"` + strings.Repeat("x", 1000) + `"}}`)
			}
		}}
		o, _ := inMemory(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodDelete || strings.Contains(r.Header.Get("X"), "never") {
				<-r.Context().Done()
				return
			}
			state.ServeHTTP(w, r)
		}))
		h := start(t, o)
		h.handshake()
		h.send(request(1, "tools/call", ""), request(2, "tools/call", ""))
		synctest.Wait() // both streams are stuck behind stdout
		began := time.Now()
		_ = h.in.Close()
		if err := <-h.done; err != nil || time.Since(began) > 2*time.Second {
			t.Errorf("%v after %v", err, time.Since(began))
		}
	})
}

// A signal ends the read of stdin that is under way, where the system can.
func TestSignalEndsTheReadUnderWay(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _, _ = r.Close(), w.Close() }()
	why := errors.New("terminated")
	ctx, cancel := context.WithCancelCause(t.Context())
	done := make(chan error)
	state := &remote{}
	out, in := io.Pipe()
	go func() { done <- bridge.Run(ctx, bridge.Options{Stdin: r, Stdout: in, URL: serve(t, state)}) }()
	if _, err := io.WriteString(w, initialize+"\n"); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || !strings.Contains(line, "serverInfo") {
		t.Fatalf("got %q, %v", line, err)
	}
	cancel(why)
	if err := <-done; !errors.Is(err, why) {
		t.Errorf("got %v", err)
	}
	// That no goroutine is left in the read, TestMain checks.
	if n := state.count(http.MethodDelete); n != 1 {
		t.Errorf("%d DELETEs", n)
	}
}

// deadlined is a stdin that can be interrupted, as an os.File.
type deadlined struct{ *io.PipeReader }

func (d deadlined) SetReadDeadline(time.Time) error { return d.CloseWithError(os.ErrDeadlineExceeded) }

func TestIdleBridgeEndsAtOnceWithStdin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o, _ := inMemory(t, &remote{})
		r, w := io.Pipe()
		var out strings.Builder
		o.Stdin, o.Stdout = deadlined{r}, &out
		done := make(chan error)
		go func() { done <- bridge.Run(t.Context(), o) }()
		_, _ = io.WriteString(w, initialize+"\n")
		synctest.Wait()
		began := time.Now()
		_ = w.Close()
		if err := <-done; err != nil || time.Since(began) != 0 || !strings.Contains(out.String(), "serverInfo") {
			t.Errorf("%v after %v, having written %q", err, time.Since(began), out.String())
		}
	})
}
