package clerk

import (
	"context"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
)

const (
	keysAge     = time.Hour        // keys older than that are read again before they are used
	keysPause   = 30 * time.Second // between two reads, whatever key ids are presented
	keysRetry   = 2 * time.Second  // after a failed read
	maxKeys     = 32
	minModulus  = 2048
	maxModulus  = 8192
	maxExponent = 1<<31 - 1
)

var (
	errSignature  = errors.New("the signature is not by a key of the issuer")
	errKeysFailed = errors.New("Clerk's keys can't be read")
)

// keySet holds Clerk's public keys. It implements oidc.KeySet; unlike that
// package's own it reads them at most once an interval, so that tokens with
// made-up key ids can't be turned into requests to Clerk.
type keySet struct {
	reads shared[[]jose.JSONWebKey]

	mu     sync.Mutex
	keys   []jose.JSONWebKey
	readAt time.Time // of keys
	next   time.Time // no read before
	failed bool      // the last read did
}

// verifier checks one token. It keeps its error, which go-oidc would flatten
// to a text.
type verifier struct {
	clerk *Clerk
	jwks  string
	err   error
}

// VerifySignature implements oidc.KeySet.
func (v *verifier) VerifySignature(ctx context.Context, token string) (payload []byte, err error) {
	payload, err = v.verify(ctx, token)
	v.err = err
	return payload, err
}

func (v *verifier) verify(ctx context.Context, token string) ([]byte, error) {
	// The algorithm was restricted before, and is again here.
	jws, err := jose.ParseSignedCompact(token, []jose.SignatureAlgorithm{jose.RS256})
	if err != nil || len(jws.Signatures) != 1 {
		return nil, errSignature
	}
	keys, err := v.clerk.currentKeys(ctx, v.jwks, false)
	if err != nil {
		return nil, err
	}
	if payload, ok := verifyWith(keys, jws); ok {
		return payload, nil
	}
	// An unknown key may be a new one.
	if keys, err = v.clerk.currentKeys(ctx, v.jwks, true); err != nil {
		return nil, err
	}
	if payload, ok := verifyWith(keys, jws); ok {
		return payload, nil
	}
	return nil, errSignature
}

// verifyWith tries every key of the token's id: duplicates happen in a rotation.
func verifyWith(keys []jose.JSONWebKey, jws *jose.JSONWebSignature) ([]byte, bool) {
	kid := jws.Signatures[0].Header.KeyID
	for i := range keys {
		if kid != "" && keys[i].KeyID != kid {
			continue
		}
		if payload, err := jws.Verify(keys[i].Key); err == nil {
			return payload, true
		}
	}
	return nil, false
}

// currentKeys returns the keys, from memory where that will do. With unknown
// set they are read again unless that happened within the interval.
func (c *Clerk) currentKeys(ctx context.Context, jwks string, unknown bool) ([]jose.JSONWebKey, error) {
	k := &c.keys
	now := c.now()
	k.mu.Lock()
	keys, failed := k.keys, k.failed
	age := now.Sub(k.readAt)
	paused := now.Before(k.next) && k.next.Sub(now) <= keysPause
	k.mu.Unlock()
	if keys != nil && !unknown && age >= 0 && age < keysAge {
		return keys, nil
	}
	if paused {
		if keys == nil || unknown && failed {
			// The key may be a new one that can't be read now.
			return nil, unavailable("check a signature", errKeysFailed)
		}
		return keys, nil
	}
	read, err := k.reads.do(ctx, c, jwks, func(ctx context.Context) ([]jose.JSONWebKey, error) {
		ctx, cancel := context.WithTimeout(ctx, oidcTimeout)
		defer cancel()
		return c.readKeys(ctx, jwks)
	}, func(keys []jose.JSONWebKey, err error) {
		k.mu.Lock()
		defer k.mu.Unlock()
		if k.failed = err != nil; k.failed {
			k.next = c.now().Add(keysRetry)
			return
		}
		k.keys, k.readAt, k.next = keys, c.now(), c.now().Add(keysPause)
	})
	if err != nil {
		c.log.Warn("Clerk's keys can't be read", "error", err, "known", len(keys))
		if keys != nil && !unknown {
			return keys, nil
		}
		return nil, err
	}
	return read, nil
}

// readKeys reads the key set and keeps what can check RS256. Keys of other
// kinds are skipped (RFC 7517 section 5); a set without any is a failure.
func (c *Clerk) readKeys(ctx context.Context, jwks string) ([]jose.JSONWebKey, error) {
	const what = "read Clerk's keys"
	body, err := c.getJSON(ctx, what, jwks)
	if err != nil {
		return nil, err
	}
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(body, &set); err != nil {
		return nil, unavailable(what, errors.New("the answer can't be read"))
	}
	var keys []jose.JSONWebKey
	for _, raw := range set.Keys {
		var key jose.JSONWebKey
		if len(keys) == maxKeys || json.Unmarshal(raw, &key) != nil || !usable(&key) {
			continue
		}
		keys = append(keys, key)
	}
	if len(keys) == 0 {
		return nil, unavailable(what, errors.New("there is no RSA signing key among them"))
	}
	return keys, nil
}

func usable(k *jose.JSONWebKey) bool {
	pub, ok := k.Key.(*rsa.PublicKey)
	return ok && (k.Use == "" || k.Use == "sig") && (k.Algorithm == "" || k.Algorithm == string(jose.RS256)) &&
		pub.N.BitLen() >= minModulus && pub.N.BitLen() <= maxModulus && pub.E > 1 && pub.E <= maxExponent
}
