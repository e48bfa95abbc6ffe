package authserver

import (
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// limits count requests per address. They are there to stop floods, not
// people: hosted clients send thousands of users from a handful of addresses,
// so the figures are far above what those do.
type limits struct {
	register *limiter // every request to /register
	created  *limiter // registrations that leave a new record
	token    *limiter // /token and /revoke; a refusal costs more than a success
	pages    *limiter // /authorize, /consent and /callback
}

// failureCost is what a refused token request costs beyond the first.
const failureCost = 9

func newLimits() limits {
	return limits{
		register: newLimiter(5, 100, 100, 2000),
		created:  newLimiter(rate.Every(30*time.Second), 100, 50, 1000),
		token:    newLimiter(100, 1000, 10_000, 20_000),
		pages:    newLimiter(20, 200, 500, 5000),
	}
}

// limiterSize bounds the addresses that one limiter remembers, twice.
const limiterSize = 10_000

// limiter is a token bucket per address (an IPv6 address counts as its /64,
// which is what one customer gets). Loopback has its own, generous bucket: on a
// developer's machine and behind a reverse proxy it is everybody.
type limiter struct {
	each, loopback           rate.Limit
	eachBurst, loopbackBurst int

	mu sync.Mutex
	// Two generations bound the memory without a list: a full young one becomes
	// the old one, and what is asked for moves to the young one.
	young, old map[netip.Prefix]*rate.Limiter
}

func newLimiter(each rate.Limit, burst int, loopback rate.Limit, loopbackBurst int) *limiter {
	return &limiter{each: each, eachBurst: burst, loopback: loopback, loopbackBurst: loopbackBurst,
		young: map[netip.Prefix]*rate.Limiter{}}
}

// allow takes one from the bucket of addr, or says after what time it could.
func (l *limiter) allow(addr netip.Addr, now time.Time) (retry time.Duration, ok bool) {
	r := l.bucket(addr).ReserveN(now, 1)
	if d := r.DelayFrom(now); d > 0 {
		r.CancelAt(now)
		return max(d, time.Second), false
	}
	return 0, true
}

// charge takes n more after the fact.
func (l *limiter) charge(addr netip.Addr, now time.Time, n int) {
	l.bucket(addr).ReserveN(now, n)
}

func (l *limiter) bucket(addr netip.Addr) *rate.Limiter {
	bits, limit, burst := 32, l.each, l.eachBurst
	switch {
	case !addr.IsValid() || addr.IsLoopback(): // a unix socket has no address
		addr, limit, burst = netip.IPv6Loopback(), l.loopback, l.loopbackBurst
		bits = 128
	case addr.Is6():
		bits = 64
	}
	prefix, err := addr.Prefix(bits)
	if err != nil {
		prefix = netip.PrefixFrom(addr, addr.BitLen())
	}

	l.mu.Lock()
	defer l.mu.Unlock()
	if b, ok := l.young[prefix]; ok {
		return b
	}
	b, ok := l.old[prefix]
	if !ok {
		b = rate.NewLimiter(limit, burst)
	}
	if len(l.young) >= limiterSize {
		l.old, l.young = l.young, make(map[netip.Prefix]*rate.Limiter, limiterSize)
	}
	l.young[prefix] = b
	return b
}

// tooManyRequests is the refusal for programs. OAuth has no code of its own
// for it; temporarily_unavailable is the one that means "later".
func tooManyRequests(retry time.Duration) *oauthError {
	return &oauthError{Status: 429, Code: codeUnavailable,
		Description: "too many requests from this address; try again later", RetryAfter: retry}
}
