package authserver_test

import (
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/mcp-clerk/mcp-clerk/internal/authserver"
)

// RFC 9700 section 4.14.2 with a grace: the answer got lost, or several
// processes share the token.
func TestSupersededTokenGetsTheSameSuccessorWithinTheGrace(t *testing.T) {
	e := newEnv(t)
	c := e.register("Web", webRedirect)
	first := e.signIn(c).refresh
	second := e.tokens(e.refresh(c, first)).refresh
	e.clock.advance(29 * time.Minute)
	for range 3 {
		tk := e.tokens(e.refresh(c, first))
		if tk.refresh != second || !e.valid(tk.access) {
			t.Fatal("not the same successor")
		}
	}
	third := e.tokens(e.refresh(c, second)).refresh
	e.clock.advance(time.Minute)
	if tk := e.tokens(e.refresh(c, first)); tk.refresh != third { // two steps back, superseded 30 minutes ago
		t.Error("an ancestor did not get the current token")
	}
	if tk := e.tokens(e.refresh(c, second)); tk.refresh != third {
		t.Error("an ancestor did not get the current token")
	}
}

func TestSupersededTokenOutsideTheGraceEndsTheFamily(t *testing.T) {
	e := newEnv(t)
	c := e.register("Web", webRedirect)
	first := e.signIn(c)
	second := e.tokens(e.refresh(c, first.refresh))
	third := e.tokens(e.refresh(c, second.refresh))
	e.clock.advance(30*time.Minute + time.Second)
	if !e.valid(third.access) {
		t.Fatal("access token refused before its time")
	}
	expectError(t, e.refresh(c, first.refresh), 400, "invalid_grant")
	for _, tk := range []tokens{first, second, third} {
		if e.valid(tk.access) {
			t.Error("an access token of the family is still good")
		}
		expectError(t, e.refresh(c, tk.refresh), 400, "invalid_grant")
	}
	if !e.events.has("grant.revoked", "superseded refresh token reused") {
		t.Error("the reuse is not audited")
	}
}

// The laptop slept, the process was killed: the client never saw the successor.
func TestLostAnswerIsRepeatedForADay(t *testing.T) {
	e := newEnv(t)
	c := e.register("Web", webRedirect)
	first := e.signIn(c).refresh
	second := e.tokens(e.refresh(c, first)).refresh
	e.clock.advance(24 * time.Hour)
	if e.tokens(e.refresh(c, first)).refresh != second {
		t.Fatal("not the same successor")
	}
	third := e.tokens(e.refresh(c, second)).refresh
	e.clock.advance(24*time.Hour + time.Second)
	expectError(t, e.refresh(c, second), 400, "invalid_grant")
	expectError(t, e.refresh(c, third), 400, "invalid_grant")
}

func TestFiftyParallelRefreshesShareOneSuccessor(t *testing.T) {
	e := newEnv(t)
	c := e.register("Web", webRedirect)
	first := e.signIn(c).refresh
	var wg sync.WaitGroup
	results := make(chan tokens, 50)
	for range 50 {
		wg.Go(func() { results <- e.tokens(e.refresh(c, first)) })
	}
	wg.Wait()
	close(results)
	seen := map[string]bool{}
	for tk := range results {
		seen[tk.refresh] = true
		if !e.valid(tk.access) {
			t.Error("access token refused")
		}
	}
	if len(seen) != 1 || seen[first] {
		t.Errorf("%d successors", len(seen))
	}
}

// Several processes that share a stored token and never write it back.
func TestProcessesSharingAStaleTokenNeverSignInAgain(t *testing.T) {
	e := newEnv(t)
	c := e.register("Web", webRedirect)
	stale := e.signIn(c).refresh
	held := []string{stale, stale, stale, stale, stale}
	for minute := range 25 {
		for i := range held {
			present := held[i]
			if i > 0 && minute%3 != i%3 {
				present = stale // starts anew from what is stored
			}
			held[i] = e.tokens(e.refresh(c, present)).refresh
		}
		e.clock.advance(time.Minute)
	}
}

// More rotations in the grace than the chain is long: nobody falls off its end.
func TestQuickRefreshesDoNotPushOutAnAncestor(t *testing.T) {
	e := newEnv(t)
	c := e.register("Web", webRedirect)
	first := e.signIn(c).refresh
	current := first
	seen := map[string]bool{first: true}
	for range 40 {
		current = e.tokens(e.refresh(c, current)).refresh
		seen[current] = true
	}
	if len(seen) != 17 { // the first one and 16 links; then it stays for a while
		t.Errorf("%d tokens within the grace", len(seen))
	}
	if e.tokens(e.refresh(c, first)).refresh != current {
		t.Error("the first token did not get the current one")
	}
	e.clock.advance(31 * time.Minute)
	if next := e.tokens(e.refresh(c, current)).refresh; next == current {
		t.Error("rotation did not go on after the grace")
	}
	expectError(t, e.refresh(c, first), 400, "invalid_grant")
}

// A full chain answers with the current token instead of rotating it. That is a
// use of it: its answer has arrived, so its ancestor has the grace and no day.
func TestAnAncestorOfATokenThatWasUsedHasOnlyTheGrace(t *testing.T) {
	e := newEnv(t)
	c := e.register("Web", webRedirect)
	current, ancestor := e.signIn(c).refresh, ""
	for range 17 {
		if next := e.tokens(e.refresh(c, current)).refresh; next != current {
			current, ancestor = next, current
		}
	}
	e.clock.advance(31 * time.Minute)
	expectError(t, e.refresh(c, ancestor), 400, "invalid_grant")
	expectError(t, e.refresh(c, current), 400, "invalid_grant") // with its family
}

// Refused before any state changes.
func TestRefreshByTheWrongHandsChangesNothing(t *testing.T) {
	e := newEnv(t, func(o *authserver.Options) {
		o.Scopes = []authserver.Scope{{Name: "images:make", Description: "Make images"}}
	})
	c, other := e.register("Web", webRedirect), e.register("Other", "https://other.example/cb")
	stranger := e.signIn(other)
	first := e.signIn(c).refresh
	second := e.tokens(e.refresh(c, first)).refresh
	try := func() {
		t.Helper()
		for _, token := range []string{first, second} {
			expectError(t, e.refresh(other, token), 400, "invalid_grant")
			expectError(t, e.refresh(c, token, "resource", "https://other.example/mcp"), 400, "invalid_target")
			expectError(t, e.refresh(c, token, "scope", "mcp:tools images:make"), 400, "invalid_scope")
			expectError(t, e.refresh(c, flipByte(token, len(token)-2)), 400, "invalid_grant")
			expectError(t, e.refresh(c, token+"A"), 400, "invalid_grant")
		}
		for _, token := range []string{"x", "mcpc_rt_", "mcpc_rt_AAAAAAAAAA", stranger.access, stranger.refresh} {
			expectError(t, e.refresh(c, token), 400, "invalid_grant")
		}
	}
	try()
	if e.tokens(e.refresh(c, first)).refresh != second {
		t.Error("state changed")
	}
	e.clock.advance(time.Hour) // first is outside the grace now, but only its client may say so
	expectError(t, e.refresh(other, first), 400, "invalid_grant")
	e.tokens(e.refresh(c, second))
}

// RFC 6749 section 6.
func TestRefreshNarrowsTheAccessTokenOnly(t *testing.T) {
	e := newEnv(t, func(o *authserver.Options) {
		o.Scopes = []authserver.Scope{{Name: "images:make", Description: "Make images"}}
	})
	c := e.register("Web", webRedirect)
	tk := e.signIn(c, "scope", "mcp:tools images:make offline_access")
	narrow := e.tokens(e.refresh(c, tk.refresh, "scope", " mcp:tools unknown"))
	p, err := e.srv.Verify(t.Context(), narrow.access)
	if err != nil || !slices.Equal(p.Scopes, []string{"mcp:tools"}) || narrow.scope != "mcp:tools" {
		t.Errorf("narrowed to %+v, %v", p, err)
	}
	if again := e.tokens(e.refresh(c, narrow.refresh)); again.scope != "mcp:tools images:make offline_access" {
		t.Errorf("the grant was narrowed to %q", again.scope)
	}
}

func TestRefreshTokensEndIdleAndAbsolutely(t *testing.T) {
	e := newEnv(t)
	c := e.register("Web", webRedirect)
	idle := e.signIn(c).refresh
	e.clock.advance(30 * 24 * time.Hour)
	expectError(t, e.refresh(c, idle), 400, "invalid_grant")

	daily := e.signIn(c).refresh
	var last tokens
	for range 179 {
		e.clock.advance(24 * time.Hour)
		last = e.tokens(e.refresh(c, daily))
		daily = last.refresh
	}
	e.clock.advance(24*time.Hour - 10*time.Minute)
	a := e.refresh(c, daily)
	if left := a.json(t)["expires_in"].(float64); left != 600 {
		t.Errorf("the access token outlives its grant: %v s", left)
	}
	e.clock.advance(10 * time.Minute)
	expectError(t, e.refresh(c, e.tokens(a).refresh), 400, "invalid_grant")
}

func TestUsersWhoAreGoneCannotRefresh(t *testing.T) {
	e := newEnv(t)
	c := e.register("Web", webRedirect)
	ada := e.provider.user
	tk := e.signIn(c)
	e.provider.dirDown = true
	tk = e.tokens(e.refresh(c, tk.refresh)) // nobody to ask ends nothing
	e.provider.dirDown = false
	locked := ada
	locked.Locked = true
	e.provider.directory[ada.ID] = locked
	expectError(t, e.refresh(c, tk.refresh), 400, "invalid_grant")
	e.provider.directory[ada.ID] = ada
	tk = e.tokens(e.refresh(c, tk.refresh)) // a lock passes
	banned := ada
	banned.Banned = true
	e.provider.directory[ada.ID] = banned
	expectError(t, e.refresh(c, tk.refresh), 400, "invalid_grant")
	if e.valid(tk.access) {
		t.Error("a banned user's access token is still good after the refresh was refused")
	}
}

// The life of one family, in any order of refreshes, losses and late copies
// within the grace: there is one current token, whoever holds a token of the
// family can get it, and nothing else comes out (RFC 9700 section 4.14.2).
func TestRotationNeverForksAndNeverLoses(t *testing.T) {
	e := newEnv(t)
	c := e.register("Web", webRedirect)
	rapid.Check(t, func(rt *rapid.T) {
		e.t = t
		type held struct {
			token string
			since time.Time // superseded; zero: current
		}
		now := e.clock.Now
		family := []held{{token: e.signIn(c).refresh}}
		current := func() *held { return &family[len(family)-1] }
		copies := []int{0, 0, 0} // which token each process has stored
		rt.Repeat(map[string]func(*rapid.T){
			"wait": func(rt *rapid.T) {
				d := time.Duration(rapid.IntRange(1, 9*60).Draw(rt, "seconds")) * time.Second
				e.clock.advance(d)
				for i := range copies { // nobody sits on a copy for longer than the grace
					if h := family[copies[i]]; !h.since.IsZero() && now().Sub(h.since) > 30*time.Minute {
						copies[i] = len(family) - 1
					}
				}
			},
			"refresh": func(rt *rapid.T) {
				i := rapid.IntRange(0, len(copies)-1).Draw(rt, "process")
				lost := rapid.Bool().Draw(rt, "answer lost")
				presented := copies[i]
				a := e.refresh(c, family[presented].token)
				if a.status != 200 {
					rt.Fatalf("token %d of %d refused: %s", presented, len(family), a.body)
				}
				tk := e.tokens(a)
				if !e.valid(tk.access) {
					rt.Fatal("access token refused")
				}
				switch {
				case tk.refresh == current().token:
				case presented == len(family)-1:
					current().since = now()
					family = append(family, held{token: tk.refresh})
				default:
					rt.Fatalf("token %d of %d led to a second family", presented, len(family))
				}
				if !lost {
					copies[i] = len(family) - 1
				}
			},
		})
	})
}

// Whatever the store answers at a commit, the client goes on with the old or
// the new token.
func TestStoreFailuresAtRotationLoseNobody(t *testing.T) {
	e := newEnv(t)
	c := e.register("Web", webRedirect)
	broken := &brokenStore{Store: e.store}
	token := e.signIn(c).refresh
	e.start(func(o *authserver.Options) { o.Store = broken })
	for i := range 12 {
		broken.set(func() { broken.failUpdate, broken.applyFirst = true, i%2 == 0 })
		a := e.refresh(c, token)
		if a.status != 503 || a.header.Get("Retry-After") == "" || a.oauthError(t) != "temporarily_unavailable" {
			t.Fatalf("answer %d %s", a.status, a.body)
		}
		broken.set(func() { broken.failUpdate = false })
		token = e.tokens(e.refresh(c, token)).refresh
	}
	broken.set(func() { broken.failGet = true })
	if a := e.refresh(c, token); a.status != 503 {
		t.Errorf("answer %d %s", a.status, a.body)
	}
}

// A token of the family that the store has lost is refused without harm.
func TestTokensFromAfterARestoredBackupRevokeNothing(t *testing.T) {
	e := newEnv(t)
	c := e.register("Web", webRedirect)
	first := e.signIn(c).refresh
	list, err := e.store.List(t.Context(), "grant/", "", 1)
	if err != nil || len(list) != 1 {
		t.Fatal(list, err)
	}
	lost := e.tokens(e.refresh(c, e.tokens(e.refresh(c, first)).refresh)).refresh
	if err := e.store.Delete(t.Context(), list[0].Key); err != nil {
		t.Fatal(err)
	}
	if err := e.store.Create(t.Context(), list[0]); err != nil {
		t.Fatal(err)
	}
	expectError(t, e.refresh(c, lost), 400, "invalid_grant")
	e.tokens(e.refresh(c, first))
}

var errBroken = errors.New("disk on fire")
