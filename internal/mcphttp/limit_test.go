package mcphttp_test

import (
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/mcp-clerk/mcp-clerk/internal/mcphttp"
)

// Case 55: a flood is answered with 429, and harms nobody but who sent it.
func TestRequestsAreCountedByUser(t *testing.T) {
	clock := newShared()
	s := start(t, nil, func(o *mcphttp.Options) {
		o.UserRate, o.Now = mcphttp.Rate{PerSecond: 0.5, Burst: 4}, clock.now
	})
	body, h := modern("1", "ping", "")
	ping := func(token string) *http.Response { return s.post(body, h, header{"Authorization": "Bearer " + token}) }
	for i := range 4 {
		// Another client of the same user is the same user.
		if res := ping([]string{"alice", "alice-other-grant"}[i%2]); res.StatusCode != http.StatusOK {
			t.Fatalf("request %d: %s", i, res.Status)
		}
	}
	for _, token := range []string{"alice", "alice-other-grant"} {
		if res := ping(token); res.StatusCode != http.StatusTooManyRequests || res.Header.Get("Retry-After") != "2" {
			t.Errorf("%s: %s, Retry-After %q", token, res.Status, res.Header.Get("Retry-After"))
		}
	}
	if res := ping("bob"); res.StatusCode != http.StatusOK {
		t.Errorf("another user: %s", res.Status)
	}
	clock.advance(2 * time.Second)
	if res := ping("alice"); res.StatusCode != http.StatusOK {
		t.Errorf("after the time that was named: %s", res.Status)
	}
}

// A batch counts as the messages that it holds.
func TestABatchIsNoWayAroundTheLimit(t *testing.T) {
	clock := newShared()
	s := start(t, nil, func(o *mcphttp.Options) {
		o.UserRate, o.Now = mcphttp.Rate{PerSecond: 1, Burst: 10}, clock.now
	})
	h := s.session("2025-03-26", `{}`)
	ping := `{"jsonrpc":"2.0","id":1,"method":"ping"}`
	batch := "[" + strings.Repeat(ping+",", 4) + ping + "]"
	if res := s.post(batch, h); res.StatusCode != http.StatusOK {
		t.Fatal(res.Status)
	}
	if res := s.post(batch, h); res.StatusCode != http.StatusTooManyRequests || res.Header.Get("Retry-After") != "1" {
		t.Errorf("more than was left: %s, %v", res.Status, res.Header)
	}
	clock.advance(time.Hour)
	// More than a bucket holds passes when it is full, or it never would.
	if res := s.post("["+strings.Repeat(ping+",", 19)+ping+"]", h); res.StatusCode != http.StatusOK {
		t.Errorf("twenty messages: %s, %v", res.Status, res.Header)
	}
}

func TestRequestsWithoutAValidTokenAreCountedByAddress(t *testing.T) {
	clock := newShared()
	s := start(t, nil, func(o *mcphttp.Options) {
		o.AddressRate, o.Now = mcphttp.Rate{PerSecond: 1, Burst: 3}, clock.now
		o.ClientAddr = func(r *http.Request) netip.Addr { return netip.MustParseAddr(r.Header.Get("Test-From")) }
	})
	body, h := modern("1", "ping", "")
	from := func(addr, authorization string) *http.Response {
		return s.post(body, h, header{"Authorization": authorization, "Test-From": addr})
	}
	for _, addr := range []string{"192.0.2.1", "192.0.2.1", "::ffff:192.0.2.1"} {
		if res := from(addr, "Bearer mallory"); res.StatusCode != http.StatusUnauthorized {
			t.Fatalf("%s: %s", addr, res.Status)
		}
	}
	for i := range 3 { // one customer has all of a /64
		if res := from([]string{"2001:db8::1", "2001:db8::ffff:1", "2001:db8::2"}[i], ""); res.StatusCode != http.StatusUnauthorized {
			t.Fatalf("%d: %s", i, res.Status)
		}
	}
	for addr, status := range map[string]int{
		"192.0.2.1": 429, "192.0.2.2": 401, "2001:db8:0:0:9::": 429, "2001:db8:0:1::1": 401, "127.0.0.1": 401, "::1": 401,
	} {
		res := from(addr, "")
		if res.StatusCode != status || status == 429 && (res.Header.Get("Retry-After") != "1" || res.Header.Get("WWW-Authenticate") != "") {
			t.Errorf("%s: %s, %v", addr, res.Status, res.Header)
		}
	}
	// Whoever has a token is not locked out by others at the same address.
	if res := from("192.0.2.1", "Bearer alice"); res.StatusCode != http.StatusOK {
		t.Errorf("with a token: %s", res.Status)
	}
	clock.advance(time.Second)
	if res := from("192.0.2.1", ""); res.StatusCode != http.StatusUnauthorized {
		t.Errorf("a second later: %s", res.Status)
	}
}
