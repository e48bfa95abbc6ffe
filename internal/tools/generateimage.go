package tools

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/mark3labs/mcp-go/mcp"
)

// The limits of generateImage. They are those of the FLUX.1 schnell model,
// kept for every provider so that the schema is one.
const (
	MaxPromptLength = 2048 // Unicode code points
	MinSteps        = 4
	MaxSteps        = 8
	DefaultSteps    = 4
)

const generateImageInput = `{
  "type": "object",
  "properties": {
    "prompt": {"type": "string", "minLength": 1, "maxLength": 2048, "description": "What the picture should show"},
    "steps": {"type": "integer", "minimum": 4, "maximum": 8, "default": 4, "description": "How much work goes into the picture: 4 is fast, 8 has the most detail"}
  },
  "required": ["prompt"],
  "additionalProperties": false
}`

// ImageRequest is what a provider is asked for, already validated.
type ImageRequest struct {
	Prompt string // 1 to MaxPromptLength code points
	Steps  int    // MinSteps to MaxSteps
}

// Image is a picture as a provider made it.
type Image struct {
	Data     []byte // encoded
	MIMEType string // "image/png", "image/jpeg", "image/webp"
	Caption  string // one line that says honestly what this is
}

// ImageFunc makes one picture. It calls progress, from one goroutine at a
// time and not after it returned, with a growing done and the total (0 if it
// is not known). It gives up when ctx ends. An *ImageError is shown to the
// caller; of every other error only that it happened.
type ImageFunc func(ctx context.Context, req ImageRequest, progress func(done, total float64, message string)) (Image, error)

// ImageError is a failure that the caller may read: it names what to change
// and holds no secret.
type ImageError struct {
	Message string
	Err     error // the cause, for the log; may be nil
}

func (e *ImageError) Error() string { return e.Message }
func (e *ImageError) Unwrap() error { return e.Err }

// ImageOptions says how generateImage works. Without a Provider the tool
// answers every call with the settings that would give it one.
type ImageOptions struct {
	Provider ImageFunc
	About    string // one sentence on the provider, part of the tool's description
	External bool   // the provider asks a service on the network
	Timeout  time.Duration
	MaxBytes int // of the encoded picture
	// Progress sends one progress notification for the call in ctx, if its
	// caller asked for them. nil sends none.
	Progress func(ctx context.Context, done, total float64, message string)
}

// NoProvider is the answer of a server that has no image provider.
const NoProvider = "no image provider is configured on this server: set CLOUDFLARE_ACCOUNT_ID and CLOUDFLARE_API_TOKEN " +
	"to generate images with Cloudflare Workers AI, IMAGE_API_URL and IMAGE_API_MODEL for a service with OpenAI's image API, " +
	"or IMAGE_PROVIDER=sketch for the built-in offline sketch (no AI)"

// GenerateImage returns the tool that makes a picture from a text:
// {prompt, steps} -> image content and a line of text.
func GenerateImage(o ImageOptions) (mcp.Tool, Handler) {
	if o.Timeout <= 0 {
		o.Timeout = time.Minute
	}
	if o.MaxBytes <= 0 {
		o.MaxBytes = 4 << 20
	}
	about := o.About
	if o.Provider == nil {
		about = "No image provider is configured on this server yet."
	}
	tool := mcp.Tool{
		Name:           "generateImage",
		Title:          "Generate an image",
		Description:    strings.TrimSpace("Makes an image from a text prompt. " + about),
		RawInputSchema: json.RawMessage(generateImageInput),
		Annotations:    hints("Generate an image", !o.External, o.External),
	}
	return tool, func(ctx context.Context, req mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		order, err := imageRequest(req)
		if err != nil {
			return refuse("%v", err), nil
		}
		if o.Provider == nil {
			return refuse(NoProvider), nil
		}
		progress := func(done, total float64, message string) {
			if o.Progress != nil {
				o.Progress(ctx, done, total, message)
			}
		}
		deadline, cancel := context.WithTimeout(ctx, o.Timeout)
		defer cancel()
		img, err := o.Provider(deadline, order, progress)
		var told *ImageError
		switch {
		case ctx.Err() != nil:
			return nil, ctx.Err() // the caller went away or cancelled
		case errors.Is(deadline.Err(), context.DeadlineExceeded) && err != nil:
			return refuse("the image took longer than %v: try again, or with fewer steps", o.Timeout), nil
		case errors.As(err, &told):
			return refuse("%s", told.Message), nil
		case err != nil:
			return nil, fmt.Errorf("make an image: %w", err)
		case len(img.Data) > o.MaxBytes:
			return refuse("the image is too large: %d bytes, of at most %d", len(img.Data), o.MaxBytes), nil
		case !strings.HasPrefix(http.DetectContentType(img.Data), "image/"):
			return refuse("the image provider answered with something that is not an image"), nil
		}
		return &mcp.CallToolResult{Content: []mcp.Content{
			mcp.NewImageContent(base64.StdEncoding.EncodeToString(img.Data), img.MIMEType),
			mcp.NewTextContent(img.Caption),
		}}, nil
	}
}

func imageRequest(req mcp.CallToolRequest) (ImageRequest, error) {
	args, err := parseArguments(req, "prompt", "steps")
	if err != nil {
		return ImageRequest{}, err
	}
	order := ImageRequest{Steps: DefaultSteps}
	if !args.given("prompt") {
		return order, errors.New(`argument "prompt" is missing: say what the picture should show`)
	}
	if err := json.Unmarshal(args.get("prompt"), &order.Prompt); err != nil {
		return order, errors.New(`argument "prompt" must be a string`)
	}
	if strings.TrimSpace(order.Prompt) == "" {
		return order, errors.New(`argument "prompt" is empty: say what the picture should show`)
	}
	if n := utf8.RuneCountInString(order.Prompt); n > MaxPromptLength {
		return order, fmt.Errorf("argument %q has %d characters: at most %d are allowed", "prompt", n, MaxPromptLength)
	}
	if args.given("steps") {
		// 4.0 is an integer to JSON Schema, so it is one here.
		steps, err := args.number("steps")
		if err != nil || !steps.IsInt() || !steps.Num().IsInt64() || steps.Num().Int64() < MinSteps || steps.Num().Int64() > MaxSteps {
			return order, fmt.Errorf("argument %q must be an integer from %d to %d", "steps", MinSteps, MaxSteps)
		}
		order.Steps = int(steps.Num().Int64())
	}
	return order, nil
}
