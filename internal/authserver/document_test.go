package authserver_test

import (
	"compress/gzip"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mcp-clerk/mcp-clerk/internal/authserver"
)

var documentClient = testClient{id: documentURL, redirect: webRedirect}

// MCP 2026-07-28, client ID metadata documents.
func TestAClientIsWhatItsDocumentSays(t *testing.T) {
	e, w := documentEnv(t)
	w.publish(documentURL, document())
	b := e.browser()
	page := b.authorize(documentClient)
	if !strings.Contains(page.body, "verified domain: app.example") || !strings.Contains(page.body, ">App<") {
		t.Errorf("the page does not show the proven domain: %s", page.body)
	}
	code := page.press("Approve").press("Continue as").answer(documentClient).Get("code")
	tk := e.tokens(e.redeem(documentClient, code))
	tk = e.tokens(e.refresh(documentClient, tk.refresh))
	if !e.valid(tk.access) || w.count(documentURL) != 1 {
		t.Errorf("token valid: %v, document fetched %d times", e.valid(tk.access), w.count(documentURL))
	}
	// What is remembered counts for a proven domain (decision 8).
	if v := b.authorize(documentClient); !v.left {
		t.Errorf("asked again: %v", v.url)
	}
	if v := b.authorize(documentClient, "redirect_uri", "https://app.example/other"); v.status != http.StatusBadRequest || v.left {
		t.Errorf("another redirect: %d", v.status)
	}
	if a := e.redeem(testClient{id: documentURL, secret: "guess", redirect: webRedirect}, "x"); a.status != http.StatusUnauthorized {
		t.Errorf("a secret for a public client: %d", a.status)
	}
}

// RFC 8252 section 7.3, in documents as in registrations: Claude Code's says
// http://localhost/callback and asks with a port.
func TestLoopbackRedirectsOfADocumentHaveAnyPort(t *testing.T) {
	e, w := documentEnv(t)
	w.publish(documentURL, document("redirect_uris", []string{"http://localhost/callback", "http://127.0.0.1:3000/callback"}))
	for redirect, want := range map[string]bool{
		"http://localhost:4711/callback": true, "http://127.0.0.1:4711/callback": true, "http://localhost/callback": true,
		"http://[::1]:4711/callback": false, "http://localhost:4711/other": false, "http://127.0.0.1.evil.example:4711/callback": false, "https://localhost:4711/callback": false,
	} {
		v := e.browser().authorize(documentClient, "redirect_uri", redirect)
		if v.has("Approve") != want || !want && v.status != http.StatusBadRequest {
			t.Errorf("%s: %d", redirect, v.status)
		}
		if want && !strings.Contains(v.body, "runs on your own computer") {
			t.Errorf("%s: no warning", redirect)
		}
	}
}

// Whatever is wrong, outsiders see one answer: the server is no oracle of what
// it can reach.
func TestUnfitDocumentsAreNoClients(t *testing.T) {
	text := func(body string, header ...string) http.HandlerFunc {
		return func(rw http.ResponseWriter, _ *http.Request) {
			rw.Header().Set("Content-Type", "application/json")
			for i := 0; i+1 < len(header); i += 2 {
				rw.Header().Set(header[i], header[i+1])
			}
			_, _ = rw.Write([]byte(body))
		}
	}
	const good = `{"client_id":"` + documentURL + `","redirect_uris":["` + webRedirect + `"],"token_endpoint_auth_method":"none"}`
	with := func(member string) http.HandlerFunc { return text(good[:len(good)-1] + "," + member + "}") }
	redirects := func(uri string) http.HandlerFunc {
		return text(fmt.Sprintf(`{"client_id":%q,"redirect_uris":[%q]}`, documentURL, uri))
	}
	cases := map[string]http.HandlerFunc{
		"missing":       http.NotFound,
		"redirect":      func(rw http.ResponseWriter, r *http.Request) { http.Redirect(rw, r, "/good", http.StatusFound) },
		"not modified":  func(rw http.ResponseWriter, _ *http.Request) { rw.WriteHeader(http.StatusNotModified) },
		"other success": func(rw http.ResponseWriter, _ *http.Request) { rw.WriteHeader(http.StatusNoContent) },
		"failure":       func(rw http.ResponseWriter, _ *http.Request) { rw.WriteHeader(http.StatusInternalServerError) },
		"hang-up":       func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
		"long":          with(`"x":"` + strings.Repeat("a", 5<<10) + `"`),
		"long, chunked": func(rw http.ResponseWriter, _ *http.Request) {
			rw.Header().Set("Content-Type", "application/json")
			for range 100 {
				_, _ = rw.Write([]byte(strings.Repeat(" ", 100)))
				rw.(http.Flusher).Flush()
			}
			_, _ = rw.Write([]byte(good))
		},
		"said to be gzip": text(good, "Content-Encoding", "gzip"),
		"gzip": func(rw http.ResponseWriter, _ *http.Request) {
			rw.Header().Set("Content-Type", "application/json")
			rw.Header().Set("Content-Encoding", "gzip")
			z := gzip.NewWriter(rw)
			_, _ = z.Write([]byte(good))
			_ = z.Close()
		},
		"drip": func(rw http.ResponseWriter, r *http.Request) {
			rw.Header().Set("Content-Type", "application/json")
			tick := time.NewTicker(50 * time.Millisecond)
			defer tick.Stop()
			for i := 0; i < len(good); i++ {
				_, _ = rw.Write([]byte(good[i : i+1]))
				rw.(http.Flusher).Flush()
				select {
				case <-tick.C:
				case <-r.Context().Done():
					return
				}
			}
		},
		"html":                text(good, "Content-Type", "text/html"),
		"text":                text(good, "Content-Type", "text/plain"),
		"no JSON":             text("client"),
		"array":               text("[" + good + "]"),
		"two values":          text(good + good),
		"not UTF-8":           with("\"client_name\":\"\xff\""),
		"key twice":           with(`"redirect_uris":["https://evil.example/"]`),
		"key in another case": with(`"Redirect_URIs":["https://evil.example/"]`),
		"another client":      text(strings.Replace(good, documentURL, "https://app.example/oauth/Client.json", 1)),
		"no client":           text(`{"redirect_uris":["` + webRedirect + `"]}`),
		"secret":              with(`"client_secret":"s3cr3t"`),
		"secret's end":        with(`"client_secret_expires_at":0`),
		"basic":               text(strings.Replace(good, `"none"`, `"client_secret_basic"`, 1)),
		"post":                text(strings.Replace(good, `"none"`, `"client_secret_post"`, 1)),
		"unknown method":      text(strings.Replace(good, `"none"`, `"tls_client_auth"`, 1)),
		"keys without keys":   text(strings.Replace(good, `"none"`, `"private_key_jwt"`, 1)),
		"no redirects":        text(`{"client_id":"` + documentURL + `"}`),
		"http redirect":       redirects("http://app.example/cb"),
		"script":              redirects("javascript:alert(1)"),
		"private-use":         redirects("evil://app/cb"),
		"ambiguous redirect":  redirects("https://app.example/a/%2e%2e/cb"),
		"redirect with user":  redirects("https://app.example@evil.example/cb"),
	}
	var first string
	for name, page := range cases {
		t.Run(name, func(t *testing.T) {
			e, w := documentEnv(t)
			e.srv.FetchFrom(w.roots, 500*time.Millisecond, func(string) string { return w.srv.Listener.Addr().String() })
			w.set("https://app.example/good", text(good))
			w.set(documentURL, page)
			v := e.browser().authorize(documentClient)
			if v.status != http.StatusBadRequest || v.left {
				t.Fatalf("%d %v", v.status, v.url)
			}
			shown, _, _ := strings.Cut(v.body, "equest") // what follows is its id
			if first == "" {
				first = shown
			}
			if shown != first {
				t.Errorf("the page tells: %s", shown)
			}
			a := e.redeem(documentClient, "x")
			expectError(t, a, http.StatusUnauthorized, "invalid_client")
			if want := `{"error":"invalid_client","error_description":"client authentication failed"}`; strings.TrimSpace(string(a.body)) != want {
				t.Errorf("answer %s", a.body)
			}
			if n := w.count(documentURL); n != 1 {
				t.Errorf("fetched %d times: a failure is not kept", n)
			}
		})
	}
	e, w := documentEnv(t)
	w.set(documentURL, text(good))
	if v := e.browser().authorize(documentClient); !v.has("Approve") {
		t.Errorf("the document of these cases is unfit by itself: %d", v.status)
	}
}

// The guard looks at the address that is connected to, whatever the name was
// and whatever it resolved to before (DNS rebinding).
func TestDocumentsComeFromPublicAddressesOnly(t *testing.T) {
	e, w := newEnv(t), newWeb(t)
	e.reach(w) // every name resolves to loopback
	w.publish(documentURL, document())
	for _, id := range []string{documentURL, "https://127.0.0.1/client.json", "https://[::1]/client.json", "https://[::ffff:127.0.0.1]/client.json", "https://0x7f.1/client.json", "https://2130706433/client.json"} {
		if v := e.browser().authorize(testClient{id: id, redirect: webRedirect}); v.status != http.StatusBadRequest {
			t.Errorf("%s: %d", id, v.status)
		}
		if n := w.count(id); n != 0 {
			t.Errorf("%s: fetched", id)
		}
	}
	for text, want := range map[string]bool{
		"93.184.216.34": true, "1.1.1.1": true, "172.15.255.255": true, "172.32.0.1": true, "100.63.255.255": true, "100.128.0.1": true, "2606:4700::1111": true, "64:ff9b::101:101": true,
		"127.0.0.1": false, "127.255.255.254": false, "0.0.0.0": false, "0.1.2.3": false, "10.0.0.1": false, "172.16.0.1": false, "172.31.255.255": false, "192.168.1.1": false,
		"169.254.169.254": false, "100.64.0.1": false, "100.127.255.255": false, "192.0.0.8": false, "198.18.0.1": false, "224.0.0.1": false, "239.1.2.3": false, "255.255.255.255": false,
		"::": false, "::1": false, "::ffff:127.0.0.1": false, "::ffff:10.0.0.1": false, "::127.0.0.1": false, "fe80::1": false, "fe80::1%eth0": false, "fd00::1": false, "fc00::1": false, "ff02::1": false, "fec0::1": false,
		"64:ff9b::7f00:1": false, "64:ff9b::a9fe:a9fe": false, "64:ff9b::a00:1": false, "64:ff9b:1::7f00:1": false, "64:ff9b:1::101:101": false,
		"2002:7f00:1::": false, "2002:a00:1::1": false, "2001:0:7f00:1::": false, "2001:db8::1": false, "2001:20::1": false, "3fff::1": false, "5f00::1": false, "100::1": false,
	} {
		if got := authserver.PublicAddress(netip.MustParseAddr(text)); got != want {
			t.Errorf("%s counts as public: %v", text, got)
		}
	}
}

// RFC 9111 section 4.2.1, within bounds of our own.
func TestDocumentsAreKeptAsLongAsTheirHeadersSay(t *testing.T) {
	for name, tc := range map[string]struct {
		header []string
		life   time.Duration
	}{
		"nothing said": {nil, time.Hour},
		"max-age":      {[]string{"Cache-Control", "public, max-age=600"}, 10 * time.Minute},
		"with age":     {[]string{"Cache-Control", "max-age=600", "Age", "300"}, 5 * time.Minute},
		"no-store":     {[]string{"Cache-Control", "no-store"}, time.Minute},
		"none":         {[]string{"Cache-Control", "max-age=0"}, time.Minute},
		"a year":       {[]string{"Cache-Control", "max-age=31536000"}, 24 * time.Hour},
		"nonsense":     {[]string{"Cache-Control", "max-age=-1"}, time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			e, w := documentEnv(t)
			w.publish(documentURL, document(), tc.header...)
			for _, step := range []struct {
				pause time.Duration
				want  int
			}{{0, 1}, {tc.life - time.Second, 1}, {time.Second, 2}} {
				e.clock.advance(step.pause)
				if v := e.browser().authorize(documentClient); !v.has("Approve") || w.count(documentURL) != step.want {
					t.Errorf("after %v: %d, fetched %d times, want %d", step.pause, v.status, w.count(documentURL), step.want)
				}
			}
		})
	}
}

func TestAFailedFetchIsTriedAgainSoon(t *testing.T) {
	e, w := documentEnv(t)
	if v := e.browser().authorize(documentClient); v.status != http.StatusBadRequest {
		t.Fatal(v.status)
	}
	w.publish(documentURL, document())
	e.clock.advance(29 * time.Second)
	if v := e.browser().authorize(documentClient); v.status != http.StatusBadRequest || w.count(documentURL) != 1 {
		t.Errorf("%d after %d fetches", v.status, w.count(documentURL))
	}
	e.clock.advance(2 * time.Second)
	if v := e.browser().authorize(documentClient); !v.has("Approve") {
		t.Errorf("%d after %d fetches", v.status, w.count(documentURL))
	}
}

func TestManyRequestsFetchADocumentOnce(t *testing.T) {
	e, w := documentEnv(t)
	w.publish(documentURL, document())
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if a := e.get("/authorize?" + documentClient.query().Encode()); a.status != http.StatusOK {
				t.Errorf("%d", a.status)
			}
		})
	}
	wg.Wait()
	if n := w.count(documentURL); n != 1 {
		t.Errorf("fetched %d times", n)
	}
}

// Nobody who has approved a client signs in again because its host is down.
func TestApprovedClientsOutliveTheirHost(t *testing.T) {
	e, w := documentEnv(t)
	w.publish(documentURL, document())
	tk := e.signIn(documentClient)
	w.cut(true)
	e.clock.advance(25 * time.Hour)
	e.start(loopbackDocuments) // another instance, with an empty cache
	e.reach(w)
	tk = e.tokens(e.refresh(documentClient, tk.refresh))
	if v := e.browser().authorize(documentClient); !v.has("Approve") {
		t.Errorf("%d", v.status)
	}
	// Gone is another thing than down.
	w.cut(false)
	w.set(documentURL, http.NotFound)
	e.clock.advance(2 * time.Minute)
	expectError(t, e.refresh(documentClient, tk.refresh), http.StatusUnauthorized, "invalid_client")
	// And it is back with the document.
	w.publish(documentURL, document())
	e.clock.advance(time.Minute)
	e.tokens(e.refresh(documentClient, tk.refresh))
}

func TestAKnownClientHasACopyOfItsDocument(t *testing.T) {
	e, w := documentEnv(t)
	w.cut(true)
	claude := testClient{id: "https://claude.ai/oauth/mcp-oauth-client-metadata", redirect: "https://claude.ai/api/mcp/auth_callback"}
	if v := e.browser().authorize(claude); !v.has("Approve") || !strings.Contains(v.body, "verified domain: claude.ai") {
		t.Errorf("%d %s", v.status, v.body)
	}
	if v := e.browser().authorize(documentClient); v.status != http.StatusBadRequest {
		t.Errorf("an unknown client: %d", v.status)
	}
}

// Case 38: changed redirects after consent make the consent void.
func TestAChangedDocumentIsApprovedAnew(t *testing.T) {
	for name, change := range map[string][]any{
		"redirect added":    {"redirect_uris", []string{webRedirect, "https://app.example/more"}},
		"redirect replaced": {"redirect_uris", []string{"https://app.example/more"}},
		"keys":              {"token_endpoint_auth_method", "private_key_jwt", "jwks_uri", "https://app.example/jwks.json"},
	} {
		t.Run(name, func(t *testing.T) {
			e, w := documentEnv(t)
			w.publish(documentURL, document())
			b := e.browser()
			b.authorize(documentClient).press("Approve").press("Continue as").answer(documentClient)
			e.clock.advance(2 * time.Hour)
			if v := b.authorize(documentClient); !v.left { // fetched again, unchanged
				t.Fatalf("asked again without a change: %d", v.status)
			}
			w.publish(documentURL, document(change...))
			e.clock.advance(2 * time.Hour)
			v := b.authorize(documentClient)
			if v.left {
				t.Error("the old consent still counts")
			}
			if name == "redirect replaced" && v.status != http.StatusBadRequest {
				t.Errorf("a redirect that is gone: %d", v.status)
			}
		})
	}
}

// Between approval and callback a document may change, too.
func TestADocumentThatChangesDuringASignInGetsNoCode(t *testing.T) {
	e, w := documentEnv(t)
	w.publish(documentURL, document(), "Cache-Control", "max-age=60")
	page := e.browser().authorize(documentClient)
	w.publish(documentURL, document("redirect_uris", []string{"https://app.example/more"}))
	e.clock.advance(2 * time.Minute)
	if v := page.press("Approve"); v.left || v.status != http.StatusBadRequest {
		t.Errorf("%d %v", v.status, v.url)
	}
	w.publish(documentURL, document(), "Cache-Control", "max-age=60")
	e.clock.advance(2 * time.Hour)
	page = e.browser().authorize(documentClient).press("Approve")
	w.publish(documentURL, document("redirect_uris", []string{"https://app.example/more"}))
	e.clock.advance(2 * time.Minute)
	if v := page.press("Continue as"); v.left || v.status != http.StatusBadRequest {
		t.Errorf("after the sign-in: %d %v", v.status, v.url)
	}
}

// Who makes the server fetch without end is stopped; others are not.
func TestFetchesHaveALimitPerAddress(t *testing.T) {
	e, w := documentEnv(t)
	e.addr = "198.51.100.7:1"
	var status int
	for i := range 100 {
		id := fmt.Sprintf("https://app.example/%d.json", i)
		if status = e.get("/authorize?" + (testClient{id: id, redirect: webRedirect}).query().Encode()).status; status == http.StatusTooManyRequests {
			break
		}
	}
	if status != http.StatusTooManyRequests {
		t.Fatal("never limited")
	}
	a := e.post("/token", url.Values{"client_id": {"https://app.example/x.json"}, "grant_type": {"refresh_token"}, "refresh_token": {"x"}})
	if a.status != http.StatusTooManyRequests || a.header.Get("Retry-After") == "" {
		t.Errorf("token endpoint: %d %s", a.status, a.body)
	}
	e.addr = "203.0.113.9:1"
	w.publish(documentURL, document())
	if v := e.browser().authorize(documentClient); !v.has("Approve") {
		t.Errorf("another address: %d", v.status)
	}
	e.addr = "198.51.100.7:1" // what is known needs no fetch
	if v := e.browser().authorize(documentClient); !v.has("Approve") {
		t.Errorf("a known document: %d", v.status)
	}
}
