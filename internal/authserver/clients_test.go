package authserver_test

import (
	"encoding/json"
	"net/http"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v4"
	"golang.org/x/tools/txtar"
)

// fixture is what about.json says of a client in testdata/clients.
type fixture struct {
	As      string   `json:"as"`      // how it is known: registration, document, or unreachable (its document)
	Mark    string   `json:"mark"`    // beside its name on the consent page
	Warning bool     `json:"warning"` // of an application on this computer
	Scope   string   `json:"scope"`   // granted
	Refresh bool     `json:"refresh"` // it gets a refresh token
	Secret  bool     `json:"secret"`  // registration answers with one
	Basic   bool     `json:"basic"`   // and it is sent by HTTP Basic
	Key     string   `json:"key"`     // where its keys are
	Grants  []string `json:"grants"`  // granted by registration
}

// The clients in use, as vendors describe them and as they were seen: each
// gets through discovery, registration, consent, token and refresh.
func TestTheClientsInUseGetTheirTokens(t *testing.T) {
	files, err := filepath.Glob("testdata/clients/*.txtar")
	if err != nil || len(files) < 20 {
		t.Fatalf("%d fixtures, %v", len(files), err)
	}
	for _, path := range files {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txtar"), func(t *testing.T) {
			archive, err := txtar.ParseFile(path)
			if err != nil {
				t.Fatal(err)
			}
			parts := map[string]string{}
			for _, f := range archive.Files {
				parts[f.Name] = string(f.Data)
			}
			var about fixture
			dec := json.NewDecoder(strings.NewReader(parts["about.json"]))
			dec.DisallowUnknownFields()
			if err := dec.Decode(&about); err != nil {
				t.Fatal(err)
			}
			replay(t, about, parts)
		})
	}
}

func replay(t *testing.T, about fixture, parts map[string]string) {
	e, w := documentEnv(t)
	key := newSigner(t, jose.RS256, "k")
	c := testClient{}
	switch about.As {
	case "registration":
		r := request(t, "POST", e.abs("/register"), strings.NewReader(parts["client.json"]))
		r.Header.Set("Content-Type", "application/json")
		a := e.send(r)
		if a.status != http.StatusCreated || strings.Contains(string(a.body), "null") || strings.Contains(string(a.body), `""`) {
			t.Fatalf("registration: %d %s", a.status, a.body)
		}
		m := a.json(t)
		c.id, _ = m["client_id"].(string)
		c.secret, _ = m["client_secret"].(string)
		if (c.secret != "") != about.Secret || about.Grants != nil && !slices.Equal(stringList(m["grant_types"]), about.Grants) {
			t.Errorf("granted %s", a.body)
		}
	case "document", "unreachable":
		var doc struct {
			ClientID string `json:"client_id"`
		}
		if err := json.Unmarshal([]byte(parts["client.json"]), &doc); err != nil {
			t.Fatal(err)
		}
		c.id = doc.ClientID
		w.publish(c.id, parts["client.json"])
		if about.Key != "" {
			w.publish(about.Key, keySet(key))
		}
		w.cut(about.As == "unreachable")
	default:
		t.Fatalf("known as %q", about.As)
	}
	md := e.get("/.well-known/oauth-authorization-server").json(t)
	if md["client_id_metadata_document_supported"] != true || !slices.Contains(stringList(md["token_endpoint_auth_methods_supported"]), "none") {
		t.Error("the metadata does not invite documents")
	}
	values := func(part string) url.Values {
		v := url.Values{}
		for line := range strings.SplitSeq(strings.TrimSpace(parts[part]), "\n") {
			name, value, _ := strings.Cut(line, "=")
			switch value {
			case "CLIENT":
				value = c.id
			case "SECRET":
				value = c.secret
			case "RESOURCE":
				value = e.issuer + "/mcp"
			case "ASSERTION":
				value = key.sign(t, e.claims(c.id))
			}
			v.Set(name, value)
		}
		return v
	}
	q := values("authorize")
	q.Set("code_challenge", challenge(verifier))
	q.Set("code_challenge_method", "S256")
	c.redirect = q.Get("redirect_uri")
	page := e.browser().open(e.issuer + "/authorize?" + q.Encode())
	if !page.has("Approve") || !strings.Contains(page.body, ">"+about.Mark+"<") || strings.Contains(page.body, "runs on your own computer") != about.Warning {
		t.Fatalf("consent page %d: %s", page.status, page.body)
	}
	back := page.press("Approve").press("Continue as").answer(c)
	if back.Get("code") == "" || back.Get("state") != q.Get("state") || back.Get("iss") != e.issuer {
		t.Fatalf("answer %v", back)
	}
	send := func(form url.Values) answer {
		r := request(t, "POST", e.abs("/token"), strings.NewReader(form.Encode()))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		for line := range strings.SplitSeq(strings.TrimSpace(parts["headers"]), "\n") {
			if name, value, ok := strings.Cut(line, ": "); ok {
				r.Header.Set(name, value)
			}
		}
		if about.Basic {
			r.SetBasicAuth(url.QueryEscape(c.id), url.QueryEscape(c.secret))
		}
		return e.send(r)
	}
	form := values("token")
	form.Set("code", back.Get("code"))
	form.Set("code_verifier", verifier)
	tk := e.tokens(send(form))
	if tk.scope != about.Scope || (tk.refresh != "") != about.Refresh || !e.valid(tk.access) {
		t.Errorf("tokens for %q, refreshable %v", tk.scope, tk.refresh != "")
	}
	form = values("token")
	for _, name := range []string{"redirect_uri", "code_verifier"} {
		form.Del(name)
	}
	form.Set("grant_type", "refresh_token")
	form.Set("refresh_token", tk.refresh)
	if next := e.tokens(send(form)); !e.valid(next.access) {
		t.Error("the refreshed token is not valid")
	}
}
