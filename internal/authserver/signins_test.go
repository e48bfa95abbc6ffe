package authserver_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

type signIn struct {
	Client  string `json:"client_id"`
	Name    string `json:"client_name"`
	Host    string `json:"redirect_host"`
	Program string `json:"program"`
	Browser string `json:"browser"`
	Outcome string `json:"outcome"`
	Summary string `json:"summary"`
	Steps   []struct {
		At     time.Time `json:"at"`
		Step   string    `json:"step"`
		Detail string    `json:"detail"`
		Times  int       `json:"times"`
	} `json:"steps"`
}

// signIns is what the flight recorder says, as JSON.
func (e *env) signIns() []signIn {
	e.t.Helper()
	r := httptest.NewRequest("GET", "/signins", nil)
	r.Header.Set("Accept", "application/json")
	w := httptest.NewRecorder()
	e.srv.SignIns().ServeHTTP(w, r)
	var answer struct {
		SignIns []signIn `json:"signins"`
	}
	if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil || w.Code != http.StatusOK {
		e.t.Fatalf("%d %v: %s", w.Code, err, w.Body)
	}
	return answer.SignIns
}

// as sends a request as a program does.
func (e *env) as(agent, method, path, body string) answer {
	e.t.Helper()
	r := request(e.t, method, e.abs(path), strings.NewReader(body))
	r.Header.Set("User-Agent", agent)
	if method == http.MethodPost {
		r.Header.Set("Content-Type", "application/json")
	}
	return e.send(r)
}

const claudeAgent = "Claude-User/1.0 (+https://support.anthropic.com)"

// "Why does my client not connect?": where it stopped, and what would have come.
func TestFlightRecorderSaysWhereASignInStopped(t *testing.T) {
	const register = `{"client_name":"Claude","redirect_uris":["https://app.example/cb"],"token_endpoint_auth_method":"none"}`
	for name, tc := range map[string]struct {
		do               func(e *env, c testClient)
		outcome, summary string
	}{
		"registered only":  {func(*env, testClient) {}, "left", "asked for the metadata, registered, never came to /authorize"},
		"consent page":     {func(e *env, c testClient) { e.browser().authorize(c) }, "left", "was shown the consent page, never answered it"},
		"cancel":           {func(e *env, c testClient) { e.browser().authorize(c).press("Cancel") }, "stopped", "pressed Cancel"},
		"account page":     {func(e *env, c testClient) { e.browser().authorize(c).press("Approve") }, "left", "asked whether the account is the right one, never answered"},
		"never redeemed":   {func(e *env, c testClient) { e.code(c) }, "left", "got a code, never redeemed it at /token"},
		"signed in":        {func(e *env, c testClient) { e.signIn(c) }, "signed in", "has tokens"},
		"wrong verifier":   {func(e *env, c testClient) { e.redeem(c, e.code(c), "code_verifier", strings.Repeat("x", 43)) }, "stopped", "was refused at /token: invalid_grant"},
		"bad code":         {func(e *env, c testClient) { e.code(c); e.redeem(c, "nonsense") }, "stopped", "was refused at /token: invalid_grant"},
		"no challenge":     {func(e *env, c testClient) { e.browser().authorize(c, "code_challenge", "") }, "stopped", "PKCE is required"},
		"foreign redirect": {func(e *env, c testClient) { e.browser().authorize(c, "redirect_uri", "https://evil.example/") }, "stopped", "not one that it has registered"},
		"provider down":    {func(e *env, c testClient) { e.provider.down = true; e.browser().authorize(c).press("Approve") }, "stopped", "cannot go on right now"},
		"denied at the provider": {func(e *env, c testClient) {
			e.provider.deny = "access_denied"
			e.browser().authorize(c).press("Approve")
		},
			"stopped", "was refused by the sign-in provider: access_denied"},
		"banned": {func(e *env, c testClient) { e.provider.user.Banned = true; e.browser().authorize(c).press("Approve") }, "stopped", "The account is banned"},
	} {
		t.Run(name, func(t *testing.T) {
			e := newEnv(t)
			e.as(claudeAgent, "GET", "/.well-known/oauth-protected-resource/mcp", "")
			e.as(claudeAgent, "GET", "/.well-known/oauth-authorization-server", "")
			c := testClient{id: e.as(claudeAgent, "POST", "/register", register).json(t)["client_id"].(string), redirect: webRedirect}
			tc.do(e, c)
			if tc.outcome == "left" {
				if got := e.signIns()[0]; got.Outcome != "under way" {
					t.Errorf("at once: %q", got.Outcome)
				}
				e.clock.advance(11 * time.Minute)
			}
			list := e.signIns()
			if len(list) != 1 {
				t.Fatalf("%d sign-ins: %+v", len(list), list)
			}
			got := list[0]
			if got.Outcome != tc.outcome || !strings.Contains(got.Summary, tc.summary) {
				t.Errorf("%s: %s, want %s: %s", got.Outcome, got.Summary, tc.outcome, tc.summary)
			}
			if got.Client != c.id || got.Name != "Claude" || got.Program != "Claude-User" || got.Steps[0].Times != 2 {
				t.Errorf("got %+v", got)
			}
		})
	}
}

func TestFlightRecorderHoldsNoSecretsAndNoPersons(t *testing.T) {
	e := newEnv(t)
	c := e.register("Web", webRedirect)
	b := e.browser()
	v := b.authorize(c, "state", "secret-state").press("Approve")
	upstream := v.before.Query()
	secrets := []string{"secret-state", "ada@example.com", "Lovelace", "user_ada", upstream.Get("code"), upstream.Get("state"), verifier, challenge(verifier), "1234", "127.0.0.1"}
	code := v.press("Continue as").answer(c).Get("code")
	tk := e.tokens(e.redeem(c, code))
	secrets = append(secrets, code, tk.access, tk.refresh)
	e.browser().open(e.issuer + "/authorize?client_id=https%3A%2F%2Fapp.example%2Fc%3Ftoken%3Dhunter2&redirect_uri=x")
	e.provider.user.Banned = true
	e.browser().authorize(c).press("Approve")
	r := httptest.NewRequest("GET", "/signins", nil)
	w := httptest.NewRecorder()
	e.srv.SignIns().ServeHTTP(w, r)
	raw, err := json.Marshal(e.signIns())
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{w.Body.String(), string(raw)} {
		for _, s := range append(secrets, "hunter2") {
			if strings.Contains(text, s) {
				t.Errorf("%q is in %s", s, text)
			}
		}
		if !strings.Contains(text, "https://app.example/c") || !strings.Contains(text, c.id) {
			t.Errorf("the clients are missing in %s", text)
		}
	}
	if w.Header().Get("Cache-Control") != "no-store" || !strings.Contains(w.Header().Get("Content-Security-Policy"), "default-src 'none'") {
		t.Errorf("headers %v", w.Header())
	}
}

// What clients say of themselves is shown and not obeyed.
func TestFlightRecorderEscapesForeignText(t *testing.T) {
	e := newEnv(t)
	a := e.as("<script>alert(1)</script>", "POST", "/register", `{"client_name":"<script>x\u202e","redirect_uris":["https://app.example/cb"]}`)
	if a.status != http.StatusCreated {
		t.Fatal(a.status)
	}
	e.browser().open(e.issuer + "/authorize?client_id=%3Cscript%3E")
	w := httptest.NewRecorder()
	e.srv.SignIns().ServeHTTP(w, httptest.NewRequest("GET", "/signins", nil))
	if body := w.Body.String(); strings.Contains(body, "<script") || strings.Contains(body, "\u202e") || !strings.Contains(body, "&lt;script&gt;x") {
		t.Errorf("%s", body)
	}
	w = httptest.NewRecorder()
	e.srv.SignIns().ServeHTTP(w, httptest.NewRequest("POST", "/signins", nil))
	if w.Code != http.StatusMethodNotAllowed {
		t.Errorf("POST: %d", w.Code)
	}
}

// The memory is bounded, and those who only look at the metadata, again and
// again or from everywhere, do not push out who signed in.
func TestFlightRecorderIsBoundedAndKeepsWhoSignedIn(t *testing.T) {
	e := newEnv(t)
	c := e.register("Web", webRedirect)
	e.signIn(c)
	for i := range 5000 {
		if i%2 == 0 {
			e.addr = "203.0.113." + string(rune('0'+i%10)) + ":1"
		}
		e.as("bot-"+string(rune('a'+i%26))+string(rune('a'+i/26%26)), "GET", "/.well-known/oauth-authorization-server", "")
	}
	list := e.signIns()
	if len(list) > 256 {
		t.Errorf("%d sign-ins are kept", len(list))
	}
	if got := list[len(list)-1]; got.Client != c.id || got.Outcome != "signed in" {
		t.Errorf("the oldest one kept is %+v", got)
	}
}

// Behind several instances a sign-in may go on where it did not begin.
func TestFlightRecorderGoesOnAfterARestart(t *testing.T) {
	e := newEnv(t)
	c := e.register("Web", webRedirect)
	v := e.browser().authorize(c)
	e.start()
	v = v.press("Approve")
	v.press("Cancel")
	list := e.signIns()
	if len(list) != 1 || list[0].Steps[0].Step != "began elsewhere" || list[0].Outcome != "stopped" {
		t.Errorf("%+v", list)
	}
}

func TestFlightRecorderTellsTwoClientsOfOneProgramApart(t *testing.T) {
	e := newEnv(t)
	one, two := e.register("One", webRedirect), e.register("Two", "https://two.example/cb")
	e.browser().authorize(two).press("Cancel")
	e.browser().authorize(one)
	list := e.signIns()
	if len(list) != 2 || list[0].Name != "Two" || list[0].Outcome != "stopped" || list[1].Name != "One" || len(list[1].Steps) != 3 {
		t.Errorf("%+v", list)
	}
}

func TestFlightRecorderTellsTwoPeopleWithOneClientApart(t *testing.T) {
	e := newEnv(t)
	c := e.register("Shared", webRedirect) // identical public registrations share an id
	e.addr = "198.51.100.7:9"
	if again := e.register("Shared", webRedirect); again.id != c.id {
		t.Fatal("two ids")
	}
	v := e.browser().authorize(c)
	e.addr = "127.0.0.1:1234"
	other := e.browser().authorize(c)
	v.press("Cancel")
	other.press("Approve")
	e.browser().authorize(c) // a third one, who has not registered again
	list := e.signIns()
	if len(list) != 3 || len(list[0].Steps) != 2 || list[1].Outcome != "stopped" || list[2].Outcome != "under way" {
		t.Errorf("%+v", list)
	}
}
