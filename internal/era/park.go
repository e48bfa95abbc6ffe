package era

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/mcp-clerk/mcp-clerk/internal/jsonrpc"
)

// flight is a call at the server. It has an owner, the host's request that waits
// for it, or is parked: then the host has been asked for input, and may come
// back.
type flight struct {
	s      *session
	call   int             // 0: landed
	id     json.RawMessage // at the server
	token  json.RawMessage // for its progress, at the server; nil: none
	method string
	digest []byte // of what was called, for its return
	owner  *request
	rounds int

	asked   []*question // in the order in which the server asked
	numbers int         // the last question's number
	due     time.Time   // when the host is asked or, while parked, given up

	// While parked.
	name   string
	held   []*jsonrpc.Message
	size   int // of held
	answer *jsonrpc.Message
	err    error
	again  bool // it is called anew when the host is back
}

// question is a request of the server that the host has to answer.
type question struct {
	id     json.RawMessage
	name   string // in inputRequests
	method string
	params json.RawMessage
	given  bool      // to the host
	until  time.Time // while it waits for a call to ride on
}

// send passes r to the server as a call of its own.
func (t *ToLegacy) send(now time.Time, r *request) {
	m := r.m
	var extra []string
	if mayAsk(m.Method) {
		extra = []string{"inputResponses", "requestState"}
	}
	m = withoutMeta(m, extra...)
	f := &flight{s: r.s, method: m.Method, owner: r, digest: digest(r.m)}
	if token, ok := jsonrpc.Lookup(m.Params, "_meta", "progressToken"); ok {
		f.token = t.tokens.take(token)
		m = withToken(m, f.token)
	}
	r.flight = f
	t.fly(f, m, r.m.ID)
	r.s.flights = append(r.s.flights, f)
	if mayAsk(m.Method) && len(r.s.riding) > 0 {
		for _, q := range r.s.riding {
			q.until = time.Time{}
			t.enqueue(now, f, q)
		}
		r.s.riding = nil
	}
}

// fly sends m as f's call, under the id wanted if it is free.
func (t *ToLegacy) fly(f *flight, m *jsonrpc.Message, want json.RawMessage) {
	f.id = t.ids.take(want)
	t.calls++
	f.call = t.calls
	t.inFlight[f.call] = &errand{s: f.s, id: f.id, method: f.method, flight: f}
	t.add(Step{Verb: Send, For: f.owner.key, Leg: f.s.leg, Call: f.call, Message: parse(jsonrpc.ReplaceID(m, f.id))})
}

// withToken returns m with another progress token.
func withToken(m *jsonrpc.Message, token json.RawMessage) *jsonrpc.Message {
	meta, _ := jsonrpc.Lookup(m.Params, "_meta")
	if old, _ := jsonrpc.Lookup(meta, "progressToken"); bytes.Equal(old, token) {
		return m
	}
	return withParams(m, set(m.Params, "_meta", set(meta, "progressToken", token)))
}

// digest identifies what a request calls: its method and its params but for what
// differs between a call and its return. It holds on to values, not to bytes:
// the host writes its message anew.
func digest(m *jsonrpc.Message) []byte {
	h := sha256.New()
	h.Write([]byte(m.Method + "\n"))
	d := json.NewDecoder(bytes.NewReader(drop(m.Params, "inputResponses", "requestState", "_meta")))
	d.UseNumber()
	var v any
	if d.Decode(&v) == nil {
		if err := json.NewEncoder(h).Encode(v); err != nil { // keys are sorted; 1 is not "1"
			panic("era: " + err.Error()) // what was decoded encodes
		}
	}
	return h.Sum(nil)
}

// asked takes a request of the server; e is nil where it came on no call's
// stream.
func (t *ToLegacy) asked(now time.Time, s *session, e *errand, m *jsonrpc.Message) {
	if m.Method == methodPing {
		t.tell(s, jsonrpc.NewResult(m.ID, nil))
		return
	}
	if t.kept()+len(m.Params) > maxKeptBytes {
		t.decline(s, slices.Clone(m.ID), jsonrpc.CodeInternal, "too much waits for the client")
		return
	}
	q := &question{id: slices.Clone(m.ID), method: m.Method, params: slices.Clone(m.Params)}
	if code, text, ok := offers(s.capabilities, m.Method, m.Params); !ok {
		t.decline(s, q.id, code, text)
		return
	}
	if mode, _ := jsonrpc.LookupString(q.params, "mode"); m.Method == methodElicit && mode == "url" {
		q.params = drop(q.params, "elicitationId") // no part of the modern revision
	}
	switch {
	case e != nil && e.flight != nil && mayAsk(e.method):
		t.enqueue(now, e.flight, q)
	case e != nil && e.flight != nil:
		t.decline(s, q.id, jsonrpc.CodeInternal, "the client cannot be asked for input during "+e.method)
	default:
		for _, f := range slices.Backward(s.flights) {
			if f.owner != nil && mayAsk(f.method) {
				t.enqueue(now, f, q)
				return
			}
		}
		if len(s.riding) == maxQuestions {
			t.decline(s, q.id, jsonrpc.CodeInternal, "too many requests wait for the client")
			return
		}
		q.until = now.Add(rideTime)
		s.riding = append(s.riding, q)
	}
}

// kept is how many bytes wait for the host.
func (t *ToLegacy) kept() int {
	n := 0
	for _, s := range t.sessions {
		for _, q := range s.riding {
			n += len(q.params)
		}
		for _, f := range s.flights {
			for _, q := range f.asked {
				n += len(q.params)
			}
			if f.answer != nil {
				n += len(f.answer.Raw)
			}
		}
	}
	return n
}

// decline answers a request of the server with an error.
func (t *ToLegacy) decline(s *session, id json.RawMessage, code int, text string) {
	t.tell(s, jsonrpc.NewError(id, code, text, nil))
}

// declineAll answers every question of f that has not been.
func (t *ToLegacy) declineAll(f *flight, text string) {
	for _, q := range f.asked {
		if q.id != nil { // of an error it has none
			t.decline(f.s, q.id, jsonrpc.CodeInternal, text)
		}
	}
	f.asked = nil
}

// enqueue has the host asked q when f next ends for it: soon, so that what the
// server asks at once becomes one question.
func (t *ToLegacy) enqueue(now time.Time, f *flight, q *question) {
	if len(f.asked) == maxQuestions {
		t.decline(f.s, q.id, jsonrpc.CodeInternal, "too many requests wait for the client")
		return
	}
	f.numbers++
	q.name = "input-" + strconv.Itoa(f.numbers)
	f.asked = append(f.asked, q)
	if f.owner != nil {
		f.due = now.Add(gatherTime)
	}
}

// flightDue asks the host or, if f is parked, gives it up.
func (t *ToLegacy) flightDue(now time.Time, f *flight) {
	f.due = time.Time{}
	if f.owner == nil {
		t.abandon(f, "the client has not come back")
		return
	}
	if len(f.asked) == 0 {
		return
	}
	if len(t.parked) < maxParked && f.rounds < maxRounds {
		t.park(now, f)
		return
	}
	const text = "the client cannot be asked for more input now"
	t.declineAll(f, text)
	if f.again {
		t.settle(f)
		t.refuse(f.owner.m.ID, jsonrpc.CodeInternal, text, nil)
	}
}

// park ends the owner's request with input_required (2026-07-28,
// basic/patterns/mrtr).
func (t *ToLegacy) park(now time.Time, f *flight) {
	r := f.owner
	f.owner, r.flight = nil, nil
	f.rounds++
	name := random(t.o.Rand, 16)
	f.name = string(name)
	t.parked[f.name] = f
	f.due = now.Add(parkTime)
	inputs := json.RawMessage("{}")
	for _, q := range f.asked {
		q.given = true
		params := q.params
		if params == nil { // roots/list has none; some hosts read them all the same
			params = json.RawMessage("{}")
		}
		inputs = set(inputs, q.name, json.RawMessage(`{"method":`+string(quote(q.method))+`,"params":`+string(params)+`}`))
	}
	state := base64.RawURLEncoding.EncodeToString(append(name, t.seal(name, f.digest)...))
	delete(t.requests, r.key)
	t.deliver(r.key, jsonrpc.NewResult(r.m.ID, json.RawMessage(
		`{"resultType":"input_required","inputRequests":`+string(inputs)+`,"requestState":"`+state+`"}`)))
}

// seal authenticates the name of a parked call together with what was called.
// The key is this machine's own, and so its host's: a state of another is none
// here.
func (t *ToLegacy) seal(name, digest []byte) []byte {
	h := hmac.New(sha256.New, t.key)
	h.Write(name)
	h.Write(digest)
	return h.Sum(nil)
}

// resume takes a request that brings the answers to a parked call.
func (t *ToLegacy) resume(now time.Time, r *request, token json.RawMessage) {
	f := t.unseal(r.m, token)
	if f == nil {
		t.refuse(r.m.ID, jsonrpc.CodeInvalidParams, "requestState is unknown, used or expired, or belongs to another request", nil)
		return
	}
	delete(t.parked, f.name) // it is used once
	r.s, r.flight = f.s, f
	f.s.used = now
	f.name, f.owner, f.due = "", r, time.Time{}
	t.requests[r.key] = r
	if !r.s.logs(r.level) && len(r.s.setting) == 0 { // what is under way does not wait for it
		t.setLevel(r)
	}

	responses, _ := jsonrpc.Lookup(r.m.Params, "inputResponses")
	declined := false
	f.asked = slices.DeleteFunc(f.asked, func(q *question) bool {
		answer, ok := jsonrpc.Lookup(responses, q.name)
		if !ok || !q.given || !isObject(answer) {
			return false
		}
		if q.id != nil {
			t.tell(f.s, jsonrpc.NewResult(q.id, answer))
		} else if action, _ := jsonrpc.LookupString(answer, "action"); action != "accept" {
			declined = true
		}
		return true
	})
	for _, m := range f.held {
		t.pass(f, m)
	}
	t.held -= f.size
	f.held, f.size = nil, 0
	switch {
	case f.answer != nil || f.err != nil:
		m, err := f.answer, f.err
		f.answer, f.err = nil, nil
		t.landed(now, f, m, err)
	case declined:
		t.settle(f)
		t.refuse(r.m.ID, jsonrpc.CodeInternal, "what the server requires first has been declined", nil)
	case len(f.asked) > 0: // they were not all answered, or there are more
		t.flightDue(now, f)
	case f.again:
		f.again = false
		m := withoutMeta(r.m, "inputResponses", "requestState")
		if token, ok := jsonrpc.Lookup(m.Params, "_meta", "progressToken"); ok {
			if f.token == nil {
				f.token = t.tokens.take(token)
			}
			m = withToken(m, f.token)
		}
		t.fly(f, m, r.m.ID)
	}
}

// unseal returns the parked call that token names, nil if there is none for m.
func (t *ToLegacy) unseal(m *jsonrpc.Message, token json.RawMessage) *flight {
	var text string
	if json.Unmarshal(token, &text) != nil {
		return nil
	}
	raw, err := base64.RawURLEncoding.DecodeString(strings.TrimSpace(text))
	if err != nil || len(raw) != 16+sha256.Size {
		return nil
	}
	if !hmac.Equal(raw[16:], t.seal(raw[:16], digest(m))) {
		return nil
	}
	return t.parked[string(raw[:16])]
}

// hold keeps a notification for the host to come back; of too many the oldest
// go.
func (t *ToLegacy) hold(f *flight, m *jsonrpc.Message) {
	m = t.o.Keep(m)
	f.held = append(f.held, m)
	f.size += len(m.Raw)
	t.held += len(m.Raw)
	for len(f.held) > maxHeld || t.held > maxHeldBytes && len(f.held) > 0 {
		f.size -= len(f.held[0].Raw)
		t.held -= len(f.held[0].Raw)
		f.held = f.held[1:]
	}
}

// pass gives the host a notification that belongs to f, as far as its owner
// wants it.
func (t *ToLegacy) pass(f *flight, m *jsonrpc.Message) {
	switch m.Method {
	case methodProgress:
		t.progress(f.s, f, m)
	case methodLog:
		t.logged(f.s, f, m)
	default:
		t.add(Step{Verb: Deliver, For: f.owner.key, Message: m})
	}
}

// progress passes on the progress of a call under its owner's token.
func (t *ToLegacy) progress(s *session, f *flight, m *jsonrpc.Message) {
	token, _ := jsonrpc.Lookup(m.Params, "progressToken")
	if f == nil || !bytes.Equal(f.token, token) {
		f = nil
		for _, o := range s.flights {
			if o.token != nil && bytes.Equal(o.token, token) {
				f = o
			}
		}
	}
	if f == nil {
		return
	}
	if f.owner == nil {
		t.hold(f, m)
		return
	}
	if theirs, ok := jsonrpc.Lookup(f.owner.m.Params, "_meta", "progressToken"); ok {
		t.add(Step{Verb: Deliver, For: f.owner.key, Message: parse(jsonrpc.Splice(m.Raw, token, theirs))})
	}
}

// withdrawn drops a question that the server has taken back.
func (t *ToLegacy) withdrawn(s *session, id json.RawMessage) {
	mine := func(q *question) bool { return q.id != nil && bytes.Equal(q.id, id) }
	s.riding = slices.DeleteFunc(s.riding, mine)
	for _, f := range s.flights {
		f.asked = slices.DeleteFunc(f.asked, mine)
	}
}

// landed takes the end of f's call: its response or an error. If f is parked, it
// waits for the host.
func (t *ToLegacy) landed(now time.Time, f *flight, m *jsonrpc.Message, err error) {
	f.call = 0
	t.declineAll(f, "the request has ended")
	switch {
	case f.owner == nil:
		if m != nil {
			m = t.keep(f, m)
		}
		f.answer, f.err = m, err
	case err != nil:
		t.settle(f)
		t.fail(f.owner.key, err)
	case m.Error != nil:
		t.failed(now, f, m)
	default:
		t.settle(f)
		t.deliver(f.owner.key, withResult(m, f.owner.m.ID, modernResult(f.method, m.Result)))
	}
}

// keep returns the response to f for the host to come back to, or the error that
// it is too large for that.
func (t *ToLegacy) keep(f *flight, m *jsonrpc.Message) *jsonrpc.Message {
	if m = t.o.Keep(m); t.kept()+len(m.Raw) <= maxKeptBytes {
		return m
	}
	return parse(jsonrpc.NewError(f.id, jsonrpc.CodeInternal, "the response came while the client was asked for input, and too much waits for the client to be kept as well", nil))
}

// modernResult adds what the modern revision requires of a result.
func modernResult(method string, result json.RawMessage) json.RawMessage {
	if !isObject(result) {
		return result
	}
	members := ""
	for _, add := range []struct {
		name, value string
		wanted      bool
	}{{"resultType", `"complete"`, true}, {"ttlMs", "0", cacheable(method)}, {"cacheScope", `"private"`, cacheable(method)}} {
		if _, has := jsonrpc.Lookup(result, add.name); !has && add.wanted {
			members += `,"` + add.name + `":` + add.value
		}
	}
	if members == "" {
		return result
	}
	return lead(result, members[1:])
}

// failed passes on the server's error to f. Two codes are not of the modern
// revision: a resource that is not there has another one, and an elicitation by
// URL that is required first is a question.
func (t *ToLegacy) failed(now time.Time, f *flight, m *jsonrpc.Message) {
	r := f.owner
	code := ErrorCode(m.Error)
	if code == codeNeedsURL && mayAsk(f.method) && f.rounds < maxRounds && len(t.parked) < maxParked && t.kept()+len(m.Raw) <= maxKeptBytes {
		list, _ := jsonrpc.Lookup(m.Error, "data", "elicitations")
		elicitations, _ := jsonrpc.Elements(list) // no list: none
		for _, params := range elicitations[:min(len(elicitations), maxQuestions)] {
			if mode, _ := jsonrpc.LookupString(params, "mode"); mode != "url" {
				continue
			}
			if _, _, ok := offers(f.s.capabilities, methodElicit, params); ok {
				f.numbers++
				f.asked = append(f.asked, &question{
					name: "input-" + strconv.Itoa(f.numbers), method: methodElicit, params: slices.Clone(drop(params, "elicitationId")),
				})
			}
		}
		if len(f.asked) > 0 {
			f.again = true
			t.park(now, f)
			return
		}
	}
	t.settle(f)
	becomes := 0
	switch {
	case code == codeNoResource && f.method == methodRead:
		becomes = jsonrpc.CodeInvalidParams
	case code == codeNeedsURL:
		becomes = jsonrpc.CodeInternal
	}
	if becomes != 0 {
		m = parse(jsonrpc.Splice(m.Raw, m.Error, set(m.Error, "code", json.RawMessage(strconv.Itoa(becomes)))))
	}
	t.deliver(r.key, withID(m, r.m.ID))
}

// settle forgets f, and its owner as one that has not ended.
func (t *ToLegacy) settle(f *flight) {
	f.due = time.Time{}
	f.s.flights = slices.DeleteFunc(f.s.flights, func(o *flight) bool { return o == f })
	if f.token != nil {
		t.tokens.free(f.token)
	}
	t.held -= f.size
	f.held, f.size = nil, 0
	delete(t.parked, f.name)
	if f.owner != nil {
		delete(t.requests, f.owner.key)
	}
}

// abandon gives up f: nobody wants its response any more.
func (t *ToLegacy) abandon(f *flight, reason string) {
	t.declineAll(f, reason)
	if f.call != 0 {
		t.tell(f.s, cancellation(f.id, reason))
		t.stop(f.call)
		t.ids.burn(f.id)
		delete(t.inFlight, f.call)
		f.call = 0
	}
	t.settle(f)
}
