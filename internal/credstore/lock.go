package credstore

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/gofrs/flock"
)

// lockPoll is how often a lock that is held elsewhere is tried. File locks
// have no way to wait with a deadline.
const lockPoll = 20 * time.Millisecond

// errPatience reports a lock that was not had within its patience.
var errPatience = errors.New("another process holds the lock")

// Lock takes the record's lock across processes and returns what releases it.
// Who waited 20 s (6 minutes for a pending record) for a holder that does not
// move takes a second lock file and goes on; Save then drops the result of
// whichever of the two comes late. The lock is released when its process ends,
// however it ends. Errors are ctx's and those of the file system.
func (r *Record) Lock(ctx context.Context) (unlock func(), err error) {
	if err := r.store.ensureDir(); err != nil {
		return nil, err
	}
	unlock, err = r.lockFile(ctx, ".lock", r.patience)
	if errors.Is(err, errPatience) {
		unlock, err = r.lockFile(ctx, ".lock2", r.patience)
	}
	if err != nil {
		return nil, err
	}
	return unlock, nil
}

func (r *Record) lockFile(ctx context.Context, suffix string, patience time.Duration) (unlock func(), err error) {
	return r.store.lockPath(ctx, filepath.Join(r.store.dir, r.name+r.ext+suffix), patience)
}

// lockPath always returns a func that may be called, doing nothing where the
// lock was not had.
func (s *Store) lockPath(ctx context.Context, path string, patience time.Duration) (unlock func(), err error) {
	none := func() {}
	// The file lock belongs to an open file, so that two goroutines of one
	// process exclude each other too.
	l := flock.New(path, flock.SetFlag(lockFlags), flock.SetPermissions(0o600))
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	tick := time.NewTicker(lockPoll)
	defer tick.Stop()
	for {
		ok, err := l.TryLock()
		switch {
		case ok:
			return func() { _ = l.Unlock() }, nil
		case err != nil && locksUnsupported(err):
			s.warnOnce(fmt.Sprintf("the file system of %q has no locks: processes that run at the same time may have to sign in again", s.dir))
			return none, nil
		case err != nil:
			return none, fmt.Errorf("lock %q: %w", path, err)
		}
		select {
		case <-ctx.Done():
			return none, fmt.Errorf("wait for lock: %w", ctx.Err())
		case <-deadline.C:
			return none, errPatience
		case <-tick.C:
		}
	}
}
