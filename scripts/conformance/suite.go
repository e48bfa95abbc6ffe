package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// packages says what comes from npm: a directory for each set.
//
//go:embed package.json package-lock.json */package.json */package-lock.json
var packages embed.FS

// suite is an installed set of packages.
type suite struct {
	node  string // the program
	dir   string // where node_modules is
	entry string // the script of the suite, if it is one
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

// install returns a set of packages from the cache directory and puts it there
// first if need be. Several runs at once do not harm each other: each installs into
// a directory of its own, and one of them gets the final name.
func install(ctx context.Context, log io.Writer, set string) (suite, error) {
	files, err := filesOf(set)
	if err != nil {
		return suite{}, err
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return suite{}, fmt.Errorf("find the cache directory: %w", err)
	}
	sum := sha256.New()
	for _, name := range slices.Sorted(maps.Keys(files)) {
		_, _ = sum.Write(files[name]) // a hash never fails
	}
	root := filepath.Join(cache, "mcp-clerk-conformance")
	dir := filepath.Join(root, hex.EncodeToString(sum.Sum(nil)[:8]))
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		fmt.Fprintf(log, "installing into %q\n", dir)
		if err := fill(ctx, root, dir, files); err != nil {
			return suite{}, fmt.Errorf("install: %w", err)
		}
	} else if err != nil {
		return suite{}, fmt.Errorf("look for the suite: %w", err)
	}
	s := suite{dir: dir, entry: filepath.Join(dir, "node_modules", "@modelcontextprotocol", "conformance", "dist", "index.js")}
	// Not by way of node_modules/.bin: some versions of npm link no program
	// there that is called "node".
	locked, err := filepath.Glob(filepath.Join(dir, "node_modules", "node-*", "bin", "node"))
	if err != nil {
		return suite{}, fmt.Errorf("look for the suite: %w", err)
	}
	s.node, err = findNode(ctx, append(locked, "node"))
	return s, err
}

// filesOf reads the files of a set of packages.
func filesOf(set string) (map[string][]byte, error) {
	files := map[string][]byte{}
	for _, name := range []string{"package.json", "package-lock.json"} {
		data, err := packages.ReadFile(path.Join(set, name))
		if err != nil {
			return nil, fmt.Errorf("read the packages of %q: %w", set, err)
		}
		files[name] = data
	}
	return files, nil
}

func fill(ctx context.Context, root, dir string, files map[string][]byte) error {
	if err := os.MkdirAll(root, 0o755); err != nil {
		return err
	}
	fresh, err := os.MkdirTemp(root, "installing-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(fresh) }()
	for name, data := range files {
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
	for _, program := range programs {
		path, err := exec.LookPath(program)
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
