package credstore

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"strings"

	"golang.org/x/crypto/argon2"
	"golang.org/x/crypto/chacha20poly1305"

	"github.com/mcp-clerk/mcp-clerk/internal/secret"
)

// A key file that is sealed with a passphrase is one line of four words:
//
//	sealed v1 SALT BOX
//
// both base64. BOX is nonce and XChaCha20-Poly1305 box, with the first two words
// as associated data, under a key that Argon2id derives from passphrase and
// SALT.
const (
	sealedKeyPrefix = "sealed v1"
	saltSize        = 16
	// The second choice of RFC 9106 section 4 takes 64 MiB, which every process
	// that a host starts would take; this is OWASP's least, 19 MiB and 2 passes.
	argonTime, argonMemory, argonThreads = 2, 19 << 10, 1
)

// PassphraseError reports a key file that the passphrase at hand does not open.
// Nothing was changed.
type PassphraseError struct {
	Path  string
	Given bool // a passphrase was given, and is another one
}

func (e *PassphraseError) Error() string {
	if e.Given {
		return fmt.Sprintf("the passphrase does not open the key %q", e.Path)
	}
	return fmt.Sprintf("the key %q is sealed with a passphrase, and none is given", e.Path)
}

func isSealedKey(raw []byte) bool { return bytes.HasPrefix(raw, []byte("sealed ")) }

// sealKey returns the content of the key file.
func sealKey(key []byte, passphrase secret.String) ([]byte, error) {
	if passphrase == "" {
		return encodeKey(key), nil
	}
	salt := make([]byte, saltSize)
	nonce := make([]byte, chacha20poly1305.NonceSizeX)
	rand.Read(salt) // never fails (crypto/rand)
	rand.Read(nonce)
	aead, err := chacha20poly1305.NewX(derive(passphrase, salt))
	if err != nil {
		return nil, fmt.Errorf("seal key: %w", err)
	}
	box := aead.Seal(nonce, nonce, key, []byte(sealedKeyPrefix))
	encode := base64.StdEncoding.EncodeToString
	return []byte(sealedKeyPrefix + " " + encode(salt) + " " + encode(box) + "\n"), nil
}

// openKey is the reverse of sealKey for a sealed one.
func openKey(raw []byte, path string, passphrase secret.String) ([]byte, error) {
	words := strings.Fields(string(raw))
	if len(words) != 4 || words[0]+" "+words[1] != sealedKeyPrefix {
		return nil, &VersionError{Path: path, Version: 0}
	}
	salt, saltErr := base64.StdEncoding.DecodeString(words[2])
	box, boxErr := base64.StdEncoding.DecodeString(words[3])
	if saltErr != nil || boxErr != nil || len(salt) != saltSize || len(box) != chacha20poly1305.NonceSizeX+keySize+chacha20poly1305.Overhead {
		return nil, errBadKey
	}
	if passphrase == "" {
		return nil, &PassphraseError{Path: path}
	}
	aead, err := chacha20poly1305.NewX(derive(passphrase, salt))
	if err != nil {
		return nil, fmt.Errorf("open key: %w", err)
	}
	key, err := aead.Open(nil, box[:chacha20poly1305.NonceSizeX], box[chacha20poly1305.NonceSizeX:], []byte(sealedKeyPrefix))
	if err != nil {
		return nil, &PassphraseError{Path: path, Given: true}
	}
	return key, nil
}

func derive(passphrase secret.String, salt []byte) []byte {
	return argon2.IDKey([]byte(passphrase.Reveal()), salt, argonTime, argonMemory, argonThreads, chacha20poly1305.KeySize)
}
