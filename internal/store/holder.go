package store

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// holder is the content of the file PATH.holder: which process has the store
// open. It only informs; the lock on the store file itself is what counts.
type holder struct {
	PID     int       `json:"pid"`
	Host    string    `json:"host"`
	Program string    `json:"program"`
	Since   time.Time `json:"since"`
}

func holderPath(path string) string { return path + ".holder" }

func writeHolder(path string, now time.Time) error {
	host, _ := os.Hostname()
	b, err := json.Marshal(holder{PID: os.Getpid(), Host: host, Program: filepath.Base(os.Args[0]), Since: now.UTC().Truncate(time.Second)})
	if err != nil {
		return err
	}
	// Renamed into place: a reader finds all of it. The name is ours alone, as
	// the lock is.
	temp := holderPath(path) + ".new"
	if err := os.WriteFile(temp, b, 0o600); err != nil {
		return err
	}
	return os.Rename(temp, holderPath(path))
}

func removeHolder(path string) { _ = os.Remove(holderPath(path)) }

// heldError reports that another process, or this one, has the store open.
func heldError(path string) error {
	who := "another process"
	var h holder
	if b, err := os.ReadFile(holderPath(path)); err == nil && json.Unmarshal(b, &h) == nil && h.PID != 0 {
		who = fmt.Sprintf("process %d (%s) on host %q since %s", h.PID, h.Program, h.Host, h.Since.Format(time.RFC3339))
	}
	return &OpenError{Path: path, Problem: "is in use by " + who,
		Fix: "stop that process, or give this one a store of its own; servers that share their state need Redis or PostgreSQL"}
}
