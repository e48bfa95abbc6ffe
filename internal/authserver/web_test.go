package authserver_test

import (
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
	"sync"
	"testing"
	"time"

	"github.com/mcp-clerk/mcp-clerk/internal/authserver"
)

// web is the part of the web on which clients publish: an https server for any
// name, on loopback.
type web struct {
	t     testing.TB
	srv   *httptest.Server
	roots *x509.CertPool

	mu    sync.Mutex
	pages map[string]http.HandlerFunc // by URL
	hits  map[string]int
	down  bool // connections are cut
}

func newWeb(t testing.TB) *web {
	t.Helper()
	w := &web{t: t, roots: x509.NewCertPool(), pages: map[string]http.HandlerFunc{}, hits: map[string]int{}}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	ca := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, ca, ca, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	root, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	w.roots.AddCert(root)
	w.srv = httptest.NewUnstartedServer(http.HandlerFunc(w.serve))
	w.srv.TLS = &tls.Config{GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
		leaf := &x509.Certificate{SerialNumber: big.NewInt(2), DNSNames: []string{hello.ServerName}, NotBefore: ca.NotBefore, NotAfter: ca.NotAfter}
		der, err := x509.CreateCertificate(rand.Reader, leaf, root, &key.PublicKey, key)
		return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
	}}
	w.srv.StartTLS()
	t.Cleanup(w.srv.Close)
	return w
}

func (w *web) serve(rw http.ResponseWriter, r *http.Request) {
	target := "https://" + r.Host + r.URL.RequestURI()
	w.mu.Lock()
	w.hits[target]++
	page, down := w.pages[target], w.down
	w.mu.Unlock()
	switch {
	case down:
		panic(http.ErrAbortHandler)
	case page == nil:
		http.NotFound(rw, r)
	default:
		page(rw, r)
	}
}

func (w *web) set(target string, page http.HandlerFunc) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.pages[target] = page
}

// publish puts v, or a text as it is, at target.
func (w *web) publish(target string, v any, header ...string) {
	body, ok := v.(string)
	if !ok {
		b, err := json.Marshal(v)
		if err != nil {
			w.t.Fatal(err)
		}
		body = string(b)
	}
	w.set(target, func(rw http.ResponseWriter, _ *http.Request) {
		rw.Header().Set("Content-Type", "application/json")
		for i := 0; i+1 < len(header); i += 2 {
			rw.Header().Set(header[i], header[i+1])
		}
		_, _ = rw.Write([]byte(body))
	})
}

func (w *web) count(target string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.hits[target]
}

func (w *web) cut(down bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.down = down
}

// reach lets the server under test fetch from w, under every name.
func (e *env) reach(w *web) {
	e.srv.FetchFrom(w.roots, 2*time.Second, func(string) string { return w.srv.Listener.Addr().(*net.TCPAddr).String() })
}

// loopbackDocuments lets the guard pass the address at which web listens.
func loopbackDocuments(o *authserver.Options) { o.LoopbackDocuments = true }

const documentURL = "https://app.example/oauth/client.json"

// document is a well-formed document with changes: name, value, …; a nil value
// removes the member.
func document(changes ...any) map[string]any {
	doc := map[string]any{
		"client_id": documentURL, "client_name": "App", "redirect_uris": []string{webRedirect}, "token_endpoint_auth_method": "none",
		"grant_types": []string{"authorization_code", "refresh_token"},
	}
	for i := 0; i+1 < len(changes); i += 2 {
		name := changes[i].(string)
		if doc[name] = changes[i+1]; changes[i+1] == nil {
			delete(doc, name)
		}
	}
	return doc
}

func documentEnv(t testing.TB, change ...func(*authserver.Options)) (*env, *web) {
	t.Helper()
	e, w := newEnv(t, append([]func(*authserver.Options){loopbackDocuments}, change...)...), newWeb(t)
	e.reach(w)
	return e, w
}
