package transport

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Options configure a Client.
type Options struct {
	// URL is the MCP endpoint, absolute, http or https.
	URL string
	// HTTPClient gives its Transport and its Jar; nil means DefaultTransport and
	// no cookies. Its time-out and redirect policy are not used.
	HTTPClient *http.Client
	// Authorizer supplies the bearer tokens; nil sends none.
	Authorizer Authorizer
	// Header is sent with every request to the server's origin, and only there.
	// Its values are never logged. What the protocol sets itself wins.
	Header http.Header
	// UserAgent is the User-Agent header; empty leaves net/http's.
	UserAgent string
	// MaxMessage is the largest message accepted, in bytes; 0 means
	// DefaultMaxMessage.
	MaxMessage int
	// Spool keeps large messages out of memory; nil leaves them there.
	Spool *Spool
	// BodyTimeout is the longest gap within an answer, streams included; 0: none.
	BodyTimeout time.Duration
	// Log takes what happened, without any header value; nil drops it.
	Log *slog.Logger
}

// A Client speaks Streamable HTTP with one MCP endpoint. It has no session of
// its own, which is all that revision 2026-07-28 needs; NewSession adds those
// of the earlier revisions. It is safe for concurrent use.
type Client struct {
	url        *url.URL
	http       *http.Client
	authorizer Authorizer
	header     http.Header
	max        int
	bodyGap    time.Duration
	spool      *Spool
	buffers    sync.Pool // of *[]byte, for reading bodies
	log        *slog.Logger
	flights    flights
	idle       idleGuard
}

// Bounds on what one call may cost.
const (
	maxTries     = 3                // of a request over refusals (401, 403), and again over 429 and 503
	maxRedirects = 3                // of one attempt
	maxRetryWait = 20 * time.Second // what a Retry-After may ask for
	dialBudget   = 5 * time.Second  // for reaching a server that is being restarted
	maxErrorBody = 1 << 20          // of an answer that is no success, in bytes
)

// DefaultTransport returns an HTTP transport fit for a bridge: proxies from the
// environment, bounded connection set-up, enough idle connections for many
// calls at once, and checks that find connections that died while asleep.
// It has no time-out for the answer: a tool may take its time.
func DefaultTransport() *http.Transport {
	dialer := &net.Dialer{
		Timeout:         10 * time.Second,
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 10 * time.Second, Count: 3},
	}
	return &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		DialContext:            dialer.DialContext,
		TLSHandshakeTimeout:    10 * time.Second,
		MaxIdleConns:           64,
		MaxIdleConnsPerHost:    64,
		IdleConnTimeout:        90 * time.Second,
		MaxResponseHeaderBytes: 256 << 10,
		ForceAttemptHTTP2:      true,
		HTTP2:                  &http.HTTP2Config{SendPingTimeout: 15 * time.Second, PingTimeout: 15 * time.Second},
	}
}

// NewClient returns a client of the endpoint. It makes no request.
func NewClient(o Options) (*Client, error) {
	u, err := url.Parse(o.URL)
	if err != nil {
		return nil, fmt.Errorf("server URL: %w", err)
	}
	if u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return nil, fmt.Errorf("server URL %q is not an absolute http or https URL", o.URL)
	}
	if u.User != nil {
		return nil, errors.New("server URL carries a user name or password")
	}
	u.Fragment = ""
	c := &Client{
		url:        u,
		authorizer: o.Authorizer,
		header:     o.Header.Clone(),
		max:        o.MaxMessage,
		spool:      o.Spool,
		bodyGap:    o.BodyTimeout,
		log:        o.Log,
	}
	if c.header == nil {
		c.header = http.Header{}
	}
	for _, name := range []string{"Connection", "Keep-Alive", "Te", "Trailer", "Transfer-Encoding", "Upgrade"} {
		c.header.Del(name) // of one connection, not of the message (RFC 9110 section 7.6.1)
	}
	if o.UserAgent != "" {
		c.header.Set("User-Agent", o.UserAgent)
	}
	if c.max <= 0 {
		c.max = DefaultMaxMessage
	}
	if c.log == nil {
		c.log = slog.New(slog.DiscardHandler)
	}
	c.http = &http.Client{CheckRedirect: c.checkRedirect}
	if o.HTTPClient != nil {
		c.http.Transport, c.http.Jar = o.HTTPClient.Transport, o.HTTPClient.Jar
	}
	if c.http.Transport == nil {
		c.http.Transport = DefaultTransport()
	}
	c.buffers.New = func() any {
		b := make([]byte, 16<<10)
		return &b
	}
	c.flights.init()
	return c, nil
}

// Host returns the server's host, with its port where the URL has one: the name
// under which errors speak of it.
func (c *Client) Host() string { return c.url.Host }

// Close gives up what the client waits for in the background, waits until that
// has ended or ctx has, and drops idle connections. Calls under way end with
// their own contexts.
func (c *Client) Close(ctx context.Context) {
	c.flights.stop()
	c.flights.wait(ctx)
	c.http.CloseIdleConnections()
}

// checkRedirect follows a redirect only where nothing can leak and nothing can
// change: to the same origin, with the same method. So a GET is followed, and a
// POST only for 307 and 308, which promise that the first place did not execute
// it (RFC 9110 section 15.4). A 301, 302 or 303 would turn the POST into a GET.
func (c *Client) checkRedirect(req *http.Request, via []*http.Request) error {
	if len(via) > maxRedirects || req.Method != via[0].Method || !sameOrigin(req.URL, c.url) {
		return http.ErrUseLastResponse
	}
	return nil
}

func sameOrigin(a, b *url.URL) bool {
	return a.Scheme == b.Scheme && strings.EqualFold(a.Hostname(), b.Hostname()) && port(a) == port(b)
}

func port(u *url.URL) string {
	switch p := u.Port(); {
	case p != "":
		return p
	case u.Scheme == "https":
		return "443"
	default:
		return "80"
	}
}

// exchange is one request to the endpoint, over all its attempts.
type exchange struct {
	method string
	url    *url.URL // of the client's origin; nil: the endpoint
	header http.Header
	body   []byte
	// started is called when the body may have begun to leave.
	started func()
	// authorizing is called around the waits for the Authorizer. Nil: the
	// Authorizer is not asked at all, a 401 comes back as it is.
	authorizing func(waiting bool)
	// retry503 is false where a 503 may come from behind the execution.
	retry503 bool
	// dial is how long a server that cannot be reached is tried again.
	dial time.Duration
}

// send makes the request until it is answered by something else than a refusal
// that another attempt can cure. The caller closes the answer's body.
func (c *Client) send(ctx context.Context, x exchange) (*http.Response, error) {
	var refusals, busy, dials int
	began := time.Now()
	for {
		token := ""
		if c.authorizer != nil {
			t, err := c.authorizer.Token(ctx)
			if err != nil {
				return nil, unlessDone(ctx, &AuthError{Host: c.Host(), Err: err})
			}
			token = t
		}
		resp, sent, err := c.attempt(ctx, x, token)
		if err != nil {
			if ctx.Err() != nil {
				return nil, context.Cause(ctx)
			}
			if sent {
				return nil, &LostError{Host: c.Host(), Err: err}
			}
			wait := backoff(dials, 50*time.Millisecond, time.Second)
			dials++
			if !transient(err) || time.Since(began)+wait > x.dial {
				return nil, &UnreachableError{Host: c.Host(), Err: err}
			}
			c.log.Debug("server not reached, trying again", "host", c.Host(), "try", dials, "error", err.Error())
			if err := sleep(ctx, wait); err != nil {
				return nil, err
			}
			continue
		}
		var again error
		switch {
		case refused(resp) && x.authorizing != nil:
			refusals++
			again = c.reauthorize(ctx, x, token, resp, refusals)
		case resp.StatusCode == http.StatusTooManyRequests, resp.StatusCode == http.StatusServiceUnavailable && x.retry503:
			busy++
			if busy == maxTries {
				return resp, nil
			}
			wait := retryAfter(resp.Header.Get("Retry-After"), busy, time.Now())
			discard(resp)
			c.log.Debug("server is busy", "host", c.Host(), "status", resp.StatusCode, "wait", wait)
			again = sleep(ctx, wait)
		default:
			return resp, nil
		}
		if again != nil {
			return nil, again
		}
	}
}

// attempt makes one HTTP request. sent tells whether any of it may have left when
// it failed.
func (c *Client) attempt(ctx context.Context, x exchange, token string) (resp *http.Response, sent bool, err error) {
	var begun atomic.Bool
	var failed error
	size := int64(len(x.body))
	body := func() io.ReadCloser {
		begun.Store(false) // net/http takes another one where nothing of the last was written
		if !c.spool.Holds(x.body) {
			// Of a type that net/http knows, so that it goes out with the headers.
			return io.NopCloser(bytes.NewReader(x.body))
		}
		var r io.Reader
		if r, size, failed = c.spool.open(x.body); failed != nil {
			return http.NoBody
		}
		return io.NopCloser(r)
	}
	at := c.url
	if x.url != nil {
		at = x.url
	}
	req := &http.Request{Method: x.method, URL: at, Header: c.header.Clone(), Host: c.header.Get("Host")}
	if x.body != nil {
		req.Body = body()
		req.ContentLength = size
		req.GetBody = func() (io.ReadCloser, error) { return body(), failed }
		if failed != nil {
			return nil, false, failed
		}
	}
	for k, v := range x.header {
		req.Header[k] = v
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	if c.idle.expired(time.Now()) {
		c.http.CloseIdleConnections()
	}
	start := time.Now()
	if x.body != nil {
		ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{WroteHeaders: func() {
			begun.Store(true)
			if x.started != nil {
				x.started()
			}
		}})
	}
	resp, err = c.http.Do(req.WithContext(ctx))
	c.idle.used(resp, time.Now())
	if err != nil {
		if u, ok := errors.AsType[*url.Error](err); ok {
			err = u.Err // the URL's query is nobody's business
		}
		c.log.Debug("request failed", "method", x.method, "host", c.Host(), "took", time.Since(start), "sent", begun.Load(), "error", err.Error())
		return nil, begun.Load(), err
	}
	if c.log.Enabled(ctx, slog.LevelDebug) {
		c.log.Debug("request", "method", x.method, "host", c.Host(), "bytes", size, "status", resp.StatusCode, "type", mediaType(resp), "took", time.Since(start))
	}
	if c.bodyGap > 0 {
		resp.Body = newTimedBody(resp.Body, c.bodyGap)
	}
	return resp, true, nil
}

// timedBody ends an answer that stands still for too long.
type timedBody struct {
	body  io.ReadCloser
	gap   time.Duration
	timer *time.Timer
	late  atomic.Bool
}

func newTimedBody(body io.ReadCloser, gap time.Duration) *timedBody {
	b := &timedBody{body: body, gap: gap}
	b.timer = time.AfterFunc(gap, func() {
		b.late.Store(true)
		_ = body.Close()
	})
	return b
}

func (b *timedBody) Read(p []byte) (int, error) {
	b.timer.Reset(b.gap)
	n, err := b.body.Read(p)
	if err != nil && b.late.Load() {
		err = fmt.Errorf("no byte of the answer within %s", b.gap)
	}
	return n, err
}

func (b *timedBody) Close() error {
	b.timer.Stop()
	return b.body.Close()
}

// idleGuard keeps requests off connections that the server is about to close.
// A server that drops idle connections after a few seconds says so in its
// Keep-Alive header (Node's default is 5 s). A request that meets the closing
// connection fails with some bytes written, and then must not be repeated.
type idleGuard struct {
	timeout atomic.Int64 // what the server named, in ns; 0: nothing
	last    atomic.Int64 // when an answer last arrived, in ns since 1970
}

func (g *idleGuard) used(resp *http.Response, now time.Time) {
	if resp == nil {
		return
	}
	g.last.Store(now.UnixNano())
	for param := range strings.SplitSeq(resp.Header.Get("Keep-Alive"), ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(param), "=")
		if s, err := strconv.Atoi(value); err == nil && strings.EqualFold(name, "timeout") && s > 0 && s < 3600 {
			g.timeout.Store(int64(s) * int64(time.Second))
		}
	}
}

// expired reports whether a kept connection may be within a second of its end.
func (g *idleGuard) expired(now time.Time) bool {
	timeout := g.timeout.Load()
	return timeout > 0 && now.UnixNano()-g.last.Load() > timeout-int64(time.Second)
}

// transient tells whether reaching the server may succeed a moment later, as
// while it restarts or while a machine wakes up.
func transient(err error) bool {
	if dns, ok := errors.AsType[*net.DNSError](err); ok {
		return dns.IsTemporary || dns.IsTimeout
	}
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return false
	}
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		return false
	}
	if op, ok := errors.AsType[*net.OpError](err); ok {
		return op.Op == "dial" || op.Op == "read" || op.Op == "write" // and not an alert of TLS
	}
	// net/http has no name for a kept connection that the server closed.
	return errors.Is(err, io.EOF) || strings.Contains(err.Error(), "server closed idle connection")
}

// refused reports whether an answer asks for a (better) token: 401, or 403 with
// a bearer challenge (RFC 6750 section 3).
func refused(resp *http.Response) bool {
	switch resp.StatusCode {
	case http.StatusUnauthorized:
		return true
	case http.StatusForbidden:
		for _, v := range resp.Header.Values("Www-Authenticate") {
			for challenge := range strings.SplitSeq(v, ",") {
				scheme, _, _ := strings.Cut(strings.TrimSpace(challenge), " ")
				if strings.EqualFold(scheme, "Bearer") {
					return true
				}
			}
		}
	}
	return false
}

// discard ends an answer nobody reads, keeping its connection if little is left.
func discard(resp *http.Response) {
	_, _ = io.CopyN(io.Discard, resp.Body, 16<<10)
	_ = resp.Body.Close()
}

// unlessDone returns err, or why ctx ended if it did.
func unlessDone(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}
