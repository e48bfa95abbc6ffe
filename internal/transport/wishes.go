package transport

import (
	"bytes"
	"context"
	"slices"
	"sync"
	"time"

	"github.com/mcp-clerk/mcp-clerk/internal/jsonrpc"
)

// wishes is what the host has asked of a session for as long as it lasts, and
// the server has agreed to: the log level and the resources to watch. The host
// goes on in the session that takes the place of one that was lost, and rightly
// believes that it still holds; so there it is asked for again.
type wishes struct {
	mu      sync.Mutex
	level   *jsonrpc.Message
	watched []*jsonrpc.Message // in the order of their URIs' first subscription
	uris    []string           // theirs
}

const (
	maxWishes    = 1000             // resources that are watched
	maxWish      = 16 << 10         // bytes of a request that is remembered
	wishTime     = 10 * time.Second // for all of them to be asked for again
	wishesAtOnce = 8
)

// follow has w learn what becomes of call, if it is about what w holds.
func (w *wishes) follow(c *Client, call *Call) {
	m := call.Message
	switch m.Method {
	case "logging/setLevel", "resources/subscribe", "resources/unsubscribe":
	default:
		return
	}
	if c.spool.Holds(m.Raw) { // it lasts no longer than its call
		return
	}
	host := *call
	call.Deliver = func(answer *jsonrpc.Message) error {
		if answer.IsResponse() && answer.Result != nil && bytes.Equal(answer.ID, m.ID) {
			w.granted(m)
		}
		return host.deliver(answer)
	}
}

func (w *wishes) granted(m *jsonrpc.Message) {
	fits := len(m.Raw) <= maxWish
	w.mu.Lock()
	defer w.mu.Unlock()
	if m.Method == "logging/setLevel" {
		if w.level = nil; fits {
			w.level = m
		}
		return
	}
	uri, _ := jsonrpc.LookupString(m.Params, "uri")
	at := slices.Index(w.uris, uri)
	switch {
	case m.Method == "resources/unsubscribe" && at >= 0:
		w.uris, w.watched = slices.Delete(w.uris, at, at+1), slices.Delete(w.watched, at, at+1)
	case m.Method == "resources/unsubscribe", at >= 0:
	case fits && len(w.uris) < maxWishes:
		w.uris, w.watched = append(w.uris, uri), append(w.watched, m)
	}
}

// all returns the requests, the log level's first.
func (w *wishes) all() []*jsonrpc.Message {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.level == nil {
		return slices.Clone(w.watched)
	}
	return append([]*jsonrpc.Message{w.level}, w.watched...)
}

func (w *wishes) forget() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.level, w.watched, w.uris = nil, nil, nil
}

// askAgain sends them by do, whose calls are not worth a sign-in. What a server
// refuses now it may grant to the next session; other receives what else it says.
func (w *wishes) askAgain(ctx context.Context, c *Client, do func(context.Context, Call) error, other func(*jsonrpc.Message) error) {
	all := w.all()
	if len(all) == 0 {
		return
	}
	c.log.Debug("asking the new session for what the last one did", "host", c.Host(), "requests", len(all))
	ctx, cancel := context.WithTimeout(ctx, wishTime)
	defer cancel()
	var wg sync.WaitGroup
	slots := make(chan struct{}, wishesAtOnce)
	for _, m := range all {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			refused := false
			err := do(ctx, Call{Message: m, Quiet: true, Deliver: func(answer *jsonrpc.Message) error {
				if answer.IsResponse() {
					refused = refused || answer.Error != nil
					return nil
				}
				return other(answer)
			}})
			if err != nil || refused {
				c.log.Info("the new session does not do what the last one did", "host", c.Host(), "method", m.Method, "error", err)
			}
		})
	}
	wg.Wait()
}
