package redis_test

import (
	"testing"

	goredis "github.com/redis/go-redis/v9"

	"github.com/mcp-clerk/mcp-clerk/internal/store/storetest"
)

func BenchmarkStore(b *testing.B) {
	server := storetest.StartRedis(b)
	client := goredis.NewClient(&goredis.Options{Addr: server.Addr, PoolSize: 32})
	defer client.Close()
	storetest.Benchmark(b, open(b, "redis://"+server.Addr), func() error { return client.Ping(b.Context()).Err() })
}
