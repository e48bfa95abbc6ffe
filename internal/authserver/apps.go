package authserver

import (
	"cmp"
	"context"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/mcp-clerk/mcp-clerk/internal/identity"
	"github.com/mcp-clerk/mcp-clerk/internal/store"
)

// The connected apps: which applications a person has given access, and how
// they take it away. Unlike the pages of a sign-in these show and change what
// is there already, so that the account cookie, which proves nothing, is not
// enough: whoever comes signs in at the provider, and is known for an hour.

const (
	appsPath    = "/account"     // one's own
	allAppsPath = "/account/all" // everybody's, for AdminRole

	personTTL = time.Hour

	appsPage   = 25   // grants of everybody's on one page
	appsLooked = 2000 // records that one search looks at
	maxApps    = 200  // grants of one person that are shown
	maxSearch  = 200  // bytes
)

// AdminRole is the role, as the directory has it, that sees and ends everybody's
// grants.
const AdminRole = "admin"

// Reasons for which people end grants.
const (
	reasonPerson  = "taken away by the user"
	reasonAdmin   = "taken away by an administrator"
	reasonDeleted = "user was deleted"
)

const formApps = "apps"

// appsTicket ties a form of these pages to the browser and to who was shown it.
type appsTicket struct {
	CSRF    []byte `json:"csrf"` // hash of the cookie
	Subject string `json:"sub"`
	Expires int64  `json:"exp"` // unix seconds
}

// app is one grant as people see it.
type app struct {
	ID      string
	Subject string
	Account string // whose it is, on everybody's page
	Name    string
	Domain  string // proven, "" if none
	Scopes  []scopeView
	Device  bool
	Waits   bool // for the device to collect it
	Since   moment
	Used    moment // when tokens were last issued: see decision 18
	// Organization that the grant is for, as its name if that is known.
	Organization  string
	Organisations []organisationView // to change it to
	Chosen        bool               // one of them is
}

type appsView struct {
	Account string
	Said    string // what has just been done
	Apps    []app
	More    bool // there are more than are shown
	Action  string
	Ticket  string
	All     string // URL of everybody's, "" for who may not see them
	Own     string

	// Of everybody's page.
	Search string
	Next   string // URL of the next page
}

// moment is a time as a page shows it.
type moment struct {
	At  time.Time
	Ago string
}

func (s *Server) moment(ms int64) moment {
	at := time.UnixMilli(ms).UTC()
	return moment{at, ago(s.now().Sub(at))}
}

// appsSaid is what a page says after something was done.
var appsSaid = map[string]string{
	"taken":   "The access was taken away. It ends everywhere within a second.",
	"changed": "The organisation was changed. It counts from the application's next call on.",
}

// person is who has signed in to these pages, from a cookie that was set when
// the provider had proven it.
func (s *Server) person(r *http.Request) *account {
	value := s.readCookie(r, cookiePerson)
	a := &account{}
	if value == "" || !s.openText(forCookie, cookiePerson, value, a) || a.Subject == "" || s.now().Unix() >= a.Expires {
		return nil
	}
	return a
}

func (s *Server) setPerson(w http.ResponseWriter, a account) {
	a.Expires = s.now().Add(personTTL).Unix()
	s.setCookie(w, cookiePerson, s.sealText(forCookie, cookiePerson, a), personTTL)
}

// apps serves the connected apps of the person who asks, for path appsPath, or
// everybody's.
func (s *Server) apps(path string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		query, err := parseParams(r.URL.RawQuery)
		if err != nil || len(query.repeated) > 0 || len(r.URL.RawQuery) > maxQuery {
			s.errorPage(w, r, errorPage{Status: http.StatusBadRequest, Problem: "The address of this page cannot be read.",
				Advice: "Start again from your connected apps.", Link: s.site.issuer + appsPath, LinkText: "Connected apps"})
			return
		}
		a := s.person(r)
		if a == nil || r.Method == http.MethodGet && query.get("prompt") == "login" {
			// An answer to an old page is not carried through a sign-in.
			s.beginSignIn(w, r, &authRequest{Page: path, Login: query.get("prompt") == "login"}, "", http.StatusSeeOther)
			return
		}
		u, refused, err := s.refusedUser(r.Context(), a.Subject)
		switch {
		case err != nil:
			s.unavailablePage(w, r, err, s.site.issuer+path)
			return
		case refused != "":
			s.refusedUserPage(w, r, &authRequest{Page: path}, a, refused)
			return
		}
		admin := u != nil && slices.Contains(u.Roles, AdminRole)
		if path == allAppsPath && !admin {
			s.noSuchPage(w, r)
			return
		}
		if r.Method == http.MethodPost {
			s.changeApps(w, r, path, a, u)
			return
		}
		v := appsView{
			Account: a.label(), Said: appsSaid[query.get("said")], Action: s.site.prefix + path, Own: s.site.issuer + appsPath,
			Ticket: s.sealText(forForm, formApps, appsTicket{
				CSRF: hash([]byte(s.csrfToken(w, r))), Subject: a.Subject, Expires: s.now().Add(signinTTL).Unix(),
			}),
		}
		if admin {
			v.All = s.site.issuer + allAppsPath
		}
		name, title := "apps", "Connected apps"
		if path == appsPath {
			v.Apps, v.More, err = s.ownApps(r.Context(), a.Subject, u)
		} else {
			name, title = "allapps", "All connected apps"
			err = s.allApps(r.Context(), &v, query)
			s.audit(r.Context(), Event{Name: "grants.listed", Subject: a.Subject})
		}
		if err != nil {
			s.unavailablePage(w, r, err, s.site.issuer+path)
			return
		}
		s.render(w, http.StatusOK, name, title, v)
	}
}

// noSuchPage is the one answer for what is not there and for what is not this
// person's: nobody learns which.
func (s *Server) noSuchPage(w http.ResponseWriter, r *http.Request) {
	s.errorPage(w, r, errorPage{Status: http.StatusNotFound, Problem: "There is no such application or page, or it is no longer there.",
		Advice: "Nothing was changed.", Link: s.site.issuer + appsPath, LinkText: "Connected apps"})
}

// changeApps takes the answer of one of the pages.
func (s *Server) changeApps(w http.ResponseWriter, r *http.Request, path string, a *account, u *identity.User) {
	p, ok := s.ownForm(w, r)
	var t appsTicket
	csrf := s.readCookie(r, cookieCSRF)
	if !ok || csrf == "" || !s.openText(forForm, formApps, p.get("ticket"), &t) || t.Subject != a.Subject ||
		subtle.ConstantTimeCompare(t.CSRF, hash([]byte(csrf))) != 1 || !s.now().Before(time.Unix(t.Expires, 0)) {
		s.errorPage(w, r, errorPage{Status: http.StatusForbidden,
			Problem: "This did not come from the page that was shown to you, the page was open for too long, or your browser does not keep cookies.",
			Advice:  "Nothing was changed. Open the page again.", Link: s.site.issuer + path, LinkText: "Open the page again"})
		return
	}
	if p.get("action") == "sign-out" {
		s.setCookie(w, cookiePerson, "", 0)
		s.setCookie(w, cookieAccount, "", 0)
		s.audit(r.Context(), Event{Name: "person.signed_out", Subject: a.Subject})
		s.render(w, http.StatusOK, "signedout", "You are signed out", appsView{Own: s.site.issuer + appsPath + "?prompt=login"})
		return
	}
	// The owner is the one who is signed in, whatever a form says, but for an
	// administrator on everybody's page.
	owner, reason := a.Subject, reasonPerson
	if path == allAppsPath {
		owner, reason = p.get("subject"), reasonAdmin+" "+a.Subject
	}
	name := newGrantName(owner, p.get("grant"))
	var err error
	said := "taken"
	switch {
	case !validGrantID(p.get("grant")):
		err = store.ErrNotFound
	case p.get("action") == "take":
		err = s.takeAccess(r.Context(), name, reason)
	case p.get("action") == "organisation" && path == appsPath:
		said = "changed"
		err = s.changeOrganisation(r.Context(), name, u, p.get("organisation"))
	default:
		err = store.ErrNotFound
	}
	switch {
	case errors.Is(err, store.ErrNotFound):
		s.noSuchPage(w, r)
		return
	case err != nil:
		s.unavailablePage(w, r, err, s.site.issuer+path)
		return
	}
	back := []string{"said", said}
	if q := p.get("q"); q != "" && len(q) <= maxSearch {
		back = append(back, "q", q)
	}
	redirect(w, http.StatusSeeOther, withQuery(s.site.issuer+path, back...))
}

// validGrantID reports the form of what createGrant makes.
func validGrantID(id string) bool {
	raw, err := b64.DecodeString(id)
	return err == nil && len(raw) == 16
}

// takeAccess ends a grant, also one that a device has not collected yet: who
// finds out that it was not theirs should not have to wait for that. The error is store.ErrNotFound where there is
// none.
func (s *Server) takeAccess(ctx context.Context, name grantName, reason string) error {
	err := s.transition(ctx, name, func(g *grant) error {
		if !g.live() && !g.waits(s.now()) {
			return errGrantOver
		}
		g.revoke(s.now(), reason)
		return nil
	})
	if errors.Is(err, errGrantOver) {
		return store.ErrNotFound
	}
	return err
}

// changeOrganisation lets a grant be for another organisation of u's. Access
// tokens that are out follow with their next use, since they say nothing about
// it: see Verify.
func (s *Server) changeOrganisation(ctx context.Context, name grantName, u *identity.User, org string) error {
	if u == nil || !slices.ContainsFunc(s.organisations(u, org), func(o organisationView) bool { return o.Chosen }) {
		return store.ErrNotFound // another tenant's is as one that is not there
	}
	clientID := ""
	err := s.transition(ctx, name, func(g *grant) error {
		if !g.live() {
			return errGrantOver
		}
		clientID = g.ClientID
		g.Organization, g.changed = org, true
		return nil
	})
	switch {
	case errors.Is(err, errGrantOver):
		return store.ErrNotFound
	case err != nil:
		return err
	}
	s.announce(ctx, name)
	s.rememberOrganisation(ctx, name.subject(), clientID, org)
	s.audit(ctx, Event{Name: "grant.organisation", ClientID: clientID, Subject: name.subject(), Grant: name.id(), Reason: org})
	if s.opts.Changed != nil {
		s.opts.Changed(ctx, name.subject())
	}
	return nil
}

// rememberOrganisation lets a consent that is remembered lead to that
// organisation the next time, best effort.
func (s *Server) rememberOrganisation(ctx context.Context, subject, clientID, org string) {
	_, err := s.store.Update(ctx, consentKey(subject, clientID), func(old store.Record) ([]byte, time.Time, error) {
		var rec consentRecord
		if err := json.Unmarshal(old.Value, &rec); err != nil {
			return nil, time.Time{}, err
		}
		rec.Organization = org
		value, err := json.Marshal(rec)
		return value, old.Expires, err
	})
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		s.log.WarnContext(ctx, "organisation not remembered", "client", clientID, "subject", subject, "error", err)
	}
}

// ownApps are the live grants of subject, those used last first.
func (s *Server) ownApps(ctx context.Context, subject string, u *identity.User) (list []app, more bool, err error) {
	list, next, err := s.findApps(ctx, "grant/"+url.PathEscape(subject)+"/", "", maxApps, map[string]*client{}, nil)
	if err != nil {
		return nil, false, err
	}
	for i := range list {
		if u == nil {
			continue
		}
		chosen := list[i].Organization
		if choices := s.organisations(u, chosen); len(choices) > 1 {
			list[i].Organisations = choices
			list[i].Chosen = slices.ContainsFunc(choices, func(o organisationView) bool { return o.Chosen })
		}
		for _, m := range u.Memberships {
			if m.OrgID == chosen {
				list[i].Organization = cmp.Or(displayText(m.OrgName, 60), m.OrgID)
			}
		}
	}
	slices.SortStableFunc(list, func(a, b app) int { return b.Used.At.Compare(a.Used.At) })
	return list, next != "", nil
}

// allApps fills v with the grants of everybody whom the query looks for: a
// user's id, an e-mail address, or a part of a client's name or id.
func (s *Server) allApps(ctx context.Context, v *appsView, query params) error {
	v.Search = displayText(query.get("q"), maxSearch)
	people := map[string]identity.User{}
	prefixes := []string{"grant/"}
	names := map[string]*client{}
	var match func(*grant) bool
	switch wanted := strings.ToLower(v.Search); {
	case wanted == "":
	case strings.Contains(wanted, "@"):
		found, err := s.find(ctx, nil, v.Search)
		if err != nil {
			return err
		}
		prefixes = nil
		for _, u := range found {
			people[u.ID] = u
			prefixes = append(prefixes, "grant/"+url.PathEscape(u.ID)+"/")
		}
	case strings.HasPrefix(v.Search, "user_"):
		prefixes = []string{"grant/" + url.PathEscape(v.Search) + "/"}
	default:
		match = func(g *grant) bool {
			c := s.knownClient(ctx, g.ClientID, names)
			return strings.Contains(strings.ToLower(displayText(c.Name, 256)), wanted) || strings.Contains(strings.ToLower(g.ClientID), wanted)
		}
	}
	after := query.get("after")
	for i, prefix := range prefixes {
		if after != "" && !strings.HasPrefix("grant/"+after, prefix) {
			continue
		}
		list, next, err := s.findApps(ctx, prefix, after, appsPage-len(v.Apps), names, match)
		if err != nil {
			return err
		}
		after = ""
		v.Apps = append(v.Apps, list...)
		if next == "" && len(v.Apps) >= appsPage && i < len(prefixes)-1 {
			last := v.Apps[len(v.Apps)-1]
			next = string(newGrantName(last.Subject, last.ID))
		}
		if next != "" {
			v.Next = withQuery(s.site.issuer+allAppsPath, "q", v.Search, "after", next)
			break
		}
	}
	var ids []string
	for _, row := range v.Apps {
		if _, ok := people[row.Subject]; !ok && !slices.Contains(ids, row.Subject) {
			ids = append(ids, row.Subject)
		}
	}
	if len(ids) > 0 {
		// Who they are is good to know; the page is of use without.
		found, err := s.find(ctx, ids, "")
		if err != nil {
			s.log.WarnContext(ctx, "accounts not named", "error", err)
		}
		for _, u := range found {
			people[u.ID] = u
		}
	}
	for i := range v.Apps {
		row := &v.Apps[i]
		row.Account = row.Subject
		if u, ok := people[row.Subject]; ok {
			named := accountOf(&u)
			row.Account = named.label()
		}
	}
	return nil
}

func (s *Server) find(ctx context.Context, ids []string, email string) ([]identity.User, error) {
	if s.opts.Directory == nil {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(ctx, directoryTimeout)
	defer cancel()
	return s.opts.Directory.Find(ctx, ids, email)
}

// findApps looks for up to limit live grants under prefix that match, behind
// the name after. next is where to go on, "" at the end: a search that finds
// little stops after appsLooked records.
func (s *Server) findApps(ctx context.Context, prefix, after string, limit int, names map[string]*client, match func(*grant) bool) (list []app, next string, err error) {
	const step = 200
	last := ""
	if after != "" {
		last = "grant/" + after
	}
	for looked := 0; ; {
		records, err := s.store.List(ctx, prefix, last, step)
		if err != nil {
			return nil, "", storeError("list grants", err)
		}
		for _, rec := range records {
			if len(list) >= limit || looked >= appsLooked {
				return list, strings.TrimPrefix(last, "grant/"), nil
			}
			last, looked = rec.Key, looked+1
			g := &grant{}
			if json.Unmarshal(rec.Value, g) != nil {
				continue
			}
			g.rebase(rec.Expires)
			if (g.live() || g.waits(s.now())) && (match == nil || match(g)) {
				list = append(list, s.appOf(ctx, grantName(strings.TrimPrefix(rec.Key, "grant/")), g, names))
			}
		}
		if len(records) < step {
			return list, "", nil
		}
	}
}

func (s *Server) appOf(ctx context.Context, name grantName, g *grant, names map[string]*client) app {
	c := s.knownClient(ctx, g.ClientID, names)
	row := app{
		ID: name.id(), Subject: name.subject(), Name: displayText(c.Name, 60), Scopes: s.scopeViews(g.Scopes), Device: g.Code.Device, Waits: g.waits(s.now()),
		Since: s.moment(g.Created), Used: s.moment(g.Used), Organization: g.Organization,
	}
	if row.Name == "" {
		row.Name = "An application"
	}
	if isDocumentID(g.ClientID) && (!g.Code.Device || c.confidential()) {
		if u, err := url.Parse(g.ClientID); err == nil {
			row.Domain = u.Host
		}
	} else if !g.Code.Device {
		row.Domain = c.domain(g.Redirect)
	}
	return row
}

// knownClient is what is known of a client without asking the web for it; names
// remembers it for this page.
func (s *Server) knownClient(ctx context.Context, id string, names map[string]*client) *client {
	if c := names[id]; c != nil {
		return c
	}
	c := s.fixed[id]
	if c == nil {
		key := clientKey(id)
		if isDocumentID(id) {
			key = documentKey(id)
		}
		var err error
		if c, err = s.storedClient(ctx, key); err != nil {
			c = &client{ID: id, AuthMethod: methodNone}
		}
	}
	names[id] = c
	return c
}

// EndUser ends all grants of a user who is gone, and forgets what they have
// approved. It may be called again; what was ended before it failed stays so.
func (s *Server) EndUser(ctx context.Context, subject string) error {
	prefix := url.PathEscape(subject) + "/"
	err := s.eachKey(ctx, "grant/"+prefix, func(rec store.Record) error {
		g := &grant{}
		if json.Unmarshal(rec.Value, g) == nil && g.Revoked != "" {
			return nil
		}
		return ignoreOver(s.transition(ctx, grantName(strings.TrimPrefix(rec.Key, "grant/")), func(g *grant) error {
			g.revoke(s.now(), reasonDeleted)
			return nil
		}))
	})
	if err != nil {
		return err
	}
	return s.eachKey(ctx, "consent/"+prefix, func(rec store.Record) error {
		if err := s.store.Delete(ctx, rec.Key); err != nil {
			return storeError("forget consent", err)
		}
		s.audit(ctx, Event{Name: "consent.forgotten", Subject: subject, Reason: reasonDeleted})
		return nil
	})
}

func (s *Server) eachKey(ctx context.Context, prefix string, f func(store.Record) error) error {
	const step = 100
	for last := ""; ; {
		list, err := s.store.List(ctx, prefix, last, step)
		if err != nil {
			return storeError("list records", err)
		}
		for _, rec := range list {
			last = rec.Key
			if err := f(rec); err != nil {
				return err
			}
		}
		if len(list) < step {
			return nil
		}
	}
}
