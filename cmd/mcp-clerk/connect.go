package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/mcp-clerk/mcp-clerk/internal/bridge"
)

type connectOptions struct {
	accountOptions
	URL     string
	Headers []string
	resume  []string // the command line that takes over a sign-in
	term    terminal
}

func newConnectCmd(term terminal) *cobra.Command {
	opts := connectOptions{term: term}
	cmd := &cobra.Command{
		Use:     "connect URL [PORT]",
		Aliases: []string{"proxy"},
		Short:   "The stdio bridge to a remote MCP server",
		Long: `Relays newline-delimited JSON-RPC between standard input and output and the remote
MCP server at URL. When the server asks for a sign-in, the browser opens once; the
tokens are kept, and every process of this account shares them.

Claude Desktop and other stdio hosts run it as their command:

  {"mcpServers": {"example": {"command": "mcp-clerk", "args": ["connect", "https://mcp.example.com/mcp"]}}}

Standard output carries JSON-RPC and nothing else. $BROWSER, when set, is the
command that opens the sign-in page.`,
		Example: "  mcp-clerk connect https://mcp.example.com/mcp",
		Args:    urlAndPort,
		RunE: func(cmd *cobra.Command, args []string) error {
			opts.URL = args[0]
			if err := opts.signIn.port(args); err != nil {
				return err
			}
			opts.resume = resumeArgs(cmd.Flags(), args)
			return runConnect(cmd.Context(), opts)
		},
	}
	f := cmd.Flags()
	opts.bindSignIn(f)
	f.StringArrayVar(&opts.Headers, "header", nil, `header for every request to the server, as "Name: value"; ${NAME} is taken from the environment (repeatable)`)
	return cmd
}

// urlAndPort takes a server's URL and, as mcp-remote does, the port that the
// browser's answer comes to.
func urlAndPort(cmd *cobra.Command, args []string) error {
	if len(args) < 1 || len(args) > 2 {
		return usagef("%s takes the URL of one server and the port of its sign-in, not %d arguments", cmd.Name(), len(args))
	}
	return nil
}

func runConnect(ctx context.Context, opts connectOptions) (err error) {
	header, err := headers(opts.Headers, os.LookupEnv)
	if err != nil {
		return err
	}
	server, err := opts.serverURL(opts.URL)
	if err != nil {
		return err
	}
	shown := newShownSignIn()
	account, err := opts.open(opts.term, server, shown.begin)
	if err != nil {
		return err
	}
	client := account.client
	shown.Client = client
	defer func() { err = errors.Join(err, client.Close()) }()
	stdout, restore, err := claimStdout(opts.term)
	if err != nil {
		return err
	}
	defer restore()
	err = bridge.Run(ctx, bridge.Options{
		Stdin:      opts.term.in,
		Stdout:     stdout,
		URL:        server,
		HTTPClient: &http.Client{Transport: account.base},
		Header:     header,
		Authorizer: shown,
		SignInURL:  shown.current,
		SignIns:    shown.begun,
		Kept:       account.note.Read,
		Keep: func(result []byte) {
			_ = account.note.Write(result) // the next start is told less, and nothing else happens
		},
		LoginCommand: opts.loginCommand(server),
		Name:         "mcp-clerk",
		Version:      currentVersion(),
	})
	if client.SigningIn() {
		if err := detach(opts.resume); err != nil {
			_, _ = fmt.Fprintf(opts.term.err, "note: the sign-in waits until this account is used again: %v\n", err)
		}
	}
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return nil // a host ends its command with a signal, too
	}
	return err
}

// loginCommand is what a person types to sign in to this account.
func (o *accountOptions) loginCommand(server string) string {
	command := "mcp-clerk login " + server
	if o.Profile != "" {
		command += " --profile " + o.Profile
	}
	return command
}

// headers reads "Name: value" lines. ${NAME} in a value stands for the
// environment's, so that no secret needs to be on the command line.
func headers(lines []string, lookup func(string) (string, bool)) (http.Header, error) {
	header := http.Header{}
	for _, line := range lines {
		name, value, ok := strings.Cut(line, ":")
		name, value = strings.TrimSpace(name), strings.TrimSpace(value)
		if !ok || !validHeaderName(name) {
			return nil, usagef("a --header is not of the form %q", "Name: value")
		}
		var missing []string
		value = expand(value, func(variable string) string {
			v, ok := lookup(variable)
			if !ok {
				missing = append(missing, variable)
			}
			return v
		})
		if len(missing) > 0 {
			return nil, usagef("--header %s: the environment has no %s", name, strings.Join(missing, ", "))
		}
		if strings.ContainsAny(value, "\r\n\x00") {
			return nil, usagef("--header %s: its value has a line break", name)
		}
		header.Add(name, value)
	}
	return header, nil
}

// expand replaces each ${NAME}; a dollar sign elsewhere is one.
func expand(s string, lookup func(string) string) string {
	var b strings.Builder
	for {
		before, rest, ok := strings.Cut(s, "${")
		b.WriteString(before)
		if !ok {
			return b.String()
		}
		name, after, ok := strings.Cut(rest, "}")
		if !ok {
			b.WriteString("${" + rest)
			return b.String()
		}
		b.WriteString(lookup(name))
		s = after
	}
}

// validHeaderName checks for a token of RFC 9110 section 5.6.2.
func validHeaderName(name string) bool {
	for _, c := range []byte(name) {
		if c <= ' ' || c >= 0x7f || strings.IndexByte(`"(),/:;<=>?@[\]{}`, c) >= 0 {
			return false
		}
	}
	return name != ""
}

// claimStdout keeps the real standard output for the bridge and points the
// process's own at standard error: whatever a library prints then cannot break
// the host's protocol.
func claimStdout(term terminal) (out *os.File, restore func(), err error) {
	file, ok := term.out.(*os.File)
	if !ok {
		return nil, nil, errors.New("standard output is not a file")
	}
	if file != os.Stdout {
		return file, func() {}, nil
	}
	out, err = redirectStdout()
	if err != nil {
		return nil, nil, fmt.Errorf("claim standard output: %w", err)
	}
	return out, func() { _ = out.Close() }, nil
}
