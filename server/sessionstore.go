package server

import (
	"context"
	"errors"
	"time"

	"github.com/mcp-clerk/mcp-clerk/internal/store"
)

// sessionStore keeps what legacy MCP sessions changed in the server's store,
// one record a session. It is mcphttp's SessionStore.
type sessionStore struct{ store.Store }

const sessionPrefix = "session/"

func (s sessionStore) Load(ctx context.Context, id string) ([]byte, error) {
	r, err := s.Get(ctx, sessionPrefix+id)
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	return r.Value, err
}

func (s sessionStore) Update(ctx context.Context, id string, expires time.Time, f func(old []byte) ([]byte, error)) error {
	key := sessionPrefix + id
	// Another instance may create or remove the record between the two
	// operations; each round then finds what it left.
	for range 10 {
		_, err := s.Store.Update(ctx, key, func(old store.Record) ([]byte, time.Time, error) {
			value, err := f(old.Value)
			return value, expires, err
		})
		if !errors.Is(err, store.ErrNotFound) {
			return err
		}
		value, err := f(nil)
		if err != nil {
			return err
		}
		err = s.Create(ctx, store.Record{Key: key, Value: value, Expires: expires})
		if !errors.Is(err, store.ErrExists) {
			return err
		}
	}
	return errors.New("session record is changed by others all the time")
}
