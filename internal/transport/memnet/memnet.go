// Package memnet owns a network inside the process, for the tests of every room
// whose clock is a synctest bubble's: a real socket would keep it from moving.
// It imports nothing of ours. Each connection that Dial returns has been
// accepted by the one listener.
package memnet

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
)

// Network is a network with one listener, which it is itself. It is made by New,
// in the bubble that uses it.
type Network struct {
	Refuse atomic.Bool  // whether dials fail as where nobody listens
	Dials  func() error // asked at each dial, which fails with what it returns; may be nil

	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

// New returns a network on which nobody has dialled.
func New() *Network { return &Network{conns: make(chan net.Conn), done: make(chan struct{})} }

// Accept waits for the next connection. Its only error is net.ErrClosed.
func (n *Network) Accept() (net.Conn, error) {
	select {
	case c := <-n.conns:
		return c, nil
	case <-n.done:
		return nil, net.ErrClosed
	}
}

// Close ends Accept, and with it every further dial. It may be called twice.
func (n *Network) Close() error {
	n.once.Do(func() { close(n.done) })
	return nil
}

// Addr is a name, which nobody can reach.
func (n *Network) Addr() net.Addr { return &net.UnixAddr{Name: "memory", Net: "unix"} }

// Dial connects to the listener whatever address is asked for, as
// http.Transport's DialContext. It fails as the fields say, when the network is
// closed, and with the error of ctx when that ends before the connection is
// accepted.
func (n *Network) Dial(ctx context.Context, _, _ string) (net.Conn, error) {
	failed := func(err error) (net.Conn, error) { return nil, &net.OpError{Op: "dial", Net: "tcp", Err: err} }
	if n.Refuse.Load() {
		return failed(syscall.ECONNREFUSED)
	}
	if n.Dials != nil {
		if err := n.Dials(); err != nil {
			return failed(err)
		}
	}
	near, far := net.Pipe()
	select {
	case n.conns <- far:
		return near, nil
	case <-n.done:
		return failed(net.ErrClosed)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}
