package mcphttp

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"runtime"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/mcp-clerk/mcp-clerk/internal/identity"
	"github.com/mcp-clerk/mcp-clerk/internal/jsonrpc"
)

var (
	errCancelled = errors.New("request cancelled by the client")
	errDetached  = errors.New("client did not come back for the response")
	errShutdown  = errors.New("server shut down")
)

// owner is whom a call belongs to. Only messages of the same owner can cancel
// it or answer what it asks.
type owner struct {
	Session string `json:"s"`
	Subject string `json:"u"`
	Grant   string `json:"g"`
}

func ownerOf(s *Session, p *identity.Principal) owner {
	o := owner{Session: s.ID}
	if p != nil {
		o.Subject, o.Grant = p.Subject, p.Grant
	}
	return o
}

// callKey names a call of the client, or a request to the client, by its id.
// The bare id says nothing: every client counts from 1.
type callKey struct {
	owner owner
	id    string
}

// exchange is one request on its way: the call, its stream and what can end it.
type exchange struct {
	call   Call
	stream *stream
	server *Server
	key    callKey // legacy only
	ctx    context.Context
	stop   context.CancelCauseFunc
	answer func(status int, body []byte) // takes what is to be sent; nil for a quick call

	mu       sync.Mutex
	answered bool                              // or about to be
	late     func(cause error) ([]byte, error) // see Call.Within
	running  *time.Timer                       // of Call.Within
	leaving  *time.Timer                       // since ctx has ended

	done     bool        // guarded by stream.mu: Handle has returned
	deadline *time.Timer // guarded by stream.mu: set when the client went
}

// patience is how long a Handler may go on after its context has ended.
const patience = time.Second

// register makes the exchange known to cancellation and shutdown.
func (s *Server) register(x *exchange) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.exchanges[x] = struct{}{}
	if s.cut {
		x.end(errShutdown)
	}
	if x.key.id != "" {
		s.byKey[x.key] = x
	}
}

func (s *Server) unregister(x *exchange) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.exchanges, x)
	if x.key.id != "" && s.byKey[x.key] == x {
		delete(s.byKey, x.key)
	}
}

// cancelCall cancels the call under key, if this instance has it.
func (s *Server) cancelCall(key callKey) bool {
	s.mu.Lock()
	x := s.byKey[key]
	s.mu.Unlock()
	if x == nil {
		return false
	}
	x.end(errCancelled)
	return true
}

// endSession ends all that a session which was closed has here.
func (s *Server) endSession(session string) {
	s.cancelSession(session)
	s.listeners.endSession(session)
	s.replays.endSession(session)
}

// cancelSession cancels every call of a session that was closed.
func (s *Server) cancelSession(session string) {
	s.mu.Lock()
	var calls []*exchange
	for key, x := range s.byKey {
		if key.owner.Session == session {
			calls = append(calls, x)
		}
	}
	s.mu.Unlock()
	for _, x := range calls {
		x.end(errCancelled)
	}
}

// handle calls the Handler and outlives its panics.
func (s *Server) handle(ctx context.Context, call *Call) (response []byte, err error) {
	defer s.recovered(call, &err)
	return s.o.Handler.Handle(ctx, call)
}

// recovered turns a panic into errPanicked; it is to be deferred.
func (s *Server) recovered(call *Call, err *error) {
	v := recover()
	if v == nil {
		return
	}
	// The value may hold anything, a secret too; the text of a runtime error
	// is the runtime's own.
	what := fmt.Sprintf("%T", v)
	if e, ok := v.(runtime.Error); ok {
		what = e.Error()
	}
	s.log.Error("handler panicked", "method", call.Message.Method, "panic", what, "stack", string(debug.Stack()))
	*err = errPanicked
}

var errPanicked = errors.New("handler panicked")

// start has the Handler answer one request, on a goroutine of its own, and
// hands answer the message to send with the HTTP status that goes with it, once.
// A nil message means that none may be sent: the request was cancelled.
func (s *Server) start(x *exchange, answer func(status int, body []byte)) {
	x.answer = answer
	s.register(x)
	s.workers.do(func() {
		response, err := []byte(nil), errPanicked
		defer func() { // also when the Handler ends its goroutine
			if x.claim() {
				answer(x.conclude(response, err))
			}
		}()
		response, err = s.handle(x.ctx, &x.call)
	})
}

// quick reports whether m is a call that Options.Quick means.
func (s *Server) quick(m *jsonrpc.Message) bool {
	if s.o.Quick == nil || m.Method != "tools/call" {
		return false
	}
	name, ok := jsonrpc.LookupString(m.Params, "name")
	return ok && s.o.Quick(name)
}

// serveQuick answers a quick call on the goroutine of its connection. Nobody
// else gets to know the exchange: it can be neither cancelled nor left behind.
func (s *Server) serveQuick(x *exchange) {
	x.server, x.call.out = s, x
	response, err := s.handle(x.ctx, &x.call)
	x.claim()
	x.send(x.conclude(response, err))
}

// run is start for one who waits.
func (s *Server) run(x *exchange) (status int, body []byte) {
	answered := make(chan struct{})
	s.start(x, func(st int, b []byte) {
		status, body = st, b
		close(answered)
	})
	select {
	case <-answered:
	case <-x.ctx.Done():
		x.end(context.Cause(x.ctx))
		<-answered
	}
	return status, body
}

// claim reports whether the caller is the one to answer the request.
func (x *exchange) claim() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	first := !x.answered
	x.answered = true
	for _, t := range []*time.Timer{x.running, x.leaving} {
		if t != nil {
			t.Stop()
		}
	}
	return first
}

// conclude turns what the Handler gave into the answer; see start.
func (x *exchange) conclude(response []byte, err error) (status int, body []byte) {
	s := x.server
	x.settle()
	s.unregister(x)
	switch cause := context.Cause(x.ctx); {
	case errors.Is(cause, errCancelled):
		return 0, nil
	case err == nil:
		err = s.afterwards(x.ctx, &x.call, response)
	}
	if err != nil {
		return s.failure(x.ctx, x.call.request, x, err)
	}
	return s.success(x, response)
}

// end ends the context of the request. A Handler that does not heed that is
// left to itself: it can hold neither its client nor a shutdown.
func (x *exchange) end(cause error) {
	x.stop(cause)
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.answered || x.leaving != nil {
		return
	}
	x.leaving = time.AfterFunc(patience, func() {
		if !x.claim() {
			return
		}
		x.mu.Lock()
		late := x.late
		x.mu.Unlock()
		var response []byte
		err := context.Cause(x.ctx)
		if late != nil {
			response, err = late(err)
		} else {
			x.server.log.Error("the handler ignores that its context has ended and is left to itself", "method", x.call.Message.Method)
		}
		x.answer(x.conclude(response, err))
	})
}

// within implements Call.Within.
func (x *exchange) within(d time.Duration, late func(cause error) ([]byte, error)) (stop func()) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.answered || x.answer == nil { // a quick call has all the time it takes
		return func() {}
	}
	t := time.AfterFunc(d, func() { x.end(ErrLate) })
	x.late, x.running = late, t
	return func() {
		t.Stop()
		x.mu.Lock()
		defer x.mu.Unlock()
		if x.running == t {
			x.late, x.running = nil, nil
		}
	}
}

// settle closes the call's way to the client: nothing follows the response.
func (x *exchange) settle() {
	x.stream.mu.Lock()
	defer x.stream.mu.Unlock()
	x.done = true
	if x.deadline != nil {
		x.deadline.Stop()
	}
}

// away is called when the client of a legacy call has gone. That is no
// cancellation (2025-11-25, basic/transports, Sending Messages, 6); but a call
// nobody waits for does not go on for ever. The stream's mutex is held.
func (x *exchange) away() {
	if !x.done && x.deadline == nil {
		left := x.server.o.DetachedTimeout - time.Since(x.stream.left)
		x.deadline = time.AfterFunc(left, func() { x.end(errDetached) })
	}
}

// back is called when the client is there again. The stream's mutex is held.
func (x *exchange) back() {
	if x.deadline != nil {
		x.deadline.Stop()
		x.deadline = nil
	}
}

// success checks the handler's response and puts the request's id back.
func (s *Server) success(x *exchange, response []byte) (int, []byte) {
	id := x.call.Message.ID
	if len(response) > s.o.MaxResult {
		s.log.Error("response over the limit", "method", x.call.Message.Method, "bytes", len(response), "limit", s.o.MaxResult)
		return http.StatusOK, jsonrpc.NewError(id, jsonrpc.CodeInternal,
			fmt.Sprintf("the response of %d bytes is over the limit of %d", len(response), s.o.MaxResult), nil)
	}
	if hasHead(response, id) {
		return http.StatusOK, response
	}
	m, err := jsonrpc.Parse(response, jsonrpc.Limits{MaxDepth: 1 << 14})
	if err != nil || !m.IsResponse() || m.ID == nil {
		s.log.Error("handler returned no response", "method", x.call.Message.Method)
		return http.StatusOK, jsonrpc.NewError(id, jsonrpc.CodeInternal, "internal error", nil)
	}
	status := http.StatusOK
	if m.Error != nil && x.call.Modern {
		var e struct {
			Code int `json:"code"`
		}
		if json.Unmarshal(m.Error, &e) == nil {
			status = modernStatus(e.Code)
		}
	}
	return status, jsonrpc.ReplaceID(m, id)
}

var (
	headOpen   = []byte(`{"jsonrpc":"2.0","id":`)
	headResult = []byte(`,"result":`)
)

// hasHead reports whether response begins as every encoder of results here
// writes it, with the right id: then there is nothing to look for in the rest.
func hasHead(response []byte, id json.RawMessage) bool {
	rest, ok := bytes.CutPrefix(response, headOpen)
	if !ok {
		return false
	}
	rest, ok = bytes.CutPrefix(rest, id)
	return ok && bytes.HasPrefix(rest, headResult)
}

// modernStatus is the HTTP status of an error code in the modern era
// (2026-07-28, basic/transports/streamable-http and basic/index).
func modernStatus(code int) int {
	switch code {
	case jsonrpc.CodeMethodNotFound:
		return http.StatusNotFound
	case jsonrpc.CodeHeaderMismatch, jsonrpc.CodeMissingCapability, jsonrpc.CodeUnsupportedVersion,
		jsonrpc.CodeInvalidRequest, jsonrpc.CodeParse:
		return http.StatusBadRequest
	}
	return http.StatusOK
}

// failure turns a handler's error into a response. Headers that belong to the
// status are set here.
func (s *Server) failure(ctx context.Context, r *http.Request, x *exchange, err error) (int, []byte) {
	id := x.call.Message.ID
	refuse := func(status, code int, message string, set func(http.Header)) (int, []byte) {
		if set != nil {
			x.stream.header(set)
		}
		return status, jsonrpc.NewError(id, code, message, nil)
	}
	var rpc *jsonrpc.Error
	var scope *ScopeError
	switch {
	case errors.As(err, &rpc):
		status := http.StatusOK
		if x.call.Modern {
			status = modernStatus(rpc.Code)
		}
		return refuse(status, rpc.Code, rpc.Message, nil)
	case errors.As(err, &scope):
		return refuse(http.StatusForbidden, jsonrpc.CodeInvalidRequest, scope.Error(), func(h http.Header) {
			h.Set("WWW-Authenticate", s.o.Challenge(r, "insufficient_scope", scope.Scopes))
		})
	case errors.Is(err, identity.ErrInvalidToken):
		code := "invalid_token"
		if r.Header["Authorization"] == nil {
			code = ""
		}
		return refuse(http.StatusUnauthorized, jsonrpc.CodeInvalidRequest, "sign in to use this", func(h http.Header) {
			h.Set("WWW-Authenticate", s.o.Challenge(r, code, nil))
		})
	case errors.Is(err, identity.ErrUnavailable):
		s.log.Warn("call refused: unavailable", "method", x.call.Message.Method, "error", err)
		return refuse(http.StatusServiceUnavailable, jsonrpc.CodeInternal, "temporarily unavailable", func(h http.Header) {
			h.Set("Retry-After", retryAfter)
		})
	}
	switch {
	case ctx.Err() != nil: // the client went, or the server is going
		s.log.Debug("call ended early", "method", x.call.Message.Method, "cause", context.Cause(ctx), "error", err)
	case !errors.Is(err, errPanicked):
		s.log.Error("handler failed", "method", x.call.Message.Method, "error", err)
	}
	return refuse(http.StatusOK, jsonrpc.CodeInternal, "internal error", nil)
}

// notify implements Call.Notify.
func (x *exchange) notify(_ context.Context, c *Call, raw []byte) error {
	if level, is := logLevelOf(raw); is && !wantsLevel(c, level) {
		return nil
	}
	x.stream.mu.Lock()
	defer x.stream.mu.Unlock()
	if x.done {
		return ErrStreamClosed
	}
	return x.stream.eventLocked(raw)
}

// disconnect implements Call.Disconnect.
func (x *exchange) disconnect(retry time.Duration) { x.stream.cut(retry) }

// request implements Call.Request.
func (x *exchange) request(ctx context.Context, c *Call, method string, params json.RawMessage) (json.RawMessage, error) {
	s := x.server
	id := json.RawMessage(`"` + rand.Text() + `"`)
	key := callKey{x.key.owner, jsonrpc.IDKey(id)}
	answer := make(chan *jsonrpc.Message, 1)
	s.mu.Lock()
	s.pending[key] = answer
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.pending, key)
		s.mu.Unlock()
	}()
	var body any
	if params != nil {
		body = params
	}
	if err := x.notify(ctx, c, jsonrpc.NewRequest(id, method, body)); err != nil {
		return nil, fmt.Errorf("send %q: %w", method, err)
	}
	select {
	case m := <-answer:
		if m.Error == nil {
			return m.Result, nil
		}
		e := &ClientError{}
		if err := json.Unmarshal(m.Error, e); err != nil {
			return nil, fmt.Errorf("read the client's error: %w", err)
		}
		return nil, e
	case <-ctx.Done():
		// The dialogue on the other side should not stay open.
		_ = x.notify(ctx, c, jsonrpc.NewNotification("notifications/cancelled",
			map[string]any{"requestId": id, "reason": "the server no longer waits"}))
		return nil, fmt.Errorf("wait for the answer to %q: %w", method, context.Cause(ctx))
	}
}

// deliver hands a client's answer to the call that waits for it here.
func (s *Server) deliver(o owner, m *jsonrpc.Message) bool {
	key := callKey{o, jsonrpc.IDKey(m.ID)}
	s.mu.Lock()
	answer := s.pending[key]
	delete(s.pending, key) // the first answer counts
	s.mu.Unlock()
	if answer == nil {
		return false
	}
	answer <- m
	return true
}

// mailTopic is the Mailbox topic of messages for calls on another instance.
const mailTopic = "mcphttp"

// letter is one of them: a client's answer, a cancellation, or the end of the
// session.
type letter struct {
	Owner  owner           `json:"o"`
	Cancel json.RawMessage `json:"c,omitempty"` // id of the request to cancel
	Answer json.RawMessage `json:"a,omitempty"` // response of the client
	End    bool            `json:"e,omitempty"` // the session was closed
}

// fromClient deals with the messages of a client that belong to something in
// flight: answers and cancellations. It reports whether m was one, and whether
// it is an answer that got lost: a call waits for that.
func (s *Server) fromClient(r *http.Request, o owner, m *jsonrpc.Message) (is, lost bool) {
	switch {
	case m.IsResponse():
		lost = m.ID != nil && !s.deliver(o, m) && s.forward(r.Context(), letter{Owner: o, Answer: m.Raw}) != nil
		return true, lost
	case m.Method == "notifications/cancelled":
		if id, ok := jsonrpc.Lookup(m.Params, "requestId"); ok && !s.cancelCall(callKey{o, jsonrpc.IDKey(id)}) {
			_ = s.forward(r.Context(), letter{Owner: o, Cancel: id}) // best effort, as a cancellation is
		}
		return true, false
	}
	return false, false
}

// accepted answers a message that asks for no response. Who is told that it was
// lost can send it again.
func accepted(w http.ResponseWriter, lost bool) {
	if lost {
		w.Header().Set("Retry-After", retryAfter)
		refuse(w, http.StatusServiceUnavailable, nil, jsonrpc.CodeInternal, "temporarily unavailable")
		return
	}
	w.WriteHeader(http.StatusAccepted)
}

// forward sends to the other instances what belongs to no call of this one. It
// may belong to none: it came late, or the call is gone with its instance.
func (s *Server) forward(ctx context.Context, l letter) error {
	if s.o.Mailbox == nil {
		return nil
	}
	raw, err := encodeParams(l) // ids keep their bytes
	if err == nil {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), storeTimeout)
		defer cancel()
		err = s.o.Mailbox.Publish(ctx, mailTopic, raw)
	}
	if err != nil {
		s.log.Warn("message for another instance not sent", "error", err)
	}
	return err
}

// mail takes a letter of another instance (or of this one, which has no use
// for it).
func (s *Server) mail(raw []byte) {
	var l letter
	if err := json.Unmarshal(raw, &l); err != nil {
		s.log.Warn("unreadable message from another instance", "error", err)
		return
	}
	if l.Cancel != nil {
		s.cancelCall(callKey{l.Owner, jsonrpc.IDKey(l.Cancel)})
	}
	if l.End {
		s.endSession(l.Owner.Session)
	}
	if l.Answer != nil {
		if m, err := jsonrpc.Parse(l.Answer, jsonrpc.Limits{}); err == nil && m.IsResponse() {
			s.deliver(l.Owner, m)
		}
	}
}

// The levels of notifications/message, least severe first (RFC 5424 section
// 6.2.1).
var logLevels = []string{"debug", "info", "notice", "warning", "error", "critical", "alert", "emergency"}

var logMethod = []byte(`notifications/message`)

// logLevelOf returns the level of a notifications/message.
func logLevelOf(raw []byte) (level string, is bool) {
	if !bytes.Contains(raw, logMethod) {
		return "", false
	}
	if method, _ := jsonrpc.LookupString(raw, "method"); method != string(logMethod) {
		return "", false
	}
	level, _ = jsonrpc.LookupString(raw, "params", "level")
	return level, true
}

// wantsLevel reports whether the client of c wants log messages of level. An
// unknown level counts as the most severe.
func wantsLevel(c *Call, level string) bool {
	if c.LogLevel == "" {
		return !c.Modern
	}
	at := slices.Index(logLevels, level)
	return at < 0 || at >= slices.Index(logLevels, c.LogLevel)
}
