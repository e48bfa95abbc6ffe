package main

import (
	"os"
	"os/exec"
	"testing"

	"golang.org/x/sys/windows"
)

// A job that lets nobody leave, as some hosts' is, does not keep the sign-in
// from being handed over.
func TestDetachWithinAJob(t *testing.T) {
	job, err := windows.CreateJobObject(nil, nil) // which ends with its last process
	if err != nil {
		t.Fatal(err)
	}
	defer windows.CloseHandle(job)
	if err := windows.AssignProcessToJobObject(job, windows.CurrentProcess()); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0], "-test.run", "^$")
	if err := startDetached(cmd); err != nil {
		t.Fatal(err)
	}
	if state, err := cmd.Process.Wait(); err != nil || !state.Success() {
		t.Errorf("the process ended with %v, %v", state, err)
	}
}
