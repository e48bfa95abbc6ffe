package authserver

import (
	"encoding/json"
	"log/slog"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mcp-clerk/mcp-clerk/internal/secret"
)

// These look at parsers from inside: over HTTP a fuzzer would spend its time on
// the way to them.

func fuzzRing(f *testing.F) *keyring {
	ring, err := newKeyring([]secret.String{"8f1d0c2b7a69584e3d5c6b7a8990a1b2c3d4e5f60718293a4b5c6d7e8f90a1b3"})
	if err != nil {
		f.Fatal(err)
	}
	return ring
}

func FuzzRedirectURIs(f *testing.F) {
	for _, pair := range [][2]string{
		{"https://app.example/cb", "https://app.example/cb"}, {"http://localhost:3000/cb", "http://localhost:4000/cb"},
		{"http://127.0.0.1/cb?x=://127.0.0.1", "http://127.0.0.1:1/cb?x=://127.0.0.1"}, {"http://[::1]:1/", "http://[::1]/"},
		{"https://good@evil/", `https://good\@evil/`}, {"cursor://anysphere.cursor-mcp/oauth/callback", "cursor://x"}, {"http://localhost:1@evil/", "http://localhost"},
	} {
		f.Add(pair[0], pair[1])
	}
	policy, err := newRedirectPolicy(nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, registered, requested string) {
		kind, err := policy.check(requested)
		if err == nil {
			// Read it the plain way: what stands between "//" and the next
			// delimiter is the host that the browser goes to.
			_, rest, ok := strings.Cut(requested, "://")
			end := strings.IndexAny(rest, "/?#")
			if end < 0 {
				end = len(rest)
			}
			authority := rest[:end]
			u, parseErr := url.Parse(requested)
			if !ok || parseErr != nil || u.Host != authority || strings.ContainsAny(requested, "@\\# \t\r\n") && strings.ContainsAny(authority, "@\\# \t\r\n") {
				t.Fatalf("accepted %q, whose host is unclear", requested)
			}
			if redirectHost(requested) != authority && kind != redirectPrivate {
				t.Fatalf("%q is shown as %q", requested, redirectHost(requested))
			}
			if kind == redirectLoopback && !isLoopbackName(strings.TrimSuffix(authority, ":"+u.Port())) {
				t.Fatalf("%q counts as loopback", requested)
			}
			full := withQuery(requested, "code", "a b&c", "state", registered)
			if got, err := url.Parse(full); err != nil || got.Host != u.Host || got.EscapedPath() != u.EscapedPath() || !strings.HasPrefix(full, requested) || strings.ContainsAny(full, "\r\n\x00 ") {
				t.Fatalf("answer %q to %q", full, requested)
			}
		}
		if _, regErr := policy.check(registered); regErr != nil || err != nil {
			return
		}
		if policy.matches(registered, requested) && registered != requested {
			a, b := mustParse(t, registered), mustParse(t, requested)
			if kind != redirectLoopback || a.Hostname() != b.Hostname() || a.EscapedPath() != b.EscapedPath() || a.RawQuery != b.RawQuery || a.ForceQuery != b.ForceQuery {
				t.Fatalf("%q matches the registered %q", requested, registered)
			}
		}
	})
}

func mustParse(t *testing.T, raw string) *url.URL {
	u, err := url.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func FuzzFormParameters(f *testing.F) {
	for _, pair := range [][2]string{{"a=1&b=2", "c=3"}, {"a=1&a=2", ""}, {"a=1", "a=1"}, {"a=%00&%61=x", ""}, {"a;b=1", ""}, {"a=", "a="}} {
		f.Add(pair[0], pair[1])
	}
	f.Fuzz(func(t *testing.T, query, form string) {
		p, err := parseParams(query, form)
		if err != nil {
			return
		}
		count := map[string]int{}
		for _, text := range []string{query, form} {
			for _, pair := range strings.Split(text, "&") {
				if pair == "" {
					continue
				}
				name, _, _ := strings.Cut(pair, "=")
				name, err := url.QueryUnescape(name)
				if err != nil {
					t.Fatalf("accepted %q", pair)
				}
				count[name]++
			}
		}
		twice := 0
		for _, n := range count {
			if n > 1 {
				twice++
			}
		}
		if twice != len(p.repeated) {
			t.Fatalf("%q and %q: %d names come twice, %q reported", query, form, twice, p.repeated)
		}
		for name, v := range p.values {
			if v == "" || count[name] == 0 {
				t.Fatalf("value %q of %q", v, name)
			}
		}
	})
}

func FuzzRegistrations(f *testing.F) {
	for _, body := range []string{
		`{"redirect_uris":["https://app.example/cb"],"client_name":"x"}`, `{"redirect_uris":["http://localhost/cb"],"grant_types":["refresh_token","authorization_code"]}`,
		`{"REDIRECT_URIS":[]}`, `{"a":{"b":[{"c":1,"C":2}]}}`, `null`, `{"redirect_uris":[null]}`, `{"redirect_uri\u017f":[]}`, `{"client_name":"\ud800"}`, `[]`, `{}{}`,
	} {
		f.Add([]byte(body))
	}
	policy, err := newRedirectPolicy(nil)
	if err != nil {
		f.Fatal(err)
	}
	s := &Server{redirects: policy}
	f.Fuzz(func(t *testing.T, body []byte) {
		reg, err := parseRegistration(body)
		if err != nil {
			return
		}
		// What was read is what any other parser reads: one key, one value.
		var plain map[string]json.RawMessage
		if err := json.Unmarshal(body, &plain); err != nil {
			t.Fatalf("accepted %q", body)
		}
		if raw, ok := plain["client_name"]; ok {
			var name string
			if json.Unmarshal(raw, &name) != nil || name != reg.Name {
				t.Fatalf("read %q, want %s", reg.Name, raw)
			}
		} else if reg.Name != "" {
			t.Fatalf("a name from nowhere: %q", reg.Name)
		}
		c, err := s.newClient(reg)
		if err != nil {
			return
		}
		out, err := json.Marshal(registered{ClientID: "x", Name: c.Name, ClientURI: c.ClientURI, LogoURI: c.LogoURI, RedirectURIs: reg.RedirectURIs,
			GrantTypes: c.GrantTypes, ResponseTypes: []string{"code"}, AuthMethod: c.AuthMethod, SoftwareID: c.SoftwareID, SoftwareVersion: c.SoftwareVersion})
		if err != nil {
			t.Fatal(err)
		}
		var answer map[string]any
		if err := json.Unmarshal(out, &answer); err != nil {
			t.Fatal(err)
		}
		for name, v := range answer {
			if v == nil || v == "" {
				t.Fatalf("answer has an empty %s: %s", name, out)
			}
		}
		if len(c.RedirectURIs) == 0 || len(c.RedirectURIs) > maxRedirects {
			t.Fatalf("%d redirects", len(c.RedirectURIs))
		}
	})
}

// What is accepted as a client's document is that client's, has no shared
// secret, and sends codes nowhere that registration would not.
func FuzzDocuments(f *testing.F) {
	const id = "https://app.example/client.json"
	for _, body := range knownClients().documents {
		f.Add(body)
	}
	for _, body := range []string{
		`{"client_id":"` + id + `","redirect_uris":["https://app.example/cb"]}`, `{"client_id":"` + id + `","redirect_uris":["http://localhost/cb"],"client_secret":""}`,
		`{"client_id":"` + id + `","client_id":"x","redirect_uris":["https://app.example/cb"]}`, `{"Client_ID":"` + id + `","redirect_uris":[]}`,
		`{"client_id":"` + id + `","redirect_uris":["https://app.example/cb"],"token_endpoint_auth_method":"private_key_jwt","jwks":{"keys":[{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}}`,
		`{"client_id":"` + id + `","redirect_uris":["https://app.example/cb"],"token_endpoint_auth_method":"private_key_jwt","jwks_uri":"https://app.example/jwks.json"}`,
	} {
		f.Add([]byte(body))
	}
	s := &Server{now: time.Now}
	if err := s.setClients(Options{}); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		c, err := s.parseDocument(id, body)
		if err != nil {
			return
		}
		var plain struct {
			ID     string `json:"client_id"`
			Secret any    `json:"client_secret"`
		}
		if json.Unmarshal(body, &plain) != nil || plain.ID != id || plain.Secret != nil {
			t.Fatalf("accepted %q", body)
		}
		if usesSecret(c.AuthMethod) || len(c.SecretHash) > 0 || c.AuthMethod == methodKey && len(c.JWKS) == 0 && c.JWKSURI == "" {
			t.Fatalf("a client that cannot authenticate: %+v", c)
		}
		for _, uri := range c.RedirectURIs {
			if _, err := s.redirects.check(uri); err != nil {
				t.Fatalf("redirect %q %v", uri, err)
			}
		}
		if len(c.consentMark()) == 0 {
			t.Fatal("no mark")
		}
	})
}

// A key set has public keys of known kinds only, whatever the rest of it is.
func FuzzKeySets(f *testing.F) {
	for _, body := range []string{
		`{"keys":[{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}`, `{"keys":[{"kty":"oct","k":"c2VjcmV0"}]}`, `{"keys":[null]}`, `{"keys":{}}`,
		`{"keys":[{"kty":"EC","crv":"P-256","x":"MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4","y":"4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM","d":"870MB6gfuTJ4HtUnUvYMyJpr5eUZNP4Bk43bVdj3eAE"}]}`,
	} {
		f.Add([]byte(body))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		keys, err := parseKeySet(body)
		if err != nil {
			return
		}
		if len(keys) == 0 || len(keys) > maxKeys {
			t.Fatalf("%d keys", len(keys))
		}
		for i := range keys {
			if !keys[i].IsPublic() || !slices.ContainsFunc(algNames, func(alg string) bool { return fitsAlgorithm(&keys[i], alg) }) {
				t.Fatalf("key %d of %q", i, body)
			}
		}
	})
}

// Nothing that was not signed by the client's key passes for its assertion.
func FuzzAssertions(f *testing.F) {
	f.Add("eyJhbGciOiJub25lIn0.eyJzdWIiOiJ4In0.")
	f.Add("eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJ4In0.AAAA")
	s := &Server{now: time.Now, log: slog.New(slog.DiscardHandler)}
	c := &client{ID: "x", AuthMethod: methodKey, JWKS: json.RawMessage(`{"keys":[{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}`)}
	f.Fuzz(func(t *testing.T, text string) {
		assertionSubject(text)
		if s.checkAssertion(t.Context(), c, text, "") == nil {
			t.Fatalf("accepted %q", text)
		}
	})
}

func FuzzTokens(f *testing.F) {
	ring := fuzzRing(f)
	f.Add("user_1/abc", uint64(1), "client", "https://mcp.example/mcp", "mcp:tools", int64(1_800_000_000), []byte("secret"), "mcpc_at_x", 3)
	f.Add("user_1/abc", uint64(1), "client", "r", "s", int64(1), []byte("x"), "", 80) // a byte of the secret
	f.Add("a%2Fb/", uint64(1<<63), "", "", "", int64(0), []byte(""), "mcpc_rt_", 200)
	f.Fuzz(func(t *testing.T, grant string, n uint64, client, resource, scopes string, expires int64, seed []byte, foreign string, at int) {
		if strings.Count(grant, "/") != 1 || expires < 0 || expires > 1<<40 {
			grant, expires = "user/id", 1
		}
		in := accessToken{grantName(grant), n, client, resource, scopes, time.Unix(expires, 0)}
		token := ring.sealAccessToken(in)
		if len(token) < maxToken {
			if out, ok := ring.openAccessToken(token); !ok || out != in {
				t.Fatalf("sealed %+v, opened %+v, %v", in, out, ok)
			}
		}
		h := handle{grantName(grant), n, hash(seed)}
		refresh := ring.sealHandle(prefixRefresh, h)
		if again := ring.sealHandle(prefixRefresh, h); again != refresh {
			t.Fatal("one handle has two texts")
		}
		if len(refresh) < maxToken {
			out, ok := ring.openHandle(prefixRefresh, refresh)
			if !ok || out.grant != h.grant || out.seq != h.seq || string(out.secret) != string(h.secret) {
				t.Fatalf("sealed %+v, opened %+v, %v", h, out, ok)
			}
			if _, ok := ring.openHandle(prefixCode, prefixCode+refresh[len(prefixRefresh):]); ok {
				t.Fatal("a refresh token opens as a code")
			}
		}
		for _, good := range []string{token, refresh} {
			i := at
			if i < 0 {
				i = -(i + 1)
			}
			i %= len(good)
			bad := good[:i] + string(good[i]^1) + good[i+1:]
			_, okAccess := ring.openAccessToken(bad)
			_, okRefresh := ring.openHandle(prefixRefresh, bad)
			if okAccess || okRefresh {
				t.Fatalf("opens although letter %d was changed", i)
			}
		}
		// Nor with a new checksum: the seal covers the secret behind it.
		for prefix, good := range map[string]string{prefixAccess: token, prefixRefresh: refresh} {
			body, ok := decodeToken(prefix, good, nil)
			if !ok {
				continue // longer than any real one
			}
			body[(at&0xffff)%len(body)] ^= 1
			bad := encodeToken(prefix, body)
			_, okAccess := ring.openAccessToken(bad)
			_, okRefresh := ring.openHandle(prefixRefresh, bad)
			if okAccess || okRefresh {
				t.Fatal("opens although a byte was changed and the checksum made anew")
			}
		}
		if _, ok := ring.openAccessToken(foreign); ok && foreign != token {
			t.Fatal("a foreign access token opens")
		}
		if _, ok := ring.openHandle(prefixRefresh, foreign); ok && foreign != refresh {
			t.Fatal("a foreign refresh token opens")
		}
		parseAccessToken(foreign) // what a broken seal might let through must not panic
	})
}

func FuzzCookies(f *testing.F) {
	ring := fuzzRing(f)
	s := &Server{keys: ring, site: site{scheme: "https"}, now: time.Now}
	f.Add("x", "state")
	f.Add(s.sealText(forForm, formTicket, ticket{}), "")
	f.Fuzz(func(t *testing.T, value, state string) {
		r := httptest.NewRequest("GET", "https://mcp.example/callback", nil)
		for _, name := range []string{cookieCSRF, cookieSignin, cookieAccount} {
			r.Header.Add("Cookie", s.cookieName(name)+"="+strings.Map(func(c rune) rune {
				if c <= ' ' || c >= 0x7f || strings.ContainsRune(`";,\`, c) {
					return -1
				}
				return c
			}, value))
		}
		if s.readAccount(r) != nil {
			t.Fatal("an account out of nothing")
		}
		if s.approvedState(httptest.NewRecorder(), r, state) {
			t.Fatal("a state out of nothing")
		}
		w := httptest.NewRecorder()
		s.approveState(w, r, state)
		back := httptest.NewRequest("GET", "https://mcp.example/callback", nil)
		for _, c := range w.Result().Cookies() {
			back.AddCookie(c)
		}
		if s.approvedState(httptest.NewRecorder(), back, state+"x") || !s.approvedState(httptest.NewRecorder(), back, state) {
			t.Fatal("the cookie does not stand for its state")
		}
	})
}

// What names show is one line of at most the limit, whatever they hold.
func FuzzDisplayText(f *testing.F) {
	f.Add("Claude \u202e(verified)", 10)
	f.Fuzz(func(t *testing.T, text string, limit int) {
		limit = 1 + limit&0x3f
		got := displayText(text, limit)
		if n := len([]rune(strings.TrimSuffix(got, "…"))); n > limit {
			t.Fatalf("%d characters of %d", n, limit)
		}
		if strings.ContainsAny(got, "\n\r\t\u202e\u2066\u200b\u200f\ufeff") {
			t.Fatalf("%q", got)
		}
	})
}

// What is read as a user code is one, however it was typed, and what the server
// shows is read as what it meant (RFC 8628 section 6.1).
func FuzzUserCodes(f *testing.F) {
	for _, text := range []string{"WDJB-MJHT", " wdjb mjht ", "WDJBMJHA", "ＷＤＪＢMJHT", "WDJB\u200b–MJHT", "wdjb\x00mjht", "ſdjbmjht"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		code, ok := parseUserCode(text)
		if !ok {
			return
		}
		if len(code) != userCodeSize || strings.Trim(code, userCodeAlphabet) != "" {
			t.Fatalf("%q is read as %q", text, code)
		}
		if again, ok := parseUserCode(strings.ToLower(showUserCode(code))); !ok || again != code {
			t.Fatalf("%q is shown as %q and read as %q", code, showUserCode(code), again)
		}
	})
}

// Nothing that was not minted here opens as a device code, nor one kind of code
// as another.
func FuzzDeviceCodes(f *testing.F) {
	ring := fuzzRing(f)
	secret := slices.Repeat([]byte{7}, secretSize)
	minted := ring.sealDeviceCode("device/x", secret)
	f.Add("mcpc_dc_")
	f.Add(minted)
	f.Add(minted[:len(minted)-1])
	f.Add(ring.sealHandle(prefixCode, handle{grant: "device/x", secret: secret}))
	f.Fuzz(func(t *testing.T, token string) {
		if key, got, ok := ring.openDeviceCode(token); ok && (key != "device/x" || !slices.Equal(got, secret)) {
			t.Fatalf("%q opens as %q", token, key)
		}
		if _, ok := ring.openHandle(prefixCode, token); ok && strings.HasPrefix(token, prefixDevice) {
			t.Fatal("a device code opens as an authorization code")
		}
	})
}

// Every user code can be drawn, and each letter as often as any other.
func TestUserCodesAreDrawnEvenly(t *testing.T) {
	const codes = 20_000
	count := map[rune]int{}
	for range codes {
		code := newUserCode()
		if got, ok := parseUserCode(showUserCode(code)); !ok || got != code {
			t.Fatalf("%q is read as %q", code, got)
		}
		for _, c := range code {
			count[c]++
		}
	}
	// The deviation of a share is 0.2 %; six of them pass by chance once in a
	// hundred million runs.
	want := codes * userCodeSize / len(userCodeAlphabet)
	for _, c := range userCodeAlphabet {
		if n := count[c]; n < want*93/100 || n > want*107/100 {
			t.Errorf("%c came %d times, want about %d", c, n, want)
		}
	}
}
