package mcphttp

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mcp-clerk/mcp-clerk/internal/identity"
	"github.com/mcp-clerk/mcp-clerk/internal/jsonrpc"
)

const (
	maxQueue   = 512 // notifications waiting for one listening client
	maxWatched = 256 // resource subscriptions of one modern stream
)

// listener is one open stream for changes: a modern subscription or the GET
// stream of a legacy session.
type listener struct {
	principal *identity.Principal          // guarded by listeners.mu
	away      bool                         // legacy: its client has no connection; guarded by listeners.mu
	session   *Session                     // legacy
	id        json.RawMessage              // modern: id of the request, which is the subscription's
	filter    Filter                       // modern
	wake      chan struct{}                // has one element when queue or over changed
	running   sync.Mutex                   // legacy: held by the request that serves it
	newer     atomic.Pointer[http.Request] // HTTP+SSE: one with a newer token of the same grant

	mu    sync.Mutex
	queue []*notice
	over  bool // the stream must end
}

// notice is a notification on its way to listeners.
type notice struct {
	message *jsonrpc.Message
	uri     string // of resources/updated
}

func newListener(p *identity.Principal) *listener {
	return &listener{principal: p, wake: make(chan struct{}, 1)}
}

// put queues n. A client that lets its queue fill up loses the stream: it
// then knows that it missed something, and lists again when it is back. The
// same notification twice in the queue says no more than once.
func (l *listener) put(n *notice) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.over {
		return
	}
	for _, q := range l.queue {
		if bytes.Equal(q.message.Raw, n.message.Raw) {
			return
		}
	}
	if len(l.queue) >= maxQueue {
		l.over = true
	} else {
		l.queue = append(l.queue, n)
	}
	l.signal()
}

func (l *listener) finish() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.over = true
	l.signal()
}

func (l *listener) isOver() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.over
}

func (l *listener) signal() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

func (l *listener) take() (queue []*notice, over bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	queue, l.queue = l.queue, nil
	return queue, l.over
}

// wants reports whether a modern client asked for n.
func (f *Filter) wants(n *notice) bool {
	switch n.message.Method {
	case "notifications/tools/list_changed":
		return f.ToolsListChanged
	case "notifications/prompts/list_changed":
		return f.PromptsListChanged
	case "notifications/resources/list_changed":
		return f.ResourcesListChanged
	case methodUpdated:
		return covers(f.ResourceSubscriptions, n.uri)
	}
	return false
}

const methodUpdated = "notifications/resources/updated"

// covers reports whether uri is one of subscribed or a part of one.
func covers(subscribed []string, uri string) bool {
	return slices.ContainsFunc(subscribed, func(s string) bool {
		rest, ok := strings.CutPrefix(uri, s)
		return ok && (rest == "" || rest[0] == '/' || strings.HasSuffix(s, "/"))
	})
}

// listeners are the open listening streams.
type listeners struct {
	mu     sync.Mutex
	modern map[*listener]struct{}
	legacy map[string][]*listener // by Session.ID, the newest last
}

func (ls *listeners) init() {
	ls.modern, ls.legacy = map[*listener]struct{}{}, map[string][]*listener{}
}

func (ls *listeners) add(l *listener) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	if l.session == nil {
		ls.modern[l] = struct{}{}
		return
	}
	ls.legacy[l.session.ID] = append(ls.legacy[l.session.ID], l)
}

func (ls *listeners) remove(l *listener) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	delete(ls.modern, l)
	if l.session == nil {
		return
	}
	id := l.session.ID
	ls.legacy[id] = slices.DeleteFunc(ls.legacy[id], func(o *listener) bool { return o == l })
	if len(ls.legacy[id]) == 0 {
		delete(ls.legacy, id)
	}
}

// present notes that the client of l has a connection, with the token of p.
func (ls *listeners) present(l *listener, p *identity.Principal) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	l.principal, l.away = p, false
}

func (ls *listeners) absent(l *listener) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	l.away = true
}

func (ls *listeners) endSession(id string) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	for _, l := range ls.legacy[id] {
		l.finish()
	}
}

// Notify sends a notification (list_changed, resources/updated) to every
// listening stream whose principal matches and whose client asked for it: each
// modern subscription with its subscriptionId, and one GET stream of each
// legacy session (no message goes out on two of them: 2025-11-25,
// basic/transports, Multiple Connections). A nil match means everyone; match sees nil
// for an anonymous caller. Notify does not wait for the clients; match must not
// either. The error says that raw is no notification.
func (s *Server) Notify(match func(*identity.Principal) bool, raw []byte) error {
	m, err := jsonrpc.Parse(raw, jsonrpc.Limits{})
	if err != nil {
		return err
	}
	if !m.IsNotification() {
		return errors.New("not a notification")
	}
	n := &notice{message: m}
	n.uri, _ = jsonrpc.LookupString(m.Params, "uri")
	if match == nil {
		match = func(*identity.Principal) bool { return true }
	}
	s.listeners.mu.Lock()
	defer s.listeners.mu.Unlock()
	for l := range s.listeners.modern {
		if l.filter.wants(n) && match(l.principal) {
			l.put(n)
		}
	}
	for _, streams := range s.listeners.legacy {
		if l := newest(streams); match(l.principal) {
			l.put(n)
		}
	}
	return nil
}

// EndStreams ends the open listening streams of principals that match. It does
// not wait for them; what was notified before is sent.
func (s *Server) EndStreams(match func(*identity.Principal) bool) {
	s.listeners.mu.Lock()
	defer s.listeners.mu.Unlock()
	for l := range s.listeners.modern {
		if match(l.principal) {
			l.finish()
		}
	}
	for _, streams := range s.listeners.legacy {
		for _, l := range streams {
			if match(l.principal) {
				l.finish()
			}
		}
	}
}

// newest is the stream that a session's notifications go to: the newest that
// has a connection or, where none has, that may come back.
func newest(streams []*listener) *listener {
	for _, l := range slices.Backward(streams) {
		if !l.away {
			return l
		}
	}
	return streams[len(streams)-1]
}

// Listening returns the subjects that have a listening stream open here, each
// once, in no order.
func (s *Server) Listening() []string {
	subjects := map[string]struct{}{}
	s.listeners.mu.Lock()
	defer s.listeners.mu.Unlock()
	note := func(l *listener) {
		if l.principal != nil {
			subjects[l.principal.Subject] = struct{}{}
		}
	}
	for l := range s.listeners.modern {
		note(l)
	}
	for _, streams := range s.listeners.legacy {
		for _, l := range streams {
			note(l)
		}
	}
	out := make([]string, 0, len(subjects))
	for subject := range subjects {
		out = append(out, subject)
	}
	return out
}

// listen writes what l gets to st until one side ends it. It returns true when
// the server did, and the client may be told. over, which may be nil, ends it
// as the client does.
func (s *Server) listen(r *http.Request, l *listener, st *stream, over <-chan struct{}) bool {
	tick := time.NewTicker(s.o.KeepAlive)
	defer tick.Stop()
	for {
		select {
		case <-r.Context().Done():
			return false
		case <-over:
			return false
		case <-s.quit:
			return true
		case <-tick.C:
			if !s.mayListen(r, l) {
				return true
			}
			if st.comment() != nil {
				return false
			}
		case <-l.wake:
			queue, full := l.take()
			for _, n := range queue {
				if raw := s.addressed(r, l, n); raw != nil && st.event(raw) != nil {
					return false
				}
			}
			if full {
				return true
			}
		}
	}
}

// mayListen reports whether the stream may go on: it does not outlive its
// token, its grant or its session.
func (s *Server) mayListen(r *http.Request, l *listener) bool {
	if newer := l.newer.Load(); newer != nil {
		r = newer
	}
	if l.session != nil {
		record, err := s.records.get(r.Context(), l.session.ID)
		if err == nil && record.Closed || !s.now().Before(l.session.Expires) {
			return false
		}
	}
	p := identity.FromContext(r.Context())
	if p == nil {
		return true
	}
	if !p.Expires.IsZero() && !s.now().Before(p.Expires) {
		return false
	}
	_, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	_, err := s.o.Verifier.Verify(r.Context(), strings.Trim(token, " "))
	return !errors.Is(err, identity.ErrInvalidToken) && !errors.Is(err, identity.ErrForbidden)
}

// addressed returns n as l's client gets it, nil if it does not.
func (s *Server) addressed(r *http.Request, l *listener, n *notice) []byte {
	if n.message.Method == methodUpdated && !s.hears(r, l, n.uri) {
		return nil
	}
	if l.session == nil {
		return tag(n.message, l.id)
	}
	return n.message.Raw
}

// hears reports whether l's client subscribed to what uri names, and may still
// know of it: what a subscription covers may be for others than what it names,
// and its user may have less than they had when it was made.
func (s *Server) hears(r *http.Request, l *listener, uri string) bool {
	subscribed := l.filter.ResourceSubscriptions
	if l.session != nil {
		record, err := s.records.get(r.Context(), l.session.ID)
		if err != nil {
			// Better one notification too many than one missed: it says only
			// that something is to be read again.
			s.log.Warn("subscriptions not read", "session", l.session.ID, "error", err)
			return s.o.Hears == nil || s.o.Hears(r.Context(), uri)
		}
		subscribed = record.Resources
	}
	if s.o.Hears == nil {
		return covers(subscribed, uri)
	}
	return s.o.Hears(r.Context(), uri) && slices.ContainsFunc(subscribed, func(sub string) bool {
		return covers([]string{sub}, uri) && s.o.Hears(r.Context(), sub)
	})
}

const keySubscription = metaPrefix + "subscriptionId"

// tag returns m with the subscription's id in its _meta (2026-07-28,
// basic/patterns/subscriptions, Receiving Notifications).
func tag(m *jsonrpc.Message, id json.RawMessage) []byte {
	inner := append([]byte(`{"`+keySubscription+`":`), id...)
	var rest []byte
	_ = jsonrpc.Members(m.Params, func(key string, val json.RawMessage) bool { // no params: none
		if key == "_meta" {
			_ = jsonrpc.Members(val, func(key string, val json.RawMessage) bool { // no object: dropped
				if key != keySubscription {
					inner = appendMember(inner, key, val)
				}
				return true
			})
			return true
		}
		rest = appendMember(rest, key, val)
		return true
	})
	params := append([]byte(`{"_meta":`), inner...)
	params = append(params, '}')
	params = append(params, rest...)
	params = append(params, '}')
	return jsonrpc.NewNotification(m.Method, json.RawMessage(params))
}

func appendMember(b []byte, key string, val json.RawMessage) []byte {
	name, err := json.Marshal(key)
	if err != nil {
		return b // does not happen: a string always encodes
	}
	b = append(append(b, ','), name...)
	return append(append(b, ':'), val...)
}

func (s *Server) askListen(r *http.Request, call *Call, want Filter) (granted Filter, err error) {
	defer s.recovered(call, &err)
	return s.o.Listen(r.Context(), call, want)
}

// wanted is what a client that listens will hear of.
func (s *Server) wanted(r *http.Request, call *Call) (want Filter, err error) {
	raw, ok := jsonrpc.Lookup(call.Message.Params, "notifications")
	if !ok || raw[0] != '{' || json.Unmarshal(raw, &want) != nil {
		return want, &jsonrpc.Error{Code: jsonrpc.CodeInvalidParams, Message: "invalid params: notifications"}
	}
	if len(want.ResourceSubscriptions) > maxWatched || len(strings.Join(want.ResourceSubscriptions, ""))+len(call.Message.ID) > maxURIBytes {
		return want, errTooManySubscriptions
	}
	if s.o.Listen != nil {
		return s.askListen(r, call, want)
	}
	return want, nil
}

// subscription serves subscriptions/listen.
func (s *Server) subscription(w http.ResponseWriter, r *http.Request, call *Call, events bool) {
	// The stream stays for long, its request does not: nothing of it is held.
	id := bytes.Clone(call.Message.ID)
	if !events {
		refuse(w, http.StatusNotAcceptable, id, jsonrpc.CodeInvalidRequest, "the client must accept text/event-stream")
		return
	}
	st := newStream(s, w, true, true)
	want, err := s.wanted(r, call)
	if err != nil {
		status, body := s.failure(r.Context(), r, &exchange{call: *call, stream: st, server: s}, err)
		st.finish(status, false, body)
		return
	}
	l := newListener(identity.FromContext(r.Context()))
	l.id, l.filter = id, want
	// Listening begins before it is acknowledged, so that nothing falls
	// between; the queue is only read afterwards.
	s.listeners.add(l)
	defer s.listeners.remove(l)
	subscribed := json.RawMessage(append(append([]byte(`{"`+keySubscription+`":`), id...), '}'))
	ack := jsonrpc.NewNotification("notifications/subscriptions/acknowledged", struct {
		Meta          json.RawMessage `json:"_meta"`
		Notifications Filter          `json:"notifications"`
	}{subscribed, want})
	if st.event(ack) != nil || !s.listen(r, l, st, nil) {
		st.end()
		return
	}
	st.finish(http.StatusOK, false, jsonrpc.NewResult(id, struct {
		ResultType string          `json:"resultType"`
		Meta       json.RawMessage `json:"_meta"`
	}{"complete", subscribed}))
}
