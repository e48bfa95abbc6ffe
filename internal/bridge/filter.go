package bridge

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/mcp-clerk/mcp-clerk/internal/jsonrpc"
)

// Filter names the tools that the host may see and call, by patterns in which *
// stands for any characters, none included. The zero value lets everything pass.
type Filter struct {
	Allow  []string // if there is any, a tool must match one
	Ignore []string // a tool that matches one is hidden and refused
}

func (f *Filter) active() bool { return len(f.Allow)+len(f.Ignore) > 0 }

func (f *Filter) passes(tool string) bool {
	matches := func(pattern string) bool { return glob(pattern, tool) }
	return (len(f.Allow) == 0 || slices.ContainsFunc(f.Allow, matches)) && !slices.ContainsFunc(f.Ignore, matches)
}

// glob reports whether name matches pattern, in time linear in both for each *.
func glob(pattern, name string) bool {
	head, rest, star := strings.Cut(pattern, "*")
	if !star {
		return name == pattern
	}
	name, ok := strings.CutPrefix(name, head)
	for ok {
		var part string
		if part, rest, star = strings.Cut(rest, "*"); !star {
			return strings.HasSuffix(name, part)
		}
		var at int
		if at = strings.Index(name, part); at >= 0 {
			name = name[at+len(part):]
		}
		ok = at >= 0
	}
	return false
}

// refuses returns why a message of the host must not reach the server, or nil.
// What two parsers could read in two ways is refused as well.
func (f *Filter) refuses(m *jsonrpc.Message) error {
	if !f.active() {
		return nil
	}
	methods, params := 0, 0
	_ = jsonrpc.Members(m.Raw, func(key string, _ json.RawMessage) bool { // it has been read before
		switch {
		case strings.EqualFold(key, "method"):
			methods++
		case strings.EqualFold(key, "params"):
			params++
		}
		return true
	})
	switch {
	case methods > 1 || params > 1:
		return errors.New("the message names its method or its params more than once")
	case m.Method != "tools/call":
		return nil
	}
	name, names, text := "", 0, false
	_ = jsonrpc.Members(m.Params, func(key string, val json.RawMessage) bool { // params is an object or there are none
		if strings.EqualFold(key, "name") {
			names++
			name, text = jsonrpc.LookupString(m.Params, key)
		}
		return true
	})
	switch {
	case names > 1:
		return fmt.Errorf("the tool to call is named %d times", names)
	case names == 0 || !text: // whatever the server thinks of it, it is no tool
		return nil
	case !f.passes(name):
		return fmt.Errorf("tool %q is not available: it is left out by --allow-tool or --ignore-tool", name)
	}
	return nil
}

// filtered returns the response to the host's request q as the host may see it.
func (b *bridge) filtered(q *pending, m *jsonrpc.Message) (*jsonrpc.Message, error) {
	if !b.o.Filter.active() || q.m.Method != "tools/list" || m.Result == nil {
		return m, nil
	}
	raw, err := b.spool.Load(m.Raw)
	if err != nil {
		return nil, err
	}
	whole, err := jsonrpc.Parse(raw, jsonrpc.Limits{MaxDepth: relayDepth})
	if err != nil {
		return nil, err
	}
	out := *m
	out.Raw = b.o.Filter.list(whole)
	return &out, nil
}

// list returns the response to tools/list without the tools that do not pass;
// the others keep their bytes.
func (f *Filter) list(m *jsonrpc.Message) []byte {
	tools, ok := jsonrpc.Lookup(m.Result, "tools")
	if !f.active() || !ok {
		return m.Raw
	}
	elements, err := jsonrpc.Elements(tools)
	if err != nil {
		return m.Raw // no list of tools, then
	}
	kept := slices.DeleteFunc(slices.Clone(elements), func(tool json.RawMessage) bool {
		name, _ := jsonrpc.LookupString(tool, "name")
		return !f.passes(name)
	})
	if len(kept) == len(elements) {
		return m.Raw
	}
	parts := make([][]byte, len(kept))
	for i, tool := range kept {
		parts[i] = tool
	}
	at := cap(m.Raw) - cap(tools) // tools is a slice of Raw
	out := append([]byte(nil), m.Raw[:at]...)
	out = append(append(append(out, '['), bytes.Join(parts, []byte{','})...), ']')
	return append(out, m.Raw[at+len(tools):]...)
}
