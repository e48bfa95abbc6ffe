package server

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/mcp-clerk/mcp-clerk/internal/authserver"
	"github.com/mcp-clerk/mcp-clerk/internal/clerk"
	"github.com/mcp-clerk/mcp-clerk/internal/identity"
	"github.com/mcp-clerk/mcp-clerk/internal/mcphttp"
)

// serverMetadataPath is where clients of revision 2025-03-26 look for the
// authorization server: at the root of the MCP server, whoever it is.
const serverMetadataPath = "/.well-known/oauth-authorization-server"

// byClerk reports whether Clerk is the authorization server.
func (o *Options) byClerk() bool { return o.AuthorizationServer == AuthorizationServerClerk }

// scoped reports whether clients can ask for the scopes of this server.
func (o *Options) scoped() bool { return !o.byClerk() || o.Clerk.RequireScopes }

// clerkScopes are what clients are told to ask Clerk for. Nothing that Clerk's
// own scopes give is needed here, so these are its defaults; openid is not
// among them, since nobody here is to be given an id_token.
func (o *Options) clerkScopes() []string {
	scopes := []string{"profile", "email"}
	if o.Clerk.RequireScopes {
		scopes = append(scopes, authserver.ScopeTools)
	}
	return scopes
}

// tokenChecks are the verifiers of Clerk's tokens that the options ask for.
// AccessTokens of Clerk's count where Clerk is the authorization server and
// nowhere else.
func (s *Server) tokenChecks() map[clerk.TokenKind]mcphttp.Verifier {
	checks := map[clerk.TokenKind]mcphttp.Verifier{}
	if s.opts.byClerk() {
		checks[clerk.AccessToken] = s.clerk.AccessTokens(clerk.AccessTokenRules{
			Resource:   s.URL(),
			Covers:     s.auth.IsResource,
			NoAudience: s.opts.Clerk.AcceptNoAudience,
			AllScopes:  !s.opts.Clerk.RequireScopes,
		})
	}
	rules := clerk.KeyRules{Resource: s.URL(), Users: s.opts.APIKeys}
	for _, m := range s.opts.Machines {
		rules.Machines = append(rules.Machines, m.ID)
	}
	keys := s.clerk.Keys(rules)
	if rules.Users || slices.ContainsFunc(rules.Machines, clerk.IsOrganisation) {
		checks[clerk.APIKey] = keys
	}
	if slices.ContainsFunc(rules.Machines, clerk.IsMachine) {
		checks[clerk.MachineToken] = keys
	}
	return checks
}

// verifier checks bearer tokens, each by what it looks like, and refuses those
// of users who are known to be banned or gone: without a tool being called,
// Clerk isn't asked for that.
type verifier struct{ server *Server }

func (v verifier) Verify(ctx context.Context, token string) (*identity.Principal, error) {
	p, ours, err := v.server.checkToken(ctx, token)
	if err != nil {
		return nil, err
	}
	if !ours && !v.server.opts.Allowed.everyone() {
		// Who has a token of ours was asked about before they got it. Clerk gives
		// its own to everyone who can sign in there.
		if _, err := v.server.caller(ctx, p); err != nil {
			v.server.log.InfoContext(ctx, "caller not let in", "error", err)
			if errors.Is(err, errNotAllowed) {
				// Nobody has told them so yet, and signing in again is no help.
				return nil, fmt.Errorf("user %q: %w", p.Subject, identity.ErrForbidden)
			}
			return nil, err
		}
		return p, nil
	}
	if user, err, known := v.server.clerk.Known(p.Subject); known {
		within := user.Within(p.Organization) // whether they are let in depends on no role
		if err := v.server.refusal(p.Subject, within, err); errors.Is(err, identity.ErrInvalidToken) {
			return nil, err
		}
	}
	return p, nil
}

// checkToken returns whom a token names, and whether it is one of ours.
func (s *Server) checkToken(ctx context.Context, token string) (p *identity.Principal, ours bool, err error) {
	kind := clerk.KindOf(token)
	if check, ok := s.checks[kind]; ok {
		p, err := check.Verify(ctx, token)
		// Who set Clerk up needs the reason, which the client isn't told. Only
		// who has a good token of Clerk's can make the warning come.
		switch {
		case errors.Is(err, clerk.ErrAudience):
			s.log.WarnContext(ctx, "token not accepted", "error", err)
		case errors.Is(err, identity.ErrInvalidToken):
			s.log.DebugContext(ctx, "token not accepted", "error", err)
		}
		return p, false, err
	}
	if kind != clerk.NoToken || s.opts.byClerk() {
		return nil, false, fmt.Errorf("tokens of this kind are not accepted: %w", identity.ErrInvalidToken)
	}
	p, err = s.auth.Verify(ctx, token)
	return p, true, err
}

// machine is a caller that is no person, as the options describe it.
func (s *Server) machine(id string) (*identity.User, error) {
	for _, m := range s.opts.Machines {
		if m.ID == id {
			return &identity.User{ID: id, Roles: slices.Clone(m.Roles)}, nil
		}
	}
	return nil, fmt.Errorf("machine %q may not use this server: %w", id, identity.ErrInvalidToken)
}

// challenge is the header of a refusal. It names scopes that the authorization
// server knows.
func (s *Server) challenge(r *http.Request, code string, scopes []string) string {
	if !s.opts.scoped() {
		scopes = nil
	}
	return s.auth.Challenge(r, code, scopes...)
}

// clerkMetadata answers clients that know no resource metadata with a copy of
// Clerk's. A redirect would do as well for those that follow one; not all do.
func (s *Server) clerkMetadata(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Access-Control-Allow-Origin", "*")
	switch r.Method {
	case http.MethodGet, http.MethodHead:
	case http.MethodOptions:
		h.Set("Access-Control-Allow-Methods", "GET, HEAD, OPTIONS")
		h.Set("Access-Control-Allow-Headers", "Accept, MCP-Protocol-Version")
		h.Set("Access-Control-Max-Age", "86400")
		w.WriteHeader(http.StatusNoContent)
		return
	default:
		h.Set("Allow", "GET, HEAD, OPTIONS")
		plain(w, http.StatusMethodNotAllowed, "use GET")
		return
	}
	body, err := s.clerk.ServerMetadata(r.Context())
	if err != nil {
		s.log.WarnContext(r.Context(), "metadata not served", "error", err)
		h.Set("Retry-After", "2")
		plain(w, http.StatusServiceUnavailable, "Clerk cannot be asked right now")
		return
	}
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "public, max-age=300")
	w.Write(body)
}

// tokens checks what the options say about tokens.
func (v *validation) tokens(o Options) {
	byClerk := o.byClerk()
	if o.AuthorizationServer != "" && o.AuthorizationServer != AuthorizationServerBuiltin && !byClerk {
		v.fault("--authorization-server", fmt.Sprintf("%q is neither builtin nor clerk", o.AuthorizationServer), "leave it out for builtin")
	}
	const clerks = "Clerk gives out the tokens"
	if byClerk && (o.Clients.Admission != "" || len(o.Clients.AdmittedHosts)+len(o.Clients.Known)+len(o.Clients.PrivateRedirects) > 0 || o.Clients.RegistrationToken != "") {
		v.fault("clients", clerks+" and decides which clients get them", "set it up in Clerk's dashboard, see docs/clerk.md, and leave the settings of clients out")
	}
	if byClerk && (o.AccessTokenTTL != 0 || o.RefreshGrace != 0 || o.RefreshIdle != 0 || o.RefreshAbsolute != 0) {
		v.fault("lives of tokens", clerks+" and decides how long they live", "leave these settings out")
	}
	if !byClerk && o.Clerk.AcceptNoAudience {
		v.fault("--accept-no-audience", "is about tokens of Clerk's", "use it with --authorization-server clerk")
	}
	if !byClerk && o.Clerk.RequireScopes {
		v.fault("--require-scopes", "is about tokens of Clerk's", "use it with --authorization-server clerk; this server's own tokens have scopes anyway")
	}
	machines := false
	for _, m := range o.Machines {
		machines = machines || clerk.IsMachine(m.ID)
		switch {
		case !clerk.IsMachine(m.ID) && !clerk.IsOrganisation(m.ID):
			v.fault("--allow-machine", fmt.Sprintf("%q is neither a machine nor an organisation", m.ID), "write an id, mch_… or org_…, and after = its roles")
		case slices.ContainsFunc(m.Roles, func(role string) bool { return strings.TrimSpace(role) == "" }):
			v.fault("--allow-machine", fmt.Sprintf("a role of %q is empty", m.ID), "write roles with commas between them, as in mch_2x…=admin,premium")
		}
	}
	if machines {
		v.secret("CLERK_MACHINE_SECRET_KEY", o.Clerk.MachineSecretKey, "make a machine for this server in Clerk's dashboard (Configure, Machines), let the others reach it, and copy its secret, which starts with ak_")
	}
}
