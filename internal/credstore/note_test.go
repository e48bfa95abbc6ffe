package credstore_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mcp-clerk/mcp-clerk/internal/credstore"
)

// A note is readable by its owner only, and goes with its record.
func TestNote(t *testing.T) {
	dir := t.TempDir()
	store, err := credstore.Open(credstore.Options{Dir: dir, Mode: credstore.ModeFile})
	if err != nil {
		t.Fatal(err)
	}
	record := store.Record(credstore.Key{Server: "https://mcp.example.com/mcp"})
	other := store.Record(credstore.Key{Server: "https://other.example.com/mcp"})
	if got := record.Note().Read(); got != nil {
		t.Errorf("read %q of nothing", got)
	}
	for _, text := range []string{"first", "second"} {
		if err := record.Note().Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
		if got := record.Note().Read(); string(got) != text {
			t.Errorf("read %q, want %q", got, text)
		}
	}
	if got := other.Note().Read(); got != nil {
		t.Errorf("another record's note is %q", got)
	}
	if err := record.Note().Write([]byte(strings.Repeat("x", 300<<10))); err == nil {
		t.Error("a note of 300 KiB was written")
	}
	notes, err := filepath.Glob(filepath.Join(dir, "credentials", "*.note"))
	if err != nil || len(notes) != 1 {
		t.Fatalf("%q, %v", notes, err)
	}
	info, err := os.Stat(notes[0])
	if err != nil {
		t.Fatal(err)
	}
	if closed := info.Mode().Perm()&0o077 == 0; !closed && os.PathSeparator == '/' {
		t.Errorf("the note has mode %v", info.Mode())
	}
	if err := record.Pending().Delete(t.Context()); err != nil || record.Note().Read() == nil {
		t.Errorf("%v; the note is gone with a sign-in under way", err)
	}
	if err := record.Delete(t.Context()); err != nil || record.Note().Read() != nil {
		t.Errorf("%v; the note has outlived its record", err)
	}
}
