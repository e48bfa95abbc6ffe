// Command weather is a whole MCP server with a tool of its own, behind Clerk.
//
// Every signed-in user may ask for the weather; only those with the role admin
// in their public metadata see the second tool at all.
package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"

	"github.com/mark3labs/mcp-go/mcp"

	"github.com/mcp-clerk/mcp-clerk/server"
)

type question struct {
	City string `json:"city" jsonschema:"the city to look out of the window in"`
}

type weather struct {
	City    string `json:"city"`
	Degrees int    `json:"degrees"`
}

func addTools(s *server.Server) {
	server.AddTypedTool(s, mcp.NewTool("weather", mcp.WithDescription("Says how warm it is in a city.")),
		func(_ context.Context, q question) (weather, error) {
			return weather{City: q.City, Degrees: 10 + len(q.City)}, nil
		})
	server.AddTypedTool(s, mcp.NewTool("make_rain", mcp.WithDescription("Makes it rain in a city.")),
		func(_ context.Context, q question) (weather, error) {
			return weather{City: q.City, Degrees: 5}, nil
		}, server.RequireRole("admin"))
}

func run() error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	srv, err := server.New(ctx, server.Options{
		Name:      "weather",
		PublicURL: os.Getenv("PUBLIC_URL"),
		Store:     "bolt:weather.db",
		Keys:      server.Secret(os.Getenv("COOKIE_ENCRYPTION_KEY")),
		Clerk: server.ClerkOptions{
			ClientID:       os.Getenv("CLERK_CLIENT_ID"),
			ClientSecret:   server.Secret(os.Getenv("CLERK_CLIENT_SECRET")),
			SecretKey:      server.Secret(os.Getenv("CLERK_SECRET_KEY")),
			PublishableKey: os.Getenv("CLERK_PUBLISHABLE_KEY"),
		},
		Logger: slog.Default(),
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
