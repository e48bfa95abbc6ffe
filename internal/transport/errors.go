package transport

import (
	"fmt"
	"net/http"
	"strings"
	"unicode"
)

// StatusError says that the server answered a message with something that is
// no JSON-RPC: another status, another content type, a broken body.
type StatusError struct {
	Host   string
	Status int
	// Detail says what was wrong, in plain printable text.
	Detail string
}

func (e *StatusError) Error() string {
	return fmt.Sprintf("%s answered with HTTP status %d (%s): %s", e.Host, e.Status, http.StatusText(e.Status), e.Detail)
}

// AuthError says that the server wants an authorization that could not be had.
type AuthError struct {
	Host   string
	Status int   // 0 when no request was made
	Err    error // why not; nil when the server refused a fresh token or there is no Authorizer
}

func (e *AuthError) Error() string {
	s := "not authorized by " + e.Host
	if e.Status != 0 {
		s = fmt.Sprintf("%s (HTTP status %d)", s, e.Status)
	}
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

func (e *AuthError) Unwrap() error { return e.Err }

// UnreachableError says that the server could not be reached: nothing of the
// message was sent.
type UnreachableError struct {
	Host string
	Err  error
}

func (e *UnreachableError) Error() string { return fmt.Sprintf("cannot reach %s: %v", e.Host, e.Err) }

func (e *UnreachableError) Unwrap() error { return e.Err }

// LostError says that the connection ended after the message had been sent and
// before its response: it may or may not have been executed.
type LostError struct {
	Host string
	Err  error
}

func (e *LostError) Error() string {
	return fmt.Sprintf("connection to %s ended before the response; the request may have been executed and was not repeated: %v", e.Host, e.Err)
}

func (e *LostError) Unwrap() error { return e.Err }

// RenewalError says that the server has ended the session and opens no other.
// The message was not executed.
type RenewalError struct{ Err error }

func (e *RenewalError) Error() string { return "session not renewed: " + e.Err.Error() }

func (e *RenewalError) Unwrap() error { return e.Err }

// plain returns the beginning of text that came from a server, on one line and
// without control or direction characters, so that it is harmless in a terminal.
func plain(text string, limit int) string {
	var b strings.Builder
	space := false
	for _, r := range text {
		if unicode.IsSpace(r) {
			space = b.Len() > 0
			continue
		}
		if !unicode.IsPrint(r) || unicode.Is(unicode.Bidi_Control, r) {
			continue
		}
		if b.Len() >= limit {
			b.WriteString("…")
			break
		}
		if space {
			b.WriteByte(' ')
			space = false
		}
		b.WriteRune(r)
	}
	return b.String()
}
