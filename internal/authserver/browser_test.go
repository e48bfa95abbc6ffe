package authserver_test

import (
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"strings"
	"testing"

	"golang.org/x/net/html"
)

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

// pressWith fills fields of the form and presses a button of it.
func (v *visit) pressWith(label string, pairs ...string) *visit {
	v.b.e.t.Helper()
	return v.b.do(filled(v.b.e.t, v.form(label), pairs...))
}

func filled(t testing.TB, r *http.Request, pairs ...string) *http.Request {
	t.Helper()
	if err := r.ParseForm(); err != nil {
		t.Fatal(err)
	}
	values := r.PostForm
	for i := 0; i < len(pairs); i += 2 {
		values.Set(pairs[i], pairs[i+1])
	}
	out := request(t, r.Method, r.URL.String(), strings.NewReader(values.Encode()))
	out.Header = r.Header.Clone()
	return out
}

func expectPage(t testing.TB, v *visit, status int, texts ...string) {
	t.Helper()
	if v.left || v.status != status {
		t.Fatalf("page %v (%d), want %d:\n%s", v.url, v.status, status, v.body)
	}
	for _, text := range texts {
		if !strings.Contains(v.body, text) {
			t.Errorf("the page does not say %q:\n%s", text, v.body)
		}
	}
}
