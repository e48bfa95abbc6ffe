package server_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/html"
)

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
