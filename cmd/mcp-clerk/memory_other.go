//go:build !linux

package main

// forgetStart does nothing where the system has no way to it.
func forgetStart() {}
