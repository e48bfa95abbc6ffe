package bridge

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"strconv"
	"sync"

	"github.com/mcp-clerk/mcp-clerk/internal/era"
	"github.com/mcp-clerk/mcp-clerk/internal/jsonrpc"
	"github.com/mcp-clerk/mcp-clerk/internal/transport"
)

// modernLeg is the way to a server of revision 2026-07-28, with the headers that
// its tools ask for (basic/transports/streamable-http, "Custom Headers from Tool
// Parameters"). They are known from the tools/list results that have passed by.
type modernLeg struct {
	b      *bridge
	client *transport.Client

	mu    sync.Mutex
	tools map[string][]transport.HeaderParam // by name, those with any
}

const (
	maxHeaderTools = 10_000 // tools whose headers are remembered
	maxPages       = 100    // of tools/list, when the tools are looked up
)

// Do sends one message; results and errors are those of transport.Client.Do.
func (l *modernLeg) Do(ctx context.Context, call transport.Call) error {
	switch call.Message.Method {
	case "tools/list":
		deliver := call.Deliver
		call.Deliver = func(m *jsonrpc.Message) error {
			whole, err := l.b.loaded(m)
			if err != nil {
				return err
			}
			return deliver(l.learn(whole))
		}
		return l.client.Do(ctx, call)
	case "tools/call":
		return l.call(ctx, call)
	}
	return l.client.Do(ctx, call)
}

// Close does nothing: there is no session.
func (*modernLeg) Close(context.Context) {}

// call sends a tool call with its headers. When the server says that they are
// not what its tools ask for, the tools are looked up and it is sent again, once:
// it was refused before it was executed.
func (l *modernLeg) call(ctx context.Context, call transport.Call) error {
	var mismatch *jsonrpc.Message
	first := call
	first.Header = l.header(call.Message)
	first.Deliver = func(m *jsonrpc.Message) error {
		if m.Error != nil && era.ErrorCode(m.Error) == jsonrpc.CodeHeaderMismatch {
			mismatch = m
			return nil
		}
		return call.Deliver(m)
	}
	if call.Refused != nil {
		first.Refused = func(status int, m *jsonrpc.Message) error {
			if era.ErrorCode(m.Error) == jsonrpc.CodeHeaderMismatch {
				mismatch = m
				return nil
			}
			return call.Refused(status, m)
		}
	}
	if err := l.client.Do(ctx, first); err != nil || mismatch == nil {
		return err
	}
	if err := l.lookUp(ctx, call.Message); err != nil {
		l.b.log.Debug("tools not looked up", "error", err.Error())
		return call.Deliver(mismatch)
	}
	call.Header = l.header(call.Message)
	return l.client.Do(ctx, call)
}

// header returns the headers of a tool call.
func (l *modernLeg) header(m *jsonrpc.Message) http.Header {
	name, _ := jsonrpc.LookupString(m.Params, "name")
	l.mu.Lock()
	params := l.tools[name]
	l.mu.Unlock()
	if params == nil {
		return nil
	}
	arguments, _ := jsonrpc.Lookup(m.Params, "arguments")
	return transport.ParamHeader(params, arguments)
}

// learn notes which parameters of the tools in a result of tools/list go along
// as headers, and returns the result without the tools whose definition is
// invalid in that.
func (l *modernLeg) learn(m *jsonrpc.Message) *jsonrpc.Message {
	list, ok := jsonrpc.Lookup(m.Result, "tools")
	if !ok || !bytes.Contains(list, []byte("x-mcp-header")) && !l.knowsAny() {
		return m
	}
	tools, err := jsonrpc.Elements(list)
	if err != nil {
		return m
	}
	kept := make([][]byte, 0, len(tools))
	for _, tool := range tools {
		name, _ := jsonrpc.LookupString(tool, "name")
		schema, _ := jsonrpc.Lookup(tool, "inputSchema")
		params, err := transport.HeaderParams(schema)
		if err != nil {
			l.b.log.Warn("left out a tool whose definition is invalid", "tool", strconv.Quote(name), "reason", err.Error())
			continue
		}
		kept = append(kept, tool)
		l.remember(name, params)
	}
	if len(kept) == len(tools) {
		return m
	}
	array := append([]byte{'['}, bytes.Join(kept, []byte{','})...)
	return parsed(jsonrpc.Splice(m.Raw, list, append(array, ']')))
}

func (l *modernLeg) knowsAny() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.tools) > 0
}

func (l *modernLeg) remember(name string, params []transport.HeaderParam) {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, known := l.tools[name]
	switch {
	case len(params) == 0:
		delete(l.tools, name)
	case known || len(l.tools) < maxHeaderTools:
		if l.tools == nil {
			l.tools = map[string][]transport.HeaderParam{}
		}
		l.tools[name] = params
	}
}

// lookUp asks the server for its tools, in the name of the request m.
func (l *modernLeg) lookUp(ctx context.Context, m *jsonrpc.Message) error {
	meta := json.RawMessage("{}")
	add := ""
	given, _ := jsonrpc.Lookup(m.Params, "_meta")
	_ = jsonrpc.Members(given, func(key string, val json.RawMessage) bool { // none: the server will say
		if key == "io.modelcontextprotocol/protocolVersion" || key == "io.modelcontextprotocol/clientInfo" || key == "io.modelcontextprotocol/clientCapabilities" {
			add += `,"` + key + `":` + string(val)
		}
		return true
	})
	if add != "" {
		meta = json.RawMessage("{" + add[1:] + "}")
	}
	cursor := ""
	for page := range maxPages {
		params := `{` + cursor + `"_meta":` + string(meta) + `}`
		request := jsonrpc.NewRequest(json.RawMessage(`"mcp-clerk-tools-`+strconv.Itoa(page)+`"`), "tools/list", json.RawMessage(params))
		cursor = ""
		err := l.client.Do(ctx, transport.Call{Message: parsed(request), Deliver: func(m *jsonrpc.Message) error {
			m, err := l.b.loaded(m)
			if err != nil {
				return err
			}
			l.learn(m)
			if next, ok := jsonrpc.Lookup(m.Result, "nextCursor"); ok && next[0] == '"' {
				cursor = `"cursor":` + string(next) + `,`
			}
			return nil
		}})
		if err != nil || cursor == "" {
			return err
		}
	}
	return nil
}
