package main_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// What the README and the other documents say of commands, flags and settings
// is what the program says of itself.
func TestREADME(t *testing.T) {
	data, err := os.ReadFile(filepath.Join("..", "..", "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	readme := string(data)
	program := buildProgram(t)
	help := func(args ...string) string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), program, append(args, "--help")...)
		cmd.Env = programEnv(t.TempDir())
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("mcp-clerk %s --help: %v\n%s", strings.Join(args, " "), err, out)
		}
		return string(out)
	}

	var commands []string // of the program
	_, list, _ := strings.Cut(help(), "Available Commands:\n")
	for line := range strings.Lines(list) {
		words := strings.Fields(line)
		if len(words) == 0 {
			break
		}
		if words[0] != "help" {
			commands = append(commands, words[0])
		}
	}

	t.Run("commands table", func(t *testing.T) {
		var got []string
		for _, row := range tableRows(t, readme, "### Commands") {
			name, _, _ := strings.Cut(strings.Trim(row, "`"), " ")
			got = append(got, strings.Trim(name, "`"))
		}
		want := slices.Sorted(slices.Values(commands))
		slices.Sort(got)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("commands (-program +README):\n%s", diff)
		}
	})

	t.Run("flags in all documents", func(t *testing.T) {
		var all strings.Builder
		for _, name := range commands {
			all.WriteString(help(name))
		}
		documents, err := filepath.Glob(filepath.Join("..", "..", "docs", "decisions", "*.md"))
		if err != nil || len(documents) == 0 {
			t.Fatalf("no decisions were found: %v", err)
		}
		for _, name := range []string{"README.md", "SECURITY.md", filepath.Join("docs", "architecture.md"), filepath.Join("docs", "operations.md"), filepath.Join("docs", "clerk.md"), filepath.Join("docs", "connect.md")} {
			documents = append(documents, filepath.Join("..", "..", name))
		}
		flag := regexp.MustCompile("`[^`]*?(--[a-z][a-z0-9-]+)[^`]*`")
		for _, path := range documents {
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			text := regexp.MustCompile("(?s)```.*?```").ReplaceAllString(string(data), "")
			for _, m := range flag.FindAllStringSubmatch(text, -1) {
				if !hasFlag(all.String(), m[1]) {
					t.Errorf("%s speaks of %s, which no command has", filepath.Base(path), m[1])
				}
			}
		}
	})

	t.Run("settings of serve", func(t *testing.T) {
		text := help("serve")
		names := regexp.MustCompile("`(--[a-z0-9-]+|[A-Z][A-Z_]+)`")
		described := make(map[string]bool)
		for _, row := range tableRows(t, readme, "### Settings of serve") {
			for _, m := range names.FindAllStringSubmatch(row, -1) {
				described[m[1]] = true
				if strings.HasPrefix(m[1], "--") && !hasFlag(text, m[1]) {
					t.Errorf("the README describes %s, which serve does not have", m[1])
				}
			}
		}
		for _, name := range regexp.MustCompile(`(?m)^ +(?:-\w, |    )(--[a-z0-9-]+)|\b([A-Z]+_[A-Z_]+)\b`).FindAllStringSubmatch(text, -1) {
			if name := name[1] + name[2]; name != "--help" && name != "NAME_FILE" && !described[name] && !strings.Contains(readme, "`"+name+"`") {
				t.Errorf("serve --help has %s, which the README does not describe", name)
			}
		}
	})

	t.Run("settings of connect and login", func(t *testing.T) {
		section := func(title string) string {
			_, text, _ := strings.Cut(readme, "\n### "+title+"\n")
			text, _, _ = strings.Cut(text, "\n#")
			return text
		}
		both := section("Settings of connect and login")
		for command, text := range map[string]string{"login": both, "connect": both + section("Settings of connect")} {
			for _, m := range regexp.MustCompile(`(?m)^ +(--[a-z0-9-]+)`).FindAllStringSubmatch(help(command), -1) {
				if m[1] != "--help" && !strings.Contains(text, "`"+m[1]+"`") {
					t.Errorf("%s --help has %s, which the README does not describe", command, m[1])
				}
			}
		}
	})

	// Every line of a shell example that runs the program.
	t.Run("examples", func(t *testing.T) {
		line := regexp.MustCompile(`^(?:go run \./cmd/)?mcp-clerk (.+)$`)
		examples := 0
		for _, block := range regexp.MustCompile("(?s)```sh\n(.*?)```").FindAllStringSubmatch(readme, -1) {
			for l := range strings.Lines(block[1]) {
				l, _, _ = strings.Cut(strings.TrimSpace(l), " #")
				m := line.FindStringSubmatch(strings.TrimSpace(l))
				if m == nil {
					continue
				}
				examples++
				words := strings.Fields(m[1])
				text := help(words[0])
				if !strings.Contains(text, "\n  mcp-clerk "+words[0]) {
					t.Errorf("%q: there is no command %q", l, words[0])
				}
				for _, word := range words[1:] {
					flag, _, _ := strings.Cut(word, "=")
					if strings.HasPrefix(flag, "--") && !hasFlag(text, flag) {
						t.Errorf("%q: %s has no flag %s", l, words[0], flag)
					}
				}
			}
		}
		if examples == 0 {
			t.Error("no example was found")
		}
	})
}

// tableRows returns the first cell of each row of the table below heading.
func tableRows(t *testing.T, text, heading string) []string {
	t.Helper()
	_, rest, ok := strings.Cut(text, "\n"+heading+"\n")
	if !ok {
		t.Fatalf("no heading %q", heading)
	}
	rest, _, _ = strings.Cut(rest, "\n#")
	_, rest, ok = strings.Cut(rest, "\n|---|---|\n")
	if !ok {
		t.Fatalf("no table below %q", heading)
	}
	var cells []string
	for line := range strings.Lines(rest) {
		if !strings.HasPrefix(line, "|") {
			break
		}
		cells = append(cells, strings.TrimSpace(strings.Split(line, "|")[1]))
	}
	return cells
}

// hasFlag reports whether a help text describes the long flag.
func hasFlag(help, flag string) bool {
	return regexp.MustCompile(`(?m)^ +(-\w, )?` + regexp.QuoteMeta(flag) + `( |$)`).MatchString(help)
}
