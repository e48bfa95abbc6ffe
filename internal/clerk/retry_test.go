package clerk_test

import (
	"context"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mcp-clerk/mcp-clerk/internal/devclerk"
	"github.com/mcp-clerk/mcp-clerk/internal/identity"
)

// A Clerk that is busy, failing or away: how long it is asked, and that it cannot
// hold its callers.

// naps replaces the pauses between tries: they are noted, and the clock moves.
func (r *rig) naps() func() []time.Duration {
	var mu sync.Mutex
	var list []time.Duration
	r.clerk.SetSleep(func(_ context.Context, d time.Duration) error {
		mu.Lock()
		defer mu.Unlock()
		list = append(list, d)
		r.clock.Add(d)
		return nil
	})
	return func() []time.Duration {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(list)
	}
}

func TestRateLimitIsWaitedForAsClerkAsks(t *testing.T) {
	r := newRig(t, nil)
	naps := r.naps()
	r.dev.SetFault("/v1/users/", devclerk.Fault{Status: 429, RetryAfter: 2 * time.Second, Times: 1})
	u, err := r.clerk.User(t.Context(), devclerk.AdminID)
	must(t, err)
	if got := naps(); u.ID == "" || !slices.Equal(got, []time.Duration{2 * time.Second}) {
		t.Errorf("waited %v", got)
	}
	if n := r.dev.Requests(routeUser); n != 2 {
		t.Errorf("%d requests", n)
	}
}

func TestLongRateLimitKeepsAllLookupsBack(t *testing.T) {
	r := newRig(t, nil)
	naps := r.naps()
	r.dev.SetFault("/v1/users/", devclerk.Fault{Status: 429, RetryAfter: 30 * time.Second, Times: 1})
	for _, subject := range []string{devclerk.AdminID, devclerk.MemberID, "user_third"} {
		_, err := r.clerk.User(t.Context(), subject)
		wantErr(t, err, identity.ErrUnavailable)
	}
	if n := r.dev.Requests(routeUser); n != 1 || len(naps()) != 0 {
		t.Errorf("%d requests, waited %v", n, naps())
	}
	r.clock.Add(30 * time.Second)
	_, err := r.clerk.User(t.Context(), devclerk.AdminID)
	must(t, err)
}

func TestRateLimitWithoutEndIsGivenUp(t *testing.T) {
	r := newRig(t, nil)
	r.naps()
	r.dev.SetFault("/v1/users/", devclerk.Fault{Status: 429})
	_, err := r.clerk.User(t.Context(), devclerk.AdminID)
	wantErr(t, err, identity.ErrUnavailable)
	if n := r.dev.Requests(routeUser); n != 3 {
		t.Errorf("%d requests", n)
	}
}

func TestFailureIsTriedAgainAFewTimes(t *testing.T) {
	for _, times := range []int{1, 2, 0} {
		r := newRig(t, nil)
		r.naps()
		r.dev.SetFault("/v1/users/", devclerk.Fault{Status: 502, Times: times})
		_, err := r.clerk.User(t.Context(), devclerk.AdminID)
		if times > 0 {
			must(t, err)
			continue
		}
		wantErr(t, err, identity.ErrUnavailable)
		if n := r.dev.Requests(routeUser); n != 3 {
			t.Errorf("%d requests", n)
		}
	}
}

func TestStaleAnswerIsNotUsedWhileClerkIsDown(t *testing.T) {
	r := newRig(t, nil)
	r.naps()
	_, err := r.clerk.User(t.Context(), devclerk.AdminID)
	must(t, err)
	r.dev.SetDown("/v1/", true)
	r.clock.Add(59 * time.Second)
	_, err = r.clerk.User(t.Context(), devclerk.AdminID)
	must(t, err) // the cache holds
	r.clock.Add(time.Second)
	before := r.dev.Requests(routeUser)
	for range 5 {
		_, err = r.clerk.User(t.Context(), devclerk.AdminID)
		wantErr(t, err, identity.ErrUnavailable)
	}
	if n := r.dev.Requests(routeUser) - before; n != 3 {
		t.Errorf("five callers made %d requests", n)
	}
	r.dev.SetDown("/v1/", false)
	r.clock.Add(2 * time.Second)
	_, err = r.clerk.User(t.Context(), devclerk.AdminID)
	must(t, err)
}

func TestUnreachableClerkIsUnavailable(t *testing.T) {
	ts := httptest.NewServer(nil)
	base := ts.URL
	ts.Close()
	c := &clock{t: start}
	k := newClerk(t, base, c, &log{})
	k.SetSleep(func(context.Context, time.Duration) error { return nil })
	_, err := k.User(t.Context(), devclerk.AdminID)
	wantErr(t, err, identity.ErrUnavailable)
	_, err = k.Begin(t.Context(), state, nonce, strings.Repeat("v", 43), "")
	wantErr(t, err, identity.ErrUnavailable)
}

func TestHangingClerkIsGivenUp(t *testing.T) {
	if testing.Short() {
		t.Skip("takes as long as a lookup may")
	}
	t.Parallel()
	r := newRig(t, nil)
	r.dev.SetSlow("/v1/users/", time.Hour)
	_, err := r.clerk.User(context.WithoutCancel(t.Context()), devclerk.AdminID)
	wantErr(t, err, identity.ErrUnavailable)
	if n := r.dev.Requests(routeUser); n < 1 || n > 3 {
		t.Errorf("%d requests", n)
	}
}

func TestCloseEndsLookupsAndLaterOnesAreRefused(t *testing.T) {
	r := newRig(t, nil)
	r.dev.SetSlow("/v1/users/", time.Hour)
	done := make(chan error, 1)
	go func() {
		_, err := r.clerk.User(context.WithoutCancel(t.Context()), devclerk.AdminID)
		done <- err
	}()
	for r.dev.Requests(routeUser) == 0 {
		time.Sleep(time.Millisecond)
	}
	must(t, r.clerk.Close())
	wantErr(t, <-done, identity.ErrUnavailable)
	_, err := r.clerk.User(t.Context(), devclerk.MemberID)
	wantErr(t, err, identity.ErrUnavailable)
	must(t, r.clerk.Close())
}
