package clerk

import (
	"context"
	"encoding/json"
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

// kept is a document of Clerk's, read when it is first needed.
type kept[T any] struct {
	reads shared[*T]

	mu      sync.Mutex
	doc     *T
	readAt  time.Time
	next    time.Time // after a failure: not before
	failure error
}

// get returns the document that read reads. While Clerk can't be reached an
// older one goes on being used.
func (k *kept[T]) get(ctx context.Context, c *Clerk, read func(context.Context) (*T, error)) (*T, error) {
	now := c.now()
	k.mu.Lock()
	old, next, failure := k.doc, k.next, k.failure
	fresh := old != nil && !now.Before(k.readAt) && now.Sub(k.readAt) < discoveryAge
	k.mu.Unlock()
	switch {
	case fresh:
		return old, nil
	case failure != nil && now.Before(next) && now.After(next.Add(-2*discoveryRetry)):
		if old != nil {
			return old, nil
		}
		return nil, failure
	}
	doc, err := k.reads.do(ctx, c, "", func(ctx context.Context) (*T, error) {
		ctx, cancel := context.WithTimeout(ctx, oidcTimeout)
		defer cancel()
		return read(ctx)
	}, func(doc *T, err error) {
		k.mu.Lock()
		defer k.mu.Unlock()
		if k.failure = err; err != nil {
			k.next = c.now().Add(discoveryRetry)
			return
		}
		k.doc, k.readAt = doc, c.now()
	})
	if err != nil && old != nil {
		c.log.Warn("a document of Clerk's can't be read again; the last one is used", "error", err)
		return old, nil
	}
	return doc, err
}

// endpoints is the part of the document that is used.
type endpoints struct {
	oidc *oidc.Provider
	jwks string
}

// discover returns Clerk's discovery document.
func (c *Clerk) discover(ctx context.Context) (*endpoints, error) {
	return c.provider.get(ctx, c, c.readDiscovery)
}

// ServerMetadata returns the document in which Clerk describes itself as an
// authorization server (RFC 8414), at most an hour old. The error wraps
// identity.ErrUnavailable where it can't be had.
func (c *Clerk) ServerMetadata(ctx context.Context) ([]byte, error) {
	doc, err := c.metadata.get(ctx, c, c.readServerMetadata)
	if err != nil {
		return nil, err
	}
	return *doc, nil
}

func (c *Clerk) readServerMetadata(ctx context.Context) (*[]byte, error) {
	const what = "read Clerk's metadata"
	body, err := c.getJSON(ctx, what, c.issuer+"/.well-known/oauth-authorization-server")
	if err != nil {
		return nil, err
	}
	var doc struct {
		Issuer string `json:"issuer"`
	}
	if json.Unmarshal(body, &doc) != nil || doc.Issuer != c.issuer {
		return nil, unavailable(what, errors.New("it is not that of the issuer"))
	}
	return &body, nil
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
