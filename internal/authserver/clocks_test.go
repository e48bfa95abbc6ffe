package authserver_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/mcp-clerk/mcp-clerk/internal/authserver"
	"github.com/mcp-clerk/mcp-clerk/internal/identity"
	"github.com/mcp-clerk/mcp-clerk/internal/store"
)

// Instances whose clocks are apart, or jump.

// clocked is a storage in memory as instances share one whose server measures
// how long records live: an instance is told expiries on its own clock.
type clocked struct {
	store.Store
	ahead func() time.Duration
}

func (s clocked) in(r store.Record) store.Record {
	if !r.Expires.IsZero() {
		r.Expires = r.Expires.Add(-s.ahead())
	}
	return r
}

func (s clocked) out(r store.Record) store.Record {
	if !r.Expires.IsZero() {
		r.Expires = r.Expires.Add(s.ahead())
	}
	return r
}

func (s clocked) Get(ctx context.Context, key string) (store.Record, error) {
	r, err := s.Store.Get(ctx, key)
	return s.out(r), err
}

func (s clocked) Create(ctx context.Context, r store.Record) error {
	return s.Store.Create(ctx, s.in(r))
}

func (s clocked) Take(ctx context.Context, key string) (store.Record, error) {
	r, err := s.Store.Take(ctx, key)
	return s.out(r), err
}

func (s clocked) Update(ctx context.Context, key string, f store.UpdateFunc) (store.Record, error) {
	r, err := s.Store.Update(ctx, key, func(old store.Record) ([]byte, time.Time, error) {
		value, expires, err := f(s.out(old))
		return value, s.in(store.Record{Expires: expires}).Expires, err
	})
	return s.out(r), err
}

func (clocked) Close() error { return nil }

// onOneClock returns an opener of one storage whose own clock is standing.
func onOneClock(t testing.TB) (*clock, opener) {
	t.Helper()
	standing := &clock{now: time.Date(2026, 7, 28, 12, 0, 0, 0, time.UTC)}
	shared := store.NewMemory(store.Options{Now: standing.Now})
	t.Cleanup(func() { shared.Close() })
	return standing, func(_ testing.TB, now func() time.Time) store.Store {
		return clocked{shared, func() time.Duration { return now().Sub(standing.Now()) }}
	}
}

// apart is what the clocks of the instances show against the store's.
var apart = [3]time.Duration{0, 5 * time.Minute, -4 * time.Minute}

func TestClocksApartShortenAndLengthenNoLife(t *testing.T) {
	standing, open := onOneClock(t)
	c := newCluster(t, open, standing.Now, apart)
	client := c.register("Web", webRedirect)
	// A code by every instance, redeemed at every instance.
	code := func(n *node) string {
		n.t = t
		return n.code(client)
	}
	for i, from := range c.nodes {
		for j, to := range c.nodes {
			name := fmt.Sprintf("instance %d, then %d", i, j)
			good, late := code(from), code(from)
			standing.advance(59 * time.Second)
			tk := c.tokens(to.redeem(client, good))
			c.validEverywhere(tk.access)
			standing.advance(time.Second)
			if a := to.redeem(client, late); a.status != 400 || a.oauthError(t) != "invalid_grant" {
				t.Errorf("%s: a code older than a minute: %d %s", name, a.status, a.body)
			}
			// The grace, 30 minutes after the rotation.
			next := c.tokens(from.refresh(client, tk.refresh))
			last := c.tokens(from.refresh(client, next.refresh))
			standing.advance(30 * time.Minute)
			if got := c.tokens(to.refresh(client, tk.refresh)).refresh; got != last.refresh {
				t.Errorf("%s: an ancestor within the grace leads elsewhere", name)
			}
			c.validEverywhere(last.access) // half of its hour
			standing.advance(time.Second)
			expectError(t, to.refresh(client, tk.refresh), 400, "invalid_grant")
			expectError(t, to.refresh(client, last.refresh), 400, "invalid_grant")
			// The idle life, 30 days.
			idle, active := c.tokens(from.redeem(client, code(from))), c.tokens(from.redeem(client, code(from)))
			standing.advance(30*24*time.Hour - time.Second)
			c.tokens(to.refresh(client, active.refresh))
			standing.advance(time.Second)
			expectError(t, to.refresh(client, idle.refresh), 400, "invalid_grant")
			if t.Failed() {
				t.Fatal(name)
			}
		}
	}
	if c.events.has("grant.revoked", "code replayed") {
		t.Error("a grant ended as replayed")
	}
}

// The absolute life counts from the sign-in, though each rotation is by
// another clock.
func TestClocksApartDoNotMoveTheEndOfAGrant(t *testing.T) {
	standing, open := onOneClock(t)
	c := newCluster(t, open, standing.Now, apart)
	client := c.register("Web", webRedirect)
	daily := c.signIn(client).refresh
	for day := range 179 {
		standing.advance(24 * time.Hour)
		daily = c.tokens(c.nodes[day%3].refresh(client, daily)).refresh
	}
	standing.advance(24*time.Hour - time.Second)
	daily = c.tokens(c.nodes[0].refresh(client, daily)).refresh
	standing.advance(time.Second)
	for _, n := range c.nodes {
		expectError(t, n.refresh(client, daily), 400, "invalid_grant")
	}
}

func TestAClockThatJumpsEndsNothingAndRevivesNothing(t *testing.T) {
	for _, jump := range []time.Duration{-5 * time.Minute, 5 * time.Minute} {
		t.Run(jump.String(), func(t *testing.T) {
			standing, open := onOneClock(t)
			c := newCluster(t, open, standing.Now, [3]time.Duration{})
			client := c.register("Web", webRedirect)
			jumper := c.nodes[1]
			good, late, tk := jumper.code(client), jumper.code(client), c.signIn(client)
			next := c.tokens(jumper.refresh(client, tk.refresh))
			page := jumper.browser().authorize(client).press("Approve") // names the account, waits for the answer
			revoked := c.signIn(client)
			c.validEverywhere(revoked.access)
			if a := jumper.post("/revoke", client.form("token", revoked.refresh)); a.status != 200 {
				t.Fatal(a.status)
			}
			jumper.ahead.Store(int64(jump))
			c.validEverywhere(tk.access)
			c.validEverywhere(next.access)
			if jumper.valid(revoked.access) {
				t.Error("a revoked access token is good again")
			}
			c.tokens(jumper.redeem(client, good))
			if page.press("Continue as").answer(client).Get("code") == "" {
				t.Error("the page is over")
			}
			for _, n := range c.nodes {
				if c.tokens(n.refresh(client, tk.refresh)).refresh != next.refresh {
					t.Error("an ancestor leads elsewhere")
				}
			}
			standing.advance(time.Minute)
			for _, n := range c.nodes {
				expectError(t, n.redeem(client, late), 400, "invalid_grant")
			}
		})
	}
}

// A store that fails while the clock jumps back is asked again at once.
func TestAClockThatJumpsBackDoesNotKeepAFailure(t *testing.T) {
	e := newEnv(t)
	broken := &brokenStore{Store: e.store}
	e.start(func(o *authserver.Options) { o.Store = broken })
	tk := e.signIn(e.register("Web", webRedirect))
	broken.set(func() { broken.failGet = true })
	if _, err := e.srv.Verify(t.Context(), tk.access); !errors.Is(err, identity.ErrUnavailable) {
		t.Fatal(err)
	}
	broken.set(func() { broken.failGet = false })
	e.clock.advance(-5 * time.Minute)
	if _, err := e.srv.Verify(t.Context(), tk.access); err != nil {
		t.Error(err)
	}
}

func TestClocksApartOnRealStores(t *testing.T) {
	onSharedStores(t, func(t *testing.T, addr string, at func(string) opener) {
		c := newCluster(t, at(addr), time.Now, apart)
		client := c.register("Web", webRedirect)
		for range 3 {
			tk := c.signIn(client)
			for _, from := range c.nodes {
				code := c.code(client)
				c.validEverywhere(c.tokens(from.redeem(client, code)).access)
				next := c.tokens(from.refresh(client, tk.refresh))
				c.validEverywhere(next.access)
				for _, to := range c.nodes {
					if c.tokens(to.refresh(client, tk.refresh)).refresh != next.refresh {
						t.Error("an ancestor leads elsewhere")
					}
				}
				tk = next
			}
			if a := c.post("/revoke", client.form("token", tk.refresh)); a.status != 200 {
				t.Fatal(a.status)
			}
			c.refusedEverywhere(time.Now(), tk.access)
		}
	})
}
