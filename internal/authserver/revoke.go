package authserver

import (
	"context"
	"errors"
	"net/http"
	"strings"
)

// revoke is the revocation endpoint (RFC 7009). A token that is unknown, has
// expired or belongs to another client is answered like one that was revoked;
// only a store that could not be asked is an error, for a client that was told
// 200 forgets its token.
func (s *Server) revoke(w http.ResponseWriter, r *http.Request) {
	s.clientEndpoint(w, r, func(c *client, p params) error {
		if err := s.revokeToken(r, c, p); err != nil {
			return err
		}
		noStore(w.Header())
		w.WriteHeader(http.StatusOK)
		return nil
	})
}

func (s *Server) revokeToken(r *http.Request, c *client, p params) error {
	token := p.get("token")
	if token == "" {
		return invalidRequest("token is missing")
	}
	// The prefix tells the type, so token_type_hint is not needed.
	if strings.HasPrefix(token, prefixAccess) {
		return s.revokeAccessToken(r.Context(), c, token)
	}
	h, ok := s.keys.openHandle(prefixRefresh, token)
	if !ok {
		return nil
	}
	return ignoreOver(s.transition(r.Context(), h.grant, func(g *grant) error {
		if g.ClientID == c.ID {
			g.revoke(s.now(), reasonClient)
		}
		return nil
	}))
}

// revokeAccessToken refuses the access tokens issued so far under the token's
// grant. The refresh token stays, as RFC 7009 section 2.1 leaves open: another
// process of the client may live by it.
func (s *Server) revokeAccessToken(ctx context.Context, c *client, token string) error {
	t, ok := s.keys.openAccessToken(token)
	if !ok || t.client != c.ID || !s.now().Before(t.expires) {
		return nil
	}
	err := ignoreOver(s.transition(ctx, t.grant, func(g *grant) error {
		if g.Revoked == "" && g.Generation == t.generation {
			g.Generation, g.changed = g.Generation+1, true
		}
		return nil
	}))
	if err == nil {
		s.announce(ctx, t.grant)
		s.audit(ctx, Event{Name: "access_token.revoked", ClientID: c.ID, Subject: t.grant.subject(), Grant: t.grant.id(), Reason: reasonClient})
	}
	return err
}

func ignoreOver(err error) error {
	if errors.Is(err, errGrantOver) {
		return nil
	}
	return err
}
