package store_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/mcp-clerk/mcp-clerk/internal/store"
)

const diskSize = 4 << 20

func init() {
	children["full disk"] = fillDisk
	children["read-only disk"] = openReadOnly
	children["no permission"] = openForbidden
}

// onSmallDisk runs this test binary as a child that has a small disk of its
// own, in a mount namespace, at the directory of the store.
func onSmallDisk(t *testing.T, name string) {
	t.Helper()
	cmd := childCommand(t, name, storePath(t))
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
	if os.Getuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
	}
	out, err := cmd.Output()
	if errors.Is(err, syscall.EPERM) || strings.HasPrefix(string(out), "no mount") {
		if os.Getenv("CI") == "true" {
			t.Fatalf("this system lets us mount no disk: %v %s", err, out)
		}
		t.Skipf("this system lets us mount no disk: %v %s", err, out)
	}
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Logf("%s", out)
}

// mountSmall mounts a disk of diskSize at the directory of path.
func mountSmall(path string, flags uintptr) {
	err := syscall.Mount("", "/", "", syscall.MS_PRIVATE|syscall.MS_REC, "")
	if err == nil {
		err = syscall.Mount("tmpfs", filepath.Dir(path), "tmpfs", flags, fmt.Sprintf("size=%d", diskSize))
	}
	if err != nil {
		fmt.Println("no mount:", err)
		os.Exit(1)
	}
}

// cases/server 60: ENOSPC, recovery without restart.
func TestBoltFullDisk(t *testing.T) { onSmallDisk(t, "full disk") }

func fillDisk(path string) error {
	mountSmall(path, 0)
	ballast := filepath.Join(filepath.Dir(path), "ballast")
	if err := os.WriteFile(ballast, make([]byte, diskSize/2), 0o600); err != nil {
		return err
	}
	ctx := context.Background()
	s, err := store.OpenBolt(ctx, path, store.Options{})
	if err != nil {
		return err
	}
	value := []byte(strings.Repeat("x", 20_000))
	check := func(n int) error {
		for i := range n {
			r, err := s.Get(ctx, fmt.Sprint("k", i))
			if err != nil || string(r.Value) != string(value) {
				return fmt.Errorf("record %d of %d: %w", i, n, err)
			}
		}
		return nil
	}
	written := 0
	for err = nil; err == nil; written++ {
		err = s.Create(ctx, store.Record{Key: fmt.Sprint("k", written), Value: value})
	}
	written--
	if !errors.Is(err, syscall.ENOSPC) || written < 20 {
		return fmt.Errorf("after %d writes: %w", written, err)
	}
	fmt.Println("full after", written, "writes:", err)
	large := make([]byte, diskSize/2)
	for range 20 {
		if err := s.Create(ctx, store.Record{Key: "more", Value: large}); !errors.Is(err, syscall.ENOSPC) {
			return fmt.Errorf("a write to a full disk: %w", err)
		}
	}
	if _, err := s.Get(ctx, "more"); !errors.Is(err, store.ErrNotFound) {
		return fmt.Errorf("get of a refused record: %w", err)
	}
	if err := check(written); err != nil {
		return err
	}
	// Room is made, and the same store goes on.
	if err := os.Remove(ballast); err != nil {
		return err
	}
	for range 20 {
		if err := s.Create(ctx, store.Record{Key: fmt.Sprint("k", written), Value: value}); err != nil {
			return fmt.Errorf("a write after room was made: %w", err)
		}
		written++
	}
	if err := errors.Join(check(written), s.Close()); err != nil {
		return err
	}
	if s, err = store.OpenBolt(ctx, path, store.Options{}); err != nil { // all pages are checked
		return err
	}
	if err := errors.Join(check(written), s.Close()); err != nil {
		return err
	}

	// A disk that is full when the store is to be made.
	if err := os.WriteFile(ballast, make([]byte, diskSize), 0o600); !errors.Is(err, syscall.ENOSPC) {
		return fmt.Errorf("the disk did not get full: %w", err)
	}
	_, err = store.OpenBolt(ctx, path+"2", store.Options{})
	if _, ok := errors.AsType[*store.OpenError](err); !ok || !strings.Contains(err.Error(), "make room") {
		return fmt.Errorf("a store made on a full disk: %w", err)
	}
	if _, err := os.Stat(path + "2"); !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("half a store was left: %w", err)
	}
	return nil
}

func TestBoltReadOnlyDisk(t *testing.T) { onSmallDisk(t, "read-only disk") }

func openReadOnly(path string) error {
	mountSmall(path, 0)
	s, err := store.OpenBolt(context.Background(), path, store.Options{})
	if err != nil {
		return err
	}
	if err := s.Close(); err != nil {
		return err
	}
	if err := syscall.Mount("tmpfs", filepath.Dir(path), "tmpfs", syscall.MS_REMOUNT|syscall.MS_RDONLY, fmt.Sprintf("size=%d", diskSize)); err != nil {
		return err
	}
	for _, name := range []string{path, path + "2"} {
		_, err = store.OpenBolt(context.Background(), name, store.Options{})
		if _, ok := errors.AsType[*store.OpenError](err); !ok || !strings.Contains(err.Error(), "mount it writable") {
			return fmt.Errorf("a store on a read-only disk: %w", err)
		}
	}
	fmt.Println(err)
	return nil
}

// An ordinary user meets a file and a directory of another.
func TestBoltForbiddenFile(t *testing.T) {
	path := storePath(t)
	cmd := childCommand(t, "no permission", path)
	if os.Getuid() == 0 {
		const nobody = 65534
		for _, dir := range []string{filepath.Dir(path), filepath.Dir(filepath.Dir(path))} {
			if err := os.Chmod(dir, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Chown(filepath.Dir(path), nobody, nobody); err != nil {
			t.Fatal(err)
		}
		cmd.Path = "/proc/self/exe" // the directory of the binary may be closed to others
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	}
	if out, err := cmd.Output(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

func openForbidden(path string) error {
	s, err := store.OpenBolt(context.Background(), path, store.Options{})
	if err != nil {
		return err
	}
	if err := s.Close(); err != nil {
		return err
	}
	before, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	for _, step := range []struct {
		name string
		mode os.FileMode
		open string
	}{
		{path, 0o400, path},                      // read-only file
		{path, 0o000, path},                      // closed file
		{filepath.Dir(path), 0o500, path + "2"},  // read-only directory
		{filepath.Dir(path), 0o500, path},        // no room for the log
		{filepath.Dir(path), 0o000, path},        // closed directory
		{filepath.Dir(path), 0o500, path + "/x"}, // a file for a directory
	} {
		if err := os.Chmod(step.name, step.mode); err != nil {
			return err
		}
		_, err := store.OpenBolt(context.Background(), step.open, store.Options{})
		problem, ok := errors.AsType[*store.OpenError](err)
		if !ok || problem.Fix == "" {
			return fmt.Errorf("%s with mode %o: error %w", step.name, step.mode, err)
		}
		if err := os.Chmod(step.name, 0o700); err != nil {
			return err
		}
	}
	after, err := os.ReadFile(path)
	if err != nil || string(before) != string(after) {
		return fmt.Errorf("the file was changed: %w", err)
	}
	return nil
}
