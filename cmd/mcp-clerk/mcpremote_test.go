package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mcp-clerk/mcp-clerk/internal/oauthclient"
	"github.com/mcp-clerk/mcp-clerk/internal/secret"
)

// The hashes are those that mcp-remote 0.15.1 makes of the same command lines.
func TestMCPRemoteHashes(t *testing.T) {
	for name, tc := range map[string]struct {
		server string
		flags  signInOptions
		want   string
	}{
		"a URL":           {"https://mcp.example.com/mcp", signInOptions{}, "94baabe3c3fadb285b26c035e4e86046"},
		"a resource":      {"https://mcp.example.com/mcp", signInOptions{Resource: "https://tenant.example.com/"}, "3113537ff04d9c50e2404a697a66080e"},
		"parameters":      {"https://mcp.example.com/mcp", signInOptions{AuthorizeParams: []string{"prompt=a&b", "audience=https://api.example.com"}}, "5be5aa21eabd7deb97c79595231e87dc"},
		"a document":      {"https://mcp.example.com/mcp", signInOptions{ClientMetadataURL: "https://c.example.com/doc"}, "e30d20f5c67cea7949b3b1d906a938bb"},
		"a slash too few": {"https://mcp.example.com", signInOptions{}, "96b4517f74773027fe7a08842e039b0e"},
	} {
		if got := mcpRemoteHashes(tc.server, &tc.flags); !contains(got, tc.want) {
			t.Errorf("%s: %q, want %s among them", name, got, tc.want)
		}
	}
}

func contains(list []string, want string) bool {
	for _, s := range list {
		if s == want {
			return true
		}
	}
	return false
}

// The files of the version that wrote last are read, whatever versions there are.
func TestFindMCPRemote(t *testing.T) {
	dir := t.TempDir()
	const server = "https://mcp.example.com/mcp"
	hash := mcpRemoteHashes(server, &signInOptions{})[0]
	write := func(version, name, text string, at time.Time) {
		t.Helper()
		path := filepath.Join(dir, version, hash+name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(text), 0o600), os.Chtimes(path, at, at)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := findMCPRemote(dir, server, &signInOptions{}); !errors.Is(err, errNothingThere) {
		t.Errorf("of nothing: %v", err)
	}
	at := time.Unix(1_800_000_000, 0)
	write("mcp-remote-0.1.38", "_tokens.json", `{"access_token":"old","refresh_token":"r-old"}`, at.Add(-time.Hour))
	write("mcp-remote-v1", "_tokens.json", `{"access_token":"a","token_type":"Bearer","expires_in":3600,"scope":"x y","refresh_token":"r","expires_at":1800001000500,"requested_scope":"x y z","issuer":"https://as.example.com"}`, at)
	write("mcp-remote-v1", "_client_info.json", `{"client_id":"c","client_secret":"s","client_secret_expires_at":1900000000,"token_endpoint_auth_method":"client_secret_post","redirect_uris":["http://localhost:3334/oauth/callback"]}`, at)
	got, err := findMCPRemote(dir, server, &signInOptions{})
	if err != nil {
		t.Fatal(err)
	}
	want := oauthclient.Imported{
		Issuer: "https://as.example.com", ClientID: "c", ClientSecret: "s", AuthMethod: "client_secret_post", RedirectURI: "http://localhost:3334/oauth/callback",
		ClientExpires: time.Unix(1_900_000_000, 0), AccessToken: "a", RefreshToken: "r", Requested: []string{"x", "y", "z"}, Granted: []string{"x", "y"},
		Obtained: at, Expires: time.UnixMilli(1_800_001_000_500),
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}

	// Older versions noted no time: that of the file has to do.
	write("mcp-remote-0.1.38", "_tokens.json", `{"access_token":"a","expires_in":3600}`, at.Add(time.Hour))
	if got, err = findMCPRemote(dir, server+"/", &signInOptions{}); err != nil || !got.Expires.Equal(at.Add(2*time.Hour)) || got.ClientID != "" {
		t.Errorf("%+v, %v", got, err)
	}
	write("mcp-remote-v1", "_tokens.json", `{"access_token":"canary"`, at.Add(2*time.Hour))
	if _, err = findMCPRemote(dir, server, &signInOptions{}); err == nil || strings.Contains(err.Error(), "canary") {
		t.Errorf("of a damaged file: %v", err)
	}
}

func FuzzParseMCPRemote(f *testing.F) {
	f.Add([]byte(`{"access_token":"a","expires_in":1e300,"expires_at":-1}`), []byte(`{"client_id":"c","client_secret":"s","client_secret_expires_at":1e300,"redirect_uris":["x"]}`))
	f.Add([]byte(`{"refresh_token":"r","expires_in":null}`), []byte(``))
	f.Add([]byte(`[]`), []byte(`null`))
	f.Fuzz(func(t *testing.T, tokens, client []byte) {
		in, err := parseMCPRemote(tokens, client, time.Unix(1_800_000_000, 0))
		if err != nil {
			return
		}
		if in.AccessToken == "" && in.RefreshToken == "" {
			t.Error("no token, and no error")
		}
		if !in.Expires.IsZero() && in.Expires.Year() > 40_000 {
			t.Errorf("expires in %d", in.Expires.Year())
		}
		if in.AccessToken != "" && in.AccessToken == secret.String(in.ClientID) && len(client) == 0 {
			t.Error("a client id out of nothing")
		}
	})
}

func FuzzParseSigner(f *testing.F) {
	f.Add([]byte("-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f\n-----END PRIVATE KEY-----\n"))
	f.Add([]byte("-----BEGIN EC PARAMETERS-----\n-----END EC PARAMETERS-----\n-----BEGIN EC PRIVATE KEY-----\nAA==\n-----END EC PRIVATE KEY-----\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		key, err := parseSigner(data)
		if (key == nil) == (err == nil) {
			t.Errorf("%v, %v", key, err)
		}
	})
}
