package storetest

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"testing"
	"time"

	"github.com/mcp-clerk/mcp-clerk/internal/store"
)

// processEnv holds the URL of the store for a process that Processes started.
const processEnv = "STORETEST_PROCESS"

const (
	processes  = 3
	increments = 100
)

// Main belongs at the start of the TestMain of a backend that several processes
// share. Where the process is one that Processes started it counts on the store
// that open opens, and ends.
func Main(open func(ctx context.Context, url string) (store.Store, error)) {
	url := os.Getenv(processEnv)
	if url == "" {
		return
	}
	if err := count(open, url); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

func count(open func(ctx context.Context, url string) (store.Store, error), url string) error {
	ctx := context.Background()
	s, err := open(ctx, url)
	if err != nil {
		return err
	}
	fmt.Println("ready")
	if _, err := bufio.NewReader(os.Stdin).ReadString('\n'); err != nil {
		return err
	}
	var wg sync.WaitGroup
	values := make(chan string, increments)
	errs := make(chan error, increments)
	const callers = 10
	for range callers {
		wg.Go(func() {
			for range increments / callers {
				r, err := s.Update(ctx, "counter", Increment)
				if err != nil {
					errs <- err
					return
				}
				values <- string(r.Value)
			}
		})
	}
	wg.Wait()
	close(values)
	close(errs)
	for value := range values {
		fmt.Println(value)
	}
	if err := <-errs; err != nil {
		return err
	}
	return s.Close()
}

// Processes has several processes count on one record of the store at url,
// which s is an instance of: every number comes once.
func Processes(t *testing.T, s store.Store, url string) {
	t.Helper()
	if err := s.Create(t.Context(), store.Record{Key: "counter", Value: []byte("0"), Expires: time.Now().Add(life)}); err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	type process struct {
		cmd   *exec.Cmd
		lines *bufio.Scanner
		start func()
	}
	all := make([]process, processes)
	for i := range all {
		cmd := exec.CommandContext(t.Context(), self)
		cmd.Env = append(os.Environ(), processEnv+"="+url)
		cmd.Stderr = os.Stderr
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		all[i] = process{cmd, bufio.NewScanner(out), func() { fmt.Fprintln(in) }}
		if !all[i].lines.Scan() || all[i].lines.Text() != "ready" {
			t.Fatalf("process %d said %q", i, all[i].lines.Text())
		}
	}
	for _, p := range all {
		p.start()
	}
	got := make(map[string]int)
	for i, p := range all {
		for p.lines.Scan() {
			got[p.lines.Text()]++
		}
		if err := p.cmd.Wait(); err != nil {
			t.Errorf("process %d: %v", i, err)
		}
	}
	for i := 1; i <= processes*increments; i++ {
		if got[fmt.Sprint(i)] != 1 {
			t.Errorf("%d came %d times", i, got[fmt.Sprint(i)])
		}
	}
	wantRecord(t, get(t, s, "counter"), "counter", fmt.Sprint(processes*increments), time.Now().Add(life))
}
