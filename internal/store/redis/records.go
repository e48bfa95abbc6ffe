package redis

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	goredis "github.com/redis/go-redis/v9"

	"github.com/mcp-clerk/mcp-clerk/internal/store"
)

// Load implements store.Database.
func (d *database) Load(ctx context.Context, key string) (store.Versioned, error) {
	answer, err := d.read(ctx, getScript, d.keys(key)[:1])
	if err != nil {
		return store.Versioned{}, missing(err)
	}
	return d.record(key, answer)
}

// missing turns the null of Redis into ErrNotFound.
func missing(err error) error {
	if errors.Is(err, goredis.Nil) {
		return store.ErrNotFound
	}
	return err
}

// Insert implements store.Database.
func (d *database) Insert(ctx context.Context, r store.Record) error {
	answer, err := d.write(ctx, createScript, d.keys(r.Key), r.Key, newVersion()+string(r.Value), d.ttl(r.Expires), score(r.Expires))
	if err != nil {
		return err
	}
	if answer != int64(1) {
		return store.ErrExists
	}
	return nil
}

// Swap implements store.Database.
func (d *database) Swap(ctx context.Context, old store.Versioned, next store.Record) (store.Versioned, bool, error) {
	now := store.Versioned{Record: next, Version: newVersion()}
	now.Value = slices.Clone(next.Value)
	now.Expires = store.FromMillis(store.Millis(next.Expires))
	ttl, first := "", ""
	if !next.Expires.Equal(old.Expires) {
		ttl = d.ttl(next.Expires)
		if old.Expires.IsZero() {
			first = score(next.Expires)
		}
	}
	answer, err := d.write(ctx, swapScript, d.keys(next.Key), next.Key, old.Version, now.Version+string(next.Value), ttl, first)
	if err != nil {
		return store.Versioned{}, false, err
	}
	return now, answer == int64(1), nil
}

// Remove implements store.Database.
func (d *database) Remove(ctx context.Context, key string) (store.Record, error) {
	answer, err := d.write(ctx, takeScript, d.keys(key), key)
	if err != nil {
		return store.Record{}, missing(err)
	}
	v, err := d.record(key, answer)
	return v.Record, err
}

// Drop implements store.Database.
func (d *database) Drop(ctx context.Context, key string) error {
	_, err := d.write(ctx, deleteScript, d.keys(key), key)
	return err
}

// Page implements store.Database.
func (d *database) Page(ctx context.Context, prefix, after string, limit int) ([]store.Record, error) {
	page := d.pageOfAll
	if _, whole := group(prefix); whole {
		page = d.pageOfShard
	}
	var found []store.Record
	for len(found) < limit {
		keys, records, end, err := page(ctx, prefix, after, limit-len(found))
		if err != nil {
			return nil, err
		}
		found = append(found, records...)
		if end {
			break
		}
		after = keys[len(keys)-1] // some had expired: go on behind them
	}
	return found, nil
}

// pageOfShard returns the next keys, at most limit of them, of a prefix that is
// in one shard, with the records that live, and whether there are no more.
func (d *database) pageOfShard(ctx context.Context, prefix, after string, limit int) (keys []string, records []store.Record, end bool, err error) {
	least, most := lexRange(prefix, after)
	shard := d.shard(shardOf(prefix))
	answer, err := d.read(ctx, listScript, []string{shard + "i"}, least, most, limit, shard+"r:")
	if err != nil {
		return nil, nil, false, err
	}
	parts, ok := answer.([]any)
	if !ok || len(parts) != 2 {
		return nil, nil, false, fmt.Errorf("list of %q: redis answered %T", prefix, answer)
	}
	names, okNames := parts[0].([]any)
	bodies, okBodies := parts[1].([]any)
	if !okNames || !okBodies || len(names) != len(bodies) {
		return nil, nil, false, fmt.Errorf("list of %q: redis answered no list", prefix)
	}
	for i, name := range names {
		key, ok := name.(string)
		if !ok {
			return nil, nil, false, fmt.Errorf("list of %q: redis answered a key of type %T", prefix, name)
		}
		keys = append(keys, key)
		if bodies[i] == int64(0) { // it has expired
			continue
		}
		v, err := d.record(key, bodies[i])
		if err != nil {
			return nil, nil, false, err
		}
		records = append(records, v.Record)
	}
	return keys, records, len(keys) < limit, nil
}

// pageOfAll is pageOfShard for a prefix that may be in any shard.
func (d *database) pageOfAll(ctx context.Context, prefix, after string, limit int) (keys []string, records []store.Record, end bool, err error) {
	if keys, end, err = d.indexed(ctx, prefix, after, limit); err != nil {
		return nil, nil, false, err
	}
	records, err = d.fetch(ctx, keys)
	return keys, records, end, err
}

// indexed returns the next keys, at most limit of them and in order, that the
// indexes hold, and whether there are no more.
func (d *database) indexed(ctx context.Context, prefix, after string, limit int) (keys []string, end bool, err error) {
	least, most := lexRange(prefix, after)
	// From each shard a part. What they give is all there is up to the first
	// key behind which one of them may have more.
	quota := min(limit, 2*limit/shards+8)
	pipe := d.client.Pipeline()
	ranges := make([]*goredis.StringSliceCmd, shards)
	for n := range shards {
		ranges[n] = pipe.ZRangeByLex(ctx, d.shard(n)+"i", &goredis.ZRangeBy{Min: least, Max: most, Count: int64(quota)})
	}
	if _, err := pipe.Exec(ctx); err != nil {
		return nil, false, store.WithContext(ctx, err)
	}
	end = true
	var bound string
	for _, r := range ranges {
		part := r.Val()
		keys = append(keys, part...)
		if len(part) == quota {
			if last := part[quota-1]; end || last < bound {
				bound = last
			}
			end = false
		}
	}
	slices.Sort(keys)
	if !end {
		n, _ := slices.BinarySearch(keys, bound)
		keys = keys[:n+1]
	}
	if len(keys) > limit {
		keys, end = keys[:limit], false
	}
	return keys, end, nil
}

// lexRange is the range of the keys with the prefix behind after, as Redis
// writes it.
func lexRange(prefix, after string) (least, most string) {
	switch {
	case after != "" && after >= prefix:
		least = "(" + after
	case prefix != "":
		least = "[" + prefix
	default:
		least = "-"
	}
	if next, ok := store.PrefixEnd(prefix); ok {
		return least, "(" + next
	}
	return least, "+"
}

// fetch returns the live ones of the records under keys.
func (d *database) fetch(ctx context.Context, keys []string) ([]store.Record, error) {
	if len(keys) == 0 {
		return nil, nil
	}
	pipe := d.client.Pipeline()
	answers := make([]*goredis.Cmd, len(keys))
	for i, key := range keys {
		answers[i] = getScript.Eval(ctx, pipe, d.keys(key)[:1])
	}
	if _, err := pipe.Exec(ctx); err != nil && !errors.Is(err, goredis.Nil) {
		return nil, store.WithContext(ctx, err)
	}
	var records []store.Record
	for i, answer := range answers {
		value, err := answer.Result()
		if errors.Is(err, goredis.Nil) {
			continue
		}
		if err != nil {
			return nil, err
		}
		v, err := d.record(keys[i], value)
		if err != nil {
			return nil, err
		}
		records = append(records, v.Record)
	}
	return records, nil
}

// sweep removes from the indexes the keys of records that have expired, and moves
// those that were given a longer life.
func (d *database) sweep(ctx context.Context) error {
	var errs []string
	for n := range shards {
		keys := []string{d.shard(n) + "i", d.shard(n) + "x"}
		for {
			answer, err := d.write(ctx, sweepScript, keys, d.shard(n)+"r:")
			if err != nil {
				if ctx.Err() != nil {
					return err
				}
				errs = append(errs, err.Error())
				break
			}
			if answer != int64(500) {
				break
			}
		}
	}
	if len(errs) > 0 {
		return errors.New(strings.Join(slices.Compact(errs), "; "))
	}
	return nil
}
