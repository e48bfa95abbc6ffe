//go:build unix

package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"time"
)

// oracle remembers what was acknowledged, in a log that is synced before the
// result counts, and what broke a promise.
type oracle struct {
	mu     sync.Mutex
	file   *os.File
	begin  time.Time
	counts map[string]int
	wrong  []error
	slow   time.Duration // the longest that a revocation took to be seen
}

func newOracle(path string) (*oracle, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	return &oracle{file: f, begin: time.Now(), counts: map[string]int{}}, nil
}

type entry struct {
	At     string            `json:"at"` // since the begin
	Event  string            `json:"event"`
	Fields map[string]string `json:"fields,omitempty"`
}

// ack logs an acknowledged result. Pairs are names and values; of a token give
// its mark.
func (o *oracle) ack(event string, pairs ...string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.counts[event]++
	o.write(event, pairs)
}

func (o *oracle) write(event string, pairs []string) {
	fields := map[string]string{}
	for i := 0; i+1 < len(pairs); i += 2 {
		fields[pairs[i]] = pairs[i+1]
	}
	line, err := json.Marshal(entry{time.Since(o.begin).Round(time.Millisecond).String(), event, fields})
	if err == nil {
		_, err = o.file.Write(append(line, '\n'))
	}
	if err = errors.Join(err, o.file.Sync()); err != nil {
		o.wrong = append(o.wrong, fmt.Errorf("the oracle's log: %w", err))
	}
}

// lost notes a request that nobody knows the fate of.
func (o *oracle) lost(what string, a answer) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.counts["lost"]++
	o.write("lost", []string{"what", what, "answer", a.String()})
}

// count counts what has no promise in it.
func (o *oracle) count(event string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.counts[event]++
}

// violation records a broken promise.
func (o *oracle) violation(what string, pairs ...string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.write("VIOLATION "+what, pairs)
	o.wrong = append(o.wrong, fmt.Errorf("after %v: %s %q", time.Since(o.begin).Round(time.Millisecond), what, pairs))
}

func (o *oracle) violations() []error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Clone(o.wrong)
}

func (o *oracle) took(d time.Duration) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.slow = max(o.slow, d)
}

func (o *oracle) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(o.counts)) {
		parts = append(parts, fmt.Sprintf("%s %d", name, o.counts[name]))
	}
	if o.slow > 0 {
		parts = append(parts, fmt.Sprintf("revoked everywhere within %v", o.slow.Round(time.Millisecond)))
	}
	return fmt.Sprintf("%s; violations %d", strings.Join(parts, ", "), len(o.wrong))
}

// mark names a token in the log without giving it away.
func mark(token string) string {
	sum := sha256.Sum256([]byte(token))
	return hex.EncodeToString(sum[:5])
}
