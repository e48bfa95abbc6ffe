//go:build unix

package main

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// scenario is one way in which things go wrong.
type scenario struct {
	name     string
	backends string // space-separated
	run      func(*world) error
}

func (sc scenario) concerns(backend string) bool {
	return slices.Contains(strings.Fields(sc.backends), backend)
}

func (sc scenario) chosen(list string) bool {
	return list == "all" || slices.Contains(strings.Split(list, ","), sc.name)
}

const (
	everywhere = "bolt redis postgres"
	shared     = "redis postgres" // several instances
)

var scenarios = []scenario{
	{"kill", everywhere, runKills},
	{"codes", everywhere, runCodes},
	{"rolling", shared, runRolling},
	{"sessions", shared, runSessions},
	{"paused", shared, runPaused},
	{"clocks", shared, runClocks},
	{"torn", "bolt", runTorn},
	{"disk", "bolt", runDisk},
}

func scenarioNames() []string {
	var names []string
	for _, sc := range scenarios {
		names = append(names, sc.name)
	}
	return names
}

func checkScenarios(list string) error {
	if list == "all" {
		return nil
	}
	for name := range strings.SplitSeq(list, ",") {
		if !slices.Contains(scenarioNames(), name) {
			return fmt.Errorf("unknown scenario %q", name)
		}
	}
	return nil
}

// runKills ends processes by kill -9 while all clients are at work.
func runKills(w *world) error {
	if err := w.startAll(); err != nil {
		return err
	}
	l := w.newLoad()
	l.start()
	b := &budget{left: w.opts.kills, until: time.Now().Add(w.opts.duration)}
	errs := make([]error, len(w.instances))
	var wg sync.WaitGroup
	for i, in := range w.instances {
		rng := rand.New(rand.NewPCG(w.opts.seed, uint64(1000+i))) //nolint:gosec // no secret, and repeatable
		wg.Go(func() { errs[i] = w.killer(in, b, rng) })
	}
	wg.Wait()
	err := errors.Join(errs...)
	if err != nil {
		// Nobody would be answered any more.
		for _, in := range w.instances {
			if e := in.restart(); e != nil {
				return errors.Join(err, e)
			}
		}
	}
	l.stop()
	l.verify()
	return err
}

// restart starts the process if it does not run.
func (in *instance) restart() error {
	select {
	case <-in.ended:
		return in.start()
	default:
		return nil
	}
}

// single is a person who does things one by one.
func (w *world) single(n int) *person {
	l := w.newLoad()
	return l.people[n]
}

// runCodes redeems one code by a hundred requests, which hit all instances.
func runCodes(w *world) error {
	if err := w.startAll(); err != nil {
		return err
	}
	p := w.single(0)
	for range 5 {
		c, ok := p.newCode()
		if !ok {
			return errors.New("no code")
		}
		p.redeemAtOnce(c, func(i int) wire { return w.to(w.instances[i%len(w.instances)]) }, 100)
	}
	p.l.verify()
	return nil
}

// runRolling restarts the instances one after the other by SIGTERM, under load.
// Nothing may be lost on the way, not even an answer: the proxy hears at
// /readyz when to stop sending.
func runRolling(w *world) error {
	if err := w.startAll(); err != nil {
		return err
	}
	l := w.newLoad()
	l.start()
	time.Sleep(time.Second) // of ordinary life
	for range 2 {
		for _, in := range w.instances {
			if err := in.terminate(); err != nil {
				return err
			}
			if err := in.start(); err != nil {
				return err
			}
			time.Sleep(300 * time.Millisecond) // until the proxy knows
		}
	}
	l.stop()
	w.oracle.mu.Lock()
	lost := w.oracle.counts["lost"]
	w.oracle.mu.Unlock()
	if lost > 0 {
		w.oracle.violation("requests were lost in a rolling restart", "requests", fmt.Sprint(lost))
	}
	l.verify()
	return nil
}

// runSessions opens a session of revision 2025-11-25 on one instance and goes
// on at the others; once deleted it is gone on all.
func runSessions(w *world) error {
	if err := w.startAll(); err != nil {
		return err
	}
	p := w.single(0)
	g := p.signIn()
	if g == nil {
		return errors.New("no grant")
	}
	const list = `{"jsonrpc":"2.0","id":2,"method":"tools/list","params":{}}`
	for i, first := range w.instances {
		head := http.Header{"Accept": {"application/json, text/event-stream"}, "Authorization": {"Bearer " + g.now.Access}}
		a := w.to(first).send(w.ctx, http.MethodPost, "/mcp", "application/json",
			`{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"chaos","version":"1"}}}`, head)
		id := a.header.Get("Mcp-Session-Id")
		if a.status != http.StatusOK || id == "" {
			return fmt.Errorf("initialize: %v", a)
		}
		head.Set("Mcp-Session-Id", id)
		head.Set("Mcp-Protocol-Version", "2025-11-25")
		for _, in := range w.instances {
			if a := w.to(in).send(w.ctx, http.MethodPost, "/mcp", "application/json", list, head); a.status != http.StatusOK {
				w.oracle.violation("a session does not go on elsewhere", "at", in.name, "answer", a.String())
			}
		}
		w.oracle.count("sessions")
		other := w.instances[(i+1)%len(w.instances)]
		if a := w.to(other).send(w.ctx, http.MethodDelete, "/mcp", "", "", head); a.status >= 300 {
			return fmt.Errorf("delete a session: %v", a)
		}
		since := time.Now()
		for _, in := range w.instances {
			for {
				asked := time.Since(since)
				a := w.to(in).send(w.ctx, http.MethodPost, "/mcp", "application/json", list, head)
				if a.status == http.StatusNotFound {
					break
				}
				if asked > seenWithin {
					w.oracle.violation("a deleted session lives on", "at", in.name, "answer", a.String())
					break
				}
				time.Sleep(retryPause)
			}
		}
		w.oracle.count("sessions deleted")
	}
	return nil
}

// pausedFor is how long the database hangs: longer than a state that was read
// before still counts, and than clients' requests wait.
const pausedFor = 10 * time.Second

// runPaused stops the database for a while. Meanwhile there are no tokens but
// 503 with Retry-After; afterwards all is well without a restart.
func runPaused(w *world) error {
	if err := w.startAll(); err != nil {
		return err
	}
	l := w.newLoad()
	l.start()
	time.Sleep(time.Second) // of ordinary life
	p := w.single(0)
	g := p.signIn()
	if g == nil {
		return errors.New("no grant")
	}
	// It must hear its end, whatever happens here.
	w.t.Cleanup(func() { _ = w.resumeStore() })
	if err := w.stopStore(); err != nil {
		return err
	}
	until := time.Now().Add(pausedFor)
	for time.Now().Before(until) {
		a := p.wire.refresh(w.ctx, g.client, g.now.Refresh)
		if time.Now().After(until) {
			break // it may have been answered after the store was back
		}
		if a.status != http.StatusServiceUnavailable || a.header.Get("Retry-After") == "" {
			w.oracle.violation("without its store the server should say 503 with Retry-After", "answer", a.String())
		}
		w.oracle.count("refused while paused")
		time.Sleep(4 * retryPause)
	}
	if err := w.resumeStore(); err != nil {
		return err
	}
	time.Sleep(2 * time.Second) // of ordinary life
	l.stop()
	p.alive(g)
	l.verify()
	return nil
}

// stopStore stops the processes of the database where they are.
func (w *world) stopStore() error   { return w.signalStore(syscall.SIGSTOP) }
func (w *world) resumeStore() error { return w.signalStore(syscall.SIGCONT) }

// runClocks sets the clocks of the instances 5 minutes apart, and one of them
// back by 5 minutes when it is started again.
func runClocks(w *world) error {
	offsets := []string{"0s", "5m", "0s"}
	for i, in := range w.instances {
		in.env = []string{"MCP_CLERK_CLOCK_OFFSET=" + offsets[i]}
	}
	if err := w.startAll(); err != nil {
		return err
	}
	l := w.newLoad()
	people := l.people[:min(len(l.people), 5)]
	for _, p := range people {
		// Each page, and the code, on another clock.
		if p.grant = p.signIn(); p.grant == nil {
			return errors.New("no grant")
		}
	}
	tour := func() {
		for _, p := range people {
			for _, in := range w.instances {
				p.wire = w.to(in)
				p.call(p.grant)
				p.rotate(2)
				if p.grant == nil {
					return
				}
				p.stale(p.grant)
			}
		}
	}
	tour()
	last := w.instances[2]
	last.kill()
	last.env = []string{"MCP_CLERK_CLOCK_OFFSET=-5m"}
	if err := last.start(); err != nil {
		return err
	}
	tour()
	// What was revoked by one clock is so by all.
	for i, p := range people {
		if p.grant == nil {
			return nil // recorded
		}
		p.wire = w.to(w.instances[i%len(w.instances)])
		if i%2 == 0 {
			p.revoke()
		}
	}
	for _, in := range w.instances {
		for _, p := range people {
			p.wire = w.to(in)
			for _, g := range p.revoked {
				p.gone(g)
			}
			if p.grant != nil {
				p.alive(p.grant)
			}
		}
	}
	return nil
}

// runTorn cuts the store's file or its log, or flips a byte of the file, after a
// kill. The server either starts with all that was acknowledged, or it refuses to
// start and says what is wrong and how to mend it; it never begins anew in
// silence.
func runTorn(w *world) error {
	if err := w.startAll(); err != nil {
		return err
	}
	in := w.instances[0]
	l := w.newLoad()
	l.start()
	time.Sleep(2 * time.Second) // of ordinary life
	l.stop()
	in.kill()
	file := strings.TrimPrefix(w.store, "bolt:")
	whole := map[string][]byte{file: nil, file + ".log0": nil, file + ".log1": nil}
	for name := range whole {
		var err error
		if whole[name], err = os.ReadFile(name); err != nil {
			return err
		}
	}
	lay := func(name string, content []byte) error { return os.WriteFile(name, content, 0o600) } //nolint:gosec // the harness's own file
	restore := func() error {
		var errs []error
		for name, content := range whole {
			errs = append(errs, lay(name, content))
		}
		return errors.Join(errs...)
	}
	rng := rand.New(rand.NewPCG(w.opts.seed, 2000)) //nolint:gosec // no secret, and repeatable
	for round := range 12 {
		if err := restore(); err != nil {
			return err
		}
		name := file
		if round%3 == 2 {
			name = fmt.Sprintf("%s.log%d", file, rng.IntN(2))
		}
		torn := slices.Clone(whole[name])
		if round%3 == 0 {
			torn[rng.IntN(len(torn))] ^= 0xff
		} else {
			torn = torn[:rng.IntN(len(torn))]
		}
		if err := lay(name, torn); err != nil {
			return err
		}
		if err := in.launch(); err != nil {
			return err
		}
		if !in.refusesOrServes(w) {
			w.oracle.count("torn, and refused")
			if !strings.Contains(in.tail(), file) || !strings.Contains(in.tail(), "backup") {
				w.oracle.violation("a refusal to start names neither file nor fix", "log", in.tail())
			}
			continue
		}
		// It serves: then nothing that it says of tokens may be wrong.
		w.oracle.count("torn, and served")
		for _, p := range l.people {
			for _, g := range p.kept {
				if a := p.wire.call(w.ctx, g.now.Access); !a.lost() && !a.sum() {
					w.oracle.violation("a grant is lost in a damaged file that was served", "file", name, "answer", a.String())
				}
			}
			for _, g := range p.revoked {
				if a := p.wire.call(w.ctx, g.now.Access); a.sum() {
					w.oracle.violation("a revoked token is taken in a damaged file that was served", "file", name, "answer", a.String())
				}
			}
		}
		in.kill()
	}
	// With the files as they were, all is there.
	if err := restore(); err != nil {
		return err
	}
	if err := in.start(); err != nil {
		return err
	}
	l.verify()
	return nil
}

// refusesOrServes waits until the process has ended or is ready.
func (in *instance) refusesOrServes(w *world) (serves bool) {
	deadline := time.Now().Add(patience)
	for time.Now().Before(deadline) {
		select {
		case <-in.ended:
			return false
		default:
		}
		if a := w.to(in).send(w.ctx, http.MethodGet, "/readyz", "", "", nil); a.status == http.StatusOK {
			return true
		}
		time.Sleep(20 * time.Millisecond)
	}
	w.oracle.violation("the server neither starts nor ends", "log", in.tail())
	in.kill()
	return false
}
