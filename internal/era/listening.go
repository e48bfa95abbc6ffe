package era

import (
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
	since   time.Time // when it was acknowledged
}

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
func (t *ToModern) listenAnew(time.Time) {
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
	l.next = &listenCall{call: t.calls, id: t.ids.take(nil), want: want, uris: l.uris, waiting: l.waiting}
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
		return false
	}
	switch {
	case m.IsRequest():
	case m.IsResponse() && m.Error != nil && c == l.next:
		t.listenRefused(now, m)
	case m.IsResponse(): // it ends; Ended follows
	case m.Method == methodAcknowledged && c == l.next:
		if l.now != nil {
			t.stop(l.now.call)
			t.ids.free(l.now.id)
		}
		l.now, l.next, c.since = c, nil, now
		filter, _ := jsonrpc.Lookup(m.Params, "notifications")
		for _, uri := range t.granted(c.waiting, string(filter)) {
			c.uris = slices.DeleteFunc(slices.Clone(c.uris), func(u string) bool { return u == uri })
		}
		c.waiting, c.want = nil, l.filter(c.uris) // what was refused is not asked for again
		t.listenAnew(now)
	case m.Method == methodAcknowledged || m.Method == methodCancelled:
	case c == l.now || l.now == nil:
		params := m.Params
		if meta, ok := jsonrpc.Lookup(params, "_meta"); ok {
			if meta = drop(meta, keySubscribed); string(meta) == "{}" {
				params = drop(params, "_meta")
			} else {
				params = set(params, "_meta", meta)
			}
		}
		if params == nil {
			t.add(Step{Verb: Deliver, Message: m})
		} else {
			t.add(Step{Verb: Deliver, Message: withParams(m, params)})
		}
	}
	return true
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
		if now.Sub(l.now.since) > time.Minute {
			l.failures = 0
		}
		l.now = nil
	default:
		return
	}
	t.listenLater(now)
}

// endListening forgets what an earlier initialize led to.
func (t *ToModern) endListening() {
	l := &t.listen
	for _, c := range []*listenCall{l.now, l.next} {
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
