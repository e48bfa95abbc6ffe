package main

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/mcp-clerk/mcp-clerk/internal/oauthclient"
	"github.com/mcp-clerk/mcp-clerk/internal/secret"
)

// signInOptions say how an account is signed in to; connect and login share
// them. Those that mcp-remote has, too, have its names and meaning.
type signInOptions struct {
	Scope     string
	NoBrowser bool
	TokenFile string

	Device            bool
	ClientCredentials bool
	TokenEndpoint     string
	UseIDToken        bool

	ClientID          string
	ClientSecretFile  string
	ClientKeyFile     string
	ClientMetadataURL string
	StaticMetadata    string
	StaticInfo        string

	Resource        string
	NoResource      bool
	AuthorizeParams []string

	CallbackPort int
	CallbackHost string
	CallbackPath string
	CallbackBind string
	CallbackURL  string
	SuccessURL   string
	AuthTimeout  float64
	AllowPrivate bool
}

func (o *signInOptions) bind(f *pflag.FlagSet) {
	f.StringVar(&o.Scope, "scope", "", "scopes to ask for, space-separated, instead of what the server names")
	f.BoolVar(&o.NoBrowser, "no-browser", false, "print the sign-in URL on standard error and open no browser")
	f.StringVar(&o.TokenFile, "token-file", "", "file with a ready bearer token, for CI (or set MCP_CLERK_TOKEN)")

	f.BoolVar(&o.Device, "device", false, "sign in by a code that is entered in a browser on any machine (RFC 8628)")
	f.BoolVar(&o.Device, "device-code", false, "the same as --device")
	_ = f.MarkHidden("device-code") // it fails for unknown flags only
	f.BoolVar(&o.ClientCredentials, "client-credentials", false, "sign in as the client itself, without a user (RFC 6749 section 4.4)")
	f.StringVar(&o.TokenEndpoint, "token-endpoint", "", "with --client-credentials: where tokens are had, instead of what the server publishes")
	f.BoolVar(&o.UseIDToken, "use-id-token", false, "send the id_token as bearer token")

	f.StringVar(&o.ClientID, "client-id", "", "a client that was registered beforehand; its secret comes from MCP_CLERK_CLIENT_SECRET or --client-secret-file")
	f.StringVar(&o.ClientSecretFile, "client-secret-file", "", "file with that client's secret")
	f.StringVar(&o.ClientKeyFile, "client-key-file", "", "PEM file with that client's private key, for private_key_jwt")
	f.StringVar(&o.ClientMetadataURL, "client-metadata-url", "", "URL of the client metadata document that describes this program")
	f.StringVar(&o.StaticMetadata, "static-oauth-client-metadata", "", "client metadata to register with, as JSON or @FILE")
	f.StringVar(&o.StaticInfo, "static-oauth-client-info", "", `a client that was registered beforehand, as JSON or @FILE; ${NAME} is taken from the environment`)

	f.StringVar(&o.Resource, "resource", "", "resource to ask a token for, instead of what the server publishes (RFC 8707)")
	f.BoolVar(&o.NoResource, "disable-resource-parameter", false, "send no resource parameter, for servers that refuse it")
	f.StringArrayVar(&o.AuthorizeParams, "authorize-param", nil, "further parameter of the authorization request, as name=value (repeatable)")

	f.StringVar(&o.CallbackHost, "host", "", "host in the redirect URI (default 127.0.0.1)")
	f.StringVar(&o.CallbackPath, "callback-path", "", "path of the redirect URI (default /oauth/callback)")
	f.StringVar(&o.CallbackBind, "callback-bind", "", "address to listen on for the browser, in a container (default 127.0.0.1)")
	f.StringVar(&o.CallbackURL, "callback-url", "", "redirect URI as the browser reaches it, where a port is forwarded")
	f.StringVar(&o.SuccessURL, "auth-success-url", "", "page that the browser goes to after a sign-in that worked")
	f.Float64Var(&o.AuthTimeout, "auth-timeout", 0, "seconds to wait for the browser (default 300)")
	f.BoolVar(&o.AllowPrivate, "allow-private", false, "let a public server lead to authorization servers at private addresses")
}

// port reads the second argument, as mcp-remote has it.
func (o *signInOptions) port(args []string) error {
	if len(args) < 2 {
		return nil
	}
	port, err := strconv.Atoi(args[1])
	if err != nil || port < 1 || port > 65535 {
		return usagef("%q is not a port for the browser's answer", args[1])
	}
	o.CallbackPort = port
	return nil
}

// apply puts the flags into the options of a client.
func (o *signInOptions) apply(options *oauthclient.Options, env *environment) error {
	var err error
	if options.StaticToken, err = secretFrom(env, "MCP_CLERK_TOKEN", "--token-file", o.TokenFile); err != nil {
		return err
	}
	if o.TokenFile != "" {
		options.ReadToken = func() (secret.String, error) {
			return secretFrom(env, "MCP_CLERK_TOKEN", "--token-file", o.TokenFile)
		}
	}
	options.Scope, options.UseIDToken, options.AllowPrivate = o.Scope, o.UseIDToken, o.AllowPrivate
	switch {
	case o.Device && o.ClientCredentials:
		return usagef("--device is for a person and --client-credentials for none: one of them")
	case o.Device:
		options.Flow = oauthclient.FlowDevice
	case o.ClientCredentials:
		options.Flow = oauthclient.FlowClientCredentials
	case o.TokenEndpoint != "":
		return usagef("--token-endpoint is for --client-credentials")
	}
	options.TokenEndpoint = o.TokenEndpoint
	if o.Resource != "" && o.NoResource {
		return usagef("--resource and --disable-resource-parameter contradict each other")
	}
	options.Resource, options.NoResource = o.Resource, o.NoResource
	for _, param := range o.AuthorizeParams {
		name, value, ok := strings.Cut(param, "=")
		if name = strings.TrimSpace(name); !ok || name == "" {
			return usagef("an --authorize-param is not of the form %q", "name=value")
		}
		if options.AuthorizeParams == nil {
			options.AuthorizeParams = url.Values{}
		}
		options.AuthorizeParams.Set(name, value)
	}
	options.Callback = oauthclient.Callback{
		Port: o.CallbackPort, Host: o.CallbackHost, Path: o.CallbackPath, Bind: o.CallbackBind, URL: o.CallbackURL, SuccessURL: o.SuccessURL,
	}
	if o.AuthTimeout < 0 {
		return usagef("--auth-timeout %v is no time", o.AuthTimeout)
	}
	options.SignInTimeout = time.Duration(o.AuthTimeout * float64(time.Second))
	if err := o.clientMetadata(options); err != nil {
		return err
	}
	return o.client(options, env)
}

// clientMetadata reads --static-oauth-client-metadata and --client-metadata-url.
func (o *signInOptions) clientMetadata(options *oauthclient.Options) error {
	if o.ClientMetadataURL != "" {
		u, err := url.Parse(o.ClientMetadataURL)
		if err != nil || u.Scheme != "https" || u.Host == "" || strings.Trim(u.Path, "/") == "" || u.Fragment != "" || u.User != nil {
			return usagef("--client-metadata-url %q: want the https URL of a document", o.ClientMetadataURL)
		}
		options.ClientMetadataURL = o.ClientMetadataURL
	}
	if o.StaticMetadata == "" {
		return nil
	}
	if err := readJSONFlag("--static-oauth-client-metadata", o.StaticMetadata, nil, &options.ClientMetadata); err != nil {
		return err
	}
	var own struct {
		Scope  string `json:"scope"`
		Method string `json:"token_endpoint_auth_method"`
	}
	if err := readJSONFlag("--static-oauth-client-metadata", o.StaticMetadata, nil, &own); err != nil {
		return err
	}
	if options.Scope == "" {
		options.Scope = own.Scope
	}
	options.AuthMethod = own.Method
	return nil
}

// client reads what says which client this program is.
func (o *signInOptions) client(options *oauthclient.Options, env *environment) error {
	options.ClientID = o.ClientID
	if o.StaticInfo != "" {
		if err := o.staticInfo(options, env); err != nil {
			return err
		}
	}
	value, err := secretFrom(env, "MCP_CLERK_CLIENT_SECRET", "--client-secret-file", o.ClientSecretFile)
	if err != nil {
		return err
	}
	if value != "" {
		options.ClientSecret = value
	}
	if o.ClientKeyFile != "" {
		if options.ClientKey, err = readSigner(o.ClientKeyFile); err != nil {
			return withHint(fmt.Errorf("read --client-key-file: %w", err), "name a PEM file with a PRIVATE KEY block (EC, RSA or Ed25519)")
		}
	}
	if options.ClientID == "" && (o.ClientSecretFile != "" || o.ClientKeyFile != "") {
		return usagef("a client's secret or key is given, and not which client it is: --client-id")
	}
	if options.ClientID == "" {
		options.ClientSecret = "" // of the environment, and of no client here
	}
	if options.Flow == oauthclient.FlowClientCredentials && (options.ClientID == "" || options.ClientSecret == "" && options.ClientKey == nil) {
		return withHint(usagef("--client-credentials needs a client's id, and its secret or key"),
			"give --client-id with MCP_CLERK_CLIENT_SECRET, --client-secret-file or --client-key-file")
	}
	return nil
}

func (o *signInOptions) staticInfo(options *oauthclient.Options, env *environment) error {
	const flag = "--static-oauth-client-info"
	var info struct {
		ID     string `json:"client_id"`
		Secret string `json:"client_secret"`
		Method string `json:"token_endpoint_auth_method"`
	}
	if !strings.HasPrefix(o.StaticInfo, "@") {
		// Every process of this machine can read a command line.
		if err := readJSONFlag(flag, o.StaticInfo, nil, &info); err != nil {
			return err
		}
		if info.Secret != "" && expand(info.Secret, func(string) string { return "" }) != "" {
			return withHint(usagef("%s: a secret on the command line is one no longer", flag),
				"write \"client_secret\": \"${NAME}\" and set NAME in the environment, or keep the JSON in a file: %s @FILE", flag)
		}
	}
	if err := readJSONFlag(flag, o.StaticInfo, env, &info); err != nil {
		return err
	}
	if info.ID == "" {
		return usagef("%s has no client_id", flag)
	}
	if o.ClientID != "" && o.ClientID != info.ID {
		return usagef("--client-id and %s name two clients", flag)
	}
	options.ClientID, options.ClientSecret = info.ID, secret.String(info.Secret)
	if info.Method != "" {
		options.AuthMethod = info.Method
	}
	return nil
}

// readJSONFlag reads a flag's JSON, or that of the file behind "@". With env,
// each ${NAME} in its strings stands for the environment's. No error quotes it:
// it may hold a secret.
func readJSONFlag(flag, value string, env *environment, into any) error {
	raw := []byte(value)
	if path, ok := strings.CutPrefix(value, "@"); ok {
		data, err := readSmallFile(path)
		if err != nil {
			return withHint(fmt.Errorf("read %s: %w", flag, err), "name a readable file behind the @")
		}
		raw = data
	}
	if env == nil {
		if json.Unmarshal(raw, into) != nil {
			return usagef("%s is not the JSON that was expected", flag)
		}
		return nil
	}
	var members map[string]json.RawMessage
	err := json.Unmarshal(raw, &members)
	if err != nil {
		return usagef("%s is not a JSON object", flag)
	}
	var missing []string
	for name, member := range members {
		var text string
		if json.Unmarshal(member, &text) != nil {
			continue
		}
		text = expand(text, func(variable string) string {
			v, ok := env.lookup(variable)
			if !ok {
				missing = append(missing, variable)
			}
			return v
		})
		if members[name], err = json.Marshal(text); err != nil {
			return usagef("%s is not the JSON that was expected", flag)
		}
	}
	if len(missing) > 0 {
		return usagef("%s: the environment has no %s", flag, strings.Join(missing, ", "))
	}
	expanded, err := json.Marshal(members)
	if err != nil || json.Unmarshal(expanded, into) != nil {
		return usagef("%s is not the JSON that was expected", flag)
	}
	return nil
}

// secretFrom reads a secret from the file that a flag names, else from the
// environment's NAME or NAME_FILE.
func secretFrom(env *environment, name, flag, path string) (secret.String, error) {
	if path == "" {
		return env.secret(name)
	}
	data, err := readSmallFile(path)
	if err != nil {
		return "", withHint(fmt.Errorf("read %s: %w", flag, err), "point %s to a readable file", flag)
	}
	value := strings.TrimSpace(string(data))
	if value == "" {
		return "", fmt.Errorf("read %s: %q is empty", flag, path)
	}
	return secret.String(value), nil
}

func readSmallFile(path string) ([]byte, error) {
	const most = 64 << 10
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() && info.Mode()&os.ModeNamedPipe == 0 || info.Size() > most {
		return nil, fmt.Errorf("%q is not a small file", path)
	}
	return os.ReadFile(path)
}

// readSigner reads a private key in any of the forms that OpenSSL writes.
func readSigner(path string) (crypto.Signer, error) {
	data, err := readSmallFile(path)
	if err != nil {
		return nil, err
	}
	return parseSigner(data)
}

func parseSigner(data []byte) (crypto.Signer, error) {
	for block, rest := pem.Decode(bytes.TrimSpace(data)); block != nil; block, rest = pem.Decode(rest) {
		var key any
		var err error
		switch block.Type {
		case "PRIVATE KEY":
			key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
		case "EC PRIVATE KEY":
			key, err = x509.ParseECPrivateKey(block.Bytes)
		case "RSA PRIVATE KEY":
			key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
		default:
			continue // such as EC PARAMETERS
		}
		if err != nil {
			return nil, errors.New("the key in it cannot be read") // the cause says nothing that helps
		}
		if signer, ok := key.(crypto.Signer); ok {
			return signer, nil
		}
	}
	return nil, errors.New("there is no private key in it")
}
