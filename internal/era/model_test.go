package era_test

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/mcp-clerk/mcp-clerk/internal/era"
	"github.com/mcp-clerk/mcp-clerk/internal/jsonrpc"
)

// world is a host and a server around a machine. It knows what either may still
// expect, and fails when a machine breaks that.
type world struct {
	fail  func(format string, args ...any)
	m     era.Machine
	now   time.Time
	open  map[string]bool // the host's requests that have not ended; true: a subscription
	calls map[int]sent
	last  int               // call
	asked map[string]string // requests to the host, by id: their method
	state []string          // every requestState seen
}

type sent struct {
	leg     int
	id      string // "": nobody answers
	done    bool   // somebody has
	request string // its method
}

func newWorld(fail func(string, ...any), modernHost bool) *world {
	w := &world{fail: fail, now: time.Unix(1_800_000_000, 0), open: map[string]bool{}, calls: map[int]sent{}, asked: map[string]string{}}
	w.m = era.NewToModern("server.test")
	if modernHost {
		w.m = newToLegacy()
	}
	return w
}

// carryOut takes the steps, holding each against what may be.
func (w *world) carryOut(steps []era.Step) {
	for _, s := range steps {
		switch s.Verb {
		case era.Deliver:
			w.deliver(s)
		case era.Fail:
			if _, open := w.open[s.For]; !open || s.Err == nil {
				w.fail("request %s is failed with %v, but is not open", s.For, s.Err)
			}
			delete(w.open, s.For)
		case era.Send:
			if s.Call <= w.last {
				w.fail("call %d comes behind call %d", s.Call, w.last)
			}
			w.last = s.Call
			c := sent{leg: s.Leg, request: s.Message.Method}
			if s.Message.IsRequest() {
				c.id = jsonrpc.IDKey(s.Message.ID)
				for _, o := range w.calls {
					if o.id == c.id && !o.done {
						w.fail("two calls with the id %s are under way", c.id)
					}
				}
			}
			w.calls[s.Call] = c
		case era.Stop:
			if _, ok := w.calls[s.Call]; !ok {
				w.fail("call %d is stopped, but is not under way", s.Call)
			}
			delete(w.calls, s.Call)
		case era.Close:
			for call, c := range w.calls {
				if c.leg == s.Leg {
					delete(w.calls, call)
				}
			}
		default:
			w.fail("unknown step %+v", s)
		}
	}
}

func (w *world) deliver(s era.Step) {
	m := s.Message
	key := jsonrpc.IDKey(m.ID)
	switch {
	case m.IsResponse():
		if _, open := w.open[key]; !open || s.For != key {
			w.fail("request %q gets the response %s, but is not open", s.For, m.Raw)
		}
		delete(w.open, key)
		if state, ok := jsonrpc.LookupString(m.Result, "requestState"); ok {
			w.state = append(w.state, state)
		}
	case m.IsRequest():
		if _, twice := w.asked[key]; twice {
			w.fail("the host is asked twice under the id %s", key)
		}
		w.asked[key] = m.Method
	default:
		if _, open := w.open[s.For]; s.For != "" && !open {
			w.fail("%s comes for request %s, which is not open", m.Raw, s.For)
		}
		if m.Method == "notifications/cancelled" {
			id, _ := jsonrpc.Lookup(m.Params, "requestId")
			delete(w.asked, jsonrpc.IDKey(id))
		}
	}
}

// host sends a message of the host, unless its id is in use.
func (w *world) host(raw string) {
	m, err := jsonrpc.Parse([]byte(raw), jsonrpc.Limits{MaxDepth: 1000})
	if err != nil {
		return
	}
	key := jsonrpc.IDKey(m.ID)
	switch {
	case m.IsRequest():
		if _, used := w.open[key]; used {
			return
		}
		w.open[key] = m.Method == "subscriptions/listen"
	case m.IsResponse():
		delete(w.asked, key)
	case m.Method == "notifications/cancelled":
		id, _ := jsonrpc.Lookup(m.Params, "requestId")
		delete(w.open, jsonrpc.IDKey(id))
	}
	w.carryOut(w.m.Host(w.now, m))
}

func (w *world) cancel(id string) {
	delete(w.open, id)
	w.carryOut(w.m.Cancel(w.now, []byte(id)))
}

// server sends a message of the server; $ID stands for the call's own.
func (w *world) server(leg, call int, raw string) {
	c, ok := w.calls[call]
	if call != 0 && !ok {
		return
	}
	if ok {
		leg = c.leg
	}
	m, err := jsonrpc.Parse([]byte(strings.ReplaceAll(raw, "$ID", c.id)), jsonrpc.Limits{MaxDepth: 1000})
	if err != nil {
		return
	}
	if ok && m.IsResponse() {
		c.done = true
		w.calls[call] = c
	}
	w.carryOut(w.m.Server(w.now, leg, call, m))
}

func (w *world) ended(call int, err error) {
	if _, ok := w.calls[call]; !ok {
		return
	}
	delete(w.calls, call)
	w.carryOut(w.m.Ended(w.now, call, err))
}

func (w *world) wait(d time.Duration) {
	until := w.now.Add(d)
	for range 10_000 {
		next := w.m.Next()
		if next.IsZero() || next.After(until) {
			w.now = until
			return
		}
		if next.After(w.now) {
			w.now = next
		}
		w.carryOut(w.m.Tick(w.now))
	}
	w.fail("time does not pass: something is always due")
}

// underWay returns the calls in their order.
func (w *world) underWay() []int {
	var calls []int
	for call := range w.calls {
		calls = append(calls, call)
	}
	slices.Sort(calls)
	return calls
}

// finish lets everybody give up: then every request of the host must have ended.
func (w *world) finish() {
	for range 100 {
		for _, call := range w.underWay() {
			w.ended(call, errors.New("the network is gone"))
		}
		for id := range w.asked {
			w.host(`{"jsonrpc":"2.0","id":` + id + `,"error":{"code":-1,"message":"no"}}`)
		}
		w.wait(time.Hour)
	}
	for id, listens := range w.open {
		if !listens {
			w.fail("request %s has never ended", id)
		}
	}
	w.carryOut(w.m.End(w.now))
}

const modernMeta = `"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":%s%s}`

var (
	methods      = []string{"tools/call", "tools/call", "prompts/get", "resources/read", "tools/list", "ping", "x/y", "logging/setLevel", "resources/subscribe", "resources/unsubscribe", "server/discover", "subscriptions/listen", "initialize", "notifications/initialized"}
	capabilities = []string{`{"elicitation":{},"roots":{},"sampling":{}}`, `{}`, `{"elicitation":{"url":{}}}`, `{"a":1}`, `{"a":2}`, `{"a":3}`}
	logLevels    = []string{"", "", `,"io.modelcontextprotocol/logLevel":"debug"`, `,"io.modelcontextprotocol/logLevel":"error"`}
	results      = []string{
		`{}`, `{"resultType":"complete","tools":[]}`, `{"resultType":"other"}`,
		`{"supportedVersions":["2026-07-28"],"capabilities":{"tools":{"listChanged":true}}}`,
		`{"protocolVersion":"2025-11-25","capabilities":{"logging":{},"tools":{"listChanged":true},"resources":{"subscribe":true}}}`,
		`{"resultType":"input_required","requestState":"s"}`,
		`{"resultType":"input_required","inputRequests":{"a":{"method":"roots/list"},"b":{"method":"elicitation/create","params":{"mode":"url"}}},"requestState":"s"}`,
		`{"resultType":"input_required","inputRequests":{"a":{"method":"elicitation/create","params":{}}}}`,
	}
	faults = []string{
		`{"code":-32601,"message":"no"}`, `{"code":-32022,"message":"no","data":{"supported":["2026-07-28"]}}`, `{"code":-32002,"message":"no"}`,
		`{"code":-32042,"message":"no","data":{"elicitations":[{"mode":"url","elicitationId":"e"}]}}`,
	}
	unasked = []string{
		`{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":1,"progress":1}}`,
		`{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":1}}`,
		`{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}`,
		`{"jsonrpc":"2.0","method":"notifications/resources/updated","params":{"uri":"x:a"}}`,
		`{"jsonrpc":"2.0","method":"notifications/subscriptions/acknowledged","params":{"notifications":{"resourceSubscriptions":["x:a"]}}}`,
		`{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1}}`,
		`{"jsonrpc":"2.0","method":"notifications/x"}`,
		`{"jsonrpc":"2.0","id":1,"method":"roots/list"}`, `{"jsonrpc":"2.0","id":2,"method":"elicitation/create","params":{"message":"m"}}`,
		`{"jsonrpc":"2.0","id":3,"method":"sampling/createMessage","params":{}}`, `{"jsonrpc":"2.0","id":4,"method":"ping"}`,
	}
)

// TestEveryRequestEndsOnce has both sides do anything at all.
func TestEveryRequestEndsOnce(t *testing.T) {
	for _, modernHost := range []bool{false, true} {
		t.Run(fmt.Sprintf("modern host %v", modernHost), func(t *testing.T) {
			rapid.Check(t, func(t *rapid.T) {
				w := newWorld(t.Fatalf, modernHost)
				pick := func(from []string) string { return rapid.SampledFrom(from).Draw(t, "of") }
				ids := []string{"1", "2", "3", `"a"`, `"mcp-clerk-1"`, `"mcp-clerk-2"`}
				call := func() int {
					calls := w.underWay()
					if len(calls) == 0 {
						return 0
					}
					return rapid.SampledFrom(calls).Draw(t, "call")
				}
				t.Repeat(map[string]func(*rapid.T){
					"request": func(t *rapid.T) {
						params := `"name":"t","uri":"x:a","level":"info","notifications":{"toolsListChanged":true,"resourceSubscriptions":["x:a"]}`
						meta := `"_meta":{}`
						if rapid.Bool().Draw(t, "progress") {
							meta = `"_meta":{"progressToken":1}`
						}
						if modernHost {
							meta = fmt.Sprintf(modernMeta, pick(capabilities), pick(logLevels)+`,"progressToken":1`)
						}
						if len(w.state) > 0 && rapid.Bool().Draw(t, "state") {
							params += `,"requestState":"` + pick(w.state) + `","inputResponses":{"input-1":{"action":"accept"},"input-2":{}}`
						}
						w.host(`{"jsonrpc":"2.0","id":` + pick(ids) + `,"method":"` + pick(methods) + `","params":{` + params + `,` + meta + `}}`)
					},
					"answer": func(t *rapid.T) {
						id := pick(ids)
						for asked := range w.asked {
							id = asked
						}
						w.host(`{"jsonrpc":"2.0","id":` + id + `,` + pick([]string{`"result":{}`, `"error":{"code":-1,"message":"no"}`}) + `}`)
					},
					"initialized": func(*rapid.T) { w.host(`{"jsonrpc":"2.0","method":"notifications/initialized"}`) },
					"cancel":      func(*rapid.T) { w.cancel(pick(ids)) },
					"cancelled": func(*rapid.T) {
						w.host(`{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":` + pick(ids) + `}}`)
					},
					"result": func(*rapid.T) { w.server(1, call(), `{"jsonrpc":"2.0","id":$ID,"result":`+pick(results)+`}`) },
					"error":  func(*rapid.T) { w.server(1, call(), `{"jsonrpc":"2.0","id":$ID,"error":`+pick(faults)+`}`) },
					"unasked": func(t *rapid.T) {
						if rapid.Bool().Draw(t, "on a call") {
							w.server(1, call(), pick(unasked))
						} else {
							w.server(rapid.IntRange(0, 5).Draw(t, "leg"), 0, pick(unasked))
						}
					},
					"accepted": func(*rapid.T) { w.ended(call(), nil) },
					"ended":    func(*rapid.T) { w.ended(call(), errors.New("it broke")) },
					"wait": func(t *rapid.T) {
						w.wait(rapid.SampledFrom([]time.Duration{time.Millisecond, time.Second, time.Minute, time.Hour}).Draw(t, "time"))
					},
				})
				w.finish()
			})
		})
	}
}

// FuzzMachine feeds both machines with lines: what happens, then a message.
func FuzzMachine(f *testing.F) {
	f.Add([]byte("h" + `{"jsonrpc":"2.0","id":1,"method":"initialize","params":{}}` + "\ns1" + `{"jsonrpc":"2.0","id":"mcp-clerk-1","result":{"supportedVersions":["2026-07-28"]}}`))
	f.Add([]byte("h" + `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"t",` + fmt.Sprintf(modernMeta, `{"roots":{}}`, "") + `}}` +
		"\ns1" + `{"jsonrpc":"2.0","id":"mcp-clerk-1","result":{"protocolVersion":"2025-11-25"}}` + "\ne2\ns3" + `{"jsonrpc":"2.0","id":1,"method":"roots/list"}` + "\nw\nc1"))
	for _, raw := range slices.Concat(unasked, results) {
		f.Add([]byte("h" + `{"jsonrpc":"2.0","id":1,"method":"tools/call"}` + "\ns1" + raw))
	}
	f.Fuzz(func(t *testing.T, script []byte) {
		for _, modernHost := range []bool{false, true} {
			w := newWorld(t.Fatalf, modernHost)
			for line := range bytes.Lines(script[:min(len(script), 1<<16)]) {
				line = bytes.TrimRight(line, "\n")
				if len(line) == 0 {
					continue
				}
				digit := 0
				if len(line) > 1 {
					digit = int(line[1] - '0')
				}
				switch line[0] {
				case 'h':
					w.host(string(line[1:]))
				case 's':
					if len(line) > 2 {
						w.server(1, digit, string(line[2:]))
					}
				case 'a':
					w.ended(digit, nil)
				case 'e':
					w.ended(digit, errors.New("it broke"))
				case 'c':
					if m, err := jsonrpc.Parse([]byte(`{"id":`+string(line[1:])+`,"method":"x"}`), jsonrpc.Limits{}); err == nil && m.IsRequest() {
						w.cancel(string(m.ID))
					}
				case 'w':
					w.wait(time.Duration(digit) * 10 * time.Minute)
				}
			}
			w.finish()
		}
	})
}
