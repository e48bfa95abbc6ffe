package authserver

import (
	"context"
	"crypto/x509"
	"net"
	"net/http"
	"net/netip"
	"time"
)

// FetchFrom stands in for DNS and the public roots: the documents of clients
// come from the address that resolve names for a host and port. The guard looks
// at that address as it would at one from DNS.
func (s *Server) FetchFrom(roots *x509.CertPool, timeout time.Duration, resolve func(hostport string) string) {
	tr := s.fetch.client.Transport.(*http.Transport)
	dial := tr.DialContext
	tr.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		return dial(ctx, network, resolve(addr))
	}
	tr.TLSClientConfig.RootCAs = roots
	s.fetch.timeout = timeout
}

// PublicAddress is what the guard thinks of an address.
func PublicAddress(addr netip.Addr) bool { return publicAddress(addr) }
