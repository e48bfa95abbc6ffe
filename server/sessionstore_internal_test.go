package server

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/mcp-clerk/mcp-clerk/internal/store"
)

// The records of sessions lie under session/ID, are created by their first
// change, and of concurrent changes none is lost.
func TestSessionRecords(t *testing.T) {
	st := store.NewMemory(store.Options{})
	defer st.Close()
	s := sessionStore{st}
	if v, err := s.Load(t.Context(), "a"); v != nil || err != nil {
		t.Errorf("before any change: %q, %v", v, err)
	}
	const writers = 20
	var wg sync.WaitGroup
	for range writers {
		wg.Go(func() {
			err := s.Update(t.Context(), "a", time.Now().Add(time.Hour), func(old []byte) ([]byte, error) { return append(old[:len(old):len(old)], 'x'), nil })
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if v, err := s.Load(t.Context(), "a"); len(v) != writers || err != nil {
		t.Errorf("after %d changes: %q, %v", writers, v, err)
	}
	if r, err := st.Get(t.Context(), "session/a"); err != nil || r.Expires.IsZero() {
		t.Errorf("record %+v, %v", r, err)
	}
	boom := errors.New("boom")
	for _, id := range []string{"a", "new"} {
		if err := s.Update(t.Context(), id, time.Now().Add(time.Hour), func([]byte) ([]byte, error) { return nil, boom }); !errors.Is(err, boom) {
			t.Errorf("%s: %v, want the error of the change", id, err)
		}
	}
	if v, _ := s.Load(t.Context(), "a"); len(v) != writers {
		t.Errorf("a change that failed left %q", v)
	}
}

func TestHostname(t *testing.T) {
	for in, want := range map[string]string{
		"https://mcp.example.com/a": "mcp.example.com", "http://localhost:8788": "localhost", "http://[::1]:8788/x": "::1", "http://127.0.0.1": "127.0.0.1",
	} {
		if got := hostname(in); got != want {
			t.Errorf("%s: %q, want %q", in, got, want)
		}
	}
}

func TestShellName(t *testing.T) {
	for in, want := range map[string]string{"Rig": "rig", "My Tools.v2": "my-tools-v2", "$(rm -rf /)": "rm--rf", "日本": "mcp", "-x-": "x"} {
		if got := shellName(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
	if got := fmt.Sprint(oneOf("role", []string{"a"}), "; ", oneOf("role", []string{"a", "b"})); got != "the role a; one of the roles a, b" {
		t.Error(got)
	}
}
