package transport_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mcp-clerk/mcp-clerk/internal/jsonrpc"
	"github.com/mcp-clerk/mcp-clerk/internal/transport"
)

func send(sse *transport.SSESession, t *testing.T, raw string) error {
	return sse.Do(context.Background(), transport.Call{Message: message(t, raw)})
}

// A server may answer the POST of a call no sooner than the call has ended. If
// its stream drops before, nothing can come any more (case 29).
func TestAnSSEStreamThatEndsTakesPostsThatAreHeldAlong(t *testing.T) {
	held, release := make(chan struct{}, 2), make(chan struct{})
	side := &sseSide{first: own, on: answering}
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		r.Body = io.NopCloser(bytes.NewReader(body))
		if m, err := jsonrpc.Parse(body, jsonrpc.Limits{}); err == nil && m.Method == "tools/call" {
			held <- struct{}{}
			<-release
		}
		side.ServeHTTP(w, r)
	})
	defer close(release)
	sse := openSSE(t, newClient(t, s.URL+"/sse"), nil)
	if err := send(sse, t, `{"jsonrpc":"2.0","id":0,"method":"initialize"}`); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 2)
	for _, raw := range []string{`{"jsonrpc":"2.0","id":1,"method":"tools/call"}`, `{"jsonrpc":"2.0","id":2,"method":"tools/call"}`} {
		go func() { ended <- send(sse, t, raw) }()
	}
	<-held
	<-held
	side.mu.Lock()
	side.streams["1"] <- ""
	side.mu.Unlock()
	for range 2 {
		select {
		case err := <-ended:
			if _, lost := errors.AsType[*transport.LostError](err); !lost {
				t.Errorf("a call ended with %v", err)
			}
		case <-time.After(8 * time.Second):
			t.Fatal("a call waits for a stream that is gone")
		}
	}
}

// A server that takes the request for a stream and never begins it is given up,
// and so is one that never answers the session's replay: what comes later is
// tried anew.
func TestAnSSEServerThatHangsIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		side := &sseSide{first: own, on: answering}
		var hangs atomic.Value
		hangs.Store("GET")
		_, c, _ := serveMemory(t, func(w http.ResponseWriter, r *http.Request) {
			if hangs.Load() == r.Method {
				<-r.Context().Done()
				return
			}
			side.ServeHTTP(w, r)
		})
		sse := openSSE(t, c, nil)
		slow := func(raw string, limit time.Duration) {
			t.Helper()
			began := time.Now()
			err := send(sse, t, raw)
			if _, ok := errors.AsType[*transport.UnreachableError](err); !ok || !errors.Is(err, transport.ErrSlow) || time.Since(began) > limit {
				t.Errorf("after %v: %v", time.Since(began), err)
			}
		}
		slow(`{"jsonrpc":"2.0","id":0,"method":"initialize"}`, 20*time.Second)
		hangs.Store("")
		if err := send(sse, t, `{"jsonrpc":"2.0","id":1,"method":"initialize"}`); err != nil {
			t.Fatal(err)
		}
		hangs.Store("POST")
		side.mu.Lock()
		side.streams["1"] <- ""
		side.mu.Unlock()
		synctest.Wait()
		slow(`{"jsonrpc":"2.0","id":2,"method":"x/y"}`, 5*time.Minute)
		hangs.Store("")
		if err := send(sse, t, `{"jsonrpc":"2.0","id":3,"method":"x/y"}`); err != nil {
			t.Error(err)
		}
	})
}

// Nobody sits at the keyboard when a stream is opened again: no sign-in starts
// until the host asks for something.
func TestAnSSEStreamStartsNoSignIn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &authorizer{token: "good", next: []string{"better"}}
		side := &sseSide{first: own, on: answering}
		var wants atomic.Value
		wants.Store("Bearer good")
		srv, c, _ := serveMemory(t, func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Authorization") != wants.Load() {
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
			side.ServeHTTP(w, r)
		}, func(o *transport.Options) { o.Authorizer = a })
		sse := openSSE(t, c, nil)
		for _, raw := range []string{`{"jsonrpc":"2.0","id":0,"method":"initialize"}`, `{"jsonrpc":"2.0","method":"notifications/initialized"}`} {
			if err := send(sse, t, raw); err != nil {
				t.Fatal(err)
			}
		}
		wants.Store("Bearer better")
		side.mu.Lock()
		side.streams["1"] <- ""
		side.mu.Unlock()
		time.Sleep(10 * time.Minute)
		if n := srv.count("GET"); n < 10 || n > 40 || len(a.asked) != 0 {
			t.Errorf("%d requests for the stream in 10 minutes, authorization asked %d times", n, len(a.asked))
		}
		if err := send(sse, t, `{"jsonrpc":"2.0","id":1,"method":"x/y"}`); err != nil || len(a.asked) != 1 {
			t.Errorf("got %v, authorization asked %d times", err, len(a.asked))
		}
	})
}

// A session that the server does not know any more is refused in other words, too.
func TestAnSSESessionThatIsRefusedOtherwiseIsOpenedAgain(t *testing.T) {
	side := &sseSide{first: own, on: answering}
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost && r.URL.Query().Get("s") == "1" {
			body, _ := io.ReadAll(r.Body)
			r.Body = io.NopCloser(bytes.NewReader(body))
			if m, _ := jsonrpc.Parse(body, jsonrpc.Limits{}); m.Method == "x/y" {
				http.Error(w, "No transport found for sessionId", http.StatusBadRequest)
				return
			}
		}
		side.ServeHTTP(w, r)
	})
	sse := openSSE(t, newClient(t, s.URL+"/sse"), nil)
	if err := errors.Join(send(sse, t, `{"jsonrpc":"2.0","id":0,"method":"initialize"}`), send(sse, t, `{"jsonrpc":"2.0","id":1,"method":"x/y"}`)); err != nil {
		t.Error(err)
	}
}

// A page in place of the server's acceptance is a captive portal's (case 30); the
// same type with no page in it is what some servers accept messages with.
func TestAPageIsNoAcceptance(t *testing.T) {
	var mu sync.Mutex
	page := "Accepted"
	side := &sseSide{first: own, on: answering}
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet {
			side.ServeHTTP(w, r)
			return
		}
		mu.Lock()
		now := page
		mu.Unlock()
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		if now == "Accepted" {
			side.ServeHTTP(w, r)
		}
		_, _ = io.WriteString(w, now)
	})
	sse := openSSE(t, newClient(t, s.URL+"/sse"), nil)
	if err := send(sse, t, `{"jsonrpc":"2.0","id":0,"method":"initialize"}`); err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	page = " <!DOCTYPE html><p>Welcome to our Wi-Fi"
	mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	err := sse.Do(ctx, transport.Call{Message: message(t, `{"jsonrpc":"2.0","id":1,"method":"x/y"}`)})
	if status, ok := errors.AsType[*transport.StatusError](err); !ok || status.Status != http.StatusOK {
		t.Errorf("got %v", err)
	}
}

// Where a server has moved to is said, and not followed to another origin.
func TestAnSSEServerThatHasMovedIsNamed(t *testing.T) {
	reached := make(chan struct{}, 1)
	other := serve(t, func(http.ResponseWriter, *http.Request) { reached <- struct{}{} })
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, other.URL+"/sse?key=canary", http.StatusMovedPermanently)
	})
	err := send(openSSE(t, newClient(t, s.URL+"/sse"), nil), t, `{"jsonrpc":"2.0","id":0,"method":"initialize"}`)
	if err == nil || !strings.Contains(err.Error(), `it redirects to "`+other.URL+`"`) || strings.Contains(err.Error(), "canary") {
		t.Errorf("got %v", err)
	}
	if len(reached) > 0 {
		t.Error("the redirect was followed")
	}
}
