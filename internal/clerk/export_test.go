package clerk

import (
	"context"
	"encoding/json"
	"time"

	"github.com/mcp-clerk/mcp-clerk/internal/identity"
)

// What the tests of this package reach beyond its API: parsers for their
// fuzz targets, the pauses between retries, and the bound of the cache.
var (
	Roles             = rolesUnder
	CheckHeader       = checkHeader
	CheckAccessHeader = checkAccessHeader
)

// JudgeClaims is what AccessTokens makes of claims whose signature is good.
func (c *Clerk) JudgeClaims(rules AccessTokenRules, payload []byte) (*identity.Principal, error) {
	said, err := c.readClaims(payload)
	if err != nil {
		return nil, err
	}
	return c.AccessTokens(rules).judge(said, rules.NoAudience)
}

// ReadTokenAnswer is what is made of Clerk's answer about a token.
func ReadTokenAnswer(body []byte, object string) (subject string, expires time.Time, err error) {
	var a tokenAnswer
	if err := json.Unmarshal(body, &a); err != nil {
		return "", time.Time{}, err
	}
	said, err := a.statement(object)
	return said.subject, said.expires, err
}

// Tokens counts what is remembered of tokens.
func (c *Clerk) Tokens() int {
	c.tokens.mu.Lock()
	defer c.tokens.mu.Unlock()
	return len(c.tokens.entries)
}

const MaxEntries = maxEntries

func (c *Clerk) SetSleep(f func(context.Context, time.Duration) error) { c.sleep = f }

func (c *Clerk) Fill(subject string) {
	c.dir.put(subject, &entry{user: identity.User{ID: subject}, asked: c.now()})
}

func (c *Clerk) Entries() int {
	c.dir.mu.Lock()
	defer c.dir.mu.Unlock()
	return len(c.dir.entries)
}
