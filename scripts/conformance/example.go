package main

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

//go:embed sdkhost.mjs
var sdkHost []byte

// exampleServer returns the part in which the official SDK's stdio client, in each
// of its modes, uses the official example server through connect. transport is
// what that server calls it, and path where it is served.
func exampleServer(transport, path string) func(context.Context, *bench) ([]scenario, error) {
	return func(ctx context.Context, b *bench) (found []scenario, err error) {
		modules := b.suite.modules()
		port, err := freePort(ctx)
		if err != nil {
			return nil, err
		}
		server := exec.CommandContext(ctx, b.suite.node, filepath.Join(modules, "@modelcontextprotocol", "server-everything", "dist", "index.js"), transport) //nolint:gosec // to run it is the point
		server.Env = append(os.Environ(), "PORT="+port)
		server.Cancel = func() error { return server.Process.Signal(syscall.SIGTERM) }
		server.WaitDelay = 5 * time.Second
		var said bytes.Buffer
		server.Stdout, server.Stderr = &said, &said
		if err := server.Start(); err != nil {
			return nil, fmt.Errorf("start the example server: %w", err)
		}
		defer func() {
			_ = server.Process.Kill() // it has nothing to lose
			_ = server.Wait()         // "killed", as asked for
			if err != nil {
				err = fmt.Errorf("%w\nthe example server said:\n%s", err, said.Bytes())
			}
		}()
		url := fmt.Sprintf("http://127.0.0.1:%s%s", port, path)
		if err := listens(ctx, port); err != nil {
			return nil, err
		}
		// A module is found from where the script that needs it lies.
		if err := os.Symlink(modules, filepath.Join(b.dir, "node_modules")); err != nil {
			return nil, err
		}
		script := filepath.Join(b.dir, "sdkhost.mjs")
		if err := os.WriteFile(script, sdkHost, 0o600); err != nil {
			return nil, err
		}
		var faults []error
		for _, mode := range []string{"legacy", "auto", modernRevision} {
			host := exec.CommandContext(ctx, b.suite.node, script, mode, b.program, "connect", url, "--state-dir", filepath.Join(b.dir, mode)) //nolint:gosec // as above
			host.WaitDelay = 5 * time.Second
			var complaints bytes.Buffer
			host.Stderr = &complaints
			text, err := host.Output()
			if err != nil {
				faults = append(faults, fmt.Errorf("host in mode %s: %w\n%s", mode, err, complaints.Bytes()))
			}
			s := scenario{Name: "sdk-" + mode}
			for lines := json.NewDecoder(bytes.NewReader(text)); ; {
				var c check
				if err := lines.Decode(&c); errors.Is(err, io.EOF) {
					break
				} else if err != nil {
					faults = append(faults, fmt.Errorf("host in mode %s: read what it found: %w", mode, err))
					break
				}
				s.Checks = append(s.Checks, c)
			}
			found = append(found, s)
		}
		return found, errors.Join(faults...)
	}
}

// listens waits until somebody accepts connections at a loopback port.
func listens(ctx context.Context, port string) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	var dialer net.Dialer
	for {
		conn, err := dialer.DialContext(ctx, "tcp4", "127.0.0.1:"+port)
		if err == nil {
			return conn.Close()
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("wait for the example server: %w", err)
		}
	}
}
