package server_test

import (
	"context"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/mark3labs/mcp-go/mcp"

	"github.com/mcp-clerk/mcp-clerk/internal/devclerk"
	"github.com/mcp-clerk/mcp-clerk/server"
)

var (
	acmeAdmin    = devclerk.Membership{OrgID: "org_1", OrgName: "Acme", OrgSlug: "acme", Role: "org:admin", Permissions: []string{"org:invoices:read"}}
	globexMember = devclerk.Membership{OrgID: "org_2", OrgName: "Globex", OrgSlug: "globex", Role: "org:member"}
)

// addOrganisationTools adds a tool for each way in which an organisation gives
// access.
func addOrganisationTools(s *server.Server) {
	nothing := func(context.Context, mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		return mcp.NewToolResultText("done"), nil
	}
	s.AddTool(mcp.NewTool("byRole"), nothing, server.RequireRole("org:admin"))
	s.AddTool(mcp.NewTool("byRoleThere"), nothing, server.RequireRole("org:admin@org_1"))
	s.AddTool(mcp.NewTool("byPermission"), nothing, server.RequireOrgPermission("org:invoices:read"))
	s.AddTool(mcp.NewTool("byRule"), nothing, server.RequireRole("boss"))
}

const acmesTools = "add byPermission byRole byRoleThere byRule userInfo"

// signInFor is signIn with an answer to "for which organisation?".
func (r *rig) signInFor(email, org string) tokens {
	r.t.Helper()
	b, redeem := r.authorize()
	b.press("Approve")
	b.press(email)
	if !strings.Contains(b.page, "For which organisation?") {
		r.t.Fatalf("there is no question at %s:\n%s", b.at, b.page)
	}
	b.chosen = url.Values{"organisation": {org}}
	b.press("Continue as")
	if b.landed == nil {
		r.t.Fatalf("the sign-in did not come back to the client; it is at %s:\n%s", b.at, b.page)
	}
	return redeem()
}

func withRule(o *server.Options) {
	o.Clerk.RoleRules = []server.RoleRule{{From: "org:admin@org_1", Role: "boss"}}
}

// What a person may do in one organisation is nothing to an application that
// they have given access for another (case 45), by whatever way it is given.
func TestOnlyTheGrantsOrganisationCounts(t *testing.T) {
	r := start(t, withRule, addOrganisationTools)
	for _, m := range []devclerk.Membership{acmeAdmin, globexMember} {
		if err := r.clerk.AddMembership(devclerk.MemberID, m); err != nil {
			t.Fatal(err)
		}
	}
	all := strings.Fields(acmesTools)
	for org, want := range map[string]string{"org_1": acmesTools, "org_2": "add userInfo", "none": "add userInfo"} {
		for era, c := range r.both(r.signInFor(plainMail, org).Access) {
			if names, _ := c.list(); names != want {
				t.Errorf("%s in %s: tools %q, want %q", era, org, names, want)
			}
			for _, tool := range all {
				if !strings.HasPrefix(tool, "by") {
					continue
				}
				allowed := strings.Contains(want, tool)
				if got := c.tool(tool, `{}`); got.IsError == allowed {
					t.Errorf("%s in %s: %s answers %+v", era, org, tool, got)
				}
			}
			// Nor does a tool learn of the others.
			info := string(c.tool("userInfo", `{}`).Structured)
			for id, name := range map[string]string{"org_1": "Acme", "org_2": "Globex"} {
				if there := strings.Contains(info, name); there != (id == org) {
					t.Errorf("%s in %s: userInfo names %s: %v\n%s", era, org, name, there, info)
				}
			}
		}
	}
	// A role of the public metadata is the person's own.
	if err := r.clerk.SetRole(devclerk.MemberID, "boss"); err != nil {
		t.Fatal(err)
	}
	r.advance(61 * time.Second)
	if names, _ := r.stateless(r.signInFor(plainMail, "org_2").Access).list(); names != "add byRule userInfo" {
		t.Errorf("with a role of one's own: tools %q", names)
	}
}

// The organisation can be changed afterwards: the same token, the next call.
func TestAnotherOrganisationCountsWithTheNextCall(t *testing.T) {
	r := start(t, withRule, addOrganisationTools)
	for _, m := range []devclerk.Membership{acmeAdmin, globexMember} {
		if err := r.clerk.AddMembership(devclerk.MemberID, m); err != nil {
			t.Fatal(err)
		}
	}
	token := r.signInFor(plainMail, "org_2").Access
	c := r.stateless(token)
	streams := map[string]func() message{}
	for era, c := range r.both(token) {
		streams[era] = c.listen()
	}
	streams["2026-07-28"]() // the acknowledgement
	if names, _ := c.list(); names != "add userInfo" {
		t.Fatalf("tools %q", names)
	}
	b := newBrowser(t, "http://nowhere.example")
	b.open(r.url + "/account")
	b.press(plainMail)
	b.chosen = url.Values{"organisation": {"org_1"}}
	b.press("Change the organisation")
	if names, _ := c.list(); names != acmesTools {
		t.Errorf("tools %q, want %q", names, acmesTools)
	}
	for era, next := range streams {
		if m := next(); m.Method != "notifications/tools/list_changed" {
			t.Errorf("%s: heard %+v", era, m)
		}
	}
	b.press("Take the access away")
	if code := r.statusOfCall(r.srv.Handler(), token); code != http.StatusUnauthorized {
		t.Errorf("a call after the access was taken away: %d", code)
	}
}

// Who leaves an organisation keeps nothing of it for longer than a minute,
// though nobody says so (case 43).
func TestALostMembershipEndsItsTools(t *testing.T) {
	for name, allowed := range map[string]server.Allowed{"everyone may use the server": {}, "members may": {Organizations: []string{"org_1", "org_2"}}} {
		t.Run(name, func(t *testing.T) {
			r := start(t, func(o *server.Options) { withRule(o); o.Allowed = allowed }, addOrganisationTools)
			for _, m := range []devclerk.Membership{acmeAdmin, globexMember} {
				if err := r.clerk.AddMembership(devclerk.MemberID, m); err != nil {
					t.Fatal(err)
				}
			}
			tk := r.signInFor(plainMail, "org_1")
			c := r.stateless(tk.Access)
			if names, _ := c.list(); names != acmesTools {
				t.Fatalf("tools %q", names)
			}
			if err := r.clerk.RemoveMembership(devclerk.MemberID, "org_1"); err != nil {
				t.Fatal(err)
			}
			r.advance(61 * time.Second)
			if len(allowed.Organizations) > 0 {
				// In the other one they may use it, but that is not what the grant is for.
				if code := r.statusOfCall(r.srv.Handler(), tk.Access); code != http.StatusUnauthorized {
					t.Errorf("a call: %d", code)
				}
				return
			}
			if names, _ := c.list(); names != "add userInfo" {
				t.Errorf("tools %q", names)
			}
			for _, tool := range []string{"byRole", "byRoleThere", "byPermission", "byRule"} {
				if !c.tool(tool, `{}`).IsError {
					t.Errorf("%s still works", tool)
				}
			}
		})
	}
}

// A deleted user's grants do not come back with anything, not even with a user
// of the same id: by webhook, or as soon as a look finds them gone (case 43).
func TestADeletedUsersGrantsEnd(t *testing.T) {
	for _, how := range []string{"by webhook", "by a look at who listens"} {
		t.Run(how, func(t *testing.T) {
			r := start(t, withWebhooks, func(s *server.Server) {
				addAudit(s)
				s.SetWatchInterval(50 * time.Millisecond)
			})
			if how == "by webhook" {
				r.deliver()
			}
			tk := r.signIn(plainMail)
			if how != "by webhook" {
				r.stateless(tk.Access).listen()()
			}
			user := devclerk.DefaultUsers()[1]
			if err := r.clerk.Delete(devclerk.MemberID); err != nil {
				t.Fatal(err)
			}
			if how != "by webhook" {
				r.advance(61 * time.Second)
			}
			for deadline := time.Now().Add(20 * time.Second); !strings.Contains(r.log.String(), "user was deleted"); time.Sleep(5 * time.Millisecond) {
				if time.Now().After(deadline) {
					t.Fatal("nothing was ended")
				}
			}
			if err := r.clerk.AddUser(user); err != nil {
				t.Fatal(err)
			}
			r.advance(61 * time.Second)
			resp, err := http.PostForm(r.url+"/token", url.Values{"grant_type": {"refresh_token"}, "refresh_token": {tk.Refresh}, "client_id": {tk.client}})
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if resp.StatusCode != http.StatusBadRequest {
				t.Errorf("a refresh: %s", resp.Status)
			}
		})
	}
}

// A delivery alone ends nothing: Clerk is asked (case 43).
func TestADeliveryAboutSomeoneWhoIsThereEndsNothing(t *testing.T) {
	r := start(t, withWebhooks, nil)
	tk := r.signIn(plainMail)
	body := []byte(`{"type":"user.deleted","data":{"id":"` + devclerk.MemberID + `","deleted":true}}`)
	send := func(id string) int {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, r.url+"/webhooks/clerk", strings.NewReader(string(body)))
		if err != nil {
			t.Fatal(err)
		}
		req.Header = devclerk.Webhook{ID: id, Time: time.Now(), Body: body}.Header(webhookSecret)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp.StatusCode
	}
	if code := send("msg_1"); code != http.StatusNoContent {
		t.Fatalf("delivery: %d", code)
	}
	if code := r.statusOfCall(r.srv.Handler(), tk.Access); code != http.StatusOK {
		t.Errorf("a call: %d", code)
	}
	r.refresh(tk)
}
