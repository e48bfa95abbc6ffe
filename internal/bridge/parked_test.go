package bridge_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mcp-clerk/mcp-clerk/internal/bridge"
	"github.com/mcp-clerk/mcp-clerk/internal/jsonrpc"
)

// Calls that are parked: a legacy server asks something, and the modern host
// brings the answer with its next call.

// A host that goes while a call is parked: the server is told, and its session
// ended.
func TestParkedCallsEndWithTheHost(t *testing.T) {
	s := &remote{}
	s.handle = func(w http.ResponseWriter, r *http.Request, _ *jsonrpc.Message) {
		send := events(w)
		send(`{"jsonrpc":"2.0","id":71,"method":"elicitation/create","params":{"message":"who?"}}`)
		<-r.Context().Done()
	}
	h := start(t, bridge.Options{URL: serve(t, legacyOnly(s))})
	if line := h.call(modernCall(1, "tools/call", `"name":"ask"`)); !strings.Contains(line, "input_required") {
		t.Fatalf("the host got %s", line)
	}
	if err := h.end(); err != nil {
		t.Error(err)
	}
	if got := s.bodies("notifications/cancelled"); len(got) != 1 || !strings.Contains(got[0], `"requestId":1,`) {
		t.Errorf("the server was told %q", got)
	}
	if s.count(http.MethodDelete) != 1 {
		t.Error("the session was not ended")
	}
}

// A response that comes while its call is parked is kept in memory, so a large one
// is not.
func TestALargeResponseIsNotKeptForAHostThatIsAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		size := 0
		s := &remote{capabilities: `{"tools":{}}`}
		s.handle = func(w http.ResponseWriter, _ *http.Request, m *jsonrpc.Message) {
			send := events(w)
			send(`{"jsonrpc":"2.0","id":71,"method":"elicitation/create","params":{"message":"who?"}}`)
			time.Sleep(time.Second)
			send(string(jsonrpc.NewResult(m.ID, json.RawMessage(`{"text":"`+strings.Repeat("x", size)+`"}`))))
		}
		o, _ := inMemory(t, legacyOnly(s))
		h := start(t, o)
		for id, tt := range []struct {
			size int
			want string
		}{{1 << 20, `"result":{"resultType":"complete"`}, {5 << 20, "is too large to be kept"}} {
			size = tt.size
			var parked struct {
				Result struct{ RequestState string }
			}
			if line := h.call(modernCall(fmt.Sprint("ask", id), "tools/call", `"name":"ask"`)); json.Unmarshal([]byte(line), &parked) != nil || parked.Result.RequestState == "" {
				t.Fatalf("the host got %s", line)
			}
			time.Sleep(time.Minute)
			back := `"name":"ask","requestState":"` + parked.Result.RequestState + `","inputResponses":{"input-1":{"action":"accept"}}`
			if line := h.call(modernCall(fmt.Sprint("back", id), "tools/call", back)); !strings.Contains(line, tt.want) {
				t.Errorf("%d bytes: the host got %.300s", tt.size, line)
			}
		}
	})
}
