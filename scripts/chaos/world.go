//go:build unix

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/mcp-clerk/mcp-clerk/internal/devclerk"
	"github.com/mcp-clerk/mcp-clerk/internal/store/storetest"
)

// encryptionKey is of these processes only.
const encryptionKey = "5b0c6a9e17f2d8430e9b7c1d5a6f8e2430b19c7d8e5f6a0b1c2d3e4f50617283"

// patience is how long something may take that must happen, on a busy machine.
const patience = 60 * time.Second

// world is everything of one scenario: the store, the stand-in for Clerk, the
// instances and the proxy in front of them.
type world struct {
	ctx       context.Context // the scenario's, for all that it does
	opts      options
	t         *harness
	backend   string
	binary    string
	dir       string // of logs and data
	points    []string
	oracle    *oracle
	clerk     *devclerk.Server
	proxy     *proxy
	public    string // the proxy's URL
	store     string // URL
	db        *storetest.Server
	instances []*instance

	mu    sync.Mutex
	kills map[string]int // by cause
}

// failpoints finds the names of all failpoints in the package of the store.
func failpoints(dir string) ([]string, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		return nil, err
	}
	call := regexp.MustCompile(`\bfailpoint\("([a-z-]+)"\)`)
	var names []string
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		for _, m := range call.FindAllSubmatch(text, -1) {
			names = append(names, string(m[1]))
		}
	}
	slices.Sort(names)
	if names = slices.Compact(names); len(names) < 2 {
		return nil, fmt.Errorf("no failpoints in %q", dir)
	}
	return names, nil
}

func newWorld(ctx context.Context, t *harness, o options, backend, binary, dir string, points []string) (*world, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	w := &world{ctx: ctx, opts: o, t: t, backend: backend, binary: binary, dir: dir, kills: map[string]int{}, points: points}
	var err error
	if w.oracle, err = newOracle(filepath.Join(dir, "oracle.jsonl")); err != nil {
		return nil, err
	}
	t.Cleanup(func() { w.oracle.file.Close() })
	count := 3
	switch backend {
	case "bolt":
		count = 1
		w.store = "bolt:" + filepath.Join(t.TempDir(), "state.db")
	case "redis":
		w.db = storetest.StartRedis(t, "--appendonly", "yes", "--appendfsync", "always")
		w.store = "redis://" + w.db.Addr
	case "postgres":
		w.db = storetest.StartPostgres(t)
		w.store = "postgres://postgres@" + w.db.Addr + "/postgres?sslmode=disable"
	default:
		return nil, fmt.Errorf("unknown store %q", backend)
	}
	if err := w.startClerk(); err != nil {
		return nil, err
	}
	if w.proxy, err = startProxy(ctx, "127.0.0.1:0"); err != nil {
		return nil, err
	}
	t.Cleanup(w.proxy.close)
	w.public = "http://" + w.proxy.addr
	if err := w.clerk.AllowRedirect(w.public + "/callback"); err != nil {
		return nil, err
	}
	var addrs []string
	for i := range count {
		in, err := w.newInstance(i + 1)
		if err != nil {
			return nil, err
		}
		w.instances = append(w.instances, in)
		addrs = append(addrs, in.addr)
	}
	w.proxy.forward(ctx, addrs...)
	return w, nil
}

func userMail(i int) string { return fmt.Sprintf("user%03d@example.com", i) }

// startClerk runs the stand-in for Clerk, with a user for each client.
func (w *world) startClerk() error {
	var users []devclerk.User
	for i := range w.opts.clients {
		users = append(users, devclerk.User{ID: fmt.Sprintf("user_chaos%020d", i), Email: userMail(i)})
	}
	var err error
	if w.clerk, err = devclerk.New(devclerk.Options{Users: users}); err != nil {
		return err
	}
	var lc net.ListenConfig
	l, err := lc.Listen(w.ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	srv := &http.Server{Handler: w.clerk, ReadHeaderTimeout: time.Minute}
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.Serve(l) }()
	w.t.Cleanup(func() { _ = srv.Close(); <-done })
	return w.clerk.SetIssuer("http://" + l.Addr().String())
}

// startAll starts every instance, and returns when all are ready.
func (w *world) startAll() error {
	for _, in := range w.instances {
		if err := in.start(); err != nil {
			return err
		}
	}
	return nil
}

func (w *world) killed(cause string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.kills[cause]++
}

func (w *world) summary() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var causes []string
	total := 0
	for cause, n := range w.kills {
		causes = append(causes, fmt.Sprintf("%s %d", cause, n))
		total += n
	}
	slices.Sort(causes)
	starts := 0
	for _, in := range w.instances {
		starts += in.starts
	}
	return fmt.Sprintf("kills %d (%s), starts %d, %s", total, strings.Join(causes, ", "), starts, w.oracle)
}

// instance is one serve process, started again and again on one address.
type instance struct {
	w      *world
	name   string
	addr   string
	env    []string // beside what all have
	starts int

	cmd   *exec.Cmd
	ended chan struct{}
}

// newInstance chooses an address below the ports that outgoing connections
// get, or else one of those might sit there when the process is started again.
func (w *world) newInstance(n int) (*instance, error) {
	for port := 20000 + os.Getpid()%8000; port < 32000; port++ {
		addr := "127.0.0.1:" + strconv.Itoa(port)
		if slices.ContainsFunc(w.instances, func(in *instance) bool { return in.addr == addr }) {
			continue
		}
		var lc net.ListenConfig
		l, err := lc.Listen(w.ctx, "tcp", addr)
		if err != nil {
			continue
		}
		l.Close()
		in := &instance{w: w, name: "serve" + strconv.Itoa(n), addr: addr}
		w.t.Cleanup(in.kill)
		return in, nil
	}
	return nil, errors.New("no free port")
}

// errDied reports a process that was ended by kill -9 before it was ready, as
// a failpoint may do.
var errDied = errors.New("killed before it was ready")

// start starts the process and waits until it is ready. Its log is appended to.
func (in *instance) start(env ...string) error {
	if err := in.launch(env...); err != nil {
		return err
	}
	client := &http.Client{Timeout: 5 * time.Second, Transport: direct}
	deadline := time.Now().Add(patience)
	for {
		select {
		case <-in.ended:
			if in.wasKilled() {
				return errDied
			}
			return fmt.Errorf("%s ended before it was ready: %s", in.name, in.tail())
		case <-time.After(10 * time.Millisecond):
		}
		req, err := http.NewRequestWithContext(in.w.ctx, http.MethodGet, "http://"+in.addr+"/readyz", nil)
		if err != nil {
			return err
		}
		resp, err := client.Do(req)
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return nil
			}
		}
		if in.w.ctx.Err() != nil {
			return in.w.ctx.Err()
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s is not ready: %s", in.name, in.tail())
		}
	}
}

func (in *instance) launch(env ...string) error {
	log, err := os.OpenFile(in.logPath(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer log.Close() // the process has its own
	fmt.Fprintf(log, "--- start %d %q\n", in.starts+1, env)
	w := in.w
	cmd := exec.Command(w.binary, "serve", "--addr", in.addr) //nolint:noctx,gosec // ended by kill, which waits
	cmd.Dir = w.dir
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = slices.Concat([]string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + w.dir, "TMPDIR=" + os.TempDir(),
		"CLERK_CLIENT_ID=" + w.clerk.ClientID(), "CLERK_CLIENT_SECRET=" + w.clerk.ClientSecret().Reveal(), "CLERK_SECRET_KEY=" + w.clerk.SecretKey().Reveal(),
		"CLERK_FRONTEND_API=" + w.clerk.Issuer(), "CLERK_API_URL=" + w.clerk.Issuer(),
		"COOKIE_ENCRYPTION_KEY=" + encryptionKey, "PUBLIC_URL=" + w.public, "MCP_CLERK_STORE=" + w.store,
	}, in.env, env)
	if err := cmd.Start(); err != nil {
		return err
	}
	in.starts++
	ended := make(chan struct{})
	go func() { _ = cmd.Wait(); close(ended) }()
	in.cmd, in.ended = cmd, ended
	return nil
}

func (in *instance) logPath() string { return filepath.Join(in.w.dir, in.name+".log") }

// tail is the end of the log, for error texts.
func (in *instance) tail() string {
	text, err := os.ReadFile(in.logPath())
	if err != nil {
		return err.Error()
	}
	return string(text[max(0, len(text)-2000):])
}

func (in *instance) wasKilled() bool {
	status, ok := in.cmd.ProcessState.Sys().(syscall.WaitStatus)
	return ok && status.Signaled() && status.Signal() == syscall.SIGKILL
}

// kill ends the process at once, if it runs.
func (in *instance) kill() {
	if in.cmd == nil {
		return
	}
	_ = in.cmd.Process.Kill()
	<-in.ended
}

// terminate asks the process to end, and waits until it has with code 0.
func (in *instance) terminate() error {
	if err := in.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	select {
	case <-in.ended:
	case <-time.After(2 * patience): // 30 s are promised to calls in flight
		in.kill()
		return fmt.Errorf("%s does not end", in.name)
	}
	if code := in.cmd.ProcessState.ExitCode(); code != 0 {
		return fmt.Errorf("%s ended with code %d: %s", in.name, code, in.tail())
	}
	return nil
}
