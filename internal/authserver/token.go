package authserver

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/mcp-clerk/mcp-clerk/internal/identity"
)

// directoryTimeout bounds the question whether a user still exists.
const directoryTimeout = 3 * time.Second

// emailTimeout bounds the question for the e-mail address, which the sign-in
// or the refresh has just asked for.
const emailTimeout = 250 * time.Millisecond

// token is the token endpoint (RFC 6749 section 3.2).
func (s *Server) token(w http.ResponseWriter, r *http.Request) {
	s.clientEndpoint(w, r, func(c *client, p params) error {
		is, err := s.exchange(r, c, p)
		if err == nil {
			s.writeTokens(w, is, s.email(r.Context(), is.grant.subject()))
		}
		return err
	})
}

// email is the user's address as the directory has it, "" where that cannot
// say at once: no token waits for it.
func (s *Server) email(ctx context.Context, subject string) string {
	if s.opts.Directory == nil {
		return ""
	}
	ctx, cancel := context.WithTimeout(ctx, emailTimeout)
	defer cancel()
	u, err := s.opts.Directory.User(ctx, subject)
	if err != nil {
		return ""
	}
	return cutName(u.Email)
}

func (s *Server) exchange(r *http.Request, c *client, p params) (issued, error) {
	switch p.get("grant_type") {
	case grantTypeCode:
		is, err := s.redeemCode(r.Context(), c, p)
		s.recordCode(r, p, err)
		return is, err
	case grantTypeDevice:
		is, err := s.redeemDevice(r.Context(), c, p)
		if err == nil {
			s.flights.redeemed(is.grant.id(), c.ID, agentFamily(r.UserAgent()), "")
		}
		return is, err
	case grantTypeRefresh:
		return s.refresh(r.Context(), c, p)
	case "":
		return issued{}, invalidRequest("grant_type is missing")
	}
	return issued{}, &oauthError{Code: codeUnsupportedGrantType, Description: "use authorization_code, refresh_token or " + grantTypeDevice}
}

// target reports what is wrong with the resource of a token request, if it
// names one. It is judged inside the transition, after the client.
func (s *Server) target(p params) error {
	if resource := p.get("resource"); resource != "" {
		return s.site.checkResource(resource)
	}
	return nil
}

// redeemCode is the authorization code grant (RFC 6749 section 4.1.3, RFC 7636
// section 4.5).
func (s *Server) redeemCode(ctx context.Context, c *client, p params) (issued, error) {
	if p.get("code") == "" {
		return issued{}, invalidRequest("code is missing")
	}
	verifier := p.get("code_verifier")
	if verifier == "" {
		return issued{}, invalidRequest("code_verifier is missing")
	}
	h, ok := s.keys.openHandle(prefixCode, p.get("code"))
	if !ok {
		return issued{}, errGrantOver
	}
	if !validVerifier(verifier) {
		return issued{}, &oauthError{Code: codeInvalidGrant, Description: "code_verifier is not 43 to 128 unreserved characters"}
	}
	in := redemption{
		client: c.ID, secret: h.secret, redirect: p.get("redirect_uri"), verifier: verifier,
		target: s.target(p), first: randomBytes(secretSize),
	}
	is, err := s.redeemGrant(ctx, h.grant, in)
	if errors.Is(err, errRedirectMismatch) {
		s.audit(ctx, Event{Name: "code.refused", ClientID: c.ID, Subject: h.grant.subject(), Grant: h.grant.id(), Reason: reasonRedirect})
	}
	return is, err
}

// redeemGrant turns the pending code of a grant into tokens.
func (s *Server) redeemGrant(ctx context.Context, name grantName, in redemption) (is issued, err error) {
	err = s.transition(ctx, name, func(g *grant) error {
		now, l := s.now(), s.lives()
		if err := g.redeem(now, in); err != nil {
			return err
		}
		is = issued{grant: name, generation: g.Generation, client: in.client, resource: g.Resource, scopes: g.Scopes, expires: g.accessEnd(now, l), seq: g.Refresh.Seq, secret: in.first}
		return nil
	})
	return is, err
}

// refresh is the refresh token grant (RFC 6749 section 6).
func (s *Server) refresh(ctx context.Context, c *client, p params) (issued, error) {
	if p.get("refresh_token") == "" {
		return issued{}, invalidRequest("refresh_token is missing")
	}
	h, ok := s.keys.openHandle(prefixRefresh, p.get("refresh_token"))
	if !ok {
		return issued{}, errGrantOver
	}
	in := rotation{
		client: c.ID, seq: h.seq, secret: h.secret, scopes: s.knownScopes(p.get("scope")),
		target: s.target(p), next: randomBytes(secretSize), ring: s.keys,
	}
	if err := s.checkUser(ctx, c, h.grant); err != nil {
		return issued{}, err
	}
	var is issued
	err := s.transition(ctx, h.grant, func(g *grant) error {
		now, l := s.now(), s.lives()
		seq, secret, err := g.rotate(now, l, in)
		if err != nil {
			return err
		}
		is = issued{grant: h.grant, generation: g.Generation, client: c.ID, resource: g.Resource, scopes: g.Scopes, expires: g.accessEnd(now, l), seq: seq, secret: secret}
		if len(in.scopes) > 0 {
			is.scopes = in.scopes // this access token only
		}
		return nil
	})
	return is, err
}

// checkUser ends the grant of a user who is gone or banned. A directory that
// cannot be asked ends nothing: what a token may do is decided again when it is
// used.
func (s *Server) checkUser(ctx context.Context, c *client, name grantName) error {
	u, refused, err := s.refusedUser(ctx, name.subject())
	if err == nil && refused == "" && u != nil && s.opts.Admit != nil {
		// Who may use the server in another organisation only signs in again,
		// and chooses that.
		state, stateErr := s.loadGrantState(ctx, name) // past the cache, for which a grant that is about to be redeemed is none
		if stateErr != nil {
			return stateErr
		}
		if !s.admitsWithin(u, state.org) {
			refused = userNotAdmitted
		}
	}
	switch {
	case err != nil:
		s.log.WarnContext(ctx, "directory not asked on refresh", "error", err)
		return nil
	case refused == userLocked, refused == userNotAdmitted: // may pass
		return errGrantOver
	case refused == "":
		return nil
	}
	err = s.transition(ctx, name, func(g *grant) error {
		if g.ClientID == c.ID {
			g.revoke(s.now(), reasonNoUser)
		}
		return errGrantOver
	})
	return err
}

// Why a user gets no tokens.
const (
	userGone   = "does not exist any more"
	userBanned = "is banned"
	userLocked = "is locked"
	// In the words of the page that says so.
	userNotAdmitted = "is not one of those who may use this server"
)

// refusedUser says why subject gets no tokens, "" if nothing is known against
// it, and who they are; without a directory nobody is. An error means that it
// could not be asked.
func (s *Server) refusedUser(ctx context.Context, subject string) (who *identity.User, refused string, err error) {
	if s.opts.Directory == nil {
		return nil, "", nil
	}
	ctx, cancel := context.WithTimeout(ctx, directoryTimeout)
	defer cancel()
	u, err := s.opts.Directory.User(ctx, subject)
	switch {
	case errors.Is(err, identity.ErrNoUser):
		return nil, userGone, nil
	case err != nil:
		return nil, "", fmt.Errorf("ask directory for user: %w", err)
	}
	if refused := refusal(&u); refused != "" {
		return &u, refused, nil
	}
	if s.opts.Admit != nil && !s.opts.Admit(&u) {
		return &u, userNotAdmitted, nil
	}
	return &u, "", nil
}

func refusal(u *identity.User) string {
	switch {
	case u.Banned:
		return userBanned
	case u.Locked:
		return userLocked
	}
	return ""
}

// validVerifier checks the form of RFC 7636 section 4.1.
func validVerifier(v string) bool {
	if len(v) < 43 || len(v) > 128 {
		return false
	}
	for i := range len(v) {
		switch c := v[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '.', c == '_', c == '~':
		default:
			return false
		}
	}
	return true
}

// challengeOf is the S256 challenge of a verifier (RFC 7636 section 4.2).
func challengeOf(verifier string) string {
	sum := sha256.Sum256([]byte(verifier))
	return b64.EncodeToString(sum[:])
}

// validChallenge accepts what S256 makes: 32 bytes as 43 base64url characters.
func validChallenge(c string) bool {
	raw, err := b64.DecodeString(c)
	return len(c) == 43 && err == nil && len(raw) == sha256.Size
}
