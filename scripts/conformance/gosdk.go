package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// goSDK has the official SDK for Go on both sides of connect: as a stdio host of
// a revision of each era, and as a server in each of its settings.
func goSDK(ctx context.Context, b *bench) (found []scenario, err error) {
	where, err := exec.CommandContext(ctx, "go", "list", "-f", "{{.Dir}}", "github.com/mcp-clerk/mcp-clerk/scripts/conformance").Output()
	if err != nil {
		return nil, fmt.Errorf("find the host's source: %w", err)
	}
	both := filepath.Join(b.dir, "gosdk")
	build := exec.CommandContext(ctx, "go", "build", "-o", both, ".") //nolint:gosec // a path of ours
	build.Dir = filepath.Join(strings.TrimSpace(string(where)), "gosdk")
	if text, err := build.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build the host: %w\n%s", err, text)
	}
	var faults []error
	for _, server := range []string{"sessions", "stateless-legacy", "modern", "both", "both-stateless", "sse"} {
		for _, revision := range []string{"2025-11-25", modernRevision} {
			s := scenario{Name: server + "-" + revision}
			if s.Checks, err = runGoSDK(ctx, both, server, revision, b.program, filepath.Join(b.dir, s.Name)); err != nil {
				faults = append(faults, fmt.Errorf("%s: %w", s.Name, err))
			}
			found = append(found, s)
		}
	}
	return found, errors.Join(faults...)
}

// runGoSDK runs one host with one server.
func runGoSDK(ctx context.Context, both, server, revision, program, stateDir string) (checks []check, err error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	host := exec.CommandContext(ctx, both, server, revision, program, stateDir) //nolint:gosec // to run it is the point
	host.WaitDelay = 5 * time.Second
	var complaints bytes.Buffer
	host.Stderr = &complaints
	text, err := host.Output()
	if err != nil {
		err = fmt.Errorf("run the host: %w\n%s", err, complaints.Bytes())
	}
	for lines := json.NewDecoder(bytes.NewReader(text)); ; {
		var c check
		if fault := lines.Decode(&c); errors.Is(fault, io.EOF) {
			return checks, err
		} else if fault != nil {
			return checks, errors.Join(err, fmt.Errorf("read what the host found: %w", fault))
		}
		checks = append(checks, c)
	}
}
