package oauthclient_test

import (
	"strings"
	"testing"
	"time"

	"github.com/mcp-clerk/mcp-clerk/internal/oauthclient"
)

// held is a sign-in at s that another program has made.
func held(s *site) oauthclient.Imported {
	s.with(func() {
		s.clients["theirs"] = []string{"http://localhost:3334/oauth/callback"}
		s.valid["their-access"], s.refresh["their-refresh"] = true, true
	})
	return oauthclient.Imported{
		ClientID: "theirs", RedirectURI: "http://localhost:3334/oauth/callback",
		AccessToken: "their-access", RefreshToken: "their-refresh", Granted: []string{"a"}, Requested: []string{"a"},
		Obtained: time.Now().Add(-30 * time.Minute), Expires: time.Now().Add(30 * time.Minute),
	}
}

// What another program holds is used as if it had been made here: no window,
// no registration, and a refresh when it is due.
func TestImport(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*site, *oauthclient.Imported)
		valid  bool
		token  string // the beginning of it
	}{
		"valid":           {func(*site, *oauthclient.Imported) {}, true, "their-access"},
		"expired":         {func(_ *site, in *oauthclient.Imported) { in.Expires = time.Now().Add(-time.Hour) }, true, "access-"},
		"refused":         {func(s *site, _ *oauthclient.Imported) { s.revokeAll() }, true, "access-"},
		"void":            {func(s *site, _ *oauthclient.Imported) { s.forget() }, false, ""},
		"a refresh alone": {func(_ *site, in *oauthclient.Imported) { in.AccessToken = "" }, true, "access-"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			in := held(s)
			tc.change(s, &in)
			o := options(t, s.URL+"/mcp", t.TempDir())
			o.OpenURL = closed(t)
			c := newClient(t, o)
			if err := c.Import(t.Context(), in); err != nil {
				t.Fatal(err)
			}
			if valid, err := c.Verify(t.Context()); valid != tc.valid || err != nil {
				t.Errorf("valid: %v, %v", valid, err)
			}
			token, err := newClient(t, o).Token(t.Context()) // another process
			if err != nil || !strings.HasPrefix(token, tc.token) || (token == "") != (tc.token == "") {
				t.Errorf("token %q, %v", token, err)
			}
			if n := s.count("POST /register"); n != 0 {
				t.Errorf("%d registrations", n)
			}
		})
	}
}

func TestImportIsRefused(t *testing.T) {
	s := newSite(t)
	in := held(s)
	t.Run("of another authorization server", func(t *testing.T) {
		in := in
		in.Issuer = "https://evil.example"
		c := newClient(t, options(t, s.URL+"/mcp", t.TempDir()))
		if err := c.Import(t.Context(), in); err == nil || !strings.Contains(err.Error(), "another one now") {
			t.Error(err)
		}
		if token, err := c.Token(t.Context()); token != "" || err != nil {
			t.Errorf("token %q, %v", token, err)
		}
	})
	t.Run("where somebody is signed in", func(t *testing.T) {
		c, _, _ := signedIn(t, s, nil)
		before, err := c.Token(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Import(t.Context(), in); err == nil || !strings.Contains(err.Error(), "already signed in") {
			t.Error(err)
		}
		if after, err := c.Token(t.Context()); after != before || err != nil {
			t.Errorf("token %q, %v", after, err)
		}
	})
	t.Run("without tokens", func(t *testing.T) {
		in := in
		in.AccessToken, in.RefreshToken = "", ""
		if err := newClient(t, options(t, s.URL+"/mcp", t.TempDir())).Import(t.Context(), in); err == nil {
			t.Error("nothing was imported")
		}
	})
	t.Run("with a token that splits a header", func(t *testing.T) {
		in := in
		in.AccessToken = "a\r\nX: y"
		if err := newClient(t, options(t, s.URL+"/mcp", t.TempDir())).Import(t.Context(), in); err == nil {
			t.Error("it was imported")
		}
	})
	if n := s.count("POST /token"); n > 1 {
		t.Errorf("%d token requests, want the sign-in's", n)
	}
}
