package authserver_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mcp-clerk/mcp-clerk/internal/authserver"
	"github.com/mcp-clerk/mcp-clerk/internal/identity"
	"github.com/mcp-clerk/mcp-clerk/internal/secret"
	"github.com/mcp-clerk/mcp-clerk/internal/store"
)

// brokenStore fails when told to.
type brokenStore struct {
	store.Store
	mu                           sync.Mutex
	failGet, failUpdate, failAll bool
	applyFirst                   bool // the failing update happened all the same
	gets                         int
}

func (b *brokenStore) set(f func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	f()
}

func (b *brokenStore) Get(ctx context.Context, key string) (store.Record, error) {
	b.mu.Lock()
	fail := b.failGet || b.failAll
	b.gets++
	b.mu.Unlock()
	if fail {
		return store.Record{}, errBroken
	}
	return b.Store.Get(ctx, key)
}

func (b *brokenStore) Update(ctx context.Context, key string, f store.UpdateFunc) (store.Record, error) {
	b.mu.Lock()
	fail, apply := b.failUpdate || b.failAll, b.applyFirst
	b.mu.Unlock()
	if fail && apply {
		if _, err := b.Store.Update(ctx, key, f); err != nil {
			return store.Record{}, err
		}
	}
	if fail {
		return store.Record{}, errBroken
	}
	return b.Store.Update(ctx, key, f)
}

func (b *brokenStore) Create(ctx context.Context, r store.Record) error {
	if b.failing() {
		return errBroken
	}
	return b.Store.Create(ctx, r)
}

func (b *brokenStore) Take(ctx context.Context, key string) (store.Record, error) {
	if b.failing() {
		return store.Record{}, errBroken
	}
	return b.Store.Take(ctx, key)
}

func (b *brokenStore) failing() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.failAll
}

func (b *brokenStore) count() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.gets
}

// RFC 6750 section 3.1, RFC 8707 section 2: only tokens of this server, for
// this resource, in time.
func TestForeignTokensAreInvalid(t *testing.T) {
	e := newEnv(t)
	c := e.register("Web", webRedirect)
	code := e.code(c)
	tk := e.tokens(e.redeem(c, code))
	elsewhere := newEnv(t, func(o *authserver.Options) { o.PublicURL = "https://other.example" }) // same keys, another resource
	foreign := elsewhere.signIn(elsewhere.register("Web", webRedirect))
	otherKeys := newEnv(t, func(o *authserver.Options) { o.Keys = []secret.String{otherKey} })
	sealed := otherKeys.signIn(otherKeys.register("Web", webRedirect))
	for name, token := range map[string]string{
		"empty": "", "random": "x", "prefix only": "mcpc_at_", "jwt": "eyJhbGciOiJub25lIn0.eyJzdWIiOiJ1c2VyX2FkYSJ9.", "opaque": "oat_2abc",
		"refresh token": tk.refresh, "code": code, "another resource": foreign.access, "another key": sealed.access,
		"1 MB": "mcpc_at_" + strings.Repeat("A", 1<<20), "not ASCII": "mcpc_at_ä", "cut": tk.access[:len(tk.access)-1], "longer": tk.access + "A", "flipped": flipByte(tk.access, 40),
		"as another kind": "mcpc_rt_" + tk.access[len("mcpc_at_"):],
	} {
		if _, err := e.srv.Verify(t.Context(), token); !errors.Is(err, identity.ErrInvalidToken) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if !e.valid(tk.access) {
		t.Error("the good one is refused")
	}
	e.clock.advance(time.Hour)
	if e.valid(tk.access) {
		t.Error("good for longer than its hour")
	}
}

// RFC 8707 section 2: one store and one key may serve two resources.
func TestTokensCountAtTheirOwnResourceOnly(t *testing.T) {
	e := newEnv(t)
	here := e.srv
	tk := e.signIn(e.register("Web", webRedirect))
	e.start(func(o *authserver.Options) { o.PublicURL = "https://other.example" })
	if _, err := e.srv.Verify(t.Context(), tk.access); !errors.Is(err, identity.ErrInvalidToken) {
		t.Errorf("the other resource says %v", err)
	}
	if _, err := here.Verify(t.Context(), tk.access); err != nil {
		t.Error(err)
	}
}

func flipByte(s string, i int) string {
	c := byte('A')
	if s[i] == c {
		c = 'B'
	}
	return s[:i] + string(c) + s[i+1:]
}

// Two instances, one store: a revocation counts everywhere within a second.
func TestRevocationIsNoticedOnEveryInstanceWithinASecond(t *testing.T) {
	e := newEnv(t)
	c := e.register("Web", webRedirect)
	tk := e.signIn(c)
	deaf := &deafStore{brokenStore{Store: e.store}} // never hears what is published
	one := e.srv
	e.start(func(o *authserver.Options) { o.Store = deaf })
	other := e.srv
	if _, err := other.Verify(t.Context(), tk.access); err != nil {
		t.Fatal(err)
	}
	e.srv = one
	if a := e.post("/revoke", c.form("token", tk.refresh)); a.status != 200 {
		t.Fatalf("%d %s", a.status, a.body)
	}
	e.clock.advance(time.Second)
	if _, err := other.Verify(t.Context(), tk.access); !errors.Is(err, identity.ErrInvalidToken) {
		t.Errorf("another instance says %v", err)
	}
}

type deafStore struct{ brokenStore }

func (d *deafStore) Subscribe(string, func([]byte)) (func(), error) { return func() {}, nil }

func TestVerifyingReadsTheStoreSeldom(t *testing.T) {
	e := newEnv(t)
	broken := &brokenStore{Store: e.store}
	e.start(func(o *authserver.Options) { o.Store = broken })
	tk := e.signIn(e.register("Web", webRedirect))
	before := broken.count()
	for range 80 {
		if !e.valid(tk.access) {
			t.Fatal("refused")
		}
		e.clock.advance(100 * time.Millisecond)
	}
	if reads := broken.count() - before; reads > 10 {
		t.Errorf("%d reads in 8 seconds", reads)
	}
}

func TestLastStateHoldsFiveSecondsWithoutAStore(t *testing.T) {
	e := newEnv(t)
	broken := &brokenStore{Store: e.store}
	e.start(func(o *authserver.Options) { o.Store = broken })
	c := e.register("Web", webRedirect)
	tk, unseen := e.signIn(c), e.signIn(c)
	if !e.valid(tk.access) {
		t.Fatal("refused")
	}
	broken.set(func() { broken.failGet = true })
	for range 5 {
		e.clock.advance(time.Second)
		if !e.valid(tk.access) {
			t.Fatal("refused within 5 seconds")
		}
	}
	e.clock.advance(time.Second)
	for name, token := range map[string]string{"known": tk.access, "never seen": unseen.access} {
		if _, err := e.srv.Verify(t.Context(), token); !errors.Is(err, identity.ErrUnavailable) || errors.Is(err, identity.ErrInvalidToken) {
			t.Errorf("%s: %v", name, err)
		}
	}
	broken.set(func() { broken.failGet = false })
	e.clock.advance(time.Second)
	if !e.valid(tk.access) || !e.valid(unseen.access) {
		t.Error("not recovered")
	}
}

func TestParallelChecksShareOneRead(t *testing.T) {
	e := newEnv(t)
	slow := &slowStore{brokenStore: brokenStore{Store: e.store}, gate: make(chan struct{})}
	e.start(func(o *authserver.Options) { o.Store = slow })
	tk := e.signIn(e.register("Web", webRedirect))
	slow.set(func() { slow.hold = true })
	before := slow.count()
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if _, err := e.srv.Verify(context.Background(), tk.access); err != nil {
				t.Error(err)
			}
		})
	}
	gone, cancel := context.WithCancel(context.Background())
	cancel()
	for slow.count() == before { // until one of them reads
		time.Sleep(time.Millisecond)
	}
	if _, err := e.srv.Verify(gone, tk.access); !errors.Is(err, identity.ErrUnavailable) {
		t.Errorf("a caller that has left waits: %v", err)
	}
	close(slow.gate)
	wg.Wait()
	if reads := slow.count() - before; reads != 1 {
		t.Errorf("%d reads", reads)
	}
}

type slowStore struct {
	brokenStore
	gate chan struct{}
	hold bool
}

func (s *slowStore) Get(ctx context.Context, key string) (store.Record, error) {
	rec, err := s.brokenStore.Get(ctx, key)
	s.mu.Lock()
	hold := s.hold
	s.mu.Unlock()
	if hold {
		<-s.gate
	}
	return rec, err
}

// RFC 7009.
func TestRevocation(t *testing.T) {
	e := newEnv(t)
	c, other := e.register("Web", webRedirect), e.register("Other", "https://other.example/cb")
	confidential := e.registerAs("client_secret_basic", "Confidential", webRedirect)
	revoke := func(c testClient, token string) answer {
		t.Helper()
		a := e.post("/revoke", c.form("token", token, "token_type_hint", "whatever"))
		if a.status != 200 || len(a.body) != 0 || a.header.Get("Cache-Control") != "no-store" {
			t.Errorf("%d %s", a.status, a.body)
		}
		return a
	}
	tk := e.signIn(c)
	revoke(other, tk.refresh) // of another client: no effect
	revoke(other, tk.access)
	for _, unknown := range []string{"x", "mcpc_rt_x", "mcpc_at_x", flipByte(tk.refresh, 30), flipByte(tk.access, 30)} {
		revoke(c, unknown)
	}
	if !e.valid(tk.access) {
		t.Fatal("a stranger has revoked")
	}
	next := e.tokens(e.refresh(c, tk.refresh))
	revoke(c, tk.refresh) // an old copy ends the family as well
	if e.valid(tk.access) || e.valid(next.access) {
		t.Error("access tokens outlive the refresh token")
	}
	expectError(t, e.refresh(c, next.refresh), 400, "invalid_grant")
	revoke(c, next.refresh) // again

	tk = e.signIn(c)
	revoke(c, tk.access)
	if e.valid(tk.access) {
		t.Error("a revoked access token is good")
	}
	next = e.tokens(e.refresh(c, tk.refresh)) // the refresh token stays (section 2.1)
	if !e.valid(next.access) {
		t.Error("the next access token is refused")
	}
	revoke(c, tk.access) // an old one ends nothing more
	if !e.valid(next.access) {
		t.Error("an old access token revokes new ones")
	}

	tk = e.signIn(confidential)
	expectError(t, e.post("/revoke", confidential.form("token", tk.refresh, "client_secret", "x")), 401, "invalid_client")
	expectError(t, e.post("/revoke", confidential.form()), 400, "invalid_request")
	expectError(t, e.postRaw("/revoke", confidential.form("token", tk.refresh).Encode()+"&token=x"), 400, "invalid_request")
	if !e.valid(tk.access) {
		t.Error("revoked without the secret")
	}
}

// RFC 7009 section 2.2.1: a client that is told 200 forgets its token.
func TestRevocationWithoutAStoreIsNotASuccess(t *testing.T) {
	e := newEnv(t)
	broken := &brokenStore{Store: e.store}
	e.start(func(o *authserver.Options) { o.Store = broken })
	c := e.register("Web", webRedirect)
	tk := e.signIn(c)
	broken.set(func() { broken.failUpdate = true })
	for _, token := range []string{tk.refresh, tk.access} {
		if a := e.post("/revoke", c.form("token", token)); a.status != 503 || a.header.Get("Retry-After") == "" {
			t.Errorf("%d %s", a.status, a.body)
		}
	}
}

// No code and no token without a durable commit; no panic, no 500.
func TestStoreThatIsDownGivesServiceUnavailable(t *testing.T) {
	e := newEnv(t)
	broken := &brokenStore{Store: e.store}
	e.start(func(o *authserver.Options) { o.Store = broken })
	c := e.register("Web", webRedirect)
	code := e.code(c)
	b := e.browser()
	page := b.authorize(c)
	account := e.browser().authorize(c).press("Approve")
	broken.set(func() { broken.failAll = true })
	if v := b.authorize(c); v.left || v.status != 503 {
		t.Errorf("authorize: %d", v.status)
	}
	if v := page.press("Approve"); v.left || v.status != 503 {
		t.Errorf("consent: %d", v.status)
	}
	if v := account.press("Continue as"); v.left || v.status != 503 {
		t.Errorf("account: %d", v.status)
	}
	for name, a := range map[string]answer{"token": e.redeem(c, code), "register": e.registerRaw(`{"redirect_uris":["https://new.example/cb"]}`)} {
		if a.status != 503 || a.oauthError(t) != "temporarily_unavailable" || a.header.Get("Retry-After") == "" {
			t.Errorf("%s: %d %s", name, a.status, a.body)
		}
	}
	broken.set(func() { broken.failAll = false })
	e.tokens(e.redeem(c, code)) // recovered without a restart
	if account.press("Continue as").answer(c).Get("code") == "" {
		t.Error("the account page was used up by a store that was down")
	}
}
