package authserver_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"sync"

	"github.com/mcp-clerk/mcp-clerk/internal/identity"
)

// provider is a sign-in provider that redirects at once, as Clerk does for a
// user who is signed in there. It serves its authorization endpoint and is the
// SignIn and Directory of the server under test.
type provider struct {
	callback string

	mu        sync.Mutex
	user      identity.User // signed in now
	next      *identity.User
	deny      string // error to answer with
	begun     int
	down      bool // SignIn cannot be asked
	dirDown   bool
	directory map[string]identity.User
	codes     map[string]providerCode
	lastURL   string
}

type providerCode struct {
	nonce, challenge string
	user             identity.User
}

func newProvider(callback string) *provider {
	ada := identity.User{ID: "user_ada", Email: "ada@example.com", FirstName: "Ada", LastName: "Lovelace"}
	return &provider{callback: callback, user: ada, directory: map[string]identity.User{ada.ID: ada}, codes: map[string]providerCode{}}
}

func (p *provider) set(f func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f()
}

func (p *provider) signInAs(u identity.User) {
	p.set(func() { p.user = u; p.directory[u.ID] = u })
}

func (p *provider) Begin(_ context.Context, state, nonce, verifier, prompt string) (string, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.down {
		return "", fmt.Errorf("discover: %w", identity.ErrUnavailable)
	}
	if len(state) < 8 || len(verifier) < 43 || nonce == "" {
		return "", errors.New("weak parameters")
	}
	p.begun++
	p.lastURL = "https://" + providerHost + "/oauth/authorize?" + url.Values{
		"state": {state}, "nonce": {nonce}, "code_challenge": {challenge(verifier)}, "prompt": {prompt},
	}.Encode()
	return p.lastURL, nil
}

func (p *provider) Complete(_ context.Context, code, verifier, nonce string) (identity.User, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.down {
		return identity.User{}, fmt.Errorf("token: %w", identity.ErrUnavailable)
	}
	c, ok := p.codes[code]
	delete(p.codes, code)
	if !ok || c.challenge != challenge(verifier) || c.nonce != nonce {
		return identity.User{}, errors.New("code refused")
	}
	return c.user, nil
}

func (p *provider) User(_ context.Context, subject string) (identity.User, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.dirDown {
		return identity.User{}, fmt.Errorf("ask: %w", identity.ErrUnavailable)
	}
	u, ok := p.directory[subject]
	if !ok {
		return u, fmt.Errorf("user %q: %w", subject, identity.ErrNoUser)
	}
	return u, nil
}

func (p *provider) Find(_ context.Context, ids []string, email string) ([]identity.User, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.dirDown {
		return nil, fmt.Errorf("ask: %w", identity.ErrUnavailable)
	}
	var found []identity.User
	for _, u := range p.directory {
		if slices.Contains(ids, u.ID) || email != "" && u.Email == email {
			found = append(found, u)
		}
	}
	return found, nil
}

func (p *provider) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	q := r.URL.Query()
	back := url.Values{"state": {q.Get("state")}}
	if q.Get("prompt") == "login" && p.next != nil {
		p.user, p.next = *p.next, nil
	}
	if p.deny != "" {
		back.Set("error", p.deny)
	} else {
		code := fmt.Sprintf("upstream-%d", len(p.codes)+1)
		p.codes[code] = providerCode{q.Get("nonce"), q.Get("code_challenge"), p.user}
		back.Set("code", code)
	}
	http.Redirect(w, r, p.callback+"?"+back.Encode(), http.StatusFound)
}

func (p *provider) change(id string, f func(*identity.User)) {
	p.set(func() {
		u := p.directory[id]
		f(&u)
		p.directory[id] = u
		if p.user.ID == id {
			p.user = u
		}
	})
}
