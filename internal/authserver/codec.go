package authserver

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"hash/crc32"
	"net/url"
	"strings"
	"sync"
	"time"
)

// Prefixes of what clients hold, for secret scanners; each value ends in a
// checksum, so that a scanner can tell a real one from a look-alike offline.
const (
	prefixAccess  = "mcpc_at_"
	prefixRefresh = "mcpc_rt_"
	prefixCode    = "mcpc_code_"
	prefixDevice  = "mcpc_dc_"
	prefixSecret  = "mcpc_cs_"
	prefixClient  = "mcpc_client_"
)

// maxToken bounds what is looked at: the longest token of ours is a fraction of it.
const maxToken = 8 << 10

const secretSize = 32

// b64 is strict, so that one value has one text.
var b64 = base64.RawURLEncoding.Strict()

// encodeToken writes prefix, body and checksum.
func encodeToken(prefix string, body []byte) string {
	out := make([]byte, 0, len(prefix)+b64.EncodedLen(len(body))+6)
	out = append(out, prefix...)
	out = b64.AppendEncode(out, body)
	return string(b64.AppendEncode(out, checksum(out)))
}

// decodeToken undoes encodeToken; it appends the body to dst[:0].
func decodeToken(prefix, token string, dst []byte) ([]byte, bool) {
	if len(token) > maxToken || len(token) < len(prefix)+6 || token[:len(prefix)] != prefix {
		return nil, false
	}
	end := len(token) - 6
	dst = append(dst[:0], token...)
	var sum [4]byte
	if n, err := b64.Decode(sum[:], dst[end:]); err != nil || n != 4 || binary.BigEndian.Uint32(sum[:]) != crc32.ChecksumIEEE(dst[:end]) {
		return nil, false
	}
	// Decoding in place: the write position never overtakes the read position.
	text := dst[len(prefix):end]
	n, err := b64.Decode(text, text)
	if err != nil {
		return nil, false
	}
	return text[:n], true
}

func checksum(text []byte) []byte {
	return binary.BigEndian.AppendUint32(nil, crc32.ChecksumIEEE(text))
}

// grantName identifies a grant: its record lies under grant/ + this name. The
// subject is escaped, so that the name splits at its only slash.
type grantName string

func newGrantName(subject, id string) grantName {
	return grantName(url.PathEscape(subject) + "/" + id)
}

func (n grantName) key() string { return "grant/" + string(n) }

func (n grantName) id() string { return string(n[strings.IndexByte(string(n), '/')+1:]) }

func (n grantName) subject() string {
	escaped := string(n[:max(strings.IndexByte(string(n), '/'), 0)])
	if strings.IndexByte(escaped, '%') < 0 {
		return escaped
	}
	subject, err := url.PathUnescape(escaped)
	if err != nil {
		return escaped
	}
	return subject
}

// accessToken is the content of a sealed access token.
type accessToken struct {
	grant      grantName
	generation uint64
	client     string
	resource   string
	scopes     string // separated by single spaces
	expires    time.Time
}

const accessVersion = 1

func (ring *keyring) sealAccessToken(t accessToken) string {
	b := make([]byte, 0, 64+len(t.grant)+len(t.client)+len(t.resource)+len(t.scopes))
	b = append(b, accessVersion)
	b = binary.AppendUvarint(b, uint64(t.expires.Unix()))
	b = binary.AppendUvarint(b, t.generation)
	for _, s := range []string{string(t.grant), t.client, t.resource, t.scopes} {
		b = binary.AppendUvarint(b, uint64(len(s)))
		b = append(b, s...)
	}
	return encodeToken(prefixAccess, ring.seal(forAccessToken, b, nil))
}

// scratches are buffers to open access tokens in: every request needs one.
var scratches = sync.Pool{New: func() any { return new([1024]byte) }}

func (ring *keyring) openAccessToken(token string) (t accessToken, ok bool) {
	scratch := scratches.Get().(*[1024]byte)
	defer scratches.Put(scratch)
	body, ok := decodeToken(prefixAccess, token, scratch[:0])
	if !ok || len(body) < sealedOverhead {
		return t, false
	}
	// Decrypts over its own ciphertext, which AEAD allows for an exact overlap.
	plain, ok := ring.open(forAccessToken, body[1+24:], body, nil)
	if !ok {
		return t, false
	}
	return parseAccessToken(string(plain))
}

func parseAccessToken(s string) (t accessToken, ok bool) {
	if s == "" || s[0] != accessVersion {
		return t, false
	}
	s = s[1:]
	var expires uint64
	if expires, s, ok = cutUvarint(s); !ok || expires > 1<<40 {
		return t, false
	}
	if t.generation, s, ok = cutUvarint(s); !ok {
		return t, false
	}
	t.expires = time.Unix(int64(expires), 0)
	var grant string
	for _, field := range []*string{&grant, &t.client, &t.resource, &t.scopes} {
		var n uint64
		if n, s, ok = cutUvarint(s); !ok || n > uint64(len(s)) {
			return t, false
		}
		*field, s = s[:n], s[n:]
	}
	t.grant = grantName(grant)
	return t, s == "" && strings.Count(grant, "/") == 1
}

// cutUvarint is binary.Uvarint for a string.
func cutUvarint(s string) (v uint64, rest string, ok bool) {
	for i := 0; i < len(s) && i < binary.MaxVarintLen64; i++ {
		c := s[i]
		if i == binary.MaxVarintLen64-1 && c > 1 {
			return 0, s, false
		}
		v |= uint64(c&0x7f) << (7 * i)
		if c < 0x80 {
			return v, s[i+1:], true
		}
	}
	return 0, s, false
}

// handle is what a code or refresh token says: which grant it belongs to, the
// how-manieth of that grant it is, and its secret. The first two are sealed in
// front of the secret and bound to it, so that a handle that opens was minted
// here: an unknown one can be told from one that has been superseded.
type handle struct {
	grant  grantName
	seq    uint64
	secret []byte
}

// sealHandle is deterministic for one first key: the same successor is the
// same text however often it has to be handed out.
func (ring *keyring) sealHandle(prefix string, h handle) string {
	k := ring.keys[0]
	plain := append(binary.AppendUvarint(nil, h.seq), h.grant...)
	nonce := hmacSum(k.raw[forHandleNonce], []byte(prefix), h.secret, plain)[:24]
	return encodeToken(prefix, append(k.seal(forHandle, nonce, plain, handleAD(prefix, h.secret)), h.secret...))
}

func (ring *keyring) openHandle(prefix, token string) (h handle, ok bool) {
	body, ok := decodeToken(prefix, token, nil)
	if !ok || len(body) < sealedOverhead+secretSize {
		return h, false
	}
	cut := len(body) - secretSize
	sealed, secret := body[:cut], body[cut:]
	plain, ok := ring.open(forHandle, nil, sealed, handleAD(prefix, secret))
	if !ok {
		return h, false
	}
	seq, rest, ok := cutUvarint(string(plain))
	if !ok || strings.Count(rest, "/") != 1 {
		return h, false
	}
	return handle{grant: grantName(rest), seq: seq, secret: bytes.Clone(secret)}, true
}

func handleAD(prefix string, secret []byte) []byte { return append([]byte(prefix), secret...) }

// hash is what the store keeps of a secret. The secrets have 256 random bits,
// so nothing slower is needed.
func hash(secret []byte) []byte {
	sum := sha256.Sum256(secret)
	return sum[:]
}

// textHash is hash as a piece of a store key.
func textHash(text string) string { return b64.EncodeToString(hash([]byte(text))) }
