package main

import (
	"os"

	"golang.org/x/sys/windows"
)

// redirectStdout keeps the standard output handle and makes standard error the
// process's standard output.
func redirectStdout() (*os.File, error) {
	out := os.Stdout
	if err := windows.SetStdHandle(windows.STD_OUTPUT_HANDLE, windows.Handle(os.Stderr.Fd())); err != nil {
		return nil, err
	}
	os.Stdout = os.Stderr
	return out, nil
}
