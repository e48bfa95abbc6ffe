package clerk

import (
	"context"
	"crypto/sha256"
	"errors"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	clerksdk "github.com/clerk/clerk-sdk-go/v2"

	"github.com/mcp-clerk/mcp-clerk/internal/identity"
)

// The prefixes by which Clerk's tokens are told apart (clerk/javascript,
// packages/backend/src/tokens/machine.ts).
const (
	opaquePrefix  = "oat_" // an OAuth client's access token
	apiKeyPrefix  = "ak_"  // an API key of a user or an organisation
	machinePrefix = "mt_"  // a machine's token (M2M)
)

const (
	tokenAge     = 60 * time.Second // how long Clerk's word about a token counts, good or bad
	tokenFailAge = 2 * time.Second  // how long a failure spares Clerk the next question
	maxTokens    = 10_000
)

var (
	tokenForm   = form{prefixes: []string{"oat_", "ak_", "mt_"}, chars: idChars, least: 8, most: 256}
	orgForm     = form{prefixes: []string{"org_"}, chars: idChars, least: 1, most: 120}
	machineForm = form{prefixes: []string{"mch_"}, chars: idChars, least: 1, most: 120}
)

// IsUser reports whether a subject is a person.
func IsUser(subject string) bool { return strings.HasPrefix(subject, "user_") }

// IsOrganisation reports whether id is that of an organisation, "org_…".
func IsOrganisation(id string) bool { return orgForm.MatchString(id) }

// IsMachine reports whether id is that of a machine, "mch_…".
func IsMachine(id string) bool { return machineForm.MatchString(id) }

// TokenKind says whose word a bearer token is, by its form alone.
type TokenKind int

// The kinds of tokens.
const (
	NoToken      TokenKind = iota // none of Clerk's
	AccessToken                   // of an OAuth client, a JWT or opaque
	APIKey                        // of a user or an organisation
	MachineToken                  // of a machine
)

// KindOf tells Clerk's tokens from each other and from those of others.
func KindOf(token string) TokenKind {
	switch {
	case strings.HasPrefix(token, opaquePrefix):
		return AccessToken
	case strings.HasPrefix(token, apiKeyPrefix):
		return APIKey
	case strings.HasPrefix(token, machinePrefix):
		return MachineToken
	case strings.Count(token, ".") == 2 && strings.HasPrefix(token, "ey"): // "{" in base64
		return AccessToken
	}
	return NoToken
}

// KeyRules say which API keys and which machines' tokens count.
type KeyRules struct {
	Resource string // what a principal's Resource becomes
	// Users accepts the API keys of users, who get what they may themselves.
	Users bool
	// Machines are the ids of the organisations whose API keys, and of the
	// machines whose tokens are accepted.
	Machines []string
}

// Keys checks API keys and machines' tokens, by asking Clerk.
type Keys struct {
	clerk *Clerk
	rules KeyRules
}

// Keys returns the verifier of API keys and machines' tokens under rules.
func (c *Clerk) Keys(rules KeyRules) *Keys { return &Keys{c, rules} }

// Verify returns the principal of an API key or of a machine's token; its errors
// are those of AccessTokens.Verify. The subject of the former is its user or its
// organisation. A key that has scopes has those alone, others are not limited
// by any; a machine's token has no scopes of its own.
func (k *Keys) Verify(ctx context.Context, token string) (*identity.Principal, error) {
	if KindOf(token) == MachineToken {
		return k.machine(ctx, token)
	}
	said, err := k.clerk.apiKey(ctx, token)
	if err != nil {
		return nil, err
	}
	switch {
	case subjectForm.MatchString(said.subject) && k.rules.Users:
	case orgForm.MatchString(said.subject) && slices.Contains(k.rules.Machines, said.subject):
	default:
		return nil, refused("its subject may not use API keys here")
	}
	return &identity.Principal{
		Subject: said.subject, Grant: "clerk-" + shortHash(said.id), ClientID: said.id, Resource: k.rules.Resource,
		Scopes: said.scopes, AllScopes: len(said.scopes) == 0, Expires: said.expires,
	}, nil
}

func (k *Keys) machine(ctx context.Context, token string) (*identity.Principal, error) {
	said, err := k.clerk.machineToken(ctx, token)
	if err != nil {
		return nil, err
	}
	if !machineForm.MatchString(said.subject) || !slices.Contains(k.rules.Machines, said.subject) {
		return nil, refused("its machine may not use this server")
	}
	return &identity.Principal{
		Subject: said.subject, Grant: "clerk-machine", ClientID: said.subject, Resource: k.rules.Resource,
		AllScopes: true, Expires: said.expires,
	}, nil
}

// tokenMemory is what Clerk has said of tokens that only Clerk can read.
type tokenMemory struct {
	lookups shared[statement]

	mu      sync.Mutex
	entries map[[sha256.Size]byte]tokenEntry // by the token's hash: nothing here can be presented
	window  time.Time                        // since when asked counts
	asked   int                              // questions in this window
}

type tokenEntry struct {
	said  statement
	err   error
	asked time.Time // when the question was sent: the answer is no younger
	good  bool      // Clerk has stood by the token whenever it could be asked
}

func (e tokenEntry) current(now time.Time) bool {
	limit := tokenAge
	if e.err != nil && !errors.Is(e.err, identity.ErrInvalidToken) {
		limit = tokenFailAge
	}
	age := now.Sub(e.asked)
	return age >= 0 && age < limit
}

// remember returns what Clerk says of token, at most tokenAge old. ask puts the
// question.
func (c *Clerk) remember(ctx context.Context, token string, ask func(context.Context) (statement, error)) (statement, error) {
	if !tokenForm.MatchString(token) {
		return statement{}, refused("it has not the form of one")
	}
	m := &c.tokens
	key := sha256.Sum256([]byte(token))
	now := c.now()
	m.mu.Lock()
	e, ok := m.entries[key]
	m.mu.Unlock()
	if good := e.good; !ok || !e.current(now) {
		var asked time.Time
		e.said, e.err = m.lookups.do(ctx, c, string(key[:]), func(ctx context.Context) (statement, error) {
			asked = c.now()
			if !good && !c.mayAsk(asked) {
				return statement{}, unavailable("check a token", errors.New("too many tokens that are not known"))
			}
			ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
			defer cancel()
			return ask(ctx)
		}, func(said statement, err error) {
			m.put(key, tokenEntry{said, err, asked, err == nil || good && !errors.Is(err, identity.ErrInvalidToken)})
		})
	}
	if e.err != nil {
		return statement{}, e.err
	}
	if !e.said.expires.IsZero() && !now.Before(e.said.expires) {
		return statement{}, refused("it has expired")
	}
	said := e.said
	said.scopes = slices.Clone(said.scopes)
	return said, nil
}

// mayAsk counts a question about a token that nobody has seen to be good. Anyone
// can make up tokens; with them they may use up a quarter of Clerk's rate, and
// never what lookups of users and the tokens in use need.
func (c *Clerk) mayAsk(now time.Time) bool {
	const window = 10 * time.Second
	m := &c.tokens
	m.mu.Lock()
	defer m.mu.Unlock()
	if age := now.Sub(m.window); age < 0 || age >= window {
		m.window, m.asked = now, 0
	}
	m.asked++
	return m.asked <= int(window/c.pace)/2 // the pace is half of the rate
}

func (m *tokenMemory) put(key [sha256.Size]byte, e tokenEntry) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.entries[key]; !ok && len(m.entries) >= maxTokens {
		// Any of a few goes, and one that is good only if all of them are: it
		// costs one question to know it again.
		var out [sha256.Size]byte
		seen := 0
		for k, v := range m.entries {
			if seen++; seen == 1 || !v.good {
				out = k
			}
			if !v.good || seen == 8 {
				break
			}
		}
		delete(m.entries, out)
	}
	m.entries[key] = e
}

// tokenAnswer is what the three endpoints that verify a token have in common
// (bapi specification 2026-05-12, POST /oauth_applications/access_tokens/verify,
// /api_keys/verify and /m2m_tokens/verify).
type tokenAnswer struct {
	Object     string   `json:"object"`
	ID         string   `json:"id"`
	Subject    string   `json:"subject"`
	ClientID   string   `json:"client_id"` // of access tokens alone
	Audience   []string `json:"aud"`       // not specified; one that comes must be ours
	Scopes     []string `json:"scopes"`
	Revoked    *bool    `json:"revoked"`
	Expired    *bool    `json:"expired"`
	Expiration *float64 `json:"expiration"` // of keys and machines in milliseconds, of access tokens in either
	Active     *bool    `json:"active"`     // false instead of all others
}

// Read implements clerksdk.ResponseReader.
func (*tokenAnswer) Read(*clerksdk.APIResponse) {}

// statement is what the answer says, if it is about a good token of that kind.
func (a *tokenAnswer) statement(object string) (statement, error) {
	switch {
	case a.Active != nil && !*a.Active:
		return statement{}, refused("Clerk says that it is not active")
	case a.Object != "" && a.Object != object || a.ID == "" || a.Subject == "" || a.Revoked == nil || a.Expired == nil:
		return statement{}, unavailable("check a token", errors.New("the answer is about something else"))
	case *a.Revoked:
		return statement{}, refused("it was revoked")
	case *a.Expired:
		return statement{}, refused("it has expired")
	}
	said := statement{id: a.ID, subject: a.Subject, clientID: a.ClientID, audience: a.Audience, scopes: a.Scopes}
	if a.Expiration != nil && *a.Expiration > 0 {
		seconds := *a.Expiration
		if seconds > 1e11 { // the year 5138, or 1973 in milliseconds
			seconds /= 1000
		}
		said.expires = time.Unix(int64(min(seconds, 1<<40)), 0)
	}
	return said, nil
}

func (c *Clerk) opaque(ctx context.Context, token string) (statement, error) {
	return c.remember(ctx, token, func(ctx context.Context) (statement, error) {
		return c.askAboutToken(ctx, c.users.Backend, "/oauth_applications/access_tokens/verify", "clerk_idp_oauth_access_token",
			&accessTokenQuestion{AccessToken: token})
	})
}

func (c *Clerk) apiKey(ctx context.Context, key string) (statement, error) {
	return c.remember(ctx, key, func(ctx context.Context) (statement, error) {
		return c.askAboutToken(ctx, c.users.Backend, "/api_keys/verify", "api_key", &apiKeyQuestion{Secret: key})
	})
}

// machineToken asks with the secret of this server's own machine: Clerk then
// refuses tokens that were made for others.
func (c *Clerk) machineToken(ctx context.Context, token string) (statement, error) {
	if c.machines == nil {
		return statement{}, refused("machines' tokens are not accepted")
	}
	return c.remember(ctx, token, func(ctx context.Context) (statement, error) {
		return c.askAboutToken(ctx, c.machines, "/m2m_tokens/verify", "machine_to_machine_token", &machineTokenQuestion{Token: token})
	})
}

type (
	accessTokenQuestion struct {
		clerksdk.APIParams
		AccessToken string `json:"access_token"`
	}
	apiKeyQuestion struct {
		clerksdk.APIParams
		Secret string `json:"secret"`
	}
	machineTokenQuestion struct {
		clerksdk.APIParams
		Token string `json:"token"`
	}
)

func (c *Clerk) askAboutToken(ctx context.Context, backend clerksdk.Backend, path, object string, question clerksdk.Params) (statement, error) {
	var answer tokenAnswer
	err := c.ask(ctx, "check a token", func(ctx context.Context) error {
		req := clerksdk.NewAPIRequest(http.MethodPost, path)
		req.SetParams(question)
		answer = tokenAnswer{}
		return backend.Call(ctx, req, &answer)
	})
	var status statusError
	switch {
	case errors.Is(err, identity.ErrNoUser), // what ask makes of "resource_not_found"
		errors.As(err, &status) && (status == http.StatusBadRequest || status == http.StatusNotFound || status == http.StatusUnprocessableEntity):
		return statement{}, refused("Clerk does not know it")
	case err != nil:
		return statement{}, err
	}
	return answer.statement(object)
}
