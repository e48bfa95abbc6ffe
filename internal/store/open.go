package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"slices"
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

	// smallMap has the file mapped as where mapSize can't be had.
	smallMap bool
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

const (
	boltScheme   = "bolt"
	memoryScheme = "memory"
)

// Schemes are those of the URLs that Open takes.
var Schemes = []string{boltScheme, memoryScheme}

// CheckURL reports what is wrong with a URL that Open is to take, without
// opening anything.
func CheckURL(url string) error {
	scheme, rest, _ := strings.Cut(url, ":")
	switch {
	case !slices.Contains(Schemes, scheme):
		// Not the whole URL: one of another scheme may hold a password.
		return fmt.Errorf("store scheme %q is unknown: use bolt:PATH or memory:", scheme)
	case scheme == boltScheme && strings.Trim(rest, "/") == "":
		return errors.New("bolt URL has no path: name the file, as in bolt:/var/lib/mcp-clerk/state.db")
	case scheme == memoryScheme && strings.Trim(rest, "/") != "":
		return fmt.Errorf("store %q names a place: memory: takes nothing after the colon", url)
	}
	return nil
}

// Open opens the store a URL names: "bolt:PATH" for the embedded one in the
// file PATH, "memory:" for one that ends with the process, which is logged as a
// warning. Other schemes are those of the packages redis and postgres.
func Open(ctx context.Context, url string, o Options) (Store, error) {
	if err := CheckURL(url); err != nil {
		return nil, err
	}
	if path, ok := BoltPath(url); ok {
		s, err := OpenBolt(ctx, path, o)
		if err != nil {
			return nil, err // not s: a nil pointer in an interface is not nil
		}
		return s, nil
	}
	if o.Logger != nil {
		o.Logger.Warn("state is kept in memory: it ends with this process, and then everybody has to sign in again")
	}
	return NewMemory(o), nil
}

// BoltPath returns the path of the file that a URL of the embedded store names;
// ok is false for a URL of another store. The form bolt:///var/lib/x means what
// bolt:/var/lib/x means; on Windows it is bolt:///C:/data/x.
func BoltPath(url string) (path string, ok bool) {
	rest, ok := strings.CutPrefix(url, boltScheme+":")
	if strings.HasPrefix(rest, "///") {
		rest = rest[2:]
		if runtime.GOOS == "windows" {
			rest = rest[1:]
		}
	}
	return rest, ok
}
