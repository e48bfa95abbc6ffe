package server

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/mcp-clerk/mcp-clerk/internal/identity"
)

const (
	// watchEvery is the pause between two looks at the users with open
	// streams. What is known about a user is up to 60 seconds old.
	watchEvery = 20 * time.Second
	// watchPace spreads the questions to Clerk: at two requests a user it
	// stays below half of the 100 in 10 seconds that development instances
	// are allowed.
	watchPace = 450 * time.Millisecond
)

// watch tells clients that listen when the tools of their user have changed,
// until ctx ends.
func (s *Server) watch(ctx context.Context, every, pace time.Duration) {
	seen := map[string]string{} // subject -> the tools they had
	for wait(ctx, every) {
		listening := s.endpoint.Listening()
		for subject := range seen {
			if !slices.Contains(listening, subject) {
				delete(seen, subject)
			}
		}
		for i, subject := range listening {
			if i > 0 && !wait(ctx, pace) {
				return
			}
			now, err := s.toolsOf(ctx, subject)
			if err != nil {
				continue // not known is no change
			}
			before, known := seen[subject]
			seen[subject] = now
			if known && before != now {
				s.listsChanged(func(p *identity.Principal) bool { return p != nil && p.Subject == subject })
			}
		}
	}
}

// toolsOf is a text that changes when the set of what a user has by a role does.
func (s *Server) toolsOf(ctx context.Context, subject string) (string, error) {
	user, err := s.clerk.User(ctx, subject)
	if errors.Is(err, identity.ErrNoUser) {
		user, err = identity.User{}, nil
	}
	if err != nil {
		return "", err
	}
	var names []string
	if !user.Banned {
		s.each(func(kind, name string, a *access) {
			if a.gated() && a.permits(&user) {
				names = append(names, kind+":"+name)
			}
		})
	}
	slices.Sort(names)
	return strings.Join(names, " "), nil
}

// wait reports whether d went by before ctx ended.
func wait(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
