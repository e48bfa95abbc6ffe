// Command conformance-server is a server with everything that the server
// scenarios of the official MCP conformance suite call, on the public package:
//
//	go run ./scripts/conformance-server --dev --addr 127.0.0.1:0 --data-dir DIR
//
// It is started and signed in to like "mcp-clerk serve --dev", with the same
// stand-in for Clerk and the same users, and says "listening on URL" when it is
// ready.
package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/mcp-clerk/mcp-clerk/internal/devclerk"
	"github.com/mcp-clerk/mcp-clerk/server"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stderr)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1) //nolint:forbidigo // the only exit of this program
	}
}

func run(ctx context.Context, args []string, out io.Writer) (err error) {
	flags := flag.NewFlagSet("conformance-server", flag.ContinueOnError)
	flags.SetOutput(out)
	dev := flags.Bool("dev", false, "with the stand-in for Clerk; there is no other way")
	addr := flags.String("addr", "127.0.0.1:8788", "loopback address to listen on")
	dir := flags.String("data-dir", "", "directory for state (default: none is kept)")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if host, _, err := net.SplitHostPort(*addr); !*dev || err != nil || host != "localhost" && !net.ParseIP(host).IsLoopback() {
		return errors.New("it runs with --dev and on a loopback --addr only: anybody can sign in")
	}
	listeners, err := server.Listen(ctx, *addr)
	if err != nil {
		return err
	}
	defer func() {
		for _, l := range listeners {
			_ = l.Close() // of a server that ran they are closed
		}
	}()
	publicURL := server.LocalURL(listeners)
	var lc net.ListenConfig
	clerkListener, err := lc.Listen(ctx, "tcp4", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("listen for the stand-in for Clerk: %w", err)
	}
	clerkURL := "http://" + clerkListener.Addr().String()
	credentials := server.ClerkOptions{
		ClientID: "dev-client", ClientSecret: server.Secret(randomHex()), SecretKey: server.Secret("sk_test_" + randomHex()),
		FrontendAPI: clerkURL, APIURL: clerkURL,
	}
	standIn, err := devclerk.New(devclerk.Options{
		Issuer: clerkURL, ClientID: credentials.ClientID, ClientSecret: credentials.ClientSecret, SecretKey: credentials.SecretKey,
		RedirectURLs: []string{publicURL + "/callback"},
	})
	if err != nil {
		return errors.Join(err, clerkListener.Close())
	}
	clerk := &http.Server{Handler: standIn, ReadHeaderTimeout: 10 * time.Second}
	clerkDone := make(chan error, 1)
	go func() { clerkDone <- clerk.Serve(clerkListener) }()
	defer func() {
		err = errors.Join(err, clerk.Close())
		if e := <-clerkDone; !errors.Is(e, http.ErrServerClosed) {
			err = errors.Join(err, e)
		}
	}()

	store := server.Secret("memory:")
	if *dir != "" {
		if err := os.MkdirAll(*dir, 0o700); err != nil {
			return fmt.Errorf("make data directory: %w", err)
		}
		store = server.Secret("bolt:" + filepath.Join(*dir, "state.db"))
	}
	srv, err := server.New(ctx, server.Options{
		Name: "conformance-server", Title: "mcp-clerk (conformance)", Version: "1.0.0", PublicURL: publicURL, Store: store,
		Keys: server.Secret(randomHex()), Clerk: credentials,
		Logger: slog.New(slog.NewTextHandler(out, &slog.HandlerOptions{Level: slog.LevelWarn})),
	})
	if err != nil {
		return err
	}
	addFixtures(srv)
	fmt.Fprintf(out, "development: sign in as admin@example.com or member@example.com\nlistening on %s\n", srv.PublicURL())
	return errors.Join(srv.Serve(ctx, listeners...), srv.Close())
}

func randomHex() string {
	var b [32]byte
	_, _ = rand.Read(b[:]) // crypto/rand.Read never fails
	return hex.EncodeToString(b[:])
}
