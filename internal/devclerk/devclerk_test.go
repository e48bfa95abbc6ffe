package devclerk_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/mcp-clerk/mcp-clerk/internal/devclerk"
	"github.com/mcp-clerk/mcp-clerk/internal/secret"
)

func TestTokenByBasicAndPost(t *testing.T) {
	for name, header := range map[string][]string{"basic": nil, "post": {}} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			form := codeForm(r.code())
			if name == "post" {
				form.Set("client_id", clientID)
				form.Set("client_secret", "dev_secret")
			}
			status, got := r.token(form, header...)
			if status != http.StatusOK || got["token_type"] != "Bearer" || got["expires_in"] != 86400.0 || got["refresh_token"] == nil {
				t.Fatalf("status %d, %v", status, got)
			}
		})
	}
}

func TestIDTokenClaimsFollowTheScopes(t *testing.T) {
	r := newRig(t)
	must(t, r.srv.SetUnsafeMetadata(devclerk.AdminID, map[string]any{"role": "superadmin"}))
	_, got := r.token(codeForm(r.code("scope", "openid profile email public_metadata")))
	c := claims(t, got["id_token"])
	for name, want := range map[string]any{
		"iss": r.url, "sub": devclerk.AdminID, "aud": clientID, "nonce": "n-1",
		"given_name": "Ada", "family_name": "Lindqvist", "name": "Ada Lindqvist",
		"email": "admin@example.com", "email_verified": true,
	} {
		if c[name] != want {
			t.Errorf("%s = %v, want %v", name, c[name], want)
		}
	}
	if m, _ := c["public_metadata"].(map[string]any); m["role"] != "admin" {
		t.Errorf("public_metadata = %v", c["public_metadata"])
	}
	// Clerk delivers what users write themselves along with it.
	if m, _ := c["unsafe_metadata"].(map[string]any); m["role"] != "superadmin" {
		t.Errorf("unsafe_metadata = %v", c["unsafe_metadata"])
	}
	if c["exp"].(float64)-c["iat"].(float64) != 86400 || c["jti"] == "" || c["sid"] != nil {
		t.Errorf("times or ids: %v", c)
	}
	r.newBrowser()
	_, got = r.token(codeForm(r.code("scope", "openid")))
	if c := claims(t, got["id_token"]); c["email"] != nil || c["given_name"] != nil || c["public_metadata"] != nil {
		t.Errorf("scope openid alone: %v", c)
	}
	r.newBrowser()
	if _, got = r.token(codeForm(r.code("scope", "email"))); got["id_token"] != nil {
		t.Error("an id_token without the scope openid")
	}
}

func TestTokenErrors(t *testing.T) {
	for _, tt := range []struct {
		name   string
		form   func(code string) url.Values
		header []string
		status int
		code   string
		intact bool // the code still works afterwards
	}{
		{"wrong secret", func(c string) url.Values { return codeForm(c) }, []string{"Authorization", "Basic " + base64.StdEncoding.EncodeToString([]byte(clientID+":no"))}, 401, "invalid_client", true},
		{"no client", func(c string) url.Values { return codeForm(c) }, []string{}, 401, "invalid_client", true},
		{"unknown code", func(string) url.Values { return codeForm("clk_code_x") }, nil, 400, "invalid_grant", true},
		{"wrong verifier", func(c string) url.Values {
			return codeForm(c, "code_verifier", strings.Repeat("x", 43))
		}, nil, 400, "invalid_grant", true},
		{"no verifier", func(c string) url.Values { return codeForm(c, "code_verifier", "-") }, nil, 400, "invalid_grant", true},
		{"other redirect", func(c string) url.Values { return codeForm(c, "redirect_uri", redirect+"2") }, nil, 400, "invalid_grant", true},
		{"no redirect", func(c string) url.Values { return codeForm(c, "redirect_uri", "-") }, nil, 400, "invalid_grant", true},
		{"other grant type", func(c string) url.Values { return codeForm(c, "grant_type", "password") }, nil, 400, "unsupported_grant_type", true},
		{"parameter twice", func(c string) url.Values {
			f := codeForm(c)
			f.Add("code", c)
			return f
		}, nil, 400, "invalid_request", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t)
			code := r.code()
			status, got := r.token(tt.form(code), tt.header...)
			if status != tt.status || got["error"] != tt.code {
				t.Errorf("status %d, %v", status, got)
			}
			if status, got := r.token(codeForm(code)); (status == http.StatusOK) != tt.intact {
				t.Errorf("the code afterwards: status %d, %v", status, got)
			}
		})
	}
}

func TestCodeWorksOnceAndForTenMinutes(t *testing.T) {
	r := newRig(t)
	code := r.code()
	status, first := r.token(codeForm(code))
	if status != http.StatusOK {
		t.Fatalf("status %d", status)
	}
	// RFC 6749 section 4.1.2: a second use ends the tokens of the first.
	if status, got := r.token(codeForm(code)); status != http.StatusBadRequest || got["error"] != "invalid_grant" {
		t.Errorf("second use: status %d, %v", status, got)
	}
	refresh := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {first["refresh_token"].(string)}}
	if status, _ := r.token(refresh); status != http.StatusBadRequest {
		t.Errorf("refresh after a replay: status %d", status)
	}
	r.newBrowser()
	code = r.code()
	r.clock.Add(10 * time.Minute)
	if status, _ := r.token(codeForm(code)); status != http.StatusBadRequest {
		t.Errorf("after ten minutes: status %d", status)
	}
}

func TestCodeOfAUserBannedMeanwhileIsRefused(t *testing.T) {
	r := newRig(t)
	code := r.code()
	must(t, r.srv.Ban(devclerk.AdminID))
	if status, got := r.token(codeForm(code)); status != http.StatusBadRequest || got["error"] != "invalid_grant" {
		t.Errorf("status %d, %v", status, got)
	}
}

func TestRefreshRenewsTheTokens(t *testing.T) {
	r := newRig(t)
	_, first := r.token(codeForm(r.code()))
	form := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {first["refresh_token"].(string)}}
	status, second := r.token(form)
	if status != http.StatusOK || second["access_token"] == first["access_token"] || second["id_token"] == nil {
		t.Fatalf("status %d, %v", status, second)
	}
	form.Set("refresh_token", second["refresh_token"].(string))
	form.Set("scope", "openid private_metadata")
	if status, got := r.token(form); status != http.StatusBadRequest || got["error"] != "invalid_scope" {
		t.Errorf("wider scope: status %d, %v", status, got)
	}
	must(t, r.srv.Ban(devclerk.AdminID))
	form.Del("scope")
	if status, _ := r.token(form); status != http.StatusBadRequest {
		t.Errorf("banned: status %d", status)
	}
}

func TestUserInfoTokenInfoAndRevocation(t *testing.T) {
	for name, opaque := range map[string]bool{"jwt": false, "opaque": true} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.srv.SetOpaqueTokens(opaque)
			_, tokens := r.token(codeForm(r.code()))
			access := tokens["access_token"].(string)
			if strings.HasPrefix(access, "oat_") != opaque {
				t.Fatalf("access token %.10s…", access)
			}
			info := r.get("/oauth/userinfo", "Authorization", "Bearer "+access)
			if got := object(t, info.body); got["user_id"] != devclerk.AdminID || got["sub"] != devclerk.AdminID || got["email"] != "admin@example.com" {
				t.Errorf("userinfo %v", got)
			}
			basic := []string{"Authorization", "Basic " + base64.StdEncoding.EncodeToString([]byte(clientID+":dev_secret"))}
			intro := object(t, r.post("/oauth/token_info", url.Values{"token": {access}}, basic...).body)
			if intro["active"] != true || intro["sub"] != devclerk.AdminID || intro["client_id"] != clientID {
				t.Errorf("token_info %v", intro)
			}
			revoked := r.post("/oauth/token/revoke", url.Values{"token": {access}}, basic...)
			info = r.get("/oauth/userinfo", "Authorization", "Bearer "+access)
			if opaque {
				if revoked.status != http.StatusOK || info.status != http.StatusUnauthorized {
					t.Errorf("revoked with %d, then userinfo %d", revoked.status, info.status)
				}
				if errs, _ := object(t, info.body)["errors"].([]any); len(errs) != 1 {
					t.Errorf("userinfo's error is not in Clerk's form: %s", info.body)
				}
			} else if revoked.status != http.StatusBadRequest || object(t, revoked.body)["error"] != "unsupported_token_type" {
				t.Errorf("revoking a JWT: status %d, %s", revoked.status, revoked.body)
			}
			if got := r.post("/oauth/token_info", url.Values{"token": {"x"}}, basic...); !bytes.Equal([]byte(got.body), []byte(`{"active":false}`)) {
				t.Errorf("token_info of an unknown token: %s", got.body)
			}
		})
	}
}

func TestBackendNeedsTheSecretKey(t *testing.T) {
	r := newRig(t)
	for header, code := range map[string]string{"": "authorization_header_format_invalid", "Bearer sk_test_other": "clerk_key_invalid"} {
		got := r.get("/v1/users/"+devclerk.AdminID, "Authorization", header)
		errs, _ := object(t, got.body)["errors"].([]any)
		if got.status != http.StatusUnauthorized || len(errs) != 1 || errs[0].(map[string]any)["code"] != code {
			t.Errorf("%q: status %d, %s", header, got.status, got.body)
		}
	}
}

func TestUserListFiltersAndPages(t *testing.T) {
	r := newRig(t)
	list := func(query string) []string {
		t.Helper()
		var users []struct{ ID string }
		got := r.get("/v1/users?"+query, "Authorization", "Bearer sk_test_dev")
		if err := json.Unmarshal([]byte(got.body), &users); err != nil {
			t.Fatalf("%s: %v\n%s", query, err, got.body)
		}
		ids := []string{}
		for _, u := range users {
			ids = append(ids, u.ID)
		}
		return ids
	}
	r.clock.Add(time.Second)
	must(t, r.srv.AddUser(devclerk.User{ID: "user_new", Email: "new@example.com", Banned: true}))
	for query, want := range map[string][]string{
		"":                                   {"user_new", devclerk.AdminID, devclerk.MemberID}, // the newest first
		"limit=1":                            {"user_new"},
		"limit=1&offset=2":                   {devclerk.MemberID},
		"offset=9":                           {},
		"user_id=user_new&user_id=user_none": {"user_new"},
		"user_id=%2Buser_new":                {"user_new"},
		"user_id=-user_new":                  {devclerk.AdminID, devclerk.MemberID},
		"email_address=new@example.com":      {"user_new"},
		"banned=false":                       {devclerk.AdminID, devclerk.MemberID},
	} {
		if got := list(query); !slices.Equal(got, want) {
			t.Errorf("%q: %v, want %v", query, got, want)
		}
	}
	if got := r.get("/v1/users/count?banned=true", "Authorization", "Bearer sk_test_dev"); object(t, got.body)["total_count"] != 1.0 {
		t.Errorf("count: %s", got.body)
	}
	for _, query := range []string{"limit=0", "limit=501", "limit=x", "offset=-1", strings.Repeat("user_id=a&", 101)} {
		if got := r.get("/v1/users?"+query, "Authorization", "Bearer sk_test_dev"); got.status != http.StatusUnprocessableEntity {
			t.Errorf("%.20q: status %d", query, got.status)
		}
	}
}

func TestKeysRotate(t *testing.T) {
	r := newRig(t)
	kids := func() []string {
		t.Helper()
		var set jose.JSONWebKeySet
		must(t, json.Unmarshal([]byte(r.get("/.well-known/jwks.json").body), &set))
		var list []string
		for _, k := range set.Keys {
			if !k.IsPublic() || k.Algorithm != "RS256" || k.Use != "sig" {
				t.Errorf("key %q: public %v, alg %q, use %q", k.KeyID, k.IsPublic(), k.Algorithm, k.Use)
			}
			list = append(list, k.KeyID)
		}
		return list
	}
	first := kids()
	must(t, r.srv.RotateKeys(true))
	both := kids()
	if len(first) != 1 || len(both) != 2 || both[0] != first[0] {
		t.Errorf("%v, then %v", first, both)
	}
	must(t, r.srv.RotateKeys(false))
	if last := kids(); len(last) != 1 || slices.Contains(both, last[0]) {
		t.Errorf("then %v", last)
	}
	_, got := r.token(codeForm(r.code()))
	jws, err := jose.ParseSignedCompact(got["id_token"].(string), []jose.SignatureAlgorithm{jose.RS256})
	must(t, err)
	if id := jws.Signatures[0].Header.KeyID; id != kids()[0] {
		t.Errorf("signed with %q", id)
	}
}

func TestKeyIsMadeWhenItIsNeeded(t *testing.T) {
	s, err := devclerk.New(devclerk.Options{Issuer: "http://localhost:1"})
	must(t, err)
	get := func() string {
		w := httptest.NewRecorder()
		s.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "http://localhost:1/.well-known/jwks.json", nil))
		return w.Body.String()
	}
	if a, b := get(), get(); !strings.Contains(a, `"kid":"ins_`) || a != b {
		t.Errorf("key sets %q and %q", a, b)
	}
}

func TestFaultsApplyAndEnd(t *testing.T) {
	r := newRig(t)
	user := func() int {
		return r.get("/v1/users/"+devclerk.AdminID, "Authorization", "Bearer sk_test_dev").status
	}
	r.srv.SetDown("/v1/", true)
	if got := user(); got != http.StatusServiceUnavailable {
		t.Errorf("down: status %d", got)
	}
	if got := r.authorize().status; got != http.StatusOK {
		t.Errorf("another path: status %d", got)
	}
	r.srv.SetDown("/v1/", false)
	r.srv.SetFault("/v1/users/", devclerk.Fault{Status: 429, RetryAfter: 1500 * time.Millisecond, Times: 2})
	got := r.get("/v1/users/"+devclerk.AdminID, "Authorization", "Bearer sk_test_dev")
	if got.status != 429 || got.header.Get("Retry-After") != "2" {
		t.Errorf("status %d, Retry-After %q", got.status, got.header.Get("Retry-After"))
	}
	if a, b := user(), user(); a != 429 || b != 200 {
		t.Errorf("then %d and %d", a, b)
	}
	if n := r.srv.Requests("GET /v1/users/{id}"); n != 4 {
		t.Errorf("%d requests counted", n)
	}
}

func TestRateLimitOpensWithTheNextWindow(t *testing.T) {
	r := newRig(t)
	r.srv.RateLimit(2, 10*time.Second)
	var got []int
	for range 3 {
		got = append(got, r.get("/v1/users", "Authorization", "Bearer sk_test_dev").status)
	}
	r.clock.Add(10 * time.Second)
	got = append(got, r.get("/v1/users", "Authorization", "Bearer sk_test_dev").status)
	if want := []int{200, 200, 429, 200}; !slices.Equal(got, want) {
		t.Errorf("statuses %v, want %v", got, want)
	}
}

func TestOptionsAreChecked(t *testing.T) {
	for name, o := range map[string]devclerk.Options{
		"issuer with a path":  {Issuer: "http://localhost:1/x"},
		"issuer without host": {Issuer: "localhost"},
		"relative redirect":   {RedirectURLs: []string{"/callback"}},
		"user without e-mail": {Users: []devclerk.User{{ID: "user_1"}}},
		"user twice":          {Users: []devclerk.User{{ID: "user_1", Email: "a@b"}, {ID: "user_1", Email: "c@d"}}},
		"foreign user id":     {Users: []devclerk.User{{ID: "1", Email: "a@b"}}},
		"metadata not JSON":   {Users: []devclerk.User{{Email: "a@b", PublicMetadata: map[string]any{"f": func() {}}}}},
	} {
		if _, err := devclerk.New(o); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestMadeUpCredentialsDiffer(t *testing.T) {
	seen := map[secret.String]bool{}
	for range 2 {
		s, err := devclerk.New(devclerk.Options{})
		must(t, err)
		for _, v := range []secret.String{secret.String(s.ClientID()), s.ClientSecret(), s.SecretKey()} {
			if len(v) < 16 || seen[v] {
				t.Errorf("credential of %d characters, seen %v", len(v), seen[v])
			}
			seen[v] = true
		}
	}
}

func TestNothingIsServedWithoutIssuer(t *testing.T) {
	s, err := devclerk.New(devclerk.Options{})
	must(t, err)
	w := httptest.NewRecorder()
	s.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/.well-known/openid-configuration", nil))
	if w.Code != http.StatusServiceUnavailable {
		t.Errorf("status %d", w.Code)
	}
}
