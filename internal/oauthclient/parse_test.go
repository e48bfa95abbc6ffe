package oauthclient_test

import (
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mcp-clerk/mcp-clerk/internal/oauthclient"
)

func TestParseChallenges(t *testing.T) {
	type c = oauthclient.Challenge
	tests := map[string]struct {
		values []string
		want   []c
	}{
		"none":  {nil, nil},
		"empty": {[]string{"", " , ,"}, nil},
		"RFC 6750": {[]string{`Bearer realm="example", error="invalid_token", error_description="The access token expired"`},
			[]c{{Scheme: "bearer", Error: "invalid_token", ErrorDescription: "The access token expired"}}},
		"RFC 9728": {[]string{`Bearer resource_metadata="https://a.example/.well-known/x", scope="a b"`},
			[]c{{Scheme: "bearer", ResourceMetadata: "https://a.example/.well-known/x", Scope: "a b"}}},
		"scheme alone":       {[]string{"Bearer"}, []c{{Scheme: "bearer"}}},
		"case of names":      {[]string{`BEARER Scope=a, ERROR="b"`}, []c{{Scheme: "bearer", Scope: "a", Error: "b"}}},
		"several in one":     {[]string{`Basic realm="a, b", Bearer scope="x", Digest qop="auth"`}, []c{{Scheme: "basic"}, {Scheme: "bearer", Scope: "x"}, {Scheme: "digest"}}},
		"several values":     {[]string{`Basic realm="a"`, `Bearer scope="x"`}, []c{{Scheme: "basic"}, {Scheme: "bearer", Scope: "x"}}},
		"token68":            {[]string{`Negotiate YII/abc==, Bearer scope="x"`}, []c{{Scheme: "negotiate"}, {Scheme: "bearer", Scope: "x"}}},
		"escapes":            {[]string{`Bearer scope="a \"b\" \\c"`}, []c{{Scheme: "bearer", Scope: `a "b" \c`}}},
		"blanks around =":    {[]string{`Bearer scope = "a" , error= b`}, []c{{Scheme: "bearer", Scope: "a", Error: "b"}}},
		"no comma between":   {[]string{`Bearer scope="a" error="b"`}, []c{{Scheme: "bearer", Scope: "a", Error: "b"}}},
		"unquoted URL":       {[]string{`Bearer resource_metadata=https://a.example/x?y=1, scope=a`}, []c{{Scheme: "bearer", ResourceMetadata: "https://a.example/x?y=1", Scope: "a"}}},
		"quote never closed": {[]string{`Bearer error="x", scope="a, resource_metadata=https://evil`}, []c{{Scheme: "bearer", Error: "x"}}},
		"repeated parameter": {[]string{`Bearer scope="a", scope="b"`}, []c{{Scheme: "bearer", Scope: "a"}}},
		"parameter first":    {[]string{`="a", Bearer scope="b"`}, []c{{Scheme: "a"}, {Scheme: "bearer", Scope: "b"}}},
		"control characters": {[]string{"Bearer error_description=\"a\x1b[31m\nb\""}, []c{{Scheme: "bearer", ErrorDescription: "a [31m b"}}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(test.want, oauthclient.ParseChallenges(test.values)); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

// Case 8: 100 kB of challenges are read to a bound.
func TestParseChallengesIsBounded(t *testing.T) {
	huge := strings.Repeat(`Basic realm="x", `, 10_000)
	if got := oauthclient.ParseChallenges([]string{huge, `Bearer scope="late"`}); len(got) > 32 {
		t.Errorf("%d challenges", len(got))
	}
	long := `Bearer scope="` + strings.Repeat("a ", 50_000) + `"`
	for _, c := range oauthclient.ParseChallenges([]string{long}) {
		if len(c.Scope) > 16<<10 {
			t.Errorf("a scope of %d bytes", len(c.Scope))
		}
	}
}

func FuzzParseChallenges(f *testing.F) {
	for _, seed := range []string{
		`Bearer resource_metadata="https://a.example/x", scope="a b"`, `Basic realm="a, b", Bearer scope="x`, `Negotiate YII=, Bearer`,
		`,,,=`, `Bearer a=b=c`, "Bearer \x00", `"`, `Bearer scope="\`,
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, value string) {
		got := oauthclient.ParseChallenges([]string{value})
		if len(got) > 32 {
			t.Fatalf("%d challenges", len(got))
		}
		for _, c := range got {
			if c.Scheme == "" || c.Scheme != strings.ToLower(c.Scheme) {
				t.Fatalf("scheme %q", c.Scheme)
			}
			for _, v := range []string{c.ResourceMetadata, c.Scope, c.Error} {
				if len(v) > len(value) {
					t.Fatalf("%q is longer than the header", v)
				}
			}
		}
	})
}

func TestBrowserURL(t *testing.T) {
	accepted := map[string]string{
		"https://as.example.com/authorize":             "https://as.example.com/authorize",
		"HTTPS://AS.Example.com/Authorize?b=1&a=x+y":   "https://as.example.com/Authorize?a=x+y&b=1",
		"https://as.example.com":                       "https://as.example.com/",
		"https://as.example.com:8443/a?x=%2F%26%27%24": "https://as.example.com:8443/a?x=%2F%26%27%24",
		"http://127.0.0.1:8788/authorize":              "http://127.0.0.1:8788/authorize",
		"http://localhost:8788/authorize":              "http://localhost:8788/authorize",
		"http://[::1]:8788/authorize":                  "http://[::1]:8788/authorize",
	}
	for raw, want := range accepted {
		if got, err := oauthclient.BrowserURL(raw); err != nil || got != want {
			t.Errorf("%q: %q, %v; want %q", raw, got, err, want)
		}
	}
	for _, raw := range []string{
		"", "javascript:alert(1)", "JaVaScRiPt://as.example/%0aalert(1)", "file:///etc/passwd", "file://host/share", "ms-msdt:/id PCWDiagnostic",
		`\\host\share`, "//host/share", "-flag", "--flag=https://as.example", "https://-flag/", "https://as.example/$(calc)", "https://as.example/?a=$(calc)",
		"https://as.example/%COMSPEC%", "https://as.example/%41", "https://as.example/a&calc", "https://a&b/", "https://as.example/`calc`",
		"https://as.example/?x=`calc`", "https://as.example/\n", "https://as.example/?a=b\r\nX", " https://as.example/", "https://as.example/ a",
		"http://as.example/", "http://127.0.0.1.evil.example/", "http://localhost.evil.example/", "http://10.0.0.1/", "https://user@as.example/",
		"https://as.example@evil.example/", "https://as.example/#f", "https://as.example/'", `https://as.example/"`, "https://as.example/|calc", "https://as.example/;calc",
		"https://as.example/<x>", "https://as.example/^", `https://as.example\evil`, "https:as.example", "https:///x", "https://as.example:port/", "https://ás.example/",
		"https://[fe80::1%25eth0]/", "https://as.example/?a=%zz", "https://as.example/!x", "https://as.example/*", "https://as.example/~(x)", "data:text/html,x",
		"https://" + strings.Repeat("a", 17<<10),
	} {
		if got, err := oauthclient.BrowserURL(raw); err == nil {
			t.Errorf("%q was accepted as %q", raw, got)
		}
	}
}

// FuzzBrowserURL: whatever comes out is https or loopback http, one argument
// that starts with its scheme, and free of what shells give a meaning to.
func FuzzBrowserURL(f *testing.F) {
	for _, seed := range []string{
		"https://as.example.com/authorize?a=b", "http://localhost:1/x", "http://127.0.0.1@evil/", "javascript:x", "https://[::1]/", "https://a/%2e%2e",
		"HTTPS://A", "https://a?b=%26calc", "http://[::ffff:127.0.0.1]/", "https://a:/",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		got, err := oauthclient.BrowserURL(raw)
		if err != nil {
			return
		}
		if !strings.HasPrefix(got, "https://") && !strings.HasPrefix(got, "http://") || strings.ContainsAny(got, " \t\r\n\"'`$();<>\\^|{}!*#\x00") {
			t.Fatalf("%q became %q", raw, got)
		}
		for i := range len(got) {
			if got[i] <= 0x20 || got[i] >= 0x7f {
				t.Fatalf("%q became %q", raw, got)
			}
		}
		u, err := url.Parse(got)
		if err != nil || u.Host == "" || u.User != nil || u.Fragment != "" {
			t.Fatalf("%q became %q: %v", raw, got, err)
		}
		if host := u.Hostname(); u.Scheme == "http" && host != "localhost" && !strings.HasSuffix(host, ".localhost") && !strings.HasPrefix(host, "127.") &&
			!strings.Contains(host, ":") && host != "localhost." && !strings.HasSuffix(host, ".localhost.") {
			t.Fatalf("%q became %q", raw, got)
		}
		if strings.ContainsAny(u.Path, "%&") {
			t.Fatalf("%q became %q", raw, got)
		}
		again, err := oauthclient.BrowserURL(got)
		if err != nil || again != got {
			t.Fatalf("%q became %q, and then %q, %v", raw, got, again, err)
		}
	})
}

// Whatever is pasted, a code comes out only with the right state beside it and
// no other issuer, or alone where the issuer never stands beside it.
func FuzzPaste(f *testing.F) {
	const state, issuer = "right-state", "https://as.example"
	for _, line := range []string{
		"http://127.0.0.1:1/oauth/callback?code=c&state=right-state&iss=https%3A%2F%2Fas.example", "?code=c&state=wrong", "just-a-code",
		"http://x/?state=right-state&error=access_denied", "https://x/#code=c&state=right-state", "?state=right-state&state=x&code=c", "\x00\r\n", "%%%?%",
	} {
		f.Add(line, true)
		f.Add(line, false)
	}
	f.Fuzz(func(t *testing.T, line string, always bool) {
		code, answered, err := oauthclient.Paste(line, state, issuer, always)
		if code == "" || err != nil {
			return
		}
		if !answered {
			t.Errorf("a code out of %q, and no answer", line)
		}
		_, raw, isAddress := strings.Cut(strings.Trim(strings.TrimSpace(line), "\"'<>"), "?")
		raw, _, _ = strings.Cut(raw, "#")
		query, queryErr := url.ParseQuery(raw)
		iss := query["iss"]
		named := len(iss) == 1 && iss[0] == issuer || len(iss) == 0 && !always
		bare := !always && !strings.ContainsAny(line, "?&=")
		if !(isAddress && queryErr == nil && query.Get("state") == state && named) && !bare {
			t.Errorf("the code %q out of %q", code, line)
		}
	})
}
