package main

import (
	"bytes"
	"regexp"
	"strings"
	"testing"
)

const output = `goos: linux
BenchmarkCommits/1-2 	    4935	    159585 ns/op	      6266 ops/s	         1.475 syncs
BenchmarkCommits/1-2 	    4935	    159585 ns/op	      6266 ops/s	         1.1 syncs
BenchmarkCommits/1-2 	    4935	    159585 ns/op	      6266 ops/s	         1.3 syncs
BenchmarkCommits/32-2         	    6568	     35896 ns/op	     27859 ops/s	         0.2429 syncs
PASS
`

// Medians are held against the targets: met, missed, and missed by too much.
func TestReport(t *testing.T) {
	figures := make(map[string][]float64)
	collect([]byte(strings.ReplaceAll(output, "-2 ", processors()+" ")), "p", figures)
	for _, test := range []struct {
		benchmark, metric string
		target            float64
		atLeast           bool
		verdict           string
	}{
		{"BenchmarkCommits/1", "syncs", 1.3, false, "ok"},
		{"BenchmarkCommits/1", "syncs", 1.2, false, "missed"},
		{"BenchmarkCommits/1", "syncs", 0.8, false, "FAIL"},
		{"BenchmarkCommits/32", "ops/s", 10_000, true, "ok"},
		{"BenchmarkCommits/32", "ops/s", 30_000, true, "missed"},
		{"BenchmarkCommits/32", "ops/s", 50_000, true, "FAIL"},
		{"BenchmarkOther", "ops/s", 1, true, "FAIL"},
	} {
		var out bytes.Buffer
		err := report(&out, []promise{{"it", "p", test.benchmark, test.metric, test.target, test.atLeast}}, figures)
		if !strings.HasSuffix(strings.TrimSpace(out.String()), test.verdict) || (err != nil) != (test.verdict == "FAIL") {
			t.Errorf("%s %s against %v: %v\n%s", test.benchmark, test.metric, test.target, err, &out)
		}
	}
}

// What go test is told to run contains every benchmark of the table.
func TestPattern(t *testing.T) {
	names := []string{"BenchmarkStore/Get/1", "BenchmarkStore/Create/32", "BenchmarkGet"}
	levels := strings.Split(pattern(names), "/")
	for _, name := range names {
		for i, part := range strings.Split(name, "/") {
			if !regexp.MustCompile(levels[i]).MatchString(part) {
				t.Errorf("%q does not match %q of %q", levels[i], part, name)
			}
		}
	}
	if regexp.MustCompile(levels[2]).MatchString("12") {
		t.Errorf("%q matches more than it should", levels[2])
	}
}

// Benchmarks of different depths are not measured by one pattern.
func TestParts(t *testing.T) {
	var chosen []promise
	for _, name := range []string{"BenchmarkA/1", "BenchmarkB", "BenchmarkA/2", "BenchmarkC"} {
		chosen = append(chosen, promise{pkg: "p", benchmark: name})
	}
	chosen = append(chosen, promise{pkg: "q", benchmark: "BenchmarkB"})
	got := parts(chosen)
	if len(got) != 3 || len(got[0]) != 2 || len(got[1]) != 2 || len(got[2]) != 1 || got[0][1].benchmark != "BenchmarkA/2" {
		t.Errorf("parts %+v", got)
	}
}
