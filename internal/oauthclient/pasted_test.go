package oauthclient_test

import (
	"context"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/mcp-clerk/mcp-clerk/internal/oauthclient"
)

// Answers that a person pastes, for want of a browser that can reach this machine.

// Case 17: the browser is on another machine and ends at an address that it
// cannot show; the person brings it.
func TestPastedAnswer(t *testing.T) {
	for name, tc := range map[string]struct {
		line    func(redirect *url.URL, auth url.Values, code, iss string) string
		noIss   bool // the server does not announce iss
		refused string
	}{
		"the whole address": {line: func(r *url.URL, auth url.Values, code, iss string) string {
			return "  \"" + r.String() + "?" + url.Values{"code": {code}, "state": auth["state"], "iss": {iss}}.Encode() + "\"\r"
		}},
		"the query alone": {line: func(_ *url.URL, auth url.Values, code, iss string) string {
			return "?" + url.Values{"code": {code}, "state": auth["state"], "iss": {iss}}.Encode()
		}},
		"the code alone": {noIss: true, line: func(_ *url.URL, _ url.Values, code, _ string) string { return code }},
		"the code alone where the issuer always stands beside it": {
			line:    func(_ *url.URL, _ url.Values, code, _ string) string { return code },
			refused: "whole address",
		},
		"another state": {refused: "not the address", line: func(r *url.URL, _ url.Values, code, iss string) string {
			return r.String() + "?" + url.Values{"code": {code}, "state": {"x"}, "iss": {iss}}.Encode()
		}},
		"no state": {refused: "not the address", line: func(r *url.URL, _ url.Values, code, iss string) string {
			return r.String() + "?" + url.Values{"code": {code}, "iss": {iss}}.Encode()
		}},
		"nothing in it": {refused: "neither a code", line: func(r *url.URL, auth url.Values, _, iss string) string {
			return r.String() + "?" + url.Values{"state": auth["state"], "iss": {iss}}.Encode()
		}},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			if tc.noIss {
				delete(s.meta, "authorization_response_iss_parameter_supported")
			}
			lines, notices := make(chan string), make(chan string, 10)
			w := wait(t, s, func(o *oauthclient.Options) {
				o.Pasted, o.Notice = lines, func(text string) { notices <- text }
			})
			code := w.code()
			say := func(line string) {
				t.Helper()
				select {
				case lines <- line:
				case <-time.After(10 * time.Second):
					t.Fatal("nobody reads what is pasted")
				}
			}
			say("")
			say(tc.line(w.redirect, w.auth, code, s.URL))
			if tc.refused != "" {
				select {
				case text := <-notices:
					if !strings.Contains(text, tc.refused) {
						t.Errorf("said %q, want %q", text, tc.refused)
					}
				case <-time.After(10 * time.Second):
					t.Fatal("it was taken")
				}
				say(w.redirect.String() + "?" + url.Values{"code": {code}, "state": w.auth["state"], "iss": {s.URL}}.Encode())
			}
			if err := <-w.done; err != nil {
				t.Error(err)
			}
		})
	}
}

// The process that listens may be another one, which nobody can type at: a
// host's. What is pasted into "login" reaches it.
func TestPastedAnswerReachesTheProcessThatListens(t *testing.T) {
	s := newSite(t)
	o := options(t, s.URL+"/mcp", t.TempDir())
	opened := make(chan string, 1)
	o.OpenURL = func(target string) error { opened <- target; return nil }
	host := newClient(t, o)
	done := make(chan error, 2)
	go func() {
		done <- host.Authorize(context.WithoutCancel(t.Context()), "", http.StatusUnauthorized, http.Header{})
	}()
	u, err := url.Parse(<-opened)
	if err != nil {
		t.Fatal(err)
	}
	w := &waiting{site: s, auth: u.Query()}

	lines, shown, notices := make(chan string), make(chan string, 1), make(chan string, 1)
	o.OpenURL, o.Pasted = closed(t), lines
	o.Prompt, o.Notice = func(u, _ string) { shown <- u }, func(text string) { notices <- text }
	login := newClient(t, o)
	go func() { done <- login.SignIn(context.WithoutCancel(t.Context())) }()
	if got := <-shown; got != u.String() {
		t.Errorf("shown %q, want that of the process that listens", got)
	}
	say := func(line string) {
		t.Helper()
		select {
		case lines <- line:
		case <-time.After(10 * time.Second):
			t.Fatal("nobody reads what is pasted")
		}
	}
	say("?state=guessed&code=x")
	select {
	case text := <-notices:
		if !strings.Contains(text, "not the address") {
			t.Errorf("said %q", text)
		}
	case <-time.After(10 * time.Second):
		t.Error("a wrong address was taken")
	}
	say(w.auth.Get("redirect_uri") + "?" + url.Values{"code": {w.code()}, "state": w.auth["state"], "iss": {s.URL}}.Encode())
	for range 2 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	if n := s.count("POST /token"); n != 1 {
		t.Errorf("%d token requests", n)
	}
}

// The answer of another issuer is refused however it comes (RFC 9207).
func TestPastedAnswerOfAnotherIssuer(t *testing.T) {
	s := newSite(t)
	lines := make(chan string)
	w := wait(t, s, func(o *oauthclient.Options) { o.Pasted = lines })
	select {
	case lines <- w.redirect.String() + "?" + url.Values{"code": {w.code()}, "state": w.auth["state"], "iss": {"https://evil.example"}}.Encode():
	case <-time.After(10 * time.Second):
		t.Fatal("nobody reads what is pasted")
	}
	if err := <-w.done; err == nil || !strings.Contains(err.Error(), "RFC 9207") {
		t.Error(err)
	}
	if s.count("POST /token") != 0 {
		t.Error("the code went to the token endpoint")
	}
}
