package authserver_test

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"testing"
	"time"

	"github.com/mcp-clerk/mcp-clerk/internal/identity"
)

// One address that registers without end is stopped; nobody else is.
func TestRegistrationFloodIsStopped(t *testing.T) {
	for _, addr := range []string{"198.51.100.7:1", "127.0.0.1:1", "[2001:db8::1]:1"} {
		e := newEnv(t)
		e.addr = addr
		var refused answer
		created := 0
		for i := range 10_000 {
			a := e.registerRaw(fmt.Sprintf(`{"client_name":"c%d","redirect_uris":["https://app.example/cb"],"token_endpoint_auth_method":"none"}`, i))
			if a.status == http.StatusTooManyRequests {
				refused = a
				break
			}
			created++
			e.clock.advance(time.Millisecond)
		}
		seconds, err := strconv.Atoi(refused.header.Get("Retry-After"))
		if refused.status == 0 || err != nil || seconds < 1 || refused.oauthError(t) == "" || refused.header.Get("Content-Type") != "application/json" {
			t.Fatalf("%s: after %d registrations %d %s %v", addr, created, refused.status, refused.body, refused.header)
		}
		if created < 12 {
			t.Errorf("%s: stopped after %d", addr, created)
		}
		e.addr = "203.0.113.9:1"
		e.register("somebody else", webRedirect)
		e.addr = addr
		e.clock.advance(time.Duration(seconds) * time.Second)
		e.clock.advance(time.Minute)
		e.register("after the wait", webRedirect)
	}
}

// Registrations that leave no record cost work all the same: those that are
// refused, and those of a client that is known already.
func TestRegistrationsWithoutARecordAreLimitedToo(t *testing.T) {
	for _, body := range []string{
		`{"redirect_uris":["javascript:alert(%d)"]}`,
		`{"x":%d,"client_name":"Hosted","redirect_uris":["https://app.example/cb"],"token_endpoint_auth_method":"none"}`,
	} {
		e := newEnv(t)
		e.addr = "198.51.100.7:1"
		var last answer
		for i := 0; i < 1000 && last.status != http.StatusTooManyRequests; i++ {
			last = e.registerRaw(fmt.Sprintf(body, i)) // no two alike: those have a limit of their own
		}
		if last.status != http.StatusTooManyRequests || last.header.Get("Retry-After") == "" {
			t.Errorf("1000 at once of %s: %d %v", body, last.status, last.header)
		}
	}
}

// Hosted clients register the same body for every user, from few addresses.
func TestIdenticalRegistrationsAreNotCountedAsNew(t *testing.T) {
	e := newEnv(t)
	e.addr = "198.51.100.7:1"
	for range 1000 {
		e.register("Hosted", webRedirect)
		e.clock.advance(time.Second)
	}
	list, err := e.store.List(context.Background(), "client/", "", 10)
	if err != nil || len(list) != 1 {
		t.Errorf("%d records, %v", len(list), err)
	}
}

// Slow enough for the limit of requests, new clients still pile up slowly only;
// who registers what is known already is not in the way of that.
func TestNewRegistrationsHaveALimitOfTheirOwn(t *testing.T) {
	e := newEnv(t)
	e.addr = "198.51.100.7:1"
	e.register("Hosted", webRedirect)
	for i := range 400 {
		e.clock.advance(time.Second)
		a := e.registerRaw(fmt.Sprintf(`{"client_name":"c%d","redirect_uris":["https://app.example/cb"],"token_endpoint_auth_method":"none"}`, i))
		if a.status == http.StatusTooManyRequests {
			if a.header.Get("Retry-After") == "" || i < 50 {
				t.Errorf("refused after %d: %v", i, a.header)
			}
			e.register("Hosted", webRedirect)
			return
		}
	}
	t.Error("never refused")
}

func TestTokenGuessingIsStoppedPerAddress(t *testing.T) {
	e := newEnv(t)
	c := e.register("Web", webRedirect)
	tk := e.signIn(c)
	e.addr = "[2001:db8:1:2::1]:1"
	var a answer
	for i := range 2000 {
		e.addr = fmt.Sprintf("[2001:db8:1:2::%x]:1", i+1) // one /64, one customer
		if a = e.refresh(c, "mcpc_rt_guess"); a.status == http.StatusTooManyRequests {
			break
		}
	}
	if a.status != http.StatusTooManyRequests || a.header.Get("Retry-After") == "" || a.oauthError(t) == "" {
		t.Fatalf("%d %s", a.status, a.body)
	}
	e.addr = "[2001:db8:1:3::1]:1"
	e.tokens(e.refresh(c, tk.refresh))
}

// Guessing is not paid at the price of an honest request: a client that refreshes
// all the time goes on where one that is refused as often has stopped.
func TestRefusedTokenRequestsCostMore(t *testing.T) {
	e := newEnv(t)
	e.addr = "198.51.100.7:1"
	c := e.register("Web", webRedirect)
	held := e.signIn(c).refresh
	const n = 300
	for range n {
		held = e.tokens(e.refresh(c, held)).refresh
	}
	e.addr = "198.51.100.8:1"
	for range n {
		if a := e.refresh(c, "guess"); a.status == http.StatusTooManyRequests {
			return
		}
	}
	t.Errorf("%d refused requests at once are not limited", n)
}

func TestAuthorizationFloodGetsAPage(t *testing.T) {
	e := newEnv(t)
	c := e.register("Web", webRedirect)
	e.addr = "198.51.100.7:1"
	var v *visit
	for range 1000 {
		if v = e.browser().authorize(c); v.status != http.StatusOK {
			break
		}
	}
	if v.status != http.StatusTooManyRequests || v.header.Get("Retry-After") == "" || v.header.Get("Content-Type") != "text/html; charset=utf-8" {
		t.Errorf("%d %v", v.status, v.header)
	}
}

// What a forwarded header says has no effect on limits.
func TestForwardedHeadersDoNotEscapeTheLimit(t *testing.T) {
	e := newEnv(t)
	e.addr = "198.51.100.7:1"
	c := testClient{id: "mcpc_client_x"}
	for i := range 3000 {
		r := request(t, "GET", e.issuer+"/authorize?"+c.query().Encode(), nil)
		r.Header.Set("X-Forwarded-For", fmt.Sprintf("203.0.113.%d", i%256))
		r.Header.Set("Forwarded", fmt.Sprintf("for=203.0.113.%d", i%256))
		if e.send(r).status == http.StatusTooManyRequests {
			return
		}
	}
	t.Error("never limited")
}

// Hosted clients send many users from one address: what one of them does there
// is not counted against another, who is known by what this server has sealed.
func TestUsersAreCountedBeforeTheirAddress(t *testing.T) {
	e := newEnv(t)
	e.addr = "198.51.100.7:1"
	c := e.register("Hosted", webRedirect)
	ada := e.signIn(c)
	b := e.browser()
	b.authorize(c).press("Approve").press("Continue as").answer(c)
	e.provider.signInAs(identity.User{ID: "user_bob", Email: "bob@example.com"})
	bob := e.signIn(c)
	flood := func(what string, send func() int) {
		t.Helper()
		for range 3000 {
			if send() == http.StatusTooManyRequests {
				return
			}
		}
		t.Fatalf("%s: never limited", what)
	}
	// By guessing, from the same address.
	flood("guesses", func() int { return e.refresh(c, "mcpc_rt_guess").status })
	ada = e.tokens(e.refresh(c, ada.refresh))
	// By a user, with a token of their own that is refused.
	flood("own token", func() int { return e.refresh(testClient{id: "mcpc_client_other"}, ada.refresh).status })
	if a := e.refresh(c, ada.refresh); a.status != http.StatusTooManyRequests || a.header.Get("Retry-After") == "" || a.oauthError(t) == "" {
		t.Errorf("that user: %d %s", a.status, a.body)
	}
	// Naming another client in each request is no way around.
	if a := e.refresh(testClient{id: "mcpc_client_another"}, ada.refresh); a.status != http.StatusTooManyRequests {
		t.Errorf("that user, as another client: %d", a.status)
	}
	e.tokens(e.refresh(c, bob.refresh))
	// Pages: strangers on a network do not lock out who has signed in there.
	flood("pages", func() int {
		return e.get("/authorize?" + c.query("client_id", fmt.Sprint(e.clock.Now())).Encode()).status
	})
	if v := b.authorize(c); v.status != http.StatusOK {
		t.Errorf("a user with a cookie: %d", v.status)
	}
}

// One client's flood on a network leaves room for others there.
func TestClientsOfOneAddressAreCountedApart(t *testing.T) {
	e := newEnv(t)
	e.addr = "198.51.100.7:1"
	one, two := e.register("One", webRedirect), e.register("Two", webRedirect)
	for i := range 1000 {
		if e.get("/authorize?"+one.query().Encode()).status == http.StatusTooManyRequests {
			if v := e.browser().authorize(two); v.status != http.StatusOK {
				t.Errorf("the other client after %d: %d", i, v.status)
			}
			return
		}
	}
	t.Error("never limited")
}

// So are registrations: one that is repeated without end stops itself.
func TestOneRegistrationRepeatedLeavesRoomForOthers(t *testing.T) {
	e := newEnv(t)
	e.addr = "198.51.100.7:1"
	const body = `{"client_name":"Loop","redirect_uris":["https://app.example/cb"],"token_endpoint_auth_method":"none"}`
	for range 1000 {
		if e.registerRaw(body).status == http.StatusTooManyRequests {
			e.register("Other", webRedirect)
			return
		}
	}
	t.Error("never limited")
}

// A developer's tools register a dozen times in a minute, each with another name.
func TestADozenRegistrationsAMinuteFromLoopbackPass(t *testing.T) {
	e := newEnv(t)
	for i := range 600 {
		e.register(fmt.Sprintf("Tool %d", i), "http://localhost:3000/cb")
		e.clock.advance(5 * time.Second)
	}
}

// The callback is limited, too, as a page.
func TestCallbackFloodGetsAPage(t *testing.T) {
	e := newEnv(t)
	e.addr = "[2001:db8:1:2::1]:1"
	for i := range 1000 {
		e.addr = fmt.Sprintf("[2001:db8:1:2::%x]:1", i+1) // one /64
		if a := e.get("/callback?state=x&code=y"); a.status == http.StatusTooManyRequests {
			if a.header.Get("Retry-After") == "" {
				t.Error("no Retry-After")
			}
			e.addr = "[2001:db8:1:3::1]:1"
			if a := e.get("/callback?state=x&code=y"); a.status != http.StatusBadRequest {
				t.Errorf("another network: %d", a.status)
			}
			return
		}
	}
	t.Error("never limited")
}
