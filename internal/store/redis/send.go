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
func (d *database) read(ctx context.Context, sc script, keys []string, args ...any) (any, error) {
	answer, err := sc.Run(ctx, d.client, keys, args...).Result()
	return answer, store.WithContext(ctx, err)
}

// write runs a script that changes something, and never after it may have run.
// Once sent it is awaited though ctx ends: its outcome counts.
func (d *database) write(ctx context.Context, sc script, keys []string, args ...any) (answer any, err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*callTimeout)
	defer cancel()
	for attempt := range attempts {
		answer, err = d.send(bounded, "evalsha", sc.Hash(), keys, args)
		if goredis.HasErrorPrefix(err, "NOSCRIPT") {
			answer, err = d.send(bounded, "eval", sc.text, keys, args)
		}
		if err == nil || !refused(err) {
			break
		}
		// A fail-over or a move of slots is under way.
		d.reload(bounded)
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

func (d *database) send(ctx context.Context, name, body string, keys []string, args []any) (any, error) {
	all := []any{name, body, len(keys)}
	for _, key := range keys {
		all = append(all, key)
	}
	cmd := once{goredis.NewCmd(ctx, append(all, args...)...)}
	cmd.SetFirstKeyPos(3)
	if d.replicas == 0 {
		if err := d.client.Process(ctx, cmd); err != nil {
			return nil, err
		}
		return cmd.Val(), nil
	}
	return d.sendAndWait(ctx, cmd, keys[0])
}

// sendAndWait has the replicas confirm a write. WAIT counts for the connection
// that it comes on, so both go to the master of the key together.
func (d *database) sendAndWait(ctx context.Context, cmd once, key string) (any, error) {
	node, err := d.nodeOf(ctx, key)
	if err != nil {
		return nil, err
	}
	pipe := node.Pipeline()
	_ = pipe.Process(ctx, cmd)
	wait := goredis.NewIntCmd(ctx, "wait", d.replicas, replicaTimeout.Milliseconds())
	_ = pipe.Process(ctx, wait)
	_, pipeErr := pipe.Exec(ctx)
	if err := cmd.Err(); err != nil {
		return nil, err
	}
	if pipeErr != nil && !errors.Is(pipeErr, goredis.Nil) {
		return nil, pipeErr
	}
	if n := wait.Val(); n < int64(d.replicas) {
		return nil, fmt.Errorf("redis wrote, but %d of %d replicas have it", n, d.replicas)
	}
	return cmd.Val(), nil
}

// nodeOf returns the server that a key, or a channel, belongs to.
func (d *database) nodeOf(ctx context.Context, key string) (goredis.Cmdable, error) {
	if cluster, ok := d.client.(*goredis.ClusterClient); ok {
		return cluster.MasterForKey(ctx, key)
	}
	return d.client, nil
}

// reload has a Cluster's client look which node has which slots.
func (d *database) reload(ctx context.Context) {
	if cluster, ok := d.client.(*goredis.ClusterClient); ok {
		cluster.ReloadState(ctx)
	}
}
