//go:build unix

package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strconv"
	"sync"
	"time"
)

const (
	// mostRotations of one grant: beyond 16 superseded tokens within the grace
	// the server lets the current one stay, and nothing would be tried.
	mostRotations = 14
	// seenWithin is how long an acknowledged revocation may take to be seen:
	// 1 s, and the factor for a busy machine.
	seenWithin = 4 * time.Second
	// codeMargin is how old a code may be for its refusal to be a fault; it
	// lives for 60 s.
	codeMargin = 40 * time.Second
	retryPause = 50 * time.Millisecond
	// enoughViolations end the load: more would tell nothing new.
	enoughViolations = 20
)

// load is a number of clients at work.
type load struct {
	w       *world
	people  []*person
	stopped chan struct{}
	wg      sync.WaitGroup
}

// person is one user with one client. All but the parallel requests of one act
// is done in turn, so that what was acknowledged last is known.
type person struct {
	l      *load
	n      int
	rng    *rand.Rand
	wire   wire
	client string

	grant   *grant
	kept    []*grant // not refreshed any more; they must still work at the end
	revoked []*grant
}

// grant is what a person has been granted.
type grant struct {
	client    string
	now       pair
	before    string // the refresh token that now's replaced, "" if none
	rotations int
}

func (w *world) newLoad() *load {
	l := &load{w: w, stopped: make(chan struct{})}
	for i := range w.opts.clients {
		l.people = append(l.people, &person{l: l, n: i, rng: rand.New(rand.NewPCG(w.opts.seed, uint64(i))), wire: w.wire()}) //nolint:gosec // no secret, and repeatable
	}
	return l
}

func (l *load) start() {
	for _, p := range l.people {
		l.wg.Go(p.live)
	}
}

// stop lets every person finish what they are at: nothing stays unanswered.
func (l *load) stop() {
	close(l.stopped)
	l.wg.Wait()
}

func (l *load) over() bool {
	select {
	case <-l.stopped:
		return true
	case <-l.w.ctx.Done():
		return true
	default:
		return len(l.w.oracle.violations()) >= enoughViolations
	}
}

func (p *person) live() {
	for !p.l.over() {
		if p.grant == nil {
			p.grant = p.signIn()
			continue
		}
		switch n := p.rng.IntN(100); {
		case p.grant.rotations >= mostRotations:
			p.retire()
		case n < 35:
			p.call(p.grant)
		case n < 65:
			p.rotate(1)
		case n < 75:
			p.rotate(2 + p.rng.IntN(4))
		case n < 83:
			p.stale(p.grant)
		case n < 87:
			p.retire()
		case n < 94:
			p.revoke()
		case n < 97:
			p.replay()
		default:
			p.revisit()
		}
	}
}

// insist asks until there is an answer, as a client does that lost one. Once
// all instances are back there must be one.
func (p *person) insist(ask func() answer) (answer, bool) {
	deadline := time.Now().Add(2 * patience)
	for {
		a := ask()
		if !a.lost() {
			return a, true
		}
		p.l.w.oracle.lost("asked again", a)
		if p.l.w.ctx.Err() != nil {
			return a, false
		}
		if time.Now().After(deadline) {
			p.l.w.oracle.violation("no answer", "person", p.name(), "last", a.String())
			return a, false
		}
		time.Sleep(retryPause)
	}
}

func (p *person) name() string { return userMail(p.n) }

func (p *person) ctx() context.Context { return p.l.w.ctx }

// signIn returns nil where the load ended or the answer to the code was lost.
func (p *person) signIn() *grant {
	c, ok := p.newCode()
	if !ok {
		return nil
	}
	a := p.wire.redeem(p.ctx(), c)
	if a.lost() {
		// Whether it was redeemed nobody knows, and a second try may end the
		// grant; the client signs in anew.
		p.l.w.oracle.lost("redeem", a)
		return nil
	}
	if a.status != http.StatusOK {
		if time.Since(c.since) < codeMargin {
			p.l.w.oracle.violation("a fresh code was refused", "person", p.name(), "code", mark(c.code), "answer", a.String())
		}
		return nil
	}
	return p.granted(c, a)
}

func (p *person) granted(c pending, a answer) *grant {
	t, err := a.tokens()
	if err != nil {
		p.l.w.oracle.violation("tokens without tokens", "person", p.name(), "answer", a.String())
		return nil
	}
	p.l.w.oracle.ack("signed in", "person", p.name(), "code", mark(c.code), "access", mark(t.Access), "refresh", mark(t.Refresh))
	return &grant{client: c.client, now: t}
}

// newCode goes through the pages until there is a code.
func (p *person) newCode() (pending, bool) {
	for !p.l.over() {
		if p.client == "" {
			id, a := p.wire.register(p.ctx(), "chaos "+strconv.Itoa(p.n))
			switch {
			case a.lost():
				p.l.w.oracle.lost("register", a)
				time.Sleep(retryPause)
				continue
			case id == "":
				p.l.w.oracle.violation("registration refused", "person", p.name(), "answer", a.String())
				time.Sleep(retryPause)
				continue
			}
			p.client = id
			p.l.w.oracle.ack("registered", "person", p.name(), "client", id)
		}
		c, lost, err := p.wire.walk(p.ctx(), p.client, p.name())
		switch {
		case p.ctx().Err() != nil:
			return c, false
		case lost:
			p.l.w.oracle.lost("page", answer{})
			time.Sleep(retryPause)
		case err != nil:
			p.l.w.oracle.violation("a sign-in failed though each page came", "person", p.name(), "error", err.Error())
			time.Sleep(retryPause)
		default:
			p.l.w.oracle.ack("code", "person", p.name(), "code", mark(c.code))
			return c, true
		}
	}
	return pending{}, false
}

// call calls a tool, once: a call is never sent again.
func (p *person) call(g *grant) {
	a := p.wire.call(p.ctx(), g.now.Access)
	switch {
	case a.lost():
		p.l.w.oracle.lost("call", a)
	case a.sum():
		p.l.w.oracle.count("called")
	default:
		p.l.w.oracle.violation("a call with a valid token failed", "person", p.name(), "access", mark(g.now.Access), "answer", a.String())
	}
}

// rotate refreshes in several processes at once that share one token.
func (p *person) rotate(processes int) {
	g := p.grant
	answers := make([]pair, processes)
	var wg sync.WaitGroup
	for i := range processes {
		wg.Go(func() { answers[i] = p.refresh(g, g.now.Refresh) })
	}
	wg.Wait()
	var first pair
	for _, t := range answers {
		switch {
		case t.Refresh == "":
			// Recorded where it went wrong.
		case first.Refresh == "":
			first = t
		case t.Refresh != first.Refresh:
			p.l.w.oracle.violation("a family in two", "person", p.name(), "of", mark(g.now.Refresh), "one", mark(first.Refresh), "other", mark(t.Refresh))
		}
	}
	if first.Refresh == "" {
		p.grant = nil
		return
	}
	if first.Refresh == g.now.Refresh {
		p.l.w.oracle.violation("no rotation", "person", p.name(), "refresh", mark(first.Refresh))
	}
	g.before, g.now = g.now.Refresh, first
	g.rotations++
}

// refresh presents token until it is answered. A refusal is a needless sign-in.
func (p *person) refresh(g *grant, token string) pair {
	a, ok := p.insist(func() answer { return p.wire.refresh(p.ctx(), g.client, token) })
	if !ok {
		return pair{}
	}
	t, err := a.tokens()
	if a.status != http.StatusOK || err != nil {
		p.l.w.oracle.violation("a needless sign-in: a refresh was refused", "person", p.name(), "refresh", mark(token), "answer", a.String())
		return pair{}
	}
	p.l.w.oracle.ack("refreshed", "person", p.name(), "of", mark(token), "refresh", mark(t.Refresh), "access", mark(t.Access))
	return t
}

// stale presents a token that was superseded a moment ago, as another process
// of the client would: it gets the present one.
func (p *person) stale(g *grant) {
	if g.before == "" {
		return
	}
	t := p.refresh(g, g.before)
	if t.Refresh != "" && t.Refresh != g.now.Refresh {
		p.l.w.oracle.violation("a family in two: a late token leads elsewhere", "person", p.name(), "of", mark(g.before), "got", mark(t.Refresh), "want", mark(g.now.Refresh))
	}
}

func (p *person) retire() {
	p.kept = append(p.kept, p.grant)
	p.grant = nil
}

// revoke ends the grant by either kind of its tokens.
func (p *person) revoke() {
	g := p.grant
	p.grant = nil
	a, ok := p.insist(func() answer { return p.wire.revoke(p.ctx(), g.client, g.now.Refresh) })
	if !ok {
		return
	}
	if a.status != http.StatusOK {
		p.l.w.oracle.violation("a revocation was refused", "person", p.name(), "answer", a.String())
		return
	}
	p.ended(g, "revoked")
}

// ended has all instances refuse the tokens of a grant from now on.
func (p *person) ended(g *grant, why string) {
	since := time.Now()
	p.l.w.oracle.ack(why, "person", p.name(), "refresh", mark(g.now.Refresh), "access", mark(g.now.Access))
	p.revoked = append(p.revoked, g)
	for _, in := range p.l.w.instances {
		for {
			asked := time.Since(since)
			a := p.l.w.to(in).call(p.ctx(), g.now.Access)
			if a.status == http.StatusUnauthorized {
				p.l.w.oracle.took(time.Since(since))
				break
			}
			if asked > seenWithin {
				if !a.lost() {
					p.l.w.oracle.violation("a revoked token is taken", "person", p.name(), "at", in.name, "access", mark(g.now.Access), "after", asked.String(), "answer", a.String())
				}
				break // it may be down for longer; looked at again at the end
			}
			time.Sleep(2 * retryPause)
		}
	}
}

// replay redeems one code several times at once: one succeeds at most, and the
// others' attempts end the grant (RFC 6749 section 4.1.2).
func (p *person) replay() {
	c, ok := p.newCode()
	if !ok {
		return
	}
	p.redeemAtOnce(c, func(int) wire { return p.wire }, 4)
}

// redeemAtOnce redeems a code by times requests, the i-th through over(i).
func (p *person) redeemAtOnce(c pending, over func(i int) wire, times int) {
	answers := make([]answer, times)
	var wg sync.WaitGroup
	for i := range times {
		wg.Go(func() { answers[i] = over(i).redeem(p.ctx(), c) })
	}
	wg.Wait()
	var won *grant
	refused, lost := 0, 0
	for _, a := range answers {
		switch {
		case a.lost():
			lost++
			p.l.w.oracle.lost("redeem", a)
		case a.status != http.StatusOK:
			refused++
		case won != nil:
			p.l.w.oracle.violation("a code was redeemed twice", "person", p.name(), "code", mark(c.code))
		default:
			won = p.granted(c, a)
		}
	}
	p.l.w.oracle.count("replayed")
	switch {
	case won != nil && refused > 0:
		p.ended(won, "revoked by replay")
	case won != nil && lost == 0:
		p.kept = append(p.kept, won)
	case won != nil:
		// One of those that were lost may have come second, and ended it.
	case lost == 0 && time.Since(c.since) < codeMargin:
		p.l.w.oracle.violation("nobody could redeem a code", "person", p.name(), "code", mark(c.code), "answer", answers[0].String())
	}
}

// revisit looks whether something that was revoked still is.
func (p *person) revisit() {
	if len(p.revoked) > 0 {
		p.gone(p.revoked[p.rng.IntN(len(p.revoked))])
	}
}

func (p *person) gone(g *grant) {
	if a, ok := p.insist(func() answer { return p.wire.call(p.ctx(), g.now.Access) }); ok && a.status != http.StatusUnauthorized {
		p.l.w.oracle.violation("a revoked token is taken again", "person", p.name(), "access", mark(g.now.Access), "answer", a.String())
	}
	if a, ok := p.insist(func() answer { return p.wire.refresh(p.ctx(), g.client, g.now.Refresh) }); ok && a.status != http.StatusBadRequest {
		p.l.w.oracle.violation("a revoked grant is refreshed", "person", p.name(), "refresh", mark(g.now.Refresh), "answer", a.String())
	}
	p.l.w.oracle.count("still revoked")
}

// verify checks all that was ever acknowledged, when the load is over and every
// instance is back.
func (l *load) verify() {
	var wg sync.WaitGroup
	for _, p := range l.people {
		wg.Go(func() {
			all := p.kept
			if p.grant != nil {
				all = append(all, p.grant)
			}
			for _, g := range all {
				p.alive(g)
			}
			for _, g := range p.revoked {
				p.gone(g)
			}
		})
	}
	wg.Wait()
}

// alive checks that a grant stands, by its access token and by its last refresh
// token, and that it has one future only.
func (p *person) alive(g *grant) {
	a, ok := p.insist(func() answer { return p.wire.call(p.ctx(), g.now.Access) })
	if ok && !a.sum() {
		p.l.w.oracle.violation("an acknowledged grant is lost: its access token is refused", "person", p.name(), "access", mark(g.now.Access), "answer", a.String())
	}
	p.stale(g)
	t := p.refresh(g, g.now.Refresh)
	if t.Refresh == "" {
		return
	}
	g.before, g.now = g.now.Refresh, t
	p.stale(g)
	if a, ok := p.insist(func() answer { return p.wire.call(p.ctx(), t.Access) }); ok && !a.sum() {
		p.l.w.oracle.violation("a fresh token is refused", "person", p.name(), "access", mark(t.Access), "answer", a.String())
	}
	p.l.w.oracle.count("verified")
}

// killer ends one instance again and again and starts it anew, until the
// budget, which all killers share, is used up.
func (w *world) killer(in *instance, budget *budget, rng *rand.Rand) error {
	var next *armed // the first was started with none
	for len(w.oracle.violations()) < enoughViolations && budget.take() {
		limit := time.Duration(100+rng.IntN(900)) * time.Millisecond
		cause := "at random"
		if next != nil {
			limit = 5 * time.Second
			cause = "late"
		}
		select {
		case <-in.ended:
			cause = "at " + next.name
		case <-w.ctx.Done():
			return w.ctx.Err()
		case <-time.After(limit):
			in.kill()
		}
		if !in.wasKilled() {
			return fmt.Errorf("%s ended by itself: %s", in.name, in.tail())
		}
		w.killed(cause)
		for {
			next = w.arm(rng)
			err := in.start(next.env()...)
			if err == nil {
				break
			}
			if next == nil || !errors.Is(err, errDied) {
				return err
			}
			if budget.take() {
				w.killed("at " + next.name + " while it started")
			}
		}
	}
	// What it was armed with last is taken away.
	in.kill()
	return in.start()
}

// budget is how many kills are left, and how long they go on at least.
type budget struct {
	mu    sync.Mutex
	left  int
	until time.Time
}

func (b *budget) take() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.left <= 0 && time.Now().After(b.until) {
		return false
	}
	b.left--
	return true
}

// armed is a failpoint that a process is started with.
type armed struct {
	name  string
	count int
}

// arm chooses a failpoint, or none, which means a random moment.
func (w *world) arm(rng *rand.Rand) *armed {
	if rng.IntN(3) == 0 {
		return nil
	}
	return &armed{w.points[rng.IntN(len(w.points))], 1 + rng.IntN(60)}
}

func (a *armed) env() []string {
	if a == nil {
		return nil
	}
	return []string{fmt.Sprintf("MCP_CLERK_FAILPOINT=%s:%d", a.name, a.count)}
}
