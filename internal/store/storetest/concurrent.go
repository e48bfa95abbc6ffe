package storetest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/mcp-clerk/mcp-clerk/internal/store"
)

// each runs f(0) to f(n-1) on a few goroutines at once.
func each(t *testing.T, n int, f func(i int) error) {
	t.Helper()
	var wg sync.WaitGroup
	const workers = 16
	errs := make([]error, workers)
	for w := range workers {
		wg.Go(func() {
			for i := w; i < n && errs[w] == nil; i += workers {
				errs[w] = f(i)
			}
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// all runs f(0) to f(n-1) at once, on n goroutines.
func all(n int, f func(i int)) {
	var wg sync.WaitGroup
	start := make(chan struct{})
	for i := range n {
		wg.Go(func() {
			<-start
			f(i)
		})
	}
	close(start)
	wg.Wait()
}

// instances are the stores that a test spreads its callers over.
func (f Fixture) instances(t *testing.T, n int) []store.Store {
	stores := []store.Store{f.Store}
	for len(stores) < n && f.Peer != nil {
		stores = append(stores, f.Peer(t))
	}
	return stores
}

// Increment is the update that counts: the value is a decimal number.
func Increment(old store.Record) ([]byte, time.Time, error) {
	n, err := strconv.Atoi(string(old.Value))
	if err != nil {
		return nil, time.Time{}, err
	}
	return strconv.AppendInt(nil, int64(n+1), 10), old.Expires, nil
}

func testCounter(t *testing.T, f Fixture) {
	const n = 100
	create(t, f.Store, "counter", "0", f.in(life))
	stores := f.instances(t, 3)
	var mu sync.Mutex
	got := make(map[int]int)
	all(n, func(i int) {
		r, err := stores[i%len(stores)].Update(t.Context(), "counter", Increment)
		if err != nil {
			t.Error(err)
			return
		}
		value, err := strconv.Atoi(string(r.Value))
		if err != nil {
			t.Error(err)
		}
		mu.Lock()
		defer mu.Unlock()
		got[value]++
	})
	for i := 1; i <= n; i++ {
		if got[i] != 1 {
			t.Errorf("%d came %d times", i, got[i])
		}
	}
	wantRecord(t, get(t, f.Store, "counter"), "counter", strconv.Itoa(n), f.in(life))
}

func testTakeOnce(t *testing.T, f Fixture) {
	stores := f.instances(t, 3)
	for round := range 5 {
		key := fmt.Sprint("code/", round)
		create(t, f.Store, key, "v", f.in(life))
		oneWinner(t, 100, store.ErrNotFound, func(i int) error {
			_, err := stores[i%len(stores)].Take(t.Context(), key)
			return err
		})
	}
}

func testCreateOnce(t *testing.T, f Fixture) {
	stores := f.instances(t, 3)
	for round := range 5 {
		key := fmt.Sprint("client/", round)
		oneWinner(t, 50, store.ErrExists, func(i int) error {
			return stores[i%len(stores)].Create(t.Context(), store.Record{Key: key, Value: []byte{byte(i)}, Expires: f.in(life)})
		})
	}
}

func oneWinner(t *testing.T, n int, lost error, f func(i int) error) {
	t.Helper()
	errs := make([]error, n)
	all(n, func(i int) { errs[i] = f(i) })
	won := 0
	for _, err := range errs {
		switch {
		case err == nil:
			won++
		case !errors.Is(err, lost):
			t.Fatalf("error %v, want %v", err, lost)
		}
	}
	if won != 1 {
		t.Fatalf("%d winners", won)
	}
}

// An update never brings a record back that was deleted or taken.
func testUpdateDelete(t *testing.T, f Fixture) {
	s := f.Store
	for round := range 10 {
		key := fmt.Sprint("k", round)
		create(t, s, key, "0", time.Time{})
		all(20, func(i int) {
			var err error
			switch {
			case i%5 != 0:
				_, err = s.Update(t.Context(), key, Increment)
			case round%2 == 0:
				err = s.Delete(t.Context(), key)
			default:
				_, err = s.Take(t.Context(), key)
			}
			if err != nil && !errors.Is(err, store.ErrNotFound) {
				t.Error(err)
			}
		})
		_, err := s.Get(t.Context(), key)
		wantErr(t, "Get after the last delete", err, store.ErrNotFound)
	}
}

func testManyWriters(t *testing.T, f Fixture) {
	const writers, records = 20, 10
	stores := f.instances(t, 3)
	all(writers, func(w int) {
		s := stores[w%len(stores)]
		for i := range records {
			key := fmt.Sprintf("w%02d/%02d", w, i)
			if err := s.Create(t.Context(), store.Record{Key: key, Value: []byte("0"), Expires: f.in(life)}); err != nil {
				t.Error(err)
			}
			for range 3 {
				if _, err := s.Update(t.Context(), key, Increment); err != nil {
					t.Error(err)
				}
			}
			if i%2 == 1 {
				if err := s.Delete(t.Context(), key); err != nil {
					t.Error(err)
				}
			}
		}
	})
	for w := range writers {
		got := listAll(t, stores[(w+1)%len(stores)], fmt.Sprintf("w%02d/", w), 4)
		if len(got) != records/2 {
			t.Fatalf("writer %d left %d records, want %d", w, len(got), records/2)
		}
		for _, r := range got {
			wantRecord(t, r, r.Key, "3", f.in(life))
		}
	}
}

func testUpdateErrorAmongOthers(t *testing.T, f Fixture) {
	const n = 60
	refused := errors.New("refused")
	each(t, n, func(i int) error {
		return f.Store.Create(t.Context(), store.Record{Key: fmt.Sprint("k", i), Value: []byte("0")})
	})
	all(n, func(i int) {
		_, err := f.Store.Update(t.Context(), fmt.Sprint("k", i), func(old store.Record) ([]byte, time.Time, error) {
			if i%3 == 0 {
				return nil, time.Time{}, refused
			}
			return Increment(old)
		})
		if failed := i%3 == 0; failed != errors.Is(err, refused) || !failed && err != nil {
			t.Errorf("update %d: error %v", i, err)
		}
	})
	for i := range n {
		want := "1"
		if i%3 == 0 {
			want = "0"
		}
		wantRecord(t, get(t, f.Store, fmt.Sprint("k", i)), fmt.Sprint("k", i), want, time.Time{})
	}
}

// A write whose context ends is done or not done, never half, and the store
// goes on. Where it reports success it was done.
func testCancelledAnywhere(t *testing.T, f Fixture) {
	const n = 200
	s := f.Store
	create(t, s, "counter", "0", time.Time{})
	var mu sync.Mutex
	done, unknown := 0, 0
	each(t, n, func(i int) error {
		ctx, cancel := context.WithTimeout(t.Context(), rand.N(time.Millisecond)<<(i%8))
		defer cancel()
		_, err := s.Update(ctx, "counter", Increment)
		mu.Lock()
		defer mu.Unlock()
		switch {
		case err == nil:
			done++
		case errors.Is(err, context.DeadlineExceeded):
			unknown++
		default:
			return err
		}
		return nil
	})
	got, err := strconv.Atoi(string(get(t, s, "counter").Value))
	if err != nil {
		t.Fatal(err)
	}
	if got < done || got > done+unknown {
		t.Fatalf("the counter is %d after %d done and %d given up", got, done, unknown)
	}
	t.Logf("%d done, %d given up, counter %d", done, unknown, got)
	if _, err := s.Update(t.Context(), "counter", Increment); err != nil {
		t.Fatal(err)
	}
}

// sortedKeys returns the keys of m in order.
func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
