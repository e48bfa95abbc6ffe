package main

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"strings"

	"github.com/spf13/pflag"

	"github.com/mcp-clerk/mcp-clerk/internal/credstore"
	"github.com/mcp-clerk/mcp-clerk/internal/oauthclient"
)

// accountOptions say which account at a server is meant and where its
// credentials lie; connect, login, logout and status share them.
type accountOptions struct {
	CredentialStore string
	Profile         string
	StateDir        string
	AllowHTTP       bool

	network networkOptions
	quiet   bool          // no notes
	log     *slog.Logger  // nil: none
	signIn  signInOptions // of the commands that have bindSignIn
	pasted  <-chan string // lines typed while a sign-in waits; nil: none are read
}

func (o *accountOptions) bindStore(f *pflag.FlagSet) {
	f.StringVar(&o.CredentialStore, "credential-store", credstore.ModeAuto, "where the key to the credentials lies: auto, keyring or file")
	f.StringVar(&o.Profile, "profile", "", "name of a further account at the same server")
	f.StringVar(&o.StateDir, "state-dir", os.Getenv("MCP_CLERK_STATE_DIR"), "directory for credentials (default under the user's state directory)")
	f.Lookup("state-dir").DefValue = ""
	f.BoolVar(&o.AllowHTTP, "allow-http", false, "speak plain http to a server that is not on this machine")
	o.network.bind(f)
}

// note tells a person something that needs no action.
func (o *accountOptions) note(term terminal, text string) {
	if !o.quiet {
		_, _ = fmt.Fprintln(term.err, "note: "+harmless(text)) // a closed stderr must not stop the work
	}
}

func (o *accountOptions) bindSignIn(f *pflag.FlagSet) {
	o.bindStore(f)
	o.signIn.bind(f)
}

// openStore opens the credential store; what a person should know of it is
// said on stderr.
func (o *accountOptions) openStore(term terminal) (*credstore.Store, error) {
	passphrase, err := newEnvironment().secret("MCP_CLERK_PASSPHRASE")
	if err != nil {
		return nil, err
	}
	store, err := credstore.Open(credstore.Options{Dir: o.StateDir, Mode: o.CredentialStore, Passphrase: passphrase, Warn: func(text string) { o.note(term, text) }})
	if err != nil {
		return nil, usageError{err}
	}
	return store, nil
}

// client is the OAuth client of one account at server.
func (o *accountOptions) client(term terminal, server string) (*oauthclient.Client, error) {
	a, err := o.open(term, server, nil)
	return a.client, err
}

// opened is an account that is used: its client, what that stands on, and what
// is kept beside its credential.
type opened struct {
	client *oauthclient.Client
	base   *http.Transport
	note   *credstore.Note
}

// open opens an account at server. shown, if not nil, is told each sign-in URL
// that the person is shown.
func (o *accountOptions) open(term terminal, server string, shown func(url string)) (opened, error) {
	server, err := o.serverURL(server)
	if err != nil {
		return opened{}, err
	}
	store, err := o.openStore(term)
	if err != nil {
		return opened{}, err
	}
	base, err := o.network.transport()
	if err != nil {
		return opened{}, err
	}
	options := oauthclient.Options{
		ServerURL: server,
		Profile:   o.Profile,
		Transport: base,
		OpenURL:   openBrowser(term.err),
		Pasted:    o.pasted,
		Prompt: func(url, code string) {
			showSignIn(term.err, url, code, o.pasted != nil && isTerminal(term.in))
			if shown != nil {
				shown(url)
			}
		},
		Notice: func(text string) { o.note(term, text) },
		Logger: o.log,
	}
	if err := o.signIn.apply(&options, newEnvironment()); err != nil {
		return opened{}, err
	}
	if options.Callback.OffLoopback() {
		options.Notice("the browser's answer does not stay on this machine: whoever can read it on its way, or reach its port, may take part in the sign-in")
	}
	if o.signIn.NoBrowser {
		options.OpenURL = func(string) error { return nil } // the person opens what Prompt shows
	}
	record := store.Record(credstore.Key{Profile: o.Profile, Server: server, Variant: options.Variant()})
	options.Store, options.Pending = record, record.Pending()
	client, err := oauthclient.New(options)
	if err != nil {
		return opened{}, usageError{err}
	}
	return opened{client, base, record.Note()}, nil
}

// serverURL checks a server's URL as typed.
func (o *accountOptions) serverURL(raw string) (string, error) {
	u, err := url.Parse(strings.TrimSpace(raw))
	switch {
	case err != nil || u.Host == "" || u.Opaque != "":
		return "", usagef("%q is not a server's URL, such as https://mcp.example.com/mcp", raw)
	case u.Scheme != "https" && u.Scheme != "http":
		return "", usagef("%q: %s is not spoken, only https and http", raw, u.Scheme)
	case u.User != nil:
		return "", usagef("a server's URL must not contain a password")
	case u.Scheme == "http" && !isLoopbackHost(u.Hostname()) && !o.AllowHTTP:
		return "", withHint(usagef("%q: what is said over http can be read on the way", raw), "use https; in a network that you trust: --allow-http")
	}
	// One server, one name: the credential's key is made of it.
	u.Scheme, u.Host, u.Fragment = strings.ToLower(u.Scheme), strings.ToLower(u.Host), ""
	return u.String(), nil
}

// account is one record of the credential store and a client for it.
type account struct {
	client *oauthclient.Client
	path   string // of the record, where it cannot be opened
	err    error  // why it cannot be opened
}

// accounts returns what the store holds for server and the profile (several
// if sign-ins asked for different scopes) or, when server is empty, everything. The caller closes the clients.
func (o *accountOptions) accounts(ctx context.Context, term terminal, server string) ([]account, error) {
	if server != "" {
		var err error
		if server, err = o.serverURL(server); err != nil {
			return nil, err
		}
	}
	store, err := o.openStore(term)
	if err != nil {
		return nil, err
	}
	base, err := o.network.transport()
	if err != nil {
		return nil, err
	}
	entries, err := store.List(ctx)
	if err != nil {
		return nil, err
	}
	var accounts []account
	for _, e := range entries {
		if server != "" && (e.Err != nil || e.Server != server || e.Profile != o.Profile) {
			continue
		}
		a := account{path: e.Path, err: e.Err}
		if e.Err == nil {
			record := store.Record(e.Key)
			a.client, a.err = oauthclient.New(oauthclient.Options{
				ServerURL: e.Server, Profile: e.Profile, Transport: base, Store: record, Pending: record.Pending(),
			})
		}
		accounts = append(accounts, a)
	}
	if server != "" && len(accounts) == 0 {
		client, err := o.client(term, server) // which has nothing, and says so
		return []account{{client: client, err: err}}, err
	}
	return accounts, nil
}
