package transport

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/mcp-clerk/mcp-clerk/internal/jsonrpc"
)

// An SSESession is a connection of HTTP+SSE, the transport of revision
// 2024-11-05 (basic/transports, "HTTP with SSE"): one stream brings everything
// that the server sends, and names the endpoint that messages are posted to.
// When the stream ends, so does what waits for it; the stream is opened again,
// with the recorded initialize and initialized. It is safe for concurrent use.
type SSESession struct {
	c       *Client
	deliver func(*jsonrpc.Message) error
	wishes  wishes
	waiters waiters // for a stream
	flights flights

	mu          sync.Mutex
	conn        *sseConn
	initialize  *jsonrpc.Message
	initialized *jsonrpc.Message
	mending     bool
}

// sseConn is one stream of it.
type sseConn struct {
	endpoint *url.URL
	life     context.Context //nolint:containedctx // the stream's
	close    context.CancelFunc
	gone     chan struct{} // closed behind setting err
	err      error

	mu      sync.Mutex
	waiting map[string]*sseWait
}

// sseWait is a request whose response has not come.
type sseWait struct {
	call  Call
	token json.RawMessage // of its progress
	done  chan struct{}   // closed behind setting err
	err   error
}

// endpointTime is how long a server may take to begin the stream and to name its
// endpoint: no longer than a host waits for what else may be tried.
const endpointTime = 20 * time.Second

// postGrace is how long the answer to a POST may take once the stream is gone.
const postGrace = time.Second

// goneError is the server's refusal of a message for a session that it does not
// know: nothing was executed.
type goneError struct{ error }

func (e goneError) Unwrap() error { return e.error }

// NewSSESession returns a session that is not open yet; deliver is as for
// NewSession.
func (c *Client) NewSSESession(deliver func(*jsonrpc.Message) error) *SSESession {
	if deliver == nil {
		deliver = func(*jsonrpc.Message) error { return nil }
	}
	s := &SSESession{c: c, deliver: deliver}
	s.flights.init()
	return s
}

// Granted is as Session's.
func (s *SSESession) Granted() []*jsonrpc.Message { return s.wishes.all() }

// Do sends one message; results and errors are those of Client.Do.
func (s *SSESession) Do(ctx context.Context, call Call) error {
	opening := call.Message.Method == "initialize"
	s.wishes.follow(s.c, &call)
	for renewed := false; ; renewed = true {
		conn, err := s.connect(ctx, call.asks(), !opening)
		if err != nil {
			return err
		}
		err = s.exchange(ctx, conn, call, opening)
		if _, gone := errors.AsType[goneError](err); opening || renewed || !gone || call.Message.IsResponse() || call.Message.Method == "notifications/cancelled" {
			return err
		}
		s.drop(conn)
	}
}

// Close ends the session: its stream is closed. ctx bounds the wait for what is
// still being delivered.
func (s *SSESession) Close(ctx context.Context) {
	s.flights.stop()
	s.flights.wait(ctx)
}

func (s *SSESession) exchange(ctx context.Context, conn *sseConn, call Call, opening bool) error {
	m := call.Message
	if !m.IsRequest() {
		if err := s.post(ctx, conn, &call); err != nil {
			return err
		}
		if m.Method == "notifications/initialized" {
			s.mu.Lock()
			s.initialized = m
			s.mu.Unlock()
		}
		return nil
	}
	if opening {
		host := call
		call.Deliver = func(m *jsonrpc.Message) error {
			if m.IsResponse() && m.Result != nil {
				s.mu.Lock()
				s.initialize, s.initialized = host.Message, nil
				s.mu.Unlock()
				s.wishes.forget()
			}
			return host.deliver(m)
		}
	}
	w := &sseWait{call: call, done: make(chan struct{})}
	w.token, _ = jsonrpc.Lookup(m.Params, "_meta", "progressToken")
	key := jsonrpc.IDKey(m.ID)
	conn.mu.Lock()
	conn.waiting[key] = w
	conn.mu.Unlock()
	defer func() {
		conn.mu.Lock()
		defer conn.mu.Unlock()
		if conn.waiting[key] == w {
			delete(conn.waiting, key)
		}
	}()
	// A server may answer the POST only when the call has ended. With the stream
	// gone nothing can come of that, unless it is a refusal.
	posting, stop := context.WithCancel(ctx)
	defer stop()
	defer context.AfterFunc(conn.life, func() { time.AfterFunc(postGrace, stop) })()
	err := s.post(posting, conn, &call)
	if err != nil && (posting.Err() == nil || ctx.Err() != nil) {
		return err
	}
	select {
	case <-w.done:
		return w.err
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-conn.gone:
	}
	select { // both may have happened
	case <-w.done:
		return w.err
	default:
		return &LostError{Host: s.c.Host(), Err: conn.err}
	}
}

// post sends a message to the endpoint of conn.
func (s *SSESession) post(ctx context.Context, conn *sseConn, call *Call) error {
	h := http.Header{}
	h.Set("Content-Type", "application/json")
	h.Set("Accept", "application/json, text/event-stream")
	resp, err := s.c.send(ctx, exchange{
		method: http.MethodPost, url: conn.endpoint, header: h, body: call.Message.Raw, started: call.started, authorizing: call.asks(),
		retry503: call.Message.Method != "tools/call", dial: dialBudget,
	})
	if err != nil {
		return err
	}
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		body, err := io.ReadAll(io.LimitReader(resp.Body, maxErrorBody))
		_ = resp.Body.Close()
		if err != nil {
			return s.c.statusError(resp, "the answer broke off")
		}
		err = s.c.refusal(resp, body, &Call{Message: unasked}) // a *StatusError, whatever the body says
		if resp.StatusCode == http.StatusNotFound || sessionLost(resp.StatusCode, body, call.Message.ID) {
			err = goneError{err}
		}
		return err
	}
	head, _ := io.ReadAll(io.LimitReader(resp.Body, 16<<10)) // broken off or not: it was accepted
	_ = resp.Body.Close()
	if mediaType(resp) == "text/html" && bytes.HasPrefix(bytes.TrimLeft(head, space), []byte("<")) { // a captive portal, say
		return s.c.statusError(resp, `the content type is "text/html"`)
	}
	return nil
}

// connect returns the present stream, or opens one. With replay the session is
// opened anew on a new stream. asks is as in exchange: nil asks nobody.
func (s *SSESession) connect(ctx context.Context, asks func(bool), replay bool) (*sseConn, error) {
	if conn := s.present(); conn != nil {
		return conn, nil
	}
	defer s.waiters.join(asks)()
	if asks != nil {
		asks = s.waiters.tell
	}
	for {
		if conn := s.present(); conn != nil {
			return conn, nil
		}
		err := s.flights.do(ctx, "connect", func(life context.Context) error { return s.begin(life, asks, replay) })
		status, answered := errors.AsType[*StatusError](err)
		switch {
		case answered && status.Status == http.StatusUnauthorized && asks != nil:
			continue // that was somebody who asks nobody
		case err != nil:
			return nil, err
		}
		if conn := s.present(); conn != nil {
			return conn, nil
		}
		return nil, &UnreachableError{Host: s.c.Host(), Err: errors.New("the stream ended at once")}
	}
}

// begin makes a new stream the present one.
func (s *SSESession) begin(life context.Context, asks func(bool), replay bool) error {
	if s.present() != nil {
		return nil
	}
	conn, err := s.open(life, asks)
	if err == nil && replay {
		if err = s.replay(life, conn, asks); err != nil {
			conn.close()
		}
	}
	if status, answered := errors.AsType[*StatusError](err); answered && replay && s.begun() {
		switch status.Status {
		case http.StatusBadRequest, http.StatusNotFound, http.StatusMethodNotAllowed: // not a server that is ill, or away
			return &RenewalError{err}
		}
	}
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.conn = conn
	s.mu.Unlock()
	return nil
}

// begun reports whether there is a session to be opened anew.
func (s *SSESession) begun() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.initialize != nil
}

// present returns the stream that is open.
func (s *SSESession) present() *sseConn {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn == nil {
		return nil
	}
	select {
	case <-s.conn.gone:
		return nil
	default:
		return s.conn
	}
}

func (s *SSESession) drop(conn *sseConn) {
	s.mu.Lock()
	if s.conn == conn {
		s.conn = nil
	}
	s.mu.Unlock()
	conn.close()
}

// open opens a stream and waits for the endpoint's name.
func (s *SSESession) open(life context.Context, asks func(bool)) (*sseConn, error) {
	ctx, asking, settled, cancel := patience(life, endpointTime, asks)
	h := http.Header{}
	h.Set("Accept", "text/event-stream")
	resp, err := s.c.send(ctx, exchange{method: http.MethodGet, header: h, authorizing: asking, retry503: true, dial: dialBudget})
	if err != nil {
		cancel()
		if errors.Is(err, ErrSlow) {
			err = &UnreachableError{Host: s.c.Host(), Err: err}
		}
		return nil, err
	}
	if resp.StatusCode != http.StatusOK || mediaType(resp) != "text/event-stream" {
		discard(resp)
		cancel()
		if resp.StatusCode/100 == 3 {
			return nil, s.c.refusal(resp, nil, &Call{Message: unasked}) // it says where to
		}
		return nil, s.c.statusError(resp, "no event stream")
	}
	r := NewEventReader(resp.Body, s.c.max, s.c.spool)
	ev, err := r.Next()
	for err == nil && ev.Data == nil && ev.Bad == nil { // it says when to come back, no more
		ev, err = r.Next()
	}
	if !settled() {
		err = errors.New("it names no endpoint")
	}
	if err == nil && ev.Name != "endpoint" {
		err = errors.New("its first event is not the endpoint")
	}
	var endpoint *url.URL
	if err == nil {
		endpoint, err = s.c.url.Parse(strings.TrimSpace(string(ev.Data)))
	}
	// The bearer goes there: to nobody else (basic/authorization).
	if err == nil && (!sameOrigin(endpoint, s.c.url) || endpoint.User != nil) {
		err = fmt.Errorf("its endpoint is at another origin, %q", plain(endpoint.Scheme+"://"+endpoint.Host, 120))
	}
	if err != nil {
		_ = resp.Body.Close()
		cancel()
		if _, ok := errors.AsType[*url.Error](err); ok {
			err = errors.New("its endpoint is no URL")
		}
		return nil, s.c.statusError(resp, plain(err.Error(), 200))
	}
	conn := &sseConn{endpoint: endpoint, life: ctx, close: cancel, gone: make(chan struct{}), waiting: map[string]*sseWait{}}
	running := s.background(func(context.Context) {
		conn.err = s.read(r, conn)
		_ = resp.Body.Close()
		close(conn.gone)
		cancel()
		s.mend()
	})
	if !running {
		_ = resp.Body.Close()
		cancel()
		return nil, context.Cause(life)
	}
	return conn, nil
}

// background runs f under the session's life, and reports false when that is
// over; Close waits for it.
func (s *SSESession) background(f func(context.Context)) bool {
	g := &s.flights
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.life.Err() != nil {
		return false
	}
	g.wg.Go(func() { f(g.life) })
	return true
}

// replay opens the server's session anew, as the host once did.
func (s *SSESession) replay(ctx context.Context, conn *sseConn, asks func(bool)) error {
	s.mu.Lock()
	initialize, initialized := s.initialize, s.initialized
	s.mu.Unlock()
	if initialize == nil {
		return nil
	}
	s.c.log.Info("the stream has ended, opening a new session", "host", s.c.Host())
	ctx, asking, _, cancel := patience(ctx, renewTime, asks)
	defer cancel()
	var failure error
	err := s.exchange(ctx, conn, Call{Message: initialize, Quiet: asks == nil, Authorizing: asking, Deliver: func(m *jsonrpc.Message) error {
		if m.IsResponse() && m.Error != nil {
			text, _ := jsonrpc.LookupString(m.Error, "message")
			failure = &RenewalError{fmt.Errorf("%s refused to open a new session: %s", s.c.Host(), plain(text, 200))}
		}
		return nil
	}}, false)
	if err == nil && failure == nil && initialized != nil {
		err = s.exchange(ctx, conn, Call{Message: initialized, Quiet: asks == nil, Authorizing: asking}, false)
	}
	if errors.Is(err, ErrSlow) {
		err = &UnreachableError{Host: s.c.Host(), Err: err}
	}
	if err = errors.Join(err, failure); err != nil {
		return err
	}
	s.wishes.askAgain(ctx, s.c, func(ctx context.Context, call Call) error { return s.exchange(ctx, conn, call, false) }, s.deliver)
	return nil
}

// mend opens the stream again once it has ended, for what the server sends
// unasked.
func (s *SSESession) mend() {
	s.mu.Lock()
	start := s.initialized != nil && !s.mending
	s.mending = s.mending || start
	s.mu.Unlock()
	if !start {
		return
	}
	s.background(func(life context.Context) {
		defer func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.mending = false
		}()
		for failures := 0; ; failures++ {
			if sleep(life, backoff(failures, 500*time.Millisecond, 30*time.Second)) != nil {
				return
			}
			// Nobody at the keyboard caused this: nobody is asked to sign in.
			if _, err := s.connect(life, nil, true); err == nil {
				return
			}
		}
	})
}

// read delivers what comes on the stream of conn until it ends.
func (s *SSESession) read(r *EventReader, conn *sseConn) error {
	for {
		ev, err := r.Next()
		if err != nil {
			return err
		}
		if err := s.dispatchAll(conn, ev); err != nil {
			return err
		}
	}
}

func (s *SSESession) dispatchAll(conn *sseConn, ev Event) error {
	defer s.c.spool.Release(ev.Data)
	for _, m := range s.c.messages(ev) {
		if err := s.dispatch(conn, m); err != nil {
			return err
		}
	}
	return nil
}

// dispatch gives a message to the call that it belongs to, as far as that can be
// told: all calls share the stream.
func (s *SSESession) dispatch(conn *sseConn, m *jsonrpc.Message) error {
	if m.IsResponse() {
		w, m := conn.claim(m)
		if w == nil {
			s.c.log.Debug("dropped a response that nobody waits for", "host", s.c.Host())
			return nil
		}
		w.err = w.call.deliver(m)
		close(w.done)
		return nil
	}
	if m.Method == "notifications/progress" {
		if token, ok := jsonrpc.Lookup(m.Params, "progressToken"); ok {
			if w := conn.progress(token); w != nil {
				return w.call.deliver(m)
			}
		}
	}
	return s.deliver(m)
}

// claim takes the request that m answers off the list, and returns m under the
// request's own id.
func (conn *sseConn) claim(m *jsonrpc.Message) (*sseWait, *jsonrpc.Message) {
	conn.mu.Lock()
	defer conn.mu.Unlock()
	key := jsonrpc.IDKey(m.ID)
	if w := conn.waiting[key]; w != nil {
		delete(conn.waiting, key)
		return w, m
	}
	for key, w := range conn.waiting {
		if m.ID == nil || string(m.ID) == "null" {
			break // of all the requests here it may mean any
		}
		if own, ok := claim(m, w.call.Message); ok {
			delete(conn.waiting, key)
			return w, own
		}
	}
	return nil, m
}

func (conn *sseConn) progress(token json.RawMessage) *sseWait {
	conn.mu.Lock()
	defer conn.mu.Unlock()
	for _, w := range conn.waiting {
		if string(w.token) == string(token) {
			return w
		}
	}
	return nil
}
