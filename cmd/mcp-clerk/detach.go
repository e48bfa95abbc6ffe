package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"

	"github.com/spf13/pflag"
)

// resumeArgs is the command line of the process that takes over a sign-in of
// connect: the same account, named by those of its flags that login knows. No
// secret can be among them, as no flag takes one.
func resumeArgs(given *pflag.FlagSet, args []string) []string {
	known := newLoginCmd(terminal{}).Flags()
	resume := []string{"login", "--resume"}
	given.Visit(func(f *pflag.Flag) {
		if known.Lookup(f.Name) == nil {
			return
		}
		if list, ok := f.Value.(pflag.SliceValue); ok {
			for _, value := range list.GetSlice() {
				resume = append(resume, "--"+f.Name+"="+value)
			}
			return
		}
		resume = append(resume, "--"+f.Name+"="+f.Value.String())
	})
	return append(append(resume, "--"), args...)
}

// detach starts this program with args in a session of its own, without the
// host's pipes, and does not wait for it: it must outlive a host that ends all
// that it has started.
func detach(args []string) error {
	exe, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	// Standard input and output of an exec.Cmd without any are the null device.
	cmd := exec.CommandContext(context.Background(), exe, args...) //nolint:gosec // this very program
	if err := startDetached(cmd); err != nil {
		return fmt.Errorf("start %q: %w", exe, err)
	}
	return cmd.Process.Release()
}
