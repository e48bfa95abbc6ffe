// Command gosdk is a server and a stdio host, both built on the official SDK for
// Go, with a program between them:
//
//	gosdk SERVER REVISION PROGRAM STATE_DIR
//
// It serves as SERVER (one of the table below) at a loopback port and uses that
// server as a host of REVISION through "PROGRAM connect". It prints one line of
// JSON for each check, as the suite's own: {"id", "status", "errorMessage"}.
//
// It is a module of its own so that the product does not depend on the SDK.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"slices"
	"time"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
	"github.com/modelcontextprotocol/go-sdk/mcp"
)

const (
	modern   = "2026-07-28"
	document = "file:///document"
	patience = 20 * time.Second // of each check
)

// kind is a way to set up the SDK's server.
type kind struct {
	revisions []string // nil: all that the SDK knows
	stateless bool
	sse       bool // the transport of 2024-11-05
}

var (
	legacy = []string{"2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05"}
	kinds  = map[string]kind{
		"sessions":         {revisions: legacy},
		"stateless-legacy": {revisions: legacy, stateless: true},
		"modern":           {revisions: []string{modern}, stateless: true},
		"both":             {},
		"both-stateless":   {stateless: true},
		"sse":              {revisions: legacy, sse: true},
	}
)

func main() {
	if len(os.Args) != 5 {
		fmt.Fprintln(os.Stderr, "usage: gosdk SERVER REVISION PROGRAM STATE_DIR")
		os.Exit(2)
	}
	k, ok := kinds[os.Args[1]]
	if !ok {
		fmt.Fprintf(os.Stderr, "error: there is no server %q here\n", os.Args[1])
		os.Exit(2)
	}
	server := httptest.NewServer(k.handler())
	failed := use(server.URL+"/mcp", os.Args[2], os.Args[3], os.Args[4], k)
	server.CloseClientConnections()
	server.Close()
	if failed {
		os.Exit(1)
	}
}

func (k kind) handler() http.Handler {
	s := newServer(k.revisions)
	one := func(*http.Request) *mcp.Server { return s }
	if k.sse {
		return mcp.NewSSEHandler(one, nil)
	}
	return mcp.NewStreamableHTTPHandler(one, &mcp.StreamableHTTPOptions{Stateless: k.stateless})
}

func newServer(revisions []string) *mcp.Server {
	s := mcp.NewServer(&mcp.Implementation{Name: "go-sdk-server", Version: "1"}, &mcp.ServerOptions{
		SupportedProtocolVersions: revisions,
		SubscribeHandler:          func(context.Context, *mcp.SubscribeRequest) error { return nil },
		UnsubscribeHandler:        func(context.Context, *mcp.UnsubscribeRequest) error { return nil },
	})
	tool := func(name string, answer func(context.Context, *mcp.CallToolRequest) (*mcp.CallToolResult, error)) {
		s.AddTool(&mcp.Tool{Name: name, InputSchema: json.RawMessage(`{"type":"object"}`)}, answer)
	}
	tool("echo", func(_ context.Context, r *mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		var said struct {
			Message string `json:"message"`
		}
		if err := json.Unmarshal(r.Params.Arguments, &said); err != nil {
			return nil, err
		}
		return text(said.Message), nil
	})
	// The SDK turns the question into a request of its own for legacy hosts.
	tool("ask", func(_ context.Context, r *mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		if len(r.Params.InputResponses) == 0 {
			return &mcp.CallToolResult{
				InputRequests: mcp.InputRequestMap{"name": &mcp.ElicitParams{Message: "Who are you?"}},
				RequestState:  "state",
			}, nil
		}
		answers, err := json.Marshal(r.Params.InputResponses)
		return text(string(answers)), err
	})
	tool("work", func(ctx context.Context, r *mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		for i := range 3 {
			err := errors.Join(
				r.Session.NotifyProgress(ctx, &mcp.ProgressNotificationParams{ProgressToken: r.Params.GetProgressToken(), Progress: float64(i + 1)}),
				r.Session.Log(ctx, &mcp.LoggingMessageParams{Level: "info", Data: "step"}))
			if err != nil {
				return nil, err
			}
		}
		return text("worked"), nil
	})
	tool("touch", func(ctx context.Context, _ *mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		return text("touched"), s.ResourceUpdated(ctx, &mcp.ResourceUpdatedNotificationParams{URI: document})
	})
	s.AddResource(&mcp.Resource{Name: "document", URI: document}, func(context.Context, *mcp.ReadResourceRequest) (*mcp.ReadResourceResult, error) {
		return &mcp.ReadResourceResult{Contents: []*mcp.ResourceContents{{URI: document, Text: "a text"}}}, nil
	})
	s.AddPrompt(&mcp.Prompt{Name: "greet", Arguments: []*mcp.PromptArgument{{Name: "name"}}}, func(_ context.Context, r *mcp.GetPromptRequest) (*mcp.GetPromptResult, error) {
		return &mcp.GetPromptResult{Messages: []*mcp.PromptMessage{{Role: "user", Content: &mcp.TextContent{Text: "Hello " + r.Params.Arguments["name"]}}}}, nil
	})
	return s
}

func text(s string) *mcp.CallToolResult {
	return &mcp.CallToolResult{Content: []mcp.Content{&mcp.TextContent{Text: s}}}
}

// use is the host. It reports whether a check failed.
func use(url, revision, program, stateDir string, k kind) (failed bool) {
	check := func(id string, run func(context.Context) error) {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		line := map[string]string{"id": id, "status": "SUCCESS"}
		if err := run(ctx); err != nil {
			failed = true
			line["status"], line["errorMessage"] = "FAILURE", err.Error()
		}
		_ = json.NewEncoder(os.Stdout).Encode(line)
	}
	updated, progress, logs := make(chan string, 1024), make(chan float64, 16), make(chan any, 16)
	client := mcp.NewClient(&mcp.Implementation{Name: "go-sdk-host", Version: "1"}, &mcp.ClientOptions{
		ElicitationHandler: func(context.Context, *mcp.ElicitRequest) (*mcp.ElicitResult, error) {
			return &mcp.ElicitResult{Action: "accept", Content: map[string]any{"name": "Ada"}}, nil
		},
		ResourceUpdatedHandler: func(_ context.Context, r *mcp.ResourceUpdatedNotificationRequest) { updated <- r.Params.URI },
		ProgressNotificationHandler: func(_ context.Context, r *mcp.ProgressNotificationClientRequest) {
			progress <- r.Params.Progress
		},
		LoggingMessageHandler: func(_ context.Context, r *mcp.LoggingMessageRequest) { logs <- r.Params.Data },
	})
	all, stop := context.WithTimeout(context.Background(), 2*time.Minute)
	defer stop()
	cmd := exec.CommandContext(all, program, "connect", url, "--state-dir", stateDir)
	cmd.Stderr = os.Stderr
	cmd.WaitDelay = 5 * time.Second

	var session *mcp.ClientSession
	check("connects", func(ctx context.Context) (err error) {
		session, err = client.Connect(ctx, &mcp.CommandTransport{Command: cmd}, &mcp.ClientSessionOptions{ProtocolVersion: revision})
		if err != nil {
			return err
		}
		if got := session.InitializeResult(); got.ServerInfo == nil || got.ServerInfo.Name != "go-sdk-server" {
			return fmt.Errorf("the server is %+v", got.ServerInfo)
		}
		return nil
	})
	if session == nil {
		return true
	}
	// plainLegacy says whether a legacy revision is spoken from end to end.
	plainLegacy := func() bool {
		return session.InitializeResult().ProtocolVersion != modern && !slices.Equal(k.revisions, []string{modern})
	}
	call := func(ctx context.Context, p *mcp.CallToolParams) (string, error) {
		r, err := session.CallTool(ctx, p)
		if err != nil {
			return "", err
		}
		if len(r.Content) != 1 {
			return "", fmt.Errorf("%d contents", len(r.Content))
		}
		t, ok := r.Content[0].(*mcp.TextContent)
		if !ok || r.IsError {
			return "", fmt.Errorf("result %+v, error %t", r.Content[0], r.IsError)
		}
		return t.Text, nil
	}
	check("tools-list", func(ctx context.Context) error {
		r, err := session.ListTools(ctx, nil)
		if err != nil {
			return err
		}
		var names []string
		for _, t := range r.Tools {
			names = append(names, t.Name)
		}
		return same(names, []string{"ask", "echo", "touch", "work"})
	})
	check("tools-call", func(ctx context.Context) error {
		got, err := call(ctx, &mcp.CallToolParams{Name: "echo", Arguments: map[string]any{"message": "grüße\u2028\"<>&"}})
		return errors.Join(err, same(got, "grüße\u2028\"<>&"))
	})
	check("question", func(ctx context.Context) error {
		got, err := call(ctx, &mcp.CallToolParams{Name: "ask"})
		legacyServer := len(k.revisions) > 1 || k.revisions == nil && plainLegacy()
		if k.stateless && legacyServer {
			// A server without a session has no way to ask in these revisions.
			if err == nil {
				return fmt.Errorf("answered %q without a way to ask", got)
			}
			return nil
		}
		var answers map[string]struct {
			Content map[string]string `json:"content"`
		}
		if err == nil {
			err = json.Unmarshal([]byte(got), &answers)
		}
		return errors.Join(err, same(answers["name"].Content["name"], "Ada"))
	})
	check("progress-and-log", func(ctx context.Context) error {
		if plainLegacy() {
			if err := session.SetLoggingLevel(ctx, &mcp.SetLoggingLevelParams{Level: "info"}); err != nil {
				return err
			}
		}
		p := &mcp.CallToolParams{Name: "work", Arguments: map[string]any{}}
		p.SetProgressToken("token")
		if got, err := call(ctx, p); err != nil || got != "worked" {
			return fmt.Errorf("called: %q, %w", got, err)
		}
		for i := range 3 {
			if err := next(ctx, progress, float64(i+1)); err != nil {
				return err
			}
		}
		if plainLegacy() {
			return next[any](ctx, logs, "step")
		}
		return nil
	})
	check("resources-read", func(ctx context.Context) error {
		r, err := session.ReadResource(ctx, &mcp.ReadResourceParams{URI: document})
		if err != nil {
			return err
		}
		return same(r.Contents[0].Text, "a text")
	})
	check("prompts-get", func(ctx context.Context) error {
		r, err := session.GetPrompt(ctx, &mcp.GetPromptParams{Name: "greet", Arguments: map[string]string{"name": "Zoë"}})
		if err != nil {
			return err
		}
		t, _ := r.Messages[0].Content.(*mcp.TextContent)
		return same(t.Text, "Hello Zoë")
	})
	check("unknown-tool", func(ctx context.Context) error {
		_, err := session.CallTool(ctx, &mcp.CallToolParams{Name: "nothing"})
		if e, ok := errors.AsType[*jsonrpc.Error](err); !ok || e.Code != jsonrpc.CodeInvalidParams {
			return fmt.Errorf("answered %w", err)
		}
		return nil
	})
	if !k.stateless { // without a session, the SDK has nowhere to send an update
		check("subscription", func(ctx context.Context) error {
			if err := session.Subscribe(ctx, &mcp.SubscribeParams{URI: document}); err != nil {
				return err
			}
			// The SDK's host of 2026-07-28 does not wait until the subscription is
			// acknowledged: what is said before reaches nobody.
			for ctx.Err() == nil {
				if got, err := call(ctx, &mcp.CallToolParams{Name: "touch"}); err != nil || got != "touched" {
					return fmt.Errorf("called: %q, %w", got, err)
				}
				select {
				case got := <-updated:
					return same(got, document)
				case <-time.After(100 * time.Millisecond):
				case <-ctx.Done():
				}
			}
			return fmt.Errorf("wait for an update: %w", ctx.Err())
		})
	}
	check("ends", func(context.Context) error {
		if err := session.Close(); err != nil {
			return err
		}
		if code := cmd.ProcessState.ExitCode(); code != 0 {
			return fmt.Errorf("connect ended with %d", code)
		}
		return nil
	})
	return failed
}

func same[T any](got, want T) error {
	if g, w := fmt.Sprint(got), fmt.Sprint(want); g != w {
		return fmt.Errorf("got %q, want %q", g, w)
	}
	return nil
}

// next takes the next of a channel's values.
func next[T comparable](ctx context.Context, c <-chan T, want T) error {
	select {
	case got := <-c:
		return same(got, want)
	case <-ctx.Done():
		return fmt.Errorf("wait for %v: %w", want, ctx.Err())
	}
}
