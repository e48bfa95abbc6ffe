package authserver

import (
	"context"
	"sync"
	"time"
)

// fetchCacheSize bounds the addresses that one cache remembers, twice. What is
// forgotten is fetched again; what users have approved is kept in the store.
const fetchCacheSize = 512

// fetchCache keeps what was fetched, failures included, until it is due again.
// Of several callers who miss one address, one fetches and the others wait.
type fetchCache[T any] struct {
	now func() time.Time

	mu sync.Mutex
	// Two generations bound the memory; see limiter.
	young, old map[string]*fetchEntry[T]
}

// fetchEntry is guarded by the cache's mutex.
type fetchEntry[T any] struct {
	value   T
	err     error
	at, due time.Time // when it was fetched, and until when it counts
	loading chan struct{}
}

func newFetchCache[T any](now func() time.Time) *fetchCache[T] {
	return &fetchCache[T]{now: now, young: map[string]*fetchEntry[T]{}}
}

// get returns the value at target. load says how long its result counts; it
// runs for all who wait, so the caller's departure does not end it. maxAge
// makes a value due that is older, 0 none.
func (c *fetchCache[T]) get(ctx context.Context, target string, maxAge time.Duration, load func(context.Context) (T, time.Duration, error)) (T, error) {
	for {
		now := c.now()
		c.mu.Lock()
		e := c.entry(target)
		if now.Before(e.due) && !now.Before(e.at) && (maxAge == 0 || now.Sub(e.at) < maxAge) {
			defer c.mu.Unlock()
			return e.value, e.err
		}
		if loading := e.loading; loading != nil {
			c.mu.Unlock()
			select {
			case <-loading:
				maxAge = 0 // as fresh as it gets
				continue
			case <-ctx.Done():
				var none T
				return none, errUnreachable
			}
		}
		done := make(chan struct{})
		e.loading = done
		c.mu.Unlock()

		value, life, err := load(context.WithoutCancel(ctx))

		c.mu.Lock()
		e.value, e.err, e.loading = value, err, nil
		e.at, e.due = c.now(), c.now().Add(life)
		c.mu.Unlock()
		close(done)
		return value, err
	}
}

// peek reports whether target would be answered without a fetch.
func (c *fetchCache[T]) peek(target string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.young[target]
	if !ok {
		e, ok = c.old[target]
	}
	return ok && (e.loading != nil || c.now().Before(e.due))
}

// entry returns the entry of target; c.mu is held.
func (c *fetchCache[T]) entry(target string) *fetchEntry[T] {
	if e, ok := c.young[target]; ok {
		return e
	}
	e, ok := c.old[target]
	if !ok {
		e = &fetchEntry[T]{}
	}
	if len(c.young) >= fetchCacheSize {
		c.old, c.young = c.young, make(map[string]*fetchEntry[T], fetchCacheSize)
	}
	c.young[target] = e
	return e
}
