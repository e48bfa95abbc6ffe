package era

import (
	"bytes"
	"encoding/json"
	"maps"
	"slices"

	"github.com/mcp-clerk/mcp-clerk/internal/jsonrpc"
)

// subscription is a subscriptions/listen of the host (2026-07-28,
// basic/patterns/subscriptions).
type subscription struct {
	r       *request
	lists   []string // members of the filter
	uris    []string // that the server has agreed to
	pending map[string]bool
	acked   bool
}

// watched is a resource that the session is subscribed to for the host.
type watched struct {
	by      []*subscription
	asked   bool // the server has not answered yet
	agreed  bool
	dropped bool // nobody wants it any more, but the server has not answered yet
}

// subscribe begins r, a subscriptions/listen.
func (t *ToLegacy) subscribe(r *request) {
	s := r.s
	filter, _ := jsonrpc.Lookup(r.m.Params, "notifications")
	if !isObject(filter) {
		delete(t.requests, r.key)
		t.refuse(r.m.ID, jsonrpc.CodeInvalidParams, "params have no notifications", nil)
		return
	}
	var uris []string
	if raw, ok := jsonrpc.Lookup(filter, "resourceSubscriptions"); ok && json.Unmarshal(raw, &uris) != nil || len(uris) > maxWatched || t.listens() == maxListens {
		delete(t.requests, r.key)
		t.refuse(r.m.ID, jsonrpc.CodeInvalidParams, "too many subscriptions, or resourceSubscriptions is no list of strings", nil)
		return
	}
	l := &subscription{r: r, pending: map[string]bool{}}
	r.listen = l
	s.listens = append(s.listens, l)
	for _, f := range filterNames {
		wanted, _ := jsonrpc.Lookup(filter, f.member)
		offered, _ := jsonrpc.Lookup(s.offered, f.capability, "listChanged")
		if string(wanted) == "true" && string(offered) == "true" {
			l.lists = append(l.lists, f.member)
		}
	}
	if v, _ := jsonrpc.Lookup(s.offered, "resources", "subscribe"); string(v) == "true" {
		for _, uri := range uris {
			if !l.pending[uri] {
				t.watchFor(l, uri)
			}
		}
	}
	t.acknowledge(l)
}

func (t *ToLegacy) listens() int {
	n := 0
	for _, s := range t.sessions {
		n += len(s.listens)
	}
	return n
}

func (t *ToLegacy) watchFor(l *subscription, uri string) {
	s := l.r.s
	w := s.watched[uri]
	if w == nil {
		w = &watched{}
		s.watched[uri] = w
	}
	w.by = append(w.by, l)
	w.dropped = false
	if w.agreed {
		if !slices.Contains(l.uris, uri) {
			l.uris = append(l.uris, uri)
		}
		return
	}
	l.pending[uri] = true
	if !w.asked {
		w.asked = true
		t.ask(s, &errand{method: methodSubscribe, uri: uri, first: l.r}, json.RawMessage(`{"uri":`+string(quote(uri))+`}`))
	}
}

// subscribed takes the server's answer to resources/subscribe.
func (t *ToLegacy) subscribed(s *session, uri string, agreed bool) {
	w := s.watched[uri]
	if w == nil {
		return
	}
	w.asked, w.agreed = false, agreed
	by := w.by
	if !agreed || w.dropped {
		delete(s.watched, uri)
		if agreed {
			t.ask(s, &errand{method: methodUnsubscribe}, json.RawMessage(`{"uri":`+string(quote(uri))+`}`))
		}
	}
	for _, l := range by {
		if !l.pending[uri] {
			continue
		}
		delete(l.pending, uri)
		if agreed {
			l.uris = append(l.uris, uri)
		}
		t.acknowledge(l)
	}
}

// acknowledge tells the host what it gets, once all of that is known.
func (t *ToLegacy) acknowledge(l *subscription) {
	if len(l.pending) > 0 || l.acked {
		return
	}
	l.acked = true
	filter := json.RawMessage("{}")
	for _, name := range l.lists {
		filter = set(filter, name, json.RawMessage("true"))
	}
	if len(l.uris) > 0 {
		list := json.RawMessage("[")
		for i, uri := range l.uris {
			list = append(append(list, comma(i)...), quote(uri)...)
		}
		filter = set(filter, "resourceSubscriptions", append(list, ']'))
	}
	t.deliver(l.r.key, jsonrpc.NewNotification(methodAcknowledged, json.RawMessage(
		`{"_meta":{"`+keySubscribed+`":`+string(l.r.m.ID)+`},"notifications":`+string(filter)+`}`)))
}

// unsubscribe ends l.
func (t *ToLegacy) unsubscribe(l *subscription) {
	s := l.r.s
	mine := func(o *subscription) bool { return o == l }
	s.listens = slices.DeleteFunc(s.listens, mine)
	for _, uri := range slices.Sorted(maps.Keys(s.watched)) {
		w := s.watched[uri]
		if w.by = slices.DeleteFunc(w.by, mine); len(w.by) > 0 {
			continue
		}
		if w.asked { // its answer must be known first
			w.dropped = true
			continue
		}
		delete(s.watched, uri)
		t.ask(s, &errand{method: methodUnsubscribe}, json.RawMessage(`{"uri":`+string(quote(uri))+`}`))
	}
}

// changed passes a change on to the subscriptions that asked for it.
func (t *ToLegacy) changed(s *session, m *jsonrpc.Message) {
	uri, _ := jsonrpc.LookupString(m.Params, "uri")
	for _, l := range s.listens {
		if !l.acked || !l.wants(m.Method, uri) {
			continue
		}
		meta, _ := jsonrpc.Lookup(m.Params, "_meta")
		if !isObject(meta) {
			meta = nil
		}
		params := m.Params
		if !isObject(params) {
			params = nil
		}
		params = set(params, "_meta", set(meta, keySubscribed, bytes.Clone(l.r.m.ID)))
		t.add(Step{Verb: Deliver, For: l.r.key, Message: withParams(m, params)})
	}
}

func (l *subscription) wants(method, uri string) bool {
	switch method {
	case "notifications/tools/list_changed":
		return slices.Contains(l.lists, "toolsListChanged")
	case "notifications/prompts/list_changed":
		return slices.Contains(l.lists, "promptsListChanged")
	case "notifications/resources/list_changed":
		return slices.Contains(l.lists, "resourcesListChanged")
	}
	return within(l.uris, uri)
}

// within reports whether uri names one of the resources or a part of one, as a
// notification may (2025-11-25, server/resources).
func within(uris []string, uri string) bool {
	for _, u := range uris {
		if rest, ok := cutPrefix(uri, u); ok && (rest == "" || rest[0] == '/' || u[len(u)-1] == '/') {
			return true
		}
	}
	return false
}

func cutPrefix(s, prefix string) (string, bool) {
	if prefix == "" || len(s) < len(prefix) || s[:len(prefix)] != prefix {
		return "", false
	}
	return s[len(prefix):], true
}
