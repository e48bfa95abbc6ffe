//go:build !unix || solaris || illumos || aix

package store

import "os"

// unlock does nothing: closing the file gives up its lock.
func unlock(*os.File) {}
