package authserver_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mcp-clerk/mcp-clerk/internal/authserver"
	"github.com/mcp-clerk/mcp-clerk/internal/identity"
	"github.com/mcp-clerk/mcp-clerk/internal/secret"
	"github.com/mcp-clerk/mcp-clerk/internal/store"
	"github.com/mcp-clerk/mcp-clerk/internal/store/postgres"
	"github.com/mcp-clerk/mcp-clerk/internal/store/redis"
	"github.com/mcp-clerk/mcp-clerk/internal/store/storetest"
)

// noticed is how long another instance may take to refuse what was revoked: a
// second, four times over for a busy machine.
const noticed = 4 * time.Second

// opener opens an instance's own connection to a storage that several share.
// now is the instance's clock.
type opener func(t testing.TB, now func() time.Time) store.Store

// onSharedStores runs test on every backend that instances can share.
func onSharedStores(t *testing.T, test func(t *testing.T, addr string, at func(addr string) opener)) {
	t.Run("redis", func(t *testing.T) {
		test(t, storetest.StartRedis(t).Addr, openRedis)
	})
	t.Run("postgres", func(t *testing.T) {
		test(t, storetest.StartPostgres(t, "fsync=off").Addr, func(addr string) opener {
			return func(t testing.TB, now func() time.Time) store.Store {
				s, err := postgres.Open(context.Background(), "postgres://postgres@"+addr+"/postgres", postgres.Options{Now: now})
				return closing(t, s, err)
			}
		})
	})
}

func openRedis(addr string) opener {
	return func(t testing.TB, now func() time.Time) store.Store {
		s, err := redis.Open(context.Background(), "redis://"+addr, redis.Options{Now: now})
		return closing(t, s, err)
	}
}

func closing[S store.Store](t testing.TB, s S, err error) store.Store {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// cluster is three instances of one server behind a balancer without
// stickiness, which its env speaks to: each request goes to the next instance.
type cluster struct {
	*env
	nodes []*node
}

// node is one instance, whose clock may differ from the others'.
type node struct {
	*env
	ahead atomic.Int64 // nanoseconds
	base  func() time.Time
}

func (n *node) now() time.Time { return n.base().Add(time.Duration(n.ahead.Load())) }

// newCluster starts an instance for each offset of a clock.
func newCluster(t testing.TB, open opener, base func() time.Time, offsets [3]time.Duration, change ...func(*authserver.Options)) *cluster {
	t.Helper()
	c := &cluster{env: &env{t: t, provider: newProvider(""), events: &eventLog{}, addr: "127.0.0.1:1234"}}
	for _, offset := range offsets {
		n := &node{base: base, env: &env{t: t, provider: c.provider, events: c.events, addr: c.addr}}
		n.ahead.Store(int64(offset))
		n.store = open(t, n.now)
		n.start(append([]func(*authserver.Options){func(o *authserver.Options) { o.Now = n.now }}, change...)...)
		c.nodes = append(c.nodes, n)
	}
	c.issuer, c.store, c.srv = c.nodes[0].issuer, c.nodes[0].store, c.nodes[0].srv
	host := strings.TrimPrefix(c.issuer, "https://")
	var turn atomic.Int64
	c.hosts = map[string]http.Handler{
		providerHost: c.provider,
		host: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			c.nodes[int(turn.Add(1))%len(c.nodes)].hosts[host].ServeHTTP(w, r)
		}),
	}
	return c
}

// validEverywhere fails where an instance refuses the access token.
func (c *cluster) validEverywhere(access string) {
	c.t.Helper()
	for i, n := range c.nodes {
		if !n.valid(access) {
			c.t.Errorf("instance %d refuses an access token that is good", i)
		}
	}
}

// refusedEverywhere waits until every instance refuses the access tokens.
func (c *cluster) refusedEverywhere(since time.Time, access ...string) {
	c.t.Helper()
	for i, n := range c.nodes {
		for _, token := range access {
			for n.valid(token) {
				if time.Since(since) > noticed {
					c.t.Fatalf("instance %d still takes an access token %v after its grant ended", i, time.Since(since))
				}
				time.Sleep(10 * time.Millisecond)
			}
		}
	}
}

// together calls f n times at once, on the instances in turn.
func (c *cluster) together(n int, f func(n *node) answer) []answer {
	answers := make([]answer, n)
	var wg sync.WaitGroup
	begin := make(chan struct{})
	for i := range n {
		wg.Go(func() {
			<-begin
			answers[i] = f(c.nodes[i%len(c.nodes)])
		})
	}
	close(begin)
	wg.Wait()
	return answers
}

func TestInstancesOnOneStoreAreOneServer(t *testing.T) {
	onSharedStores(t, func(t *testing.T, addr string, at func(string) opener) {
		c := newCluster(t, at(addr), time.Now, [3]time.Duration{})
		client := c.register("Web", webRedirect)
		for _, test := range []struct {
			name string
			run  func(t *testing.T)
		}{
			{"a sign-in touches another instance at every step", func(t *testing.T) {
				for range 3 { // the instances change places
					tk := c.signIn(client)
					c.validEverywhere(tk.access)
					c.validEverywhere(c.tokens(c.refresh(client, tk.refresh)).access)
				}
			}},
			// RFC 6749 section 4.1.2: once; the client's replays then end the grant.
			{"one of 100 redemptions of a code succeeds", func(t *testing.T) {
				code := c.code(client)
				var won []tokens
				for _, a := range c.together(100, func(n *node) answer { return n.redeem(client, code) }) {
					if a.status == http.StatusOK {
						won = append(won, c.tokens(a))
						continue
					}
					expectError(t, a, 400, "invalid_grant")
				}
				ended := time.Now()
				if len(won) != 1 {
					t.Fatalf("%d redemptions succeeded", len(won))
				}
				c.refusedEverywhere(ended, won[0].access)
				expectError(t, c.refresh(client, won[0].refresh), 400, "invalid_grant")
			}},
			// RFC 9700 section 4.14.2 with the grace.
			{"50 refreshes of one token share a successor", func(t *testing.T) {
				first := c.signIn(client).refresh
				seen := map[string]bool{}
				for _, a := range c.together(50, func(n *node) answer { return n.refresh(client, first) }) {
					tk := c.tokens(a)
					seen[tk.refresh] = true
					c.validEverywhere(tk.access)
				}
				if len(seen) != 1 || seen[first] {
					t.Errorf("%d successors", len(seen))
				}
				for next := range seen {
					for _, n := range c.nodes { // the answer was lost: the same again, anywhere
						if got := c.tokens(n.refresh(client, first)).refresh; got != next {
							t.Error("an instance leads to another successor")
						}
					}
				}
			}},
			{"the grace is the client's own, for what was granted", func(t *testing.T) {
				other := c.register("Other", "https://other.example/cb")
				first := c.signIn(client)
				second := c.tokens(c.nodes[0].refresh(client, first.refresh))
				for _, n := range c.nodes {
					expectError(t, n.refresh(other, first.refresh), 400, "invalid_grant")
					expectError(t, n.refresh(client, first.refresh, "resource", "https://other.example/mcp"), 400, "invalid_target")
					expectError(t, n.refresh(client, first.refresh, "scope", "mcp:tools offline_access"), 400, "invalid_scope")
				}
				for _, n := range c.nodes {
					if c.tokens(n.refresh(client, first.refresh)).refresh != second.refresh {
						t.Error("a refused refresh has changed the grant")
					}
				}
				c.validEverywhere(first.access)
			}},
			// RFC 7009.
			{"a revocation holds on every instance", func(t *testing.T) {
				other := c.register("Other", "https://other.example/cb")
				tk := c.signIn(client)
				for _, n := range c.nodes {
					for _, a := range []answer{
						n.post("/revoke", other.form("token", tk.refresh)), n.post("/revoke", other.form("token", tk.access)),
						n.post("/revoke", client.form("token", flipByte(tk.refresh, 30))),
					} {
						if a.status != http.StatusOK {
							t.Errorf("%d %s", a.status, a.body)
						}
					}
				}
				c.validEverywhere(tk.access)
				if a := c.nodes[1].post("/revoke", client.form("token", tk.refresh)); a.status != http.StatusOK {
					t.Fatalf("%d %s", a.status, a.body)
				}
				c.refusedEverywhere(time.Now(), tk.access)
				for _, n := range c.nodes {
					expectError(t, n.refresh(client, tk.refresh), 400, "invalid_grant")
				}
			}},
			// RFC 7009 section 2.1.
			{"a revoked access token is refused on every instance", func(t *testing.T) {
				tk := c.signIn(client)
				c.validEverywhere(tk.access)
				if a := c.nodes[2].post("/revoke", client.form("token", tk.access)); a.status != http.StatusOK {
					t.Fatalf("%d %s", a.status, a.body)
				}
				c.refusedEverywhere(time.Now(), tk.access)
				c.validEverywhere(c.tokens(c.nodes[0].refresh(client, tk.refresh)).access)
			}},
		} {
			t.Run(test.name, func(t *testing.T) {
				c.on(t)
				test.run(t)
			})
		}
		// RFC 9700 section 4.14.2: no grace, so that nothing has to grow old.
		t.Run("a reused ancestor ends its family everywhere", func(t *testing.T) {
			c := newCluster(t, at(addr), time.Now, [3]time.Duration{}, func(o *authserver.Options) { o.RefreshGrace = -1 })
			tk := []tokens{c.signIn(client)}
			for i := range 3 {
				tk = append(tk, c.tokens(c.nodes[i].refresh(client, tk[i].refresh)))
			}
			for _, one := range tk {
				c.validEverywhere(one.access)
			}
			expectError(t, c.nodes[2].refresh(client, tk[0].refresh), 400, "invalid_grant")
			ended := time.Now()
			for _, one := range tk {
				c.refusedEverywhere(ended, one.access)
				expectError(t, c.refresh(client, one.refresh), 400, "invalid_grant")
			}
			if !c.events.has("grant.revoked", "superseded refresh token reused") {
				t.Error("the reuse is not audited")
			}
		})
	})
}

// on makes t the test that failures belong to.
func (c *cluster) on(t testing.TB) {
	c.t = t
	for _, n := range c.nodes {
		n.t = t
	}
}

// Five processes that share a stored token and never write it back, against
// three instances whose clocks differ: nobody signs in again.
func TestProcessesSharingAStaleTokenOnThreeInstances(t *testing.T) {
	standing, open := onOneClock(t)
	c := newCluster(t, open, standing.Now, apart)
	client := c.register("Web", webRedirect)
	stale := c.signIn(client).refresh
	held := []string{stale, stale, stale, stale, stale}
	for minute := range 26 {
		for i := range held {
			present := held[i]
			if i > 0 && minute%3 != i%3 {
				present = stale // starts anew from what is stored
			}
			tk := c.tokens(c.nodes[(minute+i)%3].refresh(client, present))
			c.validEverywhere(tk.access)
			held[i] = tk.refresh
		}
		standing.advance(time.Minute)
	}
}

// Which instance has which keys while a key is replaced: every instance must
// know the new key before one seals with it.
func TestKeysAreReplacedInstanceByInstance(t *testing.T) {
	standing, open := onOneClock(t)
	c := newCluster(t, open, standing.Now, [3]time.Duration{})
	a, b := c.nodes[0], c.nodes[1]
	c.nodes = c.nodes[:2]
	restart := func(n *node, keys ...secret.String) {
		n.start(func(o *authserver.Options) { o.Now, o.Keys = n.now, keys })
	}
	client := c.register("Web", webRedirect)
	start := c.signIn(client)
	held := start.refresh
	user := c.browser()
	user.authorize(client).press("Approve").press("Continue as")
	works := func(step string) {
		t.Helper()
		for i, from := range c.nodes {
			for j, to := range c.nodes {
				tk := c.tokens(from.refresh(client, held))
				c.validEverywhere(tk.access)
				held = c.tokens(to.refresh(client, tk.refresh)).refresh
				// The answer to from's rotation was lost.
				if c.tokens(to.refresh(client, tk.refresh)).refresh != held {
					t.Errorf("%s: the ancestor of %d leads elsewhere at %d", step, i, j)
				}
				c.validEverywhere(c.tokens(to.redeem(client, from.code(client))).access)
				standing.advance(31 * time.Minute) // no chain gets full
			}
		}
		// Pages, cookies and sign-ins under way, at another instance at every step.
		v := user.authorize(client)
		if !v.has("Approve") || !strings.Contains(v.body, "Ada Lovelace") {
			t.Errorf("%s: the sign-in cookie is lost", step)
		}
		if v.press("Approve").answer(client).Get("code") == "" {
			t.Errorf("%s: no code", step)
		}
	}
	for _, step := range []struct {
		name string
		a, b []secret.String
	}{
		{"the old key", []secret.String{testKey}, []secret.String{testKey}},
		{"B knows the new one", []secret.String{testKey}, []secret.String{testKey, otherKey}},
		{"both know it", []secret.String{testKey, otherKey}, []secret.String{testKey, otherKey}},
		{"B seals with it", []secret.String{testKey, otherKey}, []secret.String{otherKey, testKey}},
		{"both seal with it", []secret.String{otherKey, testKey}, []secret.String{otherKey, testKey}},
		{"B has dropped the old one", []secret.String{otherKey, testKey}, []secret.String{otherKey}},
		{"nobody has the old one", []secret.String{otherKey}, []secret.String{otherKey}},
	} {
		restart(a, step.a...)
		restart(b, step.b...)
		works(step.name)
	}
	if _, err := a.srv.Verify(t.Context(), start.access); !errors.Is(err, identity.ErrInvalidToken) {
		t.Errorf("the old key still opens: %v", err)
	}
}

// Whoever has only the old key still reads what it sealed, while another
// instance seals with the new one already.
func TestOldDataIsReadableUnderEitherKeyList(t *testing.T) {
	standing, open := onOneClock(t)
	c := newCluster(t, open, standing.Now, [3]time.Duration{})
	a, b := c.nodes[0], c.nodes[1]
	client := c.register("Web", webRedirect)
	tk := c.signIn(client)
	code, page := a.code(client), a.browser().authorize(client).press("Approve")
	b.start(func(o *authserver.Options) { o.Now, o.Keys = b.now, []secret.String{otherKey, testKey} })
	if !a.valid(tk.access) || !b.valid(tk.access) {
		t.Error("an access token under the old key is refused")
	}
	byB := c.tokens(b.redeem(client, code))
	if page.b.e = b.env; page.press("Continue as").answer(client).Get("code") == "" {
		t.Error("a page under the old key is refused")
	}
	next := c.tokens(b.refresh(client, tk.refresh))
	if a.valid(next.access) || a.valid(byB.access) || !b.valid(next.access) {
		t.Error("the new key did not seal")
	}
	// Not knowing the new key ends nothing: the same tokens go on elsewhere.
	expectError(t, a.refresh(client, next.refresh), 400, "invalid_grant")
	expectError(t, a.refresh(client, tk.refresh), 400, "invalid_grant") // its successor is sealed with the new key
	c.tokens(b.refresh(client, next.refresh))
}

// liveGrants counts the grants that hold tokens.
func liveGrants(t testing.TB, s store.Store) int {
	t.Helper()
	list, err := s.List(t.Context(), "grant/", "", 1000)
	if err != nil {
		t.Fatal(err)
	}
	live := 0
	for _, r := range list {
		var g struct {
			Code    struct{ Redeemed bool }
			Revoked string
		}
		if err := json.Unmarshal(r.Value, &g); err != nil {
			t.Fatal(err)
		}
		if g.Code.Redeemed && g.Revoked == "" {
			live++
		}
	}
	return live
}
