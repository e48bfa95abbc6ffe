package mcphttp

import (
	"bytes"
	"errors"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/mcp-clerk/mcp-clerk/internal/jsonrpc"
)

// Values of response headers, shared by all responses.
var (
	valueJSON    = []string{typeJSON}
	valueEvents  = []string{typeEvents}
	valueNoStore = []string{"no-store"}
	valueNoCache = []string{"no-store, no-transform"}
	valueNo      = []string{"no"}
	valueNosniff = []string{"nosniff"}
)

// stream is the response to one request. It is a plain JSON response when only
// the result is sent, and becomes a stream of events as soon as something goes
// out before it. Every write is done by whoever has something to say, under
// the mutex: who writes to a slow client waits for it, and nothing is queued.
type stream struct {
	keepAlive    time.Duration
	writeTimeout time.Duration
	takesJSON    bool
	takesEvents  bool

	mu     sync.Mutex
	w      http.ResponseWriter
	rc     *http.ResponseController
	begun  bool // the header of an event stream is out
	ended  bool // the response is complete
	gone   bool // the client is not there any more
	busy   bool // something was sent since the last tick
	ticker *time.Timer
}

func newStream(s *Server, w http.ResponseWriter, json, events bool) *stream {
	return &stream{
		w: w, rc: http.NewResponseController(w), takesJSON: json, takesEvents: events,
		keepAlive: s.o.KeepAlive, writeTimeout: s.o.WriteTimeout,
	}
}

// keepAwake starts the comments that keep a quiet stream from being taken for
// dead by what is between here and the client.
func (st *stream) keepAwake() {
	if !st.takesEvents {
		return
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	st.ticker = time.AfterFunc(st.keepAlive, st.tick)
}

func (st *stream) tick() {
	if !st.mu.TryLock() {
		// Somebody is writing, perhaps to a client that does not read: that is
		// no quiet stream, and no reason to wait here.
		time.AfterFunc(st.keepAlive, st.tick)
		return
	}
	defer st.mu.Unlock()
	if st.ended || st.gone {
		return
	}
	if !st.busy {
		_ = st.commentLocked() // a client that has gone is noted there
	}
	st.busy = false
	st.ticker.Reset(st.keepAlive)
}

// comment sends a line that carries nothing.
func (st *stream) comment() error {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.commentLocked()
}

func (st *stream) commentLocked() error {
	if st.ended || st.gone {
		return ErrStreamClosed
	}
	st.beginLocked()
	return st.writeLocked([]byte(": keep-alive\n\n"))
}

// begin sends the header of an event stream.
func (st *stream) begin() error {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.beginLocked()
	return st.writeLocked(nil)
}

func (st *stream) beginLocked() {
	if st.begun {
		return
	}
	st.begun = true
	h := st.w.Header()
	h["Content-Type"] = valueEvents
	h["Cache-Control"] = valueNoCache
	h["X-Accel-Buffering"] = valueNo
	h["X-Content-Type-Options"] = valueNosniff
	st.w.WriteHeader(http.StatusOK)
}

// event sends one message as an event, opening the event stream if need be.
// The only error is ErrStreamClosed.
func (st *stream) event(raw []byte) error {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.eventLocked(raw)
}

func (st *stream) eventLocked(raw []byte) error {
	if st.ended || st.gone || !st.takesEvents {
		return ErrStreamClosed
	}
	st.beginLocked()
	return st.writeEventLocked(raw)
}

func (st *stream) writeEventLocked(raw []byte) error {
	line := oneLine(raw)
	st.busy = true
	buf := make([]byte, 0, len("event: message\ndata: \n\n")+len(line))
	buf = append(buf, "event: message\ndata: "...)
	buf = append(buf, line...)
	buf = append(buf, "\n\n"...)
	return st.writeLocked(buf)
}

// writeLocked writes and flushes; a client that takes nothing for writeTimeout
// counts as gone.
func (st *stream) writeLocked(b []byte) error {
	_ = st.rc.SetWriteDeadline(time.Now().Add(st.writeTimeout)) // best effort: not every writer has one
	if len(b) > 0 {
		if _, err := st.w.Write(b); err != nil {
			st.gone = true
			return ErrStreamClosed
		}
	}
	if err := st.rc.Flush(); err != nil && !errors.Is(err, http.ErrNotSupported) {
		st.gone = true
		return ErrStreamClosed
	}
	return nil
}

// finish sends the response messages, each complete, and ends the stream. As
// plain JSON they go out under status, several as an array.
func (st *stream) finish(status int, batch bool, bodies ...[]byte) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.ended {
		return
	}
	st.stopLocked()
	if st.gone {
		return
	}
	if st.begun || status == http.StatusOK && !st.takesJSON {
		st.beginLocked()
		for _, body := range bodies {
			if st.writeEventLocked(body) != nil {
				return
			}
		}
		return
	}
	body := bodies[0]
	if batch {
		body = append(append([]byte{'['}, bytes.Join(bodies, []byte{','})...), ']')
	}
	_ = st.rc.SetWriteDeadline(time.Now().Add(st.writeTimeout))
	writeJSON(st.w, status, body)
}

// abandon ends the stream without a response: for a request that was cancelled.
func (st *stream) abandon() {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.ended {
		return
	}
	st.stopLocked()
	if !st.gone {
		st.beginLocked()
	}
}

// end ends a stream whose last event has been sent.
func (st *stream) end() {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.stopLocked()
}

func (st *stream) stopLocked() {
	st.ended = true
	if st.ticker != nil {
		st.ticker.Stop()
	}
}

// header lets set change the response headers, if they are not out.
func (st *stream) header(set func(http.Header)) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if !st.begun && !st.gone {
		set(st.w.Header())
	}
}

func writeJSON(w http.ResponseWriter, status int, body []byte) {
	h := w.Header()
	h["Content-Type"] = valueJSON
	h["Cache-Control"] = valueNoStore
	h["X-Content-Type-Options"] = valueNosniff
	h["Content-Length"] = []string{strconv.Itoa(len(body))}
	w.WriteHeader(status)
	_, _ = w.Write(body) // the client may be gone; net/http then closes the connection
}

// oneLine returns raw fit for the data field of an event, which ends at a line
// break. Only white space between tokens can contain one.
func oneLine(raw []byte) []byte {
	line, err := jsonrpc.Compact(raw)
	if err != nil { // not JSON: break no framing with it
		return bytes.Map(func(r rune) rune {
			if r == '\n' || r == '\r' {
				return ' '
			}
			return r
		}, raw)
	}
	return line
}
