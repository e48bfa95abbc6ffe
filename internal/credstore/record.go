package credstore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"time"
)

const (
	recordExt  = ".cred"
	pendingExt = ".pending"

	// lockPatience is how long a process waits for another one's refresh before
	// it takes the second lock file and goes on: the holder may be stopped.
	lockPatience = 20 * time.Second
	// pendingPatience is the same for a sign-in, which a person takes part in.
	pendingPatience = 6 * time.Minute
	// writePatience bounds the wait for the moment in which another process
	// compares and renames.
	writePatience = 3 * time.Second
)

// Record is one sealed file and the lock beside it.
type Record struct {
	store    *Store
	key      Key
	name     string
	ext      string
	patience time.Duration
}

// Pending returns the record that lies beside this one for work under way
// (a sign-in), with a lock of its own. List does not show it.
func (r *Record) Pending() *Record {
	return &Record{store: r.store, key: r.key, name: r.name, ext: pendingExt, patience: pendingPatience}
}

// Backend names the place of the key that seals this record; see Store.Backend.
func (r *Record) Backend() string { return r.store.Backend() }

// Load returns the content and its generation. A record that does not exist,
// or that is damaged beyond opening (truncated, altered, moved from another
// name, sealed with a lost key), is nil data of generation 0; the second case
// is told to Options.Warn. Errors are *UnavailableError (the key can't be
// reached just now), *VersionError (written by a newer version) and those of
// the file system.
func (r *Record) Load(ctx context.Context) (data []byte, generation uint64, err error) {
	box, err := r.open(ctx)
	var corrupt *CorruptError
	switch {
	case err == nil:
		return box.Data, box.Generation, nil
	case errors.Is(err, fs.ErrNotExist):
		return nil, 0, nil
	case errors.As(err, &corrupt):
		r.store.warnOnce(fmt.Sprintf("%v: it is not used", err))
		return nil, 0, nil
	default:
		return nil, 0, err
	}
}

// Save replaces the record if its generation still is the given one (0: there
// is none), and returns the new generation. ok is false, and nothing is
// written, if another process saved or deleted it meanwhile.
func (r *Record) Save(ctx context.Context, data []byte, generation uint64) (next uint64, ok bool, err error) {
	if err := r.store.ensureDir(); err != nil {
		return 0, false, err
	}
	// Compare and rename must not interleave with another process's. Unlike
	// Lock this is held for no longer than a write takes, so that whoever does
	// not get it in time faces a stopped process and may go on.
	unlock, err := r.lockFile(ctx, ".write", writePatience)
	if err != nil && !errors.Is(err, errPatience) {
		return 0, false, err
	}
	defer unlock()

	var current uint64
	box, err := r.open(ctx)
	var corrupt *CorruptError
	var unavailable *UnavailableError
	switch {
	case err == nil:
		current = box.Generation
	case errors.Is(err, fs.ErrNotExist), errors.As(err, &corrupt):
	case errors.As(err, &unavailable) && generation == 0:
		// A new sign-in: what lies there was sealed with a key out of reach.
	default:
		return 0, false, err
	}
	if current != generation {
		return 0, false, nil
	}
	now := time.Now()
	next = generation + 1
	if generation == 0 {
		// A record that was deleted and made anew must not repeat generations
		// that a slow process still holds.
		next = uint64(now.UnixMicro())
	}
	key, err := r.store.sealingKey(ctx, true)
	if err != nil {
		return 0, false, err
	}
	raw, err := seal(key, r.name+r.ext, contents{
		Profile: r.key.Profile, Server: r.key.Server, Variant: r.key.Variant,
		Generation: next, Saved: now.Unix(), Data: data,
	})
	if err != nil {
		return 0, false, err
	}
	if err := writeFile(r.path(), raw); err != nil {
		return 0, false, fmt.Errorf("save credential: %w", err)
	}
	return next, true, nil
}

// Delete removes the record. One that does not exist is no error; one that a
// newer version wrote is left, with a *VersionError.
func (r *Record) Delete(ctx context.Context) error {
	if r.ext == recordExt {
		r.Note().remove()
	}
	raw, err := readFile(r.path())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		var version *VersionError
		if _, err := split(raw, r.path()); errors.As(err, &version) {
			return err
		}
	}
	unlock, err := r.lockFile(ctx, ".write", writePatience)
	if err != nil && !errors.Is(err, errPatience) {
		return err
	}
	defer unlock()
	if err := remove(r.path()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("delete credential: %w", err)
	}
	return syncDir(filepath.Dir(r.path()))
}

func (r *Record) path() string { return filepath.Join(r.store.dir, r.name+r.ext) }

func (r *Record) open(ctx context.Context) (*contents, error) {
	path := r.path()
	raw, err := readFile(path)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		return nil, fmt.Errorf("read credential: %w", err)
	}
	sealed, err := split(raw, path)
	if err != nil {
		return nil, err
	}
	key, err := r.store.sealingKey(ctx, false)
	if errors.Is(err, errKeyLost) {
		return nil, &CorruptError{Path: path, Reason: err.Error()}
	}
	if err != nil {
		return nil, err
	}
	box, err := sealed.open(key, r.name+r.ext)
	var corrupt *CorruptError
	if !errors.As(err, &corrupt) {
		return box, err
	}
	if key, keyErr := r.store.earlierKey(ctx); keyErr != nil {
		return nil, keyErr
	} else if key != nil {
		return sealed.open(key, r.name+r.ext)
	}
	return nil, err
}
