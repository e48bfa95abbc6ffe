package redis

import (
	"context"
	"errors"
	"fmt"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"github.com/mcp-clerk/mcp-clerk/internal/store"
)

// replicaTimeout is how long a write waits for the replicas it needs.
const replicaTimeout = time.Second

// attempts is how often a write is sent that the server refuses to run.
const attempts = 5

// once is a command that go-redis must not send again, since it may have run.
type once struct{ *goredis.Cmd }

// NoRetry is what go-redis asks.
func (once) NoRetry() bool { return true }

// read runs a script that changes nothing; go-redis repeats it after a lost
// connection.
func (s *Store) read(ctx context.Context, sc script, keys []string, args ...any) (any, error) {
	answer, err := sc.Run(ctx, s.client, keys, args...).Result()
	return answer, store.WithContext(ctx, err)
}

// write runs a script that changes something, and never after it may have run.
// Once sent it is awaited though ctx ends: its outcome counts.
func (s *Store) write(ctx context.Context, sc script, keys []string, args ...any) (answer any, err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*callTimeout)
	defer cancel()
	for attempt := range attempts {
		answer, err = s.send(bounded, "evalsha", sc.Hash(), keys, args)
		if goredis.HasErrorPrefix(err, "NOSCRIPT") {
			answer, err = s.send(bounded, "eval", sc.text, keys, args)
		}
		if err == nil || !refused(err) {
			break
		}
		// A fail-over or a move of slots is under way.
		s.reload(bounded)
		select {
		case <-ctx.Done():
			return nil, store.WithContext(ctx, err)
		case <-time.After(20 * time.Millisecond << attempt):
		}
	}
	return answer, err
}

// refused reports errors that say that the script did not run.
func refused(err error) bool {
	for _, prefix := range []string{"LOADING ", "READONLY ", "CLUSTERDOWN ", "TRYAGAIN ", "MASTERDOWN ", "NOREPLICAS ", "MOVED ", "ASK "} {
		if goredis.HasErrorPrefix(err, prefix) {
			return true
		}
	}
	return false
}

func (s *Store) send(ctx context.Context, name, body string, keys []string, args []any) (any, error) {
	all := []any{name, body, len(keys)}
	for _, key := range keys {
		all = append(all, key)
	}
	cmd := once{goredis.NewCmd(ctx, append(all, args...)...)}
	cmd.SetFirstKeyPos(3)
	if s.replicas == 0 {
		if err := s.client.Process(ctx, cmd); err != nil {
			return nil, err
		}
		return cmd.Val(), nil
	}
	return s.sendAndWait(ctx, cmd, keys[0])
}

// sendAndWait has the replicas confirm a write. WAIT counts for the connection
// that it comes on, so both go to the master of the key together.
func (s *Store) sendAndWait(ctx context.Context, cmd once, key string) (any, error) {
	node, err := s.nodeOf(ctx, key)
	if err != nil {
		return nil, err
	}
	pipe := node.Pipeline()
	_ = pipe.Process(ctx, cmd)
	wait := goredis.NewIntCmd(ctx, "wait", s.replicas, replicaTimeout.Milliseconds())
	_ = pipe.Process(ctx, wait)
	_, pipeErr := pipe.Exec(ctx)
	if err := cmd.Err(); err != nil {
		return nil, err
	}
	if pipeErr != nil && !errors.Is(pipeErr, goredis.Nil) {
		return nil, pipeErr
	}
	if n := wait.Val(); n < int64(s.replicas) {
		return nil, fmt.Errorf("redis wrote, but %d of %d replicas have it", n, s.replicas)
	}
	return cmd.Val(), nil
}

// nodeOf returns the server that a key, or a channel, belongs to.
func (s *Store) nodeOf(ctx context.Context, key string) (goredis.Cmdable, error) {
	if cluster, ok := s.client.(*goredis.ClusterClient); ok {
		return cluster.MasterForKey(ctx, key)
	}
	return s.client, nil
}

// reload has a Cluster's client look which node has which slots.
func (s *Store) reload(ctx context.Context) {
	if cluster, ok := s.client.(*goredis.ClusterClient); ok {
		cluster.ReloadState(ctx)
	}
}
