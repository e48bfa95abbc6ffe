package server_test

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"
	"time"

	"github.com/mcp-clerk/mcp-clerk/internal/store/storetest"
	"github.com/mcp-clerk/mcp-clerk/server"
)

// The store goes away and comes back: calls go on for the time that the last
// state holds, then they are put off and not refused, and nobody signs in again.
func TestAStoreThatIsAwayPutsCallsOff(t *testing.T) {
	for name, upstream := range map[string]func(t *testing.T) (addr, before, after string){
		"redis": func(t *testing.T) (string, string, string) {
			return storetest.StartRedis(t).Addr, "redis://", ""
		},
		"postgres": func(t *testing.T) (string, string, string) {
			return storetest.StartPostgres(t, "fsync=off").Addr, "postgres://postgres@", "/postgres"
		},
	} {
		t.Run(name, func(t *testing.T) {
			addr, before, after := upstream(t)
			p := storetest.StartProxy(t, addr)
			r := start(t, func(o *server.Options) { o.Store = server.Secret(before + p.Addr + after) }, nil)
			held := r.signIn(plainMail)
			c := r.stateless(held.Access)
			if got := c.tool("add", `{"a":1,"b":2}`); got.IsError {
				t.Fatalf("%+v", got)
			}
			p.Cut()
			if got := c.tool("add", `{"a":1,"b":2}`); got.IsError {
				t.Errorf("the last state does not hold: %+v", got)
			}
			r.advance(6 * time.Second)
			body := `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":` + c.withMeta(`{"name":"add","arguments":{"a":1,"b":2}}`) + `}`
			resp := c.post(body, "add")
			resp.Body.Close()
			if resp.StatusCode != http.StatusServiceUnavailable || resp.Header.Get("Retry-After") == "" || resp.Header.Get("WWW-Authenticate") != "" {
				t.Errorf("a call without a store: %s, %v", resp.Status, resp.Header)
			}
			ready := httptest.NewRecorder()
			r.srv.Handler().ServeHTTP(ready, httptest.NewRequest(http.MethodGet, r.url+"/readyz", nil))
			if ready.Code != http.StatusServiceUnavailable {
				t.Errorf("readiness without a store: %d", ready.Code)
			}
			resp, err := http.PostForm(r.url+"/token", url.Values{"grant_type": {"refresh_token"}, "refresh_token": {held.Refresh}, "client_id": {held.client}})
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if resp.StatusCode != http.StatusServiceUnavailable || resp.Header.Get("Retry-After") == "" {
				t.Errorf("a refresh without a store: %s", resp.Status)
			}
			p.Restore()
			for deadline := time.Now().Add(40 * time.Second); ; {
				resp := c.post(body, "add")
				resp.Body.Close()
				if resp.StatusCode == http.StatusOK {
					break
				}
				if resp.StatusCode != http.StatusServiceUnavailable || time.Now().After(deadline) {
					t.Fatalf("after the store came back: %s", resp.Status)
				}
				time.Sleep(20 * time.Millisecond)
			}
			next := r.refresh(held)
			if got := r.stateless(next.Access).tool("add", `{"a":1,"b":2}`); got.IsError {
				t.Errorf("%+v", got)
			}
		})
	}
}
