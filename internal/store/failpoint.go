//go:build failpoints

package store

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
)

// failpointEnv names the failpoint at which this process kills itself, and at
// which of its visits: "before-commit:3". Unset, nothing happens.
const failpointEnv = "MCP_CLERK_FAILPOINT"

// logKeep is how full a file of the log gets. It is short here, so that
// checkpoints are under way all the time.
const logKeep = 64 << 10

// armed is what failpointEnv asks for.
var armed = readFailpoint(os.Getenv(failpointEnv))

type armedFailpoint struct {
	name string
	left atomic.Int64
}

// readFailpoint panics for what it cannot read: a harness that asks for a kill
// must not go on without one.
func readFailpoint(spec string) *armedFailpoint {
	if spec == "" {
		return &armedFailpoint{}
	}
	name, count, found := strings.Cut(spec, ":")
	n, err := strconv.ParseInt(count, 10, 64)
	if !found || name == "" || err != nil || n < 1 {
		panic(fmt.Sprintf("%s=%q is not NAME:COUNT", failpointEnv, spec))
	}
	p := &armedFailpoint{name: name}
	p.left.Store(n)
	return p
}

// failpoint ends the process as kill -9 does, if this is the visit of the place
// called name that was asked for. Only builds with the tag "failpoints", which
// no release has, can do that.
func failpoint(name string) {
	if armed.name != name || armed.left.Add(-1) != 0 {
		return
	}
	self, err := os.FindProcess(os.Getpid())
	if err == nil {
		err = self.Kill()
	}
	if err != nil {
		panic(fmt.Sprintf("failpoint %q: %v", name, err))
	}
	select {} // the signal is on its way, and nothing may happen before it
}

// WithFailpoints returns a store with the failpoints before-commit and
// after-commit around every write to st: the first before anything was sent or
// written, the second when the write is durable and nobody has heard of it.
func WithFailpoints(st Store) Store { return &failing{st} }

type failing struct{ Store }

func (s *failing) Create(ctx context.Context, r Record) error {
	failpoint("before-commit")
	err := s.Store.Create(ctx, r)
	afterCommit(err)
	return err
}

func (s *failing) Update(ctx context.Context, key string, f UpdateFunc) (Record, error) {
	failpoint("before-commit")
	r, err := s.Store.Update(ctx, key, f)
	afterCommit(err)
	return r, err
}

func (s *failing) Take(ctx context.Context, key string) (Record, error) {
	failpoint("before-commit")
	r, err := s.Store.Take(ctx, key)
	afterCommit(err)
	return r, err
}

func (s *failing) Delete(ctx context.Context, key string) error {
	failpoint("before-commit")
	err := s.Store.Delete(ctx, key)
	afterCommit(err)
	return err
}

func afterCommit(err error) {
	if err == nil {
		failpoint("after-commit")
	}
}
