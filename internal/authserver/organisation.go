package authserver

import (
	"cmp"
	"context"
	"slices"

	"github.com/mcp-clerk/mcp-clerk/internal/identity"
)

// A grant is given for one organisation: what the person may do in others is
// none of the application's business. Who is in one has nothing to choose; who
// is in several chooses on the page that names their account.

// organisationView is one answer to "for which organisation?".
type organisationView struct {
	ID     string // "org_…" or identity.NoOrganization
	Name   string
	Chosen bool
}

// organisations are the answers that u has, none if there is nothing to choose:
// only organisations in which u may use the server are offered.
func (s *Server) organisations(u *identity.User, chosen string) []organisationView {
	var list []organisationView
	for _, m := range u.Memberships {
		if s.admitsWithin(u, m.OrgID) {
			list = append(list, organisationView{ID: m.OrgID, Name: cmp.Or(displayText(m.OrgName, 60), displayText(m.OrgSlug, 60), m.OrgID)})
		}
	}
	slices.SortFunc(list, func(a, b organisationView) int { return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.ID, b.ID)) })
	if len(u.Memberships) > 0 && s.admitsWithin(u, identity.NoOrganization) {
		list = append(list, organisationView{ID: identity.NoOrganization, Name: "None of them, only my own account"})
	}
	for i := range list {
		list[i].Chosen = list[i].ID == chosen
	}
	return list
}

func (s *Server) admitsWithin(u *identity.User, org string) bool {
	if s.opts.Admit == nil {
		return true
	}
	return s.opts.Admit(u.Within(org))
}

// chooseOrganisation is the organisation that a grant of u is for, with what u
// has chosen, or ok is false if u has to be asked. Who is in none gives the
// grant for none in particular: one that they join counts.
func (s *Server) chooseOrganisation(u *identity.User, chosen string) (org string, ok bool) {
	list := s.organisations(u, chosen)
	for _, o := range list {
		if o.Chosen {
			return o.ID, true
		}
	}
	switch {
	case len(u.Memberships) == 0:
		return "", true
	case len(u.Memberships) == 1 || len(list) == 1:
		if len(list) == 0 {
			return "", true // who may use the server in none may not use it, which is said elsewhere
		}
		return list[0].ID, true
	}
	return "", false
}

// question is what subject is asked on a page that names them: the
// organisations, where there is a choice. Where the directory cannot be asked
// there is no question now; it is asked again before anything is given.
func (s *Server) question(ctx context.Context, subject, chosen string) []organisationView {
	u, _, err := s.refusedUser(ctx, subject)
	if err != nil || u == nil {
		return nil
	}
	if _, ok := s.chooseOrganisation(u, ""); ok {
		return nil
	}
	return s.organisations(u, chosen)
}
