package devclerk

import (
	"bytes"
	_ "embed"
	"html/template"
	"net/http"
	"time"
)

//go:embed switches.html
var switchesHTML string

var switchesTemplate = parsed("switches", &switchesHTML)

// A toggle is a state of the stand-in that can be switched while it runs, on a
// page that nothing links to: it is for who tries out what a server does about
// it, by hand or by a script. It is no part of Clerk's APIs.
type toggle struct {
	Name, Label string
	on          func(s *Server) bool // s.mu is held
	set         func(s *Server, on bool)
}

// setting is a toggle of a member that is guarded by s.mu.
func setting(name, label string, field func(s *Server) *bool) toggle {
	return toggle{name, label, func(s *Server) bool { return *field(s) }, func(s *Server, on bool) {
		s.mu.Lock()
		defer s.mu.Unlock()
		*field(s) = on
	}}
}

// fault is a toggle that lets some paths misbehave. Of two for the same paths
// the one that was switched last counts.
func fault(name, label, prefix string, f Fault) toggle {
	return toggle{name, label, func(s *Server) bool { now := s.faults[prefix]; return now != nil && *now == f }, func(s *Server, on bool) {
		if on {
			s.SetFault(prefix, f)
		} else {
			s.SetFault(prefix, Fault{})
		}
	}}
}

var toggles = []toggle{
	fault("api-down", "Backend API down", "/v1/", Fault{Status: http.StatusServiceUnavailable}),
	fault("api-slow", "Backend API slow (2 s)", "/v1/", Fault{Delay: 2 * time.Second}),
	fault("api-limited", "Backend API limited (429, 5 s)", "/v1/", Fault{Status: http.StatusTooManyRequests, RetryAfter: 5 * time.Second}),
	fault("sign-in-down", "Sign-in and tokens down", "/oauth/", Fault{Status: http.StatusServiceUnavailable}),
	fault("discovery-down", "Discovery and keys down", "/.well-known/", Fault{Status: http.StatusServiceUnavailable}),
	setting("consent", "Consent page", func(s *Server) *bool { return &s.consent }),
	setting("deny-next", "Deny the next sign-in", func(s *Server) *bool { return &s.denyNext }),
	setting("opaque", "Opaque access tokens", func(s *Server) *bool { return &s.opaque }),
	setting("audience", "Audience in access tokens", func(s *Server) *bool { return &s.audience }),
	setting("registration", "Dynamic client registration", func(s *Server) *bool { return &s.registration }),
}

func (s *Server) serveSwitches(w http.ResponseWriter, _ *http.Request) {
	type view struct {
		toggle
		On bool
	}
	page := struct {
		Style    template.CSS
		Switches []view
	}{Style: template.CSS(pageCSS)} //nolint:gosec // our own file
	s.mu.Lock()
	for _, t := range toggles {
		page.Switches = append(page.Switches, view{t, t.on(s)})
	}
	s.mu.Unlock()
	var b bytes.Buffer
	if err := switchesTemplate().Execute(&b, page); err != nil {
		http.Error(w, "the page can't be made", http.StatusInternalServerError)
		return
	}
	writePage(w, http.StatusOK, b.Bytes())
}

// serveSwitch is the submit of that page: "on" or "off" names a toggle, "rotate"
// what becomes of the keys that were there, "keep" or "drop".
func (s *Server) serveSwitch(w http.ResponseWriter, r *http.Request) {
	if s.origin.Check(r) != nil {
		http.Error(w, "this form was sent from another site", http.StatusForbidden)
		return
	}
	form, err := postForm(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	done := false
	if keep := form.Get("rotate"); keep == "keep" || keep == "drop" {
		if err := s.RotateKeys(keep == "keep"); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		done = true
	}
	for _, t := range toggles {
		if on := form.Get("on") == t.Name; on || form.Get("off") == t.Name {
			t.set(s, on)
			done = true
		}
	}
	if !done {
		http.Error(w, "there is no such switch", http.StatusBadRequest)
		return
	}
	http.Redirect(w, r, "/switches", http.StatusSeeOther)
}
