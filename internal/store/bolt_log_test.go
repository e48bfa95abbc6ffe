package store_test

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"github.com/mcp-clerk/mcp-clerk/internal/store"
)

// crashed is the files of a store that was not closed: some records in its file,
// ten commits of one record each in its log. ends[i] is how long the log was
// after i of them.
type crashed struct {
	files map[string][]byte // by what follows the name of the store
	ends  []int
}

func logKey(i int) string   { return fmt.Sprint("log/", i) }
func logValue(i int) string { return strings.Repeat(fmt.Sprint("logged ", i, " "), 20+i) }

func crash(t testing.TB) crashed {
	t.Helper()
	path := storePath(t)
	s := openBolt(t, path, store.Options{})
	mustCreate(t, s, "file/a", "in the file", time.Time{})
	mustCreate(t, s, "file/taken", "in the file", time.Time{})
	if _, err := s.Backup(t.Context(), new(bytes.Buffer)); err != nil { // settles them
		t.Fatal(err)
	}
	var c crashed
	end := func() int {
		b, err := os.ReadFile(path + ".log0")
		if err != nil {
			t.Fatal(err)
		}
		return len(bytes.TrimRight(b, "\x00"))
	}
	c.ends = append(c.ends, 0)
	for i := range 9 {
		mustCreate(t, s, logKey(i), logValue(i), time.Time{})
		c.ends = append(c.ends, end())
	}
	if _, err := s.Take(t.Context(), "file/taken"); err != nil {
		t.Fatal(err)
	}
	c.ends = append(c.ends, end())
	c.files = filesOf(t, path)
	return c
}

// filesOf returns the files of the store at path as a crash would leave them now.
func filesOf(t testing.TB, path string) map[string][]byte {
	t.Helper()
	files := make(map[string][]byte)
	for _, name := range []string{"", ".log0", ".log1"} {
		b, err := os.ReadFile(path + name)
		if err != nil {
			t.Fatal(err)
		}
		files[name] = b
	}
	return files
}

// lay writes the files where a store is looked for, some of them changed.
func (c crashed) lay(t testing.TB, change func(files map[string][]byte)) (path string) {
	t.Helper()
	path = storePath(t)
	files := make(map[string][]byte)
	for name, b := range c.files {
		files[name] = slices.Clone(b)
	}
	if change != nil {
		change(files)
	}
	for name, b := range files {
		if err := os.WriteFile(path+name, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return path
}

// has reports how many of the log's commits a store has, or that it has another
// one than those before.
func (c crashed) has(t testing.TB, s store.Store) (n int, err error) {
	t.Helper()
	wantValue(t, s, "file/a", "in the file")
	for i := range 9 {
		r, err := s.Get(t.Context(), logKey(i))
		switch {
		case err == nil && n == i && string(r.Value) == logValue(i):
			n++
		case !errors.Is(err, store.ErrNotFound):
			return n, fmt.Errorf("commit %d is there, commit %d is not, or its value is not the one written (%w)", i, n, err)
		}
	}
	switch _, err := s.Get(t.Context(), "file/taken"); {
	case errors.Is(err, store.ErrNotFound) && n == 9:
		return 10, nil
	case err != nil:
		return n, fmt.Errorf("the take came before commit %d: %w", n, err)
	}
	return n, nil
}

// What a crash leaves is whole again at the next start, and after it the log is
// not needed any more.
func TestBoltReadsItsLogAfterACrash(t *testing.T) {
	c := crash(t)
	path := c.lay(t, nil)
	for range 2 {
		s := openBolt(t, path, store.Options{})
		if n, err := c.has(t, s); n != 10 || err != nil {
			t.Errorf("%d of 10 commits, %v", n, err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if left, err := os.ReadDir(filepath.Dir(path)); err != nil || len(left) != 1 {
			t.Errorf("after Close beside the store there is %v (%v)", left, err)
		}
	}
}

// A commit that the power ended is there or not; those before it are there.
func TestBoltLogWithATornEnd(t *testing.T) {
	c := crash(t)
	for name, tear := range map[string]func(b []byte, at int) []byte{
		"zeros": func(b []byte, at int) []byte { clear(b[at:]); return b },
		"noise": func(b []byte, at int) []byte { copy(b[at:], bytes.Repeat([]byte{0xa5}, 5000)); return b },
		"zeros, and a part of a step more": func(b []byte, at int) []byte {
			clear(b[at:])
			return append(b, make([]byte, 4096)...)
		},
	} {
		t.Run(name, func(t *testing.T) {
			for i := 1; i < len(c.ends); i++ {
				for _, at := range []int{c.ends[i-1], c.ends[i-1] + 1, c.ends[i-1] + 50, (c.ends[i-1] + c.ends[i]) / 2, c.ends[i] - 1, c.ends[i]} {
					path := c.lay(t, func(files map[string][]byte) { files[".log0"] = tear(files[".log0"], at) })
					s, err := store.OpenBolt(t.Context(), path, store.Options{})
					if err != nil {
						t.Fatalf("log torn at byte %d: %v", at, err)
					}
					want := i - 1
					if at == c.ends[i] {
						want = i
					}
					if n, err := c.has(t, s); n != want || err != nil {
						t.Errorf("log torn at byte %d: %d commits, %v, want %d", at, n, err, want)
					}
					mustCreate(t, s, "new", "v", time.Time{})
					if err := s.Close(); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
}

// A log that lacks acknowledged commits is reported with its fix, and everything
// is left as it is.
func TestBoltDamagedLogs(t *testing.T) {
	c := crash(t)
	flip := func(at int) func(map[string][]byte) {
		return func(files map[string][]byte) { files[".log0"][at] ^= 1 }
	}
	tests := map[string]struct {
		change  func(files map[string][]byte)
		problem string
	}{
		"no log":            {func(files map[string][]byte) { delete(files, ".log0"); delete(files, ".log1") }, "is missing"},
		"half of the log":   {func(files map[string][]byte) { delete(files, ".log1") }, "is missing"},
		"files exchanged":   {func(files map[string][]byte) { files[".log0"], files[".log1"] = files[".log1"], files[".log0"] }, "damaged"},
		"first commit":      {flip(60), "damaged"},
		"a header":          {flip(c.ends[4] + 3), "damaged"},
		"a commit's length": {flip(c.ends[4] + 10), "damaged"},
		"a commit's number": {flip(c.ends[4] + 43), "damaged"},
		"last but one":      {flip(c.ends[9] - 1), "damaged"},
		"a commit cut out": {func(files map[string][]byte) {
			b := files[".log0"]
			files[".log0"] = slices.Concat(b[:c.ends[3]], b[c.ends[4]:])
		}, "damaged"},
		"cut off":                 {func(files map[string][]byte) { files[".log0"] = files[".log0"][:c.ends[4]] }, "damaged"},
		"cut off in a commit":     {func(files map[string][]byte) { files[".log0"] = files[".log0"][:c.ends[9]-1] }, "damaged"},
		"cut off to nothing":      {func(files map[string][]byte) { files[".log0"] = nil }, "damaged"},
		"cut off in a later step": {func(files map[string][]byte) { files[".log0"] = append(files[".log0"], 1) }, "damaged"},
		"the other one cut off":   {func(files map[string][]byte) { files[".log1"] = files[".log1"][:100] }, "damaged"},
		"a commit twice": {func(files map[string][]byte) {
			b := files[".log0"]
			files[".log0"] = slices.Concat(b[:c.ends[4]], b[c.ends[3]:])
		}, "damaged"},
		"a page of zeros": {func(files map[string][]byte) { clear(files[".log0"][512:1024]) }, "damaged"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			path := c.lay(t, test.change)
			read := func() map[string]string {
				found := make(map[string]string)
				entries, err := os.ReadDir(filepath.Dir(path))
				if err != nil {
					t.Fatal(err)
				}
				for _, e := range entries {
					b, err := os.ReadFile(filepath.Join(filepath.Dir(path), e.Name()))
					if err != nil {
						t.Fatal(err)
					}
					found[e.Name()] = string(b)
				}
				return found
			}
			before := read()
			_, err := store.OpenBolt(t.Context(), path, store.Options{})
			problem, ok := errors.AsType[*store.OpenError](err)
			if !ok || !strings.Contains(problem.Problem, test.problem) || !strings.Contains(problem.Fix, "restore a backup") {
				t.Fatalf("error %v (%T)", err, err)
			}
			t.Log(err)
			if !maps.Equal(before, read()) {
				t.Error("the files were changed")
			}
		})
	}
}

// A copy of the state before, put in the place of the store, has nothing to do
// with the log that lies beside it.
func TestBoltRestoredBackupIgnoresTheLogBesideIt(t *testing.T) {
	path := storePath(t)
	s := openBolt(t, path, store.Options{})
	mustCreate(t, s, "before", "v", time.Time{})
	var backup bytes.Buffer
	if _, err := s.Backup(t.Context(), &backup); err != nil {
		t.Fatal(err)
	}
	mustCreate(t, s, "after", "v", time.Time{})
	restored := storePath(t)
	if err := os.WriteFile(restored, backup.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	if n, err := store.CheckBackup(restored); n != 1 || err != nil {
		t.Errorf("CheckBackup = %d, %v", n, err)
	}
	if b, err := os.ReadFile(restored); err != nil || !bytes.Equal(b, backup.Bytes()) {
		t.Errorf("the check changed the backup (%v)", err)
	}
	for _, name := range []string{".log0", ".log1"} {
		b, err := os.ReadFile(path + name)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(restored+name, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	r := openBolt(t, restored, store.Options{})
	wantValue(t, r, "before", "v")
	if _, err := r.Get(t.Context(), "after"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("a record from after the backup: error %v", err)
	}
}

// What is no whole store is not taken for a backup.
func TestCheckBackupRefusesWhatIsNone(t *testing.T) {
	good := makeStore(t)
	large := bytes.LastIndex(good, []byte(strings.Repeat("l", 30_000)))
	flipped := slices.Clone(good)
	flipped[large+100] ^= 1
	for name, content := range map[string][]byte{
		"a store that was not closed": crash(t).files[""],
		"a part of a store":           good[:large+10_000],
		"a record flipped":            flipped,
		"a text":                      []byte("<html>"),
		"an empty":                    nil,
	} {
		path := storePath(t)
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		n, err := store.CheckBackup(path)
		if _, ok := errors.AsType[*store.OpenError](err); !ok || n != 0 {
			t.Errorf("%s: %d records, %v", name, n, err)
		}
	}
	if _, err := store.CheckBackup(storePath(t)); err == nil {
		t.Error("no file: no error")
	}
}

// The version of the file that knew no log is opened, and is of this version
// then.
func TestBoltOpensTheFormatBefore(t *testing.T) {
	path := storePath(t)
	s := openBolt(t, path, store.Options{})
	mustCreate(t, s, "k", "v", time.Time{})
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	format := func(set string) (was string) {
		db, err := bbolt.Open(path, 0o600, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := db.Update(func(tx *bbolt.Tx) error {
			meta := tx.Bucket([]byte("meta"))
			was = string(meta.Get([]byte("format")))
			if set == "" {
				return nil
			}
			return meta.Put([]byte("format"), []byte(set))
		}); err != nil {
			t.Fatal(err)
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		return was
	}
	format("1")
	s = openBolt(t, path, store.Options{})
	wantValue(t, s, "k", "v")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if is := format(""); is != "2" {
		t.Errorf("format %q", is)
	}
}

// The log is broken in the middle of the work: what was acknowledged is there,
// the write that met it is carried out all the same, once.
func TestBoltGoesOnWithoutABrokenLog(t *testing.T) {
	path := storePath(t)
	s := openBolt(t, path, store.Options{})
	mustCreate(t, s, "counter", "0", time.Time{})
	for i := range 5 {
		mustCreate(t, s, fmt.Sprint("before/", i), "v", time.Time{})
		if err := s.BreakLog(); err != nil {
			t.Fatal(err)
		}
		mustCreate(t, s, fmt.Sprint("broken/", i), "v", time.Time{})
		mustCreate(t, s, fmt.Sprint("after/", i), "v", time.Time{})
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = openBolt(t, path, store.Options{})
	if all, err := s.List(t.Context(), "", "", 100); err != nil || len(all) != 16 {
		t.Errorf("%d records, %v", len(all), err)
	}
}

// Any bytes in the place of the log are refused, or end it, and never end the
// process or bring up a record that was not written.
func FuzzBoltLog(f *testing.F) {
	c := crash(f)
	f.Add(uint32(0), []byte{1})
	f.Add(uint32(c.ends[3]), c.files[".log0"][c.ends[2]:c.ends[3]])
	f.Add(uint32(c.ends[10]), c.files[".log0"][c.ends[2]:c.ends[3]])
	f.Add(uint32(8), []byte{0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, at uint32, patch []byte) {
		path := c.lay(t, func(files map[string][]byte) {
			b := files[".log0"]
			copy(b[int(at)%len(b):], patch)
		})
		s, err := store.OpenBolt(t.Context(), path, store.Options{})
		if err != nil {
			if _, ok := errors.AsType[*store.OpenError](err); !ok {
				t.Fatalf("error %v (%T)", err, err)
			}
			return
		}
		defer s.Close()
		if _, err := c.has(t, s); err != nil {
			t.Error(err)
		}
	})
}

// A process that is killed keeps what it wrote, a machine does not: only the
// sync makes a commit safe, so nobody hears of one before it, and nobody reads
// what it may yet take back.
func TestBoltConfirmsACommitAfterItsSync(t *testing.T) {
	s := openBolt(t, storePath(t), store.Options{})
	mustCreate(t, s, "before", "v", time.Time{})
	begun, finish := make(chan struct{}), make(chan struct{})
	s.OnSync(func(file *os.File) error {
		close(begun)
		<-finish
		return file.Sync()
	})
	done := make(chan error, 1)
	go func() { done <- s.Create(t.Context(), store.Record{Key: "k", Value: []byte("v")}) }()
	select {
	case <-begun:
	case err := <-done:
		t.Fatalf("Create returned %v without a sync", err)
	}
	select {
	case err := <-done:
		t.Errorf("Create returned %v during the sync", err)
		done <- err
	default:
	}
	if _, err := s.Get(t.Context(), "k"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("Get during the sync: %v, want ErrNotFound", err)
	}
	close(finish)
	if err := <-done; err != nil {
		t.Fatalf("Create: %v", err)
	}
	if _, err := s.Get(t.Context(), "k"); err != nil {
		t.Errorf("Get after the sync: %v", err)
	}
}

// After a sync that failed, a log may hold what the disk does not. What was
// confirmed before, and what is confirmed afterwards, is found without it.
func TestBoltDoesNotTrustALogWhoseSyncFailed(t *testing.T) {
	path := storePath(t)
	s := openBolt(t, path, store.Options{})
	mustCreate(t, s, "before", "v", time.Time{})
	s.OnSync(func(file *os.File) error {
		return errors.Join(errors.New("input/output error"), file.Truncate(0))
	})
	mustCreate(t, s, "k", "v", time.Time{})

	after := openBolt(t, crashed{files: filesOf(t, path)}.lay(t, nil), store.Options{})
	for _, key := range []string{"before", "k"} {
		wantValue(t, after, key, "v")
	}
}
