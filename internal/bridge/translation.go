package bridge

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/mcp-clerk/mcp-clerk/internal/era"
	"github.com/mcp-clerk/mcp-clerk/internal/jsonrpc"
	"github.com/mcp-clerk/mcp-clerk/internal/transport"
)

// translation runs a machine of package era: it is a server of the other era as
// the host's own era sees it. What the machine wants is done one step after the
// other, in its order; calls to the server go on beside that.
type translation struct {
	b     *bridge
	dial  func(deliver func(*jsonrpc.Message) error) remote // makes a leg
	life  context.Context                                   //nolint:containedctx // its own, ended by Close
	end   context.CancelCauseFunc
	wake  chan struct{} // has one element when the machine's next time may have changed
	wg    sync.WaitGroup
	tells sync.WaitGroup // messages that nobody answers
	idle  chan struct{}  // closed when it is left and nothing of the host is under way

	nothingLeft func() // closes idle

	// turn is held by whoever has the machine, and to the end of its steps.
	turn   chan struct{}
	m      era.Machine
	host   map[string]*hostCall
	calls  map[int]context.CancelFunc
	legs   map[int]remote
	next   time.Time // when the machine wants to be told the time
	left   bool      // the host's requests go elsewhere
	closed bool      // the machine takes nothing any more
}

// errRetired says that the translation has been closed: nothing was sent, and
// there may be another way to the server now.
var errRetired = errors.New("the server is reached in another way now")

// hostCall is a request of the host that has not ended.
type hostCall struct {
	call transport.Call
	done chan error
}

// newTranslation runs m. dial makes a connection with the server.
func newTranslation(b *bridge, m era.Machine, dial func(func(*jsonrpc.Message) error) remote) *translation {
	t := &translation{
		b: b, dial: dial, m: m, idle: make(chan struct{}), wake: make(chan struct{}, 1), turn: make(chan struct{}, 1),
		host: map[string]*hostCall{}, calls: map[int]context.CancelFunc{}, legs: map[int]remote{},
	}
	t.nothingLeft = sync.OnceFunc(func() { close(t.idle) })
	t.life, t.end = context.WithCancelCause(context.Background())
	t.wg.Go(t.clock)
	return t
}

// Do takes one message of the host; results and errors are those of
// transport.Session.Do.
func (t *translation) Do(ctx context.Context, call transport.Call) error {
	m := call.Message
	if _, keeps := t.m.(*era.ToLegacy); keeps || !m.IsRequest() {
		// It is needed whole, or for longer than it is kept for.
		var err error
		if m, err = t.b.loaded(m); err != nil {
			return err
		}
	}
	if !m.IsRequest() {
		return t.act(ctx, func(now time.Time) []era.Step { return t.m.Host(now, m) })
	}
	key := jsonrpc.IDKey(m.ID)
	h := &hostCall{call: call, done: make(chan error, 1)}
	retired := false
	err := t.act(ctx, func(now time.Time) []era.Step {
		var steps []era.Step
		if retired = t.left; retired || ctx.Err() != nil { // its id may be another's by now
			return nil
		}
		if t.host[key] != nil { // cancelled, and its end is not noticed yet
			steps = t.m.Cancel(now, m.ID)
		}
		t.host[key] = h
		return append(steps, t.m.Host(now, m)...)
	})
	switch {
	case err != nil:
		return err
	case retired:
		return errRetired
	}
	select {
	case err := <-h.done:
		return err
	case <-ctx.Done():
	case <-t.life.Done():
		select { // both may have happened
		case err := <-h.done:
			return err
		case <-ctx.Done():
			return context.Cause(ctx)
		default:
			return t.lost()
		}
	}
	_ = t.act(t.life, func(now time.Time) []era.Step { // at its end there is nothing to cancel
		if t.host[key] != h {
			return nil
		}
		delete(t.host, key)
		return t.m.Cancel(now, m.ID)
	})
	return context.Cause(ctx)
}

func (t *translation) lost() error {
	return &transport.LostError{Host: t.b.host, Err: errors.New("its session has ended")}
}

// drain takes no request of the host any more and waits until those under way
// have ended, or ctx has. Subscriptions end at once: they are opened elsewhere.
func (t *translation) drain(ctx context.Context) {
	_ = t.act(ctx, func(now time.Time) []era.Step { // in time or not: it is closed next
		t.left = true
		var steps []era.Step
		for key, h := range t.host {
			if h.call.Message.Method == methodListen {
				delete(t.host, key)
				h.done <- t.lost()
				steps = append(steps, t.m.Cancel(now, h.call.Message.ID)...)
			}
		}
		return steps
	})
	select {
	case <-t.idle:
	case <-ctx.Done():
	}
}

// act lets f have the machine, once it is this caller's turn, and carries out the
// steps it returns. An error says that the turn did not come before ctx ended or
// the translation did, or that the host does not read any more.
func (t *translation) act(ctx context.Context, f func(now time.Time) []era.Step) error {
	select {
	case t.turn <- struct{}{}: // at the end, too: connections are to be closed
	default:
		select {
		case t.turn <- struct{}{}:
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-t.life.Done():
			return errRetired
		}
	}
	defer func() { <-t.turn }()
	if t.closed {
		return errRetired
	}
	var failure error
	for _, s := range f(time.Now()) {
		if err := t.carryOut(s); err != nil && failure == nil {
			failure = err
		}
	}
	if t.left && len(t.host) == 0 {
		t.nothingLeft()
	}
	if next := t.m.Next(); !next.Equal(t.next) {
		t.next = next
		select {
		case t.wake <- struct{}{}:
		default:
		}
	}
	return failure
}

func (t *translation) carryOut(s era.Step) error {
	switch s.Verb {
	case era.Deliver:
		return t.give(s)
	case era.Fail:
		if h := t.host[s.For]; h != nil {
			delete(t.host, s.For)
			h.done <- s.Err
		}
	case era.Send:
		t.send(s)
	case era.Stop:
		if stop := t.calls[s.Call]; stop != nil {
			delete(t.calls, s.Call)
			stop()
		}
	case era.Close:
		if leg := t.legs[s.Leg]; leg != nil {
			delete(t.legs, s.Leg)
			t.wg.Go(func() {
				ctx, cancel := context.WithTimeout(context.WithoutCancel(t.life), tellTimeout)
				defer cancel()
				leg.Close(ctx)
			})
		}
	}
	return nil
}

// give delivers to the host.
func (t *translation) give(s era.Step) error {
	h := t.host[s.For]
	switch {
	case s.For == "":
		return t.b.deliver(nil, s.Message)
	case h == nil:
		return nil
	case !s.Message.IsResponse():
		return h.call.Deliver(s.Message)
	}
	delete(t.host, s.For)
	err := h.call.Deliver(s.Message)
	h.done <- err
	return err
}

// send begins a call, or sends a message that nobody answers.
func (t *translation) send(s era.Step) {
	leg := t.legs[s.Leg]
	if leg == nil {
		number := s.Leg
		leg = t.dial(func(m *jsonrpc.Message) error { return t.arrived(t.life, number, 0, m) })
		t.legs[s.Leg] = leg
	}
	call := transport.Call{Message: s.Message}
	if h := t.host[s.For]; h != nil {
		call.Started, call.Authorizing = h.call.Started, h.call.Authorizing
	}
	if !s.Message.IsRequest() {
		call.Deliver = func(m *jsonrpc.Message) error { return t.arrived(t.life, s.Leg, 0, m) }
		t.tells.Go(func() {
			ctx, cancel := context.WithTimeout(t.life, noteTimeout)
			defer cancel()
			err := leg.Do(ctx, call)
			if err != nil {
				t.b.log.Warn("message not accepted by the server", "method", s.Message.Method, "error", err.Error())
			}
			_ = t.act(t.life, func(now time.Time) []era.Step { return t.m.Ended(now, s.Call, err) }) // at its end nobody cares
		})
		return
	}
	ctx, cancel := t.callContext(s.Message.Method)
	t.calls[s.Call] = cancel
	call.Deliver = func(m *jsonrpc.Message) error { return t.arrived(ctx, s.Leg, s.Call, m) }
	if s.Message.Method == methodInitialize || s.Message.Method == methodDiscover {
		// Whoever looks for the server's era wants to know the status.
		call.Refused = func(status int, m *jsonrpc.Message) error {
			if era.IsModernCode(era.ErrorCode(m.Error)) {
				return t.arrived(ctx, s.Leg, s.Call, m)
			}
			return &refusal{status, m}
		}
	}
	t.wg.Go(func() {
		defer cancel()
		err := leg.Do(ctx, call)
		_ = t.act(t.life, func(now time.Time) []era.Step { // at its end nobody cares
			if t.calls[s.Call] == nil { // stopped
				return nil
			}
			delete(t.calls, s.Call)
			return t.m.Ended(now, s.Call, err)
		})
	})
}

// callContext bounds what no request of the host bounds.
func (t *translation) callContext(method string) (context.Context, context.CancelFunc) {
	switch method {
	case methodInitialize, methodDiscover: // a person may have to sign in first
		return context.WithTimeoutCause(t.life, t.b.o.RequestTimeout, errTimeout)
	case "logging/setLevel", "resources/subscribe", "resources/unsubscribe":
		return context.WithTimeoutCause(t.life, noteTimeout, errTimeout)
	}
	return context.WithCancel(t.life)
}

// arrived takes a message of the server. Of a large one only a plain result can
// pass in parts: of others the machine keeps something.
func (t *translation) arrived(ctx context.Context, leg, call int, m *jsonrpc.Message) error {
	if t.b.spool.Holds(m.Raw) {
		kind, _ := jsonrpc.LookupString(m.Result, "resultType")
		_, opens := jsonrpc.Lookup(m.Result, "protocolVersion")
		if m.Result == nil || kind == "input_required" || opens {
			var err error
			if m, err = t.b.loaded(m); err != nil {
				return err
			}
		}
	}
	return t.act(ctx, func(now time.Time) []era.Step { return t.m.Server(now, leg, call, m) })
}

// clock tells the machine when it is time.
func (t *translation) clock() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-t.wake:
		case <-timer.C:
		case <-t.life.Done():
			return
		}
		var next time.Time
		_ = t.act(t.life, func(now time.Time) []era.Step { // at its end the loop ends, too
			steps := t.m.Tick(now)
			next = t.m.Next()
			return steps
		})
		timer.Stop()
		if !next.IsZero() {
			timer.Reset(time.Until(next))
		}
	}
}

// Close ends what is under way, telling the server as far as ctx allows, and
// then every connection.
func (t *translation) Close(ctx context.Context) {
	var legs []remote
	_ = t.act(ctx, func(now time.Time) []era.Step { // in time or not: it ends
		steps := t.m.End(now)
		t.closed = true
		for _, leg := range t.legs {
			legs = append(legs, leg)
		}
		t.legs = map[int]remote{}
		return steps
	})
	tell, cancel := context.WithTimeout(ctx, cancelTime)
	wait(tell, &t.tells)
	cancel()
	t.end(errClosing)
	var closing sync.WaitGroup
	for _, leg := range legs {
		closing.Go(func() { leg.Close(ctx) })
	}
	wait(ctx, &closing)
	wait(ctx, &t.tells)
	wait(ctx, &t.wg)
}

// wait waits for wg or for ctx: one that is in a write to stdout is left behind.
func wait(ctx context.Context, wg *sync.WaitGroup) {
	done := make(chan struct{})
	go func() {
		wg.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-ctx.Done():
	}
}
