package transport

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/mcp-clerk/mcp-clerk/internal/jsonrpc"
)

// A Reader splits a byte stream into messages, one a line (basic/transports,
// "stdio"). It forgives what hosts get wrong without harm: CRLF, a byte order
// mark at the start, blank lines, a last line without its newline. Whether a
// line is a message is not its business.
//
// It holds one line of at most the limit, plus a buffer of 64 KiB.
type Reader struct {
	br    *bufio.Reader
	max   int
	begun bool
}

// OversizeError says that a message was longer than the limit. The Reader has
// skipped it and goes on with the next line.
type OversizeError struct {
	Limit int
	ID    json.RawMessage // nil when there was none to be found
	// Request is true when the message had a method: only then does somebody
	// wait for an answer.
	Request bool
}

func (e *OversizeError) Error() string {
	return fmt.Sprintf("message is larger than the limit of %d bytes", e.Limit)
}

// NewReader returns a Reader of r for messages of at most maxMessage bytes;
// 0 means DefaultMaxMessage.
func NewReader(r io.Reader, maxMessage int) *Reader {
	if maxMessage <= 0 {
		maxMessage = DefaultMaxMessage
	}
	return &Reader{br: bufio.NewReaderSize(r, 64<<10), max: maxMessage}
}

// Read returns the next line that is not blank, without its ending. The bytes
// are the caller's. At the end of the stream the error is io.EOF; an
// *OversizeError leaves the Reader usable, any other error does not.
func (r *Reader) Read() ([]byte, error) {
	for {
		line, err := r.line()
		if !r.begun && len(line) > 0 {
			r.begun = true
			line = bytes.TrimPrefix(line, []byte("\xef\xbb\xbf"))
		}
		line = bytes.Trim(line, " \t\r\n")
		if len(line) > 0 {
			return line, nil // the end of the stream shows again at the next read
		}
		if err != nil {
			return nil, err
		}
	}
}

// line returns the bytes up to and with the next newline, or to the end of the
// stream.
func (r *Reader) line() ([]byte, error) {
	var line []byte
	for {
		chunk, err := r.br.ReadSlice('\n')
		full := errors.Is(err, bufio.ErrBufferFull)
		// Room for the line's ending, which is not part of the message.
		if len(line)+len(chunk) > r.max+len("\r\n") {
			return nil, r.skip(line, chunk, full)
		}
		line = append(line, chunk...)
		if full {
			continue
		}
		if len(bytes.TrimRight(line, "\r\n")) > r.max {
			return nil, r.skip(line, nil, false)
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, err
		}
		return line, err
	}
}

// skip reads to the end of a line that is too long, looking for its id on the
// way, in constant memory.
func (r *Reader) skip(line, chunk []byte, more bool) error {
	var scan idScanner
	scan.write(line)
	scan.write(chunk)
	for more {
		chunk, err := r.br.ReadSlice('\n')
		scan.write(chunk)
		more = errors.Is(err, bufio.ErrBufferFull)
	}
	r.begun = true
	e := &OversizeError{Limit: r.max, Request: scan.method}
	if json.Valid(scan.id) {
		e.ID = scan.id
	}
	return e
}

// A Writer writes messages, one a line, each as a whole: messages of several
// goroutines never mix. A reader that stops reading stops the writers, and
// nothing is queued.
type Writer struct {
	w      io.Writer
	slot   chan struct{} // held while writing, also against use of buf
	buf    []byte
	broken chan struct{} // closed behind setting err
	err    error
}

// NewWriter returns a Writer to w.
func NewWriter(w io.Writer) *Writer {
	return &Writer{w: w, slot: make(chan struct{}, 1), broken: make(chan struct{})}
}

// keepBuffer is the largest line for which the Writer keeps its buffer, in bytes.
const keepBuffer = 64 << 10

// WriteMessage writes raw as one line. White space between tokens goes if it
// contains a line break; the tokens stay as they are. After the first failed
// write every call returns that write's error.
func (w *Writer) WriteMessage(raw []byte) error {
	raw, err := jsonrpc.Compact(raw)
	if err != nil {
		return err
	}
	select {
	case w.slot <- struct{}{}:
		defer func() { <-w.slot }()
	case <-w.broken:
	}
	if w.err != nil {
		return w.err
	}
	if len(raw) < keepBuffer {
		w.buf = append(append(w.buf[:0], raw...), '\n')
		_, err = w.w.Write(w.buf)
	} else if _, err = w.w.Write(raw); err == nil {
		_, err = w.w.Write([]byte{'\n'})
	}
	if err != nil {
		w.err = fmt.Errorf("write message: %w", err)
		close(w.broken)
	}
	return w.err
}

// Broken is closed when a write has failed: nobody reads any more (EPIPE).
func (w *Writer) Broken() <-chan struct{} { return w.broken }
