package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/spf13/pflag"

	"github.com/mcp-clerk/mcp-clerk/internal/transport"
)

// networkOptions say how servers are reached; all commands that speak to one
// share them. Those that mcp-remote has, too, have its names and meaning.
type networkOptions struct {
	CAFile   string
	CertFile string
	KeyFile  string
	IPv4     bool

	ConnectTimeout float64 // seconds, as the other times
	HeadersTimeout float64
}

func (o *networkOptions) bind(f *pflag.FlagSet) {
	f.StringVar(&o.CAFile, "ca-file", "", "PEM file of certificate authorities to trust besides the system's")
	f.StringVar(&o.CertFile, "cert", "", "PEM file of a client certificate, for servers that want one (mTLS)")
	f.StringVar(&o.KeyFile, "key", "", "PEM file of its private key (default: the --cert file)")
	f.BoolVar(&o.IPv4, "ipv4", false, "connect over IPv4 only")
	f.Float64Var(&o.ConnectTimeout, "connect-timeout", 0, "seconds for a connection to be made (default 10)")
	f.Float64Var(&o.HeadersTimeout, "headers-timeout", 0, "seconds for an answer to begin (default: as long as it takes)")
	f.Bool("enable-proxy", true, "")
	_ = f.MarkHidden("enable-proxy") // for mcp-remote's users: proxies of the environment are always used
}

// seconds reads a time given in seconds.
func seconds(flag string, value float64) (time.Duration, error) {
	const most = 365 * 24 * 3600
	if value < 0 || value > most || value != value {
		return 0, usagef("--%s %v is no time in seconds", flag, value)
	}
	return time.Duration(value * float64(time.Second)), nil
}

// transport is the base of all requests.
func (o *networkOptions) transport() (*http.Transport, error) {
	base := transport.DefaultTransport()
	connect, err := seconds("connect-timeout", o.ConnectTimeout)
	if err != nil {
		return nil, err
	}
	if base.ResponseHeaderTimeout, err = seconds("headers-timeout", o.HeadersTimeout); err != nil {
		return nil, err
	}
	if connect > 0 {
		base.TLSHandshakeTimeout = connect
	}
	dial := base.DialContext
	base.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		if o.IPv4 && network == "tcp" {
			network = "tcp4"
		}
		if connect > 0 {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, connect)
			defer cancel()
		}
		return dial(ctx, network, addr)
	}
	base.TLSClientConfig, err = o.tls()
	return base, err
}

// tls returns nil where nothing differs from the system's ways.
func (o *networkOptions) tls() (*tls.Config, error) {
	if o.CAFile == "" && o.CertFile == "" {
		if o.KeyFile != "" {
			return nil, usagef("--key is for --cert")
		}
		return nil, nil //nolint:nilnil // as net/http has it
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if o.CAFile != "" {
		pem, err := os.ReadFile(o.CAFile)
		if err != nil {
			return nil, withHint(fmt.Errorf("read --ca-file: %w", err), "name a readable PEM file")
		}
		if config.RootCAs, err = x509.SystemCertPool(); err != nil {
			config.RootCAs = x509.NewCertPool() // the file's authorities alone
		}
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, withHint(fmt.Errorf("read --ca-file: no certificate in %q", o.CAFile), "name a file with BEGIN CERTIFICATE blocks")
		}
	}
	if o.CertFile != "" {
		key := o.KeyFile
		if key == "" {
			key = o.CertFile
		}
		pair, err := tls.LoadX509KeyPair(o.CertFile, key)
		if err != nil {
			return nil, withHint(fmt.Errorf("read --cert: %w", err), "name PEM files with BEGIN CERTIFICATE and BEGIN PRIVATE KEY blocks")
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return config, nil
}

// headerFile reads a file of "Name: value" lines, blank ones and comments.
func headerFile(path string) ([]string, error) {
	text, err := readSmallFile(path)
	if err != nil {
		return nil, withHint(fmt.Errorf("read --header-file: %w", err), "name a readable file of lines such as %q", "Authorization: Bearer …")
	}
	var lines []string
	for line := range bytes.Lines(bytes.TrimPrefix(text, []byte("\xef\xbb\xbf"))) {
		if line = bytes.TrimSpace(line); len(line) > 0 && line[0] != '#' {
			lines = append(lines, string(line))
		}
	}
	return lines, nil
}
