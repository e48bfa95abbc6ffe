package devclerk_test

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"html"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mcp-clerk/mcp-clerk/internal/devclerk"
)

const (
	clientID  = "dev_client"
	redirect  = "http://localhost:8788/callback"
	verifier  = "a-verifier-of-more-than-forty-three-characters-0"
	goodState = "state-of-this-sign-in"
)

// An RSA key is slow to make: the tests share one.
var rsaKey = sync.OnceValue(func() *rsa.PrivateKey {
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return k
})

// clock is a time that only the test moves.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func newClock() *clock { return &clock{t: time.Date(2026, 11, 23, 9, 0, 0, 0, time.UTC)} }

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

// rig is a stand-in behind a real socket, and a browser.
type rig struct {
	t     *testing.T
	srv   *devclerk.Server
	url   string
	clock *clock
	http  *http.Client
}

func newRig(t *testing.T) *rig {
	t.Helper()
	c := newClock()
	srv, err := devclerk.New(devclerk.Options{
		ClientID: clientID, ClientSecret: "dev_secret", SecretKey: "sk_test_dev", RedirectURLs: []string{redirect}, Now: c.Now, SigningKey: rsaKey(),
	})
	must(t, err)
	ts := httptest.NewServer(srv)
	t.Cleanup(ts.Close)
	must(t, srv.SetIssuer(ts.URL))
	r := &rig{t: t, srv: srv, url: ts.URL, clock: c}
	r.newBrowser()
	return r
}

// newBrowser forgets all cookies. Redirects are not followed.
func (r *rig) newBrowser() {
	jar, err := cookiejar.New(nil)
	must(r.t, err)
	r.http = &http.Client{Jar: jar, Timeout: 10 * time.Second, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func challenge(v string) string {
	sum := sha256.Sum256([]byte(v))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// request is a valid authorization request, changed by pairs of name and value;
// the value "-" removes.
func request(pairs ...string) url.Values {
	q := url.Values{
		"response_type": {"code"}, "client_id": {clientID}, "redirect_uri": {redirect}, "state": {goodState},
		"scope": {"openid profile email public_metadata"}, "nonce": {"n-1"},
		"code_challenge": {challenge(verifier)}, "code_challenge_method": {"S256"},
	}
	for i := 0; i < len(pairs); i += 2 {
		q.Set(pairs[i], pairs[i+1])
		if pairs[i+1] == "-" {
			q.Del(pairs[i])
		}
	}
	return q
}

type reply struct {
	status   int
	header   http.Header
	body     string
	location *url.URL
}

func (r *rig) do(req *http.Request) reply {
	r.t.Helper()
	resp, err := r.http.Do(req)
	must(r.t, err)
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	must(r.t, err)
	loc, _ := resp.Location()
	return reply{resp.StatusCode, resp.Header, string(b), loc}
}

func (r *rig) get(path string, header ...string) reply {
	r.t.Helper()
	req, err := http.NewRequest(http.MethodGet, r.url+path, nil)
	must(r.t, err)
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	return r.do(req)
}

func (r *rig) post(path string, form url.Values, header ...string) reply {
	r.t.Helper()
	req, err := http.NewRequest(http.MethodPost, r.url+path, strings.NewReader(form.Encode()))
	must(r.t, err)
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	return r.do(req)
}

func (r *rig) authorize(pairs ...string) reply {
	r.t.Helper()
	return r.get("/oauth/authorize?" + request(pairs...).Encode())
}

var (
	formAction = regexp.MustCompile(`<form method="post" action="([^"]+)">`)
	buttons    = regexp.MustCompile(`<button type="submit" name="([^"]+)" value="([^"]+)"[^>]*>([^<]*)</button>`)
)

// press submits the form of a page by the button with that label.
func (r *rig) press(page reply, label string, header ...string) reply {
	r.t.Helper()
	action := formAction.FindStringSubmatch(page.body)
	if action == nil {
		r.t.Fatalf("no form in the page (status %d):\n%s", page.status, page.body)
	}
	for _, b := range buttons.FindAllStringSubmatch(page.body, -1) {
		if b[3] == label {
			return r.post(html.UnescapeString(action[1]), url.Values{b[1]: {b[2]}}, header...)
		}
	}
	r.t.Fatalf("no button %q in:\n%s", label, page.body)
	return reply{}
}

func (r *rig) code(pairs ...string) string {
	r.t.Helper()
	back := r.press(r.authorize(pairs...), "admin@example.com")
	code := ""
	if back.location != nil {
		code = back.location.Query().Get("code")
	}
	if code == "" {
		r.t.Fatalf("no code: status %d, location %v", back.status, back.location)
	}
	return code
}

func (r *rig) token(form url.Values, header ...string) (int, map[string]any) {
	r.t.Helper()
	if header == nil {
		header = []string{"Authorization", "Basic " + base64.StdEncoding.EncodeToString([]byte(clientID+":dev_secret"))}
	}
	rep := r.post("/oauth/token", form, header...)
	return rep.status, object(r.t, rep.body)
}

func codeForm(code string, pairs ...string) url.Values {
	f := url.Values{"grant_type": {"authorization_code"}, "code": {code}, "redirect_uri": {redirect}, "code_verifier": {verifier}}
	for i := 0; i < len(pairs); i += 2 {
		f.Set(pairs[i], pairs[i+1])
		if pairs[i+1] == "-" {
			f.Del(pairs[i])
		}
	}
	return f
}

func object(t *testing.T, text string) map[string]any {
	t.Helper()
	var m map[string]any
	if err := json.Unmarshal([]byte(text), &m); err != nil {
		t.Fatalf("not an object: %v\n%s", err, text)
	}
	return m
}

func claims(t *testing.T, jwt any) map[string]any {
	t.Helper()
	text, _ := jwt.(string)
	parts := strings.Split(text, ".")
	if len(parts) != 3 {
		t.Fatalf("not a JWT: %v", jwt)
	}
	b, err := base64.RawURLEncoding.DecodeString(parts[1])
	must(t, err)
	return object(t, string(b))
}
