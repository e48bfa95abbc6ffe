package clerk_test

import (
	"errors"
	"net/http"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/mcp-clerk/mcp-clerk/internal/clerk"
	"github.com/mcp-clerk/mcp-clerk/internal/devclerk"
	"github.com/mcp-clerk/mcp-clerk/internal/secret"
)

const (
	signing = secret.String("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
	another = secret.String("whsec_QU5PVEhFUi1DQU5BUlktU0VDUkVULUtFWSE=")
)

func newWebhooks(t testing.TB, s secret.String) *clerk.Webhooks {
	t.Helper()
	w, err := clerk.NewWebhooks(s, func() time.Time { return start })
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// The example of Svix' own documentation ("Verifying webhooks manually").
func TestWebhookOfSvixDocumentation(t *testing.T) {
	w, err := clerk.NewWebhooks("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", func() time.Time { return time.Unix(1614265330, 0) })
	must(t, err)
	h := http.Header{
		"Svix-Id":        {"msg_p5jXN8AQM9LWM0D4loKWxJek"},
		"Svix-Timestamp": {"1614265330"},
		"Svix-Signature": {"v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="},
	}
	if _, err := w.Read(h, []byte(`{"test": 2432232314}`)); !errors.Is(err, clerk.ErrWebhookUnreadable) {
		t.Errorf("%v, want a good signature of what is no event", err)
	}
}

func TestForgedOldAndOddWebhooksAreRefused(t *testing.T) {
	body := []byte(`{"type":"user.updated","data":{"id":"user_1"}}`)
	for name, tt := range map[string]struct {
		change func(h http.Header)
		sent   time.Duration // after now
		body   string        // instead
		ok     bool
	}{
		"honest":                        {ok: true},
		"5 minutes old":                 {sent: -5 * time.Minute, ok: true},
		"5 minutes ahead":               {sent: 5 * time.Minute, ok: true},
		"older":                         {sent: -5*time.Minute - time.Second},
		"farther ahead":                 {sent: 5*time.Minute + time.Second},
		"another body":                  {body: `{"type":"user.deleted","data":{"id":"user_1"}}`},
		"another id":                    {change: func(h http.Header) { h.Set("Svix-Id", "msg_other") }},
		"another time":                  {change: func(h http.Header) { h.Set("Svix-Timestamp", strconv.FormatInt(start.Unix()+1, 10)) }},
		"the same time in other digits": {change: func(h http.Header) { h.Set("Svix-Timestamp", "+"+h.Get("Svix-Timestamp")) }},
		"a time that is no number":      {change: func(h http.Header) { h.Set("Svix-Timestamp", "now") }},
		"a time that overflows":         {change: func(h http.Header) { h.Set("Svix-Timestamp", strings.Repeat("9", 30)) }},
		"no id":                         {change: func(h http.Header) { h.Del("Svix-Id") }},
		"no time":                       {change: func(h http.Header) { h.Del("Svix-Timestamp") }},
		"no signature":                  {change: func(h http.Header) { h.Del("Svix-Signature") }},
		"an empty signature":            {change: func(h http.Header) { h.Set("Svix-Signature", "v1,") }},
		"two ids":                       {change: func(h http.Header) { h.Add("Svix-Id", h.Get("Svix-Id")) }},
		"the second signature counts":   {change: func(h http.Header) { h.Set("Svix-Signature", "v1,AAAA "+h.Get("Svix-Signature")) }, ok: true},
		"another version":               {change: func(h http.Header) { h.Set("Svix-Signature", "v2"+h.Get("Svix-Signature")[2:]) }},
		"no version":                    {change: func(h http.Header) { h.Set("Svix-Signature", h.Get("Svix-Signature")[3:]) }},
		"half a signature":              {change: func(h http.Header) { h.Set("Svix-Signature", h.Get("Svix-Signature")[:20]) }},
		"signatures without end":        {change: func(h http.Header) { h.Set("Svix-Signature", strings.Repeat("v1,AAAA ", 20)+h.Get("Svix-Signature")) }},
		"signed with another secret": {change: func(h http.Header) {
			for k, v := range (devclerk.Webhook{ID: h.Get("Svix-Id"), Time: start, Body: body}).Header(another) {
				h[k] = v
			}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			h := devclerk.Webhook{ID: "msg_1", Time: start.Add(tt.sent), Body: body}.Header(signing)
			if tt.change != nil {
				tt.change(h)
			}
			sent := body
			if tt.body != "" {
				sent = []byte(tt.body)
			}
			d, err := newWebhooks(t, signing).Read(h, sent)
			if tt.ok {
				must(t, err)
				if d.ID != "msg_1" || !d.Sent.Equal(start.Add(tt.sent)) || !reflect.DeepEqual(d.Users, []string{"user_1"}) {
					t.Errorf("%+v", d)
				}
				return
			}
			if !errors.Is(err, clerk.ErrWebhookRefused) || !reflect.DeepEqual(d, clerk.Delivery{}) {
				t.Errorf("%+v, %v", d, err)
			}
		})
	}
}

func TestWebhookSecrets(t *testing.T) {
	w := newWebhooks(t, another+", "+signing) // while a secret is changed
	body := []byte(`{"type":"user.deleted","data":{"id":"user_1"}}`)
	for _, s := range []secret.String{signing, another} {
		_, err := w.Read(devclerk.Webhook{ID: "msg_1", Time: start, Body: body}.Header(s), body)
		must(t, err)
	}
	for _, bad := range []string{"", "whsec_", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_not base64", "whsec_CANARY", signing.Reveal() + ",", "sk_test_CANARY"} {
		_, err := clerk.NewWebhooks(secret.String(bad), time.Now)
		if err == nil || strings.Contains(err.Error(), "CANARY") {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestWebhookEvents(t *testing.T) {
	user := func(event string) clerk.Change { return clerk.Change{Event: event, Users: []string{"user_1"}} }
	org := func(event string) clerk.Change { return clerk.Change{Event: event, Organisations: []string{"org_1"}} }
	membership := `"data":{"id":"orgmem_1","organization":{"id":"org_1"},"public_user_data":{"user_id":"user_1"},"role":"org:admin"}`
	for body, want := range map[string]clerk.Change{
		`{"type":"user.created","data":{"id":"user_1"}}`:                                    user("user.created"),
		`{"type":"user.updated","data":{"id":"user_1","public_metadata":{"role":"admin"}}}`: user("user.updated"),
		`{"type":"user.deleted","data":{"deleted":true,"id":"user_1","object":"user"}}`:     user("user.deleted"),
		`{"type":"session.revoked","data":{"id":"sess_1","user_id":"user_1"}}`:              user("session.revoked"),
		`{"type":"organizationMembership.created",` + membership + `}`:                      user("organizationMembership.created"),
		`{"type":"organizationMembership.updated",` + membership + `}`:                      user("organizationMembership.updated"),
		`{"type":"organizationMembership.deleted",` + membership + `}`:                      user("organizationMembership.deleted"),
		`{"type":"organization.updated","data":{"id":"org_1"}}`:                             org("organization.updated"),
		`{"type":"organization.deleted","data":{"id":"org_1","deleted":true}}`:              org("organization.deleted"),
		`{"type":"role.updated","data":{"id":"role_1"}}`:                                    {Event: "role.updated", Everyone: true},
		`{"type":"permission.deleted","data":null}`:                                         {Event: "permission.deleted", Everyone: true},
		`{"type":"organization.created","data":{"id":"org_1"}}`:                             {Event: "organization.created"},
		`{"type":"session.created","data":{"id":"sess_1","user_id":"user_1"}}`:              {Event: "session.created"},
		`{"type":"email.created","data":[]}`:                                                {Event: "email.created"},
		`{"type":"something.new"}`:                                                          {Event: "something.new"},
		`{"type":"user.updated","data":{"id":"org_1"}}`:                                     {},
		`{"type":"user.updated","data":{}}`:                                                 {},
		`{"type":"user.updated","data":[]}`:                                                 {},
		`{"type":"user.updated"}`:                                                           {},
		`{"type":"session.revoked","data":{"id":"user_1"}}`:                                 {},
		`{"type":"organizationMembership.deleted","data":{"user_id":"user_1"}}`:             {},
		`{"type":"organization.deleted","data":{"id":"user_1"}}`:                            {},
		`{"data":{"id":"user_1"}}`:                                                          {},
		`{"type":5}`:                                                                        {},
		`[]`:                                                                                {},
		``:                                                                                  {},
	} {
		d, err := newWebhooks(t, signing).Read(devclerk.Webhook{ID: "msg_1", Time: start, Body: []byte(body)}.Header(signing), []byte(body))
		if !reflect.DeepEqual(d.Change, want) || (want.Event == "") != errors.Is(err, clerk.ErrWebhookUnreadable) {
			t.Errorf("%s: %+v, %v", body, d.Change, err)
		}
	}
}

// A change makes User ask again: for whom it is about, and of an organisation
// for everyone, since its members are not known.
func TestAChangeIsForgotten(t *testing.T) {
	for name, tt := range map[string]struct {
		change        clerk.Change
		admin, member bool // still known
	}{
		"a user":          {clerk.Change{Users: []string{devclerk.AdminID}}, false, true},
		"another user":    {clerk.Change{Users: []string{"user_other"}}, true, true},
		"an organisation": {clerk.Change{Organisations: []string{"org_1"}}, false, false},
		"a role":          {clerk.Change{Everyone: true}, false, false},
		"nothing":         {clerk.Change{Event: "email.created"}, true, true},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, nil)
			for _, id := range []string{devclerk.AdminID, devclerk.MemberID} {
				_, err := r.clerk.User(t.Context(), id)
				must(t, err)
			}
			r.clerk.Apply(tt.change)
			_, _, admin := r.clerk.Known(devclerk.AdminID)
			_, _, member := r.clerk.Known(devclerk.MemberID)
			if admin != tt.admin || member != tt.member {
				t.Errorf("known: admin %v, member %v", admin, member)
			}
		})
	}
}

// Whatever comes is refused or read, and nothing unsigned is read.
func FuzzWebhook(f *testing.F) {
	body := []byte(`{"type":"user.updated","data":{"id":"user_1"}}`)
	h := devclerk.Webhook{ID: "msg_1", Time: start, Body: body}.Header(signing)
	f.Add("msg_1", h.Get("Svix-Timestamp"), h.Get("Svix-Signature"), body, true)
	f.Add("", "-1", "v1, v1,= ,", []byte(`{"type":"organizationMembership.deleted","data":{"public_user_data":null}}`), true)
	f.Add("a.b", "1e9", "v1a,AAAA", []byte(`{"type":"role.x","data":`), false)
	w := newWebhooks(f, signing)
	f.Fuzz(func(t *testing.T, id, timestamp, signature string, body []byte, sign bool) {
		h := http.Header{"Svix-Id": {id}, "Svix-Timestamp": {timestamp}, "Svix-Signature": {signature}}
		honest := devclerk.Webhook{ID: id, Time: start, Body: body}.Header(signing)
		if sign {
			h = honest
		}
		d, err := w.Read(h, body)
		if err != nil {
			if !errors.Is(err, clerk.ErrWebhookRefused) && !errors.Is(err, clerk.ErrWebhookUnreadable) || !reflect.DeepEqual(d, clerk.Delivery{}) {
				t.Errorf("%+v, %v", d, err)
			}
			return
		}
		if !sign && !strings.Contains(signature, honest.Get("Svix-Signature")) && timestamp == honest.Get("Svix-Timestamp") {
			t.Errorf("read without a signature: %+v", d)
		}
		for _, user := range d.Users {
			if !strings.HasPrefix(user, "user_") {
				t.Errorf("user %q", user)
			}
		}
	})
}
