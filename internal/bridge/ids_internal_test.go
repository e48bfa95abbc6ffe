package bridge

import (
	"bytes"
	"testing"
)

// The moment between a cancellation and what follows it cannot be met from
// outside: a response that was on its way to the host then, on the stream of the
// old request, is not for the new one of the same id.
func TestALateResponseIsNotTakenForTheNextRequestOfItsID(t *testing.T) {
	var out bytes.Buffer
	b, _, err := newBridge(Options{URL: "http://server.test/mcp", Stdout: &out})
	if err != nil {
		t.Fatal(err)
	}
	request := parsed([]byte(`{"jsonrpc":"2.0","id":7,"method":"x/y"}`))
	old := b.add(request, nil)
	defer old.release()
	if !b.claim(old) {
		t.Fatal("the request is not there")
	}
	next := b.add(request, nil)
	defer next.release()
	if err := b.deliver(old, parsed([]byte(`{"jsonrpc":"2.0","id":7,"result":{"late":true}}`))); err != nil || out.Len() > 0 {
		t.Errorf("the host got %q, %v", out.Bytes(), err)
	}
	if err := b.deliver(next, parsed([]byte(`{"jsonrpc":"2.0","id":7,"result":{}}`))); err != nil || out.String() != `{"jsonrpc":"2.0","id":7,"result":{}}`+"\n" {
		t.Errorf("the host got %q, %v", out.Bytes(), err)
	}
}
