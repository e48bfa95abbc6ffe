package transport_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mcp-clerk/mcp-clerk/internal/jsonrpc"
	"github.com/mcp-clerk/mcp-clerk/internal/transport"
)

const callTool = `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"add","arguments":{"a":1,"b":2}}}`

func TestCallIsSentAsItIsAndAnsweredByJSON(t *testing.T) {
	raw := `{ "method":"tools/call","params" : {"name":"a","n":9007199254740993,"s":"‹<\u00e9"},"id":12345678901234567890, "jsonrpc":"2.0","x":[1.0]}`
	answer := `{"jsonrpc":"2.0","id":12345678901234567890,"result":{"n":1.50,"m":"<>"},"extra":null}`
	srv := serve(t, func(w http.ResponseWriter, _ *http.Request) { answerJSON(w, 200, "\n"+answer+"\n") })
	var got received
	if err := newClient(t, srv.URL).Do(t.Context(), transport.Call{Message: message(t, raw), Deliver: got.add}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{answer}, got.all()); diff != "" {
		t.Errorf("delivered: (-want +got)\n%s", diff)
	}
	req := srv.seen()[0]
	if req.Body != raw || req.Method != "POST" {
		t.Errorf("sent %s %s", req.Method, req.Body)
	}
	for name, want := range map[string]string{
		"Content-Type": "application/json", "Accept": "application/json, text/event-stream",
		"Mcp-Session-Id": "", "Mcp-Protocol-Version": "", "Mcp-Method": "", "Authorization": "", "Origin": "",
	} {
		if got := req.Header.Get(name); got != want {
			t.Errorf("header %s: got %q, want %q", name, got, want)
		}
	}
}

func TestCallIsAnsweredByEventStream(t *testing.T) {
	progress := `{"jsonrpc":"2.0","method":"notifications/progress","params":{"progress":1}}`
	ask := `{"jsonrpc":"2.0","id":"s1","method":"roots/list"}`
	srv := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		send := stream(w)
		send(": hello\n\nid: 1\ndata:\n\ndata: %s\n\n", progress)
		send("event: ping\ndata: not for us\n\nevent: message\rdata: %s\r\r", ask)
		send("data: no JSON\n\ndata: {\"jsonrpc\":\"2.0\",\r\ndata: \"id\":1,\"result\":{}}\r\n\r\n")
		send("data: %s\n\n", `{"jsonrpc":"2.0","id":1,"result":{"second":true}}`)
		send("data: %s\n\n", progress)
	})
	var got received
	if err := newClient(t, srv.URL).Do(t.Context(), transport.Call{Message: message(t, callTool), Deliver: got.add}); err != nil {
		t.Fatal(err)
	}
	want := []string{progress, ask, "{\"jsonrpc\":\"2.0\",\n\"id\":1,\"result\":{}}", progress}
	if diff := cmp.Diff(want, got.all()); diff != "" {
		t.Errorf("delivered: (-want +got)\n%s", diff)
	}
}

// 2026-07-28, basic/transports/streamable-http, "Request Metadata".
func TestModernCallCarriesItsHeaders(t *testing.T) {
	meta := `"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}`
	tests := []struct{ method, params, name string }{
		{"tools/call", `"name":"get_weather",`, "get_weather"},
		{"tools/call", `"name":"wétter",`, "=?base64?d8OpdHRlcg==?="},
		{"prompts/get", `"name":"p\u0041",`, "pA"},
		{"resources/read", `"uri":"file:///a b","name":"no",`, "file:///a b"},
		{"tools/list", `"name":"no",`, ""},
		{"server/discover", ``, ""},
	}
	for _, tt := range tests {
		srv := serve(t, func(w http.ResponseWriter, r *http.Request) { answerJSON(w, 200, result(envelope(r))) })
		c := newClient(t, srv.URL)
		raw := fmt.Sprintf(`{"jsonrpc":"2.0","id":1,"method":%q,"params":{%s%s}}`, tt.method, tt.params, meta)
		call := transport.Call{Message: message(t, raw), Header: http.Header{"Mcp-Param-Region": {"us-west1"}}}
		// A session does not touch a modern message.
		if err := c.NewSession(nil).Do(t.Context(), call); err != nil {
			t.Fatal(err)
		}
		h := srv.seen()[0].Header
		got := []string{h.Get("Mcp-Protocol-Version"), h.Get("Mcp-Method"), h.Get("Mcp-Name"), h.Get("Mcp-Param-Region")}
		if diff := cmp.Diff([]string{"2026-07-28", tt.method, tt.name, "us-west1"}, got); diff != "" {
			t.Errorf("%s: (-want +got)\n%s", raw, diff)
		}
	}
}

func TestNotificationIsAccepted(t *testing.T) {
	for _, status := range []int{200, 202, 204} {
		srv := serve(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) })
		err := newClient(t, srv.URL).Do(t.Context(), transport.Call{Message: message(t, `{"jsonrpc":"2.0","method":"notifications/x"}`)})
		if err != nil {
			t.Errorf("%d: %v", status, err)
		}
	}
	srv := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		answerJSON(w, 400, `{"jsonrpc":"2.0","error":{"code":-32600,"message":"bad\u001b[31m thing"}}`)
	})
	err := newClient(t, srv.URL).Do(t.Context(), transport.Call{Message: message(t, `{"jsonrpc":"2.0","method":"notifications/x"}`)})
	if e, ok := errors.AsType[*transport.StatusError](err); !ok || e.Status != 400 || e.Detail != "bad[31m thing" {
		t.Errorf("refused notification: %v", err)
	}
}

// An error response under another status is still the request's response, also
// when the server did not read its id (2025-11-25, schema "JSONRPCErrorResponse").
func TestErrorResponseIsDeliveredUnderTheRequestsID(t *testing.T) {
	tests := []struct {
		status           int
		body, want, kind string
	}{
		{400, `{"jsonrpc":"2.0","id":1,"error":{"code":-32020,"message":"m","data":{"a":1.0}}}`, `{"jsonrpc":"2.0","id":1,"error":{"code":-32020,"message":"m","data":{"a":1.0}}}`, "application/json"},
		{404, `{"jsonrpc":"2.0","id":1,"error":{"code":-32601,"message":"m"}}`, `{"jsonrpc":"2.0","id":1,"error":{"code":-32601,"message":"m"}}`, "application/json"},
		{400, `{"jsonrpc":"2.0","id":null,"error":{"code":-32000,"message":"m"}}`, `{"jsonrpc":"2.0","id":1,"error":{"code":-32000,"message":"m"}}`, "application/json"},
		{500, `{"jsonrpc":"2.0","error":{"code":-32603,"message":"m"}}`, `{"jsonrpc":"2.0","id":1,"error":{"code":-32603,"message":"m"}}`, "text/plain"},
		{400, `{"jsonrpc":"2.0","id":"server-error","error":{"code":-32600,"message":"m"}}`, `{"jsonrpc":"2.0","id":1,"error":{"code":-32600,"message":"m"}}`, "application/json"},
		{403, `{"jsonrpc":"2.0","id":null,"error":{"code":-32000,"message":"Origin"}}`, `{"jsonrpc":"2.0","id":1,"error":{"code":-32000,"message":"Origin"}}`, "application/json"},
	}
	for _, tt := range tests {
		srv := serve(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", tt.kind)
			w.WriteHeader(tt.status)
			_, _ = io.WriteString(w, tt.body)
		})
		var got received
		if err := newClient(t, srv.URL).Do(t.Context(), transport.Call{Message: message(t, callTool), Deliver: got.add}); err != nil {
			t.Errorf("%d %s: %v", tt.status, tt.body, err)
		}
		if diff := cmp.Diff([]string{tt.want}, got.all()); diff != "" {
			t.Errorf("%d %s: (-want +got)\n%s", tt.status, tt.body, diff)
		}
	}
}

// Some servers read ids as floating-point numbers, or give numbers back as strings.
func TestResponseUnderAMangledIDIsThisRequests(t *testing.T) {
	for id, back := range map[string]string{"9007199254740993": "9007199254740992", "1": `"1"`, `"a\u0041"`: `"aA"`, "1.0": "1"} {
		srv := serve(t, func(w http.ResponseWriter, _ *http.Request) {
			answerJSON(w, 200, `{"jsonrpc":"2.0","id":`+back+`,"result":{}}`)
		})
		var got received
		raw := `{"jsonrpc":"2.0","id":` + id + `,"method":"ping"}`
		if err := newClient(t, srv.URL).Do(t.Context(), transport.Call{Message: message(t, raw), Deliver: got.add}); err != nil {
			t.Errorf("%s: %v", id, err)
		}
		if diff := cmp.Diff([]string{`{"jsonrpc":"2.0","id":` + id + `,"result":{}}`}, got.all()); diff != "" {
			t.Errorf("%s: (-want +got)\n%s", id, diff)
		}
	}
}

// Clients that read an answer as text never see it (WHATWG Encoding, "UTF-8 decode").
func TestByteOrderMarkInFrontOfAnAnswerIsNotPartOfIt(t *testing.T) {
	srv := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		answerJSON(w, 200, "\xef\xbb\xbf"+`{"jsonrpc":"2.0","id":1,"result":{}}`)
	})
	var got received
	if err := newClient(t, srv.URL).Do(t.Context(), transport.Call{Message: message(t, callTool), Deliver: got.add}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{`{"jsonrpc":"2.0","id":1,"result":{}}`}, got.all()); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestAnswerThatIsNoResponseNamesHostAndStatus(t *testing.T) {
	tests := []struct {
		name   string
		status int
		kind   string
		body   string
		detail string
	}{
		{"captive portal", 200, "text/html; charset=utf-8", "<html>log in</html>", `content type is "text/html`},
		{"no content", 204, "", "", "no response"},
		{"accepted without a response", 202, "", "", "no response"},
		{"partial content", 206, "application/json", `{"jsonrpc":"2.0","id":1,"result":{}}`, "no response"},
		{"wrong type", 200, "text/plain", `{"jsonrpc":"2.0","id":1,"result":{}}`, `content type is "text/plain`},
		{"direction marks in the type", 200, "text/\u202ex", "", `content type is`},
		{"truncated JSON", 200, "application/json", `{"jsonrpc":"2.0","id":1,"resu`, "no JSON-RPC message"},
		{"empty", 200, "application/json", "", "empty"},
		{"two values", 200, "application/json", `{"jsonrpc":"2.0","id":1,"result":{}}{}`, "no JSON-RPC message"},
		{"another request's response", 200, "application/json", `{"jsonrpc":"2.0","id":2,"result":{}}`, "answers another request"},
		{"too large", 200, "application/json", `{"jsonrpc":"2.0","id":1,"result":{"a":"` + strings.Repeat("x", 2000) + `"}}`, "limit"},
		{"event too large", 200, "text/event-stream", "data: " + strings.Repeat("x", 2000) + "\n\n", "limit"},
		{"server error in HTML", 502, "text/html", "<h1>\x1b[31mBad</h1>", "no JSON-RPC"},
		{"server error in text", 500, "text/plain", "out of\x1b[31m\n  order\u202e\r", "out of[31m order"},
		{"not found", 404, "text/plain", "404 page not found\n", "404 page not found"},
		{"forbidden", 403, "text/plain", "no", "no"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			srv := serve(t, func(w http.ResponseWriter, _ *http.Request) {
				w.Header()["Content-Type"] = []string{tt.kind}
				w.WriteHeader(tt.status)
				_, _ = io.WriteString(w, tt.body)
			})
			c := newClient(t, srv.URL, func(o *transport.Options) { o.MaxMessage = 1000 })
			var got received
			err := c.Do(t.Context(), transport.Call{Message: message(t, callTool), Deliver: got.add})
			e, ok := errors.AsType[*transport.StatusError](err)
			if !ok {
				t.Fatalf("got %v", err)
			}
			if e.Status != tt.status || e.Host != strings.TrimPrefix(srv.URL, "http://") || !strings.Contains(e.Detail, tt.detail) {
				t.Errorf("got %v", err)
			}
			if strings.ContainsAny(err.Error(), "\x1b\x07\n\r\u202e") {
				t.Errorf("the error is not harmless: %q", err.Error())
			}
			if len(got.all()) != 0 || srv.count("POST") != 1 {
				t.Errorf("delivered %q after %d requests", got.all(), srv.count("POST"))
			}
		})
	}
}

func TestAnswerIsCappedWhateverItsLength(t *testing.T) {
	tests := map[string]http.HandlerFunc{
		"gzip bomb": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.Header().Set("Content-Encoding", "gzip")
			z := gzip.NewWriter(w)
			_, _ = io.CopyN(z, &repeat{bytes.Repeat([]byte{' '}, 32<<10), 1 << 20}, 1<<30)
			_ = z.Close()
		},
		"endless JSON": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			_, _ = io.CopyN(w, &repeat{bytes.Repeat([]byte{'['}, 32<<10), 1 << 20}, 1<<40)
		},
		"endless line": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/event-stream")
			_, _ = io.CopyN(w, &repeat{bytes.Repeat([]byte{'x'}, 32<<10), 1 << 20}, 1<<40)
		},
		"a declared length": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.Header().Set("Content-Length", "10000000000")
			_, _ = io.WriteString(w, "{")
		},
		"tiny events": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/event-stream")
			_, _ = io.CopyN(w, &repeat{bytes.Repeat([]byte("id:1\n\n"), 4<<10), 1 << 20}, 1<<40)
		},
	}
	for name, h := range tests {
		t.Run(name, func(t *testing.T) {
			srv := serve(t, h)
			c := newClient(t, srv.URL, func(o *transport.Options) { o.MaxMessage = 1 << 20 })
			err := c.Do(t.Context(), transport.Call{Message: message(t, callTool)})
			if e, ok := errors.AsType[*transport.StatusError](err); !ok || e.Status != 200 {
				t.Errorf("got %v", err)
			}
		})
	}
}

// RFC 9110 section 15.4; the bearer and the extra headers go to the exact origin only.
func TestRedirects(t *testing.T) {
	for _, status := range []int{301, 302, 303, 307, 308} {
		t.Run(fmt.Sprint("to another port ", status), func(t *testing.T) {
			other := serve(t, func(w http.ResponseWriter, r *http.Request) { answerJSON(w, 200, result(envelope(r))) })
			srv := serve(t, func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, other.URL+"/mcp", status) })
			c := newClient(t, srv.URL, func(o *transport.Options) {
				o.Authorizer = &authorizer{token: "secret"}
				o.Header = http.Header{"X-Key": {"secret"}}
			})
			err := c.Do(t.Context(), transport.Call{Message: message(t, callTool)})
			if e, ok := errors.AsType[*transport.StatusError](err); !ok || e.Status != status || !strings.Contains(e.Detail, other.URL) {
				t.Errorf("POST: got %v", err)
			}
			session := c.NewSession(nil)
			session.Close(t.Context())
			if n := len(other.seen()); n != 0 {
				t.Errorf("%d requests reached the other origin", n)
			}
		})
		t.Run(fmt.Sprint("same origin ", status), func(t *testing.T) {
			srv := serve(t, func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/mcp" {
					http.Redirect(w, r, "/mcp/", status)
					return
				}
				answerJSON(w, 200, result(envelope(r)))
			})
			c := newClient(t, srv.URL+"/mcp", func(o *transport.Options) { o.Authorizer = &authorizer{token: "secret"} })
			err := c.Do(t.Context(), transport.Call{Message: message(t, callTool)})
			if keeps := status == 307 || status == 308; keeps && err != nil || !keeps && err == nil {
				t.Errorf("got %v", err)
			}
			for _, r := range srv.seen() {
				if r.Method != "POST" || r.Body != callTool || r.Header.Get("Authorization") != "Bearer secret" {
					t.Errorf("a request went out as %+v", r)
				}
			}
		})
	}
	t.Run("in a circle", func(t *testing.T) {
		srv := serve(t, func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/mcp", 307) })
		err := newClient(t, srv.URL+"/mcp").Do(t.Context(), transport.Call{Message: message(t, callTool)})
		if _, ok := errors.AsType[*transport.StatusError](err); !ok || srv.count("POST") > 5 {
			t.Errorf("%d requests, then %v", srv.count("POST"), err)
		}
	})
}

func TestExtraHeadersGoAlongAndStayOutOfTheLog(t *testing.T) {
	srv := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "0")
		w.WriteHeader(429)
	})
	var log bytes.Buffer
	c := newClient(t, srv.URL+"/mcp?key=canary", func(o *transport.Options) {
		o.Header = http.Header{"X-Api-Key": {"canary"}, "Accept": {"text/html"}, "Authorization": {"Basic canary"}}
		o.UserAgent = "mcp-clerk/1"
		o.Authorizer = &authorizer{token: ""}
		o.Log = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	})
	err := c.Do(t.Context(), transport.Call{Message: message(t, callTool)})
	if err == nil || strings.Contains(err.Error(), "canary") {
		t.Errorf("got %v", err)
	}
	h := srv.seen()[0].Header
	if h.Get("X-Api-Key") != "canary" || h.Get("Authorization") != "Basic canary" || h.Get("User-Agent") != "mcp-clerk/1" || !strings.Contains(h.Get("Accept"), "text/event-stream") {
		t.Errorf("headers %v", h)
	}
	if log.Len() == 0 || strings.Contains(log.String(), "canary") {
		t.Errorf("log: %s", log.String())
	}
}

func TestBusyServerIsAskedAgain(t *testing.T) {
	type row struct {
		name       string
		status     int
		after      string
		method     string
		requests   int
		least, top time.Duration
	}
	const tool = "tools/call"
	rows := []row{
		{"seconds", 429, "2", tool, 3, 4 * time.Second, 5 * time.Second},
		{"a fraction", 429, "0.5", tool, 3, time.Second, 2 * time.Second},
		{"a date", 429, "Sat, 01 Jan 2000 00:00:03 GMT", tool, 3, 3 * time.Second, 4 * time.Second},
		{"a date that has passed", 429, "Fri, 31 Dec 1999 00:00:00 GMT", tool, 3, 0, time.Second},
		{"ten years", 429, "315360000", tool, 3, 40 * time.Second, 45 * time.Second},
		{"a date in ten years", 429, "Sat, 01 Jan 2010 00:00:00 GMT", tool, 3, 40 * time.Second, 45 * time.Second},
		{"negative", 429, "-5", tool, 3, 0, 3 * time.Second},
		{"nonsense", 429, "NaN", tool, 3, 0, 3 * time.Second},
		{"none", 429, "", tool, 3, 0, 3 * time.Second},
		{"unavailable, a tool call may have run", 503, "1", tool, 1, 0, 0},
		{"unavailable", 503, "1", "tools/list", 3, 2 * time.Second, 3 * time.Second},
	}
	for _, tt := range rows {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv, c, _ := serveMemory(t, func(w http.ResponseWriter, _ *http.Request) {
					w.Header().Set("Retry-After", tt.after)
					w.WriteHeader(tt.status)
				})
				began := time.Now()
				err := c.Do(t.Context(), transport.Call{Message: message(t, `{"jsonrpc":"2.0","id":1,"method":"`+tt.method+`"}`)})
				if e, ok := errors.AsType[*transport.StatusError](err); !ok || e.Status != tt.status {
					t.Errorf("got %v", err)
				}
				if took := time.Since(began); srv.count("POST") != tt.requests || took < tt.least || took > tt.top {
					t.Errorf("%d requests in %v", srv.count("POST"), took)
				}
			})
		})
	}
}

func TestWaitForABusyServerEndsWithTheCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, c, _ := serveMemory(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "10")
			w.WriteHeader(429)
		})
		why := errors.New("why")
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, why)
		defer cancel()
		began := time.Now()
		err := c.Do(ctx, transport.Call{Message: message(t, callTool)})
		if !errors.Is(err, why) || time.Since(began) != time.Second {
			t.Errorf("got %v after %v", err, time.Since(began))
		}
	})
}

// 2026-07-28, basic/transports/streamable-http, "Cancellation": closing the
// response stream is the cancellation.
func TestEndOfTheContextClosesTheRequest(t *testing.T) {
	for _, streaming := range []bool{false, true} {
		arrived, closed := make(chan struct{}), make(chan struct{})
		srv := serve(t, func(w http.ResponseWriter, r *http.Request) {
			if streaming {
				stream(w)
			}
			close(arrived)
			<-r.Context().Done()
			close(closed)
		})
		ctx, cancel := context.WithCancelCause(t.Context())
		why := errors.New("why")
		go func() {
			<-arrived
			cancel(why)
		}()
		if err := newClient(t, srv.URL).Do(ctx, transport.Call{Message: message(t, callTool)}); !errors.Is(err, why) {
			t.Errorf("got %v", err)
		}
		<-closed
	}
}

func TestErrorOfTheReceiverEndsTheCall(t *testing.T) {
	full := errors.New("full")
	srv := serve(t, func(w http.ResponseWriter, r *http.Request) {
		stream(w)("id: 1\ndata: %s\n\n", `{"jsonrpc":"2.0","method":"notifications/progress"}`)
		<-r.Context().Done()
	})
	err := newClient(t, srv.URL).Do(t.Context(), transport.Call{Message: message(t, callTool), Deliver: func(*jsonrpc.Message) error { return full }})
	if !errors.Is(err, full) {
		t.Errorf("got %v", err)
	}
}

// A server that keeps a stream open behind the response does not keep the call.
func TestStreamOpenBehindTheResponseIsLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, c, _ := serveMemory(t, func(w http.ResponseWriter, r *http.Request) {
			stream(w)("data: %s\n\n", result(envelope(r)))
			<-r.Context().Done()
		})
		var got received
		if err := c.Do(t.Context(), transport.Call{Message: message(t, callTool), Deliver: got.add}); err != nil || len(got.all()) != 1 {
			t.Errorf("got %q, %v", got.all(), err)
		}
	})
}

func TestManyCallsAtOnce(t *testing.T) {
	srv := serve(t, func(w http.ResponseWriter, r *http.Request) {
		m := envelope(r)
		if len(m.ID)%2 == 0 {
			answerJSON(w, 200, result(m))
		} else {
			stream(w)("data: %s\n\n", result(m))
		}
	})
	c := newClient(t, srv.URL)
	var wg sync.WaitGroup
	for i := range 200 {
		wg.Go(func() {
			var got received
			raw := fmt.Sprintf(`{"jsonrpc":"2.0","id":%d,"method":"ping"}`, i)
			if err := c.Do(t.Context(), transport.Call{Message: message(t, raw), Deliver: got.add}); err != nil {
				t.Error(err)
			}
			if diff := cmp.Diff([]string{fmt.Sprintf(`{"jsonrpc":"2.0","id":%d,"result":{}}`, i)}, got.all()); diff != "" {
				t.Error(diff)
			}
		})
	}
	wg.Wait()
}

func TestNewClientRefusesOtherURLs(t *testing.T) {
	for _, url := range []string{"", "server", "/mcp", "ftp://a/b", "file:///etc/passwd", "https://", "http://user:pw@host/mcp", "http://a b/"} {
		if _, err := transport.NewClient(transport.Options{URL: url}); err == nil || strings.Contains(err.Error(), "pw") {
			t.Errorf("%q: got %v", url, err)
		}
	}
}

func BenchmarkCall(b *testing.B) {
	for name, h := range map[string]http.HandlerFunc{
		"json": func(w http.ResponseWriter, r *http.Request) { answerJSON(w, 200, result(envelope(r))) },
		"sse":  func(w http.ResponseWriter, r *http.Request) { stream(w)("data: %s\n\n", result(envelope(r))) },
	} {
		b.Run(name, func(b *testing.B) {
			srv := serve(b, h)
			c := newClient(b, srv.URL)
			m := message(b, callTool)
			b.ReportAllocs()
			for b.Loop() {
				if err := c.Do(b.Context(), transport.Call{Message: m}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// What a user's header says of the connection is not the connection's: net/http
// would go on to use one that the server has been told to close.
func TestHeadersOfTheConnectionAreNotTheUsers(t *testing.T) {
	s := serve(t, func(w http.ResponseWriter, r *http.Request) { answerJSON(w, 200, result(envelope(r))) })
	c := newClient(t, s.URL, func(o *transport.Options) {
		o.Header = http.Header{"Connection": {"close"}, "Te": {"trailers"}, "Upgrade": {"h2c"}, "X-Own": {"kept"}}
	})
	if err := c.Do(t.Context(), transport.Call{Message: message(t, callTool)}); err != nil {
		t.Fatal(err)
	}
	h := s.seen()[0].Header
	if h.Get("Connection")+h.Get("Te")+h.Get("Upgrade") != "" || h.Get("X-Own") != "kept" {
		t.Errorf("the server got %v", h)
	}
}
