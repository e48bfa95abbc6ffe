package postgres_test

import (
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/mcp-clerk/mcp-clerk/internal/store/storetest"
)

func BenchmarkStore(b *testing.B) {
	server := storetest.StartPostgres(b)
	url := "postgres://postgres@" + server.Addr + "/postgres"
	pool, err := pgxpool.New(b.Context(), url+"?pool_max_conns=16")
	if err != nil {
		b.Fatal(err)
	}
	defer pool.Close()
	// The least that a durable write takes there.
	if _, err := pool.Exec(b.Context(), "create table least (x int primary key, body bytea)"); err != nil {
		b.Fatal(err)
	}
	b.Run("least write", func(b *testing.B) {
		body := make([]byte, 600)
		for i := 0; b.Loop(); i++ {
			if _, err := pool.Exec(b.Context(), "insert into least values ($1, $2) on conflict (x) do update set body = excluded.body", i%1000, body); err != nil {
				b.Fatal(err)
			}
		}
	})
	storetest.Benchmark(b, open(b, url), func() error {
		_, err := pool.Exec(b.Context(), "select 1")
		return err
	})
}
