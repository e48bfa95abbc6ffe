package authserver

import (
	"crypto/subtle"
	"errors"
	"net/http"
	"time"

	"github.com/mcp-clerk/mcp-clerk/internal/store"
)

// entry is the sealed part of the form in which a user code is entered: it ties
// the form to the browser, so that no other site can let its visitors guess.
type entry struct {
	CSRF    []byte `json:"csrf"` // hash of the cookie
	Login   bool   `json:"login,omitempty"`
	Expires int64  `json:"exp"` // unix seconds
}

const formEntry = "user code"

// deviceView is the page /device.
type deviceView struct {
	Code    string // that the address brought along, or what was typed
	Filled  bool   // the address brought it along: it is to be compared, not typed
	Problem string
	Action  string
	Ticket  string
}

// doneView is the page that ends a device's request.
type doneView struct {
	Approved bool
	Client   string
	Account  string // that was approved with
	Apps     string // URL of the connected apps
}

// devicePage is the page on which people enter a user code (RFC 8628 section
// 3.3).
func (s *Server) devicePage(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodPost {
		s.enterCode(w, r)
		return
	}
	p, err := parseParams(r.URL.RawQuery)
	if err != nil || len(p.repeated) > 0 || len(r.URL.RawQuery) > maxQuery {
		s.codeForm(w, r, http.StatusBadRequest, deviceView{Problem: "The address of this page is not complete. Enter the code by hand."}, false)
		return
	}
	v := deviceView{}
	if code, ok := parseUserCode(p.get("user_code")); ok {
		v.Code, v.Filled = showUserCode(code), true
	} else if p.get("user_code") != "" {
		v.Problem = "The address of this page has a code that cannot be one. Enter it by hand."
	}
	s.codeForm(w, r, http.StatusOK, v, p.get("prompt") == "login")
}

func (s *Server) codeForm(w http.ResponseWriter, r *http.Request, status int, v deviceView, login bool) {
	v.Action = s.site.prefix + "/device"
	v.Ticket = s.sealText(forForm, formEntry, entry{
		CSRF: hash([]byte(s.csrfToken(w, r))), Login: login, Expires: s.now().Add(signinTTL).Unix(),
	})
	s.render(w, status, "device", "Connect a device", v)
}

// enterCode takes a user code. Guesses are counted by address, and by user
// where the browser names one (RFC 8628 section 5.1); a code that is one costs
// nothing, so that a whole office can connect its devices.
func (s *Server) enterCode(w http.ResponseWriter, r *http.Request) {
	p, ok := s.ownForm(w, r)
	var e entry
	csrf := s.readCookie(r, cookieCSRF)
	if !ok || csrf == "" || !s.openText(forForm, formEntry, p.get("ticket"), &e) ||
		subtle.ConstantTimeCompare(e.CSRF, hash([]byte(csrf))) != 1 {
		s.forgedPage(w, r)
		return
	}
	typed := p.get("user_code")
	again := func(status int, problem string) {
		s.codeForm(w, r, status, deviceView{Code: displayText(typed, 40), Problem: problem}, e.Login)
	}
	if !s.now().Before(time.Unix(e.Expires, 0)) {
		again(http.StatusBadRequest, "This page was open for too long. Look at your device whether the code is still there, and enter it again.")
		return
	}
	code, ok := parseUserCode(typed)
	if !ok {
		again(http.StatusBadRequest, "A code has eight letters, none of them a vowel, as in WDJB-MJHT.")
		return
	}
	now := s.now()
	parties := []party{newParty(s.peerAddr(r), "")}
	known, subject := s.readAccount(r), ""
	if known != nil {
		subject = known.Subject
		parties = append(parties, userParty(s.peerAddr(r), subject))
	}
	var giveBack []func()
	for _, who := range parties {
		refund, retry, ok := s.limits.guess.take(who, now)
		if !ok {
			s.audit(r.Context(), Event{Name: "device.guessed", Subject: subject, Reason: "too many codes that are none"})
			setRetryAfter(w.Header(), retry)
			again(http.StatusTooManyRequests, "Too many codes that are none were entered from your network. Wait a minute and try again.")
			return
		}
		giveBack = append(giveBack, refund)
	}
	_, d, err := s.findDevice(r.Context(), code)
	switch {
	case errors.Is(err, store.ErrNotFound) || err == nil && !d.pending():
		again(http.StatusNotFound, "There is no such code, or it has been used or has expired. Compare it with your device, which can also ask for a new one.")
		return
	case err != nil:
		s.unavailablePage(w, r, err, s.site.issuer+"/device")
		return
	}
	for _, refund := range giveBack {
		refund()
	}
	req := d.request(code)
	req.Login = e.Login
	r = aboard(r, req)
	s.flights.step(req.Flight, stepEntered, "", "")
	c, err := s.loadClient(r.Context(), d.Client)
	if err != nil {
		s.clientErrorPage(w, r, err, req.url(s, ""))
		return
	}
	if req.Login {
		known = nil
	}
	s.consentPage(w, r, c, req, known)
}

// finishDevice ends an approved sign-in for a device: it collects its grant
// with its next poll.
func (s *Server) finishDevice(w http.ResponseWriter, r *http.Request, c *client, req *authRequest, a *account) {
	ctx := r.Context()
	err := s.markApproved(ctx, c)
	if errors.Is(err, errUnknownClient) { // expired just now
		s.unknownClientPage(w, r)
		return
	}
	var name grantName
	if err == nil {
		name, err = s.approveDevice(ctx, c, req, a)
	}
	switch {
	case errors.Is(err, store.ErrNotFound):
		s.deviceOverPage(w, r)
		return
	case err != nil:
		s.unavailablePage(w, r, err, req.url(s, ""))
		return
	}
	s.audit(ctx, Event{Name: "grant.created", ClientID: c.ID, Subject: a.Subject, Grant: name.id(), Reason: "device"})
	s.flights.coded(req.Flight, stepDevice, name.id())
	s.render(w, http.StatusOK, "done", "Your device is connected", doneView{
		Approved: true, Client: s.clientView(r, c, req).Name, Account: a.label(), Apps: s.site.issuer + appsPath,
	})
}

// refuseDevice ends a device's request that a person did not want.
func (s *Server) refuseDevice(w http.ResponseWriter, r *http.Request, req *authRequest) {
	switch err := s.denyDevice(r.Context(), req.Device); {
	case errors.Is(err, store.ErrNotFound):
		s.deviceOverPage(w, r)
		return
	case err != nil:
		s.unavailablePage(w, r, err, req.url(s, ""))
		return
	}
	s.render(w, http.StatusOK, "done", "Nothing was connected", doneView{})
}

func (s *Server) deviceOverPage(w http.ResponseWriter, r *http.Request) {
	s.errorPage(w, r, errorPage{Status: http.StatusBadRequest,
		Problem: "The code of the device has been used or has expired.",
		Advice:  "Nothing was approved. Let the device ask for a new code.", Link: s.site.issuer + "/device", LinkText: "Enter another code"})
}

// ownForm reads a form that was sent from a page of this server: from its
// origin, once each parameter, and none in the URL.
func (s *Server) ownForm(w http.ResponseWriter, r *http.Request) (params, bool) {
	// Cookies ignore ports, and SameSite ignores them too: on loopback only
	// the origin tells another server's page from ours.
	if !s.sameOrigin(r) || r.URL.RawQuery != "" {
		return params{}, false
	}
	form, err := readForm(w, r)
	if err != nil {
		return params{}, false
	}
	p, err := parseParams(form)
	return p, err == nil && len(p.repeated) == 0
}
