package authserver_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mcp-clerk/mcp-clerk/internal/authserver"
	"github.com/mcp-clerk/mcp-clerk/internal/identity"
	"github.com/mcp-clerk/mcp-clerk/internal/store"
	"github.com/mcp-clerk/mcp-clerk/internal/store/storetest"
)

// patience bounds an answer while the store is slow or away: its own time-outs,
// and room for a busy machine.
const patience = 40 * time.Second

// timed fails where f takes longer than patience.
func timed[T any](t testing.TB, what string, f func() T) T {
	t.Helper()
	began := time.Now()
	v := f()
	if d := time.Since(began); d > patience {
		t.Errorf("%s took %v", what, d)
	}
	return v
}

func expectUnavailable(t testing.TB, what string, a answer) {
	t.Helper()
	if seconds, err := strconv.Atoi(a.header.Get("Retry-After")); a.status != http.StatusServiceUnavailable || err != nil || seconds < 1 ||
		a.oauthError(t) != "temporarily_unavailable" || a.header.Get("Cache-Control") != "no-store" {
		t.Errorf("%s: %d %s, retry after %q", what, a.status, a.body, a.header.Get("Retry-After"))
	}
}

// The connection to the store's server is cut and comes back: nothing is given
// out meanwhile, nothing is used up, and no restart is needed.
func TestStoreOutage(t *testing.T) {
	onSharedStores(t, func(t *testing.T, addr string, at func(string) opener) {
		p := storetest.StartProxy(t, addr)
		c := newCluster(t, at(p.Addr), time.Now, [3]time.Duration{})
		n := c.nodes[0]
		client := c.register("Web", webRedirect)
		tk, end, unseen := c.signIn(client), c.signIn(client), c.signIn(client)
		code := c.code(client)
		b := n.browser()
		page := b.authorize(client)
		device := testClient{id: authserver.ConnectClient}
		d, waiting := n.device(device), n.device(device)
		b.enter(d.UserCode).press("Approve").press("Continue as")
		apps, entry := b.apps(), b.open(n.issuer+"/device")
		if !n.valid(tk.access) || !n.valid(end.access) {
			t.Fatal("refused")
		}

		p.Cut()
		if _, err := n.srv.Verify(t.Context(), tk.access); err != nil {
			t.Errorf("the last state does not hold: %v", err)
		}
		if _, err := n.srv.Verify(t.Context(), unseen.access); !errors.Is(err, identity.ErrUnavailable) {
			t.Errorf("an access token never seen: %v", err)
		}
		for what, f := range map[string]func() answer{
			"code":             func() answer { return n.redeem(client, code) },
			"refresh":          func() answer { return n.refresh(client, tk.refresh) },
			"revocation":       func() answer { return n.post("/revoke", client.form("token", end.refresh)) },
			"of access tokens": func() answer { return n.post("/revoke", client.form("token", end.access)) },
			"device code":      func() answer { return n.askDevice(device) },
			"device's poll":    func() answer { return n.poll(device, d) },
			"registration":     func() answer { return n.registerRaw(`{"redirect_uris":["https://new.example/cb"]}`) },
		} {
			expectUnavailable(t, what, timed(t, what, f))
		}
		for what, f := range map[string]func() *visit{
			"authorize": func() *visit { return b.authorize(client) },
			"consent":   func() *visit { return page.press("Approve") },
			"device":    func() *visit { return entry.pressWith("Continue", "user_code", waiting.UserCode) },
			"apps":      func() *visit { return b.open(n.issuer + "/account") },
			"taking":    func() *visit { return apps.press("Take the access away") },
		} {
			v := timed(t, what, f)
			if v.left || v.status != http.StatusServiceUnavailable || v.header.Get("Retry-After") == "" || !strings.Contains(v.body, "cannot go on right now") || strings.Contains(v.body, addr) {
				t.Errorf("%s: %d %s", what, v.status, v.body)
			}
		}
		n.ahead.Store(int64(6 * time.Second))
		if _, err := n.srv.Verify(t.Context(), tk.access); !errors.Is(err, identity.ErrUnavailable) {
			t.Errorf("after the time that the last state holds: %v", err)
		}

		p.Restore()
		recovered := time.Now()
		for _, n := range c.nodes {
			for {
				var errs []error
				for _, token := range []string{tk.access, end.access, unseen.access} {
					_, err := n.srv.Verify(t.Context(), token)
					errs = append(errs, err)
				}
				if a := n.refresh(client, tk.refresh); errors.Join(errs...) == nil && a.status != http.StatusServiceUnavailable {
					break
				}
				if time.Since(recovered) > patience {
					t.Fatal("not recovered")
				}
				time.Sleep(20 * time.Millisecond)
			}
		}
		next := c.tokens(n.refresh(client, tk.refresh))
		c.validEverywhere(next.access)
		c.validEverywhere(unseen.access)
		c.validEverywhere(end.access) // it was not said to be revoked
		if a := c.redeem(client, code); a.status != http.StatusOK {
			t.Errorf("the code was used up: %d %s", a.status, a.body)
		}
		if a := n.post("/revoke", client.form("token", end.refresh)); a.status != http.StatusOK {
			t.Errorf("%d %s", a.status, a.body)
		}
		c.refusedEverywhere(time.Now(), end.access)
		c.validEverywhere(c.tokens(c.poll(device, d)).access)
		expectPage(t, entry.pressWith("Continue", "user_code", waiting.UserCode), 200, "Approve")
		if page.press("Approve").press("Continue as").answer(client).Get("code") == "" {
			t.Error("the page was used up")
		}
	})
}

// A store that takes two seconds an answer makes waiting, not mistakes.
func TestSlowStore(t *testing.T) {
	onSharedStores(t, func(t *testing.T, addr string, at func(string) opener) {
		p := storetest.StartProxy(t, addr)
		c := newCluster(t, at(p.Addr), time.Now, [3]time.Duration{})
		client := c.register("Web", webRedirect)
		tk := c.signIn(client)
		n := c.nodes[0]
		if !n.valid(tk.access) {
			t.Fatal("refused")
		}
		p.Toxic("latency", "downstream", `"latency":2000`)
		var wg sync.WaitGroup
		answers := make([]answer, 3)
		for i := range answers {
			wg.Go(func() {
				answers[i] = timed(t, "refresh", func() answer { return c.nodes[i].refresh(client, tk.refresh) })
			})
		}
		wg.Wait()
		p.Heal()
		next := c.tokens(n.refresh(client, tk.refresh))
		for _, a := range answers {
			if a.status == http.StatusServiceUnavailable {
				expectUnavailable(t, "refresh", a)
				continue
			}
			if c.tokens(a).refresh != next.refresh {
				t.Error("a second successor")
			}
		}
		c.validEverywhere(next.access)
	})
}

// A fail-over to a replica that had not heard of the last writes yet. What is
// lost is a sign-in at most: no token comes to life that was refused as unknown,
// and of one code there are never two families.
func TestFailOverThatLosesWrites(t *testing.T) {
	server := storetest.StartRedis(t)
	c := newCluster(t, openRedis(server.Addr), time.Now, [3]time.Duration{})
	client := c.register("Web", webRedirect)
	// back puts the grant into its state of before what f does.
	back := func(f func()) {
		t.Helper()
		list, err := c.store.List(t.Context(), "grant/", "", 10)
		if err != nil || len(list) != 1 {
			t.Fatal(list, err)
		}
		f()
		if err := c.store.Delete(t.Context(), list[0].Key); err != nil {
			t.Fatal(err)
		}
		if err := c.store.Create(t.Context(), list[0]); err != nil {
			t.Fatal(err)
		}
	}

	// The redemption is lost. The client has tokens of a code that the store
	// thinks pending; redeemed again it is the same grant, with one family.
	code := c.code(client)
	var lost tokens
	back(func() { lost = c.tokens(c.nodes[0].redeem(client, code)) })
	expectError(t, c.nodes[1].refresh(client, lost.refresh), 400, "invalid_grant")
	won := 0
	var tk tokens
	for _, a := range c.together(30, func(n *node) answer { return n.redeem(client, code) }) {
		if a.status == http.StatusOK {
			won, tk = won+1, c.tokens(a)
		}
	}
	if won != 1 {
		t.Errorf("%d redemptions after the fail-over", won)
	}
	for _, n := range c.nodes { // and the replays have ended it, tokens of before included
		expectError(t, n.refresh(client, tk.refresh), 400, "invalid_grant")
		expectError(t, n.refresh(client, lost.refresh), 400, "invalid_grant")
	}
	c.refusedEverywhere(time.Now(), tk.access, lost.access)

	// A rotation is lost: the token of before works, the lost one signs nobody out.
	server.RedisCLI("flushall")
	client = c.register("Web", webRedirect)
	first := c.signIn(client)
	back(func() { lost = c.tokens(c.nodes[0].refresh(client, first.refresh)) })
	for _, n := range c.nodes {
		expectError(t, n.refresh(client, lost.refresh), 400, "invalid_grant")
	}
	next := c.tokens(c.nodes[2].refresh(client, first.refresh))
	c.validEverywhere(next.access)
	if live := liveGrants(t, c.store); live != 1 {
		t.Errorf("%d families", live)
	}

	// Everything is lost: signed out, and able to sign in again.
	pending := c.code(client)
	server.RedisCLI("flushall")
	c.refusedEverywhere(time.Now(), next.access, first.access)
	for _, n := range c.nodes {
		expectError(t, n.refresh(client, next.refresh), 401, "invalid_client") // the registration is gone, too
		expectError(t, n.redeem(client, pending), 401, "invalid_client")
	}
	client = c.register("Web", webRedirect)
	expectError(t, c.refresh(client, next.refresh), 400, "invalid_grant")
	expectError(t, c.redeem(client, pending), 400, "invalid_grant")
	c.validEverywhere(c.signIn(client).access)
}

// failing fails at one write, counted from 1, before it or after it.
type failing struct {
	store.Store
	mu      sync.Mutex
	writes  int
	at      int
	applied bool // the write takes effect, and its answer is lost
	failed  string
}

func (f *failing) write(what string, do func() error) error {
	f.mu.Lock()
	f.writes++
	now := f.writes == f.at
	if now {
		f.failed = what
	}
	f.mu.Unlock()
	if now && !f.applied {
		return errBroken
	}
	err := do()
	if now {
		return errBroken
	}
	return err
}

func (f *failing) Create(ctx context.Context, r store.Record) error {
	return f.write("create "+r.Key, func() error { return f.Store.Create(ctx, r) })
}

func (f *failing) Update(ctx context.Context, key string, u store.UpdateFunc) (r store.Record, err error) {
	err = f.write("update "+key, func() error { r, err = f.Store.Update(ctx, key, u); return err })
	return r, err
}

func (f *failing) Take(ctx context.Context, key string) (r store.Record, err error) {
	err = f.write("take "+key, func() error { r, err = f.Store.Take(ctx, key); return err })
	return r, err
}

func (f *failing) Delete(ctx context.Context, key string) error {
	return f.write("delete "+key, func() error { return f.Store.Delete(ctx, key) })
}

// Each write of a client's life fails in turn, before it took effect or with its
// answer lost, as when a server dies there. The old or the new refresh token
// works, never neither, and there is one family.
func TestFailureAtAnyWriteOfIssueAndRotation(t *testing.T) {
	for at := 1; ; at++ {
		reached := false
		for _, applied := range []bool{false, true} {
			e := newEnv(t)
			f := &failing{Store: e.store, at: at, applied: applied}
			e.start(func(o *authserver.Options) { o.Store = f })
			life := func() (what string, err error) {
				what = fmt.Sprintf("write %d, applied %v", at, applied)
				died := func() bool {
					f.mu.Lock()
					defer f.mu.Unlock()
					if f.failed == "" {
						return false
					}
					what = fmt.Sprintf("%s (%s)", what, f.failed)
					return true
				}
				var c testClient
				for c.id == "" {
					a := e.registerRaw(`{"client_name":"Web","redirect_uris":["` + webRedirect + `"],"token_endpoint_auth_method":"none"}`)
					if a.status == http.StatusServiceUnavailable && died() {
						continue
					}
					if a.status != http.StatusCreated {
						return what, fmt.Errorf("register: %d %s", a.status, a.body)
					}
					c = testClient{id: a.json(t)["client_id"].(string), redirect: webRedirect}
				}
				signIn := func() (code string, err error) {
					v := e.browser().authorize(c)
					for _, button := range []string{"Approve", "Continue as"} {
						if !v.has(button) {
							return "", fmt.Errorf("%d without %q: %s", v.status, button, v.body)
						}
						if v = v.press(button); v.status == http.StatusServiceUnavailable {
							if !died() {
								return "", errors.New("503 without a failure")
							}
							return "", nil
						}
					}
					return v.answer(c).Get("code"), nil
				}
				var tk tokens
				for tries := 0; tk.refresh == ""; tries++ {
					code, err := signIn()
					if err != nil || tries > 3 {
						return what, fmt.Errorf("sign-in, try %d: %w", tries, err)
					}
					if code == "" {
						continue // a person starts again
					}
					a := e.redeem(c, code)
					if a.status == http.StatusServiceUnavailable && died() {
						if a = e.redeem(c, code); applied {
							// The code was redeemed and its tokens are lost: it
							// counts as replayed, and its grant ends.
							if a.status != 400 || a.oauthError(t) != "invalid_grant" || liveGrants(t, e.store) != 0 {
								return what, fmt.Errorf("the code again: %d %s, %d live grants", a.status, a.body, liveGrants(t, e.store))
							}
							continue
						}
					}
					if a.status != http.StatusOK {
						return what, fmt.Errorf("redeem: %d %s", a.status, a.body)
					}
					tk = e.tokens(a)
				}
				refresh := func() answer {
					a := e.refresh(c, tk.refresh)
					if a.status == http.StatusServiceUnavailable && died() {
						a = e.refresh(c, tk.refresh) // what the client still holds
					}
					return a
				}
				for range 3 {
					a := refresh()
					if a.status != http.StatusOK {
						return what, fmt.Errorf("refresh: %d %s", a.status, a.body)
					}
					next := e.tokens(a)
					if next.refresh == tk.refresh {
						return what, errors.New("not rotated")
					}
					if again := e.tokens(refresh()); again.refresh != next.refresh {
						return what, errors.New("the old token leads to a second successor")
					}
					tk = next
				}
				if !e.valid(tk.access) {
					return what, errors.New("access token refused")
				}
				if live := liveGrants(t, e.store); live != 1 {
					return what, fmt.Errorf("%d families", live)
				}
				return what, nil
			}
			if what, err := life(); err != nil {
				t.Errorf("%s: %v", what, err)
			}
			reached = reached || f.failed != ""
		}
		if !reached {
			if at < 9 { // register, two sign-in records made and taken, approval, consent, grant, code, rotations
				t.Errorf("a life has only %d writes", at-1)
			}
			return
		}
	}
}
