package devclerk

import (
	"encoding/json"
	"net/http"
)

// clerkError is one entry of Clerk's error bodies (schema ClerkError).
type clerkError struct {
	Message     string         `json:"message"`
	LongMessage string         `json:"long_message"`
	Code        string         `json:"code"`
	Meta        map[string]any `json:"meta,omitempty"`
}

// The codes are those of Clerk's documentation, "Backend API errors".
var (
	errTooMany = clerkError{
		Message:     "Too many requests. Please try again in a bit.",
		LongMessage: "Too many requests. Please try again in a bit.",
		Code:        "too_many_requests",
	}
	errKey = clerkError{
		Message:     "The provided Clerk Secret Key is invalid. Make sure that your Clerk Secret Key is correct.",
		LongMessage: "The provided Clerk Secret Key is invalid. Make sure that your Clerk Secret Key is correct.",
		Code:        "clerk_key_invalid",
	}
	errAuthorizationFormat = clerkError{
		Message:     "Invalid Authorization header format",
		LongMessage: `Invalid Authorization header format. Must be "Bearer <YOUR_API_KEY>"`,
		Code:        "authorization_header_format_invalid",
	}
)

func errNotFound(long string) clerkError {
	return clerkError{Message: "not found", LongMessage: long, Code: "resource_not_found"}
}

func errInternal(long string) clerkError {
	return clerkError{Message: "Oops, an unexpected error occurred", LongMessage: long, Code: "internal_clerk_error"}
}

func errParameter(name, long string) clerkError {
	return clerkError{Message: "is invalid", LongMessage: long, Code: "form_param_format_invalid", Meta: map[string]any{"param_name": name}}
}

// writeErrors answers with Clerk's error body (schema ClerkErrors).
func writeErrors(w http.ResponseWriter, status int, errs ...clerkError) {
	trace := traceID()
	w.Header().Set("Clerk-Trace-Id", trace)
	writeJSON(w, status, map[string]any{"errors": errs, "clerk_trace_id": trace})
}

// oauthError is an error in OAuth's own form (RFC 6749 sections 4.1.2.1 and
// 5.2). Clerk's descriptions carry a sentence for the code and one for the case.
type oauthError struct {
	status      int
	code        string
	description string
}

func (e *oauthError) Error() string { return e.code + ": " + e.description }

func writeOAuthError(w http.ResponseWriter, e *oauthError) {
	writeJSON(w, e.status, map[string]string{"error": e.code, "error_description": e.description})
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		http.Error(w, "not representable", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(b)
}
