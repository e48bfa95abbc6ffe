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
	hosts    []string          // the revisions that hosts speak, one after the other; none: the scenarios' own
}

// signInScenarios returns the part with the scenarios about signing in, and
// those that the suite lists without scoring them for extensions that connect
// has.
func signInScenarios(release, revision string) func(context.Context, *bench) ([]scenario, error) {
	p := clientPart{release: release, revision: revision, run: func(name string) bool { return strings.HasPrefix(name, "auth/") }}
	return p.scenarios
}

// relayScenarios returns the part with all other scenarios, each with a host of
// either era: connect translates. What a host makes of skills (SEP-2640) is not
// connect's business.
func relayScenarios(release, revision string) func(context.Context, *bench) ([]scenario, error) {
	p := clientPart{release: release, revision: revision, hosts: []string{"2025-11-25", modernRevision}, run: func(name string) bool {
		return !strings.HasPrefix(name, "auth/") && !strings.HasPrefix(name, "sep-2640-")
	}}
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
		spoken := revision
		if revision == extension || revision == draft {
			spoken = p.revision
		}
		if p.hosts == nil {
			results, err := runScenario(ctx, b, suite, self, s.name, revision, spoken)
			found, faults = append(found, results...), append(faults, err)
			continue
		}
		for _, host := range p.hosts {
			results, err := runScenario(ctx, b, suite, self, s.name, revision, host)
			for i := range results {
				results[i].Name += "/host-" + host
				results[i].Checks = slices.DeleteFunc(results[i].Checks, handshakeSkipped)
			}
			found, faults = append(found, results...), append(faults, err)
		}
	}
	return found, errors.Join(faults...)
}

// handshakeSkipped reports whether a check was skipped for want of a message that
// no server of its era gets from connect: between a host and a modern server
// there is at most one initialize, and no initialized.
func handshakeSkipped(c check) bool {
	return c.Status == "SKIPPED" && (strings.Contains(c.Message, " initialize request;") || strings.Contains(c.Message, " notifications/initialized request;"))
}

// runScenario runs one scenario, with a host that speaks a revision.
func runScenario(ctx context.Context, b *bench, suite suite, self, name, revision, spoken string) ([]scenario, error) {
	dir := filepath.Join(b.dir, strings.ReplaceAll(name, "/", "-")+"-"+spoken)
	args := []string{"client", "--command", quoted(self) + " host", "--scenario", name, "--output-dir", filepath.Join(dir, "results"), "--timeout", "60000"}
	if revision != extension {
		args = append(args, "--spec-version", revision)
	}
	cmd := suite.command(ctx, args...)
	cmd.Env = append(os.Environ(), hostProgram+"="+b.program, hostState+"="+filepath.Join(dir, "state"), hostRevision+"="+spoken)
	text, exit := cmd.CombinedOutput()
	found, err := results(filepath.Join(dir, "results"), []string{resultName(name)})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w\n%s", name, err, text), exit)
	}
	failed := false
	for i := range found {
		found[i].Name = name
		failed = failed || slices.ContainsFunc(found[i].Checks, func(c check) bool { return c.Status == "FAILURE" || c.Status == "WARNING" })
	}
	// What failed is judged check by check; but the host must not fail.
	if exit != nil && (!failed || strings.Contains(string(text), "CLIENT EXITED WITH ERROR")) {
		return found, fmt.Errorf("%s: %w\n%s", name, exit, text)
	}
	return found, nil
}

// resultName is what the suite calls the directory of a scenario's results.
func resultName(name string) string { return name[strings.LastIndex(name, "/")+1:] }

// quoted makes one word of path for the shell that the suite runs commands by.
func quoted(path string) string { return "'" + strings.ReplaceAll(path, "'", `'\''`) + "'" }
