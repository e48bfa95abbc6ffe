package store

import (
	"os"
	"syscall"
)

// syncData makes what was written to f durable. Unlike fsync, fdatasync leaves
// out times that nobody needs, and with them a write to the file system's journal.
func syncData(f *os.File) error {
	for {
		err := syscall.Fdatasync(int(f.Fd()))
		if err != syscall.EINTR {
			return os.NewSyscallError("fdatasync", err)
		}
	}
}
