package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/mcp-clerk/mcp-clerk/internal/jsonrpc"
)

// stdioClient is an MCP host in small: it runs a stdio command and asks it one
// thing after the other.
type stdioClient struct {
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	lines  chan []byte // closed at the command's end of output
	reader sync.WaitGroup
	nextID int
}

// startStdioClient runs command; stderr gets each line the command writes there.
func startStdioClient(ctx context.Context, command string, args []string, stderr func(line string)) (*stdioClient, error) {
	cmd := exec.CommandContext(ctx, command, args...) //nolint:gosec // this very program, by the demo
	cmd.WaitDelay = 5 * time.Second
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("start %q: %w", command, err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("start %q: %w", command, err)
	}
	errout, err := cmd.StderrPipe()
	if err != nil {
		return nil, fmt.Errorf("start %q: %w", command, err)
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %q: %w", command, err)
	}
	c := &stdioClient{cmd: cmd, stdin: stdin, lines: make(chan []byte)}
	c.reader.Go(func() {
		defer close(c.lines)
		r := bufio.NewReader(io.LimitReader(stdout, 256<<20))
		for {
			line, err := r.ReadBytes('\n')
			if len(line) > 0 {
				select {
				case c.lines <- line:
				case <-ctx.Done():
					return
				}
			}
			if err != nil {
				return
			}
		}
	})
	c.reader.Go(func() {
		scanner := bufio.NewScanner(errout)
		for scanner.Scan() {
			stderr(scanner.Text())
		}
	})
	return c, nil
}

// rpcError is an error that the server answered with.
type rpcError struct {
	Code    int    `json:"code"`
	Message string `json:"message"`
}

func (e *rpcError) Error() string { return fmt.Sprintf("%s (%d)", e.Message, e.Code) }

// call sends one request and waits for its response; notifications that come
// first are given to notify, which may be nil.
func (c *stdioClient) call(ctx context.Context, method string, params any, notify func(*jsonrpc.Message)) (json.RawMessage, error) {
	c.nextID++
	id := json.RawMessage(strconv.Itoa(c.nextID))
	if err := c.write(jsonrpc.NewRequest(id, method, params)); err != nil {
		return nil, err
	}
	for {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case line, ok := <-c.lines:
			if !ok {
				return nil, errors.New("the bridge ended before it answered")
			}
			m, err := jsonrpc.Parse(line, jsonrpc.Limits{})
			if err != nil {
				return nil, fmt.Errorf("read the bridge's answer: %w", err)
			}
			switch {
			case m.IsNotification():
				if notify != nil {
					notify(m)
				}
			case m.IsRequest():
				if err := c.write(jsonrpc.NewError(m.ID, jsonrpc.CodeMethodNotFound, "method not found", nil)); err != nil {
					return nil, err
				}
			case jsonrpc.IDKey(m.ID) == jsonrpc.IDKey(id):
				if m.Error == nil {
					return m.Result, nil
				}
				var e rpcError
				if err := json.Unmarshal(m.Error, &e); err != nil {
					return nil, fmt.Errorf("read the bridge's answer: %w", err)
				}
				return nil, &e
			}
		}
	}
}

func (c *stdioClient) notify(method string) error {
	return c.write(jsonrpc.NewNotification(method, nil))
}

func (c *stdioClient) write(raw []byte) error {
	if _, err := c.stdin.Write(append(raw, '\n')); err != nil {
		return fmt.Errorf("write to the bridge: %w", err)
	}
	return nil
}

// close ends the command the way a host does: by closing its input.
func (c *stdioClient) close() error {
	err := c.stdin.Close()
	for range c.lines { // drained, so that the command can end
	}
	c.reader.Wait()
	if werr := c.cmd.Wait(); werr != nil {
		return fmt.Errorf("end the bridge: %w", werr)
	}
	if err != nil && !strings.Contains(err.Error(), "already closed") {
		return fmt.Errorf("end the bridge: %w", err)
	}
	return nil
}
