package transport

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/mcp-clerk/mcp-clerk/internal/jsonrpc"
)

// A Reader splits a byte stream into messages, one a line (basic/transports,
// "stdio"). It forgives what hosts get wrong without harm: CRLF, a byte order
// mark at the start, blank lines, a last line without its newline. Whether a
// line is a message is not its business.
//
// It holds one line in memory, of at most the limit and with a Spool of at most
// 4 MiB, plus a buffer of 64 KiB.
type Reader struct {
	br    *bufio.Reader
	max   int
	spool *Spool
	begun bool
}

// SkippedError says that a message could not be taken: it was longer than the
// limit, or could not be kept, or is none. The Reader has skipped it and goes
// on with the next line.
type SkippedError struct {
	// Code is the JSON-RPC error code to answer with.
	Code int
	ID   json.RawMessage // nil when there was none to be found
	// Request is true when the message had a method: only then does somebody
	// wait for an answer.
	Request bool
	Err     error
}

func (e *SkippedError) Error() string { return e.Err.Error() }

func (e *SkippedError) Unwrap() error { return e.Err }

// NewReader returns a Reader of r for messages of at most maxMessage bytes;
// 0 means DefaultMaxMessage. Large ones go to spool, which may be nil.
func NewReader(r io.Reader, maxMessage int, spool *Spool) *Reader {
	if maxMessage <= 0 {
		maxMessage = DefaultMaxMessage
	}
	return &Reader{br: bufio.NewReaderSize(r, 64<<10), max: maxMessage, spool: spool}
}

// Read returns the next line that is not blank, without its ending; of a large
// one the skeleton. The bytes are the caller's. At the end of the stream the
// error is io.EOF; a *SkippedError leaves the Reader usable, any other error
// does not.
func (r *Reader) Read() ([]byte, error) {
	for {
		line, err := r.line()
		if len(line) > 0 {
			return line, nil // the end of the stream shows again at the next read
		}
		if err != nil {
			return nil, err
		}
	}
}

// line returns what stands before the next newline, or the end of the stream,
// without white space around it.
func (r *Reader) line() ([]byte, error) {
	// Room for the line's ending, which is not part of the message.
	g := gather{spool: r.spool, limit: r.max + len("\r\n")}
	var scan idScanner // sees all of a line that does not stay in memory
	scanning := false
	for {
		chunk, err := r.br.ReadSlice('\n')
		more := errors.Is(err, bufio.ErrBufferFull)
		text := chunk
		if !more {
			text = bytes.TrimRight(text, space)
		}
		if g.n == 0 {
			if !r.begun && len(text) > 0 {
				r.begun = true
				text = bytes.TrimPrefix(text, []byte("\xef\xbb\xbf"))
			}
			text = bytes.TrimLeft(text, space)
		}
		if !scanning && g.n+len(text) > r.spool.size(g.limit) {
			scanning = true
			scan.write(g.mem)
		}
		if scanning {
			scan.write(text)
		}
		if _, failed := g.Write(text); failed != nil {
			g.drop()
			return nil, r.skip(&scan, more, failed)
		}
		switch {
		case more:
			continue
		case err != nil && !errors.Is(err, io.EOF):
			g.drop()
			return nil, err
		}
		if g.file == nil {
			line := bytes.TrimRight(g.mem, space)
			if len(line) > r.max {
				scan.write(line)
				return nil, r.skip(&scan, false, errTooLarge)
			}
			return line, err
		}
		line, failed := g.message()
		if failed != nil {
			return nil, r.skip(&scan, false, failed)
		}
		return line, nil
	}
}

// skip reads to the end of a line that cannot be taken for the reason given,
// looking for its id on the way, in constant memory.
func (r *Reader) skip(scan *idScanner, more bool, reason error) error {
	for more {
		chunk, err := r.br.ReadSlice('\n')
		scan.write(chunk)
		more = errors.Is(err, bufio.ErrBufferFull)
	}
	e := &SkippedError{Code: jsonrpc.CodeInternal, Request: scan.method, Err: reason}
	if errors.Is(reason, errTooLarge) {
		e.Code, e.Err = jsonrpc.CodeInvalidRequest, fmt.Errorf("message is larger than the limit of %d bytes", r.max)
	} else if bad, ok := errors.AsType[*jsonrpc.Error](reason); ok {
		e.Code, e.Err = bad.Code, errors.New(bad.Message)
	}
	// The id of what is no JSON is anybody's guess (JSON-RPC 2.0 section 5).
	if e.Code != jsonrpc.CodeParse && json.Valid(scan.id) {
		e.ID = scan.id
	}
	return e
}

// space is JSON's white space (RFC 8259 section 2).
const space = " \t\r\n"

// A Writer writes messages, one a line, each as a whole: messages of several
// goroutines never mix. A reader that stops reading stops the writers, and
// nothing is queued.
type Writer struct {
	w      io.Writer
	spool  *Spool
	slot   chan struct{} // held while writing, also against use of buf
	buf    []byte
	broken chan struct{} // closed behind setting err
	err    error
}

// NewWriter returns a Writer to w of messages of which spool, which may be nil,
// keeps the large ones.
func NewWriter(w io.Writer, spool *Spool) *Writer {
	return &Writer{w: w, spool: spool, slot: make(chan struct{}, 1), broken: make(chan struct{})}
}

// keepBuffer is the largest line for which the Writer keeps its buffer, in bytes.
const keepBuffer = 64 << 10

// WriteMessage writes raw, or what it is the skeleton of, as one line. White
// space between tokens goes if it contains a line break; the tokens stay as they
// are. After the first failed write every call returns that write's error.
func (w *Writer) WriteMessage(raw []byte) error {
	raw, err := jsonrpc.Compact(raw)
	if err != nil {
		return err
	}
	var large io.Reader
	if w.spool.Holds(raw) {
		if large, _, err = w.spool.open(raw); err != nil {
			return err
		}
	}
	select {
	case w.slot <- struct{}{}:
		defer func() { <-w.slot }()
	case <-w.broken:
	}
	switch {
	case w.err != nil:
		return w.err
	case large != nil:
		if _, err = io.Copy(lineBreaksOut{w.w}, large); err == nil {
			_, err = w.w.Write([]byte{'\n'})
		}
	case len(raw) < keepBuffer:
		w.buf = append(append(w.buf[:0], raw...), '\n')
		_, err = w.w.Write(w.buf)
	default:
		if _, err = w.w.Write(raw); err == nil {
			_, err = w.w.Write([]byte{'\n'})
		}
	}
	if err != nil {
		// Also if a file could not be read: half a line stands in the stream.
		w.err = fmt.Errorf("write message: %w", err)
		close(w.broken)
	}
	return w.err
}

// lineBreaksOut leaves out line breaks, which in JSON only stand between tokens.
type lineBreaksOut struct{ w io.Writer }

func (l lineBreaksOut) Write(p []byte) (int, error) {
	n := len(p)
	if bytes.IndexByte(p, '\n') >= 0 || bytes.IndexByte(p, '\r') >= 0 {
		p = slices.DeleteFunc(bytes.Clone(p), func(c byte) bool { return c == '\n' || c == '\r' })
	}
	if _, err := l.w.Write(p); err != nil {
		return 0, err
	}
	return n, nil
}

// Broken is closed when a write has failed: nobody reads any more (EPIPE).
func (w *Writer) Broken() <-chan struct{} { return w.broken }
