//go:build linux

package credstore_test

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"

	"github.com/mcp-clerk/mcp-clerk/internal/credstore"
)

// fakeKeyring is a Secret Service of one collection with the ways of keyrings
// that trouble their users. Items are named by the account they are for.
type fakeKeyring struct {
	mu       sync.Mutex
	items    map[string][]byte
	before   map[string][]byte // what readers see until shown
	shown    time.Time
	sessions int
	seen     fakeSeen
	fakeWays
}

// fakeWays are its peculiarities.
type fakeWays struct {
	late  time.Duration // until a write shows
	pause time.Duration // before each answer about items
	alone bool          // refuses a session beside another
	asks  bool          // wants a password at a prompt that nobody sees
	limit int           // of a secret, in bytes; 0 is none
}

// fakeSeen is what happened to it.
type fakeSeen struct {
	writes, overlaps, largest int
}

type fakeSecret struct {
	Session     dbus.ObjectPath
	Parameters  []byte
	Value       []byte
	ContentType string
}

const (
	secretsPath  = "/org/freedesktop/secrets"
	secretsIface = "org.freedesktop.Secret."
)

// fake puts a fakeKeyring on the bus.
func (s *secretService) fake(t *testing.T, ways fakeWays) *fakeKeyring {
	t.Helper()
	address, _ := strings.CutPrefix(s.env[len(s.env)-1], "DBUS_SESSION_BUS_ADDRESS=")
	conn, err := dbus.Connect(address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	k := &fakeKeyring{items: map[string][]byte{}, fakeWays: ways}
	for iface, methods := range map[string]map[string]any{
		"Service":    {"OpenSession": k.openSession, "Unlock": k.unlock},
		"Collection": {"SearchItems": k.search, "CreateItem": k.create},
		"Item":       {"GetSecret": k.secret, "Delete": k.remove},
		"Session":    {"Close": k.closeSession},
		"Prompt":     {"Prompt": func(string) *dbus.Error { return nil }},
	} {
		if err := conn.ExportSubtreeMethodTable(methods, secretsPath, secretsIface+iface); err != nil {
			t.Fatal(err)
		}
	}
	if reply, err := conn.RequestName("org.freedesktop.secrets", dbus.NameFlagDoNotQueue); err != nil || reply != dbus.RequestNameReplyPrimaryOwner {
		t.Fatalf("take the name of the Secret Service: %v, %v", reply, err)
	}
	return k
}

func (k *fakeKeyring) openSession(string, dbus.Variant) (dbus.Variant, dbus.ObjectPath, *dbus.Error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.sessions > 0 {
		k.seen.overlaps++
		if k.alone {
			return dbus.Variant{}, "/", dbus.MakeFailedError(fmt.Errorf("busy"))
		}
	}
	k.sessions++
	return dbus.MakeVariant(""), secretsPath + "/session/1", nil
}

func (k *fakeKeyring) closeSession() *dbus.Error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.sessions--
	return nil
}

func (k *fakeKeyring) unlock(objects []dbus.ObjectPath) ([]dbus.ObjectPath, dbus.ObjectPath, *dbus.Error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.asks {
		return nil, secretsPath + "/prompt/1", nil
	}
	return objects, "/", nil
}

// think is the slowness of a slow keyring; nobody waits for anything by it.
func (k *fakeKeyring) think() {
	k.mu.Lock()
	pause := k.pause
	k.mu.Unlock()
	time.Sleep(pause)
}

// visible is what a reader sees now.
func (k *fakeKeyring) visible() map[string][]byte {
	if time.Now().Before(k.shown) {
		return k.before
	}
	return k.items
}

func (k *fakeKeyring) search(attributes map[string]string) ([]dbus.ObjectPath, *dbus.Error) {
	k.think()
	k.mu.Lock()
	defer k.mu.Unlock()
	if _, ok := k.visible()[attributes["username"]]; !ok {
		return nil, nil
	}
	return []dbus.ObjectPath{dbus.ObjectPath(secretsPath + "/item/" + strings.ReplaceAll(attributes["username"], "-", "_"))}, nil
}

func (k *fakeKeyring) create(properties map[string]dbus.Variant, secret fakeSecret, _ bool) (item, prompt dbus.ObjectPath, failed *dbus.Error) {
	k.think()
	k.mu.Lock()
	defer k.mu.Unlock()
	k.seen.largest = max(k.seen.largest, len(secret.Value))
	if k.limit > 0 && len(secret.Value) > k.limit {
		return "/", "/", dbus.MakeFailedError(fmt.Errorf("too big"))
	}
	attributes, ok := properties[secretsIface+"Item.Attributes"].Value().(map[string]string)
	if !ok {
		return "/", "/", dbus.MakeFailedError(fmt.Errorf("no attributes"))
	}
	k.hide(k.late)
	k.items[attributes["username"]] = secret.Value
	k.seen.writes++
	return secretsPath + "/item/1", "/", nil
}

// hide shows readers what is there now for a while, whatever is written.
func (k *fakeKeyring) hide(d time.Duration) {
	k.before = maps.Clone(k.visible())
	k.shown = time.Now().Add(d)
}

func (k *fakeKeyring) secret(m dbus.Message, session dbus.ObjectPath) (fakeSecret, *dbus.Error) {
	k.think()
	k.mu.Lock()
	defer k.mu.Unlock()
	return fakeSecret{Session: session, Parameters: []byte{}, Value: k.visible()[k.account(m)], ContentType: "text/plain"}, nil
}

func (k *fakeKeyring) remove(m dbus.Message) (dbus.ObjectPath, *dbus.Error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.items, k.account(m))
	return "/", nil
}

func (k *fakeKeyring) account(m dbus.Message) string {
	path, _ := m.Headers[dbus.FieldPath].Value().(dbus.ObjectPath)
	return strings.ReplaceAll(filepath.Base(string(path)), "_", "-")
}

// set changes its ways, and forgets what was seen.
func (k *fakeKeyring) set(change func(*fakeKeyring)) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.seen = fakeSeen{}
	change(k)
}

func (k *fakeKeyring) saw() fakeSeen {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.seen
}

// together runs n processes at the same time, each with a record of its own that
// it saves and loads, and returns what they said.
func (s *secretService) together(t *testing.T, n int, dir string) []string {
	t.Helper()
	said := make([]string, n)
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() {
			out, err := s.process(t, dir, credstore.ModeAuto, fmt.Sprintf("load-after-save@%d.example.com", i))
			if err != nil {
				t.Errorf("process %d: %v: %s", i, err, out)
			}
			said[i] = out
		})
	}
	all.Wait()
	return said
}

// loads expects a new process to find the token under the key in the keyring.
func (s *secretService) loads(t *testing.T, dir, server string) {
	t.Helper()
	if out, err := s.process(t, dir, credstore.ModeAuto, "load@"+server); err != nil || out != "data: \"token\" backend: keyring\n" {
		t.Errorf("a new process: %v: %s", err, out)
	}
}

func TestAKeyringThatRefusesConcurrentCallsIsAskedInTurn(t *testing.T) {
	t.Parallel()
	s := startBus(t)
	k := s.fake(t, fakeWays{alone: true, pause: 20 * time.Millisecond})
	t.Run("processes of one directory", func(t *testing.T) {
		dir := t.TempDir()
		for _, out := range s.together(t, 6, dir) {
			if out != "backend: keyring\n" {
				t.Errorf("said %q", out)
			}
		}
		if seen := k.saw(); seen.overlaps != 0 || seen.writes != 1 {
			t.Errorf("%d calls beside another, %d keys written; want none, one", seen.overlaps, seen.writes)
		}
	})
	t.Run("stores of one process", func(t *testing.T) {
		k.set(func(*fakeKeyring) {})
		if out, err := s.process(t, t.TempDir(), credstore.ModeAuto, "stores 6"); err != nil || strings.Count(out, "backend: keyring") != 6 {
			t.Errorf("%v: %s", err, out)
		}
		if seen := k.saw(); seen.overlaps != 0 || seen.writes != 6 {
			t.Errorf("%d calls beside another, %d keys written; want none, six", seen.overlaps, seen.writes)
		}
	})
}

func TestAKeyringThatWritesLateMakesNoSecondKey(t *testing.T) {
	t.Parallel()
	s := startBus(t)
	k := s.fake(t, fakeWays{late: 700 * time.Millisecond})
	dir := t.TempDir()
	for _, out := range s.together(t, 4, dir) {
		if out != "backend: keyring\n" {
			t.Errorf("said %q", out)
		}
	}
	s.loads(t, dir, "0.example.com")
	account := func() (name string) {
		for name = range k.items {
		}
		return name
	}
	key, old := k.items[account()], []byte("b2xkb2xkb2xkb2xkb2xkb2xkb2xkb2xkb2xkb2xkb2w=")

	t.Run("nothing for a moment", func(t *testing.T) {
		k.set(func(k *fakeKeyring) { k.before, k.shown = nil, time.Now().Add(time.Second) })
		s.loads(t, dir, "0.example.com")
	})
	t.Run("an old value for a moment", func(t *testing.T) {
		k.set(func(k *fakeKeyring) {
			k.before, k.shown = map[string][]byte{account(): old}, time.Now().Add(time.Second)
		})
		s.loads(t, dir, "0.example.com")
	})
	for name, value := range map[string][]byte{"nothing": nil, "an old value": old} {
		t.Run(name+" for long", func(t *testing.T) {
			k.set(func(k *fakeKeyring) {
				k.before, k.shown = map[string][]byte{}, time.Now().Add(time.Hour)
				if value != nil {
					k.before[account()] = value
				}
			})
			out, err := s.process(t, dir, credstore.ModeAuto, "load@0.example.com")
			if err != nil || !strings.Contains(out, `data: ""`) || strings.Count(out, "warn:") != 1 {
				t.Errorf("%v: %s", err, out)
			}
			k.set(func(k *fakeKeyring) { k.shown = time.Time{} })
			s.loads(t, dir, "0.example.com")
		})
	}
	if seen := k.saw(); seen.writes != 0 || string(k.items[account()]) != string(key) {
		t.Errorf("reading wrote %d keys", seen.writes)
	}

	t.Run("lost for good", func(t *testing.T) {
		k.set(func(k *fakeKeyring) { clear(k.items) })
		for _, out := range s.together(t, 3, dir) {
			if !strings.Contains(out, "backend: keyring\n") {
				t.Errorf("said %q", out)
			}
		}
		s.loads(t, dir, "0.example.com")
		if seen := k.saw(); seen.writes != 1 {
			t.Errorf("%d keys written, want one", seen.writes)
		}
	})
}

func TestASlowKeyringIsWaitedForByAllOrByNone(t *testing.T) {
	t.Parallel()
	for _, pause := range []time.Duration{time.Second, 2600 * time.Millisecond} {
		t.Run(pause.String(), func(t *testing.T) {
			t.Parallel()
			s := startBus(t)
			k := s.fake(t, fakeWays{pause: pause})
			dir := t.TempDir()
			said := s.together(t, 3, dir)
			warnings := 0
			for _, out := range said {
				warnings += strings.Count(out, "warn:")
				if _, place, _ := strings.Cut(out, "backend:"); !strings.HasSuffix(said[0], "backend:"+place) {
					t.Errorf("two places: %q", said)
				}
			}
			if seen := k.saw(); seen.writes > 1 || warnings > 1 {
				t.Errorf("%d keys written, %d warnings", seen.writes, warnings)
			}
			for i := range said {
				out, err := s.process(t, dir, credstore.ModeAuto, fmt.Sprintf("load@%d.example.com", i))
				if err != nil || !strings.Contains(out, `data: "token"`) {
					t.Errorf("a new process loads record %d: %v: %s", i, err, out)
				}
			}
		})
	}
}

func TestAKeyringThatPromptsIsGivenUpAndKeepsWhatItSeals(t *testing.T) {
	t.Parallel()
	s := startBus(t)
	k := s.fake(t, fakeWays{})
	dir := t.TempDir()
	if out, err := s.process(t, dir, credstore.ModeAuto, "save@0.example.com token"); err != nil || !strings.Contains(out, "backend: keyring") {
		t.Fatalf("%v: %s", err, out)
	}
	k.set(func(k *fakeKeyring) { k.asks = true })
	within(t, 25*time.Second, func() {
		if out, err := s.process(t, dir, credstore.ModeAuto, "load@0.example.com"); err == nil || !strings.Contains(out, "keyring") {
			t.Errorf("what it seals: %v: %s", err, out)
		}
		out, err := s.process(t, t.TempDir(), credstore.ModeAuto, "save@0.example.com token")
		if err != nil || !strings.Contains(out, "saved: true backend: file") || strings.Count(out, "warn:") != 1 {
			t.Errorf("a new directory: %v: %s", err, out)
		}
	})
	within(t, 20*time.Second, func() { // and not three seconds for each
		out, err := s.process(t, dir, credstore.ModeAuto, "loads@0.example.com 30")
		if err == nil || strings.Count(out, "not available") != 30 {
			t.Errorf("30 at once: %v: %s", err, out)
		}
	})
	k.set(func(k *fakeKeyring) { k.asks = false })
	s.loads(t, dir, "0.example.com")
	if seen := k.saw(); seen.writes != 0 {
		t.Errorf("%d keys written", seen.writes)
	}
}

// A sign-in elsewhere while the keyring is locked, as after the start of a
// machine, must not cost those that it seals.
func TestWhatAKeyringSealsOutlivesASignInWithoutIt(t *testing.T) {
	t.Parallel()
	s := startBus(t)
	k := s.fake(t, fakeWays{})
	dir := t.TempDir()
	if out, err := s.process(t, dir, credstore.ModeAuto, "save token"); err != nil || !strings.Contains(out, "backend: keyring") {
		t.Fatalf("%v: %s", err, out)
	}
	k.set(func(k *fakeKeyring) { k.asks = true })
	out, err := s.process(t, dir, credstore.ModeAuto, "save@other.example other")
	if err != nil || !strings.Contains(out, "saved: true backend: file") {
		t.Fatalf("a sign-in elsewhere: %v: %s", err, out)
	}
	within(t, 20*time.Second, func() {
		if out, err := s.process(t, dir, credstore.ModeAuto, "load"); err == nil || !strings.Contains(out, "not available") {
			t.Errorf("while it is locked: %v: %s", err, out)
		}
	})
	k.set(func(k *fakeKeyring) { k.asks = false })
	for _, step := range []struct{ what, want string }{
		{"load", `data: "token"`},
		{"save token2", "saved: true"}, // from here on sealed with the key of now
	} {
		if out, err := s.process(t, dir, credstore.ModeAuto, step.what); err != nil || !strings.Contains(out, step.want) {
			t.Errorf("%s: %v: %s", step.what, err, out)
		}
	}
	k.set(func(k *fakeKeyring) { k.asks = true })
	for what, want := range map[string]string{"load": `data: "token2"`, "load@other.example": `data: "other"`} {
		if out, err := s.process(t, dir, credstore.ModeAuto, what); err != nil || !strings.Contains(out, want) {
			t.Errorf("%s: %v: %s", what, err, out)
		}
	}
}

// 2,560 bytes on Windows, about 2,900 with the names on macOS.
func TestARecordOfAnySizeFitsWhereAKeyringIsSmall(t *testing.T) {
	t.Parallel()
	s := startBus(t)
	k := s.fake(t, fakeWays{limit: 2560})
	dir := t.TempDir()
	out, err := s.process(t, dir, credstore.ModeAuto, "save "+strings.Repeat("x", 100<<10))
	if err != nil || out != "saved: true backend: keyring\n" {
		t.Fatalf("%v: %s", err, out)
	}
	if out, err := s.process(t, dir, credstore.ModeAuto, "load"); err != nil || strings.Count(out, "x") != 100<<10 {
		t.Errorf("%v: %.200s", err, out)
	}
	if seen := k.saw(); seen.writes != 1 || seen.largest != 44 {
		t.Errorf("%d secrets of up to %d bytes, want one of 44", seen.writes, seen.largest)
	}
	if _, err := os.Stat(filepath.Join(dir, "credentials", "key")); !os.IsNotExist(err) {
		t.Errorf("a key lies beside the data: %v", err)
	}
}
