package main

import (
	"bufio"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/mcp-clerk/mcp-clerk/internal/devclerk"
)

//go:embed typescript.mjs
var typescriptClient []byte

// typescript has the official SDK for TypeScript sign in and call, in each way
// that it has of agreeing on a revision: against the program under test, and
// against the server with the suite's fixtures for what the former's tools do
// not show.
func typescript(ctx context.Context, b *bench) (found []scenario, err error) {
	demo, err := startServer(ctx, b)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, demo.stop()) }()
	b.dir = filepath.Join(b.dir, "fixtures") // the store of another server
	fixtures, err := startFixtures(ctx, b)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, fixtures.stop()) }()
	// Node looks for packages beside the script.
	script := filepath.Join(b.dir, "typescript.mjs")
	if err := errors.Join(os.Symlink(b.suite.modules(), filepath.Join(b.dir, "node_modules")),
		os.WriteFile(script, typescriptClient, 0o600)); err != nil {
		return nil, fmt.Errorf("write the client: %w", err)
	}
	for _, mode := range []string{"legacy", "auto", "2026-07-28"} {
		for _, server := range []struct{ name, url string }{{"demo", demo.url}, {"fixtures", fixtures.url}} {
			checks, err := runTypescript(ctx, b, script, server.url+"/mcp", mode, server.name)
			found = append(found, scenario{Name: mode + "-" + server.name, Checks: checks})
			if err != nil {
				return found, fmt.Errorf("%s against %s: %w", mode, server.name, err)
			}
		}
	}
	return found, nil
}

// runTypescript runs the client once.
func runTypescript(ctx context.Context, b *bench, script, url, mode, server string) (checks []check, err error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, b.suite.node, script, url, mode, server) //nolint:gosec // to run it is the point
	cmd.WaitDelay = 5 * time.Second
	cmd.Stderr = b.log
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("run the client: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("run the client: %w", err)
	}
	var faults []error
	person := devclerk.NewPerson("admin@example.com", func(pressed string) { fmt.Fprintf(b.log, "pressed %q\n", pressed) })
	lines := bufio.NewScanner(stdout)
	for lines.Scan() {
		if at, ok := strings.CutPrefix(lines.Text(), "open "); ok {
			if err := person.Walk(ctx, at); err != nil {
				// The client would wait for its callback.
				faults = append(faults, fmt.Errorf("approve: %w", errors.Join(err, cmd.Process.Kill())))
			}
			continue
		}
		var said struct {
			Name  string `json:"name"`
			Fault string `json:"fault"`
		}
		if err := json.Unmarshal(lines.Bytes(), &said); err != nil {
			faults = append(faults, fmt.Errorf("the client said %q", lines.Text()))
			continue
		}
		c := check{ID: said.Name, Status: "SUCCESS", Message: said.Fault}
		if said.Fault != "" {
			c.Status = "FAILURE"
		}
		checks = append(checks, c)
	}
	return checks, errors.Join(errors.Join(faults...), lines.Err(), cmd.Wait())
}
