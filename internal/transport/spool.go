package transport

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"

	"github.com/mcp-clerk/mcp-clerk/internal/jsonrpc"
)

// spoolAbove is the size from which on a message is kept in a file, in bytes.
const spoolAbove = 4 << 20

// A Spool keeps messages that are too large for memory in unlinked temporary
// files of mode 0600. Who reads such a message gets its skeleton
// (jsonrpc.Skeleton), a message like any other, in which large values are
// replaced by string tokens that nobody else can write; the Writer and the
// Client put the values back in as the message leaves. Nothing of a message can
// leave before its end was read and scanned.
//
// Who got a message from a Reader or from a Client's Deliver may pass it on as
// often as needed until it is released: Deliver's when it returns, the Reader's
// by Release. It is safe for concurrent use. A nil *Spool keeps nothing.
type Spool struct {
	dir   string
	mark  []byte // how its tokens begin
	above int

	held  atomic.Int64 // messages; most of the time there is none
	mu    sync.Mutex
	files map[string]*spooled // by token
}

// spooled is one message in its file.
type spooled struct {
	file   *os.File
	tokens []string
	holes  []jsonrpc.Hole
}

// NewSpool returns a Spool with its files in dir; "" means the system's
// directory for temporary files.
func NewSpool(dir string) *Spool {
	secret := make([]byte, 24)
	_, _ = rand.Read(secret) // never fails, says its documentation
	return &Spool{
		dir: dir, above: spoolAbove, files: map[string]*spooled{},
		mark: []byte(`"` + base64.RawURLEncoding.EncodeToString(secret) + `:`),
	}
}

// size is the size up to which a message stays in memory.
func (s *Spool) size(limit int) int {
	if s == nil {
		return limit
	}
	return min(s.above, limit)
}

// create returns an empty file that is gone when it is closed.
func (s *Spool) create() (*os.File, error) {
	f, err := createUnlinked(s.dir)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errKeep, err)
	}
	return f, nil
}

// take makes the content of f, which is size bytes, a message and returns its
// skeleton. It owns f. Errors that are the message's fault are *jsonrpc.Error.
func (s *Spool) take(f *os.File, size int64) ([]byte, error) {
	m := &spooled{file: f}
	name := make([]byte, 12)
	_, _ = rand.Read(name)
	prefix := string(s.mark) + base64.RawURLEncoding.EncodeToString(name)
	skeleton, holes, err := jsonrpc.Skeleton(io.NewSectionReader(f, 0, size), relayLimits, func(n int) string {
		token := fmt.Sprintf(`%s:%d"`, prefix, n)
		m.tokens = append(m.tokens, token)
		return token
	})
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	m.holes = holes
	if len(holes) == 0 {
		_ = f.Close()
		return skeleton, nil
	}
	s.mu.Lock()
	for _, token := range m.tokens {
		s.files[token] = m
	}
	s.mu.Unlock()
	s.held.Add(1)
	return skeleton, nil
}

// Holds reports whether values of raw are kept in a file.
func (s *Spool) Holds(raw []byte) bool {
	return s != nil && s.held.Load() > 0 && bytes.Contains(raw, s.mark)
}

// Release gives up what is kept of the message that raw is the skeleton of.
// Other messages are none of its business.
func (s *Spool) Release(raw []byte) {
	if !s.Holds(raw) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.split(raw) {
		if p.file == nil {
			continue
		}
		if _, ok := s.files[p.token]; ok {
			for _, token := range p.file.tokens {
				delete(s.files, token)
			}
			_ = p.file.file.Close()
			s.held.Add(-1)
		}
	}
}

// Close releases everything.
func (s *Spool) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, m := range s.files {
		_ = m.file.Close() // more than once does no harm
	}
	clear(s.files)
	s.held.Store(0)
}

// Load returns the whole message in memory.
func (s *Spool) Load(raw []byte) ([]byte, error) {
	if !s.Holds(raw) {
		return raw, nil
	}
	r, _, err := s.open(raw)
	if err != nil {
		return nil, err
	}
	return io.ReadAll(r)
}

// piece is a part of a message: bytes, or a value in a file.
type piece struct {
	bytes []byte
	token string
	file  *spooled
	hole  jsonrpc.Hole
}

// split returns the pieces of raw. The caller holds mu.
func (s *Spool) split(raw []byte) []piece {
	var pieces []piece
	for {
		at := bytes.Index(raw, s.mark)
		if at < 0 {
			return append(pieces, piece{bytes: raw})
		}
		end := at + 1 + bytes.IndexByte(raw[at+1:], '"') + 1
		token := string(raw[at:end])
		p := piece{token: token, file: s.files[token]}
		if p.file != nil {
			for n, t := range p.file.tokens {
				if t == token {
					p.hole = p.file.holes[n]
				}
			}
		}
		pieces = append(pieces, piece{bytes: raw[:at]}, p)
		raw = raw[end:]
	}
}

var errReleased = errors.New("the large message is not kept any more")

// open returns the whole message that raw is the skeleton of, and its size.
func (s *Spool) open(raw []byte) (io.Reader, int64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var parts []io.Reader
	size := int64(0)
	for _, p := range s.split(raw) {
		switch {
		case p.file != nil:
			parts = append(parts, io.NewSectionReader(p.file.file, p.hole.Offset, p.hole.Length))
			size += p.hole.Length
		case p.token != "":
			return nil, 0, errReleased
		default:
			parts = append(parts, bytes.NewReader(p.bytes))
			size += int64(len(p.bytes))
		}
	}
	return io.MultiReader(parts...), size, nil
}

// gather collects a message whose size is not known beforehand: in memory up
// to the Spool's size, and in a file from there on.
type gather struct {
	spool *Spool
	limit int // of the whole, in bytes
	mem   []byte
	file  *os.File
	n     int
	buf   []byte // of what goes into the file next
}

// gatherBuffer is how much goes into a file at a time, in bytes.
const gatherBuffer = 256 << 10

var (
	errTooLarge = errors.New("larger than the limit")
	errKeep     = errors.New("cannot keep a large message")
)

// Write adds p. Its error is errTooLarge or wraps errKeep.
func (g *gather) Write(p []byte) (int, error) {
	if g.n+len(p) > g.limit {
		return 0, errTooLarge
	}
	if g.file == nil && g.n+len(p) > g.spool.size(g.limit) {
		if err := g.leaveMemory(); err != nil {
			return 0, err
		}
	}
	g.n += len(p)
	if g.file == nil {
		g.mem = append(g.mem, p...)
		return len(p), nil
	}
	if len(g.buf)+len(p) > cap(g.buf) {
		if err := g.flush(); err != nil {
			return 0, err
		}
	}
	if len(p) > cap(g.buf) {
		if _, err := g.file.Write(p); err != nil {
			return 0, fmt.Errorf("%w: %w", errKeep, err)
		}
		return len(p), nil
	}
	g.buf = append(g.buf, p...)
	return len(p), nil
}

// leaveMemory goes on in a file.
func (g *gather) leaveMemory() error {
	f, err := g.spool.create()
	if err != nil {
		return err
	}
	g.file = f
	if _, err := f.Write(g.mem); err != nil {
		return fmt.Errorf("%w: %w", errKeep, err)
	}
	g.mem, g.buf = nil, make([]byte, 0, gatherBuffer)
	return nil
}

func (g *gather) flush() error {
	if _, err := g.file.Write(g.buf); err != nil {
		return fmt.Errorf("%w: %w", errKeep, err)
	}
	g.buf = g.buf[:0]
	return nil
}

// drop gives up what was gathered.
func (g *gather) drop() {
	if g.file != nil {
		_ = g.file.Close()
		g.file = nil
	}
	g.mem, g.buf = nil, nil
}

// message returns what was gathered: itself, or its skeleton. A batch is loaded
// into memory, whatever its size.
func (g *gather) message() ([]byte, error) {
	if g.file == nil {
		return g.mem, nil
	}
	if err := g.flush(); err != nil {
		g.drop()
		return nil, err
	}
	f, size := g.file, int64(g.n)
	g.file = nil
	head := make([]byte, 512)
	n, _ := f.ReadAt(head, 0)
	if jsonrpc.IsBatch(head[:n]) {
		defer func() { _ = f.Close() }()
		return io.ReadAll(io.NewSectionReader(f, 0, size))
	}
	return g.spool.take(f, size)
}
