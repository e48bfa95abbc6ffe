package server

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/mcp-clerk/mcp-clerk/internal/clerk"
	"github.com/mcp-clerk/mcp-clerk/internal/identity"
)

// watchEvery is the pause between two looks at the users with open streams.
const watchEvery = 20 * time.Second

// news names the users about whom Clerk has said that something changed, until
// the watch has looked at them.
type news struct {
	wake chan struct{} // has one element when there are any

	mu       sync.Mutex
	everyone bool
	of       map[string]bool
}

// add takes up news of some users, or of everyone.
func (n *news) add(everyone bool, subjects ...string) {
	n.mu.Lock()
	n.everyone = n.everyone || everyone
	if n.of == nil {
		n.of = map[string]bool{}
	}
	for _, subject := range subjects {
		n.of[subject] = true
	}
	n.mu.Unlock()
	select {
	case n.wake <- struct{}{}:
	default:
	}
}

// take returns those of subjects of whom there are news, and drops all news:
// who has no open stream is asked about when they call.
func (n *news) take(subjects []string) []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	everyone, of := n.everyone, n.of
	n.everyone, n.of = false, nil
	if everyone {
		return subjects
	}
	return slices.DeleteFunc(subjects, func(subject string) bool { return !of[subject] })
}

// watcher owns the goroutine that watches.
type watcher struct {
	mu      sync.Mutex
	running sync.WaitGroup
	stop    context.CancelFunc // nil until it was started
	over    bool               // it is not started any more
}

// startWatch begins to watch, once.
func (s *Server) startWatch() {
	s.watcher.mu.Lock()
	defer s.watcher.mu.Unlock()
	if s.watcher.over || s.watcher.stop != nil {
		return
	}
	ctx, stop := context.WithCancel(context.Background())
	s.watcher.stop = stop
	s.watcher.running.Go(func() { s.watch(ctx, s.watchEvery) })
}

// stopWatch ends that for good.
func (s *Server) stopWatch() {
	s.watcher.mu.Lock()
	s.watcher.over = true
	if s.watcher.stop != nil {
		s.watcher.stop()
	}
	s.watcher.mu.Unlock()
	s.watcher.running.Wait()
}

// watch tells clients that listen when the tools of their user have changed,
// until ctx ends: at once where Clerk sends news, else at the next look.
func (s *Server) watch(ctx context.Context, every time.Duration) {
	seen := map[string]string{} // subject -> the tools they had
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		var listening []string
		told := false
		select {
		case <-ctx.Done():
			return
		case <-s.news.wake:
			listening, told = s.news.take(s.listening()), true
		case <-tick.C:
			listening = s.listening()
			for subject := range seen {
				if !slices.Contains(listening, subject) {
					delete(seen, subject)
				}
			}
		}
		matter := s.organisationsMatter()
		s.clerk.Survey(ctx, listening, matter, func(subject string, user identity.User, err error) {
			err = s.refusal(subject, &user, err)
			now := "refused"
			switch {
			case errors.Is(err, identity.ErrInvalidToken):
				// The next request of theirs is refused, and so is the next
				// stream.
				defer s.endpoint.EndStreams(is(subject))
				if errors.Is(err, identity.ErrNoUser) {
					s.endGone(ctx, subject)
				}
			case err == nil:
				now = "has " + s.toolsOf(&user)
				if !matter {
					break
				}
				for _, org := range organisationsOf(&user) {
					now += ", in " + org + " " + s.toolsOf(s.clerk.Within(&user, org))
				}
				s.endStreamsWithin(subject, &user)
			default:
				// Not known is no change; but who was to be told is told, since
				// nobody will say it again.
				if told {
					s.listsChanged(is(subject))
				}
				return
			}
			before, known := seen[subject]
			seen[subject] = now
			if known && before != now || !known && told {
				s.listsChanged(is(subject))
			}
		})
	}
}

// endGone ends what a user who is gone has left, best effort: the next look at
// them, or the next refresh of their clients, tries again.
func (s *Server) endGone(ctx context.Context, subject string) {
	ctx, cancel := context.WithTimeout(ctx, webhookTimeout)
	defer cancel()
	if err := s.auth.EndUser(ctx, subject); err != nil {
		s.log.WarnContext(ctx, "grants of a user who is gone not ended", "subject", subject, "error", err)
	}
}

// organisationsOf are the organisations that grants of user may be for.
func organisationsOf(user *identity.User) []string {
	orgs := []string{identity.NoOrganization}
	for _, m := range user.Memberships {
		orgs = append(orgs, m.OrgID)
	}
	slices.Sort(orgs)
	return orgs
}

// endStreamsWithin ends the streams of those grants of user whose organisation
// does not let them use the server any more.
func (s *Server) endStreamsWithin(subject string, user *identity.User) {
	if s.opts.Allowed.everyone() {
		return
	}
	s.endpoint.EndStreams(func(p *identity.Principal) bool {
		if p == nil || p.Subject != subject {
			return false
		}
		return !s.opts.Allowed.admits(user.Within(p.Organization))
	})
}

// listening are the users with open streams. About machines Clerk has no news.
func (s *Server) listening() []string {
	return slices.DeleteFunc(s.endpoint.Listening(), func(subject string) bool { return !clerk.IsUser(subject) })
}

func is(subject string) func(*identity.Principal) bool {
	return func(p *identity.Principal) bool { return p != nil && p.Subject == subject }
}

// toolsOf is a text that changes when the set of what a user has by a role does.
func (s *Server) toolsOf(user *identity.User) string {
	var names []string
	s.each(func(kind, name string, a *access) {
		if a.gated() && a.permits(user) {
			names = append(names, kind+":"+name)
		}
	})
	slices.Sort(names)
	return strings.Join(names, " ")
}

// organisationsMatter reports whether an organisation can give access, to the
// server or to anything that it offers.
func (s *Server) organisationsMatter() bool {
	if len(s.opts.Allowed.Organizations) > 0 || slices.ContainsFunc(s.opts.Clerk.RoleRules, RoleRule.OfOrganisation) {
		return true
	}
	matter := false
	s.each(func(_, _ string, a *access) {
		matter = matter || len(a.permissions) > 0 || slices.ContainsFunc(a.roles, func(role string) bool { return strings.HasPrefix(role, "org:") })
	})
	return matter
}
