package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"time"
)

// CheckKey reports a key that no backend takes: an empty one, or one longer
// than MaxKey.
func CheckKey(key string) error {
	if key == "" {
		return errors.New("record key is empty")
	}
	if len(key) > MaxKey {
		return fmt.Errorf("record key of %d bytes is longer than %d", len(key), MaxKey)
	}
	return nil
}

// CheckValue reports a value that no backend takes: one longer than MaxValue.
func CheckValue(key string, value []byte) error {
	if len(value) > MaxValue {
		return fmt.Errorf("value of record %q has %d bytes, more than %d", key, len(value), MaxValue)
	}
	return nil
}

// CheckLimit reports a limit of List below 1.
func CheckLimit(limit int) error {
	if limit < 1 {
		return fmt.Errorf("limit %d of a listing is below 1", limit)
	}
	return nil
}

// Millis is an expiry as backends store it: milliseconds since 1970, 0 for
// never. An expiry before 1970 has passed, so the first millisecond stands for
// it.
func Millis(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return max(t.UnixMilli(), 1)
}

// FromMillis undoes Millis.
func FromMillis(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms).UTC()
}

// expired reports whether the expiry ms has passed at now.
func expired(ms int64, now time.Time) bool {
	return ms != 0 && now.UnixMilli() >= ms
}

// The embedded form of a record, under its key: one byte of version, eight of
// expiry, four of checksum over key, version, expiry and value, then the value.
const (
	recordVersion = 1
	recordHeader  = 1 + 8 + 4
)

var crcTable = crc32.MakeTable(crc32.Castagnoli)

// errDamaged marks a record or page whose bytes are not those written.
var errDamaged = errors.New("damaged")

func encodeRecord(r Record) []byte {
	b := make([]byte, recordHeader, recordHeader+len(r.Value))
	b[0] = recordVersion
	binary.BigEndian.PutUint64(b[1:], uint64(Millis(r.Expires)))
	b = append(b, r.Value...)
	binary.BigEndian.PutUint32(b[9:], recordSum(r.Key, b))
	return b
}

func recordSum(key string, b []byte) uint32 {
	sum := crc32.Update(0, crcTable, []byte(key))
	sum = crc32.Update(sum, crcTable, b[:9])
	return crc32.Update(sum, crcTable, b[recordHeader:])
}

// recordExpiry reads the expiry alone, which is all that a sweep needs.
func recordExpiry(key string, b []byte) (int64, error) {
	if len(b) < recordHeader {
		return 0, fmt.Errorf("record %q: %w: %d bytes", key, errDamaged, len(b))
	}
	if b[0] != recordVersion {
		return 0, fmt.Errorf("record %q has version %d, which this program doesn't know", key, b[0])
	}
	return int64(binary.BigEndian.Uint64(b[1:])), nil
}

// decodeRecord copies: b may belong to the mapped file.
func decodeRecord(key string, b []byte) (Record, error) {
	ms, err := recordExpiry(key, b)
	if err != nil {
		return Record{}, err
	}
	if binary.BigEndian.Uint32(b[9:]) != recordSum(key, b) {
		return Record{}, fmt.Errorf("record %q: %w: checksum differs", key, errDamaged)
	}
	value := make([]byte, len(b)-recordHeader)
	copy(value, b[recordHeader:])
	return Record{Key: key, Value: value, Expires: FromMillis(ms)}, nil
}

// firstError returns the first of errs that is one.
func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// PrefixEnd returns the first key behind all that start with prefix; ok is
// false where there is none.
func PrefixEnd(prefix string) (end string, ok bool) {
	for i := len(prefix) - 1; i >= 0; i-- {
		if prefix[i] != 0xff {
			return prefix[:i] + string([]byte{prefix[i] + 1}), true
		}
	}
	return "", false
}
