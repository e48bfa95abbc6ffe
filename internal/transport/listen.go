package transport

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"time"

	"github.com/mcp-clerk/mcp-clerk/internal/jsonrpc"
)

// listenWait is how long initialized waits for the server to answer that it
// listens, in the hope that nothing is asked of the host before.
const listenWait = 250 * time.Millisecond

// steadyTime is how long a stream must have been open not to count as a failure:
// many a proxy cuts one that is quiet after 30 or 60 seconds.
const steadyTime = 10 * time.Second

// listen starts, once, the stream of what the server sends unasked (2025-11-25,
// basic/transports, "Listening for Messages from the Server"). It is opened
// again for as long as the session lives, unless the server offers none. listen
// waits for a moment until it is open: a server that asks on it during the
// host's first call would otherwise ask in vain.
func (s *Session) listen(ctx context.Context) {
	s.mu.Lock()
	start := !s.listening
	s.listening = true
	s.mu.Unlock()
	if !start {
		return
	}
	answered := make(chan struct{})
	s.background(func(life context.Context) { s.listenLoop(life, sync.OnceFunc(func() { close(answered) })) })
	t := time.NewTimer(listenWait)
	defer t.Stop()
	select {
	case <-answered:
	case <-t.C:
	case <-ctx.Done():
	case <-s.flights.life.Done():
	}
}

// unasked stands for the call that a stream opened by GET does not have.
var unasked = &jsonrpc.Message{}

func (s *Session) listenLoop(life context.Context, answered func()) {
	var of lease
	var worked bool // the stream of this session has been open
	var st *stream
	failures := 0
	for life.Err() == nil {
		ctx, cancel := context.WithCancel(life)
		s.mu.Lock()
		l := s.lease
		s.kick = cancel
		s.mu.Unlock()
		if st == nil || l.generation != of.generation {
			of, worked, st, failures = l, false, &stream{retry: -1}, 0
		}
		resp, err := s.get(ctx, l, st.lastID)
		answered()
		wait := backoff(failures, time.Second, 30*time.Second)
		failures++
		if err == nil {
			worked = true
			began := time.Now()
			_, err = s.c.readStream(resp, &Call{Message: unasked, Deliver: s.deliver}, st)
			_ = resp.Body.Close()
			if st.messages > 0 || time.Since(began) > steadyTime {
				failures = 0
			}
			wait = max(st.retry, wait)
		}
		if status, ok := errors.AsType[*StatusError](err); ok && ctx.Err() == nil {
			_, gone := errors.AsType[goneError](err)
			switch code := status.Status; {
			case (code == http.StatusNotFound || gone) && worked:
				// The stream was there: it is the session that is gone.
				if s.renew(life, l, nil) == nil {
					wait = 0
				}
			case code == http.StatusUnauthorized, code == http.StatusForbidden, code == http.StatusTooManyRequests, code >= 500 && code != http.StatusNotImplemented:
			default:
				cancel()
				s.c.log.Debug("the server offers no stream of its own", "host", s.c.Host(), "status", code)
				s.mu.Lock()
				again := s.lease.generation != l.generation
				s.listening = again // the next initialized asks again
				s.mu.Unlock()
				if !again {
					return
				}
			}
		}
		_ = sleep(ctx, wait) // a new session ends ctx
		cancel()
	}
}
