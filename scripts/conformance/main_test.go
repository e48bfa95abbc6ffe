package main

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// What the suite says decides; only success, and what is known, passes.
func TestJudgeFailsOnEverythingButSuccess(t *testing.T) {
	one := func(status string) []scenario {
		return []scenario{{"s", []check{{ID: "good", Status: "SUCCESS"}, {ID: "c", Status: status, Message: "why"}}}}
	}
	tests := []struct {
		name      string
		scenarios []scenario
		known     string
		want      string // part of the error; empty: none
	}{
		{"success", one("SUCCESS"), "", ""},
		{"information", one("INFO"), "", ""},
		{"a failure", one("FAILURE"), "", `FAILURE of check "c": why`},
		{"a warning", one("WARNING"), "", `WARNING of check "c": why`},
		{"a check that was skipped", one("SKIPPED"), "", `SKIPPED of check "c"`},
		{"a status of the future", one("BROKEN"), "", `BROKEN of check "c"`},
		{"a known fault", one("WARNING"), "s c", ""},
		{"a known fault elsewhere", one("WARNING"), "other c", `WARNING of check "c"`},
		{"a known fault that is mended", one("SUCCESS"), "s c", "is mended"},
		{"no scenario", nil, "", "0 scenarios"},
		{"a scenario without a check", append(one("SUCCESS"), scenario{Name: "empty"}), "", `"empty" checked nothing`},
		{"nothing that passed", []scenario{{"s", []check{{ID: "c", Status: "INFO"}}}}, "", "0 passed checks"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			known := map[string]bool{}
			if tt.known != "" {
				known[tt.known] = true
			}
			err := judge(io.Discard, "part", tt.scenarios, known)
			switch {
			case tt.want == "" && err != nil:
				t.Errorf("judge: %v", err)
			case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
				t.Errorf("judge: %v, want an error with %q", err, tt.want)
			}
		})
	}
}

// A scenario that left no result must not pass for one that ran.
func TestResultsMissNoScenario(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"authorization-code-grant-2026-11-25T10-00-00":      `[{"id":"a","status":"SUCCESS"}]`,
		"authorization-code-grant-more-2026-11-25T10-00-00": `[{"id":"b","status":"WARNING","errorMessage":"m"}]`,
	} {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name, "checks.json"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	names := []string{"authorization-code-grant", "authorization-code-grant-more"}
	found, err := results(dir, names)
	if err != nil || len(found) != 2 || found[0].Name != names[0] || found[1].Name != names[1] || found[1].Checks[0].Message != "m" {
		t.Errorf("results = %+v, %v", found, err)
	}
	if _, err := results(dir, append(names, "another")); err == nil || !strings.Contains(err.Error(), `"another" left no result`) {
		t.Errorf("results with a scenario that did not run: %v", err)
	}
}
