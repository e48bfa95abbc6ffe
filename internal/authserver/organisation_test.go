package authserver_test

import (
	"context"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/net/html"

	"github.com/mcp-clerk/mcp-clerk/internal/authserver"
	"github.com/mcp-clerk/mcp-clerk/internal/identity"
)

// The organisation that a grant is for: chosen, kept, changed and lost.

// Who is in one organisation has nothing to choose; who is in several chooses
// where their account is named, on every way to a grant.
func TestAGrantIsForOneOrganisation(t *testing.T) {
	for name, tc := range map[string]struct {
		in    []identity.Membership
		admit func(*identity.User) bool
		want  string // without a question; "?" if there is one
		offer []string
	}{
		"in none":        {nil, nil, "", nil},
		"in one":         {[]identity.Membership{acme}, nil, "org_acme", nil},
		"in two":         {[]identity.Membership{acme, globex}, nil, "?", []string{"org_acme", "org_globex", "none"}},
		"one is allowed": {[]identity.Membership{acme, globex}, func(u *identity.User) bool { return slices.ContainsFunc(u.Memberships, inAcme) }, "org_acme", nil},
		"none is, by address": {[]identity.Membership{acme, globex}, func(u *identity.User) bool {
			return u.Email == "ada@example.com"
		}, "?", []string{"org_acme", "org_globex", "none"}},
		"two of three are": {[]identity.Membership{acme, globex, {OrgID: "org_x", OrgName: "X"}}, func(u *identity.User) bool {
			return slices.ContainsFunc(u.Memberships, func(m identity.Membership) bool { return m.OrgID != "org_x" })
		}, "?", []string{"org_acme", "org_globex"}},
	} {
		t.Run(name, func(t *testing.T) {
			e := newEnv(t, func(o *authserver.Options) { o.Admit = tc.admit })
			e.provider.change("user_ada", func(u *identity.User) { u.Memberships = tc.in })
			c := e.register("Web", webRedirect)
			page := e.browser().authorize(c).press("Approve")
			if asks := strings.Contains(page.body, "For which organisation?"); asks != (tc.want == "?") {
				t.Fatalf("asks: %v\n%s", asks, page.body)
			}
			if tc.want != "?" {
				tk := e.tokens(e.redeem(c, page.press("Continue as").answer(c).Get("code")))
				if got := e.principal(tk.access).Organization; got != tc.want {
					t.Errorf("organisation %q, want %q", got, tc.want)
				}
				return
			}
			if got := options(page.doc); !slices.Equal(got, append([]string{""}, tc.offer...)) {
				t.Errorf("offers %q, want %q", got, tc.offer)
			}
			for _, org := range []string{"", "org_evil", "org_x", "all"} { // is asked again, and gets nothing
				if page = page.pressWith("Continue as", "organisation", org); page.left || !strings.Contains(page.body, "For which organisation?") {
					t.Fatalf("with %q: %v %d", org, page.url, page.status)
				}
			}
			tk := e.tokens(e.redeem(c, page.pressWith("Continue as", "organisation", "org_globex").answer(c).Get("code")))
			if got := e.principal(tk.access).Organization; got != "org_globex" {
				t.Errorf("organisation %q", got)
			}
			if next := e.tokens(e.refresh(c, tk.refresh)); e.principal(next.access).Organization != "org_globex" {
				t.Error("the refresh lost the organisation")
			}
		})
	}
}

func inAcme(m identity.Membership) bool { return m.OrgID == "org_acme" }

// options are the values of the page's first selection.
func options(doc *html.Node) (values []string) {
	var walk func(n *html.Node)
	walk = func(n *html.Node) {
		if n.Type == html.ElementNode && n.Data == "option" {
			values = append(values, attr(n, "value"))
		}
		for c := n.FirstChild; c != nil; c = c.NextSibling {
			walk(c)
		}
	}
	walk(doc)
	return values
}

func TestTheOrganisationIsChosenWhereTheAccountIsNamed(t *testing.T) {
	e := newEnv(t)
	both := func(u *identity.User) { u.Memberships = []identity.Membership{acme, globex} }
	e.provider.change("user_ada", both)
	c := e.register("Web", webRedirect)
	code := func(v *visit) string { return v.answer(c).Get("code") }
	b := e.browser()
	code(b.authorize(c).press("Approve").pressWith("Continue as", "organisation", "org_acme"))

	// The account is known: one page asks everything, and proposes the last choice.
	page := b.authorize(c)
	if !strings.Contains(page.body, `value="org_acme" selected`) {
		t.Errorf("the last choice is not proposed:\n%s", page.body)
	}
	tk := e.tokens(e.redeem(c, code(page.pressWith("Approve", "organisation", "none"))))
	if got := e.principal(tk.access).Organization; got != identity.NoOrganization {
		t.Errorf("organisation %q", got)
	}

	t.Run("the choice of one account is not another's", func(t *testing.T) {
		u := bob
		u.Memberships = []identity.Membership{acme, globex}
		page := b.authorize(c)
		e.provider.signInAs(u)
		named := page.pressWith("Approve", "organisation", "org_acme")
		if !strings.Contains(named.body, "Continue as Bob") || strings.Contains(named.body, "selected") {
			t.Errorf("Bob is not asked anew:\n%s", named.body)
		}
		tk := e.tokens(e.redeem(c, code(named.pressWith("Continue as", "organisation", "org_globex"))))
		if p := e.principal(tk.access); p.Subject != u.ID || p.Organization != "org_globex" {
			t.Errorf("principal %+v", p)
		}
	})
	t.Run("on a device", func(t *testing.T) {
		c := e.registerDevice("SSH Tool")
		d := e.device(c)
		e.browser().enter(d.UserCode).press("Approve").pressWith("Continue as", "organisation", "org_acme")
		if p := e.principal(e.tokens(e.poll(c, d)).access); p.Organization != "org_acme" {
			t.Errorf("principal %+v", p)
		}
	})
	t.Run("who left while choosing", func(t *testing.T) {
		v := e.browser().authorize(c).press("Approve")
		e.provider.change(bob.ID, func(u *identity.User) {
			u.Memberships = []identity.Membership{globex, {OrgID: "org_new", OrgName: "New"}}
		})
		if v = v.pressWith("Continue as", "organisation", "org_acme"); v.left || !strings.Contains(v.body, "org_new") {
			t.Errorf("%d %v\n%s", v.status, v.url, v.body)
		}
	})
}

func TestTheOrganisationOfAGrantCanBeChanged(t *testing.T) {
	var mu sync.Mutex
	var told []string
	e := newEnv(t, func(o *authserver.Options) {
		o.Changed = func(_ context.Context, subject string) { mu.Lock(); defer mu.Unlock(); told = append(told, subject) }
		o.Admit = func(u *identity.User) bool {
			return !slices.ContainsFunc(u.Memberships, func(m identity.Membership) bool { return m.OrgID == "org_shut" }) || len(u.Memberships) > 1
		}
	})
	shut := identity.Membership{OrgID: "org_shut", OrgName: "Shut"}
	e.provider.change("user_ada", func(u *identity.User) { u.Memberships = []identity.Membership{acme} })
	c := e.register("Web", webRedirect)
	tk := e.signIn(c)
	grant := e.principal(tk.access).Grant
	e.provider.change("user_ada", func(u *identity.User) { u.Memberships = []identity.Membership{acme, globex, shut} })
	b := e.browser()
	v := b.apps()
	if got := options(v.doc); !slices.Equal(got, []string{"org_acme", "org_globex", "none"}) {
		t.Errorf("offers %q", got)
	}
	v = v.act(grant, "organisation", "organisation", "org_globex")
	if !strings.Contains(v.body, "was changed") || !strings.Contains(v.body, `value="org_globex" selected`) {
		t.Errorf("%s", v.body)
	}
	// The same access token, the next call.
	if p := e.principal(tk.access); p.Organization != "org_globex" {
		t.Errorf("principal %+v", p)
	}
	if mu.Lock(); !slices.Equal(told, []string{"user_ada"}) {
		t.Errorf("told of %v", told)
	}
	mu.Unlock()
	if !e.events.has("grant.organisation", "org_globex") {
		t.Error("it is not audited")
	}
	if got := v.act(grant, "organisation", "organisation", "org_shut"); got.status != 404 || e.principal(tk.access).Organization != "org_globex" {
		t.Errorf("one that may not be used: %d", got.status)
	}
	// Who left all that they could choose of signs in again.
	e.provider.change("user_ada", func(u *identity.User) { u.Memberships = []identity.Membership{shut, acme} })
	e.tokens(e.refresh(c, tk.refresh)) // in neither, and anybody may be in none
}

// A consent that is remembered leads to the organisation that was chosen last,
// wherever that was.
func TestARememberedConsentKeepsTheOrganisation(t *testing.T) {
	e, w := documentEnv(t)
	const doc = "https://tools.example/client.json"
	w.publish(doc, map[string]any{"client_id": doc, "client_name": "Tools", "redirect_uris": []string{"https://tools.example/cb"}})
	c := testClient{id: doc, redirect: "https://tools.example/cb"}
	e.provider.change("user_ada", func(u *identity.User) { u.Memberships = []identity.Membership{acme, globex} })
	b := e.browser()
	tk := e.tokens(e.redeem(c, b.authorize(c).press("Approve").pressWith("Continue as", "organisation", "org_acme").answer(c).Get("code")))
	silent := func(want string) {
		t.Helper()
		next := e.tokens(e.redeem(c, b.authorize(c).answer(c).Get("code")))
		if got := e.principal(next.access).Organization; got != want {
			t.Errorf("organisation %q, want %q", got, want)
		}
	}
	silent("org_acme")
	b.apps().act(e.principal(tk.access).Grant, "organisation", "organisation", "org_globex")
	silent("org_globex")
	// One that they have left is asked for again.
	e.provider.change("user_ada", func(u *identity.User) { u.Memberships = []identity.Membership{acme, {OrgID: "org_x", OrgName: "X"}} })
	if v := b.authorize(c); v.left || !strings.Contains(v.body, "For which organisation?") {
		t.Errorf("%d %v", v.status, v.url)
	}
	if q := b.authorize(c, "prompt", "none").answer(c); q.Get("error") != "consent_required" {
		t.Errorf("without asking: %v", q)
	}
}

// Who may use the server only in the organisation that the grant is not for is
// asked anew.
func TestAGrantEndsWithItsOrganisationsLeave(t *testing.T) {
	e := newEnv(t, func(o *authserver.Options) { o.Admit = func(u *identity.User) bool { return len(u.Memberships) > 0 } })
	e.provider.change("user_ada", func(u *identity.User) { u.Memberships = []identity.Membership{acme} })
	c := e.register("Web", webRedirect)
	tk := e.signIn(c)
	e.provider.change("user_ada", func(u *identity.User) { u.Memberships = []identity.Membership{globex} })
	expectError(t, e.refresh(c, tk.refresh), 400, "invalid_grant")
	e.provider.change("user_ada", func(u *identity.User) { u.Memberships = []identity.Membership{acme} })
	e.tokens(e.refresh(c, tk.refresh)) // back again
}
