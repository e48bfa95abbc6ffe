package server_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/mark3labs/mcp-go/mcp"
	mcpserver "github.com/mark3labs/mcp-go/server"

	"github.com/mcp-clerk/mcp-clerk/internal/devclerk"
	"github.com/mcp-clerk/mcp-clerk/server"
)

func TestRequireScopePanicsOnWhatIsNoScope(t *testing.T) {
	r := start(t, nil, nil)
	h := func(context.Context, mcp.CallToolRequest) (*mcp.CallToolResult, error) { return nil, nil }
	for _, bad := range [][2]string{{"", "x"}, {"a b", "x"}, {"mcp:mail", " "}, {"mcp:tools", "x"}, {"offline_access", "x"}} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("RequireScope(%q, %q) was accepted", bad[0], bad[1])
				}
			}()
			r.srv.AddTool(mcp.NewTool("mail"), h, server.RequireScope(bad[0], bad[1]))
		}()
	}
}

func TestAddToolPanicsOnWhatCannotBeServed(t *testing.T) {
	srv, err := server.New(t.Context(), valid())
	if err != nil {
		t.Fatal(err)
	}
	defer srv.Close()
	fine := func(context.Context, mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		return mcp.NewToolResultText(""), nil
	}
	for name, add := range map[string]func(){
		"no name":         func() { srv.AddTool(mcp.NewTool(""), fine) },
		"a space":         func() { srv.AddTool(mcp.NewTool("two words"), fine) },
		"a long name":     func() { srv.AddTool(mcp.NewTool(strings.Repeat("x", 129)), fine) },
		"no handler":      func() { srv.AddTool(mcp.NewTool("x"), nil) },
		"a broken schema": func() { srv.AddTool(mcp.NewToolWithRawSchema("x", "", json.RawMessage(`{"type":7}`)), fine) },
		"a remote schema": func() {
			srv.AddTool(mcp.NewToolWithRawSchema("x", "", json.RawMessage(`{"$ref":"https://example.com/schema"}`)), fine)
		},
		"a file schema": func() {
			srv.AddTool(mcp.NewToolWithRawSchema("x", "", json.RawMessage(`{"$ref":"file:///etc/passwd"}`)), fine)
		},
		"no role":       func() { server.RequireRole() },
		"an empty role": func() { server.RequireRole("admin", "") },
	} {
		t.Run(name, func(t *testing.T) {
			defer func() {
				if recover() == nil {
					t.Error("no panic")
				}
			}()
			add()
		})
	}
}

func TestArgumentsAreCheckedAgainstTheSchema(t *testing.T) {
	r := start(t, nil, func(s *server.Server) {
		tool := mcp.NewTool("greet", mcp.WithString("name", mcp.Required(), mcp.MaxLength(5)), mcp.WithInteger("times", mcp.Max(3)), mcp.WithSchemaAdditionalProperties(false))
		s.AddTool(tool, func(_ context.Context, req mcp.CallToolRequest) (*mcp.CallToolResult, error) {
			return mcp.NewToolResultText("hello " + req.GetString("name", "")), nil
		})
	})
	c := r.stateless(r.signIn(plainMail).Access)
	if got := c.tool("greet", `{"name":"Ada","times":3}`); got.text() != "hello Ada" {
		t.Errorf("%+v", got)
	}
	for arguments, want := range map[string]string{
		`{}`:                        "missing property 'name'",
		`{"name":5}`:                "'/name': got number, want string",
		`{"name":"Ada","times":4}`:  "'/times': maximum",
		`{"name":"Ada","other":1}`:  "'other' not allowed",
		`{"name":"Adalbert <b>é"}`:  "'/name': maxLength",
		`{"name":7,"times":"many"}`: "; ",
	} {
		got := c.tool("greet", arguments)
		if !got.IsError || !strings.Contains(got.text(), want) || strings.Contains(got.text(), "urn:") || strings.Contains(got.text(), "\n") {
			t.Errorf("greet %s: %q (isError %t), want a refusal with %q", arguments, got.text(), got.IsError, want)
		}
	}
}

func TestFailuresOfToolsStayInside(t *testing.T) {
	const canary = "canary-from-the-database"
	r := start(t, nil, func(s *server.Server) {
		s.AddTool(mcp.NewTool("fails"), func(context.Context, mcp.CallToolRequest) (*mcp.CallToolResult, error) {
			return nil, errors.New(canary)
		})
		s.AddTool(mcp.NewTool("panics"), func(context.Context, mcp.CallToolRequest) (*mcp.CallToolResult, error) {
			panic(canary)
		})
		s.AddTool(mcp.NewTool("nothing"), func(context.Context, mcp.CallToolRequest) (*mcp.CallToolResult, error) {
			return nil, nil
		})
		s.AddTool(mcp.NewTool("unencodable"), func(context.Context, mcp.CallToolRequest) (*mcp.CallToolResult, error) {
			return mcp.NewToolResultStructuredOnly(map[string]any{"f": func() {}}), nil
		})
		s.AddTool(mcp.NewTool("unavailable"), func(context.Context, mcp.CallToolRequest) (*mcp.CallToolResult, error) {
			return nil, fmt.Errorf("ask %s: %w", canary, server.ErrUnavailable)
		})
	})
	for era, c := range r.both(r.signIn(plainMail).Access) {
		for _, name := range []string{"fails", "panics", "nothing", "unencodable"} {
			m, _ := c.call("tools/call", name, `{"name":"`+name+`"}`)
			if m.Error == nil || m.Error.Code != -32603 || strings.Contains(m.Error.Message, canary) {
				t.Errorf("%s: %s: result %s, error %+v", era, name, m.Result, m.Error)
			}
		}
		if res := c.tool("unavailable", `{}`); !res.IsError || strings.Contains(res.text(), canary) {
			t.Errorf("%s: unavailable: %+v", era, res)
		}
		if got := c.tool("add", `{"a":1,"b":2}`).text(); got != "3" {
			t.Errorf("%s: add afterwards: %q", era, got)
		}
	}
	if !strings.Contains(r.log.String(), canary) {
		t.Error("the cause is not in the log")
	}
}

func TestHandlersKnowTheirCaller(t *testing.T) {
	r := start(t, nil, func(s *server.Server) {
		s.AddTool(mcp.NewTool("who"), func(ctx context.Context, _ mcp.CallToolRequest) (*mcp.CallToolResult, error) {
			p := server.Principal(ctx)
			user, err := server.CurrentUser(ctx)
			if err != nil {
				return nil, err
			}
			text := p.Subject + " " + p.ClientID + " " + user.Email + " " + strings.Join(user.Roles, ",") + " " + strings.Join(p.Scopes, ",")
			user.Email, user.Roles[0] = "changed", "changed" // nobody else's
			return mcp.NewToolResultText(text), nil
		})
	})
	held := r.signIn(adminMail)
	want := devclerk.AdminID + " " + held.client + " " + adminMail + " admin mcp:tools,mcp:images,offline_access"
	for range 2 {
		if got := r.legacy(held.Access).tool("who", `{}`).text(); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	if p := server.Principal(t.Context()); p != nil {
		t.Errorf("a principal outside of a request: %+v", p)
	}
	if _, err := server.CurrentUser(t.Context()); err == nil {
		t.Error("a user outside of a request")
	}
	if err := server.Progress(t.Context(), 1, 2, ""); err == nil {
		t.Error("progress outside of a request")
	}
}

// What a handler sends through the engine's own functions is delivered as
// well, all of it, in order with Progress, before the result. (The engine by
// itself drops what does not fit into a channel of 100.)
func TestNotificationsThroughTheEngineAreNotLost(t *testing.T) {
	const n = 5000
	r := start(t, nil, func(s *server.Server) {
		s.AddTool(mcp.NewTool("chatty"), func(ctx context.Context, _ mcp.CallToolRequest) (*mcp.CallToolResult, error) {
			engine := mcpserver.ServerFromContext(ctx)
			for i := range n {
				if err := engine.SendNotificationToClient(ctx, "notifications/progress", map[string]any{"progressToken": "t", "progress": i}); err != nil {
					return nil, err
				}
				if i%1000 == 999 {
					if err := server.Progress(ctx, float64(i)+0.5, 0, ""); err != nil {
						return nil, err
					}
				}
			}
			return mcp.NewToolResultText("done"), nil
		})
	})
	for era, c := range r.both(r.signIn(plainMail).Access) {
		_, before := c.toolWith("chatty", `{}`, `{"progressToken":"t"}`)
		if len(before) != n+n/1000 {
			t.Errorf("%s: %d notifications, want %d", era, len(before), n+n/1000)
		}
		last := -1.0
		for _, m := range before {
			var p struct {
				Progress float64 `json:"progress"`
			}
			if err := json.Unmarshal(m.Params, &p); err != nil {
				t.Fatal(err)
			}
			if p.Progress <= last {
				t.Fatalf("%s: progress %v after %v", era, p.Progress, last)
			}
			last = p.Progress
		}
	}
}

// askName needs a name, asks for it, and greets. One handler serves both eras.
func askName(_ context.Context, req mcp.CallToolRequest) (*mcp.CallToolResult, error) {
	if answer := mcpserver.ElicitationResponse(req.Params.InputResponses, "name"); answer != nil {
		content, _ := answer.Content.(map[string]any)
		return mcp.NewToolResultText(fmt.Sprintf("%s %v (%s)", answer.Action, content["name"], req.Params.RequestState)), nil
	}
	return mcpserver.NewInputRequestBuilder("state-1").Elicit("name", mcp.ElicitationParams{
		Message: "Your name?", RequestedSchema: map[string]any{"type": "object", "properties": map[string]any{"name": map[string]any{"type": "string"}}},
	}).ToolResult(), nil
}

func TestAToolMayAskItsUserInBothEras(t *testing.T) {
	r := start(t, nil, func(s *server.Server) { s.AddTool(mcp.NewTool("hello"), askName) })
	token := r.signIn(plainMail).Access

	t.Run("2025-11-25", func(t *testing.T) {
		c := &client{r: r, token: token, caps: `{"elicitation":{}}`}
		c.initialize()
		var asked message
		c.onAsk = func(m message) {
			asked = m
			c.post(`{"jsonrpc":"2.0","id":`+string(m.ID)+`,"result":{"action":"accept","content":{"name":"Ada"}}}`, "").Body.Close()
		}
		got := c.tool("hello", `{}`)
		if asked.Method != "elicitation/create" || got.text() != "accept Ada (state-1)" {
			t.Errorf("asked by %q, got %+v", asked.Method, got)
		}
	})
	t.Run("2025-11-25 without the capability", func(t *testing.T) {
		m, _ := r.legacy(token).call("tools/call", "hello", `{"name":"hello","arguments":{}}`)
		if m.Error == nil {
			t.Errorf("result %s", m.Result)
		}
	})
	t.Run("2026-07-28", func(t *testing.T) {
		c := r.stateless(token)
		c.caps = `{"elicitation":{"form":{}}}`
		m, _ := c.call("tools/call", "hello", `{"name":"hello","arguments":{}}`)
		var asked struct {
			ResultType    string                     `json:"resultType"`
			InputRequests map[string]json.RawMessage `json:"inputRequests"`
			RequestState  string                     `json:"requestState"`
		}
		if m.Error != nil || json.Unmarshal(m.Result, &asked) != nil || asked.ResultType != "input_required" || asked.InputRequests["name"] == nil {
			t.Fatalf("%s %+v", m.Result, m.Error)
		}
		m, _ = c.call("tools/call", "hello", `{"name":"hello","arguments":{},"inputResponses":{"name":{"action":"accept","content":{"name":"Ada"}}},"requestState":"`+asked.RequestState+`"}`)
		if m.Error != nil || !strings.Contains(string(m.Result), "accept Ada (state-1)") {
			t.Errorf("%s %+v", m.Result, m.Error)
		}
	})
	t.Run("2026-07-28 without the capability", func(t *testing.T) {
		// basic/index, "Error Codes": -32021 with the missing ones, and 400.
		c := r.stateless(token)
		resp := c.post(`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":`+c.withMeta(`{"name":"hello","arguments":{}}`)+`}`, "hello")
		m := c.read(resp)[0]
		if resp.StatusCode != http.StatusBadRequest || m.Error == nil || m.Error.Code != -32021 || string(m.Error.Data) != `{"requiredCapabilities":{"elicitation":{}}}` {
			t.Errorf("%s %s %+v", resp.Status, m.Result, m.Error)
		}
	})
}

func TestHeadersThatMirrorArgumentsAreChecked(t *testing.T) {
	r := start(t, nil, func(s *server.Server) {
		tool := mcp.NewToolWithRawSchema("query", "", json.RawMessage(`{"type":"object","properties":{"region":{"type":"string","x-mcp-header":"Region"}}}`))
		s.AddTool(tool, func(context.Context, mcp.CallToolRequest) (*mcp.CallToolResult, error) {
			return mcp.NewToolResultText("ran"), nil
		})
	})
	c := r.stateless(r.signIn(plainMail).Access)
	for header, ok := range map[string]bool{"eu-west-1": true, "us-east-1": false, "": false, "eu-west-1 us-east-1": false, "eu-west-1 eu-west-1": false} {
		c.headers = http.Header{}
		for _, value := range strings.Fields(header) {
			c.headers.Add("Mcp-Param-Region", value)
		}
		m, _ := c.call("tools/call", "query", `{"name":"query","arguments":{"region":"eu-west-1"}}`)
		if ok != (m.Error == nil) || !ok && m.Error.Code != -32020 {
			t.Errorf("header %q: result %s, error %+v", header, m.Result, m.Error)
		}
	}
}

func TestATokenWithoutTheScopeIsAskedToStepUp(t *testing.T) {
	r := start(t, nil, nil)
	held := r.signIn(plainMail)
	resp, err := http.PostForm(r.url+"/token", map[string][]string{"grant_type": {"refresh_token"}, "refresh_token": {held.Refresh}, "client_id": {held.client}, "scope": {"offline_access"}})
	if err != nil {
		t.Fatal(err)
	}
	var narrow tokens
	decode(t, resp, http.StatusOK, &narrow)
	for _, method := range []string{"tools/list", "tools/call"} {
		c := r.stateless(narrow.Access)
		resp := c.post(`{"jsonrpc":"2.0","id":1,"method":"`+method+`","params":`+c.withMeta(`{"name":"add","arguments":{"a":1,"b":1}}`)+`}`, "add")
		resp.Body.Close()
		challenge := resp.Header.Get("WWW-Authenticate")
		if resp.StatusCode != http.StatusForbidden || !strings.Contains(challenge, `error="insufficient_scope"`) || !strings.Contains(challenge, `scope="mcp:tools"`) {
			t.Errorf("%s: %s %q", method, resp.Status, challenge)
		}
	}
}

// listen opens the stream for changes, subscriptions/listen or a session's GET,
// and returns a function that waits for the next notification of it.
func (c *client) listen() func() message {
	t := c.r.t
	t.Helper()
	if c.modern {
		return messagesOf(t, c.post(`{"jsonrpc":"2.0","id":"sub","method":"subscriptions/listen","params":`+c.withMeta(`{"notifications":{"toolsListChanged":true,"promptsListChanged":true}}`)+`}`, ""))
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, c.r.srv.URL(), nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header = http.Header{"Accept": {"text/event-stream"}, "Authorization": {"Bearer " + c.token}, "Mcp-Session-Id": {c.session}, "Mcp-Protocol-Version": {"2025-11-25"}}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	return messagesOf(t, resp)
}

func messagesOf(t testing.TB, resp *http.Response) func() message {
	t.Helper()
	t.Cleanup(func() { resp.Body.Close() })
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("stream for changes: %s", resp.Status)
	}
	messages := make(chan message)
	go func() {
		defer close(messages)
		lines := bufio.NewScanner(resp.Body)
		for lines.Scan() {
			if data, ok := strings.CutPrefix(lines.Text(), "data:"); ok {
				var m message
				if json.Unmarshal([]byte(data), &m) == nil {
					messages <- m
				}
			}
		}
	}()
	return func() message {
		t.Helper()
		select {
		case m := <-messages: // zero when the stream has ended
			return m
		case <-time.After(20 * time.Second):
			t.Fatal("no message on the stream")
			return message{}
		}
	}
}

func TestListenersHearThatTheToolsChanged(t *testing.T) {
	r := start(t, nil, func(s *server.Server) { s.SetWatchInterval(20 * time.Millisecond) })
	token := r.signIn(adminMail).Access
	modern, legacy := r.stateless(token).listen(), r.legacy(token).listen()
	ack := modern()
	// Only what can be served is acknowledged.
	if ack.Method != "notifications/subscriptions/acknowledged" || !strings.Contains(string(ack.Params), `"toolsListChanged":true`) || strings.Contains(string(ack.Params), "prompts") {
		t.Fatalf("first message %+v", ack)
	}
	hears := func(why string) {
		t.Helper()
		for era, next := range map[string]func() message{"2026-07-28": modern, "2025-11-25": legacy} {
			if m := next(); m.Method != "notifications/tools/list_changed" {
				t.Errorf("%s: after %s: %+v", era, why, m)
			}
		}
	}
	r.srv.AddTool(mcp.NewTool("later"), func(context.Context, mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		return mcp.NewToolResultText(""), nil
	})
	hears("AddTool")
	r.surveyed()
	if err := r.clerk.SetRole(devclerk.AdminID, ""); err != nil {
		t.Fatal(err)
	}
	hears("the demotion")
	if err := r.clerk.Ban(devclerk.AdminID); err != nil {
		t.Fatal(err)
	}
	hears("the ban")
}

// A tool for an organisation's role: who joins hears of it within a minute.
func TestListenersHearOfAnOrganisation(t *testing.T) {
	r := start(t, nil, func(s *server.Server) {
		s.SetWatchInterval(20 * time.Millisecond)
		s.AddTool(mcp.NewTool("audit"), func(context.Context, mcp.CallToolRequest) (*mcp.CallToolResult, error) {
			return mcp.NewToolResultText("audited"), nil
		}, server.RequireRole("org:audit:run"))
	})
	next := r.stateless(r.signIn(plainMail).Access).listen()
	next() // the acknowledgement
	r.advance(61 * time.Second)
	r.surveyed()
	if err := r.clerk.AddMembership(devclerk.MemberID, devclerk.Membership{OrgID: "org_1", Role: "org:member", Permissions: []string{"org:audit:run"}}); err != nil {
		t.Fatal(err)
	}
	r.advance(61 * time.Second)
	if m := next(); m.Method != "notifications/tools/list_changed" {
		t.Errorf("%+v", m)
	}
}

// surveyed waits until the users who listen have been looked at: the first look
// notes what they have, and a change must come after it. The looks follow each
// other, so the start of the next one tells that one is over; those without
// organisations ask each time, the others when an answer is a minute old.
func (r *rig) surveyed() {
	r.t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for range 2 {
		asked := r.clerk.Requests("GET /v1/users")
		for r.clerk.Requests("GET /v1/users") == asked {
			if time.Now().After(deadline) {
				r.t.Fatal("nobody was looked at")
			}
			time.Sleep(5 * time.Millisecond)
			if time.Until(deadline) < 19*time.Second {
				r.advance(61 * time.Second)
			}
		}
	}
}

func TestWorkersAIBehindTheServer(t *testing.T) {
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, `{"success":true,"result":{"image":"/9j/4AAQSkZJRg=="}}`)
	}))
	defer api.Close()
	r := start(t, nil, func(s *server.Server) {
		s.AddBuiltinTools(server.BuiltinTools{Image: server.WorkersAIAt(api.URL, "account", "token", nil), ImageRoles: []string{"painter"}})
	})
	if err := r.clerk.SetPublicMetadata(devclerk.MemberID, map[string]any{"role": []string{"reader", "painter"}}); err != nil {
		t.Fatal(err)
	}
	admin, painter := r.stateless(r.signIn(adminMail).Access), r.stateless(r.signIn(plainMail).Access)
	if res := admin.tool("generateImage", `{"prompt":"x"}`); !res.IsError || !strings.Contains(res.text(), "the role painter") {
		t.Errorf("admin: %+v", res)
	}
	if res := painter.tool("generateImage", `{"prompt":"x"}`); res.IsError || res.Content[0].MIMEType != "image/jpeg" {
		t.Errorf("painter: %+v", res)
	}
}

// The definitions arrive as they were written, in both eras.
func TestToolDefinitionsOnTheWire(t *testing.T) {
	r := start(t, nil, nil)
	for era, c := range r.both(r.signIn(adminMail).Access) {
		_, result := c.list()
		list, _ := result["tools"].([]any)
		got := map[string]string{}
		for _, tool := range list {
			tool := tool.(map[string]any)
			got[tool["name"].(string)] = fmt.Sprint(tool["title"], " ", tool["inputSchema"] != nil, " ", tool["outputSchema"] != nil, " ", tool["annotations"].(map[string]any)["readOnlyHint"])
		}
		want := map[string]string{
			"add":           "Add two numbers true true true",
			"generateImage": "Generate an image true false true",
			"userInfo":      "Who am I true true true",
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", era, diff)
		}
	}
}

// A tool out of time is answered for, whether it heeds its context or not.
func TestToolsHaveADeadline(t *testing.T) {
	release := make(chan struct{})
	strays := make(chan error, 2)
	r := start(t, nil, func(s *server.Server) {
		s.AddTool(mcp.NewTool("slow"), func(ctx context.Context, _ mcp.CallToolRequest) (*mcp.CallToolResult, error) {
			<-ctx.Done()
			return nil, fmt.Errorf("wait: %w", ctx.Err())
		}, server.Timeout(50*time.Millisecond))
		s.AddTool(mcp.NewTool("stubborn"), func(ctx context.Context, _ mcp.CallToolRequest) (*mcp.CallToolResult, error) {
			<-release
			strays <- server.Progress(ctx, 1, 2, "late")
			return mcp.NewToolResultText("late"), nil
		}, server.Timeout(50*time.Millisecond))
	})
	for era, c := range r.both(r.signIn(plainMail).Access) {
		for _, name := range []string{"slow", "stubborn"} {
			res, _ := c.toolWith(name, `{}`, `{"progressToken":1}`)
			if !res.IsError || res.text() != name+" did not finish within 50ms" {
				t.Errorf("%s: %s: %q (isError %t)", era, name, res.text(), res.IsError)
			}
		}
	}
	close(release)
	for range 2 {
		if err := <-strays; err == nil {
			t.Error("a tool that was left to itself could still reach the client")
		}
	}
}
