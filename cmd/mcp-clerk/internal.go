package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/mcp-clerk/mcp-clerk/internal/credstore"
	"github.com/mcp-clerk/mcp-clerk/internal/secret"
	"github.com/mcp-clerk/mcp-clerk/internal/store"
	"github.com/mcp-clerk/mcp-clerk/server"
)

const (
	// internalGrace is how long a backup or profile may go on after the public
	// listener has ended.
	internalGrace = 5 * time.Second
	// internalPatience bounds each wait for an internal listener, but for a
	// compaction.
	internalPatience = time.Minute
)

// internalListener is the listener for the operator: server.InternalHandler on
// loopback. Where it is, and the key to it, lie in a file beside the embedded
// store: who can read that one could read the store. A second one among the
// user's own state lets the commands find the server by its address, or as the
// only one.
type internalListener struct {
	url   string
	notes []string // those files; none where the store is another one
	hs    *http.Server
	log   *slog.Logger
	done  chan error // Serve's outcome
}

// internalNote is the content of such a file. Key is not a secret.String, which
// would not let itself be written.
type internalNote struct {
	URL   string `json:"url"`
	Key   string `json:"key"`
	Store string `json:"store"` // the path of its file
}

func notePath(storePath string) string { return storePath + ".internal" }

// userNotes is where this user's servers write down their listeners, each under
// its port.
func userNotes() (dir string, err error) {
	base, err := credstore.DefaultDir()
	return filepath.Join(base, "internal"), err
}

// checkInternalAddr refuses what is no address on loopback; "" means no
// internal listener.
func checkInternalAddr(addr string) error {
	if addr == "" {
		return nil
	}
	if _, _, err := net.SplitHostPort(addr); err != nil {
		return usagef("--internal-addr %q is not HOST:PORT", addr)
	}
	if !isLoopbackAddr(addr) {
		return withHint(usagef("--internal-addr %q is not a loopback address: what it serves is for this machine alone", addr), "use one such as 127.0.0.1:8789")
	}
	return nil
}

// startInternal serves srv's internal handler on addr until stop is called, and
// writes down where. Without an addr it does nothing and returns nil.
func startInternal(ctx context.Context, addr string, srv *server.Server, storeURL secret.String, logger *slog.Logger) (*internalListener, error) {
	if addr == "" {
		return nil, nil
	}
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err // checkInternalAddr was not asked
	}
	if strings.EqualFold(host, "localhost") {
		host = "127.0.0.1" // one address is enough
	}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", net.JoinHostPort(host, port))
	if err != nil {
		return nil, withHint(fmt.Errorf("internal listener: %w", err), "another server may be running there; name another address with --internal-addr")
	}
	key := secret.String(rand.Text())
	i := &internalListener{
		url: "http://" + l.Addr().String(),
		hs: &http.Server{
			Handler:           srv.InternalHandler(key),
			ReadHeaderTimeout: 10 * time.Second,
			IdleTimeout:       time.Minute,
			MaxHeaderBytes:    16 << 10,
			ErrorLog:          slog.NewLogLogger(logger.Handler(), slog.LevelDebug),
		},
		log:  logger,
		done: make(chan error, 1),
	}
	if path, ok := store.BoltPath(storeURL.Reveal()); ok {
		if path, err = filepath.Abs(path); err == nil {
			err = i.writeNotes(internalNote{i.url, key.Reveal(), path})
		}
		if err != nil {
			_ = l.Close()
			return nil, err
		}
	}
	go func() { i.done <- i.hs.Serve(l) }()
	return i, nil
}

// stop ends the listener, which may be nil. The store is still open.
func (i *internalListener) stop() {
	if i == nil {
		return
	}
	for _, note := range i.notes {
		_ = os.Remove(note)
	}
	ctx, cancel := context.WithTimeout(context.Background(), internalGrace)
	defer cancel()
	if i.hs.Shutdown(ctx) != nil {
		_ = i.hs.Close()
	}
	if err := <-i.done; !errors.Is(err, http.ErrServerClosed) {
		i.log.Warn("the internal listener failed", "error", err)
	}
}

// writeNotes writes down where the listener is. Only the note beside the store
// has to be: a service may have no place for state of its user.
func (i *internalListener) writeNotes(note internalNote) error {
	if err := writeNote(notePath(note.Store), note); err != nil {
		return err
	}
	i.notes = append(i.notes, notePath(note.Store))
	dir, err := userNotes()
	if err == nil {
		err = os.MkdirAll(dir, 0o700)
	}
	if err == nil {
		own := filepath.Join(dir, portOf(i.url)+".json")
		if err = writeNote(own, note); err == nil {
			i.notes = append(i.notes, own)
		}
	}
	if err != nil {
		i.log.Debug("the internal listener can be found by its store only", "error", err)
	}
	return nil
}

// portOf is the port of an address, or of a URL that has one.
func portOf(addr string) string {
	_, port, _ := net.SplitHostPort(strings.TrimPrefix(addr, "http://"))
	return port
}

// writeNote replaces the file as a whole, readable by its owner alone.
func writeNote(path string, note internalNote) error {
	data, err := json.Marshal(note)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".new-*") // mode 0600
	if err != nil {
		return fmt.Errorf("write down the internal listener: %w", err)
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name())
		return fmt.Errorf("write down the internal listener: %w", err)
	}
	return nil
}

// ownServer says which server a command is for: the one at an internal address,
// the one that holds a store, or this user's only one. The flags are serve's.
type ownServer struct {
	Addr    string
	Store   string
	DataDir string
}

func (o *ownServer) bind(f *pflag.FlagSet) {
	f.StringVar(&o.Addr, "internal-addr", "", "the server's internal listener, as its --internal-addr (default: found by the store)")
	f.StringVar(&o.Store, "store", "", "the server's store, as its --store (default from MCP_CLERK_STORE, or bolt in --data-dir)")
	f.StringVar(&o.DataDir, "data-dir", "", "the server's directory for state, as its --data-dir")
}

// find returns the client of the server's internal listener. A server with
// another store than the embedded one is an error that says, for the command's
// purpose, what to do instead.
func (o *ownServer) find(env *environment, instead map[string]string) (*internalClient, error) {
	if err := checkInternalAddr(o.Addr); err != nil {
		return nil, err
	}
	path, named, err := o.path(env, instead)
	if err != nil {
		return nil, err
	}
	note, err := readNote(notePath(path))
	if err == nil && (o.Addr == "" || portOf(o.Addr) == portOf(note.URL)) {
		return note.client(), nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	missing := fmt.Errorf("no server with an internal listener has the store %q open", path)
	if o.Addr != "" {
		missing = fmt.Errorf("no server of this user has its internal listener at %q", o.Addr)
	}
	missing = withHint(missing, "start the server with --internal-addr 127.0.0.1:0; if its state lies elsewhere, name the place with --data-dir or --store")
	if named && o.Addr == "" {
		return nil, missing
	}
	dir, err := userNotes()
	if err != nil {
		return nil, missing
	}
	pattern := "*"
	if o.Addr != "" {
		pattern = portOf(o.Addr)
	}
	found, err := filepath.Glob(filepath.Join(dir, pattern+".json"))
	if err != nil || len(found) == 0 {
		return nil, missing
	}
	if len(found) > 1 {
		return nil, withHint(fmt.Errorf("this user has %d servers with an internal listener, or had when they were killed", len(found)),
			"name the one that is meant with --internal-addr, --data-dir or --store")
	}
	if note, err = readNote(found[0]); err != nil {
		return nil, err
	}
	return note.client(), nil
}

// path is the file of the embedded store, and whether a flag or the environment
// named it.
func (o *ownServer) path(env *environment, instead map[string]string) (path string, named bool, err error) {
	storeURL, err := storeURL(o.Store, env)
	if err != nil {
		return "", false, err
	}
	named = storeURL != "" || o.DataDir != ""
	if storeURL == "" {
		dir, err := dataDirPath(o.DataDir, serverDir)
		if err != nil {
			return "", false, err
		}
		storeURL = secret.String(boltURL(dir))
	}
	if path, ok := store.BoltPath(storeURL.Reveal()); ok {
		return path, named, nil
	}
	scheme, _, _ := strings.Cut(storeURL.Reveal(), ":") // the rest may hold a password
	for prefix, hint := range instead {
		if strings.HasPrefix(scheme, prefix) {
			return "", named, withHint(fmt.Errorf("%q is not the embedded store", scheme+":"), "%s", hint)
		}
	}
	return "", named, usagef("the store is none that is known here: name it as in --store bolt:PATH")
}

// readNote reads what writeNote wrote.
func readNote(path string) (note internalNote, err error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return note, withHint(fmt.Errorf("find the server: %w", err), "run the command as the user that the server runs as")
	}
	if err := json.Unmarshal(data, &note); err != nil || !isLoopbackURL(note.URL) {
		return note, withHint(fmt.Errorf("the file %q does not say where the server listens", path), "start the server again")
	}
	return note, nil
}

// internalClient asks the internal listener of a server.
type internalClient struct {
	url   string
	key   secret.String
	store string // the path of its file
	http  *http.Client
}

func (n internalNote) client() *internalClient {
	return &internalClient{
		url:   n.URL,
		key:   secret.String(n.Key),
		store: n.Store,
		http: &http.Client{
			Transport: &http.Transport{ // no proxy: this machine is meant
				DialContext:       (&net.Dialer{Timeout: internalPatience}).DialContext,
				DisableKeepAlives: true,
			},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}
}

// post asks for path, whose answer must be 200. The caller closes its body.
func (c *internalClient) post(ctx context.Context, path string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.url+path, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+c.key.Reveal())
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, withHint(fmt.Errorf("ask the server: %w", err), "check that the server runs, with --internal-addr")
	}
	if resp.StatusCode == http.StatusOK {
		return resp, nil
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 4<<10))
	if err != nil {
		return nil, fmt.Errorf("ask the server: %w", err)
	}
	err = fmt.Errorf("the server refuses: %s", harmless(strings.TrimSpace(string(text))))
	switch resp.StatusCode {
	case http.StatusConflict:
		err = withHint(err, "wait until that has ended")
	case http.StatusUnauthorized:
		err = withHint(err, "another server listens at %s now: start yours again", c.url)
	}
	return nil, err
}
