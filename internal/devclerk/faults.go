package devclerk

import (
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Fault says how requests misbehave.
type Fault struct {
	Delay      time.Duration // wait before anything else; a client that goes away ends the wait
	Status     int           // answer with this status and Clerk's error body; 0: answer as usual
	RetryAfter time.Duration // sent with Status as Retry-After, in whole seconds; 0: not sent
	Times      int           // how many requests it concerns; 0: until it is taken back
}

// SetFault lets the requests whose path begins with prefix misbehave; the
// longest prefix counts. The zero Fault takes it back.
func (s *Server) SetFault(prefix string, f Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if f == (Fault{}) {
		delete(s.faults, prefix)
		return
	}
	s.faults[prefix] = &f
}

// SetDown lets paths that begin with prefix answer 503, or work again.
func (s *Server) SetDown(prefix string, down bool) {
	f := Fault{}
	if down {
		f.Status = http.StatusServiceUnavailable
	}
	s.SetFault(prefix, f)
}

// SetSlow delays the paths that begin with prefix; 0 takes it back.
func (s *Server) SetSlow(prefix string, delay time.Duration) {
	s.SetFault(prefix, Fault{Delay: delay})
}

// rateLimit is a fixed window over the Backend API.
type rateLimit struct {
	requests int
	window   time.Duration
	start    time.Time
	seen     int
}

// RateLimit allows the Backend API that many requests per window, and answers
// the others with 429 and Retry-After. Clerk allows 100 in 10 s to development
// instances and 1,000 to production ones (bapi specification, POST /users).
// Zero requests: no limit, the default.
func (s *Server) RateLimit(requests int, window time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.limit = rateLimit{requests: requests, window: window, start: s.now()}
}

// allow counts one request and returns how long to wait when there were too many.
func (l *rateLimit) allow(now time.Time) (time.Duration, bool) {
	if l.requests == 0 {
		return 0, true
	}
	if now.Sub(l.start) >= l.window {
		l.start, l.seen = now, 0
	}
	if l.seen++; l.seen <= l.requests {
		return 0, true
	}
	return l.start.Add(l.window).Sub(now), false
}

// misbehave applies the fault that concerns r, and reports whether it has answered.
func (s *Server) misbehave(w http.ResponseWriter, r *http.Request) bool {
	s.mu.Lock()
	var fault Fault
	best := -1
	for prefix, f := range s.faults {
		if strings.HasPrefix(r.URL.Path, prefix) && len(prefix) > best {
			best, fault = len(prefix), *f
		}
	}
	if best >= 0 && fault.Times > 0 {
		prefix := r.URL.Path[:best]
		if fault.Times == 1 {
			delete(s.faults, prefix)
		} else {
			s.faults[prefix].Times--
		}
	}
	wait, allowed := time.Duration(0), true
	if strings.HasPrefix(r.URL.Path, "/v1/") {
		wait, allowed = s.limit.allow(s.now())
	}
	s.mu.Unlock()

	if fault.Delay > 0 {
		timer := time.NewTimer(fault.Delay)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-r.Context().Done():
			return true
		}
	}
	switch {
	case fault.Status != 0:
		if fault.RetryAfter > 0 {
			setRetryAfter(w, fault.RetryAfter)
		}
		e := errInternal("The service is unavailable")
		if fault.Status == http.StatusTooManyRequests {
			e = errTooMany
		}
		writeErrors(w, fault.Status, e)
		return true
	case !allowed:
		setRetryAfter(w, wait)
		writeErrors(w, http.StatusTooManyRequests, errTooMany)
		return true
	}
	return false
}

func setRetryAfter(w http.ResponseWriter, d time.Duration) {
	w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(d.Seconds()))))
}

// DenyNext lets the next authorization request come back as denied, as if the
// user had refused Clerk's consent.
func (s *Server) DenyNext() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.denyNext = true
}

// SetConsentScreen switches Clerk's own consent page on or off (off, the
// default: a user who is signed in is sent back at once).
func (s *Server) SetConsentScreen(on bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.consent = on
}

// SetOpaqueTokens chooses opaque access tokens ("oat_…") or, the default and
// Clerk's for new applications, JWTs.
func (s *Server) SetOpaqueTokens(on bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.opaque = on
}
