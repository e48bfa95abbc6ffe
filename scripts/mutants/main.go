// Command mutants shows that the tests bite: it takes the guards listed in
// guards.txt out of the code, one at a time, and expects a test to fail.
//
//	go run ./scripts/mutants                  all of them: minutes
//	go run ./scripts/mutants -run '^(6|12) '  those whose title matches
//	go run ./scripts/mutants -changed main    those in packages changed since main
//	go run ./scripts/mutants -check           only that each still applies and compiles
//
// The work tree is left alone: the changed file reaches the compiler by the
// go command's -overlay. A guard that survives lacks a test, or is none.
package main

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"time"
)

//go:embed guards.txt
var list string

// The longest that the tests of one guard may take to build and to run.
const (
	runLimit  = 10 * time.Minute
	testLimit = 5 * time.Minute
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out io.Writer) error {
	flags := flag.NewFlagSet("mutants", flag.ContinueOnError)
	only := flags.String("run", "", "regular `expression` for the titles of the guards to take out")
	changed := flags.String("changed", "", "only guards in packages that differ from this `commit`")
	check := flags.Bool("check", false, "do not run tests: see whether each change applies and compiles")
	parallel := flags.Int("parallel", 2, "guards at a time")
	if err := flags.Parse(args); err != nil {
		return err
	}
	title, err := regexp.Compile(*only)
	if err != nil {
		return fmt.Errorf("read -run: %w", err)
	}
	guards, err := parse(list)
	if err != nil {
		return fmt.Errorf("read guards.txt: %w", err)
	}
	r := &runner{}
	if r.root, err = output(ctx, "go", "list", "-m", "-f", "{{.Dir}}"); err != nil {
		return err
	}
	var dirs map[string]bool
	if *changed != "" {
		if dirs, err = r.changedSince(ctx, *changed); err != nil {
			return err
		}
	}
	var chosen []guard
	for _, g := range guards {
		if title.MatchString(g.title) && (dirs == nil || dirs[filepath.Dir(g.file)] || dirs[g.pkg]) {
			chosen = append(chosen, g)
		}
	}
	if len(chosen) == 0 {
		if *changed != "" {
			fmt.Fprintln(out, "no guard is in what changed")
			return nil
		}
		return errors.New("no guard has such a title")
	}
	if r.dir, err = os.MkdirTemp("", "mutants-"); err != nil {
		return fmt.Errorf("make a directory to work in: %w", err)
	}
	defer func() { _ = os.RemoveAll(r.dir) }()
	if *check {
		r.types, err = loadTypes(ctx, r.root)
	} else {
		// Tests that fail anyway would kill everything.
		err = r.baseline(ctx, chosen)
	}
	if err != nil {
		return err
	}
	var (
		wg     sync.WaitGroup
		mu     sync.Mutex
		faults []error
		counts = map[string]int{}
	)
	report := func(g guard, res result) { // as they come: the whole takes its time
		mu.Lock()
		defer mu.Unlock()
		counts[res.verdict]++
		fmt.Fprintf(out, "%-9s %5.1f s  %s  %s\n", res.verdict, res.took.Seconds(), g.title, res.by)
		if res.err != nil {
			faults = append(faults, fmt.Errorf("guard %q: %w", g.title, res.err))
		}
	}
	next := make(chan int)
	for range max(*parallel, 1) {
		wg.Go(func() {
			for i := range next {
				report(chosen[i], r.try(ctx, i, chosen[i]))
			}
		})
	}
	for i := range chosen {
		next <- i
	}
	close(next)
	wg.Wait()

	fmt.Fprintf(out, "%d guards: %d killed, %d survived, %d compile, %d errors\n", len(chosen), counts[killed], counts[survived], counts[compiles], counts[broken])
	return errors.Join(faults...)
}

// Verdicts on a guard.
const (
	killed   = "killed"
	survived = "SURVIVED"
	compiles = "compiles"
	broken   = "ERROR" // of the list
)

type result struct {
	verdict string
	by      string // the first test that failed
	took    time.Duration
	err     error
}

type runner struct {
	root  string // of the module
	dir   string // for what is written
	types *types // set: no tests are run, it is asked instead
}

// try takes one guard out.
func (r *runner) try(ctx context.Context, i int, g guard) (res result) {
	start := time.Now()
	defer func() { res.took = time.Since(start) }()
	fail := func(verdict string, err error) result { return result{verdict: verdict, err: err} }

	path := filepath.Join(r.root, filepath.FromSlash(g.file))
	source, err := os.ReadFile(path)
	if err != nil {
		return fail(broken, err)
	}
	text, err := g.apply(string(source))
	if err != nil {
		return fail(broken, err)
	}
	if r.types != nil {
		if err := r.types.check(path, text); err != nil {
			return fail(broken, fmt.Errorf("without it the package does not compile: %w", err))
		}
		return result{verdict: compiles}
	}
	mutant := filepath.Join(r.dir, fmt.Sprintf("%d-%s", i, filepath.Base(path)))
	overlay := filepath.Join(r.dir, fmt.Sprintf("%d.json", i))
	replace, err := json.Marshal(map[string]any{"Replace": map[string]string{path: mutant}})
	if err == nil {
		//nolint:gosec // names of the list, below a directory of our own
		err = errors.Join(os.WriteFile(mutant, []byte(text), 0o600), os.WriteFile(overlay, replace, 0o600))
	}
	if err != nil {
		return fail(broken, err)
	}
	said, err := r.command(ctx, "go", append([]string{"test", "-overlay", overlay, "-failfast"}, g.testArgs()...)...)
	switch {
	case ctx.Err() != nil:
		return fail(broken, ctx.Err())
	case err == nil:
		return fail(survived, errors.New("no test of "+g.pkg+" fails without it"))
	case bytes.Contains(said, []byte("[build failed]")) || bytes.Contains(said, []byte("[setup failed]")):
		return fail(broken, fmt.Errorf("without it the package does not compile:\n%s", said))
	}
	by := firstFailure(said)
	if by == "" || strings.HasPrefix(by, "panic: test timed out") {
		// On a busy machine that happens with every guard in place.
		return fail(broken, fmt.Errorf("no test failed, but: %w\n%s", err, tail(said)))
	}
	return result{verdict: killed, by: by}
}

// tail is the end of what a command said, where the cause stands.
func tail(said []byte) []byte { return said[max(0, len(said)-2000):] }

var failure = regexp.MustCompile(`(?m)^\s*--- FAIL: (\S+)|^(panic: .*|fatal error: .*)`)

// firstFailure names the innermost test of the first that failed, or what ended
// the process.
func firstFailure(said []byte) string {
	name := ""
	for _, m := range failure.FindAllStringSubmatch(string(said), -1) {
		switch {
		case m[2] != "" && name == "":
			return m[2]
		case name == "" || strings.HasPrefix(m[1], name+"/"):
			name = m[1]
		}
	}
	return name
}

// baseline runs the tests of the guards with all guards in place.
func (r *runner) baseline(ctx context.Context, guards []guard) error {
	seen := map[string]bool{}
	for _, g := range guards {
		args := g.testArgs()
		key := strings.Join(args, " ")
		if seen[key] {
			continue
		}
		seen[key] = true
		said, err := r.command(ctx, "go", append([]string{"test"}, args...)...)
		if err != nil {
			return fmt.Errorf("the tests fail with every guard in place: %w\n%s", err, said)
		}
		if bytes.Contains(said, []byte("no tests to run")) || bytes.Contains(said, []byte("no test files")) {
			return fmt.Errorf("guard %q: %q is no test of %s", g.title, g.tests, g.pkg)
		}
	}
	return nil
}

// command runs a command in the module's root and returns what it says.
func (r *runner) command(ctx context.Context, name string, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, runLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...) //nolint:gosec // the go command
	cmd.Dir = r.root
	cmd.WaitDelay = 5 * time.Second
	return cmd.CombinedOutput()
}

// changedSince returns the directories with a file that differs from commit.
func (r *runner) changedSince(ctx context.Context, commit string) (map[string]bool, error) {
	said, err := output(ctx, "git", "-C", r.root, "diff", "--name-only", "--relative", commit, "--")
	if err != nil {
		return nil, err
	}
	dirs := map[string]bool{}
	for name := range strings.Lines(said) {
		dirs[filepath.Dir(strings.TrimSpace(name))] = true
	}
	return dirs, nil
}

func output(ctx context.Context, name string, args ...string) (string, error) {
	text, err := exec.CommandContext(ctx, name, args...).Output() //nolint:gosec // git and the go command
	if err != nil {
		return "", fmt.Errorf("%s %s: %w", name, strings.Join(args, " "), err)
	}
	return strings.TrimSpace(string(text)), nil
}
