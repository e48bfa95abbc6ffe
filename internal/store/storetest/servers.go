package storetest

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Server is a database server that a test started on a free port of the
// loopback, with its data in a directory of its own. It ends with the test.
type Server struct {
	Addr string // host:port
	Dir  string

	t       testing.TB
	command func() *exec.Cmd
	ready   func() error
	crash   os.Signal // ends it at once, with its children

	mu     sync.Mutex
	cmd    *exec.Cmd
	ended  chan struct{}
	output *bytes.Buffer
}

// need returns the path of a program, looked for in the PATH and in dirs. Where
// there is none the test is skipped, but in CI it fails.
func need(t testing.TB, program, debianPackage string, dirs ...string) string {
	t.Helper()
	if path, err := exec.LookPath(program); err == nil {
		return path
	}
	for _, dir := range dirs {
		found, err := filepath.Glob(filepath.Join(dir, program))
		if err == nil && len(found) > 0 {
			slices.Sort(found)
			return found[len(found)-1]
		}
	}
	message := fmt.Sprintf("%s is not installed (Debian package %s)", program, debianPackage)
	if os.Getenv("CI") == "true" {
		t.Fatal(message)
	}
	t.Skip(message)
	return ""
}

func freePort(t testing.TB) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// StartRedis starts a Redis server, without a copy on disk unless the settings,
// such as "--appendonly", "yes", say so.
func StartRedis(t testing.TB, settings ...string) *Server {
	t.Helper()
	return startRedis(t, nil, nil, settings...)
}

// StartRedisTLS starts a Redis server that speaks TLS only.
func StartRedisTLS(t testing.TB, certFile, keyFile string, settings ...string) *Server {
	t.Helper()
	pem, err := os.ReadFile(certFile)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	return startRedis(t, nil, &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}, append([]string{
		"--tls-cert-file", certFile, "--tls-key-file", keyFile, "--tls-ca-cert-file", certFile, "--tls-auth-clients", "no",
	}, settings...)...)
}

// StartSentinel starts a Sentinel with the configuration in file, which it
// rewrites.
func StartSentinel(t testing.TB, file string) *Server {
	t.Helper()
	return startRedis(t, []string{file, "--sentinel"}, nil)
}

func startRedis(t testing.TB, first []string, secure *tls.Config, settings ...string) *Server {
	t.Helper()
	program := need(t, "redis-server", "redis-server")
	port := strconv.Itoa(freePort(t))
	s := &Server{Addr: "127.0.0.1:" + port, Dir: t.TempDir(), t: t, crash: os.Kill}
	args := append(slices.Clone(first), "--bind", "127.0.0.1", "--dir", s.Dir, "--daemonize", "no")
	if first == nil {
		args = append(args, "--save", "")
	}
	if secure != nil {
		args = append(args, "--port", "0", "--tls-port", port)
	} else {
		args = append(args, "--port", port)
	}
	args = append(args, settings...)
	s.command = func() *exec.Cmd {
		return exec.Command(program, args...) //nolint:gosec // the program is the system's, the settings the test's
	}
	dialer := &net.Dialer{Timeout: time.Second}
	s.ready = func() error {
		var conn net.Conn
		var err error
		if secure != nil {
			conn, err = tls.DialWithDialer(dialer, "tcp", s.Addr, secure)
		} else {
			conn, err = dialer.Dial("tcp", s.Addr)
		}
		if err != nil {
			return err
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(time.Second))
		if _, err := fmt.Fprint(conn, "PING\r\n"); err != nil {
			return err
		}
		answer, err := bufio.NewReader(conn).ReadString('\n')
		if err != nil {
			return err
		}
		if !strings.HasPrefix(answer, "+PONG") && !strings.HasPrefix(answer, "-NOAUTH") {
			return errors.New(strings.TrimSpace(answer))
		}
		return nil
	}
	s.start()
	return s
}

// RedisCLI runs redis-cli with the arguments against the server.
func (s *Server) RedisCLI(args ...string) string {
	s.t.Helper()
	return RedisCLI(s.t, s.Addr, args...)
}

// RedisCLI runs redis-cli with the arguments against the server at addr.
func RedisCLI(t testing.TB, addr string, args ...string) string {
	t.Helper()
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	//nolint:gosec // the arguments are the test's
	out, err := exec.Command(need(t, "redis-cli", "redis-tools"), append([]string{"-h", host, "-p", port}, args...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("redis-cli %q: %v\n%s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// StartPostgres starts a PostgreSQL server with the user and database
// "postgres", without a password. Settings are as "fsync=off".
func StartPostgres(t testing.TB, settings ...string) *Server {
	t.Helper()
	dirs := []string{"/usr/lib/postgresql/*/bin", "/usr/local/pgsql/bin", "/opt/homebrew/opt/postgresql*/bin"}
	initdb := need(t, "initdb", "postgresql", dirs...)
	program := need(t, "postgres", "postgresql", dirs...)
	// Not t.TempDir, which is closed to the user that the server runs as.
	dir, err := os.MkdirTemp("", "store-postgres-*")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	asUser, err := unprivileged(dir)
	if err != nil {
		t.Fatal(err)
	}
	port := strconv.Itoa(freePort(t))
	data := filepath.Join(dir, "data")
	s := &Server{Addr: "127.0.0.1:" + port, Dir: data, t: t, crash: syscall.SIGQUIT}

	//nolint:gosec // the program is the system's
	initialise := exec.Command(initdb, "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync", "--no-instructions")
	initialise.Dir = dir
	asUser(initialise)
	if out, err := initialise.CombinedOutput(); err != nil {
		t.Fatalf("initdb: %v\n%s", err, out)
	}
	s.command = func() *exec.Cmd {
		args := []string{"-D", data, "-h", "127.0.0.1", "-p", port, "-k", ""}
		for _, setting := range settings {
			args = append(args, "-c", setting)
		}
		cmd := exec.Command(program, args...) //nolint:gosec // as above
		cmd.Dir = dir
		asUser(cmd)
		return cmd
	}
	s.ready = func() error {
		conn, err := net.DialTimeout("tcp", s.Addr, time.Second)
		if err != nil {
			return err
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(time.Second))
		// A start-up message, protocol 3.0; what it answers first tells.
		body := "\x00\x03\x00\x00user\x00postgres\x00database\x00postgres\x00\x00"
		if _, err := fmt.Fprintf(conn, "\x00\x00\x00%c%s", 4+len(body), body); err != nil {
			return err
		}
		var kind [1]byte
		if _, err := conn.Read(kind[:]); err != nil {
			return err
		}
		if kind[0] != 'R' {
			return errors.New("the database system is starting up")
		}
		return nil
	}
	s.start()
	return s
}

// start starts the server and waits until it answers.
func (s *Server) start() {
	s.t.Helper()
	s.Restart()
	s.t.Cleanup(s.Kill)
}

// Restart starts the server again after Kill or Stop, on the same port with the
// same data.
func (s *Server) Restart() {
	s.t.Helper()
	cmd := s.command()
	output := new(bytes.Buffer)
	cmd.Stdout, cmd.Stderr = output, output
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(ended)
	}()
	s.mu.Lock()
	s.cmd, s.ended, s.output = cmd, ended, output
	s.mu.Unlock()

	deadline := time.Now().Add(30 * time.Second)
	for {
		err := s.ready()
		if err == nil {
			return
		}
		select {
		case <-ended:
			s.t.Fatalf("%s ended:\n%s", filepath.Base(cmd.Path), output)
		case <-time.After(20 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("%s does not answer: %v", filepath.Base(cmd.Path), err)
		}
	}
}

// Signal sends a signal to the server's process alone.
func (s *Server) Signal(sig os.Signal) {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		s.t.Error(err)
	}
}

// PID is the number of the server's first process.
func (s *Server) PID() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cmd.Process.Pid
}

// Kill ends the server at once, as a crash would.
func (s *Server) Kill() {
	s.t.Helper()
	s.mu.Lock()
	cmd, ended := s.cmd, s.ended
	s.mu.Unlock()
	resume(cmd)
	if err := cmd.Process.Signal(s.crash); err != nil {
		_ = cmd.Process.Kill()
	}
	select {
	case <-ended:
	case <-time.After(10 * time.Second):
		_ = cmd.Process.Kill()
		<-ended
	}
}

// Output is what the server has said.
func (s *Server) Output() string {
	s.mu.Lock()
	ended, output := s.ended, s.output
	s.mu.Unlock()
	<-ended
	return output.String()
}
