package server_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/mark3labs/mcp-go/mcp"

	"github.com/mcp-clerk/mcp-clerk/internal/devclerk"
	"github.com/mcp-clerk/mcp-clerk/server"
)

// Every kind of user by every kind of tool, in both eras and by every kind of
// token: a tool is listed for and run by those who hold its role, and neither
// for anyone else (case 45).
func TestEveryRoleByEveryTool(t *testing.T) {
	for kind, token := range map[string]struct {
		options func(*server.Options)
		of      func(*rig) string
	}{
		"our own":          {func(*server.Options) {}, func(r *rig) string { return r.signIn(plainMail).Access }},
		"a JWT of Clerk's": {byClerk, func(r *rig) string { return r.accessToken(devclerk.MemberID) }},
		"an opaque token of Clerk's": {
			byClerk,
			func(r *rig) string { r.clerk.SetOpaqueTokens(true); return r.accessToken(devclerk.MemberID) },
		},
		"an API key": {
			func(o *server.Options) { o.APIKeys = true },
			func(r *rig) string { return r.apiKey(devclerk.APIKey{Subject: devclerk.MemberID}) },
		},
		"an API key where Clerk is the authorization server": {
			func(o *server.Options) { byClerk(o); o.APIKeys = true },
			func(r *rig) string { return r.apiKey(devclerk.APIKey{Subject: devclerk.MemberID}) },
		},
	} {
		t.Run(kind, func(t *testing.T) { everyRoleByEveryTool(t, token.options, token.of) })
	}
}

func everyRoleByEveryTool(t *testing.T, options func(*server.Options), tokenOf func(*rig) string) {
	needs := map[string][]string{ // tool -> roles
		"open": nil, "forAdmin": {"admin"}, "forEither": {"admin", "premium"}, "forOrgAdmin": {"org:admin"},
		"forPermission": {"org:reports:read"}, "forOneOrg": {"org:admin@org_1"}, "forSlug": {"org:member@second"}, "forRuled": {"ruled"},
	}
	r := start(t, func(o *server.Options) {
		withWebhooks(o)
		options(o)
		o.Clerk.RoleRules = []server.RoleRule{{From: "org:admin@org_2", Role: "ruled"}, {From: "boss", Role: "ruled"}}
	}, func(s *server.Server) {
		for name, roles := range needs {
			var options []server.ToolOption
			if roles != nil {
				options = append(options, server.RequireRole(roles...))
			}
			s.AddTool(mcp.NewTool(name), func(context.Context, mcp.CallToolRequest) (*mcp.CallToolResult, error) {
				return mcp.NewToolResultText("ran"), nil
			}, options...)
		}
	})
	both := r.both(tokenOf(r))
	r.deliver()
	in := func(org, slug, role string, permissions ...string) devclerk.Membership {
		return devclerk.Membership{OrgID: org, OrgSlug: slug, Role: role, Permissions: permissions}
	}
	for _, user := range []struct {
		role        any
		memberships []devclerk.Membership
		holds       []string // the tools beside "open"
	}{
		{role: nil},
		{role: "admin", holds: []string{"forAdmin", "forEither"}},
		{role: "premium", holds: []string{"forEither"}},
		{role: "boss", holds: []string{"forRuled"}},
		{role: []string{"boss", "premium"}, holds: []string{"forEither", "forRuled"}},
		{role: "Admin"},
		{role: "ruler"},
		{role: []any{"admin", 1}},
		{memberships: []devclerk.Membership{in("org_1", "first", "org:admin")}, holds: []string{"forOrgAdmin", "forOneOrg"}},
		{memberships: []devclerk.Membership{in("org_2", "second", "org:admin")}, holds: []string{"forOrgAdmin", "forRuled"}},
		{memberships: []devclerk.Membership{in("org_3", "org_1", "org:admin")}, holds: []string{"forOrgAdmin"}}, // a slug that looks like an id
		{memberships: []devclerk.Membership{in("org_1", "first", "org:member", "org:reports:read")}, holds: []string{"forPermission"}},
		{memberships: []devclerk.Membership{in("org_2", "second", "org:member")}, holds: []string{"forSlug"}},
		{memberships: []devclerk.Membership{in("org_1", "first", "org:member", "org:reports:write")}},
		{role: "premium", memberships: []devclerk.Membership{in("org_1", "first", "org:admin"), in("org_2", "second", "org:member")}, holds: []string{"forEither", "forOrgAdmin", "forOneOrg", "forSlug"}},
	} {
		if err := r.clerk.SetPublicMetadata(devclerk.MemberID, map[string]any{"role": user.role}); err != nil {
			t.Fatal(err)
		}
		for _, m := range user.memberships {
			if err := r.clerk.AddMembership(devclerk.MemberID, m); err != nil {
				t.Fatal(err)
			}
		}
		for era, c := range both {
			who := fmt.Sprintf("%s: role %v, %v", era, user.role, user.memberships)
			names, _ := c.list()
			for tool := range needs {
				may := tool == "open" || slices.Contains(user.holds, tool)
				if listed := slices.Contains(strings.Fields(names), tool); listed != may {
					t.Errorf("%s: %s listed: %v", who, tool, listed)
				}
				if ran := c.tool(tool, `{}`).text() == "ran"; ran != may {
					t.Errorf("%s: %s run: %v", who, tool, ran)
				}
			}
		}
		for _, m := range user.memberships {
			if err := r.clerk.RemoveMembership(devclerk.MemberID, m.OrgID); err != nil {
				t.Fatal(err)
			}
		}
	}
}
