package bridge

import (
	"context"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mcp-clerk/mcp-clerk/internal/jsonrpc"
	"github.com/mcp-clerk/mcp-clerk/internal/transport"
)

// pending is a request of the host that has no response yet.
type pending struct {
	b      *bridge
	m      *jsonrpc.Message
	key    string
	batch  *batch
	modern bool
	listen bool            // a subscription: open until somebody ends it
	ctx    context.Context //nolint:containedctx // the request's own, with its end as the cause
	end    context.CancelCauseFunc
	timer  *time.Timer   // nil: none
	holds  int           // who may still use the id, guarded by the bridge's mu
	gone   chan struct{} // closed when nobody does; nil: nobody waits for that

	began     time.Time
	started   atomic.Bool // the server may have seen it
	cancelled atomic.Bool // the host wants nothing of it any more
	told      atomic.Bool // the server has been sent the cancellation
	signingIn atomic.Bool
	acked     atomic.Bool // listen: the host has seen the acknowledgement
}

// add makes a pending request of m, or answers it with an error and returns nil.
func (b *bridge) add(m *jsonrpc.Message, of *batch) *pending {
	p := &pending{b: b, m: m, key: jsonrpc.IDKey(m.ID), batch: of, modern: transport.IsModern(m), listen: m.Method == methodListen, holds: 1, began: time.Now()}
	p.ctx, p.end = context.WithCancelCause(b.life)
	b.mu.Lock()
	_, twice := b.pending[p.key]
	full := len(b.pending) >= maxPending
	if !twice && !full {
		b.pending[p.key] = p
		if !p.listen {
			b.active++
		}
	}
	b.mu.Unlock()
	switch {
	case twice: // an error under this id would pass for the first request's response
		p.end(errAnswered)
		b.reply(of, jsonrpc.NewError(nil, jsonrpc.CodeInvalidRequest, "a request with the id "+shorten(m.ID)+" is still in flight", local{From: b.o.Name}))
		return nil
	case full:
		p.end(errAnswered)
		b.reply(of, jsonrpc.NewError(m.ID, jsonrpc.CodeInternal, "too many requests in flight", local{From: b.o.Name}))
		return nil
	}
	return p
}

func shorten(id json.RawMessage) string {
	if len(id) > 64 {
		return string(id[:64]) + "…"
	}
	return string(id)
}

// claim takes p off the table and reports whether it was there: whoever claims
// a request answers it, or sees to it that nobody does.
func (b *bridge) claim(p *pending) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.pending[p.key] != p {
		return false
	}
	delete(b.pending, p.key)
	return true
}

// finish counts a claimed request as over, behind its response's writing.
func (b *bridge) finish(p *pending) {
	if !p.listen {
		b.settled(func() {})
	}
}

// answer writes raw as the response to p, unless p has had one.
func (b *bridge) answer(p *pending, raw []byte) {
	if b.claim(p) {
		defer b.finish(p)
		b.reply(p.batch, raw)
	}
}

func (b *bridge) fail(p *pending, err error) {
	b.answer(p, b.failure(p.m.ID, p.m.Method, err))
}

// request relays one request other than initialize.
func (b *bridge) request(m *jsonrpc.Message, of *batch) {
	if err := b.o.Filter.refuses(m); err != nil {
		b.spool.Release(m.Raw)
		b.reply(of, jsonrpc.NewError(m.ID, jsonrpc.CodeInvalidParams, err.Error(), local{From: b.o.Name}))
		return
	}
	p := b.add(m, of)
	if p == nil {
		b.spool.Release(m.Raw)
		return
	}
	if !p.listen {
		p.timer = time.AfterFunc(b.o.RequestTimeout, p.expire)
	}
	b.mu.Lock()
	hs, before := b.handshake, b.held[p.key]
	b.mu.Unlock()
	after := b.order
	b.background(func() {
		defer p.release()
		if hs != nil && !p.modern && b.answeredByHandshake(p, hs) {
			return
		}
		b.inOrder(b.life, before)
		b.inOrder(p.ctx, after)
		err := context.Cause(p.ctx)
		if err == nil {
			err = b.relay(p)
		}
		if err == nil {
			return
		}
		p.hold()
		defer p.free()
		b.fail(p, err)
		switch {
		case errors.Is(err, errTimeout):
			b.tell(p, parsed(jsonrpc.NewNotification(methodCancelled, cancelled{RequestID: m.ID, Reason: "timed out"})))
		case p.cancelled.Load():
			b.tell(p, parsed(jsonrpc.NewNotification(methodCancelled, cancelled{RequestID: m.ID, Reason: "cancelled by the host"})))
		}
	})
}

// relay sends p to the server and delivers what comes back, the response last.
func (b *bridge) relay(p *pending) error {
	call := transport.Call{
		Message:     p.m,
		Deliver:     func(m *jsonrpc.Message) error { return b.deliver(p, m) },
		Started:     func() { p.started.Store(true) },
		Authorizing: p.authorizing,
	}
	if !p.listen {
		return b.remote.Do(p.ctx, call)
	}
	// A subscription whose stream drops is opened again under the same id: it
	// executes nothing, and the host cannot tell (basic/patterns/subscriptions).
	for failures := 0; ; failures++ {
		began := time.Now()
		err := b.remote.Do(p.ctx, call)
		if err == nil || p.ctx.Err() != nil || !b.reopens(p, err) {
			return err
		}
		if time.Since(began) > steadyTime {
			failures = 0
		}
		wait := min(250*time.Millisecond<<min(failures, 10), 30*time.Second)
		b.log.Debug("subscription stream dropped, opening it again", "error", err.Error(), "wait", wait)
		t := time.NewTimer(wait/2 + rand.N(wait/2+1)) //nolint:gosec // jitter, not a secret
		select {
		case <-t.C:
		case <-p.ctx.Done():
			t.Stop()
			return context.Cause(p.ctx)
		}
	}
}

func (b *bridge) reopens(p *pending, err error) bool {
	if _, ok := errors.AsType[*transport.LostError](err); ok {
		return true
	}
	if !p.acked.Load() {
		return false
	}
	_, unreachable := errors.AsType[*transport.UnreachableError](err)
	status, answered := errors.AsType[*transport.StatusError](err)
	return unreachable || answered && status.Status >= 500
}

// expire ends a request that has waited too long.
func (p *pending) expire() {
	if p.signingIn.Load() {
		p.end(errSignIn)
	} else {
		p.end(errTimeout)
	}
}

// authorizing bounds the wait for a sign-in by its own time, and starts the
// request's anew behind it.
func (p *pending) authorizing(waiting bool) {
	if p.signingIn.Swap(waiting) && !waiting {
		p.b.signInDone()
	}
	if waiting {
		p.started.Store(false) // the server refused it without executing it
	}
	switch {
	case p.timer == nil:
	case waiting:
		p.timer.Reset(p.b.o.SignInWait)
	default:
		p.timer.Reset(p.b.o.RequestTimeout)
	}
}

// touch starts p's time anew: the server is at work on it.
func (p *pending) touch() {
	if p.timer != nil && p.ctx.Err() == nil {
		p.timer.Reset(p.b.o.RequestTimeout)
	}
}

func (p *pending) release() {
	if p.timer != nil {
		p.timer.Stop()
	}
	p.end(errAnswered)
	p.b.spool.Release(p.m.Raw)
	p.free()
}

// hold keeps the id of p from being used again until it is freed: the server may
// yet be told that p is cancelled, which must not end a request that comes behind.
func (p *pending) hold() {
	p.b.mu.Lock()
	defer p.b.mu.Unlock()
	p.holds++
	if p.gone == nil {
		p.gone = make(chan struct{})
		p.b.held[p.key] = p.gone
	}
}

func (p *pending) free() {
	p.b.mu.Lock()
	defer p.b.mu.Unlock()
	if p.holds--; p.holds > 0 || p.gone == nil {
		return
	}
	close(p.gone)
	if p.b.held[p.key] == p.gone {
		delete(p.b.held, p.key)
	}
	p.gone = nil
}

// deliver writes to the host what the server has sent, on p's stream or, if p
// is nil, on none of a request. An error means that the host does not read any
// more.
func (b *bridge) deliver(p *pending, m *jsonrpc.Message) error {
	b.trace("from the server", m)
	if p != nil && p.cancelled.Load() {
		return nil
	}
	switch {
	case m.IsResponse():
		q, key := p, jsonrpc.IDKey(m.ID)
		if p == nil || key != p.key { // else it is never for another that has the id by now
			b.mu.Lock()
			q = b.pending[key]
			b.mu.Unlock()
		}
		if q == nil || !b.claim(q) {
			b.log.Debug("dropped a response that the host does not wait for")
			return nil
		}
		defer b.finish(q)
		if q != p {
			defer q.end(errAnswered) // it came on another stream than its own
		}
		shown, err := b.filtered(q, m)
		if err != nil {
			b.reply(q.batch, b.failure(m.ID, q.m.Method, err))
			return nil
		}
		m = shown
		if q.batch != nil {
			raw, err := b.spool.Load(m.Raw) // the batch is written later
			if err != nil {
				raw = b.failure(m.ID, q.m.Method, err)
			}
			q.batch.add(raw)
			return nil
		}
	case m.IsRequest():
		if p != nil && p.modern {
			b.log.Warn("dropped a request from the server: the revision has none", "method", m.Method)
			return nil
		}
		if !b.ask(m) {
			return nil
		}
	case m.Method == methodCancelled:
		if id, ok := jsonrpc.Lookup(m.Params, "requestId"); ok {
			b.mu.Lock()
			delete(b.asked, jsonrpc.IDKey(id))
			b.mu.Unlock()
			// The server has ended the subscription: no response follows
			// (2026-07-28, basic/patterns/cancellation).
			if p != nil && p.listen && jsonrpc.IDKey(id) == p.key && b.claim(p) {
				defer b.finish(p)
				defer p.end(errAnswered)
			}
		}
	case p != nil && p.listen && m.Method == "notifications/subscriptions/acknowledged":
		if p.acked.Swap(true) {
			return nil
		}
	}
	if p != nil {
		p.touch()
	}
	return b.out.WriteMessage(m.Raw)
}

// ask notes a request of the server, and reports whether the host should see it.
func (b *bridge) ask(m *jsonrpc.Message) bool {
	key := jsonrpc.IDKey(m.ID)
	b.mu.Lock()
	_, twice := b.asked[key]
	full := len(b.asked) >= maxAsked
	if !twice && !full {
		b.asked[key] = struct{}{}
	}
	b.mu.Unlock()
	switch {
	case twice:
		b.log.Debug("dropped a request that the server has sent twice", "method", m.Method)
	case full:
		b.log.Warn("refused a request from the server: too many wait for the host", "method", m.Method)
		refusal := parsed(jsonrpc.NewError(m.ID, jsonrpc.CodeInternal, "too many requests wait for the client", local{From: b.o.Name}))
		b.background(func() { b.send(refusal, noteTimeout) })
	}
	return !twice && !full
}

// cancel ends a request at the host's wish. In the revisions with sessions the
// server is told by the host's own notification; in the stateless one, closing
// the stream says it (basic/patterns/cancellation).
func (b *bridge) cancel(m *jsonrpc.Message) {
	id, _ := jsonrpc.Lookup(m.Params, "requestId")
	b.mu.Lock()
	p := b.pending[jsonrpc.IDKey(id)]
	b.mu.Unlock()
	if p == nil || p.m.Method == methodInitialize {
		b.log.Debug("dropped a cancellation: no such request is in flight")
		return
	}
	p.hold()
	if !b.claim(p) {
		p.free()
		b.log.Debug("dropped a cancellation: the request has just been answered")
		return
	}
	p.cancelled.Store(true)
	if p.batch != nil {
		p.batch.add(nil)
	}
	if p.modern || !p.started.Load() {
		p.end(errCancelled)
		p.free()
		b.finish(p)
		return
	}
	b.background(func() {
		defer b.finish(p)
		defer p.free()
		b.tell(p, m)
		p.end(errCancelled)
	})
}

// tell sends the cancellation of p to a server that may have seen p, once.
func (b *bridge) tell(p *pending, m *jsonrpc.Message) {
	if !p.modern && p.started.Load() && !p.told.Swap(true) {
		b.send(m, tellTimeout)
	}
}

// cancelled is the params of notifications/cancelled.
type cancelled struct {
	RequestID json.RawMessage `json:"requestId"`
	Reason    string          `json:"reason"`
}

// cancelAll tells the server, as far as cancelTime allows, that nobody waits
// for what is in flight.
func (b *bridge) cancelAll() {
	var started []*pending
	b.mu.Lock()
	for _, p := range b.pending {
		if p.started.Load() && !p.modern && p.m.Method != methodInitialize {
			started = append(started, p)
		}
	}
	b.mu.Unlock()
	if len(started) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(b.life, cancelTime)
	defer cancel()
	var wg sync.WaitGroup
	slots := make(chan struct{}, cancelAtOnce)
	for _, p := range started {
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
		}
		if ctx.Err() != nil {
			break
		}
		wg.Go(func() {
			defer func() { <-slots }()
			m := parsed(jsonrpc.NewNotification(methodCancelled, cancelled{RequestID: p.m.ID, Reason: "the host has gone"}))
			if err := b.remote.Do(ctx, transport.Call{Message: m}); err != nil {
				b.log.Debug("cancellation not accepted", "error", err.Error())
			}
		})
	}
	wg.Wait()
}

// parsed reads back a message that the bridge has built itself.
func parsed(raw []byte) *jsonrpc.Message {
	m, err := jsonrpc.Parse(raw, jsonrpc.Limits{MaxDepth: relayDepth})
	if err != nil {
		panic("bridge: built a bad message: " + err.Error())
	}
	return m
}
