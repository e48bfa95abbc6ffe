package mcphttp

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/mcp-clerk/mcp-clerk/internal/identity"
	"github.com/mcp-clerk/mcp-clerk/internal/jsonrpc"
)

const (
	recordFresh   = 800 * time.Millisecond // how old a cached record may be
	recordHeld    = 5 * time.Second        // how old while the store cannot be asked
	storeTimeout  = 2 * time.Second
	recordMargin  = time.Minute // a tombstone outlives the id, for clocks that differ
	maxSubscribed = 256         // resource subscriptions of one session
	maxURIBytes   = 32 << 10    // of all of them
)

// sessionRecord is what a session changed. Most sessions have none.
type sessionRecord struct {
	Closed    bool     `json:"closed,omitempty"`
	LogLevel  string   `json:"logLevel,omitempty"`
	Resources []string `json:"resources,omitempty"` // subscribed URIs
}

// sessionRecords reads records through a short cache, so that a session costs
// at most one read of the store in recordFresh, however often it is used.
type sessionRecords struct {
	store SessionStore
	now   func() time.Time

	mu      sync.Mutex
	entries map[string]*recordEntry
	swept   time.Time
}

// recordEntry is one cached record. It is replaced, never changed, but for the
// result of its one load.
type recordEntry struct {
	loaded chan struct{} // closed when the rest is set
	record sessionRecord
	err    error
	at     time.Time
}

func newSessionRecords(store SessionStore, now func() time.Time) *sessionRecords {
	return &sessionRecords{store: store, now: now, entries: map[string]*recordEntry{}}
}

// get returns the record of session id. Its error wraps
// identity.ErrUnavailable.
func (c *sessionRecords) get(ctx context.Context, id string) (sessionRecord, error) {
	now := c.now()
	c.mu.Lock()
	c.sweep(now)
	entry := c.entries[id]
	var old *recordEntry
	if entry != nil {
		select {
		case <-entry.loaded:
			if age := now.Sub(entry.at); age < recordFresh && age > -recordFresh {
				c.mu.Unlock()
				return entry.record, nil
			}
			old, entry = entry, nil
		default: // another caller is loading it
		}
	}
	load := entry == nil
	if load {
		entry = &recordEntry{loaded: make(chan struct{})}
		c.entries[id] = entry
	}
	c.mu.Unlock()

	if load {
		c.load(ctx, id, entry, old)
	}
	select {
	case <-entry.loaded:
		return entry.record, entry.err
	case <-ctx.Done():
		return sessionRecord{}, context.Cause(ctx)
	}
}

// load fills entry from the store, or from old while the store is down. A
// failure is not kept.
func (c *sessionRecords) load(ctx context.Context, id string, entry, old *recordEntry) {
	// Others wait for this load: it must not end with the first caller.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), storeTimeout)
	defer cancel()
	raw, err := c.store.Load(ctx, id)
	entry.at = c.now()
	if err == nil && raw != nil {
		err = json.Unmarshal(raw, &entry.record)
	}
	if err != nil {
		if old != nil && entry.at.Sub(old.at) < recordHeld {
			entry.record, entry.at = old.record, old.at
		} else {
			entry.err = fmt.Errorf("read session: %w: %w", identity.ErrUnavailable, err)
			c.mu.Lock()
			if c.entries[id] == entry {
				delete(c.entries, id)
			}
			c.mu.Unlock()
		}
	}
	close(entry.loaded)
}

// update changes the record in the store and in the cache. Its error wraps
// identity.ErrUnavailable, or is change's own.
func (c *sessionRecords) update(ctx context.Context, s *Session, change func(*sessionRecord) error) error {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	var record sessionRecord
	var refused error
	err := c.store.Update(ctx, s.ID, s.Expires.Add(recordMargin), func(old []byte) ([]byte, error) {
		record, refused = sessionRecord{}, nil
		if old != nil {
			if err := json.Unmarshal(old, &record); err != nil {
				return nil, err
			}
		}
		if refused = change(&record); refused != nil {
			return nil, refused
		}
		return json.Marshal(record)
	})
	if refused != nil {
		return refused
	}
	if err != nil {
		return fmt.Errorf("write session: %w: %w", identity.ErrUnavailable, err)
	}
	done := make(chan struct{})
	close(done)
	c.mu.Lock()
	c.entries[s.ID] = &recordEntry{loaded: done, record: record, at: c.now()}
	c.mu.Unlock()
	return nil
}

// sweep drops what has not been used for a while. c.mu is held.
func (c *sessionRecords) sweep(now time.Time) {
	if now.Sub(c.swept) < recordHeld {
		return
	}
	c.swept = now
	for id, entry := range c.entries {
		select {
		case <-entry.loaded:
			if now.Sub(entry.at) > recordHeld {
				delete(c.entries, id)
			}
		default:
		}
	}
}

var errTooManySubscriptions = &jsonrpc.Error{Code: jsonrpc.CodeInvalidParams, Message: "too many resource subscriptions"}

func subscribe(r *sessionRecord, uri string) error {
	if slices.Contains(r.Resources, uri) {
		return nil
	}
	size := len(uri)
	for _, u := range r.Resources {
		size += len(u)
	}
	if len(r.Resources) >= maxSubscribed || size > maxURIBytes {
		return errTooManySubscriptions
	}
	r.Resources = append(r.Resources, uri)
	return nil
}

func unsubscribe(r *sessionRecord, uri string) {
	r.Resources = slices.DeleteFunc(r.Resources, func(u string) bool { return u == uri })
}

// localSessions is the SessionStore of a server that is alone and may forget
// when it ends.
type localSessions struct {
	now func() time.Time

	mu      sync.Mutex
	records map[string]localRecord
	swept   time.Time
}

type localRecord struct {
	value   []byte
	expires time.Time
}

func newLocalSessions(now func() time.Time) *localSessions {
	return &localSessions{now: now, records: map[string]localRecord{}}
}

func (l *localSessions) Load(_ context.Context, id string) ([]byte, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.records[id].value, nil
}

func (l *localSessions) Update(_ context.Context, id string, expires time.Time, f func([]byte) ([]byte, error)) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	value, err := f(l.records[id].value)
	if err != nil {
		return err
	}
	now := l.now()
	if now.Sub(l.swept) > time.Minute {
		l.swept = now
		for id, r := range l.records {
			if now.After(r.expires) {
				delete(l.records, id)
			}
		}
	}
	l.records[id] = localRecord{value, expires}
	return nil
}
