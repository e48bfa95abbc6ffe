package postgres

import (
	"context"
	"embed"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

//go:embed migrations/*.sql
var files embed.FS

const (
	migrateTimeout = time.Minute
	// migrateLock is the key of the advisory lock that one instance at a time
	// migrates under.
	migrateLock = 0x6d63702d636c6572 // "mcp-cler"
)

// migration is one step of the schema. Steps only add what older versions of
// the program can go on without, so that two versions run side by side during
// a rolling update; one that can't be so says, in a first line
// "-- compatible: N", that programs which know less than step N must stop.
type migration struct {
	version    int
	compatible int // the least version a program must know to use the schema
	sql        string
}

// migrations reads the embedded steps, in order and without gaps from 1.
func migrations(dir fs.FS) ([]migration, error) {
	names, err := fs.Glob(dir, "migrations/*.sql")
	if err != nil {
		return nil, err
	}
	slices.Sort(names)
	var all []migration
	for i, name := range names {
		b, err := fs.ReadFile(dir, name)
		if err != nil {
			return nil, err
		}
		number, _, _ := strings.Cut(strings.TrimPrefix(name, "migrations/"), "_")
		version, err := strconv.Atoi(number)
		if err != nil || version != i+1 {
			return nil, fmt.Errorf("migration %q is not number %d", name, i+1)
		}
		m := migration{version: version, compatible: 1, sql: string(b)}
		if i > 0 {
			m.compatible = all[i-1].compatible
		}
		if line, _, _ := strings.Cut(m.sql, "\n"); strings.HasPrefix(line, "-- compatible: ") {
			if m.compatible, err = strconv.Atoi(strings.TrimPrefix(line, "-- compatible: ")); err != nil || m.compatible > version {
				return nil, fmt.Errorf("migration %q is compatible with what?", name)
			}
		}
		all = append(all, m)
	}
	return all, nil
}

// migrate brings the schema up to date.
func (d *database) migrate(ctx context.Context) error {
	steps, err := migrations(files)
	if err != nil {
		return err
	}
	return migrateTo(ctx, d.pool, steps, func(m migration) { d.log.Info("migrated the schema of the store", "version", m.version) })
}

// beginner is a pool or a connection.
type beginner interface {
	Begin(ctx context.Context) (pgx.Tx, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// migrateTo applies the steps that are missing, all or none, under the lock. A
// schema that is newer than the steps is used as it is if it allows that.
func migrateTo(ctx context.Context, db beginner, steps []migration, applied func(migration)) error {
	known := len(steps)
	version, compatible, err := schemaVersion(ctx, db)
	if err != nil {
		return err
	}
	if version < known {
		if version, compatible, err = applyMissing(ctx, db, steps, applied); err != nil {
			return err
		}
	}
	if compatible > known {
		return fmt.Errorf("the schema of the store has version %d, which this program, knowing %d, can't use: start a newer version", version, known)
	}
	return nil
}

// schemaVersion reads what was applied: 0 where nothing was.
func schemaVersion(ctx context.Context, db interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}) (version, compatible int, err error) {
	var there bool
	if err := db.QueryRow(ctx, "select to_regclass('mcp_clerk_migration') is not null").Scan(&there); err != nil || !there {
		return 0, 0, err
	}
	err = db.QueryRow(ctx, "select coalesce(max(version), 0), coalesce(max(compatible), 0) from mcp_clerk_migration").Scan(&version, &compatible)
	return version, compatible, err
}

func applyMissing(ctx context.Context, db beginner, steps []migration, applied func(migration)) (version, compatible int, err error) {
	tx, err := db.Begin(ctx)
	if err != nil {
		return 0, 0, err
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }()
	// Another instance may take longer than statements usually may.
	if _, err := tx.Exec(ctx, "set local statement_timeout = '60s'; set local lock_timeout = '60s'"); err != nil {
		return 0, 0, err
	}
	if _, err := tx.Exec(ctx, "select pg_advisory_xact_lock($1)", int64(migrateLock)); err != nil {
		return 0, 0, err
	}
	if _, err := tx.Exec(ctx, `create table if not exists mcp_clerk_migration (
		version    int primary key,
		compatible int not null,
		applied    timestamptz not null default now()
	)`); err != nil {
		return 0, 0, err
	}
	if version, compatible, err = schemaVersion(ctx, tx); err != nil {
		return 0, 0, err
	}
	var done []migration
	for _, m := range steps[min(version, len(steps)):] {
		if _, err := tx.Exec(ctx, m.sql); err != nil {
			return 0, 0, fmt.Errorf("migration %d: %w", m.version, err)
		}
		if _, err := tx.Exec(ctx, "insert into mcp_clerk_migration (version, compatible) values ($1, $2)", m.version, m.compatible); err != nil {
			return 0, 0, err
		}
		version, compatible = m.version, max(compatible, m.compatible)
		done = append(done, m)
	}
	if err := tx.Commit(ctx); err != nil {
		return 0, 0, err
	}
	for _, m := range done {
		applied(m)
	}
	return version, compatible, nil
}
