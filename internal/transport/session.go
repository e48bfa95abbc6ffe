package transport

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/mcp-clerk/mcp-clerk/internal/jsonrpc"
)

// A Session is a connection of the revisions up to 2025-11-25 (basic/lifecycle;
// basic/transports, "Session Management"): opened by initialize, carried by a
// session id where the server gives one, with a stream for what the server
// sends unasked. When the server has forgotten the session, the recorded
// initialize and initialized are sent again, once for all calls that wait, then
// what the session had been asked to do from then on, and then what was refused.
// Modern messages pass through without touching it. It is safe for concurrent
// use.
type Session struct {
	c       *Client
	deliver func(*jsonrpc.Message) error
	wishes  wishes
	waiters waiters // for another session
	flights flights

	mu          sync.Mutex
	lease       lease
	initialize  *jsonrpc.Message
	initialized *jsonrpc.Message
	listening   bool
	kick        context.CancelFunc // ends the present GET stream
}

// lease is what identifies the session at one time.
type lease struct {
	generation int // counts the initialize responses
	id         string
	version    string
}

// maxRenewals bounds how often one call may find its session gone. From the
// second time on it waits a little: the server is being restarted, or is broken.
const maxRenewals = 5

// renewTime is how long a server may take to open another session: then it is
// asked anew, by whoever still wants something of it.
const renewTime = 5 * time.Minute

// maxSessionID is the longest session id accepted, in bytes.
const maxSessionID = 4 << 10

// NewSession returns a session that is not open yet. deliver receives what the
// server sends on no call's stream; it must be safe for concurrent use. Nil
// drops that.
func (c *Client) NewSession(deliver func(*jsonrpc.Message) error) *Session {
	if deliver == nil {
		deliver = func(*jsonrpc.Message) error { return nil }
	}
	s := &Session{c: c, deliver: deliver}
	s.flights.init()
	return s
}

// Granted returns the host's requests that the server has agreed to for as long
// as the session lasts: for the level of its log and for changes of resources.
func (s *Session) Granted() []*jsonrpc.Message { return s.wishes.all() }

// Do sends one message in the session; results and errors are those of
// Client.Do. initialize opens the session (anew, if there was one),
// notifications/initialized starts the stream of what the server sends unasked.
func (s *Session) Do(ctx context.Context, call Call) error {
	if IsModern(call.Message) {
		return s.c.Do(ctx, call)
	}
	switch call.Message.Method {
	case "initialize":
		return s.open(ctx, call)
	case "notifications/initialized":
		if err := s.exchange(ctx, call); err != nil {
			return err
		}
		s.mu.Lock()
		s.initialized = call.Message
		s.mu.Unlock()
		s.listen(ctx)
		return nil
	default:
		s.wishes.follow(s.c, &call)
		return s.exchange(ctx, call)
	}
}

// Close ends the session: the server is told by DELETE, with the token at hand,
// if it gave a session id. ctx bounds that, and the wait for what is still being
// delivered.
func (s *Session) Close(ctx context.Context) {
	s.flights.stop()
	s.end(ctx, s.leave())
	s.flights.wait(ctx)
	s.end(ctx, s.leave()) // if a renewal under way has come that far
}

// leave gives up the session at hand and returns it.
func (s *Session) leave() lease {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.lease
	s.lease = lease{}
	return l
}

func (s *Session) end(ctx context.Context, l lease) {
	if l.id == "" {
		return
	}
	resp, err := s.c.send(ctx, exchange{method: http.MethodDelete, header: l.header()})
	if err != nil {
		s.c.log.Debug("session not ended at the server", "host", s.c.Host(), "error", err.Error())
		return
	}
	discard(resp)
	s.c.log.Debug("session ended", "host", s.c.Host(), "status", resp.StatusCode)
}

func (l lease) header() http.Header {
	h := http.Header{}
	if l.id != "" {
		h.Set(headerSession, l.id)
	}
	if l.version != "" {
		h.Set(headerVersion, l.version)
	}
	return h
}

func (s *Session) current() lease {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lease
}

// open sends the host's initialize request and, when its result comes, takes
// over the session it opened before the result is delivered: the host's next
// message may follow at once.
func (s *Session) open(ctx context.Context, call Call) error {
	deliver := call.deliver
	return s.establish(ctx, call, func(l lease, m *jsonrpc.Message) error {
		if m.Result != nil {
			s.take(l, call.Message)
		}
		return deliver(m)
	}, deliver)
}

// establish sends initialize. answer receives its response, with what the
// session would be, and other whatever else comes on its stream.
func (s *Session) establish(ctx context.Context, call Call, answer func(lease, *jsonrpc.Message) error, other func(*jsonrpc.Message) error) error {
	resp, err := s.c.post(ctx, &call, http.Header{})
	if err != nil {
		return err
	}
	var l lease
	if id := resp.Header.Get(headerSession); visibleASCII(id, maxSessionID) {
		l.id = id
	}
	call.Deliver = func(m *jsonrpc.Message) error {
		if !m.IsResponse() || !bytes.Equal(m.ID, call.Message.ID) {
			return other(m)
		}
		if version, _ := jsonrpc.LookupString(m.Result, "protocolVersion"); visibleASCII(version, 64) {
			l.version = version
		}
		return answer(l, m)
	}
	return s.c.receive(ctx, resp, &call, func(ctx context.Context, last string) (*http.Response, error) {
		return s.get(ctx, lease{id: l.id}, last)
	})
}

// take makes l, opened by request, the session.
func (s *Session) take(l lease, request *jsonrpc.Message) {
	s.mu.Lock()
	old := s.lease
	l.generation = old.generation + 1
	s.lease = l
	again := s.initialize != nil && s.initialize != request
	s.initialize = request
	if again { // the host itself began anew: the old session is nobody's any more
		s.initialized = nil
	}
	if s.kick != nil {
		s.kick()
	}
	s.mu.Unlock()
	if again {
		s.wishes.forget()
	}
	if again && old.id != l.id {
		s.background(func(ctx context.Context) {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
			defer cancel()
			s.end(ctx, old)
		})
	}
}

// background runs f under the session's life; Close waits for it.
func (s *Session) background(f func(context.Context)) {
	g := &s.flights
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.life.Err() == nil {
		g.wg.Go(func() { f(g.life) })
	}
}

// exchange sends a message in the session as it is now, and again in a new one
// when the server has refused the old.
func (s *Session) exchange(ctx context.Context, call Call) error {
	for renewals := 0; ; renewals++ {
		l := s.current()
		resp, err := s.c.post(ctx, &call, l.header())
		if err != nil {
			return err
		}
		if l.id != "" && (resp.StatusCode == http.StatusNotFound || resp.StatusCode == http.StatusBadRequest) {
			body, err := io.ReadAll(io.LimitReader(resp.Body, maxErrorBody))
			_ = resp.Body.Close()
			if err != nil {
				return s.c.statusError(resp, "the answer broke off")
			}
			if !sessionLost(resp.StatusCode, body, call.Message.ID) {
				return s.c.refusal(resp, body, &call)
			}
			// A response or a cancellation belongs to a request of the session
			// that is gone: nobody waits for it in a new one.
			if call.Message.IsResponse() || call.Message.Method == "notifications/cancelled" || renewals == maxRenewals {
				return s.c.statusError(resp, "the server has ended the session")
			}
			if renewals > 0 {
				if err := sleep(ctx, backoff(renewals, 50*time.Millisecond, time.Second)); err != nil {
					return err
				}
			}
			if err := s.renew(ctx, l, call.asks()); err != nil {
				return err
			}
			continue
		}
		return s.c.receive(ctx, resp, &call, func(ctx context.Context, last string) (*http.Response, error) {
			return s.get(ctx, l, last)
		})
	}
}

// sessionLost reports whether a 404 or 400 to a request with a session id means
// that the session is gone, rather than being the answer to the request. The
// revision 2025-11-25 says 404; its servers send with it plain text, or a
// JSON-RPC error under the id null, their own, or the request's with the code
// -32001. Others answer 400 and speak of the session. The 404 of a server that
// does not know the method (-32601) is an answer.
func sessionLost(status int, body []byte, id json.RawMessage) bool {
	m, err := jsonrpc.Parse(body, relayLimits)
	rpc := err == nil && m.Error != nil
	code := ""
	if rpc {
		c, _ := jsonrpc.Lookup(m.Error, "code")
		code = string(c)
	}
	switch status {
	case http.StatusNotFound:
		return !rpc || code == "-32001" || code != "-32601" && string(m.ID) != string(id)
	case http.StatusBadRequest:
		text := strings.ToLower(string(body[:min(len(body), 4096)]))
		return (!rpc || code == "-32000" || code == "-32001" || code == "-32600") &&
			(strings.Contains(text, "session") || strings.Contains(text, "not initialized"))
	}
	return false
}

// renew replaces a session that the server has refused, once for all callers.
// asks is as in exchange: nil asks nobody.
func (s *Session) renew(ctx context.Context, refused lease, asks func(bool)) error {
	defer s.waiters.join(asks)()
	if asks != nil {
		asks = s.waiters.tell
	}
	for s.current().generation == refused.generation {
		s.c.log.Info("the server has ended the session, opening a new one", "host", s.c.Host())
		err := s.flights.do(ctx, "renew", func(life context.Context) error { return s.replace(life, refused, asks) })
		status, answered := errors.AsType[*StatusError](err)
		switch {
		case answered && status.Status == http.StatusUnauthorized && asks != nil: // that was somebody who asks nobody
		case errors.Is(err, ErrSlow):
			return &UnreachableError{Host: s.c.Host(), Err: err}
		default:
			return err
		}
	}
	return nil
}

// replace opens the session anew, as the host once did, unless somebody has.
func (s *Session) replace(life context.Context, refused lease, asks func(bool)) error {
	life, asking, _, cancel := patience(life, renewTime, asks)
	defer cancel()
	s.mu.Lock()
	initialize, initialized, now := s.initialize, s.initialized, s.lease
	s.mu.Unlock()
	if now.generation != refused.generation {
		return nil
	}
	if initialize == nil {
		return errors.New("the server has ended a session that was never opened")
	}
	var failure error
	var opened lease
	err := s.establish(life, Call{Message: initialize, Quiet: asks == nil, Authorizing: asking}, func(l lease, m *jsonrpc.Message) error {
		opened = l
		if m.Error != nil {
			text, _ := jsonrpc.LookupString(m.Error, "message")
			failure = fmt.Errorf("%s refused to open a new session: %s", s.c.Host(), plain(text, 200))
		}
		return nil
	}, s.deliver)
	taken := false
	defer func() {
		if !taken { // nobody will use it
			ctx, cancel := context.WithTimeout(context.WithoutCancel(life), 2*time.Second)
			defer cancel()
			s.end(ctx, opened)
		}
	}()
	if _, answered := errors.AsType[*StatusError](err); answered || failure != nil {
		return &RenewalError{errors.Join(err, failure)}
	}
	if err != nil {
		return err
	}
	if initialized != nil {
		call := Call{Message: initialized, Quiet: asks == nil, Authorizing: asking, Deliver: s.deliver}
		resp, err := s.c.post(life, &call, opened.header())
		if err != nil {
			return err
		}
		err = s.c.receive(life, resp, &call, nil)
		if status, ok := errors.AsType[*StatusError](err); ok {
			// Perhaps it is gone again already: the calls will find out.
			s.c.log.Debug("initialized not accepted in the new session", "host", s.c.Host(), "status", status.Status)
		} else if err != nil {
			return err
		}
	}
	s.wishes.askAgain(life, s.c, func(ctx context.Context, call Call) error {
		resp, err := s.c.post(ctx, &call, opened.header())
		if err != nil {
			return err
		}
		return s.c.receive(ctx, resp, &call, nil)
	}, s.deliver)
	taken = true
	s.take(opened, initialize)
	if initialized != nil {
		s.listen(life) // a server that is restarted may have refused that before
	}
	return nil
}

// get opens a stream by GET: the one of the session, or, with the id of the
// last event, the rest of one that was dropped. The Authorizer is not asked
// about a refusal: nobody at the keyboard caused this request.
func (s *Session) get(ctx context.Context, l lease, last string) (*http.Response, error) {
	h := l.header()
	h.Set("Accept", "text/event-stream")
	if last != "" {
		h.Set(headerLastID, last)
	}
	resp, err := s.c.send(ctx, exchange{method: http.MethodGet, header: h, retry503: true})
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK || mediaType(resp) != "text/event-stream" {
		body, _ := io.ReadAll(io.LimitReader(resp.Body, 16<<10)) // broken off or not: it is a refusal
		_ = resp.Body.Close()
		err := s.c.statusError(resp, "no event stream")
		if l.id != "" && sessionLost(resp.StatusCode, body, nil) {
			err = goneError{err}
		}
		return nil, err
	}
	return resp, nil
}
