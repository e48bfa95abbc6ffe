package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"runtime"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/mcp-clerk/mcp-clerk/internal/bridge"
)

type connectOptions struct {
	accountOptions
	URL    string
	relay  relayOptions
	resume []string // the command line that takes over a sign-in
	term   terminal
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
	opts.relay.bind(f)
	return cmd
}

// urlAndPort takes a server's URL and, as mcp-remote does, the port that the
// browser's answer comes to.
func urlAndPort(cmd *cobra.Command, args []string) error {
	if len(args) < 1 || len(args) > 2 {
		return usagef("%s takes the URL of one server, and the port of its sign-in if need be, not %d arguments", cmd.Name(), len(args))
	}
	return nil
}

func runConnect(ctx context.Context, opts connectOptions) (err error) {
	forgetStart()
	server, err := opts.serverURL(opts.URL)
	if err != nil {
		return err
	}
	o := bridge.Options{URL: server, DumpTo: opts.term.err}
	if err := opts.relay.apply(&o); err != nil {
		return err
	}
	opts.quiet = opts.relay.Silent
	o.Note = func(text string) { opts.note(opts.term, text) }
	if opts.relay.Debug {
		log, failed := openDebugLog(opts.StateDir, server)
		if failed != nil {
			return failed
		}
		defer func() { err = errors.Join(err, log.Close()) }()
		opts.note(opts.term, "the debug log is "+log.Path)
		opts.log, o.Log, o.DumpTo = log.Logger, log.Logger, io.MultiWriter(log, opts.term.err)
		log.Info("connect", "version", currentVersion(), "server", withoutQuery(server), "pid", os.Getpid())
	}
	shown := newShownSignIn()
	account, err := opts.open(opts.term, server, shown.begin)
	if err != nil {
		return err
	}
	client := account.client
	shown.Client = client
	defer func() { err = errors.Join(err, client.Close()) }()
	// Before standard output, which may be the same socket and then wait likewise.
	stdin, restoreStdin := claimStdin(opts.term)
	defer restoreStdin()
	stdout, restore, err := claimStdout(opts.term)
	if err != nil {
		return err
	}
	defer restore()
	var stop func()
	o.Dump, stop = dumpSignals()
	defer stop()
	o.Stdin, o.Stdout = stdin, stdout
	o.HTTPClient = &http.Client{Transport: account.base, Jar: opts.relay.jar()}
	o.Authorizer, o.SignInURL, o.SignIns, o.LoginCommand = shown, shown.current, shown.begun, opts.loginCommand(server)
	o.Recall = account.note.Read
	o.Remember = func(data []byte) {
		_ = account.note.Write(data) // the next start knows less, and nothing else happens
	}
	o.Name, o.Version = "mcp-clerk", currentVersion()
	err = bridge.Run(ctx, o)
	if client.SigningIn() {
		if err := detach(opts.resume); err != nil {
			opts.note(opts.term, "the sign-in waits until this account is used again: "+err.Error())
		}
	}
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return nil // a host ends its command with a signal, too
	}
	return err
}

// withoutQuery is a server's URL as it may be shown to others: some servers take
// a key in the query.
func withoutQuery(server string) string {
	path, _, has := strings.Cut(server, "?")
	if has {
		return path + "?…"
	}
	return path
}

// loginCommand is what a person types to sign in to this account. A host shows
// it to its model, too.
func (o *accountOptions) loginCommand(server string) string {
	command := "mcp-clerk login " + withoutQuery(server)
	if o.Profile != "" {
		command += " --profile " + o.Profile
	}
	return command
}

// claimStdin returns standard input as the bridge reads it best, see pollable.
//
// A relay is one link of a chain, of which the others run on this machine too,
// and mostly one at a time: half of the processors are enough for it, and waking
// fewer of its threads is faster than using them. That holds where no read of
// the host's messages keeps a processor.
func claimStdin(term terminal) (in io.Reader, restore func()) {
	file, ok := term.in.(*os.File)
	if !ok {
		return term.in, func() {}
	}
	file, restore = pollable(file)
	if file.SetReadDeadline(time.Time{}) == nil && os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(max(1, runtime.GOMAXPROCS(0)/2))
	}
	return file, restore
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
