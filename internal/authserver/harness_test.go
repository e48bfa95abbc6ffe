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
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/html"

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

// provider is a sign-in provider that redirects at once, as Clerk does for a
// user who is signed in there. It serves its authorization endpoint and is the
// SignIn and Directory of the server under test.
type provider struct {
	callback string

	mu        sync.Mutex
	user      identity.User // signed in now
	next      *identity.User
	deny      string // error to answer with
	begun     int
	down      bool // SignIn cannot be asked
	dirDown   bool
	directory map[string]identity.User
	codes     map[string]providerCode
	lastURL   string
}

type providerCode struct {
	nonce, challenge string
	user             identity.User
}

func newProvider(callback string) *provider {
	ada := identity.User{ID: "user_ada", Email: "ada@example.com", FirstName: "Ada", LastName: "Lovelace"}
	return &provider{callback: callback, user: ada, directory: map[string]identity.User{ada.ID: ada}, codes: map[string]providerCode{}}
}

func (p *provider) set(f func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f()
}

func (p *provider) signInAs(u identity.User) {
	p.set(func() { p.user = u; p.directory[u.ID] = u })
}

func (p *provider) Begin(_ context.Context, state, nonce, verifier, prompt string) (string, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.down {
		return "", fmt.Errorf("discover: %w", identity.ErrUnavailable)
	}
	if len(state) < 8 || len(verifier) < 43 || nonce == "" {
		return "", errors.New("weak parameters")
	}
	p.begun++
	p.lastURL = "https://" + providerHost + "/oauth/authorize?" + url.Values{
		"state": {state}, "nonce": {nonce}, "code_challenge": {challenge(verifier)}, "prompt": {prompt},
	}.Encode()
	return p.lastURL, nil
}

func (p *provider) Complete(_ context.Context, code, verifier, nonce string) (identity.User, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.down {
		return identity.User{}, fmt.Errorf("token: %w", identity.ErrUnavailable)
	}
	c, ok := p.codes[code]
	delete(p.codes, code)
	if !ok || c.challenge != challenge(verifier) || c.nonce != nonce {
		return identity.User{}, errors.New("code refused")
	}
	return c.user, nil
}

func (p *provider) User(_ context.Context, subject string) (identity.User, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.dirDown {
		return identity.User{}, fmt.Errorf("ask: %w", identity.ErrUnavailable)
	}
	u, ok := p.directory[subject]
	if !ok {
		return u, fmt.Errorf("user %q: %w", subject, identity.ErrNoUser)
	}
	return u, nil
}

func (p *provider) Find(_ context.Context, ids []string, email string) ([]identity.User, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.dirDown {
		return nil, fmt.Errorf("ask: %w", identity.ErrUnavailable)
	}
	var found []identity.User
	for _, u := range p.directory {
		if slices.Contains(ids, u.ID) || email != "" && u.Email == email {
			found = append(found, u)
		}
	}
	return found, nil
}

func (p *provider) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	q := r.URL.Query()
	back := url.Values{"state": {q.Get("state")}}
	if q.Get("prompt") == "login" && p.next != nil {
		p.user, p.next = *p.next, nil
	}
	if p.deny != "" {
		back.Set("error", p.deny)
	} else {
		code := fmt.Sprintf("upstream-%d", len(p.codes)+1)
		p.codes[code] = providerCode{q.Get("nonce"), q.Get("code_challenge"), p.user}
		back.Set("code", code)
	}
	http.Redirect(w, r, p.callback+"?"+back.Encode(), http.StatusFound)
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

// browser is a person's browser: it keeps cookies, follows redirects and sends
// forms as pages have them. It stops where a redirect leaves the known hosts.
type browser struct {
	e   *env
	jar http.CookieJar
}

func (e *env) browser() *browser {
	jar, err := cookiejar.New(nil)
	if err != nil {
		e.t.Fatal(err)
	}
	return &browser{e: e, jar: jar}
}

// visit is what a browser ended with: a page, or a URL outside.
type visit struct {
	b      *browser
	url    *url.URL
	before *url.URL // that redirected there
	status int
	header http.Header
	body   string
	doc    *html.Node
	left   bool // url is outside
	chain  []int
}

func (b *browser) open(target string) *visit {
	b.e.t.Helper()
	return b.do(request(b.e.t, "GET", target, nil))
}

func (b *browser) authorize(c testClient, pairs ...string) *visit {
	b.e.t.Helper()
	return b.open(b.e.issuer + "/authorize?" + c.query(pairs...).Encode())
}

func (b *browser) do(r *http.Request) *visit {
	t := b.e.t
	t.Helper()
	v := &visit{b: b}
	for range 20 {
		for _, c := range b.jar.Cookies(r.URL) {
			r.AddCookie(c)
		}
		if _, ok := b.e.hosts[r.URL.Host]; !ok {
			v.url, v.left = r.URL, true
			return v
		}
		res, err := b.e.RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		b.jar.SetCookies(r.URL, res.Cookies())
		if res.StatusCode >= 300 && res.StatusCode < 400 {
			v.chain = append(v.chain, res.StatusCode)
			next, err := r.URL.Parse(res.Header.Get("Location"))
			if err != nil {
				t.Fatal(err)
			}
			v.before = r.URL
			r = request(t, "GET", next.String(), nil)
			continue
		}
		body, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		v.url, v.status, v.header, v.body = r.URL, res.StatusCode, res.Header, string(body)
		if v.doc, err = html.Parse(strings.NewReader(v.body)); err != nil {
			t.Fatal(err)
		}
		return v
	}
	t.Fatal("too many redirects")
	return nil
}

// button finds the button whose label starts with label.
func (v *visit) button(label string) (form, button *html.Node) {
	var walk func(n, form *html.Node)
	walk = func(n, in *html.Node) {
		if n.Type == html.ElementNode && n.Data == "form" {
			in = n
		}
		if n.Type == html.ElementNode && n.Data == "button" && strings.HasPrefix(text(n), label) && button == nil {
			form, button = in, n
		}
		for c := n.FirstChild; c != nil; c = c.NextSibling {
			walk(c, in)
		}
	}
	if v.doc != nil {
		walk(v.doc, nil)
	}
	return form, button
}

func (v *visit) has(label string) bool {
	_, b := v.button(label)
	return b != nil
}

// form is the request that pressing a button sends.
func (v *visit) form(label string) *http.Request {
	t := v.b.e.t
	t.Helper()
	form, button := v.button(label)
	if form == nil {
		t.Fatalf("no button %q on %v (%d):\n%s", label, v.url, v.status, v.body)
	}
	values := url.Values{attr(button, "name"): {attr(button, "value")}}
	var walk func(n *html.Node)
	walk = func(n *html.Node) {
		if n.Type == html.ElementNode && n.Data == "input" {
			values.Set(attr(n, "name"), attr(n, "value"))
		}
		for c := n.FirstChild; c != nil; c = c.NextSibling {
			walk(c)
		}
	}
	walk(form)
	action, err := v.url.Parse(attr(form, "action"))
	if err != nil {
		t.Fatal(err)
	}
	r := request(t, strings.ToUpper(attr(form, "method")), action.String(), strings.NewReader(values.Encode()))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.Header.Set("Origin", v.url.Scheme+"://"+v.url.Host)
	r.Header.Set("Sec-Fetch-Site", "same-origin")
	return r
}

func (v *visit) press(label string) *visit {
	v.b.e.t.Helper()
	return v.b.do(v.form(label))
}

// follow opens the link whose text starts with label.
func (v *visit) follow(label string) *visit {
	v.b.e.t.Helper()
	href := v.link(label)
	if href == "" {
		v.b.e.t.Fatalf("no link %q on\n%s", label, v.body)
	}
	target, err := v.url.Parse(href)
	if err != nil {
		v.b.e.t.Fatal(err)
	}
	return v.b.open(target.String())
}

func (v *visit) link(label string) string {
	var href string
	var walk func(n *html.Node)
	walk = func(n *html.Node) {
		if n.Type == html.ElementNode && n.Data == "a" && strings.HasPrefix(text(n), label) {
			href = attr(n, "href")
		}
		for c := n.FirstChild; c != nil; c = c.NextSibling {
			walk(c)
		}
	}
	walk(v.doc)
	return href
}

// answer returns the parameters with which the browser left for the client.
func (v *visit) answer(c testClient) url.Values {
	v.b.e.t.Helper()
	if !v.left {
		v.b.e.t.Fatalf("the browser did not leave for the client but shows %v (%d):\n%s", v.url, v.status, v.body)
	}
	want, err := url.Parse(c.redirect)
	if err != nil {
		v.b.e.t.Fatal(err)
	}
	if v.url.Scheme != want.Scheme || v.url.Host != want.Host || v.url.Path != want.Path {
		v.b.e.t.Fatalf("left for %v, want %v", v.url, want)
	}
	return v.url.Query()
}

func text(n *html.Node) string {
	if n.Type == html.TextNode {
		return n.Data
	}
	var b strings.Builder
	for c := n.FirstChild; c != nil; c = c.NextSibling {
		b.WriteString(text(c))
	}
	return strings.TrimSpace(b.String())
}

func attr(n *html.Node, name string) string {
	for _, a := range n.Attr {
		if a.Key == name {
			return a.Val
		}
	}
	return ""
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
