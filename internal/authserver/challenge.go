package authserver

import (
	"net/http"
	"slices"
	"strings"
)

// Challenge returns the value of the WWW-Authenticate header for a refused
// request r to the MCP endpoint (RFC 6750 section 3, RFC 9728 section 5.1).
// code is "" when no token was presented, else "invalid_token" (401) or
// "insufficient_scope" (403). scopes are what the request needs; none means
// all scopes of the resource: clients ask for what the challenge names, and
// few of them come back for more.
func (s *Server) Challenge(r *http.Request, code string, scopes ...string) string {
	if len(scopes) == 0 {
		scopes = s.offer.Load().resource
	}
	scopes = slices.DeleteFunc(slices.Clone(scopes), func(sc string) bool { return !validScope(sc) })
	var b strings.Builder
	b.WriteString(`Bearer resource_metadata="`)
	b.WriteString(s.site.originFor(r) + resourceMetadataPath + s.site.pathFor(r))
	b.WriteString(`", scope="` + strings.Join(scopes, " ") + `"`)
	switch code {
	case "":
	case "insufficient_scope":
		b.WriteString(`, error="insufficient_scope", error_description="the token does not carry a scope that this request needs"`)
	default:
		b.WriteString(`, error="invalid_token", error_description="the access token is missing, expired, revoked or meant for another resource"`)
	}
	return b.String()
}
