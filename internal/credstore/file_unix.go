//go:build !windows

package credstore

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// readers is who may read what lies in the state directory.
const readers = "readable by your user only"

const lockFlags = os.O_CREATE | os.O_RDONLY | syscall.O_NOFOLLOW

// openNoFollow opens without following a link in the last place, and without
// waiting where somebody put a pipe.
func openNoFollow(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if errors.Is(err, syscall.ELOOP) {
		return nil, fmt.Errorf("%q is a symbolic link, which is refused", path)
	}
	return f, err
}

// checkFile refuses what is no plain file of this user, and what others may
// write to or read.
func checkFile(f *os.File) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%q is not a regular file", f.Name())
	}
	if !owned(info) {
		return fmt.Errorf("%q belongs to another user", f.Name())
	}
	if perm := info.Mode().Perm(); perm&0o077 != 0 {
		return fmt.Errorf("%q is open to other users (mode %04o): check who had access, then chmod 600 it", f.Name(), perm)
	}
	return nil
}

// checkDir wants a real directory of this user and closes it to others.
func checkDir(path string) error {
	info, err := os.Lstat(path)
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return fmt.Errorf("%q is not a directory", path)
	}
	if !owned(info) {
		return fmt.Errorf("directory %q belongs to another user", path)
	}
	if info.Mode().Perm() != 0o700 {
		if err := os.Chmod(path, 0o700); err != nil {
			return fmt.Errorf("close directory %q to others: %w", path, err)
		}
	}
	return nil
}

func owned(info os.FileInfo) bool {
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && int(st.Uid) == os.Geteuid()
}

func rename(from, to string) error { return os.Rename(from, to) }

func remove(path string) error { return os.Remove(path) }

// syncDir makes a rename survive a power cut. File systems that can't sync a
// directory say so with EINVAL and are as good as they get.
func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := d.Sync(); err != nil && !errors.Is(err, syscall.EINVAL) && !errors.Is(err, errors.ErrUnsupported) {
		return err
	}
	return nil
}

func locksUnsupported(err error) bool {
	return errors.Is(err, unix.ENOLCK) || errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.ENOTSUP) || errors.Is(err, unix.EOPNOTSUPP)
}
