package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/joho/godotenv"

	"github.com/mcp-clerk/mcp-clerk/internal/secret"
)

// environment reads settings: the process's environment first, then a .env
// file in development, and each secret also from a file named by SETTING_FILE.
type environment struct {
	lookup func(name string) (string, bool)
	dotenv map[string]string
}

func newEnvironment() *environment {
	return &environment{lookup: os.LookupEnv}
}

// loadDotenv adds a .env file's settings behind the environment's own. A
// missing file is no error.
func (e *environment) loadDotenv(path string) error {
	values, err := godotenv.Read(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		// godotenv's errors quote the line they failed on, which may hold a secret.
		return withHint(fmt.Errorf("read %q: not a list of NAME=value lines", path), "correct %s or remove it", path)
	}
	e.dotenv = values
	return nil
}

// get returns a setting without surrounding white space, "" when unset.
func (e *environment) get(name string) string {
	if v, ok := e.lookup(name); ok && strings.TrimSpace(v) != "" {
		return strings.TrimSpace(v)
	}
	return strings.TrimSpace(e.dotenv[name])
}

// secret returns a setting that is a secret, read from NAME or from the file
// that NAME_FILE names.
func (e *environment) secret(name string) (secret.String, error) {
	value, path := e.get(name), e.get(name+"_FILE")
	if path == "" || value != "" {
		return secret.String(value), nil
	}
	const most = 64 << 10
	info, err := os.Stat(path) //nolint:gosec // the operator names the file
	if err != nil {
		return "", withHint(fmt.Errorf("read %s_FILE: %w", name, err), "point %s_FILE to a readable file, or set %s", name, name)
	}
	if !info.Mode().IsRegular() && info.Mode()&os.ModeNamedPipe == 0 || info.Size() > most {
		return "", fmt.Errorf("read %s_FILE: %q is not a small file", name, path)
	}
	data, err := os.ReadFile(path) //nolint:gosec // the operator names the file
	if err != nil {
		return "", fmt.Errorf("read %s_FILE: %w", name, err)
	}
	return secret.String(strings.TrimSpace(string(data))), nil
}
