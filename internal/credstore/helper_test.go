package credstore_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/mcp-clerk/mcp-clerk/internal/credstore"
)

// The tests start this test binary again as further processes: locks and the
// choice of the key's place are between processes. CREDSTORE_HELPER names what
// such a process does, CREDSTORE_DIR and CREDSTORE_MODE its store.
func TestMain(m *testing.M) {
	if what := os.Getenv("CREDSTORE_HELPER"); what != "" {
		if err := help(what); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

var plainKey = credstore.Key{Server: "https://mcp.example.com/mcp"}

func help(what string) error {
	ctx := context.Background()
	s, err := credstore.Open(credstore.Options{
		Dir: os.Getenv("CREDSTORE_DIR"), Mode: os.Getenv("CREDSTORE_MODE"),
		Warn: func(text string) { fmt.Println("warn:", text) },
	})
	if err != nil {
		return err
	}
	r := s.Record(plainKey)
	verb, arg, _ := strings.Cut(what, " ")
	if v, host, ok := strings.Cut(verb, "@"); ok { // another server's record
		verb, r = v, s.Record(credstore.Key{Server: "https://" + host + "/mcp"})
	}
	switch verb {
	case "save":
		_, gen, err := r.Load(ctx)
		if err != nil {
			return err
		}
		_, ok, err := r.Save(ctx, []byte(arg), gen)
		fmt.Println("saved:", ok, "backend:", s.Backend())
		return err
	case "load":
		data, _, err := r.Load(ctx)
		fmt.Printf("data: %q backend: %s\n", data, s.Backend())
		return err
	case "load-after-save": // another process may be the one that saves
		if _, _, err := r.Save(ctx, []byte("token"), 0); err != nil {
			return err
		}
		data, _, err := r.Load(ctx)
		if string(data) != "token" {
			return fmt.Errorf("loaded %q, %w", data, err)
		}
		fmt.Println("backend:", s.Backend())
		return err
	case "stores": // as many stores at once, each of its own directory
		n, err := strconv.Atoi(arg)
		if err != nil {
			return err
		}
		errs := make(chan error)
		for i := range n {
			go func() {
				s, err := credstore.Open(credstore.Options{Dir: filepath.Join(s.Dir(), strconv.Itoa(i)), Mode: os.Getenv("CREDSTORE_MODE")})
				if err == nil {
					_, _, err = s.Record(plainKey).Save(ctx, []byte("token"), 0)
					fmt.Println("backend:", s.Backend())
				}
				errs <- err
			}()
		}
		for range n {
			err = errors.Join(err, <-errs)
		}
		return err
	case "loads": // so many at once
		n, err := strconv.Atoi(arg)
		if err != nil {
			return err
		}
		errs := make(chan error)
		for range n {
			go func() {
				_, _, err := r.Load(ctx)
				errs <- err
			}()
		}
		for range n {
			err = errors.Join(err, <-errs)
		}
		return err
	case "count": // adds one, n times, under the lock
		n, err := strconv.Atoi(arg)
		if err != nil {
			return err
		}
		for range n {
			unlock, err := r.Lock(ctx)
			if err != nil {
				return err
			}
			data, gen, err := r.Load(ctx)
			if err != nil {
				return err
			}
			before, _ := strconv.Atoi(string(data))
			_, ok, err := r.Save(ctx, []byte(strconv.Itoa(before+1)), gen)
			if err != nil || !ok {
				return fmt.Errorf("save: ok %v, %w", ok, err)
			}
			unlock()
		}
		return nil
	case "hold": // takes the lock and keeps it until it is killed
		if _, err := r.Lock(ctx); err != nil {
			return err
		}
		fmt.Println("held")
		_, err := io.Copy(io.Discard, os.Stdin)
		return err
	}
	return fmt.Errorf("unknown helper %q", what)
}

// process is another process of the same state directory.
func process(t *testing.T, dir, mode, what string, env ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "CREDSTORE_HELPER="+what, "CREDSTORE_DIR="+dir, "CREDSTORE_MODE="+mode)
	cmd.Env = append(cmd.Env, env...)
	return cmd
}

func runProcess(t *testing.T, dir, mode, what string, env ...string) (string, error) {
	t.Helper()
	out, err := process(t, dir, mode, what, env...).CombinedOutput()
	return string(out), err
}

// holder starts a process that holds the lock.
func holder(t *testing.T, dir string) *exec.Cmd {
	t.Helper()
	cmd := process(t, dir, credstore.ModeFile, "hold")
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
	t.Cleanup(func() {
		in.Close()
		cmd.Process.Kill()
		cmd.Wait()
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || line != "held\n" {
		t.Fatalf("lock holder said %q, %v", line, err)
	}
	return cmd
}

func open(t *testing.T, dir, mode string) (*credstore.Store, *[]string) {
	t.Helper()
	var warnings []string
	s, err := credstore.Open(credstore.Options{Dir: dir, Mode: mode, Warn: func(text string) { warnings = append(warnings, text) }})
	if err != nil {
		t.Fatal(err)
	}
	return s, &warnings
}

func save(t *testing.T, r *credstore.Record, data string) uint64 {
	t.Helper()
	_, gen, err := r.Load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	next, ok, err := r.Save(t.Context(), []byte(data), gen)
	if err != nil || !ok {
		t.Fatalf("save %q: ok %v, %v", data, ok, err)
	}
	return next
}

func load(t *testing.T, r *credstore.Record) string {
	t.Helper()
	data, _, err := r.Load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// within fails a test whose subject hangs, long before go test would.
func within(t *testing.T, d time.Duration, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() { defer close(done); f() }()
	select {
	case <-done:
	case <-time.After(d):
		t.Fatalf("not done within %v", d)
	}
}
