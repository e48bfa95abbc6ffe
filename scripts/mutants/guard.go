package main

import (
	"fmt"
	"path"
	"strings"
)

// guard is one entry of guards.txt: a piece of a file, and what stands there
// when it is taken out.
type guard struct {
	title string // the cases it serves, and what it guards against
	file  string // slashes, below the module's root
	pkg   string // directory of the package whose tests must fail
	tests string // regular expression for them; empty: all
	old   string
	new   string
}

// parse reads guards.txt. An entry is written like a piece of a patch:
//
//	== CASES what it guards against
//	in FILE
//	by TESTS of PACKAGE     (left out: all tests of the file's package)
//	-old line
//	+new line
//	 a line that stays
//
// Lines that start with # and blank lines between entries say nothing.
func parse(text string) ([]guard, error) {
	var guards []guard
	titles := map[string]bool{}
	n := 0
	for line := range strings.Lines(text) {
		n++
		line = strings.TrimSuffix(line, "\n")
		bad := func(problem string) error { return fmt.Errorf("line %d: %q %s", n, line, problem) }
		title, begins := strings.CutPrefix(line, "== ")
		if begins {
			if titles[title] {
				return nil, bad("comes twice")
			}
			titles[title] = true
			guards = append(guards, guard{title: title})
			continue
		}
		if line == "" || line[0] == '#' {
			continue
		}
		if len(guards) == 0 {
			return nil, bad("belongs to no entry")
		}
		g := &guards[len(guards)-1]
		rest := line[1:]
		switch line[0] {
		case 'i':
			file, ok := strings.CutPrefix(line, "in ")
			if !ok {
				return nil, bad("is not understood")
			}
			g.file, g.pkg = file, path.Dir(file)
		case 'b':
			by, ok := strings.CutPrefix(line, "by ")
			if !ok || g.file == "" {
				return nil, bad("is not understood")
			}
			if tests, pkg, ok := strings.Cut(by, " of "); ok {
				by, g.pkg = tests, pkg
			}
			g.tests = by
		case '-':
			g.old += rest + "\n"
		case '+':
			g.new += rest + "\n"
		case ' ':
			g.old += rest + "\n"
			g.new += rest + "\n"
		default:
			return nil, bad("is not understood")
		}
	}
	for _, g := range guards {
		if g.file == "" || g.old == "" || g.old == g.new {
			return nil, fmt.Errorf("entry %q changes nothing", g.title)
		}
	}
	return guards, nil
}

// apply returns source without the guard. Its text must be there once, as whole
// lines.
func (g guard) apply(source string) (string, error) {
	at, n := 0, 0
	for i := 0; i < len(source); {
		if strings.HasPrefix(source[i:], g.old) {
			at = i
			n++
		}
		line := strings.IndexByte(source[i:], '\n')
		if line < 0 {
			break
		}
		i += line + 1
	}
	if n != 1 {
		return "", fmt.Errorf("its text stands %d times in %q, want 1", n, g.file)
	}
	return source[:at] + g.new + source[at+len(g.old):], nil
}

func (g guard) testArgs() []string {
	args := []string{"-count=1", "-vet=off", "-timeout", testLimit.String()}
	if g.tests != "" {
		args = append(args, "-run", g.tests)
	}
	return append(args, "./"+g.pkg)
}
