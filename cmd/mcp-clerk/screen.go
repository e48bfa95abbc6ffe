package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"
)

// screen prints what happens step by step, in colour on a terminal.
type screen struct {
	colour bool

	mu  sync.Mutex
	out io.Writer
}

func newScreen(out io.Writer) *screen {
	f, ok := out.(*os.File)
	colour := ok && term.IsTerminal(int(f.Fd())) && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
	return &screen{out: out, colour: colour}
}

func (s *screen) paint(code, text string) string {
	if !s.colour {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

func (s *screen) line(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, _ = fmt.Fprintf(s.out, format+"\n", args...) // a closed terminal must not stop the tour's clean-up
}

func (s *screen) title(name, what string) {
	s.line("%s  %s", s.paint("1", name), what)
	s.line("")
}

func (s *screen) heading(text string) {
	s.line("")
	s.line("%s", s.paint("1;36", "── "+text+" "+strings.Repeat("─", max(0, 60-len(text)))))
}

// step prints what was done since begin and how long it took.
func (s *screen) step(begin time.Time, name, format string, args ...any) {
	took := time.Since(begin)
	unit := fmt.Sprintf("%7.1f ms", float64(took.Microseconds())/1000)
	s.line("%s %s %s  %s", s.paint("32", "✓"), s.paint("1", fmt.Sprintf("%-13s", name)), s.paint("2", unit), harmless(fmt.Sprintf(format, args...)))
}

// note prints a detail of the step that is under way.
func (s *screen) note(format string, args ...any) {
	s.line("  %s", s.paint("2", "· "+harmless(fmt.Sprintf(format, args...))))
}

// block prints text of several lines, indented.
func (s *screen) block(text string) {
	for line := range strings.Lines(text) {
		s.line("      %s", s.paint("2", harmless(strings.TrimRight(line, "\n"))))
	}
}

// harmless takes control characters out of what a server said, so that it
// cannot steer the terminal.
func harmless(text string) string {
	return strings.Map(func(r rune) rune {
		if r < 0x20 && r != '\t' || r >= 0x7f && r < 0xa0 || r >= 0x202a && r <= 0x202e || r >= 0x2066 && r <= 0x2069 {
			return -1
		}
		return r
	}, text)
}
