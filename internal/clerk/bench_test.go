package clerk_test

import (
	"net/http"
	"testing"
)

// What each request costs where clients hold Clerk's JWTs: a signature of RS256.
func BenchmarkAccessToken(b *testing.B) {
	f := newIssuer(b)
	token := f.sign(f.accessHeader(), f.accessClaims())
	check := f.clerk.AccessTokens(rules())
	if _, err := check.Verify(b.Context(), token); err != nil {
		b.Fatal(err)
	}
	f.serveKeys(func(http.ResponseWriter) { b.Error("the keys are read again") })
	for b.Loop() {
		if _, err := check.Verify(b.Context(), token); err != nil {
			b.Fatal(err)
		}
	}
}
