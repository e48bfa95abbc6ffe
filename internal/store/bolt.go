package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/bbolt"
)

var (
	recordsBucket = []byte("records")
	metaBucket    = []byte("meta")
	formatKey     = []byte("format")
)

// formatVersion is that of the file: which buckets it has and what they mean.
// Version 1 knew no log; it becomes version 2 when it is opened.
const (
	formatVersion = "2"
	formatBefore  = "1"
)

// Bolt is the embedded store: one file and its log, one process. A write is in
// the log and synced to the disk before its caller hears of it; writes that
// arrive while another is being synced share the next commit.
type Bolt struct {
	path    string
	options Options
	now     func() time.Time
	log     *slog.Logger
	broker  Broker

	// mu is held for reading by every use of db, and for writing by what
	// replaces it: compaction and Close.
	mu sync.RWMutex
	db *database

	// writing is held by a commit, by a backup while it begins, and by a
	// compaction. It comes before mu and guards wal.
	writing token
	wal     wal
	layers  layers

	copying sync.Mutex // held by a backup or compaction

	// failed is set once the file can't be trusted any more in this process.
	failed atomic.Pointer[error]

	// sending is held for reading while a request is put into requests, and
	// for writing by Close, which closes it.
	sending  sync.RWMutex
	closed   bool
	requests chan *request
	alone    atomic.Bool // the last commit had one write

	stop    chan struct{} // ends the sweeper
	running sync.WaitGroup
}

var _ Store = (*Bolt)(nil)

// token is a mutex that may be held while a caller's function runs. Waiting for
// it is waiting for a channel, which testing/synctest takes for idleness.
type token chan struct{}

func (t token) Lock()   { t <- struct{}{} }
func (t token) Unlock() { <-t }

func (t token) TryLock() bool {
	select {
	case t <- struct{}{}:
		return true
	default:
		return false
	}
}

// OpenBolt opens the embedded store in the file path, and makes it, in a
// directory that exists or is one level below one that does. It waits up to a
// second for another process to let go of the file. What keeps the file from
// being used is an *OpenError.
func OpenBolt(ctx context.Context, path string, o Options) (*Bolt, error) {
	o = o.withDefaults()
	db, err := openDatabase(ctx, path, o)
	if err != nil {
		return nil, err
	}
	s := &Bolt{
		path:     path,
		options:  o,
		now:      o.Now,
		log:      o.Logger,
		db:       db,
		requests: make(chan *request, 4*maxBatch),
		stop:     make(chan struct{}),
		writing:  make(token, 1),
		wal:      wal{keep: logKeep, sync: syncData},
	}
	if err := s.beginLog(); err != nil {
		return nil, errors.Join(accessError(path, err), s.endLog(true), db.close())
	}
	s.running.Go(s.commitLoop)
	if o.SweepEvery > 0 {
		s.running.Go(s.sweepLoop)
	}
	return s, nil
}

// Get implements Store.
func (s *Bolt) Get(ctx context.Context, key string) (r Record, err error) {
	if err := firstError(ctx.Err(), CheckKey(key)); err != nil {
		return Record{}, err
	}
	decode := func(b []byte) error {
		if b == nil {
			return ErrNotFound
		}
		if r, err = decodeRecord(key, b); err != nil {
			return err
		}
		if expired(Millis(r.Expires), s.now()) {
			return ErrNotFound
		}
		return nil
	}
	err = s.view(func() error {
		if b, ok := s.layers.get(key); ok {
			return decode(b)
		}
		return s.readFile(func(records *bbolt.Bucket) error { return decode(records.Get([]byte(key))) })
	})
	if err != nil {
		return Record{}, err
	}
	return r, nil
}

// List implements Store.
func (s *Bolt) List(ctx context.Context, prefix, after string, limit int) ([]Record, error) {
	if err := firstError(ctx.Err(), CheckLimit(limit)); err != nil {
		return nil, err
	}
	var found []Record
	now := s.now()
	add := func(key string, b []byte) error {
		ms, err := recordExpiry(key, b)
		if err != nil || expired(ms, now) {
			return err
		}
		r, err := decodeRecord(key, b)
		if err == nil {
			found = append(found, r)
		}
		return err
	}
	err := s.view(func() error {
		newer := s.layers.list(prefix, after)
		return s.readFile(func(records *bbolt.Bucket) error {
			c := records.Cursor()
			k, v := c.Seek([]byte(max(prefix, after)))
			if string(k) == after {
				k, v = c.Next()
			}
			for len(found) < limit {
				inFile := k != nil && bytes.HasPrefix(k, []byte(prefix))
				var err error
				switch {
				case !inFile && len(newer) == 0:
					return nil
				case !inFile || len(newer) > 0 && newer[0].key <= string(k):
					if newer[0].encoded != nil {
						err = add(newer[0].key, newer[0].encoded)
					}
					if inFile && newer[0].key == string(k) {
						k, v = c.Next()
					}
					newer = newer[1:]
				default:
					err = add(string(k), v)
					k, v = c.Next()
				}
				if err != nil {
					return err
				}
			}
			return nil
		})
	})
	if err != nil {
		return nil, err
	}
	return found, nil
}

// view runs f while the store can be read.
func (s *Bolt) view(f func() error) error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if err := s.usable(); err != nil {
		return err
	}
	return f()
}

// readFile runs f on the store file, which may lack what the layers have. mu is
// held.
func (s *Bolt) readFile(f func(records *bbolt.Bucket) error) error {
	began := false
	err := s.db.guard(func() error {
		return s.db.View(func(tx *bbolt.Tx) error {
			began = true
			return f(tx.Bucket(recordsBucket))
		})
	})
	if errors.Is(err, errDamaged) {
		if !began {
			// The meta pages are gone; bbolt holds its locks for ever.
			s.db.wedged.Store(true)
			return s.fail(err)
		}
		s.log.Error("the store file is damaged", "path", s.path, "error", err)
		return fmt.Errorf("store file %q: %w", s.path, err)
	}
	return err
}

// usable reports why no operation may start; mu is held.
func (s *Bolt) usable() error {
	if err := s.failed.Load(); err != nil {
		return *err
	}
	if s.db == nil {
		return ErrClosed
	}
	return nil
}

// fail keeps every later operation away from a file that can't be trusted.
func (s *Bolt) fail(err error) error {
	err = fmt.Errorf("store file %q is out of use until the server is started again: %w", s.path, err)
	if s.failed.CompareAndSwap(nil, &err) {
		s.log.Error("the store has failed", "path", s.path, "error", err)
	}
	return err
}

// Publish implements Store.
func (s *Bolt) Publish(ctx context.Context, topic string, message []byte) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.sending.RLock()
	defer s.sending.RUnlock()
	if s.closed {
		return ErrClosed
	}
	s.broker.Publish(topic, message)
	return nil
}

// Subscribe implements Store.
func (s *Bolt) Subscribe(topic string, f func(message []byte)) (cancel func(), err error) {
	return s.broker.Subscribe(topic, f)
}

// Close implements Store: writes that were begun are committed first. It leaves
// the store file alone, without a log; where that fails the log stays, and the
// next OpenBolt reads it.
func (s *Bolt) Close() error {
	s.sending.Lock()
	if s.closed {
		s.sending.Unlock()
		return nil
	}
	s.closed = true
	close(s.requests)
	close(s.stop)
	s.sending.Unlock()

	s.broker.Close()
	s.running.Wait()

	s.writing.Lock()
	defer s.writing.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.db == nil {
		return nil
	}
	err := s.usable()
	if err == nil {
		err = s.settle()
	}
	if err == nil {
		err = s.writeBoth(nil)
	}
	err = errors.Join(err, s.endLog(err == nil), s.db.close())
	s.db = nil
	if err != nil {
		return fmt.Errorf("close store file %q: %w", s.path, err)
	}
	return nil
}

// database is an open file with what bbolt keeps from us: its handle, and
// whether its transactions can still end.
type database struct {
	*bbolt.DB
	path   string
	file   *os.File
	grows  bool        // its map, for which bbolt waits until nobody reads; then nobody can begin to
	wedged atomic.Bool // a transaction couldn't be rolled back: DB.Close would wait for ever
}

// guard turns what bbolt does on damaged pages, a panic or a fault on the
// mapped file, into an error.
func (d *database) guard(f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		switch p := recover().(type) {
		case nil:
		case runtime.Error: // its text is about bbolt's code
			err = fmt.Errorf("%w: its pages contradict each other, or are missing", errDamaged)
		default:
			err = fmt.Errorf("%w: %v", errDamaged, p)
		}
	}()
	return f()
}

func (d *database) close() error {
	defer removeHolder(d.path)
	if d.wedged.Load() {
		// The mapping ends with the process.
		unlock(d.file)
		return d.file.Close()
	}
	return d.guard(d.DB.Close)
}
