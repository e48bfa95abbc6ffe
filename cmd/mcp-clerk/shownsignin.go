package main

import (
	"context"
	"net/http"
	"sync"

	"github.com/mcp-clerk/mcp-clerk/internal/oauthclient"
)

// shownSignIn is a client that knows which sign-in the person is shown while it
// waits for them.
type shownSignIn struct {
	*oauthclient.Client
	begun chan string // the URL of the latest that nobody has taken yet

	mu  sync.Mutex
	url string // "" while none waits
}

func newShownSignIn() *shownSignIn { return &shownSignIn{begun: make(chan string, 1)} }

// begin notes that the person is shown url.
func (s *shownSignIn) begin(url string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.url == url {
		return
	}
	s.url = url
	select {
	case <-s.begun: // it is over
	default:
	}
	s.begun <- url
}

func (s *shownSignIn) current() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.url
}

// Authorize is the client's; when it ends before its caller leaves, no sign-in
// waits any more.
func (s *shownSignIn) Authorize(ctx context.Context, refused string, status int, header http.Header) error {
	err := s.Client.Authorize(ctx, refused, status, header)
	if err == nil || ctx.Err() == nil {
		s.mu.Lock()
		s.url = ""
		s.mu.Unlock()
	}
	return err
}
