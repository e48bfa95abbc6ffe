package authserver_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/html"

	"github.com/mcp-clerk/mcp-clerk/internal/authserver"
	"github.com/mcp-clerk/mcp-clerk/internal/identity"
)

var (
	acme   = identity.Membership{OrgID: "org_acme", OrgName: "Acme", OrgSlug: "acme", Role: "org:admin"}
	globex = identity.Membership{OrgID: "org_globex", OrgName: "Globex & Söhne", OrgSlug: "globex", Role: "org:member"}
)

func (e *env) principal(access string) *identity.Principal {
	e.t.Helper()
	p, err := e.srv.Verify(context.Background(), access)
	if err != nil {
		e.t.Fatal(err)
	}
	return p
}

// forms are the requests that the forms of a page for one grant can send, by
// the value of their button.
func (v *visit) forms(grant string) map[string]*http.Request {
	v.b.e.t.Helper()
	found := map[string]*http.Request{}
	var walk func(n *html.Node)
	walk = func(n *html.Node) {
		if n.Type == html.ElementNode && n.Data == "form" {
			values, action := url.Values{}, ""
			var inside func(n *html.Node)
			inside = func(n *html.Node) {
				switch {
				case n.Type == html.ElementNode && n.Data == "input":
					values.Set(attr(n, "name"), attr(n, "value"))
				case n.Type == html.ElementNode && n.Data == "button":
					action = attr(n, "value")
					values.Set(attr(n, "name"), action)
				}
				for c := n.FirstChild; c != nil; c = c.NextSibling {
					inside(c)
				}
			}
			inside(n)
			if values.Get("grant") == grant {
				target, err := v.url.Parse(attr(n, "action"))
				if err != nil {
					v.b.e.t.Fatal(err)
				}
				r := request(v.b.e.t, "POST", target.String(), strings.NewReader(values.Encode()))
				r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
				r.Header.Set("Origin", v.url.Scheme+"://"+v.url.Host)
				found[action] = r
			}
		}
		for c := n.FirstChild; c != nil; c = c.NextSibling {
			walk(c)
		}
	}
	walk(v.doc)
	return found
}

// act sends one of them, with changes.
func (v *visit) act(grant, action string, pairs ...string) *visit {
	v.b.e.t.Helper()
	r := v.forms(grant)[action]
	if r == nil {
		v.b.e.t.Fatalf("no form %q for grant %q on\n%s", action, grant, v.body)
	}
	return v.b.do(filled(v.b.e.t, r, pairs...))
}

// apps is a person who has signed in to their connected apps.
func (b *browser) apps(query ...string) *visit {
	b.e.t.Helper()
	v := b.open(b.e.issuer + "/account" + strings.Join(query, ""))
	if v.left || v.status != http.StatusOK {
		b.e.t.Fatalf("connected apps: %d %v\n%s", v.status, v.url, v.body)
	}
	return v
}

func TestPeopleSeeAndEndWhatTheyConnected(t *testing.T) {
	e := newEnv(t)
	web, native := e.register("Some <b>Web</b> App", webRedirect), e.register("Claude Code", loopRedirect)
	tk := e.signIn(web, "scope", "mcp:tools offline_access")
	e.clock.advance(49 * time.Hour)
	other := e.signIn(native)
	e.clock.advance(3 * time.Hour)
	other = e.tokens(e.refresh(native, other.refresh))
	e.clock.advance(50 * time.Minute)
	tk = e.tokens(e.refresh(web, tk.refresh))
	e.clock.advance(5 * time.Minute)
	e.code(native) // never redeemed: nothing has access by it
	e.provider.set(func() { e.provider.directory[bob.ID] = bob })

	b := e.browser()
	v := b.apps()
	for _, want := range []string{"ada@example.com", "Some &lt;b&gt;Web&lt;/b&gt; App", "Claude Code", "Connected <time", "2 days ago", "5 minutes ago", "55 minutes ago", "See and use the tools", "unverified"} {
		if !strings.Contains(v.body, want) {
			t.Errorf("the page does not say %q:\n%s", want, v.body)
		}
	}
	if n := strings.Count(v.body, "<h2>"); n != 2 {
		t.Errorf("%d applications, want 2", n)
	}
	if strings.Contains(v.body, "Everybody") {
		t.Error("everybody's apps are offered to one who is no administrator")
	}
	grant := e.principal(tk.access).Grant
	v = v.act(grant, "take")
	if v.url.Path != "/account" || !strings.Contains(v.body, "was taken away") || strings.Contains(v.body, "Some &lt;b&gt;") {
		t.Errorf("%v\n%s", v.url, v.body)
	}
	if e.valid(tk.access) || !e.valid(other.access) {
		t.Errorf("valid: %v and %v", e.valid(tk.access), e.valid(other.access))
	}
	expectError(t, e.refresh(web, tk.refresh), 400, "invalid_grant")
	if !e.events.has("grant.revoked", "taken away by the user") {
		t.Error("it is not audited")
	}
	signedOut := v.press("Sign out")
	expectPage(t, signedOut, 200, "You are signed out", "keep their access")
	if !e.valid(other.access) {
		t.Error("signing out ended a grant")
	}
	begun := e.provider.begun
	if b.apps(); e.provider.begun != begun+1 {
		t.Error("the page opens again without a sign-in")
	}
}

// Somebody who finds out that the device was not theirs takes the access away
// before it was collected.
func TestADevicesAccessCanBeTakenBeforeItIsCollected(t *testing.T) {
	e := newEnv(t)
	c := e.registerDevice("SSH Tool")
	d := e.device(c)
	b := e.browser()
	b.enter(d.UserCode).press("Approve").press("Continue as").follow("Connected apps").press("Take the access away")
	expectError(t, e.poll(c, d), 400, "invalid_grant")
	if page := b.apps(); strings.Contains(page.body, "SSH Tool") {
		t.Error("it is still there")
	}
	d = e.device(c)
	b.enter(d.UserCode).press("Approve")
	e.clock.advance(11 * time.Minute)
	if page := b.apps(); strings.Contains(page.body, "SSH Tool") {
		t.Error("what nobody collected is there for good")
	}
}

// What a page shows or takes is that of who signed in there, whatever the form
// says: another's grant and another organisation are as ones that do not exist
// (cases/server 45).
func TestNobodyReachesAnothersGrants(t *testing.T) {
	e := newEnv(t)
	c := e.register("Web", webRedirect)
	e.provider.change("user_ada", func(u *identity.User) { u.Memberships = []identity.Membership{acme, globex} })
	adas := e.tokens(e.redeem(c, e.browser().authorize(c).press("Approve").pressWith("Continue as", "organisation", "org_acme").answer(c).Get("code")))
	e.provider.signInAs(bob)
	bobs := e.signIn(c)
	b := e.browser()
	v := b.apps()
	if strings.Contains(v.body, e.principal(adas.access).Grant) || strings.Contains(v.body, "Ada") {
		t.Error("Bob sees Ada's grant")
	}
	id := regexp.MustCompile(`Request <code>[^<]*</code>`)
	send := func(path string, pairs ...string) string {
		t.Helper()
		r := v.forms(e.principal(bobs.access).Grant)["take"]
		r = filled(t, r, pairs...)
		r.URL.Path = path
		got := b.do(r)
		return fmt.Sprint(got.status, " ", id.ReplaceAllString(got.body, ""))
	}
	hers, unknown := e.principal(adas.access).Grant, strings.Repeat("A", 22)
	want := send("/account", "grant", unknown)
	if !strings.HasPrefix(want, "404 ") {
		t.Fatal(want)
	}
	for name, got := range map[string]string{
		"another's grant":          send("/account", "grant", hers),
		"with its owner":           send("/account", "grant", hers, "subject", "user_ada"),
		"with a path":              send("/account", "grant", "../user_ada/"+hers),
		"nothing":                  send("/account", "grant", ""),
		"another's organisation":   send("/account", "grant", hers, "action", "organisation", "organisation", "org_acme"),
		"an unknown organisation":  send("/account", "grant", hers, "action", "organisation", "organisation", "org_none"),
		"organisation of a tenant": send("/account", "action", "organisation", "organisation", "org_acme"),
		"an unknown action":        send("/account", "action", "delete"),
		"everybody's page":         send("/account/all", "grant", hers, "subject", "user_ada"),
	} {
		if got != want {
			t.Errorf("%s: %s\nwant as for a grant that is not there: %s", name, got, want)
		}
	}
	if page := b.open(e.issuer + "/account/all?q=ada"); page.status != 404 || strings.Contains(page.body, "Ada") {
		t.Errorf("everybody's page: %d\n%s", page.status, page.body)
	}
	if !e.valid(adas.access) || !e.valid(bobs.access) || e.principal(adas.access).Organization != "org_acme" {
		t.Error("something has changed")
	}
}

// The form counts from the page alone, in the browser and for the person it was
// made for, and for ten minutes (cases/server 29).
func TestConnectedAppsCannotBeForged(t *testing.T) {
	e := newEnv(t)
	c := e.register("Web", webRedirect)
	tk := e.signIn(c)
	b := e.browser()
	v := b.apps()
	form := func() *http.Request { return v.forms(e.principal(tk.access).Grant)["take"] }
	for name, change := range map[string]func(*http.Request){
		"another site":  func(r *http.Request) { r.Header.Set("Origin", "https://evil.example") },
		"a null origin": func(r *http.Request) { r.Header.Set("Origin", "null") },
		"cross-site":    func(r *http.Request) { r.Header.Set("Sec-Fetch-Site", "cross-site") },
		"no ticket":     func(r *http.Request) { *r = *filled(t, r, "ticket", "") },
		"a query":       func(r *http.Request) { r.URL.RawQuery = "action=take" },
		"JSON":          func(r *http.Request) { r.Header.Set("Content-Type", "text/plain") },
	} {
		r := form()
		change(r)
		if got := b.do(r); got.status != http.StatusForbidden {
			t.Errorf("%s: %d", name, got.status)
		}
	}
	// A ticket of a sign-in's page, another person's, another browser's.
	consent := b.authorize(c)
	if got := b.do(filled(t, form(), "ticket", consent.form("Approve").FormValue("ticket"))); got.status != http.StatusForbidden {
		t.Errorf("with another page's ticket: %d", got.status)
	}
	other := e.browser()
	other.apps()
	if got := other.do(form()); got.status != http.StatusForbidden {
		t.Errorf("from another browser: %d", got.status)
	}
	if got := e.browser().do(form()); got.status != 200 || got.url.Path != "/account" || !e.valid(tk.access) {
		t.Errorf("from a browser that nobody has signed in: %d %v", got.status, got.url)
	}
	b.open(e.issuer + "/account?action=take&grant=" + e.principal(tk.access).Grant)
	old := form()
	e.clock.advance(10*time.Minute + time.Second)
	if got := b.do(old); got.status != http.StatusForbidden {
		t.Errorf("after ten minutes: %d", got.status)
	}
	if !e.valid(tk.access) {
		t.Error("the access was taken away")
	}
	// The account cookie of a sign-in weeks ago opens nothing.
	begun := e.provider.begun
	signed := e.browser()
	signed.authorize(c).press("Approve").press("Continue as")
	signed.apps()
	e.clock.advance(time.Hour)
	signed.apps()
	if n := e.provider.begun - begun; n != 3 {
		t.Errorf("%d sign-ins, want 3: for the application, for the page, and for the page an hour later", n)
	}
	bobs := e.browser()
	e.provider.signInAs(bob)
	bobs.apps()
	for _, cookie := range []string{"csrf", "person"} {
		for _, k := range bobs.jar.Cookies(v.url) {
			if k.Name == "__Host-"+cookie && (k.Value == "" || strings.Contains(k.Value, "bob")) {
				t.Errorf("cookie %s", k)
			}
		}
	}
}

// A person who is refused at the provider, is banned or may not use the server
// is told so, without a loop.
func TestWhoMayNotUseTheServerSeesNoApps(t *testing.T) {
	e := newEnv(t, func(o *authserver.Options) { o.Admit = func(u *identity.User) bool { return u.ID == "user_ada" } })
	e.provider.set(func() { e.provider.deny = "access_denied" })
	v := e.browser().open(e.issuer + "/account")
	expectPage(t, v, 403, "You were not signed in")
	e.provider.set(func() { e.provider.deny = "" })
	b := v.b
	b.apps()
	e.provider.change("user_ada", func(u *identity.User) { u.Banned = true })
	expectPage(t, b.open(e.issuer+"/account"), 403, "is banned")
	e.provider.change("user_ada", func(u *identity.User) { u.Banned = false })
	ada := e.provider.user
	e.provider.signInAs(bob)
	refused := e.browser().open(e.issuer + "/account")
	expectPage(t, refused, 403, "is not one of those")
	e.provider.set(func() { e.provider.next = &ada })
	expectPage(t, refused.follow("Sign in with another account"), 200, "Connected apps", "ada@example.com")
	e.provider.set(func() { e.provider.dirDown = true })
	expectPage(t, b.open(e.issuer+"/account"), 503)
}

func TestAdministratorsSeeAndEndEverybodysGrants(t *testing.T) {
	e := newEnv(t)
	claude, web := e.register("Claude Code", loopRedirect), e.register("Web Thing", webRedirect)
	adas := e.signIn(claude)
	people := map[string]tokens{}
	for i := range 30 {
		u := identity.User{ID: fmt.Sprintf("user_%02d", i), Email: fmt.Sprintf("u%02d@example.org", i)}
		e.provider.signInAs(u)
		people[u.ID] = e.signIn(web)
	}
	e.provider.set(func() { e.provider.user = e.provider.directory["user_ada"] })
	e.provider.change("user_ada", func(u *identity.User) { u.Roles = []string{"admin"} })
	b := e.browser()
	own := b.apps()
	all := own.follow("Everybody's apps")
	expectPage(t, all, 200, "Everybody", "u07@example.org", "user_07", "Web Thing")
	count := func(v *visit) int { return strings.Count(v.body, "<h2>") }
	if n := count(all); n != 25 {
		t.Errorf("%d on the first page", n)
	}
	if next := all.follow("Next page"); count(next) != 6 || next.link("Next page") != "" {
		t.Errorf("%d on the last page", count(next))
	}
	search := func(q string) *visit { return b.open(e.issuer + "/account/all?q=" + url.QueryEscape(q)) }
	for q, want := range map[string]int{"u07@example.org": 1, "user_07": 1, "cLAUDE": 1, "nobody@example.org": 0, "user_none": 0, "quux": 0, "": 25, "<script>": 0} {
		if v := search(q); v.status != 200 || count(v) != want || strings.Contains(v.body, "<script") {
			t.Errorf("%q: %d, %d found, want %d", q, v.status, count(v), want)
		}
	}
	seventh := e.principal(people["user_07"].access).Grant
	v := search("user_07").act(seventh, "take")
	if v.url.Query().Get("q") != "user_07" || count(v) != 0 || !strings.Contains(v.body, "was taken away") {
		t.Errorf("%v\n%s", v.url, v.body)
	}
	if e.valid(people["user_07"].access) || !e.valid(people["user_08"].access) || !e.valid(adas.access) {
		t.Error("another grant than the one was ended")
	}
	if !e.events.has("grant.revoked", "taken away by an administrator user_ada") || !e.events.has("grants.listed", "") {
		t.Error("it is not audited with who did it")
	}
	// One page of one's own, with another's name in the form, is still one's own.
	if got := own.act(e.principal(adas.access).Grant, "take", "subject", "user_08", "grant", e.principal(people["user_08"].access).Grant); got.status != 404 {
		t.Errorf("%d", got.status)
	}
	e.provider.set(func() { e.provider.dirDown = true })
	if v := search("x"); v.status != 503 {
		t.Errorf("while the role cannot be read: %d", v.status)
	}
	e.provider.set(func() { e.provider.dirDown = false })
	old := search("user_08").forms(e.principal(people["user_08"].access).Grant)["take"]
	e.provider.change("user_ada", func(u *identity.User) { u.Roles = []string{"org:admin", "administrator"} })
	if got := b.do(old); got.status != 404 || !e.valid(people["user_08"].access) {
		t.Errorf("without the role: %d", got.status)
	}
}

// A person's grants end on every instance within a second (cases/server 16).
func TestTakenAccessEndsOnEveryInstance(t *testing.T) {
	standing, open := onOneClock(t)
	c := newCluster(t, open, standing.Now, [3]time.Duration{})
	client := c.register("Web", webRedirect)
	tk := c.signIn(client)
	for _, n := range c.nodes {
		if !n.valid(tk.access) {
			t.Fatal("no access to begin with")
		}
	}
	b := c.nodes[0].browser()
	v := b.apps()
	v.act(c.nodes[0].principal(tk.access).Grant, "take")
	standing.advance(time.Second)
	for i, n := range c.nodes {
		if n.valid(tk.access) {
			t.Errorf("instance %d still accepts it", i)
		}
	}
}

// Who was deleted has neither grants nor consents any more (cases/server 43).
func TestADeletedUserLeavesNothing(t *testing.T) {
	e := newEnv(t)
	web, native := e.register("Web", webRedirect), e.register("Claude Code", loopRedirect)
	e.code(e.register("Tried Once", webRedirect)) // of which only the consent is left
	e.clock.advance(2 * time.Minute)
	list := []tokens{e.signIn(web), e.signIn(web), e.signIn(native)}
	pending := e.code(native)
	gone := list[0]
	e.post("/revoke", web.form("token", gone.refresh))
	e.provider.signInAs(identity.User{ID: "user_ada2", Email: "ada2@example.com"}) // whose id begins the same
	hers := e.signIn(web)
	e.events.list = nil
	if err := e.srv.EndUser(t.Context(), "user_ada"); err != nil {
		t.Fatal(err)
	}
	for i, tk := range list {
		if e.valid(tk.access) {
			t.Errorf("grant %d still works", i)
		}
	}
	expectError(t, e.redeem(native, pending), 400, "invalid_grant")
	if !e.valid(hers.access) {
		t.Error("somebody else's grant was ended")
	}
	for prefix, want := range map[string]int{"consent/user_ada/": 0, "consent/user_ada2/": 1} {
		if left, err := e.store.List(t.Context(), prefix, "", 10); err != nil || len(left) != want {
			t.Errorf("%d records under %s, want %d (%v)", len(left), prefix, want, err)
		}
	}
	if !e.events.has("grant.revoked", "user was deleted") {
		t.Error("it is not audited")
	}
	if err := e.srv.EndUser(t.Context(), "user_ada"); err != nil {
		t.Errorf("the second time: %v", err)
	}
	e.store.Close()
	if err := e.srv.EndUser(t.Context(), "user_ada2"); !errors.Is(err, identity.ErrUnavailable) {
		t.Errorf("with the store closed: %v", err)
	}
}
