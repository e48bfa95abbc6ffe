package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/mcp-clerk/mcp-clerk/internal/devclerk"
)

// selection is a choice of server scenarios: the suite that has them, the
// arguments by which it makes the choice, and their names.
type selection func(context.Context, suite) (of suite, args, names []string, err error)

// required are the scenarios that a revision requires, with those that it lists
// without scoring them.
func required(revision string) selection {
	return func(_ context.Context, s suite) (suite, []string, []string, error) {
		names, err := s.required(revision)
		return s, []string{"--requirements", revision}, names, err
	}
}

// everythingOf is what another release of the suite has for servers, what it
// calls pending included.
func everythingOf(release string) selection {
	return func(ctx context.Context, s suite) (suite, []string, []string, error) {
		s = s.at(release)
		names, err := s.scenarios(ctx, "server")
		return s, []string{"--suite", "all"}, names, err
	}
}

// serverScenarios returns the part that runs the chosen scenarios against the
// server with the suite's fixtures. The suite knows no sign-in there: a proxy
// between the two has signed in and adds the token.
func serverScenarios(choose selection) func(context.Context, *bench) ([]scenario, error) {
	return func(ctx context.Context, b *bench) (found []scenario, err error) {
		srv, err := startFixtures(ctx, b)
		if err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, srv.stop()) }()
		token, err := signIn(ctx, b, srv.url, "/mcp")
		if err != nil {
			return nil, err
		}
		front, stop, err := startProxy(ctx, srv.url, token, nil)
		if err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, stop()) }()
		chosen, args, names, err := choose(ctx, b.suite)
		if err != nil {
			return nil, err
		}
		out := filepath.Join(b.dir, "results")
		cmd := chosen.command(ctx, append([]string{"server", "--url", front + "/mcp", "--output-dir", out}, args...)...)
		text, runErr := cmd.CombinedOutput()
		// Its exit code says less than its results.
		if found, err = results(out, names); err != nil {
			return found, errors.Join(err, runErr, errors.New(string(text)))
		}
		// The tasks extension is not served.
		return slices.DeleteFunc(found, func(s scenario) bool { return strings.HasPrefix(s.Name, "tasks-") }), nil
	}
}

// startFixtures builds and starts the server with the suite's fixtures.
func startFixtures(ctx context.Context, b *bench) (*process, error) {
	program := filepath.Join(b.dir, "conformance-server")
	build := exec.CommandContext(ctx, "go", "build", "-o", program, "github.com/mcp-clerk/mcp-clerk/scripts/conformance-server") //nolint:gosec // a path of ours
	if text, err := build.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build the server: %w\n%s", err, text)
	}
	return startProgram(ctx, b, program)
}

// signIn registers a client and signs a person in (RFC 6749 section 4.1, RFC
// 7636), for the resource at path.
func signIn(ctx context.Context, b *bench, issuer, path string) (token string, err error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("listen for the callback: %w", err)
	}
	codes := make(chan string, 1)
	callback := &http.Server{ReadHeaderTimeout: 10 * time.Second, Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		select {
		case codes <- r.URL.Query().Get("code"):
		default: // it is called once; what else comes is not it
		}
	})}
	done := make(chan error, 1)
	go func() { done <- callback.Serve(l) }()
	defer func() {
		err = errors.Join(err, callback.Close())
		if e := <-done; !errors.Is(e, http.ErrServerClosed) {
			err = errors.Join(err, e)
		}
	}()
	redirect := "http://" + l.Addr().String() + "/callback"
	client, err := register(ctx, issuer, redirect)
	if err != nil {
		return "", err
	}
	verifier := rand.Text() + rand.Text()
	sum := sha256.Sum256([]byte(verifier))
	query := url.Values{
		"response_type": {"code"}, "client_id": {client}, "redirect_uri": {redirect}, "state": {rand.Text()},
		"code_challenge": {base64.RawURLEncoding.EncodeToString(sum[:])}, "code_challenge_method": {"S256"},
		"resource": {issuer + path}, "scope": {"mcp:tools"},
	}
	p := devclerk.NewPerson("member@example.com", func(pressed string) { fmt.Fprintf(b.log, "pressed %q\n", pressed) })
	if err := p.Walk(ctx, issuer+"/authorize?"+query.Encode()); err != nil {
		return "", fmt.Errorf("approve: %w", err)
	}
	var code string
	select {
	case code = <-codes:
	default:
	}
	if code == "" {
		return "", errors.New("the sign-in gave no code")
	}
	form := url.Values{
		"grant_type": {"authorization_code"}, "code": {code}, "client_id": {client}, "redirect_uri": {redirect},
		"code_verifier": {verifier}, "resource": {issuer + path},
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, issuer+"/token", strings.NewReader(form.Encode()))
	if err != nil {
		return "", fmt.Errorf("ask for a token: %w", err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	resp, err := (&http.Client{Timeout: 30 * time.Second}).Do(req)
	if err != nil {
		return "", fmt.Errorf("ask for a token: %w", err)
	}
	defer resp.Body.Close()
	var answer struct {
		Token string `json:"access_token"`
	}
	data, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if err == nil {
		err = json.Unmarshal(data, &answer)
	}
	if err != nil || answer.Token == "" {
		return "", errors.Join(fmt.Errorf("ask for a token: %s", resp.Status), err)
	}
	return answer.Token, nil
}

// startProxy passes everything on to target as it is, with the token added, but
// for what refuse answers; it may be nil.
func startProxy(ctx context.Context, target, token string, refuse func(http.ResponseWriter, *http.Request) bool) (at string, stop func() error, err error) {
	to, err := url.Parse(target)
	if err != nil {
		return "", nil, fmt.Errorf("read the server's URL: %w", err)
	}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, fmt.Errorf("listen for the proxy: %w", err)
	}
	proxy := &httputil.ReverseProxy{
		FlushInterval: -1, // streams go through event by event
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(to)
			// An answer that comes before the HTTP client has seen the end of the
			// body would have net/http close that body, and with it the answer.
			if body, err := io.ReadAll(r.In.Body); err == nil {
				r.Out.Body = io.NopCloser(bytes.NewReader(body))
			}
			r.Out.Host = r.In.Host // the scenarios try false ones
			r.Out.Header.Set("Authorization", "Bearer "+token)
		},
		// The suite hangs up on a stream when it has what it wants. Its HTTP
		// client may by then have given the connection to the next request.
		ModifyResponse: func(resp *http.Response) error {
			if resp.Header.Get("Content-Type") == "text/event-stream" {
				resp.Header.Set("Connection", "close")
			}
			return nil
		},
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) }, // the suite hangs up on streams
	}
	front := &http.Server{ReadHeaderTimeout: 10 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if refuse == nil || !refuse(w, r) {
			proxy.ServeHTTP(w, r)
		}
	})}
	done := make(chan error, 1)
	go func() { done <- front.Serve(l) }()
	return "http://" + l.Addr().String(), func() error {
		err := front.Close()
		if e := <-done; !errors.Is(e, http.ErrServerClosed) {
			err = errors.Join(err, e)
		}
		return err
	}, nil
}
