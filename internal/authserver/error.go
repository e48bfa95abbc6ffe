package authserver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net/http"
	"strconv"
	"time"

	"github.com/mcp-clerk/mcp-clerk/internal/identity"
	"github.com/mcp-clerk/mcp-clerk/internal/store"
)

// OAuth error codes (RFC 6749 sections 4.1.2.1 and 5.2, RFC 7591 section
// 3.2.2, RFC 8707 section 2, OpenID Connect Core section 3.1.2.6).
const (
	codeInvalidRequest       = "invalid_request"
	codeInvalidClient        = "invalid_client"
	codeInvalidGrant         = "invalid_grant"
	codeInvalidScope         = "invalid_scope"
	codeInvalidTarget        = "invalid_target"
	codeUnsupportedGrantType = "unsupported_grant_type"
	codeUnsupportedResponse  = "unsupported_response_type"
	codeUnauthorizedClient   = "unauthorized_client"
	codeAccessDenied         = "access_denied"
	codeServerError          = "server_error"
	codeUnavailable          = "temporarily_unavailable"
	codeLoginRequired        = "login_required"
	codeConsentRequired      = "consent_required"
	codeInvalidRedirect      = "invalid_redirect_uri"
	codeInvalidMetadata      = "invalid_client_metadata"
)

// oauthError is an error as a client is told it. What caused it is for the log.
type oauthError struct {
	Status      int // 0: 400
	Code        string
	Description string
	RetryAfter  time.Duration
	Basic       bool  // the client tried HTTP Basic: the refusal names the scheme (RFC 6749 section 5.2)
	Bearer      bool  // a bearer token is missing or wrong (RFC 6750 section 3)
	Cause       error // not shown
}

func (e *oauthError) Error() string {
	if e.Cause != nil {
		return fmt.Sprintf("%s: %s: %v", e.Code, e.Description, e.Cause)
	}
	return e.Code + ": " + e.Description
}

func (e *oauthError) Unwrap() error { return e.Cause }

func invalidRequest(description string) *oauthError {
	return &oauthError{Code: codeInvalidRequest, Description: description}
}

// unavailable is what becomes of a store or provider that could not be asked.
// The client may try again: nothing was decided.
func unavailable(cause error) *oauthError {
	return &oauthError{Status: http.StatusServiceUnavailable, Code: codeUnavailable,
		Description: "the server cannot decide this right now; try again", RetryAfter: time.Second, Cause: cause}
}

// storeError wraps an error of the store so that callers can tell it apart.
func storeError(doing string, err error) error {
	if errors.Is(err, store.ErrNotFound) || errors.Is(err, store.ErrExists) {
		return fmt.Errorf("%s: %w", doing, err)
	}
	return fmt.Errorf("%s: %w: %w", doing, identity.ErrUnavailable, err)
}

func asOAuthError(err error) *oauthError {
	var oe *oauthError
	if errors.As(err, &oe) {
		return oe
	}
	return unavailable(err)
}

// writeError answers a program.
func (s *Server) writeError(w http.ResponseWriter, r *http.Request, err error) {
	oe := asOAuthError(err)
	noStore(w.Header())
	status := oe.Status
	if status == 0 {
		status = http.StatusBadRequest
	}
	if oe.Basic {
		w.Header().Set("WWW-Authenticate", `Basic realm="OAuth client"`)
	}
	if oe.Bearer {
		w.Header().Set("WWW-Authenticate", `Bearer error="`+oe.Code+`"`)
	}
	setRetryAfter(w.Header(), oe.RetryAfter)
	s.logFailure(r.Context(), r.URL.Path, status, oe)
	writeJSON(w, status, struct {
		Code        string `json:"error"`
		Description string `json:"error_description,omitempty"`
	}{oe.Code, oe.Description})
}

func (s *Server) logFailure(ctx context.Context, path string, status int, err error) {
	level := slog.LevelInfo
	switch {
	case status >= 500:
		level = slog.LevelError
	case errors.Is(err, errPending): // every few seconds
		level = slog.LevelDebug
	}
	s.log.Log(ctx, level, "request refused", "path", path, "status", status, "error", err.Error())
}

func setRetryAfter(h http.Header, d time.Duration) {
	if d > 0 {
		h.Set("Retry-After", strconv.Itoa(int(math.Ceil(d.Seconds()))))
	}
}
