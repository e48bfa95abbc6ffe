package main

import (
	"context"
	"encoding/json"
	"net/http"
	neturl "net/url"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/mcp-clerk/mcp-clerk/internal/devclerk"
)

// deviceProcess is a program that connects by a device code.
type deviceProcess struct {
	Code     string `json:"device_code"`
	Complete string `json:"verification_uri_complete"`

	refresh string
}

func cmdDevice(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 1 {
		ts.Fatalf("usage: device ask|missing|approve|poll WANT|refresh")
	}
	d := &of(ts).device
	post := func(path string, into any, pairs ...string) {
		form := neturl.Values{"client_id": {"mcp-clerk-connect"}}
		for i := 0; i < len(pairs); i += 2 {
			form.Set(pairs[i], pairs[i+1])
		}
		client := &http.Client{Timeout: 20 * time.Second}
		resp, err := client.PostForm(ts.Getenv("URL")+path, form)
		ts.Check(err)
		defer func() { ts.Check(resp.Body.Close()) }()
		ts.Check(json.NewDecoder(resp.Body).Decode(into))
	}
	var answer struct {
		Refresh string `json:"refresh_token"`
		Error   string `json:"error"`
	}
	switch {
	case args[0] == "ask":
		*d = deviceProcess{}
		post("/device_authorization", d)
	case args[0] == "missing":
		resp, err := http.Get(ts.Getenv("URL") + "/device")
		ts.Check(err)
		ts.Check(resp.Body.Close())
		if resp.StatusCode != http.StatusNotFound {
			ts.Fatalf("device: the page is there: %s", resp.Status)
		}
	case args[0] == "approve":
		person := devclerk.NewPerson(ts.Getenv("BROWSER_USER"), func(pressed string) { ts.Logf("pressed %q", pressed) })
		ts.Check(person.Walk(context.Background(), d.Complete))
	case args[0] == "poll" && len(args) == 2:
		post("/token", &answer, "grant_type", "urn:ietf:params:oauth:grant-type:device_code", "device_code", d.Code)
		if answer.Refresh != "" {
			d.refresh, answer.Error = answer.Refresh, "tokens"
		}
		if answer.Error != args[1] {
			ts.Fatalf("device poll: got %q, want %q", answer.Error, args[1])
		}
	case args[0] == "refresh":
		post("/token", &answer, "grant_type", "refresh_token", "refresh_token", d.refresh)
		if answer.Refresh == "" {
			ts.Fatalf("device refresh: %s", answer.Error)
		}
		d.refresh = answer.Refresh
	default:
		ts.Fatalf("device: unknown %q", args)
	}
}
