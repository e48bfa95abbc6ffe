package authserver

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/mcp-clerk/mcp-clerk/internal/store"
)

// A client whose id is the https URL of a document that describes it
// (draft-ietf-oauth-client-id-metadata-document, MCP 2026-07-28): whoever holds
// the domain has written it, so that the domain is proven.

// document is what such a document may say beyond a registration.
type document struct {
	registration
	ClientID      string          `json:"client_id"`
	ClientSecret  json.RawMessage `json:"client_secret"`
	SecretExpires json.RawMessage `json:"client_secret_expires_at"`
	AuthMethods   []string        `json:"token_endpoint_auth_methods_supported"`
}

var documentMembers = []string{"client_id", "client_secret", "client_secret_expires_at", "token_endpoint_auth_methods_supported"}

// isDocumentID reports a client id that is an address.
func isDocumentID(id string) bool { return strings.Contains(id, "://") }

// checkDocumentURL reports what is wrong with an address as a client id: it is
// written in one way only, has a path and names no user.
func (s *Server) checkDocumentURL(id string) error {
	if len(id) > maxClientID {
		return errors.New("is too long")
	}
	if err := checkURIText(id); err != nil {
		return err
	}
	u, err := url.Parse(id)
	if err != nil || u.Opaque != "" || u.Host == "" || u.User != nil || strings.Contains(u.Host, "@") {
		return errors.New("is not an absolute URL with a host")
	}
	if u.Scheme != "https" && (!s.fetch.loopback || loopbackHost(u) == "") {
		return errors.New("is not https")
	}
	if u.Path == "" || u.Path == "/" {
		return errors.New("has no path")
	}
	if err := errors.Join(checkPort(u), checkPath(u)); err != nil {
		return err
	}
	if u.Host != strings.ToLower(u.Host) {
		return errors.New("has a host that is not in lower case")
	}
	if u.Hostname() == strings.Trim(s.site.name(), "[]") && !s.fetch.loopback {
		return errors.New("is on this server")
	}
	return checkHost(u.Hostname())
}

// documentClient returns the client that the document at id describes. Every
// reason for which there is none is errUnknownClient to the outside: an answer
// that told a refused connection from a missing file would map the network
// that this server can reach.
func (s *Server) documentClient(ctx context.Context, id string) (*client, error) {
	if err := s.checkDocumentURL(id); err != nil {
		return nil, fmt.Errorf("document URL %w: %w", err, errUnknownClient)
	}
	c, err := s.clientDocs.get(ctx, id, 0, func(ctx context.Context) (*client, time.Duration, error) { return s.loadDocument(ctx, id) })
	switch {
	case errors.Is(err, errBadDocument) || errors.Is(err, errUnreachable):
		return nil, fmt.Errorf("%w: %w", errUnknownClient, err)
	case err != nil:
		return nil, err
	}
	return c, nil
}

// loadDocument finds the document: the copy that users' approval has left in
// the store, if it is fresh; the web; else a copy again, the stored one or that
// of a well-known client.
func (s *Server) loadDocument(ctx context.Context, id string) (*client, time.Duration, error) {
	now := s.now()
	kept, err := s.storedClient(ctx, documentKey(id))
	if err != nil && !errors.Is(err, errUnknownClient) {
		return nil, 0, err // not kept: the store may answer the next time
	}
	if kept != nil {
		kept.verified = strings.HasPrefix(id, "https:")
		if left := time.Unix(kept.Fresh, 0).Sub(now); left > 0 && left <= lifeLongest {
			return kept, left, nil
		}
	}
	got, err := s.fetch.get(ctx, id, maxDocument)
	if err == nil {
		var c *client
		if c, err = s.parseDocument(id, got.body); err == nil {
			c.Fresh = now.Add(got.life).Unix()
			if kept != nil {
				s.renewDocument(ctx, c)
			}
			return c, got.life, nil
		}
	}
	s.log.WarnContext(ctx, "client document not read", "client", id, "error", err)
	if errors.Is(err, errUnreachable) {
		if kept != nil {
			return kept, lifeStandIn, nil
		}
		if body := knownDocument(id); body != nil {
			c, err := s.parseDocument(id, body)
			return c, lifeStandIn, err
		}
	}
	return nil, lifeFailed, err
}

// parseDocument checks a document and makes a client of it.
func (s *Server) parseDocument(id string, body []byte) (*client, error) {
	bad := func(problem string) (*client, error) { return nil, fmt.Errorf("%w: %s", errBadDocument, problem) }
	reg := &document{}
	if err := parseMetadata(body, append(slices.Clone(registrationMembers), documentMembers...), reg); err != nil {
		return nil, fmt.Errorf("%w: %w", errBadDocument, err)
	}
	if reg.ClientID != id {
		return bad("its client_id is not its address")
	}
	if reg.ClientSecret != nil || reg.SecretExpires != nil {
		return bad("it contains a secret, which everybody can read")
	}
	if reg.AuthMethod == "" {
		reg.AuthMethod = methodNone
	}
	if reg.AuthMethod != methodNone && reg.AuthMethod != methodKey {
		return bad("its token_endpoint_auth_method needs a shared secret")
	}
	c, err := s.newClient(&reg.registration)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errBadDocument, err)
	}
	c.ID, c.verified = id, strings.HasPrefix(id, "https:")
	// A client that uses a key where it can, and none where it cannot.
	if slices.Contains(reg.AuthMethods, methodNone) && c.AuthMethod != methodNone {
		c.Public = true
	}
	return c, nil
}

// documentKey is where the store keeps the document of a client that some user
// has approved.
func documentKey(id string) string { return clientKey("document_" + textHash(id)) }

// keepDocument stores the document of c as approved, until no grant of it can
// live any more.
func (s *Server) keepDocument(ctx context.Context, c *client) error {
	kept := *c
	kept.Approved = true
	value, err := json.Marshal(kept)
	if err != nil {
		return fmt.Errorf("encode client: %w", err)
	}
	key, until := documentKey(c.ID), s.now().Add(s.opts.RefreshAbsolute+registrationTTL)
	if err := s.put(ctx, store.Record{Key: key, Value: value, Expires: until}); err != nil {
		return storeError("keep client document", err)
	}
	return nil
}

// put stores a record, in the place of one that may be there.
func (s *Server) put(ctx context.Context, r store.Record) (err error) {
	for range 3 { // the record may expire or appear between the two
		if err = s.store.Create(ctx, r); !errors.Is(err, store.ErrExists) {
			return err
		}
		_, err = s.store.Update(ctx, r.Key, func(store.Record) ([]byte, time.Time, error) { return r.Value, r.Expires, nil })
		if !errors.Is(err, store.ErrNotFound) {
			return err
		}
	}
	return err
}

// renewDocument replaces the stored copy, best effort: it is a copy.
func (s *Server) renewDocument(ctx context.Context, c *client) {
	kept := *c
	kept.Approved = true
	value, err := json.Marshal(kept)
	if err == nil {
		_, err = s.store.Update(ctx, documentKey(c.ID), func(old store.Record) ([]byte, time.Time, error) { return value, old.Expires, nil })
	}
	if err != nil {
		s.log.WarnContext(ctx, "renew client document", "client", c.ID, "error", err)
	}
}

// consentMark changes with everything that a user's approval of c rested on:
// where codes may go and who may redeem them.
func (c *client) consentMark() []byte {
	list := slices.Sorted(slices.Values(c.RedirectURIs))
	mark, err := json.Marshal([]any{list, c.AuthMethod, c.Public, c.JWKSURI, c.JWKS})
	if err != nil {
		panic("authserver: encode client: " + err.Error()) // strings and a checked JSON text
	}
	return hash(mark)
}

func sameMark(a, b []byte) bool { return len(a) > 0 && bytes.Equal(a, b) }

// findClient is loadClient for an id that a request names: an address that
// would have to be fetched is counted against whoever asks.
func (s *Server) findClient(r *http.Request, id string) (*client, error) {
	if isDocumentID(id) && s.fixed[id] == nil && !s.clientDocs.peek(id) {
		if retry, ok := s.limits.fetch.allow(newParty(s.peerAddr(r), ""), s.now()); !ok {
			return nil, tooManyRequests(retry)
		}
	}
	return s.loadClient(r.Context(), id)
}
