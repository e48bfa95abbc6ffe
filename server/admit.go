package server

import (
	"fmt"
	"slices"
	"strings"

	"github.com/mcp-clerk/mcp-clerk/internal/identity"
)

// Allowed says who may use a server at all: everyone who is named in any of its
// lists. Where all are empty, everyone may who can sign in at Clerk.
type Allowed struct {
	Domains       []string // of verified primary e-mail addresses, "example.com"; not of those below it
	Organizations []string // ids, "org_…", or slugs; any role in one of them will do
	Users         []string // ids, "user_…", or verified primary e-mail addresses
}

func (a Allowed) everyone() bool {
	return len(a.Domains)+len(a.Organizations)+len(a.Users) == 0
}

// admits judges a user whom Clerk describes.
func (a Allowed) admits(u *identity.User) bool {
	if a.everyone() || slices.Contains(a.Users, u.ID) {
		return true
	}
	for i := range u.Memberships {
		if slices.ContainsFunc(a.Organizations, u.Memberships[i].In) {
			return true
		}
	}
	// An address that Clerk has not verified is whatever its user wrote.
	at := strings.LastIndexByte(u.Email, '@')
	if !u.EmailVerified || at < 1 {
		return false
	}
	email := lower(u.Email)
	return slices.Contains(a.Users, email) || slices.Contains(a.Domains, email[at+1:])
}

// normal is a with its lists as admits compares them.
func (a Allowed) normal() Allowed {
	clean := func(list []string, f func(string) string) []string {
		var out []string
		for _, s := range list {
			if s = strings.TrimSpace(s); s != "" {
				out = append(out, f(s))
			}
		}
		return out
	}
	return Allowed{
		Domains:       clean(a.Domains, func(s string) string { return lower(strings.TrimPrefix(s, "@")) }),
		Organizations: clean(a.Organizations, func(s string) string { return s }),
		Users: clean(a.Users, func(s string) string {
			if strings.Contains(s, "@") {
				return lower(s)
			}
			return s // an id, whose case matters
		}),
	}
}

// lower changes ASCII letters only: other letters that fold to them are found
// in addresses that are made to be taken for others.
func lower(s string) string {
	return strings.Map(func(r rune) rune {
		if 'A' <= r && r <= 'Z' {
			return r + 'a' - 'A'
		}
		return r
	}, s)
}

func (v *validation) allowed(a Allowed) {
	// An empty name comes from a variable that isn't set; dropping it might
	// leave a list that lets everyone in.
	for setting, list := range map[string][]string{"--allow-domain": a.Domains, "--allow-org": a.Organizations, "--allow-user": a.Users} {
		if slices.ContainsFunc(list, func(s string) bool { return strings.Trim(s, " @") == "" }) {
			v.fault(setting, "is empty", "name someone, or leave it out to let everyone in")
		}
	}
	a = a.normal()
	for _, domain := range a.Domains {
		if strings.Trim(domain, "abcdefghijklmnopqrstuvwxyz0123456789.-") != "" || strings.Trim(domain, ".-") != domain || !strings.Contains(domain, ".") {
			v.fault("--allow-domain", fmt.Sprintf("%q is not a domain", domain), "write one as in example.com, without wildcards; others than Latin letters as xn--…")
		}
	}
	for _, org := range a.Organizations {
		if strings.ContainsAny(org, " @:/") {
			v.fault("--allow-org", fmt.Sprintf("%q is no organisation", org), "write its id, org_…, or its slug")
		}
	}
	for _, user := range a.Users {
		if !strings.HasPrefix(user, "user_") && strings.Count(user, "@") != 1 {
			v.fault("--allow-user", fmt.Sprintf("%q is no user", user), "write an id, user_…, or an e-mail address")
		}
	}
}
