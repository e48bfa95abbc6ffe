package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/mcp-clerk/mcp-clerk/internal/oauthclient"
)

type statusOptions struct {
	accountOptions
	URL  string
	JSON bool
	term terminal
	now  func() time.Time
}

func newStatusCmd(term terminal) *cobra.Command {
	opts := statusOptions{term: term, now: time.Now}
	cmd := &cobra.Command{
		Use:   "status [URL]",
		Short: "Say which account is signed in where, until when, and where the secret lies",
		Long: `Lists every server that this machine is signed in to, or the account at URL alone;
with a URL the exit code is 4 when nobody is signed in there, and 1 when that cannot be
read. It asks no server.`,
		Example: "  mcp-clerk status\n  mcp-clerk status https://mcp.example.com/mcp --json",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 1 {
				return usagef("status takes one URL, not %d arguments", len(args))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				opts.URL = args[0]
			}
			return runStatus(cmd.Context(), opts)
		},
	}
	opts.bindStore(cmd.Flags())
	cmd.Flags().BoolVar(&opts.JSON, "json", false, "print JSON")
	return cmd
}

// statusEntry is one account in the JSON output.
type statusEntry struct {
	Server      string     `json:"server"`
	Profile     string     `json:"profile,omitempty"`
	SignedIn    bool       `json:"signedIn"`
	Account     string     `json:"account,omitempty"`
	Issuer      string     `json:"issuer,omitempty"`
	ClientID    string     `json:"clientId,omitempty"`
	Scopes      []string   `json:"scopes,omitempty"`
	SignedInAt  *time.Time `json:"signedInAt,omitempty"`
	TokenExpiry *time.Time `json:"tokenExpires,omitempty"`
	Renewable   bool       `json:"renewable"`
	SecretIn    string     `json:"secretIn,omitempty"`
	Error       string     `json:"error,omitempty"`
}

func runStatus(ctx context.Context, opts statusOptions) error {
	accounts, err := opts.accounts(ctx, opts.term, opts.URL)
	if err != nil {
		return err
	}
	entries := []statusEntry{}
	var unsigned error
	for _, a := range accounts {
		entry := entryOf(ctx, a)
		entries = append(entries, entry)
		if opts.URL != "" && !entry.SignedIn && entry.Error == "" {
			unsigned = &oauthclient.NotSignedInError{Server: entry.Server, Reason: "no credential is stored"}
		}
		if opts.URL != "" && entry.Error != "" {
			unsigned = fmt.Errorf("it is not known whether somebody is signed in to %q", entry.Server)
		}
		if a.client != nil {
			if err := a.client.Close(); err != nil {
				return err
			}
		}
	}
	if opts.JSON {
		enc := json.NewEncoder(opts.term.out)
		enc.SetEscapeHTML(false)
		enc.SetIndent("", "  ")
		return errors.Join(enc.Encode(entries), unsigned)
	}
	if len(entries) == 0 {
		_, err := fmt.Fprintln(opts.term.out, "not signed in anywhere")
		return err
	}
	var b strings.Builder
	for _, entry := range entries {
		entry.write(&b, opts.now())
	}
	_, err = fmt.Fprint(opts.term.out, b.String())
	return errors.Join(err, unsigned)
}

func entryOf(ctx context.Context, a account) statusEntry {
	if a.err != nil {
		return statusEntry{Server: a.path, Error: a.err.Error()}
	}
	s, err := a.client.Status(ctx)
	e := statusEntry{
		Server: s.Server, Profile: s.Profile, SignedIn: s.SignedIn, Account: s.Account, Issuer: s.Issuer, ClientID: s.ClientID,
		Scopes: s.Scopes, SignedInAt: known(s.Since), TokenExpiry: known(s.Expires), Renewable: s.Renewable, SecretIn: s.SecretIn,
	}
	if err != nil {
		e.Error = err.Error()
	}
	return e
}

func known(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC().Truncate(time.Second)
	return &t
}

// write prints the entry for a person.
func (e *statusEntry) write(b *strings.Builder, now time.Time) {
	fmt.Fprintf(b, "%s%s\n", harmless(e.Server), profileSuffix(e.Profile))
	if e.Error != "" {
		fmt.Fprintf(b, "  cannot be read: %s\n", harmless(e.Error))
		return
	}
	if !e.SignedIn {
		b.WriteString("  not signed in\n")
		return
	}
	account := "an account that the server does not name"
	if e.Account != "" {
		account = harmless(e.Account)
	}
	fmt.Fprintf(b, "  signed in as   %s\n", account)
	if e.SignedInAt != nil {
		fmt.Fprintf(b, "  since          %s\n", e.SignedInAt.Local().Format("2006-01-02 15:04"))
	}
	if e.TokenExpiry != nil {
		until := "valid until " + e.TokenExpiry.Local().Format("2006-01-02 15:04")
		if !e.TokenExpiry.After(now) {
			until = "expired"
		}
		if e.Renewable {
			until += ", renewed by itself"
		}
		fmt.Fprintf(b, "  access token   %s\n", until)
	}
	if len(e.Scopes) > 0 {
		fmt.Fprintf(b, "  scopes         %s\n", harmless(strings.Join(e.Scopes, " ")))
	}
	fmt.Fprintf(b, "  secret in      %s\n", e.SecretIn)
}
