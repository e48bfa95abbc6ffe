package bridge

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
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

	mu      sync.Mutex
	tools   map[string][]transport.HeaderParam // by name, those with any
	left    map[string]struct{}                // tools that the person knows are left out
	version string                             // of the host's last request
}

const (
	maxHeaderTools = 10_000 // tools whose headers are remembered
	maxPages       = 100    // of tools/list, when the tools are looked up
	maxLeftNotes   = 20     // tools that the person is told are left out
)

// Do sends one message; results and errors are those of transport.Client.Do.
func (l *modernLeg) Do(ctx context.Context, call transport.Call) error {
	if call.Message.IsNotification() {
		call.Header = l.noteHeader(call.Message)
		return l.client.Do(ctx, call)
	}
	l.heardVersion(call.Message)
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

func (l *modernLeg) heardVersion(m *jsonrpc.Message) {
	version, _ := jsonrpc.LookupString(m.Params, "_meta", "io.modelcontextprotocol/protocolVersion")
	l.mu.Lock()
	defer l.mu.Unlock()
	l.version = version
}

// noteHeader returns the headers of a notification, which need not name the
// version that it belongs to: every POST has them (basic/transports/
// streamable-http, "Sending Messages" and "Protocol Version Header").
func (l *modernLeg) noteHeader(m *jsonrpc.Message) http.Header {
	if transport.IsModern(m) {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return http.Header{
		"Mcp-Protocol-Version": {transport.EncodeHeaderValue(l.version)},
		"Mcp-Method":           {transport.EncodeHeaderValue(m.Method)},
	}
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
			l.leftOut(name, err)
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

// leftOut says that a tool is not shown: the person would look for it in vain.
func (l *modernLeg) leftOut(name string, why error) {
	l.b.log.Warn("left out a tool whose definition is invalid", "tool", strconv.Quote(name), "reason", why.Error())
	if l.b.o.Note != nil && l.firstLeft(name) {
		l.b.o.Note(fmt.Sprintf("tool %s of %s is left out, as its definition is invalid: %s", cut(strconv.Quote(name)), l.b.host, cut(why.Error())))
	}
}

// firstLeft reports whether the person is to be told that a tool is left out:
// once, and not of too many.
func (l *modernLeg) firstLeft(name string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, known := l.left[name]; known || len(l.left) == maxLeftNotes {
		return false
	}
	if l.left == nil {
		l.left = map[string]struct{}{}
	}
	l.left[strings.Clone(name)] = struct{}{}
	return true
}

// cut shortens what a server said to what fits a line.
func cut(text string) string {
	const most = 200
	if len(text) > most {
		return strings.ToValidUTF8(text[:most], "") + "…"
	}
	return text
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
