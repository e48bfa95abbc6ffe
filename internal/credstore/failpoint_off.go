//go:build !failpoints

package credstore

// failpoint marks a place at which a build with the tag "failpoints" can end as
// kill -9 ends a process.
func failpoint(string) {}
