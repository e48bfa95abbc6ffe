package authserver_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

const keysURL = "https://app.example/oauth/jwks.json"

// signer is a client's key.
type signer struct {
	alg jose.SignatureAlgorithm
	kid string
	key any
}

func newSigner(t testing.TB, alg jose.SignatureAlgorithm, kid string) signer {
	t.Helper()
	var key any
	var err error
	switch alg {
	case jose.RS256:
		key, err = rsa.GenerateKey(rand.Reader, 2048)
	case jose.ES256:
		key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	default:
		_, key, err = ed25519.GenerateKey(rand.Reader)
	}
	if err != nil {
		t.Fatal(err)
	}
	return signer{alg, kid, key}
}

func keySet(list ...signer) jose.JSONWebKeySet {
	set := jose.JSONWebKeySet{}
	for _, s := range list {
		set.Keys = append(set.Keys, jose.JSONWebKey{Key: s.key.(crypto.Signer).Public(), KeyID: s.kid, Algorithm: string(s.alg), Use: "sig"})
	}
	return set
}

func (s signer) sign(t testing.TB, claims any) string {
	t.Helper()
	sig, err := jose.NewSigner(jose.SigningKey{Algorithm: s.alg, Key: jose.JSONWebKey{Key: s.key, KeyID: s.kid}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	text, err := jwt.Signed(sig).Claims(claims).Serialize()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

var jti atomic.Int64

// claims of a good assertion with changes: name, value, …; nil removes.
func (e *env) claims(id string, changes ...any) map[string]any {
	c := map[string]any{"iss": id, "sub": id, "aud": e.issuer, "exp": e.clock.Now().Add(time.Minute).Unix(), "iat": e.clock.Now().Unix(), "jti": "id-" + time.Duration(jti.Add(1)).String()}
	for i := 0; i+1 < len(changes); i += 2 {
		name := changes[i].(string)
		if c[name] = changes[i+1]; changes[i+1] == nil {
			delete(c, name)
		}
	}
	return c
}

func asserted(assertion string, pairs ...string) url.Values {
	f := url.Values{"client_assertion_type": {"urn:ietf:params:oauth:client-assertion-type:jwt-bearer"}, "client_assertion": {assertion}}
	for i := 0; i+1 < len(pairs); i += 2 {
		f.Set(pairs[i], pairs[i+1])
	}
	return f
}

func keyEnv(t testing.TB) (*env, *web, signer) {
	t.Helper()
	e, w := documentEnv(t)
	s := newSigner(t, jose.ES256, "one")
	w.publish(documentURL, document("token_endpoint_auth_method", "private_key_jwt", "jwks_uri", keysURL))
	w.publish(keysURL, keySet(s))
	return e, w, s
}

// RFC 7523 section 2.2: sign in, refresh and revoke with each algorithm, with
// and without client_id beside the assertion, keys by address or by value.
func TestAClientProvesItselfWithItsKey(t *testing.T) {
	for _, alg := range []jose.SignatureAlgorithm{jose.RS256, jose.ES256, jose.EdDSA} {
		for _, inline := range []bool{false, true} {
			e, w, _ := keyEnv(t)
			s := newSigner(t, alg, "k")
			w.publish(keysURL, keySet(s))
			if inline {
				w.publish(documentURL, document("token_endpoint_auth_method", "private_key_jwt", "jwks", keySet(s)))
			}
			code := e.code(documentClient)
			tk := e.tokens(e.post("/token", asserted(s.sign(t, e.claims(documentURL)), "grant_type", "authorization_code", "code", code, "code_verifier", verifier)))
			tk = e.tokens(e.post("/token", asserted(s.sign(t, e.claims(documentURL, "aud", e.issuer+"/token")), "grant_type", "refresh_token", "refresh_token", tk.refresh, "client_id", documentURL)))
			if a := e.post("/introspect", asserted(s.sign(t, e.claims(documentURL, "aud", e.issuer+"/introspect")), "token", tk.access)); a.json(t)["active"] != true {
				t.Errorf("%s: introspection %s", alg, a.body)
			}
			if a := e.post("/revoke", asserted(s.sign(t, e.claims(documentURL)), "token", tk.refresh)); a.status != http.StatusOK {
				t.Errorf("%s: revocation %d %s", alg, a.status, a.body)
			}
			if e.valid(tk.access) {
				t.Errorf("%s: still valid", alg)
			}
		}
	}
}

// RFC 7523 section 3, RFC 8725.
func TestUnfitAssertionsAreRefusedAlike(t *testing.T) {
	e, _, s := keyEnv(t)
	other, weak := newSigner(t, jose.ES256, "one"), newSigner(t, jose.RS256, "rsa")
	tk := e.tokens(e.post("/token", asserted(s.sign(t, e.claims(documentURL)), "grant_type", "authorization_code", "code", e.code(documentClient), "code_verifier", verifier)))
	now := e.clock.Now()
	hs, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.HS256, Key: []byte(strings.Repeat("k", 32))}, nil)
	if err != nil {
		t.Fatal(err)
	}
	symmetric, err := jwt.Signed(hs).Claims(e.claims(documentURL)).Serialize()
	if err != nil {
		t.Fatal(err)
	}
	embedding, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: other.key}, &jose.SignerOptions{EmbedJWK: true})
	if err != nil {
		t.Fatal(err)
	}
	embedded, err := jwt.Signed(embedding).Claims(e.claims(documentURL)).Serialize()
	if err != nil {
		t.Fatal(err)
	}
	_, claims, _ := strings.Cut(s.sign(t, e.claims(documentURL)), ".")
	claims, _, _ = strings.Cut(claims, ".")
	good := func(changes ...any) string { return s.sign(t, e.claims(documentURL, changes...)) }
	for name, assertion := range map[string]string{
		"not a JWT":       "x",
		"empty":           ".",
		"alg none":        "eyJhbGciOiJub25lIn0." + claims + ".",
		"HS256":           symmetric,
		"another key":     other.sign(t, e.claims(documentURL)),
		"embedded key":    embedded,
		"another alg":     weak.sign(t, e.claims(documentURL)),
		"long":            good("x", strings.Repeat("a", 9<<10)),
		"issuer":          good("iss", "https://evil.example/c.json"),
		"subject":         s.sign(t, e.claims(documentURL, "sub", "https://evil.example/c.json")),
		"no subject":      good("sub", nil),
		"audience":        good("aud", "https://evil.example"),
		"audience, path":  good("aud", e.issuer+"/mcp"),
		"audience, slash": good("aud", e.issuer+"/"),
		"two audiences":   good("aud", []string{e.issuer, "https://evil.example"}),
		"no audience":     good("aud", nil),
		"expired":         good("exp", now.Add(-2*time.Minute).Unix()),
		"no expiry":       good("exp", nil),
		"long life":       good("exp", now.Add(time.Hour).Unix()),
		"not yet":         good("nbf", now.Add(5*time.Minute).Unix()),
		"from the future": good("iat", now.Add(5*time.Minute).Unix()),
		"no jti":          good("jti", nil),
		"long jti":        good("jti", strings.Repeat("j", 600)),
	} {
		a := e.post("/token", asserted(assertion, "grant_type", "refresh_token", "refresh_token", tk.refresh, "client_id", documentURL))
		if a.status != http.StatusUnauthorized || strings.TrimSpace(string(a.body)) != `{"error":"invalid_client","error_description":"client authentication failed"}` {
			t.Errorf("%s: %d %s", name, a.status, a.body)
		}
	}
	for name, f := range map[string]url.Values{
		"type":     {"client_id": {documentURL}, "client_assertion": {good()}, "client_assertion_type": {"urn:ietf:params:oauth:client-assertion-type:saml2-bearer"}},
		"no type":  {"client_id": {documentURL}, "client_assertion": {good()}},
		"no text":  {"client_id": {documentURL}, "client_assertion_type": {"urn:ietf:params:oauth:client-assertion-type:jwt-bearer"}},
		"id alone": {"client_id": {documentURL}},
		"secret":   {"client_id": {documentURL}, "client_secret": {"x"}},
	} {
		f.Set("grant_type", "refresh_token")
		f.Set("refresh_token", tk.refresh)
		if a := e.post("/token", f); a.status != http.StatusUnauthorized || a.oauthError(t) != "invalid_client" {
			t.Errorf("%s: %d %s", name, a.status, a.body)
		}
	}
	e.tokens(e.post("/token", asserted(good(), "grant_type", "refresh_token", "refresh_token", tk.refresh)))
}

// jti is single use over all instances, also for several requests at once.
func TestAnAssertionCountsOnce(t *testing.T) {
	e, w, s := keyEnv(t)
	text := s.sign(t, e.claims(documentURL))
	var accepted atomic.Int64
	var wg sync.WaitGroup
	for i := range 3 { // three instances on one store
		if i > 0 {
			e.start(loopbackDocuments)
			e.reach(w)
		}
		for range 5 {
			wg.Go(func() {
				switch a := e.post("/introspect", asserted(text, "token", "x")); a.status {
				case http.StatusOK:
					accepted.Add(1)
				case http.StatusUnauthorized:
				default:
					t.Errorf("used before: %d %s", a.status, a.body)
				}
			})
		}
		wg.Wait()
	}
	if n := accepted.Load(); n != 1 {
		t.Errorf("accepted %d times", n)
	}
	// Nobody else uses up the client's identifiers.
	claims := e.claims(documentURL)
	e.post("/introspect", asserted(newSigner(t, jose.ES256, "one").sign(t, claims), "token", "x", "client_id", documentURL))
	if a := e.post("/introspect", asserted(s.sign(t, claims), "token", "x")); a.status != http.StatusOK {
		t.Errorf("after a forged one: %d %s", a.status, a.body)
	}
}

// RFC 7523 section 3: the identifiers are the client's own, and used for as long
// as an assertion that has one is accepted, with what clocks may differ.
func TestAnAssertionCountsOnceToItsEnd(t *testing.T) {
	e, w, s := keyEnv(t)
	const otherURL = "https://app.example/oauth/other.json"
	w.publish(otherURL, document("client_id", otherURL, "token_endpoint_auth_method", "private_key_jwt", "jwks_uri", keysURL))
	ask := func(assertion string) int {
		return e.post("/introspect", asserted(assertion, "token", "x")).status
	}
	used, unused := s.sign(t, e.claims(documentURL, "jti", "same")), s.sign(t, e.claims(documentURL))
	for who, assertion := range map[string]string{"one": used, "another": s.sign(t, e.claims(otherURL, "jti", "same"))} {
		if got := ask(assertion); got != http.StatusOK {
			t.Errorf("%s client: %d", who, got)
		}
	}
	e.clock.advance(90 * time.Second) // half a minute past their end
	if got := ask(used); got != http.StatusUnauthorized {
		t.Errorf("used before: %d", got)
	}
	if got := ask(unused); got != http.StatusOK {
		t.Errorf("not used before: %d", got)
	}
}

func TestAClientMayChangeItsKeys(t *testing.T) {
	e, w, old := keyEnv(t)
	ask := func(s signer) int {
		return e.post("/introspect", asserted(s.sign(t, e.claims(documentURL)), "token", "x")).status
	}
	if got := ask(old); got != http.StatusOK {
		t.Fatal(got)
	}
	fresh := newSigner(t, jose.EdDSA, "two")
	w.publish(keysURL, keySet(fresh))
	if got := ask(fresh); got != http.StatusUnauthorized || w.count(keysURL) != 1 { // an unknown kid is no way to make us fetch
		t.Errorf("at once: %d after %d fetches", got, w.count(keysURL))
	}
	e.clock.advance(time.Minute)
	if got := ask(fresh); got != http.StatusOK || w.count(keysURL) != 2 {
		t.Errorf("after a minute: %d after %d fetches", got, w.count(keysURL))
	}
	if got := ask(old); got != http.StatusUnauthorized {
		t.Errorf("the old key: %d", got)
	}
	w.cut(true)
	e.clock.advance(25 * time.Hour)
	if got := ask(fresh); got != http.StatusUnauthorized && got != http.StatusServiceUnavailable {
		t.Errorf("without keys: %d", got)
	}
}

func TestUnfitKeySetsAreRefused(t *testing.T) {
	good := newSigner(t, jose.ES256, "one")
	small, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	var many []signer
	for range 21 {
		many = append(many, good)
	}
	for name, set := range map[string]any{
		"empty":                   jose.JSONWebKeySet{Keys: []jose.JSONWebKey{}},
		"no set":                  map[string]any{"kid": "one"},
		"private":                 jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: good.key, KeyID: "one"}}},
		"private beside a public": jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: good.key.(crypto.Signer).Public(), KeyID: "one"}, {Key: good.key, KeyID: "two"}}},
		"symmetric":               jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: []byte("secret"), KeyID: "one"}}},
		"weak":                    jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: small.Public(), KeyID: "one"}}},
		"not to sign":             jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: good.key.(crypto.Signer).Public(), KeyID: "one", Use: "enc"}}},
		"many":                    keySet(many...),
	} {
		e, w, _ := keyEnv(t)
		w.publish(keysURL, set)
		if a := e.post("/introspect", asserted(good.sign(t, e.claims(documentURL)), "token", "x")); a.status != http.StatusUnauthorized {
			t.Errorf("%s, by address: %d", name, a.status)
		}
		w.publish(documentURL, document("token_endpoint_auth_method", "private_key_jwt", "jwks", set))
		e.clock.advance(2 * time.Hour)
		if v := e.browser().authorize(documentClient); v.status != http.StatusBadRequest {
			t.Errorf("%s, by value: %d", name, v.status)
		}
	}
}

// ChatGPT's document prefers a key and lists none beside it.
func TestAClientThatListsNoneMayComeWithoutItsKey(t *testing.T) {
	e, w, s := keyEnv(t)
	w.publish(documentURL, document("token_endpoint_auth_method", "private_key_jwt", "jwks_uri", keysURL, "token_endpoint_auth_methods_supported", []string{"private_key_jwt", "none"}))
	tk := e.signIn(documentClient)
	tk = e.tokens(e.post("/token", asserted(s.sign(t, e.claims(documentURL)), "grant_type", "refresh_token", "refresh_token", tk.refresh)))
	expectError(t, e.post("/introspect", documentClient.form("token", tk.access)), http.StatusForbidden, "unauthorized_client")
}

// RFC 6749 section 2.3: one method in each request.
func TestTwoMethodsAtOnceAreRefused(t *testing.T) {
	e, _, s := keyEnv(t)
	c := e.registerAs("client_secret_basic", "Web", webRedirect)
	for name, f := range map[string]url.Values{
		"secret and assertion": asserted(s.sign(t, e.claims(documentURL)), "client_secret", "x", "token", "x"),
		"basic and assertion":  asserted(s.sign(t, e.claims(documentURL)), "token", "x"),
		"basic and secret":     c.form("token", "x"),
	} {
		r := request(t, "POST", e.abs("/revoke"), strings.NewReader(f.Encode()))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		if strings.HasPrefix(name, "basic") {
			r.SetBasicAuth(c.id, c.secret)
		}
		if a := e.send(r); a.status != http.StatusBadRequest || a.oauthError(t) != "invalid_request" {
			t.Errorf("%s: %d %s", name, a.status, a.body)
		}
	}
}

// RFC 7662 section 2.2: a client learns about its own tokens, and of all others
// that they do not work.
func TestIntrospectionTellsAClientAboutItsOwnTokens(t *testing.T) {
	e := newEnv(t)
	c, other, public := e.registerAs("client_secret_post", "Web", webRedirect), e.registerAs("client_secret_basic", "Other", webRedirect), e.register("Public", webRedirect)
	tk, foreign := e.signIn(c), e.signIn(public)
	a := e.post("/introspect", c.form("token", tk.access))
	m := a.json(t)
	if a.header.Get("Cache-Control") != "no-store" || m["active"] != true || m["sub"] != "user_ada" || m["client_id"] != c.id || m["aud"] != e.issuer+"/mcp" || m["iss"] != e.issuer ||
		m["scope"] != "mcp:tools" || m["token_type"] != "Bearer" || m["exp"] != float64(e.clock.Now().Add(time.Hour).Unix()) {
		t.Errorf("access token: %s", a.body)
	}
	if m := e.post("/introspect", c.form("token", tk.refresh, "token_type_hint", "access_token")).json(t); m["active"] != true || m["client_id"] != c.id {
		t.Errorf("refresh token: %v", m)
	}
	next := e.tokens(e.refresh(c, tk.refresh))
	e.clock.advance(31 * time.Minute)
	next2 := e.tokens(e.refresh(c, next.refresh))
	e.clock.advance(31 * time.Minute)
	dead := func(who string, c testClient, token string) {
		t.Helper()
		a := e.post("/introspect", c.form("token", token))
		if a.status != http.StatusOK || strings.TrimSpace(string(a.body)) != `{"active":false}` {
			t.Errorf("%s: %d %s", who, a.status, a.body)
		}
	}
	dead("expired", c, tk.access)
	dead("superseded", c, tk.refresh)
	dead("another client's", c, foreign.access)
	dead("another client's refresh token", c, foreign.refresh)
	dead("ours, for another", other, next2.refresh)
	dead("ours, for another", other, next2.access)
	dead("nonsense", c, "x")
	dead("a code", c, e.code(c))
	if m := e.post("/introspect", c.form("token", next2.access)).json(t); m["active"] != true {
		t.Errorf("asking has ended a grant: %v", m)
	}
	e.post("/revoke", c.form("token", next2.refresh))
	dead("revoked", c, next2.access)
	dead("revoked", c, next2.refresh)
	expectError(t, e.post("/introspect", public.form("token", foreign.access)), http.StatusForbidden, "unauthorized_client")
	expectError(t, e.post("/introspect", testClient{id: c.id, secret: "x"}.form("token", tk.access)), http.StatusUnauthorized, "invalid_client")
	expectError(t, e.post("/introspect", c.form()), http.StatusBadRequest, "invalid_request")
}
