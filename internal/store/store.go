// Package store keeps what the server must not forget: grants, clients,
// consents, sign-ins under way and changed sessions, each as one record under
// one key with an expiry.
//
// Its one invariant: every operation on one record is atomic, and a write is
// durable before it is acknowledged. There are no operations over several
// records; rooms above arrange their state so that none is needed.
//
// Keys (see docs/architecture.md): grant/SUBJECT/ID, client/ID,
// consent/SUBJECT/…, signin/HASH, device/HASH, session/ID, webhook/HASH.
//
// The package holds the embedded store (OpenBolt) and the one in memory
// (NewMemory); those that several instances share are in redis and postgres.
// It imports no other room.
package store

import (
	"context"
	"errors"
	"time"
)

var (
	// ErrNotFound reports a record that does not exist or has expired.
	ErrNotFound = errors.New("record not found")
	// ErrExists reports that Create found a live record under the key.
	ErrExists = errors.New("record exists")
	// ErrClosed reports the use of a store after Close.
	ErrClosed = errors.New("store is closed")
)

// Limits of a record that every backend keeps.
const (
	MaxKey   = 1024    // bytes; a key has at least one
	MaxValue = 8 << 20 // bytes
)

// Record is one stored value. An expired record is never returned. Keys are
// any bytes and are ordered as such.
type Record struct {
	Key     string
	Value   []byte
	Expires time.Time // zero: never; kept to the millisecond
}

// UpdateFunc computes the next state of a record from its present one. It may
// run more than once, so it must have no effects but its result. Returning an
// error leaves the record as it was, and Update returns that error.
type UpdateFunc func(old Record) (value []byte, expires time.Time, err error)

// Store is the storage of one server or of several instances of it. All
// methods are safe for concurrent use, and none keeps or returns a slice that
// the other side may change. An error other than ErrNotFound and ErrExists (and
// an UpdateFunc's own) means that the store could not be asked; a write then
// may or may not have happened. A context that ends before a write began stops
// it; a write under way is awaited where its outcome would else be unknown.
//
// A record written with an expiry that has passed is accepted and never seen.
type Store interface {
	// Get returns the live record under key, or ErrNotFound.
	Get(ctx context.Context, key string) (Record, error)
	// Create writes a record that must not exist yet, else ErrExists.
	Create(ctx context.Context, r Record) error
	// Update replaces an existing record by compare-and-swap and returns the
	// new one; ErrNotFound if there is none. f must not use the store.
	Update(ctx context.Context, key string, f UpdateFunc) (Record, error)
	// Take returns the record and deletes it in one step: of several callers
	// exactly one gets it, the others ErrNotFound.
	Take(ctx context.Context, key string) (Record, error)
	// Delete removes a record. A missing one is no error.
	Delete(ctx context.Context, key string) error
	// List returns up to limit live records whose key starts with prefix and
	// is greater than after, ascending by key. Fewer than limit means the end.
	// limit is at least 1. It is no snapshot: a record that is written while a
	// caller pages may be seen or not.
	List(ctx context.Context, prefix, after string, limit int) ([]Record, error)
	// Sweep removes expired records now and returns how many. Backends with
	// native expiry return 0. A store sweeps by itself too; nobody has to
	// call it.
	Sweep(ctx context.Context) (int, error)
	// Publish sends a message to every subscriber of topic on every instance,
	// best effort: it may be lost, and is never stored.
	Publish(ctx context.Context, topic string, message []byte) error
	// Subscribe calls f, one message at a time, for what is published to
	// topic until cancel is called or the store is closed. A subscriber that
	// falls behind loses the oldest messages. cancel does not wait for a call
	// of f that is under way; Close does, so f must not call Close.
	Subscribe(topic string, f func(message []byte)) (cancel func(), err error)
	// Close finishes what was begun and releases what the store holds. Further
	// calls fail with ErrClosed; closing again does nothing.
	Close() error
}
