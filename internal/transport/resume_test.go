package transport_test

import (
	"errors"
	"net/http"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mcp-clerk/mcp-clerk/internal/transport"
)

// Streams that are dropped before the answer: resumed where they were, or an error
// before long.

// resumable answers a call with a stream that drops before the response.
func resumable(first string, rest http.HandlerFunc) *sessions {
	return &sessions{
		handle: func(w http.ResponseWriter, _ *http.Request) { stream(w)("%s", first) },
		get: func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Last-Event-ID") == "" {
				w.WriteHeader(http.StatusMethodNotAllowed)
				return
			}
			rest(w, r)
		},
	}
}

// 2025-11-25, basic/transports, "Resumability and Redelivery".
func TestDroppedStreamIsResumed(t *testing.T) {
	answer := `{"jsonrpc":"2.0","id":1,"result":{}}`
	progress := `{"jsonrpc":"2.0","method":"notifications/progress"}`
	tests := []struct {
		name       string
		first      string
		then       []string // what each resumed stream has; the last is the answer
		lasts      []string
		least, top time.Duration
	}{
		{"primed", "id: p1\nretry: 500\ndata:\n\n", []string{"id: p2\ndata: " + answer + "\n\n"}, []string{"p1"}, 500 * time.Millisecond, 600 * time.Millisecond},
		{"after a message", "id: a\ndata: " + progress + "\n\n", []string{"data: " + answer + "\n\n"}, []string{"a"}, 0, 100 * time.Millisecond},
		{"polled", "id: a\nretry: 2000\n\n", []string{"", "id: b\n\n", ": nothing\n\n", "data: " + answer + "\n\n"}, []string{"a", "a", "b", "b"}, 8 * time.Second, 9 * time.Second},
		{"polled without a time", "id: a\n\n", []string{"", "", "data: " + answer + "\n\n"}, []string{"a", "a", "a"}, 3 * time.Second, 4 * time.Second},
		{"retry of nothing does not spin", "id: a\nretry: 0\n\n", []string{"", "", "data: " + answer + "\n\n"}, []string{"a", "a", "a"}, 150 * time.Millisecond, time.Second},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var n atomic.Int32
				srv, c, _ := serveMemory(t, resumable(tt.first, func(w http.ResponseWriter, _ *http.Request) {
					stream(w)("%s", tt.then[n.Add(1)-1])
				}).ServeHTTP)
				s := open(t, c, drop)
				began := time.Now()
				got := do(t, s, callTool)
				if len(got) == 0 || got[len(got)-1] != answer {
					t.Errorf("delivered %q", got)
				}
				if took := time.Since(began); took < tt.least || took > tt.top {
					t.Errorf("took %v", took)
				}
				var lasts []string
				for _, r := range srv.seen() {
					if id := r.Header.Get("Last-Event-ID"); id != "" {
						lasts = append(lasts, id)
					}
				}
				if diff := cmp.Diff(tt.lasts, lasts); diff != "" {
					t.Errorf("(-want +got)\n%s", diff)
				}
				if n := srv.count("POST"); n != 3 {
					t.Errorf("%d POSTs: the call was repeated", n)
				}
			})
		})
	}
}

func TestStreamThatCannotBeResumedIsAnErrorWithinTwoSeconds(t *testing.T) {
	tests := map[string]func(w http.ResponseWriter, r *http.Request){
		"not found": func(w http.ResponseWriter, r *http.Request) { http.NotFound(w, r) },
		"no stream": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(405) },
		"dead":      func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
	}
	for name, rest := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv, c, net := serveMemory(t, resumable("id: a\ndata: {}\n\n", rest).ServeHTTP)
				s := open(t, c, drop)
				time.Sleep(time.Second)
				began := time.Now()
				err := s.Do(t.Context(), transport.Call{Message: message(t, callTool), Started: func() {
					if name == "dead" {
						net.Refuse.Store(true)
					}
				}})
				if _, ok := errors.AsType[*transport.LostError](err); !ok || time.Since(began) > 2*time.Second {
					t.Errorf("got %v after %v", err, time.Since(began))
				}
				if n := srv.count("POST"); n != 3 {
					t.Errorf("%d POSTs", n)
				}
			})
		})
	}
}
