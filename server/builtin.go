package server

import (
	"context"
	"fmt"
	"net/http"
	"slices"

	"github.com/mcp-clerk/mcp-clerk/internal/identity"
	"github.com/mcp-clerk/mcp-clerk/internal/tools"
)

// BuiltinTools says how the tools that come with the server work.
type BuiltinTools struct {
	// Public are those that anybody may call, signed in or not, which goes with
	// Options.Public; see CheckPublicTools.
	Public []string
	// ImageRoles are the roles that may use generateImage; nil: DefaultImageRoles.
	ImageRoles []string
	// Image makes the pictures. The zero value makes none: generateImage then
	// answers with the settings that would give it a provider.
	Image ImageProvider
}

// DefaultImageRoles are the roles that may use generateImage.
var DefaultImageRoles = []string{"admin", "premium", "image_generation"}

// ImageProvider makes the pictures of generateImage.
type ImageProvider struct{ options tools.ImageOptions }

// Sketch is the offline provider: it composes an abstract picture from the
// prompt, without a network and without an AI model, and says so.
func Sketch() ImageProvider {
	return ImageProvider{tools.ImageOptions{Provider: tools.Sketch, About: tools.SketchAbout}}
}

// WorkersAI is the provider that runs FLUX.1 [schnell] on Cloudflare Workers AI.
// The token needs the Workers AI permission for the account. client lends its
// Transport; nil means the default one.
func WorkersAI(accountID string, token Secret, client *http.Client) ImageProvider {
	return workersAI("", accountID, token, client)
}

func workersAI(base, accountID string, token Secret, client *http.Client) ImageProvider {
	return ImageProvider{tools.ImageOptions{
		Provider: tools.WorkersAI(tools.WorkersAIOptions{AccountID: accountID, APIToken: token, BaseURL: base, HTTPClient: client}),
		About:    tools.WorkersAIAbout,
		External: true,
	}}
}

// ImageAPI is the provider that asks a service with the image endpoint of
// OpenAI's API, at baseURL + "/images/generations", for pictures by a model; key
// may be empty. client lends its Transport; nil means the default one. The error
// says what is wrong with the address, the key or the model.
func ImageAPI(baseURL string, key Secret, model string, client *http.Client) (ImageProvider, error) {
	o := tools.ImageAPIOptions{BaseURL: baseURL, Key: key, Model: model, HTTPClient: client}
	provider, err := tools.ImageAPI(o)
	if err != nil {
		return ImageProvider{}, err
	}
	return ImageProvider{tools.ImageOptions{Provider: provider, About: tools.ImageAPIAbout(o), External: true, Timeout: tools.ImageAPITimeout}}, nil
}

// ScopeImages is the scope of generateImage: with it an application may have
// pictures made for a user whose role allows that.
const ScopeImages = "mcp:images"

// CheckPublicTools refuses the names of built-in tools that are none, or that
// need to know who calls.
func CheckPublicTools(names []string) error {
	for _, name := range names {
		switch name {
		case "add":
		case "userInfo", "generateImage":
			return fmt.Errorf("%s needs to know who calls", name)
		default:
			return fmt.Errorf("there is no built-in tool %q", name)
		}
	}
	return nil
}

// AddBuiltinTools adds add and userInfo, for every signed-in user, and
// generateImage, for the roles that o names and tokens with ScopeImages. It
// panics when a tool that o makes public cannot be.
func (s *Server) AddBuiltinTools(o BuiltinTools) {
	if err := CheckPublicTools(o.Public); err != nil {
		panic("server: public tools: " + err.Error())
	}
	tool, h := tools.Add()
	options := []ToolOption{checksItself, Quick()}
	if slices.Contains(o.Public, "add") {
		options = append(options, RequireNothing())
	}
	s.AddTool(tool, h, options...)

	tool, h = tools.UserInfo(func(ctx context.Context, _ string) (identity.User, error) {
		user, err := CurrentUser(ctx)
		if err != nil {
			return identity.User{}, err
		}
		return *user, nil
	})
	s.AddTool(tool, h, checksItself)

	roles := o.ImageRoles
	if roles == nil {
		roles = DefaultImageRoles
	}
	image := o.Image.options
	image.Progress = func(ctx context.Context, done, total float64, message string) {
		// A client that does not listen still gets its picture.
		_ = Progress(ctx, done, total, message)
	}
	tool, h = tools.GenerateImage(image)
	s.AddTool(tool, h, checksItself, RequireRole(roles...),
		RequireScope(ScopeImages, "Have pictures made in your name, if your role allows it"))
}
