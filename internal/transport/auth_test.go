package transport_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mcp-clerk/mcp-clerk/internal/transport"
)

// authorizer hands out token and, when it is refused, the next ones.
type authorizer struct {
	err  error
	wait func(context.Context) // during Authorize

	mu    sync.Mutex
	token string
	next  []string
	asked []string // "token status challenge"
}

func (a *authorizer) Token(context.Context) (string, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.token, nil
}

func (a *authorizer) Authorize(ctx context.Context, refused string, status int, h http.Header) error {
	if a.wait != nil {
		a.wait(ctx)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.asked = append(a.asked, fmt.Sprint(refused, " ", status, " ", h.Get("Www-Authenticate")))
	if a.err != nil {
		return a.err
	}
	if len(a.next) > 0 {
		a.token, a.next = a.next[0], a.next[1:]
	}
	return ctx.Err()
}

func newTLS(t *testing.T, h http.Handler) *httptest.Server {
	ts := httptest.NewUnstartedServer(h)
	ts.Config.ErrorLog = log.New(io.Discard, "", 0)
	ts.StartTLS()
	t.Cleanup(ts.Close)
	return ts
}

// protect lets requests with the token through.
func protect(token string, h http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer "+token {
			w.Header().Set("Www-Authenticate", `Bearer resource_metadata="https://x"`)
			http.Error(w, "unauthorized", http.StatusUnauthorized)
			return
		}
		h(w, r)
	}
}

func TestRefusedRequestIsMadeAgainWithAnotherToken(t *testing.T) {
	bearer := `Bearer error="insufficient_scope", scope="a b"`
	tests := []struct {
		name      string
		start     string
		next      []string
		status    int
		challenge string
		want      []string // what the authorizer was asked
		tokens    []string // what the server saw
		ok        bool
	}{
		{"signing in", "", []string{"good"}, 401, bearer, []string{" 401 " + bearer}, []string{"", "Bearer good"}, true},
		{"an expired token", "old", []string{"good"}, 401, "", []string{"old 401 "}, []string{"Bearer old", "Bearer good"}, true},
		{"more scope", "small", []string{"good"}, 403, bearer, []string{"small 403 " + bearer}, []string{"Bearer small", "Bearer good"}, true},
		{"more scope, second challenge", "small", []string{"good"}, 403, `Basic realm="x", bearer error="insufficient_scope"`,
			[]string{`small 403 Basic realm="x", bearer error="insufficient_scope"`}, []string{"Bearer small", "Bearer good"}, true},
		{"refreshed, then more scope", "old", []string{"small", "good"}, 401, bearer, []string{"old 401 " + bearer, "small 401 " + bearer}, []string{"Bearer old", "Bearer small", "Bearer good"}, true},
		{"for ever", "a", []string{"b", "c", "d", "e"}, 401, bearer, []string{"a 401 " + bearer, "b 401 " + bearer}, []string{"Bearer a", "Bearer b", "Bearer c"}, false},
		{"for ever the same token", "a", nil, 403, bearer, []string{"a 403 " + bearer, "a 403 " + bearer}, []string{"Bearer a", "Bearer a", "Bearer a"}, false},
		{"forbidden without a challenge", "a", []string{"good"}, 403, "", nil, []string{"Bearer a"}, false},
		{"forbidden with another challenge", "a", []string{"good"}, 403, `Bearers x, Basic realm="Bearer"`, nil, []string{"Bearer a"}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			srv := serve(t, func(w http.ResponseWriter, r *http.Request) {
				if r.Header.Get("Authorization") == "Bearer good" {
					answerJSON(w, 200, result(envelope(r)))
					return
				}
				if tt.challenge != "" {
					w.Header().Set("Www-Authenticate", tt.challenge)
				}
				w.WriteHeader(tt.status)
			})
			a := &authorizer{token: tt.start, next: tt.next}
			c := newClient(t, srv.URL, func(o *transport.Options) { o.Authorizer = a })
			var waits []bool
			err := c.Do(t.Context(), transport.Call{Message: message(t, callTool), Authorizing: func(w bool) { waits = append(waits, w) }})
			if (err == nil) != tt.ok {
				t.Errorf("got %v", err)
			}
			if diff := cmp.Diff(tt.want, a.asked); diff != "" {
				t.Errorf("asked: (-want +got)\n%s", diff)
			}
			var tokens []string
			for _, r := range srv.seen() {
				tokens = append(tokens, r.Header.Get("Authorization"))
				if r.Body != callTool {
					t.Errorf("the body was %q", r.Body)
				}
			}
			if diff := cmp.Diff(tt.tokens, tokens); diff != "" {
				t.Errorf("tokens: (-want +got)\n%s", diff)
			}
			if len(waits) != 2*len(tt.want) {
				t.Errorf("waits %v", waits)
			}
		})
	}
}

func TestRefusalWithoutAuthorizerIsAnError(t *testing.T) {
	srv := serve(t, protect("good", nil))
	err := newClient(t, srv.URL).Do(t.Context(), transport.Call{Message: message(t, callTool)})
	if e, ok := errors.AsType[*transport.AuthError](err); !ok || e.Status != 401 {
		t.Errorf("got %v", err)
	}
}

func TestFailedAuthorizationIsNotRepeated(t *testing.T) {
	srv := serve(t, protect("good", nil))
	denied := errors.New("access denied")
	a := &authorizer{token: "secret-token", err: denied}
	err := newClient(t, srv.URL, func(o *transport.Options) { o.Authorizer = a }).Do(t.Context(), transport.Call{Message: message(t, callTool)})
	if _, ok := errors.AsType[*transport.AuthError](err); !ok || !errors.Is(err, denied) || strings.Contains(err.Error(), "secret") {
		t.Errorf("got %v", err)
	}
	if len(srv.seen()) != 1 {
		t.Errorf("%d requests", len(srv.seen()))
	}
}

func TestRequestsRefusedTogetherShareOneAuthorization(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv, c, _ := serveMemory(t, protect("good", func(w http.ResponseWriter, r *http.Request) { answerJSON(w, 200, result(envelope(r))) }),
			func(o *transport.Options) {
				o.Authorizer = &authorizer{token: "old", next: []string{"good", "too many"}, wait: func(context.Context) { time.Sleep(5 * time.Second) }}
			})
		var wg sync.WaitGroup
		for i := range 50 {
			wg.Go(func() {
				time.Sleep(time.Duration(i%7) * 10 * time.Millisecond)
				var got received
				err := c.Do(t.Context(), transport.Call{Message: message(t, fmt.Sprintf(`{"jsonrpc":"2.0","id":%d,"method":"tools/call"}`, i)), Deliver: got.add})
				if err != nil || len(got.all()) != 1 {
					t.Errorf("call %d: %q, %v", i, got.all(), err)
				}
			})
		}
		wg.Wait()
		if n := srv.count("POST"); n != 100 {
			t.Errorf("%d requests, not 50 refused and 50 made again", n)
		}
	})
}

// A sign-in belongs to the person, not to the call that caused it.
func TestAuthorizationOutlivesTheCallThatCausedIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &authorizer{next: []string{"good"}, wait: func(ctx context.Context) {
			select {
			case <-time.After(time.Minute):
			case <-ctx.Done():
			}
		}}
		_, c, _ := serveMemory(t, protect("good", func(w http.ResponseWriter, r *http.Request) { answerJSON(w, 200, result(envelope(r))) }),
			func(o *transport.Options) { o.Authorizer = a })
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := c.Do(ctx, transport.Call{Message: message(t, callTool)}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("the impatient call: %v", err)
		}
		began := time.Now()
		if err := c.Do(t.Context(), transport.Call{Message: message(t, callTool)}); err != nil {
			t.Errorf("the patient call: %v", err)
		}
		if took := time.Since(began); took != 59*time.Second || len(a.asked) != 1 {
			t.Errorf("signed in %d times, after %v", len(a.asked), took)
		}
	})
}

func TestCloseEndsAnAuthorizationUnderWay(t *testing.T) {
	srv := serve(t, protect("good", nil))
	waiting := make(chan struct{})
	a := &authorizer{wait: func(ctx context.Context) {
		close(waiting)
		<-ctx.Done()
	}}
	c := newClient(t, srv.URL, func(o *transport.Options) { o.Authorizer = a })
	done := make(chan error)
	go func() { done <- c.Do(t.Context(), transport.Call{Message: message(t, callTool)}) }()
	<-waiting
	c.Close(t.Context())
	if err := <-done; err == nil {
		t.Error("the call succeeded")
	}
}
