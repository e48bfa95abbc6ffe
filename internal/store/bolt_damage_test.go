package store_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"github.com/mcp-clerk/mcp-clerk/internal/store"
)

// makeStore writes a store of 300 records and returns the bytes of its file.
func makeStore(t *testing.T) []byte {
	t.Helper()
	path := storePath(t)
	s := openBolt(t, path, store.Options{})
	for i := range 300 {
		mustCreate(t, s, damageKey(i), damageValue(i), time.Time{})
	}
	mustCreate(t, s, "large", strings.Repeat("l", 30_000), time.Time{})
	for i := 0; i < 300; i += 7 { // free pages
		if _, err := s.Take(t.Context(), damageKey(i)); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

func damageKey(i int) string   { return fmt.Sprintf("grant/user%d/%d", i%20, i) }
func damageValue(i int) string { return strings.Repeat(fmt.Sprintf("value %d ", i), 30) }

// checkDamaged reads all that makeStore wrote.
func checkDamaged(t *testing.T, s store.Store) error {
	t.Helper()
	for i := range 300 {
		r, err := s.Get(t.Context(), damageKey(i))
		if i%7 == 0 {
			if !errors.Is(err, store.ErrNotFound) {
				return fmt.Errorf("taken record %d: %q, %w", i, r.Value, err)
			}
		} else if err != nil || string(r.Value) != damageValue(i) {
			return fmt.Errorf("record %d: %.40q, %w", i, r.Value, err)
		}
	}
	r, err := s.Get(t.Context(), "large")
	if err != nil || len(r.Value) != 30_000 {
		return fmt.Errorf("large record: %d bytes, %w", len(r.Value), err)
	}
	return nil
}

// A file that can't be used is reported with its fix, and left as it is.
func TestBoltUnusableFiles(t *testing.T) {
	good := makeStore(t)
	page := os.Getpagesize()
	flip := func(at ...int) func([]byte) []byte {
		return func(b []byte) []byte {
			for _, at := range at {
				b[at] ^= 0x40
			}
			return b
		}
	}
	cut := func(n int) func([]byte) []byte { return func(b []byte) []byte { return b[:n] } }
	used := bytes.LastIndex(good, []byte(strings.Repeat("l", 30_000))) // in use for certain
	tests := map[string]func([]byte) []byte{
		"empty":                      cut(0),
		"one byte":                   cut(1),
		"cut off in the meta pages":  cut(100),
		"one page":                   cut(page),
		"two pages":                  cut(2 * page),
		"cut off in the middle":      cut(used + 10_000),
		"cut off in a page":          cut(used + 777),
		"both meta pages flipped":    flip(16+20, page+16+20),
		"both magic numbers flipped": flip(16, page+16),
		"a record flipped":           flip(used + 100),
		"text":                       func([]byte) []byte { return []byte(strings.Repeat("this is no store\n", 1000)) },
		"zeros":                      func(b []byte) []byte { return make([]byte, len(b)) },
		"the tail is zeros":          func(b []byte) []byte { clear(b[used:]); return b },
		"all but the meta pages":     func(b []byte) []byte { clear(b[2*page:]); return b },
		"noise behind the meta pages": func(b []byte) []byte {
			random := rand.New(rand.NewPCG(1, 2))
			for i := 2 * page; i < len(b); i++ {
				b[i] = byte(random.Uint32())
			}
			return b
		},
	}
	for name, damage := range tests {
		t.Run(name, func(t *testing.T) {
			path := storePath(t)
			if runtime.GOOS == "windows" {
				// What bbolt panicked on stays mapped, and can be neither
				// replaced nor removed, until the process ends.
				dir, err := os.MkdirTemp("", "damaged-*") //nolint:usetesting // whose removal would fail the test
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { _ = os.RemoveAll(dir) })
				path = filepath.Join(dir, "store.db")
			}
			bad := damage(slices.Clone(good))
			if err := os.WriteFile(path, bad, 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := store.OpenBolt(t.Context(), path, store.Options{})
			problem, ok := errors.AsType[*store.OpenError](err)
			if !ok || problem.Path != path || !strings.Contains(problem.Fix, "restore a backup") || !strings.Contains(err.Error(), strconv.Quote(path)) {
				t.Fatalf("error %v (%T)", err, err)
			}
			t.Log(err)
			if after, err := os.ReadFile(path); err != nil || !bytes.Equal(after, bad) {
				if runtime.GOOS != "windows" { // mapping a file makes it longer there
					t.Errorf("the file was changed (%v)", err)
				}
			}
			if left, err := os.ReadDir(filepath.Dir(path)); err != nil || len(left) != 1 {
				t.Errorf("beside the store there is %v (%v)", left, err)
			}
			if runtime.GOOS == "windows" {
				return
			}
			// The same process can go on once it is put right.
			if err := os.WriteFile(path, good, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := checkDamaged(t, openBolt(t, path, store.Options{})); err != nil {
				t.Error(err)
			}
		})
	}
}

// edited is good with the records bucket as edit leaves it, and every page and
// sum of the file in order.
func edited(t *testing.T, good []byte, edit func(records *bbolt.Bucket) error) []byte {
	t.Helper()
	path := storePath(t)
	if err := os.WriteFile(path, good, 0o600); err != nil {
		t.Fatal(err)
	}
	db, err := bbolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(func(tx *bbolt.Tx) error { return edit(tx.Bucket([]byte("records"))) })
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

// pages calls change for each page of a kind, with its number.
func pages(b []byte, kind uint16, change func(page []byte)) []byte {
	for at := 0; at < len(b); at += os.Getpagesize() {
		if page := b[at:]; binary.NativeEndian.Uint16(page[8:]) == kind && binary.NativeEndian.Uint64(page) == uint64(at/os.Getpagesize()) {
			change(page)
		}
	}
	return b
}

// Files whose parts are whole and contradict each other.
func TestBoltContradictions(t *testing.T) {
	good := makeStore(t)
	key, other := []byte(damageKey(1)), []byte(damageKey(2))
	const branch, freelist = 0x01, 0x10
	tests := map[string]struct {
		file []byte
		want string
	}{
		"a record under another's key": {edited(t, good, func(records *bbolt.Bucket) error {
			return records.Put(key, bytes.Clone(records.Get(other)))
		}), "checksum differs"},
		"a record of a version to come": {edited(t, good, func(records *bbolt.Bucket) error {
			b := bytes.Clone(records.Get(key))
			b[0]++
			table := crc32.MakeTable(crc32.Castagnoli)
			sum := crc32.Update(crc32.Update(crc32.Update(0, table, key), table, b[:9]), table, b[13:])
			binary.BigEndian.PutUint32(b[9:], sum)
			return records.Put(key, b)
		}), "has version 2"},
		"a log without a beginning": {edited(t, good, func(records *bbolt.Bucket) error {
			return records.Tx().Bucket([]byte("meta")).Put([]byte("log"), []byte("x"))
		}), "is named by 1 bytes"},
		"a page in two places": {pages(slices.Clone(good), branch, func(page []byte) {
			copy(page[16+16+8:16+16+16], page[16+8:16+16]) // the second element's page
		}), "is used twice"},
		"a page in use among the free ones": {pages(slices.Clone(good), freelist, func(page []byte) {
			pages(slices.Clone(good), branch, func(used []byte) { copy(page[16:24], used[16+8:16+16]) })
		}), "wrongly as free"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			path := storePath(t)
			if err := os.WriteFile(path, tt.file, 0o600); err != nil {
				t.Fatal(err)
			}
			s, err := store.OpenBolt(t.Context(), path, store.Options{})
			if err == nil {
				_ = s.Close()
			}
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want %q", err, tt.want)
			}
		})
	}
}

// What a damaged record was is for its owner to find out: it is not written over.
func TestBoltCreateLeavesADamagedRecord(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("an open file can't be damaged there")
	}
	path := storePath(t)
	good := makeStore(t)
	if err := os.WriteFile(path, good, 0o600); err != nil {
		t.Fatal(err)
	}
	s := openBolt(t, path, store.Options{})
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	value := []byte(strings.Repeat("l", 30_000))
	for at := bytes.Index(good, value); at >= 0; { // where it lay before, too
		if _, err := f.WriteAt([]byte("L"), int64(at+100)); err != nil {
			t.Fatal(err)
		}
		next := bytes.Index(good[at+len(value):], value)
		if next < 0 {
			break
		}
		at += len(value) + next
	}
	if err := s.Create(t.Context(), store.Record{Key: "large", Value: []byte("new")}); err == nil || errors.Is(err, store.ErrExists) {
		t.Errorf("Create over a damaged record: %v", err)
	}
	if r, err := s.Get(t.Context(), "large"); err == nil {
		t.Errorf("Get of a damaged record: %.20q", r.Value)
	}
}

func TestBoltOtherFiles(t *testing.T) {
	dir := t.TempDir()
	other := filepath.Join(dir, "other.db")
	db, err := bbolt.Open(other, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	newer := filepath.Join(dir, "newer.db")
	openAndClose(t, newer)
	if db, err = bbolt.Open(newer, 0o600, nil); err != nil {
		t.Fatal(err)
	}
	if err := db.Update(func(tx *bbolt.Tx) error { return tx.Bucket([]byte("meta")).Put([]byte("format"), []byte("3")) }); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	dangling := filepath.Join(dir, "dangling.db")
	if err := os.Symlink(filepath.Join(dir, "nowhere.db"), dangling); err != nil {
		t.Skip(err)
	}
	for name, test := range map[string]struct{ path, problem, fix string }{
		"another program's database": {other, "no store of this program", "another file"},
		"a newer format":             {newer, `format "3"`, "newer version"},
		"a directory":                {dir, "is a directory", "store.db"},
		"no name":                    {"", "has no name", "bolt:/"},
		"no directory":               {filepath.Join(dir, "a", "b", "store.db"), "doesn't exist", "mkdir -p"},
		"a link to nowhere":          {dangling, "can't be opened", "check the path"},
		"a device":                   {os.DevNull, "is not a regular file", "local disk"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := store.OpenBolt(t.Context(), test.path, store.Options{})
			problem, ok := errors.AsType[*store.OpenError](err)
			if !ok || !strings.Contains(problem.Problem, test.problem) || !strings.Contains(problem.Fix, test.fix) {
				t.Fatalf("error %v (%T)", err, err)
			}
		})
	}
}

func openAndClose(t *testing.T, path string) {
	t.Helper()
	s, err := store.OpenBolt(t.Context(), path, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// A commit that the power ended leaves one meta page torn: the other is used.
func TestBoltOneTornMetaPage(t *testing.T) {
	good := makeStore(t)
	for i := range 2 {
		path := storePath(t)
		bad := slices.Clone(good)
		bad[i*os.Getpagesize()+16+50] ^= 1
		if err := os.WriteFile(path, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		s := openBolt(t, path, store.Options{})
		for i := range 290 { // the last take may be undone
			if i%7 != 0 {
				wantValue(t, s, damageKey(i), damageValue(i))
			}
		}
		mustCreate(t, s, "new", "v", time.Time{})
	}
}

// Whatever byte of the file is wrong, it is reported, or without effect.
func TestBoltFlippedBytesAreNeverBelieved(t *testing.T) {
	good := makeStore(t)
	random := rand.New(rand.NewPCG(3, 4))
	path := storePath(t)
	reported := 0
	rounds := 150
	if testing.Short() {
		rounds = 30
	}
	for range rounds {
		bad := slices.Clone(good)
		at := random.IntN(len(bad))
		if random.IntN(2) == 0 { // headers and elements are where it matters
			at = at/os.Getpagesize()*os.Getpagesize() + random.IntN(200)
		}
		at = min(at, len(bad)-1)
		bad[at] ^= byte(1 + random.IntN(255))
		if err := os.WriteFile(path, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := store.OpenBolt(t.Context(), path, store.Options{})
		if err != nil {
			if _, ok := errors.AsType[*store.OpenError](err); !ok {
				t.Fatalf("byte %d: error %v (%T)", at, err, err)
			}
			reported++
			continue
		}
		err = checkDamaged(t, s)
		if err != nil && at >= 2*os.Getpagesize() { // the older meta page undoes the last take
			t.Errorf("byte %d: %v", at, err)
		}
		for i := range 5 {
			mustCreate(t, s, fmt.Sprint("new", i), strings.Repeat("n", 500), time.Time{})
		}
		if err := s.Close(); err != nil {
			t.Errorf("byte %d: %v", at, err)
		}
		openAndClose(t, path)
	}
	t.Logf("%d of %d were reported", reported, rounds)
	if reported == 0 {
		t.Error("none was reported")
	}
}

// The file is cut off or overwritten under the running store: errors, and
// neither a crash nor an operation that never ends.
func TestBoltFileDamagedWhileOpen(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("an open file can't be damaged there")
	}
	good := makeStore(t)
	for name, damage := range map[string]func(path string) error{
		"cut off":     func(path string) error { return os.Truncate(path, 3*int64(os.Getpagesize())) },
		"cut to none": func(path string) error { return os.Truncate(path, 0) },
		"overwritten": func(path string) error {
			f, err := os.OpenFile(path, os.O_WRONLY, 0)
			if err != nil {
				return err
			}
			defer f.Close()
			_, err = f.WriteAt(bytes.Repeat([]byte{0xa5}, len(good)-2*os.Getpagesize()), 2*int64(os.Getpagesize()))
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			path := storePath(t)
			if err := os.WriteFile(path, good, 0o600); err != nil {
				t.Fatal(err)
			}
			s, err := store.OpenBolt(t.Context(), path, store.Options{})
			if err != nil {
				t.Fatal(err)
			}
			if err := checkDamaged(t, s); err != nil {
				t.Fatal(err)
			}
			if err := damage(path); err != nil {
				t.Fatal(err)
			}
			ctx := t.Context()
			for i := range 300 {
				if r, err := s.Get(ctx, damageKey(i)); err == nil && string(r.Value) != damageValue(i) {
					t.Fatalf("Get(%q) = %q", damageKey(i), r.Value)
				}
			}
			if _, err := s.Take(ctx, damageKey(1)); err == nil || errors.Is(err, store.ErrNotFound) {
				t.Errorf("Take from a damaged store: error %v", err)
			}
			if _, err := s.List(ctx, "", "", 1000); err == nil {
				t.Error("List of a damaged store: no error")
			}
			if err := s.Create(ctx, store.Record{Key: "new"}); err == nil {
				t.Error("Create in a damaged store: no error")
			}
			if _, err := s.Sweep(ctx); err == nil {
				t.Error("Sweep of a damaged store: no error")
			}
			_ = s.Close()
			if _, err := store.OpenBolt(ctx, path, store.Options{}); err == nil {
				t.Error("the damaged file was opened again")
			}
		})
	}
}

// A file with any bytes written over any place is refused or read as it was
// written, and never ends the process.
func FuzzBoltFile(f *testing.F) {
	path := filepath.Join(f.TempDir(), "store.db")
	s := openBolt(f, path, store.Options{})
	for i := range 40 {
		mustCreate(f, s, damageKey(i), damageValue(i), time.Time{})
	}
	if err := s.Close(); err != nil {
		f.Fatal(err)
	}
	good, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(uint32(16), []byte{0xff})
	f.Add(uint32(2*os.Getpagesize()+8), []byte{0x10, 0x00, 0xff, 0xff})
	f.Add(uint32(3*os.Getpagesize()), bytes.Repeat([]byte{0xff}, 64))
	f.Fuzz(func(t *testing.T, at uint32, patch []byte) {
		bad := slices.Clone(good)
		place := int(at) % len(bad)
		copy(bad[place:], patch)
		path := filepath.Join(t.TempDir(), "store.db")
		if err := os.WriteFile(path, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := store.OpenBolt(t.Context(), path, store.Options{})
		if err != nil {
			return
		}
		defer s.Close()
		for i := range 40 {
			r, err := s.Get(t.Context(), damageKey(i))
			// The older meta page, if it is taken, is of a moment before.
			if err == nil && string(r.Value) != damageValue(i) || err != nil && place >= 2*os.Getpagesize() {
				t.Errorf("record %d: %.40q, %v", i, r.Value, err)
			}
		}
		mustCreate(t, s, "new", "v", time.Time{})
	})
}

// A file that ends before its own end is damaged even where only pages are
// missing that are free, or that opening does not read: the rest cannot be trusted.
func TestBoltFileWithoutItsFreeEndIsDamaged(t *testing.T) {
	path := storePath(t)
	s := openBolt(t, path, store.Options{})
	mustCreate(t, s, "a", "value", time.Time{})
	mustCreate(t, s, "large", strings.Repeat("l", 300_000), time.Time{})
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = openBolt(t, path, store.Options{})
	if _, err := s.Take(t.Context(), "large"); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	end, newest := 0, uint64(0) // as the newer meta page has it
	for i := range 2 {
		meta := good[i*os.Getpagesize()+16:]
		if txid := binary.NativeEndian.Uint64(meta[48:]); txid >= newest {
			newest, end = txid, int(binary.NativeEndian.Uint64(meta[40:]))*os.Getpagesize()
		}
	}
	for name, size := range map[string]int{"whole": end, "without its last byte": end - 1, "without its last page": end - os.Getpagesize()} {
		if err := os.WriteFile(path, good[:size], 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := store.OpenBolt(t.Context(), path, store.Options{})
		if err == nil {
			_, err = s.Get(t.Context(), "a")
			err = errors.Join(err, s.Close())
		}
		damaged := size != end && runtime.GOOS != "windows" // mapping a file makes it longer there
		if problem, ok := errors.AsType[*store.OpenError](err); ok != damaged {
			t.Errorf("%s: %v, %v", name, problem, err)
		}
	}
}
