package mcphttp_test

import (
	"context"
	"errors"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mcp-clerk/mcp-clerk/internal/jsonrpc"
	"github.com/mcp-clerk/mcp-clerk/internal/mcphttp"
)

// Calls that end early: cancelled, left by their client, or with their session.

// waiter answers when its context ends, or when released. A test may leave a
// hundred calls behind.
type waiter struct {
	started, cancelled, release chan string
}

func newWaiter() *waiter {
	return &waiter{make(chan string, 100), make(chan string, 100), make(chan string, 100)}
}

func (w *waiter) handle(ctx context.Context, call *mcphttp.Call) ([]byte, error) {
	w.started <- string(call.Message.ID)
	select {
	case <-ctx.Done():
	case <-w.release:
	}
	if err := ctx.Err(); err != nil { // perhaps before it was released
		w.cancelled <- string(call.Message.ID)
		return nil, err
	}
	return jsonrpc.NewResult(call.Message.ID, nil), nil
}

const wait = `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"wait"}}`

func cancelled(id string) string {
	return `{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":` + id + `}}`
}

func TestCancellationReachesOnlyTheOwnersCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWaiter()
		s := startBubble(t, with("wait", w.handle), nil)
		h := s.session("2025-11-25", `{}`)
		second := s.session("2025-11-25", `{}`)
		bob := s.session("2025-11-25", `{}`, header{"Authorization": "Bearer bob"})
		done := make(chan *http.Response, 1)
		go func() { done <- s.post(wait, h) }()
		<-w.started

		_, hm := modern("1", "ping", "")
		hm["Authorization"] = "Bearer bob"
		for name, h := range map[string]header{"a stranger's": bob, "another session's": second, "a stateless": hm} {
			if res := s.post(cancelled("1"), h); res.StatusCode != http.StatusAccepted {
				t.Errorf("%s: %s", name, res.Status)
			}
		}
		for _, id := range []string{`"1"`, `2`, `1.0`, `null`} {
			s.post(cancelled(id), h)
		}
		s.post(`{"jsonrpc":"2.0","method":"notifications/cancelled"}`, h)
		synctest.Wait()
		if len(w.cancelled) > 0 {
			t.Fatal("cancelled by somebody else")
		}
		s.post(cancelled("1"), h)
		<-w.cancelled
		// No response follows a cancellation (basic/utilities/cancellation).
		s.events(<-done).end()
	})
}

// 2025-11-25, basic/transports, Sending Messages, 6: "Disconnection SHOULD NOT
// be interpreted as the client cancelling its request."
func TestLegacyCallOutlivesItsConnectionForAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWaiter()
		s := startBubble(t, with("wait", w.handle), func(o *mcphttp.Options) { o.DetachedTimeout = time.Minute })
		h := s.session("2025-11-25", `{}`)
		ctx, cancel := context.WithCancel(t.Context())
		gone := make(chan error, 1)
		go func() {
			_, err := s.http.Do(s.request(wait, h).WithContext(ctx))
			gone <- err
		}()
		<-w.started
		began := time.Now()
		cancel()
		if err := <-gone; !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		<-w.cancelled
		if d := time.Since(began); d != time.Minute {
			t.Errorf("cancelled after %v", d)
		}
	})
}

func TestDeleteCancelsTheSessionsCallsAndStreams(t *testing.T) {
	w := newWaiter()
	s := start(t, with("wait", w.handle))
	h := s.session("2025-11-25", `{}`)
	stream := s.events(s.method(http.MethodGet, h))
	done := make(chan *http.Response, 1)
	go func() { done <- s.post(wait, h) }()
	<-w.started
	s.method(http.MethodDelete, h)
	<-w.cancelled
	s.events(<-done).end()
	stream.end()
}
