package oauthclient

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/mcp-clerk/mcp-clerk/internal/secret"
)

// tokenAnswer is a successful answer of a token endpoint (RFC 6749 section
// 5.1), made safe.
type tokenAnswer struct {
	accessToken  secret.String
	refreshToken secret.String
	expiresIn    time.Duration // 0: not said
	scopes       []string      // nil: as asked for
	account      string
}

// tokenRequest posts form to the token endpoint as the client of r.
func (c *Client) tokenRequest(ctx context.Context, endpoint string, r registration, form url.Values) (*tokenAnswer, error) {
	a, err := c.postForm(ctx, endpoint, r, form)
	if err != nil {
		return nil, err
	}
	var got struct {
		Error        string          `json:"error"`
		AccessToken  string          `json:"access_token"`
		TokenType    string          `json:"token_type"`
		RefreshToken string          `json:"refresh_token"`
		ExpiresIn    json.RawMessage `json:"expires_in"`
		Scope        json.RawMessage `json:"scope"`
		IDToken      json.RawMessage `json:"id_token"`
		accountMembers
	}
	if !a.ok() {
		return nil, answerError(a)
	}
	if err := decodeJSON(a, &got); err != nil {
		return nil, fmt.Errorf("token endpoint %q: %w", hostOf(endpoint), err)
	}
	if got.Error != "" {
		return nil, answerError(a) // some answer errors with status 200
	}
	if got.AccessToken == "" || !sendable(got.AccessToken) {
		return nil, fmt.Errorf("token endpoint %q answers without a usable access_token", hostOf(endpoint))
	}
	if got.TokenType != "" && !strings.EqualFold(got.TokenType, "Bearer") {
		return nil, fmt.Errorf("token endpoint %q issues tokens of type %q, not Bearer", hostOf(endpoint), printable(got.TokenType))
	}
	answer := &tokenAnswer{accessToken: secret.String(got.AccessToken), expiresIn: lifetime(got.ExpiresIn)}
	if sendable(got.RefreshToken) {
		answer.refreshToken = secret.String(got.RefreshToken)
	}
	var scope string
	if json.Unmarshal(got.Scope, &scope) == nil && scope != "" {
		answer.scopes = validScopes(scope)
	}
	answer.account = got.account()
	var idToken string
	if json.Unmarshal(got.IDToken, &idToken) != nil {
		idToken = ""
	}
	if answer.account == "" {
		answer.account = accountOf(idToken)
	}
	if c.opts.UseIDToken {
		c.useIDToken(answer, idToken)
	}
	return answer, nil
}

// useIDToken puts the id_token in the access token's place, with its own expiry.
func (c *Client) useIDToken(answer *tokenAnswer, idToken string) {
	var claims struct {
		Expires json.RawMessage `json:"exp"`
	}
	if idToken == "" || !sendable(idToken) || !claimsOf(idToken, &claims) {
		c.notice("the authorization server sends no id_token, so that the access token is used; ask for it with the scope openid")
		return
	}
	answer.accessToken, answer.expiresIn = secret.String(idToken), 0
	if at, ok := number(claims.Expires); ok && at > 0 {
		answer.expiresIn = max(time.Unix(int64(min(at, 1<<40)), 0).Sub(c.opts.Now()), time.Second)
	}
}

func (c *Client) postForm(ctx context.Context, endpoint string, r registration, form url.Values) (*answer, error) {
	header := http.Header{}
	if r.Static && r.ClientID == c.opts.ClientID && c.opts.ClientSecret != "" {
		r.ClientSecret = c.opts.ClientSecret // it may have been changed since the sign-in
	}
	switch r.AuthMethod {
	case "client_secret_basic":
		// Both parts are form-encoded first (RFC 6749 section 2.3.1).
		user, pass := url.QueryEscape(r.ClientID), url.QueryEscape(r.ClientSecret.Reveal())
		header.Set("Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(user+":"+pass)))
	case "client_secret_post":
		form.Set("client_id", r.ClientID)
		form.Set("client_secret", r.ClientSecret.Reveal())
	case methodPrivateKey:
		assertion, err := c.assertion(r)
		if err != nil {
			return nil, err
		}
		form.Set("client_id", r.ClientID)
		form.Set("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer")
		form.Set("client_assertion", assertion)
	default:
		form.Set("client_id", r.ClientID)
	}
	return c.http.post(ctx, endpoint, "application/x-www-form-urlencoded", []byte(form.Encode()), header)
}

// answerError turns an answer that is no success into an error: *Error where
// it has the form of RFC 6749 section 5.2, which alone says something about the
// credential.
func answerError(a *answer) error {
	var got struct {
		Error       json.RawMessage `json:"error"`
		Description json.RawMessage `json:"error_description"`
	}
	var code, description string
	if json.Unmarshal(a.body, &got) == nil && json.Unmarshal(got.Error, &code) == nil && code != "" {
		_ = json.Unmarshal(got.Description, &description)
		return &Error{Code: printable(code), Description: printable(description), Status: a.status}
	}
	if a.status >= 300 && a.status < 400 {
		return &statusError{Status: a.status, text: "it redirects elsewhere, which is not followed"}
	}
	return &statusError{Status: a.status, text: http.StatusText(a.status)}
}

// statusError is an answer without an OAuth error in it: a proxy's page, an
// outage, an endpoint that moved.
type statusError struct {
	Status int
	text   string
}

func (e *statusError) Error() string { return fmt.Sprintf("status %d: %s", e.Status, e.text) }

// accountMembers are members of a token answer, or claims of an id_token, that
// name the user to a person. RFC 6749 section 5.1 lets servers add members.
type accountMembers struct {
	Email             json.RawMessage `json:"email"`
	PreferredUsername json.RawMessage `json:"preferred_username"`
	Subject           json.RawMessage `json:"sub"`
}

func (m *accountMembers) account() string {
	for _, raw := range []json.RawMessage{m.Email, m.PreferredUsername, m.Subject} {
		var s string
		if json.Unmarshal(raw, &s) == nil && s != "" {
			return printable(s)
		}
	}
	return ""
}

// accountOf reads the account out of an id_token for display. It came from the
// token endpoint itself over TLS, which OpenID Connect Core section 3.1.3.7
// accepts in place of the signature; nothing is decided by it.
func accountOf(idToken string) string {
	var m accountMembers
	if !claimsOf(idToken, &m) {
		return ""
	}
	return m.account()
}

// claimsOf reads the claims of a JWT whose signature nobody here can check.
func claimsOf(token string, into any) bool {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return false
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	return err == nil && json.Unmarshal(payload, into) == nil
}

// sendable reports whether a token can stand in a header: visible ASCII.
func sendable(token string) bool {
	const most = 64 << 10
	if len(token) > most {
		return false
	}
	for i := range len(token) {
		if token[i] < 0x21 || token[i] > 0x7e {
			return false
		}
	}
	return true
}

// lifetime normalises expires_in, which comes as number, string, float,
// negative, absurd or not at all. 0 stands for "not said"; a server that says
// zero or less does not know either, and its token is used until refused.
func lifetime(raw json.RawMessage) time.Duration {
	seconds, ok := number(raw)
	if !ok || seconds < 1 {
		return 0
	}
	const most = 10 * 365 * 24 * time.Hour
	return time.Duration(min(seconds, most.Seconds())) * time.Second
}

// number reads a JSON number or a string that holds one.
func number(raw json.RawMessage) (float64, bool) {
	text := strings.Trim(string(raw), `"`)
	f, err := strconv.ParseFloat(strings.TrimSpace(text), 64)
	if err != nil && !errors.Is(err, strconv.ErrRange) || math.IsNaN(f) {
		return 0, false
	}
	return f, true
}

func hostOf(endpoint string) string {
	u, err := url.Parse(endpoint)
	if err != nil {
		return ""
	}
	return u.Host
}
