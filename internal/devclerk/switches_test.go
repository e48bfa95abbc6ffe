package devclerk_test

import (
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"

	"github.com/mcp-clerk/mcp-clerk/internal/devclerk"
)

func TestSwitchesAreSwitchedOnAndOff(t *testing.T) {
	r := newRig(t)
	state := func(name string) string {
		m := regexp.MustCompile(`id="state-` + name + `">(on|off)<`).FindStringSubmatch(r.get("/switches").body)
		if m == nil {
			t.Fatalf("no switch %q", name)
		}
		return m[1]
	}
	backend := func() int { return r.get("/v1/users/"+devclerk.AdminID, "Authorization", bearer).status }
	for name, works := range map[string]func() bool{
		"api-down":       func() bool { return backend() == 503 },
		"api-limited":    func() bool { return backend() == 429 },
		"sign-in-down":   func() bool { return r.authorize().status == 503 },
		"discovery-down": func() bool { return r.get("/.well-known/jwks.json").status == 503 },
		"registration": func() bool {
			return r.postJSON("/oauth/register", `{"redirect_uris":["https://a.example"]}`).status == 201
		},
		"opaque": func() bool {
			token, err := r.srv.AccessToken(devclerk.AdminID, "profile", "")
			must(t, err)
			return strings.HasPrefix(token, "oat_")
		},
		"consent": func() bool {
			return strings.Contains(r.press(r.authorize("prompt", "login"), "admin@example.com").body, "Allow access?")
		},
	} {
		if state(name) != "off" || works() {
			t.Errorf("%s is on at first", name)
		}
		if got := r.post("/switches", url.Values{"on": {name}}); got.status != http.StatusSeeOther || state(name) != "on" || !works() {
			t.Errorf("%s is not switched on: %d", name, got.status)
		}
		if r.post("/switches", url.Values{"off": {name}}); state(name) != "off" || works() {
			t.Errorf("%s is not switched off", name)
		}
	}
	r.post("/switches", url.Values{"on": {"deny-next"}})
	if r.authorize(); state("deny-next") != "off" {
		t.Error("denying is not over after one sign-in")
	}
	keys := func() int { return strings.Count(r.get("/.well-known/jwks.json").body, `"kid"`) }
	if r.post("/switches", url.Values{"rotate": {"keep"}}); keys() != 2 {
		t.Errorf("%d keys", keys())
	}
	if r.post("/switches", url.Values{"rotate": {"drop"}}); keys() != 1 {
		t.Errorf("%d keys", keys())
	}
	if got := r.post("/switches", url.Values{"on": {"nothing"}}); got.status != http.StatusBadRequest {
		t.Errorf("an unknown switch: %d", got.status)
	}
	if got := r.post("/switches", url.Values{"on": {"opaque"}}, "Origin", "https://evil.example"); got.status != http.StatusForbidden {
		t.Errorf("from another site: %d", got.status)
	}
}
