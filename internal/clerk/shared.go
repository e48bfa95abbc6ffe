package clerk

import (
	"context"
	"errors"
	"sync"
)

// shared lets all who ask for one thing at the same time wait for one call.
type shared[T any] struct {
	mu    sync.Mutex
	calls map[string]*call[T]
}

type call[T any] struct {
	done  chan struct{}
	value T
	err   error
}

// do waits for the call under key, starting f if there is none. f runs on c's
// own time, so that a caller who gives up doesn't take the answer from the
// others; it is bounded by its own time-outs and by Close. keep is given the
// result before anyone else sees it, unless the key was forgotten meanwhile.
func (s *shared[T]) do(ctx context.Context, c *Clerk, key string, f func(context.Context) (T, error), keep func(T, error)) (T, error) {
	s.mu.Lock()
	p := s.calls[key]
	if p == nil {
		p = &call[T]{done: make(chan struct{})}
		started := c.spawn(func() {
			p.value, p.err = f(c.base)
			s.mu.Lock()
			if s.calls[key] == p {
				delete(s.calls, key)
				keep(p.value, p.err)
			}
			s.mu.Unlock()
			close(p.done)
		})
		if !started {
			s.mu.Unlock()
			var none T
			return none, unavailable("ask Clerk", errors.New("shutting down"))
		}
		if s.calls == nil {
			s.calls = map[string]*call[T]{}
		}
		s.calls[key] = p
	}
	s.mu.Unlock()
	select {
	case <-p.done:
		return p.value, p.err
	case <-ctx.Done():
		var none T
		return none, unavailable("wait for Clerk", ctx.Err())
	}
}

// forget lets the call under key, if there is one, end without effect.
func (s *shared[T]) forget(key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.calls, key)
}

// forgetAll is forget for every key.
func (s *shared[T]) forgetAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.calls)
}

// spawn starts f in a goroutine that Close waits for.
func (c *Clerk) spawn(f func()) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return false
	}
	c.wg.Go(f)
	return true
}
