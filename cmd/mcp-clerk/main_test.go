package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	neturl "net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/mcp-clerk/mcp-clerk/internal/devclerk"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"mcp-clerk":       main,
		"walking-browser": walkingBrowser,
		"idle-browser":    func() { noteWindow() },
		"no-browser":      func() { os.Exit(1) },
		"bench-server":    serveBench,
	})
}

// walkingBrowser is a browser for $BROWSER: it goes through the pages behind
// its one argument as $BROWSER_USER.
func walkingBrowser() {
	if len(os.Args) != 2 {
		fmt.Fprintf(os.Stderr, "browser: %d arguments, want 1\n", len(os.Args)-1)
		os.Exit(1)
	}
	noteWindow()
	walker := devclerk.NewPerson(os.Getenv("BROWSER_USER"), func(string) {})
	if err := walker.Walk(context.Background(), os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "browser:", err)
		os.Exit(1)
	}
}

// noteWindow writes a line to $BROWSER_LOG for each window.
func noteWindow() {
	log := os.Getenv("BROWSER_LOG")
	if log == "" {
		return
	}
	f, err := os.OpenFile(log, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err == nil {
		_, err = fmt.Fprintln(f, "opened")
	}
	if err = errors.Join(err, f.Close()); err != nil {
		fmt.Fprintln(os.Stderr, "browser:", err)
		os.Exit(1)
	}
}

// TestScript runs the behavioural specification, testdata/script/*.txtar,
// against the real main. On top of testscript's commands there are
//
//	serve ARGS…        start "mcp-clerk serve ARGS…" and set $URL from its
//	                   "listening on" line; an ADDR of 127.0.0.1:0 is added;
//	                   $INTERNAL is the internal listener's address
//	clerk start        run a stand-in for Clerk and set CLERK_… for serve
//	clerk allow URL    let it redirect to URL
//	clerk role ID ROLE give the user with that id a role, "" for none
//	clerk press A ID   press the button A for a user on the page of serve --dev
//	clerk switch A B   switch A (on, off or rotate) on the stand-in of serve --dev
//	clerk key ID NAME  make an API key of the user or organisation, in $NAME
//	kill-server        kill -9 that process
//	stop-server        SIGTERM, and check that it ends with code 0
//	exits CODE CMD…    run CMD and check its exit code
//	device ask         ask for a device code, as a program that speaks RFC 8628
//	device missing     check that there is no page for that
//	device approve     as a person at a browser, let the device in
//	device poll WANT   ask for its tokens: WANT is "tokens" or an error
//	device refresh     refresh them
//	bridge start ARGS… start "mcp-clerk connect ARGS…" with open pipes; its
//	                   standard error goes to the file bridge.stderr, its
//	                   process is $BRIDGE_PID
//	bridge login ARGS… the same with "mcp-clerk login ARGS…"
//	bridge send JSON   write one line to it
//	bridge paste       write the address that the last command's browser could
//	                   not reach, out of its standard error
//	bridge expect RE   read lines until one matches RE (40 s); the file last has it
//	bridge close       close its input and check its exit code
//	bridge kill        kill -9 it
//	bridge term        SIGTERM, and check that it ends well
//	bridge url         wait until it shows a sign-in URL, and set $SIGNIN to it
//	eventually CMD…    run CMD until it succeeds (40 s)
func TestScript(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 filepath.Join("testdata", "script"),
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(env *testscript.Env) error {
			env.Setenv("HOME", filepath.Join(env.WorkDir, "home"))
			env.Setenv("XDG_STATE_HOME", filepath.Join(env.WorkDir, "state"))
			env.Setenv("LocalAppData", filepath.Join(env.WorkDir, "state")) // the same on Windows
			env.Setenv("BROWSER", "no-browser")
			env.Setenv("BROWSER_USER", demoAdmin)
			env.Setenv("DBUS_SESSION_BUS_ADDRESS", "unix:path=/nonexistent")
			env.Values[processesKey{}] = &processes{env: env}
			return os.MkdirAll(filepath.Join(env.WorkDir, "home"), 0o700)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"serve":       cmdServe,
			"kill-server": cmdKillServer,
			"stop-server": cmdStopServer,
			"exits":       cmdExits,
			"eventually":  cmdEventually,
			"bridge":      cmdBridge,
			"clerk":       cmdClerk,
			"device":      cmdDevice,
		},
	})
}

type processesKey struct{}

// processes are the long-lived ones of one script; the script's end kills them.
type processes struct {
	env    *testscript.Env
	server *exec.Cmd
	bridge *bridgeProcess
	clerk  *devclerk.Server
	users  string // URL of the page of serve --dev
	device deviceProcess
}

func of(ts *testscript.TestScript) *processes {
	return ts.Value(processesKey{}).(*processes) //nolint:forcetypeassert // set in Setup
}

// command prepares a program with the script's environment.
func command(ts *testscript.TestScript, name string, args ...string) *exec.Cmd {
	path, err := lookPath(ts, name)
	ts.Check(err)
	cmd := exec.Command(path, args...)
	cmd.Dir = ts.MkAbs(".")
	cmd.Env = scriptEnv(ts)
	ownGroup(cmd)
	return cmd
}

func lookPath(ts *testscript.TestScript, name string) (string, error) {
	for _, dir := range filepath.SplitList(ts.Getenv("PATH")) {
		path := filepath.Join(dir, name+programExt)
		if info, err := os.Stat(path); err == nil && !info.IsDir() {
			return path, nil
		}
	}
	return "", fmt.Errorf("no program %q", name)
}

func scriptEnv(ts *testscript.TestScript) []string {
	var env []string
	for _, name := range []string{"PATH", "HOME", "SYSTEMROOT", "LocalAppData", "TMP", "TEMP", "TMPDIR", "XDG_STATE_HOME", "BROWSER", "BROWSER_USER", "BROWSER_LOG", "DBUS_SESSION_BUS_ADDRESS", "GOCOVERDIR", "URL",
		"MCP_CLERK_TOKEN", "MCP_CLERK_PASSPHRASE", "CLERK_CLIENT_ID", "CLERK_CLIENT_SECRET", "CLERK_SECRET_KEY", "CLERK_SECRET_KEY_FILE", "CLERK_FRONTEND_API", "CLERK_API_URL", "COOKIE_ENCRYPTION_KEY", "PUBLIC_URL"} {
		if v := ts.Getenv(name); v != "" {
			env = append(env, name+"="+v)
		}
	}
	return env
}

func cmdServe(ts *testscript.TestScript, neg bool, args []string) {
	if neg {
		ts.Fatalf("use: exits CODE mcp-clerk serve …")
	}
	p := of(ts)
	if !containsFlag(args, "--addr") {
		args = append(args, "--addr", "127.0.0.1:0")
	}
	cmd := command(ts, "mcp-clerk", append([]string{"serve"}, args...)...)
	stderr, err := cmd.StderrPipe()
	ts.Check(err)
	ts.Check(cmd.Start())
	p.server = cmd
	ts.Defer(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	url, internal, users := make(chan string, 1), make(chan string, 1), make(chan string, 1)
	go func() {
		scanner := bufio.NewScanner(stderr)
		for scanner.Scan() {
			if u, ok := strings.CutPrefix(scanner.Text(), "internal listener on http://"); ok {
				internal <- u
			}
			if u, ok := strings.CutPrefix(scanner.Text(), "change their roles or ban them: "); ok {
				users <- u
			}
			if u, ok := strings.CutPrefix(scanner.Text(), "listening on "); ok {
				url <- u
			}
		}
		close(url)
	}()
	select {
	case u, ok := <-url:
		if !ok {
			ts.Fatalf("the server ended before it listened")
		}
		ts.Setenv("URL", u)
		ts.Setenv("ADDR", "127.0.0.1:"+u[strings.LastIndex(u, ":")+1:])
		select {
		case addr := <-internal: // it is printed first
			ts.Setenv("INTERNAL", addr)
		default:
		}
		select {
		case u := <-users: // so is this
			p.users = u
		default:
		}
	case <-time.After(40 * time.Second):
		ts.Fatalf("the server does not listen")
	}
}

func containsFlag(args []string, name string) bool {
	for _, a := range args {
		if a == name {
			return true
		}
	}
	return false
}

func cmdKillServer(ts *testscript.TestScript, _ bool, _ []string) {
	cmd := of(ts).server
	ts.Check(cmd.Process.Kill())
	_ = cmd.Wait() // "signal: killed" is what was asked for
}

func cmdStopServer(ts *testscript.TestScript, _ bool, _ []string) {
	cmd := of(ts).server
	ts.Check(terminate(cmd.Process))
	ts.Check(waitFor(cmd, 40*time.Second))
}

func waitFor(cmd *exec.Cmd, limit time.Duration) error {
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	select {
	case err := <-done:
		return err
	case <-time.After(limit):
		_ = cmd.Process.Kill()
		return errors.Join(errors.New("the process does not end"), <-done)
	}
}

func cmdExits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE CMD…")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	got := 0
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		got = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}

func cmdEventually(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: eventually CMD…")
	}
	deadline := time.Now().Add(40 * time.Second)
	for {
		err := ts.Exec(args[0], args[1:]...)
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("still not: %v", err)
		}
		time.Sleep(100 * time.Millisecond) // between the tries, for a process that this one cannot wait for
	}
}

// bridgeProcess is a connect process that a script talks to line by line.
type bridgeProcess struct {
	cmd   *exec.Cmd
	stdin io.WriteCloser
	lines chan string
}

func cmdBridge(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 1 {
		ts.Fatalf("usage: bridge start|send|expect|close|kill|term|url …")
	}
	p := of(ts)
	switch args[0] {
	case "start", "login":
		name := map[string]string{"start": "connect", "login": "login"}[args[0]]
		cmd := command(ts, "mcp-clerk", append([]string{name}, args[1:]...)...)
		stdin, err := cmd.StdinPipe()
		ts.Check(err)
		stdout, err := cmd.StdoutPipe()
		ts.Check(err)
		stderr, err := os.Create(ts.MkAbs("bridge.stderr"))
		ts.Check(err)
		defer stderr.Close() // the process has its own
		cmd.Stderr = stderr
		ts.Check(cmd.Start())
		ts.Defer(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
		lines := make(chan string, 1024)
		go func() {
			defer close(lines)
			r := bufio.NewReader(stdout)
			for {
				line, err := r.ReadString('\n')
				if line != "" {
					lines <- strings.TrimRight(line, "\n")
				}
				if err != nil {
					return
				}
			}
		}()
		p.bridge = &bridgeProcess{cmd, stdin, lines}
		ts.Setenv("BRIDGE_PID", strconv.Itoa(cmd.Process.Pid))
	case "send":
		_, err := io.WriteString(p.bridge.stdin, strings.Join(args[1:], " ")+"\n")
		ts.Check(err)
	case "paste":
		url := regexpMustCompile(ts, `http://localhost:1/[^"\s]+`).FindString(ts.ReadFile("stderr"))
		if url == "" {
			ts.Fatalf("no address to paste")
		}
		_, err := io.WriteString(p.bridge.stdin, url+"\n")
		ts.Check(err)
	case "expect":
		pattern := regexpMustCompile(ts, strings.Join(args[1:], " "))
		limit := time.After(40 * time.Second)
		for {
			select {
			case line, ok := <-p.bridge.lines:
				if !ok {
					ts.Fatalf("the bridge ended before it said %q", pattern)
				}
				ts.Logf("< %s", line)
				if !strings.HasPrefix(line, "{") {
					ts.Fatalf("standard output carries something other than JSON-RPC: %q", line)
				}
				if pattern.MatchString(line) {
					ts.Check(os.WriteFile(ts.MkAbs("last"), []byte(line), 0o600))
					return
				}
			case <-limit:
				ts.Fatalf("the bridge does not say %q", pattern)
			}
		}
	case "close":
		ts.Check(p.bridge.stdin.Close())
		ts.Check(waitFor(p.bridge.cmd, 8*time.Second))
	case "kill":
		ts.Check(p.bridge.cmd.Process.Kill())
		_ = p.bridge.cmd.Wait() // "signal: killed" is what was asked for
	case "term":
		ts.Check(terminate(p.bridge.cmd.Process))
		ts.Check(waitFor(p.bridge.cmd, 8*time.Second))
	case "url":
		deadline := time.Now().Add(40 * time.Second)
		for {
			said := ts.ReadFile("bridge.stderr")
			if _, url, ok := strings.Cut(said, "to sign in, open "); ok && strings.Contains(url, "\n") {
				url, _, _ = strings.Cut(url, "\n")
				ts.Setenv("SIGNIN", url)
				return
			}
			if time.Now().After(deadline) {
				ts.Fatalf("the bridge shows no sign-in URL, but %q", said)
			}
			time.Sleep(20 * time.Millisecond) // between looks at what another process writes
		}
	default:
		ts.Fatalf("bridge: unknown %q", args[0])
	}
}

func regexpMustCompile(ts *testscript.TestScript, expr string) *regexp.Regexp {
	re, err := regexp.Compile(expr)
	ts.Check(err)
	return re
}

func cmdClerk(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 1 {
		ts.Fatalf("usage: clerk start|allow|role …")
	}
	p := of(ts)
	switch args[0] {
	case "start":
		standIn, err := devclerk.New(devclerk.Options{})
		ts.Check(err)
		srv := httptest.NewServer(standIn)
		ts.Defer(srv.Close)
		standIn.SetIssuer(srv.URL)
		p.clerk = standIn
		ts.Setenv("CLERK_CLIENT_ID", standIn.ClientID())
		ts.Setenv("CLERK_CLIENT_SECRET", standIn.ClientSecret().Reveal())
		ts.Setenv("CLERK_SECRET_KEY", standIn.SecretKey().Reveal())
		ts.Setenv("CLERK_FRONTEND_API", srv.URL)
		ts.Setenv("CLERK_API_URL", srv.URL)
	case "allow":
		p.clerk.AllowRedirect(args[1])
	case "role":
		ts.Check(p.clerk.SetRole(args[1], args[2]))
	case "press":
		resp, err := http.PostForm(p.users, neturl.Values{"action": {args[1]}, "user": {args[2]}})
		ts.Check(err)
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			ts.Fatalf("clerk press: %s", resp.Status)
		}
	case "switch":
		resp, err := http.PostForm(strings.TrimSuffix(p.users, "/users")+"/switches", neturl.Values{args[1]: {args[2]}})
		ts.Check(err)
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			ts.Fatalf("clerk switch: %s", resp.Status)
		}
	case "key":
		key, err := p.clerk.AddAPIKey(devclerk.APIKey{Subject: args[1]})
		ts.Check(err)
		ts.Setenv(args[2], key)
	default:
		ts.Fatalf("clerk: unknown %q", args[0])
	}
}
