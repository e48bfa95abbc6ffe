package authserver_test

import (
	"strings"
	"testing"

	"github.com/mcp-clerk/mcp-clerk/internal/authserver"
	"github.com/mcp-clerk/mcp-clerk/internal/secret"
)

func TestKeysAreCheckedBeforeTheyAreUsed(t *testing.T) {
	for name, tc := range map[string]struct {
		list     string
		loopback bool
		keys     int
		warnings int
		faults   int
	}{
		"64 digits":              {testKey, false, 1, 0, 0},
		"upper case and blanks":  {" " + strings.ToUpper(testKey) + " , " + otherKey + ",", false, 2, 0, 0},
		"32 digits":              {testKey[:32], false, 1, 1, 0},
		"nothing":                {"", true, 0, 0, 1},
		"commas":                 {" , ", false, 0, 0, 1},
		"not hex":                {"<generate-with-openssl-rand-hex-32>", true, 0, 0, 1},
		"too short":              {testKey[:62], false, 0, 0, 1},
		"too long":               {testKey + "00", false, 0, 0, 1},
		"every fault":            {"x," + testKey[:10] + "," + strings.Repeat("0", 64), false, 0, 0, 3},
		"zeros":                  {strings.Repeat("0", 64), false, 0, 0, 1},
		"zeros on loopback":      {strings.Repeat("0", 64), true, 1, 1, 0},
		"counting digits":        {strings.Repeat("0123456789abcdef", 4), false, 0, 0, 1},
		"32 counting digits":     {"0123456789abcdef0123456789abcdef", false, 0, 0, 1},
		"counting bytes":         {"000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f", false, 0, 0, 1},
		"doubled digits":         {"00112233445566778899aabbccddeeff", false, 0, 0, 1},
		"a word again and again": {strings.Repeat("deadbeef", 8), false, 0, 0, 1},
		"ten digits and again":   {strings.Repeat("1234567890", 7)[:64], false, 0, 0, 1},
	} {
		keys, warnings, err := authserver.ParseKeys(secret.String(tc.list), tc.loopback)
		faults := 0
		if err != nil {
			faults = strings.Count(err.Error(), "\n") + 1
			if !strings.Contains(err.Error(), "openssl rand -hex 32") {
				t.Errorf("%s: no fix in %v", name, err)
			}
			if len(tc.list) > 8 && strings.Contains(err.Error(), tc.list[:8]) {
				t.Errorf("%s: the error shows the key: %v", name, err)
			}
		}
		if len(keys) != tc.keys || len(warnings) != tc.warnings || faults != tc.faults {
			t.Errorf("%s: %d keys, warnings %v, %v", name, len(keys), warnings, err)
		}
	}
}

// The first key seals, all of them open: rotation signs nobody out.
func TestKeysCanBeRotated(t *testing.T) {
	e := newEnv(t)
	c := e.register("Web", webRedirect)
	b := e.browser()
	b.authorize(c).press("Approve").press("Continue as")
	old := e.signIn(c)
	late := e.tokens(e.refresh(c, old.refresh)) // old is an ancestor under the old key
	page := b.authorize(c)
	e.start(func(o *authserver.Options) { o.Keys = []secret.String{otherKey, testKey} })
	if !e.valid(old.access) || !e.valid(late.access) {
		t.Error("tokens under the old key are refused")
	}
	e.tokens(e.refresh(c, old.refresh))
	fresh := e.tokens(e.refresh(c, late.refresh))
	if page.press("Approve").answer(c).Get("code") == "" {
		t.Error("a page or cookie under the old key is refused")
	}
	e.start(func(o *authserver.Options) { o.Keys = []secret.String{otherKey} })
	if e.valid(late.access) || !e.valid(fresh.access) {
		t.Error("the old key still opens, or the new one did not seal")
	}
	e.tokens(e.refresh(c, fresh.refresh))
}
