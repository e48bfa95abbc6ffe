package main

import (
	"testing"

	"github.com/mcp-clerk/mcp-clerk/server"
)

// The example is a program that readers start from: its tools must be ones that
// the server takes.
func TestToolsAreTaken(t *testing.T) {
	srv, err := server.New(t.Context(), server.Options{
		PublicURL: "https://mcp.example.com", Store: "memory:", Keys: "6f1c9c2b7a55e0d3481f9e27ab30c4d88e6b1290f7a3c55d21e4907bc8af3612",
		Clerk: server.ClerkOptions{ClientID: "client", ClientSecret: "secret", SecretKey: "sk_test_example", FrontendAPI: "verb-noun-00.clerk.accounts.dev"},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer srv.Close()
	addTools(srv)
}
