package credstore_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/mcp-clerk/mcp-clerk/internal/credstore"
)

func TestRecordsAreKeptApartByProfileServerAndVariant(t *testing.T) {
	s, _ := open(t, t.TempDir(), credstore.ModeFile)
	keys := []credstore.Key{
		{Server: "https://a.example/mcp"},
		{Server: "https://a.example/mcp", Profile: "work"},
		{Server: "https://a.example/mcp", Variant: "work"},
		{Server: "https://b.example/mcp"},
		{Server: "https://b.example/", Profile: "mcp"},
	}
	for i, k := range keys {
		save(t, s.Record(k), string(rune('a'+i)))
	}
	for i, k := range keys {
		if got := load(t, s.Record(k)); got != string(rune('a'+i)) {
			t.Errorf("%+v holds %q", k, got)
		}
	}
	entries, err := s.List(t.Context())
	if err != nil || len(entries) != len(keys) {
		t.Fatalf("List: %d entries, %v", len(entries), err)
	}
	for i, e := range entries {
		if e.Err != nil || e.Saved.IsZero() {
			t.Errorf("entry %d: %+v", i, e)
		}
	}
	for i, want := range []int{0, 2, 1, 4, 3} { // by server, profile, variant
		if entries[i].Key != keys[want] {
			t.Errorf("entry %d is %+v, want %+v", i, entries[i].Key, keys[want])
		}
	}
}

func TestNothingOfARecordIsReadableOnDisk(t *testing.T) {
	dir := t.TempDir()
	s, _ := open(t, dir, credstore.ModeFile)
	r := s.Record(credstore.Key{Profile: "canary-profile", Server: "https://canary.example/mcp?key=canary"})
	save(t, r, "canary-token")
	save(t, r.Pending(), "canary-verifier")
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		raw, err := os.ReadFile(path)
		if bytes.Contains(raw, []byte("canary")) || strings.Contains(path[len(dir):], "canary") {
			t.Errorf("%s gives its content away", path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// Who reads while another replaces the record gets the old or the new one,
// and no error. (Windows neither replaces what is open nor opens what is being
// replaced; a host's ten processes do both.)
func TestReadersAndWritersDoNotMeet(t *testing.T) {
	dir := t.TempDir()
	s, _ := open(t, dir, credstore.ModeFile)
	r := s.Record(plainKey)
	gen := save(t, r, "token")
	var readers sync.WaitGroup
	stop := make(chan struct{})
	for range 3 {
		own, _ := open(t, dir, credstore.ModeFile)
		readers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if data, _, err := own.Record(plainKey).Load(t.Context()); err != nil || string(data) != "token" {
					t.Errorf("loads %q, %v", data, err)
					return
				}
			}
		})
	}
	for range 100 {
		next, ok, err := r.Save(t.Context(), []byte("token"), gen)
		if err != nil || !ok {
			t.Errorf("saved: %v, %v", ok, err)
			break
		}
		gen = next
	}
	close(stop)
	readers.Wait()
}

func TestSaveComparesTheGeneration(t *testing.T) {
	s, _ := open(t, t.TempDir(), credstore.ModeFile)
	r := s.Record(plainKey)
	first := save(t, r, "one")
	second := save(t, r, "two")
	if second != first+1 {
		t.Errorf("generation went from %d to %d", first, second)
	}
	for _, stale := range []uint64{0, first, second + 1} {
		if _, ok, err := r.Save(t.Context(), []byte("late"), stale); ok || err != nil {
			t.Errorf("save over generation %d with %d: ok %v, %v", second, stale, ok, err)
		}
	}
	if got := load(t, r); got != "two" {
		t.Errorf("record holds %q", got)
	}
	// A deleted and new record must not take the result of a process that
	// loaded the old one.
	if err := r.Delete(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, ok, err := r.Save(t.Context(), []byte("late"), second); ok || err != nil {
		t.Errorf("save into a deleted record: ok %v, %v", ok, err)
	}
	third := save(t, r, "three")
	if third == first || third == second {
		t.Errorf("generation %d came back", third)
	}
}

func TestDeleteForgets(t *testing.T) {
	s, _ := open(t, t.TempDir(), credstore.ModeFile)
	r := s.Record(plainKey)
	if err := r.Delete(t.Context()); err != nil {
		t.Errorf("delete of nothing: %v", err)
	}
	save(t, r, "x")
	if err := r.Delete(t.Context()); err != nil {
		t.Fatal(err)
	}
	if data, gen, err := r.Load(t.Context()); data != nil || gen != 0 || err != nil {
		t.Errorf("after delete: %q, %d, %v", data, gen, err)
	}
	if entries, err := s.List(t.Context()); len(entries) != 0 || err != nil {
		t.Errorf("List: %v, %v", entries, err)
	}
}

func TestReadingNothingLeavesNothingOnDisk(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	s, _ := open(t, dir, credstore.ModeAuto)
	if got := load(t, s.Record(plainKey)); got != "" {
		t.Errorf("load: %q", got)
	}
	if entries, err := s.List(t.Context()); len(entries) != 0 || err != nil {
		t.Errorf("List: %v, %v", entries, err)
	}
	if s.Backend() != "" {
		t.Errorf("backend %q", s.Backend())
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("state directory was made: %v", err)
	}
}

// A damaged record is as good as none: the person signs in again.
func TestDamagedRecordIsNeverUsed(t *testing.T) {
	good := func(t *testing.T) (*credstore.Store, *credstore.Record, []byte, *[]string) {
		s, warnings := open(t, t.TempDir(), credstore.ModeFile)
		r := s.Record(plainKey)
		save(t, r, "token")
		raw, err := os.ReadFile(r.FilePath())
		if err != nil {
			t.Fatal(err)
		}
		return s, r, raw, warnings
	}
	refused := func(t *testing.T, r *credstore.Record, raw []byte, what string) {
		t.Helper()
		if err := os.WriteFile(r.FilePath(), raw, 0o600); err != nil {
			t.Fatal(err)
		}
		if data, gen, err := r.Load(t.Context()); data != nil || gen != 0 || err != nil {
			t.Errorf("%s: loaded %q, %d, %v", what, data, gen, err)
		}
	}
	t.Run("truncated", func(t *testing.T) {
		_, r, raw, _ := good(t)
		for n := range raw {
			refused(t, r, raw[:n], "truncated")
		}
		refused(t, r, append(bytes.Clone(raw), 0), "lengthened")
	})
	t.Run("bit flip", func(t *testing.T) {
		_, r, raw, _ := good(t)
		for i := range raw {
			if i == 4 {
				continue // the format version, a test of its own
			}
			flipped := bytes.Clone(raw)
			flipped[i] ^= 1 << (i % 8)
			refused(t, r, flipped, "flipped")
		}
	})
	t.Run("moved from another name", func(t *testing.T) {
		s, r, _, _ := good(t)
		other := s.Record(credstore.Key{Server: "https://evil.example/mcp"})
		save(t, other, "evil")
		raw, err := os.ReadFile(other.FilePath())
		if err != nil {
			t.Fatal(err)
		}
		refused(t, r, raw, "moved")
		refused(t, r.Pending(), raw, "moved to pending")
	})
	t.Run("key lost", func(t *testing.T) {
		s, _, raw, _ := good(t)
		if err := os.Remove(filepath.Join(s.Dir(), "key")); err != nil {
			t.Fatal(err)
		}
		again, _ := open(t, filepath.Dir(s.Dir()), credstore.ModeFile)
		refused(t, again.Record(plainKey), raw, "key lost")
	})
	t.Run("said once, listed, and replaced by the next save", func(t *testing.T) {
		s, r, raw, warnings := good(t)
		refused(t, r, raw[:40], "truncated")
		refused(t, r, raw[:40], "truncated")
		if len(*warnings) != 1 {
			t.Errorf("warnings: %q", *warnings)
		}
		entries, err := s.List(t.Context())
		var corrupt *credstore.CorruptError
		if err != nil || len(entries) != 1 || !errors.As(entries[0].Err, &corrupt) {
			t.Errorf("List: %+v, %v", entries, err)
		}
		save(t, r, "new")
		if got := load(t, r); got != "new" {
			t.Errorf("after save: %q", got)
		}
	})
}

func TestRecordOfANewerFormatIsLeftUntouched(t *testing.T) {
	s, _ := open(t, t.TempDir(), credstore.ModeFile)
	r := s.Record(plainKey)
	save(t, r, "token")
	raw, err := os.ReadFile(r.FilePath())
	if err != nil {
		t.Fatal(err)
	}
	raw[4] = 2
	if err := os.WriteFile(r.FilePath(), raw, 0o600); err != nil {
		t.Fatal(err)
	}
	var version *credstore.VersionError
	if _, _, err := r.Load(t.Context()); !errors.As(err, &version) || version.Version != 2 {
		t.Errorf("Load: %v", err)
	}
	if _, _, err := r.Save(t.Context(), []byte("x"), 0); !errors.As(err, &version) {
		t.Errorf("Save: %v", err)
	}
	if err := r.Delete(t.Context()); !errors.As(err, &version) {
		t.Errorf("Delete: %v", err)
	}
	if entries, err := s.List(t.Context()); err != nil || len(entries) != 1 || !errors.As(entries[0].Err, &version) {
		t.Errorf("List: %+v, %v", entries, err)
	}
	after, err := os.ReadFile(r.FilePath())
	if err != nil || !bytes.Equal(raw, after) {
		t.Errorf("the file was changed: %v", err)
	}
}

func TestOptionsAreChecked(t *testing.T) {
	if _, err := credstore.Open(credstore.Options{Dir: t.TempDir(), Mode: "vault"}); err == nil || !strings.Contains(err.Error(), `"vault"`) {
		t.Errorf("unknown mode: %v", err)
	}
}

func TestDefaultDir(t *testing.T) {
	t.Setenv("MCP_CLERK_STATE_DIR", "/somewhere/else")
	if dir, err := credstore.DefaultDir(); err != nil || dir != "/somewhere/else" {
		t.Errorf("MCP_CLERK_STATE_DIR: %q, %v", dir, err)
	}
	t.Setenv("MCP_CLERK_STATE_DIR", "")
	if runtime.GOOS == "windows" {
		t.Setenv("LocalAppData", `C:\Users\Jo Doe\AppData\Local`)
		if dir, err := credstore.DefaultDir(); err != nil || dir != `C:\Users\Jo Doe\AppData\Local\mcp-clerk` {
			t.Errorf("LocalAppData: %q, %v", dir, err)
		}
	}
	if runtime.GOOS != "linux" {
		t.Skip("the rest is about the XDG directories")
	}
	t.Setenv("HOME", "/home/someone")
	t.Setenv("XDG_STATE_HOME", "/state")
	if dir, err := credstore.DefaultDir(); err != nil || dir != "/state/mcp-clerk" {
		t.Errorf("XDG_STATE_HOME: %q, %v", dir, err)
	}
	for _, ignored := range []string{"", "relative/path"} {
		t.Setenv("XDG_STATE_HOME", ignored)
		if dir, err := credstore.DefaultDir(); err != nil || dir != "/home/someone/.local/state/mcp-clerk" {
			t.Errorf("XDG_STATE_HOME=%q: %q, %v", ignored, dir, err)
		}
	}
}

// FuzzCredentialFile opens arbitrary bytes as a record: the outcome is none or
// an error, never content and never a crash.
func FuzzCredentialFile(f *testing.F) {
	s, err := credstore.Open(credstore.Options{Dir: f.TempDir(), Mode: credstore.ModeFile})
	if err != nil {
		f.Fatal(err)
	}
	r := s.Record(plainKey)
	if _, ok, err := r.Save(f.Context(), []byte("token"), 0); !ok || err != nil {
		f.Fatal(ok, err)
	}
	good, err := os.ReadFile(r.FilePath())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good[:len(good)-1])
	f.Add(append(bytes.Clone(good), 'x'))
	f.Add([]byte("mclk"))
	f.Add([]byte("mclk\x02"))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, raw []byte) {
		if bytes.Equal(raw, good) {
			return
		}
		if err := os.WriteFile(r.FilePath(), raw, 0o600); err != nil {
			t.Fatal(err)
		}
		data, gen, err := r.Load(t.Context())
		if data != nil || gen != 0 {
			t.Fatalf("loaded %q, %d, %v from %q", data, gen, err, raw)
		}
	})
}
