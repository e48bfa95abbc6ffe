//go:build !failpoints

package store

// failpoint marks a place at which a build with the tag "failpoints" can end as
// if by kill -9. Here it does nothing.
func failpoint(string) {}

// logKeep is how full a file of the log gets: some thousand commits.
const logKeep = 4 << 20

// WithFailpoints returns st: see the file with the tag.
func WithFailpoints(st Store) Store { return st }
