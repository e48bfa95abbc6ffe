package tools_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"image/png"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mark3labs/mcp-go/mcp"

	"github.com/mcp-clerk/mcp-clerk/internal/secret"
	"github.com/mcp-clerk/mcp-clerk/internal/tools"
)

var pixel = []byte("\x89PNG\r\n\x1a\n and so on")

func picture(context.Context, tools.ImageRequest, func(float64, float64, string)) (tools.Image, error) {
	return tools.Image{Data: pixel, MIMEType: "image/png", Caption: "a caption"}, nil
}

func TestGenerateImageGivesAnImageAndACaption(t *testing.T) {
	_, h := tools.GenerateImage(tools.ImageOptions{Provider: picture})
	res := call(t, t.Context(), h, `{"prompt":"a boat"}`)
	if res.IsError || len(res.Content) != 2 {
		t.Fatalf("got %+v", res)
	}
	img, ok := res.Content[0].(mcp.ImageContent)
	if !ok || img.MIMEType != "image/png" || img.Data != base64.StdEncoding.EncodeToString(pixel) {
		t.Errorf("first content is %+v, want the image", res.Content[0])
	}
	if text(t, res) != "a caption" {
		t.Errorf("caption %q", text(t, res))
	}
}

func TestGenerateImageChecksItsArguments(t *testing.T) {
	var got tools.ImageRequest
	_, h := tools.GenerateImage(tools.ImageOptions{Provider: func(_ context.Context, req tools.ImageRequest, _ func(float64, float64, string)) (tools.Image, error) {
		got = req
		return tools.Image{Data: pixel}, nil
	}})
	long := strings.Repeat("ü", tools.MaxPromptLength)
	for arguments, want := range map[string]tools.ImageRequest{
		`{"prompt":"x"}`:              {Prompt: "x", Steps: 4},
		`{"prompt":"x","steps":null}`: {Prompt: "x", Steps: 4},
		`{"prompt":"x","steps":4}`:    {Prompt: "x", Steps: 4},
		`{"prompt":"x","steps":8}`:    {Prompt: "x", Steps: 8},
		`{"prompt":"x","steps":6.0}`:  {Prompt: "x", Steps: 6},
		`{"prompt":"` + long + `"}`:   {Prompt: long, Steps: 4},
	} {
		got = tools.ImageRequest{}
		if res := call(t, t.Context(), h, arguments); res.IsError || got != want {
			t.Errorf("generateImage %.40s asked for %.40v (%+.100v), want %.40v", arguments, got, res, want)
		}
	}
	for arguments, want := range map[string]string{
		`{}`:                           `"prompt" is missing`,
		`{"prompt":""}`:                "is empty",
		`{"prompt":" \n"}`:             "is empty",
		`{"prompt":7}`:                 "must be a string",
		`{"prompt":"` + long + `x"}`:   "2049 characters",
		`{"prompt":"x","steps":3}`:     "integer from 4 to 8",
		`{"prompt":"x","steps":9}`:     "integer from 4 to 8",
		`{"prompt":"x","steps":4.5}`:   "integer from 4 to 8",
		`{"prompt":"x","steps":"6"}`:   "integer from 4 to 8",
		`{"prompt":"x","steps":1e300}`: "integer from 4 to 8",
		`{"prompt":"x","step":6}`:      "takes prompt, steps",
		`{"prompt":"x","width":1}`:     "unknown argument",
	} {
		if res := call(t, t.Context(), h, arguments); !res.IsError || !strings.Contains(text(t, res), want) {
			t.Errorf("generateImage %.40s = %q (isError %t), want a refusal with %q", arguments, text(t, res), res.IsError, want)
		}
	}
}

func TestGenerateImageWithoutProviderNamesTheSettings(t *testing.T) {
	_, h := tools.GenerateImage(tools.ImageOptions{})
	res := call(t, t.Context(), h, `{"prompt":"x"}`)
	for _, setting := range []string{"CLOUDFLARE_ACCOUNT_ID", "CLOUDFLARE_API_TOKEN", "IMAGE_PROVIDER=sketch"} {
		if !res.IsError || !strings.Contains(text(t, res), setting) {
			t.Errorf("%q (isError %t) does not name %s", text(t, res), res.IsError, setting)
		}
	}
}

func TestGenerateImageTimesOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, h := tools.GenerateImage(tools.ImageOptions{
			Timeout: 5 * time.Second,
			Provider: func(ctx context.Context, _ tools.ImageRequest, _ func(float64, float64, string)) (tools.Image, error) {
				<-ctx.Done()
				return tools.Image{}, ctx.Err()
			},
		})
		started := time.Now()
		res := call(t, t.Context(), h, `{"prompt":"x"}`)
		if took := time.Since(started); took != 5*time.Second || !res.IsError || !strings.Contains(text(t, res), "5s") {
			t.Errorf("after %v: %q (isError %t)", took, text(t, res), res.IsError)
		}
	})
}

func TestGenerateImageStopsWhenItsCallerDoes(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	_, h := tools.GenerateImage(tools.ImageOptions{
		Provider: func(ctx context.Context, _ tools.ImageRequest, _ func(float64, float64, string)) (tools.Image, error) {
			cancel()
			<-ctx.Done()
			return tools.Image{}, ctx.Err()
		},
	})
	_, err := h(ctx, mcp.CallToolRequest{Params: mcp.CallToolParams{RawArguments: json.RawMessage(`{"prompt":"x"}`)}})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want context.Canceled", err)
	}
}

func TestGenerateImageRefusesWhatIsNoImageOrTooLarge(t *testing.T) {
	for want, data := range map[string][]byte{
		"not an image": []byte("<html>hello"),
		"too large":    append(bytes.Clone(pixel), make([]byte, 100)...),
	} {
		_, h := tools.GenerateImage(tools.ImageOptions{MaxBytes: 60, Provider: func(context.Context, tools.ImageRequest, func(float64, float64, string)) (tools.Image, error) {
			return tools.Image{Data: data, MIMEType: "image/png"}, nil
		}})
		if res := call(t, t.Context(), h, `{"prompt":"x"}`); !res.IsError || !strings.Contains(text(t, res), want) {
			t.Errorf("%q (isError %t), want %q", text(t, res), res.IsError, want)
		}
	}
}

func TestSketchIsADeterministicPNG(t *testing.T) {
	sketch := func(prompt string, steps int) []byte {
		t.Helper()
		img, err := tools.Sketch(t.Context(), tools.ImageRequest{Prompt: prompt, Steps: steps}, func(float64, float64, string) {})
		if err != nil {
			t.Fatal(err)
		}
		if img.MIMEType != "image/png" || !strings.Contains(img.Caption, "not an AI image") {
			t.Errorf("%q: type %q, caption %q", prompt, img.MIMEType, img.Caption)
		}
		return img.Data
	}
	one := sketch("a lighthouse at night", 4)
	if !bytes.Equal(one, sketch("a lighthouse at night", 4)) {
		t.Error("the same prompt gave two pictures")
	}
	if bytes.Equal(one, sketch("a lighthouse at noon", 4)) || bytes.Equal(one, sketch("a lighthouse at night", 8)) {
		t.Error("another prompt or more steps gave the same picture")
	}
	for _, prompt := range []string{"海", strings.Repeat("ocean ", 340)} {
		data := sketch(prompt, 8)
		cfg, err := png.DecodeConfig(bytes.NewReader(data))
		if err != nil || cfg.Width != tools.SketchWidth || cfg.Height != tools.SketchHeight {
			t.Errorf("%.10q: %+v, %v", prompt, cfg, err)
		}
		if len(data) > 1<<20 {
			t.Errorf("%.10q: %d bytes, want at most 1 MiB", prompt, len(data))
		}
	}
}

func TestProgressGrows(t *testing.T) {
	type note struct{ done, total float64 }
	var notes []note
	_, h := tools.GenerateImage(tools.ImageOptions{Provider: tools.Sketch, Progress: func(_ context.Context, done, total float64, _ string) {
		notes = append(notes, note{done, total})
	}})
	if res := call(t, t.Context(), h, `{"prompt":"x","steps":5}`); res.IsError {
		t.Fatal(text(t, res))
	}
	if len(notes) < 5 {
		t.Fatalf("%d progress notes for 5 layers", len(notes))
	}
	// MCP basic/patterns/progress: the progress value must increase each time.
	for i, n := range notes {
		if i > 0 && n.done <= notes[i-1].done || n.done > n.total {
			t.Errorf("note %d is %+v after %+v", i, n, notes[max(0, i-1)])
		}
	}
}

func TestSketchStopsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := tools.Sketch(ctx, tools.ImageRequest{Prompt: "x", Steps: 4}, func(float64, float64, string) {}); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want context.Canceled", err)
	}
}

const token = "cf-token-canary"

// cloudflare is a stand-in for the API.
func cloudflare(t *testing.T, answer http.HandlerFunc) tools.Handler {
	t.Helper()
	api := httptest.NewServer(answer)
	t.Cleanup(api.Close)
	_, h := tools.GenerateImage(tools.ImageOptions{External: true, Provider: tools.WorkersAI(tools.WorkersAIOptions{
		AccountID: "acc/../1", APIToken: secret.String(token), BaseURL: api.URL + "/client/v4/", HTTPClient: api.Client(), MaxBytes: 4096,
	})})
	return h
}

func TestWorkersAIRunsTheModel(t *testing.T) {
	jpeg := []byte("\xff\xd8\xff\xe0 a picture")
	h := cloudflare(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if r.Method != http.MethodPost || r.URL.EscapedPath() != "/client/v4/accounts/acc%2F..%2F1/ai/run/@cf/black-forest-labs/flux-1-schnell" {
			t.Errorf("%s %s", r.Method, r.URL.EscapedPath())
		}
		if r.Header.Get("Authorization") != "Bearer "+token || r.Header.Get("Content-Type") != "application/json" {
			t.Errorf("headers %v", r.Header)
		}
		if string(body) != `{"prompt":"a boat","steps":7}` {
			t.Errorf("body %s", body)
		}
		fmt.Fprintf(w, `{"result":{"image":%q},"success":true,"errors":[],"messages":[]}`, base64.StdEncoding.EncodeToString(jpeg))
	})
	res := call(t, t.Context(), h, `{"prompt":"a boat","steps":7}`)
	img, ok := res.Content[0].(mcp.ImageContent)
	if res.IsError || !ok || img.MIMEType != "image/jpeg" || img.Data != base64.StdEncoding.EncodeToString(jpeg) {
		t.Errorf("got %+v", res)
	}
}

// refused checks what is said of a provider's refusal: what is wanted, and never
// the secret, which no redirect is followed with either.
func refused(t *testing.T, at func(http.HandlerFunc) tools.Handler, status int, body, want, secret string) {
	t.Helper()
	h := at(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/elsewhere") {
			t.Error("the redirect was followed")
		}
		w.Header().Set("Location", "/elsewhere")
		w.Header().Set("Retry-After", "30")
		w.WriteHeader(status)
		fmt.Fprint(w, body)
	})
	res := call(t, t.Context(), h, `{"prompt":"x"}`)
	if !res.IsError || !strings.Contains(text(t, res), want) {
		t.Errorf("%q (isError %t), want %q", text(t, res), res.IsError, want)
	}
	if strings.Contains(text(t, res), secret) {
		t.Errorf("the secret is in %q", text(t, res))
	}
}

func TestWorkersAIErrorsSayWhatToDoAndHoldNoToken(t *testing.T) {
	for name, tt := range map[string]struct {
		status int
		body   string
		want   string
	}{
		"wrong token":      {401, `{"success":false,"errors":[{"code":10000,"message":"Authentication error for ` + token + `"}]}`, "CLOUDFLARE_API_TOKEN"},
		"no permission":    {403, `{"success":false,"errors":[{"code":9109,"message":"Unauthorized"}]}`, "Workers AI permission"},
		"unknown account":  {404, `{"success":false,"errors":[{"code":7003,"message":"Could not route"}]}`, "CLOUDFLARE_ACCOUNT_ID"},
		"quota":            {429, `{"success":false,"errors":[{"code":4006,"message":"you have used up your neurons"}]}`, "try again in 30 s"},
		"refused prompt":   {400, `{"success":false,"errors":[{"code":3030,"message":"prompt flagged"}]}`, "3030: prompt flagged"},
		"failure":          {502, `<html>bad gateway ` + token, "try again"},
		"no JSON":          {200, `<html>`, "could not be read"},
		"no success":       {200, `{"success":false,"errors":[{"code":5000,"message":"out of luck"}],"result":{}}`, "out of luck"},
		"not base64":       {200, `{"success":true,"result":{"image":"%%%"}}`, "could not be read"},
		"endless":          {200, `{"success":true,"result":{"image":"` + strings.Repeat("A", 5000) + `"}}`, "too large"},
		"redirect":         {307, ``, "307"},
		"control in error": {400, `{"errors":[{"code":1,"message":"a\r\nb\u001b[31m"}]}`, "a  b [31m"},
	} {
		t.Run(name, func(t *testing.T) {
			refused(t, func(answer http.HandlerFunc) tools.Handler { return cloudflare(t, answer) }, tt.status, tt.body, tt.want, token)
		})
	}
}

func TestWorkersAIUnreachable(t *testing.T) {
	h := cloudflare(t, func(w http.ResponseWriter, _ *http.Request) {
		panic(http.ErrAbortHandler)
	})
	res := call(t, t.Context(), h, `{"prompt":"x"}`)
	if !res.IsError || !strings.Contains(text(t, res), "could not be reached") || strings.Contains(text(t, res), "127.0.0.1") {
		t.Errorf("%q (isError %t)", text(t, res), res.IsError)
	}
}
