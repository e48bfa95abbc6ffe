package main

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"

	"github.com/mcp-clerk/mcp-clerk/server"
)

func TestTokenLives(t *testing.T) {
	const day = 24 * time.Hour
	for _, tt := range []struct {
		args []string
		want server.Options // its lives; zero: the flags are refused
	}{
		{nil, server.Options{AccessTokenTTL: time.Hour, RefreshGrace: 30 * time.Minute, RefreshIdle: 30 * day, RefreshAbsolute: 180 * day}},
		{
			[]string{"--access-token-ttl=24h", "--refresh-grace=0", "--refresh-idle=1h", "--refresh-absolute=2h"},
			server.Options{AccessTokenTTL: 24 * time.Hour, RefreshGrace: -1, RefreshIdle: time.Hour, RefreshAbsolute: 2 * time.Hour},
		},
		{[]string{"--access-token-ttl=25h"}, server.Options{}},
		{[]string{"--access-token-ttl=0"}, server.Options{}},
		{[]string{"--refresh-grace=-1s"}, server.Options{}},
		{[]string{"--refresh-idle=0"}, server.Options{}},
		{[]string{"--refresh-absolute=-1h"}, server.Options{}},
	} {
		var l tokenLives
		f := pflag.NewFlagSet("serve", pflag.ContinueOnError)
		l.bind(f)
		if err := f.Parse(tt.args); err != nil {
			t.Fatal(err)
		}
		var got server.Options
		err := l.check()
		if err == nil {
			l.apply(&got)
		} else if code, _ := classify(t.Context(), err, true); code != exitUsage {
			t.Errorf("%q: %v is no usage error", tt.args, err)
		}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%q (-want +got):\n%s", tt.args, diff)
		}
	}
}
