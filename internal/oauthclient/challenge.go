package oauthclient

import (
	"net/http"
	"strings"
)

// Challenge is one challenge of a WWW-Authenticate header (RFC 9110 section
// 11.6.1) with the parameters that matter here (RFC 6750 section 3, RFC 9728
// section 5.1).
type Challenge struct {
	Scheme           string // lower case
	ResourceMetadata string
	Scope            string
	Error            string
	ErrorDescription string
}

// Bounds of what is read of a header: a challenge is a few hundred bytes.
const (
	maxChallengeBytes  = 16 << 10
	maxChallenges      = 32
	maxChallengeParams = 32
)

// ParseChallenges reads the values of WWW-Authenticate headers. Servers write
// them in many ways: several challenges in one value or in several, tokens
// where strings are due, quotes that never close. What can be read is, the rest
// is left out; it never fails, and reads 16 KiB at most.
func ParseChallenges(values []string) []Challenge {
	var all []Challenge
	budget := maxChallengeBytes
	for _, v := range values {
		if len(v) > budget {
			v = v[:budget]
		}
		budget -= len(v)
		p := challengeParser{s: v}
		all = p.parse(all)
		if budget == 0 || len(all) >= maxChallenges {
			break
		}
	}
	return all[:min(len(all), maxChallenges)]
}

// bearerChallenge returns the Bearer challenge to act on: the first that names
// resource metadata, else the first.
func bearerChallenge(h http.Header) Challenge {
	var first Challenge
	for _, c := range ParseChallenges(h.Values("WWW-Authenticate")) {
		if c.Scheme != "bearer" {
			continue
		}
		if c.ResourceMetadata != "" {
			return c
		}
		if first.Scheme == "" {
			first = c
		}
	}
	return first
}

type challengeParser struct {
	s string
	i int
}

func (p *challengeParser) parse(all []Challenge) []Challenge {
	params := 0
	for {
		p.skip(" \t,")
		if p.i >= len(p.s) || len(all) >= maxChallenges {
			return all
		}
		word := p.token()
		if word == "" {
			p.i++ // a byte that can start nothing
			continue
		}
		mark := p.i
		p.skip(" \t")
		if p.i < len(p.s) && p.s[p.i] == '=' && len(all) > 0 {
			p.i++
			p.skip(" \t")
			value, ok := p.value()
			params++
			if ok && params <= maxChallengeParams {
				all[len(all)-1].set(word, value)
			}
			continue
		}
		p.i = mark
		all = append(all, Challenge{Scheme: strings.ToLower(word)})
		params = 0
		p.token68()
	}
}

func (p *challengeParser) skip(set string) {
	for p.i < len(p.s) && strings.IndexByte(set, p.s[p.i]) >= 0 {
		p.i++
	}
}

// token reads a token (RFC 9110 section 5.6.2).
func (p *challengeParser) token() string {
	start := p.i
	for p.i < len(p.s) && isTokenByte(p.s[p.i]) {
		p.i++
	}
	return p.s[start:p.i]
}

func isTokenByte(b byte) bool {
	return 'a' <= b && b <= 'z' || 'A' <= b && b <= 'Z' || '0' <= b && b <= '9' ||
		strings.IndexByte("!#$%&'*+-.^_`|~", b) >= 0
}

// token68 steps over the credentials-like form that some schemes have in place
// of parameters, such as "Negotiate YII=": it ends the challenge.
func (p *challengeParser) token68() {
	mark := p.i
	p.skip(" \t")
	start := p.i
	for p.i < len(p.s) && (isTokenByte(p.s[p.i]) || p.s[p.i] == '/') {
		p.i++
	}
	read := p.i > start
	p.skip("=")
	p.skip(" \t")
	if read && (p.i == len(p.s) || p.s[p.i] == ',') && !strings.HasPrefix(p.s[start:], ",") {
		return
	}
	p.i = mark
}

// value reads a quoted string or, as lenient readers must, anything up to the
// next comma or blank. ok is false for a string that does not end.
func (p *challengeParser) value() (string, bool) {
	if p.i < len(p.s) && p.s[p.i] == '"' {
		p.i++
		var b strings.Builder
		for p.i < len(p.s) {
			switch c := p.s[p.i]; c {
			case '"':
				p.i++
				return b.String(), true
			case '\\':
				p.i++
				if p.i < len(p.s) {
					b.WriteByte(p.s[p.i])
				}
			default:
				b.WriteByte(c)
			}
			p.i++
		}
		return "", false
	}
	start := p.i
	for p.i < len(p.s) && strings.IndexByte(" \t,", p.s[p.i]) < 0 {
		p.i++
	}
	return p.s[start:p.i], true
}

// set keeps the first value of a parameter; a repeated one is a fault.
func (c *Challenge) set(name, value string) {
	var field *string
	switch strings.ToLower(name) {
	case "resource_metadata":
		field = &c.ResourceMetadata
	case "scope":
		field = &c.Scope
	case "error":
		field = &c.Error
	case "error_description":
		field = &c.ErrorDescription
		value = printable(value)
	default:
		return
	}
	if *field == "" {
		*field = value
	}
}
