package transport_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mcp-clerk/mcp-clerk/internal/jsonrpc"
	"github.com/mcp-clerk/mcp-clerk/internal/transport"
)

const (
	initialize  = `{"jsonrpc":"2.0","id":"i","method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"h","version":"1"}}}`
	initialized = `{"jsonrpc":"2.0","method":"notifications/initialized"}`
	initResult  = `{"jsonrpc":"2.0","id":"i","result":{"protocolVersion":"2025-06-18","capabilities":{},"serverInfo":{"name":"s","version":"1"}}}`
)

// sessions is a server with sessions, as 2025-11-25 describes it, that can lose
// them.
type sessions struct {
	handle http.HandlerFunc // requests inside a session
	get    http.HandlerFunc // nil: 405
	lost   http.HandlerFunc // the answer for an unknown session; nil: 404

	mu    sync.Mutex
	n     int
	live  string
	ready bool
	early int // requests that came before initialized
}

func (s *sessions) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.live = ""
}

func (s *sessions) opened() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.n
}

func (s *sessions) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	m := &jsonrpc.Message{}
	if r.Method == http.MethodPost {
		m = envelope(r)
	}
	s.mu.Lock()
	if m.Method == "initialize" {
		s.n++
		s.live, s.ready = fmt.Sprint("session-", s.n), false
		w.Header().Set("Mcp-Session-Id", s.live)
		s.mu.Unlock()
		answerJSON(w, 200, strings.Replace(initResult, `"i"`, string(m.ID), 1))
		return
	}
	known := s.live != "" && r.Header.Get("Mcp-Session-Id") == s.live
	if known && m.Method == "notifications/initialized" {
		s.ready = true
	} else if known && !s.ready && r.Method == http.MethodPost {
		s.early++
	}
	s.mu.Unlock()
	switch {
	case !known && s.lost != nil:
		s.lost(w, r)
	case !known:
		http.Error(w, "session not found", http.StatusNotFound)
	case r.Method == http.MethodGet && s.get == nil:
		w.WriteHeader(http.StatusMethodNotAllowed)
	case r.Method == http.MethodGet:
		s.get(w, r)
	case r.Method == http.MethodDelete || m.IsNotification() || m.IsResponse():
		w.WriteHeader(http.StatusAccepted)
	case s.handle != nil:
		s.handle(w, r)
	default:
		answerJSON(w, 200, result(m))
	}
}

func do(t testing.TB, s *transport.Session, raw string) []string {
	t.Helper()
	var got received
	if err := s.Do(t.Context(), transport.Call{Message: message(t, raw), Deliver: got.add}); err != nil {
		t.Errorf("%s: %v", raw, err)
	}
	return got.all()
}

func open(t testing.TB, c *transport.Client, deliver func(*jsonrpc.Message) error) *transport.Session {
	t.Helper()
	s := c.NewSession(deliver)
	do(t, s, initialize)
	do(t, s, initialized)
	t.Cleanup(func() { s.Close(context.Background()) })
	return s
}

func drop(*jsonrpc.Message) error { return nil }

// 2025-11-25, basic/transports, "Session Management" and "Protocol Version Header".
func TestSessionIsCarriedByHeaders(t *testing.T) {
	srv := serve(t, (&sessions{}).ServeHTTP)
	c := newClient(t, srv.URL, func(o *transport.Options) { o.Authorizer = &authorizer{token: "tok"} })
	s := c.NewSession(drop)
	if diff := cmp.Diff([]string{initResult}, do(t, s, initialize)); diff != "" {
		t.Error(diff)
	}
	do(t, s, callTool) // before initialized, so that no stream is there yet
	do(t, s, `{"jsonrpc":"2.0","id":"x","result":{}}`)
	s.Close(t.Context())
	s.Close(t.Context()) // ended once
	var got []string
	for _, r := range srv.seen() {
		got = append(got, strings.Join([]string{r.Method, r.Header.Get("Mcp-Session-Id"), r.Header.Get("Mcp-Protocol-Version"), r.Header.Get("Authorization"), r.Header.Get("Mcp-Method")}, "|"))
	}
	want := []string{"POST|||Bearer tok|", "POST|session-1|2025-06-18|Bearer tok|", "POST|session-1|2025-06-18|Bearer tok|", "DELETE|session-1|2025-06-18|Bearer tok|"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestServerWithoutSessionsGetsNoneOfIt(t *testing.T) {
	srv := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if m := envelope(r); m.Method == "initialize" {
			w.Header().Set("Mcp-Session-Id", "no good: blank")
			answerJSON(w, 200, strings.Replace(initResult, "2025-06-18", `2025\r\nX: y`, 1))
		} else {
			answerJSON(w, 404, `{"jsonrpc":"2.0","id":1,"error":{"code":-32000,"message":"Session not found"}}`)
		}
	})
	c := newClient(t, srv.URL)
	s := c.NewSession(drop)
	do(t, s, initialize)
	if got := do(t, s, callTool); len(got) != 1 || !strings.Contains(got[0], "-32000") {
		t.Errorf("got %q", got)
	}
	s.Close(t.Context())
	if n := len(srv.seen()); n != 2 {
		t.Errorf("%d requests", n)
	}
	if h := srv.seen()[1].Header; h.Get("Mcp-Session-Id") != "" || h.Get("Mcp-Protocol-Version") != "" {
		t.Errorf("header %v", h)
	}
}

// 2025-11-25, basic/transports, "Session Management" item 4, in the dialects of
// the servers in use.
func TestLostSessionIsOpenedAgain(t *testing.T) {
	reply := func(status int, kind, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", kind)
			w.WriteHeader(status)
			_, _ = fmt.Fprint(w, body)
		}
	}
	tests := map[string]http.HandlerFunc{
		"plain text":               nil,
		"empty":                    reply(404, "", ""),
		"null id":                  reply(404, "application/json", `{"jsonrpc":"2.0","error":{"code":-32001,"message":"Session not found"},"id":null}`),
		"an id of the server's":    reply(404, "application/json", `{"jsonrpc":"2.0","id":"server-error","error":{"code":-32600,"message":"Session has been terminated"}}`),
		"the request's id":         reply(404, "application/json", `{"jsonrpc":"2.0","id":1,"error":{"code":-32001,"message":"Session not found"}}`),
		"bad request":              reply(400, "application/json", `{"jsonrpc":"2.0","id":1,"error":{"code":-32000,"message":"Bad Request: No valid session ID provided"}}`),
		"bad request in text":      reply(400, "text/plain", "Invalid session ID"),
		"a server without session": reply(400, "application/json", `{"jsonrpc":"2.0","id":null,"error":{"code":-32000,"message":"Bad Request: Server not initialized"}}`),
	}
	for name, lost := range tests {
		t.Run(name, func(t *testing.T) {
			srvState := &sessions{lost: lost}
			srv := serve(t, srvState.ServeHTTP)
			c := newClient(t, srv.URL)
			s := open(t, c, drop)
			srvState.forget()
			if diff := cmp.Diff([]string{`{"jsonrpc":"2.0","id":1,"result":{}}`}, do(t, s, callTool)); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
			var bodies []string
			for _, r := range srv.seen() {
				if r.Method == "POST" {
					bodies = append(bodies, r.Body+" "+r.Header.Get("Mcp-Session-Id"))
				}
			}
			want := []string{
				initialize + " ", initialized + " session-1", callTool + " session-1",
				initialize + " ", initialized + " session-2", callTool + " session-2",
			}
			if diff := cmp.Diff(want, bodies); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

func TestAnswerWithANotFoundStatusIsNotALostSession(t *testing.T) {
	for _, body := range []string{
		`{"jsonrpc":"2.0","id":1,"error":{"code":-32601,"message":"Method not found"}}`,
		`{"jsonrpc":"2.0","id":null,"error":{"code":-32601,"message":"Method not found"}}`,
		`{"jsonrpc":"2.0","id":1,"error":{"code":-32002,"message":"Resource not found"}}`,
	} {
		state := &sessions{handle: func(w http.ResponseWriter, _ *http.Request) { answerJSON(w, 404, body) }}
		srv := serve(t, state.ServeHTTP)
		s := open(t, newClient(t, srv.URL), drop)
		if got := do(t, s, callTool); len(got) != 1 || !strings.Contains(got[0], `"id":1,"error":{"code":-32`) {
			t.Errorf("%s: got %q", body, got)
		}
		if state.opened() != 1 {
			t.Errorf("%s: %d sessions were opened", body, state.opened())
		}
	}
}

func TestCallsThatFindTheSessionLostShareOneNew(t *testing.T) {
	state := &sessions{}
	srv := serve(t, state.ServeHTTP)
	s := open(t, newClient(t, srv.URL), drop)
	for round := range 5 {
		state.forget()
		var wg sync.WaitGroup
		for i := range 40 {
			wg.Go(func() {
				raw := fmt.Sprintf(`{"jsonrpc":"2.0","id":%d,"method":"tools/call"}`, i)
				if got := do(t, s, raw); len(got) != 1 {
					t.Errorf("got %q", got)
				}
			})
		}
		wg.Wait()
		if n := state.opened(); n != round+2 {
			t.Errorf("round %d: %d sessions", round, n)
		}
	}
	if state.early != 0 {
		t.Errorf("%d requests came before initialized", state.early)
	}
}

func TestSessionThatIsAlwaysLostEndsInAnError(t *testing.T) {
	state := &sessions{}
	srv := serve(t, func(w http.ResponseWriter, r *http.Request) {
		state.ServeHTTP(w, r)
		if strings.Contains(r.Header.Get("Content-Type"), "json") && r.Header.Get("Mcp-Session-Id") != "" {
			state.forget()
		}
	})
	s := newClient(t, srv.URL).NewSession(drop)
	do(t, s, initialize)
	state.forget()
	err := s.Do(t.Context(), transport.Call{Message: message(t, callTool)})
	if err != nil { // the first new session lives long enough for the call
		t.Fatal(err)
	}
	always := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if envelope(r).Method != "initialize" {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Mcp-Session-Id", "x")
		answerJSON(w, 200, initResult)
	})
	s = newClient(t, always.URL).NewSession(drop)
	do(t, s, initialize)
	err = s.Do(t.Context(), transport.Call{Message: message(t, callTool)})
	if e, ok := errors.AsType[*transport.StatusError](err); !ok || e.Status != 404 || len(always.seen()) > 12 {
		t.Errorf("%d requests, then %v", len(always.seen()), err)
	}
}

func TestServerThatRefusesANewSessionIsNamed(t *testing.T) {
	var n atomic.Int32
	srv := serve(t, func(w http.ResponseWriter, r *http.Request) {
		switch m := envelope(r); {
		case m.Method != "initialize":
			http.NotFound(w, r)
		case n.Add(1) == 1:
			w.Header().Set("Mcp-Session-Id", "x")
			answerJSON(w, 200, initResult)
		default:
			answerJSON(w, 200, `{"jsonrpc":"2.0","id":"i","error":{"code":-32602,"message":"go away"}}`)
		}
	})
	s := newClient(t, srv.URL).NewSession(drop)
	do(t, s, initialize)
	err := s.Do(t.Context(), transport.Call{Message: message(t, callTool)})
	if err == nil || !strings.Contains(err.Error(), "go away") || len(srv.seen()) != 3 {
		t.Errorf("%d requests, then %v", len(srv.seen()), err)
	}
}

// What belongs to a request of the lost session is not sent in the new one.
func TestResponseForALostSessionOpensNoNewOne(t *testing.T) {
	for _, raw := range []string{
		`{"jsonrpc":"2.0","id":"s1","result":{}}`,
		`{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1}}`,
	} {
		state := &sessions{}
		srv := serve(t, state.ServeHTTP)
		s := open(t, newClient(t, srv.URL), drop)
		state.forget()
		err := s.Do(t.Context(), transport.Call{Message: message(t, raw)})
		if _, ok := errors.AsType[*transport.StatusError](err); !ok || state.opened() != 1 {
			t.Errorf("%d sessions, %v", state.opened(), err)
		}
	}
}

// A session that was opened anew for nobody is ended as well.
func TestCloseEndsASessionThatIsBeingRenewed(t *testing.T) {
	state := &sessions{}
	reached, free := make(chan bool, 1), make(chan bool)
	var renewing atomic.Bool
	srv := serve(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		r.Body = io.NopCloser(strings.NewReader(string(body)))
		if renewing.Load() && string(body) == initialized {
			reached <- true
			<-free
		}
		state.ServeHTTP(w, r)
	})
	defer close(free)
	s := open(t, newClient(t, srv.URL), drop)
	state.forget()
	renewing.Store(true)
	done := make(chan error, 1)
	go func() { done <- s.Do(t.Context(), transport.Call{Message: message(t, callTool)}) }()
	<-reached
	s.Close(t.Context())
	if err := <-done; err == nil {
		t.Error("the call was answered")
	}
	var ended []string
	for _, r := range srv.seen() {
		if r.Method == http.MethodDelete {
			ended = append(ended, r.Header.Get("Mcp-Session-Id"))
		}
	}
	if !slices.Contains(ended, "session-2") {
		t.Errorf("ended %q", ended)
	}
}

func TestHostThatInitializesAgainGetsANewSession(t *testing.T) {
	state := &sessions{}
	srv := serve(t, state.ServeHTTP)
	s := open(t, newClient(t, srv.URL), drop)
	again := strings.Replace(initialize, `"i"`, `"j"`, 1)
	do(t, s, again)
	do(t, s, initialized)
	do(t, s, callTool)
	last := srv.seen()[len(srv.seen())-1]
	s.Close(t.Context())
	var deleted []string
	for _, r := range srv.seen() {
		if r.Method == "POST" && r.Body == callTool {
			last = r
		}
		if r.Method == "DELETE" {
			deleted = append(deleted, r.Header.Get("Mcp-Session-Id"))
		}
	}
	if last.Header.Get("Mcp-Session-Id") != "session-2" {
		t.Errorf("the call went to %q", last.Header.Get("Mcp-Session-Id"))
	}
	if len(deleted) != 2 {
		t.Errorf("ended %q", deleted)
	}
}

// 2025-11-25, basic/transports, "Listening for Messages from the Server".
func TestServerIsListenedTo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		note := func(n int) string { return fmt.Sprintf(`{"jsonrpc":"2.0","method":"notifications/n%d"}`, n) }
		var opens atomic.Int32
		state := &sessions{get: func(w http.ResponseWriter, r *http.Request) {
			send := stream(w)
			n := int(opens.Add(1))
			send("id: %d\nretry: 3000\ndata: %s\n\n", n, note(n))
			if n >= 3 {
				<-r.Context().Done()
			}
		}}
		srv, c, _ := serveMemory(t, state.ServeHTTP)
		var got received
		began := time.Now()
		s := open(t, c, got.add)
		time.Sleep(time.Minute)
		if diff := cmp.Diff([]string{note(1), note(2), note(3)}, got.all()); diff != "" {
			t.Errorf("(-want +got)\n%s", diff)
		}
		var last []string
		for _, r := range srv.seen() {
			if r.Method == "GET" {
				last = append(last, r.Header.Get("Last-Event-ID")+"|"+r.Header.Get("Mcp-Session-Id")+"|"+r.Header.Get("Accept"))
			}
		}
		if diff := cmp.Diff([]string{"|session-1|text/event-stream", "1|session-1|text/event-stream", "2|session-1|text/event-stream"}, last); diff != "" {
			t.Errorf("(-want +got)\n%s", diff)
		}
		state.forget() // a call finds out; the stream moves to the new session
		do(t, s, callTool)
		time.Sleep(time.Minute)
		if state.opened() != 2 || opens.Load() != 4 || len(got.all()) < 4 {
			t.Errorf("%d sessions, %d streams after %v", state.opened(), opens.Load(), time.Since(began))
		}
	})
}

// A proxy that cuts a quiet stream is no reason to listen ever more rarely.
func TestStreamThatIsCutWhenQuietIsOpenedAgainAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var opens atomic.Int32
		state := &sessions{get: func(w http.ResponseWriter, r *http.Request) {
			opens.Add(1)
			stream(w)(": quiet\n\n")
			select {
			case <-time.After(30 * time.Second):
			case <-r.Context().Done():
			}
		}}
		_, c, _ := serveMemory(t, state.ServeHTTP)
		open(t, c, drop)
		time.Sleep(10 * time.Minute)
		if n := opens.Load(); n < 19 {
			t.Errorf("opened %d times in 10 minutes", n)
		}
	})
}

func TestServerWithoutAStreamOfItsOwnIsAskedOnce(t *testing.T) {
	for _, status := range []int{405, 404, 400, 501, 200} {
		synctest.Test(t, func(t *testing.T) {
			srv, c, _ := serveMemory(t, (&sessions{get: func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) }}).ServeHTTP)
			open(t, c, drop)
			time.Sleep(time.Hour)
			if n := srv.count("GET"); n != 1 {
				t.Errorf("%d: asked %d times", status, n)
			}
		})
	}
}

// Nobody sits at the keyboard when a stream is opened again: no sign-in starts.
func TestStreamStartsNoSignIn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &authorizer{token: "good"}
		var refuse atomic.Bool
		state := &sessions{get: func(w http.ResponseWriter, r *http.Request) {
			send := stream(w)
			send("data: {}\n\n")
			<-r.Context().Done()
		}}
		srv, c, _ := serveMemory(t, func(w http.ResponseWriter, r *http.Request) {
			if refuse.Load() {
				w.WriteHeader(401)
				return
			}
			state.get = func(w http.ResponseWriter, _ *http.Request) { stream(w) }
			state.ServeHTTP(w, r)
		}, func(o *transport.Options) { o.Authorizer = a })
		s := open(t, c, drop)
		time.Sleep(time.Second)
		refuse.Store(true)
		time.Sleep(10 * time.Minute)
		n := srv.count("GET")
		if n < 10 || n > 40 || len(a.asked) != 0 {
			t.Errorf("%d requests for the stream in 10 minutes, authorization asked %d times", n, len(a.asked))
		}
		s.Close(t.Context())
	})
}

// The stream itself finds out that the server has forgotten the session.
func TestStreamThatIsGoneOpensANewSession(t *testing.T) {
	for _, tt := range []struct {
		name string
		lost http.HandlerFunc
		want int // sessions
	}{
		{"404", nil, 2},
		{"400 in words", func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "Invalid or missing session ID", 400) }, 2},
		{"400 as JSON-RPC", func(w http.ResponseWriter, _ *http.Request) {
			answerJSON(w, 400, `{"jsonrpc":"2.0","error":{"code":-32000,"message":"Bad Request: No valid session ID provided"}}`)
		}, 2},
		{"400 for another reason", func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "bad Last-Event-ID", 400) }, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				end := make(chan struct{})
				state := &sessions{lost: tt.lost, get: func(w http.ResponseWriter, r *http.Request) {
					stream(w)
					select {
					case <-end:
					case <-r.Context().Done():
					}
				}}
				_, c, _ := serveMemory(t, state.ServeHTTP)
				open(t, c, drop)
				time.Sleep(time.Minute)
				state.forget()
				close(end)
				time.Sleep(5 * time.Second)
				if state.opened() != tt.want {
					t.Errorf("%d sessions, want %d", state.opened(), tt.want)
				}
			})
		})
	}
}

// 2025-03-26 servers may send arrays.
func TestBatchFromTheServerIsTakenApart(t *testing.T) {
	n := `{"jsonrpc":"2.0","method":"notifications/n"}`
	srv := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if m := envelope(r); string(m.ID) == "1" {
			answerJSON(w, 200, "["+n+","+result(m)+"]")
		} else {
			stream(w)("data: [%s, %s]\n\n", n, result(m))
		}
	})
	s := newClient(t, srv.URL).NewSession(drop)
	if diff := cmp.Diff([]string{n, `{"jsonrpc":"2.0","id":1,"result":{}}`}, do(t, s, callTool)); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{n, `{"jsonrpc":"2.0","id":2,"result":{}}`}, do(t, s, `{"jsonrpc":"2.0","id":2,"method":"ping"}`)); diff != "" {
		t.Error(diff)
	}
}

// What a server asks during the first call it may ask on the stream of its own:
// that is open by then, unless the server keeps it waiting.
func TestTheFirstCallWaitsForTheStream(t *testing.T) {
	for name, tt := range map[string]struct {
		takes time.Duration
		open  bool
	}{"soon": {100 * time.Millisecond, true}, "late": {time.Minute, false}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var opened atomic.Bool
				_, c, _ := serveMemory(t, func(w http.ResponseWriter, r *http.Request) {
					switch m := envelope(r); {
					case r.Method == http.MethodGet:
						select {
						case <-time.After(tt.takes):
						case <-r.Context().Done():
							return
						}
						opened.Store(true)
						stream(w)
						<-r.Context().Done()
					case m.Method == "initialize":
						w.Header().Set("Mcp-Session-Id", "s")
						answerJSON(w, 200, result(m))
					case m.Method == "x/y":
						answerJSON(w, 200, fmt.Sprintf(`{"jsonrpc":"2.0","id":1,"result":{"open":%v}}`, opened.Load()))
					default:
						w.WriteHeader(http.StatusAccepted)
					}
				})
				s := c.NewSession(nil)
				var got received
				for _, raw := range []string{`{"jsonrpc":"2.0","id":0,"method":"initialize"}`, `{"jsonrpc":"2.0","method":"notifications/initialized"}`, `{"jsonrpc":"2.0","id":1,"method":"x/y"}`} {
					if err := s.Do(context.Background(), transport.Call{Message: message(t, raw), Deliver: got.add}); err != nil {
						t.Fatal(err)
					}
				}
				if all := got.all(); all[len(all)-1] != fmt.Sprintf(`{"jsonrpc":"2.0","id":1,"result":{"open":%v}}`, tt.open) {
					t.Errorf("the server answered %q", all)
				}
				s.Close(context.Background())
			})
		})
	}
}

// A server that never answers the replayed initialize does not keep what comes
// after that.
func TestARenewalThatHangsIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		state := &sessions{}
		var hangs atomic.Bool
		_, c, _ := serveMemory(t, func(w http.ResponseWriter, r *http.Request) {
			if hangs.Load() && r.Header.Get("Mcp-Session-Id") == "" {
				<-r.Context().Done()
				return
			}
			state.ServeHTTP(w, r)
		})
		s := open(t, c, drop)
		hangs.Store(true)
		state.forget()
		began := time.Now()
		err := s.Do(t.Context(), transport.Call{Message: message(t, callTool)})
		if _, ok := errors.AsType[*transport.UnreachableError](err); !ok || !errors.Is(err, transport.ErrSlow) || time.Since(began) > 5*time.Minute {
			t.Errorf("after %v: %v", time.Since(began), err)
		}
		hangs.Store(false)
		do(t, s, callTool)
	})
}
