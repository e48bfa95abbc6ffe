package tools

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/mark3labs/mcp-go/mcp"

	"github.com/mcp-clerk/mcp-clerk/internal/identity"
)

const userInfoInput = `{
  "type": "object",
  "properties": {},
  "additionalProperties": false
}`

const userInfoOutput = `{
  "type": "object",
  "properties": {
    "userId": {"type": "string", "description": "Clerk's id of the user"},
    "email": {"type": "string", "description": "The primary e-mail address; empty if there is none"},
    "firstName": {"type": "string"},
    "lastName": {"type": "string"},
    "imageUrl": {"type": "string"},
    "role": {"type": ["string", "null"], "description": "The role in the public metadata, the first if there are several; null if there is none"},
    "roles": {"type": "array", "items": {"type": "string"}, "description": "All roles in the public metadata"},
    "publicMetadata": {"type": "object", "description": "The user's public metadata"},
    "metadata": {"type": "object", "description": "The same as publicMetadata"},
    "organizations": {
      "type": "array",
      "description": "The organizations the user belongs to",
      "items": {
        "type": "object",
        "properties": {
          "id": {"type": "string"},
          "name": {"type": "string"},
          "slug": {"type": "string"},
          "role": {"type": "string", "description": "The role in this organization, such as org:admin"},
          "permissions": {"type": "array", "items": {"type": "string"}}
        },
        "required": ["id", "name", "slug", "role", "permissions"]
      }
    }
  },
  "required": ["userId", "email", "firstName", "lastName", "imageUrl", "role", "roles", "publicMetadata", "metadata", "organizations"]
}`

// userInfo is the structured content of the tool. The first seven names but
// roles are those that clients of the template know, metadata among them.
type userInfo struct {
	UserID         string          `json:"userId"`
	Email          string          `json:"email"`
	FirstName      string          `json:"firstName"`
	LastName       string          `json:"lastName"`
	ImageURL       string          `json:"imageUrl"`
	Role           *string         `json:"role"`
	Roles          []string        `json:"roles"`
	PublicMetadata json.RawMessage `json:"publicMetadata"`
	Metadata       json.RawMessage `json:"metadata"`
	Organizations  []organization  `json:"organizations"`
}

type organization struct {
	ID          string   `json:"id"`
	Name        string   `json:"name"`
	Slug        string   `json:"slug"`
	Role        string   `json:"role"`
	Permissions []string `json:"permissions"`
}

// UserInfo returns the tool that describes the caller as Clerk knows them now.
// lookup is asked for the principal's subject at every call; it answers with
// identity.ErrNoUser or identity.ErrUnavailable (wrapped) where it must.
func UserInfo(lookup func(ctx context.Context, subject string) (identity.User, error)) (mcp.Tool, Handler) {
	tool := mcp.Tool{
		Name:            "userInfo",
		Title:           "Who am I",
		Description:     "Returns the signed-in user: id, e-mail, name, image, role, public metadata and organizations, as Clerk holds them now.",
		RawInputSchema:  json.RawMessage(userInfoInput),
		RawOutputSchema: json.RawMessage(userInfoOutput),
		Annotations:     hints("Who am I", true, false),
	}
	return tool, func(ctx context.Context, req mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		if _, err := parseArguments(req); err != nil {
			return refuse("%v", err), nil
		}
		principal := identity.FromContext(ctx)
		if principal == nil {
			return refuse("nobody is signed in: sign in and call again"), nil
		}
		user, err := lookup(ctx, principal.Subject)
		switch {
		case errors.Is(err, identity.ErrNoUser):
			return refuse("Clerk does not know this user any more: sign in again"), nil
		case errors.Is(err, identity.ErrUnavailable):
			return refuse("Clerk cannot be asked right now: try again in a moment"), nil
		case err != nil:
			return nil, fmt.Errorf("look up the user: %w", err)
		}
		info := describe(user)
		text, err := readable(info)
		if err != nil {
			return nil, fmt.Errorf("describe user %q: %w", user.ID, err)
		}
		return mcp.NewToolResultStructured(info, text), nil
	}
}

func describe(user identity.User) userInfo {
	metadata := user.PublicMetadata
	if len(metadata) == 0 || string(bytes.TrimSpace(metadata)) == "null" {
		metadata = json.RawMessage(`{}`)
	}
	info := userInfo{
		UserID:         user.ID,
		Email:          user.Email,
		FirstName:      user.FirstName,
		LastName:       user.LastName,
		ImageURL:       user.ImageURL,
		Roles:          append([]string{}, user.Roles...),
		PublicMetadata: metadata,
		Metadata:       metadata,
		Organizations:  make([]organization, 0, len(user.Memberships)),
	}
	if len(user.Roles) > 0 {
		info.Role = &user.Roles[0]
	}
	for _, m := range user.Memberships {
		info.Organizations = append(info.Organizations, organization{
			ID: m.OrgID, Name: m.OrgName, Slug: m.OrgSlug, Role: m.Role,
			Permissions: append([]string{}, m.Permissions...),
		})
	}
	return info
}

// readable is indented JSON without HTML escapes, as a person reads it.
func readable(v any) (string, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(v); err != nil {
		return "", err
	}
	return string(bytes.TrimSpace(b.Bytes())), nil
}
