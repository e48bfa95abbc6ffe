package credstore

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/windows"
)

const lockFlags = os.O_CREATE | os.O_RDONLY

// The access control list that %LocalAppData% hands down admits its user, the
// system and administrators; there are no mode bits to check.

func openNoFollow(path string) (*os.File, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return nil, err
	}
	if info.Mode()&(os.ModeSymlink|os.ModeIrregular) != 0 {
		return nil, fmt.Errorf("%q is a link, which is refused", path)
	}
	return os.Open(path)
}

func checkFile(f *os.File) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%q is not a regular file", f.Name())
	}
	return nil
}

func checkDir(path string) error {
	info, err := os.Lstat(path)
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return fmt.Errorf("%q is not a directory", path)
	}
	return nil
}

// rename tries again for a moment: a file that a scanner or another process
// has open can't be replaced.
func rename(from, to string) error {
	var err error
	for range 20 {
		err = os.Rename(from, to)
		if !errors.Is(err, windows.ERROR_SHARING_VIOLATION) && !errors.Is(err, windows.ERROR_ACCESS_DENIED) {
			return err
		}
		time.Sleep(25 * time.Millisecond)
	}
	return err
}

// syncDir has nothing to do: Windows has no handle for it, and NTFS journals
// the rename.
func syncDir(string) error { return nil }

func locksUnsupported(error) bool { return false }
