package credstore

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"time"
)

// maxFile bounds what is read of a file; records are a few kilobytes.
const maxFile = 1 << 20

// DefaultDir is the state directory of this user: MCP_CLERK_STATE_DIR, else
// the platform's place for state that is no configuration and no cache.
func DefaultDir() (string, error) {
	if dir := os.Getenv("MCP_CLERK_STATE_DIR"); dir != "" {
		return dir, nil
	}
	const app = "mcp-clerk"
	switch runtime.GOOS {
	case "windows":
		if dir := os.Getenv("LocalAppData"); dir != "" {
			return filepath.Join(dir, app), nil
		}
	case "darwin", "ios":
	default:
		// Relative values are to be ignored (XDG Base Directory Specification).
		if dir := os.Getenv("XDG_STATE_HOME"); filepath.IsAbs(dir) {
			return filepath.Join(dir, app), nil
		}
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", fmt.Errorf("find the state directory (MCP_CLERK_STATE_DIR sets it): %w", err)
	}
	switch runtime.GOOS {
	case "windows":
		return filepath.Join(home, "AppData", "Local", app), nil
	case "darwin", "ios":
		return filepath.Join(home, "Library", "Application Support", app), nil
	default:
		return filepath.Join(home, ".local", "state", app), nil
	}
}

// ensureDir makes the folder, 0700 whatever the umask, and refuses one that
// belongs to somebody else.
func (s *Store) ensureDir() error {
	if err := os.MkdirAll(filepath.Dir(s.dir), 0o700); err != nil {
		return fmt.Errorf("make state directory: %w", err)
	}
	if err := os.Mkdir(s.dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("make credentials directory: %w", err)
	}
	return checkDir(s.dir)
}

// readFile reads a small regular file of this user. Links are not followed,
// and what others could have written is refused.
func readFile(path string) ([]byte, error) {
	f, err := openNoFollow(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if err := checkFile(f); err != nil {
		return nil, err
	}
	raw, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, err
	}
	if len(raw) > maxFile {
		return nil, fmt.Errorf("file %q is larger than %d bytes", path, maxFile)
	}
	return raw, nil
}

// writeFile replaces path as a whole: a reader sees the old file or the new
// one, also after a crash.
func writeFile(path string, data []byte) error {
	failpoint("before-write")
	temp, err := writeTemp(path, data)
	if err != nil {
		return err
	}
	failpoint("before-rename")
	if err := rename(temp, path); err != nil {
		_ = os.Remove(temp) // swept later if it stays
		return err
	}
	failpoint("after-rename")
	return syncDir(filepath.Dir(path))
}

// writeNew is writeFile for a path that must not exist yet; fs.ErrExist says
// that another process was first. The file appears with its whole content.
func writeNew(path string, data []byte) error {
	temp, err := writeTemp(path, data)
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(temp) }() // swept later if it stays
	if err := os.Link(temp, path); err != nil {
		if errors.Is(err, fs.ErrExist) {
			return fs.ErrExist
		}
		if _, statErr := os.Lstat(path); statErr == nil {
			return fs.ErrExist
		}
		// The file system has no hard links; the caller's lock has to do.
		if err := rename(temp, path); err != nil {
			return err
		}
	}
	return syncDir(filepath.Dir(path))
}

func writeTemp(path string, data []byte) (temp string, err error) {
	f, err := os.CreateTemp(filepath.Dir(path), ".tmp-*") // 0600
	if err != nil {
		return "", err
	}
	defer func() {
		if err != nil {
			f.Close()
			_ = os.Remove(f.Name()) // swept later if it stays
		}
	}()
	if _, err := f.Write(data); err != nil {
		return "", err
	}
	if err := f.Sync(); err != nil {
		return "", err
	}
	if err := f.Close(); err != nil {
		return "", err
	}
	sweepTemp(filepath.Dir(path))
	return f.Name(), nil
}

// sweepTemp removes what processes that were killed in writeFile left behind.
func sweepTemp(dir string) {
	old, _ := filepath.Glob(filepath.Join(dir, ".tmp-*"))
	for _, path := range old {
		if info, err := os.Lstat(path); err == nil && time.Since(info.ModTime()) > time.Hour {
			_ = os.Remove(path)
		}
	}
}
