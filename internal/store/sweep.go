package store

import (
	"context"
	"slices"
	"time"

	"go.etcd.io/bbolt"
)

const (
	// sweepSlack is how long the background sweep leaves an expired record
	// where it is, unseen: a clock that was ahead for a while must not cost
	// records that are live once it is set right.
	sweepSlack = 15 * time.Minute
	// A slice of a sweep looks at sweepScan records and removes sweepRemove
	// of them at most, so that it never holds up writes for long.
	sweepScan   = 1000
	sweepRemove = 200
	sweepPause  = 10 * time.Millisecond
)

func (s *Bolt) sweepLoop() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	s.running.Go(func() {
		select {
		case <-s.stop:
			cancel()
		case <-ctx.Done():
		}
	})
	timer := time.NewTimer(s.options.SweepEvery)
	defer timer.Stop()
	for {
		select {
		case <-s.stop:
			return
		case <-timer.C:
		}
		n, err := s.sweep(ctx, sweepSlack, sweepPause)
		if err != nil && ctx.Err() == nil {
			s.log.Error("the sweep of the store failed", "path", s.path, "error", err)
		} else if n > 0 {
			s.log.Debug("swept the store", "path", s.path, "removed", n)
		}
		timer.Reset(s.options.SweepEvery)
	}
}

// Sweep implements Store.
func (s *Bolt) Sweep(ctx context.Context) (int, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	return s.sweep(ctx, 0, 0)
}

func (s *Bolt) sweep(ctx context.Context, slack, pause time.Duration) (removed int, err error) {
	for keys := range slices.Chunk(s.expiredInLayers(slack), sweepRemove) {
		n, err := s.removeExpired(ctx, keys, slack)
		removed += n
		if err != nil {
			return removed, err
		}
	}
	for after := []byte{}; after != nil; {
		var keys []string
		if keys, after, err = s.sweepSlice(after, slack); err != nil {
			return removed, err
		}
		if len(keys) > 0 {
			n, err := s.removeExpired(ctx, keys, slack)
			removed += n
			if err != nil {
				return removed, err
			}
		}
		if pause == 0 {
			if err := ctx.Err(); err != nil {
				return removed, err
			}
			continue
		}
		select {
		case <-ctx.Done():
			return removed, ctx.Err()
		case <-time.After(pause):
		}
	}
	return removed, nil
}

// expiredInLayers returns expired keys that the store file may not have yet.
func (s *Bolt) expiredInLayers(slack time.Duration) (keys []string) {
	now := s.now().Add(-slack)
	for _, c := range s.layers.list("", "") {
		if c.encoded == nil {
			continue
		}
		if ms, err := recordExpiry(c.key, c.encoded); err == nil && expired(ms, now) {
			keys = append(keys, c.key)
		}
	}
	return keys
}

// sweepSlice returns expired keys of the store file from after onwards, and where
// to go on: nil at the end.
func (s *Bolt) sweepSlice(after []byte, slack time.Duration) (keys []string, next []byte, err error) {
	now := s.now().Add(-slack)
	err = s.view(func() error {
		return s.readFile(func(records *bbolt.Bucket) error {
			c := records.Cursor()
			scanned := 0
			for k, v := c.Seek(after); k != nil; k, v = c.Next() {
				if scanned == sweepScan || len(keys) == sweepRemove {
					next = append([]byte{}, k...)
					return nil
				}
				scanned++
				ms, err := recordExpiry(string(k), v)
				if err != nil {
					s.log.Error("the sweep of the store met damage", "path", s.path, "error", err)
					continue
				}
				if expired(ms, now) {
					keys = append(keys, string(k))
				}
			}
			return nil
		})
	})
	return keys, next, err
}

// removeExpired removes those of keys that are still expired.
func (s *Bolt) removeExpired(ctx context.Context, keys []string, slack time.Duration) (removed int, err error) {
	_, err = s.write(ctx, keys[0], func(v *view) (Record, error) {
		removed = 0
		now := s.now().Add(-slack)
		for _, key := range keys {
			b := v.encoded(key)
			if b == nil {
				continue
			}
			ms, err := recordExpiry(key, b)
			if err != nil || !expired(ms, now) {
				continue
			}
			v.remove(key)
			removed++
		}
		return Record{}, nil
	})
	if err != nil {
		return 0, err
	}
	return removed, nil
}
