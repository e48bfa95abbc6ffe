package main

import (
	"os"
	"path/filepath"
	"testing"
)

// A batch file would be run by the command interpreter, to which a URL's "&"
// begins another command.
func TestBrowserIsNoBatchFile(t *testing.T) {
	for _, name := range []string{"browser.bat", "browser.CMD"} {
		dir := t.TempDir()
		command := filepath.Join(dir, name)
		if err := os.WriteFile(command, []byte("@echo %1 >opened\r\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		t.Chdir(dir)
		if err := startBrowser(command, "https://example.com/?a=1&echo>ran", os.Stderr); err == nil {
			t.Errorf("%s: no error", name)
		}
		if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
			t.Errorf("%s left %v (%v)", name, left, err)
		}
	}
}
