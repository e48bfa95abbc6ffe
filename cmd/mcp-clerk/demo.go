package main

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/mcp-clerk/mcp-clerk/internal/devclerk"
	"github.com/mcp-clerk/mcp-clerk/internal/jsonrpc"
)

const (
	demoAdmin  = "admin@example.com"
	demoMember = "member@example.com"
)

type demoOptions struct {
	As     string // e-mail to sign in as through the pages; empty: the browser
	Output string // where the picture goes
	term   terminal
}

func newDemoCmd(term terminal) *cobra.Command {
	opts := demoOptions{term: term}
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "The whole tour in one command: no account, no configuration, no network",
		Long: `Starts a development server, signs in, lists the tools and calls them through a
real connect process, then shows what a user without the role is refused.

The sign-in happens in your browser. With --as, or where no browser can be
opened, the demo goes through the same pages by itself.`,
		Example: "  mcp-clerk demo\n  mcp-clerk demo --as admin@example.com",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runDemo(cmd.Context(), opts)
		},
	}
	cmd.Flags().StringVar(&opts.As, "as", "", "sign in as this user without a browser ("+demoAdmin+" or "+demoMember+")")
	cmd.Flags().StringVarP(&opts.Output, "output", "o", "mcp-clerk-demo.png", "file for the picture that generateImage makes")
	return cmd
}

func runDemo(ctx context.Context, opts demoOptions) error {
	users := []string{demoAdmin, demoMember}
	switch opts.As {
	case "", demoAdmin:
	case demoMember:
		users = users[1:]
	default:
		return usagef("no user %q in the demo; there are %s and %s", opts.As, demoAdmin, demoMember)
	}
	dir, err := os.MkdirTemp("", "mcp-clerk-demo-")
	if err != nil {
		return fmt.Errorf("make a directory for the demo: %w", err)
	}
	defer func() { _ = os.RemoveAll(dir) }()

	d := &demo{screen: newScreen(opts.term.out), opts: opts, dir: dir, byBrowser: opts.As == ""}
	d.screen.title("mcp-clerk demo", "sign in with Clerk, get the tools of your role, through a stdio command")
	begin := time.Now()
	srv, err := startDevServer(ctx, devOptions{Addr: "127.0.0.1:0", DataDir: filepath.Join(dir, "server"), Log: io.Discard})
	if err != nil {
		return fmt.Errorf("start the development server: %w", err)
	}
	defer func() { err = errors.Join(err, srv.stop()) }()
	d.url = srv.mcpURL
	d.screen.step(begin, "serve --dev", "listening on %s, with a stand-in for Clerk", srv.mcpURL)

	for _, user := range users {
		if err := d.tour(ctx, user); err != nil {
			return err
		}
	}
	d.screen.line("")
	d.screen.line("Everything above was real: OAuth 2.1 with PKCE, tokens sealed on disk, a stdio process.")
	d.screen.line("Next: mcp-clerk serve --dev, then mcp-clerk connect %s in your MCP client.", "http://localhost:8788/mcp")
	return nil
}

type demo struct {
	screen    *screen
	opts      demoOptions
	dir       string
	url       string
	byBrowser bool
}

// tour signs in as user through a connect process of its own and shows what
// this user can do.
func (d *demo) tour(ctx context.Context, user string) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	d.screen.heading(user)
	exe, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	// Every user is a machine of their own: another state directory.
	account := []string{d.url, "--no-browser", "--credential-store", "file", "--state-dir", filepath.Join(d.dir, "state-"+user)}
	if d.byBrowser {
		// A person takes their time, and connect would answer the host meanwhile.
		if err := d.login(ctx, exe, account, user); err != nil {
			return fmt.Errorf("sign in: %w", err)
		}
	}
	begin := time.Now()
	prompts := newPrompts()
	host, err := startStdioClient(ctx, exe, append([]string{"connect"}, account...), prompts.line)
	if err != nil {
		return err
	}
	d.screen.step(begin, "connect", "mcp-clerk connect %s started as a stdio command", d.url)
	err = d.session(ctx, host, user, prompts)
	if err != nil {
		cancel() // the bridge need not be asked nicely any more
	}
	if cerr := host.close(); err == nil {
		err = cerr
	}
	return err
}

// prompts finds the sign-in URL among the lines that a command writes to
// standard error.
type prompts struct{ url chan string }

func newPrompts() prompts { return prompts{make(chan string, 1)} }

func (p prompts) line(line string) {
	if at := strings.Index(line, "http"); at >= 0 && strings.Contains(line, "/authorize?") {
		select {
		case p.url <- strings.TrimSpace(line[at:]):
		default:
		}
	}
}

// login signs in by a login process and waits for it, as long as that waits
// for the person.
func (d *demo) login(ctx context.Context, exe string, account []string, user string) error {
	begin := time.Now()
	life, cancel := context.WithCancel(ctx)
	defer cancel()
	cmd := exec.CommandContext(life, exe, append([]string{"login"}, account...)...) //nolint:gosec // this very program
	stderr, err := cmd.StderrPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	p := newPrompts()
	said := ""
	read := make(chan struct{})
	go func() {
		defer close(read)
		for lines := bufio.NewScanner(stderr); lines.Scan(); {
			p.line(lines.Text())
			if text, ok := strings.CutPrefix(lines.Text(), "error: "); ok {
				said = text
			}
		}
	}()
	select {
	case url := <-p.url:
		err = d.signIn(ctx, user, url)
	case <-read:
	case <-ctx.Done():
		err = ctx.Err()
	}
	if err != nil {
		cancel()
	}
	<-read
	if werr := cmd.Wait(); err == nil && werr != nil {
		err = werr
		if ctx.Err() != nil {
			err = ctx.Err()
		} else if said != "" {
			err = errors.New(said)
		}
	}
	if err != nil {
		return err
	}
	d.screen.step(begin, "login", "registered, consented, signed in with Clerk, token sealed")
	return nil
}

// signIn goes through the pages behind url, in the browser if there is one.
func (d *demo) signIn(ctx context.Context, user, url string) error {
	if d.byBrowser {
		err := openBrowser(d.opts.term.err)(url)
		if err == nil {
			d.screen.note("your browser opens: sign in as %s", user)
			return nil
		}
		d.byBrowser = false
		d.screen.note("%v: the demo goes through the same pages itself", err)
	}
	walker := devclerk.NewPerson(user, func(pressed string) { d.screen.note("pressed %q", pressed) })
	return walker.Walk(ctx, url)
}

func (d *demo) session(ctx context.Context, host *stdioClient, user string, p prompts) error {
	begin := time.Now()
	initialized := make(chan error, 1)
	var initResult json.RawMessage
	go func() {
		var err error
		initResult, err = host.call(ctx, "initialize", map[string]any{
			"protocolVersion": "2025-11-25",
			"capabilities":    map[string]any{},
			"clientInfo":      map[string]string{"name": "mcp-clerk-demo", "version": currentVersion()},
		}, nil)
		initialized <- err
	}()
	signedIn := "with the token of the login"
	select {
	case url := <-p.url: // nobody has signed in: connect asks for it
		if err := d.signIn(ctx, user, url); err != nil {
			return fmt.Errorf("sign in as %q: %w", user, err)
		}
		signedIn = "registered, consented, signed in with Clerk, token sealed"
		if err := <-initialized; err != nil {
			return fmt.Errorf("initialize: %w", err)
		}
	case err := <-initialized:
		if err != nil {
			return fmt.Errorf("initialize: %w", err)
		}
	}
	serverName, _ := jsonrpc.LookupString(initResult, "serverInfo", "name")
	revision, _ := jsonrpc.LookupString(initResult, "protocolVersion")
	d.screen.step(begin, "initialize", "%s; answered by %s (%s)", signedIn, serverName, revision)
	if err := host.notify("notifications/initialized"); err != nil {
		return err
	}
	steps := []func(context.Context, *stdioClient, string) error{d.listTools, d.add, d.userInfo, d.generateImage}
	for _, step := range steps {
		if err := step(ctx, host, user); err != nil {
			return err
		}
	}
	return nil
}

func (d *demo) listTools(ctx context.Context, host *stdioClient, _ string) error {
	begin := time.Now()
	raw, err := host.call(ctx, "tools/list", nil, nil)
	if err != nil {
		return fmt.Errorf("tools/list: %w", err)
	}
	var result struct {
		Tools []struct {
			Name string `json:"name"`
		} `json:"tools"`
	}
	if err := json.Unmarshal(raw, &result); err != nil {
		return fmt.Errorf("tools/list: %w", err)
	}
	names := make([]string, 0, len(result.Tools))
	for _, tool := range result.Tools {
		names = append(names, tool.Name)
	}
	d.screen.step(begin, "tools/list", "%s", strings.Join(names, ", "))
	return nil
}

// toolResult is what tools/call answers.
type toolResult struct {
	IsError bool `json:"isError"`
	Content []struct {
		Type     string `json:"type"`
		Text     string `json:"text"`
		Data     string `json:"data"`
		MIMEType string `json:"mimeType"`
	} `json:"content"`
}

func (r *toolResult) text() string {
	var parts []string
	for _, c := range r.Content {
		if c.Type == "text" {
			parts = append(parts, c.Text)
		}
	}
	return strings.Join(parts, "\n")
}

func callTool(ctx context.Context, host *stdioClient, name string, args any, notify func(*jsonrpc.Message)) (*toolResult, error) {
	raw, err := host.call(ctx, "tools/call", map[string]any{
		"name": name, "arguments": args, "_meta": map[string]any{"progressToken": name},
	}, notify)
	if err != nil {
		return nil, err
	}
	var result toolResult
	if err := json.Unmarshal(raw, &result); err != nil {
		return nil, fmt.Errorf("read result: %w", err)
	}
	return &result, nil
}

func (d *demo) add(ctx context.Context, host *stdioClient, _ string) error {
	begin := time.Now()
	result, err := callTool(ctx, host, "add", map[string]int{"a": 19, "b": 23}, nil)
	if err != nil {
		return fmt.Errorf("call add: %w", err)
	}
	if result.IsError || !strings.Contains(result.text(), "42") {
		return fmt.Errorf("call add: 19 and 23 gave %q", result.text())
	}
	d.screen.step(begin, "add", "19 + 23 = %s", result.text())
	return nil
}

func (d *demo) userInfo(ctx context.Context, host *stdioClient, user string) error {
	begin := time.Now()
	result, err := callTool(ctx, host, "userInfo", map[string]any{}, nil)
	if err != nil {
		return fmt.Errorf("call userInfo: %w", err)
	}
	if result.IsError {
		return fmt.Errorf("call userInfo: %s", result.text())
	}
	if !d.byBrowser && !strings.Contains(result.text(), user) {
		return fmt.Errorf("call userInfo: it does not speak of %q", user)
	}
	d.screen.step(begin, "userInfo", "the caller, as Clerk knows them now:")
	d.screen.block(result.text())
	return nil
}

func (d *demo) generateImage(ctx context.Context, host *stdioClient, user string) error {
	begin := time.Now()
	progress := 0
	result, err := callTool(ctx, host, "generateImage", map[string]any{
		"prompt": "a lighthouse over a calm sea at dusk", "steps": 6,
	}, func(m *jsonrpc.Message) {
		if m.Method == "notifications/progress" {
			progress++
		}
	})
	refused := ""
	if rpc, ok := errors.AsType[*rpcError](err); ok {
		refused = rpc.Message
	} else if err != nil {
		return fmt.Errorf("call generateImage: %w", err)
	} else if result.IsError {
		refused = result.text()
	}
	if refused != "" {
		if user != demoMember && !d.byBrowser {
			return fmt.Errorf("call generateImage: refused to %q: %s", user, refused)
		}
		d.screen.step(begin, "generateImage", "refused, as it should be: %s", refused)
		return nil
	}
	if user == demoMember && !d.byBrowser {
		return fmt.Errorf("call generateImage: %q has no role and was not refused", user)
	}
	for _, c := range result.Content {
		if c.Type != "image" {
			continue
		}
		data, err := base64.StdEncoding.DecodeString(c.Data)
		if err != nil {
			return fmt.Errorf("read picture: %w", err)
		}
		if err := os.WriteFile(d.opts.Output, data, 0o644); err != nil {
			return withHint(fmt.Errorf("write picture: %w", err), "name another file with --output")
		}
		d.screen.step(begin, "generateImage", "%s, %d bytes, %d progress notifications, written to %s", c.MIMEType, len(data), progress, d.opts.Output)
		return nil
	}
	return errors.New("call generateImage: no picture in the result")
}
