package oauthclient

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"errors"
	"fmt"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

// methodPrivateKey is the authentication by a signed JWT (RFC 7523 section
// 2.2, OpenID Connect Core section 9).
const methodPrivateKey = "private_key_jwt"

// assertionLife is how long an assertion may be used, once.
const assertionLife = 2 * time.Minute

// assertion proves the presence of the client to the authorization server that
// it is addressed to: the issuer, and not the endpoint, so that no other server
// can be made to accept it (RFC 7523 as updated by rfc7523bis section 4).
func (c *Client) assertion(r registration) (string, error) {
	if c.opts.ClientKey == nil {
		return "", errors.New("the client's private key is needed, and none is given")
	}
	algorithm, err := signingAlgorithm(c.opts.ClientKey)
	if err != nil {
		return "", err
	}
	options := (&jose.SignerOptions{}).WithType("JWT")
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: algorithm, Key: c.opts.ClientKey}, options)
	if err != nil {
		return "", errors.New("the client's private key cannot sign") // the cause may quote it
	}
	now := c.opts.Now()
	token, err := jwt.Signed(signer).Claims(jwt.Claims{
		Issuer: r.ClientID, Subject: r.ClientID, Audience: jwt.Audience{r.Audience}, ID: randomText(),
		IssuedAt: jwt.NewNumericDate(now), Expiry: jwt.NewNumericDate(now.Add(assertionLife)),
	}).Serialize()
	if err != nil {
		return "", errors.New("the client's private key cannot sign")
	}
	return token, nil
}

// signingAlgorithm is the one that servers take most often for a key's type.
func signingAlgorithm(key crypto.Signer) (jose.SignatureAlgorithm, error) {
	switch public := key.Public().(type) {
	case *ecdsa.PublicKey:
		switch public.Curve {
		case elliptic.P256():
			return jose.ES256, nil
		case elliptic.P384():
			return jose.ES384, nil
		case elliptic.P521():
			return jose.ES512, nil
		}
	case *rsa.PublicKey:
		if public.N.BitLen() >= 2048 {
			return jose.RS256, nil
		}
	case ed25519.PublicKey:
		return jose.EdDSA, nil
	}
	return "", fmt.Errorf("the client's private key is of a kind that no server takes: %T", key.Public())
}
