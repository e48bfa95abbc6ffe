package oauthclient_test

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mcp-clerk/mcp-clerk/internal/oauthclient"
)

// Sign-ins on another device (RFC 8628).

// deviceSite is a site with a device authorization endpoint (RFC 8628).
type deviceSite struct {
	*site
	answers []map[string]any // of the token endpoint, one a question; the last one stays
	asked   int
}

func newDeviceSite(t *testing.T, answers ...map[string]any) *deviceSite {
	d := &deviceSite{site: newSite(t), answers: answers}
	d.meta["device_authorization_endpoint"] = d.URL + "/device"
	delete(d.meta, "authorization_endpoint") // none is needed
	delete(d.meta, "code_challenge_methods_supported")
	d.on("/device", func(w http.ResponseWriter, r *http.Request) {
		if r.FormValue("client_id") == "" || r.FormValue("resource") != d.URL+"/mcp" {
			writeJSON(w, http.StatusBadRequest, map[string]any{"error": "invalid_request"})
			return
		}
		writeJSON(w, http.StatusOK, map[string]any{
			"device_code": "device-1", "user_code": "WDJB-MJHT", "verification_uri": d.URL + "/activate", "expires_in": 600, "interval": 1,
		})
	})
	d.on("/token", func(w http.ResponseWriter, r *http.Request) {
		d.mu.Lock()
		defer d.mu.Unlock()
		if r.PostFormValue("grant_type") != "urn:ietf:params:oauth:grant-type:device_code" || r.PostFormValue("device_code") != "device-1" {
			writeJSON(w, http.StatusBadRequest, map[string]any{"error": "invalid_grant"})
			return
		}
		answer := d.answers[min(d.asked, len(d.answers)-1)]
		d.asked++
		if answer["access_token"] != nil {
			d.valid[answer["access_token"].(string)] = true
			writeJSON(w, http.StatusOK, answer)
			return
		}
		writeJSON(w, http.StatusBadRequest, answer)
	})
	return d
}

func oauthError(code string) map[string]any { return map[string]any{"error": code} }

// RFC 8628 section 3: the code is shown, the server is asked until somebody has
// entered it, and no browser opens here (case 17).
func TestDeviceFlow(t *testing.T) {
	d := newDeviceSite(t, oauthError("authorization_pending"), map[string]any{
		"access_token": "device-token", "token_type": "Bearer", "expires_in": 3600, "refresh_token": "r",
	})
	var shown []string
	o := options(t, d.URL+"/mcp", t.TempDir())
	o.Flow, o.OpenURL = oauthclient.FlowDevice, closed(t)
	o.Prompt = func(u, code string) { shown = append(shown, u+" "+code) }
	c := newClient(t, o)
	if status, err := request(t.Context(), c, d.URL+"/mcp"); status != http.StatusOK || err != nil {
		t.Fatalf("status %d, %v", status, err)
	}
	if want := []string{d.URL + "/activate WDJB-MJHT"}; !slices.Equal(shown, want) {
		t.Errorf("shown %q, want %q", shown, want)
	}
	if d.asked != 2 {
		t.Errorf("the token endpoint was asked %d times, want 2", d.asked)
	}
	if grants := d.regs[0]["grant_types"].([]any); !slices.Contains(grants, any("urn:ietf:params:oauth:grant-type:device_code")) {
		t.Errorf("registered for %v", grants)
	}
}

func TestDeviceFlowEnds(t *testing.T) {
	for code, want := range map[string]string{
		"access_denied": "access was denied", "expired_token": "nobody signed in", "invalid_grant": "invalid_grant",
	} {
		t.Run(code, func(t *testing.T) {
			d := newDeviceSite(t, oauthError(code))
			o := options(t, d.URL+"/mcp", t.TempDir())
			o.Flow, o.Prompt = oauthclient.FlowDevice, func(string, string) {}
			err := newClient(t, o).SignIn(t.Context())
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%v, want %q", err, want)
			}
		})
	}
}

// A server's address for the code is shown to a person, who opens it: the rules
// for the browser hold (case 1).
func TestDeviceAddressIsChecked(t *testing.T) {
	for _, uri := range []string{"javascript:alert(1)", "file:///etc/passwd", "http://evil.example/", "https://a@b/"} {
		d := newDeviceSite(t, oauthError("authorization_pending"))
		d.on("/device", func(w http.ResponseWriter, _ *http.Request) {
			writeJSON(w, http.StatusOK, map[string]any{"device_code": "device-1", "user_code": "C", "verification_uri": uri})
		})
		o := options(t, d.URL+"/mcp", t.TempDir())
		o.Flow = oauthclient.FlowDevice
		o.Prompt = func(u, _ string) { t.Errorf("shown %q", u) }
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		if err := newClient(t, o).SignIn(ctx); err == nil || !strings.Contains(err.Error(), "verification_uri") {
			t.Errorf("%q: %v", uri, err)
		}
		cancel()
	}
}

// A process that ends leaves the device flow to the next one, too (case 18).
func TestDeviceFlowOutlivesItsProcess(t *testing.T) {
	d := newDeviceSite(t, oauthError("authorization_pending"))
	o := options(t, d.URL+"/mcp", t.TempDir())
	shown := make(chan string, 10)
	o.Flow, o.OpenURL, o.Prompt = oauthclient.FlowDevice, closed(t), func(u, code string) { shown <- code }
	first := newClient(t, o)
	done := make(chan error, 1)
	go func() {
		done <- first.Authorize(context.WithoutCancel(t.Context()), "", http.StatusUnauthorized, http.Header{})
	}()
	<-shown
	first.Close()
	if err := <-done; err == nil {
		t.Fatal("the sign-in ended well without anybody")
	}
	d.with(func() {
		d.answers = []map[string]any{{"access_token": "device-token", "token_type": "Bearer"}}
	})
	second := newClient(t, o)
	if err := second.Resume(t.Context()); err != nil {
		t.Fatal(err)
	}
	if token, err := second.Token(t.Context()); token != "device-token" || err != nil {
		t.Errorf("token %q, %v", token, err)
	}
	if n := d.count("POST /device"); n != 1 {
		t.Errorf("%d codes were asked for", n)
	}
}

func TestDeviceFlowMustBeOffered(t *testing.T) {
	s := newSite(t)
	o := options(t, s.URL+"/mcp", t.TempDir())
	o.Flow, o.Prompt = oauthclient.FlowDevice, func(string, string) {}
	if err := newClient(t, o).SignIn(t.Context()); err == nil || !strings.Contains(err.Error(), "device flow") {
		t.Error(err)
	}
}
