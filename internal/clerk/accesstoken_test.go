package clerk_test

import (
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/mcp-clerk/mcp-clerk/internal/clerk"
	"github.com/mcp-clerk/mcp-clerk/internal/identity"
)

const resource = "https://mcp.example.com/mcp"

func rules() clerk.AccessTokenRules {
	return clerk.AccessTokenRules{Resource: resource, Covers: func(aud string) bool { return aud == resource }}
}

func (f *issuer) accessHeader(pairs ...any) fields {
	return with(fields{"alg": "RS256", "typ": "at+jwt", "kid": "k1"}, pairs)
}

func (f *issuer) accessClaims(pairs ...any) fields {
	now := f.clock.Now()
	return with(fields{
		"iss": f.url, "sub": "user_1", "client_id": "client_1", "aud": resource, "scp": []string{"profile", "mcp:tools"},
		"iat": now.Unix(), "exp": now.Add(24 * time.Hour).Unix(), "jti": "oat_1",
	}, pairs)
}

// wantTokenErr checks that err is of the given kind and gives nothing away.
func wantTokenErr(t *testing.T, err, kind error) {
	t.Helper()
	for _, k := range []error{identity.ErrUnavailable, identity.ErrInvalidToken, identity.ErrNoUser} {
		if errors.Is(err, k) != errors.Is(kind, k) {
			t.Errorf("error %v, want kind %v", err, kind)
		}
	}
	if err != nil && strings.Contains(fmt.Sprintf("%v %+v %#v", err, err, err), "CANARY") {
		t.Errorf("the error holds a secret: %q", err)
	}
}

func TestHonestAccessTokenIsAccepted(t *testing.T) {
	f := newIssuer(t)
	for name, tt := range map[string]struct {
		token  string
		scopes []string
	}{
		"scopes as a list":       {f.sign(f.accessHeader(), f.accessClaims()), []string{"profile", "mcp:tools"}},
		"scopes as a string":     {f.sign(f.accessHeader(), f.accessClaims("scp", nil, "scope", "a b")), []string{"a", "b"}},
		"a list under scope":     {f.sign(f.accessHeader(), f.accessClaims("scp", nil, "scope", []string{"a"})), []string{"a"}},
		"no scopes":              {f.sign(f.accessHeader(), f.accessClaims("scp", nil)), nil},
		"the long typ":           {f.sign(f.accessHeader("typ", "application/at+jwt"), f.accessClaims()), []string{"profile", "mcp:tools"}},
		"without kid":            {f.sign(f.accessHeader("kid", nil), f.accessClaims()), []string{"profile", "mcp:tools"}},
		"several audiences":      {f.sign(f.accessHeader(), f.accessClaims("aud", []string{"https://other.example", resource})), []string{"profile", "mcp:tools"}},
		"a document's address":   {f.sign(f.accessHeader(), f.accessClaims("client_id", "https://client.example/oauth/metadata.json")), []string{"profile", "mcp:tools"}},
		"expired within skew":    {f.sign(f.accessHeader(), f.accessClaims("exp", start.Add(-59*time.Second).Unix())), []string{"profile", "mcp:tools"}},
		"iat within skew":        {f.sign(f.accessHeader(), f.accessClaims("iat", start.Add(59*time.Second).Unix())), []string{"profile", "mcp:tools"}},
		"nbf within skew":        {f.sign(f.accessHeader(), f.accessClaims("nbf", start.Add(59*time.Second).Unix())), []string{"profile", "mcp:tools"}},
		"expiry with a fraction": {f.sign(f.accessHeader(), f.accessClaims("exp", float64(start.Unix())+100.5)), []string{"profile", "mcp:tools"}},
	} {
		p, err := f.clerk.AccessTokens(rules()).Verify(t.Context(), tt.token)
		if err != nil || p.Subject != "user_1" || p.Resource != resource || !slices.Equal(p.Scopes, tt.scopes) || p.AllScopes || p.Expires.IsZero() {
			t.Errorf("%s: %+v, %v", name, p, err)
		}
	}
}

// RFC 9068 section 4, RFC 8725 sections 3.1 to 3.12 (cases 39 and 40).
func TestForgedOrForeignAccessTokenIsRefused(t *testing.T) {
	f := newIssuer(t)
	publicDER, err := x509.MarshalPKIXPublicKey(rsaKey().Public())
	must(t, err)
	publicPEM := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: publicDER})
	good := f.sign(f.accessHeader(), f.accessClaims())
	parts := strings.Split(good, ".")
	evilJWK := json.RawMessage(must1(json.Marshal(jwk("k1", otherKey()))))
	hs256 := func(key []byte) string {
		s, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.HS256, Key: key}, (&jose.SignerOptions{}).WithHeader("kid", "k1").WithType("at+jwt"))
		must(t, err)
		jws, err := s.Sign(must1(json.Marshal(f.accessClaims())))
		must(t, err)
		return must1(jws.CompactSerialize())
	}

	for name, token := range map[string]string{
		"alg none":                 part(t, fields{"alg": "none", "typ": "at+jwt"}) + "." + part(t, f.accessClaims()) + ".",
		"alg none, signature kept": part(t, fields{"alg": "none", "typ": "at+jwt", "kid": "k1"}) + "." + parts[1] + "." + parts[2],
		"alg missing":              f.sign(f.accessHeader("alg", nil), f.accessClaims()),
		"alg in small letters":     f.sign(f.accessHeader("alg", "rs256"), f.accessClaims()),
		"HS256 by the public PEM":  hs256(publicPEM),
		"HS256 by the public DER":  hs256(publicDER),
		"PS256 by the right key":   joseSign(t, jose.PS256, rsaKey(), f.accessClaims()),

		"jku":                      f.sign(f.accessHeader("jku", f.url+"/evil"), f.accessClaims()),
		"x5u":                      f.sign(f.accessHeader("x5u", f.url+"/evil"), f.accessClaims()),
		"jwk":                      f.sign(f.accessHeader("jwk", evilJWK), f.accessClaims()),
		"jwk of the signer":        signBy(t, otherKey(), f.accessHeader("jwk", evilJWK), f.accessClaims()),
		"x5c":                      f.sign(f.accessHeader("x5c", []string{"MA=="}), f.accessClaims()),
		"crit":                     f.sign(f.accessHeader("crit", []string{"exp"}), f.accessClaims()),
		"an id_token":              f.sign(f.header(), f.claims("aud", resource)),
		"typ JWT":                  f.sign(f.accessHeader("typ", "JWT"), f.accessClaims()),
		"typ missing":              f.sign(f.accessHeader("typ", nil), f.accessClaims()),
		"typ null":                 part(t, json.RawMessage(`{"alg":"RS256","typ":null,"kid":"k1"}`)) + "." + parts[1] + "." + parts[2],
		"typ in capitals":          f.sign(f.accessHeader("typ", "AT+JWT"), f.accessClaims()),
		"typ of something like it": f.sign(f.accessHeader("typ", "cat+jwt"), f.accessClaims()),
		"typ twice":                base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"RS256","typ":"at+jwt","typ":"JWT"}`)) + "." + parts[1] + "." + parts[2],
		"Typ":                      f.sign(f.accessHeader("typ", nil, "Typ", "at+jwt"), f.accessClaims()),
		"another key, known kid":   signBy(t, otherKey(), f.accessHeader(), f.accessClaims()),
		"another key, unknown kid": signBy(t, otherKey(), f.accessHeader("kid", "k2"), f.accessClaims()),
		"claims changed":           parts[0] + "." + part(t, f.accessClaims("sub", "user_2")) + "." + parts[2],
		"signature empty":          parts[0] + "." + parts[1] + ".",
		"signature cut":            parts[0] + "." + parts[1] + "." + parts[2][:100],
		"200 kB":                   f.sign(f.accessHeader(), f.accessClaims("pad", strings.Repeat("x", 150_000))),
		"20 kB":                    f.sign(f.accessHeader(), f.accessClaims("pad", strings.Repeat("x", 15_000))),
		"claims are null":          f.sign(f.accessHeader(), nil),

		"another issuer":               f.sign(f.accessHeader(), f.accessClaims("iss", "https://clerk.evil.example")),
		"issuer with a slash":          f.sign(f.accessHeader(), f.accessClaims("iss", f.url+"/")),
		"issuer that begins with ours": f.sign(f.accessHeader(), f.accessClaims("iss", f.url+".evil.example")),
		"no issuer":                    f.sign(f.accessHeader(), f.accessClaims("iss", nil)),
		"issuer under another case":    f.sign(f.accessHeader(), f.accessClaims("iss", nil, "ISS", f.url)),
		"issuers":                      f.sign(f.accessHeader(), f.accessClaims("iss", []string{f.url})),
		"another audience":             f.sign(f.accessHeader(), f.accessClaims("aud", "https://other.example/mcp")),
		"audience is the client":       f.sign(f.accessHeader(), f.accessClaims("aud", "client_1")),
		"audience with a slash":        f.sign(f.accessHeader(), f.accessClaims("aud", resource+"/")),
		"no audience":                  f.sign(f.accessHeader(), f.accessClaims("aud", nil)),
		"audience null":                f.sign(f.accessHeader(), f.accessClaims("aud", json.RawMessage("null"))),
		"empty audience":               f.sign(f.accessHeader(), f.accessClaims("aud", []string{})),
		"empty audience text":          f.sign(f.accessHeader(), f.accessClaims("aud", "")),
		"audience an object":           f.sign(f.accessHeader(), f.accessClaims("aud", fields{resource: true})),
		"expired":                      f.sign(f.accessHeader(), f.accessClaims("exp", start.Add(-61*time.Second).Unix())),
		"without expiry":               f.sign(f.accessHeader(), f.accessClaims("exp", nil)),
		"expiry a text":                f.sign(f.accessHeader(), f.accessClaims("exp", "9999999999")),
		"expiry beyond all bounds":     f.sign(f.accessHeader(), f.accessClaims("exp", json.RawMessage("1e300"))),
		"expiry negative":              f.sign(f.accessHeader(), f.accessClaims("exp", -1)),
		"issued in the future":         f.sign(f.accessHeader(), f.accessClaims("iat", start.Add(61*time.Second).Unix())),
		"without time of issue":        f.sign(f.accessHeader(), f.accessClaims("iat", nil)),
		"not valid yet":                f.sign(f.accessHeader(), f.accessClaims("nbf", start.Add(61*time.Second).Unix())),
		"nbf a text":                   f.sign(f.accessHeader(), f.accessClaims("nbf", "now")),
		"no subject":                   f.sign(f.accessHeader(), f.accessClaims("sub", nil)),
		"empty subject":                f.sign(f.accessHeader(), f.accessClaims("sub", "")),
		"subject of a machine":         f.sign(f.accessHeader(), f.accessClaims("sub", "mch_1")),
		"subject with a line feed":     f.sign(f.accessHeader(), f.accessClaims("sub", "user_1\n")),
		"no client":                    f.sign(f.accessHeader(), f.accessClaims("client_id", nil)),
		"empty client":                 f.sign(f.accessHeader(), f.accessClaims("client_id", "")),
		"client with a blank":          f.sign(f.accessHeader(), f.accessClaims("client_id", "a b")),
		"scopes an object":             f.sign(f.accessHeader(), f.accessClaims("scp", fields{})),
		"scopes of numbers":            f.sign(f.accessHeader(), f.accessClaims("scp", []int{1})),
		"a null scope":                 f.sign(f.accessHeader(), f.accessClaims("scp", []any{nil})),
	} {
		t.Run(name, func(t *testing.T) {
			p, err := f.clerk.AccessTokens(rules()).Verify(t.Context(), token)
			wantTokenErr(t, err, identity.ErrInvalidToken)
			if p != nil {
				t.Errorf("principal %+v", p)
			}
		})
	}
}

// Where the operator accepts tokens without audience, one that has an audience
// must still be for this server.
func TestTokensWithoutAudienceAreAcceptedIfTheRulesSaySo(t *testing.T) {
	f := newIssuer(t)
	lax := rules()
	lax.NoAudience, lax.AllScopes = true, true
	p, err := f.clerk.AccessTokens(lax).Verify(t.Context(), f.sign(f.accessHeader(), f.accessClaims("aud", nil, "scp", nil)))
	if err != nil || !p.HasScope("mcp:tools") {
		t.Errorf("%+v, %v", p, err)
	}
	for _, aud := range []any{"https://other.example/mcp", []string{}, "", json.RawMessage("null")} {
		_, err = f.clerk.AccessTokens(lax).Verify(t.Context(), f.sign(f.accessHeader(), f.accessClaims("aud", aud)))
		wantTokenErr(t, err, identity.ErrInvalidToken)
	}
}

// A session is bound to the grant: it outlives a refresh, and is neither another
// client's nor, together with the subject, another user's.
func TestTheGrantIsTheClient(t *testing.T) {
	f := newIssuer(t)
	grant := func(pairs ...any) string {
		p, err := f.clerk.AccessTokens(rules()).Verify(t.Context(), f.sign(f.accessHeader(), f.accessClaims(pairs...)))
		must(t, err)
		return p.Grant
	}
	one := grant()
	if again := grant("jti", "oat_2", "iat", start.Add(-time.Hour).Unix()); one == "" || again != one {
		t.Errorf("after a refresh %q, was %q", again, one)
	}
	if other := grant("client_id", "client_2"); other == one {
		t.Errorf("two clients have the grant %q", one)
	}
}

// Case 41: what holds for the keys of id_tokens holds here, too.
func TestAccessTokensAndTheKeys(t *testing.T) {
	f := newIssuer(t)
	verify := func(token string) error {
		_, err := f.clerk.AccessTokens(rules()).Verify(t.Context(), token)
		return err
	}
	good := f.sign(f.accessHeader(), f.accessClaims())
	f.serveKeys(func(w http.ResponseWriter) { w.WriteHeader(http.StatusServiceUnavailable) })
	wantTokenErr(t, verify(good), identity.ErrUnavailable)
	f.publish(jwk("k1", otherKey()), jwk("k1", rsaKey())) // a duplicate id
	f.clock.Add(3 * time.Second)
	must(t, verify(good))
	before := f.keyReads()
	f.serveKeys(func(w http.ResponseWriter) { fmt.Fprint(w, `{"keys":[]}`) })
	f.clock.Add(2 * time.Hour)
	must(t, verify(good)) // by the keys that are known
	f.clock.Add(time.Minute)
	for i := range 20 {
		forged := signBy(t, otherKey(), f.accessHeader("kid", fmt.Sprint("made-up-", i)), f.accessClaims())
		wantTokenErr(t, verify(forged), identity.ErrUnavailable) // it might be a new key's
	}
	if n := f.keyReads() - before; n != 2 {
		t.Errorf("the keys were read %d times more", n)
	}
	f.publish(jwk("k2", otherKey()))
	f.clock.Add(time.Minute)
	must(t, verify(signBy(t, otherKey(), f.accessHeader("kid", "k2"), f.accessClaims())))
	wantTokenErr(t, verify(good), identity.ErrInvalidToken)
}

func TestATokenIsToldByItsForm(t *testing.T) {
	for token, want := range map[string]clerk.TokenKind{
		"oat_abc": clerk.AccessToken, "ak_abc": clerk.APIKey, "mt_abc": clerk.MachineToken, "eyJhbGciOiJub25lIn0.e30.": clerk.AccessToken,
		"": clerk.NoToken, "mcpc_at_abc": clerk.NoToken, "a.b.c": clerk.NoToken, "eyJ.a": clerk.NoToken, "OAT_abc": clerk.NoToken,
		"sk_test_abc": clerk.NoToken, "eyJ.a.b.c.d": clerk.NoToken,
	} {
		if got := clerk.KindOf(token); got != want {
			t.Errorf("%q: %d, want %d", token, got, want)
		}
	}
}

func FuzzAccessTokenHeader(f *testing.F) {
	for _, header := range []string{`{"alg":"RS256","typ":"at+jwt","kid":"a"}`, `{"alg":"RS256","typ":"application/at+jwt","crit":[]}`, `{"alg":"none","typ":"at+jwt"}`, `{"alg":"RS256","typ":["at+jwt"]}`, `null`} {
		f.Add(base64.RawURLEncoding.EncodeToString([]byte(header)) + ".e30.c2ln")
	}
	f.Add("..")
	f.Fuzz(func(t *testing.T, token string) {
		if clerk.CheckAccessHeader(token) != nil {
			return
		}
		head, err := base64.RawURLEncoding.DecodeString(strings.SplitN(token, ".", 2)[0])
		if err != nil || strings.Count(token, ".") != 2 || len(token) > 16<<10 {
			t.Fatalf("let through: %q", token)
		}
		var h map[string]any
		if err := json.Unmarshal(head, &h); err != nil || h["alg"] != "RS256" || h["typ"] != "at+jwt" && h["typ"] != "application/at+jwt" ||
			h["jwk"] != nil || h["jku"] != nil || h["x5u"] != nil || h["crit"] != nil {
			t.Fatalf("let through: %s", head)
		}
	})
}

func FuzzAccessTokenClaims(f *testing.F) {
	f.Add(`{"iss":"https://clerk.example.com","sub":"user_1","client_id":"c","aud":["a"],"scp":["x"],"iat":1764000000,"exp":1964000000}`)
	f.Add(`{"iss":"https://clerk.example.com","exp":1e400,"iat":-0}`)
	f.Add(`null`)
	f.Add(`{"aud":{},"scope":7}`)
	k, err := clerk.New(clerk.Options{FrontendAPI: "https://clerk.example.com", SecretKey: "sk_test_x", Now: func() time.Time { return start }})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = k.Close() })
	f.Fuzz(func(t *testing.T, payload string) {
		p, err := k.JudgeClaims(rules(), []byte(payload))
		if err != nil {
			return
		}
		var claims map[string]json.RawMessage
		if json.Unmarshal([]byte(payload), &claims) != nil || !strings.Contains(string(claims["aud"]), "mcp.example.com") ||
			!strings.HasPrefix(p.Subject, "user_") || p.ClientID == "" || !start.Before(p.Expires) {
			t.Fatalf("let through: %s as %+v", payload, p)
		}
	})
}
