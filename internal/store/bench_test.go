package store_test

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/mcp-clerk/mcp-clerk/internal/store"
	"github.com/mcp-clerk/mcp-clerk/internal/store/storetest"
)

// BenchmarkCommits measures durable updates with so many callers at once, each
// to records of its own, of 10,000, in turn with as many writes of a record to
// a file of its own, each with a sync: "syncs" is how many of those one commit
// costs.
func BenchmarkCommits(b *testing.B) {
	for _, callers := range []int{1, 8, 32, 128} {
		b.Run(fmt.Sprint(callers), func(b *testing.B) {
			s := openBolt(b, filepath.Join(b.TempDir(), "store.db"), store.Options{})
			fill(b, s, 10_000)
			var mu sync.Mutex
			sync := diskSync(b)
			b.ResetTimer()
			storetest.Compare(b, "syncs", callers, func(i int) error {
				_, err := s.Update(b.Context(), key(i*7919%10_000), rewrite)
				return err
			}, func(int) error {
				mu.Lock()
				defer mu.Unlock()
				return sync()
			})
		})
	}
}

// diskSync returns what makes one record durable without a store: a write to a
// file that has its size already, and fsync.
func diskSync(b *testing.B) func() error {
	b.Helper()
	f, err := os.Create(filepath.Join(b.TempDir(), "file"))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = f.Close() })
	const size = 1 << 20
	if _, err := f.Write(make([]byte, size)); err != nil {
		b.Fatal(err)
	}
	record := make([]byte, storetest.RecordSize)
	at := int64(0)
	return func() error {
		if _, err := f.WriteAt(record, at); err != nil {
			return err
		}
		if at += storetest.RecordSize; at > size-storetest.RecordSize {
			at = 0
		}
		return f.Sync()
	}
}

func BenchmarkGet(b *testing.B) {
	s := openBolt(b, filepath.Join(b.TempDir(), "store.db"), store.Options{})
	fill(b, s, 10_000)
	for i := 0; b.Loop(); i++ {
		if _, err := s.Get(b.Context(), key(i*7919%10_000)); err != nil {
			b.Fatal(err)
		}
	}
}

func key(i int) string { return fmt.Sprintf("grant/user_%06d/%06d", i, i) }

func rewrite(old store.Record) ([]byte, time.Time, error) {
	old.Value[0]++
	return old.Value, time.Now().Add(720 * time.Hour), nil
}

func fill(b *testing.B, s store.Store, n int) {
	b.Helper()
	var wg sync.WaitGroup
	for w := range 64 {
		wg.Go(func() {
			for i := w; i < n; i += 64 {
				if err := s.Create(b.Context(), store.Record{Key: key(i), Value: make([]byte, storetest.RecordSize)}); err != nil {
					b.Error(err)
				}
			}
		})
	}
	wg.Wait()
}
