package authserver

import (
	"context"
	"testing"
	"time"

	"github.com/mcp-clerk/mcp-clerk/internal/identity"
	"github.com/mcp-clerk/mcp-clerk/internal/secret"
	"github.com/mcp-clerk/mcp-clerk/internal/store"
)

type noSignIn struct{}

func (noSignIn) Begin(context.Context, string, string, string, string) (string, error) {
	return "", identity.ErrUnavailable
}

func (noSignIn) Complete(context.Context, string, string, string) (identity.User, error) {
	return identity.User{}, identity.ErrUnavailable
}

// The consent page is skipped for a proven domain only, for the very redirect
// that was approved, and for no more scopes; never for a program on the user's
// machine (MCP 2026-07-28, localhost redirect URI risks).
func TestConsentIsRememberedForProvenDomainsOnly(t *testing.T) {
	now := time.Now
	st := store.NewMemory(store.Options{Now: now})
	defer st.Close()
	s, err := New(Options{PublicURL: "https://mcp.example", Store: st, SignIn: noSignIn{}, Now: now, Scopes: []Scope{{Name: "images:make"}},
		Keys: []secret.String{"8f1d0c2b7a69584e3d5c6b7a8990a1b2c3d4e5f60718293a4b5c6d7e8f90a1b3"}})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	const web, loop = "https://app.example/cb", "http://localhost:3000/cb"
	for _, redirect := range []string{web, loop} {
		id := "client of " + redirect
		if err := s.saveConsent(t.Context(), "user_ada", &client{ID: id, RedirectURIs: []string{redirect}}, &authRequest{Client: id, Redirect: redirect, Scopes: []string{ScopeTools}}); err != nil {
			t.Fatal(err)
		}
	}
	for name, tc := range map[string]struct {
		subject, client, redirect string
		verified                  bool
		scopes                    []string
		want                      bool
		redirects                 []string // of the client now, if they changed
	}{
		"as approved":                    {"user_ada", web, web, true, []string{ScopeTools}, true, nil},
		"unverified":                     {"user_ada", web, web, false, []string{ScopeTools}, false, nil},
		"another user":                   {"user_bob", web, web, true, []string{ScopeTools}, false, nil},
		"another client":                 {"user_ada", "other", web, true, []string{ScopeTools}, false, nil},
		"another redirect":               {"user_ada", web, "https://app.example/other", true, []string{ScopeTools}, false, nil},
		"more scopes":                    {"user_ada", web, web, true, []string{ScopeTools, "images:make"}, false, nil},
		"loopback":                       {"user_ada", loop, loop, true, []string{ScopeTools}, false, nil},
		"loopback, any port":             {"user_ada", loop, "http://localhost/cb", true, []string{ScopeTools}, false, nil},
		"the client's redirects changed": {"user_ada", web, web, true, []string{ScopeTools}, false, []string{web, "https://evil.example/cb"}},
	} {
		c := &client{ID: "client of " + tc.client, RedirectURIs: []string{tc.client}, verified: tc.verified}
		if tc.redirects != nil {
			c.RedirectURIs = tc.redirects
		}
		got := s.remembered(t.Context(), tc.subject, c, &authRequest{Client: c.ID, Redirect: tc.redirect, Scopes: tc.scopes})
		if got != tc.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
