package authserver

import (
	"slices"
	"strings"
)

// validScope reports a scope-token of RFC 6749 section 3.3.
func validScope(name string) bool {
	if name == "" || len(name) > 128 {
		return false
	}
	for i := range len(name) {
		if c := name[i]; c < 0x21 || c > 0x7e || c == '"' || c == '\\' {
			return false
		}
	}
	return true
}

// knownScopes are the supported scopes in text, each once, in the server's
// order. Blanks in front, between and behind do not matter; scopes that this
// server does not know are dropped, since clients ask several servers for the
// same list.
func (s *Server) knownScopes(text string) []string {
	asked := strings.Fields(text)
	var known []string
	for _, sc := range s.scopes {
		if slices.Contains(asked, sc.Name) {
			known = append(known, sc.Name)
		}
	}
	return known
}

// grantableScopes are the scopes of an authorization request: those asked for
// that are known, and ScopeTools where nothing else would be left to call.
func (s *Server) grantableScopes(text string) []string {
	scopes := s.knownScopes(text)
	if !slices.ContainsFunc(scopes, func(sc string) bool { return sc != ScopeOffline }) {
		scopes = append([]string{ScopeTools}, scopes...)
	}
	return scopes
}

func subset(some, all []string) bool {
	return !slices.ContainsFunc(some, func(sc string) bool { return !slices.Contains(all, sc) })
}
