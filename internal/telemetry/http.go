package telemetry

import (
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"runtime/debug"
	"time"
)

// HeaderRequestID carries the id of a request, in both directions.
const HeaderRequestID = "X-Request-Id"

type requestIDKey struct{}

// RequestID returns the id of the request that ctx belongs to, or "".
func RequestID(ctx context.Context) string {
	id, _ := ctx.Value(requestIDKey{}).(string)
	return id
}

// Access wraps next: it gives each request an id (a well-formed one that the
// client sent, else a new one), answers with it, writes one line when the
// request is done, and turns a panic into a 500 with its stack in the log.
//
// Requests are logged at level debug, server errors at level warn: a server
// in use says nothing while all is well. The query is never written.
func Access(next http.Handler, logger *slog.Logger) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ids := r.Header[HeaderRequestID]
		if len(ids) == 0 || !wellFormed(ids[0]) {
			ids = []string{rand.Text()}
		}
		id := ids[0]
		w.Header()[HeaderRequestID] = ids[:1]
		ctx := context.WithValue(r.Context(), requestIDKey{}, id)
		rec := &recorder{ResponseWriter: w}
		started := time.Now()
		defer func() {
			p, begun := recover(), false
			aborted := p == http.ErrAbortHandler //nolint:errorlint // net/http compares the value itself
			if p != nil && !aborted {
				logger.LogAttrs(context.WithoutCancel(ctx), slog.LevelError, "panic in a request",
					slog.Any("panic", p), slog.String("stack", string(debug.Stack())))
				begun = rec.status != 0
				if !begun {
					http.Error(rec, http.StatusText(http.StatusInternalServerError), http.StatusInternalServerError)
				}
			}
			level := slog.LevelDebug
			if rec.status >= 500 {
				level = slog.LevelWarn
			}
			if logger.Enabled(ctx, level) {
				logger.LogAttrs(context.WithoutCancel(ctx), level, "request",
					slog.String("method", cut(r.Method, 16)), slog.String("path", cut(r.URL.Path, 200)),
					slog.Int("status", rec.status), slog.Int64("bytes", rec.bytes),
					slog.Duration("took", time.Since(started)), slog.String("remote", host(r.RemoteAddr)))
			}
			if aborted || begun {
				// The response was cut short: the connection must not look as
				// if it had ended well.
				panic(http.ErrAbortHandler)
			}
		}()
		next.ServeHTTP(rec, r.WithContext(ctx))
	})
}

// wellFormed says which ids of clients are taken over: what can stand in a log
// line and in a header without being anything else.
func wellFormed(id string) bool {
	if len(id) < 8 || len(id) > 64 {
		return false
	}
	for _, c := range []byte(id) {
		if !(c >= '0' && c <= '9' || c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z' || c == '-' || c == '_' || c == '.') {
			return false
		}
	}
	return true
}

func cut(s string, n int) string {
	if len(s) > n {
		return s[:n] + "…"
	}
	return s
}

func host(addr string) string {
	h, _, err := net.SplitHostPort(addr)
	if err != nil {
		return addr
	}
	return h
}

// recorder notes what became of a response. It passes flushes and the means of
// http.ResponseController through, which streams rest on.
type recorder struct {
	http.ResponseWriter
	status int // 0 until the header is written
	bytes  int64
}

func (r *recorder) WriteHeader(status int) {
	if r.status == 0 && status >= 200 { // 1xx may be followed by others
		r.status = status
	}
	r.ResponseWriter.WriteHeader(status)
}

func (r *recorder) Write(p []byte) (int, error) {
	if r.status == 0 {
		r.status = http.StatusOK
	}
	n, err := r.ResponseWriter.Write(p)
	r.bytes += int64(n)
	return n, err
}

func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

// FlushError is what http.ResponseController looks for first.
func (r *recorder) FlushError() error {
	err := http.NewResponseController(r.ResponseWriter).Flush()
	if err == nil && r.status == 0 {
		r.status = http.StatusOK
	}
	if errors.Is(err, http.ErrNotSupported) {
		return nil
	}
	return err
}

// Flush implements http.Flusher for those who assert it.
func (r *recorder) Flush() { _ = r.FlushError() }
