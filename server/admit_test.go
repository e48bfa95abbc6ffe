package server_test

import (
	"errors"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/mcp-clerk/mcp-clerk/internal/devclerk"
	"github.com/mcp-clerk/mcp-clerk/server"
)

func TestWhoMayUseTheServer(t *testing.T) {
	acme := devclerk.Membership{OrgID: "org_1", OrgSlug: "acme", Role: "org:member"}
	for name, tt := range map[string]struct {
		allowed server.Allowed
		user    devclerk.User
		in      bool
	}{
		"everyone":                        {server.Allowed{}, devclerk.User{Email: "x@example.com"}, true},
		"domain":                          {server.Allowed{Domains: []string{"example.com"}}, devclerk.User{Email: "x@example.com"}, true},
		"domain in other letters":         {server.Allowed{Domains: []string{"@Example.com"}}, devclerk.User{Email: "X@EXAMPLE.com"}, true},
		"domain, address not verified":    {server.Allowed{Domains: []string{"example.com"}}, devclerk.User{Email: "x@example.com", Unverified: true}, false},
		"a domain below":                  {server.Allowed{Domains: []string{"example.com"}}, devclerk.User{Email: "x@evil.example.com"}, false},
		"a domain that ends so":           {server.Allowed{Domains: []string{"example.com"}}, devclerk.User{Email: "x@evilexample.com"}, false},
		"a domain that begins so":         {server.Allowed{Domains: []string{"example.com"}}, devclerk.User{Email: "x@example.com.evil.com"}, false},
		"the domain in front of an @":     {server.Allowed{Domains: []string{"example.com"}}, devclerk.User{Email: "x@example.com@evil.com"}, false},
		"letters that fold to Latin ones": {server.Allowed{Domains: []string{"kk.com"}}, devclerk.User{Email: "x@\u212ak.com"}, false},
		"organisation by id":              {server.Allowed{Organizations: []string{"org_1"}}, devclerk.User{Email: "x@else.com", Memberships: []devclerk.Membership{acme}}, true},
		"organisation by slug":            {server.Allowed{Organizations: []string{"acme"}}, devclerk.User{Email: "x@else.com", Memberships: []devclerk.Membership{acme}}, true},
		"another organisation":            {server.Allowed{Organizations: []string{"org_2"}}, devclerk.User{Email: "x@else.com", Memberships: []devclerk.Membership{acme}}, false},
		"user by id":                      {server.Allowed{Users: []string{"user_a"}}, devclerk.User{ID: "user_a", Email: "x@else.com", Unverified: true}, true},
		"user by an id in other letters":  {server.Allowed{Users: []string{"user_A"}}, devclerk.User{ID: "user_a", Email: "x@else.com"}, false},
		"user by address":                 {server.Allowed{Users: []string{"X@else.com"}}, devclerk.User{Email: "x@else.com"}, true},
		"that address, not verified":      {server.Allowed{Users: []string{"x@else.com"}}, devclerk.User{Email: "x@else.com", Unverified: true}, false},
		"any of the lists":                {server.Allowed{Domains: []string{"example.com"}, Users: []string{"x@else.com"}}, devclerk.User{Email: "x@else.com"}, true},
		"none of the lists":               {server.Allowed{Domains: []string{"example.com"}, Organizations: []string{"org_2"}, Users: []string{"y@else.com"}}, devclerk.User{Email: "x@else.com", Memberships: []devclerk.Membership{acme}}, false},
		"an admin is no exception":        {server.Allowed{Domains: []string{"example.com"}}, devclerk.User{Email: "x@else.com", PublicMetadata: map[string]any{"role": "admin"}}, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := start(t, func(o *server.Options) { o.Allowed = tt.allowed }, nil)
			if err := r.clerk.AddUser(tt.user); err != nil {
				t.Fatal(err)
			}
			b, redeem := r.authorize()
			b.refuse = true
			b.press("Approve")
			b.press(tt.user.Email)
			if tt.in {
				b.press("Continue as")
				if b.landed == nil || r.statusOfCall(r.srv.Handler(), redeem().Access) != http.StatusOK {
					t.Errorf("not let in: at %s", b.at)
				}
				return
			}
			if b.landed != nil || b.status != http.StatusForbidden || !strings.Contains(b.page, "is not one of those who may use this server") {
				t.Errorf("status %d at %s, landed %v\n%s", b.status, b.at, b.landed, b.page)
			}
		})
	}
}

// The page that refuses someone ends the way there, names the account and offers
// another one, with which the same request comes to its end.
func TestWhoIsRefusedMayTakeAnotherAccount(t *testing.T) {
	r := start(t, func(o *server.Options) { o.Allowed.Users = []string{adminMail} }, nil)
	b, redeem := r.authorize()
	b.refuse = true
	b.press("Approve")
	b.press(plainMail)
	if b.status != http.StatusForbidden || !strings.Contains(b.page, plainMail) || !strings.Contains(b.page, "Sign in with another account") {
		t.Fatalf("status %d\n%s", b.status, b.page)
	}
	b.follow("Sign in with another account")
	b.press("Approve")
	b.press(adminMail) // asked for, though somebody is signed in at Clerk
	if b.landed == nil {
		b.press("Continue as")
	}
	if got := r.stateless(redeem().Access).tool("add", `{"a":1,"b":2}`).text(); got != "3" {
		t.Errorf("add: %q", got)
	}
}

// While Clerk can't be asked nobody new is let in: an id_token doesn't say
// whether its address is the primary one, nor in which organisations they are.
func TestNobodyNewIsLetInWhileClerkCannotBeAsked(t *testing.T) {
	r := start(t, func(o *server.Options) { o.Allowed.Domains = []string{"example.com"} }, nil)
	held := r.signIn(adminMail)
	late, _ := r.authorize()
	late.refuse = true
	late.press("Approve")
	late.press(plainMail) // and is asked whether to continue
	r.advance(61 * time.Second)
	b, _ := r.authorize()
	b.refuse = true
	r.clerk.SetDown("/v1/", true)
	b.press("Approve")
	b.press(plainMail)
	if b.landed != nil || b.status != http.StatusServiceUnavailable || !strings.Contains(b.page, "Try again") {
		t.Errorf("status %d, landed %v\n%s", b.status, b.landed, b.page)
	}
	if late.press("Continue as"); late.landed != nil || late.status != http.StatusServiceUnavailable {
		t.Errorf("at the last step: status %d, landed %v", late.status, late.landed)
	}
	// Who was let in stays (case 42).
	if code := r.statusOfCall(r.srv.Handler(), r.refresh(held).Access); code != http.StatusOK {
		t.Errorf("a call of who is in: %d", code)
	}
}

// Who does not qualify any more is out within a minute, at calls and refreshes,
// and back when they qualify again: their grant was not ended.
func TestWhoDoesNotQualifyAnyMoreIsOut(t *testing.T) {
	org := devclerk.Membership{OrgID: "org_1", Role: "org:member"}
	r := start(t, func(o *server.Options) { o.Allowed.Organizations = []string{"org_1"} }, nil)
	if err := r.clerk.AddMembership(devclerk.MemberID, org); err != nil {
		t.Fatal(err)
	}
	held := r.signIn(plainMail)
	if err := r.clerk.RemoveMembership(devclerk.MemberID, "org_1"); err != nil {
		t.Fatal(err)
	}
	r.advance(61 * time.Second)
	if code := r.statusOfCall(r.srv.Handler(), held.Access); code != http.StatusUnauthorized {
		t.Errorf("a call: %d", code)
	}
	resp, err := http.PostForm(r.url+"/token", url.Values{"grant_type": {"refresh_token"}, "refresh_token": {held.Refresh}, "client_id": {held.client}})
	if err != nil {
		t.Fatal(err)
	}
	var refused struct {
		Error string `json:"error"`
	}
	decode(t, resp, http.StatusBadRequest, &refused)
	if refused.Error != "invalid_grant" {
		t.Errorf("a refresh: %+v", refused)
	}
	if err := r.clerk.AddMembership(devclerk.MemberID, org); err != nil {
		t.Fatal(err)
	}
	r.advance(61 * time.Second)
	if code := r.statusOfCall(r.srv.Handler(), r.refresh(held).Access); code != http.StatusOK {
		t.Errorf("a call after they came back: %d", code)
	}
}

// A list that would let everyone in by mistake stops the server.
func TestAllowedIsChecked(t *testing.T) {
	for _, bad := range []server.Allowed{
		{Domains: []string{""}}, {Domains: []string{"@"}}, {Domains: []string{"*.example.com"}}, {Domains: []string{"x@example.com"}},
		{Domains: []string{"localhost"}}, {Domains: []string{"b\u00fccher.example"}}, {Domains: []string{".example.com"}},
		{Organizations: []string{" "}}, {Organizations: []string{"https://acme"}}, {Users: []string{""}}, {Users: []string{"ann"}}, {Users: []string{"a@b@c"}},
	} {
		err := server.Options{Allowed: bad}.Validate()
		var fault *server.OptionError
		found := false
		for _, e := range unjoin(err) {
			found = found || errors.As(e, &fault) && strings.HasPrefix(fault.Setting, "--allow-")
		}
		if !found {
			t.Errorf("%+v: %v", bad, err)
		}
	}
}

func unjoin(err error) []error {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		return joined.Unwrap()
	}
	return []error{err}
}
