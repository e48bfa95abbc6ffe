package oauthclient

import (
	"errors"
	"fmt"
	"strings"
	"unicode"
)

// Error is an error answer of an authorization server (RFC 6749 sections
// 4.1.2.1 and 5.2, RFC 7591 section 3.2.2).
type Error struct {
	Code        string // such as "invalid_grant"
	Description string // for people; made harmless
	Status      int    // HTTP status; 0 for an answer through the browser
}

func (e *Error) Error() string {
	text := "the authorization server answers " + e.Code
	if e.Description != "" {
		text += ": " + e.Description
	}
	return text
}

// NotSignedInError reports that a person has to sign in, or that they would
// not.
type NotSignedInError struct {
	Server string
	Reason string
	Err    error // the cause, where there is one
}

func (e *NotSignedInError) Error() string {
	return fmt.Sprintf("not signed in to %q: %s", e.Server, e.Reason)
}

func (e *NotSignedInError) Unwrap() error { return e.Err }

// RevocationError reports a sign-out that forgot the credential here without
// the authorization server's confirmation that it is void there.
type RevocationError struct {
	Err error
}

func (e *RevocationError) Error() string {
	return fmt.Sprintf("forgotten here, but the authorization server could not be told: %v", e.Err)
}

func (e *RevocationError) Unwrap() error { return e.Err }

// errSignInNeeded reports that nothing short of a sign-in gives a token.
var errSignInNeeded = errors.New("a sign-in is needed")

// oauthCode returns the code of the authorization server's error in err.
func oauthCode(err error) string {
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	return ""
}

// transient reports whether err says nothing about the credential: the network
// failed, or the authorization server is not well (RFC 6749 section 4.1.2.1).
func transient(err error) bool {
	var e *Error
	if !errors.As(err, &e) {
		return true
	}
	switch e.Code {
	case "server_error", "temporarily_unavailable", "slow_down":
		return true
	}
	return e.Status >= 500 || e.Status == 429
}

// printable makes a stranger's text fit for a terminal and a log: one line,
// no control or direction characters, at most 200 characters.
func printable(s string) string {
	const most = 200
	var b strings.Builder
	n := 0
	for _, r := range s {
		if n == most {
			b.WriteString("…")
			break
		}
		if r == unicode.ReplacementChar || !unicode.IsPrint(r) || unicode.Is(unicode.Cf, r) {
			r = ' '
		}
		b.WriteRune(r)
		n++
	}
	return strings.TrimSpace(b.String())
}
