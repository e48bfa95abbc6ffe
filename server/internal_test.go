package server_test

import (
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/mcp-clerk/mcp-clerk/internal/store"
	"github.com/mcp-clerk/mcp-clerk/server"
)

const operatorKey = "key-of-the-operator"

// internalOf serves the internal handler of a server on a real socket.
func internalOf(t *testing.T, srv *server.Server) string {
	t.Helper()
	hs := httptest.NewServer(srv.InternalHandler(operatorKey))
	t.Cleanup(hs.Close)
	return hs.URL
}

// ask sends a request with headers: name, value, …; "Host" is the host.
func ask(t *testing.T, method, target string, headers ...string) *http.Response {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, target, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		if headers[i] == "Host" {
			req.Host = headers[i+1]
			continue
		}
		req.Header.Add(headers[i], headers[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	return resp
}

// cases/server 56: profiling and what else is for the operator, on a listener
// that no web page and no other user can use.
func TestTheInternalHandlerAnswersItsOperatorOnly(t *testing.T) {
	srv, err := server.New(t.Context(), valid())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { srv.Close() })
	base := internalOf(t, srv)
	key := "Bearer " + operatorKey
	for _, tt := range []struct {
		name, method, path string
		headers            []string
		want               int
	}{
		{"profiles need no key", "GET", "/debug/pprof/heap", nil, 200},
		{"their list", "GET", "/debug/pprof/", nil, 200},
		{"another loopback name", "GET", "/debug/pprof/heap", []string{"Host", "localhost:1"}, 200},
		{"a loopback name through a tunnel", "GET", "/debug/pprof/heap", []string{"Host", "[::1]"}, 200},
		{"the command line may hold a password", "GET", "/debug/pprof/cmdline", nil, 404},
		{"nothing of the public side", "GET", "/", nil, 404},

		{"a name that was rebound", "GET", "/debug/pprof/heap", []string{"Host", "evil.example"}, 421},
		{"a name that looks like loopback", "GET", "/debug/pprof/heap", []string{"Host", "127.0.0.1.evil.example"}, 421},
		{"an address of the network", "GET", "/debug/pprof/heap", []string{"Host", "10.0.0.1:80"}, 421},
		{"a rebound name with the key", "POST", "/backup", []string{"Host", "evil.example", "Authorization", key}, 421},
		{"a page's request", "POST", "/backup", []string{"Origin", "https://evil.example", "Authorization", key}, 403},
		{"a sandboxed page's", "POST", "/compact", []string{"Origin", "null", "Authorization", key}, 403},
		{"a page's link", "GET", "/debug/pprof/heap", []string{"Sec-Fetch-Site", "cross-site"}, 403},
		{"an address typed into a browser", "GET", "/debug/pprof/heap", []string{"Sec-Fetch-Site", "none"}, 403},

		{"a backup without the key", "POST", "/backup", nil, 401},
		{"a wrong key", "POST", "/backup", []string{"Authorization", key + "x"}, 401},
		{"another scheme", "POST", "/compact", []string{"Authorization", "Basic " + operatorKey}, 401},
		{"a backup is no link", "GET", "/backup", []string{"Authorization", key}, 405},
		{"nothing to copy in a store in memory", "POST", "/backup", []string{"Authorization", key}, 501},
		{"nor to compact", "POST", "/compact", []string{"Authorization", key}, 501},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if resp := ask(t, tt.method, base+tt.path, tt.headers...); resp.StatusCode != tt.want {
				t.Errorf("%s, want %d", resp.Status, tt.want)
			}
		})
	}
	keyless := httptest.NewServer(srv.InternalHandler(""))
	defer keyless.Close()
	for _, headers := range [][]string{nil, {"Authorization", "Bearer "}} {
		if resp := ask(t, "POST", keyless.URL+"/backup", headers...); resp.StatusCode != 401 {
			t.Errorf("without a key to know: %s", resp.Status)
		}
	}
	// And the public side has none of it.
	for _, path := range []string{"/backup", "/compact", "/debug/pprof/"} {
		rec := httptest.NewRecorder()
		srv.Handler().ServeHTTP(rec, httptest.NewRequest("GET", path, nil))
		if rec.Code != 404 {
			t.Errorf("the public handler answers %s with %d", path, rec.Code)
		}
	}
}

// A copy made while people sign in opens as a store and has who was there.
func TestABackupIsAStoreWithWhatWasThere(t *testing.T) {
	r := start(t, nil, nil)
	r.signIn(adminMail)
	resp := ask(t, "POST", internalOf(t, r.srv)+"/backup", "Authorization", "Bearer "+operatorKey)
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != 200 {
		t.Fatalf("%s, %v", resp.Status, err)
	}
	sum := sha256.Sum256(body)
	if want, got := "sha-256=:"+base64.StdEncoding.EncodeToString(sum[:])+":", resp.Trailer.Get("Content-Digest"); got != want {
		t.Errorf("digest %q, want %q", got, want)
	}
	path := filepath.Join(t.TempDir(), "copy.db")
	if err := os.WriteFile(path, body, 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := store.OpenBolt(t.Context(), path, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if grants, err := s.List(t.Context(), "grant/", "", 10); err != nil || len(grants) != 1 {
		t.Errorf("the copy has %d grants (%v)", len(grants), err)
	}
}

// What a restored server says to those who were not there at the backup, or
// have been given newer tokens since: sign in again.
func TestARestoredServerRefusesWhatCameAfterTheBackup(t *testing.T) {
	r := start(t, nil, nil)
	before, moved := r.signIn(adminMail), r.signIn(plainMail)
	resp := ask(t, "POST", internalOf(t, r.srv)+"/backup", "Authorization", "Bearer "+operatorKey)
	backup, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	after := r.signIn(plainMail)
	moved = r.refresh(r.refresh(moved)) // the first successor would be answered: its answer may have been lost
	r.stop()
	path, _ := store.BoltPath(r.store)
	belongs, err := filepath.Glob(path + "*")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range belongs {
		if err := os.Remove(name); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(path, backup, 0o600); err != nil {
		t.Fatal(err)
	}
	http.DefaultClient.CloseIdleConnections()
	r.up()
	r.stateless(r.refresh(before).Access).tool("userInfo", `{}`)
	for name, held := range map[string]tokens{"signed in after it": after, "refreshed after it": moved} {
		resp, err := http.PostForm(r.url+"/token", url.Values{"grant_type": {"refresh_token"}, "refresh_token": {held.Refresh}, "client_id": {held.client}})
		if err != nil {
			t.Fatal(err)
		}
		var refused struct{ Error string }
		decode(t, resp, http.StatusBadRequest, &refused)
		if refused.Error != "invalid_grant" {
			t.Errorf("%s: error %q, want invalid_grant", name, refused.Error)
		}
	}
}

// filled is a rig whose store is larger than what sockets buffer.
func filled(t *testing.T) *rig {
	t.Helper()
	return start(t, func(o *server.Options) {
		path, _ := store.BoltPath(o.Store.Reveal())
		s, err := store.OpenBolt(t.Context(), path, store.Options{})
		if err != nil {
			t.Fatal(err)
		}
		value := make([]byte, store.MaxValue)
		for i := range 6 {
			if err := s.Create(t.Context(), store.Record{Key: fmt.Sprint("device/", i), Value: value}); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}, nil)
}

func TestASecondBackupIsToldToWait(t *testing.T) {
	r := filled(t)
	base, key := internalOf(t, r.srv), "Bearer "+operatorKey
	first := ask(t, "POST", base+"/backup", "Authorization", key) // its body waits to be read
	for _, path := range []string{"/backup", "/compact"} {
		if resp := ask(t, "POST", base+path, "Authorization", key); resp.StatusCode != 409 {
			t.Errorf("%s during a backup: %s", path, resp.Status)
		}
	}
	if _, err := io.Copy(io.Discard, first.Body); err != nil || first.Trailer.Get("Content-Digest") == "" {
		t.Errorf("the first one: %v", err)
	}
	if resp := ask(t, "POST", base+"/compact", "Authorization", key); resp.StatusCode != 200 {
		t.Errorf("after it: %s", resp.Status)
	}
}

// A backup whose reader goes away is given up, so that the next one can begin.
func TestABackupEndsWithItsReader(t *testing.T) {
	r := filled(t)
	base, key := internalOf(t, r.srv), "Bearer "+operatorKey
	ask(t, "POST", base+"/backup", "Authorization", key).Body.Close()
	deadline := time.Now().Add(40 * time.Second)
	for {
		resp := ask(t, "POST", base+"/compact", "Authorization", key)
		if resp.StatusCode == 200 {
			return
		}
		if resp.StatusCode != 409 || time.Now().After(deadline) {
			t.Fatalf("compaction: %s", resp.Status)
		}
		resp.Body.Close()
	}
}

// What breaks off does not look as if it had ended well.
func TestABackupThatFailsHalfWayIsNotWhole(t *testing.T) {
	r := filled(t)
	resp := ask(t, "POST", internalOf(t, r.srv)+"/backup", "Authorization", "Bearer "+operatorKey)
	r.stop() // closes the store
	_, err := io.Copy(io.Discard, resp.Body)
	if !errors.Is(err, io.ErrUnexpectedEOF) && (err == nil || !strings.Contains(err.Error(), "reset")) || resp.Trailer.Get("Content-Digest") != "" {
		t.Errorf("error %v, trailer %v", err, resp.Trailer)
	}
}

// Where a sign-in stopped is for the operator, with a browser or without; no
// web page gets at it.
func TestTheInternalHandlerShowsTheSignIns(t *testing.T) {
	r := start(t, nil, nil)
	r.signIn(plainMail)
	at := internalOf(t, r.srv) + "/signins"
	for name, tc := range map[string]struct {
		headers []string
		status  int
		want    string
	}{
		"program":      {[]string{"Accept", "application/json"}, 200, `"outcome":"signed in"`},
		"person":       {[]string{"Accept", "text/html,application/json;q=0.9", "Sec-Fetch-Site", "none", "Sec-Fetch-Mode", "navigate"}, 200, "<h1>Sign-ins</h1>"},
		"page":         {[]string{"Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "navigate"}, 403, ""},
		"script":       {[]string{"Sec-Fetch-Site", "same-origin", "Sec-Fetch-Mode", "cors"}, 403, ""},
		"origin":       {[]string{"Origin", "https://evil.example", "Sec-Fetch-Site", "none", "Sec-Fetch-Mode", "navigate"}, 403, ""},
		"rebound name": {[]string{"Host", "evil.example"}, 421, ""},
	} {
		resp := ask(t, http.MethodGet, at, tc.headers...)
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		if resp.StatusCode != tc.status || !strings.Contains(string(body), tc.want) || strings.Contains(string(body), plainMail) {
			t.Errorf("%s: %s: %s", name, resp.Status, body)
		}
		if tc.status == 200 && !strings.Contains(string(body), "Rig") {
			t.Errorf("%s: the client is missing: %s", name, body)
		}
	}
	if resp := ask(t, http.MethodGet, strings.TrimSuffix(at, "signins")+"debug/pprof/", "Sec-Fetch-Site", "none", "Sec-Fetch-Mode", "navigate"); resp.StatusCode != http.StatusForbidden {
		t.Errorf("profiles for a browser: %s", resp.Status)
	}
	if resp, _ := get(t, r.url+"/signins"); resp.StatusCode != http.StatusNotFound {
		t.Errorf("on the public listener: %s", resp.Status)
	}
}
