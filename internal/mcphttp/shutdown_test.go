package mcphttp_test

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestShutdownAnswersWhatIsInFlightAndRefusesTheRest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWaiter()
		s := startBubble(t, with("wait", w.handle), nil)
		h := s.session("2025-11-25", `{}`)
		stream := s.events(s.method(http.MethodGet, h))
		body, hm := modern("1", "subscriptions/listen", `"notifications":{}`)
		subscription := s.events(s.post(body, hm))
		subscription.next()
		answered := make(chan *http.Response, 1)
		go func() { answered <- s.post(wait, h) }()
		<-w.started

		done := make(chan error, 1)
		go func() { done <- s.Shutdown(context.Background()) }()
		stream.end()
		if got, ok := subscription.next(); !ok || code(t, got) != 0 {
			t.Errorf("the subscription ends with %q", got)
		}
		res := s.post(wait, h)
		if res.StatusCode != http.StatusServiceUnavailable || res.Header.Get("Retry-After") == "" {
			t.Errorf("a new request: %s", res.Status)
		}
		synctest.Wait()
		select {
		case err := <-done:
			t.Fatalf("shut down with a call in flight: %v", err)
		default:
		}
		w.release <- ""
		if got := s.text(<-answered); code(t, got) != 0 {
			t.Error(got)
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// shutDownOutOfTime ends a server that has no time for what is in flight: a
// request in a session of that revision. It returns what that was answered by.
func shutDownOutOfTime(t *testing.T, revision, request string) (w *waiter, answer string) {
	t.Helper()
	w = newWaiter()
	s := start(t, with("wait", w.handle))
	h := s.session(revision, `{}`)
	answered := make(chan *http.Response, 1)
	go func() { answered <- s.post(request, h) }()
	<-w.started
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := s.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	<-w.cancelled
	return w, s.text(<-answered)
}

func TestShutdownOutOfTimeCancelsTheCalls(t *testing.T) {
	if _, got := shutDownOutOfTime(t, "2025-11-25", wait); code(t, got) == 0 {
		t.Errorf("the call was not ended with an error: %s", got)
	}
}

func TestThousandStreamsEndAtShutdown(t *testing.T) {
	s := start(t, nil)
	h := s.session("2025-11-25", `{}`)
	body, hm := modern("1", "subscriptions/listen", `"notifications":{"toolsListChanged":true}`)
	var wg sync.WaitGroup
	streams := make(chan *events, 1000)
	for i := range 1000 {
		wg.Go(func() {
			if i%2 == 0 {
				streams <- s.events(s.method(http.MethodGet, h))
				return
			}
			e := s.events(s.post(body, hm))
			e.next()
			streams <- e
		})
	}
	wg.Wait()
	close(streams)
	if err := s.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	for e := range streams {
		for _, ok := e.next(); ok; _, ok = e.next() {
		}
		if e.in.Err() != nil {
			t.Fatalf("a stream was cut: %v", e.in.Err())
		}
	}
}
