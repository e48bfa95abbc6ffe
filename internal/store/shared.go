package store

import (
	"context"
	"errors"
	"sync"
)

// Versioned is a record with the mark by which its backend tells whether it has
// changed since. No two states of any record have the same mark, even if the
// record was deleted and made anew between them.
type Versioned struct {
	Record
	Version string
}

const (
	// recentMost is how many records a Swapper remembers, and recentValue how
	// large they may be.
	recentMost  = 4096
	recentValue = 16 << 10
)

// Swapper is Update for the backends that several instances share: it reads,
// computes and swaps until nobody came in between. It remembers the records seen
// lately, so that most updates cost one round trip: a swap from an outdated
// record fails, and then a fresh one is read. Updates of one record by this
// process queue up here rather than fail in turn.
type Swapper struct {
	// Load reads a record, or ErrNotFound.
	Load func(ctx context.Context, key string) (Versioned, error)
	// Swap replaces old, if the record still is that, by next, and returns
	// what is stored then. An expiry that next has from old is kept to the
	// moment. swapped is false where the record has changed or gone.
	Swap func(ctx context.Context, old Versioned, next Record) (now Versioned, swapped bool, err error)

	mu     sync.Mutex
	recent map[string]Versioned
	queues map[string]*queue
}

// queue is the line of updates of one record.
type queue struct {
	turn    chan struct{} // holds one token
	waiting int
}

// Update implements Store.Update.
func (s *Swapper) Update(ctx context.Context, key string, f UpdateFunc) (Record, error) {
	leave, err := s.enter(ctx, key)
	if err != nil {
		return Record{}, err
	}
	defer leave()
	old, remembered := s.remembered(key)
	for {
		if !remembered {
			if old, err = s.Load(ctx, key); err != nil {
				s.Forget(key)
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
			now, swapped, err := s.Swap(ctx, old, next)
			if err != nil {
				s.Forget(key)
				return Record{}, err
			}
			if swapped {
				s.Saw(now)
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

// Saw remembers a record as it was read or written. The value must not be
// changed any more.
func (s *Swapper) Saw(v Versioned) {
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

// Forget drops what is remembered of a record.
func (s *Swapper) Forget(key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.recent, key)
}

func (s *Swapper) remembered(key string) (v Versioned, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v, ok = s.recent[key]
	return v, ok
}

// enter waits for the turn to update key.
func (s *Swapper) enter(ctx context.Context, key string) (leave func(), err error) {
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

// Gate lets operations in until it is closed, and then waits for those inside.
// The zero value is open.
type Gate struct {
	mu     sync.RWMutex
	closed bool
	inside sync.WaitGroup
}

// Enter lets an operation in, which calls leave when it is done, or reports
// ErrClosed, or the end of ctx.
func (g *Gate) Enter(ctx context.Context) (leave func(), err error) {
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

// Close lets nobody in any more and waits until nobody is inside. It reports
// whether it was this call that closed it.
func (g *Gate) Close() bool {
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
