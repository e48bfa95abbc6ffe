package era_test

import (
	"bufio"
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/tools/txtar"

	"github.com/mcp-clerk/mcp-clerk/internal/era"
	"github.com/mcp-clerk/mcp-clerk/internal/jsonrpc"
)

// TestScripts runs the conversations in testdata. Each file says first what it
// pins. What happens stands at the beginning of a line:
//
//	host MESSAGE             the host sends it
//	cancel ID                nobody wants the response to the host's request
//	server LEG/CALL MESSAGE  the server sends it, on a call's stream or (0) on none
//	ended CALL [ERROR]       a call has ended
//	wait DURATION            time passes
//	end                      the host goes
//
// and below it, behind "> ", every step that follows from it, in their order:
// host MESSAGE, send LEG/CALL MESSAGE, fail ID ERROR, stop CALL, close LEG. A
// $NAME stands for letters that are not known beforehand, and later for the same.
func TestScripts(t *testing.T) {
	machines := map[string]func() era.Machine{
		"tomodern": func() era.Machine { return era.NewToModern("server.test") },
		"tolegacy": newToLegacy,
	}
	for dir, build := range machines {
		files, err := filepath.Glob(filepath.Join("testdata", dir, "*.txtar"))
		if err != nil || len(files) == 0 {
			t.Fatalf("no scripts in %q: %v", dir, err)
		}
		for _, file := range files {
			t.Run(dir+"/"+strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
				archive, err := txtar.ParseFile(file)
				if err != nil {
					t.Fatal(err)
				}
				if len(archive.Comment) == 0 || len(archive.Files) == 0 {
					t.Fatal("the file does not say what it pins, or pins nothing")
				}
				for _, f := range archive.Files {
					t.Run(f.Name, func(t *testing.T) { runScript(t, build(), string(f.Data)) })
				}
			})
		}
	}
}

func newToLegacy() era.Machine {
	return era.NewToLegacy(era.LegacyOptions{Name: "mcp-clerk", Version: "devel", Server: "server.test"})
}

type script struct {
	t     *testing.T
	m     era.Machine
	now   time.Time
	known map[string]string
}

func runScript(t *testing.T, m era.Machine, text string) {
	s := &script{t: t, m: m, now: time.Unix(1_800_000_000, 0), known: map[string]string{}}
	var got []string
	var at string
	settle := func() {
		for _, line := range got {
			t.Errorf("behind %q: unexpected step\n%s", at, line)
		}
	}
	sc := bufio.NewScanner(strings.NewReader(text))
	sc.Buffer(nil, 4<<20)
	for sc.Scan() {
		line := strings.TrimSpace(sc.Text())
		want, expected := strings.CutPrefix(line, "> ")
		switch {
		case line == "" || line[0] == '#':
		case !expected:
			settle()
			at = line
			got = s.do(s.fill(line))
		case len(got) == 0:
			t.Fatalf("behind %q: missing step\n%s", at, want)
		default:
			if !s.matches(want, got[0]) {
				t.Fatalf("behind %q:\n got %s\nwant %s", at, got[0], want)
			}
			got = got[1:]
		}
	}
	settle()
}

// do makes happen what line says and returns the steps, a line each.
func (s *script) do(line string) []string {
	s.t.Helper()
	verb, rest, _ := strings.Cut(line, " ")
	var steps []era.Step
	switch verb {
	case "host":
		steps = s.m.Host(s.now, s.parse(rest))
	case "cancel":
		steps = s.m.Cancel(s.now, []byte(rest))
	case "server":
		where, raw, _ := strings.Cut(rest, " ")
		leg, call, _ := strings.Cut(where, "/")
		steps = s.m.Server(s.now, s.number(leg), s.number(call), s.parse(raw))
	case "ended":
		call, text, failed := strings.Cut(rest, " ")
		var err error
		if failed {
			err = errors.New(text)
		}
		steps = s.m.Ended(s.now, s.number(call), err)
	case "wait":
		d, err := time.ParseDuration(rest)
		if err != nil {
			s.t.Fatal(err)
		}
		until := s.now.Add(d)
		for next := s.m.Next(); !next.IsZero() && !next.After(until); next = s.m.Next() {
			s.now = next
			steps = append(steps, s.m.Tick(s.now)...)
		}
		s.now = until
	case "end":
		steps = s.m.End(s.now)
	default:
		s.t.Fatalf("unknown line %q", line)
	}
	var out []string
	for _, step := range steps {
		out = append(out, write(step))
	}
	return out
}

func write(s era.Step) string {
	switch s.Verb {
	case era.Deliver:
		return "host " + string(s.Message.Raw)
	case era.Send:
		return fmt.Sprintf("send %d/%d %s", s.Leg, s.Call, s.Message.Raw)
	case era.Fail:
		return fmt.Sprintf("fail %s %v", s.For, s.Err)
	case era.Stop:
		return fmt.Sprintf("stop %d", s.Call)
	case era.Close:
		return fmt.Sprintf("close %d", s.Leg)
	}
	return fmt.Sprintf("%+v", s)
}

func (s *script) parse(raw string) *jsonrpc.Message {
	s.t.Helper()
	m, err := jsonrpc.Parse([]byte(raw), jsonrpc.Limits{MaxDepth: 1000})
	if err != nil {
		s.t.Fatalf("%s: %v", raw, err)
	}
	return m
}

func (s *script) number(text string) int {
	n, err := strconv.Atoi(text)
	if err != nil {
		s.t.Fatal(err)
	}
	return n
}

var variable = regexp.MustCompile(`\$[A-Z]+`)

// fill puts in what stands for the variables known.
func (s *script) fill(line string) string {
	return variable.ReplaceAllStringFunc(line, func(name string) string {
		if v, ok := s.known[name]; ok {
			return v
		}
		return name
	})
}

// matches compares a step, and learns the variables that are not known yet.
func (s *script) matches(want, got string) bool {
	want = s.fill(want)
	names := variable.FindAllString(want, -1)
	if names == nil {
		return want == got
	}
	pattern := "^" + strings.Join(splitQuoted(want), `([A-Za-z0-9_-]+)`) + "$"
	found := regexp.MustCompile(pattern).FindStringSubmatch(got)
	if found == nil {
		return false
	}
	for i, name := range names {
		s.known[name] = found[i+1]
	}
	return true
}

func splitQuoted(want string) []string {
	var out []string
	for _, part := range variable.Split(want, -1) {
		out = append(out, regexp.QuoteMeta(part))
	}
	return out
}
