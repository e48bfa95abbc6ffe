package transport

import (
	"context"
	"sync"
)

// flights runs what several calls wait for once, under its own life: a call that
// gives up does not take it away from the others, or from the person who signs
// in meanwhile.
type flights struct {
	life context.Context //nolint:containedctx // the owner's life, ended by stop
	end  context.CancelFunc
	wg   sync.WaitGroup

	mu      sync.Mutex
	running map[string]*flight
}

type flight struct {
	done chan struct{}
	err  error
}

// do runs f, unless it is running under the same key already, and waits for it
// or for ctx.
func (g *flights) do(ctx context.Context, key string, f func(context.Context) error) error {
	g.mu.Lock()
	fl := g.running[key]
	if fl == nil {
		if g.life.Err() != nil {
			g.mu.Unlock()
			return context.Cause(g.life)
		}
		fl = &flight{done: make(chan struct{})}
		g.running[key] = fl
		g.wg.Go(func() {
			fl.err = f(g.life)
			g.mu.Lock()
			delete(g.running, key)
			g.mu.Unlock()
			close(fl.done)
		})
	}
	g.mu.Unlock()
	select {
	case <-fl.done:
		return fl.err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (g *flights) init() {
	g.running = map[string]*flight{}
	g.life, g.end = context.WithCancel(context.Background())
}

// stop ends the life of what runs; nothing is started any more.
func (g *flights) stop() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.end()
}

// wait waits, behind stop, until everything has ended or ctx has: a reader that
// has stopped reading must not keep the process.
func (g *flights) wait(ctx context.Context) {
	done := make(chan struct{})
	go func() {
		g.wg.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-ctx.Done():
	}
}

// waiters are the calls that wait for the same flight. Each is told when it
// begins to wait for the Authorizer, and when that is over: whoever of them
// started the flight.
type waiters struct {
	mu     sync.Mutex
	asking bool
	all    map[int]func(waiting bool)
	last   int
}

// join adds a call; leave takes it away again.
func (w *waiters) join(asks func(bool)) (leave func()) {
	if asks == nil {
		return func() {}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.last++
	number := w.last
	if w.all == nil {
		w.all = map[int]func(bool){}
	}
	w.all[number] = asks
	if w.asking {
		asks(true)
	}
	return func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.all, number)
		if w.asking {
			asks(false)
		}
	}
}

// tell tells all of them.
func (w *waiters) tell(waiting bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.asking = waiting
	for _, asks := range w.all {
		asks(waiting)
	}
}
