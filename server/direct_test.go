package server_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"regexp"
	"strings"
	"testing"

	"github.com/mark3labs/mcp-go/mcp"
	mcpserver "github.com/mark3labs/mcp-go/server"

	"github.com/mcp-clerk/mcp-clerk/server"
)

// A call that is answered without the engine is answered as the engine would:
// the same requests go both ways, and what comes back is the same, byte by byte.
func TestCallsWithoutTheEngineAreAnsweredAsByIt(t *testing.T) {
	r := start(t, func(o *server.Options) {
		o.Public = true
		o.UserRate = 1e6
		o.WebsiteURL = "https://example.com/?a=1&b=2"
	}, addOddTools)
	random := rand.New(rand.NewPCG(1, 2))
	pick := func(from ...string) string { return from[random.IntN(len(from))] }
	tools := []string{"add", "userInfo", "generateImage", "nonesuch"}
	for _, odd := range oddTools {
		tools = append(tools, odd.name)
	}
	token := r.signIn(plainMail).Access
	legacy, modern := r.legacy(token), r.stateless(token)
	answered := map[string]bool{}
	for i := range 3000 {
		c := []*client{legacy, modern}[i%2]
		name := tools[random.IntN(len(tools))]
		params := `{"name":` + quote(name)
		if arguments := pick(
			"", `{}`, `null`, `[]`, `"text"`, `7`, `{"a":1,"b":2}`, `{"a":0.1,"b":-2e3}`, `{"a":9007199254740993,"b":123456789012345678}`,
			`{"a":"1","b":2}`, `{"a":1}`, `{"a":1,"b":2,"c":3}`, `{"A":1,"b":2}`, `{"text":"<\u003e& \" \\ \u2028 ü 😀 \u0000"}`, `{"deep":[{"x":[1,2.50,null,true]}], "n":1.0}`,
		); arguments != "" {
			params += `,"arguments":` + arguments
		}
		if beside := pick("", "", "", "", `"task":{"ttl":1}`, `"task":null`, `"inputResponses":{}`, `"inputResponses":{"q":{"action":"accept","content":{}}}`, `"requestState":"s"`, `"requestState":""`, `"requestState":5`, `"uri":5`, `"Task":{}`); beside != "" {
			params += "," + beside
		}
		meta := pick("", "", `{}`, `{"progressToken":1}`, `{"progressToken":"t","other":{"x":1e2}}`, `{"progressToken":null}`)
		if c.modern {
			version := pick(`"2026-07-28"`, `"2026-07-28"`, `"2026-07-28"`, `"2026-07-28"`, `"2026-07-28"`, `"2025-11-25"`, `5`)
			modernMeta := `"io.modelcontextprotocol/protocolVersion":` + version
			if caps := pick(`{}`, `{}`, ` { } `, `{"elicitation":{}}`, `{"elicitation":{"form":{}},"sampling":{}}`, `{"elicitation":5}`, `{"roots":{"listChanged":"no"}}`, `{"x":[1]}`, `null`, ""); caps != "" {
				modernMeta += `,"io.modelcontextprotocol/clientCapabilities":` + caps
			}
			if info := pick("", `{"name":"c","version":"1"}`, `{"name":5}`, `{}`, `{"name":"c","version":"1","title":"<T>","icons":[{"src":"x"}]}`); info != "" {
				modernMeta += `,"io.modelcontextprotocol/clientInfo":` + info
			}
			if level := pick("", "", `"debug"`, `"warning"`); level != "" {
				modernMeta += `,"io.modelcontextprotocol/logLevel":` + level
			}
			if rest := strings.TrimSuffix(strings.TrimPrefix(meta, "{"), "}"); rest != "" {
				modernMeta += "," + rest
			}
			params += `,"_meta":{` + modernMeta + `}`
		} else if more := pick(meta, meta, meta, `null`, `5`, `[]`, `{"io.modelcontextprotocol/protocolVersion":"2025-06-18"}`, `{"io.modelcontextprotocol/clientCapabilities":5}`); more != "" {
			params += `,"_meta":` + more
		}
		body := `{"jsonrpc":"2.0","id":` + pick(`1`, `"x"`, `9007199254740993`, `-0.50`) + `,"method":"tools/call","params":` + params + `}}`
		var got [2]string
		for way := range got {
			server.CallByEngine(r.srv, way == 1)
			got[way] = c.raw(body, name)
		}
		if got[0] != got[1] {
			t.Fatalf("%s\nis answered\n%s\nand by the engine\n%s", body, got[0], got[1])
		}
		if strings.Contains(got[0], "200 OK") && strings.Contains(got[0], `"result"`) {
			answered[name] = true
		}
	}
	for _, odd := range oddTools {
		if !answered[odd.name] && !odd.fails {
			t.Errorf("no call of %s gave a result", odd.name)
		}
	}
}

// An answer of the handler that the engine has to deal with is given to it, and
// the handler does not run again.
func TestAHandlerRunsOnceForACall(t *testing.T) {
	runs := 0
	r := start(t, nil, func(s *server.Server) {
		s.AddTool(mcp.NewTool("fails"), func(context.Context, mcp.CallToolRequest) (*mcp.CallToolResult, error) {
			runs++
			return nil, errors.New("broken")
		})
		s.AddTool(mcp.NewTool("asks"), func(ctx context.Context, req mcp.CallToolRequest) (*mcp.CallToolResult, error) {
			runs++
			return askName(ctx, req)
		})
	})
	for era, c := range r.both(r.signIn(plainMail).Access) {
		for _, name := range []string{"fails", "asks"} {
			runs = 0
			if c.call("tools/call", name, `{"name":"`+name+`"}`); runs != 1 {
				t.Errorf("%s: %s ran %d times", era, name, runs)
			}
		}
	}
}

func quote(s string) string {
	raw, _ := json.Marshal(s) // of a string it does not fail
	return string(raw)
}

// changing is what differs from one answer to the next: event ids, and the ids
// of requests to the client.
var changing = regexp.MustCompile(`(?m)^id: .*$|"id":"[A-Z2-7]{26}"|"requestId":"[A-Z2-7]{26}"`)

// raw returns the status, media type and body of the answer.
func (c *client) raw(body, name string) string {
	c.r.t.Helper()
	resp := c.post(body, name)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		c.r.t.Fatal(err)
	}
	return resp.Status + "\n" + resp.Header.Get("Content-Type") + "\n" + changing.ReplaceAllString(string(text), "-")
}

type oddTool struct {
	name  string
	fails bool // there is no result
	h     server.ToolHandler
	opts  []server.ToolOption
}

// oddTools give what a handler can give.
var oddTools = func() []oddTool {
	gives := func(name string, result func() *mcp.CallToolResult) oddTool {
		return oddTool{name: name, h: func(context.Context, mcp.CallToolRequest) (*mcp.CallToolResult, error) { return result(), nil }}
	}
	fails := func(name string, err func() error) oddTool {
		return oddTool{name: name, fails: true, h: func(context.Context, mcp.CallToolRequest) (*mcp.CallToolResult, error) { return nil, err() }}
	}
	meta := func(fields map[string]any) *mcp.Meta { return mcp.NewMetaFromMap(fields) }
	const awkward = "<b>&\"\\ \u2028\u2029 ü 😀 \x7f \x01 \xff"
	tools := []oddTool{
		gives("text", func() *mcp.CallToolResult { return mcp.NewToolResultText("plain") }),
		gives("awkward", func() *mcp.CallToolResult { return mcp.NewToolResultText(awkward) }),
		gives("empty", func() *mcp.CallToolResult { return &mcp.CallToolResult{} }),
		gives("error", func() *mcp.CallToolResult { return mcp.NewToolResultError(awkward) }),
		gives("structured", func() *mcp.CallToolResult {
			return mcp.NewToolResultStructured(map[string]any{"z": awkward, "a": []any{1, 2.5, nil}}, "text")
		}),
		gives("raw structured", func() *mcp.CallToolResult {
			return &mcp.CallToolResult{Content: []mcp.Content{}, RawStructuredContent: json.RawMessage(`{ "n" : 1.50, "t" : "<\u0041>" }`), StructuredContent: 1}
		}),
		gives("several", func() *mcp.CallToolResult {
			return &mcp.CallToolResult{Content: []mcp.Content{
				mcp.NewTextContent("one"), mcp.NewImageContent("aGk=", "image/png"), mcp.NewAudioContent("aGk=", "audio/wav"),
				mcp.TextContent{Type: "text", Text: "two", Annotated: mcp.Annotated{Annotations: &mcp.Annotations{Audience: []mcp.Role{mcp.RoleUser}}}},
				mcp.TextContent{Type: "text", Text: "three", Meta: meta(map[string]any{"k": "<v>"})},
				mcp.TextContent{Text: "no type"}, mcp.NewEmbeddedResource(mcp.TextResourceContents{URI: "a://b", Text: awkward}),
				mcp.NewResourceLink("a://b", "n", "d", "text/plain"),
			}, IsError: true}
		}),
		gives("meta", func() *mcp.CallToolResult {
			r := mcp.NewToolResultText("x")
			r.Meta = meta(map[string]any{"k": awkward, "progressToken": 5})
			return r
		}),
		gives("server's meta", func() *mcp.CallToolResult {
			r := mcp.NewToolResultText("x")
			r.Meta = meta(map[string]any{mcp.MetaKeyServerInfo: map[string]any{"name": "other", "version": "0"}})
			return r
		}),
		gives("result type", func() *mcp.CallToolResult {
			r := mcp.NewToolResultText("x")
			r.ResultType = "strange"
			return r
		}),
		gives("state", func() *mcp.CallToolResult {
			r := mcp.NewToolResultText("x")
			r.RequestState = "kept"
			return r
		}),
		gives("unencodable", func() *mcp.CallToolResult { return mcp.NewToolResultStructured(func() {}, "x") }),
		gives("nothing", func() *mcp.CallToolResult { return nil }),
		fails("broken", func() error { return errors.New("canary") }),
		fails("params", func() error { return fmt.Errorf("wrap: %w", &server.ParamsError{Message: "<no>"}) }),
		fails("unavailable", func() error { return server.ErrUnavailable }),
		fails("panics", func() error { panic("canary") }),
		fails("elicits a URL", func() error {
			return mcp.URLElicitationRequiredError{Elicitations: []mcp.ElicitationParams{{Mode: "url", ElicitationID: "e", URL: "https://example.com", Message: "m"}}}
		}),
		{name: "mirror", h: mirror},
		{name: "quick panics", fails: true, opts: []server.ToolOption{server.Quick()}, h: func(context.Context, mcp.CallToolRequest) (*mcp.CallToolResult, error) { panic("canary") }},
		{name: "asks", h: func(_ context.Context, req mcp.CallToolRequest) (*mcp.CallToolResult, error) {
			if len(req.Params.InputResponses) > 0 {
				return mcp.NewToolResultText(fmt.Sprint("answered ", req.Params.RequestState)), nil
			}
			return mcpserver.NewInputRequestBuilder("state").Elicit("q", mcp.ElicitationParams{Message: "?", RequestedSchema: map[string]any{"type": "object"}}).ToolResult(), nil
		}, fails: true},
		{name: "progress", h: func(ctx context.Context, _ mcp.CallToolRequest) (*mcp.CallToolResult, error) {
			err := errors.Join(server.Progress(ctx, 1, 2, awkward), server.Log(ctx, mcp.LoggingLevelWarning, "", awkward))
			return mcp.NewToolResultText(fmt.Sprint(err)), nil
		}},
		{name: "quick", h: mirror, opts: []server.ToolOption{server.Quick()}},
		{name: "public", h: mirror, opts: []server.ToolOption{server.RequireNothing()}},
		{name: "for admins", h: mirror, fails: true, opts: []server.ToolOption{server.RequireRole("admin")}},
		{name: "for a scope", h: mirror, fails: true, opts: []server.ToolOption{server.RequireScope("x:y", "Do y")}},
	}
	for i := range tools {
		tools[i].name = strings.ReplaceAll(strings.ReplaceAll(tools[i].name, " ", "-"), "'", "")
	}
	for i, c := range awkward {
		tools = append(tools, gives(fmt.Sprint("character-", i), func() *mcp.CallToolResult { return mcp.NewToolResultText("a" + string(c) + "b") }))
	}
	return tools
}()

func addOddTools(s *server.Server) {
	for _, odd := range oddTools {
		s.AddTool(mcp.NewTool(odd.name), odd.h, odd.opts...)
	}
	s.AddTool(mcp.NewTool("schema", mcp.WithNumber("a", mcp.Required()), mcp.WithString("text")), mirror)
	type in struct {
		A float64 `json:"a"`
		B int     `json:"b,omitempty"`
	}
	server.AddTypedTool(s, mcp.NewTool("typed"), func(_ context.Context, i in) (in, error) {
		if i.B == 2 {
			return i, &server.ToolError{Message: "two"}
		}
		return i, nil
	})
}

// mirror shows what a handler sees of its request and of its context.
func mirror(ctx context.Context, req mcp.CallToolRequest) (*mcp.CallToolResult, error) {
	info := mcpserver.RequestProtocolInfoFromContext(ctx)
	session := mcpserver.ClientSessionFromContext(ctx)
	seen, err := json.Marshal(map[string]any{
		"method": req.Method, "header": req.Header, "name": req.Params.Name, "arguments": req.Params.Arguments, "raw": string(req.Params.RawArguments),
		"meta": req.Params.Meta, "task": req.Params.Task, "responses": req.Params.InputResponses, "state": req.Params.RequestState, "get": req.GetArguments(),
		"info": info, "version": mcpserver.RequestProtocolVersion(ctx), "engine": mcpserver.ServerFromContext(ctx) != nil, "session": session != nil,
		"nil header": req.Header == nil, "nil raw": req.Params.RawArguments == nil, "principal": server.Principal(ctx),
	})
	if err != nil {
		return nil, err
	}
	if _, ok := ctx.Deadline(); ok {
		return nil, errors.New("a deadline that the other way has not")
	}
	return mcp.NewToolResultText(string(seen)), nil
}
