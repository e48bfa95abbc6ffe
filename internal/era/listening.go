package era

import (
	"bytes"
	"encoding/json"
	"slices"
	"strconv"
	"time"

	"github.com/mcp-clerk/mcp-clerk/internal/jsonrpc"
)

// listening is the one subscriptions/listen that stands for a legacy host's
// subscriptions and for the changes of lists that it is promised.
type listening struct {
	ready    bool // the host is initialized
	lists    []string
	uris     []string
	now      *listenCall   // acknowledged
	next     *listenCall   // not yet
	old      []*listenCall // replaced, but not closed yet; the oldest first
	waiting  []*watchedAsk // for the next acknowledgement but one
	again    time.Time     // when to open it again
	failures int
}

// listenCall is one subscriptions/listen request.
type listenCall struct {
	call    int
	id      json.RawMessage
	want    string
	uris    []string
	waiting []*watchedAsk
	since   time.Time           // when it was acknowledged
	until   time.Time           // when it is closed, once it is replaced, or no longer waited for
	told    map[string]struct{} // what it has told since it replaced another
	held    []*jsonrpc.Message  // what it has told since it was replaced
}

// What a server has sent on one stream before it acknowledged the next may
// arrive behind the acknowledgement: they are two connections. So a stream that
// is replaced stays open for a moment. What it tells is held back until then, as
// most of it comes on the other one, too.
const (
	lingerTime = 250 * time.Millisecond
	maxOld     = 2       // streams that are open for that
	maxTold    = 64      // notifications of one stream that are known, or held
	maxToldLen = 4 << 10 // the longest of them, in bytes
)

const (
	// ackTime is how long a server may take to acknowledge a subscription.
	ackTime = 30 * time.Second
	// steadyTime is how long a stream must have been open not to count as a
	// failure: many a proxy cuts one that is quiet after 30 or 60 seconds.
	steadyTime = 10 * time.Second
)

// watchedAsk is a resources/subscribe or unsubscribe of the host.
type watchedAsk struct {
	id  json.RawMessage
	uri string // of a subscription
}

// filterNames are the members of the filter, by the capability they rest on.
var filterNames = []struct{ capability, member string }{
	{"tools", "toolsListChanged"}, {"prompts", "promptsListChanged"}, {"resources", "resourcesListChanged"},
}

// offered notes which lists the server tells changes of.
func (l *listening) offered(capabilities json.RawMessage) {
	l.lists = nil
	for _, f := range filterNames {
		if v, ok := jsonrpc.Lookup(capabilities, f.capability, "listChanged"); ok && string(v) == "true" {
			l.lists = append(l.lists, f.member)
		}
	}
}

// filter writes what a stream for uris asks for, "" for nothing.
func (l *listening) filter(uris []string) string {
	out := "{"
	for _, name := range l.lists {
		out += string(quote(name)) + ":true,"
	}
	if len(uris) > 0 {
		out += `"resourceSubscriptions":[`
		for i, uri := range uris {
			out += comma(i) + string(quote(uri))
		}
		out += "],"
	}
	if out == "{" {
		return ""
	}
	return out[:len(out)-1] + "}"
}

// watch takes a subscription of the host, or its end.
func (t *ToModern) watch(now time.Time, m *jsonrpc.Message, uri string) {
	l := &t.listen
	at := slices.Index(l.uris, uri)
	w := &watchedAsk{id: m.ID}
	switch {
	case m.Method == methodUnsubscribe && at >= 0:
		l.uris = slices.Delete(slices.Clone(l.uris), at, at+1)
	case m.Method == methodUnsubscribe:
	case at < 0 && len(l.uris) == maxWatched:
		t.refuse(m.ID, jsonrpc.CodeInvalidParams, "more than "+strconv.Itoa(maxWatched)+" subscriptions", nil)
		return
	default:
		w.uri = uri
		if at < 0 {
			l.uris = append(slices.Clone(l.uris), uri)
		}
	}
	l.ready = true
	l.waiting = append(l.waiting, w)
	l.again = time.Time{} // the person waits
	t.listenAnew(now)
}

// cancelWatch drops a subscription request that the host has cancelled; what it
// subscribed to stays.
func (t *ToModern) cancelWatch(key string) {
	mine := func(w *watchedAsk) bool { return jsonrpc.IDKey(w.id) == key }
	t.listen.waiting = slices.DeleteFunc(t.listen.waiting, mine)
	if t.listen.next != nil {
		t.listen.next.waiting = slices.DeleteFunc(t.listen.next.waiting, mine)
	}
}

// listenAnew opens the stream that the host's wishes ask for, beside the one
// that is open: that one is closed when the new one has been acknowledged, so
// that nothing is missed.
func (t *ToModern) listenAnew(now time.Time) {
	l := &t.listen
	if !l.ready || l.next != nil || !l.again.IsZero() {
		return
	}
	want := l.filter(l.uris)
	if l.now != nil && l.now.want == want || l.now == nil && want == "" {
		t.granted(l.waiting, "")
		l.waiting = nil
		return
	}
	if want == "" {
		t.stop(l.now.call)
		t.ids.free(l.now.id)
		l.now = nil
		t.granted(l.waiting, "")
		l.waiting = nil
		return
	}
	t.calls++
	l.next = &listenCall{call: t.calls, id: t.ids.take(nil), want: want, uris: l.uris, waiting: l.waiting, until: now.Add(ackTime)}
	l.waiting = nil
	params := t.meta(json.RawMessage(`{"notifications":`+want+`}`), false)
	of := ""
	if len(l.next.waiting) > 0 {
		of = jsonrpc.IDKey(l.next.waiting[0].id)
	}
	t.add(Step{Verb: Send, For: of, Call: l.next.call, Message: parse(jsonrpc.NewRequest(l.next.id, methodListen, params))})
}

// granted answers the host's subscriptions and returns those refused.
// acknowledged is the filter that the server agreed to, "" where there is nothing
// to agree to.
func (t *ToModern) granted(waiting []*watchedAsk, acknowledged string) (refused []string) {
	var uris []string
	raw, _ := jsonrpc.Lookup(json.RawMessage(acknowledged), "resourceSubscriptions")
	_ = json.Unmarshal(raw, &uris) // not a list: none
	for _, w := range waiting {
		if w.uri != "" && acknowledged != "" && !slices.Contains(uris, w.uri) {
			t.unwatch(w)
			refused = append(refused, w.uri)
			t.refuse(w.id, jsonrpc.CodeInvalidParams, "the server does not tell of changes of this resource", nil)
			continue
		}
		t.deliver(jsonrpc.IDKey(w.id), jsonrpc.NewResult(w.id, nil))
	}
	return refused
}

func (t *ToModern) unwatch(w *watchedAsk) {
	if at := slices.Index(t.listen.uris, w.uri); at >= 0 {
		t.listen.uris = slices.Delete(slices.Clone(t.listen.uris), at, at+1)
	}
}

// listened takes a message of a listening stream, and reports whether it was
// one.
func (t *ToModern) listened(now time.Time, call int, m *jsonrpc.Message) bool {
	l := &t.listen
	var c *listenCall
	switch {
	case l.next != nil && l.next.call == call:
		c = l.next
	case l.now != nil && l.now.call == call:
		c = l.now
	default:
		if c = l.oldCall(call); c == nil {
			return false
		}
	}
	switch {
	case m.IsRequest():
	case m.IsResponse() && m.Error != nil && c == l.next:
		t.listenRefused(now, m)
	case m.IsResponse(): // it ends; Ended follows
	case m.Method == methodAcknowledged && c == l.next:
		if l.now != nil {
			l.now.until = now.Add(lingerTime)
			l.old = append(l.old, l.now)
			if len(l.old) > maxOld {
				t.closeOld(l.old[0])
			}
		}
		l.now, l.next, c.since, c.told = c, nil, now, map[string]struct{}{}
		filter, _ := jsonrpc.Lookup(m.Params, "notifications")
		for _, uri := range t.granted(c.waiting, string(filter)) {
			c.uris = slices.DeleteFunc(slices.Clone(c.uris), func(u string) bool { return u == uri })
		}
		c.waiting, c.want = nil, l.filter(c.uris) // what was refused is not asked for again
		t.listenAnew(now)
	case m.Method == methodAcknowledged || m.Method == methodCancelled:
	case c == l.next && l.now != nil:
	default:
		params := m.Params
		if meta, ok := jsonrpc.Lookup(params, "_meta"); ok {
			if meta = drop(meta, keySubscribed); string(meta) == "{}" {
				params = drop(params, "_meta")
			} else {
				params = set(params, "_meta", meta)
			}
		}
		if params != nil {
			m = withParams(m, params)
		}
		t.tell(c, m)
	}
	return true
}

func (l *listening) oldCall(call int) *listenCall {
	for _, c := range l.old {
		if c.call == call {
			return c
		}
	}
	return nil
}

// tell passes on a notification of c. A stream that was replaced has nothing new
// to say where the present one has said the same, as that said it later.
func (t *ToModern) tell(c *listenCall, m *jsonrpc.Message) {
	l := &t.listen
	short := len(m.Raw) <= maxToldLen
	same := func(o *jsonrpc.Message) bool { return bytes.Equal(o.Raw, m.Raw) }
	switch {
	case c == l.next:
	case c == l.now:
		for _, o := range l.old {
			o.held = slices.DeleteFunc(o.held, same)
		}
		if len(l.old) > 0 && short && len(c.told) < maxTold {
			c.told[string(m.Raw)] = struct{}{}
		}
	case l.said(m):
		return
	case short && len(c.held) < maxTold:
		c.held = append(c.held, parse(slices.Clone(m.Raw)))
		return
	}
	t.add(Step{Verb: Deliver, Message: m})
}

// said reports whether the host knows what a stream that was replaced tells, or
// does not want to know it any more.
func (l *listening) said(m *jsonrpc.Message) bool {
	if m.Method == methodUpdated {
		if uri, _ := jsonrpc.LookupString(m.Params, "uri"); !within(l.uris, uri) {
			return true
		}
	}
	if l.now == nil {
		return false
	}
	_, told := l.now.told[string(m.Raw)]
	return told
}

// closeOld closes a stream that was replaced.
func (t *ToModern) closeOld(c *listenCall) {
	t.stop(c.call)
	t.forgetOld(c)
}

// forgetOld tells the host what c alone has told.
func (t *ToModern) forgetOld(c *listenCall) {
	t.ids.free(c.id)
	t.listen.old = slices.DeleteFunc(t.listen.old, func(o *listenCall) bool { return o == c })
	for _, m := range c.held {
		if !t.listen.said(m) {
			t.add(Step{Verb: Deliver, Message: m})
		}
	}
}

// listenRefused deals with the server's error to a stream that the host's
// subscriptions asked for: they get it, and what was before goes on.
func (t *ToModern) listenRefused(now time.Time, m *jsonrpc.Message) {
	l := &t.listen
	c := l.next
	l.next = nil
	t.ids.free(c.id)
	for _, w := range c.waiting {
		if w.uri != "" {
			t.unwatch(w)
		}
		t.deliver(jsonrpc.IDKey(w.id), withID(m, w.id))
	}
	if len(c.waiting) == 0 {
		if code := ErrorCode(m.Error); code == jsonrpc.CodeMethodNotFound || code == jsonrpc.CodeInvalidParams {
			l.lists = nil // it does not offer what it promised
		}
		if len(l.waiting) == 0 { // nobody is told: it must not become a loop
			t.listenLater(now)
		}
	}
	t.listenAnew(now)
}

// listenNext says when listenTick wants to be called; the zero time means never.
func (t *ToModern) listenNext() time.Time {
	next := t.listen.again
	if t.listen.next != nil {
		next = earliest(next, t.listen.next.until)
	}
	for _, c := range t.listen.old {
		next = earliest(next, c.until)
	}
	return next
}

func (t *ToModern) listenTick(now time.Time) {
	for _, c := range slices.Clone(t.listen.old) {
		if due(c.until, now) {
			t.closeOld(c)
		}
	}
	if c := t.listen.next; c != nil && due(c.until, now) {
		t.unacknowledged(now, c)
	}
	if due(t.listen.again, now) {
		t.listen.again = time.Time{}
		t.listenAnew(now)
	}
}

// unacknowledged gives up waiting for the acknowledgement of c, which others wait
// for as well. A stream that is the only one stays open: it may tell of changes
// all the same.
func (t *ToModern) unacknowledged(now time.Time, c *listenCall) {
	l := &t.listen
	l.next = nil
	if l.now == nil {
		l.now, c.since, c.told = c, now, map[string]struct{}{}
	} else {
		t.stop(c.call)
		t.ids.free(c.id)
	}
	for _, w := range c.waiting {
		if w.uri == "" {
			t.deliver(jsonrpc.IDKey(w.id), jsonrpc.NewResult(w.id, nil))
			continue
		}
		t.unwatch(w)
		t.refuse(w.id, jsonrpc.CodeInternal, "the server has not acknowledged the subscription", nil)
	}
	c.waiting = nil
	if len(l.waiting) == 0 {
		l.now.want = l.filter(l.uris) // to ask for that again would be in vain
	}
	t.listenAnew(now)
}

// listenLater has the stream opened again, the more slowly the more often.
func (t *ToModern) listenLater(now time.Time) {
	l := &t.listen
	l.again = now.Add(min(250*time.Millisecond<<min(l.failures, 10), 30*time.Second))
	l.failures++
}

// listenEnded opens a stream again that has ended: never where nothing would
// come of it, and ever more slowly.
func (t *ToModern) listenEnded(now time.Time, call int, err error) {
	l := &t.listen
	switch {
	case l.next != nil && l.next.call == call:
		c := l.next
		l.next = nil
		t.ids.free(c.id)
		for _, w := range c.waiting {
			if w.uri != "" {
				t.unwatch(w)
			}
			t.fail(jsonrpc.IDKey(w.id), err)
		}
	case l.now != nil && l.now.call == call:
		t.ids.free(l.now.id)
		if now.Sub(l.now.since) > steadyTime {
			l.failures = 0
		}
		l.now = nil
	default:
		if c := l.oldCall(call); c != nil {
			t.forgetOld(c)
		}
		return
	}
	t.listenLater(now)
}

// endListening forgets what an earlier initialize led to.
func (t *ToModern) endListening() {
	l := &t.listen
	for _, c := range append(l.old, l.now, l.next) {
		if c == nil {
			continue
		}
		t.stop(c.call)
		t.ids.free(c.id)
		l.waiting = append(l.waiting, c.waiting...)
	}
	for _, w := range l.waiting {
		t.refuse(w.id, jsonrpc.CodeInternal, "the client has begun anew", nil)
	}
	t.listen = listening{}
}
