package credstore

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"fmt"

	"golang.org/x/crypto/chacha20poly1305"
)

// A record file is
//
//	magic (4 bytes) | format version (1) | nonce (24) | XChaCha20-Poly1305 box
//
// with magic, version and the file's own name as associated data, so that a
// record moved to another name does not open. Profile, server, generation and
// the caller's bytes are inside the one box and thereby bound to each other.
const (
	magic         = "mclk"
	formatVersion = 1
	headerSize    = len(magic) + 1 + chacha20poly1305.NonceSizeX
	keySize       = chacha20poly1305.KeySize
)

// contents is what a box holds.
type contents struct {
	Profile    string `json:"profile,omitempty"`
	Server     string `json:"server"`
	Variant    string `json:"variant,omitempty"`
	Generation uint64 `json:"generation"`
	Saved      int64  `json:"saved"` // Unix seconds
	Data       []byte `json:"data"`
}

func (c *contents) key() Key { return Key{Profile: c.Profile, Server: c.Server, Variant: c.Variant} }

// VersionError reports a record in a format this version does not know. The
// file is left as it is.
type VersionError struct {
	Path    string
	Version int
}

func (e *VersionError) Error() string {
	return fmt.Sprintf("credential %q has format version %d, which a newer version wrote: it is left untouched", e.Path, e.Version)
}

// CorruptError reports a record that can't be opened: truncated, altered,
// moved, or sealed with a key that is gone.
type CorruptError struct {
	Path   string
	Reason string
}

func (e *CorruptError) Error() string {
	return fmt.Sprintf("credential %q cannot be opened (%s)", e.Path, e.Reason)
}

func seal(key []byte, name string, c contents) ([]byte, error) {
	plain, err := json.Marshal(c)
	if err != nil {
		return nil, fmt.Errorf("seal credential: %w", err)
	}
	aead, err := chacha20poly1305.NewX(key)
	if err != nil {
		return nil, fmt.Errorf("seal credential: %w", err)
	}
	out := make([]byte, 0, headerSize+len(plain)+aead.Overhead())
	out = append(out, magic...)
	out = append(out, formatVersion)
	out = out[:headerSize]
	rand.Read(out[len(magic)+1:]) // never fails (crypto/rand)
	return aead.Seal(out, out[len(magic)+1:headerSize], plain, associated(name)), nil
}

func associated(name string) []byte {
	return append([]byte(magic+string(rune(formatVersion))), name...)
}

// sealed is a record file whose header was read.
type sealed struct {
	path       string
	nonce, box []byte
}

// split reads the header. It needs no key, so that a file of another version
// is recognised before the keyring is asked.
func split(raw []byte, path string) (sealed, error) {
	rest, ok := bytes.CutPrefix(raw, []byte(magic))
	if !ok || len(rest) == 0 {
		return sealed{}, &CorruptError{Path: path, Reason: "not a credential file"}
	}
	if rest[0] != formatVersion {
		return sealed{}, &VersionError{Path: path, Version: int(rest[0])}
	}
	if len(raw) < headerSize+chacha20poly1305.Overhead {
		return sealed{}, &CorruptError{Path: path, Reason: "truncated"}
	}
	return sealed{path: path, nonce: raw[len(magic)+1 : headerSize], box: raw[headerSize:]}, nil
}

func (s sealed) open(key []byte, name string) (*contents, error) {
	aead, err := chacha20poly1305.NewX(key)
	if err != nil {
		return nil, fmt.Errorf("open credential: %w", err)
	}
	plain, err := aead.Open(nil, s.nonce, s.box, associated(name))
	if err != nil {
		return nil, &CorruptError{Path: s.path, Reason: "damaged, or sealed with another key"}
	}
	var c contents
	if err := json.Unmarshal(plain, &c); err != nil || c.Generation == 0 {
		return nil, &CorruptError{Path: s.path, Reason: "its content makes no sense"}
	}
	return &c, nil
}
