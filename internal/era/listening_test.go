package era_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/mcp-clerk/mcp-clerk/internal/era"
)

// What a stream tells that was replaced is held back for a moment: no more than
// 64 notifications, and none that is large. Others are told at once.
func TestWhatAReplacedStreamTellsIsBounded(t *testing.T) {
	const (
		ack     = `{"jsonrpc":"2.0","method":"notifications/subscriptions/acknowledged","params":{"notifications":{"resourceSubscriptions":["x:a","x:b"]}}}`
		changed = `{"jsonrpc":"2.0","method":"notifications/resources/updated","params":{"uri":"x:a/%s"}}`
	)
	for name, test := range map[string]struct {
		uri  func(i int) string
		held int
	}{
		"many":  {func(i int) string { return fmt.Sprint(i) }, 64},
		"large": {func(i int) string { return fmt.Sprint(i, strings.Repeat("x", 4<<10)) }, 0},
	} {
		t.Run(name, func(t *testing.T) {
			c := converse(t, era.NewToModern("server.test"))
			for call, uri := range []string{"x:a", "x:b"} {
				c.host(`{"jsonrpc":"2.0","id":%d,"method":"resources/subscribe","params":{"uri":%q}}`, call, uri)
				c.server(call+1, ack)
				c.expect(`"result":{}`)
			}
			told := 0
			for i := range 80 {
				c.server(1, changed, test.uri(i))
				told += len(c.steps)
			}
			if told != 80-test.held {
				t.Errorf("%d of 80 notifications were told at once, want %d", told, 80-test.held)
			}
			c.wait(c.m.Next().Sub(c.now))
			if got := len(c.steps) - 1; got != test.held { // the first closes the stream
				t.Errorf("%d notifications had been held back, want %d", got, test.held)
			}
		})
	}
}
