package devclerk

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"html/template"
	"net/http"
	"strings"
	"sync"
)

//go:embed page.html
var pageHTML string

//go:embed page.css
var pageCSS string

var pageTemplate = parsed("page", &pageHTML)

// parsed reads a page's template when it is first shown: every start of the
// program would pay for it otherwise.
func parsed(name string, html *string) func() *template.Template {
	return sync.OnceValue(func() *template.Template { return template.Must(template.New(name).Parse(*html)) })
}

// pagePolicy allows nothing but the page's own style sheet. There is no
// form-action: Chromium applies it to every redirect that follows a submit,
// and this page's submit leads on to the application and to its client.
var pagePolicy = func() string {
	sum := sha256.Sum256([]byte(pageCSS))
	return "default-src 'none'; style-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) +
		"'; base-uri 'none'; frame-ancestors 'none'"
}()

type page struct {
	Style   template.CSS
	Action  string // where the form goes, with the authorization request
	Cancel  string // back to the application, with access_denied
	Problem string
	Users   []pageUser // sign-in page
	Account *pageUser  // consent page
	Scopes  []string
}

type pageUser struct{ ID, Email, About string }

func newPageUser(a account) pageUser {
	about := []string{}
	if name := strings.TrimSpace(a.FirstName + " " + a.LastName); name != "" {
		about = append(about, name)
	}
	switch role, ok := a.PublicMetadata["role"].(string); {
	case a.Banned:
		about = append(about, "banned")
	case a.Locked:
		about = append(about, "locked")
	case ok && role != "":
		about = append(about, "role "+role)
	case a.PublicMetadata["role"] == nil:
		about = append(about, "no role")
	}
	return pageUser{ID: a.ID, Email: a.Email, About: strings.Join(about, " · ")}
}

func (s *Server) showSignIn(w http.ResponseWriter, status int, req *authRequest, problem string) {
	p := page{Action: "/sign-in?" + req.query.Encode(), Problem: problem}
	for _, a := range s.accounts() {
		p.Users = append(p.Users, newPageUser(a))
	}
	showPage(w, status, req, p)
}

func (s *Server) showConsent(w http.ResponseWriter, req *authRequest, a account) {
	u := newPageUser(a)
	showPage(w, http.StatusOK, req, page{Action: "/consent?" + req.query.Encode(), Account: &u, Scopes: strings.Fields(req.scope)})
}

func showPage(w http.ResponseWriter, status int, req *authRequest, p page) {
	p.Style = template.CSS(pageCSS) //nolint:gosec // our own file
	p.Cancel = req.errorURL(&oauthError{code: "access_denied", description: descDenied})
	var b bytes.Buffer
	if err := pageTemplate().Execute(&b, p); err != nil {
		http.Error(w, "the page can't be made", http.StatusInternalServerError)
		return
	}
	writePage(w, status, b.Bytes())
}

func writePage(w http.ResponseWriter, status int, page []byte) {
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", pagePolicy)
	h.Set("X-Frame-Options", "DENY")
	// Not no-referrer: browsers then send "Origin: null" with the form.
	h.Set("Referrer-Policy", "same-origin")
	w.WriteHeader(status)
	_, _ = w.Write(page)
}
