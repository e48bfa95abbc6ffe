package oauthclient_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mcp-clerk/mcp-clerk/internal/oauthclient"
)

// refreshing is a client that has signed in, with a clock of the test's.
func refreshing(t *testing.T, s *site) (*oauthclient.Client, *clock, *browser, string) {
	t.Helper()
	clk := newClock()
	c, b, dir := signedIn(t, s, func(o *oauthclient.Options) { o.Now = clk.Now })
	return c, clk, b, dir
}

func token(t *testing.T, c *oauthclient.Client) string {
	t.Helper()
	got, err := c.Token(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func TestTokenIsRenewedAMinuteBeforeItExpires(t *testing.T) {
	s := newSite(t)
	c, clk, b, _ := refreshing(t, s)
	first := token(t, c)
	clk.add(3600*time.Second - 62*time.Second)
	if token(t, c) != first {
		t.Error("renewed too early")
	}
	clk.add(4 * time.Second)
	second := token(t, c)
	if second == first || s.count("POST /token") != 2 {
		t.Errorf("not renewed: %d token requests", s.count("POST /token"))
	}
	if form := s.tokens[1]; form.Get("resource") != s.URL+"/mcp" || form.Get("client_id") != "client-1" || form.Has("scope") {
		t.Errorf("refresh request %v", form)
	}
	if b.windows() != 1 {
		t.Errorf("%d windows", b.windows())
	}
}

// Case 44: the machine sleeps for a night; the wall clock says so.
func TestTokenIsRenewedAfterSleep(t *testing.T) {
	s := newSite(t)
	c, clk, b, _ := refreshing(t, s)
	clk.add(8 * time.Hour)
	s.revokeAll()
	if status, err := request(t.Context(), c, s.URL+"/mcp"); status != 200 || err != nil || b.windows() != 1 {
		t.Errorf("status %d, %v, %d windows", status, err, b.windows())
	}
	// And a clock that is set back makes no token older or younger than the
	// server thinks: its refusal decides.
	clk.add(-30 * 24 * time.Hour)
	s.revokeAll()
	if status, err := request(t.Context(), c, s.URL+"/mcp"); status != 200 || err != nil || b.windows() != 1 {
		t.Errorf("clock set back: status %d, %v, %d windows", status, err, b.windows())
	}
}

func TestExpiresInIsNormalised(t *testing.T) {
	tests := map[string]struct {
		value any
		want  time.Duration // 0: not known
	}{
		"number":        {3600, time.Hour},
		"string":        {"3600", time.Hour},
		"float":         {3600.7, time.Hour},
		"float string":  {"3600.5", time.Hour},
		"missing":       {nil, 0},
		"null":          {json.RawMessage("null"), 0},
		"zero":          {0, 0},
		"negative":      {-5, 0},
		"huge":          {json.RawMessage("1e300"), 10 * 365 * 24 * time.Hour},
		"beyond floats": {json.RawMessage("1e999"), 10 * 365 * 24 * time.Hour},
		"words":         {"soon", 0},
		"list":          {[]int{1}, 0},
		"not a number":  {"NaN", 0},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			s.expires = test.value
			clk := newClock()
			c, _, _ := signedIn(t, s, func(o *oauthclient.Options) { o.Now = clk.Now })
			st, err := c.Status(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if test.want == 0 {
				if !st.Expires.IsZero() {
					t.Errorf("expires %v", st.Expires)
				}
				return
			}
			if d := st.Expires.Sub(st.Obtained); d != test.want {
				t.Errorf("lives %v, want %v", d, test.want)
			}
		})
	}
}

// Case 42: what says nothing about the credential deletes nothing.
func TestCredentialSurvivesAnIllAuthorizationServer(t *testing.T) {
	tests := map[string]http.HandlerFunc{
		"500":                     func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(500) },
		"429":                     func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(429) },
		"400 without a code":      func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(400) },
		"401 of a proxy":          func(w http.ResponseWriter, r *http.Request) { http.Error(w, "<html>log in</html>", 401) },
		"200 of a captive portal": func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "<html>welcome</html>") },
		"404":                     http.NotFound,
		"server_error": func(w http.ResponseWriter, r *http.Request) {
			writeJSON(w, 400, map[string]any{"error": "server_error"})
		},
		"invalid_grant with 503": func(w http.ResponseWriter, r *http.Request) {
			writeJSON(w, 503, map[string]any{"error": "temporarily_unavailable"})
		},
		"connection dropped": func(w http.ResponseWriter, r *http.Request) { panic(http.ErrAbortHandler) },
		"no token": func(w http.ResponseWriter, r *http.Request) {
			writeJSON(w, 200, map[string]any{"token_type": "Bearer"})
		},
		"token with a line feed": func(w http.ResponseWriter, r *http.Request) {
			writeJSON(w, 200, map[string]any{"access_token": "a\nX-Evil: 1", "token_type": "Bearer"})
		},
		"another token type": func(w http.ResponseWriter, r *http.Request) {
			writeJSON(w, 200, map[string]any{"access_token": "a", "token_type": "DPoP"})
		},
	}
	for name, ill := range tests {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			c, clk, b, _ := refreshing(t, s)
			first := token(t, c)
			s.on("/token", ill)
			clk.add(3600*time.Second - 30*time.Second)
			if got := token(t, c); got != first {
				t.Errorf("still valid, but got %q", got)
			}
			clk.add(time.Hour)
			if got, err := c.Token(t.Context()); err == nil {
				t.Errorf("expired, but got %q", got)
			}
			s.with(func() { delete(s.routes, "/token"); s.valid = map[string]bool{} })
			clk.add(time.Minute)
			if status, err := request(t.Context(), c, s.URL+"/mcp"); status != 200 || err != nil || b.windows() != 1 {
				t.Errorf("afterwards: status %d, %v, %d windows", status, err, b.windows())
			}
		})
	}
}

func TestAnIllServerIsNotAskedWithEveryRequest(t *testing.T) {
	s := newSite(t)
	c, clk, _, _ := refreshing(t, s)
	s.on("/token", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(500) })
	clk.add(3600*time.Second - 30*time.Second)
	for range 10 {
		token(t, c)
	}
	if n := s.count("POST /token"); n != 2 {
		t.Errorf("%d token requests, want the first and one refresh", n)
	}
}

func TestATokenWithoutRefreshTokenIsUsedToItsEnd(t *testing.T) {
	s := newSite(t)
	s.extra["refresh_token"] = "" // none is issued
	c, clk, b, _ := refreshing(t, s)
	first := token(t, c)
	clk.add(3600*time.Second - 5*time.Second)
	if token(t, c) != first {
		t.Error("given up early")
	}
	clk.add(time.Minute)
	if got := token(t, c); got != "" {
		t.Errorf("expired, but got %q", got)
	}
	s.revokeAll()
	if status, err := request(t.Context(), c, s.URL+"/mcp"); status != 200 || err != nil || b.windows() != 2 {
		t.Errorf("status %d, %v, %d windows", status, err, b.windows())
	}
	if s.count("POST /register") != 1 {
		t.Error("a client that works is registered anew")
	}
}

// RFC 6749 section 6: a server need not rotate.
func TestARefreshTokenIsKeptWhereTheServerDoesNotRotate(t *testing.T) {
	s := newSite(t)
	s.rotate = false
	c, clk, b, _ := refreshing(t, s)
	for range 3 {
		clk.add(time.Hour)
		token(t, c)
	}
	if s.count("POST /token") != 4 || b.windows() != 1 {
		t.Errorf("%d token requests, %d windows", s.count("POST /token"), b.windows())
	}
}

// Case 42: invalid_grant on a freshly read credential ends it, once.
func TestAVoidGrantIsForgottenAndSignedInAnewOnce(t *testing.T) {
	s := newSite(t)
	c, clk, b, _ := refreshing(t, s)
	clk.add(20 * time.Minute)
	s.with(func() { s.valid, s.refresh = map[string]bool{}, map[string]bool{} })
	if status, err := request(t.Context(), c, s.URL+"/mcp"); status != 200 || err != nil {
		t.Errorf("status %d, %v", status, err)
	}
	if b.windows() != 2 || s.count("POST /token") != 3 {
		t.Errorf("%d windows, %d token requests", b.windows(), s.count("POST /token"))
	}
}

// withoutLock is a process that waited in vain for the lock of one that it
// takes for dead, and goes on.
type withoutLock struct{ oauthclient.TokenStore }

func (withoutLock) Lock(context.Context) (func(), error) { return func() {}, nil }

// Decision 11: who was taken for dead and wakes up drops its result, good or
// bad, for that of the process which went on in its place.
func TestALateResultIsDropped(t *testing.T) {
	for _, late := range []string{"invalid_grant", "tokens", "outage"} {
		t.Run(late, func(t *testing.T) {
			s := newSite(t)
			clk := newClock()
			first, b, dir := signedIn(t, s, func(o *oauthclient.Options) { o.Now = clk.Now })
			clk.add(2 * time.Hour)
			o := options(t, s.URL+"/mcp", dir)
			o.Now, o.OpenURL, o.Store = clk.Now, closed(t), withoutLock{o.Store}
			second := newClient(t, o)
			var once atomic.Bool
			var won string
			s.on("/token", func(w http.ResponseWriter, r *http.Request) {
				if !once.CompareAndSwap(false, true) {
					s.serve(w, r)
					return
				}
				// While the first one's request is on its way, the second
				// refreshes.
				won = token(t, second)
				switch late {
				case "invalid_grant":
					writeJSON(w, 400, map[string]any{"error": "invalid_grant"})
				case "tokens":
					writeJSON(w, 200, map[string]any{"access_token": "late", "refresh_token": "late", "token_type": "Bearer", "expires_in": 3600})
				case "outage":
					w.WriteHeader(500)
				}
			})
			got, err := first.Token(t.Context())
			if late == "outage" {
				if err == nil && got != won {
					t.Errorf("token %q", got)
				}
				got, err = first.Token(t.Context())
			}
			if got != won || err != nil || b.windows() != 1 {
				t.Errorf("token %q, %v, %d windows; want %q", got, err, b.windows(), won)
			}
			if got := token(t, newClient(t, o)); got != won {
				t.Errorf("a third process has %q", got)
			}
		})
	}
}

// Case 9: a server that is never content gets no storm of windows.
func TestAServerThatRefusesForEver(t *testing.T) {
	t.Run("401", func(t *testing.T) {
		s := newSite(t)
		s.on("/mcp", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("WWW-Authenticate", s.challenge())
			w.WriteHeader(401)
		})
		dir := t.TempDir()
		b := &browser{}
		for range 3 { // processes
			o := options(t, s.URL+"/mcp", dir)
			o.OpenURL = b.open
			c := newClient(t, o)
			for range 5 {
				request(t.Context(), c, s.URL+"/mcp")
			}
		}
		if b.windows() != 1 || s.count("POST /token") > 3 {
			t.Errorf("%d windows, %d token requests", b.windows(), s.count("POST /token"))
		}
	})
	t.Run("403", func(t *testing.T) {
		s := newSite(t)
		c, b, _ := signedIn(t, s, nil)
		s.on("/mcp", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("WWW-Authenticate", `Bearer error="insufficient_scope", scope="more"`)
			w.WriteHeader(403)
		})
		var err error
		for range 10 {
			_, err = request(t.Context(), c, s.URL+"/mcp")
		}
		if b.windows() != 1+3 || err == nil || !strings.Contains(err.Error(), "3 sign-ins") {
			t.Errorf("%d windows, %v", b.windows(), err)
		}
	})
	t.Run("403 without a challenge", func(t *testing.T) {
		s := newSite(t)
		c, b, _ := signedIn(t, s, nil)
		for _, challenge := range []string{"", "Bearer", `Bearer error="invalid_request", scope="a"`, `Basic realm="x"`} {
			s.on("/mcp", func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("WWW-Authenticate", challenge)
				w.WriteHeader(403)
			})
			if _, err := request(t.Context(), c, s.URL+"/mcp"); err == nil || b.windows() != 1 {
				t.Errorf("%q: %v, %d windows", challenge, err, b.windows())
			}
		}
	})
	t.Run("a user who declines", func(t *testing.T) {
		s := newSite(t)
		s.on("/authorize", func(w http.ResponseWriter, r *http.Request) {
			q := r.URL.Query()
			http.Redirect(w, r, q.Get("redirect_uri")+"?error=access_denied&state="+q.Get("state")+"&iss="+s.URL, 302)
		})
		dir := t.TempDir()
		b := &browser{}
		clk := newClock()
		var last *oauthclient.Client
		for range 3 {
			o := options(t, s.URL+"/mcp", dir)
			o.OpenURL, o.Now = b.open, clk.Now
			last = newClient(t, o)
			for range 3 {
				_, err := request(t.Context(), last, s.URL+"/mcp")
				var notSignedIn *oauthclient.NotSignedInError
				if !errors.As(err, &notSignedIn) {
					t.Errorf("got %v", err)
				}
			}
		}
		if b.windows() != 1 {
			t.Errorf("%d windows", b.windows())
		}
		// Asked for, a window opens at once; by itself, after a while.
		if last.SignIn(t.Context()) == nil || b.windows() != 2 {
			t.Errorf("SignIn: %d windows", b.windows())
		}
		clk.add(2 * time.Minute)
		request(t.Context(), last, s.URL+"/mcp")
		if b.windows() != 3 {
			t.Errorf("two minutes later: %d windows", b.windows())
		}
	})
}

// Step-Up Authorization Flow: the union of what was asked for and what is
// asked for now.
func TestStepUpAsksForTheUnion(t *testing.T) {
	for _, status := range []int{403, 401} {
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			s := newSite(t)
			s.scope = "a"
			c, b, _ := signedIn(t, s, nil)
			s.on("/mcp", func(w http.ResponseWriter, r *http.Request) {
				s.mu.Lock()
				enough := len(s.asked) > 1 && s.valid[strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")]
				s.mu.Unlock()
				if !enough {
					w.Header().Set("WWW-Authenticate", `Bearer error="insufficient_scope", scope="b"`)
					w.WriteHeader(status)
				}
			})
			if got, err := request(t.Context(), c, s.URL+"/mcp"); got != 200 || err != nil {
				t.Errorf("status %d, %v", got, err)
			}
			if got := s.asked[len(s.asked)-1].Get("scope"); got != "a b" || b.windows() != 2 {
				t.Errorf("asked for %q in %d windows", got, b.windows())
			}
			if s.count("POST /register") != 1 {
				t.Error("registered anew for a step-up")
			}
		})
	}
}

// The endpoint of the same issuer may move.
func TestAMovedTokenEndpointIsFound(t *testing.T) {
	s := newSite(t)
	c, clk, b, _ := refreshing(t, s)
	s.on("/token", http.NotFound)
	s.on("/token/v2", func(w http.ResponseWriter, r *http.Request) {
		r.URL.Path = "/token"
		s.serve(w, r)
	})
	s.with(func() { s.meta["token_endpoint"] = s.URL + "/token/v2" })
	clk.add(2 * time.Hour)
	if got := token(t, c); got == "" || b.windows() != 1 {
		t.Errorf("token %q, %d windows", got, b.windows())
	}
}

func TestSecretsStayOutOfErrorsAndStatus(t *testing.T) {
	s := newSite(t)
	c, clk, _, _ := refreshing(t, s)
	access := token(t, c)
	refresh := strings.Replace(access, "access", "refresh", 1)
	s.on("/token", func(w http.ResponseWriter, r *http.Request) { panic(http.ErrAbortHandler) })
	clk.add(2 * time.Hour)
	_, err := c.Token(t.Context())
	st, statusErr := c.Status(t.Context())
	if statusErr != nil {
		t.Fatal(statusErr)
	}
	for _, text := range []string{fmt.Sprint(err), fmt.Sprintf("%+v", st), fmt.Sprintf("%#v", st)} {
		if strings.Contains(text, access) || strings.Contains(text, refresh) {
			t.Errorf("a secret in %q", text)
		}
	}
}

// fullDisk is a store that can be read and, while full, not be written.
type fullDisk struct {
	oauthclient.TokenStore
	full *atomic.Bool
}

func (f fullDisk) Save(ctx context.Context, data []byte, generation uint64) (uint64, bool, error) {
	if f.full.Load() {
		return 0, false, errors.New("no space left on device")
	}
	return f.TokenStore.Save(ctx, data, generation)
}

// What could not be stored is used and renewed by the process that holds it;
// the stored refresh token is spent, and this server takes none twice.
func TestAFullDiskCostsNoSignIn(t *testing.T) {
	s := newSite(t)
	clk := newClock()
	var full atomic.Bool
	filled := func(o *oauthclient.Options) {
		o.Now, o.Store, o.Pending = clk.Now, fullDisk{o.Store, &full}, fullDisk{o.Pending, &full}
	}
	works := func(t *testing.T, c *oauthclient.Client) {
		t.Helper()
		for range 3 {
			clk.add(2 * time.Hour)
			if status, err := request(t.Context(), c, s.URL+"/mcp"); status != http.StatusOK || err != nil {
				t.Errorf("status %d, %v", status, err)
			}
		}
		full.Store(false) // there is room again
		clk.add(2 * time.Hour)
		token(t, c)
	}
	next := func(t *testing.T, dir string) {
		t.Helper()
		o := options(t, s.URL+"/mcp", dir)
		o.Now, o.OpenURL = clk.Now, closed(t)
		if status, err := request(t.Context(), newClient(t, o), s.URL+"/mcp"); status != http.StatusOK || err != nil {
			t.Errorf("the next process: status %d, %v", status, err)
		}
	}
	t.Run("at a refresh", func(t *testing.T) {
		c, b, dir := signedIn(t, s, filled)
		full.Store(true)
		works(t, c)
		if b.windows() != 1 {
			t.Errorf("%d windows", b.windows())
		}
		next(t, dir)
	})
	t.Run("at the sign-in", func(t *testing.T) {
		full.Store(true)
		c, b, dir := signedIn(t, s, filled)
		works(t, c)
		if b.windows() != 1 {
			t.Errorf("%d windows", b.windows())
		}
		next(t, dir)
	})
	t.Run("another process signs in meanwhile", func(t *testing.T) {
		full.Store(false)
		c, _, dir := signedIn(t, s, filled)
		full.Store(true)
		clk.add(2 * time.Hour)
		held := token(t, c)
		o := options(t, s.URL+"/mcp", dir)
		b := &browser{}
		o.Now, o.OpenURL = clk.Now, b.open
		other := newClient(t, o)
		if err := other.SignIn(t.Context()); err != nil {
			t.Fatal(err)
		}
		b.busy.Wait()
		want := token(t, other)
		s.with(func() { delete(s.valid, held) })
		if status, err := request(t.Context(), c, s.URL+"/mcp"); status != http.StatusOK || err != nil {
			t.Errorf("status %d, %v", status, err)
		}
		if got := token(t, c); got != want {
			t.Errorf("goes on with %q, want the other's %q", got, want)
		}
	})
}
