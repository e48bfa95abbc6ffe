package storetest

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/mcp-clerk/mcp-clerk/internal/store"
)

// RecordSize is about that of a grant, in bytes.
const RecordSize = 600

// Away returns the address of a proxy in front of a server that makes it one
// millisecond away, as another machine of the same network is. Without a way to
// go, the scheduler decides how long a call takes, not the number of calls.
func Away(b *testing.B, addr string) string {
	b.Helper()
	p := StartProxy(b, addr)
	p.Toxic("latency", "downstream", `"latency":1`)
	return p.Addr
}

// Bare are the least calls of the store's own driver that carry a record of
// RecordSize to and from its server: what one round trip costs.
type Bare struct {
	Read  func(i int) error
	Write func(i int) error // as durable as the store's
}

// BareRecords is how many different records Bare is asked for.
const BareRecords = 1000

// Benchmark measures the operations of a store, with one caller and with 32, in
// turn with the bare calls of its driver, and reports how many of those each
// costs as "roundtrips".
func Benchmark(b *testing.B, s store.Store, bare Bare) {
	key := func(i int) string { return fmt.Sprintf("grant/user_%04d/%d", i%BareRecords, i%BareRecords) }
	value := make([]byte, RecordSize)
	for i := range BareRecords {
		if err := s.Create(b.Context(), store.Record{Key: key(i), Value: value, Expires: time.Now().Add(life)}); err != nil {
			b.Fatal(err)
		}
		if err := bare.Write(i); err != nil {
			b.Fatal(err)
		}
	}
	rewrite := func(old store.Record) ([]byte, time.Time, error) {
		old.Value[0]++
		return old.Value, time.Now().Add(life), nil
	}
	run := 0
	operations := []struct {
		name string
		do   func(i int) error
		bare func(i int) error
	}{
		{"Get", func(i int) error {
			_, err := s.Get(b.Context(), key(i))
			return err
		}, bare.Read},
		{"Update", func(i int) error {
			_, err := s.Update(b.Context(), key(i), rewrite)
			return err
		}, bare.Write},
		{"Create", func(i int) error {
			return s.Create(b.Context(), store.Record{Key: fmt.Sprintf("signin/%d/%d", run, i), Value: value, Expires: time.Now().Add(life)})
		}, bare.Write},
		{"Take", func(i int) error {
			_, err := s.Take(b.Context(), fmt.Sprintf("signin/%d/%d", run, i))
			return err
		}, bare.Write},
		{"List", func(i int) error {
			_, err := s.List(b.Context(), fmt.Sprintf("grant/user_%04d/", i%BareRecords), "", 100)
			return err
		}, bare.Read},
	}
	for _, callers := range []int{1, 32} {
		for _, op := range operations {
			b.Run(fmt.Sprintf("%s/%d", op.name, callers), func(b *testing.B) {
				run++
				if op.name == "Take" {
					for i := range b.N {
						if err := s.Create(b.Context(), store.Record{Key: fmt.Sprintf("signin/%d/%d", run, i), Value: value, Expires: time.Now().Add(life)}); err != nil {
							b.Fatal(err)
						}
					}
				}
				b.ResetTimer()
				Compare(b, "roundtrips", callers, op.do, op.bare)
			})
		}
	}
}

// Compare runs b.N calls of do, numbered from 0, by so many callers at once, and
// as many of base, in short blocks that take turns, so that whatever else the
// machine does slows both. It reports the median over the blocks of how many
// times as long do took, under the metric's name, and the time of do alone as
// ns/op.
func Compare(b *testing.B, metric string, callers int, do, base func(i int) error) {
	b.Helper()
	block := max(10*callers, 50)
	var ratios []float64
	var total time.Duration
	for from := 0; from < b.N; from += block {
		n := min(block, b.N-from)
		ours, theirs := inFlight(b, callers, from, n, do), inFlight(b, callers, from, n, base)
		total += ours
		ratios = append(ratios, float64(ours)/float64(theirs))
	}
	slices.Sort(ratios)
	b.ReportMetric(ratios[len(ratios)/2], metric)
	b.ReportMetric(float64(total.Nanoseconds())/float64(b.N), "ns/op")
	b.ReportMetric(float64(b.N)/total.Seconds(), "ops/s")
}

// inFlight makes the n calls numbered from from and returns how long they took.
func inFlight(b *testing.B, callers, from, n int, f func(i int) error) time.Duration {
	b.Helper()
	start := time.Now()
	var wg sync.WaitGroup
	for c := range min(callers, n) {
		wg.Go(func() {
			for i := from + c; i < from+n; i += callers {
				if err := f(i); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	return time.Since(start)
}
