package main

import (
	"errors"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// A disk that is too small for the copy: said, and nothing is left on it. The
// disk is one in a mount namespace of its own.
func TestBackupToAFullDisk(t *testing.T) {
	content := aStore(t, 1500)
	hs := httptest.NewServer(send(content, content))
	defer hs.Close()
	program := filepath.Join(t.TempDir(), "mcp-clerk")
	if out, err := exec.Command("go", "build", "-o", program, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	data, disk := t.TempDir(), t.TempDir()
	if err := writeNote(notePath(filepath.Join(data, "state.db")), internalNote{URL: hs.URL, Key: "the-key"}); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sh", "-c", `mount --make-rprivate / && mount -t tmpfs -o size=64k tmpfs "$2" || { echo no mount; exit 1; }
"$1" backup "$2/copy.db" --data-dir "$3"; code=$?; ls -A "$2"; exit $code`, "sh", program, disk, data)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
	if os.Getuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}
	}
	out, err := cmd.CombinedOutput()
	if errors.Is(err, syscall.EPERM) || strings.Contains(string(out), "no mount") {
		if os.Getenv("CI") == "true" {
			t.Fatalf("this system lets us mount no disk: %v %s", err, out)
		}
		t.Skipf("this system lets us mount no disk: %v %s", err, out)
	}
	if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.ExitCode() != exitError {
		t.Errorf("%v, want exit code %d", err, exitError)
	}
	if !strings.Contains(string(out), "no space left") || !strings.HasSuffix(string(out), "hint: make room, or name a file on another disk\n") {
		t.Errorf("printed, with what is left on the disk:\n%s", out)
	}
}
