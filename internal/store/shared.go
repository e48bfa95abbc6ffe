package store

import (
	"context"
	"errors"
	"sync"
)

// Database is what a backend does on the server that several instances share:
// the operations of a Store, each one atomic there, without what is the same for
// all of them. Keys, values and limits were checked, and the Database is not
// closed meanwhile. None keeps or returns a slice that the other side may change.
type Database interface {
	// Load reads a record, or ErrNotFound.
	Load(ctx context.Context, key string) (Versioned, error)
	// Insert writes a record that must not exist yet, else ErrExists.
	Insert(ctx context.Context, r Record) error
	// Swap replaces old, if the record still is that, by next, and returns
	// what is stored then. An expiry that next has from old is kept to the
	// moment. swapped is false where the record has changed or gone.
	Swap(ctx context.Context, old Versioned, next Record) (now Versioned, swapped bool, err error)
	// Remove deletes a record and returns it, or ErrNotFound.
	Remove(ctx context.Context, key string) (Record, error)
	// Drop deletes a record, if there is one.
	Drop(ctx context.Context, key string) error
	// Page is Store.List.
	Page(ctx context.Context, prefix, after string, limit int) ([]Record, error)
	// Clean is Store.Sweep.
	Clean(ctx context.Context) (int, error)
	// Broadcast has Deliver called on every instance, this one included.
	Broadcast(ctx context.Context, topic string, message []byte) error
	// Shut releases what the Database holds.
	Shut() error
}

// Shared is a Store in a Database.
type Shared struct {
	db      Database
	gate    gate
	swapper swapper
	broker  Broker
}

var _ Store = (*Shared)(nil)

// NewShared returns the Store in db.
func NewShared(db Database) *Shared {
	return &Shared{db: db, swapper: swapper{load: db.Load, swap: db.Swap}}
}

// enter lets an operation on a record in.
func (s *Shared) enter(ctx context.Context, errs ...error) (leave func(), err error) {
	if err := firstError(errs...); err != nil {
		return nil, err
	}
	return s.gate.enter(ctx)
}

// Get implements Store.
func (s *Shared) Get(ctx context.Context, key string) (Record, error) {
	leave, err := s.enter(ctx, CheckKey(key))
	if err != nil {
		return Record{}, err
	}
	defer leave()
	v, err := s.db.Load(ctx, key)
	if err != nil {
		return Record{}, err
	}
	s.swapper.saw(v)
	return cloneRecord(v.Record), nil
}

// Create implements Store.
func (s *Shared) Create(ctx context.Context, r Record) error {
	leave, err := s.enter(ctx, CheckKey(r.Key), CheckValue(r.Key, r.Value))
	if err != nil {
		return err
	}
	defer leave()
	return s.db.Insert(ctx, r)
}

// Update implements Store.
func (s *Shared) Update(ctx context.Context, key string, f UpdateFunc) (Record, error) {
	leave, err := s.enter(ctx, CheckKey(key))
	if err != nil {
		return Record{}, err
	}
	defer leave()
	return s.swapper.update(ctx, key, f)
}

// Take implements Store.
func (s *Shared) Take(ctx context.Context, key string) (Record, error) {
	leave, err := s.enter(ctx, CheckKey(key))
	if err != nil {
		return Record{}, err
	}
	defer leave()
	s.swapper.forget(key)
	return s.db.Remove(ctx, key)
}

// Delete implements Store.
func (s *Shared) Delete(ctx context.Context, key string) error {
	leave, err := s.enter(ctx, CheckKey(key))
	if err != nil {
		return err
	}
	defer leave()
	s.swapper.forget(key)
	return s.db.Drop(ctx, key)
}

// List implements Store.
func (s *Shared) List(ctx context.Context, prefix, after string, limit int) ([]Record, error) {
	leave, err := s.enter(ctx, CheckLimit(limit))
	if err != nil {
		return nil, err
	}
	defer leave()
	return s.db.Page(ctx, prefix, after, limit)
}

// Sweep implements Store.
func (s *Shared) Sweep(ctx context.Context) (int, error) {
	leave, err := s.enter(ctx)
	if err != nil {
		return 0, err
	}
	defer leave()
	return s.db.Clean(ctx)
}

// Publish implements Store.
func (s *Shared) Publish(ctx context.Context, topic string, message []byte) error {
	leave, err := s.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	return s.db.Broadcast(ctx, topic, message)
}

// Subscribe implements Store.
func (s *Shared) Subscribe(topic string, f func(message []byte)) (cancel func(), err error) {
	return s.broker.Subscribe(topic, f)
}

// Deliver hands a message of any instance to this one's subscribers.
func (s *Shared) Deliver(topic string, message []byte) { s.broker.Publish(topic, message) }

// Close implements Store.
func (s *Shared) Close() error {
	if !s.gate.close() {
		return nil
	}
	err := s.db.Shut()
	s.broker.Close()
	return err
}

// Versioned is a record with the mark by which its backend tells whether it has
// changed since. No two states of any record have the same mark, even if the
// record was deleted and made anew between them.
type Versioned struct {
	Record
	Version string
}

const (
	// recentMost is how many records a swapper remembers, and recentValue how
	// large they may be.
	recentMost  = 4096
	recentValue = 16 << 10
)

// swapper is Update for a Database: it reads, computes and swaps until nobody
// came in between. It remembers the records seen lately, so that most updates cost
// one round trip: a swap from an outdated record fails, and then a fresh one is
// read. Updates of one record by this process queue up here rather than fail in
// turn.
type swapper struct {
	load func(ctx context.Context, key string) (Versioned, error)
	swap func(ctx context.Context, old Versioned, next Record) (now Versioned, swapped bool, err error)

	mu     sync.Mutex
	recent map[string]Versioned
	queues map[string]*queue
}

// queue is the line of updates of one record.
type queue struct {
	turn    chan struct{} // holds one token
	waiting int
}

// update implements Store.Update.
func (s *swapper) update(ctx context.Context, key string, f UpdateFunc) (Record, error) {
	leave, err := s.enter(ctx, key)
	if err != nil {
		return Record{}, err
	}
	defer leave()
	old, remembered := s.remembered(key)
	for {
		if !remembered {
			if old, err = s.load(ctx, key); err != nil {
				s.forget(key)
				return Record{}, err
			}
		}
		value, expires, err := f(cloneRecord(old.Record))
		if err == nil {
			err = CheckValue(key, value)
		}
		if err != nil && !remembered {
			return Record{}, err
		}
		if err == nil {
			next := Record{Key: key, Value: value, Expires: expires}
			now, swapped, err := s.swap(ctx, old, next)
			if err != nil {
				s.forget(key)
				return Record{}, err
			}
			if swapped {
				s.saw(now)
				return cloneRecord(now.Record), nil
			}
		}
		// Refused, or refusing, by what was remembered: look at the record.
		remembered = false
		if err := ctx.Err(); err != nil {
			return Record{}, err
		}
	}
}

// saw remembers a record as it was read or written. The value must not be
// changed any more.
func (s *swapper) saw(v Versioned) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(v.Value) > recentValue {
		delete(s.recent, v.Key)
		return
	}
	if s.recent == nil {
		s.recent = make(map[string]Versioned)
	}
	if _, ok := s.recent[v.Key]; !ok && len(s.recent) >= recentMost {
		for key := range s.recent { // any one
			delete(s.recent, key)
			break
		}
	}
	s.recent[v.Key] = v
}

// forget drops what is remembered of a record.
func (s *swapper) forget(key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.recent, key)
}

func (s *swapper) remembered(key string) (v Versioned, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v, ok = s.recent[key]
	return v, ok
}

// enter waits for the turn to update key.
func (s *swapper) enter(ctx context.Context, key string) (leave func(), err error) {
	s.mu.Lock()
	q := s.queues[key]
	if q == nil {
		if s.queues == nil {
			s.queues = make(map[string]*queue)
		}
		q = &queue{turn: make(chan struct{}, 1)}
		q.turn <- struct{}{}
		s.queues[key] = q
	}
	q.waiting++
	s.mu.Unlock()

	left := func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if q.waiting--; q.waiting == 0 {
			delete(s.queues, key)
		}
	}
	select {
	case <-q.turn:
		return func() {
			q.turn <- struct{}{}
			left()
		}, nil
	case <-ctx.Done():
		left()
		return nil, ctx.Err()
	}
}

// gate lets operations in until it is closed, and then waits for those inside.
// The zero value is open.
type gate struct {
	mu     sync.RWMutex
	closed bool
	inside sync.WaitGroup
}

// enter lets an operation in, which calls leave when it is done, or reports
// ErrClosed, or the end of ctx.
func (g *gate) enter(ctx context.Context) (leave func(), err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	g.mu.RLock()
	defer g.mu.RUnlock()
	if g.closed {
		return nil, ErrClosed
	}
	g.inside.Add(1)
	return g.inside.Done, nil
}

// close lets nobody in any more and waits until nobody is inside. It reports
// whether it was this call that closed it.
func (g *gate) close() bool {
	g.mu.Lock()
	first := !g.closed
	g.closed = true
	g.mu.Unlock()
	g.inside.Wait()
	return first
}

// WithContext adds the end of ctx to an error that it is the cause of, which a
// driver may report in words of its own.
func WithContext(ctx context.Context, err error) error {
	if err == nil || ctx.Err() == nil || errors.Is(err, ctx.Err()) {
		return err
	}
	return errors.Join(ctx.Err(), err)
}
