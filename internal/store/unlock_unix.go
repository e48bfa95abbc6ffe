//go:build unix && !solaris && !illumos && !aix

package store

import (
	"os"
	"syscall"
)

// unlock gives up the lock on a file whose mapping bbolt can't end any more.
// Closing the file isn't enough: the mapping keeps it, and with it the lock.
func unlock(f *os.File) { _ = syscall.Flock(int(f.Fd()), syscall.LOCK_UN) }
