package oauthclient

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// resourceMetadata is the part of RFC 9728 metadata that a client needs.
type resourceMetadata struct {
	Resource             string     `json:"resource"`
	AuthorizationServers stringList `json:"authorization_servers"`
	ScopesSupported      stringList `json:"scopes_supported"`
}

// serverMetadata is the part of RFC 8414 metadata that a client needs.
type serverMetadata struct {
	Issuer                 string      `json:"issuer"`
	AuthorizationEndpoint  string      `json:"authorization_endpoint"`
	TokenEndpoint          string      `json:"token_endpoint"`
	RegistrationEndpoint   string      `json:"registration_endpoint"`
	RevocationEndpoint     string      `json:"revocation_endpoint"`
	DeviceEndpoint         string      `json:"device_authorization_endpoint"`
	ScopesSupported        stringList  `json:"scopes_supported"`
	ChallengeMethods       stringList  `json:"code_challenge_methods_supported"`
	AuthMethods            stringList  `json:"token_endpoint_auth_methods_supported"`
	IssParameterSupported  lenientBool `json:"authorization_response_iss_parameter_supported"`
	ClientMetadataDocument lenientBool `json:"client_id_metadata_document_supported"`
	// ConnectClient is what "mcp-clerk serve" says beyond the standard: the
	// client id that this program has there without registering.
	ConnectClient string `json:"mcp_clerk_connect_client"`
}

// stringList reads a list of strings and takes anything else for none: a fault
// in a member that may not even matter must not hide the document.
type stringList []string

func (l *stringList) UnmarshalJSON(raw []byte) error {
	var list []string
	if json.Unmarshal(raw, &list) == nil {
		*l = list
	}
	return nil
}

type lenientBool bool

func (b *lenientBool) UnmarshalJSON(raw []byte) error {
	*b = string(raw) == "true"
	return nil
}

// discovery is what a sign-in starts from.
type discovery struct {
	resource        string   // for the resource parameter, as published
	scopesSupported []string // of the resource
	server          serverMetadata
}

// maxIssuers bounds how many of the listed authorization servers are tried.
const maxIssuers = 5

// discoverFor is discover with what the options say in place of it.
func (c *Client) discoverFor(ctx context.Context, challenge *Challenge) (*discovery, error) {
	var d *discovery
	if c.opts.TokenEndpoint != "" {
		u, err := c.http.parse(c.opts.TokenEndpoint)
		if err != nil {
			return nil, fmt.Errorf("token endpoint: %w", err)
		}
		d = &discovery{server: serverMetadata{Issuer: origin(u), TokenEndpoint: u.String()}}
	} else {
		var err error
		if d, err = c.discover(ctx, challenge); err != nil {
			return nil, err
		}
	}
	if c.opts.Resource != "" {
		d.resource = c.opts.Resource
	}
	if c.opts.NoResource {
		d.resource = ""
	}
	return d, nil
}

// discover finds the authorization server of the MCP server (revision
// 2026-07-28, Authorization Server Discovery). challenge is that of the
// server's refusal, or nil when there was none.
func (c *Client) discover(ctx context.Context, challenge *Challenge) (*discovery, error) {
	resource, err := c.resourceMetadata(ctx, challenge)
	if err != nil {
		return nil, err
	}
	if resource == nil || len(resource.AuthorizationServers) == 0 {
		return c.discoverOnServer(ctx, resource)
	}
	var errs []error
	for _, issuer := range resource.AuthorizationServers[:min(len(resource.AuthorizationServers), maxIssuers)] {
		meta, err := c.serverMetadata(ctx, issuer, func(string) bool { return false })
		if err == nil && meta == nil {
			err = fmt.Errorf("authorization server %q publishes no metadata", printable(issuer))
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		return c.checked(&discovery{resource: resource.Resource, scopesSupported: resource.ScopesSupported, server: *meta})
	}
	return nil, errors.Join(errs...)
}

// discoverOnServer is for servers of revision 2025-03-26, which have no
// protected resource metadata: the authorization server is the root of the MCP
// server, with default endpoints where it publishes nothing.
func (c *Client) discoverOnServer(ctx context.Context, resource *resourceMetadata) (*discovery, error) {
	root := (&url.URL{Scheme: c.server.Scheme, Host: c.server.Host}).String()
	d := &discovery{resource: canonicalResource(c.server)}
	if resource != nil {
		d.resource, d.scopesSupported = resource.Resource, resource.ScopesSupported
	}
	meta, err := c.serverMetadata(ctx, root, func(published string) bool {
		// Nobody has written this issuer anywhere, it is derived. What the same
		// origin says of itself is as good.
		u, err := url.Parse(published)
		return err == nil && origin(u) == origin(c.server) && c.http.check(u) == nil
	})
	if err != nil {
		return nil, err
	}
	if meta == nil {
		d.server = serverMetadata{
			Issuer:                root,
			AuthorizationEndpoint: root + "/authorize",
			TokenEndpoint:         root + "/token",
			RegistrationEndpoint:  root + "/register",
			// Nothing is published that could deny it, and that revision
			// demands PKCE of every server.
			ChallengeMethods: []string{"S256"},
		}
		return c.checked(d)
	}
	d.server = *meta
	return c.checked(d)
}

// canonicalResource is the server's own URL as resource parameter where it
// publishes none, without the trailing slash of an empty path.
func canonicalResource(server *url.URL) string {
	u := *server
	if u.Path == "/" {
		u.Path, u.RawPath = "", ""
	}
	return u.String()
}

// checked refuses a discovery that a sign-in must not go on with.
func (c *Client) checked(d *discovery) (*discovery, error) {
	m := &d.server
	needed := map[string]string{"token_endpoint": m.TokenEndpoint}
	switch c.opts.Flow {
	case FlowBrowser:
		if !slices.Contains(m.ChallengeMethods, "S256") {
			return nil, fmt.Errorf("authorization server %q does not offer PKCE with S256, which is required", printable(m.Issuer))
		}
		needed["authorization_endpoint"] = m.AuthorizationEndpoint
	case FlowDevice:
		if m.DeviceEndpoint == "" {
			return nil, fmt.Errorf("authorization server %q does not offer the device flow (RFC 8628)", printable(m.Issuer))
		}
		needed["device_authorization_endpoint"] = m.DeviceEndpoint
	}
	for name, endpoint := range needed {
		if endpoint == "" {
			return nil, fmt.Errorf("authorization server %q has no %s", printable(m.Issuer), name)
		}
		if _, err := c.http.parse(endpoint); err != nil {
			return nil, fmt.Errorf("%s of %q: %w", name, printable(m.Issuer), err)
		}
	}
	// Opening is refused here already, before anything is registered.
	if c.opts.Flow == FlowBrowser {
		if _, err := BrowserURL(m.AuthorizationEndpoint); err != nil {
			return nil, fmt.Errorf("authorization_endpoint of %q: %w", printable(m.Issuer), err)
		}
	}
	return d, nil
}

// resourceMetadata returns nil where the server publishes none.
func (c *Client) resourceMetadata(ctx context.Context, challenge *Challenge) (*resourceMetadata, error) {
	var candidates []string
	if challenge != nil && challenge.ResourceMetadata != "" {
		u, err := c.http.parse(challenge.ResourceMetadata)
		if err != nil {
			return nil, fmt.Errorf("resource_metadata in the server's challenge: %w", err)
		}
		candidates = append(candidates, u.String())
	}
	for _, u := range wellKnown(c.server, "oauth-protected-resource") {
		if !slices.Contains(candidates, u) {
			candidates = append(candidates, u)
		}
	}
	for _, candidate := range candidates {
		a, err := c.http.get(ctx, candidate)
		if err != nil {
			return nil, err
		}
		if a.status >= 500 || a.status == http.StatusTooManyRequests {
			return nil, fmt.Errorf("metadata of %q: status %d", c.display(), a.status)
		}
		if !a.ok() {
			continue
		}
		var m resourceMetadata
		if err := decodeJSON(a, &m); err != nil || m.Resource == "" && len(m.AuthorizationServers) == 0 {
			continue // a page for people, or for a captive portal's guests
		}
		r, err := url.Parse(m.Resource)
		if err != nil || !covers(r, c.server) {
			// RFC 9728 section 3.3: this metadata must not be used, and neither
			// is a guess where the server has spoken.
			return nil, fmt.Errorf("metadata for %q is about another resource, %q", c.display(), printable(m.Resource))
		}
		return &m, nil
	}
	return nil, nil
}

// serverMetadata fetches the metadata of an issuer. It returns nil where none
// is published, and an error where what is published may not be used.
// The document's issuer must be issuer, or one that alike accepts.
func (c *Client) serverMetadata(ctx context.Context, issuer string, alike func(published string) bool) (*serverMetadata, error) {
	u, err := c.http.parse(issuer)
	if err != nil {
		return nil, fmt.Errorf("authorization server: %w", err)
	}
	if u.RawQuery != "" || u.ForceQuery {
		return nil, fmt.Errorf("authorization server %q has a query (RFC 8414 section 2)", displayURL(u))
	}
	candidates := wellKnown(u, "oauth-authorization-server")[:1]
	candidates = append(candidates, wellKnown(u, "openid-configuration")[0])
	if path := strings.TrimSuffix(u.EscapedPath(), "/"); path != "" {
		root := url.URL{Scheme: u.Scheme, Host: u.Host}
		candidates = append(candidates, root.String()+path+"/.well-known/openid-configuration")
	}
	var refused error
	for _, candidate := range candidates {
		a, err := c.http.get(ctx, candidate)
		if err != nil {
			return nil, err
		}
		if a.status >= 500 || a.status == http.StatusTooManyRequests {
			refused = fmt.Errorf("metadata of authorization server %q: status %d", displayURL(u), a.status)
			continue
		}
		var m serverMetadata
		if !a.ok() || decodeJSON(a, &m) != nil {
			continue
		}
		// RFC 8414 section 3.3: identical, so nothing is normalised.
		if m.Issuer != issuer && !alike(m.Issuer) {
			refused = fmt.Errorf("authorization server %q publishes metadata of another issuer, %q", displayURL(u), printable(m.Issuer))
			continue
		}
		return &m, nil
	}
	return nil, refused
}

// wellKnown returns the well-known URLs of u: with its path inserted (RFC 8414
// section 3.1, RFC 9728 section 3.1), then at the root.
func wellKnown(u *url.URL, suffix string) []string {
	root := (&url.URL{Scheme: u.Scheme, Host: u.Host}).String() + "/.well-known/" + suffix
	path := strings.TrimSuffix(u.EscapedPath(), "/")
	if path == "" {
		return []string{root}
	}
	return []string{root + path, root}
}
