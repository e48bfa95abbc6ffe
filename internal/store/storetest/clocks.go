package storetest

import (
	"errors"
	"testing"
	"time"

	"github.com/mcp-clerk/mcp-clerk/internal/store"
)

// Clocks tests instances whose clocks differ. at opens an instance, on one empty
// storage, whose clock is ahead by an offset. A record lives as long as its
// writer said, and its expiry is told on the clock of the reader.
func Clocks[S store.Store](t *testing.T, at func(offset time.Duration) S) {
	t.Helper()
	const apart = 5 * time.Minute
	ctx := t.Context()
	for _, offset := range []time.Duration{apart, -apart} {
		here, there := at(0), at(offset)
		now := func() time.Time { return time.Now().Add(offset) }
		if err := there.Create(ctx, store.Record{Key: "long", Value: []byte("v"), Expires: now().Add(10 * time.Minute)}); err != nil {
			t.Fatal(err)
		}
		if err := there.Create(ctx, store.Record{Key: "short", Expires: now().Add(brief)}); err != nil {
			t.Fatal(err)
		}
		wantRecord(t, get(t, here, "long"), "long", "v", time.Now().Add(10*time.Minute))
		wantRecord(t, get(t, there, "long"), "long", "v", now().Add(10*time.Minute))
		// An update that keeps the expiry keeps it for the other too.
		for _, s := range []store.Store{here, there, here} {
			if _, err := s.Update(ctx, "long", func(old store.Record) ([]byte, time.Time, error) {
				return append(old.Value, '+'), old.Expires, nil
			}); err != nil {
				t.Fatal(err)
			}
		}
		wantRecord(t, get(t, here, "long"), "long", "v+++", time.Now().Add(10*time.Minute))
		time.Sleep(brief + 50*time.Millisecond)
		if _, err := here.Get(ctx, "short"); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("offset %v: error %v, want %v", offset, err, store.ErrNotFound)
		}
		if _, err := here.Sweep(ctx); err != nil {
			t.Fatal(err)
		}
		if _, err := here.Take(ctx, "long"); err != nil {
			t.Errorf("offset %v: %v", offset, err)
		}
	}
}
