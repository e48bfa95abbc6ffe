// Package telemetry is how the server tells what it does: the structured log,
// the request ids that tie its lines together, and the access log.
//
// It imports no other room; others get a *slog.Logger and never import it.
//
// Its one invariant: no secret gets into a line. Attributes with the name of a
// secret are redacted, secrets of known shapes are cut out of every text, and
// of a URL only the path is written.
package telemetry

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"regexp"
	"slices"
	"strings"
	"sync"
)

const redacted = "[redacted]"

// NewLogger returns a logger that writes to w as "text" or "json" (the empty
// format means text), from level on. It redacts, and it adds the id of the
// request in the context of a line.
func NewLogger(w io.Writer, format string, level slog.Leveler) (*slog.Logger, error) {
	o := &slog.HandlerOptions{Level: level, ReplaceAttr: redact}
	switch format {
	case "", "text":
		return slog.New(requestHandler{slog.NewTextHandler(w, o)}), nil
	case "json":
		return slog.New(requestHandler{slog.NewJSONHandler(w, o)}), nil
	}
	return nil, fmt.Errorf("log format %q is unknown: use text or json", format)
}

// requestHandler adds the request id of the context.
type requestHandler struct{ slog.Handler }

func (h requestHandler) Handle(ctx context.Context, r slog.Record) error {
	if id := RequestID(ctx); id != "" {
		r.AddAttrs(slog.String("request_id", id))
	}
	return h.Handler.Handle(ctx, r)
}

func (h requestHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return requestHandler{h.Handler.WithAttrs(attrs)}
}

func (h requestHandler) WithGroup(name string) slog.Handler {
	return requestHandler{h.Handler.WithGroup(name)}
}

// redact is a slog ReplaceAttr function.
func redact(_ []string, a slog.Attr) slog.Attr {
	switch a.Value.Kind() {
	case slog.KindString:
		if secretName(a.Key) && a.Value.String() != "" {
			return slog.String(a.Key, redacted)
		}
		if s := a.Value.String(); suspicious(s) {
			return slog.String(a.Key, Scrub(s))
		}
	case slog.KindAny:
		// The level and the source of a line come here, too.
		if len(a.Key) > 0 && (a.Key == slog.LevelKey || a.Key == slog.SourceKey) {
			return a
		}
		if secretName(a.Key) {
			return slog.String(a.Key, redacted)
		}
		// A struct or a map is written as text, so that nothing in it
		// escapes the search below.
		return slog.String(a.Key, Scrub(fmt.Sprintf("%+v", a.Value.Any())))
	}
	return a
}

var (
	secretNames    = []string{"authorization", "proxyauthorization", "cookie", "setcookie", "code", "codeverifier", "verifier", "state", "nonce", "assertion", "credential", "credentials", "passwd", "keys"}
	secretSuffixes = []string{"secret", "token", "password", "apikey", "secretkey", "privatekey", "encryptionkey"}
)

// secretName reports whether an attribute of this name holds a secret.
func secretName(name string) bool {
	name = strings.Map(func(r rune) rune {
		switch {
		case r >= 'A' && r <= 'Z':
			return r + 'a' - 'A'
		case r == '_' || r == '-' || r == '.' || r == ' ':
			return -1
		}
		return r
	}, name)
	return slices.Contains(secretNames, name) ||
		slices.ContainsFunc(secretSuffixes, func(suffix string) bool { return strings.HasSuffix(name, suffix) })
}

// shapes are the secrets that can be told by their looks. What comes before
// the secret itself is kept as $1.
var shapes = sync.OnceValue(func() []*regexp.Regexp {
	return []*regexp.Regexp{
		regexp.MustCompile(`(?i)\b(bearer\s+|basic\s+)[A-Za-z0-9._~+/=-]{6,}`),
		// Clerk's secret keys, webhook secrets and OAuth tokens, and this server's
		// own tokens and codes.
		regexp.MustCompile(`\b()(?:sk_(?:test|live)_|whsec_|oat_|mcpc_(?:at|rt|code|cs)_)[A-Za-z0-9._~+/=-]{6,}`),
		regexp.MustCompile(`\b()eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*`), // a JWT
		regexp.MustCompile(`(?i)([?&;\s"'{[](?:code|state|nonce|code_verifier|[a-z_]*token|[a-z_]*secret|[a-z_]*password|assertion)["']?[=:]["'\[]*)[^&\s"'\]}]{4,}`),
		regexp.MustCompile(`(://[^/\s:@]*:)[^/\s@]+(@)`), // the password in a URL
	}
})

// suspicious is a cheap test for whether Scrub could find anything.
func suspicious(s string) bool {
	return strings.ContainsAny(s, "=:_") || strings.Contains(s, "eyJ") ||
		strings.Contains(s, "earer") || strings.Contains(s, "EARER") || strings.Contains(s, "asic") || strings.Contains(s, "ASIC")
}

// Scrub returns text with the secrets of known shapes cut out of it.
func Scrub(text string) string {
	for _, shape := range shapes() {
		text = shape.ReplaceAllString(text, "${1}"+redacted+"${2}")
	}
	return text
}
