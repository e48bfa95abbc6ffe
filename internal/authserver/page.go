package authserver

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"errors"
	"html/template"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"
)

//go:embed pages
var pageFiles embed.FS

// pageStyle is the whole style sheet as an element, and pagePolicy the policy
// that allows it and nothing else. form-action is left out on purpose:
// browsers check it against every redirect that follows a form, and those lead
// to the sign-in provider and to the client, custom schemes included.
var (
	pageStyle, pagePolicy = newPageStyle()
	pageTemplates         = sync.OnceValue(func() *template.Template {
		return template.Must(template.New("pages").ParseFS(pageFiles, "pages/*.html"))
	})
)

func newPageStyle() (template.HTML, string) {
	css, err := pageFiles.ReadFile("pages/style.css")
	if err != nil {
		panic("authserver: " + err.Error()) // embedded
	}
	sum := sha256.Sum256(css)
	return template.HTML("<style>" + string(css) + "</style>"), //nolint:gosec // embedded, not foreign
		"default-src 'none'; style-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'; base-uri 'none'; frame-ancestors 'none'"
}

func pageHeaders(h http.Header) {
	h.Set("Content-Security-Policy", pagePolicy)
	h.Set("X-Frame-Options", "DENY")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	// Not no-referrer: under that, browsers post forms with "Origin: null".
	h.Set("Referrer-Policy", "same-origin")
}

// page is what every template gets.
type page struct {
	Title  string
	Server string
	Style  template.HTML
	View   any
}

// clientView is a client as people see it. Its name is what it calls itself;
// its host is where the access really goes.
type clientView struct {
	Name     string
	Verified bool
	Domain   string // the proven one, "" if the operator vouches instead
	Host     string
	Loopback bool // an application on this computer, which anything could be
	App      bool // opened by a private-use scheme
	// Of a device (RFC 8628): Host is "".
	Device    string // user code
	From      string // address that asked, "" if that says nothing
	Elsewhere bool   // and the browser has another one
	Asked     string // how long ago
}

type scopeView struct{ Name, Description string }

type consentView struct {
	Client  clientView
	Scopes  []scopeView
	Account string // as label gives it, "" if none is known
	// Organisations are the answers to "for which organisation?", none if that is
	// no question.
	Organisations []organisationView
	Switch        string // URL that starts over with another account
	Action        string
	Ticket        string
}

// errorPage is a page that says what is wrong and what to do.
type errorPage struct {
	Status    int
	Problem   string
	Reason    string // for the flight recorder, in place of a problem that names a person
	Advice    string
	Link      string // a URL of this server or a registered redirect URI
	LinkText  string
	RequestID string
}

// Href lets a private-use scheme through, which templates take for a script.
func (p errorPage) Href() template.URL {
	return template.URL(p.Link) //nolint:gosec // a URL of this server, or a redirect URI that the policy has let in
}

func (s *Server) clientView(r *http.Request, c *client, req *authRequest) clientView {
	v := clientView{Name: displayText(c.Name, 60)}
	if v.Name == "" {
		v.Name = "An application"
	}
	if req.Device != "" {
		v.Device, v.From, v.Elsewhere, v.Asked = showUserCode(req.Device), req.From, elsewhere(req.From, s.peerAddr(r)), ago(s.now().Sub(time.UnixMilli(req.Asked)))
		// There is no redirect that would lead to the real one: whoever knows
		// the id of a client without credentials can ask in its name.
		if v.Verified = c.verified && c.confidential(); v.Verified {
			v.Domain = c.domain("")
		}
		return v
	}
	v.Domain, v.Host = c.domain(req.Redirect), redirectHost(req.Redirect)
	v.Verified = c.verified || v.Domain != ""
	if kind, err := s.redirects.check(req.Redirect); err == nil {
		v.Loopback, v.App = kind == redirectLoopback, kind == redirectPrivate
	}
	return v
}

// ago is a span of time as people say it.
func ago(d time.Duration) string {
	for _, unit := range []struct {
		name string
		size time.Duration
	}{{"day", 24 * time.Hour}, {"hour", time.Hour}, {"minute", time.Minute}} {
		switch n := d / unit.size; {
		case n == 1:
			return "1 " + unit.name + " ago"
		case n > 1:
			return strconv.Itoa(int(n)) + " " + unit.name + "s ago"
		}
	}
	return "just now"
}

func (s *Server) scopeViews(names []string) []scopeView {
	var list []scopeView
	for _, sc := range s.offer.Load().scopes {
		for _, name := range names {
			if sc.Name == name {
				list = append(list, scopeView(sc))
			}
		}
	}
	return list
}

// displayText makes a foreign text fit to be shown: one line of printable
// characters that neither change direction nor take no room, of limit
// characters at most.
func displayText(text string, limit int) string {
	var b strings.Builder
	n, marks, blank := 0, 0, false
	for _, c := range text {
		switch {
		case unicode.IsSpace(c):
			blank = b.Len() > 0
			continue
		case c == utf8.RuneError || !unicode.IsPrint(c) || unicode.Is(unicode.Cf, c) || unicode.Is(unicode.Other_Default_Ignorable_Code_Point, c):
			continue
		case unicode.Is(unicode.M, c):
			if marks++; marks > 2 { // piles of accents run out of their line
				continue
			}
		default:
			marks = 0
		}
		if blank {
			n++
		}
		if n >= limit {
			b.WriteString("…")
			break
		}
		if blank {
			b.WriteByte(' ')
			blank = false
		}
		b.WriteRune(c)
		n++
	}
	return b.String()
}

func (s *Server) render(w http.ResponseWriter, status int, name, title string, view any) {
	var b bytes.Buffer
	err := pageTemplates().ExecuteTemplate(&b, name+".html", page{Title: title, Server: s.opts.ServerName, Style: pageStyle, View: view})
	if err != nil {
		s.log.Error("render page", "page", name, "error", err)
		http.Error(w, "internal error", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	w.Write(b.Bytes())
}

func (s *Server) errorPage(w http.ResponseWriter, r *http.Request, p errorPage) {
	p.RequestID = s.requestID(r)
	level := slog.LevelInfo
	if p.Status >= 500 {
		level = slog.LevelError
	}
	s.log.Log(r.Context(), level, "error page", "path", r.URL.Path, "status", p.Status, "problem", p.Problem, "request_id", p.RequestID)
	s.recordPage(r, p)
	s.render(w, p.Status, "error", "This did not work", p)
}

func (s *Server) requestID(r *http.Request) string {
	if s.opts.RequestID != nil {
		if id := s.opts.RequestID(r); id != "" {
			return id
		}
	}
	return b64.EncodeToString(randomBytes(9))
}

func (s *Server) wrongMethodPage(w http.ResponseWriter, r *http.Request) {
	s.errorPage(w, r, errorPage{Status: http.StatusMethodNotAllowed, Problem: "This address does not answer such requests.",
		Advice: "Go back to your application and start the sign-in there again."})
}

func (s *Server) badRequestPage(w http.ResponseWriter, r *http.Request, problem string) {
	s.errorPage(w, r, errorPage{Status: http.StatusBadRequest,
		Problem: "The application that sent you here made a mistake: " + problem + ".",
		Advice:  "Nothing was approved. Close this page, go back to the application and try again; if it happens again, tell its maker."})
}

func (s *Server) tooManyPage(w http.ResponseWriter, r *http.Request, retry time.Duration) {
	setRetryAfter(w.Header(), retry)
	s.errorPage(w, r, errorPage{Status: http.StatusTooManyRequests, Problem: "Too many sign-ins were started from your network in a short time.",
		Advice: "Wait a minute, then go back to your application and try again."})
}

// clientErrorPage says why there is no client to go on with.
func (s *Server) clientErrorPage(w http.ResponseWriter, r *http.Request, err error, again string) {
	var oe *oauthError
	switch {
	case errors.Is(err, errNotAdmitted):
		s.errorPage(w, r, errorPage{Status: http.StatusForbidden,
			Problem: "Whoever runs this server has not admitted the application that sent you here.",
			Advice:  "Nothing was approved. Ask them to admit it."})
	case errors.Is(err, errUnknownClient):
		s.unknownClientPage(w, r)
	case errors.As(err, &oe) && oe.Status == http.StatusTooManyRequests:
		s.tooManyPage(w, r, oe.RetryAfter)
	default:
		s.unavailablePage(w, r, err, again)
	}
}

func (s *Server) unknownClientPage(w http.ResponseWriter, r *http.Request) {
	s.errorPage(w, r, errorPage{Status: http.StatusBadRequest,
		Problem: "The application that sent you here is not registered with this server, or its description cannot be used.",
		Advice:  "Nothing was approved. Remove this server from the application, add it again and sign in once more: it then registers anew."})
}

func (s *Server) unavailablePage(w http.ResponseWriter, r *http.Request, cause error, again string) {
	s.log.ErrorContext(r.Context(), "sign-in interrupted", "error", cause)
	setRetryAfter(w.Header(), unavailable(cause).RetryAfter)
	s.errorPage(w, r, errorPage{Status: http.StatusServiceUnavailable,
		Problem: "The sign-in cannot go on right now, because something that it needs does not answer.",
		Advice:  "Nothing was approved. Wait a moment and try again.", Link: again, LinkText: "Try again"})
}

func (s *Server) signinOverPage(w http.ResponseWriter, r *http.Request, again string) {
	p := errorPage{Status: http.StatusBadRequest,
		Problem: "This sign-in has been used, has expired, or was started in another browser.",
		Advice:  "Go back to your application and start the sign-in there again.", Link: again, LinkText: "Start again"}
	s.errorPage(w, r, p)
}

func (s *Server) forgedPage(w http.ResponseWriter, r *http.Request) {
	s.errorPage(w, r, errorPage{Status: http.StatusForbidden,
		Problem: "This answer did not come from the page that was shown to you, or your browser does not keep cookies.",
		Advice:  "Nothing was approved. Allow cookies for this address, go back to your application and start the sign-in there again."})
}

func (s *Server) refusedUserPage(w http.ResponseWriter, r *http.Request, req *authRequest, a *account, refused string) {
	s.audit(r.Context(), Event{Name: "signin.refused", ClientID: req.Client, Subject: a.Subject, Reason: refused})
	s.errorPage(w, r, errorPage{Status: http.StatusForbidden,
		Problem: "The account " + a.label() + " " + refused + ".", Reason: "The account " + refused + ".",
		Advice: "It cannot be used here. Ask whoever runs this server, or sign in with another account.",
		Link:   req.url(s, "login"), LinkText: "Sign in with another account"})
}
