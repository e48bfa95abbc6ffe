package bridge

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/mcp-clerk/mcp-clerk/internal/jsonrpc"
	"github.com/mcp-clerk/mcp-clerk/internal/transport"
)

// handshake is the host's initialize. Usually it is relayed and the server's
// answer with it. When that takes longer than InitializeWait, because a person
// has to sign in first, the host is answered in the server's place and promised
// everything; lists are empty then, other requests wait; and when the server
// has answered too, the host is told to ask for the lists again.
type handshake struct {
	b *bridge
	p *pending

	ready  signal // the host takes requests
	open   signal // the server's session is open
	early  signal // the host has been answered in the server's place
	failed signal // it failed, and the host has the error

	mu           sync.Mutex
	taken        bool // the host is answered in the server's place
	attempt      *attempt
	capabilities json.RawMessage // the server's
}

// signal is an event that happens at most once.
type signal struct {
	c    chan struct{}
	once *sync.Once
}

func newSignal() signal { return signal{make(chan struct{}), new(sync.Once)} }

func (s signal) set() { s.once.Do(func() { close(s.c) }) }

func (s signal) isSet() bool {
	select {
	case <-s.c:
		return true
	default:
		return false
	}
}

// attempt is one initialize request on its way to the server.
type attempt struct {
	done  chan struct{}
	err   error
	token string // the one at hand when it failed
}

var legacyVersions = []string{"2024-11-05", batchVersion, "2025-06-18", latestLegacy}

// initialize takes the host's initialize request.
func (b *bridge) initialize(m *jsonrpc.Message) {
	p := b.add(m, nil)
	if p == nil {
		return
	}
	hs := &handshake{b: b, p: p, ready: newSignal(), open: newSignal(), early: newSignal(), failed: newSignal()}
	b.mu.Lock()
	b.handshake = hs
	b.mu.Unlock()
	b.background(func() {
		defer p.release()
		a := hs.try()
		t := time.NewTimer(b.o.InitializeWait)
		defer t.Stop()
		select {
		case <-a.done:
			if a.err != nil {
				b.fail(p, a.err)
				hs.failed.set()
			}
			return
		case <-b.life.Done():
			b.fail(p, errClosing)
			return
		case <-t.C:
		}
		if !hs.claimEarly() {
			return
		}
		b.log.Info("the server has not answered yet, answering the host in its place", "host", b.host)
		b.reply(nil, hs.promise())
		hs.early.set()
		b.finish(p)
		select {
		case <-a.done: // it failed at this very moment
			if a.err != nil {
				hs.tryAgain(a)
			}
		default:
		}
	})
}

// claimEarly claims the host's request in the server's place.
func (hs *handshake) claimEarly() bool {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	hs.taken = hs.b.claim(hs.p)
	return hs.taken
}

// inPlace reports whether the host is answered in the server's place.
func (hs *handshake) inPlace() bool {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	return hs.taken
}

// claim claims the host's request for the server's answer.
func (hs *handshake) claim() bool {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	return hs.b.claim(hs.p)
}

// try starts an attempt unless one is under way or has succeeded.
func (hs *handshake) try() *attempt {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	if a := hs.attempt; a != nil {
		select {
		case <-a.done:
			if a.err == nil {
				return a
			}
		default:
			return a
		}
	}
	a := &attempt{done: make(chan struct{})}
	hs.attempt = a
	hs.b.background(func() {
		defer close(a.done)
		if a.err = hs.ask(); a.err != nil {
			a.token = hs.token()
			hs.b.log.Info("initialize failed", "error", a.err.Error())
			if hs.inPlace() {
				hs.b.background(func() { hs.tryAgain(a) })
			}
		}
	})
	return a
}

// refusedError is the server's own error to an initialize request.
type refusedError struct{ host, text string }

func (e *refusedError) Error() string {
	return fmt.Sprintf("%s refused to initialize: %s", e.host, e.text)
}

// ask sends initialize to the server. Its response goes to the host if the host
// still waits for one.
func (hs *handshake) ask() error {
	b, p := hs.b, hs.p
	// One attempt must not stand for all to come. A person may take their time.
	ctx, end := context.WithCancelCause(b.life)
	defer end(nil)
	limit := time.AfterFunc(b.o.RequestTimeout, func() {
		end(&transport.UnreachableError{Host: b.host, Err: transport.ErrSlow})
	})
	defer limit.Stop()
	authorizing := func(waiting bool) {
		p.signingIn.Store(waiting)
		if waiting {
			limit.Stop()
		} else {
			limit.Reset(b.o.RequestTimeout)
		}
	}
	var refusal error
	err := b.remote.Do(ctx, transport.Call{Message: p.m, Started: func() { p.started.Store(true) }, Authorizing: authorizing, Deliver: func(m *jsonrpc.Message) error {
		if !m.IsResponse() || jsonrpc.IDKey(m.ID) != p.key {
			return b.deliver(nil, m)
		}
		b.trace("from the server", m)
		first := hs.claim()
		if first {
			defer b.finish(p)
		}
		open := hs.failed
		if m.Error != nil {
			text, _ := jsonrpc.LookupString(m.Error, "message")
			refusal = &refusedError{b.host, text}
		} else {
			hs.opened(m, first)
			open = hs.open
		}
		// What the host has sent already goes behind its answer, whoever gives it.
		if first {
			defer open.set()
			return b.out.WriteMessage(m.Raw)
		}
		select {
		case <-hs.early.c:
		case <-b.life.Done():
		}
		if refusal == nil {
			open.set()
		}
		return nil
	}})
	if err == nil && refusal != nil && hs.inPlace() {
		err = refusal
	}
	return err
}

// opened notes the server's result; relayed tells whether the host gets it.
func (hs *handshake) opened(m *jsonrpc.Message, relayed bool) {
	hs.mu.Lock()
	hs.capabilities, _ = jsonrpc.Lookup(m.Result, "capabilities")
	hs.mu.Unlock()
	if len(m.Result) <= maxKept && !hs.b.spool.Holds(m.Raw) {
		hs.b.memory.initialized(slices.Clone(m.Result))
	}
	if relayed {
		version, _ := jsonrpc.LookupString(m.Result, "protocolVersion")
		hs.b.mu.Lock()
		hs.b.version = version
		hs.b.mu.Unlock()
	}
}

// tryAgain goes on, for as long as the host lives, after an attempt failed that
// the host does not know of: when the network is back, or when somebody has
// signed in by another way. It never starts a sign-in.
func (hs *handshake) tryAgain(failed *attempt) {
	b := hs.b
	if _, ok := errors.AsType[*refusedError](failed.err); ok {
		return
	}
	_, needsSignIn := errors.AsType[*transport.AuthError](failed.err)
	wait := 2 * time.Second
	for {
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-b.life.Done():
			t.Stop()
			return
		}
		hs.mu.Lock()
		current := hs.attempt == failed
		hs.mu.Unlock()
		if !current {
			return
		}
		if now := hs.token(); !needsSignIn || now != "" && now != failed.token {
			hs.try()
			return
		}
		wait = min(wait*2, 10*time.Second)
	}
}

func (hs *handshake) token() string {
	if hs.b.o.Authorizer == nil {
		return ""
	}
	t, err := hs.b.o.Authorizer.Token(hs.b.life)
	if err != nil {
		return ""
	}
	return t
}

// wait waits until messages can go to the server, and reports false when ctx
// ended first.
func (hs *handshake) wait(ctx context.Context) bool {
	select {
	case <-hs.open.c:
		return true
	case <-hs.failed.c:
		return true
	case <-ctx.Done():
		return false
	}
}

// answeredByHandshake holds p until it can go to the server. It reports true
// when p needs to go no more: it was answered here.
func (b *bridge) answeredByHandshake(p *pending, hs *handshake) bool {
	select {
	case <-hs.open.c:
	case <-hs.failed.c: // let the server say what it thinks of the request
		return false
	case <-p.ctx.Done():
		b.fail(p, context.Cause(p.ctx))
		return true
	case <-hs.early.c:
		if !hs.open.isSet() {
			if result, ok := emptyResults[p.m.Method]; ok {
				b.answer(p, jsonrpc.NewResult(p.m.ID, json.RawMessage(result)))
				return true
			}
			if err := hs.await(p); err != nil {
				b.fail(p, err)
				return true
			}
		}
	}
	if !hs.early.isSet() {
		return false
	}
	raw := hs.broken(p.m)
	if raw == nil {
		return false
	}
	b.answer(p, raw)
	return true
}

// await waits for the server's session as long as p may wait for a sign-in.
func (hs *handshake) await(p *pending) error {
	p.authorizing(true)
	defer p.authorizing(false)
	a := hs.try()
	select {
	case <-a.done:
		return a.err
	case <-p.ctx.Done():
		return context.Cause(p.ctx)
	}
}

// emptyResults are the answers given while the server cannot be asked.
var emptyResults = map[string]string{
	"ping":                     `{}`,
	"tools/list":               `{"tools":[]}`,
	"prompts/list":             `{"prompts":[]}`,
	"resources/list":           `{"resources":[]}`,
	"resources/templates/list": `{"resourceTemplates":[]}`,
}

// promised are the capabilities the host is told of in the place of a server
// that was never asked before.
const promised = `{"logging":{},"completions":{},"prompts":{"listChanged":true},"resources":{"subscribe":true,"listChanged":true},"tools":{"listChanged":true}}`

// kept returns what the server said of itself last time. Its lists are promised
// to change, because they do as soon as it answers.
func (hs *handshake) kept() (capabilities map[string]json.RawMessage, info json.RawMessage, instructions string) {
	var last struct {
		Capabilities map[string]json.RawMessage `json:"capabilities"`
		Info         json.RawMessage            `json:"serverInfo"`
		Instructions string                     `json:"instructions"`
	}
	if json.Unmarshal(hs.b.memory.initialize(), &last) != nil || last.Capabilities == nil || last.Info == nil {
		return nil, nil, ""
	}
	for _, list := range []string{"tools", "prompts", "resources"} {
		if raw, ok := last.Capabilities[list]; ok {
			var members map[string]json.RawMessage
			if json.Unmarshal(raw, &members) != nil || members == nil {
				members = map[string]json.RawMessage{}
			}
			members["listChanged"] = json.RawMessage("true")
			if changing, err := json.Marshal(members); err == nil {
				last.Capabilities[list] = changing
			}
		}
	}
	return last.Capabilities, last.Info, last.Instructions
}

// promise builds the initialize result given in the server's place.
func (hs *handshake) promise() []byte {
	b := hs.b
	version, _ := jsonrpc.LookupString(hs.p.m.Params, "protocolVersion")
	if !slices.Contains(legacyVersions, version) {
		version = latestLegacy
	}
	b.mu.Lock()
	b.version = version
	b.mu.Unlock()
	how := "run `" + b.o.LoginCommand + "`"
	if url := b.o.SignInURL(); url != "" {
		how = "open " + url + " in a browser, or " + how
	}
	result := struct {
		ProtocolVersion string `json:"protocolVersion"`
		Capabilities    any    `json:"capabilities"`
		ServerInfo      any    `json:"serverInfo"`
		Instructions    string `json:"instructions"`
	}{
		version, json.RawMessage(promised),
		map[string]string{"name": b.o.Name, "version": b.o.Version},
		"The server " + b.host + " has not answered yet. If it waits for a sign-in: " + how + ". Its tools appear when that is done.",
	}
	if capabilities, info, instructions := hs.kept(); capabilities != nil {
		result.Capabilities, result.ServerInfo = capabilities, info
		if instructions != "" {
			result.Instructions += "\n\n" + instructions
		}
	}
	return jsonrpc.NewResult(hs.p.m.ID, result)
}

// needs names, by method, the capability a request rests on.
var needs = map[string][]string{
	"tools/list": {"tools"}, "tools/call": {"tools"},
	"prompts/list": {"prompts"}, "prompts/get": {"prompts"},
	"resources/list": {"resources"}, "resources/templates/list": {"resources"}, "resources/read": {"resources"},
	"resources/subscribe": {"resources", "subscribe"}, "resources/unsubscribe": {"resources", "subscribe"},
	"completion/complete": {"completions"}, "logging/setLevel": {"logging"},
}

// broken answers a request for something that was promised and that the server
// does not have; it returns nil for what the server can answer.
func (hs *handshake) broken(m *jsonrpc.Message) []byte {
	path := needs[m.Method]
	if path == nil {
		return nil
	}
	hs.mu.Lock()
	v, ok := jsonrpc.Lookup(hs.capabilities, path...)
	hs.mu.Unlock()
	if ok && string(v) != "false" && string(v) != "null" {
		return nil
	}
	if result, ok := emptyResults[m.Method]; ok {
		return jsonrpc.NewResult(m.ID, json.RawMessage(result))
	}
	return jsonrpc.NewError(m.ID, jsonrpc.CodeMethodNotFound, "the server has no "+strings.Join(path, " "), local{From: hs.b.o.Name})
}

// announce tells a host that was answered in the server's place to ask for the
// lists again, once the session is open and initialized.
func (b *bridge) announce(hs *handshake) {
	b.signInDone()
	if !hs.early.isSet() || !hs.open.isSet() {
		return
	}
	for _, list := range []string{"tools", "prompts", "resources"} {
		if err := b.out.WriteMessage(jsonrpc.NewNotification("notifications/"+list+"/list_changed", nil)); err != nil {
			return
		}
	}
}
