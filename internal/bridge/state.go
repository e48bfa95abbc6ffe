package bridge

import (
	"fmt"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
)

// dumps writes the state of the bridge whenever it is asked for.
func (b *bridge) dumps() {
	if b.o.Dump == nil || b.o.DumpTo == nil {
		return
	}
	for {
		select {
		case <-b.o.Dump:
			_, _ = b.o.DumpTo.Write([]byte(b.state())) // nobody else could be told
		case <-b.life.Done():
			return
		}
	}
}

// state describes the bridge for a person: no parameters, no tokens.
func (b *bridge) state() string {
	var out strings.Builder
	line := func(name, format string, args ...any) {
		fmt.Fprintf(&out, "%-12s %s\n", name, fmt.Sprintf(format, args...))
	}
	line("program", "%s %s, %d goroutines", b.o.Name, b.o.Version, runtime.NumGoroutine())
	line("server", "%s", b.host)
	b.mu.Lock()
	defer b.mu.Unlock()
	switch hs := b.handshake; {
	case hs == nil:
		line("session", "none: the host has not sent initialize")
	case hs.failed.isSet():
		line("session", "none: initialize failed")
	case !hs.open.isSet() && hs.early.isSet():
		line("session", "none yet; the host was answered in the server's place")
	case !hs.open.isSet():
		line("session", "none yet: waiting for the server")
	default:
		line("session", "open, revision %s", b.version)
	}
	if b.o.SignInURL() != "" {
		line("sign-in", "waits for the person")
	}
	line("waiting", "%d requests of the host, %d of the server, %d notifications", len(b.pending), len(b.asked), b.notes)
	waiting := make([]*pending, 0, len(b.pending))
	for _, p := range b.pending {
		waiting = append(waiting, p)
	}
	slices.SortFunc(waiting, func(x, y *pending) int { return x.began.Compare(y.began) })
	for _, p := range waiting[:min(len(waiting), 100)] {
		what := "not sent yet"
		switch {
		case p.signingIn.Load():
			what = "waits for a sign-in"
		case p.started.Load():
			what = "at the server"
		}
		line("  request", "%s, id %s, for %s, %s", strconv.Quote(p.m.Method), shorten(p.m.ID), time.Since(p.began).Round(time.Millisecond), what)
	}
	return out.String()
}
