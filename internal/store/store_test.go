package store_test

import (
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/mcp-clerk/mcp-clerk/internal/store"
	"github.com/mcp-clerk/mcp-clerk/internal/store/storetest"
)

// clock is set by hand.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func newClock() *clock {
	return &clock{t: time.Date(2026, 7, 28, 12, 0, 0, 123456789, time.UTC)}
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

func openBolt(t testing.TB, path string, o store.Options) *store.Bolt {
	t.Helper()
	s, err := store.OpenBolt(t.Context(), path, o)
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

func TestBoltConforms(t *testing.T) {
	for name, keep := range map[string]int64{
		"records are in the log":              1 << 40,
		"records go from the log to the file": 2 << 10,
	} {
		t.Run(name, func(t *testing.T) {
			storetest.Run(t, func(t *testing.T) storetest.Fixture {
				c := newClock()
				s := openBolt(t, filepath.Join(t.TempDir(), "store.db"), store.Options{Now: c.now})
				s.KeepLog(keep)
				return storetest.Fixture{Store: s, Now: c.now, Advance: c.advance}
			})
		})
	}
}

func TestMemoryConforms(t *testing.T) {
	storetest.Run(t, func(t *testing.T) storetest.Fixture {
		c := newClock()
		s := store.NewMemory(store.Options{Now: c.now})
		t.Cleanup(func() {
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
		return storetest.Fixture{Store: s, Now: c.now, Advance: c.advance}
	})
}
