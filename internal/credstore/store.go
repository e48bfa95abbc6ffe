// Package credstore keeps small secret records on this machine for any number
// of processes of one user. It owns the 32-byte key in the operating system's
// keyring (or, where there is none, in a file beside the data), the sealed
// record files, and the locks between processes. It knows bytes, not OAuth:
// what is inside a record is its caller's business.
//
// Of the project's packages it imports secret only.
//
// The one invariant: at any moment one place, named by the file "backend",
// holds the one key that seals every record of a state directory; no process
// decides that for itself.
package credstore

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"sort"
	"strings"
	"sync"
	"time"

	"github.com/mcp-clerk/mcp-clerk/internal/secret"
)

// Modes of Options.Mode.
const (
	ModeAuto    = "auto"    // the keyring where it works, else a file
	ModeKeyring = "keyring" // the keyring or an error
	ModeFile    = "file"    // a file, without asking the keyring
)

// Backends, as Store.Backend names them.
const (
	BackendKeyring = "keyring"
	BackendFile    = "file"
	// BackendPassphrase is a file that is sealed with Options.Passphrase.
	BackendPassphrase = "passphrase"
)

// Options say where records live and where their key does.
type Options struct {
	Dir  string       // state directory; "" is DefaultDir()
	Mode string       // ModeAuto (also ""), ModeKeyring or ModeFile
	Warn func(string) // told once of each thing a person should know; may be nil
	// Passphrase seals the key where it lies in a file; "" leaves it readable to
	// whoever can read the file.
	Passphrase secret.String
}

// Store is the set of records in one state directory. It is safe for
// concurrent use, by goroutines and by processes.
type Store struct {
	dir  string // <state>/credentials
	mode string
	warn func(string)
	pass secret.String

	keyMu sync.Mutex // serialises the search for the key within the process
	key   []byte     // nil until it is known
	keyID string
	// earlier is the key before this one, of a keyring that was out of reach.
	earlier []byte
	// failed is how the last search for a reader ended, at failedAt.
	failed   error
	failedAt time.Time

	warnMu sync.Mutex
	warned map[string]bool
}

// Open returns the store of a state directory. It touches neither disk nor
// keyring; both wait for the first record that is read or written.
func Open(o Options) (*Store, error) {
	if o.Dir == "" {
		dir, err := DefaultDir()
		if err != nil {
			return nil, err
		}
		o.Dir = dir
	}
	dir, err := filepath.Abs(o.Dir)
	if err != nil {
		return nil, fmt.Errorf("find state directory %q: %w", o.Dir, err)
	}
	switch o.Mode {
	case "":
		o.Mode = ModeAuto
	case ModeAuto, ModeKeyring, ModeFile:
	default:
		return nil, fmt.Errorf("unknown credential store %q: want auto, keyring or file", o.Mode)
	}
	return &Store{
		dir:    filepath.Join(dir, "credentials"),
		mode:   o.Mode,
		warn:   o.Warn,
		pass:   o.Passphrase,
		warned: map[string]bool{},
	}, nil
}

// Dir returns the folder that holds the records.
func (s *Store) Dir() string { return s.dir }

// Backend names the place of the key, and "" while no key was made yet.
func (s *Store) Backend() string {
	m, err := s.readMarker()
	if err != nil || m == nil {
		return ""
	}
	if m.Backend == BackendFile {
		if raw, err := readFile(s.keyPath()); err == nil && isSealedKey(raw) {
			return BackendPassphrase
		}
	}
	return m.Backend
}

// Key names a record. Records of different keys share nothing.
type Key struct {
	Profile string // the user's name for an account; "" is the default one
	Server  string // URL of the server the record is for
	Variant string // distinguishes configurations of one server; "" is the plain one
}

// name is the file name of a record: a hash, because a URL may itself be
// confidential and is no safe file name.
func (k Key) name() string {
	h := sha256.New()
	for _, part := range []string{"mcp-clerk record v1", k.Profile, k.Server, k.Variant} {
		fmt.Fprintf(h, "%d:%s,", len(part), part)
	}
	return hex.EncodeToString(h.Sum(nil)[:20])
}

// Record returns the record of key, which need not exist.
func (s *Store) Record(key Key) *Record {
	return &Record{store: s, key: key, name: key.name(), ext: recordExt, patience: lockPatience}
}

// Entry is a record as List finds it.
type Entry struct {
	Key
	Saved time.Time // when it was last written
	Path  string    // its file
	Err   error     // why it can't be opened; Key is empty then
}

// List returns the records of the directory in order of server, profile and
// variant, with those that can't be opened at the end.
func (s *Store) List(ctx context.Context) ([]Entry, error) {
	paths, err := filepath.Glob(filepath.Join(s.dir, "*"+recordExt))
	if err != nil {
		return nil, fmt.Errorf("list credentials: %w", err)
	}
	entries := make([]Entry, 0, len(paths))
	var unavailable *UnavailableError
	for _, path := range paths {
		if unavailable != nil { // a keyring that hangs is not asked for each record
			entries = append(entries, Entry{Path: path, Err: unavailable})
			continue
		}
		r := &Record{store: s, name: strings.TrimSuffix(filepath.Base(path), recordExt), ext: recordExt}
		box, err := r.open(ctx)
		if errors.Is(err, fs.ErrNotExist) {
			continue // deleted meanwhile
		}
		errors.As(err, &unavailable)
		e := Entry{Path: path, Err: err}
		if err == nil {
			e.Key, e.Saved = box.key(), time.Unix(box.Saved, 0)
		}
		entries = append(entries, e)
	}
	sort.SliceStable(entries, func(i, j int) bool {
		a, b := entries[i], entries[j]
		if (a.Err == nil) != (b.Err == nil) {
			return a.Err == nil
		}
		if a.Server != b.Server {
			return a.Server < b.Server
		}
		if a.Profile != b.Profile {
			return a.Profile < b.Profile
		}
		return a.Variant < b.Variant
	})
	return entries, nil
}

// warnOnce tells the person something, once in the life of the Store.
func (s *Store) warnOnce(text string) {
	s.warnMu.Lock()
	told := s.warned[text]
	s.warned[text] = true
	s.warnMu.Unlock()
	if !told && s.warn != nil {
		s.warn(text)
	}
}
