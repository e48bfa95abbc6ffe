package authserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/mcp-clerk/mcp-clerk/internal/store"
)

// The device authorization grant (RFC 8628): a program where there is no
// browser shows a short code, and a person enters it on the page /device of
// this server, in a browser anywhere. What they approve becomes a grant with a
// pending code, as at the authorization endpoint, and the secret of the device
// code redeems it.

const grantTypeDevice = "urn:ietf:params:oauth:grant-type:device_code"

// Times of a device code.
const (
	deviceTTL      = 10 * time.Minute // to enter the user code, sign in and approve
	deviceClaim    = 2 * time.Minute  // at least, from the approval to the poll that collects
	deviceInterval = 5 * time.Second  // between two polls
	deviceSlower   = 5 * time.Second  // what slow_down adds (RFC 8628 section 3.5)
	deviceSlowest  = time.Minute
	deviceJitter   = time.Second // by which a poll may be early
)

// Error codes of RFC 8628 section 3.5.
const (
	codePending      = "authorization_pending"
	codeSlowDown     = "slow_down"
	codeExpiredToken = "expired_token"
)

var (
	errPending       = &oauthError{Code: codePending, Description: "nobody has approved yet: ask again after the interval"}
	errDeviceExpired = &oauthError{Code: codeExpiredToken, Description: "the device code has expired: ask for another one"}
	errNoDevice      = &oauthError{Code: codeUnauthorizedClient, Description: "the client has not registered for the device authorization grant"}
)

// device is a device code that is out, the sealed record device/HASH. HASH is
// that of the user code under a key of the server: user codes are short, and a
// plain hash of one could be searched for in a copy of the store.
type device struct {
	Client   string   `json:"client"`
	Scopes   []string `json:"scopes"`
	Hash     []byte   `json:"hash"`             // of the device code's secret
	Asked    int64    `json:"asked"`            // unix milliseconds
	From     string   `json:"from,omitempty"`   // address that asked, "" on loopback
	Flight   string   `json:"flight,omitempty"` // id in the flight recorder
	Interval int64    `json:"interval"`         // milliseconds
	Polled   int64    `json:"polled,omitempty"` // unix milliseconds
	Denied   bool     `json:"denied,omitempty"` // by a person
	Grant    string   `json:"grant,omitempty"`  // name of the grant, once approved
}

func (d *device) pending() bool { return !d.Denied && d.Grant == "" }

// userCodeAlphabet has no vowels, which would make words, and nothing that is
// easily taken for something else (RFC 8628 section 6.1).
const userCodeAlphabet = "BCDFGHJKLMNPQRSTVWXZ"

// userCodeSize letters are 34 bits: with 10 minutes to live and a bound on
// guesses, see limits.guess, that is enough (RFC 8628 section 5.1).
const userCodeSize = 8

// newUserCode draws a user code, without its hyphen.
func newUserCode() string {
	code := make([]byte, 0, userCodeSize)
	for len(code) < userCodeSize {
		for _, b := range randomBytes(userCodeSize) {
			// 240 is a multiple of 20: above it the letters would not be even.
			if b < 240 && len(code) < userCodeSize {
				code = append(code, userCodeAlphabet[int(b)%len(userCodeAlphabet)])
			}
		}
	}
	return string(code)
}

// parseUserCode reads a user code as people type it: in any case, with blanks
// and hyphens anywhere.
func parseUserCode(text string) (code string, ok bool) {
	if len(text) > 64 {
		return "", false
	}
	var b strings.Builder
	for _, c := range text {
		switch {
		case unicode.IsSpace(c), unicode.IsPunct(c), unicode.Is(unicode.Cf, c):
			continue
		case 'a' <= c && c <= 'z':
			c -= 'a' - 'A'
		}
		if c > unicode.MaxASCII || !strings.ContainsRune(userCodeAlphabet, c) {
			return "", false
		}
		b.WriteRune(c)
	}
	return b.String(), b.Len() == userCodeSize
}

// showUserCode is a user code as people read it.
func showUserCode(code string) string {
	if len(code) != userCodeSize {
		return ""
	}
	return code[:userCodeSize/2] + "-" + code[userCodeSize/2:]
}

// deviceKeys are the keys under which the record of a user code may lie, the
// one of the present key first.
func (ring *keyring) deviceKeys(userCode string) []string {
	keys := make([]string, len(ring.keys))
	for i, k := range ring.keys {
		keys[i] = "device/" + b64.EncodeToString(hmacSum(k.raw[forUserCode], []byte(userCode)))
	}
	return keys
}

// sealDeviceCode makes a device code: the key of its record, sealed in front of
// its secret and bound to it.
func (ring *keyring) sealDeviceCode(key string, secret []byte) string {
	return encodeToken(prefixDevice, append(ring.seal(forHandle, []byte(key), handleAD(prefixDevice, secret)), secret...))
}

func (ring *keyring) openDeviceCode(token string) (key string, secret []byte, ok bool) {
	body, ok := decodeToken(prefixDevice, token, nil)
	if !ok || len(body) < sealedOverhead+secretSize {
		return "", nil, false
	}
	cut := len(body) - secretSize
	plain, ok := ring.open(forHandle, nil, body[:cut], handleAD(prefixDevice, body[cut:]))
	return string(plain), body[cut:], ok && strings.HasPrefix(string(plain), "device/")
}

// allowsDevice reports whether the client may use the device grant. A redirect
// URI on the list says nothing about who collects the tokens here, so that
// under AdmitListed a client needs to prove more than that.
func (s *Server) allowsDevice(c *client) bool {
	if s.opts.NoDevice || !slices.Contains(c.GrantTypes, grantTypeDevice) {
		return false
	}
	return c.fixed || s.admission.policy != AdmitListed || slices.Contains(s.admission.hosts, HostLoopback) || c.verified && c.confidential()
}

// deviceAnswer is the answer of RFC 8628 section 3.2.
type deviceAnswer struct {
	DeviceCode string `json:"device_code"`
	UserCode   string `json:"user_code"`
	Page       string `json:"verification_uri"`
	PageFilled string `json:"verification_uri_complete"`
	ExpiresIn  int64  `json:"expires_in"` // seconds
	Interval   int64  `json:"interval"`   // seconds
}

// deviceAuthorization is the device authorization endpoint (RFC 8628 section
// 3.1).
func (s *Server) deviceAuthorization(w http.ResponseWriter, r *http.Request) {
	s.clientEndpoint(w, r, func(c *client, p params) error {
		if !s.allowsDevice(c) {
			return errNoDevice
		}
		if err := s.target(p); err != nil {
			return &oauthError{Code: codeInvalidTarget, Description: err.Error()}
		}
		addr := s.peerAddr(r)
		if retry, ok := s.limits.device.allow(newParty(addr, ""), s.now()); !ok {
			return tooManyRequests(retry)
		}
		d := device{Client: c.ID, Scopes: s.grantableScopes(p.get("scope")), Asked: s.now().UnixMilli(), Interval: deviceInterval.Milliseconds()}
		if addr.IsValid() && !addr.IsLoopback() {
			d.From = addr.String()
		}
		d.Flight = s.flights.device(addr, agentFamily(r.UserAgent()), c.ID, c.Name)
		userCode, deviceCode, err := s.createDevice(r.Context(), d)
		if err != nil {
			return err
		}
		page := s.site.issuer + "/device"
		noStore(w.Header())
		writeJSON(w, http.StatusOK, deviceAnswer{
			DeviceCode: deviceCode, UserCode: showUserCode(userCode), Page: page, PageFilled: withQuery(page, "user_code", showUserCode(userCode)),
			ExpiresIn: int64(deviceTTL / time.Second), Interval: int64(deviceInterval / time.Second),
		})
		return nil
	})
}

// createDevice commits a device code and returns it with its user code.
func (s *Server) createDevice(ctx context.Context, d device) (userCode, deviceCode string, err error) {
	secret := randomBytes(secretSize)
	d.Hash = hash(secret)
	for range 3 { // two of the codes that are out at a time may be the same
		userCode = newUserCode()
		key := s.keys.deviceKeys(userCode)[0]
		var value []byte
		if value, err = s.sealDevice(key, &d); err != nil {
			return "", "", err
		}
		err = s.store.Create(ctx, store.Record{Key: key, Value: value, Expires: s.now().Add(deviceTTL)})
		if err == nil {
			return userCode, s.keys.sealDeviceCode(key, secret), nil
		}
		if !errors.Is(err, store.ErrExists) {
			return "", "", storeError("create device code", err)
		}
	}
	return "", "", unavailable(errors.New("no user code is free"))
}

func (s *Server) sealDevice(key string, d *device) ([]byte, error) {
	plain, err := json.Marshal(d)
	if err != nil {
		return nil, fmt.Errorf("encode device code: %w", err)
	}
	return s.keys.seal(forDevice, plain, []byte(key)), nil
}

func (s *Server) openDevice(stored store.Record) (*device, error) {
	d := &device{}
	plain, ok := s.keys.open(forDevice, nil, stored.Value, []byte(stored.Key))
	if !ok || json.Unmarshal(plain, d) != nil {
		return nil, fmt.Errorf("open device code: %w", store.ErrNotFound) // sealed with a key that is gone
	}
	return d, nil
}

// changeDevice applies f to the device code under key in one atomic operation;
// f may run more than once, and an error of it leaves the record as it is. The
// error is store.ErrNotFound where the code is over.
func (s *Server) changeDevice(ctx context.Context, key string, f func(d *device, expires time.Time) (time.Time, error)) error {
	var verdict error
	_, err := s.store.Update(ctx, key, func(old store.Record) ([]byte, time.Time, error) {
		d, err := s.openDevice(old)
		if err != nil {
			verdict = err
			return nil, time.Time{}, errUnchanged
		}
		var expires time.Time
		if expires, verdict = f(d, old.Expires); verdict != nil {
			return nil, time.Time{}, errUnchanged
		}
		value, err := s.sealDevice(key, d)
		return value, expires, err
	})
	switch {
	case errors.Is(err, errUnchanged):
		return verdict
	case err != nil:
		return storeError("update device code", err)
	}
	return nil
}

// redeemDevice is the device access token request (RFC 8628 section 3.4).
func (s *Server) redeemDevice(ctx context.Context, c *client, p params) (issued, error) {
	if p.get("device_code") == "" {
		return issued{}, invalidRequest("device_code is missing")
	}
	if !s.allowsDevice(c) {
		return issued{}, errNoDevice
	}
	key, secret, ok := s.keys.openDeviceCode(p.get("device_code"))
	if !ok {
		return issued{}, errGrantOver
	}
	name, err := s.pollDevice(ctx, c, key, secret)
	if err != nil {
		return issued{}, err
	}
	if err := s.checkUser(ctx, c, name); err != nil {
		return issued{}, err
	}
	return s.redeemGrant(ctx, name, redemption{
		client: c.ID, secret: secret, device: true, target: s.target(p), first: randomBytes(secretSize),
	})
}

// pollDevice returns the grant that a person has approved for the device code,
// or says what its client has to know meanwhile. The pace is kept in the
// record, so that it is one on all instances.
func (s *Server) pollDevice(ctx context.Context, c *client, key string, secret []byte) (name grantName, err error) {
	var answer error
	err = s.changeDevice(ctx, key, func(d *device, expires time.Time) (time.Time, error) {
		now := s.now().UnixMilli()
		switch {
		case d.Client != c.ID || !sameMark(d.Hash, hash(secret)):
			return time.Time{}, errGrantOver
		case d.Denied:
			return time.Time{}, errDenied
		case d.Grant != "":
			name = grantName(d.Grant)
			return time.Time{}, errUnchanged
		}
		answer = errPending
		// Clocks of instances may differ; one that is behind is not early.
		if since := now - d.Polled; since >= 0 && since < d.Interval-deviceJitter.Milliseconds() {
			answer = slowDown(d.Interval)
			if d.Interval >= deviceSlowest.Milliseconds() { // who does not listen shall not make the store work
				return time.Time{}, answer
			}
			d.Interval = min(d.Interval+deviceSlower.Milliseconds(), deviceSlowest.Milliseconds())
			answer = slowDown(d.Interval)
		}
		d.Polled = now
		return expires, nil
	})
	switch {
	case errors.Is(err, errUnchanged):
		return name, nil
	case errors.Is(err, store.ErrNotFound):
		return "", errDeviceExpired // it opened, so it was minted here
	case err != nil:
		return "", err
	}
	return "", answer
}

func slowDown(interval int64) *oauthError {
	return &oauthError{Code: codeSlowDown, Description: fmt.Sprintf("ask every %d seconds at most", interval/1000)}
}

// findDevice returns the device code of a user code, with its key. The error is
// store.ErrNotFound where there is none.
func (s *Server) findDevice(ctx context.Context, userCode string) (key string, d *device, err error) {
	for _, key := range s.keys.deviceKeys(userCode) {
		stored, err := s.store.Get(ctx, key)
		if errors.Is(err, store.ErrNotFound) {
			continue
		}
		if err != nil {
			return "", nil, storeError("read device code", err)
		}
		d, err := s.openDevice(stored)
		return key, d, err
	}
	return "", nil, store.ErrNotFound
}

// approveDevice lets the client of a device code collect a grant. The grant is
// committed first: a device code that says approved can always be redeemed. Of
// two people who approve one code, the first one has.
func (s *Server) approveDevice(ctx context.Context, c *client, req *authRequest, a *account) (grantName, error) {
	key, d, err := s.findDevice(ctx, req.Device)
	if err != nil {
		return "", err
	}
	if !d.pending() || d.Client != c.ID || !slices.Equal(d.Scopes, req.Scopes) {
		return "", store.ErrNotFound
	}
	until := s.now().Add(max(deviceClaim, deviceTTL-s.now().Sub(time.UnixMilli(d.Asked))))
	name, err := s.createGrant(ctx, a.Subject, &grant{
		ClientID: c.ID, Resource: s.site.resource, Scopes: req.Scopes, Organization: req.Organization, Refreshable: c.allowsRefresh(req.Scopes),
		Code: pendingCode{Hash: d.Hash, Device: true, Expires: until.UnixMilli()},
	})
	if err != nil {
		return "", err
	}
	err = s.changeDevice(ctx, key, func(d *device, expires time.Time) (time.Time, error) {
		if !d.pending() {
			return time.Time{}, store.ErrNotFound
		}
		d.Grant = string(name)
		return later(expires, until), nil
	})
	if errors.Is(err, store.ErrNotFound) {
		// Nobody can collect it, and it would be shown as if somebody could.
		if err := s.store.Delete(ctx, name.key()); err != nil {
			s.log.WarnContext(ctx, "grant of a device code that was answered meanwhile not deleted", "error", err)
		}
	}
	return name, err
}

// denyDevice tells the client of a device code that a person refused.
func (s *Server) denyDevice(ctx context.Context, userCode string) error {
	key, _, err := s.findDevice(ctx, userCode)
	if err != nil {
		return err
	}
	return s.changeDevice(ctx, key, func(d *device, expires time.Time) (time.Time, error) {
		if !d.pending() {
			return time.Time{}, store.ErrNotFound
		}
		d.Denied = true
		return expires, nil
	})
}

// request is what a person is asked about a device code.
func (d *device) request(userCode string) *authRequest {
	return &authRequest{Client: d.Client, Scopes: d.Scopes, Device: userCode, From: d.From, Asked: d.Asked, Flight: d.Flight}
}

// elsewhere reports whether a device asked from another network than addr's.
func elsewhere(from string, addr netip.Addr) bool {
	asked, err := netip.ParseAddr(from)
	return err == nil && newParty(asked, "") != newParty(addr, "")
}
