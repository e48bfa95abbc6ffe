package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"time"
)

// shutdownTimeout is how long calls in flight have to finish.
const shutdownTimeout = 30 * time.Second

// headerTimeout is how long the head of a request may take to come in.
const headerTimeout = 10 * time.Second

// Listen opens the listeners for addr, "host:port". A loopback host (localhost,
// 127.0.0.1, ::1) is bound on both 127.0.0.1 and ::1, with the same port, since
// clients resolve "localhost" to either; where the machine has no IPv6, on
// 127.0.0.1 alone. Port 0 takes a free one. An empty host means every address.
func Listen(ctx context.Context, addr string) ([]net.Listener, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, fmt.Errorf("listen on %q: must be host:port", addr)
	}
	var lc net.ListenConfig
	if host != "localhost" && host != "127.0.0.1" && host != "::1" {
		l, err := lc.Listen(ctx, "tcp", addr)
		if err != nil {
			return nil, fmt.Errorf("listen on %q: %w", addr, err)
		}
		return []net.Listener{l}, nil
	}
	ipv6 := false
	if probe, err := lc.Listen(ctx, "tcp6", "[::1]:0"); err == nil {
		probe.Close()
		ipv6 = true
	}
	// A free port of the one address may be taken on the other.
	for try := 0; ; try++ {
		v4, err := lc.Listen(ctx, "tcp4", net.JoinHostPort("127.0.0.1", port))
		if err != nil {
			return nil, fmt.Errorf("listen on %q: %w", addr, err)
		}
		if !ipv6 {
			return []net.Listener{v4}, nil
		}
		same := strconv.Itoa(v4.Addr().(*net.TCPAddr).Port)
		v6, err := lc.Listen(ctx, "tcp6", net.JoinHostPort("::1", same))
		if err == nil {
			return []net.Listener{v4, v6}, nil
		}
		v4.Close()
		if port == same || try == 10 {
			return nil, fmt.Errorf("listen on %q: %w", addr, err)
		}
	}
}

// LocalURL is the URL of listeners that Listen opened on loopback,
// "http://localhost:PORT", which serves as PublicURL there.
func LocalURL(listeners []net.Listener) string {
	if len(listeners) == 0 {
		return ""
	}
	_, port, err := net.SplitHostPort(listeners[0].Addr().String())
	if err != nil {
		return ""
	}
	return "http://" + net.JoinHostPort("localhost", port)
}

// Run listens on addr, as Listen does, and serves until ctx ends; then it
// returns as Serve does. The caller still closes the server.
func (s *Server) Run(ctx context.Context, addr string) error {
	listeners, err := Listen(ctx, addr)
	if err != nil {
		return err
	}
	return s.Serve(ctx, listeners...)
}

// Shutdown ends what Handler serves: readiness is off, new requests are refused,
// streams are told, and calls in flight may finish until ctx ends, whose error it
// then returns. An http.Server that serves the handler does not end its streams
// by itself, and waits for them: call this before its Shutdown, or while that
// runs. Serve does all of this itself. The caller still closes the server.
func (s *Server) Shutdown(ctx context.Context) error {
	s.draining.Store(true)
	s.stopWatch()
	return s.endpoint.Shutdown(ctx)
}

// Serve answers on the listeners, which it takes over, until ctx ends. Then
// readiness is off, and after Options.DrainDelay new requests are refused,
// streams are told, and calls in flight have 30 seconds to finish. It returns
// nil after an orderly end, or what went wrong. A server serves once.
func (s *Server) Serve(ctx context.Context, listeners ...net.Listener) error {
	if len(listeners) == 0 {
		return errors.New("serve: no listener")
	}
	hs := &http.Server{
		Handler:           s.handler,
		ReadHeaderTimeout: s.headerTimeout,
		// No ReadTimeout and no WriteTimeout: they would cut streams. The
		// routes bound their own reads and writes.
		IdleTimeout:    2 * time.Minute,
		MaxHeaderBytes: 64 << 10,
		ConnContext:    s.endpoint.ConnContext,
		ErrorLog:       slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	failed := make(chan error, len(listeners))
	for _, l := range listeners {
		go func() { failed <- hs.Serve(l) }()
	}
	s.startWatch()
	// At the end every Serve has returned: an owner waits for what it started.
	running := len(listeners)
	var cause error
	select {
	case <-ctx.Done():
	case cause = <-failed:
		running--
		cause = fmt.Errorf("serve: %w", cause)
	}
	s.draining.Store(true)
	if cause == nil && s.opts.DrainDelay > 0 {
		// A listener that closes resets the connections that nobody has
		// accepted yet, with requests in them that may not be sent again.
		delay := time.NewTimer(s.opts.DrainDelay)
		defer delay.Stop()
		select {
		case <-delay.C:
		case cause = <-failed:
			running--
			cause = fmt.Errorf("serve: %w", cause)
		}
	}
	s.stopWatch()
	deadline, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.shutdownTimeout)
	defer cancel()
	// The endpoint ends its streams, which would otherwise keep their
	// connections, and with them the HTTP server, busy for ever.
	ended := make(chan error, 1)
	go func() { ended <- s.endpoint.Shutdown(deadline) }()
	err := hs.Shutdown(deadline)
	if e := <-ended; e != nil || err != nil {
		s.log.Warn("shutdown cut calls that did not finish in time", "after", s.shutdownTimeout)
		_ = hs.Close()
	}
	for range running {
		if err := <-failed; !errors.Is(err, http.ErrServerClosed) {
			s.log.Warn("listener failed", "error", err)
		}
	}
	return cause
}
