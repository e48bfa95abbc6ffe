package transport

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"time"
)

// An Event is one event of a text/event-stream body. Unlike a browser's reader,
// this one also reports an event without data (Data is nil then) when it set an
// id or a retry time: MCP servers prime a client's resumption that way.
type Event struct {
	Name string // the event field; "" means "message"
	Data []byte // nil when the event had no data field
	ID   string // the last event id of the stream so far
	// Retry is the reconnection time the server asked for in this event,
	// negative when it asked for none.
	Retry time.Duration
}

// An EventReader reads an event stream as the HTML standard says (section
// 9.2.6, "Interpreting an event stream"): LF, CRLF and lone CR end a line, one
// byte order mark at the start is skipped, several data lines join with LF,
// comments are ignored, and an event that no blank line ended is dropped.
// Invalid UTF-8 is passed on for the parser of the data to refuse.
type EventReader struct {
	br     *bufio.Reader
	max    int
	begun  bool
	skipLF bool // the last line ended in CR: a LF that follows belongs to it
	id     string
	line   []byte // a line that did not fit into br's buffer
}

// errEventTooLarge ends a stream: what follows cannot be told apart any more.
var errEventTooLarge = errors.New("event is larger than the limit")

// NewEventReader returns a reader of r for events with at most maxEvent bytes
// of data, and lines not much longer; 0 means DefaultMaxMessage.
func NewEventReader(r io.Reader, maxEvent int) *EventReader {
	if maxEvent <= 0 {
		maxEvent = DefaultMaxMessage
	}
	return &EventReader{br: bufio.NewReaderSize(r, 16<<10), max: maxEvent}
}

// Next returns the next event. Its bytes are the caller's. The error is io.EOF
// at the end of the stream.
func (r *EventReader) Next() (Event, error) {
	ev := Event{Retry: -1}
	var seen, hasData bool
	id := r.id
	for {
		line, err := r.readLine()
		if err != nil {
			return Event{}, err
		}
		if len(line) == 0 {
			if !seen {
				ev.Name = ""
				continue
			}
			r.id, ev.ID = id, id
			return ev, nil
		}
		name, value, _ := bytes.Cut(line, []byte{':'})
		value = bytes.TrimPrefix(value, []byte{' '})
		switch string(name) {
		case "data":
			if len(ev.Data)+len(value)+1 > r.max+1 {
				return Event{}, fmt.Errorf("%w of %d bytes", errEventTooLarge, r.max)
			}
			if hasData {
				ev.Data = append(ev.Data, '\n')
			} else {
				ev.Data = make([]byte, 0, len(value))
			}
			ev.Data = append(ev.Data, value...)
			hasData, seen = true, true
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
// A last line that nothing ended is not returned.
func (r *EventReader) readLine() ([]byte, error) {
	r.line = r.line[:0]
	if cap(r.line) > keepBuffer {
		r.line = nil
	}
	for {
		// At least one byte, and then whatever has arrived: a lone CR must end
		// its line without waiting for the byte behind it.
		if _, err := r.br.Peek(1); err != nil {
			return nil, err
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
				return nil, err
			}
			continue // peeking may have moved the buffer
		}
		end := bytes.IndexByte(buf, '\n')
		if cr := bytes.IndexByte(buf[:max(end, 0)], '\r'); cr >= 0 {
			end = cr
		} else if end < 0 {
			end = bytes.IndexByte(buf, '\r')
		}
		part := buf
		if end >= 0 {
			part = buf[:end]
		}
		if len(r.line)+len(part) > r.max+64 {
			return nil, fmt.Errorf("line of an %w of %d bytes", errEventTooLarge, r.max)
		}
		if end < 0 {
			r.line = append(r.line, part...)
			r.discard(len(part))
			continue
		}
		r.skipLF = buf[end] == '\r'
		if len(r.line) > 0 {
			r.line = append(r.line, part...)
			part = r.line
		}
		r.discard(end + 1)
		return part, nil // discarding moved no bytes: part is valid until the next read
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
