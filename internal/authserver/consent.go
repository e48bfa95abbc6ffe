package authserver

import (
	"context"
	"crypto/subtle"
	"errors"
	"net/http"
	"time"

	"github.com/mcp-clerk/mcp-clerk/internal/store"
)

// ticket is what the forms carry, sealed: the request as it was checked, tied
// to the browser by its csrf cookie. A form with another client, redirect or
// scope than the page showed cannot be made.
type ticket struct {
	Request authRequest `json:"request"`
	CSRF    []byte      `json:"csrf"`             // hash of the cookie
	Expires int64       `json:"exp"`              // unix seconds
	Shown   string      `json:"shown,omitempty"`  // subject that the page names
	Handle  string      `json:"handle,omitempty"` // account page: of its sign-in record
}

const formTicket = "ticket"

func (s *Server) sealTicket(w http.ResponseWriter, r *http.Request, t ticket) string {
	t.CSRF = hash([]byte(s.csrfToken(w, r)))
	t.Expires = s.now().Add(signinTTL).Unix()
	return s.sealText(forForm, formTicket, t)
}

// consentPage asks whether the client may have access; a is the account that
// the browser last signed in with, or nil.
func (s *Server) consentPage(w http.ResponseWriter, r *http.Request, c *client, req *authRequest, a *account) {
	v := consentView{Client: s.clientView(r, c, req), Scopes: s.scopeViews(req.Scopes), Action: s.site.prefix + "/consent"}
	t := ticket{Request: *req}
	if a != nil {
		t.Shown = a.Subject
		v.Account, v.Switch = a.label(), req.url(s, "login")
		v.Organisations = s.question(r.Context(), a.Subject, s.usualOrganisation(r.Context(), a.Subject, c))
	}
	v.Ticket = s.sealTicket(w, r, t)
	s.flights.step(req.Flight, stepConsent, "", "")
	s.render(w, http.StatusOK, "consent", "Approve access", v)
}

// askAccount sends a browser that has come back from the provider to the page
// that names the account, for who approved without having seen one. A page at
// the callback itself would keep the provider's code in the address bar, in the
// history and on screenshots, and could not be reloaded.
func (s *Server) askAccount(w http.ResponseWriter, r *http.Request, req *authRequest, a *account) {
	handle := randomText()
	rec := signinRecord{Request: *req, Account: a, CSRF: hash([]byte(s.csrfToken(w, r)))}
	if err := s.createSignin(r.Context(), handle, rec); err != nil {
		s.unavailablePage(w, r, err, req.url(s, ""))
		return
	}
	redirect(w, http.StatusSeeOther, withQuery(s.site.issuer+"/consent", "signin", handle))
}

// usualOrganisation is the one that subject has chosen for c before.
func (s *Server) usualOrganisation(ctx context.Context, subject string, c *client) string {
	rec, _ := s.loadConsent(ctx, subject, c)
	return rec.Organization
}

// accountPage names the account that signed in. Its address alone, in another
// browser, shows nothing.
func (s *Server) accountPage(w http.ResponseWriter, r *http.Request) {
	p, err := parseParams(r.URL.RawQuery)
	if err != nil || len(p.repeated) > 0 || len(r.URL.RawQuery) > maxQuery {
		s.signinOverPage(w, r, "")
		return
	}
	handle := p.get("signin")
	if handle == "" { // a GET never approves
		w.Header().Set("Allow", http.MethodPost)
		s.wrongMethodPage(w, r)
		return
	}
	rec, err := s.peekSignin(r.Context(), handle)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		s.unavailablePage(w, r, err, "")
		return
	}
	csrf := s.readCookie(r, cookieCSRF)
	if err != nil || rec.Account == nil || csrf == "" || subtle.ConstantTimeCompare(rec.CSRF, hash([]byte(csrf))) != 1 {
		s.signinOverPage(w, r, "")
		return
	}
	req, a := &rec.Request, rec.Account
	r = aboard(r, req)
	s.flights.step(req.Flight, stepAccount, "", "")
	c, err := s.loadClient(r.Context(), req.Client)
	if err != nil {
		s.clientErrorPage(w, r, err, req.url(s, ""))
		return
	}
	chosen := req.Organization
	if chosen == "" {
		chosen = s.usualOrganisation(r.Context(), a.Subject, c)
	}
	s.render(w, http.StatusOK, "account", "Is this you?", consentView{
		Organisations: s.question(r.Context(), a.Subject, chosen),
		Client:        s.clientView(r, c, req), Scopes: s.scopeViews(req.Scopes), Action: s.site.prefix + "/consent", Account: a.label(),
		Ticket: s.sealTicket(w, r, ticket{Request: *req, Handle: handle}),
	})
}

// consent shows the page that names the account, and takes the answer of both
// pages.
func (s *Server) consent(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodGet {
		s.accountPage(w, r)
		return
	}
	p, ok := s.ownForm(w, r)
	var t ticket
	csrf := s.readCookie(r, cookieCSRF)
	if !ok || csrf == "" || !s.openText(forForm, formTicket, p.get("ticket"), &t) ||
		subtle.ConstantTimeCompare(t.CSRF, hash([]byte(csrf))) != 1 {
		s.forgedPage(w, r)
		return
	}
	r = aboard(r, &t.Request)
	if !s.now().Before(time.Unix(t.Expires, 0)) {
		s.signinOverPage(w, r, t.Request.url(s, ""))
		return
	}
	if t.Handle != "" {
		s.answerAccount(w, r, &t, p.get("decision"), p.get("organisation"))
		return
	}
	t.Request.Organization = p.get("organisation") // it is judged before the grant is made
	s.answerConsent(w, r, &t, p.get("decision"))
}

func (s *Server) answerConsent(w http.ResponseWriter, r *http.Request, t *ticket, decision string) {
	req := &t.Request
	c, err := s.loadClient(r.Context(), req.Client)
	if err != nil {
		s.clientErrorPage(w, r, err, req.url(s, ""))
		return
	}
	if err := s.stillAllowed(c, req); err != nil {
		s.badRequestPage(w, r, err.Error())
		return
	}
	switch decision {
	case "approve":
		s.audit(r.Context(), Event{Name: "consent.approved", ClientID: c.ID, Subject: t.Shown})
		s.flights.step(req.Flight, stepApproved, "", "")
		s.beginSignIn(w, r, req, t.Shown, http.StatusSeeOther)
	case "cancel":
		s.deny(w, r, req, t.Shown)
	default:
		s.forgedPage(w, r)
	}
}

// answerAccount ends the sign-in, whatever the answer: its record counts once.
func (s *Server) answerAccount(w http.ResponseWriter, r *http.Request, t *ticket, decision, organisation string) {
	rec, err := s.takeSignin(r.Context(), t.Handle)
	switch {
	case errors.Is(err, store.ErrNotFound) || err == nil && rec.Account == nil:
		s.signinOverPage(w, r, t.Request.url(s, ""))
		return
	case err != nil:
		s.unavailablePage(w, r, err, t.Request.url(s, ""))
		return
	}
	switch decision {
	case "continue":
		rec.Request.Organization = organisation
		s.issueCode(w, r, &rec.Request, rec.Account, http.StatusSeeOther)
	case "switch":
		rec.Request.Login, rec.Request.Organization = true, ""
		s.beginSignIn(w, r, &rec.Request, "", http.StatusSeeOther)
	case "cancel":
		s.deny(w, r, &rec.Request, rec.Account.Subject)
	default:
		s.forgedPage(w, r)
	}
}

func (s *Server) deny(w http.ResponseWriter, r *http.Request, req *authRequest, subject string) {
	s.audit(r.Context(), Event{Name: "consent.denied", ClientID: req.Client, Subject: subject})
	s.flights.step(req.Flight, stepStopped, "was refused by the person, who pressed Cancel", "")
	s.refuse(w, r, req, http.StatusSeeOther, errDenied)
}

// refuse ends a request by telling the client why, by its redirect URI or, a
// device, with its next poll. For a page of ours nobody else is told.
func (s *Server) refuse(w http.ResponseWriter, r *http.Request, req *authRequest, status int, oe *oauthError) {
	if req.Device != "" {
		s.refuseDevice(w, r, req)
		return
	}
	if req.Page != "" {
		s.errorPage(w, r, errorPage{Status: http.StatusForbidden, Problem: "You were not signed in.",
			Advice: "Nothing was changed.", Link: req.url(s, "login"), LinkText: "Sign in"})
		return
	}
	redirect(w, status, req.refusal(s, oe))
}

// stillAllowed reports whether c may make the request, which was checked when
// it was made: the client may have changed since.
func (s *Server) stillAllowed(c *client, req *authRequest) error {
	if req.Device == "" {
		_, err := s.findRedirect(c, req.Redirect)
		return err
	}
	if !s.allowsDevice(c) {
		return errors.New("it may not connect devices")
	}
	return nil
}

// sameOrigin reports whether the form was sent from a page of this server, as
// far as the browser says: it names the origin of every form that it posts.
func (s *Server) sameOrigin(r *http.Request) bool {
	for _, origin := range r.Header.Values("Origin") {
		if origin != s.site.origin {
			return false
		}
	}
	switch r.Header.Get("Sec-Fetch-Site") {
	case "", "same-origin", "none":
		return true
	}
	return false
}
