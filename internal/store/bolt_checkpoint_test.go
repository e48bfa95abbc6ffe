package store_test

import (
	"bytes"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mcp-clerk/mcp-clerk/internal/store"
	"github.com/mcp-clerk/mcp-clerk/internal/store/storetest"
)

// Checkpoints, which take the log over into the store file: beside everything
// else, and in turns of two files.

// Checkpoints, backups, compactions, sweeps and reads go on beside the writes,
// and a reopened store has what was written.
func TestBoltCheckpointsBesideEverythingElse(t *testing.T) {
	path := storePath(t)
	s := openBolt(t, path, store.Options{})
	s.KeepLog(8 << 10)
	const writers, records = 8, 150
	value := strings.Repeat("v", 300)
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range records {
				key := fmt.Sprintf("%d/%03d", w, i)
				mustCreate(t, s, key, value, time.Time{})
				if _, err := s.Update(t.Context(), key, func(old store.Record) ([]byte, time.Time, error) {
					return append(old.Value, '+'), time.Time{}, nil
				}); err != nil {
					t.Error(err)
					return
				}
				if i%3 == 0 {
					if _, err := s.Take(t.Context(), key); err != nil {
						t.Error(err)
						return
					}
				}
				// What this writer wrote it sees, wherever it is by now.
				found, err := s.List(t.Context(), fmt.Sprintf("%d/", w), "", 1000)
				if want := i + 1 - (i/3 + 1); err != nil || len(found) != want {
					t.Errorf("writer %d lists %d records after %d, %v, want %d", w, len(found), i+1, err, want)
					return
				}
			}
		})
	}
	stop := make(chan struct{})
	var beside sync.WaitGroup
	beside.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			var err error
			switch i % 3 {
			case 0:
				_, err = s.Backup(t.Context(), new(bytes.Buffer))
			case 1:
				_, _, err = s.Compact(t.Context())
			case 2:
				_, err = s.Sweep(t.Context())
			}
			if err != nil {
				t.Error(err)
				return
			}
		}
	})
	wg.Wait()
	close(stop)
	beside.Wait()
	check := func(s store.Store) {
		t.Helper()
		all, err := s.List(t.Context(), "", "", 10_000)
		if want := writers * (records - records/3); err != nil || len(all) != want {
			t.Fatalf("%d records, %v, want %d", len(all), err, want)
		}
		for _, r := range all {
			if string(r.Value) != value+"+" {
				t.Fatalf("record %q has %d bytes", r.Key, len(r.Value))
			}
		}
	}
	check(s)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	check(openBolt(t, path, store.Options{}))
}

// A checkpoint ends in the middle of a commit: what it brought into the file is
// seen by the writes of that commit, which began to read the file before.
func TestBoltCommitSeesWhatACheckpointTakesAway(t *testing.T) {
	met := 0
	for range 20 {
		synctest.Test(t, func(t *testing.T) {
			path := storePath(t)
			if runtime.GOOS == "windows" { // where a map that must grow waits for who reads
				room := openBolt(t, path, store.Options{})
				mustCreate(t, room, "room", strings.Repeat("x", 4<<20), time.Time{})
				if _, err := room.Take(t.Context(), "room"); err != nil {
					t.Fatal(err)
				}
				if err := room.Close(); err != nil {
					t.Fatal(err)
				}
			}
			s := openBolt(t, path, store.Options{})
			s.KeepLog(1 << 20)
			update := func(key string, f func()) {
				if _, err := s.Update(t.Context(), key, func(old store.Record) ([]byte, time.Time, error) {
					f()
					return old.Value, time.Time{}, nil
				}); err != nil {
					t.Error(err)
				}
			}
			mustCreate(t, s, "first", "", time.Time{})
			mustCreate(t, s, "second", "", time.Time{})
			mustCreate(t, s, "counter", "1", time.Time{})
			mustCreate(t, s, "large", strings.Repeat("x", 1<<20), time.Time{})
			// The log is full: the next commit sends all of this on its way.
			var wg sync.WaitGroup
			hold := make(chan struct{})
			wg.Go(func() { update("first", func() { <-hold }) })
			synctest.Wait()
			wg.Go(func() {
				update("second", func() {
					if s.Checkpointing() {
						met++
					}
					for s.Checkpointing() {
						runtime.Gosched()
					}
				})
			})
			synctest.Wait()
			wg.Go(func() {
				if r, err := s.Update(t.Context(), "counter", storetest.Increment); err != nil || string(r.Value) != "2" {
					t.Errorf("the counter is %q, %v", r.Value, err)
				}
			})
			synctest.Wait()
			close(hold)
			wg.Wait()
		})
	}
	if met == 0 {
		t.Error("no checkpoint was under way")
	}
}

// The files of the log take turns once one is full. What an earlier turn has
// left behind the frames of the last one is no damage.
func TestBoltLogTakesTurns(t *testing.T) {
	path := storePath(t)
	s := openBolt(t, path, store.Options{})
	s.KeepLog(64 << 10)
	before := s.Turn()
	for i := range 100 {
		mustCreate(t, s, fmt.Sprint("k", i), strings.Repeat("x", 10_000), time.Time{})
	}
	if turns := s.Turn() - before; turns < 10 || turns > 20 {
		t.Errorf("%d turns for 1 MB in files of 64 KiB", turns)
	}
	for s.Checkpointing() {
		runtime.Gosched()
	}
	after := openBolt(t, crashed{files: filesOf(t, path)}.lay(t, nil), store.Options{})
	if all, err := after.List(t.Context(), "k", "", 1000); err != nil || len(all) != 100 {
		t.Errorf("%d records of 100 after a crash, %v", len(all), err)
	}
}

// A log file is written over once what it had is in the store file, and not
// before: who fills two of them waits for the checkpoint of the first.
func TestBoltLogWaitsForItsCheckpoint(t *testing.T) {
	s := openBolt(t, storePath(t), store.Options{})
	s.KeepLog(1) // every commit fills a file
	for i := range 20 {
		for _, part := range []string{"1", strings.Repeat("x", 1<<20), "3", "4"} { // that of the large one takes longer
			mustCreate(t, s, fmt.Sprint(i, "/", part[:1]), part, time.Time{})
		}
		if all, err := s.List(t.Context(), fmt.Sprint(i, "/"), "", 10); err != nil || len(all) != 4 {
			t.Fatalf("round %d: %d records of 4, %v", i, len(all), err)
		}
	}
}
