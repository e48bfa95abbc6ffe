// Package postgres keeps the store in PostgreSQL, for several instances of the
// server at once.
//
// It imports store. Its one invariant: every operation is one statement, and
// none that may have run is ever sent a second time.
package postgres

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/mcp-clerk/mcp-clerk/internal/store"
)

const (
	connectTimeout = 5 * time.Second
	// callTimeout bounds a statement with the wait for a connection.
	callTimeout  = 10 * time.Second
	defaultConns = 16
	sweepEvery   = time.Minute
	sweepBatch   = 1000
	// sweepSlack is how long the background sweep leaves an expired row where
	// it is, unseen: the server's clock may have been ahead for a while.
	sweepSlack = 15 * time.Minute
)

// Options are what the store can be told besides its URL.
type Options struct {
	// Now is the clock of this process, from which the expiries it writes and
	// reads count; nil: time.Now. How long a record lives is measured by the
	// database server, so that clocks may differ between instances.
	Now func() time.Time
	// Logger hears of migrations, of settings of the server that endanger
	// records, and of lost subscriptions; nil: none.
	Logger *slog.Logger
}

// database is a store.Database in PostgreSQL.
type database struct {
	pool    *pgxpool.Pool
	channel string
	now     func() time.Time
	log     *slog.Logger

	stop    context.CancelFunc
	running sync.WaitGroup
}

// Open connects to the database that url names, as
// postgres://USER:PASSWORD@HOST:PORT/DATABASE?PARAMETERS, and brings its schema
// up to date. The parameters are those of libpq (sslmode, sslrootcert,
// target_session_attrs, …), those of the server (search_path,
// statement_timeout, …) and pool_max_conns (16), pool_min_conns and the like.
func Open(ctx context.Context, url string, o Options) (store.Store, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	config, err := parseURL(url)
	if err != nil {
		return nil, err
	}
	background, stop := context.WithCancel(context.Background())
	d := &database{now: o.Now, log: o.Logger, stop: stop}
	if err := d.connect(ctx, config); err != nil {
		stop()
		if d.pool != nil {
			d.pool.Close()
		}
		return nil, fmt.Errorf("postgres at %s: %w", where(config.ConnConfig), err)
	}
	s := store.NewShared(d)
	d.running.Go(func() { d.listen(background, config.ConnConfig, s.Deliver) })
	d.running.Go(func() { d.sweepLoop(background) })
	return s, nil
}

// Schemes are those of the URLs that Open takes.
var Schemes = []string{"postgres", "postgresql"}

// CheckURL reports what is wrong with a URL, without connecting.
func CheckURL(url string) error {
	_, err := parseURL(url)
	return err
}

// parseURL reads the URL and sets what it leaves open. Its errors quote no part
// of it.
func parseURL(url string) (*pgxpool.Config, error) {
	if !strings.HasPrefix(url, "postgres://") && !strings.HasPrefix(url, "postgresql://") {
		return nil, errors.New("postgres URL must start with postgres:// or postgresql://")
	}
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		// Its text holds the URL, with only some passwords made out in it.
		return nil, errors.New("postgres URL: it is not of the form postgres://USER:PASSWORD@HOST:PORT/DATABASE?PARAMETER=VALUE, or a parameter has no valid value")
	}
	parameters := config.ConnConfig.RuntimeParams
	for name, value := range map[string]string{
		"application_name":                    "mcp-clerk",
		"statement_timeout":                   "5s",
		"lock_timeout":                        "3s",
		"idle_in_transaction_session_timeout": "10s",
	} {
		if _, ok := parameters[name]; !ok {
			parameters[name] = value
		}
	}
	if config.ConnConfig.ConnectTimeout == 0 || config.ConnConfig.ConnectTimeout > connectTimeout {
		config.ConnConfig.ConnectTimeout = connectTimeout
	}
	if !strings.Contains(url, "pool_max_conns=") {
		config.MaxConns = defaultConns
	}
	if !strings.Contains(url, "pool_max_conn_lifetime_jitter=") {
		config.MaxConnLifetimeJitter = 5 * time.Minute
	}
	return config, nil
}

// where names the server for messages.
func where(c *pgx.ConnConfig) string {
	return fmt.Sprintf("%s:%d, database %q", c.Host, c.Port, c.Database)
}

// connect opens the pool and readies the schema.
func (d *database) connect(ctx context.Context, config *pgxpool.Config) error {
	ctx, cancel := context.WithTimeout(ctx, migrateTimeout)
	defer cancel()
	var err error
	if d.pool, err = pgxpool.NewWithConfig(ctx, config); err != nil {
		return explain(err)
	}
	var schema, synchronous, fsync string
	err = d.pool.QueryRow(ctx, "select coalesce(current_schema(), ''), current_setting('synchronous_commit'), current_setting('fsync')").
		Scan(&schema, &synchronous, &fsync)
	if err != nil {
		return explain(err)
	}
	if schema == "" {
		return errors.New("the user has no schema to create tables in: create one, or name it with search_path in the URL")
	}
	if synchronous == "off" || fsync == "off" {
		d.log.Warn("postgres acknowledges what isn't on its disk yet: records can be lost in a crash; set fsync and synchronous_commit on",
			"fsync", fsync, "synchronous_commit", synchronous)
	}
	d.channel = channelOf(schema)
	if err := d.migrate(ctx); err != nil {
		return explain(err)
	}
	return nil
}

// explain adds the fix to errors of a first contact that have one, and leaves
// out what pgx tells of the connection, which where has said already.
func explain(err error) error {
	fix := ""
	pgErr, isPg := errors.AsType[*pgconn.PgError](err)
	connectErr, isConnect := errors.AsType[*pgconn.ConnectError](err)
	switch {
	case isPg && (pgErr.Code == "28P01" || pgErr.Code == "28000"):
		fix = "check the user and password in the URL, and pg_hba.conf"
	case isPg && pgErr.Code == "3D000":
		fix = "create the database (createdb), or correct its name in the URL"
	case isPg && pgErr.Code == "42501":
		fix = "grant the user create on the schema, or let the owner of the tables start the server once"
	case isPg && pgErr.Code == "53300":
		fix = "raise max_connections, or lower pool_max_conns in the URL"
	case isPg && pgErr.Code == "08P01" && strings.Contains(pgErr.Message, "startup parameter"):
		fix = "let the connection pooler ignore the parameter (PgBouncer: ignore_startup_parameters)"
	case isConnect && !isPg:
		fix = "start the server, or correct the address and sslmode in the URL"
	}
	if isConnect && isPg {
		err = pgErr
	} else if isConnect {
		// One line for each address and way that was tried.
		tried := strings.Split(errors.Unwrap(connectErr).Error(), "\n")
		for i := range tried {
			tried[i] = strings.TrimSpace(tried[i])
		}
		err = fmt.Errorf("connection failed: %s", strings.Join(slices.Compact(tried), "; "))
	}
	if fix == "" {
		return err
	}
	return fmt.Errorf("%w: %s", err, fix)
}

// Shut implements store.Database.
func (d *database) Shut() error {
	d.stop()
	d.running.Wait()
	d.pool.Close()
	return nil
}

// sweepLoop removes expired rows. Every instance does; none waits for another.
func (d *database) sweepLoop(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(sweepEvery/2 + rand.N(sweepEvery)): //nolint:gosec // no secret
		}
		if n, err := d.sweep(ctx, sweepSlack); err != nil && ctx.Err() == nil {
			d.log.Warn("the sweep of the store failed", "error", err)
		} else if n > 0 {
			d.log.Debug("swept the store", "removed", n)
		}
	}
}
