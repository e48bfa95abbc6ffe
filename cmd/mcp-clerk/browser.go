package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"

	"github.com/pkg/browser"
)

// errNoBrowser says that this machine has no browser to open.
var errNoBrowser = fmt.Errorf("no browser can be opened here")

// openBrowser opens url in the person's browser: the command in $BROWSER with
// the URL as its one argument and no shell between, else the system's own.
// What the browser prints goes to stderr: standard output is JSON-RPC's.
func openBrowser(stderr io.Writer) func(url string) error {
	return func(url string) error {
		if command := os.Getenv("BROWSER"); command != "" {
			return startBrowser(command, url, stderr)
		}
		if runtime.GOOS != "windows" && runtime.GOOS != "darwin" &&
			os.Getenv("DISPLAY") == "" && os.Getenv("WAYLAND_DISPLAY") == "" {
			return errNoBrowser
		}
		browser.Stdout = stderr
		browser.Stderr = stderr
		if err := browser.OpenURL(url); err != nil {
			return fmt.Errorf("%w: %w", errNoBrowser, err)
		}
		return nil
	}
}

// startBrowser starts command with url and does not wait for a window to be
// closed; only a command that fails within the first moment is reported.
func startBrowser(command, url string, stderr io.Writer) error {
	// Not bound to a context: the browser outlives the command that opened it.
	cmd := exec.CommandContext(context.Background(), command, url) //nolint:gosec // $BROWSER is the user's own choice
	if batchFile(cmd.Path) {
		return fmt.Errorf("browser %q is a batch file: name a program in $BROWSER, as a shell takes a URL's \"&\" for the end of a command", command)
	}
	cmd.Stdout, cmd.Stderr = stderr, stderr
	if f, ok := stderr.(*os.File); !ok || f == nil {
		// With any other writer Wait would hang on the pipe for as long as the
		// browser lives.
		cmd.Stdout, cmd.Stderr = nil, nil
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start browser %q: %w", command, err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }() // ends with the browser or with this process
	select {
	case err := <-done:
		if err != nil {
			return fmt.Errorf("run browser %q: %w", command, err)
		}
	case <-time.After(time.Second):
	}
	return nil
}

// batchFile reports whether Windows has its command interpreter run path.
func batchFile(path string) bool {
	path = strings.ToLower(strings.TrimRight(path, ". ")) // which Windows overlooks
	return runtime.GOOS == "windows" && (strings.HasSuffix(path, ".bat") || strings.HasSuffix(path, ".cmd"))
}
