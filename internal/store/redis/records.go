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

// Get implements store.Store.
func (s *Store) Get(ctx context.Context, key string) (store.Record, error) {
	leave, err := s.gate.Enter(ctx)
	if err != nil {
		return store.Record{}, err
	}
	defer leave()
	if err := store.CheckKey(key); err != nil {
		return store.Record{}, err
	}
	v, err := s.load(ctx, key)
	if err != nil {
		return store.Record{}, err
	}
	r := v.Record
	v.Value = slices.Clone(v.Value) // the caller may change r
	s.swapper.Saw(v)
	return r, nil
}

func (s *Store) load(ctx context.Context, key string) (store.Versioned, error) {
	answer, err := s.read(ctx, getScript, s.keys(key)[:1])
	if err != nil {
		return store.Versioned{}, missing(err)
	}
	return s.record(key, answer)
}

// missing turns the null of Redis into ErrNotFound.
func missing(err error) error {
	if errors.Is(err, goredis.Nil) {
		return store.ErrNotFound
	}
	return err
}

// Create implements store.Store.
func (s *Store) Create(ctx context.Context, r store.Record) error {
	leave, err := s.gate.Enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	if err := errors.Join(store.CheckKey(r.Key), store.CheckValue(r.Key, r.Value)); err != nil {
		return err
	}
	answer, err := s.write(ctx, createScript, s.keys(r.Key), r.Key, newVersion()+string(r.Value), s.ttl(r.Expires), score(r.Expires))
	if err != nil {
		return err
	}
	if answer != int64(1) {
		return store.ErrExists
	}
	return nil
}

// Update implements store.Store.
func (s *Store) Update(ctx context.Context, key string, f store.UpdateFunc) (store.Record, error) {
	leave, err := s.gate.Enter(ctx)
	if err != nil {
		return store.Record{}, err
	}
	defer leave()
	if err := store.CheckKey(key); err != nil {
		return store.Record{}, err
	}
	return s.swapper.Update(ctx, key, f)
}

func (s *Store) swap(ctx context.Context, old store.Versioned, next store.Record) (store.Versioned, bool, error) {
	now := store.Versioned{Record: next, Version: newVersion()}
	now.Value = slices.Clone(next.Value)
	now.Expires = store.FromMillis(store.Millis(next.Expires))
	ttl, first := "", ""
	if !next.Expires.Equal(old.Expires) {
		ttl = s.ttl(next.Expires)
		if old.Expires.IsZero() {
			first = score(next.Expires)
		}
	}
	answer, err := s.write(ctx, swapScript, s.keys(next.Key), next.Key, old.Version, now.Version+string(next.Value), ttl, first)
	if err != nil {
		return store.Versioned{}, false, err
	}
	return now, answer == int64(1), nil
}

// Take implements store.Store.
func (s *Store) Take(ctx context.Context, key string) (store.Record, error) {
	leave, err := s.gate.Enter(ctx)
	if err != nil {
		return store.Record{}, err
	}
	defer leave()
	if err := store.CheckKey(key); err != nil {
		return store.Record{}, err
	}
	s.swapper.Forget(key)
	answer, err := s.write(ctx, takeScript, s.keys(key), key)
	if err != nil {
		return store.Record{}, missing(err)
	}
	v, err := s.record(key, answer)
	return v.Record, err
}

// Delete implements store.Store.
func (s *Store) Delete(ctx context.Context, key string) error {
	leave, err := s.gate.Enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	if err := store.CheckKey(key); err != nil {
		return err
	}
	s.swapper.Forget(key)
	_, err = s.write(ctx, deleteScript, s.keys(key), key)
	return err
}

// List implements store.Store.
func (s *Store) List(ctx context.Context, prefix, after string, limit int) ([]store.Record, error) {
	leave, err := s.gate.Enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	if err := store.CheckLimit(limit); err != nil {
		return nil, err
	}
	page := s.pageOfAll
	if _, whole := group(prefix); whole {
		page = s.pageOfShard
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
func (s *Store) pageOfShard(ctx context.Context, prefix, after string, limit int) (keys []string, records []store.Record, end bool, err error) {
	least, most := lexRange(prefix, after)
	shard := s.shard(shardOf(prefix))
	answer, err := s.read(ctx, listScript, []string{shard + "i"}, least, most, limit, shard+"r:")
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
		v, err := s.record(key, bodies[i])
		if err != nil {
			return nil, nil, false, err
		}
		records = append(records, v.Record)
	}
	return keys, records, len(keys) < limit, nil
}

// pageOfAll is pageOfShard for a prefix that may be in any shard.
func (s *Store) pageOfAll(ctx context.Context, prefix, after string, limit int) (keys []string, records []store.Record, end bool, err error) {
	if keys, end, err = s.indexed(ctx, prefix, after, limit); err != nil {
		return nil, nil, false, err
	}
	records, err = s.fetch(ctx, keys)
	return keys, records, end, err
}

// indexed returns the next keys, at most limit of them and in order, that the
// indexes hold, and whether there are no more.
func (s *Store) indexed(ctx context.Context, prefix, after string, limit int) (keys []string, end bool, err error) {
	least, most := lexRange(prefix, after)
	// From each shard a part. What they give is all there is up to the first
	// key behind which one of them may have more.
	quota := min(limit, 2*limit/shards+8)
	pipe := s.client.Pipeline()
	ranges := make([]*goredis.StringSliceCmd, shards)
	for n := range shards {
		ranges[n] = pipe.ZRangeByLex(ctx, s.shard(n)+"i", &goredis.ZRangeBy{Min: least, Max: most, Count: int64(quota)})
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
func (s *Store) fetch(ctx context.Context, keys []string) ([]store.Record, error) {
	if len(keys) == 0 {
		return nil, nil
	}
	pipe := s.client.Pipeline()
	answers := make([]*goredis.Cmd, len(keys))
	for i, key := range keys {
		answers[i] = getScript.Eval(ctx, pipe, s.keys(key)[:1])
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
		v, err := s.record(keys[i], value)
		if err != nil {
			return nil, err
		}
		records = append(records, v.Record)
	}
	return records, nil
}

// sweep removes from the indexes the keys of records that have expired, and moves
// those that were given a longer life.
func (s *Store) sweep(ctx context.Context) error {
	var errs []string
	for n := range shards {
		keys := []string{s.shard(n) + "i", s.shard(n) + "x"}
		for {
			answer, err := s.write(ctx, sweepScript, keys, s.shard(n)+"r:")
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
