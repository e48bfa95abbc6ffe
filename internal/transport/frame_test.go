package transport_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"

	"github.com/mcp-clerk/mcp-clerk/internal/jsonrpc"
	"github.com/mcp-clerk/mcp-clerk/internal/transport"
)

// readAll returns the lines of r; an oversize message shows as "!id,request".
func readAll(t *testing.T, r *transport.Reader) []string {
	t.Helper()
	var lines []string
	for {
		line, err := r.Read()
		if e, ok := errors.AsType[*transport.SkippedError](err); ok {
			lines = append(lines, fmt.Sprintf("!%s,%v", e.ID, e.Request))
			continue
		}
		if errors.Is(err, io.EOF) {
			return lines
		}
		if err != nil {
			t.Fatal(err)
		}
		lines = append(lines, string(line))
	}
}

func TestReaderSplitsLines(t *testing.T) {
	tests := []struct {
		name, in string
		want     []string
	}{
		{"lines", "{}\n[]\n", []string{"{}", "[]"}},
		{"CRLF", "{}\r\n[]\r\n", []string{"{}", "[]"}},
		{"blank lines", "\n\r\n  \n{}\n\n", []string{"{}"}},
		{"byte order mark at the start", "\xef\xbb\xbf{}\n{}\n", []string{"{}", "{}"}},
		{"byte order mark on a line of its own", "\xef\xbb\xbf\n{}\n", []string{"{}"}},
		{"byte order mark later is left to the parser", "{}\n\xef\xbb\xbf{}\n", []string{"{}", "\xef\xbb\xbf{}"}},
		{"no newline at the end", "{}\n[1]", []string{"{}", "[1]"}},
		{"only a byte order mark", "\xef\xbb\xbf", nil},
		{"nothing", "", nil},
		{"NUL and invalid UTF-8 are left to the parser", "{\x00}\n\"\xff\"\n", []string{"{\x00}", "\"\xff\""}},
		{"white space around", " {} \t\r\n", []string{"{}"}},
		{"line breaks inside strings stay escaped", `{"a":"\n\r"}` + "\n", []string{`{"a":"\n\r"}`}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for name, r := range map[string]io.Reader{
				"whole": strings.NewReader(tt.in), "byte by byte": iotest.OneByteReader(strings.NewReader(tt.in)),
				"error with data": iotest.DataErrReader(strings.NewReader(tt.in)),
			} {
				if diff := cmp.Diff(tt.want, readAll(t, transport.NewReader(r, 0, nil))); diff != "" {
					t.Errorf("%s: (-want +got)\n%s", name, diff)
				}
			}
		})
	}
}

func TestReaderPassesLongLines(t *testing.T) {
	for _, size := range []int{4095, 4096, 64 << 10, 64<<10 + 1, 1 << 20, 16 << 20} {
		line := `{"a":"` + strings.Repeat("x", size-8) + `"}`
		got := readAll(t, transport.NewReader(strings.NewReader(line+"\r\n{}\n"), size, nil))
		if len(got) != 2 || got[0] != line || got[1] != "{}" {
			t.Errorf("a line of %d bytes with a limit of the same: got %d lines, the first of %d bytes", size, len(got), len(got[0]))
		}
	}
}

func TestReaderSkipsOversizeMessageAndFindsItsID(t *testing.T) {
	pad := strings.Repeat(`\"}{][,:`, 400)
	tests := []struct{ name, in, want string }{
		{"id first", `{"jsonrpc":"2.0","id":17,"method":"m","params":{"id":3,"p":"` + pad + `"}}`, `!17,true`},
		{"id last", `{"method":"m","params":{"id":3,"p":["` + pad + `",{"method":[1]}]},"jsonrpc":"2.0","id":"a\"b"}`, `!"a\"b",true`},
		{"white space around the tokens", "{ \"params\" : [\"" + pad + "\"] , \"id\" : -1.5e3 , \"method\" : \"m\" }", `!-1.5e3,true`},
		{"notification", `{"method":"m","params":{"id":3,"p":"` + pad + `"}}`, `!,true`},
		{"response", `{"result":{"method":"x","p":"` + pad + `"},"id":4}`, `!4,false`},
		{"null id", `{"method":"m","id":null,"params":"` + pad + `"}`, `!,true`},
		{"object as id", `{"method":"m","id":{"a":1},"params":"` + pad + `"}`, `!,true`},
		{"very long id", `{"method":"m","id":"` + pad + `"}`, `!,true`},
		{"key in an array", `["id",1,"method","` + pad + `"]`, `!,false`},
		{"no JSON", strings.Repeat("}]{[:,", 500), `!,false`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			in := "{}\n" + tt.in + "\n[2]\n" + tt.in // the last one without its newline
			want := []string{"{}", tt.want, "[2]", tt.want}
			if diff := cmp.Diff(want, readAll(t, transport.NewReader(strings.NewReader(in), 1000, nil))); diff != "" {
				t.Errorf("whole: (-want +got)\n%s", diff)
			}
			r := transport.NewReader(iotest.OneByteReader(strings.NewReader(in)), 1000, nil)
			if diff := cmp.Diff(want, readAll(t, r)); diff != "" {
				t.Errorf("byte by byte: (-want +got)\n%s", diff)
			}
		})
	}
}

// repeat reads as n copies of a block.
type repeat struct {
	block []byte
	n     int
}

func (r *repeat) Read(p []byte) (int, error) {
	if r.n == 0 {
		return 0, io.EOF
	}
	r.n--
	return copy(p, r.block), nil
}

func TestReaderBoundsMemoryOfOversizeMessage(t *testing.T) {
	in := io.MultiReader(strings.NewReader(`{"id":1,"method":"m","params":"`),
		&repeat{block: bytes.Repeat([]byte{'x'}, 32<<10), n: 2000}, strings.NewReader("\"}\n{}\n"))
	r := transport.NewReader(in, 1<<20, nil)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	got := readAll(t, r)
	runtime.ReadMemStats(&after)
	if diff := cmp.Diff([]string{"!1,true", "{}"}, got); diff != "" {
		t.Error(diff)
	}
	if used := after.TotalAlloc - before.TotalAlloc; used > 16<<20 {
		t.Errorf("a line of 64 MB with a limit of 1 MiB allocated %d bytes", used)
	}
}

func TestReaderPassesErrorsOn(t *testing.T) {
	broken := errors.New("broken")
	r := transport.NewReader(io.MultiReader(strings.NewReader("{}\n{\"half"), iotest.ErrReader(broken)), 0, nil)
	if line, err := r.Read(); string(line) != "{}" || err != nil {
		t.Fatalf("got %q, %v", line, err)
	}
	if line, err := r.Read(); line != nil || !errors.Is(err, broken) {
		t.Fatalf("half a line before a broken pipe: got %q, %v", line, err)
	}
}

func TestWriterKeepsMessagesWhole(t *testing.T) {
	pr, pw := io.Pipe() // unbuffered: a write lasts until it is read, which is the back-pressure
	w := transport.NewWriter(pw, nil)
	var wg sync.WaitGroup
	const writers, each = 8, 50
	for i := range writers {
		wg.Go(func() {
			for j := range each {
				size := 10
				if j%10 == 0 {
					size = 100 << 10 // beyond one buffer
				}
				if err := w.WriteMessage(fmt.Appendf(nil, `{"w":%d,"j":%d,"p":%q}`, i, j, strings.Repeat("x", size))); err != nil {
					t.Error(err)
				}
			}
		})
	}
	go func() {
		wg.Wait()
		_ = pw.Close()
	}()
	next := map[int]int{}
	for _, line := range readAll(t, transport.NewReader(iotest.HalfReader(pr), 0, nil)) {
		var i, j int
		if _, err := fmt.Sscanf(line, `{"w":%d,"j":%d,`, &i, &j); err != nil || !strings.HasSuffix(line, `x"}`) {
			t.Fatalf("torn line %.60q", line)
		}
		if j != next[i] {
			t.Errorf("writer %d: message %d came when %d was due", i, j, next[i])
		}
		next[i]++
	}
	for i := range writers {
		if next[i] != each {
			t.Errorf("writer %d: %d messages arrived", i, next[i])
		}
	}
}

func TestWriterPutsAMessageOnOneLine(t *testing.T) {
	tests := []struct{ name, in, want string }{
		{"as it is", `{"b":1.0, "a":9007199254740993,"c":"‹<é"}`, `{"b":1.0, "a":9007199254740993,"c":"‹<é"}`},
		{"pretty-printed", "{\r\n  \"b\": 1.0,\n  \"a\": [\n 1e2 ]\n}\n", `{"b":1.0,"a":[1e2]}`},
		{"lone CR", "{\"a\":\r1}", `{"a":1}`},
		{"escapes and line separators stay", "{\n\"a\":\"\\n\u2028\"}", "{\"a\":\"\\n\u2028\"}"},
	}
	for _, tt := range tests {
		var out bytes.Buffer
		if err := transport.NewWriter(&out, nil).WriteMessage([]byte(tt.in)); err != nil {
			t.Errorf("%s: %v", tt.name, err)
		}
		if diff := cmp.Diff(tt.want+"\n", out.String()); diff != "" {
			t.Errorf("%s: (-want +got)\n%s", tt.name, diff)
		}
	}
}

func TestWriterReportsAReaderThatHasGone(t *testing.T) {
	r, f, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	w := transport.NewWriter(f, nil)
	if err := w.WriteMessage([]byte("{}")); err != nil {
		t.Fatal(err)
	}
	select {
	case <-w.Broken():
		t.Fatal("broken before anything failed")
	default:
	}
	_ = r.Close()
	first := w.WriteMessage([]byte("{}"))
	if first == nil {
		t.Fatal("a write to a pipe without a reader succeeded")
	}
	<-w.Broken()
	if again := w.WriteMessage([]byte("{}")); !errors.Is(again, first) {
		t.Errorf("the next write says %v, not %v", again, first)
	}
}

// FuzzReader holds the framer against splitting the whole input at once.
func FuzzReader(f *testing.F) {
	f.Add([]byte("{}\r\n\n[]"), uint8(3))
	f.Add([]byte("\xef\xbb\xbf{\"id\":1,\"method\":\"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\"}\n{}\n"), uint8(1))
	f.Add([]byte(" \r\r\n"), uint8(0))
	f.Fuzz(func(t *testing.T, in []byte, chunk uint8) {
		const limit = 32
		var want []string
		for i, line := range bytes.Split(in, []byte{'\n'}) {
			if i == 0 {
				line = bytes.TrimPrefix(line, []byte("\xef\xbb\xbf"))
			}
			switch line = bytes.Trim(line, " \t\r"); {
			case len(line) > limit:
				want = append(want, "!")
			case len(line) > 0:
				want = append(want, string(line))
			}
		}
		r := transport.NewReader(&chunked{in, int(chunk)%7 + 1}, limit, nil)
		var got []string
		for {
			line, err := r.Read()
			if _, ok := errors.AsType[*transport.SkippedError](err); ok {
				got = append(got, "!")
				continue
			}
			if err != nil {
				break
			}
			got = append(got, string(line))
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("%q: (-want +got)\n%s", in, diff)
		}
	})
}

// chunked hands out at most n bytes a read.
type chunked struct {
	b []byte
	n int
}

func (c *chunked) Read(p []byte) (int, error) {
	if len(c.b) == 0 {
		return 0, io.EOF
	}
	n := copy(p, c.b[:min(c.n, len(c.b))])
	c.b = c.b[n:]
	return n, nil
}

// FuzzOversizeID holds the search for the id of a skipped message against a
// parser that sees all of it.
func FuzzOversizeID(f *testing.F) {
	f.Add([]byte(`{"method":"m","params":{"id":[1,"\"}"]},"id":"a\\"}`), uint8(4))
	f.Add([]byte(`{"id":1,"id":2,"result":{"method":1}}`), uint8(1))
	f.Add([]byte(`{ "x" : "id" , "id" : -0.5e+10 , "method" : null }`), uint8(2))
	f.Fuzz(func(t *testing.T, in []byte, chunk uint8) {
		in = bytes.TrimSpace(in)
		if len(in) < 3 || in[0] != '{' || !json.Valid(in) || bytes.ContainsAny(in, "\n\r") || bytes.Contains(in, []byte(`\u00`)) {
			t.Skip()
		}
		var want json.RawMessage
		method := false
		_ = jsonrpc.Members(in, func(key string, val json.RawMessage) bool {
			switch {
			case key == "id" && (val[0] == '"' || val[0] == '-' || val[0] >= '0' && val[0] <= '9'):
				want = val
			case key == "method":
				method = true
			}
			return true
		})
		_, err := transport.NewReader(&chunked{append(in, '\n'), int(chunk)%9 + 1}, 1, nil).Read()
		e, ok := errors.AsType[*transport.SkippedError](err)
		if !ok || len(want) <= 1<<10 && string(e.ID) != string(want) || e.Request != method {
			t.Fatalf("%s: got %v with id %s, request %v", in, err, e.ID, e.Request)
		}
	})
}
