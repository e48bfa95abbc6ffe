package storetest

import (
	"bytes"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mcp-clerk/mcp-clerk/internal/store"
)

// inbox collects what a subscriber is given.
type inbox struct {
	mu       sync.Mutex
	messages []string
	arrived  chan struct{}
}

func subscribe(t *testing.T, s store.Store, topic string) *inbox {
	t.Helper()
	in := &inbox{arrived: make(chan struct{}, 1)}
	cancel, err := s.Subscribe(topic, in.add)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cancel)
	return in
}

func (in *inbox) add(message []byte) {
	in.mu.Lock()
	in.messages = append(in.messages, string(message))
	in.mu.Unlock()
	select {
	case in.arrived <- struct{}{}:
	default:
	}
}

func (in *inbox) all() []string {
	in.mu.Lock()
	defer in.mu.Unlock()
	return append([]string(nil), in.messages...)
}

// until waits for a message last and returns all up to it.
func (in *inbox) until(t *testing.T, last string) []string {
	t.Helper()
	deadline := time.After(wait)
	for {
		if got := in.all(); len(got) > 0 && got[len(got)-1] == last {
			return got
		}
		select {
		case <-in.arrived:
		case <-deadline:
			t.Fatalf("%.40q did not arrive; there are %d messages", last, len(in.all()))
		}
	}
}

// connect publishes until every subscriber listens: a subscription needs a
// moment where it goes through a server.
func connect(t *testing.T, from store.Store, topic string, to ...*inbox) {
	t.Helper()
	deadline := time.Now().Add(wait)
	for _, in := range to {
		for i := 0; len(in.all()) == 0; i++ {
			if time.Now().After(deadline) {
				t.Fatalf("no message arrives at a subscriber of %.40q", topic)
			}
			publish(t, from, topic, "hello")
			select {
			case <-in.arrived:
			case <-time.After(20 * time.Millisecond):
			}
		}
	}
}

func publish(t *testing.T, s store.Store, topic, message string) {
	t.Helper()
	if err := s.Publish(t.Context(), topic, []byte(message)); err != nil {
		t.Fatalf("Publish to %.40q: %v", topic, err)
	}
}

// after returns the messages behind the greetings of connect.
func after(messages []string) []string {
	for len(messages) > 0 && messages[0] == "hello" {
		messages = messages[1:]
	}
	return messages
}

func testBroadcast(t *testing.T, f Fixture) {
	const n = 100
	stores := f.instances(t, 3)
	var inboxes []*inbox
	for _, s := range stores {
		inboxes = append(inboxes, subscribe(t, s, "revoked"), subscribe(t, s, "revoked"))
	}
	connect(t, f.Store, "revoked", inboxes...)
	var want []string
	for i := range n {
		want = append(want, fmt.Sprint("message ", i))
		publish(t, f.Store, "revoked", want[i])
	}
	for i, in := range inboxes {
		got := after(in.until(t, want[n-1]))
		if strings.Join(got, ",") != strings.Join(want, ",") {
			t.Errorf("subscriber %d got %q", i, got)
		}
	}
}

func testBroadcastMessages(t *testing.T, f Fixture) {
	in := subscribe(t, f.Store, "t")
	connect(t, f.Store, "t", in)
	for _, message := range []string{"", "\x00", "\xff\xfe\x00", "'\"\\\n", "日本語", strings.Repeat("m", 5000), strings.Repeat("\xff", 9000), strings.Repeat("large", 20000)} {
		publish(t, f.Store, "t", message)
		in.until(t, message)
	}
	// The slice belongs to the caller again when Publish has returned.
	message := []byte("mine")
	if err := f.Store.Publish(t.Context(), "t", message); err != nil {
		t.Fatal(err)
	}
	copy(message, bytes.Repeat([]byte("!"), len(message)))
	in.until(t, "mine")
}

func testBroadcastTopics(t *testing.T, f Fixture) {
	topics := []string{"a", "b", "a/b", "A", "a b", "ключ", "a\x00b", "*", "'quoted\"", strings.Repeat("long", 60)}
	inboxes := make([]*inbox, len(topics))
	for i, topic := range topics {
		inboxes[i] = subscribe(t, f.Store, topic)
		connect(t, f.Store, topic, inboxes[i])
	}
	for i, topic := range topics {
		publish(t, f.Store, topic, fmt.Sprint("for ", i))
	}
	for i := range topics {
		if got := after(inboxes[i].until(t, fmt.Sprint("for ", i))); len(got) != 1 {
			t.Errorf("subscriber of %q got %q", topics[i], got)
		}
	}
	publish(t, f.Store, "nobody listens", "lost")
}

func testBroadcastCancel(t *testing.T, f Fixture) {
	in, stays := &inbox{arrived: make(chan struct{}, 1)}, subscribe(t, f.Store, "t")
	cancel, err := f.Store.Subscribe("t", in.add)
	if err != nil {
		t.Fatal(err)
	}
	connect(t, f.Store, "t", in, stays)
	publish(t, f.Store, "t", "before")
	in.until(t, "before")
	cancel()
	cancel()
	publish(t, f.Store, "t", "after")
	stays.until(t, "after")
	if got := in.all(); got[len(got)-1] != "before" {
		t.Errorf("got %q after cancel", got[len(got)-1])
	}
	again := subscribe(t, f.Store, "t")
	connect(t, f.Store, "t", again)
}

func testBroadcastSlow(t *testing.T, f Fixture) {
	hold := make(chan struct{})
	var release sync.Once
	free := func() { release.Do(func() { close(hold) }) }
	t.Cleanup(free)
	slow := &inbox{arrived: make(chan struct{}, 1)}
	cancel, err := f.Store.Subscribe("t", func(message []byte) {
		slow.add(message)
		<-hold
	})
	if err != nil {
		t.Fatal(err)
	}
	defer cancel()
	quick := subscribe(t, f.Store, "t")
	connect(t, f.Store, "t", quick, slow)
	const n = 2000
	for i := range n {
		publish(t, f.Store, "t", fmt.Sprint(i))
		if i%100 == 99 {
			quick.until(t, fmt.Sprint(i)) // it keeps up; the slow one does not
		}
	}
	free()
	got := after(slow.until(t, fmt.Sprint(n-1)))
	if len(got) >= n {
		t.Errorf("a subscriber that stood still was kept %d messages", len(got))
	}
	last := -1
	for _, message := range got {
		var i int
		if _, err := fmt.Sscan(message, &i); err != nil || i <= last {
			t.Fatalf("message %q after %d", message, last)
		}
		last = i
	}
}
