package authserver_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/mcp-clerk/mcp-clerk/internal/authserver"
	"github.com/mcp-clerk/mcp-clerk/internal/identity"
	"github.com/mcp-clerk/mcp-clerk/internal/secret"
	"github.com/mcp-clerk/mcp-clerk/internal/store"
)

const deviceGrant = "urn:ietf:params:oauth:grant-type:device_code"

// deviceCodes is the answer of the device authorization endpoint.
type deviceCodes struct {
	DeviceCode string `json:"device_code"`
	UserCode   string `json:"user_code"`
	Page       string `json:"verification_uri"`
	Complete   string `json:"verification_uri_complete"`
	ExpiresIn  int    `json:"expires_in"`
	Interval   int    `json:"interval"`
}

func (e *env) registerDevice(name string, more ...string) testClient {
	e.t.Helper()
	body := map[string]any{"client_name": name, "grant_types": append([]string{deviceGrant, "refresh_token"}, more...)}
	if len(more) > 0 {
		body["redirect_uris"] = []string{loopRedirect}
	}
	text, err := json.Marshal(body)
	if err != nil {
		e.t.Fatal(err)
	}
	a := e.registerRaw(string(text))
	if a.status != http.StatusCreated || strings.Contains(string(a.body), "null") || strings.Contains(string(a.body), "[]") {
		e.t.Fatalf("register: %d %s", a.status, a.body)
	}
	id, _ := a.json(e.t)["client_id"].(string)
	return testClient{id: id, redirect: loopRedirect}
}

func (e *env) askDevice(c testClient, pairs ...string) answer {
	e.t.Helper()
	return e.post("/device_authorization", c.form(pairs...))
}

func (e *env) device(c testClient, pairs ...string) deviceCodes {
	e.t.Helper()
	a := e.askDevice(c, pairs...)
	if a.status != http.StatusOK || a.header.Get("Cache-Control") != "no-store" {
		e.t.Fatalf("device authorization: %d %s", a.status, a.body)
	}
	var d deviceCodes
	if err := json.Unmarshal(a.body, &d); err != nil {
		e.t.Fatal(err)
	}
	return d
}

func (e *env) poll(c testClient, d deviceCodes, pairs ...string) answer {
	e.t.Helper()
	return e.post("/token", c.form(append([]string{"grant_type", deviceGrant, "device_code", d.DeviceCode}, pairs...)...))
}

// enter types a code into the page /device.
func (b *browser) enter(code string) *visit {
	b.e.t.Helper()
	return b.open(b.e.issuer+"/device").pressWith("Continue", "user_code", code)
}

// A device gets tokens like any other client's (RFC 8628 sections 3.1 to 3.5):
// they rotate, are revoked, are for the resource.
func TestADeviceIsConnected(t *testing.T) {
	e, w := documentEnv(t)
	const doc = "https://tools.example/device.json"
	key := newSigner(t, jose.ES256, "k")
	w.publish("https://tools.example/keys.json", keySet(key))
	w.publish(doc, map[string]any{"client_id": doc, "client_name": "Remote Builder", "redirect_uris": []string{"https://tools.example/cb"},
		"grant_types": []string{"authorization_code", "refresh_token", deviceGrant}, "token_endpoint_auth_method": "private_key_jwt", "jwks_uri": "https://tools.example/keys.json"})
	const public = "https://tools.example/public.json"
	w.publish(public, map[string]any{"client_id": public, "client_name": "Public Builder", "redirect_uris": []string{"http://127.0.0.1/cb"},
		"grant_types": []string{"authorization_code", "refresh_token", deviceGrant}})
	signed := func() []string {
		return []string{"client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer", "client_assertion", key.sign(t, e.claims(doc))}
	}
	none := func() []string { return nil }
	for name, tc := range map[string]struct {
		c        testClient
		proof    func() []string
		name     string
		verified string
	}{
		"registered":           {e.registerDevice("SSH Tool"), none, "SSH Tool", "unverified"},
		"registered for both":  {e.registerDevice("Visual Studio Code", "authorization_code"), none, "Visual Studio Code", "unverified"},
		"built in":             {testClient{id: authserver.ConnectClient}, none, "mcp-clerk connect", "unverified"},
		"document with a key":  {testClient{id: doc}, signed, "Remote Builder", "verified domain: tools.example"},
		"document without one": {testClient{id: public}, none, "Public Builder", "unverified"}, // anyone can ask in its name
	} {
		t.Run(name, func(t *testing.T) {
			d := e.device(tc.c, append([]string{"scope", "mcp:tools offline_access", "resource", e.issuer + "/mcp"}, tc.proof()...)...)
			if d.Page != e.issuer+"/device" || d.Complete != e.issuer+"/device?user_code="+d.UserCode || d.ExpiresIn != 600 || d.Interval != 5 || len(d.UserCode) != 9 {
				t.Errorf("answer %+v", d)
			}
			expectError(t, e.poll(tc.c, d, tc.proof()...), 400, "authorization_pending")

			page := e.browser().enter(strings.ToLower(strings.ReplaceAll(d.UserCode, "-", " ")))
			expectPage(t, page, 200, tc.name, ">"+tc.verified+"<", d.UserCode, "just now", "Nobody who means well", "(mcp:tools)", "(offline_access)")
			done := page.press("Approve").press("Continue as Ada")
			expectPage(t, done, 200, "Your device is connected", tc.name, "ada@example.com")

			e.clock.advance(time.Second) // no need to wait for the interval
			tk := e.tokens(e.poll(tc.c, d, tc.proof()...))
			if p, err := e.srv.Verify(t.Context(), tk.access); err != nil || p.Subject != "user_ada" || p.ClientID != tc.c.id || p.Resource != e.issuer+"/mcp" ||
				!slices.Equal(p.Scopes, []string{"mcp:tools", "offline_access"}) {
				t.Fatalf("principal %+v, %v", p, err)
			}
			next := e.tokens(e.refresh(tc.c, tk.refresh, tc.proof()...))
			if a := e.post("/revoke", tc.c.form(append([]string{"token", next.refresh}, tc.proof()...)...)); a.status != 200 || e.valid(next.access) || e.valid(tk.access) {
				t.Errorf("revocation: %d, and the tokens still work: %v %v", a.status, e.valid(next.access), e.valid(tk.access))
			}
		})
	}
}

func TestADeviceHearsWhatBecomesOfItsCode(t *testing.T) {
	e := newEnv(t)
	c, other := e.registerDevice("SSH Tool"), e.registerDevice("Other Tool")

	t.Run("who asks too often is slowed down, and for good", func(t *testing.T) { // section 3.5
		d := e.device(c)
		expectError(t, e.poll(c, d), 400, "authorization_pending")
		e.clock.advance(2 * time.Second)
		expectError(t, e.poll(c, d), 400, "slow_down") // 10 s from now on
		e.clock.advance(6 * time.Second)
		expectError(t, e.poll(c, d), 400, "slow_down") // 15 s
		e.clock.advance(15 * time.Second)
		expectError(t, e.poll(c, d), 400, "authorization_pending")
		e.clock.advance(10 * time.Second)
		expectError(t, e.poll(c, d), 400, "slow_down")
		for range 20 {
			expectError(t, e.poll(c, d), 400, "slow_down")
		}
		e.clock.advance(time.Minute) // and no slower than this
		expectError(t, e.poll(c, d), 400, "authorization_pending")
	})
	t.Run("expired", func(t *testing.T) {
		d := e.device(c)
		e.clock.advance(10*time.Minute + time.Second)
		expectError(t, e.poll(c, d), 400, "expired_token")
		expectPage(t, e.browser().enter(d.UserCode), 404, "no such code")
	})
	t.Run("refused by the person", func(t *testing.T) {
		d := e.device(c)
		expectPage(t, e.browser().enter(d.UserCode).press("Cancel"), 200, "Nothing was connected")
		expectError(t, e.poll(c, d), 400, "access_denied")
		expectPage(t, e.browser().enter(d.UserCode), 404, "no such code")
	})
	t.Run("refused after the sign-in", func(t *testing.T) {
		d := e.device(c)
		expectPage(t, e.browser().enter(d.UserCode).press("Approve").press("Cancel"), 200, "Nothing was connected")
		expectError(t, e.poll(c, d), 400, "access_denied")
	})
	t.Run("refused at the provider", func(t *testing.T) {
		d := e.device(c)
		page := e.browser().enter(d.UserCode)
		e.provider.set(func() { e.provider.deny = "access_denied" })
		defer e.provider.set(func() { e.provider.deny = "" })
		expectPage(t, page.press("Approve"), 200, "Nothing was connected")
		expectError(t, e.poll(c, d), 400, "access_denied")
	})
	t.Run("a fault of the provider decides nothing", func(t *testing.T) {
		d := e.device(c)
		page := e.browser().enter(d.UserCode)
		e.provider.set(func() { e.provider.deny = "server_error" })
		page = page.press("Approve")
		e.provider.set(func() { e.provider.deny = "" })
		expectPage(t, page, 503)
		page.follow("Try again").press("Yes, it shows").press("Approve").press("Continue as")
		e.tokens(e.poll(c, d))
	})
	t.Run("another client's", func(t *testing.T) {
		d := e.device(c)
		expectError(t, e.poll(other, d), 400, "invalid_grant")
		e.browser().enter(d.UserCode).press("Approve").press("Continue as")
		expectError(t, e.poll(other, d), 400, "invalid_grant")
		e.tokens(e.poll(c, d)) // nothing was used up
	})
	t.Run("another resource", func(t *testing.T) {
		expectError(t, e.askDevice(c, "resource", "https://elsewhere.example/mcp"), 400, "invalid_target")
		d := e.device(c)
		e.browser().enter(d.UserCode).press("Approve").press("Continue as")
		expectError(t, e.poll(c, d, "resource", "https://elsewhere.example/mcp"), 400, "invalid_target")
		e.tokens(e.poll(c, d))
	})
	t.Run("once", func(t *testing.T) {
		d := e.device(c)
		e.browser().enter(d.UserCode).press("Approve").press("Continue as")
		tk := e.tokens(e.poll(c, d))
		// A second holder of the code: one of the two has stolen it (as RFC 6749
		// section 4.1.2 for codes).
		expectError(t, e.poll(c, d), 400, "invalid_grant")
		if e.valid(tk.access) {
			t.Error("the tokens of a device code that was presented twice still work")
		}
	})
	t.Run("no code of ours", func(t *testing.T) {
		expectError(t, e.poll(c, deviceCodes{DeviceCode: "mcpc_dc_AAAA"}), 400, "invalid_grant")
		expectError(t, e.poll(c, deviceCodes{}), 400, "invalid_request")
		tk := e.signIn(e.register("Web", webRedirect))
		expectError(t, e.poll(c, deviceCodes{DeviceCode: tk.refresh}), 400, "invalid_grant")
	})
	t.Run("as an authorization code", func(t *testing.T) {
		d := e.device(c)
		e.browser().enter(d.UserCode).press("Approve").press("Continue as")
		expectError(t, e.redeem(c, d.DeviceCode), 400, "invalid_grant")
		e.tokens(e.poll(c, d))
	})
	t.Run("collected late", func(t *testing.T) {
		d := e.device(c)
		e.clock.advance(9*time.Minute + 50*time.Second)
		e.browser().enter(d.UserCode).press("Approve").press("Continue as")
		e.clock.advance(time.Minute)
		e.tokens(e.poll(c, d))
	})
	t.Run("never collected", func(t *testing.T) {
		d := e.device(c)
		before := liveGrants(t, e.store)
		e.browser().enter(d.UserCode).press("Approve").press("Continue as")
		e.clock.advance(11 * time.Minute)
		expectError(t, e.poll(c, d), 400, "expired_token")
		if liveGrants(t, e.store) != before {
			t.Error("an approved code that nobody collected has left a grant")
		}
	})
	t.Run("waiting is no failure", func(t *testing.T) { // of which each costs ten requests
		var out []deviceCodes
		for range 150 {
			out = append(out, e.device(c))
		}
		e.addr = "198.51.100.7:1"
		defer func() { e.addr = "127.0.0.1:1234" }()
		for _, d := range out {
			expectError(t, e.poll(c, d), 400, "authorization_pending")
		}
	})
}

// Which clients may: those that registered for it, and the built-in one. A
// redirect URI on the list says nothing about who collects the tokens.
func TestTheDeviceGrantIsForThoseWhoAskedForIt(t *testing.T) {
	e := newEnv(t)
	expectError(t, e.askDevice(e.register("Web", webRedirect)), 400, "unauthorized_client")
	expectError(t, e.askDevice(testClient{id: "mcpc_client_AAAAAAAAAAAAAAAAAAAAAA"}), 401, "invalid_client")
	confidential := e.registerAs("client_secret_post", "Web", webRedirect)
	expectError(t, e.askDevice(testClient{id: confidential.id, secret: "wrong"}), 401, "invalid_client")
	c := e.registerDevice("SSH Tool")
	if v := e.browser().open(e.issuer + "/authorize?" + c.query().Encode()); v.left || v.status != 400 {
		t.Errorf("a device without redirect URIs at /authorize: %d %v", v.status, v.url)
	}
	expectError(t, e.registerRaw(`{"redirect_uris":["https://app.example/cb"],"grant_types":["client_credentials"]}`), 400, "invalid_client_metadata")

	t.Run("switched off", func(t *testing.T) {
		e := newEnv(t, func(o *authserver.Options) { o.NoDevice = true })
		if a := e.askDevice(testClient{id: authserver.ConnectClient}); a.status != 404 {
			t.Errorf("%d %s", a.status, a.body)
		}
		if v := e.browser().open(e.issuer + "/device"); v.status != 404 {
			t.Errorf("the page is there: %d", v.status)
		}
		md := e.get("/.well-known/oauth-authorization-server").json(t)
		if md["device_authorization_endpoint"] != nil || slices.Contains(stringList(md["grant_types_supported"]), deviceGrant) {
			t.Errorf("the metadata offers it: %v", md)
		}
		expectError(t, e.poll(testClient{id: authserver.ConnectClient}, deviceCodes{DeviceCode: "x"}), 400, "unauthorized_client")
	})
	t.Run("by list", func(t *testing.T) {
		e, w := documentEnv(t, func(o *authserver.Options) {
			o.Admission, o.AdmittedHosts = authserver.AdmitListed, []string{"app.example", "tools.example"}
		})
		const public = "https://tools.example/public.json"
		w.publish(public, map[string]any{"client_id": public, "redirect_uris": []string{"https://app.example/cb"}, "grant_types": []string{"authorization_code", deviceGrant}})
		expectError(t, e.askDevice(testClient{id: public}), 400, "unauthorized_client")
		a := e.registerRaw(`{"redirect_uris":["https://app.example/cb"],"token_endpoint_auth_method":"none","grant_types":["authorization_code","` + deviceGrant + `"]}`)
		id, _ := a.json(t)["client_id"].(string)
		expectError(t, e.askDevice(testClient{id: id}), 400, "unauthorized_client")
		if a := e.registerRaw(`{"grant_types":["` + deviceGrant + `"]}`); a.status != 400 {
			t.Errorf("a device of which nothing is proven registers: %s", a.body)
		}
		e.device(testClient{id: authserver.ConnectClient})
	})
	t.Run("configured", func(t *testing.T) {
		e := newEnv(t, func(o *authserver.Options) {
			o.Clients = []authserver.Client{{ID: "kiosk", Device: true}, {ID: "web", RedirectURIs: []string{webRedirect}}}
		})
		e.device(testClient{id: "kiosk"})
		expectError(t, e.askDevice(testClient{id: "web"}), 400, "unauthorized_client")
	})
}

// Of many who collect at once, on several instances, one gets tokens (cases/server 13).
func TestADeviceCodeIsRedeemedOnce(t *testing.T) {
	onSharedStores(t, func(t *testing.T, addr string, at func(string) opener) {
		standing := (&clock{now: time.Now()}).Now
		c := newCluster(t, at(addr), standing, [3]time.Duration{})
		client := c.registerDevice("SSH Tool")
		d := c.device(client)
		c.nodes[1].browser().enter(d.UserCode).press("Approve").press("Continue as")
		var mu sync.Mutex
		won := 0
		var wg sync.WaitGroup
		for i := range 30 {
			wg.Go(func() {
				a := c.nodes[i%len(c.nodes)].poll(client, d)
				mu.Lock()
				defer mu.Unlock()
				if a.status == http.StatusOK {
					won++
				} else if code := a.oauthError(t); code != "invalid_grant" {
					t.Errorf("%d %s", a.status, a.body)
				}
			})
		}
		wg.Wait()
		if won != 1 {
			t.Errorf("%d polls got tokens, want 1", won)
		}
	})
}

// What is shown on one instance is entered on another and polled on a third,
// with clocks that differ and while a key is being changed.
func TestADeviceIsConnectedOnSeveralInstances(t *testing.T) {
	standing, open := onOneClock(t)
	c := newCluster(t, open, standing.Now, [3]time.Duration{0, 4 * time.Minute, -4 * time.Minute})
	client := c.registerDevice("SSH Tool")
	d := c.nodes[0].device(client)
	expectError(t, c.nodes[0].poll(client, d), 400, "authorization_pending")
	expectError(t, c.nodes[0].poll(client, d), 400, "slow_down")
	expectError(t, c.nodes[2].poll(client, d), 400, "authorization_pending") // its clock says that it is early by minutes, not seconds
	b := c.nodes[1]
	b.start(func(o *authserver.Options) { o.Now, o.Keys = b.now, []secret.String{otherKey, testKey} })
	b.browser().enter(d.UserCode).press("Approve").press("Continue as")
	c.nodes[2].start(func(o *authserver.Options) { o.Now, o.Keys = c.nodes[2].now, []secret.String{testKey, otherKey} })
	c.tokens(c.nodes[2].poll(client, d))
}

// Two people approve one code at the same moment: one of them has, and the
// other is told so.
func TestOfTwoWhoApproveOneHas(t *testing.T) {
	var hook *interleaved
	e := newEnv(t, func(o *authserver.Options) { hook = &interleaved{Store: o.Store}; o.Store = hook })
	c := e.registerDevice("SSH Tool")
	d := e.device(c)
	ada := e.browser().enter(d.UserCode).press("Approve")
	e.provider.signInAs(bob)
	bobs := e.browser().enter(d.UserCode).press("Approve")
	hook.before = func() { expectPage(t, bobs.press("Continue as Bob"), 200, "Your device is connected") }
	expectPage(t, ada.press("Continue as Ada"), 400, "has been used")
	if p := e.principal(e.tokens(e.poll(c, d)).access); p.Subject != bob.ID {
		t.Errorf("principal %+v", p)
	}
	if left, err := e.store.List(t.Context(), "grant/user_ada/", "", 10); err != nil || len(left) != 0 {
		t.Errorf("Ada has %d grants (%v)", len(left), err)
	}
}

// interleaved is a store in which something happens just before a grant is
// created, once.
type interleaved struct {
	store.Store
	before func()
}

func (s *interleaved) Create(ctx context.Context, r store.Record) error {
	if before := s.before; before != nil && strings.HasPrefix(r.Key, "grant/") {
		s.before = nil
		before()
	}
	return s.Store.Create(ctx, r)
}

// Who may not use the server connects no device, and is offered another account.
func TestWhoMayNotUseTheServerConnectsNoDevice(t *testing.T) {
	e := newEnv(t, func(o *authserver.Options) { o.Admit = func(u *identity.User) bool { return u.ID == "user_ada" } })
	c := e.registerDevice("SSH Tool")
	d := e.device(c)
	ada := e.provider.user
	e.provider.signInAs(bob)
	refused := e.browser().enter(d.UserCode).press("Approve")
	expectPage(t, refused, 403, "is not one of those who may use this server")
	expectError(t, e.poll(c, d), 400, "authorization_pending")
	e.provider.set(func() { e.provider.next = &ada })
	other := refused.follow("Sign in with another account").press("Yes, it shows")
	if strings.Contains(other.body, "bob@example.com") {
		t.Error("the refused account is offered again")
	}
	expectPage(t, other.press("Approve").press("Continue as Ada"), 200, "Your device is connected")
	if tk := e.tokens(e.poll(c, d)); !e.valid(tk.access) {
		t.Error("the token does not work")
	}
}

// A copy of the store has neither code, and nothing to try user codes on
// (cases/server 25).
func TestTheStoreHoldsNoDeviceCodes(t *testing.T) {
	e := newEnv(t)
	d := e.device(e.registerDevice("SSH Tool"))
	list, err := e.store.List(t.Context(), "device/", "", 10)
	if err != nil || len(list) != 1 {
		t.Fatalf("%d records, %v", len(list), err)
	}
	bare := strings.ReplaceAll(d.UserCode, "-", "")
	for _, text := range []string{bare, d.UserCode, d.DeviceCode, "SSH Tool", "203.0.113"} {
		if strings.Contains(string(list[0].Value)+list[0].Key, text) {
			t.Errorf("the record has %q", text)
		}
	}
	for _, text := range []string{bare, d.UserCode} {
		if strings.Contains(list[0].Key, challenge(text)) {
			t.Error("the key is a hash that can be searched for")
		}
	}
}

func TestTheFlightRecorderFollowsADevice(t *testing.T) {
	e := newEnv(t)
	e.get("/.well-known/oauth-authorization-server")
	c := e.registerDevice("SSH Tool")
	d := e.device(c)
	e.poll(c, d)
	e.browser().enter(d.UserCode).press("Approve").press("Continue as")
	e.tokens(e.poll(c, d))
	list := e.signIns()
	if len(list) != 1 || list[0].Outcome != "signed in" {
		t.Fatalf("%+v", list)
	}
	for _, want := range []string{"asked for a device code", "entered the code of the device", "was approved", "was approved for the device", "redeemed the code"} {
		if !strings.Contains(fmt.Sprint(list[0].Steps), " "+want) {
			t.Errorf("no step %q in %+v", want, list[0].Steps)
		}
	}
	e.device(c)
	e.clock.advance(11 * time.Minute)
	if got := e.signIns()[0]; got.Outcome != "left" || !strings.Contains(got.Summary, "nobody entered its code") {
		t.Errorf("%+v", got)
	}
}
