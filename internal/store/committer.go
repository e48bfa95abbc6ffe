package store

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync/atomic"
	"time"

	"go.etcd.io/bbolt"
)

// maxBatch is how many writes share a commit at most.
const maxBatch = 1024

// maxBatchBytes is how many bytes of new values share a commit; a batch ends
// with the write that passes it.
const maxBatchBytes = 16 << 20

// The part, one in so many, of the duration of a commit that the next one may
// wait for company, and the most of it.
const (
	gatherShare = 16
	gatherMost  = 500 * time.Microsecond
)

// request is one write on its way to a commit.
type request struct {
	key   string
	apply func(*view) (Record, error)

	// state decides between the committer and a caller whose context ends:
	// who moves it away from waiting wins.
	state atomic.Int32

	done     chan struct{} // closed when the fields below are set
	record   Record
	err      error
	panicked any // what a caller's UpdateFunc panicked with
}

const (
	waiting int32 = iota
	begun
	withdrawn
)

// view is what a request sees of the store, with the changes of those before it
// in the same commit.
type view struct {
	active, frozen map[string][]byte // the layers, as they were before the file was looked at
	records        *bbolt.Bucket     // of the store file
	changes        map[string][]byte
	bytes          int
	now            int64
}

// encoded returns the record under key, live or not; nil: none.
func (v *view) encoded(key string) []byte {
	for _, layer := range []map[string][]byte{v.changes, v.active, v.frozen} {
		if b, ok := layer[key]; ok {
			return b
		}
	}
	return v.records.Get([]byte(key))
}

// get returns the record under key, live or not.
func (v *view) get(key string) (r Record, live bool, err error) {
	b := v.encoded(key)
	if b == nil {
		return Record{}, false, nil
	}
	if r, err = decodeRecord(key, b); err != nil {
		return Record{}, false, err
	}
	ms := Millis(r.Expires)
	return r, ms == 0 || v.now < ms, nil
}

func (v *view) put(r Record) {
	b := encodeRecord(r)
	v.changes[r.Key] = b
	v.bytes += len(b)
}

func (v *view) remove(key string) {
	if v.encoded(key) != nil {
		v.changes[key] = nil
	}
}

// Create implements Store.
func (s *Bolt) Create(ctx context.Context, r Record) error {
	if err := firstError(CheckKey(r.Key), CheckValue(r.Key, r.Value)); err != nil {
		return err
	}
	_, err := s.write(ctx, r.Key, func(v *view) (Record, error) {
		// A damaged record stands for itself: it is not written over.
		if _, live, err := v.get(r.Key); err != nil {
			return Record{}, err
		} else if live {
			return Record{}, ErrExists
		}
		v.put(r)
		return Record{}, nil
	})
	return err
}

// Update implements Store. f runs in the committer, between other writes.
func (s *Bolt) Update(ctx context.Context, key string, f UpdateFunc) (Record, error) {
	if err := CheckKey(key); err != nil {
		return Record{}, err
	}
	return s.write(ctx, key, func(v *view) (Record, error) {
		old, live, err := v.get(key)
		if err != nil {
			return Record{}, err
		}
		if !live {
			return Record{}, ErrNotFound
		}
		value, expires, err := callUpdate(f, old)
		if err != nil {
			return Record{}, err
		}
		if err := CheckValue(key, value); err != nil {
			return Record{}, err
		}
		r := cloneRecord(Record{Key: key, Value: value, Expires: expires})
		v.put(r)
		return r, nil
	})
}

// Take implements Store.
func (s *Bolt) Take(ctx context.Context, key string) (Record, error) {
	if err := CheckKey(key); err != nil {
		return Record{}, err
	}
	return s.write(ctx, key, func(v *view) (Record, error) {
		old, live, err := v.get(key)
		if err != nil {
			return Record{}, err
		}
		if !live {
			return Record{}, ErrNotFound
		}
		v.remove(key)
		return old, nil
	})
}

// Delete implements Store.
func (s *Bolt) Delete(ctx context.Context, key string) error {
	if err := CheckKey(key); err != nil {
		return err
	}
	_, err := s.write(ctx, key, func(v *view) (Record, error) {
		v.remove(key)
		return Record{}, nil
	})
	return err
}

// userPanic carries a panic of an UpdateFunc from the committer back to its
// caller.
type userPanic struct{ value any }

func (p *userPanic) Error() string { return fmt.Sprintf("panic: %v", p.value) }

func callUpdate(f UpdateFunc, old Record) (value []byte, expires time.Time, err error) {
	returned := false
	defer func() {
		if returned {
			return
		}
		p := recover()
		if p == nil {
			// runtime.Goexit ends the committer, and with it every later write.
			go panic("store: an UpdateFunc must not end its goroutine")
		}
		err = &userPanic{value: p}
	}()
	value, expires, err = f(old)
	returned = true
	return value, expires, err
}

// write hands one write to the committer and waits for its outcome. A context
// that ends before the commit began takes it back.
func (s *Bolt) write(ctx context.Context, key string, apply func(*view) (Record, error)) (Record, error) {
	if err := ctx.Err(); err != nil {
		return Record{}, err
	}
	r := &request{key: key, apply: apply, done: make(chan struct{})}
	if err := s.send(ctx, r); err != nil {
		return Record{}, err
	}
	select {
	case <-r.done:
	case <-ctx.Done():
		if r.state.CompareAndSwap(waiting, withdrawn) {
			return Record{}, ctx.Err()
		}
		<-r.done
	}
	if r.panicked != nil {
		panic(r.panicked)
	}
	return r.record, r.err
}

func (s *Bolt) send(ctx context.Context, r *request) error {
	s.sending.RLock()
	defer s.sending.RUnlock()
	if s.closed {
		return ErrClosed
	}
	// Who is alone commits by itself, which saves two changes of goroutine, a
	// tenth of the time. Among others it would only get ahead of a batch.
	if s.alone.Load() && len(s.requests) == 0 && s.writing.TryLock() {
		defer s.writing.Unlock()
		s.commit([]*request{r})
		return nil
	}
	select {
	case s.requests <- r:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// commitLoop commits what has company.
func (s *Bolt) commitLoop() {
	batch := make([]*request, 0, maxBatch)
	// Of the last commit: when it ended, how long it took, how many writes
	// it had, and how many were queued when it ended.
	var ended time.Time
	var took time.Duration
	last, queued := 0, 0
	for r := range s.requests {
		batch = append(batch[:0], r)
		if last > 1 {
			s.gather(queued+last-1, ended.Add(min(took/gatherShare, gatherMost)))
		}
		// A compaction under way holds writes up here, where they can still
		// be taken back.
		s.writing.Lock()
		batch = s.fill(batch)
		start := time.Now()
		s.commit(batch)
		s.writing.Unlock()
		ended = time.Now()
		took = ended.Sub(start)
		last, queued = len(batch), len(s.requests)
		clear(batch)
	}
}

// gather gives the callers that were just answered the moment they need to
// write again. Otherwise those who wrote meanwhile and those who were answered
// take turns, each with half a batch. A lone writer is never kept.
func (s *Bolt) gather(want int, until time.Time) {
	for len(s.requests) < min(want, maxBatch-1) && time.Now().Before(until) {
		runtime.Gosched()
	}
}

// fill adds to batch what is queued already.
func (s *Bolt) fill(batch []*request) []*request {
	for len(batch) < maxBatch {
		select {
		case r, ok := <-s.requests:
			if !ok {
				return batch
			}
			batch = append(batch, r)
		default:
			return batch
		}
	}
	return batch
}

// commit brings every request of the batch to its outcome. writing is held.
func (s *Bolt) commit(batch []*request) {
	s.alone.Store(len(batch) == 1)
	live := batch[:0]
	for _, r := range batch {
		if r.state.CompareAndSwap(waiting, begun) {
			live = append(live, r)
		}
	}
	for len(live) > 0 {
		n, err := s.transact(live)
		part := live[:n]
		live = live[n:]
		switch {
		case err == nil:
		case n > 1 && s.failed.Load() == nil:
			// Nothing came into effect. One of them may be what there is no room
			// for: each gets its own chance.
			for i := range part {
				if _, err := s.transact(part[i : i+1]); err != nil {
					part[i].record, part[i].err = Record{}, err
				}
			}
		default:
			for _, r := range part {
				r.record, r.err = Record{}, err
			}
		}
		for _, r := range part {
			close(r.done)
		}
	}
}

// transact applies as many of the requests as fit, at least one, and makes what
// they change durable as one commit. Their records and errors are set; an error
// of transact stands above them.
func (s *Bolt) transact(requests []*request) (n int, err error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	n = len(requests)
	if err := s.usable(); err != nil {
		return n, err
	}
	v := &view{changes: make(map[string][]byte), now: s.now().UnixMilli()}
	v.active, v.frozen = s.layers.both()
	err = s.readFile(func(records *bbolt.Bucket) error {
		v.records = records
		for i, r := range requests {
			r.record, r.err, r.panicked = Record{}, nil, nil
			r.record, r.err = r.apply(v)
			if p, ok := errors.AsType[*userPanic](r.err); ok {
				r.panicked = p.value
			}
			if r.err != nil {
				r.record = Record{}
			}
			if v.bytes > maxBatchBytes {
				n = i + 1
				break
			}
		}
		return nil
	})
	if err != nil || len(v.changes) == 0 {
		return n, err
	}
	if err := s.append(v.changes); err != nil {
		return n, fmt.Errorf("write to the log of store file %q: %w", s.path, err)
	}
	s.layers.add(v.changes)
	return n, nil
}
