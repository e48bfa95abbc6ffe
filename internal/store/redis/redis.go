// Package redis keeps the store in Redis or Valkey, on one server, behind
// Sentinel or in a Cluster, for several instances of the server at once.
//
// It imports store. Its one invariant: a record, its place in the index and its
// expiry change in one script, and a script that may have run is never sent a
// second time.
//
// Durability is that of the Redis server: with appendfsync everysec a crash of
// it loses up to a second of acknowledged writes, with always none. A fail-over
// to a replica loses what had not reached it; the option replicas in the URL
// makes each write wait for that.
package redis

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"time"

	goredis "github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"

	"github.com/mcp-clerk/mcp-clerk/internal/store"
)

const (
	dialTimeout = 2 * time.Second
	// callTimeout bounds a write once it was sent, and any wait for the server.
	callTimeout = 3 * time.Second
	sweepEvery  = time.Minute
)

// silent is where go-redis logs to: what matters comes as an error as well.
type silent struct{}

// Printf is what go-redis calls.
func (silent) Printf(context.Context, string, ...any) {}

func init() { //nolint:gochecknoinits // go-redis has one logger for the process
	goredis.SetLogger(silent{})
}

// Options are what the store can be told besides its URL.
type Options struct {
	// Now is the clock of this process, from which the expiries it writes and
	// reads count; nil: time.Now. How long a record lives is measured by the
	// Redis server, so that clocks may differ between instances.
	Now func() time.Time
	// Logger hears of settings of the server that endanger records, and of
	// lost subscriptions; nil: none.
	Logger *slog.Logger
}

// database is a store.Database in Redis.
type database struct {
	client   goredis.UniversalClient
	prefix   string
	replicas int
	now      func() time.Time
	log      *slog.Logger

	stop    context.CancelFunc
	running sync.WaitGroup
}

// Open connects to the server or servers that url names:
//
//	redis://[USER[:PASSWORD]@]HOST[:PORT][/DB]         one server; rediss: with TLS
//	redis://…@HOST,HOST,…/DB?master_name=NAME          Sentinels
//	redis://…@HOST,HOST,…                              nodes of a Cluster, or one with ?cluster=true
//
// valkey: and valkeys: mean the same. Further parameters are prefix (of every
// key; "mcp-clerk"), replicas (how many replicas must have a write before it
// counts; 0), pool_size, sentinel_username and sentinel_password, and for TLS
// the files ca_file (whom to trust instead of the system's authorities),
// cert_file and key_file (what to show the server).
func Open(ctx context.Context, url string, o Options) (store.Store, error) {
	c, err := parseURL(url)
	if err != nil {
		return nil, err
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	background, stop := context.WithCancel(context.Background())
	d := &database{
		client:   c.client(),
		prefix:   c.prefix,
		replicas: c.replicas,
		now:      o.Now,
		log:      o.Logger,
		stop:     stop,
	}
	if err := d.greet(ctx); err != nil {
		stop()
		_ = d.client.Close()
		return nil, fmt.Errorf("redis at %s: %w", c.where(), err)
	}
	s := store.NewShared(d)
	d.running.Go(func() { d.listen(background, s.Deliver) })
	d.running.Go(func() { d.sweepLoop(background) })
	return s, nil
}

// client makes the go-redis client. It is allowed to repeat reads only; what
// it does to writes is in write.
func (c *config) client() goredis.UniversalClient {
	o := &goredis.UniversalOptions{
		Addrs:                 c.addrs,
		DB:                    c.db,
		Protocol:              2,
		Username:              c.username,
		Password:              c.password,
		SentinelUsername:      c.sentinelUsername,
		SentinelPassword:      c.sentinelPassword,
		MasterName:            c.masterName,
		IsClusterMode:         c.cluster,
		TLSConfig:             c.tls,
		DialTimeout:           dialTimeout,
		DialerRetries:         2,
		ReadTimeout:           callTimeout,
		WriteTimeout:          callTimeout,
		PoolTimeout:           callTimeout,
		PoolSize:              c.poolSize,
		ContextTimeoutEnabled: true,
		DisableIdentity:       true,
		MaintNotificationsConfig: &maintnotifications.Config{
			Mode: maintnotifications.ModeDisabled,
		},
	}
	return goredis.NewUniversalClient(o)
}

// greet checks that the server answers, writes, and knows this layout of keys.
func (d *database) greet(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*callTimeout)
	defer cancel()
	if err := d.client.Ping(ctx).Err(); err != nil {
		return explain(err)
	}
	if _, ok := d.client.(*goredis.ClusterClient); !ok {
		// Not every server tells.
		if info, err := d.client.Info(ctx, "cluster").Result(); err == nil && strings.Contains(info, "cluster_enabled:1") {
			return errors.New("this is a node of a Cluster: add cluster=true to the URL")
		}
	}
	key := d.prefix + ":format"
	format, err := d.client.Get(ctx, key).Result()
	if errors.Is(err, goredis.Nil) {
		if err := d.client.SetNX(ctx, key, layout, 0).Err(); err != nil {
			return explain(err)
		}
		format, err = d.client.Get(ctx, key).Result()
	}
	if err != nil {
		return explain(err)
	}
	if format != layout {
		return fmt.Errorf("the keys under %q have the layout %q, this version knows %q: start the version that wrote them, or choose another prefix", d.prefix, format, layout)
	}
	d.warn(ctx)
	return nil
}

// warn logs settings of the server that lose records. Where it doesn't tell
// them, as with many hosted ones, there is nothing to say.
func (d *database) warn(ctx context.Context) {
	info, err := d.client.Info(ctx, "persistence").Result()
	if err == nil && strings.Contains(info, "aof_enabled:0") {
		d.log.Warn("redis keeps no append-only file: what it acknowledged can be lost in a crash; set appendonly yes and appendfsync everysec or always")
	}
	policy, err := d.client.ConfigGet(ctx, "maxmemory-policy").Result()
	if p := policy["maxmemory-policy"]; err == nil && p != "" && p != "noeviction" {
		d.log.Warn("redis may evict records when its memory is full; set maxmemory-policy noeviction", "maxmemory-policy", p)
	}
}

// explain adds the fix to errors of a first contact that have one.
func explain(err error) error {
	switch text := err.Error(); {
	case strings.HasPrefix(text, "WRONGPASS"), strings.HasPrefix(text, "NOAUTH"):
		return fmt.Errorf("%w: check the user and password in the URL", err)
	case strings.HasPrefix(text, "NOPERM"):
		return fmt.Errorf("%w: the user needs read, write, scripting, connection and pub/sub commands on the keys and channels of the prefix", err)
	case strings.HasPrefix(text, "MOVED"):
		return fmt.Errorf("%w: this is a node of a Cluster: add cluster=true to the URL", err)
	}
	var dial *net.OpError
	if errors.As(err, &dial) && dial.Op == "dial" {
		return fmt.Errorf("%w: start the server, or correct the address", err)
	}
	return err
}

// Shut implements store.Database.
func (d *database) Shut() error {
	d.stop()
	d.running.Wait()
	return d.client.Close()
}

// Clean implements store.Database: records expire by themselves, but not what
// the indexes have of them.
func (d *database) Clean(ctx context.Context) (int, error) { return 0, d.sweep(ctx) }

// sweepLoop removes what expired records left in the index.
func (d *database) sweepLoop(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(sweepEvery/2 + rand.N(sweepEvery)): //nolint:gosec // jitter, no secret
		}
		if err := d.sweep(ctx); err != nil && ctx.Err() == nil {
			d.log.Warn("the sweep of the index failed", "error", err)
		}
	}
}
