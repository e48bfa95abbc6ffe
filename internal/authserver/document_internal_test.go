package authserver

import (
	"strings"
	"testing"
	"time"
)

// A client id is compared and shown as it stands, so it has one spelling; and
// nothing is fetched from this server, nor without TLS but in development.
func TestAddressesThatCannotNameADocument(t *testing.T) {
	st, err := newSite("https://mcp.example", "/mcp")
	if err != nil {
		t.Fatal(err)
	}
	s, dev := &Server{site: st, now: time.Now}, &Server{site: st, now: time.Now}
	if s.setClients(Options{}) != nil || dev.setClients(Options{LoopbackDocuments: true}) != nil {
		t.Fatal("options are refused")
	}
	for _, id := range []string{
		"http://app.example/client.json", "https://app.example", "https://app.example/", "https://app.example/a/../client.json", "https://app.example/%2e/client.json",
		"https://user@app.example/client.json", "https://app.example/client.json#f", "https://app.example:0/client.json", "https://app.example:/client.json", "https://APP.example/client.json",
		"https://app.example\\@evil.example/client.json", "https://app.example/cli ent.json", "https://xn--pp-6kc.example/client.json", "https:app.example/client.json", "ftp://app.example/client.json",
		"https://app.example/" + strings.Repeat("a", 600), "file:///etc/passwd", "https:///client.json", "https://app.example./client.json",
	} {
		if s.checkDocumentURL(id) == nil || dev.checkDocumentURL(id) == nil {
			t.Errorf("%s is accepted", id)
		}
	}
	for _, id := range []string{
		"https://mcp.example/register", "https://mcp.example:8443/client.json", // this server
		"http://localhost:8788/client.json", "http://127.0.0.1/client.json", "http://[::1]:1/client.json",
	} {
		if s.checkDocumentURL(id) == nil {
			t.Errorf("%s is accepted", id)
		}
		if err := dev.checkDocumentURL(id); err != nil {
			t.Errorf("%s in development: %v", id, err)
		}
	}
	for _, id := range []string{"https://app.example/c", "https://app.example:8443/oauth/client.json?v=1", "https://claude.ai/oauth/claude-code-client-metadata"} {
		if err := s.checkDocumentURL(id); err != nil {
			t.Errorf("%s: %v", id, err)
		}
	}
}
