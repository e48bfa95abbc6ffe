package store_test

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mcp-clerk/mcp-clerk/internal/store"
)

// recordSize is about that of a grant.
const recordSize = 600

// BenchmarkCommits measures durable updates with so many callers at once, each
// to records of its own, of 10,000.
func BenchmarkCommits(b *testing.B) {
	for _, callers := range []int{1, 8, 32, 128} {
		b.Run(fmt.Sprintf("%d in flight", callers), func(b *testing.B) {
			s := openBolt(b, filepath.Join(b.TempDir(), "store.db"), store.Options{})
			fill(b, s, 10_000)
			inFlight(b, callers, func(i int) error {
				_, err := s.Update(b.Context(), key(i*7919%10_000), rewrite)
				return err
			})
		})
	}
}

// BenchmarkDiskSync is what the disk takes for the same durable write without
// a store: a page written to a file of its own, and fsync.
func BenchmarkDiskSync(b *testing.B) {
	page := make([]byte, 4096)
	for _, kind := range []string{"append", "overwrite"} {
		b.Run(kind, func(b *testing.B) {
			f, err := os.Create(filepath.Join(b.TempDir(), "file"))
			if err != nil {
				b.Fatal(err)
			}
			defer f.Close()
			if _, err := f.Write(make([]byte, 4096*64)); err != nil {
				b.Fatal(err)
			}
			for i := 0; b.Loop(); i++ {
				at := int64(i % 64)
				if kind == "append" {
					at = int64(64 + i)
				}
				if _, err := f.WriteAt(page, at*4096); err != nil {
					b.Fatal(err)
				}
				if err := f.Sync(); err != nil {
					b.Fatal(err)
				}
			}
		})
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
				if err := s.Create(b.Context(), store.Record{Key: key(i), Value: make([]byte, recordSize)}); err != nil {
					b.Error(err)
				}
			}
		})
	}
	wg.Wait()
}

// inFlight runs f with so many callers until the benchmark has its count.
func inFlight(b *testing.B, callers int, f func(i int) error) {
	b.Helper()
	var next atomic.Int64
	var wg sync.WaitGroup
	b.ResetTimer()
	for range callers {
		wg.Go(func() {
			for i := next.Add(1); i <= int64(b.N); i = next.Add(1) {
				if err := f(int(i)); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "commits/s")
}
