package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"

	"github.com/mcp-clerk/mcp-clerk/internal/credstore"
	"github.com/mcp-clerk/mcp-clerk/internal/oauthclient"
)

// version is set by the release build; else the module's version is used.
var version = ""

// terminal is where a command reads and writes.
type terminal struct {
	in       io.Reader
	out, err io.Writer
}

// Exit codes, as documented in the README.
const (
	exitOK          = 0
	exitError       = 1
	exitUsage       = 2
	exitNotSignedIn = 4
	exitInterrupted = 130
)

// usageError is a command line that cannot be meant as it stands.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

func usagef(format string, args ...any) error {
	return usageError{fmt.Errorf(format, args...)}
}

// hintError carries the next step for the person who reads the error.
type hintError struct {
	error
	hint string
}

func (e hintError) Unwrap() error { return e.error }

func withHint(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	return hintError{err, fmt.Sprintf(format, args...)}
}

// run executes one command line and returns the process's exit code. Nothing
// below it exits.
func run(ctx context.Context, args []string, term terminal) int {
	root := newRoot(term)
	root.SetArgs(args)
	started := false
	root.PersistentPreRun = func(*cobra.Command, []string) { started = true }
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return exitOK
	}
	code, hint := classify(ctx, err, started)
	if hint == "" && code == exitUsage {
		hint = "run " + cmd.CommandPath() + " --help"
	}
	if code == exitInterrupted {
		fmt.Fprintln(term.err, "interrupted")
		return code
	}
	fmt.Fprintln(term.err, "error: "+strings.TrimSpace(err.Error()))
	for line := range strings.Lines(hint) {
		fmt.Fprintln(term.err, "hint: "+strings.TrimRight(line, "\n"))
	}
	return code
}

// classify is the one table from an error to its exit code and hint. An error
// before a command started (flags, arguments, an unknown command) is a usage
// error.
func classify(ctx context.Context, err error, started bool) (code int, hint string) {
	if h, ok := errors.AsType[hintError](err); ok {
		hint = h.hint
	}
	if _, ok := errors.AsType[usageError](err); ok || !started {
		return exitUsage, hint
	}
	if e, ok := errors.AsType[*oauthclient.NotSignedInError](err); ok {
		if hint == "" {
			hint = "run mcp-clerk login " + e.Server
		}
		return exitNotSignedIn, hint
	}
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return exitInterrupted, ""
	}
	if _, ok := errors.AsType[*credstore.PassphraseError](err); ok && hint == "" {
		hint = "set MCP_CLERK_PASSPHRASE to the passphrase that sealed it; without that, remove the credentials directory and sign in again"
	}
	if _, ok := errors.AsType[*net.OpError](err); ok && hint == "" {
		hint = "check the URL, and that the server runs and can be reached from here"
	}
	return exitError, hint
}

func newRoot(term terminal) *cobra.Command {
	root := &cobra.Command{
		Use:   "mcp-clerk",
		Short: "A remote MCP server with Clerk sign-in, and the stdio bridge to any remote MCP server",
		Long: `mcp-clerk is both ends of a Clerk-protected MCP connection.

  mcp-clerk serve        a remote MCP server: its users sign in with Clerk and get
                         the tools of the role that Clerk holds for them now
  mcp-clerk connect URL  a local stdio command for Claude Desktop and every other
                         stdio host: signs in once and relays to the remote server

Not by Clerk. Try it without an account: mcp-clerk demo`,
		SilenceErrors:              true,
		SilenceUsage:               true,
		Version:                    currentVersion(),
		SuggestionsMinimumDistance: 2,
	}
	root.SetIn(term.in)
	root.SetOut(term.out)
	root.SetErr(term.err)
	root.SetVersionTemplate("mcp-clerk {{.Version}}\n")
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usageError{withSuggestion(cmd, err)}
	})
	root.AddCommand(
		newServeCmd(term),
		newConnectCmd(term),
		newLoginCmd(term),
		newLogoutCmd(term),
		newStatusCmd(term),
		newDemoCmd(term),
		newBackupCmd(term),
		newCompactCmd(term),
		newVersionCmd(term),
	)
	return root
}

func newVersionCmd(term terminal) *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			_, err := fmt.Fprintln(term.out, "mcp-clerk "+currentVersion())
			return err
		},
	}
}

// currentVersion is the release's version, else the module's, else "dev".
func currentVersion() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" && info.Main.Version != "(devel)" {
		return info.Main.Version
	}
	return "dev"
}
