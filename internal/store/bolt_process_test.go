package store_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/mcp-clerk/mcp-clerk/internal/store"
)

// childEnv tells this test binary to be a process that a test started, and
// which.
const childEnv = "STORE_TEST_CHILD"

// children are those processes; each is given the path of a store.
var children = map[string]func(path string) error{
	"hold":  holdStore,
	"write": writeStore,
}

func TestMain(m *testing.M) {
	name := os.Getenv(childEnv)
	if name == "" {
		goleak.VerifyTestMain(m)
		return
	}
	if err := children[name](os.Args[len(os.Args)-1]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

func childCommand(t *testing.T, name, path string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self, path)
	cmd.Env = append(os.Environ(), childEnv+"="+name)
	cmd.Stderr = os.Stderr
	return cmd
}

// holdStore opens the store, says so, and closes it when its input ends.
func holdStore(path string) error {
	s, err := store.OpenBolt(context.Background(), path, store.Options{})
	if err != nil {
		return err
	}
	fmt.Println("open")
	_, _ = bufio.NewReader(os.Stdin).ReadString('\n')
	return s.Close()
}

func TestBoltSecondProcessIsToldWhoHoldsTheStore(t *testing.T) {
	path := storePath(t)
	cmd := childCommand(t, "hold", path)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	started := time.Now().UTC().Truncate(time.Second)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "open\n" {
		t.Fatalf("the child said %q, %v", line, err)
	}

	_, err = store.OpenBolt(t.Context(), path, store.Options{})
	problem, ok := errors.AsType[*store.OpenError](err)
	if !ok {
		t.Fatalf("error %v (%T)", err, err)
	}
	host, _ := os.Hostname()
	for _, part := range []string{strconv.Quote(path), fmt.Sprintf("process %d ", cmd.Process.Pid), strconv.Quote(host), started.Format("2006-01-02T15:"), "stop that process"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("error %q, want %q in it", err, part)
		}
	}
	if problem.Hint() == "" {
		t.Error("no hint")
	}

	// It lets go while we wait: no error.
	go func() {
		time.Sleep(100 * time.Millisecond)
		in.Close()
	}()
	s, err := store.OpenBolt(t.Context(), path, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	// The same process twice: it is named as well.
	_, err = store.OpenBolt(t.Context(), path, store.Options{})
	if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("process %d ", os.Getpid())) {
		t.Errorf("error %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path + ".holder"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the holder's file outlives it: %v", err)
	}
}

// writeStore writes records as fast as it can, on several goroutines, and
// prints the key of each once it is acknowledged.
func writeStore(path string) error {
	s, err := store.OpenBolt(context.Background(), path, store.Options{})
	if err != nil {
		return err
	}
	fmt.Println("open")
	acknowledged := make(chan string)
	for w := range 8 {
		go func() {
			for i := 0; ; i++ {
				key := fmt.Sprintf("%d/%d/%d", os.Getpid(), w, i)
				if err := s.Create(context.Background(), store.Record{Key: key, Value: []byte(strings.Repeat(key, 500))}); err != nil {
					fmt.Fprintln(os.Stderr, err)
					os.Exit(1)
				}
				acknowledged <- key
			}
		}()
	}
	for key := range acknowledged {
		fmt.Println(key)
	}
	return nil
}

// cases/server 21: kill -9 at any point loses nothing that was acknowledged.
func TestBoltKilledProcessLosesNothingAcknowledged(t *testing.T) {
	path := storePath(t)
	var acknowledged []string
	for round := range 8 {
		cmd := childCommand(t, "write", path)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		for n := 0; lines.Scan(); n++ {
			if n == 50+30*round {
				if err := cmd.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
			if lines.Text() != "open" {
				acknowledged = append(acknowledged, lines.Text())
			}
		}
		_ = cmd.Wait()
		// The last line may be cut off.
		if n := len(acknowledged); n > 0 && strings.Count(acknowledged[n-1], "/") != 2 {
			acknowledged = acknowledged[:n-1]
		}
	}
	s := openBolt(t, path, store.Options{})
	for i, key := range acknowledged {
		r, err := s.Get(t.Context(), key)
		if err != nil && i == len(acknowledged)-1 {
			continue // a number cut short
		}
		if err != nil || string(r.Value) != strings.Repeat(key, 500) {
			t.Fatalf("acknowledged record %q of %d: %v", key, len(acknowledged), err)
		}
	}
	t.Logf("%d acknowledged writes", len(acknowledged))
	// What the killed ones left beside it is gone but for our own mark and log.
	left, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(left) != 4 {
		t.Errorf("beside the store there is %v (%v)", left, err)
	}
}
