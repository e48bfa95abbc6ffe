package mcphttp

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/mcp-clerk/mcp-clerk/internal/identity"
	"github.com/mcp-clerk/mcp-clerk/internal/jsonrpc"
)

// maxBatch is how many messages a batch may hold.
const maxBatch = 100

// postLegacy serves one message of a revision with sessions.
func (s *Server) postLegacy(w http.ResponseWriter, r *http.Request, p *identity.Principal, m *jsonrpc.Message, quick bool) {
	if m.Method == "initialize" {
		s.initialize(w, of(r, p), p, m)
		return
	}
	session, record, ok := s.session(w, r, p, m.ID)
	if !ok {
		return
	}
	if m.IsRequest() {
		if !s.acceptsLegacy(w, r, m.ID) {
			return
		}
		st := newStream(s, w, true, true)
		if quick {
			s.serveQuick(&exchange{
				ctx: contextOf(context.WithoutCancel(r.Context()), p), stream: st, key: callKey{owner: ownerOf(session, p)},
				call: Call{Message: m, Version: session.Version, Session: session, LogLevel: record.LogLevel, request: r},
			})
			return
		}
		x := s.legacyExchange(contextOf(r.Context(), p), r, p, session, st, m)
		x.call.LogLevel = record.LogLevel
		st.resumable(s, ownerOf(session, p), session, nil)
		st.away, st.back = x.away, x.back
		over := make(chan struct{})
		st.over = over
		st.keepAwake()
		// The call may outlive its connection.
		s.stay()
		s.start(x, func(status int, body []byte) {
			x.send(status, body)
			x.stop(nil)
			s.leave()
		})
		st.hold(r, 0, over)
		return
	}
	if is, lost := s.fromClient(r, ownerOf(session, p), m); is {
		accepted(w, lost)
		return
	}
	s.notification(contextOf(r.Context(), p), w, r, &Call{Message: m, Version: session.Version, Session: session, LogLevel: record.LogLevel, request: r})
}

// acceptsLegacy reads Accept, whose types are required in these revisions
// (2025-11-25, basic/transports, Sending Messages, 2).
func (s *Server) acceptsLegacy(w http.ResponseWriter, r *http.Request, id []byte) bool {
	if json, events := accepts(r.Header["Accept"]); json && events {
		return true
	}
	refuse(w, http.StatusNotAcceptable, id, jsonrpc.CodeInvalidRequest, "the client must accept both application/json and text/event-stream")
	return false
}

// legacyExchange prepares the request m of a session, to be answered on st.
// Its context has the values of ctx; it does not end with the connection, only
// by a message of its owner or when the client has been away for long. It must be stopped when the
// response is out.
func (s *Server) legacyExchange(ctx context.Context, r *http.Request, p *identity.Principal, session *Session, st *stream, m *jsonrpc.Message) *exchange {
	x := &exchange{stream: st, server: s}
	x.ctx, x.stop = context.WithCancelCause(context.WithoutCancel(ctx))
	x.call = Call{Message: m, Version: session.Version, Session: session, request: r, out: x}
	x.key = callKey{ownerOf(session, p), jsonrpc.IDKey(m.ID)}
	return x
}

// resumable lets the client of a session come back to st for what it missed.
func (st *stream) resumable(s *Server, o owner, session *Session, news *listener) {
	kind := byte(streamOfCall)
	if news != nil {
		kind = streamForNews
	}
	st.open = func(st *stream) *replay { return s.replays.open(st, o, kind, news) }
	// Clients of the revisions before take an event without data for a message.
	st.prime = session.Version == latestLegacy
}

// hold keeps the request of connection number turn until the stream is done
// with it or the client has gone.
func (st *stream) hold(r *http.Request, turn int, over <-chan struct{}) {
	select {
	case <-over:
	case <-r.Context().Done():
		st.leave(turn)
	}
}

// session opens the session of the request and reads its record, or answers
// the request.
func (s *Server) session(w http.ResponseWriter, r *http.Request, p *identity.Principal, id []byte) (*Session, sessionRecord, bool) {
	refuseWith := func(status int, message string) (*Session, sessionRecord, bool) {
		refuse(w, status, id, jsonrpc.CodeInvalidRequest, message)
		return nil, sessionRecord{}, false
	}
	versions := r.Header[hdrVersion]
	if len(versions) > 1 || len(versions) == 1 && !isLegacy(versions[0]) {
		return refuseWith(http.StatusBadRequest, "unsupported MCP-Protocol-Version; served are "+strings.Join(SupportedVersions, ", "))
	}
	ids := r.Header[hdrSession]
	if len(ids) != 1 {
		return refuseWith(http.StatusBadRequest, "exactly one Mcp-Session-Id header is required after initialize")
	}
	session, err := s.openSession(r.Context(), ids[0], p)
	var record sessionRecord
	if err == nil {
		if record, err = s.records.get(r.Context(), session.ID); err != nil {
			s.log.Warn("session not checked", "session", session.ID, "error", err)
			w.Header().Set("Retry-After", retryAfter)
			return refuseWith(http.StatusServiceUnavailable, "temporarily unavailable")
		}
	}
	if err != nil || record.Closed {
		// Clients tell this 404 from that of an unknown method by its body: it
		// is no JSON-RPC message.
		http.Error(w, "no such session", http.StatusNotFound)
		return nil, record, false
	}
	return session, record, true
}

// openSession opens the value of the header for p. ctx is the request's.
func (s *Server) openSession(ctx context.Context, value string, p *identity.Principal) (*Session, error) {
	var subject, grant string
	if p != nil {
		subject, grant = p.Subject, p.Grant
	}
	now := s.now()
	l, _ := ctx.Value(lastKey{}).(*last)
	if l != nil {
		l.mu.Lock()
		defer l.mu.Unlock()
		if known := l.session; l.value == value && known.Subject == subject && known.Grant == grant && now.Before(known.Expires) {
			return known, nil
		}
	}
	session, err := s.codec.open(value, subject, grant, now)
	if err != nil && p != nil && s.o.Anonymous {
		// A session begun before signing in goes on after it.
		session, err = s.codec.open(value, "", "", now)
	}
	if err == nil && l != nil {
		l.value, l.session = strings.Clone(value), session
	}
	return session, err
}

// initialize opens a session.
func (s *Server) initialize(w http.ResponseWriter, r *http.Request, p *identity.Principal, m *jsonrpc.Message) {
	if m.ID == nil {
		refuse(w, http.StatusBadRequest, nil, jsonrpc.CodeInvalidRequest, "initialize is a request")
		return
	}
	if !s.acceptsLegacy(w, r, m.ID) {
		return
	}
	nonce := newNonce()
	session := newSession(sessionName(nonce), p, m.Params, s.now().Add(s.o.SessionTTL))
	// The id of the session goes out in the header, so nothing may go out
	// before the result is known: no notifications, no comments.
	x := &exchange{stream: newStream(s, w, true, true), server: s}
	x.ctx, x.stop = context.WithCancelCause(r.Context())
	defer x.stop(nil)
	x.call = Call{Message: m, Session: session, Version: session.Version, request: r}
	if v, ok := jsonrpc.LookupString(m.Params, "protocolVersion"); ok {
		x.call.Version = v
	}
	x.call.ClientInfo, _ = jsonrpc.Lookup(m.Params, "clientInfo")
	x.call.ClientCapabilities, _ = jsonrpc.Lookup(m.Params, "capabilities")
	s.serve(x, func(response []byte) error {
		version, ok := jsonrpc.LookupString(response, "result", "protocolVersion")
		if !ok {
			return nil // refused: no session
		}
		if !isLegacy(version) {
			return fmt.Errorf("handler agreed on version %q", version)
		}
		session.Version = version
		value, err := s.codec.seal(session, nonce)
		if err != nil {
			return err
		}
		w.Header()[hdrSession] = []string{value}
		return nil
	})
}

// batch serves a JSON-RPC batch, one message after the other, their responses
// on one stream.
func (s *Server) batch(w http.ResponseWriter, r *http.Request, p *identity.Principal, body []byte) {
	parts, err := jsonrpc.SplitBatch(body, strict)
	if err != nil {
		refuseMessage(w, err)
		return
	}
	session, record, ok := s.session(w, r, p, nil)
	if !ok {
		return
	}
	switch {
	case session.Version != batchVersion:
		refuse(w, http.StatusBadRequest, nil, jsonrpc.CodeInvalidRequest, "batches exist only in revision "+batchVersion)
		return
	case len(parts) > maxBatch:
		refuse(w, http.StatusBadRequest, nil, jsonrpc.CodeInvalidRequest, fmt.Sprintf("a batch may hold %d messages", maxBatch))
		return
	}
	if !s.allowMore(w, r, p, len(parts)-1) {
		return
	}
	messages, faults, requests := make([]*jsonrpc.Message, len(parts)), make([][]byte, len(parts)), false
	for i, part := range parts {
		m, err := jsonrpc.Parse(part, strict)
		if err != nil {
			faults[i] = refusalOf(err)
		} else if m.Method == "initialize" {
			// 2025-03-26, basic/lifecycle, Initialization.
			faults[i] = jsonrpc.NewError(m.ID, jsonrpc.CodeInvalidRequest, "initialize cannot be part of a batch", nil)
		}
		messages[i] = m
		requests = requests || faults[i] != nil || m.IsRequest()
	}
	if requests && !s.acceptsLegacy(w, r, nil) {
		return
	}
	st := newStream(s, w, true, true)
	if requests {
		st.keepAwake()
		defer context.AfterFunc(r.Context(), st.lost)()
	}
	var responses [][]byte
	lost := false
each:
	for i, m := range messages {
		switch {
		case faults[i] != nil:
			responses = append(responses, faults[i])
		case m.IsRequest():
			x := s.legacyExchange(r.Context(), r, p, session, st, m)
			x.call.LogLevel = record.LogLevel
			st.follow(x)
			if _, response := s.run(x); response != nil {
				responses = append(responses, response)
			}
			cause := context.Cause(x.ctx)
			x.stop(nil)
			if errors.Is(cause, errDetached) || errors.Is(cause, errShutdown) {
				break each // nobody is there for the rest
			}
		default:
			if is, gone := s.fromClient(r, ownerOf(session, p), m); is {
				lost = lost || gone
				continue
			}
			call := Call{Message: m, Version: session.Version, Session: session, LogLevel: record.LogLevel, request: r}
			if _, err := s.handle(r.Context(), &call); err != nil {
				s.log.Info("notification not handled", "method", m.Method, "error", err)
			}
		}
	}
	switch {
	case !requests:
		accepted(w, lost)
	case len(responses) == 0:
		st.abandon()
	default:
		st.finish(http.StatusOK, true, responses...)
	}
}

// afterwards keeps what a successful request changed about its session.
func (s *Server) afterwards(ctx context.Context, call *Call, response []byte) error {
	if call.Session == nil {
		return nil
	}
	var change func(*sessionRecord) error
	switch call.Message.Method {
	case "logging/setLevel":
		level, _ := jsonrpc.LookupString(call.Message.Params, "level")
		change = func(r *sessionRecord) error { r.LogLevel = level; return nil }
	case "resources/subscribe":
		uri, _ := jsonrpc.LookupString(call.Message.Params, "uri")
		change = func(r *sessionRecord) error { return subscribe(r, uri) }
	case "resources/unsubscribe":
		uri, _ := jsonrpc.LookupString(call.Message.Params, "uri")
		change = func(r *sessionRecord) error { unsubscribe(r, uri); return nil }
	default:
		return nil
	}
	if _, ok := jsonrpc.Lookup(response, "result"); !ok {
		return nil
	}
	return s.records.update(ctx, call.Session, change)
}

// get opens the stream for what the server has to say outside of calls.
func (s *Server) get(w http.ResponseWriter, r *http.Request, p *identity.Principal) {
	if s.refusedModern(w, r) {
		return
	}
	if _, events := accepts(r.Header["Accept"]); !events {
		refuse(w, http.StatusNotAcceptable, nil, jsonrpc.CodeInvalidRequest, "the client must accept text/event-stream")
		return
	}
	session, _, ok := s.session(w, r, p, nil)
	if !ok {
		return
	}
	for _, id := range r.Header[hdrLastID] {
		if id != "" && s.resume(w, r, ownerOf(session, p), id) {
			return
		}
	}
	l := newListener(p)
	l.session = session
	st := newStream(s, w, false, true)
	st.resumable(s, ownerOf(session, p), session, l)
	over := make(chan struct{})
	st.over = over
	s.listeners.add(l)
	if st.begin() == nil {
		s.news(r, l, st, 0, over)
	} else {
		s.listeners.remove(l)
		st.end()
	}
}

// resume serves the rest of the stream that an event id names. It returns false
// for a GET that may as well begin a new stream: what it missed was only that
// something is to be read again.
func (s *Server) resume(w http.ResponseWriter, r *http.Request, o owner, id string) bool {
	name, n, ok := parseEventID(id)
	if !ok {
		refuse(w, http.StatusBadRequest, nil, jsonrpc.CodeInvalidRequest, "Last-Event-ID is no id of this server")
		return true
	}
	rep, err := s.replays.find(o, name)
	var turn int
	var over <-chan struct{}
	if err == nil {
		turn, over, err = rep.stream.resume(w, n)
	}
	switch {
	case err != nil && name[0] == streamForNews:
		return false
	case err != nil:
		refuse(w, http.StatusBadRequest, nil, jsonrpc.CodeInvalidRequest, err.Error())
	case rep.news != nil:
		s.news(r, rep.news, rep.stream, turn, over)
	default:
		rep.stream.hold(r, turn, over)
	}
	return true
}

// news serves the GET stream st of l on connection number turn.
func (s *Server) news(r *http.Request, l *listener, st *stream, turn int, over <-chan struct{}) {
	l.running.Lock() // an earlier connection may not have noticed yet
	defer l.running.Unlock()
	s.listeners.present(l, identity.FromContext(r.Context()))
	s.listen(r, l, st, over)
	select {
	case <-s.quit:
	default:
		if l.isOver() {
			break
		}
		// The client has gone, its token has expired, or it is on another
		// connection already. It may come back for what happens meanwhile.
		if st.leave(turn) {
			s.listeners.absent(l)
			st.replay.park(func() { s.listeners.remove(l) })
		}
		return
	}
	s.listeners.remove(l)
	st.end()
}

// delete ends a session.
func (s *Server) delete(w http.ResponseWriter, r *http.Request, p *identity.Principal) {
	if s.refusedModern(w, r) {
		return
	}
	session, _, ok := s.session(w, r, p, nil)
	if !ok {
		return
	}
	err := s.records.update(r.Context(), session, func(rec *sessionRecord) error {
		*rec = sessionRecord{Closed: true}
		return nil
	})
	if err != nil {
		s.log.Warn("session not closed", "session", session.ID, "error", err)
		w.Header().Set("Retry-After", retryAfter)
		refuse(w, http.StatusServiceUnavailable, nil, jsonrpc.CodeInternal, "temporarily unavailable")
		return
	}
	s.endSession(session.ID)
	// Best effort: the streams of other instances end at the next look as well.
	_ = s.forward(r.Context(), letter{Owner: ownerOf(session, p), End: true})
	w.WriteHeader(http.StatusNoContent)
}

// refusedModern answers GET and DELETE of a modern client with 405 (2026-07-28,
// basic/transports/streamable-http, Earlier Streamable HTTP Revisions).
func (s *Server) refusedModern(w http.ResponseWriter, r *http.Request) bool {
	if !anyModern(r.Header[hdrVersion], r.Header[hdrSession] != nil) {
		return false
	}
	w.Header().Set("Allow", "POST, OPTIONS")
	refuse(w, http.StatusMethodNotAllowed, nil, jsonrpc.CodeInvalidRequest, r.Method+" does not exist in revision "+modernVersion)
	return true
}
