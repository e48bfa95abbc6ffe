package authserver

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

const (
	maxRedirects   = 10   // in one registration
	maxRedirectLen = 2048 // bytes
)

// redirectKind is what a redirect URI proves about where a code ends.
type redirectKind int

const (
	redirectHTTPS    redirectKind = iota + 1 // a host that has a certificate
	redirectLoopback                         // some program on the user's machine
	redirectPrivate                          // an app that claimed a scheme there
)

// redirectPolicy decides by allow-list, after parsing. private are the redirect
// URIs with a private-use scheme (RFC 8252 section 7.1) of clients in use, and
// those of the configuration: they match exactly, and nothing else that is
// neither https nor loopback http is ever redirected to.
type redirectPolicy struct{ private []string }

func newRedirectPolicy(extra []string) (redirectPolicy, error) {
	var faults []error
	for _, raw := range extra {
		scheme, rest, ok := strings.Cut(raw, ":")
		u, err := url.Parse(raw)
		web := slices.Contains([]string{"http", "https", "javascript", "data", "vbscript", "blob", "file", "about"}, strings.ToLower(scheme))
		if !ok || rest == "" || web || err != nil || u.Scheme != scheme || checkURIText(raw) != nil {
			faults = append(faults, fmt.Errorf("redirect URI %q is not one with a private-use scheme", raw))
		}
	}
	return redirectPolicy{private: append(slices.Clone(knownClients().private), extra...)}, errors.Join(faults...)
}

// check reports whether a client may register raw, and what kind it is.
func (p redirectPolicy) check(raw string) (redirectKind, error) {
	if err := checkURIText(raw); err != nil {
		return 0, err
	}
	if slices.Contains(p.private, raw) {
		return redirectPrivate, nil
	}
	u, err := url.Parse(raw)
	if err != nil || u.Opaque != "" || u.Host == "" {
		return 0, errors.New("is not an absolute URI with a host")
	}
	if u.User != nil || strings.Contains(raw, "@") && strings.Contains(u.Host, "@") {
		return 0, errors.New("must not name a user")
	}
	if err := checkPort(u); err != nil {
		return 0, err
	}
	if err := checkPath(u); err != nil {
		return 0, err
	}
	switch u.Scheme {
	case "https":
		return redirectHTTPS, checkHost(u.Hostname())
	case "http":
		if loopbackHost(u) == "" {
			return 0, errors.New("must use https: http is for localhost, 127.0.0.1 and [::1] only")
		}
		return redirectLoopback, nil
	}
	return 0, errors.New("has a scheme that is not allowed: use https, or http on a loopback name")
}

// matches reports whether the redirect URI of a request is the registered one:
// by simple string comparison (RFC 9700 section 4.1.3), but for the port of a
// loopback redirect, which a native app gets from the system at the time of the
// request (RFC 8252 section 7.3).
func (p redirectPolicy) matches(registered, requested string) bool {
	if registered == requested {
		return true
	}
	kind, err := p.check(requested)
	if err != nil || kind != redirectLoopback {
		return false
	}
	if kind, err = p.check(registered); err != nil || kind != redirectLoopback {
		return false
	}
	return withoutPort(registered) == withoutPort(requested)
}

// withoutPort takes the port out of a loopback URI that check has accepted.
func withoutPort(raw string) string {
	u, err := url.Parse(raw)
	if err != nil || u.Port() == "" {
		return raw
	}
	authority := strings.TrimSuffix(u.Host, ":"+u.Port())
	return strings.Replace(raw, "://"+u.Host, "://"+authority, 1)
}

// loopbackHost is the loopback name that u uses, or "".
func loopbackHost(u *url.URL) string {
	host := strings.TrimSuffix(u.Host, ":"+u.Port())
	if u.Scheme == "http" && isLoopbackName(host) {
		return host
	}
	return ""
}

// checkURIText accepts what every parser reads alike: printable ASCII without
// the characters on which browsers and servers differ.
func checkURIText(raw string) error {
	if raw == "" || len(raw) > maxRedirectLen {
		return fmt.Errorf("is empty or longer than %d bytes", maxRedirectLen)
	}
	for i := range len(raw) {
		switch c := raw[i]; {
		case c <= 0x20 || c >= 0x7f:
			return errors.New("contains a blank, a control character or one beyond ASCII")
		case c == '\\' || c == '"' || c == '<' || c == '>' || c == '^' || c == '`' || c == '{' || c == '|' || c == '}':
			return errors.New("contains a character that a URI cannot hold")
		case c == '#':
			return errors.New("has a fragment") // RFC 6749 section 3.1.2
		}
	}
	return nil
}

func checkPort(u *url.URL) error {
	port := u.Port()
	if port == "" {
		if strings.HasSuffix(u.Host, ":") {
			return errors.New("has an empty port")
		}
		return nil
	}
	if n, err := strconv.Atoi(port); err != nil || n < 1 || n > 65535 || port[0] == '0' {
		return errors.New("has an impossible port")
	}
	return nil
}

// checkPath refuses paths that mean another one after a round of decoding.
func checkPath(u *url.URL) error {
	path := strings.ToLower(u.EscapedPath())
	for _, bad := range []string{"%2e", "%2f", "%5c", "%00", "%0a", "%0d"} {
		if strings.Contains(path, bad) {
			return errors.New("has an ambiguous path")
		}
	}
	for _, segment := range strings.Split(path, "/") {
		name, _, _ := strings.Cut(segment, ";")
		if name == "." || name == ".." {
			return errors.New("has an ambiguous path")
		}
	}
	return nil
}

// checkHost accepts a DNS name or an IP address as they are written, so that
// the host on the consent page is the host the browser goes to.
func checkHost(host string) error {
	if host == "" {
		return errors.New("has no host")
	}
	if strings.Contains(host, ":") { // an IPv6 address: url.Parse has checked its brackets
		for i := range len(host) {
			if c := host[i]; c != ':' && c != '.' && !isHex(c) {
				return errors.New("has a host that is not an address")
			}
		}
		return nil
	}
	for _, label := range strings.Split(host, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return errors.New("has a host that is not a DNS name")
		}
		if len(label) >= 4 && strings.EqualFold(label[:4], "xn--") {
			return errors.New("has an internationalised host name, which could imitate another one")
		}
		for i := range len(label) {
			if c := label[i]; !isHex(c) && (c < 'g' || c > 'z') && (c < 'G' || c > 'Z') && c != '-' && c != '_' {
				return errors.New("has a host that is not a DNS name")
			}
		}
	}
	return nil
}

func isHex(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F'
}

// redirectHost is what the consent page shows of a redirect URI.
func redirectHost(raw string) string {
	u, err := url.Parse(raw)
	if err != nil {
		return raw
	}
	if u.Scheme == "https" || u.Scheme == "http" {
		return u.Host
	}
	return u.Scheme + "://" + u.Host
}

// withQuery adds parameters to a redirect URI and leaves its own as they are
// (RFC 6749 section 3.1.2). Values are escaped, so none can add a header.
func withQuery(raw string, pairs ...string) string {
	var b strings.Builder
	b.WriteString(raw)
	sep := byte('?')
	if strings.Contains(raw, "?") {
		sep = '&'
		if strings.HasSuffix(raw, "?") || strings.HasSuffix(raw, "&") {
			sep = 0
		}
	}
	for i := 0; i+1 < len(pairs); i += 2 {
		if pairs[i+1] == "" {
			continue
		}
		if sep != 0 {
			b.WriteByte(sep)
		}
		sep = '&'
		b.WriteString(url.QueryEscape(pairs[i]) + "=" + url.QueryEscape(pairs[i+1]))
	}
	return b.String()
}
