package authserver

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"
)

// The flight recorder: the last sign-ins of this instance, step by step, for
// whoever is asked why a client does not connect. It is kept in memory and
// holds nothing that could be used or that names a person: no codes, tokens,
// states or cookies, no accounts, no addresses.
//
// A sign-in is pieced together from requests of two programs, the client and
// the browser. Until the browser brings the client's id, what comes from one
// address and one program counts as one; two clients behind one address may be
// taken for each other. From /authorize on nothing is guessed.

const (
	maxFlights   = 256
	maxStrangers = maxFlights / 4 // that have only asked for metadata
	maxSteps     = 32
	flightQuiet  = 10 * time.Minute // after which nobody is expected to go on
)

// stepKind is a station of a sign-in.
type stepKind int

const (
	stepMetadata stepKind = iota
	stepRegistered
	stepAuthorize
	stepConsent
	stepApproved
	stepProvider
	stepReturned
	stepAccount
	stepCode
	stepToken
	stepDeviceAsked
	stepEntered
	stepDevice
	stepStopped // by an error, or by the person
)

// stations say of each kind what happened, and what did not if nothing
// followed.
var stations = map[stepKind]struct{ done, missing string }{
	stepMetadata:    {"asked for the metadata", "never registered or came to /authorize"},
	stepRegistered:  {"registered", "never came to /authorize"},
	stepAuthorize:   {"came to /authorize", "got no further"},
	stepConsent:     {"was shown the consent page", "never answered it"},
	stepApproved:    {"was approved", "was never sent to the sign-in provider"},
	stepProvider:    {"was sent to the sign-in provider", "never came back from there"},
	stepReturned:    {"came back from the sign-in provider", "got no further"},
	stepAccount:     {"was asked whether the account is the right one", "never answered"},
	stepCode:        {"got a code", "never redeemed it at /token"},
	stepDeviceAsked: {"asked for a device code", "nobody entered its code at /device"},
	stepEntered:     {"entered the code of the device", "got no further"},
	stepDevice:      {"was approved for the device", "never collected its tokens at /token"},
	stepToken:       {"redeemed the code", ""},
}

// flightStep is one step as it is shown.
type flightStep struct {
	At     time.Time `json:"at"`
	Step   string    `json:"step"`
	Detail string    `json:"detail,omitempty"`
	Times  int       `json:"times,omitempty"` // when it came more than once in a row

	kind stepKind
}

// flight is one sign-in, as far as it went.
type flight struct {
	ID           string       `json:"id"`
	ClientID     string       `json:"client_id,omitempty"`
	ClientName   string       `json:"client_name,omitempty"` // what it calls itself
	RedirectHost string       `json:"redirect_host,omitempty"`
	Program      string       `json:"program,omitempty"` // family of the client's user agent
	Browser      string       `json:"browser,omitempty"` // family of the browser's
	Steps        []flightStep `json:"steps"`
	Outcome      string       `json:"outcome"` // signed in, stopped, under way, left
	Summary      string       `json:"summary"`

	addr  netip.Addr // tells callers apart, is not shown
	grant string     // that the code belongs to
}

func (f *flight) last() flightStep { return f.Steps[len(f.Steps)-1] }

func (f *flight) reached(kind stepKind) bool {
	return slices.ContainsFunc(f.Steps, func(st flightStep) bool { return st.kind == kind })
}

// atPages reports a sign-in that waits for no other client and browser.
func (f *flight) atPages() bool { return f.reached(stepAuthorize) || f.reached(stepDeviceAsked) }

// stranger reports a caller of whom nothing is known but that it can read.
func (f *flight) stranger() bool { return f.last().kind == stepMetadata && f.ClientID == "" }

// open reports whether a next step may belong to f.
func (f *flight) open(now time.Time) bool {
	last := f.last()
	return last.kind != stepToken && last.kind != stepStopped && now.Sub(last.At) < flightQuiet
}

func (f *flight) add(now time.Time, kind stepKind, what, detail string) {
	if what == "" {
		what = stations[kind].done
	}
	detail = displayText(detail, 200)
	if n := len(f.Steps); n > 0 {
		if last := &f.Steps[n-1]; last.Step == what && last.Detail == detail {
			last.At, last.Times = now, max(last.Times, 1)+1
			return
		}
		if n == maxSteps { // the first ones say where it came from
			f.Steps = slices.Delete(f.Steps, n/2, n/2+1)
		}
	}
	f.Steps = append(f.Steps, flightStep{At: now, Step: what, Detail: detail, kind: kind})
}

// flights are the last sign-ins, the oldest first.
type flights struct {
	now func() time.Time

	mu   sync.Mutex
	list []*flight
}

// find returns the newest flight that match accepts, or nil; fl.mu is held.
func (fl *flights) find(match func(*flight) bool) *flight {
	for i := len(fl.list) - 1; i >= 0; i-- {
		if match(fl.list[i]) {
			return fl.list[i]
		}
	}
	return nil
}

// begin makes room and adds a flight; fl.mu is held.
func (fl *flights) begin(id string) *flight {
	if len(fl.list) >= maxFlights {
		first, strangers := 0, 0
		for i, f := range slices.Backward(fl.list) {
			if f.stranger() {
				first, strangers = i, strangers+1
			}
		}
		if strangers < maxStrangers { // else they would push out those who signed in
			first = 0
		}
		fl.list = slices.Delete(fl.list, first, first+1)
	}
	if id == "" {
		id = b64.EncodeToString(randomBytes(9))
	}
	f := &flight{ID: id}
	fl.list = append(fl.list, f)
	return f
}

// asked records a request for a document of metadata.
func (fl *flights) asked(addr netip.Addr, program string) {
	fl.mu.Lock()
	defer fl.mu.Unlock()
	now := fl.now()
	f := fl.find(func(f *flight) bool {
		return f.addr == addr && f.Program == program && (f.stranger() || f.open(now) && !f.atPages())
	})
	if f == nil {
		f = fl.begin("")
		f.addr, f.Program = addr, program
	}
	f.add(now, stepMetadata, "", "")
}

// registered records a registration, refusal being "" or why there was none.
func (fl *flights) registered(addr netip.Addr, program, clientID, name, refusal string) {
	fl.mu.Lock()
	defer fl.mu.Unlock()
	now := fl.now()
	f := fl.find(func(f *flight) bool {
		return f.addr == addr && f.Program == program && (f.stranger() || f.ClientID == clientID && f.open(now) && !f.atPages())
	})
	if f == nil {
		f = fl.begin("")
		f.addr, f.Program = addr, program
	}
	if refusal != "" {
		f.add(now, stepStopped, "was refused at /register", refusal)
		return
	}
	f.ClientID, f.ClientName = clientID, displayText(name, 60)
	f.add(now, stepRegistered, "", "")
}

// device records a client at the device authorization endpoint and returns the
// id of its flight.
func (fl *flights) device(addr netip.Addr, program, clientID, name string) string {
	fl.mu.Lock()
	defer fl.mu.Unlock()
	now := fl.now()
	f := fl.find(func(f *flight) bool {
		return f.addr == addr && f.Program == program && f.open(now) && (f.stranger() || f.ClientID == clientID && !f.atPages())
	})
	if f == nil {
		f = fl.begin("")
		f.addr, f.Program = addr, program
	}
	f.ClientID = clientID
	if f.ClientName == "" {
		f.ClientName = displayText(name, 60)
	}
	f.add(now, stepDeviceAsked, "", "")
	return f.ID
}

// arrived records a browser at /authorize and returns the id of its flight: one
// that is waiting for it, from the same address if there is one, or a new one.
func (fl *flights) arrived(addr netip.Addr, browser, clientID, name, redirectHost string) string {
	fl.mu.Lock()
	defer fl.mu.Unlock()
	now := fl.now()
	waits := func(f *flight) bool { return f.ClientID == clientID && f.open(now) && !f.atPages() }
	f := fl.find(func(f *flight) bool { return waits(f) && f.addr == addr })
	if f == nil {
		f = fl.find(waits)
	}
	if f == nil { // a client that has no need to register has asked for metadata at most
		f = fl.find(func(f *flight) bool { return f.stranger() && f.addr == addr && f.open(now) })
	}
	if f == nil {
		f = fl.begin("")
		f.addr = addr
	}
	f.ClientID, f.RedirectHost, f.Browser = clientID, redirectHost, browser
	if f.ClientName == "" {
		f.ClientName = displayText(name, 60)
	}
	f.add(now, stepAuthorize, "", "")
	return f.ID
}

// step records a further step of flight id. One that is not here began on
// another instance, or too long ago.
func (fl *flights) step(id string, kind stepKind, what, detail string) {
	if id == "" {
		return
	}
	fl.mu.Lock()
	defer fl.mu.Unlock()
	f := fl.find(func(f *flight) bool { return f.ID == id })
	if f == nil {
		f = fl.begin(id)
		f.add(fl.now(), stepAuthorize, "began elsewhere", "on another instance, or before this one was started")
	}
	f.add(fl.now(), kind, what, detail)
}

// coded records, as kind, that a code of grant left for the client or waits for
// it.
func (fl *flights) coded(id string, kind stepKind, grant string) {
	fl.step(id, kind, "", "")
	fl.mu.Lock()
	defer fl.mu.Unlock()
	if f := fl.find(func(f *flight) bool { return f.ID == id }); f != nil {
		f.grant = grant
	}
}

// redeemed records what became of a code at the token endpoint; grant is "" for
// one that names none, and then the client's last code is meant.
func (fl *flights) redeemed(grant, clientID, program, refusal string) {
	fl.mu.Lock()
	defer fl.mu.Unlock()
	f := fl.find(func(f *flight) bool {
		if grant != "" {
			return f.grant == grant
		}
		return f.ClientID == clientID && f.last().kind == stepCode
	})
	if f == nil {
		return
	}
	if f.Program == "" {
		f.Program = program
	}
	if refusal != "" {
		f.add(fl.now(), stepStopped, "was refused at /token", refusal)
		return
	}
	f.add(fl.now(), stepToken, "", "")
}

// snapshot is a copy with outcomes, the newest first.
func (fl *flights) snapshot() []flight {
	fl.mu.Lock()
	defer fl.mu.Unlock()
	now := fl.now()
	list := make([]flight, 0, len(fl.list))
	for _, f := range slices.Backward(fl.list) {
		c := *f
		c.Steps = slices.Clone(f.Steps)
		c.judge(now)
		list = append(list, c)
	}
	return list
}

// judge says how the sign-in ended, or where it stopped and why.
func (f *flight) judge(now time.Time) {
	last := f.last()
	switch {
	case last.kind == stepToken:
		f.Outcome, f.Summary = "signed in", "has tokens"
		return
	case last.kind == stepStopped:
		f.Outcome, f.Summary = "stopped", last.Step
		if last.Detail != "" {
			f.Summary += ": " + last.Detail
		}
		return
	case f.open(now):
		f.Outcome = "under way"
	default:
		f.Outcome = "left"
	}
	var said []string
	for _, st := range f.Steps {
		if !slices.Contains(said, st.Step) {
			said = append(said, st.Step)
		}
	}
	if n := len(said); n > 3 {
		said = said[n-3:]
	}
	f.Summary = strings.Join(said, ", ")
	if f.Outcome == "left" {
		f.Summary += ", " + stations[last.kind].missing
	}
}

// agentFamily is what kind of program a User-Agent names, without its version.
func agentFamily(ua string) string {
	for _, known := range []struct{ mark, name string }{ // the more special first
		{"Edg", "Edge"}, {"OPR/", "Opera"}, {"Firefox/", "Firefox"}, {"Chrome/", "Chrome"}, {"CriOS/", "Chrome"}, {"Safari/", "Safari"},
	} {
		if strings.HasPrefix(ua, "Mozilla/") && strings.Contains(ua, known.mark) {
			return known.name
		}
	}
	name, _, _ := strings.Cut(strings.TrimSpace(ua), "/")
	name, _, _ = strings.Cut(name, " ")
	return displayText(name, 40)
}

// The hooks, called where things happen.

type flightKey struct{}

// aboard marks r as part of the sign-in of req, for the pages that end it.
func aboard(r *http.Request, req *authRequest) *http.Request {
	return r.WithContext(context.WithValue(r.Context(), flightKey{}, req.Flight))
}

// flightOf is the id of the sign-in that r is aboard of, or "".
func flightOf(r *http.Request) string {
	id, _ := r.Context().Value(flightKey{}).(string)
	return id
}

// recordPage records a page that says what is wrong.
func (s *Server) recordPage(r *http.Request, p errorPage) {
	reason := cmp.Or(p.Reason, p.Problem)
	s.flights.step(flightOf(r), stepStopped, "was shown an error page", fmt.Sprintf("%s (request %s)", strings.TrimSuffix(reason, "."), p.RequestID))
}

// recordArrival records a browser at the authorization endpoint and takes its
// request aboard; c is nil for a client that nobody knows, redirectURI "" for
// one that is not the client's.
func (s *Server) recordArrival(r *http.Request, p params, c *client, redirectURI string) *http.Request {
	id, _, _ := strings.Cut(p.get("client_id"), "?")
	id, name, host := displayText(id, 100), "", "" // whatever it is, it need not be ours
	if c != nil {
		id, name = c.ID, c.Name
	}
	if redirectURI != "" {
		host = redirectHost(redirectURI)
	}
	return aboard(r, &authRequest{Flight: s.flights.arrived(s.peerAddr(r), agentFamily(r.UserAgent()), id, name, host)})
}

// recordDocument wraps a document of metadata.
func (s *Server) recordDocument(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		s.flights.asked(s.peerAddr(r), agentFamily(r.UserAgent()))
		next(w, r)
	}
}

// recordRegistration wraps the registration endpoint, of whose answer it reads
// the client's id and name, or the error.
func (s *Server) recordRegistration(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		tee := &teeWriter{ResponseWriter: w}
		next(tee, r)
		var answer struct {
			ID          string `json:"client_id"`
			Name        string `json:"client_name"`
			Error       string `json:"error"`
			Description string `json:"error_description"`
		}
		if json.Unmarshal(tee.body, &answer) != nil {
			return
		}
		refusal := ""
		if answer.ID == "" {
			refusal = strings.Trim(answer.Error+": "+answer.Description, ": ")
		}
		s.flights.registered(s.peerAddr(r), agentFamily(r.UserAgent()), answer.ID, answer.Name, refusal)
	}
}

// teeWriter keeps what is written, which the handlers behind it bound.
type teeWriter struct {
	http.ResponseWriter
	body []byte
}

func (w *teeWriter) Write(b []byte) (int, error) {
	w.body = append(w.body, b...)
	return w.ResponseWriter.Write(b)
}

// recordCode records what became of the code of p.
func (s *Server) recordCode(r *http.Request, p params, err error) {
	if p.get("grant_type") != grantTypeCode {
		return
	}
	grant, refusal := "", ""
	if h, ok := s.keys.openHandle(prefixCode, p.get("code")); ok {
		grant = h.grant.id()
	}
	if err != nil {
		oe := asOAuthError(err)
		refusal = oe.Code + ": " + oe.Description
	}
	s.flights.redeemed(grant, p.get("client_id"), agentFamily(r.UserAgent()), refusal)
}

// SignIns serves the flight recorder: the last sign-ins of this instance, the
// newest first, as a page for people or, for Accept: application/json, as
//
//	{"signins": [{"id", "client_id", "client_name", "redirect_host", "program",
//	  "browser", "outcome", "summary", "steps": [{"at", "step", "detail", "times"}]}]}
//
// Where nothing is known a member is missing. outcome is "signed in",
// "stopped", "under way" or "left". It is for operators: it belongs on a
// listener that others cannot reach. Other methods than GET and HEAD are
// answered with 405.
func (s *Server) SignIns() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		pageHeaders(w.Header())
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, "use GET", http.StatusMethodNotAllowed)
			return
		}
		w.Header().Add("Vary", "Accept")
		list := s.flights.snapshot()
		if accept := r.Header.Get("Accept"); strings.Contains(accept, "application/json") && !strings.Contains(accept, "text/html") {
			writeJSON(w, http.StatusOK, map[string]any{"signins": list})
			return
		}
		s.render(w, http.StatusOK, "signins", "Sign-ins", list)
	})
}
