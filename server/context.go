package server

import (
	"context"
	"errors"

	"github.com/mcp-clerk/mcp-clerk/internal/identity"
)

// Caller is what the access token of a request says about its bearer.
type Caller = identity.Principal

// User is a person as Clerk describes them.
type User = identity.User

// Membership is a user's place in an organization.
type Membership = identity.Membership

var (
	// ErrUnavailable reports that Clerk or the store could not be asked.
	ErrUnavailable = identity.ErrUnavailable
	// ErrNoUser reports a user that Clerk does not know any more.
	ErrNoUser = identity.ErrNoUser
)

var errNoRequest = errors.New("not in the context of a request to this server")

// Principal returns who calls, from the context of a ToolHandler, or nil
// elsewhere. It says nothing about roles: those are only true when they are
// read, by CurrentUser.
func Principal(ctx context.Context) *Caller { return identity.FromContext(ctx) }

// CurrentUser returns the caller of a ToolHandler as Clerk knows them, at most
// 60 seconds old. The error wraps ErrUnavailable when Clerk cannot be asked
// and ErrNoUser when the user is gone.
func CurrentUser(ctx context.Context) (*User, error) {
	x := exchangeFrom(ctx)
	if x == nil {
		return nil, errNoRequest
	}
	return x.user(ctx)
}

// Progress tells the client how far a call is, if the client asked for that:
// done must grow from call to call, total is 0 when it is not known, message
// may be empty. It returns when the notification is written, so a client that
// reads slowly slows the tool down; an error may be ignored.
func Progress(ctx context.Context, done, total float64, message string) error {
	x := exchangeFrom(ctx)
	if x == nil {
		return errNoRequest
	}
	return x.progress(ctx, done, total, message)
}
