package storetest

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/mcp-clerk/mcp-clerk/internal/store"
)

// modelRecord is what the model of a store, a map, knows of a record.
type modelRecord struct {
	value   string
	expires time.Time
}

// testModel runs random operations on the store and on a map.
func testModel(t *testing.T, f Fixture) {
	s := f.Store
	run := 0
	rapid.Check(t, func(rt *rapid.T) {
		run++
		m := &model{s: s, f: f, t: t, root: fmt.Sprintf("run%d/", run), records: make(map[string]modelRecord)}
		rt.Repeat(map[string]func(*rapid.T){
			"":       m.check,
			"create": m.create,
			"update": m.update,
			"refuse": m.refuse,
			"take":   m.take,
			"delete": m.delete,
			"list":   m.list,
			"sweep":  m.sweep,
			"elapse": m.elapse,
		})
	})
}

type model struct {
	s       store.Store
	f       Fixture
	t       *testing.T
	root    string // of this run's keys
	records map[string]modelRecord
}

var modelKeys = []string{"a", "a/", "a/1", "a/\x00", "a/\xff", "b", "ключ"}

func (m *model) key(t *rapid.T) string {
	return m.root + rapid.SampledFrom(modelKeys).Draw(t, "key")
}

// expires draws none, one that has passed and, where the clock can be set, one
// that will pass in this run.
func (m *model) expires(t *rapid.T) time.Time {
	choices := []time.Duration{0, -time.Second, life}
	if m.f.Advance != nil {
		choices = append(choices, time.Second, time.Minute)
	}
	d := rapid.SampledFrom(choices).Draw(t, "expires in")
	if d == 0 {
		return time.Time{}
	}
	return m.f.in(d)
}

func (m *model) live(key string) (modelRecord, bool) {
	r, ok := m.records[key]
	return r, ok && (r.expires.IsZero() || m.f.Now().Before(r.expires))
}

func (m *model) compare(t *rapid.T, what, key string, r store.Record, err error) {
	t.Helper()
	want, ok := m.live(key)
	if !ok {
		if !errors.Is(err, store.ErrNotFound) {
			t.Fatalf("%s(%q): record %q, error %v, want %v", what, key, r.Value, err, store.ErrNotFound)
		}
		return
	}
	if err != nil {
		t.Fatalf("%s(%q): %v", what, key, err)
	}
	m.same(t, r, key, want)
}

func (m *model) same(t *rapid.T, r store.Record, key string, want modelRecord) {
	t.Helper()
	tolerance := time.Minute
	if m.f.Advance != nil { // the clock is ours
		tolerance = time.Millisecond
	}
	if r.Key != key || string(r.Value) != want.value || r.Expires.IsZero() != want.expires.IsZero() ||
		r.Expires.Sub(want.expires).Abs() > tolerance {
		t.Fatalf("record %q = %q until %v, want %q = %q until %v", r.Key, r.Value, r.Expires, key, want.value, want.expires)
	}
}

func (m *model) check(t *rapid.T) {
	key := m.key(t)
	r, err := m.s.Get(m.t.Context(), key)
	m.compare(t, "Get", key, r, err)
}

func (m *model) create(t *rapid.T) {
	key, expires := m.key(t), m.expires(t)
	value := rapid.StringN(0, 20, 40).Draw(t, "value")
	err := m.s.Create(m.t.Context(), store.Record{Key: key, Value: []byte(value), Expires: expires})
	if _, ok := m.live(key); ok {
		if !errors.Is(err, store.ErrExists) {
			t.Fatalf("Create(%q): error %v, want %v", key, err, store.ErrExists)
		}
		return
	}
	if err != nil {
		t.Fatalf("Create(%q): %v", key, err)
	}
	m.records[key] = modelRecord{value, expires}
}

func (m *model) update(t *rapid.T) {
	key := m.key(t)
	keep := rapid.Bool().Draw(t, "keep expiry")
	expires := m.expires(t)
	r, err := m.s.Update(m.t.Context(), key, func(old store.Record) ([]byte, time.Time, error) {
		until := expires
		if keep {
			until = old.Expires
		}
		return append([]byte("+"), old.Value...), until, nil
	})
	if old, ok := m.live(key); ok {
		next := modelRecord{"+" + old.value, expires}
		if keep {
			next.expires = old.expires
		}
		if err != nil {
			t.Fatalf("Update(%q): %v", key, err)
		}
		m.same(t, r, key, next)
		m.records[key] = next
	} else if !errors.Is(err, store.ErrNotFound) {
		t.Fatalf("Update(%q): error %v, want %v", key, err, store.ErrNotFound)
	}
}

func (m *model) refuse(t *rapid.T) {
	key := m.key(t)
	refused := errors.New("refused")
	_, err := m.s.Update(m.t.Context(), key, func(store.Record) ([]byte, time.Time, error) { return []byte("x"), time.Time{}, refused })
	want := store.ErrNotFound
	if _, ok := m.live(key); ok {
		want = refused
	}
	if !errors.Is(err, want) {
		t.Fatalf("Update(%q): error %v, want %v", key, err, want)
	}
}

func (m *model) take(t *rapid.T) {
	key := m.key(t)
	r, err := m.s.Take(m.t.Context(), key)
	m.compare(t, "Take", key, r, err)
	delete(m.records, key)
}

func (m *model) delete(t *rapid.T) {
	key := m.key(t)
	if err := m.s.Delete(m.t.Context(), key); err != nil {
		t.Fatalf("Delete(%q): %v", key, err)
	}
	delete(m.records, key)
}

func (m *model) list(t *rapid.T) {
	prefix := m.root + rapid.SampledFrom([]string{"", "a", "a/", "b", "x"}).Draw(t, "prefix")
	from := ""
	if rapid.Bool().Draw(t, "go on") {
		from = m.key(t)
	}
	limit := rapid.IntRange(1, 4).Draw(t, "limit")
	got, err := m.s.List(m.t.Context(), prefix, from, limit)
	if err != nil {
		t.Fatalf("List(%q, %q, %d): %v", prefix, from, limit, err)
	}
	var want []string
	for _, key := range sortedKeys(m.records) {
		if _, ok := m.live(key); ok && strings.HasPrefix(key, prefix) && key > from && len(want) < limit {
			want = append(want, key)
		}
	}
	if len(got) != len(want) {
		t.Fatalf("List(%q, %q, %d) returned %d records, want %q", prefix, from, limit, len(got), want)
	}
	for i, key := range want {
		m.same(t, got[i], key, m.records[key])
	}
}

func (m *model) sweep(t *rapid.T) {
	if _, err := m.s.Sweep(m.t.Context()); err != nil {
		t.Fatal(err)
	}
}

func (m *model) elapse(t *rapid.T) {
	if m.f.Advance == nil {
		t.Skip("the clock can't be set")
	}
	m.f.Advance(rapid.SampledFrom([]time.Duration{time.Millisecond, time.Second, 2 * time.Minute}).Draw(t, "elapse"))
}
