package server

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"github.com/mark3labs/mcp-go/mcp"
	mcpserver "github.com/mark3labs/mcp-go/server"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/mcp-clerk/mcp-clerk/internal/identity"
	"github.com/mcp-clerk/mcp-clerk/internal/mcphttp"
)

// ToolHandler answers one call of a tool. The arguments were checked against
// the tool's input schema. What the model can act on is a result with IsError
// set, which mcp.NewToolResultError makes. An error is the server's own
// failure: it is logged, and the client only learns that the tool failed.
//
// The context ends when the client cancels the call. Principal, CurrentUser
// and Progress take it.
type ToolHandler func(ctx context.Context, req mcp.CallToolRequest) (*mcp.CallToolResult, error)

// ToolOption says who may use a tool (a Requirement) or how long it may take.
type ToolOption interface{ applyTool(t *registered) }

type toolOption func(*registered)

func (o toolOption) applyTool(t *registered) { o(t) }

// defaultToolTimeout is also how long the most patient of the hosted clients
// waits for a tool.
const defaultToolTimeout = 5 * time.Minute

// Timeout is how long a call of the tool may take; the default is 5 minutes. At
// its end the context of the call ends, and the client is answered, whether
// the handler returns or not. It panics unless d is positive.
func Timeout(d time.Duration) ToolOption {
	if d <= 0 {
		panic(fmt.Sprintf("server: Timeout(%v) leaves no time", d))
	}
	return toolOption(func(t *registered) { t.timeout = d })
}

// Quick says that the handler of the tool computes and waits for nothing. Such a
// call is spared a goroutine and two timers; but it has no Timeout, cannot be
// cancelled, holds its connection until the handler returns, and a client that
// lost its connection cannot come back for the answer.
func Quick() ToolOption {
	return toolOption(func(t *registered) { t.quick = true })
}

// registered is a tool with what the server knows about it.
type registered struct {
	name    string
	tool    mcp.Tool
	handler ToolHandler
	access
	input   *jsonschema.Schema // nil: the handler checks its arguments itself
	timeout time.Duration

	mirrored bool // arguments of it come in headers as well (x-mcp-header)
	quick    bool // see Quick
	builtin  bool // the handler reads its arguments and nothing of the engine's
	readsRaw bool // of a request the handler reads nothing but Params.RawArguments
}

// checksItself is for the built-in tools, whose refusals are better worded
// than those of a schema.
var checksItself = toolOption(func(t *registered) { t.input, t.readsRaw, t.builtin = nil, true, true })

var readsRaw = toolOption(func(t *registered) { t.readsRaw = true })

var toolName = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[A-Za-z0-9_.-]{1,128}$`) })

// AddTool adds a tool, or replaces the one of its name. Clients with an open
// stream are told that the list changed. Without options every signed-in user
// may call it.
//
// It panics when the definition cannot be served: a name that is not 1 to 128
// letters, digits, "_", "-" or "." (MCP 2026-07-28, server/tools, "Tool
// Names"), no handler, an input schema that does not compile, or a scope that
// is none.
func (s *Server) AddTool(tool mcp.Tool, h ToolHandler, opts ...ToolOption) {
	if !toolName().MatchString(tool.Name) {
		panic(fmt.Sprintf("server: tool name %q must be 1 to 128 letters, digits, _, - or .", tool.Name))
	}
	if h == nil {
		panic(fmt.Sprintf("server: tool %q has no handler", tool.Name))
	}
	schema, err := compileInput(tool)
	if err != nil {
		panic(fmt.Sprintf("server: tool %q: %v", tool.Name, err))
	}
	t := &registered{name: tool.Name, tool: tool, handler: h, input: schema, timeout: defaultToolTimeout}
	t.mirrored = len(mcp.ExtractParamHeaderBindings(&tool)) > 0
	for _, opt := range opts {
		opt.applyTool(t)
	}
	s.declare("tool", tool.Name, &t.access)
	s.toolsMu.Lock()
	s.tools[tool.Name] = t
	s.toolsMu.Unlock()
	s.engine.AddTool(tool, mcpserver.ToolHandlerFunc(t.call))
	s.toolsChanged(nil)
}

// AddTypedTool adds a tool whose arguments are an In and whose structured
// content is an Out, both structs. Its input and output schemas are made from
// these types: a field is named by its json tag, required unless that says
// omitempty, and described by its jsonschema tag. What tool says of them is
// replaced. h returns its result, or an error as a ToolHandler does; for what
// the model can act on it returns a ToolError. AddTypedTool panics as AddTool
// does, and for types that are no structs, or of which no schema can be made
// since they contain themselves.
func AddTypedTool[In, Out any](s *Server, tool mcp.Tool, h func(ctx context.Context, in In) (Out, error), opts ...ToolOption) {
	if reflect.TypeFor[In]().Kind() != reflect.Struct || reflect.TypeFor[Out]().Kind() != reflect.Struct {
		panic(fmt.Sprintf("server: tool %q: arguments and results are objects, so its types must be structs", tool.Name))
	}
	tool.RawInputSchema, tool.RawOutputSchema, tool.OutputSchema = nil, nil, mcp.ToolOutputSchema{}
	mcp.WithInputSchema[In]()(&tool)
	mcp.WithOutputSchema[Out]()(&tool)
	if tool.RawInputSchema == nil || tool.OutputSchema.Type == "" {
		panic(fmt.Sprintf("server: tool %q: no schema can be made of its types; use AddTool with one that was written by hand", tool.Name))
	}
	letMapsBeNull(tool.OutputSchema.Properties)
	s.AddTool(tool, func(ctx context.Context, req mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		var in In
		if err := req.BindArguments(&in); err != nil {
			return mcp.NewToolResultErrorf("the arguments of %s are not as its schema says: %v", tool.Name, err), nil
		}
		out, err := h(ctx, in)
		var told *ToolError
		if errors.As(err, &told) {
			return mcp.NewToolResultError(told.Message), nil
		}
		if err != nil {
			return nil, err
		}
		text, err := encode(out)
		if err != nil {
			return nil, fmt.Errorf("encode the result: %w", err)
		}
		return mcp.NewToolResultStructured(out, string(text)), nil
	}, append([]ToolOption{readsRaw}, opts...)...)
}

// letMapsBeNull changes a part of a generated output schema so that maps may be
// null, as they are in the JSON of a map that was never made. Clients refuse a
// result that is not as its schema says; of slices and pointers it says so already.
func letMapsBeNull(part any) {
	switch part := part.(type) {
	case []any:
		for _, item := range part {
			letMapsBeNull(item)
		}
	case map[string]any:
		// A struct has false there.
		if values := part["additionalProperties"]; part["type"] == "object" && values != nil && values != false {
			part["type"] = []any{"null", "object"}
		}
		for _, item := range part {
			letMapsBeNull(item)
		}
	}
}

// ToolError is a failure that the model is told, and may act on.
type ToolError struct{ Message string }

func (e *ToolError) Error() string { return e.Message }

// toolsChanged tells the listening clients of those whom match accepts, nil
// meaning everyone, that their list of tools is another.
func (s *Server) toolsChanged(match func(*identity.Principal) bool) {
	s.announce(mcp.MethodNotificationToolsListChanged, nil, match)
}

// isQuick reports whether a call of the tool with that name is quick.
func (s *Server) isQuick(name string) bool {
	t := s.tool(name)
	return t != nil && t.quick
}

func (s *Server) tool(name string) *registered {
	s.toolsMu.RLock()
	defer s.toolsMu.RUnlock()
	return s.tools[name]
}

var (
	errToolFailed  = errors.New("the tool failed")
	errToolTimeout = errors.New("the tool did not finish in time")
	// errToolPanicked was logged where it happened.
	errToolPanicked = errors.New("the tool panicked")
)

// bounded calls a handler, for at most timeout, and outlives its panics. A
// handler that does not heed its context is left to itself: it can hold
// neither its client nor a shutdown. late is then the answer to a call that is
// out of time; nil is for a handler that is trusted to return.
func bounded[T any](ctx context.Context, kind, name string, timeout time.Duration, late func() ([]byte, error), h func(ctx context.Context) (T, error)) (result T, err error) {
	x := exchangeFrom(ctx)
	log := x.server.log
	if late != nil {
		stop := x.call.Within(timeout, func(cause error) ([]byte, error) {
			log.ErrorContext(ctx, kind+" ignores that its context has ended and is left to itself", kind, name)
			x.finish()
			if errors.Is(cause, mcphttp.ErrLate) {
				return late()
			}
			return nil, cause
		})
		defer stop()
	}
	defer func() {
		if v := recover(); v != nil {
			// The value may hold anything, a secret too; the text of a
			// runtime error is the runtime's own.
			what := fmt.Sprintf("%T", v)
			if e, ok := v.(runtime.Error); ok {
				what = e.Error()
			}
			log.ErrorContext(ctx, kind+" panicked", kind, name, "panic", what, "stack", string(debug.Stack()))
			err = errToolPanicked
		}
	}()
	result, err = h(ctx)
	if err != nil && errors.Is(context.Cause(ctx), mcphttp.ErrLate) {
		err = errToolTimeout
	}
	return result, err
}

// call is what the engine calls.
func (t *registered) call(ctx context.Context, req mcp.CallToolRequest) (*mcp.CallToolResult, error) {
	x := exchangeFrom(ctx)
	if o := x.called; o != nil {
		x.called = nil
		return o.result, o.err
	}
	if t.input != nil {
		if fault := checkInput(t.input, req); fault != "" {
			return mcp.NewToolResultErrorf("the arguments of %s are not as its schema says: %s", t.name, fault), nil
		}
	}
	var late func() ([]byte, error)
	if !t.quick {
		late = func() ([]byte, error) { return x.server.result(x, t.outOfTime()) }
	}
	result, err := bounded(ctx, "tool", t.name, t.timeout, late, func(ctx context.Context) (*mcp.CallToolResult, error) { return t.handler(ctx, req) })
	if err != nil {
		return t.failed(ctx, x, err)
	}
	if result != nil && result.NeedsInput() {
		x.checkAskable(result.InputRequests)
	}
	return result, nil
}

// failed is what the engine is told instead of the error of a handler.
func (t *registered) failed(ctx context.Context, x *exchange, err error) (*mcp.CallToolResult, error) {
	var elicit mcp.URLElicitationRequiredError
	var elicitPtr *mcp.URLElicitationRequiredError
	switch {
	case errors.As(err, &elicit), errors.As(err, &elicitPtr):
		return nil, err // the engine knows the answer
	case errors.As(err, new(*ParamsError)):
		x.refuse(err)
		return nil, err
	case errors.Is(err, errToolTimeout):
		x.server.log.WarnContext(ctx, "tool out of time", "tool", t.name, "after", t.timeout)
		return t.outOfTime(), nil
	case errors.Is(err, identity.ErrUnavailable):
		x.server.log.WarnContext(ctx, "tool could not do its work", "tool", t.name, "error", err)
		return mcp.NewToolResultErrorf("%s cannot do this right now: try again in a moment", t.name), nil
	case errors.Is(err, errToolPanicked):
		return nil, errToolFailed
	case ctx.Err() != nil:
		return nil, context.Cause(ctx) // cancelled: nobody will read this
	}
	// Its text may hold anything, and goes to the log only.
	x.server.log.ErrorContext(ctx, "tool failed", "tool", t.name, "error", err)
	return nil, errToolFailed
}

func (t *registered) outOfTime() *mcp.CallToolResult {
	return mcp.NewToolResultErrorf("%s did not finish within %v", t.name, t.timeout)
}

// checkAskable refuses a call of the modern era whose tool asks for input that
// the client did not declare it can give (2026-07-28, basic/index, "Error
// Codes"). In the legacy eras the request to the client fails by itself.
func (x *exchange) checkAskable(requests mcp.InputRequests) {
	if !x.call.Modern {
		return
	}
	var declared map[string]any
	if json.Unmarshal(x.call.ClientCapabilities, &declared) != nil {
		declared = nil // an object of another shape declares nothing
	}
	missing := map[string]any{}
	for _, request := range requests {
		path := []string{}
		switch request.Method {
		case mcp.MethodElicitationCreate:
			path = append(path, "elicitation")
			if e := request.Elicitation; e != nil && e.Mode == mcp.ElicitationModeURL {
				path = append(path, "url")
			}
		case mcp.MethodSamplingCreateMessage:
			path = append(path, "sampling")
		case mcp.MethodListRoots:
			path = append(path, "roots")
		}
		if declares(declared, path) {
			continue
		}
		at := missing
		for _, name := range path {
			next, ok := at[name].(map[string]any)
			if !ok {
				next = map[string]any{}
				at[name] = next
			}
			at = next
		}
	}
	if len(missing) > 0 {
		x.mu.Lock()
		defer x.mu.Unlock()
		x.missing = missing
	}
}

// declares reports whether the capability at path is declared.
func declares(capabilities map[string]any, path []string) bool {
	for i, name := range path {
		value, ok := capabilities[name]
		if !ok || value == nil {
			return false
		}
		if i < len(path)-1 {
			capabilities, _ = value.(map[string]any)
		}
	}
	return true
}

// compileInput compiles the input schema of a tool.
func compileInput(tool mcp.Tool) (*jsonschema.Schema, error) {
	raw := tool.RawInputSchema
	if raw == nil {
		var err error
		if raw, err = json.Marshal(tool.InputSchema); err != nil {
			return nil, fmt.Errorf("encode the input schema: %w", err)
		}
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(raw))
	if err != nil {
		return nil, fmt.Errorf("decode the input schema: %w", err)
	}
	// The compiler loads nothing from elsewhere: the schema stands for itself.
	const here = "urn:input"
	c := jsonschema.NewCompiler()
	c.DefaultDraft(jsonschema.Draft2020)
	c.UseLoader(jsonschema.SchemeURLLoader{})
	if err := c.AddResource(here, doc); err != nil {
		return nil, fmt.Errorf("input schema: %w", err)
	}
	schema, err := c.Compile(here)
	if err != nil {
		return nil, fmt.Errorf("input schema: %w", err)
	}
	return schema, nil
}

// checkInput says what is wrong with the arguments of a call, in one line.
func checkInput(schema *jsonschema.Schema, req mcp.CallToolRequest) string {
	raw := req.Params.RawArguments
	if len(raw) == 0 {
		raw = json.RawMessage(`{}`)
	}
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(raw))
	if err != nil {
		return "not JSON"
	}
	err = schema.Validate(value)
	if err == nil {
		return ""
	}
	// The first line names the schema, the others one fault each.
	var faults []string
	for i, line := range strings.Split(err.Error(), "\n") {
		if line = strings.TrimPrefix(strings.TrimSpace(line), "- "); i > 0 && line != "" {
			faults = append(faults, strings.TrimPrefix(line, "at '': "))
		}
	}
	return strings.Join(faults, "; ")
}
