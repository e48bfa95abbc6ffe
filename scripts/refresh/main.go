// Command refresh proves that a sign-in which many processes share is never
// lost: it starts "mcp-clerk serve --dev", signs in once, and lets a number of
// processes refresh the same credential at the same moment, round after round,
// with a token that has expired and with one that the server refuses in turns.
//
//	go run -tags failpoints ./scripts/refresh [-processes 50] [-rounds 100] [-bin PROGRAM]
//
// In each round the server must see one refresh, every process must end with
// the same token, and nobody may be asked to sign in; in the end the token must
// still be good. Then processes are ended as by kill -9 at each point between
// receiving the successor and having stored it: the next one must go on without
// a prompt. That part needs the build tag.
//
// It may import any room but cmd. The processes are this program again.
package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/mcp-clerk/mcp-clerk/internal/credstore"
	"github.com/mcp-clerk/mcp-clerk/internal/devclerk"
	"github.com/mcp-clerk/mcp-clerk/internal/oauthclient"
)

// How a process is told what it is.
const (
	roleEnv      = "REFRESH_SERVER" // set: a process that refreshes, at this server
	stateEnv     = "REFRESH_STATE"
	proxyEnv     = "REFRESH_PROXY"
	failpointEnv = "MCP_CLERK_CREDENTIAL_FAILPOINT"
)

// points are those between receiving a successor and having stored it.
var points = []string{"before-write", "before-rename", "after-rename"}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	var err error
	if os.Getenv(roleEnv) != "" {
		err = refresher(ctx, os.Stdin, os.Stdout)
	} else {
		err = run(ctx, os.Args[1:], os.Stdout)
	}
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out io.Writer) (err error) {
	flags := flag.NewFlagSet("refresh", flag.ContinueOnError)
	processes := flags.Int("processes", 50, "how many share the sign-in")
	rounds := flags.Int("rounds", 100, "how often all of them refresh at once")
	program := flags.String("bin", "", "the mcp-clerk to run as server (default: built from this tree)")
	if err := flags.Parse(args); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "refresh-")
	if err != nil {
		return fmt.Errorf("make a directory to work in: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if *program == "" {
		*program = filepath.Join(dir, "mcp-clerk")
		build := exec.CommandContext(ctx, "go", "build", "-o", *program, "github.com/mcp-clerk/mcp-clerk/cmd/mcp-clerk") //nolint:gosec // a path of ours
		if text, err := build.CombinedOutput(); err != nil {
			return fmt.Errorf("build the program: %w\n%s", err, text)
		}
	}
	server, stop, err := serve(ctx, *program, filepath.Join(dir, "data"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()
	count, err := startCounter(ctx)
	if err != nil {
		return err
	}
	defer count.close()
	w := &world{server: server + "/mcp", state: filepath.Join(dir, "state"), count: count, out: out}
	if err := w.signIn(ctx); err != nil {
		return err
	}
	if err := w.storm(ctx, *processes, *rounds); err != nil {
		return err
	}
	if err := w.kills(ctx); err != nil {
		return err
	}
	return w.verify(ctx)
}

// serve starts the program and returns its URL once it listens.
func serve(ctx context.Context, program, data string) (server string, stop func() error, err error) {
	cmd := exec.CommandContext(ctx, program, "serve", "--dev", "--addr", "127.0.0.1:0", "--data-dir", data) //nolint:gosec // to run it is the point
	stderr, err := cmd.StderrPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		return "", nil, fmt.Errorf("start the server: %w", err)
	}
	lines := bufio.NewReader(stderr)
	var said strings.Builder
	for {
		line, err := lines.ReadString('\n')
		said.WriteString(line)
		if u, ok := strings.CutPrefix(line, "listening on "); ok {
			drained := make(chan struct{})
			go func() {
				defer close(drained)
				_, _ = io.Copy(io.Discard, lines) // the process ends it
			}()
			return strings.TrimSpace(u), func() error {
				if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
					return fmt.Errorf("stop the server: %w", err)
				}
				<-drained
				if err := cmd.Wait(); err != nil {
					return fmt.Errorf("the server ended badly: %w", err)
				}
				return nil
			}, nil
		}
		if err != nil {
			return "", nil, fmt.Errorf("the server did not come up: %w\n%s", errors.Join(err, cmd.Wait()), said.String())
		}
	}
}

// counter is the proxy that all processes use: it counts the refreshes.
type counter struct {
	url       string
	server    *http.Server
	refreshes atomic.Int64
	refused   atomic.Int64 // token requests that were not answered by 200
	signIns   atomic.Int64 // codes that were redeemed
}

func startCounter(ctx context.Context) (*counter, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listen for the proxy: %w", err)
	}
	c := &counter{url: "http://" + l.Addr().String()}
	forward := &httputil.ReverseProxy{
		Rewrite:   func(*httputil.ProxyRequest) {}, // the request names its server itself
		Transport: &http.Transport{MaxIdleConnsPerHost: 100},
		ModifyResponse: func(r *http.Response) error {
			if r.Request.URL.Path == "/token" && r.StatusCode != http.StatusOK {
				c.refused.Add(1)
			}
			return nil
		},
	}
	c.server = &http.Server{ReadHeaderTimeout: 10 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/token" {
			body, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
			if err != nil {
				http.Error(w, err.Error(), http.StatusBadRequest)
				return
			}
			r.Body = io.NopCloser(bytes.NewReader(body))
			form, _ := url.ParseQuery(string(body)) // what it is, is the server's business
			switch form.Get("grant_type") {
			case "refresh_token":
				c.refreshes.Add(1)
			case "authorization_code":
				c.signIns.Add(1)
			}
		}
		forward.ServeHTTP(w, r)
	})}
	go func() { _ = c.server.Serve(l) }() // ends with close
	return c, nil
}

func (c *counter) close() { _ = c.server.Close() }

// world is what the processes share.
type world struct {
	server string
	state  string
	count  *counter
	out    io.Writer
	later  int // minutes that the processes' clock is ahead
}

// options are those of a process.
func options(server, state, proxy string) (oauthclient.Options, error) {
	store, err := credstore.Open(credstore.Options{Dir: state, Mode: credstore.ModeFile})
	if err != nil {
		return oauthclient.Options{}, err
	}
	through, err := url.Parse(proxy)
	if err != nil {
		return oauthclient.Options{}, err
	}
	record := store.Record(credstore.Key{Server: server})
	return oauthclient.Options{
		ServerURL: server, Store: record, Pending: record.Pending(),
		Transport: &http.Transport{Proxy: http.ProxyURL(through)},
	}, nil
}

// signIn signs a person in, once for all processes.
func (w *world) signIn(ctx context.Context) error {
	o, err := options(w.server, w.state, w.count.url)
	if err != nil {
		return err
	}
	walked := make(chan error, 1)
	o.OpenURL = func(target string) error {
		walked <- devclerk.NewPerson("member@example.com", func(string) {}).Walk(ctx, target)
		return nil
	}
	c, err := oauthclient.New(o)
	if err != nil {
		return err
	}
	if err := c.SignIn(ctx); err != nil {
		return errors.Join(err, c.Close())
	}
	return errors.Join(<-walked, c.Close())
}

// storm lets all processes refresh at once, in every round.
func (w *world) storm(ctx context.Context, processes, rounds int) (err error) {
	var all []*process
	defer func() {
		for _, p := range all {
			err = errors.Join(err, p.end())
		}
	}()
	for range processes {
		p, err := w.start(ctx, "")
		if err != nil {
			return err
		}
		all = append(all, p)
		if _, err := p.ask("hold 0"); err != nil {
			return err
		}
	}
	began := time.Now()
	for round := 1; round <= rounds; round++ {
		before := w.count.refreshes.Load()
		// In turns: expired for all of them, and refused by the server.
		order, minutes := "expired", 61
		if round%2 == 0 {
			order, minutes = "refused", 30
		}
		w.later += minutes
		answers := make([]string, len(all))
		errs := make([]error, len(all))
		var wg sync.WaitGroup
		for i, p := range all {
			wg.Go(func() { answers[i], errs[i] = p.ask(fmt.Sprintf("%s %d", order, w.later)) })
		}
		wg.Wait()
		if err := errors.Join(errs...); err != nil {
			return fmt.Errorf("round %d (%s): %w", round, order, err)
		}
		for _, a := range answers {
			if a != answers[0] {
				return fmt.Errorf("round %d (%s): two processes hold two tokens", round, order)
			}
		}
		if n := w.count.refreshes.Load() - before; n != 1 {
			return fmt.Errorf("round %d (%s): %d refreshes, want 1", round, order, n)
		}
	}
	if n := w.count.refused.Load(); n != 0 {
		return fmt.Errorf("%d token requests were refused", n)
	}
	if n := w.count.signIns.Load(); n != 1 {
		return fmt.Errorf("%d sign-ins, want the first", n)
	}
	fmt.Fprintf(w.out, "ok   %d processes, %d rounds, %d refreshes, nobody asked (%.0f s)\n", processes, rounds, w.count.refreshes.Load(), time.Since(began).Seconds())
	return nil
}

// kills ends a process at each point in the middle of a refresh.
func (w *world) kills(ctx context.Context) error {
	for _, point := range points {
		for range 3 {
			victim, err := w.start(ctx, point)
			if err != nil {
				return err
			}
			w.later += 61
			order := fmt.Sprintf("expired %d", w.later)
			if answer, err := victim.ask(order); err == nil {
				return errors.Join(fmt.Errorf("%s: nobody died, but answered %q: is this built with -tags failpoints?", point, answer), victim.end())
			}
			if err := victim.end(); err == nil {
				return fmt.Errorf("%s: the process ended well", point)
			}
			next, err := w.start(ctx, "")
			if err != nil {
				return err
			}
			_, err = next.ask(fmt.Sprintf("hold %d", w.later))
			if err = errors.Join(err, next.end()); err != nil {
				return fmt.Errorf("after a death %s: %w", point, err)
			}
		}
		fmt.Fprintf(w.out, "ok   killed %s: the next process goes on\n", point)
	}
	if n := w.count.signIns.Load(); n != 1 {
		return fmt.Errorf("%d sign-ins, want the first", n)
	}
	return nil
}

// verify asks the server whether it takes the last token.
func (w *world) verify(ctx context.Context) error {
	o, err := options(w.server, w.state, w.count.url)
	if err != nil {
		return err
	}
	c, err := oauthclient.New(o)
	if err != nil {
		return err
	}
	before := w.count.refreshes.Load()
	valid, err := c.Verify(ctx)
	if err = errors.Join(err, c.Close()); err != nil {
		return fmt.Errorf("use the last token: %w", err)
	}
	if !valid || w.count.refreshes.Load() != before {
		return errors.New("the server does not take the last token")
	}
	fmt.Fprintln(w.out, "ok   the server takes the last token")
	return nil
}

// process is one that refreshes.
type process struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

func (w *world) start(ctx context.Context, point string) (*process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this program: %w", err)
	}
	p := &process{cmd: exec.CommandContext(ctx, self)} //nolint:gosec // this very program
	p.cmd.Env = append(os.Environ(), roleEnv+"="+w.server, stateEnv+"="+w.state, proxyEnv+"="+w.count.url, failpointEnv+"="+point)
	p.cmd.Stderr = os.Stderr
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		return nil, fmt.Errorf("start a process: %w", err)
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("start a process: %w", err)
	}
	p.out = bufio.NewReader(out)
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start a process: %w", err)
	}
	// It has the token of the round before in its memory, as those have that
	// began with it.
	if point == "" {
		return p, nil
	}
	if _, err := p.ask(fmt.Sprintf("hold %d", w.later)); err != nil {
		return nil, errors.Join(err, p.end())
	}
	return p, nil
}

// ask gives an order and returns what was answered after "ok".
func (p *process) ask(order string) (string, error) {
	if _, err := io.WriteString(p.in, order+"\n"); err != nil {
		return "", fmt.Errorf("process %d: %w", p.cmd.Process.Pid, err)
	}
	line, err := p.out.ReadString('\n')
	if err != nil {
		return "", fmt.Errorf("process %d: %w", p.cmd.Process.Pid, err)
	}
	answer, ok := strings.CutPrefix(strings.TrimSpace(line), "ok ")
	if !ok {
		return "", fmt.Errorf("process %d: %s", p.cmd.Process.Pid, strings.TrimSpace(line))
	}
	return answer, nil
}

func (p *process) end() error {
	_ = p.in.Close() // which ends it
	return p.cmd.Wait()
}

// refresher is a process that refreshes when it is told to, and says which token
// it then holds, by its hash.
func refresher(ctx context.Context, in io.Reader, out io.Writer) error {
	server := os.Getenv(roleEnv)
	o, err := options(server, os.Getenv(stateEnv), os.Getenv(proxyEnv))
	if err != nil {
		return err
	}
	var later atomic.Int64
	o.Now = func() time.Time { return time.Now().Add(time.Duration(later.Load()) * time.Minute) }
	asked := errors.New("somebody was asked to sign in")
	o.OpenURL = func(string) error { return asked }
	c, err := oauthclient.New(o)
	if err != nil {
		return err
	}
	held := ""
	lines := bufio.NewScanner(in)
	for lines.Scan() {
		var order string
		var minutes int64
		if _, err := fmt.Sscan(lines.Text(), &order, &minutes); err != nil {
			return fmt.Errorf("an order that makes no sense: %w", err)
		}
		later.Store(minutes)
		token, err := obey(ctx, c, order, held)
		held = token
		sum := sha256.Sum256([]byte(token))
		hash := hex.EncodeToString(sum[:8])
		if err != nil {
			_, err = fmt.Fprintln(out, "error", err)
		} else {
			_, err = fmt.Fprintln(out, "ok", hash)
		}
		if err != nil {
			return err
		}
	}
	return errors.Join(lines.Err(), c.Close())
}

// obey returns the token that it then holds, which is another one than before
// unless the order is to hold one.
func obey(ctx context.Context, c *oauthclient.Client, order, before string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if order == "refused" {
		if err := c.Authorize(ctx, before, http.StatusUnauthorized, http.Header{}); err != nil {
			return "", err
		}
	}
	token, err := c.Token(ctx)
	if err != nil {
		return "", err
	}
	if token == "" || token == before {
		return "", errors.New("no new token")
	}
	return token, nil
}
