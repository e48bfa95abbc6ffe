package tools_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mark3labs/mcp-go/mcp"

	"github.com/mcp-clerk/mcp-clerk/internal/secret"
	"github.com/mcp-clerk/mcp-clerk/internal/tools"
)

const (
	imageKey = "sk-image-canary"
	pngHead  = "\x89PNG\r\n\x1a\n a picture"
	jpegHead = "\xff\xd8\xff\xe0 a picture"
	webpHead = "RIFF\x10\x00\x00\x00WEBPVP8 a picture"
)

// imageService is a stand-in for a service with OpenAI's image API.
func imageService(t *testing.T, answer http.HandlerFunc) (tools.Handler, string) {
	t.Helper()
	return imageServiceBy(t, http.DefaultClient, answer)
}

func imageServiceBy(t *testing.T, client *http.Client, answer http.HandlerFunc) (tools.Handler, string) {
	t.Helper()
	api := httptest.NewServer(answer)
	t.Cleanup(api.Close)
	provider, err := tools.ImageAPI(tools.ImageAPIOptions{BaseURL: api.URL + "/v1/", Key: imageKey, Model: "painter-1", HTTPClient: client, MaxBytes: 4096})
	if err != nil {
		t.Fatal(err)
	}
	_, h := tools.GenerateImage(tools.ImageOptions{External: true, Provider: provider, Timeout: 30 * time.Second})
	return h, api.URL
}

func b64(data string) string { return base64.StdEncoding.EncodeToString([]byte(data)) }

func TestImageAPIAsksForBase64(t *testing.T) {
	for data, kind := range map[string]string{pngHead: "image/png", jpegHead: "image/jpeg", webpHead: "image/webp"} {
		h, _ := imageService(t, func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			if r.Method != http.MethodPost || r.URL.Path != "/v1/images/generations" || r.Header.Get("Authorization") != "Bearer "+imageKey || r.Header.Get("Content-Type") != "application/json" {
				t.Errorf("%s %s %v", r.Method, r.URL, r.Header)
			}
			if string(body) != `{"model":"painter-1","n":1,"prompt":"a boat","response_format":"b64_json"}` {
				t.Errorf("body %s", body)
			}
			w.Header().Set("Content-Type", "image/bmp") // nobody believes it
			fmt.Fprintf(w, `{"created":1,"data":[{"b64_json":%q}]}`, b64(data))
		})
		res := call(t, t.Context(), h, `{"prompt":"a boat","steps":7}`)
		img, ok := res.Content[0].(mcp.ImageContent)
		if res.IsError || !ok || img.MIMEType != kind || img.Data != b64(data) || !strings.Contains(text(t, res), "painter-1") {
			t.Errorf("%s: %+v", kind, res)
		}
	}
}

// Some models refuse the parameter that asks for base64, and give it anyway.
// They are asked once more without, and from then on without.
func TestImageAPIForModelsThatTakeNoFormat(t *testing.T) {
	for name, refusal := range map[string]string{
		"by name":      `{"error":{"message":"Unknown parameter: 'response_format'.","type":"invalid_request_error","param":"response_format","code":"unknown_parameter"}}`,
		"in a text":    `{"error":"response_format is not supported"}`,
		"in an object": `{"error":{"message":"response_format: extra fields not permitted"}}`,
	} {
		var asked, refused atomic.Int32
		h, _ := imageService(t, func(w http.ResponseWriter, r *http.Request) {
			asked.Add(1)
			var body map[string]any
			if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
				t.Error(err)
			}
			if body["response_format"] != nil {
				refused.Add(1)
				w.WriteHeader(http.StatusBadRequest)
				fmt.Fprint(w, refusal)
				return
			}
			fmt.Fprintf(w, `{"data":[{"b64_json":%q}]}`, b64(pngHead))
		})
		for range 3 {
			if res := call(t, t.Context(), h, `{"prompt":"x"}`); res.IsError {
				t.Fatalf("%s: %s", name, text(t, res))
			}
		}
		if asked.Load() != 4 || refused.Load() != 1 {
			t.Errorf("%s: asked %d times, refused %d", name, asked.Load(), refused.Load())
		}
	}
}

// What was refused for another reason is not asked for again: it might have run.
func TestImageAPIAsksOnceForWhatIsRefused(t *testing.T) {
	for _, status := range []int{400, 401, 429, 500, 503} {
		var asked atomic.Int32
		h, _ := imageService(t, func(w http.ResponseWriter, _ *http.Request) {
			asked.Add(1)
			w.WriteHeader(status)
			fmt.Fprint(w, `{"error":{"message":"no"}}`)
		})
		call(t, t.Context(), h, `{"prompt":"x"}`)
		if asked.Load() != 1 {
			t.Errorf("status %d: asked %d times", status, asked.Load())
		}
	}
}

// An address in an answer is fetched without the key, from the service itself or
// by https from the public, and from nowhere else.
func TestImageAPIFetchesWhatIsNamedByAddress(t *testing.T) {
	inside := func(w http.ResponseWriter, _ *http.Request) {
		t.Error("an address inside was fetched")
		_, _ = io.WriteString(w, pngHead)
	}
	plain, tls := httptest.NewServer(http.HandlerFunc(inside)), httptest.NewTLSServer(http.HandlerFunc(inside))
	t.Cleanup(plain.Close)
	t.Cleanup(tls.Close)
	for name, tt := range map[string]struct {
		address func(self string) string
		status  int
		ok      bool
	}{
		"of the service":    {func(self string) string { return self + "/files/1.png" }, 200, true},
		"gone":              {func(self string) string { return self + "/files/1.png" }, 404, false},
		"redirected":        {func(self string) string { return self + "/files/1.png" }, 302, false},
		"inside":            {func(string) string { return plain.URL }, 200, false},
		"inside by https":   {func(string) string { return tls.URL }, 200, false},
		"inside, by name":   {func(string) string { return strings.Replace(tls.URL, "127.0.0.1", "localhost", 1) }, 200, false},
		"with a user":       {func(self string) string { return strings.Replace(self, "http://", "http://u:p@", 1) + "/files/1.png" }, 200, false},
		"a file":            {func(string) string { return "file:///etc/passwd" }, 200, false},
		"relative":          {func(string) string { return "/files/1.png" }, 200, false},
		"no address at all": {func(string) string { return "http://[::1" }, 200, false},
	} {
		t.Run(name, func(t *testing.T) {
			self := ""
			h, base := imageServiceBy(t, tls.Client(), func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/v1/images/generations" {
					fmt.Fprintf(w, `{"data":[{"url":%q}]}`, tt.address(self))
					return
				}
				if r.Header.Get("Authorization") != "" {
					t.Error("the key was sent for a picture")
				}
				w.Header().Set("Location", plain.URL)
				w.WriteHeader(tt.status)
				_, _ = io.WriteString(w, pngHead)
			})
			self = base
			res := call(t, t.Context(), h, `{"prompt":"x"}`)
			if res.IsError == tt.ok {
				t.Errorf("%+v", res)
			}
		})
	}
}

func TestOnlyPublicAddressesAreConnectedTo(t *testing.T) {
	for address, public := range map[string]bool{
		"93.184.215.14:443": true, "[2606:2800:21f:cb07::1]:443": true,
		"127.0.0.1:443": false, "10.1.2.3:443": false, "172.16.0.1:443": false, "192.168.1.1:443": false, "169.254.169.254:80": false,
		"100.64.0.1:443": false, "0.0.0.0:443": false, "255.255.255.255:443": false, "224.0.0.1:443": false,
		"[::1]:443": false, "[::]:443": false, "[fd00::1]:443": false, "[fe80::1]:443": false, "[::ffff:127.0.0.1]:443": false, "[::ffff:10.0.0.1]:443": false,
		"[64:ff9b::7f00:1]:443": false, "[2002:7f00:1::]:443": false, "[2001:0:7f00::1]:443": false, "nonsense": false,
	} {
		if err := tools.PublicOnly(address); (err == nil) != public {
			t.Errorf("%s: %v", address, err)
		}
	}
}

func TestImageAPIErrorsSayWhatToDoAndHoldNoKey(t *testing.T) {
	for name, tt := range map[string]struct {
		status int
		body   string
		want   string
	}{
		"wrong key":        {401, `{"error":{"message":"Incorrect API key provided: ` + imageKey + `"}}`, "IMAGE_API_KEY"},
		"not allowed":      {403, `{"error":{"message":"verify your organization"}}`, "verify your organization"},
		"unknown model":    {404, `{"error":{"message":"The model does not exist"}}`, "IMAGE_API_MODEL"},
		"quota":            {429, `{"error":{"message":"billing limit"}}`, "try again in 30 s"},
		"refused prompt":   {400, `{"error":{"message":"rejected by the safety system","code":"moderation_blocked"}}`, "safety system"},
		"error as a text":  {400, `{"error":"model is loading"}`, "model is loading"},
		"failure":          {502, `<html>bad gateway ` + imageKey, "try again"},
		"no JSON":          {200, `<html>`, "could not be read"},
		"nothing":          {200, `{}`, "made no image"},
		"null":             {200, `null`, "made no image"},
		"an empty image":   {200, `{"data":[{"b64_json":""}]}`, "made no image"},
		"not base64":       {200, `{"data":[{"b64_json":"%%%"}]}`, "could not be read"},
		"a page":           {200, `{"data":[{"b64_json":"` + b64("<html><script>") + `"}]}`, "no PNG, JPEG or WebP"},
		"another image":    {200, `{"data":[{"b64_json":"` + b64("GIF89a a picture") + `"}]}`, "no PNG, JPEG or WebP"},
		"endless":          {200, `{"data":[{"b64_json":"` + strings.Repeat("A", 5000) + `"}]}`, "too large"},
		"redirect":         {307, ``, "307"},
		"control in error": {400, `{"error":{"message":"a\r\nb\u001b[31m"}}`, "a  b [31m"},
	} {
		t.Run(name, func(t *testing.T) {
			refused(t, func(answer http.HandlerFunc) tools.Handler {
				h, _ := imageService(t, answer)
				return h
			}, tt.status, tt.body, tt.want, imageKey)
		})
	}
}

func TestImageAPIStopsWithItsCaller(t *testing.T) {
	begun, over := make(chan struct{}), make(chan struct{})
	h, _ := imageService(t, func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.ReadAll(r.Body)
		close(begun)
		<-r.Context().Done()
		close(over)
	})
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-begun; cancel() }()
	if _, err := h(ctx, mcp.CallToolRequest{Params: mcp.CallToolParams{Name: "generateImage", RawArguments: json.RawMessage(`{"prompt":"x"}`)}}); err == nil {
		t.Error("no error")
	}
	<-over
}

func TestImageAPIOptionsAreChecked(t *testing.T) {
	good := tools.ImageAPIOptions{BaseURL: "https://api.example.com/v1", Model: "m"}
	for name, change := range map[string]func(*tools.ImageAPIOptions){
		"no address":         func(o *tools.ImageAPIOptions) { o.BaseURL = "" },
		"http":               func(o *tools.ImageAPIOptions) { o.BaseURL = "http://api.example.com/v1" },
		"a name like ours":   func(o *tools.ImageAPIOptions) { o.BaseURL = "http://localhost.example.com/v1" },
		"a user":             func(o *tools.ImageAPIOptions) { o.BaseURL = "https://u:" + imageKey + "@api.example.com/v1" },
		"a query":            func(o *tools.ImageAPIOptions) { o.BaseURL = "https://api.example.com/v1?key=" + imageKey },
		"no model":           func(o *tools.ImageAPIOptions) { o.Model = " " },
		"a key of two lines": func(o *tools.ImageAPIOptions) { o.Key = secret.String(imageKey + "\n") },
	} {
		o := good
		change(&o)
		if _, err := tools.ImageAPI(o); err == nil || strings.Contains(err.Error(), imageKey) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, base := range []string{"https://api.example.com", "http://localhost:8080/v1/", "http://127.0.0.1:1/v1", "http://[::1]:1"} {
		o := good
		o.BaseURL = base
		if _, err := tools.ImageAPI(o); err != nil {
			t.Errorf("%s: %v", base, err)
		}
	}
}
