// Command weather is a whole MCP server with a tool of its own, behind Clerk:
// only those with the role admin in their public metadata see it and may call it.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/mark3labs/mcp-go/mcp"

	"github.com/mcp-clerk/mcp-clerk/server"
)

type question struct {
	City string `json:"city" jsonschema:"the city to look out of the window in"`
}

type weather struct {
	Degrees int `json:"degrees"`
}

func addTools(s *server.Server) {
	tool := mcp.NewTool("weather", mcp.WithDescription("Says how warm it is in a city."))
	server.AddTypedTool(s, tool, func(_ context.Context, q question) (weather, error) {
		return weather{Degrees: 10 + len(q.City)}, nil
	}, server.RequireRole("admin"))
}

func run() error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	secret := func(name string) server.Secret { return server.Secret(os.Getenv(name)) }
	srv, err := server.New(ctx, server.Options{
		Name: "weather", PublicURL: os.Getenv("PUBLIC_URL"), Store: "bolt:weather.db", Keys: secret("COOKIE_ENCRYPTION_KEY"),
		Clerk: server.ClerkOptions{
			ClientID: os.Getenv("CLERK_CLIENT_ID"), ClientSecret: secret("CLERK_CLIENT_SECRET"),
			SecretKey: secret("CLERK_SECRET_KEY"), PublishableKey: os.Getenv("CLERK_PUBLISHABLE_KEY"),
		},
	})
	if err != nil {
		return err // every fault at once, each with its fix
	}
	defer func() { _ = srv.Close() }()
	addTools(srv)
	return srv.Run(ctx, "127.0.0.1:8788")
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
