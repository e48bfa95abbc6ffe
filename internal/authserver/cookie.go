package authserver

import (
	"bytes"
	"crypto/subtle"
	"encoding/json"
	"net/http"
	"time"

	"github.com/mcp-clerk/mcp-clerk/internal/identity"
)

// The cookies. Two short ones guard the pages: csrf comes with a page and ties
// its form to the browser, signin comes with the approval and ties the answer
// of the sign-in provider to it. account names the user who signed in last.
// person is the proof of a recent sign-in, for the connected apps.
const (
	cookieCSRF    = "csrf"
	cookieSignin  = "signin"
	cookieAccount = "account"
	cookiePerson  = "person"
)

// cookieName is the name on the wire: __Host- keeps other hosts and subdomains
// from setting it. On loopback without TLS that prefix is not available, and
// cookies ignore ports, so that the port becomes part of the name.
func (s *Server) cookieName(name string) string {
	if s.site.scheme == "https" {
		return "__Host-" + name
	}
	if s.site.port == "" {
		return name
	}
	return name + "-" + s.site.port
}

func (s *Server) setCookie(w http.ResponseWriter, name, value string, life time.Duration) {
	c := &http.Cookie{
		Name: s.cookieName(name), Value: value, Path: "/", MaxAge: int(life / time.Second),
		Secure: s.site.scheme == "https", HttpOnly: true, SameSite: http.SameSiteLaxMode,
	}
	if life <= 0 {
		c.MaxAge = -1
	}
	http.SetCookie(w, c)
}

func (s *Server) readCookie(r *http.Request, name string) string {
	list := r.CookiesNamed(s.cookieName(name))
	if len(list) != 1 || len(list[0].Value) > 4096 {
		return "" // two of one name: somebody else has set one
	}
	return list[0].Value
}

// sealText seals v as JSON for p, bound to name and to an end.
func (s *Server) sealText(p purpose, name string, v any) string {
	plain, err := json.Marshal(v)
	if err != nil {
		panic("authserver: seal " + name + ": " + err.Error()) // own structs of plain fields
	}
	return b64.EncodeToString(s.keys.seal(p, plain, []byte(name)))
}

func (s *Server) openText(p purpose, name, text string, v any) bool {
	sealed, err := b64.DecodeString(text)
	if err != nil {
		return false
	}
	plain, ok := s.keys.open(p, nil, sealed, []byte(name))
	return ok && json.Unmarshal(plain, v) == nil
}

// csrfToken returns the browser's csrf cookie and sets it again, or gives it
// one. Several tabs share it.
func (s *Server) csrfToken(w http.ResponseWriter, r *http.Request) string {
	value := s.readCookie(r, cookieCSRF)
	if raw, err := b64.DecodeString(value); err != nil || len(raw) != 32 {
		value = randomText()
	}
	s.setCookie(w, cookieCSRF, value, signinTTL)
	return value
}

// maxSignins bounds the sign-ins under way in one browser.
const maxSignins = 8

// stateHash is what the signin cookie holds of a state.
func stateHash(state string) []byte { return hash([]byte(state))[:16] }

// signins are the states that this browser has approved.
func (s *Server) signins(r *http.Request) []byte {
	sealed, err := b64.DecodeString(s.readCookie(r, cookieSignin))
	if err != nil {
		return nil
	}
	list, ok := s.keys.open(forCookie, nil, sealed, []byte(cookieSignin))
	if !ok || len(list)%16 != 0 {
		return nil
	}
	return list
}

// approveState binds a sign-in to this browser.
func (s *Server) approveState(w http.ResponseWriter, r *http.Request, state string) {
	list := append(stateHash(state), s.signins(r)...)
	s.setSignins(w, list[:min(len(list), maxSignins*16)])
}

func (s *Server) setSignins(w http.ResponseWriter, list []byte) {
	if len(list) == 0 {
		s.setCookie(w, cookieSignin, "", 0)
		return
	}
	s.setCookie(w, cookieSignin, b64.EncodeToString(s.keys.seal(forCookie, list, []byte(cookieSignin))), signinTTL)
}

// approvedState reports whether this browser has approved state, and drops it
// from the cookie if so.
func (s *Server) approvedState(w http.ResponseWriter, r *http.Request, state string) bool {
	want, list := stateHash(state), s.signins(r)
	var rest []byte
	found := 0
	for i := 0; i+16 <= len(list); i += 16 {
		if same := subtle.ConstantTimeCompare(list[i:i+16], want); same == 1 {
			found = 1
		} else {
			rest = append(rest, list[i:i+16]...)
		}
	}
	if found == 1 {
		s.setSignins(w, bytes.Clone(rest))
	}
	return found == 1
}

// account is the content of the sign-in cookie: who signed in last in this
// browser. It names the user on the consent page and is no proof of identity:
// every grant needs a fresh answer of the sign-in provider.
type account struct {
	Subject string `json:"sub"`
	Name    string `json:"name,omitempty"`
	Email   string `json:"email,omitempty"`
	Expires int64  `json:"exp"` // unix seconds
}

func accountOf(u *identity.User) account {
	name := u.FirstName
	if u.LastName != "" {
		if name != "" {
			name += " "
		}
		name += u.LastName
	}
	return account{Subject: u.ID, Name: cutName(name), Email: cutName(u.Email)}
}

// label is the account as people know it: "Ada Lovelace (ada@example.com)".
func (a *account) label() string {
	name, email := displayText(a.Name, 60), displayText(a.Email, 100)
	switch {
	case name != "" && email != "":
		return name + " (" + email + ")"
	case email != "":
		return email
	case name != "":
		return name
	}
	return displayText(a.Subject, 60)
}

func (s *Server) setAccount(w http.ResponseWriter, a account) {
	a.Expires = s.now().Add(accountTTL).Unix()
	s.setCookie(w, cookieAccount, s.sealText(forCookie, cookieAccount, a), accountTTL)
}

// readAccount returns the account of the browser, or nil.
func (s *Server) readAccount(r *http.Request) *account {
	value := s.readCookie(r, cookieAccount)
	if value == "" {
		return nil
	}
	a := &account{}
	if !s.openText(forCookie, cookieAccount, value, a) || a.Subject == "" || s.now().Unix() >= a.Expires {
		return nil
	}
	return a
}
