package server

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/mark3labs/mcp-go/mcp"

	"github.com/mcp-clerk/mcp-clerk/internal/identity"
)

// PromptHandler makes a prompt. Errors are as those of a ToolHandler: logged,
// and the client only learns that it failed.
type PromptHandler func(ctx context.Context, req mcp.GetPromptRequest) (*mcp.GetPromptResult, error)

// ResourceHandler reads a resource; of a template, the values of the variables
// are in req.Params.Arguments. ErrNotFound says that there is no such resource.
type ResourceHandler func(ctx context.Context, req mcp.ReadResourceRequest) ([]mcp.ResourceContents, error)

// ErrNotFound is returned by a ResourceHandler for a URI that names nothing, or
// nothing that the caller may know of.
var ErrNotFound = errors.New("resource not found")

// handlerTimeout bounds the handlers of prompts and resources.
const handlerTimeout = defaultToolTimeout

// resourceTemplate is a resource template with who may use it.
type resourceTemplate struct {
	uri    string
	match  func(uri string) bool
	access access
}

// AddPrompt adds a prompt, or replaces the one of its name. The requirements are
// those of tools: for whom they are not met the prompt is neither listed nor
// made. It panics without a name or handler.
func (s *Server) AddPrompt(prompt mcp.Prompt, h PromptHandler, requirements ...Requirement) {
	if prompt.Name == "" || h == nil {
		panic(fmt.Sprintf("server: prompt %q needs a name and a handler", prompt.Name))
	}
	a := s.newAccess("prompt", prompt.Name, requirements)
	s.toolsMu.Lock()
	s.prompts[prompt.Name] = a
	s.toolsMu.Unlock()
	s.engine.AddPrompt(prompt, func(ctx context.Context, req mcp.GetPromptRequest) (*mcp.GetPromptResult, error) {
		result, err := handled(ctx, "prompt", prompt.Name, a, func(ctx context.Context) (*mcp.GetPromptResult, error) { return h(ctx, req) })
		if result != nil && result.NeedsInput() {
			exchangeFrom(ctx).checkAskable(result.InputRequests)
		}
		return result, err
	})
	s.announce(mcp.MethodNotificationPromptsListChanged, nil, nil)
}

// AddResource adds a resource, or replaces the one of its URI. The requirements
// are those of tools. It panics without a URI or handler.
func (s *Server) AddResource(resource mcp.Resource, h ResourceHandler, requirements ...Requirement) {
	if resource.URI == "" || h == nil {
		panic(fmt.Sprintf("server: resource %q needs a URI and a handler", resource.URI))
	}
	a := s.newAccess("resource", resource.URI, requirements)
	s.toolsMu.Lock()
	s.resources[resource.URI] = a
	s.toolsMu.Unlock()
	s.engine.AddResource(resource, func(ctx context.Context, req mcp.ReadResourceRequest) ([]mcp.ResourceContents, error) {
		return handled(ctx, "resource", resource.URI, a, func(ctx context.Context) ([]mcp.ResourceContents, error) { return h(ctx, req) })
	})
	s.announce(mcp.MethodNotificationResourcesListChanged, nil, nil)
}

// AddResourceTemplate adds resources by a URI template (RFC 6570). A URI that a
// resource of its own has is that one's. It panics without a template or
// handler.
func (s *Server) AddResourceTemplate(t mcp.ResourceTemplate, h ResourceHandler, requirements ...Requirement) {
	if t.URITemplate == nil || h == nil {
		panic(fmt.Sprintf("server: resource template %q needs a URI template and a handler", t.Name))
	}
	uri := t.URITemplate.Raw()
	a := s.newAccess("resource", uri, requirements)
	s.toolsMu.Lock()
	s.templates = append(slices.DeleteFunc(s.templates, func(o *resourceTemplate) bool { return o.uri == uri }),
		&resourceTemplate{uri: uri, match: t.URITemplate.Regexp().MatchString, access: *a})
	s.toolsMu.Unlock()
	s.engine.AddResourceTemplate(t, func(ctx context.Context, req mcp.ReadResourceRequest) ([]mcp.ResourceContents, error) {
		return handled(ctx, "resource", req.Params.URI, a, func(ctx context.Context) ([]mcp.ResourceContents, error) { return h(ctx, req) })
	})
	s.announce(mcp.MethodNotificationResourcesListChanged, nil, nil)
}

// ResourceUpdated tells the clients that subscribed to uri, or to what it is a
// part of, that it is another; of those only whose users may have it.
func (s *Server) ResourceUpdated(uri string) {
	s.announce(mcp.MethodNotificationResourceUpdated, map[string]string{"uri": uri}, nil)
}

func (s *Server) newAccess(kind, name string, requirements []Requirement) *access {
	a := &access{}
	for _, r := range requirements {
		r(a)
	}
	s.declare(kind, name, a)
	return a
}

// handled calls the handler of a prompt or resource for whom a admits. The
// check is made where the handler is called, so that whichever way the engine
// finds it, there is none around the check.
func handled[T any](ctx context.Context, kind, name string, a *access, h func(ctx context.Context) (T, error)) (T, error) {
	var none T
	x := exchangeFrom(ctx)
	if err := x.server.admit(ctx, x, kind, name, a); err != nil {
		x.refuse(err)
		return none, err
	}
	failed := fmt.Errorf("the %s failed", kind)
	result, err := bounded(ctx, kind, name, handlerTimeout, x.failure(failed), h)
	var elicit mcp.URLElicitationRequiredError
	var elicitPtr *mcp.URLElicitationRequiredError
	switch {
	case err == nil:
		return result, nil
	case errors.As(err, &elicit), errors.As(err, &elicitPtr):
		return none, err // the engine knows the answer
	case errors.Is(err, ErrNotFound):
		x.mu.Lock()
		x.notFound = true
		x.mu.Unlock()
		return none, err
	case errors.Is(err, errToolPanicked):
	case ctx.Err() != nil:
		return none, context.Cause(ctx)
	case errors.Is(err, identity.ErrUnavailable), errors.As(err, new(*ParamsError)):
		x.refuse(err)
	default:
		x.server.log.ErrorContext(ctx, kind+" failed", kind, name, "error", err)
	}
	return none, failed
}

// failure answers the message with an error of the server's own.
func (x *exchange) failure(err error) func() ([]byte, error) {
	return func() ([]byte, error) {
		return newError(x.call.Message.ID, mcp.INTERNAL_ERROR, err.Error(), nil)
	}
}

// authorizeItem decides what comes before a handler, or without one.
func (s *Server) authorizeItem(ctx context.Context, x *exchange) error {
	switch mcp.MCPMethod(x.call.Message.Method) {
	case mcp.MethodPromptsGet:
		name := x.call.ParamString("name")
		s.toolsMu.RLock()
		a := s.prompts[name]
		s.toolsMu.RUnlock()
		if a != nil {
			return s.admit(ctx, x, "prompt", name, a)
		}
	case mcp.MethodResourcesRead, methodSubscribe:
		uri := x.call.ParamString("uri")
		if a := s.resourceAccess(uri); a != nil {
			return s.admit(ctx, x, "resource", uri, a)
		}
	case mcp.MethodCompletionComplete:
		return s.authorizeCompletion(ctx, x)
	}
	return s.admit(ctx, x, "prompt", "", &anyone) // what is unknown, the engine says
}

const (
	methodSubscribe   mcp.MCPMethod = "resources/subscribe"
	methodUnsubscribe mcp.MCPMethod = "resources/unsubscribe"
)

// capabilities completes what the engine says that the server can do.
func (s *Server) capabilities(c *mcp.ServerCapabilities) {
	s.toolsMu.RLock()
	prompts, resources := len(s.prompts) > 0, len(s.resources)+len(s.templates) > 0
	s.toolsMu.RUnlock()
	if prompts && c.Prompts != nil {
		c.Prompts.ListChanged = true
	}
	if resources && c.Resources != nil {
		c.Resources.ListChanged, c.Resources.Subscribe = true, true
	}
	if s.completer.Load() == nil {
		c.Completions = nil
	}
}

// resourceAccess is who may have the resource with that URI, nil when there is
// none. Where several templates fit, all must admit.
func (s *Server) resourceAccess(uri string) *access {
	s.toolsMu.RLock()
	defer s.toolsMu.RUnlock()
	if a := s.resources[uri]; a != nil {
		return a
	}
	var found *access
	for _, t := range s.templates {
		if !t.match(uri) {
			continue
		}
		if found == nil || t.access.gated() && !found.gated() {
			found = &t.access
		}
	}
	return found
}

func (s *Server) visiblePrompts(ctx context.Context, prompts []mcp.Prompt) []mcp.Prompt {
	return visibleOf(ctx, s, prompts, func(p mcp.Prompt) *access { return s.prompts[p.Name] })
}

func (s *Server) visibleResources(ctx context.Context, resources []mcp.Resource) []mcp.Resource {
	return visibleOf(ctx, s, resources, func(r mcp.Resource) *access { return s.resources[r.URI] })
}

func (s *Server) visibleTemplates(ctx context.Context, templates []mcp.ResourceTemplate) []mcp.ResourceTemplate {
	return visibleOf(ctx, s, templates, func(t mcp.ResourceTemplate) *access {
		for _, own := range s.templates {
			if t.URITemplate != nil && own.uri == t.URITemplate.Raw() {
				return &own.access
			}
		}
		return nil
	})
}

// visibleOf leaves of items those that the caller may use. of is called with
// toolsMu held.
func visibleOf[T any](ctx context.Context, s *Server, items []T, of func(T) *access) []T {
	x := exchangeFrom(ctx)
	out := make([]T, 0, len(items))
	for _, item := range items {
		s.toolsMu.RLock()
		a := of(item)
		s.toolsMu.RUnlock()
		if x != nil && a != nil && s.sees(ctx, x, a) {
			out = append(out, item)
		}
	}
	return out
}

// each calls f for all that the server has.
func (s *Server) each(f func(kind, name string, a *access)) {
	s.toolsMu.RLock()
	defer s.toolsMu.RUnlock()
	for name, t := range s.tools {
		f("tool", name, &t.access)
	}
	for name, a := range s.prompts {
		f("prompt", name, a)
	}
	for uri, a := range s.resources {
		f("resource", uri, a)
	}
	for _, t := range s.templates {
		f("resource", t.uri, &t.access)
	}
}

// listsChanged tells the listening clients of those whom match accepts that
// what they may have is another.
func (s *Server) listsChanged(match func(*identity.Principal) bool) {
	s.toolsChanged(match)
	s.toolsMu.RLock()
	prompts, resources := len(s.prompts) > 0, len(s.resources)+len(s.templates) > 0
	s.toolsMu.RUnlock()
	if prompts {
		s.announce(mcp.MethodNotificationPromptsListChanged, nil, match)
	}
	if resources {
		s.announce(mcp.MethodNotificationResourcesListChanged, nil, match)
	}
}

// announce sends a notification to listening clients.
func (s *Server) announce(method string, params any, match func(*identity.Principal) bool) {
	raw, err := newNotification(method, params)
	if err == nil {
		err = s.endpoint.Notify(match, raw)
	}
	if err != nil {
		s.log.Error("change not announced", "method", method, "error", err)
	}
}

// Completer proposes values for an argument of a prompt (ref is its name) or a
// variable of a resource template (ref is its URI template), given what the
// user typed and the arguments they have filled in. Clients show at most 100.
type Completer func(ctx context.Context, ref string, argument mcp.CompleteArgument, filled map[string]string) ([]string, error)

// Complete sets who proposes values for the arguments of prompts and the
// variables of resource templates. It is called for those who may use the
// prompt or template only.
func (s *Server) Complete(c Completer) { s.completer.Store(&c) }

// completions is the engine's way to the Completer.
type completions struct{ server *Server }

func (c *completions) CompletePromptArgument(ctx context.Context, name string, argument mcp.CompleteArgument, filled mcp.CompleteContext) (*mcp.Completion, error) {
	return c.values(ctx, name, argument, filled)
}

func (c *completions) CompleteResourceArgument(ctx context.Context, uri string, argument mcp.CompleteArgument, filled mcp.CompleteContext) (*mcp.Completion, error) {
	return c.values(ctx, uri, argument, filled)
}

// maxCompletions is the protocol's (server/utilities/completion).
const maxCompletions = 100

func (c *completions) values(ctx context.Context, ref string, argument mcp.CompleteArgument, filled mcp.CompleteContext) (*mcp.Completion, error) {
	complete := c.server.completer.Load()
	if complete == nil {
		return nil, nil
	}
	failed := errors.New("the completion failed")
	values, err := bounded(ctx, "completion", ref, handlerTimeout, exchangeFrom(ctx).failure(failed), func(ctx context.Context) ([]string, error) {
		return (*complete)(ctx, ref, argument, filled.Arguments)
	})
	if err != nil {
		exchangeFrom(ctx).server.log.ErrorContext(ctx, "completion failed", "ref", ref, "error", err)
		return nil, failed
	}
	total := len(values)
	return &mcp.Completion{Values: values[:min(total, maxCompletions)], Total: total, HasMore: total > maxCompletions}, nil
}

func (s *Server) authorizeCompletion(ctx context.Context, x *exchange) error {
	ref, err := readCompletionRef(x.call.Message.Params)
	if err != nil {
		return &refusal{"the reference of the completion cannot be read"}
	}
	a := &anyone
	s.toolsMu.RLock()
	if ref.Type == "ref/prompt" && s.prompts[ref.Name] != nil {
		a = s.prompts[ref.Name]
	}
	for _, t := range s.templates {
		if ref.Type == "ref/resource" && t.uri == ref.URI {
			a = &t.access
		}
	}
	s.toolsMu.RUnlock()
	return s.admit(ctx, x, "completion", ref.Name+ref.URI, a)
}
