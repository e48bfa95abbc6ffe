package store

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"
)

// memorySweepEvery is how often a write to the memory store looks for expired
// records. It has no goroutine of its own.
const memorySweepEvery = time.Minute

// Memory is a store that ends with the process: for tests and servers to throw
// away.
type Memory struct {
	now    func() time.Time
	broker Broker

	mu      sync.RWMutex
	records map[string]Record
	keys    []string // those of records, sorted
	swept   time.Time
	closed  bool
}

var _ Store = (*Memory)(nil)

// NewMemory returns an empty store in memory.
func NewMemory(o Options) *Memory {
	o = o.withDefaults()
	return &Memory{now: o.Now, records: make(map[string]Record), swept: o.Now()}
}

func cloneRecord(r Record) Record {
	value := make([]byte, len(r.Value))
	copy(value, r.Value)
	return Record{Key: r.Key, Value: value, Expires: FromMillis(Millis(r.Expires))}
}

// Get implements Store.
func (m *Memory) Get(ctx context.Context, key string) (Record, error) {
	if err := firstError(ctx.Err(), CheckKey(key)); err != nil {
		return Record{}, err
	}
	m.mu.RLock()
	defer m.mu.RUnlock()
	if m.closed {
		return Record{}, ErrClosed
	}
	r, ok := m.live(key)
	if !ok {
		return Record{}, ErrNotFound
	}
	return cloneRecord(r), nil
}

// Create implements Store.
func (m *Memory) Create(ctx context.Context, r Record) error {
	if err := firstError(ctx.Err(), CheckKey(r.Key), CheckValue(r.Key, r.Value)); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return ErrClosed
	}
	if _, ok := m.live(r.Key); ok {
		return ErrExists
	}
	m.put(cloneRecord(r))
	return nil
}

// Update implements Store.
func (m *Memory) Update(ctx context.Context, key string, f UpdateFunc) (Record, error) {
	if err := firstError(ctx.Err(), CheckKey(key)); err != nil {
		return Record{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return Record{}, ErrClosed
	}
	old, ok := m.live(key)
	if !ok {
		return Record{}, ErrNotFound
	}
	value, expires, err := f(cloneRecord(old))
	if err != nil {
		return Record{}, err
	}
	if err := CheckValue(key, value); err != nil {
		return Record{}, err
	}
	r := cloneRecord(Record{Key: key, Value: value, Expires: expires})
	m.put(r)
	return cloneRecord(r), nil
}

// Take implements Store.
func (m *Memory) Take(ctx context.Context, key string) (Record, error) {
	if err := firstError(ctx.Err(), CheckKey(key)); err != nil {
		return Record{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return Record{}, ErrClosed
	}
	r, ok := m.live(key)
	if !ok {
		return Record{}, ErrNotFound
	}
	m.remove(key)
	return r, nil
}

// Delete implements Store.
func (m *Memory) Delete(ctx context.Context, key string) error {
	if err := firstError(ctx.Err(), CheckKey(key)); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return ErrClosed
	}
	m.remove(key)
	return nil
}

// List implements Store.
func (m *Memory) List(ctx context.Context, prefix, after string, limit int) ([]Record, error) {
	if err := firstError(ctx.Err(), CheckLimit(limit)); err != nil {
		return nil, err
	}
	m.mu.RLock()
	defer m.mu.RUnlock()
	if m.closed {
		return nil, ErrClosed
	}
	var found []Record
	i, _ := slices.BinarySearch(m.keys, max(prefix, after))
	for ; i < len(m.keys) && len(found) < limit; i++ {
		key := m.keys[i]
		if !strings.HasPrefix(key, prefix) {
			break
		}
		if r, ok := m.live(key); ok && key > after {
			found = append(found, cloneRecord(r))
		}
	}
	return found, nil
}

// Sweep implements Store.
func (m *Memory) Sweep(ctx context.Context) (int, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return 0, ErrClosed
	}
	return m.sweep(m.now()), nil
}

// Publish implements Store.
func (m *Memory) Publish(ctx context.Context, topic string, message []byte) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	m.mu.RLock()
	closed := m.closed
	m.mu.RUnlock()
	if closed {
		return ErrClosed
	}
	m.broker.Publish(topic, message)
	return nil
}

// Subscribe implements Store.
func (m *Memory) Subscribe(topic string, f func(message []byte)) (cancel func(), err error) {
	return m.broker.Subscribe(topic, f)
}

// Close implements Store.
func (m *Memory) Close() error {
	m.mu.Lock()
	m.closed = true
	m.records, m.keys = nil, nil
	m.mu.Unlock()
	m.broker.Close()
	return nil
}

// live returns the record under key if it has not expired; mu is held.
func (m *Memory) live(key string) (Record, bool) {
	r, ok := m.records[key]
	return r, ok && !expired(Millis(r.Expires), m.now())
}

func (m *Memory) put(r Record) {
	if now := m.now(); now.Sub(m.swept) >= memorySweepEvery {
		m.sweep(now.Add(-sweepSlack))
		m.swept = now
	}
	if _, ok := m.records[r.Key]; !ok {
		i, _ := slices.BinarySearch(m.keys, r.Key)
		m.keys = slices.Insert(m.keys, i, r.Key)
	}
	m.records[r.Key] = r
}

func (m *Memory) remove(key string) {
	if _, ok := m.records[key]; !ok {
		return
	}
	delete(m.records, key)
	i, _ := slices.BinarySearch(m.keys, key)
	m.keys = slices.Delete(m.keys, i, i+1)
}

func (m *Memory) sweep(now time.Time) (removed int) {
	m.keys = slices.DeleteFunc(m.keys, func(key string) bool {
		if !expired(Millis(m.records[key].Expires), now) {
			return false
		}
		delete(m.records, key)
		removed++
		return true
	})
	return removed
}
