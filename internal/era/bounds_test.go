package era_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/mcp-clerk/mcp-clerk/internal/era"
	"github.com/mcp-clerk/mcp-clerk/internal/jsonrpc"
)

// conversation drives a machine and keeps what it wanted done.
type conversation struct {
	t     *testing.T
	m     era.Machine
	now   time.Time
	steps []string
}

func converse(t *testing.T, m era.Machine) *conversation {
	return &conversation{t: t, m: m, now: time.Unix(1_800_000_000, 0)}
}

func (c *conversation) parse(format string, args ...any) *jsonrpc.Message {
	c.t.Helper()
	m, err := jsonrpc.Parse(fmt.Appendf(nil, format, args...), jsonrpc.Limits{})
	if err != nil {
		c.t.Fatal(err)
	}
	return m
}

func (c *conversation) note(steps []era.Step) {
	c.steps = nil
	for _, s := range steps {
		c.steps = append(c.steps, write(s))
	}
}

func (c *conversation) host(format string, args ...any) {
	c.t.Helper()
	c.note(c.m.Host(c.now, c.parse(format, args...)))
}

func (c *conversation) server(call int, format string, args ...any) {
	c.t.Helper()
	c.note(c.m.Server(c.now, 1, call, c.parse(format, args...)))
}

func (c *conversation) wait(d time.Duration) {
	c.now = c.now.Add(d)
	c.note(c.m.Tick(c.now))
}

func (c *conversation) expect(text string) {
	c.t.Helper()
	for _, s := range c.steps {
		if strings.Contains(s, text) {
			return
		}
	}
	c.t.Errorf("no step has %q, there are only %.2000q", text, c.steps)
}

const elicits = `"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{"elicitation":{}}}`

// openSession makes a session of a ToLegacy: its calls begin with 3.
func (c *conversation) openSession() {
	c.host(`{"jsonrpc":"2.0","id":"first","method":"server/discover","params":{%s}}`, elicits)
	c.server(1, `{"jsonrpc":"2.0","id":"mcp-clerk-1","result":{"protocolVersion":"2025-11-25"}}`)
	c.note(c.m.Ended(c.now, 2, nil))
	c.expect("supportedVersions")
}

func TestAtMostSixtyFourCallsAreParked(t *testing.T) {
	c := converse(t, newToLegacy())
	c.openSession()
	call := 2
	for i := range 65 {
		c.host(`{"jsonrpc":"2.0","id":%d,"method":"tools/call","params":{"name":"t",%s}}`, i, elicits)
		call++
		c.server(call, `{"jsonrpc":"2.0","id":%d,"method":"elicitation/create","params":{"message":"m"}}`, 1000+i)
		c.wait(time.Second)
		if i < 64 {
			c.expect("input_required")
		}
	}
	c.expect(`"id":1064,"error":{"code":-32603,"message":"the client cannot be asked for more input now"}`)
	c.server(call, `{"jsonrpc":"2.0","id":64,"result":{}}`)
	c.expect(`host {"jsonrpc":"2.0","id":64,"result":{"resultType":"complete"}}`)
	// Those that are given up make room.
	c.wait(10 * time.Minute)
	c.host(`{"jsonrpc":"2.0","id":"new","method":"tools/call","params":{"name":"t",%s}}`, elicits)
	for _, s := range c.steps {
		var leg, n int
		if _, err := fmt.Sscanf(s, "send %d/%d", &leg, &n); err == nil {
			call = n
		}
	}
	c.server(call, `{"jsonrpc":"2.0","id":1,"method":"elicitation/create","params":{"message":"m"}}`)
	c.wait(time.Second)
	c.expect("input_required")
}

func TestRoundsOfInputAreBounded(t *testing.T) {
	t.Run("modern server", func(t *testing.T) {
		c := converse(t, era.NewToModern("server.test"))
		c.host(`{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"capabilities":{"roots":{}}}}`)
		c.host(`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"t"}}`)
		ids := 1 // of the discovery
		id := "1"
		for round := range 17 {
			c.server(round+2, `{"jsonrpc":"2.0","id":%s,"result":{"resultType":"input_required","inputRequests":{"r":{"method":"roots/list"}}}}`, id)
			if round == 16 {
				break
			}
			ids++
			c.expect(fmt.Sprintf(`host {"jsonrpc":"2.0","id":"mcp-clerk-%d","method":"roots/list"}`, ids))
			c.host(`{"jsonrpc":"2.0","id":"mcp-clerk-%d","result":{"roots":[]}}`, ids)
			ids++
			id = fmt.Sprintf(`"mcp-clerk-%d"`, ids)
		}
		c.expect("the server has asked for input more than 16 times")
	})
	t.Run("legacy server", func(t *testing.T) {
		c := converse(t, newToLegacy())
		c.openSession()
		c.host(`{"jsonrpc":"2.0","id":0,"method":"tools/call","params":{"name":"t",%s}}`, elicits)
		for round := range 17 {
			c.server(3, `{"jsonrpc":"2.0","id":%d,"method":"elicitation/create","params":{"message":"m"}}`, round)
			c.wait(time.Second)
			if round == 16 {
				break
			}
			c.expect("input_required")
			m := c.parse("%s", strings.TrimPrefix(c.steps[0], "host "))
			state, _ := jsonrpc.LookupString(m.Result, "requestState")
			c.host(`{"jsonrpc":"2.0","id":%d,"method":"tools/call","params":{"name":"t","requestState":%q,"inputResponses":{"input-%d":{"action":"accept"}},%s}}`, round+1, state, round+1, elicits)
		}
		c.expect("the client cannot be asked for more input now")
	})
}

// What comes for a parked call is held within bounds: the newest of it.
func TestWhatIsHeldIsBounded(t *testing.T) {
	for name, size := range map[string]int{"many": 10, "large": 20 << 10} {
		t.Run(name, func(t *testing.T) {
			c := converse(t, newToLegacy())
			c.openSession()
			c.host(`{"jsonrpc":"2.0","id":0,"method":"tools/call","params":{"name":"t",%s}}`, strings.Replace(elicits, `"_meta":{`, `"_meta":{"progressToken":"p",`, 1))
			c.server(3, `{"jsonrpc":"2.0","id":1,"method":"elicitation/create","params":{"message":"m"}}`)
			c.wait(time.Second)
			state, _ := jsonrpc.LookupString(c.parse("%s", strings.TrimPrefix(c.steps[0], "host ")).Result, "requestState")
			for i := range 100 {
				c.server(3, `{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":"p","progress":%d,"message":"%s"}}`, i, strings.Repeat("x", size))
			}
			c.host(`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"t","requestState":%q,"inputResponses":{"input-1":{}},%s}}`, state, strings.Replace(elicits, `"_meta":{`, `"_meta":{"progressToken":"q",`, 1))
			c.expect(`"progress":99,`)
			held, bytes := 0, 0
			for _, s := range c.steps {
				if strings.Contains(s, "notifications/progress") {
					held++
					bytes += len(s)
				}
			}
			if held > 64 || bytes > 300<<10 || held < 10 {
				t.Errorf("%d notifications of %d bytes were held", held, bytes)
			}
		})
	}
}

// What a server asks, and what parked calls have ended with, is kept to 8 MiB.
func TestWhatWaitsForTheHostIsBounded(t *testing.T) {
	mega := strings.Repeat("x", 1<<20)
	park := func(c *conversation, i int) (state string) {
		c.t.Helper()
		c.host(`{"jsonrpc":"2.0","id":%d,"method":"tools/call","params":{"name":"t",%s}}`, i, elicits)
		c.server(3+i, `{"jsonrpc":"2.0","id":%d,"method":"elicitation/create","params":{"message":"m"}}`, 1000+i)
		c.wait(time.Second)
		c.expect("input_required")
		m := c.parse("%s", strings.TrimPrefix(c.steps[0], "host "))
		state, _ = jsonrpc.LookupString(m.Result, "requestState")
		return state
	}
	t.Run("responses", func(t *testing.T) {
		c := converse(t, newToLegacy())
		c.openSession()
		states := map[int]string{}
		call := []int{0, 1, 2, 3, 4, 5, 6, 7, 8}
		for _, i := range call {
			states[i] = park(c, i)
			// The answers to the questions take calls of their own: all are parked first.
			if i < len(call)-1 {
				continue
			}
			for _, i := range call {
				c.server(3+i, `{"jsonrpc":"2.0","id":%d,"result":{"text":%q}}`, i, mega)
			}
		}
		back := func(i int, want string) {
			t.Helper()
			c.host(`{"jsonrpc":"2.0","id":%d,"method":"tools/call","params":{"name":"t","requestState":%q,"inputResponses":{"input-1":{"action":"accept"}},%s}}`, 100+i, states[i], elicits)
			c.expect(fmt.Sprintf(`host {"jsonrpc":"2.0","id":%d,%s`, 100+i, want))
		}
		back(0, `"result":{`)
		back(6, `"result":{`)
		back(7, `"error":{"code":-32603,"message":"the response came while the client was asked for input`)
		back(8, `"error":{"code":-32603,"message":"the response came while the client was asked for input`)
	})
	t.Run("questions", func(t *testing.T) {
		c := converse(t, newToLegacy())
		c.openSession()
		c.host(`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"t",%s}}`, elicits)
		for i := range 9 {
			c.server(3, `{"jsonrpc":"2.0","id":%d,"method":"elicitation/create","params":{"message":%q}}`, 1000+i, mega)
			if i < 7 && len(c.steps) > 0 {
				t.Errorf("question %d led to %.300q", i, c.steps)
			}
		}
		c.expect(`"id":1008,"error":{"code":-32603,"message":"too much waits for the client"}`)
	})
	t.Run("addresses to visit first", func(t *testing.T) {
		c := converse(t, newToLegacy())
		c.host(`{"jsonrpc":"2.0","id":"first","method":"server/discover","params":{%s}}`, urlElicits)
		c.server(1, `{"jsonrpc":"2.0","id":"mcp-clerk-1","result":{"protocolVersion":"2025-11-25"}}`)
		c.note(c.m.Ended(c.now, 2, nil))
		c.host(`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"t",%s}}`, urlElicits)
		c.server(3, `{"jsonrpc":"2.0","id":1,"error":{"code":-32042,"message":"first","data":{"elicitations":[{"mode":"url","url":"https://x.test","message":"%s"}]}}}`, strings.Repeat(mega, 8))
		c.expect(`host {"jsonrpc":"2.0","id":1,"error":{"code":-32603,`)
	})
}

const urlElicits = `"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{"elicitation":{"url":{}}}}`

// The ids of cancelled calls are kept from use for a while, and not for ever.
func TestIDsOfCancelledCalls(t *testing.T) {
	const meta = `"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}`
	c := converse(t, era.NewToLegacy(era.LegacyOptions{}))
	call := func(id int) {
		c.host(`{"jsonrpc":"2.0","id":%d,"method":"tools/call","params":{"name":"t",%s}}`, id, meta)
	}
	cancel := func(id int) { c.note(c.m.Cancel(c.now, fmt.Append(nil, id))) }
	call(0)
	c.server(1, `{"jsonrpc":"2.0","id":"mcp-clerk-1","result":{"protocolVersion":"2025-11-25","capabilities":{}}}`)
	c.note(c.m.Ended(c.now, 2, nil)) // of notifications/initialized
	c.expect(`"id":0,"method":"tools/call"`)
	cancel(0)
	call(0)
	c.expect(`"id":"mcp-clerk-2","method":"tools/call"`)
	cancel(0)
	for id := range 1000 {
		call(id + 1)
		cancel(id + 1)
	}
	call(0)
	c.expect(`"id":0,"method":"tools/call"`)
}
