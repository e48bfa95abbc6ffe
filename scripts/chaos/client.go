//go:build unix

package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"strings"
	"time"

	"golang.org/x/net/html"
)

// redirectURL is where the clients are; nobody listens there.
const redirectURL = "http://127.0.0.1:3456/callback"

// wire sends requests to the public URL, or past the proxy to one instance.
type wire struct {
	transport http.RoundTripper
	public    string
}

// wire is the way through the proxy.
func (w *world) wire() wire { return wire{direct, w.public} }

// to is the way to one instance, under the same names.
func (w *world) to(in *instance) wire {
	var dialer net.Dialer
	public := w.proxy.addr
	return wire{&http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		if addr == public {
			addr = in.addr
		}
		return dialer.DialContext(ctx, network, addr)
	}}, w.public}
}

func noRedirect(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

// answer is what came back for a request. One that was lost may have been
// executed or not.
type answer struct {
	status int
	header http.Header
	body   []byte
}

// lost says that nobody knows what became of the request, or that the server
// could not do it now: a client asks again.
func (a answer) lost() bool { return a.status == 0 || a.status >= 500 || a.status == 429 }

func (a answer) String() string { return fmt.Sprintf("%d %.200s", a.status, a.body) }

// send returns a lost answer where the connection failed.
func (c wire) send(ctx context.Context, method, path, contentType, body string, header http.Header) answer {
	req, err := http.NewRequestWithContext(ctx, method, c.public+path, strings.NewReader(body))
	if err != nil {
		return answer{body: []byte(err.Error())}
	}
	req.GetBody = nil
	for name, values := range header {
		req.Header[name] = values
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	client := &http.Client{Timeout: patience, Transport: c.transport, CheckRedirect: noRedirect}
	resp, err := client.Do(req)
	if err != nil {
		return answer{body: []byte(err.Error())}
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, mostBody))
	if err != nil {
		return answer{body: []byte(err.Error())} // cut off in the middle: not acknowledged
	}
	return answer{resp.StatusCode, resp.Header, text}
}

func (c wire) form(ctx context.Context, path string, pairs ...string) answer {
	v := url.Values{}
	for i := 0; i+1 < len(pairs); i += 2 {
		v.Set(pairs[i], pairs[i+1])
	}
	return c.send(ctx, http.MethodPost, path, "application/x-www-form-urlencoded", v.Encode(), nil)
}

// call calls the tool add with 20 and 22, as a client of revision 2026-07-28.
func (c wire) call(ctx context.Context, access string) answer {
	const body = `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"add","arguments":{"a":20,"b":22},"_meta":{` +
		`"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientInfo":{"name":"chaos","version":"1"},` +
		`"io.modelcontextprotocol/clientCapabilities":{}}}}`
	return c.send(ctx, http.MethodPost, "/mcp", "application/json", body, http.Header{
		"Accept": {"application/json, text/event-stream"}, "Authorization": {"Bearer " + access},
		"Mcp-Protocol-Version": {"2026-07-28"}, "Mcp-Method": {"tools/call"}, "Mcp-Name": {"add"},
	})
}

// sum reports whether an answer to call has the sum in it.
func (a answer) sum() bool {
	return a.status == http.StatusOK && bytes.Contains(a.body, []byte(`"text":"42"`))
}

// register registers a public client (RFC 7591).
func (c wire) register(ctx context.Context, name string) (id string, a answer) {
	body, err := json.Marshal(map[string]any{
		"client_name": name, "redirect_uris": []string{redirectURL}, "token_endpoint_auth_method": "none",
		"grant_types": []string{"authorization_code", "refresh_token"}, "response_types": []string{"code"},
	})
	if err != nil {
		return "", answer{body: []byte(err.Error())}
	}
	a = c.send(ctx, http.MethodPost, "/register", "application/json", string(body), nil)
	var got struct {
		ID string `json:"client_id"`
	}
	if a.status == http.StatusCreated {
		if err := json.Unmarshal(a.body, &got); err != nil {
			return "", answer{status: 599, body: []byte(err.Error())}
		}
	}
	return got.ID, a
}

// pair are the tokens of one answer.
type pair struct {
	Access  string `json:"access_token"`
	Refresh string `json:"refresh_token"`
}

func (a answer) tokens() (pair, error) {
	var p pair
	if err := json.Unmarshal(a.body, &p); err != nil {
		return p, err
	}
	if p.Access == "" || p.Refresh == "" {
		return p, errors.New("an answer without tokens")
	}
	return p, nil
}

// pending is a code and what it takes to redeem it.
type pending struct {
	client, code, verifier string
	since                  time.Time
}

func (c wire) redeem(ctx context.Context, p pending) answer {
	return c.form(ctx, "/token", "grant_type", "authorization_code", "code", p.code, "client_id", p.client,
		"redirect_uri", redirectURL, "code_verifier", p.verifier, "resource", c.public+"/mcp")
}

func (c wire) refresh(ctx context.Context, client, token string) answer {
	return c.form(ctx, "/token", "grant_type", "refresh_token", "refresh_token", token, "client_id", client)
}

func (c wire) revoke(ctx context.Context, client, token string) answer {
	return c.form(ctx, "/revoke", "token", token, "client_id", client)
}

// walk goes through the sign-in pages as a person with a fresh browser, who
// agrees. Where a page was lost, lost is true and they begin anew.
func (c wire) walk(ctx context.Context, client, email string) (p pending, lost bool, err error) {
	jar, err := cookiejar.New(nil)
	if err != nil {
		return p, false, err
	}
	var landed *url.URL
	browser := &http.Client{Jar: jar, Timeout: patience, Transport: c.transport, CheckRedirect: func(req *http.Request, via []*http.Request) error {
		if strings.HasPrefix(req.URL.String(), redirectURL) {
			landed = req.URL
			return http.ErrUseLastResponse
		}
		if len(via) > 10 {
			return errors.New("too many redirects")
		}
		return nil
	}}
	p = pending{client: client, verifier: rand.Text() + rand.Text(), since: time.Now()}
	challenge := sha256.Sum256([]byte(p.verifier))
	state := rand.Text()
	start := c.public + "/authorize?" + url.Values{
		"response_type": {"code"}, "client_id": {client}, "redirect_uri": {redirectURL}, "state": {state},
		"code_challenge": {base64.RawURLEncoding.EncodeToString(challenge[:])}, "code_challenge_method": {"S256"},
		"resource": {c.public + "/mcp"}, "scope": {"mcp:tools offline_access"},
	}.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, start, nil)
	if err != nil {
		return p, false, err
	}
	for range 6 {
		resp, err := browser.Do(req)
		if err != nil {
			return p, true, nil //nolint:nilerr // a page that does not come is what this is about
		}
		page, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
		resp.Body.Close()
		if landed != nil {
			q := landed.Query()
			if e := q.Get("error"); e == "server_error" || e == "temporarily_unavailable" {
				return p, true, nil
			}
			if p.code = q.Get("code"); p.code == "" || q.Get("state") != state {
				return p, false, fmt.Errorf("the sign-in ended with %q", landed.RawQuery)
			}
			return p, false, nil
		}
		a := answer{resp.StatusCode, resp.Header, page}
		if err != nil || a.lost() {
			return p, true, nil //nolint:nilerr // as above
		}
		at := resp.Request.URL
		if a.status != http.StatusOK {
			return p, false, fmt.Errorf("%s %s: %s", resp.Request.Method, at.Path, visible(page))
		}
		if req, err = press(ctx, at, page, "Approve", "Continue as", email); err != nil {
			return p, false, err
		}
	}
	return p, false, errors.New("the sign-in pages do not end")
}

// visible is the text of a page.
func visible(page []byte) string {
	doc, err := html.Parse(bytes.NewReader(page))
	if err != nil {
		return err.Error()
	}
	text := textOf(doc)
	return text[:min(len(text), 400)]
}

// press returns the request of the first button whose label begins with one of
// labels.
func press(ctx context.Context, at *url.URL, page []byte, labels ...string) (*http.Request, error) {
	doc, err := html.Parse(bytes.NewReader(page))
	if err != nil {
		return nil, err
	}
	for form := range doc.Descendants() {
		if form.Type != html.ElementNode || form.Data != "form" {
			continue
		}
		values, pressed := url.Values{}, false
		for n := range form.Descendants() {
			switch {
			case n.Type != html.ElementNode:
			case n.Data == "input" && attr(n, "name") != "":
				values.Add(attr(n, "name"), attr(n, "value"))
			case n.Data == "button" && !pressed:
				for _, label := range labels {
					if strings.HasPrefix(textOf(n), label) || strings.Contains(label, "@") && strings.Contains(textOf(n), label) {
						pressed = true
						if name := attr(n, "name"); name != "" {
							values.Add(name, attr(n, "value"))
						}
						break
					}
				}
			}
		}
		if !pressed {
			continue
		}
		target, err := at.Parse(attr(form, "action"))
		if err != nil {
			return nil, err
		}
		if !strings.EqualFold(attr(form, "method"), http.MethodPost) {
			target.RawQuery = values.Encode()
			return http.NewRequestWithContext(ctx, http.MethodGet, target.String(), nil)
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, target.String(), strings.NewReader(values.Encode()))
		if err != nil {
			return nil, err
		}
		req.GetBody = nil
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		req.Header.Set("Origin", at.Scheme+"://"+at.Host)
		req.Header.Set("Sec-Fetch-Site", "same-origin")
		return req, nil
	}
	return nil, fmt.Errorf("no button %q on %s: %s", labels, at.Path, visible(page))
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
		if d.Type == html.TextNode && (d.Parent == nil || d.Parent.Data != "style") {
			b.WriteString(d.Data)
			b.WriteByte(' ')
		}
	}
	return strings.Join(strings.Fields(b.String()), " ")
}
