package era

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"errors"
	"io"
	"slices"
	"time"

	"github.com/mcp-clerk/mcp-clerk/internal/jsonrpc"
)

// ToLegacy is the translation for a modern host with a legacy server. It keeps
// one session with the server, which is one leg, for each set of capabilities
// that the host names, at most 4.
//
// A request of the server on an open call ends that call for the host with
// input_required, while the call itself is parked until the host comes back with
// the answers; see park.go. subscriptions/listen is served from
// resources/subscribe and from what the server sends unasked; see watch.go.
type ToLegacy struct {
	steps

	o        LegacyOptions
	key      []byte // authenticates requestState
	calls    int    // the last call
	legs     int    // the last leg
	sessions map[int]*session
	inFlight map[int]*errand
	requests map[string]*request // of the host, by id
	ids      ids                 // of requests to the server
	tokens   ids                 // for progress, at the server
	parked   map[string]*flight  // by the name in their requestState
	held     int                 // bytes of all that is held for the host
}

// LegacyOptions configure ToLegacy.
type LegacyOptions struct {
	// Name and Version are what the server is told where the host does not say
	// what it is called.
	Name, Version string
	// Server is what the host is told where the server does not say it.
	Server string
	// Rand is read for secrets; nil means crypto/rand.
	Rand io.Reader
	// Keep makes a message of the server last for longer than the call that
	// brought it, or returns another in its place: in memory. Nil stands for a
	// func that returns it.
	Keep func(*jsonrpc.Message) *jsonrpc.Message
}

// session is one legacy session with the server.
type session struct {
	leg          int
	capabilities json.RawMessage // the host's
	open         bool
	result       json.RawMessage // of initialize
	version      string
	offered      json.RawMessage // the server's capabilities
	waiting      []*request      // for the session to be open, in their order
	level        int             // of its log, in levels; -1: none set
	setting      []*request      // for another level to be set
	riding       []*question     // for a call to ride on
	watched      map[string]*watched
	listens      []*subscription
	flights      []*flight // open calls, the newest last
	used         time.Time
}

// request is a request of the host that has not ended.
type request struct {
	m      *jsonrpc.Message
	key    string
	s      *session
	flight *flight       // that it owns
	listen *subscription // that it is
	level  int           // the log level that it wants, in levels; -1: none
}

// errand is what a call to the server is for.
type errand struct {
	s      *session
	id     json.RawMessage // of the call; nil: a notification
	method string
	flight *flight  // a request of the host; nil: one of the machine's own
	uri    string   // of resources/subscribe
	first  *request // whose wait it is
}

var _ Machine = (*ToLegacy)(nil)

// NewToLegacy returns the translation for one host.
func NewToLegacy(o LegacyOptions) *ToLegacy {
	if o.Rand == nil {
		o.Rand = rand.Reader
	}
	if o.Keep == nil {
		o.Keep = func(m *jsonrpc.Message) *jsonrpc.Message { return m }
	}
	return &ToLegacy{
		o: o, key: random(o.Rand, 32), sessions: map[int]*session{}, inFlight: map[int]*errand{},
		requests: map[string]*request{}, parked: map[string]*flight{},
	}
}

func random(from io.Reader, n int) []byte {
	b := make([]byte, n)
	if _, err := io.ReadFull(from, b); err != nil {
		panic("era: read random bytes: " + err.Error())
	}
	return b
}

// Host implements Machine.
func (t *ToLegacy) Host(now time.Time, m *jsonrpc.Message) []Step {
	switch {
	case m.IsResponse(): // the revision has no requests to a host
	case m.IsNotification():
		t.notified(m)
	default:
		t.request(now, m)
	}
	return t.take()
}

// removed are the requests that the modern revision does not have any more.
var removed = []string{methodInitialize, methodPing, methodSetLevel, methodSubscribe, methodUnsubscribe}

func (t *ToLegacy) request(now time.Time, m *jsonrpc.Message) {
	version, _ := jsonrpc.LookupString(m.Params, "_meta", keyVersion)
	capabilities, _ := jsonrpc.Lookup(m.Params, "_meta", keyClientCaps)
	level, has := jsonrpc.LookupString(m.Params, "_meta", keyLogLevel)
	r := &request{m: m, key: jsonrpc.IDKey(m.ID), level: slices.Index(levels, level)}
	switch {
	case m.Method == methodPing && version == "": // a habit of before that some hosts keep
		t.deliver(r.key, jsonrpc.NewResult(m.ID, json.RawMessage(`{"resultType":"complete"}`)))
	case !isObject(m.Params):
		t.refuse(m.ID, jsonrpc.CodeInvalidParams, "params are not an object", nil)
	case !slices.Contains(ModernVersions, version):
		t.refuse(m.ID, jsonrpc.CodeUnsupportedVersion, "unsupported protocol version", unsupported{ModernVersions, version})
	case !isObject(capabilities):
		t.refuse(m.ID, jsonrpc.CodeInvalidParams, "_meta has no "+keyClientCaps, nil)
	case has && r.level < 0:
		t.refuse(m.ID, jsonrpc.CodeInvalidParams, "invalid log level", nil)
	case slices.Contains(removed, m.Method):
		t.refuse(m.ID, jsonrpc.CodeMethodNotFound, "the method is not part of the revision "+version, nil)
	default:
		if state, ok := jsonrpc.Lookup(m.Params, "requestState"); ok && mayAsk(m.Method) {
			t.resume(now, r, state)
			return
		}
		if r.s = t.session(now, r, capabilities); r.s == nil {
			return
		}
		t.requests[r.key] = r
		if r.s.open {
			t.begin(now, r)
		} else {
			r.s.waiting = append(r.s.waiting, r)
		}
	}
}

// unsupported is the data of the error to another version (2026-07-28, schema,
// "UnsupportedProtocolVersionError").
type unsupported struct {
	Supported []string `json:"supported"`
	Requested string   `json:"requested"`
}

// session returns the session for a host with these capabilities, and begins it
// if there is none. It answers r and returns nil where there can be none.
func (t *ToLegacy) session(now time.Time, r *request, capabilities json.RawMessage) *session {
	var compact bytes.Buffer
	_ = json.Compact(&compact, capabilities) // it has been read before
	var idle *session
	for _, s := range t.sessions {
		if bytes.Equal(s.capabilities, compact.Bytes()) {
			s.used = now
			return s
		}
		if s.idle() && (idle == nil || s.used.Before(idle.used)) {
			idle = s
		}
	}
	if len(t.sessions) == maxSessions {
		if idle == nil {
			t.refuse(r.m.ID, jsonrpc.CodeInternal, "requests with too many sets of capabilities are in flight", nil)
			return nil
		}
		delete(t.sessions, idle.leg)
		t.add(Step{Verb: Close, Leg: idle.leg})
	}
	t.legs++
	s := &session{leg: t.legs, capabilities: compact.Bytes(), level: -1, used: now, watched: map[string]*watched{}}
	t.sessions[s.leg] = s
	info, _ := jsonrpc.Lookup(r.m.Params, "_meta", keyClientInfo)
	if !isObject(info) {
		info = json.RawMessage(`{"name":` + string(quote(t.o.Name)) + `,"version":` + string(quote(t.o.Version)) + `}`)
	}
	params := `{"protocolVersion":` + string(quote(LegacyVersions[0])) + `,"capabilities":` + string(s.capabilities) + `,"clientInfo":` + string(info) + `}`
	t.ask(s, &errand{method: methodInitialize, first: r}, json.RawMessage(params))
	return s
}

func (s *session) idle() bool {
	return s.open && len(s.flights)+len(s.waiting)+len(s.setting)+len(s.riding)+len(s.listens) == 0
}

// ask sends a request of the machine's own.
func (t *ToLegacy) ask(s *session, e *errand, params json.RawMessage) {
	e.s, e.id = s, t.ids.take(nil)
	t.calls++
	t.inFlight[t.calls] = e
	of := ""
	if e.first != nil {
		of = e.first.key
	}
	t.add(Step{Verb: Send, For: of, Leg: s.leg, Call: t.calls, Message: parse(jsonrpc.NewRequest(e.id, e.method, params))})
}

// tell sends the server what nobody answers.
func (t *ToLegacy) tell(s *session, raw []byte) {
	t.calls++
	t.add(Step{Verb: Send, Leg: s.leg, Call: t.calls, Message: parse(raw)})
}

// over notes that a call has had its response, or will have none.
func (t *ToLegacy) over(call int) {
	t.ids.free(t.inFlight[call].id)
	delete(t.inFlight, call)
}

// initialized takes the server's answer to initialize, whose call is over.
func (t *ToLegacy) initialized(s *session, m *jsonrpc.Message) {
	if m.Error != nil {
		text, _ := jsonrpc.LookupString(m.Error, "message")
		t.unopened(s, &OpenError{Code: ErrorCode(m.Error), Err: errors.New(text)})
		return
	}
	s.version, _ = jsonrpc.LookupString(m.Result, "protocolVersion")
	if !slices.Contains(LegacyVersions, s.version) {
		t.unopened(s, &OpenError{Err: errors.New("the server speaks none of the protocol versions known here")})
		return
	}
	s.result = slices.Clone(m.Result)
	s.offered, _ = jsonrpc.Lookup(s.result, "capabilities")
	t.calls++
	t.inFlight[t.calls] = &errand{s: s, method: methodInitialized}
	t.add(Step{Verb: Send, Leg: s.leg, Call: t.calls, Message: parse(jsonrpc.NewNotification(methodInitialized, nil))})
}

// unopened ends a session that could not be opened; the next request tries anew.
func (t *ToLegacy) unopened(s *session, err error) {
	delete(t.sessions, s.leg)
	for _, r := range s.waiting {
		delete(t.requests, r.key)
		t.fail(r.key, err)
	}
	t.add(Step{Verb: Close, Leg: s.leg})
}

// opened sends what has waited for the session.
func (t *ToLegacy) opened(now time.Time, s *session) {
	s.open = true
	waiting := s.waiting
	s.waiting = nil
	for _, r := range waiting {
		t.begin(now, r)
	}
}

// begin does what r asks, in an open session.
func (t *ToLegacy) begin(now time.Time, r *request) {
	switch {
	case r.m.Method == methodDiscover:
		delete(t.requests, r.key)
		t.deliver(r.key, jsonrpc.NewResult(r.m.ID, t.discovery(r.s)))
	case r.m.Method == methodListen:
		t.subscribe(r)
	case t.levelled(r):
		t.send(now, r)
	}
}

// discovery is the result of server/discover. It names the legacy revision as
// well: a host that speaks both may choose.
func (t *ToLegacy) discovery(s *session) json.RawMessage {
	capabilities := json.RawMessage("{}")
	if isObject(s.offered) {
		capabilities = drop(s.offered, "tasks") // another feature in the modern revision
	}
	info, _ := jsonrpc.Lookup(s.result, "serverInfo")
	if !isObject(info) {
		info = json.RawMessage(`{"name":` + string(quote(t.o.Server)) + `,"version":"unknown"}`)
	}
	versions := slices.Concat(ModernVersions, []string{s.version})
	list, err := json.Marshal(versions)
	if err != nil {
		panic("era: " + err.Error()) // strings always encode
	}
	out := json.RawMessage(`{"resultType":"complete","supportedVersions":` + string(list) + `,"capabilities":` + string(capabilities) +
		`,"_meta":{"` + keyServerInfo + `":` + string(info) + `},"ttlMs":0,"cacheScope":"private"}`)
	if instructions, ok := jsonrpc.Lookup(s.result, "instructions"); ok && instructions[0] == '"' {
		out = set(out, "instructions", instructions)
	}
	return out
}

// levelled reports whether the server's log is as verbose as r wants it, and
// otherwise lets r wait until it has been asked for that. It is never asked to
// be quiet again: what a request did not ask for is held back here.
func (t *ToLegacy) levelled(r *request) bool {
	s := r.s
	if r.level < 0 || s.logs(r.level) && len(s.setting) == 0 {
		return true
	}
	s.setting = append(s.setting, r)
	if len(s.setting) == 1 {
		t.setLevel(r)
	}
	return false
}

// logs reports whether the server's log is as verbose as level, or always empty.
func (s *session) logs(level int) bool {
	_, logs := jsonrpc.Lookup(s.offered, "logging")
	return !logs || level < 0 || s.level >= 0 && level >= s.level
}

func (t *ToLegacy) setLevel(r *request) {
	r.s.level = r.level
	t.ask(r.s, &errand{method: methodSetLevel, first: r}, json.RawMessage(`{"level":`+string(quote(levels[r.level]))+`}`))
}

// levelSet sends what has waited for the log level, whatever the server said.
func (t *ToLegacy) levelSet(now time.Time, s *session) {
	for len(s.setting) > 0 {
		r := s.setting[0]
		wanted := t.requests[r.key] == r // it may have been cancelled
		if wanted && r.level < s.level {
			t.setLevel(r)
			return
		}
		s.setting = s.setting[1:]
		if wanted {
			t.send(now, r)
		}
	}
	s.setting = nil
}

// notified takes a notification of the host.
func (t *ToLegacy) notified(m *jsonrpc.Message) {
	if m.Method == methodCancelled {
		id, _ := jsonrpc.Lookup(m.Params, "requestId")
		t.cancel(id)
		return
	}
	for _, s := range t.ordered() {
		if s.open && (m.Params == nil || isObject(m.Params)) {
			t.calls++
			t.add(Step{Verb: Send, Leg: s.leg, Call: t.calls, Message: withoutMeta(m)})
		}
	}
}

// ordered returns the sessions, the oldest first.
func (t *ToLegacy) ordered() []*session {
	out := make([]*session, 0, len(t.sessions))
	for _, s := range t.sessions {
		out = append(out, s)
	}
	slices.SortFunc(out, func(a, b *session) int { return a.leg - b.leg })
	return out
}

// withoutMeta returns m without what only modern messages have in their _meta,
// and without answers to questions that nobody asked.
func withoutMeta(m *jsonrpc.Message, more ...string) *jsonrpc.Message {
	if m.Params == nil {
		return m
	}
	params := drop(m.Params, more...)
	if meta, ok := jsonrpc.Lookup(params, "_meta"); ok && isObject(meta) {
		if meta = drop(meta, keyVersion, keyClientInfo, keyClientCaps, keyLogLevel); string(meta) == "{}" {
			params = drop(params, "_meta")
		} else {
			params = set(params, "_meta", meta)
		}
	}
	return withParams(m, params)
}

// Cancel implements Machine.
func (t *ToLegacy) Cancel(_ time.Time, id json.RawMessage) []Step {
	t.cancel(id)
	return t.take()
}

func (t *ToLegacy) cancel(id json.RawMessage) {
	r := t.requests[jsonrpc.IDKey(id)]
	if r == nil {
		return
	}
	delete(t.requests, r.key)
	r.s.waiting = slices.DeleteFunc(r.s.waiting, func(o *request) bool { return o == r })
	switch {
	case r.listen != nil:
		t.unsubscribe(r.listen)
	case r.flight != nil:
		t.abandon(r.flight, "cancelled by the client")
	}
}

// Server implements Machine.
func (t *ToLegacy) Server(now time.Time, leg, call int, m *jsonrpc.Message) []Step {
	s := t.sessions[leg]
	if s == nil {
		return nil
	}
	e := t.inFlight[call]
	if e != nil && e.s != s {
		return nil
	}
	switch {
	case m.IsResponse():
		switch {
		case e != nil && bytes.Equal(e.id, m.ID):
		case e == nil && call != 0: // to a call that is over, whose id may be another's by now
			return t.take()
		default: // on another stream than its own
			call = t.callOf(s, m.ID)
			if e = t.inFlight[call]; e == nil {
				return t.take()
			}
			t.stop(call)
		}
		t.over(call)
		t.answer(now, e, m)
	case m.IsRequest():
		t.asked(now, s, e, m)
	default:
		t.told(s, e, m)
	}
	return t.take()
}

func (t *ToLegacy) callOf(s *session, id json.RawMessage) int {
	for call, e := range t.inFlight {
		if e.s == s && e.id != nil && bytes.Equal(e.id, id) {
			return call
		}
	}
	return 0
}

// answer takes the server's response to an errand, which is over.
func (t *ToLegacy) answer(now time.Time, e *errand, m *jsonrpc.Message) {
	switch {
	case e.flight != nil:
		t.landed(now, e.flight, m, nil)
	case e.method == methodInitialize:
		t.initialized(e.s, m)
	case e.method == methodSetLevel:
		t.levelSet(now, e.s)
	case e.method == methodSubscribe:
		t.subscribed(e.s, e.uri, m.Error == nil)
	}
}

// Ended implements Machine.
func (t *ToLegacy) Ended(now time.Time, call int, err error) []Step {
	e := t.inFlight[call]
	if e == nil {
		return nil
	}
	t.over(call)
	if err == nil && e.id != nil {
		err = errNoResponse
	}
	switch {
	case e.flight != nil:
		t.landed(now, e.flight, nil, err)
	case e.method == methodInitialized && err == nil:
		t.opened(now, e.s)
	case e.method == methodInitialized, e.method == methodInitialize:
		t.unopened(e.s, &OpenError{Err: err})
	case e.method == methodSetLevel:
		t.levelSet(now, e.s)
	case e.method == methodSubscribe:
		t.subscribed(e.s, e.uri, false)
	}
	return t.take()
}

// told takes a notification of the server; e is nil where it came on no call's
// stream.
func (t *ToLegacy) told(s *session, e *errand, m *jsonrpc.Message) {
	var f *flight
	if e != nil {
		f = e.flight
	}
	switch m.Method {
	case methodProgress:
		t.progress(s, f, m)
	case methodLog:
		t.logged(s, f, m)
	case methodCancelled:
		id, _ := jsonrpc.Lookup(m.Params, "requestId")
		t.withdrawn(s, id)
	case methodElicited, methodAcknowledged: // the modern revision has none like it
	case methodUpdated, "notifications/tools/list_changed", "notifications/prompts/list_changed", "notifications/resources/list_changed":
		t.changed(s, m)
	default:
		switch {
		case f == nil:
			t.add(Step{Verb: Deliver, Message: m})
		case f.owner == nil:
			t.hold(f, m)
		default:
			t.add(Step{Verb: Deliver, For: f.owner.key, Message: m})
		}
	}
}

// logged passes a log message on to a host that wants it: it belongs to a
// request (2026-07-28, server/utilities/logging). Where the server does not say
// to which, any that is open and wants it will do.
func (t *ToLegacy) logged(s *session, f *flight, m *jsonrpc.Message) {
	name, _ := jsonrpc.LookupString(m.Params, "level")
	level := slices.Index(levels, name)
	wants := func(r *request) bool { return r != nil && r.level >= 0 && (level < 0 || level >= r.level) }
	if f == nil {
		for _, o := range s.flights {
			if wants(o.owner) {
				f = o
				break
			}
		}
	}
	switch {
	case f == nil:
	case f.owner == nil:
		t.hold(f, m)
	case wants(f.owner):
		t.add(Step{Verb: Deliver, For: f.owner.key, Message: m})
	}
}

// Next implements Machine.
func (t *ToLegacy) Next() time.Time {
	var next time.Time
	for _, s := range t.sessions {
		for _, f := range s.flights {
			next = earliest(next, f.due)
		}
		for _, q := range s.riding {
			next = earliest(next, q.until)
		}
	}
	return next
}

// Tick implements Machine.
func (t *ToLegacy) Tick(now time.Time) []Step {
	for _, s := range t.ordered() {
		for _, f := range slices.Clone(s.flights) {
			if due(f.due, now) {
				t.flightDue(now, f)
			}
		}
		riding := s.riding
		s.riding = nil
		for _, q := range riding {
			if due(q.until, now) {
				t.decline(s, q.id, jsonrpc.CodeInternal, "the client made no request that "+q.method+" could be answered with")
			} else {
				s.riding = append(s.riding, q)
			}
		}
	}
	return t.take()
}

// End implements Machine.
func (t *ToLegacy) End(time.Time) []Step {
	for _, s := range t.ordered() {
		for _, f := range slices.Clone(s.flights) {
			if f.call != 0 {
				t.tell(s, cancellation(f.id, "the client has gone"))
			}
		}
	}
	return t.take()
}

func cancellation(id json.RawMessage, reason string) []byte {
	return jsonrpc.NewNotification(methodCancelled, json.RawMessage(`{"requestId":`+string(id)+`,"reason":`+string(quote(reason))+`}`))
}
