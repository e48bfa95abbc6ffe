package postgres

import (
	"strings"
	"sync"
	"testing"
	"testing/fstest"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/mcp-clerk/mcp-clerk/internal/store/storetest"
)

func steps(t *testing.T, files map[string]string) []migration {
	t.Helper()
	all, err := migrations(directory(files))
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func directory(files map[string]string) fstest.MapFS {
	dir := fstest.MapFS{}
	for name, sql := range files {
		dir["migrations/"+name] = &fstest.MapFile{Data: []byte(sql)}
	}
	return dir
}

func TestMigrationsAreNumbered(t *testing.T) {
	if all, err := migrations(files); err != nil || len(all) == 0 {
		t.Fatalf("the embedded ones: %v, %v", all, err)
	}
	for problem, files := range map[string]map[string]string{
		"not number 1":         {"0002_b.sql": ""},
		"not number 2":         {"0001_a.sql": "", "0003_c.sql": ""},
		"not number 3":         {"0001_a.sql": "", "0002_b.sql": "", "0002_c.sql": ""},
		"compatible with what": {"0001_a.sql": "-- compatible: 2\n"},
	} {
		if _, err := migrations(directory(files)); err == nil || !strings.Contains(err.Error(), problem) {
			t.Errorf("%v: error %v, want %q", files, err, problem)
		}
	}
}

func TestMigrate(t *testing.T) {
	server := storetest.StartPostgres(t)
	ctx := t.Context()
	database := func(t *testing.T, schema string) *pgxpool.Pool {
		t.Helper()
		config, err := parseURL("postgres://postgres@" + server.Addr + "/postgres?search_path=" + schema)
		if err != nil {
			t.Fatal(err)
		}
		pool, err := pgxpool.NewWithConfig(ctx, config)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(pool.Close)
		if _, err := pool.Exec(ctx, "create schema "+schema); err != nil {
			t.Fatal(err)
		}
		return pool
	}
	count := func(n *int) func(migration) { return func(migration) { *n++ } }
	first := map[string]string{"0001_a.sql": "create table a (x int)"}
	second := map[string]string{"0001_a.sql": first["0001_a.sql"], "0002_b.sql": "alter table a add y int; create table b (z int)"}

	t.Run("step by step, each once", func(t *testing.T) {
		db := database(t, "steps")
		n := 0
		for _, files := range []map[string]string{first, first, second, second} {
			if err := migrateTo(ctx, db, steps(t, files), count(&n)); err != nil {
				t.Fatal(err)
			}
		}
		if n != 2 {
			t.Errorf("%d steps were applied, want 2", n)
		}
		if _, err := db.Exec(ctx, "select y from a, b"); err != nil {
			t.Error(err)
		}
	})

	t.Run("by many instances at once", func(t *testing.T) {
		db := database(t, "many")
		var mu sync.Mutex
		n := 0
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() {
				err := migrateTo(ctx, db, steps(t, second), func(migration) {
					mu.Lock()
					defer mu.Unlock()
					n++
				})
				if err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if n != 2 {
			t.Errorf("%d steps were applied, want 2", n)
		}
	})

	t.Run("all or none", func(t *testing.T) {
		db := database(t, "broken")
		n := 0
		broken := map[string]string{"0001_a.sql": first["0001_a.sql"], "0002_b.sql": "create table b (z int); select 1/0"}
		if err := migrateTo(ctx, db, steps(t, broken), count(&n)); err == nil || !strings.Contains(err.Error(), "migration 2") {
			t.Errorf("error %v", err)
		}
		if version, _, err := schemaVersion(ctx, db); err != nil || version != 0 || n != 0 {
			t.Errorf("version %d, %v, %d told", version, err, n)
		}
		if err := migrateTo(ctx, db, steps(t, second), count(&n)); err != nil || n != 2 {
			t.Errorf("put right: %v, %d steps", err, n)
		}
	})

	t.Run("a newer schema that older programs can use", func(t *testing.T) {
		db := database(t, "newer")
		n := 0
		if err := migrateTo(ctx, db, steps(t, second), count(&n)); err != nil {
			t.Fatal(err)
		}
		if err := migrateTo(ctx, db, steps(t, first), count(&n)); err != nil || n != 2 {
			t.Errorf("the older program: %v, %d steps", err, n)
		}
	})

	t.Run("a newer schema that they can't use", func(t *testing.T) {
		db := database(t, "cut")
		n := 0
		third := map[string]string{"0001_a.sql": first["0001_a.sql"], "0002_b.sql": second["0002_b.sql"], "0003_c.sql": "-- compatible: 2\nalter table a drop x"}
		if err := migrateTo(ctx, db, steps(t, third), count(&n)); err != nil {
			t.Fatal(err)
		}
		if err := migrateTo(ctx, db, steps(t, second), count(&n)); err != nil {
			t.Errorf("the program that knows 2: %v", err)
		}
		if err := migrateTo(ctx, db, steps(t, first), count(&n)); err == nil || !strings.Contains(err.Error(), "start a newer version") {
			t.Errorf("the program that knows 1: error %v", err)
		}
	})

	t.Run("by a user that may not", func(t *testing.T) {
		db := database(t, "closed")
		if _, err := db.Exec(ctx, "create role reader login; grant usage on schema closed to reader"); err != nil {
			t.Fatal(err)
		}
		conn, err := pgx.Connect(ctx, "postgres://reader@"+server.Addr+"/postgres?search_path=closed")
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close(ctx)
		if err := explain(migrateTo(ctx, conn, steps(t, first), func(migration) {})); err == nil || !strings.Contains(err.Error(), "grant the user create") {
			t.Errorf("error %v", err)
		}
		// Once the owner has done it, the user needs no more than the tables.
		if err := migrateTo(ctx, db, steps(t, first), func(migration) {}); err != nil {
			t.Fatal(err)
		}
		if _, err := db.Exec(ctx, "grant select on closed.mcp_clerk_migration to reader"); err != nil {
			t.Fatal(err)
		}
		if err := migrateTo(ctx, conn, steps(t, first), func(migration) {}); err != nil {
			t.Error(err)
		}
	})
}

// The planner must find the end of a prefix in the index: a listing of one
// user's few grants must not read those of everybody behind.
func TestListReadsOnlyThePrefix(t *testing.T) {
	server := storetest.StartPostgres(t)
	s, err := Open(t.Context(), "postgres://postgres@"+server.Addr+"/postgres", Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	pool, err := pgxpool.New(t.Context(), "postgres://postgres@"+server.Addr+"/postgres")
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	if _, err := pool.Exec(t.Context(), `insert into mcp_clerk_record
		select convert_to('grant/user' || i || '/1', 'UTF8'), 'v', i from generate_series(1, 20000) as i; analyze mcp_clerk_record`, pgx.QueryExecModeSimpleProtocol); err != nil {
		t.Fatal(err)
	}
	for _, mode := range []string{"force_custom_plan", "force_generic_plan"} {
		tx, err := pool.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := tx.Exec(t.Context(), "set local plan_cache_mode = "+mode); err != nil {
			t.Fatal(err)
		}
		rows, err := tx.Query(t.Context(), "explain (analyze, buffers, costs off) "+listSQL, []byte("grant/user77/"), []byte(""), 100, []byte("grant/user770"))
		if err != nil {
			t.Fatal(err)
		}
		lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			t.Fatal(err)
		}
		plan := strings.Join(lines, "\n")
		if !strings.Contains(plan, "Index Scan using mcp_clerk_record_pkey") {
			t.Errorf("%s:\n%s", mode, plan)
		}
		for _, line := range lines {
			if strings.Contains(line, "Index Cond") && !strings.Contains(line, "key <") {
				t.Errorf("%s: the index isn't told the end:\n%s", mode, plan)
			}
		}
		if err := tx.Rollback(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

func TestAssembler(t *testing.T) {
	long := strings.Repeat("0123456789", 2000)
	parts := cut("topic", []byte(long))
	if len(parts) < 3 {
		t.Fatalf("%d parts", len(parts))
	}
	for _, part := range parts {
		if len(part) >= 8000 { // NOTIFY: "must be shorter than 8000 bytes"
			t.Errorf("a part has %d bytes", len(part))
		}
	}
	var a assembler
	feed := func(payloads ...string) (got []string, bad int) {
		for _, payload := range payloads {
			topic, message, complete, err := a.add(payload)
			if err != nil {
				bad++
			}
			if complete {
				got = append(got, topic+":"+string(message))
			}
		}
		return got, bad
	}
	other := cut("t", []byte("short"))
	for name, test := range map[string]struct {
		payloads []string
		want     int
		bad      int
	}{
		"whole":                    {parts, 1, 0},
		"its beginning was lost":   {append(parts[1:len(parts):len(parts)], other...), 1, 0},
		"its end was lost":         {append(parts[:2:2], other...), 1, 0},
		"a part in it was lost":    {append(parts[:1:1], append(parts[2:len(parts):len(parts)], other...)...), 1, 0},
		"strangers on the channel": {append([]string{"", "x", "a b c d", "a 0 1 !", "a 1 1 eA==", "a 0 99999999 eA==", "a -1 1 eA=="}, other...), 1, 7},
		"twice":                    {append(other, other...), 2, 0},
	} {
		got, bad := feed(test.payloads...)
		if len(got) != test.want || bad != test.bad {
			t.Errorf("%s: %d messages, %d bad, want %d, %d", name, len(got), bad, test.want, test.bad)
		}
		if len(got) > 0 && got[len(got)-1] != "t:short" && got[0] != "topic:"+long {
			t.Errorf("%s: %.50q", name, got)
		}
	}
}

func FuzzAssembler(f *testing.F) {
	f.Add("a 0 1 eA==", "a 0 2 eA==")
	for _, part := range cut("t", make([]byte, 9000)) {
		f.Add(part, part)
	}
	f.Fuzz(func(t *testing.T, one, two string) {
		var a assembler
		for _, payload := range []string{one, two} {
			if topic, message, complete, err := a.add(payload); complete && (err != nil || len(topic)+len(message) > 2*len(one)+2*len(two)) {
				t.Errorf("%q, %q: %d bytes, %v", topic, message, len(message), err)
			}
		}
	})
}
