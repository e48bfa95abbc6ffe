package authserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/mcp-clerk/mcp-clerk/internal/store"
)

// Grant types (RFC 6749 sections 4.1.3 and 6); see also grantTypeDevice.
const (
	grantTypeCode    = "authorization_code"
	grantTypeRefresh = "refresh_token"
)

// client is a registered client, the record client/ID.
type client struct {
	ID              string   `json:"id"`
	Name            string   `json:"name,omitempty"`
	RedirectURIs    []string `json:"redirect_uris"` // loopback ones without their port
	AuthMethod      string   `json:"auth_method"`
	Public          bool     `json:"public,omitempty"` // may also come without authentication
	SecretHash      []byte   `json:"secret_hash,omitempty"`
	GrantTypes      []string `json:"grant_types"`
	ClientURI       string   `json:"client_uri,omitempty"`
	LogoURI         string   `json:"logo_uri,omitempty"`
	SoftwareID      string   `json:"software_id,omitempty"`
	SoftwareVersion string   `json:"software_version,omitempty"`
	Created         int64    `json:"created"`            // unix seconds
	Approved        bool     `json:"approved,omitempty"` // some user has consented
	Fresh           int64    `json:"fresh,omitempty"`    // unix seconds; a document: until when it need not be fetched
	JWKSURI         string   `json:"jwks_uri,omitempty"`

	JWKS json.RawMessage `json:"jwks,omitempty"`

	// verified says that the client's domain is proven, which dynamic
	// registration cannot do, or that the operator vouches for it.
	verified bool
	fixed    bool // of the configuration, not of the store
}

var errUnknownClient = errors.New("unknown client")

func clientKey(id string) string { return "client/" + id }

// maxClientID bounds what is looked up.
const maxClientID = 512

// loadClient returns the client with this id: of the configuration, described
// by the document at that address, or registered. It reports errUnknownClient,
// errNotAdmitted, or an error of the store.
func (s *Server) loadClient(ctx context.Context, id string) (c *client, err error) {
	switch {
	case s.fixed[id] != nil:
		return s.fixed[id], nil
	case isDocumentID(id):
		if s.admission.policy == AdmitConfigured {
			return nil, errNotAdmitted
		}
		if s.admission.policy == AdmitListed && !s.admission.lists(id) {
			return nil, errNotAdmitted // and nothing is fetched
		}
		c, err = s.documentClient(ctx, id)
	case !plainClientID(id) || !strings.HasPrefix(id, prefixClient):
		return nil, errUnknownClient
	default:
		c, err = s.storedClient(ctx, clientKey(id))
	}
	if err != nil {
		return nil, err
	}
	return c, s.admission.admit(c)
}

// plainClientID reports an id that can be a piece of a store key.
func plainClientID(id string) bool {
	return id != "" && len(id) <= maxClientID && !strings.ContainsFunc(id, func(r rune) bool { return r <= ' ' || r > '~' || r == '/' })
}

func (s *Server) storedClient(ctx context.Context, key string) (*client, error) {
	rec, err := s.store.Get(ctx, key)
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
	switch {
	case c.fixed:
		return nil
	case isDocumentID(c.ID):
		return s.keepDocument(ctx, c)
	}
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

// confidential reports a client that nobody else can pose as.
func (c *client) confidential() bool { return c.AuthMethod != methodNone && !c.Public }

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
