package clerk

import (
	"context"
	"time"

	"github.com/mcp-clerk/mcp-clerk/internal/identity"
)

// What the tests of this package reach beyond its API: parsers for their
// fuzz targets, the pauses between retries, and the bound of the cache.
var (
	Roles       = rolesUnder
	CheckHeader = checkHeader
)

const MaxEntries = maxEntries

func (c *Clerk) SetSleep(f func(context.Context, time.Duration) error) { c.sleep = f }

func (c *Clerk) Fill(subject string) {
	c.dir.put(subject, entry{user: identity.User{ID: subject}, asked: c.now()})
}

func (c *Clerk) Entries() int {
	c.dir.mu.Lock()
	defer c.dir.mu.Unlock()
	return len(c.dir.entries)
}
