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

// permits reports whether user may use a tool that needs one of roles.
func permits(user *identity.User, roles []string) bool {
	return len(roles) == 0 || user.HasRole(roles...)
}

// authorize decides about a call of tools/list or tools/call. A result is the
// refusal to answer with; an error refuses the caller altogether.
func (s *Server) authorize(ctx context.Context, x *exchange) (*mcp.CallToolResult, error) {
	p := identity.FromContext(ctx)
	if p == nil {
		return nil, fmt.Errorf("no principal: %w", identity.ErrInvalidToken)
	}
	if !p.HasScope(authserver.ScopeTools) {
		return nil, &mcphttp.ScopeError{Scopes: x.tool.needs()}
	}
	if x.call.Message.Method == string(mcp.MethodToolsList) {
		return nil, s.prepareList(ctx, x)
	}
	if x.tool == nil { // a name nobody has: the engine says so
		return nil, nil
	}
	if len(x.tool.roles) == 0 {
		if err := s.checkStanding(ctx, x); err != nil {
			return nil, err
		}
		return nil, checkScopes(p, x.tool)
	}
	user, err := x.user(ctx)
	switch {
	case errors.Is(err, identity.ErrInvalidToken):
		return nil, err
	case err != nil:
		s.log.WarnContext(ctx, "tool refused: "+errRoleUnknown.Error(), "tool", x.tool.name, "subject", p.Subject, "error", err)
		return mcp.NewToolResultErrorf("%s needs %s, and Clerk cannot be asked for your roles right now: try again in a moment",
			x.tool.name, oneOf(x.tool.roles)), nil
	case !permits(user, x.tool.roles):
		s.log.InfoContext(ctx, "tool refused: role missing", "tool", x.tool.name, "subject", p.Subject)
		return mcp.NewToolResultErrorf("%s is refused: it needs %s, which the account %s does not have. An administrator can give it in Clerk; it counts within a minute",
			x.tool.name, oneOf(x.tool.roles), account(user)), nil
	}
	// The role first: no scope helps whom it is missing.
	return nil, checkScopes(p, x.tool)
}

// checkScopes refuses a token without a scope of the tool. The refusal names
// all that the call needs, for clients that ask for just what it names.
func checkScopes(p *identity.Principal, t *registered) error {
	for _, sc := range t.scopes {
		if !p.HasScope(sc.Name) {
			return &mcphttp.ScopeError{Scopes: t.needs()}
		}
	}
	return nil
}

// needs are the scopes that a call of the tool needs; t may be nil, for a call
// that names none.
func (t *registered) needs() []string {
	names := []string{authserver.ScopeTools}
	if t != nil {
		for _, sc := range t.scopes {
			names = append(names, sc.Name)
		}
	}
	return names
}

// checkStanding refuses a caller who is known to be banned or gone. Who cannot
// be asked about is neither: without roles, being signed in is all there is.
func (s *Server) checkStanding(ctx context.Context, x *exchange) error {
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
// listTimeout counts; who is known to be banned or gone gets no list.
func (s *Server) prepareList(ctx context.Context, x *exchange) error {
	ctx, cancel := context.WithTimeout(ctx, listTimeout)
	defer cancel()
	user, err := x.user(ctx)
	x.remember(user, err)
	if errors.Is(err, identity.ErrInvalidToken) {
		return err
	}
	return nil
}

// current is the caller as Clerk knows them now. A deleted or banned user's
// token is worth nothing any more, which the error says by ErrInvalidToken.
func (s *Server) current(ctx context.Context) (*identity.User, error) {
	p := identity.FromContext(ctx)
	if p == nil {
		return nil, fmt.Errorf("no principal: %w", identity.ErrInvalidToken)
	}
	user, err := s.clerk.User(ctx, p.Subject)
	switch {
	case errors.Is(err, identity.ErrNoUser):
		return nil, fmt.Errorf("user %q is gone: %w", p.Subject, errors.Join(identity.ErrInvalidToken, identity.ErrNoUser))
	case err != nil:
		return nil, err
	case user.Banned:
		return nil, fmt.Errorf("user %q is banned: %w", p.Subject, identity.ErrInvalidToken)
	}
	return &user, nil
}

// visible is the tool filter: of tools those that the caller may use. It fails
// closed: when the roles are not known, no tool that needs one is left.
func (s *Server) visible(ctx context.Context, tools []mcp.Tool) []mcp.Tool {
	x := exchangeFrom(ctx)
	if x == nil {
		return nil
	}
	return slices.DeleteFunc(tools, func(tool mcp.Tool) bool {
		entry := s.tool(tool.Name)
		if entry == nil {
			return true
		}
		if len(entry.roles) == 0 {
			return false
		}
		user, err := x.user(ctx)
		if err != nil {
			x.rolesUnknown.Store(true)
		}
		return err != nil || !permits(user, entry.roles)
	})
}

// oneOf names roles in a sentence.
func oneOf(roles []string) string {
	if len(roles) == 1 {
		return "the role " + roles[0]
	}
	return "one of the roles " + strings.Join(roles, ", ")
}

func account(user *identity.User) string {
	if user.Email != "" {
		return user.Email
	}
	return user.ID
}
