// Command bench measures what the project promises of its speed and fails where
// it is one and a half times worse than promised: less would tell more of the
// machine than of the change.
//
//	go run ./scripts/bench             everything
//	go run ./scripts/bench -run redis  what the expression matches
//
// The promises are the table below. Each is a metric of a Go benchmark, whose
// package it runs several times, taking the median; those that compare with the
// disk, a driver or a bare server measure both sides in turn in one run. Run it
// on a machine that has nothing else to do.
package main

import (
	"bufio"
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
)

// slack is how many times worse than its target a figure may be.
const slack = 1.5

// promise is a figure that a benchmark reports, and what it should be.
type promise struct {
	what      string
	pkg       string
	benchmark string  // its whole name, without the number of processors
	metric    string  // as the benchmark reports it
	target    float64 // 0: none, the figure is there to compare with
	atLeast   bool    // the target is a least, not a most
}

var promises = []promise{
	{"embedded store: durable commits a second, 32 in flight", "./internal/store", "BenchmarkCommits/32", "ops/s", 10_000, true},
	{"embedded store: a lone commit, in syncs of the disk", "./internal/store", "BenchmarkCommits/1", "syncs", 1.2, false},
	{"authorization server: checking an access token, ns", "./internal/authserver", "BenchmarkVerify", "ns/op", 2000, false},
	{"authorization server: checking an access token, allocations", "./internal/authserver", "BenchmarkVerify", "allocs/op", 5, false},
	{"authorization server: a complete flow, ns", "./internal/authserver", "BenchmarkFlow", "ns/op", 3e6, false},
	{"authorization server: durable refreshes a second, 32 in flight", "./internal/authserver", "BenchmarkRefreshDurable", "refreshes/s", 3000, true},
	{"MCP calls, sessions, 8 connections: of the rate of a bare handler", "./server", "BenchmarkCallRate/legacy/8", "of-bare", 0.65, true},
	{"MCP calls, sessions, 8 connections: times the rate of mcp-go's server", "./server", "BenchmarkCallRate/legacy/8", "times-mcp-go", 1.2, true},
	{"MCP calls, sessions, 8 connections: 99th percentile, in that of mcp-go's server", "./server", "BenchmarkCallRate/legacy/8", "p99-of-mcp-go", 1, false},
	{"MCP calls, sessions, 64 connections: of the rate of a bare handler", "./server", "BenchmarkCallRate/legacy/64", "of-bare", 0.65, true},
	{"MCP calls, sessions, 64 connections: times the rate of mcp-go's server", "./server", "BenchmarkCallRate/legacy/64", "times-mcp-go", 1.2, true},
	{"MCP calls, sessions, 64 connections: 99th percentile, in that of mcp-go's server", "./server", "BenchmarkCallRate/legacy/64", "p99-of-mcp-go", 1, false},
	{"MCP calls, stateless, 8 connections: of the rate of a bare handler", "./server", "BenchmarkCallRate/modern/8", "of-bare", 0.5, true},
	{"MCP calls, stateless, 8 connections: times the rate of mcp-go's server", "./server", "BenchmarkCallRate/modern/8", "times-mcp-go", 1.6, true},
	{"MCP calls, stateless, 8 connections: 99th percentile, in that of mcp-go's server", "./server", "BenchmarkCallRate/modern/8", "p99-of-mcp-go", 1, false},
	{"MCP calls, stateless, 64 connections: of the rate of a bare handler", "./server", "BenchmarkCallRate/modern/64", "of-bare", 0.5, true},
	{"MCP calls, stateless, 64 connections: times the rate of mcp-go's server", "./server", "BenchmarkCallRate/modern/64", "times-mcp-go", 1.6, true},
	{"MCP calls, stateless, 64 connections: 99th percentile, in that of mcp-go's server", "./server", "BenchmarkCallRate/modern/64", "p99-of-mcp-go", 1, false},
	{"MCP call in a session: allocations", "./server", "BenchmarkCallCost/legacy/ours", "allocs/op", 140, false},
	{"MCP call in a session: bytes allocated", "./server", "BenchmarkCallCost/legacy/ours", "B/op", 12 << 10, false},
	{"MCP session without a stream, bytes", "./server", "BenchmarkSession", "B/session", 1 << 10, false},
	{"10,000 open MCP streams, MB resident", "./server", "BenchmarkOpenStreams", "MB", 450, false},
	{"MCP calls while 10,000 slow clients hold on, 99th percentile, in that before", "./server", "BenchmarkSlowClients", "times-before", 2, false},
	{"Redis: get, in round trips", "./internal/store/redis", "BenchmarkStore/Get/1", "roundtrips", 1.5, false},
	{"Redis: update, in round trips", "./internal/store/redis", "BenchmarkStore/Update/1", "roundtrips", 1.5, false},
	{"Redis: create, in round trips", "./internal/store/redis", "BenchmarkStore/Create/1", "roundtrips", 1.5, false},
	{"Redis: take, in round trips", "./internal/store/redis", "BenchmarkStore/Take/1", "roundtrips", 1.5, false},
	{"Redis: list of one user, in round trips", "./internal/store/redis", "BenchmarkStore/List/1", "roundtrips", 1.5, false},
	{"PostgreSQL: get, in round trips", "./internal/store/postgres", "BenchmarkStore/Get/1", "roundtrips", 1.5, false},
	{"PostgreSQL: update, in round trips", "./internal/store/postgres", "BenchmarkStore/Update/1", "roundtrips", 1.5, false},
	{"PostgreSQL: create, in round trips", "./internal/store/postgres", "BenchmarkStore/Create/1", "roundtrips", 1.5, false},
	{"PostgreSQL: take, in round trips", "./internal/store/postgres", "BenchmarkStore/Take/1", "roundtrips", 1.5, false},
	{"PostgreSQL: list of one user, in round trips", "./internal/store/postgres", "BenchmarkStore/List/1", "roundtrips", 1.5, false},
	{"relay: start to initialize answered, over the server's own answer, ms", relay, "BenchmarkConnectStart", "over-ms", 15, false},
	{"relay: start to initialize answered, ms", relay, "BenchmarkConnectStart", "start-ms", 0, false},
	{"relay: start to initialize answered by mcp-remote, ms", relay, "BenchmarkConnectStart", "mcp-remote-start-ms", 0, false},
	{"relay: initialisation of all packages, ms", relay, "BenchmarkConnectInit", "init-ms", 0, false},
	{"relay: added to each of sequential calls, ms", relay, "BenchmarkConnectCall", "added-ms", 0.10, false},
	{"relay: added to each of sequential calls by mcp-remote, ms", relay, "BenchmarkConnectCall", "mcp-remote-added-ms", 0, false},
	{"relay: calls a second with 32 in flight, of direct HTTP's", relay, "BenchmarkConnectThroughput", "of-direct", 0.65, true},
	{"relay: calls a second with 32 in flight", relay, "BenchmarkConnectThroughput", "calls/s", 0, true},
	{"relay: calls a second of mcp-remote, of direct HTTP's", relay, "BenchmarkConnectThroughput", "mcp-remote-of-direct", 0, true},
	{"relay: peak memory idle, MiB", relay, "BenchmarkConnectMemory", "idle-MiB", 20, false},
	{"relay: peak memory after load, MiB", relay, "BenchmarkConnectThroughput", "loaded-MiB", 28, false},
	{"relay: peak memory of mcp-remote after load, MiB", relay, "BenchmarkConnectThroughput", "mcp-remote-loaded-MiB", 0, false},
	{"relay: peak memory with a result of 100 MB, MiB", relay, "BenchmarkConnectMemory", "large-MiB", 40, false},
	{"relay: end of input to exit, ms", relay, "BenchmarkConnectMemory", "exit-ms", 10, false},
	{"relay: memory that the second half of 400,000 messages takes, MiB", relay, "BenchmarkConnectMillion", "grown-MiB", 2, false},
}

const relay = "./cmd/mcp-clerk"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out io.Writer) error {
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	match := flags.String("run", "", "measure what this regular expression matches, without regard to case")
	count := flags.Int("count", 5, "how often each is measured; the median counts")
	duration := flags.Duration("time", 0, "how long each takes; 0: as long as go test has it")
	if err := flags.Parse(args); err != nil {
		return err
	}
	expression, err := regexp.Compile("(?i)" + *match)
	if err != nil {
		return fmt.Errorf("-run: %w", err)
	}
	var chosen []promise
	for _, p := range promises {
		if expression.MatchString(p.what) {
			chosen = append(chosen, p)
		}
	}
	if len(chosen) == 0 {
		return fmt.Errorf("-run %q matches none of %d figures", *match, len(promises))
	}
	if slices.ContainsFunc(chosen, func(p promise) bool { return p.pkg == relay }) {
		remove, err := installRemote(ctx)
		if err != nil {
			fmt.Fprintln(os.Stderr, "mcp-remote is not measured:", err)
		}
		defer remove()
	}
	figures := make(map[string][]float64) // by benchmark and metric
	for _, part := range parts(chosen) {
		pkg, names := part[0].pkg, []string{}
		for _, p := range part {
			names = append(names, p.benchmark)
		}
		fmt.Fprintf(os.Stderr, "measuring %s\n", pkg)
		arguments := []string{"test", "-run", "^$", "-bench", pattern(names), "-count", strconv.Itoa(*count)}
		if *duration > 0 {
			arguments = append(arguments, "-benchtime", duration.String())
		}
		cmd := exec.CommandContext(ctx, "go", append(arguments, pkg)...) //nolint:gosec // the table's packages
		cmd.Stderr = os.Stderr
		output, err := cmd.Output()
		if err != nil {
			return fmt.Errorf("benchmarks of %s: %w\n%s", pkg, err, output)
		}
		collect(output, pkg, figures)
	}
	return report(out, chosen, figures)
}

// parts are the promises that one go test can measure: of one package, with
// names of the same number of levels, since a pattern of more levels than a
// benchmark has does not measure it.
func parts(chosen []promise) (parts [][]promise) {
	one := func(a, b promise) bool {
		return a.pkg == b.pkg && strings.Count(a.benchmark, "/") == strings.Count(b.benchmark, "/")
	}
	for _, p := range chosen {
		if i := slices.IndexFunc(parts, func(part []promise) bool { return one(part[0], p) }); i >= 0 {
			parts[i] = append(parts[i], p)
		} else {
			parts = append(parts, []promise{p})
		}
	}
	return parts
}

// installRemote installs mcp-remote where npm can, and tells the benchmarks
// where it is.
func installRemote(ctx context.Context) (remove func(), err error) {
	const version = "0.15.1"
	dir, err := os.MkdirTemp("", "mcp-remote-")
	if err != nil {
		return func() {}, err
	}
	remove = func() { _ = os.RemoveAll(dir) }
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	//nolint:gosec // npm, and a directory of our own
	if out, err := exec.CommandContext(ctx, "npm", "install", "--prefix", dir, "--no-audit", "--no-fund", "--ignore-scripts", "mcp-remote@"+version).CombinedOutput(); err != nil {
		return remove, fmt.Errorf("npm install: %w\n%s", err, out)
	}
	return remove, os.Setenv("MCP_REMOTE", filepath.Join(dir, "node_modules", "mcp-remote", "dist", "proxy.js"))
}

// pattern is what go test takes to run the benchmarks of these names, and with
// them at most others whose names are made of the same parts.
func pattern(names []string) string {
	var levels [][]string
	for _, name := range names {
		for i, part := range strings.Split(name, "/") {
			if i == len(levels) {
				levels = append(levels, nil)
			}
			if quoted := regexp.QuoteMeta(part); !slices.Contains(levels[i], quoted) {
				levels[i] = append(levels[i], quoted)
			}
		}
	}
	parts := make([]string, len(levels))
	for i, level := range levels {
		parts[i] = "^(" + strings.Join(level, "|") + ")$"
	}
	return strings.Join(parts, "/")
}

// collect reads what go test prints of benchmarks.
func collect(output []byte, pkg string, figures map[string][]float64) {
	lines := bufio.NewScanner(bytes.NewReader(output))
	suffix := processors()
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 4 || !strings.HasPrefix(fields[0], "Benchmark") {
			continue
		}
		name := strings.TrimSuffix(fields[0], suffix)
		for i := 2; i+1 < len(fields); i += 2 {
			if value, err := strconv.ParseFloat(fields[i], 64); err == nil {
				key := figure(pkg, name, fields[i+1])
				figures[key] = append(figures[key], value)
			}
		}
	}
}

// processors is what go test adds to the name of a benchmark.
func processors() string {
	if n := runtime.GOMAXPROCS(0); n > 1 {
		return fmt.Sprint("-", n)
	}
	return ""
}

func figure(pkg, benchmark, metric string) string { return pkg + " " + benchmark + " " + metric }

// report prints every figure with its target, and fails for those that are far
// from it or were not measured.
func report(out io.Writer, chosen []promise, figures map[string][]float64) error {
	table := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(table, "what\tmeasured\tlowest\thighest\ttarget\t")
	failed := 0
	for _, p := range chosen {
		values := slices.Sorted(slices.Values(figures[figure(p.pkg, p.benchmark, p.metric)]))
		if len(values) == 0 && p.target == 0 {
			continue
		}
		if len(values) == 0 {
			failed++
			fmt.Fprintf(table, "%s\tnot measured\t\t\t\tFAIL\n", p.what)
			continue
		}
		median := values[len(values)/2]
		verdict := p.verdict(median)
		if verdict == "FAIL" {
			failed++
		}
		if p.target == 0 {
			fmt.Fprintf(table, "%s\t%.4g\t%.4g\t%.4g\t\t\n", p.what, median, values[0], values[len(values)-1])
			continue
		}
		sign := "at most"
		if p.atLeast {
			sign = "at least"
		}
		fmt.Fprintf(table, "%s\t%.4g\t%.4g\t%.4g\t%s %.4g\t%s\n", p.what, median, values[0], values[len(values)-1], sign, p.target, verdict)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	if failed > 0 {
		return fmt.Errorf("%d of %d figures are more than %v times worse than their target", failed, len(chosen), slack)
	}
	return nil
}

func (p promise) verdict(median float64) string {
	if p.target == 0 {
		return ""
	}
	worse := median / p.target
	if p.atLeast {
		worse = p.target / median
	}
	switch {
	case worse > slack:
		return "FAIL"
	case worse > 1:
		return "missed"
	}
	return "ok"
}
