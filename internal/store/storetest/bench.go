package storetest

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mcp-clerk/mcp-clerk/internal/store"
)

// Benchmark measures the operations of a store with one caller and with 32, and
// beside them roundTrip, the least that a call to its server can take.
func Benchmark(b *testing.B, s store.Store, roundTrip func() error) {
	const records = 1000
	key := func(i int) string { return fmt.Sprintf("grant/user_%04d/%d", i%records, i%records) }
	value := make([]byte, 600) // about a grant
	for i := range records {
		if err := s.Create(b.Context(), store.Record{Key: key(i), Value: value, Expires: time.Now().Add(life)}); err != nil {
			b.Fatal(err)
		}
	}
	rewrite := func(old store.Record) ([]byte, time.Time, error) {
		old.Value[0]++
		return old.Value, time.Now().Add(life), nil
	}
	var fresh atomic.Int64
	operations := []struct {
		name string
		do   func(i int) error
	}{
		{"round trip", func(int) error { return roundTrip() }},
		{"Get", func(i int) error {
			_, err := s.Get(b.Context(), key(i))
			return err
		}},
		{"Update", func(i int) error {
			_, err := s.Update(b.Context(), key(i), rewrite)
			return err
		}},
		{"Create", func(int) error {
			return s.Create(b.Context(), store.Record{Key: fmt.Sprint("signin/", fresh.Add(1)), Value: value, Expires: time.Now().Add(life)})
		}},
		{"List of one user", func(i int) error {
			_, err := s.List(b.Context(), fmt.Sprintf("grant/user_%04d/", i%records), "", 100)
			return err
		}},
	}
	for _, callers := range []int{1, 32} {
		for _, op := range operations {
			b.Run(fmt.Sprintf("%s/%d in flight", op.name, callers), func(b *testing.B) {
				var next atomic.Int64
				var wg sync.WaitGroup
				b.ResetTimer()
				for range callers {
					wg.Go(func() {
						for i := next.Add(1); i <= int64(b.N); i = next.Add(1) {
							if err := op.do(int(i)); err != nil {
								b.Error(err)
								return
							}
						}
					})
				}
				wg.Wait()
			})
		}
	}
}
