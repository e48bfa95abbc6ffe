package devclerk

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"
)

// The ids of the default users. They never change, so that what was stored
// about a user is still theirs after a restart.
const (
	AdminID  = "user_2dEvCLerkAdm1n000000000001"
	MemberID = "user_2dEvCLerkMemb3r00000000002"
)

// User is one user of the stand-in.
type User struct {
	ID              string // "user_…"; "": made up
	Email           string // primary address
	Username        string
	FirstName       string
	LastName        string
	ImageURL        string
	PublicMetadata  map[string]any // "role" lies here
	PrivateMetadata map[string]any
	UnsafeMetadata  map[string]any // what users can write themselves
	Unverified      bool           // the address is not verified
	Memberships     []Membership
	Banned          bool
	Locked          bool
}

// Membership is a user's place in an organisation.
type Membership struct {
	OrgID       string   // "org_…"
	OrgName     string   // "": OrgSlug
	OrgSlug     string   // "": OrgID
	Role        string   // "org:admin", "org:member" or a custom key
	Permissions []string // "org:feature:permission"
}

// DefaultUsers returns the users of a development server: admin@example.com
// with the role admin, and member@example.com with none.
func DefaultUsers() []User {
	return []User{{
		ID: AdminID, Email: "admin@example.com", FirstName: "Ada", LastName: "Lindqvist",
		ImageURL: imageURL(AdminID, "AL"), PublicMetadata: map[string]any{"role": "admin"},
	}, {
		ID: MemberID, Email: "member@example.com", FirstName: "Milan", LastName: "Becker",
		ImageURL: imageURL(MemberID, "MB"),
	}}
}

// imageURL has the form of Clerk's generated avatars: the parameters as JSON
// in base64, as the image_url of users without a picture shows them.
func imageURL(id, initials string) string {
	b, err := json.Marshal(map[string]string{"type": "default", "rid": id, "initials": initials})
	if err != nil {
		panic(err) // a map of strings always marshals
	}
	return "https://img.clerk.com/" + base64.RawStdEncoding.EncodeToString(b)
}

// account is a user with what Clerk adds to it.
type account struct {
	User
	emailID          string
	created, updated time.Time
}

// AddUser adds u. Ids and e-mail addresses are unique.
func (s *Server) AddUser(u User) error {
	if !strings.Contains(u.Email, "@") {
		return fmt.Errorf("user %q: needs an e-mail address", u.Email)
	}
	if u.ID == "" {
		u.ID = randomID("user_")
	}
	if !strings.HasPrefix(u.ID, "user_") {
		return fmt.Errorf("user id %q: must start with user_", u.ID)
	}
	u, err := u.clone()
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if slices.ContainsFunc(s.users, func(a *account) bool { return a.ID == u.ID }) {
		return fmt.Errorf("user %q: exists", u.ID)
	}
	now := s.now()
	s.users = append(s.users, &account{User: u, emailID: randomID("idn_"), created: now, updated: now})
	return nil
}

// clone copies u so that neither side sees the other's changes, and refuses
// metadata that JSON can't hold.
func (u User) clone() (User, error) {
	for _, m := range []*map[string]any{&u.PublicMetadata, &u.PrivateMetadata, &u.UnsafeMetadata} {
		b, err := json.Marshal(*m)
		if err != nil {
			return User{}, fmt.Errorf("metadata of %q: %w", u.Email, err)
		}
		*m = nil
		if err := json.Unmarshal(b, m); err != nil {
			return User{}, fmt.Errorf("metadata of %q: %w", u.Email, err)
		}
		if *m == nil {
			*m = map[string]any{}
		}
	}
	u.Memberships = slices.Clone(u.Memberships)
	for i := range u.Memberships {
		u.Memberships[i].Permissions = slices.Clone(u.Memberships[i].Permissions)
	}
	return u, nil
}

// find returns the account of id. s.mu is held.
func (s *Server) find(id string) *account {
	for _, a := range s.users {
		if a.ID == id {
			return a
		}
	}
	return nil
}

// account returns a copy of the account of id.
func (s *Server) account(id string) (account, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.find(id)
	if a == nil {
		return account{}, false
	}
	return a.copy(), true
}

func (a *account) copy() account {
	c := *a
	u, err := a.User.clone()
	if err != nil {
		panic(err) // it was marshalled once already
	}
	c.User = u
	return c
}

// accounts returns copies of all accounts, in order of creation.
func (s *Server) accounts() []account {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]account, len(s.users))
	for i, a := range s.users {
		list[i] = a.copy()
	}
	return list
}

// update changes the account of id under the lock, and says so by webhook.
func (s *Server) update(id string, change func(*account)) error {
	a, err := s.change(id, change)
	if err != nil {
		return err
	}
	s.deliver(s.event("user.updated", userJSON(a)))
	return nil
}

// change changes the account of id under the lock and returns a copy of it.
func (s *Server) change(id string, change func(*account)) (account, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.find(id)
	if a == nil {
		return account{}, fmt.Errorf("%w %q", errUnknownUser, id)
	}
	change(a)
	a.updated = s.now()
	return a.copy(), nil
}

// SetRole sets publicMetadata.role of a user; "" removes it.
func (s *Server) SetRole(id, role string) error {
	return s.update(id, func(a *account) {
		if role == "" {
			delete(a.PublicMetadata, "role")
			return
		}
		a.PublicMetadata["role"] = role
	})
}

// SetPublicMetadata replaces the public metadata of a user.
func (s *Server) SetPublicMetadata(id string, metadata map[string]any) error {
	u, err := User{PublicMetadata: metadata}.clone()
	if err != nil {
		return err
	}
	return s.update(id, func(a *account) { a.PublicMetadata = u.PublicMetadata })
}

// SetUnsafeMetadata replaces the metadata that the user can write.
func (s *Server) SetUnsafeMetadata(id string, metadata map[string]any) error {
	u, err := User{UnsafeMetadata: metadata}.clone()
	if err != nil {
		return err
	}
	return s.update(id, func(a *account) { a.UnsafeMetadata = u.UnsafeMetadata })
}

// SetEmail changes the primary address of a user.
func (s *Server) SetEmail(id, email string) error {
	return s.update(id, func(a *account) { a.Email = email })
}

// SetVerified says whether the address of a user is verified.
func (s *Server) SetVerified(id string, verified bool) error {
	return s.update(id, func(a *account) { a.Unverified = !verified })
}

// Ban bans a user: "all their sessions are revoked and they are not allowed to
// sign in again" (bapi specification, POST /users/{user_id}/ban).
func (s *Server) Ban(id string) error {
	var ended []session
	a, err := s.change(id, func(a *account) { a.Banned = true; ended = s.endSessions(id) })
	if err != nil {
		return err
	}
	events := []Webhook{s.event("user.updated", userJSON(a))}
	for _, v := range ended {
		events = append(events, s.event("session.revoked", s.sessionJSON(v)))
	}
	s.deliver(events...)
	return nil
}

// Unban takes a ban back.
func (s *Server) Unban(id string) error {
	return s.update(id, func(a *account) { a.Banned = false })
}

// Lock locks a user, as Clerk does after too many failed attempts: they can't
// sign in. Sessions go on.
func (s *Server) Lock(id string) error {
	return s.update(id, func(a *account) { a.Locked = true })
}

// Unlock takes a lock back.
func (s *Server) Unlock(id string) error {
	return s.update(id, func(a *account) { a.Locked = false })
}

// Delete deletes a user, and with it their sessions and tokens.
func (s *Server) Delete(id string) error {
	s.mu.Lock()
	i := slices.IndexFunc(s.users, func(a *account) bool { return a.ID == id })
	if i >= 0 {
		s.users = slices.Delete(s.users, i, i+1)
		s.endSessions(id)
	}
	s.mu.Unlock()
	if i < 0 {
		return fmt.Errorf("%w %q", errUnknownUser, id)
	}
	s.deliver(s.event("user.deleted", deletedJSON(id)))
	return nil
}

// AddMembership puts a user into an organisation, or changes their role in it.
func (s *Server) AddMembership(id string, m Membership) error {
	if !strings.HasPrefix(m.OrgID, "org_") || !strings.HasPrefix(m.Role, "org:") {
		return fmt.Errorf("membership of %q as %q: the organisation id starts with org_, the role with org:", m.OrgID, m.Role)
	}
	m.Permissions = slices.Clone(m.Permissions)
	kind := "organizationMembership.created"
	a, err := s.change(id, func(a *account) {
		others := slices.DeleteFunc(a.Memberships, func(o Membership) bool { return o.OrgID == m.OrgID })
		if len(others) < len(a.Memberships) {
			kind = "organizationMembership.updated"
		}
		a.Memberships = append(others, m)
	})
	if err != nil {
		return err
	}
	s.deliver(s.event(kind, membershipJSON(a, m)))
	return nil
}

// RemoveMembership takes a user out of an organisation.
func (s *Server) RemoveMembership(id, orgID string) error {
	var removed []Membership
	a, err := s.change(id, func(a *account) {
		a.Memberships = slices.DeleteFunc(a.Memberships, func(o Membership) bool {
			if o.OrgID != orgID {
				return false
			}
			removed = append(removed, o)
			return true
		})
	})
	if err != nil {
		return err
	}
	for _, m := range removed {
		s.deliver(s.event("organizationMembership.deleted", membershipJSON(a, m)))
	}
	return nil
}

// endSessions ends the sessions and tokens of a user and returns the former.
// s.mu is held.
func (s *Server) endSessions(id string) (ended []session) {
	for k, v := range s.sessions {
		if v.user == id {
			ended = append(ended, v)
			delete(s.sessions, k)
		}
	}
	for k, v := range s.tokens {
		if v.user == id {
			delete(s.tokens, k)
		}
	}
	return ended
}
