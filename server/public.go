package server

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/mark3labs/mcp-go/mcp"

	"github.com/mcp-clerk/mcp-clerk/internal/mcphttp"
)

// inResult are hosts, by their User-Agent, that ask for a sign-in when the
// result of a tool tells them to, and take a 401 for a broken server.
var inResult = []string{"openai-mcp"}

// asksInResult reports whether the client of call is one of them.
func asksInResult(call *mcphttp.Call) bool {
	agent := call.Header().Get("User-Agent")
	return slices.ContainsFunc(inResult, func(host string) bool { return strings.HasPrefix(agent, host) })
}

// signInResult is the result of a tool that needs an account, for these hosts:
// its _meta has the challenge that a 401 would carry.
func (s *Server) signInResult(x *exchange) *mcp.CallToolResult {
	result := mcp.NewToolResultErrorf("%s needs you to sign in", x.tool.name)
	challenge := s.challenge(&http.Request{Host: "", URL: s.endpointURL}, "invalid_token", x.tool.needs())
	result.EnsureResultMeta().AdditionalFields = map[string]any{"mcp/www_authenticate": []string{challenge}}
	return result
}

// withSecurity says in a tools/list result how each tool wants its callers:
// "noauth" for what is public, else "oauth2" with the scopes. Some hosts read
// it on the tool, some in its _meta.
func (s *Server) withSecurity(result json.RawMessage) (json.RawMessage, error) {
	var list map[string]json.RawMessage
	var tools []map[string]json.RawMessage
	err := json.Unmarshal(result, &list)
	if err == nil {
		err = json.Unmarshal(list["tools"], &tools)
	}
	if err != nil {
		return nil, fmt.Errorf("read the list of tools: %w", err)
	}
	type scheme struct {
		Type   string   `json:"type"`
		Scopes []string `json:"scopes,omitempty"`
	}
	for _, tool := range tools {
		var name string
		if err := json.Unmarshal(tool["name"], &name); err != nil {
			return nil, fmt.Errorf("read the list of tools: %w", err)
		}
		t := s.tool(name)
		if t == nil {
			continue
		}
		schemes := []scheme{{Type: "oauth2"}}
		if s.opts.scoped() {
			schemes[0].Scopes = t.needs()
		}
		if t.public {
			schemes = []scheme{{Type: "noauth"}}
		}
		raw, err := encode(schemes)
		if err != nil {
			return nil, err
		}
		meta := map[string]json.RawMessage{}
		if tool["_meta"] != nil {
			if err := json.Unmarshal(tool["_meta"], &meta); err != nil {
				return nil, fmt.Errorf("read the list of tools: %w", err)
			}
		}
		meta["securitySchemes"] = raw
		tool["securitySchemes"] = raw
		if tool["_meta"], err = encode(meta); err != nil {
			return nil, err
		}
	}
	if list["tools"], err = encode(tools); err != nil {
		return nil, err
	}
	return encode(list)
}
