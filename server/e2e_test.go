package server_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"image/png"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/mark3labs/mcp-go/mcp"

	"github.com/mcp-clerk/mcp-clerk/internal/devclerk"
	"github.com/mcp-clerk/mcp-clerk/server"
)

// TestTheMainJob signs in as both users and uses the tools in both eras.
func TestTheMainJob(t *testing.T) {
	r := start(t, nil, nil)
	admin, member := r.signIn(adminMail), r.signIn(plainMail)

	for era, c := range r.both(admin.Access) {
		t.Run("admin in "+era, func(t *testing.T) {
			names, result := c.list()
			if names != "add generateImage userInfo" {
				t.Errorf("tools %q", names)
			}
			if c.modern && (result["cacheScope"] != "private" || result["ttlMs"] != 30000.0 || result["resultType"] != "complete") {
				// 2026-07-28, server/utilities/caching: a list that varies by user is private.
				t.Errorf("list of the modern era: %v %v %v", result["cacheScope"], result["ttlMs"], result["resultType"])
			}
			if !c.modern && result["cacheScope"] != nil {
				t.Errorf("a legacy list has cacheScope %v", result["cacheScope"])
			}
			sum := c.tool("add", `{"a":19,"b":23}`)
			if sum.text() != "42" || string(sum.Structured) != `{"sum":42}` || sum.IsError {
				t.Errorf("add: %+v", sum)
			}
			var who map[string]any
			if err := json.Unmarshal(c.tool("userInfo", `{}`).Structured, &who); err != nil {
				t.Fatal(err)
			}
			if who["userId"] != devclerk.AdminID || who["email"] != adminMail || who["role"] != "admin" {
				t.Errorf("userInfo: %v", who)
			}
			image, before := c.toolWith("generateImage", `{"prompt":"a lighthouse","steps":5}`, `{"progressToken":9007199254740993}`)
			if image.IsError || len(image.Content) != 2 || image.Content[0].MIMEType != "image/png" {
				t.Fatalf("generateImage: %.300v", image)
			}
			if _, err := png.DecodeConfig(base64.NewDecoder(base64.StdEncoding, strings.NewReader(image.Content[0].Data))); err != nil {
				t.Errorf("not a PNG: %v", err)
			}
			if len(before) < 5 {
				t.Fatalf("%d progress notifications", len(before))
			}
			last := -1.0
			for _, m := range before {
				var p struct {
					Token    json.RawMessage `json:"progressToken"`
					Progress float64         `json:"progress"`
				}
				if err := json.Unmarshal(m.Params, &p); err != nil {
					t.Fatal(err)
				}
				if m.Method != "notifications/progress" || string(p.Token) != "9007199254740993" || p.Progress <= last {
					t.Errorf("notification %s %s after progress %v", m.Method, m.Params, last)
				}
				last = p.Progress
			}
		})
	}
	for era, c := range r.both(member.Access) {
		t.Run("member in "+era, func(t *testing.T) {
			if names, _ := c.list(); names != "add userInfo" {
				t.Errorf("tools %q", names)
			}
			if got := c.tool("add", `{"a":19,"b":23}`).text(); got != "42" {
				t.Errorf("add: %q", got)
			}
			// Also with arguments that the tool would refuse: the role comes first.
			for _, arguments := range []string{`{"prompt":"x"}`, `{}`} {
				refused := c.tool("generateImage", arguments)
				if !refused.IsError || !strings.Contains(refused.text(), "admin, premium, image_generation") || !strings.Contains(refused.text(), plainMail) {
					t.Errorf("generateImage with %s: %+v", arguments, refused)
				}
				if c.modern && (refused.ResultType != "complete" || refused.Meta["io.modelcontextprotocol/serverInfo"] == nil) {
					t.Errorf("refusal in the modern era: %+v", refused)
				}
			}
		})
	}
}

func TestIdsComeBackAsTheyWere(t *testing.T) {
	r := start(t, nil, nil)
	token := r.signIn(plainMail).Access
	for era, c := range r.both(token) {
		for _, id := range []string{`9007199254740993`, `"9007199254740993"`, `"a/<b>&\u00fc"`, `-1`, `123456789012345678901234567890`} {
			m, _ := c.callID(id, "tools/call", "add", `{"name":"add","arguments":{"a":1,"b":2}}`)
			if string(m.ID) != id || m.Error != nil {
				t.Errorf("%s: id %s came back as %s, error %v", era, id, m.ID, m.Error)
			}
			m, _ = c.callID(id, "tools/call", "nonesuch", `{"name":"nonesuch","arguments":{}}`)
			if string(m.ID) != id || m.Error == nil || m.Error.Code != -32602 {
				t.Errorf("%s: unknown tool under id %s: id %s, error %v", era, id, m.ID, m.Error)
			}
		}
	}
}

func TestHandshakes(t *testing.T) {
	r := start(t, nil, nil)
	c := r.stateless(r.signIn(plainMail).Access)
	m, _ := c.call("server/discover", "", "")
	var discovered struct {
		Versions     []string       `json:"supportedVersions"`
		Capabilities map[string]any `json:"capabilities"`
		Instructions string         `json:"instructions"`
		CacheScope   string         `json:"cacheScope"`
	}
	if m.Error != nil {
		t.Fatalf("server/discover: %+v", m.Error)
	}
	if err := json.Unmarshal(m.Result, &discovered); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"2026-07-28", "2025-11-25", "2025-06-18", "2025-03-26"}, discovered.Versions); diff != "" {
		t.Errorf("versions (-want +got):\n%s", diff)
	}
	if discovered.Instructions != "Use it well." || discovered.Capabilities["tools"] == nil || discovered.Capabilities["tasks"] != nil || discovered.CacheScope != "private" {
		t.Errorf("server/discover: %s", m.Result)
	}
	for _, asked := range []string{"2025-03-26", "2025-06-18", "2025-11-25", "1999-01-01"} {
		l := &client{r: r, token: c.token, caps: `{}`}
		resp := l.post(`{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"`+asked+`","capabilities":{},"clientInfo":{"name":"x","version":"1"}}}`, "")
		got := l.read(resp)[0]
		want := asked
		if asked == "1999-01-01" {
			want = "2025-11-25"
		}
		if got.Error != nil || !strings.Contains(string(got.Result), `"protocolVersion":"`+want+`"`) || !strings.Contains(string(got.Result), `"name":"rig"`) {
			t.Errorf("initialize with %s: %s %+v", asked, got.Result, got.Error)
		}
	}
}

// Roles hold as Clerk has them, 60 seconds old at most (design: the token
// says nothing about them).
func TestADemotionTakesEffectWithinTheCacheTime(t *testing.T) {
	r := start(t, nil, nil)
	both := r.both(r.signIn(adminMail).Access)
	for era, c := range both {
		if names, _ := c.list(); names != "add generateImage userInfo" {
			t.Fatalf("%s: tools %q", era, names)
		}
	}
	if err := r.clerk.SetRole(devclerk.AdminID, ""); err != nil {
		t.Fatal(err)
	}
	r.advance(61 * time.Second)
	for era, c := range both {
		if names, _ := c.list(); names != "add userInfo" {
			t.Errorf("%s: tools %q after the demotion", era, names)
		}
		if res := c.tool("generateImage", `{"prompt":"x"}`); !res.IsError || !strings.Contains(res.text(), "refused") {
			t.Errorf("%s: generateImage after the demotion: %+v", era, res)
		}
		if got := c.tool("add", `{"a":1,"b":2}`).text(); got != "3" {
			t.Errorf("%s: add after the demotion: %q", era, got)
		}
	}
	if err := r.clerk.SetRole(devclerk.AdminID, "premium"); err != nil {
		t.Fatal(err)
	}
	r.advance(61 * time.Second)
	for era, c := range both {
		if res := c.tool("generateImage", `{"prompt":"x"}`); res.IsError {
			t.Errorf("%s: generateImage with the role premium: %s", era, res.text())
		}
	}
}

func TestAnOrganizationRoleCounts(t *testing.T) {
	r := start(t, nil, func(s *server.Server) {
		s.AddTool(mcp.NewTool("audit"), func(context.Context, mcp.CallToolRequest) (*mcp.CallToolResult, error) {
			return mcp.NewToolResultText("audited"), nil
		}, server.RequireRole("org:admin"))
	})
	if err := r.clerk.AddMembership(devclerk.MemberID, devclerk.Membership{OrgID: "org_1", Role: "org:admin"}); err != nil {
		t.Fatal(err)
	}
	c := r.stateless(r.signIn(plainMail).Access)
	if names, _ := c.list(); names != "add audit userInfo" {
		t.Errorf("tools %q", names)
	}
	if got := c.tool("audit", `{}`).text(); got != "audited" {
		t.Errorf("audit: %q", got)
	}
}

// Case "Clerk 429 / 5xx / hanging": tools that need no role go on, tools that
// need one fail closed.
func TestWithoutClerkRoleToolsFailClosedAndTheOthersGoOn(t *testing.T) {
	for name, fault := range map[string]devclerk.Fault{
		"down":    {Status: http.StatusServiceUnavailable},
		"limited": {Status: http.StatusTooManyRequests, RetryAfter: 30 * time.Second},
		"hanging": {Delay: time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := start(t, nil, nil)
			both := r.both(r.signIn(adminMail).Access)
			if name == "hanging" {
				delete(both, "2025-11-25") // the same code, and each answer takes seconds
			}
			r.advance(61 * time.Second)
			r.clerk.SetFault("/v1/", fault)
			for era, c := range both {
				if got := c.tool("add", `{"a":1,"b":2}`).text(); got != "3" {
					t.Errorf("%s: add: %q", era, got)
				}
				names, result := c.list()
				if names != "add userInfo" {
					t.Errorf("%s: tools %q, want none that needs a role", era, names)
				}
				if c.modern && result["ttlMs"] != 0.0 {
					t.Errorf("%s: a list made without roles may be kept for %v ms", era, result["ttlMs"])
				}
				if res := c.tool("generateImage", `{"prompt":"x"}`); !res.IsError || !strings.Contains(res.text(), "Clerk cannot be asked") {
					t.Errorf("%s: generateImage: %+v", era, res)
				}
				if res := c.tool("userInfo", `{}`); !res.IsError || !strings.Contains(res.text(), "try again") {
					t.Errorf("%s: userInfo: %+v", era, res)
				}
			}
			r.clerk.SetFault("/v1/", devclerk.Fault{})
			r.advance(61 * time.Second)
			for era, c := range both {
				if res := c.tool("generateImage", `{"prompt":"x"}`); res.IsError {
					t.Errorf("%s: generateImage after Clerk came back: %s", era, res.text())
				}
			}
		})
	}
}

func TestABannedOrDeletedUserIsSignedOut(t *testing.T) {
	r := start(t, nil, nil)
	admin, member := r.signIn(adminMail), r.signIn(plainMail)
	if err := errors.Join(r.clerk.Ban(devclerk.AdminID), r.clerk.Delete(devclerk.MemberID)); err != nil {
		t.Fatal(err)
	}
	r.advance(61 * time.Second)
	for who, token := range map[string]string{"banned": admin.Access, "deleted": member.Access} {
		c := r.stateless(token)
		resp := c.post(`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":`+c.withMeta(`{"name":"add","arguments":{"a":1,"b":2}}`)+`}`, "add")
		resp.Body.Close()
		// RFC 6750 section 3.1: the access token is revoked for other reasons.
		if resp.StatusCode != http.StatusUnauthorized || !strings.Contains(resp.Header.Get("WWW-Authenticate"), `error="invalid_token"`) {
			t.Errorf("%s user: %s, %q", who, resp.Status, resp.Header.Get("WWW-Authenticate"))
		}
	}
}

func TestARestartLosesNobody(t *testing.T) {
	r := start(t, nil, nil)
	held := r.signIn(adminMail)
	both := r.both(held.Access)
	r.restart()
	for era, c := range both { // the legacy session goes on as well
		if got := c.tool("add", `{"a":20,"b":22}`).text(); got != "42" {
			t.Errorf("%s: add after the restart: %q", era, got)
		}
	}
	fresh := r.refresh(held)
	if fresh.Access == "" || fresh.Refresh == "" {
		t.Fatalf("refresh after the restart: %+v", fresh)
	}
	if res := r.stateless(fresh.Access).tool("generateImage", `{"prompt":"x"}`); res.IsError {
		t.Errorf("generateImage with the refreshed token: %s", res.text())
	}
}

func TestWithoutATokenTheChallengeLeadsToTheMetadata(t *testing.T) {
	r := start(t, nil, nil)
	for _, token := range []string{"", "mcpc_at_nonsense", "eyJhbGciOiJub25lIn0.e30."} {
		c := &client{r: r, token: token, caps: `{}`}
		resp := c.post(`{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"x","version":"1"}}}`, "")
		resp.Body.Close()
		challenge := resp.Header.Get("WWW-Authenticate")
		if resp.StatusCode != http.StatusUnauthorized || !strings.Contains(challenge, `resource_metadata="`+r.url+`/.well-known/oauth-protected-resource/mcp"`) {
			t.Errorf("token %q: %s, %q", token, resp.Status, challenge)
		}
	}
}

// Five thousand notifications of each of several calls at once: each stream
// carries its own, in order, none lost, the result last (cases 58).
func TestNotificationsStayWithTheirCall(t *testing.T) {
	const each, calls = 5000, 4
	count := mcp.NewTool("count", mcp.WithString("who", mcp.Required()))
	r := start(t, nil, func(s *server.Server) {
		s.AddTool(count, func(ctx context.Context, req mcp.CallToolRequest) (*mcp.CallToolResult, error) {
			who := req.GetString("who", "")
			for i := range each {
				if err := server.Progress(ctx, float64(i+1), each, who); err != nil {
					return nil, err
				}
			}
			return mcp.NewToolResultText(who), nil
		})
	})
	token := r.signIn(plainMail).Access
	for era, c := range r.both(token) {
		t.Run(era, func(t *testing.T) {
			failures := make(chan error, calls)
			for n := range calls {
				own := *c // its own ids, the same session
				go func() {
					failures <- func() error {
						who := fmt.Sprintf("caller %d", n)
						own.next = 0 // the same id as all others, on purpose in the modern era
						if !own.modern {
							own.next = 100 * n
						}
						result, before := own.toolWith("count", `{"who":"`+who+`"}`, fmt.Sprintf(`{"progressToken":"token %d"}`, n))
						if len(before) != each || result.text() != who {
							return fmt.Errorf("%s: %d notifications, result %q", who, len(before), result.text())
						}
						for i, m := range before {
							want := fmt.Sprintf(`{"progressToken":"token %d","progress":%d,"total":%d,"message":%q}`, n, i+1, each, who)
							if string(m.Params) != want {
								return fmt.Errorf("%s: notification %d is %s, want %s", who, i, m.Params, want)
							}
						}
						return nil
					}()
				}()
			}
			for range calls {
				if err := <-failures; err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// RFC 6750 section 3.1, MCP authorization "Step-Up Authorization Flow": what
// the token lacks is named, so that the client can ask for it. What the user
// lacks no scope can give.
func TestACallBeyondTheTokensScopeIsRefusedWithWhatItNeeds(t *testing.T) {
	r := start(t, nil, func(s *server.Server) {
		h := func(context.Context, mcp.CallToolRequest) (*mcp.CallToolResult, error) {
			return mcp.NewToolResultText("sent"), nil
		}
		s.AddTool(mcp.NewTool("sendMail"), h, server.RequireScope("mcp:mail", "Send mail in your name"))
	})
	r.scope = "mcp:tools offline_access"
	admin, member := r.signIn(adminMail), r.signIn(plainMail)
	r.scope = "mcp:tools mcp:mail"
	mailer := r.signIn(plainMail)

	refused := func(c *client, tool, want string) {
		t.Helper()
		// What stands beside the name, of whatever type, takes nothing from it.
		for _, beside := range []string{"", `,"uri":5`, `,"ref":"x"`, `,"more":{"name":5}`} {
			params := `{"name":"` + tool + `","arguments":{"prompt":"x"}` + beside + `}`
			if c.modern {
				params = c.withMeta(params)
			}
			resp := c.post(`{"jsonrpc":"2.0","id":7,"method":"tools/call","params":`+params+`}`, tool)
			resp.Body.Close()
			got := resp.Header.Get("WWW-Authenticate")
			if resp.StatusCode != http.StatusForbidden || !strings.Contains(got, `error="insufficient_scope"`) || !strings.Contains(got, `scope="`+want+`"`) || !strings.Contains(got, "resource_metadata=") {
				t.Errorf("%s%s: %s %q", tool, beside, resp.Status, got)
			}
		}
	}
	for era, c := range r.both(admin.Access) {
		t.Run("admin in "+era, func(t *testing.T) {
			refused(c, "generateImage", "mcp:tools mcp:images")
			refused(c, "sendMail", "mcp:tools mcp:mail")
			if names, _ := c.list(); names != "add generateImage sendMail userInfo" { // or nobody could step up
				t.Errorf("tools %q", names)
			}
			if got := c.tool("add", `{"a":1,"b":2}`).text(); got != "3" {
				t.Errorf("add: %q", got)
			}
		})
	}
	for era, c := range r.both(member.Access) {
		t.Run("member in "+era, func(t *testing.T) {
			if got := c.tool("generateImage", `{"prompt":"x"}`); !got.IsError || !strings.Contains(got.text(), "admin, premium, image_generation") {
				t.Errorf("a role that is missing is answered with %+v", got)
			}
			refused(c, "sendMail", "mcp:tools mcp:mail")
		})
	}
	for _, c := range r.both(mailer.Access) {
		if got := c.tool("sendMail", `{}`).text(); got != "sent" {
			t.Errorf("sendMail: %q", got)
		}
	}
	// A token narrowed by refreshing lacks even what every call needs.
	r.scope = "mcp:tools mcp:mail offline_access"
	wide := r.signIn(plainMail)
	narrow := r.token(url.Values{"grant_type": {"refresh_token"}, "refresh_token": {wide.Refresh}, "client_id": {wide.client}, "scope": {"mcp:mail"}})
	refused(r.stateless(narrow.Access), "sendMail", "mcp:tools mcp:mail")
}
