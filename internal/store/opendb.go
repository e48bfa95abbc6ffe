package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// OpenError says why the file of an embedded store can't be used, and what to
// do about it.
type OpenError struct {
	Path    string
	Problem string // what is wrong, as the end of a sentence about the file
	Fix     string // what to do, as an instruction
	Err     error  // the cause, may be nil
}

func (e *OpenError) Error() string {
	return fmt.Sprintf("store file %q %s: %s", e.Path, e.Problem, e.Fix)
}

// Unwrap returns the cause.
func (e *OpenError) Unwrap() error { return e.Err }

// Hint returns the fix alone.
func (e *OpenError) Hint() string { return e.Fix }

const (
	// lockWait is how long a process waits for its predecessor to let go.
	lockWait  = time.Second
	lockRetry = 20 * time.Millisecond

	// growStep is how many bytes the file grows by at once.
	growStep = 1 << 20

	restoreFix = "restore a backup in its place, or move it away to start with an empty store, with which everybody has to sign in again"
)

// mapSize is how much of the address space the file may use before it must be
// mapped anew, which a backup under way would hold up. It costs no memory. On
// Windows the file itself would be made that large.
func (o Options) mapSize() int {
	if strconv.IntSize < 64 || runtime.GOOS == "windows" || o.smallMap {
		return 0
	}
	size := int64(8 << 30)
	return int(size)
}

// openDatabase opens the file path, made where there is none, and takes it for
// this process.
func openDatabase(ctx context.Context, path string, o Options) (*database, error) {
	if err := checkPath(path); err != nil {
		return nil, err
	}
	deadline := time.Now().Add(lockWait)
	created := false
	for {
		db, err := openExisting(path, o)
		switch {
		case err == nil:
			if err := recoverLog(db, o.Logger); err != nil {
				return nil, errors.Join(err, db.guard(db.DB.Close))
			}
			removeLeftovers(path)
			if err := writeHolder(path, time.Now()); err != nil {
				o.Logger.Warn("who holds the store file can't be written beside it", "path", path, "error", err)
			}
			return db, nil
		case errors.Is(err, bolterrors.ErrTimeout):
			if !time.Now().Before(deadline) || ctx.Err() != nil {
				return nil, heldError(path)
			}
			time.Sleep(lockRetry)
		case errors.Is(err, fs.ErrNotExist):
			if created {
				return nil, accessError(path, err) // a link to nowhere
			}
			created = true
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			if err := createDatabase(path, o); err != nil {
				return nil, err
			}
		default:
			return nil, err
		}
	}
}

// checkPath looks at what is there before anything is opened or made.
func checkPath(path string) error {
	if path == "" {
		return &OpenError{Problem: "has no name", Fix: "name a file, as in bolt:/var/lib/mcp-clerk/store.db"}
	}
	switch info, err := os.Stat(path); {
	case err == nil && info.IsDir():
		return &OpenError{Path: path, Problem: "is a directory", Fix: fmt.Sprintf("name a file in it, as in bolt:%s", filepath.Join(path, "store.db"))}
	case err == nil && !info.Mode().IsRegular():
		return &OpenError{Path: path, Problem: "is not a regular file", Fix: "name a file on a local disk"}
	case err == nil && info.Size() == 0:
		// A store is made under another name, so this one lost its content.
		return &OpenError{Path: path, Problem: "is empty, which a store never is", Fix: restoreFix}
	case err == nil || errors.Is(err, fs.ErrNotExist):
		return nil
	default:
		return accessError(path, err)
	}
}

// openExisting locks, maps and checks the file. Its errors are *OpenErrors but
// for fs.ErrNotExist and bbolt's ErrTimeout.
func openExisting(path string, o Options) (*database, error) {
	d, err := mapFile(path, bbolt.Options{InitialMmapSize: o.mapSize()})
	if err != nil {
		return nil, err
	}
	d.AllocSize = growStep
	if err := d.check(o.Logger); err != nil {
		_ = d.guard(d.DB.Close)
		return nil, err
	}
	if info, err := d.file.Stat(); err == nil && info.Mode().Perm()&0o077 != 0 && runtime.GOOS != "windows" {
		err := d.file.Chmod(0o600)
		o.Logger.Warn("the store file was open to other users", "path", path, "mode", info.Mode().Perm(), "error", err)
	}
	return d, nil
}

// mapFile locks and maps the file. Its errors are as openExisting's.
func mapFile(path string, options bbolt.Options) (*database, error) {
	d := &database{path: path}
	options.Timeout = time.Nanosecond // one try
	options.FreelistType = bbolt.FreelistMapType
	options.NoStatistics = true
	options.OpenFile = func(name string, flag int, mode fs.FileMode) (*os.File, error) {
		f, err := os.OpenFile(name, flag&^os.O_CREATE, mode)
		d.file = f
		return f, err
	}
	open := func() (err error) {
		d.DB, err = bbolt.Open(path, 0o600, &options)
		return err
	}
	err := d.guard(open)
	if errors.Is(err, syscall.ENOMEM) {
		options.InitialMmapSize = 0 // the address space is limited
		err = d.guard(open)
	}
	d.grows = options.InitialMmapSize == 0
	if err != nil {
		if d.file != nil && errors.Is(err, errDamaged) { // else bbolt has closed it
			unlock(d.file)
			_ = d.file.Close()
		}
		return nil, openProblem(path, err)
	}
	return d, nil
}

// check reads the pages, then what is in them.
func (d *database) check(log *slog.Logger) error {
	if err := d.verify(log); err != nil {
		return openProblem(d.path, err)
	}
	var version string
	err := d.guard(func() error {
		return d.View(func(tx *bbolt.Tx) error {
			if b := tx.Bucket(metaBucket); b != nil && tx.Bucket(recordsBucket) != nil {
				version = string(b.Get(formatKey))
			}
			return nil
		})
	})
	switch {
	case err != nil:
		return openProblem(d.path, err)
	case version == "":
		return &OpenError{Path: d.path, Problem: "is a bbolt database but no store of this program", Fix: "name another file"}
	case version != formatVersion && version != formatBefore:
		return &OpenError{Path: d.path, Problem: fmt.Sprintf("has the format %q, which this version doesn't know", version),
			Fix: "start the newer version that wrote it"}
	}
	return nil
}

// recoverLog writes into the file what a process that didn't close it has left in
// the log.
func recoverLog(d *database, logger *slog.Logger) error {
	begins, err := d.logBegins()
	if err != nil || begins == nil {
		return err
	}
	from, err := decodePosition(begins)
	if err != nil {
		return openProblem(d.path, err)
	}
	changes, err := readLog(d.path, from)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return &OpenError{Path: d.path, Problem: fmt.Sprintf("was not closed, and a part of its log is missing (%v)", err),
			Fix: fmt.Sprintf("put %s and %s back beside it, or %s", logPath(d.path, 0), logPath(d.path, 1), restoreFix), Err: err}
	case errors.Is(err, errDamaged):
		return &OpenError{Path: d.path, Problem: fmt.Sprintf("was not closed, and its log is damaged (%v)", err), Fix: restoreFix, Err: err}
	case err != nil:
		return accessError(d.path, err)
	}
	if err := d.write(changes, nil); err != nil {
		return accessError(d.path, err)
	}
	if len(changes) > 0 {
		logger.Info("the store was not closed; what was in its log is in the file now", "path", d.path, "records", len(changes))
	}
	return nil
}

// logBegins returns where the file says that its log begins; nil: it is settled.
func (d *database) logBegins() (begins []byte, err error) {
	err = d.guard(func() error {
		return d.View(func(tx *bbolt.Tx) error {
			begins = bytes.Clone(tx.Bucket(metaBucket).Get(logKey))
			return nil
		})
	})
	if err != nil {
		return nil, openProblem(d.path, err)
	}
	return begins, nil
}

// createDatabase makes an empty store under another name first, so that under
// path there is a whole one or none.
func createDatabase(path string, o Options) error {
	dir := filepath.Dir(path)
	if err := makeDir(path, dir, o.Logger); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, filepath.Base(path)+".new-*") // mode 0600
	if err != nil {
		return accessError(path, err)
	}
	temp := f.Name()
	defer func() { _ = os.Remove(temp) }()
	if err := f.Close(); err != nil {
		return accessError(path, err)
	}
	if err := initDatabase(temp); err != nil {
		return accessError(path, err)
	}
	if err := os.Link(temp, path); err != nil {
		if _, statErr := os.Lstat(path); statErr == nil {
			return nil // another process was faster: its store is the one to use
		}
		// A file system without hard links.
		if err := os.Rename(temp, path); err != nil {
			return accessError(path, err)
		}
	}
	if err := syncDir(dir); err != nil {
		return accessError(path, err)
	}
	return nil
}

// makeDir makes the directory of the store, but not those above it: where they
// are missing, a disk may not be mounted.
func makeDir(path, dir string, log *slog.Logger) error {
	if _, err := os.Stat(dir); err == nil {
		return nil
	}
	switch err := os.Mkdir(dir, 0o700); {
	case err == nil:
		log.Info("made the directory of the store", "path", dir)
		return nil
	case errors.Is(err, fs.ErrExist):
		return nil
	case errors.Is(err, fs.ErrNotExist):
		return &OpenError{Path: path, Problem: fmt.Sprintf("can't be made: the directory %q doesn't exist", filepath.Dir(dir)),
			Fix: fmt.Sprintf("make it (mkdir -p -m 700 %q), or check that its disk is mounted", dir), Err: err}
	default:
		return accessError(path, err)
	}
}

func initDatabase(path string) error {
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: time.Nanosecond, FreelistType: bbolt.FreelistMapType})
	if err != nil {
		return err
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		meta, err := tx.CreateBucket(metaBucket)
		if err != nil {
			return err
		}
		if _, err := tx.CreateBucket(recordsBucket); err != nil {
			return err
		}
		return meta.Put(formatKey, []byte(formatVersion))
	})
	return errors.Join(err, db.Close())
}

// removeLeftovers removes what a process left that was killed while it made,
// compacted or backed up the store. The lock on the store is held.
func removeLeftovers(path string) {
	for _, kind := range []string{".new-", ".compact-", ".aside-"} {
		left, err := filepath.Glob(escapeGlob(path) + kind + "*")
		if err != nil {
			continue
		}
		for _, name := range left {
			_ = os.Remove(name)
		}
	}
}

func escapeGlob(path string) string {
	if runtime.GOOS == "windows" {
		return path // Glob has no escapes there
	}
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(path)
}

// syncDir makes a new name in dir durable.
func syncDir(dir string) error {
	if runtime.GOOS == "windows" {
		return nil // a directory can't be synced there
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = d.Sync()
	if errors.Is(err, syscall.EINVAL) || errors.Is(err, errors.ErrUnsupported) {
		err = nil // a file system that can't
	}
	return errors.Join(err, d.Close())
}

// openProblem says what an error of opening means.
func openProblem(path string, err error) error {
	switch {
	case errors.Is(err, bolterrors.ErrTimeout), errors.Is(err, fs.ErrNotExist):
		return err
	case errors.Is(err, bolterrors.ErrInvalid), errors.Is(err, bolterrors.ErrChecksum), errors.Is(err, bolterrors.ErrVersionMismatch),
		errors.Is(err, errDamaged):
		return &OpenError{Path: path, Problem: fmt.Sprintf("is damaged or no store at all (%v)", err), Fix: restoreFix, Err: err}
	case strings.Contains(err.Error(), "file size too small"):
		return &OpenError{Path: path, Problem: fmt.Sprintf("is cut off (%v)", err), Fix: restoreFix, Err: err}
	}
	return accessError(path, err)
}

// accessError says what an error of the file system means.
func accessError(path string, err error) error {
	problem, fix := fmt.Sprintf("can't be opened (%v)", err), "check the path and its disk, or name another path"
	switch {
	case errors.Is(err, fs.ErrPermission):
		problem = fmt.Sprintf("can't be read and written by this user (%v)", err)
		fix = fmt.Sprintf("give user %s the file and its directory (chown, chmod u+rw), or name another path", userName())
	case errors.Is(err, syscall.EROFS):
		problem = "is on a file system that is mounted read-only"
		fix = "mount it writable, or name another path"
	case errors.Is(err, syscall.ENOSPC):
		problem = "can't be made: the disk is full"
		fix = "make room, or name a path on another disk"
	case errors.Is(err, syscall.ENOTDIR):
		problem = fmt.Sprintf("can't be opened (%v)", err)
		fix = "a part of the path is a file: name another path"
	}
	return &OpenError{Path: path, Problem: problem, Fix: fix, Err: err}
}

// userName names the user of this process for a hint.
func userName() string {
	if uid := os.Getuid(); uid >= 0 {
		return strconv.Itoa(uid)
	}
	return "of this process" // Windows
}
