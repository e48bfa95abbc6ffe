package bridge_test

import (
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mcp-clerk/mcp-clerk/internal/bridge"
	"github.com/mcp-clerk/mcp-clerk/internal/jsonrpc"
)

// signingIn starts a bridge whose server wants the token "tok".
func signingIn(t *testing.T, state *remote, who *person) *host {
	t.Helper()
	state.token = "tok"
	o, _ := inMemory(t, state)
	o.Authorizer, o.SignInURL = who, who.signInURL
	return start(t, o)
}

var listChanged = []string{
	`{"jsonrpc":"2.0","method":"notifications/prompts/list_changed"}`,
	`{"jsonrpc":"2.0","method":"notifications/resources/list_changed"}`,
	`{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}`,
}

// Who signs in quickly gets the server's own answer: relay wins.
func TestQuickSignInIsRelayed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		state := &remote{capabilities: `{"tools":{}}`}
		who := &person{takes: 20 * time.Second, next: "tok"}
		h := signingIn(t, state, who)
		began := time.Now()
		line := h.call(initialize)
		if !strings.Contains(line, `"name":"s"`) || !strings.Contains(line, `"capabilities":{"tools":{}}`) || time.Since(began) != 20*time.Second {
			t.Errorf("after %v: %s", time.Since(began), line)
		}
		h.send(initialized)
		if got := h.call(request(1, "prompts/list", "")); got != answer(1) { // the server's answer, whatever it is
			t.Errorf("got %s", got)
		}
		h.quiet(time.Minute)
		if who.times() != 1 {
			t.Errorf("signed in %d times", who.times())
		}
	})
}

func TestHostIsAnsweredWhileThePersonSignsIn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		state := &remote{}
		who := &person{takes: 3 * time.Minute, next: "tok", url: "https://as.test/authorize?state=x"}
		h := signingIn(t, state, who)
		began := time.Now()
		line := h.call(initialize)
		if took := time.Since(began); took > 40*time.Second || took > 29*time.Second {
			t.Errorf("answered after %v", took)
		}
		m, err := jsonrpc.Parse([]byte(line), jsonrpc.Limits{Strict: true})
		if err != nil || string(m.ID) != `"i"` {
			t.Fatalf("%s: %v", line, err)
		}
		if v, _ := jsonrpc.LookupString(m.Result, "protocolVersion"); v != "2025-11-25" {
			t.Errorf("version %q", v)
		}
		for _, path := range [][]string{{"tools", "listChanged"}, {"prompts", "listChanged"}, {"resources", "listChanged"}, {"resources", "subscribe"}} {
			if v, _ := jsonrpc.Lookup(m.Result, append([]string{"capabilities"}, path...)...); string(v) != "true" {
				t.Errorf("capability %v is not promised", path)
			}
		}
		for _, name := range []string{"completions", "logging"} {
			if v, _ := jsonrpc.Lookup(m.Result, "capabilities", name); string(v) != "{}" {
				t.Errorf("capability %s is not promised", name)
			}
		}
		if s, _ := jsonrpc.LookupString(m.Result, "instructions"); !strings.Contains(s, who.url) || !strings.Contains(s, "mcp-clerk login http://server.test/mcp") {
			t.Errorf("instructions %q", s)
		}

		h.send(initialized)
		for method, want := range map[string]string{
			"tools/list": `{"tools":[]}`, "prompts/list": `{"prompts":[]}`, "resources/list": `{"resources":[]}`,
			"resources/templates/list": `{"resourceTemplates":[]}`, "ping": `{}`,
		} {
			asked := time.Now()
			if got := h.call(request(1, method, "")); got != `{"jsonrpc":"2.0","id":1,"result":`+want+`}` || time.Since(asked) != 0 {
				t.Errorf("%s: got %s", method, got)
			}
		}

		asked := time.Now()
		code, text := errorOf(t, h.call(request(2, "tools/call", "")), 2)
		if code != -32603 || !strings.Contains(text, who.url) || !strings.Contains(text, "run `mcp-clerk login http://server.test/mcp`") || time.Since(asked) != 50*time.Second {
			t.Errorf("after %v: %d %s", time.Since(asked), code, text)
		}

		// A cancelled request that waits has no response.
		h.send(request(3, "tools/call", ""), `{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":3}}`)

		// One that waits long enough gets the server's.
		time.Sleep(3*time.Minute - 40*time.Second - time.Since(began))
		h.send(request(4, "tools/call", ""))
		got := h.collect(4)
		if diff := cmp.Diff(append([]string{answer(4)}, listChanged...), got); diff != "" {
			t.Errorf("(-want +got)\n%s", diff)
		}
		if took := time.Since(began); took < 3*time.Minute || took > 3*time.Minute+time.Second {
			t.Errorf("went on after %v", took)
		}

		var sent []string
		for _, r := range state.seen() {
			if r.HTTP == http.MethodPost {
				sent = append(sent, fmt.Sprint(r.Body, " ", r.Header.Get("Authorization"), " ", r.Header.Get("Mcp-Session-Id")))
			}
		}
		want := []string{
			initialize + "  ", initialize + " Bearer tok ", initialized + " Bearer tok session-1",
			request(4, "tools/call", "") + " Bearer tok session-1",
		}
		if diff := cmp.Diff(want, sent); diff != "" {
			t.Errorf("the server got: (-want +got)\n%s", diff)
		}
		if who.times() != 1 {
			t.Errorf("signed in %d times", who.times())
		}
	})
}

// What was promised and is not there answers empty, or -32601.
func TestPromisesAreBridgedToWhatTheServerHas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		state := &remote{capabilities: `{"tools":{},"resources":{"subscribe":false}}`, version: "2025-03-26"}
		h := signingIn(t, state, &person{takes: time.Minute, next: "tok"})
		h.call(initialize)
		h.send(initialized)
		h.collect(3)
		for method, want := range map[string]string{
			"tools/list": answer(1), "tools/call": answer(1), "resources/list": answer(1), "resources/read": answer(1), "ping": answer(1), "no/such": answer(1),
			"prompts/list":        `{"jsonrpc":"2.0","id":1,"result":{"prompts":[]}}`,
			"prompts/get":         `-32601`,
			"resources/subscribe": `-32601`, "resources/unsubscribe": `-32601`,
			"completion/complete": `-32601`, "logging/setLevel": `-32601`,
		} {
			if got := h.call(request(1, method, "")); got != want && (want != `-32601` || !strings.Contains(got, `"error":{"code":-32601`)) {
				t.Errorf("%s: got %s", method, got)
			}
		}
		for _, method := range []string{"prompts/list", "prompts/get", "resources/subscribe", "logging/setLevel"} {
			if n := len(state.bodies(method)); n != 0 {
				t.Errorf("%s reached the server", method)
			}
		}
		// The header has the server's version, whatever the host was told.
		last := state.seen()[len(state.seen())-1]
		if v := last.Header.Get("Mcp-Protocol-Version"); v != "2025-03-26" {
			t.Errorf("version header %q", v)
		}
	})
}

func TestVersionPromisedIsTheHostsIfLegacy(t *testing.T) {
	for asked, want := range map[string]string{
		"2024-11-05": "2024-11-05", "2025-03-26": "2025-03-26", "2025-06-18": "2025-06-18", "2025-11-25": "2025-11-25",
		"2026-07-28": "2025-11-25", "1.0": "2025-11-25",
	} {
		synctest.Test(t, func(t *testing.T) {
			h := signingIn(t, &remote{}, &person{takes: time.Hour})
			if line := h.call(strings.Replace(initialize, "2025-11-25", asked, 1)); !strings.Contains(line, `"protocolVersion":"`+want+`"`) {
				t.Errorf("asked for %s: %s", asked, line)
			}
		})
	}
}

// A server that is only slow is no reason to keep the host waiting either.
func TestSlowServerDoesNotKeepTheHostWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		state := &remote{}
		o, _ := inMemory(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Mcp-Session-Id") == "" {
				time.Sleep(2 * time.Minute)
			}
			state.ServeHTTP(w, r)
		}))
		h := start(t, o)
		began := time.Now()
		h.call(initialize)
		if took := time.Since(began); took > 40*time.Second {
			t.Errorf("answered after %v", took)
		}
		h.send(initialized)
		if code, text := errorOf(t, h.call(request(1, "tools/call", "")), 1); code != -32603 || !strings.Contains(text, "server.test does not answer yet") {
			t.Errorf("%d %s", code, text)
		}
		if diff := cmp.Diff(listChanged, h.collect(3)); diff != "" {
			t.Errorf("(-want +got)\n%s", diff)
		}
	})
}

func TestRefusedSignInIsAnError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		who := &person{takes: time.Second, refuse: errDenied}
		h := signingIn(t, &remote{}, who)
		code, text := errorOf(t, h.call(initialize), "i")
		if code != -32603 || !strings.Contains(text, "access denied") || !strings.Contains(text, "run `mcp-clerk login http://server.test/mcp`") {
			t.Errorf("%d %s", code, text)
		}
		h.quiet(10 * time.Minute) // nothing is tried that the host did not ask for
		if who.times() != 1 {
			t.Errorf("asked %d times", who.times())
		}
	})
}

// The host was answered, then the sign-in failed: lists stay empty, a call tries
// again, and a sign-in by another way (in a terminal) is noticed.
func TestSignInThatFailsLateCanBeMadeGood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		state := &remote{}
		who := &person{takes: time.Minute, refuse: errDenied}
		h := signingIn(t, state, who)
		h.call(initialize)
		h.send(initialized)
		time.Sleep(5 * time.Minute)
		if got := h.call(request(1, "tools/list", "")); got != `{"jsonrpc":"2.0","id":1,"result":{"tools":[]}}` || who.times() != 1 {
			t.Errorf("asked %d times, got %s", who.times(), got)
		}
		who.takes = time.Second
		if code, text := errorOf(t, h.call(request(2, "tools/call", "")), 2); code != -32603 || !strings.Contains(text, "access denied") || who.times() != 2 {
			t.Errorf("asked %d times, then %d %s", who.times(), code, text)
		}
		who.set("tok")
		began := time.Now()
		if diff := cmp.Diff(listChanged, h.collect(3)); diff != "" {
			t.Errorf("(-want +got)\n%s", diff)
		}
		if took := time.Since(began); took > 15*time.Second || who.times() != 2 {
			t.Errorf("noticed after %v, asked %d times", took, who.times())
		}
		if got := h.call(request(3, "tools/call", "")); got != answer(3) {
			t.Errorf("got %s", got)
		}
	})
}

// The network is away when the person has signed in: it is tried again.
func TestSessionIsOpenedWhenTheNetworkIsBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		state := &remote{token: "tok"}
		o, net := inMemory(t, state)
		who := &person{takes: time.Minute, next: "tok"}
		o.Authorizer = who
		h := start(t, o)
		h.call(initialize)
		h.send(initialized)
		net.Refuse.Store(true)
		o.HTTPClient.CloseIdleConnections()
		time.Sleep(10 * time.Minute)
		net.Refuse.Store(false)
		if diff := cmp.Diff(listChanged, h.collect(3)); diff != "" {
			t.Errorf("(-want +got)\n%s", diff)
		}
		if who.times() != 1 {
			t.Errorf("signed in %d times", who.times())
		}
	})
}

// A server that lets everybody initialize and asks for a sign-in at a call.
func TestSignInInTheMiddleIsWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		who := &person{takes: 30 * time.Second, next: "tok", url: "https://as.test/authorize"}
		state := &remote{}
		state.handle = func(w http.ResponseWriter, r *http.Request, m *jsonrpc.Message) {
			if m.Method == "tools/call" && r.Header.Get("Authorization") == "" {
				w.WriteHeader(401)
				return
			}
			answerJSON(w, 200, string(jsonrpc.NewResult(m.ID, nil)))
		}
		o, _ := inMemory(t, state)
		o.Authorizer, o.SignInURL = who, who.signInURL
		h := start(t, o)
		h.handshake()
		began := time.Now()
		h.send(request(1, "tools/call", ""), request(2, "tools/call", ""))
		if got := h.call(request(3, "tools/list", "")); got != answer(3) || time.Since(began) != 0 { // others go on
			t.Errorf("got %s after %v", got, time.Since(began))
		}
		if diff := cmp.Diff([]string{answer(1), answer(2)}, h.collect(2)); diff != "" || time.Since(began) != 30*time.Second {
			t.Errorf("after %v: %s", time.Since(began), diff)
		}
		who.set("")
		who.takes = time.Hour
		began = time.Now()
		code, text := errorOf(t, h.call(request(4, "tools/call", "")), 4)
		if code != -32603 || !strings.Contains(text, who.url) || time.Since(began) != 50*time.Second {
			t.Errorf("after %v: %d %s", time.Since(began), code, text)
		}
		if who.times() != 2 {
			t.Errorf("asked %d times", who.times())
		}
	})
}

// A request that waits for a sign-in and is cancelled is never executed, and
// the server, which has refused it, is told nothing.
func TestRequestCancelledDuringASignInIsNotExecuted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		who := &person{takes: 2 * time.Second, next: "tok"}
		state := &remote{}
		executed := 0
		state.handle = func(w http.ResponseWriter, r *http.Request, m *jsonrpc.Message) {
			if r.Header.Get("Authorization") == "" {
				w.WriteHeader(401)
				return
			}
			executed++
			answerJSON(w, 200, string(jsonrpc.NewResult(m.ID, nil)))
		}
		o, _ := inMemory(t, state)
		o.Authorizer = who
		h := start(t, o)
		h.handshake()
		h.send(request(1, "tools/call", ""))
		time.Sleep(time.Second)
		h.send(`{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1}}`)
		h.quiet(time.Minute)
		if n := len(state.bodies("notifications/cancelled")); executed != 0 || n != 0 {
			t.Errorf("executed %d times, cancelled %d times", executed, n)
		}
		if got := h.call(request(2, "tools/call", "")); got != answer(2) || who.times() != 1 { // the sign-in was not lost
			t.Errorf("got %s after %d sign-ins", got, who.times())
		}
	})
}

func TestRefusedInitializeIsRelayed(t *testing.T) {
	refusal := `{"jsonrpc":"2.0","id":"i","error":{"code":-32602,"message":"Unsupported protocol version","data":{"supported":["x"]}}}`
	state := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { answerJSON(w, 400, refusal) })
	h := start(t, bridge.Options{URL: serve(t, state)})
	if got := h.call(initialize); got != refusal {
		t.Errorf("got %s", got)
	}
	if got := h.call(request(1, "ping", "")); !strings.Contains(got, `"id":1`) { // whatever it says
		t.Errorf("got %s", got)
	}
}

func TestHostThatLeavesDuringTheSignInEndsTheBridge(t *testing.T) {
	for _, after := range []time.Duration{time.Second, time.Minute} {
		synctest.Test(t, func(t *testing.T) {
			state := &remote{}
			h := signingIn(t, state, &person{takes: time.Hour})
			h.send(initialize)
			if after > time.Second {
				h.next()
				h.send(initialized, request(1, "tools/call", ""))
			}
			time.Sleep(after - time.Second)
			began := time.Now()
			if err := h.end(); err != nil || time.Since(began) > 2*time.Second {
				t.Errorf("%v after %v", err, time.Since(began))
			}
			if slices.ContainsFunc(state.seen(), func(r seen) bool { return r.HTTP == http.MethodDelete }) {
				t.Error("a session that was never there was ended")
			}
		})
	}
}

// The host of a server that was asked before is told what it said then.
func TestTheLastHandshakeIsKept(t *testing.T) {
	var last []byte
	synctest.Test(t, func(t *testing.T) {
		state := &remote{capabilities: `{"tools":{},"resources":{"subscribe":true},"logging":{}}`}
		o, _ := inMemory(t, state)
		o.Remember = func(data []byte) { last = data }
		h := start(t, o)
		h.handshake()
	})
	if v, _ := jsonrpc.LookupString(last, "initialize", "protocolVersion"); v != "2025-11-25" {
		t.Fatalf("kept %s", last)
	}
	name, _ := jsonrpc.LookupString(last, "initialize", "serverInfo", "name")
	for text, wantsKept := range map[string]bool{
		string(last): true, "": false, "no JSON": false, `{"initialize":[]}`: false,
		`{"initialize":{"serverInfo":{"name":"x"}}}`: false, `{"initialize":{"capabilities":[],"serverInfo":{}}}`: false,
	} {
		synctest.Test(t, func(t *testing.T) {
			state := &remote{token: "tok"}
			who := &person{takes: time.Hour, url: "https://as.test/authorize"}
			o, _ := inMemory(t, state)
			o.Authorizer, o.SignInURL, o.Recall = who, who.signInURL, func() []byte { return []byte(text) }
			h := start(t, o)
			began := time.Now()
			m, err := jsonrpc.Parse([]byte(h.call(initialize)), jsonrpc.Limits{Strict: true})
			if err != nil || time.Since(began) > 40*time.Second {
				t.Fatalf("after %v: %v", time.Since(began), err)
			}
			got, _ := jsonrpc.LookupString(m.Result, "serverInfo", "name")
			_, prompts := jsonrpc.Lookup(m.Result, "capabilities", "prompts")
			changes, _ := jsonrpc.Lookup(m.Result, "capabilities", "tools", "listChanged")
			subscribe, _ := jsonrpc.Lookup(m.Result, "capabilities", "resources", "subscribe")
			hint, _ := jsonrpc.LookupString(m.Result, "instructions")
			if (got == name && !prompts) != wantsKept || string(changes) != "true" || string(subscribe) != "true" || !strings.Contains(hint, who.url) {
				t.Errorf("with %q kept: %s", text, m.Result)
			}
		})
	}
}

// A host that can open URLs is asked to, once for each sign-in and not before it
// takes requests, and is told when it is over; others are asked nothing.
func TestAHostThatOpensURLsIsOfferedTheSignIn(t *testing.T) {
	const opens = `{"jsonrpc":"2.0","id":"i","method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{"elicitation":{"url":{}}},"clientInfo":{"name":"h","version":"1"}}}`
	for name, tc := range map[string]struct {
		initialize string
		offered    bool
	}{"can": {opens, true}, "cannot": {initialize, false}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				state := &remote{token: "tok"}
				who := &person{takes: time.Minute, next: "tok", url: "https://as.test/authorize"}
				o, _ := inMemory(t, state)
				signIns := make(chan string, 1)
				o.Authorizer, o.SignInURL, o.SignIns = who, who.signInURL, signIns
				h := start(t, o)
				h.send(tc.initialize)
				synctest.Wait() // the sign-in is the host's request's doing
				signIns <- who.url
				h.next() // the promise, with nothing before it
				h.quiet(time.Second)
				h.send(initialized)
				if tc.offered {
					want := `{"jsonrpc":"2.0","id":"mcp-clerk-sign-in-1","method":"elicitation/create","params":{"mode":"url","elicitationId":"mcp-clerk-sign-in-1","url":"https://as.test/authorize","message":"server.test asks you to sign in."}}`
					if got := h.next(); got != want {
						t.Errorf("got %s", got)
					}
					h.send(`{"jsonrpc":"2.0","id":"mcp-clerk-sign-in-1","result":{"action":"decline"}}`)
				}
				want := listChanged
				if tc.offered {
					want = append([]string{`{"jsonrpc":"2.0","method":"notifications/elicitation/complete","params":{"elicitationId":"mcp-clerk-sign-in-1"}}`}, listChanged...)
				}
				if diff := cmp.Diff(want, h.collect(len(want))); diff != "" {
					t.Errorf("(-want +got)\n%s", diff)
				}
				for _, r := range state.seen() {
					if strings.Contains(r.Body, "sign-in-1") {
						t.Errorf("the server was told %s", r.Body)
					}
				}
			})
		})
	}
}

// An initialize that is never answered does not stand for all that follow.
func TestAnInitializeThatHangsIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		state := &remote{}
		var hung atomic.Bool
		o, _ := inMemory(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if !hung.Swap(true) {
				_, _ = io.Copy(io.Discard, r.Body)
				<-r.Context().Done()
				return
			}
			state.ServeHTTP(w, r)
		}))
		o.RequestTimeout = 2 * time.Minute
		h := start(t, o)
		began := time.Now()
		h.call(initialize)
		h.send(initialized)
		h.collect(3) // of listChanged
		if took := time.Since(began); took > 3*time.Minute {
			t.Errorf("went on after %v", took)
		}
		want(t, h.call(request(1, "tools/call", "")), answer(1))
	})
}

// Who is answered in the server's place with what a translated server said last
// time is told what holds for this host, and is translated for when it answers.
func TestKeptAnswersOfATranslatedServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &modernServer{listen: make(chan string)}
		who := &person{next: "tok"}
		o, _ := inMemory(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Authorization") != "Bearer tok" {
				w.Header().Set("Www-Authenticate", "Bearer")
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
			s.ServeHTTP(w, r)
		}))
		kept := make(chan []byte, 10)
		o.Authorizer, o.SignInURL, o.Remember = who, who.signInURL, func(data []byte) { kept <- data }
		h := start(t, o)
		h.call(initialize)
		last := <-kept
		_ = h.end()

		who.set("")
		who.takes = 3 * time.Minute
		o.Recall = func() []byte { return last }
		h = start(t, o)
		line := h.call(initialize)
		for _, part := range []string{`"protocolVersion":"2025-11-25"`, `"serverInfo":{"name":"modern","version":"1"}`, `"tools":{"listChanged":true}`} {
			if !strings.Contains(line, part) {
				t.Errorf("%s is not in %s", part, line)
			}
		}
		for _, part := range []string{"supportedVersions", "resultType", "ttlMs", "2026-07-28", "prompts"} {
			if strings.Contains(line, part) {
				t.Errorf("%s is in %s", part, line)
			}
		}
		h.send(initialized, request(1, "logging/setLevel", `{"level":"error"}`), request(2, "resources/subscribe", `{"uri":"x:a"}`))
		early := h.collect(2) // SignInWait is shorter than the person
		for _, line := range early {
			if !strings.Contains(line, `"error"`) {
				t.Errorf("got %s", line)
			}
		}
		time.Sleep(100 * time.Second)
		h.send(request(3, "tools/call", `{"name":"echo"}`))
		got := h.collect(4)
		if diff := cmp.Diff(append([]string{`{"jsonrpc":"2.0","id":3,"result":{"content":[],"x":1.50}}`}, listChanged...), got); diff != "" {
			t.Errorf("(-want +got)\n%s", diff)
		}
		want(t, h.call(request(4, "resources/subscribe", `{"uri":"x:a"}`)), answer(4))
		synctest.Wait() // until the stream of before has ended
		s.listen <- `{"jsonrpc":"2.0","method":"notifications/resources/updated","params":{"uri":"x:a","_meta":{"io.modelcontextprotocol/subscriptionId":"x"}}}`
		want(t, h.next(), `{"jsonrpc":"2.0","method":"notifications/resources/updated","params":{"uri":"x:a"}}`)
		if code, _ := errorOf(t, h.call(request(5, "prompts/get", `{"name":"x"}`)), 5); code != jsonrpc.CodeMethodNotFound {
			t.Errorf("a prompt that the server does not have: %d", code)
		}
	})
}

// A modern host waits for the sign-in itself, and is then translated for.
func TestAModernHostWaitsForTheSignInOfALegacyServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		state := &remote{token: "tok", capabilities: `{"tools":{}}`}
		who := &person{takes: 70 * time.Second, next: "tok"}
		o, _ := inMemory(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Authorization") != "Bearer tok" {
				state.ServeHTTP(w, r)
				return
			}
			legacyOnly(state).ServeHTTP(w, r)
		}))
		o.Authorizer, o.SignInURL = who, who.signInURL
		o.Recall = func() []byte {
			return []byte(`{"initialize":{"protocolVersion":"2025-11-25","capabilities":{"prompts":{}},"serverInfo":{"name":"old","version":"1"}}}`)
		}
		h := start(t, o)
		if code, text := errorOf(t, h.call(modernCall("d1", "server/discover", "")), "d1"); code != -32603 || !strings.Contains(text, "mcp-clerk login") {
			t.Errorf("%d %s", code, text)
		}
		line := h.call(modernCall("d2", "server/discover", ""))
		for _, part := range []string{`"resultType":"complete"`, `"capabilities":{"tools":{}}`, `"supportedVersions":["2026-07-28","2025-11-25"]`} {
			if !strings.Contains(line, part) {
				t.Errorf("%s is not in %s", part, line)
			}
		}
		want(t, h.call(modernCall(1, "tools/call", `"name":"echo"`)), `{"jsonrpc":"2.0","id":1,"result":{"resultType":"complete"}}`)
		if who.times() != 1 {
			t.Errorf("signed in %d times", who.times())
		}
	})
}
