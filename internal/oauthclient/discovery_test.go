package oauthclient_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/mcp-clerk/mcp-clerk/internal/oauthclient"
)

// refusedBeforeTheBrowser makes a request against a site that must be refused
// before a window opens, a client is registered or a token is asked for.
func refusedBeforeTheBrowser(t *testing.T, s *site, change func(*oauthclient.Options), want string) {
	t.Helper()
	o := options(t, s.URL+"/mcp", t.TempDir())
	o.OpenURL = closed(t)
	if change != nil {
		change(&o)
	}
	_, err := request(t.Context(), newClient(t, o), s.URL+"/mcp")
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("got %v, want an error with %q", err, want)
	}
	if n := s.count("POST /register") + s.count("POST /token"); n != 0 {
		t.Errorf("%d requests to the authorization server: %q", n, s.requests())
	}
}

func TestMetadataThatMustNotBeUsed(t *testing.T) {
	tests := map[string]struct {
		change func(s *site)
		want   string
	}{
		"issuer of another (RFC 8414 3.3)":   {func(s *site) { s.meta["issuer"] = "https://honest.example" }, "another issuer"},
		"issuer with a slash more":           {func(s *site) { s.meta["issuer"] = s.URL + "/" }, "another issuer"},
		"issuer missing":                     {func(s *site) { delete(s.meta, "issuer") }, "another issuer"},
		"resource of another host":           {func(s *site) { s.prm["resource"] = "https://other.example/mcp" }, "another resource"},
		"resource of another port":           {func(s *site) { s.prm["resource"] = "http://127.0.0.1:1/mcp" }, "another resource"},
		"resource of another path":           {func(s *site) { s.prm["resource"] = s.URL + "/other" }, "another resource"},
		"resource that is only a beginning":  {func(s *site) { s.prm["resource"] = s.URL + "/mc" }, "another resource"},
		"resource missing":                   {func(s *site) { delete(s.prm, "resource") }, "another resource"},
		"no code_challenge_methods (case 5)": {func(s *site) { delete(s.meta, "code_challenge_methods_supported") }, "S256"},
		"only plain":                         {func(s *site) { s.meta["code_challenge_methods_supported"] = []string{"plain"} }, "S256"},
		"token endpoint without https":       {func(s *site) { s.meta["token_endpoint"] = "http://as.example/token" }, "not https"},
		"token endpoint with a fragment":     {func(s *site) { s.meta["token_endpoint"] = s.URL + "/token#x" }, "fragment"},
		"token endpoint with a user":         {func(s *site) { s.meta["token_endpoint"] = "https://u:p@as.example/token" }, "user name"},
		"token endpoint missing":             {func(s *site) { delete(s.meta, "token_endpoint") }, "no token_endpoint"},
		"authorization endpoint missing":     {func(s *site) { delete(s.meta, "authorization_endpoint") }, "no authorization_endpoint"},
		"issuer without https":               {func(s *site) { s.prm["authorization_servers"] = []string{"http://as.example"} }, "not https"},
		"issuer with a query":                {func(s *site) { s.prm["authorization_servers"] = []string{"https://as.example/?a=b"} }, "query"},
		"metadata endpoint down": {func(s *site) {
			s.routes["/.well-known/oauth-protected-resource/mcp"] = func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(503) }
		}, "503"},
	}
	for _, endpoint := range []string{
		"javascript:alert(1)", "file:///etc/passwd", "ms-msdt:/id", `\\host\share`, "-flag", "https://as.example/$(calc)",
		"https://as.example/%COMSPEC%", "https://as.example/a&calc", "https://as.example/`calc`", "https://as.example/a\nb",
		"http://as.example/authorize", "https://as.example/a b", `https://as.example/"`, "data:text/html,x", "https:as.example", "//as.example/a",
	} {
		tests["authorization endpoint "+endpoint] = struct {
			change func(s *site)
			want   string
		}{func(s *site) { s.meta["authorization_endpoint"] = endpoint }, "authorization_endpoint"}
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			test.change(s)
			refusedBeforeTheBrowser(t, s, nil, test.want)
		})
	}
}

func TestResourceIsSentExactlyAsPublished(t *testing.T) {
	for _, suffix := range []string{"", "/", "/mcp", "/mcp/"} {
		s := newSite(t)
		s.prm["resource"] = s.URL + suffix
		signedIn(t, s, nil)
		if got := s.asked[0].Get("resource"); got != s.URL+suffix || s.tokens[0].Get("resource") != got {
			t.Errorf("published %q, asked for %q and %q", s.URL+suffix, got, s.tokens[0].Get("resource"))
		}
	}
}

// The loopback names are one machine: a resource that names itself localhost
// is the one that was reached as 127.0.0.1.
func TestResourceUnderAnotherLoopbackName(t *testing.T) {
	s := newSite(t)
	s.prm["resource"] = strings.Replace(s.URL, "127.0.0.1", "localhost", 1) + "/mcp"
	signedIn(t, s, nil)
}

func TestWhereResourceMetadataIsLookedFor(t *testing.T) {
	const inserted, root = "/.well-known/oauth-protected-resource/mcp", "/.well-known/oauth-protected-resource"
	tests := map[string]struct {
		challenge string // of the 401; %s is the site
		at        string
		want      []string
	}{
		"challenge":                 {`Bearer resource_metadata="%s/elsewhere"`, "/elsewhere", []string{"/elsewhere"}},
		"challenge unquoted":        {`Bearer resource_metadata=%s/elsewhere, scope="a"`, "/elsewhere", []string{"/elsewhere"}},
		"challenge after others":    {`Negotiate, Basic realm="x, y", Bearer realm="z", Bearer resource_metadata="%s/elsewhere"`, "/elsewhere", []string{"/elsewhere"}},
		"challenge leads nowhere":   {`Bearer resource_metadata="%s/elsewhere"`, inserted, []string{"/elsewhere", inserted}},
		"no challenge, path":        {"", inserted, []string{inserted}},
		"no challenge, then root":   {"", root, []string{inserted, root}},
		"challenge of another kind": {`Basic realm="x"`, root, []string{inserted, root}},
		"quotes that never close":   {`Bearer resource_metadata="%s/elsewhere`, inserted, []string{inserted}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			s.prm["resource"] = s.URL + "/mcp"
			for _, path := range []string{"/elsewhere", inserted, root} {
				s.on(path, func(w http.ResponseWriter, r *http.Request) {
					if r.URL.Path != test.at {
						http.NotFound(w, r)
						return
					}
					writeJSON(w, 200, s.prm)
				})
			}
			s.on("/mcp", func(w http.ResponseWriter, r *http.Request) {
				rec := httptest.NewRecorder()
				s.serve(rec, r)
				if rec.Code == http.StatusUnauthorized && test.challenge != "" {
					w.Header().Set("WWW-Authenticate", strings.ReplaceAll(test.challenge, "%s", s.URL))
				}
				w.WriteHeader(rec.Code)
			})
			signedIn(t, s, nil)
			var got []string
			for _, seen := range s.requests() {
				if path := strings.TrimPrefix(seen, "GET "); path == "/elsewhere" || strings.Contains(path, "protected-resource") {
					got = append(got, path)
				}
			}
			if strings.Join(got, " ") != strings.Join(test.want, " ") {
				t.Errorf("looked at %q, want %q", got, test.want)
			}
		})
	}
}

// The order of revision 2026-07-28, Authorization Server Metadata Discovery.
func TestWhereServerMetadataIsLookedFor(t *testing.T) {
	tests := map[string]struct {
		issuer string
		paths  []string
	}{
		"without a path": {"", []string{"/.well-known/oauth-authorization-server", "/.well-known/openid-configuration"}},
		"with a path": {"/tenant1", []string{
			"/.well-known/oauth-authorization-server/tenant1", "/.well-known/openid-configuration/tenant1", "/tenant1/.well-known/openid-configuration"}},
		"with a slash": {"/tenant1/", []string{
			"/.well-known/oauth-authorization-server/tenant1", "/.well-known/openid-configuration/tenant1", "/tenant1/.well-known/openid-configuration"}},
	}
	for name, test := range tests {
		for at := range test.paths {
			t.Run(fmt.Sprintf("%s, at place %d", name, at+1), func(t *testing.T) {
				s := newSite(t)
				s.prm["authorization_servers"] = []string{s.URL + test.issuer}
				s.meta["issuer"] = s.URL + test.issuer
				for i, path := range test.paths {
					s.on(path, func(w http.ResponseWriter, r *http.Request) {
						switch i {
						case at:
							writeJSON(w, 200, s.meta)
						case 0:
							// Another issuer's document is passed over.
							writeJSON(w, 200, map[string]any{"issuer": "https://other.example"})
						default:
							http.NotFound(w, r)
						}
					})
				}
				signedIn(t, s, nil)
				var got []string
				for _, seen := range s.requests() {
					if strings.Contains(seen, "oauth-authorization-server") || strings.Contains(seen, "openid") {
						got = append(got, strings.TrimPrefix(seen, "GET "))
					}
				}
				if strings.Join(got, " ") != strings.Join(test.paths[:at+1], " ") {
					t.Errorf("looked at %q", got)
				}
			})
		}
	}
}

func TestTheSecondListedServerServesWhenTheFirstCannot(t *testing.T) {
	s := newSite(t)
	s.prm["authorization_servers"] = []string{s.URL + "/gone", s.URL}
	signedIn(t, s, nil)
}

// Servers of revision 2025-03-26 have no protected resource metadata.
func TestServersWithoutResourceMetadata(t *testing.T) {
	none := func(s *site) {
		s.on("/.well-known/oauth-protected-resource/mcp", http.NotFound)
		s.on("/mcp", func(w http.ResponseWriter, r *http.Request) {
			rec := httptest.NewRecorder()
			s.serve(rec, r)
			w.WriteHeader(rec.Code)
		})
	}
	t.Run("metadata at the root", func(t *testing.T) {
		s := newSite(t)
		none(s)
		signedIn(t, s, nil)
		if got := s.asked[0].Get("resource"); got != s.URL+"/mcp" {
			t.Errorf("resource %q", got)
		}
	})
	t.Run("metadata at the root whose issuer has a slash", func(t *testing.T) {
		s := newSite(t)
		none(s)
		s.meta["issuer"] = s.URL + "/"
		signedIn(t, s, nil)
	})
	t.Run("metadata at the root of an issuer below it", func(t *testing.T) {
		s := newSite(t)
		none(s)
		s.meta["issuer"] = s.URL + "/oauth"
		signedIn(t, s, nil)
	})
	t.Run("another issuer", func(t *testing.T) {
		s := newSite(t)
		none(s)
		s.meta["issuer"] = "https://honest.example"
		refusedBeforeTheBrowser(t, s, nil, "another issuer")
	})
	t.Run("default endpoints", func(t *testing.T) {
		s := newSite(t)
		none(s)
		s.on("/.well-known/oauth-authorization-server", http.NotFound)
		signedIn(t, s, nil)
	})
}

func TestAnswersAreBounded(t *testing.T) {
	// Packed beforehand: what is measured is the reader, not the packer.
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	for _, part := range [][]byte{[]byte(`{"issuer":"`), make([]byte, 16<<20)} {
		if _, err := z.Write(part); err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	bomb := func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Encoding", "gzip")
		w.Write(packed.Bytes())
	}
	endless := func(w http.ResponseWriter, r *http.Request) {
		chunk := []byte(strings.Repeat(" ", 64<<10))
		for {
			if _, err := w.Write(chunk); err != nil {
				return
			}
		}
	}
	for name, h := range map[string]http.HandlerFunc{"gzip bomb": bomb, "endless JSON": endless} {
		for _, path := range []string{"/.well-known/oauth-protected-resource/mcp", "/.well-known/oauth-authorization-server"} {
			t.Run(name+" "+path, func(t *testing.T) {
				s := newSite(t)
				s.on(path, h)
				refusedBeforeTheBrowser(t, s, nil, "larger than")
			})
		}
	}
}

// A redirect must not carry a code, a refresh token or a registration away,
// not even to another port of the same host (case 4).
func TestRedirectsToOtherOriginsAreNotFollowed(t *testing.T) {
	thief := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		t.Errorf("%s %s arrived at another origin", r.Method, r.URL.Path)
	}))
	defer thief.Close()
	for _, path := range []string{"/.well-known/oauth-protected-resource/mcp", "/.well-known/oauth-authorization-server", "/register", "/token"} {
		for _, status := range []int{301, 302, 303, 307, 308} {
			t.Run(fmt.Sprintf("%s %d", path, status), func(t *testing.T) {
				s := newSite(t)
				s.on(path, func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, thief.URL+path, status) })
				o := options(t, s.URL+"/mcp", t.TempDir())
				o.OpenURL = (&browser{}).open
				request(t.Context(), newClient(t, o), s.URL+"/mcp")
			})
		}
	}
	t.Run("posts are not repeated at the same origin either", func(t *testing.T) {
		s := newSite(t)
		s.on("/token", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/token2", 307) })
		o := options(t, s.URL+"/mcp", t.TempDir())
		o.OpenURL = (&browser{}).open
		if _, err := request(t.Context(), newClient(t, o), s.URL+"/mcp"); err == nil || s.count("POST /token2") != 0 {
			t.Errorf("%v; %q", err, s.requests())
		}
	})
	t.Run("metadata may move within its origin", func(t *testing.T) {
		s := newSite(t)
		s.on("/.well-known/oauth-authorization-server", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/meta", 302) })
		s.on("/meta", func(w http.ResponseWriter, r *http.Request) { writeJSON(w, 200, s.meta) })
		signedIn(t, s, nil)
	})
}

// addressedConn is a connection to the one listener of a TLS site that seems to
// end at an address of the test's choice.
type addressedConn struct {
	net.Conn
	remote netip.AddrPort
}

func (c addressedConn) RemoteAddr() net.Addr { return net.TCPAddrFromAddrPort(c.remote) }

// A public server must not lead this client into its user's network (case 3).
func TestPrivateAddressesFromAPublicServer(t *testing.T) {
	var prm, meta map[string]any
	var got []string
	ts := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got = append(got, r.Host+r.URL.Path)
		switch {
		case strings.Contains(r.URL.Path, "protected-resource"):
			writeJSON(w, 200, prm)
		case strings.Contains(r.URL.Path, "authorization-server"):
			writeJSON(w, 200, meta)
		default:
			w.WriteHeader(404)
		}
	}))
	ts.StartTLS()
	defer ts.Close()
	// The test certificate is for example.com and its subdomains.
	const server = "https://mcp.example.com/mcp"
	tests := map[string]struct {
		serverIP, asIP string
		as             string
		metadata       string // in the challenge
		allow          bool
		want           string
	}{
		"public everywhere":         {"93.184.216.34", "93.184.216.35", "as.example.com", "", false, ""},
		"private network":           {"93.184.216.34", "10.0.0.5", "as.example.com", "", false, "private address"},
		"loopback":                  {"93.184.216.34", "127.0.0.1", "as.example.com", "", false, "private address"},
		"link-local":                {"93.184.216.34", "169.254.169.254", "as.example.com", "", false, "private address"},
		"unique local":              {"93.184.216.34", "fd00::1", "as.example.com", "", false, "private address"},
		"carrier NAT":               {"93.184.216.34", "100.64.0.1", "as.example.com", "", false, "private address"},
		"mapped":                    {"93.184.216.34", "::ffff:10.0.0.5", "as.example.com", "", false, "private address"},
		"NAT64":                     {"93.184.216.34", "64:ff9b::a00:5", "as.example.com", "", false, "private address"},
		"permitted":                 {"93.184.216.34", "10.0.0.5", "as.example.com", "", true, ""},
		"private server":            {"10.0.0.4", "10.0.0.5", "as.example.com", "", false, ""},
		"literal loopback":          {"93.184.216.34", "", "127.0.0.1:9", "", false, "private address"},
		"literal link-local":        {"93.184.216.34", "", "169.254.169.254", "", false, "private address"},
		"localhost by name":         {"93.184.216.34", "", "localhost:9", "", false, "private address"},
		"metadata of the challenge": {"93.184.216.34", "", "", "https://169.254.169.254/latest", false, "private address"},
		"metadata by http":          {"93.184.216.34", "", "", "http://mcp.example.com/prm", false, "not https"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			got = nil
			issuer := "https://" + test.as
			prm = map[string]any{"resource": server, "authorization_servers": []string{issuer}}
			meta = map[string]any{"issuer": issuer} // no S256: where it is read, that is the end
			transport := ts.Client().Transport.(*http.Transport).Clone()
			addresses := map[string]string{"mcp.example.com": test.serverIP, "as.example.com": test.asIP}
			transport.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
				host, _, err := net.SplitHostPort(addr)
				if err != nil {
					return nil, err
				}
				ip, err := netip.ParseAddr(addresses[host])
				if err != nil {
					return nil, fmt.Errorf("unexpected dial of %q", addr)
				}
				conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", ts.Listener.Addr().String())
				return addressedConn{conn, netip.AddrPortFrom(ip, 443)}, err
			}
			o := options(t, server, t.TempDir())
			o.OpenURL, o.Transport, o.AllowPrivate = closed(t), transport, test.allow
			o.LookupIP = func(ctx context.Context, host string) ([]netip.Addr, error) {
				return []netip.Addr{netip.MustParseAddr(addresses[host])}, nil
			}
			header := http.Header{}
			if test.metadata != "" {
				header.Set("WWW-Authenticate", `Bearer resource_metadata="`+test.metadata+`"`)
			}
			err := newClient(t, o).Authorize(t.Context(), "", http.StatusUnauthorized, header)
			want := test.want
			if want == "" {
				want = "S256" // the authorization server's metadata was read
			}
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("got %v, want an error with %q", err, want)
			}
			if test.want != "" {
				for _, seen := range got {
					if !strings.HasPrefix(seen, "mcp.example.com/") {
						t.Errorf("a request arrived at %s", seen)
					}
				}
			}
		})
	}
}

// A metadata document on another https origin is used only if its resource
// covers the server (case 8).
func TestMetadataOnAnotherOriginMustBeAboutTheServer(t *testing.T) {
	s := newSite(t)
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		writeJSON(w, 200, map[string]any{"resource": "http://" + r.Host + "/mcp", "authorization_servers": []string{s.URL}})
	}))
	defer other.Close()
	s.on("/mcp", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("WWW-Authenticate", `Bearer resource_metadata="`+other.URL+`/prm"`)
		w.WriteHeader(401)
	})
	refusedBeforeTheBrowser(t, s, nil, "another resource")
}

func TestCertificatesAreChecked(t *testing.T) {
	ts := httptest.NewTLSServer(http.NotFoundHandler())
	defer ts.Close()
	o := options(t, ts.URL+"/mcp", t.TempDir())
	o.OpenURL = closed(t)
	err := newClient(t, o).Authorize(t.Context(), "", http.StatusUnauthorized, http.Header{})
	if err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("unknown authority: %v", err)
	}
}

// A server that accepts and never answers costs 10 seconds a request at most,
// and ends with the caller's context.
func TestAServerThatNeverAnswers(t *testing.T) {
	hold := make(chan struct{})
	s := newSite(t)
	s.on("/.well-known/oauth-protected-resource/mcp", func(w http.ResponseWriter, r *http.Request) { <-hold })
	defer close(hold)
	o := options(t, s.URL+"/mcp", t.TempDir())
	o.OpenURL = closed(t)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	c := newClient(t, o)
	if err := c.Authorize(ctx, "", http.StatusUnauthorized, http.Header{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Authorize: %v", err)
	}
	began := time.Now()
	c.Close()
	if d := time.Since(began); d > 5*time.Second {
		t.Errorf("Close took %v", d)
	}
}
