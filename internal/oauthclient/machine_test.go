package oauthclient_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/mcp-clerk/mcp-clerk/internal/oauthclient"
)

// Machines, which nobody signs in: client_credentials, by a secret or a key.

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
