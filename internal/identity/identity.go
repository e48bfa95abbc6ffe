// Package identity holds the values that say who is calling: the principal of
// an access token, the user behind it as Clerk knows them now, and the errors
// by which rooms that do not import each other agree on what went wrong.
//
// It imports no other room and does no I/O. A Principal says what a token
// grants; it never carries a role, because a role is only true when it is read.
package identity

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"time"
)

var (
	// ErrInvalidToken reports an access token that is malformed, expired,
	// revoked, or meant for another resource (RFC 6750 section 3.1).
	ErrInvalidToken = errors.New("invalid token")
	// ErrForbidden reports a caller whose token is good and who may not use the
	// server all the same: another token of theirs would change nothing (RFC 9110
	// section 15.5.4).
	ErrForbidden = errors.New("not allowed to use this server")
	// ErrUnavailable reports that the source of truth (the store, Clerk) could
	// not be asked. The caller may try again; access that needs the answer is
	// refused meanwhile.
	ErrUnavailable = errors.New("temporarily unavailable")
	// ErrNoUser reports a subject that Clerk does not know (any more).
	ErrNoUser = errors.New("no such user")
)

// Principal is what a valid access token says about its bearer.
type Principal struct {
	// Subject is Clerk's id of the user, "user_…". Where the operator lets
	// callers in that are no persons, it is that of a machine ("mch_…") or of an
	// organisation whose API key is used ("org_…").
	Subject   string
	Grant     string    // id of the grant the token was issued under, or what stands for one
	ClientID  string    // OAuth client the grant belongs to; the id of an API key, or the machine
	Resource  string    // audience (RFC 8707), the URL of the MCP endpoint
	Scopes    []string  // granted scopes
	AllScopes bool      // scopes do not limit the token
	Expires   time.Time // expiry of the access token; zero: it has none
	// Organization is the organisation ("org_…") that the grant was given for,
	// as it is now, or NoOrganization. The user's roles and permissions in
	// others do not count. "": the grant names none, and all of them count.
	Organization string
}

// NoOrganization is a choice of a person: none of their organisations.
const NoOrganization = "none"

// HasScope reports whether the token carries scope.
func (p *Principal) HasScope(scope string) bool {
	return p != nil && (p.AllScopes || slices.Contains(p.Scopes, scope))
}

// User is a person as Clerk describes them at the moment of asking.
type User struct {
	ID             string // "user_…"
	Email          string // primary address
	EmailVerified  bool   // Clerk says that Email is the primary address and theirs
	FirstName      string
	LastName       string
	ImageURL       string
	Roles          []string        // from publicMetadata.role, one string or a list, and by the operator's rules
	PublicMetadata json.RawMessage // as Clerk holds it; nil or an object
	Memberships    []Membership    // organisations, with the role in each
	Banned         bool
	Locked         bool
}

// Membership is a user's place in one Clerk organisation.
type Membership struct {
	OrgID       string
	OrgName     string
	OrgSlug     string
	Role        string   // "org:admin", "org:member" or a custom role
	Permissions []string // "org:feature:permission"
}

// Clone returns a copy that shares nothing with u.
func (u *User) Clone() *User {
	c := *u
	c.Roles = slices.Clone(u.Roles)
	c.PublicMetadata = slices.Clone(u.PublicMetadata)
	c.Memberships = slices.Clone(u.Memberships)
	for i := range c.Memberships {
		c.Memberships[i].Permissions = slices.Clone(c.Memberships[i].Permissions)
	}
	return &c
}

// HasRole reports whether the user holds one of roles: a role of public
// metadata ("admin"), or in any of their organisations a role ("org:admin") or
// a permission ("org:invoices:read"). With "@" and an organisation's id or slug
// behind it, the latter counts in that organisation only ("org:admin@org_1").
func (u *User) HasRole(roles ...string) bool {
	if u == nil {
		return false
	}
	for _, want := range roles {
		if slices.Contains(u.Roles, want) {
			return true
		}
		name, org, only := strings.Cut(want, "@")
		for i := range u.Memberships {
			if m := &u.Memberships[i]; (!only || m.In(org)) && m.grants(name) {
				return true
			}
		}
	}
	return false
}

// Within is the user as a grant for that organisation sees them: with no
// membership but that one. With "" they are unchanged. Roles that a membership
// gave by the operator's rules are still there: see clerk.Clerk.Within. u is
// unchanged.
func (u *User) Within(org string) *User {
	if org == "" {
		return u
	}
	within := *u
	within.Memberships = nil
	for _, m := range u.Memberships {
		if m.OrgID == org {
			within.Memberships = append(within.Memberships, m)
		}
	}
	return &within
}

// In reports whether the membership is one of the organisation with that id or
// slug. What looks like an id is one: slugs are chosen by users.
func (m *Membership) In(org string) bool {
	if strings.HasPrefix(org, "org_") {
		return m.OrgID == org
	}
	return org != "" && m.OrgSlug == org
}

func (m *Membership) grants(name string) bool {
	return name != "" && (m.Role == name || slices.Contains(m.Permissions, name))
}

// HasPermission reports whether the user holds one of permissions
// ("org:feature:permission") in an organisation.
func (u *User) HasPermission(permissions ...string) bool {
	if u == nil {
		return false
	}
	for i := range u.Memberships {
		for _, want := range permissions {
			if slices.Contains(u.Memberships[i].Permissions, want) {
				return true
			}
		}
	}
	return false
}

type principalKey struct{}

// NewContext returns a context that carries p.
func NewContext(ctx context.Context, p *Principal) context.Context {
	return context.WithValue(ctx, principalKey{}, p)
}

// FromContext returns the principal that NewContext put into ctx, or nil.
func FromContext(ctx context.Context) *Principal {
	p, _ := ctx.Value(principalKey{}).(*Principal)
	return p
}
