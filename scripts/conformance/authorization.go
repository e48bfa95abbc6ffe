package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/mcp-clerk/mcp-clerk/internal/devclerk"
)

// authorization runs the scenarios for an authorization server against "serve
// --dev", with a client that registered itself and a person who approves.
func authorization(ctx context.Context, b *bench) (found []scenario, err error) {
	srv, err := startServer(ctx, b)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, srv.stop()) }()
	names, err := b.suite.scenarios(ctx, "authorization")
	if err != nil {
		return nil, err
	}
	port, err := freePort(ctx)
	if err != nil {
		return nil, err
	}
	client, err := register(ctx, srv.url, "http://127.0.0.1:"+port+"/callback")
	if err != nil {
		return nil, err
	}

	out := filepath.Join(b.dir, "results")
	cmd := b.suite.command(ctx, "authorization", "--url", srv.url, "--client-id", client,
		"--resource", srv.url+"/mcp", "--port", port, "--output-dir", out)
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("run the suite: %w", err)
	}
	cmd.Stderr = b.log
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("run the suite: %w", err)
	}
	// The suite prints the address that a person is to open.
	var walkErr error
	lines := bufio.NewScanner(stdout)
	for lines.Scan() {
		if !strings.HasPrefix(lines.Text(), srv.url+"/authorize?") {
			continue
		}
		p := devclerk.NewPerson("member@example.com", func(pressed string) { fmt.Fprintf(b.log, "pressed %q\n", pressed) })
		if walkErr = p.Walk(ctx, lines.Text()); walkErr != nil {
			// Nobody would call the suite back: it must not wait its minutes out.
			walkErr = fmt.Errorf("approve: %w", errors.Join(walkErr, cmd.Process.Kill()))
		}
	}
	// Its exit code says less than its results: a warning is none to it.
	runErr := cmd.Wait()
	found, err = results(out, names)
	if err = errors.Join(walkErr, lines.Err(), err); err != nil {
		return found, errors.Join(err, runErr)
	}
	return found, nil
}

// process is a running "serve --dev", or the server with the suite's fixtures.
type process struct {
	cmd *exec.Cmd
	url string
	log chan []byte // what it wrote after it was ready, once it has ended
}

// startServer starts the program under test and waits until it listens.
func startServer(ctx context.Context, b *bench) (*process, error) {
	return startProgram(ctx, b, b.program, "serve")
}

// startProgram starts a program that takes the flags of "serve --dev".
func startProgram(ctx context.Context, b *bench, program string, args ...string) (*process, error) {
	args = append(args, "--dev", "--addr", "127.0.0.1:0", "--data-dir", filepath.Join(b.dir, "data"))
	p := &process{
		cmd: exec.CommandContext(ctx, program, args...), //nolint:gosec // to run it is the point
		log: make(chan []byte, 1),
	}
	stderr, err := p.cmd.StderrPipe()
	if err == nil {
		err = p.cmd.Start()
	}
	if err != nil {
		return nil, fmt.Errorf("start the server: %w", err)
	}
	r := bufio.NewReader(stderr)
	var said strings.Builder
	for {
		line, err := r.ReadString('\n')
		said.WriteString(line)
		if url, ok := strings.CutPrefix(line, "listening on "); ok {
			p.url = strings.TrimSpace(url)
			go func() {
				rest, _ := io.ReadAll(r) // the process ends it
				p.log <- rest
			}()
			return p, nil
		}
		if err != nil {
			return nil, fmt.Errorf("the server did not come up: %w\n%s", errors.Join(err, p.cmd.Wait()), said.String())
		}
	}
}

// stop ends the server as an operator would.
func (p *process) stop() error {
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return fmt.Errorf("stop the server: %w", err)
	}
	var text []byte
	select {
	case text = <-p.log:
	case <-time.After(40 * time.Second):
		_ = p.cmd.Process.Kill()
		text = <-p.log
	}
	if err := p.cmd.Wait(); err != nil {
		return fmt.Errorf("the server ended badly: %w\n%s", err, text)
	}
	return nil
}

// freePort returns a loopback port that nobody listens on now.
func freePort(ctx context.Context) (string, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("find a free port: %w", err)
	}
	defer l.Close()
	return strconv.Itoa(l.Addr().(*net.TCPAddr).Port), nil //nolint:forcetypeassert // of a TCP listener
}

// register registers a public client (RFC 7591) and returns its id.
func register(ctx context.Context, issuer, redirect string) (string, error) {
	body, err := json.Marshal(map[string]any{
		"client_name": "conformance suite", "redirect_uris": []string{redirect}, "token_endpoint_auth_method": "none",
	})
	if err != nil {
		return "", err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, issuer+"/register", strings.NewReader(string(body)))
	if err != nil {
		return "", fmt.Errorf("register a client: %w", err)
	}
	req.Header.Set("Content-Type", "application/json")
	client := &http.Client{Timeout: 30 * time.Second}
	resp, err := client.Do(req)
	if err != nil {
		return "", fmt.Errorf("register a client: %w", err)
	}
	defer resp.Body.Close()
	var answer struct {
		ID string `json:"client_id"`
	}
	data, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if err == nil {
		err = json.Unmarshal(data, &answer)
	}
	if err != nil {
		return "", fmt.Errorf("register a client: %s: %w", resp.Status, err)
	}
	if resp.StatusCode != http.StatusCreated || answer.ID == "" {
		return "", fmt.Errorf("register a client: %s: %q", resp.Status, data)
	}
	return answer.ID, nil
}
