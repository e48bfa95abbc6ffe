package clerk

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/mcp-clerk/mcp-clerk/internal/secret"
)

const (
	// WebhookTolerance is how far the time of a delivery may be off, in either
	// direction.
	WebhookTolerance = 5 * time.Minute
	// MaxWebhook bounds the body of a delivery in bytes. The largest that Clerk
	// sends is a user, with 8 kB of metadata of each kind.
	MaxWebhook = 256 << 10

	webhookSecretPrefix = "whsec_"
	maxWebhookID        = 256
	maxSignatures       = 16
)

var (
	// ErrWebhookRefused reports a delivery that is not Clerk's or is too old.
	ErrWebhookRefused = errors.New("webhook refused")
	// ErrWebhookUnreadable reports a delivery of Clerk's that can't be read.
	ErrWebhookUnreadable = errors.New("webhook unreadable")
)

// Webhooks checks and reads what Clerk delivers through Svix, whose scheme is
// that of Standard Webhooks (github.com/standard-webhooks/standard-webhooks,
// spec/standard-webhooks.md) under other header names. That project's library
// isn't used, since it can't be given a clock.
type Webhooks struct {
	keys [][]byte
	now  func() time.Time
}

// Delivery is a webhook that Clerk has signed.
type Delivery struct {
	ID   string    // the same in each attempt to deliver it
	Sent time.Time // of this attempt
	Change
}

// Change says about whom something changed at Clerk. It says not what: that is
// for Clerk to be asked, since deliveries may come late and in any order.
type Change struct {
	Event         string   `json:"event"`                   // as Clerk calls it, "user.updated"
	Users         []string `json:"users,omitempty"`         // "user_…"
	Organisations []string `json:"organisations,omitempty"` // "org_…"
	Everyone      bool     `json:"everyone,omitempty"`
}

// NewWebhooks takes the signing secret of the endpoint, "whsec_" and base64, or
// several of them separated by commas.
func NewWebhooks(signing secret.String, now func() time.Time) (*Webhooks, error) {
	w := &Webhooks{now: now}
	for part := range strings.SplitSeq(signing.Reveal(), ",") {
		text, ok := strings.CutPrefix(strings.TrimSpace(part), webhookSecretPrefix)
		key, err := base64.StdEncoding.DecodeString(text)
		if !ok || err != nil || len(key) < 16 {
			return nil, errors.New("a signing secret starts with whsec_ and is copied whole") // and is not repeated here
		}
		w.keys = append(w.keys, key)
	}
	return w, nil
}

// CheckHeader looks at what can be judged before the body is read: all headers
// are there and the time is right. The error wraps ErrWebhookRefused.
func (w *Webhooks) CheckHeader(h http.Header) error {
	_, err := w.header(h)
	return err
}

type webhookHeader struct {
	id, timestamp string
	sent          time.Time
	signatures    []string
}

func (w *Webhooks) header(h http.Header) (webhookHeader, error) {
	var out webhookHeader
	for name, to := range map[string]*string{"Svix-Id": &out.id, "Svix-Timestamp": &out.timestamp, "Svix-Signature": nil} {
		values := h[name]
		if len(values) != 1 || values[0] == "" {
			return out, fmt.Errorf("%w: %s is missing or repeated", ErrWebhookRefused, strings.ToLower(name))
		}
		if to != nil {
			*to = values[0]
		} else {
			out.signatures = strings.Fields(values[0])
		}
	}
	if len(out.id) > maxWebhookID || len(out.signatures) > maxSignatures {
		return out, fmt.Errorf("%w: its headers are too long", ErrWebhookRefused)
	}
	seconds, err := strconv.ParseInt(out.timestamp, 10, 64)
	if err != nil {
		return out, fmt.Errorf("%w: svix-timestamp is no number", ErrWebhookRefused)
	}
	out.sent = time.Unix(seconds, 0)
	if age := w.now().Sub(out.sent); age > WebhookTolerance || age < -WebhookTolerance {
		return out, fmt.Errorf("%w: it was sent at another time", ErrWebhookRefused)
	}
	return out, nil
}

// Read checks the signatures and the time of a delivery and reads it. The error
// wraps ErrWebhookRefused, or ErrWebhookUnreadable for a body that is signed and
// yet no event. An event that is of no interest is a Change of nobody.
func (w *Webhooks) Read(h http.Header, body []byte) (Delivery, error) {
	head, err := w.header(h)
	if err != nil {
		return Delivery{}, err
	}
	if !w.signed(head, body) {
		return Delivery{}, fmt.Errorf("%w: no signature is by a known secret", ErrWebhookRefused)
	}
	change, err := readChange(body)
	if err != nil {
		return Delivery{}, err
	}
	return Delivery{ID: head.id, Sent: head.sent, Change: change}, nil
}

// signed tries every signature with every key: while a secret is changed, Svix
// signs with the old one as well.
func (w *Webhooks) signed(head webhookHeader, body []byte) bool {
	for _, key := range w.keys {
		want := signWebhook(key, head.id, head.timestamp, body)
		for _, s := range head.signatures {
			text, ok := strings.CutPrefix(s, "v1,")
			got, err := base64.StdEncoding.DecodeString(text)
			if ok && err == nil && hmac.Equal(got, want) {
				return true
			}
		}
	}
	return false
}

func signWebhook(key []byte, id, timestamp string, body []byte) []byte {
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(id + "." + timestamp + "."))
	mac.Write(body)
	return mac.Sum(nil)
}

// readChange reads Clerk's event: type and data, the latter in the shape of the
// Backend API (Clerk's documentation, "Webhooks", and the event catalogue).
func readChange(body []byte) (Change, error) {
	var event struct {
		Type string          `json:"type"`
		Data json.RawMessage `json:"data"`
	}
	if json.Unmarshal(body, &event) != nil || event.Type == "" {
		return Change{}, fmt.Errorf("%w: it is no event", ErrWebhookUnreadable)
	}
	c := Change{Event: event.Type}
	var data struct {
		ID     string `json:"id"`
		UserID string `json:"user_id"`
		Public struct {
			UserID string `json:"user_id"`
		} `json:"public_user_data"`
		Organisation struct {
			ID string `json:"id"`
		} `json:"organization"`
	}
	kind, _, _ := strings.Cut(event.Type, ".")
	switch kind {
	case "user", "session", "organizationMembership", "organization":
		if json.Unmarshal(event.Data, &data) != nil {
			return Change{}, fmt.Errorf("%w: its data is no object", ErrWebhookUnreadable)
		}
	case "role", "permission":
		// What a role permits has changed, for whoever has it.
		c.Everyone = true
		return c, nil
	default:
		return c, nil
	}
	switch event.Type {
	case "user.created", "user.updated", "user.deleted":
		c.Users = []string{data.ID}
	case "session.revoked":
		c.Users = []string{data.UserID}
	case "organizationMembership.created", "organizationMembership.updated", "organizationMembership.deleted":
		c.Users = []string{data.Public.UserID}
	case "organization.updated", "organization.deleted":
		c.Organisations = []string{data.ID}
	}
	for _, id := range c.Users {
		if !subjectForm.MatchString(id) {
			return Change{}, fmt.Errorf("%w: it names no user", ErrWebhookUnreadable)
		}
	}
	for _, id := range c.Organisations {
		if !strings.HasPrefix(id, "org_") {
			return Change{}, fmt.Errorf("%w: it names no organisation", ErrWebhookUnreadable)
		}
	}
	return c, nil
}

// Apply forgets what a change makes doubtful.
func (c *Clerk) Apply(change Change) {
	if change.Everyone || len(change.Organisations) > 0 {
		// Who is in an organisation isn't known of those who are being looked up.
		c.ForgetAll()
		return
	}
	for _, subject := range change.Users {
		c.Forget(subject)
	}
}
