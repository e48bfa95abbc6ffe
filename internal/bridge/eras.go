package bridge

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/mcp-clerk/mcp-clerk/internal/era"
	"github.com/mcp-clerk/mcp-clerk/internal/jsonrpc"
	"github.com/mcp-clerk/mcp-clerk/internal/transport"
)

// Strategy is which transports are tried, and in which order.
type Strategy string

// The strategies, under the names that mcp-remote has for them. "" is HTTPFirst.
const (
	HTTPFirst Strategy = "http-first"
	SSEFirst  Strategy = "sse-first"
	HTTPOnly  Strategy = "http-only"
	SSEOnly   Strategy = "sse-only"
)

// eras is the server as a host of either era sees it. What the host sends goes
// out first as it is; only what the server refuses as of another era is
// translated, and so is what follows. What has been found out holds for the
// process, until it fails, and that a server speaks one way only holds for those
// after it. Nothing is sent that the host did not ask for.
type eras struct {
	b      *bridge
	client *transport.Client
	modern *modernLeg
	sole   chan struct{} // held by who looks for the server's era

	mu         sync.Mutex
	forLegacy  remote           // where a legacy host's messages go
	forModern  remote           // where a modern host's go
	hostModern bool             // the era of the host's last request
	confirmed  bool             // the server has answered as a modern one
	doubtful   bool             // it has answered a modern request as if it were none
	looked     time.Time        // when no other era was found
	reopened   time.Time        // when a legacy host's session was opened anew in vain
	openings   int              // how often it was opened anew
	initialize *jsonrpc.Message // the host's
	closed     bool
}

// lookAgain is how long a server that has shown its era is not asked for another
// again, after it was in vain: not every 400 is about that. One that has ended
// the host's session and opens no other is asked again after reopenAgain.
const (
	lookAgain   = time.Minute
	reopenAgain = time.Second
)

func newEras(b *bridge, client *transport.Client) *eras {
	e := &eras{b: b, client: client, modern: &modernLeg{client: client, b: b}, sole: make(chan struct{}, 1)}
	e.forLegacy = client.NewSession(e.unasked)
	e.forModern = e.modern
	only := b.memory.only()
	if only != "" {
		b.log.Debug("the server spoke one way only, trying that first", "way", string(only))
	}
	switch {
	case b.o.Strategy == SSEFirst, b.o.Strategy == SSEOnly, only == onlySSE && e.fallsBack():
		e.forLegacy = client.NewSSESession(e.unasked)
		e.forModern = e.sessions(e.dialSSE)
	case only == onlySessions:
		e.forModern = e.sessions(e.dialHTTP)
	}
	return e
}

func (e *eras) dialSSE(deliver func(*jsonrpc.Message) error) remote {
	return e.client.NewSSESession(deliver)
}

func (e *eras) dialHTTP(deliver func(*jsonrpc.Message) error) remote {
	return e.client.NewSession(deliver)
}

func (e *eras) unasked(m *jsonrpc.Message) error { return e.b.deliver(nil, m) }

// Do implements remote.
func (e *eras) Do(ctx context.Context, call transport.Call) error {
	for {
		err := e.do(ctx, call)
		e.mu.Lock()
		closed := e.closed
		e.mu.Unlock()
		if !errors.Is(err, errRetired) || closed || ctx.Err() != nil {
			return err
		}
	}
}

func (e *eras) do(ctx context.Context, call transport.Call) error {
	m := call.Message
	e.mu.Lock()
	if m.IsRequest() {
		if m.Method == methodInitialize {
			e.initialize = m
		}
		// One that has never opened a session stays modern, whatever it leaves out.
		e.hostModern = transport.IsModern(m) || e.hostModern && e.initialize == nil
	}
	isModern, legacy, modern, openings := e.hostModern, e.forLegacy, e.forModern, e.openings
	e.mu.Unlock()
	switch {
	case !m.IsRequest() && isModern:
		return modern.Do(ctx, call)
	case !m.IsRequest():
		return legacy.Do(ctx, call)
	case isModern:
		return e.doModern(ctx, call, modern)
	case m.Method == methodInitialize:
		return e.open(ctx, call, legacy)
	}
	given := call
	given.Refused = func(status int, m *jsonrpc.Message) error {
		r := &refusal{status, m}
		if era.IsModernCode(era.ErrorCode(m.Error)) || ofAnotherVersion(r) {
			return r // it was a legacy one when the session was opened, or seemed to be
		}
		return call.Deliver(m)
	}
	err := legacy.Do(ctx, given)
	_, gone := errors.AsType[*transport.RenewalError](err)
	_, upgraded := errors.AsType[*refusal](err)
	upgraded = upgraded || ofAnotherVersion(err)
	pause := lookAgain
	if gone {
		pause = reopenAgain
	}
	if (gone || upgraded) && e.reopen(ctx, legacy, openings, pause) {
		e.mu.Lock()
		legacy = e.forLegacy
		e.mu.Unlock()
		return legacy.Do(ctx, call) // refused before it was executed
	}
	return settle(call, err)
}

// Close implements remote.
func (e *eras) Close(ctx context.Context) {
	e.mu.Lock()
	legacy, modern := e.forLegacy, e.forModern
	e.closed = true
	e.mu.Unlock()
	var wg sync.WaitGroup
	wg.Go(func() { legacy.Close(ctx) })
	wg.Go(func() { modern.Close(ctx) })
	wg.Wait()
}

// open sends the host's initialize, to a server that was found to take none by
// server/discover, and to any other as it is.
func (e *eras) open(ctx context.Context, call transport.Call, now remote) error {
	switch now.(type) {
	case *transport.SSESession:
		return e.openSSE(ctx, call, now)
	case *transport.Session:
		if e.b.memory.only() != onlyModern {
			break
		}
		err := e.try(ctx, call, now, e.discovered(), onlyModern)
		if err == nil || !answered(err) {
			return err
		}
		e.b.log.Debug("the server is not discovered any more, sending initialize", "answer", err.Error())
	}
	return e.openHTTP(ctx, call, now)
}

// openSSE sends the host's initialize to a server that is to speak HTTP+SSE. One
// that does not, or no longer, may speak the others; until it has, all stays as it
// was.
func (e *eras) openSSE(ctx context.Context, call transport.Call, now remote) error {
	err := now.Do(ctx, call)
	if e.b.o.Strategy == SSEOnly || !answered(err) && !silent(err) {
		return err
	}
	e.b.log.Debug("the server does not speak HTTP+SSE, trying Streamable HTTP", "answer", err.Error())
	next := e.client.NewSession(e.unasked)
	opened := false
	given := call
	given.Deliver = func(m *jsonrpc.Message) error {
		if m.IsResponse() && m.Result != nil {
			opened = true
			e.move(now, next)
		}
		return call.Deliver(m)
	}
	err = e.openHTTP(ctx, given, next)
	if !opened {
		e.replace(&e.forLegacy, now)
		e.retire(next)
		return err
	}
	e.replace(&e.forModern, e.modern)
	e.retire(now)
	return err
}

// goesTo reports whether a legacy host's messages go to r.
func (e *eras) goesTo(r remote) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.forLegacy == r
}

// move has a legacy host's messages go to another remote, if they still go to the
// one that it takes the place of: the next of them may follow the answer to
// initialize at once.
func (e *eras) move(from, to remote) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.forLegacy == from {
		e.forLegacy = to
	}
}

// openHTTP sends the host's initialize over Streamable HTTP. A server that refuses
// it as a modern one does is asked by server/discover, and translated for if it
// answers; one that takes neither may speak HTTP+SSE.
func (e *eras) openHTTP(ctx context.Context, call transport.Call, now remote) error {
	given := call
	// What a server of either era takes; a modern one requires it.
	given.Header = http.Header{"Mcp-Method": {methodInitialize}}
	given.Deliver = func(m *jsonrpc.Message) error {
		if m.IsResponse() && m.Result != nil {
			e.b.memory.speaks(onlySessions)
		}
		return call.Deliver(m)
	}
	err := probing(ctx, now, given, func(status int, m *jsonrpc.Message) bool {
		code := era.ErrorCode(m.Error)
		version, _ := jsonrpc.LookupString(m.Result, "protocolVersion")
		return era.IsModernCode(code) || slices.Contains(unreadable, code) || slices.Contains(era.ModernVersions, version) ||
			m.Error != nil && elsewhere(&refusal{status: status})
	})
	_, refused := errors.AsType[*refusal](err)
	switch {
	case err == nil:
		e.replace(&e.forModern, e.modern)
		return nil
	case changed(err): // it was translated for until now
		now = e.client.NewSession(e.unasked)
		e.replace(&e.forLegacy, now)
		return e.openHTTP(ctx, call, now)
	case !refused && !elsewhere(err):
		return err
	}
	e.b.log.Debug("the server does not take initialize, asking it to be discovered", "answer", err.Error())
	again := e.try(ctx, call, now, e.discovered(), onlyModern)
	switch {
	case again == nil || !answered(again):
		return again
	case !elsewhere(err) || !elsewhere(again) || !e.fallsBack():
		return settle(call, err)
	}
	e.b.log.Debug("nor that, trying HTTP+SSE", "answer", again.Error())
	again = e.try(ctx, call, now, e.client.NewSSESession(e.unasked), onlySSE)
	if _, none := errors.AsType[*transport.StatusError](again); none || silent(again) {
		return settle(call, err)
	}
	return again
}

// fallsBack reports whether HTTP+SSE is tried when the server takes nothing else.
func (e *eras) fallsBack() bool { return e.b.o.Strategy == "" || e.b.o.Strategy == HTTPFirst }

// try has r, which is the way named, take the host's initialize and, once it has
// answered, what follows, in place of now.
func (e *eras) try(ctx context.Context, call transport.Call, now, r remote, way only) error {
	e.mu.Lock()
	before := e.forLegacy // not now, where that is only tried
	e.mu.Unlock()
	given := call
	given.Deliver = func(m *jsonrpc.Message) error {
		if m.IsResponse() {
			e.move(before, r)
		}
		if m.IsResponse() && m.Result != nil {
			e.b.memory.found(way)
		}
		return call.Deliver(m)
	}
	if err := r.Do(ctx, given); err != nil {
		e.move(r, before)
		e.retire(r)
		return err
	}
	e.retire(now)
	return nil
}

// replace changes where the messages of one era go, and ends what was there.
func (e *eras) replace(at *remote, with remote) {
	e.mu.Lock()
	old := *at
	*at = with
	e.mu.Unlock()
	if old != with {
		e.retire(old)
	}
}

// leave has the messages of modern hosts go out as they are, if they still go to
// old, and returns where they go.
func (e *eras) leave(old remote) remote {
	e.mu.Lock()
	moved := e.forModern != old
	if !moved {
		e.forModern = e.modern
	}
	now := e.forModern
	e.mu.Unlock()
	if moved {
		return now
	}
	draining := e.b.background(func() {
		if t, ok := old.(*translation); ok {
			t.drain(e.b.life)
		}
		e.retire(old)
	})
	if !draining {
		e.retire(old)
	}
	return now
}

// retire ends what nothing is sent to any more.
func (e *eras) retire(r remote) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(e.b.life), tellTimeout)
	closing := e.b.background(func() {
		defer cancel()
		r.Close(ctx)
	})
	if !closing { // everything ends: at once
		cancel()
		r.Close(ctx)
	}
}

// discovered makes the way of a legacy host to a modern server.
func (e *eras) discovered() *translation {
	m := era.NewToModern(e.client.Host())
	m.Elsewhere = func(value json.RawMessage) bool { return e.b.spool.Holds(value) }
	return newTranslation(e.b, m, func(func(*jsonrpc.Message) error) remote { return e.modern })
}

// sessions makes the way of a modern host to a server that has sessions.
func (e *eras) sessions(dial func(func(*jsonrpc.Message) error) remote) *translation {
	return newTranslation(e.b, era.NewToLegacy(e.legacyOptions()), dial)
}

// reopen looks for the era of a server that has ended the host's session and
// does not open another, or speaks as one of another era, as after an upgrade. It
// reports whether messages can go on: also where that was seen to before, behind
// the opening that the caller has seen. In vain it is done once in a pause.
func (e *eras) reopen(ctx context.Context, refused remote, seen int, pause time.Duration) bool {
	if !e.enter(ctx) {
		return false
	}
	defer e.exit()
	e.mu.Lock()
	moved, initialize, last := e.forLegacy != refused || e.openings != seen, e.initialize, e.reopened
	e.mu.Unlock()
	if moved || initialize == nil || time.Since(last) < pause {
		return moved
	}
	failed := false
	call := transport.Call{Message: initialize, Deliver: func(m *jsonrpc.Message) error {
		failed = failed || m.IsResponse() && m.Error != nil
		return nil
	}}
	err := e.open(ctx, call, refused)
	if _, sessions := refused.(*transport.Session); sessions && err == nil && !failed && pause == lookAgain && e.goesTo(refused) {
		// It opens sessions, and refuses what comes in them.
		if again := e.try(ctx, call, refused, e.discovered(), onlyModern); again != nil {
			e.b.log.Debug("nor is it discovered", "answer", again.Error())
		}
	}
	e.mu.Lock()
	r := e.forLegacy
	switch {
	case err != nil, failed, r == refused && pause == lookAgain:
		e.reopened = time.Now()
	default:
		e.openings++
	}
	e.mu.Unlock()
	if err != nil || failed {
		return false
	}
	ready := parsed(jsonrpc.NewNotification(methodReady, nil))
	if r.Do(ctx, transport.Call{Message: ready, Deliver: e.unasked}) != nil {
		return false
	}
	if s, ok := refused.(interface{ Granted() []*jsonrpc.Message }); ok {
		for _, m := range s.Granted() { // in vain or not: the host cannot be told
			_ = r.Do(ctx, transport.Call{Message: m, Deliver: func(*jsonrpc.Message) error { return nil }})
		}
	}
	return true
}

// enter lets one caller at a time look for the era.
func (e *eras) enter(ctx context.Context) bool {
	select {
	case e.sole <- struct{}{}:
		return true
	case <-ctx.Done():
		return false
	}
}

func (e *eras) exit() { <-e.sole }
