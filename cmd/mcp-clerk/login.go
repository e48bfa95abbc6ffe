package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/mcp-clerk/mcp-clerk/internal/credstore"
	"github.com/mcp-clerk/mcp-clerk/internal/oauthclient"
)

type loginOptions struct {
	accountOptions
	URL    string
	Resume bool
	Import bool
	term   terminal
}

func newLoginCmd(term terminal) *cobra.Command {
	opts := loginOptions{term: term}
	cmd := &cobra.Command{
		Use:   "login URL [PORT]",
		Short: "Sign in to a remote MCP server",
		Long: `Signs in to the MCP server at URL in your browser and keeps the tokens, so that
connect starts without asking.

Where no browser can be opened on this machine, open the address that is shown in
any other one; if that one cannot reach this machine, paste the address it ends at
here. Servers that offer it can be signed in to by a code: --device.`,
		Example: "  mcp-clerk login https://mcp.example.com/mcp",
		Args:    urlAndPort,
		RunE: func(cmd *cobra.Command, args []string) error {
			opts.URL = args[0]
			if err := opts.signIn.port(args); err != nil {
				return err
			}
			if !opts.Resume {
				opts.pasted = readLines(opts.term.in)
			}
			return runLogin(cmd.Context(), opts)
		},
	}
	opts.bindSignIn(cmd.Flags())
	cmd.Flags().BoolVar(&opts.Import, "import-mcp-remote", false, "take over the sign-in that mcp-remote keeps in ~/.mcp-auth, and sign in only if that is no longer valid")
	cmd.Flags().BoolVar(&opts.Resume, "resume", false, "go on with the sign-in that a process of this account has left (used by connect)")
	_ = cmd.Flags().MarkHidden("resume") // it fails for unknown flags only
	return cmd
}

func runLogin(ctx context.Context, opts loginOptions) (err error) {
	client, err := opts.client(opts.term, opts.URL)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, client.Close()) }()
	if opts.Resume {
		return client.Resume(ctx)
	}
	if err := opts.signInto(ctx, client); err != nil {
		return err
	}
	status, err := client.Status(ctx)
	if err != nil {
		return err
	}
	if !status.SignedIn {
		// No challenge, no token: the server lets everybody in.
		_, err := fmt.Fprintf(opts.term.err, "%s asks for no sign-in\n", status.Server)
		return err
	}
	as := ""
	if status.Account != "" {
		as = " as " + harmless(status.Account)
	}
	_, err = fmt.Fprintf(opts.term.err, "signed in to %s%s\n%s\n", status.Server, as, whereSecretsLie(status))
	return err
}

// signInto signs in, by what another program holds where that was asked for.
func (o *loginOptions) signInto(ctx context.Context, client *oauthclient.Client) error {
	if !o.Import {
		return client.SignIn(ctx)
	}
	dir, err := mcpRemoteDir()
	if err != nil {
		return err
	}
	held, err := findMCPRemote(dir, o.URL, &o.signIn)
	if errors.Is(err, errNothingThere) {
		return withHint(err, "give the URL and the flags as mcp-remote had them, or sign in without --import-mcp-remote")
	}
	if err != nil {
		return err
	}
	if held.ClientID == "" {
		held.ClientID = o.signIn.ClientID // of a client that was registered beforehand
	}
	if err := client.Import(ctx, held); err != nil {
		return fmt.Errorf("take over mcp-remote's sign-in: %w", err)
	}
	// What is void shows when it is used.
	valid, err := client.Verify(ctx)
	if err != nil || valid {
		return err
	}
	_, _ = fmt.Fprintln(o.term.err, "note: mcp-remote's sign-in is no longer valid") // a closed stderr must not stop the sign-in
	return client.SignIn(ctx)
}

// whereSecretsLie says where the key to the tokens is kept.
func whereSecretsLie(s oauthclient.Status) string {
	switch s.SecretIn {
	case "keyring":
		return "tokens are sealed with a key in the system's keyring"
	case credstore.BackendPassphrase:
		return "tokens are sealed with a key in a file beside them, and that with your passphrase"
	case "file":
		return "tokens are sealed with a key in a file beside them: this machine has no keyring, or none was to be used"
	}
	return "nothing is stored on this machine"
}

// showSignIn prints the sign-in URL for a person.
func showSignIn(w io.Writer, url, code string, pasting bool) {
	text := "to sign in, open " + url + "\n"
	switch {
	case code != "":
		text += "and enter the code " + harmless(code) + "\n"
	case pasting:
		text += "(a browser elsewhere ends at an address that it cannot show: paste that one here)\n"
	}
	_, _ = io.WriteString(w, text) // a closed stderr must not stop the sign-in
}

func isTerminal(r io.Reader) bool {
	f, ok := r.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// readLines returns the lines that are typed, until the input ends. The
// goroutine behind it ends with the input or with the process: a terminal's
// read cannot be broken off.
func readLines(r io.Reader) <-chan string {
	lines := make(chan string)
	go func() {
		defer close(lines)
		for scanner := bufio.NewScanner(r); scanner.Scan(); {
			lines <- scanner.Text()
		}
	}()
	return lines
}
