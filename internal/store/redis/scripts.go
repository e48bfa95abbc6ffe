package redis

import (
	"crypto/rand"
	"fmt"
	"hash/fnv"
	"strconv"
	"strings"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"github.com/mcp-clerk/mcp-clerk/internal/store"
)

// layout is the version of what follows.
//
// Every record belongs to one of so many shards, by the part of its key in
// front of the second slash, or else by the whole key: the grants of one user
// are in one shard. A shard has, under one hash tag, so that a Cluster keeps
// them together:
//
//	PREFIX:{PREFIX:SHARD}:r:KEY  the record: 16 random bytes, its version, then the value
//	PREFIX:{PREFIX:SHARD}:i      a sorted set, all scores 0: the keys in order
//	PREFIX:{PREFIX:SHARD}:x      a sorted set: the keys that expire, by when
const (
	layout      = "1"
	shards      = 64
	versionSize = 16
)

// group returns the part of a key that decides its shard, and for a prefix
// whether it decides that of every key with that prefix.
func group(key string) (part string, whole bool) {
	first := strings.IndexByte(key, '/')
	if first < 0 {
		return key, false
	}
	second := strings.IndexByte(key[first+1:], '/')
	if second < 0 {
		return key, false
	}
	return key[:first+1+second], true
}

func shardOf(key string) int {
	part, _ := group(key)
	h := fnv.New32a()
	_, _ = h.Write([]byte(part))
	return int(h.Sum32() % shards)
}

func (d *database) shard(n int) string {
	return d.prefix + ":{" + d.prefix + ":" + strconv.Itoa(n) + "}:"
}

func (d *database) keys(key string) []string {
	shard := d.shard(shardOf(key))
	return []string{shard + "r:" + key, shard + "i", shard + "x"}
}

func newVersion() string {
	var b [versionSize]byte
	_, _ = rand.Read(b[:]) // never fails
	return string(b[:])
}

// script is a Lua script, which Redis runs as a whole.
type script struct {
	*goredis.Script
	text string
}

func newScript(text string) script { return script{goredis.NewScript(text), text} }

// The scripts that change a record take it, the index and the expiry index as
// KEYS, and the record's key as the first of ARGV. A time to live is in
// milliseconds: "0" for ever, "" the one the record has; one that is negative
// has passed. The score in the expiry index only says when the sweep is to look
// at a key, so that it need not move with each change of the record.
var (
	// getScript returns the record and how long it has to live.
	getScript = newScript(`
local body = redis.call('GET', KEYS[1])
if not body then return false end
return {body, redis.call('PTTL', KEYS[1])}
`)
	// createScript takes the body, the time to live and the score.
	createScript = newScript(`
local ttl = tonumber(ARGV[3])
if ttl < 0 then return 1 - redis.call('EXISTS', KEYS[1]) end
local set
if ttl == 0 then
  set = redis.call('SET', KEYS[1], ARGV[2], 'NX')
else
  set = redis.call('SET', KEYS[1], ARGV[2], 'NX', 'PX', ARGV[3])
end
if not set then return 0 end
redis.call('ZADD', KEYS[2], 0, ARGV[1])
if ttl > 0 then redis.call('ZADD', KEYS[3], ARGV[4], ARGV[1]) end
return 1
`)
	// listScript takes the index as its one key, and the range, the limit and
	// what stands before a record's key in Redis. It returns the keys that the
	// index has and the records that live. Records and index are in one slot.
	listScript = newScript(`
local keys = redis.call('ZRANGEBYLEX', KEYS[1], ARGV[1], ARGV[2], 'LIMIT', 0, ARGV[3])
local records = {}
for i, key in ipairs(keys) do
  local body = redis.call('GET', ARGV[4] .. key)
  records[i] = body and {body, redis.call('PTTL', ARGV[4] .. key)} or 0
end
return {keys, records}
`)
	// swapScript takes the version that must be there, the body, the time to
	// live, and the score, "" if there is one already.
	swapScript = newScript(`
if redis.call('GETRANGE', KEYS[1], 0, 15) ~= ARGV[2] then return 0 end
if ARGV[4] == '' then
  redis.call('SET', KEYS[1], ARGV[3], 'KEEPTTL')
elseif ARGV[4] == '0' then
  redis.call('SET', KEYS[1], ARGV[3])
elseif tonumber(ARGV[4]) < 0 then
  redis.call('DEL', KEYS[1])
  redis.call('ZREM', KEYS[2], ARGV[1])
  redis.call('ZREM', KEYS[3], ARGV[1])
else
  redis.call('SET', KEYS[1], ARGV[3], 'PX', ARGV[4])
  if ARGV[5] ~= '' then redis.call('ZADD', KEYS[3], ARGV[5], ARGV[1]) end
end
return 1
`)
	takeScript = newScript(`
local body = redis.call('GET', KEYS[1])
if not body then return false end
local ttl = redis.call('PTTL', KEYS[1])
redis.call('DEL', KEYS[1])
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('ZREM', KEYS[3], ARGV[1])
return {body, ttl}
`)
	deleteScript = newScript(`
redis.call('DEL', KEYS[1])
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('ZREM', KEYS[3], ARGV[1])
return 1
`)
	// sweepScript takes the index and the expiry index as KEYS, and what stands
	// before a record's key in Redis. It looks at 500 keys at most and returns
	// at how many it did.
	sweepScript = newScript(`
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local due = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', string.format('%.0f', now), 'LIMIT', 0, 500)
for _, key in ipairs(due) do
  local ttl = redis.call('PTTL', ARGV[1] .. key)
  if ttl >= 0 then
    redis.call('ZADD', KEYS[2], string.format('%.0f', now + ttl + 1), key)
  else
    redis.call('ZREM', KEYS[2], key)
    if ttl == -2 then redis.call('ZREM', KEYS[1], key) end
  end
end
return #due
`)
)

// ttl is the time to live that a script takes.
func (d *database) ttl(expires time.Time) string {
	if expires.IsZero() {
		return "0"
	}
	ms := expires.Sub(d.now()).Milliseconds()
	if ms <= 0 {
		ms = -1
	}
	return strconv.FormatInt(ms, 10)
}

// score is when the sweep is to look at a record of that expiry first.
func score(expires time.Time) string { return strconv.FormatInt(expires.UnixMilli(), 10) }

// expires turns what PTTL says into a moment on this process's clock.
func (d *database) expires(pttl int64) time.Time {
	if pttl < 0 {
		return time.Time{}
	}
	return d.now().Add(time.Duration(pttl) * time.Millisecond).Truncate(time.Millisecond).UTC()
}

// record reads the answer of getScript and takeScript.
func (d *database) record(key string, answer any) (store.Versioned, error) {
	parts, ok := answer.([]any)
	if !ok || len(parts) != 2 {
		return store.Versioned{}, fmt.Errorf("record %q: redis answered %T", key, answer)
	}
	body, ok := parts[0].(string)
	pttl, okTTL := parts[1].(int64)
	if !ok || !okTTL || len(body) < versionSize {
		return store.Versioned{}, fmt.Errorf("record %q: redis holds no record there", key)
	}
	return store.Versioned{
		Record:  store.Record{Key: key, Value: []byte(body[versionSize:]), Expires: d.expires(pttl)},
		Version: body[:versionSize],
	}, nil
}
