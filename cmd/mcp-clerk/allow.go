package main

import (
	"errors"
	"strings"

	"github.com/spf13/pflag"

	"github.com/mcp-clerk/mcp-clerk/server"
)

// allowed are the flags that say who may use a server at all.
type allowed server.Allowed

var errAllowsNobody = errors.New("names nobody, and would let everyone in")

// check refuses flags that were given and are empty, as an unset variable makes
// them.
func (a allowed) check(f *pflag.FlagSet) error {
	for name, list := range map[string][]string{"allow-domain": a.Domains, "allow-org": a.Organizations, "allow-user": a.Users} {
		if f.Changed(name) && len(list) == 0 {
			return usagef("--%s %w", name, errAllowsNobody)
		}
	}
	return nil
}

func (a *allowed) bind(f *pflag.FlagSet) {
	f.StringSliceVar(&a.Domains, "allow-domain", nil, "only people with a verified e-mail address of this domain, or allowed otherwise; repeatable (default from ALLOW_DOMAINS)")
	f.StringSliceVar(&a.Organizations, "allow-org", nil, "only members of this organisation, by id or slug, or who are allowed otherwise; repeatable (default from ALLOW_ORGS)")
	f.StringSliceVar(&a.Users, "allow-user", nil, "only this user, by id or verified e-mail address, or who is allowed otherwise; repeatable (default from ALLOW_USERS)")
}

// with takes what no flag says from the environment.
func (a allowed) with(env *environment) server.Allowed {
	for name, list := range map[string]*[]string{"ALLOW_DOMAINS": &a.Domains, "ALLOW_ORGS": &a.Organizations, "ALLOW_USERS": &a.Users} {
		if value := env.get(name); len(*list) == 0 && value != "" {
			// What is only commas stays one empty name, which is refused.
			*list = strings.Split(strings.Trim(value, ", "), ",")
		}
	}
	return server.Allowed(a)
}
