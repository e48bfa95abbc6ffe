package server

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/mcp-clerk/mcp-clerk/internal/authserver"
	"github.com/mcp-clerk/mcp-clerk/internal/clerk"
	"github.com/mcp-clerk/mcp-clerk/internal/mcphttp"
	"github.com/mcp-clerk/mcp-clerk/internal/secret"
)

// Secret is a text that never shows itself when it is formatted, logged or
// marshalled. Convert a string to it: server.Secret(os.Getenv("…")).
type Secret = secret.String

// Options configure a Server. What is marked required has no default; the zero
// value of everything else is the strict choice.
type Options struct {
	Name         string // of the server, as clients and the consent page show it; default "mcp-clerk"
	Title        string // for people; default Name
	Version      string // of the server; default "0.0.0"
	Instructions string // for the model: what the server is for and how its tools go together
	WebsiteURL   string // about the server, shown by some clients

	// PublicURL is where clients reach the server, and its OAuth issuer:
	// https, or http on a loopback name. It may have a path prefix. Required;
	// it is never taken from a request.
	PublicURL string
	// ResourcePath is the path of the MCP endpoint below PublicURL; default
	// "/mcp".
	ResourcePath string
	// Public lets callers in who have not signed in, for what RequireNothing
	// gives to everyone. They see the lists of what every user may have; for
	// what needs an account they are asked to sign in.
	Public bool
	// NoSSE turns the deprecated HTTP+SSE transport of revision 2024-11-05 off,
	// which is served at /sse and /sse/message for clients that know no other.
	NoSSE bool

	// Store is where grants and clients are kept: "bolt:PATH" for a file of
	// this process, "redis://…" or "postgres://…" for a database that several
	// instances share, "memory:" for nothing that outlives the process. It may
	// hold a password. Required.
	Store Secret
	// Keys seal tokens, cookies and session ids: hex keys as made by
	// `openssl rand -hex 32`, comma-separated; the first one seals, all of
	// them open. Required.
	Keys Secret

	Clerk ClerkOptions

	// AuthorizationServer says who gives the MCP clients their tokens:
	// AuthorizationServerBuiltin (the default), this server; or
	// AuthorizationServerClerk, the Clerk instance, in which case this server
	// has no page and no endpoint of an authorization server, and Clients and
	// the lives of tokens are Clerk's to decide.
	AuthorizationServer string
	// APIKeys lets programs in with API keys that users make at Clerk. They get
	// what their user may have at that time.
	APIKeys bool
	// Machines are the callers that are no persons. Nobody but them is let in
	// with an organisation's API key or a machine's token.
	Machines []Machine

	Clients ClientOptions

	// TrustedProxies are the addresses and networks of reverse proxies, whose
	// X-Forwarded-For header says whom a request is counted against. It has no
	// say in anything else, and a loopback address is trusted only if it is
	// named here.
	TrustedProxies []string

	// Allowed says who may use the server at all; default everyone who can
	// sign in at Clerk. It is asked before a client gets a code, and again at
	// each request: who does not qualify any more is out within 60 seconds.
	Allowed Allowed

	AccessTokenTTL  time.Duration // default 1 h, at most 24 h
	RefreshGrace    time.Duration // how long a superseded refresh token still works; default 30 min, negative: not at all
	RefreshIdle     time.Duration // life of a refresh token that is not used; default 30 days
	RefreshAbsolute time.Duration // life of a grant; default 180 days

	// AllowedOrigins are web origins besides PublicURL's that browsers may
	// call the MCP endpoint from; "*" allows every one.
	AllowedOrigins []string
	// DrainDelay is how long, when Serve is to end, /readyz says so while all
	// else goes on, so that a balancer that asks it sends nobody here any more;
	// default none, at most 5 minutes.
	DrainDelay time.Duration
	MaxBody    int64 // bytes of a request to the MCP endpoint; default 4 MiB
	// UserRate is how many requests a second one user may send to the MCP
	// endpoint, with bursts of twenty times that; default 100, negative: no
	// limit. Beyond it there is a 429 with Retry-After, for that user alone.
	UserRate float64

	Logger *slog.Logger     // nil: silent
	Now    func() time.Time // nil: time.Now
}

// Client is a client that is known without registering: a public one, or one
// that authenticates with a secret or with keys.
type Client = authserver.Client

// The policies of admission, see ClientOptions.
const (
	AdmitOpen       = string(authserver.AdmitOpen)
	AdmitListed     = string(authserver.AdmitListed)
	AdmitConfigured = string(authserver.AdmitConfigured)
)

// ClientOptions say which MCP clients may use the server. One policy holds for
// those that register (RFC 7591), those whose id is the address of a document
// that describes them, and those that are known beforehand.
type ClientOptions struct {
	// Admission is AdmitOpen (the default: every client with safe redirect
	// URIs), AdmitListed (those whose documents and redirect URIs are on
	// AdmittedHosts) or AdmitConfigured (Known, and the one built in for
	// mcp-clerk connect).
	Admission string
	// AdmittedHosts are host names, names with "*." in front for all below,
	// and "loopback" for redirects to the user's own machine by clients that
	// prove no domain.
	AdmittedHosts []string
	Known         []Client
	// PrivateRedirects are redirect URIs with a private-use scheme (RFC 8252
	// section 7.1) that clients may use, beside those of clients in use.
	PrivateRedirects []string
	// RegistrationToken must be carried by registrations (RFC 7591 section 3),
	// if it is set; at least 32 characters.
	RegistrationToken Secret
	// NoDevice switches the device authorization grant (RFC 8628) off, by which
	// people connect a machine that has no browser.
	NoDevice bool
	// LoopbackDocuments allows documents and keys of clients to be fetched from
	// this machine, also by http: for development.
	LoopbackDocuments bool
}

// authserver is o with the options that the authorization server shares.
func (o ClientOptions) authserver(publicURL string) authserver.Options {
	return authserver.Options{
		PublicURL:         publicURL,
		Admission:         authserver.Admission(o.Admission),
		AdmittedHosts:     o.AdmittedHosts,
		Clients:           o.Known,
		PrivateRedirects:  o.PrivateRedirects,
		RegistrationToken: o.RegistrationToken,
		LoopbackDocuments: o.LoopbackDocuments,
		NoDevice:          o.NoDevice,
	}
}

// ClerkOptions say which Clerk instance users sign in at, and as what this
// server is known there.
type ClerkOptions struct {
	ClientID     string // of the OAuth application in Clerk; required, unless Clerk is the authorization server
	ClientSecret Secret // of the OAuth application; likewise
	SecretKey    Secret // of the instance, "sk_…", for users and roles; required
	// FrontendAPI is the instance's Frontend API, a host or a URL. Required,
	// unless PublishableKey is set, which contains it.
	FrontendAPI    string
	PublishableKey string
	// APIURL is the Backend API without "/v1"; default Clerk's.
	APIURL string
	// AcceptNoAudience accepts JWTs of Clerk's that do not say for which resource
	// they were made, as where the instance does not include their audience.
	// They may have been made for any other server of the instance. Opaque tokens
	// never say it, and are accepted.
	AcceptNoAudience bool
	// RequireScopes demands of Clerk's access tokens the scopes that this server
	// demands of its own: "mcp:tools", and those of RequireScope. They must be
	// there at Clerk as custom scopes. Otherwise no token of Clerk's is limited
	// by scopes.
	RequireScopes bool
	// MachineSecretKey is the secret of the machine that this server is at
	// Clerk, "ak_…". It is required where Machines names a machine: Clerk then
	// refuses tokens that were made for others.
	MachineSecretKey Secret
	// WebhookSecret is the signing secret of Clerk's webhooks to PublicURL's
	// "/webhooks/clerk", "whsec_…". "": none are taken, and changes at Clerk
	// take up to 60 seconds to count.
	WebhookSecret Secret
	// RoleKey says where a user's roles lie in their public metadata: the name
	// of a member, or names with dots between them; default "role".
	RoleKey string
	// RoleRules give roles by what else a user is at Clerk.
	RoleRules []RoleRule
	// HTTPClient lends its Transport to the requests to Clerk. nil: the
	// default transport.
	HTTPClient *http.Client
}

// The values of Options.AuthorizationServer.
const (
	AuthorizationServerBuiltin = "builtin"
	AuthorizationServerClerk   = "clerk"
)

// Machine is a caller that is no person: a machine of the Clerk instance
// ("mch_…"), with its machine-to-machine tokens, or an organisation ("org_…"),
// with its API keys.
type Machine struct {
	ID    string
	Roles []string // what it may use beside that which needs no role
}

// RoleRule gives Role to everyone who holds From at Clerk: a role of public
// metadata ("boss"), a role or permission in an organization ("org:admin"), or
// one in a certain organization ("org:admin@org_2x…").
type RoleRule = clerk.RoleRule

// ParseRoleRules reads rules written as FROM=ROLE, separated by commas.
func ParseRoleRules(text string) ([]RoleRule, error) { return clerk.ParseRoleRules(text) }

// OptionError is one fault of the configuration.
type OptionError struct {
	Setting string // the environment variable or flag that sets the option
	Problem string // what is wrong with it; never its value where that is secret
	Fix     string // what to do
}

func (e *OptionError) Error() string {
	return fmt.Sprintf("%s: %s: %s", e.Setting, e.Problem, e.Fix)
}

// Validate reports every fault of o at once, as errors.Join of *OptionError,
// or nil.
func (o Options) Validate() error {
	var v validation
	loopback := v.publicURL(o.PublicURL)
	v.resourcePath(o.ResourcePath, o.NoSSE)
	v.store(o.Store.Reveal())
	v.keys(o.Keys, loopback)
	v.clerk(o.Clerk, o.byClerk())
	v.tokens(o)
	for _, err := range unjoin(authserver.ValidateClients(o.Clients.authserver(o.PublicURL))) {
		v.fault("clients", err.Error(), "see docs/clients.md")
	}
	if _, err := parseProxies(o.TrustedProxies); err != nil {
		v.fault("--trusted-proxy", err.Error(), "use an address or a network, as in 10.0.0.0/8")
	}
	v.allowed(o.Allowed)
	if o.AccessTokenTTL < 0 || o.AccessTokenTTL > 24*time.Hour {
		v.fault("--access-token-ttl", fmt.Sprintf("%v is not between 0 and 24h", o.AccessTokenTTL), "use a life such as 1h")
	}
	if o.RefreshIdle < 0 || o.RefreshAbsolute < 0 {
		v.fault("refresh token life", "is negative", "leave it out or use a positive duration")
	}
	if o.DrainDelay < 0 || o.DrainDelay > 5*time.Minute {
		v.fault("--drain-delay", fmt.Sprintf("%v is not between 0 and 5m", o.DrainDelay), "use one such as 10s, or none")
	}
	if math.IsNaN(o.UserRate) {
		v.fault("--user-rate", "is not a number", "leave it out or use one such as 100")
	}
	if o.MaxBody < 0 {
		v.fault("MaxBody", "is negative", "leave it out or use a positive number of bytes")
	}
	for _, origin := range o.AllowedOrigins {
		if u, err := url.Parse(origin); origin != "*" && (err != nil || u.Scheme == "" || u.Host == "" || strings.Trim(u.Path, "/") != "" || u.RawQuery != "") {
			v.fault("AllowedOrigins", fmt.Sprintf("%q is not an origin", origin), "use scheme, host and port only, as in https://app.example.com")
		}
	}
	return errors.Join(v.faults...)
}

// userRate is UserRate with its burst, in which there is always room for a
// request.
func (o *Options) userRate() mcphttp.Rate {
	if o.UserRate == 0 {
		return mcphttp.Rate{} // the default
	}
	return mcphttp.Rate{PerSecond: o.UserRate, Burst: int(min(max(1, 20*o.UserRate), 1e9))}
}

// validation collects faults.
type validation struct{ faults []error }

func (v *validation) fault(setting, problem, fix string) {
	v.faults = append(v.faults, &OptionError{setting, problem, fix})
}

// publicURL checks the public URL and reports whether it is on loopback.
func (v *validation) publicURL(s string) (loopback bool) {
	const setting = "PUBLIC_URL"
	if strings.TrimSpace(s) == "" {
		v.fault(setting, "missing", "set it to the URL that clients use, such as https://mcp.example.com")
		return false
	}
	u, err := url.Parse(s)
	switch {
	case err != nil || u.Hostname() == "" || u.Opaque != "" || u.Scheme != "https" && u.Scheme != "http":
		v.fault(setting, fmt.Sprintf("%q is not an http or https URL", s), "set it to a URL such as https://mcp.example.com")
		return false
	case u.User != nil:
		v.fault(setting, "contains a user name or password", "leave it out")
		return false
	case u.RawQuery != "" || u.ForceQuery || strings.Contains(s, "#"):
		v.fault(setting, fmt.Sprintf("%q has a query or a fragment", s), "leave it out")
		return false
	}
	loopback = isLoopback(u.Hostname())
	if u.Scheme == "http" && !loopback {
		v.fault(setting, fmt.Sprintf("%q is http on a host other than this machine, where tokens could be read on the way", s), "use https; TLS may end at a proxy in front of the server")
	}
	if p := strings.TrimSuffix(u.EscapedPath(), "/"); p != "" && (path.Clean(p) != p || strings.ContainsAny(p, "%{}")) {
		v.fault(setting, fmt.Sprintf("%q has a path with dots, double slashes or escapes", s), "use a plain path or none")
	}
	return loopback
}

// ownPaths are taken by the authorization server and by this package.
var ownPaths = []string{"/authorize", "/consent", "/callback", "/token", "/register", "/revoke", "/introspect", "/jwks.json", webhookPath, "/healthz", "/readyz"}

func (v *validation) resourcePath(p string, noSSE bool) {
	const setting, fix = "ResourcePath", `use one such as "/mcp"`
	switch {
	case p == "":
	case !strings.HasPrefix(p, "/") || path.Clean(p) != p || p == "/" || strings.ContainsAny(p, "{}%?# "):
		v.fault(setting, fmt.Sprintf("%q is not a clean absolute path", p), fix)
	case !noSSE && (p == ssePath || p == ssePath+"/message"):
		v.fault(setting, fmt.Sprintf("%q is a path of the HTTP+SSE transport", p), "use another, or turn that transport off")
	case slices.Contains(ownPaths, p) || strings.HasPrefix(p, "/.well-known"):
		v.fault(setting, fmt.Sprintf("%q is a path of the authorization server", p), fix)
	}
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return strings.EqualFold(host, "localhost") || ip != nil && ip.IsLoopback()
}

func (v *validation) keys(keys Secret, loopback bool) {
	const setting = "COOKIE_ENCRYPTION_KEY"
	if strings.Trim(keys.Reveal(), ", \t\r\n") == "" {
		v.fault(setting, "missing", "make one with: openssl rand -hex 32")
		return
	}
	_, _, err := authserver.ParseKeys(keys, loopback)
	for _, e := range unjoin(err) {
		problem, fix, found := strings.Cut(e.Error(), ": ")
		if !found {
			fix = "make one with: openssl rand -hex 32"
		}
		v.fault(setting, problem, fix)
	}
}

// unjoin undoes errors.Join.
func unjoin(err error) []error {
	if err == nil {
		return nil
	}
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return []error{err}
	}
	var all []error
	for _, e := range joined.Unwrap() {
		all = append(all, unjoin(e)...)
	}
	return all
}

func (v *validation) clerk(o ClerkOptions, byClerk bool) {
	const dashboard = "copy it from the OAuth application in Clerk's dashboard (Configure, OAuth applications)"
	if !byClerk {
		if strings.TrimSpace(o.ClientID) == "" {
			v.fault("CLERK_CLIENT_ID", "missing", dashboard)
		}
		v.secret("CLERK_CLIENT_SECRET", o.ClientSecret, dashboard)
	}
	if key := o.SecretKey.Reveal(); strings.HasPrefix(key, "pk_") {
		v.fault("CLERK_SECRET_KEY", "this is the publishable key", "set it to the secret key, which starts with sk_")
	} else {
		v.secret("CLERK_SECRET_KEY", o.SecretKey, "copy the secret key from Clerk's dashboard (Configure, API keys); it starts with sk_")
	}
	frontend, err := o.frontendAPI()
	switch {
	case err != nil:
		v.fault("CLERK_PUBLISHABLE_KEY", "not a publishable key", err.Error())
	case frontend == "":
		v.fault("CLERK_FRONTEND_API", "missing", "set it to the Frontend API URL of the instance, such as https://verb-noun-00.clerk.accounts.dev (Configure, API keys), or set CLERK_PUBLISHABLE_KEY")
	default:
		v.endpoint("CLERK_FRONTEND_API", frontend, "https://verb-noun-00.clerk.accounts.dev")
	}
	if o.APIURL != "" {
		v.endpoint("CLERK_API_URL", o.APIURL, "https://api.clerk.com")
	}
	if o.WebhookSecret != "" {
		if _, err := clerk.NewWebhooks(o.WebhookSecret, wallClock); err != nil {
			v.fault("CLERK_WEBHOOK_SECRET", "not a signing secret", "copy it from the endpoint in Clerk's dashboard (Configure, Webhooks): "+err.Error())
		}
	}
	if slices.Contains(strings.Split(o.RoleKey, "."), "") && o.RoleKey != "" {
		v.fault("ROLE_KEY", fmt.Sprintf("%q has an empty part", o.RoleKey), `use a name, or names with dots between them, as in "mcp.role"`)
	}
	for _, rule := range o.RoleRules {
		if rule.Check() != nil {
			v.fault("ROLE_MAP", fmt.Sprintf("the rule %q=%q names no role", rule.From, rule.Role), "write FROM=ROLE, as in org:admin=admin")
		}
	}
}

// frontendAPI is the Frontend API of the options, or what is wrong with the
// key that would name it.
func (o ClerkOptions) frontendAPI() (string, error) {
	if o.FrontendAPI != "" || o.PublishableKey == "" {
		return strings.TrimSpace(o.FrontendAPI), nil
	}
	return clerk.FrontendAPIFromPublishableKey(o.PublishableKey)
}

func (v *validation) secret(setting string, s Secret, fix string) {
	switch text := s.Reveal(); {
	case strings.TrimSpace(text) == "":
		v.fault(setting, "missing", fix)
	case strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r >= 0x7f }):
		v.fault(setting, "contains white space or a character that is not ASCII", fix)
	}
}

// endpoint checks a URL that secrets are sent to.
func (v *validation) endpoint(setting, s, example string) {
	if !strings.Contains(s, "://") {
		s = "https://" + s
	}
	u, err := url.Parse(s)
	switch {
	case err != nil || u.Hostname() == "" || strings.ContainsAny(s, " \\"):
		v.fault(setting, "not a host or URL", "use one such as "+example)
	case u.User != nil:
		v.fault(setting, "contains a user name or password", "use a URL such as "+example)
	case u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		v.fault(setting, fmt.Sprintf("%q has a query or a fragment", s), "use a URL such as "+example)
	case u.Scheme != "https" && !(u.Scheme == "http" && isLoopback(u.Hostname())):
		v.fault(setting, fmt.Sprintf("%q is not https", s), "use a URL such as "+example)
	}
}

func (o Options) withDefaults() Options {
	o.Name = cmp.Or(o.Name, "mcp-clerk")
	o.Title = cmp.Or(o.Title, o.Name)
	o.Version = cmp.Or(o.Version, "0.0.0")
	o.ResourcePath = cmp.Or(o.ResourcePath, "/mcp")
	o.Allowed = o.Allowed.normal()
	o.PublicURL = strings.TrimRight(o.PublicURL, "/")
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = wallClock
	}
	return o
}
