package oauthclient

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strings"
)

// parseServerURL checks the URL of the MCP server and brings it into its
// canonical form: lower-case scheme and host, no fragment (revision
// 2026-07-28, Canonical Server URI).
func parseServerURL(raw string) (*url.URL, error) {
	u, err := url.Parse(raw)
	if err != nil {
		return nil, fmt.Errorf("read server URL: %w", errors.Unwrap(err))
	}
	u.Scheme, u.Host = strings.ToLower(u.Scheme), strings.ToLower(u.Host)
	switch {
	case u.Scheme != "https" && u.Scheme != "http":
		return nil, fmt.Errorf("server URL %q: want https or http", displayURL(u))
	case u.Hostname() == "":
		return nil, fmt.Errorf("server URL %q has no host", displayURL(u))
	case u.User != nil:
		return nil, fmt.Errorf("server URL for host %q has a user name in it: pass credentials in a header", u.Host)
	}
	u.Fragment, u.RawFragment = "", ""
	return u, nil
}

// origin is scheme, host and port, the port always written.
func origin(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = map[string]string{"https": "443", "http": "80"}[strings.ToLower(u.Scheme)]
	}
	return strings.ToLower(u.Scheme) + "://" + net.JoinHostPort(strings.ToLower(u.Hostname()), port)
}

// isLoopback reports whether host is this machine by its very name (RFC 8252
// section 7.3, RFC 6761 section 6.3).
func isLoopback(host string) bool {
	host = strings.TrimSuffix(strings.ToLower(host), ".")
	if host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback()
}

// carrierNAT is shared address space (RFC 6598), as internal as the rest.
var carrierNAT = netip.MustParsePrefix("100.64.0.0/10")

// nat64 embeds an IPv4 address in its last four bytes (RFC 6052).
var nat64 = netip.MustParsePrefix("64:ff9b::/96")

// isPrivate reports whether ip is not an address of the public internet.
func isPrivate(ip netip.Addr) bool {
	ip = ip.Unmap().WithZone("")
	if nat64.Contains(ip) {
		b := ip.As16()
		ip = netip.AddrFrom4([4]byte(b[12:]))
	}
	return !ip.IsGlobalUnicast() || ip.IsPrivate() || ip.IsLoopback() || ip.IsLinkLocalUnicast() ||
		carrierNAT.Contains(ip) || ip.Is4() && (ip.As4()[0] == 0 || ip.As4()[0] >= 240)
}

// covers reports whether the resource of a metadata document stands for
// server (RFC 9728 section 3.3): the same origin, and a path that is the
// server's or leads to it at a slash. The loopback names are one machine.
func covers(resource, server *url.URL) bool {
	if origin(resource) != origin(server) &&
		!(isLoopback(resource.Hostname()) && isLoopback(server.Hostname()) &&
			origin(withHost(resource, "localhost")) == origin(withHost(server, "localhost"))) {
		return false
	}
	// A dot segment could walk out of the prefix again.
	for _, segment := range strings.Split(server.Path, "/") {
		if segment == "." || segment == ".." {
			return false
		}
	}
	have, want := resource.EscapedPath(), server.EscapedPath()
	if resource.RawQuery != "" && resource.RawQuery != server.RawQuery {
		return false
	}
	return strings.HasPrefix(want+"/", strings.TrimSuffix(have, "/")+"/")
}

func withHost(u *url.URL, host string) *url.URL {
	c := *u
	c.Host = host
	if p := u.Port(); p != "" {
		c.Host = net.JoinHostPort(host, p)
	}
	return &c
}

// displayURL is a URL for error texts and logs: without user, query and
// fragment, which may be confidential.
func displayURL(u *url.URL) string {
	return (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}).String()
}

// BrowserURL checks a URL that a server wants opened in the user's browser and
// returns it written anew. Only https and loopback http pass, and only with
// characters that no shell, launcher or registry of URL handlers gives a
// meaning to: what comes out is one harmless argument. (Openers were made to
// run commands by an authorization endpoint that was no web address.)
func BrowserURL(raw string) (string, error) {
	const most = 16 << 10
	if len(raw) > most {
		return "", fmt.Errorf("URL is longer than %d bytes", most)
	}
	// The characters of RFC 3986 without those that shells know. In the host
	// and path "&" and "%" are refused too; in the query they are needed.
	for i := range len(raw) {
		if !isURLByte(raw[i]) {
			return "", fmt.Errorf("URL %q has a character in it that is not opened", printable(raw))
		}
	}
	u, err := url.Parse(raw)
	if err != nil {
		return "", fmt.Errorf("URL %q cannot be read", printable(raw))
	}
	scheme := strings.ToLower(u.Scheme)
	switch {
	case u.Opaque != "" || u.Host == "" || u.Hostname() == "":
		return "", fmt.Errorf("URL %q is not a web address", printable(raw))
	case scheme != "https" && !(scheme == "http" && isLoopback(u.Hostname())):
		return "", fmt.Errorf("URL %q is neither https nor loopback http", printable(raw))
	case u.User != nil || strings.Contains(u.Host, "@"):
		return "", fmt.Errorf("URL %q has a user name in it", printable(raw))
	case strings.ContainsAny(u.Host, "%&$") || strings.ContainsAny(u.EscapedPath(), "%&"):
		return "", fmt.Errorf("URL %q has a character in its path that is not opened", printable(raw))
	case u.Fragment != "" || strings.Contains(raw, "#"):
		return "", fmt.Errorf("URL %q has a fragment (RFC 6749 section 3.1)", printable(raw))
	}
	if err := checkHost(u); err != nil {
		return "", fmt.Errorf("URL %q: %w", printable(raw), err)
	}
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return "", fmt.Errorf("URL %q has a query that cannot be read", printable(raw))
	}
	out := url.URL{Scheme: scheme, Host: strings.ToLower(u.Host), Path: u.Path, RawQuery: query.Encode()}
	if out.Path == "" {
		out.Path = "/"
	}
	return out.String(), nil
}

func isURLByte(b byte) bool {
	return 'a' <= b && b <= 'z' || 'A' <= b && b <= 'Z' || '0' <= b && b <= '9' ||
		strings.IndexByte("-._~:/?[]@&=+,%", b) >= 0
}

// checkHost wants a name of letters, digits, dots and hyphens (or an IP
// address) and a port that is a number.
func checkHost(u *url.URL) error {
	host := u.Hostname()
	if strings.HasPrefix(host, "-") || strings.HasPrefix(host, ".") {
		return errors.New("the host starts with a hyphen or dot")
	}
	if _, err := netip.ParseAddr(host); err != nil {
		for i := range len(host) {
			if b := host[i]; !(isURLByte(b) && (b == '-' || b == '.' || b == '_' || '0' <= b && b <= '9' || 'a' <= b && b <= 'z' || 'A' <= b && b <= 'Z')) {
				return errors.New("the host is no name")
			}
		}
	}
	for i := range len(u.Port()) {
		if b := u.Port()[i]; b < '0' || b > '9' {
			return errors.New("the port is no number")
		}
	}
	return nil
}
