package main

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/mcp-clerk/mcp-clerk/internal/store"
)

type backupOptions struct {
	ownServer
	File  string
	Force bool
	term  terminal
}

func newBackupCmd(term terminal) *cobra.Command {
	opts := backupOptions{term: term}
	cmd := &cobra.Command{
		Use:   "backup FILE",
		Short: "Copy the embedded store of a running server to a file",
		Long: `Writes a copy of the embedded store as it is at one moment, while the server goes on.
The copy is checked, record by record, before it gets its name: FILE is a whole
backup or is not there. It holds no token that could be used, but it does say who
uses the server: keep it as you keep the store.

The server must run with --internal-addr. To restore, stop the server, move the
store's files away and put the copy in their place; see docs/operations.md.`,
		Example: "  mcp-clerk backup clerk-$(date +%F).db\n  mcp-clerk backup --data-dir /var/lib/mcp-clerk /backup/clerk.db --force",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usagef("backup takes one FILE, not %d arguments", len(args))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			opts.File = args[0]
			return runBackup(cmd.Context(), opts)
		},
	}
	opts.bind(cmd.Flags())
	cmd.Flags().BoolVar(&opts.Force, "force", false, "overwrite FILE if it exists")
	return cmd
}

func runBackup(ctx context.Context, opts backupOptions) (err error) {
	client, err := opts.find(newEnvironment(), map[string]string{
		"redis":    "back up Redis itself, by BGSAVE or its append-only file",
		"valkey":   "back up Valkey itself, by BGSAVE or its append-only file",
		"postgres": "back up PostgreSQL itself, by pg_dump or its write-ahead log",
		"memory":   "nothing of it outlives the server",
	})
	if err != nil {
		return err
	}
	if err := checkBackupTarget(client.store, opts); err != nil {
		return err
	}
	// Everything that belongs to an unfinished copy is in a directory, which
	// goes in any case.
	dir, err := os.MkdirTemp(filepath.Dir(opts.File), "."+filepath.Base(opts.File)+".part-*") // mode 0700
	if err != nil {
		return diskError(err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	temp := filepath.Join(dir, "state.db")
	size, err := client.backup(ctx, temp)
	if err != nil {
		return err
	}
	records, err := store.CheckBackup(temp)
	if err != nil {
		return withHint(fmt.Errorf("the copy is no whole store: %w", err), "the server's store may be damaged: keep older backups and look at its log")
	}
	if err := placeBackup(temp, opts.File, opts.Force); err != nil {
		return err
	}
	_, err = fmt.Fprintf(opts.term.out, "backed up %d records (%s) to %q\n", records, byteSize(size), opts.File)
	return err
}

// checkBackupTarget refuses to write over a file that was not meant, and over
// the store itself in any case.
func checkBackupTarget(storePath string, opts backupOptions) error {
	target, err := os.Lstat(opts.File)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return diskError(err)
	}
	if own, err := os.Stat(storePath); err == nil && os.SameFile(own, target) {
		return usagef("%q is the server's store itself", opts.File)
	}
	if !target.Mode().IsRegular() {
		return usagef("%q exists and is not a regular file", opts.File)
	}
	if !opts.Force {
		return existsError(opts.File)
	}
	return nil
}

func existsError(file string) error {
	return withHint(fmt.Errorf("%q exists", file), "name another file, or overwrite it with --force")
}

func diskError(err error) error {
	hint := "check the file's name and directory"
	if errors.Is(err, syscall.ENOSPC) {
		hint = "make room, or name a file on another disk"
	}
	return withHint(fmt.Errorf("write the backup: %w", err), "%s", hint)
}

// backup writes the store of the server to the new file path, and returns its
// size. What did not come as a whole is an error.
func (c *internalClient) backup(ctx context.Context, path string) (int64, error) {
	// Each wait is bounded, the whole is not: a large store takes its time.
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stalled := time.AfterFunc(internalPatience, func() {
		cancel(fmt.Errorf("the server sent nothing for %v", internalPatience))
	})
	defer stalled.Stop()
	resp, err := c.post(ctx, "/backup")
	if err != nil {
		return 0, stallOr(ctx, err)
	}
	defer resp.Body.Close()
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return 0, diskError(err)
	}
	sum, size := sha256.New(), int64(0)
	buf := make([]byte, 1<<20)
	for {
		n, readErr := resp.Body.Read(buf)
		stalled.Reset(internalPatience)
		_, _ = sum.Write(buf[:n]) // never fails
		if _, err := f.Write(buf[:n]); err != nil {
			_ = f.Close()
			return 0, diskError(err)
		}
		size += int64(n)
		if errors.Is(readErr, io.EOF) {
			break
		}
		if readErr != nil {
			_ = f.Close()
			return 0, brokenOff(stallOr(ctx, readErr))
		}
	}
	if err := f.Close(); err != nil {
		return 0, diskError(err)
	}
	// The trailer comes behind a whole copy only.
	if got := resp.Trailer.Get("Content-Digest"); got != "sha-256=:"+base64.StdEncoding.EncodeToString(sum.Sum(nil))+":" {
		return 0, brokenOff(errors.New("what came is not what was sent"))
	}
	return size, nil
}

// stallOr is what ended ctx from within, or err.
func stallOr(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.Canceled) {
		return cause
	}
	return err
}

func brokenOff(err error) error {
	return withHint(fmt.Errorf("the copy broke off: %w", err), "nothing was kept; check that the server runs, and try again")
}

// placeBackup makes temp durable and gives it its name.
func placeBackup(temp, file string, force bool) error {
	if err := syncFile(temp); err != nil {
		return diskError(err)
	}
	if !force {
		// Unlike a rename, a link never replaces what has come in between.
		switch err := os.Link(temp, file); {
		case errors.Is(err, fs.ErrExist):
			return existsError(file)
		case err == nil:
			return syncParent(file)
		}
		// A file system without hard links.
		if _, err := os.Lstat(file); !errors.Is(err, fs.ErrNotExist) {
			return existsError(file)
		}
	}
	if err := os.Rename(temp, file); err != nil {
		return diskError(err)
	}
	return syncParent(file)
}

func syncFile(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0) // Windows syncs no file that is open for reading
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// syncParent makes the name of file durable.
func syncParent(file string) error {
	if runtime.GOOS == "windows" {
		return nil // a directory can't be synced there
	}
	d, err := os.Open(filepath.Dir(file))
	if err != nil {
		return diskError(err)
	}
	err = d.Sync()
	if errors.Is(err, syscall.EINVAL) || errors.Is(err, errors.ErrUnsupported) {
		err = nil // a file system that can't
	}
	if err = errors.Join(err, d.Close()); err != nil {
		return diskError(err)
	}
	return nil
}
