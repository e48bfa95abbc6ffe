package clerk_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"html"
	"io"
	"log/slog"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/oauth2"

	"github.com/mcp-clerk/mcp-clerk/internal/clerk"
	"github.com/mcp-clerk/mcp-clerk/internal/devclerk"
	"github.com/mcp-clerk/mcp-clerk/internal/identity"
)

const (
	clientID     = "client_of_the_tests"
	clientSecret = "CANARY-client-secret"
	secretKey    = "sk_test_CANARY-secret-key"
	redirectURL  = "http://localhost:8788/callback"
	state        = "state-of-the-test"
	nonce        = "nonce-of-the-test"
)

var start = time.Date(2026, 11, 23, 9, 0, 0, 0, time.UTC)

// clock is a time that only the test moves.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) Add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

// log is what the Clerk under test wrote.
type log struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// rig is a Clerk in front of a stand-in behind a real socket.
type rig struct {
	t     *testing.T
	dev   *devclerk.Server
	clerk *clerk.Clerk
	clock *clock
	log   *log
	url   string
}

// newRig starts a stand-in. wrap, if not nil, stands in front of it.
func newRig(t *testing.T, wrap func(http.Handler) http.Handler) *rig {
	t.Helper()
	r := &rig{t: t, clock: &clock{t: start}, log: &log{}}
	var err error
	r.dev, err = devclerk.New(devclerk.Options{
		ClientID: clientID, ClientSecret: clientSecret, SecretKey: secretKey, RedirectURLs: []string{redirectURL}, Now: r.clock.Now, SigningKey: rsaKey(),
	})
	must(t, err)
	var h http.Handler = r.dev
	if wrap != nil {
		h = wrap(h)
	}
	ts := httptest.NewServer(h)
	t.Cleanup(ts.Close)
	r.url = ts.URL
	must(t, r.dev.SetIssuer(ts.URL))
	r.clerk = newClerk(t, ts.URL, r.clock, r.log)
	return r
}

// newClerk makes a Clerk whose both APIs are at base, with credentials that
// must not be seen anywhere. Its log is checked for them at the end.
func newClerk(t testing.TB, base string, c *clock, l *log) *clerk.Clerk {
	t.Helper()
	transport := &http.Transport{}
	k, err := clerk.New(options(base, transport, c, l))
	must(t, err)
	t.Cleanup(func() {
		must(t, k.Close())
		transport.CloseIdleConnections()
		if strings.Contains(l.String(), "CANARY") {
			t.Errorf("the log holds a secret:\n%s", l.String())
		}
	})
	return k
}

func options(base string, transport *http.Transport, c *clock, l *log) clerk.Options {
	return clerk.Options{
		FrontendAPI: base, APIURL: base, ClientID: clientID, ClientSecret: clientSecret, SecretKey: secretKey, RedirectURL: redirectURL,
		HTTPClient: &http.Client{Transport: transport}, Logger: slog.New(slog.NewTextHandler(l, nil)), Now: c.Now,
	}
}

// options are those of the rig's Clerk, for another one.
func (r *rig) options() clerk.Options {
	transport := &http.Transport{}
	r.t.Cleanup(transport.CloseIdleConnections)
	return options(r.url, transport, r.clock, r.log)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// wantErr checks that err is one, of the given kind (nil: neither of
// identity's), and that it gives nothing away.
func wantErr(t *testing.T, err, kind error) {
	t.Helper()
	if err == nil {
		t.Fatal("no error")
	}
	for _, k := range []error{identity.ErrUnavailable, identity.ErrNoUser} {
		if errors.Is(err, k) != errors.Is(kind, k) {
			t.Errorf("error %q, want kind %v", err, kind)
		}
	}
	if strings.Contains(err.Error(), "CANARY") || strings.Contains(fmt.Sprintf("%+v %#v", err, err), "CANARY") {
		t.Errorf("the error holds a secret: %q", err)
	}
}

var (
	formAction = regexp.MustCompile(`<form method="post" action="([^"]+)">`)
	userButton = regexp.MustCompile(`<button type="submit" name="user" value="([^"]+)"[^>]*>([^<]*)</button>`)
)

// browse opens authURL in a new browser, signs in as email and returns the
// query that comes back.
func (r *rig) browse(authURL, email string) url.Values {
	r.t.Helper()
	jar, err := cookiejar.New(nil)
	must(r.t, err)
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	browser := &http.Client{Jar: jar, Transport: transport, Timeout: 10 * time.Second, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := browser.Get(authURL)
	must(r.t, err)
	page, err := io.ReadAll(resp.Body)
	must(r.t, err)
	_ = resp.Body.Close()
	action := formAction.FindSubmatch(page)
	if action == nil {
		r.t.Fatalf("status %d and no form:\n%s", resp.StatusCode, page)
	}
	for _, b := range userButton.FindAllSubmatch(page, -1) {
		if string(b[2]) != email {
			continue
		}
		resp, err := browser.PostForm(r.url+html.UnescapeString(string(action[1])), url.Values{"user": {string(b[1])}})
		must(r.t, err)
		_ = resp.Body.Close()
		u, err := resp.Location()
		must(r.t, err)
		return u.Query()
	}
	r.t.Fatalf("no button %q", email)
	return nil
}

// signIn goes through a whole sign-in and returns what Complete needs.
func (r *rig) signIn(email string) (code, verifier string) {
	r.t.Helper()
	verifier = oauth2.GenerateVerifier()
	authURL, err := r.clerk.Begin(context.Background(), state, nonce, verifier, "")
	must(r.t, err)
	return r.browse(authURL, email).Get("code"), verifier
}
