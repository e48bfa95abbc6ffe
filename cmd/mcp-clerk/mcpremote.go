package main

import (
	"crypto/md5" //nolint:gosec // how mcp-remote names its files; nothing rests on it
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/mcp-clerk/mcp-clerk/internal/oauthclient"
	"github.com/mcp-clerk/mcp-clerk/internal/secret"
)

// errNothingThere says that mcp-remote has no sign-in for a server.
var errNothingThere = errors.New("mcp-remote has no sign-in for this server")

// findMCPRemote reads what mcp-remote keeps for server below dir: in a
// directory for each of its versions, files named by a hash of the server's URL
// and of some flags. The one that was written last counts.
func findMCPRemote(dir, server string, o *signInOptions) (oauthclient.Imported, error) {
	versions, err := filepath.Glob(filepath.Join(dir, "mcp-remote-*"))
	if err != nil {
		return oauthclient.Imported{}, fmt.Errorf("look into %q: %w", dir, err)
	}
	var newest time.Time
	var base string
	for _, version := range versions {
		for _, hash := range mcpRemoteHashes(server, o) {
			path := filepath.Join(version, hash)
			if info, err := os.Stat(path + "_tokens.json"); err == nil && info.Mode().IsRegular() && info.ModTime().After(newest) {
				newest, base = info.ModTime(), path
			}
		}
	}
	if base == "" {
		return oauthclient.Imported{}, errNothingThere
	}
	tokens, err := readSmallFile(base + "_tokens.json")
	if err != nil {
		return oauthclient.Imported{}, fmt.Errorf("read mcp-remote's tokens: %w", err)
	}
	client, err := readSmallFile(base + "_client_info.json")
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return oauthclient.Imported{}, fmt.Errorf("read mcp-remote's registration: %w", err)
	}
	return parseMCPRemote(tokens, client, newest)
}

// mcpRemoteDir is where mcp-remote keeps its files.
func mcpRemoteDir() (string, error) {
	if dir := os.Getenv("MCP_REMOTE_CONFIG_DIR"); dir != "" {
		return dir, nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", fmt.Errorf("find mcp-remote's directory: %w", err)
	}
	return filepath.Join(home, ".mcp-auth"), nil
}

// mcpRemoteHashes are the names its files may have: for the URL as it is
// written, with and without a slash at its end.
func mcpRemoteHashes(server string, o *signInOptions) []string {
	var hashes []string
	for _, written := range []string{server, strings.TrimSuffix(server, "/"), strings.TrimSuffix(server, "/") + "/"} {
		parts := []string{written}
		if o.Resource != "" {
			parts = append(parts, o.Resource)
		}
		if len(o.AuthorizeParams) > 0 {
			params := map[string]string{}
			for _, p := range o.AuthorizeParams {
				name, value, _ := strings.Cut(p, "=")
				params[strings.TrimSpace(name)] = value
			}
			var text strings.Builder
			enc := json.NewEncoder(&text) // in the order of the names, as there
			enc.SetEscapeHTML(false)
			if err := enc.Encode(params); err == nil {
				parts = append(parts, strings.TrimSuffix(text.String(), "\n"))
			}
		}
		if o.ClientMetadataURL != "" {
			parts = append(parts, o.ClientMetadataURL)
		}
		if o.TokenEndpoint != "" {
			parts = append(parts, o.TokenEndpoint)
		}
		sum := md5.Sum([]byte(strings.Join(parts, "|"))) //nolint:gosec // as above
		if hash := hex.EncodeToString(sum[:]); !slices.Contains(hashes, hash) {
			hashes = append(hashes, hash)
		}
	}
	return hashes
}

// parseMCPRemote reads its two files; written is when the first of them was. No
// error quotes them.
func parseMCPRemote(tokens, client []byte, written time.Time) (oauthclient.Imported, error) {
	var t struct {
		AccessToken  string   `json:"access_token"`
		RefreshToken string   `json:"refresh_token"`
		Scope        string   `json:"scope"`
		Requested    string   `json:"requested_scope"`
		Issuer       string   `json:"issuer"`
		ExpiresIn    *float64 `json:"expires_in"`
		ExpiresAt    *float64 `json:"expires_at"` // Unix milliseconds; of newer versions
	}
	if json.Unmarshal(tokens, &t) != nil || t.AccessToken == "" && t.RefreshToken == "" {
		return oauthclient.Imported{}, errors.New("mcp-remote's file of tokens has none in it")
	}
	var c struct {
		ID        string   `json:"client_id"`
		Secret    string   `json:"client_secret"`
		Method    string   `json:"token_endpoint_auth_method"`
		Redirects []string `json:"redirect_uris"`
		Expires   float64  `json:"client_secret_expires_at"` // Unix seconds
		Issuer    string   `json:"issuer"`
	}
	if len(client) > 0 && json.Unmarshal(client, &c) != nil {
		return oauthclient.Imported{}, errors.New("mcp-remote's file of its registration makes no sense")
	}
	in := oauthclient.Imported{
		Issuer: t.Issuer, ClientID: c.ID, ClientSecret: secret.String(c.Secret), AuthMethod: c.Method,
		AccessToken: secret.String(t.AccessToken), RefreshToken: secret.String(t.RefreshToken),
		Granted: strings.Fields(t.Scope), Requested: strings.Fields(t.Requested), Obtained: written,
	}
	if in.Issuer == "" {
		in.Issuer = c.Issuer
	}
	if len(in.Requested) == 0 {
		in.Requested = in.Granted
	}
	if len(c.Redirects) > 0 {
		if u, err := url.Parse(c.Redirects[0]); err == nil && u.Host != "" {
			in.RedirectURI = c.Redirects[0]
		}
	}
	const latest = 1 << 40 // seconds, far beyond any clock
	if c.Expires > 0 && c.Secret != "" {
		in.ClientExpires = time.Unix(int64(min(c.Expires, latest)), 0)
	}
	switch {
	case t.ExpiresAt != nil && *t.ExpiresAt > 0:
		in.Expires = time.UnixMilli(int64(min(*t.ExpiresAt, latest*1000)))
	case t.ExpiresIn != nil && *t.ExpiresIn > 0:
		in.Expires = written.Add(time.Duration(min(*t.ExpiresIn, 1<<30)) * time.Second)
	}
	return in, nil
}
