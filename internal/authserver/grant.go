package authserver

import (
	"context"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/mcp-clerk/mcp-clerk/internal/store"
)

// topicGrant carries the names of grants whose cached state is out of date.
const topicGrant = "grant"

// maxLinks bounds the chain of superseded refresh tokens that still count.
const maxLinks = 16

// grant is what one user has allowed one client, the record grant/SUBJECT/ID.
// Its life:
//
//	pending code --redeem--> live --refresh--> live … --revoke--> revoked
//	     |                     |
//	  60 s later           idle or absolute end
//	     v                     v
//	    gone                  gone
//
// Each arrow is one method below, a pure function of the record, the clock and
// what was presented, so that a store may run it more than once. A method that
// returns an error without setting changed leaves the record as it is.
type grant struct {
	ClientID     string   `json:"client"`
	Redirect     string   `json:"redirect"`
	Resource     string   `json:"resource"`
	Scopes       []string `json:"scopes"`
	Organization string   `json:"org,omitempty"` // see identity.Principal
	Created      int64    `json:"created"`       // unix milliseconds, as all times here
	Used         int64    `json:"used"`          // when tokens were last issued
	// Generation is raised to refuse all access tokens issued before.
	Generation  uint64       `json:"generation,omitempty"`
	Code        pendingCode  `json:"code"`
	Refreshable bool         `json:"refreshable,omitempty"`
	Refresh     refreshChain `json:"refresh,omitzero"`
	Revoked     string       `json:"revoked,omitempty"` // why
	// Ends is the record's expiry on the clock of the instance that wrote it.
	// What the store says of it on the reader's clock tells how far the two are
	// apart; see rebase.
	Ends int64 `json:"ends,omitempty"`

	changed bool
}

// pendingCode is the authorization code of a grant.
type pendingCode struct {
	Hash      []byte `json:"hash"`
	Challenge string `json:"challenge,omitempty"` // S256 of the verifier, base64url
	Expires   int64  `json:"expires"`
	Redeemed  bool   `json:"redeemed,omitempty"`
	// Device says that it is the secret of a device code, without a challenge.
	Device bool `json:"device,omitempty"`
}

// refreshChain is the current refresh token and those that it replaced.
type refreshChain struct {
	Seq   uint64 `json:"seq"`            // number of the current token, from 1; 0: there is none
	Hash  []byte `json:"hash"`           // of its secret
	Used  bool   `json:"used,omitempty"` // presented, though not replaced
	Links []link `json:"links,omitempty"`
}

// link is a superseded refresh token. The last link's successor is the current
// token.
type link struct {
	Hash []byte `json:"hash"`
	At   int64  `json:"at"`   // when it was superseded
	Next []byte `json:"next"` // its successor's secret, sealed under a key derived from its own
}

// lives are the lifetimes that transitions need.
type lives struct {
	access, grace, idle, absolute time.Duration
}

func (s *Server) lives() lives {
	return lives{s.opts.AccessTokenTTL, s.opts.RefreshGrace, s.opts.RefreshIdle, s.opts.RefreshAbsolute}
}

var errGrantOver = &oauthError{Code: codeInvalidGrant, Description: "the code or token is unknown, expired, used or revoked, or belongs to another client"}

// expires is when the record may be forgotten.
func (g *grant) expires(l lives) time.Time {
	switch {
	case g.Revoked != "":
		return time.UnixMilli(g.Used).Add(tombstoneTTL)
	case !g.Code.Redeemed:
		return time.UnixMilli(g.Code.Expires)
	case !g.Refreshable:
		return time.UnixMilli(g.Used).Add(l.access)
	}
	return g.refreshEnd(l)
}

// clockSlack is the difference between two clocks that is none: what a round
// trip to the store adds must not move the times of a grant at every change.
const clockSlack = 5 * time.Second

// rebase tells the times of the grant on this instance's clock, on which the
// store says that its record expires at ends. Clocks of instances may be minutes
// apart: a code lives for one.
func (g *grant) rebase(ends time.Time) {
	shift := ends.Sub(time.UnixMilli(g.Ends))
	if g.Ends == 0 || ends.IsZero() || shift.Abs() < clockSlack {
		return
	}
	ms := shift.Milliseconds()
	g.Created, g.Used, g.Code.Expires = g.Created+ms, g.Used+ms, g.Code.Expires+ms
	for i := range g.Refresh.Links {
		g.Refresh.Links[i].At += ms
	}
}

// encode returns the record of the grant, and when it expires.
func (g *grant) encode(l lives) (value []byte, expires time.Time, err error) {
	expires = g.expires(l)
	g.Ends = store.Millis(expires)
	if value, err = json.Marshal(g); err != nil {
		return nil, time.Time{}, fmt.Errorf("encode grant record: %w", err)
	}
	return value, expires, nil
}

// refreshEnd is when the last refresh token expires.
func (g *grant) refreshEnd(l lives) time.Time {
	idle, absolute := time.UnixMilli(g.Used).Add(l.idle), time.UnixMilli(g.Created).Add(l.absolute)
	if idle.Before(absolute) {
		return idle
	}
	return absolute
}

// accessEnd is when an access token issued at now expires: never after its grant.
func (g *grant) accessEnd(now time.Time, l lives) time.Time {
	end := now.Add(l.access)
	if absolute := time.UnixMilli(g.Created).Add(l.absolute); g.Refreshable && absolute.Before(end) {
		return absolute
	}
	return end
}

// live reports a grant that holds tokens.
func (g *grant) live() bool { return g.Code.Redeemed && g.Revoked == "" }

// waits reports a grant that a device may still collect.
func (g *grant) waits(now time.Time) bool {
	return g.Code.Device && !g.Code.Redeemed && g.Revoked == "" && now.UnixMilli() < g.Code.Expires
}

// revoke ends the grant and everything derived from it.
func (g *grant) revoke(now time.Time, reason string) {
	if g.Revoked == "" {
		g.Revoked, g.Used, g.changed = reason, now.UnixMilli(), true
	}
}

// redemption is a code, or a device code, presented at the token endpoint.
type redemption struct {
	client   string
	secret   []byte // of the code
	redirect string // "" if not named
	verifier string
	device   bool
	target   error  // what is wrong with the resource named, if anything
	first    []byte // secret of the refresh token to issue
}

// redeem turns the pending code into tokens, once. Whoever can present the
// code with its verifier a second time is the client or has stolen all that it
// had: the grant ends (RFC 6749 section 4.1.2). Anybody else changes nothing.
func (g *grant) redeem(now time.Time, in redemption) error {
	switch {
	case g.ClientID != in.client || g.Code.Device != in.device || subtle.ConstantTimeCompare(g.Code.Hash, hash(in.secret)) != 1:
		return errGrantOver
	case g.Revoked != "":
		return errGrantOver
	case !g.Code.Redeemed && now.UnixMilli() >= g.Code.Expires:
		return errGrantOver
	case in.redirect != "" && in.redirect != g.Redirect:
		return errRedirectMismatch
	case in.target != nil:
		return &oauthError{Code: codeInvalidTarget, Description: in.target.Error()}
	case !in.device && subtle.ConstantTimeCompare([]byte(challengeOf(in.verifier)), []byte(g.Code.Challenge)) != 1:
		return errVerifier
	case g.Code.Redeemed:
		g.revoke(now, reasonReplay)
		return errGrantOver
	}
	g.Code.Redeemed, g.Used, g.changed = true, now.UnixMilli(), true
	if g.Refreshable {
		g.Refresh = refreshChain{Seq: 1, Hash: hash(in.first)}
	}
	return nil
}

var (
	errRedirectMismatch = &oauthError{Code: codeInvalidGrant, Description: "redirect_uri is not the one of the authorization request"}
	errVerifier         = &oauthError{Code: codeInvalidGrant, Description: "code_verifier does not match the code_challenge"}
)

// Reasons for which a grant ends, as the audit log has them.
const (
	reasonReplay   = "code replayed"
	reasonReuse    = "superseded refresh token reused"
	reasonClient   = "revoked by the client"
	reasonNoUser   = "user is gone or banned"
	reasonRedirect = "code presented with another redirect URI"
)

// rotation is a refresh token presented at the token endpoint.
type rotation struct {
	client string
	seq    uint64
	secret []byte
	scopes []string // asked for; nil: all of the grant
	target error
	next   []byte // secret of the token to rotate to
	ring   *keyring
}

// rotate answers a refresh token with the current one of its family, after
// replacing that if it is the one that was presented (RFC 9700 section 4.14.2).
//
// A superseded token is answered too while that is harmless: for the grace,
// because several processes of one client share a stored token, and for a day
// while its successor was never used, because the answer may have been lost.
// Outside, somebody holds an old copy, and the family ends.
func (g *grant) rotate(now time.Time, l lives, in rotation) (seq uint64, secret []byte, err error) {
	switch {
	case g.ClientID != in.client || g.Revoked != "" || g.Refresh.Seq == 0 || !now.Before(g.refreshEnd(l)):
		return 0, nil, errGrantOver
	case in.target != nil:
		return 0, nil, &oauthError{Code: codeInvalidTarget, Description: in.target.Error()}
	case !subset(in.scopes, g.Scopes):
		return 0, nil, &oauthError{Code: codeInvalidScope, Description: "the scope is wider than what was granted"}
	}
	chain := &g.Refresh
	presented := hash(in.secret)
	if in.seq == chain.Seq && subtle.ConstantTimeCompare(chain.Hash, presented) == 1 {
		g.Used, g.changed = now.UnixMilli(), true
		chain.prune(now, l)
		if len(chain.Links) >= maxLinks {
			// All links are within the grace, and dropping one would end the
			// family for a process that still holds it: the token stays for now.
			chain.Used = true
			return chain.Seq, in.secret, nil
		}
		chain.Links = append(chain.Links, link{Hash: presented, At: now.UnixMilli(), Next: in.ring.sealSuccessor(in.secret, in.next)})
		chain.Seq, chain.Hash, chain.Used = chain.Seq+1, hash(in.next), false
		return chain.Seq, in.next, nil
	}
	if in.seq >= chain.Seq {
		// Minted here, yet not known: a store that lost its last writes. The
		// token cannot be honoured, but nobody has misused anything.
		return 0, nil, errGrantOver
	}
	i := len(chain.Links) - int(chain.Seq-in.seq)
	if i >= 0 && subtle.ConstantTimeCompare(chain.Links[i].Hash, presented) != 1 {
		return 0, nil, errGrantOver // as above
	}
	if i < 0 || !chain.answers(i, now, l) {
		g.revoke(now, reasonReuse)
		return 0, nil, errGrantOver
	}
	secret = in.secret
	for ; i < len(chain.Links); i++ {
		next, ok := in.ring.openSuccessor(secret, chain.Links[i].Next)
		if !ok {
			return 0, nil, errGrantOver // sealed under a key that is no longer configured
		}
		secret = next
	}
	return chain.Seq, secret, nil
}

// answers reports whether link i is still answered with the current token.
func (c *refreshChain) answers(i int, now time.Time, l lives) bool {
	age := now.Sub(time.UnixMilli(c.Links[i].At))
	return age <= l.grace || i == len(c.Links)-1 && !c.Used && age <= lostGrace
}

// accepts reports whether rotate would answer the token with this number and
// secret.
func (g *grant) accepts(now time.Time, l lives, seq uint64, secret []byte) bool {
	chain, presented := &g.Refresh, hash(secret)
	if g.Revoked != "" || chain.Seq == 0 || seq > chain.Seq || !now.Before(g.refreshEnd(l)) {
		return false
	}
	if seq == chain.Seq {
		return subtle.ConstantTimeCompare(chain.Hash, presented) == 1
	}
	i := len(chain.Links) - int(chain.Seq-seq)
	return i >= 0 && subtle.ConstantTimeCompare(chain.Links[i].Hash, presented) == 1 && chain.answers(i, now, l)
}

// prune drops the links that are no longer answered, the last but for its
// longer grace.
func (c *refreshChain) prune(now time.Time, l lives) {
	first := 0
	for first < len(c.Links) && !c.answers(first, now, l) {
		first++
	}
	c.Links = c.Links[first:]
}

// errUnchanged leaves a record as it is without being a failure.
var errUnchanged = errors.New("unchanged")

// transition applies f to the grant in one atomic operation. f may run more
// than once. The grant is stored if f set changed, whatever f returned; the
// result is f's own error or one of the store.
func (s *Server) transition(ctx context.Context, name grantName, f func(*grant) error) error {
	var verdict error
	var changed *grant
	_, err := s.store.Update(ctx, name.key(), func(old store.Record) ([]byte, time.Time, error) {
		g := &grant{}
		if err := json.Unmarshal(old.Value, g); err != nil {
			return nil, time.Time{}, fmt.Errorf("decode grant record: %w", err)
		}
		g.rebase(old.Expires)
		changed = nil
		if verdict = f(g); !g.changed {
			return nil, time.Time{}, errUnchanged
		}
		changed = g
		return g.encode(s.lives())
	})
	switch {
	case errors.Is(err, errUnchanged):
		return verdict
	case errors.Is(err, store.ErrNotFound):
		return errGrantOver
	case err != nil:
		return storeError("update grant", err)
	}
	if changed.Revoked != "" {
		s.announce(ctx, name)
		s.forgetConsent(ctx, name.subject(), changed.ClientID)
		s.audit(ctx, Event{Name: "grant.revoked", ClientID: changed.ClientID, Subject: name.subject(), Grant: name.id(), Reason: changed.Revoked})
	}
	return verdict
}

// announce drops the cached state of a grant here and, best effort, on the
// other instances, whose caches would notice within the second anyway.
func (s *Server) announce(ctx context.Context, name grantName) {
	s.grants.forget(string(name))
	if err := s.store.Publish(ctx, topicGrant, []byte(name)); err != nil {
		s.log.WarnContext(ctx, "announce grant", "error", err)
	}
}

// createCode commits a grant with a pending code and returns the code.
func (s *Server) createCode(ctx context.Context, subject string, g *grant) (name grantName, code string, err error) {
	secret := randomBytes(secretSize)
	g.Code.Hash, g.Code.Expires = hash(secret), s.now().Add(codeTTL).UnixMilli()
	if name, err = s.createGrant(ctx, subject, g); err != nil {
		return "", "", err
	}
	return name, s.keys.sealHandle(prefixCode, handle{grant: name, secret: secret}), nil
}

// createGrant commits a grant whose pending code is known.
func (s *Server) createGrant(ctx context.Context, subject string, g *grant) (grantName, error) {
	name := newGrantName(subject, b64.EncodeToString(randomBytes(16)))
	g.Created = s.now().UnixMilli()
	g.Used = g.Created
	value, expires, err := g.encode(s.lives())
	if err != nil {
		return "", err
	}
	if err := s.store.Create(ctx, store.Record{Key: name.key(), Value: value, Expires: expires}); err != nil {
		return "", storeError("create grant", err)
	}
	return name, nil
}

// tokenResponse is the answer of RFC 6749 section 5.1.
type tokenResponse struct {
	AccessToken  string `json:"access_token"`
	TokenType    string `json:"token_type"`
	ExpiresIn    int64  `json:"expires_in"`
	RefreshToken string `json:"refresh_token,omitempty"`
	Scope        string `json:"scope"`
	// Email names the account to the person who uses the client, a member
	// beyond the standard's as section 5.1 allows.
	Email string `json:"email,omitempty"`
}

// issued is what a committed transition entitles the client to.
type issued struct {
	grant      grantName
	generation uint64
	client     string
	resource   string
	scopes     []string
	expires    time.Time
	seq        uint64 // of the refresh token, 0: none
	secret     []byte
}

func (s *Server) writeTokens(w http.ResponseWriter, is issued, email string) {
	answer := tokenResponse{
		AccessToken: s.keys.sealAccessToken(accessToken{
			grant: is.grant, generation: is.generation, client: is.client,
			resource: is.resource, scopes: strings.Join(is.scopes, " "), expires: is.expires,
		}),
		TokenType: "Bearer",
		ExpiresIn: int64(is.expires.Sub(s.now()) / time.Second),
		Scope:     strings.Join(is.scopes, " "),
		Email:     email,
	}
	if is.seq > 0 {
		answer.RefreshToken = s.keys.sealHandle(prefixRefresh, handle{grant: is.grant, seq: is.seq, secret: is.secret})
	}
	noStore(w.Header())
	writeJSON(w, http.StatusOK, answer)
}
