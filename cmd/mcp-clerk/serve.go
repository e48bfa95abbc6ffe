package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/mcp-clerk/mcp-clerk/internal/credstore"
	"github.com/mcp-clerk/mcp-clerk/internal/secret"
	"github.com/mcp-clerk/mcp-clerk/internal/telemetry"
	"github.com/mcp-clerk/mcp-clerk/server"
)

const defaultAddr = "127.0.0.1:8788"

type serveOptions struct {
	Addr         string
	InternalAddr string
	PublicURL    string
	Store        string
	DataDir      string
	Dev          bool
	LogFormat    string
	LogLevel     string
	NoSSE        bool
	UserRate     float64
	PublicTools  []string
	Config       string
	Admission    string
	Hosts        []string
	NoDevice     bool
	Proxies      []string
	Lives        tokenLives
	Allowed      allowed
	Tokens       tokenSources
	DrainDelay   time.Duration
	term         terminal
}

func newServeCmd(term terminal) *cobra.Command {
	opts := serveOptions{term: term}
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run the remote MCP server",
		Long: `Runs a remote MCP server whose users sign in with Clerk and get tools by the role
that Clerk holds for them now. It is the OAuth 2.1 authorization server of the MCP
clients itself, or leaves that to Clerk (--authorization-server clerk).

Settings come from the environment; each secret also from the file that NAME_FILE
names. On a loopback address without a public https URL, a .env file in the working
directory is read as well.

  CLERK_CLIENT_ID, CLERK_CLIENT_SECRET   the OAuth application of your Clerk instance
  CLERK_SECRET_KEY                       Clerk's Backend API key
  CLERK_FRONTEND_API                     host or URL (or CLERK_PUBLISHABLE_KEY)
  COOKIE_ENCRYPTION_KEY                  64 hex digits: openssl rand -hex 32
  PUBLIC_URL                             where clients reach this server
  MCP_CLERK_STORE                        as --store, for a URL with a password
  CLOUDFLARE_ACCOUNT_ID, CLOUDFLARE_API_TOKEN   images by Workers AI
  IMAGE_API_URL, IMAGE_API_MODEL, IMAGE_API_KEY   images by OpenAI's API or one like it
  IMAGE_PROVIDER                         workers-ai, openai or sketch (default: what is set)
  IMAGE_ROLES                            roles that may use generateImage
  CLERK_WEBHOOK_SECRET                   of Clerk's webhooks to /webhooks/clerk
  ALLOW_DOMAINS, ALLOW_ORGS, ALLOW_USERS as --allow-domain, --allow-org, --allow-user
  ROLE_KEY                               where roles lie in public metadata (default role)
  ROLE_MAP                               what else gives a role: org:admin=admin,…
  CLERK_MACHINE_SECRET_KEY               of the machine that this server is, for --allow-machine
  CLERK_API_URL                          another Backend API than Clerk's own
  MCP_CLERK_REGISTRATION_TOKEN           which clients must have to register

With --dev nothing needs to be set: a stand-in for Clerk runs on loopback, with
admin@example.com (role admin) and member@example.com (no role).`,
		Example: "  mcp-clerk serve --dev\n  PUBLIC_URL=https://mcp.example.com mcp-clerk serve --addr 127.0.0.1:8788",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := opts.Allowed.check(cmd.Flags()); err != nil {
				return err
			}
			if err := opts.Lives.check(); err != nil {
				return err
			}
			if err := opts.Tokens.check(cmd.Flags(), &opts.Lives); err != nil {
				return err
			}
			return runServe(cmd.Context(), opts)
		},
	}
	f := cmd.Flags()
	f.StringVar(&opts.Addr, "addr", defaultAddr, "address to listen on; a loopback one is bound for IPv4 and IPv6")
	f.StringVar(&opts.PublicURL, "public-url", "", "URL under which clients reach this server (default from PUBLIC_URL, or http://localhost:PORT on loopback)")
	f.StringVar(&opts.Store, "store", "", "where state is kept: bolt:PATH, redis://…, postgres://… or memory: (default from MCP_CLERK_STORE, or bolt in --data-dir)")
	f.StringVar(&opts.DataDir, "data-dir", "", "directory for state (default under the user's state directory)")
	f.BoolVar(&opts.Dev, "dev", false, "development: a stand-in for Clerk on loopback, no account needed")
	f.StringVar(&opts.Config, "config", "", "YAML file with clients and admission, see docs/clients.md")
	f.StringVar(&opts.Admission, "admission", "", "which clients may use the server: open, listed or configured (default open)")
	f.StringSliceVar(&opts.Hosts, "admit-host", nil, "host of documents and redirects for --admission listed; \"loopback\" for apps on the user's machine (repeatable)")
	f.BoolVar(&opts.NoDevice, "no-device", false, "do not let people connect machines without a browser by a code (RFC 8628)")
	f.StringSliceVar(&opts.Proxies, "trusted-proxy", nil, "address or network of a reverse proxy whose X-Forwarded-For says whom to count requests against (repeatable)")
	f.StringVar(&opts.InternalAddr, "internal-addr", "", "loopback address for backup, compaction and profiling (default off)")
	opts.Lives.bind(f)
	opts.Allowed.bind(f)
	opts.Tokens.bind(f)
	f.DurationVar(&opts.DrainDelay, "drain-delay", time.Second, "how long, at the end, /readyz says so before anything is refused; none with --dev")
	f.BoolVar(&opts.NoSSE, "no-sse", false, "do not serve the deprecated HTTP+SSE transport at /sse")
	f.Float64Var(&opts.UserRate, "user-rate", 0, "requests a second that one user may send to the MCP endpoint; negative for no limit (default 100)")
	f.StringSliceVar(&opts.PublicTools, "public-tools", nil, "built-in tools that anybody may call, signed in or not; \"add\" can be one (default none)")
	f.StringVar(&opts.LogFormat, "log-format", "text", "text or json")
	f.StringVar(&opts.LogLevel, "log-level", "info", "debug, info, warn or error")
	return cmd
}

func runServe(ctx context.Context, opts serveOptions) (err error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(opts.LogLevel)); err != nil {
		return usagef("--log-level %q is none of debug, info, warn, error", opts.LogLevel)
	}
	logger, err := telemetry.NewLogger(opts.term.err, opts.LogFormat, level)
	if err != nil {
		return usageError{err}
	}
	if err := checkInternalAddr(opts.InternalAddr); err != nil {
		return err
	}
	if err := server.CheckPublicTools(opts.PublicTools); err != nil {
		return usageError{fmt.Errorf("--public-tools: %w", err)}
	}
	warnOfPassword(opts.term, opts.Store)
	if opts.Dev {
		clients, err := clientOptions(opts, newEnvironment(), opts.PublicURL)
		if err != nil {
			return err
		}
		srv, err := startDevServer(ctx, devOptions{
			Addr: opts.Addr, InternalAddr: opts.InternalAddr, DataDir: opts.DataDir, Store: opts.Store, PublicURL: opts.PublicURL,
			Clients: clients, Proxies: opts.Proxies, Lives: opts.Lives, Allowed: opts.Allowed, Tokens: opts.Tokens,
			NoSSE: opts.NoSSE, UserRate: opts.UserRate, PublicTools: opts.PublicTools, Log: opts.term.err, Logger: logger,
		})
		if err != nil {
			return err
		}
		_, _ = fmt.Fprintf(opts.term.err, "development: a stand-in for Clerk runs on %s; sign in as %s or %s\nchange their roles or ban them: %s/users\n", srv.clerkURL, demoAdmin, demoMember, srv.clerkURL)
		announce(opts.term, srv.srv, srv.internal)
		return srv.wait()
	}
	listeners, err := listen(ctx, opts.Addr)
	if err != nil {
		return err
	}
	defer closeAll(listeners)
	env := newEnvironment()
	if inDevelopment(opts, env) {
		if err := env.loadDotenv(".env"); err != nil {
			return err
		}
	}
	options, err := serverOptions(opts, env, listeners)
	if err != nil {
		return err
	}
	options.Logger = logger
	srv, err := server.New(ctx, options)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, srv.Close()) }()
	if err := addTools(srv, env, opts.PublicTools, false); err != nil {
		return err
	}
	internal, err := startInternal(ctx, opts.InternalAddr, srv, options.Store, logger)
	if err != nil {
		return err
	}
	defer internal.stop()
	announce(opts.term, srv, internal)
	return srv.Serve(ctx, listeners...)
}

// announce says where the server is, last that it listens: whoever started it
// may wait for that line.
func announce(term terminal, srv *server.Server, internal *internalListener) {
	if internal != nil {
		_, _ = fmt.Fprintf(term.err, "internal listener on %s\n", internal.url)
	}
	_, _ = fmt.Fprintf(term.err, "connect a client: mcp-clerk connect %s\nlistening on %s\n", srv.URL(), srv.PublicURL())
}

// inDevelopment reports whether a .env file counts: the listener is loopback
// and nobody has said that the public reaches it.
func inDevelopment(opts serveOptions, env *environment) bool {
	public := opts.PublicURL
	if public == "" {
		public = env.get("PUBLIC_URL")
	}
	return isLoopbackAddr(opts.Addr) && (public == "" || isLoopbackURL(public))
}

// serverOptions gathers the settings of a server in front of a Clerk instance
// and reports all that is wrong with them at once.
func serverOptions(opts serveOptions, env *environment, listeners []net.Listener) (server.Options, error) {
	var faults []error
	secretOf := func(names ...string) secret.String {
		for _, name := range names {
			v, err := env.secret(name)
			if err != nil {
				faults = append(faults, err)
			}
			if v != "" {
				return v
			}
		}
		return ""
	}
	publicURL := cmp.Or(opts.PublicURL, env.get("PUBLIC_URL"))
	if publicURL == "" && isLoopbackAddr(opts.Addr) {
		publicURL = server.LocalURL(listeners)
	}
	o := server.Options{
		Name:       "mcp-clerk",
		Title:      "mcp-clerk",
		Version:    currentVersion(),
		PublicURL:  publicURL,
		DrainDelay: opts.DrainDelay,
		Allowed:    opts.Allowed.with(env),
		NoSSE:      opts.NoSSE,
		UserRate:   opts.UserRate,
		Public:     len(opts.PublicTools) > 0,
		Keys:       secretOf("COOKIE_ENCRYPTION_KEY", "MCP_CLERK_KEYS"),
		Clerk: server.ClerkOptions{
			ClientID:       env.get("CLERK_CLIENT_ID"),
			ClientSecret:   secretOf("CLERK_CLIENT_SECRET"),
			SecretKey:      secretOf("CLERK_SECRET_KEY"),
			FrontendAPI:    env.get("CLERK_FRONTEND_API"),
			PublishableKey: env.get("CLERK_PUBLISHABLE_KEY"),
			APIURL:         env.get("CLERK_API_URL"),
			WebhookSecret:  secretOf("CLERK_WEBHOOK_SECRET"),
			RoleKey:        env.get("ROLE_KEY"),

			MachineSecretKey: secretOf("CLERK_MACHINE_SECRET_KEY"),
		},
	}
	opts.Lives.apply(&o)
	opts.Tokens.apply(&o)
	o.TrustedProxies = opts.Proxies
	var err error
	if o.Clients, err = clientOptions(opts, env, publicURL); err != nil {
		faults = append(faults, err)
	}
	if o.Clerk.RoleRules, err = server.ParseRoleRules(env.get("ROLE_MAP")); err != nil {
		faults = append(faults, &server.OptionError{Setting: "ROLE_MAP", Problem: err.Error(), Fix: "write FROM=ROLE, separated by commas, as in org:admin=admin"})
	}
	if o.Store, err = storeURL(opts.Store, env); err == nil && o.Store == "" {
		var dir string
		if dir, err = dataDir(opts.DataDir, serverDir); err == nil {
			o.Store = secret.String(boltURL(dir))
		}
	}
	if err != nil {
		faults = append(faults, err)
	}
	if err := o.Validate(); err != nil {
		faults = append(faults, err)
	}
	if len(faults) > 0 {
		return o, withHint(fmt.Errorf("the configuration has faults:\n%w", errors.Join(faults...)),
			"to try it without an account: mcp-clerk serve --dev")
	}
	return o, nil
}

// clientOptions are which clients may use the server: of the configuration
// file, of flags, which win, and of the environment.
func clientOptions(opts serveOptions, env *environment, publicURL string) (o server.ClientOptions, err error) {
	var faults []error
	if opts.Config != "" {
		if err := readConfig(opts.Config, env, publicURL, &o); err != nil {
			faults = append(faults, err)
		}
	}
	if opts.Admission != "" {
		o.Admission = opts.Admission
	}
	o.NoDevice = opts.NoDevice
	if len(opts.Hosts) > 0 {
		o.AdmittedHosts = opts.Hosts
	}
	if o.RegistrationToken, err = env.secret("MCP_CLERK_REGISTRATION_TOKEN"); err != nil {
		faults = append(faults, err)
	}
	return o, errors.Join(faults...)
}

// storeURL is the --store flag or the environment's. "" means the embedded
// store in the data directory.
func storeURL(storeFlag string, env *environment) (secret.String, error) {
	if storeFlag != "" {
		return secret.String(storeFlag), nil
	}
	return env.secret("MCP_CLERK_STORE")
}

// boltURL is the embedded store in a data directory.
func boltURL(dir string) string { return "bolt:" + filepath.Join(dir, "state.db") }

// warnOfPassword says once that a password in a flag is no secret.
func warnOfPassword(term terminal, storeFlag string) {
	u, err := url.Parse(storeFlag)
	if err != nil || u.User == nil {
		return
	}
	if _, has := u.User.Password(); has {
		_, _ = fmt.Fprintln(term.err, "warning: the password in --store can be read by every user of this machine; set MCP_CLERK_STORE or MCP_CLERK_STORE_FILE instead")
	}
}

// Names of the data directories under the user's state directory.
const (
	serverDir = "server"
	devDir    = "dev"
)

// dataDirPath is the data directory, which may not exist.
func dataDirPath(given, name string) (string, error) {
	if given != "" {
		return given, nil
	}
	base, err := credstore.DefaultDir()
	if err != nil {
		return "", withHint(err, "name a directory with --data-dir")
	}
	return filepath.Join(base, name), nil
}

// dataDir is the data directory, made where it does not exist.
func dataDir(given, name string) (string, error) {
	dir, err := dataDirPath(given, name)
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", withHint(fmt.Errorf("make data directory: %w", err), "name a writable directory with --data-dir")
	}
	return dir, nil
}

// addTools gives srv the built-in tools with the image provider that the
// settings name. The sketch renderer stands in for an image model only where
// it is asked for, or in development.
func addTools(srv *server.Server, env *environment, public []string, dev bool) error {
	tools := server.BuiltinTools{Public: public}
	for role := range strings.SplitSeq(env.get("IMAGE_ROLES"), ",") {
		if role = strings.TrimSpace(role); role != "" {
			tools.ImageRoles = append(tools.ImageRoles, role)
		}
	}
	account := env.get("CLOUDFLARE_ACCOUNT_ID")
	token, err := env.secret("CLOUDFLARE_API_TOKEN")
	if err != nil {
		return err
	}
	address := env.get("IMAGE_API_URL")
	key, err := env.secret("IMAGE_API_KEY")
	if err != nil {
		return err
	}
	switch provider := env.get("IMAGE_PROVIDER"); {
	case provider == "" && account != "" && address != "":
		return withHint(errors.New("two image providers are set, Workers AI and an image API"), "choose one with IMAGE_PROVIDER=workers-ai or IMAGE_PROVIDER=openai")
	case provider == "sketch", provider == "" && dev && account == "" && address == "":
		tools.Image = server.Sketch()
	case provider == "openai", provider == "" && address != "":
		if tools.Image, err = server.ImageAPI(address, key, env.get("IMAGE_API_MODEL"), nil); err != nil {
			return withHint(err, "set IMAGE_API_URL to an address such as https://api.openai.com/v1, IMAGE_API_MODEL, and IMAGE_API_KEY if it needs one")
		}
	case provider == "workers-ai", provider == "" && account != "":
		if account == "" || token == "" {
			return withHint(errors.New("images by Workers AI need an account and a token"), "set CLOUDFLARE_ACCOUNT_ID and CLOUDFLARE_API_TOKEN")
		}
		tools.Image = server.WorkersAI(account, token, nil)
	case provider != "":
		return withHint(fmt.Errorf("unknown IMAGE_PROVIDER %q", provider), "use workers-ai, openai or sketch")
	}
	srv.AddBuiltinTools(tools)
	return nil
}

// listen binds addr; its errors name the next step.
func listen(ctx context.Context, addr string) ([]net.Listener, error) {
	if _, _, err := net.SplitHostPort(addr); err != nil {
		return nil, usagef("--addr %q is not HOST:PORT", addr)
	}
	listeners, err := server.Listen(ctx, addr)
	return listeners, withHint(err, "another server may be running there; name another address with --addr")
}

func closeAll(listeners []net.Listener) {
	for _, l := range listeners {
		_ = l.Close() // already closed where Serve ran
	}
}

func isLoopbackAddr(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	return err == nil && isLoopbackHost(host)
}

func isLoopbackHost(host string) bool {
	if strings.EqualFold(host, "localhost") {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

func isLoopbackURL(raw string) bool {
	u, err := url.Parse(raw)
	return err == nil && isLoopbackHost(u.Hostname())
}
