package authserver_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/mcp-clerk/mcp-clerk/internal/identity"
	"github.com/mcp-clerk/mcp-clerk/internal/store"
	"github.com/mcp-clerk/mcp-clerk/internal/store/postgres"
	"github.com/mcp-clerk/mcp-clerk/internal/store/redis"
	"github.com/mcp-clerk/mcp-clerk/internal/store/storetest"
)

// BenchmarkSizing measures what the records of real registrations and sign-ins
// take in each store, for docs/operations.md; b.N clients and as many users:
//
//	go test ./internal/authserver -run '^$' -bench Sizing -benchtime 5000x
func BenchmarkSizing(b *testing.B) {
	b.Run("bolt", func(b *testing.B) {
		path := filepath.Join(b.TempDir(), "state.db")
		measureSizes(b, func(now func() time.Time) (store.Store, func() int64) {
			s, err := store.OpenBolt(b.Context(), path, store.Options{Now: now, SweepEvery: -1})
			if err != nil {
				b.Fatal(err)
			}
			used := func() int64 {
				n, err := s.Backup(b.Context(), io.Discard) // the file itself grows in steps
				if err != nil {
					b.Fatal(err)
				}
				return n
			}
			worst := 1.0
			return s, func() int64 {
				loose := used()
				if _, _, err := s.Compact(b.Context()); err != nil {
					b.Fatal(err)
				}
				compact := used()
				worst = max(worst, float64(loose)/float64(compact))
				b.ReportMetric(worst, "x-of-that-uncompacted")
				return compact
			}
		})
	})
	b.Run("redis", func(b *testing.B) {
		server := storetest.StartRedis(b)
		measureSizes(b, func(now func() time.Time) (store.Store, func() int64) {
			s, err := redis.Open(b.Context(), "redis://"+server.Addr, redis.Options{Now: now})
			if err != nil {
				b.Fatal(err)
			}
			return s, func() int64 {
				_, rest, _ := strings.Cut(server.RedisCLI("info", "memory"), "used_memory:")
				line, _, _ := strings.Cut(rest, "\r\n")
				n, err := strconv.ParseInt(line, 10, 64)
				if err != nil {
					b.Fatal(err)
				}
				return n
			}
		})
	})
	b.Run("postgres", func(b *testing.B) {
		server := storetest.StartPostgres(b)
		url := "postgres://postgres@" + server.Addr + "/postgres"
		conn, err := pgx.Connect(b.Context(), url)
		if err != nil {
			b.Fatal(err)
		}
		defer conn.Close(context.Background())
		measureSizes(b, func(now func() time.Time) (store.Store, func() int64) {
			s, err := postgres.Open(b.Context(), url, postgres.Options{Now: now})
			if err != nil {
				b.Fatal(err)
			}
			return s, func() (n int64) {
				if _, err := conn.Exec(b.Context(), "vacuum full mcp_clerk_record"); err != nil {
					b.Fatal(err)
				}
				if err := conn.QueryRow(b.Context(), "select pg_total_relation_size('mcp_clerk_record')").Scan(&n); err != nil {
					b.Fatal(err)
				}
				return n
			}
		})
	})
}

// measureSizes reports bytes of the store, compacted, for each client, for each
// user's sign-in (a grant and the consent), for a grant that is being used, which
// is refreshed every hour with the last refresh token, and for a session that
// was ended.
func measureSizes(b *testing.B, open func(now func() time.Time) (store.Store, func() int64)) {
	e := newEnv(b)
	e.clock.now = time.Now()
	s, size := open(e.clock.Now)
	defer s.Close()
	e.store = s
	e.start()
	before := size()
	step := func(name string, do func(i int)) {
		for i := range b.N {
			do(i)
			e.clock.advance(100 * time.Millisecond) // the limits of requests per second are kept
		}
		if _, err := s.Sweep(b.Context()); err != nil {
			b.Fatal(err)
		}
		now := size()
		b.ReportMetric(float64(now-before)/float64(b.N), "B/"+name)
		before = now
	}
	step("client", func(i int) { e.register(fmt.Sprintf("Claude Code (server-%d)", i), loopRedirect) })

	c := e.register("Claude", webRedirect)
	tokens := make([]tokens, b.N)
	user := func(i int) string { return fmt.Sprintf("user_2dEvCLerk%017d", i) } // as long as Clerk's
	step("sign-in", func(i int) {
		e.provider.signInAs(identity.User{ID: user(i), Email: fmt.Sprintf("user%d@example.com", i)})
		tokens[i] = e.signIn(c, "scope", "mcp:tools offline_access")
	})
	refresh := func(i int) {
		a := e.refresh(c, tokens[i].refresh)
		if a.status != http.StatusOK {
			b.Fatalf("refresh: %d %s", a.status, a.body)
		}
		tokens[i] = e.tokens(a)
	}
	for range 3 {
		e.clock.advance(time.Hour)
		for i := range b.N {
			refresh(i)
			e.clock.advance(100 * time.Millisecond)
		}
	}
	e.clock.advance(time.Hour)
	step("refreshes", refresh)

	// What a session of the revisions before 2026-07-28 leaves when its client
	// ends it, until its id expires (internal/mcphttp).
	step("ended-session", func(i int) {
		if err := s.Create(b.Context(), store.Record{Key: fmt.Sprintf("session/%032x", i), Value: []byte(`{"closed":true}`), Expires: e.clock.Now().Add(7 * 24 * time.Hour)}); err != nil {
			b.Fatal(err)
		}
	})

	if left, err := s.List(b.Context(), "signin/", "", 1); err != nil || len(left) > 0 {
		b.Fatalf("a finished sign-in has left %d records (%v)", len(left), err)
	}
	for _, kind := range []string{"client/", "consent/", "grant/"} {
		records, err := s.List(b.Context(), kind, "", 100)
		if err != nil || len(records) == 0 {
			b.Fatalf("%d records %s (%v)", len(records), kind, err)
		}
		n := 0
		for _, r := range records {
			n += len(r.Key) + len(r.Value)
		}
		b.ReportMetric(float64(n)/float64(len(records)), "B/key+value-of-"+strings.TrimSuffix(kind, "/"))
	}
}
