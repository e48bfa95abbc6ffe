package authserver

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Limits of what is fetched from addresses that clients name.
const (
	fetchTimeout  = 5 * time.Second // from the name to the last byte, however slowly it drips
	maxDocument   = 5 << 10         // bytes of a client's document
	maxKeySet     = 32 << 10        // bytes of a client's key set
	fetchesAtOnce = 32
)

var (
	// errUnreachable means that nothing was learned: a copy may stand in.
	errUnreachable = errors.New("document cannot be fetched now")
	// errBadDocument means that the answer is not what it has to be.
	errBadDocument = errors.New("document is refused")
)

// fetcher gets documents from addresses that anybody can name in a request. It
// connects to public addresses only, checked when it connects: a name that
// resolves to another address the second time gains nothing. It follows no
// redirect and no proxy of the environment, and reads a few KiB.
type fetcher struct {
	client   *http.Client
	timeout  time.Duration // fetchTimeout, but for tests
	loopback bool          // addresses of this machine are allowed, also without TLS
	slots    chan struct{}
}

func newFetcher(loopback bool) *fetcher {
	f := &fetcher{timeout: fetchTimeout, loopback: loopback, slots: make(chan struct{}, fetchesAtOnce)}
	dialer := &net.Dialer{Timeout: fetchTimeout, Control: f.control}
	f.client = &http.Client{
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			Proxy:                  nil,
			DialContext:            dialer.DialContext,
			TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12},
			DisableCompression:     true,
			DisableKeepAlives:      true, // each fetch is checked anew
			ForceAttemptHTTP2:      true,
			MaxResponseHeaderBytes: 16 << 10,
		},
	}
	return f
}

// fetched is an answer and how long it may be kept.
type fetched struct {
	body []byte
	life time.Duration
}

// get fetches a JSON text of at most limit bytes.
func (f *fetcher) get(ctx context.Context, target string, limit int) (fetched, error) {
	ctx, cancel := context.WithTimeout(ctx, f.timeout)
	defer cancel()
	select {
	case f.slots <- struct{}{}:
		defer func() { <-f.slots }()
	default:
		return fetched{}, fmt.Errorf("%w: too many fetches at once", errUnreachable)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	if err != nil {
		return fetched{}, fmt.Errorf("%w: %w", errBadDocument, err)
	}
	req.Header.Set("Accept", "application/json")
	req.Header.Set("Accept-Encoding", "identity")
	req.Header.Set("User-Agent", "mcp-clerk")
	res, err := f.client.Do(req)
	if errors.Is(err, errBlockedAddress) {
		return fetched{}, fmt.Errorf("%w: %w", errBadDocument, err)
	}
	if err != nil {
		return fetched{}, fmt.Errorf("%w: %w", errUnreachable, err)
	}
	defer res.Body.Close()
	switch {
	case res.StatusCode >= 500 || res.StatusCode == http.StatusTooManyRequests || res.StatusCode == http.StatusRequestTimeout:
		return fetched{}, fmt.Errorf("%w: status %d", errUnreachable, res.StatusCode)
	case res.StatusCode != http.StatusOK:
		return fetched{}, fmt.Errorf("%w: status %d", errBadDocument, res.StatusCode)
	case !strings.EqualFold(res.Header.Get("Content-Encoding"), "identity") && res.Header.Get("Content-Encoding") != "":
		return fetched{}, fmt.Errorf("%w: it is compressed", errBadDocument)
	case !isJSONType(res.Header.Get("Content-Type")):
		return fetched{}, fmt.Errorf("%w: its type is not JSON", errBadDocument)
	case res.ContentLength > int64(limit):
		return fetched{}, fmt.Errorf("%w: it is longer than %d bytes", errBadDocument, limit)
	}
	body, err := io.ReadAll(io.LimitReader(res.Body, int64(limit)+1))
	if err != nil {
		return fetched{}, fmt.Errorf("%w: %w", errUnreachable, err)
	}
	if len(body) > limit {
		return fetched{}, fmt.Errorf("%w: it is longer than %d bytes", errBadDocument, limit)
	}
	return fetched{body, cacheLife(res.Header)}, nil
}

// isJSONType accepts application/json and the types that are built on it (RFC
// 6839 section 3.1).
func isJSONType(header string) bool {
	t, _, err := mime.ParseMediaType(header)
	return err == nil && (t == "application/json" || strings.HasPrefix(t, "application/") && strings.HasSuffix(t, "+json"))
}

// How long what was fetched is kept, whatever its headers say.
const (
	lifeShortest = time.Minute
	lifeLongest  = 24 * time.Hour
	lifeDefault  = time.Hour
	lifeFailed   = 30 * time.Second // a failure
	lifeStandIn  = time.Minute      // a copy that stands in
)

// cacheLife is the freshness that the headers give (RFC 9111 section 4.2.1),
// within bounds.
func cacheLife(h http.Header) time.Duration {
	life := lifeDefault
	for directive := range strings.SplitSeq(strings.ToLower(strings.Join(h.Values("Cache-Control"), ",")), ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(directive), "=")
		switch name {
		case "no-store", "no-cache":
			return lifeShortest
		case "max-age":
			seconds, err := strconv.ParseUint(strings.Trim(value, `"`), 10, 31)
			if err != nil {
				return lifeShortest
			}
			life = time.Duration(seconds) * time.Second
			if age, err := strconv.ParseUint(h.Get("Age"), 10, 31); err == nil {
				life -= time.Duration(age) * time.Second
			}
		}
	}
	return min(max(life, lifeShortest), lifeLongest)
}

var errBlockedAddress = errors.New("address is not a public one")

// control looks at the address that is about to be connected to.
func (f *fetcher) control(_, address string, _ syscall.RawConn) error {
	ap, err := netip.ParseAddrPort(address)
	if err != nil {
		return errBlockedAddress
	}
	addr := ap.Addr().WithZone("").Unmap()
	if f.loopback && addr.IsLoopback() {
		return nil
	}
	if !publicAddress(addr) || ownAddress(addr) {
		return errBlockedAddress
	}
	return nil
}

// ownAddress reports an address of this machine.
func ownAddress(addr netip.Addr) bool {
	list, err := net.InterfaceAddrs()
	if err != nil {
		return true // then nothing is known to be another's
	}
	for _, a := range list {
		if own, err := netip.ParsePrefix(a.String()); err == nil && own.Addr().Unmap() == addr {
			return true
		}
	}
	return false
}

// Addresses that are not of the public internet: the special-purpose registries
// of IANA (RFC 6890), without those that are.
var (
	nat64     = netip.MustParsePrefix("64:ff9b::/96") // RFC 6052: an IPv4 address in its last 32 bits
	globalIP6 = netip.MustParsePrefix("2000::/3")     // all that is assigned; private, link-local and multicast ones lie outside
	notPublic = prefixes(
		"0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24",
		"192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24",
		"224.0.0.0/4", "240.0.0.0/4",
		"2001::/23",     // IETF protocols, Teredo among them, which embeds IPv4
		"2001:db8::/32", // documentation
		"2002::/16",     // 6to4, which embeds IPv4
		"3fff::/20",     // documentation
	)
)

func prefixes(list ...string) []netip.Prefix {
	out := make([]netip.Prefix, len(list))
	for i, text := range list {
		out[i] = netip.MustParsePrefix(text)
	}
	return out
}

// publicAddress reports an address that anybody on the internet can reach.
func publicAddress(addr netip.Addr) bool {
	addr = addr.WithZone("").Unmap()
	if nat64.Contains(addr) {
		b := addr.As16()
		addr = netip.AddrFrom4([4]byte(b[12:]))
	}
	if addr.Is6() && !globalIP6.Contains(addr) {
		return false
	}
	for _, p := range notPublic {
		if p.Contains(addr) {
			return false
		}
	}
	return addr.IsValid()
}
