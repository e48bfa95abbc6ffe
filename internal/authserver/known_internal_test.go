package authserver

import (
	"net/url"
	"testing"
	"time"
)

// The register holds what the server would accept from the web.
func TestKnownClientsAreFit(t *testing.T) {
	s := &Server{now: time.Now}
	if err := s.setClients(Options{}); err != nil {
		t.Fatal(err)
	}
	if len(knownClients().documents) < 5 || len(knownClients().domains) < 5 || len(knownClients().private) < 2 {
		t.Fatalf("the register is all but empty: %d, %d, %d", len(knownClients().documents), len(knownClients().domains), len(knownClients().private))
	}
	for id, body := range knownClients().documents {
		c, err := s.parseDocument(id, body)
		if err != nil || s.checkDocumentURL(id) != nil || c.Name == "" || len(body) > maxDocument {
			t.Errorf("%s: %v", id, err)
		}
	}
	for uri, domain := range knownClients().domains {
		u, err := url.Parse(uri)
		kind, cerr := s.redirects.check(uri)
		if err != nil || cerr != nil || kind != redirectHTTPS || u.Host != domain && "insiders."+domain != u.Host {
			t.Errorf("%s is not of %s", uri, domain)
		}
	}
	for _, uri := range knownClients().private {
		if _, err := newRedirectPolicy([]string{uri}); err != nil {
			t.Error(err)
		}
	}
}
