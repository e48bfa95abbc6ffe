package devclerk_test

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/mcp-clerk/mcp-clerk/internal/devclerk"
)

const webhookSecret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

// Each change is delivered as Clerk's event for it, signed, before the method
// that makes it returns.
func TestChangesAreDeliveredAsWebhooks(t *testing.T) {
	r := newRig(t)
	r.press(r.authorize(), "admin@example.com") // a session that a ban can end
	type delivery struct {
		header http.Header
		body   map[string]any
	}
	var got []delivery
	endpoint := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		raw, err := io.ReadAll(req.Body)
		d := delivery{header: req.Header}
		if err != nil || json.Unmarshal(raw, &d.body) != nil {
			t.Errorf("body %q: %v", raw, err)
		}
		got = append(got, d)
		w.WriteHeader(http.StatusNoContent)
	}))
	defer endpoint.Close()
	must(t, r.srv.SetWebhook(endpoint.URL, webhookSecret))
	org := devclerk.Membership{OrgID: "org_1", Role: "org:admin"}
	steps := []struct {
		do   func() error
		want []string
	}{
		{func() error { return r.srv.SetRole(devclerk.AdminID, "premium") }, []string{"user.updated"}},
		{func() error { return r.srv.SetVerified(devclerk.AdminID, false) }, []string{"user.updated"}},
		{func() error { return r.srv.AddMembership(devclerk.AdminID, org) }, []string{"organizationMembership.created"}},
		{func() error { return r.srv.AddMembership(devclerk.AdminID, org) }, []string{"organizationMembership.updated"}},
		{func() error { return r.srv.RemoveMembership(devclerk.AdminID, "org_1") }, []string{"organizationMembership.deleted"}},
		{func() error { return r.srv.RemoveMembership(devclerk.AdminID, "org_1") }, nil},
		{func() error { return r.srv.Ban(devclerk.AdminID) }, []string{"user.updated", "session.revoked"}},
		{func() error { return r.srv.Unban(devclerk.AdminID) }, []string{"user.updated"}},
		{func() error { return r.srv.Delete(devclerk.AdminID) }, []string{"user.deleted"}},
	}
	ids := map[string]bool{}
	for i, step := range steps {
		got = nil
		must(t, step.do())
		var kinds []string
		for _, d := range got {
			kinds = append(kinds, d.body["type"].(string))
			ids[d.header.Get("Svix-Id")] = true
			data := d.body["data"].(map[string]any)
			about := data["id"]
			if v, ok := data["user_id"]; ok {
				about = v
			}
			if v, ok := data["public_user_data"].(map[string]any); ok {
				about = v["user_id"]
			}
			if about != devclerk.AdminID || d.body["object"] != "event" || d.body["instance_id"] == nil || !strings.HasPrefix(d.header.Get("Svix-Signature"), "v1,") {
				t.Errorf("step %d: %+v", i, d)
			}
		}
		if !slices.Equal(kinds, step.want) {
			t.Errorf("step %d: events %q, want %q", i, kinds, step.want)
		}
	}
	if len(ids) != 9 || ids[""] {
		t.Errorf("delivery ids %v", ids)
	}
	must(t, r.srv.SetWebhook("", ""))
	got = nil
	must(t, r.srv.SetRole(devclerk.MemberID, "admin"))
	if got != nil {
		t.Error("delivered to nowhere")
	}
	if r.srv.SetWebhook(endpoint.URL, "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw") == nil {
		t.Error("a secret without its prefix was accepted")
	}
}

// An endpoint that fails is the endpoint's matter: the change holds.
func TestAWebhookThatFailsUndoesNothing(t *testing.T) {
	r := newRig(t)
	endpoint := httptest.NewServer(http.NotFoundHandler())
	must(t, r.srv.SetWebhook(endpoint.URL, webhookSecret))
	must(t, r.srv.SetRole(devclerk.MemberID, "admin"))
	endpoint.Close()
	must(t, r.srv.SetRole(devclerk.MemberID, "premium"))
}

func TestUsersPageChangesUsers(t *testing.T) {
	r := newRig(t)
	post := func(action, user string, header ...string) int {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, r.url+"/users", strings.NewReader(url.Values{"action": {action}, "user": {user}}.Encode()))
		must(t, err)
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		for i := 0; i < len(header); i += 2 {
			req.Header.Set(header[i], header[i+1])
		}
		resp, err := http.DefaultTransport.RoundTrip(req)
		must(t, err)
		_ = resp.Body.Close()
		return resp.StatusCode
	}
	page := func() string {
		t.Helper()
		resp, err := http.Get(r.url + "/users")
		must(t, err)
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		must(t, err)
		if csp := resp.Header.Get("Content-Security-Policy"); resp.StatusCode != http.StatusOK || !strings.Contains(csp, "default-src 'none'") {
			t.Errorf("%s, policy %q", resp.Status, csp)
		}
		return string(body)
	}
	if p := page(); strings.Count(p, ">Make admin<") != 1 || strings.Count(p, ">Remove role<") != 1 || strings.Count(p, ">Ban<") != 2 {
		t.Errorf("page:\n%s", p)
	}
	if got := post("make-admin", devclerk.MemberID, "Origin", "https://evil.example"); got != http.StatusForbidden {
		t.Errorf("from another site: %d", got)
	}
	for _, step := range []struct {
		action, user string
		status       int
		shows        string
	}{
		{"remove-role", devclerk.AdminID, http.StatusSeeOther, "Ada Lindqvist · no role"},
		{"make-admin", devclerk.MemberID, http.StatusSeeOther, "Milan Becker · role admin"},
		{"ban", devclerk.MemberID, http.StatusSeeOther, "Milan Becker · banned"},
		{"unban", devclerk.MemberID, http.StatusSeeOther, "Milan Becker · role admin"},
		{"ban", "user_none", http.StatusNotFound, "Milan Becker · role admin"},
		{"promote", devclerk.MemberID, http.StatusBadRequest, "Milan Becker · role admin"},
		{"lock", devclerk.MemberID, http.StatusSeeOther, "Milan Becker · locked"},
		{"unlock", devclerk.MemberID, http.StatusSeeOther, "Milan Becker · role admin"},
	} {
		if got := post(step.action, step.user); got != step.status {
			t.Errorf("%s: status %d", step.action, got)
		}
		if p := page(); !strings.Contains(p, step.shows) {
			t.Errorf("%s: the page lacks %q:\n%s", step.action, step.shows, p)
		}
	}
}
