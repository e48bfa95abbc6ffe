package redis

import (
	"strings"
	"testing"
)

func TestURLs(t *testing.T) {
	for _, test := range []struct {
		url  string
		want config
	}{
		{"redis://localhost", config{addrs: []string{"localhost:6379"}}},
		{"redis://", config{addrs: []string{"localhost:6379"}}},
		{"valkey://10.0.0.1:7000/3", config{addrs: []string{"10.0.0.1:7000"}, db: 3}},
		{"redis://[::1]:7000/", config{addrs: []string{"[::1]:7000"}}},
		{"redis://[::1]", config{addrs: []string{"[::1]:6379"}}},
		{"redis://:p%40ss%2F@h", config{addrs: []string{"h:6379"}, password: "p@ss/"}},
		{"redis://user:a@b@h", config{addrs: []string{"h:6379"}, username: "user", password: "a@b"}},
		{"redis://user:p@h1,h2:7001,h3", config{addrs: []string{"h1:6379", "h2:7001", "h3:6379"}, username: "user", password: "p", cluster: true}},
		{"redis://h?cluster=true", config{addrs: []string{"h:6379"}, cluster: true}},
		{
			"redis://u:p@s1,s2:5000/2?master_name=main&sentinel_password=x%26y&sentinel_username=su",
			config{addrs: []string{"s1:26379", "s2:5000"}, username: "u", password: "p", db: 2, masterName: "main", sentinelUsername: "su", sentinelPassword: "x&y"},
		},
		{"redis://h?prefix=a:b&replicas=2&pool_size=5", config{addrs: []string{"h:6379"}, prefix: "a:b", replicas: 2, poolSize: 5}},
	} {
		got, err := parseURL(test.url)
		if err != nil {
			t.Errorf("%s: %v", test.url, err)
			continue
		}
		if test.want.prefix == "" {
			test.want.prefix = defaultPrefix
		}
		if test.want.poolSize == 0 {
			test.want.poolSize = got.poolSize
		}
		if strings.Join(got.addrs, " ") != strings.Join(test.want.addrs, " ") {
			t.Errorf("%s: addresses %q, want %q", test.url, got.addrs, test.want.addrs)
		}
		got.addrs, test.want.addrs = nil, nil
		if !equal(*got, test.want) {
			t.Errorf("%s: %+v, want %+v", test.url, *got, test.want)
		}
	}
	for _, url := range []string{"rediss://h", "valkeys://h"} {
		if got, err := parseURL(url); err != nil || got.tls == nil {
			t.Errorf("%s: %+v, %v: no TLS", url, got, err)
		}
	}
}

func equal(a, b config) bool {
	return a.db == b.db && a.username == b.username && a.password == b.password && a.sentinelUsername == b.sentinelUsername &&
		a.sentinelPassword == b.sentinelPassword && a.masterName == b.masterName && a.cluster == b.cluster && a.prefix == b.prefix &&
		a.replicas == b.replicas && a.poolSize == b.poolSize
}

// Each says what is wrong, and none tells a password.
func TestURLsThatAreRefused(t *testing.T) {
	for url, problem := range map[string]string{
		"http://user:hunter2@h":                          "must start with",
		"redis:hunter2@h":                                "must start with",
		"hunter2":                                        "must start with",
		"redis://user:hunter2%zz@h":                      "percent-encoded",
		"redis://user:hunter2@h/x":                       `database "x"`,
		"redis://user:hunter2@h/-1":                      `database "-1"`,
		"redis://user:hunter2@h:port":                    "no host and port",
		"redis://user:hunter2@h:0":                       "no host and port",
		"redis://user:hunter2@h,,h":                      "no host and port",
		"redis://user:hunter2@::1":                       "brackets",
		"redis://user:hunter2@h1,h2/1":                   "only database 0",
		"redis://user:hunter2@h?x=1":                     `"x" is unknown`,
		"redis://user:hunter2@h?ca_file=/etc/ca.pem":     "use rediss://",
		"rediss://user:hunter2@h?ca_file=/no/such.pem":   "ca_file",
		"rediss://user:hunter2@h?cert_file=/no/such.pem": "cert_file and key_file",
		"redis://user:hunter2@h?replicas=-1":             "no number from 0",
		"redis://user:hunter2@h?pool_size=none":          "no number from 1",
		"redis://user:hunter2@h?cluster=perhaps":         "neither true nor false",
		"redis://user:hunter2@h?prefix=":                 "without braces",
		"redis://user:hunter2@h?prefix={a}":              "without braces",
		"redis://user:hunter2@h?prefix=a&prefix=b":       "twice",
		"redis://user:hunter2@h?cluster=1&master_name=m": "choose one",
		"redis://h?sentinel_password=hunter2&%zz":        "percent-encoded",
	} {
		_, err := parseURL(url)
		if err == nil || !strings.Contains(err.Error(), problem) {
			t.Errorf("%s: error %v, want one with %q", url, err, problem)
		}
		if err != nil && strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: the error tells the password: %v", url, err)
		}
	}
}

func FuzzURL(f *testing.F) {
	for _, seed := range []string{"redis://u:p@h:1/2?prefix=x", "rediss://h1,h2", "redis://[::1]:1", "valkey://@,:/?"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, url string) {
		c, err := parseURL(url)
		if err == nil && (len(c.addrs) == 0 || c.prefix == "" || c.poolSize < 1 || c.db < 0) {
			t.Errorf("%q: %+v", url, c)
		}
	})
}

func TestKeysOfOneUserAreInOneShard(t *testing.T) {
	used := make(map[int]bool)
	for _, user := range []string{"a", "b", "user_2abc", "x", "y", "z", "ü", ""} {
		used[shardOf("grant/"+user+"/1")] = true
		_, whole := group("grant/" + user + "/")
		if shardOf("grant/"+user+"/1") != shardOf("grant/"+user+"/2/3") || shardOf("grant/"+user+"/") != shardOf("grant/"+user+"/1") || !whole {
			t.Errorf("the grants of %q are in several shards", user)
		}
		if _, whole := group("grant/" + user); whole {
			t.Errorf("a part of a name stands for one shard")
		}
	}
	if len(used) < 3 {
		t.Error("all users are in the same shards")
	}
}
