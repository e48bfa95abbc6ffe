package jsonrpc

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// Hole is a part of a message that its skeleton leaves out: a value, from its
// first to its last byte, both counted from the start of the message.
type Hole struct{ Offset, Length int64 }

// Bounds of a skeleton, in bytes.
const (
	keepValue    = 64 << 10 // of a value that stays in it
	keepSkeleton = 4 << 20  // of the whole
)

// Skeleton reads a message that is too large to be kept in memory. It returns
// the message with every large value replaced by the string token that
// placeholder returns for it, and the places of these values. What a decision
// may rest on stays: id and method always, and up to 64 KiB of each member of
// params, of result, of error and of params.arguments. Whatever Parse refuses
// Skeleton or Parse of the skeleton refuses as well. Errors are *Error where
// the message is at fault, and r's otherwise.
func Skeleton(r io.Reader, lim Limits, placeholder func(n int) string) ([]byte, []Hole, error) {
	s := &sifter{br: bufio.NewReaderSize(r, 64<<10), max: lim.depth(), placeholder: placeholder}
	err := s.message()
	if err != nil {
		return nil, nil, err
	}
	return s.out, s.holes, nil
}

// sifter walks one JSON value that streams past (RFC 8259), as scanner does
// one in memory, and keeps its skeleton.
type sifter struct {
	br          *bufio.Reader
	at          int64 // bytes taken so far
	depth, max  int
	placeholder func(int) string

	out   []byte
	limit int // of out, while a value is kept; below 0: nothing is kept at present
	holes []Hole
}

// descends tells whether the members of the object at path are kept or left
// out one by one.
func descends(path string) bool {
	switch path {
	case "", ".params", ".result", ".error", ".params.arguments":
		return true
	}
	return false
}

func (s *sifter) syntax(what string) error {
	return &Error{Code: CodeParse, Message: fmt.Sprintf("parse error: %s at byte %d", what, s.at)}
}

// peek returns the next byte, or 0 and io.EOF's translation at the end.
func (s *sifter) peek() (byte, error) {
	b, err := s.br.Peek(1)
	if errors.Is(err, io.EOF) {
		return 0, s.syntax("unexpected end")
	}
	if err != nil {
		return 0, err
	}
	return b[0], nil
}

// take moves behind the next n bytes, which are buffered.
func (s *sifter) take(n int) {
	if s.limit >= 0 {
		b, _ := s.br.Peek(n)
		s.out = append(s.out, b...)
		if len(s.out) > s.limit {
			s.limit = -1
		}
	}
	_, _ = s.br.Discard(n)
	s.at += int64(n)
}

// space takes white space. Errors of the reader show again at the next byte.
func (s *sifter) space() {
	for s.follows(space) {
		s.take(1)
	}
}

// message reads the whole.
func (s *sifter) message() error {
	s.space()
	s.out, s.limit = nil, keepSkeleton
	c, err := s.peek()
	if err != nil {
		return err
	}
	if c != '{' {
		return invalid("a message of this size must be an object")
	}
	if err := s.object(""); err != nil {
		return err
	}
	end := len(s.out)
	s.space()
	switch _, err := s.br.Peek(1); {
	case err == nil:
		return s.syntax("data after the message")
	case !errors.Is(err, io.EOF):
		return err
	case s.limit < 0:
		return invalid("too much outside of its large values")
	}
	s.out = s.out[:end]
	return nil
}

// member reads a value that is kept if it is small and left out otherwise.
func (s *sifter) member(path string) error {
	if s.limit < 0 { // part of something that is left out, or refused at the end
		return s.value("-")
	}
	c, err := s.peek()
	if err != nil {
		return err
	}
	if c == '{' && descends(path) {
		return s.value(path)
	}
	whole, start, kept := s.limit, s.at, len(s.out)
	s.limit = min(whole, kept+keepValue)
	if err := s.value("-"); err != nil {
		return err
	}
	if s.limit < 0 {
		if path == ".id" || path == ".method" || path == ".jsonrpc" {
			return invalid("member %q is too long", path[1:])
		}
		s.out = append(s.out[:kept], s.placeholder(len(s.holes))...)
		s.holes = append(s.holes, Hole{start, s.at - start})
	}
	s.limit = whole
	if len(s.out) > whole {
		s.limit = -1
	}
	return nil
}

func (s *sifter) value(path string) error {
	c, err := s.peek()
	if err != nil {
		return err
	}
	switch {
	case c == '{':
		return s.object(path)
	case c == '[':
		return s.array()
	case c == '"':
		return s.str()
	case c == '-' || c >= '0' && c <= '9':
		return s.number()
	case c == 't':
		return s.literal("true")
	case c == 'f':
		return s.literal("false")
	case c == 'n':
		return s.literal("null")
	}
	return s.syntax("unexpected character")
}

func (s *sifter) literal(word string) error {
	for _, want := range []byte(word) {
		c, err := s.peek()
		if err != nil {
			return err
		}
		if c != want {
			return s.syntax("unexpected character")
		}
		s.take(1)
	}
	return nil
}

// enter takes an opening bracket, and reports whether the closing one, which it
// takes as well, follows at once.
func (s *sifter) enter(closing byte) (empty bool, err error) {
	s.depth++
	if s.depth > s.max {
		return false, invalid("nested deeper than %d levels", s.max)
	}
	s.take(1)
	s.space()
	c, err := s.peek()
	if err != nil {
		return false, err
	}
	if c == closing {
		s.take(1)
		s.depth--
		return true, nil
	}
	return false, nil
}

// next takes what follows a member or an element: a comma, or the closing
// bracket.
func (s *sifter) next(closing byte) (more bool, err error) {
	s.space()
	c, err := s.peek()
	if err != nil {
		return false, err
	}
	switch c {
	case ',':
		s.take(1)
		s.space()
		return true, nil
	case closing:
		s.take(1)
		s.depth--
		return false, nil
	}
	return false, s.syntax("expected a comma or the end")
}

func (s *sifter) object(path string) error {
	if empty, err := s.enter('}'); err != nil || empty {
		return err
	}
	for {
		c, err := s.peek()
		if err != nil {
			return err
		}
		if c != '"' {
			return s.syntax("expected a key")
		}
		key, kept := "", len(s.out)
		if err := s.str(); err != nil {
			return err
		}
		if s.limit >= 0 && descends(path) {
			key = unquote(s.out[kept:])
		}
		s.space()
		if c, err = s.peek(); err != nil {
			return err
		}
		if c != ':' {
			return s.syntax("expected a colon")
		}
		s.take(1)
		s.space()
		if descends(path) {
			err = s.member(path + "." + key)
		} else {
			err = s.value("-")
		}
		if err != nil {
			return err
		}
		if more, err := s.next('}'); err != nil || !more {
			return err
		}
	}
}

func (s *sifter) array() error {
	if empty, err := s.enter(']'); err != nil || empty {
		return err
	}
	for {
		if err := s.value("-"); err != nil {
			return err
		}
		if more, err := s.next(']'); err != nil || !more {
			return err
		}
	}
}

// str takes a string, as much at a time as is buffered.
func (s *sifter) str() error {
	s.take(1)
	for {
		if _, err := s.br.Peek(1); errors.Is(err, io.EOF) {
			return s.syntax("unterminated string")
		} else if err != nil {
			return err
		}
		b, _ := s.br.Peek(s.br.Buffered())
		n := 0
		for n < len(b) && b[n] != '"' && b[n] != '\\' && b[n] >= 0x20 && b[n] < utf8.RuneSelf {
			n++
		}
		if n > 0 {
			s.take(n)
			continue
		}
		var err error
		switch c := b[0]; {
		case c == '"':
			s.take(1)
			return nil
		case c == '\\':
			err = s.escape()
		case c < 0x20:
			err = s.syntax("control character in a string")
		default:
			b, peekErr := s.br.Peek(utf8.UTFMax) // fewer at the end
			if peekErr != nil && !errors.Is(peekErr, io.EOF) {
				return peekErr
			}
			r, size := utf8.DecodeRune(b)
			if r == utf8.RuneError && size == 1 {
				return &Error{Code: CodeParse, Message: "parse error: invalid UTF-8"}
			}
			s.take(size)
		}
		if err != nil {
			return err
		}
	}
}

func (s *sifter) escape() error {
	s.take(1)
	c, err := s.peek()
	if err != nil {
		return err
	}
	switch c {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		s.take(1)
		return nil
	case 'u':
		s.take(1)
		for range 4 {
			c, err := s.peek()
			if err != nil {
				return err
			}
			if (c < '0' || c > '9') && (c < 'a' || c > 'f') && (c < 'A' || c > 'F') {
				return s.syntax("bad unicode escape")
			}
			s.take(1)
		}
		return nil
	}
	return s.syntax("bad escape")
}

func (s *sifter) number() error {
	c, err := s.peek()
	if err != nil {
		return err
	}
	if c == '-' {
		s.take(1)
		if c, err = s.peek(); err != nil {
			return err
		}
	}
	if c == '0' {
		s.take(1)
	} else if err := s.digits(); err != nil {
		return err
	}
	if s.follows(".") {
		s.take(1)
		if err := s.digits(); err != nil {
			return err
		}
	}
	if s.follows("eE") {
		s.take(1)
		if s.follows("+-") {
			s.take(1)
		}
		return s.digits()
	}
	return nil
}

// follows reports whether the next byte is one of set. Errors show again at
// the next read.
func (s *sifter) follows(set string) bool {
	b, err := s.br.Peek(1)
	return err == nil && strings.IndexByte(set, b[0]) >= 0
}

// digits takes one digit or more.
func (s *sifter) digits() error {
	n := 0
	for s.follows("0123456789") {
		s.take(1)
		n++
	}
	if n == 0 {
		return s.syntax("bad number")
	}
	return nil
}
