package clerk

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	clerksdk "github.com/clerk/clerk-sdk-go/v2"
	"github.com/clerk/clerk-sdk-go/v2/user"

	"github.com/mcp-clerk/mcp-clerk/internal/identity"
	"github.com/mcp-clerk/mcp-clerk/internal/secret"
)

// surveySize is how many ids one question may name (bapi specification, GET
// /v1/users, user_id).
const surveySize = 100

// surveyPace is the time between two requests of a survey: half of what Clerk
// allows, which is 100 requests in 10 s for a development instance and 1,000
// for others. The other half is for those who wait for an answer.
func surveyPace(key secret.String) time.Duration {
	if strings.HasPrefix(key.Reveal(), "sk_test_") {
		return 10 * time.Second / (100 / 2)
	}
	return 10 * time.Second / (1000 / 2)
}

// Survey looks at many users with few questions, a hundred users in each, and
// calls visit once for every one of subjects with what User would return. It
// takes its time: see surveyPace. Who is found to have changed is forgotten, so
// that User sees it too.
//
// Who is missing in an answer is asked about alone. Memberships are not part of such a question. With organisations set they are
// as current as User's, at one request for everyone who was not looked up within
// the last 60 s, and what was found is kept for User; without, they are missing
// where they are not known.
func (c *Clerk) Survey(ctx context.Context, subjects []string, organisations bool, visit func(subject string, u identity.User, err error)) {
	var ask []string
	for _, subject := range subjects {
		if !subjectForm.MatchString(subject) {
			visit(subject, identity.User{}, identity.ErrNoUser)
			continue
		}
		if organisations {
			if u, err, ok := c.Known(subject); ok && !errors.Is(err, identity.ErrUnavailable) {
				visit(subject, *u.Clone(), err)
				continue
			}
		}
		ask = append(ask, subject)
	}
	first := true
	next := func() error { // waits for the turn of a request
		if first {
			first = false
			return ctx.Err()
		}
		return c.sleep(ctx, c.pace)
	}
	var failure error // of Clerk: the rest is not asked for
	for chunk := range slices.Chunk(ask, surveySize) {
		var s survey
		var found map[string]*listedUser
		if failure == nil {
			if next() != nil {
				return
			}
			s = c.beginSurvey()
			found, failure = c.usersByID(ctx, chunk)
		}
		for _, subject := range chunk {
			v := found[subject]
			switch {
			case failure != nil:
				visit(subject, identity.User{}, fmt.Errorf("user %q: %w", subject, failure))
				continue
			case v == nil:
				// Nobody is signed out because a list was behind.
				if next() != nil {
					return
				}
				c.Forget(subject)
				u, err := c.User(ctx, subject)
				visit(subject, u, err)
				continue
			case !organisations:
				visit(subject, s.compare(subject, v), nil)
				continue
			}
			if next() != nil {
				return
			}
			memberships, err := c.memberships(ctx, subject)
			if err != nil {
				if !errors.Is(err, identity.ErrNoUser) {
					failure = err
				}
				visit(subject, identity.User{}, fmt.Errorf("user %q: %w", subject, err))
				continue
			}
			u := c.describe(&v.User, v.Deprovisioned, memberships)
			s.keep(subject, u)
			visit(subject, *u.Clone(), nil)
		}
	}
}

// survey is one question for up to a hundred users.
type survey struct {
	clerk   *Clerk
	asked   time.Time
	forgets uint64 // when it was asked: what was forgotten since must not come back
}

func (c *Clerk) beginSurvey() survey {
	c.dir.mu.Lock()
	defer c.dir.mu.Unlock()
	return survey{c, c.now(), c.dir.forgets}
}

// keep stores a whole answer for User.
func (s survey) keep(subject string, u identity.User) {
	d := &s.clerk.dir
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.forgets == s.forgets {
		d.putLocked(subject, &entry{user: u, asked: s.asked})
	}
}

// compare completes what Clerk says about a user with the memberships that are
// known, and forgets these if anything else is not as it was.
func (s survey) compare(subject string, v *listedUser) identity.User {
	known, err, ok := s.clerk.Known(subject)
	if !ok {
		known = &identity.User{}
	}
	u := s.clerk.describe(&v.User, v.Deprovisioned, known.Memberships)
	if ok && (err != nil || !slices.Equal(u.Roles, known.Roles) || u.Banned != known.Banned || u.Locked != known.Locked ||
		u.Email != known.Email || u.EmailVerified != known.EmailVerified) {
		s.clerk.Forget(subject)
	}
	return u
}

// Find returns the users with these ids, and those with that e-mail address if
// it is not "": who they are, without organisations and the roles that these
// give. At most 100 of each are found, each in one question; who is not known is
// missing. The error is as User's.
func (c *Clerk) Find(ctx context.Context, ids []string, email string) ([]identity.User, error) {
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	var questions []user.ListParams
	if ids = slices.DeleteFunc(slices.Clone(ids), func(id string) bool { return !subjectForm.MatchString(id) }); len(ids) > 0 {
		questions = append(questions, user.ListParams{UserIDs: ids[:min(len(ids), surveySize)]})
	}
	if email != "" {
		questions = append(questions, user.ListParams{EmailAddresses: []string{email}})
	}
	var found []identity.User
	for _, params := range questions {
		list, err := c.listUsers(ctx, params)
		if err != nil {
			return nil, err
		}
		for _, v := range list {
			if v != nil && !slices.ContainsFunc(found, func(u identity.User) bool { return u.ID == v.ID }) {
				found = append(found, c.describe(&v.User, v.Deprovisioned, nil))
			}
		}
	}
	return found, nil
}

// usersByID reads users in one request.
func (c *Clerk) usersByID(ctx context.Context, ids []string) (map[string]*listedUser, error) {
	list, err := c.listUsers(ctx, user.ListParams{UserIDs: ids})
	if err != nil {
		return nil, err
	}
	found := map[string]*listedUser{}
	for _, v := range list {
		if v == nil || !slices.Contains(ids, v.ID) {
			return nil, unavailable("read users", errors.New("the answer is not about the users who were asked for"))
		}
		found[v.ID] = v
	}
	return found, nil
}

// listUsers asks for one page of users. The SDK's List would ask for their number
// as well.
func (c *Clerk) listUsers(ctx context.Context, params user.ListParams) (list userList, err error) {
	params.Limit = clerksdk.Int64(surveySize)
	err = c.ask(ctx, "read users", func(ctx context.Context) error {
		req := clerksdk.NewAPIRequest(http.MethodGet, "/users")
		req.SetParams(&params)
		list = nil
		return c.users.Backend.Call(ctx, req, &list)
	})
	return list, err
}

// userList is Clerk's answer, an array.
type userList []*listedUser

type listedUser struct {
	clerksdk.User
	Deprovisioned bool `json:"deprovisioned"` // see deprovisioned
}

// Read implements clerksdk.ResponseReader.
func (*userList) Read(*clerksdk.APIResponse) {}
