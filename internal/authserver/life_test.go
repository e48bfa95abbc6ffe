package authserver_test

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

// The whole life of a grant, in any order of what may happen to it: the code
// and its replay, refreshes by the current token and by its ancestors, with
// their answers lost or not, revocations, strangers, and time. After each step
// exactly those access tokens are good that the model, which knows the rules
// and nothing of the code, says are.
func TestLifeOfAGrantFollowsItsModel(t *testing.T) {
	e := newEnv(t)
	rapid.Check(t, func(rt *rapid.T) {
		e.t = t
		e.clock.advance(time.Hour) // the limits of the run before are forgotten
		m := &grantModel{e: e}
		m.begin()
		rt.Repeat(map[string]func(*rapid.T){
			"":                 m.check,
			"wait":             m.wait,
			"redeem":           m.redeem,
			"redeem wrongly":   m.redeemWrongly,
			"refresh":          m.refresh,
			"refresh wrongly":  m.refreshWrongly,
			"revoke":           m.revoke,
			"revoke an access": m.revokeAccess,
			"begin anew":       m.beginAnew,
		})
	})
}

const (
	modelGrace    = 30 * time.Minute
	modelLost     = 24 * time.Hour
	modelIdle     = 30 * 24 * time.Hour
	modelAbsolute = 180 * 24 * time.Hour
	modelAccess   = time.Hour
	modelCode     = time.Minute
	// modelMost is how many rotations a run sees of one family: beyond 16
	// within the grace the current token stays, which another test is about.
	modelMost = 14
)

// grantModel is what is known of one grant.
type grantModel struct {
	e *env
	c testClient

	code          string
	created, used time.Time
	redeemed      bool
	over          bool
	family        []familyToken
	access        []accessState
}

type familyToken struct {
	token string
	since time.Time // superseded; zero: current
}

type accessState struct {
	token   string
	expires time.Time
	revoked bool
}

func (m *grantModel) now() time.Time { return m.e.clock.Now() }

func (m *grantModel) begin() {
	*m = grantModel{e: m.e, c: m.e.register("Web", webRedirect)}
	m.code = m.e.code(m.c)
	m.created, m.used = m.now(), m.now()
}

// other is another client, registered anew: time ends what is not used.
func (m *grantModel) other() testClient { return m.e.register("Other", "https://other.example/cb") }

// beginAnew follows the end of a grant, lest runs are about dead ones.
func (m *grantModel) beginAnew(rt *rapid.T) {
	if !m.over && m.live() {
		rt.Skip("the grant lives")
	}
	m.begin()
}

// live reports whether the grant has a future.
func (m *grantModel) live() bool {
	if m.over {
		return false
	}
	if !m.redeemed {
		return m.now().Before(m.created.Add(modelCode))
	}
	return m.now().Before(m.used.Add(modelIdle)) && m.now().Before(m.created.Add(modelAbsolute))
}

func (m *grantModel) check(rt *rapid.T) {
	for i, a := range m.access {
		want := !m.over && !a.revoked && m.now().Before(a.expires)
		if got := m.e.valid(a.token); got != want {
			rt.Fatalf("access token %d of %d is good: %v, want %v", i, len(m.access), got, want)
		}
	}
}

func (m *grantModel) wait(rt *rapid.T) {
	m.e.clock.advance(rapid.SampledFrom([]time.Duration{
		time.Second, 30 * time.Second, 5 * time.Minute, 29 * time.Minute, 31 * time.Minute, 23 * time.Hour, 25 * time.Hour, 29 * 24 * time.Hour,
	}).Draw(rt, "for"))
}

// issued notes the tokens of an answer.
func (m *grantModel) issued(a answer) tokens {
	tk := m.e.tokens(a)
	expires := m.now().Add(modelAccess)
	if end := m.created.Add(modelAbsolute); end.Before(expires) {
		expires = end
	}
	m.access = append(m.access, accessState{token: tk.access, expires: expires})
	return tk
}

func (m *grantModel) refused(rt *rapid.T, what string, a answer) {
	if a.status != 400 || a.oauthError(m.e.t) != "invalid_grant" {
		rt.Fatalf("%s: answer %d %s, want invalid_grant", what, a.status, a.body)
	}
}

// A code is good once and for a minute; presented again by its own client it
// ends what came of it (RFC 6749 section 4.1.2).
func (m *grantModel) redeem(rt *rapid.T) {
	if m.redeemed && rapid.IntRange(0, 3).Draw(rt, "replay") > 0 {
		rt.Skip("a replay ends every run")
	}
	a := m.e.redeem(m.c, m.code)
	switch {
	case m.redeemed:
		m.refused(rt, "a replay", a)
		m.over = true
	case !m.live():
		m.refused(rt, "a late code", a)
		m.over = true
	default:
		tk := m.issued(a)
		m.redeemed, m.used = true, m.now()
		m.family = []familyToken{{token: tk.refresh}}
	}
}

// What another client, or nobody who has the verifier, presents changes nothing.
func (m *grantModel) redeemWrongly(rt *rapid.T) {
	m.refused(rt, "another client's code", m.e.redeem(m.other(), m.code))
	m.refused(rt, "a code without its verifier", m.e.redeem(m.c, m.code, "code_verifier", wrongVerifier))
}

const wrongVerifier = "this-verifier-belongs-to-quite-another-challenge-0123456789"

func (m *grantModel) draw(rt *rapid.T) int {
	if len(m.family) == 0 {
		rt.Skip("there are no refresh tokens")
	}
	return rapid.IntRange(0, len(m.family)-1).Draw(rt, "token")
}

// answered reports whether token i gets the current one.
func (m *grantModel) answered(i int) bool {
	if !m.live() {
		return false
	}
	age := m.now().Sub(m.family[i].since)
	return i == len(m.family)-1 || age <= modelGrace || i == len(m.family)-2 && age <= modelLost
}

func (m *grantModel) refresh(rt *rapid.T) {
	i := m.draw(rt)
	last := len(m.family) - 1
	if i == last && last >= modelMost {
		rt.Skip("the family is large enough")
	}
	a := m.e.refresh(m.c, m.family[i].token)
	if !m.answered(i) {
		m.refused(rt, "a refresh", a)
		if m.live() { // an old copy: somebody else may have it
			m.over = true
		}
		return
	}
	tk := m.issued(a)
	if i < last {
		if tk.refresh != m.family[last].token {
			rt.Fatalf("token %d of %d led to a second family", i, last+1)
		}
		return
	}
	if tk.refresh == m.family[last].token {
		rt.Fatalf("token %d was not replaced", i)
	}
	m.used = m.now()
	m.family[last].since = m.now()
	m.family = append(m.family, familyToken{token: tk.refresh})
}

// Refused before anything changes: wrong client, wider scope, other resource.
func (m *grantModel) refreshWrongly(rt *rapid.T) {
	token := m.family[m.draw(rt)].token
	m.refused(rt, "another client's refresh", m.e.refresh(m.other(), token))
	if a := m.e.refresh(m.c, token, "resource", "https://other.example/mcp"); a.status != 400 {
		rt.Fatalf("a refresh for another resource: answer %d %s", a.status, a.body)
	}
	m.refused(rt, "a forged token", m.e.refresh(m.c, flipByte(token, len(token)-2)))
}

// RFC 7009: any refresh token of the family ends all of it, but only for its
// own client.
func (m *grantModel) revoke(rt *rapid.T) {
	token := m.family[m.draw(rt)].token
	if a := m.e.post("/revoke", m.other().form("token", token)); a.status != 200 {
		rt.Fatalf("another client's revocation: answer %d %s", a.status, a.body)
	}
	m.check(rt)
	if rapid.IntRange(0, 3).Draw(rt, "by its client") > 0 {
		rt.Skip("a revocation ends every run")
	}
	if a := m.e.post("/revoke", m.c.form("token", token)); a.status != 200 {
		rt.Fatalf("a revocation: answer %d %s", a.status, a.body)
	}
	m.over = true
}

// An access token's revocation refuses those issued so far, not the family.
func (m *grantModel) revokeAccess(rt *rapid.T) {
	if len(m.access) == 0 {
		rt.Skip("there are no access tokens")
	}
	a := m.access[rapid.IntRange(0, len(m.access)-1).Draw(rt, "access token")]
	if got := m.e.post("/revoke", m.c.form("token", a.token)); got.status != 200 {
		rt.Fatalf("a revocation: answer %d %s", got.status, got.body)
	}
	if m.over || a.revoked || !m.now().Before(a.expires) {
		return // it was of no use any more, and nothing changes
	}
	for i := range m.access {
		m.access[i].revoked = true
	}
}
