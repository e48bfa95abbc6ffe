// Package internal_test holds the tests that look at the whole source tree:
// which room may import which.
package internal_test

import (
	"fmt"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const module = "github.com/mcp-clerk/mcp-clerk"

// A room is a package together with the packages below it. Its imports are
// the other rooms it may use; "*" stands for all of them.
type room struct {
	path    string
	imports []string
}

// The rooms, in the order of the table in docs/architecture.md, which a test
// below keeps equal to this one.
var rooms = []room{
	{"cmd/mcp-clerk", []string{"*"}},
	{"server", []string{"authserver", "clerk", "mcphttp", "gateway", "store", "tools", "telemetry"}},
	{"internal/identity", nil},
	{"internal/secret", nil},
	{"internal/jsonrpc", nil},
	{"internal/era", []string{"jsonrpc"}},
	{"internal/transport", []string{"jsonrpc"}},
	{"internal/bridge", []string{"jsonrpc", "era", "transport"}},
	{"internal/oauthclient", nil},
	{"internal/credstore", nil},
	{"internal/mcphttp", []string{"jsonrpc"}},
	{"internal/authserver", []string{"store"}},
	{"internal/clerk", nil},
	{"internal/devclerk", nil},
	{"internal/store", nil},
	{"internal/tools", []string{"jsonrpc"}},
	{"internal/gateway", []string{"jsonrpc", "era", "transport", "mcphttp"}},
	{"internal/telemetry", nil},
	{"scripts", []string{"*"}},
	{"docs/examples", []string{"server"}},
}

// values are the rooms that hold plain values: every other room may import
// them, and they import no room.
var values = []string{"internal/identity", "internal/secret"}

// owners names the only rooms that may import a module or package of others,
// or anything below it.
var owners = []struct {
	path  string
	rooms []string
}{
	{"github.com/clerk/clerk-sdk-go", []string{"internal/clerk"}},
	{"github.com/mark3labs/mcp-go/server", []string{"server"}},
	{"github.com/mark3labs/mcp-go/client", nil},
	{"github.com/zalando/go-keyring", []string{"internal/credstore"}},
	{"go.etcd.io/bbolt", []string{"internal/store"}},
	{"github.com/redis/go-redis", []string{"internal/store"}},
	{"github.com/jackc/pgx", []string{"internal/store"}},
}

// junk are package names that say nothing about what is inside.
var junk = []string{"pkg", "util", "utils", "common", "helpers", "types", "config", "mocks"}

func TestImportsFollowTheRooms(t *testing.T) {
	pkgs := sourceTree(t)
	for _, fault := range check(pkgs) {
		t.Error(fault)
	}
	// Should the walk ever miss the tree, the test must not pass in silence.
	for _, must := range values {
		if _, ok := pkgs[must]; !ok {
			t.Errorf("package %q was not found below the module root", must)
		}
	}
}

// Each row is a small tree with one fault, or none.
func TestRuleCheckBites(t *testing.T) {
	const (
		ours     = module + "/"
		clerkSDK = "github.com/clerk/clerk-sdk-go/v2/user"
		engine   = "github.com/mark3labs/mcp-go/server"
	)
	tests := []struct {
		name string
		pkg  string
		imp  string
		want string // part of the one fault; empty: allowed
	}{
		{"a listed room", "internal/bridge", ours + "internal/era", ""},
		{"values are for everyone", "internal/clerk", ours + "internal/identity", ""},
		{"the room's own packages", "internal/store/redis", ours + "internal/store", ""},
		{"a package below a listed room", "server", ours + "internal/store/redis", ""},
		{"cmd may import anything", "cmd/mcp-clerk", ours + "internal/devclerk", ""},
		{"the standard library", "internal/era", "net/http", ""},
		{"a name that only begins alike", "internal/tools", "github.com/mark3labs/mcp-go/servers", ""},
		{"the owner of a foreign module", "internal/clerk", clerkSDK, ""},

		{"an unlisted room", "internal/era", ours + "internal/transport", `may not import "internal/transport"`},
		{"below an unlisted room", "internal/authserver", ours + "internal/clerk/jwks", `may not import "internal/clerk/jwks"`},
		{"the public room from below", "internal/gateway", ours + "server", `may not import "server"`},
		{"telemetry from a room", "internal/bridge", ours + "internal/telemetry", `may not import "internal/telemetry"`},
		{"the development server below cmd", "server", ours + "internal/devclerk", `may not import "internal/devclerk"`},
		{"a value that imports a value", "internal/identity", ours + "internal/secret", `may not import "internal/secret"`},
		{"a command from a script", "scripts/bench", ours + "cmd/mcp-clerk", `may not import "cmd/mcp-clerk"`},
		{"a package without a room", "internal/cache", "fmt", "has no room"},
		{"an import without a room", "server", ours + "internal/cache", `may not import "internal/cache"`},
		{"the Clerk SDK elsewhere", "internal/authserver", clerkSDK, "only internal/clerk may import"},
		{"the engine elsewhere", "internal/mcphttp", engine, "only server may import"},
		{"the engine below cmd", "cmd/mcp-clerk", engine, "only server may import"},
		{"the client of mcp-go", "internal/transport", "github.com/mark3labs/mcp-go/client/transport", "no room may import"},
		{"a junk drawer", "internal/bridge/util", "fmt", `a package named "util"`},
		{"mocks", "internal/store/mocks", "fmt", `a package named "mocks"`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			faults := check(map[string][]string{tt.pkg: {tt.imp}})
			switch {
			case tt.want == "" && len(faults) > 0:
				t.Errorf("check refused it: %q", faults)
			case tt.want != "" && (len(faults) != 1 || !strings.Contains(faults[0], tt.want)):
				t.Errorf("check found %q, want one fault with %q", faults, tt.want)
			}
		})
	}
}

// The table in docs/architecture.md says the same as the one above.
func TestArchitectureDocumentHasTheSameTable(t *testing.T) {
	doc, err := os.ReadFile(filepath.Join("..", "docs", "architecture.md"))
	if err != nil {
		t.Fatal(err)
	}
	row := regexp.MustCompile("(?m)^\\| `([a-z/-]+)` \\|.*\\| ([^|]+) \\|$")
	var got, want [][2]string
	for _, m := range row.FindAllStringSubmatch(string(doc), -1) {
		got = append(got, [2]string{m[1], strings.TrimSpace(m[2])})
	}
	for _, r := range rooms {
		allowed := strings.Join(r.imports, ", ")
		switch {
		case slices.Contains(r.imports, "*") && r.path == "scripts":
			allowed = "anything but cmd"
		case slices.Contains(r.imports, "*"):
			allowed = "anything"
		case len(r.imports) == 0:
			allowed = "-"
		}
		want = append(want, [2]string{r.path, allowed})
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("rooms and their imports (-test +document):\n%s", diff)
	}
}

// check returns what in pkgs, a map from package path within the module to
// imports, breaks the rules.
func check(pkgs map[string][]string) []string {
	var faults []string
	for pkg, imports := range pkgs {
		if name := path.Base(pkg); slices.Contains(junk, name) {
			faults = append(faults, fmt.Sprintf("%s: a package named %q says nothing about what is inside", pkg, name))
			continue
		}
		from, ok := roomOf(pkg)
		if !ok {
			faults = append(faults, fmt.Sprintf("%s: has no room in the table", pkg))
			continue
		}
		for _, imp := range imports {
			if target, ours := strings.CutPrefix(imp, module+"/"); ours {
				if !mayImport(from, target) {
					faults = append(faults, fmt.Sprintf("%s: may not import %q", pkg, target))
				}
				continue
			}
			for _, o := range owners {
				if within(imp, o.path) && !slices.Contains(o.rooms, from.path) {
					who := "no room"
					if len(o.rooms) > 0 {
						who = "only " + strings.Join(o.rooms, ", ")
					}
					faults = append(faults, fmt.Sprintf("%s: imports %q, but %s may import %s", pkg, imp, who, o.path))
				}
			}
		}
	}
	slices.Sort(faults)
	return faults
}

func mayImport(from room, target string) bool {
	to, ok := roomOf(target)
	switch {
	case !ok:
		return false
	case to.path == from.path:
		return true
	case to.path == "cmd/mcp-clerk" || to.path == "scripts":
		return false
	case slices.Contains(from.imports, "*"):
		return true
	case slices.Contains(values, to.path):
		return !slices.Contains(values, from.path)
	}
	return slices.Contains(from.imports, path.Base(to.path)) && (strings.HasPrefix(to.path, "internal/") || to.path == "server")
}

// roomOf finds the room a package of ours belongs to.
func roomOf(pkg string) (room, bool) {
	for _, r := range rooms {
		if within(pkg, r.path) {
			return r, true
		}
	}
	return room{}, false
}

// within reports whether the import path p is root or lies below it.
func within(p, root string) bool {
	return p == root || strings.HasPrefix(p, root+"/")
}

// sourceTree returns the imports of every package of the module, tests left
// out. It reads the files themselves instead of asking "go list": that way the
// files of all platforms count, not only those of the one the test runs on.
func sourceTree(t *testing.T) map[string][]string {
	t.Helper()
	pkgs := make(map[string][]string)
	err := fs.WalkDir(os.DirFS(".."), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			return skipDir(name, d)
		}
		if !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
			return nil
		}
		file, err := parser.ParseFile(token.NewFileSet(), filepath.Join("..", filepath.FromSlash(name)), nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		pkg := path.Dir(name)
		if _, seen := pkgs[pkg]; !seen {
			pkgs[pkg] = nil
		}
		for _, spec := range file.Imports {
			imp, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				return fmt.Errorf("%s: import %s: %w", name, spec.Path.Value, err)
			}
			if !slices.Contains(pkgs[pkg], imp) {
				pkgs[pkg] = append(pkgs[pkg], imp)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return pkgs
}

// skipDir leaves out what the go command leaves out of "./...": hidden
// directories, testdata and nested modules.
func skipDir(name string, d fs.DirEntry) error {
	if name == "." {
		return nil
	}
	base := d.Name()
	if base == "testdata" || base == "vendor" || strings.HasPrefix(base, ".") || strings.HasPrefix(base, "_") {
		return fs.SkipDir
	}
	if _, err := os.Stat(filepath.Join("..", filepath.FromSlash(name), "go.mod")); err == nil {
		return fs.SkipDir
	}
	return nil
}
