// Package storetest is the conformance suite of store.Store: what every backend
// promises, as tests that each backend runs against itself.
//
// It imports store. Its one invariant: nothing in it knows a backend.
package storetest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mcp-clerk/mcp-clerk/internal/store"
)

// Fixture is one empty storage for one test, closed by the test's cleanup.
type Fixture struct {
	// Store is an instance on the storage.
	Store store.Store
	// Peer opens another instance on the same storage; nil where there can
	// be only one.
	Peer func(t *testing.T) store.Store
	// Now and Advance are the clock that decides expiry; where Advance is nil
	// it can't be set, and tests of expiry take real time.
	Now     func() time.Time
	Advance func(time.Duration)
	// NativeExpiry says that expired records go without a sweep.
	NativeExpiry bool
}

// Run runs the suite. open makes a Fixture for the test it is given.
func Run(t *testing.T, open func(t *testing.T) Fixture) {
	tests := []struct {
		name string
		test func(t *testing.T, f Fixture)
	}{
		{"a record is created, read, updated, taken and deleted", testLife},
		{"create refuses a live record", testCreateExists},
		{"an error of the update function changes nothing", testUpdateError},
		{"an update function that panics harms only its caller", testUpdatePanic},
		{"slices are not shared with the caller", testNoSharing},
		{"missing records", testMissing},
		{"expiry", testExpiry},
		{"expiry in the past", testExpiredOnWrite},
		{"expiry moves with an update", testExpiryMoves},
		{"create after expiry", testCreateAfterExpiry},
		{"sweep removes what has expired and nothing else", testSweep},
		{"list pages in order of keys", testListPages},
		{"list leaves out expired records", testListExpired},
		{"list limits", testListLimits},
		{"large values", testLargeValues},
		{"unusual keys", testUnusualKeys},
		{"keys and values beyond the limits", testLimits},
		{"100 goroutines count to 100 on one record", testCounter},
		{"take has exactly one winner", testTakeOnce},
		{"create has exactly one winner", testCreateOnce},
		{"updates and deletes of one record exclude each other", testUpdateDelete},
		{"concurrent writers of different records", testManyWriters},
		{"a failing update does not disturb the others", testUpdateErrorAmongOthers},
		{"a cancelled context", testCancelled},
		{"contexts that end at any moment", testCancelledAnywhere},
		{"publish reaches every subscriber in order", testBroadcast},
		{"binary and large messages", testBroadcastMessages},
		{"topics are apart and unusual", testBroadcastTopics},
		{"a subscription ends with cancel", testBroadcastCancel},
		{"a slow subscriber does not hold up the publisher", testBroadcastSlow},
		{"a closed store", testClosed},
		{"the store behaves like a map", testModel},
		{"histories are linearisable", testLinearisable},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) { test.test(t, open(t)) })
	}
}

// wait is how long anything asynchronous may take before a test gives up.
const wait = 20 * time.Second

// life is an expiry that does not come during a test, and brief one that a
// test waits for.
const (
	life  = time.Hour
	brief = 400 * time.Millisecond
)

// elapse lets d pass on the clock of the storage.
func (f Fixture) elapse(d time.Duration) {
	if f.Advance != nil {
		f.Advance(d)
		return
	}
	time.Sleep(d + 50*time.Millisecond)
}

func (f Fixture) in(d time.Duration) time.Time { return f.Now().Add(d) }

func get(t *testing.T, s store.Store, key string) store.Record {
	t.Helper()
	r, err := s.Get(t.Context(), key)
	if err != nil {
		t.Fatalf("Get(%.40q): %v", key, err)
	}
	return r
}

func create(t *testing.T, s store.Store, key, value string, expires time.Time) {
	t.Helper()
	if err := s.Create(t.Context(), store.Record{Key: key, Value: []byte(value), Expires: expires}); err != nil {
		t.Fatalf("Create(%.40q): %v", key, err)
	}
}

func wantErr(t *testing.T, what string, got, want error) {
	t.Helper()
	if !errors.Is(got, want) {
		t.Fatalf("%s: error %v, want %v", what, got, want)
	}
}

// wantRecord compares all but the last minute of an expiry: storage that
// several instances share counts time on a clock of its own, and a busy machine
// takes its time between two looks at the clock.
func wantRecord(t *testing.T, got store.Record, key, value string, expires time.Time) {
	t.Helper()
	if got.Key != key || string(got.Value) != value {
		t.Fatalf("record %.40q = %.80q, want %.40q = %.80q", got.Key, got.Value, key, value)
	}
	if got.Expires.IsZero() != expires.IsZero() {
		t.Fatalf("record %.40q expires %v, want %v", key, got.Expires, expires)
	}
	if d := got.Expires.Sub(expires).Abs(); d > time.Minute {
		t.Fatalf("record %.40q expires %v, which is %v from %v", key, got.Expires, d, expires)
	}
}

func to(value string, expires time.Time) store.UpdateFunc {
	return func(store.Record) ([]byte, time.Time, error) { return []byte(value), expires, nil }
}

func testLife(t *testing.T, f Fixture) {
	s, ctx := f.Store, t.Context()
	expires := f.in(life)
	create(t, s, "grant/u/1", "one", expires)
	wantRecord(t, get(t, s, "grant/u/1"), "grant/u/1", "one", expires)

	var seen store.Record
	r, err := s.Update(ctx, "grant/u/1", func(old store.Record) ([]byte, time.Time, error) {
		seen = old
		return append(old.Value, " two"...), f.in(2 * life), nil
	})
	if err != nil {
		t.Fatal(err)
	}
	wantRecord(t, seen, "grant/u/1", "one", expires)
	wantRecord(t, r, "grant/u/1", "one two", f.in(2*life))
	wantRecord(t, get(t, s, "grant/u/1"), "grant/u/1", "one two", f.in(2*life))

	r, err = s.Take(ctx, "grant/u/1")
	if err != nil {
		t.Fatal(err)
	}
	wantRecord(t, r, "grant/u/1", "one two", f.in(2*life))
	_, err = s.Get(ctx, "grant/u/1")
	wantErr(t, "Get after Take", err, store.ErrNotFound)

	create(t, s, "grant/u/1", "", time.Time{})
	wantRecord(t, get(t, s, "grant/u/1"), "grant/u/1", "", time.Time{})
	if err := s.Delete(ctx, "grant/u/1"); err != nil {
		t.Fatal(err)
	}
	_, err = s.Get(ctx, "grant/u/1")
	wantErr(t, "Get after Delete", err, store.ErrNotFound)
}

func testCreateExists(t *testing.T, f Fixture) {
	create(t, f.Store, "k", "first", f.in(life))
	err := f.Store.Create(t.Context(), store.Record{Key: "k", Value: []byte("second")})
	wantErr(t, "Create", err, store.ErrExists)
	wantRecord(t, get(t, f.Store, "k"), "k", "first", f.in(life))
}

func testUpdateError(t *testing.T, f Fixture) {
	refused := errors.New("refused")
	create(t, f.Store, "k", "v", f.in(life))
	_, err := f.Store.Update(t.Context(), "k", func(old store.Record) ([]byte, time.Time, error) {
		old.Value[0] = 'x'
		return []byte("changed"), time.Time{}, refused
	})
	wantErr(t, "Update", err, refused)
	wantRecord(t, get(t, f.Store, "k"), "k", "v", f.in(life))
}

func testUpdatePanic(t *testing.T, f Fixture) {
	create(t, f.Store, "k", "v", time.Time{})
	func() {
		defer func() {
			if p := recover(); p != "bang" {
				t.Errorf("the caller of Update recovered %v, want the panic of its function", p)
			}
		}()
		_, err := f.Store.Update(t.Context(), "k", func(store.Record) ([]byte, time.Time, error) { panic("bang") })
		t.Errorf("Update returned %v", err)
	}()
	if _, err := f.Store.Update(t.Context(), "k", to("after", time.Time{})); err != nil {
		t.Fatal(err)
	}
	wantRecord(t, get(t, f.Store, "k"), "k", "after", time.Time{})
}

func testNoSharing(t *testing.T, f Fixture) {
	s := f.Store
	scribble := func(b []byte) {
		for i := range b {
			b[i] = '!'
		}
	}
	value := []byte("created")
	if err := s.Create(t.Context(), store.Record{Key: "k", Value: value}); err != nil {
		t.Fatal(err)
	}
	scribble(value)
	scribble(get(t, s, "k").Value)
	wantRecord(t, get(t, s, "k"), "k", "created", time.Time{})

	value = []byte("updated")
	r, err := s.Update(t.Context(), "k", func(store.Record) ([]byte, time.Time, error) { return value, time.Time{}, nil })
	if err != nil {
		t.Fatal(err)
	}
	scribble(value)
	wantRecord(t, r, "k", "updated", time.Time{})
	scribble(r.Value)
	listed, err := s.List(t.Context(), "", "", 10)
	if err != nil || len(listed) != 1 {
		t.Fatalf("List: %v, %v", listed, err)
	}
	scribble(listed[0].Value)
	wantRecord(t, get(t, s, "k"), "k", "updated", time.Time{})
}

func testMissing(t *testing.T, f Fixture) {
	s, ctx := f.Store, t.Context()
	_, err := s.Get(ctx, "none")
	wantErr(t, "Get", err, store.ErrNotFound)
	_, err = s.Update(ctx, "none", func(store.Record) ([]byte, time.Time, error) {
		t.Error("the update function was called without a record")
		return nil, time.Time{}, nil
	})
	wantErr(t, "Update", err, store.ErrNotFound)
	_, err = s.Take(ctx, "none")
	wantErr(t, "Take", err, store.ErrNotFound)
	if err := s.Delete(ctx, "none"); err != nil {
		t.Fatalf("Delete: %v", err)
	}
	if l, err := s.List(ctx, "", "", 10); err != nil || len(l) != 0 {
		t.Fatalf("List: %v, %v", l, err)
	}
}

func testExpiry(t *testing.T, f Fixture) {
	s, ctx := f.Store, t.Context()
	for _, key := range []string{"get", "update", "take", "delete"} {
		create(t, s, key, "v", f.in(brief))
		get(t, s, key)
	}
	create(t, s, "stays", "v", f.in(life))
	create(t, s, "always", "v", time.Time{})
	f.elapse(brief)

	_, err := s.Get(ctx, "get")
	wantErr(t, "Get", err, store.ErrNotFound)
	_, err = s.Update(ctx, "update", to("x", time.Time{}))
	wantErr(t, "Update", err, store.ErrNotFound)
	_, err = s.Take(ctx, "take")
	wantErr(t, "Take", err, store.ErrNotFound)
	if err := s.Delete(ctx, "delete"); err != nil {
		t.Fatalf("Delete: %v", err)
	}
	wantRecord(t, get(t, s, "stays"), "stays", "v", get(t, s, "stays").Expires)
	wantRecord(t, get(t, s, "always"), "always", "v", time.Time{})
}

func testExpiredOnWrite(t *testing.T, f Fixture) {
	s, ctx := f.Store, t.Context()
	for name, expires := range map[string]time.Time{"minute": f.in(-time.Minute), "decades": time.Unix(1, 0), "before 1970": time.Unix(-1e9, 0)} {
		create(t, s, name, "v", expires)
		_, err := s.Get(ctx, name)
		wantErr(t, "Get of a record created expired", err, store.ErrNotFound)
		create(t, s, name, "again", f.in(life))
		r, err := s.Update(ctx, name, to("gone", expires))
		if err != nil {
			t.Fatal(err)
		}
		if string(r.Value) != "gone" {
			t.Fatalf("Update returned %q", r.Value)
		}
		_, err = s.Get(ctx, name)
		wantErr(t, "Get of a record updated to have expired", err, store.ErrNotFound)
		_, err = s.Take(ctx, name)
		wantErr(t, "Take of a record updated to have expired", err, store.ErrNotFound)
	}
}

func testExpiryMoves(t *testing.T, f Fixture) {
	s, ctx := f.Store, t.Context()
	for _, key := range []string{"longer", "never", "kept", "shorter"} {
		create(t, s, key, "v", f.in(brief))
	}
	create(t, s, "was never", "v", time.Time{})
	for key, expires := range map[string]time.Time{"longer": f.in(life), "never": {}, "shorter": f.in(brief / 4), "was never": f.in(brief)} {
		if _, err := s.Update(ctx, key, to(key, expires)); err != nil {
			t.Fatal(err)
		}
	}
	// A kept expiry stays where it is, however often the record changes.
	for range 3 {
		if _, err := s.Update(ctx, "kept", func(old store.Record) ([]byte, time.Time, error) {
			return append(old.Value, '.'), old.Expires, nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	f.elapse(brief)
	wantRecord(t, get(t, s, "longer"), "longer", "longer", get(t, s, "longer").Expires)
	wantRecord(t, get(t, s, "never"), "never", "never", time.Time{})
	for _, key := range []string{"kept", "shorter", "was never"} {
		_, err := s.Get(ctx, key)
		wantErr(t, "Get "+key, err, store.ErrNotFound)
	}
}

func testCreateAfterExpiry(t *testing.T, f Fixture) {
	create(t, f.Store, "k", "old", f.in(brief))
	f.elapse(brief)
	create(t, f.Store, "k", "new", f.in(life))
	wantErr(t, "Create", f.Store.Create(t.Context(), store.Record{Key: "k"}), store.ErrExists)
	r, err := f.Store.Update(t.Context(), "k", func(old store.Record) ([]byte, time.Time, error) {
		return append(old.Value, "er"...), time.Time{}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	wantRecord(t, r, "k", "newer", time.Time{})
}

func testSweep(t *testing.T, f Fixture) {
	const n = 1500
	s := f.Store
	each(t, n, func(i int) error {
		expires := f.in(brief)
		switch i % 3 {
		case 1:
			expires = f.in(life)
		case 2:
			expires = time.Time{}
		}
		return s.Create(t.Context(), store.Record{Key: fmt.Sprintf("k%04d", i), Value: []byte("v"), Expires: expires})
	})
	f.elapse(brief)
	removed, err := s.Sweep(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if want := n / 3; !f.NativeExpiry && removed != want {
		t.Fatalf("Sweep removed %d records, want %d", removed, want)
	}
	if again, err := s.Sweep(t.Context()); err != nil || again != 0 {
		t.Fatalf("a second Sweep removed %d, %v", again, err)
	}
	if left := listAll(t, s, "", 100); len(left) != n-n/3 {
		t.Fatalf("%d records are left, want %d", len(left), n-n/3)
	}
}

func listAll(t *testing.T, s store.Store, prefix string, limit int) []store.Record {
	t.Helper()
	var all []store.Record
	after := ""
	for {
		page, err := s.List(t.Context(), prefix, after, limit)
		if err != nil {
			t.Fatalf("List(%q, %q, %d): %v", prefix, after, limit, err)
		}
		if len(page) > limit {
			t.Fatalf("List(%q, %q, %d) returned %d", prefix, after, limit, len(page))
		}
		all = append(all, page...)
		if len(page) < limit {
			return all
		}
		after = page[len(page)-1].Key
	}
}

func testListPages(t *testing.T, f Fixture) {
	s := f.Store
	keys := []string{"a", "b", "b/", "b/1", "b/10", "b/2", "b/\x00", "b/\xff", "b/\xff\xff", "b/é", "b0", "B/1", "bb", "c"}
	for _, key := range keys {
		create(t, s, key, "value of "+key, time.Time{})
	}
	sorted := []string{"b/", "b/\x00", "b/1", "b/10", "b/2", "b/é", "b/\xff", "b/\xff\xff"}
	for limit := 1; limit <= len(sorted)+1; limit++ {
		var got []string
		for _, r := range listAll(t, s, "b/", limit) {
			wantRecord(t, r, r.Key, "value of "+r.Key, time.Time{})
			got = append(got, r.Key)
		}
		if diff := cmp.Diff(sorted, got); diff != "" {
			t.Fatalf("pages of %d:\n%s", limit, diff)
		}
	}
	if got := listAll(t, s, "", 3); len(got) != len(keys) {
		t.Fatalf("all keys: %d, want %d", len(got), len(keys))
	}
	for _, test := range []struct {
		prefix, after string
		want          string
	}{
		{"b/", "b/15", "b/2 b/é b/\xff b/\xff\xff"}, // after need not exist
		{"b/", "a", strings.Join(sorted, " ")},      // before the prefix
		{"b/", "b/\xff\xff", ""},
		{"b/", "c", ""}, // behind the prefix
		{"b/\xff", "", "b/\xff b/\xff\xff"},
		{"nothing", "", ""},
		{"", "bb", "c"},
	} {
		page, err := s.List(t.Context(), test.prefix, test.after, 100)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, r := range page {
			got = append(got, r.Key)
		}
		if strings.Join(got, " ") != test.want {
			t.Errorf("List(%q, %q) = %q, want %q", test.prefix, test.after, got, test.want)
		}
	}
}

func testListExpired(t *testing.T, f Fixture) {
	s := f.Store
	each(t, 60, func(i int) error {
		expires := f.in(life)
		if i%10 != 9 {
			expires = f.in(brief)
		}
		return s.Create(t.Context(), store.Record{Key: fmt.Sprintf("k%02d", i), Expires: expires})
	})
	f.elapse(brief)
	for _, limit := range []int{1, 4, 6, 100} {
		if got := listAll(t, s, "k", limit); len(got) != 6 {
			t.Fatalf("pages of %d: %d records, want 6", limit, len(got))
		}
	}
	// Taken, deleted and written again: the listing follows.
	if _, err := s.Take(t.Context(), "k09"); err != nil {
		t.Fatal(err)
	}
	if err := s.Delete(t.Context(), "k19"); err != nil {
		t.Fatal(err)
	}
	create(t, s, "k00", "back", f.in(life))
	var got []string
	for _, r := range listAll(t, s, "k", 2) {
		got = append(got, r.Key)
	}
	if diff := cmp.Diff([]string{"k00", "k29", "k39", "k49", "k59"}, got); diff != "" {
		t.Fatal(diff)
	}
}

func testListLimits(t *testing.T, f Fixture) {
	for _, limit := range []int{0, -1} {
		if _, err := f.Store.List(t.Context(), "", "", limit); err == nil {
			t.Errorf("List with limit %d returned no error", limit)
		}
	}
}

func testLargeValues(t *testing.T, f Fixture) {
	s := f.Store
	for i, size := range []int{0, 1, 4095, 4096, 65536, 1 << 20} {
		value := strings.Repeat("0123456789abcdef", size/16+1)[:size]
		key := fmt.Sprint("large/", i)
		create(t, s, key, value, f.in(life))
		wantRecord(t, get(t, s, key), key, value, f.in(life))
		if _, err := s.Update(t.Context(), key, func(old store.Record) ([]byte, time.Time, error) {
			if string(old.Value) != value {
				return nil, time.Time{}, errors.New("the update function saw another value")
			}
			return append(old.Value, "+"...), old.Expires, nil
		}); err != nil {
			t.Fatal(err)
		}
		wantRecord(t, get(t, s, key), key, value+"+", f.in(life))
	}
	if got := listAll(t, s, "large/", 2); len(got) != 6 {
		t.Fatalf("%d records, want 6", len(got))
	}
	r, err := s.Take(t.Context(), "large/5")
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Value) != 1<<20+1 {
		t.Fatalf("took %d bytes", len(r.Value))
	}
}

func testUnusualKeys(t *testing.T, f Fixture) {
	s := f.Store
	keys := []string{
		" ", "/", "//", "a/../b", ".", "\x00", "a\x00", "a\x00b", "\xff\xfe", "\xff", "ключ/日本語/🔑", "é", "e\u0301", "*", "?", "[a-z]", "{tag}", "{a}{b}",
		"%", "_", "\\", "'; drop table records; --", "line\nbreak\r\n\ttab", "\"quoted\"", "$1", ":", "k:v",
		strings.Repeat("k", store.MaxKey), strings.Repeat("/", store.MaxKey), strings.Repeat("\x00", store.MaxKey), strings.Repeat("\xff", store.MaxKey),
	}
	for _, key := range keys {
		create(t, s, key, "value of "+key, time.Time{})
	}
	for _, key := range keys {
		wantRecord(t, get(t, s, key), key, "value of "+key, time.Time{})
		wantErr(t, "Create", s.Create(t.Context(), store.Record{Key: key}), store.ErrExists)
		page, err := s.List(t.Context(), key, "", 1)
		if err != nil || len(page) != 1 {
			t.Fatalf("List(%.40q): %d records, %v", key, len(page), err)
		}
		wantRecord(t, page[0], key, "value of "+key, time.Time{})
	}
	if got := listAll(t, s, "", 7); len(got) != len(keys) {
		t.Fatalf("%d records, want %d", len(got), len(keys))
	}
	for _, key := range keys {
		if _, err := s.Update(t.Context(), key, to("new", time.Time{})); err != nil {
			t.Fatal(err)
		}
		r, err := s.Take(t.Context(), key)
		if err != nil {
			t.Fatal(err)
		}
		wantRecord(t, r, key, "new", time.Time{})
	}
	if got := listAll(t, s, "", 7); len(got) != 0 {
		t.Fatalf("%d records are left", len(got))
	}
}

func testLimits(t *testing.T, f Fixture) {
	s, ctx := f.Store, t.Context()
	for _, key := range []string{"", strings.Repeat("k", store.MaxKey+1)} {
		_, getErr := s.Get(ctx, key)
		_, updateErr := s.Update(ctx, key, to("", time.Time{}))
		_, takeErr := s.Take(ctx, key)
		for what, err := range map[string]error{
			"Get": getErr, "Create": s.Create(ctx, store.Record{Key: key}), "Update": updateErr, "Take": takeErr, "Delete": s.Delete(ctx, key),
		} {
			if err == nil || errors.Is(err, store.ErrNotFound) {
				t.Errorf("%s with a key of %d bytes: error %v", what, len(key), err)
			}
		}
	}
	large := make([]byte, store.MaxValue+1)
	if err := s.Create(ctx, store.Record{Key: "k", Value: large}); err == nil {
		t.Error("Create took a value beyond the limit")
	}
	create(t, s, "k", "small", time.Time{})
	if _, err := s.Update(ctx, "k", func(store.Record) ([]byte, time.Time, error) { return large, time.Time{}, nil }); err == nil {
		t.Error("Update took a value beyond the limit")
	}
	wantRecord(t, get(t, s, "k"), "k", "small", time.Time{})
}

func testClosed(t *testing.T, f Fixture) {
	s, ctx := f.Store, t.Context()
	create(t, s, "k", "v", time.Time{})
	called := make(chan struct{}, 1)
	cancel, err := s.Subscribe("topic", func([]byte) { called <- struct{}{} })
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	cancel()
	_, getErr := s.Get(ctx, "k")
	_, updateErr := s.Update(ctx, "k", to("x", time.Time{}))
	_, takeErr := s.Take(ctx, "k")
	_, listErr := s.List(ctx, "", "", 1)
	_, sweepErr := s.Sweep(ctx)
	_, subscribeErr := s.Subscribe("topic", func([]byte) {})
	for what, err := range map[string]error{
		"Get": getErr, "Create": s.Create(ctx, store.Record{Key: "new"}), "Update": updateErr, "Take": takeErr, "Delete": s.Delete(ctx, "k"),
		"List": listErr, "Sweep": sweepErr, "Publish": s.Publish(ctx, "topic", nil), "Subscribe": subscribeErr,
	} {
		if !errors.Is(err, store.ErrClosed) {
			t.Errorf("%s after Close: error %v, want %v", what, err, store.ErrClosed)
		}
	}
	if len(called) != 0 {
		t.Error("a subscriber was called")
	}
}

func testCancelled(t *testing.T, f Fixture) {
	s := f.Store
	create(t, s, "k", "v", time.Time{})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, getErr := s.Get(ctx, "k")
	_, updateErr := s.Update(ctx, "k", to("x", time.Time{}))
	_, takeErr := s.Take(ctx, "k")
	_, listErr := s.List(ctx, "", "", 1)
	_, sweepErr := s.Sweep(ctx)
	for what, err := range map[string]error{
		"Get": getErr, "Create": s.Create(ctx, store.Record{Key: "new"}), "Update": updateErr, "Take": takeErr, "Delete": s.Delete(ctx, "k"),
		"List": listErr, "Sweep": sweepErr, "Publish": s.Publish(ctx, "topic", nil),
	} {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s with a cancelled context: error %v", what, err)
		}
	}
	wantRecord(t, get(t, s, "k"), "k", "v", time.Time{})
	_, err := s.Get(t.Context(), "new")
	wantErr(t, "Get", err, store.ErrNotFound)
}
