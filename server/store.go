package server

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/mcp-clerk/mcp-clerk/internal/store"
	"github.com/mcp-clerk/mcp-clerk/internal/store/postgres"
	"github.com/mcp-clerk/mcp-clerk/internal/store/redis"
)

// storeKinds are the ways to keep state: the schemes of their URLs, what finds
// a URL's faults without connecting, and what opens it.
var storeKinds = []struct {
	schemes []string
	check   func(url string) error
	open    func(ctx context.Context, url string, o store.Options) (store.Store, error)
}{
	{store.Schemes, store.CheckURL, store.Open},
	{redis.Schemes, redis.CheckURL, func(ctx context.Context, url string, o store.Options) (store.Store, error) {
		return redis.Open(ctx, url, redis.Options{Now: o.Now, Logger: o.Logger})
	}},
	{postgres.Schemes, postgres.CheckURL, func(ctx context.Context, url string, o store.Options) (store.Store, error) {
		return postgres.Open(ctx, url, postgres.Options{Now: o.Now, Logger: o.Logger})
	}},
}

// storeFix is the advice where a store's URL can't be made sense of.
const storeFix = "use bolt:PATH, redis://HOST, postgres://HOST/DATABASE or memory:"

// storeKindOf returns the index in storeKinds. Its error quotes the scheme at
// most, since the rest of the URL may hold a password.
func storeKindOf(url string) (int, error) {
	scheme, _, found := strings.Cut(url, ":")
	if !found {
		return 0, errors.New("has no scheme")
	}
	for i, kind := range storeKinds {
		if slices.Contains(kind.schemes, scheme) {
			return i, nil
		}
	}
	return 0, fmt.Errorf("unknown scheme %q", scheme)
}

// openStore opens the store of options that Validate has accepted.
func openStore(ctx context.Context, o Options) (store.Store, error) {
	i, err := storeKindOf(o.Store.Reveal())
	if err != nil {
		return nil, err
	}
	st, err := storeKinds[i].open(ctx, o.Store.Reveal(), store.Options{Now: o.Now, Logger: o.Logger})
	if err != nil {
		return nil, err // st may hold a nil pointer, and is then no nil interface
	}
	return store.WithFailpoints(st), nil // only builds for scripts/chaos have them
}

// store checks the URL of the store. What a package says of a URL is a problem
// and, after a colon, its fix.
func (v *validation) store(url string) {
	const setting = "--store"
	if url == "" {
		v.fault(setting, "missing", storeFix)
		return
	}
	i, err := storeKindOf(url)
	if err == nil {
		err = storeKinds[i].check(url)
	}
	if err != nil {
		problem, fix, found := strings.Cut(err.Error(), ": ")
		if !found {
			fix = storeFix
		}
		v.fault(setting, problem, fix)
	}
}
