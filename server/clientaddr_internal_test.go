package server

import (
	"net/http/httptest"
	"testing"
)

// What a forwarded header says counts from a trusted proxy only, and of it only
// what that proxy has seen itself.
func TestClientAddressIsWhatATrustedProxySaw(t *testing.T) {
	trusted, err := parseProxies([]string{"127.0.0.1", "10.0.0.0/8", "2001:db8::/32"})
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		peer  string
		sent  []string
		want  string
		proxy trustedProxies
	}{
		"no proxy":               {"198.51.100.7:1", nil, "198.51.100.7", trusted},
		"untrusted peer":         {"198.51.100.7:1", []string{"203.0.113.9"}, "198.51.100.7", trusted},
		"nobody is trusted":      {"127.0.0.1:1", []string{"203.0.113.9"}, "127.0.0.1", nil},
		"trusted peer":           {"127.0.0.1:1", []string{"203.0.113.9"}, "203.0.113.9", trusted},
		"silent proxy":           {"127.0.0.1:1", nil, "127.0.0.1", trusted},
		"made up in front":       {"127.0.0.1:1", []string{"1.1.1.1, 203.0.113.9"}, "203.0.113.9", trusted},
		"made up, other header":  {"127.0.0.1:1", []string{"1.1.1.1", "203.0.113.9"}, "203.0.113.9", trusted},
		"two proxies":            {"127.0.0.1:1", []string{"203.0.113.9, 10.1.2.3"}, "203.0.113.9", trusted},
		"IPv6":                   {"[2001:db8::1]:1", []string{"2001:470::1"}, "2001:470::1", trusted},
		"mapped":                 {"[::ffff:10.0.0.1]:1", []string{"::ffff:203.0.113.9"}, "203.0.113.9", trusted},
		"with port":              {"127.0.0.1:1", []string{"203.0.113.9:4711"}, "203.0.113.9", trusted},
		"nonsense":               {"127.0.0.1:1", []string{"203.0.113.9, unknown"}, "127.0.0.1", trusted},
		"nonsense, second proxy": {"127.0.0.1:1", []string{"unknown, 10.1.2.3"}, "10.1.2.3", trusted},
	} {
		r := httptest.NewRequest("GET", "/", nil)
		r.RemoteAddr = tc.peer
		for _, v := range tc.sent {
			r.Header.Add("X-Forwarded-For", v)
		}
		if got := tc.proxy.clientAddr(r).String(); got != tc.want {
			t.Errorf("%s: %s, want %s", name, got, tc.want)
		}
	}
	for _, bad := range []string{"", "0.0.0.0/0", "::/0", "proxy", "10.0.0.0/33"} {
		if _, err := parseProxies([]string{bad}); err == nil {
			t.Errorf("%q is accepted", bad)
		}
	}
}
