package bridge

import (
	"strconv"

	"github.com/mcp-clerk/mcp-clerk/internal/jsonrpc"
)

// elicitation is the params of elicitation/create in URL mode (revision
// 2025-11-25, Elicitation).
type elicitation struct {
	Mode    string `json:"mode"`
	ID      string `json:"elicitationId"`
	URL     string `json:"url"`
	Message string `json:"message"`
}

// offerSignIns takes the person to each sign-in that begins, by way of a host
// that can show them a URL. It runs until the bridge ends.
func (b *bridge) offerSignIns() {
	for n := 1; ; n++ {
		select {
		case url := <-b.o.SignIns:
			b.offerSignIn(url, n)
		case <-b.life.Done():
			return
		}
	}
}

// offerSignIn waits until the host takes requests. Whatever it answers is
// dropped: the sign-in itself tells how it ends.
func (b *bridge) offerSignIn(url string, n int) {
	b.mu.Lock()
	hs := b.handshake
	b.mu.Unlock()
	if hs == nil {
		return
	}
	if _, can := jsonrpc.Lookup(hs.p.m.Params, "capabilities", "elicitation", "url"); !can {
		return
	}
	select {
	case <-hs.ready.c:
	case <-b.life.Done():
		return
	}
	if b.o.SignInURL() != url {
		return // it is over, or another one has begun
	}
	id := b.o.Name + "-sign-in-" + strconv.Itoa(n)
	raw := jsonrpc.NewRequest([]byte(strconv.Quote(id)), "elicitation/create", elicitation{
		Mode: "url", ID: id, URL: url, Message: b.host + " asks you to sign in.",
	})
	if err := b.out.WriteMessage(raw); err != nil {
		return
	}
	b.mu.Lock()
	b.offered = offered{id, url}
	b.mu.Unlock()
}

// offered is a sign-in that the host shows.
type offered struct{ id, url string }

// signInDone lets the host close what offerSignIn made it show, unless somebody
// has only stopped waiting for it.
func (b *bridge) signInDone() {
	b.mu.Lock()
	over := b.offered
	if over.id == "" || b.o.SignInURL() == over.url {
		b.mu.Unlock()
		return
	}
	b.offered = offered{}
	b.mu.Unlock()
	done := struct {
		ID string `json:"elicitationId"`
	}{over.id}
	if err := b.out.WriteMessage(jsonrpc.NewNotification("notifications/elicitation/complete", done)); err != nil {
		b.log.Debug("end of the sign-in not told", "error", err.Error())
	}
}
