package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// clientPart is a part of the suite in which "mcp-clerk connect" is the client.
type clientPart struct {
	release  string            // of the suite; "" is the one that all other parts run
	revision string            // whose scenarios are run, and spoken by the host
	run      func(string) bool // which of them
}

// signInScenarios returns the part with the scenarios about signing in, and
// those that the suite lists without scoring them for extensions that connect
// has.
func signInScenarios(release, revision string) func(context.Context, *bench) ([]scenario, error) {
	p := clientPart{release: release, revision: revision, run: func(name string) bool { return strings.HasPrefix(name, "auth/") }}
	return p.scenarios
}

// notSpoken are the scenarios of extensions that connect does not speak:
// identity assertions of an enterprise, proof of possession, workload identity.
var notSpoken = []string{
	"auth/cross-app-access-complete-flow", "auth/enterprise-managed-authorization", "auth/dpop", "auth/dpop-nonce", "auth/wif-jwt-bearer",
}

// scenarios runs one scenario after the other, as a listener of one could be in
// the way of the next.
func (p clientPart) scenarios(ctx context.Context, b *bench) ([]scenario, error) {
	suite := b.suite
	if p.release != "" {
		suite = suite.at(p.release)
	}
	all, err := suite.clientScenarios(ctx)
	if err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this program: %w", err)
	}
	var found []scenario
	var faults []error
	for _, s := range all {
		revision := s.revision(p.revision)
		if revision == "" || !p.run(s.name) || slices.Contains(notSpoken, s.name) {
			continue
		}
		dir := filepath.Join(b.dir, strings.ReplaceAll(s.name, "/", "-"))
		args := []string{"client", "--command", quoted(self) + " host", "--scenario", s.name, "--output-dir", filepath.Join(dir, "results"), "--timeout", "60000"}
		if revision != extension {
			args = append(args, "--spec-version", revision)
		}
		cmd := suite.command(ctx, args...)
		spoken := revision
		if revision == extension || revision == draft {
			spoken = p.revision
		}
		cmd.Env = append(os.Environ(), hostProgram+"="+b.program, hostState+"="+filepath.Join(dir, "state"), hostRevision+"="+spoken)
		text, err := cmd.CombinedOutput()
		if err != nil {
			faults = append(faults, fmt.Errorf("%s: %w\n%s", s.name, err, text))
		}
		results, err := results(filepath.Join(dir, "results"), []string{resultName(s.name)})
		if err != nil {
			faults = append(faults, fmt.Errorf("%s: %w", s.name, err))
			continue
		}
		for _, r := range results {
			found = append(found, scenario{Name: s.name, Checks: r.Checks})
		}
	}
	return found, errors.Join(faults...)
}

// resultName is what the suite calls the directory of a scenario's results.
func resultName(name string) string { return name[strings.LastIndex(name, "/")+1:] }

// quoted makes one word of path for the shell that the suite runs commands by.
func quoted(path string) string { return "'" + strings.ReplaceAll(path, "'", `'\''`) + "'" }
