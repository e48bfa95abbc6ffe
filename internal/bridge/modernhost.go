package bridge

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/mcp-clerk/mcp-clerk/internal/era"
	"github.com/mcp-clerk/mcp-clerk/internal/jsonrpc"
	"github.com/mcp-clerk/mcp-clerk/internal/transport"
)

// doModern sends a request of a modern host, and translates for it where the
// server refuses it and is no modern one.
func (e *eras) doModern(ctx context.Context, call transport.Call, now remote) error {
	for now != remote(e.modern) {
		err := now.Do(ctx, call)
		if !changed(err) || e.b.o.Strategy == SSEOnly {
			return err
		}
		now = e.leave(now) // another request may have found the way by now
	}
	if e.doubts() {
		// It serves what it takes for requests outside of a session. In one it
		// can do all that it knows.
		if found, _ := e.look(ctx, call, errDoubtful); found != nil {
			return found.Do(ctx, call)
		}
	}
	given := call
	given.Deliver = func(m *jsonrpc.Message) error {
		if m.IsResponse() {
			e.heard(m)
		}
		return call.Deliver(m)
	}
	err := probing(ctx, e.modern, given, func(status int, m *jsonrpc.Message) bool { return e.refusedAsLegacy(call.Message, status, m) })
	_, refused := errors.AsType[*refusal](err)
	if !refused && !e.misunderstood(statusOf(err)) {
		return err
	}
	found, other := e.look(ctx, call, err)
	switch {
	case other != nil:
		return settle(call, other)
	case found == nil:
		return settle(call, err)
	}
	return found.Do(ctx, call) // it was refused before it was executed
}

var errDoubtful = errors.New("a result without resultType")

func (e *eras) doubts() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.doubtful && !e.confirmed
}

// heard notes what a response says of the server's era: a modern one has a
// resultType in every result (2026-07-28, basic/index, "Result Responses").
func (e *eras) heard(m *jsonrpc.Message) {
	e.mu.Lock()
	known := e.confirmed
	e.mu.Unlock()
	if known {
		return
	}
	_, typed := jsonrpc.Lookup(m.Result, "resultType")
	if typed || m.Error != nil && era.IsModernCode(era.ErrorCode(m.Error)) {
		e.mu.Lock()
		e.confirmed = true
		e.mu.Unlock()
		e.b.memory.speaks(onlyModern)
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if m.Result != nil && e.looked.IsZero() {
		e.doubtful = true
	}
}

// look is find, by one caller at a time.
func (e *eras) look(ctx context.Context, call transport.Call, why error) (remote, error) {
	if !e.enter(ctx) {
		return nil, context.Cause(ctx)
	}
	defer e.exit()
	return e.find(ctx, call, why)
}

// refusedAsLegacy reports whether an error shows that the server did not
// understand a modern request as one (2026-07-28, basic/versioning, "Backward
// Compatibility with Initialization-Based Versions").
func (e *eras) refusedAsLegacy(request *jsonrpc.Message, status int, m *jsonrpc.Message) bool {
	code := era.ErrorCode(m.Error)
	switch {
	case era.IsModernCode(code):
		return code == jsonrpc.CodeUnsupportedVersion && namesLegacyOnly(m)
	case request.Method == methodDiscover: // which every modern server has
		_, discovered := jsonrpc.Lookup(m.Result, "supportedVersions")
		return !discovered
	case m.Error == nil:
		return false
	case status == http.StatusOK:
		text, _ := jsonrpc.LookupString(m.Error, "message")
		text = strings.ToLower(text)
		return (code == jsonrpc.CodeInvalidRequest || -32002 <= code && code <= -32000) && (strings.Contains(text, "initializ") || strings.Contains(text, "session"))
	case code == jsonrpc.CodeMethodNotFound && status == http.StatusNotFound:
		return false
	}
	return e.misunderstood(status)
}

// misunderstood reports whether a status may come of a server that does not know
// what a modern request is (2026-07-28, basic/versioning, "Compatibility Matrix":
// any 4xx), and not of one that minds who asks, how much or how often. Of a server
// that is known to be a modern one the rarer ones are about the request.
func (e *eras) misunderstood(status int) bool {
	switch status {
	case http.StatusBadRequest, http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusNotAcceptable, http.StatusUnsupportedMediaType:
		return true
	case http.StatusUnauthorized, http.StatusPaymentRequired, http.StatusForbidden, http.StatusProxyAuthRequired,
		http.StatusRequestTimeout, http.StatusRequestEntityTooLarge, http.StatusMisdirectedRequest, http.StatusTooEarly,
		http.StatusTooManyRequests, http.StatusRequestHeaderFieldsTooLarge, http.StatusUnavailableForLegalReasons:
		return false
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	return !e.confirmed && 400 <= status && status <= 499
}

// find looks for the way to a server that refused a modern request with why. It
// returns nil if there is no other, and an error if that cannot be told, or if
// the host has to change its request first.
func (e *eras) find(ctx context.Context, call transport.Call, why error) (remote, error) {
	e.mu.Lock()
	now, known := e.forModern, e.confirmed && time.Since(e.looked) < lookAgain
	e.mu.Unlock()
	switch {
	case now != remote(e.modern):
		return now, nil
	case known:
		return nil, nil
	}
	e.b.log.Debug("the server does not take a modern request, opening a session", "answer", why.Error())
	way, t := onlySessions, e.sessions(e.dialHTTP)
	err := e.discover(ctx, call, t)
	if answered(err) && elsewhere(why) && elsewhere(err) && e.fallsBack() {
		e.retire(t)
		e.b.log.Debug("nor initialize, trying HTTP+SSE", "answer", err.Error())
		way, t = onlySSE, e.sessions(e.dialSSE)
		err = e.discover(ctx, call, t)
	}
	if err != nil {
		e.retire(t)
		if answered(err) && !away(err) {
			e.mu.Lock()
			e.looked, e.doubtful, err = time.Now(), false, nil
			e.mu.Unlock()
		}
		return nil, err
	}
	e.mu.Lock()
	closed := e.closed
	if !closed {
		e.forModern, e.confirmed = t, false
	}
	e.mu.Unlock()
	if closed {
		e.retire(t)
		return nil, errClosing
	}
	e.b.memory.found(way)
	return t, nil
}

func (e *eras) legacyOptions() era.LegacyOptions {
	return era.LegacyOptions{Name: e.b.o.Name, Version: e.b.o.Version, Server: e.client.Host(), Keep: func(m *jsonrpc.Message) *jsonrpc.Message {
		if m.IsResponse() && e.b.spool.Holds(m.Raw) { // memory is for what is small
			return parsed(e.b.failure(m.ID, "", errTooLate))
		}
		return m // of other messages the machine gets all
	}}
}

var errTooLate = errors.New("the response came while the client was asked for input, and is too large to be kept")

// discover has t open the session that call wants: the answer comes from there.
func (e *eras) discover(ctx context.Context, call transport.Call, t *translation) error {
	meta, _ := jsonrpc.Lookup(call.Message.Params, "_meta")
	request := jsonrpc.NewRequest(call.Message.ID, methodDiscover, json.RawMessage(`{"_meta":`+string(meta)+`}`))
	var refused error
	err := t.Do(ctx, transport.Call{
		Message: parsed(request), Authorizing: call.Authorizing,
		Deliver: func(m *jsonrpc.Message) error {
			if m.Error != nil {
				refused = &refusal{http.StatusBadRequest, m}
			}
			return nil
		},
	})
	if err == nil {
		err = refused
	}
	return err
}
