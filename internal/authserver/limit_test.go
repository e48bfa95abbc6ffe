package authserver_test

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"testing"
	"time"
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
		`{"redirect_uris":["javascript:alert(1)"]}`,
		`{"client_name":"Hosted","redirect_uris":["https://app.example/cb"],"token_endpoint_auth_method":"none"}`,
	} {
		e := newEnv(t)
		e.addr = "198.51.100.7:1"
		var last answer
		for i := 0; i < 200 && last.status != http.StatusTooManyRequests; i++ {
			last = e.registerRaw(body)
		}
		if last.status != http.StatusTooManyRequests || last.header.Get("Retry-After") == "" {
			t.Errorf("200 at once of %s: %d %v", body, last.status, last.header)
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
