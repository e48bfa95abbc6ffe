package main

import (
	"net/http"
	"net/http/cookiejar"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/mcp-clerk/mcp-clerk/internal/bridge"
	"github.com/mcp-clerk/mcp-clerk/internal/transport"
)

// relayOptions say how connect relays. Those that mcp-remote has, too, have its
// names and meaning.
type relayOptions struct {
	Headers    []string
	HeaderFile string
	NoCookies  bool

	Transport string
	Protocol  string

	AllowTools  []string
	IgnoreTools []string
	MaxMessage  sizeFlag

	BodyTimeout  float64 // seconds
	KeepAlive    bool
	PingInterval float64 // seconds

	Debug  bool
	Silent bool
}

func (o *relayOptions) bind(f *pflag.FlagSet) {
	f.StringArrayVar(&o.Headers, "header", nil, `header for every request to the server, as "Name: value"; ${NAME} is taken from the environment (repeatable)`)
	f.StringVar(&o.HeaderFile, "header-file", "", "file of such headers, a line each")
	f.BoolVar(&o.NoCookies, "disable-cookies", false, "keep no cookies (they are kept for balancers that need them, until the command ends)")

	f.StringVar(&o.Transport, "transport", string(bridge.HTTPFirst), "transports to try: http-first, http-only, sse-first or sse-only")
	f.StringVar(&o.Protocol, "protocol", "auto", "")
	_ = f.MarkHidden("protocol") // for mcp-remote's users: revisions are always found out

	f.StringArrayVar(&o.AllowTools, "allow-tool", nil, "show and allow only tools whose name matches, * standing for anything (repeatable)")
	f.StringArrayVar(&o.IgnoreTools, "ignore-tool", nil, "hide and refuse tools whose name matches (repeatable)")
	o.MaxMessage = transport.DefaultMaxMessage
	f.Var(&o.MaxMessage, "max-message", "largest message in either direction, in bytes or as 64M or 1G")

	f.Float64Var(&o.BodyTimeout, "body-timeout", 0, "seconds that an answer may stand still (default: as long as it takes)")
	f.BoolVar(&o.KeepAlive, "keep-alive", false, "keep the session alive by a ping every 30 seconds")
	f.Float64Var(&o.PingInterval, "ping-interval", 0, "keep the session alive by a ping every so many seconds")

	f.BoolVar(&o.Debug, "debug", false, "write a log of every step, without secrets, below the state directory")
	f.BoolVar(&o.Silent, "silent", false, "say on standard error only what needs you")
}

// apply puts the flags into the options of a bridge.
func (o *relayOptions) apply(options *bridge.Options) error {
	lines := o.Headers
	if o.HeaderFile != "" {
		more, err := headerFile(o.HeaderFile)
		if err != nil {
			return err
		}
		lines = append(more, lines...)
	}
	var err error
	if options.Header, err = headers(lines, os.LookupEnv); err != nil {
		return err
	}
	if options.BodyTimeout, err = seconds("body-timeout", o.BodyTimeout); err != nil {
		return err
	}
	if options.PingInterval, err = seconds("ping-interval", o.PingInterval); err != nil {
		return err
	}
	if o.KeepAlive && options.PingInterval == 0 {
		options.PingInterval = 30 * time.Second
	}
	options.Strategy = bridge.Strategy(o.Transport)
	switch options.Strategy {
	case bridge.HTTPFirst, bridge.HTTPOnly, bridge.SSEFirst, bridge.SSEOnly:
	default:
		return usagef("--transport %q is none of http-first, http-only, sse-first and sse-only", o.Transport)
	}
	if o.Protocol != "auto" && o.Protocol != "legacy" {
		return usagef("--protocol %q is neither auto nor legacy", o.Protocol)
	}
	options.MaxMessage = int(o.MaxMessage)
	options.Filter = bridge.Filter{Allow: o.AllowTools, Ignore: o.IgnoreTools}
	return nil
}

// jar keeps the server's cookies while the command runs.
func (o *relayOptions) jar() http.CookieJar {
	if o.NoCookies {
		return nil
	}
	jar, _ := cookiejar.New(nil) // never fails without options
	return jar
}

// sizeFlag is a flag for a number of bytes.
type sizeFlag int64

func (b *sizeFlag) String() string {
	for _, unit := range []struct {
		size int64
		name string
	}{{1 << 30, "G"}, {1 << 20, "M"}, {1 << 10, "K"}} {
		if n := int64(*b); n >= unit.size && n%unit.size == 0 {
			return strconv.FormatInt(n/unit.size, 10) + unit.name
		}
	}
	return strconv.FormatInt(int64(*b), 10)
}

// Set reads a number with one of the units K, M and G, of 1024 each.
func (b *sizeFlag) Set(text string) error {
	const least, most = 1 << 10, 16 << 30
	number, unit := strings.ToUpper(strings.TrimSpace(text)), int64(1)
	for name, size := range map[string]int64{"K": 1 << 10, "M": 1 << 20, "G": 1 << 30} {
		if rest, ok := strings.CutSuffix(strings.TrimSuffix(strings.TrimSuffix(number, "IB"), "B"), name); ok {
			number, unit = rest, size
			break
		}
	}
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil || n < 1 || n > most/unit || n*unit < least {
		return usagef("%q is no size from 1K to 16G", text)
	}
	*b = sizeFlag(n * unit)
	return nil
}

// Type is the flag's type in the help.
func (*sizeFlag) Type() string { return "size" }

// headers reads "Name: value" lines. ${NAME} in a value stands for the
// environment's, so that no secret needs to be on the command line.
func headers(lines []string, lookup func(string) (string, bool)) (http.Header, error) {
	header := http.Header{}
	for _, line := range lines {
		name, value, ok := strings.Cut(line, ":")
		name, value = strings.TrimSpace(name), strings.TrimSpace(value)
		if !ok || !validHeaderName(name) {
			return nil, usagef("a --header is not of the form %q", "Name: value")
		}
		var missing []string
		value = expand(value, func(variable string) string {
			v, ok := lookup(variable)
			if !ok {
				missing = append(missing, variable)
			}
			return v
		})
		if len(missing) > 0 {
			return nil, usagef("--header %s: the environment has no %s", name, strings.Join(missing, ", "))
		}
		if strings.ContainsFunc(value, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }) {
			return nil, usagef("--header %s: its value has a line break or another control character", name)
		}
		header.Add(name, value)
	}
	return header, nil
}

// expand replaces each ${NAME}; a dollar sign elsewhere is one.
func expand(s string, lookup func(string) string) string {
	var b strings.Builder
	for {
		before, rest, ok := strings.Cut(s, "${")
		b.WriteString(before)
		if !ok {
			return b.String()
		}
		name, after, ok := strings.Cut(rest, "}")
		if !ok {
			b.WriteString("${" + rest)
			return b.String()
		}
		b.WriteString(lookup(name))
		s = after
	}
}

// validHeaderName checks for a token of RFC 9110 section 5.6.2.
func validHeaderName(name string) bool {
	for _, c := range []byte(name) {
		if c <= ' ' || c >= 0x7f || strings.IndexByte(`"(),/:;<=>?@[\]{}`, c) >= 0 {
			return false
		}
	}
	return name != ""
}
