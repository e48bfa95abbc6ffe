package transport

import "encoding/json"

// idScanner finds the id of a message that is too long to be kept, from bytes
// handed over in pieces. It follows strings and nesting only, which is enough
// for a well-formed message; for anything else it finds nothing or nonsense
// that its caller checks to be JSON.
type idScanner struct {
	id     json.RawMessage
	method bool // a top-level member "method" was seen

	depth    int
	inString bool
	escaped  bool
	value    bool   // at depth 1: behind the colon of a member
	key      []byte // at depth 1: the member's key, cut at maxToken
	val      []byte // the value of a top-level "id"
}

// maxToken is the longest id looked for, in bytes.
const maxToken = 1 << 10

func (s *idScanner) write(p []byte) {
	for len(p) > 0 {
		if s.inString && !s.escaped && !s.wanted() { // to the end of the string, or of its next part
			i := 0
			for i < len(p) && p[i] != '"' && p[i] != '\\' {
				i++
			}
			if p = p[i:]; len(p) == 0 {
				return
			}
		}
		s.step(p[0])
		p = p[1:]
	}
}

// wanted tells whether the bytes at this place are collected by keep.
func (s *idScanner) wanted() bool {
	return s.depth == 1 && !s.value || s.value && string(s.key) == `"id"`
}

func (s *idScanner) step(c byte) {
	if s.inString {
		s.keep(c)
		switch {
		case s.escaped:
			s.escaped = false
		case c == '\\':
			s.escaped = true
		case c == '"':
			s.inString = false
		}
		return
	}
	switch c {
	case ' ', '\t', '\r', '\n':
	case '"':
		s.inString = true
		s.keep(c)
	case ':':
		if s.depth == 1 && !s.value {
			s.value = true
		} else {
			s.keep(c)
		}
	case ',':
		if s.depth == 1 {
			s.member()
		} else {
			s.keep(c)
		}
	case '{', '[':
		if s.depth > 0 {
			s.keep(c)
		}
		s.depth++
	case '}', ']':
		s.depth--
		if s.depth == 0 {
			s.member()
		} else {
			s.keep(c)
		}
	default:
		s.keep(c)
	}
}

// keep collects what belongs to a top-level key, or to the value of "id".
func (s *idScanner) keep(c byte) {
	switch {
	case !s.wanted():
	case s.value && len(s.val) <= maxToken:
		s.val = append(s.val, c)
	case !s.value && len(s.key) <= maxToken:
		s.key = append(s.key, c)
	}
}

// member ends a top-level member.
func (s *idScanner) member() {
	switch string(s.key) {
	case `"id"`:
		if len(s.val) > 0 && len(s.val) <= maxToken && (s.val[0] == '"' || s.val[0] == '-' || s.val[0] >= '0' && s.val[0] <= '9') {
			s.id = append(json.RawMessage(nil), s.val...)
		}
	case `"method"`:
		s.method = s.method || s.value
	}
	s.key, s.val, s.value = s.key[:0], s.val[:0], false
}
