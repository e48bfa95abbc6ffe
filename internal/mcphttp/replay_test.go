package mcphttp_test

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mcp-clerk/mcp-clerk/internal/identity"
	"github.com/mcp-clerk/mcp-clerk/internal/jsonrpc"
	"github.com/mcp-clerk/mcp-clerk/internal/mcphttp"
)

// steps is a tool that sends one notification each time it is told to, and
// ends when told "end".
type steps struct{ told chan string }

func newSteps() *steps { return &steps{make(chan string)} }

func step(text string) string {
	return `{"jsonrpc":"2.0","method":"notifications/progress","params":{"message":"` + text + `"}}`
}

func (s *steps) handle(ctx context.Context, call *mcphttp.Call) ([]byte, error) {
	for {
		select {
		case text := <-s.told:
			if text == "end" {
				return jsonrpc.NewResult(call.Message.ID, map[string]any{"done": true}), nil
			}
			if text == "disconnect" {
				call.Disconnect(1234 * time.Millisecond)
				continue
			}
			if err := call.Notify(ctx, []byte(step(text))); err != nil {
				return nil, err
			}
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

const (
	steady   = `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"steps"}}`
	finished = `{"jsonrpc":"2.0","id":1,"result":{"done":true}}`
)

// last is the header by which a client comes back.
func last(id string) header { return header{"Last-Event-ID": id} }

// 2025-11-25, basic/transports, Resumability and Redelivery.
func TestAClientThatComesBackGetsWhatItMissedOnce(t *testing.T) {
	for _, version := range []string{"2025-03-26", "2025-06-18", "2025-11-25"} {
		t.Run(version, func(t *testing.T) {
			tool := newSteps()
			s := start(t, with("steps", tool.handle))
			h := s.session(version, `{}`)
			first := make(chan *events)
			go func() { first <- s.events(s.post(steady, h)) }()
			tool.told <- "one"
			e := <-first
			e.want(step("one"))
			if e.id == "" {
				t.Fatal("no event id")
			}
			e.close()
			tool.told <- "two"
			tool.told <- "three"
			again := s.events(s.method(http.MethodGet, h, last(e.id)))
			again.want(step("two"))
			again.want(step("three"))
			tool.told <- "four"
			again.want(step("four"))
			seen := again.id
			again.close()
			tool.told <- "five"
			tool.told <- "end"
			end := s.events(s.method(http.MethodGet, h, last(seen)))
			end.want(step("five"))
			end.want(finished)
			end.end()
			// The end may be lost as well; and an earlier id gets more.
			end = s.events(s.method(http.MethodGet, h, last(e.id)))
			for _, text := range []string{"two", "three", "four", "five"} {
				end.want(step(text))
			}
			end.want(finished)
			end.end()
			// There is nothing after the end.
			s.events(s.method(http.MethodGet, h, last(end.id))).end()
		})
	}
}

// 2025-11-25, basic/transports, Sending Messages, 6. Clients of the revisions
// before would take the event for a message.
func TestStreamsBeginWithAnEventThatPrimesReconnection(t *testing.T) {
	for version, primed := range map[string]bool{"2025-03-26": false, "2025-06-18": false, "2025-11-25": true} {
		t.Run(version, func(t *testing.T) {
			tool := newSteps()
			s := start(t, with("steps", tool.handle))
			h := s.session(version, `{}`)
			call := make(chan *http.Response)
			go func() { call <- s.post(steady, h) }()
			tool.told <- "one"
			get := s.method(http.MethodGet, h)
			for _, res := range []*http.Response{<-call, get} {
				e := s.events(res)
				if !primed && res == get {
					continue // a stream that has said nothing
				}
				var lines []string
				for e.in.Scan() && e.in.Text() != "" {
					lines = append(lines, strings.SplitN(e.in.Text(), ":", 2)[0])
				}
				want := "event id data"
				if primed {
					want = "id retry data"
				}
				if got := strings.Join(lines, " "); got != want {
					t.Errorf("the first event has %q, want %q", got, want)
				}
			}
			tool.told <- "end"
		})
	}
}

func TestEventIDsMeanNothingToAnybodyElse(t *testing.T) {
	tool := newSteps()
	s := start(t, with("steps", tool.handle))
	other := start(t, with("steps", tool.handle))
	h := s.session("2025-11-25", `{}`)
	news := s.events(s.method(http.MethodGet, h))
	changed := `{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}`
	if err := s.Notify(nil, []byte(changed)); err != nil {
		t.Fatal(err)
	}
	news.want(changed)
	first := make(chan *events)
	go func() { first <- s.events(s.post(steady, h)) }()
	tool.told <- "one"
	e := <-first
	e.want(step("one"))
	start, _, _ := strings.Cut(e.id, ".")
	newsStart, _, _ := strings.Cut(news.id, ".")
	bob := s.session("2025-11-25", `{}`, header{"Authorization": "Bearer bob"})
	for name, x := range map[string]struct {
		s *server
		h header
	}{
		"another user":           {s, bob},
		"another session":        {s, s.session("2025-11-25", `{}`)},
		"another grant":          {s, s.session("2025-11-25", `{}`, header{"Authorization": "Bearer alice-other-grant"})},
		"at another instance":    {other, h},
		"a number ahead of time": {s, h},
	} {
		id, newsID := start+".0", newsStart+".0"
		if x.h["Mcp-Session-Id"] == h["Mcp-Session-Id"] && x.s == s {
			id, newsID = start+".99", newsStart+".99"
		}
		if res := x.s.method(http.MethodGet, x.h, last(id)); res.StatusCode != http.StatusBadRequest {
			t.Errorf("%s: the call's stream: %s", name, res.Status)
		}
		// A GET stream that is not kept begins anew.
		stream := x.s.events(x.s.method(http.MethodGet, x.h, last(newsID)))
		if err := x.s.Notify(nil, []byte(`{"jsonrpc":"2.0","method":"notifications/prompts/list_changed"}`)); err != nil {
			t.Fatal(err)
		}
		stream.want(`{"jsonrpc":"2.0","method":"notifications/prompts/list_changed"}`)
		if strings.HasPrefix(stream.id, newsStart) {
			t.Errorf("%s got the stream itself", name)
		}
		stream.close()
	}
	for _, id := range []string{"x", "1", start, start + ".x", start + ".01", start + ".-1", strings.Repeat("a", 5000)} {
		if res := s.method(http.MethodGet, h, last(id)); res.StatusCode != http.StatusBadRequest {
			t.Errorf("%q: %s", id, res.Status)
		}
	}
	tool.told <- "end"
	e.want(finished)
}

func TestNewsOfAClientThatIsAwayWaits(t *testing.T) {
	s := start(t, nil)
	h := s.session("2025-11-25", `{}`)
	said := func(n int) string {
		return fmt.Sprintf(`{"jsonrpc":"2.0","method":"notifications/tools/list_changed","params":{"n":%d}}`, n)
	}
	notify := func(n int) {
		t.Helper()
		if err := s.Notify(nil, []byte(said(n))); err != nil {
			t.Fatal(err)
		}
	}
	e := s.events(s.method(http.MethodGet, h))
	notify(1)
	e.want(said(1))
	seen := e.id
	notify(2)
	e.want(said(2)) // as if it had been lost with the connection
	e.close()
	// Whether the server has noticed or not: nothing is lost, nothing comes twice.
	notify(3)
	again := s.events(s.method(http.MethodGet, h, last(seen)))
	again.want(said(2))
	again.want(said(3))
	notify(4)
	again.want(said(4))
	if got := s.Listening(); len(got) != 1 || got[0] != "user_alice" {
		t.Errorf("listening: %q", got)
	}
	// A second connection takes the stream over, the first one ends.
	third := s.events(s.method(http.MethodGet, h, last(again.id)))
	again.end()
	notify(5)
	third.want(said(5))
	// What goes out on another stream is not sent again on this one.
	third.close()
	third.res.Body.Close()
	fresh := s.events(s.method(http.MethodGet, h))
	notify(6)
	fresh.want(said(6))
	back := s.events(s.method(http.MethodGet, h, last(third.id)))
	notify(7)
	fresh.want(said(7))
	fresh.close()
	back.close()
	// After DELETE there is nothing to come back to.
	s.method(http.MethodDelete, h)
	if res := s.method(http.MethodGet, h, last(third.id)); res.StatusCode != http.StatusNotFound {
		t.Error(res.Status)
	}
	eventually(t, "nobody is waited for after DELETE", func() bool { return len(s.Listening()) == 0 })
}

func TestWhatIsKeptIsBounded(t *testing.T) {
	const n, size = 3000, 1000
	blob := strings.Repeat("x", size)
	release, sent := make(chan struct{}), make(chan error)
	s := start(t, with("steps", func(ctx context.Context, call *mcphttp.Call) ([]byte, error) {
		err := call.Notify(ctx, []byte(step("first")))
		<-release
		for i := 0; i < n && err == nil; i++ {
			err = call.Notify(ctx, []byte(step(strconv.Itoa(i)+" "+blob)))
		}
		sent <- err
		return jsonrpc.NewResult(call.Message.ID, map[string]any{"done": true}), nil
	}))
	h := s.session("2025-11-25", `{}`)
	e := s.events(s.post(steady, h))
	e.want(step("first"))
	e.close()
	close(release)
	if err := <-sent; err != nil {
		t.Fatal(err)
	}
	again := s.events(s.method(http.MethodGet, h, last(e.id)))
	var got []string
	for data, ok := again.next(); ok; data, ok = again.next() {
		got = append(got, data)
	}
	if len(got) < 500 || len(got) > (1<<20)/size {
		t.Fatalf("%d events of %d bytes were kept", len(got), size)
	}
	if got[len(got)-1] != finished {
		t.Errorf("the response is missing: %.100s", got[len(got)-1])
	}
	for i, data := range got[:len(got)-1] {
		if want := step(strconv.Itoa(n-len(got)+1+i) + " " + blob); data != want {
			t.Fatalf("event %d of what is kept: %.100s", i, data)
		}
	}
}

func TestAResponseThatIsNotKeptIsNotPassedOverInSilence(t *testing.T) {
	tool := newSteps()
	s := start(t, mcphttp.HandlerFunc(func(ctx context.Context, call *mcphttp.Call) ([]byte, error) {
		if call.Message.Method != "tools/call" {
			return basics(ctx, call)
		}
		_, err := tool.handle(ctx, call)
		return jsonrpc.NewResult(call.Message.ID, map[string]any{"big": strings.Repeat("x", 2<<20)}), err
	}))
	h := s.session("2025-11-25", `{}`)
	first := make(chan *events)
	go func() { first <- s.events(s.post(steady, h)) }()
	tool.told <- "one"
	e := <-first
	e.want(step("one"))
	e.close()
	tool.told <- "end"
	eventually(t, "a refusal", func() bool {
		return s.method(http.MethodGet, h, last(e.id)).StatusCode == http.StatusBadRequest
	})
}

func TestAStreamIsKeptForAWhileOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tool := newSteps()
		s := startBubble(t, with("steps", tool.handle), func(o *mcphttp.Options) { o.DetachedTimeout = time.Minute })
		h := s.session("2025-11-25", `{}`)
		news := s.events(s.method(http.MethodGet, h))
		news.in.Scan()
		newsID := strings.TrimPrefix(news.in.Text(), "id: ")
		call := make(chan *events)
		go func() { call <- s.events(s.post(steady, h)) }()
		tool.told <- "one"
		e := <-call
		e.want(step("one"))
		go func() { tool.told <- "end" }()
		e.want(finished)
		e.end()
		news.close()
		time.Sleep(59 * time.Second)
		s.events(s.method(http.MethodGet, h, last(e.id))).end()
		if len(s.Listening()) != 1 {
			t.Error("not waited for")
		}
		time.Sleep(2 * time.Second)
		if res := s.method(http.MethodGet, h, last(e.id)); res.StatusCode != http.StatusBadRequest {
			t.Errorf("after a minute: %s", res.Status)
		}
		if got := s.Listening(); len(got) != 0 {
			t.Errorf("still waited for: %q", got)
		}
		fresh := s.events(s.method(http.MethodGet, h, last(newsID)))
		fresh.in.Scan()
		if id := strings.TrimPrefix(fresh.in.Text(), "id: "); id[:10] == newsID[:10] {
			t.Error("the stream was kept")
		}
		fresh.close()
		synctest.Wait()
	})
}

// A client that stays away has its call cancelled, as before; one that comes
// back in time has not.
func TestComingBackKeepsTheCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tool := newSteps()
		s := startBubble(t, with("steps", tool.handle), func(o *mcphttp.Options) { o.DetachedTimeout = time.Minute })
		h := s.session("2025-11-25", `{}`)
		call := make(chan *events)
		go func() { call <- s.events(s.post(steady, h)) }()
		tool.told <- "one"
		e := <-call
		e.want(step("one"))
		for range 5 {
			e.close()
			time.Sleep(50 * time.Second)
			id := e.id
			e = s.events(s.method(http.MethodGet, h, last(id)))
			e.id = id
		}
		go func() { tool.told <- "end" }()
		e.want(finished)
	})
}

// 2025-11-25, basic/transports, Sending Messages, 6: "the server MAY close the
// connection (without terminating the SSE stream) at any time".
func TestACallMayLetItsConnectionGo(t *testing.T) {
	for version, ends := range map[string]bool{"2025-11-25": true, "2025-06-18": false} {
		t.Run(version, func(t *testing.T) {
			tool := newSteps()
			s := start(t, with("steps", tool.handle))
			h := s.session(version, `{}`)
			call := make(chan *http.Response)
			go func() { call <- s.post(steady, h) }()
			tool.told <- "disconnect"
			if !ends {
				go func() { tool.told <- "end" }()
				if got := s.text(<-call); got != finished {
					t.Error(got)
				}
				return
			}
			e := s.events(<-call)
			e.end()
			if e.id == "" || e.retry != "1234" {
				t.Fatalf("id %q, retry %q", e.id, e.retry)
			}
			tool.told <- "one"
			again := s.events(s.method(http.MethodGet, h, last(e.id)))
			again.want(step("one"))
			tool.told <- "end"
			again.want(finished)
			again.end()
		})
	}
	t.Run("modern", func(t *testing.T) {
		tool := newSteps()
		s := start(t, with("steps", tool.handle))
		body, h := modern("1", "tools/call", `"name":"steps"`)
		go func() { tool.told <- "disconnect"; tool.told <- "end" }()
		if got := s.text(s.post(body, h)); got != finished {
			t.Error(got)
		}
	})
}

// A token that expires ends the connection, not the stream.
func TestAnExpiredTokenCostsNoNews(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := &expiring{expires: time.Now().Add(time.Hour)}
		s := startBubble(t, nil, func(o *mcphttp.Options) { o.Verifier = v })
		h := s.session("2025-11-25", `{}`)
		e := s.events(s.method(http.MethodGet, h))
		e.end() // an hour of comments
		changed := `{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}`
		if err := s.Notify(func(p *identity.Principal) bool { return p.Subject == "user_alice" }, []byte(changed)); err != nil {
			t.Fatal(err)
		}
		v.mu.Lock()
		v.expires = time.Now().Add(time.Hour)
		v.mu.Unlock()
		again := s.events(s.method(http.MethodGet, h, last(e.id)))
		again.want(changed)
		again.close()
		synctest.Wait()
	})
}
