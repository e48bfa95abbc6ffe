package telemetry_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/mcp-clerk/mcp-clerk/internal/secret"
	"github.com/mcp-clerk/mcp-clerk/internal/telemetry"
)

func logger(t *testing.T, w io.Writer, format string) *slog.Logger {
	t.Helper()
	l, err := telemetry.NewLogger(w, format, slog.LevelDebug)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// A canary that must never come out, in the shapes and places of a secret.
const canary = "CANARYcanary0123456789"

func TestNoSecretGetsIntoTheLog(t *testing.T) {
	jwt := "eyJhbGciOiJSUzI1NiJ9." + canary + "." + canary
	for _, format := range []string{"text", "json"} {
		var buf bytes.Buffer
		log := logger(t, &buf, format)
		log.Info("headers", "headers", http.Header{"Authorization": {"Bearer " + canary}, "Cookie": {"csrf_token=" + canary}})
		log.Info("named", "access_token", canary, "client-secret", canary, "CLERK_SECRET_KEY", canary, "Authorization", canary,
			"cookie", canary, "COOKIE_ENCRYPTION_KEY", canary, "code", canary, "state", canary)
		log.Info("any", "token", []string{canary}, "error", fmt.Errorf("got Bearer %s", canary))
		log.Info("wrapped", "error", errors.Join(errors.New("GET /callback?code="+canary+"&state="+canary), errors.New("postgres://mcp:"+canary+"@db/x")))
		log.Info("in the message: sk_test_"+canary, "text", "whsec_"+canary, "t", "mcpc_rt_"+canary)
		log.Info("jwt " + jwt)
		log.Info("struct", "options", struct {
			Key    secret.String
			Header string
		}{secret.String(canary), "basic " + canary})
		log.WithGroup("g").With("refresh_token", canary).Info("grouped", slog.Group("h", slog.String("password", canary)))
		log.Info("form", "body", `grant_type=authorization_code&code_verifier=`+canary, "json", `{"refresh_token":"`+canary+`"}`)
		if strings.Contains(buf.String(), canary) {
			for line := range strings.Lines(buf.String()) {
				if strings.Contains(line, canary) {
					t.Errorf("%s: a secret in %s", format, line)
				}
			}
		}
		if n := strings.Count(buf.String(), "\n"); n != 9 {
			t.Errorf("%s: %d lines, want 9:\n%s", format, n, &buf)
		}
	}
}

func TestOrdinaryTextStaysReadable(t *testing.T) {
	var buf bytes.Buffer
	logger(t, &buf, "json").Info("grant revoked", "client", "mcpc_client_abc123def456", "key", "grant/user_1/g1", "code", -32602, "status", 401,
		"url", "https://mcp.example.com/mcp", "error", errors.New(`tool "add" not found: basic facts`), "user", "user_2abcDEF")
	var got map[string]any
	if err := json.Unmarshal(buf.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]any{"level": "INFO", "msg": "grant revoked", "client": "mcpc_client_abc123def456", "key": "grant/user_1/g1",
		"code": -32602.0, "url": "https://mcp.example.com/mcp", "user": "user_2abcDEF"} {
		if got[key] != want {
			t.Errorf("%s is %v, want %v", key, got[key], want)
		}
	}
}

func TestUnknownFormatIsAnError(t *testing.T) {
	if _, err := telemetry.NewLogger(io.Discard, "xml", nil); err == nil || !strings.Contains(err.Error(), `"xml"`) {
		t.Errorf("error %v", err)
	}
}

func FuzzScrubKeepsOtherTextAndEndsStable(f *testing.F) {
	f.Add("Bearer abcdefghijk and more")
	f.Add("a=b&token=cdefg")
	f.Fuzz(func(t *testing.T, s string) {
		once := telemetry.Scrub("sk_live_" + canary + " " + s)
		if strings.Contains(once, canary) && !strings.Contains(s, canary) {
			t.Errorf("%q still holds the secret", once)
		}
	})
}

// serve runs one request through Access and returns the response and the log.
func serve(t *testing.T, h http.HandlerFunc, change func(*http.Request)) (*http.Response, string) {
	t.Helper()
	var buf bytes.Buffer
	log := logger(t, &buf, "text")
	srv := httptest.NewServer(telemetry.Access(h, log))
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, srv.URL+"/callback?code="+canary, nil)
	if err != nil {
		t.Fatal(err)
	}
	if change != nil {
		change(req)
	}
	resp, err := srv.Client().Do(req)
	if err == nil {
		_, _ = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
	}
	srv.Close() // waits for the handler, so that its line is written
	return resp, buf.String()
}

func TestAccessLogHasNoQueryAndTheRequestID(t *testing.T) {
	var inside string
	resp, log := serve(t, func(w http.ResponseWriter, r *http.Request) {
		inside = telemetry.RequestID(r.Context())
		w.WriteHeader(http.StatusTeapot)
		fmt.Fprint(w, "12345")
	}, nil)
	id := resp.Header.Get("X-Request-Id")
	if id == "" || id != inside {
		t.Errorf("answered with id %q, the handler saw %q", id, inside)
	}
	for _, want := range []string{"status=418", "bytes=5", "path=/callback", "request_id=" + id} {
		if !strings.Contains(log, want) {
			t.Errorf("log lacks %q: %s", want, log)
		}
	}
	if strings.Contains(log, canary) {
		t.Errorf("the query is in the log: %s", log)
	}
}

func TestRequestIDOfTheClientIsTakenOnlyWhenWellFormed(t *testing.T) {
	for sent, taken := range map[string]bool{
		"3f2a-77.b_c1":            true,
		"short":                   false,
		strings.Repeat("a", 65):   false,
		"injected level=ERROR":    false,
		"quote\"quote'quote":      false,
		"ünïcode-identifier-1234": false,
	} {
		resp, _ := serve(t, func(http.ResponseWriter, *http.Request) {}, func(r *http.Request) { r.Header.Set("X-Request-Id", sent) })
		if got := resp.Header.Get("X-Request-Id"); (got == sent) != taken || got == "" {
			t.Errorf("sent %q, answered %q, want it taken: %t", sent, got, taken)
		}
	}
}

func TestPanicIsA500AndTheServerLives(t *testing.T) {
	resp, log := serve(t, func(http.ResponseWriter, *http.Request) { panic("boom Bearer " + canary) }, nil)
	if resp == nil || resp.StatusCode != http.StatusInternalServerError {
		t.Fatalf("response %+v", resp)
	}
	if !strings.Contains(log, "boom") || !strings.Contains(log, "telemetry_test.go") || strings.Contains(log, canary) {
		t.Errorf("log: %s", log)
	}
}

func TestPanicAfterTheResponseBeganCutsTheConnection(t *testing.T) {
	_, log := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "100")
		fmt.Fprint(w, "half")
		panic("boom")
	}, nil)
	if !strings.Contains(log, "boom") {
		t.Errorf("log: %s", log)
	}
}

func TestStreamsPassThrough(t *testing.T) {
	srv := httptest.NewServer(telemetry.Access(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, "first")
		if _, ok := w.(http.Flusher); !ok {
			t.Error("not a Flusher")
		}
		if err := http.NewResponseController(w).Flush(); err != nil {
			t.Errorf("flush: %v", err)
		}
		<-r.Context().Done()
	}), slog.New(slog.DiscardHandler)))
	defer srv.Close()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, srv.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := srv.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	got := make([]byte, 5)
	if _, err := io.ReadFull(resp.Body, got); err != nil || string(got) != "first" {
		t.Errorf("read %q, %v before the handler ended", got, err)
	}
}
