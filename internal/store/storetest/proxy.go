package storetest

import (
	"context"
	"fmt"
	"strings"
	"testing"

	toxiproxy "github.com/Shopify/toxiproxy/v2"
	"github.com/rs/zerolog"
)

// Proxy is a connection to a server that a test can cut, delay and stop.
type Proxy struct {
	Addr string // host:port

	t     testing.TB
	proxy *toxiproxy.Proxy
}

// StartProxy starts a proxy in front of the server at upstream.
func StartProxy(t testing.TB, upstream string) *Proxy {
	t.Helper()
	server := toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.Nop())
	p := &Proxy{t: t, proxy: toxiproxy.NewProxy(server, "store", "127.0.0.1:0", upstream)}
	p.Restore()
	p.Addr = p.proxy.Listen
	t.Cleanup(p.Cut)
	return p
}

// Cut breaks every connection and refuses new ones until Restore.
func (p *Proxy) Cut() { p.proxy.Stop() }

// Restore lets connections through again after Cut.
func (p *Proxy) Restore() {
	p.t.Helper()
	if err := p.proxy.Start(); err != nil {
		p.t.Fatal(err)
	}
}

// Break cuts the connections there are; new ones go through.
func (p *Proxy) Break() {
	p.t.Helper()
	p.Cut()
	p.Restore()
}

// Toxic adds a fault, as toxiproxy names it, such as "timeout", to what the
// server answers ("downstream") or is sent ("upstream"), until Heal.
func (p *Proxy) Toxic(kind, stream, attributes string) {
	p.t.Helper()
	toxic := fmt.Sprintf(`{"name":%q,"type":%q,"stream":%q,"attributes":{%s}}`, kind+"_"+stream, kind, stream, attributes)
	if _, err := p.proxy.Toxics.AddToxicJson(strings.NewReader(toxic)); err != nil {
		p.t.Fatal(err)
	}
}

// Heal takes all faults away.
func (p *Proxy) Heal() { p.proxy.Toxics.ResetToxics(context.Background()) }
