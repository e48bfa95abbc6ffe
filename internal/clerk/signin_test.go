package clerk_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"golang.org/x/oauth2"

	"github.com/mcp-clerk/mcp-clerk/internal/clerk"
	"github.com/mcp-clerk/mcp-clerk/internal/devclerk"
	"github.com/mcp-clerk/mcp-clerk/internal/identity"
)

func TestSignInReturnsTheUserOfTheIDToken(t *testing.T) {
	r := newRig(t, nil)
	must(t, r.dev.SetUnsafeMetadata(devclerk.MemberID, map[string]any{"role": "admin"}))
	for email, want := range map[string]identity.User{
		"admin@example.com":  {ID: devclerk.AdminID, Email: "admin@example.com", FirstName: "Ada", LastName: "Lindqvist"},
		"member@example.com": {ID: devclerk.MemberID, Email: "member@example.com", FirstName: "Milan", LastName: "Becker"},
	} {
		code, verifier := r.signIn(email)
		u, err := r.clerk.Complete(t.Context(), code, verifier, nonce)
		must(t, err)
		if u.ID != want.ID || u.Email != want.Email || u.FirstName != want.FirstName || u.LastName != want.LastName || !strings.HasPrefix(u.ImageURL, "https://img.clerk.com/") {
			t.Errorf("%s: %+v", email, u)
		}
		if u.Roles != nil || u.PublicMetadata != nil || u.Memberships != nil {
			t.Errorf("%s: the id_token brought roles: %+v", email, u)
		}
	}
}

func TestBeginAsksForWhatClerkWants(t *testing.T) {
	r := newRig(t, nil)
	if n := r.dev.Requests("GET /.well-known/openid-configuration"); n != 0 {
		t.Errorf("%d requests before the first sign-in", n)
	}
	verifier := oauth2.GenerateVerifier()
	for _, prompt := range []string{"", "login"} {
		text, err := r.clerk.Begin(t.Context(), state, nonce, verifier, prompt)
		must(t, err)
		u, err := url.Parse(text)
		must(t, err)
		if got := u.Scheme + "://" + u.Host + u.Path; got != r.url+"/oauth/authorize" {
			t.Errorf("goes to %q", got)
		}
		q := u.Query()
		for name, want := range map[string]string{
			"response_type": "code", "client_id": clientID, "redirect_uri": redirectURL, "state": state, "nonce": nonce,
			"scope": "openid profile email public_metadata", "prompt": prompt,
			"code_challenge": oauth2.S256ChallengeFromVerifier(verifier), "code_challenge_method": "S256",
		} {
			if q.Get(name) != want {
				t.Errorf("%s = %q, want %q", name, q.Get(name), want)
			}
		}
		if q.Has("prompt") != (prompt != "") || strings.Contains(text, verifier) || strings.Contains(text, clientSecret) {
			t.Errorf("URL %q", text)
		}
	}
	if n := r.dev.Requests("GET /.well-known/openid-configuration"); n != 1 {
		t.Errorf("discovery was read %d times", n)
	}
	r.clock.Add(61 * time.Minute)
	_, err := r.clerk.Begin(t.Context(), state, nonce, verifier, "")
	must(t, err)
	if n := r.dev.Requests("GET /.well-known/openid-configuration"); n != 2 {
		t.Errorf("an hour later it was read %d times", n)
	}
}

func TestBeginRefusesWeakValues(t *testing.T) {
	r := newRig(t, nil)
	v := oauth2.GenerateVerifier()
	for name, args := range map[string][3]string{
		"state of 7 characters":     {"1234567", nonce, v},
		"no nonce":                  {state, "", v},
		"verifier of 42 characters": {state, nonce, v[:42]},
		"verifier of 129":           {state, nonce, strings.Repeat("a", 129)},
		"verifier with a space":     {state, nonce, v[:42] + " x"},
	} {
		if _, err := r.clerk.Begin(t.Context(), args[0], args[1], args[2], ""); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestDiscoveryIsReadAgainAfterAFailureButNotAtOnce(t *testing.T) {
	r := newRig(t, nil)
	begin := func() error {
		_, err := r.clerk.Begin(t.Context(), state, nonce, oauth2.GenerateVerifier(), "")
		return err
	}
	r.dev.SetDown("/.well-known/", true)
	for range 5 {
		wantErr(t, begin(), identity.ErrUnavailable)
	}
	if n := r.dev.Requests("GET /.well-known/openid-configuration"); n != 1 {
		t.Errorf("%d requests within the interval", n)
	}
	r.dev.SetDown("/.well-known/", false)
	r.clock.Add(2 * time.Second)
	must(t, begin())
	// Known once, it outlasts a failure.
	r.dev.SetDown("/.well-known/", true)
	r.clock.Add(2 * time.Hour)
	must(t, begin())
	must(t, begin())
	if n := r.dev.Requests("GET /.well-known/openid-configuration"); n != 3 {
		t.Errorf("%d requests in all", n)
	}
}

func TestDiscoveryAnswersAreChecked(t *testing.T) {
	for name, tt := range map[string]struct {
		document string // %s: the issuer
		kind     error
	}{
		"another issuer":        {`{"issuer":"https://evil.example","authorization_endpoint":"%s/a","token_endpoint":"%s/t","jwks_uri":"%s/j"}`, nil},
		"issuer with slash":     {`{"issuer":"%s/","authorization_endpoint":"%s/a","token_endpoint":"%s/t","jwks_uri":"%s/j"}`, nil},
		"plain token endpoint":  {`{"issuer":"%s","authorization_endpoint":"%s/a","token_endpoint":"http://evil.example/t","jwks_uri":"%s/j"}`, nil},
		"script as authorize":   {`{"issuer":"%s","authorization_endpoint":"javascript:alert(1)","token_endpoint":"%s/t","jwks_uri":"%s/j"}`, nil},
		"no keys":               {`{"issuer":"%s","authorization_endpoint":"%s/a","token_endpoint":"%s/t"}`, nil},
		"not JSON":              {`<html>CANARY</html>`, identity.ErrUnavailable},
		"too large":             {strings.Repeat(" ", 1<<20+1) + `{}`, identity.ErrUnavailable},
		"a string for a member": {`{"issuer":{"CANARY":1}}`, identity.ErrUnavailable},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, func(http.Handler) http.Handler {
				return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
					w.Header().Set("Content-Type", "application/json")
					_, _ = w.Write([]byte(strings.ReplaceAll(tt.document, "%s", "http://"+req.Host)))
				})
			})
			_, err := r.clerk.Begin(t.Context(), state, nonce, oauth2.GenerateVerifier(), "")
			wantErr(t, err, tt.kind)
		})
	}
}

// A document that came by https must not send the client secret out in clear,
// not even to loopback.
func TestDiscoveryDoesNotTurnHTTPSIntoHTTP(t *testing.T) {
	for scheme, ok := range map[string]bool{"https": true, "http": false} {
		var base string
		ts := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			_, _ = fmt.Fprintf(w, `{"issuer":%q,"authorization_endpoint":"%[1]s/a","token_endpoint":"%s://127.0.0.1:1/t","jwks_uri":"%[1]s/j"}`, base, scheme)
		}))
		base = ts.URL
		k, err := clerk.New(clerk.Options{FrontendAPI: base, ClientID: clientID, ClientSecret: clientSecret, SecretKey: secretKey, RedirectURL: redirectURL, HTTPClient: ts.Client()})
		must(t, err)
		_, err = k.Begin(t.Context(), state, nonce, oauth2.GenerateVerifier(), "")
		if (err == nil) != ok {
			t.Errorf("%s: %v", scheme, err)
		}
		must(t, k.Close())
		ts.Close()
	}
}

func TestCallerWhoGivesUpDoesNotTakeDiscoveryFromOthers(t *testing.T) {
	gate := make(chan struct{})
	r := newRig(t, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			<-gate
			next.ServeHTTP(w, req)
		})
	})
	ctx, cancel := context.WithCancel(t.Context())
	first := make(chan error, 1)
	go func() {
		_, err := r.clerk.Begin(ctx, state, nonce, oauth2.GenerateVerifier(), "")
		first <- err
	}()
	second := make(chan error, 1)
	go func() {
		_, err := r.clerk.Begin(t.Context(), state, nonce, oauth2.GenerateVerifier(), "")
		second <- err
	}()
	cancel()
	wantErr(t, <-first, identity.ErrUnavailable)
	close(gate)
	must(t, <-second)
	if n := r.dev.Requests("GET /.well-known/openid-configuration"); n > 2 {
		t.Errorf("%d requests", n)
	}
}

// Case: an attacker's code, or one of another browser's sign-in, is injected
// (RFC 9700 section 4.5).
func TestCodeOfAnotherSignInIsRefused(t *testing.T) {
	r := newRig(t, nil)
	code, verifier := r.signIn("admin@example.com")
	_, err := r.clerk.Complete(t.Context(), code, oauth2.GenerateVerifier(), nonce)
	wantErr(t, err, nil)
	if !strings.Contains(err.Error(), "invalid_grant") {
		t.Errorf("error %q does not say what Clerk said", err)
	}
	_, err = r.clerk.Complete(t.Context(), code, verifier, "another nonce")
	wantErr(t, err, nil)
	if !strings.Contains(err.Error(), "nonce") {
		t.Errorf("error %q", err)
	}
	_, err = r.clerk.Complete(t.Context(), code, verifier, nonce)
	wantErr(t, err, nil) // a code works once
}

func TestCompleteNeedsCodeVerifierAndNonce(t *testing.T) {
	r := newRig(t, nil)
	for _, args := range [][3]string{{"", "v", "n"}, {"c", "", "n"}, {"c", "v", ""}} {
		_, err := r.clerk.Complete(t.Context(), args[0], args[1], args[2])
		wantErr(t, err, nil)
	}
}

func TestTokenEndpointFailures(t *testing.T) {
	for name, tt := range map[string]struct {
		fault devclerk.Fault
		kind  error
	}{
		"down":         {devclerk.Fault{Status: 503}, identity.ErrUnavailable},
		"bad gateway":  {devclerk.Fault{Status: 502}, identity.ErrUnavailable},
		"rate limited": {devclerk.Fault{Status: 429, RetryAfter: time.Second}, identity.ErrUnavailable},
		"forbidden":    {devclerk.Fault{Status: 403}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, nil)
			code, verifier := r.signIn("admin@example.com")
			r.dev.SetFault("/oauth/token", tt.fault)
			_, err := r.clerk.Complete(t.Context(), code, verifier, nonce)
			wantErr(t, err, tt.kind)
			if n := r.dev.Requests("POST /oauth/token"); n != 1 {
				t.Errorf("the code was presented %d times", n)
			}
		})
	}
}

func TestHangingTokenEndpointIsGivenUpWithTheCaller(t *testing.T) {
	r := newRig(t, nil)
	code, verifier := r.signIn("admin@example.com")
	r.dev.SetSlow("/oauth/token", time.Hour)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := r.clerk.Complete(ctx, code, verifier, nonce)
	wantErr(t, err, identity.ErrUnavailable)
}

// answers stands in front of the stand-in and answers one path itself.
func answers(path string, h http.HandlerFunc) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			if req.URL.Path == path {
				h(w, req)
				return
			}
			next.ServeHTTP(w, req)
		})
	}
}

func TestTokenAnswersDoNotLeakIntoErrors(t *testing.T) {
	for name, tt := range map[string]struct {
		status int
		body   string
		kind   error
	}{
		"error page":             {400, `<h1>CANARY</h1>`, nil},
		"error with our code":    {400, `{"error":"CANARY code","error_description":"CANARY"}`, nil},
		"description":            {400, `{"error":"invalid_grant","error_description":"CANARY"}`, nil},
		"client refused":         {401, `{"error":"invalid_client","error_description":"CANARY"}`, nil},
		"error page of a proxy":  {502, `CANARY`, identity.ErrUnavailable},
		"success that is none":   {200, `CANARY`, identity.ErrUnavailable},
		"no access token":        {200, `{"id_token":"CANARY"}`, identity.ErrUnavailable},
		"no id_token":            {200, `{"access_token":"CANARY","token_type":"Bearer"}`, nil},
		"id_token not a string":  {200, `{"access_token":"CANARY","token_type":"Bearer","id_token":{"CANARY":1}}`, nil},
		"id_token not a JWT":     {200, `{"access_token":"CANARY","token_type":"Bearer","id_token":"CANARY.CANARY.CANARY"}`, nil},
		"larger than we read":    {200, `{"access_token":"` + strings.Repeat("CANARY", 1<<18) + `"}`, identity.ErrUnavailable},
		"id_token with control":  {200, `{"access_token":"CANARY","id_token":"CANARY\r\nX: y"}`, nil},
		"error with a line feed": {400, `{"error":"invalid_grant\nCANARY"}`, nil},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, answers("/oauth/token", func(w http.ResponseWriter, req *http.Request) {
				id, pass, ok := req.BasicAuth()
				if !ok || id != clientID || pass != url.QueryEscape(clientSecret) {
					t.Error("the client did not authenticate by Basic")
				}
				w.Header().Set("Content-Type", "application/json")
				w.WriteHeader(tt.status)
				_, _ = w.Write([]byte(tt.body))
			}))
			_, err := r.clerk.Complete(t.Context(), "CANARY-code", "CANARY-verifier", "CANARY-nonce")
			wantErr(t, err, tt.kind)
		})
	}
}

func TestRedirectOfTheTokenRequestIsNotFollowed(t *testing.T) {
	followed := make(chan struct{}, 1)
	r := newRig(t, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			switch req.URL.Path {
			case "/oauth/token":
				http.Redirect(w, req, "/elsewhere", http.StatusTemporaryRedirect)
			case "/elsewhere":
				followed <- struct{}{}
			default:
				next.ServeHTTP(w, req)
			}
		})
	})
	_, err := r.clerk.Complete(t.Context(), "CANARY-code", "CANARY-verifier", "CANARY-nonce")
	wantErr(t, err, identity.ErrUnavailable)
	select {
	case <-followed:
		t.Error("client secret and code were sent on")
	default:
	}
}

func TestUnverifiedEmailIsNotTheUsers(t *testing.T) {
	f := newIssuer(t)
	for _, tt := range []struct {
		verified any
		email    string
	}{{true, "a@example.com"}, {nil, "a@example.com"}, {false, ""}} {
		f.respond(f.sign(f.header(), f.claims("email", "a@example.com", "email_verified", tt.verified)))
		u, err := f.complete(t)
		must(t, err)
		if u.Email != tt.email {
			t.Errorf("email_verified %v: %q", tt.verified, u.Email)
		}
	}
}

// Same e-mail, another sub: another account.
func TestAccountIsTheSubjectNotTheEmail(t *testing.T) {
	f := newIssuer(t)
	seen := map[string]bool{}
	for _, sub := range []string{"user_one", "user_two"} {
		f.respond(f.sign(f.header(), f.claims("sub", sub, "email", "same@example.com")))
		u, err := f.complete(t)
		must(t, err)
		seen[u.ID] = true
	}
	if len(seen) != 2 {
		t.Errorf("accounts %v", seen)
	}
}
