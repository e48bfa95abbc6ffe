package mcphttp

import (
	"bytes"
	"errors"
	"fmt"
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

	// Of a legacy stream whose client may come back for what it missed:
	open  func(*stream) *replay // begins to keep the events; nil: not such a stream
	prime bool                  // an event without data goes first, for its id (2025-11-25)

	mu     sync.Mutex
	w      http.ResponseWriter
	rc     http.ResponseController
	begun  bool      // the header of an event stream is out
	ended  bool      // the response is complete
	gone   bool      // the client is not there any more
	left   time.Time // when it went
	busy   bool      // something was sent since the last tick
	ticker *time.Timer
	replay *replay       // set when the stream begins
	turn   int           // counts the connections it had
	over   chan struct{} // closed when the present connection has nothing more to do; may be nil
	away   func()        // called, with mu held, when the client goes; may be nil
	back   func()        // and when it is back
}

func newStream(s *Server, w http.ResponseWriter, json, events bool) *stream {
	return &stream{
		w: w, rc: *http.NewResponseController(w), takesJSON: json, takesEvents: events,
		keepAlive: s.o.KeepAlive, writeTimeout: s.o.WriteTimeout,
	}
}

// keepAwake starts the comments that keep a quiet stream from being taken for
// dead by what is between here and the client.
func (st *stream) keepAwake() {
	st.mu.Lock()
	defer st.mu.Unlock()
	if !st.takesEvents {
		// Over HTTP/2 a deadline ends the stream although nobody writes yet. The
		// answer gets one of its own.
		_ = st.rc.SetWriteDeadline(time.Time{})
		return
	}
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
	st.headLocked()
	if st.open == nil {
		return
	}
	st.replay = st.open(st)
	if st.prime {
		_, _ = st.w.Write(primer(st.replay.id(0), retryHint)) // what is gone shows at the next write
	}
}

func (st *stream) headLocked() {
	h := st.w.Header()
	h["Content-Type"] = valueEvents
	h["Cache-Control"] = valueNoCache
	h["X-Accel-Buffering"] = valueNo
	h["X-Content-Type-Options"] = valueNosniff
	_ = st.rc.SetWriteDeadline(time.Now().Add(st.writeTimeout)) // best effort: not every writer has one
	st.w.WriteHeader(http.StatusOK)
}

// primer is an event without data: an id to come back with, and how long to
// wait before that (2025-11-25, basic/transports, Sending Messages, 6).
func primer(id string, retry time.Duration) []byte {
	return fmt.Appendf(nil, "id: %s\nretry: %d\ndata: \n\n", id, retry.Milliseconds())
}

// event sends one message as an event, opening the event stream if need be.
// The only error is ErrStreamClosed.
func (st *stream) event(raw []byte) error {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.eventLocked(raw)
}

func (st *stream) eventLocked(raw []byte) error {
	// Who has an id of this stream may come back for what is sent meanwhile.
	if st.ended || st.gone && st.replay == nil || !st.takesEvents {
		return ErrStreamClosed
	}
	st.beginLocked()
	return st.writeEventLocked(raw)
}

func (st *stream) writeEventLocked(raw []byte) error {
	line := oneLine(raw)
	st.busy = true
	if st.replay == nil {
		return st.writeLocked(eventBytes("", line))
	}
	buf := st.replay.add(func(id string) []byte { return eventBytes(id, line) })
	if !st.gone {
		_ = st.writeLocked(buf) // what did not get through is kept
	}
	return nil
}

func eventBytes(id string, line []byte) []byte {
	buf := make([]byte, 0, len("event: message\nid: \ndata: \n\n")+len(id)+len(line))
	buf = append(buf, "event: message\n"...)
	if id != "" {
		buf = append(append(append(buf, "id: "...), id...), '\n')
	}
	buf = append(buf, "data: "...)
	buf = append(buf, line...)
	return append(buf, "\n\n"...)
}

// writeLocked writes and flushes; a client that takes nothing for writeTimeout
// counts as gone.
func (st *stream) writeLocked(b []byte) error {
	_ = st.rc.SetWriteDeadline(time.Now().Add(st.writeTimeout)) // best effort: not every writer has one
	if len(b) > 0 {
		if _, err := st.w.Write(b); err != nil {
			st.lostLocked()
			return ErrStreamClosed
		}
	}
	if err := st.rc.Flush(); err != nil && !errors.Is(err, http.ErrNotSupported) {
		st.lostLocked()
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
	defer st.stopLocked()
	if st.gone && st.replay == nil {
		return
	}
	if st.begun || status == http.StatusOK && !st.takesJSON {
		st.beginLocked()
		for _, body := range bodies {
			if st.writeEventLocked(body) != nil {
				return
			}
		}
		if st.replay != nil {
			st.replay.park(nil) // that it was written does not mean that it arrived
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
	defer st.stopLocked()
	if !st.gone {
		st.beginLocked()
	}
	st.forgetLocked()
}

// end ends a stream whose last event has been sent.
func (st *stream) end() {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.stopLocked()
	st.forgetLocked()
}

func (st *stream) stopLocked() {
	st.ended = true
	if st.ticker != nil {
		st.ticker.Stop()
	}
	st.releaseLocked()
	// What is kept of the stream for a while must not keep its request.
	st.w, st.rc, st.open, st.away, st.back = nil, http.ResponseController{}, nil, nil, nil
}

// forgetLocked gives up what is kept of the stream: nothing follows.
func (st *stream) forgetLocked() {
	if st.replay != nil {
		st.replay.close()
	}
}

// releaseLocked lets the request go whose connection the stream has.
func (st *stream) releaseLocked() {
	if st.over != nil {
		close(st.over)
		st.over = nil
	}
}

// follow makes x, the next call on the stream, the one that is told when the
// client goes, or that it went before.
func (st *stream) follow(x *exchange) {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.away, st.back = x.away, x.back
	if st.gone {
		x.away()
	}
}

// lostLocked notes that the client is not there any more.
func (st *stream) lostLocked() {
	if st.gone {
		return
	}
	st.gone, st.left = true, time.Now()
	if st.away != nil {
		st.away()
	}
}

func (st *stream) lost() {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.lostLocked()
}

// leave is called when the connection number turn has ended. It reports whether
// the stream was still on it.
func (st *stream) leave(turn int) bool {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.turn != turn {
		return false
	}
	st.lostLocked()
	st.w, st.rc, st.over = nil, http.ResponseController{}, nil
	return true
}

// cut ends the connection but not the stream, and asks the client to come back
// after retry. It does nothing to a stream that cannot be resumed.
func (st *stream) cut(retry time.Duration) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.ended || st.gone || !st.prime || st.over == nil {
		return
	}
	st.beginLocked()
	if st.writeLocked(fmt.Appendf(nil, "retry: %d\n\n", retry.Milliseconds())) != nil {
		return
	}
	st.lostLocked()
	st.releaseLocked()
}

// resume puts the stream on the connection of another request, from which it
// is taken when over is closed, and sends the events after number n. The error
// is errNotKept, with nothing written.
func (st *stream) resume(w http.ResponseWriter, n uint64) (turn int, over <-chan struct{}, err error) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.replay == nil || !st.ended && !st.replay.unpark() {
		return 0, nil, errNotKept
	}
	missed, err := st.replay.since(n, st.ended)
	if err != nil {
		return 0, nil, err
	}
	st.releaseLocked() // a connection that nobody told us has ended
	st.w, st.rc, st.gone = w, *http.NewResponseController(w), false
	st.turn++
	st.over = make(chan struct{})
	over = st.over
	st.headLocked()
	if st.back != nil && !st.ended {
		st.back()
	}
	_ = st.writeLocked(missed) // who has gone again may come again
	if st.ended {
		st.releaseLocked()
	} else if st.ticker != nil {
		st.ticker.Reset(st.keepAlive)
	}
	return st.turn, over, nil
}

// header lets set change the response headers, if they are not out.
func (st *stream) header(set func(http.Header)) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if !st.begun && !st.gone && !st.ended {
		set(st.w.Header())
	}
}

func writeJSON(w http.ResponseWriter, status int, body []byte) {
	h := w.Header()
	h["Content-Type"] = valueJSON
	h["Cache-Control"] = valueNoStore
	h["X-Content-Type-Options"] = valueNosniff
	if len(body) > 1<<10 { // of a short one net/http says it
		h["Content-Length"] = []string{strconv.Itoa(len(body))}
	}
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
