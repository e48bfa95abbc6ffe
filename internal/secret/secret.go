// Package secret holds the string type that redacts itself. A value of it can
// be formatted, logged or marshalled without its content getting out; only
// Reveal hands that over, so that every use of a secret can be found by name.
//
// It imports no other room.
package secret

import (
	"fmt"
	"io"
	"log/slog"
)

const redacted = "[redacted]"

// String is a secret text: a key, a token, a client secret.
type String string

// Reveal returns the secret itself.
func (s String) Reveal() string { return string(s) }

// String implements fmt.Stringer without the secret.
func (s String) String() string {
	if s == "" {
		return ""
	}
	return redacted
}

// Format implements fmt.Formatter: no verb, not even a wrong one, shows the
// secret.
func (s String) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, s.String()) }

// LogValue implements slog.LogValuer.
func (s String) LogValue() slog.Value { return slog.StringValue(s.String()) }

// MarshalText keeps the secret out of JSON and of every other text encoding.
func (s String) MarshalText() ([]byte, error) { return []byte(s.String()), nil }
