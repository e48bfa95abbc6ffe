package authserver

import (
	"bytes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/crypto/chacha20poly1305"

	"github.com/mcp-clerk/mcp-clerk/internal/secret"
)

// ParseKeys splits a comma-separated list of keys as COOKIE_ENCRYPTION_KEY
// holds it: the first key seals, all of them open, so that a key can be
// replaced without signing anybody out. A key is 64 hex digits, as `openssl
// rand -hex 32` makes them; 32 are accepted with a warning. Keys that anybody
// can guess are refused unless the server is only reachable on loopback. Every
// fault is reported, none of them with the key's text.
func ParseKeys(list secret.String, loopback bool) (keys []secret.String, warnings []string, err error) {
	const fix = "make one with: openssl rand -hex 32"
	var faults []error
	for i, text := range strings.Split(list.Reveal(), ",") {
		text = strings.ToLower(strings.TrimSpace(text))
		if text == "" {
			continue // a trailing comma, or nothing set at all
		}
		raw, decodeErr := hex.DecodeString(text)
		switch {
		case decodeErr != nil || len(raw) != 32 && len(raw) != 16:
			faults = append(faults, fmt.Errorf("encryption key %d has %d characters and must be 64 hex digits: %s", i+1, len(text), fix))
			continue
		case guessable(raw) && !loopback:
			faults = append(faults, fmt.Errorf("encryption key %d is a published sample or can be guessed: %s", i+1, fix))
			continue
		case guessable(raw):
			warnings = append(warnings, fmt.Sprintf("encryption key %d is a published sample or can be guessed; it is accepted on loopback only: %s", i+1, fix))
		case len(raw) == 16:
			warnings = append(warnings, fmt.Sprintf("encryption key %d has 32 hex digits; 64 are recommended: %s", i+1, fix))
		}
		keys = append(keys, secret.String(text))
	}
	if len(keys) == 0 && len(faults) == 0 {
		faults = append(faults, errors.New("no encryption key is set: "+fix))
	}
	return keys, warnings, errors.Join(faults...)
}

// guessable reports a key that was written rather than drawn: text that
// repeats itself, few different bytes, or bytes that count up or down. Samples
// in templates and manuals are of these kinds; a random key is none of them but
// for a chance below 2^-40.
func guessable(raw []byte) bool {
	text := []byte(hex.EncodeToString(raw))
	for period := 1; period <= len(text)/2; period++ {
		if bytes.Equal(text[period:], text[:len(text)-period]) {
			return true
		}
	}
	seen := map[byte]bool{}
	for _, b := range raw {
		seen[b] = true
	}
	if len(seen) <= len(raw)/4 {
		return true
	}
	for _, step := range []byte{1, 0xff, 0x11, 0xef, 0x22} {
		run := 0
		for i := 1; i < len(raw); i++ {
			if raw[i]-raw[i-1] == step {
				run++
			}
		}
		if run >= len(raw)-4 {
			return true
		}
	}
	return false
}

// purpose separates what is sealed: a value of one purpose never opens as
// another. The names are part of the derivation and must not change.
type purpose int

const (
	forAccessToken purpose = iota
	forHandle
	forHandleNonce
	forSuccessor
	forForm
	forCookie
	forSignin
	forDevice
	forUserCode
	purposes
)

var purposeNames = [purposes]string{
	"access token", "grant handle", "grant handle nonce", "refresh successor", "form", "cookie", "sign-in",
	"device code", "user code",
}

// keyring seals with its first key and opens with any.
type keyring struct{ keys []*key }

type key struct {
	id   byte // tells the keys apart; a collision costs one more attempt
	aead [purposes]cipher.AEAD
	raw  [purposes][]byte
}

func newKeyring(list []secret.String) (*keyring, error) {
	ring := &keyring{}
	for _, text := range list {
		root, err := hex.DecodeString(text.Reveal())
		if err != nil {
			return nil, errors.New("encryption key is not hexadecimal")
		}
		k := &key{}
		id, err := hkdf.Key(sha256.New, root, nil, "mcp-clerk key id", 1)
		if err != nil {
			return nil, fmt.Errorf("derive key id: %w", err)
		}
		k.id = id[0]
		for p := range purposes {
			k.raw[p], err = hkdf.Key(sha256.New, root, nil, "mcp-clerk v1 "+purposeNames[p], chacha20poly1305.KeySize)
			if err != nil {
				return nil, fmt.Errorf("derive key for %q: %w", purposeNames[p], err)
			}
			k.aead[p], err = chacha20poly1305.NewX(k.raw[p])
			if err != nil {
				return nil, fmt.Errorf("key for %q: %w", purposeNames[p], err)
			}
		}
		ring.keys = append(ring.keys, k)
	}
	return ring, nil
}

// sealedOverhead is what sealing adds: key id, nonce and tag.
const sealedOverhead = 1 + chacha20poly1305.NonceSizeX + chacha20poly1305.Overhead

// seal encrypts plaintext for p, bound to ad, under a random nonce.
func (ring *keyring) seal(p purpose, plaintext, ad []byte) []byte {
	return ring.keys[0].seal(p, randomBytes(chacha20poly1305.NonceSizeX), plaintext, ad)
}

func (k *key) seal(p purpose, nonce, plaintext, ad []byte) []byte {
	out := make([]byte, 1, sealedOverhead+len(plaintext))
	out[0] = k.id
	out = append(out, nonce...)
	return k.aead[p].Seal(out, nonce, plaintext, ad)
}

// open undoes seal; it decrypts into dst, whose content is lost.
func (ring *keyring) open(p purpose, dst, sealed, ad []byte) ([]byte, bool) {
	if len(sealed) < sealedOverhead {
		return nil, false
	}
	nonce, box := sealed[1:1+chacha20poly1305.NonceSizeX], sealed[1+chacha20poly1305.NonceSizeX:]
	for _, k := range ring.keys {
		if k.id != sealed[0] {
			continue
		}
		if plain, err := k.aead[p].Open(dst[:0], nonce, box, ad); err == nil {
			return plain, true
		}
	}
	return nil, false
}

// sealSuccessor seals a refresh secret so that only who holds its ancestor can
// open it, and only on a server that holds the key (RFC 9700 section 4.14
// wants rotation; this is what lets a late ancestor be answered with the very
// token that replaced it while the store knows neither).
func (ring *keyring) sealSuccessor(ancestor, successor []byte) []byte {
	k := ring.keys[0]
	nonce := randomBytes(chacha20poly1305.NonceSizeX)
	return append(append([]byte{k.id}, nonce...), k.successorAEAD(ancestor).Seal(nil, nonce, successor, nil)...)
}

func (ring *keyring) openSuccessor(ancestor, sealed []byte) ([]byte, bool) {
	if len(sealed) < sealedOverhead {
		return nil, false
	}
	nonce, box := sealed[1:1+chacha20poly1305.NonceSizeX], sealed[1+chacha20poly1305.NonceSizeX:]
	for _, k := range ring.keys {
		if k.id != sealed[0] {
			continue
		}
		if plain, err := k.successorAEAD(ancestor).Open(nil, nonce, box, nil); err == nil {
			return plain, true
		}
	}
	return nil, false
}

func (k *key) successorAEAD(ancestor []byte) cipher.AEAD {
	aead, err := chacha20poly1305.NewX(hmacSum(k.raw[forSuccessor], ancestor))
	if err != nil {
		panic("authserver: " + err.Error()) // an HMAC-SHA256 has the length of a key
	}
	return aead
}

func hmacSum(key []byte, parts ...[]byte) []byte {
	m := hmac.New(sha256.New, key)
	for _, p := range parts {
		m.Write(p)
	}
	return m.Sum(nil)
}

// randomBytes returns n bytes from the system's generator, which does not fail
// (crypto/rand ends the process if it must).
func randomBytes(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	return b
}

// randomText returns 256 random bits as 43 base64url characters: a state, a
// nonce, a PKCE verifier (RFC 7636 section 4.1).
func randomText() string { return b64.EncodeToString(randomBytes(32)) }
