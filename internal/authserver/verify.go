package authserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/mcp-clerk/mcp-clerk/internal/identity"
	"github.com/mcp-clerk/mcp-clerk/internal/store"
)

// Times of the grant cache: a revocation is noticed within a second, at the
// price of one read per active grant and grantFresh.
const (
	grantFresh   = 800 * time.Millisecond // how long a state read counts
	grantStale   = 5 * time.Second        // how long it counts while the store cannot be asked
	grantTimeout = time.Second            // for one read
	grantRetry   = 250 * time.Millisecond // pause after a read that failed

	grantCacheSize = 16_384 // grants remembered, twice
)

// Verify returns the principal of an access token of this server: sealed here,
// not expired, for this resource, and of a grant that still stands. It reports
// identity.ErrInvalidToken, or identity.ErrUnavailable when the store could not
// be asked for longer than the last answer counts.
func (s *Server) Verify(ctx context.Context, token string) (*identity.Principal, error) {
	t, ok := s.keys.openAccessToken(token)
	if !ok {
		return nil, fmt.Errorf("access token is not one of this server: %w", identity.ErrInvalidToken)
	}
	if !s.now().Before(t.expires) {
		return nil, fmt.Errorf("access token has expired: %w", identity.ErrInvalidToken)
	}
	if t.resource != s.site.resource && s.site.checkResource(t.resource) != nil {
		return nil, fmt.Errorf("access token is for another resource: %w", identity.ErrInvalidToken)
	}
	state, err := s.grants.get(ctx, t.grant, t.generation)
	if err != nil {
		return nil, err
	}
	if !state.live || state.generation != t.generation {
		return nil, fmt.Errorf("access token has been revoked: %w", identity.ErrInvalidToken)
	}
	return &identity.Principal{
		Subject:  t.grant.subject(),
		Grant:    t.grant.id(),
		ClientID: t.client,
		Resource: s.site.resource,
		Scopes:   strings.Split(t.scopes, " "),
		Expires:  t.expires,

		Organization: state.org,
	}, nil
}

// grantState is what an access token needs to know of its grant.
type grantState struct {
	live       bool
	generation uint64
	org        string
}

func (s *Server) loadGrantState(ctx context.Context, name grantName) (grantState, error) {
	rec, err := s.store.Get(ctx, name.key())
	if errors.Is(err, store.ErrNotFound) {
		return grantState{}, nil
	}
	if err != nil {
		return grantState{}, storeError("read grant", err)
	}
	var g grant
	if err := json.Unmarshal(rec.Value, &g); err != nil {
		return grantState{}, fmt.Errorf("decode grant record: %w: %w", identity.ErrUnavailable, err)
	}
	return grantState{live: g.live(), generation: g.Generation, org: g.Organization}, nil
}

// grantCache keeps the states of active grants for a moment.
type grantCache struct {
	load func(context.Context, grantName) (grantState, error)
	now  func() time.Time

	mu sync.Mutex
	// Two generations bound the memory; see limiter.
	young, old map[grantName]*grantEntry
}

// grantEntry is guarded by the cache's mutex.
type grantEntry struct {
	state   grantState
	known   bool      // state has been read
	at      time.Time // when the read of state began
	failed  time.Time // when the last read failed
	err     error     // of the last read, if it failed
	loading chan struct{}
}

func newGrantCache(load func(context.Context, grantName) (grantState, error), now func() time.Time) *grantCache {
	return &grantCache{load: load, now: now, young: map[grantName]*grantEntry{}}
}

// get returns the state of the grant. A state older than grantFresh, or of a
// generation that the token in hand has overtaken, is read again; one caller
// reads and the others wait for it.
func (c *grantCache) get(ctx context.Context, name grantName, atLeast uint64) (grantState, error) {
	for {
		now := c.now()
		c.mu.Lock()
		e := c.entry(name)
		if e.known && fresh(now, e.at, grantFresh) && (e.state.generation >= atLeast || !e.state.live) {
			state := e.state
			c.mu.Unlock()
			return state, nil
		}
		if e.err != nil && fresh(now, e.failed, grantRetry) {
			state, known, at, err := e.state, e.known, e.at, e.err
			c.mu.Unlock()
			if known && fresh(now, at, grantStale) {
				return state, nil
			}
			return grantState{}, err
		}
		if loading := e.loading; loading != nil {
			c.mu.Unlock()
			select {
			case <-loading:
				continue
			case <-ctx.Done():
				return grantState{}, fmt.Errorf("wait for grant: %w: %w", identity.ErrUnavailable, ctx.Err())
			}
		}
		done := make(chan struct{})
		e.loading = done
		c.mu.Unlock()

		state, err := c.read(ctx, name)

		c.mu.Lock()
		e.loading, e.err = nil, err
		if err == nil {
			e.state, e.known, e.at = state, true, now
		} else {
			e.failed = c.now()
		}
		stale, ok := e.state, e.known && fresh(c.now(), e.at, grantStale)
		c.mu.Unlock()
		close(done)
		switch {
		case err == nil:
			return state, nil
		case ok:
			return stale, nil
		}
		return grantState{}, err
	}
}

// read asks the store for one caller on behalf of all who wait: that caller's
// departure must not fail the others.
func (c *grantCache) read(ctx context.Context, name grantName) (grantState, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), grantTimeout)
	defer cancel()
	return c.load(ctx, name)
}

// fresh reports whether at lies less than limit before now. A clock that was
// set back makes nothing fresh.
func fresh(now, at time.Time, limit time.Duration) bool {
	age := now.Sub(at)
	return age >= 0 && age <= limit
}

// entry returns the entry of name; c.mu is held.
func (c *grantCache) entry(name grantName) *grantEntry {
	if e, ok := c.young[name]; ok {
		return e
	}
	e, ok := c.old[name]
	if !ok {
		e = &grantEntry{}
	}
	if len(c.young) >= grantCacheSize {
		c.old, c.young = c.young, make(map[grantName]*grantEntry, grantCacheSize)
	}
	// The name is a piece of a decrypted token, which need not be kept whole.
	c.young[grantName(strings.Clone(string(name)))] = e
	return e
}

// forget drops what is known of a grant. A read under way may still deliver
// the old state to its callers, as if it had been an instant earlier.
func (c *grantCache) forget(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e, ok := c.young[grantName(name)]; ok && e.loading == nil {
		e.known, e.err = false, nil
		return
	}
	delete(c.young, grantName(name))
	delete(c.old, grantName(name))
}
