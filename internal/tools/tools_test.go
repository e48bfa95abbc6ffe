package tools_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/mark3labs/mcp-go/mcp"

	"github.com/mcp-clerk/mcp-clerk/internal/identity"
	"github.com/mcp-clerk/mcp-clerk/internal/tools"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// call decodes a tools/call request as the server does and runs h.
func call(t *testing.T, ctx context.Context, h tools.Handler, arguments string) *mcp.CallToolResult {
	t.Helper()
	params := `{"params":{"name":"x"}}`
	if arguments != "" {
		params = `{"params":{"name":"x","arguments":` + arguments + `}}`
	}
	var req mcp.CallToolRequest
	if err := json.Unmarshal([]byte(params), &req); err != nil {
		t.Fatalf("decode %s: %v", params, err)
	}
	res, err := h(ctx, req)
	if err != nil {
		t.Fatalf("call with %s: %v", arguments, err)
	}
	return res
}

func text(t *testing.T, res *mcp.CallToolResult) string {
	t.Helper()
	for _, c := range res.Content {
		if c, ok := c.(mcp.TextContent); ok {
			return c.Text
		}
	}
	t.Fatalf("no text in %+v", res)
	return ""
}

func lookup(user identity.User, err error) func(context.Context, string) (identity.User, error) {
	return func(_ context.Context, subject string) (identity.User, error) {
		if err == nil && subject != user.ID {
			return identity.User{}, identity.ErrNoUser
		}
		return user, err
	}
}

// TestDefinitions pins what clients and models read: names, titles,
// descriptions, schemas and annotations.
func TestDefinitions(t *testing.T) {
	definitions := map[string]mcp.Tool{}
	add, _ := tools.Add()
	definitions["add"] = add
	info, _ := tools.UserInfo(lookup(identity.User{}, nil))
	definitions["userInfo"] = info
	none, _ := tools.GenerateImage(tools.ImageOptions{})
	definitions["generateImage-none"] = none
	sketch, _ := tools.GenerateImage(tools.ImageOptions{Provider: tools.Sketch, About: tools.SketchAbout})
	definitions["generateImage-sketch"] = sketch
	workers, _ := tools.GenerateImage(tools.ImageOptions{Provider: tools.WorkersAI(tools.WorkersAIOptions{}), About: tools.WorkersAIAbout, External: true})
	definitions["generateImage-workersai"] = workers
	for name, tool := range definitions {
		t.Run(name, func(t *testing.T) {
			compact, err := json.Marshal(tool)
			if err != nil {
				t.Fatal(err)
			}
			var got bytes.Buffer
			if err := json.Indent(&got, compact, "", "  "); err != nil {
				t.Fatal(err)
			}
			got.WriteByte('\n')
			file := filepath.Join("testdata", name+".json")
			if *update {
				if err := os.WriteFile(file, got.Bytes(), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatalf("%v (run with -update to write it)", err)
			}
			if diff := cmp.Diff(string(want), got.String()); diff != "" {
				t.Errorf("definition changed (-want +got); run with -update if it was meant to:\n%s", diff)
			}
		})
	}
}

func TestAddIsExact(t *testing.T) {
	_, h := tools.Add()
	for arguments, want := range map[string]string{
		`{"a":19,"b":23}`:                            "42",
		`{"b":23,"a":19}`:                            "42",
		`{"a":-5,"b":5}`:                             "0",
		`{"a":-0,"b":0}`:                             "0",
		`{"a":0.1,"b":0.2}`:                          "0.3",
		`{"a":1.5,"b":1.5}`:                          "3",
		`{"a":9007199254740993,"b":0}`:               "9007199254740993",
		`{"a":9007199254740993,"b":2}`:               "9007199254740995",
		`{"a":123456789012345678901234567890,"b":1}`: "123456789012345678901234567891",
		`{"a":1e3,"b":1E-3}`:                         "1000.001",
		`{"a":-2.5,"b":1}`:                           "-1.5",
		`{"a":0e5,"b":0.0}`:                          "0",
		` {"a": 1 , "b": 2 } `:                       "3",
	} {
		res := call(t, t.Context(), h, arguments)
		if res.IsError || text(t, res) != want {
			t.Errorf("add %s = %q (isError %t), want %q", arguments, text(t, res), res.IsError, want)
		}
		var sent struct {
			Structured json.RawMessage `json:"structuredContent"`
		}
		raw, err := json.Marshal(res)
		if err != nil || json.Unmarshal(raw, &sent) != nil || string(sent.Structured) != `{"sum":`+want+`}` {
			t.Errorf("add %s: %s, %v, want the same sum as structured content", arguments, raw, err)
		}
	}
}

func TestAddRefusesWhatItCannotAdd(t *testing.T) {
	_, h := tools.Add()
	for arguments, want := range map[string]string{
		``:                                "missing",
		`{}`:                              `"a" is missing`,
		`{"a":1}`:                         `"b" is missing`,
		`{"a":1,"b":null}`:                `"b" is missing`,
		`{"a":"1","b":2}`:                 `"a" must be a number`,
		`{"a":1,"b":[2]}`:                 `"b" must be a number`,
		`{"a":true,"b":2}`:                `"a" must be a number`,
		`{"a":1,"b":1e999}`:               "finite",
		`{"a":1,"b":-1e309}`:              "finite",
		`{"a":1,"b":1e-900000}`:           "zero",
		`{"a":1.7e308,"b":1.7e308}`:       "beyond",
		`{"a":1,"b":2,"c":3}`:             `unknown argument "c"`,
		`{"A":1,"b":2}`:                   `unknown argument "A"`,
		`{"a":1,"b":` + digits(401) + `}`: "too long",
		`[1,2]`:                           "object",
		`"1+2"`:                           "object",
	} {
		// A number no float64 holds does not get past the decoder of the
		// server either; the tool must not rest on that.
		req := mcp.CallToolRequest{Params: mcp.CallToolParams{Name: "add", RawArguments: json.RawMessage(arguments)}}
		res, err := h(t.Context(), req)
		if err != nil {
			t.Errorf("add %.60s: error %v, want a result with isError", arguments, err)
			continue
		}
		if !res.IsError || !strings.Contains(text(t, res), want) {
			t.Errorf("add %.60s = %q (isError %t), want a refusal with %q", arguments, text(t, res), res.IsError, want)
		}
	}
}

func digits(n int) string { return strings.Repeat("7", n) }

func FuzzAddNeverPanicsAndStaysJSON(f *testing.F) {
	_, h := tools.Add()
	f.Add("1", "2")
	f.Add("-1e300", "0.1e-300")
	f.Add("1e-324", "null")
	f.Fuzz(func(t *testing.T, a, b string) {
		raw := json.RawMessage(`{"a":` + a + `,"b":` + b + `}`)
		if !json.Valid(raw) {
			t.Skip()
		}
		res, err := h(t.Context(), mcp.CallToolRequest{Params: mcp.CallToolParams{RawArguments: raw}})
		if err != nil {
			t.Fatalf("add %s: %v", raw, err)
		}
		if _, err := json.Marshal(res); err != nil {
			t.Fatalf("add %s: result is not JSON: %v", raw, err)
		}
	})
}

func TestUserInfoSaysWhatClerkHoldsNow(t *testing.T) {
	admin := identity.User{
		ID: "user_1", Email: "admin@example.com", FirstName: "Ada", LastName: "<Admin>", ImageURL: "https://img.example.com/1",
		Roles: []string{"admin", "premium"}, PublicMetadata: json.RawMessage(`{"role":["admin","premium"],"big":9007199254740993}`),
		Memberships: []identity.Membership{{OrgID: "org_1", OrgName: "Acme", OrgSlug: "acme", Role: "org:admin", Permissions: []string{"org:x:y"}}},
	}
	_, h := tools.UserInfo(lookup(admin, nil))
	ctx := identity.NewContext(t.Context(), &identity.Principal{Subject: "user_1"})
	res := call(t, ctx, h, `{}`)
	if res.IsError {
		t.Fatalf("userInfo: %s", text(t, res))
	}
	const want = `{
  "userId": "user_1",
  "email": "admin@example.com",
  "firstName": "Ada",
  "lastName": "<Admin>",
  "imageUrl": "https://img.example.com/1",
  "role": "admin",
  "roles": [
    "admin",
    "premium"
  ],
  "publicMetadata": {
    "role": [
      "admin",
      "premium"
    ],
    "big": 9007199254740993
  },
  "metadata": {
    "role": [
      "admin",
      "premium"
    ],
    "big": 9007199254740993
  },
  "organizations": [
    {
      "id": "org_1",
      "name": "Acme",
      "slug": "acme",
      "role": "org:admin",
      "permissions": [
        "org:x:y"
      ]
    }
  ]
}`
	if diff := cmp.Diff(want, text(t, res)); diff != "" {
		t.Errorf("text (-want +got):\n%s", diff)
	}
	var fromText, fromStructured any
	structured, err := json.Marshal(res.StructuredContent)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(json.Unmarshal([]byte(text(t, res)), &fromText), json.Unmarshal(structured, &fromStructured)); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(fromText, fromStructured); diff != "" {
		t.Errorf("structured content differs from the text (-text +structured):\n%s", diff)
	}
}

func TestUserInfoOfAUserWithoutAnything(t *testing.T) {
	_, h := tools.UserInfo(lookup(identity.User{ID: "user_2", PublicMetadata: json.RawMessage(`null`)}, nil))
	ctx := identity.NewContext(t.Context(), &identity.Principal{Subject: "user_2"})
	structured, err := json.Marshal(call(t, ctx, h, "").StructuredContent)
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"userId":"user_2","email":"","firstName":"","lastName":"","imageUrl":"","role":null,"roles":[],"publicMetadata":{},"metadata":{},"organizations":[]}`
	if string(structured) != want {
		t.Errorf("got  %s\nwant %s", structured, want)
	}
}

func TestUserInfoRefusals(t *testing.T) {
	signedIn := identity.NewContext(t.Context(), &identity.Principal{Subject: "user_1"})
	for name, tt := range map[string]struct {
		ctx       context.Context
		err       error
		arguments string
		want      string
	}{
		"nobody signed in": {t.Context(), nil, "{}", "sign in"},
		"user deleted":     {signedIn, identity.ErrNoUser, "{}", "does not know this user"},
		"Clerk down":       {signedIn, errors.Join(errors.New("dial"), identity.ErrUnavailable), "{}", "try again"},
		"an argument":      {signedIn, nil, `{"subject":"user_2"}`, "takes none"},
	} {
		t.Run(name, func(t *testing.T) {
			_, h := tools.UserInfo(lookup(identity.User{ID: "user_1"}, tt.err))
			res := call(t, tt.ctx, h, tt.arguments)
			if !res.IsError || !strings.Contains(text(t, res), tt.want) {
				t.Errorf("got %q (isError %t), want a refusal with %q", text(t, res), res.IsError, tt.want)
			}
		})
	}
	t.Run("any other failure is the server's", func(t *testing.T) {
		_, h := tools.UserInfo(lookup(identity.User{}, errors.New("boom")))
		if _, err := h(signedIn, mcp.CallToolRequest{}); err == nil {
			t.Error("no error for a failure that is not the caller's")
		}
	})
}
