package clerk_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mcp-clerk/mcp-clerk/internal/clerk"
	"github.com/mcp-clerk/mcp-clerk/internal/devclerk"
	"github.com/mcp-clerk/mcp-clerk/internal/identity"
)

const (
	routeUser        = "GET /v1/users/{id}"
	routeMemberships = "GET /v1/users/{id}/organization_memberships"
)

func TestUserIsAsClerkDescribesThem(t *testing.T) {
	r := newRig(t, nil)
	must(t, r.dev.AddMembership(devclerk.AdminID, devclerk.Membership{
		OrgID: "org_1", OrgName: "Acme", OrgSlug: "acme", Role: "org:admin", Permissions: []string{"org:invoices:read"},
	}))
	u, err := r.clerk.User(t.Context(), devclerk.AdminID)
	must(t, err)
	if u.ID != devclerk.AdminID || u.Email != "admin@example.com" || u.FirstName != "Ada" || u.LastName != "Lindqvist" || !strings.HasPrefix(u.ImageURL, "https://") {
		t.Errorf("user %+v", u)
	}
	if !slices.Equal(u.Roles, []string{"admin"}) || string(u.PublicMetadata) != `{"role":"admin"}` {
		t.Errorf("roles %q, metadata %s", u.Roles, u.PublicMetadata)
	}
	want := []identity.Membership{{OrgID: "org_1", OrgName: "Acme", OrgSlug: "acme", Role: "org:admin", Permissions: []string{"org:invoices:read"}}}
	if !reflect.DeepEqual(u.Memberships, want) {
		t.Errorf("memberships %+v", u.Memberships)
	}
	if !u.HasRole("org:admin") || !u.HasRole("admin") || u.HasRole("premium") {
		t.Error("HasRole does not follow")
	}
	u, err = r.clerk.User(t.Context(), devclerk.MemberID)
	must(t, err)
	if u.Roles != nil || u.Memberships != nil || string(u.PublicMetadata) != `{}` || u.Banned || u.Locked {
		t.Errorf("member %+v", u)
	}
}

func TestRolesNeverComeFromWhatUsersWrite(t *testing.T) {
	r := newRig(t, nil)
	must(t, r.dev.SetUnsafeMetadata(devclerk.MemberID, map[string]any{"role": "admin"}))
	u, err := r.clerk.User(t.Context(), devclerk.MemberID)
	must(t, err)
	if u.Roles != nil {
		t.Errorf("roles %q", u.Roles)
	}
}

func TestChangesAtClerkAreSeenWithinAMinute(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(*devclerk.Server) error
		seen   func(identity.User, error) bool
	}{
		"role removed":       {func(d *devclerk.Server) error { return d.SetRole(devclerk.AdminID, "") }, func(u identity.User, err error) bool { return err == nil && u.Roles == nil }},
		"role changed":       {func(d *devclerk.Server) error { return d.SetRole(devclerk.AdminID, "premium") }, func(u identity.User, err error) bool { return err == nil && slices.Equal(u.Roles, []string{"premium"}) }},
		"banned":             {func(d *devclerk.Server) error { return d.Ban(devclerk.AdminID) }, func(u identity.User, err error) bool { return err == nil && u.Banned }},
		"locked":             {func(d *devclerk.Server) error { return d.Lock(devclerk.AdminID) }, func(u identity.User, err error) bool { return err == nil && u.Locked }},
		"membership removed": {func(d *devclerk.Server) error { return d.RemoveMembership(devclerk.AdminID, "org_1") }, func(u identity.User, err error) bool { return err == nil && u.Memberships == nil }},
		"new e-mail":         {func(d *devclerk.Server) error { return d.SetEmail(devclerk.AdminID, "new@example.com") }, func(u identity.User, err error) bool { return err == nil && u.Email == "new@example.com" }},
		"deleted":            {func(d *devclerk.Server) error { return d.Delete(devclerk.AdminID) }, func(u identity.User, err error) bool { return isNoUser(err) && u.ID == "" }},
	} {
		for _, forget := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, forget %v", name, forget), func(t *testing.T) {
				r := newRig(t, nil)
				must(t, r.dev.AddMembership(devclerk.AdminID, devclerk.Membership{OrgID: "org_1", Role: "org:admin"}))
				_, err := r.clerk.User(t.Context(), devclerk.AdminID)
				must(t, err)
				must(t, tt.change(r.dev))
				r.clock.Add(59 * time.Second)
				if tt.seen(r.clerk.User(t.Context(), devclerk.AdminID)) {
					t.Error("the cache was not used")
				}
				if forget {
					r.clerk.Forget(devclerk.AdminID)
				} else {
					r.clock.Add(time.Second)
				}
				if u, err := r.clerk.User(t.Context(), devclerk.AdminID); !tt.seen(u, err) {
					t.Errorf("not seen: %+v, %v", u, err)
				}
			})
		}
	}
}

func isNoUser(err error) bool {
	return err != nil && strings.Contains(err.Error(), identity.ErrNoUser.Error())
}

func TestClockPutBackDoesNotStretchTheCache(t *testing.T) {
	r := newRig(t, nil)
	_, err := r.clerk.User(t.Context(), devclerk.AdminID)
	must(t, err)
	must(t, r.dev.SetRole(devclerk.AdminID, ""))
	r.clock.Add(-time.Hour)
	u, err := r.clerk.User(t.Context(), devclerk.AdminID)
	must(t, err)
	if u.Roles != nil {
		t.Errorf("roles %q", u.Roles)
	}
}

func TestUnknownUserIsRememberedBriefly(t *testing.T) {
	r := newRig(t, nil)
	for range 3 {
		_, err := r.clerk.User(t.Context(), "user_nobody")
		wantErr(t, err, identity.ErrNoUser)
	}
	if n := r.dev.Requests(routeUser); n != 1 {
		t.Errorf("%d requests", n)
	}
	must(t, r.dev.AddUser(devclerk.User{ID: "user_nobody", Email: "n@example.com"}))
	r.clock.Add(10 * time.Second)
	_, err := r.clerk.User(t.Context(), "user_nobody")
	must(t, err)
}

func TestMalformedSubjectIsNeverSentToClerk(t *testing.T) {
	r := newRig(t, nil)
	for _, subject := range []string{"", "user_", "admin", "user_1/../user_2", "user_a?b", "user_%2e", "user_\n", "../users", "user_" + strings.Repeat("a", 200), devclerk.AdminID + "/organization_memberships"} {
		_, err := r.clerk.User(t.Context(), subject)
		wantErr(t, err, identity.ErrNoUser)
	}
	if n := r.dev.Requests(routeUser) + r.dev.Requests(routeMemberships); n != 0 {
		t.Errorf("%d requests", n)
	}
}

func TestCallersAtTheSameTimeShareOneLookup(t *testing.T) {
	r := newRig(t, nil)
	r.dev.SetSlow("/v1/users/", 100*time.Millisecond)
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			if u, err := r.clerk.User(t.Context(), devclerk.AdminID); err != nil || u.ID != devclerk.AdminID {
				t.Errorf("%+v, %v", u, err)
			}
		})
	}
	wg.Wait()
	if a, b := r.dev.Requests(routeUser), r.dev.Requests(routeMemberships); a != 1 || b != 1 {
		t.Errorf("%d and %d requests", a, b)
	}
}

// gated lets the answers of the user endpoint wait: they are made when the
// request comes, and delivered when the test says.
func gated(arrived chan<- struct{}, gate <-chan struct{}) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			if !strings.HasPrefix(req.URL.Path, "/v1/") {
				next.ServeHTTP(w, req)
				return
			}
			rec := httptest.NewRecorder()
			next.ServeHTTP(rec, req)
			arrived <- struct{}{}
			<-gate
			w.WriteHeader(rec.Code)
			_, _ = w.Write(rec.Body.Bytes())
		})
	}
}

func TestCallerWhoGivesUpDoesNotTakeTheAnswerFromOthers(t *testing.T) {
	arrived, gate := make(chan struct{}, 10), make(chan struct{})
	r := newRig(t, gated(arrived, gate))
	ctx, cancel := context.WithCancel(t.Context())
	first := make(chan error, 1)
	go func() {
		_, err := r.clerk.User(ctx, devclerk.AdminID)
		first <- err
	}()
	<-arrived // the first caller's lookup is under way
	second := make(chan error, 1)
	go func() {
		_, err := r.clerk.User(t.Context(), devclerk.AdminID)
		second <- err
	}()
	cancel()
	wantErr(t, <-first, identity.ErrUnavailable)
	close(gate)
	must(t, <-second)
	if n := r.dev.Requests(routeUser); n != 1 {
		t.Errorf("%d requests", n)
	}
}

func TestForgetDuringALookupIsNotUndoneByIt(t *testing.T) {
	arrived, gate := make(chan struct{}), make(chan struct{})
	var first atomic.Bool
	// The first answer is made at once and delivered when the gate opens.
	r := newRig(t, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			rec := httptest.NewRecorder()
			next.ServeHTTP(rec, req)
			if first.CompareAndSwap(false, true) {
				close(arrived)
				<-gate
			}
			w.WriteHeader(rec.Code)
			_, _ = w.Write(rec.Body.Bytes())
		})
	})
	r.clerk.SetSleep(func(context.Context, time.Duration) error {
		t.Error("a lookup was tried again: the second caller waited for the first one's")
		return nil
	})
	old := make(chan identity.User, 1)
	go func() {
		u, _ := r.clerk.User(t.Context(), devclerk.AdminID)
		old <- u
	}()
	<-arrived // Clerk has answered "admin", the answer is on its way
	must(t, r.dev.SetRole(devclerk.AdminID, ""))
	r.clerk.Forget(devclerk.AdminID)
	if u, err := r.clerk.User(t.Context(), devclerk.AdminID); err != nil || u.Roles != nil {
		t.Errorf("who asked after Forget got %+v, %v", u, err)
	}
	close(gate)
	if u := <-old; !u.HasRole("admin") {
		t.Errorf("who asked before Forget got %+v", u)
	}
	if u, err := r.clerk.User(t.Context(), devclerk.AdminID); err != nil || u.Roles != nil {
		t.Errorf("the old answer was kept: %+v, %v", u, err)
	}
}

func TestAnswersAreNotShared(t *testing.T) {
	r := newRig(t, nil)
	must(t, r.dev.AddMembership(devclerk.AdminID, devclerk.Membership{OrgID: "org_1", Role: "org:member", Permissions: []string{"org:a:read"}}))
	for range 3 { // read from Clerk, then twice from the cache
		u, err := r.clerk.User(t.Context(), devclerk.AdminID)
		must(t, err)
		if u.HasRole("owner", "org:admin") || string(u.PublicMetadata) != `{"role":"admin"}` || u.Memberships[0].Permissions[0] != "org:a:read" {
			t.Errorf("a caller changed the cache: %+v", u)
		}
		u.Roles[0] = "owner"
		u.PublicMetadata[2] = 'X'
		u.Memberships[0].Role = "org:admin"
		u.Memberships[0].Permissions[0] = "org:a:write"
	}
}

func TestManyOrganisationsArePaged(t *testing.T) {
	for _, n := range []int{99, 100, 101, 250} {
		r := newRig(t, nil)
		for i := range n {
			must(t, r.dev.AddMembership(devclerk.MemberID, devclerk.Membership{OrgID: fmt.Sprintf("org_%d", i), Role: fmt.Sprintf("org:role_%d", i)}))
		}
		u, err := r.clerk.User(t.Context(), devclerk.MemberID)
		must(t, err)
		seen := map[string]bool{}
		for _, m := range u.Memberships {
			seen[m.OrgID] = true
		}
		if len(u.Memberships) != n || len(seen) != n || !u.HasRole(fmt.Sprintf("org:role_%d", n-1)) {
			t.Errorf("%d of %d read, %d different", len(u.Memberships), n, len(seen))
		}
	}
}

// What the Backend API, or something in front of it, may answer.
func TestBackendAnswers(t *testing.T) {
	clerkErr := func(code string) string {
		return fmt.Sprintf(`{"errors":[{"message":"CANARY","long_message":"CANARY","code":%q}],"clerk_trace_id":"t","status":418}`, code)
	}
	const admin = `{"id":"` + devclerk.AdminID + `","object":"user","public_metadata":{"role":"admin"}`
	for name, tt := range map[string]struct {
		path   string // what follows /v1/users/ID
		status int
		body   string
		kind   error
		tries  int32
	}{
		"not found by Clerk":           {"", 404, clerkErr("resource_not_found"), identity.ErrNoUser, 1},
		"not found by a proxy":         {"", 404, `<html>CANARY</html>`, identity.ErrUnavailable, 1},
		"not found for another reason": {"", 404, clerkErr("instance_not_found"), identity.ErrUnavailable, 1},
		"not found and no errors":      {"", 404, `{"errors":[]}`, identity.ErrUnavailable, 1},
		"gone while we read":           {"/organization_memberships", 404, clerkErr("resource_not_found"), identity.ErrNoUser, 1},
		"key refused":                  {"", 401, clerkErr("clerk_key_invalid"), identity.ErrUnavailable, 1},
		"forbidden":                    {"", 403, clerkErr("authorization_invalid"), identity.ErrUnavailable, 1},
		"bad request":                  {"", 400, clerkErr("form_param_format_invalid"), identity.ErrUnavailable, 1},
		"rate limit of a proxy":        {"", 429, `CANARY`, identity.ErrUnavailable, 3},
		"internal error":               {"", 500, clerkErr("internal_clerk_error"), identity.ErrUnavailable, 3},
		"error page":                   {"", 502, `CANARY`, identity.ErrUnavailable, 3},
		"empty success":                {"", 200, ``, identity.ErrUnavailable, 1},
		"null":                         {"", 200, `null`, identity.ErrUnavailable, 1},
		"another user":                 {"", 200, `{"id":"user_other","public_metadata":{"role":"admin"}}`, identity.ErrUnavailable, 1},
		"not JSON":                     {"", 200, `CANARY`, identity.ErrUnavailable, 3},
		"wrong types":                  {"", 200, `{"id":"` + devclerk.AdminID + `","banned":"CANARY"}`, identity.ErrUnavailable, 3},
		"too large":                    {"", 200, `{"id":"` + strings.Repeat("x", 1<<20) + `"}`, identity.ErrUnavailable, 1},
		"bare user":                    {"", 200, admin + `}`, nil, 1},
		"null members":                 {"", 200, admin + `,"email_addresses":[null],"first_name":null,"unsafe_metadata":null}`, nil, 1},
		"no organisations there":       {"/organization_memberships", 403, clerkErr("organization_not_enabled_in_instance"), nil, 1},
		"memberships forbidden":        {"/organization_memberships", 403, clerkErr("authorization_invalid"), identity.ErrUnavailable, 1},
		"memberships down":             {"/organization_memberships", 503, `CANARY`, identity.ErrUnavailable, 3},
		"memberships null":             {"/organization_memberships", 200, `{"data":[null,{"role":"org:admin"}],"total_count":2}`, nil, 1},
	} {
		t.Run(name, func(t *testing.T) {
			var tries atomic.Int32
			r := newRig(t, answers("/v1/users/"+devclerk.AdminID+tt.path, func(w http.ResponseWriter, req *http.Request) {
				tries.Add(1)
				if req.Header.Get("Authorization") != "Bearer "+secretKey {
					t.Error("the secret key did not come")
				}
				w.WriteHeader(tt.status)
				_, _ = w.Write([]byte(tt.body))
			}))
			r.naps()
			u, err := r.clerk.User(t.Context(), devclerk.AdminID)
			if n := tries.Load(); n != tt.tries {
				t.Errorf("%d tries, want %d", n, tt.tries)
			}
			if tt.kind != nil {
				wantErr(t, err, tt.kind)
				return
			}
			must(t, err)
			if !slices.Equal(u.Roles, []string{"admin"}) || u.Memberships != nil {
				t.Errorf("user %+v", u)
			}
		})
	}
}

func TestPrimaryEmailIsTheVerifiedOne(t *testing.T) {
	for body, want := range map[string]string{
		`"primary_email_address_id":"b","email_addresses":[{"id":"a","email_address":"a@x"},{"id":"b","email_address":"b@x","verification":{"status":"verified"}}]`: "b@x verified",
		`"primary_email_address_id":"b","email_addresses":[{"id":"b","email_address":"b@x","verification":{"status":"unverified"}}]`:                                "",
		`"primary_email_address_id":"b","email_addresses":[{"id":"b","email_address":"b@x","verification":null}]`:                                                   "b@x",
		`"primary_email_address_id":"c","email_addresses":[{"id":"b","email_address":"b@x"}]`:                                                                       "",
		`"primary_email_address_id":null,"email_addresses":[{"id":"b","email_address":"b@x","verification":null}]`:                                                  "b@x",
		`"primary_email_address_id":null,"email_addresses":[{"id":"b","email_address":"b@x","verification":{"status":"verified"}}]`:                                 "b@x",
		`"primary_email_address_id":null,"email_addresses":[{"id":"a","email_address":"a@x"},{"id":"b","email_address":"b@x"}]`:                                     "",
		`"email_addresses":[]`: "",
	} {
		r := newRig(t, answers("/v1/users/"+devclerk.AdminID, func(w http.ResponseWriter, _ *http.Request) {
			_, _ = fmt.Fprintf(w, `{"id":%q,%s}`, devclerk.AdminID, body)
		}))
		u, err := r.clerk.User(t.Context(), devclerk.AdminID)
		must(t, err)
		got := u.Email
		if u.EmailVerified {
			got += " verified"
		}
		if got != want {
			t.Errorf("%s: %q, want %q", body, got, want)
		}
	}
}

func TestDeprovisionedUserCountsAsBanned(t *testing.T) {
	r := newRig(t, answers("/v1/users/"+devclerk.AdminID, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = fmt.Fprintf(w, `{"id":%q,"banned":false,"deprovisioned":true}`, devclerk.AdminID)
	}))
	u, err := r.clerk.User(t.Context(), devclerk.AdminID)
	must(t, err)
	if !u.Banned {
		t.Error("not banned")
	}
}

func TestSecretKeyIsNotSentOnByARedirect(t *testing.T) {
	var leaked atomic.Bool
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { leaked.Store(true) }))
	defer other.Close()
	for _, status := range []int{301, 302, 303, 307, 308} {
		r := newRig(t, answers("/v1/users/"+devclerk.AdminID, func(w http.ResponseWriter, req *http.Request) {
			http.Redirect(w, req, other.URL, status)
		}))
		_, err := r.clerk.User(t.Context(), devclerk.AdminID)
		wantErr(t, err, identity.ErrUnavailable)
	}
	if leaked.Load() {
		t.Error("a redirect was followed")
	}
}

func TestCompressedAnswerIsLimitedAfterDecompression(t *testing.T) {
	var bomb bytes.Buffer
	z := gzip.NewWriter(&bomb)
	_, err := z.Write([]byte(`{"id":"` + strings.Repeat("x", 8<<20)))
	must(t, err)
	must(t, z.Close())
	r := newRig(t, answers("/v1/users/"+devclerk.AdminID, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Encoding", "gzip")
		_, _ = w.Write(bomb.Bytes())
	}))
	_, err = r.clerk.User(t.Context(), devclerk.AdminID)
	wantErr(t, err, identity.ErrUnavailable)
	if !strings.Contains(err.Error(), "larger than") {
		t.Errorf("error %q", err)
	}
}

func TestCacheIsBounded(t *testing.T) {
	r := newRig(t, nil)
	for i := range clerk.MaxEntries + 50 {
		r.clerk.Fill(fmt.Sprintf("user_%d", i))
	}
	if n := r.clerk.Entries(); n != clerk.MaxEntries {
		t.Errorf("%d entries", n)
	}
}
