package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"log"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"
)

// writeClientCert writes a self-signed client certificate and its key.
func writeClientCert(t *testing.T, dir string) (cert, key string, parsed *x509.Certificate) {
	t.Helper()
	priv, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "client"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &priv.PublicKey, priv)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(priv)
	if err != nil {
		t.Fatal(err)
	}
	if parsed, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	cert, key = filepath.Join(dir, "client cert.pem"), filepath.Join(dir, "client key.pem")
	writePEM(t, cert, "CERTIFICATE", der)
	writePEM(t, key, "PRIVATE KEY", raw)
	return cert, key, parsed
}

func writePEM(t *testing.T, path, kind string, der []byte) {
	t.Helper()
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestServersOfOwnAuthoritiesAndWithClientCertificatesAreReached(t *testing.T) {
	dir := t.TempDir()
	cert, key, parsed := writeClientCert(t, dir)
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = w.Write([]byte(r.TLS.PeerCertificates[0].Subject.CommonName))
	}))
	srv.TLS = &tls.Config{MinVersion: tls.VersionTLS12, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: x509.NewCertPool()}
	srv.TLS.ClientCAs.AddCert(parsed)
	srv.Config.ErrorLog = log.New(io.Discard, "", 0) // refusals are part of the test
	srv.StartTLS()
	defer srv.Close()
	ca := filepath.Join(dir, "ca.pem")
	writePEM(t, ca, "CERTIFICATE", srv.Certificate().Raw)
	both := filepath.Join(dir, "both.pem")
	if a, err := os.ReadFile(cert); err != nil {
		t.Fatal(err)
	} else if b, err := os.ReadFile(key); err != nil {
		t.Fatal(err)
	} else if err := os.WriteFile(both, append(a, b...), 0o600); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name, args string
		want       string // in the error; "": it works
		flags      bool   // the error comes before any request
	}{
		{"certificate and key", "--ca-file=CA|--cert=CERT|--key=KEY", "", false},
		{"one file for both", "--ca-file=CA|--cert=BOTH", "", false},
		{"no client certificate", "--ca-file=CA", "certificate required", false},
		{"an authority that is not known", "--cert=CERT|--key=KEY", "unknown authority", false},
		{"a key without its certificate", "--key=KEY", "--key is for --cert", true},
		{"a certificate without its key", "--cert=CERT", "read --cert", true},
		{"no such certificate", "--cert=missing|--key=KEY", "read --cert", true},
		{"no certificate in the file", "--ca-file=KEY", "no certificate in", true},
		{"a time that is none", "--connect-timeout=-1", "no time in seconds", true},
		{"a time that is too long", "--headers-timeout=1e12", "no time in seconds", true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var o networkOptions
			f := pflag.NewFlagSet("test", pflag.ContinueOnError)
			o.bind(f)
			args := strings.NewReplacer("CA", ca, "CERT", cert, "KEY", key, "BOTH", both).Replace(tt.args)
			if err := f.Parse(strings.Split(args, "|")); err != nil {
				t.Fatal(err)
			}
			base, err := o.transport()
			if err == nil {
				if tt.flags {
					t.Fatal("no error")
				}
				defer base.CloseIdleConnections()
				var resp *http.Response
				if resp, err = (&http.Client{Transport: base, Timeout: time.Minute}).Get(srv.URL); err == nil {
					_ = resp.Body.Close()
				}
			}
			switch {
			case tt.want == "" && err != nil:
				t.Error(err)
			case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}

func TestSizesAreRead(t *testing.T) {
	for text, want := range map[string]int64{
		"1024": 1024, "64M": 64 << 20, "64m": 64 << 20, "64MiB": 64 << 20, "64MB": 64 << 20, "2G": 2 << 30, "16G": 16 << 30, "1k": 1024,
		"": 0, "x": 0, "-1": 0, "1.5M": 0, "17G": 0, "1023": 0, "99999999999999999999": 0, "9999999999G": 0, "M": 0,
	} {
		var size sizeFlag
		err := size.Set(text)
		if (err == nil) != (want != 0) || int64(size) != want {
			t.Errorf("%q is %d, %v", text, size, err)
		}
	}
	if size := sizeFlag(256 << 20); size.String() != "256M" {
		t.Errorf("256 MiB are written %q", size.String())
	}
}
