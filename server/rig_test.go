package server_test

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/html"

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

// browser is an HTTP client that opens pages and presses their buttons.
type browser struct {
	t      testing.TB
	client *http.Client
	stopAt string
	at     *url.URL
	page   string
	landed *url.URL // the redirect to stopAt, which nobody listens on
	status int
	refuse bool       // a page may be a refusal
	chosen url.Values // of selections, for the next button that is pressed
}

func newBrowser(t testing.TB, stopAt string) *browser {
	t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	b := &browser{t: t, stopAt: stopAt}
	b.client = &http.Client{Jar: jar, Timeout: 20 * time.Second, CheckRedirect: func(req *http.Request, via []*http.Request) error {
		if strings.HasPrefix(req.URL.String(), b.stopAt) {
			b.landed = req.URL
			return http.ErrUseLastResponse
		}
		if len(via) > 10 {
			return fmt.Errorf("too many redirects")
		}
		return nil
	}}
	return b
}

func (b *browser) open(target string) {
	b.t.Helper()
	req, err := http.NewRequestWithContext(b.t.Context(), http.MethodGet, target, nil)
	if err != nil {
		b.t.Fatal(err)
	}
	b.do(req)
}

func (b *browser) do(req *http.Request) {
	b.t.Helper()
	req.Header.Set("Accept", "text/html")
	if b.at != nil && req.Method == http.MethodPost {
		req.Header.Set("Origin", b.at.Scheme+"://"+b.at.Host)
	}
	resp, err := b.client.Do(req)
	if err != nil {
		b.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		b.t.Fatal(err)
	}
	b.at, b.page = resp.Request.URL, string(body)
	b.status = resp.StatusCode
	if resp.StatusCode >= 400 && !b.refuse {
		b.t.Fatalf("%s %s: %s\n%s", req.Method, b.at, resp.Status, body)
	}
}

// follow opens the link whose text begins so.
func (b *browser) follow(label string) {
	b.t.Helper()
	doc, err := html.Parse(strings.NewReader(b.page))
	if err != nil {
		b.t.Fatal(err)
	}
	for n := range doc.Descendants() {
		if n.Data == "a" && strings.HasPrefix(textOf(n), label) {
			target, err := b.at.Parse(attr(n, "href"))
			if err != nil {
				b.t.Fatal(err)
			}
			b.open(target.String())
			return
		}
	}
	b.t.Fatalf("no link %q at %s:\n%s", label, b.at, b.page)
}

// press submits the form with a button whose label begins so.
func (b *browser) press(label string) {
	b.t.Helper()
	doc, err := html.Parse(strings.NewReader(b.page))
	if err != nil {
		b.t.Fatal(err)
	}
	for form := range doc.Descendants() {
		if form.Data != "form" {
			continue
		}
		values, pressed := url.Values{}, false
		for n := range form.Descendants() {
			switch {
			case n.Data == "input" && attr(n, "type") != "submit":
				values.Add(attr(n, "name"), attr(n, "value"))
			case n.Data == "button" && !pressed && strings.HasPrefix(textOf(n), label):
				pressed = true
				if name := attr(n, "name"); name != "" {
					values.Add(name, attr(n, "value"))
				}
			}
		}
		if !pressed {
			continue
		}
		for name, list := range b.chosen {
			values[name] = list
		}
		b.chosen = nil
		target, err := b.at.Parse(attr(form, "action"))
		if err != nil {
			b.t.Fatal(err)
		}
		if !strings.EqualFold(attr(form, "method"), "post") {
			target.RawQuery = values.Encode()
			b.open(target.String())
			return
		}
		req, err := http.NewRequestWithContext(b.t.Context(), http.MethodPost, target.String(), strings.NewReader(values.Encode()))
		if err != nil {
			b.t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		b.do(req)
		return
	}
	b.t.Fatalf("no button %q at %s:\n%s", label, b.at, b.page)
}

func attr(n *html.Node, name string) string {
	for _, a := range n.Attr {
		if a.Key == name {
			return a.Val
		}
	}
	return ""
}

func textOf(n *html.Node) string {
	var b strings.Builder
	for d := range n.Descendants() {
		if d.Type == html.TextNode {
			b.WriteString(d.Data)
		}
	}
	return strings.TrimSpace(b.String())
}

// message is a JSON-RPC message as the server sent it.
type message struct {
	ID     json.RawMessage `json:"id"`
	Method string          `json:"method"`
	Params json.RawMessage `json:"params"`
	Result json.RawMessage `json:"result"`
	Error  *struct {
		Code    int             `json:"code"`
		Message string          `json:"message"`
		Data    json.RawMessage `json:"data"`
	} `json:"error"`
}

// client speaks to the MCP endpoint, in one era.
type client struct {
	r       *rig
	token   string
	modern  bool
	session string
	next    int
	headers http.Header // added to every request
	caps    string      // client capabilities, as JSON
	onAsk   func(m message)
}

// legacy opens a session of revision 2025-11-25.
func (r *rig) legacy(token string) *client {
	r.t.Helper()
	c := &client{r: r, token: token, caps: `{}`}
	c.initialize()
	return c
}

func (c *client) initialize() {
	c.r.t.Helper()
	resp := c.post(`{"jsonrpc":"2.0","id":"init","method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":`+c.caps+`,"clientInfo":{"name":"rig","version":"1"}}}`, "")
	messages := c.read(resp)
	c.session = resp.Header.Get("Mcp-Session-Id")
	if c.session == "" || len(messages) != 1 || messages[0].Error != nil {
		c.r.t.Fatalf("initialize: %s: %+v", resp.Status, messages)
	}
	c.post(`{"jsonrpc":"2.0","method":"notifications/initialized"}`, "").Body.Close()
}

// stateless is a client of revision 2026-07-28.
func (r *rig) stateless(token string) *client {
	return &client{r: r, token: token, modern: true, caps: `{}`}
}

func (r *rig) both(token string) map[string]*client {
	r.t.Helper()
	return map[string]*client{"2025-11-25": r.legacy(token), "2026-07-28": r.stateless(token)}
}

func (c *client) post(body, name string) *http.Response {
	c.r.t.Helper()
	req, err := http.NewRequestWithContext(c.r.t.Context(), http.MethodPost, c.r.srv.URL(), strings.NewReader(body))
	if err != nil {
		c.r.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept", "application/json, text/event-stream")
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	if c.session != "" {
		req.Header.Set("Mcp-Session-Id", c.session)
		req.Header.Set("Mcp-Protocol-Version", "2025-11-25")
	}
	if c.modern {
		req.Header.Set("Mcp-Protocol-Version", "2026-07-28")
		var m message
		if err := json.Unmarshal([]byte(body), &m); err != nil {
			c.r.t.Fatalf("%v: %s", err, body)
		}
		req.Header.Set("Mcp-Method", m.Method)
		if name != "" {
			req.Header.Set("Mcp-Name", name)
		}
	}
	for k, v := range c.headers {
		req.Header[k] = v
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		c.r.t.Fatal(err)
	}
	return resp
}

// read returns the messages of a response, which may be JSON or a stream.
func (c *client) read(resp *http.Response) []message {
	c.r.t.Helper()
	defer resp.Body.Close()
	var messages []message
	add := func(raw []byte) {
		var m message
		if err := json.Unmarshal(raw, &m); err != nil {
			c.r.t.Fatalf("%s: %v: %q", resp.Status, err, raw)
		}
		messages = append(messages, m)
		if m.Method != "" && m.ID != nil && c.onAsk != nil {
			c.onAsk(m)
		}
	}
	if !strings.HasPrefix(resp.Header.Get("Content-Type"), "text/event-stream") {
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			c.r.t.Fatal(err)
		}
		if len(bytes.TrimSpace(body)) > 0 {
			add(body)
		}
		return messages
	}
	lines := newLines(resp.Body)
	for {
		line, err := lines()
		if data, ok := strings.CutPrefix(line, "data:"); ok && strings.TrimSpace(data) != "" {
			add([]byte(strings.TrimSpace(data)))
		}
		if errors.Is(err, io.EOF) {
			return messages
		}
		if err != nil {
			c.r.t.Fatal(err)
		}
	}
}

// call sends a request and returns its response and what came before it.
func (c *client) call(method, name, params string) (message, []message) {
	c.r.t.Helper()
	c.next++
	return c.callID(fmt.Sprint(c.next), method, name, params)
}

func (c *client) callID(id, method, name, params string) (message, []message) {
	c.r.t.Helper()
	if params == "" {
		params = `{}`
	}
	if c.modern {
		params = c.withMeta(params)
	}
	messages := c.read(c.post(`{"jsonrpc":"2.0","id":`+id+`,"method":"`+method+`","params":`+params+`}`, name))
	if len(messages) == 0 {
		c.r.t.Fatalf("%s: no response", method)
	}
	last := messages[len(messages)-1]
	if string(last.ID) != id && last.Error == nil {
		c.r.t.Fatalf("%s: the last message has id %s, want %s", method, last.ID, id)
	}
	return last, messages[:len(messages)-1]
}

// withMeta adds what a modern request carries in _meta.
func (c *client) withMeta(params string) string {
	c.r.t.Helper()
	var p map[string]json.RawMessage
	if err := json.Unmarshal([]byte(params), &p); err != nil {
		c.r.t.Fatal(err)
	}
	meta := map[string]json.RawMessage{}
	if p["_meta"] != nil {
		if err := json.Unmarshal(p["_meta"], &meta); err != nil {
			c.r.t.Fatal(err)
		}
	}
	meta["io.modelcontextprotocol/protocolVersion"] = json.RawMessage(`"2026-07-28"`)
	meta["io.modelcontextprotocol/clientInfo"] = json.RawMessage(`{"name":"rig","version":"1"}`)
	meta["io.modelcontextprotocol/clientCapabilities"] = json.RawMessage(c.caps)
	raw, err := json.Marshal(meta)
	if err != nil {
		c.r.t.Fatal(err)
	}
	p["_meta"] = raw
	if raw, err = json.Marshal(p); err != nil {
		c.r.t.Fatal(err)
	}
	return string(raw)
}

// toolResult is the result of tools/call.
type toolResult struct {
	ResultType string `json:"resultType"`
	Content    []struct {
		Type     string `json:"type"`
		Text     string `json:"text"`
		Data     string `json:"data"`
		MIMEType string `json:"mimeType"`
	} `json:"content"`
	Structured json.RawMessage `json:"structuredContent"`
	IsError    bool            `json:"isError"`
	Meta       map[string]any  `json:"_meta"`
}

func (c *client) tool(name, arguments string) toolResult {
	c.r.t.Helper()
	result, _ := c.toolWith(name, arguments, "")
	return result
}

// toolWith calls a tool with an optional _meta.
func (c *client) toolWith(name, arguments, meta string) (toolResult, []message) {
	c.r.t.Helper()
	params := `{"name":"` + name + `","arguments":` + arguments
	if meta != "" {
		params += `,"_meta":` + meta
	}
	m, before := c.call("tools/call", name, params+`}`)
	if m.Error != nil {
		c.r.t.Fatalf("tools/call %s: error %d %s", name, m.Error.Code, m.Error.Message)
	}
	var result toolResult
	if err := json.Unmarshal(m.Result, &result); err != nil {
		c.r.t.Fatal(err)
	}
	return result, before
}

// list returns the names of the tools, and the whole result.
func (c *client) list() (names string, result map[string]any) {
	c.r.t.Helper()
	m, _ := c.call("tools/list", "", "")
	if m.Error != nil {
		c.r.t.Fatalf("tools/list: %+v", m.Error)
	}
	var list struct {
		Tools []struct {
			Name string `json:"name"`
		} `json:"tools"`
	}
	if err := json.Unmarshal(m.Result, &list); err != nil {
		c.r.t.Fatal(err)
	}
	if err := json.Unmarshal(m.Result, &result); err != nil {
		c.r.t.Fatal(err)
	}
	var all []string
	for _, t := range list.Tools {
		all = append(all, t.Name)
	}
	return strings.Join(all, " "), result
}

func (res toolResult) text() string {
	for _, c := range res.Content {
		if c.Type == "text" {
			return c.Text
		}
	}
	return ""
}

// newLines returns a function that reads line after line.
func newLines(r io.Reader) func() (string, error) {
	b := bufio.NewReader(r)
	return func() (string, error) {
		line, err := b.ReadString('\n')
		return strings.TrimRight(line, "\r\n"), err
	}
}
