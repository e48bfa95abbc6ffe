package authserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/mcp-clerk/mcp-clerk/internal/identity"
	"github.com/mcp-clerk/mcp-clerk/internal/store"
)

// signinTimeout bounds each call of the sign-in provider.
const signinTimeout = 15 * time.Second

// signinRecord is a sign-in under way, the sealed record signin/HASH of a
// random text that only the browser has: the state while the provider is
// asked, then the handle of the page that names the account.
type signinRecord struct {
	Request  authRequest `json:"request"`
	Nonce    string      `json:"nonce,omitempty"`
	Verifier string      `json:"verifier,omitempty"`
	Shown    string      `json:"shown,omitempty"` // subject that the consent page named
	// For the account page only: who signed in, and the hash of the csrf cookie
	// of the browser in which they did.
	Account *account `json:"account,omitempty"`
	CSRF    []byte   `json:"csrf,omitempty"`
}

func (s *Server) createSignin(ctx context.Context, handle string, rec signinRecord) error {
	key := "signin/" + textHash(handle)
	plain, err := json.Marshal(rec)
	if err != nil {
		return fmt.Errorf("encode sign-in: %w", err)
	}
	err = s.store.Create(ctx, store.Record{Key: key, Value: s.keys.seal(forSignin, plain, []byte(key)), Expires: s.now().Add(signinTTL)})
	if err != nil {
		return storeError("create sign-in", err)
	}
	return nil
}

// takeSignin returns the sign-in under handle once. The error is
// store.ErrNotFound for one that is over.
func (s *Server) takeSignin(ctx context.Context, handle string) (signinRecord, error) {
	stored, err := s.store.Take(ctx, "signin/"+textHash(handle))
	if err != nil {
		return signinRecord{}, storeError("take sign-in", err)
	}
	return s.openSignin(stored)
}

// peekSignin returns the sign-in under handle and leaves it there.
func (s *Server) peekSignin(ctx context.Context, handle string) (signinRecord, error) {
	stored, err := s.store.Get(ctx, "signin/"+textHash(handle))
	if err != nil {
		return signinRecord{}, storeError("read sign-in", err)
	}
	return s.openSignin(stored)
}

func (s *Server) openSignin(stored store.Record) (signinRecord, error) {
	var rec signinRecord
	plain, ok := s.keys.open(forSignin, nil, stored.Value, []byte(stored.Key))
	if !ok || json.Unmarshal(plain, &rec) != nil {
		return rec, fmt.Errorf("open sign-in: %w", store.ErrNotFound) // sealed with a key that is gone
	}
	return rec, nil
}

// beginSignIn sends an approving browser to the sign-in provider. shown is the
// subject that the user has approved as, "" if none was named.
func (s *Server) beginSignIn(w http.ResponseWriter, r *http.Request, req *authRequest, shown string, status int) {
	prompt := ""
	switch {
	case req.None:
		prompt = "none"
	case req.Login:
		prompt = "login"
	}
	ctx, cancel := context.WithTimeout(r.Context(), signinTimeout)
	defer cancel()
	state := randomText()
	rec := signinRecord{Request: *req, Nonce: randomText(), Verifier: randomText(), Shown: shown}
	target, err := s.signin.Begin(ctx, state, rec.Nonce, rec.Verifier, prompt)
	if err != nil {
		s.unavailablePage(w, r, fmt.Errorf("begin sign-in: %w", err), req.url(s, ""))
		return
	}
	if err := s.createSignin(ctx, state, rec); err != nil {
		s.unavailablePage(w, r, err, req.url(s, ""))
		return
	}
	s.approveState(w, r, state)
	s.flights.step(req.Flight, stepProvider, "", "")
	redirect(w, status, target)
}

// callback is where the sign-in provider sends the browser back to.
func (s *Server) callback(w http.ResponseWriter, r *http.Request) {
	p, err := parseParams(r.URL.RawQuery)
	if err != nil || len(p.repeated) > 0 || p.get("state") == "" || len(r.URL.RawQuery) > maxQuery {
		s.signinOverPage(w, r, "")
		return
	}
	// The browser first: another one must not be able to use up the sign-in.
	if !s.approvedState(w, r, p.get("state")) {
		s.signinOverPage(w, r, "")
		return
	}
	rec, err := s.takeSignin(r.Context(), p.get("state"))
	switch {
	case errors.Is(err, store.ErrNotFound):
		s.signinOverPage(w, r, "")
		return
	case err != nil:
		s.unavailablePage(w, r, err, "")
		return
	case rec.Account != nil: // the handle of an account page
		s.signinOverPage(w, r, "")
		return
	}
	req := &rec.Request
	r = aboard(r, req)
	s.flights.step(req.Flight, stepReturned, "", "")
	if code := p.get("error"); code != "" {
		s.providerRefusal(w, r, req, code)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), signinTimeout)
	defer cancel()
	user, err := s.signin.Complete(ctx, p.get("code"), rec.Verifier, rec.Nonce)
	switch {
	case errors.Is(err, identity.ErrUnavailable):
		s.unavailablePage(w, r, fmt.Errorf("complete sign-in: %w", err), req.url(s, ""))
		return
	case err != nil || user.ID == "":
		s.audit(r.Context(), Event{Name: "signin.failed", ClientID: req.Client, Reason: "the provider's answer was refused"})
		s.log.WarnContext(r.Context(), "sign-in refused", "error", err)
		s.signinOverPage(w, r, req.url(s, ""))
		return
	}
	refused := refusal(&user)
	if refused == "" && s.opts.Admit != nil {
		// Before the user is asked anything more. The id_token does not say all
		// that is judged.
		if _, refused, err = s.refusedUser(ctx, user.ID); err != nil {
			s.unavailablePage(w, r, err, req.url(s, ""))
			return
		}
	}
	s.signedIn(w, r, rec, accountOf(&user), refused)
}

// providerRefusal ends a sign-in that the provider has ended, at the client.
func (s *Server) providerRefusal(w http.ResponseWriter, r *http.Request, req *authRequest, code string) {
	oe := &oauthError{Code: codeServerError, Description: "the sign-in provider reported an error"}
	switch code {
	case codeAccessDenied:
		oe = errDenied
	case codeLoginRequired, codeConsentRequired, "interaction_required", "account_selection_required":
		oe = &oauthError{Code: code, Description: "the sign-in provider needs the user"}
	case codeUnavailable:
		oe = &oauthError{Code: codeUnavailable, Description: "the sign-in provider is not available"}
	}
	s.audit(r.Context(), Event{Name: "signin.refused", ClientID: req.Client, Reason: oe.Code})
	s.flights.step(req.Flight, stepStopped, "was refused by the sign-in provider", oe.Code)
	if (req.Device != "" || req.Page != "") && oe.Code != codeAccessDenied { // nothing is decided
		s.unavailablePage(w, r, oe, req.url(s, ""))
		return
	}
	s.refuse(w, r, req, http.StatusFound, oe)
}

// signedIn goes on with a user whom the provider has proven. Only the account
// that the user saw while approving gets a code at once.
func (s *Server) signedIn(w http.ResponseWriter, r *http.Request, rec signinRecord, a account, refused string) {
	s.setAccount(w, a)
	if refused != "" {
		s.refusedUserPage(w, r, &rec.Request, &a, refused)
		return
	}
	if rec.Request.Page != "" {
		s.setPerson(w, a)
		s.audit(r.Context(), Event{Name: "person.signed_in", Subject: a.Subject})
		redirect(w, http.StatusSeeOther, s.site.issuer+rec.Request.Page)
		return
	}
	if rec.Shown == a.Subject {
		s.issueCode(w, r, &rec.Request, &a, http.StatusFound)
		return
	}
	rec.Request.Organization = "" // if it was chosen, then by somebody else
	if rec.Request.None {
		s.flights.step(rec.Request.Flight, stepStopped, "was refused: another account is signed in", "")
		redirect(w, http.StatusFound, rec.Request.refusal(s, &oauthError{Code: codeLoginRequired, Description: "another account is signed in"}))
		return
	}
	s.askAccount(w, r, &rec.Request, &a)
}

// issueCode ends an approved sign-in: the client is marked, the consent
// remembered, the grant committed, in this order, and then the code leaves.
func (s *Server) issueCode(w http.ResponseWriter, r *http.Request, req *authRequest, a *account, status int) {
	ctx := r.Context()
	u, refused, err := s.refusedUser(ctx, a.Subject)
	switch {
	case err != nil && s.opts.Admit != nil:
		s.unavailablePage(w, r, err, req.url(s, ""))
		return
	case err != nil:
		s.log.WarnContext(ctx, "directory not asked at sign-in", "error", err)
	case refused != "":
		s.refusedUserPage(w, r, req, a, refused)
		return
	}
	if u != nil {
		org, ok := s.chooseOrganisation(u, req.Organization)
		if !ok && req.None {
			s.refuse(w, r, req, status, &oauthError{Code: codeConsentRequired, Description: "the user has to choose an organisation"})
			return
		}
		if !ok {
			s.askAccount(w, r, req, a)
			return
		}
		req.Organization = org
	}
	// The client may have changed since the request was checked.
	c, err := s.loadClient(ctx, req.Client)
	if err != nil {
		s.clientErrorPage(w, r, err, req.url(s, ""))
		return
	}
	if err := s.stillAllowed(c, req); err != nil {
		s.badRequestPage(w, r, err.Error())
		return
	}
	if req.Device != "" {
		s.finishDevice(w, r, c, req, a)
		return
	}
	err = s.markApproved(ctx, c)
	if errors.Is(err, errUnknownClient) { // expired just now
		s.unknownClientPage(w, r)
		return
	}
	if err == nil {
		err = s.saveConsent(ctx, a.Subject, c, req)
	}
	var name grantName
	var code string
	if err == nil {
		name, code, err = s.createCode(ctx, a.Subject, &grant{
			ClientID: c.ID, Redirect: req.Redirect, Resource: s.site.resource, Scopes: req.Scopes,
			Organization: req.Organization, Code: pendingCode{Challenge: req.Challenge}, Refreshable: c.allowsRefresh(req.Scopes),
		})
	}
	if err != nil {
		s.unavailablePage(w, r, err, req.url(s, ""))
		return
	}
	s.audit(ctx, Event{Name: "grant.created", ClientID: c.ID, Subject: a.Subject, Grant: name.id()})
	s.flights.coded(req.Flight, stepCode, name.id())
	redirect(w, status, req.answer(s, "code", code))
}
