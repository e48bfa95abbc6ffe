package postgres_test

import (
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/mcp-clerk/mcp-clerk/internal/store/storetest"
)

func BenchmarkStore(b *testing.B) {
	url := "postgres://postgres@" + storetest.Away(b, storetest.StartPostgres(b).Addr) + "/postgres"
	pool, err := pgxpool.New(b.Context(), url+"?pool_max_conns=16")
	if err != nil {
		b.Fatal(err)
	}
	defer pool.Close()
	if _, err := pool.Exec(b.Context(), "create table bare (x int primary key, body bytea)"); err != nil {
		b.Fatal(err)
	}
	record := make([]byte, storetest.RecordSize)
	storetest.Benchmark(b, open(b, url), storetest.Bare{
		Read: func(i int) error {
			var body []byte
			return pool.QueryRow(b.Context(), "select body from bare where x = $1", i%storetest.BareRecords).Scan(&body)
		},
		Write: func(i int) error {
			_, err := pool.Exec(b.Context(), "insert into bare values ($1, $2) on conflict (x) do update set body = excluded.body",
				i%storetest.BareRecords, record)
			return err
		},
	})
}
