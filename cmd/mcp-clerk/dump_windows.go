package main

import "os"

// dumpSignals returns no signal: Windows has none for this.
func dumpSignals() (asked <-chan os.Signal, stop func()) { return nil, func() {} }
