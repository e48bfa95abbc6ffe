package mcphttp

import (
	"cmp"
	"math"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/mcp-clerk/mcp-clerk/internal/identity"
	"github.com/mcp-clerk/mcp-clerk/internal/jsonrpc"
)

// Rate bounds requests by a token bucket.
type Rate struct {
	PerSecond float64 // negative: no limit
	Burst     int     // how many at once
}

// What one user, and what one address without a valid token, may do. Both are
// there to stop floods, not people. Whoever has a valid token is counted by
// user alone: nobody is locked out by others behind the same address.
var (
	defaultUserRate    = Rate{100, 2000}
	defaultAddressRate = Rate{20, 500}
	// loopbackRate is for a proxy on this machine that nobody declared as one,
	// behind which everybody has the same address.
	loopbackRate = Rate{1000, 5000}
)

// limiterSize bounds the keys that one limiter remembers, twice.
const limiterSize = 20_000

// limiter is a token bucket a key.
type limiter[K comparable] struct {
	mu sync.Mutex
	// Two generations bound the memory without a list: a full young one becomes
	// the old one, and what is asked for moves to the young one.
	young, old map[K]*rate.Limiter
}

// allow takes n from key's bucket, or says after what time it could. Of more
// than a bucket holds it takes what is left when one is taken already.
func (l *limiter[K]) allow(key K, limit Rate, n int, now time.Time) (retry time.Duration, ok bool) {
	if limit.PerSecond < 0 {
		return 0, true
	}
	if n > 1 {
		n = min(n, limit.Burst-1)
	}
	b := l.bucket(key, limit)
	if b.AllowN(now, n) {
		return 0, true
	}
	r := b.ReserveN(now, n)
	retry = r.DelayFrom(now)
	r.CancelAt(now)
	return retry, false
}

func (l *limiter[K]) bucket(key K, limit Rate) *rate.Limiter {
	l.mu.Lock()
	defer l.mu.Unlock()
	if b, ok := l.young[key]; ok {
		return b
	}
	b, ok := l.old[key]
	if !ok {
		b = rate.NewLimiter(rate.Limit(limit.PerSecond), limit.Burst)
	}
	if len(l.young) >= limiterSize {
		l.old, l.young = l.young, nil
	}
	if l.young == nil {
		l.young = map[K]*rate.Limiter{}
	}
	l.young[key] = b
	return b
}

// allowMore counts n messages of a request beside the first, or answers it.
func (s *Server) allowMore(w http.ResponseWriter, r *http.Request, p *identity.Principal, n int) bool {
	if p == nil {
		return s.allowAddress(w, r, n)
	}
	return s.allowUser(w, p, n)
}

// allowUser counts n requests of p, or answers.
func (s *Server) allowUser(w http.ResponseWriter, p *identity.Principal, n int) bool {
	retry, ok := s.users.allow(cmp.Or(p.Subject, p.Grant), s.o.UserRate, n, s.now())
	if !ok {
		refuseRate(w, retry)
	}
	return ok
}

// allowAddress counts n requests without a valid token, or answers.
func (s *Server) allowAddress(w http.ResponseWriter, r *http.Request, n int) bool {
	addr, limit := s.peer(r), s.o.AddressRate
	bits := addr.BitLen()
	switch {
	case !addr.IsValid() || addr.IsLoopback():
		addr, bits = netip.IPv6Loopback(), 128
		if limit == defaultAddressRate {
			limit = loopbackRate
		}
	case addr.Is6():
		bits = 64 // what one customer gets
	}
	prefix, err := addr.Prefix(bits)
	if err != nil {
		prefix = netip.PrefixFrom(addr, addr.BitLen())
	}
	retry, ok := s.addresses.allow(prefix, limit, n, s.now())
	if !ok {
		refuseRate(w, retry)
	}
	return ok
}

// peer is the address that r is counted against. Forwarded headers have no say
// here: whoever trusts a proxy does so in Options.ClientAddr.
func (s *Server) peer(r *http.Request) netip.Addr {
	if s.o.ClientAddr != nil {
		return s.o.ClientAddr(r).WithZone("").Unmap()
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

// refuseRate answers 429 (RFC 6585 section 4).
func refuseRate(w http.ResponseWriter, retry time.Duration) {
	seconds := max(1, math.Ceil(retry.Seconds()))
	w.Header().Set("Retry-After", strconv.FormatFloat(seconds, 'f', 0, 64))
	refuse(w, http.StatusTooManyRequests, nil, jsonrpc.CodeInternal, "too many requests, try again later")
}
