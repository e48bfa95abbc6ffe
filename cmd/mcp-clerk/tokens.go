package main

import (
	"strings"

	"github.com/spf13/pflag"

	"github.com/mcp-clerk/mcp-clerk/server"
)

// tokenSources are serve's flags for whose tokens let a caller in.
type tokenSources struct {
	AuthorizationServer string
	AcceptNoAudience    bool
	RequireScopes       bool
	APIKeys             bool
	Machines            []string // ID or ID=ROLE,ROLE
}

func (t *tokenSources) bind(f *pflag.FlagSet) {
	f.StringVar(&t.AuthorizationServer, "authorization-server", server.AuthorizationServerBuiltin, "who gives clients their tokens: builtin, which is this server, or clerk")
	f.BoolVar(&t.AcceptNoAudience, "accept-no-audience", false, "with clerk: accept its JWTs that name no audience; they may be meant for other servers")
	f.BoolVar(&t.RequireScopes, "require-scopes", false, "with clerk: demand mcp:tools and the scopes of tools, which must be custom scopes there")
	f.BoolVar(&t.APIKeys, "allow-api-keys", false, "let programs in with API keys that users make at Clerk, as their users")
	f.StringArrayVar(&t.Machines, "allow-machine", nil, "let a machine in, mch_…, or programs with API keys of an organisation, org_…, with the roles after =, as in mch_2x…=admin,premium (repeatable)")
}

// lifeFlags say what is Clerk's to decide where Clerk gives out the tokens.
var lifeFlags = []string{"access-token-ttl", "refresh-grace", "refresh-idle", "refresh-absolute"}

// check refuses flags that would have no effect.
func (t *tokenSources) check(f *pflag.FlagSet, lives *tokenLives) error {
	if t.AuthorizationServer != server.AuthorizationServerClerk {
		return nil
	}
	for _, name := range lifeFlags {
		if f.Changed(name) {
			return usagef("--%s has no effect with --authorization-server clerk: Clerk decides how long its tokens live", name)
		}
	}
	*lives = tokenLives{}
	return nil
}

func (t *tokenSources) apply(o *server.Options) {
	o.AuthorizationServer = t.AuthorizationServer
	o.Clerk.AcceptNoAudience, o.Clerk.RequireScopes = t.AcceptNoAudience, t.RequireScopes
	o.APIKeys = t.APIKeys
	for _, text := range t.Machines {
		id, roles, given := strings.Cut(text, "=")
		m := server.Machine{ID: strings.TrimSpace(id)}
		if given {
			for role := range strings.SplitSeq(roles, ",") {
				m.Roles = append(m.Roles, strings.TrimSpace(role))
			}
		}
		o.Machines = append(o.Machines, m)
	}
}
