package clerk_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/mcp-clerk/mcp-clerk/internal/clerk"
	"github.com/mcp-clerk/mcp-clerk/internal/devclerk"
	"github.com/mcp-clerk/mcp-clerk/internal/identity"
)

const routeList = "GET /v1/users"

type seen struct {
	user identity.User
	err  error
}

// survey makes a survey and returns what it told, and how long it paused.
func (r *rig) survey(organisations bool, subjects ...string) (map[string]seen, time.Duration) {
	r.t.Helper()
	var paused time.Duration
	r.clerk.SetSleep(func(_ context.Context, d time.Duration) error { paused += d; return nil })
	told := map[string]seen{}
	r.clerk.Survey(r.t.Context(), subjects, organisations, func(subject string, u identity.User, err error) {
		if _, twice := told[subject]; twice {
			r.t.Errorf("%q was told twice", subject)
		}
		told[subject] = seen{u, err}
	})
	return told, paused
}

func (r *rig) addUsers(n int) []string {
	r.t.Helper()
	var ids []string
	for i := range n {
		id := fmt.Sprintf("user_%04d", i)
		must(r.t, r.dev.AddUser(devclerk.User{ID: id, Email: fmt.Sprintf("u%d@example.com", i), PublicMetadata: map[string]any{"role": "premium"}}))
		ids = append(ids, id)
	}
	return ids
}

// A development instance allows 100 requests in 10 s; a survey takes half of
// that at most, and asks for a hundred users at a time.
func TestSurveyAsksForAHundredUsersAtATime(t *testing.T) {
	r := newRig(t, nil)
	ids := append(r.addUsers(249), "user_gone", "not-a-user")
	told, paused := r.survey(false, ids...)
	if len(told) != len(ids) || r.dev.Requests(routeList) != 3 || r.dev.Requests("GET /v1/users/count")+r.dev.Requests(routeMemberships) != 0 || r.dev.Requests(routeUser) != 1 {
		t.Errorf("%d users in %d requests", len(told), r.dev.Requests(routeList))
	}
	if paused != 3*200*time.Millisecond {
		t.Errorf("pauses of %v between 4 requests", paused)
	}
	for subject, s := range told {
		gone := subject == "user_gone" || subject == "not-a-user"
		if gone != errors.Is(s.err, identity.ErrNoUser) || !gone && (s.err != nil || !s.user.HasRole("premium") || s.user.ID != subject) {
			t.Errorf("%q: %+v, %v", subject, s.user, s.err)
		}
	}
}

func TestSurveyWithOrganisationsIsAsGoodAsLookingUp(t *testing.T) {
	r := newRig(t, nil)
	ids := r.addUsers(3)
	must(t, r.dev.AddMembership(ids[1], devclerk.Membership{OrgID: "org_1", Role: "org:admin"}))
	told, paused := r.survey(true, ids...)
	if u := told[ids[1]].user; !u.HasRole("org:admin") || len(told) != 3 {
		t.Errorf("told %+v", told)
	}
	if paused != 3*200*time.Millisecond { // four requests
		t.Errorf("pauses of %v", paused)
	}
	// What was found serves User, and the next survey.
	u, err := r.clerk.User(t.Context(), ids[1])
	must(t, err)
	r.survey(true, ids...)
	if !u.HasRole("org:admin") || r.dev.Requests(routeUser) != 0 || r.dev.Requests(routeList) != 1 || r.dev.Requests(routeMemberships) != 3 {
		t.Error("what a survey found was asked for again")
	}
	must(t, r.dev.RemoveMembership(ids[1], "org_1"))
	r.clock.Add(time.Minute)
	if told, _ = r.survey(true, ids...); len(told[ids[1]].user.Memberships) != 0 {
		t.Errorf("a membership that is gone: %+v", told[ids[1]].user.Memberships)
	}
}

// What a survey sees holds for User as well, before its 60 s are over.
func TestSurveyForgetsWhoChanged(t *testing.T) {
	for name, change := range map[string]func(*devclerk.Server) error{
		"role":    func(d *devclerk.Server) error { return d.SetRole(devclerk.AdminID, "") },
		"ban":     func(d *devclerk.Server) error { return d.Ban(devclerk.AdminID) },
		"lock":    func(d *devclerk.Server) error { return d.Lock(devclerk.AdminID) },
		"e-mail":  func(d *devclerk.Server) error { return d.SetEmail(devclerk.AdminID, "new@example.com") },
		"deleted": func(d *devclerk.Server) error { return d.Delete(devclerk.AdminID) },
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, nil)
			must(t, r.dev.AddMembership(devclerk.AdminID, devclerk.Membership{OrgID: "org_1", Role: "org:admin"}))
			before, err := r.clerk.User(t.Context(), devclerk.AdminID)
			must(t, err)
			told, _ := r.survey(false, devclerk.AdminID)
			if u := told[devclerk.AdminID].user; !u.HasRole("org:admin") || !u.HasRole("admin") {
				t.Errorf("told %+v", u)
			}
			if _, _, known := r.clerk.Known(devclerk.AdminID); !known {
				t.Error("a survey without news made User forget")
			}
			must(t, change(r.dev))
			r.survey(false, devclerk.AdminID)
			after, err := r.clerk.User(t.Context(), devclerk.AdminID)
			if err == nil && slices.Equal(after.Roles, before.Roles) && after.Banned == before.Banned && after.Locked == before.Locked && after.Email == before.Email {
				t.Errorf("still %+v", after)
			}
		})
	}
}

// Nobody is signed out because Clerk's list is behind.
func TestSurveyAsksAgainAboutWhoIsMissing(t *testing.T) {
	r := newRig(t, answers("/v1/users", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(`[]`)) }))
	told, _ := r.survey(false, devclerk.AdminID)
	if s := told[devclerk.AdminID]; s.err != nil || !s.user.HasRole("admin") {
		t.Errorf("told %+v", s)
	}
}

func TestSurveyOfADeprovisionedUser(t *testing.T) {
	r := newRig(t, answers("/v1/users", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = fmt.Fprintf(w, `[{"id":%q,"banned":false,"deprovisioned":true}]`, devclerk.AdminID)
	}))
	if told, _ := r.survey(false, devclerk.AdminID); !told[devclerk.AdminID].user.Banned {
		t.Errorf("told %+v", told)
	}
}

// Clerk being down costs one question, however many there are to be asked about.
func TestSurveyGivesUpWhileClerkIsDown(t *testing.T) {
	r := newRig(t, nil)
	ids := r.addUsers(250)
	r.dev.SetDown("/v1/", true)
	told, _ := r.survey(false, ids...)
	if len(told) != 250 || r.dev.Requests(routeList) != 3 { // one with two retries
		t.Errorf("%d told, %d requests", len(told), r.dev.Requests(routeList))
	}
	for _, s := range told {
		wantErr(t, s.err, identity.ErrUnavailable)
	}
	r.dev.SetDown("/v1/", false)
	r.dev.SetDown("/v1/users/"+ids[1], true)
	told, _ = r.survey(true, ids...)
	if told[ids[0]].err != nil || !errors.Is(told[ids[249]].err, identity.ErrUnavailable) || r.dev.Requests(routeMemberships) != 4 {
		t.Errorf("%v, %v, %d requests", told[ids[0]].err, told[ids[249]].err, r.dev.Requests(routeMemberships))
	}
}

func TestSurveyRefusesForeignUsers(t *testing.T) {
	r := newRig(t, answers("/v1/users", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte(`[{"id":"user_other","public_metadata":{"role":"admin"}}]`))
	}))
	told, _ := r.survey(false, devclerk.AdminID)
	wantErr(t, told[devclerk.AdminID].err, identity.ErrUnavailable)
}

// A user who is forgotten while a survey is under way is not brought back by it.
func TestForgetDuringASurveyIsNotUndoneByIt(t *testing.T) {
	for name, forget := range map[string]func(*clerk.Clerk){
		"one": func(c *clerk.Clerk) { c.Forget(devclerk.AdminID) },
		"all": (*clerk.Clerk).ForgetAll,
	} {
		t.Run(name, func(t *testing.T) {
			var r *rig
			r = newRig(t, func(next http.Handler) http.Handler {
				return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
					next.ServeHTTP(w, req)
					if req.URL.Path == "/v1/users" {
						forget(r.clerk)
					}
				})
			})
			r.survey(true, devclerk.AdminID)
			if _, _, known := r.clerk.Known(devclerk.AdminID); known {
				t.Error("the survey brought back what was forgotten")
			}
		})
	}
}

func TestRoleRules(t *testing.T) {
	rules, err := clerk.ParseRoleRules(" boss = admin , org:admin@org_1=admin,org:images:make=image_generation,admin=premium,")
	must(t, err)
	at := func(org, role string, permissions ...string) devclerk.Membership {
		return devclerk.Membership{OrgID: org, OrgSlug: "slug-" + org, Role: role, Permissions: permissions}
	}
	for name, tt := range map[string]struct {
		metadata    map[string]any
		memberships []devclerk.Membership
		want        []string
	}{
		"nothing":                       {},
		"a role of metadata":            {metadata: map[string]any{"role": "boss"}, want: []string{"boss", "admin"}}, // and not premium: no rule builds on another
		"a role in the organisation":    {memberships: []devclerk.Membership{at("org_1", "org:admin")}, want: []string{"admin"}},
		"that in another organisation":  {memberships: []devclerk.Membership{at("org_2", "org:admin")}},
		"another role there":            {memberships: []devclerk.Membership{at("org_1", "org:member")}},
		"a permission":                  {memberships: []devclerk.Membership{at("org_2", "org:member", "org:images:make")}, want: []string{"image_generation"}},
		"what is given is had once":     {metadata: map[string]any{"role": []string{"admin", "premium"}}, want: []string{"admin", "premium"}},
		"what users write gives no one": {metadata: map[string]any{"unsafe": "boss"}},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, nil)
			o := r.options()
			o.RoleRules = rules
			k, err := clerk.New(o)
			must(t, err)
			defer k.Close()
			must(t, r.dev.SetPublicMetadata(devclerk.MemberID, tt.metadata))
			for _, m := range tt.memberships {
				must(t, r.dev.AddMembership(devclerk.MemberID, m))
			}
			u, err := k.User(t.Context(), devclerk.MemberID)
			must(t, err)
			if !slices.Equal(u.Roles, tt.want) {
				t.Errorf("roles %q, want %q", u.Roles, tt.want)
			}
		})
	}
	for _, bad := range []string{"admin", "=admin", "boss=", "@org_1=admin", "org:admin@=admin", "a=b=c"} {
		if rules, err := clerk.ParseRoleRules(bad); err == nil {
			t.Errorf("%q: %+v", bad, rules)
		}
	}
}

func FuzzParseRoleRules(f *testing.F) {
	for _, s := range []string{"boss=admin", "org:admin@org_1=admin, a = b", "=", "a==b", ",,", "@=x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		rules, err := clerk.ParseRoleRules(text)
		for _, r := range rules {
			if err != nil || r.Check() != nil {
				t.Errorf("%q: rule %+v", text, r)
			}
		}
	})
}

func TestRolesUnderAnotherKey(t *testing.T) {
	for key, want := range map[string][]string{"role": {"a"}, "mcp.roles": {"b", "c"}, "mcp": nil, "mcp.role": nil, "role.x": nil, "Role": nil, "": nil, ".": nil} {
		if got := clerk.Roles([]byte(`{"role":"a","mcp":{"roles":["b","c"]}}`), key); !slices.Equal(got, want) {
			t.Errorf("%q: %q, want %q", key, got, want)
		}
	}
}

// Who somebody is, by id or address, in one question each, and without what only
// organisations say.
func TestFindNamesUsersInOneQuestion(t *testing.T) {
	r := newRig(t, nil)
	ids := r.addUsers(120)
	must(t, r.dev.AddMembership(ids[1], devclerk.Membership{OrgID: "org_1", Role: "org:admin"}))
	for name, tt := range map[string]struct {
		ids      []string
		email    string
		want     []string
		requests int
	}{
		"by id":                  {[]string{ids[1], "user_gone", "no id", ids[3]}, "", []string{ids[1], ids[3]}, 1},
		"by address":             {nil, "u7@example.com", []string{ids[7]}, 1},
		"by both, each once":     {[]string{ids[7]}, "u7@example.com", []string{ids[7]}, 2},
		"a part of an address":   {nil, "u7", nil, 1},
		"nobody":                 {[]string{"no id"}, "", nil, 0},
		"more than one question": {ids, "", ids[:100], 1},
	} {
		before := r.dev.Requests(routeList)
		found, err := r.clerk.Find(t.Context(), tt.ids, tt.email)
		var got []string
		for _, u := range found {
			got = append(got, u.ID)
			if u.Memberships != nil || !u.HasRole("premium") || u.Email == "" {
				t.Errorf("%s: %+v", name, u)
			}
		}
		slices.Sort(got)
		if err != nil || !slices.Equal(got, tt.want) || r.dev.Requests(routeList)-before != tt.requests {
			t.Errorf("%s: %q in %d requests, %v", name, got, r.dev.Requests(routeList)-before, err)
		}
	}
}
