package server

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/mark3labs/mcp-go/mcp"

	"github.com/mcp-clerk/mcp-clerk/internal/authserver"
	"github.com/mcp-clerk/mcp-clerk/internal/clerk"
	"github.com/mcp-clerk/mcp-clerk/internal/identity"
	"github.com/mcp-clerk/mcp-clerk/internal/mcphttp"
)

const (
	// standingTimeout is how long a call of a tool without roles waits to
	// learn whether its caller is banned. Clerk being slow must not stop such
	// a tool, so after one that had to wait in vain nobody waits for
	// standingPause.
	standingTimeout = time.Second
	standingPause   = 5 * time.Second
	// listTimeout is how long a list waits for the roles of its caller. It
	// then goes without the tools that need one, and may not be kept.
	listTimeout = 3 * time.Second
)

// errRoleUnknown says that nobody could tell the caller's roles.
var errRoleUnknown = errors.New("roles could not be checked")

// errNotAllowed says that Options.Allowed is about others.
var errNotAllowed = errors.New("may not use this server")

// access is who may use something.
type access struct {
	roles       []string           // one of them; empty: every signed-in user
	permissions []string           // and one of these
	scopes      []authserver.Scope // that a token must carry beside ScopeTools
	public      bool               // nobody need sign in
}

// gated reports whether Clerk must be asked about the caller.
func (a *access) gated() bool { return len(a.roles)+len(a.permissions) > 0 }

// Requirement says who may use a tool, a prompt or a resource. Several hold
// together; without any, every signed-in user may.
type Requirement func(*access)

func (r Requirement) applyTool(t *registered) { r(&t.access) }

// RequireRole makes a tool visible and callable only for users who hold one of
// roles, read from Clerk's current data: a role in the public metadata
// ("admin") or in an organization ("org:admin"). For everyone else the tool is
// missing in tools/list and refused in tools/call, within 60 seconds of a
// change, and also while Clerk cannot be asked. It panics without a role.
func RequireRole(roles ...string) Requirement {
	if len(roles) == 0 || slices.Contains(roles, "") {
		panic("server: RequireRole needs roles")
	}
	roles = slices.Clone(roles)
	return func(a *access) { a.roles = roles }
}

// RequireScope makes a tool callable only with a token that carries the scope,
// beside "mcp:tools" which every call needs. Scopes are what people give to an
// application, roles what they have themselves: the tool stays in tools/list,
// and a call whose token lacks the scope is refused with 403
// insufficient_scope, so that the client can ask its user for more (MCP
// authorization, "Step-Up Authorization Flow"). A caller whose role is missing
// is not sent there.
//
// allows says on the consent page, in plain words, what the scope allows.
// Tools of one group share a scope; the first description counts.
// RequireScope panics when the name is not a scope-token (RFC 6749 section
// 3.3) or is taken by the server itself ("mcp:tools", "offline_access"), and
// without a description.
func RequireScope(name, allows string) Requirement {
	if strings.TrimSpace(allows) == "" {
		panic(fmt.Sprintf("server: RequireScope(%q) needs a description for the consent page", name))
	}
	if name == authserver.ScopeTools || name == authserver.ScopeOffline {
		panic(fmt.Sprintf("server: RequireScope: the scope %q is the server's own", name))
	}
	return func(a *access) { a.scopes = append(a.scopes, authserver.Scope{Name: name, Description: allows}) }
}

// RequireOrgPermission is RequireRole for one of the permissions that a role in
// an organization gives ("org:feature:permission"). It panics without one.
func RequireOrgPermission(permissions ...string) Requirement {
	if len(permissions) == 0 || slices.Contains(permissions, "") {
		panic("server: RequireOrgPermission needs permissions")
	}
	permissions = slices.Clone(permissions)
	return func(a *access) { a.permissions = permissions }
}

// RequireNothing lets everyone in, signed in or not: Principal is then nil for
// whoever has not. It goes with Options.Public, without which it panics when it
// is used, and with no other requirement.
func RequireNothing() Requirement {
	return func(a *access) { a.public = true }
}

// declare checks the access of something new, and makes its scopes known.
func (s *Server) declare(kind, name string, a *access) {
	if a.public && (!s.opts.Public || a.gated() || len(a.scopes) > 0) {
		panic(fmt.Sprintf("server: %s %q: RequireNothing needs Options.Public and no other requirement", kind, name))
	}
	for _, sc := range a.scopes {
		if !s.opts.scoped() {
			continue // nobody can ask for it
		}
		if err := s.auth.AddScope(sc); err != nil {
			panic(fmt.Sprintf("server: %s %q: %v", kind, name, err))
		}
	}
}

// permits reports whether user has what a asks of a user.
func (a *access) permits(user *identity.User) bool {
	return (len(a.roles) == 0 || user.HasRole(a.roles...)) && (len(a.permissions) == 0 || user.HasPermission(a.permissions...))
}

// refusal is why a user may not have something, in words for the model.
type refusal struct{ text string }

func (r *refusal) Error() string { return r.text }

// admit decides whether the caller may use something: nil, a *refusal, or an
// error that refuses the request altogether.
func (s *Server) admit(ctx context.Context, x *exchange, kind, name string, a *access) error {
	p := identity.FromContext(ctx)
	switch {
	case a.public:
		return nil
	case p == nil:
		return fmt.Errorf("no principal: %w", identity.ErrInvalidToken)
	case !p.HasScope(authserver.ScopeTools):
		return &mcphttp.ScopeError{Scopes: a.needs()}
	case !a.gated():
		if err := s.checkStanding(ctx, x); err != nil {
			return err
		}
		return checkScopes(p, a)
	}
	user, err := x.user(ctx)
	switch {
	case errors.Is(err, identity.ErrInvalidToken):
		return err
	case err != nil:
		s.log.WarnContext(ctx, kind+" refused: "+errRoleUnknown.Error(), kind, name, "subject", p.Subject, "error", err)
		return &refusal{fmt.Sprintf("%s needs %s, and Clerk cannot be asked for your roles right now: try again in a moment", name, a.wanted())}
	case !a.permits(user):
		s.log.InfoContext(ctx, kind+" refused: role missing", kind, name, "subject", p.Subject)
		return &refusal{fmt.Sprintf("%s is refused: it needs %s, which the account %s does not have. An administrator can give it in Clerk; it counts within a minute",
			name, a.wanted(), account(user))}
	}
	// The role first: no scope helps whom it is missing.
	return checkScopes(p, a)
}

// anyone is the access to what every signed-in user has: the lists, and names
// that nobody has, of which the engine says so.
var anyone access

// authorize decides about a call of tools/call. A result is the refusal to
// answer with; an error refuses the caller altogether.
func (s *Server) authorize(ctx context.Context, x *exchange) (*mcp.CallToolResult, error) {
	if x.tool == nil {
		if p := identity.FromContext(ctx); p != nil && p.HasScope(authserver.ScopeTools) {
			return nil, nil
		}
		return nil, s.admit(ctx, x, "tool", "", &anyone)
	}
	err := s.admit(ctx, x, "tool", x.tool.name, &x.tool.access)
	var told *refusal
	if errors.As(err, &told) {
		return mcp.NewToolResultError(told.text), nil
	}
	if errors.Is(err, identity.ErrInvalidToken) && identity.FromContext(ctx) == nil && asksInResult(x.call) {
		return s.signInResult(x), nil
	}
	return nil, err
}

// checkScopes refuses a token without a scope of the tool. The refusal names
// all that the call needs, for clients that ask for just what it names.
func checkScopes(p *identity.Principal, a *access) error {
	for _, sc := range a.scopes {
		if !p.HasScope(sc.Name) {
			return &mcphttp.ScopeError{Scopes: a.needs()}
		}
	}
	return nil
}

// needs are the scopes that a token must carry.
func (a *access) needs() []string {
	names := []string{authserver.ScopeTools}
	for _, sc := range a.scopes {
		names = append(names, sc.Name)
	}
	return names
}

// checkStanding refuses a caller who is known to be banned or gone. Who cannot
// be asked about is neither: without roles, being signed in is all there is.
func (s *Server) checkStanding(ctx context.Context, x *exchange) error {
	if user, err, known := s.known(ctx); known {
		x.remember(user, err)
		if errors.Is(err, identity.ErrInvalidToken) {
			return err
		}
		return nil
	}
	if time.Now().UnixNano() < s.noStanding.Load() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, standingTimeout)
	defer cancel()
	_, err := x.user(ctx)
	if errors.Is(err, identity.ErrInvalidToken) {
		return err
	}
	if err != nil {
		s.noStanding.Store(time.Now().Add(standingPause).UnixNano())
	}
	return nil
}

// prepareList looks the caller of a list up, for the filter. What comes within
// listTimeout counts; who is known to be banned or gone gets no list. Nobody
// need sign in for a list of what is public.
func (s *Server) prepareList(ctx context.Context, x *exchange) error {
	p := identity.FromContext(ctx)
	switch {
	case p == nil && s.opts.Public:
		return nil
	case p == nil:
		return fmt.Errorf("no principal: %w", identity.ErrInvalidToken)
	case !p.HasScope(authserver.ScopeTools):
		return &mcphttp.ScopeError{Scopes: anyone.needs()}
	}
	ctx, cancel := context.WithTimeout(ctx, listTimeout)
	defer cancel()
	user, err := x.user(ctx)
	x.remember(user, err)
	if errors.Is(err, identity.ErrInvalidToken) {
		return err
	}
	return nil
}

// current is the caller as Clerk knows them now, within the organisation that
// their grant is for. A deleted or banned user's
// token is worth nothing any more, which the error says by ErrInvalidToken.
func (s *Server) current(ctx context.Context) (*identity.User, error) {
	p := identity.FromContext(ctx)
	if p == nil {
		return nil, fmt.Errorf("no principal: %w", identity.ErrInvalidToken)
	}
	if user, err, known := s.known(ctx); known {
		return user, err
	}
	return s.caller(ctx, p)
}

// caller is p's user, as Clerk or the options know them now.
func (s *Server) caller(ctx context.Context, p *identity.Principal) (*identity.User, error) {
	if !clerk.IsUser(p.Subject) {
		return s.machine(p.Subject)
	}
	user, err := s.clerk.User(ctx, p.Subject)
	return s.judged(p, &user, err)
}

// known is current without asking Clerk: what is still remembered of the caller.
func (s *Server) known(ctx context.Context) (_ *identity.User, err error, known bool) { //nolint:revive // the error is the answer
	p := identity.FromContext(ctx)
	if p == nil {
		return nil, nil, false
	}
	if !clerk.IsUser(p.Subject) {
		machine, err := s.machine(p.Subject)
		return machine, err, true
	}
	user, err, known := s.clerk.Known(p.Subject)
	if !known {
		return nil, nil, false
	}
	found, err := s.judged(p, user, err)
	return found, err, true
}

// judged is what Clerk says of p's user, within p's organisation.
func (s *Server) judged(p *identity.Principal, user *identity.User, err error) (*identity.User, error) {
	user = s.clerk.Within(user, p.Organization)
	if err := s.refusal(p.Subject, user, err); err != nil {
		return nil, err
	}
	return user, nil
}

// refusal judges what Clerk says of a user, which may be an error.
func (s *Server) refusal(subject string, user *identity.User, err error) error {
	switch {
	case errors.Is(err, identity.ErrNoUser):
		return fmt.Errorf("user %q is gone: %w", subject, errors.Join(identity.ErrInvalidToken, identity.ErrNoUser))
	case err != nil:
		return err
	case user.Banned:
		return fmt.Errorf("user %q is banned: %w", subject, identity.ErrInvalidToken)
	case user.Locked:
		return fmt.Errorf("user %q is locked: %w", subject, identity.ErrInvalidToken)
	case !s.opts.Allowed.admits(user):
		return fmt.Errorf("user %q: %w: %w", subject, errNotAllowed, identity.ErrInvalidToken)
	}
	return nil
}

// sees reports whether something is in the lists of the caller. It fails
// closed: when the roles are not known, nothing that needs one is seen. Who has
// not signed in sees what signing in alone would give.
func (s *Server) sees(ctx context.Context, x *exchange, a *access) bool {
	if !a.gated() {
		return true
	}
	if identity.FromContext(ctx) == nil {
		return false
	}
	user, err := x.user(ctx)
	if err != nil {
		x.rolesUnknown.Store(true)
	}
	return err == nil && a.permits(user)
}

// visible is the tool filter: of tools those that the caller may use.
func (s *Server) visible(ctx context.Context, tools []mcp.Tool) []mcp.Tool {
	x := exchangeFrom(ctx)
	if x == nil {
		return nil
	}
	return slices.DeleteFunc(tools, func(tool mcp.Tool) bool {
		entry := s.tool(tool.Name)
		return entry == nil || !s.sees(ctx, x, &entry.access)
	})
}

// wanted names what a asks of a user, in a sentence.
func (a *access) wanted() string {
	var parts []string
	if len(a.roles) > 0 {
		parts = append(parts, oneOf("role", a.roles))
	}
	if len(a.permissions) > 0 {
		parts = append(parts, oneOf("permission", a.permissions))
	}
	return strings.Join(parts, " and ")
}

func oneOf(what string, names []string) string {
	if len(names) == 1 {
		return "the " + what + " " + names[0]
	}
	return "one of the " + what + "s " + strings.Join(names, ", ")
}

func account(user *identity.User) string {
	if user.Email != "" {
		return user.Email
	}
	return user.ID
}
