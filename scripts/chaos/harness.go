//go:build unix

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
)

// fatal is what Fatal panics with.
type fatal string

// harness is the testing.TB that the starters of database servers in storetest
// ask for; what they don't use is not there.
type harness struct {
	testing.TB
	dir string

	mu      sync.Mutex
	cleaned []func()
	dirs    int
}

func (h *harness) Helper() {}

func (h *harness) Fatal(args ...any) { panic(fatal(fmt.Sprint(args...))) }

func (h *harness) Fatalf(format string, args ...any) { panic(fatal(fmt.Sprintf(format, args...))) }

func (h *harness) Error(args ...any) { h.Fatal(args...) }

// Skip fails: nothing is left out here in silence.
func (h *harness) Skip(args ...any) { h.Fatal(args...) }

func (h *harness) TempDir() string {
	h.mu.Lock()
	h.dirs++
	dir := filepath.Join(h.dir, fmt.Sprintf("data%d", h.dirs))
	h.mu.Unlock()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		h.Fatal(err)
	}
	return dir
}

func (h *harness) Cleanup(f func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.cleaned = append(h.cleaned, f)
}

// cleanup runs what Cleanup was given, last first.
func (h *harness) cleanup() {
	for i := len(h.cleaned) - 1; i >= 0; i-- {
		h.cleaned[i]()
	}
}
