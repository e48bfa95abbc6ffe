package main_test

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	cdplog "github.com/chromedp/cdproto/log"
	"github.com/chromedp/chromedp"
)

// browserPatience is what one sign-in may take on a busy machine.
const browserPatience = 90 * time.Second

// A person signs in with "mcp-clerk login": a real browser is given the address
// that the command opens, and the buttons on the pages are pressed with the
// mouse. No page of the flow needs JavaScript, so it must work without.
func TestSignInInChromium(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a browser")
	}
	if runtime.GOOS == "windows" {
		t.Skip("$BROWSER is a shell script here")
	}
	chromium := findChromium(t)
	program := buildProgram(t)
	for _, tt := range []struct {
		name, email string
		javaScript  bool
	}{
		{"with JavaScript", "admin@example.com", true},
		{"without JavaScript", "member@example.com", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), browserPatience)
			defer cancel()
			home := t.TempDir()
			url := startDevelopmentServer(ctx, t, program, home)
			login := startLogin(ctx, t, program, home, url+"/mcp")

			tab := openChromium(ctx, t, chromium, tt.javaScript)
			pressed := tab.signIn(login.address(ctx), tt.email)

			// Approval is asked for before Clerk, and the account is named after it
			// (docs/decisions/0008-consent-order.md).
			if len(pressed) != 3 {
				t.Fatalf("the sign-in had %d pages with a button, want 3: %+v", len(pressed), pressed)
			}
			if got := pressed[0].button; got != "Approve" {
				t.Errorf("the first page's button is %q, want Approve", got)
			}
			if got := pressed[1]; !strings.Contains(got.button, tt.email) || got.host == pressed[0].host {
				t.Errorf("the second page is %+v, want Clerk's with a button for %s", got, tt.email)
			}
			if got := pressed[2]; !strings.Contains(got.text, "Continue as") || !strings.Contains(got.text, tt.email) || got.host != pressed[0].host {
				t.Errorf("the third page is %+v, want ours with %q", got, "Continue as "+tt.email)
			}
			if err := login.wait(); err != nil {
				t.Fatalf("mcp-clerk login: %v\n%s", err, login.output(t))
			}
			if got := callUserInfo(ctx, t, program, home, url+"/mcp"); !strings.Contains(got, tt.email) {
				t.Errorf("userInfo after signing in as %s:\n%s", tt.email, got)
			}
		})
	}
}

// findChromium returns a browser's path. Where everything must be tested
// (CI=true) a missing one is a failure.
func findChromium(t *testing.T) string {
	t.Helper()
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	if os.Getenv("CI") == "true" {
		t.Fatal("no chromium, chromium-browser or google-chrome in $PATH")
	}
	t.Skip("no chromium, chromium-browser or google-chrome in $PATH")
	return ""
}

// buildProgram builds the package under test as a release would.
func buildProgram(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "mcp-clerk")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", path, ".").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return path
}

// programEnv is a desktop's environment without a keyring, and with nothing of
// the person who runs the test.
func programEnv(home string, more ...string) []string {
	return append([]string{
		"PATH=" + os.Getenv("PATH"),
		"HOME=" + home,
		"XDG_STATE_HOME=" + filepath.Join(home, "state"),
		"MCP_CLERK_STATE_DIR=" + filepath.Join(home, "state", "mcp-clerk"),
		"DBUS_SESSION_BUS_ADDRESS=unix:path=/nonexistent",
	}, more...)
}

// startDevelopmentServer runs "serve --dev" on a free port until the test ends
// and returns its URL.
func startDevelopmentServer(ctx context.Context, t *testing.T, program, home string) string {
	t.Helper()
	cmd := exec.CommandContext(ctx, program, "serve", "--dev", "--addr", "127.0.0.1:0", "--data-dir", filepath.Join(home, "data"))
	cmd.Env = programEnv(home)
	cmd.Dir = home
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	url := make(chan string, 1)
	var lines []string
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer close(url)
		scanner := bufio.NewScanner(stderr)
		for scanner.Scan() {
			lines = append(lines, scanner.Text())
			if u, ok := strings.CutPrefix(scanner.Text(), "listening on "); ok {
				select {
				case url <- strings.TrimRight(u, "/"):
				default:
				}
			}
		}
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(os.Interrupt)
		time.AfterFunc(10*time.Second, func() { _ = cmd.Process.Kill() })
		<-done
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("serve --dev said:\n%s", strings.Join(lines, "\n"))
		}
	})
	select {
	case u, ok := <-url:
		if !ok {
			t.Fatal("serve --dev ended before it listened")
		}
		return u
	case <-ctx.Done():
		t.Fatal("serve --dev does not listen")
	}
	return ""
}

// loginProcess is a running "mcp-clerk login" whose browser is a script that
// notes the address it was given.
type loginProcess struct {
	t          *testing.T
	cmd        *exec.Cmd
	noted, log string
}

func startLogin(ctx context.Context, t *testing.T, program, home, url string) *loginProcess {
	t.Helper()
	p := &loginProcess{t: t, noted: filepath.Join(home, "address"), log: filepath.Join(home, "login.log")}
	opener := filepath.Join(home, "opener")
	// Exactly one argument, with no shell between: a second one would show.
	script := fmt.Sprintf("#!/bin/sh\nprintf '%%s\\n' \"$#\" \"$@\" >'%s.part' && mv '%s.part' '%s'\n", p.noted, p.noted, p.noted)
	if err := os.WriteFile(opener, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	out, err := os.Create(p.log)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	p.cmd = exec.CommandContext(ctx, program, "login", url)
	p.cmd.Env = programEnv(home, "BROWSER="+opener)
	p.cmd.Dir = home
	p.cmd.Stdout, p.cmd.Stderr = out, out
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if p.cmd.ProcessState == nil {
			_ = p.cmd.Process.Kill()
			_ = p.cmd.Wait()
		}
		if t.Failed() {
			t.Logf("login said:\n%s", p.output(t))
		}
	})
	return p
}

// address waits for the address that login opens.
func (p *loginProcess) address(ctx context.Context) string {
	p.t.Helper()
	for {
		if data, err := os.ReadFile(p.noted); err == nil {
			count, url, _ := strings.Cut(strings.TrimSuffix(string(data), "\n"), "\n")
			if count != "1" {
				p.t.Fatalf("the browser was started with %s arguments, want 1:\n%s", count, data)
			}
			return url
		}
		select {
		case <-ctx.Done():
			p.t.Fatalf("login opened no browser:\n%s", p.output(p.t))
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (p *loginProcess) wait() error { return p.cmd.Wait() }

func (p *loginProcess) output(t *testing.T) string {
	data, err := os.ReadFile(p.log)
	if err != nil {
		t.Error(err)
	}
	return string(data)
}

// callUserInfo asks the server through connect who is signed in. No browser may
// be opened for it.
func callUserInfo(ctx context.Context, t *testing.T, program, home, url string) string {
	t.Helper()
	cmd := exec.CommandContext(ctx, program, "connect", url)
	cmd.Env = programEnv(home, "BROWSER=false")
	cmd.Stderr = t.Output()
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = stdin.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("mcp-clerk connect: %v", err)
		}
	}()
	answers := bufio.NewReader(stdout)
	for _, step := range []struct{ send, until string }{
		{`{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"browser-test","version":"1"}}}`, `"id":1`},
		{`{"jsonrpc":"2.0","method":"notifications/initialized"}`, ""},
		{`{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"userInfo","arguments":{}}}`, `"id":2`},
	} {
		if _, err := stdin.Write([]byte(step.send + "\n")); err != nil {
			t.Fatal(err)
		}
		for step.until != "" {
			line, err := answers.ReadString('\n')
			if err != nil {
				t.Fatalf("connect did not answer %s: %v", step.send, err)
			}
			if strings.Contains(line, `"id":2`) {
				return line
			}
			if strings.Contains(line, step.until) {
				break
			}
		}
	}
	return ""
}

// tab is one tab of a fresh Chromium.
type tab struct {
	t    *testing.T
	ctx  context.Context // chromedp keeps the tab in its context
	dir  string          // for pictures
	page int
}

// page is what a person sees: where they are, what it says, what they can press.
type page struct {
	URL     string   `json:"url"`
	Host    string   `json:"host"`
	Text    string   `json:"text"`
	Buttons []string `json:"buttons"`
}

// press is a button that was pressed, and the page it was on.
type press struct{ host, text, button string }

const submitButtons = `document.querySelectorAll("button:not([type=button]), input[type=submit]")`

func openChromium(ctx context.Context, t *testing.T, path string, javaScript bool) *tab {
	t.Helper()
	dir := t.TempDir()
	if artifacts := os.Getenv("TEST_ARTIFACTS"); artifacts != "" {
		dir = filepath.Join(artifacts, strings.ReplaceAll(t.Name(), "/", "-"))
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	options := []chromedp.ExecAllocatorOption{
		chromedp.ExecPath(path),
		chromedp.UserDataDir(t.TempDir()),
		chromedp.WindowSize(1000, 900),
		chromedp.WSURLReadTimeout(browserPatience),
	}
	for _, name := range []string{
		"headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "no-default-browser-check",
		"disable-background-networking", "disable-component-update", "disable-sync", "disable-extensions",
		"disable-default-apps", "disable-breakpad", "disable-dev-shm-usage", "metrics-recording-only", "use-mock-keychain",
	} {
		options = append(options, chromedp.Flag(name, true))
	}
	options = append(options, chromedp.Flag("password-store", "basic"))
	ctx, closeBrowser := chromedp.NewExecAllocator(ctx, options...)
	t.Cleanup(closeBrowser)
	ctx, closeTab := chromedp.NewContext(ctx)
	t.Cleanup(closeTab)

	if _, err := chromedp.Call(ctx, emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: !javaScript}); err != nil {
		t.Fatalf("start %s: %v", path, err)
	}
	const probe = `data:text/html,<p>off</p><script>document.querySelector("p").textContent = "on"</script>`
	if err := chromedp.Do(ctx, chromedp.Navigate(probe)); err != nil {
		t.Fatal(err)
	}
	if is, err := chromedp.Run(ctx, chromedp.TextContent(chromedp.CSS("p"))); err != nil || (is == "on") != javaScript {
		t.Fatalf("JavaScript is %q (%v), want it on: %t", is, err, javaScript)
	}
	// What the browser complains of (a blocked form, a refused cookie) explains
	// a failure that the pages do not show.
	complaints := chromedp.Events(ctx, cdplog.EntryAdded)
	done := make(chan struct{})
	var said []string
	go func() {
		defer close(done)
		for entry, err := range complaints {
			if err != nil {
				return
			}
			said = append(said, entry.Entry.Text)
		}
	}()
	t.Cleanup(func() {
		closeTab()
		<-done
		if t.Failed() && len(said) > 0 {
			t.Logf("the browser said:\n%s", strings.Join(said, "\n"))
		}
	})
	return &tab{t: t, ctx: ctx, dir: dir}
}

var mayBeClosed = regexp.MustCompile(`(?i)\byou (can|may) (now )?close this (window|tab|page)`)

// signIn opens address and presses what leads on until a page says that the
// window may be closed. It returns what was pressed, in order.
func (b *tab) signIn(address, email string) []press {
	b.t.Helper()
	resp, err := chromedp.Run(b.ctx, chromedp.NavigateResponse(address))
	if err != nil {
		b.t.Fatalf("open %q: %v", address, err)
	}
	var pressed []press
	const mostPages = 8
	for range mostPages {
		p, i := b.actionable(email)
		if resp != nil && resp.Status >= 400 {
			b.t.Fatalf("the page at %q answered %d:\n%s", p.URL, resp.Status, p.Text)
		}
		if i < 0 {
			return pressed
		}
		pressed = append(pressed, press{p.Host, p.Text, p.Buttons[i]})
		button := chromedp.JSPath(fmt.Sprintf("%s[%d]", submitButtons, i))
		if resp, err = chromedp.RunResponse(b.ctx, chromedp.Click(button, chromedp.NodeVisible)); err != nil {
			b.picture("stuck")
			b.t.Fatalf("press %q on %q: %v", p.Buttons[i], p.URL, err)
		}
	}
	b.t.Fatalf("the sign-in does not end: %+v", pressed)
	return nil
}

// actionable waits for a page that is the last one, or has a button that leads
// on, and returns that button's index, -1 for the last page. A page in between
// may send the browser on by itself.
func (b *tab) actionable(email string) (page, int) {
	b.t.Helper()
	const look = `({
		url: location.origin + location.pathname,
		host: location.host,
		text: document.body ? document.body.innerText : "",
		buttons: Array.from(` + submitButtons + `, e => (e.innerText || e.value || "").trim()),
	})`
	wanted := []func(label string) bool{
		func(label string) bool { return strings.Contains(label, email) },
		func(label string) bool { return label == "Approve" },
		func(label string) bool { return strings.HasPrefix(label, "Continue") },
	}
	var p page
	for {
		var err error
		if p, err = chromedp.Run(b.ctx, chromedp.Evaluate[page](look)); b.ctx.Err() != nil {
			b.t.Fatalf("the browser is stuck on %q (%v): %v\n%s", p.URL, b.ctx.Err(), err, p.Text)
		}
		if err == nil {
			for _, want := range wanted {
				for i, label := range p.Buttons {
					if want(label) {
						b.picture(label)
						return p, i
					}
				}
			}
			if mayBeClosed.MatchString(p.Text) {
				b.picture("done")
				return p, -1
			}
		}
		select {
		case <-b.ctx.Done():
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// picture keeps a screenshot for the person who looks into a failure or wants
// to see the pages.
func (b *tab) picture(name string) {
	b.t.Helper()
	png, err := chromedp.Run(b.ctx, chromedp.CaptureScreenshot())
	if err != nil {
		b.t.Logf("no picture of %q: %v", name, err)
		return
	}
	b.page++
	name = strings.Trim(regexp.MustCompile(`[^a-zA-Z0-9@.]+`).ReplaceAllString(name, "-"), "-")
	if err := os.WriteFile(filepath.Join(b.dir, fmt.Sprintf("%d-%s.png", b.page, name)), png, 0o644); err != nil {
		b.t.Error(err)
	}
}
