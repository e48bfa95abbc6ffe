package clerk

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/mcp-clerk/mcp-clerk/internal/identity"
)

const defaultRoleKey = "role"

// RoleRule gives a role of this server to everyone who holds From at Clerk.
type RoleRule struct {
	From string // as identity.User.HasRole takes it: "boss", "org:admin", "org:images:make@org_1"
	Role string // the role that is given
}

// ParseRoleRules reads rules as they are configured: FROM=ROLE, separated by
// commas. White space around the parts does not count.
func ParseRoleRules(text string) ([]RoleRule, error) {
	var rules []RoleRule
	for part := range strings.SplitSeq(text, ",") {
		if strings.TrimSpace(part) == "" {
			continue
		}
		from, role, ok := strings.Cut(part, "=")
		rule := RoleRule{From: strings.TrimSpace(from), Role: strings.TrimSpace(role)}
		if err := rule.Check(); !ok || err != nil {
			return nil, fmt.Errorf("%q is not FROM=ROLE", strings.TrimSpace(part))
		}
		rules = append(rules, rule)
	}
	return rules, nil
}

// Check reports a rule that names no role.
func (r RoleRule) Check() error {
	name, org, at := strings.Cut(r.From, "@")
	if r.Role == "" || name == "" || at && org == "" || strings.Contains(r.Role, "=") {
		return fmt.Errorf("role rule %q=%q: both sides name a role", r.From, r.Role)
	}
	return nil
}

// OfOrganisation reports whether memberships decide about From.
func (r RoleRule) OfOrganisation() bool { return strings.HasPrefix(r.From, "org:") }

// giveRoles adds the roles that the rules give. They are judged by what Clerk
// says alone, so that no rule builds on another one.
func giveRoles(u *identity.User, rules []RoleRule) {
	var given []string
	for _, r := range rules {
		if u.HasRole(r.From) {
			given = append(given, r.Role)
		}
	}
	for _, role := range given {
		if !slices.Contains(u.Roles, role) {
			u.Roles = append(u.Roles, role)
		}
	}
}

// Within is u as a grant for that organisation sees them: see
// identity.User.Within. Roles that the rules give are given anew, by what is
// left.
func (c *Clerk) Within(u *identity.User, org string) *identity.User {
	if org == "" {
		return u
	}
	u = u.Within(org)
	u.Roles = rolesUnder(u.PublicMetadata, c.roleKey)
	giveRoles(u, c.roleRules)
	return u
}

// rolesUnder returns what public metadata says under key, a member's name or a
// path of names with dots: a string, or a list of strings. Anything else is no
// role at all. Names are compared exactly, as encoding/json would not.
func rolesUnder(publicMetadata json.RawMessage, key string) []string {
	raw := publicMetadata
	for name := range strings.SplitSeq(key, ".") {
		var object map[string]json.RawMessage
		if json.Unmarshal(raw, &object) != nil {
			return nil
		}
		raw = object[name]
	}
	var list []string
	var one *string
	if json.Unmarshal(raw, &one) == nil && one != nil {
		list = []string{*one}
	} else {
		var many []*string
		if json.Unmarshal(raw, &many) != nil {
			return nil
		}
		for _, r := range many {
			if r == nil {
				return nil
			}
			list = append(list, *r)
		}
	}
	var out []string
	for _, r := range list {
		if r != "" && !slices.Contains(out, r) {
			out = append(out, r)
		}
	}
	return out
}
