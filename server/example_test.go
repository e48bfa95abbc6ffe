package server_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/mark3labs/mcp-go/mcp"

	"github.com/mcp-clerk/mcp-clerk/server"
)

// A server with the built-in tools and one tool of its own, which only users
// with the role support in their public metadata, or the administrators of an
// organization, can see and call.
func Example() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()

	srv, err := server.New(ctx, server.Options{
		Name:      "help-desk",
		Version:   "1.0.0",
		PublicURL: "https://mcp.example.com",
		Store:     "bolt:/var/lib/help-desk/state.db",
		Keys:      server.Secret(os.Getenv("COOKIE_ENCRYPTION_KEY")),
		Clerk: server.ClerkOptions{
			ClientID:     os.Getenv("CLERK_CLIENT_ID"),
			ClientSecret: server.Secret(os.Getenv("CLERK_CLIENT_SECRET")),
			SecretKey:    server.Secret(os.Getenv("CLERK_SECRET_KEY")),
			FrontendAPI:  os.Getenv("CLERK_FRONTEND_API"),
		},
		Logger: slog.Default(),
	})
	if err != nil {
		log.Print(err) // every fault, each with its fix
		return
	}
	defer srv.Close()

	srv.AddBuiltinTools(server.BuiltinTools{})
	srv.AddTool(
		mcp.NewTool("ticket", mcp.WithDescription("Reads a support ticket."), mcp.WithInteger("number", mcp.Required(), mcp.Min(1))),
		func(ctx context.Context, req mcp.CallToolRequest) (*mcp.CallToolResult, error) {
			return mcp.NewToolResultText(fmt.Sprintf("Ticket %d is closed.", req.GetInt("number", 0))), nil
		},
		server.RequireRole("support", "org:admin"),
	)
	if err := srv.Run(ctx, "0.0.0.0:8788"); err != nil {
		log.Print(err)
	}
}

// A program with an HTTP server of its own ends both. Streams would otherwise
// keep it waiting.
func ExampleServer_Shutdown() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	srv, err := server.New(ctx, exampleOptions())
	if err != nil {
		log.Print(err)
		return
	}
	site := &http.Server{Addr: "127.0.0.1:8080", Handler: srv.Handler(), ReadHeaderTimeout: 10 * time.Second}
	ended := make(chan error, 1)
	go func() { ended <- site.ListenAndServe() }()

	select {
	case <-ctx.Done():
	case err := <-ended:
		log.Print(err)
	}
	bye, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := errors.Join(srv.Shutdown(bye), site.Shutdown(bye), srv.Close()); err != nil {
		log.Print(err)
	}
}

// exampleOptions are enough to make a server: nothing is asked before someone
// signs in.
func exampleOptions() server.Options {
	return server.Options{
		Name:      "example",
		PublicURL: "https://mcp.example.com",
		Store:     "memory:",
		Keys:      "6f1c9c2b7a55e0d3481f9e27ab30c4d88e6b1290f7a3c55d21e4907bc8af3612",
		Clerk: server.ClerkOptions{
			ClientID: "client", ClientSecret: "secret", SecretKey: "sk_test_example",
			FrontendAPI: "verb-noun-00.clerk.accounts.dev",
		},
	}
}

// All that is wrong with the options is said at once, in the words of the
// environment variables that set them.
func ExampleOptions_Validate() {
	o := exampleOptions()
	o.Keys = ""
	o.PublicURL = "http://mcp.example.com"
	fmt.Println(o.Validate())
	// Output:
	// PUBLIC_URL: "http://mcp.example.com" is http on a host other than this machine, where tokens could be read on the way: use https; TLS may end at a proxy in front of the server
	// COOKIE_ENCRYPTION_KEY: missing: make one with: openssl rand -hex 32
}

// The server is one handler among others in a mux of one's own. What is not
// more specific goes to it.
func ExampleServer_Handler() {
	srv, err := server.New(context.Background(), exampleOptions())
	if err != nil {
		log.Print(err)
		return
	}
	defer srv.Close()

	mux := http.NewServeMux()
	mux.Handle("/", srv.Handler())
	mux.HandleFunc("GET /pricing", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "free") })

	for _, path := range []string{"/pricing", "/healthz", "/mcp"} {
		rec := httptest.NewRecorder()
		mux.ServeHTTP(rec, httptest.NewRequest(http.MethodGet, path, nil))
		fmt.Println(path, rec.Code, rec.Header().Get("Content-Type"))
	}
	// Output:
	// /pricing 200 text/plain; charset=utf-8
	// /healthz 200 text/plain; charset=utf-8
	// /mcp 401 application/json
}

// With a path in PublicURL the server claims nothing of a site but that path
// and the well-known documents.
func ExampleServer_Handler_belowAPath() {
	options := exampleOptions()
	options.PublicURL = "https://example.com/tools/mcp-clerk"
	srv, err := server.New(context.Background(), options)
	if err != nil {
		log.Print(err)
		return
	}
	defer srv.Close()

	mux := http.NewServeMux()
	mux.Handle("/tools/mcp-clerk/", srv.Handler())
	mux.Handle("/.well-known/", srv.Handler())
	mux.HandleFunc("POST /token", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "the site's own") })

	fmt.Println(srv.URL())
	for _, path := range []string{"/tools/mcp-clerk/mcp", "/.well-known/oauth-protected-resource/tools/mcp-clerk/mcp", "/mcp"} {
		rec := httptest.NewRecorder()
		mux.ServeHTTP(rec, httptest.NewRequest(http.MethodGet, path, nil))
		fmt.Println(path, rec.Code)
	}
	// Output:
	// https://example.com/tools/mcp-clerk/mcp
	// /tools/mcp-clerk/mcp 401
	// /.well-known/oauth-protected-resource/tools/mcp-clerk/mcp 200
	// /mcp 404
}

// A tool that takes a while says how far it is. The notifications reach the
// client that asked for them, and nobody else.
func ExampleProgress() {
	srv, err := server.New(context.Background(), exampleOptions())
	if err != nil {
		log.Print(err)
		return
	}
	defer srv.Close()

	pages := []string{"one", "two", "three"}
	srv.AddTool(mcp.NewTool("index"), func(ctx context.Context, _ mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		for i, page := range pages {
			if err := server.Progress(ctx, float64(i+1), float64(len(pages)), "Indexed "+page); err != nil {
				return nil, err // the client has gone
			}
		}
		return mcp.NewToolResultText("done"), nil
	})
}

// A handler knows who calls: Principal is what the token says, CurrentUser is
// what Clerk says now.
func ExampleCurrentUser() {
	srv, err := server.New(context.Background(), exampleOptions())
	if err != nil {
		log.Print(err)
		return
	}
	defer srv.Close()

	srv.AddTool(mcp.NewTool("hello"), func(ctx context.Context, _ mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		user, err := server.CurrentUser(ctx)
		if err != nil {
			return nil, err
		}
		greeting := "Hello " + user.FirstName
		if user.HasRole("admin") {
			greeting += ", you are an administrator"
		}
		return mcp.NewToolResultText(greeting), nil
	})
}
