package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// ErrBusy reports a backup or compaction that another one stands in the way of.
var ErrBusy = errors.New("a backup or compaction of the store is under way")

// compactTx is how many bytes one transaction of a compaction copies.
const compactTx = 8 << 20

// Backup writes a copy of the store as it was at one moment to w, while the
// store goes on, and returns its size in bytes. The copy is itself a file that
// OpenBolt opens. One that stops early, by ctx, an error of w or Close, is of
// no use.
func (s *Bolt) Backup(ctx context.Context, w io.Writer) (n int64, err error) {
	if !s.copying.TryLock() {
		return 0, ErrBusy
	}
	defer s.copying.Unlock()
	s.writing.Lock()
	writing := true
	defer func() {
		if writing {
			s.writing.Unlock()
		}
	}()
	s.mu.RLock()
	defer s.mu.RUnlock()
	if err := s.usable(); err != nil {
		return 0, err
	}
	begun := func() {
		s.writing.Unlock()
		writing = false
	}
	to := &interruptible{w, ctx, s.stop}
	// The copy is of the settled store, which needs no log.
	if err = s.settle(); err == nil {
		if s.db.grows {
			n, err = s.copyAside(to, begun)
		} else {
			n, err = s.copyWhileRead(to, begun)
		}
		if err == nil {
			err = ctx.Err() // it came with the last write
		}
	}
	if err != nil {
		return n, fmt.Errorf("back up store file %q: %w", s.path, err)
	}
	return n, nil
}

// copyWhileRead writes the settled file to w in a transaction that reads, which
// keeps what it sees. It calls begun when others may write again. writing and mu
// are held.
func (s *Bolt) copyWhileRead(w io.Writer, begun func()) (n int64, err error) {
	err = s.db.guard(func() error {
		return s.db.View(func(tx *bbolt.Tx) error {
			// Where it fails now the next commit tries again.
			_ = s.beginLog()
			begun()
			var err error
			n, err = tx.WriteTo(w)
			return err
		})
	})
	return n, err
}

// copyAside is copyWhileRead where the map grows: no transaction may read for as
// long as w takes. The file is copied beside itself, while writes wait, and goes
// from there.
func (s *Bolt) copyAside(w io.Writer, begun func()) (n int64, err error) {
	f, err := os.CreateTemp(filepath.Dir(s.path), filepath.Base(s.path)+".aside-*") // mode 0600
	if err != nil {
		return 0, err
	}
	defer func() {
		_ = f.Close()
		_ = os.Remove(f.Name()) // else when the store is opened next
	}()
	err = s.db.guard(func() error {
		return s.db.View(func(tx *bbolt.Tx) error {
			_, err := tx.WriteTo(f)
			return err
		})
	})
	if err != nil {
		return 0, err
	}
	begun() // the next commit begins a log
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return 0, err
	}
	return io.Copy(w, f)
}

// CheckBackup reads all of a file that Backup wrote, without changing it, and
// returns how many records it has, expired ones included. What makes it no whole
// store is an *OpenError.
func CheckBackup(path string) (records int, err error) {
	if err := checkPath(path); err != nil {
		return 0, err
	}
	d, err := mapFile(path, bbolt.Options{ReadOnly: true})
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return 0, accessError(path, err)
	case errors.Is(err, bolterrors.ErrTimeout):
		return 0, heldError(path)
	case err != nil:
		return 0, err
	}
	defer func() { _ = d.guard(d.DB.Close) }()
	if err := d.check(slog.New(slog.DiscardHandler)); err != nil {
		return 0, err
	}
	switch begins, err := d.logBegins(); {
	case err != nil:
		return 0, err
	case begins != nil:
		return 0, &OpenError{Path: path, Problem: "is the file of a store in use, which is not all of it", Fix: "use mcp-clerk backup to copy a store"}
	}
	err = d.guard(func() error {
		return d.View(func(tx *bbolt.Tx) error {
			return tx.Bucket(recordsBucket).ForEach(func(k, v []byte) error {
				records++
				_, err := decodeRecord(string(k), v)
				return err
			})
		})
	})
	if err != nil {
		return 0, openProblem(path, err)
	}
	return records, nil
}

// interruptible fails once its context ends or the store is being closed.
type interruptible struct {
	w    io.Writer
	ctx  context.Context
	stop <-chan struct{}
}

func (i *interruptible) Write(b []byte) (int, error) {
	select {
	case <-i.ctx.Done():
		return 0, i.ctx.Err()
	case <-i.stop:
		return 0, ErrClosed
	default:
		return i.w.Write(b)
	}
}

// Compact rewrites the file without the space that is no longer used, and
// returns its size in bytes before and after. Reads go on meanwhile; writes
// wait. It needs as much disk as the store then has.
func (s *Bolt) Compact(ctx context.Context) (before, after int64, err error) {
	if err := ctx.Err(); err != nil {
		return 0, 0, err
	}
	if !s.copying.TryLock() {
		return 0, 0, ErrBusy
	}
	defer s.copying.Unlock()
	s.writing.Lock()
	defer s.writing.Unlock()

	temp, before, after, err := s.compactCopy(ctx)
	if err == nil {
		// What is in the file now begins its log with the next commit.
		err = s.swap(temp)
	}
	if err != nil {
		if temp != "" {
			_ = os.Remove(temp)
		}
		return 0, 0, fmt.Errorf("compact store file %q: %w", s.path, err)
	}
	return before, after, nil
}

// compactCopy settles the store and writes a compact copy beside the file.
func (s *Bolt) compactCopy(ctx context.Context) (temp string, before, after int64, err error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if err := s.usable(); err != nil {
		return "", 0, 0, err
	}
	if err := s.settle(); err != nil {
		return "", 0, 0, err
	}
	info, err := s.db.file.Stat()
	if err != nil {
		return "", 0, 0, err
	}
	f, err := os.CreateTemp(filepath.Dir(s.path), filepath.Base(s.path)+".compact-*") // mode 0600
	if err != nil {
		return "", 0, 0, err
	}
	temp = f.Name()
	if err := f.Close(); err != nil {
		return temp, 0, 0, err
	}
	dst, err := bbolt.Open(temp, 0o600, &bbolt.Options{Timeout: time.Nanosecond, FreelistType: bbolt.FreelistMapType, NoSync: true})
	if err != nil {
		return temp, 0, 0, err
	}
	err = s.db.guard(func() error { return bbolt.Compact(dst, s.db.DB, compactTx) })
	if err == nil {
		err = dst.Sync()
	}
	if err = errors.Join(err, dst.Close(), ctx.Err()); err != nil {
		return temp, 0, 0, err
	}
	compact, err := os.Stat(temp)
	if err != nil {
		return temp, 0, 0, err
	}
	return temp, info.Size(), compact.Size(), nil
}

// swap puts the file temp in the place of the store's.
func (s *Bolt) swap(temp string) error {
	if runtime.GOOS == "windows" {
		return s.swapClosed(temp)
	}
	// Opened, and thereby locked, before it gets the name: no other process
	// can come in between.
	db, err := openExisting(temp, s.options)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err = s.usable(); err == nil {
		err = os.Rename(temp, s.path)
	}
	if err != nil {
		_ = db.guard(db.DB.Close)
		return err
	}
	db.path = s.path
	old := s.db
	s.db = db
	if err := old.guard(old.DB.Close); err != nil {
		s.log.Warn("the file before the compaction couldn't be closed", "path", s.path, "error", err)
	}
	return syncDir(filepath.Dir(s.path))
}

// swapClosed is swap where an open file can't be replaced. Once the old one is
// closed the store has to come up with either, or fails for good.
func (s *Bolt) swapClosed(temp string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.usable(); err != nil {
		return err
	}
	if err := s.db.guard(s.db.DB.Close); err != nil {
		return s.fail(err)
	}
	renameErr := os.Rename(temp, s.path)
	db, err := openExisting(s.path, s.options)
	if err != nil {
		s.db.wedged.Store(true) // closed already
		return s.fail(err)
	}
	s.db = db
	return renameErr
}
