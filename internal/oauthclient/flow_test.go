package oauthclient_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/mcp-clerk/mcp-clerk/internal/oauthclient"
)

// deviceSite is a site with a device authorization endpoint (RFC 8628).
type deviceSite struct {
	*site
	answers []map[string]any // of the token endpoint, one a question; the last one stays
	asked   int
}

func newDeviceSite(t *testing.T, answers ...map[string]any) *deviceSite {
	d := &deviceSite{site: newSite(t), answers: answers}
	d.meta["device_authorization_endpoint"] = d.URL + "/device"
	delete(d.meta, "authorization_endpoint") // none is needed
	delete(d.meta, "code_challenge_methods_supported")
	d.on("/device", func(w http.ResponseWriter, r *http.Request) {
		if r.FormValue("client_id") == "" || r.FormValue("resource") != d.URL+"/mcp" {
			writeJSON(w, http.StatusBadRequest, map[string]any{"error": "invalid_request"})
			return
		}
		writeJSON(w, http.StatusOK, map[string]any{
			"device_code": "device-1", "user_code": "WDJB-MJHT", "verification_uri": d.URL + "/activate", "expires_in": 600, "interval": 1,
		})
	})
	d.on("/token", func(w http.ResponseWriter, r *http.Request) {
		d.mu.Lock()
		defer d.mu.Unlock()
		if r.PostFormValue("grant_type") != "urn:ietf:params:oauth:grant-type:device_code" || r.PostFormValue("device_code") != "device-1" {
			writeJSON(w, http.StatusBadRequest, map[string]any{"error": "invalid_grant"})
			return
		}
		answer := d.answers[min(d.asked, len(d.answers)-1)]
		d.asked++
		if answer["access_token"] != nil {
			d.valid[answer["access_token"].(string)] = true
			writeJSON(w, http.StatusOK, answer)
			return
		}
		writeJSON(w, http.StatusBadRequest, answer)
	})
	return d
}

func oauthError(code string) map[string]any { return map[string]any{"error": code} }

// RFC 8628 section 3: the code is shown, the server is asked until somebody has
// entered it, and no browser opens here (case 17).
func TestDeviceFlow(t *testing.T) {
	d := newDeviceSite(t, oauthError("authorization_pending"), map[string]any{
		"access_token": "device-token", "token_type": "Bearer", "expires_in": 3600, "refresh_token": "r",
	})
	var shown []string
	o := options(t, d.URL+"/mcp", t.TempDir())
	o.Flow, o.OpenURL = oauthclient.FlowDevice, closed(t)
	o.Prompt = func(u, code string) { shown = append(shown, u+" "+code) }
	c := newClient(t, o)
	if status, err := request(t.Context(), c, d.URL+"/mcp"); status != http.StatusOK || err != nil {
		t.Fatalf("status %d, %v", status, err)
	}
	if want := []string{d.URL + "/activate WDJB-MJHT"}; !slices.Equal(shown, want) {
		t.Errorf("shown %q, want %q", shown, want)
	}
	if d.asked != 2 {
		t.Errorf("the token endpoint was asked %d times, want 2", d.asked)
	}
	if grants := d.regs[0]["grant_types"].([]any); !slices.Contains(grants, any("urn:ietf:params:oauth:grant-type:device_code")) {
		t.Errorf("registered for %v", grants)
	}
}

func TestDeviceFlowEnds(t *testing.T) {
	for code, want := range map[string]string{
		"access_denied": "access was denied", "expired_token": "nobody signed in", "invalid_grant": "invalid_grant",
	} {
		t.Run(code, func(t *testing.T) {
			d := newDeviceSite(t, oauthError(code))
			o := options(t, d.URL+"/mcp", t.TempDir())
			o.Flow, o.Prompt = oauthclient.FlowDevice, func(string, string) {}
			err := newClient(t, o).SignIn(t.Context())
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%v, want %q", err, want)
			}
		})
	}
}

// A server's address for the code is shown to a person, who opens it: the rules
// for the browser hold (case 1).
func TestDeviceAddressIsChecked(t *testing.T) {
	for _, uri := range []string{"javascript:alert(1)", "file:///etc/passwd", "http://evil.example/", "https://a@b/"} {
		d := newDeviceSite(t, oauthError("authorization_pending"))
		d.on("/device", func(w http.ResponseWriter, _ *http.Request) {
			writeJSON(w, http.StatusOK, map[string]any{"device_code": "device-1", "user_code": "C", "verification_uri": uri})
		})
		o := options(t, d.URL+"/mcp", t.TempDir())
		o.Flow = oauthclient.FlowDevice
		o.Prompt = func(u, _ string) { t.Errorf("shown %q", u) }
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		if err := newClient(t, o).SignIn(ctx); err == nil || !strings.Contains(err.Error(), "verification_uri") {
			t.Errorf("%q: %v", uri, err)
		}
		cancel()
	}
}

// A process that ends leaves the device flow to the next one, too (case 18).
func TestDeviceFlowOutlivesItsProcess(t *testing.T) {
	d := newDeviceSite(t, oauthError("authorization_pending"))
	o := options(t, d.URL+"/mcp", t.TempDir())
	shown := make(chan string, 10)
	o.Flow, o.OpenURL, o.Prompt = oauthclient.FlowDevice, closed(t), func(u, code string) { shown <- code }
	first := newClient(t, o)
	done := make(chan error, 1)
	go func() {
		done <- first.Authorize(context.WithoutCancel(t.Context()), "", http.StatusUnauthorized, http.Header{})
	}()
	<-shown
	first.Close()
	if err := <-done; err == nil {
		t.Fatal("the sign-in ended well without anybody")
	}
	d.with(func() {
		d.answers = []map[string]any{{"access_token": "device-token", "token_type": "Bearer"}}
	})
	second := newClient(t, o)
	if err := second.Resume(t.Context()); err != nil {
		t.Fatal(err)
	}
	if token, err := second.Token(t.Context()); token != "device-token" || err != nil {
		t.Errorf("token %q, %v", token, err)
	}
	if n := d.count("POST /device"); n != 1 {
		t.Errorf("%d codes were asked for", n)
	}
}

func TestDeviceFlowMustBeOffered(t *testing.T) {
	s := newSite(t)
	o := options(t, s.URL+"/mcp", t.TempDir())
	o.Flow, o.Prompt = oauthclient.FlowDevice, func(string, string) {}
	if err := newClient(t, o).SignIn(t.Context()); err == nil || !strings.Contains(err.Error(), "device flow") {
		t.Error(err)
	}
}

// machineSite gives tokens to one client (RFC 6749 section 4.4).
func machineSite(t *testing.T, check func(*http.Request) error) *site {
	s := newSite(t)
	delete(s.meta, "authorization_endpoint")
	delete(s.meta, "code_challenge_methods_supported")
	s.on("/token", func(w http.ResponseWriter, r *http.Request) {
		if err := r.ParseForm(); err != nil {
			t.Error(err)
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		s.tokens = append(s.tokens, r.PostForm)
		if err := check(r); err != nil {
			writeJSON(w, http.StatusUnauthorized, map[string]any{"error": "invalid_client", "error_description": err.Error()})
			return
		}
		s.n++
		token := fmt.Sprintf("machine-%d", s.n)
		s.valid[token] = true
		writeJSON(w, http.StatusOK, map[string]any{"access_token": token, "token_type": "Bearer", "expires_in": 3600})
	})
	return s
}

// RFC 6749 section 4.4: without a user, a browser or a refresh token; renewed
// before it expires by asking the same way again.
func TestClientCredentials(t *testing.T) {
	s := machineSite(t, func(r *http.Request) error {
		if id, pass, ok := r.BasicAuth(); !ok || id != "robot" || pass != "s%2Fcret" {
			return errors.New("wrong secret")
		}
		return nil
	})
	s.prm["scopes_supported"] = []string{"mcp:read"}
	clk := newClock()
	o := options(t, s.URL+"/mcp", t.TempDir())
	o.Flow, o.ClientID, o.ClientSecret, o.Now = oauthclient.FlowClientCredentials, "robot", "s/cret", clk.Now
	c := newClient(t, o)
	if status, err := request(t.Context(), c, s.URL+"/mcp"); status != http.StatusOK || err != nil {
		t.Fatalf("status %d, %v", status, err)
	}
	form := s.tokens[0]
	if form.Get("grant_type") != "client_credentials" || form.Get("resource") != s.URL+"/mcp" || form.Get("scope") != "mcp:read" {
		t.Errorf("asked %v", form)
	}
	clk.add(59*time.Minute + 30*time.Second)
	first, err := c.Token(t.Context())
	if err != nil || first != "machine-2" {
		t.Errorf("token %q, %v, want a new one before the old one expires", first, err)
	}
	// Another process has it from the store.
	if token, err := newClient(t, o).Token(t.Context()); token != "machine-2" || err != nil {
		t.Errorf("token %q, %v", token, err)
	}
	s.revokeAll()
	if status, err := request(t.Context(), c, s.URL+"/mcp"); status != http.StatusOK || err != nil {
		t.Errorf("status %d, %v", status, err)
	}
	s.revokeAll()
	if status, err := request(t.Context(), c, s.URL+"/mcp"); status != http.StatusUnauthorized || err == nil {
		t.Errorf("status %d, %v: a server that refuses what it has just issued is asked for ever", status, err)
	}
	clk.add(2 * time.Minute)
	if status, err := request(t.Context(), c, s.URL+"/mcp"); status != http.StatusOK || err != nil {
		t.Errorf("status %d, %v", status, err)
	}
}

// A refused secret is an error, and no request is repeated with it for ever.
func TestClientCredentialsRefused(t *testing.T) {
	s := machineSite(t, func(*http.Request) error { return errors.New("no such client") })
	o := options(t, s.URL+"/mcp", t.TempDir())
	o.Flow, o.ClientID, o.ClientSecret = oauthclient.FlowClientCredentials, "robot", "canary-secret"
	_, err := request(t.Context(), newClient(t, o), s.URL+"/mcp")
	if err == nil || !strings.Contains(err.Error(), "invalid_client") || strings.Contains(err.Error(), "canary") {
		t.Error(err)
	}
	if len(s.tokens) > 2 {
		t.Errorf("%d token requests", len(s.tokens))
	}
}

// A token endpoint that is given takes the place of discovery, with what is
// given and nothing else.
func TestClientCredentialsWithoutDiscovery(t *testing.T) {
	s := machineSite(t, func(*http.Request) error { return nil })
	o := options(t, s.URL+"/mcp", t.TempDir())
	o.Flow, o.ClientID, o.ClientSecret = oauthclient.FlowClientCredentials, "robot", "secret"
	o.TokenEndpoint = s.URL + "/token"
	if status, err := request(t.Context(), newClient(t, o), s.URL+"/mcp"); status != http.StatusOK || err != nil {
		t.Fatalf("status %d, %v", status, err)
	}
	for _, seen := range s.requests() {
		if strings.Contains(seen, "well-known") {
			t.Errorf("asked %s", seen)
		}
	}
	if form := s.tokens[0]; form.Has("resource") || form.Has("scope") {
		t.Errorf("sent %v", form)
	}
}

// RFC 7523 section 2.2: signed, addressed to the issuer, usable once and soon
// of no use.
func TestPrivateKeyJWT(t *testing.T) {
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	p256, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for alg, key := range map[jose.SignatureAlgorithm]crypto.Signer{jose.RS256: rsaKey, jose.ES256: p256, jose.ES384: p384, jose.EdDSA: ed} {
		t.Run(string(alg), func(t *testing.T) {
			ids := map[string]bool{}
			var issuer string
			s := machineSite(t, func(r *http.Request) error {
				if r.Header.Get("Authorization") != "" || r.PostForm.Has("client_secret") {
					return errors.New("a secret beside the assertion")
				}
				if r.PostForm.Get("client_assertion_type") != "urn:ietf:params:oauth:client-assertion-type:jwt-bearer" {
					return errors.New("assertion type")
				}
				token, err := jwt.ParseSigned(r.PostForm.Get("client_assertion"), []jose.SignatureAlgorithm{alg})
				if err != nil {
					return err
				}
				var claims jwt.Claims
				if err := token.Claims(key.Public(), &claims); err != nil {
					return err
				}
				if err := claims.Validate(jwt.Expected{Issuer: "robot", Subject: "robot", AnyAudience: jwt.Audience{issuer}, Time: time.Now()}); err != nil {
					return err
				}
				if len(claims.Audience) != 1 || time.Until(claims.Expiry.Time()) > 5*time.Minute || claims.ID == "" || ids[claims.ID] {
					return fmt.Errorf("claims %+v", claims)
				}
				ids[claims.ID] = true
				return nil
			})
			issuer = s.URL
			clk := newClock()
			o := options(t, s.URL+"/mcp", t.TempDir())
			o.Flow, o.ClientID, o.ClientKey, o.Now = oauthclient.FlowClientCredentials, "robot", key, clk.Now
			c := newClient(t, o)
			if status, err := request(t.Context(), c, s.URL+"/mcp"); status != http.StatusOK || err != nil {
				t.Fatalf("status %d, %v", status, err)
			}
			clk.add(-time.Minute) // a clock that is set back
			s.revokeAll()
			if status, err := request(t.Context(), c, s.URL+"/mcp"); status != http.StatusOK || err != nil || len(ids) != 2 {
				t.Errorf("status %d, %v, %d assertions", status, err, len(ids))
			}
		})
	}
}

func TestAKeyThatIsTooSmallIsRefused(t *testing.T) {
	t.Setenv("GODEBUG", "rsa1024min=0")
	key, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	s := machineSite(t, func(*http.Request) error { return nil })
	o := options(t, s.URL+"/mcp", t.TempDir())
	o.Flow, o.ClientID, o.ClientKey = oauthclient.FlowClientCredentials, "robot", key
	if _, err := request(t.Context(), newClient(t, o), s.URL+"/mcp"); err == nil || len(s.tokens) != 0 {
		t.Errorf("%v, %d token requests", err, len(s.tokens))
	}
}

// Case 17: the browser is on another machine and ends at an address that it
// cannot show; the person brings it.
func TestPastedAnswer(t *testing.T) {
	for name, tc := range map[string]struct {
		line    func(redirect *url.URL, auth url.Values, code, iss string) string
		noIss   bool // the server does not announce iss
		refused string
	}{
		"the whole address": {line: func(r *url.URL, auth url.Values, code, iss string) string {
			return "  \"" + r.String() + "?" + url.Values{"code": {code}, "state": auth["state"], "iss": {iss}}.Encode() + "\"\r"
		}},
		"the query alone": {line: func(_ *url.URL, auth url.Values, code, iss string) string {
			return "?" + url.Values{"code": {code}, "state": auth["state"], "iss": {iss}}.Encode()
		}},
		"the code alone": {noIss: true, line: func(_ *url.URL, _ url.Values, code, _ string) string { return code }},
		"the code alone where the issuer always stands beside it": {
			line:    func(_ *url.URL, _ url.Values, code, _ string) string { return code },
			refused: "whole address",
		},
		"another state": {refused: "not the address", line: func(r *url.URL, _ url.Values, code, iss string) string {
			return r.String() + "?" + url.Values{"code": {code}, "state": {"x"}, "iss": {iss}}.Encode()
		}},
		"no state": {refused: "not the address", line: func(r *url.URL, _ url.Values, code, iss string) string {
			return r.String() + "?" + url.Values{"code": {code}, "iss": {iss}}.Encode()
		}},
		"nothing in it": {refused: "neither a code", line: func(r *url.URL, auth url.Values, _, iss string) string {
			return r.String() + "?" + url.Values{"state": auth["state"], "iss": {iss}}.Encode()
		}},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			if tc.noIss {
				delete(s.meta, "authorization_response_iss_parameter_supported")
			}
			lines, notices := make(chan string), make(chan string, 10)
			w := wait(t, s, func(o *oauthclient.Options) {
				o.Pasted, o.Notice = lines, func(text string) { notices <- text }
			})
			code := w.code()
			say := func(line string) {
				t.Helper()
				select {
				case lines <- line:
				case <-time.After(10 * time.Second):
					t.Fatal("nobody reads what is pasted")
				}
			}
			say("")
			say(tc.line(w.redirect, w.auth, code, s.URL))
			if tc.refused != "" {
				select {
				case text := <-notices:
					if !strings.Contains(text, tc.refused) {
						t.Errorf("said %q, want %q", text, tc.refused)
					}
				case <-time.After(10 * time.Second):
					t.Fatal("it was taken")
				}
				say(w.redirect.String() + "?" + url.Values{"code": {code}, "state": w.auth["state"], "iss": {s.URL}}.Encode())
			}
			if err := <-w.done; err != nil {
				t.Error(err)
			}
		})
	}
}

// The process that listens may be another one, which nobody can type at: a
// host's. What is pasted into "login" reaches it.
func TestPastedAnswerReachesTheProcessThatListens(t *testing.T) {
	s := newSite(t)
	o := options(t, s.URL+"/mcp", t.TempDir())
	opened := make(chan string, 1)
	o.OpenURL = func(target string) error { opened <- target; return nil }
	host := newClient(t, o)
	done := make(chan error, 2)
	go func() {
		done <- host.Authorize(context.WithoutCancel(t.Context()), "", http.StatusUnauthorized, http.Header{})
	}()
	u, err := url.Parse(<-opened)
	if err != nil {
		t.Fatal(err)
	}
	w := &waiting{site: s, auth: u.Query()}

	lines, shown, notices := make(chan string), make(chan string, 1), make(chan string, 1)
	o.OpenURL, o.Pasted = closed(t), lines
	o.Prompt, o.Notice = func(u, _ string) { shown <- u }, func(text string) { notices <- text }
	login := newClient(t, o)
	go func() { done <- login.SignIn(context.WithoutCancel(t.Context())) }()
	if got := <-shown; got != u.String() {
		t.Errorf("shown %q, want that of the process that listens", got)
	}
	say := func(line string) {
		t.Helper()
		select {
		case lines <- line:
		case <-time.After(10 * time.Second):
			t.Fatal("nobody reads what is pasted")
		}
	}
	say("?state=guessed&code=x")
	select {
	case text := <-notices:
		if !strings.Contains(text, "not the address") {
			t.Errorf("said %q", text)
		}
	case <-time.After(10 * time.Second):
		t.Error("a wrong address was taken")
	}
	say(w.auth.Get("redirect_uri") + "?" + url.Values{"code": {w.code()}, "state": w.auth["state"], "iss": {s.URL}}.Encode())
	for range 2 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	if n := s.count("POST /token"); n != 1 {
		t.Errorf("%d token requests", n)
	}
}

// The answer of another issuer is refused however it comes (RFC 9207).
func TestPastedAnswerOfAnotherIssuer(t *testing.T) {
	s := newSite(t)
	lines := make(chan string)
	w := wait(t, s, func(o *oauthclient.Options) { o.Pasted = lines })
	select {
	case lines <- w.redirect.String() + "?" + url.Values{"code": {w.code()}, "state": w.auth["state"], "iss": {"https://evil.example"}}.Encode():
	case <-time.After(10 * time.Second):
		t.Fatal("nobody reads what is pasted")
	}
	if err := <-w.done; err == nil || !strings.Contains(err.Error(), "RFC 9207") {
		t.Error(err)
	}
	if s.count("POST /token") != 0 {
		t.Error("the code went to the token endpoint")
	}
}

func TestCallbackAddress(t *testing.T) {
	port := freePort(t)
	for name, tc := range map[string]struct {
		callback oauthclient.Callback
		redirect string // with PORT for the port listened on
		reach    string // where the browser's request ends up, with its Host
		off      bool
	}{
		"as it is":        {redirect: "http://127.0.0.1:PORT/oauth/callback"},
		"localhost":       {callback: oauthclient.Callback{Host: "localhost"}, redirect: "http://localhost:PORT/oauth/callback"},
		"IPv6":            {callback: oauthclient.Callback{Host: "::1"}, redirect: "http://[::1]:PORT/oauth/callback"},
		"a path":          {callback: oauthclient.Callback{Path: "/cb"}, redirect: "http://127.0.0.1:PORT/cb"},
		"at an address":   {callback: oauthclient.Callback{Bind: "::1", Port: port}, redirect: "http://127.0.0.1:PORT/oauth/callback", reach: "[::1]:" + fmt.Sprint(port)},
		"forwarded":       {callback: oauthclient.Callback{URL: "http://localhost:1/forwarded", Port: port}, redirect: "http://localhost:1/forwarded", reach: "127.0.0.1:" + fmt.Sprint(port)},
		"behind a proxy":  {callback: oauthclient.Callback{URL: "https://dev.example.com/cb", Port: port}, redirect: "https://dev.example.com/cb", reach: "127.0.0.1:" + fmt.Sprint(port), off: true},
		"under some name": {callback: oauthclient.Callback{Host: "box.example", Port: port}, redirect: "http://box.example:PORT/oauth/callback", reach: "127.0.0.1:" + fmt.Sprint(port), off: true},
	} {
		t.Run(name, func(t *testing.T) {
			if tc.callback.Host == "::1" || tc.callback.Bind == "::1" {
				needsIPv6(t)
			}
			if tc.callback.OffLoopback() != tc.off {
				t.Errorf("off loopback: %v", !tc.off)
			}
			s := newSite(t)
			w := wait(t, s, func(o *oauthclient.Options) { o.Callback = tc.callback })
			if want := strings.ReplaceAll(tc.redirect, "PORT", w.redirect.Port()); w.redirect.String() != want {
				t.Fatalf("redirect %q, want %q", w.redirect, want)
			}
			back := *w.redirect
			back.RawQuery = url.Values{"code": {w.code()}, "state": w.auth["state"], "iss": {s.URL}}.Encode()
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, back.String(), nil)
			if err != nil {
				t.Fatal(err)
			}
			if tc.reach != "" {
				req.Host = back.Host
				req.URL.Scheme, req.URL.Host = "http", tc.reach
			}
			resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if resp.StatusCode != http.StatusOK {
				t.Errorf("the browser sees status %d", resp.StatusCode)
			}
			if err := <-w.done; err != nil {
				t.Error(err)
			}
			if got := s.tokens[0].Get("redirect_uri"); got != w.redirect.String() {
				t.Errorf("redeemed with redirect %q", got)
			}
		})
	}
}

func needsIPv6(t *testing.T) {
	t.Helper()
	l, err := net.Listen("tcp", "[::1]:0")
	if err == nil {
		l.Close()
		return
	}
	if os.Getenv("CI") == "true" {
		t.Fatalf("no IPv6 on loopback: %v", err)
	}
	t.Skipf("no IPv6 on loopback: %v", err)
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// What an answer may pass on its way is known before anything listens there.
func TestCallbackOffLoopback(t *testing.T) {
	for callback, want := range map[oauthclient.Callback]bool{
		{}: false, {Bind: "127.0.0.1"}: false, {Bind: "::1"}: false, {Host: "localhost"}: false, {URL: "http://localhost:1/cb"}: false,
		{Bind: "0.0.0.0"}: true, {Bind: "::"}: true, {Bind: "192.0.2.1"}: true, {Host: "box.example"}: true, {URL: "https://box.example:1/cb"}: true,
	} {
		if callback.OffLoopback() != want {
			t.Errorf("%+v: %v", callback, !want)
		}
	}
}

func TestCallbackOptionsAreChecked(t *testing.T) {
	for _, cb := range []oauthclient.Callback{
		{Port: -1}, {Port: 70000}, {Path: "no-slash"}, {Path: "/a?b"}, {Host: "a b"}, {Host: "a/b"}, {Host: "-x"}, {Bind: "localhost"},
		{URL: "ftp://localhost:1/"}, {URL: "https://dev.example.com/cb"}, {URL: "http://u@localhost:1/"}, {URL: "http://localhost:1/?q"}, {URL: "http://localhost:1/#f"},
		{SuccessURL: "http://evil.example/"}, {SuccessURL: "javascript:alert(1)"}, {SuccessURL: "https://a/?q=1"}, {SuccessURL: "https://a/#f"},
	} {
		o := options(t, "https://mcp.example.com/mcp", t.TempDir())
		o.Callback = cb
		if _, err := oauthclient.New(o); err == nil {
			t.Errorf("%+v was accepted", cb)
		}
	}
}

// The browser goes on to the page that was asked for after a success, with
// nothing of the sign-in in its address, and stays here after a failure.
func TestSuccessPage(t *testing.T) {
	for name, fail := range map[string]bool{"success": false, "failure": true} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			w := wait(t, s, func(o *oauthclient.Options) { o.Callback.SuccessURL = "https://app.example.com/connected" })
			query := url.Values{"code": {w.code()}, "state": w.auth["state"], "iss": {s.URL}}
			if fail {
				query = url.Values{"error": {"access_denied"}, "state": w.auth["state"], "iss": {s.URL}}
			}
			client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
			resp, err := client.Get(w.redirect.String() + "?" + query.Encode())
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			err = <-w.done
			if fail {
				if err == nil || resp.Header.Get("Location") != "" {
					t.Errorf("%v, sent to %q", err, resp.Header.Get("Location"))
				}
				return
			}
			if err != nil || resp.StatusCode != http.StatusSeeOther || resp.Header.Get("Location") != "https://app.example.com/connected" {
				t.Errorf("%v, status %d to %q", err, resp.StatusCode, resp.Header.Get("Location"))
			}
		})
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

// What somebody registers this program with goes into the registration, except
// for what the sign-in itself depends on.
func TestClientMetadataOfOnesOwn(t *testing.T) {
	s := newSite(t)
	signedIn(t, s, func(o *oauthclient.Options) {
		o.ClientMetadata = map[string]json.RawMessage{
			"client_name": json.RawMessage(`"Mine"`), "software_id": json.RawMessage(`"s-1"`), "redirect_uris": json.RawMessage(`["https://evil.example/"]`),
		}
	})
	got := s.regs[0]
	redirects, _ := got["redirect_uris"].([]any)
	if got["client_name"] != "Mine" || got["software_id"] != "s-1" || len(redirects) != 1 || !strings.HasPrefix(redirects[0].(string), "http://127.0.0.1:") {
		t.Errorf("registered %v", got)
	}
}

// The document that is kept for whoever hosts it names every redirect that a
// sign-in with it may use, and a sign-in uses no other.
func TestTheClientMetadataDocument(t *testing.T) {
	raw, err := os.ReadFile("../../docs/client-metadata.json")
	if err != nil {
		t.Fatal(err)
	}
	var document struct {
		ID        string   `json:"client_id"`
		Redirects []string `json:"redirect_uris"`
		Method    string   `json:"token_endpoint_auth_method"`
		Grants    []string `json:"grant_types"`
	}
	if err := json.Unmarshal(raw, &document); err != nil {
		t.Fatal(err)
	}
	if u, err := url.Parse(document.ID); err != nil || u.Scheme != "https" || document.Method != "none" || !slices.Contains(document.Grants, "refresh_token") {
		t.Errorf("%+v", document)
	}
	s := newSite(t)
	s.meta["client_id_metadata_document_supported"] = true
	delete(s.meta, "registration_endpoint")
	s.clients[document.ID] = document.Redirects
	for _, host := range []string{"", "localhost"} {
		signedIn(t, s, func(o *oauthclient.Options) { o.ClientMetadataURL, o.Callback.Host = document.ID, host })
	}

	// Several at once take several ports, and never one that it does not name.
	var mu sync.Mutex
	seen := map[string]bool{}
	for range 3 {
		w := wait(t, s, func(o *oauthclient.Options) { o.ClientMetadataURL = document.ID })
		mu.Lock()
		seen[w.redirect.String()] = true
		mu.Unlock()
		if !slices.Contains(document.Redirects, w.redirect.String()) {
			t.Errorf("redirect %q is not in the document", w.redirect)
		}
	}
	if len(seen) != 3 {
		t.Errorf("redirects %v", seen)
	}
}
