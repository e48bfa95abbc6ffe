package clerk

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/mcp-clerk/mcp-clerk/internal/identity"
)

const (
	apiTimeout  = 3 * time.Second  // one request to the Backend API
	oidcTimeout = 10 * time.Second // discovery, keys, the token request
	maxAnswer   = 1 << 20          // bytes of any answer, after decompression
)

var (
	errRedirect = errors.New("the answer is a redirect, which is refused")
	errTooLarge = fmt.Errorf("the answer is larger than %d bytes", maxAnswer)
)

// newHTTPClient makes the only kind of client this package uses: bounded in
// time and size, and never following a redirect, so that no credential reaches
// an origin that wasn't configured.
func newHTTPClient(t http.RoundTripper, timeout time.Duration) *http.Client {
	return &http.Client{
		Transport:     boundedTransport{t},
		Timeout:       timeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return errRedirect },
	}
}

// boundedTransport limits the bodies of answers, and notes how they came out.
type boundedTransport struct{ next http.RoundTripper }

func (t boundedTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := t.next.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	if note, ok := r.Context().Value(answerKey{}).(*answer); ok {
		note.status, note.header = resp.StatusCode, resp.Header
	}
	if resp.ContentLength > maxAnswer {
		_ = resp.Body.Close()
		return nil, errTooLarge
	}
	resp.Body = &boundedBody{ReadCloser: resp.Body, left: maxAnswer}
	return resp, nil
}

type boundedBody struct {
	io.ReadCloser
	left int64
}

func (b *boundedBody) Read(p []byte) (int, error) {
	// One byte more than is left tells a body that ends here from a longer one.
	if int64(len(p)) > b.left+1 {
		p = p[:b.left+1]
	}
	n, err := b.ReadCloser.Read(p)
	if b.left -= int64(n); b.left < 0 {
		return 0, errTooLarge
	}
	return n, err
}

// answer is what a request came to, kept beside the SDK, which turns an error
// whose body is not Clerk's into one without a status.
type answer struct {
	status int
	header http.Header
}

type answerKey struct{}

func noteAnswer(ctx context.Context) (context.Context, *answer) {
	a := &answer{}
	return context.WithValue(ctx, answerKey{}, a), a
}

// retryAfter reads the header in seconds or as a date (RFC 9110 section
// 10.2.3); ok is false when there is none that can be read.
func (a *answer) retryAfter(now time.Time) (wait time.Duration, ok bool) {
	text := strings.TrimSpace(a.header.Get("Retry-After"))
	if s, err := strconv.ParseUint(text, 10, 32); err == nil {
		return time.Duration(s) * time.Second, true
	}
	if t, err := http.ParseTime(text); err == nil {
		return max(0, t.Sub(now)), true
	}
	return 0, false
}

// getJSON reads a public document. Its error wraps identity.ErrUnavailable.
func (c *Clerk) getJSON(ctx context.Context, what, address string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, unavailable(what, errors.New("its address can't be used"))
	}
	req.Header.Set("Accept", "application/json")
	resp, err := c.oidcClient.Do(req)
	if err != nil {
		return nil, unavailable(what, reason(err))
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return nil, unavailable(what, statusError(resp.StatusCode))
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, unavailable(what, reason(err))
	}
	return body, nil
}

// unavailable wraps identity.ErrUnavailable with what could not be had.
func unavailable(what string, cause error) error {
	return fmt.Errorf("%s: %w: %w", what, cause, identity.ErrUnavailable)
}

// reason reduces the error of a request to what may be shown: no URL, no body.
func reason(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err
	}
	var netErr net.Error
	switch {
	case errors.Is(err, errTooLarge):
		return errTooLarge
	case errors.Is(err, errRedirect):
		return errRedirect
	case errors.Is(err, context.Canceled):
		return context.Canceled
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &netErr) && netErr.Timeout():
		return errors.New("no answer in time")
	}
	var op *net.OpError
	if errors.As(err, &op) {
		return op
	}
	var dns *net.DNSError
	if errors.As(err, &dns) {
		return dns
	}
	if u != nil {
		return err // of the transport: TLS, a broken connection
	}
	return errors.New("the answer can't be read")
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
