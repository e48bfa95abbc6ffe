package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"github.com/mcp-clerk/mcp-clerk/internal/jsonrpc"
)

// What the host is told, as the suite adds to its command line nothing but the
// server's URL.
const (
	hostProgram  = "CONFORMANCE_PROGRAM"  // the mcp-clerk under test
	hostState    = "CONFORMANCE_STATE"    // its state directory
	hostRevision = "CONFORMANCE_REVISION" // that the host speaks
	browserRole  = "CONFORMANCE_BROWSER"  // set: this process is $BROWSER
)

const modernRevision = "2026-07-28"

// clientDocument is the client metadata document that the suite's authorization
// servers know.
const clientDocument = "https://conformance-test.local/client-metadata.json"

// suiteContext is what the suite tells the client beforehand.
type suiteContext struct {
	ClientID     string `json:"client_id"`
	ClientSecret string `json:"client_secret"`
	PrivateKey   string `json:"private_key_pem"`
}

// host is a stdio host in small: it starts "connect" for the server, as the
// suite's scenario asks, lists the tools and calls each. It fails on every
// error that it is answered with.
func host(ctx context.Context, server string) (err error) {
	state, scenario := os.Getenv(hostState), os.Getenv("MCP_CONFORMANCE_SCENARIO")
	if err := os.MkdirAll(state, 0o700); err != nil {
		return fmt.Errorf("make the state directory: %w", err)
	}
	var given suiteContext
	if raw := os.Getenv("MCP_CONFORMANCE_CONTEXT"); raw != "" {
		if err := json.Unmarshal([]byte(raw), &given); err != nil {
			return fmt.Errorf("read the suite's context: %w", err)
		}
	}
	args := []string{"connect", server, "--state-dir", state, "--credential-store", "file"}
	env := append(os.Environ(), browserRole+"=1")
	switch {
	case given.PrivateKey != "":
		key := filepath.Join(state, "key.pem")
		if err := os.WriteFile(key, []byte(given.PrivateKey), 0o600); err != nil {
			return fmt.Errorf("keep the client's key: %w", err)
		}
		args = append(args, "--client-credentials", "--client-id", given.ClientID, "--client-key-file", key)
	case given.ClientSecret != "":
		args = append(args, "--client-id", given.ClientID)
		env = append(env, "MCP_CLERK_CLIENT_SECRET="+given.ClientSecret)
		if scenario == "auth/client-credentials-basic" {
			args = append(args, "--client-credentials")
		}
	case scenario == "auth/basic-cimd":
		args = append(args, "--client-metadata-url", clientDocument)
	}
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, 50*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Getenv(hostProgram), args...) //nolint:gosec // to run it is the point
	cmd.Env = append(env, "BROWSER="+self)
	cmd.Stderr = os.Stderr
	cmd.WaitDelay = 5 * time.Second
	s := &session{}
	if s.in, err = cmd.StdinPipe(); err != nil {
		return fmt.Errorf("start connect: %w", err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return fmt.Errorf("start connect: %w", err)
	}
	s.out = bufio.NewReader(out)
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start connect: %w", err)
	}
	defer func() {
		_ = s.in.Close() // which ends it
		_, _ = io.Copy(io.Discard, s.out)
		if wait := cmd.Wait(); wait != nil {
			err = errors.Join(err, fmt.Errorf("connect: %w", wait))
		}
	}()
	return s.useTools(os.Getenv(hostRevision))
}

// session is a conversation with connect.
type session struct {
	in   io.WriteCloser
	out  *bufio.Reader
	meta map[string]any // of revision 2026-07-28, in every request
	n    int
}

func (s *session) useTools(revision string) error {
	me := map[string]any{"name": "conformance-host", "version": "1"}
	if revision >= modernRevision {
		s.meta = map[string]any{
			"io.modelcontextprotocol/protocolVersion": revision, "io.modelcontextprotocol/clientInfo": me,
			"io.modelcontextprotocol/clientCapabilities": map[string]any{},
		}
	} else {
		params := map[string]any{"protocolVersion": revision, "capabilities": map[string]any{}, "clientInfo": me}
		if err := s.ask("initialize", params, nil); err != nil {
			return err
		}
		if err := s.write(jsonrpc.NewNotification("notifications/initialized", nil)); err != nil {
			return err
		}
	}
	var list struct {
		Tools []struct {
			Name string `json:"name"`
		} `json:"tools"`
	}
	if err := s.ask("tools/list", map[string]any{}, &list); err != nil {
		return err
	}
	for _, tool := range list.Tools {
		if err := s.ask("tools/call", map[string]any{"name": tool.Name, "arguments": map[string]any{}}, nil); err != nil {
			return fmt.Errorf("call %q: %w", tool.Name, err)
		}
	}
	return nil
}

// ask sends a request and reads its answer into result, which may be nil.
func (s *session) ask(method string, params map[string]any, result any) error {
	s.n++
	if s.meta != nil {
		params["_meta"] = s.meta
	}
	id := strconv.Itoa(s.n)
	if err := s.write(jsonrpc.NewRequest(json.RawMessage(id), method, params)); err != nil {
		return err
	}
	for {
		line, err := s.out.ReadBytes('\n')
		if err != nil {
			return fmt.Errorf("%s: connect ended before it answered: %w", method, err)
		}
		m, err := jsonrpc.Parse(line, jsonrpc.Limits{})
		if err != nil {
			return fmt.Errorf("%s: read the answer: %w", method, err)
		}
		switch {
		case m.IsRequest():
			refusal := jsonrpc.NewError(m.ID, jsonrpc.CodeMethodNotFound, "method not found", nil)
			if err := s.write(refusal); err != nil {
				return err
			}
		case !m.IsResponse() || jsonrpc.IDKey(m.ID) != jsonrpc.IDKey(json.RawMessage(id)):
		case m.Error != nil:
			return fmt.Errorf("%s: answered by %s", method, m.Error)
		case result != nil:
			if err := json.Unmarshal(m.Result, result); err != nil {
				return fmt.Errorf("%s: read the answer: %w", method, err)
			}
			return nil
		default:
			return nil
		}
	}
}

func (s *session) write(raw []byte) error {
	if _, err := s.in.Write(append(raw, '\n')); err != nil {
		return fmt.Errorf("write to connect: %w", err)
	}
	return nil
}

// browse is the browser of somebody who approves at once: the suite's
// authorization servers ask for nothing.
func browse(ctx context.Context, target string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	if err != nil {
		return fmt.Errorf("open the page: %w", err)
	}
	client := &http.Client{Timeout: 30 * time.Second}
	resp, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("open the page: %w", err)
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, io.LimitReader(resp.Body, 1<<20))
	return err
}
