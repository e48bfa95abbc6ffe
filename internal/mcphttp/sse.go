package mcphttp

import (
	"context"
	"net/http"
	"sync"

	"github.com/mcp-clerk/mcp-clerk/internal/identity"
	"github.com/mcp-clerk/mcp-clerk/internal/jsonrpc"
)

const (
	sseMethods  = "GET, OPTIONS"
	postMethods = "POST, OPTIONS"
	paramConn   = "sessionId" // of the message endpoint, as clients know it
	maxSSECalls = 64          // in flight on one connection
)

// SSE returns the two endpoints of the deprecated HTTP+SSE transport
// (2024-11-05, basic/transports, HTTP with SSE): the stream, and the one for
// messages, which clients are told to find at path. All that holds for the MCP
// endpoint holds for both. A session is its stream: it lives on one instance
// and as long as the connection, for messages under the same user and grant.
func (s *Server) SSE(path string) (stream, message http.Handler) {
	stream = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.guard(w, r, sseMethods, func(w http.ResponseWriter, r *http.Request, p *identity.Principal) { s.serveSSE(w, of(r, p), p, path) })
	})
	message = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.guard(w, r, postMethods, func(w http.ResponseWriter, r *http.Request, p *identity.Principal) { s.postSSE(w, of(r, p), p) })
	})
	return stream, message
}

// sseConns are the open connections of the transport.
type sseConns struct {
	mu   sync.Mutex
	open map[string]*sseConn // by Session.ID
}

// sseConn is one of them. Every answer goes out on its one stream.
type sseConn struct {
	owner    owner
	stream   *stream
	listener *listener
	ctx      context.Context // ends with the connection

	mu      sync.Mutex
	session *Session // replaced by initialize
	calls   int
	closing bool
	idle    chan struct{} // closed when closing and no call is in flight
}

func (s *Server) serveSSE(w http.ResponseWriter, r *http.Request, p *identity.Principal, path string) {
	if _, events := accepts(r.Header["Accept"]); !events {
		refuse(w, http.StatusNotAcceptable, nil, jsonrpc.CodeInvalidRequest, "the client must accept text/event-stream")
		return
	}
	session := newSession(sessionName(newNonce()), p, nil, s.now().Add(s.o.SessionTTL))
	session.Version = sseVersion
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	c := &sseConn{
		owner: ownerOf(session, p), session: session, ctx: ctx, idle: make(chan struct{}),
		stream: newStream(s, w, false, true), listener: newListener(p),
	}
	c.listener.session = session
	s.sse.mu.Lock()
	s.sse.open[session.ID] = c
	s.sse.mu.Unlock()
	s.listeners.add(c.listener)
	defer s.listeners.remove(c.listener)
	defer c.stream.end()
	if c.stream.endpoint(path+"?"+paramConn+"="+session.ID) == nil {
		s.listen(r, c.listener, c.stream, nil)
	}
	s.sse.mu.Lock()
	delete(s.sse.open, session.ID)
	s.sse.mu.Unlock()
	// At a shutdown the calls in flight are answered; otherwise nobody is there
	// to read the answers.
	select {
	case <-s.quit:
		select {
		case <-c.close():
		case <-r.Context().Done():
		}
	default:
	}
}

// endpoint sends the event by which the client learns where to POST.
func (st *stream) endpoint(uri string) error {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.beginLocked()
	return st.writeLocked([]byte("event: endpoint\ndata: " + uri + "\n\n"))
}

// enter counts a call, if there may be one more.
func (c *sseConn) enter() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closing || c.calls >= maxSSECalls {
		return false
	}
	c.calls++
	return true
}

func (c *sseConn) leave() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.calls--
	if c.closing && c.calls == 0 {
		close(c.idle)
	}
}

// close lets no more calls in and returns what is closed when none is left.
func (c *sseConn) close() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closing = true
	if c.calls == 0 {
		close(c.idle)
	}
	return c.idle
}

func (c *sseConn) current() *Session {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.session
}

// postSSE takes one message. What there is to say about it goes out on the
// stream.
func (s *Server) postSSE(w http.ResponseWriter, r *http.Request, p *identity.Principal) {
	s.sse.mu.Lock()
	c := s.sse.open[r.URL.Query().Get(paramConn)]
	s.sse.mu.Unlock()
	if c == nil || c.owner != ownerOf(c.current(), p) {
		http.Error(w, "no such session", http.StatusNotFound)
		return
	}
	body, ok := s.readBody(w, r)
	if !ok {
		return
	}
	m, err := jsonrpc.Parse(body, strict)
	if err != nil {
		refuseMessage(w, err)
		return
	}
	if p != nil {
		// The stream does not end with the token it began with.
		newer := r.WithContext(identity.NewContext(c.ctx, p))
		newer.Body = http.NoBody
		c.listener.newer.Store(newer)
	}
	session := c.current()
	record, err := s.records.get(r.Context(), session.ID)
	if err != nil {
		s.log.Warn("session not checked", "session", session.ID, "error", err)
		w.Header().Set("Retry-After", retryAfter)
		refuse(w, http.StatusServiceUnavailable, m.ID, jsonrpc.CodeInternal, "temporarily unavailable")
		return
	}
	call := Call{Message: m, Version: session.Version, Session: session, LogLevel: record.LogLevel, request: r, sse: true}
	switch {
	case m.IsRequest():
		if !c.enter() {
			w.Header().Set("Retry-After", retryAfter)
			refuse(w, http.StatusTooManyRequests, m.ID, jsonrpc.CodeInternal, "too many calls in flight on this connection")
			return
		}
		s.stay()
		go func() {
			defer s.leave()
			defer c.leave()
			s.answerSSE(r, p, c, call)
		}()
		w.WriteHeader(http.StatusAccepted)
	default:
		if is, lost := s.fromClient(r, c.owner, m); is {
			accepted(w, lost)
			return
		}
		s.notification(r.Context(), w, r, &call)
	}
}

// answerSSE answers a request on the connection's stream.
func (s *Server) answerSSE(r *http.Request, p *identity.Principal, c *sseConn, call Call) {
	m := call.Message
	x := &exchange{call: call, stream: c.stream, server: s, key: callKey{c.owner, jsonrpc.IDKey(m.ID)}}
	x.ctx, x.stop = context.WithCancelCause(context.WithoutCancel(r.Context()))
	defer x.stop(nil)
	defer context.AfterFunc(c.ctx, func() { x.end(errDetached) })()
	x.call.out = x
	var opened *Session
	if m.Method == "initialize" {
		opened = newSession(call.Session.ID, p, m.Params, call.Session.Expires)
		x.call.Session, x.call.Version = opened, opened.Version
		if v, ok := jsonrpc.LookupString(m.Params, "protocolVersion"); ok {
			x.call.Version = v
		}
		x.call.ClientInfo, _ = jsonrpc.Lookup(m.Params, "clientInfo")
		x.call.ClientCapabilities, _ = jsonrpc.Lookup(m.Params, "capabilities")
	}
	_, body := s.run(x)
	if body == nil {
		return // cancelled
	}
	if opened != nil {
		if version, ok := jsonrpc.LookupString(body, "result", "protocolVersion"); ok && isLegacy(version) {
			opened.Version = version
			c.mu.Lock()
			c.session = opened
			c.mu.Unlock()
		}
	}
	if err := c.stream.event(body); err != nil {
		s.log.Debug("answer not sent: the client has gone", "method", m.Method)
	}
}
