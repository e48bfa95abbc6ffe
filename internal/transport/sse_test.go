package transport_test

import (
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mcp-clerk/mcp-clerk/internal/transport"
)

func events(t *testing.T, r *transport.EventReader) []transport.Event {
	t.Helper()
	var out []transport.Event
	for {
		ev, err := r.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, ev)
	}
}

// HTML standard, section 9.2.6; the first rows are its own examples.
func TestEventReaderInterpretsStream(t *testing.T) {
	const none = time.Duration(-1)
	data := func(s string) transport.Event { return transport.Event{Data: []byte(s), Retry: none} }
	tests := []struct {
		name, in string
		want     []transport.Event
	}{
		{"several data lines", "data: YHOO\ndata: +2\ndata: 10\n\n", []transport.Event{data("YHOO\n+2\n10")}},
		{"ids, comments, no blank line at the end", ": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event\n", []transport.Event{
			{Data: []byte("first event"), ID: "1", Retry: none}, data("second event"),
		}},
		{"empty data", "data\n\ndata\ndata\n\ndata:", []transport.Event{data(""), data("\n")}},
		{"one blank is taken off", "data:test\n\ndata: test\n\ndata:  test\n\n", []transport.Event{data("test"), data("test"), data(" test")}},
		{"CRLF", "data: a\r\n\r\ndata: b\r\n\r\n", []transport.Event{data("a"), data("b")}},
		{"lone CR", "data: a\rdata: b\r\rdata: c\r\r", []transport.Event{data("a\nb"), data("c")}},
		{"mixed endings", "data: a\r\ndata: b\n\rdata: c\n\r\n", []transport.Event{data("a\nb"), data("c")}},
		{"byte order mark", "\xef\xbb\xbfdata: a\n\n", []transport.Event{data("a")}},
		{"a second one is part of a field's name", "\xef\xbb\xbf\xef\xbb\xbfdata: a\n\ndata: b\n\n", []transport.Event{data("b")}},
		{"half of one", "\xef\xbb", nil},
		{"event name", "event: ping\ndata: a\n\ndata: b\n\n", []transport.Event{{Name: "ping", Data: []byte("a"), Retry: none}, data("b")}},
		{"an event name without data does not last", "event: ping\n\ndata: b\n\n", []transport.Event{data("b")}},
		{"id without data primes", "id: 7\n\ndata: a\n\n", []transport.Event{{ID: "7", Retry: none}, {ID: "7", Data: []byte("a"), Retry: none}}},
		{"id with NUL is ignored", "id: 1\ndata: a\n\nid: 2\x00\ndata: b\n\n", []transport.Event{{ID: "1", Data: []byte("a"), Retry: none}, {ID: "1", Data: []byte("b"), Retry: none}}},
		{"the id of an unfinished event does not count", "id: 1\ndata: a\n\nid: 2\n", []transport.Event{{ID: "1", Data: []byte("a"), Retry: none}}},
		{"retry", "retry: 1500\n\nretry: 1s\nretry:\nretry: -1\ndata: a\n\n", []transport.Event{{Retry: 1500 * time.Millisecond}, data("a")}},
		{"a huge retry is cut to a day", "retry: 99999999999999999999999\n\n", []transport.Event{{Retry: 24 * time.Hour}}},
		{"field names are case-sensitive", "Data: a\nDATA: b\ndata : c\n\ndata: d\n\n", []transport.Event{data("d")}},
		{"a colon in the data", "data: {\"a\":1}\n\n", []transport.Event{data(`{"a":1}`)}},
		{"invalid UTF-8 is left to the parser", "data: \xff\n\n", []transport.Event{data("\xff")}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for name, r := range map[string]io.Reader{
				"whole": strings.NewReader(tt.in), "byte by byte": iotest.OneByteReader(strings.NewReader(tt.in)),
			} {
				if diff := cmp.Diff(tt.want, events(t, transport.NewEventReader(r, 0, nil))); diff != "" {
					t.Errorf("%s: (-want +got)\n%s", name, diff)
				}
			}
		})
	}
}

func TestEventReaderDispatchesAtLoneCRWithoutWaiting(t *testing.T) {
	pr, pw := io.Pipe()
	r := transport.NewEventReader(pr, 0, nil)
	go func() { _, _ = pw.Write([]byte("data: a\r\r")) }()
	ev, err := r.Next() // would block for ever if the byte behind the CR were needed
	if err != nil || string(ev.Data) != "a" {
		t.Fatalf("got %q, %v", ev.Data, err)
	}
	_ = pw.Close()
}

func TestEventReaderCapsEvents(t *testing.T) {
	const limit = 1 << 20
	line := "data: " + strings.Repeat("x", limit)
	if got := events(t, transport.NewEventReader(strings.NewReader(line+"\n\n"), limit, nil)); len(got) != 1 || len(got[0].Data) != limit {
		t.Errorf("an event as large as the limit: %d events", len(got))
	}
	for name, in := range map[string]io.Reader{
		"one line too long":  strings.NewReader(line + "x\n\n"),
		"an endless line":    io.MultiReader(strings.NewReader("data: "), &repeat{[]byte(strings.Repeat("y", 4096)), 1 << 40}),
		"an endless comment": io.MultiReader(strings.NewReader(":"), &repeat{[]byte(strings.Repeat("y", 4096)), 1 << 40}),
		"endless data lines": &repeat{[]byte("data: yyyyyyyyyyyyyyyyyyyyyyyyyyyy\n"), 1 << 40},
	} {
		if _, err := transport.NewEventReader(in, limit, nil).Next(); err == nil || !strings.Contains(err.Error(), "limit") {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

// reference reads a whole stream the plain way: decode, split, interpret.
func reference(in string) []transport.Event {
	in = strings.TrimPrefix(in, "\xef\xbb\xbf")
	in = strings.ReplaceAll(strings.ReplaceAll(in, "\r\n", "\n"), "\r", "\n")
	lines := strings.Split(in, "\n")
	lines = lines[:len(lines)-1] // what no line ending has ended
	var out []transport.Event
	var lastID string
	var name, data string
	var hasData, hasMore bool
	retry := time.Duration(-1)
	for _, line := range lines {
		if line == "" {
			if hasData || hasMore {
				ev := transport.Event{Name: name, ID: lastID, Retry: retry}
				if hasData {
					ev.Data = []byte(data)
				}
				out = append(out, ev)
			}
			name, data, hasData, hasMore, retry = "", "", false, false, -1
			continue
		}
		field, value, _ := strings.Cut(line, ":")
		value = strings.TrimPrefix(value, " ")
		switch field {
		case "event":
			name = value
		case "data":
			if hasData {
				data += "\n"
			}
			data += value
			hasData = true
		case "id":
			if !strings.Contains(value, "\x00") {
				lastID, hasMore = value, true
			}
		case "retry":
			if value != "" && strings.Trim(value, "0123456789") == "" {
				ms := strings.TrimLeft(value, "0")
				retry, hasMore = 24*time.Hour, true
				if len(ms) < 9 {
					d, _ := time.ParseDuration("0" + ms + "ms")
					retry = min(retry, d)
				}
			}
		}
	}
	return out
}

func FuzzEventReader(f *testing.F) {
	f.Add("data: a\r\n\r\nid: 1\rdata\r\r", uint8(1))
	f.Add("\xef\xbb\xbf:c\nevent: x\nretry: 00099\n\ndata: b\n\n", uint8(2))
	f.Add("\xef\xbb", uint8(0))
	f.Fuzz(func(t *testing.T, in string, chunk uint8) {
		got := events(t, transport.NewEventReader(&chunked{[]byte(in), int(chunk)%5 + 1}, 0, nil))
		if diff := cmp.Diff(reference(in), got); diff != "" {
			t.Fatalf("%q: (-want +got)\n%s", in, diff)
		}
	})
}

func BenchmarkEventReader(b *testing.B) {
	in := "event: message\nid: 12345\ndata: {\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{\"content\":[{\"type\":\"text\",\"text\":\"42\"}]}}\n\n"
	b.SetBytes(int64(len(in)))
	b.ReportAllocs()
	r := transport.NewEventReader(&repeat{[]byte(in), b.N}, 0, nil)
	for b.Loop() {
		if _, err := r.Next(); err != nil {
			r = transport.NewEventReader(&repeat{[]byte(in), 1 << 30}, 0, nil)
		}
	}
}
