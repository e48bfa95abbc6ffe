//go:build linux

package credstore_test

import (
	"bufio"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/mcp-clerk/mcp-clerk/internal/credstore"
)

// secretService is a private D-Bus session with a real gnome-keyring in an own
// home directory.
type secretService struct {
	home string
	env  []string
	bus  *exec.Cmd
}

func startBus(t *testing.T) *secretService {
	t.Helper()
	for _, binary := range []string{"dbus-daemon", "gnome-keyring-daemon"} {
		if _, err := exec.LookPath(binary); err != nil {
			if os.Getenv("CI") == "true" {
				t.Fatalf("%s is missing", binary)
			}
			t.Skipf("%s is not installed", binary)
		}
	}
	s := &secretService{home: t.TempDir()}
	run := filepath.Join(s.home, "run")
	if err := os.Mkdir(run, 0o700); err != nil {
		t.Fatal(err)
	}
	s.env = append(os.Environ(), "HOME="+s.home, "XDG_RUNTIME_DIR="+run, "XDG_DATA_HOME="+s.home)
	// The address is given, not activated: nothing of this machine's session
	// is started on it.
	s.bus = exec.Command("dbus-daemon", "--session", "--nofork", "--nopidfile", "--nosyslog",
		"--address=unix:path="+filepath.Join(s.home, "bus"), "--print-address=1")
	s.bus.Env = s.env
	out, err := s.bus.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.bus.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.bus.Process.Kill(); s.bus.Wait() })
	address, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("dbus-daemon: %v", err)
	}
	s.env = append(s.env, s.session(strings.TrimSpace(address)))
	return s
}

func (s *secretService) session(address string) string {
	return "DBUS_SESSION_BUS_ADDRESS=" + address
}

// keyring starts gnome-keyring-daemon; with a password it creates or unlocks
// the login collection, without one that stays locked.
func (s *secretService) keyring(t *testing.T, password string) *exec.Cmd {
	t.Helper()
	args := []string{"--foreground", "--components=secrets"}
	if password != "" {
		args = append(args, "--unlock")
	}
	cmd := exec.Command("gnome-keyring-daemon", args...)
	cmd.Env = s.env
	cmd.Stdin = strings.NewReader(password)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	deadline := time.Now().Add(20 * time.Second)
	for {
		ask := exec.Command("dbus-send", "--session", "--print-reply", "--dest=org.freedesktop.DBus",
			"/org/freedesktop/DBus", "org.freedesktop.DBus.NameHasOwner", "string:org.freedesktop.secrets")
		ask.Env = s.env
		out, _ := ask.CombinedOutput()
		if strings.Contains(string(out), "boolean true") {
			return cmd
		}
		if time.Now().After(deadline) {
			t.Fatalf("gnome-keyring-daemon does not come up: %s", out)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func (s *secretService) process(t *testing.T, dir, mode, what string) (string, error) {
	t.Helper()
	cmd := process(t, dir, mode, what)
	cmd.Env = append(append([]string{}, s.env...), cmd.Env[len(os.Environ()):]...)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func TestRealSecretService(t *testing.T) {
	s := startBus(t)
	first := s.keyring(t, "a password")
	dir := t.TempDir()
	for _, step := range []struct{ what, want string }{
		{"save token", "saved: true backend: keyring"},
		{"load", `data: "token" backend: keyring`},
		{"save token2", "saved: true backend: keyring"},
	} {
		if out, err := s.process(t, dir, credstore.ModeAuto, step.what); err != nil || strings.TrimSpace(out) != step.want {
			t.Fatalf("%s: %v: %s", step.what, err, out)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "credentials", "key")); !os.IsNotExist(err) {
		t.Errorf("a key lies beside the data: %v", err)
	}
	first.Process.Kill()
	first.Wait()

	t.Run("unlocked again after a restart", func(t *testing.T) {
		s.keyring(t, "a password")
		if out, err := s.process(t, dir, credstore.ModeKeyring, "load"); err != nil || !strings.Contains(out, `data: "token2"`) {
			t.Errorf("%v: %s", err, out)
		}
	})
	t.Run("locked", func(t *testing.T) {
		s.keyring(t, "")
		within(t, 20*time.Second, func() {
			out, err := s.process(t, dir, credstore.ModeAuto, "load")
			if err == nil || !strings.Contains(out, "keyring") {
				t.Errorf("what the locked keyring seals: %v: %s", err, out)
			}
			out, err = s.process(t, t.TempDir(), credstore.ModeAuto, "save token")
			if err != nil || !strings.Contains(out, "saved: true backend: file") || strings.Count(out, "warn:") != 1 {
				t.Errorf("a new state directory: %v: %s", err, out)
			}
		})
	})
	t.Run("hanging", func(t *testing.T) {
		daemon := s.keyring(t, "a password")
		if err := daemon.Process.Signal(syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		within(t, 40*time.Second, func() {
			out, err := s.process(t, dir, credstore.ModeAuto, "load")
			if err == nil || !strings.Contains(out, "keyring") {
				t.Errorf("what the keyring seals: %v: %s", err, out)
			}
			out, err = s.process(t, t.TempDir(), credstore.ModeAuto, "save token")
			if err != nil || !strings.Contains(out, "saved: true backend: file") || strings.Count(out, "warn:") != 1 {
				t.Errorf("a new state directory: %v: %s", err, out)
			}
		})
		// It comes to: what it seals is there as before.
		if err := daemon.Process.Signal(syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
		if out, err := s.process(t, dir, credstore.ModeAuto, "load"); err != nil || !strings.Contains(out, `data: "token2" backend: keyring`) {
			t.Errorf("afterwards: %v: %s", err, out)
		}
		daemon.Process.Kill()
		daemon.Wait()
	})
	t.Run("missing", func(t *testing.T) {
		within(t, 20*time.Second, func() {
			out, err := s.process(t, t.TempDir(), credstore.ModeAuto, "save token")
			if err != nil || !strings.Contains(out, "saved: true backend: file") {
				t.Errorf("%v: %s", err, out)
			}
		})
	})
}
