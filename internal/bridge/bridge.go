// Package bridge connects one stdio host with one remote MCP server. It pairs
// requests with responses in both directions, owns the host's initialize, waits
// for sign-ins on the host's behalf, and says in JSON-RPC what went wrong.
// Messages pass byte for byte, unless host and server are of different eras.
//
// It may import jsonrpc, era and transport. Its one invariant: every request of
// the host gets exactly one response, a cancelled one at most one and none after
// its cancellation was passed on; and nothing but JSON-RPC reaches stdout.
package bridge

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/mcp-clerk/mcp-clerk/internal/jsonrpc"
	"github.com/mcp-clerk/mcp-clerk/internal/transport"
)

// Options configure a bridge. The zero value of each duration means its default.
type Options struct {
	// Stdin and Stdout are the host's pipe. If Stdin has SetReadDeadline, as an
	// os.File has, Run uses it to end the read that is under way when it returns.
	Stdin  io.Reader
	Stdout io.Writer
	// URL is the server's MCP endpoint.
	URL string
	// HTTPClient, Header and MaxMessage are those of transport.Options.
	HTTPClient *http.Client
	Header     http.Header
	MaxMessage int
	// Authorizer supplies bearer tokens; nil sends none.
	Authorizer transport.Authorizer
	// SignInURL returns the page where a sign-in that is under way waits for the
	// person, or "". Nil stands for a func that returns "".
	SignInURL func() string
	// SignIns delivers the URL of each sign-in when it begins, to be shown by a
	// host that can. Nil: none is.
	SignIns <-chan string
	// Recall returns what Remember was last given for this server, or nil: what
	// the server said of itself, for a host that must be answered in its place,
	// and the only way in which it speaks, if it was found to have only one. That
	// is no secret. Both may be nil.
	Recall   func() []byte
	Remember func(data []byte)
	// LoginCommand is what a person runs to sign in, named in errors.
	LoginCommand string
	// Name and Version are how the bridge calls itself where it answers in the
	// server's place, and in the User-Agent header.
	Name, Version string
	// InitializeWait is how long the host's initialize waits for the server
	// before it is answered in its place (default 25 s: hosts give up at 30 s).
	InitializeWait time.Duration
	// SignInWait is how long a request waits for a sign-in (default 50 s: hosts
	// give up on a request at 60 s).
	SignInWait time.Duration
	// RequestTimeout is how long a request may go without any message from the
	// server that belongs to it (default 10 min).
	RequestTimeout time.Duration
	// Strategy is which transports are tried, in which order.
	Strategy Strategy
	// Filter says which tools the host may see and call.
	Filter Filter
	// PingInterval, if not 0, is how often a session that is open is kept alive
	// by a ping of the bridge's own.
	PingInterval time.Duration
	// BodyTimeout is that of transport.Options.
	BodyTimeout time.Duration
	// Dump asks for the state of the bridge, which is written to DumpTo.
	Dump   <-chan os.Signal
	DumpTo io.Writer
	// Note tells the person what they would otherwise look for in vain, in a line
	// that quotes names as the server gave them. Nil: nobody is told.
	Note func(text string)
	// Log takes what happened, without secrets; nil drops it.
	Log *slog.Logger
}

const (
	maxPending       = 10_000                  // requests of the host in flight
	maxAsked         = 1_000                   // requests of the server in flight
	maxNotes         = 10_000                  // notifications waiting to be sent
	orderWait        = 5 * time.Second         // for the notification before to be accepted
	noteTimeout      = time.Minute             // for a notification or a response to be accepted
	tellTimeout      = 5 * time.Second         // for a cancellation to be accepted
	steadyTime       = 10 * time.Second        // of a subscription stream that is no failure: proxies cut quiet ones
	drainTime        = 800 * time.Millisecond  // for answers still due when stdin has ended
	cancelTime       = 300 * time.Millisecond  // for telling the server what is cancelled at the end
	exitTime         = 1700 * time.Millisecond // for all of it
	relayDepth       = 1000                    // nesting of a message that only passes
	cancelAtOnce     = 16                      // cancellations sent at a time at the end
	batchVersion     = "2025-03-26"            // the only revision with batches
	latestLegacy     = "2025-11-25"
	methodCancelled  = "notifications/cancelled"
	methodReady      = "notifications/initialized"
	methodInitialize = "initialize"
	methodListen     = "subscriptions/listen"
	methodDiscover   = "server/discover"
)

var (
	errClosing   = errors.New("the bridge is closing")
	errCancelled = errors.New("cancelled by the host")
	errAnswered  = errors.New("already answered")
	errTimeout   = errors.New("timed out")
	errSignIn    = errors.New("waited for the sign-in")
)

// remote is the server as the host sees it: it takes and delivers messages of
// the host's own era. Its methods are those of transport.Session.
type remote interface {
	Do(ctx context.Context, call transport.Call) error
	Close(ctx context.Context)
}

type bridge struct {
	o      Options
	log    *slog.Logger
	host   string
	out    *transport.Writer
	spool  *transport.Spool
	remote remote
	memory *memory
	life   context.Context //nolint:containedctx // Run's own, with its end as the cause
	end    context.CancelCauseFunc
	wg     sync.WaitGroup

	// order is closed when the last notification read has been accepted: later
	// messages do not overtake it. Only the reading goroutine uses the field.
	order chan struct{}

	mu        sync.Mutex
	pending   map[string]*pending
	held      map[string]chan struct{} // ids that may not be used again yet
	asked     map[string]struct{}
	handshake *handshake
	version   string // negotiated with the host by initialize
	active    int    // what an end of stdin waits for
	notes     int
	eof       bool
	offered   offered
	closed    bool
	drained   chan struct{}
}

// Run relays until stdin ends, the host stops reading stdout, or ctx ends. It
// returns nil in the first two cases and ctx's cause in the third, within 2 s;
// requests in flight are cancelled then and the server's session is ended. It
// reads stdin from the first byte and sends nothing that the host did not ask for.
func Run(ctx context.Context, o Options) error {
	b, client, err := newBridge(o)
	if err != nil {
		return err
	}
	if b.o.SignIns != nil {
		b.background(b.offerSignIns)
	}
	var ended error // readAll's, behind the closing of read
	read := make(chan struct{})
	go func() {
		defer close(read)
		ended = b.readAll()
	}()
	b.background(b.dumps)
	b.background(b.keepAlive)
	var result error
	var deadline time.Time
	select {
	case <-read:
		deadline = time.Now().Add(exitTime)
		b.log.Debug("stdin ended", "error", fmt.Sprint(ended))
		b.drain(ctx)
	case <-ctx.Done():
		result = context.Cause(ctx)
		b.log.Debug("asked to end", "cause", result.Error())
	case <-b.out.Broken():
		b.log.Debug("the host has stopped reading")
	}
	if deadline.IsZero() {
		deadline = time.Now().Add(exitTime)
	}
	b.close(client, deadline)
	if d, ok := b.o.Stdin.(interface{ SetReadDeadline(time.Time) error }); ok && d.SetReadDeadline(time.Unix(1, 0)) == nil {
		select {
		case <-read:
		case <-time.After(cancelTime):
		}
	}
	return result
}

func newBridge(o Options) (*bridge, *transport.Client, error) {
	if o.SignInURL == nil {
		o.SignInURL = func() string { return "" }
	}
	if o.Name == "" {
		o.Name = "mcp-clerk"
	}
	if o.Version == "" {
		o.Version = "devel"
	}
	if o.LoginCommand == "" {
		o.LoginCommand = "mcp-clerk login " + o.URL
	}
	if o.InitializeWait <= 0 {
		o.InitializeWait = 25 * time.Second
	}
	if o.SignInWait <= 0 {
		o.SignInWait = 50 * time.Second
	}
	if o.RequestTimeout <= 0 {
		o.RequestTimeout = 10 * time.Minute
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	spool := transport.NewSpool("")
	client, err := transport.NewClient(transport.Options{
		URL: o.URL, HTTPClient: o.HTTPClient, Authorizer: o.Authorizer, Header: o.Header,
		UserAgent: o.Name + "/" + o.Version, MaxMessage: o.MaxMessage, Spool: spool, BodyTimeout: o.BodyTimeout, Log: o.Log,
	})
	if err != nil {
		return nil, nil, err
	}
	b := &bridge{
		o: o, log: o.Log, host: client.Host(), spool: spool, out: transport.NewWriter(o.Stdout, spool),
		pending: map[string]*pending{}, held: map[string]chan struct{}{}, asked: map[string]struct{}{}, drained: make(chan struct{}),
	}
	b.life, b.end = context.WithCancelCause(context.Background())
	b.memory = newMemory(b)
	b.remote = newEras(b, client)
	return b, client, nil
}

// readAll reads the host's messages to the end of stdin.
func (b *bridge) readAll() error {
	r := transport.NewReader(b.o.Stdin, b.o.MaxMessage, b.spool)
	for {
		raw, err := r.Read()
		if skipped, ok := errors.AsType[*transport.SkippedError](err); ok {
			b.skipped(skipped)
			continue
		}
		if err != nil {
			return err
		}
		if b.life.Err() != nil {
			return errClosing
		}
		if jsonrpc.IsBatch(raw) {
			b.readBatch(raw)
			continue
		}
		b.read(raw, nil)
	}
}

// read takes one message of the host, part of a batch or not.
func (b *bridge) read(raw []byte, of *batch) {
	m, err := jsonrpc.Parse(raw, jsonrpc.Limits{MaxDepth: relayDepth})
	if err != nil {
		b.spool.Release(raw)
		e, _ := errors.AsType[*jsonrpc.Error](err)
		b.reply(of, jsonrpc.NewError(e.ID, e.Code, e.Message, nil))
		return
	}
	b.trace("from the host", m)
	switch m.Method {
	case methodInitialize, methodReady, methodCancelled: // kept for longer than this message is dealt with
		m, err = b.loaded(m)
	}
	switch {
	case err != nil:
		b.log.Warn("message from the host dropped", "method", m.Method, "error", err.Error())
	case m.IsResponse():
		b.response(m)
	case m.IsNotification():
		b.notification(m)
	case m.Method == methodInitialize && of == nil:
		b.initialize(m)
	case m.Method == methodInitialize:
		b.reply(of, jsonrpc.NewError(m.ID, jsonrpc.CodeInvalidRequest, "initialize must not be part of a batch", nil))
	default:
		b.request(m, of)
	}
}

// trace notes that a message passes, nothing of what it says.
func (b *bridge) trace(where string, m *jsonrpc.Message) {
	if b.log.Enabled(b.life, slog.LevelDebug) {
		b.log.Debug(where, "method", m.Method, "id", shorten(m.ID), "error", m.Error != nil, "bytes", len(m.Raw))
	}
}

// loaded returns m with all of its bytes in memory.
func (b *bridge) loaded(m *jsonrpc.Message) (*jsonrpc.Message, error) {
	if !b.spool.Holds(m.Raw) {
		return m, nil
	}
	defer b.spool.Release(m.Raw)
	raw, err := b.spool.Load(m.Raw)
	if err != nil {
		return m, err
	}
	return jsonrpc.Parse(raw, jsonrpc.Limits{MaxDepth: relayDepth})
}

// skipped answers a message that could not be read.
func (b *bridge) skipped(e *transport.SkippedError) {
	b.log.Warn("message from the host dropped", "error", e.Error())
	if e.Request || e.ID == nil {
		b.reply(nil, jsonrpc.NewError(e.ID, e.Code, e.Error(), local{From: b.o.Name}))
		return
	}
	// The host's answer to the server: the server must not wait for it.
	raw := jsonrpc.NewError(e.ID, jsonrpc.CodeInternal, "the response could not be taken: "+e.Error(), local{From: b.o.Name})
	if m, err := jsonrpc.Parse(raw, jsonrpc.Limits{}); err == nil {
		b.response(m)
	}
}

// reply writes what answers the host, or adds it to the batch it belongs to.
func (b *bridge) reply(of *batch, raw []byte) {
	if of != nil {
		of.add(raw)
		return
	}
	if err := b.out.WriteMessage(raw); err != nil {
		b.log.Debug("response not written", "error", err.Error())
	}
}

// response passes the host's answer on to the server that asked.
func (b *bridge) response(m *jsonrpc.Message) {
	b.mu.Lock()
	key, ok := b.askedFor(m.ID)
	delete(b.asked, key)
	if ok {
		b.active++
	}
	b.mu.Unlock()
	if ok && key != jsonrpc.IDKey(m.ID) {
		if whole, err := b.loaded(m); err == nil { // else sending it fails for the same reason
			m = parsed(jsonrpc.ReplaceID(whole, json.RawMessage(key)))
		}
	}
	if !ok {
		b.spool.Release(m.Raw)
		b.log.Debug("dropped a response that the server does not wait for")
		return
	}
	after := b.order
	b.background(func() {
		defer b.settled(func() {})
		defer b.spool.Release(m.Raw)
		b.inOrder(b.life, after)
		b.send(m, noteTimeout)
	})
}

// askedFor returns the request of the server that a response with this id is for.
// Hosts that read ids as floating-point numbers give back 9007199254740992 for
// ...993; 1 and "1" are two ids all the same. The caller holds the lock.
func (b *bridge) askedFor(id json.RawMessage) (key string, ok bool) {
	if _, ok := b.asked[jsonrpc.IDKey(id)]; ok || id == nil || string(id) == "null" {
		return jsonrpc.IDKey(id), ok
	}
	for asked := range b.asked {
		if (asked[0] == '"') == (id[0] == '"') && transport.SameID(id, json.RawMessage(asked)) {
			if ok { // it could be for either
				return "", false
			}
			key, ok = asked, true
		}
	}
	return key, ok
}

// notification passes one on, in the order they were read. It waits until the
// session is open.
func (b *bridge) notification(m *jsonrpc.Message) {
	if m.Method == methodCancelled {
		b.cancel(m)
		return
	}
	if err := b.o.Filter.refuses(m); err != nil { // a server may execute it all the same
		b.spool.Release(m.Raw)
		b.log.Warn("dropped a notification", "method", m.Method, "error", err.Error())
		return
	}
	b.mu.Lock()
	full := b.notes >= maxNotes
	if !full {
		b.notes++
		b.active++
	}
	hs := b.handshake
	b.mu.Unlock()
	if full {
		b.spool.Release(m.Raw)
		b.log.Warn("dropped a notification: too many are waiting", "method", m.Method)
		return
	}
	after, done := b.order, make(chan struct{})
	b.order = done
	b.background(func() {
		defer b.settled(func() { b.notes-- })
		defer b.spool.Release(m.Raw)
		defer close(done)
		if hs != nil && m.Method == methodReady {
			hs.ready.set()
		}
		if hs != nil && !hs.wait(b.life) {
			return
		}
		b.inOrder(b.life, after)
		b.send(m, noteTimeout)
		if hs != nil && m.Method == methodReady {
			b.announce(hs)
		}
	})
}

// send passes on a message that nobody answers.
func (b *bridge) send(m *jsonrpc.Message, limit time.Duration) {
	ctx, cancel := context.WithTimeout(b.life, limit)
	defer cancel()
	err := b.remote.Do(ctx, transport.Call{Message: m, Deliver: func(m *jsonrpc.Message) error { return b.deliver(nil, m) }})
	if err != nil {
		b.log.Warn("message not accepted by the server", "method", m.Method, "error", err.Error())
	}
}

// inOrder waits for the notification read before, though not for ever.
func (b *bridge) inOrder(ctx context.Context, after chan struct{}) {
	if after == nil {
		return
	}
	select {
	case <-after:
		return
	default:
	}
	t := time.NewTimer(orderWait)
	defer t.Stop()
	select {
	case <-after:
	case <-t.C:
	case <-ctx.Done():
	}
}

// background runs f as a goroutine that the end of the bridge waits for. Once
// that wait has begun it runs nothing and returns false.
func (b *bridge) background(f func()) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return false
	}
	b.wg.Go(f)
	return true
}

// settled counts down what an end of stdin waits for; f runs under the lock.
func (b *bridge) settled(f func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	f()
	b.active--
	b.checkDrained()
}

func (b *bridge) checkDrained() {
	if b.eof && b.active == 0 {
		b.eof = false
		close(b.drained)
	}
}

// drain gives what is in flight a moment to be answered: a host that writes its
// requests and closes the pipe still wants to read the responses.
func (b *bridge) drain(ctx context.Context) {
	b.mu.Lock()
	b.eof = true
	b.checkDrained()
	b.mu.Unlock()
	t := time.NewTimer(drainTime)
	defer t.Stop()
	select {
	case <-b.drained:
	case <-t.C:
	case <-ctx.Done():
	case <-b.out.Broken():
	}
}

// close cancels what is in flight, ends the session and waits for all of it,
// at most until the deadline. A host that does not read any more can keep a
// goroutine in its write to stdout; that one is left behind.
func (b *bridge) close(client *transport.Client, deadline time.Time) {
	b.cancelAll()
	b.end(errClosing)
	ctx, cancel := context.WithDeadline(context.Background(), deadline)
	defer cancel()
	b.remote.Close(ctx)
	client.Close(ctx)
	b.mu.Lock()
	b.closed = true
	b.mu.Unlock()
	done := make(chan struct{})
	go func() {
		b.wg.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-ctx.Done():
	}
	b.spool.Close()
}

// local marks an error as the bridge's own, not the server's.
type local struct {
	From string `json:"from"`
	// URL is where the person can sign in.
	URL string `json:"url,omitempty"`
}

// explain words an error for the host: what happened and what to do next.
func (b *bridge) explain(method string, err error) (string, local) {
	data := local{From: b.o.Name}
	text := err.Error()
	auth, isAuth := errors.AsType[*transport.AuthError](err)
	_, unreachable := errors.AsType[*transport.UnreachableError](err)
	status, _ := errors.AsType[*transport.StatusError](err)
	switch {
	case errors.Is(err, errSignIn) || isAuth:
		data.URL = b.o.SignInURL()
		switch {
		case isAuth:
			text = auth.Error()
		case data.URL != "":
			text = "not signed in to " + b.host
		default:
			text = b.host + " does not answer yet, or waits for a sign-in"
		}
		if data.URL != "" {
			text += "; open " + data.URL + " in a browser, or"
		} else {
			text += ";"
		}
		text += " run `" + b.o.LoginCommand + "`, then try again"
	case errors.Is(err, errTimeout):
		text = fmt.Sprintf("%s did not respond to %s within %s", b.host, method, b.o.RequestTimeout)
	case unreachable:
		text += "; nothing was sent: check the URL and the network, then try again"
	case status != nil && (status.Status < 300 || status.Status == http.StatusNotFound || status.Status == http.StatusMethodNotAllowed):
		text += "; check that the URL is the server's MCP endpoint"
	case status != nil && status.Status >= 500:
		text += "; try again later"
	}
	return text, data
}

// failure is the response to a request that the bridge has to answer itself.
func (b *bridge) failure(id json.RawMessage, method string, err error) []byte {
	text, data := b.explain(method, err)
	return jsonrpc.NewError(id, jsonrpc.CodeInternal, text, data)
}
