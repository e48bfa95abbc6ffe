package server

import (
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"
)

// trustedProxies are the networks whose X-Forwarded-For is believed.
type trustedProxies []netip.Prefix

func parseProxies(list []string) (trustedProxies, error) {
	var nets trustedProxies
	var faults []error
	for _, text := range list {
		text = strings.TrimSpace(text)
		if addr, err := netip.ParseAddr(text); err == nil {
			addr = addr.WithZone("").Unmap()
			nets = append(nets, netip.PrefixFrom(addr, addr.BitLen()))
			continue
		}
		p, err := netip.ParsePrefix(text)
		if err != nil || p.Bits() == 0 {
			// Trusting everybody would be trusting nobody's word in particular.
			faults = append(faults, fmt.Errorf("%q is not an address or a network", text))
			continue
		}
		nets = append(nets, p.Masked())
	}
	return nets, errors.Join(faults...)
}

func (t trustedProxies) has(addr netip.Addr) bool {
	return slices.ContainsFunc(t, func(p netip.Prefix) bool { return p.Contains(addr) })
}

// clientAddr is whom a request is counted against: the peer of the connection,
// or, where that is a trusted proxy, the last address in X-Forwarded-For that
// is not one. What stands before it may have been made up.
func (t trustedProxies) clientAddr(r *http.Request) netip.Addr {
	var addr netip.Addr
	if ap, err := netip.ParseAddrPort(r.RemoteAddr); err == nil {
		addr = ap.Addr().WithZone("").Unmap()
	}
	if !t.has(addr) {
		return addr
	}
	hops := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	for _, hop := range slices.Backward(hops) {
		hop = strings.TrimSpace(hop)
		next, err := netip.ParseAddr(strings.Trim(hop, "[]"))
		if err != nil {
			ap, perr := netip.ParseAddrPort(hop) // some proxies add the port
			if perr != nil {
				return addr
			}
			next = ap.Addr()
		}
		if addr = next.WithZone("").Unmap(); !t.has(addr) {
			return addr
		}
	}
	return addr
}
