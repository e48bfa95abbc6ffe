package devclerk

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/mcp-clerk/mcp-clerk/internal/secret"
)

const webhookTimeout = 15 * time.Second // as Svix has it (docs.svix.com, "Retry schedule")

// Webhook is one attempt to deliver an event, as Svix makes it for Clerk.
type Webhook struct {
	ID   string // "msg_…", the same in each attempt
	Time time.Time
	Body []byte
}

// Header signs the attempt with an endpoint's secret, "whsec_…" (docs.svix.com,
// "Verifying webhooks manually").
func (w Webhook) Header(signing secret.String) http.Header {
	timestamp := strconv.FormatInt(w.Time.Unix(), 10)
	key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(signing.Reveal(), "whsec_"))
	if err != nil {
		panic("devclerk: the signing secret is not whsec_ and base64") // SetWebhook checks its own
	}
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(w.ID + "." + timestamp + "."))
	mac.Write(w.Body)
	return http.Header{
		"Content-Type":   {"application/json"},
		"Svix-Id":        {w.ID},
		"Svix-Timestamp": {timestamp},
		"Svix-Signature": {"v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil))},
	}
}

// webhookEndpoint is where events are delivered.
type webhookEndpoint struct {
	url    string
	secret secret.String
}

// SetWebhook lets every change of a user be delivered to url, signed with
// signing ("whsec_" and base64); "" ends that. A method that changes a user
// returns when the delivery has been answered or given up; unlike Svix this
// makes one attempt.
func (s *Server) SetWebhook(url string, signing secret.String) error {
	text, ok := strings.CutPrefix(signing.Reveal(), "whsec_")
	if _, err := base64.StdEncoding.DecodeString(text); url != "" && (err != nil || !ok) {
		return fmt.Errorf("webhook to %q: the signing secret is not whsec_ and base64", url)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.webhook = webhookEndpoint{url, signing}
	return nil
}

// event makes a delivery. The frame is that of Clerk's documentation, "Webhooks
// overview", Payload structure; the data have the shape of the Backend API.
func (s *Server) event(kind string, data any) Webhook {
	now := s.now()
	body, err := json.Marshal(map[string]any{
		"data": data, "object": "event", "type": kind, "timestamp": now.UnixMilli(), "instance_id": s.instanceID,
		"event_attributes": map[string]any{"http_request": map[string]any{"client_ip": "127.0.0.1", "user_agent": ""}},
	})
	if err != nil {
		panic(err) // strings, numbers and metadata that were marshalled before
	}
	return Webhook{ID: randomID("msg_"), Time: now, Body: body}
}

// deliver sends events in their order. s.mu is not held.
func (s *Server) deliver(events ...Webhook) {
	s.mu.Lock()
	to := s.webhook
	s.mu.Unlock()
	if to.url == "" {
		return
	}
	for _, e := range events {
		if err := s.post(to, e); err != nil {
			s.log.Warn("webhook not delivered", "error", err)
		}
	}
}

func (s *Server) post(to webhookEndpoint, e Webhook) error {
	ctx, cancel := context.WithTimeout(context.Background(), webhookTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, to.url, bytes.NewReader(e.Body))
	if err != nil {
		return fmt.Errorf("deliver webhook: %w", err)
	}
	req.Header = e.Header(to.secret)
	resp, err := s.sender.Do(req)
	if err != nil {
		return fmt.Errorf("deliver webhook: %w", err)
	}
	defer func() { _ = resp.Body.Close() }()
	_, _ = io.CopyN(io.Discard, resp.Body, maxBody) // so that the connection can be used again
	if resp.StatusCode/100 != 2 {
		return fmt.Errorf("deliver webhook: the endpoint answered %s", resp.Status)
	}
	return nil
}

// deletedJSON is the data of user.deleted (schema DeletedObject).
func deletedJSON(id string) map[string]any {
	return map[string]any{"object": "user", "id": id, "deleted": true}
}

// sessionJSON is the data of session.revoked (schema Session).
func (s *Server) sessionJSON(v session) map[string]any {
	now := s.now().UnixMilli()
	return map[string]any{
		"object": "session", "id": randomID("sess_"), "client_id": randomID("client_"), "user_id": v.user, "status": "revoked",
		"actor": nil, "last_active_at": now, "expire_at": v.expires.UnixMilli(), "abandon_at": v.expires.UnixMilli(),
		"created_at": now, "updated_at": now,
	}
}
