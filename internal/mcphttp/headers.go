package mcphttp

import (
	"bytes"
	"encoding/base64"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"unicode/utf8"
)

// Header names in the form in which net/http keys them.
const (
	hdrSession  = "Mcp-Session-Id"
	hdrVersion  = "Mcp-Protocol-Version"
	hdrMethod   = "Mcp-Method"
	hdrName     = "Mcp-Name"
	hdrParam    = "Mcp-Param-"
	hdrLastID   = "Last-Event-Id"
	typeJSON    = "application/json"
	typeEvents  = "text/event-stream"
	corsMethods = "GET, POST, DELETE, OPTIONS"
	corsHeaders = "Accept, Authorization, Content-Type, Last-Event-ID, Mcp-Method, Mcp-Name, MCP-Protocol-Version, Mcp-Session-Id"
	corsExposed = "Mcp-Session-Id, MCP-Protocol-Version, WWW-Authenticate, Retry-After"
)

// accepts reports which of the two media types of an MCP response the client
// takes (RFC 9110 section 12.5.1). No Accept header means any.
func accepts(values []string) (json, events bool) {
	if len(values) == 0 {
		return true, true
	}
	// The most specific range decides: q=0 on text/event-stream outweighs */*.
	var jsonRank, eventsRank int
	consider := func(rank int, ok bool, have *int, out *bool) {
		if rank > *have {
			*have, *out = rank, ok
		}
	}
	for _, value := range values {
		for part := range strings.SplitSeq(value, ",") {
			name, params, _ := strings.Cut(part, ";")
			ok := !refusing(params)
			switch name = strings.ToLower(strings.TrimSpace(name)); name {
			case "*/*":
				consider(1, ok, &jsonRank, &json)
				consider(1, ok, &eventsRank, &events)
			case "application/*":
				consider(2, ok, &jsonRank, &json)
			case "text/*":
				consider(2, ok, &eventsRank, &events)
			case typeJSON:
				consider(3, ok, &jsonRank, &json)
			case typeEvents:
				consider(3, ok, &eventsRank, &events)
			}
		}
	}
	return json, events
}

// refusing reports whether the parameters of a media range have weight zero.
func refusing(params string) bool {
	for p := range strings.SplitSeq(params, ";") {
		name, value, _ := strings.Cut(p, "=")
		if strings.EqualFold(strings.TrimSpace(name), "q") {
			value = strings.TrimSpace(value)
			return value != "" && strings.Trim(value, "0.") == ""
		}
	}
	return false
}

// isJSONBody reports whether the request declares exactly one JSON body.
func isJSONBody(h http.Header) bool {
	values := h["Content-Type"]
	if len(values) != 1 {
		return false
	}
	name, params, _ := strings.Cut(values[0], ";")
	if !strings.EqualFold(strings.TrimSpace(name), typeJSON) {
		return false
	}
	// JSON is UTF-8 (RFC 8259 section 8.1); another charset would be a lie or
	// a way past the checks of somebody in between.
	for p := range strings.SplitSeq(params, ";") {
		name, value, _ := strings.Cut(p, "=")
		if strings.EqualFold(strings.TrimSpace(name), "charset") &&
			!strings.EqualFold(strings.Trim(strings.TrimSpace(value), `"`), "utf-8") {
			return false
		}
	}
	return true
}

// decodeHeader undoes the encoding of Mcp-Name and Mcp-Param-* (2026-07-28,
// basic/transports/streamable-http, Value Encoding). ok is false for a value
// with characters or an encoding that the revision does not allow.
func decodeHeader(value string) (decoded string, ok bool) {
	for i := range len(value) {
		if c := value[i]; (c < 0x20 && c != '\t') || c > 0x7e {
			return "", false
		}
	}
	encoded, found := strings.CutPrefix(value, "=?base64?")
	if !found {
		return value, true
	}
	encoded, found = strings.CutSuffix(encoded, "?=")
	if !found {
		return value, true
	}
	raw, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil || !utf8.Valid(raw) {
		return "", false
	}
	return string(raw), true
}

// mcpHeaders picks the headers a Handler may see. The list names what is let
// through, so that a credential under an unforeseen name stays outside.
func mcpHeaders(r *http.Request) http.Header {
	out := http.Header{}
	if r == nil {
		return out
	}
	for name, values := range r.Header {
		switch {
		case name == hdrSession: // a secret of the session
		case strings.HasPrefix(name, "Mcp-"), name == "User-Agent",
			name == "Traceparent", name == "Tracestate", name == "Baggage":
			out[name] = values
		}
	}
	return out
}

// looksSecret reports whether a request header's name says that its value is
// a secret that has no business here, as the environment variables of a server
// do that someone copied into a client's configuration.
func looksSecret(name string) bool {
	switch name {
	case "Authorization", "Cookie", "Accept", "Accept-Encoding", "Content-Type", "Content-Length", "User-Agent",
		hdrSession, hdrVersion, hdrMethod, hdrName:
		return false // what nearly every request has
	}
	if strings.HasPrefix(name, "Sec-") {
		return false
	}
	var buf [maxSecretName]byte
	lower := buf[:min(len(name), len(buf))]
	for i := range lower {
		switch c := name[i]; {
		case c >= 'A' && c <= 'Z':
			lower[i] = c + 'a' - 'A'
		case c == '-':
			lower[i] = '_'
		default:
			lower[i] = c
		}
	}
	for _, part := range secretParts {
		if bytes.Contains(lower, part) {
			return true
		}
	}
	return false
}

// maxSecretName is the longest name that is looked at.
const maxSecretName = 64

var secretParts = bytes.Fields([]byte("secret api_key apikey api_token private_key encryption_key password access_key"))

// secretWarner warns of each secret-looking header once, by name. Names come
// from clients, so there is a limit to how many it remembers.
type secretWarner struct {
	warn func(name string)

	mu   sync.Mutex
	seen map[string]bool
}

func (s *secretWarner) look(h http.Header) {
	for name := range h {
		if len(name) > maxSecretName || !looksSecret(name) {
			continue
		}
		s.mu.Lock()
		warn := !s.seen[name] && len(s.seen) < 32
		if warn {
			if s.seen == nil {
				s.seen = map[string]bool{}
			}
			s.seen[name] = true
		}
		s.mu.Unlock()
		if warn {
			s.warn(name)
		}
	}
}

// callers decides by Origin and Host who may call: the defence against web
// pages that make a browser call a local server (DNS rebinding).
type callers struct {
	any      bool
	loopback bool // every loopback origin
	origins  map[string]bool
	hosts    map[string]bool // host names without port
}

func newCallers(publicURL string, origins, hosts []string) (*callers, error) {
	c := &callers{origins: map[string]bool{}, hosts: map[string]bool{}}
	if publicURL == "" {
		c.loopback = true
	} else {
		u, err := url.Parse(publicURL)
		if err != nil {
			return nil, err
		}
		c.origins[originOf(u)] = true
		c.hosts[strings.ToLower(u.Hostname())] = true
		c.loopback = isLoopbackName(u.Hostname())
	}
	for _, o := range origins {
		if o == "*" {
			c.any = true
			continue
		}
		u, err := url.Parse(o)
		if err != nil {
			return nil, err
		}
		c.origins[originOf(u)] = true
	}
	for _, h := range hosts {
		c.hosts[hostName(h)] = true
	}
	return c, nil
}

// originOf returns the ASCII serialisation of u's origin (RFC 6454 section
// 6.2), without a default port.
func originOf(u *url.URL) string {
	scheme, host, port := strings.ToLower(u.Scheme), strings.ToLower(u.Hostname()), u.Port()
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	if port == "" || scheme == "https" && port == "443" || scheme == "http" && port == "80" {
		return scheme + "://" + host
	}
	return scheme + "://" + host + ":" + port
}

// allowsOrigin reports whether a page of this origin may call.
func (c *callers) allowsOrigin(origin string) bool {
	u, err := url.Parse(origin)
	if err != nil || u.Host == "" || u.User != nil || u.Path != "" || u.RawQuery != "" || u.Fragment != "" {
		return false // "null" too: it stands for whoever hides
	}
	if c.any || c.origins[originOf(u)] {
		return true
	}
	return c.loopback && (u.Scheme == "http" || u.Scheme == "https") && isLoopbackName(u.Hostname())
}

// allowsHost reports whether the request came under a name of this server.
// Only a loopback listener asks: elsewhere a foreign name is nobody's harm.
func (c *callers) allowsHost(r *http.Request) bool {
	local, ok := r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr)
	if !ok || !local.IP.IsLoopback() {
		return true
	}
	name := hostName(r.Host)
	return isLoopbackName(name) || c.hosts[name]
}

func hostName(hostport string) string {
	u := url.URL{Host: hostport}
	return strings.ToLower(u.Hostname())
}

func isLoopbackName(name string) bool {
	if strings.EqualFold(strings.TrimSuffix(name, "."), "localhost") {
		return true
	}
	addr, err := netip.ParseAddr(name)
	return err == nil && addr.Unmap().IsLoopback()
}

// setCORS lets the page of an allowed origin read the response. Credentials in
// the sense of CORS (cookies) are never allowed: there are none on this path.
func setCORS(h http.Header, origin string) {
	h.Set("Access-Control-Allow-Origin", origin)
	h.Set("Access-Control-Expose-Headers", corsExposed)
}

// preflight answers OPTIONS for an allowed origin.
func preflight(w http.ResponseWriter, r *http.Request, methods string) {
	h := w.Header()
	h.Set("Access-Control-Allow-Methods", methods)
	allowed := corsHeaders
	for name := range strings.SplitSeq(r.Header.Get("Access-Control-Request-Headers"), ",") {
		// Mirrored parameters and trace context have names of their own.
		name = strings.ToLower(strings.TrimSpace(name))
		if isToken(name) && (strings.HasPrefix(name, strings.ToLower(hdrParam)) || name == "traceparent" || name == "tracestate" || name == "baggage") {
			allowed += ", " + name
		}
	}
	h.Set("Access-Control-Allow-Headers", allowed)
	h.Set("Access-Control-Max-Age", "7200")
	w.WriteHeader(http.StatusNoContent)
}

// isToken reports whether s is a token of RFC 9110 section 5.6.2, of a
// reasonable length.
func isToken(s string) bool {
	if s == "" || len(s) > 128 {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if c <= ' ' || c > 0x7e || strings.IndexByte(`"(),/:;<=>?@[\]{}`, c) >= 0 {
			return false
		}
	}
	return true
}
