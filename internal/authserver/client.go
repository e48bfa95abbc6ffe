package authserver

import (
	"context"
	"crypto/subtle"
	"encoding/base64"
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

// Client authentication methods (RFC 7591 section 2) and grant types.
const (
	methodNone  = "none"
	methodBasic = "client_secret_basic"
	methodPost  = "client_secret_post"

	grantTypeCode    = "authorization_code"
	grantTypeRefresh = "refresh_token"
)

// client is a registered client, the record client/ID.
type client struct {
	ID              string   `json:"id"`
	Name            string   `json:"name,omitempty"`
	RedirectURIs    []string `json:"redirect_uris"` // loopback ones without their port
	AuthMethod      string   `json:"auth_method"`
	SecretHash      []byte   `json:"secret_hash,omitempty"`
	GrantTypes      []string `json:"grant_types"`
	ClientURI       string   `json:"client_uri,omitempty"`
	LogoURI         string   `json:"logo_uri,omitempty"`
	SoftwareID      string   `json:"software_id,omitempty"`
	SoftwareVersion string   `json:"software_version,omitempty"`
	Created         int64    `json:"created"`            // unix seconds
	Approved        bool     `json:"approved,omitempty"` // some user has consented

	// verified says that the client's domain is proven, which dynamic
	// registration cannot do.
	verified bool
}

var errUnknownClient = errors.New("unknown client")

func clientKey(id string) string { return "client/" + id }

// maxClientID bounds what is looked up.
const maxClientID = 512

// loadClient returns the client with this id, errUnknownClient, or an error
// of the store.
func (s *Server) loadClient(ctx context.Context, id string) (*client, error) {
	if !strings.HasPrefix(id, prefixClient) || len(id) > maxClientID || strings.ContainsFunc(id, func(r rune) bool { return r <= ' ' || r > '~' || r == '/' }) {
		return nil, errUnknownClient
	}
	rec, err := s.store.Get(ctx, clientKey(id))
	if errors.Is(err, store.ErrNotFound) {
		return nil, errUnknownClient
	}
	if err != nil {
		return nil, storeError("read client", err)
	}
	return decodeClient(rec.Value)
}

func decodeClient(value []byte) (*client, error) {
	c := &client{}
	if err := json.Unmarshal(value, c); err != nil {
		return nil, fmt.Errorf("decode client record: %w", err)
	}
	return c, nil
}

// markApproved records that a user consented to c, before the first grant of
// that consent exists, so that no registration with a grant expires as unused.
// No grant outlives the absolute life, and nor need the client.
func (s *Server) markApproved(ctx context.Context, c *client) error {
	until := s.now().Add(s.opts.RefreshAbsolute + registrationTTL)
	_, err := s.store.Update(ctx, clientKey(c.ID), func(old store.Record) ([]byte, time.Time, error) {
		stored, err := decodeClient(old.Value)
		if err != nil {
			return nil, time.Time{}, err
		}
		stored.Approved = true
		value, err := json.Marshal(stored)
		return value, later(old.Expires, until), err
	})
	if errors.Is(err, store.ErrNotFound) {
		return errUnknownClient
	}
	if err != nil {
		return storeError("mark client approved", err)
	}
	return nil
}

// later is the later of two expiries, of which zero is never.
func later(a, b time.Time) time.Time {
	if a.IsZero() || a.After(b) {
		return a
	}
	return b
}

// allowsRefresh reports whether the client gets refresh tokens: it registered
// for them, or asks for offline_access.
func (c *client) allowsRefresh(scopes []string) bool {
	return slices.Contains(c.GrantTypes, grantTypeRefresh) || slices.Contains(scopes, ScopeOffline)
}

// findRedirect returns the redirect URI to use for a request that names
// requested ("" if it names none), or an error that a person is shown: without
// a redirect URI that belongs to the client there is nobody else to tell.
func (s *Server) findRedirect(c *client, requested string) (string, error) {
	if requested == "" {
		if len(c.RedirectURIs) == 1 {
			if kind, err := s.redirects.check(c.RedirectURIs[0]); err == nil && kind != redirectLoopback {
				return c.RedirectURIs[0], nil
			}
		}
		return "", errors.New("it does not say where to return to")
	}
	if _, err := s.redirects.check(requested); err != nil {
		return "", fmt.Errorf("the address to return to %w", err)
	}
	for _, registered := range c.RedirectURIs {
		if s.redirects.matches(registered, requested) {
			return requested, nil
		}
	}
	return "", errors.New("the address to return to is not one that it has registered")
}

// refusedClient is one answer for every way in which a client fails to
// authenticate, so that none of them tells which part was wrong.
func refusedClient(basic bool) *oauthError {
	return &oauthError{Status: http.StatusUnauthorized, Code: codeInvalidClient, Description: "client authentication failed", Basic: basic}
}

// authenticateClient identifies the client of a token or revocation request
// (RFC 6749 section 2.3): by HTTP Basic, by the body, or, for a public client,
// by its id alone.
func (s *Server) authenticateClient(r *http.Request, p params) (*client, error) {
	id, secret := p.get("client_id"), p.get("client_secret")
	headers := r.Header.Values("Authorization")
	basic := len(headers) > 0
	if len(headers) > 1 {
		return nil, invalidRequest("more than one Authorization header")
	}
	if basic {
		user, pass, ok := parseBasic(headers[0])
		if !ok {
			return nil, refusedClient(true)
		}
		if secret != "" {
			return nil, invalidRequest("more than one way of client authentication")
		}
		if id != "" && id != user {
			return nil, invalidRequest("client_id is not the client that authenticates")
		}
		id, secret = user, pass
	}
	if id == "" {
		return nil, refusedClient(basic)
	}
	c, err := s.loadClient(r.Context(), id)
	if errors.Is(err, errUnknownClient) {
		return nil, refusedClient(basic)
	}
	if err != nil {
		return nil, err
	}
	if c.AuthMethod == methodNone {
		if secret != "" {
			return nil, refusedClient(basic)
		}
		return c, nil
	}
	if subtle.ConstantTimeCompare(hash([]byte(secret)), c.SecretHash) != 1 {
		return nil, refusedClient(basic)
	}
	return c, nil
}

// parseBasic reads HTTP Basic credentials, whose parts OAuth form-encodes (RFC
// 6749 section 2.3.1).
func parseBasic(header string) (user, pass string, ok bool) {
	scheme, text, found := strings.Cut(header, " ")
	if !found || !strings.EqualFold(scheme, "Basic") || len(text) > 4096 {
		return "", "", false
	}
	raw, err := base64.StdEncoding.DecodeString(strings.TrimSpace(text))
	if err != nil {
		return "", "", false
	}
	user, pass, found = strings.Cut(string(raw), ":")
	if !found {
		return "", "", false
	}
	if user, err = url.QueryUnescape(user); err != nil {
		return "", "", false
	}
	if pass, err = url.QueryUnescape(pass); err != nil {
		return "", "", false
	}
	return user, pass, true
}
