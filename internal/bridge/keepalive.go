package bridge

import (
	"context"
	"strconv"
	"time"

	"github.com/mcp-clerk/mcp-clerk/internal/jsonrpc"
	"github.com/mcp-clerk/mcp-clerk/internal/transport"
)

// pingTimeout is how long the answer to a ping of the bridge's own may take.
const pingTimeout = 10 * time.Second

// keepAlive sends pings while the host's session is open, so that nothing on
// the way ends it for being idle. The revision of 2026-07-28 has neither
// sessions nor pings: nothing is sent then.
func (b *bridge) keepAlive() {
	if b.o.PingInterval <= 0 {
		return
	}
	tick := time.NewTicker(b.o.PingInterval)
	defer tick.Stop()
	for n := 1; ; n++ {
		select {
		case <-tick.C:
		case <-b.life.Done():
			return
		}
		b.mu.Lock()
		hs := b.handshake
		b.mu.Unlock()
		if hs == nil || !hs.open.isSet() {
			continue
		}
		ctx, cancel := context.WithTimeout(b.life, pingTimeout)
		ping := parsed(jsonrpc.NewRequest([]byte(strconv.Quote(b.o.Name+"-ping-"+strconv.Itoa(n))), "ping", nil))
		err := b.remote.Do(ctx, transport.Call{Message: ping, Quiet: true, Deliver: func(m *jsonrpc.Message) error {
			if m.IsResponse() {
				return nil
			}
			return b.deliver(nil, m)
		}})
		cancel()
		if err != nil {
			b.log.Debug("ping not answered", "error", err.Error())
		}
	}
}
