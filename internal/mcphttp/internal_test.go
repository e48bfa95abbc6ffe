package mcphttp

import (
	"bytes"
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mcp-clerk/mcp-clerk/internal/jsonrpc"
)

func testCodec(tb testing.TB) *sessionCodec {
	tb.Helper()
	c, err := newSessionCodec([][]byte{bytes.Repeat([]byte{1}, 32)})
	if err != nil {
		tb.Fatal(err)
	}
	return c
}

// FuzzSessionID: what is sealed opens to the same, for its owner only; and what
// was not sealed here does not open.
func FuzzSessionID(f *testing.F) {
	c := testCodec(f)
	now := time.Unix(1_800_000_000, 0)
	f.Add("user_1", "grant_1", "claude-ai", "1.0", uint16(3), byte(0), "x")
	f.Add("", "", strings.Repeat("長", 50), "\xff", uint16(0xffff), byte(3), strings.Repeat("A", 600))
	f.Add("a", "bc", "", "", uint16(0), byte(1), "====")
	f.Fuzz(func(t *testing.T, subject, grant, client, version string, caps uint16, revision byte, junk string) {
		s := &Session{
			Subject: subject, Grant: grant, Version: legacyVersions[int(revision)%len(legacyVersions)], Capabilities: Capability(caps),
			ClientName: cut(client, maxClientName), ClientVersion: cut(version, maxClientVer), Expires: now.Add(time.Hour),
		}
		nonce := newNonce()
		s.ID = sessionName(nonce)
		value, err := c.seal(s, nonce)
		if err != nil || len(value) > 200 {
			t.Fatalf("%d bytes: %v", len(value), err)
		}
		got, err := c.open(value, subject, grant, now)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(s, got); d != "" {
			t.Fatal(d)
		}
		if _, err := c.open(value, subject, grant, now.Add(time.Hour)); err == nil {
			t.Error("opens after its end")
		}
		// The border between subject and grant is part of the binding.
		for _, other := range [][2]string{{subject + "x", grant}, {subject, grant + "x"}, {subject + grant, ""}, {"", subject + grant}} {
			if other == [2]string{subject, grant} {
				continue
			}
			if _, err := c.open(value, other[0], other[1], now); err == nil {
				t.Errorf("opens for %q", other)
			}
		}
		if junk != value {
			if _, err := c.open(junk, subject, grant, now); err == nil {
				t.Errorf("%q opens", junk)
			}
		}
	})
}

// FuzzModernHeaders: whatever passes the check has headers that say exactly
// what the body says.
func FuzzModernHeaders(f *testing.F) {
	body := `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"add","_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}}}`
	f.Add(body, "2026-07-28", "tools/call", "add")
	f.Add(body, "2026-07-28", "tools/call", "=?base64?YWRk?=")
	f.Add(strings.Replace(body, `"add"`, `"\u0061dd"`, 1), "2026-07-28", "tools/call", "add")
	f.Add(strings.Replace(body, "2026-07-28", "2027-01-01", 1), "2027-01-01", "tools/call", "add")
	f.Add(`{"jsonrpc":"2.0","id":1,"method":"resources/read","params":{"uri":"x:y"}}`, "2026-07-28", "resources/read", "x:y")
	f.Fuzz(func(t *testing.T, body, version, method, name string) {
		m, err := jsonrpc.Parse([]byte(body), strict)
		if err != nil || !m.IsRequest() {
			return
		}
		h := http.Header{hdrVersion: {version}, hdrMethod: {method}, hdrName: {name}}
		meta := readMeta(m.Params)
		modern := isModern(h, m, &meta)
		if fault := checkModern(h, m, &meta); fault != nil {
			if fault.code > -32020 && fault.code != jsonrpc.CodeInvalidParams {
				t.Fatalf("code %d", fault.code)
			}
			return
		}
		if !modern {
			t.Fatal("passes as modern, counts as legacy")
		}
		var said struct {
			Method string
			Params struct {
				Name, URI, TaskID string
				Meta              struct {
					Version      string          `json:"io.modelcontextprotocol/protocolVersion"`
					Capabilities json.RawMessage `json:"io.modelcontextprotocol/clientCapabilities"`
				} `json:"_meta"`
			}
		}
		if err := json.Unmarshal([]byte(body), &said); err != nil {
			t.Fatal(err)
		}
		if said.Method != method || said.Params.Meta.Version != version || version != modernVersion || len(said.Params.Meta.Capabilities) == 0 {
			t.Fatalf("headers %q %q for %s", version, method, body)
		}
		decoded, _ := decodeHeader(name)
		want, named := map[string]string{"tools/call": said.Params.Name, "prompts/get": said.Params.Name, "resources/read": said.Params.URI}[method]
		if named && want != decoded {
			t.Fatalf("%q for %q", name, want)
		}
	})
}

func TestListenerTellsTheSameOnceAndOverflows(t *testing.T) {
	l := newListener(nil)
	message := func(uri string) *notice {
		raw := jsonrpc.NewNotification(methodUpdated, map[string]string{"uri": uri})
		m, err := jsonrpc.Parse(raw, strict)
		if err != nil {
			t.Fatal(err)
		}
		return &notice{message: m, uri: uri}
	}
	for range 3 {
		l.put(message("a"))
	}
	l.put(message("b"))
	if queue, over := l.take(); len(queue) != 2 || over {
		t.Errorf("%d in the queue, over %v", len(queue), over)
	}
	for i := range maxQueue + 1 {
		l.put(message(strings.Repeat("x", i)))
	}
	if queue, over := l.take(); len(queue) != maxQueue || !over {
		t.Errorf("%d in the queue, over %v", len(queue), over)
	}
}

func TestAccepts(t *testing.T) {
	tests := []struct {
		accept       string
		json, events bool
	}{
		{"application/json, text/event-stream", true, true},
		{"text/event-stream;q=0, */*", true, false},
		{"*/*;q=0", false, false},
		{"*/*;q=0.0, application/json", true, false},
		{"text/*;q=0.001", false, true},
		{"application/json;q=0.000;x=1", false, false},
		{"text/html, image/png", false, false},
		{",,;", false, false},
		{"", false, false},
	}
	for _, tt := range tests {
		if j, e := accepts([]string{tt.accept}); j != tt.json || e != tt.events {
			t.Errorf("%q: JSON %v, events %v", tt.accept, j, e)
		}
	}
	if j, e := accepts([]string{"application/json", "text/event-stream"}); !j || !e {
		t.Error("two Accept headers are one list (RFC 9110 section 5.3)")
	}
}

func FuzzParseEventID(f *testing.F) {
	for _, id := range []string{"", ".", "cAAAAAAAAAAAAAAAA.0", "nAAAAAAAAAAAAAAAA.18446744073709551615", "cAAAAAAAAAAAAAAAA.01", "xAAAAAAAAAAAAAAAA.1"} {
		f.Add(id)
	}
	f.Fuzz(func(t *testing.T, id string) {
		name, n, ok := parseEventID(id)
		if ok && (&replay{name: name}).id(n) != id {
			t.Errorf("%q is read as %q, %d", id, name, n)
		}
	})
}

// What is kept is counted down to nothing, whichever way it goes.
func TestReplaysAreBoundedAndForgotten(t *testing.T) {
	rs := newReplays(time.Hour)
	event := bytes.Repeat([]byte("x"), 10_000)
	var dropped int
	var all []*replay
	for i := range 200 {
		r := rs.open(&stream{}, owner{Session: strconv.Itoa(i)}, streamOfCall, nil)
		all = append(all, r)
		for range 200 {
			r.add(func(string) []byte { return event })
		}
		if kept := rs.session[r.owner.Session]; kept.bytes > replayPerSession || len(r.events) < 90 {
			t.Fatalf("session %d keeps %d bytes, %d events", i, kept.bytes, len(r.events))
		}
		if rs.all.bytes > replayInAll {
			t.Fatalf("%d bytes kept", rs.all.bytes)
		}
	}
	if b, err := all[199].since(199, true); err != nil || len(b) != len(event) {
		t.Errorf("%d bytes, %v", len(b), err)
	}
	if _, err := all[0].since(199, true); err == nil {
		t.Error("the response of the oldest is gone and nobody is told")
	}
	for range 20 {
		r := rs.open(&stream{}, owner{Session: "one"}, streamForNews, nil)
		r.park(func() { dropped++ })
	}
	if dropped != 20-maxParkedSession {
		t.Errorf("%d parked streams of a session were dropped", dropped)
	}
	rs.endSession("one")
	if dropped != 20 {
		t.Errorf("%d were dropped in the end", dropped)
	}
	for _, r := range all {
		r.close()
	}
	if rs.all.bytes != 0 || rs.all.events.Len() != 0 || len(rs.streams) != 0 || len(rs.session) != 0 || rs.parked.Len() != 0 {
		t.Errorf("left: %d bytes, %d streams, %d sessions", rs.all.bytes, len(rs.streams), len(rs.session))
	}
}
