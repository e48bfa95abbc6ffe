package clerk_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mcp-clerk/mcp-clerk/internal/clerk"
	"github.com/mcp-clerk/mcp-clerk/internal/devclerk"
	"github.com/mcp-clerk/mcp-clerk/internal/identity"
)

const (
	verifyOpaque  = "POST /v1/oauth_applications/access_tokens/verify"
	verifyKey     = "POST /v1/api_keys/verify"
	verifyMachine = "POST /v1/m2m_tokens/verify"
)

// opaque makes an opaque access token, and the rules under which it counts.
func (r *rig) opaque() (token string, check *clerk.AccessTokens) {
	r.t.Helper()
	r.dev.SetOpaqueTokens(true)
	token, err := r.dev.AccessToken(devclerk.AdminID, "profile mcp:tools", "")
	must(r.t, err)
	return token, r.clerk.AccessTokens(rules()) // its answer names no audience, which an opaque token never has
}

func TestOpaqueTokenIsCheckedAtClerk(t *testing.T) {
	r := newRig(t, nil)
	token, check := r.opaque()
	for range 3 {
		p, err := check.Verify(t.Context(), token)
		if err != nil || p.Subject != devclerk.AdminID || p.ClientID != clientID || !slices.Equal(p.Scopes, []string{"profile", "mcp:tools"}) || p.AllScopes ||
			!p.Expires.Equal(start.Add(24*time.Hour)) {
			t.Fatalf("%+v, %v", p, err)
		}
	}
	if n := r.dev.Requests(verifyOpaque); n != 1 {
		t.Errorf("Clerk was asked %d times", n)
	}
	// What Clerk takes back counts for another minute at most.
	r.dev.RevokeAccessToken(token)
	r.clock.Add(59 * time.Second)
	_, err := check.Verify(t.Context(), token)
	must(t, err)
	r.clock.Add(time.Second)
	for range 3 {
		_, err = check.Verify(t.Context(), token)
		wantTokenErr(t, err, identity.ErrInvalidToken)
	}
	if n := r.dev.Requests(verifyOpaque); n != 2 {
		t.Errorf("Clerk was asked %d times", n)
	}
}

// Who asks at the same time waits for one answer.
func TestConcurrentChecksOfATokenAreOneRequest(t *testing.T) {
	r := newRig(t, nil)
	token, check := r.opaque()
	r.dev.SetSlow("/v1/", 50*time.Millisecond)
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			if _, err := check.Verify(t.Context(), token); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := r.dev.Requests(verifyOpaque); n != 1 {
		t.Errorf("Clerk was asked %d times", n)
	}
}

// Case 42 for tokens: nothing is decided while Clerk can't be asked, and a
// token that is known goes on for its minute.
func TestClerkDownIsNotTheTokensFault(t *testing.T) {
	r := newRig(t, nil)
	token, check := r.opaque()
	fresh, err := r.dev.AccessToken(devclerk.MemberID, "profile", "")
	must(t, err)
	_, err = check.Verify(t.Context(), token)
	must(t, err)
	r.dev.SetDown("/v1/", true)
	_, err = check.Verify(t.Context(), token)
	must(t, err)
	for range 3 {
		_, err = check.Verify(t.Context(), fresh)
		wantTokenErr(t, err, identity.ErrUnavailable)
	}
	if n := r.dev.Requests(verifyOpaque); n != 1+3 { // three tries of one question
		t.Errorf("Clerk was asked %d times", n)
	}
	r.clock.Add(time.Minute)
	_, err = check.Verify(t.Context(), token)
	wantTokenErr(t, err, identity.ErrUnavailable)
	r.dev.SetDown("/v1/", false)
	r.clock.Add(3 * time.Second)
	for _, token := range []string{token, fresh} {
		_, err = check.Verify(t.Context(), token)
		must(t, err)
	}
}

func TestClerksRateLimitIsWaitedFor(t *testing.T) {
	r := newRig(t, nil)
	var waited time.Duration
	r.clerk.SetSleep(func(_ context.Context, d time.Duration) error { waited += d; r.clock.Add(d); return nil })
	token, check := r.opaque()
	r.dev.SetFault("/v1/oauth_applications", devclerk.Fault{Status: http.StatusTooManyRequests, RetryAfter: 2 * time.Second, Times: 1})
	_, err := check.Verify(t.Context(), token)
	must(t, err)
	if waited != 2*time.Second {
		t.Errorf("waited %v", waited)
	}
	// What is more than a caller can wait for is refused at once.
	r.clock.Add(time.Hour)
	r.dev.SetFault("/v1/oauth_applications", devclerk.Fault{Status: http.StatusTooManyRequests, RetryAfter: time.Minute})
	before := r.dev.Requests(verifyOpaque)
	for range 3 {
		_, err = check.Verify(t.Context(), token)
		wantTokenErr(t, err, identity.ErrUnavailable)
	}
	if n := r.dev.Requests(verifyOpaque) - before; n != 1 {
		t.Errorf("Clerk was asked %d times", n)
	}
}

// Made-up tokens use up a quarter of what Clerk allows, and what is known goes
// on, as do lookups of users.
func TestMadeUpTokensDoNotFloodClerk(t *testing.T) {
	r := newRig(t, nil)
	token, check := r.opaque()
	_, err := check.Verify(t.Context(), token)
	must(t, err)
	late := ""
	for i := range 200 {
		late = fmt.Sprintf("oat_madeup%08d", i)
		_, err := check.Verify(t.Context(), late)
		if err == nil {
			t.Fatal("a made-up token is accepted")
		}
	}
	wantTokenErr(t, func() error { _, err := check.Verify(t.Context(), late); return err }(), identity.ErrUnavailable)
	if n := r.dev.Requests(verifyOpaque); n != 25 {
		t.Errorf("Clerk was asked %d times", n)
	}
	_, err = check.Verify(t.Context(), token)
	must(t, err)
	_, err = r.clerk.User(t.Context(), devclerk.AdminID)
	must(t, err)
	r.clock.Add(10 * time.Second)
	_, err = check.Verify(t.Context(), "oat_anotherone")
	wantTokenErr(t, err, identity.ErrInvalidToken)
	// Nor do they lock out a token in use that has to be asked about again.
	r.clock.Add(time.Minute)
	for i := range 200 {
		_, _ = check.Verify(t.Context(), fmt.Sprintf("oat_madeup2%07d", i))
	}
	before := r.dev.Requests(verifyOpaque)
	_, err = check.Verify(t.Context(), token)
	must(t, err)
	if n := r.dev.Requests(verifyOpaque) - before; n != 1 {
		t.Errorf("Clerk was asked %d times about the token in use", n)
	}
}

// What has not the form of a token costs no question.
func TestMalformedTokensAreNotAskedAbout(t *testing.T) {
	r := newRig(t, nil)
	_, check := r.opaque()
	for _, token := range []string{"oat_", "oat_short", "oat_" + strings.Repeat("a", 300), "oat_with/slash12345", "oat_with\nfeed123", "oat_ünicode1234"} {
		_, err := check.Verify(t.Context(), token)
		wantTokenErr(t, err, identity.ErrInvalidToken)
	}
	if n := r.dev.Requests(verifyOpaque); n != 0 {
		t.Errorf("Clerk was asked %d times", n)
	}
}

func TestRememberedTokensAreBounded(t *testing.T) {
	r := newRig(t, nil)
	_, check := r.opaque()
	var inUse []string
	for i := range 60 { // of which as few are asked about at once as may be
		if i%20 == 0 {
			r.clock.Add(10 * time.Second)
		}
		token, _ := r.opaque()
		_, err := check.Verify(t.Context(), token)
		must(t, err)
		inUse = append(inUse, token)
	}
	for i := range 12_000 {
		_, _ = check.Verify(t.Context(), fmt.Sprintf("oat_madeup%08d", i))
	}
	if n := r.clerk.Tokens(); n != 10_000 {
		t.Errorf("%d tokens are remembered", n)
	}
	before := r.dev.Requests(verifyOpaque)
	for _, token := range inUse {
		_, err := check.Verify(t.Context(), token)
		must(t, err)
	}
	if n := r.dev.Requests(verifyOpaque) - before; n != 0 {
		t.Errorf("%d of those in use are not", n)
	}
}

func TestAPIKeys(t *testing.T) {
	r := newRig(t, nil)
	key := func(k devclerk.APIKey) string {
		text, err := r.dev.AddAPIKey(k)
		must(t, err)
		return text
	}
	of := clerk.KeyRules{Resource: resource, Users: true, Machines: []string{"org_ours"}}
	plain, scoped, ours, other := key(devclerk.APIKey{Subject: devclerk.MemberID, Life: time.Hour}), key(devclerk.APIKey{Subject: devclerk.MemberID, Scopes: []string{"mcp:tools"}}),
		key(devclerk.APIKey{Subject: "org_ours", CreatedBy: devclerk.AdminID}), key(devclerk.APIKey{Subject: "org_other"})

	p, err := r.clerk.Keys(of).Verify(t.Context(), plain)
	if err != nil || p.Subject != devclerk.MemberID || !p.HasScope("anything") || p.Resource != resource || !p.Expires.Equal(start.Add(time.Hour)) || p.Grant == "" {
		t.Errorf("a user's key: %+v, %v", p, err)
	}
	if p, err = r.clerk.Keys(of).Verify(t.Context(), scoped); err != nil || !p.HasScope("mcp:tools") || p.HasScope("mcp:images") || !p.Expires.IsZero() {
		t.Errorf("a user's key with scopes: %+v, %v", p, err)
	}
	if p, err = r.clerk.Keys(of).Verify(t.Context(), ours); err != nil || p.Subject != "org_ours" {
		t.Errorf("an organisation's key: %+v, %v", p, err)
	}
	for name, tt := range map[string]struct {
		rules clerk.KeyRules
		token string
	}{
		"another organisation":         {of, other},
		"an organisation, none listed": {clerk.KeyRules{Users: true}, ours},
		"a user, users not allowed":    {clerk.KeyRules{Machines: []string{"org_ours"}}, plain},
		"unknown":                      {of, "ak_neverissuedtoanyone"},
		"a listed user":                {clerk.KeyRules{Machines: []string{devclerk.MemberID}}, plain},
	} {
		_, err := r.clerk.Keys(tt.rules).Verify(t.Context(), tt.token)
		if err == nil {
			t.Errorf("%s is accepted", name)
			continue
		}
		wantTokenErr(t, err, identity.ErrInvalidToken)
	}
	must(t, r.dev.RevokeKey(scoped))
	r.clock.Add(time.Hour)
	for name, token := range map[string]string{"expired": plain, "revoked": scoped} {
		if _, err := r.clerk.Keys(of).Verify(t.Context(), token); err == nil {
			t.Errorf("a key that is %s is accepted", name)
		}
	}
	if n := r.dev.Requests(verifyKey); n != 7 {
		t.Errorf("Clerk was asked %d times", n)
	}
}

func TestAKeyEndsInTheMiddleOfItsMinute(t *testing.T) {
	r := newRig(t, nil)
	text, err := r.dev.AddAPIKey(devclerk.APIKey{Subject: devclerk.MemberID, Life: 30 * time.Second})
	must(t, err)
	keys := r.clerk.Keys(clerk.KeyRules{Users: true})
	_, err = keys.Verify(t.Context(), text)
	must(t, err)
	r.clock.Add(30 * time.Second)
	_, err = keys.Verify(t.Context(), text)
	wantTokenErr(t, err, identity.ErrInvalidToken)
}

// A machine's token counts if the operator lists its machine and Clerk says that
// the token was made for this one.
func TestMachineTokens(t *testing.T) {
	r := newRig(t, nil)
	us, robot, stranger, third := r.dev.AddMachine(), r.dev.AddMachine(), r.dev.AddMachine(), r.dev.AddMachine()
	o := r.options()
	o.MachineKey = us.Secret
	k, err := clerk.New(o)
	must(t, err)
	t.Cleanup(func() { _ = k.Close() })
	keys := k.Keys(clerk.KeyRules{Resource: resource, Machines: []string{robot.ID}, Users: true})

	p, err := keys.Verify(t.Context(), r.dev.MachineToken(robot, time.Hour, us))
	if err != nil || p.Subject != robot.ID || !p.HasScope("mcp:tools") || !p.Expires.Equal(start.Add(time.Hour)) {
		t.Errorf("%+v, %v", p, err)
	}
	for name, token := range map[string]string{
		"of a machine that is not listed": r.dev.MachineToken(stranger, time.Hour, us),
		"for another machine":             r.dev.MachineToken(robot, time.Hour, third),
		"for nobody":                      r.dev.MachineToken(robot, time.Hour),
		"made up":                         "mt_neverissuedtoanyone",
	} {
		if _, err := keys.Verify(t.Context(), token); err == nil {
			t.Errorf("a token %s is accepted", name)
		} else {
			wantTokenErr(t, err, identity.ErrInvalidToken)
		}
	}
	revoked := r.dev.MachineToken(robot, time.Hour, us)
	must(t, r.dev.RevokeKey(revoked))
	_, err = keys.Verify(t.Context(), revoked)
	wantTokenErr(t, err, identity.ErrInvalidToken)

	// Without a machine's secret nobody says for whom a token was made.
	asked := r.dev.Requests(verifyMachine)
	_, err = r.clerk.Keys(clerk.KeyRules{Machines: []string{robot.ID}}).Verify(t.Context(), r.dev.MachineToken(robot, time.Hour, us))
	wantTokenErr(t, err, identity.ErrInvalidToken)
	if n := r.dev.Requests(verifyMachine); n != asked {
		t.Errorf("Clerk was asked without one")
	}
}

// Answers that are not what the specification says decide nothing, or refuse.
func TestOddAnswersAboutTokens(t *testing.T) {
	const good = `"object":"clerk_idp_oauth_access_token","id":"oat_1","client_id":"c","subject":"user_1","scopes":[],"revoked":false,"expired":false,"expiration":null`
	for name, tt := range map[string]struct {
		status int
		body   string
		kind   error // nil: accepted
	}{
		"good":                     {200, `{` + good + `}`, nil},
		"without its kind":         {200, `{` + strings.Replace(good, `"object":"clerk_idp_oauth_access_token",`, ``, 1) + `}`, nil},
		"expiry in milliseconds":   {200, `{` + strings.Replace(good, `"expiration":null`, `"expiration":1795428000000`, 1) + `}`, nil},
		"expired, though not said": {200, `{` + strings.Replace(good, `"expiration":null`, `"expiration":1716883200`, 1) + `}`, identity.ErrInvalidToken},
		"inactive":                 {200, `{"active":false}`, identity.ErrInvalidToken},
		"active alone":             {200, `{"active":true}`, identity.ErrUnavailable},
		"revoked":                  {200, `{` + strings.Replace(good, `"revoked":false`, `"revoked":true`, 1) + `}`, identity.ErrInvalidToken},
		"expired":                  {200, `{` + strings.Replace(good, `"expired":false`, `"expired":true`, 1) + `}`, identity.ErrInvalidToken},
		"without revoked":          {200, `{` + strings.Replace(good, `"revoked":false,`, ``, 1) + `}`, identity.ErrUnavailable},
		"without expired":          {200, `{` + strings.Replace(good, `"expired":false,`, ``, 1) + `}`, identity.ErrUnavailable},
		"about an API key":         {200, `{` + strings.Replace(good, `clerk_idp_oauth_access_token`, `api_key`, 1) + `}`, identity.ErrUnavailable},
		"of a machine":             {200, `{` + strings.Replace(good, `user_1`, `mch_1`, 1) + `}`, identity.ErrInvalidToken},
		"without client":           {200, `{` + strings.Replace(good, `"client_id":"c",`, ``, 1) + `}`, identity.ErrInvalidToken},
		"for another resource":     {200, `{` + good + `,"aud":["https://other.example"]}`, identity.ErrInvalidToken},
		"for this resource":        {200, `{` + good + `,"aud":["` + resource + `"]}`, nil},
		"empty":                    {200, ``, identity.ErrUnavailable},
		"null":                     {200, `null`, identity.ErrUnavailable},
		"a list":                   {200, `[]`, identity.ErrUnavailable},
		"HTML":                     {200, `<html>CANARY`, identity.ErrUnavailable},
		"too large":                {200, `{` + good + strings.Repeat(" ", 1<<20) + `}`, identity.ErrUnavailable},
		"bad request":              {400, `{"errors":[{"code":"bad_request"}]}`, identity.ErrInvalidToken},
		"not found, another code":  {404, `{"errors":[{"code":"token-not-found"}]}`, identity.ErrInvalidToken},
		"unprocessable":            {422, ``, identity.ErrInvalidToken},
		"secret key refused":       {401, `{"errors":[{"code":"clerk_key_invalid"}]}`, identity.ErrUnavailable},
		"forbidden":                {403, ``, identity.ErrUnavailable},
		"a redirect":               {302, ``, identity.ErrUnavailable},
		"broken":                   {500, ``, identity.ErrUnavailable},
	} {
		t.Run(name, func(t *testing.T) {
			ts := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				body, _ := io.ReadAll(r.Body)
				if r.URL.Path != "/v1/oauth_applications/access_tokens/verify" || string(body) != `{"access_token":"oat_CANARY12345"}` || r.Header.Get("Authorization") != "Bearer "+secretKey {
					t.Errorf("asked %s %s", r.URL, body)
				}
				w.Header().Set("Location", "/elsewhere")
				w.WriteHeader(tt.status)
				_, _ = io.WriteString(w, tt.body)
			}))
			t.Cleanup(ts.Close)
			k := newClerk(t, ts.URL, &clock{t: start}, &log{})
			k.SetSleep(func(context.Context, time.Duration) error { return nil })
			_, err := k.AccessTokens(rules()).Verify(t.Context(), "oat_CANARY12345")
			if tt.kind == nil {
				must(t, err)
				return
			}
			wantTokenErr(t, err, tt.kind)
		})
	}
}

func TestServerMetadataIsClerksOwn(t *testing.T) {
	r := newRig(t, nil)
	doc, err := r.clerk.ServerMetadata(t.Context())
	if err != nil || !strings.Contains(string(doc), `"issuer":"`+r.url+`"`) {
		t.Fatalf("%s, %v", doc, err)
	}
	r.dev.SetDown("/.well-known/", true)
	r.clock.Add(2 * time.Hour)
	if again, err := r.clerk.ServerMetadata(t.Context()); err != nil || string(again) != string(doc) {
		t.Errorf("while Clerk is down: %s, %v", again, err)
	}
	for name, body := range map[string]string{"another issuer": `{"issuer":"https://clerk.evil.example"}`, "none": `{}`, "no JSON": `<html>`} {
		ts := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, body) }))
		t.Cleanup(ts.Close)
		_, err := newClerk(t, ts.URL, &clock{t: start}, &log{}).ServerMetadata(t.Context())
		if err == nil {
			t.Errorf("%s is served", name)
			continue
		}
		wantTokenErr(t, err, identity.ErrUnavailable)
	}
}

// Who only checks tokens has no client of Clerk's; then nobody signs in.
func TestWithoutAClientNobodySignsIn(t *testing.T) {
	r := newRig(t, nil)
	o := r.options()
	o.ClientID, o.ClientSecret, o.RedirectURL = "", "", ""
	k, err := clerk.New(o)
	must(t, err)
	t.Cleanup(func() { _ = k.Close() })
	if _, err := k.Begin(t.Context(), state, nonce, strings.Repeat("v", 43), ""); err == nil {
		t.Error("a sign-in began")
	}
	if _, err := k.Complete(t.Context(), "code", strings.Repeat("v", 43), nonce); err == nil {
		t.Error("a sign-in was completed")
	}
	o.ClientID = "half"
	if _, err := clerk.New(o); err == nil {
		t.Error("half a client is accepted")
	}
}

// No answer about a token becomes a statement about nobody, or about one that
// is revoked.
func FuzzTokenAnswer(f *testing.F) {
	f.Add([]byte(`{"object":"api_key","id":"ak_1","subject":"user_1","scopes":["a"],"revoked":false,"expired":false,"expiration":1795428000000}`))
	f.Add([]byte(`{"object":"api_key","id":"ak_1","subject":"user_1","revoked":true,"expired":null}`))
	f.Add([]byte(`{"active":false}`))
	f.Add([]byte(`{"expiration":-1e308,"aud":[null]}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		subject, expires, err := clerk.ReadTokenAnswer(body, "api_key")
		if err != nil {
			return
		}
		// encoding/json folds the case of names, and so does this.
		var a struct {
			Revoked, Expired *bool
			Subject          string
		}
		if err := json.Unmarshal(body, &a); err != nil || a.Revoked == nil || *a.Revoked || a.Expired == nil || *a.Expired || subject == "" || subject != a.Subject {
			t.Fatalf("%s is about %q", body, subject)
		}
		if !expires.IsZero() && expires.Before(time.Unix(0, 0)) {
			t.Fatalf("%s ends at %v", body, expires)
		}
	})
}
