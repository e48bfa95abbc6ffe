package redis

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	neturl "net/url"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
)

// Schemes are those of the URLs that Open takes.
var Schemes = []string{"redis", "rediss", "valkey", "valkeys"}

// CheckURL reports what is wrong with a URL, without connecting.
func CheckURL(url string) error {
	_, err := parseURL(url)
	return err
}

// config is what a URL says.
type config struct {
	addrs                              []string
	db                                 int
	username, password                 string
	sentinelUsername, sentinelPassword string
	masterName                         string
	cluster                            bool
	tls                                *tls.Config
	caFile, certFile, keyFile          string
	prefix                             string
	replicas                           int
	poolSize                           int
}

const (
	defaultPort         = "6379"
	defaultSentinelPort = "26379"
	defaultPrefix       = "mcp-clerk"
)

// parseURL reads the forms that Open describes. Its errors quote no part that
// may hold a password.
func parseURL(raw string) (*config, error) {
	scheme, rest, ok := strings.Cut(raw, "://")
	c := &config{prefix: defaultPrefix, poolSize: max(32, 10*runtime.GOMAXPROCS(0))}
	useTLS := false
	switch {
	case ok && (scheme == "redis" || scheme == "valkey"):
	case ok && (scheme == "rediss" || scheme == "valkeys"):
		useTLS = true
	default:
		return nil, errors.New("redis URL must start with redis://, rediss://, valkey:// or valkeys://")
	}
	rest, query, _ := strings.Cut(rest, "?")
	if err := c.setQuery(query); err != nil {
		return nil, err
	}
	authority, path, _ := strings.Cut(rest, "/")
	if i := strings.LastIndexByte(authority, '@'); i >= 0 {
		if err := c.setUser(authority[:i]); err != nil {
			return nil, err
		}
		authority = authority[i+1:]
	}
	if err := c.setHosts(authority); err != nil {
		return nil, err
	}
	if path != "" {
		db, err := strconv.Atoi(path)
		if err != nil || db < 0 {
			return nil, fmt.Errorf("redis URL: database %q is no number", path)
		}
		c.db = db
	}
	c.cluster = c.cluster || len(c.addrs) > 1 && c.masterName == ""
	if c.cluster && c.db != 0 {
		return nil, errors.New("redis URL: a Cluster has only database 0 (several hosts mean a Cluster unless master_name names the master of Sentinels)")
	}
	if useTLS {
		return c, c.setTLS()
	}
	if c.caFile != "" || c.certFile != "" || c.keyFile != "" {
		return nil, errors.New("redis URL: ca_file, cert_file and key_file are for TLS: use rediss://")
	}
	return c, nil
}

// setTLS reads the files that the URL names.
func (c *config) setTLS() error {
	c.tls = &tls.Config{MinVersion: tls.VersionTLS12} // go-redis fills in the server's name
	if c.caFile != "" {
		pem, err := os.ReadFile(c.caFile)
		if err != nil {
			return fmt.Errorf("redis URL: ca_file: %w", err)
		}
		c.tls.RootCAs = x509.NewCertPool()
		if !c.tls.RootCAs.AppendCertsFromPEM(pem) {
			return fmt.Errorf("redis URL: ca_file: %q has no certificate", c.caFile)
		}
	}
	if c.certFile != "" || c.keyFile != "" {
		pair, err := tls.LoadX509KeyPair(c.certFile, c.keyFile)
		if err != nil {
			return fmt.Errorf("redis URL: cert_file and key_file: %w", err)
		}
		c.tls.Certificates = []tls.Certificate{pair}
	}
	return nil
}

func (c *config) setUser(userinfo string) error {
	user, password, hasPassword := strings.Cut(userinfo, ":")
	user, err := neturl.PathUnescape(user)
	if err == nil {
		password, err = neturl.PathUnescape(password)
	}
	if err != nil {
		return errors.New("redis URL: the user or password is not percent-encoded properly")
	}
	c.username, c.password = user, password
	if !hasPassword {
		c.password = ""
	}
	return nil
}

func (c *config) setHosts(authority string) error {
	port := defaultPort
	if c.masterName != "" {
		port = defaultSentinelPort
	}
	for host := range strings.SplitSeq(authority, ",") {
		if host == "" && authority == "" {
			host = "localhost"
		}
		name, own, err := net.SplitHostPort(host)
		if err != nil {
			name, own = strings.Trim(host, "[]"), port
			if strings.Contains(name, ":") && !strings.HasPrefix(host, "[") {
				return fmt.Errorf("redis URL: host %q: an IPv6 address needs brackets", host)
			}
		}
		if n, err := strconv.Atoi(own); name == "" || err != nil || n < 1 || n > 65535 {
			return fmt.Errorf("redis URL: %q is no host and port", host)
		}
		c.addrs = append(c.addrs, net.JoinHostPort(name, own))
	}
	return nil
}

func (c *config) setQuery(query string) error {
	values, err := neturl.ParseQuery(query)
	if err != nil {
		return errors.New("redis URL: the parameters are not percent-encoded properly")
	}
	number := func(value string, least, most int) (int, error) {
		n, err := strconv.Atoi(value)
		if err != nil || n < least || n > most {
			return 0, fmt.Errorf("is no number from %d to %d", least, most)
		}
		return n, nil
	}
	for _, name := range sorted(values) {
		value := values.Get(name)
		var err error
		switch name {
		case "master_name":
			c.masterName = value
		case "cluster":
			if c.cluster, err = strconv.ParseBool(value); err != nil {
				err = errors.New("is neither true nor false")
			}
		case "prefix":
			c.prefix = value
			if value == "" || strings.ContainsAny(value, "{}") {
				err = errors.New("must be a text without braces")
			}
		case "replicas":
			c.replicas, err = number(value, 0, 10)
		case "pool_size":
			c.poolSize, err = number(value, 1, 10_000)
		case "ca_file":
			c.caFile = value
		case "cert_file":
			c.certFile = value
		case "key_file":
			c.keyFile = value
		case "sentinel_username":
			c.sentinelUsername = value
		case "sentinel_password":
			c.sentinelPassword = value
		default:
			return fmt.Errorf("redis URL: the parameter %q is unknown", name)
		}
		if err != nil {
			return fmt.Errorf("redis URL: the parameter %q %w", name, err)
		}
		if len(values[name]) > 1 {
			return fmt.Errorf("redis URL: the parameter %q stands there twice", name)
		}
	}
	if c.masterName != "" && c.cluster {
		return errors.New("redis URL: master_name is for Sentinels, cluster for a Cluster: choose one")
	}
	return nil
}

// where names the servers for messages.
func (c *config) where() string {
	where := strings.Join(c.addrs, ",")
	if c.masterName != "" {
		return fmt.Sprintf("%s (Sentinels of %q)", where, c.masterName)
	}
	return where
}

func sorted(values neturl.Values) []string {
	names := make([]string, 0, len(values))
	for name := range values {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}
