package devclerk_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mcp-clerk/mcp-clerk/internal/devclerk"
)

const bearer = "Bearer sk_test_dev"

// The members that Clerk's API specification requires (github.com/clerk/openapi-specs:
// fapi/2026-05-12, schemas WellKnown.*; bapi/2025-04-10, schemas User, EmailAddress,
// OrganizationMembership, Organization).
const (
	openIDConfigurationRequired = `issuer authorization_endpoint token_endpoint revocation_endpoint introspection_endpoint userinfo_endpoint
		jwks_uri scopes_supported response_types_supported response_modes_supported grant_types_supported subject_types_supported
		id_token_signing_alg_values_supported token_endpoint_auth_methods_supported claims_supported code_challenge_methods_supported
		backchannel_logout_supported frontchannel_logout_supported`
	serverMetadataRequired = `issuer authorization_endpoint token_endpoint revocation_endpoint jwks_uri response_types_supported grant_types_supported
		token_endpoint_auth_methods_supported scopes_supported subject_types_supported id_token_signing_alg_values_supported
		claims_supported code_challenge_methods_supported`
	userRequired = `id object username first_name last_name has_image primary_email_address_id primary_phone_number_id primary_web3_wallet_id
		password_enabled two_factor_enabled totp_enabled backup_code_enabled email_addresses phone_numbers web3_wallets passkeys
		external_accounts saml_accounts enterprise_accounts public_metadata external_id last_sign_in_at banned locked
		lockout_expires_in_seconds verification_attempts_remaining created_at updated_at delete_self_enabled
		create_organization_enabled last_active_at mfa_enabled_at mfa_disabled_at legal_accepted_at`
	emailRequired        = `object email_address verification linked_to reserved created_at updated_at`
	membershipRequired   = `object id role permissions public_metadata created_at updated_at organization`
	organisationRequired = `object id name slug has_image max_allowed_memberships admin_delete_enabled public_metadata created_at updated_at`
)

func wantMembers(t *testing.T, what string, got map[string]any, required string) {
	t.Helper()
	for _, name := range strings.Fields(required) {
		if _, ok := got[name]; !ok {
			t.Errorf("%s lacks %q", what, name)
		}
	}
}

func TestDiscoveryDocuments(t *testing.T) {
	r := newRig(t)
	for path, required := range map[string]string{
		"/.well-known/openid-configuration":       openIDConfigurationRequired,
		"/.well-known/oauth-authorization-server": serverMetadataRequired,
	} {
		doc := object(t, r.get(path).body)
		wantMembers(t, path, doc, required)
		if doc["issuer"] != r.url {
			t.Errorf("%s: issuer %v, want %q", path, doc["issuer"], r.url)
		}
		if fmt.Sprint(doc["code_challenge_methods_supported"]) != "[S256]" || fmt.Sprint(doc["id_token_signing_alg_values_supported"]) != "[RS256]" {
			t.Errorf("%s: %v", path, doc)
		}
		for name, v := range doc {
			if endpoint, ok := v.(string); ok && !strings.HasPrefix(endpoint, r.url) {
				t.Errorf("%s: %s is %q", path, name, endpoint)
			}
		}
	}
}

func TestUserHasClerksShape(t *testing.T) {
	r := newRig(t)
	must(t, r.srv.SetPublicMetadata(devclerk.MemberID, map[string]any{"role": []string{"a", "b"}, "plan": 1}))
	must(t, r.srv.SetRole(devclerk.AdminID, ""))
	must(t, r.srv.SetEmail(devclerk.MemberID, "m2@example.com"))
	u := object(t, r.get("/v1/users/"+devclerk.MemberID, "Authorization", bearer).body)
	wantMembers(t, "the user", u, userRequired)
	mail := u["email_addresses"].([]any)[0].(map[string]any)
	wantMembers(t, "the e-mail address", mail, emailRequired)
	if mail["id"] != u["primary_email_address_id"] || mail["email_address"] != "m2@example.com" || mail["verification"].(map[string]any)["status"] != "verified" {
		t.Errorf("e-mail address %v", mail)
	}
	if u["id"] != devclerk.MemberID || u["object"] != "user" || u["first_name"] != "Milan" || u["username"] != nil || fmt.Sprint(u["public_metadata"]) != "map[plan:1 role:[a b]]" {
		t.Errorf("user %v", u)
	}
	if ms := u["created_at"].(float64); int64(ms) != r.clock.Now().UnixMilli() {
		t.Errorf("created_at %v is not in milliseconds", ms)
	}
	if admin := object(t, r.get("/v1/users/"+devclerk.AdminID, "Authorization", bearer).body); fmt.Sprint(admin["public_metadata"]) != "map[]" {
		t.Errorf("public_metadata %v", admin["public_metadata"])
	}
}

func TestUnknownUserIsNotFoundInClerksWay(t *testing.T) {
	r := newRig(t)
	for _, path := range []string{"/v1/users/user_nobody", "/v1/users/user_nobody/organization_memberships", "/v1/nothing"} {
		got := r.get(path, "Authorization", bearer)
		body := object(t, got.body)
		errs, _ := body["errors"].([]any)
		if got.status != http.StatusNotFound || len(errs) != 1 || body["clerk_trace_id"] == nil {
			t.Fatalf("%s: status %d, %s", path, got.status, got.body)
		}
		wantMembers(t, "the error", errs[0].(map[string]any), "message long_message code")
		if errs[0].(map[string]any)["code"] != "resource_not_found" {
			t.Errorf("%s: %s", path, got.body)
		}
	}
}

func TestMembershipsHaveClerksShapeAndPages(t *testing.T) {
	r := newRig(t)
	for i := range 12 {
		must(t, r.srv.AddMembership(devclerk.AdminID, devclerk.Membership{OrgID: fmt.Sprintf("org_%d", i), Role: "org:member"}))
	}
	must(t, r.srv.AddMembership(devclerk.AdminID, devclerk.Membership{OrgID: "org_0", OrgName: "Acme", OrgSlug: "acme", Role: "org:admin", Permissions: []string{"org:a:read"}}))
	must(t, r.srv.RemoveMembership(devclerk.AdminID, "org_1"))
	if err := r.srv.AddMembership(devclerk.AdminID, devclerk.Membership{OrgID: "acme", Role: "admin"}); err == nil {
		t.Error("a membership with foreign ids was accepted")
	}
	type list struct {
		Data  []map[string]any `json:"data"`
		Total int              `json:"total_count"`
	}
	get := func(query string) (l list) {
		t.Helper()
		must(t, json.Unmarshal([]byte(r.get("/v1/users/"+devclerk.AdminID+"/organization_memberships"+query, "Authorization", bearer).body), &l))
		return l
	}
	if l := get(""); len(l.Data) != 10 || l.Total != 11 {
		t.Errorf("%d of %d without limit", len(l.Data), l.Total)
	}
	l := get("?limit=500&offset=10")
	if len(l.Data) != 1 {
		t.Fatalf("%d on the last page", len(l.Data))
	}
	m := l.Data[0]
	wantMembers(t, "the membership", m, membershipRequired)
	org := m["organization"].(map[string]any)
	wantMembers(t, "the organisation", org, organisationRequired)
	if m["role"] != "org:admin" || fmt.Sprint(m["permissions"]) != "[org:a:read]" || org["name"] != "Acme" || org["slug"] != "acme" || org["id"] != "org_0" {
		t.Errorf("membership %v", m)
	}
}

func TestSlowServerWaits(t *testing.T) {
	r := newRig(t)
	const delay = 50 * time.Millisecond
	r.srv.SetSlow("/oauth/", delay)
	begin := time.Now()
	if got := r.authorize().status; got != http.StatusOK || time.Since(begin) < delay {
		t.Errorf("status %d after %v", got, time.Since(begin))
	}
}

func TestForeignHostNameIsRefusedOnLoopback(t *testing.T) {
	r := newRig(t)
	for host, want := range map[string]int{"evil.example": http.StatusMisdirectedRequest, "localhost:1": 200, "[::1]:1": 200, "127.0.0.1.evil.example": http.StatusMisdirectedRequest} {
		req, err := http.NewRequest(http.MethodGet, r.url+"/.well-known/jwks.json", nil)
		must(t, err)
		req.Host = host
		if got := r.do(req).status; got != want {
			t.Errorf("%q: status %d, want %d", host, got, want)
		}
	}
}

func TestLargeBodyIsRefused(t *testing.T) {
	r := newRig(t)
	form := codeForm(strings.Repeat("x", 70_000))
	if got := r.post("/oauth/token", form).status; got != http.StatusRequestEntityTooLarge {
		t.Errorf("status %d", got)
	}
	if got := r.post("/oauth/token", codeForm("x"), "Content-Type", "application/json").status; got != http.StatusBadRequest {
		t.Errorf("JSON: status %d", got)
	}
}

func TestUserListOfOptionsIsCopied(t *testing.T) {
	users := devclerk.DefaultUsers()
	s, err := devclerk.New(devclerk.Options{Users: users})
	must(t, err)
	must(t, s.SetRole(devclerk.AdminID, "other"))
	if users[0].PublicMetadata["role"] != "admin" {
		t.Error("the caller's map was changed")
	}
	ids := []string{users[0].ID, users[1].ID}
	if !slices.Equal(ids, []string{devclerk.AdminID, devclerk.MemberID}) {
		t.Errorf("ids %v", ids)
	}
}
