package oauthclient

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/mcp-clerk/mcp-clerk/internal/secret"
)

// credential is the outcome of a sign-in and what is needed to keep it alive.
// Tokens and registration are bound to the issuer, resource and client that
// stand beside them: they are sealed as one.
type credential struct {
	Server   string
	Resource string // sent as the resource parameter (RFC 8707); "" for none
	Issuer   string

	TokenEndpoint      string
	RevocationEndpoint string
	Registration       registration

	AccessToken  secret.String
	RefreshToken secret.String
	Requested    []string // scopes that were asked for
	Granted      []string // scopes that were given
	Account      string   // who signed in, where the server says so

	Obtained time.Time // when AccessToken was issued
	Expires  time.Time // zero: the server did not say
	SignedIn time.Time // when the user last took part
}

// registration is the client as the issuer knows it.
type registration struct {
	ClientID     string
	ClientSecret secret.String
	AuthMethod   string // token_endpoint_auth_method
	RedirectURI  string
	Audience     string    // of assertions: the issuer
	Expires      time.Time // of the registration; zero: never
	Static       bool      // registered beforehand or by a metadata document
	// Suspect says that the authorization server may have forgotten the client:
	// a grant was void, or a sign-in with it never came back.
	Suspect bool
}

// credentialVersion is the version of the stored form. A newer one is left
// alone.
const credentialVersion = 1

// storedCredential is the form in the store. The secret type redacts itself
// in every encoding, so that plain strings are needed here and nowhere else.
type storedCredential struct {
	Version            int                `json:"version"`
	Server             string             `json:"server"`
	Resource           string             `json:"resource,omitempty"`
	Issuer             string             `json:"issuer,omitempty"`
	TokenEndpoint      string             `json:"token_endpoint,omitempty"`
	RevocationEndpoint string             `json:"revocation_endpoint,omitempty"`
	Registration       storedRegistration `json:"registration,omitzero"`
	AccessToken        string             `json:"access_token,omitempty"`
	RefreshToken       string             `json:"refresh_token,omitempty"`
	Requested          []string           `json:"requested_scopes,omitempty"`
	Granted            []string           `json:"granted_scopes,omitempty"`
	Account            string             `json:"account,omitempty"`
	Obtained           int64              `json:"obtained,omitempty"` // Unix seconds, as the others
	Expires            int64              `json:"expires,omitempty"`
	SignedIn           int64              `json:"signed_in,omitempty"`
}

type storedRegistration struct {
	ClientID     string `json:"client_id,omitempty"`
	ClientSecret string `json:"client_secret,omitempty"`
	AuthMethod   string `json:"auth_method,omitempty"`
	RedirectURI  string `json:"redirect_uri,omitempty"`
	Audience     string `json:"audience,omitempty"`
	Expires      int64  `json:"expires,omitempty"`
	Static       bool   `json:"static,omitempty"`
	Suspect      bool   `json:"suspect,omitempty"`
}

func (c *credential) encode() ([]byte, error) {
	return json.Marshal(storedCredential{
		Version: credentialVersion,
		Server:  c.Server, Resource: c.Resource, Issuer: c.Issuer,
		TokenEndpoint: c.TokenEndpoint, RevocationEndpoint: c.RevocationEndpoint,
		Registration: c.Registration.stored(),
		AccessToken:  c.AccessToken.Reveal(), RefreshToken: c.RefreshToken.Reveal(),
		Requested: c.Requested, Granted: c.Granted, Account: c.Account,
		Obtained: unix(c.Obtained), Expires: unix(c.Expires), SignedIn: unix(c.SignedIn),
	})
}

// decodeCredential returns nil for no data.
func decodeCredential(data []byte) (*credential, error) {
	if len(data) == 0 {
		return nil, nil
	}
	var s storedCredential
	if err := json.Unmarshal(data, &s); err != nil {
		return nil, errors.New("the stored credential makes no sense")
	}
	if s.Version != credentialVersion {
		return nil, fmt.Errorf("the stored credential has version %d, which this version does not know", s.Version)
	}
	return &credential{
		Server: s.Server, Resource: s.Resource, Issuer: s.Issuer,
		TokenEndpoint: s.TokenEndpoint, RevocationEndpoint: s.RevocationEndpoint,
		Registration: s.Registration.registration(),
		AccessToken:  secret.String(s.AccessToken), RefreshToken: secret.String(s.RefreshToken),
		Requested: s.Requested, Granted: s.Granted, Account: s.Account,
		Obtained: fromUnix(s.Obtained), Expires: fromUnix(s.Expires), SignedIn: fromUnix(s.SignedIn),
	}, nil
}

func (r registration) stored() storedRegistration {
	return storedRegistration{
		ClientID: r.ClientID, ClientSecret: r.ClientSecret.Reveal(), AuthMethod: r.AuthMethod,
		RedirectURI: r.RedirectURI, Audience: r.Audience, Expires: unix(r.Expires), Static: r.Static, Suspect: r.Suspect,
	}
}

func (s storedRegistration) registration() registration {
	return registration{
		ClientID: s.ClientID, ClientSecret: secret.String(s.ClientSecret), AuthMethod: s.AuthMethod,
		RedirectURI: s.RedirectURI, Audience: s.Audience, Expires: fromUnix(s.Expires), Static: s.Static, Suspect: s.Suspect,
	}
}

// Times are kept as wall clock seconds: a monotonic reading stands still while
// the machine sleeps.
func unix(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.Unix()
}

func fromUnix(s int64) time.Time {
	if s == 0 {
		return time.Time{}
	}
	return time.Unix(s, 0)
}

// due reports whether the access token should be renewed: within a minute of
// its expiry, or in the second half of a life shorter than two minutes.
func (c *credential) due(now time.Time) bool {
	if c.Expires.IsZero() {
		return false
	}
	margin := min(refreshMargin, c.Expires.Sub(c.Obtained)/2)
	return now.Round(0).After(c.Expires.Add(-margin)) || c.expired(now)
}

func (c *credential) expired(now time.Time) bool {
	return !c.Expires.IsZero() && !now.Round(0).Before(c.Expires)
}

// withoutTokens is what remains of a void grant: the registration, which may
// or may not be void too.
func (c *credential) withoutTokens() *credential {
	rest := *c
	rest.AccessToken, rest.RefreshToken = "", ""
	rest.Requested, rest.Granted, rest.Account = nil, nil, ""
	rest.Obtained, rest.Expires, rest.SignedIn = time.Time{}, time.Time{}, time.Time{}
	rest.Registration.Suspect = true
	return &rest
}

func containsAll(have, wanted []string) bool {
	for _, s := range wanted {
		if !slices.Contains(have, s) {
			return false
		}
	}
	return true
}

// validScopes splits a scope value into its tokens, leaving out what RFC 6749
// section 3.3 does not allow, repetitions, and more than anyone needs.
func validScopes(value string) []string {
	const maxScopes, maxLength = 100, 256
	var scopes []string
	for _, s := range strings.Fields(value) {
		ok := len(s) <= maxLength && !slices.Contains(scopes, s)
		for i := 0; ok && i < len(s); i++ {
			ok = s[i] >= 0x21 && s[i] <= 0x7e && s[i] != '"' && s[i] != '\\'
		}
		if ok && len(scopes) < maxScopes {
			scopes = append(scopes, s)
		}
	}
	return scopes
}

func union(a, b []string) []string {
	u := slices.Clone(a)
	for _, s := range b {
		if !slices.Contains(u, s) {
			u = append(u, s)
		}
	}
	return u
}
