package main

import (
	"os/exec"
	"syscall"

	"golang.org/x/sys/windows"
)

// startDetached leaves the host's job, too, where the job lets it: hosts end
// their commands by closing it.
func startDetached(cmd *exec.Cmd) error {
	const flags = windows.DETACHED_PROCESS | windows.CREATE_NEW_PROCESS_GROUP
	cmd.SysProcAttr = &syscall.SysProcAttr{HideWindow: true, CreationFlags: flags | windows.CREATE_BREAKAWAY_FROM_JOB}
	if cmd.Start() == nil {
		return nil
	}
	again := *cmd
	again.SysProcAttr = &syscall.SysProcAttr{HideWindow: true, CreationFlags: flags}
	err := again.Start()
	cmd.Process = again.Process
	return err
}
