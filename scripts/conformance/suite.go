package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

var (
	//go:embed package.json
	manifest []byte
	//go:embed package-lock.json
	lock []byte
)

// suite is the installed suite.
type suite struct {
	node  string // the program
	entry string // the suite's script
}

// scenario is one scenario as the suite reports it.
type scenario struct {
	Name   string
	Checks []check
}

type check struct {
	ID      string `json:"id"`
	Status  string `json:"status"` // SUCCESS, FAILURE, WARNING, SKIPPED or INFO
	Message string `json:"errorMessage"`
}

// install returns the suite from the cache directory and puts it there first
// if need be. Several runs at once do not harm each other: each installs into
// a directory of its own, and one of them gets the final name.
func install(ctx context.Context, log io.Writer) (suite, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return suite{}, fmt.Errorf("find the cache directory: %w", err)
	}
	sum := sha256.Sum256(append(slices.Clone(manifest), lock...))
	root := filepath.Join(cache, "mcp-clerk-conformance")
	dir := filepath.Join(root, hex.EncodeToString(sum[:8]))
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		fmt.Fprintf(log, "installing the suite into %q\n", dir)
		if err := fill(ctx, root, dir); err != nil {
			return suite{}, fmt.Errorf("install the suite: %w", err)
		}
	} else if err != nil {
		return suite{}, fmt.Errorf("look for the suite: %w", err)
	}
	s := suite{entry: filepath.Join(dir, "node_modules", "@modelcontextprotocol", "conformance", "dist", "index.js")}
	// Not by way of node_modules/.bin: some versions of npm link no program
	// there that is called "node".
	locked, err := filepath.Glob(filepath.Join(dir, "node_modules", "node-*", "bin", "node"))
	if err != nil {
		return suite{}, fmt.Errorf("look for the suite: %w", err)
	}
	s.node, err = findNode(ctx, append(locked, "node"))
	return s, err
}

func fill(ctx context.Context, root, dir string) error {
	if err := os.MkdirAll(root, 0o755); err != nil {
		return err
	}
	fresh, err := os.MkdirTemp(root, "installing-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(fresh) }()
	for name, data := range map[string][]byte{"package.json": manifest, "package-lock.json": lock} {
		if err := os.WriteFile(filepath.Join(fresh, name), data, 0o644); err != nil {
			return err
		}
	}
	// "ci" installs what the lock says or nothing.
	npm := exec.CommandContext(ctx, "npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error")
	npm.Dir = fresh
	if text, err := npm.CombinedOutput(); err != nil {
		return fmt.Errorf("npm ci: %w\n%s", err, text)
	}
	if err := os.Rename(fresh, dir); err != nil {
		if _, there := os.Stat(dir); there != nil {
			return err
		}
	}
	return nil
}

// findNode returns the first of programs that is new enough: the Node of the
// lock or, where that has none for this platform, the machine's own.
func findNode(ctx context.Context, programs []string) (string, error) {
	const oldest = 22
	for _, path := range programs {
		path, err := exec.LookPath(path)
		if err != nil {
			continue
		}
		text, err := exec.CommandContext(ctx, path, "--version").Output() //nolint:gosec // Node, from where npm puts it
		if err != nil {
			return "", fmt.Errorf("ask %q for its version: %w", path, err)
		}
		major, _, _ := strings.Cut(strings.TrimPrefix(strings.TrimSpace(string(text)), "v"), ".")
		if n, err := strconv.Atoi(major); err == nil && n >= oldest {
			return path, nil
		}
	}
	return "", fmt.Errorf("the suite needs Node %d or newer", oldest)
}

// command prepares a command of the suite. It ends with ctx.
func (s suite) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, s.node, append([]string{s.entry}, args...)...) //nolint:gosec // to run it is the point
	cmd.WaitDelay = 5 * time.Second
	return cmd
}

// scenarios asks the suite for the names of a part's scenarios.
func (s suite) scenarios(ctx context.Context, part string) ([]string, error) {
	text, err := s.command(ctx, "list", "--"+part).Output()
	if err != nil {
		return nil, fmt.Errorf("list the scenarios: %w", err)
	}
	var names []string
	for line := range strings.Lines(string(text)) {
		if item, ok := strings.CutPrefix(strings.TrimSpace(line), "- "); ok {
			name, _, _ := strings.Cut(item, " ")
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return nil, fmt.Errorf("the suite lists no scenario: %q", text)
	}
	return names, nil
}

// at is another release of the suite, installed beside this one.
func (s suite) at(release string) suite {
	return suite{node: s.node, entry: filepath.Join(s.modules(), "conformance-"+release, "dist", "index.js")}
}

// modules is the directory of all that was installed.
func (s suite) modules() string {
	return filepath.Dir(filepath.Dir(filepath.Dir(filepath.Dir(s.entry))))
}

// clientScenario is a scenario for clients, with the revisions it is about.
type clientScenario struct {
	name      string
	revisions []string
}

// What the suite writes in place of a revision.
const (
	extension = "extension"
	draft     = "draft"
)

// revision is the one to run the scenario at for a client of the given one, ""
// where it is not about that. Extensions, drafts and the revision that had no
// resource metadata are tried with servers that have sessions.
func (s clientScenario) revision(of string) string {
	for _, r := range s.revisions {
		if r == of || of == "2025-11-25" && (r == extension || r == draft || r == "2025-03-26") {
			return r
		}
	}
	return ""
}

// clientScenarios asks the suite for its scenarios for clients.
func (s suite) clientScenarios(ctx context.Context) ([]clientScenario, error) {
	text, err := s.command(ctx, "list", "--client").Output()
	if err != nil {
		return nil, fmt.Errorf("list the scenarios: %w", err)
	}
	var all []clientScenario
	for line := range strings.Lines(string(text)) {
		item, ok := strings.CutPrefix(strings.TrimSpace(line), "- ")
		if name, revisions, found := strings.Cut(strings.TrimSuffix(item, "]"), " ["); ok && found {
			all = append(all, clientScenario{name: name, revisions: strings.Split(revisions, ",")})
		}
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("the suite lists no scenario for clients: %q", text)
	}
	return all, nil
}

// required returns the server scenarios that a revision requires, and those
// that it lists without scoring them, by the file that the suite reads for
// --requirements.
func (s suite) required(revision string) ([]string, error) {
	data, err := os.ReadFile(filepath.Join(filepath.Dir(s.entry), "..", "requirements", revision+".yaml"))
	if err != nil {
		return nil, fmt.Errorf("read the requirements: %w", err)
	}
	var names []string
	section, unscored := "", ""
	for line := range strings.Lines(string(data)) {
		line = strings.TrimRight(line, "\r\n")
		switch {
		case line != "" && line[0] != ' ' && line[0] != '#':
			section = line
		case section == "server:" && strings.HasPrefix(line, "  - "):
			names = append(names, strings.TrimSpace(line[len("  - "):]))
		case section == "not_scored:" && strings.HasPrefix(line, "  - scenario: "):
			unscored = strings.TrimSpace(line[len("  - scenario: "):])
		case section == "not_scored:" && strings.TrimSpace(line) == "leg: server":
			names = append(names, unscored)
		}
	}
	if len(names) == 0 {
		return nil, fmt.Errorf("the requirements of %s name no server scenario", revision)
	}
	return names, nil
}

// results reads what the suite wrote below dir, a directory for each scenario
// with the scenario's name in its own, and reports any of names that is not
// there.
func results(dir string, names []string) ([]scenario, error) {
	var found []scenario
	root := os.DirFS(dir)
	err := fs.WalkDir(root, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.Name() != "checks.json" {
			return err
		}
		data, err := fs.ReadFile(root, path)
		if err != nil {
			return err
		}
		at := filepath.ToSlash(filepath.Dir(path))
		name := at
		for _, n := range names { // the longest that fits
			if strings.Contains(at, n) && (name == at || len(n) > len(name)) {
				name = n
			}
		}
		s := scenario{Name: name}
		if err := json.NewDecoder(bytes.NewReader(data)).Decode(&s.Checks); err != nil {
			return fmt.Errorf("read %q: %w", path, err)
		}
		found = append(found, s)
		return nil
	})
	if err != nil {
		return found, fmt.Errorf("read the results: %w", err)
	}
	for _, n := range names {
		if !slices.ContainsFunc(found, func(s scenario) bool { return s.Name == n }) {
			err = errors.Join(err, fmt.Errorf("scenario %q left no result", n))
		}
	}
	return found, err
}
