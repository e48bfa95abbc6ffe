package credstore_test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/zalando/go-keyring"

	"github.com/mcp-clerk/mcp-clerk/internal/credstore"
)

// withKeyring puts an in-memory keyring in place of the system's.
func withKeyring(t *testing.T) {
	t.Setenv("DBUS_SESSION_BUS_ADDRESS", "unix:path=/nowhere") // not dialled: the keyring is in memory
	keyring.MockInit()
}

func brokenKeyring(t *testing.T, err error) {
	t.Setenv("DBUS_SESSION_BUS_ADDRESS", "unix:path=/nowhere")
	keyring.MockInitWithError(err)
}

func hasKeyFile(s *credstore.Store) bool {
	_, err := os.Stat(filepath.Join(s.Dir(), "key"))
	return err == nil
}

func TestKeyGoesToTheKeyringWhereThereIsOne(t *testing.T) {
	withKeyring(t)
	dir := t.TempDir()
	for _, mode := range []string{credstore.ModeAuto, credstore.ModeKeyring} {
		s, warnings := open(t, filepath.Join(dir, mode), mode)
		save(t, s.Record(plainKey), "token")
		if s.Backend() != credstore.BackendKeyring || hasKeyFile(s) || len(*warnings) != 0 {
			t.Errorf("%s: backend %q, key file %v, warnings %q", mode, s.Backend(), hasKeyFile(s), *warnings)
		}
		again, _ := open(t, filepath.Join(dir, mode), mode)
		if got := load(t, again.Record(plainKey)); got != "token" {
			t.Errorf("%s: a second process loads %q", mode, got)
		}
	}
}

func TestWithoutAKeyringTheFileIsUsedAndSaidOnce(t *testing.T) {
	tests := map[string]func(t *testing.T){
		"broken":    func(t *testing.T) { brokenKeyring(t, errors.New("org.freedesktop.DBus.Error.ServiceUnknown")) },
		"too small": func(t *testing.T) { brokenKeyring(t, keyring.ErrSetDataTooBig) },
	}
	if runtime.GOOS != "windows" && runtime.GOOS != "darwin" { // whose keyrings are no bus's
		tests["no session bus"] = func(t *testing.T) {
			withKeyring(t) // would work, but must not be asked: a bus would be started
			t.Setenv("DBUS_SESSION_BUS_ADDRESS", "autolaunch:")
			bus := fmt.Sprintf("/run/user/%d/", os.Getuid())
			for _, name := range []string{"bus", "dbus-session"} {
				if _, err := os.Stat(bus + name); err == nil {
					t.Skip("this machine has a session bus")
				}
			}
		}
	}
	for name, setUp := range tests {
		t.Run(name, func(t *testing.T) {
			setUp(t)
			dir := t.TempDir()
			s, warnings := open(t, dir, credstore.ModeAuto)
			save(t, s.Record(plainKey), "token")
			save(t, s.Record(credstore.Key{Server: "https://other.example"}), "token")
			if s.Backend() != credstore.BackendFile || !hasKeyFile(s) {
				t.Errorf("backend %q, key file %v", s.Backend(), hasKeyFile(s))
			}
			if len(*warnings) != 1 || !strings.Contains((*warnings)[0], strconv.Quote(filepath.Join(s.Dir(), "key"))) {
				t.Errorf("warnings: %q", *warnings)
			}
			strict, _ := open(t, t.TempDir(), credstore.ModeKeyring)
			var unavailable *credstore.UnavailableError
			if _, ok, err := strict.Record(plainKey).Save(t.Context(), []byte("x"), 0); ok || !errors.As(err, &unavailable) {
				t.Errorf("mode keyring: ok %v, %v", ok, err)
			}
		})
	}
}

// No split brain: who comes later uses the key that is there, whatever its own
// luck with the keyring.
func TestTheFirstPlaceOfTheKeyHolds(t *testing.T) {
	t.Run("file stays when the keyring comes", func(t *testing.T) {
		brokenKeyring(t, errors.New("down"))
		dir := t.TempDir()
		s, _ := open(t, dir, credstore.ModeAuto)
		save(t, s.Record(plainKey), "token")
		withKeyring(t)
		again, _ := open(t, dir, credstore.ModeAuto)
		if got := load(t, again.Record(plainKey)); got != "token" || again.Backend() != credstore.BackendFile {
			t.Errorf("loads %q from %q", got, again.Backend())
		}
	})
	t.Run("keyring stays when it goes", func(t *testing.T) {
		withKeyring(t)
		dir := t.TempDir()
		s, _ := open(t, dir, credstore.ModeAuto)
		gen := save(t, s.Record(plainKey), "token")
		before, err := os.ReadFile(s.Record(plainKey).FilePath())
		if err != nil {
			t.Fatal(err)
		}
		// The mock keeps its content in the provider; errors stand for a
		// keyring that is locked for a while.
		brokenKeyring(t, errors.New("locked"))
		again, _ := open(t, dir, credstore.ModeAuto)
		var unavailable *credstore.UnavailableError
		if _, _, err := again.Record(plainKey).Load(t.Context()); !errors.As(err, &unavailable) {
			t.Errorf("Load: %v", err)
		}
		if _, ok, err := again.Record(plainKey).Save(t.Context(), []byte("x"), gen); ok || !errors.As(err, &unavailable) {
			t.Errorf("Save: ok %v, %v", ok, err)
		}
		after, err := os.ReadFile(s.Record(plainKey).FilePath())
		if err != nil || string(before) != string(after) || again.Backend() != credstore.BackendKeyring || hasKeyFile(again) {
			t.Errorf("a locked keyring changed what is stored: backend %q, %v", again.Backend(), err)
		}
		// The first process knows the key and goes on.
		if got := load(t, s.Record(plainKey)); got != "token" {
			t.Errorf("first process loads %q", got)
		}
		// A new sign-in may be saved all the same, and is said.
		third, warnings := open(t, dir, credstore.ModeAuto)
		if _, ok, err := third.Record(plainKey).Save(t.Context(), []byte("new"), 0); !ok || err != nil {
			t.Fatalf("new sign-in: ok %v, %v", ok, err)
		}
		if got := load(t, s.Record(plainKey)); got != "new" || len(*warnings) != 1 {
			t.Errorf("first process loads %q; warnings %q", got, *warnings)
		}
	})
}

func TestAChosenPlaceMovesTheKeyAndKeepsTheSignIns(t *testing.T) {
	withKeyring(t)
	dir := t.TempDir()
	auto, _ := open(t, dir, credstore.ModeAuto)
	save(t, auto.Record(plainKey), "token")
	for _, mode := range []string{credstore.ModeFile, credstore.ModeKeyring, credstore.ModeFile} {
		s, warnings := open(t, dir, mode)
		if got := load(t, s.Record(plainKey)); got != "token" || len(*warnings) != 0 {
			t.Errorf("%s: loads %q, warnings %q", mode, got, *warnings)
		}
		if s.Backend() != mode || hasKeyFile(s) != (mode == credstore.ModeFile) {
			t.Errorf("%s: backend %q, key file %v", mode, s.Backend(), hasKeyFile(s))
		}
		if got := load(t, auto.Record(plainKey)); got != "token" {
			t.Errorf("after %s a running process loads %q", mode, got)
		}
	}
}

func TestALostMarkerOrKeyIsFoundAgain(t *testing.T) {
	withKeyring(t)
	for _, mode := range []string{credstore.ModeAuto, credstore.ModeFile} {
		dir := t.TempDir()
		s, _ := open(t, dir, mode)
		save(t, s.Record(plainKey), "token")
		for _, damage := range []string{"", "{", `{"version":1,"backend":"vault"}`} {
			if err := os.WriteFile(filepath.Join(s.Dir(), "backend"), []byte(damage), 0o600); err != nil {
				t.Fatal(err)
			}
			again, _ := open(t, dir, credstore.ModeAuto)
			if got := load(t, again.Record(plainKey)); got != "token" {
				t.Errorf("%s, marker %q: loads %q", mode, damage, got)
			}
		}
	}
}

// The bus accepts the connection and never says a word.
func TestAStuckKeyringIsGivenUpAfterSeconds(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "bus")
	l, err := net.Listen("unix", socket)
	if err != nil && os.Getenv("CI") == "true" {
		t.Fatal(err)
	}
	if err != nil {
		t.Skip(err)
	}
	defer l.Close()
	go func() {
		for {
			if _, err := l.Accept(); err != nil {
				return
			}
		}
	}()
	bus := "DBUS_SESSION_BUS_ADDRESS=unix:path=" + socket
	dir := t.TempDir()
	within(t, 25*time.Second, func() {
		// Several at once: the first one settles it for all.
		type result struct {
			out string
			err error
		}
		results := make(chan result)
		for range 4 {
			go func() {
				out, err := runProcess(t, dir, credstore.ModeAuto, "load-after-save", bus)
				results <- result{out, err}
			}()
		}
		warnings := 0
		for range 4 {
			r := <-results
			if r.err != nil || !strings.Contains(r.out, "backend: file") {
				t.Errorf("%v: %s", r.err, r.out)
			}
			warnings += strings.Count(r.out, "warn:")
		}
		if warnings != 1 {
			t.Errorf("said %d times that there is no keyring, want once: by the process that settled it", warnings)
		}
	})
}
