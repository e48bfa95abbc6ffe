package oauthclient_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/mcp-clerk/mcp-clerk/internal/oauthclient"
)

// A client is registered anew when its registration has run out, and when the
// redirect that it was made for cannot be used any more.
func TestARegistrationThatNoLongerFitsIsReplaced(t *testing.T) {
	for name, tc := range map[string]struct {
		prepare       func(t *testing.T, s *site)
		between       func(t *testing.T, s *site, clk *clock, o *oauthclient.Options)
		registrations int
	}{
		"it still fits": {registrations: 1},
		"its secret has run out": {
			prepare: func(_ *testing.T, s *site) {
				s.on("/register", func(w http.ResponseWriter, r *http.Request) {
					rec := httptest.NewRecorder()
					s.serve(rec, r)
					answer := map[string]any{}
					if err := json.Unmarshal(rec.Body.Bytes(), &answer); err != nil {
						http.Error(w, err.Error(), http.StatusInternalServerError)
						return
					}
					answer["client_secret"], answer["token_endpoint_auth_method"] = "s", "client_secret_post"
					answer["client_secret_expires_at"] = time.Now().Add(time.Hour).Unix()
					writeJSON(w, rec.Code, answer)
				})
			},
			registrations: 2,
		},
		"its port is taken": {
			between: func(t *testing.T, s *site, _ *clock, _ *oauthclient.Options) {
				u, err := url.Parse(s.asked[0].Get("redirect_uri"))
				if err != nil {
					t.Fatal(err)
				}
				l, err := net.Listen("tcp", u.Host)
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { l.Close() })
			},
			registrations: 2,
		},
		"another redirect is asked for": {
			between: func(_ *testing.T, _ *site, _ *clock, o *oauthclient.Options) {
				o.Callback.Path = "/other"
			},
			registrations: 2,
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			if tc.prepare != nil {
				tc.prepare(t, s)
			}
			s.extra["refresh_token"] = ""
			clk := newClock()
			c, b, dir := signedIn(t, s, func(o *oauthclient.Options) { o.Now = clk.Now })
			c.Close()
			clk.add(2 * time.Hour)
			s.revokeAll()
			o := options(t, s.URL+"/mcp", dir)
			o.Now, o.OpenURL = clk.Now, b.open
			if tc.between != nil {
				tc.between(t, s, clk, &o)
			}
			if status, err := request(t.Context(), newClient(t, o), s.URL+"/mcp"); status != http.StatusOK || err != nil {
				t.Errorf("status %d, %v", status, err)
			}
			if n := s.count("POST /register"); n != tc.registrations || b.windows() != 2 {
				t.Errorf("%d registrations, %d windows", n, b.windows())
			}
		})
	}
}

// Case 43, with several processes: the server was wiped; one registers and
// opens a window, and all go on.
func TestManyProcessesAtAWipedServer(t *testing.T) {
	s := newSite(t)
	clk := newClock()
	clk.add(-2 * time.Hour)
	c, _, dir := signedIn(t, s, func(o *oauthclient.Options) { o.Now = clk.Now })
	c.Close()
	s.forget()
	windows := approveAtOnce(t, s, dir, 5)
	if windows != 1 || s.count("POST /register") != 2 {
		t.Errorf("%d windows, %d registrations", windows, s.count("POST /register"))
	}
}

// Case 10: whose certificate does not hold is told nothing.
func TestCertificatesThatDoNotHold(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	authority := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	for name, tc := range map[string]struct {
		host    string
		until   time.Duration
		trusted bool
		want    string // of the error; "" for one about what the server says
	}{
		"good":              {"127.0.0.1", time.Hour, true, "404"},
		"another name":      {"other.example.com", time.Hour, true, "certificate"},
		"expired":           {"127.0.0.1", -time.Minute, true, "expired"},
		"unknown authority": {"127.0.0.1", time.Hour, false, "unknown authority"},
	} {
		t.Run(name, func(t *testing.T) {
			leaf := &x509.Certificate{SerialNumber: big.NewInt(2), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(tc.until)}
			if ip := net.ParseIP(tc.host); ip != nil {
				leaf.IPAddresses = []net.IP{ip}
			} else {
				leaf.DNSNames = []string{tc.host}
			}
			der, err := x509.CreateCertificate(rand.Reader, leaf, authority, key.Public(), key)
			if err != nil {
				t.Fatal(err)
			}
			asked := 0
			ts := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				asked++
				http.NotFound(w, r)
			}))
			ts.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
			ts.StartTLS()
			defer ts.Close()
			pool := x509.NewCertPool()
			if tc.trusted {
				raw, err := x509.CreateCertificate(rand.Reader, authority, authority, key.Public(), key)
				if err != nil {
					t.Fatal(err)
				}
				root, err := x509.ParseCertificate(raw)
				if err != nil {
					t.Fatal(err)
				}
				pool.AddCert(root)
			}
			o := options(t, ts.URL+"/mcp", t.TempDir())
			o.OpenURL, o.Transport = closed(t), &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}
			err = newClient(t, o).SignIn(t.Context())
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
			if (asked == 0) != (tc.want != "404") {
				t.Errorf("%d requests were answered", asked)
			}
		})
	}
}

// Case 44: sockets that were open before a refresh are not used for the next
// one, which a night's sleep may lie before.
func TestConnectionsDoNotOutliveARefresh(t *testing.T) {
	s := newSite(t)
	c, clk, _, _ := refreshing(t, s)
	var seen []string
	s.on("/token", func(w http.ResponseWriter, r *http.Request) {
		seen = append(seen, r.RemoteAddr)
		s.serve(w, r)
	})
	for range 3 {
		clk.add(2 * time.Hour)
		token(t, c)
	}
	if len(seen) != 3 || seen[0] == seen[1] || seen[1] == seen[2] {
		t.Errorf("refreshed from %q", seen)
	}
}

// slowToSave is a store that takes so long that the process has begun to end.
type slowToSave struct {
	oauthclient.TokenStore
	saving func()
}

func (s slowToSave) Save(ctx context.Context, data []byte, generation uint64) (uint64, bool, error) {
	s.saving()
	late := time.NewTimer(1500 * time.Millisecond)
	defer late.Stop()
	select {
	case <-ctx.Done():
		return 0, false, ctx.Err()
	case <-late.C:
	}
	return s.TokenStore.Save(ctx, data, generation)
}

// Case 38: what the server has rotated is stored though the process is told to
// end in between.
func TestARefreshIsStoredThoughItsProcessEnds(t *testing.T) {
	s := newSite(t)
	clk := newClock()
	first, _, dir := signedIn(t, s, func(o *oauthclient.Options) { o.Now = clk.Now })
	first.Close()
	clk.add(2 * time.Hour)
	o := options(t, s.URL+"/mcp", dir)
	o.Now, o.OpenURL = clk.Now, closed(t)
	ended := make(chan struct{})
	var second *oauthclient.Client
	slow := o
	slow.Store = slowToSave{o.Store, func() {
		go func() {
			defer close(ended)
			second.Close()
		}()
	}}
	second = newClient(t, slow)
	second.Token(t.Context()) // whatever it says to a process that ends
	<-ended
	if status, err := request(t.Context(), newClient(t, o), s.URL+"/mcp"); status != http.StatusOK || err != nil {
		t.Errorf("the next process: status %d, %v", status, err)
	}
	if n := s.count("POST /token"); n != 2 {
		t.Errorf("%d token requests, want the code's and one refresh", n)
	}
}
