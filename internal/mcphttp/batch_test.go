package mcphttp_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mcp-clerk/mcp-clerk/internal/mcphttp"
)

// Batches, which one revision has.

func TestBatchIsServedInItsOneRevision(t *testing.T) {
	s := start(t, with("work", progress(2)))
	h := s.session("2025-03-26", `{}`)
	ping := func(id int) string { return fmt.Sprintf(`{"jsonrpc":"2.0","id":%d,"method":"ping"}`, id) }
	note := `{"jsonrpc":"2.0","method":"notifications/initialized"}`
	tests := []struct {
		name, body string
		status     int
		want       string
	}{
		{"requests and a notification", "[" + ping(1) + "," + note + "," + ping(2) + "]", 200,
			`[{"jsonrpc":"2.0","id":1,"result":{}},{"jsonrpc":"2.0","id":2,"result":{}}]`},
		{"one faulty element", "[" + ping(1) + `,{"jsonrpc":"2.0","id":2}]`, 200,
			`[{"jsonrpc":"2.0","id":1,"result":{}},{"jsonrpc":"2.0","id":2,"error":{"code":-32600,"message":"invalid request: neither a method nor a result nor an error"}}]`},
		{"initialize inside", `[{"jsonrpc":"2.0","id":1,"method":"initialize"}]`, 200,
			`[{"jsonrpc":"2.0","id":1,"error":{"code":-32600,"message":"initialize cannot be part of a batch"}}]`},
		{"notifications only", "[" + note + "," + note + "]", 202, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			res := s.post(tt.body, h)
			if got := s.text(res); res.StatusCode != tt.status || got != tt.want {
				t.Errorf("%s %s, want %s", res.Status, got, tt.want)
			}
		})
	}
	for name, body := range map[string]string{"empty": "[]", "too long": "[" + strings.Repeat(note+",", 100) + note + "]", "broken": "[" + ping(1)} {
		if res := s.post(body, h); res.StatusCode != http.StatusBadRequest {
			t.Errorf("%s: %s", name, res.Status)
		}
	}
	t.Run("with progress", func(t *testing.T) {
		e := s.events(s.post("["+ping(1)+`,{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"work","_meta":{"progressToken":"p"}}}]`, h))
		e.want(`{"jsonrpc":"2.0","method":"notifications/progress","params":{"progress":0,"progressToken":"p"}}`)
		e.want(`{"jsonrpc":"2.0","method":"notifications/progress","params":{"progress":1,"progressToken":"p"}}`)
		e.want(`{"jsonrpc":"2.0","id":1,"result":{}}`)
		e.want(`{"jsonrpc":"2.0","id":2,"result":{"token":"p"}}`)
		e.end()
	})
}

// Nobody comes back for the answers to a batch, so the client's absence is
// counted for all of it, and what has not begun then does not.
func TestABatchEndsWithItsClientAndWithItsServer(t *testing.T) {
	batch := "[" + strings.Repeat(wait+",", 9) + wait + "]"
	t.Run("client", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := newWaiter()
			s := startBubble(t, with("wait", w.handle), func(o *mcphttp.Options) { o.DetachedTimeout = 100 * time.Millisecond })
			ctx, cancel := context.WithCancel(t.Context())
			gone := make(chan error, 1)
			h := s.session("2025-03-26", `{}`)
			go func() {
				_, err := s.http.Do(s.request(batch, h).WithContext(ctx))
				gone <- err
			}()
			<-w.started
			cancel()
			<-gone
			w.release <- "the first; the second begins without a client"
			<-w.started
			<-w.cancelled
			if err := s.Shutdown(t.Context()); err != nil { // waits for the batch
				t.Error(err)
			}
			if n := len(w.started); n > 0 {
				t.Errorf("%d more were begun", n)
			}
		})
	})
	t.Run("server", func(t *testing.T) {
		w, body := shutDownOutOfTime(t, "2025-03-26", batch)
		if strings.Count(body, `"id"`) != 1 || len(w.started) > 0 {
			t.Errorf("%d more were begun: %s", len(w.started), body)
		}
	})
}
