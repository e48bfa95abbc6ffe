package mcphttp

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/mcp-clerk/mcp-clerk/internal/identity"
	"github.com/mcp-clerk/mcp-clerk/internal/jsonrpc"
)

// readBody returns the body of a POST, or answers the request.
func (s *Server) readBody(w http.ResponseWriter, r *http.Request) ([]byte, bool) {
	if !isJSONBody(r.Header) {
		refuse(w, http.StatusUnsupportedMediaType, nil, jsonrpc.CodeInvalidRequest, "Content-Type must be application/json")
		return nil, false
	}
	for _, encoding := range r.Header["Content-Encoding"] {
		if !strings.EqualFold(strings.TrimSpace(encoding), "identity") {
			w.Header().Set("Accept-Encoding", "identity") // RFC 9110 section 12.5.3
			refuse(w, http.StatusUnsupportedMediaType, nil, jsonrpc.CodeInvalidRequest, "Content-Encoding is not supported")
			return nil, false
		}
	}
	tooLarge := func() ([]byte, bool) {
		w.Header().Set("Connection", "close") // do not read the rest
		refuse(w, http.StatusRequestEntityTooLarge, nil, jsonrpc.CodeInvalidRequest, "the message is too large")
		return nil, false
	}
	if r.ContentLength > s.o.MaxBody {
		return tooLarge()
	}
	body, err := readAll(r.Body, r.ContentLength, s.o.MaxBody)
	if err != nil {
		var timeout interface{ Timeout() bool }
		switch {
		case errors.Is(err, errTooLarge):
			return tooLarge()
		case errors.As(err, &timeout) && timeout.Timeout():
			w.Header().Set("Connection", "close")
			refuse(w, http.StatusRequestTimeout, nil, jsonrpc.CodeInvalidRequest, "the message did not arrive in time")
		default:
			w.Header().Set("Connection", "close")
			refuse(w, http.StatusBadRequest, nil, jsonrpc.CodeInvalidRequest, "the message could not be read")
		}
		return nil, false
	}
	return body, true
}

// limitClient gives the client ReadTimeout to send its body, whether it will be
// read here or thrown away by net/http after a refusal, and WriteTimeout to take
// what is answered at once; streams, and answers that come later, have more.
// net/http takes ReadTimeout back at the end of the body: it does not cut what
// takes longer to answer. All is best effort: not every connection has deadlines.
func (s *Server) limitClient(w http.ResponseWriter, r *http.Request) {
	rc, now := http.NewResponseController(w), time.Now()
	if r.Body != nil && r.Body != http.NoBody {
		_ = rc.SetReadDeadline(now.Add(s.o.ReadTimeout))
	}
	_ = rc.SetWriteDeadline(now.Add(s.o.WriteTimeout))
}

var errTooLarge = errors.New("the body is too large")

// readAll reads r to its end, of at most limit bytes. size is what the client
// announced, -1 if it did not; memory is taken as bytes arrive, not as they are
// announced.
func readAll(r io.Reader, size, limit int64) ([]byte, error) {
	if size < 0 {
		size = 511
	}
	buf := make([]byte, 0, min(size+1, 64<<10))
	for {
		n, err := r.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		if int64(len(buf)) > limit {
			return nil, errTooLarge
		}
		if err == io.EOF {
			return buf, nil
		}
		if err != nil {
			return nil, err
		}
		if len(buf) == cap(buf) {
			buf = append(buf, 0)[:len(buf)]
		}
	}
}

// strict is how every message of a client is read: a decision will rest on it.
var strict = jsonrpc.Limits{Strict: true}

// post serves one POST: a message, or in one revision a batch of them.
func (s *Server) post(w http.ResponseWriter, r *http.Request, p *identity.Principal) {
	body, ok := s.readBody(w, r)
	if !ok {
		return
	}
	if jsonrpc.IsBatch(body) {
		s.batch(w, of(r, p), p, body)
		return
	}
	m, err := jsonrpc.Parse(body, strict)
	if err != nil {
		refuseMessage(w, err)
		return
	}
	quick := s.quick(m)
	meta := readMeta(m.Params)
	if isModern(r.Header, m, &meta) {
		s.postModern(w, r, p, m, &meta, quick)
		return
	}
	s.postLegacy(w, r, p, m, quick)
}

func refuseMessage(w http.ResponseWriter, err error) {
	writeJSON(w, http.StatusBadRequest, refusalOf(err))
}

// refusalOf is the response to a message that could not be read.
func refusalOf(err error) []byte {
	var e *jsonrpc.Error
	if !errors.As(err, &e) {
		e = &jsonrpc.Error{Code: jsonrpc.CodeParse, Message: "parse error"}
	}
	return jsonrpc.NewError(e.ID, e.Code, e.Message, nil)
}

// meta is the part of params._meta that the modern era is made of.
type meta struct {
	version      json.RawMessage
	info         json.RawMessage
	capabilities json.RawMessage
	logLevel     json.RawMessage
}

const metaPrefix = "io.modelcontextprotocol/"

func readMeta(params json.RawMessage) meta {
	var m meta
	obj, ok := jsonrpc.Lookup(params, "_meta")
	if !ok {
		return m
	}
	get := func(name string) json.RawMessage { v, _ := jsonrpc.Lookup(obj, name); return v }
	m.version = get(metaPrefix + "protocolVersion")
	m.info = get(metaPrefix + "clientInfo")
	m.capabilities = get(metaPrefix + "clientCapabilities")
	m.logLevel = get(metaPrefix + "logLevel")
	return m
}

// isModern decides the era of a message (2026-07-28, basic/versioning,
// Compatibility Matrix): a version in _meta makes it modern; initialize without
// one is legacy; otherwise the version header tells, and a request that has
// neither belongs to a session.
func isModern(h http.Header, m *jsonrpc.Message, meta *meta) bool {
	session := h[hdrSession] != nil
	if meta.version != nil {
		// A legacy version in _meta means nothing to a session, but without
		// one it asks for a stateless answer, which that version has not.
		return !session || !isLegacy(tokenString(meta.version))
	}
	if m.Method == "initialize" {
		return false
	}
	return anyModern(h[hdrVersion], session)
}

// anyModern reports whether a version header speaks for the modern era. One
// that nobody knows does so only where no session contradicts.
func anyModern(versions []string, session bool) bool {
	for _, v := range versions {
		if v == modernVersion || !session && !isLegacy(v) || v > modernVersion && v[0] == '2' {
			return true
		}
	}
	return false
}

// tokenString returns the string that a JSON token is, or "".
func tokenString(token json.RawMessage) string {
	var s string
	switch {
	case len(token) < 2 || token[0] != '"':
	case bytes.IndexByte(token, '\\') < 0:
		s = string(token[1 : len(token)-1])
	case json.Unmarshal(token, &s) != nil:
		return ""
	}
	return s
}

// notification hands a notification to the Handler and answers 202.
func (s *Server) notification(ctx context.Context, w http.ResponseWriter, r *http.Request, call *Call) {
	_, err := s.handle(ctx, call)
	var scope *ScopeError
	switch {
	case errors.Is(err, identity.ErrInvalidToken):
		w.Header().Set("WWW-Authenticate", s.o.Challenge(r, "invalid_token", nil))
		refuse(w, http.StatusUnauthorized, nil, jsonrpc.CodeInvalidRequest, "sign in to use this")
	case errors.As(err, &scope):
		w.Header().Set("WWW-Authenticate", s.o.Challenge(r, "insufficient_scope", scope.Scopes))
		refuse(w, http.StatusForbidden, nil, jsonrpc.CodeInvalidRequest, scope.Error())
	default:
		if err != nil && !errors.Is(err, errPanicked) {
			s.log.Info("notification not handled", "method", call.Message.Method, "error", err)
		}
		w.WriteHeader(http.StatusAccepted)
	}
}

// serve answers a single request on a stream of its own. headers, if not nil,
// sees the response before it goes out and may set headers by it.
func (s *Server) serve(x *exchange, headers func(response []byte) error) {
	status, body := s.run(x)
	if headers != nil && body != nil && status == http.StatusOK {
		if err := headers(body); err != nil {
			status, body = s.failure(x.ctx, x.call.request, x, err)
		}
	}
	x.send(status, body)
}

// send sends the answer as the whole response to its request.
func (x *exchange) send(status int, body []byte) {
	if body == nil {
		x.stream.abandon()
		return
	}
	x.stream.finish(status, false, body)
}
