//go:build !windows

package transport

import "os"

// createUnlinked returns an empty file that is gone when it is closed, also by
// the end of the process.
func createUnlinked(dir string) (*os.File, error) {
	f, err := os.CreateTemp(dir, "mcp-clerk-*") // 0600
	if err != nil {
		return nil, err
	}
	_ = os.Remove(f.Name())
	return f, nil
}
