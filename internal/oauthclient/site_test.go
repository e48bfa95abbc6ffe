package oauthclient_test

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

	"github.com/mcp-clerk/mcp-clerk/internal/credstore"
	"github.com/mcp-clerk/mcp-clerk/internal/oauthclient"
)

// site is an MCP server and its authorization server on one loopback address.
// It behaves until a test replaces one of its routes.
type site struct {
	*httptest.Server
	t *testing.T

	mu      sync.Mutex
	routes  map[string]http.HandlerFunc // by path, in place of the site's own
	seen    []string                    // "METHOD path" of each request
	prm     map[string]any
	meta    map[string]any
	scope   string // of the challenge
	valid   map[string]bool
	refresh map[string]bool
	codes   map[string]url.Values // the authorize query of each code
	clients map[string][]string   // redirect URIs of each client
	asked   []url.Values          // authorize queries
	tokens  []url.Values          // token requests
	regs    []map[string]any      // registrations
	expires any                   // expires_in; nil leaves it out
	rotate  bool
	extra   map[string]any // further members of token answers
	n       int
}

func newSite(t *testing.T) *site {
	s := &site{
		t: t, routes: map[string]http.HandlerFunc{}, valid: map[string]bool{}, refresh: map[string]bool{},
		codes: map[string]url.Values{}, clients: map[string][]string{}, expires: 3600, rotate: true, extra: map[string]any{},
	}
	s.Server = httptest.NewServer(s)
	t.Cleanup(s.Server.Close)
	s.prm = map[string]any{"resource": s.URL + "/mcp", "authorization_servers": []string{s.URL}}
	s.meta = map[string]any{
		"issuer": s.URL, "authorization_endpoint": s.URL + "/authorize", "token_endpoint": s.URL + "/token",
		"registration_endpoint": s.URL + "/register", "revocation_endpoint": s.URL + "/revoke",
		"code_challenge_methods_supported": []string{"S256"}, "authorization_response_iss_parameter_supported": true,
	}
	return s
}

// with changes the site under its lock.
func (s *site) with(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
}

// on replaces what answers at path.
func (s *site) on(path string, h http.HandlerFunc) { s.with(func() { s.routes[path] = h }) }

func (s *site) count(what string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, seen := range s.seen {
		if seen == what {
			n++
		}
	}
	return n
}

func (s *site) requests() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.seen...)
}

// grant makes a token valid.
func (s *site) grant(token string) { s.with(func() { s.valid[token] = true }) }

// revokeAll makes every access token invalid; refresh tokens live on.
func (s *site) revokeAll() { s.with(func() { s.valid = map[string]bool{} }) }

// forget is a server that was wiped.
func (s *site) forget() {
	s.with(func() {
		s.valid, s.refresh, s.clients = map[string]bool{}, map[string]bool{}, map[string][]string{}
	})
}

func (s *site) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.seen = append(s.seen, r.Method+" "+r.URL.Path)
	h := s.routes[r.URL.Path]
	s.mu.Unlock()
	if h != nil {
		h(w, r)
		return
	}
	s.serve(w, r)
}

func (s *site) serve(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch r.URL.Path {
	case "/mcp":
		token := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
		if !s.valid[token] {
			w.Header().Set("WWW-Authenticate", s.challenge())
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		io.WriteString(w, `{"jsonrpc":"2.0","id":1,"result":{}}`)
	case "/.well-known/oauth-protected-resource/mcp":
		writeJSON(w, http.StatusOK, s.prm)
	case "/.well-known/oauth-authorization-server":
		writeJSON(w, http.StatusOK, s.meta)
	case "/register":
		var body map[string]any
		if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
			writeJSON(w, http.StatusBadRequest, map[string]any{"error": "invalid_client_metadata"})
			return
		}
		s.n++
		id := fmt.Sprintf("client-%d", s.n)
		for _, u := range body["redirect_uris"].([]any) {
			s.clients[id] = append(s.clients[id], u.(string))
		}
		s.regs = append(s.regs, body)
		body["client_id"] = id
		writeJSON(w, http.StatusCreated, body)
	case "/authorize":
		q := r.URL.Query()
		s.asked = append(s.asked, q)
		if !contains(s.clients[q.Get("client_id")], q.Get("redirect_uri")) {
			http.Error(w, "unknown client or redirect", http.StatusBadRequest)
			return
		}
		s.n++
		code := fmt.Sprintf("code-%d", s.n)
		s.codes[code] = q
		back := url.Values{"code": {code}, "state": {q.Get("state")}, "iss": {s.meta["issuer"].(string)}}
		http.Redirect(w, r, q.Get("redirect_uri")+"?"+back.Encode(), http.StatusFound)
	case "/token":
		if err := r.ParseForm(); err != nil {
			writeJSON(w, http.StatusBadRequest, map[string]any{"error": "invalid_request"})
			return
		}
		s.tokens = append(s.tokens, r.PostForm)
		s.token(w, r.PostForm)
	case "/revoke":
		r.ParseForm()
		delete(s.valid, r.PostForm.Get("token"))
		delete(s.refresh, r.PostForm.Get("token"))
	default:
		http.NotFound(w, r)
	}
}

func (s *site) challenge() string {
	c := `Bearer resource_metadata="` + s.URL + `/.well-known/oauth-protected-resource/mcp"`
	if s.scope != "" {
		c += `, scope="` + s.scope + `"`
	}
	return c
}

func (s *site) token(w http.ResponseWriter, form url.Values) {
	refuse := func(code string) { writeJSON(w, http.StatusBadRequest, map[string]any{"error": code}) }
	if s.clients[form.Get("client_id")] == nil {
		writeJSON(w, http.StatusUnauthorized, map[string]any{"error": "invalid_client"})
		return
	}
	var scope string
	switch form.Get("grant_type") {
	case "authorization_code":
		asked, ok := s.codes[form.Get("code")]
		delete(s.codes, form.Get("code"))
		sum := sha256.Sum256([]byte(form.Get("code_verifier")))
		if !ok || asked.Get("client_id") != form.Get("client_id") || asked.Get("redirect_uri") != form.Get("redirect_uri") ||
			asked.Get("resource") != form.Get("resource") || asked.Get("code_challenge") != base64.RawURLEncoding.EncodeToString(sum[:]) {
			refuse("invalid_grant")
			return
		}
		scope = asked.Get("scope")
	case "refresh_token":
		if !s.refresh[form.Get("refresh_token")] {
			refuse("invalid_grant")
			return
		}
		if s.rotate {
			delete(s.refresh, form.Get("refresh_token"))
		}
	default:
		refuse("unsupported_grant_type")
		return
	}
	s.n++
	answer := map[string]any{"access_token": fmt.Sprintf("access-%d", s.n), "token_type": "Bearer"}
	s.valid[answer["access_token"].(string)] = true
	if s.rotate || form.Get("grant_type") == "authorization_code" {
		answer["refresh_token"] = fmt.Sprintf("refresh-%d", s.n)
		s.refresh[answer["refresh_token"].(string)] = true
	}
	if s.expires != nil {
		answer["expires_in"] = s.expires
	}
	if scope != "" {
		answer["scope"] = scope
	}
	for name, value := range s.extra {
		answer[name] = value
	}
	writeJSON(w, http.StatusOK, answer)
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(v)
}

func contains(list []string, s string) bool {
	for _, have := range list {
		if have == s {
			return true
		}
	}
	return false
}

// browser follows redirects as a person's would and keeps the last page.
type browser struct {
	busy   sync.WaitGroup
	mu     sync.Mutex
	opened []string
	pages  []string
	status []int
}

func (b *browser) open(target string) error {
	b.busy.Add(1)
	defer b.busy.Done()
	b.mu.Lock()
	b.opened = append(b.opened, target)
	b.mu.Unlock()
	client := &http.Client{Timeout: 30 * time.Second}
	resp, err := client.Get(target)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	page, err := io.ReadAll(resp.Body)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.pages, b.status = append(b.pages, string(page)), append(b.status, resp.StatusCode)
	return err
}

func (b *browser) windows() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.opened)
}

// closed is a browser that must not be opened.
func closed(t *testing.T) func(string) error {
	return func(target string) error {
		t.Errorf("the browser was opened at %q", target)
		return errors.New("must not be opened")
	}
}

// clock is a wall clock that a test sets.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func newClock() *clock { return &clock{now: time.Now()} }

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// options are those of a client of server whose records lie in dir.
func options(t *testing.T, server, dir string) oauthclient.Options {
	t.Helper()
	store, err := credstore.Open(credstore.Options{Dir: dir, Mode: credstore.ModeFile})
	if err != nil {
		t.Fatal(err)
	}
	record := store.Record(credstore.Key{Server: server})
	return oauthclient.Options{
		ServerURL: server, Store: record, Pending: record.Pending(), SignInTimeout: 20 * time.Second,
		Transport: &http.Transport{},
	}
}

func newClient(t *testing.T, o oauthclient.Options) *oauthclient.Client {
	t.Helper()
	c, err := oauthclient.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// request sends a request as a transport would: with the token, and once more
// after Authorize.
func request(ctx context.Context, c *oauthclient.Client, target string) (int, error) {
	var token string
	for try := 0; ; try++ {
		var err error
		if token, err = c.Token(ctx); err != nil {
			return 0, err
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, target, strings.NewReader(`{}`))
		if err != nil {
			return 0, err
		}
		if token != "" {
			req.Header.Set("Authorization", "Bearer "+token)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return 0, err
		}
		io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		if try > 0 || resp.StatusCode != http.StatusUnauthorized && resp.StatusCode != http.StatusForbidden {
			return resp.StatusCode, nil
		}
		if err := c.Authorize(ctx, token, resp.StatusCode, resp.Header); err != nil {
			return resp.StatusCode, err
		}
	}
}

// signedIn is a client that has signed in through its own browser once.
func signedIn(t *testing.T, s *site, change func(*oauthclient.Options)) (*oauthclient.Client, *browser, string) {
	t.Helper()
	dir := t.TempDir()
	b := &browser{}
	o := options(t, s.URL+"/mcp", dir)
	o.OpenURL = b.open
	if change != nil {
		change(&o)
	}
	c := newClient(t, o)
	if status, err := request(t.Context(), c, s.URL+"/mcp"); status != http.StatusOK || err != nil {
		t.Fatalf("first request: status %d, %v", status, err)
	}
	b.busy.Wait() // the page comes after the token
	if b.windows() != 1 {
		t.Fatalf("%d windows", b.windows())
	}
	return c, b, dir
}
