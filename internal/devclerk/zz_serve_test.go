package devclerk_test

import (
	"net/http"
	"net"
	"os"
	"testing"
	"time"

	"github.com/mcp-clerk/mcp-clerk/internal/devclerk"
)

func TestZZServe(t *testing.T) {
	if os.Getenv("ZZ") == "" { t.Skip() }
	l, _ := net.Listen("tcp", "127.0.0.1:4499")
	s, _ := devclerk.New(devclerk.Options{Issuer: "http://127.0.0.1:4499", ClientID: clientID, RedirectURLs: []string{redirect}})
	go http.Serve(l, s)
	time.Sleep(40 * time.Second)
}
