package server_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mcp-clerk/mcp-clerk/server"
)

// valid are options that Validate accepts.
func valid() server.Options {
	return server.Options{
		PublicURL: "https://mcp.example.com", Store: "memory:", Keys: testKey,
		Clerk: server.ClerkOptions{ClientID: "id", ClientSecret: "secret", SecretKey: "sk_test_x", FrontendAPI: "verb-noun-00.clerk.accounts.dev"},
	}
}

func faults(err error) []*server.OptionError {
	var all []*server.OptionError
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		for _, e := range joined.Unwrap() {
			var o *server.OptionError
			if errors.As(e, &o) {
				all = append(all, o)
			}
		}
	}
	return all
}

func settings(err error) []string {
	var names []string
	for _, o := range faults(err) {
		names = append(names, o.Setting)
	}
	return names
}

func TestEveryFaultIsReportedAtOnceWithItsFix(t *testing.T) {
	err := server.Options{}.Validate()
	want := []string{"PUBLIC_URL", "--store", "COOKIE_ENCRYPTION_KEY", "CLERK_CLIENT_ID", "CLERK_CLIENT_SECRET", "CLERK_SECRET_KEY", "CLERK_FRONTEND_API"}
	if diff := cmp.Diff(want, settings(err)); diff != "" {
		t.Errorf("settings (-want +got):\n%s", diff)
	}
	for _, o := range faults(err) {
		if o.Problem == "" || o.Fix == "" {
			t.Errorf("%s: problem %q, fix %q", o.Setting, o.Problem, o.Fix)
		}
	}
	if !strings.Contains(err.Error(), "openssl rand -hex 32") {
		t.Errorf("%v does not say how to make a key", err)
	}
	if _, newErr := server.New(t.Context(), server.Options{}); newErr == nil || newErr.Error() != err.Error() {
		t.Errorf("New says %v, Validate %v", newErr, err)
	}
}

func TestValidate(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(*server.Options)
		want   string // the one setting at fault; "" for none
	}{
		"valid":                     {func(*server.Options) {}, ""},
		"path prefix":               {func(o *server.Options) { o.PublicURL = "https://example.com/tools/mcp/" }, ""},
		"loopback http":             {func(o *server.Options) { o.PublicURL = "http://localhost:8788" }, ""},
		"loopback IPv6":             {func(o *server.Options) { o.PublicURL = "http://[::1]:8788" }, ""},
		"http elsewhere":            {func(o *server.Options) { o.PublicURL = "http://mcp.example.com" }, "PUBLIC_URL"},
		"looks like loopback":       {func(o *server.Options) { o.PublicURL = "http://localhost.example.com" }, "PUBLIC_URL"},
		"public URL with query":     {func(o *server.Options) { o.PublicURL = "https://mcp.example.com?x=1" }, "PUBLIC_URL"},
		"public URL with user":      {func(o *server.Options) { o.PublicURL = "https://u:canary@mcp.example.com" }, "PUBLIC_URL"},
		"public URL without scheme": {func(o *server.Options) { o.PublicURL = "mcp.example.com" }, "PUBLIC_URL"},
		"public URL with dots":      {func(o *server.Options) { o.PublicURL = "https://mcp.example.com/a/../b" }, "PUBLIC_URL"},
		"unknown store":             {func(o *server.Options) { o.Store = "mysql://u:canary@db/x" }, "--store"},
		"store without scheme":      {func(o *server.Options) { o.Store = "state.db" }, "--store"},
		"bolt without path":         {func(o *server.Options) { o.Store = "bolt:" }, "--store"},
		"memory with a path":        {func(o *server.Options) { o.Store = "memory:x" }, "--store"},
		"redis without a host":      {func(o *server.Options) { o.Store = "redis://u:canary@:x" }, "--store"},
		"redis, unknown parameter":  {func(o *server.Options) { o.Store = "redis://u:canary@db?colour=red" }, "--store"},
		"postgres, unknown sslmode": {func(o *server.Options) { o.Store = "postgres://u:canary@db/x?sslmode=maybe" }, "--store"},
		"short key":                 {func(o *server.Options) { o.Keys = "abcdef" }, "COOKIE_ENCRYPTION_KEY"},
		"key that is not hex":       {func(o *server.Options) { o.Keys = server.Secret(strings.Repeat("z", 64)) }, "COOKIE_ENCRYPTION_KEY"},
		"guessable key":             {func(o *server.Options) { o.Keys = server.Secret(strings.Repeat("0", 64)) }, "COOKIE_ENCRYPTION_KEY"},
		"guessable key on loopback": {func(o *server.Options) {
			o.Keys = server.Secret(strings.Repeat("0", 64))
			o.PublicURL = "http://localhost:1"
		}, ""},
		"two keys":                   {func(o *server.Options) { o.Keys += "," + testKey }, ""},
		"secret with a line break":   {func(o *server.Options) { o.Clerk.ClientSecret = "canary\n" }, "CLERK_CLIENT_SECRET"},
		"publishable key as secret":  {func(o *server.Options) { o.Clerk.SecretKey = "pk_test_canary" }, "CLERK_SECRET_KEY"},
		"frontend API as URL":        {func(o *server.Options) { o.Clerk.FrontendAPI = "https://clerk.example.com" }, ""},
		"frontend API over http":     {func(o *server.Options) { o.Clerk.FrontendAPI = "http://clerk.example.com" }, "CLERK_FRONTEND_API"},
		"frontend API over loopback": {func(o *server.Options) { o.Clerk.FrontendAPI = "http://localhost:4411" }, ""},
		"publishable key instead": {func(o *server.Options) {
			o.Clerk.FrontendAPI = ""
			o.Clerk.PublishableKey = "pk_test_dmVyYi1ub3VuLTAwLmNsZXJrLmFjY291bnRzLmRldiQ"
		}, ""},
		"broken publishable key":        {func(o *server.Options) { o.Clerk.FrontendAPI = ""; o.Clerk.PublishableKey = "pk_test_!" }, "CLERK_PUBLISHABLE_KEY"},
		"API URL over http":             {func(o *server.Options) { o.Clerk.APIURL = "http://api.clerk.com" }, "CLERK_API_URL"},
		"drain delay of an hour":        {func(o *server.Options) { o.DrainDelay = time.Hour }, "--drain-delay"},
		"access token for two days":     {func(o *server.Options) { o.AccessTokenTTL = 48 * time.Hour }, "--access-token-ttl"},
		"resource path without slash":   {func(o *server.Options) { o.ResourcePath = "mcp" }, "ResourcePath"},
		"resource path of another room": {func(o *server.Options) { o.ResourcePath = "/token" }, "ResourcePath"},
		"origin with path":              {func(o *server.Options) { o.AllowedOrigins = []string{"https://app.example.com/x"} }, "AllowedOrigins"},
	} {
		t.Run(name, func(t *testing.T) {
			o := valid()
			tt.change(&o)
			err := o.Validate()
			var want []string
			if tt.want != "" {
				want = []string{tt.want}
			}
			if got := settings(err); !slices.Equal(got, want) {
				t.Errorf("%v, want a fault of %q", err, tt.want)
			}
			if strings.Contains(fmt.Sprint(err), "canary") {
				t.Errorf("a secret is in %v", err)
			}
			if err != nil {
				return
			}
			// What Validate accepts, New accepts: it has no faults of its own.
			srv, err := server.New(t.Context(), o)
			if err != nil {
				t.Fatal(err)
			}
			if err := srv.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

// A store on another machine is well-formed or not without being asked, and
// what is said of one that can't be reached holds no password.
func TestStoresOfSeveralInstances(t *testing.T) {
	for _, url := range []server.Secret{
		"redis://user:canary@127.0.0.1:1",
		"valkey://user:canary@127.0.0.1:1,127.0.0.1:2/?prefix=x",
		"postgres://user:canary@127.0.0.1:1/db?sslmode=disable",
	} {
		o := valid()
		o.Store = url
		if err := o.Validate(); err != nil {
			t.Errorf("%s: %v", url.Reveal(), err)
		}
		srv, err := server.New(t.Context(), o)
		if err == nil {
			_ = srv.Close()
			t.Errorf("%s: no error, though nothing listens there", url.Reveal())
		} else if strings.Contains(err.Error(), "canary") || !strings.Contains(err.Error(), "start the server, or correct the address") {
			t.Errorf("%s: %v", url.Reveal(), err)
		}
	}
}

func TestOptionsDoNotShowTheirSecrets(t *testing.T) {
	o := valid()
	o.Clerk.ClientSecret, o.Clerk.SecretKey, o.Store = "canary", "canary", "redis://:canary@host"
	for _, format := range []string{"%v", "%+v", "%#v", "%s"} {
		if got := fmt.Sprintf(format, o); strings.Contains(got, "canary") || strings.Contains(got, testKey) {
			t.Errorf("%s: %s", format, got)
		}
	}
}
