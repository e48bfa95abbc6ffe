package oauthclient_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/mcp-clerk/mcp-clerk/internal/credstore"
	"github.com/mcp-clerk/mcp-clerk/internal/oauthclient"
)

// The tests start this test binary again as further processes of one user:
// OAUTHCLIENT_HELPER names what such a process does.
func TestMain(m *testing.M) {
	if what := os.Getenv("OAUTHCLIENT_HELPER"); what != "" {
		if err := help(what); err != nil {
			fmt.Println("error:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func help(what string) error {
	ctx := context.Background()
	server := os.Getenv("OAUTHCLIENT_SERVER")
	store, err := credstore.Open(credstore.Options{Dir: os.Getenv("OAUTHCLIENT_DIR"), Mode: credstore.ModeFile})
	if err != nil {
		return err
	}
	record := store.Record(credstore.Key{Server: server})
	c, err := oauthclient.New(oauthclient.Options{
		ServerURL: server, Store: record, Pending: record.Pending(),
		OpenURL: func(target string) error {
			fmt.Println("window:", target)
			if strings.HasSuffix(what, "and approve") {
				return (&browser{}).open(target)
			}
			return nil
		},
		Prompt: func(target, _ string) { fmt.Println("prompt:", target) },
	})
	if err != nil {
		return err
	}
	defer c.Close()
	// All processes begin at the same moment.
	fmt.Println("ready")
	if _, err := bufio.NewReader(os.Stdin).ReadString('\n'); err != nil {
		return err
	}
	status, err := request(ctx, c, server)
	fmt.Println("status:", status)
	return err
}

// process is another process; its lines of output come on lines.
type process struct {
	cmd   *exec.Cmd
	in    io.WriteCloser
	lines chan string
}

func start(t *testing.T, s *site, dir, what string) *process {
	t.Helper()
	p := &process{cmd: exec.Command(os.Args[0]), lines: make(chan string, 100)}
	p.cmd.Env = append(os.Environ(), "OAUTHCLIENT_HELPER="+what, "OAUTHCLIENT_SERVER="+s.URL+"/mcp", "OAUTHCLIENT_DIR="+dir)
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.cmd.Stderr = p.cmd.Stdout
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.lines)
		for scanner := bufio.NewScanner(out); scanner.Scan(); {
			p.lines <- scanner.Text()
		}
	}()
	t.Cleanup(func() { p.cmd.Process.Kill(); p.cmd.Wait() })
	p.expect(t, "ready")
	return p
}

func (p *process) begin(t *testing.T) {
	t.Helper()
	if _, err := io.WriteString(p.in, "go\n"); err != nil {
		t.Fatal(err)
	}
}

// expect returns what follows prefix in the first line that has it.
func (p *process) expect(t *testing.T, prefix string) string {
	t.Helper()
	deadline := time.After(60 * time.Second)
	for {
		select {
		case line, ok := <-p.lines:
			if !ok {
				t.Fatalf("the process ended without %q", prefix)
			}
			if rest, found := strings.CutPrefix(line, prefix); found {
				return strings.TrimSpace(rest)
			}
			t.Logf("process %d: %s", p.cmd.Process.Pid, line)
		case <-deadline:
			t.Fatalf("the process does not say %q", prefix)
		}
	}
}

// rest returns the remaining lines until the process has ended.
func (p *process) rest() []string {
	var all []string
	for line := range p.lines {
		all = append(all, line)
	}
	return all
}

// atOnce has n processes do the same at the same moment, and returns what each
// of them said.
func atOnce(t *testing.T, s *site, dir string, n int, what string) (said [][]string) {
	t.Helper()
	var all []*process
	for range n {
		all = append(all, start(t, s, dir, what))
	}
	for _, p := range all {
		p.begin(t)
	}
	for _, p := range all {
		said = append(said, p.rest())
	}
	return said
}

// approveAtOnce has n processes make a request for which somebody signs in if a
// window opens. All must be served; it returns how many windows that took.
func approveAtOnce(t *testing.T, s *site, dir string, n int) (windows int) {
	t.Helper()
	for _, lines := range atOnce(t, s, dir, n, "request and approve") {
		if len(lines) == 0 || lines[len(lines)-1] != "status: 200" {
			t.Errorf("a process says %q", lines)
		}
		for _, line := range lines {
			if strings.HasPrefix(line, "window:") {
				windows++
			}
		}
	}
	return windows
}

// Case 36, and 32 across processes: one refresh, everybody served, no window.
func TestTwentyProcessesShareOneRefresh(t *testing.T) {
	const processes = 20
	for name, expired := range map[string]bool{"expired": true, "refused though not expired": false} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			clk := newClock()
			clk.add(-2 * time.Hour)
			if expired {
				clk.add(time.Hour) // signed in an hour ago, for an hour
			}
			s.expires = 3600
			if !expired {
				s.expires = 24 * 3600
			}
			c, _, dir := signedIn(t, s, func(o *oauthclient.Options) { o.Now = clk.Now })
			c.Close()
			s.with(func() { s.valid = map[string]bool{}; s.expires = 3600 })
			for _, lines := range atOnce(t, s, dir, processes, "request") {
				if len(lines) != 1 || lines[0] != "status: 200" {
					t.Errorf("a process says %q", lines)
				}
			}
			if n := s.count("POST /token"); n != 2 {
				t.Errorf("%d token requests, want the code's and one refresh", n)
			}
		})
	}
}

// Cases 9 and 18: the second process waits for the outcome of the first.
func TestTenProcessesOpenOneWindow(t *testing.T) {
	s := newSite(t)
	windows := approveAtOnce(t, s, t.TempDir(), 10)
	if windows != 1 || s.count("POST /register") != 1 || s.count("POST /token") != 1 {
		t.Errorf("%d windows, %d registrations, %d token requests", windows, s.count("POST /register"), s.count("POST /token"))
	}
}

// Case 18: the host kills the bridge in the middle of a sign-in and starts it
// again. The user, who is still at the authorization server, notices nothing.
func TestASignInOutlivesItsProcess(t *testing.T) {
	s := newSite(t)
	dir := t.TempDir()
	first := start(t, s, dir, "request")
	first.begin(t)
	window := first.expect(t, "window:")
	second := start(t, s, dir, "request")
	second.begin(t)
	if prompted := second.expect(t, "prompt:"); prompted != window {
		t.Errorf("the second process shows %q, not %q", prompted, window)
	}
	if err := first.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	second.expect(t, "prompt:") // it has taken over, and listens
	b := &browser{}
	if err := b.open(window); err != nil {
		t.Fatal(err)
	}
	lines := second.rest()
	if len(lines) == 0 || lines[len(lines)-1] != "status: 200" {
		t.Errorf("the second process says %q", lines)
	}
	for _, line := range lines {
		if strings.HasPrefix(line, "window:") {
			t.Error("a second window was opened")
		}
	}
	if s.count("POST /register") != 1 || s.count("POST /token") != 1 {
		t.Errorf("%d registrations, %d token requests", s.count("POST /register"), s.count("POST /token"))
	}
}

// Closing the client leaves the sign-in to the next process as well; breaking
// off one that the user asked for does not.
func TestWhoEndsASignIn(t *testing.T) {
	s := newSite(t)
	dir := t.TempDir()
	windows := make(chan string, 10)
	o := options(t, s.URL+"/mcp", dir)
	o.OpenURL = func(target string) error { windows <- target; return nil }

	c := newClient(t, o)
	done := make(chan error, 1)
	go func() {
		done <- c.Authorize(context.WithoutCancel(t.Context()), "", http.StatusUnauthorized, http.Header{})
	}()
	window := <-windows
	c.Close()
	if err := <-done; err == nil {
		t.Error("the sign-in outlived its client")
	}

	prompts := make(chan string, 10)
	o.OpenURL, o.Prompt = closed(t), func(target, _ string) { prompts <- target }
	c = newClient(t, o)
	go func() {
		done <- c.Authorize(context.WithoutCancel(t.Context()), "", http.StatusUnauthorized, http.Header{})
	}()
	if got := <-prompts; got != window {
		t.Errorf("prompted %q, not %q", got, window)
	}
	c.Close()
	<-done

	// The user asks: the same sign-in, in a window.
	o.OpenURL = func(target string) error { windows <- target; return nil }
	c = newClient(t, o)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { done <- c.SignIn(ctx) }()
	if got := <-windows; got != window {
		t.Errorf("opened %q, not %q", got, window)
	}
	cancel()
	<-done
	go func() {
		done <- c.Authorize(context.WithoutCancel(t.Context()), "", http.StatusUnauthorized, http.Header{})
	}()
	if got := <-windows; got == window {
		t.Error("a sign-in that the user broke off was taken up again")
	}
	c.Close()
	<-done
}

// Case 44: the clock was a year ahead when a sign-in began, whose process died.
// Nobody is at it for a year.
func TestASignInThatBeganBeforeTheClockWasSetBack(t *testing.T) {
	s := newSite(t)
	clk := newClock()
	windows := make(chan string, 10)
	o := options(t, s.URL+"/mcp", t.TempDir())
	o.Now, o.OpenURL = clk.Now, func(target string) error { windows <- target; return nil }
	begin := func() (window string, end func()) {
		c := newClient(t, o)
		done := make(chan error, 1)
		go func() {
			done <- c.Authorize(context.WithoutCancel(t.Context()), "", http.StatusUnauthorized, http.Header{})
		}()
		select {
		case window = <-windows:
		case <-time.After(10 * time.Second):
			t.Error("no window opens")
		}
		return window, func() { c.Close(); <-done }
	}
	clk.add(365 * 24 * time.Hour)
	first, end := begin()
	end()
	clk.add(-365 * 24 * time.Hour)
	second, end := begin()
	end()
	if second == first {
		t.Error("the sign-in of the year to come goes on")
	}
}

// Case 38: the process dies after the server has rotated and before it has
// stored the successor. The next one presents the ancestor; a server with a
// grace period answers it, and no window opens.
func TestDeathBetweenReceivingAndStoring(t *testing.T) {
	s := newSite(t)
	clk := newClock()
	clk.add(-2 * time.Hour)
	c, _, dir := signedIn(t, s, func(o *oauthclient.Options) { o.Now = clk.Now })
	c.Close()
	received := make(chan struct{})
	hold := make(chan struct{})
	s.rotate = false // the grace: an ancestor is good for a while
	s.on("/token", func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-received:
			s.serve(w, r)
		default:
			// Rotated, and the answer is on its way.
			close(received)
			<-hold
		}
	})
	defer close(hold)
	p := start(t, s, dir, "request")
	p.begin(t)
	<-received
	if err := p.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	next := start(t, s, dir, "request")
	next.begin(t)
	if lines := next.rest(); len(lines) != 1 || lines[0] != "status: 200" {
		t.Errorf("the next process says %q", lines)
	}
}

func TestADamagedRecordMeansSigningInAnew(t *testing.T) {
	s := newSite(t)
	c, _, dir := signedIn(t, s, nil)
	c.Close()
	records, err := filepath.Glob(filepath.Join(dir, "credentials", "*.cred"))
	if err != nil || len(records) != 1 {
		t.Fatalf("%q, %v", records, err)
	}
	raw, err := os.ReadFile(records[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(records[0], raw[:len(raw)/2], 0o600); err != nil {
		t.Fatal(err)
	}
	b := &browser{}
	o := options(t, s.URL+"/mcp", dir)
	o.OpenURL = b.open
	if status, err := request(t.Context(), newClient(t, o), s.URL+"/mcp"); status != 200 || err != nil || b.windows() != 1 {
		t.Errorf("status %d, %v, %d windows", status, err, b.windows())
	}
}
