package mcphttp_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mcp-clerk/mcp-clerk/internal/identity"
	"github.com/mcp-clerk/mcp-clerk/internal/jsonrpc"
	"github.com/mcp-clerk/mcp-clerk/internal/mcphttp"
)

// comments counts the comment lines of a stream until it ends and returns the
// data lines that carry something.
func comments(res *http.Response) (n int, data []string) {
	in := bufio.NewScanner(res.Body)
	for in.Scan() {
		switch line := in.Text(); {
		case strings.HasPrefix(line, ":"):
			n++
		case strings.HasPrefix(line, "data: ") && line != "data: ":
			data = append(data, line[len("data: "):])
		}
	}
	return n, data
}

func TestQuietStreamsAreKeptAlive(t *testing.T) {
	sleep := with("sleep", func(ctx context.Context, call *mcphttp.Call) ([]byte, error) {
		time.Sleep(100 * time.Second)
		return jsonrpc.NewResult(call.Message.ID, nil), nil
	})
	t.Run("a long call", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := startBubble(t, sleep, nil)
			for _, res := range []func() *http.Response{
				func() *http.Response {
					body, h := modern("1", "tools/call", `"name":"sleep"`)
					return s.post(body, h)
				},
				func() *http.Response {
					return s.post(`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"sleep"}}`, s.session("2025-11-25", "{}"))
				},
			} {
				n, data := comments(res())
				if n != 6 || len(data) != 1 || data[0] != `{"jsonrpc":"2.0","id":1,"result":{}}` {
					t.Errorf("%d comments in 100 s, then %q", n, data)
				}
			}
		})
	})
	t.Run("not where the client takes JSON only", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := startBubble(t, sleep, nil)
			body, h := modern("1", "tools/call", `"name":"sleep"`)
			h["Accept"] = "application/json"
			if got := s.text(s.post(body, h)); got != `{"jsonrpc":"2.0","id":1,"result":{}}` {
				t.Error(got)
			}
		})
	})
	t.Run("listening streams", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := startBubble(t, nil, nil)
			body, h := modern("1", "subscriptions/listen", `"notifications":{}`)
			for _, open := range []func() *http.Response{
				func() *http.Response { return s.post(body, h) },
				func() *http.Response { return s.method(http.MethodGet, s.session("2025-11-25", "{}")) },
			} {
				res := open()
				count := make(chan int, 1)
				go func() { n, _ := comments(res); count <- n }()
				time.Sleep(61 * time.Second)
				_ = res.Body.Close()
				if n := <-count; n != 4 {
					t.Errorf("%d comments in a minute", n)
				}
			}
		})
	})
}

func TestSessionExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := startBubble(t, nil, func(o *mcphttp.Options) { o.SessionTTL = time.Hour })
		h := s.session("2025-11-25", "{}")
		ping := `{"jsonrpc":"2.0","id":1,"method":"ping"}`
		stream := s.method(http.MethodGet, h)
		time.Sleep(59 * time.Minute)
		res := s.post(ping, h)
		if res.StatusCode != 200 {
			t.Errorf("before: %s", res.Status)
		}
		s.text(res) // so that the next goes the same way
		time.Sleep(time.Minute)
		if res := s.post(ping, h); res.StatusCode != 404 {
			t.Errorf("after: %s", res.Status)
		}
		if _, data := comments(stream); data != nil { // it ends by itself
			t.Errorf("stream carried %q", data)
		}
	})
}

// expiring is a Verifier of one token that can be revoked.
type expiring struct {
	mu      sync.Mutex
	revoked bool
	expires time.Time
}

func (e *expiring) Verify(context.Context, string) (*identity.Principal, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.revoked || !time.Now().Before(e.expires) {
		return nil, fmt.Errorf("token: %w", identity.ErrInvalidToken)
	}
	return &identity.Principal{Subject: "user_alice", Expires: e.expires}, nil
}

func TestListeningEndsWithTheTokenAndWithTheGrant(t *testing.T) {
	for name, revoke := range map[string]bool{"expiry": false, "revocation": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				v := &expiring{expires: time.Now().Add(time.Hour)}
				s := startBubble(t, nil, func(o *mcphttp.Options) { o.Verifier = v })
				body, h := modern("1", "subscriptions/listen", `"notifications":{}`)
				began, allowed := time.Now(), time.Hour
				res := s.post(body, h)
				if revoke {
					time.Sleep(time.Minute)
					v.mu.Lock()
					v.revoked = true
					v.mu.Unlock()
					allowed = time.Minute
				}
				_, data := comments(res)
				if d := time.Since(began); d < allowed || d > allowed+15*time.Second {
					t.Errorf("ended after %v", d)
				}
				if len(data) != 2 || !strings.Contains(data[1], `"complete"`) {
					t.Errorf("the client was not told: %q", data)
				}
			})
		})
	}
}

func TestClientThatNeverReadsCountsAsGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ended := make(chan error, 1)
		s := startBubble(t, with("flood", func(ctx context.Context, call *mcphttp.Call) ([]byte, error) {
			for {
				if err := call.Notify(ctx, jsonrpc.NewNotification("notifications/progress", nil)); err != nil {
					ended <- err
					return nil, err
				}
			}
		}), nil)
		body, h := modern("1", "tools/call", `"name":"flood"`)
		began := time.Now()
		res := s.post(body, h) // and not a byte of its body is read
		if err := <-ended; !errors.Is(err, mcphttp.ErrStreamClosed) {
			t.Error(err)
		}
		if d := time.Since(began); d > 2*time.Minute {
			t.Errorf("after %v", d)
		}
		_, _ = io.Copy(io.Discard, res.Body)
	})
}

// Case 50: whoever asks and does not read the answer holds no connection, with
// a token or without.
func TestAnAnswerThatNobodyReadsIsGivenUp(t *testing.T) {
	for name, request := range map[string]string{
		"refused":           "POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{}",
		"without a content": "OPTIONS /mcp HTTP/1.1\r\nHost: localhost\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := startBubble(t, nil, nil)
				conn, err := s.http.Transport.(*http.Transport).DialContext(t.Context(), "tcp", "")
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				if _, err := io.WriteString(conn, request); err != nil {
					t.Fatal(err)
				}
				time.Sleep(2 * time.Minute)
				_ = conn.SetDeadline(time.Now().Add(time.Second))
				if _, err := conn.Write([]byte("POST")); !errors.Is(err, io.ErrClosedPipe) {
					t.Errorf("the connection is still there: %v", err)
				}
			})
		})
	}
}

func TestListenerThatDoesNotReadLosesItsStreamNotTheServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := startBubble(t, nil, nil)
		body, h := modern("1", "subscriptions/listen", `"notifications":{"resourceSubscriptions":["file:///"]}`)
		res := s.post(body, h)
		synctest.Wait() // a pipe holds nothing: the acknowledgement waits for its reader
		const sent = 2000
		for i := range sent {
			if err := s.Notify(nil, fmt.Appendf(nil, `{"jsonrpc":"2.0","method":"notifications/resources/updated","params":{"uri":"file:///%d"}}`, i)); err != nil {
				t.Fatal(err)
			}
		}
		_, data := comments(res)
		if n := len(data); n < 2 || n >= sent || !strings.Contains(data[0], "acknowledged") || !strings.Contains(data[n-1], `"complete"`) {
			t.Errorf("%d events, the last is %q", n, data[n-1])
		}
	})
}

// A handler that goes on after the end of its call is left to itself a second
// later, and answered for; one that is said to be quick is waited for.
func TestAHandlerThatIgnoresItsEndIsLeftBehind(t *testing.T) {
	deaf := with("deaf", func(_ context.Context, call *mcphttp.Call) ([]byte, error) {
		defer call.Within(time.Minute, func(cause error) ([]byte, error) {
			return jsonrpc.NewResult(call.Message.ID, map[string]string{"late": cause.Error()}), nil
		})()
		time.Sleep(time.Hour)
		return jsonrpc.NewResult(call.Message.ID, nil), nil
	})
	for name, tt := range map[string]struct {
		quick func(string) bool
		want  string
		after time.Duration
	}{
		"left behind": {nil, `{"jsonrpc":"2.0","id":1,"result":{"late":"out of time"}}`, 61 * time.Second},
		"waited for":  {func(tool string) bool { return tool == "deaf" }, `{"jsonrpc":"2.0","id":1,"result":{}}`, time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := startBubble(t, deaf, func(o *mcphttp.Options) { o.Quick = tt.quick })
				legacy := s.session("2025-11-25", "{}")
				body, modern := modern("1", "tools/call", `"name":"deaf"`)
				modern["Accept"] = "application/json" // or comments would come before it
				began := time.Now()
				if got := s.text(s.post(body, modern)); got != tt.want || time.Since(began) != tt.after {
					t.Errorf("a modern call: %v %s", time.Since(began), got)
				}
				began = time.Now()
				res := s.post(`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"deaf"}}`, legacy)
				text := s.text(res)
				if !strings.Contains(text, tt.want) || time.Since(began) != tt.after {
					t.Errorf("a legacy call: %v %s", time.Since(began), text)
				}
				time.Sleep(2 * time.Hour) // until those that were left behind have ended
			})
		})
	}
}

// Over HTTP/2 a deadline for writing ends a stream although nobody writes. A
// call may take longer than that, also where no comments can go out meanwhile.
func TestALongCallOverHTTP2IsAnswered(t *testing.T) {
	for name, accept := range map[string]string{"as JSON": "application/json", "on a stream": "application/json, text/event-stream"} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := startBubble(t, with("long", func(ctx context.Context, call *mcphttp.Call) ([]byte, error) {
					select {
					case <-time.After(4 * time.Minute):
					case <-ctx.Done():
					}
					return jsonrpc.NewResult(call.Message.ID, map[string]bool{"done": true}), nil
				}), nil)
				over2 := new(http.Protocols)
				over2.SetUnencryptedHTTP2(true)
				s.http.Transport.(*http.Transport).Protocols = over2
				body, h := modern("1", "tools/call", `"name":"long"`)
				res := s.post(body, h, header{"Accept": accept})
				if got := s.text(res); res.ProtoMajor != 2 || !strings.Contains(got, `"done":true`) {
					t.Errorf("%s %s: %q", res.Proto, res.Status, got)
				}
			})
		})
	}
}
