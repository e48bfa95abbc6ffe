package devclerk_test

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mcp-clerk/mcp-clerk/internal/devclerk"
	"github.com/mcp-clerk/mcp-clerk/internal/secret"
)

// The members that Clerk's API specification requires (bapi/2026-05-12,
// verifyOAuthAccessToken, verifyApiKey, verifyM2MToken; fapi/2026-05-12,
// OAuth.DynamicClientRegistrationResponse).
const (
	accessTokenRequired  = `object id client_id subject scopes revoked revocation_reason expired expiration created_at updated_at`
	apiKeyRequired       = `object id type subject name claims scopes revoked revocation_reason expired expiration created_by last_used_at created_at updated_at`
	machineTokenRequired = `object id subject claims scopes revoked revocation_reason expired expiration last_used_at created_at updated_at`
)

func (r *rig) verify(path, name, token string) reply {
	return r.postJSON("/v1/"+path, fmt.Sprintf(`{%q:%q}`, name, token), "Authorization", bearer)
}

func (r *rig) postJSON(path, body string, header ...string) reply {
	r.t.Helper()
	req, err := http.NewRequest(http.MethodPost, r.url+path, strings.NewReader(body))
	must(r.t, err)
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	return r.do(req)
}

func TestAccessTokensAreVerifiedInClerksShape(t *testing.T) {
	r := newRig(t)
	jwt, err := r.srv.AccessToken(devclerk.AdminID, "profile", "")
	must(t, err)
	r.srv.SetOpaqueTokens(true)
	opaque, err := r.srv.AccessToken(devclerk.AdminID, "profile email", "")
	must(t, err)
	if !strings.HasPrefix(opaque, "oat_") || strings.Count(jwt, ".") != 2 {
		t.Fatalf("tokens %q and %q", opaque, jwt)
	}
	for _, token := range []string{jwt, opaque} {
		got := r.verify("oauth_applications/access_tokens/verify", "access_token", token)
		doc := object(t, got.body)
		wantMembers(t, "the answer", doc, accessTokenRequired)
		if got.status != 200 || doc["subject"] != devclerk.AdminID || doc["client_id"] != clientID || doc["object"] != "clerk_idp_oauth_access_token" {
			t.Errorf("status %d, %v", got.status, doc)
		}
		if _, ok := doc["aud"]; ok {
			t.Error("the answer names an audience, as Clerk's does not")
		}
	}
	r.clock.Add(25 * time.Hour)
	if got := r.verify("oauth_applications/access_tokens/verify", "access_token", jwt); got.status != 200 || got.body != `{"active":false}` {
		t.Errorf("an expired JWT: %d %s", got.status, got.body)
	}
	if got := r.verify("oauth_applications/access_tokens/verify", "access_token", opaque); got.status != 404 {
		t.Errorf("an expired token: %d %s", got.status, got.body)
	}
	if got := r.postJSON("/v1/oauth_applications/access_tokens/verify", `{}`, "Authorization", bearer); got.status != 400 {
		t.Errorf("no token: %d", got.status)
	}
	if got := r.postJSON("/v1/oauth_applications/access_tokens/verify", `{"access_token":"x"}`); got.status != 401 {
		t.Errorf("without the secret key: %d", got.status)
	}
}

func TestAccessTokenHasAnAudienceWhereOneIsIncluded(t *testing.T) {
	r := newRig(t)
	const resource = "https://mcp.example.com/mcp"
	aud := func(asked string) any {
		token, err := r.srv.AccessToken(devclerk.AdminID, "profile", asked)
		must(t, err)
		head, err := base64.RawURLEncoding.DecodeString(strings.Split(token, ".")[0])
		must(t, err)
		if object(t, string(head))["typ"] != "at+jwt" {
			t.Errorf("header %s", head)
		}
		return claims(t, token)["aud"]
	}
	if got := aud(resource); got != nil {
		t.Errorf("audience %v though none is included", got)
	}
	must(t, r.srv.AddResource(resource))
	if got := fmt.Sprint(aud(resource)); got != "["+resource+"]" {
		t.Errorf("audience %v", got)
	}
	if got := aud(""); got != nil {
		t.Errorf("audience %v though none was asked for", got)
	}
	r.srv.SetAudience(false)
	if got := aud(resource); got != nil {
		t.Errorf("audience %v though it is switched off", got)
	}
}

func TestAPIKeysAreVerifiedInClerksShape(t *testing.T) {
	r := newRig(t)
	text, err := r.srv.AddAPIKey(devclerk.APIKey{Subject: devclerk.MemberID, Name: "ci", Scopes: []string{"a"}, CreatedBy: devclerk.AdminID, Life: time.Hour})
	must(t, err)
	doc := object(t, r.verify("api_keys/verify", "secret", text).body)
	wantMembers(t, "the key", doc, apiKeyRequired)
	if doc["object"] != "api_key" || doc["subject"] != devclerk.MemberID || doc["created_by"] != devclerk.AdminID || doc["expiration"] != float64(r.clock.Now().Add(time.Hour).UnixMilli()) {
		t.Errorf("key %v", doc)
	}
	must(t, r.srv.RevokeKey(text))
	if got := r.verify("api_keys/verify", "secret", text); got.status != 404 {
		t.Errorf("revoked: %d", got.status)
	}
	short, err := r.srv.AddAPIKey(devclerk.APIKey{Subject: "org_1", Life: time.Second})
	must(t, err)
	r.clock.Add(time.Second)
	if got := r.verify("api_keys/verify", "secret", short); got.status != 404 {
		t.Errorf("expired: %d", got.status)
	}
	if _, err := r.srv.AddAPIKey(devclerk.APIKey{Subject: "mch_1"}); err == nil {
		t.Error("a key of a machine was made")
	}
	if r.srv.RevokeKey("ak_unknown") == nil {
		t.Error("an unknown key was revoked")
	}
}

func TestMachineTokensAreVerifiedForTheMachineThatAsks(t *testing.T) {
	r := newRig(t)
	us, robot, other := r.srv.AddMachine(), r.srv.AddMachine(), r.srv.AddMachine()
	token := r.srv.MachineToken(robot, time.Hour, us)
	ask := func(key secret.String) reply {
		return r.postJSON("/v1/m2m_tokens/verify", fmt.Sprintf(`{"token":%q}`, token), "Authorization", "Bearer "+key.Reveal())
	}
	doc := object(t, ask(us.Secret).body)
	wantMembers(t, "the token", doc, machineTokenRequired)
	if doc["subject"] != robot.ID || fmt.Sprint(doc["scopes"]) != "["+us.ID+"]" {
		t.Errorf("token %v", doc)
	}
	for key, want := range map[secret.String]int{us.Secret: 200, other.Secret: 404, "sk_test_dev": 200, "ak_wrong": 401, "": 401} {
		if got := ask(key); got.status != want {
			t.Errorf("asked with %q: %d, want %d", key.Reveal(), got.status, want)
		}
	}
	must(t, r.srv.RevokeKey(token))
	if doc := object(t, ask(us.Secret).body); doc["revoked"] != true {
		t.Errorf("revoked: %v", doc)
	}
}

func TestClientsRegisterWhereThatIsSwitchedOn(t *testing.T) {
	r := newRig(t)
	const cli = "http://127.0.0.1:7777/callback"
	public := `{"redirect_uris":["` + cli + `"],"token_endpoint_auth_method":"none","client_name":"CLI"}`
	if got := r.postJSON("/oauth/register", public); got.status != 422 || !strings.Contains(got.body, `"errors"`) {
		t.Errorf("switched off: %d %s", got.status, got.body)
	}
	metadata := func() map[string]any { return object(t, r.get("/.well-known/oauth-authorization-server").body) }
	if metadata()["registration_endpoint"] != nil {
		t.Error("an endpoint is published that is switched off")
	}
	r.srv.SetRegistration(true)
	if metadata()["registration_endpoint"] != r.url+"/oauth/register" {
		t.Errorf("metadata %v", metadata())
	}
	for _, bad := range []string{`{`, `{}`, `{"redirect_uris":["/relative"]}`, `{"redirect_uris":["https://a.example"],"token_endpoint_auth_method":"private_key_jwt"}`, `{"redirect_uris":["https://a.example"],"scope":"unheard:of"}`} {
		if got := r.postJSON("/oauth/register", bad); got.status != 400 {
			t.Errorf("%s: %d", bad, got.status)
		}
	}
	confidential := object(t, r.postJSON("/oauth/register", `{"redirect_uris":["https://a.example/cb"]}`).body)
	if confidential["client_secret"] == nil || confidential["client_secret_expires_at"] != 0.0 || confidential["scope"] != "profile email" {
		t.Errorf("confidential: %v", confidential)
	}
	got := r.postJSON("/oauth/register", public)
	id, _ := object(t, got.body)["client_id"].(string)
	if got.status != 201 || id == "" || object(t, got.body)["client_secret"] != nil {
		t.Fatalf("public: %d %s", got.status, got.body)
	}

	// A registered client always meets the consent page, and needs PKCE if it is
	// public.
	must(t, r.srv.AddResource("https://mcp.example.com/mcp"))
	if back := r.authorize("client_id", id, "redirect_uri", cli, "code_challenge", "-", "code_challenge_method", "-"); back.location == nil || back.location.Query().Get("error") != "invalid_request" {
		t.Errorf("without PKCE: %v", back)
	}
	page := r.press(r.authorize("client_id", id, "redirect_uri", cli, "resource", "https://mcp.example.com/mcp"), "admin@example.com")
	if !strings.Contains(page.body, "Allow access?") {
		t.Fatalf("no consent page: %d %s", page.status, page.body)
	}
	back := r.press(page, "Allow").location.Query()
	form := url.Values{"grant_type": {"authorization_code"}, "code": {back.Get("code")}, "redirect_uri": {cli}, "client_id": {id}, "code_verifier": {verifier}}
	// Its code is nobody else's.
	if got := r.post("/oauth/token", codeForm(back.Get("code")), "Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(clientID+":dev_secret"))); got.status != 400 {
		t.Errorf("another client's code: %d %s", got.status, got.body)
	}
	answer := object(t, r.post("/oauth/token", form).body)
	access, _ := answer["access_token"].(string)
	if access == "" {
		t.Fatalf("answer %v", answer)
	}
	said := claims(t, access)
	if said["client_id"] != id || fmt.Sprint(said["aud"]) != "[https://mcp.example.com/mcp]" || said["sub"] != devclerk.AdminID {
		t.Errorf("claims %v", said)
	}
	refresh := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {answer["refresh_token"].(string)}, "client_id": {id}}
	again := object(t, r.post("/oauth/token", refresh).body)
	if again["access_token"] == nil || fmt.Sprint(claims(t, again["access_token"])["aud"]) != "[https://mcp.example.com/mcp]" {
		t.Errorf("refreshed: %v", again)
	}
}

func TestCustomScopes(t *testing.T) {
	r := newRig(t)
	if back := r.authorize("scope", "mcp:tools"); back.location == nil || back.location.Query().Get("error") != "invalid_scope" {
		t.Errorf("an unknown scope: %v", back)
	}
	r.srv.AddScope("mcp:tools")
	doc := object(t, r.get("/.well-known/openid-configuration").body)
	if list, _ := doc["scopes_supported"].([]any); !slices.Contains(list, any("mcp:tools")) {
		t.Errorf("scopes %v", list)
	}
}
