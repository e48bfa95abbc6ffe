package redis_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mcp-clerk/mcp-clerk/internal/store"
	"github.com/mcp-clerk/mcp-clerk/internal/store/redis"
	"github.com/mcp-clerk/mcp-clerk/internal/store/storetest"
)

// eventually waits for a condition of a server.
func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	deadline := time.Now().Add(40 * time.Second)
	for !f() {
		if time.Now().After(deadline) {
			t.Fatalf("not within 40 s: %s", what)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func hostPort(t *testing.T, s *storetest.Server) (string, string) {
	t.Helper()
	host, port, err := net.SplitHostPort(s.Addr)
	if err != nil {
		t.Fatal(err)
	}
	return host, port
}

// startCluster starts a Cluster of three masters.
func startCluster(t *testing.T) []*storetest.Server {
	t.Helper()
	nodes := make([]*storetest.Server, 3)
	args := []string{"--cluster", "create"}
	for i := range nodes {
		nodes[i] = storetest.StartRedis(t, "--cluster-enabled", "yes", "--cluster-node-timeout", "2000")
		args = append(args, nodes[i].Addr)
	}
	nodes[0].RedisCLI(append(args, "--cluster-yes")...)
	for _, node := range nodes {
		eventually(t, "the Cluster is up", func() bool { return strings.Contains(node.RedisCLI("cluster", "info"), "cluster_state:ok") })
	}
	return nodes
}

func TestCluster(t *testing.T) {
	if testing.Short() {
		t.Skip("takes long")
	}
	nodes := startCluster(t)
	all := nodes[0].Addr + "," + nodes[1].Addr + "," + nodes[2].Addr
	t.Run("conforms", func(t *testing.T) { storetest.Run(t, fixtures("redis://"+all)) })

	t.Run("one node is enough to name", func(t *testing.T) {
		s := open(t, "redis://"+nodes[1].Addr+"?cluster=true&"+newPrefix())
		for i := range 200 {
			if err := s.Create(t.Context(), store.Record{Key: fmt.Sprint("client/", i)}); err != nil {
				t.Fatal(err)
			}
		}
		if l, err := s.List(t.Context(), "client/", "", 1000); err != nil || len(l) != 200 {
			t.Fatalf("List: %d, %v", len(l), err)
		}
		for _, node := range nodes { // they are spread
			if n, err := strconv.Atoi(node.RedisCLI("dbsize")); err != nil || n < 20 {
				t.Errorf("a node has %d keys (%v)", n, err)
			}
		}
	})

	t.Run("a node of a Cluster named as a single server", func(t *testing.T) {
		s, err := redis.Open(t.Context(), "redis://"+nodes[0].Addr, redis.Options{})
		if err == nil {
			s.Close()
		}
		if err == nil || !strings.Contains(err.Error(), "cluster=true") {
			t.Errorf("error %v", err)
		}
	})

	t.Run("a user of the ACL", func(t *testing.T) {
		for _, node := range nodes {
			node.RedisCLI("acl", "setuser", "clerk", "on", ">s3cret", "~mcp-clerk:*", "&mcp-clerk:*",
				"+@read", "+@write", "+@scripting", "+@connection", "+@pubsub", "+time", "-@dangerous", "+cluster|slots")
		}
		s := open(t, "redis://clerk:s3cret@"+nodes[0].Addr+"?cluster=true")
		for i := range 10 {
			if err := s.Create(t.Context(), store.Record{Key: fmt.Sprint("client/", i)}); err != nil {
				t.Fatal(err)
			}
		}
		if l, err := s.List(t.Context(), "", "", 100); err != nil || len(l) != 10 {
			t.Fatalf("List: %d, %v", len(l), err)
		}
	})

	t.Run("slots move between nodes under load", func(t *testing.T) {
		s := open(t, "redis://"+all+"?"+newPrefix())
		const counters = 40
		for i := range counters {
			if err := s.Create(t.Context(), store.Record{Key: fmt.Sprint("client/", i), Value: []byte("0")}); err != nil {
				t.Fatal(err)
			}
		}
		stop := make(chan struct{})
		var mu sync.Mutex
		done := make([]int, counters)
		var wg sync.WaitGroup
		for w := range 4 {
			wg.Go(func() {
				for i := w; ; i = (i + 4) % counters {
					select {
					case <-stop:
						return
					default:
					}
					if _, err := s.Update(t.Context(), fmt.Sprint("client/", i), storetest.Increment); err != nil {
						t.Errorf("while slots move: %v", err)
						return
					}
					mu.Lock()
					done[i]++
					mu.Unlock()
				}
			})
		}
		from := nodes[0].RedisCLI("cluster", "myid")
		to := nodes[1].RedisCLI("cluster", "myid")
		nodes[0].RedisCLI("--cluster", "reshard", nodes[0].Addr, "--cluster-from", from, "--cluster-to", to, "--cluster-slots", "3000", "--cluster-yes")
		close(stop)
		wg.Wait()
		for i := range counters {
			r, err := s.Get(t.Context(), fmt.Sprint("client/", i))
			if err != nil || string(r.Value) != strconv.Itoa(done[i]) {
				t.Errorf("counter %d is %q after %d updates (%v)", i, r.Value, done[i], err)
			}
		}
		t.Logf("%d updates of the first counter", done[0])
	})
}

// startSentinels starts a master, a replica and three Sentinels.
func startSentinels(t *testing.T) (master, replica *storetest.Server, url string) {
	t.Helper()
	master = storetest.StartRedis(t)
	host, port := hostPort(t, master)
	replica = storetest.StartRedis(t, "--replicaof", host, port)
	var addrs []string
	for i := range 3 {
		file := filepath.Join(t.TempDir(), fmt.Sprint("sentinel", i, ".conf"))
		content := fmt.Sprintf("sentinel monitor main %s %s 2\nsentinel down-after-milliseconds main 500\nsentinel failover-timeout main 3000\n", host, port)
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		addrs = append(addrs, storetest.StartSentinel(t, file).Addr)
	}
	eventually(t, "the replica follows", func() bool { return strings.Contains(master.RedisCLI("info", "replication"), "state=online") })
	return master, replica, "redis://" + strings.Join(addrs, ",") + "?master_name=main"
}

func TestSentinelFailOver(t *testing.T) {
	if testing.Short() {
		t.Skip("takes long")
	}
	master, replica, url := startSentinels(t)
	s := open(t, url+"&replicas=1&"+newPrefix())
	ctx := t.Context()
	if err := s.Create(ctx, store.Record{Key: "counter", Value: []byte("0")}); err != nil {
		t.Fatal(err)
	}
	for range 20 {
		if _, err := s.Update(ctx, "counter", storetest.Increment); err != nil {
			t.Fatal(err)
		}
	}
	arrived := make(chan string, 100)
	if _, err := s.Subscribe("t", func(m []byte) { arrived <- string(m) }); err != nil {
		t.Fatal(err)
	}
	for i := range 3 { // the Sentinels have to know of each other and of the replica
		eventually(t, "the Sentinels know the replica", func() bool {
			return strings.Contains(sentinelInfo(t, url, i), "slaves=1,sentinels=3")
		})
	}

	master.Kill()
	// There is no replica of the new master: a write is not enough without.
	eventually(t, "the replica is master", func() bool { return strings.Contains(replica.RedisCLI("role"), "master") })
	eventually(t, "reads go to the new master", func() bool {
		r, err := s.Get(ctx, "counter")
		return err == nil && string(r.Value) == "20" // what was acknowledged is there
	})
	if _, err := s.Update(ctx, "counter", storetest.Increment); err == nil {
		t.Error("a write that no replica has was acknowledged")
	}
	alone := open(t, url+"&"+newPrefix())
	if err := alone.Create(ctx, store.Record{Key: "k"}); err != nil {
		t.Errorf("Create at the new master: %v", err)
	}
	master.Restart()
	eventually(t, "writes with a replica go through again", func() bool {
		_, err := s.Update(ctx, "counter", storetest.Increment)
		return err == nil
	})
	eventually(t, "messages arrive", func() bool {
		_ = s.Publish(ctx, "t", []byte("m"))
		return len(arrived) > 0
	})
}

func sentinelInfo(t *testing.T, url string, i int) string {
	t.Helper()
	_, rest, _ := strings.Cut(url, "//")
	hosts, _, _ := strings.Cut(rest, "?")
	return storetest.RedisCLI(t, strings.Split(hosts, ",")[i], "info", "sentinel")
}

func TestConformsBehindSentinel(t *testing.T) {
	if testing.Short() {
		t.Skip("takes long")
	}
	_, _, url := startSentinels(t)
	storetest.Run(t, func(t *testing.T) storetest.Fixture {
		url := url + "&replicas=1&" + newPrefix()
		return storetest.Fixture{
			Store:        open(t, url),
			Peer:         func(t *testing.T) store.Store { return open(t, url) },
			Now:          time.Now,
			NativeExpiry: true,
		}
	})
}

// A user of the ACL with no more than the documented rights.
func TestUserOfTheACL(t *testing.T) {
	server := storetest.StartRedis(t)
	server.RedisCLI("acl", "setuser", "clerk", "on", ">s3cret/@", "~mcp-clerk:*", "&mcp-clerk:*",
		"+@read", "+@write", "+@scripting", "+@connection", "+@pubsub", "+time", "-@dangerous")
	server.RedisCLI("acl", "setuser", "default", "off")

	s := open(t, "redis://clerk:s3cret%2F%40@"+server.Addr)
	if err := s.Create(t.Context(), store.Record{Key: "client/1", Expires: time.Now().Add(time.Hour)}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Update(t.Context(), "client/1", func(old store.Record) ([]byte, time.Time, error) { return old.Value, old.Expires, nil }); err != nil {
		t.Fatal(err)
	}
	if l, err := s.List(t.Context(), "", "", 10); err != nil || len(l) != 1 {
		t.Fatalf("List: %v, %v", l, err)
	}
	if _, err := s.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.Publish(t.Context(), "t", nil); err != nil {
		t.Fatal(err)
	}
	for url, hint := range map[string]string{
		"redis://clerk:hunter2@" + server.Addr:                        "check the user and password",
		"redis://" + server.Addr:                                      "check the user and password",
		"redis://clerk:s3cret%2F%40@" + server.Addr + "?prefix=other": "needs read, write",
	} {
		_, err := redis.Open(t.Context(), url, redis.Options{})
		if err == nil || !strings.Contains(err.Error(), hint) || strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: error %v, want %q", url, err, hint)
		}
	}
}

func TestNoServer(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	start := time.Now()
	_, err = redis.Open(t.Context(), "redis://u:hunter2@"+l.Addr().String(), redis.Options{})
	if err == nil || !strings.Contains(err.Error(), "start the server") || !strings.Contains(err.Error(), l.Addr().String()) || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("error %v", err)
	}
	t.Logf("after %v", time.Since(start))
}

func TestTLS(t *testing.T) {
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	writeCertificate(t, cert, key)
	plain := storetest.StartRedis(t)
	server := storetest.StartRedisTLS(t, cert, key)
	trusted := "?ca_file=" + url.QueryEscape(cert)
	s := open(t, "rediss://"+server.Addr+trusted)
	if err := s.Create(t.Context(), store.Record{Key: "k"}); err != nil {
		t.Fatal(err)
	}
	for _, url := range []string{
		"redis://" + server.Addr,           // no TLS here
		"rediss://" + plain.Addr + trusted, // none there
		"rediss://" + server.Addr,          // an authority that nobody knows
		"rediss://localhost:" + server.Addr[strings.LastIndex(server.Addr, ":")+1:] + trusted, // another name in the certificate
	} {
		if s, err := redis.Open(t.Context(), url, redis.Options{}); err == nil {
			s.Close()
			t.Errorf("%s: opened", url)
		}
	}

	// A server that asks for a certificate is shown one.
	server.RedisCLI("--tls", "--cacert", cert, "config", "set", "tls-auth-clients", "yes")
	if s, err := redis.Open(t.Context(), "rediss://"+server.Addr+trusted, redis.Options{}); err == nil {
		s.Close()
		t.Error("opened without a certificate of its own")
	}
	own := "&cert_file=" + url.QueryEscape(cert) + "&key_file=" + url.QueryEscape(key)
	if err := open(t, "rediss://"+server.Addr+trusted+own).Create(t.Context(), store.Record{Key: "k2"}); err != nil {
		t.Error(err)
	}
}

func writeCertificate(t *testing.T, certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "redis"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	err = errors.Join(
		os.WriteFile(certFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert}), 0o600),
		os.WriteFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600),
	)
	if err != nil {
		t.Fatal(err)
	}
}

// With appendfsync always a write is on the disk before it is acknowledged.
func TestKilledServerLosesNothingAcknowledged(t *testing.T) {
	server := storetest.StartRedis(t, "--appendonly", "yes", "--appendfsync", "always")
	storetest.Killed(t, server, open(t, "redis://"+server.Addr))
}

func TestSettingsThatLoseRecordsAreSaid(t *testing.T) {
	server := storetest.StartRedis(t, "--maxmemory-policy", "allkeys-lru")
	var log strings.Builder
	s, err := redis.Open(t.Context(), "redis://"+server.Addr, redis.Options{Logger: slog.New(slog.NewTextHandler(&log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for _, part := range []string{"appendonly yes", "noeviction"} {
		if !strings.Contains(log.String(), part) {
			t.Errorf("the log has no %q:\n%s", part, &log)
		}
	}
}

func TestOtherLayout(t *testing.T) {
	server := storetest.StartRedis(t)
	server.RedisCLI("set", "mcp-clerk:format", "2")
	_, err := redis.Open(t.Context(), "redis://"+server.Addr, redis.Options{})
	if err == nil || !strings.Contains(err.Error(), `layout "2"`) {
		t.Errorf("error %v", err)
	}
}

// What expired leaves nothing behind.
func TestSweepEmptiesTheIndex(t *testing.T) {
	server := storetest.StartRedis(t)
	s := open(t, "redis://"+server.Addr)
	for i := range 1500 {
		if err := s.Create(t.Context(), store.Record{Key: fmt.Sprint("signin/", i), Expires: time.Now().Add(50 * time.Millisecond)}); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Create(t.Context(), store.Record{Key: "client/1", Expires: time.Now().Add(time.Hour)}); err != nil {
		t.Fatal(err)
	}
	// Records that had a short life, or none that ends, before the one they have.
	for key, first := range map[string]time.Time{"longer": time.Now().Add(50 * time.Millisecond), "shorter": {}} {
		last := map[string]time.Time{"longer": time.Now().Add(time.Hour), "shorter": time.Now().Add(50 * time.Millisecond)}[key]
		if err := s.Create(t.Context(), store.Record{Key: key, Expires: first}); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Update(t.Context(), key, func(store.Record) ([]byte, time.Time, error) { return nil, last, nil }); err != nil {
			t.Fatal(err)
		}
	}
	time.Sleep(100 * time.Millisecond)
	if _, err := s.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	// Two records, each with its two places in the indexes, and the layout.
	// Redis counts expired keys until it has looked at them.
	eventually(t, "only live keys are left", func() bool { return server.RedisCLI("dbsize") == "7" })
	for _, key := range []string{"client/1", "longer"} {
		if found, err := s.List(t.Context(), key, "", 10); err != nil || len(found) != 1 {
			t.Errorf("List(%q) = %d records, %v", key, len(found), err)
		}
		if _, err := s.Take(t.Context(), key); err != nil {
			t.Fatal(err)
		}
	}
	if n := server.RedisCLI("dbsize"); n != "1" {
		t.Errorf("%s keys are left", n)
	}
}

// cases/server 61: clocks 5 minutes apart between instances.
func TestClocksOfInstancesDiffer(t *testing.T) {
	server := storetest.StartRedis(t)
	at := func(offset time.Duration) store.Store {
		s, err := redis.Open(t.Context(), "redis://"+server.Addr, redis.Options{Now: func() time.Time { return time.Now().Add(offset) }})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Close() })
		return s
	}
	storetest.Clocks(t, at)
}
