package devclerk

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"strings"
	"time"

	"golang.org/x/net/html"
)

// Person stands in for the person at a browser: it goes through the sign-in
// pages of a development server, reads each page's form and presses the button
// that leads on. It serves the demo where no browser can be opened, and tests.
type Person struct {
	client *http.Client
	email  string               // whose button to press on the sign-in page
	step   func(pressed string) // told of each button pressed
}

// NewPerson returns a person with that e-mail address and an empty cookie jar;
// step is told of each button that is pressed.
func NewPerson(email string, step func(pressed string)) *Person {
	jar, err := cookiejar.New(nil)
	if err != nil {
		panic(err) // cookiejar.New fails for no options
	}
	return &Person{
		client: &http.Client{Jar: jar, Timeout: 30 * time.Second},
		email:  email,
		step:   step,
	}
}

// Walk opens start and follows the pages to the client's loopback callback, or
// to the page that says that a device is connected. Of what the client makes of
// it nothing is reported here.
func (p *Person) Walk(ctx context.Context, start string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, start, nil)
	if err != nil {
		return fmt.Errorf("open sign-in page: %w", err)
	}
	const mostPages = 8
	for range mostPages {
		page, at, err := p.fetch(req)
		if err != nil {
			return err
		}
		form, button, ok := p.choose(page)
		if !ok && (at.Query().Has("code") || at.Query().Has("error")) {
			return nil // the client's callback page: it knows how it ended
		}
		if !ok && strings.Contains(nodeText(page), "Your device is connected") {
			return nil
		}
		if !ok {
			return fmt.Errorf("no button to press on the page at %q", at.Host+at.Path)
		}
		p.step(button.label)
		if req, err = form.submit(ctx, at, button); err != nil {
			return err
		}
	}
	return errors.New("the sign-in pages do not end")
}

func (p *Person) fetch(req *http.Request) (*html.Node, *url.URL, error) {
	resp, err := p.client.Do(req)
	if err != nil {
		return nil, nil, fmt.Errorf("open sign-in page: %w", err)
	}
	defer func() { _ = resp.Body.Close() }()
	page, err := html.Parse(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return nil, nil, fmt.Errorf("read sign-in page: %w", err)
	}
	at := resp.Request.URL
	if resp.StatusCode >= http.StatusBadRequest {
		return nil, nil, fmt.Errorf("the page at %q answered %s", at.Host+at.Path, resp.Status)
	}
	return page, at, nil
}

// pageForm is a form with the fields a browser would send.
type pageForm struct {
	action, method string
	fields         url.Values
	buttons        []pageButton
}

type pageButton struct {
	label, name, value, action string
}

// choose picks the button that goes on: the user's own e-mail on a sign-in
// page, Approve or Continue, or Allow at Clerk, on a consent page that names this
// user or nobody.
func (p *Person) choose(page *html.Node) (pageForm, pageButton, bool) {
	forms := findForms(page)
	for _, wanted := range []func(label string) bool{
		func(label string) bool { return strings.Contains(label, p.email) },
		func(label string) bool { return (label == "Approve" || label == "Allow") && !p.namesAnother(page) },
		func(label string) bool { return strings.HasPrefix(label, "Yes, it shows this code") },
		func(label string) bool { return strings.Contains(strings.ToLower(label), "not you") },
	} {
		for _, form := range forms {
			for _, button := range form.buttons {
				if wanted(button.label) {
					return form, button, true
				}
			}
		}
	}
	return pageForm{}, pageButton{}, false
}

// namesAnother reports whether the page speaks of an account that is not ours.
func (p *Person) namesAnother(page *html.Node) bool {
	text := nodeText(page)
	return strings.Contains(text, "@") && !strings.Contains(text, p.email)
}

func (f pageForm) submit(ctx context.Context, at *url.URL, pressed pageButton) (*http.Request, error) {
	action := f.action
	if pressed.action != "" {
		action = pressed.action
	}
	target, err := at.Parse(action)
	if err != nil {
		return nil, fmt.Errorf("read form of %q: %w", at.Path, err)
	}
	fields := url.Values{}
	for name, values := range f.fields {
		fields[name] = values
	}
	if pressed.name != "" {
		fields.Add(pressed.name, pressed.value)
	}
	if !strings.EqualFold(f.method, http.MethodPost) {
		target.RawQuery = fields.Encode()
		return http.NewRequestWithContext(ctx, http.MethodGet, target.String(), nil)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, target.String(), strings.NewReader(fields.Encode()))
	if err != nil {
		return nil, fmt.Errorf("submit form of %q: %w", at.Path, err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Origin", at.Scheme+"://"+at.Host)
	req.Header.Set("Sec-Fetch-Site", "same-origin")
	return req, nil
}

func findForms(n *html.Node) []pageForm {
	var forms []pageForm
	for node := range n.Descendants() {
		if node.Type != html.ElementNode || node.Data != "form" {
			continue
		}
		form := pageForm{action: attribute(node, "action"), method: attribute(node, "method"), fields: url.Values{}}
		for field := range node.Descendants() {
			if field.Type != html.ElementNode {
				continue
			}
			kind := strings.ToLower(attribute(field, "type"))
			name, value := attribute(field, "name"), attribute(field, "value")
			switch {
			case field.Data == "button" && (kind == "" || kind == "submit"):
				form.buttons = append(form.buttons, pageButton{strings.TrimSpace(nodeText(field)), name, value, attribute(field, "formaction")})
			case field.Data == "input" && kind == "submit":
				form.buttons = append(form.buttons, pageButton{value, name, value, attribute(field, "formaction")})
			case field.Data == "select":
				form.fields.Set(name, firstOption(field))
			case field.Data == "input" && name != "" && (kind != "checkbox" && kind != "radio" || hasAttribute(field, "checked")):
				form.fields.Add(name, value)
			}
		}
		forms = append(forms, form)
	}
	return forms
}

// firstOption is the value of a selection as it stands, or else of the first
// option that says something.
func firstOption(selection *html.Node) (first string) {
	for n := range selection.Descendants() {
		if n.Type != html.ElementNode || n.Data != "option" {
			continue
		}
		if value := attribute(n, "value"); hasAttribute(n, "selected") {
			return value
		} else if first == "" {
			first = value
		}
	}
	return first
}

func nodeText(n *html.Node) string {
	var b strings.Builder
	for node := range n.Descendants() {
		if node.Type == html.TextNode && (node.Parent == nil || node.Parent.Data != "style") {
			b.WriteString(node.Data)
		}
	}
	return strings.Join(strings.Fields(b.String()), " ")
}

func attribute(n *html.Node, name string) string {
	for _, a := range n.Attr {
		if a.Key == name {
			return a.Val
		}
	}
	return ""
}

func hasAttribute(n *html.Node, name string) bool {
	for _, a := range n.Attr {
		if a.Key == name {
			return true
		}
	}
	return false
}
