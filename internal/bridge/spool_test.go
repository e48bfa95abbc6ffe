package bridge_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/mcp-clerk/mcp-clerk/internal/bridge"
	"github.com/mcp-clerk/mcp-clerk/internal/jsonrpc"
)

// Messages that are too large for memory wait in a file.

// echoing is a server whose tools return what they were called with: the
// params of the request as they came, beside a list.
func echoing(t *testing.T, stream bool) string {
	t.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		m, err := jsonrpc.Parse(body, jsonrpc.Limits{})
		if err != nil || r.ContentLength != int64(len(body)) {
			t.Errorf("the server got %d bytes of %d that are no message: %v", len(body), r.ContentLength, err)
		}
		text, end := fmt.Sprintf("{\n  \"jsonrpc\": \"2.0\",\r\n \"result\": {\"list\": [1.0,\n2e0], \"echo\": %s}, \"id\": %s}\n", m.Params, m.ID), ""
		switch m.Method {
		case "broken":
			text = text[:len(text)-10]
		case "invalid":
			text = strings.Replace(text, "xx", "x\xff", 1)
		case "grown":
			text = strings.Replace(text, "[1.0,", "[1.0,"+strings.Repeat("0,", 1000), 1)
		case "dropped":
			end = "dropped"
		}
		if !stream {
			w.Header().Set("Content-Type", "application/json")
			_, _ = io.WriteString(w, text[:len(text)-len(end)])
			return
		}
		w.Header().Set("Content-Type", "text/event-stream")
		for line := range strings.SplitSeq(strings.TrimRight(text, "\n"), "\n") {
			_, _ = io.WriteString(w, "data:"+strings.TrimSuffix(line, "\r")+"\n")
		}
		if end == "" {
			_, _ = io.WriteString(w, "\n")
		}
	}))
	t.Cleanup(srv.Close)
	return srv.URL
}

// spooled returns how many files of large messages this process holds open. On
// Windows they keep their names for as long.
func spooled(t *testing.T) int {
	t.Helper()
	if runtime.GOOS == "windows" {
		names, _ := filepath.Glob(filepath.Join(os.TempDir(), "mcp-clerk-*"))
		return len(names)
	}
	links, _ := filepath.Glob("/proc/self/fd/*")
	n := 0
	for _, link := range links {
		if to, err := os.Readlink(link); err == nil && strings.Contains(to, "/mcp-clerk-") && strings.HasSuffix(to, "(deleted)") {
			n++
		}
	}
	return n
}

// tempDir has temporary files made in dir.
func tempDir(t *testing.T, dir string) {
	name := "TMPDIR"
	if runtime.GOOS == "windows" {
		name = "TMP"
	}
	t.Setenv(name, dir)
}

// Messages of any size pass in both directions as they are, and leave nothing
// behind.
func TestMessagesThatAreSpooledPass(t *testing.T) {
	for _, stream := range []bool{false, true} {
		t.Run(fmt.Sprintf("stream %v", stream), func(t *testing.T) {
			dir := t.TempDir()
			tempDir(t, dir)
			h := start(t, bridge.Options{URL: echoing(t, stream)})
			for i, size := range []int{64 << 10, 1 << 20, 4<<20 - 200, 5 << 20, 16 << 20} {
				// Numbers, escapes and characters that a parser would write another way.
				params := `{ "n":9007199254740993, "text":"` + strings.Repeat(`xx\u00e9ü<\/`, size/11) + `","list":[1.0,1E3,-0], ` + meta + `}`
				got := h.call(request(i, "echo", params))
				want := fmt.Sprintf(`{  "jsonrpc": "2.0", "result": {"list": [1.0,2e0], "echo": %s}, "id": %d}`, params, i)
				// White space may go where a line break forced it.
				if strings.ReplaceAll(got, " ", "") != strings.ReplaceAll(want, " ", "") {
					t.Errorf("%d bytes came back as %.300q … (%d bytes)", size, got, len(got))
				}
			}
			if err := h.end(); err != nil {
				t.Error(err)
			}
			if n := spooled(t); n != 0 {
				t.Errorf("%d files are still open", n)
			}
			if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
				t.Errorf("files left: %v, %v", left, err)
			}
		})
	}
}

// What is broken ends in one error, of which nothing came before.
func TestSpooledMessagesThatAreBrokenAreAnsweredByErrors(t *testing.T) {
	params := `{"text":"` + strings.Repeat("xx", 3<<20) + `",` + meta + `}`
	for _, stream := range []bool{false, true} {
		for _, method := range []string{"broken", "invalid", "dropped"} {
			t.Run(fmt.Sprintf("%s, stream %v", method, stream), func(t *testing.T) {
				h := start(t, bridge.Options{URL: echoing(t, stream)})
				errorOf(t, h.call(request(1, method, params)), 1)
				if got := h.call(request(2, "echo", `{`+meta+`}`)); !strings.Contains(got, `"echo"`) {
					t.Errorf("afterwards: %.300s", got)
				}
				if err := h.end(); err != nil {
					t.Error(err)
				}
				if n := spooled(t); n != 0 {
					t.Errorf("%d files are still open", n)
				}
			})
		}
	}
	h := start(t, bridge.Options{URL: echoing(t, false)})
	for _, in := range []string{
		request(1, "echo", params) + "x",
		strings.Replace(request(1, "echo", params), "xx", "x\xff", 1),
	} {
		if code, text := errorOf(t, h.call(in), nil); code != jsonrpc.CodeParse {
			t.Errorf("from the host: %d %s", code, text)
		}
	}
	if n := spooled(t); n != 0 {
		t.Errorf("%d files are still open", n)
	}
}

// A disk that takes nothing costs the one message.
func TestSpooledMessagesThatCannotBeKeptAreAnsweredByErrors(t *testing.T) {
	tempDir(t, filepath.Join(t.TempDir(), "missing"))
	for _, stream := range []bool{false, true} {
		h := start(t, bridge.Options{URL: echoing(t, stream)})
		large := request("big", "echo", `{"text":"`+strings.Repeat("x", 5<<20)+`",`+meta+`}`)
		if code, text := errorOf(t, h.call(large), "big"); code != jsonrpc.CodeInternal || !strings.Contains(text, "cannot keep a large message") {
			t.Errorf("from the host: %d %s", code, text)
		}
		// The request just fits into memory, its answer does not.
		grown := request("grown", "grown", `{"text":"`+strings.Repeat("x", 4<<20-200)+`",`+meta+`}`)
		if _, text := errorOf(t, h.call(grown), "grown"); !strings.Contains(text, "cannot keep a large message") {
			t.Errorf("from the server: %s", text)
		}
		if got := h.call(request(2, "echo", `{`+meta+`}`)); !strings.Contains(got, `"echo"`) {
			t.Errorf("afterwards: %.300s", got)
		}
	}
}

// Messages that are kept in a file pass a translation as well, and what is asked
// about them.
func TestLargeMessagesAreTranslated(t *testing.T) {
	large := strings.Repeat("x", 6<<20)
	t.Run("legacy host", func(t *testing.T) {
		s := &modernServer{}
		h := start(t, bridge.Options{URL: serve(t, s)})
		h.call(`{"jsonrpc":"2.0","id":"i","method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{"elicitation":{}},"clientInfo":{"name":"h","version":"1"}}}`)
		h.send(initialized, request(7, "tools/call", `{"name":"ask","arguments":{"a":"`+large+`"}}`))
		m, err := jsonrpc.Parse([]byte(h.next()), jsonrpc.Limits{})
		if err != nil || m.Method != "elicitation/create" {
			t.Fatal("the host was not asked")
		}
		h.send(`{"jsonrpc":"2.0","id":` + string(m.ID) + `,"result":{"action":"accept","content":{"a":"` + large + `"}}}`)
		want(t, shorter(h.next(), large), `{"jsonrpc":"2.0","id":7,"result":{"content":[],"who":{"action":"accept","content":{"a":"LARGE"}},"state":"s-1"}}`)
		for _, body := range s.bodies("tools/call") {
			if !strings.Contains(body, `"arguments":{"a":"`+large+`"}`) {
				t.Error("the server did not get the arguments")
			}
		}
	})
	t.Run("modern host", func(t *testing.T) {
		asked := make(chan string, 1)
		s := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			m := peek(r)
			switch {
			case r.Method != http.MethodPost:
				w.WriteHeader(http.StatusMethodNotAllowed)
			case m.Method == "initialize":
				answerJSON(w, 200, `{"jsonrpc":"2.0","id":`+string(m.ID)+`,"result":{"protocolVersion":"2025-11-25","capabilities":{},"serverInfo":{"name":"s","version":"1"}}}`)
			case m.IsResponse():
				asked <- string(m.Result)
				w.WriteHeader(http.StatusAccepted)
			case !m.IsRequest():
				w.WriteHeader(http.StatusAccepted)
			default:
				arguments, _ := jsonrpc.Lookup(m.Params, "arguments")
				send := events(w)
				send(`{"jsonrpc":"2.0","id":71,"method":"elicitation/create","params":{"message":"` + large + `"}}`)
				given := <-asked
				send(string(jsonrpc.NewResult(m.ID, json.RawMessage(`{"arguments":`+string(arguments)+`,"given":`+given+`}`))))
			}
		})
		h := start(t, bridge.Options{URL: serve(t, legacyOnly(s))})
		call := `"name":"ask","arguments":{"a":"` + large + `"}`
		line := h.call(modernCall(2, "tools/call", call))
		state, _ := jsonrpc.LookupString([]byte(line), "result", "requestState")
		if message, _ := jsonrpc.LookupString([]byte(line), "result", "inputRequests", "input-1", "params", "message"); message != large || state == "" {
			t.Fatalf("the host got %s", shorter(line, large))
		}
		back := modernCall(3, "tools/call", call+`,"requestState":"`+state+`","inputResponses":{"input-1":{"action":"accept","content":{"b":"`+large+`"}}}`)
		want(t, shorter(h.call(back), large), `{"jsonrpc":"2.0","id":3,"result":{"resultType":"complete","arguments":{"a":"LARGE"},"given":{"action":"accept","content":{"b":"LARGE"}}}}`)
	})
}

// A large notification leaves its file only when the server has it.
func TestLargeNotificationsAreTranslated(t *testing.T) {
	large := strings.Repeat("x", 9<<19)
	s := &modernServer{}
	arrived := make(chan string, 5)
	h := start(t, bridge.Options{URL: serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if m := peek(r); m.Method == "notifications/x" {
			arrived <- string(m.Raw)
		}
		s.ServeHTTP(w, r)
	}))})
	h.handshake()
	for range cap(arrived) {
		h.send(`{"jsonrpc":"2.0","method":"notifications/x","params":{"a":"` + large + `"}}`)
	}
	for n := range cap(arrived) {
		select {
		case body := <-arrived:
			if !strings.Contains(body, `"a":"`+large+`"`) {
				t.Errorf("the server got %s", shorter(body, large))
			}
		case <-time.After(2 * time.Minute):
			t.Fatalf("%d of %d notifications arrived", n, cap(arrived))
		}
	}
}

func shorter(line, large string) string { return strings.ReplaceAll(line, large, "LARGE") }
