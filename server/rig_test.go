package server_test

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mcp-clerk/mcp-clerk/internal/devclerk"
	"github.com/mcp-clerk/mcp-clerk/internal/telemetry"
	"github.com/mcp-clerk/mcp-clerk/server"
)

const (
	testKey   = "6f1c9c2b7a55e0d3481f9e27ab30c4d88e6b1290f7a3c55d21e4907bc8af3612"
	adminMail = "admin@example.com"
	plainMail = "member@example.com"
)

// rig is a server with the stand-in for Clerk, on real sockets, under one
// clock that a test can put forward.
type rig struct {
	t        testing.TB
	clerk    *devclerk.Server
	store    string
	addr     string
	change   func(*server.Options)
	tools    func(*server.Server)
	scope    string       // that signIn asks for
	resource string       // that it names; "" for the MCP endpoint
	mounted  bool         // in a server of somebody else's
	ahead    atomic.Int64 // of the clock, in nanoseconds
	log      *lockedBuffer

	srv  *server.Server
	url  string // public
	stop func()
}

type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

func (r *rig) now() time.Time          { return time.Now().Add(time.Duration(r.ahead.Load())) }
func (r *rig) advance(d time.Duration) { r.ahead.Add(int64(d)) }

// signingKey is one for all tests: to make it takes longer than most of them.
var signingKey = sync.OnceValue(func() *rsa.PrivateKey {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return key
})

// start starts the whole. change may alter the options, tools may add tools
// beside the built-in ones; both may be nil.
func start(t testing.TB, change func(*server.Options), tools func(*server.Server)) *rig {
	t.Helper()
	r := &rig{t: t, change: change, tools: tools, addr: "localhost:0", scope: "mcp:tools mcp:images offline_access", log: &lockedBuffer{},
		store: "bolt:" + filepath.Join(t.TempDir(), "state.db")}
	var err error
	if r.clerk, err = devclerk.New(devclerk.Options{Now: r.now, SigningKey: signingKey()}); err != nil {
		t.Fatal(err)
	}
	listeners, err := server.Listen(t.Context(), "localhost:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := r.clerk.SetIssuer(server.LocalURL(listeners)); err != nil {
		t.Fatal(err)
	}
	stopClerk := serveOn(r.clerk, listeners)
	r.up()
	t.Cleanup(func() {
		r.stop()
		stopClerk()
		if t.Failed() {
			t.Logf("log of the server:\n%s", r.log)
		}
	})
	return r
}

func serveOn(h http.Handler, listeners []net.Listener) (stop func()) {
	hs := &http.Server{Handler: h, ReadHeaderTimeout: time.Minute}
	var wg sync.WaitGroup
	for _, l := range listeners {
		wg.Go(func() { _ = hs.Serve(l) })
	}
	return func() { hs.Close(); wg.Wait() }
}

// up starts the server, on the port it had before if it had one.
func (r *rig) up() {
	r.t.Helper()
	listeners, err := server.Listen(r.t.Context(), r.addr)
	if err != nil {
		r.t.Fatal(err)
	}
	r.url = server.LocalURL(listeners)
	u, err := url.Parse(r.url)
	if err != nil {
		r.t.Fatal(err)
	}
	r.addr = u.Host
	if err := r.clerk.AllowRedirect(r.url + "/callback"); err != nil {
		r.t.Fatal(err)
	}
	logger, err := telemetry.NewLogger(r.log, "text", slog.LevelDebug)
	if err != nil {
		r.t.Fatal(err)
	}
	o := server.Options{
		Name: "rig", Version: "1.2.3", Instructions: "Use it well.",
		PublicURL: r.url, Store: server.Secret(r.store), Keys: testKey,
		Clerk:  server.ClerkOptions{ClientID: r.clerk.ClientID(), ClientSecret: r.clerk.ClientSecret(), SecretKey: r.clerk.SecretKey(), FrontendAPI: r.clerk.Issuer(), APIURL: r.clerk.Issuer()},
		Logger: logger, Now: r.now,
	}
	if r.change != nil {
		r.change(&o)
	}
	if r.srv, err = server.New(r.t.Context(), o); err != nil {
		r.t.Fatal(err)
	}
	r.srv.AddBuiltinTools(server.BuiltinTools{Image: server.Sketch()})
	if r.tools != nil {
		r.tools(r.srv)
	}
	if r.mounted {
		r.mount(listeners)
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- r.srv.Serve(ctx, listeners...) }()
	r.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-served; err != nil {
			r.t.Errorf("serve: %v", err)
		}
		if err := r.srv.Close(); err != nil {
			r.t.Errorf("close: %v", err)
		}
	})
}

// mount serves the handler as a program does that has other things to serve.
func (r *rig) mount(listeners []net.Listener) {
	own := http.NewServeMux()
	own.Handle("/", r.srv.Handler())
	hs := &http.Server{Handler: own, ReadHeaderTimeout: time.Minute}
	var served sync.WaitGroup
	for _, l := range listeners {
		served.Go(func() { _ = hs.Serve(l) })
	}
	r.stop = sync.OnceFunc(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if err := errors.Join(r.srv.Shutdown(ctx), hs.Shutdown(ctx), r.srv.Close()); err != nil {
			r.t.Error(err)
		}
		served.Wait()
	})
}

// restart ends the server and starts it again with the same store.
func (r *rig) restart() {
	r.t.Helper()
	r.stop()
	// A POST on a connection that died with the old server would fail, and
	// net/http rightly does not send it twice.
	http.DefaultClient.CloseIdleConnections()
	r.up()
}

// tokens are what a client holds after signing in.
type tokens struct {
	Access  string `json:"access_token"`
	Refresh string `json:"refresh_token"`
	client  string
}

// signIn goes through registration and all pages as a user with that e-mail.
func (r *rig) signIn(email string) tokens {
	r.t.Helper()
	b, redeem := r.authorize()
	b.press("Approve")
	b.press(email)
	if b.landed == nil {
		b.press("Continue as")
	}
	if b.landed == nil {
		r.t.Fatalf("the sign-in did not come back to the client; it is at %s:\n%s", b.at, b.page)
	}
	return redeem()
}

// authorize registers a client and opens its authorization request. redeem
// makes tokens of the code that the browser has come back with.
func (r *rig) authorize() (b *browser, redeem func() tokens) {
	r.t.Helper()
	const callback = "http://127.0.0.1:3456/callback"
	var client struct {
		ID string `json:"client_id"`
	}
	r.postJSON("/register", map[string]any{
		"client_name": "Rig", "redirect_uris": []string{callback}, "token_endpoint_auth_method": "none",
		"grant_types": []string{"authorization_code", "refresh_token"}, "response_types": []string{"code"},
	}, &client)
	verifier := strings.Repeat("verifier-", 6)
	challenge := sha256.Sum256([]byte(verifier))
	query := url.Values{
		"response_type": {"code"}, "client_id": {client.ID}, "redirect_uri": {callback}, "state": {"the-state"},
		"code_challenge": {base64.RawURLEncoding.EncodeToString(challenge[:])}, "code_challenge_method": {"S256"},
		"resource": {cmp.Or(r.resource, r.srv.URL())}, "scope": {r.scope},
	}
	b = newBrowser(r.t, callback)
	b.open(r.url + "/authorize?" + query.Encode())
	return b, func() tokens {
		r.t.Helper()
		back := b.landed.Query()
		if back.Get("state") != "the-state" || back.Get("iss") != r.url {
			r.t.Fatalf("callback with %v", back)
		}
		form := url.Values{"grant_type": {"authorization_code"}, "code": {back.Get("code")}, "client_id": {client.ID},
			"redirect_uri": {callback}, "code_verifier": {verifier}, "resource": {cmp.Or(r.resource, r.srv.URL())}}
		got := r.token(form)
		got.client = client.ID
		return got
	}
}

func (r *rig) refresh(old tokens) tokens {
	r.t.Helper()
	got := r.token(url.Values{"grant_type": {"refresh_token"}, "refresh_token": {old.Refresh}, "client_id": {old.client}})
	got.client = old.client
	return got
}

func (r *rig) token(form url.Values) tokens {
	r.t.Helper()
	resp, err := http.PostForm(r.url+"/token", form)
	if err != nil {
		r.t.Fatal(err)
	}
	var got tokens
	decode(r.t, resp, http.StatusOK, &got)
	return got
}

func (r *rig) postJSON(path string, body, into any) {
	r.t.Helper()
	raw, err := json.Marshal(body)
	if err != nil {
		r.t.Fatal(err)
	}
	resp, err := http.Post(r.url+path, "application/json", bytes.NewReader(raw))
	if err != nil {
		r.t.Fatal(err)
	}
	decode(r.t, resp, http.StatusCreated, into)
}

func decode(t testing.TB, resp *http.Response, status int, into any) {
	t.Helper()
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != status {
		t.Fatalf("%s %s: %s: %s", resp.Request.Method, resp.Request.URL.Path, resp.Status, body)
	}
	if err := json.Unmarshal(body, into); err != nil {
		t.Fatalf("%s: %v: %s", resp.Request.URL.Path, err, body)
	}
}
