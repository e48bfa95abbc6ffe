package main

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/mark3labs/mcp-go/mcp"

	"github.com/mcp-clerk/mcp-clerk/server"
)

// What the suite expects under these names is said in the descriptions of its
// scenarios: npx @modelcontextprotocol/conformance list --server.

const (
	// A picture of one red pixel, and a sound of no samples.
	png = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8DwHwAFBQIAX8jx0gAAAABJRU5ErkJggg=="
	wav = "UklGRiQAAABXQVZFZm10IBAAAAABAAEAQB8AAIA+AAACABAAZGF0YQAAAAA="
	// pause lets a client see that notifications come while a tool works.
	pause = 50 * time.Millisecond
)

type handler = server.ToolHandler

func addFixtures(s *server.Server) {
	addContents(s)
	addNotifications(s)
	addLegacyQuestions(s)
	addQuestions(s)
	addResources(s)
	addPrompts(s)
	s.Complete(func(_ context.Context, _ string, argument mcp.CompleteArgument, _ map[string]string) ([]string, error) {
		var values []string
		for _, v := range []string{"paris", "park", "party"} {
			if strings.HasPrefix(v, argument.Value) {
				values = append(values, v)
			}
		}
		return values, nil
	})
}

func add(s *server.Server, name, description string, h handler, opts ...mcp.ToolOption) {
	s.AddTool(mcp.NewTool(name, append(opts, mcp.WithDescription(description))...), h)
}

// always is a tool that answers the same.
func always(content ...mcp.Content) handler {
	return func(context.Context, mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		return &mcp.CallToolResult{Content: content}, nil
	}
}

func embedded(uri, mimeType, text string) mcp.Content {
	return mcp.NewEmbeddedResource(mcp.TextResourceContents{URI: uri, MIMEType: mimeType, Text: text})
}

func addContents(s *server.Server) {
	add(s, "test_simple_text", "Answers with a text.", always(mcp.NewTextContent("This is a simple text response for testing.")))
	add(s, "test_image_content", "Answers with a picture.", always(mcp.NewImageContent(png, "image/png")))
	add(s, "test_audio_content", "Answers with a sound.", always(mcp.NewAudioContent(wav, "audio/wav")))
	add(s, "test_embedded_resource", "Answers with a resource.", always(embedded("test://embedded-resource", "text/plain", "This is an embedded resource content.")))
	add(s, "test_multiple_content_types", "Answers with a text, a picture and a resource.", always(
		mcp.NewTextContent("Multiple content types test:"), mcp.NewImageContent(png, "image/png"),
		embedded("test://mixed-content-resource", "application/json", `{"test":"data","value":123}`)))
	add(s, "test_error_handling", "Fails.", func(context.Context, mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		return mcp.NewToolResultError("This tool intentionally returns an error for testing"), nil
	})
	s.AddTool(mcp.NewToolWithRawSchema("json_schema_2020_12_tool", "Tool with JSON Schema 2020-12 features", json.RawMessage(schema2020)),
		always(mcp.NewTextContent("The arguments are as the schema says.")))
	s.AddTool(mcp.NewToolWithRawSchema("test_mirrored_headers", "Has arguments that headers mirror.",
		json.RawMessage(`{"type":"object","properties":{"region":{"type":"string","x-mcp-header":"Region"},"query":{"type":"string"}}}`)),
		always(mcp.NewTextContent("The headers are as the arguments.")))
}

const schema2020 = `{
  "$schema": "https://json-schema.org/draft/2020-12/schema",
  "type": "object",
  "$defs": {"address": {"$anchor": "addressDef", "type": "object", "properties": {"street": {"type": "string"}, "city": {"type": "string"}}}},
  "properties": {
    "name": {"type": "string"},
    "address": {"$ref": "#/$defs/address"},
    "contactMethod": {"type": "string", "enum": ["phone", "email"]},
    "phone": {"type": "string"},
    "email": {"type": "string"}
  },
  "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
  "if": {"properties": {"contactMethod": {"const": "phone"}}, "required": ["contactMethod"]},
  "then": {"required": ["phone"]},
  "else": {"required": ["email"]},
  "additionalProperties": false
}`

// wait returns early when the call has ended.
func wait(ctx context.Context) {
	t := time.NewTimer(pause)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

func addNotifications(s *server.Server) {
	logs := func(ctx context.Context, _ mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		for i, text := range []string{"Tool execution started", "Tool processing data", "Tool execution completed"} {
			if i > 0 {
				wait(ctx)
			}
			if err := server.Log(ctx, mcp.LoggingLevelInfo, "", text); err != nil {
				return nil, err
			}
		}
		return mcp.NewToolResultText("Tool with logging executed successfully"), nil
	}
	add(s, "test_tool_with_logging", "Sends log messages.", logs)
	add(s, "test_logging_tool", "Sends log messages.", logs)
	add(s, "test_tool_with_progress", "Says how far it is.", func(ctx context.Context, _ mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		for i := range 3 {
			if i > 0 {
				wait(ctx)
			}
			if err := server.Progress(ctx, float64(50*i), 100, ""); err != nil {
				return nil, err
			}
		}
		return mcp.NewToolResultText("Tool with progress executed successfully"), nil
	})
	add(s, "test_reconnection", "Lets its connection go and answers on another.", func(ctx context.Context, _ mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		server.CloseStream(ctx, 10*pause)
		wait(ctx)
		return mcp.NewToolResultText("Reconnection test completed successfully"), nil
	})
	add(s, "test_trigger_tool_change", "Changes the list of tools.", func(context.Context, mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		add(s, "test_changed_tool", "Was added by another.", always(mcp.NewTextContent("Hello")))
		return mcp.NewToolResultText("changed"), nil
	})
	add(s, "test_trigger_prompt_change", "Changes the list of prompts.", func(context.Context, mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		s.AddPrompt(mcp.NewPrompt("test_changed_prompt", mcp.WithPromptDescription("Was added by a tool.")), prompt(mcp.NewTextContent("Hello")))
		return mcp.NewToolResultText("changed"), nil
	})
}

// object is a schema of an object.
func object(properties map[string]any, required ...string) map[string]any {
	o := map[string]any{"type": "object", "properties": properties}
	if len(required) > 0 {
		o["required"] = required
	}
	return o
}

func elicit(message string, schema map[string]any) mcp.InputRequest {
	return mcp.NewElicitationInputRequest(mcp.ElicitationParams{Message: message, RequestedSchema: schema})
}

func sample(text string, tokens int) mcp.InputRequest {
	return mcp.NewSamplingInputRequest(mcp.CreateMessageParams{
		Messages: []mcp.SamplingMessage{{Role: mcp.RoleUser, Content: mcp.NewTextContent(text)}}, MaxTokens: tokens,
	})
}

// need asks the client; state comes back with its answers.
func need(requests mcp.InputRequests, state string) (*mcp.CallToolResult, error) {
	r := &mcp.CallToolResult{Result: mcp.Result{ResultType: mcp.ResultTypeInputRequired}}
	r.InputRequests, r.RequestState = requests, state
	return r, nil
}

// answers decodes the client's answers to requests; ok says that all are there
// and well formed.
func answers(given mcp.InputResponses, requests mcp.InputRequests) (mcp.InputResponses, bool) {
	out := mcp.InputResponses{}
	for name, request := range requests {
		response, ok := given[name]
		if !ok || response.DecodeFor(request.Method) != nil {
			return nil, false
		}
		switch {
		case response.Elicitation != nil && response.Elicitation.Action == "":
			return nil, false
		case response.Sampling != nil && response.Sampling.Content == nil:
			return nil, false
		}
		out[name] = response
	}
	return out, true
}

// asking is a tool that needs answers to requests before it goes on.
func asking(requests mcp.InputRequests, then func(mcp.InputResponses) string) handler {
	return func(_ context.Context, req mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		got, ok := answers(req.Params.InputResponses, requests)
		if !ok {
			return need(requests, "")
		}
		return mcp.NewToolResultText(then(got)), nil
	}
}

// field is an answer of a form.
func field(r mcp.InputResponse, name string) string {
	content, _ := r.Elicitation.Content.(map[string]any)
	return fmt.Sprint(content[name])
}

// spoken is the text of a sampled message.
func spoken(r mcp.InputResponse) string {
	switch c := r.Sampling.Content.(type) {
	case mcp.TextContent:
		return c.Text
	case map[string]any:
		return fmt.Sprint(c["text"])
	}
	return fmt.Sprint(r.Sampling.Content)
}

// addLegacyQuestions adds the tools that the suite calls in the revisions with
// requests from the server to the client.
func addLegacyQuestions(s *server.Server) {
	add(s, "test_sampling", "Asks the client's model.", func(ctx context.Context, req mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		return asking(mcp.InputRequests{"q": sample(req.GetString("prompt", ""), 100)}, func(got mcp.InputResponses) string {
			return "LLM response: " + spoken(got["q"])
		})(ctx, req)
	}, mcp.WithString("prompt", mcp.Required()))
	completed := func(prefix string) func(mcp.InputResponses) string {
		return func(got mcp.InputResponses) string {
			content, err := json.Marshal(got["q"].Elicitation.Content)
			if err != nil {
				return err.Error()
			}
			return fmt.Sprintf("%s: action=%s, content=%s", prefix, got["q"].Elicitation.Action, content)
		}
	}
	add(s, "test_elicitation", "Asks the user.", func(ctx context.Context, req mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		return asking(mcp.InputRequests{"q": elicit(req.GetString("message", ""), object(map[string]any{
			"username": map[string]any{"type": "string", "description": "User's response"},
			"email":    map[string]any{"type": "string", "description": "User's email address"},
		}, "username", "email"))}, completed("User response"))(ctx, req)
	}, mcp.WithString("message", mcp.Required()))
	add(s, "test_elicitation_sep1034_defaults", "Asks the user with defaults.", asking(mcp.InputRequests{"q": elicit("Please review", object(map[string]any{
		"name":     map[string]any{"type": "string", "default": "John Doe"},
		"age":      map[string]any{"type": "integer", "default": 30},
		"score":    map[string]any{"type": "number", "default": 95.5},
		"status":   map[string]any{"type": "string", "enum": []string{"active", "inactive", "pending"}, "default": "active"},
		"verified": map[string]any{"type": "boolean", "default": true},
	}))}, completed("Elicitation completed")))
	titled := func(kind string) []map[string]string {
		return []map[string]string{{"const": "value1", "title": "First " + kind}, {"const": "value2", "title": "Second " + kind}, {"const": "value3", "title": "Third " + kind}}
	}
	options := []string{"option1", "option2", "option3"}
	add(s, "test_elicitation_sep1330_enums", "Asks the user to choose.", asking(mcp.InputRequests{"q": elicit("Please choose", object(map[string]any{
		"untitledSingle": map[string]any{"type": "string", "enum": options},
		"titledSingle":   map[string]any{"type": "string", "oneOf": titled("Option")},
		"legacyEnum":     map[string]any{"type": "string", "enum": []string{"opt1", "opt2", "opt3"}, "enumNames": []string{"Option One", "Option Two", "Option Three"}},
		"untitledMulti":  map[string]any{"type": "array", "items": map[string]any{"type": "string", "enum": options}},
		"titledMulti":    map[string]any{"type": "array", "items": map[string]any{"anyOf": titled("Choice")}},
	}))}, completed("Elicitation completed")))
}

// addQuestions adds the tools that the suite calls in the revision with results
// that ask for input.
func addQuestions(s *server.Server) {
	text := map[string]any{"type": "string"}
	name := mcp.InputRequests{"user_name": elicit("What is your name?", object(map[string]any{"name": text}, "name"))}
	hello := func(got mcp.InputResponses) string { return "Hello, " + field(got["user_name"], "name") + "!" }
	add(s, "test_input_required_result_elicitation", "Asks for a name.", asking(name, hello))
	add(s, "test_streaming_elicitation", "Asks for a name.", asking(name, hello))
	add(s, "test_input_required_result_sampling", "Asks the client's model.",
		asking(mcp.InputRequests{"capital_question": sample("What is the capital of France?", 100)}, func(got mcp.InputResponses) string { return spoken(got["capital_question"]) }))
	add(s, "test_missing_capability", "Asks the client's model.",
		asking(mcp.InputRequests{"q": sample("Hello", 10)}, func(got mcp.InputResponses) string { return spoken(got["q"]) }))
	roots := func(got mcp.InputResponses) string {
		var uris []string
		for _, root := range got["client_roots"].Roots.Roots {
			uris = append(uris, root.URI)
		}
		return "Roots: " + strings.Join(uris, ", ")
	}
	add(s, "test_input_required_result_list_roots", "Asks for the roots.", asking(mcp.InputRequests{"client_roots": mcp.NewRootsInputRequest()}, roots))

	seal := newSealer()
	confirm := mcp.InputRequests{"confirm": elicit("Please confirm", object(map[string]any{"ok": map[string]any{"type": "boolean"}}, "ok"))}
	stateful := func(requests mcp.InputRequests, then func(mcp.InputResponses) string) handler {
		return func(_ context.Context, req mcp.CallToolRequest) (*mcp.CallToolResult, error) {
			if state := req.Params.RequestState; state != "" && !seal.valid(state) {
				return nil, &server.ParamsError{Message: "the requestState is not of this server"}
			}
			got, ok := answers(req.Params.InputResponses, requests)
			if !ok || req.Params.RequestState == "" {
				return need(requests, seal.sign("asked"))
			}
			return mcp.NewToolResultText(then(got)), nil
		}
	}
	add(s, "test_input_required_result_request_state", "Asks, with state.", stateful(confirm, func(mcp.InputResponses) string { return "state-ok" }))
	add(s, "test_input_required_result_tampered_state", "Asks, with state.", stateful(confirm, func(mcp.InputResponses) string { return "state-ok" }))
	add(s, "test_input_required_result_multiple_inputs", "Asks three things at once.", stateful(mcp.InputRequests{
		"user_name": name["user_name"], "greeting": sample("Generate a greeting", 50), "client_roots": mcp.NewRootsInputRequest(),
	}, func(got mcp.InputResponses) string {
		return spoken(got["greeting"]) + " " + field(got["user_name"], "name") + ". " + roots(got)
	}))
	step1 := mcp.InputRequests{"step1": elicit("Step 1: What is your name?", object(map[string]any{"name": text}, "name"))}
	step2 := mcp.InputRequests{"step2": elicit("Step 2: What is your favorite color?", object(map[string]any{"color": text}, "color"))}
	add(s, "test_input_required_result_multi_round", "Asks twice.", func(_ context.Context, req mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		state := req.Params.RequestState
		if state != "" && !seal.valid(state) {
			return nil, &server.ParamsError{Message: "the requestState is not of this server"}
		}
		if given, ok := strings.CutPrefix(seal.text(state), "color of "); ok {
			if got, ok := answers(req.Params.InputResponses, step2); ok {
				return mcp.NewToolResultText(given + " likes " + field(got["step2"], "color")), nil
			}
			return need(step2, state)
		}
		if got, ok := answers(req.Params.InputResponses, step1); ok && state != "" {
			return need(step2, seal.sign("color of "+field(got["step1"], "name")))
		}
		return need(step1, seal.sign("name"))
	})
	add(s, "test_input_required_result_capabilities", "Asks what the client can answer.", func(ctx context.Context, req mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		requests := mcp.InputRequests{}
		if server.ClientCan(ctx, "sampling") {
			requests["sampled"] = sample("Hello", 10)
		}
		if server.ClientCan(ctx, "elicitation") {
			requests["asked"] = name["user_name"]
		}
		if server.ClientCan(ctx, "roots") {
			requests["roots"] = mcp.NewRootsInputRequest()
		}
		return asking(requests, func(got mcp.InputResponses) string { return fmt.Sprintf("%d answers", len(got)) })(ctx, req)
	})
}

// sealer signs state that goes through the client.
type sealer struct{ key []byte }

func newSealer() sealer {
	key := make([]byte, 32)
	_, _ = rand.Read(key) // crypto/rand.Read never fails
	return sealer{key}
}

func (s sealer) sign(text string) string {
	mac := hmac.New(sha256.New, s.key)
	mac.Write([]byte(text))
	return hex.EncodeToString(mac.Sum(nil)) + ":" + text
}

func (s sealer) valid(state string) bool {
	_, text, _ := strings.Cut(state, ":")
	return hmac.Equal([]byte(s.sign(text)), []byte(state))
}

func (s sealer) text(state string) string {
	_, text, _ := strings.Cut(state, ":")
	return text
}

func addResources(s *server.Server) {
	read := func(contents func(uri string) mcp.ResourceContents) server.ResourceHandler {
		return func(_ context.Context, req mcp.ReadResourceRequest) ([]mcp.ResourceContents, error) {
			return []mcp.ResourceContents{contents(req.Params.URI)}, nil
		}
	}
	plain := func(text string) server.ResourceHandler {
		return read(func(uri string) mcp.ResourceContents {
			return mcp.TextResourceContents{URI: uri, MIMEType: "text/plain", Text: text}
		})
	}
	resource := func(uri, name, mimeType string) mcp.Resource {
		return mcp.NewResource(uri, name, mcp.WithResourceDescription("For testing: "+name+"."), mcp.WithMIMEType(mimeType))
	}
	s.AddResource(resource("test://static-text", "static text", "text/plain"), plain("This is the content of the static text resource."))
	s.AddResource(resource("test://watched-resource", "watched", "text/plain"), plain("Watched resource content"))
	s.AddResource(resource("test://static-binary", "static picture", "image/png"), read(func(uri string) mcp.ResourceContents {
		return mcp.BlobResourceContents{URI: uri, MIMEType: "image/png", Blob: png}
	}))
	s.AddResourceTemplate(mcp.NewResourceTemplate("test://template/{id}/data", "by id", mcp.WithTemplateDescription("For testing: data by id."), mcp.WithTemplateMIMEType("application/json")),
		func(_ context.Context, req mcp.ReadResourceRequest) ([]mcp.ResourceContents, error) {
			id := strings.TrimSuffix(strings.TrimPrefix(req.Params.URI, "test://template/"), "/data")
			text, err := json.Marshal(map[string]any{"id": id, "templateTest": true, "data": "Data for ID: " + id})
			if err != nil {
				return nil, err
			}
			return []mcp.ResourceContents{mcp.TextResourceContents{URI: req.Params.URI, MIMEType: "application/json", Text: string(text)}}, nil
		})
}

// prompt is one that is always the same.
func prompt(contents ...mcp.Content) server.PromptHandler {
	return func(context.Context, mcp.GetPromptRequest) (*mcp.GetPromptResult, error) {
		return says(contents...), nil
	}
}

func says(contents ...mcp.Content) *mcp.GetPromptResult {
	result := &mcp.GetPromptResult{}
	for _, c := range contents {
		result.Messages = append(result.Messages, mcp.NewPromptMessage(mcp.RoleUser, c))
	}
	return result
}

func addPrompts(s *server.Server) {
	argument := func(name string) mcp.PromptOption {
		return mcp.WithArgument(name, mcp.ArgumentDescription("For testing: "+name+"."), mcp.RequiredArgument())
	}
	s.AddPrompt(mcp.NewPrompt("test_simple_prompt", mcp.WithPromptDescription("A text.")), prompt(mcp.NewTextContent("This is a simple prompt for testing.")))
	s.AddPrompt(mcp.NewPrompt("test_prompt_with_arguments", mcp.WithPromptDescription("A text with arguments."), argument("arg1"), argument("arg2")),
		func(_ context.Context, req mcp.GetPromptRequest) (*mcp.GetPromptResult, error) {
			return says(mcp.NewTextContent(fmt.Sprintf("Prompt with arguments: arg1='%s', arg2='%s'", req.Params.Arguments["arg1"], req.Params.Arguments["arg2"]))), nil
		})
	s.AddPrompt(mcp.NewPrompt("test_prompt_with_embedded_resource", mcp.WithPromptDescription("A resource."), argument("resourceUri")),
		func(_ context.Context, req mcp.GetPromptRequest) (*mcp.GetPromptResult, error) {
			return says(embedded(req.Params.Arguments["resourceUri"], "text/plain", "Embedded resource content for testing."),
				mcp.NewTextContent("Please process the embedded resource above.")), nil
		})
	s.AddPrompt(mcp.NewPrompt("test_prompt_with_image", mcp.WithPromptDescription("A picture.")),
		prompt(mcp.NewImageContent(png, "image/png"), mcp.NewTextContent("Please analyze the image above.")))
	context1 := mcp.InputRequests{"user_context": elicit("What context should the prompt use?", object(map[string]any{"context": map[string]any{"type": "string"}}, "context"))}
	s.AddPrompt(mcp.NewPrompt("test_input_required_result_prompt", mcp.WithPromptDescription("Asks for its context.")),
		func(_ context.Context, req mcp.GetPromptRequest) (*mcp.GetPromptResult, error) {
			got, ok := answers(req.Params.InputResponses, context1)
			if !ok {
				r := &mcp.GetPromptResult{Result: mcp.Result{ResultType: mcp.ResultTypeInputRequired}}
				r.InputRequests = context1
				return r, nil
			}
			return says(mcp.NewTextContent("Context: " + field(got["user_context"], "context"))), nil
		})
}
