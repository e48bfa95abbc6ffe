package mcphttp

import (
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"golang.org/x/crypto/chacha20poly1305"

	"github.com/mcp-clerk/mcp-clerk/internal/identity"
	"github.com/mcp-clerk/mcp-clerk/internal/jsonrpc"
)

// The revisions. Session ids hold an index into legacyVersions, so that list
// only ever grows at its end. Revision 2024-11-05 knows no Streamable HTTP, but
// clients built for it speak it here all the same.
const (
	modernVersion = "2026-07-28"
	latestLegacy  = "2025-11-25"
	batchVersion  = "2025-03-26" // the only one with JSON-RPC batches
	sseVersion    = "2024-11-05" // the only one with HTTP+SSE
)

var legacyVersions = []string{sseVersion, batchVersion, "2025-06-18", latestLegacy}

// SupportedVersions are the protocol revisions served on the endpoint, newest
// first, as UnsupportedProtocolVersionError lists them.
var SupportedVersions = []string{modernVersion, latestLegacy, "2025-06-18", batchVersion}

// sseVersions are the revisions served over HTTP+SSE: that which has it, and
// those after it whose clients may still use it.
var sseVersions = []string{latestLegacy, "2025-06-18", batchVersion, sseVersion}

func isLegacy(version string) bool { return slices.Contains(legacyVersions, version) }

const (
	maxSessionID  = 512
	maxClientName = 64
	maxClientVer  = 32
	sessionFormat = 1
	idBytes       = 16 // of the nonce, shown as Session.ID
)

var errBadSession = errors.New("no such session")

// sessionCodec seals sessions into the value of Mcp-Session-Id. Subject and
// grant are the additional data of the seal: the id of another user, or of
// another grant of the same user, does not open.
type sessionCodec struct {
	aeads []cipher.AEAD // the first one seals
}

func newSessionCodec(keys [][]byte) (*sessionCodec, error) {
	c := &sessionCodec{}
	for _, key := range keys {
		if len(key) < 16 {
			return nil, errors.New("session key is shorter than 16 bytes")
		}
		derived, err := hkdf.Key(sha256.New, key, nil, "mcp-clerk mcp session id v1", chacha20poly1305.KeySize)
		if err != nil {
			return nil, fmt.Errorf("derive session key: %w", err)
		}
		aead, err := chacha20poly1305.NewX(derived)
		if err != nil {
			return nil, fmt.Errorf("make session cipher: %w", err)
		}
		c.aeads = append(c.aeads, aead)
	}
	if len(c.aeads) == 0 {
		return nil, errors.New("no session key")
	}
	return c, nil
}

// newNonce draws the random part of a session id, which is also its name.
func newNonce() []byte {
	nonce := make([]byte, chacha20poly1305.NonceSizeX)
	rand.Read(nonce)
	return nonce
}

func sessionName(nonce []byte) string { return hex.EncodeToString(nonce[:idBytes]) }

// appendBinding appends what ties a session to a user and a grant.
func appendBinding(ad []byte, subject, grant string) []byte {
	ad = binary.AppendUvarint(ad, uint64(len(subject)))
	ad = append(ad, subject...)
	return append(ad, grant...)
}

// seal returns the header value for s under nonce. It is at most 200 bytes.
func (c *sessionCodec) seal(s *Session, nonce []byte) (string, error) {
	version := slices.Index(legacyVersions, s.Version)
	if version < 0 {
		return "", fmt.Errorf("seal session: unknown version %q", s.Version)
	}
	plain := make([]byte, 0, 128)
	plain = append(plain, sessionFormat, byte(version))
	plain = binary.BigEndian.AppendUint16(plain, uint16(s.Capabilities))
	plain = binary.BigEndian.AppendUint64(plain, uint64(s.Expires.Unix()))
	for _, text := range []string{cut(s.ClientName, maxClientName), cut(s.ClientVersion, maxClientVer)} {
		plain = append(plain, byte(len(text)))
		plain = append(plain, text...)
	}
	out := make([]byte, 0, len(nonce)+len(plain)+chacha20poly1305.Overhead)
	out = append(out, nonce...)
	out = c.aeads[0].Seal(out, nonce, plain, appendBinding(nil, s.Subject, s.Grant))
	return base64.RawURLEncoding.EncodeToString(out), nil
}

// scratches are buffers to open session ids in: nearly every request has one.
var scratches = sync.Pool{New: func() any { return new([3 * maxSessionID]byte) }}

var strictURL = base64.RawURLEncoding.Strict()

// open returns the session that value names for the user and grant given, or
// errBadSession: forged, another's, or expired at now.
func (c *sessionCodec) open(value, subject, grant string, now time.Time) (*Session, error) {
	if len(value) > maxSessionID {
		return nil, errBadSession
	}
	scratch := scratches.Get().(*[3 * maxSessionID]byte) //nolint:forcetypeassert // what New returns
	defer scratches.Put(scratch)
	first, second, third := scratch[:0:maxSessionID], scratch[maxSessionID:maxSessionID:2*maxSessionID], scratch[2*maxSessionID:2*maxSessionID]
	raw, err := strictURL.AppendDecode(first, append(second, value...))
	if err != nil || len(raw) < chacha20poly1305.NonceSizeX+chacha20poly1305.Overhead {
		return nil, errBadSession
	}
	nonce, sealed := raw[:chacha20poly1305.NonceSizeX], raw[chacha20poly1305.NonceSizeX:]
	ad := appendBinding(second, subject, grant)
	for _, aead := range c.aeads {
		plain, err := aead.Open(third, nonce, sealed, ad)
		if err != nil {
			continue
		}
		s := &Session{ID: sessionName(nonce), Subject: subject, Grant: grant}
		if !s.decode(plain) || !now.Before(s.Expires) {
			return nil, errBadSession
		}
		return s, nil
	}
	return nil, errBadSession
}

func (s *Session) decode(b []byte) bool {
	if len(b) < 12 || b[0] != sessionFormat || int(b[1]) >= len(legacyVersions) {
		return false
	}
	s.Version = legacyVersions[b[1]]
	s.Capabilities = Capability(binary.BigEndian.Uint16(b[2:]))
	s.Expires = time.Unix(int64(binary.BigEndian.Uint64(b[4:])), 0)
	b = b[12:]
	for _, text := range []*string{&s.ClientName, &s.ClientVersion} {
		if len(b) == 0 || len(b) < 1+int(b[0]) {
			return false
		}
		*text, b = string(b[1:1+b[0]]), b[1+b[0]:]
	}
	return len(b) == 0
}

// cut shortens s to n bytes at a character boundary.
func cut(s string, n int) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

// newSession makes the session that initialize with these params asks for.
// Its version is what the client proposed if that is served, else the latest;
// the answer of the handler decides in the end.
func newSession(name string, p *identity.Principal, params json.RawMessage, expires time.Time) *Session {
	s := &Session{ID: name, Version: latestLegacy, Expires: expires}
	if p != nil {
		s.Subject, s.Grant = p.Subject, p.Grant
	}
	if v, _ := jsonrpc.LookupString(params, "protocolVersion"); isLegacy(v) {
		s.Version = v
	}
	if v, ok := jsonrpc.LookupString(params, "clientInfo", "name"); ok {
		s.ClientName = cut(v, maxClientName)
	}
	if v, ok := jsonrpc.LookupString(params, "clientInfo", "version"); ok {
		s.ClientVersion = cut(v, maxClientVer)
	}
	if caps, ok := jsonrpc.Lookup(params, "capabilities"); ok {
		s.Capabilities = capabilities(caps)
	}
	return s
}

// capabilities reads the bits of a legacy ClientCapabilities object.
func capabilities(caps json.RawMessage) Capability {
	var c Capability
	has := func(bit Capability, path ...string) {
		if v, ok := jsonrpc.Lookup(caps, path...); ok && v[0] == '{' {
			c |= bit
		}
	}
	has(CapRoots, "roots")
	if v, ok := jsonrpc.Lookup(caps, "roots", "listChanged"); ok && string(v) == "true" {
		c |= CapRootsListChanged
	}
	has(CapSampling, "sampling")
	has(CapSamplingTools, "sampling", "tools")
	has(CapSamplingContext, "sampling", "context")
	has(CapElicitation, "elicitation")
	has(CapElicitationURL, "elicitation", "url")
	if c&CapElicitationURL != 0 {
		// {"url": {}} alone means no form; {} and {"form": {}} mean form
		// (2025-11-25, client/elicitation, Capabilities).
		if _, form := jsonrpc.Lookup(caps, "elicitation", "form"); !form {
			c &^= CapElicitation
		}
	}
	has(CapTasks, "tasks")
	return c
}

// capabilityFor is what a client must have declared to be asked method.
func capabilityFor(method string, params json.RawMessage) Capability {
	switch method {
	case "roots/list":
		return CapRoots
	case "sampling/createMessage":
		if _, tools := jsonrpc.Lookup(params, "tools"); tools {
			return CapSampling | CapSamplingTools
		}
		return CapSampling
	case "elicitation/create":
		if mode, _ := jsonrpc.LookupString(params, "mode"); mode == "url" {
			return CapElicitationURL
		}
		return CapElicitation
	}
	return 0
}
