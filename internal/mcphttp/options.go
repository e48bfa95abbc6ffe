package mcphttp

import (
	"context"
	"log/slog"
	"net/http"
	"net/netip"
	"time"
)

// Options configure a Server. Handler, Verifier, Challenge and Keys are
// required; the zero value of everything else is a strict default.
type Options struct {
	Handler  Handler
	Verifier Verifier

	// Challenge returns the value of WWW-Authenticate for a refused request.
	// code is the error code of RFC 6750 section 3.1 (invalid_request,
	// invalid_token, insufficient_scope), or empty when the request carried
	// no credentials; scopes is what a *ScopeError named.
	Challenge func(r *http.Request, code string, scopes []string) string

	// Anonymous lets requests without an Authorization header through to the
	// Handler, without a principal in the context. A Handler then refuses
	// what needs a user by an error that wraps identity.ErrInvalidToken.
	Anonymous bool

	// Keys seal session ids, at least 16 bytes each: the first one seals, all
	// of them open. The keys proper are derived from them.
	Keys [][]byte

	// Sessions keeps what sessions changed. Nil keeps it in this process.
	Sessions SessionStore

	// Mailbox reaches the other instances of this server; nil if there are none.
	Mailbox Mailbox

	// Listen is asked which of the wanted notifications a new
	// subscriptions/listen stream will get. ctx ends with the stream. An
	// error refuses the stream, as an error of Handler does. Nil grants all.
	Listen func(ctx context.Context, call *Call, want Filter) (Filter, error)

	// Hears is asked, as a resources/updated is about to go out, whether the
	// caller in ctx may know of the resource; those who may not hear nothing.
	// It may ask elsewhere, within limits of its own. Nil: everyone who
	// subscribed may.
	Hears func(ctx context.Context, uri string) bool

	// Quick says of a tool that a call of it computes and waits for nothing that
	// could take long. The Handler then runs on the goroutine of the connection,
	// without keep-alive comments, and can be neither cancelled nor left to
	// itself. Nil: none is.
	Quick func(tool string) bool

	// PublicURL is the URL of the endpoint as clients know it. Its origin is
	// allowed as Origin and its host as Host.
	PublicURL string
	// AllowedOrigins are further web origins ("https://app.example.com") that
	// browsers may call from; "*" allows every one. When PublicURL is on
	// loopback, so are all loopback origins.
	AllowedOrigins []string
	// AllowedHosts are further names under which a loopback listener may be
	// called (host or host:port).
	AllowedHosts []string

	MaxBody   int64 // bytes of a request body; default 4 MiB
	MaxResult int   // bytes of a response message; default 64 MiB

	// UserRate is what one user may send; default 100 requests a second, 2,000 at once.
	UserRate Rate
	// AddressRate is what one address (an IPv6 /64) may send without a valid
	// token; default 20 requests a second, 500 at once, and for loopback more.
	AddressRate Rate
	// ClientAddr says whom to count a request against; nil: the peer of the
	// connection.
	ClientAddr func(*http.Request) netip.Addr

	SessionTTL      time.Duration // life of a session id; default 7 days
	KeepAlive       time.Duration // silence on a stream before a comment is sent; default 15 s
	ReadTimeout     time.Duration // for a request body; default 30 s
	WriteTimeout    time.Duration // for one write to a client that does not read; default 60 s
	DetachedTimeout time.Duration // how long a legacy call goes on after its client went, and its stream is kept for it; default 2 min

	Logger *slog.Logger     // default: discards
	Now    func() time.Time // default: time.Now
}
