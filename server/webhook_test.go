package server_test

import (
	"bytes"
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/mark3labs/mcp-go/mcp"

	"github.com/mcp-clerk/mcp-clerk/internal/devclerk"
	"github.com/mcp-clerk/mcp-clerk/internal/secret"
	"github.com/mcp-clerk/mcp-clerk/internal/store/storetest"
	"github.com/mcp-clerk/mcp-clerk/server"
)

const webhookSecret = "whsec_Q0FOQVJZLW9mLXRoZS13ZWJob29rcw=="

// withWebhooks sets the signing secret; deliver lets the stand-in use it.
func withWebhooks(o *server.Options) { o.Clerk.WebhookSecret = webhookSecret }

func (r *rig) deliver() {
	r.t.Helper()
	if err := r.clerk.SetWebhook(r.url+"/webhooks/clerk", webhookSecret); err != nil {
		r.t.Fatal(err)
	}
}

// status of a call of a tool without roles, by a handler that need not be the rig's.
func (r *rig) statusOfCall(h http.Handler, token string) int {
	c := r.stateless(token)
	req := httptest.NewRequest(http.MethodPost, r.srv.URL(), strings.NewReader(`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":`+c.withMeta(`{"name":"add","arguments":{"a":1,"b":2}}`)+`}`))
	for k, v := range map[string]string{"Content-Type": "application/json", "Accept": "application/json, text/event-stream", "Authorization": "Bearer " + token,
		"Mcp-Protocol-Version": "2026-07-28", "Mcp-Method": "tools/call", "Mcp-Name": "add"} {
		req.Header.Set(k, v)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, req)
	return w.Code
}

// What changes at Clerk holds with the next request, without the cache's minute
// having passed (case 43).
func TestAWebhookTakesEffectAtOnce(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(*devclerk.Server) error
		tools  string // "": signed out
	}{
		"demotion": {func(d *devclerk.Server) error { return d.SetRole(devclerk.AdminID, "") }, "add audit userInfo"},
		"membership removed": {func(d *devclerk.Server) error { return d.RemoveMembership(devclerk.AdminID, "org_1") },
			"add generateImage userInfo"},
		"role in an organisation": {func(d *devclerk.Server) error {
			return d.AddMembership(devclerk.AdminID, devclerk.Membership{OrgID: "org_1", Role: "org:member"})
		}, "add generateImage userInfo"},
		"ban":      {func(d *devclerk.Server) error { return d.Ban(devclerk.AdminID) }, ""},
		"deletion": {func(d *devclerk.Server) error { return d.Delete(devclerk.AdminID) }, ""},
	} {
		t.Run(name, func(t *testing.T) {
			r := start(t, withWebhooks, addAudit)
			if err := r.clerk.AddMembership(devclerk.AdminID, devclerk.Membership{OrgID: "org_1", Role: "org:admin"}); err != nil {
				t.Fatal(err)
			}
			token := r.signIn(adminMail).Access
			both := r.both(token)
			streams := map[string]func() message{}
			for era, c := range both {
				if names, _ := c.list(); names != "add audit generateImage userInfo" {
					t.Fatalf("%s: tools %q", era, names)
				}
				streams[era] = c.listen()
			}
			streams["2026-07-28"]() // the acknowledgement
			r.deliver()
			if err := tt.change(r.clerk); err != nil {
				t.Fatal(err)
			}
			for era, c := range both {
				if tt.tools == "" {
					if code := r.statusOfCall(r.srv.Handler(), token); code != http.StatusUnauthorized {
						t.Errorf("a call: %d", code)
					}
					continue
				}
				if names, _ := c.list(); names != tt.tools {
					t.Errorf("%s: tools %q, want %q", era, names, tt.tools)
				}
			}
			// Both eras' streams hear of it; those of who is signed out end.
			for era, next := range streams {
				if m := next(); m.Method != "notifications/tools/list_changed" {
					t.Errorf("%s: heard %+v", era, m)
				}
				if tt.tools == "" {
					if m := next(); m.Method != "" {
						t.Errorf("%s: the stream goes on with %+v", era, m)
					}
				}
			}
		})
	}
}

func addAudit(s *server.Server) {
	s.AddTool(mcp.NewTool("audit"), func(context.Context, mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		return mcp.NewToolResultText("audited"), nil
	}, server.RequireRole("org:admin"))
}

// Forged, old, replayed and odd deliveries have no effect (case 43).
func TestWebhooksThatAreNotTaken(t *testing.T) {
	r := start(t, withWebhooks, nil)
	c := r.stateless(r.signIn(adminMail).Access)
	now := time.Now()
	body := `{"type":"user.updated","data":{"id":"` + devclerk.AdminID + `"}}`
	post := func(h http.Header, body string) int {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, r.url+"/webhooks/clerk", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header = h
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp.StatusCode
	}
	signed := func(id string, at time.Time, body string, s secret.String) http.Header {
		return devclerk.Webhook{ID: id, Time: at, Body: []byte(body)}.Header(s)
	}
	// lookups is how often Clerk was asked for the user.
	lookups := func() int { return r.clerk.Requests("GET /v1/users/{id}") }
	for _, tt := range []struct {
		name   string
		header http.Header
		body   string
		status int
		effect bool
	}{
		{"honest", signed("msg_1", now, body, webhookSecret), body, 204, true},
		{"the same again", signed("msg_1", now, body, webhookSecret), body, 401, false},
		{"another attempt at it", signed("msg_1", now.Add(time.Second), body, webhookSecret), body, 204, true},
		{"the first attempt again", signed("msg_1", now, body, webhookSecret), body, 401, false},
		{"forged", signed("msg_2", now, body, "whsec_Zm9yZ2VkLWZvcmdlZC1mb3JnZWQ="), body, 401, false},
		{"changed", signed("msg_3", now, body, webhookSecret), body + " ", 401, false},
		{"old", signed("msg_4", now.Add(-6*time.Minute), body, webhookSecret), body, 401, false},
		{"unsigned", http.Header{}, body, 401, false},
		{"of no interest", signed("msg_5", now, `{"type":"email.created","data":{}}`, webhookSecret), `{"type":"email.created","data":{}}`, 204, false},
		{"no event", signed("msg_6", now, `{}`, webhookSecret), `{}`, 400, false},
		{"too large", signed("msg_7", now, body, webhookSecret), body + strings.Repeat(" ", 256<<10), 413, false},
	} {
		c.tool("userInfo", `{}`)
		before := lookups()
		if got := post(tt.header, tt.body); got != tt.status {
			t.Errorf("%s: status %d, want %d", tt.name, got, tt.status)
		}
		c.tool("userInfo", `{}`)
		if effect := lookups() > before; effect != tt.effect {
			t.Errorf("%s: effect %v, want %v", tt.name, effect, tt.effect)
		}
	}
	// A captured delivery is refused while its signature would still be good,
	// also after a restart.
	r.restart()
	if got := post(signed("msg_1", now, body, webhookSecret), body); got != 401 {
		t.Errorf("replayed after a restart: %d", got)
	}
	if strings.Contains(r.log.String(), webhookSecret) || strings.Contains(r.log.String(), "CANARY") {
		t.Error("the log holds the signing secret")
	}
	if resp, err := http.Get(r.url + "/webhooks/clerk"); err != nil || resp.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("GET: %v %v", resp, err)
	}
}

func TestWithoutASecretThereIsNoWebhook(t *testing.T) {
	r := start(t, nil, nil)
	resp, err := http.Post(r.url+"/webhooks/clerk", "application/json", strings.NewReader(`{}`))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusNotFound {
		t.Error(resp.Status)
	}
}

// Clerk delivers to one instance; all of them follow, and a replay to another
// one is refused there.
func TestAWebhookReachesEveryInstance(t *testing.T) {
	redis := "redis://" + storetest.StartRedis(t).Addr
	var options server.Options
	r := start(t, func(o *server.Options) {
		withWebhooks(o)
		o.Store = server.Secret(redis)
		options = *o
	}, nil)
	second, err := server.New(t.Context(), options)
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	second.AddBuiltinTools(server.BuiltinTools{Image: server.Sketch()})
	token := r.signIn(adminMail).Access
	if code := r.statusOfCall(second.Handler(), token); code != http.StatusOK {
		t.Fatalf("the second instance: %d", code)
	}
	body := []byte(`{"type":"user.updated","data":{"id":"` + devclerk.AdminID + `"}}`)
	if err := r.clerk.Ban(devclerk.AdminID); err != nil {
		t.Fatal(err)
	}
	if code := r.statusOfCall(second.Handler(), token); code != http.StatusOK {
		t.Fatalf("the cache of the second instance was not used: %d", code)
	}
	sent := time.Now()
	deliver := func(to http.Handler) int {
		req := httptest.NewRequest(http.MethodPost, r.url+"/webhooks/clerk", bytes.NewReader(body))
		req.Header = devclerk.Webhook{ID: "msg_1", Time: sent, Body: body}.Header(webhookSecret)
		w := httptest.NewRecorder()
		to.ServeHTTP(w, req)
		return w.Code
	}
	if code := deliver(r.srv.Handler()); code != http.StatusNoContent {
		t.Fatalf("delivery: %d", code)
	}
	for deadline := time.Now().Add(20 * time.Second); r.statusOfCall(second.Handler(), token) != http.StatusUnauthorized; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the second instance did not hear of it")
		}
	}
	if code := deliver(second.Handler()); code != http.StatusUnauthorized {
		t.Errorf("the same delivery at the second instance: %d", code)
	}
}
