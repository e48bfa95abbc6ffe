//go:build unix

package main

import (
	"os"

	"golang.org/x/sys/unix"
)

// redirectStdout returns a duplicate of standard output and points descriptor
// 1 at standard error, for this process and whatever it starts.
func redirectStdout() (*os.File, error) {
	fd, err := unix.FcntlInt(os.Stdout.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return nil, err
	}
	if err := dup2(int(os.Stderr.Fd()), int(os.Stdout.Fd())); err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), "/dev/stdout"), nil
}
