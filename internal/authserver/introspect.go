package authserver

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"

	"github.com/mcp-clerk/mcp-clerk/internal/identity"
	"github.com/mcp-clerk/mcp-clerk/internal/store"
)

// introspection is the answer of RFC 7662 section 2.2. For whatever does not
// work, or is not the asking client's, it is {"active":false} and no more.
type introspection struct {
	Active   bool   `json:"active"`
	Scope    string `json:"scope,omitempty"`
	ClientID string `json:"client_id,omitempty"`
	Type     string `json:"token_type,omitempty"`
	Expires  int64  `json:"exp,omitempty"`
	Subject  string `json:"sub,omitempty"`
	Audience string `json:"aud,omitempty"`
	Issuer   string `json:"iss,omitempty"`
}

// introspect tells a confidential client about its own tokens (RFC 7662).
func (s *Server) introspect(w http.ResponseWriter, r *http.Request) {
	s.clientEndpoint(w, r, func(c *client, p params) error {
		if !c.confidential() {
			return &oauthError{Status: http.StatusForbidden, Code: codeUnauthorizedClient, Description: "introspection is for clients that authenticate"}
		}
		if p.get("token") == "" {
			return invalidRequest("token is missing")
		}
		answer, err := s.inspect(r.Context(), c, p.get("token"))
		if err != nil {
			return err
		}
		noStore(w.Header())
		writeJSON(w, http.StatusOK, answer)
		return nil
	})
}

func (s *Server) inspect(ctx context.Context, c *client, token string) (introspection, error) {
	if strings.HasPrefix(token, prefixAccess) {
		p, err := s.Verify(ctx, token)
		switch {
		case errors.Is(err, identity.ErrInvalidToken):
			return introspection{}, nil
		case err != nil:
			return introspection{}, err
		case p.ClientID != c.ID:
			return introspection{}, nil
		}
		return introspection{Active: true, Scope: strings.Join(p.Scopes, " "), ClientID: c.ID, Type: "Bearer",
			Expires: p.Expires.Unix(), Subject: p.Subject, Audience: p.Resource, Issuer: s.site.issuer}, nil
	}
	h, ok := s.keys.openHandle(prefixRefresh, token)
	if !ok {
		return introspection{}, nil
	}
	rec, err := s.store.Get(ctx, h.grant.key())
	if errors.Is(err, store.ErrNotFound) {
		return introspection{}, nil
	}
	if err != nil {
		return introspection{}, storeError("read grant", err)
	}
	g := &grant{}
	if err := json.Unmarshal(rec.Value, g); err != nil {
		return introspection{}, err
	}
	if g.ClientID != c.ID || !g.accepts(s.now(), s.lives(), h.seq, h.secret) {
		return introspection{}, nil
	}
	return introspection{Active: true, Scope: strings.Join(g.Scopes, " "), ClientID: c.ID, Expires: g.refreshEnd(s.lives()).Unix(),
		Subject: h.grant.subject(), Audience: g.Resource, Issuer: s.site.issuer}, nil
}
