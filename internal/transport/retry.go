package transport

import (
	"context"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// reauthorize has the Authorizer deal with a refusal, the n-th of this request.
// It returns nil when the request should be made again.
func (c *Client) reauthorize(ctx context.Context, x exchange, token string, resp *http.Response, n int) error {
	status, header := resp.StatusCode, resp.Header
	discard(resp)
	if c.authorizer == nil || n == maxTries {
		return &AuthError{Host: c.Host(), Status: status}
	}
	if status == http.StatusUnauthorized {
		// Another call may have been through this already.
		if now, err := c.authorizer.Token(ctx); err == nil && now != token {
			return nil
		}
	}
	c.log.Debug("request refused, asking for authorization", "host", c.Host(), "status", status)
	x.authorizing(true)
	defer x.authorizing(false)
	key := strconv.Itoa(status) + " " + token + " " + strings.Join(header.Values("Www-Authenticate"), ",")
	err := c.flights.do(ctx, key, func(life context.Context) error {
		return c.authorizer.Authorize(life, token, status, header)
	})
	if err != nil {
		return unlessDone(ctx, &AuthError{Host: c.Host(), Status: status, Err: err})
	}
	return nil
}

// retryAfter says how long to wait before the next attempt after the n-th 429
// or 503: what the server asked for (RFC 9110 section 10.2.3, seconds or a
// date), at most maxRetryWait, or else an exponential wait; plus up to a tenth,
// so that many clients do not come back at the same moment.
func retryAfter(value string, n int, now time.Time) time.Duration {
	wait := time.Duration(-1)
	value = strings.TrimSpace(value)
	if s, err := strconv.ParseFloat(value, 64); err == nil {
		if s >= maxRetryWait.Seconds() {
			wait = maxRetryWait
		} else if s >= 0 {
			wait = time.Duration(s * float64(time.Second))
		}
	} else if at, err := http.ParseTime(value); err == nil {
		wait = min(max(at.Sub(now), 0), maxRetryWait)
	}
	if wait < 0 {
		return backoff(n, 250*time.Millisecond, maxRetryWait)
	}
	return wait + rand.N(wait/10+20*time.Millisecond) //nolint:gosec // jitter, not a secret
}

// backoff returns the wait before attempt n (from 0): base doubled n times, at
// most limit, of which the second half is random.
func backoff(n int, base, limit time.Duration) time.Duration {
	wait := limit
	if n < 20 {
		wait = min(base<<n, limit)
	}
	return wait/2 + rand.N(wait/2+1) //nolint:gosec // jitter, not a secret
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
