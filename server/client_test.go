package server_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
)

// message is a JSON-RPC message as the server sent it.
type message struct {
	ID     json.RawMessage `json:"id"`
	Method string          `json:"method"`
	Params json.RawMessage `json:"params"`
	Result json.RawMessage `json:"result"`
	Error  *struct {
		Code    int             `json:"code"`
		Message string          `json:"message"`
		Data    json.RawMessage `json:"data"`
	} `json:"error"`
}

// client speaks to the MCP endpoint, in one era.
type client struct {
	r       *rig
	token   string
	modern  bool
	session string
	next    int
	headers http.Header // added to every request
	caps    string      // client capabilities, as JSON
	onAsk   func(m message)
}

// legacy opens a session of revision 2025-11-25.
func (r *rig) legacy(token string) *client {
	r.t.Helper()
	c := &client{r: r, token: token, caps: `{}`}
	c.initialize()
	return c
}

func (c *client) initialize() {
	c.r.t.Helper()
	resp := c.post(`{"jsonrpc":"2.0","id":"init","method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":`+c.caps+`,"clientInfo":{"name":"rig","version":"1"}}}`, "")
	messages := c.read(resp)
	c.session = resp.Header.Get("Mcp-Session-Id")
	if c.session == "" || len(messages) != 1 || messages[0].Error != nil {
		c.r.t.Fatalf("initialize: %s: %+v", resp.Status, messages)
	}
	c.post(`{"jsonrpc":"2.0","method":"notifications/initialized"}`, "").Body.Close()
}

// stateless is a client of revision 2026-07-28.
func (r *rig) stateless(token string) *client {
	return &client{r: r, token: token, modern: true, caps: `{}`}
}

func (r *rig) both(token string) map[string]*client {
	r.t.Helper()
	return map[string]*client{"2025-11-25": r.legacy(token), "2026-07-28": r.stateless(token)}
}

func (c *client) post(body, name string) *http.Response {
	c.r.t.Helper()
	req, err := http.NewRequestWithContext(c.r.t.Context(), http.MethodPost, c.r.srv.URL(), strings.NewReader(body))
	if err != nil {
		c.r.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept", "application/json, text/event-stream")
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	if c.session != "" {
		req.Header.Set("Mcp-Session-Id", c.session)
		req.Header.Set("Mcp-Protocol-Version", "2025-11-25")
	}
	if c.modern {
		req.Header.Set("Mcp-Protocol-Version", "2026-07-28")
		var m message
		if err := json.Unmarshal([]byte(body), &m); err != nil {
			c.r.t.Fatalf("%v: %s", err, body)
		}
		req.Header.Set("Mcp-Method", m.Method)
		if name != "" {
			req.Header.Set("Mcp-Name", name)
		}
	}
	for k, v := range c.headers {
		req.Header[k] = v
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		c.r.t.Fatal(err)
	}
	return resp
}

// read returns the messages of a response, which may be JSON or a stream.
func (c *client) read(resp *http.Response) []message {
	c.r.t.Helper()
	defer resp.Body.Close()
	var messages []message
	add := func(raw []byte) {
		var m message
		if err := json.Unmarshal(raw, &m); err != nil {
			c.r.t.Fatalf("%s: %v: %q", resp.Status, err, raw)
		}
		messages = append(messages, m)
		if m.Method != "" && m.ID != nil && c.onAsk != nil {
			c.onAsk(m)
		}
	}
	if !strings.HasPrefix(resp.Header.Get("Content-Type"), "text/event-stream") {
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			c.r.t.Fatal(err)
		}
		if len(bytes.TrimSpace(body)) > 0 {
			add(body)
		}
		return messages
	}
	lines := newLines(resp.Body)
	for {
		line, err := lines()
		if data, ok := strings.CutPrefix(line, "data:"); ok && strings.TrimSpace(data) != "" {
			add([]byte(strings.TrimSpace(data)))
		}
		if errors.Is(err, io.EOF) {
			return messages
		}
		if err != nil {
			c.r.t.Fatal(err)
		}
	}
}

// call sends a request and returns its response and what came before it.
func (c *client) call(method, name, params string) (message, []message) {
	c.r.t.Helper()
	c.next++
	return c.callID(fmt.Sprint(c.next), method, name, params)
}

func (c *client) callID(id, method, name, params string) (message, []message) {
	c.r.t.Helper()
	if params == "" {
		params = `{}`
	}
	if c.modern {
		params = c.withMeta(params)
	}
	messages := c.read(c.post(`{"jsonrpc":"2.0","id":`+id+`,"method":"`+method+`","params":`+params+`}`, name))
	if len(messages) == 0 {
		c.r.t.Fatalf("%s: no response", method)
	}
	last := messages[len(messages)-1]
	if string(last.ID) != id && last.Error == nil {
		c.r.t.Fatalf("%s: the last message has id %s, want %s", method, last.ID, id)
	}
	return last, messages[:len(messages)-1]
}

// withMeta adds what a modern request carries in _meta.
func (c *client) withMeta(params string) string {
	c.r.t.Helper()
	var p map[string]json.RawMessage
	if err := json.Unmarshal([]byte(params), &p); err != nil {
		c.r.t.Fatal(err)
	}
	meta := map[string]json.RawMessage{}
	if p["_meta"] != nil {
		if err := json.Unmarshal(p["_meta"], &meta); err != nil {
			c.r.t.Fatal(err)
		}
	}
	meta["io.modelcontextprotocol/protocolVersion"] = json.RawMessage(`"2026-07-28"`)
	meta["io.modelcontextprotocol/clientInfo"] = json.RawMessage(`{"name":"rig","version":"1"}`)
	meta["io.modelcontextprotocol/clientCapabilities"] = json.RawMessage(c.caps)
	raw, err := json.Marshal(meta)
	if err != nil {
		c.r.t.Fatal(err)
	}
	p["_meta"] = raw
	if raw, err = json.Marshal(p); err != nil {
		c.r.t.Fatal(err)
	}
	return string(raw)
}

// toolResult is the result of tools/call.
type toolResult struct {
	ResultType string `json:"resultType"`
	Content    []struct {
		Type     string `json:"type"`
		Text     string `json:"text"`
		Data     string `json:"data"`
		MIMEType string `json:"mimeType"`
	} `json:"content"`
	Structured json.RawMessage `json:"structuredContent"`
	IsError    bool            `json:"isError"`
	Meta       map[string]any  `json:"_meta"`
}

func (c *client) tool(name, arguments string) toolResult {
	c.r.t.Helper()
	result, _ := c.toolWith(name, arguments, "")
	return result
}

// toolWith calls a tool with an optional _meta.
func (c *client) toolWith(name, arguments, meta string) (toolResult, []message) {
	c.r.t.Helper()
	params := `{"name":"` + name + `","arguments":` + arguments
	if meta != "" {
		params += `,"_meta":` + meta
	}
	m, before := c.call("tools/call", name, params+`}`)
	if m.Error != nil {
		c.r.t.Fatalf("tools/call %s: error %d %s", name, m.Error.Code, m.Error.Message)
	}
	var result toolResult
	if err := json.Unmarshal(m.Result, &result); err != nil {
		c.r.t.Fatal(err)
	}
	return result, before
}

// list returns the names of the tools, and the whole result.
func (c *client) list() (names string, result map[string]any) {
	c.r.t.Helper()
	m, _ := c.call("tools/list", "", "")
	if m.Error != nil {
		c.r.t.Fatalf("tools/list: %+v", m.Error)
	}
	var list struct {
		Tools []struct {
			Name string `json:"name"`
		} `json:"tools"`
	}
	if err := json.Unmarshal(m.Result, &list); err != nil {
		c.r.t.Fatal(err)
	}
	if err := json.Unmarshal(m.Result, &result); err != nil {
		c.r.t.Fatal(err)
	}
	var all []string
	for _, t := range list.Tools {
		all = append(all, t.Name)
	}
	return strings.Join(all, " "), result
}

func (res toolResult) text() string {
	for _, c := range res.Content {
		if c.Type == "text" {
			return c.Text
		}
	}
	return ""
}

// newLines returns a function that reads line after line.
func newLines(r io.Reader) func() (string, error) {
	b := bufio.NewReader(r)
	return func() (string, error) {
		line, err := b.ReadString('\n')
		return strings.TrimRight(line, "\r\n"), err
	}
}
