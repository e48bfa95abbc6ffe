//go:build unix

package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// signalStore signals every process of the database: to stop the first of
// PostgreSQL's would leave the others at work.
func (w *world) signalStore(sig syscall.Signal) error {
	pid := w.db.PID()
	pids := append([]int{pid}, children(pid)...)
	for _, pid := range pids {
		if err := syscall.Kill(pid, sig); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("signal process %d: %w", pid, err)
		}
	}
	return nil
}

// children are the processes that pid has started.
func children(pid int) []int {
	out, err := exec.Command("ps", "-o", "pid=", "--ppid", strconv.Itoa(pid)).Output() //nolint:noctx,gosec // ends at once
	if err != nil {
		return nil // it has none
	}
	var pids []int
	for field := range strings.FieldsSeq(string(out)) {
		if n, err := strconv.Atoi(field); err == nil {
			pids = append(pids, n)
		}
	}
	return pids
}

// runDisk keeps the store on a small disk that gets full, and later on one that
// is read-only. It needs the right to mount.
func runDisk(w *world) error {
	dir := filepath.Join(w.dir, "small")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if err := mount("-t", "tmpfs", "-o", "size=8m,mode=700", "tmpfs", dir); err != nil {
		if os.Getenv("CI") == "true" {
			return err
		}
		w.oracle.count("left out: needs the right to mount")
		return nil
	}
	w.t.Cleanup(func() { _ = exec.Command("umount", dir).Run() }) //nolint:noctx,gosec // ends at once
	in := w.instances[0]
	w.t.Cleanup(in.kill)
	w.store = "bolt:" + filepath.Join(dir, "state.db")
	if err := in.start(); err != nil {
		return err
	}
	l := w.newLoad()
	l.start()
	time.Sleep(2 * time.Second) // of ordinary life

	// Full: what cannot be kept is not promised, and 503 is the worst answer.
	ballast := filepath.Join(dir, "ballast")
	if err := fill(ballast); err != nil {
		return err
	}
	time.Sleep(4 * time.Second) // of life on a full disk
	if err := os.Remove(ballast); err != nil {
		return err
	}
	time.Sleep(2 * time.Second) // of ordinary life, without a restart
	l.stop()
	l.verify()

	// Read-only: it refuses to start, and says of which file.
	in.kill()
	if err := mount("-o", "remount,ro", dir); err != nil {
		return err
	}
	if err := in.launch(); err != nil {
		return err
	}
	if in.refusesOrServes(w) {
		w.oracle.violation("the server serves from a read-only disk")
		in.kill()
	} else if !strings.Contains(in.tail(), "state.db") {
		w.oracle.violation("a refusal to start does not name the file", "log", in.tail())
	} else {
		w.oracle.count("read-only, and refused")
	}
	if err := mount("-o", "remount,rw", dir); err != nil {
		return err
	}
	if err := in.start(); err != nil {
		return err
	}
	l.verify()
	return nil
}

func mount(args ...string) error {
	if out, err := exec.Command("mount", args...).CombinedOutput(); err != nil { //nolint:noctx,gosec // ends at once
		return fmt.Errorf("mount %q: %w: %s", args, err, out)
	}
	return nil
}

// fill writes until the disk is full.
func fill(path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	for _, size := range []int{64 << 10, 4 << 10, 1} {
		for err == nil {
			_, err = f.Write(make([]byte, size))
		}
		if !errors.Is(err, syscall.ENOSPC) {
			return err
		}
		err = nil
	}
	return nil
}
