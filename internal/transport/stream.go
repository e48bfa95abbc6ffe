package transport

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/mcp-clerk/mcp-clerk/internal/jsonrpc"
)

const (
	// maxEvents is the most events one call's stream may have.
	maxEvents = 250_000
	// drainTime is how long a stream is read on behind the response.
	drainTime = time.Second
	// resumeBudget is how long a dropped stream is tried to be resumed without
	// one success.
	resumeBudget = 1800 * time.Millisecond
	// maxEventID is the longest event id that is sent back, in bytes.
	maxEventID = 4 << 10
	// defaultRetry is the wait before a stream that ended without news is asked
	// for again, where the server named none.
	defaultRetry = time.Second
)

// stream is what one event stream has shown so far.
type stream struct {
	lastID   string
	retry    time.Duration // negative: none named
	events   int
	messages int // of the last connection
}

// fatalError ends a call at once: the stream must not be resumed.
type fatalError struct{ error }

func (e fatalError) Unwrap() error { return e.error }

// Do sends one message without a session and delivers what comes back on its
// stream. For a request it returns nil after the response has been delivered,
// exactly once; for any other message, when the server has accepted it. Errors
// are the context's cause, *UnreachableError, *AuthError, *StatusError,
// *LostError, or what Deliver returned.
func (c *Client) Do(ctx context.Context, call Call) error {
	h := http.Header{}
	if version, ok := modernVersion(call.Message); ok {
		modernHeader(h, call.Message, version)
	}
	resp, err := c.post(ctx, &call, h)
	if err != nil {
		return err
	}
	return c.receive(ctx, resp, &call, nil)
}

// post sends call's message; header is completed with what every POST has.
func (c *Client) post(ctx context.Context, call *Call, header http.Header) (*http.Response, error) {
	header.Set("Content-Type", "application/json")
	header.Set("Accept", "application/json, text/event-stream")
	for k, v := range call.Header {
		header[k] = v
	}
	authorizing := call.Authorizing
	if authorizing == nil {
		authorizing = func(bool) {}
	}
	if call.Quiet {
		authorizing = nil
	}
	return c.send(ctx, exchange{
		method: http.MethodPost, header: header, body: call.Message.Raw,
		started: call.started, authorizing: authorizing,
		retry503: call.Message.Method != "tools/call", dial: dialBudget,
	})
}

// receive deals with the answer to a POST. resume asks for the rest of a
// dropped stream; nil where streams cannot be resumed.
func (c *Client) receive(ctx context.Context, resp *http.Response, call *Call, resume func(context.Context, string) (*http.Response, error)) error {
	defer func() { _ = resp.Body.Close() }()
	isRequest := call.Message.IsRequest()
	switch kind := mediaType(resp); {
	case resp.StatusCode < 200 || resp.StatusCode > 299:
		body, err := io.ReadAll(io.LimitReader(resp.Body, maxErrorBody))
		if err != nil {
			return c.statusError(resp, "the answer broke off")
		}
		return c.refusal(resp, body, call)
	case !isRequest && kind != "text/event-stream":
		discard(resp)
		return nil
	case resp.StatusCode == http.StatusOK && kind == "application/json":
		return c.single(ctx, resp, call)
	case resp.StatusCode == http.StatusOK && kind == "text/event-stream":
		if !isRequest {
			// Accepted; what little may come on this stream is not waited for long.
			defer time.AfterFunc(drainTime, func() { _ = resp.Body.Close() }).Stop()
			_, err := c.readStream(resp, call, &stream{retry: -1})
			if _, ok := errors.AsType[fatalError](err); ok {
				return err
			}
			return nil
		}
		return c.stream(ctx, resp, call, resume)
	case resp.StatusCode == http.StatusOK:
		return c.statusError(resp, fmt.Sprintf("the content type is %q, not JSON or an event stream", plain(resp.Header.Get("Content-Type"), 60)))
	default:
		return c.statusError(resp, "no response to the request")
	}
}

// single delivers a response that came as one JSON body.
func (c *Client) single(ctx context.Context, resp *http.Response, call *Call) error {
	body, err := c.readBody(resp)
	if _, ok := errors.AsType[*jsonrpc.Error](err); err != nil && !ok {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return c.statusError(resp, err.Error())
	}
	defer c.spool.Release(body)
	var messages []*jsonrpc.Message
	if err == nil {
		messages, err = parse(body)
	}
	if err != nil {
		return c.statusError(resp, "the body is no JSON-RPC message: "+plain(err.Error(), 120))
	}
	answer := -1
	for i, m := range messages {
		m, own := claim(m, call.Message)
		if own && answer < 0 {
			messages[i], answer = m, i
		}
	}
	if answer < 0 {
		return c.statusError(resp, "the body answers another request")
	}
	for i, m := range messages {
		if m.IsResponse() && i != answer {
			continue
		}
		if err := call.deliver(m); err != nil {
			return err
		}
	}
	return nil
}

// stream reads an event stream to the response, over as many connections as
// it takes where it can be resumed.
func (c *Client) stream(ctx context.Context, resp *http.Response, call *Call, resume func(context.Context, string) (*http.Response, error)) error {
	st := &stream{retry: -1}
	for {
		answered, err := c.readStream(resp, call, st)
		_ = resp.Body.Close()
		switch fatal, ok := errors.AsType[fatalError](err); {
		case answered:
			return nil
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case ok:
			return fatal.error
		case resume == nil || st.lastID == "":
			return &LostError{Host: c.Host(), Err: err}
		}
		if resp, err = c.resumed(ctx, st, resume, err); err != nil {
			return err
		}
	}
}

// resumed asks for the rest of a stream that was dropped with the error cause:
// after the time the server named, and if it cannot be reached then, again for
// as long as resumeBudget lasts from the drop.
func (c *Client) resumed(ctx context.Context, st *stream, resume func(context.Context, string) (*http.Response, error), cause error) (*http.Response, error) {
	dropped := time.Now()
	wait := max(st.retry, 0)
	if st.messages == 0 { // a stream without news must not make this loop spin
		wait = defaultRetry
		if st.retry >= 0 {
			wait = max(st.retry, 50*time.Millisecond)
		}
	}
	for failures := 0; ; failures++ {
		if err := sleep(ctx, wait); err != nil {
			return nil, err
		}
		c.log.Debug("resuming a dropped stream", "host", c.Host(), "failures", failures)
		resp, err := resume(ctx, st.lastID)
		if err == nil {
			return resp, nil
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		wait = backoff(failures, 200*time.Millisecond, time.Second)
		if _, ok := errors.AsType[*UnreachableError](err); !ok || time.Since(dropped)+wait > resumeBudget {
			return nil, &LostError{Host: c.Host(), Err: fmt.Errorf("%w; resuming failed: %w", cause, err)}
		}
	}
}

// readStream delivers the messages of one connection until the response (it
// then reads on for a moment, so that the connection can be kept) or its end.
// The error is a fatalError where the call cannot go on.
func (c *Client) readStream(resp *http.Response, call *Call, st *stream) (answered bool, err error) {
	st.messages = 0
	var timer *time.Timer
	bounded := call.Message.IsRequest() && call.Message.Method != "subscriptions/listen"
	r := NewEventReader(resp.Body, c.max, c.spool)
	for {
		ev, err := r.Next()
		if err != nil {
			if errors.Is(err, errEventTooLarge) || errors.Is(err, errKeep) {
				err = fatalError{c.statusError(resp, err.Error())}
			}
			return answered, err
		}
		st.saw(ev)
		if st.events > maxEvents && !answered && bounded {
			return false, fatalError{c.statusError(resp, fmt.Sprintf("more than %d events in one stream", maxEvents))}
		}
		answered, err = c.deliverEvent(ev, call, answered)
		if answered && timer == nil {
			timer = time.AfterFunc(drainTime, func() { _ = resp.Body.Close() })
			defer timer.Stop()
		}
		if err != nil {
			return answered, fatalError{err}
		}
	}
}

// deliverEvent delivers the messages of one event, the response to the call
// only once, and reports whether it has been.
func (c *Client) deliverEvent(ev Event, call *Call, answered bool) (bool, error) {
	defer c.spool.Release(ev.Data)
	for _, m := range c.messages(ev) {
		m, own := claim(m, call.Message)
		if own && answered {
			continue
		}
		if err := call.deliver(m); err != nil {
			return answered, err
		}
		answered = answered || own
	}
	return answered, nil
}

func (st *stream) saw(ev Event) {
	st.events++
	if len(ev.Data) > 0 {
		st.messages++
	}
	if len(ev.ID) <= maxEventID && headerSafe(ev.ID) {
		st.lastID = ev.ID
	}
	if ev.Retry >= 0 {
		st.retry = ev.Retry
	}
}

// headerSafe reports whether v may stand in a header.
func headerSafe(v string) bool {
	return !strings.ContainsFunc(v, func(r rune) bool { return r < ' ' || r == 0x7f })
}

// messages returns the messages an event carries: usually one, none for an
// event that only primes or keeps alive, several for a batch (2025-03-26).
func (c *Client) messages(ev Event) []*jsonrpc.Message {
	if len(ev.Data) == 0 && ev.Bad == nil || ev.Name != "" && ev.Name != "message" {
		return nil
	}
	messages, err := []*jsonrpc.Message(nil), ev.Bad
	if err == nil {
		messages, err = parse(ev.Data)
	}
	if err != nil {
		c.log.Warn("dropped an event that is no JSON-RPC message", "host", c.Host(), "error", plain(err.Error(), 120))
	}
	return messages
}

// parse reads a message, or the messages of a batch.
func parse(raw []byte) ([]*jsonrpc.Message, error) {
	if !jsonrpc.IsBatch(raw) {
		m, err := jsonrpc.Parse(raw, relayLimits)
		if err != nil {
			return nil, err
		}
		return []*jsonrpc.Message{m}, nil
	}
	parts, err := jsonrpc.SplitBatch(raw, relayLimits)
	if err != nil {
		return nil, err
	}
	messages := make([]*jsonrpc.Message, 0, len(parts))
	for _, part := range parts {
		m, err := jsonrpc.Parse(part, relayLimits)
		if err != nil {
			return messages, err
		}
		messages = append(messages, m)
	}
	return messages, nil
}

// claim reports whether m is the response to request, and returns it under the
// request's own id. Servers that read ids as floating-point numbers or strings
// give back 9007199254740992 for ...993, or "1" for 1; an error for a message
// whose id the server did not read has the id null. On the request's own stream
// these can be told.
func claim(m, request *jsonrpc.Message) (*jsonrpc.Message, bool) {
	if !m.IsResponse() || !request.IsRequest() {
		return m, false
	}
	if string(m.ID) == string(request.ID) {
		return m, true
	}
	if !SameID(m.ID, request.ID) {
		return m, false
	}
	return withID(m, request.ID), true
}

// withID returns the response m under another id.
func withID(m *jsonrpc.Message, id json.RawMessage) *jsonrpc.Message {
	raw := jsonrpc.ReplaceID(m, id)
	if m.ID == nil { // an error without any id (2025-11-25, schema "JSONRPCErrorResponse")
		raw = append([]byte(`{"jsonrpc":"2.0","id":`), id...)
		raw = append(append(append(raw, `,"error":`...), m.Error...), '}')
	}
	out, err := jsonrpc.Parse(raw, relayLimits)
	if err != nil {
		return m
	}
	return out
}

// SameID reports whether the id got may be what somebody made of want who reads
// ids as floating-point numbers or as strings, or did not read it.
func SameID(got, want json.RawMessage) bool {
	if got == nil || string(got) == "null" {
		return true
	}
	g, w := idText(got), idText(want)
	if g == w {
		return true
	}
	a, errA := strconv.ParseFloat(g, 64)
	b, errB := strconv.ParseFloat(w, 64)
	return errA == nil && errB == nil && a == b && got[0] != '"' && want[0] != '"'
}

func idText(id json.RawMessage) string {
	if len(id) > 0 && id[0] == '"' {
		var s string
		if json.Unmarshal(id, &s) == nil {
			return s
		}
	}
	return string(id)
}

// refusal delivers the JSON-RPC error that a status other than success came
// with, under the request's id; without one it returns a *StatusError.
func (c *Client) refusal(resp *http.Response, body []byte, call *Call) error {
	m, err := jsonrpc.Parse(body, relayLimits)
	if err == nil && m.Error != nil && call.Message.IsRequest() {
		if m = withID(m, call.Message.ID); call.Refused != nil {
			return call.Refused(resp.StatusCode, m)
		}
		return call.deliver(m)
	}
	if 300 <= resp.StatusCode && resp.StatusCode <= 399 {
		to := "nowhere"
		if at, err := resp.Location(); err == nil {
			to = at.Scheme + "://" + at.Host
		}
		return c.statusError(resp, fmt.Sprintf("it redirects to %q, which is not followed", plain(to, 120)))
	}
	if err == nil && m.Error != nil {
		text, _ := jsonrpc.LookupString(m.Error, "message")
		return c.statusError(resp, plain(text, 200))
	}
	if text := plain(string(body[:min(len(body), 1000)]), 200); mediaType(resp) == "text/plain" && text != "" {
		return c.statusError(resp, text)
	}
	return c.statusError(resp, "no JSON-RPC message")
}

func (c *Client) statusError(resp *http.Response, detail string) error {
	return &StatusError{Host: c.Host(), Status: resp.StatusCode, Detail: detail}
}

// mediaType returns the answer's media type without its parameters; variants of
// JSON count as JSON.
func mediaType(resp *http.Response) string {
	kind, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if err != nil && !errors.Is(err, mime.ErrInvalidMediaParameter) {
		return ""
	}
	if strings.HasPrefix(kind, "application/") && strings.HasSuffix(kind, "+json") {
		return "application/json"
	}
	return kind
}

// readBody reads an answer of at most the client's limit, also where it was
// compressed; of a large message it returns the skeleton. Its error is a
// *jsonrpc.Error where a large body is no message.
func (c *Client) readBody(resp *http.Response) ([]byte, error) {
	tooLarge := func() error { return fmt.Errorf("the body is larger than the limit of %d bytes", c.max) }
	if resp.ContentLength > int64(c.max) {
		return nil, tooLarge()
	}
	g := gather{spool: c.spool, limit: c.max}
	if resp.ContentLength > int64(c.spool.size(c.max)) {
		if err := g.leaveMemory(); err != nil {
			g.drop()
			return nil, err
		}
	} else {
		g.mem = make([]byte, 0, min(max(resp.ContentLength, 512), 1<<20))
	}
	buf := c.buffers.Get().(*[]byte) //nolint:forcetypeassert // what New returns
	defer c.buffers.Put(buf)
	for {
		n, err := resp.Body.Read(*buf)
		part := (*buf)[:n]
		if g.n == 0 { // a parser may ignore a byte order mark (RFC 8259 section 8.1)
			part = bytes.TrimPrefix(part, []byte("\xef\xbb\xbf"))
		}
		if _, failed := g.Write(part); failed != nil {
			g.drop()
			if errors.Is(failed, errTooLarge) {
				failed = tooLarge()
			}
			return nil, failed
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			g.drop()
			return nil, fmt.Errorf("the body broke off after %d bytes", g.n)
		}
	}
	if g.n == 0 {
		return nil, errors.New("the body is empty")
	}
	return g.message()
}
