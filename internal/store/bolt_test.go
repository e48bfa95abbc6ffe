package store_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mcp-clerk/mcp-clerk/internal/store"
	"github.com/mcp-clerk/mcp-clerk/internal/store/storetest"
)

func storePath(t testing.TB) string { return filepath.Join(t.TempDir(), "store.db") }

func mustCreate(t testing.TB, s store.Store, key, value string, expires time.Time) {
	t.Helper()
	if err := s.Create(t.Context(), store.Record{Key: key, Value: []byte(value), Expires: expires}); err != nil {
		t.Fatal(err)
	}
}

func wantValue(t testing.TB, s store.Store, key, value string) {
	t.Helper()
	r, err := s.Get(t.Context(), key)
	if err != nil {
		t.Fatalf("Get(%q): %v", key, err)
	}
	if string(r.Value) != value {
		t.Fatalf("Get(%q) = %q, want %q", key, r.Value, value)
	}
}

func TestOpenByURL(t *testing.T) {
	dir := t.TempDir()
	for _, test := range []struct {
		url     string
		problem string // part of the error
	}{
		{url: "bolt:" + filepath.Join(dir, "a.db")},
		{url: "bolt:///" + strings.TrimPrefix(filepath.ToSlash(filepath.Join(dir, "a.db")), "/")},
		{url: "memory:"},
		{url: "memory://"},
		{"memory:x", "nothing after the colon"},
		{"bolt:", "has no path"},
		{"", "unknown"},
		{"/var/lib/store.db", "unknown"},
		{"redis://user:hunter2@host/0", "unknown"},
		{"mysql://user:hunter2@host/db", `"mysql" is unknown`},
	} {
		s, err := store.Open(t.Context(), test.url, store.Options{})
		if test.problem != "" {
			if err == nil || !strings.Contains(err.Error(), test.problem) {
				t.Errorf("Open(%q): error %v, want one with %q", test.url, err, test.problem)
			}
			if err != nil && strings.Contains(err.Error(), "hunter2") {
				t.Errorf("Open(%q): the error tells the password: %v", test.url, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("Open(%q): %v", test.url, err)
			continue
		}
		mustCreate(t, s, "k"+test.url, "v", time.Time{})
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestBoltKeepsRecordsOverAReopen(t *testing.T) {
	path := storePath(t)
	expires := time.Date(2030, 1, 2, 3, 4, 5, 678_000_000, time.UTC)
	s := openBolt(t, path, store.Options{})
	mustCreate(t, s, "kept", "value", expires)
	mustCreate(t, s, "taken", "value", time.Time{})
	if _, err := s.Take(t.Context(), "taken"); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = openBolt(t, path, store.Options{})
	r, err := s.Get(t.Context(), "kept")
	if err != nil || string(r.Value) != "value" || !r.Expires.Equal(expires) {
		t.Fatalf("Get = %+v, %v", r, err)
	}
	if _, err := s.Get(t.Context(), "taken"); !errors.Is(err, store.ErrNotFound) {
		t.Fatalf("Get of a taken record: error %v", err)
	}
}

func TestBoltFileIsForItsUserOnly(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("no modes there")
	}
	path := filepath.Join(t.TempDir(), "made", "store.db")
	s := openBolt(t, path, store.Options{})
	wantMode := func(path string, want os.FileMode) {
		t.Helper()
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != want {
			t.Errorf("%s has mode %o, want %o", filepath.Base(path), info.Mode().Perm(), want)
		}
	}
	wantMode(filepath.Dir(path), 0o700)
	wantMode(path, 0o600)
	wantMode(path+".holder", 0o600)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	openBolt(t, path, store.Options{})
	wantMode(path, 0o600)
}

// blockCommitter keeps the committer busy in an update until release.
func blockCommitter(t *testing.T, s store.Store) (release func()) {
	t.Helper()
	mustCreate(t, s, "blocker", "", time.Time{})
	running, hold := make(chan struct{}), make(chan struct{})
	done := make(chan error, 1)
	go func() {
		_, err := s.Update(context.Background(), "blocker", func(old store.Record) ([]byte, time.Time, error) {
			close(running)
			<-hold
			return old.Value, time.Time{}, nil
		})
		done <- err
	}()
	<-running
	return func() {
		close(hold)
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

// Group commit: what queues while a commit is under way shares the next one.
func TestBoltWritesShareACommit(t *testing.T) {
	const n = 200
	synctest.Test(t, func(t *testing.T) {
		s := openBolt(t, storePath(t), store.Options{})
		release := blockCommitter(t, s)
		var wg sync.WaitGroup
		for i := range n {
			wg.Go(func() { mustCreate(t, s, fmt.Sprint("k", i), "v", time.Time{}) })
		}
		synctest.Wait() // all are queued
		before := s.Commits()
		release()
		wg.Wait()
		after := s.Commits()
		// The blocker's own and one for all the others.
		if after-before != 2 {
			t.Errorf("%d writes took %d commits", n, after-before-1)
		}
	})
}

func TestBoltWritesInOneCommitSeeEachOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := openBolt(t, storePath(t), store.Options{})
		release := blockCommitter(t, s)
		ctx := t.Context()
		refused := errors.New("refused")
		type outcome struct {
			r   store.Record
			err error
		}
		steps := []struct {
			do   func() (store.Record, error)
			want string
			err  error
		}{
			{do: func() (store.Record, error) { return s.Take(ctx, "k") }, err: store.ErrNotFound},
			{do: func() (store.Record, error) {
				return store.Record{}, s.Create(ctx, store.Record{Key: "k", Value: []byte("1")})
			}},
			{do: func() (store.Record, error) { return s.Update(ctx, "k", storetest.Increment) }, want: "2"},
			{do: func() (store.Record, error) { return store.Record{}, s.Create(ctx, store.Record{Key: "k"}) }, err: store.ErrExists},
			{do: func() (store.Record, error) {
				return s.Update(ctx, "k", func(store.Record) ([]byte, time.Time, error) { return nil, time.Time{}, refused })
			}, err: refused},
			{do: func() (store.Record, error) { return s.Update(ctx, "k", storetest.Increment) }, want: "3"},
			{do: func() (store.Record, error) { return s.Take(ctx, "k") }, want: "3"},
			{do: func() (store.Record, error) { return s.Update(ctx, "k", storetest.Increment) }, err: store.ErrNotFound},
			{do: func() (store.Record, error) {
				return store.Record{}, s.Create(ctx, store.Record{Key: "k", Value: []byte("9")})
			}},
		}
		before := s.Commits()
		outcomes := make([]chan outcome, len(steps))
		for i, step := range steps {
			outcomes[i] = make(chan outcome, 1)
			go func() {
				r, err := step.do()
				outcomes[i] <- outcome{r, err}
			}()
			synctest.Wait() // it is queued, in this order
		}
		release()
		for i, step := range steps {
			got := <-outcomes[i]
			if !errors.Is(got.err, step.err) || string(got.r.Value) != step.want {
				t.Errorf("step %d: %q, %v, want %q, %v", i, got.r.Value, got.err, step.want, step.err)
			}
		}
		wantValue(t, s, "k", "9")
		if after := s.Commits(); after-before != 2 {
			t.Errorf("%d commits", after-before-1)
		}
	})
}

func TestBoltWriteIsTakenBackUntilItBegins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := openBolt(t, storePath(t), store.Options{})
		mustCreate(t, s, "k", "0", time.Time{})
		release := blockCommitter(t, s)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() {
			_, err := s.Update(ctx, "k", storetest.Increment)
			done <- err
		}()
		synctest.Wait()
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) { // the committer is still blocked
			t.Errorf("error %v, want %v", err, context.Canceled)
		}
		release()
		wantValue(t, s, "k", "0")

		// One that has begun is awaited.
		ctx, cancel = context.WithCancel(t.Context())
		r, err := s.Update(ctx, "k", func(old store.Record) ([]byte, time.Time, error) {
			cancel()
			return storetest.Increment(old)
		})
		if err != nil || string(r.Value) != "1" {
			t.Errorf("Update = %q, %v", r.Value, err)
		}
		wantValue(t, s, "k", "1")
	})
}

// A caller whose answer needs no change of the file costs no commit.
func TestBoltReadsNothingCommitsNothing(t *testing.T) {
	s := openBolt(t, storePath(t), store.Options{})
	mustCreate(t, s, "k", "v", time.Time{})
	before := s.Commits()
	_ = s.Create(t.Context(), store.Record{Key: "k"})
	_, _ = s.Take(t.Context(), "none")
	_, _ = s.Update(t.Context(), "k", func(store.Record) ([]byte, time.Time, error) { return nil, time.Time{}, errors.New("no") })
	_ = s.Delete(t.Context(), "none")
	_, _ = s.Sweep(t.Context())
	if after := s.Commits(); after != before {
		t.Errorf("%d commits", after-before)
	}
}

func TestBoltSweepsInTheBackground(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := openBolt(t, storePath(t), store.Options{SweepEvery: time.Minute})
		const n = 3 * store.SweepScan
		var wg sync.WaitGroup
		for w := range 32 {
			wg.Go(func() {
				for i := w; i < n; i += 32 {
					expires := time.Now().Add(time.Duration(1+i%2*10) * time.Hour)
					mustCreate(t, s, fmt.Sprintf("k%05d", i), "v", expires)
				}
			})
		}
		wg.Wait()
		time.Sleep(time.Hour + store.SweepSlack - 2*time.Minute)
		removed, err := s.Sweep(t.Context()) // nothing was swept yet
		if err != nil || removed != n/2 {
			t.Fatalf("Sweep removed %d, %v, want %d", removed, err, n/2)
		}
		time.Sleep(10*time.Hour + 5*time.Minute) // the background sweep had the rest to itself
		if removed, err = s.Sweep(t.Context()); err != nil || removed != 0 {
			t.Fatalf("Sweep removed %d, %v, want 0", removed, err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

// cases: clocks 5 minutes apart, jumping back: no mass expiry.
func TestBoltClockThatJumpsAheadCostsNoRecord(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var offset time.Duration
		now := func() time.Time {
			mu.Lock()
			defer mu.Unlock()
			return time.Now().Add(offset)
		}
		jump := func(d time.Duration) {
			mu.Lock()
			defer mu.Unlock()
			offset += d
		}
		s := openBolt(t, storePath(t), store.Options{SweepEvery: time.Second, Now: now})
		mustCreate(t, s, "code", "v", now().Add(time.Minute))
		jump(10 * time.Minute)
		time.Sleep(5 * time.Second) // sweeps run
		if _, err := s.Get(t.Context(), "code"); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("Get while the clock is ahead: error %v", err)
		}
		jump(-10 * time.Minute)
		wantValue(t, s, "code", "v")
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

// mappings are the ways in which the file may be mapped.
var mappings = map[string]store.Options{"large map": {}, "map that grows": store.Options{}.SmallMap()}

func TestBoltBackupIsConsistentUnderWrites(t *testing.T) {
	for name, o := range mappings {
		t.Run(name, func(t *testing.T) { testBackupUnderWrites(t, openBolt(t, storePath(t), o)) })
	}
}

func testBackupUnderWrites(t *testing.T, s *store.Bolt) {
	stop := make(chan struct{})
	var wg sync.WaitGroup
	var started sync.WaitGroup
	for w := range 4 {
		started.Add(1)
		wg.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				if err := s.Create(t.Context(), store.Record{Key: fmt.Sprintf("w%d/%06d", w, i), Value: []byte(strconv.Itoa(i))}); err != nil {
					t.Error(err)
					return
				}
				if i == 20 {
					started.Done()
				}
			}
		})
	}
	started.Wait()
	var copies []string
	for i := range 3 {
		name := filepath.Join(t.TempDir(), fmt.Sprint("backup", i))
		f, err := os.Create(name)
		if err != nil {
			t.Fatal(err)
		}
		n, err := s.Backup(t.Context(), f)
		if err != nil {
			t.Fatal(err)
		}
		if info, err := f.Stat(); err != nil || info.Size() != n || n == 0 {
			t.Errorf("Backup wrote %d bytes and says %d (%v)", info.Size(), n, err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		copies = append(copies, name)
	}
	close(stop)
	wg.Wait()
	for _, name := range copies {
		b := openBolt(t, name, store.Options{})
		for w := range 4 {
			records, err := b.List(t.Context(), fmt.Sprintf("w%d/", w), "", 1_000_000)
			if err != nil {
				t.Fatal(err)
			}
			if len(records) <= 20 {
				t.Errorf("writer %d has %d records in the backup", w, len(records))
			}
			for i, r := range records { // each wrote in order: a moment has no gaps
				if string(r.Value) != strconv.Itoa(i) {
					t.Fatalf("record %d of writer %d is %q", i, w, r.Value)
				}
			}
		}
		mustCreate(t, b, "a restored store", "takes writes", time.Time{})
	}
}

// writerFunc is an io.Writer.
type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

func TestBoltSlowBackupHoldsNobodyUp(t *testing.T) {
	for name, o := range mappings {
		t.Run(name, func(t *testing.T) { testSlowBackup(t, openBolt(t, storePath(t), o)) })
	}
}

func testSlowBackup(t *testing.T, s *store.Bolt) {
	mustCreate(t, s, "k", "0", time.Time{})
	began, hold := make(chan struct{}), make(chan struct{})
	var once sync.Once
	done := make(chan error, 1)
	go func() {
		_, err := s.Backup(context.Background(), writerFunc(func(b []byte) (int, error) {
			once.Do(func() { close(began) })
			<-hold
			return len(b), nil
		}))
		done <- err
	}()
	<-began
	// More than the file had room for: it grows under the backup.
	for i := range 20 {
		mustCreate(t, s, fmt.Sprint("large", i), strings.Repeat("x", 1<<20), time.Time{})
	}
	if _, err := s.Backup(t.Context(), writerFunc(func(b []byte) (int, error) { return len(b), nil })); !errors.Is(err, store.ErrBusy) {
		t.Errorf("a second backup: error %v, want %v", err, store.ErrBusy)
	}
	wantValue(t, s, "k", "0")
	wantValue(t, s, "large0", strings.Repeat("x", 1<<20))
	if _, _, err := s.Compact(t.Context()); !errors.Is(err, store.ErrBusy) {
		t.Errorf("a compaction during a backup: error %v, want %v", err, store.ErrBusy)
	}
	close(hold)
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestBoltBackupStops(t *testing.T) {
	for name, o := range mappings {
		t.Run(name, func(t *testing.T) { testBackupStops(t, o) })
	}
}

func testBackupStops(t *testing.T, o store.Options) {
	path := storePath(t)
	s := openBolt(t, path, o)
	broken := errors.New("broken pipe")
	if _, err := s.Backup(t.Context(), writerFunc(func([]byte) (int, error) { return 0, broken })); !strings.Contains(fmt.Sprint(err), broken.Error()) {
		t.Errorf("error %v, want %v", err, broken)
	}
	ctx, cancel := context.WithCancel(t.Context())
	if _, err := s.Backup(ctx, writerFunc(func(b []byte) (int, error) { cancel(); return len(b), nil })); err == nil {
		t.Error("a cancelled backup reported success")
	}
	mustCreate(t, s, "k", "v", time.Time{})
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Backup(t.Context(), writerFunc(func(b []byte) (int, error) { return len(b), nil })); !errors.Is(err, store.ErrClosed) {
		t.Errorf("error %v, want %v", err, store.ErrClosed)
	}
	if left, err := filepath.Glob(path + ".aside-*"); err != nil || len(left) != 0 {
		t.Errorf("files left: %q (%v)", left, err)
	}
}

func TestBoltCompactionReturnsSpaceAndLosesNothing(t *testing.T) {
	path := storePath(t)
	s := openBolt(t, path, store.Options{})
	value := strings.Repeat("x", 50_000)
	for i := range 200 {
		mustCreate(t, s, fmt.Sprintf("k%03d", i), value, time.Time{})
	}
	for i := range 200 {
		if i%10 != 0 {
			if err := s.Delete(t.Context(), fmt.Sprintf("k%03d", i)); err != nil {
				t.Fatal(err)
			}
		}
	}
	mustCreate(t, s, "counter", "0", time.Time{})
	stop := make(chan struct{})
	var wg sync.WaitGroup
	counted := 0
	wg.Go(func() {
		for ; ; counted++ {
			select {
			case <-stop:
				return
			default:
			}
			if _, err := s.Update(t.Context(), "counter", storetest.Increment); err != nil {
				t.Error(err)
				return
			}
		}
	})
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				wantValue(t, s, "k010", value)
			}
		}
	})
	for round := range 3 {
		before, after, err := s.Compact(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("compacted from %d to %d bytes", before, after)
		if round == 0 && after > before/4 {
			t.Errorf("compacted from %d to %d bytes", before, after)
		}
	}
	close(stop)
	wg.Wait()
	check := func(s store.Store) {
		t.Helper()
		wantValue(t, s, "counter", strconv.Itoa(counted))
		for i := 0; i < 200; i += 10 {
			wantValue(t, s, fmt.Sprintf("k%03d", i), value)
		}
	}
	check(s)
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := s.Compact(cancelled); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want %v", err, context.Canceled)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.Compact(t.Context()); !errors.Is(err, store.ErrClosed) {
		t.Errorf("error %v, want %v", err, store.ErrClosed)
	}
	s = openBolt(t, path, store.Options{})
	check(s)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	left, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(left) != 1 {
		t.Errorf("beside the store there is %v (%v)", left, err)
	}
}
