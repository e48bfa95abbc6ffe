package authserver

import (
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// limits count requests. They are there to stop floods, not people: hosted
// clients send thousands of users from a handful of addresses, so whoever can
// be told apart is counted alone, before and instead of the address: a user by
// a token or cookie that this server has sealed, a registration by its content.
// Nothing that anybody can send without such a proof is counted across
// addresses, since that would let one lock out all.
type limits struct {
	register *limiter // /register, by address
	same     *limiter // /register, by address and content
	created  *limiter // registrations that leave a new record, by address
	token    *limiter // /token, /revoke and /introspect, by address, or by user; a refusal costs more than a success
	pages    *limiter // the pages for people, by address, or by user
	client   *limiter // /authorize, by address and client, so that one leaves room for others
	fetch    *limiter // documents to fetch, by address
	device   *limiter // /device_authorization, by address
	guess    *limiter // user codes that are none, by address and by user
}

// failureCost is what a refused token request costs beyond the first.
const failureCost = 9

func newLimits() limits {
	return limits{
		register: newLimiter(50, 500, 200, 4000),
		same:     newLimiter(5, 100, 100, 2000),
		created:  newLimiter(rate.Every(30*time.Second), 100, 50, 1000),
		token:    newLimiter(100, 1000, 10_000, 20_000),
		pages:    newLimiter(20, 200, 500, 5000),
		client:   newLimiter(15, 150, 450, 4500),
		fetch:    newLimiter(rate.Every(2*time.Second), 20, 5, 100),
		device:   newLimiter(rate.Every(2*time.Second), 60, 50, 1000),
		guess:    newLimiter(rate.Every(10*time.Second), 10, 1, 100),
	}
}

// limiterSize bounds the parties that one limiter remembers, twice.
const limiterSize = 10_000

// party is whom a request is counted against.
type party struct {
	net      netip.Prefix // zero for a user
	loopback bool
	who      string // a user, or a part of what the address sends; "" for all of it
}

// newParty is an address, and of what it sends the part that who names. An IPv6
// address counts as its /64, which is what one customer gets.
func newParty(addr netip.Addr, who string) party {
	bits := 32
	switch {
	case !addr.IsValid() || addr.IsLoopback(): // a unix socket has no address
		return party{loopback: true, who: who}
	case addr.Is6():
		bits = 64
	}
	prefix, err := addr.Prefix(bits)
	if err != nil {
		prefix = netip.PrefixFrom(addr, addr.BitLen())
	}
	return party{net: prefix, who: who}
}

// userParty is somebody whom a sealed token or cookie names, wherever it comes
// from.
func userParty(addr netip.Addr, subject string) party {
	return party{loopback: !addr.IsValid() || addr.IsLoopback(), who: "user " + subject}
}

// limiter is a token bucket per party. Loopback is more generous: on a
// developer's machine and behind a reverse proxy it is everybody.
type limiter struct {
	each, loopback           rate.Limit
	eachBurst, loopbackBurst int

	mu sync.Mutex
	// Two generations bound the memory without a list: a full young one becomes
	// the old one, and what is asked for moves to the young one.
	young, old map[party]*rate.Limiter
}

func newLimiter(each rate.Limit, burst int, loopback rate.Limit, loopbackBurst int) *limiter {
	return &limiter{each: each, eachBurst: burst, loopback: loopback, loopbackBurst: loopbackBurst,
		young: map[party]*rate.Limiter{}}
}

// allow takes one from the bucket of p, or says after what time it could.
func (l *limiter) allow(p party, now time.Time) (retry time.Duration, ok bool) {
	_, retry, ok = l.take(p, now)
	return retry, ok
}

// take is allow with a way to give the one back at the same time.
func (l *limiter) take(p party, now time.Time) (giveBack func(), retry time.Duration, ok bool) {
	r := l.bucket(p).ReserveN(now, 1)
	giveBack = func() { r.CancelAt(now) }
	if d := r.DelayFrom(now); d > 0 {
		giveBack()
		return nil, max(d, time.Second), false
	}
	return giveBack, 0, true
}

// charge takes n more after the fact.
func (l *limiter) charge(p party, now time.Time, n int) {
	l.bucket(p).ReserveN(now, n)
}

func (l *limiter) bucket(p party) *rate.Limiter {
	l.mu.Lock()
	defer l.mu.Unlock()
	if b, ok := l.young[p]; ok {
		return b
	}
	b, ok := l.old[p]
	if !ok {
		b = rate.NewLimiter(l.each, l.eachBurst)
		if p.loopback {
			b = rate.NewLimiter(l.loopback, l.loopbackBurst)
		}
	}
	if len(l.young) >= limiterSize {
		l.old, l.young = l.young, make(map[party]*rate.Limiter, limiterSize)
	}
	l.young[p] = b
	return b
}

// tokenParty is whom a request with these parameters is counted against: the
// user whose code or token it presents, if that was minted here, else the
// address.
func (s *Server) tokenParty(addr netip.Addr, p params) party {
	for _, name := range []string{"refresh_token", "code", "token"} {
		text := p.get(name)
		for _, prefix := range []string{prefixRefresh, prefixCode} {
			if !strings.HasPrefix(text, prefix) {
				continue
			}
			if h, ok := s.keys.openHandle(prefix, text); ok {
				return userParty(addr, h.grant.subject())
			}
		}
	}
	return newParty(addr, "")
}

// clientEndpoint serves an endpoint for clients that present their credentials
// in a form: parameters, limits, client, then f.
func (s *Server) clientEndpoint(w http.ResponseWriter, r *http.Request, f func(*client, params) error) {
	p, err := endpointParams(w, r)
	counted := s.tokenParty(s.peerAddr(r), p)
	if retry, ok := s.limits.token.allow(counted, s.now()); !ok {
		s.writeError(w, r, tooManyRequests(retry))
		return
	}
	if err == nil {
		err = checkRepeated(p)
	}
	var c *client
	if err == nil {
		if c, err = s.authenticateClient(r, p); err != nil {
			s.recordCode(r, p, err)
		}
	}
	if err == nil {
		err = f(c, p)
	}
	if err == nil {
		return
	}
	if oe := asOAuthError(err); oe.Status < 500 && oe.Code != codePending {
		s.limits.token.charge(counted, s.now(), failureCost)
	}
	s.writeError(w, r, err)
}

// checkRepeated reports a parameter that comes twice (RFC 6749 section 3.2).
func checkRepeated(p params) error {
	// RFC 8707 allows several resources; a token of ours has one audience.
	if slices.Contains(p.repeated, "resource") {
		return &oauthError{Code: codeInvalidTarget, Description: "more than one resource"}
	}
	if len(p.repeated) > 0 {
		return invalidRequest("a parameter comes more than once")
	}
	return nil
}

// tooManyRequests is the refusal for programs. OAuth has no code of its own
// for it; temporarily_unavailable is the one that means "later".
func tooManyRequests(retry time.Duration) *oauthError {
	return &oauthError{Status: 429, Code: codeUnavailable,
		Description: "too many requests; try again later", RetryAfter: retry}
}
