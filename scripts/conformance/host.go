package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/mcp-clerk/mcp-clerk/internal/jsonrpc"
)

// What the host is told, as the suite adds to its command line nothing but the
// server's URL.
const (
	hostProgram  = "CONFORMANCE_PROGRAM"  // the mcp-clerk under test
	hostState    = "CONFORMANCE_STATE"    // its state directory
	hostRevision = "CONFORMANCE_REVISION" // that the host speaks
	browserRole  = "CONFORMANCE_BROWSER"  // set: this process is $BROWSER
)

const modernRevision = "2026-07-28"

// clientDocument is the client metadata document that the suite's authorization
// servers know.
const clientDocument = "https://conformance-test.local/client-metadata.json"

// suiteContext is what the suite tells the client beforehand.
type suiteContext struct {
	ClientID     string `json:"client_id"`
	ClientSecret string `json:"client_secret"`
	PrivateKey   string `json:"private_key_pem"`
	ToolCalls    []toolCall
}

// toolCall is one to be made as it is.
type toolCall struct {
	Name      string          `json:"name"`
	Arguments json.RawMessage `json:"arguments"`
}

// host is a stdio host in small: it starts "connect" for the server, as the
// suite's scenario asks, lists the tools and calls each. It fails on every
// error that it is answered with. What the server asks it answers at once.
func host(ctx context.Context, server string) (err error) {
	state, scenario := os.Getenv(hostState), os.Getenv("MCP_CONFORMANCE_SCENARIO")
	if err := os.MkdirAll(state, 0o700); err != nil { //nolint:gosec // a directory of ours
		return fmt.Errorf("make the state directory: %w", err)
	}
	var given suiteContext
	if raw := os.Getenv("MCP_CONFORMANCE_CONTEXT"); raw != "" {
		if err := json.Unmarshal([]byte(raw), &given); err != nil {
			return fmt.Errorf("read the suite's context: %w", err)
		}
	}
	args := []string{"connect", server, "--state-dir", state, "--credential-store", "file"}
	env := append(os.Environ(), browserRole+"=1")
	switch {
	case given.PrivateKey != "":
		key := filepath.Join(state, "key.pem")
		if err := os.WriteFile(key, []byte(given.PrivateKey), 0o600); err != nil { //nolint:gosec // below it
			return fmt.Errorf("keep the client's key: %w", err)
		}
		args = append(args, "--client-credentials", "--client-id", given.ClientID, "--client-key-file", key)
	case given.ClientSecret != "":
		args = append(args, "--client-id", given.ClientID)
		env = append(env, "MCP_CLERK_CLIENT_SECRET="+given.ClientSecret)
		if scenario == "auth/client-credentials-basic" {
			args = append(args, "--client-credentials")
		}
	case scenario == "auth/basic-cimd":
		args = append(args, "--client-metadata-url", clientDocument)
	}
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, 50*time.Second)
	defer cancel()
	s, end, err := dial(ctx, os.Getenv(hostProgram), args, append(env, "BROWSER="+self))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, end()) }()
	if err := s.useTools(os.Getenv(hostRevision), scenario, given.ToolCalls); err != nil {
		return err
	}
	if scenario == "http-standard-headers" {
		return s.useAll()
	}
	return nil
}

// session is a conversation with connect.
type session struct {
	in   io.WriteCloser
	out  *bufio.Reader
	meta map[string]any // of revision 2026-07-28, in every request
	n    int
	told []*jsonrpc.Message // notifications
}

// dial starts connect. end closes its input, which ends it.
func dial(ctx context.Context, program string, args, env []string) (s *session, end func() error, err error) {
	cmd := exec.CommandContext(ctx, program, args...) //nolint:gosec // to run it is the point
	cmd.Env = env
	cmd.Stderr = os.Stderr
	cmd.WaitDelay = 5 * time.Second
	s = &session{}
	if s.in, err = cmd.StdinPipe(); err != nil {
		return nil, nil, fmt.Errorf("start connect: %w", err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, nil, fmt.Errorf("start connect: %w", err)
	}
	s.out = bufio.NewReader(out)
	if err := cmd.Start(); err != nil {
		return nil, nil, fmt.Errorf("start connect: %w", err)
	}
	return s, func() error {
		_ = s.in.Close()
		_, _ = io.Copy(io.Discard, s.out)
		if err := cmd.Wait(); err != nil {
			return fmt.Errorf("connect: %w", err)
		}
		return nil
	}, nil
}

// tool is one as tools/list describes it.
type tool struct {
	Name        string          `json:"name"`
	InputSchema json.RawMessage `json:"inputSchema"`
}

func (s *session) useTools(revision, scenario string, given []toolCall) error {
	capabilities := map[string]any{}
	if !strings.HasPrefix(scenario, "auth/") {
		capabilities = everything()
	}
	if err := s.greet(revision, capabilities, nil); err != nil {
		return err
	}
	var list struct{ Tools []tool }
	if err := s.ask("tools/list", map[string]any{}, &list); err != nil {
		return err
	}
	calls := given
	switch {
	case scenario == "json-schema-ref-no-deref": // it has no tool to be called
	case given == nil:
		for _, t := range list.Tools {
			calls = append(calls, toolCall{t.Name, arguments(t, list.Tools)})
		}
	}
	for _, c := range calls {
		if err := s.ask("tools/call", map[string]any{"name": c.Name, "arguments": c.Arguments}, nil); err != nil {
			return fmt.Errorf("call %q: %w", c.Name, err)
		}
	}
	return nil
}

// everything is the capabilities of a host that answers every question.
func everything() map[string]any {
	return map[string]any{"roots": map[string]any{}, "sampling": map[string]any{}, "elicitation": map[string]any{}}
}

// greet begins as hosts of a revision do; result, which may be nil, gets what
// the server says of itself.
func (s *session) greet(revision string, capabilities map[string]any, result any) error {
	me := map[string]any{"name": "conformance-host", "version": "1"}
	if revision >= modernRevision {
		s.meta = map[string]any{
			"io.modelcontextprotocol/protocolVersion": revision, "io.modelcontextprotocol/clientInfo": me,
			"io.modelcontextprotocol/clientCapabilities": capabilities,
		}
		return s.ask("server/discover", map[string]any{}, result)
	}
	params := map[string]any{"protocolVersion": revision, "capabilities": capabilities, "clientInfo": me}
	if err := s.ask("initialize", params, result); err != nil {
		return err
	}
	return s.write(jsonrpc.NewNotification("notifications/initialized", nil))
}

// arguments returns some that fit a tool: every property that its schema names.
func arguments(t tool, all []tool) json.RawMessage {
	var schema struct {
		Properties map[string]struct{ Type any }
	}
	_ = json.Unmarshal(t.InputSchema, &schema) // another form: no arguments
	args := map[string]any{}
	for name, p := range schema.Properties {
		switch {
		case t.Name == "json_schema_echo" && name == "schema":
			for _, other := range all { // as it came through
				if other.Name == "json_schema_2020_12_tool" {
					args[name] = other.InputSchema
				}
			}
		case p.Type == "number" || p.Type == "integer":
			args[name] = len(name) + 1
		case p.Type == "boolean":
			args[name] = true
		case p.Type == "string":
			args[name] = "text"
		}
	}
	raw, err := json.Marshal(args)
	if err != nil {
		return json.RawMessage("{}")
	}
	return raw
}

// useAll reads every resource and gets every prompt.
func (s *session) useAll() error {
	var resources struct{ Resources []struct{ URI string } }
	if err := s.ask("resources/list", map[string]any{}, &resources); err != nil {
		return err
	}
	for _, r := range resources.Resources {
		if err := s.ask("resources/read", map[string]any{"uri": r.URI}, nil); err != nil {
			return err
		}
	}
	var prompts struct{ Prompts []struct{ Name string } }
	if err := s.ask("prompts/list", map[string]any{}, &prompts); err != nil {
		return err
	}
	for _, p := range prompts.Prompts {
		if err := s.ask("prompts/get", map[string]any{"name": p.Name}, nil); err != nil {
			return err
		}
	}
	return nil
}

// ask sends a request and reads its answer into result, which may be nil. Where
// the answer is a question, or another version is asked for, it asks again.
func (s *session) ask(method string, params map[string]any, result any) error {
	for range 5 {
		m, err := s.once(method, params)
		if err != nil {
			return err
		}
		var answer struct {
			ResultType    string
			RequestState  json.RawMessage
			InputRequests map[string]json.RawMessage
		}
		if m.Result != nil {
			if err := json.Unmarshal(m.Result, &answer); err != nil {
				return fmt.Errorf("%s: read the answer: %w", method, err)
			}
		}
		switch code, _ := jsonrpc.Lookup(m.Error, "code"); {
		case string(code) == "-32022" && s.meta != nil: // there is one version that both speak
			continue
		case m.Error != nil:
			return fmt.Errorf("%s: answered by %s", method, m.Error)
		case answer.ResultType != "input_required":
			if result == nil {
				return nil
			}
			if err := json.Unmarshal(m.Result, result); err != nil {
				return fmt.Errorf("%s: read the answer: %w", method, err)
			}
			return nil
		}
		responses := map[string]any{}
		for name, q := range answer.InputRequests {
			method, _ := jsonrpc.LookupString(q, "method")
			asked, _ := jsonrpc.Lookup(q, "params")
			responses[name] = input(method, asked)
		}
		params["inputResponses"] = responses
		delete(params, "requestState")
		if answer.RequestState != nil {
			params["requestState"] = answer.RequestState
		}
	}
	return fmt.Errorf("%s: no end of questions", method)
}

// once sends a request and returns its response.
func (s *session) once(method string, params map[string]any) (*jsonrpc.Message, error) {
	s.n++
	if s.meta != nil {
		meta := maps.Clone(s.meta)
		if more, ok := params["_meta"].(map[string]any); ok {
			maps.Copy(meta, more)
		}
		params["_meta"] = meta
	}
	id := strconv.Itoa(s.n)
	if err := s.write(jsonrpc.NewRequest(json.RawMessage(id), method, params)); err != nil {
		return nil, err
	}
	for {
		line, err := s.out.ReadBytes('\n')
		if err != nil {
			return nil, fmt.Errorf("%s: connect ended before it answered: %w", method, err)
		}
		m, err := jsonrpc.Parse(line, jsonrpc.Limits{})
		if err != nil {
			return nil, fmt.Errorf("%s: read the answer: %w", method, err)
		}
		switch {
		case m.IsRequest():
			answer := jsonrpc.NewError(m.ID, jsonrpc.CodeMethodNotFound, "method not found", nil)
			if given := input(m.Method, m.Params); given != nil {
				answer = jsonrpc.NewResult(m.ID, given)
			}
			if err := s.write(answer); err != nil {
				return nil, err
			}
		case m.IsNotification():
			s.told = append(s.told, m)
		case jsonrpc.IDKey(m.ID) == jsonrpc.IDKey(json.RawMessage(id)):
			return m, nil
		}
	}
}

// input answers what a server asks of a host: a form with its defaults.
func input(method string, params json.RawMessage) any {
	switch method {
	case "roots/list":
		return map[string]any{"roots": []any{}}
	case "sampling/createMessage":
		return map[string]any{"role": "assistant", "model": "none", "content": map[string]any{"type": "text", "text": "text"}}
	case "elicitation/create":
		var asked struct {
			RequestedSchema struct {
				Properties map[string]struct{ Default json.RawMessage }
			}
		}
		content := map[string]any{}
		_ = json.Unmarshal(params, &asked) // another form: nothing is filled in
		for name, p := range asked.RequestedSchema.Properties {
			if p.Default != nil {
				content[name] = p.Default
			}
		}
		return map[string]any{"action": "accept", "content": content}
	}
	return nil
}

func (s *session) write(raw []byte) error {
	if _, err := s.in.Write(append(raw, '\n')); err != nil {
		return fmt.Errorf("write to connect: %w", err)
	}
	return nil
}

// browse is the browser of somebody who approves at once: the suite's
// authorization servers ask for nothing.
func browse(ctx context.Context, target string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	if err != nil {
		return fmt.Errorf("open the page: %w", err)
	}
	client := &http.Client{Timeout: 30 * time.Second}
	resp, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("open the page: %w", err)
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, io.LimitReader(resp.Body, 1<<20))
	return err
}
