package store

import (
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"

	"go.etcd.io/bbolt"
)

// A commit goes into the log and its layer. When a log file is full the other
// one takes over, and the full one's layer is written into the store file by a
// checkpoint in the background, in one transaction that also names where the log
// begins from then on. At any moment the store file and the log from there are
// the whole store.
//
// A store is settled when everything is in the file and the file names no log:
// so it is before the first commit, after Close, in a backup, and where the log
// has failed. A commit begins a log first where there is none.

// logKey is the key in the meta bucket of where the log begins; a settled store
// has none.
var logKey = []byte("log")

// wal is the state of the log, which Bolt.writing guards but for frames.
type wal struct {
	begun bool // the store isn't settled
	position
	files [2]*logFile
	sync  func(*os.File) error // syncData

	// keep is how full a file gets before the other takes over, and how large
	// it may stay when it is used again.
	keep int64

	// checkpoint is under way until its channel gives its outcome; nil: none.
	checkpoint chan error

	frames atomic.Int64 // written since the store was opened
}

// append makes the changes of a commit durable. writing and mu are held.
func (s *Bolt) append(changes map[string][]byte) error {
	l := &s.wal
	var failure error
	for range 2 {
		if err := s.readyLog(); err != nil {
			return errors.Join(failure, err)
		}
		frame := appendFrame(nil, l.generation, l.number, changes)
		failpoint("log-write")
		err := l.files[l.turn%2].write(frame)
		failpoint("log-written")
		if err == nil {
			l.number++
			l.frames.Add(1)
			return nil
		}
		// Whether the frame is on the disk or not, it is void once the log
		// that has it is given up. Then there is a second try: a disk that is
		// too full for a log that grows may have room in the store file.
		s.log.Error("a write to the log failed", "path", s.path, "error", err)
		failure = err
		l.begun = false
		_ = s.endLog(false) // what a file handle has met once it may report again
	}
	return failure
}

// readyLog begins a log where there is none, and has the other file take over
// from one that is full.
func (s *Bolt) readyLog() error {
	l := &s.wal
	if err := s.checkpointed(false); err != nil {
		// What is in the log stays there. Only the file can't take it.
		l.begun = false
	}
	if !l.begun {
		if err := s.settle(); err != nil {
			return err
		}
		return s.beginLog()
	}
	if l.files[l.turn%2].end < l.keep {
		return nil
	}
	// The other file is free once the last checkpoint is through.
	if err := s.checkpointed(true); err != nil {
		l.begun = false
		return err
	}
	l.turn++
	l.files[l.turn%2].reset(l.keep)
	changes, begins := s.layers.freeze(), l.position.encode()
	done := make(chan error, 1)
	l.checkpoint = done
	s.running.Go(func() {
		// The store file is not replaced before this has ended.
		err := s.writeFile(changes, begins)
		if err == nil {
			s.layers.thaw()
		}
		done <- err
	})
	return nil
}

// checkpointed returns the outcome of the checkpoint under way, if it has ended
// or wait is set.
func (s *Bolt) checkpointed(wait bool) error {
	l := &s.wal
	if l.checkpoint == nil {
		return nil
	}
	if !wait {
		select {
		case err := <-l.checkpoint:
			l.checkpoint = nil
			return err
		default:
			return nil
		}
	}
	err := <-l.checkpoint
	l.checkpoint = nil
	return err
}

// settle writes all that is in the log into the store file and gives up the log.
// writing and mu are held. Where it fails, log and layers are what they were.
func (s *Bolt) settle() error {
	_ = s.checkpointed(true) // its layer is still there if it failed
	changes := s.layers.all()
	if err := s.writeFile(changes, nil); err != nil {
		return err
	}
	s.wal.begun = false
	s.layers.clear()
	return nil
}

// beginLog has a settled store go on with a new log. writing and mu are held.
func (s *Bolt) beginLog() error {
	l := &s.wal
	for turn := range l.files {
		if l.files[turn] != nil {
			l.files[turn].reset(l.keep)
			continue
		}
		f, err := createLog(logPath(s.path, uint64(turn)), l.sync)
		if err == nil {
			err = syncDir(filepath.Dir(s.path))
		}
		if err != nil {
			return fmt.Errorf("begin a log: %w", err)
		}
		l.files[turn] = f
	}
	begins := position{number: 1}
	_, _ = rand.Read(begins.log[:]) // crypto/rand.Read never fails
	if err := s.writeBoth(begins.encode()); err != nil {
		return err
	}
	l.position, l.begun = begins, true
	return nil
}

// writeBoth names where the log begins on both meta pages of the file: should
// one be lost, the other mustn't say that there is no log, or that there is one.
func (s *Bolt) writeBoth(begins []byte) error {
	if err := s.writeFile(nil, begins); err != nil {
		return err
	}
	return s.writeFile(nil, begins)
}

// endLog removes the files of a settled store's log.
func (s *Bolt) endLog(settled bool) error {
	var errs []error
	for turn, f := range s.wal.files {
		if f == nil {
			continue
		}
		errs = append(errs, f.Close())
		if settled {
			errs = append(errs, os.Remove(logPath(s.path, uint64(turn))))
		}
		s.wal.files[turn] = nil
	}
	return errors.Join(errs...)
}

// writeFile is the one transaction that changes the store file: changes, and
// where the log begins, nil for a settled store. mu is held.
func (s *Bolt) writeFile(changes map[string][]byte, begins []byte) error {
	failpoint("checkpoint")
	err := s.db.write(changes, begins)
	failpoint("checkpointed")
	if errors.Is(err, errDamaged) {
		// bbolt stopped half-way; its own state is worth nothing now.
		return s.fail(err)
	}
	return err
}

// write changes the file in one transaction.
func (d *database) write(changes map[string][]byte, begins []byte) error {
	var tx *bbolt.Tx
	err := d.guard(func() error {
		var err error
		if tx, err = d.Begin(true); err != nil {
			return err
		}
		if err := fillIn(tx, changes, begins); err != nil {
			return errors.Join(err, tx.Rollback())
		}
		return tx.Commit()
	})
	if errors.Is(err, errDamaged) && (tx == nil || d.guard(tx.Rollback) != nil) {
		d.wedged.Store(true)
	}
	if err != nil {
		return fmt.Errorf("write to store file %q: %w", d.path, err)
	}
	return nil
}

func fillIn(tx *bbolt.Tx, changes map[string][]byte, begins []byte) error {
	records, meta := tx.Bucket(recordsBucket), tx.Bucket(metaBucket)
	for _, key := range slices.Sorted(maps.Keys(changes)) {
		var err error
		if encoded := changes[key]; encoded == nil {
			err = records.Delete([]byte(key))
		} else {
			err = records.Put([]byte(key), encoded)
		}
		if err != nil {
			return err
		}
	}
	if begins == nil {
		return meta.Delete(logKey)
	}
	return errors.Join(meta.Put(logKey, begins), meta.Put(formatKey, []byte(formatVersion)))
}
