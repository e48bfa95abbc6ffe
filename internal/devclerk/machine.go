package devclerk

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/mcp-clerk/mcp-clerk/internal/secret"
)

// APIKey is a key that a user or an organisation has made for programs.
type APIKey struct {
	Subject   string // "user_…" or "org_…"
	Name      string
	Scopes    []string
	CreatedBy string        // "user_…"; "": nobody is named
	Life      time.Duration // 0: without end
}

// machineKey is an API key or a machine's token, as it was given out.
type machineKey struct {
	id      string
	subject string
	name    string
	creator string
	scopes  []string
	created time.Time
	expires time.Time // zero: without end
	revoked bool
}

// Machine is a machine that was set up in Clerk's dashboard ("Machines").
type Machine struct {
	ID     string        // "mch_…"
	Secret secret.String // "ak_…"
}

// AddAPIKey makes an API key and returns its secret, "ak_…" (bapi
// specification, POST /api_keys).
func (s *Server) AddAPIKey(k APIKey) (string, error) {
	if !strings.HasPrefix(k.Subject, "user_") && !strings.HasPrefix(k.Subject, "org_") {
		return "", fmt.Errorf("API key of %q: its subject is a user or an organisation", k.Subject)
	}
	key := machineKey{id: hexID("ak_"), subject: k.Subject, name: k.Name, creator: k.CreatedBy, scopes: slices.Clone(k.Scopes)}
	return s.giveOut("ak_", key, k.Life), nil
}

// AddMachine sets up a machine.
func (s *Server) AddMachine() Machine {
	m := Machine{ID: randomID("mch_"), Secret: secret.String("ak_" + rand.Text())}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.machines = append(s.machines, m)
	return m
}

// MachineToken makes an opaque token of a machine for others, the ids of which
// are its scopes (bapi specification, POST /m2m_tokens).
func (s *Server) MachineToken(from Machine, life time.Duration, to ...Machine) string {
	key := machineKey{id: hexID("mt_"), subject: from.ID}
	for _, m := range to {
		key.scopes = append(key.scopes, m.ID)
	}
	return s.giveOut("mt_", key, life)
}

func (s *Server) giveOut(prefix string, key machineKey, life time.Duration) string {
	text := prefix + rand.Text() + rand.Text()
	s.mu.Lock()
	defer s.mu.Unlock()
	key.created = s.now()
	if life > 0 {
		key.expires = key.created.Add(life)
	}
	makeRoom(s.machineKeys)
	s.machineKeys[text] = &key
	return text
}

var errUnknownKey = errors.New("unknown key")

// RevokeKey revokes an API key or a machine's token.
func (s *Server) RevokeKey(text string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	key := s.machineKeys[text]
	if key == nil {
		return errUnknownKey
	}
	key.revoked = true
	return nil
}

// AccessToken makes an access token for a user and the application, without a
// sign-in, in the format that is chosen (SetOpaqueTokens). resource may be "".
func (s *Server) AccessToken(user, scope, resource string) (string, error) {
	granted := token{family: rand.Text(), client: s.clientID, user: user, scope: scope, resource: resource}
	if _, ok := s.account(user); !ok {
		return "", fmt.Errorf("%w %q", errUnknownUser, user)
	}
	text, _, err := s.makeAccessToken(granted)
	return text, err
}

// RevokeAccessToken takes an opaque access token back. A JWT stays what it is:
// it is not revocable (clerk.com/docs, "Token formats").
func (s *Server) RevokeAccessToken(text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.tokens, text)
}

// question reads the one member of a request to verify something.
func question(w http.ResponseWriter, r *http.Request, name string) (string, bool) {
	var body map[string]json.RawMessage
	var text string
	if json.NewDecoder(r.Body).Decode(&body) != nil || json.Unmarshal(body[name], &text) != nil || text == "" {
		writeErrors(w, http.StatusBadRequest, errParameter(name, name+" is missing or no string"))
		return "", false
	}
	return text, true
}

// serveVerifyAccessToken is POST /v1/oauth_applications/access_tokens/verify
// (bapi specification, verifyOAuthAccessToken). The answer names no audience.
func (s *Server) serveVerifyAccessToken(w http.ResponseWriter, r *http.Request) {
	text, ok := question(w, r, "access_token")
	if !ok {
		return
	}
	t, known := s.lookup(text)
	switch {
	case strings.Count(text, ".") == 2 && (!known || t.refresh):
		writeJSON(w, http.StatusOK, map[string]any{"active": false})
	case !known || t.refresh:
		writeErrors(w, http.StatusNotFound, errNotFound("No OAuth access token was found"))
	default:
		writeJSON(w, http.StatusOK, map[string]any{
			"object": "clerk_idp_oauth_access_token", "id": t.id, "client_id": t.client, "subject": t.user,
			"scopes": strings.Fields(t.scope), "revoked": false, "revocation_reason": nil, "expired": false,
			"expiration": t.expires.Unix(), "created_at": t.issued.Unix(), "updated_at": t.issued.Unix(),
		})
	}
}

// serveVerifyAPIKey is POST /v1/api_keys/verify (bapi specification,
// verifyApiKey). Clerk's SDK documentation says that a key which was revoked or
// has expired is refused; the schema has members for both, which it then never
// has to use.
func (s *Server) serveVerifyAPIKey(w http.ResponseWriter, r *http.Request) {
	text, ok := question(w, r, "secret")
	if !ok {
		return
	}
	k, ok := s.machineKey(text, "ak_")
	if !ok || k.revoked || k.expired(s.now()) {
		writeErrors(w, http.StatusNotFound, errNotFound("API key not found"))
		return
	}
	answer := k.json(s.now())
	answer["object"], answer["type"], answer["name"] = "api_key", "api_key", k.name
	answer["description"], answer["created_by"] = nil, orNull(k.creator)
	writeJSON(w, http.StatusOK, answer)
}

// serveVerifyMachineToken is POST /v1/m2m_tokens/verify (bapi specification,
// verifyM2MToken): with a machine's secret it knows the tokens for that machine
// alone, with the instance's every one.
func (s *Server) serveVerifyMachineToken(w http.ResponseWriter, r *http.Request) {
	given, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	asking := ""
	s.mu.Lock()
	for _, m := range s.machines {
		if subtle.ConstantTimeCompare([]byte(given), []byte(m.Secret.Reveal())) == 1 {
			asking = m.ID
		}
	}
	s.mu.Unlock()
	if asking == "" && subtle.ConstantTimeCompare([]byte(given), []byte(s.secretKey.Reveal())) != 1 {
		writeErrors(w, http.StatusUnauthorized, errKey)
		return
	}
	text, ok := question(w, r, "token")
	if !ok {
		return
	}
	k, ok := s.machineKey(text, "mt_")
	if !ok || asking != "" && !slices.Contains(k.scopes, asking) {
		writeErrors(w, http.StatusNotFound, errNotFound("Machine token not found"))
		return
	}
	answer := k.json(s.now())
	answer["object"] = "machine_to_machine_token"
	writeJSON(w, http.StatusOK, answer)
}

func (s *Server) machineKey(text, prefix string) (machineKey, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	k := s.machineKeys[text]
	if k == nil || !strings.HasPrefix(text, prefix) {
		return machineKey{}, false
	}
	return *k, true
}

func (k *machineKey) expired(now time.Time) bool {
	return !k.expires.IsZero() && !now.Before(k.expires)
}

// json has what both kinds share; times are Unix milliseconds.
func (k *machineKey) json(now time.Time) map[string]any {
	var expiration, reason any
	if !k.expires.IsZero() {
		expiration = k.expires.UnixMilli()
	}
	if k.revoked {
		reason = "Revoked"
	}
	return map[string]any{
		"id": k.id, "subject": k.subject, "claims": nil, "scopes": append([]string{}, k.scopes...),
		"revoked": k.revoked, "revocation_reason": reason, "expired": k.expired(now), "expiration": expiration,
		"last_used_at": now.UnixMilli(), "created_at": k.created.UnixMilli(), "updated_at": k.created.UnixMilli(),
	}
}

// hexID is an id of the kind that Clerk gives to machines' credentials.
func hexID(prefix string) string {
	b := make([]byte, 16)
	_, _ = rand.Read(b) // never fails, see crypto/rand
	return prefix + hex.EncodeToString(b)
}
