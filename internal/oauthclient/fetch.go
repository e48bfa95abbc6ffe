package oauthclient

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"time"
)

// maxBody bounds every answer, after decompression.
const maxBody = 1 << 20

// fetcher makes the requests to authorization servers and metadata documents:
// bounded in time and size, never redirected to another origin, and not led
// from a public server into a private network.
type fetcher struct {
	client       *http.Client
	transport    *http.Transport
	server       *url.URL
	allowPrivate bool
	log          *slog.Logger
	lookup       func(ctx context.Context, host string) ([]netip.Addr, error)

	mu     sync.Mutex
	public *bool // whether the MCP server has a public address; nil: not asked yet
}

func newFetcher(o Options, server *url.URL) *fetcher {
	base := o.Transport
	if base == nil {
		base, _ = http.DefaultTransport.(*http.Transport)
	}
	if base == nil {
		base = &http.Transport{Proxy: http.ProxyFromEnvironment}
	}
	f := &fetcher{transport: base.Clone(), server: server, allowPrivate: o.AllowPrivate, log: o.Logger, lookup: o.LookupIP}
	if f.lookup == nil {
		f.lookup = func(ctx context.Context, host string) ([]netip.Addr, error) {
			return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
		}
	}
	dial := f.transport.DialContext
	if dial == nil {
		dial = (&net.Dialer{Timeout: requestTimeout}).DialContext
	}
	f.transport.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := dial(ctx, network, addr)
		if err != nil || ctx.Value(guardedKey{}) == nil {
			return conn, err
		}
		// The address is judged on the connection itself, where no second
		// answer of a resolver can differ, and before a byte is sent.
		if remote, err := netip.ParseAddrPort(conn.RemoteAddr().String()); err != nil || isPrivate(remote.Addr()) {
			conn.Close()
			return nil, &privateAddressError{host: addr}
		}
		return conn, nil
	}
	f.client = &http.Client{
		Transport: f.transport,
		Timeout:   requestTimeout,
		CheckRedirect: func(req *http.Request, via []*http.Request) error {
			// Codes, refresh tokens and registrations are posted; Go would post
			// them again wherever a 307 points.
			if via[0].Method != http.MethodGet || len(via) > 3 || origin(req.URL) != origin(via[0].URL) {
				return http.ErrUseLastResponse
			}
			return nil
		},
	}
	return f
}

func (f *fetcher) close() { f.transport.CloseIdleConnections() }

type guardedKey struct{}

type privateAddressError struct{ host string }

func (e *privateAddressError) Error() string {
	return fmt.Sprintf("%q is at a private address, and the server is not: refused (--allow-private permits it)", e.host)
}

// check refuses URLs that a metadata document must not lead to: anything but
// https, but for http on this machine or on the very host that the user named
// with http.
func (f *fetcher) check(u *url.URL) error {
	host := u.Hostname()
	switch {
	case host == "" || u.Opaque != "":
		return fmt.Errorf("%q is not a web address", printable(u.String()))
	case u.User != nil:
		return fmt.Errorf("%q has a user name in it", displayURL(u))
	case u.Fragment != "":
		return fmt.Errorf("%q has a fragment", displayURL(u))
	case u.Scheme == "https":
		return checkHost(u)
	case u.Scheme != "http":
		return fmt.Errorf("%q is not https", printable(u.String()))
	case isLoopback(host) && (isLoopback(f.server.Hostname()) || f.allowPrivate):
		return checkHost(u)
	case f.server.Scheme == "http" && strings.EqualFold(host, f.server.Hostname()):
		return checkHost(u)
	}
	return fmt.Errorf("%q is not https", displayURL(u))
}

// parse reads an absolute URL out of a document and checks it.
func (f *fetcher) parse(raw string) (*url.URL, error) {
	u, err := url.Parse(raw)
	if err != nil {
		return nil, fmt.Errorf("%q is not a URL", printable(raw))
	}
	u.Scheme = strings.ToLower(u.Scheme)
	if err := f.check(u); err != nil {
		return nil, err
	}
	return u, nil
}

// answer is a response with its bounded body.
type answer struct {
	status      int
	header      http.Header
	body        []byte
	contentType string
}

func (a *answer) ok() bool { return a.status >= 200 && a.status < 300 }

func (f *fetcher) get(ctx context.Context, target string) (*answer, error) {
	return f.do(ctx, http.MethodGet, target, nil, "", nil)
}

func (f *fetcher) post(ctx context.Context, target, contentType string, body []byte, header http.Header) (*answer, error) {
	return f.do(ctx, http.MethodPost, target, body, contentType, header)
}

func (f *fetcher) do(ctx context.Context, method, target string, body []byte, contentType string, header http.Header) (*answer, error) {
	u, err := f.parse(target)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	var reader io.Reader
	if body != nil {
		reader = strings.NewReader(string(body))
	}
	req, err := http.NewRequestWithContext(ctx, method, u.String(), reader)
	if err != nil {
		return nil, fmt.Errorf("%s %q cannot be asked for", method, displayURL(u))
	}
	for name, values := range header {
		req.Header[name] = values
	}
	if req.Header.Get("Accept") == "" {
		req.Header.Set("Accept", "application/json")
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	if f.guards(ctx, req) {
		req = req.WithContext(context.WithValue(ctx, guardedKey{}, true))
		if ip, err := netip.ParseAddr(u.Hostname()); isLoopback(u.Hostname()) || err == nil && isPrivate(ip) {
			return nil, &privateAddressError{host: u.Host}
		}
	}
	start := time.Now()
	resp, err := f.client.Do(req)
	if err != nil {
		// *url.Error repeats the URL with its query; the cause is enough.
		var urlErr *url.Error
		if errors.As(err, &urlErr) {
			err = urlErr.Err
		}
		f.log.Debug("request failed", "method", method, "url", displayURL(u), "took", time.Since(start), "error", err.Error())
		return nil, fmt.Errorf("%s %q: %w", method, displayURL(u), err)
	}
	defer resp.Body.Close()
	f.log.Debug("request", "method", method, "url", displayURL(u), "status", resp.StatusCode, "took", time.Since(start))
	read, err := io.ReadAll(io.LimitReader(resp.Body, maxBody+1))
	if err != nil {
		return nil, fmt.Errorf("read answer of %q: %w", displayURL(u), err)
	}
	if len(read) > maxBody {
		return nil, fmt.Errorf("answer of %q is larger than %d bytes", displayURL(u), maxBody)
	}
	return &answer{status: resp.StatusCode, header: resp.Header, body: read, contentType: resp.Header.Get("Content-Type")}, nil
}

// guards reports whether the connection for req must not end at a private
// address: the MCP server is public, and no proxy resolves the name.
func (f *fetcher) guards(ctx context.Context, req *http.Request) bool {
	if f.allowPrivate || origin(req.URL) == origin(f.server) {
		return false
	}
	if f.transport.Proxy != nil {
		if proxy, err := f.transport.Proxy(req); err == nil && proxy != nil {
			return false
		}
	}
	return f.serverIsPublic(ctx)
}

func (f *fetcher) serverIsPublic(ctx context.Context) bool {
	f.mu.Lock()
	known := f.public
	f.mu.Unlock()
	if known != nil {
		return *known
	}
	public, sure := f.classify(ctx)
	if sure {
		f.mu.Lock()
		f.public = &public
		f.mu.Unlock()
	}
	return public
}

// classify takes a server that can't be resolved for a public one: the guard
// errs on the side of refusing.
func (f *fetcher) classify(ctx context.Context) (public, sure bool) {
	host := f.server.Hostname()
	if isLoopback(host) {
		return false, true
	}
	if ip, err := netip.ParseAddr(host); err == nil {
		return !isPrivate(ip), true
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	ips, err := f.lookup(ctx, host)
	if err != nil || len(ips) == 0 {
		return true, false
	}
	for _, ip := range ips {
		if !isPrivate(ip) {
			return true, true
		}
	}
	return false, true
}

// decodeJSON reads an object. The content type is not asked for: servers send
// metadata as anything.
func decodeJSON(a *answer, into any) error {
	if err := json.Unmarshal(a.body, into); err != nil {
		return errors.New("the answer is not the JSON object that was expected")
	}
	return nil
}
