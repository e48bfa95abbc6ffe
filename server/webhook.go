package server

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/mcp-clerk/mcp-clerk/internal/clerk"
	"github.com/mcp-clerk/mcp-clerk/internal/identity"
	"github.com/mcp-clerk/mcp-clerk/internal/store"
)

const (
	webhookPath = "/webhooks/clerk"
	// topicClerk carries clerkNews to every instance.
	topicClerk = "clerk"
	// webhookMemory is how long a delivery is known: longer than it would be
	// accepted, with clocks that differ.
	webhookMemory = 4 * clerk.WebhookTolerance
	// webhookTimeout bounds the work for one delivery; Svix waits for 15 s.
	webhookTimeout = 5 * time.Second
)

// clerkNews is what one instance tells the others of a webhook.
type clerkNews struct {
	From   string       `json:"from"` // the instance
	Change clerk.Change `json:"change"`
	Chosen string       `json:"chosen,omitempty"` // a user who gave a grant another organisation
}

// webhook is where Clerk says what has changed. It answers 2xx for what was
// done and for what is of no interest here, 401 for what is not Clerk's, too
// old or there already, and 503 where Clerk should try again.
func (s *Server) webhook(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), webhookTimeout)
	defer cancel()
	refuse := func(status int, err error) {
		s.log.WarnContext(ctx, "webhook not taken", "status", status, "error", err)
		plain(w, status, http.StatusText(status))
	}
	if err := s.webhooks.CheckHeader(r.Header); err != nil {
		refuse(http.StatusUnauthorized, err)
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, clerk.MaxWebhook))
	if err != nil {
		status := http.StatusBadRequest
		var large *http.MaxBytesError
		if errors.As(err, &large) {
			status = http.StatusRequestEntityTooLarge
		}
		refuse(status, errors.New("its body was not read"))
		return
	}
	d, err := s.webhooks.Read(r.Header, body)
	switch {
	case errors.Is(err, clerk.ErrWebhookUnreadable):
		refuse(http.StatusBadRequest, err)
		return
	case err != nil:
		refuse(http.StatusUnauthorized, err)
		return
	}
	// An attempt is taken once by all instances together. Another attempt at
	// the same delivery has its own time and signature: Clerk makes it when
	// the answer to this one was lost, and it may do no harm.
	key := deliveryKey(d)
	err = s.store.Create(ctx, store.Record{Key: key, Value: []byte("taken"), Expires: s.opts.Now().Add(webhookMemory)})
	switch {
	case errors.Is(err, store.ErrExists):
		refuse(http.StatusUnauthorized, errors.New("it was delivered before"))
		return
	case err != nil:
		refuse(http.StatusServiceUnavailable, fmt.Errorf("note the webhook: %w", err))
		return
	}
	err = s.spread(ctx, d.Change)
	if err == nil && d.Event == "user.deleted" {
		err = s.endIfGone(ctx, d.Users)
	}
	if err != nil {
		// Not every instance knows, or not all is done: let it come again, even
		// if just so.
		if err := s.store.Delete(ctx, key); err != nil {
			s.log.WarnContext(ctx, "webhook stays noted", "error", err)
		}
		refuse(http.StatusServiceUnavailable, err)
		return
	}
	s.log.InfoContext(ctx, "webhook", "event", d.Event, "users", d.Users, "organisations", d.Organisations)
	w.WriteHeader(http.StatusNoContent)
}

// endIfGone ends the grants of users whom Clerk does not know any more. Clerk is
// asked, since a delivery alone decides nothing.
func (s *Server) endIfGone(ctx context.Context, users []string) error {
	for _, subject := range users {
		_, err := s.clerk.User(ctx, subject)
		switch {
		case errors.Is(err, identity.ErrNoUser):
			if err := s.auth.EndUser(ctx, subject); err != nil {
				return fmt.Errorf("end the grants of user %q: %w", subject, err)
			}
		case err != nil:
			return fmt.Errorf("ask whether the user is gone: %w", err)
		}
	}
	return nil
}

func deliveryKey(d clerk.Delivery) string {
	sum := sha256.Sum256([]byte(strconv.FormatInt(d.Sent.Unix(), 10) + "." + d.ID))
	return "webhook/" + hex.EncodeToString(sum[:])
}

// spread lets this instance and all others follow a change.
func (s *Server) spread(ctx context.Context, change clerk.Change) error {
	if !change.Everyone && len(change.Users)+len(change.Organisations) == 0 {
		return nil
	}
	s.follow(change)
	message, err := json.Marshal(clerkNews{From: s.instance, Change: change})
	if err != nil {
		return fmt.Errorf("encode the change: %w", err)
	}
	if err := s.store.Publish(ctx, topicClerk, message); err != nil {
		return fmt.Errorf("tell the other instances: %w", err)
	}
	return nil
}

// follow forgets whom a change is about, and lets the watch look at them.
func (s *Server) follow(change clerk.Change) {
	s.clerk.Apply(change)
	s.news.add(change.Everyone || len(change.Organisations) > 0, change.Users...)
}

// heard is called with what an instance has spread.
func (s *Server) heard(message []byte) {
	var n clerkNews
	if err := json.Unmarshal(message, &n); err != nil {
		s.log.Warn("news of Clerk from another instance not understood")
		return
	}
	if n.From == s.instance {
		return
	}
	if n.Chosen != "" {
		s.listsChanged(is(n.Chosen))
		return
	}
	s.follow(n.Change)
}

// chosen tells the clients of a user whose grant is for another organisation
// now that their lists have changed, here and by the other instances.
func (s *Server) chosen(ctx context.Context, subject string) {
	s.listsChanged(is(subject))
	message, err := json.Marshal(clerkNews{From: s.instance, Chosen: subject})
	if err == nil {
		err = s.store.Publish(ctx, topicClerk, message)
	}
	if err != nil {
		s.log.WarnContext(ctx, "the other instances do not know of a changed organisation", "subject", subject, "error", err)
	}
}
