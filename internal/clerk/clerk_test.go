package clerk_test

import (
	"encoding/base64"
	"strings"
	"testing"

	"github.com/mcp-clerk/mcp-clerk/internal/clerk"
	"github.com/mcp-clerk/mcp-clerk/internal/secret"
)

func TestNewReportsEveryFaultAtOnce(t *testing.T) {
	_, err := clerk.New(clerk.Options{FrontendAPI: "http://clerk.example.com", APIURL: "ftp://x", RedirectURL: "/callback", SecretKey: "sk_test_CANARY\n"})
	if err == nil {
		t.Fatal("accepted")
	}
	for _, want := range []string{"frontend API", "API URL", "client id", "client secret", "redirect URL", "secret key: contains white space"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error does not name the %s:\n%v", want, err)
		}
	}
	if strings.Contains(err.Error(), "CANARY") {
		t.Errorf("the error holds the secret key:\n%v", err)
	}
}

func TestFrontendAPIForms(t *testing.T) {
	for text, want := range map[string]string{
		"verb-noun-00.clerk.accounts.dev":           "https://verb-noun-00.clerk.accounts.dev",
		" https://verb-noun-00.clerk.accounts.dev ": "https://verb-noun-00.clerk.accounts.dev",
		"https://clerk.example.com/":                "https://clerk.example.com",
		"clerk.example.com:8443":                    "https://clerk.example.com:8443",
		"https://example.com/__clerk/":              "https://example.com/__clerk", // Clerk behind a proxy of one's own
		"http://localhost:4411":                     "http://localhost:4411",
		"http://127.0.0.1:4411/":                    "http://127.0.0.1:4411",
		"http://[::1]:4411":                         "http://[::1]:4411",

		"":                                    "",
		"http://clerk.example.com":            "",
		"http://127.0.0.1.evil.example":       "",
		"http://localhost.evil.example":       "",
		"http://0.0.0.0:1":                    "",
		"ftp://clerk.example.com":             "",
		"https://user:pw@clerk.example.com":   "",
		"https://clerk.example.com?x=1":       "",
		"https://clerk.example.com#x":         "",
		"https://":                            "",
		"clerk example.com":                   "",
		`https://clerk.example.com\@evil.com`: "",
	} {
		c, err := clerk.New(clerk.Options{FrontendAPI: text, ClientID: "c", ClientSecret: "s", SecretKey: "k", RedirectURL: redirectURL})
		switch {
		case want == "" && err == nil:
			t.Errorf("%q: accepted as %q", text, c.Issuer())
		case want != "" && err != nil:
			t.Errorf("%q: %v", text, err)
		case want != "" && c.Issuer() != want:
			t.Errorf("%q: %q, want %q", text, c.Issuer(), want)
		}
		if err != nil && strings.Contains(err.Error(), "pw@") {
			t.Errorf("the error repeats a password: %v", err)
		}
	}
}

func TestAPIURLMayEndInV1(t *testing.T) {
	for _, suffix := range []string{"", "/", "/v1", "/v1/"} {
		r := newRig(t, nil)
		c, err := clerk.New(clerk.Options{FrontendAPI: r.url, APIURL: r.url + suffix, ClientID: clientID, ClientSecret: clientSecret, SecretKey: secretKey, RedirectURL: redirectURL})
		must(t, err)
		_, err = c.User(t.Context(), "user_nobody")
		must(t, c.Close())
		if !isNoUser(err) {
			t.Errorf("%q: %v", suffix, err)
		}
	}
}

func TestFrontendAPIFromPublishableKey(t *testing.T) {
	key := func(kind, text string) string {
		return "pk_" + kind + "_" + base64.StdEncoding.EncodeToString([]byte(text))
	}
	for pk, want := range map[string]string{
		key("test", "verb-noun-00.clerk.accounts.dev$"):           "https://verb-noun-00.clerk.accounts.dev",
		key("live", "clerk.example.com$"):                         "https://clerk.example.com",
		strings.TrimRight(key("live", "clerk.example.org$"), "="): "https://clerk.example.org",
		" " + key("test", "a.clerk.accounts.dev$") + "\n":         "https://a.clerk.accounts.dev",
		key("test", "clerk.example.com"):                          "",
		key("prod", "clerk.example.com$"):                         "",
		key("test", "$"):                                          "",
		key("test", "localhost$"):                                 "",
		key("test", "evil.example/clerk.example.com$"):            "",
		key("test", "a@evil.example$"):                            "",
		key("test", "evil.example#.clerk.example.com$"):           "",
		key("test", "a..b$"):                                      "",
		key("test", "-a.b$"):                                      "",
		key("test", strings.Repeat("a.", 130)+"b$"):               "",
		"pk_test_":     "",
		"pk_test_!!!!": "",
		"sk_test_" + base64.StdEncoding.EncodeToString([]byte("CANARY.example$")): "",
		"": "",
	} {
		got, err := clerk.FrontendAPIFromPublishableKey(pk)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%q: %q, %v, want %q", pk, got, err, want)
		}
		// A secret key pasted in its place must not be repeated.
		if err != nil && strings.HasPrefix(pk, "sk_") && strings.Contains(err.Error(), pk[8:]) {
			t.Errorf("the error repeats the key: %v", err)
		}
	}
}

func FuzzFrontendAPIFromPublishableKey(f *testing.F) {
	f.Add("pk_test_" + base64.StdEncoding.EncodeToString([]byte("verb-noun-00.clerk.accounts.dev$")))
	f.Add("pk_live_Y2xlcms")
	f.Fuzz(func(t *testing.T, pk string) {
		got, err := clerk.FrontendAPIFromPublishableKey(pk)
		if err != nil {
			return
		}
		// Whatever comes out is taken as it is.
		c, err := clerk.New(clerk.Options{FrontendAPI: got, ClientID: "c", ClientSecret: secret.String("s"), SecretKey: "k", RedirectURL: redirectURL})
		if err != nil || c.Issuer() != got {
			t.Fatalf("%q from %q: %v", got, pk, err)
		}
	})
}
