//go:build unix

// Chaos proves that state survives: it runs real "mcp-clerk serve" processes,
// one on the embedded store or three on one Redis or PostgreSQL, behind a plain
// round-robin proxy, ends them by kill -9 at random moments and at failpoints
// around each commit, and meanwhile signs in, calls, refreshes and revokes as
// many clients at once. Whatever was acknowledged must hold:
//
//   - no acknowledged grant is lost, and nobody has to sign in again;
//   - all answers to one refresh token lead to one successor;
//   - a code is redeemed once;
//   - what was revoked is refused everywhere, within 1 s and for ever.
//
// Further scenarios take the disk or the database away, tear the file, set
// clocks off, and restart the instances one after the other.
//
// It may import any room but cmd. The stand-in for Clerk, the proxy and the
// clients live in this process, which is never killed. Every acknowledged
// result is in the oracle's log, synced before it counts.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

type options struct {
	stores    string
	scenarios string
	kills     int
	clients   int
	seed      uint64
	duration  time.Duration
	race      bool
	keep      string
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out io.Writer) (err error) {
	var o options
	f := flag.NewFlagSet("chaos", flag.ContinueOnError)
	f.StringVar(&o.stores, "store", "bolt,redis,postgres", "backends, comma-separated")
	f.StringVar(&o.scenarios, "scenarios", "all", "comma-separated: "+strings.Join(scenarioNames(), ", "))
	f.IntVar(&o.kills, "kills", 200, "how often a process is ended by kill -9, for each backend")
	f.IntVar(&o.clients, "clients", 50, "clients at once")
	f.Uint64Var(&o.seed, "seed", uint64(time.Now().UnixNano()), "seed of all random choices")
	f.DurationVar(&o.duration, "duration", 0, "least duration of the load under kills")
	f.BoolVar(&o.race, "race", false, "build with the race detector")
	f.StringVar(&o.keep, "artifacts", "", "directory for logs (default: a temporary one, kept on failure)")
	if err := f.Parse(args); err != nil {
		return err
	}
	if err := checkScenarios(o.scenarios); err != nil {
		return err
	}
	dir := o.keep
	if dir == "" {
		if dir, err = os.MkdirTemp("", "chaos-*"); err != nil {
			return err
		}
		defer func() {
			if err == nil {
				err = os.RemoveAll(dir)
			}
		}()
	} else if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	binary := filepath.Join(dir, "mcp-clerk")
	if err := build(ctx, binary, o.race); err != nil {
		return err
	}
	points, err := failpoints(filepath.Join("internal", "store"))
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "seed %d, failpoints %s, logs in %s\n", o.seed, strings.Join(points, " "), dir)
	var failed []error
	for backend := range strings.SplitSeq(o.stores, ",") {
		if err := runBackend(ctx, o, backend, binary, filepath.Join(dir, backend), points, out); err != nil {
			failed = append(failed, fmt.Errorf("%s: %w", backend, err))
		}
	}
	if len(failed) > 0 {
		return fmt.Errorf("%w\nseed %d; the logs are in %q", errors.Join(failed...), o.seed, dir)
	}
	return nil
}

// build makes the program with its failpoints.
func build(ctx context.Context, binary string, race bool) error {
	args := []string{"build", "-tags", "failpoints", "-o", binary}
	if race {
		args = append(args, "-race")
	}
	cmd := exec.CommandContext(ctx, "go", append(args, "./cmd/mcp-clerk")...) //nolint:gosec // our own arguments
	if text, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build the program (from the module's root): %w\n%s", err, text)
	}
	return nil
}

// runBackend runs the scenarios that concern one backend, each in a world of
// its own: what one leaves behind must not hide what the next would find.
func runBackend(ctx context.Context, o options, backend, binary, dir string, points []string, out io.Writer) error {
	var failed []error
	for _, sc := range scenarios {
		if !sc.concerns(backend) || !sc.chosen(o.scenarios) {
			continue
		}
		begin := time.Now()
		where := filepath.Join(dir, sc.name)
		w, err := runScenario(ctx, o, sc, backend, binary, where, points)
		line := ""
		if w != nil {
			line = w.summary()
			failed = append(failed, w.oracle.violations()...)
		}
		status := "ok  "
		if err != nil || w != nil && len(w.oracle.violations()) > 0 {
			status = "FAIL"
		}
		if err != nil {
			failed = append(failed, fmt.Errorf("%s: %w", sc.name, err))
		}
		fmt.Fprintf(out, "%s %-8s %-9s %4.0f s  %s\n", status, backend, sc.name, time.Since(begin).Seconds(), line)
		if ctx.Err() != nil {
			break
		}
	}
	return errors.Join(failed...)
}

// runScenario turns what the starters of the database servers report by Fatal
// into an error.
func runScenario(ctx context.Context, o options, sc scenario, backend, binary, dir string, points []string) (w *world, err error) {
	t := &harness{dir: dir}
	defer t.cleanup()
	defer func() {
		if r := recover(); r != nil {
			f, ok := r.(fatal)
			if !ok {
				panic(r)
			}
			err = errors.New(string(f))
		}
	}()
	w, err = newWorld(ctx, t, o, backend, binary, dir, points)
	if err != nil {
		return nil, err
	}
	return w, sc.run(w)
}
