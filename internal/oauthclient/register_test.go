package oauthclient_test

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mcp-clerk/mcp-clerk/internal/oauthclient"
)

// What the client is to the authorization server: registered, known by a
// document, or forgotten.

// Case 43: the server was wiped, or the registration has expired.
func TestAForgottenClientIsRegisteredAnewOnce(t *testing.T) {
	t.Run("noticed at the refresh", func(t *testing.T) {
		s := newSite(t)
		c, clk, b, _ := refreshing(t, s)
		clk.add(2 * time.Hour)
		s.forget()
		if status, err := request(t.Context(), c, s.URL+"/mcp"); status != 200 || err != nil {
			t.Errorf("status %d, %v", status, err)
		}
		if b.windows() != 2 || s.count("POST /register") != 2 {
			t.Errorf("%d windows, %d registrations", b.windows(), s.count("POST /register"))
		}
	})
	t.Run("noticed when the code is redeemed", func(t *testing.T) {
		s := newSite(t)
		s.extra["refresh_token"] = ""
		c, clk, b, _ := refreshing(t, s)
		clk.add(2 * time.Hour)
		s.with(func() { s.valid = map[string]bool{} })
		var refused atomic.Bool
		s.on("/token", func(w http.ResponseWriter, r *http.Request) {
			if refused.CompareAndSwap(false, true) {
				writeJSON(w, 401, map[string]any{"error": "invalid_client"})
				return
			}
			s.serve(w, r)
		})
		if status, err := request(t.Context(), c, s.URL+"/mcp"); status != 200 || err != nil {
			t.Errorf("status %d, %v", status, err)
		}
		if b.windows() != 3 || s.count("POST /register") != 2 {
			t.Errorf("%d windows, %d registrations", b.windows(), s.count("POST /register"))
		}
	})
	t.Run("a new client that is unknown is an error", func(t *testing.T) {
		s := newSite(t)
		s.on("/token", func(w http.ResponseWriter, r *http.Request) {
			writeJSON(w, 401, map[string]any{"error": "invalid_client"})
		})
		b := &browser{}
		o := options(t, s.URL+"/mcp", t.TempDir())
		o.OpenURL = b.open
		_, err := request(t.Context(), newClient(t, o), s.URL+"/mcp")
		var oauthErr *oauthclient.Error
		if !errors.As(err, &oauthErr) || oauthErr.Code != "invalid_client" || b.windows() != 1 {
			t.Errorf("%v, %d windows", err, b.windows())
		}
	})
}

// Case 7: nothing that one issuer gave goes to another.
func TestAnotherAuthorizationServerGetsNothingOfTheFirst(t *testing.T) {
	s, next := newSite(t), newSite(t)
	c, clk, b, _ := refreshing(t, s)
	clk.add(2 * time.Hour)
	s.with(func() {
		s.valid, s.refresh = map[string]bool{}, map[string]bool{}
		s.prm["authorization_servers"] = []string{next.URL}
	})
	next.with(func() { next.n = 100 }) // other client ids and tokens than the first
	next.with(func() { next.prm["resource"] = s.URL + "/mcp" })
	var leaked []string
	next.on("/token", func(w http.ResponseWriter, r *http.Request) {
		r.ParseForm()
		if r.PostForm.Get("grant_type") == "refresh_token" || r.PostForm.Get("client_id") == "client-1" {
			leaked = append(leaked, r.PostForm.Encode())
		}
		next.serve(w, r)
	})
	s.on("/mcp", func(w http.ResponseWriter, r *http.Request) {
		token := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
		next.mu.Lock()
		ok := next.valid[token]
		next.mu.Unlock()
		if !ok {
			s.serve(w, r)
		}
	})
	if status, err := request(t.Context(), c, s.URL+"/mcp"); status != 200 || err != nil {
		t.Errorf("status %d, %v", status, err)
	}
	if len(leaked) != 0 || b.windows() != 2 || next.count("POST /register") != 1 {
		t.Errorf("leaked %q; %d windows, %d registrations", leaked, b.windows(), next.count("POST /register"))
	}
	if st, err := c.Status(t.Context()); err != nil || st.Issuer != next.URL {
		t.Errorf("%+v, %v", st, err)
	}
}

// The registration too is bound to its issuer, though the grant was never
// found void.
func TestARegistrationIsNotUsedAtAnotherIssuer(t *testing.T) {
	s, next := newSite(t), newSite(t)
	s.extra["refresh_token"] = ""
	c, clk, _, _ := refreshing(t, s)
	clk.add(2 * time.Hour)
	next.with(func() { next.n = 100; next.prm["resource"] = s.URL + "/mcp" })
	s.with(func() { s.valid = map[string]bool{}; s.prm["authorization_servers"] = []string{next.URL} })
	request(t.Context(), c, s.URL+"/mcp") // s knows none of next's tokens, and refuses
	if len(next.asked) != 1 || next.asked[0].Get("client_id") != "client-101" {
		t.Errorf("asked with %v", next.asked)
	}
}

// An authorization server that has forgotten the client shows its user an
// error page and sends nobody back. The next sign-in registers anew.
func TestARegistrationThatLedNowhereIsReplaced(t *testing.T) {
	s := newSite(t)
	s.extra["refresh_token"] = ""
	clk := newClock()
	c, b, _ := signedIn(t, s, func(o *oauthclient.Options) { o.Now = clk.Now; o.SignInTimeout = 500 * time.Millisecond })
	clk.add(2 * time.Hour)
	s.forget()
	var notSignedIn *oauthclient.NotSignedInError
	if _, err := request(t.Context(), c, s.URL+"/mcp"); !errors.As(err, &notSignedIn) {
		t.Errorf("got %v", err)
	}
	clk.add(2 * time.Minute)
	if status, err := request(t.Context(), c, s.URL+"/mcp"); status != 200 || err != nil {
		t.Errorf("status %d, %v", status, err)
	}
	if b.windows() != 3 || s.count("POST /register") != 2 {
		t.Errorf("%d windows, %d registrations", b.windows(), s.count("POST /register"))
	}
}

func TestClientAuthenticationFollowsTheServer(t *testing.T) {
	tests := map[string]struct {
		supported  any
		registered string // token_endpoint_auth_method of the answer
		secret     string
		asked      string // of the registration
		basic      bool
		post       bool
	}{
		"public":                         {nil, "none", "", "none", false, false},
		"none is offered":                {[]string{"client_secret_basic", "none"}, "none", "", "none", false, false},
		"only basic":                     {[]string{"client_secret_basic"}, "client_secret_basic", "s:e/c r", "client_secret_basic", true, false},
		"only post":                      {[]string{"client_secret_post"}, "client_secret_post", "s:e/c r", "client_secret_post", false, true},
		"a secret without a method":      {nil, "", "secret", "none", true, false},
		"a method without a secret":      {nil, "client_secret_basic", "", "none", false, false},
		"the server decides differently": {nil, "client_secret_post", "secret", "none", false, true},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			if test.supported != nil {
				s.meta["token_endpoint_auth_methods_supported"] = test.supported
			}
			s.on("/register", func(w http.ResponseWriter, r *http.Request) {
				var body map[string]any
				json.NewDecoder(r.Body).Decode(&body)
				s.with(func() {
					s.regs = append(s.regs, body)
					s.clients["a client"] = []string{body["redirect_uris"].([]any)[0].(string)}
				})
				writeJSON(w, 201, map[string]any{"client_id": "a client", "client_secret": test.secret,
					"token_endpoint_auth_method": test.registered, "client_secret_expires_at": 0})
			})
			var form, user, pass string
			var basic bool
			s.on("/token", func(w http.ResponseWriter, r *http.Request) {
				r.ParseForm()
				form = r.PostForm.Get("client_secret")
				user, pass, basic = r.BasicAuth()
				r.PostForm.Set("client_id", "a client")
				s.serve(w, r)
			})
			signedIn(t, s, nil)
			if got := s.regs[0]["token_endpoint_auth_method"]; got != test.asked {
				t.Errorf("registered with %q", got)
			}
			if basic != test.basic || (form != "") != test.post || test.post && form != test.secret {
				t.Errorf("basic %v, secret in the form %q", basic, form)
			}
			if basic && (user != "a+client" || pass != strings.NewReplacer(":", "%3A", "/", "%2F", " ", "+").Replace(test.secret)) {
				t.Errorf("basic %q %q (RFC 6749 section 2.3.1)", user, pass)
			}
		})
	}
}

func TestAClientMetadataDocumentIsUsedWhereSupported(t *testing.T) {
	for _, supported := range []bool{true, false} {
		s := newSite(t)
		const document = "https://client.example/metadata.json"
		s.meta["client_id_metadata_document_supported"] = supported
		s.on("/authorize", func(w http.ResponseWriter, r *http.Request) {
			q := r.URL.Query()
			s.with(func() { s.clients[document] = []string{q.Get("redirect_uri")} })
			s.serve(w, r)
		})
		signedIn(t, s, func(o *oauthclient.Options) { o.ClientMetadataURL = document })
		if got := s.asked[0].Get("client_id"); (got == document) != supported || (s.count("POST /register") == 0) != supported {
			t.Errorf("supported %v: client id %q, %d registrations", supported, got, s.count("POST /register"))
		}
	}
}

func TestARefusedRegistrationIsExplained(t *testing.T) {
	s := newSite(t)
	s.on("/register", func(w http.ResponseWriter, r *http.Request) {
		writeJSON(w, 400, map[string]any{"error": "invalid_redirect_uri", "error_description": "loopback is not allowed"})
	})
	o := options(t, s.URL+"/mcp", t.TempDir())
	o.OpenURL = closed(t)
	_, err := request(t.Context(), newClient(t, o), s.URL+"/mcp")
	if err == nil || !strings.Contains(err.Error(), "loopback is not allowed") {
		t.Errorf("got %v", err)
	}
	s.with(func() { delete(s.meta, "registration_endpoint") })
	_, err = request(t.Context(), newClient(t, o), s.URL+"/mcp")
	if err == nil || !strings.Contains(err.Error(), "client id") {
		t.Errorf("got %v", err)
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
