package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/mark3labs/mcp-go/mcp"
	mcpserver "github.com/mark3labs/mcp-go/server"

	"github.com/mcp-clerk/mcp-clerk/internal/authserver"
	"github.com/mcp-clerk/mcp-clerk/internal/identity"
	"github.com/mcp-clerk/mcp-clerk/internal/mcphttp"
)

// How long clients may keep what they were told, in the modern era. Together
// with the age of what is known about a user this bounds how long a list shows
// a tool that is gone; calls are checked anew each time.
const (
	listTTLMillis     = 30_000
	discoverTTLMillis = 300_000
)

// newEngine makes mcp-go's server, which knows the protocol's methods. It is
// used as a function from a message to its response: its transports, sessions
// and broadcasts are not.
func (s *Server) newEngine() error {
	hooks := &mcpserver.Hooks{}
	hooks.AddAfterListTools(func(ctx context.Context, _ any, _ *mcp.ListToolsRequest, result *mcp.ListToolsResult) {
		// A list that was made without knowing the caller's roles must not be
		// kept: it may lack tools.
		if x := exchangeFrom(ctx); x != nil && x.rolesUnknown.Load() {
			result.SetCacheHints(0, mcp.CacheScopePrivate)
		}
	})
	hooks.AddAfterListPrompts(func(ctx context.Context, _ any, _ *mcp.ListPromptsRequest, result *mcp.ListPromptsResult) {
		if x := exchangeFrom(ctx); x != nil && x.rolesUnknown.Load() {
			result.SetCacheHints(0, mcp.CacheScopePrivate)
		}
	})
	hooks.AddAfterListResources(func(ctx context.Context, _ any, _ *mcp.ListResourcesRequest, result *mcp.ListResourcesResult) {
		result.Resources = s.visibleResources(ctx, result.Resources)
		if x := exchangeFrom(ctx); x != nil && x.rolesUnknown.Load() {
			result.SetCacheHints(0, mcp.CacheScopePrivate)
		}
	})
	hooks.AddAfterListResourceTemplates(func(ctx context.Context, _ any, _ *mcp.ListResourceTemplatesRequest, result *mcp.ListResourceTemplatesResult) {
		result.ResourceTemplates = s.visibleTemplates(ctx, result.ResourceTemplates)
		if x := exchangeFrom(ctx); x != nil && x.rolesUnknown.Load() {
			result.SetCacheHints(0, mcp.CacheScopePrivate)
		}
	})
	hooks.AddAfterInitialize(func(_ context.Context, _ any, _ *mcp.InitializeRequest, result *mcp.InitializeResult) {
		s.capabilities(&result.Capabilities)
	})
	hooks.AddAfterDiscover(func(_ context.Context, _ any, _ *mcp.DiscoverRequest, result *mcp.DiscoverResult) {
		s.capabilities(&result.Capabilities)
	})
	options := []mcpserver.ServerOption{
		mcpserver.WithTitle(s.opts.Title),
		mcpserver.WithInstructions(s.opts.Instructions),
		mcpserver.WithToolCapabilities(true),
		mcpserver.WithToolFilter(s.visible),
		mcpserver.WithPromptFilter(s.visiblePrompts),
		mcpserver.WithLogging(),
		mcpserver.WithCompletions(),
		mcpserver.WithPromptCompletionProvider(&completions{s}),
		mcpserver.WithResourceCompletionProvider(&completions{s}),
		mcpserver.WithHooks(hooks),
		mcpserver.WithCacheHints(listTTLMillis, mcp.CacheScopePrivate),
		mcpserver.WithMethodCacheHints(mcp.MethodServerDiscover, discoverTTLMillis, mcp.CacheScopePrivate),
	}
	if s.opts.WebsiteURL != "" {
		options = append(options, mcpserver.WithWebsiteURL(s.opts.WebsiteURL))
	}
	s.engine = mcpserver.NewMCPServer(s.opts.Name, s.opts.Version, options...)
	// What the engine gives handlers in their context is the same for all.
	hooks.AddOnRequestInitialization(func(ctx context.Context, _, _ any) error {
		s.engineContext = ctx
		return nil
	})
	s.engine.HandleMessage(context.Background(), json.RawMessage(`{"jsonrpc":"2.0","id":0,"method":"ping"}`))
	hooks.OnRequestInitialization = nil
	meta := &mcp.Meta{}
	meta.SetServerInfo(s.implementation())
	var err error
	if s.resultMeta, err = json.Marshal(meta); err != nil {
		return fmt.Errorf("encode what the server says of itself: %w", err)
	}
	return nil
}

// handle answers one message; it is the Handler of the MCP endpoint.
func (s *Server) handle(ctx context.Context, call *mcphttp.Call) ([]byte, error) {
	m := call.Message
	x := s.newExchange(ctx, call)
	defer x.finish()
	ctx = exchangeContext{ctx, x}
	x.ctx = ctx

	switch mcp.MCPMethod(m.Method) {
	case mcp.MethodToolsCall:
		x.tool = s.tool(call.ParamString("name"))
		refusal, err := s.authorize(ctx, x)
		if err != nil {
			return nil, err
		}
		if refusal != nil {
			return s.result(x, refusal)
		}
		if x.tool != nil && x.tool.mirrored && call.Modern {
			if err := checkParamHeaders(call, x.tool); err != nil {
				return newError(m.ID, mcp.HEADER_MISMATCH, err.Error(), nil)
			}
		}
	case mcp.MethodToolsList, mcp.MethodPromptsList, mcp.MethodResourcesList, mcp.MethodResourcesTemplatesList:
		if err := s.prepareList(ctx, x); err != nil {
			return nil, err
		}
	case mcp.MethodPromptsGet, mcp.MethodResourcesRead, mcp.MethodCompletionComplete, methodSubscribe, methodUnsubscribe:
		if err := s.authorizeItem(ctx, x); err != nil {
			var told *refusal
			if errors.As(err, &told) {
				return newError(m.ID, mcp.INVALID_PARAMS, told.text, nil)
			}
			return nil, err
		}
	}

	if method := mcp.MCPMethod(m.Method); !call.Modern && (method == methodSubscribe || method == methodUnsubscribe) {
		// The HTTP layer keeps the subscriptions of a session.
		if method == methodSubscribe && s.resourceAccess(call.ParamString("uri")) == nil {
			return s.resourceNotFound(call)
		}
		return newResult(m.ID, json.RawMessage(`{}`)), nil
	}
	if mcp.MCPMethod(m.Method) == mcp.MethodResourcesRead && s.resourceAccess(call.ParamString("uri")) == nil {
		return s.resourceNotFound(call)
	}
	if x.tool != nil && m.ID != nil {
		if response, done, err := s.callDirectly(ctx, x); done {
			return response, err
		}
	}
	ctx = mcpserver.WithSupportedProtocolVersions(s.engine.WithContext(ctx, x), call.Versions())
	response := s.engine.HandleMessage(ctx, m.Raw)
	if m.ID == nil {
		return nil, nil
	}
	x.mu.Lock()
	missing, refused, notFound := x.missing, x.refused, x.notFound
	x.mu.Unlock()
	var told *refusal
	var params *ParamsError
	switch {
	case errors.As(refused, &told):
		return newError(m.ID, mcp.INVALID_PARAMS, told.text, nil)
	case errors.As(refused, &params):
		return newError(m.ID, mcp.INVALID_PARAMS, params.Message, nil)
	case refused != nil:
		return nil, refused
	case notFound:
		return s.resourceNotFound(call)
	}
	if missing != nil {
		return newError(m.ID, mcp.MISSING_REQUIRED_CLIENT_CAPABILITY,
			"the tool needs a capability that the client did not declare", map[string]any{"requiredCapabilities": missing})
	}
	// The engine has read the id as a float64; the request's own bytes go back.
	switch response := response.(type) {
	case mcp.JSONRPCResponse:
		return s.encodeResult(x, response.Result)
	case mcp.JSONRPCError:
		e := response.Error
		return newError(m.ID, e.Code, e.Message, e.Data)
	case nil:
		return nil, errors.New("the engine gave no response")
	default:
		return nil, fmt.Errorf("the engine gave a response of type %T", response)
	}
}

// resourceNotFound answers for a URI that names nothing (2026-07-28,
// server/resources, Error Handling; the code was -32002 before).
func (s *Server) resourceNotFound(call *mcphttp.Call) ([]byte, error) {
	code := mcp.RESOURCE_NOT_FOUND
	if call.Modern {
		code = mcp.INVALID_PARAMS
	}
	return newError(call.Message.ID, code, ErrNotFound.Error(), map[string]string{"uri": call.ParamString("uri")})
}

// listen says which changes a client hears of: those of the lists, and of the
// resources that its user may read (2026-07-28, basic/patterns/subscriptions: a
// subscription that cannot be served is not established).
func (s *Server) listen(ctx context.Context, call *mcphttp.Call, want mcphttp.Filter) (mcphttp.Filter, error) {
	if p := identity.FromContext(ctx); p == nil && !s.opts.Public {
		return mcphttp.Filter{}, identity.ErrInvalidToken
	} else if p != nil && !p.HasScope(authserver.ScopeTools) {
		return mcphttp.Filter{}, &mcphttp.ScopeError{Scopes: []string{authserver.ScopeTools}}
	}
	s.toolsMu.RLock()
	prompts, resources := len(s.prompts) > 0, len(s.resources)+len(s.templates) > 0
	s.toolsMu.RUnlock()
	granted := mcphttp.Filter{
		ToolsListChanged:     want.ToolsListChanged,
		PromptsListChanged:   want.PromptsListChanged && prompts,
		ResourcesListChanged: want.ResourcesListChanged && resources,
	}
	x := s.newExchange(ctx, call)
	for _, uri := range want.ResourceSubscriptions {
		if a := s.resourceAccess(uri); a != nil && s.admit(ctx, x, "resource", uri, a) == nil {
			granted.ResourceSubscriptions = append(granted.ResourceSubscriptions, uri)
		}
	}
	return granted, nil
}

// hears reports whether the caller may know of changes of a resource. What
// nothing here serves is a part of something, which decides.
func (s *Server) hears(ctx context.Context, uri string) bool {
	a := s.resourceAccess(uri)
	p := identity.FromContext(ctx)
	switch {
	case a == nil || a.public:
		return true
	case p == nil || !p.HasScope(authserver.ScopeTools) || checkScopes(p, a) != nil:
		return false
	}
	return s.sees(ctx, s.newExchange(ctx, nil), a)
}

// result is a tool result that did not come out of the engine.
func (s *Server) result(x *exchange, result *mcp.CallToolResult) ([]byte, error) {
	if x.call.Modern {
		result.SetResultType(mcp.ResultTypeComplete)
		result.EnsureResultMeta().SetServerInfo(s.implementation())
	}
	return s.encodeResult(x, result)
}

// implementation is what the server says of itself.
func (s *Server) implementation() mcp.Implementation {
	return mcp.Implementation{Name: s.opts.Name, Version: s.opts.Version, Title: s.opts.Title, WebsiteURL: s.opts.WebsiteURL}
}

func (s *Server) encodeResult(x *exchange, result any) ([]byte, error) {
	raw, err := encode(result)
	if err != nil {
		return nil, fmt.Errorf("encode the result of %q: %w", x.call.Message.Method, err)
	}
	if s.opts.Public && x.call.Message.Method == string(mcp.MethodToolsList) {
		if raw, err = s.withSecurity(raw); err != nil {
			return nil, err
		}
	}
	return newResult(x.call.Message.ID, raw), nil
}

// checkParamHeaders holds the headers that mirror arguments against these
// (2026-07-28, basic/transports/streamable-http, "Custom Headers from Tool
// Parameters"). Only the tool's schema knows which there are.
func checkParamHeaders(call *mcphttp.Call, t *registered) error {
	headers := call.Header()
	twice := ""
	err := mcp.ValidateParamHeadersLookup(func(name string) (string, bool) {
		values := headers.Values(name)
		if len(values) == 0 {
			return "", false
		}
		if len(values) > 1 {
			twice = name
		}
		return values[0], true
	}, &t.tool, call.Message.Params)
	if twice != "" {
		// Whoever routes by the header may have taken another value.
		return fmt.Errorf("header mismatch: %s is there more than once", twice)
	}
	return err
}
