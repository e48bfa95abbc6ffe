package server_test

import (
	"net/http"
	"strings"
	"testing"

	mcpclient "github.com/mark3labs/mcp-go/client"
	"github.com/mark3labs/mcp-go/client/transport"
	"github.com/mark3labs/mcp-go/mcp"

	"github.com/mcp-clerk/mcp-clerk/server"
)

// A client that knows only the transport of 2024-11-05 finds its way from a
// refusal to the tools: it holds the resource of the metadata against the URL
// it was given.
func TestAClientOfTheDeprecatedTransport(t *testing.T) {
	r := start(t, nil, nil)
	resp, err := http.Get(r.url + "/sse")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	_, rest, _ := strings.Cut(resp.Header.Get("WWW-Authenticate"), `resource_metadata="`)
	metadata, _, _ := strings.Cut(rest, `"`)
	if resp.StatusCode != http.StatusUnauthorized || metadata != r.url+"/.well-known/oauth-protected-resource/sse" {
		t.Fatalf("%s, %q", resp.Status, resp.Header.Get("WWW-Authenticate"))
	}
	if resp, err = http.Get(metadata); err != nil {
		t.Fatal(err)
	}
	var doc struct{ Resource string }
	decode(t, resp, http.StatusOK, &doc)
	if doc.Resource != r.url+"/sse" {
		t.Errorf("resource %q", doc.Resource)
	}
	r.resource = doc.Resource
	token := r.signIn(adminMail).Access

	c, err := mcpclient.NewSSEMCPClient(r.url+"/sse", transport.WithHeaders(map[string]string{"Authorization": "Bearer " + token}))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	init := mcp.InitializeRequest{}
	init.Params.ProtocolVersion = "2024-11-05"
	init.Params.ClientInfo = mcp.Implementation{Name: "old", Version: "1"}
	agreed, err := c.Initialize(t.Context(), init)
	if err != nil || agreed.ProtocolVersion != "2024-11-05" {
		t.Fatalf("%+v, %v", agreed, err)
	}
	list, err := c.ListTools(t.Context(), mcp.ListToolsRequest{})
	if err != nil || len(list.Tools) != 3 {
		t.Errorf("%+v, %v", list, err)
	}
	call := mcp.CallToolRequest{}
	call.Params.Name, call.Params.Arguments = "add", map[string]any{"a": 1, "b": 2}
	result, err := c.CallTool(t.Context(), call)
	if err != nil || len(result.Content) != 1 || result.Content[0].(mcp.TextContent).Text != "3" {
		t.Errorf("%+v, %v", result, err)
	}
}

func TestTheDeprecatedTransportCanBeTurnedOff(t *testing.T) {
	r := start(t, func(o *server.Options) { o.NoSSE = true }, nil)
	for _, path := range []string{"/sse", "/sse/message", "/.well-known/oauth-protected-resource/sse"} {
		resp, err := http.Get(r.url + path)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusNotFound {
			t.Errorf("%s: %s", path, resp.Status)
		}
	}
}
