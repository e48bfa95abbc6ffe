package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mcp-clerk/mcp-clerk/internal/store"
)

// aStore is the content of a store file with so many records.
func aStore(t *testing.T, records int) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "state.db")
	s, err := store.OpenBolt(t.Context(), path, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for i := range records {
		if err := s.Create(t.Context(), store.Record{Key: fmt.Sprintf("client/%04d", i), Value: []byte(strings.Repeat("v", 100)), Expires: time.Now().Add(time.Hour)}); err != nil {
			t.Fatal(err)
		}
	}
	var b bytes.Buffer
	if _, err := s.Backup(t.Context(), &b); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// send answers as a server's internal listener does, with content as the copy
// and the digest of digested.
func send(content, digested []byte) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPost || r.URL.Path != "/backup" || r.Header.Get("Authorization") != "Bearer the-key" {
			http.Error(w, "not what was meant", http.StatusBadRequest)
			return
		}
		w.Header().Set("Trailer", "Content-Digest")
		w.Write(content)
		sum := sha256.Sum256(digested)
		w.Header().Set("Content-Digest", "sha-256=:"+base64.StdEncoding.EncodeToString(sum[:])+":")
	}
}

// What a server sends becomes a backup as a whole or not at all.
func TestBackupIsWholeOrNotThere(t *testing.T) {
	content := aStore(t, 1500)
	damaged := slices.Clone(content)
	for at := 0; ; at += 50 { // pages that are free now have it too
		i := bytes.Index(damaged[at:], []byte("client/0700"))
		if i < 0 {
			break
		}
		at += i
		damaged[at+30]++
	}
	for _, tt := range []struct {
		name   string
		server http.HandlerFunc
		code   int
		want   string // in what is printed
	}{
		{"a whole copy", send(content, content), exitOK, "backed up 1500 records"},
		{"cut off", func(w http.ResponseWriter, _ *http.Request) {
			w.Write(content[:len(content)/2])
			panic(http.ErrAbortHandler)
		}, exitError, "the copy broke off"},
		{"cut off, and ended as if it were whole", func(w http.ResponseWriter, _ *http.Request) {
			w.Write(content[:len(content)/2])
		}, exitError, "the copy broke off"},
		{"cut off before the digest was made", send(content[:len(content)/2], content), exitError, "the copy broke off"},
		{"changed on the way", send(damaged, content), exitError, "the copy broke off"},
		{"damaged at the server", send(damaged, damaged), exitError, "the copy is no whole store"},
		{"cut off at the server", send(content[:len(content)/2], content[:len(content)/2]), exitError, "the copy is no whole store"},
		{"nothing", send(nil, nil), exitError, "the copy is no whole store"},
		{"no store", send([]byte("<html>"), []byte("<html>")), exitError, "the copy is no whole store"},
		{"refused", func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, store.ErrBusy.Error()+"\x1b[2J", http.StatusConflict)
		}, exitError, "hint: wait until that has ended"},
		{"another server's key", func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, "wrong key", http.StatusUnauthorized)
		}, exitError, "hint: another server listens at"},
		{"a redirect is not followed", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://127.0.0.1:1/", http.StatusTemporaryRedirect)
		}, exitError, "the server refuses"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			hs := httptest.NewServer(tt.server)
			defer hs.Close()
			data, target := t.TempDir(), t.TempDir()
			if err := writeNote(notePath(filepath.Join(data, "state.db")), internalNote{URL: hs.URL, Key: "the-key"}); err != nil {
				t.Fatal(err)
			}
			file := filepath.Join(target, "copy.db")
			var out bytes.Buffer
			code := run(t.Context(), []string{"backup", file, "--data-dir", data}, terminal{nil, &out, &out})
			if code != tt.code || !strings.Contains(out.String(), tt.want) || strings.ContainsAny(out.String(), "\x1b") {
				t.Errorf("exit code %d, want %d with %q:\n%s", code, tt.code, tt.want, &out)
			}
			var left []string
			entries, err := os.ReadDir(target)
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range entries {
				left = append(left, e.Name())
			}
			got, err := os.ReadFile(file)
			if tt.code == exitOK {
				if err != nil || !bytes.Equal(got, content) || len(left) != 1 {
					t.Errorf("the backup has %d bytes, want %d (%v); beside it lie %q", len(got), len(content), err, left)
				}
				if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 && runtime.GOOS != "windows" { // which has no modes
					t.Errorf("mode %v (%v)", info.Mode(), err)
				}
			} else if len(left) != 0 {
				t.Errorf("%q were left", left)
			}
		})
	}
}

// A file that comes into being while the copy is made is not overwritten.
func TestBackupKeepsAFileThatCameMeanwhile(t *testing.T) {
	content := aStore(t, 1)
	data, file := t.TempDir(), filepath.Join(t.TempDir(), "copy.db")
	hs := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := os.WriteFile(file, []byte("precious"), 0o600); err != nil {
			t.Error(err)
		}
		send(content, content)(w, r)
	}))
	defer hs.Close()
	if err := writeNote(notePath(filepath.Join(data, "state.db")), internalNote{URL: hs.URL, Key: "the-key"}); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	code := run(t.Context(), []string{"backup", file, "--data-dir", data}, terminal{nil, &out, &out})
	if got, err := os.ReadFile(file); code != exitError || string(got) != "precious" || !strings.Contains(out.String(), "exists") {
		t.Errorf("exit code %d, the file has %q (%v):\n%s", code, got, err, &out)
	}
}

// The key goes to this machine only, whatever the file says.
func TestTheInternalListenerIsOnThisMachine(t *testing.T) {
	for _, content := range []string{``, `{}`, `null`, `[]`, `{"url":"http://192.0.2.1:80","key":"k"}`, `{"url":"http://127.0.0.1.evil.example","key":"k"}`} {
		data := t.TempDir()
		if err := os.WriteFile(notePath(filepath.Join(data, "state.db")), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		if code := run(t.Context(), []string{"compact", "--data-dir", data}, terminal{nil, &out, &out}); code != exitError || !strings.Contains(out.String(), "does not say where") {
			t.Errorf("%s: exit code %d:\n%s", content, code, &out)
		}
	}
}

// Nothing but the key's reader may learn it.
func TestTheNoteIsForItsOwner(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db.internal")
	if err := os.WriteFile(path, nil, 0o644); err != nil { // a former one, open to all
		t.Fatal(err)
	}
	if err := writeNote(path, internalNote{URL: "http://127.0.0.1:1", Key: "the-key"}); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 && runtime.GOOS != "windows" { // which has no modes
		t.Errorf("mode %v (%v)", info.Mode(), err)
	}
	var note internalNote
	data, err := os.ReadFile(path)
	if err != nil || json.Unmarshal(data, &note) != nil || note.Key != "the-key" {
		t.Errorf("%s (%v)", data, err)
	}
}
