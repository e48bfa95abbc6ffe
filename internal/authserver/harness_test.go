package authserver_test

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mcp-clerk/mcp-clerk/internal/authserver"
	"github.com/mcp-clerk/mcp-clerk/internal/identity"
	"github.com/mcp-clerk/mcp-clerk/internal/secret"
	"github.com/mcp-clerk/mcp-clerk/internal/store"
)

const (
	testKey      = "8f1d0c2b7a69584e3d5c6b7a8990a1b2c3d4e5f60718293a4b5c6d7e8f90a1b3"
	otherKey     = "1a7be02c94d3586f0e8b7c6d5a4f3e2d1c0b9a8f7e6d5c4b3a29180f1e2d3c4b"
	webRedirect  = "https://app.example/cb"
	loopRedirect = "http://127.0.0.1/callback"
	providerHost = "clerk.example"
)

// clock is a clock that stands until it is moved.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// env is one server with everything around it, in memory.
type env struct {
	t        testing.TB
	clock    *clock
	store    store.Store
	srv      *authserver.Server
	provider *provider
	issuer   string
	hosts    map[string]http.Handler
	addr     string // peer address of requests
	events   *eventLog
}

type eventLog struct {
	mu   sync.Mutex
	list []authserver.Event
}

func (l *eventLog) add(_ context.Context, e authserver.Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.list = append(l.list, e)
}

func (l *eventLog) has(name, reason string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range l.list {
		if e.Name == name && (reason == "" || e.Reason == reason) {
			return true
		}
	}
	return false
}

func newEnv(t testing.TB, change ...func(*authserver.Options)) *env {
	t.Helper()
	e := &env{t: t, clock: &clock{now: time.Date(2026, 7, 28, 12, 0, 0, 0, time.UTC)}, events: &eventLog{}, addr: "127.0.0.1:1234"}
	e.store = store.NewMemory(store.Options{Now: e.clock.Now})
	t.Cleanup(func() { e.store.Close() })
	e.start(change...)
	return e
}

// start builds the server over the present store; started again, it is a
// restart or another instance.
func (e *env) start(change ...func(*authserver.Options)) {
	e.t.Helper()
	o := authserver.Options{
		PublicURL: "https://mcp.example", Keys: []secret.String{testKey}, Store: e.store, Now: e.clock.Now, Observe: e.events.add,
		ServerName: "Test Tools",
	}
	if e.provider == nil {
		e.provider = newProvider("")
	}
	o.SignIn, o.Directory = e.provider, e.provider
	for _, f := range change {
		f(&o)
	}
	srv, err := authserver.New(o)
	if err != nil {
		e.t.Fatal(err)
	}
	e.t.Cleanup(func() { srv.Close() })
	e.provider.callback = o.PublicURL + "/callback"
	mux := http.NewServeMux()
	srv.Register(mux)
	e.srv, e.issuer = srv, o.PublicURL
	u, err := url.Parse(o.PublicURL)
	if err != nil {
		e.t.Fatal(err)
	}
	e.hosts = map[string]http.Handler{u.Host: mux, providerHost: e.provider}
	if u.Hostname() == "localhost" {
		e.hosts["127.0.0.1:"+u.Port()] = mux
		e.hosts["[::1]:"+u.Port()] = mux
	}
}

// RoundTrip serves a request by the handler of its host, without a network.
func (e *env) RoundTrip(r *http.Request) (*http.Response, error) {
	h, ok := e.hosts[r.URL.Host]
	if !ok {
		return nil, fmt.Errorf("no host %q", r.URL.Host)
	}
	in := r.Clone(r.Context())
	in.RequestURI = r.URL.RequestURI()
	in.RemoteAddr = e.addr
	if in.Host == "" {
		in.Host = r.URL.Host
	}
	if in.Body == nil {
		in.Body = http.NoBody
	}
	rec := httptest.NewRecorder()
	h.ServeHTTP(rec, in)
	res := rec.Result()
	res.Request = r
	return res, nil
}

type answer struct {
	status int
	header http.Header
	body   []byte
}

func (a answer) json(t testing.TB) map[string]any {
	t.Helper()
	var m map[string]any
	if err := json.Unmarshal(a.body, &m); err != nil {
		t.Fatalf("body %q is no JSON: %v", a.body, err)
	}
	return m
}

func (a answer) oauthError(t testing.TB) string {
	t.Helper()
	code, _ := a.json(t)["error"].(string)
	return code
}

func (e *env) send(r *http.Request) answer {
	e.t.Helper()
	res, err := e.RoundTrip(r)
	if err != nil {
		e.t.Fatal(err)
	}
	body, err := io.ReadAll(res.Body)
	if err != nil {
		e.t.Fatal(err)
	}
	return answer{res.StatusCode, res.Header, body}
}

func (e *env) get(path string) answer {
	e.t.Helper()
	return e.send(request(e.t, "GET", e.abs(path), nil))
}

func (e *env) abs(path string) string {
	if strings.HasPrefix(path, "/") {
		return e.issuer + path
	}
	return path
}

func request(t testing.TB, method, target string, body io.Reader) *http.Request {
	t.Helper()
	r, err := http.NewRequest(method, target, body)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func (e *env) post(path string, form url.Values) answer {
	e.t.Helper()
	return e.postRaw(path, form.Encode())
}

func (e *env) postRaw(path, body string) answer {
	e.t.Helper()
	r := request(e.t, "POST", e.abs(path), strings.NewReader(body))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	return e.send(r)
}

func (e *env) registerRaw(body string) answer {
	e.t.Helper()
	r := request(e.t, "POST", e.abs("/register"), strings.NewReader(body))
	r.Header.Set("Content-Type", "application/json")
	return e.send(r)
}

// testClient is a registered client.
type testClient struct {
	id, secret, redirect string
}

func (e *env) register(name string, redirects ...string) testClient {
	e.t.Helper()
	return e.registerAs("none", name, redirects...)
}

func (e *env) registerAs(method, name string, redirects ...string) testClient {
	e.t.Helper()
	body, err := json.Marshal(map[string]any{"client_name": name, "redirect_uris": redirects, "token_endpoint_auth_method": method})
	if err != nil {
		e.t.Fatal(err)
	}
	a := e.registerRaw(string(body))
	if a.status != http.StatusCreated {
		e.t.Fatalf("register: %d %s", a.status, a.body)
	}
	m := a.json(e.t)
	c := testClient{id: m["client_id"].(string), redirect: redirects[0]}
	c.secret, _ = m["client_secret"].(string)
	return c
}

const verifier = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"

func challenge(verifier string) string {
	sum := sha256.Sum256([]byte(verifier))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// query is a well-formed authorization request with changes: name, value, …;
// an empty value removes the parameter.
func (c testClient) query(pairs ...string) url.Values {
	q := url.Values{
		"response_type": {"code"}, "client_id": {c.id}, "redirect_uri": {c.redirect}, "state": {"st 1&\r\nX: y"},
		"code_challenge": {challenge(verifier)}, "code_challenge_method": {"S256"}, "scope": {"mcp:tools"},
	}
	for i := 0; i < len(pairs); i += 2 {
		q.Set(pairs[i], pairs[i+1])
		if pairs[i+1] == "" {
			q.Del(pairs[i])
		}
	}
	return q
}

// form is a token request with the client's credentials.
func (c testClient) form(pairs ...string) url.Values {
	f := url.Values{"client_id": {c.id}}
	if c.secret != "" {
		f.Set("client_secret", c.secret)
	}
	for i := 0; i < len(pairs); i += 2 {
		f.Set(pairs[i], pairs[i+1])
		if pairs[i+1] == "" {
			f.Del(pairs[i])
		}
	}
	return f
}

// code goes through all pages as a user who agrees, in a fresh browser.
func (e *env) code(c testClient, pairs ...string) string {
	e.t.Helper()
	v := e.browser().authorize(c, pairs...).press("Approve").press("Continue as")
	code := v.answer(c).Get("code")
	if code == "" {
		e.t.Fatalf("no code in %v", v.url)
	}
	return code
}

func (e *env) redeem(c testClient, code string, pairs ...string) answer {
	e.t.Helper()
	return e.post("/token", c.form(append([]string{"grant_type", "authorization_code", "code", code, "code_verifier", verifier}, pairs...)...))
}

func (e *env) refresh(c testClient, token string, pairs ...string) answer {
	e.t.Helper()
	return e.post("/token", c.form(append([]string{"grant_type", "refresh_token", "refresh_token", token}, pairs...)...))
}

type tokens struct{ access, refresh, scope string }

func (e *env) tokens(a answer) tokens {
	e.t.Helper()
	if a.status != http.StatusOK {
		e.t.Fatalf("token endpoint: %d %s", a.status, a.body)
	}
	m := a.json(e.t)
	tk := tokens{}
	tk.access, _ = m["access_token"].(string)
	tk.refresh, _ = m["refresh_token"].(string)
	tk.scope, _ = m["scope"].(string)
	return tk
}

// signIn is a whole sign-in of a client.
func (e *env) signIn(c testClient, pairs ...string) tokens {
	e.t.Helper()
	return e.tokens(e.redeem(c, e.code(c, pairs...)))
}

func (e *env) valid(access string) bool {
	e.t.Helper()
	_, err := e.srv.Verify(context.Background(), access)
	if err != nil && !errors.Is(err, identity.ErrInvalidToken) {
		e.t.Fatal(err)
	}
	return err == nil
}

func expectError(t testing.TB, a answer, status int, code string) {
	t.Helper()
	if a.status != status || a.oauthError(t) != code {
		t.Errorf("answer %d %s, want %d %s", a.status, a.body, status, code)
	}
}
