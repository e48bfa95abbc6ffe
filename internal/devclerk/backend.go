package devclerk

import (
	"cmp"
	"crypto/subtle"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// backend guards a handler of the Backend API with the secret key.
func (s *Server) backend(h http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		key, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		switch {
		case !ok:
			writeErrors(w, http.StatusUnauthorized, errAuthorizationFormat)
		case subtle.ConstantTimeCompare([]byte(key), []byte(s.secretKey.Reveal())) != 1:
			writeErrors(w, http.StatusUnauthorized, errKey)
		default:
			h(w, r)
		}
	}
}

// serveUser is GET /v1/users/{user_id}.
func (s *Server) serveUser(w http.ResponseWriter, r *http.Request) {
	a, ok := s.account(r.PathValue("id"))
	if !ok {
		writeErrors(w, http.StatusNotFound, errNotFound("No user was found with id "+r.PathValue("id")))
		return
	}
	writeJSON(w, http.StatusOK, userJSON(a))
}

// serveUserList is GET /v1/users: an array, the newest first.
func (s *Server) serveUserList(w http.ResponseWriter, r *http.Request) {
	list, ok := s.selectUsers(w, r.URL.Query())
	if !ok {
		return
	}
	list, ok = paged(w, r.URL.Query(), list)
	if !ok {
		return
	}
	answer := make([]map[string]any, 0, len(list))
	for _, a := range list {
		answer = append(answer, userJSON(a))
	}
	writeJSON(w, http.StatusOK, answer)
}

// serveUserCount is GET /v1/users/count (schema TotalCount).
func (s *Server) serveUserCount(w http.ResponseWriter, r *http.Request) {
	list, ok := s.selectUsers(w, r.URL.Query())
	if !ok {
		return
	}
	writeJSON(w, http.StatusOK, map[string]any{"object": "total_count", "total_count": len(list)})
}

// selectUsers applies the filters user_id (each with an optional + or -, at
// most 100), email_address and banned. Ids that are not found are ignored.
func (s *Server) selectUsers(w http.ResponseWriter, q url.Values) ([]account, bool) {
	if len(q["user_id"]) > 100 || len(q["email_address"]) > 100 {
		writeErrors(w, http.StatusUnprocessableEntity, errParameter("user_id", "At most 100 values are accepted"))
		return nil, false
	}
	var include, exclude []string
	for _, id := range q["user_id"] {
		if rest, ok := strings.CutPrefix(id, "-"); ok {
			exclude = append(exclude, rest)
		} else {
			include = append(include, strings.TrimPrefix(id, "+"))
		}
	}
	list := slices.DeleteFunc(s.accounts(), func(a account) bool {
		return include != nil && !slices.Contains(include, a.ID) ||
			slices.Contains(exclude, a.ID) ||
			q.Has("email_address") && !slices.Contains(q["email_address"], a.Email) ||
			q.Has("banned") && q.Get("banned") != strconv.FormatBool(a.Banned)
	})
	slices.SortStableFunc(list, func(a, b account) int { return b.created.Compare(a.created) })
	return list, true
}

// paged applies limit (1 to 500, default 10) and offset.
func paged[T any](w http.ResponseWriter, q url.Values, list []T) ([]T, bool) {
	limit, err1 := strconv.Atoi(cmp.Or(q.Get("limit"), "10"))
	offset, err2 := strconv.Atoi(cmp.Or(q.Get("offset"), "0"))
	if err1 != nil || limit < 1 || limit > 500 {
		writeErrors(w, http.StatusUnprocessableEntity, errParameter("limit", "limit must be a number from 1 to 500"))
		return nil, false
	}
	if err2 != nil || offset < 0 {
		writeErrors(w, http.StatusUnprocessableEntity, errParameter("offset", "offset must be a number and not negative"))
		return nil, false
	}
	list = list[min(offset, len(list)):]
	return list[:min(limit, len(list))], true
}

// serveMemberships is GET /v1/users/{user_id}/organization_memberships.
func (s *Server) serveMemberships(w http.ResponseWriter, r *http.Request) {
	a, ok := s.account(r.PathValue("id"))
	if !ok {
		writeErrors(w, http.StatusNotFound, errNotFound("No user was found with id "+r.PathValue("id")))
		return
	}
	list, ok := paged(w, r.URL.Query(), a.Memberships)
	if !ok {
		return
	}
	data := make([]map[string]any, 0, len(list))
	for _, m := range list {
		data = append(data, membershipJSON(a, m))
	}
	writeJSON(w, http.StatusOK, map[string]any{"data": data, "total_count": len(a.Memberships)})
}

func orNull(s string) any {
	if s == "" {
		return nil
	}
	return s
}

// userJSON has every required member of the schema User; times are Unix milliseconds.
func userJSON(a account) map[string]any {
	empty := []any{}
	verification := any(map[string]any{
		"object": "verification_otp", "status": "verified", "strategy": "email_code", "attempts": 1, "expire_at": a.created.Add(codeLifetime).UnixMilli(),
	})
	if a.Unverified {
		verification = nil // schema EmailAddress: nullable; nobody has begun with it
	}
	return map[string]any{
		"id":                       a.ID,
		"object":                   "user",
		"username":                 orNull(a.Username),
		"first_name":               orNull(a.FirstName),
		"last_name":                orNull(a.LastName),
		"image_url":                a.ImageURL,
		"has_image":                false,
		"primary_email_address_id": a.emailID,
		"primary_phone_number_id":  nil,
		"primary_web3_wallet_id":   nil,
		"password_enabled":         false,
		"two_factor_enabled":       false,
		"totp_enabled":             false,
		"backup_code_enabled":      false,
		"email_addresses": []any{map[string]any{
			"id":            a.emailID,
			"object":        "email_address",
			"email_address": a.Email,
			"reserved":      false,
			"verification":  verification,
			"linked_to":     empty,
			"created_at":    a.created.UnixMilli(),
			"updated_at":    a.created.UnixMilli(),
		}},
		"phone_numbers":                   empty,
		"web3_wallets":                    empty,
		"passkeys":                        empty,
		"external_accounts":               empty,
		"saml_accounts":                   empty,
		"enterprise_accounts":             empty,
		"public_metadata":                 a.PublicMetadata,
		"private_metadata":                a.PrivateMetadata,
		"unsafe_metadata":                 a.UnsafeMetadata,
		"external_id":                     nil,
		"last_sign_in_at":                 nil,
		"banned":                          a.Banned,
		"locked":                          a.Locked,
		"lockout_expires_in_seconds":      nil,
		"verification_attempts_remaining": 100,
		"mfa_enabled_at":                  nil,
		"mfa_disabled_at":                 nil,
		"legal_accepted_at":               nil,
		"delete_self_enabled":             true,
		"create_organization_enabled":     true,
		"last_active_at":                  nil,
		"created_at":                      a.created.UnixMilli(),
		"updated_at":                      a.updated.UnixMilli(),
	}
}

// membershipJSON follows the schemas OrganizationMembership and Organization.
func membershipJSON(a account, m Membership) map[string]any {
	slug := cmp.Or(m.OrgSlug, strings.ToLower(m.OrgID))
	return map[string]any{
		"object":           "organization_membership",
		"id":               "orgmem_" + strings.TrimPrefix(m.OrgID, "org_") + strings.TrimPrefix(a.ID, "user_"),
		"role":             m.Role,
		"role_name":        strings.TrimPrefix(m.Role, "org:"),
		"permissions":      append([]string{}, m.Permissions...),
		"public_metadata":  map[string]any{},
		"private_metadata": map[string]any{},
		"organization": map[string]any{
			"object":                  "organization",
			"id":                      m.OrgID,
			"name":                    cmp.Or(m.OrgName, slug),
			"slug":                    slug,
			"image_url":               imageURL(m.OrgID, strings.ToUpper(slug[:1])),
			"has_image":               false,
			"max_allowed_memberships": 5,
			"admin_delete_enabled":    true,
			"public_metadata":         map[string]any{},
			"private_metadata":        map[string]any{},
			"created_by":              a.ID,
			"created_at":              a.created.UnixMilli(),
			"updated_at":              a.created.UnixMilli(),
		},
		"public_user_data": map[string]any{
			"user_id":           a.ID,
			"first_name":        orNull(a.FirstName),
			"last_name":         orNull(a.LastName),
			"profile_image_url": a.ImageURL,
			"image_url":         a.ImageURL,
			"has_image":         false,
			"identifier":        a.Email,
			"username":          orNull(a.Username),
			"banned":            a.Banned,
		},
		"created_at": a.created.UnixMilli(),
		"updated_at": a.updated.UnixMilli(),
	}
}
