package credstore_test

import (
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mcp-clerk/mcp-clerk/internal/credstore"
	"github.com/mcp-clerk/mcp-clerk/internal/secret"
)

func openWith(t *testing.T, dir, mode string, passphrase secret.String) *credstore.Store {
	t.Helper()
	s, err := credstore.Open(credstore.Options{Dir: dir, Mode: mode, Passphrase: passphrase})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func keyFile(t *testing.T, dir string) string {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(dir, "credentials", "key"))
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

// With a passphrase, a copy of the directory opens nothing; who does not know
// it changes nothing.
func TestPassphrase(t *testing.T) {
	dir := t.TempDir()
	s := openWith(t, dir, credstore.ModeFile, "correct horse")
	save(t, s.Record(plainKey), "token")
	if s.Backend() != credstore.BackendPassphrase {
		t.Errorf("backend %q", s.Backend())
	}
	before := keyFile(t, dir)
	if _, err := hex.DecodeString(strings.TrimSpace(before)); err == nil {
		t.Error("the key lies open")
	}
	if got := load(t, openWith(t, dir, credstore.ModeFile, "correct horse").Record(plainKey)); got != "token" {
		t.Errorf("loaded %q", got)
	}
	for passphrase, given := range map[secret.String]bool{"": false, "wrong": true} {
		r := openWith(t, dir, credstore.ModeAuto, passphrase).Record(plainKey)
		var refused *credstore.PassphraseError
		if _, _, err := r.Load(t.Context()); !errors.As(err, &refused) || refused.Given != given {
			t.Errorf("load with %q: %v", passphrase, err)
		}
		if _, ok, err := r.Save(t.Context(), []byte("x"), 0); ok || !errors.As(err, &refused) {
			t.Errorf("save with %q: ok %v, %v", passphrase, ok, err)
		}
	}
	if keyFile(t, dir) != before {
		t.Error("the key was changed by who does not know the passphrase")
	}
	if got := load(t, openWith(t, dir, credstore.ModeAuto, "correct horse").Record(plainKey)); got != "token" {
		t.Errorf("loaded %q", got)
	}
}

// A key that lies open is sealed once there is a passphrase, and the sign-ins
// are kept; a keyring is preferred to it.
func TestPassphraseComesLater(t *testing.T) {
	dir := t.TempDir()
	save(t, openWith(t, dir, credstore.ModeFile, "").Record(plainKey), "token")
	s := openWith(t, dir, credstore.ModeFile, "pass")
	if got := load(t, s.Record(plainKey)); got != "token" || s.Backend() != credstore.BackendPassphrase {
		t.Errorf("loaded %q of %q", got, s.Backend())
	}

	withKeyring(t)
	moved := openWith(t, dir, credstore.ModeKeyring, "pass")
	if got := load(t, moved.Record(plainKey)); got != "token" || moved.Backend() != credstore.BackendKeyring || hasKeyFile(moved) {
		t.Errorf("loaded %q of %q", got, moved.Backend())
	}
	fresh := openWith(t, t.TempDir(), credstore.ModeAuto, "pass")
	save(t, fresh.Record(plainKey), "token")
	if fresh.Backend() != credstore.BackendKeyring {
		t.Errorf("backend %q", fresh.Backend())
	}
}

// A key file that is damaged means signing in anew; one of a form that a newer
// version wrote is left alone (case 46).
func TestSealedKeyThatCannotBeRead(t *testing.T) {
	for name, tc := range map[string]struct {
		content string
		kept    bool
	}{
		"cut off":    {"sealed v1 AAAA AAAA\n", false},
		"no base64":  {"sealed v1 ! !\n", false},
		"newer form": {"sealed v2 something else entirely\n", true},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			save(t, openWith(t, dir, credstore.ModeFile, "pass").Record(plainKey), "token")
			path := filepath.Join(dir, "credentials", "key")
			if err := os.WriteFile(path, []byte(tc.content), 0o600); err != nil {
				t.Fatal(err)
			}
			data, _, err := openWith(t, dir, credstore.ModeFile, "pass").Record(plainKey).Load(t.Context())
			if kept := keyFile(t, dir) == tc.content; kept != tc.kept || data != nil || (err != nil) != tc.kept {
				t.Errorf("kept: %v, loaded %q, %v", kept, data, err)
			}
		})
	}
}
