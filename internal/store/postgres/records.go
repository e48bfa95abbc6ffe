package postgres

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/mcp-clerk/mcp-clerk/internal/store"
)

// A row is live until its expiry on the server's clock. Times to live go in and
// come out as milliseconds from now; null: for ever.
const (
	liveSQL      = ` (expires is null or expires > statement_timestamp())`
	remainingSQL = ` (extract(epoch from expires - statement_timestamp()) * 1000)::float8`
	columnsSQL   = ` key, value, version,` + remainingSQL
	expiresSQL   = ` statement_timestamp() + $3::float8 * interval '1 millisecond'`

	getSQL = `select` + columnsSQL + ` from mcp_clerk_record where key = $1 and` + liveSQL

	createSQL = `insert into mcp_clerk_record as r (key, value, version, expires) values ($1, $2, $4,` + expiresSQL + `)
		on conflict (key) do update set value = excluded.value, version = excluded.version, expires = excluded.expires
		where r.expires <= statement_timestamp()`

	swapSQL = `update mcp_clerk_record set value = $2, version = $4, expires =` + expiresSQL + `
		where key = $1 and version = $5 and` + liveSQL
	swapKeepSQL = `update mcp_clerk_record set value = $2, version = $3 where key = $1 and version = $4 and` + liveSQL

	takeSQL   = `delete from mcp_clerk_record where key = $1 and` + liveSQL + ` returning` + columnsSQL
	deleteSQL = `delete from mcp_clerk_record where key = $1`

	// Two statements, since a plan for both would read on behind the prefix.
	listSQL    = `select` + columnsSQL + ` from mcp_clerk_record where key >= $1 and key > $2 and key < $4 and` + liveSQL + ` order by key limit $3`
	listAllSQL = `select` + columnsSQL + ` from mcp_clerk_record where key >= $1 and key > $2 and` + liveSQL + ` order by key limit $3`

	sweepSQL = `delete from mcp_clerk_record where key in (
		select key from mcp_clerk_record where expires <= statement_timestamp() - $1::float8 * interval '1 millisecond'
		order by expires limit $2 for update skip locked)`
)

func newVersion() int64 { return int64(rand.Uint64()) } //nolint:gosec // a mark, no secret

// ttl is a time to live as the statements take it.
func (d *database) ttl(expires time.Time) *float64 {
	if expires.IsZero() {
		return nil
	}
	// Within what an interval holds, and a date after it.
	ms := min(max(float64(expires.Sub(d.now()).Milliseconds()), -1e12), 1e13)
	return &ms
}

func (d *database) scan(row pgx.Row) (store.Versioned, error) {
	var key []byte
	var version int64
	var remaining *float64
	var v store.Versioned
	if err := row.Scan(&key, &v.Value, &version, &remaining); err != nil {
		return store.Versioned{}, err
	}
	v.Key, v.Version = string(key), strconv.FormatInt(version, 36)
	if v.Value == nil {
		v.Value = []byte{}
	}
	if remaining != nil {
		v.Expires = d.now().Add(time.Duration(*remaining * float64(time.Millisecond))).Truncate(time.Millisecond).UTC()
	}
	return v, nil
}

// missing turns the absence of a row into ErrNotFound.
func missing(err error) error {
	if errors.Is(err, pgx.ErrNoRows) {
		return store.ErrNotFound
	}
	return err
}

// Load implements store.Database.
func (d *database) Load(ctx context.Context, key string) (v store.Versioned, err error) {
	err = d.read(ctx, func(ctx context.Context) error {
		v, err = d.scan(d.pool.QueryRow(ctx, getSQL, []byte(key)))
		return err
	})
	return v, missing(err)
}

// Insert implements store.Database.
func (d *database) Insert(ctx context.Context, r store.Record) error {
	n, err := d.exec(ctx, createSQL, []byte(r.Key), nonNil(r.Value), d.ttl(r.Expires), newVersion())
	if err != nil {
		return err
	}
	if n == 0 {
		return store.ErrExists
	}
	return nil
}

func nonNil(b []byte) []byte {
	if b == nil {
		return []byte{}
	}
	return b
}

// Swap implements store.Database.
func (d *database) Swap(ctx context.Context, old store.Versioned, next store.Record) (store.Versioned, bool, error) {
	is, err := strconv.ParseInt(old.Version, 36, 64)
	if err != nil {
		return store.Versioned{}, false, err
	}
	version := newVersion()
	now := store.Versioned{Record: next, Version: strconv.FormatInt(version, 36)}
	now.Value = slices.Clone(nonNil(next.Value))
	now.Expires = store.FromMillis(store.Millis(next.Expires))
	var n int64
	if next.Expires.Equal(old.Expires) {
		n, err = d.exec(ctx, swapKeepSQL, []byte(next.Key), now.Value, version, is)
	} else {
		n, err = d.exec(ctx, swapSQL, []byte(next.Key), now.Value, d.ttl(next.Expires), version, is)
	}
	return now, n == 1, err
}

// Remove implements store.Database.
func (d *database) Remove(ctx context.Context, key string) (store.Record, error) {
	var v store.Versioned
	err := d.write(ctx, func(ctx context.Context) (err error) {
		v, err = d.scan(d.pool.QueryRow(ctx, takeSQL, []byte(key)))
		return err
	})
	return v.Record, missing(err)
}

// Drop implements store.Database.
func (d *database) Drop(ctx context.Context, key string) error {
	_, err := d.exec(ctx, deleteSQL, []byte(key))
	return err
}

// Page implements store.Database.
func (d *database) Page(ctx context.Context, prefix, after string, limit int) ([]store.Record, error) {
	sql, args := listAllSQL, []any{[]byte(prefix), []byte(after), limit}
	if end, ok := store.PrefixEnd(prefix); ok {
		sql, args = listSQL, append(args, []byte(end))
	}
	var found []store.Record
	err := d.read(ctx, func(ctx context.Context) error {
		found = nil
		rows, err := d.pool.Query(ctx, sql, args...)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			v, err := d.scan(rows)
			if err != nil {
				return err
			}
			found = append(found, v.Record)
		}
		return rows.Err()
	})
	if err != nil {
		return nil, err
	}
	return found, nil
}

// Clean implements store.Database.
func (d *database) Clean(ctx context.Context) (int, error) { return d.sweep(ctx, 0) }

// sweep removes rows that expired a while ago, some at a time, so that it locks
// few and none for long.
func (d *database) sweep(ctx context.Context, slack time.Duration) (removed int, err error) {
	for {
		n, err := d.exec(ctx, sweepSQL, float64(slack.Milliseconds()), sweepBatch)
		removed += int(n)
		if err != nil || n < sweepBatch {
			return removed, err
		}
	}
}

// readAttempts and writeAttempts are how often a statement is tried at most.
const (
	readAttempts  = 3
	writeAttempts = 4
)

// read runs f, which changes nothing, again when the connection was lost.
func (d *database) read(ctx context.Context, f func(ctx context.Context) error) error {
	bounded, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	var err error
	for attempt := range readAttempts {
		if err = f(bounded); err == nil || errors.Is(err, pgx.ErrNoRows) || bounded.Err() != nil || !lost(err) && !refused(err) {
			break
		}
		pause(bounded, attempt)
	}
	return store.WithContext(ctx, err)
}

// write runs f again only when it certainly changed nothing. Once begun it is
// awaited though ctx ends: its outcome counts.
func (d *database) write(ctx context.Context, f func(ctx context.Context) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
	defer cancel()
	var err error
	for attempt := range writeAttempts {
		if err = f(bounded); err == nil || bounded.Err() != nil || !refused(err) {
			return err
		}
		if ctx.Err() != nil {
			break
		}
		pause(bounded, attempt)
	}
	return store.WithContext(ctx, err)
}

func (d *database) exec(ctx context.Context, sql string, args ...any) (n int64, err error) {
	err = d.write(ctx, func(ctx context.Context) error {
		tag, err := d.pool.Exec(ctx, sql, args...)
		n = tag.RowsAffected()
		return err
	})
	if err != nil {
		return 0, err
	}
	return n, nil
}

func pause(ctx context.Context, attempt int) {
	select {
	case <-ctx.Done():
	case <-time.After(rand.N(20*time.Millisecond) << attempt): //nolint:gosec // no secret
	}
}

// refused reports errors after which the statement certainly had no effect:
// there was no connection to send it on, or the server refused it in a way that
// passes.
func refused(err error) bool {
	if pgErr, ok := errors.AsType[*pgconn.PgError](err); ok {
		switch pgErr.Code {
		case "40001", "40P01", // serialisation failure, deadlock
			"55P03",                   // lock not available
			"57P01", "57P02", "57P03", // the server shuts down or starts
			"25006", // read-only, as a stand-by is
			"53300": // too many connections
			return true
		}
		return false
	}
	if _, ok := errors.AsType[*pgconn.ConnectError](err); ok {
		return true
	}
	return pgconn.SafeToRetry(err)
}

// lost reports errors of the connection: anything but an answer of the server.
func lost(err error) bool {
	_, answered := errors.AsType[*pgconn.PgError](err)
	return !answered
}
