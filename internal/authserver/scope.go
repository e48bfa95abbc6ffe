package authserver

import (
	"fmt"
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

// Scope is a scope that clients may ask for beside ScopeTools.
type Scope struct {
	Name        string
	Description string // for the consent page: what it allows, in plain words
}

func (sc Scope) check() error {
	if !validScope(sc.Name) || sc.Name == ScopeOffline || sc.Name == ScopeTools {
		return fmt.Errorf("scope %q is not a name for a scope of its own", sc.Name)
	}
	return nil
}

// offer is what clients can ask for, with the documents that say so.
type offer struct {
	scopes    []Scope  // ScopeTools first, ScopeOffline last
	resource  []string // names without ScopeOffline, which no request to the resource needs
	documents documents
}

// newOffer makes the offer of the resource's scopes.
func (s *Server) newOffer(scopes []Scope) *offer {
	o := &offer{scopes: append(slices.Clone(scopes), Scope{ScopeOffline, "Stay connected without asking you again, until you disconnect it"})}
	for _, sc := range scopes {
		o.resource = append(o.resource, sc.Name)
	}
	o.documents = s.newDocuments(o.resource, append(slices.Clone(o.resource), ScopeOffline))
	return o
}

// AddScope adds a scope to those that clients may ask for, from the next
// request on. One that is there already keeps its description.
func (s *Server) AddScope(sc Scope) error {
	s.offering.Lock()
	defer s.offering.Unlock()
	now := s.offer.Load()
	if slices.ContainsFunc(now.scopes, func(old Scope) bool { return old.Name == sc.Name }) {
		return nil
	}
	if err := sc.check(); err != nil {
		return err
	}
	s.offer.Store(s.newOffer(append(slices.Clone(now.scopes[:len(now.scopes)-1]), sc)))
	return nil
}

// knownScopes are the supported scopes in text, each once, in the server's
// order. Blanks in front, between and behind do not matter; scopes that this
// server does not know are dropped, since clients ask several servers for the
// same list.
func (s *Server) knownScopes(text string) []string {
	asked := strings.Fields(text)
	var known []string
	for _, sc := range s.offer.Load().scopes {
		if slices.Contains(asked, sc.Name) {
			known = append(known, sc.Name)
		}
	}
	return known
}

// grantableScopes are the scopes of an authorization request. A client that
// asks for none of the resource's gets all of them: it does not know of scopes,
// and would not come back for more. To one that asks, ScopeTools is added,
// without which nothing can be called (RFC 6749 section 3.3: the server may
// grant others than asked for, and says which).
func (s *Server) grantableScopes(text string) []string {
	scopes := s.knownScopes(text)
	if !slices.ContainsFunc(scopes, func(sc string) bool { return sc != ScopeOffline }) {
		return append(slices.Clone(s.offer.Load().resource), scopes...)
	}
	if scopes[0] != ScopeTools {
		scopes = append([]string{ScopeTools}, scopes...)
	}
	return scopes
}

func subset(some, all []string) bool {
	return !slices.ContainsFunc(some, func(sc string) bool { return !slices.Contains(all, sc) })
}
