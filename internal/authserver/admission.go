package authserver

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/mcp-clerk/mcp-clerk/internal/secret"
)

// Admission says which clients may use the server. One policy holds for those
// that register themselves (RFC 7591), those that a document describes and
// those of the configuration, and it holds at every request: a client that is
// not admitted any more can neither sign in nor refresh.
type Admission string

// The policies.
const (
	// AdmitOpen admits every client whose redirect URIs are safe.
	AdmitOpen Admission = "open"
	// AdmitListed admits clients whose documents and redirect URIs are on
	// Options.AdmittedHosts.
	AdmitListed Admission = "listed"
	// AdmitConfigured admits the clients of Options.Clients and the built-in
	// one; there is no registration and no document is fetched.
	AdmitConfigured Admission = "configured"
)

// HostLoopback on the list of hosts admits redirects to the user's own machine
// by clients that prove no domain.
const HostLoopback = "loopback"

// Client is a client of the configuration.
type Client struct {
	ID           string
	Name         string
	RedirectURIs []string
	// A client authenticates with a secret, of which SecretHash is an
	// alternative spelling, with a key, or not at all.
	Secret     secret.String
	SecretHash string          // SHA-256 of the secret, 64 hex digits
	JWKS       json.RawMessage // RFC 7517 section 5; public keys
	JWKSURI    string
	// Device lets the client use the device authorization grant (RFC 8628); it
	// may then do without redirect URIs.
	Device bool
}

// ConnectClient is the id of the built-in public client: a command on the
// user's machine that has no need to register.
const ConnectClient = "mcp-clerk-connect"

func connectClient() *client {
	return &client{
		ID: ConnectClient, Name: "mcp-clerk connect", AuthMethod: methodNone, GrantTypes: []string{grantTypeCode, grantTypeRefresh, grantTypeDevice},
		RedirectURIs: []string{"http://127.0.0.1/oauth/callback", "http://localhost/oauth/callback", "http://[::1]/oauth/callback"},
		fixed:        true,
	}
}

// admission is the policy as it was checked.
type admission struct {
	policy Admission
	hosts  []string
}

func newAdmission(policy Admission, hosts []string) (admission, error) {
	if policy == "" {
		policy = AdmitOpen
	}
	var faults []error
	if !slices.Contains([]Admission{AdmitOpen, AdmitListed, AdmitConfigured}, policy) {
		faults = append(faults, fmt.Errorf("admission %q is none of %s, %s, %s", policy, AdmitOpen, AdmitListed, AdmitConfigured))
	}
	if policy == AdmitListed && len(hosts) == 0 {
		faults = append(faults, errors.New("admission by list has no hosts"))
	}
	if policy != AdmitListed && len(hosts) > 0 {
		faults = append(faults, fmt.Errorf("admission %q has no use for a list of hosts", policy))
	}
	for _, h := range hosts {
		name := strings.TrimPrefix(h, "*.")
		if h != HostLoopback && (checkHost(name) != nil || strings.Contains(name, ":") || name != strings.ToLower(name) || name != h && !strings.Contains(name, ".")) {
			faults = append(faults, fmt.Errorf("%q is not a host name in lower case, nor one with *. in front", h))
		}
	}
	return admission{policy, hosts}, errors.Join(faults...)
}

var errNotAdmitted = errors.New("this server does not admit the client")

// admit reports whether c may use the server.
func (a admission) admit(c *client) error {
	switch {
	case c.fixed || a.policy == AdmitOpen:
		return nil
	case a.policy == AdmitConfigured:
		return errNotAdmitted
	}
	vouched := isDocumentID(c.ID)
	if vouched && !a.lists(c.ID) || c.JWKSURI != "" && !a.lists(c.JWKSURI) {
		return errNotAdmitted
	}
	if len(c.RedirectURIs) == 0 && !vouched && !slices.Contains(a.hosts, HostLoopback) {
		return errNotAdmitted // a device, of which nothing is proven
	}
	for _, uri := range c.RedirectURIs {
		if strings.HasPrefix(uri, "https:") {
			if !a.lists(uri) {
				return errNotAdmitted
			}
		} else if !vouched && !slices.Contains(a.hosts, HostLoopback) {
			return errNotAdmitted
		}
	}
	return nil
}

// lists reports whether the host of uri is on the list.
func (a admission) lists(uri string) bool {
	u, err := url.Parse(uri)
	if err != nil {
		return false
	}
	host := strings.ToLower(u.Hostname())
	return slices.ContainsFunc(a.hosts, func(h string) bool {
		if parent, ok := strings.CutPrefix(h, "*"); ok {
			return strings.HasSuffix(host, parent) && len(host) > len(parent)
		}
		return host == h && h != HostLoopback
	})
}

// checkInitialToken demands the initial access token of RFC 7591 section 3, if
// one is configured.
func (s *Server) checkInitialToken(r *http.Request) error {
	want := s.opts.RegistrationToken.Reveal()
	if want == "" {
		return nil
	}
	refused := &oauthError{Status: http.StatusUnauthorized, Code: "invalid_token", Description: "registration needs an initial access token", Bearer: true}
	list := r.Header.Values("Authorization")
	if len(list) != 1 {
		return refused
	}
	scheme, got, _ := strings.Cut(list[0], " ")
	if !strings.EqualFold(scheme, "Bearer") || !sameMark(hash([]byte(got)), hash([]byte(want))) {
		return refused
	}
	return nil
}

// fixedClients are the built-in client and those of the configuration.
func (s *Server) fixedClients(list []Client) (map[string]*client, error) {
	fixed := map[string]*client{ConnectClient: connectClient()}
	var faults []error
	for i, in := range list {
		name := fmt.Sprintf("client %q", in.ID)
		if in.ID == "" {
			name = fmt.Sprintf("client %d", i+1)
		}
		c, err := s.fixedClient(in)
		if err != nil {
			faults = append(faults, fmt.Errorf("%s: %w", name, err))
			continue
		}
		if fixed[c.ID] != nil {
			faults = append(faults, fmt.Errorf("%s comes twice or is the built-in one", name))
			continue
		}
		fixed[c.ID] = c
	}
	return fixed, errors.Join(faults...)
}

func (s *Server) fixedClient(in Client) (*client, error) {
	if !plainClientID(in.ID) || strings.HasPrefix(in.ID, prefixClient) || isDocumentID(in.ID) {
		return nil, errors.New("the id must be 1 to 512 printable ASCII characters without blanks and slashes, and none that this server gives out")
	}
	ways := 0
	method := methodNone
	for _, set := range []bool{in.Secret != "", in.SecretHash != ""} {
		if set {
			ways++
			method = methodBasic
		}
	}
	for _, set := range []bool{len(in.JWKS) > 0, in.JWKSURI != ""} {
		if set {
			ways++
			method = methodKey
		}
	}
	if ways > 1 {
		return nil, errors.New("more than one of secret, hash of a secret, keys, address of keys")
	}
	secretHash := hash([]byte(in.Secret.Reveal()))
	if in.SecretHash != "" {
		var err error
		if secretHash, err = decodeHash(in.SecretHash); err != nil {
			return nil, err
		}
	}
	var grantTypes []string
	if in.Device {
		grantTypes = []string{grantTypeRefresh, grantTypeDevice}
		if len(in.RedirectURIs) > 0 {
			grantTypes = append(grantTypes, grantTypeCode)
		}
	}
	c, err := s.newClient(&registration{RedirectURIs: in.RedirectURIs, Name: in.Name, AuthMethod: method, GrantTypes: grantTypes, JWKS: in.JWKS, JWKSURI: in.JWKSURI})
	if err != nil {
		return nil, errors.New(asOAuthError(err).Description)
	}
	c.ID, c.fixed, c.verified = in.ID, true, true
	if method == methodBasic {
		if in.Secret != "" && len(in.Secret) < 32 {
			return nil, errors.New("the secret has fewer than 32 characters")
		}
		c.SecretHash = secretHash
	}
	return c, nil
}
