package jsonrpc_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/mcp-clerk/mcp-clerk/internal/jsonrpc"
)

func placeholder(n int) string { return fmt.Sprintf(`"<hole %d>"`, n) }

// filled puts the values back into a skeleton.
func filled(t *testing.T, in string, skeleton []byte, holes []jsonrpc.Hole) string {
	t.Helper()
	for n, h := range holes {
		if c := bytes.Count(skeleton, []byte(placeholder(n))); c != 1 {
			t.Fatalf("placeholder %d stands %d times in %.200q", n, c, skeleton)
		}
		skeleton = bytes.Replace(skeleton, []byte(placeholder(n)), []byte(in[h.Offset:h.Offset+h.Length]), 1)
	}
	return string(skeleton)
}

func TestSkeletonLeavesOutLargeValuesOnly(t *testing.T) {
	big := `"` + strings.Repeat(`ü\"`, 40_000) + `"`
	many := `[` + strings.Repeat(`{"a":[1,2.5e-3,null,true]},`, 9_000) + `{}]`
	tests := []struct {
		name, in string
		want     string // skeleton; the large values are written <big> and <many> in it
	}{
		{
			"a call", `{"jsonrpc":"2.0", "id": 9007199254740993,"method":"tools/call","params":{"name":"x","arguments":{"small":1,"text":` + big + `},"_meta":{"progressToken":7}}}`,
			`{"jsonrpc":"2.0", "id": 9007199254740993,"method":"tools/call","params":{"name":"x","arguments":{"small":1,"text":"<hole 0>"},"_meta":{"progressToken":7}}}`,
		},
		{
			"a result", `{"result":{"content":` + many + `,"structuredContent":{"a":` + big + `},"isError":false},"id":"a","jsonrpc":"2.0"}` + "\r\n",
			`{"result":{"content":"<hole 0>","structuredContent":"<hole 1>","isError":false},"id":"a","jsonrpc":"2.0"}`,
		},
		{"a result that is no object", `{"result":` + many + `,"id":"a","jsonrpc":"2.0"}`, `{"result":"<hole 0>","id":"a","jsonrpc":"2.0"}`},
		{"an error", `{"error":{"code":-1,"message":"m","data":` + big + `},"id":1}`, `{"error":{"code":-1,"message":"m","data":"<hole 0>"},"id":1}`},
		{"an unknown member", ` {"x":` + big + `,"method":"m"}`, `{"x":"<hole 0>","method":"m"}`},
		{"nothing large", `{"method":"m","params":[1,"",{},[]]}`, `{"method":"m","params":[1,"",{},[]]}`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for name, r := range map[string]io.Reader{
				"whole": strings.NewReader(tt.in), "in halves": iotest.HalfReader(strings.NewReader(tt.in)),
			} {
				skeleton, holes, err := jsonrpc.Skeleton(r, jsonrpc.Limits{}, placeholder)
				if err != nil {
					t.Fatalf("%s: %v", name, err)
				}
				if string(skeleton) != tt.want {
					t.Errorf("%s: the skeleton is %.300q", name, skeleton)
				}
				if got := filled(t, tt.in, skeleton, holes); got != strings.Trim(tt.in, " \r\n") {
					t.Errorf("%s: filled in it is another message", name)
				}
				if _, err := jsonrpc.Parse(skeleton, jsonrpc.Limits{}); err != nil {
					t.Errorf("%s: the skeleton is no message: %v", name, err)
				}
			}
		})
	}
}

func TestSkeletonRefuses(t *testing.T) {
	big := strings.Repeat("x", 100_000)
	tests := []struct {
		name, in string
		code     int
	}{
		{"a broken end", `{"method":"m","params":{"a":"` + big + `"}`, jsonrpc.CodeParse},
		{"something behind", `{"method":"m","params":{"a":"` + big + `"}} {}`, jsonrpc.CodeParse},
		{"invalid UTF-8 in a large value", `{"method":"m","params":{"a":"` + big + "\xff" + `"}}`, jsonrpc.CodeParse},
		{"half a character", `{"method":"m","params":{"a":"` + big + "\xe2\x82" + `"}}`, jsonrpc.CodeParse},
		{"a control character", `{"method":"m","params":{"a":"` + big + "\n" + `"}}`, jsonrpc.CodeParse},
		{"a bad escape", `{"method":"m","params":{"a":"` + big + `\x"}}`, jsonrpc.CodeParse},
		{"a bad number", `{"method":"m","params":{"a":"` + big + `","b":01}}`, jsonrpc.CodeParse},
		{"deep nesting in a large value", `{"method":"m","params":{"a":["` + big + `",` + strings.Repeat("[", 200) + strings.Repeat("]", 200) + `]}}`, jsonrpc.CodeInvalidRequest},
		{"a large id", `{"method":"m","id":"` + big + `"}`, jsonrpc.CodeInvalidRequest},
		{"a large method", `{"method":"` + big + `","id":1}`, jsonrpc.CodeInvalidRequest},
		{"a batch", `[{"method":"` + big + `","id":1}]`, jsonrpc.CodeInvalidRequest},
		{"too many small members", `{"method":"m","params":{` + strings.Repeat(`"a":"0123456789",`, 300_000) + `"b":1}}`, jsonrpc.CodeInvalidRequest},
		{"nothing", ``, jsonrpc.CodeParse},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, _, err := jsonrpc.Skeleton(strings.NewReader(tt.in), jsonrpc.Limits{}, placeholder)
			if e, ok := errors.AsType[*jsonrpc.Error](err); !ok || e.Code != tt.code {
				t.Errorf("got %v, want code %d", err, tt.code)
			}
		})
	}
	broken := errors.New("the disk is gone")
	_, _, err := jsonrpc.Skeleton(io.MultiReader(strings.NewReader(`{"method":"`+big), iotest.ErrReader(broken)), jsonrpc.Limits{}, placeholder)
	if !errors.Is(err, broken) {
		t.Errorf("a reader that fails: got %v", err)
	}
}

// What passes is exactly what Parse lets pass, and filled in it is what went in.
func FuzzSkeleton(f *testing.F) {
	for _, seed := range []string{
		`{"jsonrpc":"2.0","id":1,"method":"m","params":{"name":"x","arguments":{"a":"P"}}}`,
		`{"result":{"content":["P",{"x":-0.5E+7}]},"id":"a"}`, `{"error":{"code":1,"data":"P"},"id":null}`,
		`{"method":"m","P":[]}`, "{\"method\":\"\xff\"}", `{"method":"m","id":"P"}`, `[]`, `{`, `{"a":tru}`, "\xef\xbb\xbf{}",
	} {
		f.Add(seed, 1)
		f.Add(seed, 70_000)
	}
	f.Fuzz(func(t *testing.T, in string, n int) {
		n = n % (80 << 10)
		in = strings.Replace(in, "P", strings.Repeat("p", max(n, 1)), 2)
		lim := jsonrpc.Limits{MaxDepth: 20}
		skeleton, holes, err := jsonrpc.Skeleton(strings.NewReader(in), lim, placeholder)
		var m *jsonrpc.Message
		if err == nil {
			m, err = jsonrpc.Parse(skeleton, lim)
		}
		want, wantErr := jsonrpc.Parse([]byte(in), lim)
		if err != nil {
			if wantErr == nil && len(in) < 60_000 {
				t.Fatalf("%.200q is refused: %v", in, err)
			}
			return
		}
		if wantErr != nil {
			t.Fatalf("%.200q passes, which Parse refuses: %v", in, wantErr)
		}
		if m.Method != want.Method || !bytes.Equal(m.ID, want.ID) {
			t.Fatalf("%.200q became %.200q", in, skeleton)
		}
		if !strings.Contains(in, "<hole") && filled(t, in, skeleton, holes) != string(want.Raw) {
			t.Fatalf("%.200q filled in is another", in)
		}
		if !json.Valid(skeleton) {
			t.Fatalf("%.200q is no JSON", skeleton)
		}
	})
}
