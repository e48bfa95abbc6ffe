package store

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"time"
)

// Options are what the embedded and the memory store can be told.
type Options struct {
	// Now is the clock of every expiry; nil: time.Now.
	Now func() time.Time
	// Logger hears of sweeps that fail and of damage; nil: none.
	Logger *slog.Logger
	// SweepEvery is the pause between two background sweeps of the embedded
	// store; 0: 5 minutes, negative: no background sweep.
	SweepEvery time.Duration
}

func (o Options) withDefaults() Options {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.SweepEvery == 0 {
		o.SweepEvery = 5 * time.Minute
	}
	return o
}

// Open opens the store a URL names: "bolt:PATH" for the embedded one in the
// file PATH, "memory:" for one that ends with the process. Other schemes are
// those of the packages redis and postgres, and an error here.
func Open(ctx context.Context, url string, o Options) (Store, error) {
	scheme, rest, _ := strings.Cut(url, ":")
	switch scheme {
	case "bolt":
		return OpenBolt(ctx, boltPath(rest), o)
	case "memory":
		if strings.Trim(rest, "/") != "" {
			return nil, fmt.Errorf("store %q: memory: takes nothing after the colon", url)
		}
		return NewMemory(o), nil
	}
	// Not the whole URL: one of another scheme may hold a password.
	return nil, fmt.Errorf("store scheme %q is unknown: use bolt:PATH or memory:", scheme)
}

// boltPath takes the path from what follows "bolt:". The URL form
// bolt:///var/lib/x means what bolt:/var/lib/x means.
func boltPath(rest string) string {
	if strings.HasPrefix(rest, "///") {
		return rest[2:]
	}
	return rest
}
