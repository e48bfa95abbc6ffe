package redis_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/mcp-clerk/mcp-clerk/internal/store"
	"github.com/mcp-clerk/mcp-clerk/internal/store/redis"
	"github.com/mcp-clerk/mcp-clerk/internal/store/storetest"
)

func TestMain(m *testing.M) {
	storetest.Main(func(ctx context.Context, url string) (store.Store, error) {
		return redis.Open(ctx, url, redis.Options{})
	})
	goleak.VerifyTestMain(m)
}

var prefixes atomic.Int64

// newPrefix is an empty storage on a server that tests share.
func newPrefix() string { return fmt.Sprint("prefix=test", prefixes.Add(1)) }

func open(t testing.TB, url string) store.Store {
	t.Helper()
	s, err := redis.Open(t.Context(), url, redis.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// fixtures makes a storage for each test on the server at url.
func fixtures(url string) func(t *testing.T) storetest.Fixture {
	return func(t *testing.T) storetest.Fixture {
		url := url + "?" + newPrefix()
		return storetest.Fixture{
			Store:        open(t, url),
			Peer:         func(t *testing.T) store.Store { return open(t, url) },
			Now:          time.Now,
			NativeExpiry: true,
		}
	}
}

func TestConforms(t *testing.T) {
	server := storetest.StartRedis(t)
	storetest.Run(t, fixtures("redis://"+server.Addr))
}

func TestSeveralProcesses(t *testing.T) {
	server := storetest.StartRedis(t)
	url := "redis://" + server.Addr
	storetest.Processes(t, open(t, url), url)
}

func TestFaultyConnections(t *testing.T) {
	server := storetest.StartRedis(t)
	storetest.Faults(t, server.Addr, func(t *testing.T, addr string) store.Store { return open(t, "redis://"+addr) })
}

// Each operation costs one round trip, and so does an update of a record that
// this instance has read or written lately.
func TestRoundTrips(t *testing.T) {
	server := storetest.StartRedis(t)
	s := open(t, "redis://"+server.Addr)
	other := open(t, "redis://"+server.Addr)
	ctx := t.Context()
	calls := func() (n int) {
		for line := range strings.Lines(server.RedisCLI("info", "commandstats")) {
			if strings.HasPrefix(line, "cmdstat_eval") {
				var calls int
				if _, err := fmt.Sscanf(line[strings.Index(line, "calls="):], "calls=%d", &calls); err != nil {
					t.Fatal(err)
				}
				n += calls
			}
		}
		return n
	}
	increment := func(s store.Store) error {
		_, err := s.Update(ctx, "k", storetest.Increment)
		return err
	}
	get := func() error {
		_, err := s.Get(ctx, "k")
		return err
	}
	// Each script once, which the server has to be told first.
	list := func() error {
		_, err := s.List(ctx, "grant/user/", "", 10)
		return err
	}
	err := errors.Join(s.Create(ctx, store.Record{Key: "k", Value: []byte("0")}), get(), increment(s), list(), s.Delete(ctx, "k"))
	if err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		name string
		do   func() error
		want int
	}{
		{"create", func() error { return s.Create(ctx, store.Record{Key: "k", Value: []byte("0")}) }, 1},
		{"update of a record not yet read", func() error { return increment(s) }, 2},
		{"the next", func() error { return increment(s) }, 1},
		{"get", get, 1},
		{"update after it", func() error { return increment(s) }, 1},
		{"another instance's first", func() error { return increment(other) }, 2},
		{"update of what that changed", func() error { return increment(s) }, 3}, // refused, read, swapped
		{"list of one user", list, 1},
		{"delete", func() error { return s.Delete(ctx, "k") }, 1},
	} {
		before := calls()
		if err := step.do(); err != nil {
			t.Fatalf("%s: %v", step.name, err)
		}
		if n := calls() - before; n != step.want {
			t.Errorf("%s: %d round trips, want %d", step.name, n, step.want)
		}
	}
}
