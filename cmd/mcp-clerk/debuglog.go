package main

import (
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/mcp-clerk/mcp-clerk/internal/credstore"
	"github.com/mcp-clerk/mcp-clerk/internal/telemetry"
)

// Bounds of what --debug writes.
const (
	debugFileSize = 8 << 20 // bytes; the file before is kept beside it
	debugFileAge  = 7 * 24 * time.Hour
)

// debugLog is the log of one process: every step, no secret.
type debugLog struct {
	Path string
	*slog.Logger

	mu   sync.Mutex
	file *os.File
	size int64
}

// openDebugLog creates a log below the state directory, which names the server
// and this process, and removes those of a week ago.
func openDebugLog(stateDir, server string) (*debugLog, error) {
	if stateDir == "" {
		var err error
		if stateDir, err = credstore.DefaultDir(); err != nil {
			return nil, err
		}
	}
	dir := filepath.Join(stateDir, "logs")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make a directory for the debug log: %w", err)
	}
	old, _ := filepath.Glob(filepath.Join(dir, "*.log*")) // the pattern is well-formed
	for _, path := range old {
		if info, err := os.Lstat(path); err == nil && time.Since(info.ModTime()) > debugFileAge {
			_ = os.Remove(path) // another process may have done it
		}
	}
	host := "server"
	if u, err := url.Parse(server); err == nil {
		host = strings.Map(func(r rune) rune {
			if r == '.' || r == '-' || r >= '0' && r <= '9' || r >= 'a' && r <= 'z' {
				return r
			}
			return '_'
		}, strings.ToLower(u.Host))
	}
	l := &debugLog{Path: filepath.Join(dir, fmt.Sprintf("%s-%s-%d.log", host, time.Now().UTC().Format("20060102T150405"), os.Getpid()))}
	if err := l.create(); err != nil {
		return nil, err
	}
	var err error
	if l.Logger, err = telemetry.NewLogger(l, "text", slog.LevelDebug); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

func (l *debugLog) create() error {
	file, err := os.OpenFile(l.Path, os.O_CREATE|os.O_EXCL|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("create the debug log: %w", err)
	}
	l.file, l.size = file, 0
	return nil
}

// Write adds a line. A full disk must not stop the bridge: errors are slog's to
// drop.
func (l *debugLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.size+int64(len(p)) > debugFileSize {
		err := errors.Join(l.file.Close(), os.Rename(l.Path, l.Path+".1"))
		if err = errors.Join(err, l.create()); err != nil {
			return 0, err
		}
	}
	n, err := l.file.Write(p)
	l.size += int64(n)
	return n, err
}

// Close closes the file.
func (l *debugLog) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.file.Close()
}
