package redis_test

import (
	"context"
	"fmt"
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

func open(t testing.TB, url string) *redis.Store {
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
