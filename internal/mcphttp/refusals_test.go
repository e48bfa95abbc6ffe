package mcphttp_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mcp-clerk/mcp-clerk/internal/identity"
	"github.com/mcp-clerk/mcp-clerk/internal/jsonrpc"
	"github.com/mcp-clerk/mcp-clerk/internal/mcphttp"
)

var initNow = fmt.Sprintf(initialize, "2025-11-25", "{}")

// RFC 6750 sections 2 and 3; MCP 2026-07-28 authorization, Access Token Usage.
func TestTokensAreTakenFromOneAuthorizationHeaderOnly(t *testing.T) {
	s := start(t, nil)
	const metadata = `Bearer resource_metadata="https://mcp.example.com/.well-known/oauth-protected-resource/mcp"`
	tests := []struct {
		name      string
		auth      []string
		query     string
		status    int
		challenge string
	}{
		{"none", nil, "", 401, metadata},
		{"valid", []string{"Bearer alice"}, "", 200, ""},
		{"scheme in lower case", []string{"bearer alice"}, "", 200, ""},
		{"scheme in upper case, more blanks", []string{"BEARER   alice "}, "", 200, ""},
		{"unknown token", []string{"Bearer nobody"}, "", 401, metadata + `, error="invalid_token"`},
		{"Basic", []string{"Basic YWxpY2U6eA=="}, "", 401, metadata},
		{"empty", []string{""}, "", 401, metadata},
		{"scheme without token", []string{"Bearer"}, "", 401, metadata + `, error="invalid_token"`},
		{"twice", []string{"Bearer alice", "Bearer alice"}, "", 400, metadata + `, error="invalid_request"`},
		{"two in one", []string{"Bearer alice, Bearer bob"}, "", 401, metadata + `, error="invalid_token"`},
		{"non-ASCII", []string{"Bearer al\xc3\xafce"}, "", 401, metadata + `, error="invalid_token"`},
		{"quotes", []string{`Bearer "alice"`}, "", 401, metadata + `, error="invalid_token"`},
		{"64 kB", []string{"Bearer " + strings.Repeat("a", 64<<10)}, "", 401, metadata + `, error="invalid_token"`},
		{"in the query", nil, "?access_token=canary-1234", 400, metadata + `, error="invalid_request"`},
		{"in the query, escaped", nil, "?x=1&access%5Ftoken=canary-1234", 401, metadata},
		{"in the query beside a header", []string{"Bearer alice"}, "?access_token=alice", 400, metadata + `, error="invalid_request"`},
		{"store down", []string{"Bearer store-down"}, "", 503, ""},
		{"of somebody who may not", []string{"Bearer barred"}, "", 403, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			req := s.request(initNow, header{"Authorization": ""})
			for _, a := range tt.auth {
				req.Header.Add("Authorization", a)
			}
			req.URL.RawQuery = strings.TrimPrefix(tt.query, "?")
			res := s.do(req)
			body := s.text(res)
			if res.StatusCode != tt.status || res.Header.Get("WWW-Authenticate") != tt.challenge {
				t.Errorf("%s, %q: %s", res.Status, res.Header.Get("WWW-Authenticate"), body)
			}
			if tt.status == 503 && res.Header.Get("Retry-After") == "" {
				t.Error("no Retry-After")
			}
			if tt.status >= 400 && code(t, body) == 0 {
				t.Errorf("no error: %s", body)
			}
		})
	}
	t.Run("1 MB", func(t *testing.T) {
		req := s.request(initNow, header{"Authorization": "Bearer " + strings.Repeat("a", 1_000_000)})
		if res := s.do(req); res.StatusCode != 401 && res.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
			t.Error(res.Status)
		}
	})
	if logs := s.logs.String(); strings.Contains(logs, "canary") || strings.Contains(logs, "alice") {
		t.Errorf("a token is in the log: %s", logs)
	}
}

// unreachable is a Verifier whose store is down.
type unreachable struct{}

func (unreachable) Verify(context.Context, string) (*identity.Principal, error) {
	return nil, fmt.Errorf("read grant: %w", identity.ErrUnavailable)
}

// What cannot be a token is refused without the Verifier, which need not be
// made for it, and whose store it must not cost anything.
func TestMalformedTokensDoNotReachTheVerifier(t *testing.T) {
	s := start(t, nil, func(o *mcphttp.Options) { o.Verifier = unreachable{} })
	for token, want := range map[string]int{
		"well-formed~._+/token=":    503,
		"":                          401,
		"==":                        401,
		"alice, Bearer bob":         401,
		`"alice"`:                   401,
		"al=ice":                    401,
		"al\xc3\xafce":              401,
		strings.Repeat("a", 20<<10): 401,
	} {
		req := s.request(initNow, header{"Authorization": "Bearer " + token})
		if res := s.do(req); res.StatusCode != want {
			t.Errorf("%.30q: %s, want %d", token, res.Status, want)
		}
	}
}

func TestAnonymousCallersReachTheHandlerOnlyIfLetThrough(t *testing.T) {
	h := mcphttp.HandlerFunc(func(ctx context.Context, call *mcphttp.Call) ([]byte, error) {
		if call.Message.Method == "tools/call" && identity.FromContext(ctx) == nil {
			return nil, fmt.Errorf("tool: %w", identity.ErrInvalidToken)
		}
		return basics(ctx, call)
	})
	s := start(t, h, func(o *mcphttp.Options) { o.Anonymous = true })
	nobody := s.session("2025-11-25", "{}", header{"Authorization": ""})
	call := `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"x"}}`
	if res := s.post(call, nobody); res.StatusCode != 401 || strings.Contains(res.Header.Get("WWW-Authenticate"), "error") {
		t.Errorf("%s %v", res.Status, res.Header)
	}
	if res := s.post(call, nobody, header{"Authorization": "Bearer alice"}); res.StatusCode != 200 {
		t.Errorf("the session does not go on after signing in: %s", res.Status)
	}
	if res := s.post(call, nobody, header{"Authorization": "Bearer nobody"}); res.StatusCode != 401 {
		t.Errorf("a wrong token counts as none: %s", res.Status)
	}
	if res := s.post(call, s.session("2025-11-25", "{}"), header{"Authorization": ""}); res.StatusCode != 404 {
		t.Errorf("a user's session without the user: %s", res.Status)
	}
}

func TestHandlerErrorsBecomeTheirHTTPAnswer(t *testing.T) {
	var fail error
	s := start(t, with("fail", func(ctx context.Context, call *mcphttp.Call) ([]byte, error) {
		if late, _ := jsonrpc.Lookup(call.Message.Params, "late"); late != nil {
			_ = call.Notify(ctx, jsonrpc.NewNotification("notifications/progress", nil))
		}
		return nil, fail
	}))
	tests := []struct {
		name      string
		err       error
		status    int
		code      int
		challenge string
	}{
		{"scope (RFC 6750 3.1)", fmt.Errorf("x: %w", &mcphttp.ScopeError{Scopes: []string{"a", "b"}}), 403, jsonrpc.CodeInvalidRequest, `scope="a b", error="insufficient_scope"`},
		{"token", fmt.Errorf("x: %w", identity.ErrInvalidToken), 401, jsonrpc.CodeInvalidRequest, `error="invalid_token"`},
		{"unavailable", fmt.Errorf("x: %w", identity.ErrUnavailable), 503, jsonrpc.CodeInternal, ""},
		{"JSON-RPC error", &jsonrpc.Error{Code: -32602, Message: "no such tool"}, 200, -32602, ""},
		{"any other", errors.New("canary-secret"), 200, jsonrpc.CodeInternal, ""},
		{"neither response nor error", nil, 200, jsonrpc.CodeInternal, ""},
	}
	legacy := s.session("2025-11-25", "{}")
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			fail = tt.err
			body, h := modern("1", "tools/call", `"name":"fail"`)
			for _, res := range []*http.Response{s.post(body, h), s.post(`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"fail"}}`, legacy)} {
				got := s.text(res)
				if res.StatusCode != tt.status || code(t, got) != tt.code || !strings.HasSuffix(res.Header.Get("WWW-Authenticate"), tt.challenge) {
					t.Errorf("%s %q %s", res.Status, res.Header.Get("WWW-Authenticate"), got)
				}
				if strings.Contains(got, "canary") {
					t.Error("the cause went to the client")
				}
			}
			body, h = modern("1", "tools/call", `"name":"fail","late":1`)
			e := s.events(s.post(body, h))
			e.next()
			if got, _ := e.next(); code(t, got) != tt.code {
				t.Errorf("on an open stream: %s", got)
			}
		})
	}
}

func TestPanicAnswersThatCallAndTheProcessLives(t *testing.T) {
	s := start(t, mcphttp.HandlerFunc(func(ctx context.Context, call *mcphttp.Call) ([]byte, error) {
		switch name, _ := jsonrpc.LookupString(call.Message.Params, "name"); name {
		case "value":
			panic("canary-secret")
		case "goexit":
			runtime.Goexit()
		case "runtime":
			_ = []int{}[len(name)]
		}
		if call.Message.Method == "notifications/boom" {
			panic(errors.New("canary-secret"))
		}
		return basics(ctx, call)
	}), func(o *mcphttp.Options) {
		o.Listen = func(context.Context, *mcphttp.Call, mcphttp.Filter) (mcphttp.Filter, error) { panic("canary-secret") }
	})
	legacy := s.session("2025-11-25", "{}")
	for _, name := range []string{"value", "runtime", "goexit"} {
		body, h := modern(`"x"`, "tools/call", `"name":"`+name+`"`)
		for _, res := range []*http.Response{s.post(body, h), s.post(`{"jsonrpc":"2.0","id":"x","method":"tools/call","params":{"name":"`+name+`"}}`, legacy)} {
			if got := s.text(res); got != `{"jsonrpc":"2.0","id":"x","error":{"code":-32603,"message":"internal error"}}` {
				t.Error(got)
			}
		}
	}
	if res := s.post(`{"jsonrpc":"2.0","method":"notifications/boom"}`, legacy); res.StatusCode != 202 {
		t.Error(res.Status)
	}
	body, h := modern("1", "subscriptions/listen", `"notifications":{}`)
	if got := s.text(s.post(body, h)); code(t, got) != jsonrpc.CodeInternal {
		t.Error(got)
	}
	logs := s.logs.String()
	if n := strings.Count(logs, "handler panicked"); n != 6 || strings.Contains(logs, "canary") || !strings.Contains(logs, "index out of range") {
		t.Errorf("%d panics logged: %s", n, logs)
	}
}

func TestOriginsAndHosts(t *testing.T) {
	local := start(t, nil, func(o *mcphttp.Options) { o.PublicURL = "http://localhost:8788/mcp" })
	public := start(t, nil, func(o *mcphttp.Options) {
		o.PublicURL = "https://MCP.example.com/team/mcp"
		o.AllowedOrigins = []string{"https://app.example.com", "http://localhost:6274"}
		o.AllowedHosts = []string{"forwarded.example:9000"}
	})
	open := start(t, nil, func(o *mcphttp.Options) { o.PublicURL, o.AllowedOrigins = "https://mcp.example.com/mcp", []string{"*"} })
	tests := []struct {
		name         string
		s            *server
		host, origin string
		status       int
	}{
		{"no Origin", local, "", "", 200},
		{"own origin", local, "", "http://localhost:8788", 200},
		{"another loopback origin", local, "", "http://127.0.0.1:6274", 200},
		{"IPv6 loopback origin", local, "", "http://[::1]:6274", 200},
		{"foreign origin", local, "", "https://evil.example", 403},
		{"rebound name as host and origin", local, "evil.example:8788", "http://evil.example:8788", 403},
		{"rebound name as host only", local, "evil.example", "", 403},
		{"name that begins like a loopback one", local, "127.0.0.1.evil.example", "", 403},
		{"localhost with a dot", local, "localhost.:8788", "", 200},
		{"IPv6 loopback host", local, "[::1]:8788", "", 200},
		{"IPv4-mapped loopback host", local, "[::ffff:127.0.0.1]:8788", "", 200},
		{"null", local, "", "null", 403},
		{"file", local, "", "file://", 403},
		{"user in the origin", local, "", "http://localhost:8788@evil.example", 403},
		{"public host behind a proxy on loopback", public, "mcp.example.com", "", 200},
		{"configured host", public, "forwarded.example:9000", "", 200},
		{"public origin", public, "", "https://mcp.example.com", 200},
		{"public origin with its default port", public, "", "https://mcp.example.com:443", 200},
		{"public origin on another port", public, "", "https://mcp.example.com:8443", 403},
		{"public origin over http", public, "", "http://mcp.example.com", 403},
		{"configured origin", public, "", "https://app.example.com", 200},
		{"configured loopback origin", public, "", "http://localhost:6274", 200},
		{"another loopback origin, server not on loopback", public, "", "http://localhost:6275", 403},
		{"suffix of a configured origin", public, "", "https://app.example.com.evil.example", 403},
		{"any origin", open, "", "https://evil.example", 200},
		{"null, though any", open, "", "null", 403},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			req := tt.s.request(initNow, header{"Origin": tt.origin})
			req.Host = tt.host
			res := tt.s.do(req)
			if res.StatusCode != tt.status {
				t.Errorf("%s", res.Status)
			}
			allowed := ""
			if tt.status == 200 {
				allowed = tt.origin
			}
			if got := res.Header.Get("Access-Control-Allow-Origin"); got != allowed {
				t.Errorf("Access-Control-Allow-Origin %q", got)
			}
		})
	}
	req := local.request(initNow)
	req.Header["Origin"] = []string{"http://localhost:1", "https://evil.example"}
	if res := local.do(req); res.StatusCode != 403 {
		t.Errorf("two origins: %s", res.Status)
	}
}

// Fetch standard, CORS protocol.
func TestBrowserClientsGetWhatTheyNeed(t *testing.T) {
	s := start(t, nil)
	origin := header{"Origin": "http://localhost:6274", "Authorization": ""}
	res := s.method(http.MethodOptions, origin, header{
		"Access-Control-Request-Method":  "POST",
		"Access-Control-Request-Headers": "authorization,content-type,mcp-method,mcp-param-region,x-evil,mcp-param-a\"b",
	})
	if res.StatusCode != http.StatusNoContent {
		t.Fatalf("preflight without a token: %s", res.Status)
	}
	allowed := strings.ToLower(res.Header.Get("Access-Control-Allow-Headers"))
	for _, name := range []string{"authorization", "content-type", "accept", "mcp-session-id", "mcp-protocol-version", "mcp-method", "mcp-name", "last-event-id", "mcp-param-region"} {
		if !strings.Contains(", "+allowed+",", ", "+name+",") {
			t.Errorf("%q is not allowed: %s", name, allowed)
		}
	}
	if strings.Contains(allowed, "x-evil") || strings.Contains(allowed, `"`) {
		t.Errorf("allowed: %s", allowed)
	}
	for _, m := range []string{"GET", "POST", "DELETE"} {
		if !strings.Contains(res.Header.Get("Access-Control-Allow-Methods"), m) {
			t.Errorf("%s is not allowed", m)
		}
	}
	for _, res := range []*http.Response{res, s.post(initNow, origin), s.post(initNow, header{"Origin": "http://localhost:6274"})} {
		h := res.Header
		if h.Get("Access-Control-Allow-Origin") != "http://localhost:6274" || h.Get("Access-Control-Allow-Credentials") != "" || h.Get("Vary") != "Origin" {
			t.Errorf("%s: %v", res.Status, h)
		}
		if e := h.Get("Access-Control-Expose-Headers"); !strings.Contains(e, "Mcp-Session-Id") || !strings.Contains(e, "WWW-Authenticate") {
			t.Errorf("%s exposes %q", res.Status, e)
		}
	}
	if res := s.method(http.MethodOptions, header{"Origin": "https://evil.example"}); res.StatusCode != 403 || res.Header.Get("Access-Control-Allow-Origin") != "" {
		t.Errorf("preflight of a foreign page: %s", res.Status)
	}
}

func TestBodies(t *testing.T) {
	s := start(t, nil, func(o *mcphttp.Options) { o.MaxBody = 1 << 20; o.ReadTimeout = 200 * time.Millisecond })
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	_, _ = z.Write([]byte(initNow))
	_ = z.Close()
	pad := func(n int) string { return initNow + strings.Repeat(" ", n-len(initNow)) }
	tests := []struct {
		name, body string
		h          header
		status     int
	}{
		{"text/plain", initNow, header{"Content-Type": "text/plain"}, 415},
		{"form", initNow, header{"Content-Type": "application/x-www-form-urlencoded"}, 415},
		{"no type", initNow, header{"Content-Type": ""}, 415},
		{"JSON of another kind", initNow, header{"Content-Type": "application/json-seq"}, 415},
		{"charset utf-8", initNow, header{"Content-Type": `application/JSON ; Charset="UTF-8"`}, 200},
		{"charset utf-16", initNow, header{"Content-Type": "application/json; charset=utf-16"}, 415},
		{"gzip", zipped.String(), header{"Content-Encoding": "gzip"}, 415},
		{"identity", initNow, header{"Content-Encoding": "identity"}, 200},
		{"at the limit", pad(1 << 20), nil, 200},
		{"over the limit", pad(1<<20 + 1), nil, 413},
		{"empty", "", nil, 400},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if res := s.post(tt.body, tt.h); res.StatusCode != tt.status || tt.status != 200 && code(t, s.text(res)) == 0 {
				t.Error(res.Status)
			}
		})
	}
	t.Run("over the limit, chunked", func(t *testing.T) {
		req := s.request("")
		req.Body, req.ContentLength = io.NopCloser(strings.NewReader(pad(1<<20+1))), -1
		if res := s.do(req); res.StatusCode != 413 {
			t.Error(res.Status)
		}
	})
	t.Run("at the limit, chunked", func(t *testing.T) {
		req := s.request("")
		req.Body, req.ContentLength = io.NopCloser(strings.NewReader(pad(1<<20))), -1
		if res := s.do(req); res.StatusCode != 200 {
			t.Error(res.Status)
		}
	})
	for auth, status := range map[string]string{"alice": "408", "nobody": "401"} {
		t.Run("never arrives, "+status, func(t *testing.T) {
			conn, err := net.Dial("tcp", strings.TrimSuffix(strings.TrimPrefix(s.url, "http://"), "/mcp"))
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			_, _ = fmt.Fprintf(conn, "POST /mcp HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{", auth)
			answer, err := io.ReadAll(conn) // until the server closes
			if err != nil || !bytes.HasPrefix(answer, []byte("HTTP/1.1 "+status)) {
				t.Errorf("%v %s", err, answer)
			}
		})
	}
	for rest, status := range map[string]string{"2\r\n{}\r\n": "408", "2\r\n{}\r\n0\r\nX-Trailer: and\r\n": "400"} {
		t.Run("chunks or trailers do not end, "+status, func(t *testing.T) {
			conn, err := net.Dial("tcp", strings.TrimSuffix(strings.TrimPrefix(s.url, "http://"), "/mcp"))
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			_, _ = fmt.Fprintf(conn, "POST /mcp HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer alice\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n%s", rest)
			answer, err := io.ReadAll(conn) // until the server closes
			if err != nil || !bytes.HasPrefix(answer, []byte("HTTP/1.1 "+status)) {
				t.Errorf("%v %s", err, answer)
			}
		})
	}
	t.Run("a slow call is not cut by the time for its body", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			slow := startBubble(t, with("slow", func(ctx context.Context, call *mcphttp.Call) ([]byte, error) {
				select {
				case <-ctx.Done():
					return nil, ctx.Err()
				case <-time.After(2 * time.Second):
					return jsonrpc.NewResult(call.Message.ID, nil), nil
				}
			}), func(o *mcphttp.Options) { o.ReadTimeout = time.Second })
			body, h := modern("1", "tools/call", `"name":"slow"`)
			if got := slow.text(slow.post(body, h)); code(t, got) != 0 {
				t.Error(got)
			}
		})
	})
	for _, m := range []string{"PUT", "PATCH", "HEAD"} {
		if res := s.method(m); res.StatusCode != 405 || res.Header.Get("Allow") == "" {
			t.Errorf("%s: %s", m, res.Status)
		}
	}
}

func TestBodyLimitOverHTTP2(t *testing.T) {
	o := options(nil, io.Discard)
	o.MaxBody = 1 << 20
	m, err := mcphttp.New(o)
	if err != nil {
		t.Fatal(err)
	}
	ts := httptest.NewUnstartedServer(m)
	ts.EnableHTTP2 = true
	ts.StartTLS()
	defer ts.Close()
	client := ts.Client()
	for n, status := range map[int]int{1 << 20: 200, 1<<20 + 1: 413, 8 << 20: 413} {
		req, _ := http.NewRequest(http.MethodPost, ts.URL, io.NopCloser(strings.NewReader(initNow+strings.Repeat(" ", n-len(initNow)))))
		req.Header = http.Header{"Content-Type": {"application/json"}, "Authorization": {"Bearer alice"}}
		res, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, res.Body)
		_ = res.Body.Close()
		if res.StatusCode != status || res.ProtoMajor != 2 {
			t.Errorf("%d bytes: %s %s", n, res.Proto, res.Status)
		}
	}
}

// The published stanza of a template that this server replaces puts the
// server's own secrets into the headers of the client.
func TestSecretsInHeadersAreIgnoredAndNamedOnce(t *testing.T) {
	got := make(chan http.Header, 8)
	s := start(t, mcphttp.HandlerFunc(func(ctx context.Context, call *mcphttp.Call) ([]byte, error) {
		got <- call.Header()
		return basics(ctx, call)
	}))
	for range 3 {
		res := s.post(initNow, header{
			"CLERK_SECRET_KEY": "canary-1", "Clerk-Client-Secret": "canary-2", "COOKIE_ENCRYPTION_KEY": "canary-3",
			"Cookie": "x=canary-4", "X-Forwarded-For": "canary-5", "Mcp-Param-Region": "eu", "Traceparent": "00-1",
		})
		if res.StatusCode != 200 {
			t.Fatal(res.Status)
		}
		h := <-got
		if h.Get("Mcp-Param-Region") != "eu" || h.Get("Traceparent") != "00-1" {
			t.Errorf("the handler misses headers: %v", h)
		}
		if strings.Contains(fmt.Sprint(h), "canary") || h.Get("Authorization") != "" || h.Get("Mcp-Session-Id") != "" {
			t.Errorf("the handler sees %v", h)
		}
	}
	logs := s.logs.String()
	for _, name := range []string{"Clerk_secret_key", "Clerk-Client-Secret", "Cookie_encryption_key"} {
		if strings.Count(logs, "header="+name) != 1 {
			t.Errorf("%q is not named once: %s", name, logs)
		}
	}
	if strings.Contains(logs, "canary") {
		t.Errorf("a secret is in the log: %s", logs)
	}
}

func TestResponseOverTheLimitIsAnError(t *testing.T) {
	s := start(t, with("big", func(_ context.Context, call *mcphttp.Call) ([]byte, error) {
		return jsonrpc.NewResult(call.Message.ID, map[string]any{"x": strings.Repeat("x", 2000)}), nil
	}), func(o *mcphttp.Options) { o.MaxResult = 1000 })
	body, h := modern("1", "tools/call", `"name":"big"`)
	if got := s.text(s.post(body, h)); code(t, got) != jsonrpc.CodeInternal || !strings.Contains(got, "over the limit") {
		t.Error(got)
	}
}

func TestOptionsAreCheckedAllAtOnce(t *testing.T) {
	_, err := mcphttp.New(mcphttp.Options{PublicURL: "http://[::1", Keys: [][]byte{{1}}})
	for _, fault := range []string{"Handler", "Verifier", "Challenge", "shorter than 16", "missing ']'"} {
		if err == nil || !strings.Contains(err.Error(), fault) {
			t.Errorf("%q is not said: %v", fault, err)
		}
	}
}
