package identity_test

import (
	"slices"
	"testing"

	"github.com/mcp-clerk/mcp-clerk/internal/identity"
)

func TestRolesComeFromMetadataAndFromOrganizations(t *testing.T) {
	user := &identity.User{
		Roles: []string{"premium"},
		Memberships: []identity.Membership{
			{OrgID: "org_1", Role: "org:admin"},
			{OrgID: "org_2", OrgSlug: "acme", Role: "org:member", Permissions: []string{"org:invoices:read"}},
			{OrgID: "org_3"},
			{OrgID: "org_4", OrgSlug: "org_5", Role: "org:member"},
		},
	}
	for _, tt := range []struct {
		user  *identity.User
		roles []string
		want  bool
	}{
		{user, []string{"premium"}, true},
		{user, []string{"admin", "premium"}, true},
		{user, []string{"org:admin"}, true},
		{user, []string{"admin"}, false}, // an organisation's admin is not the server's
		{user, []string{"Premium"}, false},
		{user, []string{"org:invoices:read"}, true}, // a permission counts as a role
		{user, []string{"org:admin@org_1"}, true},
		{user, []string{"org:admin@org_2"}, false},
		{user, []string{"org:member@acme"}, true},
		{user, []string{"org:invoices:read@acme"}, true},
		{user, []string{"org:invoices:read@org_1"}, false},
		{user, []string{"org:member@org_5"}, false}, // its slug, chosen to be taken for an id
		{user, []string{"org:admin@"}, false},
		{user, []string{"@org_3"}, false},
		{user, []string{"@"}, false},
		{user, []string{"premium@org_1"}, false}, // a role of metadata is of no organisation
		{user, []string{""}, false},
		{user, nil, false},
		{&identity.User{}, []string{"admin"}, false},
		{nil, []string{"admin"}, false},
	} {
		if got := tt.user.HasRole(tt.roles...); got != tt.want {
			t.Errorf("%+v has one of %q: %v, want %v", tt.user, tt.roles, got, tt.want)
		}
	}
}

func TestThePrincipalTravelsInTheContext(t *testing.T) {
	if got := identity.FromContext(t.Context()); got != nil {
		t.Errorf("found %+v in a bare context", got)
	}
	p := &identity.Principal{Subject: "user_1", Scopes: []string{"mcp:tools"}}
	if got := identity.FromContext(identity.NewContext(t.Context(), p)); got != p {
		t.Errorf("got %+v", got)
	}
	var none *identity.Principal
	if !p.HasScope("mcp:tools") || p.HasScope("mcp") || none.HasScope("mcp:tools") {
		t.Error("scopes are not held exactly")
	}
}

func TestWithinAnOrganisationTheOthersDoNotCount(t *testing.T) {
	user := identity.User{ID: "user_1", Roles: []string{"premium"}, Memberships: []identity.Membership{
		{OrgID: "org_1", Role: "org:admin"}, {OrgID: "org_2", OrgSlug: "org_1", Role: "org:member"},
	}}
	for org, want := range map[string][]string{
		"": {"org_1", "org_2"}, "org_1": {"org_1"}, "org_2": {"org_2"}, "org_3": nil, identity.NoOrganization: nil,
	} {
		within := user.Within(org)
		var got []string
		for _, m := range within.Memberships {
			got = append(got, m.OrgID)
		}
		if !slices.Equal(got, want) || !within.HasRole("premium") || within.ID != user.ID {
			t.Errorf("within %q: %+v", org, within)
		}
	}
	if len(user.Memberships) != 2 {
		t.Error("the user has changed")
	}
}
