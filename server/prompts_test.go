package server_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/mark3labs/mcp-go/mcp"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/mcp-clerk/mcp-clerk/internal/devclerk"
	"github.com/mcp-clerk/mcp-clerk/server"
)

// library adds prompts and resources, of which some need more than an account.
func library(s *server.Server) {
	prompt := func(context.Context, mcp.GetPromptRequest) (*mcp.GetPromptResult, error) {
		return mcp.NewGetPromptResult("", []mcp.PromptMessage{mcp.NewPromptMessage(mcp.RoleUser, mcp.NewTextContent("secret words"))}), nil
	}
	read := func(_ context.Context, req mcp.ReadResourceRequest) ([]mcp.ResourceContents, error) {
		switch {
		case strings.HasSuffix(req.Params.URI, "/none"):
			return nil, server.ErrNotFound
		case strings.HasSuffix(req.Params.URI, "/broken"):
			return nil, errors.New("canary-from-the-database")
		case strings.HasSuffix(req.Params.URI, "/panic"):
			panic("canary-from-the-database")
		}
		return []mcp.ResourceContents{mcp.TextResourceContents{URI: req.Params.URI, Text: "secret text"}}, nil
	}
	s.AddPrompt(mcp.NewPrompt("open"), prompt)
	s.AddPrompt(mcp.NewPrompt("closed", mcp.WithArgument("a")), prompt, server.RequireRole("admin"))
	s.AddPrompt(mcp.NewPrompt("billing"), prompt, server.RequireOrgPermission("org:billing:read"))
	s.AddPrompt(mcp.NewPrompt("scoped"), prompt, server.RequireScope("library:read", "Read the library"))
	s.AddResource(mcp.NewResource("lib://open", "open"), read)
	s.AddResource(mcp.NewResource("lib://closed", "closed"), read, server.RequireRole("admin"))
	s.AddResourceTemplate(mcp.NewResourceTemplate("lib://open/{id}", "open ones"), read)
	s.AddResourceTemplate(mcp.NewResourceTemplate("lib://closed/{id}", "closed ones"), read, server.RequireRole("admin"))
	s.Complete(func(_ context.Context, _ string, argument mcp.CompleteArgument, _ map[string]string) ([]string, error) {
		return []string{argument.Value + "!"}, nil
	})
}

// Case 45 for prompts and resources: hidden in the lists and refused.
func TestPromptsAndResourcesHaveRequirements(t *testing.T) {
	r := start(t, nil, library)
	if err := r.clerk.AddMembership(devclerk.AdminID, devclerk.Membership{OrgID: "org_1", Role: "org:member", Permissions: []string{"org:billing:read"}}); err != nil {
		t.Fatal(err)
	}
	for _, who := range []struct {
		mail  string
		lists map[string]string
		may   bool
	}{
		{adminMail, map[string]string{
			"prompts/list": "billing closed open scoped", "resources/list": "closed open", "resources/templates/list": "closed ones open ones",
		}, true},
		{plainMail, map[string]string{
			"prompts/list": "open scoped", "resources/list": "open", "resources/templates/list": "open ones",
		}, false},
	} {
		for era, c := range r.both(r.signIn(who.mail).Access) {
			t.Run(who.mail+" "+era, func(t *testing.T) {
				for method, want := range who.lists {
					m, _ := c.call(method, "", `{}`)
					var list map[string]json.RawMessage
					if err := json.Unmarshal(m.Result, &list); err != nil {
						t.Fatal(method, err, m.Error)
					}
					var names []string
					for _, key := range []string{"prompts", "resources", "resourceTemplates"} {
						var items []struct{ Name string }
						if list[key] != nil && json.Unmarshal(list[key], &items) != nil {
							t.Fatalf("%s: %s", method, list[key])
						}
						for _, item := range items {
							names = append(names, item.Name)
						}
					}
					if got := strings.Join(names, " "); got != want {
						t.Errorf("%s: %q, want %q", method, got, want)
					}
				}
				for _, tt := range []struct {
					method, name, params string
					open                 bool
				}{
					{"prompts/get", "open", `{"name":"open"}`, true},
					{"prompts/get", "closed", `{"name":"closed"}`, false},
					{"prompts/get", "billing", `{"name":"billing"}`, false},
					{"resources/read", "lib://open", `{"uri":"lib://open"}`, true},
					{"resources/read", "lib://closed", `{"uri":"lib://closed"}`, false},
					{"resources/read", "lib://open/1", `{"uri":"lib://open/1"}`, true},
					{"resources/read", "lib://closed/1", `{"uri":"lib://closed/1"}`, false},
					{"completion/complete", "", `{"ref":{"type":"ref/prompt","name":"closed"},"argument":{"name":"a","value":"x"}}`, false},
					{"completion/complete", "", `{"ref":{"Type":"ref/prompt","Name":"closed"},"argument":{"name":"a","value":"x"}}`, false},
				} {
					m, _ := c.call(tt.method, tt.name, tt.params)
					text := string(m.Result)
					ok := m.Error == nil && (strings.Contains(text, "secret") || strings.Contains(text, `"x!"`))
					if ok != (tt.open || who.may) {
						t.Errorf("%s %s: %s %+v", tt.method, tt.params, text, m.Error)
					}
					if !ok && (m.Error == nil || m.Error.Code != -32602 || !strings.Contains(m.Error.Message, "needs the")) {
						t.Errorf("%s %s: refused with %+v", tt.method, tt.params, m.Error)
					}
				}
			})
		}
	}
}

// What stands beside the name of a prompt, of whatever type, takes nothing from
// what the prompt requires.
func TestAPromptIsRefusedWhateverStandsBesideItsName(t *testing.T) {
	r := start(t, nil, library)
	r.scope = "mcp:tools"
	token := r.signIn(adminMail).Access
	for era, c := range r.both(token) {
		for _, params := range []string{`{"name":"scoped"}`, `{"name":"scoped","uri":5}`, `{"name":"scoped","ref":"x"}`} {
			if m, _ := c.call("prompts/get", "scoped", params); m.Error == nil || !strings.Contains(m.Error.Message, "scope") {
				t.Errorf("%s: %s: %s %+v", era, params, m.Result, m.Error)
			}
		}
		params := `{"ref":{"type":"ref/prompt","name":"scoped","uri":5},"argument":{"name":"a","value":"x"}}`
		if m, _ := c.call("completion/complete", "", params); m.Error == nil {
			t.Errorf("%s: %s: %s", era, params, m.Result)
		}
	}
}

func TestPromptsAndResourcesFailInside(t *testing.T) {
	r := start(t, nil, library)
	for era, c := range r.both(r.signIn(adminMail).Access) {
		for uri, code := range map[string]int{"lib://open/none": -32602, "lib://nowhere": -32602, "lib://open/broken": -32603, "lib://open/panic": -32603} {
			if code == -32602 && era != "2026-07-28" {
				code = -32002
			}
			m, _ := c.call("resources/read", uri, `{"uri":"`+uri+`"}`)
			if m.Error == nil || m.Error.Code != code || strings.Contains(m.Error.Message, "canary") {
				t.Errorf("%s: %s: %s %+v, want %d", era, uri, m.Result, m.Error, code)
			}
		}
	}
	if !strings.Contains(r.log.String(), "canary-from-the-database") {
		t.Error("the cause is not in the log")
	}
}

// Case 45 for changes: who may not know of a resource does not hear of it,
// although it is a part of one that they subscribed to, or they might know of it
// when they did.
func TestChangesOfAResourceAreForWhoMayHaveIt(t *testing.T) {
	r := start(t, nil, func(s *server.Server) {
		library(s)
		s.AddResource(mcp.NewResource("lib://open/secret", "closed"), func(context.Context, mcp.ReadResourceRequest) ([]mcp.ResourceContents, error) {
			return nil, server.ErrNotFound
		}, server.RequireRole("admin"))
	})
	listen := func(token string, uris ...string) map[string]func() message {
		list, err := json.Marshal(uris)
		if err != nil {
			t.Fatal(err)
		}
		modern, legacy := r.stateless(token), r.legacy(token)
		for _, uri := range uris {
			if m, _ := legacy.call("resources/subscribe", "", `{"uri":"`+uri+`"}`); m.Error != nil {
				t.Fatalf("subscribe: %+v", m.Error)
			}
		}
		next := messagesOf(t, modern.post(`{"jsonrpc":"2.0","id":"sub","method":"subscriptions/listen","params":`+modern.withMeta(`{"notifications":{"resourceSubscriptions":`+string(list)+`}}`)+`}`, ""))
		if ack := next(); !strings.Contains(string(ack.Params), string(list)) {
			t.Fatalf("acknowledged %s", ack.Params)
		}
		return map[string]func() message{"2026-07-28": next, "2025-11-25": legacy.listen()}
	}
	hears := func(streams map[string]func() message, uri string) {
		t.Helper()
		for era, next := range streams {
			if m := next(); m.Method != "notifications/resources/updated" || !strings.Contains(string(m.Params), `"uri":"`+uri+`"`) {
				t.Errorf("%s: %+v %s, want %q", era, m.Method, m.Params, uri)
			}
		}
	}
	plain := listen(r.signIn(plainMail).Access, "lib://open")
	admin := listen(r.signIn(adminMail).Access, "lib://open", "lib://closed")
	r.srv.ResourceUpdated("lib://open/secret")
	r.srv.ResourceUpdated("lib://open/1")
	hears(admin, "lib://open/secret")
	hears(admin, "lib://open/1")
	hears(plain, "lib://open/1")
	r.srv.ResourceUpdated("lib://closed/part/of/it") // which is served under no name of its own
	hears(admin, "lib://closed/part/of/it")

	if err := r.clerk.SetRole(devclerk.AdminID, ""); err != nil {
		t.Fatal(err)
	}
	r.advance(61 * time.Second)
	for _, uri := range []string{"lib://open/secret", "lib://closed", "lib://closed/part/of/it", "lib://open/2"} {
		r.srv.ResourceUpdated(uri)
	}
	hears(admin, "lib://open/2")
	hears(plain, "lib://open/2")
}

// A token without the scope is asked to step up, as for tools.
func TestAPromptMayNeedAScope(t *testing.T) {
	r := start(t, nil, library)
	c := r.stateless(r.signIn(plainMail).Access)
	resp := c.post(`{"jsonrpc":"2.0","id":1,"method":"prompts/get","params":`+c.withMeta(`{"name":"scoped"}`)+`}`, "scoped")
	resp.Body.Close()
	if challenge := resp.Header.Get("WWW-Authenticate"); resp.StatusCode != http.StatusForbidden || !strings.Contains(challenge, "library:read") {
		t.Errorf("%s, %q", resp.Status, challenge)
	}
}

func TestPublicToolsNeedNoAccount(t *testing.T) {
	public := func(s *server.Server) {
		s.AddTool(mcp.NewTool("hours"), func(ctx context.Context, _ mcp.CallToolRequest) (*mcp.CallToolResult, error) {
			if p := server.Principal(ctx); p != nil {
				return mcp.NewToolResultText("open for " + p.Subject), nil
			}
			return mcp.NewToolResultText("open"), nil
		}, server.RequireNothing())
	}
	r := start(t, func(o *server.Options) { o.Public = true }, public)
	for era, c := range r.both("") {
		if got := c.tool("hours", `{}`).text(); got != "open" {
			t.Errorf("%s: %q", era, got)
		}
		names, list := c.list()
		if names != "add hours userInfo" {
			t.Errorf("%s: before sign-in: %q", era, names)
		}
		raw, err := json.Marshal(list)
		if err != nil {
			t.Fatal(err)
		}
		var tools struct {
			Tools []struct {
				Name            string
				SecuritySchemes []struct{ Type string }
				Meta            struct{ SecuritySchemes []struct{ Type string } } `json:"_meta"`
			}
		}
		if err := json.Unmarshal(raw, &tools); err != nil {
			t.Fatal(err)
		}
		for _, tool := range tools.Tools {
			want := map[bool]string{true: "noauth", false: "oauth2"}[tool.Name == "hours"]
			if len(tool.SecuritySchemes) != 1 || tool.SecuritySchemes[0].Type != want || len(tool.Meta.SecuritySchemes) != 1 || tool.Meta.SecuritySchemes[0].Type != want {
				t.Errorf("%s: %s: %+v", era, tool.Name, tool)
			}
		}
		// What needs an account is refused where OAuth clients look for it …
		for _, name := range []string{"add", "generateImage", "unknown"} {
			params := `{"name":"` + name + `","arguments":{"a":1,"b":2}}`
			if c.modern {
				params = c.withMeta(params)
			}
			resp := c.post(`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":`+params+`}`, name)
			resp.Body.Close()
			if resp.StatusCode != http.StatusUnauthorized || resp.Header.Get("WWW-Authenticate") == "" {
				t.Errorf("%s: %s: %s", era, name, resp.Status)
			}
		}
		// … and for hosts that look into the result, there.
		c.headers = http.Header{"User-Agent": {"openai-mcp/1.0.0"}}
		m, _ := c.call("tools/call", "add", `{"name":"add","arguments":{"a":1,"b":2}}`)
		var res struct {
			IsError bool
			Meta    map[string]json.RawMessage `json:"_meta"`
		}
		var challenges []string
		if m.Error != nil || json.Unmarshal(m.Result, &res) != nil || !res.IsError || json.Unmarshal(res.Meta["mcp/www_authenticate"], &challenges) != nil ||
			len(challenges) != 1 || !strings.HasPrefix(challenges[0], `Bearer resource_metadata="`+r.url+"/.well-known/oauth-protected-resource/mcp") || !strings.Contains(challenges[0], `error="`) {
			t.Errorf("%s: %s %+v", era, m.Result, m.Error)
		}
	}
	for era, c := range r.both(r.signIn(plainMail).Access) {
		if got := c.tool("hours", `{}`).text(); !strings.HasPrefix(got, "open for user_") {
			t.Errorf("%s: signed in: %q", era, got)
		}
		if got := c.tool("add", `{"a":1,"b":2}`).text(); got != "3" {
			t.Errorf("%s: %q", era, got)
		}
	}

	t.Run("off by default", func(t *testing.T) {
		srv, err := server.New(t.Context(), valid())
		if err != nil {
			t.Fatal(err)
		}
		defer srv.Close()
		defer func() {
			if recover() == nil {
				t.Error("a public tool on a server that is not")
			}
		}()
		public(srv)
	})
}

type order struct {
	Item  string `json:"item" jsonschema:"what to order"`
	Count int    `json:"count,omitempty"`
}

type receipt struct {
	Total int `json:"total"`
}

func TestTypedToolsHaveTheSchemasOfTheirTypes(t *testing.T) {
	r := start(t, nil, func(s *server.Server) {
		server.AddTypedTool(s, mcp.NewTool("order"), func(_ context.Context, in order) (receipt, error) {
			if in.Item == "nothing" {
				return receipt{}, &server.ToolError{Message: "nothing is sold out"}
			}
			return receipt{Total: max(in.Count, 1) * len(in.Item)}, nil
		}, server.RequireRole("admin"))
	})
	for era, c := range r.both(r.signIn(adminMail).Access) {
		m, _ := c.call("tools/call", "order", `{"name":"order","arguments":{"item":"tea","count":2}}`)
		if m.Error != nil || !strings.Contains(string(m.Result), `"structuredContent":{"total":6}`) {
			t.Errorf("%s: %s %+v", era, m.Result, m.Error)
		}
		for arguments, want := range map[string]string{`{}`: "missing property 'item'", `{"item":1}`: "got number, want string", `{"item":"nothing"}`: "nothing is sold out"} {
			if res := c.tool("order", arguments); !res.IsError || !strings.Contains(res.text(), want) {
				t.Errorf("%s: %s: %q", era, arguments, res.text())
			}
		}
		_, list := c.list()
		raw, err := json.Marshal(list)
		if err != nil || !strings.Contains(string(raw), `"what to order"`) || !strings.Contains(string(raw), `"outputSchema"`) {
			t.Errorf("%s: %s %v", era, raw, err)
		}
	}
}

func TestTypedToolsAreMadeOfStructs(t *testing.T) {
	srv, err := server.New(t.Context(), valid())
	if err != nil {
		t.Fatal(err)
	}
	defer srv.Close()
	type tree struct {
		Below []*tree `json:"below"`
	}
	for what, add := range map[string]func(){
		"whose result is no object": func() {
			server.AddTypedTool(srv, mcp.NewTool("text"), func(context.Context, order) (string, error) { return "", nil })
		},
		"whose result contains itself": func() {
			server.AddTypedTool(srv, mcp.NewTool("text"), func(context.Context, order) (tree, error) { return tree{}, nil })
		},
		"whose arguments contain themselves": func() {
			server.AddTypedTool(srv, mcp.NewTool("text"), func(context.Context, tree) (receipt, error) { return receipt{}, nil })
		},
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Error("a tool " + what)
				}
			}()
			add()
		}()
	}
}

// What a handler leaves out of its result is as the output schema says all the
// same: clients hold one against the other (server/tools, Output Schema).
func TestTheZeroValueOfAResultFitsItsSchema(t *testing.T) {
	type inner struct {
		Names map[string][]string `json:"names"`
	}
	type result struct {
		List   []string         `json:"list"`
		Counts map[string]int   `json:"counts"`
		Free   map[string]any   `json:"free"`
		Inner  inner            `json:"inner"`
		Many   []inner          `json:"many"`
		ByName map[string]inner `json:"byName"`
		Type   *int             `json:"type"`
	}
	r := start(t, nil, func(s *server.Server) {
		server.AddTypedTool(s, mcp.NewTool("empty"), func(context.Context, struct{}) (result, error) { return result{}, nil })
		server.AddTypedTool(s, mcp.NewTool("full"), func(context.Context, struct{}) (result, error) {
			return result{Many: []inner{{}}, ByName: map[string]inner{"a": {}}}, nil
		})
	})
	c := r.stateless(r.signIn(plainMail).Access)
	m, _ := c.call("tools/list", "", `{}`)
	var list struct {
		Tools []struct {
			Name         string
			OutputSchema any
		}
	}
	if err := json.Unmarshal(m.Result, &list); err != nil {
		t.Fatal(err)
	}
	checked := 0
	for _, tool := range list.Tools {
		if tool.Name != "empty" && tool.Name != "full" {
			continue
		}
		checked++
		compiler := jsonschema.NewCompiler()
		if err := compiler.AddResource("urn:output", tool.OutputSchema); err != nil {
			t.Fatal(err)
		}
		schema, err := compiler.Compile("urn:output")
		if err != nil {
			t.Fatal(err)
		}
		m, _ := c.call("tools/call", tool.Name, `{"name":"`+tool.Name+`","arguments":{}}`)
		var got struct{ StructuredContent any }
		if err := json.Unmarshal(m.Result, &got); err != nil {
			t.Fatal(err)
		}
		if err := schema.Validate(got.StructuredContent); err != nil {
			t.Errorf("%s: %v", tool.Name, err)
		}
	}
	if checked != 2 {
		t.Errorf("%d tools with a result: %s", checked, m.Result)
	}
}
