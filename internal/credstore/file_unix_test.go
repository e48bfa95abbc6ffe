//go:build !windows

package credstore_test

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/mcp-clerk/mcp-clerk/internal/credstore"
)

func TestFilesAreClosedToOthersWhateverTheUmask(t *testing.T) {
	for _, umask := range []int{0, 0o022, 0o777} {
		dir := filepath.Join(t.TempDir(), "state")
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		old := syscall.Umask(umask)
		s, _ := open(t, dir, credstore.ModeFile)
		_, ok, err := s.Record(plainKey).Save(t.Context(), []byte("x"), 0)
		syscall.Umask(old)
		if umask == 0o777 {
			continue // no file can be made that can be read back; an error or success, no crash
		}
		if !ok || err != nil {
			t.Fatalf("umask %04o: ok %v, %v", umask, ok, err)
		}
		err = filepath.WalkDir(s.Dir(), func(path string, d os.DirEntry, err error) error {
			if err != nil {
				return err
			}
			info, err := d.Info()
			if err != nil {
				return err
			}
			want := os.FileMode(0o600)
			if d.IsDir() {
				want = 0o700
			}
			if info.Mode().Perm() != want {
				t.Errorf("umask %04o: %s has mode %04o", umask, path, info.Mode().Perm())
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestAnOpenDirectoryIsClosed(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "credentials"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(dir, "credentials"), 0o777); err != nil {
		t.Fatal(err)
	}
	s, _ := open(t, dir, credstore.ModeFile)
	save(t, s.Record(plainKey), "x")
	if info, err := os.Stat(s.Dir()); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
}

func TestWhatIsNoPlainFileOfThisUserIsRefused(t *testing.T) {
	setUp := func(t *testing.T) (*credstore.Store, *credstore.Record) {
		s, _ := open(t, t.TempDir(), credstore.ModeFile)
		r := s.Record(plainKey)
		save(t, r, "token")
		return s, r
	}
	refused := func(t *testing.T, r *credstore.Record, want string) {
		t.Helper()
		within(t, 5*time.Second, func() {
			data, _, err := r.Load(t.Context())
			if data != nil || err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("loaded %q, %v; want an error about %q", data, err, want)
			}
		})
	}
	t.Run("symbolic link", func(t *testing.T) {
		_, r := setUp(t)
		elsewhere := filepath.Join(t.TempDir(), "elsewhere")
		if err := os.Rename(r.FilePath(), elsewhere); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(elsewhere, r.FilePath()); err != nil {
			t.Fatal(err)
		}
		refused(t, r, "symbolic link")
	})
	t.Run("symbolic link to a key", func(t *testing.T) {
		s, _ := setUp(t)
		key := filepath.Join(s.Dir(), "key")
		if err := os.Rename(key, key+".moved"); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(key+".moved", key); err != nil {
			t.Fatal(err)
		}
		again, _ := open(t, filepath.Dir(s.Dir()), credstore.ModeFile)
		refused(t, again.Record(plainKey), "symbolic link")
	})
	t.Run("directory that is a link", func(t *testing.T) {
		dir, target := t.TempDir(), t.TempDir()
		if err := os.Symlink(target, filepath.Join(dir, "credentials")); err != nil {
			t.Fatal(err)
		}
		s, _ := open(t, dir, credstore.ModeFile)
		if _, ok, err := s.Record(plainKey).Save(t.Context(), []byte("x"), 0); ok || err == nil {
			t.Errorf("save through a link: ok %v, %v", ok, err)
		}
	})
	t.Run("pipe", func(t *testing.T) {
		_, r := setUp(t)
		if err := os.Remove(r.FilePath()); err != nil {
			t.Fatal(err)
		}
		if err := syscall.Mkfifo(r.FilePath(), 0o600); err != nil {
			t.Fatal(err)
		}
		refused(t, r, "not a regular file")
	})
	t.Run("key that others can read", func(t *testing.T) {
		s, _ := setUp(t)
		if err := os.Chmod(filepath.Join(s.Dir(), "key"), 0o644); err != nil {
			t.Fatal(err)
		}
		again, _ := open(t, filepath.Dir(s.Dir()), credstore.ModeFile)
		refused(t, again.Record(plainKey), "chmod 600")
	})
	t.Run("another user's file", func(t *testing.T) {
		if os.Geteuid() != 0 {
			t.Skip("only root can give a file away")
		}
		_, r := setUp(t)
		if err := os.Chown(r.FilePath(), 4711, 4711); err != nil {
			t.Fatal(err)
		}
		refused(t, r, "another user")
	})
	t.Run("huge file", func(t *testing.T) {
		_, r := setUp(t)
		if err := os.Truncate(r.FilePath(), 10<<30); err != nil {
			t.Skip("no sparse files here")
		}
		refused(t, r, "larger than")
	})
}

func TestLeftoversOfKilledWritersAreSweptUp(t *testing.T) {
	s, _ := open(t, t.TempDir(), credstore.ModeFile)
	r := s.Record(plainKey)
	save(t, r, "one")
	old, young := filepath.Join(s.Dir(), ".tmp-old"), filepath.Join(s.Dir(), ".tmp-young")
	for _, path := range []string{old, young} {
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	past := time.Now().Add(-2 * time.Hour)
	if err := os.Chtimes(old, past, past); err != nil {
		t.Fatal(err)
	}
	save(t, r, "two")
	if _, err := os.Stat(old); !os.IsNotExist(err) {
		t.Errorf("old leftover is still there: %v", err)
	}
	if _, err := os.Stat(young); err != nil {
		t.Errorf("a file that may be in the making is gone: %v", err)
	}
}
