package mcphttp_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"

	"github.com/mcp-clerk/mcp-clerk/internal/jsonrpc"
	"github.com/mcp-clerk/mcp-clerk/internal/mcphttp"
)

// 2026-07-28, basic/transports/streamable-http (Request Metadata), basic/index
// (_meta) and basic/versioning.
func TestModernRequestsAreHeldAgainstTheirHeaders(t *testing.T) {
	s := start(t, nil)
	const (
		version = `"io.modelcontextprotocol/protocolVersion":"2026-07-28"`
		caps    = `"io.modelcontextprotocol/clientCapabilities":{}`
		info    = `"io.modelcontextprotocol/clientInfo":{"name":"t","version":"1"}`
	)
	body := func(method, params string) string {
		return `{"jsonrpc":"2.0","id":7,"method":"` + method + `","params":` + params + `}`
	}
	full := `{"_meta":{` + version + `,` + info + `,` + caps + `}`
	list := body("tools/list", full+`}`)
	call := func(name string) string { return body("tools/call", full+`,"name":`+name+`}`) }
	h := func(pairs ...string) header {
		out := header{"MCP-Protocol-Version": "2026-07-28", "Mcp-Method": "tools/list"}
		for i := 0; i < len(pairs); i += 2 {
			out[pairs[i]] = pairs[i+1]
		}
		return out
	}
	tools := func(name string) header { return h("Mcp-Method", "tools/call", "Mcp-Name", name) }
	tests := []struct {
		name, body string
		h          header
		status     int
		code       int
	}{
		{"complete", list, h(), 200, 0},
		{"without clientInfo, which is optional", body("tools/list", `{"_meta":{`+version+`,`+caps+`}}`), h(), 200, 0},
		{"session id is ignored (Earlier Revisions)", list, h("Mcp-Session-Id", "whatever"), 200, 0},
		{"Last-Event-ID is ignored (Earlier Revisions)", list, h("Last-Event-ID", "1"), 200, 0},

		{"version header missing", list, h("MCP-Protocol-Version", ""), 400, jsonrpc.CodeHeaderMismatch},
		{"version header unlike the body", list, h("MCP-Protocol-Version", "2025-11-25"), 400, jsonrpc.CodeHeaderMismatch},
		{"body version unlike the header", strings.Replace(list, "2026-07-28", "v999.0.0", 1), h(), 400, jsonrpc.CodeHeaderMismatch},
		{"method header missing", list, h("Mcp-Method", ""), 400, jsonrpc.CodeHeaderMismatch},
		{"method header missing and no _meta", body("tools/list", `{}`), h("Mcp-Method", ""), 400, jsonrpc.CodeHeaderMismatch},
		{"method header unlike the body", list, h("Mcp-Method", "prompts/list"), 400, jsonrpc.CodeHeaderMismatch},
		{"method header in another case", list, h("Mcp-Method", "TOOLS/LIST"), 400, jsonrpc.CodeHeaderMismatch},
		{"name header", call(`"add"`), tools("add"), 200, 0},
		{"name header with white space around (RFC 9110 5.5)", call(`"add"`), tools("  add  "), 200, 0},
		{"name header missing", call(`"add"`), h("Mcp-Method", "tools/call"), 400, jsonrpc.CodeHeaderMismatch},
		{"name header unlike the body", call(`"add"`), tools("sub"), 400, jsonrpc.CodeHeaderMismatch},
		{"name header for a body without", body("tools/call", full+`}`), tools("add"), 400, jsonrpc.CodeHeaderMismatch},
		{"name header for a name that is no string", call(`1`), tools("1"), 400, jsonrpc.CodeHeaderMismatch},
		{"name in Base64 (Value Encoding)", call(`"Hello, 世界"`), tools("=?base64?SGVsbG8sIOS4lueVjA==?="), 200, 0},
		{"name that looks encoded", call(`"=?base64?literal?="`), tools("=?base64?PT9iYXNlNjQ/bGl0ZXJhbD89?="), 200, 0},
		{"name in broken Base64", call(`"a"`), tools("=?base64?***?="), 400, jsonrpc.CodeHeaderMismatch},
		{"name in Base64 of no UTF-8", call(`"a"`), tools("=?base64?/w==?="), 400, jsonrpc.CodeHeaderMismatch},
		{"name in raw UTF-8", call(`"é"`), tools("é"), 400, jsonrpc.CodeHeaderMismatch},
		{"uri header", body("resources/read", full+`,"uri":"file:///a"}`), h("Mcp-Method", "resources/read", "Mcp-Name", "file:///a"), 200, 0},
		{"uri header unlike the body", body("resources/read", full+`,"uri":"file:///a"}`), h("Mcp-Method", "resources/read", "Mcp-Name", "file:///b"), 400, jsonrpc.CodeHeaderMismatch},
		{"prompt header", body("prompts/get", full+`,"name":"p"}`), h("Mcp-Method", "prompts/get", "Mcp-Name", "p"), 200, 0},
		{"task header unlike the body", body("tasks/get", full+`,"taskId":"1"}`), h("Mcp-Method", "tasks/get", "Mcp-Name", "2"), 400, jsonrpc.CodeHeaderMismatch},

		{"_meta missing", body("tools/list", `{}`), h(), 400, jsonrpc.CodeInvalidParams},
		{"params missing", `{"jsonrpc":"2.0","id":7,"method":"tools/list"}`, h(), 400, jsonrpc.CodeInvalidParams},
		{"version missing in _meta", body("tools/list", `{"_meta":{`+caps+`}}`), h(), 400, jsonrpc.CodeInvalidParams},
		{"version no string", body("tools/list", `{"_meta":{"io.modelcontextprotocol/protocolVersion":20260728,`+caps+`}}`), h(), 400, jsonrpc.CodeInvalidParams},
		{"capabilities missing", body("tools/list", `{"_meta":{`+version+`,`+info+`}}`), h(), 400, jsonrpc.CodeInvalidParams},
		{"capabilities null", body("tools/list", `{"_meta":{`+version+`,"io.modelcontextprotocol/clientCapabilities":null}}`), h(), 400, jsonrpc.CodeInvalidParams},
		{"clientInfo no object", body("tools/list", `{"_meta":{`+version+`,`+caps+`,"io.modelcontextprotocol/clientInfo":"x"}}`), h(), 400, jsonrpc.CodeInvalidParams},
		{"log level unknown", body("tools/list", `{"_meta":{`+version+`,`+caps+`,"io.modelcontextprotocol/logLevel":"loud"}}`), h(), 400, jsonrpc.CodeInvalidParams},

		{"version unknown", strings.Replace(list, "2026-07-28", "1900-01-01", 1), h("MCP-Protocol-Version", "1900-01-01"), 400, jsonrpc.CodeUnsupportedVersion},
		{"version of the future", strings.Replace(list, "2026-07-28", "2099-01-01", 1), h("MCP-Protocol-Version", "2099-01-01"), 400, jsonrpc.CodeUnsupportedVersion},
		{"version of the future in the header only", body("tools/list", `{}`), h("MCP-Protocol-Version", "2099-01-01"), 400, jsonrpc.CodeUnsupportedVersion},
		{"version of a session, without one", strings.Replace(list, "2026-07-28", "2025-11-25", 1), h("MCP-Protocol-Version", "2025-11-25"), 400, jsonrpc.CodeUnsupportedVersion},

		{"unknown method", body("nothing", full+`}`), h("Mcp-Method", "nothing"), 404, jsonrpc.CodeMethodNotFound},
		{"initialize, which is gone", body("initialize", full+`}`), h("Mcp-Method", "initialize"), 404, jsonrpc.CodeMethodNotFound},
		{"a response (Sending Messages, 4)", `{"jsonrpc":"2.0","id":7,"result":{}}`, h(), 400, jsonrpc.CodeInvalidRequest},
		{"a batch", "[" + list + "]", h(), 400, jsonrpc.CodeInvalidRequest},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			res := s.post(tt.body, tt.h)
			got := s.text(res)
			if res.StatusCode != tt.status || code(t, got) != tt.code {
				t.Fatalf("%s %s", res.Status, got)
			}
			if id, _ := jsonrpc.Lookup(json.RawMessage(got), "id"); string(id) != "7" && !strings.HasPrefix(tt.body, "[") && strings.Contains(tt.body, "method") {
				t.Errorf("id %s", id)
			}
			if res.Header.Get("Mcp-Session-Id") != "" {
				t.Error("a session id was minted")
			}
		})
	}
	t.Run("a header twice", func(t *testing.T) {
		for _, name := range []string{"MCP-Protocol-Version", "Mcp-Method", "Mcp-Name"} {
			req := s.request(call(`"add"`), tools("add"))
			req.Header.Add(name, req.Header.Get(name))
			if res := s.do(req); res.StatusCode != 400 || code(t, s.text(res)) != jsonrpc.CodeHeaderMismatch {
				t.Errorf("%s: %s", name, res.Status)
			}
		}
	})
	t.Run("header names in any case", func(t *testing.T) {
		req := s.request(list)
		req.Header["mcp-method"], req.Header["MCP-PROTOCOL-VERSION"] = []string{"tools/list"}, []string{"2026-07-28"}
		if res := s.do(req); res.StatusCode != 200 {
			t.Error(res.Status)
		}
	})
}

func TestUnsupportedVersionErrorListsWhatIsServed(t *testing.T) {
	s := start(t, nil)
	for version, supported := range map[string][]string{
		"1900-01-01": mcphttp.SupportedVersions,
		"2025-06-18": {"2026-07-28"}, // served, but not without a session
	} {
		body, h := modern("1", "server/discover", "")
		h["MCP-Protocol-Version"] = version
		var got struct {
			Error struct {
				Data struct {
					Supported []string
					Requested string
				}
			}
		}
		if err := json.Unmarshal([]byte(s.text(s.post(strings.ReplaceAll(body, "2026-07-28", version), h))), &got); err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(supported, got.Error.Data.Supported); d != "" || got.Error.Data.Requested != version {
			t.Errorf("requested %q: %s", got.Error.Data.Requested, d)
		}
	}
}

// basic/versioning, Compatibility Matrix: _meta makes a request modern,
// initialize without it is legacy, whatever the header says.
func TestEraOfARequest(t *testing.T) {
	s := start(t, nil)
	session := s.session("2025-11-25", `{}`)
	full, fullHeaders := modern("1", "tools/call", `"name":"x"`)
	plain := `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"x"}}`
	tests := []struct {
		name, body string
		h          []header
		status     int
		want       string
	}{
		{"_meta and a session id: modern", full, []header{session, fullHeaders}, 200, "2026-07-28"},
		{"session id only: legacy", plain, []header{session}, 200, "2025-11-25"},
		{"session id and a stray legacy version in _meta: legacy",
			strings.Replace(plain, `{"name"`, `{"_meta":{"io.modelcontextprotocol/protocolVersion":"2025-11-25"},"name"`, 1), []header{session}, 200, "2025-11-25"},
		{"initialize under a modern header: legacy", fmt.Sprintf(initialize, "2025-11-25", "{}"), []header{{"MCP-Protocol-Version": "2026-07-28"}}, 200, "2025-11-25"},
		{"initialize that asks for the modern version: an offer, no -32022", fmt.Sprintf(initialize, "2026-07-28", "{}"), nil, 200, "2025-11-25"},
		{"initialize that asks for nonsense", fmt.Sprintf(initialize, "1999-01-01", "{}"), nil, 200, "2025-11-25"},
		{"nothing at all", plain, nil, 400, "Mcp-Session-Id"},
		{"GET of a modern client", "GET", []header{{"MCP-Protocol-Version": "2026-07-28"}}, 405, "2026-07-28"},
		{"DELETE of a modern client", "DELETE", []header{{"MCP-Protocol-Version": "2026-07-28"}}, 405, "2026-07-28"},
		{"GET without a session", "GET", nil, 400, "Mcp-Session-Id"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var res *http.Response
			if tt.body == "GET" || tt.body == "DELETE" {
				res = s.method(tt.body, tt.h...)
			} else {
				res = s.post(tt.body, tt.h...)
			}
			if got := s.text(res); res.StatusCode != tt.status || !strings.Contains(got, tt.want) {
				t.Errorf("%s %s", res.Status, got)
			}
		})
	}
}

func TestModernErrorsHaveTheirStatus(t *testing.T) {
	var code int
	s := start(t, with("fail", func(_ context.Context, call *mcphttp.Call) ([]byte, error) {
		return jsonrpc.NewError(call.Message.ID, code, "failed", nil), nil
	}))
	for c, status := range map[int]int{-32601: 404, -32020: 400, -32021: 400, -32022: 400, -32600: 400, -32602: 200, -32603: 200, 42: 200} {
		code = c
		body, h := modern("1", "tools/call", `"name":"fail"`)
		if res := s.post(body, h); res.StatusCode != status {
			t.Errorf("%d: %s", c, res.Status)
		}
		legacy := s.session("2025-11-25", "{}")
		if res := s.post(`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"fail"}}`, legacy); res.StatusCode != 200 {
			t.Errorf("legacy %d: %s", c, res.Status)
		}
	}
}

func TestModernAnswerComesInAFormTheClientTakes(t *testing.T) {
	s := start(t, with("work", progress(1)))
	body, h := modern("1", "tools/call", `"name":"work"`)
	h["Accept"] = "text/event-stream"
	ping, hp := modern("1", "server/discover", "")
	hp["Accept"] = "text/event-stream"
	e := s.events(s.post(ping, hp))
	e.want(`{"jsonrpc":"2.0","id":1,"result":{}}`)
	e.end()
	e = s.events(s.post(body, h))
	e.next()
	e.want(`{"jsonrpc":"2.0","id":1,"result":{"token":null}}`)
	hp["Accept"] = "application/json"
	if got := s.text(s.post(ping, hp)); got != `{"jsonrpc":"2.0","id":1,"result":{}}` {
		t.Error(got)
	}
}

// Cancellation: "Closing the SSE response stream MUST be treated by the server
// as cancellation of that request."
func TestClosedStreamCancelsTheModernRequestAndNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWaiter()
		s := startBubble(t, with("wait", w.handle), nil)
		body, h := modern("1", "tools/call", `"name":"wait"`)
		ctx, cancel := context.WithCancel(t.Context())
		gone := make(chan error, 1)
		go func() {
			_, err := s.http.Do(s.request(body, h).WithContext(ctx))
			gone <- err
		}()
		<-w.started
		stays := make(chan *http.Response, 1)
		go func() { stays <- s.post(body, h) }()
		<-w.started
		// A message cancels nothing here, the same user's neither.
		if res := s.post(cancelled("1"), header{"MCP-Protocol-Version": "2026-07-28"}); res.StatusCode != http.StatusAccepted {
			t.Error(res.Status)
		}
		cancel()
		if err := <-gone; !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		<-w.cancelled
		synctest.Wait()
		if len(w.cancelled) > 0 {
			t.Fatal("the other request was cancelled")
		}
		w.release <- ""
		if got := s.text(<-stays); code(t, got) != 0 {
			t.Error(got)
		}
	})
}

func TestModernCallHasNoRequestsToTheClient(t *testing.T) {
	s := start(t, with("ask", ask("elicitation/create", `{}`)))
	body, h := modern("1", "tools/call", `"name":"ask"`)
	if got := s.text(s.post(body, h)); !strings.Contains(got, "takes no requests") {
		t.Error(got)
	}
}

// server/utilities/logging: "The server MUST NOT emit notifications/message
// for a request that does not include this field."
func TestModernLogLevelIsPerRequest(t *testing.T) {
	s := start(t, with("log", func(ctx context.Context, call *mcphttp.Call) ([]byte, error) {
		for _, level := range []string{"debug", "warning", "emergency"} {
			_ = call.Notify(ctx, jsonrpc.NewNotification("notifications/message", map[string]any{"level": level}))
		}
		_ = call.Notify(ctx, jsonrpc.NewNotification("notifications/progress", map[string]any{"message": "notifications/message"}))
		return jsonrpc.NewResult(call.Message.ID, nil), nil
	}))
	for level, want := range map[string]int{"": 0, "debug": 3, "warning": 2, "emergency": 1} {
		body, h := modern("1", "tools/call", `"name":"log"`)
		if level != "" {
			body = strings.Replace(body, `"_meta":{`, `"_meta":{"io.modelcontextprotocol/logLevel":"`+level+`",`, 1)
		}
		e, n := s.events(s.post(body, h)), 0
		for raw, ok := e.next(); ok; raw, ok = e.next() {
			if method, _ := jsonrpc.LookupString(json.RawMessage(raw), "method"); method == "notifications/message" {
				n++
			}
		}
		if n != want {
			t.Errorf("level %q: %d messages, want %d", level, n, want)
		}
	}
}

// basic/patterns/subscriptions.
func TestSubscription(t *testing.T) {
	ended := make(chan struct{}, 8)
	s := start(t, nil, func(o *mcphttp.Options) {
		o.Listen = func(ctx context.Context, _ *mcphttp.Call, want mcphttp.Filter) (mcphttp.Filter, error) {
			if len(want.ResourceSubscriptions) == 1 && want.ResourceSubscriptions[0] == "file:///forbidden" {
				return want, &mcphttp.ScopeError{Scopes: []string{"resources"}}
			}
			context.AfterFunc(ctx, func() { ended <- struct{}{} })
			want.PromptsListChanged = false // not supported here
			return want, nil
		}
	})
	listen := func(id, notifications string, more ...header) *http.Response {
		body, h := modern(id, "subscriptions/listen", `"notifications":`+notifications)
		return s.post(body, append([]header{h}, more...)...)
	}
	tools := s.events(listen(`"t-1"`, `{"toolsListChanged":true,"promptsListChanged":true}`))
	tools.want(`{"jsonrpc":"2.0","method":"notifications/subscriptions/acknowledged","params":{"_meta":{"io.modelcontextprotocol/subscriptionId":"t-1"},"notifications":{"toolsListChanged":true}}}`)
	files := s.events(listen(`9007199254740993`, `{"resourcesListChanged":true,"resourceSubscriptions":["file:///a"]}`, header{"Authorization": "Bearer bob"}))
	files.want(`{"jsonrpc":"2.0","method":"notifications/subscriptions/acknowledged","params":{"_meta":{"io.modelcontextprotocol/subscriptionId":9007199254740993},"notifications":{"resourcesListChanged":true,"resourceSubscriptions":["file:///a"]}}}`)

	for _, raw := range []string{
		`{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}`,
		`{"jsonrpc":"2.0","method":"notifications/prompts/list_changed"}`,
		`{"jsonrpc":"2.0","method":"notifications/resources/updated","params":{"uri":"file:///ab"}}`,
		`{"jsonrpc":"2.0","method":"notifications/resources/updated","params":{"uri":"file:///a","_meta":{"x":1.0,"io.modelcontextprotocol/subscriptionId":"upstream's"}}}`,
		`{"jsonrpc":"2.0","method":"notifications/resources/list_changed","params":{}}`,
		`{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"error"}}`,
	} {
		if err := s.Notify(nil, []byte(raw)); err != nil {
			t.Fatal(err)
		}
	}
	tools.want(`{"jsonrpc":"2.0","method":"notifications/tools/list_changed","params":{"_meta":{"io.modelcontextprotocol/subscriptionId":"t-1"}}}`)
	files.want(`{"jsonrpc":"2.0","method":"notifications/resources/updated","params":{"_meta":{"io.modelcontextprotocol/subscriptionId":9007199254740993,"x":1.0},"uri":"file:///a"}}`)
	files.want(`{"jsonrpc":"2.0","method":"notifications/resources/list_changed","params":{"_meta":{"io.modelcontextprotocol/subscriptionId":9007199254740993}}}`)

	files.close()
	<-ended
	eventually(t, "the closed stream is forgotten", func() bool { return len(s.Listening()) == 1 })

	for name, tt := range map[string]struct {
		res    *http.Response
		status int
	}{
		"no filter":           {listen("1", `null`), 200},
		"filter of no object": {listen("1", `[]`), 200},
		"wrong types":         {listen("1", `{"toolsListChanged":"yes"}`), 200},
		"refused":             {listen("1", `{"resourceSubscriptions":["file:///forbidden"]}`), 403},
		"no events accepted":  {listen("1", `{}`, header{"Accept": "application/json"}), 406},
	} {
		if got := s.text(tt.res); tt.res.StatusCode != tt.status || code(t, got) == 0 {
			t.Errorf("%s: %s %s", name, tt.res.Status, got)
		}
	}
	// Graceful Closure: the server's end of a subscription is its result.
	done := make(chan error, 1)
	go func() { done <- s.Shutdown(context.Background()) }()
	tools.want(`{"jsonrpc":"2.0","id":"t-1","result":{"resultType":"complete","_meta":{"io.modelcontextprotocol/subscriptionId":"t-1"}}}`)
	tools.end()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// A listening stream stays for hours, and costs what it is worth: not the
// message that opened it, and no more than so much of what it asks for.
func TestAListeningStreamHoldsNothingOfItsRequest(t *testing.T) {
	s := start(t, nil)
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	listen := func(id, notifications string) *http.Response {
		body, h := modern(id, "subscriptions/listen", `"notifications":`+notifications)
		return s.post(body, h)
	}
	body, h := modern("1", "subscriptions/listen", `"notifications":{"toolsListChanged":true},"beside":"`+strings.Repeat("x", 1<<20)+`"`)
	var request bytes.Buffer
	if err := s.request(body, h).Write(&request); err != nil {
		t.Fatal(err)
	}
	const streams = 32
	before := heap()
	for range streams {
		conn, err := net.Dial("tcp", strings.TrimSuffix(strings.TrimPrefix(s.url, "http://"), "/mcp"))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := conn.Write(request.Bytes()); err != nil { // by hand: a client would hold it as well
			t.Fatal(err)
		}
		for in := bufio.NewReader(conn); ; {
			line, err := in.ReadString('\n')
			if err != nil {
				t.Fatal(err)
			}
			if strings.Contains(line, "acknowledged") {
				break
			}
		}
	}
	if grown := int64(heap()) - int64(before); grown > streams<<20/2 {
		t.Errorf("%d streams hold %d MiB", streams, grown>>20)
	}
	for name, res := range map[string]*http.Response{
		"URIs":  listen("1", `{"resourceSubscriptions":["`+strings.Repeat("u", 40<<10)+`"]}`),
		"an id": listen(`"`+strings.Repeat("i", 40<<10)+`"`, `{}`),
	} {
		if got := s.text(res); code(t, got) != jsonrpc.CodeInvalidParams {
			t.Errorf("large %s: %.200s", name, got)
		}
	}
}
