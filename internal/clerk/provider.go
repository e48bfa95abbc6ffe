package clerk

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"sync"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
)

const (
	discoveryAge   = time.Hour       // how long a discovery document is used before it is read again
	discoveryRetry = 2 * time.Second // pause after a failed discovery
)

// provider is Clerk's discovery document, read when it is first needed.
type provider struct {
	reads shared[*endpoints]

	mu      sync.Mutex
	doc     *endpoints
	readAt  time.Time
	next    time.Time // after a failure: not before
	failure error
}

// endpoints is the part of the document that is used.
type endpoints struct {
	oidc *oidc.Provider
	jwks string
}

// discover returns the discovery document. While Clerk can't be reached an
// older one goes on being used.
func (c *Clerk) discover(ctx context.Context) (*endpoints, error) {
	p := &c.provider
	now := c.now()
	p.mu.Lock()
	old, next, failure := p.doc, p.next, p.failure
	fresh := old != nil && !now.Before(p.readAt) && now.Sub(p.readAt) < discoveryAge
	p.mu.Unlock()
	switch {
	case fresh:
		return old, nil
	case failure != nil && now.Before(next) && now.After(next.Add(-2*discoveryRetry)):
		if old != nil {
			return old, nil
		}
		return nil, failure
	}
	doc, err := p.reads.do(ctx, c, "", func(ctx context.Context) (*endpoints, error) {
		ctx, cancel := context.WithTimeout(ctx, oidcTimeout)
		defer cancel()
		return c.readDiscovery(ctx)
	}, func(doc *endpoints, err error) {
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.failure = err; err != nil {
			p.next = c.now().Add(discoveryRetry)
			return
		}
		p.doc, p.readAt = doc, c.now()
	})
	if err != nil && old != nil {
		c.log.Warn("Clerk's discovery document can't be read again; the last one is used", "error", err)
		return old, nil
	}
	return doc, err
}

func (c *Clerk) readDiscovery(ctx context.Context) (*endpoints, error) {
	what := fmt.Sprintf("read the discovery document of %q", c.issuer)
	ctx, note := noteAnswer(ctx)
	p, err := oidc.NewProvider(oidc.ClientContext(ctx, c.oidcClient), c.issuer)
	if err != nil {
		var mismatch *oidc.IssuerMismatchError
		switch {
		case errors.As(err, &mismatch):
			return nil, fmt.Errorf("%s: it names another issuer, %.100q: set the Frontend API to that if it is yours", what, mismatch.Discovered)
		case note.status != 0 && note.status != 200:
			return nil, unavailable(what, fmt.Errorf("status %d", note.status))
		}
		return nil, unavailable(what, reason(err))
	}
	var doc struct {
		JWKS string `json:"jwks_uri"`
	}
	if err := p.Claims(&doc); err != nil {
		return nil, unavailable(what, errors.New("the answer can't be read"))
	}
	e := p.Endpoint()
	for name, text := range map[string]string{"authorization_endpoint": e.AuthURL, "token_endpoint": e.TokenURL, "jwks_uri": doc.JWKS} {
		// A client secret and a code go there; nothing in the document may
		// turn https into http.
		if u, err := url.Parse(text); err != nil || !secureURL(u) || c.secureIssuer() && u.Scheme != "https" {
			return nil, fmt.Errorf("%s: its %s is not an https URL", what, name)
		}
	}
	return &endpoints{oidc: p, jwks: doc.JWKS}, nil
}

func (c *Clerk) secureIssuer() bool {
	u, err := url.Parse(c.issuer)
	return err == nil && u.Scheme == "https"
}
