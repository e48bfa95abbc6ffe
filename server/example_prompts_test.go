package server_test

import (
	"context"
	"fmt"
	"log"

	"github.com/mark3labs/mcp-go/mcp"

	"github.com/mcp-clerk/mcp-clerk/server"
)

// A typed tool has its schemas from the types of its function.
func ExampleAddTypedTool() {
	srv, err := server.New(context.Background(), exampleOptions())
	if err != nil {
		log.Print(err)
		return
	}
	defer srv.Close()

	type ticket struct {
		Number int `json:"number" jsonschema:"as in the subject of the mails"`
	}
	type state struct {
		Open bool `json:"open"`
	}
	server.AddTypedTool(srv, mcp.NewTool("ticket", mcp.WithDescription("Says whether a ticket is open.")),
		func(_ context.Context, t ticket) (state, error) {
			if t.Number < 1 {
				return state{}, &server.ToolError{Message: "ticket numbers begin at 1"}
			}
			return state{Open: t.Number%2 == 0}, nil
		}, server.RequireRole("support"))
}

// Prompts and resources take the same requirements as tools.
func ExampleServer_AddResourceTemplate() {
	srv, err := server.New(context.Background(), exampleOptions())
	if err != nil {
		log.Print(err)
		return
	}
	defer srv.Close()

	srv.AddResourceTemplate(mcp.NewResourceTemplate("invoice://{number}", "invoice", mcp.WithTemplateMIMEType("text/plain")),
		func(_ context.Context, req mcp.ReadResourceRequest) ([]mcp.ResourceContents, error) {
			if req.Params.URI == "invoice://0" {
				return nil, server.ErrNotFound
			}
			return []mcp.ResourceContents{mcp.TextResourceContents{URI: req.Params.URI, MIMEType: "text/plain", Text: "paid"}}, nil
		}, server.RequireOrgPermission("org:billing:read"))
	srv.AddPrompt(mcp.NewPrompt("remind", mcp.WithArgument("customer", mcp.RequiredArgument())),
		func(_ context.Context, req mcp.GetPromptRequest) (*mcp.GetPromptResult, error) {
			text := fmt.Sprintf("Write a friendly reminder to %s.", req.Params.Arguments["customer"])
			return mcp.NewGetPromptResult("", []mcp.PromptMessage{mcp.NewPromptMessage(mcp.RoleUser, mcp.NewTextContent(text))}), nil
		}, server.RequireRole("sales"))
}

// With Options.Public some tools may be called before signing in; the others
// ask for it.
func ExampleRequireNothing() {
	o := exampleOptions()
	o.Public = true
	srv, err := server.New(context.Background(), o)
	if err != nil {
		log.Print(err)
		return
	}
	defer srv.Close()

	srv.AddTool(mcp.NewTool("hours"), func(ctx context.Context, _ mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		if server.Principal(ctx) == nil {
			return mcp.NewToolResultText("Open from 9 to 5."), nil
		}
		return mcp.NewToolResultText("Open from 9 to 5, and for you until 7."), nil
	}, server.RequireNothing())
}
