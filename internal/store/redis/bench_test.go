package redis_test

import (
	"fmt"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"github.com/mcp-clerk/mcp-clerk/internal/store/storetest"
)

func BenchmarkStore(b *testing.B) {
	addr := storetest.Away(b, storetest.StartRedis(b).Addr)
	client := goredis.NewClient(&goredis.Options{Addr: addr, PoolSize: 32})
	defer client.Close()
	name := func(i int) string { return fmt.Sprint("bare", i%storetest.BareRecords) }
	record := make([]byte, storetest.RecordSize)
	storetest.Benchmark(b, open(b, "redis://"+addr), storetest.Bare{
		Read: func(i int) error { return client.Get(b.Context(), name(i)).Err() },
		Write: func(i int) error {
			return client.Set(b.Context(), name(i), record, time.Hour).Err()
		},
	})
}
