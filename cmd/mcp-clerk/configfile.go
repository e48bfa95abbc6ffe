package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"

	"github.com/mcp-clerk/mcp-clerk/internal/authserver"
	"github.com/mcp-clerk/mcp-clerk/internal/secret"
	"github.com/mcp-clerk/mcp-clerk/server"
)

// maxConfig bounds the configuration file in bytes.
const maxConfig = 1 << 20

// configFile reads the file of --config: what does not fit into flags. Its keys
// are a fixed set, its secrets lie elsewhere, and every fault is reported with
// its line.
type configFile struct {
	path   string
	env    *environment
	faults []error
}

// readConfig adds what the file says to o. Paths in it start at its directory.
func readConfig(path string, env *environment, publicURL string, o *server.ClientOptions) error {
	info, err := os.Stat(path)
	if err != nil {
		return withHint(fmt.Errorf("read configuration: %w", err), "point --config to a readable file")
	}
	if !info.Mode().IsRegular() || info.Size() > maxConfig {
		return fmt.Errorf("read configuration: %q is not a file of at most %d bytes", path, maxConfig)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return withHint(fmt.Errorf("read configuration: %w", err), "point --config to a readable file")
	}
	f := &configFile{path: path, env: env}
	f.parse(data, publicURL, o)
	return errors.Join(f.faults...)
}

func (f *configFile) fault(n ast.Node, format string, args ...any) {
	line := 1
	if n != nil && n.GetToken() != nil {
		line = n.GetToken().Position.Line
	}
	f.faults = append(f.faults, fmt.Errorf("%s:%d: %s", f.path, line, fmt.Sprintf(format, args...)))
}

func (f *configFile) parse(data []byte, publicURL string, o *server.ClientOptions) {
	file, err := parser.ParseBytes(data, 0, parser.AllowDuplicateMapKey()) // they are reported below, with all else
	if err != nil {
		// "[LINE:COLUMN] what", and then the lines around it, which are not for a log.
		first, _, _ := strings.Cut(err.Error(), "\n")
		place, what, _ := strings.Cut(strings.TrimPrefix(first, "["), "] ")
		line, _, _ := strings.Cut(place, ":")
		f.faults = append(f.faults, fmt.Errorf("%s:%s: not YAML: %s", f.path, line, what))
		return
	}
	docs := slices.DeleteFunc(file.Docs, func(d *ast.DocumentNode) bool { return d.Body == nil })
	if len(docs) > 1 {
		f.fault(docs[1].Body, "more than one document")
		return
	}
	if len(docs) == 0 {
		return
	}
	var clients ast.Node
	f.mapping(docs[0].Body, "the configuration", map[string]func(ast.Node){
		"admission":         func(n ast.Node) { o.Admission = f.text(n) },
		"admitted_hosts":    func(n ast.Node) { o.AdmittedHosts = f.texts(n) },
		"private_redirects": func(n ast.Node) { o.PrivateRedirects = f.texts(n) },
		"clients":           func(n ast.Node) { clients = n }, // last: they use the others
	})
	if clients == nil {
		return
	}
	list, ok := clients.(*ast.SequenceNode)
	if !ok {
		f.fault(clients, "clients is not a list")
		return
	}
	seen := map[string]bool{}
	for _, n := range list.Values {
		before := len(f.faults)
		c := f.client(n)
		if len(f.faults) > before {
			continue // its other faults may follow from these
		}
		if err := authserver.ValidateClients(authserver.Options{PublicURL: publicURL, PrivateRedirects: o.PrivateRedirects, Clients: []authserver.Client{c}}); err != nil {
			f.fault(n, "%v", err)
			continue
		}
		if seen[c.ID] {
			f.fault(n, "client %q comes twice", c.ID)
			continue
		}
		seen[c.ID] = true
		o.Known = append(o.Known, c)
	}
}

func (f *configFile) client(n ast.Node) server.Client {
	var c server.Client
	f.mapping(n, "a client", map[string]func(ast.Node){
		"id":            func(n ast.Node) { c.ID = f.text(n) },
		"name":          func(n ast.Node) { c.Name = f.text(n) },
		"redirect_uris": func(n ast.Node) { c.RedirectURIs = f.texts(n) },
		"device":        func(n ast.Node) { c.Device = f.yes(n) },
		"secret_sha256": func(n ast.Node) { c.SecretHash = f.text(n) },
		"jwks_uri":      func(n ast.Node) { c.JWKSURI = f.text(n) },
		"jwks_file":     func(n ast.Node) { c.JWKS = f.file(n) },
		"secret_file":   func(n ast.Node) { c.Secret = secret.String(strings.TrimSpace(string(f.file(n)))) },
		"secret_env": func(n ast.Node) {
			name := f.text(n)
			v, err := f.env.secret(name)
			if err != nil || v == "" {
				f.fault(n, "%s is not set", name)
			}
			c.Secret = v
		},
		"secret": func(n ast.Node) {
			f.fault(n, "a secret does not belong into this file: use secret_file, secret_env or secret_sha256")
		},
	})
	return c
}

// mapping hands the values of n to the functions for their keys.
func (f *configFile) mapping(n ast.Node, what string, keys map[string]func(ast.Node)) {
	var values []*ast.MappingValueNode
	switch m := n.(type) {
	case *ast.MappingNode:
		values = m.Values
	case *ast.MappingValueNode: // of one entry
		values = []*ast.MappingValueNode{m}
	default:
		f.fault(n, "%s is not a list of keys and values", what)
		return
	}
	seen := map[string]bool{}
	for _, v := range values {
		key := v.Key.GetToken().Value
		set, ok := keys[key]
		switch {
		case !ok:
			known := make([]string, 0, len(keys))
			for k := range keys {
				if k != "secret" {
					known = append(known, k)
				}
			}
			slices.Sort(known)
			f.fault(v.Key, "%s has no key %q, but %s", what, key, strings.Join(known, ", "))
		case seen[key]:
			f.fault(v.Key, "%q comes twice", key)
		default:
			seen[key] = true
			set(v.Value)
		}
	}
}

func (f *configFile) text(n ast.Node) string {
	s, ok := n.(*ast.StringNode)
	if !ok {
		f.fault(n, "this is not a text: put it in quotes")
		return ""
	}
	return s.Value
}

func (f *configFile) yes(n ast.Node) bool {
	b, ok := n.(*ast.BoolNode)
	if !ok {
		f.fault(n, "this is not true or false")
		return false
	}
	return b.Value
}

func (f *configFile) texts(n ast.Node) []string {
	list, ok := n.(*ast.SequenceNode)
	if !ok {
		f.fault(n, "this is not a list")
		return nil
	}
	var texts []string
	for _, item := range list.Values {
		texts = append(texts, f.text(item))
	}
	return texts
}

// file reads the small file that n names.
func (f *configFile) file(n ast.Node) []byte {
	path := f.text(n)
	if path == "" {
		f.fault(n, "no file is named")
		return nil
	}
	if !filepath.IsAbs(path) {
		path = filepath.Join(filepath.Dir(f.path), path)
	}
	info, err := os.Stat(path) //nolint:gosec // the operator names the file
	if err == nil && (!info.Mode().IsRegular() || info.Size() == 0 || info.Size() > 64<<10) {
		err = fmt.Errorf("%q is not a file of 1 to 65536 bytes", path)
	}
	var data []byte
	if err == nil {
		data, err = os.ReadFile(path) //nolint:gosec // the operator names the file
	}
	if err != nil {
		f.fault(n, "%v", err)
	}
	return data
}
