package main

import (
	"strings"
	"testing"
)

const sample = "# a comment\n== 1 first\nin internal/a/b.go\n-\tif bad {\n+\tif false {\n \t\treturn\n\n" +
	"== 2 second\nin internal/a/b.go\nby TestX|TestY of server\n-\tcheck()\n"

func TestParseReadsEntries(t *testing.T) {
	got, err := parse(sample)
	want := []guard{
		{"1 first", "internal/a/b.go", "internal/a", "", "\tif bad {\n\t\treturn\n", "\tif false {\n\t\treturn\n"},
		{"2 second", "internal/a/b.go", "server", "TestX|TestY", "\tcheck()\n", ""},
	}
	if err != nil || len(got) != 2 || got[0] != want[0] || got[1] != want[1] {
		t.Errorf("parse = %+v, %v\nwant %+v", got, err, want)
	}
}

// An entry that is misread would be a guard that nobody tests.
func TestParseRefuses(t *testing.T) {
	for name, text := range map[string]string{
		"a change without entry":  "-x\n",
		"no file":                 "== 1 a\n-x\n",
		"no change":               "== 1 a\nin b.go\n x\n",
		"nothing to find":         "== 1 a\nin b.go\n+x\n",
		"an unknown line":         "== 1 a\nin b.go\nbecause\n-x\n",
		"an entry that came once": "== 1 a\nin b.go\n-x\n== 1 a\nin b.go\n-y\n",
	} {
		if got, err := parse(text); err == nil {
			t.Errorf("%s: parse = %+v", name, got)
		}
	}
}

func TestApplyWantsItsTextOnceAsWholeLines(t *testing.T) {
	g := guard{file: "b.go", old: "\tcheck()\n"}
	tests := []struct{ name, source, want string }{
		{"once", "a\n\tcheck()\nb\n", "a\nb\n"},
		{"at the beginning", "\tcheck()\nb\n", "b\n"},
		{"not there", "a\n", ""},
		{"twice", "\tcheck()\n\tcheck()\n", ""},
		{"in the middle of a line", "a\n\t\tcheck()\n", ""},
	}
	for _, tt := range tests {
		got, err := g.apply(tt.source)
		if tt.want == "" && (err == nil || !strings.Contains(err.Error(), "want 1")) || tt.want != "" && (err != nil || got != tt.want) {
			t.Errorf("%s: apply = %q, %v, want %q", tt.name, got, err, tt.want)
		}
	}
}

func TestFirstFailureIsTheInnermost(t *testing.T) {
	for said, want := range map[string]string{
		"--- FAIL: TestA (0.00s)\n    --- FAIL: TestA/b (0.00s)\n--- FAIL: TestC (0.00s)\n": "TestA/b",
		"panic: test timed out after 1m0s\n":                                                "panic: test timed out after 1m0s",
		"FAIL\n":                                                                            "",
	} {
		if got := firstFailure([]byte(said)); got != want {
			t.Errorf("firstFailure(%q) = %q, want %q", said, got, want)
		}
	}
}

// The list that is run is one that can be read.
func TestGuardsCanBeRead(t *testing.T) {
	guards, err := parse(list)
	if err != nil || len(guards) == 0 {
		t.Errorf("guards.txt: %d entries, %v", len(guards), err)
	}
}
