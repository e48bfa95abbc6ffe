// Command conformance runs the official MCP conformance suite against a built
// mcp-clerk and fails on everything but success, warnings and zero scenarios
// included:
//
//	go run ./scripts/conformance [-bin PROGRAM] PART...
//
// where PART is one of those in the table below.
//
// The suite and the Node that it needs come from npm, pinned by
// package-lock.json in this directory with the hash of each package; they are
// kept in the user's cache directory, and no install script of theirs is run.
// Faults that are known and not yet mended stand in known.txt. A line there
// that nothing answers to any more fails as well.
//
// Each part of the suite is one function in the table below: it starts what it
// tests, runs the suite and returns what the suite wrote. Where "connect" is
// tested, the suite starts this program again as the host ("host URL"), and
// connect starts it as the browser.
package main

import (
	"context"
	_ "embed"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// parts are the parts of the suite, by the name of the suite's own command, and
// the official SDKs for TypeScript and Go.
var parts = map[string]func(context.Context, *bench) ([]scenario, error){
	"authorization":     authorization,
	"server-0.1.16":     serverScenarios(everythingOf("0.1.16")),
	"server-2025-11-25": serverScenarios(required("2025-11-25")),
	"server-2026-07-28": serverScenarios(required("2026-07-28")),

	"sign-in-0.1.16":     signInScenarios("0.1.16", "2025-11-25"),
	"sign-in-2025-11-25": signInScenarios("", "2025-11-25"),
	"sign-in-2026-07-28": signInScenarios("", "2026-07-28"),

	"relay-0.1.16":     relayScenarios("0.1.16", "2025-11-25"),
	"relay-2025-11-25": relayScenarios("", "2025-11-25"),
	"relay-2026-07-28": relayScenarios("", "2026-07-28"),

	// Not of the suite, but like it.
	"corners":           corners,
	"everything-http":   exampleServer("streamableHttp", "/mcp"),
	"everything-sse":    exampleServer("sse", "/sse"),
	"go-sdk":            goSDK,
	"typescript-client": typescript,
}

// bench is what a part needs: the program under test, the suite, and a
// directory that is gone afterwards.
type bench struct {
	program string
	suite   suite
	dir     string
	log     io.Writer
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	var err error
	switch {
	case os.Getenv(browserRole) != "" && len(os.Args) == 2:
		err = browse(ctx, os.Args[1])
	case len(os.Args) == 3 && os.Args[1] == "host":
		err = host(ctx, os.Args[2])
	default:
		err = run(ctx, os.Args[1:], os.Stdout)
	}
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out io.Writer) error {
	flags := flag.NewFlagSet("conformance", flag.ContinueOnError)
	program := flags.String("bin", "", "the mcp-clerk to test (default: built from this tree)")
	times := flags.Int("times", 1, "how often in a row each part must succeed")
	limit := flags.Duration("timeout", 20*time.Minute, "the longest that all of it may take")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() == 0 {
		return fmt.Errorf("name the parts to run: %s", strings.Join(slices.Sorted(maps.Keys(parts)), ", "))
	}
	for _, name := range flags.Args() {
		if parts[name] == nil {
			return fmt.Errorf("the suite has no part %q here", name)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, *limit)
	defer cancel()

	dir, err := os.MkdirTemp("", "conformance-")
	if err != nil {
		return fmt.Errorf("make a directory to work in: %w", err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	if *program == "" {
		*program = filepath.Join(dir, "mcp-clerk")
		build := exec.CommandContext(ctx, "go", "build", "-o", *program, "github.com/mcp-clerk/mcp-clerk/cmd/mcp-clerk") //nolint:gosec // a path of ours
		if text, err := build.CombinedOutput(); err != nil {
			return fmt.Errorf("build the program: %w\n%s", err, text)
		}
	}
	installed, err := install(ctx, out)
	if err != nil {
		return err
	}
	var faults []error
	for _, name := range slices.Repeat(flags.Args(), max(*times, 1)) {
		work, err := os.MkdirTemp(dir, name+"-")
		if err != nil {
			return fmt.Errorf("make a directory to work in: %w", err)
		}
		scenarios, err := parts[name](ctx, &bench{program: *program, suite: installed, dir: work, log: out})
		if err != nil {
			faults = append(faults, fmt.Errorf("%s: %w", name, err))
		}
		if err := judge(out, name, scenarios, knownFaults(name)); err != nil {
			faults = append(faults, err)
		}
	}
	return errors.Join(faults...)
}

//go:embed known.txt
var known string

// knownFaults returns the checks of a part that are known not to succeed.
func knownFaults(part string) map[string]bool {
	faults := map[string]bool{}
	for line := range strings.Lines(known) {
		line, _, _ = strings.Cut(line, "#")
		if words := strings.Fields(line); len(words) == 3 && words[0] == part {
			faults[words[1]+" "+words[2]] = true
		}
	}
	return faults
}

// judge prints every check and reports those that did not succeed.
func judge(out io.Writer, part string, scenarios []scenario, known map[string]bool) error {
	var faults []error
	fail := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	passed := 0
	for _, s := range scenarios {
		fmt.Fprintf(out, "%s: %s\n", part, s.Name)
		if len(s.Checks) == 0 {
			fail("%s: %q checked nothing", part, s.Name)
		}
		for _, c := range s.Checks {
			fmt.Fprintf(out, "    %-8s %s\n", c.Status, c.ID)
			key := s.Name + " " + c.ID
			switch {
			case c.Status == "SUCCESS":
				passed++
			case c.Status == "INFO": // what the suite noticed, without a verdict
			case known[key]:
				delete(known, key)
				fmt.Fprintf(out, "             known: %s\n", c.Message)
			default:
				fail("%s: %q: %s of check %q: %s", part, s.Name, c.Status, c.ID, c.Message)
			}
		}
	}
	if len(scenarios) == 0 || passed == 0 {
		fail("%s: %d scenarios with %d passed checks is not a test", part, len(scenarios), passed)
	}
	var stale []string
	for key := range known {
		stale = append(stale, key)
	}
	slices.Sort(stale)
	for _, key := range stale {
		fail("%s: %q is mended: delete its line in scripts/conformance/known.txt", part, key)
	}
	fmt.Fprintf(out, "%s: %d scenarios, %d checks passed\n", part, len(scenarios), passed)
	return errors.Join(faults...)
}
