package tools

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
	"unicode"

	"github.com/mcp-clerk/mcp-clerk/internal/secret"
)

// What the providers that ask a service on the network have in common.

var errTooMuch = errors.New("the answer is too large")

// withoutRedirects is client, or a plain one for nil, with a policy of its own:
// what is sent reaches the configured address and no other.
func withoutRedirects(client *http.Client) *http.Client {
	own := &http.Client{}
	if client != nil {
		*own = *client
	}
	own.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return own
}

// reply is an answer of a service, or why there is none.
type reply struct {
	status int
	header http.Header
	body   []byte
	err    error
}

// await sends call and reads at most limit bytes of the answer. A service says
// nothing while it works, so the seconds are what there is to report; their
// total is not known.
func await(client *http.Client, call *http.Request, limit int64, asked string, progress func(done, total float64, message string)) reply {
	answered := make(chan reply, 1)
	go func() {
		resp, err := client.Do(call)
		if err != nil {
			answered <- reply{err: err}
			return
		}
		defer resp.Body.Close()
		data, err := io.ReadAll(io.LimitReader(resp.Body, limit+1))
		if err == nil && int64(len(data)) > limit {
			err = errTooMuch
		}
		answered <- reply{resp.StatusCode, resp.Header, data, err}
	}()
	started, tick := time.Now(), time.NewTicker(time.Second)
	defer tick.Stop()
	progress(0, 0, asked)
	for {
		select {
		case <-tick.C:
			seconds := time.Since(started).Seconds()
			progress(seconds, 0, fmt.Sprintf("Generating the image (%.0f s)", seconds))
		case got := <-answered:
			return got
		}
	}
}

// printable cuts a foreign text down to one short line without the token, for
// an API that echoes what it was sent.
func printable(text string, token secret.String) string {
	if t := token.Reveal(); t != "" {
		text = strings.ReplaceAll(text, t, token.String())
	}
	text = strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return ' '
	}, text)
	if runes := []rune(text); len(runes) > 200 {
		text = string(runes[:200]) + "…"
	}
	return strings.TrimSpace(text)
}
