package oauthclient_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mcp-clerk/mcp-clerk/internal/oauthclient"
	"github.com/mcp-clerk/mcp-clerk/internal/secret"
)

// The whole way of revision 2026-07-28 for a server with metadata.
func TestFirstRequestSignsIn(t *testing.T) {
	s := newSite(t)
	s.prm["scopes_supported"] = []string{"tools", "images"}
	s.meta["scopes_supported"] = []string{"tools", "offline_access"}
	var prompted string
	_, b, _ := signedIn(t, s, func(o *oauthclient.Options) { o.Prompt = func(u, _ string) { prompted = u } })

	asked := s.asked[0]
	redirect, err := url.Parse(asked.Get("redirect_uri"))
	if err != nil || redirect.Scheme != "http" || redirect.Hostname() != "127.0.0.1" || redirect.Path != "/oauth/callback" || redirect.Port() == "" {
		t.Errorf("redirect_uri %q", asked.Get("redirect_uri"))
	}
	if asked.Get("code_challenge_method") != "S256" || len(asked.Get("code_challenge")) != 43 || len(asked.Get("state")) < 32 {
		t.Errorf("authorize query %v", asked)
	}
	if asked.Get("resource") != s.URL+"/mcp" || s.tokens[0].Get("resource") != s.URL+"/mcp" {
		t.Errorf("resource %q, %q (RFC 8707: in both requests, as published)", asked.Get("resource"), s.tokens[0].Get("resource"))
	}
	if asked.Get("scope") != "tools images offline_access" {
		t.Errorf("scope %q", asked.Get("scope"))
	}
	want := map[string]any{
		"client_name": "mcp-clerk", "redirect_uris": []any{asked.Get("redirect_uri")},
		"grant_types": []any{"authorization_code", "refresh_token"}, "response_types": []any{"code"},
		"token_endpoint_auth_method": "none", "application_type": "native", "client_id": asked.Get("client_id"),
	}
	if diff := cmp.Diff(want, s.regs[0]); diff != "" {
		t.Errorf("registration (-want +got):\n%s", diff)
	}
	if prompted != b.opened[0] {
		t.Errorf("prompted %q, opened %q", prompted, b.opened[0])
	}
	if len(b.pages) != 1 || b.status[0] != http.StatusOK || !strings.Contains(b.pages[0], "may close this window") {
		t.Errorf("last page: %v %q", b.status, b.pages)
	}
	if got := s.requests(); got[1] != "GET /.well-known/oauth-protected-resource/mcp" || got[2] != "GET /.well-known/oauth-authorization-server" || got[3] != "POST /register" {
		t.Errorf("requests: %q", got)
	}
}

func TestScopeSelection(t *testing.T) {
	tests := map[string]struct {
		challenge, option  string
		resource, server   any
		want, wantOfServer string
	}{
		"challenge first":            {challenge: "a b", resource: []string{"c"}, want: "a b"},
		"else scopes_supported":      {resource: []string{"c", "d"}, want: "c d"},
		"else none":                  {want: ""},
		"none even with offline":     {server: []string{"offline_access"}, want: ""},
		"offline when listed":        {challenge: "a", server: []string{"x", "offline_access"}, want: "a offline_access"},
		"not listed, not asked for":  {challenge: "a", server: []string{"x"}, want: "a"},
		"the user's own, untouched":  {option: "mine", challenge: "a", server: []string{"offline_access"}, want: "mine"},
		"malformed lists are none":   {resource: "c", server: 7, want: ""},
		"what is no scope is left":   {challenge: `a b\c d`, want: "a d"},
		"repetitions are asked once": {challenge: "a a", resource: []string{"c"}, want: "a"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			s.scope = strings.ReplaceAll(test.challenge, `\`, `\\`)
			if test.resource != nil {
				s.prm["scopes_supported"] = test.resource
			}
			if test.server != nil {
				s.meta["scopes_supported"] = test.server
			}
			signedIn(t, s, func(o *oauthclient.Options) { o.Scope = test.option })
			if got := s.asked[0].Get("scope"); got != test.want || s.asked[0].Has("scope") != (test.want != "") {
				t.Errorf("asked for %q, want %q", got, test.want)
			}
		})
	}
}

func TestASecondProcessNeedsNoSignIn(t *testing.T) {
	s := newSite(t)
	_, _, dir := signedIn(t, s, nil)
	o := options(t, s.URL+"/mcp", dir)
	o.OpenURL = closed(t)
	if status, err := request(t.Context(), newClient(t, o), s.URL+"/mcp"); status != http.StatusOK || err != nil {
		t.Errorf("status %d, %v", status, err)
	}
}

// Should a store ever hand out the record of another server, its token stays
// where it is.
func TestATokenOfAnotherServerIsNotSent(t *testing.T) {
	s, other := newSite(t), newSite(t)
	_, _, dir := signedIn(t, s, nil)
	o := options(t, s.URL+"/mcp", dir)
	o.ServerURL, o.OpenURL = other.URL+"/mcp", closed(t)
	c := newClient(t, o)
	if got, err := c.Token(t.Context()); got != "" || err != nil {
		t.Errorf("token %q, %v", got, err)
	}
	if st, err := c.Status(t.Context()); st.SignedIn || err != nil {
		t.Errorf("%+v, %v", st, err)
	}
}

func TestManyRequestsShareOneSignInAndOneRefresh(t *testing.T) {
	s := newSite(t)
	b := &browser{}
	clk := newClock()
	o := options(t, s.URL+"/mcp", t.TempDir())
	o.OpenURL, o.Now = b.open, clk.Now
	c := newClient(t, o)
	all := func() {
		t.Helper()
		var wg sync.WaitGroup
		for range 50 {
			wg.Add(1)
			go func() {
				defer wg.Done()
				if status, err := request(t.Context(), c, s.URL+"/mcp"); status != http.StatusOK || err != nil {
					t.Errorf("status %d, %v", status, err)
				}
			}()
		}
		wg.Wait()
	}
	all()
	if b.windows() != 1 || s.count("POST /token") != 1 {
		t.Errorf("%d windows, %d token requests", b.windows(), s.count("POST /token"))
	}
	clk.add(20 * time.Minute)
	s.revokeAll()
	all()
	if b.windows() != 1 || s.count("POST /token") != 2 {
		t.Errorf("after 50 refusals: %d windows, %d token requests", b.windows(), s.count("POST /token"))
	}
}

func TestWithoutABrowserTheUserIsToldToSignIn(t *testing.T) {
	s := newSite(t)
	c := newClient(t, options(t, s.URL+"/mcp", t.TempDir()))
	_, err := request(t.Context(), c, s.URL+"/mcp")
	var notSignedIn *oauthclient.NotSignedInError
	if !errors.As(err, &notSignedIn) || notSignedIn.Server != s.URL+"/mcp" {
		t.Errorf("request: %v", err)
	}
	if err := c.SignIn(t.Context()); !errors.As(err, &notSignedIn) {
		t.Errorf("SignIn: %v", err)
	}
	if s.count("POST /register") != 0 {
		t.Error("registered for nothing")
	}
}

func TestSignInWorksByThePrintedURLAlone(t *testing.T) {
	s := newSite(t)
	b := &browser{}
	o := options(t, s.URL+"/mcp", t.TempDir())
	o.Prompt = func(u, _ string) { go b.open(u) } // the user opens it by hand
	c := newClient(t, o)
	if err := c.SignIn(t.Context()); err != nil {
		t.Fatal(err)
	}
	if status, err := request(t.Context(), c, s.URL+"/mcp"); status != http.StatusOK || err != nil {
		t.Errorf("status %d, %v", status, err)
	}
}

func TestABrowserThatDoesNotStartLeavesThePrintedURL(t *testing.T) {
	s := newSite(t)
	b := &browser{}
	o := options(t, s.URL+"/mcp", t.TempDir())
	o.OpenURL = func(string) error { return errors.New("exec: no browser") }
	printed := make(chan string, 1)
	o.Prompt = func(u, _ string) { printed <- u }
	c := newClient(t, o)
	done := make(chan error)
	go func() { done <- c.SignIn(context.WithoutCancel(t.Context())) }()
	if err := b.open(<-printed); err != nil {
		t.Error(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestStaticTokenIsUsedAsItIs(t *testing.T) {
	s := newSite(t)
	s.grant("given")
	c := newClient(t, oauthclient.Options{ServerURL: s.URL + "/mcp", StaticToken: "given", OpenURL: closed(t)})
	if status, err := request(t.Context(), c, s.URL+"/mcp"); status != http.StatusOK || err != nil {
		t.Errorf("status %d, %v", status, err)
	}
	s.revokeAll()
	_, err := request(t.Context(), c, s.URL+"/mcp")
	var notSignedIn *oauthclient.NotSignedInError
	if !errors.As(err, &notSignedIn) || strings.Contains(err.Error(), "given\"") {
		t.Errorf("refused: %v", err)
	}
	if st, err := c.Status(t.Context()); err != nil || !st.StaticOnly {
		t.Errorf("status %+v, %v", st, err)
	}
	if c.SignIn(t.Context()) == nil || c.SignOut(t.Context()) == nil {
		t.Error("signing in or out with a given token")
	}
}

// A file of a ready token is written anew by whoever gives it out; it is read
// again when its token is refused, and no more.
func TestAReplacedTokenIsReadAgain(t *testing.T) {
	s := newSite(t)
	s.grant("first")
	current, reads := secret.String("first"), 0
	c := newClient(t, oauthclient.Options{
		ServerURL: s.URL + "/mcp", StaticToken: "first",
		ReadToken: func() (secret.String, error) { reads++; return current, nil },
	})
	use := func(want int) error {
		t.Helper()
		status, err := request(t.Context(), c, s.URL+"/mcp")
		if status != want {
			t.Errorf("status %d, want %d", status, want)
		}
		return err
	}
	if err := use(200); err != nil || reads != 0 {
		t.Errorf("%v, %d reads", err, reads)
	}
	s.revokeAll()
	s.grant("second")
	if err := use(401); err == nil || reads != 1 {
		t.Errorf("not replaced: %v, %d reads", err, reads)
	}
	current = "second"
	if err := use(200); err != nil || reads != 2 {
		t.Errorf("replaced: %v, %d reads", err, reads)
	}
}

func TestStatusTellsWhoAndWhere(t *testing.T) {
	s := newSite(t)
	s.scope = "a b"
	s.extra["email"] = "admin@example.com"
	c, _, _ := signedIn(t, s, func(o *oauthclient.Options) { o.Profile = "work" })
	st, err := c.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if !st.SignedIn || !st.Renewable || st.Account != "admin@example.com" || st.Profile != "work" || st.Issuer != s.URL ||
		st.Resource != s.URL+"/mcp" || st.ClientID != "client-1" || strings.Join(st.Scopes, " ") != "a b" || st.SecretIn != "file" ||
		time.Until(st.Expires) < 50*time.Minute || time.Since(st.Since) > time.Minute {
		t.Errorf("%+v", st)
	}
}

func TestStatusReadsTheAccountOfAnIDToken(t *testing.T) {
	s := newSite(t)
	s.extra["id_token"] = "e30.eyJzdWIiOiJ1c2VyXzEiLCJlbWFpbCI6Im1lbWJlckBleGFtcGxlLmNvbSJ9.c2ln"
	c, _, _ := signedIn(t, s, nil)
	if st, err := c.Status(t.Context()); err != nil || st.Account != "member@example.com" {
		t.Errorf("%+v, %v", st, err)
	}
}

func TestSignOutRevokesThenForgets(t *testing.T) {
	s := newSite(t)
	c, _, _ := signedIn(t, s, nil)
	token, err := c.Token(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := c.SignOut(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.with(func() {
		if s.valid[token] || len(s.refresh) != 0 {
			t.Error("tokens live on at the server (RFC 7009)")
		}
	})
	if token, err := c.Token(t.Context()); token != "" || err != nil {
		t.Errorf("token %q, %v", token, err)
	}
	if st, err := c.Status(t.Context()); err != nil || st.SignedIn || st.ClientID != "" {
		t.Errorf("%+v, %v", st, err)
	}
	if err := c.SignOut(t.Context()); err != nil {
		t.Errorf("once more: %v", err)
	}
}

func TestSignOutForgetsAlsoWhenTheServerIsDown(t *testing.T) {
	s := newSite(t)
	c, _, _ := signedIn(t, s, nil)
	s.on("/revoke", func(w http.ResponseWriter, r *http.Request) { http.Error(w, "down", http.StatusBadGateway) })
	var revocation *oauthclient.RevocationError
	if err := c.SignOut(t.Context()); !errors.As(err, &revocation) {
		t.Errorf("SignOut: %v", err)
	}
	if st, err := c.Status(t.Context()); err != nil || st.SignedIn {
		t.Errorf("%+v, %v", st, err)
	}
}

func TestOptionsAreChecked(t *testing.T) {
	good := options(t, "https://mcp.example.com/mcp", t.TempDir())
	for _, bad := range []string{"", "mcp.example.com", "ftp://mcp.example.com", "https://", "https://user:canary@mcp.example.com/", "http://[::1"} {
		o := good
		o.ServerURL = bad
		if _, err := oauthclient.New(o); err == nil || strings.Contains(err.Error(), "canary") {
			t.Errorf("server URL %q: %v", bad, err)
		}
	}
	o := good
	o.Pending = nil
	if _, err := oauthclient.New(o); err == nil {
		t.Error("no store for the sign-in under way")
	}
}

func TestConfigurationsOfOneServerShareNoCredential(t *testing.T) {
	seen := map[string]bool{}
	for _, o := range []oauthclient.Options{{}, {Scope: "a"}, {Scope: "a b"}, {ClientID: "a"}, {ClientMetadataURL: "https://a"}} {
		if v := o.Variant(); seen[v] {
			t.Errorf("%+v shares its credential", o)
		} else {
			seen[v] = true
		}
	}
	if (oauthclient.Options{}).Variant() != "" || (oauthclient.Options{Scope: "a  b"}).Variant() != (oauthclient.Options{Scope: "a b"}).Variant() {
		t.Error("variants differ where nothing does")
	}
}

func TestResourceAndParametersAsAsked(t *testing.T) {
	for name, tc := range map[string]struct {
		change   func(*oauthclient.Options)
		resource []string
	}{
		"another resource": {func(o *oauthclient.Options) { o.Resource = "https://tenant.example/" }, []string{"https://tenant.example/"}},
		"no resource":      {func(o *oauthclient.Options) { o.NoResource = true }, nil},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			clk := newClock()
			c, _, _ := signedIn(t, s, func(o *oauthclient.Options) {
				tc.change(o)
				o.Now = clk.Now
				o.AuthorizeParams = url.Values{"audience": {"https://api.example"}, "prompt": {"login"}}
			})
			clk.add(2 * time.Hour)
			if _, err := c.Token(t.Context()); err != nil {
				t.Fatal(err)
			}
			asked := s.asked[0]
			if asked.Get("audience") != "https://api.example" || asked.Get("prompt") != "login" {
				t.Errorf("asked %v", asked)
			}
			if len(s.tokens) != 2 {
				t.Fatalf("%d token requests", len(s.tokens))
			}
			for _, form := range append([]url.Values{asked}, s.tokens...) {
				if !slices.Equal(form["resource"], tc.resource) {
					t.Errorf("resource %q, want %q", form["resource"], tc.resource)
				}
				if form.Has("audience") && form.Has("grant_type") {
					t.Error("a parameter of the authorization request went to the token endpoint")
				}
			}
		})
	}
	o := options(t, "https://mcp.example.com/mcp", t.TempDir())
	o.AuthorizeParams = url.Values{"redirect_uri": {"https://evil.example"}}
	if _, err := oauthclient.New(o); err == nil {
		t.Error("a redirect_uri of somebody's own was accepted")
	}
}

func TestIDTokenAsBearer(t *testing.T) {
	claims, err := json.Marshal(map[string]any{"sub": "u", "exp": time.Now().Add(10 * time.Minute).Unix()})
	if err != nil {
		t.Fatal(err)
	}
	idToken := "e30." + base64.RawURLEncoding.EncodeToString(claims) + ".c2ln"
	s := newSite(t)
	s.extra["id_token"] = idToken
	s.grant(idToken)
	c, _, _ := signedIn(t, s, func(o *oauthclient.Options) { o.UseIDToken = true })
	status, err := c.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if left := time.Until(status.Expires); left > 11*time.Minute || left < 9*time.Minute {
		t.Errorf("expires in %v, not with the id_token", left)
	}
	if token, err := c.Token(t.Context()); token != idToken || err != nil {
		t.Errorf("token %q, %v", token, err)
	}

	// A server that sends none is said so, and used as it is.
	s = newSite(t)
	var notices []string
	signedIn(t, s, func(o *oauthclient.Options) {
		o.UseIDToken, o.Notice = true, func(text string) { notices = append(notices, text) }
	})
	if len(notices) != 1 {
		t.Errorf("said %q", notices)
	}
}
