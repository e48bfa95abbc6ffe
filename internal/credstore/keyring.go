package credstore

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"time"

	"github.com/zalando/go-keyring"
)

// keyringService is the name the key has in the keyring.
const keyringService = "mcp-clerk"

// keyringTimeout bounds each call. A locked Secret Service waits for a person
// at a prompt that may be on no screen, and go-keyring takes no context.
const keyringTimeout = 3 * time.Second

// keyringPoll is how often a keyring is asked that does not yet show what was
// written to it.
const keyringPoll = 100 * time.Millisecond

// ErrNotFound reports that the keyring works and has no such key.
var ErrNotFound = errors.New("key not found in the keyring")

// UnavailableError reports that the key is in a keyring that can't be asked
// just now. Nothing was changed; a later attempt may succeed.
type UnavailableError struct {
	Err error
}

func (e *UnavailableError) Error() string {
	return fmt.Sprintf("the keyring that holds the key of the stored credentials is not available: %v", e.Err)
}

func (e *UnavailableError) Unwrap() error { return e.Err }

// keyringTurn lets one call through at a time: some keyrings refuse concurrent
// ones, and a call that hangs must not be joined by more.
var keyringTurn = make(chan struct{}, 1)

var errKeyringTimeout = fmt.Errorf("no answer within %v (is it locked?)", keyringTimeout)

// keyringCall runs call within keyringTimeout. A call that hangs can't be
// ended: its goroutine keeps the turn until it returns, and later callers get
// errKeyringTimeout as long.
func keyringCall(ctx context.Context, call func() (string, error)) (string, error) {
	if err := keyringReachable(); err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, keyringTimeout, errKeyringTimeout)
	defer cancel()
	select {
	case keyringTurn <- struct{}{}:
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
	if ctx.Err() != nil { // both were ready
		<-keyringTurn
		return "", context.Cause(ctx)
	}
	type result struct {
		value string
		err   error
	}
	done := make(chan result, 1)
	go func() {
		defer func() { <-keyringTurn }()
		value, err := call()
		done <- result{value, err}
	}()
	select {
	case r := <-done:
		if errors.Is(r.err, keyring.ErrNotFound) {
			return "", ErrNotFound
		}
		return r.value, r.err
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
}

// keyringGet returns the key of account.
func keyringGet(ctx context.Context, account string) ([]byte, error) {
	text, err := keyringCall(ctx, func() (string, error) { return keyring.Get(keyringService, account) })
	if err != nil {
		return nil, err
	}
	key, err := base64.StdEncoding.DecodeString(text)
	if err != nil || len(key) != keySize {
		return nil, fmt.Errorf("keyring entry %q of %q is not a key of ours", account, keyringService)
	}
	return key, nil
}

// keyringKey returns the key of account, and ErrNotFound where the keyring has
// none. If id is not empty it waits for the key of that id, at most for
// keyringTimeout: some keyrings show what was written, by whichever process, a
// while later, and the value before it until then.
func keyringKey(ctx context.Context, account, id string) ([]byte, error) {
	if id == "" {
		return keyringGet(ctx, account)
	}
	late := time.NewTimer(keyringTimeout)
	defer late.Stop()
	tick := time.NewTicker(keyringPoll)
	defer tick.Stop()
	for {
		key, err := keyringGet(ctx, account)
		if err == nil && keyID(key) == id || err != nil && !errors.Is(err, ErrNotFound) {
			return key, err
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-late.C:
			return nil, ErrNotFound
		case <-tick.C:
		}
	}
}

// keyringSet stores the key and reads it back, because a keyring that takes
// a value and loses it would cost the sign-in later.
func keyringSet(ctx context.Context, account string, key []byte) error {
	// Base64 text: a keyring holds strings, and 44 characters are far below
	// the limits of Windows (2,560 bytes) and macOS (about 2,900).
	text := base64.StdEncoding.EncodeToString(key)
	_, err := keyringCall(ctx, func() (string, error) { return "", keyring.Set(keyringService, account, text) })
	if err != nil {
		return err
	}
	if _, err := keyringKey(ctx, account, keyID(key)); err != nil {
		// Not %w: a key that does not come back was not merely never made.
		return fmt.Errorf("it does not give back what was stored: %v", err) //nolint:errorlint // see above
	}
	return nil
}

func keyringDelete(ctx context.Context, account string) error {
	_, err := keyringCall(ctx, func() (string, error) { return "", keyring.Delete(keyringService, account) })
	return err
}

// keyringReachable says without delay that there is no session bus. Without
// one the D-Bus library would start a bus daemon of its own, with an empty
// keyring that nobody else sees.
func keyringReachable() error {
	switch runtime.GOOS {
	case "windows", "darwin", "ios":
		return nil
	}
	if addr := os.Getenv("DBUS_SESSION_BUS_ADDRESS"); addr != "" && addr != "autolaunch:" {
		return nil
	}
	run := filepath.Join("/run/user", strconv.Itoa(os.Getuid()))
	for _, name := range []string{"bus", "dbus-session"} {
		if _, err := os.Stat(filepath.Join(run, name)); err == nil {
			return nil
		}
	}
	return errors.New("there is no D-Bus session")
}
