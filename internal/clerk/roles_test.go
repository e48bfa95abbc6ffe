package clerk_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/mcp-clerk/mcp-clerk/internal/clerk"
)

func TestRoles(t *testing.T) {
	for metadata, want := range map[string][]string{
		`{"role":"admin"}`:                     {"admin"},
		`{"role":["admin","premium"]}`:         {"admin", "premium"},
		`{"role":["admin","admin",""]}`:        {"admin"},
		`{"role":""}`:                          nil,
		`{"role":[]}`:                          nil,
		`{"role":null}`:                        nil,
		`{"role":[null]}`:                      nil,
		`{"role":["admin",1]}`:                 nil,
		`{"role":["admin",null]}`:              nil,
		`{"role":["admin",["premium"]]}`:       nil,
		`{"role":1}`:                           nil,
		`{"role":true}`:                        nil,
		`{"role":{"admin":true}}`:              nil,
		`{"Role":"admin"}`:                     nil, // encoding/json would take it
		`{"ROLE":"admin","role":"member"}`:     {"member"},
		`{"roles":"admin"}`:                    nil,
		`{"unsafe_metadata":{"role":"admin"}}`: nil,
		`{"role":" admin"}`:                    {" admin"}, // another role than admin
		`{"role":"Admin"}`:                     {"Admin"},
		`{}`:                                   nil,
		`null`:                                 nil,
		`[]`:                                   nil,
		`"admin"`:                              nil,
		``:                                     nil,
		`{"role":"admin"`:                      nil,
		`{"role":"admin"}x`:                    nil,
		`{"role":"` + strings.Repeat("a", 3000) + `"}`: {strings.Repeat("a", 3000)},
	} {
		if got := clerk.Roles(json.RawMessage(metadata), "role"); !slices.Equal(got, want) {
			t.Errorf("%.60s: %q, want %q", metadata, got, want)
		}
	}
}

func FuzzRoles(f *testing.F) {
	for _, s := range []string{`{"role":"admin"}`, `{"role":["a","b"]}`, `{"Role":"admin"}`, `{"role":[1]}`, `null`, `{"role":"\ud800"}`, `{"role":"a","role":["b"]}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, metadata []byte) {
		got := clerk.Roles(metadata, "role")
		if len(got) == 0 {
			return
		}
		// A role that was found is a string in the member named exactly "role".
		var m map[string]any
		if err := json.Unmarshal(metadata, &m); err != nil {
			t.Fatalf("roles %q of what is not an object: %v", got, err)
		}
		var have []any
		switch v := m["role"].(type) {
		case string:
			have = []any{v}
		case []any:
			have = v
		}
		for _, role := range got {
			if role == "" || !slices.Contains(have, any(role)) {
				t.Fatalf("role %q of %s", role, metadata)
			}
		}
	})
}
