package clerk

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	clerksdk "github.com/clerk/clerk-sdk-go/v2"
	"github.com/clerk/clerk-sdk-go/v2/user"

	"github.com/mcp-clerk/mcp-clerk/internal/identity"
)

const (
	userAge       = 60 * time.Second // a change at Clerk takes effect after that at the latest
	noUserAge     = 10 * time.Second // how long "no such user" is believed
	failureAge    = 2 * time.Second  // how long a failure spares Clerk the next question
	lookupTimeout = 6 * time.Second  // a whole lookup with its retries
	maxEntries    = 10_000
	maxPause      = 60 * time.Second // longest Retry-After that is believed
	pageSize      = 100
	maxPages      = 10
	maxTries      = 3
)

// directory is what was read about users, and what is being read.
type directory struct {
	lookups shared[identity.User]

	mu      sync.Mutex
	entries map[string]*entry // never changed, only replaced
	forgets uint64            // grows with every Forget
	pause   time.Time         // Clerk asked for no request before
}

type entry struct {
	user  identity.User
	err   error
	asked time.Time // when the question was sent: the answer is no younger
}

// User returns the user with that id as Clerk describes them, at most 60 s
// old, with roles and organisations. It wraps identity.ErrNoUser when Clerk
// does not know the user (any more) and identity.ErrUnavailable when Clerk
// can't be asked. Whether the user is banned or locked is for the caller to judge.
func (c *Clerk) User(ctx context.Context, subject string) (identity.User, error) {
	if !subjectForm.MatchString(subject) {
		return identity.User{}, fmt.Errorf("user %.40q: %w", subject, identity.ErrNoUser)
	}
	d := &c.dir
	if u, err, ok := c.Known(subject); ok {
		return *u.Clone(), err
	}
	var asked time.Time
	u, err := d.lookups.do(ctx, c, subject, func(ctx context.Context) (identity.User, error) {
		asked = c.now()
		ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
		defer cancel()
		u, err := c.lookup(ctx, subject)
		if err != nil {
			return identity.User{}, fmt.Errorf("user %q: %w", subject, err)
		}
		return u, nil
	}, func(u identity.User, err error) {
		d.put(subject, &entry{user: u, err: err, asked: asked})
	})
	return *u.Clone(), err
}

// Forget drops what is known about a user, so that the next User asks Clerk.
// A lookup that is under way is not believed by anyone who asks from now on.
func (c *Clerk) Forget(subject string) {
	c.dir.lookups.forget(subject)
	c.dir.mu.Lock()
	defer c.dir.mu.Unlock()
	c.dir.forgets++
	delete(c.dir.entries, subject)
}

// ForgetAll is Forget for everyone.
func (c *Clerk) ForgetAll() {
	c.dir.lookups.forgetAll()
	c.dir.mu.Lock()
	defer c.dir.mu.Unlock()
	c.dir.forgets++
	clear(c.dir.entries)
}

// Known returns what User would answer without asking Clerk; known is false
// where it would have to ask. The user is the one that all are given: read only.
func (c *Clerk) Known(subject string) (u *identity.User, err error, known bool) { //nolint:revive // the error is the answer
	c.dir.mu.Lock()
	e, ok := c.dir.entries[subject]
	c.dir.mu.Unlock()
	if !ok || !e.current(c.now()) {
		return nil, nil, false
	}
	return &e.user, e.err, true
}

func (e *entry) current(now time.Time) bool {
	limit := userAge
	switch {
	case errors.Is(e.err, identity.ErrNoUser):
		limit = noUserAge
	case e.err != nil:
		limit = failureAge
	}
	// A clock that was put back must not stretch the time.
	age := now.Sub(e.asked)
	return age >= 0 && age < limit
}

// put stores e, and keeps the number of entries bounded: of a few the oldest goes.
func (d *directory) put(subject string, e *entry) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.putLocked(subject, e)
}

func (d *directory) putLocked(subject string, e *entry) {
	if _, ok := d.entries[subject]; !ok && len(d.entries) >= maxEntries {
		oldest, seen := "", 0
		for k, v := range d.entries {
			if oldest == "" || v.asked.Before(d.entries[oldest].asked) {
				oldest = k
			}
			if seen++; seen == 8 {
				break
			}
		}
		delete(d.entries, oldest)
	}
	d.entries[subject] = e
}

// lookup reads a user and their memberships.
func (c *Clerk) lookup(ctx context.Context, subject string) (identity.User, error) {
	var found *clerksdk.User
	err := c.ask(ctx, "read the user", func(ctx context.Context) (err error) {
		found, err = c.users.Get(ctx, subject)
		return err
	})
	if err != nil {
		return identity.User{}, err
	}
	if found.ID != subject {
		return identity.User{}, unavailable("read the user", errors.New("the answer is not about the user who was asked for"))
	}
	memberships, err := c.memberships(ctx, subject)
	if err != nil {
		return identity.User{}, err
	}
	return c.describe(found, deprovisioned(found), memberships), nil
}

func (c *Clerk) memberships(ctx context.Context, subject string) ([]identity.Membership, error) {
	var all []identity.Membership
	for page := range maxPages {
		params := &user.ListOrganizationMembershipsParams{}
		params.Limit = clerksdk.Int64(pageSize)
		params.Offset = clerksdk.Int64(int64(page * pageSize))
		var list *clerksdk.OrganizationMembershipList
		err := c.ask(ctx, "read the user's organisations", func(ctx context.Context) (err error) {
			list, err = c.users.ListOrganizationMemberships(ctx, subject, params)
			return err
		})
		if errors.Is(err, errNoOrganisations) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		for _, m := range list.OrganizationMemberships {
			if m == nil || m.Organization == nil {
				continue
			}
			all = append(all, identity.Membership{
				OrgID: m.Organization.ID, OrgName: m.Organization.Name, OrgSlug: m.Organization.Slug,
				Role: m.Role, Permissions: m.Permissions,
			})
		}
		if len(list.OrganizationMemberships) < pageSize {
			return all, nil
		}
	}
	// Roles that are not seen are roles that are not given.
	c.log.Warn("a user has more organisations than are read", "user", subject, "read", len(all))
	return all, nil
}

// describe makes one description of what Clerk says in two answers.
func (c *Clerk) describe(v *clerksdk.User, deprovisioned bool, memberships []identity.Membership) identity.User {
	u := identity.User{
		ID:          v.ID,
		Banned:      v.Banned || deprovisioned,
		Locked:      v.Locked,
		Roles:       rolesUnder(v.PublicMetadata, c.roleKey),
		Memberships: memberships,
	}
	u.Email, u.EmailVerified = primaryEmail(v)
	for to, from := range map[*string]*string{&u.FirstName: v.FirstName, &u.LastName: v.LastName, &u.ImageURL: v.ImageURL} {
		if from != nil {
			*to = *from
		}
	}
	var object map[string]json.RawMessage
	if json.Unmarshal(v.PublicMetadata, &object) == nil && object != nil {
		u.PublicMetadata = v.PublicMetadata
	}
	giveRoles(&u, c.roleRules)
	return u
}

// deprovisioned reports whether the user is "restricted from signing in", as one
// who is banned is; the SDK doesn't know it yet (bapi specification, schema User).
func deprovisioned(v *clerksdk.User) bool {
	var more struct {
		Deprovisioned bool `json:"deprovisioned"`
	}
	return v.Response != nil && json.Unmarshal(v.Response.RawJSON, &more) == nil && more.Deprovisioned
}

// primaryEmail returns the primary address, or the only one, unless Clerk says
// that it isn't verified; and whether Clerk says that it is both.
func primaryEmail(v *clerksdk.User) (address string, verified bool) {
	for _, a := range v.EmailAddresses {
		if a == nil || v.PrimaryEmailAddressID != nil && a.ID != *v.PrimaryEmailAddressID ||
			v.PrimaryEmailAddressID == nil && len(v.EmailAddresses) > 1 {
			continue
		}
		if a.Verification != nil && a.Verification.Status != "verified" {
			return "", false
		}
		return a.EmailAddress, a.Verification != nil && v.PrimaryEmailAddressID != nil
	}
	return "", false
}

// errNoOrganisations reports an instance that has organisations switched off:
// Clerk then answers 403 with that code.
var errNoOrganisations = errors.New("organisations are switched off")

const codeNoOrganisations = "organization_not_enabled_in_instance"

// ask makes one call of the Backend API, again when it may help: after a 429
// as Clerk says, after a failure of Clerk's once it had a moment. These are
// reads, so that asking twice changes nothing.
func (c *Clerk) ask(ctx context.Context, what string, call func(context.Context) error) error {
	var last error
	for try := 1; try <= maxTries; try++ {
		if err := c.awaitPause(ctx, what); err != nil {
			return err
		}
		noted, note := noteAnswer(ctx)
		err := call(noted)
		if err == nil {
			return nil
		}
		code := errorCode(err)
		switch s := note.status; {
		case s == http.StatusNotFound && code == "resource_not_found":
			return identity.ErrNoUser
		case s == http.StatusForbidden && code == codeNoOrganisations:
			return errNoOrganisations
		case s == http.StatusUnauthorized, s == http.StatusForbidden:
			c.log.Error("Clerk refuses the secret key", "status", s)
			return unavailable(what, fmt.Errorf("Clerk refuses the secret key with status %d", s))
		case s == http.StatusTooManyRequests:
			last = errors.New("status 429")
			c.pauseFor(note)
			continue // with awaitPause
		case s >= 500:
			last = fmt.Errorf("status %d", s)
		case s >= 400:
			return unavailable(what, statusError(s))
		default:
			last = reason(err)
			if errors.Is(last, errTooLarge) || errors.Is(last, errRedirect) {
				return unavailable(what, last)
			}
		}
		if try < maxTries && c.sleep(ctx, time.Duration(try)*200*time.Millisecond) != nil {
			break
		}
	}
	return unavailable(what, last)
}

// statusError is an answer of Clerk's that trying again doesn't change.
type statusError int

func (e statusError) Error() string { return fmt.Sprintf("status %d", int(e)) }

// errorCode is the code in Clerk's error body, if the answer had one.
func errorCode(err error) string {
	var api *clerksdk.APIErrorResponse
	if errors.As(err, &api) && len(api.Errors) > 0 {
		return api.Errors[0].Code
	}
	return ""
}

// pauseFor keeps all requests back for as long as Clerk asks. Its limit is one
// for the whole instance, so that other users' lookups would only add to it.
func (c *Clerk) pauseFor(note *answer) {
	now := c.now()
	wait, ok := note.retryAfter(now)
	if !ok {
		wait = time.Second
	}
	until := now.Add(min(max(wait, 100*time.Millisecond), maxPause))
	c.dir.mu.Lock()
	defer c.dir.mu.Unlock()
	if until.After(c.dir.pause) {
		c.dir.pause = until
	}
}

// awaitPause waits until Clerk may be asked again, or refuses at once if that
// is later than the caller can wait.
func (c *Clerk) awaitPause(ctx context.Context, what string) error {
	c.dir.mu.Lock()
	wait := c.dir.pause.Sub(c.now())
	c.dir.mu.Unlock()
	if wait <= 0 || wait > maxPause {
		return nil
	}
	limited := errors.New("Clerk's rate limit is reached")
	if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) < wait {
		return unavailable(what, limited)
	}
	if c.sleep(ctx, wait) != nil {
		return unavailable(what, limited)
	}
	return nil
}
