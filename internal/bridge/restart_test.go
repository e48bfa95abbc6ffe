package bridge_test

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mcp-clerk/mcp-clerk/internal/bridge"
	"github.com/mcp-clerk/mcp-clerk/internal/jsonrpc"
)

// A server that is restarted: its sessions are gone, and their requests go on in
// one new session.

// A server whose first answers to initialize come of its gateway is not stormed:
// whoever finds that out late goes on in the session that another has opened.
func TestManyThatFindNoNewSessionOpenOne(t *testing.T) {
	for i := range 24 { // who comes when is chance
		status := 500 + 2*(i%2)
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			s := &remote{}
			var mu sync.Mutex
			refuse, held, inits := 0, 0, 0
			all := make(chan struct{})
			const flying = 32
			h := start(t, bridge.Options{URL: serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				switch method := peek(r).Method; {
				case method == "initialize":
					mu.Lock()
					inits++
					no := refuse > 0
					refuse = max(0, refuse-1)
					mu.Unlock()
					if no {
						w.WriteHeader(status)
						return
					}
				case method == "tools/call" && r.Header.Get("Mcp-Session-Id") == "session-1":
					mu.Lock()
					if held++; held == flying {
						close(all)
					}
					mu.Unlock()
					<-all // they are refused at once
				}
				s.ServeHTTP(w, r)
			}))})
			h.handshake()
			h.call(request("ready", "ping", ""))
			mu.Lock()
			refuse, inits = 2, 0
			mu.Unlock()
			s.restart()
			for i := range flying {
				h.send(request(i, "tools/call", ""))
			}
			failed := 0
			for _, line := range h.collect(flying) {
				if strings.Contains(line, `"error"`) {
					failed++
				}
			}
			want(t, h.call(request("x", "tools/call", "")), answer("x"))
			mu.Lock()
			defer mu.Unlock()
			if inits > 8 {
				t.Errorf("initialize was sent %d times, for %d failed", inits, failed)
			}
		})
	}
}

// The stream of what the server sends unasked comes back with the session, also
// where it was refused meanwhile.
func TestTheServerIsHeardAgainAfterRestarts(t *testing.T) {
	tell := make(chan string)
	s := &remote{get: func(w http.ResponseWriter, r *http.Request) {
		send := events(w)
		for {
			select {
			case line := <-tell:
				send(line)
			case <-r.Context().Done():
				return
			}
		}
	}}
	var mu sync.Mutex
	refused := 0
	h := start(t, bridge.Options{URL: serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		no := r.Method == http.MethodGet && refused > 0
		if no {
			refused--
		}
		mu.Unlock()
		if no { // a server that has been restarted once more
			s.restart()
			w.WriteHeader(http.StatusNotFound)
			return
		}
		s.ServeHTTP(w, r)
	}))})
	h.handshake()
	for i := range 20 {
		mu.Lock()
		refused = i % 2
		mu.Unlock()
		s.restart()
		want(t, h.call(request(i, "tools/call", "")), answer(i))
		if i%2 == 1 { // until the GET was refused
			for deadline := time.Now().Add(40 * time.Second); ; time.Sleep(time.Millisecond) {
				mu.Lock()
				left := refused
				mu.Unlock()
				if left == 0 {
					break
				}
				if time.Now().After(deadline) {
					t.Fatal("the server is not listened to any more")
				}
			}
		}
	}
	want(t, h.call(request("last", "tools/call", "")), answer("last"))
	for {
		select {
		case tell <- `{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}`: // perhaps to a stream that is just ending
		case line := <-h.lines:
			want(t, line, `{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}`)
			return
		case <-time.After(time.Minute):
			t.Fatal("the host has not heard of the server")
		}
	}
}

// Who asks for the bridge's state is told what the server has been sent.
func TestTheStateSaysWhereARequestIs(t *testing.T) {
	arrived := make(chan struct{})
	dump, to := make(chan os.Signal, 1), make(chan string, 1)
	h := start(t, bridge.Options{Dump: dump, DumpTo: written(to), URL: serve(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		close(arrived)
		<-r.Context().Done()
	}))})
	h.send(initialize, request(1, "tools/call", `{"name":"canary"}`))
	<-arrived
	said := regexp.MustCompile(`"initialize", id "i", for \S+, at the server\n.*"tools/call", id 1, for \S+, not sent yet`)
	var got string
	for deadline := time.Now().Add(40 * time.Second); !said.MatchString(got); { // until the second has been read
		if time.Now().After(deadline) {
			t.Fatalf("the state is\n%s", got)
		}
		dump <- os.Interrupt
		got = <-to
	}
	if strings.Contains(got, "canary") {
		t.Errorf("params are in %s", got)
	}
}

type written chan string

func (w written) Write(p []byte) (int, error) {
	w <- string(p)
	return len(p), nil
}

// A sign-in that the new session needs is waited for by all whose session is
// gone, as by one that needs it itself: no longer than hosts wait.
func TestAllThatWaitForASessionWaitForItsSignIn(t *testing.T) {
	for _, sse := range []bool{false, true} {
		t.Run(fmt.Sprintf("sse=%v", sse), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var server http.Handler = &remote{}
				if sse {
					server = &sseServer{}
				}
				who := &person{token: "old", takes: 3 * time.Minute, next: "new"}
				var wants atomic.Value
				wants.Store("Bearer old")
				o, _ := inMemory(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					inSession := r.Header.Get("Mcp-Session-Id") != "" || r.URL.Query().Has("session")
					if !inSession && r.Header.Get("Authorization") != wants.Load() {
						w.Header().Set("Www-Authenticate", "Bearer")
						w.WriteHeader(http.StatusUnauthorized)
						return
					}
					server.ServeHTTP(w, r)
				}))
				o.Authorizer, o.SignInURL = who, who.signInURL
				if sse {
					o.URL, o.Strategy = "http://server.test/sse", bridge.SSEOnly
				}
				h := start(t, o)
				h.handshake()
				h.call(request("ready", "ping", ""))
				wants.Store("Bearer new")
				if s, ok := server.(*remote); ok {
					s.restart()
				} else {
					h.call(request("end", "drop", ""))
				}
				began := time.Now()
				for i := range 3 {
					h.send(request(i, "tools/call", ""))
					time.Sleep(time.Second)
				}
				for _, line := range h.collect(3) {
					if !strings.Contains(line, "mcp-clerk login") {
						t.Errorf("got %s", line)
					}
				}
				if took := time.Since(began); took > 55*time.Second {
					t.Errorf("answered after %v", took)
				}
				time.Sleep(3 * time.Minute)
				if got := h.call(request("x", "tools/call", "")); !strings.Contains(got, `"result"`) || who.times() != 1 {
					t.Errorf("got %s, signed in %d times", got, who.times())
				}
			})
		})
	}
}

// A server that is restarted behind a gateway: its session is gone, and at first
// so is whoever opens another. Requests of a host that is translated for find
// out at different times, and none of them ends what another has found.
func TestATranslatedServerIsRestartedUnderLoad(t *testing.T) {
	for status, says := range map[int]string{502: "HTTP status 502", 404: "No valid session ID"} {
		t.Run(fmt.Sprint(status), func(t *testing.T) { restartTranslated(t, status, says) })
	}
}

func restartTranslated(t *testing.T, status int, says string) {
	s := &remote{}
	var mu sync.Mutex
	down := 1 // how often initialize is refused from now on
	front := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if peek(r).Method == "initialize" {
			mu.Lock()
			refuse := down > 0
			down = max(0, down-1)
			mu.Unlock()
			if refuse {
				http.Error(w, "not now", status)
				return
			}
		}
		s.ServeHTTP(w, r)
	})
	h := start(t, bridge.Options{URL: serve(t, legacyOnly(front))})
	if _, text := errorOf(t, h.call(modernCall("early", "x/y", "")), "early"); !strings.Contains(text, says) {
		t.Errorf("the host was told %q", text)
	}
	want(t, h.call(modernCall("first", "x/y", "")), `{"jsonrpc":"2.0","id":"first","result":{"resultType":"complete"}}`)
	const restarts, each = 6, 50
	go func() {
		for i := range restarts * each {
			if i%each == each/2 {
				mu.Lock()
				down = 1
				mu.Unlock()
				s.restart()
			}
			_, _ = io.WriteString(h.in, modernCall(i, "x/y", "")+"\n")
		}
	}()
	got := map[string]bool{}
	failed := map[string]int{}
	for range restarts * each {
		line := h.next()
		m, err := jsonrpc.Parse([]byte(line), jsonrpc.Limits{})
		if err != nil || got[string(m.ID)] {
			t.Fatalf("got %s", line)
		}
		got[string(m.ID)] = true
		if m.Error != nil {
			text, _ := jsonrpc.LookupString(m.Error, "message")
			failed[text]++
		}
	}
	for text, n := range failed {
		if !strings.Contains(text, says) && !strings.Contains(text, "not now") {
			t.Errorf("%d requests failed: %s", n, text)
		}
	}
	want(t, h.call(modernCall("last", "x/y", "")), `{"jsonrpc":"2.0","id":"last","result":{"resultType":"complete"}}`)
	if err := h.end(); err != nil {
		t.Error(err)
	}
}

// A request that finds late that its session is gone goes on in the one that
// another has opened, and does not end it.
func TestWhoComesLateToAnEndedSessionEndsNoOther(t *testing.T) {
	s := &remote{}
	at, open := map[string]chan bool{"x/b": make(chan bool), "x/c": make(chan bool)}, map[string]chan bool{"x/b": make(chan bool), "x/c": make(chan bool)}
	hold := func(method string) {
		at[method] <- true
		<-open[method]
	}
	s.handle = func(w http.ResponseWriter, _ *http.Request, m *jsonrpc.Message) {
		if m.Method == "x/c" {
			hold("x/c")
		}
		answerJSON(w, 200, string(jsonrpc.NewResult(m.ID, nil)))
	}
	var down atomic.Int32 // how often initialize is refused from now on
	var late sync.Once
	front := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch method := peek(r).Method; {
		case method == "x/b":
			late.Do(func() { hold("x/b") })
		case method == "initialize" && down.Add(-1) >= 0:
			http.Error(w, "not now", http.StatusBadGateway)
			return
		}
		s.ServeHTTP(w, r)
	})
	h := start(t, bridge.Options{URL: serve(t, legacyOnly(front))})
	done := func(id string) string {
		return `{"jsonrpc":"2.0","id":"` + id + `","result":{"resultType":"complete"}}`
	}
	want(t, h.call(modernCall("first", "x/y", "")), done("first"))
	h.send(modernCall("b", "x/b", ""))
	<-at["x/b"]
	s.restart()
	down.Store(1)
	want(t, h.call(modernCall("a", "x/y", "")), done("a"))
	h.send(modernCall("c", "x/c", ""))
	<-at["x/c"]
	down.Store(1)
	open["x/b"] <- true
	want(t, h.next(), done("b"))
	open["x/c"] <- true
	want(t, h.next(), done("c"))
	if err := h.end(); err != nil {
		t.Error(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.live) != 0 {
		t.Errorf("%d sessions were left open", len(s.live))
	}
}

// Every request is answered, by a new session each time, without a new sign-in.
func TestServerRestartedUnderLoad(t *testing.T) {
	state := &remote{token: "tok"}
	who := &person{token: "tok"}
	h := start(t, bridge.Options{URL: serve(t, state), Authorizer: who})
	h.handshake()
	const restarts, each = 20, 50
	go func() {
		for i := range restarts * each {
			if i%each == each/2 {
				state.restart()
			}
			_, _ = io.WriteString(h.in, request(i, "tools/call", "")+"\n")
		}
	}()
	got := map[string]bool{}
	for range restarts * each {
		m, err := jsonrpc.Parse([]byte(h.next()), jsonrpc.Limits{})
		if err != nil || m.Result == nil {
			t.Fatalf("got %s", m.Raw)
		}
		got[string(m.ID)] = true
	}
	if len(got) != restarts*each || who.times() != 0 || state.early != 0 {
		t.Errorf("%d answered, %d sign-ins, %d requests before initialized", len(got), who.times(), state.early)
	}
}
