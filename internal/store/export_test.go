package store

// Commits is the number of the last commit, for tests that count them.
func (s *Bolt) Commits() (int, error) { return s.lastCommit() }

const (
	SweepSlack = sweepSlack
	SweepScan  = sweepScan
)
