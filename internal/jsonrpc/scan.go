package jsonrpc

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
)

// errStop ends a walk early; it never leaves the package.
var errStop = errors.New("stop")

func invalid(format string, args ...any) error {
	return &Error{Code: CodeInvalidRequest, Message: "invalid request: " + fmt.Sprintf(format, args...)}
}

func asError(err error) *Error {
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	return &Error{Code: CodeParse, Message: "parse error: " + err.Error()}
}

// scanner walks one JSON value (RFC 8259) without building anything. Its input
// is known to be valid UTF-8 or has been scanned before.
type scanner struct {
	b      []byte
	i      int
	depth  int
	max    int
	strict bool
	keys   [][]byte // keys of the objects that are open, for duplicates
}

func (s *scanner) syntax(what string) error {
	return &Error{Code: CodeParse, Message: fmt.Sprintf("parse error: %s at byte %d", what, s.i)}
}

func (s *scanner) space() {
	for s.i < len(s.b) {
		switch s.b[s.i] {
		case ' ', '\t', '\r', '\n':
			s.i++
		default:
			return
		}
	}
}

func (s *scanner) value() error {
	s.space()
	if s.i >= len(s.b) {
		return s.syntax("unexpected end")
	}
	switch c := s.b[s.i]; {
	case c == '{':
		return s.object(nil)
	case c == '[':
		return s.array(nil)
	case c == '"':
		_, err := s.str()
		return err
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

func (s *scanner) literal(word string) error {
	if len(s.b)-s.i < len(word) || string(s.b[s.i:s.i+len(word)]) != word {
		return s.syntax("unexpected character")
	}
	s.i += len(word)
	return nil
}

func (s *scanner) enter() error {
	s.depth++
	if s.depth > s.max {
		return invalid("nested deeper than %d levels", s.max)
	}
	s.i++
	s.space()
	return nil
}

// object scans an object; visit, if given, gets each key and the bytes of its value.
func (s *scanner) object(visit func(key, val []byte) error) error {
	if err := s.enter(); err != nil {
		return err
	}
	base := len(s.keys)
	var seen map[string]struct{}
	if s.i < len(s.b) && s.b[s.i] == '}' {
		s.i++
		s.depth--
		return nil
	}
	for {
		s.space()
		if s.i >= len(s.b) || s.b[s.i] != '"' {
			return s.syntax("expected a key")
		}
		start := s.i
		escaped, err := s.str()
		if err != nil {
			return err
		}
		key := s.b[start+1 : s.i-1]
		if escaped && (visit != nil || s.strict) {
			key = []byte(unquote(s.b[start:s.i]))
		}
		if s.strict {
			if seen, err = s.unique(key, base, seen); err != nil {
				return err
			}
		}
		s.space()
		if s.i >= len(s.b) || s.b[s.i] != ':' {
			return s.syntax("expected a colon")
		}
		s.i++
		s.space()
		start = s.i
		if err := s.value(); err != nil {
			return err
		}
		if visit != nil {
			if err := visit(key, s.b[start:s.i]); err != nil {
				return err
			}
		}
		s.space()
		if s.i >= len(s.b) {
			return s.syntax("unexpected end")
		}
		switch s.b[s.i] {
		case ',':
			s.i++
		case '}':
			s.i++
			s.depth--
			s.keys = s.keys[:base]
			return nil
		default:
			return s.syntax("expected a comma or the end of the object")
		}
	}
}

// unique records key among those of the object that begins at base. Small
// objects are compared key by key; large ones get a set, so that a message
// made of one huge object stays linear.
func (s *scanner) unique(key []byte, base int, seen map[string]struct{}) (map[string]struct{}, error) {
	const small = 16
	dup := false
	if seen != nil {
		_, dup = seen[string(key)]
		seen[string(key)] = struct{}{}
	} else {
		for _, k := range s.keys[base:] {
			if bytes.Equal(k, key) {
				dup = true
				break
			}
		}
		s.keys = append(s.keys, key)
		if len(s.keys)-base > small {
			seen = make(map[string]struct{}, 4*small)
			for _, k := range s.keys[base:] {
				seen[string(k)] = struct{}{}
			}
		}
	}
	if dup {
		return seen, invalid("duplicate key %q", shorten(string(key)))
	}
	return seen, nil
}

func (s *scanner) array(visit func(val []byte)) error {
	if err := s.enter(); err != nil {
		return err
	}
	if s.i < len(s.b) && s.b[s.i] == ']' {
		s.i++
		s.depth--
		return nil
	}
	for {
		s.space()
		start := s.i
		if err := s.value(); err != nil {
			return err
		}
		if visit != nil {
			visit(s.b[start:s.i])
		}
		s.space()
		if s.i >= len(s.b) {
			return s.syntax("unexpected end")
		}
		switch s.b[s.i] {
		case ',':
			s.i++
		case ']':
			s.i++
			s.depth--
			return nil
		default:
			return s.syntax("expected a comma or the end of the array")
		}
	}
}

// str scans a string and reports whether it holds escapes.
func (s *scanner) str() (escaped bool, err error) {
	s.i++
	for s.i < len(s.b) {
		switch c := s.b[s.i]; {
		case c == '"':
			s.i++
			return escaped, nil
		case c == '\\':
			escaped = true
			if err := s.escape(); err != nil {
				return escaped, err
			}
		case c < 0x20:
			return escaped, s.syntax("control character in a string")
		default:
			s.i++
		}
	}
	return escaped, s.syntax("unterminated string")
}

func (s *scanner) escape() error {
	if s.i+1 >= len(s.b) {
		return s.syntax("unterminated string")
	}
	switch s.b[s.i+1] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		s.i += 2
		return nil
	case 'u':
		r, ok := s.hex4(s.i + 2)
		if !ok {
			return s.syntax("bad unicode escape")
		}
		s.i += 6
		if !s.strict || r < 0xd800 || r > 0xdfff {
			return nil
		}
		if r < 0xdc00 && s.i+1 < len(s.b) && s.b[s.i] == '\\' && s.b[s.i+1] == 'u' {
			if low, ok := s.hex4(s.i + 2); ok && low >= 0xdc00 && low <= 0xdfff {
				s.i += 6
				return nil
			}
		}
		return invalid("unpaired surrogate in a string")
	}
	return s.syntax("bad escape")
}

func (s *scanner) hex4(at int) (rune, bool) {
	if at+4 > len(s.b) {
		return 0, false
	}
	var r rune
	for _, c := range s.b[at : at+4] {
		switch {
		case c >= '0' && c <= '9':
			r = r<<4 | rune(c-'0')
		case c >= 'a' && c <= 'f':
			r = r<<4 | rune(c-'a'+10)
		case c >= 'A' && c <= 'F':
			r = r<<4 | rune(c-'A'+10)
		default:
			return 0, false
		}
	}
	return r, true
}

func (s *scanner) number() error {
	start := s.i
	if s.b[s.i] == '-' {
		s.i++
	}
	switch {
	case s.i < len(s.b) && s.b[s.i] == '0':
		s.i++
	case s.digits() == 0:
		return s.syntax("bad number")
	}
	exponent := false
	if s.i < len(s.b) && s.b[s.i] == '.' {
		s.i++
		if s.digits() == 0 {
			return s.syntax("bad number")
		}
	}
	if s.i < len(s.b) && (s.b[s.i] == 'e' || s.b[s.i] == 'E') {
		exponent = true
		s.i++
		if s.i < len(s.b) && (s.b[s.i] == '+' || s.b[s.i] == '-') {
			s.i++
		}
		if s.digits() == 0 {
			return s.syntax("bad number")
		}
	}
	if s.strict && (exponent || s.i-start > 300) {
		if _, err := strconv.ParseFloat(string(s.b[start:s.i]), 64); err != nil {
			return invalid("number out of range")
		}
	}
	return nil
}

func (s *scanner) digits() int {
	start := s.i
	for s.i < len(s.b) && s.b[s.i] >= '0' && s.b[s.i] <= '9' {
		s.i++
	}
	return s.i - start
}

// unquote decodes a string token that has been scanned.
func unquote(token []byte) string {
	if len(token) < 2 {
		return ""
	}
	inner := token[1 : len(token)-1]
	for _, c := range inner {
		if c == '\\' {
			var out string
			if json.Unmarshal(token, &out) != nil {
				return ""
			}
			return out
		}
	}
	return text(inner)
}

// text returns b as a string. What is in nearly every message costs no memory.
func text(b []byte) string {
	switch string(b) {
	case "tools/call":
		return "tools/call"
	case "name":
		return "name"
	case "arguments":
		return "arguments"
	case "_meta":
		return "_meta"
	}
	return string(b)
}

// foldsTo reports whether key equals one of names in all but letter case,
// which is what encoding/json would take it for.
func foldsTo(key []byte, names [][]byte) bool {
	for _, n := range names {
		if bytes.EqualFold(key, n) && !bytes.Equal(key, n) {
			return true
		}
	}
	return false
}

func shorten(s string) string {
	const most = 64
	if len(s) > most {
		return s[:most] + "…"
	}
	return s
}
