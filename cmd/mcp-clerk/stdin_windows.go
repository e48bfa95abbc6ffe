package main

import "os"

// pollable leaves f as it is.
func pollable(f *os.File) (in *os.File, restore func()) { return f, func() {} }
