package authserver

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"path"
	"slices"
	"strings"
)

// site is where the server lives, taken from the configuration and never from
// a request. A request's Host is only ever looked up in the fixed set of
// loopback names of the same port.
type site struct {
	origin   string // scheme://host[:port], as browsers write it
	scheme   string
	host     string   // host[:port]
	port     string   // "" for the scheme's default
	prefix   string   // "" or "/a/b"
	issuer   string   // origin + prefix
	resource string   // issuer + path of the MCP endpoint
	path     string   // of the MCP endpoint, prefix included
	more     []string // further paths of the same resource, prefix included
	loopback bool
	aliases  map[string]bool // the loopback names of this origin with their port
}

// loopbackNames are the names under which one loopback listener is reached.
var loopbackNames = []string{"localhost", "127.0.0.1", "[::1]"}

func newSite(publicURL, resourcePath string, more ...string) (site, error) {
	bad := func(problem string) (site, error) {
		return site{}, fmt.Errorf("public URL %q %s", publicURL, problem)
	}
	u, err := url.Parse(publicURL)
	if err != nil || u.Host == "" || u.Opaque != "" || (u.Scheme != "https" && u.Scheme != "http") {
		return bad("is not an http or https URL")
	}
	if u.User != nil || u.RawQuery != "" || u.ForceQuery || strings.Contains(publicURL, "#") {
		return bad("has more than scheme, host, port and path")
	}
	prefix := strings.TrimSuffix(u.EscapedPath(), "/")
	if prefix != "" && (path.Clean(prefix) != prefix || strings.ContainsAny(prefix, "%{}")) {
		return bad("has a path that is not clean")
	}
	if !strings.HasPrefix(resourcePath, "/") || path.Clean(resourcePath) != resourcePath {
		return site{}, fmt.Errorf("path %q of the MCP endpoint is not a clean absolute path", resourcePath)
	}
	st := site{scheme: u.Scheme, prefix: prefix}
	st.host, st.port = canonicalHost(u)
	name := st.name()
	st.loopback = isLoopbackName(name)
	if st.scheme == "http" && !st.loopback {
		return bad("must use https: http is for loopback names only")
	}
	st.origin = st.scheme + "://" + st.host
	st.issuer = st.origin + prefix
	st.path = prefix + resourcePath
	st.resource = st.origin + st.path
	for _, p := range more {
		if !strings.HasPrefix(p, "/") || path.Clean(p) != p {
			return site{}, fmt.Errorf("path %q of the MCP endpoint is not a clean absolute path", p)
		}
		st.more = append(st.more, prefix+p)
	}
	if st.loopback {
		st.aliases = make(map[string]bool, len(loopbackNames))
		for _, n := range loopbackNames {
			st.aliases[strings.TrimSuffix(n+":"+st.port, ":")] = true
		}
	}
	return st, nil
}

// name is the host without its port.
func (st *site) name() string { return strings.TrimSuffix(st.host, ":"+st.port) }

// canonicalHost is the host of u in lower case, without the scheme's default port.
func canonicalHost(u *url.URL) (host, port string) {
	host, port = strings.ToLower(u.Hostname()), u.Port()
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	if u.Scheme == "https" && port == "443" || u.Scheme == "http" && port == "80" {
		port = ""
	}
	if port != "" {
		host += ":" + port
	}
	return host, port
}

func isLoopbackName(host string) bool {
	for _, n := range loopbackNames {
		if host == n {
			return true
		}
	}
	return false
}

// originFor is the origin under which the client reaches this server: the
// canonical one, or another loopback name of it that the request names.
func (st *site) originFor(r *http.Request) string {
	if host := strings.ToLower(r.Host); st.aliases[host] {
		return st.scheme + "://" + host
	}
	return st.origin
}

// pathFor is the path of the resource that the client of r knows: clients hold
// the metadata's resource against the URL they were given.
func (st *site) pathFor(r *http.Request) string {
	for _, p := range st.more {
		// A proxy may have taken the prefix off.
		if at := strings.TrimPrefix(p, st.prefix); r.URL.Path == p || r.URL.Path == at ||
			strings.HasPrefix(r.URL.Path, p+"/") || strings.HasPrefix(r.URL.Path, at+"/") {
			return p
		}
	}
	return st.path
}

// isAlias reports a request that came in under a loopback name other than the
// canonical one. Cookies set there would be missing at the callback.
func (st *site) isAlias(r *http.Request) bool { return st.originFor(r) != st.origin }

var (
	errTargetFragment = errors.New("the resource must not have a fragment")
	errTargetUnknown  = errors.New("this server does not issue tokens for that resource")
)

// checkResource reports whether resource names this server's MCP endpoint (RFC
// 8707 section 2), by any of its paths. Scheme and host are compared without case, and on loopback
// the other names of the same port and path are the same resource.
func (st *site) checkResource(resource string) error {
	if resource == st.resource {
		return nil
	}
	if strings.Contains(resource, "#") {
		return errTargetFragment
	}
	u, err := url.Parse(resource)
	if err != nil || u.User != nil || u.Opaque != "" || u.RawQuery != "" || u.ForceQuery {
		return errTargetUnknown
	}
	host, _ := canonicalHost(u)
	if u.Scheme != st.scheme || u.EscapedPath() != st.path && !slices.Contains(st.more, u.EscapedPath()) || host != st.host && !st.aliases[host] {
		return errTargetUnknown
	}
	return nil
}

// IsResource reports whether resource names this server's MCP endpoint.
func (s *Server) IsResource(resource string) bool { return s.site.checkResource(resource) == nil }

// peerAddr is the address of the other end of the connection. Forwarded headers
// have no say: whoever trusts a proxy does so in Options.ClientAddr.
func (s *Server) peerAddr(r *http.Request) netip.Addr {
	if s.opts.ClientAddr != nil {
		return s.opts.ClientAddr(r)
	}
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	addr, err := netip.ParseAddr(host)
	if err != nil {
		return netip.Addr{}
	}
	return addr.WithZone("").Unmap()
}
