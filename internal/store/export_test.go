package store

import "os"

// Commits is how many there were since the store was opened.
func (s *Bolt) Commits() int { return int(s.wal.frames.Load()) }

// KeepLog sets how full a log file gets.
func (s *Bolt) KeepLog(bytes int64) {
	s.writing.Lock()
	defer s.writing.Unlock()
	s.wal.keep = bytes
}

// OnSync has f called in the place of every sync of the log.
func (s *Bolt) OnSync(f func(*os.File) error) {
	s.writing.Lock()
	defer s.writing.Unlock()
	for _, l := range s.wal.files {
		l.sync = f
	}
}

// BreakLog has the next write to the log fail, as a disk would.
func (s *Bolt) BreakLog() error {
	s.writing.Lock()
	defer s.writing.Unlock()
	return s.wal.files[s.wal.turn%2].Close()
}

// Checkpointing reports whether a checkpoint is under way.
func (s *Bolt) Checkpointing() bool {
	_, frozen := s.layers.both()
	return frozen != nil
}

// Turn is how often the files of the log have taken turns.
func (s *Bolt) Turn() uint64 {
	s.writing.Lock()
	defer s.writing.Unlock()
	return s.wal.turn
}

// SmallMap has the file mapped as on Windows, and where the address space is
// limited: the map grows with the file.
func (o Options) SmallMap() Options {
	o.smallMap = true
	return o
}

const (
	SweepSlack = sweepSlack
	SweepScan  = sweepScan
)
