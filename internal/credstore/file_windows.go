package credstore

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"time"

	"golang.org/x/sys/windows"
)

// readers is who may read what lies in the state directory: there are no mode
// bits. The access control list that %LocalAppData% hands down admits its user,
// the system and administrators.
const readers = "readable by whoever may read that directory"

const lockFlags = os.O_CREATE | os.O_RDONLY

func openNoFollow(path string) (f *os.File, err error) {
	err = patiently(func() error {
		info, err := os.Lstat(path)
		if err != nil {
			return err
		}
		if info.Mode()&(os.ModeSymlink|os.ModeIrregular) != 0 {
			return fmt.Errorf("%q is a link, which is refused", path)
		}
		f, err = os.Open(path)
		return err
	})
	return f, err
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

func rename(from, to string) error {
	return patiently(func() error { return os.Rename(from, to) })
}

func remove(path string) error {
	return patiently(func() error { return os.Remove(path) })
}

// patiently tries again for a moment: a file that a scanner or another process
// has open can't be replaced or removed, and one that is just being replaced
// can't be opened. Each of these takes far less than a millisecond.
func patiently(do func() error) error {
	for deadline := time.Now().Add(2 * time.Second); ; {
		err := do()
		if !errors.Is(err, windows.ERROR_SHARING_VIOLATION) && !errors.Is(err, windows.ERROR_ACCESS_DENIED) || time.Now().After(deadline) {
			return err
		}
		time.Sleep(rand.N(5 * time.Millisecond)) //nolint:gosec // so as not to meet the same one each time
	}
}

// syncDir has nothing to do: Windows has no handle for it, and NTFS journals
// the rename.
func syncDir(string) error { return nil }

func locksUnsupported(error) bool { return false }
