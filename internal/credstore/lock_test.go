package credstore_test

import (
	"context"
	"errors"
	"os/exec"
	"testing"
	"time"

	"github.com/mcp-clerk/mcp-clerk/internal/credstore"
)

func TestLockExcludesOtherProcesses(t *testing.T) {
	dir := t.TempDir()
	const processes, rounds = 8, 10
	var cmds []*exec.Cmd
	for range processes {
		cmd := process(t, dir, credstore.ModeFile, "count 10")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		cmds = append(cmds, cmd)
	}
	for _, cmd := range cmds {
		if err := cmd.Wait(); err != nil {
			t.Errorf("process: %v", err)
		}
	}
	s, _ := open(t, dir, credstore.ModeFile)
	if got := load(t, s.Record(plainKey)); got != "80" {
		t.Errorf("%d processes counted to %s in %d rounds each", processes, got, rounds)
	}
}

func TestLockExcludesGoroutinesAndEndsWithTheContext(t *testing.T) {
	s, _ := open(t, t.TempDir(), credstore.ModeFile)
	r := s.Record(plainKey)
	unlock, err := r.Lock(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := s.Record(plainKey).Lock(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("second lock: %v", err)
	}
	// The pending record's lock is another one: a sign-in of minutes must not
	// keep processes from refreshing.
	pending, err := r.Pending().Lock(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	pending()
	unlock()
	again, err := r.Lock(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	again()
}

func TestLockOfAKilledProcessIsFree(t *testing.T) {
	dir := t.TempDir()
	cmd := holder(t, dir)
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	cmd.Wait()
	s, _ := open(t, dir, credstore.ModeFile)
	within(t, 10*time.Second, func() {
		unlock, err := s.Record(plainKey).Lock(t.Context())
		if err != nil {
			t.Error(err)
			return
		}
		unlock()
	})
}

// A holder that is stopped (SIGSTOP, a suspended machine) must not keep the
// others waiting for ever; the second lock keeps those from running together.
func TestLockOfAStoppedProcessIsPassedBy(t *testing.T) {
	dir := t.TempDir()
	holder(t, dir) // waits for its stdin: to the others it is as good as stopped
	s, _ := open(t, dir, credstore.ModeFile)
	r := s.Record(plainKey).WithPatience(200 * time.Millisecond)
	unlock, err := r.Lock(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Lock(t.Context()); err == nil {
		t.Error("a third process got in beside the second")
	}
	unlock()
	unlock, err = r.Lock(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	unlock()
}
