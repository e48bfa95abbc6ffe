package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/mcp-clerk/mcp-clerk/internal/devclerk"
	"github.com/mcp-clerk/mcp-clerk/internal/secret"
	"github.com/mcp-clerk/mcp-clerk/server"
)

type devOptions struct {
	Addr         string
	InternalAddr string
	DataDir      string
	Store        string
	PublicURL    string
	Clients      server.ClientOptions
	Proxies      []string
	Lives        tokenLives // zero: the server's defaults
	Allowed      allowed
	Tokens       tokenSources
	NoSSE        bool
	UserRate     float64
	PublicTools  []string
	Log          io.Writer
	Logger       *slog.Logger
}

// devServer is a server with a stand-in for Clerk beside it, both on loopback.
// The server takes the stand-in for an ordinary Clerk instance.
type devServer struct {
	mcpURL   string
	clerkURL string

	srv      *server.Server
	internal *internalListener
	clerk    *http.Server
	cancel   context.CancelFunc
	done     chan error // Serve's outcome
}

// startDevServer starts both and returns when they accept connections. They
// run until ctx ends or stop is called.
func startDevServer(ctx context.Context, opts devOptions) (_ *devServer, err error) {
	if !isLoopbackAddr(opts.Addr) {
		return nil, withHint(usagef("--dev does not listen on %q: anybody could sign in as admin", opts.Addr), "use a loopback address: --addr %s", defaultAddr)
	}
	if opts.PublicURL != "" && !isLoopbackURL(opts.PublicURL) {
		return nil, usagef("--dev does not serve %q: anybody could sign in as admin", opts.PublicURL)
	}
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	listeners, err := listen(ctx, opts.Addr)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			closeAll(listeners)
		}
	}()
	env := newEnvironment()
	if err := env.loadDotenv(".env"); err != nil {
		return nil, err
	}
	dir, err := dataDir(opts.DataDir, devDir)
	if err != nil {
		return nil, err
	}
	keys, err := devKeys(env, dir)
	if err != nil {
		return nil, err
	}
	var lc net.ListenConfig
	clerkListener, err := lc.Listen(ctx, "tcp4", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listen for the stand-in for Clerk: %w", err)
	}
	publicURL := cmp.Or(opts.PublicURL, server.LocalURL(listeners))
	clerkURL := "http://" + clerkListener.Addr().String()
	credentials := server.ClerkOptions{
		ClientID:     "dev-client",
		ClientSecret: secret.String(randomHex()),
		SecretKey:    secret.String("sk_test_" + randomHex()),
		FrontendAPI:  clerkURL,
		APIURL:       clerkURL,
		// What the stand-in says counts at once, as with a Clerk whose webhooks
		// are set up.
		WebhookSecret: secret.String("whsec_" + base64.StdEncoding.EncodeToString([]byte(rand.Text()))),
	}
	standIn, err := devclerk.New(devclerk.Options{
		Issuer:       clerkURL,
		ClientID:     credentials.ClientID,
		ClientSecret: credentials.ClientSecret,
		SecretKey:    credentials.SecretKey,
		RedirectURLs: []string{strings.TrimRight(publicURL, "/") + "/callback"},
		Logger:       opts.Logger,
	})
	if err != nil {
		_ = clerkListener.Close()
		return nil, err
	}
	if err := standIn.SetWebhook(server.LocalURL(listeners)+"/webhooks/clerk", credentials.WebhookSecret); err != nil {
		_ = clerkListener.Close()
		return nil, err
	}
	credentials.MachineSecretKey = standIn.AddMachine().Secret
	d := &devServer{
		clerkURL: clerkURL,
		clerk:    &http.Server{Handler: standIn, ReadHeaderTimeout: 10 * time.Second},
		done:     make(chan error, 1),
	}
	store := secret.String(cmp.Or(opts.Store, boltURL(dir)))
	if opts.Tokens.AuthorizationServer == server.AuthorizationServerClerk {
		standIn.SetRegistration(true)
		for _, scope := range []string{"mcp:tools", server.ScopeImages} {
			standIn.AddScope(scope)
		}
	}
	opts.Clients.LoopbackDocuments = true // clients under development publish there
	options := server.Options{
		Name:      "mcp-clerk",
		Title:     "mcp-clerk (development)",
		Version:   currentVersion(),
		PublicURL: publicURL,
		Store:     store,
		Keys:      keys,
		Clerk:     credentials,
		Clients:   opts.Clients,
		Allowed:   opts.Allowed.with(env),
		Logger:    opts.Logger,

		TrustedProxies: opts.Proxies,
	}
	opts.Lives.apply(&options)
	opts.Tokens.apply(&options)
	options.NoSSE, options.UserRate, options.Public = opts.NoSSE, opts.UserRate, len(opts.PublicTools) > 0
	d.srv, err = server.New(ctx, options)
	if err != nil {
		_ = clerkListener.Close()
		return nil, err
	}
	if err := standIn.AddResource(d.srv.URL()); err != nil {
		_ = clerkListener.Close()
		return nil, errors.Join(err, d.srv.Close())
	}
	if err := addTools(d.srv, env, opts.PublicTools, true); err != nil {
		_ = clerkListener.Close()
		return nil, errors.Join(err, d.srv.Close())
	}
	if d.internal, err = startInternal(ctx, opts.InternalAddr, d.srv, store, opts.Logger); err != nil {
		_ = clerkListener.Close()
		return nil, errors.Join(err, d.srv.Close())
	}
	d.mcpURL = d.srv.URL()
	ctx, d.cancel = context.WithCancel(ctx)
	clerkDone := make(chan error, 1)
	go func() { clerkDone <- d.clerk.Serve(clerkListener) }()
	go func() {
		err := d.srv.Serve(ctx, listeners...)
		d.internal.stop()
		err = errors.Join(err, d.srv.Close(), d.clerk.Close())
		if cerr := <-clerkDone; !errors.Is(cerr, http.ErrServerClosed) {
			err = errors.Join(err, cerr)
		}
		d.done <- err
	}()
	return d, nil
}

// wait returns when the server has ended.
func (d *devServer) wait() error {
	defer d.cancel()
	return <-d.done
}

// stop ends the server and waits for it.
func (d *devServer) stop() error {
	d.cancel()
	return <-d.done
}

// devKeys returns the sealing keys: the environment's, else one made at the
// first start and kept in dir, so that a restart loses nobody.
func devKeys(env *environment, dir string) (secret.String, error) {
	for _, name := range []string{"COOKIE_ENCRYPTION_KEY", "MCP_CLERK_KEYS"} {
		if keys, err := env.secret(name); err != nil || keys != "" {
			return keys, err
		}
	}
	path := filepath.Join(dir, "dev.key")
	data, err := os.ReadFile(path)
	if err == nil {
		return secret.String(strings.TrimSpace(string(data))), nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("read development key: %w", err)
	}
	key := randomHex()
	if err := os.WriteFile(path, []byte(key+"\n"), 0o600); err != nil {
		return "", fmt.Errorf("keep development key: %w", err)
	}
	return secret.String(key), nil
}

func randomHex() string {
	var b [32]byte
	_, _ = rand.Read(b[:]) // crypto/rand.Read never fails
	return hex.EncodeToString(b[:])
}
