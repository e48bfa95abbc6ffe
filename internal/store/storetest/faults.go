package storetest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/mcp-clerk/mcp-clerk/internal/store"
)

// Faults tests what a store does when the connection to its server at addr is
// lost, slow or stuck. open opens an instance on the server at an address; all
// are instances on one empty storage.
func Faults(t *testing.T, addr string, open func(t *testing.T, addr string) store.Store) {
	tests := []struct {
		name string
		test func(t *testing.T, p *Proxy, direct store.Store, open func(t *testing.T) store.Store)
	}{
		{"histories are linearisable while connections break", faultLinearisable},
		{"reads go on over a broken connection", faultReads},
		{"a server that is away and comes back", faultAway},
		{"a server that does not answer", faultSilent},
		{"subscriptions come back", faultSubscription},
	}
	direct := open(t, addr)
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			p := StartProxy(t, addr)
			test.test(t, p, direct, func(t *testing.T) store.Store { return open(t, p.Addr) })
		})
	}
}

// Three instances work while the connections of two of them break again and
// again, at any point of a call. What fails may have happened or not; nothing
// happens twice.
func faultLinearisable(t *testing.T, p *Proxy, direct store.Store, open func(t *testing.T) store.Store) {
	stores := []store.Store{direct, open(t), open(t)}
	h := NewHistory()
	stop := make(chan struct{})
	var breaker sync.WaitGroup
	breaker.Go(func() {
		for i := 0; ; i++ {
			// By operations, not by time: how many are lost, and with it how
			// hard the check is, must not depend on how busy the machine is.
			for next := h.Len() + 10 + rand.IntN(20); h.Len() < next; {
				select {
				case <-stop:
					return
				case <-time.After(time.Millisecond):
				}
			}
			if i%2 == 0 {
				p.Break()
				continue
			}
			// The answer of a call is lost, after it ran.
			p.Toxic("limit_data", "downstream", fmt.Sprintf(`"bytes":%d`, 1+rand.IntN(2000)))
			time.Sleep(5 * time.Millisecond)
			p.Heal()
		}
	})
	var mu sync.Mutex
	failed := 0
	all(6, func(i int) {
		n := h.Work(t.Context(), i, stores[i%3], 300)
		mu.Lock()
		defer mu.Unlock()
		failed += n
	})
	close(stop)
	breaker.Wait()
	t.Logf("%d calls failed", failed)
	h.Check(t)
	mustWork(t, stores...)
}

// mustWork waits until each of the stores works again.
func mustWork(t *testing.T, stores ...store.Store) {
	t.Helper()
	for i, s := range stores {
		deadline := time.Now().Add(wait)
		key := fmt.Sprint("works/", i, "/", rand.Uint64())
		for {
			err := s.Create(t.Context(), store.Record{Key: key, Expires: time.Now().Add(life)})
			if err == nil || errors.Is(err, store.ErrExists) {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("store %d does not work again: %v", i, err)
			}
			time.Sleep(20 * time.Millisecond)
		}
		if _, err := s.Take(t.Context(), key); err != nil {
			t.Fatalf("store %d: %v", i, err)
		}
	}
}

func faultReads(t *testing.T, p *Proxy, _ store.Store, open func(t *testing.T) store.Store) {
	s := open(t)
	create(t, s, "read/a", "v", time.Time{})
	t.Cleanup(func() { _ = s.Delete(context.Background(), "read/a") })
	for range 20 {
		p.Break()
		wantRecord(t, get(t, s, "read/a"), "read/a", "v", time.Time{})
		p.Break()
		if l, err := s.List(t.Context(), "read/", "", 10); err != nil || len(l) != 1 {
			t.Fatalf("List: %v, %v", l, err)
		}
	}
}

// An error and no more: neither a panic nor ErrNotFound, and later the same
// store works again.
func faultAway(t *testing.T, p *Proxy, _ store.Store, open func(t *testing.T) store.Store) {
	s := open(t)
	create(t, s, "away/a", "0", time.Time{})
	t.Cleanup(func() { _ = s.Delete(context.Background(), "away/a") })
	p.Cut()
	everyCallFails(t, s)
	p.Restore()
	mustWork(t, s)
	wantRecord(t, get(t, s, "away/a"), "away/a", "0", time.Time{})
}

func everyCallFails(t *testing.T, s store.Store) {
	t.Helper()
	ctx := t.Context()
	_, getErr := s.Get(ctx, "away/a")
	_, updateErr := s.Update(ctx, "away/a", Increment)
	_, takeErr := s.Take(ctx, "away/a")
	_, listErr := s.List(ctx, "", "", 1)
	for what, err := range map[string]error{
		"Get": getErr, "Create": s.Create(ctx, store.Record{Key: "away/b"}), "Update": updateErr, "Take": takeErr,
		"Delete": s.Delete(ctx, "away/b"), "List": listErr, "Publish": s.Publish(ctx, "t", []byte("m")),
	} {
		if err == nil || errors.Is(err, store.ErrNotFound) || errors.Is(err, store.ErrExists) || errors.Is(err, store.ErrClosed) {
			t.Errorf("%s without a server: error %v", what, err)
		}
	}
}

// Calls to a server that takes requests and says nothing end by their context,
// or by themselves.
func faultSilent(t *testing.T, p *Proxy, _ store.Store, open func(t *testing.T) store.Store) {
	s := open(t)
	create(t, s, "away/a", "0", time.Time{})
	t.Cleanup(func() { _ = s.Delete(context.Background(), "away/a") })
	p.Toxic("timeout", "downstream", `"timeout":0`)
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := s.Get(ctx, "away/a"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Get: error %v, want %v", err, context.DeadlineExceeded)
	}
	done := make(chan error, 1)
	go func() {
		_, err := s.Update(context.Background(), "away/a", Increment)
		done <- err
	}()
	select {
	case err := <-done:
		if err == nil || errors.Is(err, store.ErrNotFound) {
			t.Errorf("Update: error %v", err)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("a call without a deadline never ended")
	}
	p.Heal()
	p.Break()
	mustWork(t, s)
}

func faultSubscription(t *testing.T, p *Proxy, direct store.Store, open func(t *testing.T) store.Store) {
	s := open(t)
	in := subscribe(t, s, "t")
	connect(t, direct, "t", in)
	for round := range 3 {
		p.Break()
		message := fmt.Sprint("round ", round)
		deadline := time.Now().Add(wait)
		for got := in.all(); got[len(got)-1] != message; got = in.all() {
			if time.Now().After(deadline) {
				t.Fatalf("%q did not arrive", message)
			}
			publish(t, direct, "t", message)
			select {
			case <-in.arrived:
			case <-time.After(50 * time.Millisecond):
			}
		}
	}
}

// Killed kills the server under four writers, three times, and looks for what it
// has acknowledged.
func Killed(t *testing.T, server *Server, s store.Store) {
	t.Helper()
	acknowledged := make([]int, 4)
	for round := range 3 {
		var writers, idle sync.WaitGroup
		for w := range acknowledged {
			idle.Add(1)
			atWork := sync.OnceFunc(idle.Done)
			writers.Go(func() {
				defer atWork()
				for i := 0; ; i++ {
					err := s.Create(t.Context(), store.Record{Key: fmt.Sprintf("w/%d/%06d", w, acknowledged[w]), Expires: time.Now().Add(time.Hour)})
					if err != nil && !errors.Is(err, store.ErrExists) { // one that was unknown before
						return
					}
					if acknowledged[w]++; i == 20 {
						atWork()
					}
				}
			})
		}
		idle.Wait()
		server.Kill()
		writers.Wait()
		server.Restart()
		mustWork(t, s)
		for w, n := range acknowledged {
			l, err := s.List(t.Context(), fmt.Sprintf("w/%d/", w), "", 1_000_000)
			if err != nil || len(l) < n || n == 0 {
				t.Fatalf("round %d: %d of %d acknowledged records of writer %d are left (%v)", round, len(l), n, w, err)
			}
		}
	}
}
