package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/mcp-clerk/mcp-clerk/internal/jsonrpc"
)

// corners has a host of each era use the server with the suite's fixtures through
// connect, where that server speaks both eras, only one of them, or only HTTP+SSE:
// everything must work, however they meet.
func corners(ctx context.Context, b *bench) (found []scenario, err error) {
	srv, err := startFixtures(ctx, b)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, srv.stop()) }()
	for _, side := range []struct {
		name, path string
		refuse     func(http.ResponseWriter, *http.Request) bool
	}{
		{"both", "/mcp", nil}, {"legacy", "/mcp", refuseModern}, {"modern", "/mcp", refuseLegacy}, {"sse", "/sse", nil},
	} {
		token, err := signIn(ctx, b, srv.url, side.path)
		if err != nil {
			return found, err
		}
		front, stop, err := startProxy(ctx, srv.url, token, side.refuse)
		if err != nil {
			return found, err
		}
		for _, revision := range []string{"2025-11-25", modernRevision} {
			s := scenario{Name: "server-" + side.name + "/host-" + revision}
			s.Checks = corner(ctx, b, front+side.path, revision, s.Name)
			found = append(found, s)
		}
		if err := stop(); err != nil {
			return found, err
		}
	}
	return found, nil
}

// refuseModern answers what carries its version itself as servers do that know
// only sessions.
func refuseModern(w http.ResponseWriter, r *http.Request) bool {
	return refuseIf(w, r, func(m *jsonrpc.Message) string {
		if _, modern := jsonrpc.Lookup(m.Params, "_meta", "io.modelcontextprotocol/protocolVersion"); modern {
			return `{"jsonrpc":"2.0","id":null,"error":{"code":-32000,"message":"Bad Request: no valid session ID provided"}}`
		}
		return ""
	})
}

// refuseLegacy answers everything else as a server does that knows no sessions.
func refuseLegacy(w http.ResponseWriter, r *http.Request) bool {
	if r.Method != http.MethodPost {
		w.WriteHeader(http.StatusMethodNotAllowed)
		return true
	}
	return refuseIf(w, r, func(m *jsonrpc.Message) string {
		if _, modern := jsonrpc.Lookup(m.Params, "_meta", "io.modelcontextprotocol/protocolVersion"); modern || m.ID == nil {
			return ""
		}
		return string(jsonrpc.NewError(m.ID, jsonrpc.CodeHeaderMismatch, "the header MCP-Protocol-Version is required", nil))
	})
}

// refuseIf answers with what refusal returns for the message, unless it is "".
func refuseIf(w http.ResponseWriter, r *http.Request, refusal func(*jsonrpc.Message) string) bool {
	body, err := io.ReadAll(io.LimitReader(r.Body, 8<<20))
	r.Body = io.NopCloser(bytes.NewReader(body))
	m, parseErr := jsonrpc.Parse(body, jsonrpc.Limits{})
	if err != nil || parseErr != nil {
		return false
	}
	text := refusal(m)
	if text == "" {
		return false
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusBadRequest)
	_, _ = io.WriteString(w, text)
	return true
}

// corner is one host at one server. Each thing that it does is a check.
func corner(ctx context.Context, b *bench, url, revision, name string) []check {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	state := filepath.Join(b.dir, strings.ReplaceAll(name, "/", "-"))
	s, end, err := dial(ctx, b.program, []string{"connect", url, "--state-dir", state, "--credential-store", "file"}, os.Environ())
	if err != nil {
		return []check{{ID: "start", Status: "FAILURE", Message: err.Error()}}
	}
	var checks []check
	do := func(id string, f func() error) {
		c := check{ID: id, Status: "SUCCESS"}
		if err := f(); err != nil {
			c.Status, c.Message = "FAILURE", err.Error()
		}
		checks = append(checks, c)
	}
	modern := revision >= modernRevision
	do("greet", func() error {
		var got struct{ Capabilities json.RawMessage }
		return errors.Join(s.greet(revision, everything(), &got), has(got.Capabilities, `"tools"`))
	})
	tool := func(id, name, arguments string, want ...string) {
		do(id, func() error { return s.tool(name, arguments, nil, want...) })
	}
	do("tools/list", func() error { return s.has("tools/list", `{}`, `"test_simple_text"`, `"test_mirrored_headers"`) })
	tool("tools/call", "test_simple_text", `{}`, "This is a simple text response")
	tool("tool error", "test_error_handling", `{}`, `"isError":true`)
	tool("header", "test_mirrored_headers", `{"region":"Zürich","query":"q"}`, "The headers are as the arguments")
	tool("elicitation", "test_elicitation_sep1034_defaults", `{}`, "action=accept", "John Doe", "95.5")
	tool("sampling", "test_sampling", `{"prompt":"p"}`, "LLM response: text")
	tool("roots", "test_input_required_result_list_roots", `{}`, "Roots: ")
	tool("several questions", "test_input_required_result_multiple_inputs", `{}`, "Roots: ")
	tool("two rounds", "test_input_required_result_multi_round", `{}`, " likes ")
	do("progress", func() error {
		s.told = nil
		if err := s.tool("test_tool_with_progress", `{}`, map[string]any{"progressToken": "p-1"}, "executed successfully"); err != nil {
			return err
		}
		return s.heard(3, "notifications/progress", `"progressToken":"p-1"`)
	})
	do("log", func() error {
		s.told = nil
		var meta map[string]any
		if modern {
			meta = map[string]any{"io.modelcontextprotocol/logLevel": "info"}
		} else if err := s.ask("logging/setLevel", map[string]any{"level": "info"}, nil); err != nil {
			return err
		}
		if err := s.tool("test_tool_with_logging", `{}`, meta, "executed successfully"); err != nil {
			return err
		}
		return s.heard(3, "notifications/message", "Tool ")
	})
	do("resources", func() error {
		return errors.Join(
			s.has("resources/list", `{}`, `test://static-text`), s.has("resources/templates/list", `{}`, `test://template/{id}/data`),
			s.has("resources/read", `{"uri":"test://template/7/data"}`, `Data for ID: 7`))
	})
	do("prompts", func() error {
		return errors.Join(
			s.has("prompts/list", `{}`, `test_simple_prompt`), s.has("prompts/get", `{"name":"test_prompt_with_arguments","arguments":{"arg1":"x","arg2":"y"}}`, `arg1='x'`),
			s.has("prompts/get", `{"name":"test_input_required_result_prompt"}`, "Context: "))
	})
	do("completion", func() error {
		return s.has("completion/complete", `{"ref":{"type":"ref/prompt","name":"test_prompt_with_arguments"},"argument":{"name":"arg1","value":"par"}}`, `"paris"`)
	})
	do("unknown method", func() error {
		if err := s.ask("x/y", map[string]any{}, nil); err == nil || !strings.Contains(err.Error(), "-32601") {
			return fmt.Errorf("it was answered by %w", err)
		}
		return nil
	})
	do("changes", func() error { return s.changes(modern) })
	do("end", end)
	return checks
}

// has asks, and looks for text in the answer.
func (s *session) has(method, params string, want ...string) error {
	var p map[string]any
	if err := json.Unmarshal([]byte(params), &p); err != nil {
		return err
	}
	var got json.RawMessage
	if err := s.ask(method, p, &got); err != nil {
		return err
	}
	return has(got, want...)
}

func has(got json.RawMessage, want ...string) error {
	for _, text := range want {
		if !strings.Contains(string(got), text) {
			return fmt.Errorf("%s has no %q", got, text)
		}
	}
	return nil
}

func (s *session) tool(name, arguments string, meta map[string]any, want ...string) error {
	params := map[string]any{"name": name, "arguments": json.RawMessage(arguments)}
	if meta != nil {
		params["_meta"] = meta
	}
	var got json.RawMessage
	if err := s.ask("tools/call", params, &got); err != nil {
		return err
	}
	return has(got, want...)
}

// heard counts notifications of a kind, of which some may have come with others.
func (s *session) heard(n int, method, text string) error {
	got := 0
	for _, m := range s.told {
		if m.Method == method && strings.Contains(string(m.Raw), text) {
			got++
		}
	}
	if got != n {
		return fmt.Errorf("%d times %s with %s, want %d", got, method, text, n)
	}
	return nil
}

// changes listens for changes of the list of tools, makes one, and waits for it.
func (s *session) changes(modern bool) error {
	if modern {
		s.n++
		params := map[string]any{"_meta": s.meta, "notifications": map[string]any{"toolsListChanged": true}}
		raw, err := json.Marshal(params)
		if err != nil {
			return err
		}
		if err := s.write(jsonrpc.NewRequest(json.RawMessage(`"listen"`), "subscriptions/listen", json.RawMessage(raw))); err != nil {
			return err
		}
		if err := s.await("notifications/subscriptions/acknowledged", `"toolsListChanged":true`); err != nil {
			return err
		}
	}
	s.told = slices.DeleteFunc(s.told, func(m *jsonrpc.Message) bool { return m.Method == "notifications/tools/list_changed" })
	if err := s.tool("test_trigger_tool_change", `{}`, nil, "changed"); err != nil {
		return err
	}
	want := ""
	if modern {
		want = `"io.modelcontextprotocol/subscriptionId":"listen"`
	}
	return s.await("notifications/tools/list_changed", want)
}

// await reads until a notification has come.
func (s *session) await(method, text string) error {
	for {
		for _, m := range s.told {
			if m.Method == method && strings.Contains(string(m.Raw), text) {
				return nil
			}
		}
		line, err := s.out.ReadBytes('\n')
		if err != nil {
			return fmt.Errorf("%s does not come: %w", method, err)
		}
		m, err := jsonrpc.Parse(line, jsonrpc.Limits{})
		if err != nil {
			return fmt.Errorf("read a line of connect: %w", err)
		}
		if m.IsResponse() {
			return fmt.Errorf("%s does not come, but %s", method, m.Raw)
		}
		s.told = append(s.told, m)
	}
}
