package credstore

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

const (
	// searchTimeout bounds what one search for the key asks of the keyring, in
	// several calls.
	searchTimeout = 5 * time.Second
	// keyLockPatience bounds the wait for another process that looks for the
	// key. It is longer than a search: who is passed by was stopped.
	keyLockPatience = 2 * keyringTimeout
)

// errKeyLost reports a keyring that works and does not hold the key that it
// should.
var errKeyLost = errors.New("the keyring does not hold its key")

// marker is the file "backend": where the key is, and which one it is. It is
// what keeps processes with and without a keyring from sealing with two keys.
type marker struct {
	Version int    `json:"version"`
	Backend string `json:"backend"`
	Account string `json:"account,omitempty"` // the key's name in the keyring
	KeyID   string `json:"key_id"`
	// Fallback says that the file was not chosen but all there was.
	Fallback bool `json:"fallback,omitempty"`
	// Earlier is the key in a keyring that was out of reach when the file took its
	// place: what it sealed is read again once the keyring is back.
	EarlierAccount string `json:"earlier_account,omitempty"`
	EarlierKeyID   string `json:"earlier_key_id,omitempty"`
}

func (s *Store) markerPath() string { return filepath.Join(s.dir, "backend") }
func (s *Store) keyPath() string    { return filepath.Join(s.dir, "key") }

// readMarker returns nil where no key was made yet, and where the marker is
// damaged: the search then starts anew and finds the key where it is.
func (s *Store) readMarker() (*marker, error) {
	raw, err := readFile(s.markerPath())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read where the key is: %w", err)
	}
	var m marker
	if err := json.Unmarshal(raw, &m); err != nil {
		return nil, nil //nolint:nilerr // a damaged marker settles nothing, like none
	}
	if m.Version > 1 {
		return nil, &VersionError{Path: s.markerPath(), Version: m.Version}
	}
	if m.Backend != BackendKeyring && m.Backend != BackendFile {
		return nil, nil
	}
	return &m, nil
}

// settles reports whether the marker's place is one that mode accepts.
func (m *marker) settles(mode string) bool {
	return m != nil && (mode == ModeAuto || mode == m.Backend)
}

// sealingKey returns the key of this state directory. forWrite says that a
// record is about to be written: then a key is made where there is none, and in
// auto mode a keyring that has gone away is replaced by the file, because the
// person has just signed in again; a mere read leaves a keyring as it is.
func (s *Store) sealingKey(ctx context.Context, forWrite bool) (key []byte, err error) {
	began := time.Now()
	s.keyMu.Lock()
	defer s.keyMu.Unlock()
	if !forWrite && s.failed != nil && s.failedAt.After(began) {
		// It failed while this caller waited for it. Were each to ask the keyring
		// for itself, the last of many would wait for minutes.
		return nil, s.failed
	}
	defer func() {
		s.failed, s.failedAt = err, time.Now()
		if ctx.Err() != nil {
			s.failed = nil // for a reason of this caller's own
		}
	}()

	// The marker is read each time: another process may have moved the key.
	m, err := s.readMarker()
	if err != nil {
		return nil, err
	}
	if s.key != nil && m.settles(s.mode) && m.KeyID == s.keyID {
		return s.key, nil
	}
	if err := s.ensureDir(); err != nil {
		return nil, err
	}
	unlock, err := s.lockPath(ctx, filepath.Join(s.dir, "key.lock"), keyLockPatience)
	if err != nil && !errors.Is(err, errPatience) {
		return nil, err
	}
	defer unlock()
	if m, err = s.readMarker(); err != nil {
		return nil, err
	}
	key, place, err := s.findKey(ctx, m, forWrite)
	if err != nil {
		return nil, err
	}
	place.Version, place.KeyID = 1, keyID(key)
	settled := false
	if m == nil || *m != place {
		if now, err := s.readMarker(); err != nil || (m == nil) != (now == nil) || m != nil && *m != *now {
			// This process was stopped, and another one went past it.
			return nil, &UnavailableError{Err: errors.Join(errors.New("another process is about it"), err)}
		}
		if err := s.writeMarker(place); err != nil {
			return nil, err
		}
		settled = true
		if m != nil && m.Backend == BackendFile && place.Backend == BackendKeyring {
			_ = remove(s.keyPath()) // it has moved
		}
	}
	// Said when it is decided; every later start would only repeat it.
	if place.Fallback && settled && s.pass != "" {
		s.warnOnce(fmt.Sprintf("no keyring can be used here: the key of the stored credentials lies beside them, in %q, sealed with your passphrase", s.keyPath()))
	} else if place.Fallback && settled {
		s.warnOnce(fmt.Sprintf("no keyring can be used here: the key of the stored credentials lies beside them, in %q, %s", s.keyPath(), readers))
	}
	s.key, s.keyID = key, place.KeyID
	return key, nil
}

// findKey returns the key and the place where it lies afterwards.
func (s *Store) findKey(ctx context.Context, m *marker, forWrite bool) ([]byte, marker, error) {
	account := s.account()
	if m != nil && m.Account != "" {
		account = m.Account
	}
	inKeyring := marker{Backend: BackendKeyring, Account: account}
	inFile := marker{Backend: BackendFile}
	expected := "" // id of the key that the keyring should hold
	if m != nil && m.Backend == BackendKeyring {
		expected = m.KeyID
	}
	asking, cancel := context.WithTimeoutCause(ctx, searchTimeout, errKeyringTimeout)
	defer cancel()

	switch {
	case s.mode == ModeFile && m != nil && m.Backend == BackendKeyring:
		// The person chose the file: the key moves, so that nobody signs in
		// again. A keyring out of reach keeps it; a new one is made then.
		key, err := keyringKey(asking, account, expected)
		switch {
		case err == nil:
			if err := s.writeKey(key); err != nil {
				return nil, marker{}, err
			}
			_ = keyringDelete(asking, account) // a copy left there opens nothing new
			return key, inFile, nil
		case !errors.Is(err, ErrNotFound):
			s.warnOnce(fmt.Sprintf("the keyring is not available (%v): earlier sign-ins sealed with its key cannot be read", err))
		}
		key, err = s.fileKey()
		return key, inFile, err

	case s.mode == ModeFile:
		if m != nil {
			inFile.EarlierAccount, inFile.EarlierKeyID = m.EarlierAccount, m.EarlierKeyID
		}
		key, err := s.fileKey()
		return key, inFile, err

	case m != nil && m.Backend == BackendFile && s.mode == ModeAuto:
		key, err := s.fileKey()
		return key, *m, err

	case m == nil && s.mode == ModeAuto && s.hasKeyFile():
		// The marker was lost; the key beside the data says who sealed it.
		key, err := s.fileKey()
		return key, inFile, err
	}

	// The keyring it is, or is to be.
	var key []byte
	var err error
	moves := m != nil && m.Backend == BackendFile
	if moves {
		if key, err = s.readKey(); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, marker{}, err
		}
		moves = err == nil
	}
	if !moves {
		key, err = keyringKey(asking, account, expected)
	}
	if moves || forWrite && errors.Is(err, ErrNotFound) {
		if key == nil {
			key = newKey()
		}
		err = keyringSet(asking, account, key)
	}
	if err == nil {
		return key, inKeyring, nil
	}
	if errors.Is(err, ErrNotFound) && !forWrite {
		return nil, marker{}, errKeyLost
	}
	if s.mode == ModeKeyring || !forWrite || ctx.Err() != nil {
		return nil, marker{}, &UnavailableError{Err: err}
	}
	key, err = s.fileKey()
	inFile.Fallback = true
	if m != nil {
		inFile.EarlierAccount, inFile.EarlierKeyID = m.Account, m.KeyID
	}
	return key, inFile, err
}

// earlierKey returns the key that records may be sealed with that were written
// before the file took the keyring's place, and nil where there is none.
func (s *Store) earlierKey(ctx context.Context) ([]byte, error) {
	s.keyMu.Lock()
	defer s.keyMu.Unlock()
	m, err := s.readMarker()
	if err != nil || m == nil || m.EarlierKeyID == "" {
		return nil, err
	}
	if s.earlier != nil && keyID(s.earlier) == m.EarlierKeyID {
		return s.earlier, nil
	}
	key, err := keyringKey(ctx, m.EarlierAccount, m.EarlierKeyID)
	if errors.Is(err, ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, &UnavailableError{Err: err}
	}
	s.earlier = key
	return key, nil
}

// account names the key of this state directory in the keyring: several
// directories of one user, as tests and profiles have them, share none.
func (s *Store) account() string {
	sum := sha256.Sum256([]byte(s.dir))
	return "credentials-" + hex.EncodeToString(sum[:8])
}

func (s *Store) hasKeyFile() bool {
	_, err := os.Lstat(s.keyPath())
	return err == nil
}

// fileKey reads the key beside the data, or makes one. A damaged file is
// replaced: what it sealed is lost either way.
func (s *Store) fileKey() ([]byte, error) {
	key, err := s.readKey()
	if err == nil {
		return key, s.reseal(key)
	}
	if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, errBadKey) {
		return nil, err
	}
	key = newKey()
	if errors.Is(err, errBadKey) {
		return key, s.writeKey(key)
	}
	content, sealErr := sealKey(key, s.pass)
	if sealErr != nil {
		return nil, sealErr
	}
	err = writeNew(s.keyPath(), content)
	if errors.Is(err, fs.ErrExist) {
		return s.readKey() // another process was first
	}
	if err != nil {
		return nil, fmt.Errorf("save key: %w", err)
	}
	return key, nil
}

var errBadKey = errors.New("damaged key file")

func (s *Store) readKey() ([]byte, error) {
	raw, err := readFile(s.keyPath())
	if err != nil {
		return nil, fmt.Errorf("read key: %w", err)
	}
	if isSealedKey(raw) {
		key, err := openKey(raw, s.keyPath(), s.pass)
		if err != nil {
			return nil, fmt.Errorf("read %q: %w", s.keyPath(), err)
		}
		return key, nil
	}
	key, err := hex.DecodeString(string(bytes.TrimSpace(raw)))
	if err != nil || len(key) != keySize {
		return nil, fmt.Errorf("read %q: %w", s.keyPath(), errBadKey)
	}
	return key, nil
}

// reseal seals a key that lies open, now that there is a passphrase.
func (s *Store) reseal(key []byte) error {
	if s.pass == "" {
		return nil
	}
	if raw, err := readFile(s.keyPath()); err != nil || isSealedKey(raw) {
		return err
	}
	return s.writeKey(key)
}

func (s *Store) writeKey(key []byte) error {
	content, err := sealKey(key, s.pass)
	if err != nil {
		return err
	}
	if err := writeFile(s.keyPath(), content); err != nil {
		return fmt.Errorf("save key: %w", err)
	}
	return nil
}

func (s *Store) writeMarker(m marker) error {
	raw, err := json.Marshal(m)
	if err == nil {
		err = writeFile(s.markerPath(), append(raw, '\n'))
	}
	if err != nil {
		return fmt.Errorf("save where the key is: %w", err)
	}
	return nil
}

func encodeKey(key []byte) []byte { return []byte(hex.EncodeToString(key) + "\n") }

func newKey() []byte {
	key := make([]byte, keySize)
	rand.Read(key) // never fails (crypto/rand)
	return key
}

// keyID tells keys apart without saying anything about them.
func keyID(key []byte) string {
	sum := sha256.Sum256(append([]byte("mcp-clerk key id\x00"), key...))
	return hex.EncodeToString(sum[:8])
}
