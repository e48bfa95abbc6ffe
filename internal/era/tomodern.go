package era

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/mcp-clerk/mcp-clerk/internal/jsonrpc"
)

// ToModern is the translation for a legacy host with a modern server. It uses
// one connection, leg 0.
//
// initialize is answered from server/discover; every request gets the _meta that
// the revision wants; a result of input_required becomes requests to the host,
// and their answers a retry; subscriptions and list changes become one
// subscriptions/listen; ping and logging/setLevel are answered here.
type ToModern struct {
	// Elsewhere reports whether a value of a message stands for another one that
	// is not in memory. Nil: none does.
	Elsewhere func(json.RawMessage) bool

	steps

	server string // what the server is called where it gives no name
	// What the host said of itself.
	hostVersion  string
	clientInfo   json.RawMessage
	capabilities json.RawMessage
	level        json.RawMessage // nil: none set

	version  string // the modern revision spoken
	calls    int    // the last call
	inFlight map[int]*ask
	requests map[string]*ask          // of the host, by id
	asked    map[string]*inputRequest // of the host, by id
	ids      ids

	listen listening
}

// ask is a request of the host on its way to the server.
type ask struct {
	m       *jsonrpc.Message
	key     string
	call    int             // 0: none under way
	id      json.RawMessage // of the call
	retried bool            // with another version
	rounds  int
	open    []*inputRequest // wait for the host
	answers []json.RawMessage
	names   []string
	state   json.RawMessage // the server's requestState as it came; nil: none
	again   time.Time       // when to ask again, where the server wanted no input
}

// inputRequest is what the host is asked on a server's behalf.
type inputRequest struct {
	of     *ask
	id     json.RawMessage
	method string
	at     int // in of.answers
}

var _ Machine = (*ToModern)(nil)

// NewToModern returns the translation for one host. server names the server
// where it does not say what it is called.
func NewToModern(server string) *ToModern {
	return &ToModern{
		server: server, version: ModernVersions[0], capabilities: json.RawMessage("{}"),
		inFlight: map[int]*ask{}, requests: map[string]*ask{}, asked: map[string]*inputRequest{},
	}
}

// Host implements Machine.
func (t *ToModern) Host(now time.Time, m *jsonrpc.Message) []Step {
	switch {
	case m.IsResponse():
		t.answered(now, m)
	case m.IsNotification():
		t.notified(now, m)
	case m.Params != nil && !isObject(m.Params):
		t.refuse(m.ID, jsonrpc.CodeInvalidParams, "params are not an object", nil)
	default:
		t.request(now, m)
	}
	return t.take()
}

func (t *ToModern) request(now time.Time, m *jsonrpc.Message) {
	switch m.Method {
	case methodPing:
		t.deliver(jsonrpc.IDKey(m.ID), jsonrpc.NewResult(m.ID, nil))
	case methodSetLevel:
		level, _ := jsonrpc.Lookup(m.Params, "level")
		name, _ := jsonrpc.LookupString(m.Params, "level")
		if !slices.Contains(levels, name) {
			t.refuse(m.ID, jsonrpc.CodeInvalidParams, "invalid log level", nil)
			return
		}
		t.level = slices.Clone(level)
		t.deliver(jsonrpc.IDKey(m.ID), jsonrpc.NewResult(m.ID, nil))
	case methodSubscribe, methodUnsubscribe:
		uri, ok := jsonrpc.LookupString(m.Params, "uri")
		if !ok {
			t.refuse(m.ID, jsonrpc.CodeInvalidParams, "params have no uri", nil)
			return
		}
		t.watch(now, m, uri)
	case methodInitialize:
		t.begin(m)
	default:
		a := &ask{m: m, key: jsonrpc.IDKey(m.ID)}
		t.requests[a.key] = a
		t.send(a)
	}
}

// begin takes the host's initialize.
func (t *ToModern) begin(m *jsonrpc.Message) {
	t.hostVersion, _ = jsonrpc.LookupString(m.Params, "protocolVersion")
	if !slices.Contains(LegacyVersions, t.hostVersion) {
		t.hostVersion = LegacyVersions[0]
	}
	t.clientInfo, _ = jsonrpc.Lookup(m.Params, "clientInfo")
	t.capabilities = json.RawMessage("{}")
	if c, _ := jsonrpc.Lookup(m.Params, "capabilities"); isObject(c) {
		// Tasks are another feature in the modern revision, and the change of
		// roots is none there.
		t.capabilities = edit(c, func(key string, val json.RawMessage) json.RawMessage {
			switch {
			case key == "tasks":
				return nil
			case key == "roots" && isObject(val):
				return drop(val, "listChanged")
			}
			return val
		})
	}
	t.level = nil
	t.endListening()
	a := &ask{m: m, key: jsonrpc.IDKey(m.ID)}
	t.requests[a.key] = a
	t.send(a)
}

// meta returns params with the _meta of a modern request.
func (t *ToModern) meta(params json.RawMessage, level bool) json.RawMessage {
	meta, _ := jsonrpc.Lookup(params, "_meta")
	if !isObject(meta) {
		meta = nil
	}
	meta = set(meta, keyVersion, quote(t.version))
	if isObject(t.clientInfo) {
		meta = set(meta, keyClientInfo, t.clientInfo)
	}
	meta = set(meta, keyClientCaps, t.capabilities)
	if level && t.level != nil {
		meta = set(meta, keyLogLevel, t.level)
	}
	return set(params, "_meta", meta)
}

// send passes a to the server, with the host's answers if there are any.
func (t *ToModern) send(a *ask) {
	var m *jsonrpc.Message
	if a.m.Method == methodInitialize {
		a.id = t.ids.take(nil)
		m = parse(jsonrpc.NewRequest(a.id, methodDiscover, t.meta(nil, false)))
	} else {
		want := a.m.ID
		if a.rounds > 0 || a.retried {
			want = nil // a retry is a request of its own
		}
		params := t.meta(a.m.Params, true)
		if a.names != nil {
			responses := json.RawMessage("{}")
			for i, name := range a.names {
				responses = append(responses[:len(responses)-1:len(responses)-1], comma(i)...)
				responses = append(append(append(responses, quote(name)...), ':'), a.answers[i]...)
				responses = append(responses, '}')
			}
			params = set(params, "inputResponses", responses)
		}
		if a.state != nil {
			params = set(params, "requestState", a.state)
		}
		a.id = t.ids.take(want)
		m = parse(jsonrpc.ReplaceID(withParams(a.m, params), a.id))
	}
	t.calls++
	a.call = t.calls
	t.inFlight[a.call] = a
	t.add(Step{Verb: Send, For: a.key, Call: a.call, Message: m})
}

func comma(i int) string {
	if i == 0 {
		return ""
	}
	return ","
}

// over notes that the call of a has had its response, or will have none.
func (t *ToModern) over(a *ask) {
	delete(t.inFlight, a.call)
	t.ids.free(a.id)
	a.call = 0
}

// finish ends the host's request with a response.
func (t *ToModern) finish(a *ask, raw []byte) {
	delete(t.requests, a.key)
	t.deliver(a.key, raw)
}

func (t *ToModern) refuseAsk(a *ask, format string, args ...any) {
	t.finish(a, jsonrpc.NewError(a.m.ID, jsonrpc.CodeInternal, fmt.Sprintf(format, args...), nil))
}

// Server implements Machine.
func (t *ToModern) Server(now time.Time, _, call int, m *jsonrpc.Message) []Step {
	if t.listened(now, call, m) {
		return t.take()
	}
	a := t.inFlight[call]
	switch {
	case a == nil || m.IsRequest(): // the revision has no requests of the server
	case m.IsNotification():
		t.add(Step{Verb: Deliver, For: a.key, Message: m})
	case m.Error != nil:
		t.over(a)
		t.failed(a, m)
	default:
		t.over(a)
		t.result(now, a, m)
	}
	return t.take()
}

// failed deals with the server's error to a.
func (t *ToModern) failed(a *ask, m *jsonrpc.Message) {
	code := ErrorCode(m.Error)
	if code == jsonrpc.CodeUnsupportedVersion && !a.retried {
		supported, _ := jsonrpc.Lookup(m.Error, "data", "supported")
		if v := common(supported); v != "" {
			t.version, a.retried = v, true
			t.send(a)
			return
		}
	}
	if a.m.Method == methodInitialize {
		delete(t.requests, a.key)
		text, _ := jsonrpc.LookupString(m.Error, "message")
		t.fail(a.key, &OpenError{Code: code, Err: errors.New(text)})
		return
	}
	t.finish(a, withID(m, a.m.ID))
}

// common returns the preferred modern version in a list of strings.
func common(list json.RawMessage) string {
	var theirs []string
	if json.Unmarshal(list, &theirs) != nil {
		return ""
	}
	for _, v := range ModernVersions {
		if slices.Contains(theirs, v) {
			return v
		}
	}
	return ""
}

func (t *ToModern) result(now time.Time, a *ask, m *jsonrpc.Message) {
	kind, has := jsonrpc.LookupString(m.Result, "resultType")
	switch {
	case a.m.Method == methodInitialize:
		t.discovered(a, m.Result)
	case !has || kind == "complete":
		members := []string{"resultType"}
		if cacheable(a.m.Method) {
			members = append(members, "ttlMs", "cacheScope")
		}
		t.finish(a, withResult(m, a.m.ID, t.legacyResult(a.m.Method, drop(m.Result, members...))))
	case kind != "input_required":
		if _, extended := jsonrpc.Lookup(t.capabilities, "extensions"); extended {
			t.finish(a, withResult(m, a.m.ID, m.Result))
			return
		}
		t.refuseAsk(a, "the server has answered with a result of a type that the client does not know")
	case !mayAsk(a.m.Method):
		t.refuseAsk(a, "the server has asked for input during %s", a.m.Method)
	case a.rounds == maxRounds:
		t.refuseAsk(a, "the server has asked for input more than %d times", maxRounds)
	default:
		a.rounds++
		t.input(now, a, m.Result)
	}
}

// legacyResult changes what hosts of the revisions before would take for an
// error, and that of a whole list: there, structured content is an object, and the
// properties of a tool's schemas are (2026-07-28, changelog, "Loosen inputSchema
// and outputSchema").
func (t *ToModern) legacyResult(method string, result json.RawMessage) json.RawMessage {
	switch method {
	case "tools/list":
		return edit(result, func(key string, val json.RawMessage) json.RawMessage {
			if key == "tools" {
				return editElements(val, legacyTool)
			}
			return val
		})
	case "tools/call":
		elsewhere := func(v json.RawMessage) bool { return t.Elsewhere != nil && t.Elsewhere(v) }
		value, has := jsonrpc.Lookup(result, "structuredContent")
		if !has || isObject(value) || elsewhere(value) {
			return result
		}
		result = drop(result, "structuredContent")
		content, _ := jsonrpc.Lookup(result, "content")
		blocks, _ := jsonrpc.Elements(content) // no array: none
		if len(blocks) == 0 && !elsewhere(content) && string(value) != "null" {
			return set(result, "content", json.RawMessage(`[{"type":"text","text":`+string(quote(string(value)))+`}]`))
		}
	}
	return result
}

// legacyTool is a tool as the revisions before describe it.
func legacyTool(tool json.RawMessage) json.RawMessage {
	if !isObject(tool) {
		return tool
	}
	return edit(tool, func(key string, val json.RawMessage) json.RawMessage {
		switch {
		case key == "outputSchema" && !ofObject(val):
			return nil
		case (key == "outputSchema" || key == "inputSchema") && isObject(val):
			return edit(val, func(key string, val json.RawMessage) json.RawMessage {
				if key == "properties" && isObject(val) {
					return edit(val, legacyProperty)
				}
				return val
			})
		}
		return val
	})
}

func ofObject(schema json.RawMessage) bool {
	kind, _ := jsonrpc.LookupString(schema, "type")
	return kind == "object"
}

// legacyProperty writes a schema that is true or false as an object.
func legacyProperty(_ string, schema json.RawMessage) json.RawMessage {
	switch string(schema) {
	case "true":
		return json.RawMessage("{}")
	case "false":
		return json.RawMessage(`{"not":{}}`)
	}
	return schema
}

// discovered answers the host's initialize from the result of server/discover.
func (t *ToModern) discovered(a *ask, result json.RawMessage) {
	supported, _ := jsonrpc.Lookup(result, "supportedVersions")
	v := common(supported)
	if v == "" {
		delete(t.requests, a.key)
		t.fail(a.key, &OpenError{Err: errors.New("the server speaks none of the protocol versions known here")})
		return
	}
	t.version = v
	capabilities, _ := jsonrpc.Lookup(result, "capabilities")
	if !isObject(capabilities) {
		capabilities = json.RawMessage("{}")
	}
	t.listen.offered(capabilities)
	info, ok := jsonrpc.Lookup(result, "_meta", keyServerInfo)
	if !ok {
		info, _ = jsonrpc.Lookup(result, "serverInfo")
	}
	if !isObject(info) {
		info = json.RawMessage(`{"name":` + string(quote(t.server)) + `,"version":"unknown"}`)
	}
	out := json.RawMessage(`{"protocolVersion":` + string(quote(t.hostVersion)) + `,"capabilities":` + string(capabilities) + `,"serverInfo":` + string(info) + `}`)
	if instructions, ok := jsonrpc.Lookup(result, "instructions"); ok && instructions[0] == '"' {
		out = set(out, "instructions", instructions)
	}
	t.finish(a, jsonrpc.NewResult(a.m.ID, out))
}

// input asks the host what the server wants to know (2026-07-28,
// basic/patterns/mrtr).
func (t *ToModern) input(now time.Time, a *ask, result json.RawMessage) {
	a.open, a.names, a.answers, a.state = nil, nil, nil, nil
	if state, ok := jsonrpc.Lookup(result, "requestState"); ok {
		a.state = slices.Clone(state)
	}
	wanted, _ := jsonrpc.Lookup(result, "inputRequests")
	var questions [][]byte
	fault := ""
	_ = jsonrpc.Members(wanted, func(name string, val json.RawMessage) bool { // not an object: none
		method, _ := jsonrpc.LookupString(val, "method")
		params, _ := jsonrpc.Lookup(val, "params")
		if params != nil && !isObject(params) {
			params = nil
		}
		if _, text, ok := offers(t.capabilities, method, params); !ok {
			fault = text
			return false
		}
		if len(a.names) == maxQuestions {
			fault = fmt.Sprintf("more than %d questions at once", maxQuestions)
			return false
		}
		q := &inputRequest{of: a, id: t.ids.take(nil), method: method, at: len(a.names)}
		if mode, _ := jsonrpc.LookupString(params, "mode"); method == methodElicit && mode == "url" {
			// Required there, and of no other use: the outcome shows at the retry.
			if _, ok := jsonrpc.Lookup(params, "elicitationId"); !ok {
				params = set(params, "elicitationId", q.id)
			}
		}
		a.open, a.names, a.answers = append(a.open, q), append(a.names, name), append(a.answers, nil)
		questions = append(questions, jsonrpc.NewRequest(q.id, method, params))
		return true
	})
	if fault != "" {
		t.forget(a)
		t.refuseAsk(a, "the server has asked for what cannot be answered: %s", fault)
		return
	}
	switch {
	case len(questions) == 0 && a.state == nil: // asking again could change nothing
		t.refuseAsk(a, "the server has asked for input without saying for what")
		return
	case len(questions) == 0:
		a.again = now.Add(min(250*time.Millisecond<<(a.rounds-1), 5*time.Second))
		return
	}
	for i, raw := range questions {
		t.asked[jsonrpc.IDKey(a.open[i].id)] = a.open[i]
		t.deliver(a.key, raw)
	}
}

// forget drops the questions of a that the host has not answered.
func (t *ToModern) forget(a *ask) {
	for _, q := range a.open {
		delete(t.asked, jsonrpc.IDKey(q.id))
		t.ids.free(q.id)
	}
	a.open = nil
}

// answered takes the host's answer to a question.
func (t *ToModern) answered(_ time.Time, m *jsonrpc.Message) {
	q := t.asked[jsonrpc.IDKey(m.ID)]
	if q == nil {
		return
	}
	a := q.of
	delete(t.asked, jsonrpc.IDKey(q.id))
	t.ids.free(q.id)
	a.open = slices.DeleteFunc(a.open, func(o *inputRequest) bool { return o == q })
	switch {
	case m.Result != nil:
		a.answers[q.at] = slices.Clone(m.Result)
	case q.method == methodElicit:
		// There is no error among the answers, and this is what it comes to.
		a.answers[q.at] = json.RawMessage(`{"action":"cancel"}`)
	default:
		t.dismiss(a)
		text, _ := jsonrpc.LookupString(m.Error, "message")
		t.refuseAsk(a, "the client has refused %s: %s", q.method, text)
		return
	}
	if len(a.open) == 0 {
		t.send(a)
	}
}

// dismiss tells the host that nobody waits for its answers any more.
func (t *ToModern) dismiss(a *ask) {
	for _, q := range a.open {
		t.deliver("", jsonrpc.NewNotification(methodCancelled, json.RawMessage(`{"requestId":`+string(q.id)+`}`)))
	}
	t.forget(a)
}

// notified takes a notification of the host.
func (t *ToModern) notified(now time.Time, m *jsonrpc.Message) {
	switch m.Method {
	case methodInitialized:
		t.listen.ready = true
		t.listenAnew(now)
	case methodCancelled:
		id, _ := jsonrpc.Lookup(m.Params, "requestId")
		t.cancel(id)
	case methodRootsChanged, methodProgress: // the revision has none
	default:
		if m.Params == nil || isObject(m.Params) {
			t.calls++
			t.add(Step{Verb: Send, Call: t.calls, Message: withParams(m, t.meta(m.Params, false))})
		}
	}
}

// Cancel implements Machine.
func (t *ToModern) Cancel(_ time.Time, id json.RawMessage) []Step {
	t.cancel(id)
	return t.take()
}

func (t *ToModern) cancel(id json.RawMessage) {
	key := jsonrpc.IDKey(id)
	t.cancelWatch(key)
	a := t.requests[key]
	if a == nil {
		return
	}
	delete(t.requests, key)
	t.dismiss(a)
	if a.call != 0 { // closing the stream says it
		t.stop(a.call)
		t.over(a)
	}
}

// Ended implements Machine.
func (t *ToModern) Ended(now time.Time, call int, err error) []Step {
	if err == nil {
		err = errNoResponse
	}
	t.listenEnded(now, call, err)
	if a := t.inFlight[call]; a != nil {
		t.over(a)
		delete(t.requests, a.key)
		if a.m.Method == methodInitialize {
			err = &OpenError{Err: err}
		}
		t.fail(a.key, err)
	}
	return t.take()
}

// Next implements Machine.
func (t *ToModern) Next() time.Time {
	next := t.listenNext()
	for _, a := range t.requests {
		next = earliest(next, a.again)
	}
	return next
}

// Tick implements Machine.
func (t *ToModern) Tick(now time.Time) []Step {
	t.listenTick(now)
	for _, a := range sorted(t.requests) {
		if due(a.again, now) {
			a.again = time.Time{}
			t.send(a)
		}
	}
	return t.take()
}

// End implements Machine: closed streams say everything.
func (t *ToModern) End(time.Time) []Step { return nil }

// sorted returns the requests in the order of their ids.
func sorted(m map[string]*ask) []*ask {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	out := make([]*ask, len(keys))
	for i, k := range keys {
		out[i] = m[k]
	}
	return out
}
