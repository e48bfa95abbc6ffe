package oauthclient

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/mcp-clerk/mcp-clerk/internal/secret"
)

// register obtains a client id at the authorization server, in the order of
// revision 2026-07-28: registered beforehand, client metadata document, dynamic
// registration. A server of ours that registers nobody has an id for us all the
// same.
func (c *Client) register(ctx context.Context, m *serverMetadata, redirectURI string) (registration, error) {
	switch {
	case c.opts.ClientID != "":
		r := registration{ClientID: c.opts.ClientID, ClientSecret: c.opts.ClientSecret, RedirectURI: redirectURI, Audience: m.Issuer, Static: true}
		switch {
		case c.opts.AuthMethod != "":
			r.AuthMethod = c.opts.AuthMethod
		case c.opts.ClientKey != nil:
			r.AuthMethod = methodPrivateKey
		default:
			r.AuthMethod = authMethod(m, r.ClientSecret != "")
		}
		return r, nil
	case c.usesDocument(m):
		return registration{ClientID: c.opts.ClientMetadataURL, AuthMethod: "none", RedirectURI: redirectURI, Static: true}, nil
	case m.RegistrationEndpoint == "" && m.ConnectClient != "":
		return registration{ClientID: m.ConnectClient, AuthMethod: "none", RedirectURI: redirectURI, Static: true}, nil
	case m.RegistrationEndpoint == "":
		return registration{}, fmt.Errorf("authorization server %q registers no clients by itself: a client id has to be obtained from whoever runs it", printable(m.Issuer))
	}
	method := "none"
	if len(m.AuthMethods) > 0 && !slices.Contains(m.AuthMethods, "none") {
		method = authMethod(m, true)
	}
	if c.opts.AuthMethod != "" {
		method = c.opts.AuthMethod
	}
	grants := []string{"authorization_code", "refresh_token"}
	if c.opts.Flow == FlowDevice {
		grants = append(grants, deviceGrant)
	}
	metadata := map[string]any{
		"client_name":                c.opts.ClientName,
		"redirect_uris":              []string{redirectURI},
		"grant_types":                grants,
		"response_types":             []string{"code"},
		"token_endpoint_auth_method": method,
		// OpenID Connect servers take a missing application_type for "web" and
		// refuse loopback redirects then.
		"application_type": "native",
	}
	for name, value := range c.opts.ClientMetadata {
		if name != "redirect_uris" && name != "scope" { // which have options of their own
			metadata[name] = value
		}
	}
	body, err := json.Marshal(metadata)
	if err != nil {
		return registration{}, err
	}
	a, err := c.http.post(ctx, m.RegistrationEndpoint, "application/json", body, nil)
	if err != nil {
		return registration{}, fmt.Errorf("register at %q: %w", printable(m.Issuer), err)
	}
	if !a.ok() {
		return registration{}, fmt.Errorf("register at %q: %w", printable(m.Issuer), answerError(a))
	}
	var got struct {
		ClientID     string          `json:"client_id"`
		ClientSecret string          `json:"client_secret"`
		AuthMethod   string          `json:"token_endpoint_auth_method"`
		Expires      json.RawMessage `json:"client_secret_expires_at"`
	}
	if err := decodeJSON(a, &got); err != nil {
		return registration{}, fmt.Errorf("register at %q: %w", printable(m.Issuer), err)
	}
	if got.ClientID == "" {
		return registration{}, fmt.Errorf("register at %q: the answer has no client_id", printable(m.Issuer))
	}
	r := registration{
		ClientID: got.ClientID, ClientSecret: secret.String(got.ClientSecret),
		AuthMethod: got.AuthMethod, RedirectURI: redirectURI,
	}
	switch {
	case r.ClientSecret == "":
		r.AuthMethod = "none"
	case r.AuthMethod == "":
		r.AuthMethod = "client_secret_basic" // the default of RFC 7591 section 2
	}
	// The secret's expiry is the registration's (RFC 7591 section 3.2.1); 0 is
	// never.
	if at, ok := number(got.Expires); ok && at > 0 && r.ClientSecret != "" {
		r.Expires = time.Unix(int64(min(at, 1<<40)), 0)
	}
	return r, nil
}

// usesDocument reports whether the client is known to the server by its
// metadata document.
func (c *Client) usesDocument(m *serverMetadata) bool {
	return c.opts.ClientID == "" && c.opts.ClientMetadataURL != "" && bool(m.ClientMetadataDocument)
}

// authMethod chooses how the client proves itself at the token endpoint.
func authMethod(m *serverMetadata, hasSecret bool) string {
	if !hasSecret {
		return "none"
	}
	for _, method := range []string{"client_secret_basic", "client_secret_post"} {
		if len(m.AuthMethods) == 0 || slices.Contains(m.AuthMethods, method) {
			return method
		}
	}
	return "client_secret_basic"
}

// usable reports whether the registration can serve another sign-in at issuer.
func (r *registration) usable(now time.Time) bool {
	return r.ClientID != "" && !r.Suspect && !r.Static && (r.Expires.IsZero() || now.Before(r.Expires))
}
