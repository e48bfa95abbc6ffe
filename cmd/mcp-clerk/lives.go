package main

import (
	"time"

	"github.com/spf13/pflag"

	"github.com/mcp-clerk/mcp-clerk/server"
)

// tokenLives are serve's flags for how long tokens live.
type tokenLives struct {
	Access, RefreshGrace, RefreshIdle, RefreshAbsolute time.Duration
}

func (l *tokenLives) bind(f *pflag.FlagSet) {
	const day = 24 * time.Hour
	f.DurationVar(&l.Access, "access-token-ttl", time.Hour, "life of an access token, at most 24h")
	f.DurationVar(&l.RefreshGrace, "refresh-grace", 30*time.Minute, "how long a superseded refresh token still gets its successor; 0: not at all")
	f.DurationVar(&l.RefreshIdle, "refresh-idle", 30*day, "life of a refresh token that is not used")
	f.DurationVar(&l.RefreshAbsolute, "refresh-absolute", 180*day, "life of a grant, however often it is refreshed")
}

func (l tokenLives) check() error {
	if l.Access <= 0 || l.Access > 24*time.Hour {
		return usagef("--access-token-ttl %v is not between 0 and 24h", l.Access)
	}
	if l.RefreshGrace < 0 {
		return usagef("--refresh-grace %v is negative", l.RefreshGrace)
	}
	if l.RefreshIdle <= 0 || l.RefreshAbsolute <= 0 {
		return usagef("--refresh-idle %v and --refresh-absolute %v must be positive", l.RefreshIdle, l.RefreshAbsolute)
	}
	return nil
}

// apply sets the options; zero lives, which no flags give, leave the defaults.
func (l tokenLives) apply(o *server.Options) {
	if l == (tokenLives{}) {
		return
	}
	o.AccessTokenTTL, o.RefreshIdle, o.RefreshAbsolute = l.Access, l.RefreshIdle, l.RefreshAbsolute
	if o.RefreshGrace = l.RefreshGrace; o.RefreshGrace == 0 {
		o.RefreshGrace = -1 // there 0 is the default
	}
}
