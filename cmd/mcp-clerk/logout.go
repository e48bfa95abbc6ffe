package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/mcp-clerk/mcp-clerk/internal/oauthclient"
)

type logoutOptions struct {
	accountOptions
	URL  string
	All  bool
	term terminal
}

func newLogoutCmd(term terminal) *cobra.Command {
	opts := logoutOptions{term: term}
	cmd := &cobra.Command{
		Use:   "logout [URL]",
		Short: "Sign out: revoke the tokens at the server, then forget them",
		Long: `Revokes the tokens of the account at URL, then forgets them here. With --all it does
so for every server and profile.`,
		Example: "  mcp-clerk logout https://mcp.example.com/mcp\n  mcp-clerk logout --all",
		Args: func(_ *cobra.Command, args []string) error {
			switch {
			case len(args) > 1:
				return usagef("logout takes one URL, not %d arguments", len(args))
			case opts.All && len(args) == 1:
				return usagef("logout takes a URL or --all, not both")
			case !opts.All && len(args) == 0:
				return usagef("logout takes the URL of a server, or --all")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				opts.URL = args[0]
			}
			return runLogout(cmd.Context(), opts)
		},
	}
	opts.bindStore(cmd.Flags())
	cmd.Flags().BoolVar(&opts.All, "all", false, "sign out everywhere")
	return cmd
}

func runLogout(ctx context.Context, opts logoutOptions) error {
	accounts, err := opts.accounts(ctx, opts.term, opts.URL)
	if err != nil {
		return err
	}
	if len(accounts) == 0 {
		_, err := fmt.Fprintln(opts.term.err, "not signed in anywhere")
		return err
	}
	var errs []error
	for _, a := range accounts {
		errs = append(errs, signOut(ctx, opts.term, a))
	}
	return errors.Join(errs...)
}

// signOut ends one account's sign-in. A server that cannot be told is worth a
// warning: what was held here is gone either way.
func signOut(ctx context.Context, term terminal, a account) (err error) {
	if a.err != nil {
		return fmt.Errorf("sign out: %w", a.err)
	}
	defer func() { err = errors.Join(err, a.client.Close()) }()
	status, err := a.client.Status(ctx)
	if err != nil {
		return err
	}
	err = a.client.SignOut(ctx)
	if r, ok := errors.AsType[*oauthclient.RevocationError](err); ok {
		_, err = fmt.Fprintf(term.err, "signed out of %s here; its server could not be told: %s\n", status.Server, harmless(r.Err.Error()))
		return err
	}
	if err != nil {
		return err
	}
	what := "signed out of"
	if !status.SignedIn {
		what = "was not signed in to"
	}
	_, err = fmt.Fprintln(term.err, what, status.Server+profileSuffix(status.Profile))
	return err
}

func profileSuffix(profile string) string {
	if profile == "" {
		return ""
	}
	return " (profile " + profile + ")"
}
