//go:build !windows

package main

import (
	"os"
	"os/signal"
	"syscall"
)

// dumpSignals asks for the state of connect: kill -USR1 PID.
func dumpSignals() (asked <-chan os.Signal, stop func()) {
	c := make(chan os.Signal, 1)
	signal.Notify(c, syscall.SIGUSR1)
	return c, func() { signal.Stop(c) }
}
