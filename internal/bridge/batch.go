package bridge

import (
	"bytes"
	"errors"
	"sync"

	"github.com/mcp-clerk/mcp-clerk/internal/jsonrpc"
)

// batch collects the responses to the requests of one JSON-RPC batch (section 6
// of JSON-RPC 2.0), which only revision 2025-03-26 of MCP has. The messages
// travel one by one; the responses go back as one array.
type batch struct {
	b *bridge

	mu   sync.Mutex
	left int
	got  [][]byte
}

// readBatch takes a batch from the host.
func (b *bridge) readBatch(raw []byte) {
	parts, err := jsonrpc.SplitBatch(raw, jsonrpc.Limits{MaxDepth: relayDepth})
	if err != nil {
		e, _ := errors.AsType[*jsonrpc.Error](err)
		b.reply(nil, jsonrpc.NewError(nil, e.Code, e.Message, nil))
		return
	}
	b.mu.Lock()
	version := b.version
	b.mu.Unlock()
	if version != batchVersion {
		b.reply(nil, jsonrpc.NewError(nil, jsonrpc.CodeInvalidRequest, "batches are not part of the negotiated protocol version", local{From: b.o.Name}))
		return
	}
	of := &batch{b: b, left: 1}
	for _, part := range parts {
		m, err := jsonrpc.Parse(part, jsonrpc.Limits{MaxDepth: relayDepth})
		if err != nil || m.IsRequest() {
			of.mu.Lock()
			of.left++
			of.mu.Unlock()
		}
		b.read(part, of)
	}
	of.add(nil) // all have been read
}

// add takes one response, or nil where there is none to come, and writes the
// array when it is complete. No response at all means no array.
func (of *batch) add(raw []byte) {
	of.mu.Lock()
	defer of.mu.Unlock()
	of.left--
	if raw != nil {
		of.got = append(of.got, raw)
	}
	if of.left > 0 || len(of.got) == 0 {
		return
	}
	out := append([]byte{'['}, bytes.Join(of.got, []byte{','})...)
	of.b.reply(nil, append(out, ']'))
}
