package clerk_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"golang.org/x/oauth2"

	"github.com/mcp-clerk/mcp-clerk/internal/clerk"
	"github.com/mcp-clerk/mcp-clerk/internal/identity"
)

// RSA keys are slow to make: the tests share two.
var (
	rsaKey   = sync.OnceValue(newRSA)
	otherKey = sync.OnceValue(newRSA)
)

func newRSA() *rsa.PrivateKey {
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return k
}

// issuer is a Clerk whose every answer the test decides.
type issuer struct {
	t     testing.TB
	clerk *clerk.Clerk
	clock *clock
	url   string

	mu      sync.Mutex
	idToken string
	jwks    func(http.ResponseWriter)
	reads   int
}

func newIssuer(t testing.TB) *issuer {
	t.Helper()
	f := &issuer{t: t, clock: &clock{t: start}}
	f.publish(jwk("k1", rsaKey()))
	mux := http.NewServeMux()
	mux.HandleFunc("/.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		// It claims more algorithms than are ever accepted.
		_ = json.NewEncoder(w).Encode(map[string]any{
			"issuer": f.url, "authorization_endpoint": f.url + "/authorize", "token_endpoint": f.url + "/token", "jwks_uri": f.url + "/jwks",
			"id_token_signing_alg_values_supported": []string{"RS256", "HS256", "ES256", "PS256", "none"},
		})
	})
	mux.HandleFunc("/token", func(w http.ResponseWriter, _ *http.Request) {
		f.mu.Lock()
		defer f.mu.Unlock()
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(map[string]any{"access_token": "CANARY", "token_type": "Bearer", "id_token": f.idToken})
	})
	mux.HandleFunc("/jwks", func(w http.ResponseWriter, _ *http.Request) {
		f.mu.Lock()
		f.reads++
		answer := f.jwks
		f.mu.Unlock()
		answer(w)
	})
	mux.HandleFunc("/evil", func(http.ResponseWriter, *http.Request) { t.Error("a URL from a token was fetched") })
	ts := httptest.NewServer(mux)
	t.Cleanup(ts.Close)
	f.url = ts.URL
	f.clerk = newClerk(t, ts.URL, f.clock, &log{})
	return f
}

func jwk(kid string, key *rsa.PrivateKey) jose.JSONWebKey {
	return jose.JSONWebKey{Key: key.Public(), KeyID: kid, Algorithm: "RS256", Use: "sig"}
}

// publish sets the key set.
func (f *issuer) publish(keys ...jose.JSONWebKey) {
	f.serveKeys(func(w http.ResponseWriter) { _ = json.NewEncoder(w).Encode(jose.JSONWebKeySet{Keys: keys}) })
}

func (f *issuer) serveKeys(h func(http.ResponseWriter)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.jwks = h
}

func (f *issuer) keyReads() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.reads
}

// respond sets the id_token of the next token answer.
func (f *issuer) respond(idToken string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.idToken = idToken
}

func (f *issuer) complete(t *testing.T) (identity.User, error) {
	t.Helper()
	return f.clerk.Complete(t.Context(), "code", oauth2.GenerateVerifier(), nonce)
}

type fields = map[string]any

func (f *issuer) header(pairs ...any) fields {
	return with(fields{"alg": "RS256", "typ": "JWT", "kid": "k1"}, pairs)
}

func (f *issuer) claims(pairs ...any) fields {
	now := f.clock.Now()
	return with(fields{
		"iss": f.url, "sub": "user_1", "aud": clientID, "nonce": nonce, "iat": now.Unix(), "exp": now.Add(24 * time.Hour).Unix(), "jti": "1",
	}, pairs)
}

// with changes m by pairs of name and value; nil removes.
func with(m fields, pairs []any) fields {
	for i := 0; i < len(pairs); i += 2 {
		if m[pairs[i].(string)] = pairs[i+1]; pairs[i+1] == nil {
			delete(m, pairs[i].(string))
		}
	}
	return m
}

func part(t testing.TB, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	must(t, err)
	return base64.RawURLEncoding.EncodeToString(b)
}

// sign signs any header and claims with RS256 and the issuer's key, so that
// nothing but the thing under test is wrong with the token.
func (f *issuer) sign(header, claims fields) string { return signBy(f.t, rsaKey(), header, claims) }

func signBy(t testing.TB, key *rsa.PrivateKey, header, claims fields) string {
	t.Helper()
	input := part(t, header) + "." + part(t, claims)
	return input + "." + base64.RawURLEncoding.EncodeToString(rsaSign(t, key, input))
}

// rsaSign is RS256 over any text: go-jose insists on headers of its own making.
func rsaSign(t testing.TB, key *rsa.PrivateKey, input string) []byte {
	t.Helper()
	sum := sha256.Sum256([]byte(input))
	sig, err := rsa.SignPKCS1v15(nil, key, crypto.SHA256, sum[:])
	must(t, err)
	return sig
}

func joseSign(t *testing.T, alg jose.SignatureAlgorithm, key any, claims fields) string {
	t.Helper()
	s, err := jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: key}, (&jose.SignerOptions{}).WithHeader("kid", "k1"))
	must(t, err)
	b, err := json.Marshal(claims)
	must(t, err)
	jws, err := s.Sign(b)
	must(t, err)
	text, err := jws.CompactSerialize()
	must(t, err)
	return text
}

func TestHonestIDTokenIsAccepted(t *testing.T) {
	f := newIssuer(t)
	for name, token := range map[string]string{
		"plain":               f.sign(f.header(), f.claims()),
		"without typ":         f.sign(f.header("typ", nil), f.claims()),
		"azp is us":           f.sign(f.header(), f.claims("azp", clientID)),
		"two audiences, azp":  f.sign(f.header(), f.claims("aud", []string{clientID, "other"}, "azp", clientID)),
		"audience as a list":  f.sign(f.header(), f.claims("aud", []string{clientID})),
		"expired within skew": f.sign(f.header(), f.claims("exp", start.Add(-59*time.Second).Unix())),
		"iat within skew":     f.sign(f.header(), f.claims("iat", start.Add(59*time.Second).Unix())),
		"nbf within skew":     f.sign(f.header(), f.claims("nbf", start.Add(59*time.Second).Unix())),
		"without kid":         f.sign(f.header("kid", nil), f.claims()),
	} {
		f.respond(token)
		if u, err := f.complete(t); err != nil || u.ID != "user_1" {
			t.Errorf("%s: %+v, %v", name, u, err)
		}
	}
}

// RFC 8725 sections 3.1 to 3.12; OpenID Connect Core section 3.1.3.7.
func TestForgedOrForeignIDTokenIsRefused(t *testing.T) {
	f := newIssuer(t)
	publicDER, err := x509.MarshalPKIXPublicKey(rsaKey().Public())
	must(t, err)
	publicPEM := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: publicDER})
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	good := f.sign(f.header(), f.claims())
	parts := strings.Split(good, ".")
	evilJWK := json.RawMessage(must1(json.Marshal(jwk("k1", otherKey()))))

	for name, token := range map[string]string{
		"alg none":                     part(t, fields{"alg": "none"}) + "." + part(t, f.claims()) + ".",
		"alg none, signature kept":     part(t, fields{"alg": "none", "kid": "k1"}) + "." + parts[1] + "." + parts[2],
		"alg None":                     f.sign(f.header("alg", "None"), f.claims()),
		"alg missing":                  f.sign(f.header("alg", nil), f.claims()),
		"alg not a string":             f.sign(f.header("alg", []string{"RS256"}), f.claims()),
		"HS256 with the public PEM":    joseSign(t, jose.HS256, publicPEM, f.claims()),
		"HS256 with the public DER":    joseSign(t, jose.HS256, publicDER, f.claims()),
		"HS256 with the client secret": joseSign(t, jose.HS256, []byte(strings.Repeat(clientSecret, 2)), f.claims()),
		"PS256 by the right key":       joseSign(t, jose.PS256, rsaKey(), f.claims()),
		"RS512 by the right key":       joseSign(t, jose.RS512, rsaKey(), f.claims()),
		"ES256":                        joseSign(t, jose.ES256, ec, f.claims()),

		"jku":                          signBy(t, otherKey(), f.header("jku", f.url+"/evil"), f.claims()),
		"x5u":                          signBy(t, otherKey(), f.header("x5u", f.url+"/evil"), f.claims()),
		"embedded jwk":                 signBy(t, otherKey(), f.header("jwk", evilJWK), f.claims()),
		"x5c":                          signBy(t, otherKey(), f.header("x5c", []string{"MA=="}), f.claims()),
		"jku on a good signature":      f.sign(f.header("jku", f.url+"/evil"), f.claims()),
		"x5u on a good signature":      f.sign(f.header("x5u", f.url+"/evil"), f.claims()),
		"jwk on a good signature":      f.sign(f.header("jwk", evilJWK), f.claims()),
		"crit":                         f.sign(f.header("crit", []string{"exp"}, "exp", 1), f.claims()),
		"crit b64":                     f.sign(f.header("crit", []string{"b64"}, "b64", true), f.claims()),
		"an access token":              f.sign(f.header("typ", "at+jwt"), f.claims()),
		"an access token, long typ":    f.sign(f.header("typ", "application/at+JWT"), f.claims()),
		"typ not a string":             f.sign(f.header("typ", 1), f.claims()),
		"another key, known kid":       signBy(t, otherKey(), f.header(), f.claims()),
		"another key, unknown kid":     signBy(t, otherKey(), f.header("kid", "k2"), f.claims()),
		"our key under another id":     f.sign(f.header("kid", "k2"), f.claims()),
		"claims changed":               parts[0] + "." + part(t, f.claims("sub", "user_2")) + "." + parts[2],
		"signature cut":                parts[0] + "." + parts[1] + "." + parts[2][:100],
		"signature empty":              parts[0] + "." + parts[1] + ".",
		"200 kB":                       f.sign(f.header(), f.claims("pad", strings.Repeat("x", 150_000))),
		"five parts":                   good + ".a.b",
		"JSON serialization":           fmt.Sprintf(`{"payload":%q,"protected":%q,"signature":%q}`, parts[1], parts[0], parts[2]),
		"padding in the header":        parts[0] + "=." + parts[1] + "." + parts[2],
		"header is a list":             part(t, []string{"RS256"}) + "." + parts[1] + "." + parts[2],
		"claims are a list":            signRaw(t, `["user_1"]`),
		"another issuer":               f.sign(f.header(), f.claims("iss", "https://clerk.evil.example")),
		"issuer with a slash":          f.sign(f.header(), f.claims("iss", f.url+"/")),
		"issuer in capitals":           f.sign(f.header(), f.claims("iss", strings.ToUpper(f.url))),
		"issuer that begins with ours": f.sign(f.header(), f.claims("iss", f.url+".evil.example")),
		"no issuer":                    f.sign(f.header(), f.claims("iss", nil)),
		"another audience":             f.sign(f.header(), f.claims("aud", "other")),
		"no audience":                  f.sign(f.header(), f.claims("aud", nil)),
		"empty audience":               f.sign(f.header(), f.claims("aud", []string{})),
		"two audiences, no azp":        f.sign(f.header(), f.claims("aud", []string{clientID, "other"})),
		"two audiences, azp of other":  f.sign(f.header(), f.claims("aud", []string{clientID, "other"}, "azp", "other")),
		"azp of another client":        f.sign(f.header(), f.claims("azp", "other")),
		"another nonce":                f.sign(f.header(), f.claims("nonce", nonce+"x")),
		"nonce cut":                    f.sign(f.header(), f.claims("nonce", nonce[:5])),
		"no nonce":                     f.sign(f.header(), f.claims("nonce", nil)),
		"empty nonce":                  f.sign(f.header(), f.claims("nonce", "")),
		"expired":                      f.sign(f.header(), f.claims("exp", start.Add(-61*time.Second).Unix())),
		"without expiry":               f.sign(f.header(), f.claims("exp", nil)),
		"expiry not a number":          f.sign(f.header(), f.claims("exp", "tomorrow")),
		"issued in the future":         f.sign(f.header(), f.claims("iat", start.Add(61*time.Second).Unix())),
		"without time of issue":        f.sign(f.header(), f.claims("iat", nil)),
		"not valid yet":                f.sign(f.header(), f.claims("nbf", start.Add(61*time.Second).Unix())),
		"not valid for long":           f.sign(f.header(), f.claims("nbf", start.Add(time.Hour).Unix())),
		"empty subject":                f.sign(f.header(), f.claims("sub", "")),
		"no subject":                   f.sign(f.header(), f.claims("sub", nil)),
		"subject of a machine":         f.sign(f.header(), f.claims("sub", "mch_1")),
		"subject with a path":          f.sign(f.header(), f.claims("sub", "user_1/../user_2")),
		"subject with a line feed":     f.sign(f.header(), f.claims("sub", "user_1\n")),
		"subject of 1,000 characters":  f.sign(f.header(), f.claims("sub", "user_"+strings.Repeat("a", 1000))),
		"distributed claims":           f.sign(f.header(), f.claims("_claim_names", fields{"sub": "src"})),
	} {
		t.Run(name, func(t *testing.T) {
			f.respond(token)
			u, err := f.complete(t)
			wantErr(t, err, nil)
			if u.ID != "" {
				t.Errorf("user %+v", u)
			}
			if !strings.Contains(err.Error(), "id_token refused") {
				t.Errorf("refused for another reason: %q", err)
			}
		})
	}
}

func signRaw(t *testing.T, payload string) string {
	t.Helper()
	input := part(t, fields{"alg": "RS256", "kid": "k1"}) + "." + base64.RawURLEncoding.EncodeToString([]byte(payload))
	return input + "." + base64.RawURLEncoding.EncodeToString(rsaSign(t, rsaKey(), input))
}

func must1[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func TestKeysAreKeptWhileTheyCannotBeRead(t *testing.T) {
	f := newIssuer(t)
	f.respond(f.sign(f.header(), f.claims()))
	_, err := f.complete(t)
	must(t, err)
	f.serveKeys(func(w http.ResponseWriter) { w.WriteHeader(http.StatusBadGateway) })
	f.clock.Add(2 * time.Hour)
	f.respond(f.sign(f.header(), f.claims()))
	for range 3 {
		_, err = f.complete(t)
		must(t, err)
	}
	if n := f.keyReads(); n != 2 {
		t.Errorf("keys were read %d times", n)
	}
}

func TestRotatedKeyIsFound(t *testing.T) {
	f := newIssuer(t)
	f.respond(f.sign(f.header(), f.claims()))
	_, err := f.complete(t)
	must(t, err)
	f.clock.Add(time.Minute)
	f.publish(jwk("k2", otherKey()))
	f.respond(signBy(t, otherKey(), f.header("kid", "k2"), f.claims()))
	_, err = f.complete(t)
	must(t, err)
	// The key that was withdrawn is not accepted any more.
	f.respond(f.sign(f.header(), f.claims()))
	_, err = f.complete(t)
	wantErr(t, err, nil)
}

func TestUnknownKeyWhileKeysCannotBeReadIsNotTheTokensFault(t *testing.T) {
	f := newIssuer(t)
	f.respond(f.sign(f.header(), f.claims()))
	_, err := f.complete(t)
	must(t, err)
	f.clock.Add(time.Minute)
	f.serveKeys(func(w http.ResponseWriter) { w.WriteHeader(http.StatusServiceUnavailable) })
	f.respond(signBy(t, otherKey(), f.header("kid", "k2"), f.claims()))
	for range 3 {
		_, err = f.complete(t)
		wantErr(t, err, identity.ErrUnavailable)
	}
	if n := f.keyReads(); n != 2 {
		t.Errorf("keys were read %d times", n)
	}
	f.publish(jwk("k2", otherKey()))
	f.clock.Add(2 * time.Second)
	_, err = f.complete(t)
	must(t, err)
}

func TestRandomKeyIDsDoNotFloodClerk(t *testing.T) {
	f := newIssuer(t)
	flood := func() {
		t.Helper()
		for i := range 20 {
			f.respond(signBy(t, otherKey(), f.header("kid", fmt.Sprint("made-up-", i)), f.claims()))
			_, err := f.complete(t)
			wantErr(t, err, nil)
		}
	}
	flood()
	if n := f.keyReads(); n != 1 {
		t.Errorf("20 tokens made %d requests", n)
	}
	f.clock.Add(31 * time.Second)
	flood()
	if n := f.keyReads(); n != 2 {
		t.Errorf("after the interval %d requests", n)
	}
	f.respond(f.sign(f.header(), f.claims()))
	_, err := f.complete(t)
	must(t, err)
}

func TestOddKeySets(t *testing.T) {
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	must(t, err)
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	raw := func(text string) func(http.ResponseWriter) {
		return func(w http.ResponseWriter) { _, _ = w.Write([]byte(text)) }
	}
	set := func(keys ...any) func(http.ResponseWriter) {
		return func(w http.ResponseWriter) { _ = json.NewEncoder(w).Encode(fields{"keys": keys}) }
	}
	good := jwk("k1", rsaKey())
	for name, tt := range map[string]struct {
		keys func(http.ResponseWriter)
		kind error // of the failure
		ok   bool
	}{
		"empty":                        {set(), identity.ErrUnavailable, false},
		"null":                         {raw(`{"keys":null}`), identity.ErrUnavailable, false},
		"no object":                    {raw(`[]`), identity.ErrUnavailable, false},
		"HTML":                         {raw(`<html>CANARY`), identity.ErrUnavailable, false},
		"too large":                    {raw(`{"keys":[` + strings.Repeat(" ", 1<<20) + `]}`), identity.ErrUnavailable, false},
		"only an elliptic key":         {set(jose.JSONWebKey{Key: ec.Public(), KeyID: "k1"}), identity.ErrUnavailable, false},
		"only a weak key":              {set(jwk("k1", weak)), identity.ErrUnavailable, false},
		"only an encryption key":       {set(jose.JSONWebKey{Key: rsaKey().Public(), KeyID: "k1", Use: "enc"}), identity.ErrUnavailable, false},
		"only a symmetric key":         {set(jose.JSONWebKey{Key: []byte("secret"), KeyID: "k1"}), identity.ErrUnavailable, false},
		"key of another algorithm":     {set(jose.JSONWebKey{Key: rsaKey().Public(), KeyID: "k1", Algorithm: "PS256"}), identity.ErrUnavailable, false},
		"another's key under the id":   {set(jwk("k1", otherKey())), nil, false},
		"duplicate id, other first":    {set(jwk("k1", otherKey()), good), nil, true},
		"duplicate id, ours first":     {set(good, jwk("k1", otherKey())), nil, true},
		"among unusable ones":          {set(fields{"kty": "OKP", "crv": "X448"}, 1, "x", nil, jwk("k1", weak), good), nil, true},
		"a private key, by mistake":    {set(jose.JSONWebKey{Key: rsaKey(), KeyID: "k1"}), identity.ErrUnavailable, false},
		"forty keys, ours among first": {set(many(good)...), nil, true},
	} {
		t.Run(name, func(t *testing.T) {
			f := newIssuer(t)
			f.serveKeys(tt.keys)
			f.respond(f.sign(f.header(), f.claims()))
			_, err := f.complete(t)
			if tt.ok {
				must(t, err)
				return
			}
			wantErr(t, err, tt.kind)
			if n := f.keyReads(); n != 1 {
				t.Errorf("keys were read %d times", n)
			}
		})
	}
}

func many(first jose.JSONWebKey) []any {
	keys := []any{first}
	for i := range 40 {
		keys = append(keys, jwk(fmt.Sprint("more-", i), otherKey()))
	}
	return keys
}

func TestHangingKeysAreGivenUpWithTheCaller(t *testing.T) {
	f := newIssuer(t)
	gate := make(chan struct{})
	f.serveKeys(func(http.ResponseWriter) { <-gate })
	defer close(gate)
	f.respond(f.sign(f.header(), f.claims()))
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	_, err := f.clerk.Complete(ctx, "code", oauth2.GenerateVerifier(), nonce)
	wantErr(t, err, identity.ErrUnavailable)
}

func FuzzIDTokenHeader(f *testing.F) {
	for _, header := range []string{`{"alg":"RS256","typ":"JWT","kid":"a"}`, `{"alg":"none"}`, `{"alg":"RS256","crit":["b64"],"b64":false}`, `{"alg":"RS256","jwk":{}}`, `[]`, `{"alg":null}`} {
		f.Add(base64.RawURLEncoding.EncodeToString([]byte(header)) + ".e30.c2ln")
	}
	f.Add("..")
	f.Fuzz(func(t *testing.T, token string) {
		if clerk.CheckHeader(token) != nil {
			return
		}
		// What is let through is three parts, RS256, and free of keys.
		head, err := base64.RawURLEncoding.DecodeString(strings.SplitN(token, ".", 2)[0])
		if err != nil || strings.Count(token, ".") != 2 {
			t.Fatalf("let through: %q", token)
		}
		var h map[string]any
		if err := json.Unmarshal(head, &h); err != nil || h["alg"] != "RS256" || h["jwk"] != nil || h["jku"] != nil || h["crit"] != nil {
			t.Fatalf("let through: %s", head)
		}
	})
}
