package credstore

import "time"

// WithPatience returns r with another patience, so that a test of a stopped
// lock holder need not wait for 20 seconds.
func (r *Record) WithPatience(d time.Duration) *Record {
	c := *r
	c.patience = d
	return &c
}

// FilePath is where the record lies.
func (r *Record) FilePath() string { return r.path() }
