//go:build unix

package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// proxy hands request after request to the next instance, without stickiness.
// It goes on to another only where the connection is refused: what was sent
// once is never sent again. An instance that says at /readyz that it is
// shutting down gets no new requests.
type proxy struct {
	addr    string
	targets []*target
	next    atomic.Uint64
	wg      sync.WaitGroup
	stop    context.CancelFunc
	srv     *http.Server
}

type target struct {
	addr     string
	draining atomic.Bool
}

const (
	probeEvery = 50 * time.Millisecond
	mostBody   = 4 << 20
)

func startProxy(ctx context.Context, public string) (*proxy, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", public)
	if err != nil {
		return nil, err
	}
	p := &proxy{addr: l.Addr().String()}
	reverse := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.Host = r.In.Host
			r.Out.URL.Scheme = "http"
			r.Out.URL.Host = r.In.Host
		},
		Transport:     p,
		FlushInterval: -1,
		ErrorLog:      slog.NewLogLogger(slog.DiscardHandler, slog.LevelError), // cut answers are the clients' to judge
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			if errors.Is(err, syscall.ECONNREFUSED) {
				w.Header().Set("Retry-After", "1")
				w.WriteHeader(http.StatusServiceUnavailable)
				return
			}
			w.WriteHeader(http.StatusBadGateway) // whether it was executed is unknown
		},
	}
	p.srv = &http.Server{Handler: reverse, ReadHeaderTimeout: time.Minute}
	p.wg.Go(func() { _ = p.srv.Serve(l) })
	return p, nil
}

// forward lets the proxy use the instances at addrs from now on.
func (p *proxy) forward(ctx context.Context, addrs ...string) {
	for _, addr := range addrs {
		p.targets = append(p.targets, &target{addr: addr})
	}
	ctx, p.stop = context.WithCancel(ctx)
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	for _, t := range p.targets {
		p.wg.Go(func() {
			tick := time.NewTicker(probeEvery)
			defer tick.Stop()
			for {
				select {
				case <-ctx.Done():
					return
				case <-tick.C:
				}
				req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+t.addr+"/readyz", nil)
				if err != nil {
					return
				}
				resp, err := client.Do(req)
				if err != nil {
					continue // refused or too busy: the next connection tells
				}
				t.draining.Store(resp.StatusCode != http.StatusOK)
				resp.Body.Close()
			}
		})
	}
}

func (p *proxy) close() {
	if p.stop != nil {
		p.stop()
	}
	_ = p.srv.Close()
	p.wg.Wait()
}

// RoundTrip sends one request to one instance.
func (p *proxy) RoundTrip(r *http.Request) (*http.Response, error) {
	var body []byte
	if r.Body != nil {
		var err error
		if body, err = io.ReadAll(io.LimitReader(r.Body, mostBody)); err != nil {
			return nil, err
		}
		r.Body.Close()
	}
	start := int(p.next.Add(1) % uint64(len(p.targets)))
	var last error
	for _, draining := range []bool{false, true} {
		for i := range p.targets {
			t := p.targets[(start+i)%len(p.targets)]
			if t.draining.Load() != draining {
				continue
			}
			resp, err := t.send(r, body)
			if err == nil || !errors.Is(err, syscall.ECONNREFUSED) {
				return resp, err
			}
			last = err
		}
	}
	return nil, last
}

// direct opens a connection for each request, so that net/http itself never
// sends one again either.
var direct = &http.Transport{DisableKeepAlives: true, DialContext: (&net.Dialer{Timeout: 5 * time.Second}).DialContext}

func (t *target) send(r *http.Request, body []byte) (*http.Response, error) {
	out := r.Clone(r.Context())
	out.URL = &url.URL{Scheme: "http", Host: t.addr, Path: r.URL.Path, RawPath: r.URL.RawPath, RawQuery: r.URL.RawQuery}
	out.Body = http.NoBody
	out.GetBody = nil
	if len(body) > 0 {
		out.Body = io.NopCloser(bytes.NewReader(body))
	}
	out.ContentLength = int64(len(body))
	return direct.RoundTrip(out)
}
