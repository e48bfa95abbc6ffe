package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/spf13/cobra"

	"github.com/mcp-clerk/mcp-clerk/internal/oauthclient"
)

type loginOptions struct {
	accountOptions
	URL    string
	Resume bool
	term   terminal
}

func newLoginCmd(term terminal) *cobra.Command {
	opts := loginOptions{term: term}
	cmd := &cobra.Command{
		Use:   "login URL",
		Short: "Sign in to a remote MCP server",
		Long: `Signs in to the MCP server at URL in your browser and keeps the tokens, so that
connect starts without asking.`,
		Example: "  mcp-clerk login https://mcp.example.com/mcp",
		Args:    oneURL,
		RunE: func(cmd *cobra.Command, args []string) error {
			opts.URL = args[0]
			return runLogin(cmd.Context(), opts)
		},
	}
	opts.bindSignIn(cmd.Flags())
	cmd.Flags().BoolVar(&opts.Resume, "resume", false, "go on with the sign-in that a process of this account has left (used by connect)")
	_ = cmd.Flags().MarkHidden("resume") // it fails for unknown flags only
	return cmd
}

func runLogin(ctx context.Context, opts loginOptions) (err error) {
	client, _, err := opts.client(opts.term, opts.URL, nil)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, client.Close()) }()
	if opts.Resume {
		return client.Resume(ctx)
	}
	if err := client.SignIn(ctx); err != nil {
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

// whereSecretsLie says where the key to the tokens is kept.
func whereSecretsLie(s oauthclient.Status) string {
	switch s.SecretIn {
	case "keyring":
		return "tokens are sealed with a key in the system's keyring"
	case "file":
		return "tokens are sealed with a key in a file beside them: this machine has no keyring, or none was to be used"
	}
	return "nothing is stored on this machine"
}

// latest is the sign-in URL that a person was last shown.
type latest struct {
	mu  sync.Mutex
	url string
}

func newLatest() *latest { return &latest{} }

func (l *latest) set(url string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.url = url
}

func (l *latest) get() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.url
}

// showSignIn prints the sign-in URL for a person.
func showSignIn(w io.Writer, url string) {
	_, _ = fmt.Fprintf(w, "to sign in, open %s\n", url) // a closed stderr must not stop the sign-in
}
