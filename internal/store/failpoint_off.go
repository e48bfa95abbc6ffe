//go:build !failpoints

package store

func failpoint(string) {}
