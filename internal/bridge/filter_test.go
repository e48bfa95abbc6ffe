package bridge_test

import (
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mcp-clerk/mcp-clerk/internal/bridge"
	"github.com/mcp-clerk/mcp-clerk/internal/jsonrpc"
)

func TestToolsThatAreLeftOutAreNeitherSeenNorCalled(t *testing.T) {
	// Bytes that a parser would write another way must stay.
	const tools = `{"tools": [ {"name":"read_file","n":1.0}, {"name":"\u0072ead_secret"},{"name":"delete_all","x":"<\/"} ], "nextCursor":"a"}`
	tests := []struct {
		name   string
		filter bridge.Filter
		list   string
		refuse []string
		pass   []string
	}{
		{"none", bridge.Filter{}, tools, nil, []string{"read_file", "delete_all", "x"}},
		{
			"ignore", bridge.Filter{Ignore: []string{"*_all", "read_secret"}},
			`{"tools": [{"name":"read_file","n":1.0}], "nextCursor":"a"}`,
			[]string{"delete_all", "_all", "read_secret", `read\u005fsecret`},
			[]string{"read_file", "read_secrets", "xread_secret", "all"},
		},
		{
			"allow", bridge.Filter{Allow: []string{"read*", "x*y*z"}},
			`{"tools": [{"name":"read_file","n":1.0},{"name":"\u0072ead_secret"}], "nextCursor":"a"}`,
			[]string{"delete_all", "", "xyzz!", "xzy", "Read"},
			[]string{"read", "read_x", "xyz", "x-y-y-z"},
		},
		{
			"both", bridge.Filter{Allow: []string{"*"}, Ignore: []string{"*e*e*"}},
			`{"tools": [], "nextCursor":"a"}`, // all three have two letters e
			[]string{"e e", "eel e", "delete"},
			[]string{"read", "", "*"},
		},
		{"nothing left", bridge.Filter{Allow: []string{"nothing"}}, `{"tools": [], "nextCursor":"a"}`, []string{"read_file", "nothing!"}, []string{"nothing"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			state := &remote{handle: func(w http.ResponseWriter, _ *http.Request, m *jsonrpc.Message) {
				if m.Method == "tools/list" {
					answerJSON(w, 200, fmt.Sprintf(`{"jsonrpc":"2.0","result":%s,"id":%s}`, tools, m.ID))
					return
				}
				answerJSON(w, 200, string(jsonrpc.NewResult(m.ID, nil)))
			}}
			h := start(t, bridge.Options{URL: serve(t, state), Filter: tt.filter})
			h.handshake()
			for _, line := range []string{request(1, "tools/list", ""), modern(1, "tools/list")} {
				if got, want := h.call(line), `{"jsonrpc":"2.0","result":`+tt.list+`,"id":1}`; got != want {
					t.Errorf("the list is %s\nwant %s", got, want)
				}
			}
			for _, name := range tt.pass {
				if got := h.call(request(2, "tools/call", `{"name":"`+name+`"}`)); got != answer(2) {
					t.Errorf("%q: %s", name, got)
				}
			}
			calls := len(state.bodies("tools/call"))
			for _, name := range tt.refuse {
				if code, text := errorOf(t, h.call(request(3, "tools/call", `{"name":"`+name+`"}`)), 3); code != jsonrpc.CodeInvalidParams || !strings.Contains(text, "--ignore-tool") {
					t.Errorf("%q: %d %s", name, code, text)
				}
			}
			if len(tt.refuse) > 0 {
				for _, params := range []string{`{"name":"` + tt.pass[0] + `","name":"` + tt.refuse[0] + `"}`, `{"name":"` + tt.pass[0] + `","Name":"` + tt.refuse[0] + `"}`} {
					errorOf(t, h.call(request(4, "tools/call", params)), 4)
				}
				// Other parsers take the first of two, or take no notice of case, or
				// execute what nobody waits for.
				refused := `"params":{"name":"` + tt.refuse[0] + `"}`
				for _, line := range []string{
					`{"jsonrpc":"2.0","id":4,"method":"tools/call",` + refused + `,"params":{"name":"` + tt.pass[0] + `"}}`,
					`{"jsonrpc":"2.0","id":4,"method":"tools/call","method":"x/y",` + refused + `}`,
					`{"jsonrpc":"2.0","id":4,"method":"x/y","Method":"tools/call",` + refused + `}`,
					`{"jsonrpc":"2.0","id":4,"method":"tools/call","params":{"name":"` + tt.pass[0] + `"},"PARAMS":{}}`,
				} {
					errorOf(t, h.call(line), 4)
				}
				h.send(`{"jsonrpc":"2.0","method":"tools/call",` + refused + `}`)
				if got := h.call(request(5, "x/y", "")); got != answer(5) { // it comes behind the notification
					t.Errorf("got %s", got)
				}
			}
			if n := len(state.bodies("tools/call")); n != calls {
				t.Errorf("%d calls that were refused reached the server", n-calls)
			}
		})
	}
}

// A list of tools that is too large for memory is filtered as well.
func TestLargeListsAreFiltered(t *testing.T) {
	big := strings.Repeat("x", 5<<20)
	state := &remote{handle: func(w http.ResponseWriter, _ *http.Request, m *jsonrpc.Message) {
		answerJSON(w, 200, fmt.Sprintf(`{"jsonrpc":"2.0","id":%s,"result":{"tools":[{"name":"a","d":"%s"},{"name":"b","d":"%s"}]}}`, m.ID, big, big))
	}}
	h := start(t, bridge.Options{URL: serve(t, state), Filter: bridge.Filter{Ignore: []string{"a"}}})
	h.handshake()
	if got, want := h.call(request(1, "tools/list", "")), `{"jsonrpc":"2.0","id":1,"result":{"tools":[{"name":"b","d":"`+big+`"}]}}`; got != want {
		t.Errorf("got %.200s", got)
	}
}

// The bridge's own pings keep an open session alive; they are nobody else's
// business and no reason to sign in.
func TestPingsKeepASessionAlive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		state := &remote{}
		o, _ := inMemory(t, state)
		who := &person{}
		o.Authorizer, o.PingInterval = who, 30*time.Second
		h := start(t, o)
		time.Sleep(2 * time.Minute)
		if n := len(state.seen()); n != 0 {
			t.Errorf("%d requests before the host has spoken", n)
		}
		h.handshake()
		time.Sleep(2*time.Minute + time.Second)
		if n := len(state.bodies("ping")); n != 4 {
			t.Errorf("%d pings in two minutes", n)
		}
		h.quiet(time.Second)
		state.mu.Lock()
		state.token = "other"
		state.mu.Unlock()
		time.Sleep(2 * time.Minute)
		if n := who.times(); n != 0 {
			t.Errorf("asked to sign in %d times for a ping", n)
		}
		_ = h.end()
	})
}

func TestAnswersThatStandStillEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		state := &remote{handle: func(w http.ResponseWriter, r *http.Request, m *jsonrpc.Message) {
			send := events(w)
			for range 3 {
				time.Sleep(20 * time.Second)
				send(`{"jsonrpc":"2.0","method":"notifications/message"}`)
			}
			<-r.Context().Done()
		}}
		o, _ := inMemory(t, state)
		o.BodyTimeout = 30 * time.Second
		h := start(t, o)
		h.handshake()
		began := time.Now()
		h.send(request(1, "tools/call", `{"name":"x"}`))
		for range 3 {
			h.next()
		}
		if _, text := errorOf(t, h.next(), 1); !strings.Contains(text, "30s") {
			t.Errorf("got %q", text)
		}
		if took := time.Since(began); took < 90*time.Second || took > 95*time.Second {
			t.Errorf("after %s", took)
		}
		_ = h.end()
	})
}

func TestStateIsWrittenWhenAskedFor(t *testing.T) {
	release := make(chan struct{})
	state := &remote{handle: func(w http.ResponseWriter, _ *http.Request, m *jsonrpc.Message) {
		<-release
		answerJSON(w, 200, string(jsonrpc.NewResult(m.ID, nil)))
	}}
	dump, out := make(chan os.Signal), make(lines)
	h := start(t, bridge.Options{URL: serve(t, state), Dump: dump, DumpTo: out})
	dump <- os.Interrupt
	if got := <-out; !strings.Contains(got, "session      none: the host has not sent initialize") {
		t.Errorf("at first:\n%s", got)
	}
	h.handshake()
	h.send(request("q", "tools/call", `{"name":"x","arguments":{"password":"canary"}}`))
	for deadline := time.Now().Add(30 * time.Second); ; {
		dump <- os.Interrupt
		got := <-out
		if strings.Contains(got, `"tools/call", id "q"`) && strings.Contains(got, "at the server") {
			if !strings.Contains(got, "open, revision 2025-11-25") || strings.Contains(got, "canary") {
				t.Errorf("with a call under way:\n%s", got)
			}
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the call does not show:\n%s", got)
		}
	}
	close(release)
	if got := h.next(); got != answer("q") {
		t.Errorf("got %s", got)
	}
}

// lines receives what is written, a Write each.
type lines chan string

func (l lines) Write(p []byte) (int, error) {
	l <- string(p)
	return len(p), nil
}
