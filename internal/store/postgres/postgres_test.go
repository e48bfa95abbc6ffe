package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"

	"github.com/mcp-clerk/mcp-clerk/internal/store"
	"github.com/mcp-clerk/mcp-clerk/internal/store/postgres"
	"github.com/mcp-clerk/mcp-clerk/internal/store/storetest"
)

func TestMain(m *testing.M) {
	storetest.Main(func(ctx context.Context, url string) (store.Store, error) {
		return postgres.Open(ctx, url, postgres.Options{})
	})
	goleak.VerifyTestMain(m)
}

func open(t testing.TB, url string) store.Store {
	t.Helper()
	s, err := postgres.Open(t.Context(), url, postgres.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// execute runs a statement as the owner of the server.
func execute(t testing.TB, addr, sql string) {
	t.Helper()
	conn, err := pgx.Connect(context.Background(), "postgres://postgres@"+addr+"/postgres")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	if _, err := conn.Exec(context.Background(), sql); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

var schemas atomic.Int64

// newSchema makes an empty schema and returns the URL for it.
func newSchema(t testing.TB, addr string) string {
	t.Helper()
	name := fmt.Sprint("test", schemas.Add(1))
	execute(t, addr, "create schema "+name)
	return "postgres://postgres@" + addr + "/postgres?search_path=" + name
}

func TestConforms(t *testing.T) {
	server := storetest.StartPostgres(t)
	storetest.Run(t, func(t *testing.T) storetest.Fixture {
		url := newSchema(t, server.Addr)
		return storetest.Fixture{
			Store: open(t, url),
			Peer:  func(t *testing.T) store.Store { return open(t, url) },
			Now:   time.Now,
		}
	})
}

func TestSeveralProcesses(t *testing.T) {
	server := storetest.StartPostgres(t)
	url := newSchema(t, server.Addr)
	storetest.Processes(t, open(t, url), url)
}

func TestFaultyConnections(t *testing.T) {
	server := storetest.StartPostgres(t)
	storetest.Faults(t, server.Addr, func(t *testing.T, addr string) store.Store {
		return open(t, "postgres://postgres@"+addr+"/postgres")
	})
}

// A write is on the disk before it is acknowledged.
func TestKilledServerLosesNothingAcknowledged(t *testing.T) {
	server := storetest.StartPostgres(t)
	storetest.Killed(t, server, open(t, "postgres://postgres@"+server.Addr+"/postgres"))
}

// cases/server 61: clocks 5 minutes apart between instances.
func TestClocksOfInstancesDiffer(t *testing.T) {
	server := storetest.StartPostgres(t)
	storetest.Clocks(t, func(offset time.Duration) store.Store {
		s, err := postgres.Open(t.Context(), "postgres://postgres@"+server.Addr+"/postgres",
			postgres.Options{Now: func() time.Time { return time.Now().Add(offset) }})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Close() })
		return s
	})
}

// Expired rows go in batches, whoever sweeps, and each is counted once.
func TestInstancesSweepTogether(t *testing.T) {
	const n = 3500
	server := storetest.StartPostgres(t, "fsync=off")
	url := "postgres://postgres@" + server.Addr + "/postgres"
	stores := []store.Store{open(t, url), open(t, url), open(t, url)}
	execute(t, server.Addr, fmt.Sprintf(`insert into mcp_clerk_record
		select convert_to('signin/' || i, 'UTF8'), 'v', i, now() - interval '1 hour' from generate_series(1, %d) as i`, n))
	if err := stores[0].Create(t.Context(), store.Record{Key: "client/1", Expires: time.Now().Add(time.Hour)}); err != nil {
		t.Fatal(err)
	}
	var removed atomic.Int64
	var wg sync.WaitGroup
	for _, s := range stores {
		wg.Go(func() {
			for range 3 { // what another holds is skipped
				m, err := s.Sweep(t.Context())
				if err != nil {
					t.Error(err)
				}
				removed.Add(int64(m))
			}
		})
	}
	wg.Wait()
	if removed.Load() != n {
		t.Errorf("%d rows were removed, want %d", removed.Load(), n)
	}
	if _, err := stores[1].Get(t.Context(), "client/1"); err != nil {
		t.Error(err)
	}
}

func TestServersAndURLsThatCanNotBeUsed(t *testing.T) {
	server := storetest.StartPostgres(t, "fsync=off", "max_connections=12")
	execute(t, server.Addr, "create role clerk login password 'right'")
	execute(t, server.Addr, "revoke all on schema public from public")
	for url, hint := range map[string]string{
		"http://u:hunter2@h/db":                                                        "must start with",
		"postgres://u:hunter2@h:port/db":                                               "not of the form",
		"postgres://u:hunter2@h/db?sslmode=hunter2":                                    "not of the form",
		"postgres://postgres:hunter2@127.0.0.1:1/db":                                   "start the server",
		"postgres://postgres:hunter2@" + server.Addr + "/none":                         "create the database",
		"postgres://nobody:hunter2@" + server.Addr + "/postgres":                       "check the user",
		"postgres://postgres:hunter2@" + server.Addr + "/postgres?sslmode=require":     "sslmode",
		"postgres://postgres:hunter2@" + server.Addr + "/postgres?search_path=none":    "search_path",
		"postgres://clerk:hunter2@" + server.Addr + "/postgres?search_path=public":     "search_path", // it may not even use it
		"postgres://postgres:hunter2@" + server.Addr + "/postgres?statement_timeout=x": "statement_timeout",
	} {
		s, err := postgres.Open(t.Context(), url, postgres.Options{})
		if err == nil {
			s.Close()
		}
		if err == nil || !strings.Contains(err.Error(), hint) || strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: error %v, want %q", url, err, hint)
		} else {
			t.Log(err)
		}
	}
}

func TestSettingsThatLoseRecordsAreSaid(t *testing.T) {
	server := storetest.StartPostgres(t, "fsync=off")
	var log strings.Builder
	s, err := postgres.Open(t.Context(), "postgres://postgres@"+server.Addr+"/postgres?synchronous_commit=off",
		postgres.Options{Logger: slog.New(slog.NewTextHandler(&log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{"fsync=off", "synchronous_commit=off", "set fsync"} {
		if !strings.Contains(log.String(), part) {
			t.Errorf("the log has no %q:\n%s", part, &log)
		}
	}
}

// More callers than connections wait their turn.
func TestPoolIsBounded(t *testing.T) {
	server := storetest.StartPostgres(t, "fsync=off", "max_connections=10")
	s := open(t, "postgres://postgres@"+server.Addr+"/postgres?pool_max_conns=3")
	var wg sync.WaitGroup
	for i := range 100 {
		wg.Go(func() {
			if err := s.Create(t.Context(), store.Record{Key: fmt.Sprint("client/", i)}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if l, err := s.List(t.Context(), "client/", "", 1000); err != nil || len(l) != 100 {
		t.Errorf("List: %d, %v", len(l), err)
	}
}

// A row that somebody locks holds up only who wants it, and not for ever.
func TestLockedRow(t *testing.T) {
	server := storetest.StartPostgres(t, "fsync=off")
	url := "postgres://postgres@" + server.Addr + "/postgres?lock_timeout=200ms"
	s := open(t, url)
	for _, key := range []string{"locked", "free"} {
		if err := s.Create(t.Context(), store.Record{Key: key, Value: []byte("0")}); err != nil {
			t.Fatal(err)
		}
	}
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	tx, err := conn.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), "select from mcp_clerk_record where key = 'locked' for update"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Update(t.Context(), "locked", storetest.Increment); err == nil || errors.Is(err, store.ErrNotFound) {
		t.Errorf("Update of a locked row: error %v", err)
	}
	if _, err := s.Update(t.Context(), "free", storetest.Increment); err != nil {
		t.Error(err)
	}
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	if r, err := s.Update(t.Context(), "locked", storetest.Increment); err != nil || string(r.Value) != "1" {
		t.Errorf("Update = %q, %v", r.Value, err)
	}
}
