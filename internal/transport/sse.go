package transport

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/mcp-clerk/mcp-clerk/internal/jsonrpc"
)

// An Event is one event of a text/event-stream body. Unlike a browser's reader,
// this one also reports an event without data (Data is nil then) when it set an
// id or a retry time: MCP servers prime a client's resumption that way.
type Event struct {
	Name string // the event field; "" means "message"
	Data []byte // nil when the event had no data field; of a large message the skeleton
	ID   string // the last event id of the stream so far
	// Bad says why the data of a large event, which is nil then, is no message.
	Bad error
	// Retry is the reconnection time the server asked for in this event,
	// negative when it asked for none.
	Retry time.Duration
}

// An EventReader reads an event stream as the HTML standard says (section
// 9.2.6, "Interpreting an event stream"): LF, CRLF and lone CR end a line, one
// byte order mark at the start is skipped, several data lines join with LF,
// comments are ignored, and an event that no blank line ended is dropped.
// Invalid UTF-8 is passed on for the parser of the data to refuse.
//
// With a Spool it holds at most 4 MiB of an event in memory.
type EventReader struct {
	br     *bufio.Reader
	max    int
	spool  *Spool
	begun  bool
	skipLF bool // the last line ended in CR: a LF that follows belongs to it
	id     string
	line   []byte // a line that did not fit into br's buffer
}

// errEventTooLarge ends a stream: what follows cannot be told apart any more.
var errEventTooLarge = errors.New("event is larger than the limit")

// NewEventReader returns a reader of r for events with at most maxEvent bytes
// of data, and lines not much longer; 0 means DefaultMaxMessage. The data of
// large ones goes to spool, which may be nil.
func NewEventReader(r io.Reader, maxEvent int, spool *Spool) *EventReader {
	if maxEvent <= 0 {
		maxEvent = DefaultMaxMessage
	}
	return &EventReader{br: bufio.NewReaderSize(r, 16<<10), max: maxEvent, spool: spool}
}

// Next returns the next event. Its bytes are the caller's. The error is io.EOF
// at the end of the stream.
func (r *EventReader) Next() (Event, error) {
	data := gather{spool: r.spool, limit: r.max}
	ev, err := r.next(&data)
	if err != nil {
		data.drop()
	}
	return ev, err
}

func (r *EventReader) next(data *gather) (Event, error) {
	ev := Event{Retry: -1}
	var seen, hasData bool
	add := func(value []byte) error { // to the data
		_, err := data.Write(value)
		if errors.Is(err, errTooLarge) {
			return fmt.Errorf("%w of %d bytes", errEventTooLarge, r.max)
		}
		return err
	}
	begin := func(value []byte) error { // a line of the data
		if hasData {
			if err := add([]byte{'\n'}); err != nil {
				return err
			}
		}
		hasData, seen = true, true
		return add(value)
	}
	id := r.id
	for {
		line, rest, err := r.readLine()
		if err != nil {
			return Event{}, err
		}
		if len(line) == 0 {
			if !seen {
				ev.Name = ""
				continue
			}
			r.id, ev.ID = id, id
			if !hasData {
				return ev, nil
			}
			ev.Data, err = data.message()
			if bad, ok := errors.AsType[*jsonrpc.Error](err); ok {
				ev.Data, ev.Bad, err = nil, bad, nil
			} else if err == nil && ev.Data == nil {
				ev.Data = []byte{}
			}
			return ev, err
		}
		name, value, _ := bytes.Cut(line, []byte{':'})
		value = bytes.TrimPrefix(value, []byte{' '})
		switch string(name) {
		case "data":
			if err := begin(value); err != nil {
				return Event{}, err
			}
			for rest {
				if line, rest, err = r.fragment(); err != nil {
					return Event{}, err
				}
				if err := add(line); err != nil {
					return Event{}, err
				}
			}
		case "event":
			ev.Name = string(value)
		case "id":
			if bytes.IndexByte(value, 0) < 0 {
				id = string(value)
				seen = true
			}
		case "retry":
			if ms, ok := digits(value); ok {
				ev.Retry = ms
				seen = true
			}
		}
	}
}

// digits reads a retry value: ASCII digits only. Values beyond a day are cut
// there, so that no arithmetic on them overflows.
func digits(b []byte) (time.Duration, bool) {
	const day = int64(24 * time.Hour / time.Millisecond)
	ms := int64(0)
	for _, c := range b {
		if c < '0' || c > '9' {
			return 0, false
		}
		ms = min(ms*10+int64(c-'0'), day)
	}
	return time.Duration(ms) * time.Millisecond, len(b) > 0
}

// readLine returns the next line without its ending, valid until the next call.
// A last line that nothing ended is not returned. Of a long line of data it
// returns the beginning, and more is true: fragment returns the rest.
func (r *EventReader) readLine() (line []byte, more bool, err error) {
	r.line = r.line[:0]
	if cap(r.line) > keepBuffer {
		r.line = nil
	}
	for {
		part, more, err := r.fragment()
		if err != nil {
			return nil, false, err
		}
		if !more && len(r.line) == 0 {
			return part, false, nil
		}
		if len(r.line)+len(part) > r.max+64 {
			return nil, false, fmt.Errorf("line of an %w of %d bytes", errEventTooLarge, r.max)
		}
		r.line = append(r.line, part...)
		if !more || len(r.line) > len("data: ") && bytes.HasPrefix(r.line, []byte("data:")) {
			return r.line, more, nil
		}
	}
}

// fragment returns what has arrived of the present line, without its ending,
// valid until the next call, and whether there is more of it.
func (r *EventReader) fragment() (part []byte, more bool, err error) {
	for {
		// At least one byte, and then whatever has arrived: a lone CR must end
		// its line without waiting for the byte behind it.
		if _, err := r.br.Peek(1); err != nil {
			return nil, false, err
		}
		buf, _ := r.br.Peek(r.br.Buffered())
		if r.skipLF {
			r.skipLF = false
			if buf[0] == '\n' {
				r.discard(1)
				continue
			}
		}
		if !r.begun {
			if err := r.skipBOM(); err != nil {
				return nil, false, err
			}
			continue // peeking may have moved the buffer
		}
		end := bytes.IndexByte(buf, '\n')
		if cr := bytes.IndexByte(buf[:max(end, 0)], '\r'); cr >= 0 {
			end = cr
		} else if end < 0 {
			end = bytes.IndexByte(buf, '\r')
		}
		if end < 0 {
			r.discard(len(buf))
			return buf, true, nil // discarding moves no bytes: it is valid until the next read
		}
		r.skipLF = buf[end] == '\r'
		r.discard(end + 1)
		return buf[:end], false, nil
	}
}

// skipBOM skips a byte order mark at the start of the stream.
func (r *EventReader) skipBOM() error {
	const bom = "\xef\xbb\xbf"
	r.begun = true
	for n := 1; n <= len(bom); n++ {
		b, err := r.br.Peek(n)
		if errors.Is(err, io.EOF) || err == nil && string(b) != bom[:n] {
			return nil
		}
		if err != nil {
			return err
		}
	}
	r.discard(len(bom))
	return nil
}

func (r *EventReader) discard(n int) { _, _ = r.br.Discard(n) }
